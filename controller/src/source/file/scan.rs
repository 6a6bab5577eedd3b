//! One look at the paths that the user gave: which files are there, what is wrong with the tree, and which
//! folders must be watched to see a change. Reads names and metadata, never a file's content.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use config::report::{Problem, Severity};

use super::file_problem;

/// Folders nested deeper than this are not read.
const MAX_DEPTH: usize = 64;
/// Symlinks followed for one path, as the kernel does.
const MAX_LINKS: usize = 40;

/// Tells one state of a file from another without reading it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// True if the file changed so shortly before `now` that a further change may get the same stamp: file
    /// times are only as fine as the kernel's tick.
    pub(super) fn is_fresh(&self, now: SystemTime) -> bool {
        let seconds = u64::try_from(self.changed.0).unwrap_or_default();
        let nanos = u64::try_from(self.changed.1).unwrap_or_default();
        let changed = UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_nanos(nanos);
        now.duration_since(changed).map_or(true, |age| age < Duration::from_millis(100))
    }
}

/// A file to read.
#[derive(Debug)]
pub(super) struct Found {
    /// Where to open it: the path as the user sees it.
    pub(super) path: PathBuf,
    /// The same without symlinks: what the kernel reports changes of.
    pub(super) canonical: PathBuf,
    pub(super) stamp: Stamp,
}

/// What matters in a watched folder.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Interest {
    /// Device and inode, so that a folder which was replaced is watched anew.
    pub(super) identity: (u64, u64),
    /// It is one of the folders that are read: every manifest in it matters.
    pub(super) manifests: bool,
    /// Names that matter because a path leads through them.
    pub(super) names: BTreeSet<OsString>,
}

impl Interest {
    /// Whether a change of the entry `name` can change what is read.
    pub(super) fn covers(&self, name: &OsStr) -> bool {
        let plain = Path::new(name).extension().is_none_or(is_manifest_extension);
        self.names.contains(name) || (self.manifests && plain && !is_hidden(name))
    }
}

/// The outcome of one look.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// path as shown → file
    pub(super) files: BTreeMap<Arc<str>, Found>,
    /// path as shown → what is wrong with the tree there
    pub(super) problems: BTreeMap<Arc<str>, Vec<Problem>>,
    /// folder without symlinks → what matters in it
    pub(super) folders: BTreeMap<PathBuf, Interest>,
    /// Paths below which nothing could be seen, so that files known there are not taken for removed.
    pub(super) unseen: Vec<PathBuf>,
    /// Files found so far by canonical path: each is read once, however many ways lead to it.
    seen: BTreeSet<PathBuf>,
}

