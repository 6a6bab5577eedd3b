//! All state that outlives swaps, found by what it belongs to. Owned by the publisher; workers never see it.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use config::table::{Backend, BackendPolicy, Chunks, Endpoint, HealthPolicy, RouteInfo, RouteTable};
use foldhash::fast::RandomState;

use super::backend::{BackendState, LiveBackend};
use super::endpoint::{EndpointIdentity, EndpointState};
use super::route::RouteCells;
use super::{Live, RouteState};
use crate::tls::Workshop;
use crate::upstream::TlsIdentities;

/// An endpoint is the same one while all of this is.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct EndpointKey {
    address: SocketAddr,
    identity: Option<Arc<str>>,
    health: Arc<HealthPolicy>,
    /// The DNS name that its certificate is verified for, if that is what decides.
    tls_name: Option<Arc<str>>,
}

impl EndpointKey {
    fn new(endpoint: &Endpoint, policy: &BackendPolicy) -> Self {
        let by_dns_name = policy.tls.as_ref().is_some_and(|tls| tls.server_name.is_none());
        Self {
            address: endpoint.address,
            identity: endpoint.identity.clone(),
            health: Arc::clone(&policy.health),
            tls_name: endpoint.dns_name.clone().filter(|_| by_dns_name),
        }
    }
}

/// Maps that a [`Counted`] is split into. A map that grows, or cleans up after many changes, moves all it has:
/// with 100,000 endpoints that is 4 ms in one map and 60 µs in one of these.
const SHARDS: usize = 64;

/// `key → state`, with the number of references from the current table.
#[derive(Debug)]
struct Counted<K, V> {
    shards: Vec<Shard<K, V>>,
    hasher: RandomState,
}

/// `key → (state, references)`.
type Shard<K, V> = HashMap<K, (Arc<V>, u32), RandomState>;

impl<K: Eq + Hash, V> Counted<K, V> {
    fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| HashMap::default()).collect(), hasher: RandomState::default() }
    }

    #[expect(clippy::indexing_slicing, reason = "there are SHARDS shards and the index is below that")]
    fn shard(&mut self, key: &K) -> &mut Shard<K, V> {
        let index = self.hasher.hash_one(key) % SHARDS as u64;
        &mut self.shards[index as usize]
    }

    /// The state of `key` with one more reference, and whether it had to be made.
    fn acquire(&mut self, key: K, make: impl FnOnce() -> V) -> (Arc<V>, bool) {
        let mut made = false;
        let (state, references) = self.shard(&key).entry(key).or_insert_with(|| {
            made = true;
            (Arc::new(make()), 0)
        });
        *references += 1;
        (Arc::clone(state), made)
    }

    /// One reference less; the state if it was the last one.
    fn release(&mut self, key: &K) -> Option<Arc<V>> {
        let shard = self.shard(key);
        let (_, references) = shard.get_mut(key)?;
        *references = references.saturating_sub(1);
        if *references > 0 {
            return None;
        }
        shard.remove(key).map(|(state, _)| state)
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Registry {
    workers: usize,
    endpoints: Counted<EndpointKey, EndpointState>,
    backends: Counted<Arc<str>, BackendState>,
    tls: Workshop,
    identities: TlsIdentities,
    next_endpoint: u64,
    health_epoch: Arc<AtomicU64>,
}

/// What a new table no longer refers to: to be retired once the table is stored.
#[derive(Debug, Default)]
pub(super) struct Released {
    /// Endpoints without a reference left.
    pub(super) endpoints: Vec<Arc<EndpointState>>,
}

/// The former version of a Backend, whose endpoints the new one takes over with their references: what stays costs
/// neither a hash nor a look at a map, so that a change of a Service costs what changes, however many it has.
struct Kept<'l> {
    before: Option<&'l LiveBackend>,
    /// position in [`LiveBackend::endpoints`] → taken over
    taken: Vec<bool>,
    /// From where on endpoints are compared; both versions are sorted by address.
    at: usize,
}

impl<'l> Kept<'l> {
    fn of(before: Option<&'l Arc<LiveBackend>>) -> Self {
        Self { before: before.map(|before| &**before), taken: Vec::new(), at: usize::MAX }
    }

    /// Begins to take over, if endpoints are the same ones under `policy`.
    fn compare(&mut self, policy: &Arc<BackendPolicy>) {
        let Some(before) = self.before.filter(|before| Arc::ptr_eq(&before.config.policy, policy)) else {
            return;
        };
        self.taken = vec![false; before.endpoints.len()];
        self.at = 0;
    }

    /// The state of `endpoint`, if the former version has it. Must be asked in the order of addresses; what is not
    /// found is not lost, but found by its key.
    fn take(&mut self, endpoint: &Endpoint) -> Option<Arc<EndpointState>> {
        let before = self.before?;
        while let Some(known) = before.config.endpoints.get(self.at) {
            if known.address > endpoint.address {
                return None;
            }
            let position = self.at;
            self.at += 1;
            if known.address == endpoint.address {
                let is_same = is_same(known.identity.as_ref(), endpoint.identity.as_ref())
                    && known.dns_name == endpoint.dns_name;
                let state = before.endpoints.get(position).filter(|_| is_same)?;
                *self.taken.get_mut(position)? = true;
                return Some(Arc::clone(state));
            }
        }
        None
    }
}

