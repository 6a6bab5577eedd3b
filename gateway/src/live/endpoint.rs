//! The state of one endpoint: what is in flight, whether it is healthy, what was counted. It outlives swaps.

use std::net::SocketAddr;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use config::table::{HealthPolicy, PassivePolicy};
use serde::Serialize;

use super::clock;
use crate::balance::FULL;
use crate::health::Outcome;
use crate::health::machine::{Cause, Machine, Transition};
use crate::metrics::cells::{EndpointCounters, PerWorker};

/// Why an endpoint may not simply be chosen. No flag set = healthy, current, at its full share.
pub(super) mod flag {
    /// Ejected, or half-open.
    pub(in super::super) const EJECTED: u8 = 1;
    /// Active probes failed.
    pub(in super::super) const PROBES_FAILED: u8 = 2;
    /// Either of the two.
    pub(in super::super) const UNHEALTHY: u8 = EJECTED | PROBES_FAILED;
    /// No table refers to it any more.
    pub(in super::super) const RETIRED: u8 = 4;
    /// In slow start.
    pub(in super::super) const WARMING: u8 = 8;
    /// The trial request after an ejection is under way.
    pub(in super::super) const TRIAL: u8 = 16;
}

/// One endpoint of one or more Backends, for as long as any table refers to it or a request holds it.
///
/// A new endpoint counts as healthy until a probe or a request says otherwise.
#[derive(Debug)]
pub struct EndpointState {
    /// Unique for the process's life: an address that leaves and comes back has a new one.
    pub id: u64,
    /// Where to connect.
    pub address: SocketAddr,
    /// `worker → counters`.
    pub counters: PerWorker<EndpointCounters>,
    in_flight: AtomicU32,
    flags: AtomicU8,
    /// False while a success would change nothing: then a success is this one load.
    wants_successes: AtomicBool,
    /// End of the ejection, for the pick of a trial request. See [`clock::nanos`].
    trial_from: AtomicU64,
    /// Begin of the slow start.
    warm_since: AtomicU64,
    /// Slow start in milliseconds, of the Backend that was published last with this endpoint; 0 = off.
    slow_start_ms: AtomicU32,
    machine: Mutex<Machine>,
    health: Arc<HealthPolicy>,
    identity: Option<Arc<str>>,
    tls_name: Option<Arc<str>>,
    /// Second since start, plus one, in which a failed TLS handshake was logged last; 0 = never.
    tls_logged: AtomicU32,
    /// Changes with every change of any endpoint's health, so that what is derived from it can be kept.
    health_epoch: Arc<AtomicU64>,
}

/// What `/debug/table`, `explain` and metrics show of an endpoint.
#[derive(Clone, Debug, Serialize)]
pub struct EndpointStatus {
    /// See [`EndpointState::id`].
    pub id: u64,
    /// Where to connect.
    pub address: SocketAddr,
    /// Who is behind the address, if known.
    pub identity: Option<Arc<str>>,
    /// Whether it takes requests.
    pub health: HealthStatus,
    /// Why it is unhealthy, if it is.
    pub cause: Option<Cause>,
    /// Milliseconds in the present state of health.
    pub for_ms: u64,
    /// Milliseconds until a trial request may be sent; 0 unless ejected.
    pub ejected_for_ms: u64,
    /// Ejections not yet forgiven.
    pub ejections: u32,
    /// Percent of its share that it takes: below 100 in slow start.
    pub share_percent: u8,
    /// Requests in flight.
    pub in_flight: u32,
    /// Attempts sent, over all workers.
    pub requests: u64,
    /// Attempts failed, over all workers.
    pub failures: u64,
}

/// Whether an endpoint takes requests.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum HealthStatus {
    /// Takes requests.
    Healthy,
    /// Takes none until its ejection is over.
    Ejected,
    /// The ejection is over: the next request or probe decides.
    HalfOpen,
    /// Active probes failed.
    ProbesFailed,
    /// No table refers to it: it finishes what it has.
    Retired,
}

