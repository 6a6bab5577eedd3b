//! A pool as the allocator knows it: which addresses it has, which of them are taken, and whom it admits.

use std::net::IpAddr;
use std::sync::Arc;

use config::report::ObjectRef;
use config::resource::{AddressPool, AddressRange, ServiceAllocation};

use super::closed::Closed;
use super::request::{Family, Request};
use super::runs::Runs;
use super::space::Space;

/// A pool with what is taken of it.
#[derive(Clone, Debug)]
pub(super) struct Pool {
    pub(super) name: ObjectRef,
    /// It cannot be read as a whole.
    pub(super) is_partial: bool,
    auto_assign: bool,
    allocation: ServiceAllocation,
    spaces: [Space; 2],
    /// How many addresses are before each that is taken.
    taken: [Runs; 2],
    /// First and last place of what nobody gets, sorted; they do not overlap.
    closed: [Vec<(u128, u128)>; 2],
}

/// How much of a pool is in use.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Usage {
    /// IPv4 addresses that Services have.
    pub assigned_v4: u128,
    /// IPv6 addresses that Services have.
    pub assigned_v6: u128,
    /// IPv4 addresses that are left.
    pub available_v4: u128,
    /// IPv6 addresses that are left.
    pub available_v6: u128,
}

impl Pool {
    pub(super) fn new(name: ObjectRef, pool: &AddressPool) -> Self {
        let spec = &pool.spec;
        let space = |family| Space::new(family, &spec.addresses, spec.avoid_buggy_ips);
        Self {
            name,
            is_partial: pool.is_partial,
            auto_assign: spec.auto_assign,
            allocation: spec.service_allocation.clone(),
            spaces: Family::ALL.map(space),
            taken: [Runs::default(), Runs::default()],
            closed: [Vec::new(), Vec::new()],
        }
    }

    /// Nobody gets addresses of these networks from it.
    pub(super) fn close(&mut self, closed: &Closed) {
        for family in Family::ALL {
            let networks = closed.iter().filter(|(network, _)| Family::of(network.addr()) == family);
            let space = family.pick(&self.spaces);
            let mut places: Vec<(u128, u128)> = networks
                .flat_map(|(network, _)| space.places(network.network(), network.broadcast()))
                .collect();
            places.sort_unstable();
            places.dedup_by(|next, last| {
                let is_one = next.0 <= last.1;
                last.1 = if is_one { last.1.max(next.1) } else { last.1 };
                is_one
            });
            *family.pick_mut(&mut self.closed) = places;
        }
    }

    /// In which order pools are looked at: those for certain Services first (whoever has a pool of its own is to leave the
    /// others' alone), then by priority, then by name.
    pub(super) fn order(&self) -> (bool, u64, Arc<str>, ObjectRef) {
        let priority = match self.allocation.priority {
            0 => u64::from(u32::MAX) + 1,
            priority => u64::from(priority),
        };
        (!self.allocation.is_limited(), priority, Arc::clone(&self.name.name), self.name.clone())
    }

    /// Whether it is the one that is meant by `name`.
    pub(super) fn is_named(&self, name: &str) -> bool {
        *self.name.name == *name
    }

    /// Whether a Service may have addresses of it if it asks for them.
    pub(super) fn admits(&self, service: &ObjectRef, request: &Request) -> bool {
        let is_named = request.pool.as_ref().is_none_or(|name| self.is_named(name));
        is_named
            && self
                .allocation
                .admits((&service.namespace, request.namespace_labels.as_deref()), &request.labels)
    }

    /// Whether a Service gets addresses of it that it did not ask for by themselves.
    pub(super) fn offers(&self, service: &ObjectRef, request: &Request) -> bool {
        !self.is_partial && (self.auto_assign || request.pool.is_some()) && self.admits(service, request)
    }

    pub(super) fn has(&self, address: IpAddr) -> bool {
        Family::of(address).pick(&self.spaces).rank(address).is_some()
    }

    pub(super) fn has_family(&self, family: Family) -> bool {
        family.pick(&self.spaces).size() > 0
    }

    /// The lowest address that nobody has and that somebody may get.
    pub(super) fn lowest_free(&self, family: Family) -> Option<IpAddr> {
        let (space, closed) = (family.pick(&self.spaces), family.pick(&self.closed));
        let mut place = 0;
        loop {
            place = family.pick(&self.taken).gap_from(place);
            let at = closed.partition_point(|(first, _)| *first <= place).checked_sub(1);
            match at.and_then(|at| closed.get(at)).filter(|(_, last)| place <= *last) {
                Some((_, last)) if *last < space.size() => place = last + 1,
                _ => return space.at(family, place),
            }
        }
    }

    /// Notes that somebody has `address`, if it is one of the pool's.
    pub(super) fn take(&mut self, address: IpAddr) {
        let family = Family::of(address);
        if let Some(rank) = family.pick(&self.spaces).rank(address) {
            family.pick_mut(&mut self.taken).insert(rank);
        }
    }

    /// Notes that nobody has `address` any more.
    pub(super) fn give_back(&mut self, address: IpAddr) {
        let family = Family::of(address);
        if let Some(rank) = family.pick(&self.spaces).rank(address) {
            family.pick_mut(&mut self.taken).remove(rank);
        }
    }

    pub(super) fn usage(&self) -> Usage {
        let [taken_v4, taken_v6] = &self.taken;
        let [v4, v6] = &self.spaces;
        let [closed_v4, closed_v6] = &self.closed;
        let available = |space: &Space, taken: &Runs, closed: &[(u128, u128)]| {
            let shut = |(first, last): &(u128, u128)| last - first + 1 - taken.within(*first, *last);
            space.size() - taken.len() - closed.iter().map(shut).sum::<u128>()
        };
        Usage {
            assigned_v4: taken_v4.len(),
            assigned_v6: taken_v6.len(),
            available_v4: available(v4, taken_v4, closed_v4),
            available_v6: available(v6, taken_v6, closed_v6),
        }
    }
}

/// Pools that have addresses in common: whichever is looked at first gives them, which is rarely what was meant.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Overlap {
    /// One.
    pub pool: ObjectRef,
    /// The other one.
    pub other: ObjectRef,
    /// The lowest address that both have.
    pub address: IpAddr,
}

/// Which of `pools` have addresses in common, each pair once.
pub(super) fn overlaps<'a>(pools: impl Iterator<Item = (&'a ObjectRef, &'a AddressPool)>) -> Vec<Overlap> {
    let of_pool = |(name, pool): (&'a ObjectRef, &'a AddressPool)| {
        pool.spec.addresses.iter().map(move |range| (*range, name))
    };
    let mut ranges: Vec<(AddressRange, &ObjectRef)> = pools.flat_map(of_pool).collect();
    ranges.sort_unstable();
    let mut found: Vec<Overlap> = Vec::new();
    // Those before that are not over yet.
    let mut open: Vec<(AddressRange, &ObjectRef)> = Vec::new();
    for (range, name) in ranges {
        open.retain(|(before, _)| before.last() >= range.first());
        for (_, other) in open.iter().filter(|(_, other)| *other != name) {
            let (pool, other) = if name < *other { (name, *other) } else { (*other, name) };
            if !found.iter().any(|known| known.pool == *pool && known.other == *other) {
                found.push(Overlap { pool: pool.clone(), other: other.clone(), address: range.first() });
            }
        }
        open.push((range, name));
    }
    found
}
