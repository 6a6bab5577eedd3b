//! How fast we may ask: a token bucket, and delays that grow with failures. Pure.

use std::time::Duration;

use super::clock::Moment;

/// Lets `burst` through at once, and then one each `interval`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    interval: Duration,
    burst: u32,
    /// When it will be full.
    full: Moment,
}

impl Bucket {
    /// A full one.
    pub(super) const fn new(interval: Duration, burst: u32) -> Self {
        Self { interval, burst, full: Moment::START }
    }

    /// When there will be a token; not later than `now` if there is one.
    pub(super) fn ready(&self, now: Moment) -> Moment {
        let missing = self.full.since(now);
        let room = self.interval * self.burst.saturating_sub(1);
        now + missing.saturating_sub(room)
    }

    /// True if it is as if nobody had ever taken a token.
    pub(super) fn is_full(&self, now: Moment) -> bool {
        self.full <= now
    }

    /// Takes a token, which must be there.
    pub(super) fn take(&mut self, now: Moment) {
        self.full = self.full.max(now) + self.interval;
    }
}

/// The delay after `failures` in a row: `first`, doubled each time up to `most`, half of it at random.
pub(super) fn backoff(
    failures: u32,
    first: Duration,
    most: Duration,
    random: &mut fastrand::Rng,
) -> Duration {
    let doublings = failures.saturating_sub(1).min(20);
    first.saturating_mul(1 << doublings).min(most).mul_f64(0.5 + random.f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_lets_a_burst_through_and_then_its_rate() {
        let mut bucket = Bucket::new(Duration::from_millis(10), 3);
        let now = Moment::START + Duration::from_secs(1);
        for _ in 0..3 {
            assert_eq!(bucket.ready(now), now);
            bucket.take(now);
        }
        assert_eq!(bucket.ready(now), now + Duration::from_millis(10));
        let later = now + Duration::from_millis(15);
        assert_eq!(bucket.ready(later), later);
        bucket.take(later);
        assert_eq!(bucket.ready(later), now + Duration::from_millis(20));
    }

    #[test]
    fn delay_grows_to_its_bound() {
        let mut random = fastrand::Rng::with_seed(1);
        let (first, most) = (Duration::from_millis(100), Duration::from_secs(30));
        for failures in [1, 2, 5, 1_000] {
            let delay = backoff(failures, first, most, &mut random);
            assert!(delay >= first / 2 && delay <= most, "{delay:?}");
        }
        assert!(backoff(1_000, first, most, &mut random) >= most / 2);
    }
}
