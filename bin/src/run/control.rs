//! The control thread: driver, and what publishing a table means for the gateway. The gateway outlives the
//! thread: it goes on with its last table if the thread ends in a panic, and takes those of the next one.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use config::compile::Settings;
use config::report::{Kind, ObjectRef, Report, Severity};
use config::table::{Bind, L4Key, RouteId, RouteTable, Transport};
use controller::Publish;
use controller::driver::{Command, Driver};
use controller::ipam::VirtualAddress;
use controller::ipam::memory::Memory;
use controller::problems::ControlMetrics;
use controller::source::Source;
use controller::status::Notes;
use gateway::admin::ReportSlot;
use gateway::live::Publisher;
use gateway::{BindError, Gateway};
use tokio::sync::{Notify, mpsc, oneshot};

use super::announce::Addresses;
use super::ended::{Ended, watched};
use super::local_routes::ServiceRoutes;
use super::told::{Told, Whereabouts};
use super::{Reachable, listen_error};
use crate::settings::SELF_SIGNED;

/// After this an address that could not be opened is tried again, and after twice as long each time,
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// but not longer than this.
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// What came of the first table.
#[derive(Debug)]
pub(super) struct Started {
    /// Addresses that could not be opened.
    pub(super) failures: Vec<BindError>,
    /// The listeners, and where each can be reached.
    pub(super) listeners: Vec<Reachable>,
    pub(super) routes: usize,
    pub(super) backends: usize,
    pub(super) errors: usize,
    pub(super) warnings: usize,
    /// Is closed when connections are taken at all of them.
    pub(super) accepting: mpsc::Receiver<()>,
}

/// Takes tables into use: new sockets are open before the swap, old ones drain after it.
#[derive(Debug)]
pub(super) struct Publishing {
    gateway: Gateway,
    publisher: Publisher,
    report: Arc<ReportSlot>,
    /// Who announces the addresses of Services.
    announced: Option<Addresses>,
    /// What the host makes its own for them.
    local: Option<ServiceRoutes>,
    /// Told of the first table.
    started: Option<oneshot::Sender<Started>>,
    /// What it is told, once all that comes with that table is done.
    starting: Option<(oneshot::Sender<Started>, Started)>,
    /// What is served.
    table: Option<Arc<RouteTable>>,
    /// Addresses that could not be opened and were told.
    failing: BTreeSet<SocketAddr>,
    /// Somebody is to call [`Self::open_again`].
    has_failed: Arc<Notify>,
    /// It was said that a self-signed certificate is in use.
    has_told_self_signed: bool,
    /// Which Services are announced.
    told: Told,
}

impl Publishing {
    pub(super) fn new(
        gateway: Gateway,
        publisher: Publisher,
        report: Arc<ReportSlot>,
        announced: Option<Addresses>,
        local: Option<ServiceRoutes>,
    ) -> Self {
        Self {
            gateway,
            publisher,
            report,
            announced,
            local,
            started: None,
            starting: None,
            table: None,
            failing: BTreeSet::new(),
            has_failed: Arc::default(),
            has_told_self_signed: false,
            told: Told::default(),
        }
    }

    /// Tells at which addresses these Services are served now.
    fn announce(&mut self, services: &[Whereabouts]) {
        let Some(announced) = &self.announced else { return };
        announced.tell(services);
        self.told.note(services);
    }

    /// All that there is was told; what a former control thread told of besides is gone.
    fn forget_former(&mut self) {
        let gone = self.told.is_complete();
        if let Some(announced) = self.announced.as_ref().filter(|_| !gone.is_empty()) {
            announced.tell(&gone);
        }
    }

    /// Finishes what is open and ends the workers; returns how many connections had to be cut. Blocks.
    pub(super) fn drain(self, timeout: Duration) -> u64 {
        let left = if self.gateway.drain(timeout) { 0 } else { self.gateway.connections() };
        self.gateway.stop();
        left
    }

