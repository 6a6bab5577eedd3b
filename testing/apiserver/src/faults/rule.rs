//! Which requests a fault concerns, and what it does to them. Pure.

use serde::{Deserialize, Serialize};

use crate::auth::Deed;

/// Number of a rule.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct FaultId(pub u64);

/// One thing that goes wrong, for requests that fit. An empty list fits all.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Fault {
    /// What happens.
    pub effect: Effect,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub verbs: Vec<String>,
    /// Plurals, with their subresource: `ingresses`, `ingresses/status`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    /// Namespaces in the path; a request for all namespaces has the empty one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
    /// Names in the path.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// Who asks, by the user of the token.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<String>,
    /// How often it still happens; until it is taken back if missing. An event counts as one time, so does a request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u64>,
    /// How likely it is, of 100; always if missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<u8>,
}

/// What happens to a request, or to the events of a watch.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "type")]
pub enum Effect {
    /// The request is looked at only after this time.
    Delay {
        /// Milliseconds.
        millis: u64,
    },
    /// The connection is closed without an answer.
    Drop,
    /// The connection is reset without an answer.
    Reset,
    /// The request is never answered, and the connection stays open.
    Hang,
    /// The request is refused.
    Status {
        /// 403, 429, 500, 503, 504 and others, with the reason that belongs to it.
        code: u16,
        /// `Retry-After`, in seconds.
        #[serde(default)]
        retry_after: Option<u64>,
    },
    /// The request is done, then its connection is reset without an answer.
    LoseAnswer,
    /// The connection is reset in the middle of the answer; a watch after its first event.
    Truncate,
    /// Each event of a watch comes later by this time; those behind it wait as well.
    DelayEvents {
        /// Milliseconds.
        millis: u64,
    },
    /// Each event comes twice.
    DuplicateEvents,
    /// An event comes after the one that follows it, or 50 ms late if none does.
    ReorderEvents,
    /// An event never comes.
    LoseEvents,
    /// A bookmark does not come, but for the one that ends initial events.
    SkipBookmarks,
    /// Answers come from a cache that stands still: lists at "any version", and watches.
    Stale {
        /// The version at which it stands; 0 for the version of the moment in which the rule is added.
        #[serde(default)]
        version: u64,
    },
}

impl Effect {
    /// False for what happens to events, and to what lists show.
    pub(crate) fn is_of_requests(self) -> bool {
        match self {
            Self::Delay { .. }
            | Self::Drop
            | Self::Reset
            | Self::Hang
            | Self::Status { .. }
            | Self::LoseAnswer
            | Self::Truncate => true,
            Self::DelayEvents { .. }
            | Self::DuplicateEvents
            | Self::ReorderEvents
            | Self::LoseEvents
            | Self::SkipBookmarks
            | Self::Stale { .. } => false,
        }
    }
}

impl Fault {
    /// `effect` for every request, until it is taken back.
    #[must_use]
    pub fn new(effect: Effect) -> Self {
        Self {
            effect,
            verbs: Vec::new(),
            resources: Vec::new(),
            namespaces: Vec::new(),
            names: Vec::new(),
            users: Vec::new(),
            times: None,
            percent: None,
        }
    }

    /// Only for these verbs.
    #[must_use]
    pub fn verbs(self, verbs: &[&str]) -> Self {
        Self { verbs: verbs.iter().map(|verb| (*verb).to_owned()).collect(), ..self }
    }

    /// Only for these resources: `ingresses`, `ingresses/status`.
    #[must_use]
    pub fn resources(self, resources: &[&str]) -> Self {
        Self { resources: resources.iter().map(|resource| (*resource).to_owned()).collect(), ..self }
    }

    /// Only for these users.
    #[must_use]
    pub fn users(self, users: &[&str]) -> Self {
        Self { users: users.iter().map(|user| (*user).to_owned()).collect(), ..self }
    }

    /// Only so often.
    #[must_use]
    pub fn times(self, times: u64) -> Self {
        Self { times: Some(times), ..self }
    }

    pub(crate) fn fits(&self, deed: Deed<'_>, user: &str) -> bool {
        let has = |list: &[String], wanted: &str| list.is_empty() || list.iter().any(|each| each == wanted);
        has(&self.verbs, deed.verb)
            && has(&self.resources, deed.resource)
            && has(&self.namespaces, deed.namespace)
            && has(&self.names, deed.name)
            && has(&self.users, user)
    }

    /// Uses up one time; false if it does not happen this time.
    pub(crate) fn take_one(&mut self) -> bool {
        if self.times == Some(0) || self.percent.is_some_and(|percent| fastrand::u8(0..100) >= percent) {
            return false;
        }
        self.times = self.times.map(|times| times.saturating_sub(1));
        true
    }
}
