//! How far the source is: what it waits for, what fails, what the table in use is made of. Written by the source's
//! parts, read by the admin port. Decides whether enough is known to serve; never asks for anything itself.

mod metrics;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::failure::Failure;
use super::resource::{Resource, Target};

/// A resource that can be done without is waited for this long when it fails …
const GRACE: Duration = Duration::from_secs(10);
/// … and this long when nothing at all is heard of it.
const LONG_GRACE: Duration = Duration::from_secs(30);
/// Without an answer for this long, a server that has answered once counts as away.
const AWAY: Duration = Duration::from_secs(5);
/// What fails, and nothing is served without it, is given this long before the disk is looked at.
pub(super) const STUCK: Duration = Duration::from_millis(800);
/// That there is no such kind is believed when it was said for this long: a server that starts does not know all of them.
const MISSING: Duration = Duration::from_secs(30);
/// What was said longer ago is not the last word: watches are renewed more often.
const CURRENT: Duration = Duration::from_secs(60);

/// One list that is followed.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct FeedId(pub(super) usize);

/// Where the objects in use come from.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Origin {
    /// There are none yet.
    #[default]
    Nothing,
    /// The disk, where they were written last at this time.
    Disk(SystemTime),
    /// The API server.
    Live,
}

/// Shared by everything that follows the API server.
#[derive(Debug)]
pub struct Progress {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    origin: Origin,
    last_answer: Option<Instant>,
    feeds: Vec<Feed>,
    /// resource, type of event → how many
    events: BTreeMap<(&'static str, &'static str), u64>,
    /// resource, cause → how many
    failures: BTreeMap<(&'static str, &'static str), u64>,
    counts: BTreeMap<(Count, &'static str), u64>,
    /// resource → objects that are there and do not decode
    undecoded: BTreeMap<&'static str, usize>,
    journal: Option<Figures>,
}

struct Figures(Box<dyn Fn() -> [u64; 3] + Send + Sync>);

impl std::fmt::Debug for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Figures")
    }
}

#[derive(Debug)]
struct Feed {
    target: Target,
    since: Instant,
    is_synced: bool,
    objects: usize,
    failing: Option<Failing>,
    /// The first and the last time in a row that the server said that there is no such thing.
    missing: Option<(Instant, Instant)>,
    /// When the server last said that we know everything.
    contact: Option<SystemTime>,
}

impl Feed {
    /// The cluster does not know what is asked for, which it need not.
    fn is_missing(&self) -> bool {
        let is_unknown = |failing: &Failing| failing.is_missing && !self.is_synced;
        self.target.resource.is_custom() && self.failing.as_ref().is_some_and(is_unknown)
    }

    /// Until when it is waited for, if it can be done without; `None` if that is of no use.
    fn patience(&self) -> Option<Instant> {
        match &self.failing {
            // What is wanted of it is asked for by name, and that is waited for.
            Some(_) if self.target.resource.is_material() => None,
            // Nothing that is served waits for it.
            _ if self.target.resource.is_of_networks() => None,
            // That is how it is.
            Some(_) if self.is_missing() => None,
            Some(failing) => Some(failing.since + GRACE),
            None => Some(self.since + LONG_GRACE),
        }
    }
}

/// A list that cannot be followed.
#[derive(Debug)]
struct Failing {
    text: String,
    since: Instant,
    /// A server says so that is in its right mind.
    is_answer: bool,
    /// It may be otherwise next time.
    is_trouble: bool,
    /// There is no such thing there.
    is_missing: bool,
}

/// What is counted for each resource.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Count {
    /// Lists of which the first page came.
    Lists,
    /// Watches opened.
    Watches,
    /// Objects that do not decode.
    DecodeFailures,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            inner: Mutex::new(Inner {
                origin: Origin::Nothing,
                last_answer: None,
                feeds: Vec::new(),
                events: BTreeMap::new(),
                failures: BTreeMap::new(),
                counts: BTreeMap::new(),
                undecoded: BTreeMap::new(),
                journal: None,
            }),
        }
    }
}

impl Progress {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more list is followed, from `now` on.
    pub(super) fn add(&self, target: Target, now: Instant) -> FeedId {
        let mut inner = self.lock();
        let feed = Feed {
            target,
            since: now,
            is_synced: false,
            objects: 0,
            failing: None,
            missing: None,
            contact: None,
        };
        inner.feeds.push(feed);
        FeedId(inner.feeds.len() - 1)
    }

