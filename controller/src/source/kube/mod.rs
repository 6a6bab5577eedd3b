//! Objects from the API server of a cluster, by list and watch.
//!
//! It owns what is asked, when, and what is kept of the answers; it never judges an object.
//!
//! - `reflector` decides for each list when it is listed and watched, `intake` what is new in what comes; both are
//!   pure. `feed` does what they say over `transport`.
//! - Nothing is passed on before every list is complete, those that can be done without aside; `progress` decides that.
//! - Secrets and ConfigMaps are kept only if other objects name them (`wanted`); an object that names one which is not
//!   known yet is held back for a moment, so that nothing is served without it.
//! - What cannot be asked for any more stays as it was.

mod disk;
mod failure;
mod feed;
mod fetch;
mod held;
mod intake;
mod item;
mod journal;
mod known;
mod outage;
mod progress;
mod reflector;
mod resource;
pub mod split;
mod transport;
mod version;
mod wanted;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::BuildHasher as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use config::index::Event;
use config::report::{Kind, ObjectRef};
use foldhash::quality::FixedState;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::AbortHandle;

use self::disk::Disk;
use self::feed::{Common, Feed, News, Order};
use self::fetch::Fetched;
use self::held::Held;
use self::intake::{Applied, Change, Extras, Intake, Namespaces, decode_material};
pub use self::journal::prepare as prepare_state;
use self::journal::{ReadError, Restored, Scope};
use self::outage::Outage;
pub use self::progress::Progress;
use self::progress::{FeedId, Origin};
use self::resource::{Resource, Target};
use self::transport::Transport;
use self::wanted::{Material, Wants};
use super::{Batch, Source};
use crate::status::{Note, Notes};

/// If more Secrets than this are wanted at once, their list is taken instead of each of them.
const MANY: usize = 200;
/// Objects asked for by name at a time.
const FETCHES: usize = 16;
/// Where a list may not be seen, what is wanted of it is asked for by name this often.
const REFRESH: Duration = Duration::from_secs(30);
/// The node's zone is waited for this long at the start.
const ZONE_PATIENCE: Duration = Duration::from_secs(2);
/// Secrets that neither come nor are refused are waited for this long at the start, once it is known which …
const MATERIAL_PATIENCE: Duration = Duration::from_secs(60);
/// … and this long if those that were kept on disk are in use meanwhile, and go on to be.
const MATERIAL_PATIENCE_FROM_DISK: Duration = Duration::from_secs(10);
/// A list whose task broke is followed again after this time.
const RESTART_DELAY: Duration = Duration::from_secs(5);
/// What is overdue and cannot be done is looked at again after this time.
const TURN: Duration = Duration::from_millis(50);
/// News that go into one batch.
const MAX_NEWS: usize = 4_096;

/// What is watched.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Where the configuration was read from, to read it again when credentials are refused; `None` for the default.
    pub kubeconfig: Option<PathBuf>,
    /// Only these namespaces; empty for all.
    pub namespaces: BTreeSet<Arc<str>>,
    /// Only namespaces with these labels. Not together with `namespaces`.
    pub namespace_selector: Option<Arc<str>>,
    /// Only Ingresses with these labels.
    pub selector: Option<Arc<str>>,
    /// A Secret that is wanted whoever names it.
    pub default_certificate: Option<(Arc<str>, Arc<str>)>,
    /// The node that we run on.
    pub node: Option<Arc<str>>,
    /// Where we run, whatever the node says.
    pub zone: Option<Arc<str>>,
    /// Folder in which objects are kept for a start without the API server; `None` for nowhere.
    pub state: Option<PathBuf>,
}

impl Settings {
    /// Whose objects are kept on disk.
    fn scope(&self, config: &kube::Config) -> Scope {
        let namespaces: Vec<&str> = self.namespaces.iter().map(|name| &**name).collect();
        let text = |text: &Option<Arc<str>>| text.as_deref().unwrap_or("*").to_owned();
        let selection = format!(
            "namespaces={} namespace-selector={} selector={}",
            if namespaces.is_empty() { "*".to_owned() } else { namespaces.join(",") },
            text(&self.namespace_selector),
            text(&self.selector)
        );
        // From within, every cluster has the same address.
        let authority = FixedState::with_seed(1).hash_one(&config.root_cert);
        Scope { cluster: format!("{} {authority:016x}", config.cluster_url), selection }
    }
}

