//! The clock by which leadership is judged. It runs while the machine is suspended and while the process is stopped, and
//! nobody can set it.

use std::ops::Add;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A moment, as time since the machine was started.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Moment(Duration);

impl Moment {
    /// The start of the machine: before everything.
    pub(crate) const START: Self = Self(Duration::ZERO);

    /// This moment.
    pub(crate) fn now() -> Self {
        let time = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
        Self(Duration::from_secs(seconds) + Duration::from_nanos(time.tv_nsec.unsigned_abs()))
    }

    /// `after` the start of the machine.
    #[cfg(test)]
    pub(crate) const fn at(after: Duration) -> Self {
        Self(after)
    }

    /// Nanoseconds since the machine was started.
    pub(crate) fn as_nanos(self) -> u64 {
        u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX)
    }

    /// The time since `earlier`; zero if it is not earlier.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, time: Duration) -> Self {
        Self(self.0.saturating_add(time))
    }
}
