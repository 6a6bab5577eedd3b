//! The last known good on disk: the objects in use, as they came, for a start while the API server is away.
//!
//! It owns one file, which only we may read (it has keys in it), and of several processes one writes. The first complete lists make a new file, which then takes
//! the place of the old one; changes are appended, the last one of each object counts, and the file is written anew when
//! most of it is of no use. Everything is written by a thread of its own, a few seconds late and the changes of an object
//! in that time as one, so that no disk can delay anything; what is not written in time is lost, and nothing else.

mod format;
mod store;
mod trim;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use config::index::Event;
use config::report::ObjectRef;
use config::resource::decode_json;
use foldhash::quality::FixedState;

pub(super) use self::format::Scope;
use self::format::{Record, Records};
pub(super) use self::store::ReadError;
use self::store::Store;
pub(super) use self::trim::{trim, trim_material};

/// Changes are written this long after the first of them …
const DELAY: Duration = Duration::from_secs(5);
/// … or when there are this many bytes of them.
const MUCH: usize = 1024 * 1024;
/// After an error, it is tried again after this time.
const RETRY: Duration = Duration::from_secs(30);
/// Whether another process has ceased to write is looked at this often.
const LOCK_INTERVAL: Duration = Duration::from_secs(2);
/// The file says at least this often that it is still right.
const TOUCH: Duration = Duration::from_secs(60);
/// How long the last changes may take at the end.
const FAREWELL: Duration = Duration::from_secs(5);

/// Figures for metrics.
#[derive(Debug, Default)]
pub(super) struct Figures {
    /// Size of the file in bytes.
    pub(super) bytes: AtomicU64,
    /// Times that something was written.
    pub(super) writes: AtomicU64,
    /// Times that something could not be written.
    pub(super) failures: AtomicU64,
}

/// What was on disk.
#[derive(Debug)]
pub(super) struct Restored {
    /// The objects, as events.
    pub(super) events: Vec<Event>,
    /// Who they are, and what was kept of them.
    pub(super) objects: Vec<(ObjectRef, Box<[u8]>)>,
    /// When they were last known to be right.
    pub(super) saved: SystemTime,
    /// Places of the file that could not be read.
    pub(super) damaged: usize,
}

/// Reads what is on disk below `state`, if it is of `scope`. Blocks.
pub(super) fn restore(state: &Path, scope: &Scope) -> Result<Restored, ReadError> {
    let content = store::read(state, scope)?;
    let mut records = Records::new(content.bytes.get(content.start..).unwrap_or_default());
    let mut last: HashMap<ObjectRef, &[u8], FixedState> = HashMap::default();
    for Record { object, json } in records.by_ref() {
        match json {
            Some(json) => last.insert(object, json),
            None => last.remove(&object),
        };
    }
    let (mut events, mut objects) = (Vec::with_capacity(last.len()), Vec::with_capacity(last.len()));
    for (reference, json) in last {
        let received = decode_json(reference.kind, json);
        let Some(object) = received.object.filter(|object| object.reference == reference) else { continue };
        events.push(Event::Apply(object));
        if !received.problems.is_empty() {
            events
                .push(Event::Problems { source: reference.to_string().into(), problems: received.problems });
        }
        objects.push((reference, json.into()));
    }
    Ok(Restored { events, objects, saved: content.saved, damaged: records.damaged })
}

/// Makes sure that objects can be kept below `state`.
///
/// # Errors
/// If the folder is not there and cannot be made, or nothing can be written to it.
pub fn prepare(state: &Path) -> io::Result<()> {
    let folder = store::make_folder(state)?;
    rustix::fs::access(&folder, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK)?;
    Ok(())
}

/// What is to be written.
#[derive(Debug, Default)]
struct Pending {
    /// object → what it is now; `None` if it is gone
    news: HashMap<ObjectRef, Option<Box<[u8]>>, FixedState>,
    bytes: usize,
    /// Something of it was taken to be written, so that what is gone may be in the file.
    has_begun: bool,
    /// When the first of it came.
    since: Option<Instant>,
    /// With what came so far, it is complete.
    is_complete: bool,
    /// The API server confirmed that it is still right.
    is_confirmed: bool,
    is_over: bool,
    has_ended: bool,
}

