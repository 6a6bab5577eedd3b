use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use config::report::Report;
use config::resource::decode;
use config::table::RouteTable;

use super::*;
use crate::ipam::VirtualAddress;
use crate::source::Batch;

const PATIENCE: Duration = Duration::from_secs(20);

/// A source that plays batches and then waits for ever.
struct Script {
    batches: VecDeque<Batch>,
    rereads: Arc<Mutex<usize>>,
}

impl Source for Script {
    async fn next(&mut self) -> Batch {
        match self.batches.pop_front() {
            Some(batch) => batch,
            None => std::future::pending().await,
        }
    }

    fn certainty(&self) -> Certainty {
        Certainty::Whole
    }

    fn knows_pools(&self) -> Knowledge {
        Knowledge::Whole
    }

    fn catch_up(&mut self) {}

    fn reread(&mut self) {
        *self.rereads.lock().unwrap() += 1;
    }
}

/// Passes on what is published.
struct Sink(mpsc::UnboundedSender<(Arc<RouteTable>, Arc<Report>)>);

impl Publish for Sink {
    fn publish(&mut self, table: &Arc<RouteTable>, report: &Arc<Report>) {
        let _ = self.0.send((Arc::clone(table), Arc::clone(report)));
    }
}

fn batch(text: &str) -> Batch {
    let decoded = decode(&"test.yaml".into(), text.as_bytes());
    assert!(decoded.problems.is_empty(), "{:?}", decoded.problems);
    Batch { events: decoded.objects.into_iter().map(Event::Apply).collect() }
}

fn ingress(name: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {{name: {name}, namespace: n}}
spec: {{rules: [{{host: {name}.example.com, http: {{paths: [
  {{path: /, pathType: Prefix, backend: {{service: {{name: missing, port: {{number: 80}}}}}}}}]}}}}]}}
"
    )
}

struct Bench {
    published: mpsc::UnboundedReceiver<(Arc<RouteTable>, Arc<Report>)>,
    commands: mpsc::UnboundedSender<Command>,
    rereads: Arc<Mutex<usize>>,
    metrics: Arc<ControlMetrics>,
    running: tokio::task::JoinHandle<()>,
}

impl Bench {
    fn start(batches: Vec<Batch>) -> Self {
        let rereads = Arc::<Mutex<usize>>::default();
        let script = Script { batches: batches.into(), rereads: Arc::clone(&rereads) };
        let (sender, published) = mpsc::unbounded_channel();
        let (commands, receiver) = mpsc::unbounded_channel();
        let metrics = Arc::<ControlMetrics>::default();
        let driver =
            Driver::new(script, Sink(sender), Settings::default(), Arc::clone(&metrics), Notes::to_nobody());
        let running = tokio::spawn(async move {
            driver.run(receiver).await;
        });
        Self { published, commands, rereads, metrics, running }
    }

    async fn next(&mut self) -> (Arc<RouteTable>, Arc<Report>) {
        tokio::time::timeout(PATIENCE, self.published.recv()).await.expect("a table is published").unwrap()
    }
}

fn routes(table: &RouteTable) -> usize {
    table.routes.iter().count()
}

#[tokio::test]
async fn empty_configuration_is_published_too() {
    let mut bench = Bench::start(vec![Batch::default()]);
    let (table, report) = bench.next().await;
    assert_eq!(routes(&table), 0);
    assert!(!report.has_errors());
}

#[tokio::test]
async fn first_table_holds_the_whole_first_batch() {
    let mut bench = Bench::start(vec![batch(&format!("{}---\n{}", ingress("a"), ingress("b")))]);
    assert_eq!(routes(&bench.next().await.0), 2);
}

#[tokio::test]
async fn burst_is_published_in_few_tables() {
    let mut batches = vec![Batch::default()];
    batches.extend((0..100).map(|number| batch(&ingress(&format!("i{number}")))));
    let mut bench = Bench::start(batches);
    let mut tables = 0;
    while routes(&bench.next().await.0) < 100 {
        tables += 1;
    }
    assert!(tables < 30, "{tables} tables for a burst");
}

#[tokio::test]
async fn reread_reaches_the_source() {
    let mut bench = Bench::start(vec![Batch::default()]);
    bench.next().await;
    bench.commands.send(Command::Reread).unwrap();
    bench.commands.send(Command::Stop).unwrap();
    tokio::time::timeout(PATIENCE, bench.running).await.expect("it stops").unwrap();
    assert_eq!(*bench.rereads.lock().unwrap(), 1);
}

#[tokio::test]
async fn problems_are_counted() {
    let mut bench = Bench::start(vec![batch(&ingress("a"))]);
    let (_, report) = bench.next().await;
    assert!(!report.problems.is_empty());
    bench.commands.send(Command::Stop).unwrap();
    bench.running.await.unwrap();
    let mut text = String::new();
    bench.metrics.render_metrics(&mut text);
    assert!(text.contains("sluicegate_config_problems{severity="), "{text}");
    assert!(text.contains("sluicegate_config_compiles_total 1\n"), "{text}");
}

