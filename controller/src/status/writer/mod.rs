//! The writer: ties election, ledger and journal to an API server. It decides nothing itself, and whatever happens to it,
//! traffic does not notice.

mod events;
mod lease;
mod shutdown;
mod status;
mod sweep;
mod trouble;

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use config::report::{Kind, ObjectRef, Problem, Report};
use tokio::sync::{oneshot, watch};
use tokio::task::{Id, JoinError, JoinSet};

use self::lease::Place;
use self::trouble::Trouble;
use super::api::{Api, Failure};
use super::clock::Moment;
use super::gate::Gate;
use super::journal::{self, Journal, Matter, Telling};
use super::lease::{Election, Step};
use super::ledger::{self, Ledger, MANAGERS, Scope, Task};
use super::metrics::{Ending, StatusMetrics};
use super::notes::{Inbox, News};
use super::observed::{Address, Observed};
use super::publish::{Follower, Found, Pods, Publish, follow};
use crate::cluster::{self, ClusterError};
use crate::source::Certainty;

/// Reports are looked at this often.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// From the beginning of leading until it is looked for Ingresses that labels choose no more, and after a failure.
const SWEEP_DELAY: Duration = Duration::from_secs(5);
const SWEEP_RETRY: Duration = Duration::from_secs(60);
/// Objects are counted for metrics this often.
const COUNT_INTERVAL: Duration = Duration::from_secs(2);

/// What is written, and as whom.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the configuration was read from, to read it again when credentials are refused; `None` for the default.
    pub kubeconfig: Option<PathBuf>,
    /// Which addresses Ingresses get.
    pub publish: Publish,
    /// Namespace that we run in; `None` for that of the configuration.
    pub own_namespace: Option<Arc<str>>,
    /// Namespace of the Lease; `None` for the one that we run in.
    pub election_namespace: Option<Arc<str>>,
    /// Name of the Lease.
    pub election: Arc<str>,
    /// Who this is, for people: the name of the Pod or of the machine.
    pub instance: Arc<str>,
    /// Take our addresses back at the end, unless another replica runs.
    pub clears_at_end: bool,
    /// Ingresses and Services are chosen by labels, theirs or those of their namespaces: one that is gone may be there still.
    pub verifies_gone: bool,
    /// Namespaces whose Ingresses are chosen from; none for all.
    pub namespaces: Box<[Arc<str>]>,
    /// Which Pods of our namespace are replicas; `None` if this does not run in a Pod.
    pub replicas: Option<Pods>,
}

/// The state of the writer.
#[derive(Debug)]
struct Writer {
    settings: Settings,
    /// Where we run.
    namespace: Arc<str>,
    place: Place,
    /// Our field manager.
    manager: Arc<str>,
    api: Api,
    gate: Gate,
    inbox: Inbox,
    metrics: Arc<StatusMetrics>,
    election: Election,
    ledger: Ledger,
    /// Of Services with load balancers.
    balancers: Ledger,
    journal: Journal,
    found: watch::Receiver<Found>,
    /// Nobody will find anything else.
    is_found_for_good: bool,
    leads: watch::Sender<bool>,
    lease_requests: JoinSet<(lease::News, Option<Ending>)>,
    writes: JoinSet<status::Done>,
    /// request → what it is for
    tasks: HashMap<Id, Task>,
    events: JoinSet<(journal::Outcome, Ending, String)>,
    telling: Option<Telling>,
    /// When it is looked for Ingresses that labels choose no more.
    sweep_at: Option<Moment>,
    sweeps: JoinSet<Result<Vec<Observed>, Failure>>,
    /// The latest, and which Services and EndpointSlices of it are in use.
    report: (Arc<Report>, Vec<ObjectRef>),
    is_reported: bool,
    report_at: Moment,
    count_at: Moment,
    is_counted: bool,
    contended: u64,
    /// What the Lease said last of published addresses.
    recorded: Arc<str>,
    trouble: Trouble,
}

/// What woke the writer.
#[derive(Debug)]
enum Wake {
    Objects,
    Report,
    Found(bool),
    Lease(Result<(lease::News, Option<Ending>), JoinError>),
    Written(Result<(Id, status::Done), JoinError>),
    Swept(Result<Result<Vec<Observed>, Failure>, JoinError>),
    Told(Result<(journal::Outcome, Ending, String), JoinError>),
    Time,
}