#[derive(Debug, Default)]
struct Desk {
    pending: Mutex<Pending>,
    changed: Condvar,
    figures: Figures,
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The objects in use, on their way to disk.
#[derive(Debug)]
pub(super) struct Journal {
    desk: Arc<Desk>,
    thread: Option<JoinHandle<()>>,
}

impl Journal {
    /// Begins a new file below `state`, which counts from [`Self::complete`] on.
    pub(super) fn start(state: &Path, scope: Scope) -> io::Result<Self> {
        let folder = store::make_folder(state)?;
        let desk = Arc::<Desk>::default();
        let writer = Writer::new(Arc::clone(&desk), folder, scope);
        let thread = std::thread::Builder::new().name("journal".to_owned()).spawn(|| writer.run())?;
        Ok(Self { desk, thread: Some(thread) })
    }

    /// The object is this now. Never waits.
    pub(super) fn put(&self, object: ObjectRef, json: Box<[u8]>) {
        self.note(object, Some(json));
    }

    /// The object is gone. Never waits.
    pub(super) fn remove(&self, object: ObjectRef) {
        self.note(object, None);
    }

    fn note(&self, object: ObjectRef, json: Option<Box<[u8]>>) {
        let mut pending = self.desk.lock();
        let was_much = pending.bytes >= MUCH;
        pending.bytes += json.as_ref().map_or(0, |json| json.len());
        // A file that is not begun has nothing that could go, and another process may be in its way for ever.
        let is_unwritten = json.is_none() && !pending.has_begun;
        let old = if is_unwritten { pending.news.remove(&object) } else { pending.news.insert(object, json) };
        pending.bytes -= old.flatten().map_or(0, |json| json.len());
        let is_first = pending.since.is_none();
        pending.since.get_or_insert_with(Instant::now);
        if is_first || (pending.bytes >= MUCH && !was_much) {
            self.desk.changed.notify_one();
        }
    }

    /// Everything that there is was noted.
    pub(super) fn complete(&self) {
        self.desk.lock().is_complete = true;
        self.desk.changed.notify_one();
    }

    /// Everything is still as it was noted.
    pub(super) fn confirm(&self) {
        self.desk.lock().is_confirmed = true;
    }

    /// Figures for metrics: size, writes, failures.
    pub(super) fn figures(&self) -> Box<dyn Fn() -> [u64; 3] + Send + Sync> {
        let desk = Arc::clone(&self.desk);
        Box::new(move || {
            let Figures { bytes, writes, failures } = &desk.figures;
            [bytes.load(Relaxed), writes.load(Relaxed), failures.load(Relaxed)]
        })
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        let mut pending = self.desk.lock();
        pending.is_over = true;
        self.desk.changed.notify_all();
        // A disk that hangs must not keep the process from ending.
        let (pending, _) = self
            .desk
            .changed
            .wait_timeout_while(pending, FAREWELL, |pending| !pending.has_ended)
            .unwrap_or_else(PoisonError::into_inner);
        let has_ended = pending.has_ended;
        drop(pending);
        if let Some(thread) = self.thread.take().filter(|_| has_ended) {
            // A panic of the thread was printed when it happened.
            let _ = thread.join();
        }
    }
}

/// The thread that writes.
#[derive(Debug)]
struct Writer {
    desk: Arc<Desk>,
    folder: PathBuf,
    scope: Scope,
    store: Option<Store>,
    /// The right to write.
    lock: Option<File>,
    has_warned: bool,
    /// It was told that another process writes.
    has_yielded: bool,
}

/// What the thread has to do.
#[derive(Debug)]
struct Work {
    news: Vec<(ObjectRef, Option<Box<[u8]>>)>,
    completes: bool,
    is_confirmed: bool,
    is_over: bool,
}

impl Writer {
    fn new(desk: Arc<Desk>, folder: PathBuf, scope: Scope) -> Self {
        Self { desk, folder, scope, store: None, lock: None, has_warned: false, has_yielded: false }
    }

