//! Objects from files and folders, read again when they change.
//!
//! It owns when a file is read and what it means that a file is changed, unreadable or gone. It never judges
//! objects: that is decode's and compile's part.
//!
//! - Below a folder, every `*.yaml`, `*.yml` and `*.json` is read, in the order of their paths; hidden names
//!   are not. Symlinks are followed, so a mounted ConfigMap works as it is.
//! - What can no longer be seen (an unreadable file, a folder that cannot be listed, a vanished path of the
//!   command line) keeps its last good objects; a file that vanished from a folder takes its objects along.
//! - Editors and copies that empty or remove a file for a moment do not empty the table: an absent file is
//!   believed after [`GONE`], an empty one after [`EMPTY`].

mod catalog;
mod material;
mod scan;
mod settle;
mod watch;

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::hash::{Hash, Hasher};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use config::index::Event;
use config::report::{Kind, ObjectRef, Problem, Severity, SourceLocation};
use config::resource::decode;

use self::catalog::{Catalog, Outcome};
use self::material::Material;
use self::scan::{Found, Interest, Scan, Stamp};
use self::settle::Settle;
use self::watch::Watch;
use super::{Batch, Certainty, Knowledge, Source};

/// Larger files are not read.
pub const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;
/// How long a file must be absent until its objects are removed: an editor moves the old file away before
/// it writes the new one.
pub const GONE: Duration = Duration::from_millis(50);
/// How long a file must be empty until its objects are removed: a copy empties the file first.
pub const EMPTY: Duration = Duration::from_millis(250);
/// How often everything is looked at when the kernel reports no changes at all.
const POLL: Duration = Duration::from_secs(1);
/// How often everything is looked at although changes are reported: network and overlay file systems lose
/// some.
const SAFETY_LOOK: Duration = Duration::from_secs(10);
/// Looks in a row when folders keep appearing while they are being watched.
const MAX_LOOKS: usize = 4;

/// A path given by the user that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}: {error}", path.display())]
pub struct PathError {
    path: PathBuf,
    error: io::Error,
}

/// A file that was read before.
#[derive(Debug)]
struct Known {
    canonical: PathBuf,
    stamp: Stamp,
    /// Hash of the content; `None` if it could not be read.
    digest: Option<u64>,
    /// It may have changed since without another stamp.
    is_fresh: bool,
}

/// A file that looks gone or empty, and when that is believed.
#[derive(Clone, Copy, Debug)]
struct Doubt {
    until: Instant,
}

/// What is in files at one moment.
#[derive(Debug)]
pub struct OneRead {
    /// Every object and every problem.
    pub events: Vec<Event>,
    /// Number of files read.
    pub files: usize,
}

/// The files and folders that the user gave.
#[derive(Debug)]
pub struct FileSource {
    roots: Vec<PathBuf>,
    watch: Watch,
    settle: Settle,
    catalog: Catalog,
    /// path as shown → file
    known: BTreeMap<Arc<str>, Known>,
    /// path without symlinks → path as shown
    shown: BTreeMap<PathBuf, Arc<str>>,
    /// folder → what matters in it
    folders: BTreeMap<PathBuf, Interest>,
    /// path as shown → problems of the tree that were reported
    tree_problems: BTreeMap<Arc<str>, Vec<Problem>>,
    /// Paths that could never be looked at: there may be listeners.
    obscure: BTreeSet<PathBuf>,
    /// path as shown → doubt
    doubts: BTreeMap<Arc<str>, Doubt>,
    /// Files of certificates and keys.
    material: Material,
    /// When everything is looked at next; `None` until the first look.
    next_look: Option<Instant>,
    reread: bool,
}

impl FileSource {
    /// A source over `roots`, files or folders; nothing is read yet.
    ///
    /// # Errors
    /// If one of the paths does not exist or may not be looked at. (Later that is a problem in the report,
    /// not an error.)
    pub fn new(roots: Vec<PathBuf>) -> Result<Self, PathError> {
        Self::with_watch(roots, Watch::new())
    }

