//! Who has which address, and who else may have it. Knows nothing of pools.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use config::report::ObjectRef;
use config::table::Transport;

use super::outcome::Conflict;
use super::request::{Family, Nodes, Request, Sharing};

/// Who has which address.
#[derive(Clone, Debug, Default)]
pub(super) struct Owners {
    /// address → the Services that have it, at least one
    tenancies: BTreeMap<IpAddr, Tenancy>,
    /// terms of sharing, family → addresses that are shared on these terms
    shared: BTreeMap<(Sharing, Family), BTreeSet<IpAddr>>,
}

/// The Services that have one address, all on the same terms.
#[derive(Clone, Debug)]
struct Tenancy {
    /// `None` if the one that has it does not share.
    sharing: Option<Sharing>,
    /// port → who has it
    ports: BTreeMap<(Transport, u16), ObjectRef>,
    /// Service → its ports, at least one Service
    services: BTreeMap<ObjectRef, Box<[(Transport, u16)]>>,
}

impl Owners {
    /// All addresses that somebody has.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.tenancies.keys().copied()
    }

    /// Those that have `address`.
    pub(super) fn of(&self, address: IpAddr) -> Vec<ObjectRef> {
        self.tenancies
            .get(&address)
            .map(|tenancy| tenancy.services.keys().cloned().collect())
            .unwrap_or_default()
    }

    /// Why `service` cannot have `address` in addition to those that have it; `None` if it can.
    pub(super) fn conflict(
        &self,
        service: &ObjectRef,
        request: &Request,
        address: IpAddr,
    ) -> Option<Conflict> {
        let tenancy = self.tenancies.get(&address)?;
        let (other, _) = tenancy.services.iter().find(|(other, _)| *other != service)?;
        let (Some(theirs), Some(ours)) = (&tenancy.sharing, shareable(request)) else {
            return Some(Conflict::NotShared(other.clone()));
        };
        if theirs.key != ours.key {
            return Some(Conflict::NotShared(other.clone()));
        }
        if theirs.nodes != ours.nodes {
            return Some(Conflict::OtherNodes(other.clone()));
        }
        request.ports.iter().find_map(|port| {
            let holder = tenancy.ports.get(port).filter(|holder| *holder != service)?;
            Some(Conflict::Port(holder.clone(), port.0, port.1))
        })
    }

    /// The addresses that are shared on the terms of `request`, the lowest first.
    pub(super) fn shared(&self, request: &Request, family: Family) -> Option<&BTreeSet<IpAddr>> {
        self.shared.get(&(shareable(request)?.clone(), family))
    }

    /// Adds `service` to those that have `address`; there must be no conflict. True if nobody had it.
    pub(super) fn add(&mut self, service: &ObjectRef, request: &Request, address: IpAddr) -> bool {
        let sharing = shareable(request).cloned();
        if let Some(terms) = &sharing {
            self.shared.entry((terms.clone(), Family::of(address))).or_default().insert(address);
        }
        let is_first = !self.tenancies.contains_key(&address);
        let tenancy = self.tenancies.entry(address).or_insert_with(|| Tenancy {
            sharing,
            ports: BTreeMap::new(),
            services: BTreeMap::new(),
        });
        tenancy.ports.extend(request.ports.iter().map(|port| (*port, service.clone())));
        tenancy.services.insert(service.clone(), request.ports.clone());
        is_first
    }

    /// Takes `service` from those that have `address`. True if nobody has it any more.
    pub(super) fn remove(&mut self, service: &ObjectRef, address: IpAddr) -> bool {
        let Some(tenancy) = self.tenancies.get_mut(&address) else { return false };
        let Some(ports) = tenancy.services.remove(service) else { return false };
        for port in &ports {
            if tenancy.ports.get(port) == Some(service) {
                tenancy.ports.remove(port);
            }
        }
        if !tenancy.services.is_empty() {
            return false;
        }
        if let Some(terms) = tenancy.sharing.take() {
            let key = (terms, Family::of(address));
            if let Some(addresses) = self.shared.get_mut(&key) {
                addresses.remove(&address);
                if addresses.is_empty() {
                    self.shared.remove(&key);
                }
            }
        }
        self.tenancies.remove(&address);
        true
    }
}

/// The terms of sharing, if there are any under which others can come.
fn shareable(request: &Request) -> Option<&Sharing> {
    request.sharing.as_ref().filter(|sharing| match &sharing.nodes {
        Nodes::All => true,
        Nodes::WithPods { selector, .. } => !selector.is_empty(),
    })
}
