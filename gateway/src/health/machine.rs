//! The health of one endpoint as a pure state machine. Time is an argument; nothing here does I/O or logs.
//!
//! Two verdicts are kept side by side and the endpoint is healthy when both are good:
//!
//! - **passive**: failures in a row, or their share within a window, eject the endpoint for a time that grows
//!   with each ejection. When the time is over the endpoint is *half-open*: the next result decides, whoever
//!   sends that request. Results that arrive while the ejection lasts belong to requests sent before it and
//!   decide nothing.
//! - **active**: probes in a row turn it bad and good again.
//!
//! Half-open ends by a probe as well as by a request, so an idle endpoint comes back without a trial.

use std::time::{Duration, Instant};

use config::table::{ActiveProbe, PassivePolicy};
use serde::Serialize;

use super::Outcome;

/// Steps that the error-rate window slides in.
const STEPS: usize = 6;

/// Why an endpoint takes no requests.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// Failures in a row.
    ConsecutiveFailures,
    /// Share of failures within the window.
    ErrorRate,
    /// The trial request after an ejection failed too.
    TrialFailed,
    /// Active probes failed.
    Probe,
}

/// What a result changed. Anything else changes nothing that others need to know.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Transition {
    /// Ejected, or ejected again, until the given moment.
    Ejected {
        /// What ejected it.
        cause: Cause,
        /// End of the ejection: half-open from then on.
        until: Instant,
    },
    /// Probes turned the endpoint bad.
    ProbesFailed,
    /// One verdict turned good; the endpoint is healthy if the other is good, too.
    Recovered,
}

/// The health of one endpoint.
#[derive(Debug)]
pub struct Machine {
    since: Instant,
    ejected: Option<Ejection>,
    /// Ejections not yet forgiven.
    ejections: u32,
    /// End of the last ejection that was over.
    reinstated: Instant,
    consecutive: u32,
    window: Window,
    probes_good: u32,
    probes_bad: u32,
    probes_failed: bool,
}

#[derive(Clone, Copy, Debug)]
struct Ejection {
    until: Instant,
    cause: Cause,
}