/// Writes status and events until `stop` is told or dropped, and then releases the Lease. Returns early only with an error.
/// Needs a tokio runtime of its own, with one thread.
///
/// # Errors
/// If there is no usable configuration of an API server.
pub async fn run(
    settings: Settings,
    inbox: Inbox,
    metrics: Arc<StatusMetrics>,
    stop: oneshot::Receiver<()>,
) -> Result<(), ClusterError> {
    let config = cluster::configuration(settings.kubeconfig.as_deref()).await?;
    let mut writer = Writer::new(&config, settings, inbox, metrics)?;
    tokio::pin!(stop);
    loop {
        tokio::select! {
            biased;
            _ = &mut stop => break,
            () = writer.turn() => {}
        }
    }
    writer.end().await;
    Ok(())
}

impl Writer {
    fn new(
        config: &kube::Config,
        settings: Settings,
        inbox: Inbox,
        metrics: Arc<StatusMetrics>,
    ) -> Result<Self, ClusterError> {
        let mut random = fastrand::Rng::new();
        let gate = Gate::default();
        let api = Api::new(config, settings.kubeconfig.clone(), gate.clone())?;
        let own = settings.own_namespace.clone();
        let namespace = own.unwrap_or_else(|| config.default_namespace.as_str().into());
        let place = Place {
            namespace: settings.election_namespace.clone().unwrap_or_else(|| Arc::clone(&namespace)),
            name: Arc::clone(&settings.election),
        };
        // Whoever shares our Lease writes as we do, and nobody else.
        let mut manager = format!("{MANAGERS}{}/{}", place.namespace, place.name);
        manager.truncate(manager.floor_char_boundary(128));
        let manager: Arc<str> = manager.into();
        let identity = format!("{}_{:016x}", settings.instance, random.u64(..)).into();
        let (leads, led) = watch::channel(false);
        let (finds, found) = watch::channel(None);
        let follower =
            Follower::new(api.clone(), settings.publish.clone(), Arc::clone(&namespace), random.fork());
        tokio::spawn(follow(follower, led, finds));
        Ok(Self {
            namespace,
            place,
            api,
            gate,
            inbox,
            metrics,
            election: Election::new(identity, random.fork()),
            ledger: Ledger::new(Scope::Shared, Arc::clone(&manager), settings.verifies_gone, random.fork()),
            balancers: Ledger::new(Scope::Whole, Arc::clone(&manager), settings.verifies_gone, random.fork()),
            journal: Journal::new(random.fork()),
            manager,
            found,
            is_found_for_good: false,
            leads,
            lease_requests: JoinSet::new(),
            writes: JoinSet::new(),
            tasks: HashMap::new(),
            events: JoinSet::new(),
            telling: None,
            sweep_at: None,
            sweeps: JoinSet::new(),
            report: <(Arc<Report>, Vec<ObjectRef>)>::default(),
            is_reported: true,
            report_at: Moment::now(),
            count_at: Moment::now(),
            is_counted: true,
            contended: 0,
            recorded: "".into(),
            trouble: Trouble::default(),
            settings,
        })
    }

    /// Does what there is to do, waits for something to happen, and takes it in. May be dropped while it waits.
    async fn turn(&mut self) {
        let now = Moment::now();
        let until = self.drive(now).since(Moment::now());
        let wake = tokio::select! {
            () = self.inbox.objects() => Wake::Objects,
            () = self.inbox.report(), if self.is_reported && self.report_at <= now => Wake::Report,
            changed = self.found.changed(), if !self.is_found_for_good => Wake::Found(changed.is_ok()),
            Some(done) = self.lease_requests.join_next() => Wake::Lease(done),
            Some(done) = self.writes.join_next_with_id() => Wake::Written(done),
            Some(done) = self.events.join_next() => Wake::Told(done),
            Some(done) = self.sweeps.join_next() => Wake::Swept(done),
            () = tokio::time::sleep(until) => Wake::Time,
        };
        let now = Moment::now();
        match wake {
            Wake::Objects => self.take_in(now),
            Wake::Report => {
                self.report_at = now + REPORT_INTERVAL;
                self.take_in(now);
            }
            Wake::Found(is_alive) => {
                self.is_found_for_good = !is_alive;
                if !is_alive
                    && matches!(self.settings.publish, Publish::Service { .. } | Publish::Nodes { .. })
                {
                    tracing::error!("addresses to publish are not looked for any more: a bug");
                }
                if is_alive {
                    self.find(now);
                }
            }
            Wake::Lease(done) => self.lease_done(done, now),
            Wake::Written(done) => self.written(done, now),
            Wake::Told(done) => self.told(done, now),
            Wake::Swept(done) => self.swept(done, now),
            Wake::Time => {}
        }
    }

