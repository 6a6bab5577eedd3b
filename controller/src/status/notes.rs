//! What the writer of status is told, and how it gets there. Holds the latest of each object, so that a reader that is
//! slow, or gone, costs no more memory than the objects that there are.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};

use config::report::{ObjectRef, Report};
use foldhash::quality::FixedState;
use tokio::sync::{Notify, watch};

use super::observed::Observed;
use crate::ipam::Desired;
use crate::source::Certainty;

/// What the writer of status is told, in the order in which it happened.
#[derive(Debug)]
pub enum Note {
    /// An Ingress, or a Service with a load balancer, as it is now.
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
        /// What the status of Services should say; `None` for one that is not ours, or no longer.
        desired: Vec<(ObjectRef, Option<Desired>)>,
        /// For which term that was decided; 0 if nothing was.
        term: u64,
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
    /// Ingress or Service → as it is now, or `None` if it is gone
    pub objects: HashMap<ObjectRef, Option<Observed>, FixedState>,
    /// Ingress → whether it is ours
    pub claims: HashMap<ObjectRef, bool, FixedState>,
    /// Service → what its status should say, or `None` if it is not ours
    pub desired: HashMap<ObjectRef, Option<Desired>, FixedState>,
    /// For which term that was decided; 0 if nothing was.
    pub term: u64,
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
    /// The term for which this replica decides on what is shared; 0 if it does not.
    term: watch::Sender<u64>,
    terms: AtomicU64,
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

    /// The term for which this replica decides on what all of them share, 0 if it does not. It never does if nobody reads.
    #[must_use]
    pub fn term(&self) -> Option<watch::Receiver<u64>> {
        self.0.as_ref().map(|shared| shared.term.subscribe())
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
            Note::Compiled { claims, report, used, desired, term, certainty } => {
                if news.term != term {
                    news.desired.clear();
                    news.term = term;
                }
                let is_silent = claims.is_empty() && desired.is_empty();
                news.claims.extend(claims);
                news.desired.extend(desired);
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

    /// Tells whoever sends notes whether this replica decides on what all of them share.
    pub fn lead(&self, leads: bool) {
        self.0.term.send_if_modified(|term| {
            let is_news = leads != (*term != 0);
            if is_news {
                *term = if leads { self.0.terms.fetch_add(1, Relaxed) + 1 } else { 0 };
            }
            is_news
        });
    }

    /// The term for which it does; 0 if it does not.
    #[must_use]
    pub fn term(&self) -> u64 {
        *self.0.term.borrow()
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
        self.lead(false);
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
            service: None,
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
            desired: Vec::new(),
            term: 0,
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
