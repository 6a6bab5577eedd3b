//! A Backend at run time: its endpoints' state, how it balances, and what belongs to it across swaps.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use config::table::{Backend, Balance, Endpoint, HashKey};
use serde::Serialize;
use tokio::sync::Notify;
use tracing::{info, warn};

use super::affinity::Affinity;
use super::budget::Budget;
use super::endpoint::{EndpointState, EndpointStatus, flag};
use crate::balance::consistent_hash::Ring;
use crate::balance::round_robin::Sequence;
use crate::health::Outcome;
use crate::health::machine::Transition;
use crate::metrics::cells::{BackendCounters, Counter, PerWorker};
use crate::upstream::{Key, TlsIdentity};

/// One Backend of one [`Live`](super::Live). Requests that hold it across a swap keep working with it; picks
/// then avoid what the swap removed.
#[derive(Debug)]
pub struct LiveBackend {
    /// The compiled backend.
    pub config: Arc<Backend>,
    /// State of each endpoint, in the order of [`Backend::endpoints`].
    pub endpoints: Box<[Arc<EndpointState>]>,
    /// How endpoints are spoken to, if not in cleartext.
    pub(crate) tls: Option<Arc<TlsIdentity>>,
    /// What outlives swaps.
    pub state: Arc<BackendState>,
    pub(super) balancer: Balancer,
    /// Health epoch + 1 at which `ignores_health` was computed; 0 = never.
    panic_epoch: AtomicU64,
    panic_verdict: AtomicU32,
    health_epoch: Arc<AtomicU64>,
}

/// What a policy precomputes; shared between versions whose endpoints and weights are the same.
#[derive(Clone, Debug)]
pub(super) enum Balancer {
    /// Round-robin.
    RoundRobin(Arc<Sequence>),
    /// Least connection.
    LeastConnection(Arc<Sequence>),
    /// Consistent hash.
    ConsistentHash(Arc<Ring>),
}

/// What belongs to a Backend across swaps, found again by its name.
#[derive(Debug)]
pub struct BackendState {
    /// `worker → counters`.
    pub counters: PerWorker<BackendCounters>,
    /// Round-robin position. One relaxed atomic for all workers: turns are then exact across workers, which is
    /// what a user sees at low load, and the endpoint's in-flight count is shared anyway.
    position: AtomicU64,
    /// `worker → first attempts`, from which the retry budget is earned.
    first_attempts: PerWorker<Counter>,
    budget: Mutex<Budget>,
    /// Requests that wait for a free slot.
    pub(super) waiting: AtomicU32,
    /// Told of each slot that becomes free while somebody waits.
    pub(super) freed: Notify,
    /// Made when a route first wants it.
    pub(super) affinity: OnceLock<Affinity>,
    /// Held while an ejection is decided, so that the share of ejected endpoints is exact.
    ejecting: Mutex<()>,
}

/// What `/debug/table` and metrics show of a Backend.
#[derive(Clone, Debug, Serialize)]
pub struct BackendStatus {
    /// Display name.
    pub name: Arc<str>,
    /// Endpoints that are healthy.
    pub healthy: usize,
    /// True while so few are healthy that health is ignored.
    pub ignores_health: bool,
    /// Requests that wait for a free slot.
    pub queued: u32,
    /// Every endpoint.
    pub endpoints: Vec<EndpointStatus>,
}

impl BackendState {
    pub(super) fn new(workers: usize, now: Instant) -> Self {
        Self {
            counters: PerWorker::new(workers),
            // Not every gateway that starts at the same moment shall send its first request to one endpoint.
            position: AtomicU64::new(u64::from(fastrand::u32(..))),
            first_attempts: PerWorker::new(workers),
            budget: Mutex::new(Budget::new(now)),
            waiting: AtomicU32::new(0),
            freed: Notify::new(),
            affinity: OnceLock::new(),
            ejecting: Mutex::new(()),
        }
    }

    /// Requests that wait for a free slot now.
    #[must_use]
    pub fn queued(&self) -> u32 {
        self.waiting.load(SeqCst)
    }

    #[inline]
    pub(super) fn next_position(&self) -> u64 {
        self.position.fetch_add(1, Relaxed)
    }

    #[inline]
    pub(super) fn count_first_attempt(&self, worker: usize) {
        if let Some(cell) = self.first_attempts.of(worker) {
            cell.add(1);
        }
    }
}

impl LiveBackend {
    /// `before` is the same Backend's previous version: what it precomputed is kept while still true.
    pub(super) fn new(
        config: Arc<Backend>,
        endpoints: Box<[Arc<EndpointState>]>,
        tls: Option<Arc<TlsIdentity>>,
        state: Arc<BackendState>,
        before: Option<&Self>,
        health_epoch: Arc<AtomicU64>,
    ) -> Self {
        let balancer = Balancer::new(&config, before);
        Self {
            config,
            endpoints,
            tls,
            state,
            balancer,
            panic_epoch: AtomicU64::new(0),
            panic_verdict: AtomicU32::new(0),
            health_epoch,
        }
    }

    /// What connections to `endpoint` are pooled by: they are shared with nobody who would be another to it.
    pub(crate) fn connection_key(&self, endpoint: &EndpointState) -> Key {
        Key { endpoint: endpoint.id, identity: self.tls.as_ref().map_or(0, |tls| tls.id()) }
    }

