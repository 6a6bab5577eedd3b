//! Objects from the API server of a cluster, by list and watch.
//!
//! It owns what is asked, when, and what is kept of the answers; it never judges an object.
//!
//! - `reflector` decides for each list when it is listed and watched, `intake` what is new in what comes; both are
//!   pure. `feed` does what they say over `transport`.
//! - Nothing is passed on before every list is complete, those that can be done without aside; `progress` decides that.
//! - Secrets and ConfigMaps are asked for and kept only if other objects name them (`wanted`), and Ingresses only count
//!   if they are ours (`claims`); an object that names one which is not known yet is held back for a moment, so that
//!   nothing is served without it.
//! - What cannot be asked for any more stays as it was.

mod catch_up;
mod changes;
mod claims;
mod disk;
mod failure;
mod feed;
mod fetch;
mod held;
mod intake;
mod item;
mod journal;
mod known;
mod material;
mod outage;
mod progress;
mod reflector;
mod resource;
pub mod split;
mod start;
mod transport;
mod version;
mod wanted;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::BuildHasher as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use config::compile::ClassSettings;
use config::index::Event;
use config::report::{Kind, ObjectRef};
use foldhash::quality::FixedState;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;

use self::catch_up::CatchUp;
use self::claims::Claims;
use self::disk::Disk;
use self::feed::{Common, News, Order};
use self::fetch::Fetched;
use self::held::Held;
use self::intake::Namespaces;
pub use self::journal::prepare as prepare_state;
use self::journal::{ReadError, Restored, Scope};
use self::progress::FeedId;
pub use self::progress::Progress;
use self::resource::Target;
use self::start::ZONE_PATIENCE;
use self::version::Version;
use self::wanted::Wants;
use super::{Batch, Certainty, Knowledge, Source};
use crate::status::Notes;

/// Objects asked for by name at a time.
const FETCHES: usize = 16;
/// Where a list may not be seen, what is wanted of it is asked for by name this often.
const REFRESH: Duration = Duration::from_secs(30);
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
    /// ConfigMaps that are wanted whoever names them: namespace and name.
    pub maps: BTreeSet<(Arc<str>, Arc<str>)>,
    /// Whether Services get addresses, and whose pools count.
    pub pools: Pools,
    /// By what an Ingress is ours; what others name is not asked for.
    pub classes: ClassSettings,
    /// The node that we run on.
    pub node: Option<Arc<str>>,
    /// Where we run, whatever the node says.
    pub zone: Option<Arc<str>>,
    /// Folder in which objects are kept for a start without the API server; `None` for nowhere.
    pub state: Option<PathBuf>,
}

/// Which pools of addresses are watched.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Pools {
    /// None.
    #[default]
    None,
    /// `AddressPool`.
    Ours,
    /// `AddressPool`, and MetalLB's `IPAddressPool` and `L2Advertisement`.
    WithMetallb,
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
    Fetched { reference: ObjectRef, fetched: Fetched },
    Zone(Event),
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
    claims: Claims,
    wants: Wants,
    held: Held,
    /// Something that was asked for by name did not come, and nobody refused it.
    has_trouble: bool,
    /// What is being asked for by name → its task
    fetching: HashMap<ObjectRef, AbortHandle>,
    /// Of these, those of which something was heard since → the version that will do.
    again: BTreeMap<ObjectRef, Option<Version>>,
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
    /// IngressClasses may not be read.
    are_classes_denied: bool,
    /// What was passed on says so well which Ingresses are whose.
    certainty: Certainty,
    /// Whether what was said so far has all pools.
    knows_pools: Knowledge,
    /// How far it is with looking at all of them again.
    catch_up: CatchUp,
    /// Objects that are there and do not decode.
    undecoded: HashSet<ObjectRef, FixedState>,
    /// Services of which whoever writes status was told.
    balancers: HashSet<ObjectRef, FixedState>,
}

impl KubeSource {
    /// A source that has asked nothing yet. Its news for the status of objects go to `notes`.
    #[must_use]
    pub fn new(config: kube::Config, settings: Settings, notes: Notes) -> Self {
        let named = settings.default_certificate.clone();
        let object = |kind| move |(namespace, name)| ObjectRef { kind, namespace, name };
        let maps = settings.maps.iter().cloned().map(object(Kind::ConfigMap));
        let always: Vec<ObjectRef> = named.map(object(Kind::Secret)).into_iter().chain(maps).collect();
        let awaits_zone = settings.zone.is_none() && settings.node.is_some();
        let claims = Claims::new(settings.classes.clone());
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
            claims,
            wants: Wants::new(&always),
            held: Held::default(),
            has_trouble: false,
            fetching: HashMap::new(),
            again: BTreeMap::new(),
            turns: Arc::new(Semaphore::new(FETCHES)),
            forbidden: BTreeMap::new(),
            disk,
            from_disk: None,
            apart: None,
            awaits_zone,
            events: Vec::new(),
            whole: BTreeSet::new(),
            are_classes_denied: false,
            certainty: Certainty::Unknown,
            knows_pools: Knowledge::Partial,
            catch_up: CatchUp::default(),
            undecoded: HashSet::default(),
            balancers: HashSet::default(),
        }
    }

    /// How far it is, for the admin port.
    #[must_use]
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
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
                let is_stuck = self.is_stuck(now);
                self.disk.read_if_away(&self.progress, is_stuck, started, now, &self.news.0);
            }
            let certainty = self.certainty.max(self.certainty_now());
            let becomes_certain = certainty != self.certainty;
            let known = self.knows_pools.max(self.pools_known());
            let learns_pools = known != self.knows_pools;
            if self.phase == Phase::Live
                && (!was_live || becomes_certain || learns_pools || !self.events.is_empty())
            {
                self.certainty = certainty;
                self.knows_pools = known;
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

    fn certainty(&self) -> Certainty {
        self.certainty
    }

    fn knows_pools(&self) -> Knowledge {
        self.knows_pools
    }

    fn catch_up(&mut self) {
        self.knows_pools = Knowledge::Partial;
        self.begin_to_catch_up();
    }

    fn reread(&mut self) {
        for follower in &self.followers {
            // A feed ends only when we do.
            let _ = follower.orders.send(Order::Reread);
        }
    }
}
