//! Watches: the changes of one kind after a version, as a stream of events, with bookmarks and an end. Never changes
//! anything, and keeps no queue: a watch reads the log of changes where it stands, and ends if that was forgotten.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

use crate::answer::{self, Form};
use crate::auth::Deed;
use crate::error::{Cause, Failure};
use crate::faults::Stream;
use crate::kinds::Kind;
use crate::list::invalid_options;
use crate::query::{Query, Selector};
use crate::state::State;
use crate::store::{Change, Object};

/// How many changes are taken from the log at a time.
const BATCH: usize = 256;
/// How long a client waits for a version that lies in the future.
const PATIENCE: Duration = Duration::from_secs(3);
/// How late an event comes that was to be reordered, if none follows.
const REORDERED: Duration = Duration::from_millis(50);

/// A watch that was asked for.
#[derive(Debug)]
pub(crate) struct Watching {
    pub(crate) kind: Arc<Kind>,
    pub(crate) namespace: Option<String>,
    pub(crate) selector: Selector,
    pub(crate) form: Form,
    /// Who asks, for faults.
    pub(crate) user: String,
    pub(crate) terms: Terms,
}

/// From where, for how long and with what a watch goes on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    bookmarks: bool,
    end: Instant,
    start: Start,
    /// Whether a bookmark says where what was there ends.
    marked: bool,
    at_least: u64,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Start {
    /// What is there now as ADDED events, then changes.
    Everything,
    /// Changes from now on.
    Now,
    /// Changes after a version.
    After(u64),
}

impl Terms {
    /// What `query` asks for.
    pub(crate) fn parse(query: &Query) -> Result<Self, Failure> {
        let version = query.version()?;
        let initial = query.flag("sendInitialEvents");
        let bookmarks = query.flag("allowWatchBookmarks").unwrap_or(false);
        check(query, initial)?;
        let start = match (initial, version) {
            (Some(true), _) | (None, None | Some(0)) => Start::Everything,
            (Some(false), None | Some(0)) => Start::Now,
            (_, Some(version)) => Start::After(version),
        };
        let seconds = match query.number("timeoutSeconds")? {
            None | Some(0) => fastrand::u64(1_800..3_600),
            Some(seconds) => seconds,
        };
        Ok(Self {
            bookmarks,
            end: Instant::now() + Duration::from_secs(seconds.min(86_400)),
            start,
            // As the real one does, also where only what is there was asked for.
            marked: bookmarks && start == Start::Everything,
            at_least: version.unwrap_or(0),
        })
    }
}

fn check(query: &Query, initial: Option<bool>) -> Result<(), Failure> {
    let field = "resourceVersionMatch";
    let forbidden = |why: &str| Err(invalid_options(&[Cause::forbidden(field, why)]));
    if query.text("continue").is_some() {
        return forbidden("resourceVersionMatch is forbidden when continue is provided");
    }
    match (initial, query.text(field)) {
        (None, None) | (Some(_), Some("NotOlderThan")) => Ok(()),
        (None, Some(_)) => {
            forbidden("resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided")
        }
        (Some(_), None) => {
            forbidden("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan")
        }
        (Some(_), Some(other)) => Err(invalid_options(&[
            Cause::forbidden(
                field,
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            ),
            Cause::unsupported(field, other, &["NotOlderThan"]),
        ])),
    }
}

impl Watching {
    /// Sends events until the time is over, the client is gone, or the history does not reach.
    pub(crate) async fn run(self, state: Arc<State>, sender: mpsc::Sender<Bytes>) {
        let events =
            Events { state: &state, watching: &self, sender: &sender, begun: AtomicBool::new(false) };
        let mut latest = state.store().subscribe(&self.kind.storage);
        let mut ended = state.faults.ends();
        let Some(mut cursor) = events.begin().await else { return };
        let mut bookmark_at = events.next_bookmark();
        loop {
            latest.borrow_and_update();
            cursor = match events.catch_up(cursor).await {
                Some(cursor) => cursor,
                None => return,
            };
            tokio::select! {
                changed = latest.changed() => if changed.is_err() { return },
                () = sleep_until(bookmark_at), if self.terms.bookmarks => {
                    let version = events.horizon();
                    // Changes up to this version may have come meanwhile; they go first.
                    cursor = match events.catch_up(cursor).await {
                        Some(cursor) => cursor.max(version),
                        None => return,
                    };
                    if !events.bookmark(cursor, false).await {
                        return;
                    }
                    bookmark_at = events.next_bookmark();
                }
                () = sleep_until(self.terms.end) => return,
                () = end_of(&mut ended) => return,
                () = sender.closed() => return,
            }
        }
    }
}

/// What a watch sends, and where to.
struct Events<'a> {
    state: &'a State,
    watching: &'a Watching,
    sender: &'a mpsc::Sender<Bytes>,
    /// Whether an event was written; the first of a table has the columns.
    begun: AtomicBool,
}