    fn with_watch(roots: Vec<PathBuf>, watch: Watch) -> Result<Self, PathError> {
        for root in &roots {
            std::fs::metadata(root).map_err(|error| PathError { path: root.clone(), error })?;
        }
        Ok(Self {
            roots,
            watch,
            settle: Settle::default(),
            catalog: Catalog::default(),
            known: BTreeMap::new(),
            shown: BTreeMap::new(),
            folders: BTreeMap::new(),
            tree_problems: BTreeMap::new(),
            obscure: BTreeSet::new(),
            doubts: BTreeMap::new(),
            material: Material::default(),
            next_look: None,
            reread: false,
        })
    }

    /// Reads `roots` once, without watching them.
    ///
    /// # Errors
    /// If one of the paths does not exist or may not be looked at.
    pub fn read_once(roots: Vec<PathBuf>) -> Result<OneRead, PathError> {
        let mut source = Self::with_watch(roots, Watch::blind())?;
        let events = source.look(Instant::now());
        Ok(OneRead { events, files: source.known.len() })
    }

    /// When there is something to do although nothing more happens.
    fn deadline(&self, now: Instant) -> Instant {
        let Some(next_look) = self.next_look.filter(|_| !self.reread) else { return now };
        let doubts = self.doubts.values().map(|doubt| doubt.until);
        doubts.chain(self.settle.deadline(now)).chain(self.material.deadline()).fold(next_look, Instant::min)
    }

    /// Passes on what the kernel reported, as far as it matters.
    fn gather(&mut self, now: Instant) {
        let gathered = self.watch.take();
        if gathered.lost {
            self.next_look = Some(now);
        }
        for touched in gathered.touched {
            if !watch::matters(&self.folders, &touched.path) {
                continue;
            }
            if !touched.content_only {
                // The tree itself may be another one, also for files that are known.
                self.known_mut(&touched.path, |known| known.is_fresh = true);
            }
            // A folder is no known file, so naming it leads to a look at the tree.
            let folder = || touched.path.parent().map(Path::to_owned);
            let path = if touched.content_only { None } else { folder() };
            self.settle.touch(path.unwrap_or(touched.path), touched.touch, now);
        }
    }

    fn known_mut(&mut self, canonical: &Path, change: impl FnOnce(&mut Known)) {
        if let Some(known) = self.shown.get(canonical).and_then(|shown| self.known.get_mut(shown)) {
            change(known);
        }
    }

    /// Everything that is due at `now`.
    fn look(&mut self, now: Instant) -> Vec<Event> {
        let touched = self.settle.take(now);
        let reread = std::mem::take(&mut self.reread);
        let is_due =
            self.next_look.is_none_or(|at| at <= now) || self.doubts.values().any(|doubt| doubt.until <= now);
        let hints: Option<BTreeSet<Arc<str>>> =
            touched.iter().map(|path| self.shown.get(path).cloned()).collect();
        let mut events = Vec::new();
        match hints {
            Some(files) if !is_due && !reread => self.read_hinted(&files, now, &mut events),
            hints => self.look_at_all(reread, &hints.unwrap_or_default(), now, &mut events),
        }
        self.material.read(now, &mut events);
        // A route must not be taken for one that was there before the listeners that it came with.
        events.sort_by_key(|event| !matches!(event, Event::Listeners { are_known: false, .. }));
        events
    }

    /// Reads files whose content was changed in place, without a look at the rest.
    fn read_hinted(&mut self, files: &BTreeSet<Arc<str>>, now: Instant, events: &mut Vec<Event>) {
        for file in files {
            let path = PathBuf::from(&**file);
            let Some(known) = self.known.get(file) else { continue };
            match std::fs::metadata(&path) {
                Ok(metadata) => {
                    let found =
                        Found { canonical: known.canonical.clone(), path, stamp: Stamp::of(&metadata) };
                    self.read(file, &found, now, events);
                }
                // It went away in this moment: that is for a look at the tree to find out.
                Err(_) => self.next_look = Some(now),
            }
        }
    }