impl EndpointState {
    pub(super) fn new(
        identity: EndpointIdentity,
        workers: usize,
        health_epoch: Arc<AtomicU64>,
        now: Instant,
    ) -> Self {
        let EndpointIdentity { id, address, identity, health, tls_name } = identity;
        Self {
            id,
            address,
            counters: PerWorker::new(workers),
            in_flight: AtomicU32::new(0),
            flags: AtomicU8::new(0),
            wants_successes: AtomicBool::new(false),
            trial_from: AtomicU64::new(0),
            warm_since: AtomicU64::new(0),
            slow_start_ms: AtomicU32::new(0),
            machine: Mutex::new(Machine::new(now)),
            health,
            identity,
            tls_name,
            tls_logged: AtomicU32::new(0),
            health_epoch,
        }
    }

    /// The DNS name that its certificate is verified for, unless the Backend names another; the address if absent.
    pub(crate) fn tls_name(&self) -> Option<&Arc<str>> {
        self.tls_name.as_ref()
    }

    /// Whether a failed TLS handshake is to be logged: once per minute, whoever asks.
    pub(crate) fn may_log_tls_failure(&self) -> bool {
        const EVERY: u32 = 60;
        let now = u32::try_from(clock::nanos(Instant::now()) / 1_000_000_000).unwrap_or(u32::MAX - 1) + 1;
        let last = self.tls_logged.load(Relaxed);
        (last == 0 || now.saturating_sub(last) >= EVERY)
            && self.tls_logged.compare_exchange(last, now, Relaxed, Relaxed).is_ok()
    }

