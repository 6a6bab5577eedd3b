//! The shell of the agreement: Leases of nodes, read and written, and whoever has the addresses told what to do. Decides
//! nothing itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use config::report::ObjectRef;
use futures_util::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use serde_json::json;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::agreement::{Agreement, Record, Word};
use super::events::{Events, Matter};
use super::metrics::AgreementMetrics;
use super::wanted::{Board, Wanted};
use crate::cluster::{self, ClusterError};
use crate::status::clock::Moment;

/// Names of the Leases: this and the node's name.
const PREFIX: &str = "sluicegate-announce-";
/// The label that all of them have.
const LABEL: &str = "sluicegate.dev/announces";
/// What a node says of addresses, the number of its word, and whether it is about to end.
const SAYS: &str = "sluicegate.dev/addresses";
const RENEWAL: &str = "sluicegate.dev/renewal";
const LEAVING: &str = "sluicegate.dev/leaving";
/// A request about a Lease takes no longer, however short Leases are.
const LEAST_TIMEOUT: Duration = Duration::from_millis(300);
/// Between lists.
const RELIST_PAUSE: Duration = Duration::from_millis(20);

/// Whoever has addresses on links.
pub trait Announce {
    /// These are wanted: each may be announced at its interfaces only, from now on.
    fn limit(&mut self, wanted: &[Arc<Wanted>]);
    /// Whether `address` can be announced from here.
    fn is_able(&self, address: IpAddr) -> bool;
    /// These concern us: claims of neighbours are to be told.
    fn listen_for(&mut self, addresses: BTreeSet<IpAddr>);
    /// Announce these and no others; true if nobody else may. New ones end by themselves after `lifetime`.
    fn hold(&mut self, addresses: &BTreeMap<IpAddr, bool>, lifetime: Duration);
    /// Those of `addresses` that are announced end by themselves after `lifetime` from now.
    fn renew(&mut self, addresses: &BTreeSet<IpAddr>, lifetime: Duration);
    /// Asks neighbours who has `address`.
    fn probe(&self, address: IpAddr);
    /// Waits for something to happen: a neighbour claims an address, or something else has changed. Safe to drop.
    fn next(&mut self) -> impl Future<Output = Option<ForeignClaim>>;
}

/// A neighbour says that it has an address that is listened for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ForeignClaim {
    /// Which.
    pub address: IpAddr,
    /// The neighbour, as people know it.
    pub neighbour: String,
    /// It is announced here, and nobody else may.
    pub is_conflict: bool,
}

/// Who takes part, and where.
#[derive(Clone, Debug)]
pub struct LeaseSettings {
    /// Where the configuration is; `None` for the default.
    pub kubeconfig: Option<PathBuf>,
    /// Namespace of the Leases; `None` for that of the configuration.
    pub namespace: Option<Arc<str>>,
    /// This node.
    pub node: Arc<str>,
    /// How long the Lease of a silent node counts; whole seconds.
    pub duration: Duration,
    /// Events are written for Services whose addresses other hosts claim.
    pub tells_events: bool,
}

/// Told when everything was handed over that somebody would take.
pub type Left = oneshot::Sender<()>;

enum Seen {
    All(Vec<(Arc<str>, Record)>),
    Put(Arc<str>, Record),
    Gone(Arc<str>),
}

struct Shell<A> {
    agreement: Agreement,
    announce: A,
    api: Api<Lease>,
    name: String,
    limit: Duration,
    writes: JoinSet<(u64, Option<Arc<str>>)>,
    relist: Arc<Notify>,
    metrics: Arc<AgreementMetrics>,
    left: Option<Left>,
    was_lapsed: u64,
    /// address → whose it is
    services: BTreeMap<IpAddr, Box<[ObjectRef]>>,
    events: Option<Events>,
}

