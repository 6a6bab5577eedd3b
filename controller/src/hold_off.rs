//! When to compile: at once, unless a compile has just ended; then a rest is waited for, and what comes in it goes together.
//!
//! A pure state machine over instants that the caller passes in. It never reads a clock and never waits.

use std::time::{Duration, Instant};

/// The shortest rest, which a change among many small ones waits at most.
pub const SHORTEST: Duration = Duration::from_millis(2);
/// The longest rest: no event waits longer than this for a compile to begin, or to go on.
pub const LONGEST: Duration = Duration::from_millis(50);
/// The rest is so many times as long as the compile was, so that events without end take a fifth of a core.
const SHARE: u32 = 4;

/// Decides when the events taken in so far are to be compiled.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct HoldOff {
    /// When the rest is over.
    rested: Option<Instant>,
    /// When what waits is to be compiled.
    due: Option<Instant>,
}

impl HoldOff {
    /// Notes that an event came at `now`.
    pub fn event(&mut self, now: Instant) {
        if self.due.is_none() {
            self.due = Some(self.rested.map_or(now, |rested| rested.max(now)));
        }
    }

    /// When to compile: `None` while nothing waits; a time that has passed means now.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.due
    }

    /// Notes that everything that waited was compiled and published, which took `cost` and ended at `now`.
    pub fn published(&mut self, cost: Duration, now: Instant) {
        self.due = None;
        self.rested = Some(now + (cost * SHARE).clamp(SHORTEST, LONGEST));
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
        assert_eq!(hold_off.deadline(), None);
        hold_off.event(start);
        assert_eq!(hold_off.deadline(), Some(start));
    }

    #[test]
    fn event_after_the_rest_goes_at_once() {
        let start = Instant::now();
        let mut hold_off = HoldOff::default();
        hold_off.event(start);
        hold_off.published(MS / 4, start);
        hold_off.event(start + SHORTEST);
        assert_eq!(hold_off.deadline(), Some(start + SHORTEST));
    }

    #[test]
    fn event_in_the_rest_waits_for_its_end_and_others_that_come_do_not_delay_it() {
        let start = Instant::now();
        let mut hold_off = HoldOff::default();
        hold_off.event(start);
        hold_off.published(MS / 4, start);
        hold_off.event(start + MS / 2);
        hold_off.event(start + MS);
        assert_eq!(hold_off.deadline(), Some(start + SHORTEST));
    }

    #[test]
    fn the_rest_is_as_long_as_the_compile_was_costly() {
        for (cost, rest) in [(MS / 4, SHORTEST), (MS, 4 * MS), (10 * MS, 40 * MS), (600 * MS, LONGEST)] {
            let start = Instant::now();
            let mut hold_off = HoldOff::default();
            hold_off.published(cost, start);
            hold_off.event(start);
            assert_eq!(hold_off.deadline(), Some(start + rest), "after {cost:?}");
        }
    }

    #[test]
    fn nothing_waits_after_a_publish() {
        let start = Instant::now();
        let mut hold_off = HoldOff::default();
        hold_off.event(start);
        hold_off.published(MS, start);
        assert_eq!(hold_off.deadline(), None);
    }

    #[test]
    fn in_any_steady_stream_no_event_waits_longer_than_the_rest() {
        for gap in 1..20_u32 {
            let start = Instant::now();
            let mut hold_off = HoldOff::default();
            let mut oldest: Option<Instant> = None;
            for step in 0..2_000 {
                let now = start + step * gap * MS / 10;
                if let Some(deadline) = hold_off.deadline().filter(|deadline| *deadline <= now) {
                    assert!(oldest.is_none_or(|oldest| deadline <= oldest + SHORTEST));
                    oldest = None;
                    hold_off.published(MS / 4, deadline);
                }
                hold_off.event(now);
                oldest.get_or_insert(now);
            }
        }
    }
}