/// What comes from the tasks of the source.
#[derive(Debug)]
enum Message {
    Feed(News),
    Fetched {
        reference: ObjectRef,
        fetched: Fetched,
    },
    Zone(Event),
    /// The task that follows the list is no more, by a mistake of ours.
    Broken(FeedId),
    Disk(Result<Restored, ReadError>),
}

/// How far the start is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    /// Nothing was asked.
    New,
    /// The namespaces to watch are being listed.
    Namespaces,
    /// Objects are being listed.
    Objects,
    /// Secrets and ConfigMaps that objects name are being read, since.
    Material(Instant),
    /// Everything was passed on, and changes are.
    Live,
}

/// A running [`Feed`].
#[derive(Debug)]
struct Follower {
    id: FeedId,
    target: Target,
    orders: mpsc::UnboundedSender<Order>,
    whole: Arc<AtomicBool>,
}

/// The objects of a cluster.
#[derive(Debug)]
pub struct KubeSource {
    config: kube::Config,
    settings: Settings,
    progress: Arc<Progress>,
    notes: Notes,
    news: (mpsc::UnboundedSender<Message>, mpsc::UnboundedReceiver<Message>),
    common: Option<Common>,
    followers: Vec<Follower>,
    phase: Phase,
    /// When the first request was made.
    started: Option<Instant>,
    /// The namespaces that are watched, where labels decide on that.
    joined: Namespaces,
    wants: Wants,
    held: Held,
    /// What is being asked for by name → its task
    fetching: HashMap<ObjectRef, AbortHandle>,
    /// Of these, those that have changed since.
    again: BTreeSet<ObjectRef>,
    turns: Arc<Semaphore>,
    /// Lists that may not be seen → when what is wanted of them is asked for by name
    forbidden: BTreeMap<FeedId, Instant>,
    disk: Disk,
    /// What the disk has, if it is to be passed on.
    from_disk: Option<Vec<Event>>,
    /// A Secret that is wanted although no list has it, and when it is asked for again.
    apart: Option<(ObjectRef, Instant)>,
    /// The zone is still to come.
    awaits_zone: bool,
    /// What is to be passed on.
    events: Vec<Event>,
    /// Lists of which everything was taken in.
    whole: BTreeSet<FeedId>,
    /// What was passed on says with certainty which Ingresses are whose.
    is_certain: bool,
}

impl KubeSource {
    /// A source that has asked nothing yet. Its news for the status of objects go to `notes`.
    #[must_use]
    pub fn new(config: kube::Config, settings: Settings, notes: Notes) -> Self {
        let named = settings.default_certificate.clone();
        let always = named.map(|(namespace, name)| ObjectRef { kind: Kind::Secret, namespace, name });
        let awaits_zone = settings.zone.is_none() && settings.node.is_some();
        let disk = Disk::new(settings.state.clone(), settings.scope(&config));
        Self {
            config,
            settings,
            progress: Arc::default(),
            notes,
            news: mpsc::unbounded_channel(),
            common: None,
            followers: Vec::new(),
            phase: Phase::New,
            started: None,
            joined: Namespaces::default(),
            wants: Wants::new(always.as_ref()),
            held: Held::default(),
            fetching: HashMap::new(),
            again: BTreeSet::new(),
            turns: Arc::new(Semaphore::new(FETCHES)),
            forbidden: BTreeMap::new(),
            disk,
            from_disk: None,
            apart: None,
            awaits_zone,
            events: Vec::new(),
            whole: BTreeSet::new(),
            is_certain: false,
        }
    }