    /// Says once that unknown names get a certificate that nobody trusts.
    fn tell_self_signed(&mut self, table: &RouteTable) {
        let is_self_signed = |bind: &Arc<Bind>| {
            let default = bind.tls.as_ref().filter(|_| bind.config.https).map(|tls| tls.default_policy());
            default.is_some_and(|policy| policy.certificates.iter().any(|one| *one.name == *SELF_SIGNED))
        };
        if !self.has_told_self_signed && table.binds.iter().any(is_self_signed) {
            self.has_told_self_signed = true;
            tracing::info!(
                "hosts without a certificate of their own get a self-signed one, which clients will not trust; \
                 --default-certificate names a better one"
            );
        }
    }

    fn tell_failures(&mut self, failures: &[BindError]) {
        for BindError { address, source } in failures {
            if self.failing.insert(*address) {
                let advice = listen_error::advice(source, "the configuration");
                tracing::error!(%address, "cannot listen; everything else is served: {advice}");
            }
        }
        self.failing.retain(|address| {
            let still = failures.iter().any(|failure| failure.address == *address);
            if !still {
                tracing::info!(%address, "the address that could not be opened is no longer wanted, or open now");
            }
            still
        });
        if !self.failing.is_empty() {
            self.has_failed.notify_one();
        }
    }
}

impl Publishing {
    fn publish(&mut self, table: &Arc<RouteTable>, report: &Arc<Report>) {
        let failures = self.gateway.open_binds(table);
        if let Some(local) = &mut self.local {
            local.add(table);
        }
        self.publisher.publish(Arc::clone(table));
        if let Some(local) = &mut self.local {
            local.keep();
        }
        self.gateway.close_binds(table);
        self.report.set(Arc::clone(report));
        self.table = Some(Arc::clone(table));
        self.tell_self_signed(table);
        match self.started.take() {
            Some(started) => {
                // One Service among many must not keep the rest from being served.
                let (others, failures): (Vec<_>, Vec<_>) =
                    failures.into_iter().partition(|failure| is_of_service(table, failure.address));
                self.tell_failures(&others);
                self.starting = Some((started, summary(&self.gateway, table, report, failures)));
            }
            None => self.tell_failures(&failures),
        }
    }

    /// Tries again what could not be opened of the table that is served: another program may have left the address. True
    /// if nothing is missing any more.
    fn open_again(&mut self) -> bool {
        let Some(table) = self.table.clone().filter(|_| !self.failing.is_empty()) else { return true };
        let failures = self.gateway.open_binds(&table);
        self.gateway.close_binds(&table);
        self.tell_failures(&failures);
        self.failing.is_empty()
    }
}

/// Sees to it that addresses which could not be opened are tried again, until `publishing` is dropped.
async fn retry(publishing: Weak<Mutex<Publishing>>, has_failed: Arc<Notify>) {
    loop {
        has_failed.notified().await;
        let mut delay = FIRST_RETRY;
        loop {
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(LONGEST_RETRY);
            let Some(publishing) = publishing.upgrade() else { return };
            if publishing.lock().unwrap_or_else(PoisonError::into_inner).open_again() {
                break;
            }
        }
    }
}

/// Whether only Services want the address, which others may write than who started the process.
fn is_of_service(table: &RouteTable, address: SocketAddr) -> bool {
    let is_service = |route: RouteId| {
        let route = table.routes.at(route.0);
        route.is_some_and(|route| matches!(route.object.kind, Kind::Service | Kind::ConfigMap))
    };
    let mut binds = table.l4.iter().map(|(_, bind)| bind).filter(|bind| bind.key.address == address);
    let is_http = table.binds.iter().any(|bind| bind.config.address == address);
    !is_http && binds.all(|bind| is_service(bind.route))
}

/// The control thread's hold of what the process owns.
#[derive(Debug)]
struct Shared(Arc<Mutex<Publishing>>);

impl Publish for Shared {
    fn publish(&mut self, table: &Arc<RouteTable>, report: &Arc<Report>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).publish(table, report);
    }

    fn announce(&mut self, services: &[(ObjectRef, Box<[VirtualAddress]>)]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).announce(services);
    }

    fn finished(&mut self) {
        let mut publishing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        publishing.forget_former();
        if let Some((sender, started)) = publishing.starting.take() {
            // Nobody waits if the process is being ended already.
            let _ = sender.send(started);
        }
    }
}

