//! What a user's route object amounts to, whatever kind it is, and the one constructor of rules.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use super::tls::{Claim, TlsEntry};
use super::vault::Origin;
use crate::index::ServiceKey;
use crate::report::{ObjectRef, Problem};
use crate::resource::Object;
use crate::table::{
    Action, BackendId, Candidate, Hostname, L4Bind, Matcher, PathMatch, Redirect, RouteId, Rule, RulePolicy,
    Split, Unavailable, WeightedBackend,
};

/// A compiled route object.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) order: Order,
    /// The binds that it is reachable through.
    pub(super) binds: Arc<[SocketAddr]>,
    /// Binds that it wants for itself, to relay what comes there; each key once.
    pub(super) l4: Box<[Arc<L4Bind>]>,
    /// Sorted by host; in the user's order within one host.
    pub(super) entries: Box<[Entry]>,
    /// Backends that it holds.
    pub(super) backends: Box<[BackendId]>,
    /// Services that it must be compiled again with.
    pub(super) services: Box<[ServiceKey]>,
    /// What it wants of encrypted connections, by host; each host once.
    pub(super) claims: Box<[Claim]>,
    /// Where its certificates come from.
    pub(super) tls: Box<[TlsEntry]>,
    /// Authorities that clients are verified against.
    pub(super) roots: Box<[Origin]>,
    /// What its backends are verified by: it must be compiled again with them.
    pub(super) materials: Box<[Origin]>,
    /// The field that asks for passthrough.
    pub(super) passthrough_field: Cow<'static, str>,
}

impl Route {
    /// A route of nothing but Binds that relay, with the backends that it holds and the Services that it names.
    pub(super) fn of_binds(
        object: &Object,
        created: Option<i64>,
        l4: Vec<Arc<L4Bind>>,
        held: BTreeSet<BackendId>,
        services: Vec<ServiceKey>,
    ) -> Self {
        Self {
            order: Order { created, rank: 0, object: object.reference.clone() },
            binds: Arc::new([]),
            l4: l4.into(),
            entries: Box::new([]),
            backends: held.into_iter().collect(),
            services: services.into(),
            claims: Box::new([]),
            tls: Box::new([]),
            roots: Box::new([]),
            materials: Box::new([]),
            passthrough_field: "".into(),
        }
    }
}

/// Age, then name: who wins a conflict.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Order {
    /// Seconds since 1970; what has no age is younger than everything else.
    pub(super) created: Option<i64>,
    /// Position in a native file; 0 for Kubernetes objects.
    pub(super) rank: u32,
    pub(super) object: ObjectRef,
}

impl Ord for Order {
    fn cmp(&self, other: &Self) -> Ordering {
        let (a, b) = (&self.object, &other.object);
        let age = |order: &Self| order.created.unwrap_or(i64::MAX);
        age(self)
            .cmp(&age(other))
            .then_with(|| self.rank.cmp(&other.rank))
            .then_with(|| a.namespace.cmp(&b.namespace))
            .then_with(|| a.name.cmp(&b.name))
            .then_with(|| a.kind.cmp(&b.kind))
    }
}

impl PartialOrd for Order {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// One contribution of a route to one host.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) host: Hostname,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    /// A rule under its path.
    Rule(Candidate),
    /// Taken when no path of the host matches.
    Fallback(Arc<Rule>),
    /// Nothing but the host's existence, which keeps requests from less specific hosts.
    Host,
}

impl What {
    /// The rule, of whatever kind.
    pub(super) fn rule(&self) -> Option<&Arc<Rule>> {
        match self {
            Self::Rule(candidate) => Some(&candidate.rule),
            Self::Fallback(rule) => Some(rule),
            Self::Host => None,
        }
    }
}

/// A backend reference of a rule as resolved, with its weight.
pub(super) type Share = (Result<BackendId, Unavailable>, u32);

/// What a rule's author wants done.
pub(super) enum Goal {
    Forward(Vec<Share>),
    Redirect(Arc<Redirect>),
    Closed(Unavailable),
}

/// The one constructor of rules.
pub(super) fn rule(
    route: RouteId,
    index: u32,
    path: PathMatch,
    policy: Arc<RulePolicy>,
    goal: Goal,
) -> Arc<Rule> {
    let action = match goal {
        Goal::Redirect(redirect) => Action::Redirect(redirect),
        Goal::Closed(why) => Action::Unavailable(why),
        Goal::Forward(shares) => split(&shares).map_or_else(Action::Unavailable, Action::Forward),
    };
    Arc::new(Rule { route, index, policy, action, path: Box::new(path) })
}

/// The choice among `shares`, or why there is none.
pub(super) fn split(shares: &[Share]) -> Result<Split, Unavailable> {
    match shares {
        [] => Err(Unavailable::BackendNotFound),
        [(backend, _)] => backend.map(Split::One),
        several => {
            let weighted = several
                .iter()
                .map(|(backend, weight)| WeightedBackend { backend: *backend, weight: *weight });
            Ok(Split::Weighted(weighted.collect()))
        }
    }
}

/// Sorts candidates of one host: more specific conditions first, then the older route, then its own order.
pub(super) fn specificity(matcher: Option<&Matcher>) -> (bool, usize, usize) {
    matcher.map_or((false, 0, 0), |m| (m.method.is_some(), m.headers.len(), m.query.len()))
}

/// A route with what there is to say about it.
pub(super) struct Outcome {
    pub(super) route: Option<Route>,
    pub(super) problems: Vec<Problem>,
}
