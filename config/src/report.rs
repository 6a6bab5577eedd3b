//! What compile says about each object: the one place where rejected input becomes a message.
//!
//! A [`Report`] comes out of the same pass as the table, so status, `check`, `/debug/table` and logs can
//! never disagree with what is served.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

/// Names one object: `Kind namespace/name`. Native files use the kinds `Route`, `Backend`, `Listener`.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct ObjectRef {
    /// Kubernetes kind, or the native section's singular name.
    pub kind: Kind,
    /// Namespace; empty for cluster-scoped and native objects.
    pub namespace: Arc<str>,
    /// Object name.
    pub name: Arc<str>,
}

/// The closed set of kinds that the index stores.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Kind {
    /// `networking.k8s.io/v1` Ingress.
    Ingress,
    /// `networking.k8s.io/v1` IngressClass.
    IngressClass,
    /// `v1` Service.
    Service,
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice,
    /// `v1` Secret.
    Secret,
    /// `v1` ConfigMap.
    ConfigMap,
    /// `v1` Namespace.
    Namespace,
    /// `sluicegate.dev/v1alpha1` AddressPool, or a pool of the native format.
    AddressPool,
    /// `metallb.io/v1beta1` IPAddressPool.
    IPAddressPool,
    /// `metallb.io/v1beta1` L2Advertisement.
    L2Advertisement,
    /// `v1` Node.
    Node,
    /// `networking.k8s.io/v1` ServiceCIDR.
    ServiceCIDR,
    /// A file in the native format (`sluicegate.dev/v1alpha1`, kind `Config`), as a whole.
    Config,
    /// A listener of the native format.
    Listener,
    /// A route of the native format.
    Route,
    /// A backend of the native format.
    Backend,
    /// A file or folder that could not be read or parsed at all.
    File,
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{:?} {}", self.kind, self.name)
        } else {
            write!(f, "{:?} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

/// Where an object was read from.
#[derive(Clone, Debug, Eq, Hash, PartialEq, Serialize)]
pub struct SourceLocation {
    /// Path as the user gave it, joined with the path below it.
    pub file: Arc<str>,
    /// 1-based line of the object's (or the offending field's) first character; 0 when unknown.
    pub line: u32,
}

impl fmt::Display for SourceLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 { write!(f, "{}", self.file) } else { write!(f, "{}:{}", self.file, self.line) }
    }
}

/// How much a [`Problem`] costs.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The object (or the named part of it) is not served as written. `check` exits with 1.
    Error,
    /// Served, but probably not what the author meant.
    Warning,
}

/// One finding about one object.
#[derive(Clone, Debug, Eq, Hash, PartialEq, Serialize)]
pub struct Problem {
    /// The object that is wrong.
    pub object: ObjectRef,
    /// Where it was read, if it came from a file.
    pub location: Option<SourceLocation>,
    /// Dotted path of the field (`spec.rules[0].http.paths[1].backend`); empty for the whole object.
    pub field: String,
    /// Error or warning.
    pub severity: Severity,
    /// Stable CamelCase reason code, usable as a metric label and in status conditions.
    pub reason: &'static str,
    /// What is wrong and what to do, lower-case, no full stop.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(location) = &self.location {
            write!(f, "{location}: ")?;
        }
        write!(f, "{}: ", self.object)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        write!(f, "{} ({})", self.message, self.reason)
    }
}

/// Longest message, in bytes.
const MAX_MESSAGE: usize = 600;

/// `message`, without its middle if a user's text makes it too long to be read.
pub(crate) fn brief(message: String) -> String {
    if message.len() <= MAX_MESSAGE {
        return message;
    }
    let start = message.floor_char_boundary(MAX_MESSAGE / 2);
    let end = message.floor_char_boundary(message.len() - MAX_MESSAGE / 3);
    match (message.get(..start), message.get(end..)) {
        (Some(start), Some(end)) => format!("{start} … {end}"),
        _ => message,
    }
}

/// Everything compile has to say, in a deterministic order (by object, then field).
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Report {
    /// All findings.
    pub problems: Vec<Problem>,
}

impl Report {
    /// True if any finding is an error.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.problems.iter().any(|problem| problem.severity == Severity::Error)
    }
}
