//! Announcing in a cluster: what nodes agree on, done on the links of this one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use controller::announce::{self, AgreementMetrics, Announce, ForeignClaim, LeaseSettings, Left, Wanted};
use gateway::announce::{Claim, Heard, Hold, Station};
use tokio::sync::mpsc;

use super::desk::Desk;
use super::limit;

/// The links of this host.
struct Links(Station);

impl Announce for Links {
    fn limit(&mut self, wanted: &[Arc<Wanted>]) {
        limit(&mut self.0, wanted);
    }

    fn is_able(&self, address: IpAddr) -> bool {
        self.0.is_able(address)
    }

    fn listen_for(&mut self, addresses: BTreeSet<IpAddr>) {
        self.0.listen_for(addresses);
    }

    fn hold(&mut self, addresses: &BTreeMap<IpAddr, bool>, lifetime: Duration) {
        let hold = |is_firm: &bool| if *is_firm { Hold::Firm } else { Hold::Loose };
        let held: BTreeMap<_, _> = addresses.iter().map(|(address, firm)| (*address, hold(firm))).collect();
        self.0.hold(&held, lifetime);
    }

    fn renew(&mut self, addresses: &BTreeSet<IpAddr>, lifetime: Duration) {
        self.0.renew(addresses, lifetime);
    }

    fn probe(&self, address: IpAddr) {
        self.0.probe(address);
    }

    async fn next(&mut self) -> Option<ForeignClaim> {
        let (Claim { address, mac }, is_conflict) = match self.0.next().await {
            Heard::Links => return None,
            Heard::Claim(claim) => (claim, false),
            Heard::Conflict(claim) => (claim, true),
        };
        Some(ForeignClaim { address, neighbour: mac.to_string(), is_conflict })
    }
}

/// Announces what nodes agree on until `orders` ends.
pub(super) async fn run(
    mut station: Station,
    leases: LeaseSettings,
    desk: Arc<Desk>,
    metrics: Arc<AgreementMetrics>,
    orders: mpsc::UnboundedReceiver<Left>,
) {
    // Others may announce by now what a process before this one left.
    station.clear(&BTreeSet::new());
    let board = desk.board();
    let (kubeconfig, node) = (leases.kubeconfig.clone(), Arc::clone(&leases.node));
    let following = tokio::spawn(async move {
        let tell = |labels| desk.labels(labels);
        let followed = announce::follow_labels(kubeconfig.as_deref(), node, desk.needs_labels(), tell).await;
        if let Err(error) = followed {
            tracing::error!("cannot read the labels of this node: {error}");
        }
    });
    if let Err(error) = announce::run(leases, Links(station), board, metrics, orders).await {
        tracing::error!("cannot announce addresses: {error}");
    }
    following.abort();
}
