//! When what ended by a fault is started anew: soon, and later each time that it ends again. Starts nothing.

use std::time::Duration;

use tokio::time::Instant;

/// The first time,
const FIRST: Duration = Duration::from_secs(1);
/// twice as long each time after it, up to this;
const LONGEST: Duration = Duration::from_secs(60);
/// and as the first time again after it went well for so long.
const WELL: Duration = Duration::from_secs(600);

/// When it is started anew.
#[derive(Debug)]
pub(super) struct Again {
    /// The next wait.
    delay: Duration,
    started: Instant,
    due: Option<Instant>,
}

impl Again {
    /// It was started at `now`.
    pub(super) fn new(now: Instant) -> Self {
        Self { delay: FIRST, started: now, due: None }
    }

    /// It has ended, or could not be started. Returns how long to wait.
    pub(super) fn ended(&mut self, now: Instant) -> Duration {
        if self.due.is_none() && now.saturating_duration_since(self.started) >= WELL {
            self.delay = FIRST;
        }
        let delay = self.delay;
        self.delay = (delay * 2).min(LONGEST);
        self.due = Some(now + delay);
        delay
    }

    /// It was started again.
    pub(super) fn started(&mut self, now: Instant) {
        self.started = now;
        self.due = None;
    }

    /// Returns when it is to be started; never while it runs.
    pub(super) fn due(&self) -> impl Future<Output = ()> + use<> {
        let due = self.due;
        async move {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_is_waited_for_twice_as_long_up_to_a_minute() {
        let now = Instant::now();
        let mut again = Again::new(now);
        let waits: Vec<u64> = (0..8).map(|_| again.ended(now).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
    }

    #[test]
    fn after_ten_good_minutes_the_next_end_is_like_the_first() {
        let now = Instant::now();
        let mut again = Again::new(now);
        again.ended(now);
        again.started(now);
        assert_eq!(again.ended(now + WELL / 2), FIRST * 2);
        again.started(now + WELL);
        assert_eq!(again.ended(now + WELL * 2), FIRST);
    }
}