    /// Sends what is due; returns when there will be something else.
    fn drive(&mut self, now: Moment) -> Moment {
        let mut wake = now + Duration::from_secs(60);
        self.lead(now);
        if self.election.leads(now) {
            wake = self.election.valid_until().map_or(wake, |until| wake.min(until));
        }
        if self.lease_requests.is_empty() {
            let request = match self.election.step(now) {
                Step::Wait(until) => {
                    wake = wake.min(until);
                    None
                }
                Step::Read => Some(lease::Request::Read),
                Step::Create(claim) => Some(lease::Request::Create(claim)),
                Step::Change(version, claim) => Some(lease::Request::Change(version, claim)),
            };
            if let Some(request) = request {
                self.ask_lease(request);
            }
        }
        if let Some(at) = self.sweep_at {
            if at <= now && self.ledger.is_certain() {
                self.sweep();
            } else {
                wake = wake.min(at.max(now + SWEEP_DELAY));
            }
        }
        for kind in [Kind::Ingress, Kind::Service] {
            loop {
                match self.ledger_of(kind).next(now) {
                    ledger::Next::Task(task) => self.write(task),
                    ledger::Next::Wait(until) => {
                        wake = until.map_or(wake, |until| wake.min(until));
                        break;
                    }
                }
            }
        }
        if !self.is_reported && self.report_at <= now {
            self.report(now);
        }
        if !self.is_counted && self.count_at <= now {
            self.count(now);
        }
        match self.journal.next(now) {
            journal::Next::Tell(telling) => self.tell(telling),
            journal::Next::Wait(until) => wake = until.map_or(wake, |until| wake.min(until)),
        }
        if self.report_at > now {
            wake = wake.min(self.report_at);
        }
        if !self.is_counted {
            wake = wake.min(self.count_at);
        }
        wake
    }

    /// The one of those that has objects of `kind`.
    fn ledger_of(&mut self, kind: Kind) -> &mut Ledger {
        if kind == Kind::Service { &mut self.balancers } else { &mut self.ledger }
    }

    /// Follows the election: who does not lead, ends what is under way.
    fn lead(&mut self, now: Moment) {
        let leads = self.election.leads(now);
        if *self.leads.borrow() != leads {
            self.leads.send_replace(leads);
            self.sweep_at = (leads && self.settings.verifies_gone).then(|| now + SWEEP_DELAY);
            self.sweeps.abort_all();
            if leads {
                tracing::info!(lease = %self.settings.election, "this replica writes status and events from now on");
            } else {
                self.gate.set(None);
                self.writes.abort_all();
                self.events.abort_all();
                tracing::warn!(lease = %self.settings.election, holder = self.election.holder(), "this replica does not write status and events any more");
            }
        }
        self.metrics.lead(leads);
        self.ledger.lead(leads && self.found.borrow().is_some(), now);
        self.balancers.lead(leads, now);
        self.inbox.lead(leads);
        self.journal.lead(leads);
    }

    fn take_in(&mut self, now: Moment) {
        let News { objects, claims, desired, term, report, certainty } = self.inbox.take();
        for (object, observed) in objects {
            let ledger = self.ledger_of(object.kind);
            let known = ledger.observed(&object);
            match observed {
                Some(observed) => {
                    if known.is_some_and(|known| known.uid != observed.uid) {
                        self.journal.forget(&object);
                    }
                    let told = self.ledger_of(object.kind).observe(observed, now);
                    self.warn_of(&object, told);
                }
                None => {
                    ledger.gone(&object, now);
                    self.journal.forget(&object);
                }
            }
            self.is_counted = false;
        }
        for (object, claimed) in claims {
            self.ledger.claim(&object, claimed, now);
            self.is_counted = false;
            // What was said of it all along may concern us now.
            self.is_reported = false;
        }
        if term != 0 && term == self.inbox.term() {
            for (object, desired) in desired {
                self.balancers.desire(&object, desired.as_ref(), now);
                self.is_reported = false;
            }
            if report.is_some() {
                self.balancers.compiled(now);
            }
        }
        if let Some(report) = report {
            match certainty {
                Certainty::Whole => self.ledger.compiled(now),
                Certainty::ByName => self.ledger.compiled_by_name(now),
                Certainty::Unknown => {}
            }
            self.trouble.certainty(certainty);
            self.metrics.certainty(certainty);
            self.is_reported &= Arc::ptr_eq(&self.report.0, &report.0) && self.report.1 == report.1;
            self.report = report;
        }
    }