fn is_same(a: Option<&Arc<str>>, b: Option<&Arc<str>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a == b,
        (None, None) => true,
        _ => false,
    }
}

impl Registry {
    pub(super) fn new(workers: usize) -> Self {
        Self {
            workers,
            endpoints: Counted::new(),
            backends: Counted::new(),
            tls: Workshop::new(),
            identities: TlsIdentities::new(workers),
            next_endpoint: 1,
            health_epoch: Arc::default(),
        }
    }

    /// The next [`Live`]. Costs what changed since `old`; everything else is shared with it.
    pub(super) fn build(&mut self, table: Arc<RouteTable>, old: &Live, now: Instant) -> (Live, Released) {
        let (backends, released) = self.backends(&table.backends, old, now);
        let (routes, cells) = self.routes(&table.routes, old);
        let tls = self.tls.build(&table, &old.table, &old.tls);
        (Live { table, backends, tls, routes, cells }, released)
    }

    fn backends(
        &mut self,
        new: &Chunks<Backend>,
        old: &Live,
        now: Instant,
    ) -> (Chunks<LiveBackend>, Released) {
        let mut backends = old.backends.clone();
        let mut gone = Vec::new();
        new.changes(&old.table.backends, |index, _, config| {
            let before = old.backends.at(index);
            let mut kept = Kept::of(before);
            let live = config.map(|config| Arc::new(self.backend(config, &mut kept, now)));
            gone.extend(before.map(|before| (Arc::clone(before), kept.taken)));
            backends.set(index, live);
        });
        // After everything new is acquired, so that what merely moved keeps its state.
        let mut released = Released::default();
        for (backend, taken) in gone {
            self.release(&backend, &taken, &mut released);
        }
        (backends, released)
    }

    fn backend(&mut self, config: &Arc<Backend>, kept: &mut Kept<'_>, now: Instant) -> LiveBackend {
        let before = kept.before;
        let workers = self.workers;
        let (state, is_new_backend) =
            self.backends.acquire(Arc::clone(&config.name), || BackendState::new(workers, now));
        let before = before.filter(|before| before.config.name == config.name);
        let mut endpoints = Vec::with_capacity(config.endpoints.len());
        kept.compare(&config.policy);
        for endpoint in config.endpoints.iter() {
            if let Some(known) = kept.take(endpoint) {
                known.set_slow_start(config.policy.slow_start);
                endpoints.push(known);
                continue;
            }
            let key = EndpointKey::new(endpoint, &config.policy);
            let identity = EndpointIdentity {
                id: self.next_endpoint,
                address: key.address,
                identity: key.identity.clone(),
                health: Arc::clone(&key.health),
                tls_name: key.tls_name.clone(),
            };
            let epoch = &self.health_epoch;
            let (endpoint, is_new) =
                self.endpoints.acquire(key, || EndpointState::new(identity, workers, Arc::clone(epoch), now));
            endpoint.set_slow_start(config.policy.slow_start);
            if is_new {
                self.next_endpoint += 1;
                // Among endpoints that are all new there is nobody to take the load meanwhile.
                if !is_new_backend {
                    endpoint.warm_up(now);
                }
            }
            endpoints.push(endpoint);
        }
        let tls = config.policy.tls.as_ref().map(|tls| self.identities.of(tls, config.policy.protocol));
        let epoch = Arc::clone(&self.health_epoch);
        LiveBackend::new(Arc::clone(config), endpoints.into(), tls, state, before, epoch)
    }

    /// Gives up what `backend` refers to, but for the endpoints that its successor has `taken` over.
    fn release(&mut self, backend: &LiveBackend, taken: &[bool], released: &mut Released) {
        for (position, endpoint) in backend.config.endpoints.iter().enumerate() {
            if taken.get(position) == Some(&true) {
                continue;
            }
            let key = EndpointKey::new(endpoint, &backend.config.policy);
            released.endpoints.extend(self.endpoints.release(&key));
        }
        self.backends.release(&backend.config.name);
    }

    /// States and counters of the routes of a new table.
    fn routes(&self, new: &Chunks<RouteInfo>, old: &Live) -> (Chunks<RouteState>, Arc<RouteCells>) {
        let cells = old.cells.grown(new.len(), self.workers);
        let mut routes = old.routes.clone();
        let mut gone = HashMap::<_, _, RandomState>::default();
        let mut came = Vec::new();
        new.changes(&old.table.routes, |index, before, info| {
            if before.is_some()
                && let Some(state) = old.routes.at(index)
            {
                gone.insert(
                    (state.info.object.clone(), Arc::clone(&state.info.name)),
                    (index, Arc::clone(state)),
                );
            }
            came.push((index, info.cloned()));
        });
        for (index, info) in came {
            let state = info.map(|info| match gone.get(&(info.object.clone(), Arc::clone(&info.name))) {
                Some((slot, state)) if *slot == index => Arc::clone(state),
                moved => {
                    let moved = moved.map(|(_, state)| &**state);
                    Arc::new(RouteState::new(&cells, index, &info, moved))
                }
            });
            routes.set(index, state);
        }
        (routes, cells)
    }
}