    /// How far it is, for the admin port.
    #[must_use]
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// Connections must be made on the runtime that drives the source, so that it begins here.
    fn start(&mut self, now: Instant) {
        self.started = Some(now);
        let transport = match Transport::new(&self.config, self.settings.kubeconfig.clone()) {
            Ok(transport) => transport,
            Err(error) => {
                tracing::error!("the API server cannot be asked: {error}");
                return;
            }
        };
        let common = Common {
            transport,
            progress: Arc::clone(&self.progress),
            outage: Arc::<Outage>::default(),
            histories: watch::Sender::new(0),
            news: self.news.0.clone(),
        };
        if let Some(zone) = &self.settings.zone {
            self.events.push(Event::Zone(Some(Arc::clone(zone))));
        } else if let Some(node) = &self.settings.node {
            tokio::spawn(fetch::follow_zone(common.clone(), Arc::clone(node)));
        }
        self.common = Some(common);
        self.disk.start(&self.progress);
        if self.settings.namespace_selector.is_some() {
            self.phase = Phase::Namespaces;
            self.follow(Resource::Namespaces, now);
        } else {
            self.follow_objects(now);
        }
    }

    fn follow_objects(&mut self, now: Instant) {
        self.phase = Phase::Objects;
        for resource in
            [Resource::IngressClasses, Resource::Services, Resource::EndpointSlices, Resource::Ingresses]
        {
            self.follow(resource, now);
        }
    }

    /// Begins to follow a resource, in every namespace that is named.
    fn follow(&mut self, resource: Resource, now: Instant) {
        let selector = match resource {
            Resource::Namespaces => self.settings.namespace_selector.clone(),
            Resource::Ingresses => self.settings.selector.clone(),
            _ => None,
        };
        let is_namespaced = !matches!(resource, Resource::Namespaces | Resource::IngressClasses);
        let namespaces: Vec<Option<Arc<str>>> = if is_namespaced && !self.settings.namespaces.is_empty() {
            self.settings.namespaces.iter().cloned().map(Some).collect()
        } else {
            vec![None]
        };
        for namespace in namespaces {
            self.follow_one(Target { resource, namespace, selector: selector.clone() }, now);
        }
    }

    fn follow_one(&mut self, target: Target, now: Instant) {
        let id = self.progress.add(target.clone(), now);
        self.run(id, target);
    }

    fn run(&mut self, id: FeedId, target: Target) {
        let Some(common) = self.common.clone() else { return };
        let is_filtered =
            self.settings.namespace_selector.is_some() && target.resource != Resource::Namespaces;
        let namespaces = is_filtered.then(|| self.joined.clone());
        let extras = Extras { observes: self.notes.are_read(), keeps: self.disk.keeps() };
        let intake = Intake::new(target.clone(), self.wants.wanted().clone(), extras, namespaces);
        let (orders, receiver) = mpsc::unbounded_channel();
        let whole = Arc::new(AtomicBool::new(self.are_many_unknown(target.resource)));
        let news = common.news.clone();
        let run = tokio::spawn(Feed::new(id, common, intake, receiver, Arc::clone(&whole)).run());
        tokio::spawn(async move {
            if run.await.is_err_and(|error| error.is_panic()) {
                tokio::time::sleep(RESTART_DELAY).await;
                // Nobody is interested any more if the process is being ended.
                let _ = news.send(Message::Broken(id));
            }
        });
        self.followers.push(Follower { id, target, orders, whole });
    }

    fn are_many_unknown(&self, resource: Resource) -> bool {
        resource.kind().filter(|_| resource.is_material()).is_some_and(|kind| {
            let wanted = self.wants.wanted().of_kind(kind);
            wanted.iter().filter(|(_, material)| *material == Material::Unknown).count() > MANY
        })
    }

