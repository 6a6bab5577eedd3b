//! The thread that announces addresses of Services on the links of this host. Traffic goes on whatever becomes of it: it
//! is the addresses that end, by themselves.

mod alone;

use std::net::IpAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use config::table::RouteTable;
use controller::announce::{Wanted, wanted};
use gateway::announce::{AnnounceStats, Pattern, Station};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use rustix::thread::CapabilitySet;
use tokio::sync::{oneshot, watch};

use super::capability;
use crate::cli::{AnnounceKind, RunArgs};

/// What addresses and links need.
const RIGHTS: CapabilitySet = CapabilitySet::NET_ADMIN.union(CapabilitySet::NET_RAW);

/// Takes the addresses of each table.
#[derive(Debug)]
pub(super) struct Addresses {
    networks: Box<[IpNet]>,
    wanted: watch::Sender<Arc<[Wanted]>>,
}

impl Addresses {
    /// Tells which addresses `table` has, if others than before.
    pub(super) fn of(&self, table: &RouteTable) {
        let now = wanted(table, &self.networks);
        self.wanted.send_if_modified(|last| {
            let is_new = *last != now;
            *last = now;
            is_new
        });
    }
}

/// What is to be announced, before anything is.
#[derive(Debug)]
pub(super) struct Prospect {
    lease: Duration,
    interfaces: Vec<Pattern>,
    wanted: watch::Receiver<Arc<[Wanted]>>,
    stats: Arc<AnnounceStats>,
}

/// The running thread.
#[derive(Debug)]
pub(super) struct AnnounceThread {
    thread: JoinHandle<()>,
    stop: oneshot::Sender<()>,
    /// Disconnects when the thread ends, also by a panic.
    ended: Option<oneshot::Receiver<()>>,
}

/// Refuses what cannot work. `None` if nothing is announced.
pub(super) fn prepare(args: &RunArgs) -> anyhow::Result<Option<(Addresses, Prospect)>> {
    let given = &args.announce;
    if given.announce == AnnounceKind::None {
        return Ok(None);
    }
    if args.cluster.kubernetes {
        anyhow::bail!("--announce l2 works with --config only so far");
    }
    capability::take(RIGHTS);
    if !capability::has(RIGHTS) {
        anyhow::bail!(
            "--announce l2 needs the capabilities NET_ADMIN (addresses of interfaces) and NET_RAW (ARP and NDP): run as \
             root, or grant both; in a container, add them to securityContext.capabilities.add and use the host's network"
        );
    }
    let all = || vec![IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())];
    let networks = &args.ingress.services.load_balancer_addresses;
    let networks = if networks.is_empty() { all() } else { networks.clone() };
    let (sender, wanted) = watch::channel(Arc::default());
    let prospect = Prospect {
        lease: given.announce_lease,
        interfaces: given.announce_interfaces.clone(),
        wanted,
        stats: Arc::default(),
    };
    Ok(Some((Addresses { networks: networks.into(), wanted: sender }, prospect)))
}

impl Prospect {
    /// The figures.
    pub(super) fn stats(&self) -> Arc<AnnounceStats> {
        Arc::clone(&self.stats)
    }

    /// Starts the thread.
    pub(super) fn start(self) -> anyhow::Result<AnnounceThread> {
        let (stop, stopped) = oneshot::channel();
        let (alive, ended) = oneshot::channel::<()>();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let Self { lease, interfaces, wanted, stats } = self;
        let station = {
            let _inside = runtime.enter();
            Station::new(interfaces, stats)
                .context("--announce l2: the interfaces of this host cannot be read")?
        };
        let thread = std::thread::Builder::new().name("announce".to_owned()).spawn(move || {
            let _alive = alive;
            runtime.block_on(alone::run(station, wanted, lease, stopped));
        })?;
        Ok(AnnounceThread { thread, stop, ended: Some(ended) })
    }
}

impl AnnounceThread {
    /// Returns when the thread has ended, and only once.
    pub(super) async fn ended(&mut self) {
        match self.ended.as_mut() {
            Some(ended) => {
                let _ = ended.await;
                self.ended = None;
            }
            None => std::future::pending().await,
        }
    }

    /// Gives up all addresses and ends the thread.
    pub(super) async fn stop(self) {
        let Self { thread, stop, .. } = self;
        drop(stop);
        // A panic of the thread was printed when it happened.
        let _ = tokio::task::spawn_blocking(move || thread.join()).await;
    }
}

/// The addresses that can be announced from here.
fn able(station: &Station, wanted: &[Wanted]) -> impl Iterator<Item = IpAddr> {
    wanted.iter().filter(|one| one.is_able && station.is_able(one.address)).map(|one| one.address)
}
