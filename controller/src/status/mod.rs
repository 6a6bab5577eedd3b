//! Status and events of the objects that are ours, written back to the API server. Owns what is written; never decides
//! traffic, and nothing of it is ever waited for by whoever serves.

use std::net::IpAddr;
use std::sync::Arc;

use config::report::{ObjectRef, Report};
use tokio::sync::mpsc;

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
    },
}

/// What an API server says of an object, as far as its status is concerned.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Observed {
    /// Who it is.
    pub object: ObjectRef,
    /// `metadata.uid`.
    pub uid: Arc<str>,
    /// `metadata.resourceVersion`, opaque.
    pub resource_version: Arc<str>,
    /// `status.loadBalancer.ingress`, in the order of the object.
    pub addresses: Box<[Address]>,
}

/// One entry of `status.loadBalancer.ingress`, without its ports.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Address {
    /// `ip`.
    Ip(IpAddr),
    /// `hostname`.
    Hostname(Arc<str>),
}

/// Where notes go. Sending never waits and never fails; nobody may be listening.
#[derive(Clone, Debug)]
pub struct Notes(Option<mpsc::UnboundedSender<Note>>);

impl Notes {
    /// Notes to `receiver`'s other end.
    #[must_use]
    pub fn to(sender: mpsc::UnboundedSender<Note>) -> Self {
        Self(Some(sender))
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
        if let Some(sender) = &self.0 {
            // The reader is gone only when the process ends.
            let _ = sender.send(note);
        }
    }
}
