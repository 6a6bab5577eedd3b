//! What the writer of status is told, and how it gets there. Holds the latest of each object, so that a reader that is
//! slow, or gone, costs no more memory than the objects that there are.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use config::report::{ObjectRef, Report};
use foldhash::quality::FixedState;
use tokio::sync::Notify;

use super::observed::Observed;
use crate::source::Certainty;

/// What the writer of status is told, in the order in which it happened.
#[derive(Debug)]
pub enum Note {
    /// An Ingress of the cluster, as it is now.
    Observed(Observed),
    /// The object is gone.
    Gone(ObjectRef),
    /// A table is served.
    Compiled {
        /// Ingresses that became ours (true) or ceased to be ours.
        claims: Vec<(ObjectRef, bool)>,
        /// What there is to say about every object.
        report: Arc<Report>,
        /// Of the Services and EndpointSlices in `report`, those that routes of ours use.
        used: Vec<ObjectRef>,
        /// On what the claims so far stand.
        certainty: Certainty,
    },
}

/// Where notes go. Sending never waits and never fails; nobody may be listening.
#[derive(Clone, Debug)]
pub struct Notes(Option<Arc<Shared>>);

/// Where notes arrive.
#[derive(Debug)]
pub struct Inbox(Arc<Shared>);

/// Everything that was told since the last look, of each object only the latest.
#[derive(Debug, Default)]
pub struct News {
    /// Ingress → as it is now, or `None` if it is gone
    pub objects: HashMap<ObjectRef, Option<Observed>, FixedState>,
    /// Ingress → whether it is ours
    pub claims: HashMap<ObjectRef, bool, FixedState>,
    /// What there is to say about every object, and which Services and EndpointSlices of these we use, if a table was
    /// served.
    pub report: Option<(Arc<Report>, Vec<ObjectRef>)>,
    /// On what the claims of the tables that were served stand, at best.
    pub certainty: Certainty,
}

#[derive(Debug, Default)]
struct Shared {
    /// What was not taken yet; `None` once nobody will.
    news: Mutex<Option<News>>,
    /// Objects or claims came.
    objects: Notify,
    /// A report came.
    report: Notify,
}

impl Notes {
    /// Notes, and where they arrive.
    #[must_use]
    pub fn new() -> (Self, Inbox) {
        let shared = Arc::new(Shared { news: Mutex::new(Some(News::default())), ..Shared::default() });
        (Self(Some(Arc::clone(&shared))), Inbox(shared))
    }

    /// Notes that nobody reads.
    #[must_use]
    pub fn to_nobody() -> Self {
        Self(None)
    }

    /// True if somebody reads.
    #[must_use]
    pub fn are_read(&self) -> bool {
        self.0.is_some()
    }

    /// Sends `note`.
    pub fn send(&self, note: Note) {
        let Some(shared) = &self.0 else { return };
        let mut lock = shared.news.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(news) = lock.as_mut() else { return };
        match note {
            Note::Observed(observed) => {
                news.objects.insert(observed.object.clone(), Some(observed));
            }
            Note::Gone(object) => {
                news.objects.insert(object, None);
            }
            Note::Compiled { claims, report, used, certainty } => {
                let is_silent = claims.is_empty();
                news.claims.extend(claims);
                news.report = Some((report, used));
                news.certainty = news.certainty.max(certainty);
                if is_silent {
                    drop(lock);
                    shared.report.notify_one();
                    return;
                }
            }
        }
        drop(lock);
        shared.objects.notify_one();
    }
}

impl Inbox {
    /// Waits until objects or claims have come since the last [`Self::take`]. Safe to drop while waiting.
    pub async fn objects(&self) {
        self.0.objects.notified().await;
    }

    /// Waits until a report has come, which may happen many times a second. Safe to drop while waiting.
    pub async fn report(&self) {
        self.0.report.notified().await;
    }

    /// Everything that came since the last time.
    #[must_use]
    pub fn take(&self) -> News {
        let mut lock = self.0.news.lock().unwrap_or_else(PoisonError::into_inner);
        lock.as_mut().map(std::mem::take).unwrap_or_default()
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        *self.0.news.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

#[cfg(test)]
mod tests {
    use config::report::Kind;

    use super::*;

    fn object(name: &str) -> ObjectRef {
        ObjectRef { kind: Kind::Ingress, namespace: "shop".into(), name: name.into() }
    }

    fn observed(name: &str, version: &str) -> Observed {
        Observed {
            object: object(name),
            uid: "u".into(),
            resource_version: version.into(),
            entries: Box::default(),
            writer: None,
        }
    }

    #[tokio::test]
    async fn only_the_latest_of_each_object_is_kept() {
        let (notes, inbox) = Notes::new();
        for version in ["1", "2", "3"] {
            notes.send(Note::Observed(observed("a", version)));
        }
        notes.send(Note::Observed(observed("b", "4")));
        notes.send(Note::Gone(object("b")));
        inbox.objects().await;
        let news = inbox.take();
        assert_eq!(news.objects.len(), 2);
        assert_eq!(news.objects[&object("a")], Some(observed("a", "3")));
        assert_eq!(news.objects[&object("b")], None);
        assert!(inbox.take().objects.is_empty());
    }

    #[tokio::test]
    async fn claims_of_several_tables_add_up() {
        let (notes, inbox) = Notes::new();
        let compiled = |name, ours| Note::Compiled {
            claims: vec![(object(name), ours)],
            report: Arc::default(),
            used: Vec::new(),
            certainty: Certainty::Whole,
        };
        notes.send(compiled("a", true));
        notes.send(compiled("b", true));
        notes.send(compiled("a", false));
        inbox.objects().await;
        let news = inbox.take();
        assert_eq!((news.claims[&object("a")], news.claims[&object("b")]), (false, true));
        assert!(news.report.is_some());
    }

    #[test]
    fn notes_to_a_reader_that_is_gone_are_not_kept() {
        let (notes, inbox) = Notes::new();
        notes.send(Note::Gone(object("a")));
        drop(inbox);
        notes.send(Note::Gone(object("b")));
        assert!(notes.0.unwrap().news.lock().unwrap().is_none());
    }

    #[test]
    fn notes_to_nobody_are_not_kept() {
        let notes = Notes::to_nobody();
        notes.send(Note::Gone(object("a")));
        assert!(!notes.are_read());
    }
}
