//! Rules: what happens to a request once host and path have chosen them.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::filter::{Filters, Redirect};
use super::matcher::Matcher;
use super::path::PathMatch;
use crate::report::ObjectRef;

/// Index into [`RouteTable::routes`](super::RouteTable::routes); stable while the route exists.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct RouteId(pub u32);

/// Index into [`RouteTable::backends`](super::RouteTable::backends); stable while the backend exists.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct BackendId(pub u32);

/// Who a route is, for logs, metrics and `explain`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct RouteInfo {
    /// The user's object.
    pub object: ObjectRef,
    /// Display name and metric label, for example `ingress/shop/web`.
    pub name: Arc<str>,
}

/// A Rule with its conditions beyond host and path, in precedence order within its path.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Conditions on method, headers and query; `None` matches every request.
    pub matcher: Option<Arc<Matcher>>,
    /// What to do.
    pub rule: Arc<Rule>,
}

/// One compiled rule. With its reference counts it is one cache line, which is most of what a request among 10,000
/// hosts has to fetch: what it does not always need is behind a pointer.
#[derive(Clone, Debug, Serialize)]
#[repr(C)]
pub struct Rule {
    /// The route that this rule is part of.
    pub route: RouteId,
    /// Position within the route's own rules and paths, in the user's order.
    pub index: u32,
    /// Filters, timeouts and retry; shared between equal rules.
    pub policy: Arc<RulePolicy>,
    /// What happens.
    pub action: Action,
    /// The path condition under which it was filed.
    pub path: Box<PathMatch>,
}

const _: () = assert!(size_of::<Rule>() + 2 * size_of::<usize>() <= 64, "a rule is one cache line");

/// What a [`Rule`] does.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Forward to one of the backends.
    Forward(Split),
    /// Answer with a redirect.
    Redirect(Arc<Redirect>),
    /// Refuse: the rule is invalid or unsupported and fails closed.
    Unavailable(Unavailable),
}

/// Why a rule cannot serve.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unavailable {
    /// The named Service or its port does not exist (Ingress: 503).
    BackendNotFound,
    /// A setting on the route is invalid or unsupported, so the path is closed (503).
    InvalidSetting,
}

/// The weighted choice among a Rule's backends.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    /// One backend takes all.
    One(BackendId),
    /// Shares by weight; the sum is at least 1.
    Weighted(Arc<[WeightedBackend]>),
}

/// One share of a [`Split`].
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct WeightedBackend {
    /// The backend, or why this share is answered with an error.
    pub backend: Result<BackendId, Unavailable>,
    /// Relative share, 0..=1,000,000.
    pub weight: u32,
}

/// What applies to every request of a Rule. Equal policies are shared.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq, Serialize)]
pub struct RulePolicy {
    /// Filters.
    pub filters: Filters,
    /// Deadlines.
    pub timeouts: Timeouts,
    /// Automatic retries.
    pub retry: Retry,
    /// What is particular to encrypted connections.
    pub https: HttpsPolicy,
}

/// What is particular to encrypted connections, and to those that are not.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq, Serialize)]
pub struct HttpsPolicy {
    /// Requests in cleartext are redirected (308) to `https` on this port, but never those below
    /// `/.well-known/acme-challenge/` (RFC 8555 §8.3).
    pub redirect: Option<u16>,
    /// Value of `Strict-Transport-Security` (RFC 6797 §6.1) in responses over TLS.
    pub hsts: Option<Arc<str>>,
}

/// Deadlines of one request. `Duration::ZERO` = off.
#[derive(Clone, Debug, Eq, Hash, PartialEq, Serialize)]
pub struct Timeouts {
    /// From the last byte of the request (or the first sent, for uploads) to a complete response head: 504.
    pub response_head: Duration,
    /// No byte moved in either direction during the exchange.
    pub idle: Duration,
    /// From the request's head to the end of the response.
    pub total: Duration,
    /// Which of them somebody has set: those that nobody has are not meant for streams of gRPC.
    #[serde(skip)]
    pub set: TimeoutsSet,
}

/// Which of [`Timeouts`] somebody has set, be it to their default.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct TimeoutsSet {
    /// [`Timeouts::response_head`].
    pub response_head: bool,
    /// [`Timeouts::idle`].
    pub idle: bool,
}

/// Automatic retries beyond those that are always safe (nothing of the request was sent).
#[derive(Clone, Debug, Eq, Hash, PartialEq, Serialize)]
pub struct Retry {
    /// Further attempts, 0..=5.
    pub attempts: u8,
    /// Response codes of the endpoint (500..=599) that an idempotent request is retried on.
    pub codes: Vec<u16>,
    /// Idempotent requests are retried when a fresh connection ends before any response byte.
    pub on_empty_response: bool,
    /// Idempotent requests are retried when the response head does not arrive in time.
    pub on_timeout: bool,
}

impl Default for Timeouts {
    fn default() -> Self {
        let minute = Duration::from_secs(60);
        Self { response_head: minute, idle: minute, total: Duration::ZERO, set: TimeoutsSet::default() }
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self { attempts: 2, codes: Vec::new(), on_empty_response: true, on_timeout: false }
    }
}
