//! Addresses that are others' whatever pools and Services say: of networks of the cluster, and of Services that cannot be
//! read. Gives none to anybody.

use std::net::IpAddr;

use config::report::{Kind, ObjectRef};
use config::resource::Holding;
use ipnet::IpNet;

use super::{Assigner, Known, Role};
use crate::ipam::outcome::{Conflict, Lack};

impl Assigner {
    /// What can be read of the addresses of a Service that cannot be read as a whole.
    pub(super) fn hold(&mut self, service: &ObjectRef, holding: Option<&Holding>) {
        let former = match holding {
            Some(holding) => self.holdings.insert(service.clone(), holding.clone()),
            None if self.holdings.is_empty() => return,
            None => self.holdings.remove(service),
        };
        self.are_holdings_touched |= former.as_ref() != holding;
    }

    /// These are `object`'s networks now; in a cluster, for files say nothing of it.
    pub(super) fn close(&mut self, object: &ObjectRef, networks: Box<[IpNet]>) {
        if self.role == Role::Alone {
            return;
        }
        for network in self.allocator.close(object, networks) {
            let (first, last) = (network.network(), network.broadcast());
            // Of two families, one is before the other as a whole.
            let mut ranges = self.pools.values().flat_map(|pool| pool.spec.addresses.iter());
            self.are_pools_touched |= ranges.any(|range| range.first() <= last && first <= range.last());
            let asking = self.asking.range(first..=last);
            self.touched.extend(asking.flat_map(|(_, all)| all).map(|(_, service)| service.clone()));
        }
    }

    /// Why a Service that no pool decides on cannot have an `address` that it asks for. What it has on record it keeps; and
    /// an operator who names this very address, of a node, as one that may be asked for means it.
    pub(super) fn barred(&self, service: &ObjectRef, known: &Known, address: IpAddr) -> Option<Lack> {
        if known.wish.recorded.contains(&address) {
            return None;
        }
        if let Some(other) = self.allocator.holdings.holder(service, address) {
            return Some(Lack::InUse(address, Conflict::Unreadable(other.clone())));
        }
        let (network, object) = self.allocator.closed.by(address)?;
        let own = IpNet::from(address);
        let is_meant =
            object.kind == Kind::Node && network == own && self.settings.requestable.contains(&own);
        (!is_meant).then(|| Lack::Closed(address, network, object.clone()))
    }

    /// Whether some address that it asks for is such a one.
    pub(super) fn is_barred(&self, service: &ObjectRef, known: &Known) -> bool {
        known.requested.iter().any(|address| self.barred(service, known, *address).is_some())
    }
}