    fn look_at_all(
        &mut self,
        reread: bool,
        hints: &BTreeSet<Arc<str>>,
        now: Instant,
        events: &mut Vec<Event>,
    ) {
        let mut scan = Scan::of(&self.roots, self.material.files());
        // What changed between the look and the watch would be missed.
        for _ in 1..MAX_LOOKS {
            if !self.watch.follow(&scan.folders) {
                break;
            }
            scan = Scan::of(&self.roots, self.material.files());
        }
        self.material.look(reread, now);
        self.next_look = Some(now + if self.watch.is_blind() { POLL } else { SAFETY_LOOK });
        self.folders = std::mem::take(&mut scan.folders);
        self.report_tree(std::mem::take(&mut scan.problems), events);
        self.report_obscure(&scan.unseen, events);
        let is_moving = self.settle_missing(&scan, now, events);
        self.shown =
            scan.files.iter().map(|(shown, found)| (found.canonical.clone(), Arc::clone(shown))).collect();
        for (file, found) in &scan.files {
            let is_stale = match self.known.get(file) {
                // Objects of a file that is just being renamed would look like duplicates.
                None => !is_moving,
                Some(known) => {
                    let doubted = self.doubts.get(file).is_some_and(|doubt| doubt.until <= now);
                    reread || doubted || known.is_fresh || known.stamp != found.stamp || hints.contains(file)
                }
            };
            if is_stale {
                self.read(file, found, now, events);
            }
        }
    }

    /// Deals with files that are known but were not found; true if one of them is not yet believed to be
    /// gone.
    fn settle_missing(&mut self, scan: &Scan, now: Instant, events: &mut Vec<Event>) -> bool {
        let mut is_moving = false;
        let missing: Vec<Arc<str>> =
            self.known.keys().filter(|file| !scan.files.contains_key(*file)).cloned().collect();
        for file in missing {
            if scan.unseen.iter().any(|path| Path::new(&*file).starts_with(path)) {
                self.doubts.remove(&file);
                continue;
            }
            let doubt = *self.doubts.entry(Arc::clone(&file)).or_insert(Doubt { until: now + GONE });
            if doubt.until <= now {
                self.doubts.remove(&file);
                self.known.remove(&file);
                let outcome = self.catalog.remove(&file);
                self.settle_outcome(outcome, events);
            } else {
                is_moving = true;
            }
        }
        is_moving
    }

    fn read(&mut self, file: &Arc<str>, found: &Found, now: Instant, events: &mut Vec<Event>) {
        let former = self.known.get(file).map(|known| known.digest);
        let content = content_of(&found.path);
        let digest = content.as_ref().ok().map(|content| digest_of(content));
        let is_blank = content.as_ref().is_ok_and(|content| content.iter().all(u8::is_ascii_whitespace));
        let known = Known {
            canonical: found.canonical.clone(),
            stamp: found.stamp,
            digest,
            is_fresh: found.stamp.is_fresh(SystemTime::now()),
        };
        if is_blank && self.catalog.has_objects(file) {
            let doubt = *self.doubts.entry(Arc::clone(file)).or_insert(Doubt { until: now + EMPTY });
            if doubt.until > now {
                return;
            }
        }
        self.doubts.remove(file);
        self.known.insert(Arc::clone(file), known);
        if digest.is_some() && former == Some(digest) {
            return;
        }
        let outcome = match content {
            Ok(content) => self.catalog.replace(file, decode(file, &content)),
            Err(problem) => self.catalog.keep(file, vec![problem.about(file)]),
        };
        self.settle_outcome(outcome, events);
    }

    fn settle_outcome(&mut self, outcome: Outcome, events: &mut Vec<Event>) {
        events.extend(outcome.events);
        for file in outcome.reread {
            if let Some(known) = self.known.get_mut(&file) {
                known.digest = None;
                known.is_fresh = true;
                self.next_look = Some(Instant::now());
            }
        }
    }

