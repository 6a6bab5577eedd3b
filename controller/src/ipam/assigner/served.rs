//! Where Services are served, for whoever announces that: one Service at a time. Decides on no address.

use std::collections::BTreeMap;

use config::report::{Kind, ObjectRef};
use config::resource::L2Advertisement;

use super::super::virtual_address::{Announcement, VirtualAddress};
use super::Assigner;

impl Assigner {
    /// The addresses at which `service` is served, and where each may be announced from; none if it is not ours.
    /// `has_local` says whether it has a ready endpoint on this node. What it says of a Service is something else only
    /// after [`Self::give`] has named it, or when `has_local` is.
    #[must_use]
    pub fn addresses_of(
        &self,
        service: &ObjectRef,
        has_local: impl FnOnce() -> bool,
    ) -> Box<[VirtualAddress]> {
        let Some(known) = self.services.get(service) else { return Box::default() };
        let has_local = known.needs_local && has_local();
        let at = |address, pool, announcements| VirtualAddress {
            address,
            pool,
            announcements,
            needs_local: known.needs_local,
            has_local,
        };
        let Some(told) = &known.told else {
            let asked = self.asked(service, known).addresses;
            return asked.iter().map(|address| at(*address, None, Box::default())).collect();
        };
        let assigned = self.allocator.outcome(service).map(|outcome| outcome.assigned).unwrap_or_default();
        let one = |address| {
            let pool = assigned.iter().find(|one| one.address == address).map(|one| one.pool.clone());
            let announced = pool.as_ref().map(|pool| self.announcements(pool, &known.wish.labels));
            at(address, pool, announced.unwrap_or_default())
        };
        told.addresses.iter().copied().map(one).collect()
    }

    /// Whether the Service is one whose endpoints on this node matter.
    #[must_use]
    pub fn needs_local(&self, service: &ObjectRef) -> bool {
        self.services.get(service).is_some_and(|known| known.needs_local)
    }

    /// From where addresses of `pool` are announced for a Service with these `labels`. A pool of ours that no advertisement
    /// names is announced everywhere, one of MetalLB's nowhere, as with MetalLB.
    fn announcements(&self, pool: &ObjectRef, labels: &BTreeMap<String, String>) -> Box<[Announcement]> {
        let Some(known) = self.pools.get(pool) else { return Box::default() };
        let mut named =
            self.advertisements.values().filter(|one| one.announces(&pool.name, &known.labels)).peekable();
        if named.peek().is_none() && pool.kind == Kind::AddressPool {
            return Box::new([Announcement::default()]);
        }
        let is_for = |one: &&L2Advertisement| {
            let selectors = &one.service_selectors;
            selectors.is_empty() || selectors.iter().any(|selector| selector.selects(labels))
        };
        let announcement = |one: &L2Advertisement| Announcement {
            interfaces: one.interfaces.clone().into(),
            node_selectors: one.node_selectors.clone().into(),
        };
        named.filter(is_for).map(announcement).collect()
    }
}