impl Events<'_> {
    /// The version after which changes are sent; what is there now went out if it was asked for.
    async fn begin(&self) -> Option<u64> {
        let Terms { start, at_least, marked, .. } = self.watching.terms;
        match start {
            Start::Now => return Some(self.horizon()),
            Start::After(version) => return Some(version),
            Start::Everything => {}
        }
        if at_least > self.horizon() {
            sleep(PATIENCE).await;
            if at_least > self.horizon() {
                self.error(&Failure::too_large_version(at_least, self.horizon())).await;
                return None;
            }
        }
        let (objects, version) = {
            let horizon = self.horizon();
            let store = self.state.store();
            let version = horizon.max(store.oldest(&self.watching.kind.storage));
            let namespace = self.watching.namespace.as_deref();
            (store.list(&self.watching.kind.storage, namespace, None, version).ok()?, version)
        };
        for object in objects.iter().filter(|object| self.watching.selector.selects(object)) {
            if !self.send(self.event("ADDED", object)).await {
                return None;
            }
        }
        if marked && !self.bookmark(version, true).await {
            return None;
        }
        Some(version)
    }

    /// The version up to which this watch can see.
    fn horizon(&self) -> u64 {
        self.state
            .faults
            .stale(self.deed(), &self.watching.user)
            .unwrap_or_else(|| self.state.store().version())
    }

    fn deed(&self) -> Deed<'_> {
        Deed {
            verb: "watch",
            group: &self.watching.kind.group,
            resource: &self.watching.kind.plural,
            namespace: self.watching.namespace.as_deref().unwrap_or_default(),
            name: "",
        }
    }

    /// Sends the changes after `cursor` that are known; the new cursor, or none if the watch is over.
    async fn catch_up(&self, mut cursor: u64) -> Option<u64> {
        loop {
            let changes = self.state.store().changes(&self.watching.kind.storage, cursor, BATCH);
            let mut changes = match changes {
                Ok(changes) => changes,
                Err(forgotten) => {
                    let words = format!("too old resource version: {cursor} ({})", forgotten.oldest);
                    self.error(&Failure::expired(words)).await;
                    return None;
                }
            };
            let horizon = self.horizon();
            changes.retain(|change| change.version <= horizon);
            let Some(last) = changes.last() else { return Some(cursor) };
            cursor = last.version;
            let told: Vec<Bytes> = changes.iter().filter_map(|change| self.told(change)).collect();
            self.deliver(told).await?;
        }
    }

    /// Sends events, with what is to go wrong with them.
    async fn deliver(&self, events: Vec<Bytes>) -> Option<()> {
        let mut held: Option<Bytes> = None;
        for event in events {
            let Stream { delay, duplicate, reorder, lose, .. } =
                self.state.faults.stream(self.deed(), &self.watching.user, false);
            if !delay.is_zero() {
                sleep(delay).await;
            }
            if lose {
                continue;
            }
            if reorder && held.is_none() {
                held = Some(event);
                continue;
            }
            let again = duplicate.then(|| event.clone());
            for event in [Some(event), again, held.take()].into_iter().flatten() {
                self.send(event).await.then_some(())?;
            }
        }
        if let Some(event) = held {
            sleep(REORDERED).await;
            self.send(event).await.then_some(())?;
        }
        Some(())
    }

    /// What is said of a change to this watch, if anything.
    fn told(&self, change: &Change) -> Option<Bytes> {
        let seen = |object: &Option<Arc<Object>>| {
            object.clone().filter(|object| {
                self.watching.namespace.as_deref().is_none_or(|namespace| namespace == &*object.namespace)
                    && self.watching.selector.selects(object)
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
        let first = !self.begun.swap(true, Ordering::Relaxed);
        self.watching.form.write(&self.watching.kind, object, first, &mut text);
        text.extend_from_slice(b"}\n");
        Bytes::from(text)
    }

    async fn error(&self, failure: &Failure) -> bool {
        self.send(Bytes::from(format!("{{\"type\":\"ERROR\",\"object\":{}}}\n", failure.status()))).await
    }

    async fn bookmark(&self, version: u64, end_of_initial_events: bool) -> bool {
        let skipped = self.state.faults.stream(self.deed(), &self.watching.user, true).skip_bookmarks;
        if skipped && !end_of_initial_events {
            return true;
        }
        let object =
            answer::bookmark(&self.watching.kind, self.watching.form, version, end_of_initial_events);
        self.send(Bytes::from(format!("{{\"type\":\"BOOKMARK\",\"object\":{object}}}\n"))).await
    }

    /// Every so often; nobody is promised one before the end.
    fn next_bookmark(&self) -> Instant {
        Instant::now() + self.state.options.bookmark_interval
    }

    async fn send(&self, event: Bytes) -> bool {
        self.state.faults.heard().await;
        self.sender.send(event).await.is_ok()
    }
}

async fn end_of(ended: &mut watch::Receiver<u64>) {
    if ended.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}