impl Machine {
    /// A healthy endpoint, first seen at `now`.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            since: now,
            ejected: None,
            ejections: 0,
            reinstated: now,
            consecutive: 0,
            window: Window::default(),
            probes_good: 0,
            probes_bad: 0,
            probes_failed: false,
        }
    }

    /// True if neither verdict is bad.
    #[must_use]
    pub const fn is_healthy(&self) -> bool {
        self.ejected.is_none() && !self.probes_failed
    }

    /// True if the passive verdict is bad (half-open included).
    #[must_use]
    pub const fn is_ejected(&self) -> bool {
        self.ejected.is_some()
    }

    /// True if probes turned the endpoint bad.
    #[must_use]
    pub const fn has_failed_probes(&self) -> bool {
        self.probes_failed
    }

    /// When the present state began.
    #[must_use]
    pub const fn since(&self) -> Instant {
        self.since
    }

    /// End of the ejection, if ejected.
    #[must_use]
    pub fn ejected_until(&self) -> Option<Instant> {
        self.ejected.map(|ejection| ejection.until)
    }

    /// Why the endpoint is unhealthy, if it is.
    #[must_use]
    pub fn cause(&self) -> Option<Cause> {
        self.ejected.map(|ejection| ejection.cause).or_else(|| self.probes_failed.then_some(Cause::Probe))
    }

    /// Ejections not yet forgiven; the next one lasts one more times the base.
    #[must_use]
    pub const fn ejections(&self) -> u32 {
        self.ejections
    }

    /// True if a success would change anything: while false, successes need not be told.
    #[must_use]
    pub const fn needs_successes(&self) -> bool {
        self.consecutive > 0 || self.window.failed > 0 || self.ejected.is_some()
    }

    /// Takes the result of a request. `may_eject` is asked only if this result would eject a healthy endpoint.
    pub fn result(
        &mut self,
        policy: &PassivePolicy,
        outcome: Outcome,
        now: Instant,
        may_eject: impl FnOnce() -> bool,
    ) -> Option<Transition> {
        if let Some(ejection) = self.ejected {
            if now < ejection.until {
                return None;
            }
            // Half-open. A plain 5xx shows that it is alive, which is enough unless the error rate matters.
            let good = match outcome {
                Outcome::Success => true,
                Outcome::ServerError => policy.error_rate == 0,
                _ => false,
            };
            return Some(if good {
                self.reinstate(now)
            } else {
                self.eject(policy, Cause::TrialFailed, now)
            });
        }
        match outcome {
            Outcome::Success | Outcome::ServerError => self.consecutive = 0,
            _ => self.consecutive = self.consecutive.saturating_add(1),
        }
        let failed = outcome != Outcome::Success;
        if policy.error_rate > 0 {
            self.window.record(policy.window, failed, now);
        }
        let cause = failed.then(|| self.reason_to_eject(policy)).flatten()?;
        may_eject().then(|| self.eject(policy, cause, now))
    }

    /// Takes the result of a probe.
    pub fn probe(&mut self, policy: &ActiveProbe, good: bool, now: Instant) -> Option<Transition> {
        if !good {
            self.probes_good = 0;
            self.probes_bad = self.probes_bad.saturating_add(1);
            if self.probes_failed || self.probes_bad < policy.unhealthy_threshold.max(1) {
                return None;
            }
            self.probes_failed = true;
            self.since = now;
            return Some(Transition::ProbesFailed);
        }
        self.probes_bad = 0;
        self.probes_good = self.probes_good.saturating_add(1);
        if self.probes_good < policy.healthy_threshold.max(1) {
            return None;
        }
        let half_open = self.ejected.is_some_and(|ejection| now >= ejection.until);
        if !self.probes_failed && !half_open {
            return None;
        }
        self.probes_failed = false;
        if half_open {
            self.reinstated = now;
            self.forget_ejection();
        }
        self.since = now;
        Some(Transition::Recovered)
    }

    fn reason_to_eject(&self, policy: &PassivePolicy) -> Option<Cause> {
        if policy.consecutive_failures > 0 && self.consecutive >= policy.consecutive_failures {
            return Some(Cause::ConsecutiveFailures);
        }
        let window = &self.window;
        let over = policy.error_rate > 0
            && window.total >= policy.minimum_requests.max(1)
            && u64::from(window.failed) * 100 >= u64::from(window.total) * u64::from(policy.error_rate);
        over.then_some(Cause::ErrorRate)
    }

    /// The n-th ejection lasts n times the base; each base time of health since the last forgives one.
    fn eject(&mut self, policy: &PassivePolicy, cause: Cause, now: Instant) -> Transition {
        if self.ejected.is_none() {
            let healthy = now.saturating_duration_since(self.reinstated).as_nanos();
            let forgiven = healthy.checked_div(policy.base_ejection.as_nanos()).unwrap_or(u128::MAX);
            self.ejections = self.ejections.saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX));
            self.since = now;
        }
        self.ejections = self.ejections.saturating_add(1);
        let lasts = policy.base_ejection.saturating_mul(self.ejections);
        let lasts = lasts.min(policy.max_ejection.max(policy.base_ejection));
        let until = now.checked_add(lasts).unwrap_or(now);
        self.ejected = Some(Ejection { until, cause });
        Transition::Ejected { cause, until }
    }

    fn reinstate(&mut self, now: Instant) -> Transition {
        self.forget_ejection();
        self.reinstated = now;
        self.since = now;
        Transition::Recovered
    }

    fn forget_ejection(&mut self) {
        self.ejected = None;
        self.consecutive = 0;
        self.window = Window::default();
    }
}

/// Results of the last `PassivePolicy::window`, in [`STEPS`] steps. It opens at a failure and closes when the
/// last failure has left it, so that an endpoint without failures costs nothing.
#[derive(Debug, Default)]
struct Window {
    /// End of the newest step; `None` while closed.
    until: Option<Instant>,
    /// (total, failed) of each step; the newest is at `newest`.
    steps: [(u32, u32); STEPS],
    newest: usize,
    total: u32,
    failed: u32,
}

impl Window {
    fn record(&mut self, length: Duration, failed: bool, now: Instant) {
        self.slide(length, now);
        if self.until.is_none() {
            if !failed {
                return;
            }
            self.until = now.checked_add(step_of(length));
        }
        let failed = u32::from(failed);
        if let Some(step) = self.steps.get_mut(self.newest) {
            step.0 = step.0.saturating_add(1);
            step.1 = step.1.saturating_add(failed);
        }
        self.total = self.total.saturating_add(1);
        self.failed = self.failed.saturating_add(failed);
    }

    fn slide(&mut self, length: Duration, now: Instant) {
        let step = step_of(length);
        for _ in 0..STEPS {
            let Some(until) = self.until else { return };
            if now < until {
                return;
            }
            self.newest = (self.newest + 1) % STEPS;
            if let Some(oldest) = self.steps.get_mut(self.newest) {
                self.total -= oldest.0.min(self.total);
                self.failed -= oldest.1.min(self.failed);
                *oldest = (0, 0);
            }
            self.until = until.checked_add(step);
            if self.failed == 0 {
                *self = Self::default();
            }
        }
        if self.until.is_some_and(|until| now >= until) {
            *self = Self::default();
        }
    }
}

fn step_of(length: Duration) -> Duration {
    (length / STEPS as u32).max(Duration::from_millis(1))
}

#[cfg(test)]
mod tests;