fn summary(gateway: &Gateway, table: &RouteTable, report: &Report, failures: Vec<BindError>) -> Started {
    let bound: BTreeMap<SocketAddr, SocketAddr> = gateway.bound().collect();
    let listeners = table.binds.iter().filter_map(|bind| Some((bind, *bound.get(&bind.config.address)?)));
    let named = listeners.flat_map(|(bind, address)| {
        let scheme = if bind.config.https { "https" } else { "http" };
        let reachable = move |name| Reachable { name, address, scheme };
        bind.config.listeners.iter().map(move |listener| reachable(Arc::clone(&listener.name)))
    });
    let l4_bound: BTreeMap<L4Key, SocketAddr> = gateway.l4_bound().collect();
    let relaying = table.l4.iter().filter_map(|(_, bind)| {
        let scheme = match bind.key.transport {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        };
        let (name, address) = (Arc::clone(&bind.listener), *l4_bound.get(&bind.key)?);
        Some(Reachable { name, address, scheme })
    });
    let count = |severity| report.problems.iter().filter(|problem| problem.severity == severity).count();
    Started {
        failures,
        listeners: named.chain(relaying).collect(),
        routes: table.routes.iter().count(),
        backends: table.backends.iter().count(),
        errors: count(Severity::Error),
        warnings: count(Severity::Warning),
        accepting: gateway.accepting(),
    }
}

/// Who gives addresses to Services.
#[derive(Debug)]
pub(super) enum Giving {
    /// This process, which keeps them there.
    Alone(Option<Memory>),
    /// One of the replicas.
    InCluster,
}

/// What a driver goes by, besides its source.
#[derive(Debug)]
pub(super) struct Driving {
    pub(super) settings: Settings,
    pub(super) metrics: Arc<ControlMetrics>,
    pub(super) status: Notes,
    pub(super) giving: Giving,
}

/// The running control thread.
#[derive(Debug)]
pub(super) struct ControlThread {
    thread: JoinHandle<()>,
    publishing: Arc<Mutex<Publishing>>,
    started: Option<oneshot::Receiver<Started>>,
    ended: Ended,
}

impl ControlThread {
    pub(super) fn start(
        source: impl Source + Send + 'static,
        mut publishing: Publishing,
        driving: Driving,
        commands: mpsc::UnboundedReceiver<Command>,
    ) -> io::Result<Self> {
        let (started, was_started) = oneshot::channel();
        publishing.started = Some(started);
        let publishing = Arc::new(Mutex::new(publishing));
        let (thread, ended) = Self::spawn(source, &publishing, driving, commands)?;
        Ok(Self { thread, publishing, started: Some(was_started), ended })
    }

    /// Starts another thread after the first has ended. What is served stays until it has read everything.
    pub(super) fn start_again(
        &mut self,
        source: impl Source + Send + 'static,
        driving: Driving,
        commands: mpsc::UnboundedReceiver<Command>,
    ) -> io::Result<()> {
        self.publishing.lock().unwrap_or_else(PoisonError::into_inner).told.begin_again();
        (self.thread, self.ended) = Self::spawn(source, &self.publishing, driving, commands)?;
        Ok(())
    }

