//! The retry budget of one Backend. Pure; time is an argument.
//!
//! Each first attempt earns a tenth of a retry, time earns three per second, and what is not used drains away
//! with a time constant of ten seconds. Sustained failure is thus amplified by at most 1.1 (plus 3/s), whatever
//! the load, while the burst of an endpoint that dies with all its requests in flight is covered: a plain "10 %
//! of what is active" would refuse most of exactly those retries.

use std::time::{Duration, Instant};

/// Tokens are counted in thousandths of a retry.
const RETRY: u64 = 1_000;
const PER_REQUEST: u64 = RETRY / 10;
const PER_MILLISECOND: u64 = 3 * RETRY / 1_000;
/// Time constant of the drain, in milliseconds.
const KEPT_MS: u64 = 10_000;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Budget {
    tokens: u64,
    /// First attempts accounted for.
    requests: u64,
    /// Time accounted for.
    at: Instant,
}

impl Budget {
    /// A bucket that holds what the floor alone sustains: 30 retries.
    pub(super) const fn new(now: Instant) -> Self {
        Self { tokens: KEPT_MS * PER_MILLISECOND, requests: 0, at: now }
    }

    /// Takes one retry, if there is one. `requests` is the number of first attempts since the beginning.
    pub(super) fn take(&mut self, requests: u64, now: Instant) -> bool {
        self.earn(requests, now);
        let allowed = self.tokens >= RETRY;
        if allowed {
            self.tokens -= RETRY;
        }
        allowed
    }

    fn earn(&mut self, requests: u64, now: Instant) {
        let millis = u64::try_from(now.saturating_duration_since(self.at).as_millis()).unwrap_or(u64::MAX);
        let made = requests.saturating_sub(self.requests);
        let earned = made.saturating_mul(PER_REQUEST).saturating_add(millis.saturating_mul(PER_MILLISECOND));
        self.tokens = if millis < KEPT_MS {
            self.tokens - self.tokens.saturating_mul(millis) / KEPT_MS + earned
        } else {
            // Longer ago than anything is kept: ten seconds' worth at the mean rate since.
            u64::try_from(u128::from(earned) * u128::from(KEPT_MS) / u128::from(millis)).unwrap_or(u64::MAX)
        };
        self.requests = requests.max(self.requests);
        self.at += Duration::from_millis(millis);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    #[test]
    fn an_idle_backend_has_the_floors_burst_and_then_three_per_second() {
        let mut now = Instant::now();
        let mut budget = Budget::new(now);
        assert_eq!((0..100).filter(|_| budget.take(0, now)).count(), 30);
        let mut allowed = 0;
        for _ in 0..100_000 {
            now += MILLISECOND;
            allowed += usize::from(budget.take(0, now));
        }
        assert!((280..=300).contains(&allowed), "{allowed} in 100 s");
    }

    #[test]
    fn a_retry_storm_is_amplified_by_a_tenth() {
        let mut now = Instant::now();
        let mut budget = Budget::new(now);
        let (mut requests, mut retries) = (0, 0);
        for _ in 0..60_000 {
            now += MILLISECOND;
            for _ in 0..10 {
                requests += 1;
                retries += u64::from(budget.take(requests, now));
            }
        }
        let most = requests / 10 + 3 * 60 + 30;
        assert!(retries <= most && retries >= requests / 11, "{retries} of {requests}");
    }

    #[test]
    fn the_burst_of_a_dying_endpoint_is_covered_after_quiet_traffic() {
        let now = Instant::now();
        let mut budget = Budget::new(now);
        // One hour at 1,000 requests per second, then 500 requests lose their endpoint at once.
        let later = now + Duration::from_secs(3_600);
        assert_eq!((0..500).filter(|_| budget.take(3_600_000, later)).count(), 500);
        // The hour does not count for more than ten seconds.
        assert!((0..10_000).filter(|_| budget.take(3_600_000, later)).count() < 600);
    }

    #[test]
    fn a_clock_that_stands_still_earns_nothing() {
        let now = Instant::now();
        let mut budget = Budget::new(now);
        while budget.take(0, now) {}
        assert!(!budget.take(0, now - Duration::from_secs(5)));
        assert!(budget.take(10, now));
        assert!(!budget.take(10, now));
    }
}
