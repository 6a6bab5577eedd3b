//! Counts of requests by verb and resource. Never looks at what was answered.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// What kind of request was counted.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Request {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `apply`, `delete`, `deletecollection`.
    pub verb: String,
    /// Plural of the resource, with its subresource: `ingresses/status`; its group does not matter.
    pub resource: String,
}

/// How often what was asked, since the start or the last [`Requests::reset`]. Requests that a fault refuses count as well.
#[derive(Debug, Default)]
pub struct Requests(Mutex<BTreeMap<Request, u64>>);

impl Requests {
    pub(crate) fn count(&self, verb: &str, resource: &str) {
        let request = Request { verb: verb.to_owned(), resource: resource.to_owned() };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(request).or_default() += 1;
    }

    /// How often `verb` was asked of `resource` (`ingresses/status` for the subresource).
    #[must_use]
    pub fn of(&self, verb: &str, resource: &str) -> u64 {
        let request = Request { verb: verb.to_owned(), resource: resource.to_owned() };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&request).copied().unwrap_or(0)
    }

    /// How often anything that writes was asked of `resource`.
    #[must_use]
    pub fn writes(&self, resource: &str) -> u64 {
        ["create", "update", "patch", "apply", "delete", "deletecollection"]
            .into_iter()
            .map(|verb| self.of(verb, resource))
            .sum()
    }

    /// All counts.
    #[must_use]
    pub fn all(&self) -> BTreeMap<Request, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts from zero again.
    pub fn reset(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