    /// Requests in flight, over all workers and Backends.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// False while ejected, half-open or failed by probes.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.flags() & flag::UNHEALTHY == 0
    }

    /// True once no table refers to it: pools drop its idle connections, requests finish.
    #[must_use]
    pub fn is_retired(&self) -> bool {
        self.flags() & flag::RETIRED != 0
    }

    /// The health policy that this state was made for.
    #[must_use]
    pub const fn health_policy(&self) -> &Arc<HealthPolicy> {
        &self.health
    }

    /// A snapshot for `/debug/table` and metrics. Takes the endpoint's lock: not for the request path.
    #[must_use]
    pub fn status(&self) -> EndpointStatus {
        let now = Instant::now();
        let (cause, since, until, ejections) = {
            let machine = self.machine();
            (machine.cause(), machine.since(), machine.ejected_until(), machine.ejections())
        };
        let flags = self.flags();
        let health = if flags & flag::RETIRED != 0 {
            HealthStatus::Retired
        } else if flags & flag::PROBES_FAILED != 0 {
            HealthStatus::ProbesFailed
        } else {
            match until {
                Some(until) if until > now => HealthStatus::Ejected,
                Some(_) => HealthStatus::HalfOpen,
                None => HealthStatus::Healthy,
            }
        };
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        EndpointStatus {
            id: self.id,
            address: self.address,
            identity: self.identity.clone(),
            health,
            cause,
            for_ms: millis(now.saturating_duration_since(since)),
            ejected_for_ms: until.map_or(0, |until| millis(until.saturating_duration_since(now))),
            ejections,
            share_percent: u8::try_from(u32::from(self.ramp(now)) * 100 / u32::from(FULL)).unwrap_or(100),
            in_flight: self.in_flight(),
            requests: self.counters.iter().map(|cell| cell.requests.value()).sum(),
            failures: self.counters.iter().map(|cell| cell.failures.value()).sum(),
        }
    }

    #[inline]
    pub(super) fn flags(&self) -> u8 {
        self.flags.load(Acquire)
    }

    /// One more in flight, unless `cap` (0 = none) is reached.
    #[inline]
    pub(super) fn enter(&self, cap: u32) -> bool {
        if cap == 0 {
            self.in_flight.fetch_add(1, Relaxed);
            return true;
        }
        self.in_flight.fetch_update(SeqCst, SeqCst, |held| (held < cap).then_some(held + 1)).is_ok()
    }

    /// One less in flight. Sequentially consistent: the queue relies on its order with the count of waiters.
    #[inline]
    pub(super) fn leave(&self) {
        self.in_flight.fetch_sub(1, SeqCst);
    }

    /// True if a trial request may be sent: half-open, not failed by probes, no trial under way.
    pub(super) fn is_trial_due(&self, flags: u8, now: Instant) -> bool {
        flags & (flag::EJECTED | flag::PROBES_FAILED | flag::TRIAL) == flag::EJECTED
            && clock::nanos(now) >= self.trial_from.load(Relaxed)
    }

    /// Takes the trial; false if somebody else has it.
    pub(super) fn claim_trial(&self) -> bool {
        self.flags.fetch_or(flag::TRIAL, AcqRel) & flag::TRIAL == 0
    }

    /// Gives the trial back, however it ended.
    pub(super) fn end_trial(&self) {
        self.flags.fetch_and(!flag::TRIAL, AcqRel);
    }

    /// The share that slow start allows at `now`, up to [`FULL`].
    pub(super) fn ramp(&self, now: Instant) -> u16 {
        if self.flags() & flag::WARMING == 0 {
            return FULL;
        }
        let elapsed = clock::nanos(now).saturating_sub(self.warm_since.load(Relaxed));
        let whole = u64::from(self.slow_start_ms.load(Relaxed)) * 1_000_000;
        if elapsed >= whole {
            self.flags.fetch_and(!flag::WARMING, AcqRel);
            return FULL;
        }
        // elapsed < whole ≤ 2³² ms < 2⁵³ ns, times 2¹⁰ fits.
        u16::try_from((elapsed * u64::from(FULL)).checked_div(whole).unwrap_or(0)).unwrap_or(FULL)
    }

    /// Sets the slow start of the Backend that is being published.
    pub(super) fn set_slow_start(&self, slow_start: Duration) {
        let millis = u32::try_from(slow_start.as_millis()).unwrap_or(u32::MAX);
        self.slow_start_ms.store(millis, Relaxed);
    }

    /// Begins slow start, if it is on.
    pub(super) fn warm_up(&self, now: Instant) {
        if self.slow_start_ms.load(Relaxed) > 0 {
            self.warm_since.store(clock::nanos(now), Relaxed);
            self.flags.fetch_or(flag::WARMING, AcqRel);
        }
    }

    /// No table refers to this endpoint any more.
    pub(super) fn retire(&self) {
        self.flags.fetch_or(flag::RETIRED, AcqRel);
    }

    /// True if a success has to be told to [`Self::result`].
    #[inline]
    pub(super) fn wants_successes(&self) -> bool {
        self.wants_successes.load(Relaxed)
    }

    /// Tells the state machine the result of a request. Not for successes that nobody wants.
    pub(super) fn result(
        &self,
        policy: &PassivePolicy,
        outcome: Outcome,
        now: Instant,
        may_eject: impl FnOnce() -> bool,
    ) -> Option<Transition> {
        let mut machine = self.machine();
        let transition = machine.result(policy, outcome, now, may_eject);
        self.apply(&machine, transition, now);
        transition
    }

    /// Tells the state machine the result of a probe.
    pub(crate) fn probed(&self, good: bool, now: Instant) -> Option<Transition> {
        let policy = self.health.active.as_ref()?;
        let mut machine = self.machine();
        let transition = machine.probe(policy, good, now);
        self.apply(&machine, transition, now);
        transition
    }

    /// Makes the machine's verdict visible to picks, under its lock.
    fn apply(&self, machine: &Machine, transition: Option<Transition>, now: Instant) {
        self.wants_successes.store(machine.needs_successes(), Relaxed);
        if transition.is_none() {
            return;
        }
        if let Some(until) = machine.ejected_until() {
            self.trial_from.store(clock::nanos(until), Relaxed);
        }
        let before = self.flags();
        for (bit, set) in
            [(flag::EJECTED, machine.is_ejected()), (flag::PROBES_FAILED, machine.has_failed_probes())]
        {
            if set {
                self.flags.fetch_or(bit, AcqRel);
            } else {
                self.flags.fetch_and(!bit, AcqRel);
            }
        }
        if before & flag::UNHEALTHY != 0 && machine.is_healthy() {
            self.warm_up(now);
        }
        self.health_epoch.fetch_add(1, Release);
    }

    /// The machine stays consistent if a panic strikes while it is locked: every field stands on its own.
    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who a new [`EndpointState`] is.
pub(super) struct EndpointIdentity {
    /// See [`EndpointState::id`].
    pub(super) id: u64,
    /// Where to connect.
    pub(super) address: SocketAddr,
    /// Who is behind the address.
    pub(super) identity: Option<Arc<str>>,
    /// How it is watched.
    pub(super) health: Arc<HealthPolicy>,
    /// See [`EndpointState::tls_name`].
    pub(super) tls_name: Option<Arc<str>>,
}
