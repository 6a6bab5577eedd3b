//! Lists after the first one are rationed. Pure.

use std::time::{Duration, Instant};

/// Lists after the first one: this many at once …
pub(super) const RELISTS: u32 = 2;
/// … and one more each …
const RELIST_INTERVAL: Duration = Duration::from_secs(30);

/// Lists after the first one.
#[derive(Debug)]
pub(super) struct Ration {
    pub(super) left: u32,
    /// When the last one was added or, if none was missing, used.
    pub(super) last: Option<Instant>,
}

impl Ration {
    /// When the next list may begin.
    pub(super) fn opens(&mut self, now: Instant) -> Instant {
        while let Some(last) = self.last.filter(|last| self.left < RELISTS && *last + RELIST_INTERVAL <= now)
        {
            self.left += 1;
            self.last = Some(last + RELIST_INTERVAL);
        }
        match self.last {
            Some(last) if self.left == 0 => last + RELIST_INTERVAL,
            _ => now,
        }
    }

    pub(super) fn spend(&mut self, now: Instant) {
        if self.left == RELISTS {
            self.last = Some(now);
        }
        self.left = self.left.saturating_sub(1);
    }
}
