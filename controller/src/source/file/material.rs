//! Files of certificates and keys: read when an object names them, and again when they change.
//!
//! Certificate and key change one after the other, so nothing is read before all is quiet for a moment. Should a
//! pair still not match, compile keeps the old one until it does.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use config::index::{Event, FileContent};

use super::content_of;
use super::scan::Stamp;

/// Files are read when none of them changed for this long.
const QUIET: Duration = Duration::from_millis(50);
/// However long they go on changing, they are read this long after the first change.
const CAP: Duration = Duration::from_millis(500);

#[derive(Debug)]
struct Known {
    /// `None` if it was not there.
    stamp: Option<Stamp>,
    content: FileContent,
}

/// The files that are followed.
#[derive(Debug, Default)]
pub(super) struct Material {
    /// path as written → what was read
    files: BTreeMap<Arc<str>, Known>,
    /// First and last time that a change was noticed since the last reading.
    stirred: Option<(Instant, Instant)>,
}

impl Material {
    /// Follows exactly `files`; returns what is in those that are `unread`, and whether some are followed only now.
    pub(super) fn want(
        &mut self,
        files: &BTreeSet<Arc<str>>,
        unread: &BTreeSet<Arc<str>>,
    ) -> (Vec<Event>, bool) {
        self.files.retain(|file, _| files.contains(file));
        let (mut events, mut is_new) = (Vec::new(), false);
        for file in files {
            if !self.files.contains_key(file) {
                is_new = true;
                let known = read(file);
                self.stir_if_fresh(&known);
                self.files.insert(Arc::clone(file), known);
            }
            if let Some(known) = self.files.get(file).filter(|_| unread.contains(file)) {
                events.push(Event::Loaded { file: Arc::clone(file), content: known.content.clone() });
            }
        }
        (events, is_new)
    }

    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.keys().map(|file| Path::new(&**file))
    }

    /// When to read.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.stirred.map(|(first, last)| (last + QUIET).min(first + CAP))
    }

    /// Notices changes without reading.
    pub(super) fn look(&mut self, reread: bool, now: Instant) {
        let mut is_new = reread && !self.files.is_empty();
        for (file, known) in &mut self.files {
            let stamp = stamp(file);
            if known.stamp != stamp {
                known.stamp = stamp;
                is_new = true;
            }
        }
        if is_new {
            self.stir(now);
        }
    }

    /// Reads what changed, if it is time.
    pub(super) fn read(&mut self, now: Instant, events: &mut Vec<Event>) {
        if self.deadline().is_none_or(|deadline| deadline > now) {
            return;
        }
        self.stirred = None;
        let files: Vec<Arc<str>> = self.files.keys().cloned().collect();
        for file in files {
            let known = read(&file);
            self.stir_if_fresh(&known);
            let former = self.files.insert(Arc::clone(&file), known);
            let Some(known) = self.files.get(&file) else { continue };
            if former.is_none_or(|former| former.content != known.content) {
                events.push(Event::Loaded { file, content: known.content.clone() });
            }
        }
    }

    /// A file that changed this very moment may change again without another stamp.
    fn stir_if_fresh(&mut self, known: &Known) {
        if known.stamp.is_some_and(|stamp| stamp.is_fresh(SystemTime::now())) {
            self.stir(Instant::now());
        }
    }

    fn stir(&mut self, now: Instant) {
        let first = self.stirred.map_or(now, |(first, _)| first);
        self.stirred = Some((first, now));
    }
}

fn stamp(file: &str) -> Option<Stamp> {
    fs::metadata(file).ok().map(|metadata| Stamp::of(&metadata))
}

fn read(file: &str) -> Known {
    // The stamp first: what changes in between is read again.
    let stamp = stamp(file);
    let is_file = fs::metadata(file).map(|metadata| metadata.is_file());
    let content = match is_file {
        // Opening a pipe would wait for whoever writes to it.
        Ok(false) => Err("it is no file".to_owned()),
        Ok(true) => content_of(Path::new(file)).map(Arc::from).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    Known { stamp, content: FileContent(content) }
}