    fn find(&mut self, now: Moment) {
        let found = self.found.borrow_and_update().clone();
        self.is_counted = false;
        let Some(addresses) = found else { return };
        let shown: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        tracing::info!(addresses = %shown.join(","), "addresses that Ingresses get");
        self.ledger.publish(addresses, now);
        self.record(now);
    }

    /// Has the Lease say what is ours, for whoever leads next.
    fn record(&mut self, now: Moment) {
        if let Some(addresses) = self.ledger.known_addresses(now) {
            let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            self.election.publish(texts.join(",").into(), now);
        }
    }

    fn ask_lease(&mut self, request: lease::Request) {
        // Before anything is sent, so that our time ends too early rather than too late.
        let sent = Moment::now();
        let (api, place) = (self.api.clone(), self.place.clone());
        self.lease_requests.spawn(async move { lease::perform(&api, &place, request, sent).await });
    }

    fn lease_done(&mut self, done: Result<(lease::News, Option<Ending>), JoinError>, now: Moment) {
        let failed = |error: JoinError| (lease::News::Failed(error.to_string()), Some(Ending::Failed));
        let (news, ending) = done.unwrap_or_else(failed);
        if let Some(ending) = ending {
            self.metrics.lease(ending);
        }
        match news {
            lease::News::Read(record) => {
                self.election.read(record, now);
                if !matches!(self.election.step(now), Step::Create(_) | Step::Change(..)) {
                    // All is well: somebody else leads.
                    self.trouble.lease(None);
                }
            }
            lease::News::Written(record, sent) => {
                self.election.written(record, sent, now);
                self.trouble.lease(None);
            }
            lease::News::Refused => self.election.refused(now),
            lease::News::Failed(message) => {
                self.election.failed(now);
                self.trouble.lease(Some(message));
            }
        }
        self.gate.set(self.election.valid_until());
        if *self.recorded != *self.election.published() {
            self.recorded = self.election.published().into();
            let addresses = self.recorded.split(',');
            let addresses: BTreeSet<Address> =
                addresses.filter_map(|text| Address::ip(text).or_else(|| Address::hostname(text))).collect();
            self.ledger.record(addresses, now);
        }
        self.record(now);
    }

    fn write(&mut self, task: Task) {
        if task.action == ledger::Action::Look {
            self.metrics.read();
        }
        let (api, gate, manager) = (self.api.clone(), self.gate.clone(), Arc::clone(&self.manager));
        let request = task.clone();
        let handle = self.writes.spawn(async move { status::perform(&api, &gate, &manager, &request).await });
        self.tasks.insert(handle.id(), task);
    }

    fn written(&mut self, done: Result<(Id, status::Done), JoinError>, now: Moment) {
        let (id, done) = match done {
            Ok(done) => done,
            Err(error) if error.is_panic() => (error.id(), status::Done::failed("a bug".to_owned())),
            Err(error) => (error.id(), status::Done::aborted()),
        };
        let Some(task) = self.tasks.remove(&id) else { return };
        let status::Done { outcome, ending, message } = done;
        if task.action != ledger::Action::Look {
            self.metrics.written(ending);
        }
        self.trouble.status(&task.object, ending, &message);
        tracing::debug!(object = %task.object, outcome = ?ending, message, "status");
        let told = self.ledger_of(task.object.kind).outcome(&task, outcome, now);
        self.warn_of(&task.object, told);
        self.is_counted = false;
    }

    /// Looks for Ingresses and Services that labels have ceased to choose while nobody of ours led.
    fn sweep(&mut self) {
        self.sweep_at = None;
        let (api, manager) = (self.api.clone(), Arc::clone(&self.manager));
        let namespaces = self.settings.namespaces.clone();
        self.sweeps.spawn(async move { sweep::written_by(&api, &namespaces, &manager).await });
    }

