//! What there is to say about pools: ranges that no Service gets, pools that overlap each other, or the cluster's own
//! networks. Decides on no address.

use std::collections::BTreeMap;
use std::net::IpAddr;

use config::index::{Change, Index};
use config::report::{Kind, ObjectRef, Problem, Severity};
use config::resource::{AddressPool, AddressRange, Object, ObjectSpec};
use ipnet::IpNet;

use super::{Assigner, Overlap};

/// Where a pool says what it has.
const ADDRESSES: &str = "spec.addresses";

type Pools = BTreeMap<ObjectRef, AddressPool>;

/// Addresses of pools that Pods and nodes of the cluster have as endpoints. Their networks are seen by what is in them:
/// whoever may read EndpointSlices need not be allowed to read nodes, and not every network of Pods stands there.
#[derive(Debug, Default)]
pub(super) struct Taken(BTreeMap<ObjectRef, (ObjectRef, IpAddr)>);

impl Taken {
    /// Looks at what changed, or at everything if pools did. True if there is something else to say. Without pools,
    /// there is nothing.
    pub(super) fn look(
        &mut self,
        index: &Index,
        change: &Change,
        pools: Option<&Pools>,
        are_pools_touched: bool,
    ) -> bool {
        let Some(pools) = pools.filter(|pools| !pools.is_empty()) else {
            return !std::mem::take(&mut self.0).is_empty();
        };
        let is_of_known = |object: &ObjectRef| self.0.values().any(|(by, _)| by == object);
        if are_pools_touched || change.objects().any(is_of_known) {
            let former = std::mem::take(&mut self.0);
            index.objects().for_each(|object| self.note(object, pools));
            return self.0 != former;
        }
        let before = self.0.len();
        change
            .objects()
            .filter_map(|object| index.object(object))
            .for_each(|object| self.note(object, pools));
        self.0.len() != before
    }

    /// Notes the first address of each pool that `object` has.
    fn note(&mut self, object: &Object, pools: &Pools) {
        for address in own_addresses(object) {
            for (pool, of) in pools {
                let has = of.spec.addresses.iter().any(|range| range.has(address));
                if has && !self.0.contains_key(pool) {
                    self.0.insert(pool.clone(), (object.reference.clone(), address));
                }
            }
        }
    }
}

/// Endpoints that are on a node: anybody may write others, such as an address of a pool that is reached from within. Nor
/// is anybody refused because of these.
fn own_addresses(object: &Object) -> impl Iterator<Item = IpAddr> {
    let endpoints = match &object.spec {
        ObjectSpec::EndpointSlice(slice) => &*slice.endpoints,
        _ => [].as_slice(),
    };
    let on_nodes =
        endpoints.iter().filter(|one| one.locality.as_ref().is_some_and(|locality| locality.node.is_some()));
    on_nodes.map(|one| one.address)
}

impl Assigner {
    /// All there is to say.
    pub(super) fn problems(&self, index: &Index) -> Vec<Problem> {
        let refused = self.refused.iter();
        let refused = refused.flat_map(|(pool, ranges)| ranges.iter().map(move |range| (pool, *range)));
        let refused = refused.map(|(pool, (at, range))| refusal(index, pool, at, range));
        let taken = self.taken.0.iter().map(|(pool, (by, address))| collision(index, pool, by, *address));
        let closed = self.pools.iter().flat_map(|(pool, of)| self.closures(index, pool, of));
        let overlaps = self.overlaps.iter().map(|one| overlap(index, one));
        overlaps.chain(refused).chain(taken).chain(closed).collect()
    }

    /// The cluster's own networks that `pool` has addresses of, in one problem for each kind of object that they are of.
    fn closures(&self, index: &Index, pool: &ObjectRef, of: &AddressPool) -> Vec<Problem> {
        let mut found: BTreeMap<Kind, (IpNet, &ObjectRef, usize)> = BTreeMap::new();
        for (network, object) in self.allocator.closed.iter() {
            let (first, last) = (network.network(), network.broadcast());
            if of.spec.addresses.iter().any(|range| range.first() <= last && first <= range.last()) {
                found.entry(object.kind).or_insert((network, object, 0)).2 += 1;
            }
        }
        found
            .into_values()
            .map(|(network, object, count)| closure(index, pool, (network, object), count))
            .collect()
    }
}

fn closure(index: &Index, pool: &ObjectRef, (network, object): (IpNet, &ObjectRef), count: usize) -> Problem {
    let more = match count {
        0 | 1 => String::new(),
        count => format!(" (and {} more like it)", count - 1),
    };
    let message = format!(
        "{network} is the cluster's own, of {object}{more}: no Service gets an address of it, and one that has one keeps \
         it; choose addresses that the cluster does not use"
    );
    warning(index, pool, ADDRESSES.to_owned(), "OverlapsCluster", message)
}

fn collision(index: &Index, pool: &ObjectRef, by: &ObjectRef, address: IpAddr) -> Problem {
    let message = format!(
        "{address} is in use by {by}, so that the pool overlaps the network of Pods or nodes: a Service that gets such an \
         address takes what is meant for others; choose addresses that the cluster does not use"
    );
    warning(index, pool, ADDRESSES.to_owned(), "OverlapsCluster", message)
}

fn refusal(index: &Index, pool: &ObjectRef, at: usize, range: AddressRange) -> Problem {
    let message = format!(
        "{range} has addresses of loopback, which reach nobody but their own host: no Service gets any of it, unless \
         --load-balancer-addresses has all of it"
    );
    warning(index, pool, format!("spec.addresses[{at}]"), "RefusedAddress", message)
}

fn overlap(index: &Index, Overlap { pool, other, address }: &Overlap) -> Problem {
    let message = format!(
        "{address}, and perhaps more, is in {pool} as well; each address is given once, by whichever pool is looked at \
         first"
    );
    warning(index, other, ADDRESSES.to_owned(), "OverlappingPools", message)
}

fn warning(index: &Index, of: &ObjectRef, field: String, reason: &'static str, message: String) -> Problem {
    Problem {
        object: of.clone(),
        location: index.object(of).and_then(|object| object.location.clone()),
        field,
        severity: Severity::Warning,
        reason,
        message,
    }
}
