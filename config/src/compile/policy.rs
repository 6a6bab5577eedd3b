//! Annotations and defaults → policies. Equal policies share one allocation.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use foldhash::quality::FixedState;

use crate::resource::annotations::{BalanceKind, Settings};
use crate::table::{
    ActiveProbe, BackendPolicy, Balance, HashKey, HealthPolicy, PathMatch, PathModifier, Rewrite, RulePolicy,
};

/// Values of which one copy is enough.
#[derive(Debug)]
pub(super) struct Shared<T> {
    values: HashSet<Arc<T>, FixedState>,
    /// Sweep when there are more.
    limit: usize,
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self { values: HashSet::default(), limit: 256 }
    }
}

impl<T: Eq + Hash> Shared<T> {
    pub(super) fn intern(&mut self, value: T) -> Arc<T> {
        if let Some(known) = self.values.get(&value) {
            return Arc::clone(known);
        }
        if self.values.len() >= self.limit {
            self.values.retain(|value| Arc::strong_count(value) > 1);
            self.limit = (self.values.len() * 2).max(256);
        }
        let value = Arc::new(value);
        self.values.insert(Arc::clone(&value));
        value
    }
}

/// Settings by falling precedence: the Ingress', the Service's.
pub(super) type Levels<'a> = [Option<&'a Settings>; 2];

fn pick<'a, T>(levels: Levels<'a>, field: impl Fn(&'a Settings) -> &'a Option<T>) -> Option<&'a T> {
    levels.into_iter().flatten().find_map(|settings| field(settings).as_ref())
}

fn set<T: Clone>(target: &mut T, value: Option<&T>) {
    if let Some(value) = value {
        target.clone_from(value);
    }
}

/// How a backend is treated under these settings.
pub(super) fn backend(levels: Levels<'_>, default: &BackendPolicy) -> BackendPolicy {
    let mut policy = default.clone();
    let hash = || pick(levels, |s| &s.hash_by).cloned().unwrap_or(HashKey::SourceIp);
    match pick(levels, |s| &s.balance) {
        Some(BalanceKind::RoundRobin) => policy.balance = Balance::RoundRobin,
        Some(BalanceKind::LeastConnection) => policy.balance = Balance::LeastConnection,
        Some(BalanceKind::ConsistentHash) => policy.balance = Balance::ConsistentHash(hash()),
        None => {}
    }
    set(&mut policy.connect_timeout, pick(levels, |s| &s.connect_timeout));
    set(&mut policy.slow_start, pick(levels, |s| &s.slow_start));
    set(&mut policy.max_requests_per_endpoint, pick(levels, |s| &s.max_requests_per_endpoint));
    set(&mut policy.queue_size, pick(levels, |s| &s.queue_size));
    set(&mut policy.queue_timeout, pick(levels, |s| &s.queue_timeout));
    set(&mut policy.panic_threshold, pick(levels, |s| &s.panic_threshold));
    let mut health = HealthPolicy::clone(&policy.health);
    if let Some(passive) = &mut health.passive {
        set(&mut passive.consecutive_failures, pick(levels, |s| &s.max_failures));
        set(&mut passive.max_ejected, pick(levels, |s| &s.max_ejected));
    }
    if let Some(kind) = pick(levels, |s| &s.health_check) {
        let interval = pick(levels, |s| &s.health_check_interval).copied();
        let timeout = pick(levels, |s| &s.health_check_timeout).copied();
        health.active = Some(ActiveProbe {
            kind: kind.clone(),
            interval: interval.unwrap_or(Duration::from_secs(5)),
            timeout: timeout.unwrap_or(Duration::from_secs(1)),
            healthy_threshold: 2,
            unhealthy_threshold: 3,
        });
    }
    if health != *policy.health {
        policy.health = Arc::new(health);
    }
    policy
}

/// What applies to requests of a rule with this path under these settings.
pub(super) fn rule(levels: Levels<'_>, default: &RulePolicy, path: Option<&PathMatch>) -> RulePolicy {
    let mut policy = default.clone();
    set(&mut policy.timeouts.response_head, pick(levels, |s| &s.response_timeout));
    set(&mut policy.timeouts.idle, pick(levels, |s| &s.idle_timeout));
    set(&mut policy.timeouts.total, pick(levels, |s| &s.request_timeout));
    set(&mut policy.retry.attempts, pick(levels, |s| &s.retries));
    if let Some(on) = pick(levels, |s| &s.retry_on) {
        policy.retry.codes.clone_from(&on.codes);
        policy.retry.on_timeout = on.timeout;
        policy.retry.on_empty_response = on.empty_response;
    }
    // A default backend takes what matched no path, so there is nothing to replace.
    if let (Some(path), Some(replacement)) = (path, pick(levels, |s| &s.rewrite_prefix)) {
        let path = match (path, replacement) {
            (PathMatch::Exact(_), PathModifier::ReplacePrefixMatch(whole)) => {
                PathModifier::ReplaceFullPath(Arc::clone(whole))
            }
            _ => replacement.clone(),
        };
        policy.filters.rewrite = Some(Rewrite { hostname: None, path: Some(path) });
    }
    policy
}