    /// The list is complete, or the server said in another way that nothing is missing. True if it failed before.
    pub(super) fn is_well(&self, id: FeedId, objects: usize, is_synced: bool, now: Instant) -> bool {
        let mut inner = self.lock();
        inner.last_answer = Some(now);
        let Some(feed) = inner.feeds.get_mut(id.0) else { return false };
        feed.is_synced |= is_synced;
        feed.objects = objects;
        feed.contact = Some(SystemTime::now());
        feed.missing = None;
        feed.failing.take().is_some()
    }

    /// A request failed. True if nothing was wrong before, or something else.
    pub(super) fn fails(&self, id: FeedId, failure: &Failure, now: Instant) -> bool {
        let mut inner = self.lock();
        if failure.is_answer() {
            inner.last_answer = Some(now);
        }
        let Some(feed) = inner.feeds.get_mut(id.0) else { return false };
        let resource = feed.target.resource.name();
        let text = failure.to_string();
        let since = feed.failing.as_ref().map_or(now, |failing| failing.since);
        let is_news = feed.failing.as_ref().is_none_or(|former| former.text != text);
        let (is_answer, is_trouble) = (failure.is_answer(), failure.is_trouble());
        let is_missing = failure.is_missing();
        let first = feed.missing.map_or(now, |(first, _)| first);
        feed.missing = is_missing.then_some((first, now));
        feed.failing = Some(Failing { text, since, is_answer, is_trouble, is_missing });
        *inner.failures.entry((resource, failure.cause())).or_default() += 1;
        is_news
    }

    /// True if another list than this one is complete, and nothing is wrong with it.
    pub(super) fn is_another_well(&self, id: FeedId) -> bool {
        let inner = self.lock();
        let mut others = inner.feeds.iter().enumerate().filter(|(other, _)| *other != id.0);
        others.any(|(_, feed)| feed.is_synced && feed.failing.is_none())
    }

    /// Counts events of a watch.
    pub(super) fn event(&self, id: FeedId, kind: &'static str) {
        let mut inner = self.lock();
        let Some(resource) = inner.feeds.get(id.0).map(|feed| feed.target.resource.name()) else { return };
        *inner.events.entry((resource, kind)).or_default() += 1;
    }

    /// Counts something.
    pub(super) fn count(&self, id: FeedId, count: Count) {
        let mut inner = self.lock();
        let Some(resource) = inner.feeds.get(id.0).map(|feed| feed.target.resource.name()) else { return };
        *inner.counts.entry((count, resource)).or_default() += 1;
    }

    /// So many objects of the resource are there and do not decode.
    pub(super) fn undecoded(&self, resource: Resource, count: usize) {
        self.lock().undecoded.insert(resource.name(), count);
    }

    /// The server answered, and goes on to.
    pub(super) fn answered(&self, now: Instant) {
        self.lock().last_answer = Some(now);
    }

    /// True if no server answers that is in its right mind. One of which nothing was heard yet, neither an answer nor an
    /// error, is given until `patience`.
    pub(super) fn is_away(&self, now: Instant, patience: Instant) -> bool {
        let inner = self.lock();
        if now < patience
            && inner.last_answer.is_none()
            && inner.feeds.iter().all(|feed| feed.failing.is_none())
        {
            return false;
        }
        let is_refused = |feed: &Feed| feed.failing.as_ref().is_some_and(|failing| failing.is_answer);
        inner.last_answer.is_none_or(|at| now - at >= AWAY) && !inner.feeds.iter().any(is_refused)
    }

    /// True if there is trouble with a list without which nothing can be served, and none of those is refused.
    pub(super) fn is_stuck(&self, now: Instant) -> bool {
        let inner = self.lock();
        let missing = || inner.feeds.iter().filter(|feed| inner.is_awaited(feed));
        let is_refused = |feed: &Feed| feed.failing.as_ref().is_some_and(|failing| !failing.is_trouble);
        let is_in_trouble = |feed: &Feed| {
            now >= feed.since + STUCK && feed.failing.as_ref().is_some_and(|failing| failing.is_trouble)
        };
        missing().any(is_in_trouble) && !missing().any(is_refused)
    }

    /// True if the server has said of every list, lately, that it is complete.
    pub(super) fn is_current(&self) -> bool {
        let inner = self.lock();
        inner.age(SystemTime::now()) < CURRENT
    }

