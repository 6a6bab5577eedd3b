//! Wall-clock text, formatted once per second.

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use jiff::tz::Offset;

/// The current second as text, in UTC.
#[derive(Debug, Default)]
pub(super) struct Clock {
    second: Option<u64>,
    /// `2026-11-22T21:28:00.`; the caller adds three digits and `Z`.
    rfc3339: Vec<u8>,
    /// `22/Nov/2026:21:28:00 +0000`
    clf: Vec<u8>,
}

impl Clock {
    /// Moves to `wall` and returns its milliseconds within the second.
    #[inline]
    pub(super) fn set(&mut self, wall: SystemTime) -> u32 {
        let since_epoch = wall.duration_since(UNIX_EPOCH).unwrap_or_default();
        if self.second != Some(since_epoch.as_secs()) {
            self.format(since_epoch.as_secs());
        }
        since_epoch.subsec_millis()
    }

    #[inline]
    pub(super) fn rfc3339(&self) -> &[u8] {
        &self.rfc3339
    }

    #[inline]
    pub(super) fn clf(&self) -> &[u8] {
        &self.clf
    }

    #[cold]
    fn format(&mut self, second: u64) {
        self.second = Some(second);
        // Beyond the year 9999 the clock is wrong anyway; a line with the epoch is better than none.
        let timestamp =
            i64::try_from(second).ok().and_then(|s| Timestamp::from_second(s).ok()).unwrap_or_default();
        let at = Offset::UTC.to_datetime(timestamp);
        let (year, month, day) = (at.year(), at.month(), at.day());
        let (hour, minute, second) = (at.hour(), at.minute(), at.second());
        let month_name =
            usize::try_from(month - 1).ok().and_then(|index| MONTHS.get(index)).copied().unwrap_or("Jan");
        self.rfc3339.clear();
        self.clf.clear();
        // Writing to a vector cannot fail.
        let _ = write!(self.rfc3339, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.");
        let _ = write!(self.clf, "{day:02}/{month_name}/{year:04}:{hour:02}:{minute:02}:{second:02} +0000");
    }
}

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn both_formats_are_utc_and_change_with_the_second() {
        let mut clock = Clock::default();
        assert_eq!(clock.set(UNIX_EPOCH + Duration::from_millis(1_700_000_000_123)), 123);
        assert_eq!(clock.rfc3339(), b"2023-11-14T22:13:20.");
        assert_eq!(clock.clf(), b"14/Nov/2023:22:13:20 +0000");
        assert_eq!(clock.set(UNIX_EPOCH + Duration::from_millis(1_709_164_800_000)), 0);
        assert_eq!(clock.rfc3339(), b"2024-02-29T00:00:00.");
        assert_eq!(clock.clf(), b"29/Feb/2024:00:00:00 +0000");
    }

    #[test]
    fn a_clock_before_the_epoch_reads_as_the_epoch() {
        let mut clock = Clock::default();
        clock.set(UNIX_EPOCH - Duration::from_secs(5));
        assert_eq!(clock.rfc3339(), b"1970-01-01T00:00:00.");
    }
}