    /// Goes on with the start as far as that is possible.
    fn advance(&mut self, now: Instant) {
        if self.phase == Phase::Namespaces && self.progress.is_settled(now) {
            self.follow_objects(now);
        }
        if self.phase == Phase::Objects && self.progress.is_settled(now) {
            self.phase = Phase::Material(now);
            let named = self.settings.default_certificate.clone();
            let secret = |(namespace, name)| ObjectRef { kind: Kind::Secret, namespace, name };
            self.apart = named.map(|named| (secret(named), now + REFRESH));
            for resource in [Resource::Secrets, Resource::ConfigMaps] {
                self.follow_material(resource, now);
            }
        }
        if let Phase::Material(since) = self.phase {
            let is_patient = now < since + self.material_patience();
            let awaits_material = is_patient && self.wants.wanted().is_any_unknown();
            let awaits_zone =
                self.awaits_zone && self.started.is_some_and(|started| now < started + ZONE_PATIENCE);
            if self.progress.is_settled(now) && !awaits_material && !awaits_zone {
                self.go_live(now);
            }
        }
    }

    /// Everything is there: from now on, every change is passed on as it comes.
    fn go_live(&mut self, now: Instant) {
        self.phase = Phase::Live;
        self.progress.serve(Origin::Live);
        for resource in Resource::OF_OBJECTS {
            self.end_restored(resource);
        }
        self.disk.complete(now);
    }

    /// Takes away what only the disk had of a resource whose lists are complete. A Secret or ConfigMap that is named stays
    /// until it was asked for: its list, or the answer to that, says if it is gone.
    fn end_restored(&mut self, resource: Resource) {
        if let Some(kind) = resource.kind()
            && self.progress.is_resource_synced(resource)
        {
            let wanted = self.wants.wanted();
            let gone = self.disk.is_listed(kind, |object| wanted.material(object).is_some());
            self.events.extend(gone.into_iter().map(Event::Delete));
        }
    }

    fn material_patience(&self) -> Duration {
        if self.disk.is_in_use() { MATERIAL_PATIENCE_FROM_DISK } else { MATERIAL_PATIENCE }
    }

    /// Begins to follow Secrets or ConfigMaps, if any are named and nobody does.
    fn follow_material(&mut self, resource: Resource, now: Instant) {
        let Some(kind) = resource.kind() else { return };
        let wanted = self.wants.wanted().of_kind(kind);
        if wanted.is_empty() || self.followers.iter().any(|follower| follower.target.resource == resource) {
            return;
        }
        self.follow(resource, now);
        let is_whole = self.are_many_unknown(resource);
        for (reference, material) in wanted {
            if material == Material::Unknown && (!is_whole || !self.is_covered(&reference)) {
                self.fetch(reference);
            }
        }
    }

    /// True if there is a list that has the object, and takes it in.
    fn is_covered(&self, reference: &ObjectRef) -> bool {
        let namespaces = &self.settings.namespaces;
        let is_listed = namespaces.is_empty() || namespaces.contains(&reference.namespace);
        let is_filtered = self.settings.namespace_selector.is_some();
        is_listed && (!is_filtered || self.joined.contains(&reference.namespace))
    }

    /// Asks for a Secret or ConfigMap by name.
    fn fetch(&mut self, reference: ObjectRef) {
        let Some(common) = self.common.clone() else { return };
        if self.fetching.contains_key(&reference) {
            // What is on its way may be older than what is wanted now.
            self.again.insert(reference);
            return;
        }
        let task = tokio::spawn(fetch::fetch(common, Arc::clone(&self.turns), reference.clone()));
        self.fetching.insert(reference, task.abort_handle());
    }

    fn take(&mut self, message: Message, now: Instant) {
        match message {
            Message::Feed(News::Changes { feed, changes, is_whole }) => {
                changes.into_iter().for_each(|change| self.change(change, now));
                if is_whole {
                    self.is_complete(feed);
                }
            }
            Message::Feed(News::Failed { feed, is_forbidden }) => self.has_failed(feed, is_forbidden, now),
            Message::Fetched { reference, fetched } => self.fetched(&reference, fetched, now),
            Message::Zone(event) => {
                self.awaits_zone = false;
                self.events.push(event);
            }
            Message::Broken(feed) => self.restart(feed),
            Message::Disk(outcome) => {
                let restored = self.disk.take(outcome, &self.progress, now);
                if let Some(mut events) = restored.filter(|_| self.phase != Phase::Live) {
                    events.extend(self.settings.zone.clone().map(|zone| Event::Zone(Some(zone))));
                    self.from_disk = Some(events);
                }
            }
        }
    }

