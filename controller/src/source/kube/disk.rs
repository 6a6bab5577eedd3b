//! What is kept on disk of the objects in use, and what was taken from there. Owns when the disk is read and what of it
//! still counts; the bytes are [`journal`]'s.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use config::index::Event;
use config::report::{Kind, ObjectRef};
use config::resource::Object;
use foldhash::quality::FixedState;
use tokio::sync::mpsc;

use super::Message;
use super::journal::{self, Journal, ReadError, Restored, Scope};
use super::progress::{Origin, Progress};

/// An API server that cannot be reached is given this long at the start …
const PATIENCE: Duration = Duration::from_millis(300);
/// … and one that does not say anything this long.
const LONG_PATIENCE: Duration = Duration::from_millis(700);
/// What is on disk is confirmed this often.
const CONFIRM: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Reading {
    NotYet,
    Running,
    Over,
}

/// Objects on disk.
#[derive(Debug)]
pub(super) struct Disk {
    folder: Option<PathBuf>,
    scope: Scope,
    journal: Option<Journal>,
    reading: Reading,
    /// Objects from disk that are in use, and that the API server has not said anything of; and what was kept of them.
    restored: HashMap<ObjectRef, Box<[u8]>, FixedState>,
    /// Sources of problems from disk that are in use.
    told: HashSet<Arc<str>, FixedState>,
    confirm_at: Option<Instant>,
}

impl Disk {
    /// Nothing is read or written yet; nothing ever is without a `folder`.
    pub(super) fn new(folder: Option<PathBuf>, scope: Scope) -> Self {
        let restored = HashMap::default();
        Self {
            folder,
            scope,
            journal: None,
            reading: Reading::NotYet,
            restored,
            told: HashSet::default(),
            confirm_at: None,
        }
    }

    /// Begins to keep what comes.
    pub(super) fn start(&mut self, progress: &Progress) {
        let Some(folder) = &self.folder else { return };
        match Journal::start(folder, self.scope.clone()) {
            Ok(journal) => {
                progress.watch_journal(journal.figures());
                self.journal = Some(journal);
            }
            Err(error) => {
                tracing::warn!(folder = %folder.display(), %error, "the last known configuration is not kept on disk");
            }
        }
    }

    /// True if objects are kept.
    pub(super) fn keeps(&self) -> bool {
        self.journal.is_some()
    }

    /// When [`Self::read_if_away`] has something to do at the earliest.
    pub(super) fn deadline(&self, started: Instant) -> Option<Instant> {
        (self.folder.is_some() && self.reading == Reading::NotYet).then_some(started + PATIENCE)
    }

    /// Reads the disk, on a thread of its own, if the API server is away, or does not say what must be known (`is_stuck`).
    pub(super) fn read_if_away(
        &mut self,
        progress: &Progress,
        is_stuck: bool,
        started: Instant,
        now: Instant,
        news: &mpsc::UnboundedSender<Message>,
    ) {
        let is_due = self.deadline(started).is_some_and(|at| at <= now);
        let is_wanted = is_due && (is_stuck || progress.is_away(now, started + LONG_PATIENCE));
        let Some(folder) = self.folder.clone().filter(|_| is_wanted) else { return };
        self.reading = Reading::Running;
        let (scope, news) = (self.scope.clone(), news.clone());
        tokio::task::spawn_blocking(move || {
            // Nobody is interested any more if the process is being ended.
            let _ = news.send(Message::Disk(journal::restore(&folder, &scope)));
        });
    }

    /// Takes what was read: the objects to serve, if they are to be served.
    pub(super) fn take(
        &mut self,
        outcome: Result<Restored, ReadError>,
        progress: &Progress,
        is_stuck: bool,
        now: Instant,
    ) -> Option<Vec<Event>> {
        self.reading = Reading::Over;
        match outcome {
            Ok(Restored { events, objects, saved, damaged }) => {
                if !is_stuck && !progress.is_away(now, now) {
                    // It is back: what it says goes before what it said. If it goes again, the disk is read again.
                    self.reading = Reading::NotYet;
                    return None;
                }
                if damaged > 0 {
                    tracing::warn!(
                        places = damaged,
                        "the configuration kept on disk is damaged; what is left of it is used"
                    );
                }
                tracing::warn!(
                    objects = objects.len(),
                    age_seconds = saved.elapsed().unwrap_or_default().as_secs(),
                    "the API server does not answer, or not in full: serving the last known configuration from disk until it does"
                );
                self.restored = objects.into_iter().collect();
                self.told = events.iter().filter_map(source_of_problems).collect();
                progress.serve(Origin::Disk(saved));
                Some(events)
            }
            Err(ReadError::None) => {
                tracing::warn!(
                    "the API server does not answer, or not in full, and no configuration was kept on disk yet"
                );
                None
            }
            Err(error) => {
                tracing::error!("the configuration kept on disk is not used: {error}");
                None
            }
        }
    }

