//! What goes wrong on purpose. Never changes an object.

use tokio::sync::watch;

use crate::kinds::Kind;

/// What goes wrong on purpose, until it is taken back.
#[derive(Debug)]
pub struct Faults {
    ends: watch::Sender<u64>,
}

impl Default for Faults {
    fn default() -> Self {
        Self { ends: watch::Sender::new(0) }
    }
}

impl Faults {
    /// Ends all watches that are open.
    pub fn end_watches(&self) {
        self.ends.send_modify(|count| *count += 1);
    }

    pub(crate) fn ends(&self) -> watch::Receiver<u64> {
        self.ends.subscribe()
    }

    pub(crate) fn skip_bookmarks(&self, _kind: &Kind) -> bool {
        false
    }
}
