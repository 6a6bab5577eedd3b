//! When to compile: the first event at once, a burst coalesced.
//!
//! A pure state machine over instants that the caller passes in. It never reads a clock and never waits.

use std::time::{Duration, Instant};

/// A burst is over when nothing has come for this long.
pub const QUIET: Duration = Duration::from_millis(5);
/// However long a burst goes on, no event waits longer than this.
pub const CAP: Duration = Duration::from_millis(50);

/// Decides when the events taken in so far are to be compiled.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct HoldOff {
    state: State,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum State {
    /// Nothing lately: the next event goes at once.
    #[default]
    Idle,
    /// Compiled lately and nothing new since; an event until then counts as part of a burst.
    Cooling { until: Instant },
    /// Events wait for the burst to end.
    Pending { first: Instant, last: Instant },
    /// An event came while idle.
    Due,
}

impl HoldOff {
    /// Notes that an event came at `now`.
    pub fn event(&mut self, now: Instant) {
        self.state = match self.state {
            State::Idle | State::Due => State::Due,
            State::Cooling { until } if now >= until => State::Due,
            State::Cooling { .. } => State::Pending { first: now, last: now },
            State::Pending { first, .. } => State::Pending { first, last: now },
        };
    }

    /// When to compile: `None` while nothing waits; a time that has passed means now.
    #[must_use]
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        match self.state {
            State::Idle | State::Cooling { .. } => None,
            State::Due => Some(now),
            State::Pending { first, last } => Some((last + QUIET).min(first + CAP)),
        }
    }

    /// Notes that everything that waited was compiled and published, which ended at `now`.
    pub fn published(&mut self, now: Instant) {
        self.state = State::Cooling { until: now + QUIET };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn first_event_goes_at_once() {
        let start = Instant::now();
        let mut hold_off = HoldOff::default();
        assert_eq!(hold_off.deadline(start), None);
        hold_off.event(start);
        assert_eq!(hold_off.deadline(start), Some(start));
    }

    #[test]
    fn event_after_a_quiet_time_goes_at_once() {
        let start = Instant::now();
        let mut hold_off = HoldOff::default();
        hold_off.event(start);
        hold_off.published(start);
        hold_off.event(start + QUIET);
        assert_eq!(hold_off.deadline(start + QUIET), Some(start + QUIET));
    }

    #[test]
    fn burst_waits_for_quiet() {
        let start = Instant::now();
        let mut hold_off = HoldOff::default();
        hold_off.event(start);
        hold_off.published(start);
        hold_off.event(start + MS);
        assert_eq!(hold_off.deadline(start + MS), Some(start + MS + QUIET));
        hold_off.event(start + 3 * MS);
        assert_eq!(hold_off.deadline(start + 3 * MS), Some(start + 3 * MS + QUIET));
    }

    #[test]
    fn endless_burst_is_compiled_at_the_cap() {
        let start = Instant::now();
        let mut hold_off = HoldOff::default();
        hold_off.event(start);
        hold_off.published(start);
        for step in 1..60 {
            hold_off.event(start + step * MS);
        }
        assert_eq!(hold_off.deadline(start + 60 * MS), Some(start + MS + CAP));
    }

    #[test]
    fn nothing_waits_after_a_publish() {
        let start = Instant::now();
        let mut hold_off = HoldOff::default();
        hold_off.event(start);
        hold_off.published(start);
        assert_eq!(hold_off.deadline(start + 1_000 * MS), None);
    }

    #[test]
    fn any_steady_stream_is_served_within_the_cap() {
        for gap in 1..20_u32 {
            let start = Instant::now();
            let mut hold_off = HoldOff::default();
            let mut oldest: Option<Instant> = None;
            for step in 0..200 {
                let now = start + step * gap * MS;
                if let Some(deadline) = hold_off.deadline(now)
                    && deadline <= now
                {
                    assert!(oldest.is_none_or(|oldest| deadline <= oldest + CAP));
                    oldest = None;
                    hold_off.published(deadline);
                }
                hold_off.event(now);
                oldest.get_or_insert(now);
            }
        }
    }
}
