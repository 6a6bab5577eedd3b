//! What the kernel says about watched folders, gathered until the source asks for it. It decides nothing
//! but whether watching works at all.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

use super::scan::Interest;
use super::settle::Touch;

/// More touched paths than this at once are not listed: everything is looked at instead.
const MAX_TOUCHED: usize = 4_096;

/// A touched path and how it was touched.
#[derive(Debug)]
pub(super) struct Touched {
    pub(super) path: PathBuf,
    pub(super) touch: Touch,
    /// Only the content changed; the tree is as it was.
    pub(super) content_only: bool,
}

/// What was gathered since the last time.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub(super) touched: Vec<Touched>,
    /// Notices were lost: look at everything.
    pub(super) lost: bool,
}

#[derive(Debug, Default)]
struct Mailbox {
    gathered: Mutex<Gathered>,
    filled: Notify,
    /// folder → what matters in it; the rest wakes nobody, for the folder of a watched file may be a busy one
    interests: Mutex<BTreeMap<PathBuf, Interest>>,
}

/// Watches folders, not files: only so are editors' renames and exchanged symlinks seen.
#[derive(Debug)]
pub(super) struct Watch {
    watcher: Option<RecommendedWatcher>,
    mailbox: Arc<Mailbox>,
    /// folder → device and inode of what is watched there
    watched: BTreeMap<PathBuf, (u64, u64)>,
}

impl Watch {
    pub(super) fn new() -> Self {
        let mailbox = Arc::new(Mailbox::default());
        let inbox = Arc::clone(&mailbox);
        let watcher = notify::recommended_watcher(move |event| inbox.take_in(event));
        let watcher = watcher.map_err(|error| report_blind(&error)).ok();
        Self { watcher, mailbox, watched: BTreeMap::new() }
    }

    /// A watch that sees nothing.
    pub(super) fn blind() -> Self {
        Self { watcher: None, mailbox: Arc::default(), watched: BTreeMap::new() }
    }

    /// True if the kernel does not tell of changes, so that somebody must look.
    pub(super) fn is_blind(&self) -> bool {
        self.watcher.is_none()
    }

    /// Watches exactly `folders`; true if any of them was not watched before.
    pub(super) fn follow(&mut self, folders: &BTreeMap<PathBuf, Interest>) -> bool {
        self.mailbox.mind(folders);
        let Some(watcher) = &mut self.watcher else { return false };
        self.watched.retain(|folder, identity| {
            let keep = folders.get(folder).is_some_and(|interest| interest.identity == *identity);
            if !keep {
                // The folder may be gone, and its watch with it.
                let _ = watcher.unwatch(folder);
            }
            keep
        });
        let mut is_new = false;
        for (folder, interest) in folders {
            if self.watched.contains_key(folder) {
                continue;
            }
            match watcher.watch(folder, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.watched.insert(folder.clone(), interest.identity);
                    is_new = true;
                }
                // It went away since the look: its parent tells of that.
                Err(_) if !folder.exists() => {}
                Err(error) => {
                    report_blind(&error);
                    self.watcher = None;
                    self.watched.clear();
                    return false;
                }
            }
        }
        is_new
    }

    /// Waits until something was gathered. Safe to drop while waiting.
    pub(super) async fn changed(&self) {
        self.mailbox.filled.notified().await;
    }

    pub(super) fn take(&self) -> Gathered {
        std::mem::take(&mut *self.mailbox.gathered.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Whether something about `path` can change what is read from `folders`.
pub(super) fn matters(folders: &BTreeMap<PathBuf, Interest>, path: &Path) -> bool {
    let Some((folder, name)) = path.parent().zip(path.file_name()) else { return true };
    folders.get(folder).is_some_and(|interest| interest.covers(name)) || folders.contains_key(path)
}

impl Mailbox {
    fn mind(&self, folders: &BTreeMap<PathBuf, Interest>) {
        let mut interests = self.interests.lock().unwrap_or_else(PoisonError::into_inner);
        if *interests != *folders {
            interests.clone_from(folders);
        }
    }

    fn take_in(&self, event: notify::Result<notify::Event>) {
        if let Ok(event) = &event
            && !event.need_rescan()
        {
            if meaning(event.kind).is_none() {
                return;
            }
            let interests = self.interests.lock().unwrap_or_else(PoisonError::into_inner);
            if !event.paths.iter().any(|path| matters(&interests, path)) {
                return;
            }
        }
        let mut gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Err(_) => gathered.lost = true,
            Ok(event) if event.need_rescan() => gathered.lost = true,
            Ok(event) => {
                let Some((touch, content_only)) = meaning(event.kind) else { return };
                if gathered.touched.len() + event.paths.len() > MAX_TOUCHED {
                    gathered.touched.clear();
                    gathered.lost = true;
                } else {
                    let touched = event.paths.into_iter().map(|path| Touched { path, touch, content_only });
                    gathered.touched.extend(touched);
                }
            }
        }
        drop(gathered);
        self.filled.notify_one();
    }
}

/// What an event says, or `None` if it is no change (our own reading, for example).
fn meaning(kind: EventKind) -> Option<(Touch, bool)> {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => Some((Touch::Done, true)),
        EventKind::Access(_) => None,
        EventKind::Modify(ModifyKind::Data(_)) => Some((Touch::Writing, true)),
        EventKind::Modify(ModifyKind::Metadata(_)) | EventKind::Create(_) => Some((Touch::Writing, false)),
        EventKind::Any | EventKind::Modify(_) | EventKind::Remove(_) | EventKind::Other => {
            Some((Touch::Done, false))
        }
    }
}

fn report_blind(error: &notify::Error) {
    tracing::warn!(
        %error,
        "cannot watch files for changes, looking at them each second instead \
         (a higher fs.inotify.max_user_watches or max_user_instances may help)"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_happens_to_other_files_of_a_folder_wakes_nobody() {
        let mut watch = Watch::blind();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("edge.yaml");
        std::fs::write(&file, "").unwrap();
        let scan = super::super::scan::Scan::of(std::slice::from_ref(&file), std::iter::empty());
        watch.follow(&scan.folders);
        let told = |path: &Path| {
            let event = notify::Event::new(EventKind::Access(AccessKind::Close(AccessMode::Write)));
            watch.mailbox.take_in(Ok(event.add_path(path.to_owned())));
            watch.take().touched.len()
        };
        assert_eq!(told(&file.canonicalize().unwrap()), 1);
        watch.changed().await;
        assert_eq!(told(&folder.path().canonicalize().unwrap().join("other.yaml")), 0);
        assert!(tokio::time::timeout(std::time::Duration::ZERO, watch.changed()).await.is_err());
    }
}