#[tokio::test]
async fn certificate_that_becomes_valid_is_taken_into_use_although_nothing_changes() {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["a.example.com".to_owned()]).unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    params.not_before = rcgen::date_time_ymd(1970, 1, 1) + now + Duration::from_secs(2);
    let lines = |pem: String| pem.lines().fold(String::new(), |text, line| text + "    " + line + "\n");
    let (chain, key) = (lines(params.self_signed(&key).unwrap().pem()), lines(key.serialize_pem()));
    let secret = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: cert, namespace: n}}\nstringData:\n  tls.crt: |\n{chain}  tls.key: |\n{key}"
    );
    let ingress =
        ingress("a").replace("spec: {", "spec: {tls: [{hosts: [a.example.com], secretName: cert}], ");
    let mut bench = Bench::start(vec![batch(&format!("{secret}---\n{ingress}"))]);
    let waits = |report: &Report| report.problems.iter().any(|one| one.reason == "CertificateNotYetValid");
    assert!(waits(&bench.next().await.1));
    while waits(&bench.next().await.1) {}
}

#[tokio::test]
async fn addresses_that_could_not_be_kept_are_kept_as_soon_as_they_can_be() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let memory = Memory::open(&state).unwrap();
    std::fs::remove_dir(&state).unwrap();
    let text = "apiVersion: sluicegate.dev/v1alpha1\nkind: AddressPool\nmetadata: {name: a}\n\
                spec: {addresses: [192.0.2.1]}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: web}\n\
                spec: {type: LoadBalancer, ports: [{port: 80}]}\n";
    let script = Script { batches: [batch(text)].into(), rereads: Arc::default() };
    let (sender, mut published) = mpsc::unbounded_channel();
    let (_commands, receiver) = mpsc::unbounded_channel();
    let mut settings = Settings::default();
    (settings.services.load_balancer, settings.services.classless) = (true, true);
    let driver = Driver::new(script, Sink(sender), settings, Arc::default(), Notes::to_nobody());
    tokio::spawn(driver.remembering(memory).run(receiver));
    published.recv().await.unwrap();
    std::fs::create_dir(&state).unwrap();
    let is_kept = || std::fs::read_to_string(state.join("addresses")).is_ok_and(|text| text.contains("web"));
    let kept = async {
        while !is_kept() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, kept).await.unwrap();
}

/// What was told of addresses at one time: Services, and whether each has an endpoint here.
type Announced = Vec<(String, Vec<bool>)>;

/// Passes on what is to be announced.
struct Announcer(mpsc::UnboundedSender<Announced>);

impl Publish for Announcer {
    fn publish(&mut self, _: &Arc<RouteTable>, _: &Arc<Report>) {}

    fn announce(&mut self, services: &[(ObjectRef, Box<[VirtualAddress]>)]) {
        let shown = services.iter().map(|(service, addresses)| {
            (service.name.to_string(), addresses.iter().map(|one| one.has_local).collect())
        });
        let _ = self.0.send(shown.collect());
    }
}

#[tokio::test]
async fn a_change_of_endpoints_is_told_of_its_service_alone() {
    let service = |name: &str| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n\
             spec: {{type: LoadBalancer, externalTrafficPolicy: Local, ports: [{{port: 80}}]}}\n"
        )
    };
    let slice = |name: &str, node: &str| {
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: {name}-1, labels: {{kubernetes.io/service-name: {name}}}}}\naddressType: IPv4\n\
             ports: [{{name: '', port: 8080}}]\nendpoints: [{{addresses: [10.0.0.1], nodeName: {node}}}]\n"
        )
    };
    let pool = "apiVersion: sluicegate.dev/v1alpha1\nkind: AddressPool\nmetadata: {name: p}\n\
                spec: {addresses: [192.0.2.1-192.0.2.9]}\n";
    let all = [pool, &service("a"), &service("b"), &service("c"), &slice("b", "there")].concat();
    let gone = Batch {
        events: vec![Event::Delete(ObjectRef {
            kind: Kind::Service,
            namespace: "default".into(),
            name: "b".into(),
        })],
    };
    let batches = [batch(&all), batch(&slice("b", "here")), gone];
    let script = Script { batches: batches.into(), rereads: Arc::default() };
    let (sender, mut announced) = mpsc::unbounded_channel();
    let (_commands, receiver) = mpsc::unbounded_channel();
    let mut settings = Settings::default();
    (settings.services.load_balancer, settings.services.classless) = (true, true);
    settings.endpoints.node = Some("here".into());
    let driver = Driver::new(script, Announcer(sender), settings, Arc::default(), Notes::to_nobody());
    tokio::spawn(driver.run(receiver));
    let mut next = async || tokio::time::timeout(PATIENCE, announced.recv()).await.unwrap().unwrap();
    let one = |name: &str, addresses: &[bool]| (name.to_owned(), addresses.to_vec());
    assert_eq!(next().await, [one("a", &[false]), one("b", &[false]), one("c", &[false])]);
    assert_eq!(next().await, [one("b", &[true])]);
    assert_eq!(next().await, [one("b", &[])], "it is gone");
}