    /// The API server says what this object is.
    pub(super) fn put(&mut self, object: &ObjectRef, json: Box<[u8]>) {
        self.is_known(object);
        if let Some(journal) = &self.journal {
            journal.put(object.clone(), json);
        }
    }

    /// The API server says something of this object, so that it stays as it is.
    pub(super) fn is_known(&mut self, object: &ObjectRef) {
        if !self.restored.is_empty() {
            self.restored.remove(object);
        }
    }

    /// The API server has said `live` before the disk was read: of these objects, what it said counts.
    pub(super) fn are_known(&mut self, live: &[Event], restored: &mut Vec<Event>) {
        let mut told: HashSet<Arc<str>, FixedState> = HashSet::default();
        for event in live {
            match event {
                Event::Apply(Object { reference, .. }) | Event::Delete(reference) => {
                    self.is_known(reference);
                    told.extend(self.take_told(reference));
                }
                Event::Problems { source, .. } => {
                    self.told.remove(source);
                    told.insert(Arc::clone(source));
                }
                _ => {}
            }
        }
        if !told.is_empty() {
            self.restored.retain(|object, _| !told.contains(&*object.to_string()));
            restored
                .retain(|event| !matches!(event, Event::Problems { source, .. } if told.contains(source)));
        }
    }

    /// The source of problems that the disk had of this object, the first time that something is heard of it.
    pub(super) fn take_told(&mut self, object: &ObjectRef) -> Option<Arc<str>> {
        if self.told.is_empty() { None } else { self.told.take(&*object.to_string()) }
    }

    /// The object is gone.
    pub(super) fn remove(&mut self, object: &ObjectRef) {
        self.is_known(object);
        if let Some(journal) = &self.journal {
            journal.remove(object.clone());
        }
    }

    /// True if objects from disk are in use of which the API server has not said anything.
    pub(super) fn is_in_use(&self) -> bool {
        !self.restored.is_empty()
    }

    /// Everything of `kind` was listed: what only the disk has is gone, unless it `stays`.
    pub(super) fn is_listed(&mut self, kind: Kind, stays: impl Fn(&ObjectRef) -> bool) -> Vec<ObjectRef> {
        let gone = self.restored.extract_if(|object, _| object.kind == kind && !stays(object));
        let gone: Vec<ObjectRef> = gone.map(|(object, _)| object).collect();
        if let Some(journal) = &self.journal {
            gone.iter().for_each(|object| journal.remove(object.clone()));
        }
        gone
    }

    /// Everything was listed, and is kept from now on; what is still in use from before is kept on.
    pub(super) fn complete(&mut self, now: Instant) {
        if let Some(journal) = &self.journal {
            self.restored.iter().for_each(|(object, json)| journal.put(object.clone(), json.clone()));
            journal.complete();
            self.confirm_at = Some(now + CONFIRM);
        }
    }

    /// Notes from time to time that what is on disk is still right.
    pub(super) fn confirm(&mut self, progress: &Progress, now: Instant) {
        if let (Some(journal), Some(at)) = (&self.journal, self.confirm_at)
            && at <= now
        {
            self.confirm_at = Some(now + CONFIRM);
            if progress.is_current() {
                journal.confirm();
            }
        }
    }

    /// When [`Self::confirm`] has something to do.
    pub(super) fn confirm_at(&self) -> Option<Instant> {
        self.confirm_at
    }
}

fn source_of_problems(event: &Event) -> Option<Arc<str>> {
    match event {
        Event::Problems { source, .. } => Some(Arc::clone(source)),
        _ => None,
    }
}