/// Takes part until `orders` ends; a [`Left`] that comes there asks to hand everything over. Gives up all addresses and
/// the Lease at the end. Returns early only with an error. Needs a tokio runtime of its own, with one thread.
///
/// # Errors
/// If there is no usable configuration of an API server.
pub async fn run<A: Announce>(
    settings: LeaseSettings,
    announce: A,
    mut board: watch::Receiver<Board>,
    metrics: Arc<AgreementMetrics>,
    mut orders: mpsc::UnboundedReceiver<Left>,
) -> Result<(), ClusterError> {
    let config = cluster::configuration(settings.kubeconfig.as_deref()).await?;
    let namespace = settings.namespace.as_deref().unwrap_or(&config.default_namespace).to_owned();
    let client = cluster::client(&config)?;
    let events = || Events::new(client.clone(), Arc::clone(&settings.node), Moment::now());
    let events = settings.tells_events.then(events);
    let api = Api::<Lease>::namespaced(client, &namespace);
    let identity = format!("{}_{:016x}", settings.node, fastrand::u64(..));
    let relist = Arc::<Notify>::default();
    let (sender, mut seen) = mpsc::channel(1_024);
    let following = tokio::spawn(follow(api.clone(), settings.duration, sender, Arc::clone(&relist)));
    let mut shell = Shell {
        agreement: Agreement::new(Arc::clone(&settings.node), identity.into(), settings.duration),
        announce,
        api,
        name: format!("{PREFIX}{}", settings.node),
        limit: (settings.duration / 3).max(LEAST_TIMEOUT),
        writes: JoinSet::new(),
        relist,
        metrics,
        left: None,
        was_lapsed: 0,
        services: BTreeMap::new(),
        events,
    };
    let mut is_changed = true;
    loop {
        if std::mem::take(&mut is_changed) {
            // Whoever writes there must not wait.
            let all = board.borrow_and_update().wanted();
            shell.want(&all);
        }
        let next = shell.step();
        let pause = next.since(Moment::now());
        tokio::select! {
            biased;
            order = orders.recv() => match order {
                Some(left) => {
                    shell.agreement.leave();
                    shell.left = Some(left);
                }
                None => break,
            },
            Some(one) = seen.recv() => {
                shell.see(one);
                while let Ok(more) = seen.try_recv() {
                    shell.see(more);
                }
            }
            Some(Ok((renewal, version))) = shell.writes.join_next() => shell.answered(renewal, version),
            claimed = shell.announce.next() => {
                match claimed {
                    Some(claim) => shell.claimed(&claim),
                    None => is_changed = true,
                }
            }
            Ok(()) = board.changed() => is_changed = true,
            () = sleep(pause) => {}
        }
    }
    following.abort();
    shell.end().await;
    Ok(())
}

impl<A: Announce> Shell<A> {
    fn want(&mut self, all: &[Arc<Wanted>]) {
        self.announce.limit(all);
        let here = |one: &Arc<Wanted>| Wanted {
            is_able: one.is_able && self.announce.is_able(one.address),
            ..Wanted::clone(one)
        };
        let here: Vec<Wanted> = all.iter().map(here).collect();
        self.agreement.want(here);
        self.announce.listen_for(all.iter().map(|one| one.address).collect());
        self.services = all.iter().map(|one| (one.address, one.services.clone())).collect();
    }

    fn claimed(&mut self, claim: &ForeignClaim) {
        let (address, now) = (claim.address, Moment::now());
        let matter = match claim.is_conflict {
            true => Matter::Conflict,
            false if self.agreement.claimed(address, now) => {
                tracing::warn!(
                    %address,
                    neighbour = claim.neighbour,
                    "another host has an address of a Service, so it is not announced here; trying again in {} s",
                    Agreement::RETRY.as_secs()
                );
                Matter::InUse
            }
            false => return,
        };
        if let (Some(events), Some(services)) = (&mut self.events, self.services.get(&address)) {
            events.tell(services, address, (matter, &claim.neighbour), now);
        }
    }

    fn see(&mut self, seen: Seen) {
        let now = Moment::now();
        match seen {
            Seen::All(all) => self.agreement.reset(all, now),
            Seen::Put(name, record) => self.agreement.put(&name, record, now),
            Seen::Gone(name) => self.agreement.gone(&name, now),
        }
    }

    /// Does what is to be done now; returns when to look again.
    fn step(&mut self) -> Moment {
        let now = Moment::now();
        let step = self.agreement.step(now);
        self.announce.hold(&step.hold, step.lifetime);
        self.announce.renew(&step.renew, step.lifetime);
        for address in &step.probe {
            self.announce.probe(*address);
        }
        if let Some(word) = step.write {
            self.metrics.writes.fetch_add(1, Relaxed);
            let (api, name, limit) = (self.api.clone(), self.name.clone(), self.limit);
            let relist = Arc::clone(&self.relist);
            self.writes.spawn(async move {
                let renewal = word.renewal;
                let version = timeout(limit, write(&api, &name, word, &relist)).await.ok().flatten();
                (renewal, version)
            });
        }
        let lapses = self.agreement.lapses();
        if lapses > self.was_lapsed {
            tracing::warn!(
                "the Lease of this node was not renewed in time: others may announce its addresses now"
            );
        }
        self.was_lapsed = lapses;
        self.metrics.lapses.store(lapses, Relaxed);
        self.metrics.members.store(u64::try_from(self.agreement.members(now)).unwrap_or(0), Relaxed);
        if self.agreement.has_left(now)
            && let Some(left) = self.left.take()
        {
            // Nobody waits any more if it took too long.
            let _ = left.send(());
        }
        step.next
    }

    fn answered(&mut self, renewal: u64, version: Option<Arc<str>>) {
        if version.is_none() {
            self.metrics.failures.fetch_add(1, Relaxed);
        }
        self.agreement.answered(renewal, version, Moment::now());
    }

    /// Gives up the addresses first, and the Lease after that.
    async fn end(mut self) {
        self.announce.hold(&BTreeMap::new(), Duration::ZERO);
        self.writes.shutdown().await;
        let params = DeleteParams::default();
        let delete = self.api.delete(&self.name, &params);
        if !matches!(timeout(self.limit, delete).await, Ok(Ok(_))) {
            tracing::info!("the Lease of this node could not be deleted; it ends by itself");
        }
    }
}

