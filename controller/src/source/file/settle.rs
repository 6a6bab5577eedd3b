//! When a touched path is worth reading.
//!
//! A writer that truncates a file and fills it again shows several states of it; the one worth reading is
//! the one after its last write. A pure state machine over instants that the caller passes in.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// For how long a writer is waited for that has not closed its file.
const CAP: Duration = Duration::from_millis(50);

/// What is known of a touched path.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Touch {
    /// Made or written to; whoever does it may not be done.
    Writing,
    /// Closed after writing, moved or removed: it will not change by itself.
    Done,
}

/// Paths that were touched and not yet looked at.
#[derive(Debug, Default)]
pub(super) struct Settle {
    /// path → when its writer was first seen
    writing: BTreeMap<PathBuf, Instant>,
    done: BTreeSet<PathBuf>,
}

impl Settle {
    pub(super) fn touch(&mut self, path: PathBuf, touch: Touch, now: Instant) {
        match touch {
            Touch::Done => {
                self.writing.remove(&path);
                self.done.insert(path);
            }
            // A path that is done and written to again is taken as it is and then once more.
            Touch::Writing => {
                self.writing.entry(path).or_insert(now);
            }
        }
    }

    /// When there is something to look at; a time that has passed means now.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        if self.done.is_empty() { self.writing.values().min().map(|first| *first + CAP) } else { Some(now) }
    }

    /// The paths to look at now. A writer that is slower than [`CAP`] is not waited for.
    pub(super) fn take(&mut self, now: Instant) -> BTreeSet<PathBuf> {
        let mut taken = std::mem::take(&mut self.done);
        taken.extend(self.writing.extract_if(.., |_, first| *first + CAP <= now).map(|(path, _)| path));
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closed_file_is_taken_at_once() {
        let now = Instant::now();
        let mut settle = Settle::default();
        settle.touch("a".into(), Touch::Writing, now);
        settle.touch("a".into(), Touch::Done, now);
        assert_eq!(settle.deadline(now), Some(now));
        assert_eq!(settle.take(now), BTreeSet::from(["a".into()]));
        assert_eq!(settle.deadline(now), None);
    }

    #[test]
    fn open_file_waits_but_not_beyond_the_cap() {
        let now = Instant::now();
        let mut settle = Settle::default();
        settle.touch("a".into(), Touch::Writing, now);
        settle.touch("a".into(), Touch::Writing, now + Duration::from_millis(40));
        assert_eq!(settle.deadline(now), Some(now + CAP));
        assert!(settle.take(now + Duration::from_millis(49)).is_empty());
        assert_eq!(settle.take(now + CAP).len(), 1);
    }

    #[test]
    fn one_open_file_does_not_hold_up_another() {
        let now = Instant::now();
        let mut settle = Settle::default();
        settle.touch("a".into(), Touch::Writing, now);
        settle.touch("b".into(), Touch::Done, now);
        assert_eq!(settle.take(now), BTreeSet::from(["b".into()]));
        assert_eq!(settle.take(now + CAP), BTreeSet::from(["a".into()]));
    }
}