    /// Figures of what is kept on disk: size, writes, failures.
    pub(super) fn watch_journal(&self, figures: Box<dyn Fn() -> [u64; 3] + Send + Sync>) {
        self.lock().journal = Some(Figures(figures));
    }

    /// True if all lists of the resource are complete.
    pub(super) fn is_resource_synced(&self, resource: Resource) -> bool {
        self.lock().feeds.iter().filter(|feed| feed.target.resource == resource).all(|feed| feed.is_synced)
    }

    /// True if the cluster does not know what the list has, which it need not.
    pub(super) fn is_missing(&self, id: FeedId) -> bool {
        self.lock().feeds.get(id.0).is_some_and(Feed::is_missing)
    }

    /// True if the server has an answer to what the list has, and it is no: we may not see it, or there is no such thing.
    pub(super) fn is_refused(&self, id: FeedId) -> bool {
        let inner = self.lock();
        let failing = inner.feeds.get(id.0).and_then(|feed| feed.failing.as_ref());
        failing.is_some_and(|failing| failing.is_answer && !failing.is_trouble)
    }

    /// True if it has said so for long enough, even if it did know it before.
    pub(super) fn is_missing_for_long(&self, id: FeedId) -> bool {
        let inner = self.lock();
        let feed = inner.feeds.get(id.0).filter(|feed| feed.target.resource.is_custom());
        feed.and_then(|feed| feed.missing).is_some_and(|(first, last)| last - first >= MISSING)
    }

    /// The objects in use come from there now.
    pub(super) fn serve(&self, origin: Origin) {
        self.lock().origin = origin;
    }

    /// True if everything that can be had was had, so that the objects are complete.
    pub(super) fn is_settled(&self, now: Instant) -> bool {
        let inner = self.lock();
        inner.feeds.iter().all(|feed| !inner.is_waited_for(feed, now))
    }

    /// When [`Self::is_settled`] may change although nothing happens.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let inner = self.lock();
        inner.feeds.iter().filter(|feed| !feed.is_synced).filter_map(Feed::patience).min()
    }

    /// What an operator should know, a line each; none if all is well.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let now = Instant::now();
        let inner = self.lock();
        let mut lines = Vec::new();
        match inner.origin {
            Origin::Live => {}
            Origin::Nothing if inner.feeds.is_empty() => lines.push("waiting for the API server".to_owned()),
            Origin::Nothing => {}
            Origin::Disk(saved) => lines.push(format!(
                "serving the last known configuration from disk, {} old, until the API server answers",
                duration(saved.elapsed().unwrap_or_default())
            )),
        }
        for feed in &inner.feeds {
            if feed.is_missing() {
                continue;
            }
            let verb = if feed.is_synced { "not following" } else { "waiting for" };
            match &feed.failing {
                Some(Failing { text, since, .. }) => {
                    lines.push(format!("{verb} {}: {text} (for {})", feed.target, duration(now - *since)));
                }
                None if !feed.is_synced => lines.push(format!("{verb} {}", feed.target)),
                None => {}
            }
        }
        lines
    }
}

impl Inner {
    fn is_waited_for(&self, feed: &Feed, now: Instant) -> bool {
        !feed.is_synced && (self.is_awaited(feed) || feed.patience().is_some_and(|until| now < until))
    }

    /// True if nothing can be served without it.
    fn is_awaited(&self, feed: &Feed) -> bool {
        let resource = feed.target.resource;
        // A namespace that we may not look into must not keep the others from being served.
        let is_partly_synced =
            || self.feeds.iter().any(|other| other.target.resource == resource && other.is_synced);
        resource.is_indispensable() && !feed.is_missing() && !is_partly_synced()
    }

    fn age(&self, now: SystemTime) -> Duration {
        let oldest = match self.origin {
            Origin::Nothing => None,
            Origin::Disk(saved) => Some(saved),
            Origin::Live => {
                self.feeds.iter().filter(|feed| feed.is_synced).filter_map(|feed| feed.contact).min()
            }
        };
        oldest.and_then(|oldest| now.duration_since(oldest).ok()).unwrap_or_default()
    }
}

/// To the second, as people read it.
fn duration(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..=119 => format!("{seconds} s"),
        seconds @ 120..=7_199 => format!("{} min", seconds / 60),
        seconds @ 7_200..=172_799 => format!("{} h", seconds / 3_600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests;