/// Writes a word; returns the version that the Lease has then. Asks for a list if it has another than we know.
async fn write(api: &Api<Lease>, name: &str, word: Word, relist: &Notify) -> Option<Arc<str>> {
    let annotations = json!({
        SAYS: Record::text(&word.says),
        RENEWAL: word.renewal.to_string(),
        LEAVING: word.is_leaving.to_string(),
    });
    let spec = json!({
        "holderIdentity": &*word.holder,
        "leaseDurationSeconds": word.duration.as_secs(),
        "renewTime": format!("{:.6}", Timestamp::now()),
    });
    let outcome = match word.version {
        Some(version) => {
            let patch = json!({
                "metadata": {"resourceVersion": &*version, "annotations": annotations, "labels": {LABEL: "l2"}},
                "spec": spec,
            });
            api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await
        }
        None => {
            let object = json!({
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": name, "annotations": annotations, "labels": {LABEL: "l2"}},
                "spec": spec,
            });
            match serde_json::from_value::<Lease>(object) {
                Ok(lease) => api.create(&PostParams::default(), &lease).await,
                Err(error) => Err(kube::Error::SerdeError(error)),
            }
        }
    };
    match outcome {
        Ok(lease) => lease.metadata.resource_version.map(Into::into),
        Err(error) => {
            if let kube::Error::Api(status) = &error
                && matches!(status.code, 404 | 409)
            {
                relist.notify_one();
            }
            tracing::debug!(%error, "the Lease of this node was not written");
            None
        }
    }
}

/// Tells `to` of all Leases, forever.
async fn follow(api: Api<Lease>, duration: Duration, to: mpsc::Sender<Seen>, relist: Arc<Notify>) {
    let mut is_failing = false;
    loop {
        match list_and_watch(&api, duration, &to, &relist).await {
            Ok(()) => is_failing = false,
            Err(error) if !is_failing => {
                is_failing = true;
                tracing::warn!(%error, "the Leases of announcing nodes cannot be read; trying again");
            }
            Err(_) => sleep(duration / 10).await,
        }
        sleep(RELIST_PAUSE).await;
    }
}

/// Lists, and then watches until the watch ends, is silent, or another list is asked for.
async fn list_and_watch(
    api: &Api<Lease>,
    duration: Duration,
    to: &mpsc::Sender<Seen>,
    relist: &Notify,
) -> Result<(), String> {
    let text = |error: kube::Error| error.to_string();
    let limit = duration.max(LEAST_TIMEOUT);
    let silent = |_| "no answer in time".to_owned();
    let list = timeout(limit, api.list(&ListParams::default().labels(LABEL))).await.map_err(silent)?;
    let list = list.map_err(text)?;
    let version = list.metadata.resource_version.unwrap_or_default();
    // Only the end of the process closes it.
    let _ = to.send(Seen::All(list.items.into_iter().filter_map(read).collect())).await;
    let params = WatchParams::default().labels(LABEL).timeout(290);
    let stream = timeout(limit, api.watch(&params, &version)).await.map_err(silent)?.map_err(text)?;
    let mut stream = pin!(stream);
    loop {
        // Our own renewals are heard a third of the duration apart.
        let event = tokio::select! {
            event = timeout(duration, stream.next()) => event,
            () = relist.notified() => return Ok(()),
        };
        let seen = match event {
            Ok(Some(Ok(WatchEvent::Added(lease) | WatchEvent::Modified(lease)))) => {
                read(lease).map(|(name, record)| Seen::Put(name, record))
            }
            Ok(Some(Ok(WatchEvent::Deleted(lease)))) => read(lease).map(|(name, _)| Seen::Gone(name)),
            Ok(Some(Ok(WatchEvent::Bookmark(_)))) => None,
            Ok(Some(Ok(WatchEvent::Error(_)) | Err(_)) | None) | Err(_) => return Ok(()),
        };
        if let Some(seen) = seen {
            let _ = to.send(seen).await;
        }
    }
}

/// A node and what its Lease says; `None` if it is not a node's.
fn read(lease: Lease) -> Option<(Arc<str>, Record)> {
    let name = lease.metadata.name?;
    let node = name.strip_prefix(PREFIX).filter(|node| !node.is_empty())?;
    let annotations = lease.metadata.annotations.unwrap_or_default();
    let said = |key: &str| annotations.get(key).map_or("", String::as_str);
    let spec = lease.spec.unwrap_or_default();
    let record = Record {
        version: lease.metadata.resource_version.unwrap_or_default().into(),
        holder: spec.holder_identity.unwrap_or_default().into(),
        renewal: said(RENEWAL).parse().unwrap_or(0),
        duration: Record::duration(spec.lease_duration_seconds.unwrap_or(0)),
        is_leaving: said(LEAVING) == "true",
        says: Record::read(said(SAYS)),
    };
    Some((node.into(), record))
}
