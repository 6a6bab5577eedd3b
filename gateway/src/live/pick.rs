//! Choosing an endpoint for one attempt. No allocation, no lock.

use std::cell::Cell;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use thiserror::Error;

use super::affinity::{Affinity, Place};
use super::backend::{BackendState, Balancer, LiveBackend};
use super::endpoint::{EndpointState, flag};
use crate::balance::{FULL, Pool, consistent_hash, least_conn, round_robin};

/// Choices lost to other workers (a slot or a trial taken in between) before a pick takes any endpoint in order.
const MOST_LOST: usize = 4;

/// What a pick may look at.
#[derive(Clone, Copy, Debug)]
pub struct PickRequest<'a> {
    /// Hash of the hash key, by [`key_hash`](consistent_hash::key_hash); 0 if unused.
    pub hash: u64,
    /// Ids of endpoints that failed within this request; empty on the first attempt.
    pub exclude: &'a [u64],
    /// The present.
    pub now: Instant,
    /// Index of the calling worker, `0..workers`; no two threads may use the same.
    pub worker: usize,
    /// Most that may be in flight per endpoint besides what the Backend allows; 0 = no other cap.
    pub cap: u32,
    /// A key of a consistent hash keeps its endpoint however much that has in flight. For connections, which stay:
    /// spreading those of one client would leave nothing of the choice.
    pub is_sticky: bool,
    /// Only endpoints of IPv4 (true) or IPv6 (false), as they are spoken to from an address of that family; any when absent.
    pub ipv4: Option<bool>,
}

/// Why no endpoint was picked.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum PickError {
    /// No endpoint may be used.
    #[error("no endpoint may be used")]
    NoEndpoint,
    /// Endpoints exist, but each has as many requests in flight as it may.
    #[error("every endpoint is at its cap of requests")]
    AtCapacity,
    /// Endpoints exist, but all are of the family that was not asked for.
    #[error("every endpoint is of the other family")]
    OtherFamily,
}

/// One attempt in flight: counts until dropped, also by a panic.
#[derive(Debug)]
pub struct InFlight {
    endpoint: Arc<EndpointState>,
    /// Whose queue to tell of the free slot; `None` without a cap.
    queue: Option<Arc<BackendState>>,
    trial: bool,
}

impl InFlight {
    /// Whether it is the one trial after an ejection.
    pub(crate) const fn is_trial(&self) -> bool {
        self.trial
    }

    /// The picked endpoint.
    #[must_use]
    pub const fn endpoint(&self) -> &Arc<EndpointState> {
        &self.endpoint
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.trial {
            self.endpoint.end_trial();
        }
        self.endpoint.leave();
        if let Some(state) = &self.queue
            && state.waiting.load(SeqCst) > 0
        {
            state.freed.notify_one();
        }
    }
}

impl LiveBackend {
    /// Picks the endpoint for one attempt.
    ///
    /// In this order: endpoints that are healthy, current, below their cap and not excluded; the same including
    /// unhealthy ones if so few are healthy that health is ignored (a retry prefers healthy ones even then);
    /// excluded ones, if they are the only ones; and what the last swap removed, if it removed all. An endpoint
    /// whose ejection is over gets one request at a time as a trial.
    ///
    /// Counts `no_endpoint`; the caller must not.
    ///
    /// # Errors
    /// [`PickError::AtCapacity`] if all that could serve are at their cap, or others already wait for a slot:
    /// see [`Self::wait_for_slot`]. [`PickError::NoEndpoint`] if waiting would not help.
    pub fn pick(&self, request: &PickRequest<'_>) -> Result<InFlight, PickError> {
        if request.exclude.is_empty() {
            self.state.count_first_attempt(request.worker);
        }
        if self.cap(request) > 0 && self.state.queued() > 0 {
            return Err(PickError::AtCapacity);
        }
        self.pick_now(request)
    }