    /// Says below which of the `unseen` paths nothing was ever read.
    fn report_obscure(&mut self, unseen: &[PathBuf], events: &mut Vec<Event>) {
        let is_obscure = |path: &&PathBuf| {
            self.obscure.contains(*path)
                || !self.known.keys().any(|file| Path::new(&**file).starts_with(path))
        };
        let obscure: BTreeSet<PathBuf> = unseen.iter().filter(is_obscure).cloned().collect();
        for path in self.obscure.symmetric_difference(&obscure) {
            let source = tree_source(&path.to_string_lossy());
            events.push(Event::Listeners { source, are_known: !obscure.contains(path) });
        }
        self.obscure = obscure;
    }

    fn report_tree(&mut self, problems: BTreeMap<Arc<str>, Vec<Problem>>, events: &mut Vec<Event>) {
        for file in self.tree_problems.keys().filter(|file| !problems.contains_key(*file)) {
            events.push(Event::Problems { source: tree_source(file), problems: Vec::new() });
        }
        for (file, problems) in &problems {
            if self.tree_problems.get(file) != Some(problems) {
                events.push(Event::Problems { source: tree_source(file), problems: problems.clone() });
            }
        }
        self.tree_problems = problems;
    }
}

impl Source for FileSource {
    async fn next(&mut self) -> Batch {
        loop {
            let is_first = self.next_look.is_none();
            let now = Instant::now();
            self.gather(now);
            if self.deadline(now) <= now {
                let events = self.look(now);
                if is_first || !events.is_empty() {
                    return Batch { events };
                }
            }
            let until = self.deadline(Instant::now());
            tokio::select! {
                () = self.watch.changed() => {}
                () = tokio::time::sleep_until(until.into()) => {}
            }
        }
    }

    fn want(&mut self, files: &BTreeSet<Arc<str>>, unread: &BTreeSet<Arc<str>>) -> Vec<Event> {
        let (events, is_new) = self.material.want(files, unread);
        if is_new {
            // Their folders must be watched.
            self.next_look = self.next_look.map(|_| Instant::now());
        }
        events
    }

    fn certainty(&self) -> Certainty {
        Certainty::Whole
    }

    fn knows_pools(&self) -> Knowledge {
        Knowledge::Whole
    }

    fn catch_up(&mut self) {}

    fn reread(&mut self) {
        self.reread = true;
    }
}

/// Reads files of certificates and keys once, without following them.
#[must_use]
pub fn load(files: &BTreeSet<Arc<str>>) -> Vec<Event> {
    Material::default().want(files, files).0
}

/// Why a file gave no content.
#[derive(Debug, thiserror::Error)]
enum ContentError {
    #[error("cannot read the file: {0}")]
    Io(#[from] io::Error),
    #[error("the file is larger than {} MiB; split it", MAX_FILE_BYTES / (1024 * 1024))]
    TooLarge,
}

impl ContentError {
    fn about(&self, file: &Arc<str>) -> Problem {
        let reason = match self {
            Self::Io(_) => "FileUnreadable",
            Self::TooLarge => "FileTooLarge",
        };
        file_problem(file, Severity::Error, reason, self.to_string())
    }
}

fn content_of(path: &Path) -> Result<Vec<u8>, ContentError> {
    let file = File::open(path)?;
    if file.metadata()?.len() > MAX_FILE_BYTES {
        return Err(ContentError::TooLarge);
    }
    let mut content = Vec::new();
    let length = file.take(MAX_FILE_BYTES + 1).read_to_end(&mut content)?;
    if u64::try_from(length).is_ok_and(|length| length <= MAX_FILE_BYTES) {
        Ok(content)
    } else {
        Err(ContentError::TooLarge)
    }
}

fn digest_of(content: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    hasher.finish()
}

/// The name under which problems of the tree at `path` are filed; a file's own problems are filed under its
/// path.
fn tree_source(path: &str) -> Arc<str> {
    format!("{path} (tree)").into()
}

fn file_problem(file: &Arc<str>, severity: Severity, reason: &'static str, message: String) -> Problem {
    Problem {
        object: ObjectRef { kind: Kind::File, namespace: "".into(), name: Arc::clone(file) },
        location: Some(SourceLocation { file: Arc::clone(file), line: 0 }),
        field: String::new(),
        severity,
        reason,
        message,
    }
}

#[cfg(test)]
mod tests;