    /// Follows a list anew. What went in between stays until the next start: better that than a list that stands still.
    fn restart(&mut self, feed: FeedId) {
        let Some(at) = self.followers.iter().position(|follower| follower.id == feed) else { return };
        let target = self.followers.swap_remove(at).target;
        tracing::error!("following {target} failed by a mistake of ours; it begins anew");
        self.run(feed, target);
    }

    fn is_complete(&mut self, feed: FeedId) {
        self.forbidden.remove(&feed);
        self.whole.insert(feed);
        let Some(follower) = self.followers.iter().find(|follower| follower.id == feed) else { return };
        // Later changes are few.
        follower.whole.store(false, Relaxed);
        let resource = follower.target.resource;
        if self.phase == Phase::Live {
            self.end_restored(resource);
        }
    }

    /// True if the IngressClasses are known. Ingresses always are once we are live, except in namespaces that we may not
    /// look into, of which nobody hears anything.
    fn knows_classes(&self) -> bool {
        let mut lists =
            self.followers.iter().filter(|follower| follower.target.resource == Resource::IngressClasses);
        lists.all(|follower| self.whole.contains(&follower.id))
    }

    fn has_failed(&mut self, feed: FeedId, is_forbidden: bool, now: Instant) {
        let follower = self.followers.iter().find(|follower| follower.id == feed);
        let is_material = follower.is_some_and(|follower| follower.target.resource.is_material());
        if is_forbidden && is_material {
            self.forbidden.entry(feed).or_insert(now);
        } else if is_material {
            self.fetch_unknown(feed);
        }
    }

    /// What was to come with a list that fails is asked for by name.
    fn fetch_unknown(&mut self, feed: FeedId) {
        let Some(follower) = self.followers.iter().find(|follower| follower.id == feed) else { return };
        let Some(kind) = follower.target.resource.kind().filter(|_| follower.whole.load(Relaxed)) else {
            return;
        };
        for (reference, material) in self.wants.wanted().of_kind(kind) {
            if material == Material::Unknown && !self.fetching.contains_key(&reference) {
                self.fetch(reference);
            }
        }
    }

    /// Asks for what is wanted of lists that may not be seen.
    fn refresh(&mut self, now: Instant) {
        let due: Vec<FeedId> =
            self.forbidden.iter().filter(|(_, at)| **at <= now).map(|(feed, _)| *feed).collect();
        if let Some((reference, at)) = self.apart.as_mut().filter(|(_, at)| *at <= now) {
            *at = now + REFRESH;
            let reference = reference.clone();
            if !self.is_covered(&reference) && !self.fetching.contains_key(&reference) {
                self.fetch(reference);
            }
        }
        for feed in due {
            self.forbidden.insert(feed, now + REFRESH);
            let Some(follower) = self.followers.iter().find(|follower| follower.id == feed) else { continue };
            let namespace = follower.target.namespace.clone();
            let Some(kind) = follower.target.resource.kind() else { continue };
            for (reference, _) in self.wants.wanted().of_kind(kind) {
                let is_of_list = namespace.as_ref().is_none_or(|namespace| *namespace == reference.namespace);
                if is_of_list && !self.fetching.contains_key(&reference) {
                    self.fetch(reference);
                }
            }
        }
    }