    /// As [`Self::pick`], but a client whose address was here within `affinity` gets the endpoint that it had, as long as
    /// that one may be used. Takes a lock if there is an affinity.
    ///
    /// # Errors
    /// As [`Self::pick`].
    pub fn pick_for(
        &self,
        client: IpAddr,
        affinity: Option<Duration>,
        request: &PickRequest<'_>,
    ) -> Result<InFlight, PickError> {
        let Some(timeout) = affinity else { return self.pick(request) };
        let known = self.state.affinity.get_or_init(Affinity::new);
        let former = known.find(client, request.now, timeout);
        if let Some((place, picked)) = former.and_then(|place| Some((place, self.pick_at(place, request)?))) {
            known.remember(client, place, request.now);
            return Ok(picked);
        }
        let picked = self.pick(request)?;
        let mut unusable = former;
        for _ in 0..MOST_LOST {
            let place = Place::of(picked.endpoint());
            // Connections that come at once each look for a place; the first one to find it decides.
            let Some(other) = known.settle(client, place, unusable, request.now, timeout) else { break };
            match self.pick_at(other, request) {
                Some(theirs) => return Ok(theirs),
                None => unusable = Some(other),
            }
        }
        Ok(picked)
    }

    /// As [`Self::wait_for_slot`] after [`Self::pick_for`], for the same client.
    ///
    /// # Errors
    /// As [`Self::wait_for_slot`].
    pub async fn wait_for(
        &self,
        client: IpAddr,
        affinity: Option<Duration>,
        request: &PickRequest<'_>,
    ) -> Result<InFlight, PickError> {
        let picked = self.wait_for_slot(request).await?;
        if affinity.is_some() {
            let known = self.state.affinity.get_or_init(Affinity::new);
            known.remember(client, Place::of(picked.endpoint()), Instant::now());
        }
        Ok(picked)
    }

    /// This very endpoint, if it may be used.
    fn pick_at(&self, place: Place, request: &PickRequest<'_>) -> Option<InFlight> {
        let index = self.config.endpoints.binary_search_by_key(&place.address, |one| one.address).ok()?;
        let view = self.view(request);
        let is_same = self.endpoints.get(index)?.id == place.id;
        (is_same && view.ramp(index).is_some()).then(|| view.enter(index))?
    }

    fn view<'v>(&'v self, request: &'v PickRequest<'v>) -> View<'v> {
        View {
            backend: self,
            request,
            cap: self.cap(request),
            strict: !request.exclude.is_empty(),
            excluded: false,
            retired: false,
            capped: Cell::new(false),
        }
    }

    /// The stricter one of two caps, of which 0 is none.
    fn cap(&self, request: &PickRequest<'_>) -> u32 {
        match (self.config.policy.max_requests_per_endpoint, request.cap) {
            (cap, 0) | (0, cap) => cap,
            (one, other) => one.min(other),
        }
    }

    /// [`Self::pick`] without regard to the queue.
    pub(super) fn pick_now(&self, request: &PickRequest<'_>) -> Result<InFlight, PickError> {
        let view = self.view(request);
        if let Some(picked) = view.attempt() {
            return Ok(picked);
        }
        let lenient = View { strict: false, ..view };
        if !request.exclude.is_empty()
            && let Some(picked) = lenient.attempt()
        {
            return Ok(picked);
        }
        if lenient.capped.get() {
            return Err(PickError::AtCapacity);
        }
        for (excluded, retired) in [(true, false), (false, true), (true, true)] {
            let view = View { excluded, retired, capped: Cell::new(false), ..lenient };
            if let Some(picked) = view.attempt() {
                return Ok(picked);
            }
            if view.capped.get() {
                return Err(PickError::AtCapacity);
            }
        }
        if let Some(counters) = self.state.counters.of(request.worker) {
            counters.no_endpoint.add(1);
        }
        let are_others =
            !self.endpoints.is_empty() && self.endpoints.iter().all(|one| request.is_barred(one));
        Err(if are_others { PickError::OtherFamily } else { PickError::NoEndpoint })
    }
}