    /// What a pick's hash is to be computed from (with
    /// [`key_hash`](crate::balance::consistent_hash::key_hash)); `None` if picks do not look at it.
    #[must_use]
    pub fn needs_hash(&self) -> Option<&HashKey> {
        match &self.config.policy.balance {
            Balance::ConsistentHash(key) => Some(key),
            Balance::RoundRobin | Balance::LeastConnection => None,
        }
    }

    /// Tells how an attempt at one of this Backend's endpoints ended. Call once per attempt, before or after its
    /// [`InFlight`](super::InFlight) is dropped; not for attempts that the client abandoned. A success of an
    /// endpoint without recent failures is one relaxed load.
    #[inline]
    pub fn report(&self, endpoint: &EndpointState, outcome: Outcome, now: Instant) {
        if outcome != Outcome::Success || endpoint.wants_successes() {
            self.report_slowly(endpoint, outcome, now);
        }
    }

    #[cold]
    fn report_slowly(&self, endpoint: &EndpointState, outcome: Outcome, now: Instant) {
        let Some(policy) = &self.config.policy.health.passive else { return };
        let turn = (outcome != Outcome::Success && policy.max_ejected < 100)
            .then(|| self.state.ejecting.lock().unwrap_or_else(PoisonError::into_inner));
        let transition =
            endpoint.result(policy, outcome, now, || self.may_eject_one_more(policy.max_ejected));
        drop(turn);
        match transition {
            Some(Transition::Ejected { cause, until }) => warn!(
                backend = &*self.config.name,
                endpoint.addr = %endpoint.address,
                ?cause,
                last_outcome = ?outcome,
                seconds = until.saturating_duration_since(now).as_secs_f32(),
                "endpoint ejected: it gets no requests until a trial request succeeds"
            ),
            Some(Transition::Recovered) if endpoint.is_healthy() => info!(
                backend = &*self.config.name,
                endpoint.addr = %endpoint.address,
                "endpoint is back"
            ),
            Some(Transition::Recovered | Transition::ProbesFailed) | None => {}
        }
    }

    fn may_eject_one_more(&self, max_ejected: u8) -> bool {
        let ejected = self.endpoints.iter().filter(|endpoint| endpoint.flags() & flag::EJECTED != 0).count();
        let most = (self.endpoints.len() * usize::from(max_ejected) / 100).max(1);
        ejected < most
    }

    /// Takes one retry from the Backend's budget: 10 % of its requests plus three per second, with bursts of up
    /// to ten seconds' worth. False = answer with what there is. Takes a lock: for retries only.
    #[must_use]
    pub fn retry_allowed(&self) -> bool {
        let requests = self.state.first_attempts.iter().map(Counter::value).sum();
        self.state.budget.lock().unwrap_or_else(PoisonError::into_inner).take(requests, Instant::now())
    }

    /// A snapshot for `/debug/table` and metrics. Not for the request path.
    #[must_use]
    pub fn status(&self) -> BackendStatus {
        BackendStatus {
            name: Arc::clone(&self.config.name),
            healthy: self.endpoints.iter().filter(|endpoint| endpoint.is_healthy()).count(),
            ignores_health: self.ignores_health(),
            queued: self.state.queued(),
            endpoints: self.endpoints.iter().map(|endpoint| endpoint.status()).collect(),
        }
    }

    /// True while less than the panic threshold of the endpoints is healthy. Computed once per change of any
    /// endpoint's health, and asked only when a pick meets an unhealthy endpoint.
    pub(crate) fn ignores_health(&self) -> bool {
        let epoch = self.health_epoch.load(Acquire) + 1;
        if self.panic_epoch.load(Acquire) == epoch {
            return self.panic_verdict.load(Relaxed) != 0;
        }
        let healthy = self.endpoints.iter().filter(|endpoint| endpoint.is_healthy()).count();
        let panics = healthy * 100 < self.endpoints.len() * usize::from(self.config.policy.panic_threshold);
        self.panic_verdict.store(u32::from(panics), Relaxed);
        self.panic_epoch.store(epoch, Release);
        panics
    }
}

impl Balancer {
    fn new(config: &Backend, before: Option<&LiveBackend>) -> Self {
        let same = |a: &Endpoint, b: &Endpoint| a.address == b.address && a.weight == b.weight;
        let kept = before.filter(|before| {
            let (old, new) = (&before.config.endpoints, &config.endpoints);
            Arc::ptr_eq(old, new)
                || (old.len() == new.len() && old.iter().zip(new.iter()).all(|(a, b)| same(a, b)))
        });
        let sequence = || match kept.map(|before| &before.balancer) {
            Some(Self::RoundRobin(sequence) | Self::LeastConnection(sequence)) => Arc::clone(sequence),
            Some(Self::ConsistentHash(_)) | None => {
                let weights: Vec<u16> = config.endpoints.iter().map(|endpoint| endpoint.weight).collect();
                Arc::new(Sequence::new(&weights))
            }
        };
        match &config.policy.balance {
            Balance::RoundRobin => Self::RoundRobin(sequence()),
            Balance::LeastConnection => Self::LeastConnection(sequence()),
            Balance::ConsistentHash(_) => Self::ConsistentHash(match kept.map(|before| &before.balancer) {
                Some(Self::ConsistentHash(ring)) => Arc::clone(ring),
                Some(Self::RoundRobin(_) | Self::LeastConnection(_)) | None => {
                    let members: Vec<_> = config.endpoints.iter().map(|e| (e.address, e.weight)).collect();
                    Arc::new(Ring::new(&members))
                }
            }),
        }
    }
}
