//! The thread that announces addresses of Services on the links of this host. Traffic goes on whatever becomes of it: it
//! is the addresses that end, by themselves.

mod alone;
mod cluster;
mod desk;

use std::net::IpAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use config::report::ObjectRef;
use controller::announce::{AgreementMetrics, LeaseSettings, Left, Wanted};
use controller::ipam::VirtualAddress;
use gateway::announce::{AnnounceStats, Pattern, Station};
use gateway::live::Shared;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use rustix::thread::CapabilitySet;
use tokio::sync::{mpsc, oneshot};

use self::desk::Desk;
use super::capability;
use super::ended::{Ended, watched};
use crate::cli::{AnnounceKind, RunArgs};

/// What addresses and links need.
const RIGHTS: CapabilitySet = CapabilitySet::NET_ADMIN.union(CapabilitySet::NET_RAW);

/// Takes the addresses of Services.
#[derive(Debug)]
pub(super) struct Addresses(Arc<Desk>);

impl Addresses {
    /// Tells at which addresses these Services are served now.
    pub(super) fn tell(&self, services: &[(ObjectRef, Box<[VirtualAddress]>)]) {
        self.0.services(services);
    }
}

/// What is to be announced, before anything is.
#[derive(Debug)]
pub(super) struct Prospect {
    lease: Duration,
    interfaces: Vec<Pattern>,
    desk: Arc<Desk>,
    figures: Figures,
    /// In a cluster, how nodes agree.
    leases: Option<LeaseSettings>,
}

/// What there is to say of announcing.
#[derive(Clone, Debug, Default)]
pub(super) struct Figures {
    stats: Arc<AnnounceStats>,
    agreement: Option<Arc<AgreementMetrics>>,
}

impl Figures {
    /// Prometheus text.
    pub(super) fn render_metrics(&self, out: &mut String) {
        self.stats.render_metrics(out);
        if let Some(agreement) = &self.agreement {
            agreement.render_metrics(out);
        }
    }
}

/// The running thread.
#[derive(Debug)]
pub(super) struct AnnounceThread {
    thread: JoinHandle<()>,
    /// Ends the thread when it is dropped.
    orders: mpsc::UnboundedSender<Left>,
    lease: Duration,
    ended: Ended,
}

/// Refuses what cannot work. `None` if nothing is announced.
pub(super) fn prepare(args: &RunArgs) -> anyhow::Result<Option<(Addresses, Prospect)>> {
    let given = &args.announce;
    if given.announce == AnnounceKind::None {
        return Ok(None);
    }
    let leases = args.cluster.kubernetes.then(|| leases(args)).transpose()?;
    capability::take(RIGHTS);
    if !capability::has(RIGHTS) {
        anyhow::bail!(
            "--announce l2 needs the capabilities NET_ADMIN (addresses of interfaces) and NET_RAW (ARP and NDP): run as \
             root, or grant both; in a container, add them to securityContext.capabilities.add and use the host's network"
        );
    }
    let all = || vec![IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())];
    let networks = &args.ingress.services.load_balancer_addresses;
    let networks = if networks.is_empty() && leases.is_none() { all() } else { networks.clone() };
    let agreement = leases.is_some().then(Arc::default);
    let desk = Arc::new(Desk::new(networks.into()));
    let prospect = Prospect {
        lease: given.announce_lease,
        interfaces: given.announce_interfaces.clone(),
        desk: Arc::clone(&desk),
        figures: Figures { stats: Arc::default(), agreement },
        leases,
    };
    Ok(Some((Addresses(desk), prospect)))
}

fn leases(args: &RunArgs) -> anyhow::Result<LeaseSettings> {
    let Some(node) = args.ingress.node_name.as_deref() else {
        anyhow::bail!(
            "--announce l2 needs --node-name in a cluster: nodes agree on who announces what by Leases with their names"
        );
    };
    let namespaces = [&args.status.election_namespace, &args.status.pod_namespace];
    let namespace = namespaces.into_iter().flatten().find(|name| !name.is_empty());
    Ok(LeaseSettings {
        kubeconfig: args.cluster.kubeconfig.clone(),
        namespace: namespace.map(|name| name.as_str().into()),
        node: node.into(),
        duration: args.announce.announce_lease,
        tells_events: args.status.update_status,
    })
}

impl Prospect {
    /// The figures.
    pub(super) fn figures(&self) -> Figures {
        self.figures.clone()
    }

    /// Starts the thread, for the gateway of `shared`.
    pub(super) fn start(self, shared: Arc<Shared>) -> anyhow::Result<AnnounceThread> {
        let (orders, ordered) = mpsc::unbounded_channel();
        let (alive, ended) = watched();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let Self { lease, interfaces, desk, figures: Figures { stats, agreement }, leases } = self;
        let station = {
            let _inside = runtime.enter();
            Station::new(interfaces, lease, stats, shared)
                .context("--announce l2: the interfaces of this host cannot be read")?
        };
        let thread = std::thread::Builder::new().name("announce".to_owned()).spawn(move || {
            let _alive = alive;
            runtime.block_on(async {
                match leases {
                    Some(leases) => {
                        let metrics = agreement.unwrap_or_default();
                        cluster::run(station, leases, desk, metrics, ordered).await;
                    }
                    None => alone::run(station, desk.board(), lease, ordered).await,
                }
            });
            // A request that is under way must not be waited for.
            runtime.shutdown_background();
        })?;
        Ok(AnnounceThread { thread, orders, lease, ended })
    }
}

impl AnnounceThread {
    /// Returns when the thread has ended, and only once.
    pub(super) async fn ended(&mut self) {
        self.ended.once().await;
    }

    /// Has others take over what they can, and returns when they have, or after two Leases. Addresses that nobody takes
    /// stay.
    pub(super) async fn leave(&self) {
        let (left, is_done) = oneshot::channel();
        if self.orders.send(left).is_ok() && tokio::time::timeout(self.lease * 2, is_done).await.is_err() {
            tracing::warn!("not all addresses were handed over in time");
        }
    }

    /// Gives up all addresses and ends the thread.
    pub(super) async fn stop(self) {
        let Self { thread, orders, .. } = self;
        drop(orders);
        // A panic of the thread was printed when it happened.
        let _ = tokio::task::spawn_blocking(move || thread.join()).await;
    }
}

/// Tells the station at which interfaces each of `wanted` may be.
fn limit(station: &mut Station, wanted: &[Arc<Wanted>]) {
    let limited = wanted.iter().filter(|one| !one.interfaces.is_empty());
    station.limit(limited.map(|one| (one.address, one.interfaces.clone())).collect());
}

/// The addresses that can be announced from here.
fn able(station: &Station, wanted: &[Arc<Wanted>]) -> impl Iterator<Item = IpAddr> {
    wanted.iter().filter(|one| one.is_able && station.is_able(one.address)).map(|one| one.address)
}