    fn spawn(
        source: impl Source + Send + 'static,
        publishing: &Arc<Mutex<Publishing>>,
        Driving { settings, metrics, status, giving }: Driving,
        commands: mpsc::UnboundedReceiver<Command>,
    ) -> io::Result<(JoinHandle<()>, Ended)> {
        let (alive, ended) = watched();
        let has_failed = Arc::clone(&publishing.lock().unwrap_or_else(PoisonError::into_inner).has_failed);
        let shared = Shared(Arc::clone(publishing));
        let retry = retry(Arc::downgrade(publishing), has_failed);
        let thread = std::thread::Builder::new().name("control".to_owned()).spawn(move || {
            let _alive = alive;
            match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => {
                    runtime.spawn(retry);
                    let mut driver = Driver::new(source, shared, settings, metrics, status);
                    match giving {
                        Giving::Alone(Some(memory)) => driver = driver.remembering(memory),
                        Giving::Alone(None) => {}
                        Giving::InCluster => driver = driver.in_cluster(),
                    }
                    drop(runtime.block_on(driver.run(commands)));
                }
                Err(error) => tracing::error!(%error, "cannot start the control plane"),
            }
        })?;
        Ok((thread, ended))
    }

    /// What came of the first table; `None` if there was none.
    pub(super) async fn started(&mut self) -> Option<Started> {
        self.started.take()?.await.ok()
    }

    /// Returns when the thread has ended, and only once.
    pub(super) async fn ended(&mut self) {
        self.ended.once().await;
    }

    /// Waits for the end of the thread, which must have been told to stop, and then drains; returns how many
    /// connections had to be cut.
    pub(super) async fn drain(self, timeout: Duration) -> u64 {
        let Self { thread, publishing, .. } = self;
        let drain = move || {
            // A panic of the thread was printed when it happened, and has dropped its hold.
            let _ = thread.join();
            let publishing = Arc::into_inner(publishing).map(Mutex::into_inner);
            publishing
                .map_or(0, |publishing| publishing.unwrap_or_else(PoisonError::into_inner).drain(timeout))
        };
        tokio::task::spawn_blocking(drain).await.unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use controller::source::{Batch, Certainty, Knowledge};
    use gateway::access_log::{AccessLog, Destination, Format};
    use gateway::live;
    use gateway::metrics::Registry;

    use super::*;

    /// A source that has nothing, and then fails in a way that nobody thought of.
    struct Faulty {
        fuse: oneshot::Receiver<()>,
        is_first: bool,
    }

    fn driving(address: &str) -> Driving {
        let settings = Settings { http: Some(address.parse().unwrap()), ..Settings::default() };
        Driving { settings, metrics: Arc::default(), status: Notes::to_nobody(), giving: Giving::Alone(None) }
    }

    impl Source for Faulty {
        async fn next(&mut self) -> Batch {
            if !std::mem::take(&mut self.is_first) {
                let _ = (&mut self.fuse).await;
                panic!("a bug");
            }
            Batch::default()
        }

        fn certainty(&self) -> Certainty {
            Certainty::Whole
        }

        fn knows_pools(&self) -> Knowledge {
            Knowledge::Whole
        }

        fn catch_up(&mut self) {}

        fn reread(&mut self) {}
    }

    fn status(address: SocketAddr) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.lines().next().unwrap_or_default().to_owned()
    }

    #[tokio::test]
    async fn gateway_serves_on_when_the_control_thread_panics() {
        let (shared, publisher) = live::Shared::new(1);
        let log = AccessLog::start(Format::Off, Destination::Stdout, 1).unwrap();
        let gateway = Gateway::start(1, &shared, &Registry::new(1), &log).unwrap();
        let publishing = Publishing::new(gateway, publisher, Arc::default(), None, None);
        let (_commands, receiver) = mpsc::unbounded_channel();
        let (lit, fuse) = oneshot::channel();
        let source = Faulty { fuse, is_first: true };
        let mut control = ControlThread::start(source, publishing, driving("127.0.0.1:0"), receiver).unwrap();
        let mut started = control.started().await.unwrap();
        assert_eq!(started.accepting.recv().await, None, "it ends when the workers take connections");
        let address = started.listeners[0].address;
        drop(lit);
        control.ended().await;
        assert_eq!(status(address), "HTTP/1.1 404 Not Found");
        // What another thread compiles is taken into use.
        let (_fuse, fuse) = oneshot::channel();
        let (commands, receiver) = mpsc::unbounded_channel();
        let source = Faulty { fuse, is_first: true };
        control.start_again(source, driving("127.0.0.2:0"), receiver).unwrap();
        let other = async {
            loop {
                let bound = control.publishing.lock().unwrap().gateway.bound().next();
                match bound {
                    Some((_, other)) if other != address => return other,
                    _ => tokio::task::yield_now().await,
                }
            }
        };
        let other = tokio::time::timeout(Duration::from_secs(20), other).await.unwrap();
        assert_eq!((status(other), other.ip()), ("HTTP/1.1 404 Not Found".to_owned(), [127, 0, 0, 2].into()));
        commands.send(Command::Stop).unwrap();
        control.ended().await;
        assert_eq!(control.drain(Duration::from_secs(5)).await, 0);
        assert!(TcpStream::connect(address).is_err() && TcpStream::connect(other).is_err());
    }
}