    fn fetched(&mut self, reference: &ObjectRef, fetched: Fetched, now: Instant) {
        let is_over = !matches!(fetched, Fetched::Failed(_));
        if is_over {
            self.fetching.remove(reference);
        }
        match fetched {
            Fetched::Object(json) => match item::peek(&json) {
                Some(item) => {
                    let changes = decode_material(reference.clone(), &item, &json, self.disk.keeps());
                    let is_bad = !changes.iter().any(|change| matches!(change, Change::Apply(_)));
                    changes.into_iter().for_each(|change| self.change(change, now));
                    if is_bad {
                        // It is there, and waiting for it makes it no better.
                        self.resolve(reference, Material::Loaded(item.version));
                    }
                }
                None => self.resolve(reference, Material::Absent),
            },
            Fetched::Absent => self.change(Change::Gone(reference.clone()), now),
            Fetched::Failed(failure) => {
                tracing::debug!(%reference, "cannot be read: {failure}");
                let is_unknown = self.wants.wanted().material(reference) == Some(Material::Unknown);
                if failure.is_denial() && is_unknown {
                    self.resolve(reference, Material::Absent);
                }
            }
        }
        if is_over && self.again.remove(reference) && self.wants.wanted().material(reference).is_some() {
            self.fetch(reference.clone());
        }
    }

    fn change(&mut self, change: Change, now: Instant) {
        match change {
            Change::Apply(applied) => self.apply(applied, now),
            Change::Observed(observed) => self.notes.send(Note::Observed(observed)),
            Change::Problems(reference, problems) => {
                self.disk.is_known(&reference);
                self.events.push(Event::Problems { source: reference.to_string().into(), problems });
            }
            Change::Gone(reference)
                if reference.kind == Kind::Secret || reference.kind == Kind::ConfigMap =>
            {
                self.disk.remove(&reference);
                self.events.push(Event::Delete(reference.clone()));
                self.resolve(&reference, Material::Absent);
                if self.fetching.contains_key(&reference) {
                    // What is on its way may be from before.
                    self.again.insert(reference);
                }
            }
            Change::Gone(reference) => {
                if reference.kind == Kind::Ingress {
                    self.notes.send(Note::Gone(reference.clone()));
                }
                self.disk.remove(&reference);
                self.held.remove(&reference);
                self.events.push(Event::Delete(reference.clone()));
                let unwanted = self.wants.keep(&reference, &BTreeSet::new());
                self.forget(unwanted);
            }
            Change::Touched(reference) => self.fetch(reference),
            Change::Namespace(namespace, is_joined) => self.namespace(namespace, is_joined),
        }
    }

    fn apply(&mut self, applied: Applied, now: Instant) {
        let Applied { object, version, observed, raw } = applied;
        if let Some(observed) = observed {
            self.notes.send(Note::Observed(observed));
        }
        let reference = object.reference.clone();
        if matches!(reference.kind, Kind::Secret | Kind::ConfigMap) {
            if self.wants.wanted().material(&reference).is_some() {
                self.disk.put(&reference, raw);
                self.events.push(Event::Apply(object));
                self.resolve(&reference, Material::Loaded(version));
            }
            return;
        }
        self.disk.put(&reference, raw);
        let named = object.material();
        for reference in self.wants.add(&reference, named.clone()) {
            self.want(reference, now);
        }
        let is_known = |reference: &ObjectRef| {
            self.wants.wanted().material(reference).is_none_or(|material| material != Material::Unknown)
        };
        if self.phase == Phase::Live && !named.iter().all(is_known) {
            self.held.hold(object, named, now);
            return;
        }
        self.held.remove(&reference);
        self.events.push(Event::Apply(object));
        let unwanted = self.wants.keep(&reference, &named);
        self.forget(unwanted);
    }

    /// A Secret or ConfigMap is named for the first time.
    fn want(&mut self, reference: ObjectRef, now: Instant) {
        if self.phase != Phase::Live && !matches!(self.phase, Phase::Material(_)) {
            return;
        }
        if let Some(resource) = Resource::of(reference.kind) {
            self.follow_material(resource, now);
        }
        if !self.fetching.contains_key(&reference) {
            self.fetch(reference);
        }
    }

    /// Nobody names these any more.
    fn forget(&mut self, unwanted: Vec<ObjectRef>) {
        for reference in unwanted {
            self.again.remove(&reference);
            if let Some(task) = self.fetching.remove(&reference) {
                task.abort();
            }
            self.disk.remove(&reference);
            self.events.push(Event::Problems { source: reference.to_string().into(), problems: Vec::new() });
            self.events.push(Event::Delete(reference));
        }
    }