    fn swept(&mut self, done: Result<Result<Vec<Observed>, Failure>, JoinError>, now: Moment) {
        match done {
            Ok(Ok(found)) => {
                for observed in found {
                    self.ledger_of(observed.object.kind).stray(observed, now);
                }
            }
            Ok(Err(failure)) => {
                tracing::debug!(%failure, "cannot look for Ingresses and Services that are not chosen any more");
                self.sweep_at = self.election.leads(now).then(|| now + SWEEP_RETRY);
            }
            // It was given up, for we do not lead any more.
            Err(_) => {}
        }
        self.is_counted = false;
    }

    fn warn_of(&mut self, object: &ObjectRef, told: ledger::Told) {
        if told.contended {
            tracing::warn!(
                %object,
                "somebody else keeps changing the status that we write, so it is left alone for a while; two \
                 controllers for one class?"
            );
            self.is_reported = false;
        }
    }

    fn tell(&mut self, telling: Telling) {
        let observed = self.ledger_of(telling.object.kind).observed(&telling.object);
        let uid = observed.map(|observed| Arc::clone(&observed.uid));
        let (api, gate, instance) =
            (self.api.clone(), self.gate.clone(), Arc::clone(&self.settings.instance));
        self.telling = Some(telling.clone());
        self.events.spawn(async move { events::perform(&api, &gate, &instance, &telling, uid).await });
    }

    fn told(&mut self, done: Result<(journal::Outcome, Ending, String), JoinError>, now: Moment) {
        let Some(telling) = self.telling.take() else { return };
        let (outcome, ending, message) =
            done.unwrap_or((journal::Outcome::Aborted, Ending::Aborted, String::new()));
        self.metrics.event(ending);
        self.trouble.events(ending, &message);
        self.journal.outcome(&telling, outcome, now);
    }

    /// Tells the journal what is wrong with objects of ours.
    fn report(&mut self, now: Moment) {
        self.is_reported = true;
        self.report_at = now + REPORT_INTERVAL;
        let (report, used) = &self.report;
        let used: BTreeSet<&ObjectRef> = used.iter().collect();
        let is_ours = |object: &ObjectRef| match object.kind {
            Kind::Ingress => self.ledger.is_claimed(object),
            Kind::Service => used.contains(object) || self.balancers.is_claimed(object),
            Kind::EndpointSlice => used.contains(object),
            Kind::IngressClass | Kind::Secret | Kind::ConfigMap => true,
            Kind::Namespace
            | Kind::AddressPool
            | Kind::IPAddressPool
            | Kind::L2Advertisement
            | Kind::Node
            | Kind::ServiceCIDR
            | Kind::Config
            | Kind::Listener
            | Kind::Route
            | Kind::Backend
            | Kind::File => false,
        };
        let problems = report.problems.iter().filter(|problem| is_ours(&problem.object));
        let mut matters: Vec<Matter> = problems.map(matter).collect();
        let contended = self.ledger.contended(now).chain(self.balancers.contended(now));
        matters.extend(contended.map(|object| Matter {
            object: object.clone(),
            reason: "StatusContended",
            note: "somebody else keeps changing the status that is written here, so it is left alone for a while; \
                   are there two controllers for one class?"
                .to_owned(),
        }));
        matters.sort_by(|a, b| a.object.cmp(&b.object));
        self.journal.report(matters.into_iter(), now);
    }

    fn count(&mut self, now: Moment) {
        self.is_counted = true;
        self.count_at = now + COUNT_INTERVAL;
        let addresses = self.found.borrow().as_ref().map_or(0, BTreeSet::len);
        let figures = self.ledger.figures(now);
        self.is_reported &= figures.contended == self.contended;
        self.contended = figures.contended;
        self.metrics.objects(figures, addresses);
    }
}

/// A problem as people read it in an Event.
fn matter(problem: &Problem) -> Matter {
    let Problem { object, field, reason, message, .. } = problem;
    let note = if field.is_empty() { message.clone() } else { format!("{field}: {message}") };
    Matter { object: object.clone(), reason, note }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.gate.set(None);
        self.metrics.lead(false);
    }
}
