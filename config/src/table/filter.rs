//! Filters: changes to a request or response, and short-circuits, decided at compile time.

use std::sync::Arc;

use serde::Serialize;

/// The filters of one Rule. Routes with equal filters share one allocation.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq, Serialize)]
pub struct Filters {
    /// Changes to the request head, applied after hop-by-hop removal and before forwarding fields are set.
    pub request_headers: HeaderModifier,
    /// Changes to the response head.
    pub response_headers: HeaderModifier,
    /// Change of authority or path before forwarding.
    pub rewrite: Option<Rewrite>,
}

/// Header changes in Gateway API order: `remove`, then `set`, then `add`. Names are lower-case and valid
/// tokens; values are valid field values (RFC 9110 §5.5); neither names a field that the gateway manages.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq, Serialize)]
pub struct HeaderModifier {
    /// Names to remove.
    pub remove: Vec<Arc<str>>,
    /// Name → value, replacing what is there.
    pub set: Vec<(Arc<str>, Arc<str>)>,
    /// Name → value, in addition to what is there.
    pub add: Vec<(Arc<str>, Arc<str>)>,
}

impl HeaderModifier {
    /// True if nothing is changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }
}

/// Rewrite before forwarding.
#[derive(Clone, Debug, Eq, Hash, PartialEq, Serialize)]
pub struct Rewrite {
    /// Replacement authority.
    pub hostname: Option<Arc<str>>,
    /// Replacement path.
    pub path: Option<PathModifier>,
}

/// Gateway API `HTTPPathModifier`.
#[derive(Clone, Debug, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathModifier {
    /// The whole path is replaced; the query stays.
    ReplaceFullPath(Arc<str>),
    /// The matched prefix is replaced; a trailing slash in the value is ignored, an empty result becomes `/`.
    ReplacePrefixMatch(Arc<str>),
}

/// Answer with a redirect. Absent parts are taken from the request.
#[derive(Clone, Debug, Eq, Hash, PartialEq, Serialize)]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<Arc<str>>,
    /// Host of the Location.
    pub hostname: Option<Arc<str>>,
    /// Port of the Location.
    pub port: Option<u16>,
    /// Path of the Location.
    pub path: Option<PathModifier>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}