    /// It is known what became of a Secret or ConfigMap, so that whoever waited for it need not: [`Self::release`].
    fn resolve(&self, reference: &ObjectRef, material: Material) {
        self.wants.wanted().set(reference, material);
    }

    /// Passes on the objects that wait no longer.
    fn release(&mut self, now: Instant) {
        let wanted = self.wants.wanted().clone();
        let is_known = |reference: &ObjectRef| {
            wanted.material(reference).is_none_or(|material| material != Material::Unknown)
        };
        for (object, named) in self.held.release(now, is_known) {
            let reference = object.reference.clone();
            self.events.push(Event::Apply(object));
            let unwanted = self.wants.keep(&reference, &named);
            self.forget(unwanted);
        }
    }

    /// A namespace is one of those that are watched, or no longer.
    fn namespace(&mut self, namespace: Arc<str>, is_joined: bool) {
        let order = if is_joined {
            self.joined.insert(Arc::clone(&namespace));
            Order::Join(namespace)
        } else {
            self.joined.remove(&namespace);
            Order::Leave(namespace)
        };
        for follower in &self.followers {
            if follower.target.resource != Resource::Namespaces {
                // A feed ends only when we do.
                let _ = follower.orders.send(order.clone());
            }
        }
    }

    /// When there is something to do although nothing happens.
    fn deadline(&self) -> Option<Instant> {
        let start = match self.phase {
            Phase::Live | Phase::New => None,
            Phase::Namespaces | Phase::Objects => self.progress.deadline(),
            Phase::Material(since) => {
                let zone = self.started.filter(|_| self.awaits_zone).map(|started| started + ZONE_PATIENCE);
                self.progress
                    .deadline()
                    .into_iter()
                    .chain([since + self.material_patience()])
                    .chain(zone)
                    .min()
            }
        };
        let apart = self.apart.as_ref().map(|(_, at)| *at);
        let refresh = self.forbidden.values().copied().chain(apart).min();
        let disk = match self.phase {
            Phase::Live => self.disk.confirm_at(),
            _ => self.started.and_then(|started| self.disk.deadline(started)),
        };
        start.into_iter().chain(self.held.deadline()).chain(refresh).chain(disk).min()
    }
}

impl Source for KubeSource {
    async fn next(&mut self) -> Batch {
        if self.started.is_none() {
            self.start(Instant::now());
        }
        loop {
            let now = Instant::now();
            let mut is_drained = false;
            for _ in 0..MAX_NEWS {
                match self.news.1.try_recv() {
                    Ok(message) => self.take(message, now),
                    Err(_) => is_drained = true,
                }
                if is_drained {
                    break;
                }
            }
            self.refresh(now);
            self.release(now);
            self.disk.confirm(&self.progress, now);
            let was_live = self.phase == Phase::Live;
            // What feeds have noted may lie in what was not taken in yet.
            if is_drained {
                self.advance(now);
            }
            if let Some(started) = self.started.filter(|_| self.phase != Phase::Live) {
                self.disk.read_if_away(&self.progress, started, now, &self.news.0);
            }
            let becomes_certain = self.phase == Phase::Live && !self.is_certain && self.knows_classes();
            if self.phase == Phase::Live && (!was_live || becomes_certain || !self.events.is_empty()) {
                self.is_certain |= becomes_certain;
                return Batch { events: std::mem::take(&mut self.events) };
            }
            if let Some(events) = self.from_disk.take() {
                return Batch { events };
            }
            // A deadline that has passed without effect must not make this a busy loop.
            let deadline = self.deadline().map(|at| at.max(now + TURN));
            let sleep = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                message = self.news.1.recv() => {
                    if let Some(message) = message {
                        self.take(message, Instant::now());
                    }
                }
                () = sleep => {}
            }
        }
    }

    fn is_certain(&self) -> bool {
        self.is_certain
    }

    fn reread(&mut self) {
        for follower in &self.followers {
            // A feed ends only when we do.
            let _ = follower.orders.send(Order::Reread);
        }
    }
}
