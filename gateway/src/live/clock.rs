//! Instants as numbers, so that an atomic can hold one.

use std::sync::LazyLock;
use std::time::Instant;

static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Nanoseconds from the process's origin to `at`, at least 1 so that 0 can mean "never"; good for 584 years.
pub(super) fn nanos(at: Instant) -> u64 {
    let since = at.saturating_duration_since(*ORIGIN).as_nanos();
    u64::try_from(since).unwrap_or(u64::MAX).max(1)
}

/// Fixes the origin: instants before the first call all count as 1.
pub(super) fn start() {
    LazyLock::force(&ORIGIN);
}