impl Scan {
    /// Looks at `roots`, in order, and at where `others` lead, which are not read here.
    pub(super) fn of<'f>(roots: &[PathBuf], others: impl Iterator<Item = &'f Path>) -> Self {
        let mut scan = Self::default();
        for root in roots {
            scan.follow_links(&absolute(root), MAX_LINKS);
            scan.root(root);
        }
        for other in others {
            scan.follow_links(&absolute(other), MAX_LINKS);
        }
        scan
    }

    fn root(&mut self, root: &Path) {
        let metadata = match fs::metadata(root) {
            Ok(metadata) => metadata,
            Err(error) => {
                self.unseen.push(root.to_owned());
                let advice = if error.kind() == io::ErrorKind::NotFound {
                    "the path is gone; what was read from it last keeps serving until it is back".to_owned()
                } else {
                    format!("cannot look at the path: {error}")
                };
                return self.problem(root, Severity::Error, "PathUnreadable", advice);
            }
        };
        if !metadata.is_dir() {
            return self.file(root, &metadata);
        }
        let before = self.seen.len();
        let problems = self.problems.len();
        self.folder(root, &metadata, &mut Vec::new());
        if self.seen.len() == before && self.problems.len() == problems {
            let message =
                "no *.yaml, *.yml or *.json file in the folder; add one, it is read as soon as it appears";
            self.problem(root, Severity::Warning, "EmptyFolder", message.to_owned());
        }
    }

    fn folder(&mut self, path: &Path, metadata: &Metadata, above: &mut Vec<(u64, u64)>) {
        let identity = (metadata.dev(), metadata.ino());
        if above.contains(&identity) {
            let message = "a symlink leads back to a folder above it; remove the link".to_owned();
            return self.problem(path, Severity::Error, "CyclicSymlink", message);
        }
        if above.len() >= MAX_DEPTH {
            let message = format!("more than {MAX_DEPTH} folders deep; it is not read");
            return self.problem(path, Severity::Error, "TooDeep", message);
        }
        self.watch_folder(path);
        let mut names = match entries(path) {
            Ok(names) => names,
            Err(error) => {
                self.unseen.push(path.to_owned());
                let message = format!("cannot list the folder: {error}");
                return self.problem(path, Severity::Error, "PathUnreadable", message);
            }
        };
        names.sort_unstable();
        above.push(identity);
        for name in names.iter().filter(|name| !is_hidden(name)) {
            self.entry(&path.join(name), above);
        }
        above.pop();
    }

    fn entry(&mut self, path: &Path, above: &mut Vec<(u64, u64)>) {
        let Ok(own) = fs::symlink_metadata(path) else { return };
        let metadata = if own.is_symlink() {
            match fs::metadata(path) {
                Ok(target) => {
                    if target.is_dir() || is_manifest(path) {
                        self.follow_links(&absolute(path), MAX_LINKS);
                    }
                    target
                }
                Err(error) => {
                    if is_manifest(path) || path.extension().is_none() {
                        self.follow_links(&absolute(path), MAX_LINKS);
                        self.broken_link(path, &error);
                    }
                    return;
                }
            }
        } else {
            own
        };
        if metadata.is_dir() {
            self.folder(path, &metadata, above);
        } else if is_manifest(path) {
            self.file(path, &metadata);
        }
    }

    fn broken_link(&mut self, path: &Path, error: &io::Error) {
        self.unseen.push(path.to_owned());
        if error.kind() == io::ErrorKind::NotFound {
            let message = "the symlink points to nothing; remove it or restore its target".to_owned();
            self.problem(path, Severity::Error, "DanglingSymlink", message);
        } else if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) {
            let message = "the symlink leads back to itself; remove it".to_owned();
            self.problem(path, Severity::Error, "CyclicSymlink", message);
        } else {
            self.problem(
                path,
                Severity::Error,
                "PathUnreadable",
                format!("cannot follow the symlink: {error}"),
            );
        }
    }

    fn file(&mut self, path: &Path, metadata: &Metadata) {
        if !metadata.is_file() {
            let message =
                "neither a file nor a folder (a pipe, socket or device?); it is not read".to_owned();
            return self.problem(path, Severity::Error, "NotAFile", message);
        }
        let canonical = match fs::canonicalize(path) {
            Ok(canonical) => canonical,
            Err(error) => {
                self.unseen.push(path.to_owned());
                return self.problem(
                    path,
                    Severity::Error,
                    "PathUnreadable",
                    format!("cannot open it: {error}"),
                );
            }
        };
        if !self.seen.insert(canonical.clone()) {
            return;
        }
        let found = Found { path: path.to_owned(), canonical, stamp: Stamp::of(metadata) };
        self.files.insert(path.to_string_lossy().into(), found);
    }

    fn problem(&mut self, path: &Path, severity: Severity, reason: &'static str, message: String) {
        let shown: Arc<str> = path.to_string_lossy().into();
        let problem = file_problem(&shown, severity, reason, message);
        self.problems.entry(shown).or_default().push(problem);
    }

    fn watch_folder(&mut self, path: &Path) {
        if let Some(interest) = self.interest(path) {
            interest.manifests = true;
        }
    }

    fn interest(&mut self, folder: &Path) -> Option<&mut Interest> {
        let canonical = fs::canonicalize(folder).ok()?;
        let metadata = fs::metadata(&canonical).ok()?;
        let interest = self.folders.entry(canonical).or_default();
        interest.identity = (metadata.dev(), metadata.ino());
        Some(interest)
    }

    /// Notes every folder in which a name decides where `path` leads: each symlink on the way and its target,
    /// so that an exchanged link (`..data` of a mounted ConfigMap) or a replaced target is seen.
    fn follow_links(&mut self, path: &Path, budget: usize) {
        let mut prefix = PathBuf::new();
        let mut components = path.components();
        while let Some(component) = components.next() {
            prefix.push(component);
            let Component::Normal(name) = component else { continue };
            let is_last = components.as_path().as_os_str().is_empty();
            let metadata = fs::symlink_metadata(&prefix);
            let is_link = metadata.as_ref().is_ok_and(Metadata::is_symlink);
            let Some(parent) = prefix.parent().map(Path::to_owned) else { continue };
            if (is_link || is_last || metadata.is_err())
                && let Some(interest) = self.interest(&parent)
            {
                interest.names.insert(name.to_owned());
            }
            if metadata.is_err() {
                return;
            }
            if is_link && budget > 0 {
                if let Ok(target) = fs::read_link(&prefix) {
                    self.follow_links(&parent.join(target).join(components.as_path()), budget - 1);
                }
                return;
            }
        }
    }
}

fn entries(path: &Path) -> io::Result<Vec<OsString>> {
    fs::read_dir(path)?.map(|entry| Ok(entry?.file_name())).collect()
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().first() == Some(&b'.')
}

fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(is_manifest_extension)
}

fn is_manifest_extension(extension: &OsStr) -> bool {
    ["yaml", "yml", "json"].iter().any(|known| extension.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests;
