use config::report::{Kind, ObjectRef};
use kube::Config;
use serde_json::json;
use test_apiserver::{Options, Server};

use super::super::Message;
use super::super::intake::Extras;
use super::super::resource::Resource;
use super::super::wanted::{Material, Wanted, Wants};
use super::panics::Panicked;
use super::*;

type Receiver = mpsc::UnboundedReceiver<Message>;

async fn feed(server: &Server) -> (Feed, mpsc::UnboundedSender<Order>, Receiver) {
    let kubeconfig = kube::config::Kubeconfig::from_yaml(&server.kubeconfig()).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await.unwrap();
    let (news, receiver) = mpsc::unbounded_channel();
    let progress = Arc::<Progress>::default();
    let target = Target { resource: Resource::Services, namespace: None, selector: None };
    let id = progress.add(target.clone(), Instant::now());
    let common = Common {
        transport: Transport::new(&config, None).unwrap(),
        progress,
        outage: Arc::default(),
        histories: watch::Sender::new(0),
        news,
    };
    let intake = Intake::new(target, Wanted::default(), Extras::default(), None);
    let (orders, order_receiver) = mpsc::unbounded_channel();
    (Feed::new(id, common, intake, order_receiver, Arc::default()), orders, receiver)
}

fn service(name: &str) -> serde_json::Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
        "spec": {"ports": [{"port": 80}]}})
}

/// What comes until the list is complete.
async fn listed(news: &mut Receiver) -> Vec<String> {
    let mut all = Vec::new();
    loop {
        let message = tokio::time::timeout(Duration::from_secs(20), news.recv()).await.unwrap().unwrap();
        let Message::Feed(News::Changes { changes, is_whole, .. }) = message else { continue };
        all.extend(changes.into_iter().map(|change| match change {
            Change::Apply(applied) => format!("+{}", applied.object.reference.name),
            Change::Gone(reference) => format!("-{}", reference.name),
            other => panic!("{other:?}"),
        }));
        if is_whole {
            all.sort();
            return all;
        }
    }
}

#[tokio::test]
async fn what_goes_while_a_broken_list_is_not_followed_is_noticed() {
    let server = Server::start(Options::default()).unwrap();
    for name in ["a", "b"] {
        server.plant(service(name)).unwrap();
    }
    let (mut feed, orders, mut news) = feed(&server).await;
    feed.list(None).await;
    assert_eq!(listed(&mut news).await, ["+a", "+b"]);
    // A deletion was taken in, and not passed on any more.
    let gone = br#"{"type":"DELETED","object":{"metadata":{"name":"a","namespace":"default","resourceVersion":"99"},"spec":{}}}"#;
    feed.line(gone).unwrap();
    feed.begin_anew();
    drop(server);
    let server = Server::start(Options::default()).unwrap();
    server.plant(service("c")).unwrap();
    let (other, ..) = self::feed(&server).await;
    feed.common.transport = other.common.transport.clone();
    let running = tokio::spawn(feed.run());
    assert_eq!(listed(&mut news).await, ["+c", "-a", "-b"]);
    drop(orders);
    tokio::time::timeout(Duration::from_secs(20), running).await.unwrap().unwrap();
}

#[tokio::test]
async fn panic_is_caught_wherever_it_comes_and_what_was_noted_stays() {
    let mut noted = Vec::new();
    let work = async {
        noted.push(1);
        tokio::task::yield_now().await;
        noted.push(2);
        let none: Option<u8> = noted.get(7).copied();
        noted.push(none.unwrap());
    };
    assert_eq!(caught(work).await, Err(Panicked));
    assert_eq!(noted, [1, 2]);
    assert_eq!(caught(async {}).await, Ok(()));
}

#[test]
fn list_of_the_same_version_with_another_number_of_objects_shows_that_something_was_missed() {
    let target = Target { resource: Resource::Services, namespace: None, selector: None };
    let mut intake = Intake::new(target, Wanted::default(), Extras::default(), None);
    let versioned = |name: &str| {
        let mut object = service(name);
        object["metadata"]["resourceVersion"] = "5".into();
        object.to_string().into_bytes()
    };
    let seven = Version::Number(7);
    intake.begin_list();
    intake.list_item(&versioned("a"));
    intake.list_item(&versioned("b"));
    intake.end_list();
    let found =
        |version, count| intake.compare(&[versioned("a")], Some(&Version::Number(version)), count, &seven);
    assert_eq!(found(7, Some(2)), Found::Same);
    assert_eq!(found(7, None), Found::Same);
    assert_eq!(found(7, Some(1)), Found::Missed);
    assert_eq!(found(8, Some(1)), Found::Same, "the watch will tell");
}

#[test]
fn secret_that_is_named_while_its_list_is_read_is_asked_for_and_not_taken_for_deleted() {
    let reference = |kind, name: &str| ObjectRef { kind, namespace: "n".into(), name: name.into() };
    let secret = |name: &str| reference(Kind::Secret, name);
    let mut wants = Wants::default();
    let mut name = |ingress: &str, secrets: [&str; 2]| {
        wants.add(&reference(Kind::Ingress, ingress), secrets.into_iter().map(secret).collect());
        wants.wanted().clone()
    };
    let wanted = name("first", ["gone", "never"]);
    wanted.set(&secret("gone"), Material::Loaded(Some(Version::Number(300))));
    let target = Target { resource: Resource::Secrets, namespace: None, selector: None };
    let mut intake = Intake::new(target, wanted.clone(), Extras::default(), None);
    intake.begin_list();
    intake.list_item(br#"{"metadata":{"name":"tls","namespace":"n","resourceVersion":"500"}}"#);
    // The page that has it is past.
    name("second", ["tls", "coming"]);
    wanted.set(&secret("tls"), Material::Loaded(Some(Version::Number(500))));
    let mut changes: Vec<String> = intake
        .end_list()
        .into_iter()
        .map(|change| match change {
            Change::Touched(reference, None) => format!("?{}", reference.name),
            Change::Gone(reference) => format!("-{}", reference.name),
            other => panic!("{other:?}"),
        })
        .collect();
    changes.sort();
    assert_eq!(changes, ["-never", "?coming", "?gone", "?tls"]);
}

#[test]
fn objects_of_a_server_that_ignores_the_limit_are_counted_to_the_last() {
    let mut sample = Sample::default();
    for _ in 0..1000 {
        sample.take(&Part::Object(b"{}"));
    }
    sample.take(&Part::TooLarge);
    assert_eq!(sample.objects.len(), MAX_SAMPLE);
    let all = item::list_meta(br#"{"kind":"ServiceList","metadata":{"resourceVersion":"7"}}"#).unwrap();
    assert_eq!(sample.count(&all), Some(1001));
    let part =
        br#"{"kind":"ServiceList","metadata":{"resourceVersion":"7","continue":"x","remainingItemCount":9}}"#;
    assert_eq!(sample.count(&item::list_meta(part).unwrap()), Some(1010));
    let unsaid = br#"{"kind":"ServiceList","metadata":{"resourceVersion":"7","continue":"x"}}"#;
    assert_eq!(sample.count(&item::list_meta(unsaid).unwrap()), None);
}
