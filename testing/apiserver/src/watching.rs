//! Watches: the changes of one kind after a version, as a stream of events, with bookmarks and an end. Never changes
//! anything, and keeps no queue: a watch reads the log of changes where it stands, and ends if that was forgotten.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use crate::answer::{self, Form};
use crate::error::Failure;
use crate::kinds::Kind;
use crate::list::invalid_options;
use crate::query::{Query, Selector};
use crate::state::State;
use crate::store::{Change, Object};

/// How many changes are taken from the log at a time.
const BATCH: usize = 256;

/// A watch that was asked for.
#[derive(Debug)]
pub(crate) struct Watching {
    kind: Arc<Kind>,
    namespace: Option<String>,
    selector: Selector,
    form: Form,
    bookmarks: bool,
    end: Instant,
    start: Start,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Start {
    /// What is there now as ADDED events, then changes.
    Everything {
        /// Whether a bookmark says where what was there ends.
        marked: bool,
    },
    /// Changes after a version.
    After(u64),
}

impl Watching {
    /// What `query` asks for.
    pub(crate) fn parse(
        kind: Arc<Kind>,
        namespace: Option<String>,
        query: &Query,
        selector: Selector,
        form: Form,
    ) -> Result<Self, Failure> {
        let version = query.number("resourceVersion").map_err(|_| {
            let text = query.text("resourceVersion").unwrap_or_default();
            Failure::bad_request(format!("Invalid value: {text:?}: strconv.ParseUint: invalid syntax"))
        })?;
        let initial = query.flag("sendInitialEvents");
        let bookmarks = query.flag("allowWatchBookmarks").unwrap_or(false);
        match (initial, query.text("resourceVersionMatch")) {
            (None, None) | (Some(_), Some("NotOlderThan")) => {}
            (None, Some(_)) => {
                return Err(invalid_options(
                    "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless \
                     sendInitialEvents is provided",
                ));
            }
            (Some(_), _) => {
                return Err(invalid_options(
                    "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to \
                     NotOlderThan",
                ));
            }
        }
        let start = match (initial, version) {
            (Some(true), _) => Start::Everything { marked: bookmarks },
            (Some(false), None | Some(0)) => Start::After(0),
            (None, None | Some(0)) => Start::Everything { marked: false },
            (_, Some(version)) => Start::After(version),
        };
        let seconds = match query.number("timeoutSeconds")? {
            None | Some(0) => fastrand::u64(1_800..3_600),
            Some(seconds) => seconds,
        };
        let end = Instant::now() + Duration::from_secs(seconds.min(86_400));
        Ok(Self { kind, namespace, selector, form, bookmarks, end, start })
    }

    /// Sends events until the time is over, the client is gone, or the history does not reach.
    pub(crate) async fn run(self, state: Arc<State>, sender: mpsc::Sender<Bytes>) {
        let mut latest = state.store().subscribe(&self.kind.storage);
        let mut ended = state.faults.ends();
        let Some(mut cursor) = self.begin(&state, &sender).await else { return };
        let mut bookmark_at = self.next_bookmark(&state);
        loop {
            latest.borrow_and_update();
            cursor = match self.catch_up(&state, &sender, cursor).await {
                Some(cursor) => cursor,
                None => return,
            };
            tokio::select! {
                changed = latest.changed() => if changed.is_err() { return },
                () = sleep_until(bookmark_at), if self.bookmarks => {
                    let version = state.store().version();
                    // Changes up to this version may have come meanwhile; they go first.
                    cursor = match self.catch_up(&state, &sender, cursor).await {
                        Some(cursor) => cursor,
                        None => return,
                    };
                    cursor = cursor.max(version);
                    if !state.faults.skip_bookmarks(&self.kind) {
                        self.send(&sender, self.bookmark(cursor, false)).await;
                    }
                    bookmark_at = self.next_bookmark(&state);
                }
                () = sleep_until(self.end) => return,
                () = end_of(&mut ended) => return,
                () = sender.closed() => return,
            }
        }
    }

    /// The version after which changes are sent; what is there now went out if it was asked for.
    async fn begin(&self, state: &State, sender: &mpsc::Sender<Bytes>) -> Option<u64> {
        let marked = match self.start {
            Start::After(0) => return Some(state.store().version()),
            Start::After(version) => return Some(version),
            Start::Everything { marked } => marked,
        };
        let (objects, version) = {
            let store = state.store();
            let version = store.version();
            (store.list(&self.kind.storage, self.namespace.as_deref(), None, version).ok()?, version)
        };
        for object in objects.iter().filter(|object| self.selector.selects(object)) {
            if !self.send(sender, self.event("ADDED", object)).await {
                return None;
            }
        }
        if marked && !self.send(sender, self.bookmark(version, true)).await {
            return None;
        }
        Some(version)
    }

    /// Sends the changes after `cursor` that are known; the new cursor, or none if the watch is over.
    async fn catch_up(&self, state: &State, sender: &mpsc::Sender<Bytes>, mut cursor: u64) -> Option<u64> {
        loop {
            let changes = state.store().changes(&self.kind.storage, cursor, BATCH);
            let changes = match changes {
                Ok(changes) => changes,
                Err(forgotten) => {
                    let words = format!("too old resource version: {cursor} ({})", forgotten.oldest);
                    self.send(sender, self.error(&Failure::expired(words))).await;
                    return None;
                }
            };
            if changes.is_empty() {
                return Some(cursor);
            }
            for change in changes {
                cursor = change.version;
                if let Some(event) = self.told(&change)
                    && !self.send(sender, event).await
                {
                    return None;
                }
            }
        }
    }

    /// What is said of a change to this watch, if anything.
    fn told(&self, change: &Change) -> Option<Bytes> {
        let seen = |object: &Option<Arc<Object>>| {
            object.clone().filter(|object| {
                self.namespace.as_deref().is_none_or(|namespace| namespace == &*object.namespace)
                    && self.selector.selects(object)
            })
        };
        match (seen(&change.old), seen(&change.new)) {
            (None, None) => None,
            (None, Some(new)) => Some(self.event("ADDED", &new)),
            (Some(_), Some(new)) => Some(self.event("MODIFIED", &new)),
            (Some(old), None) => Some(self.event("DELETED", &answer::at_version(&old, change.version))),
        }
    }

    fn event(&self, kind_of_event: &str, object: &Object) -> Bytes {
        let mut text = format!(r#"{{"type":"{kind_of_event}","object":"#).into_bytes();
        self.form.write(&self.kind, object, &mut text);
        text.extend_from_slice(b"}\n");
        Bytes::from(text)
    }

    fn error(&self, failure: &Failure) -> Bytes {
        Bytes::from(format!("{{\"type\":\"ERROR\",\"object\":{}}}\n", failure.status()))
    }

    fn bookmark(&self, version: u64, end_of_initial_events: bool) -> Bytes {
        let object = answer::bookmark(&self.kind, self.form, version, end_of_initial_events);
        Bytes::from(format!("{{\"type\":\"BOOKMARK\",\"object\":{object}}}\n"))
    }

    /// Every so often, and shortly before the end.
    fn next_bookmark(&self, state: &State) -> Instant {
        let now = Instant::now();
        let regular = now + state.options.bookmark_interval;
        match self.end.checked_sub(Duration::from_secs(2)) {
            Some(last) if last > now => regular.min(last),
            _ => regular,
        }
    }

    async fn send(&self, sender: &mpsc::Sender<Bytes>, event: Bytes) -> bool {
        sender.send(event).await.is_ok()
    }
}

async fn end_of(ended: &mut watch::Receiver<u64>) {
    if ended.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}