impl PickRequest<'_> {
    /// Whether `endpoint` is of the family that was not asked for.
    fn is_barred(&self, endpoint: &EndpointState) -> bool {
        self.ipv4.is_some_and(|ipv4| endpoint.address.is_ipv4() != ipv4)
    }
}

/// The endpoints of a Backend as one pass of a pick may see them.
struct View<'a> {
    backend: &'a LiveBackend,
    request: &'a PickRequest<'a>,
    cap: u32,
    /// Unhealthy endpoints are out even if the Backend ignores health.
    strict: bool,
    /// Excluded endpoints are in.
    excluded: bool,
    /// Retired endpoints are in.
    retired: bool,
    /// Set when an endpoint was out for its cap alone.
    capped: Cell<bool>,
}

impl View<'_> {
    fn attempt(&self) -> Option<InFlight> {
        for _ in 0..MOST_LOST {
            let index = self.choose()?;
            if let Some(picked) = self.enter(index) {
                return Some(picked);
            }
        }
        (0..self.len()).filter(|index| self.ramp(*index).is_some()).find_map(|index| self.enter(index))
    }

    fn choose(&self) -> Option<usize> {
        let state = &self.backend.state;
        match &self.backend.balancer {
            Balancer::RoundRobin(sequence) => round_robin::choose(sequence, self, || state.next_position()),
            Balancer::LeastConnection(sequence) => {
                least_conn::choose(sequence, self, state.next_position(), fastrand::u64(..))
            }
            Balancer::ConsistentHash(ring) if self.request.is_sticky => {
                consistent_hash::choose(ring, &Idle(self), self.request.hash)
            }
            Balancer::ConsistentHash(ring) => consistent_hash::choose(ring, self, self.request.hash),
        }
    }

    fn enter(&self, index: usize) -> Option<InFlight> {
        let endpoint = self.backend.endpoints.get(index)?;
        let flags = endpoint.flags();
        let trial = flags & flag::EJECTED != 0 && endpoint.is_trial_due(flags, self.request.now);
        if trial && !endpoint.claim_trial() {
            return None;
        }
        if !endpoint.enter(self.cap) {
            if trial {
                endpoint.end_trial();
            }
            self.capped.set(true);
            return None;
        }
        let queue = (self.cap > 0).then(|| Arc::clone(&self.backend.state));
        Some(InFlight { endpoint: Arc::clone(endpoint), queue, trial })
    }
}

impl Pool for View<'_> {
    fn len(&self) -> usize {
        self.backend.endpoints.len()
    }

    fn ramp(&self, index: usize) -> Option<u16> {
        let endpoint = self.backend.endpoints.get(index)?;
        if self.request.is_barred(endpoint) {
            return None;
        }
        let flags = endpoint.flags();
        if flags & flag::RETIRED != 0 && !self.retired {
            return None;
        }
        if !self.excluded && self.request.exclude.contains(&endpoint.id) {
            return None;
        }
        if flags & flag::UNHEALTHY != 0
            && !endpoint.is_trial_due(flags, self.request.now)
            && (self.strict || !self.backend.ignores_health())
        {
            return None;
        }
        if self.cap > 0 && endpoint.in_flight() >= self.cap {
            self.capped.set(true);
            return None;
        }
        if flags & flag::WARMING == 0 { Some(FULL) } else { Some(endpoint.ramp(self.request.now)) }
    }

    fn in_flight(&self, index: usize) -> u32 {
        self.backend.endpoints.get(index).map_or(0, |endpoint| endpoint.in_flight())
    }

    fn weight(&self, index: usize) -> u16 {
        self.backend.config.endpoints.get(index).map_or(1, |endpoint| endpoint.weight)
    }
}

/// The same endpoints, as if nothing were in flight.
struct Idle<'a>(&'a View<'a>);

impl Pool for Idle<'_> {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn ramp(&self, index: usize) -> Option<u16> {
        self.0.ramp(index)
    }

    fn in_flight(&self, _: usize) -> u32 {
        0
    }

    fn weight(&self, index: usize) -> u16 {
        self.0.weight(index)
    }
}