    fn run(mut self) {
        let mut not_before = Instant::now();
        let mut is_complete = false;
        while self.has_lock() || self.waits_for_lock() {
            if self.lock.is_none() {
                continue;
            }
            let work = self.next(not_before, is_complete);
            let (completes, is_over) = (work.completes, work.is_over);
            if !(is_over && !is_complete && !completes) {
                match self.write(&work) {
                    Ok(()) => {
                        is_complete |= completes;
                        if std::mem::take(&mut self.has_warned) {
                            tracing::info!("the last known configuration is kept on disk again");
                        }
                    }
                    Err(error) => {
                        self.failed(&error, work);
                        not_before = Instant::now() + RETRY;
                    }
                }
            }
            if is_over {
                break;
            }
        }
        self.desk.lock().has_ended = true;
        self.desk.changed.notify_all();
    }

    /// True if it is we who write. What is new waits in memory until then, the last of each object.
    fn has_lock(&mut self) -> bool {
        if self.lock.is_some() {
            return true;
        }
        match store::lock(&self.folder) {
            Ok(lock) => self.lock = lock,
            Err(error) => {
                self.desk.figures.failures.fetch_add(1, Relaxed);
                self.warn(&error);
                return false;
            }
        }
        let has_lock = self.lock.is_some();
        let folder = self.folder.display();
        if has_lock && self.has_yielded {
            tracing::info!(%folder, "the last known configuration is kept on disk by this process now");
        } else if !has_lock && !std::mem::replace(&mut self.has_yielded, true) {
            tracing::info!(
                %folder,
                "another process keeps its configuration in this folder; this one only reads it until that one ends"
            );
        }
        has_lock
    }

    /// Waits for a while, or for the end; false if it has come.
    fn waits_for_lock(&self) -> bool {
        let pending = self.desk.lock();
        let (pending, _) = self
            .desk
            .changed
            .wait_timeout_while(pending, LOCK_INTERVAL, |pending| !pending.is_over)
            .unwrap_or_else(PoisonError::into_inner);
        !pending.is_over
    }

    /// Waits until there is something to do.
    fn next(&self, not_before: Instant, is_complete: bool) -> Work {
        let mut pending = self.desk.lock();
        let wake = Instant::now() + TOUCH;
        loop {
            let now = Instant::now();
            let completes = pending.is_complete && !is_complete;
            let due = if pending.bytes >= MUCH || completes {
                Some(now)
            } else {
                pending.since.map(|since| since + DELAY)
            };
            let due = due.map_or(wake, |due| due.min(wake)).max(not_before);
            if due <= now || pending.is_over {
                let Pending { news, bytes, has_begun, since, is_confirmed, .. } = &mut *pending;
                (*bytes, *has_begun, *since) = (0, true, None);
                return Work {
                    news: std::mem::take(news).into_iter().collect(),
                    completes,
                    is_confirmed: std::mem::take(is_confirmed),
                    is_over: pending.is_over,
                };
            }
            pending =
                self.desk.changed.wait_timeout(pending, due - now).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn write(&mut self, work: &Work) -> io::Result<()> {
        let store = match &mut self.store {
            Some(store) => store,
            None => {
                let folder = self.folder.clone();
                self.store.insert(Store::begin(folder, self.scope.clone())?)
            }
        };
        if !work.news.is_empty() {
            store.append(&work.news)?;
            self.desk.figures.writes.fetch_add(1, Relaxed);
        }
        if work.completes {
            store.commit()?;
        } else if store.wants_compaction() {
            store.compact()?;
            self.desk.figures.writes.fetch_add(1, Relaxed);
        }
        if work.is_confirmed {
            store.touch()?;
        }
        self.desk.figures.bytes.store(store.length(), Relaxed);
        Ok(())
    }

    /// Nothing of `work` may be lost; what is newer goes before it.
    fn failed(&mut self, error: &io::Error, work: Work) {
        self.desk.figures.failures.fetch_add(1, Relaxed);
        self.warn(error);
        let mut pending = self.desk.lock();
        for (object, json) in work.news {
            let length = json.as_ref().map_or(0, |json| json.len());
            if let std::collections::hash_map::Entry::Vacant(place) = pending.news.entry(object) {
                place.insert(json);
                pending.bytes += length;
            }
        }
        pending.since.get_or_insert_with(Instant::now);
    }

    fn warn(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.has_warned, true) {
            tracing::warn!(
                folder = %self.folder.display(),
                %error,
                "the last known configuration cannot be kept on disk; it is tried again, and everything else goes on"
            );
        }
    }
}

#[cfg(test)]
mod tests;
