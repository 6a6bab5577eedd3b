//! Conditions beyond host and path.

use std::sync::Arc;

use regex::Regex;
use serde::Serialize;

/// What a [`Matcher`] may ask about a request; implemented by each HTTP version's request head.
pub trait RequestParts {
    /// Method, as sent.
    fn method(&self) -> &[u8];
    /// The query without `?`, as sent.
    fn query(&self) -> Option<&[u8]>;
    /// Calls `visit` with each value of the field `name` (lower-case), until it returns true; returns whether
    /// it did.
    fn any_header(&self, name: &str, visit: &mut dyn FnMut(&[u8]) -> bool) -> bool;
}

/// Conditions that must all hold.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Matcher {
    /// Exact, case-sensitive method.
    pub method: Option<Arc<str>>,
    /// Header conditions.
    pub headers: Vec<HeaderMatch>,
    /// Query parameter conditions.
    pub query: Vec<QueryMatch>,
}

/// A condition on a request header. With several fields of the name, one must match.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct HeaderMatch {
    /// Lower-case name.
    pub name: Arc<str>,
    /// Condition on the value.
    pub value: ValueMatch,
}

/// A condition on the first query parameter of a name; names and values compare as sent.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct QueryMatch {
    /// Exact name.
    pub name: Arc<str>,
    /// Condition on the value.
    pub value: ValueMatch,
}

/// A condition on text.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ValueMatch {
    /// Equal bytes.
    Exact(Arc<str>),
    /// Full match of a regular expression (linear time, size-limited at compile).
    Regex(#[serde(serialize_with = "as_text")] Regex),
}

fn as_text<S: serde::Serializer>(regex: &Regex, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(regex.as_str())
}

impl PartialEq for ValueMatch {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(a), Self::Exact(b)) => a == b,
            (Self::Regex(a), Self::Regex(b)) => a.as_str() == b.as_str(),
            _ => false,
        }
    }
}

impl Eq for ValueMatch {}

impl ValueMatch {
    /// Whether `value` fulfils the condition; a value that is not UTF-8 never matches a regular expression.
    #[must_use]
    pub fn matches(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(text) => text.as_bytes() == value,
            Self::Regex(regex) => std::str::from_utf8(value).is_ok_and(|text| regex.is_match(text)),
        }
    }
}

impl Matcher {
    /// Whether every condition holds.
    #[must_use]
    pub fn matches(&self, request: &impl RequestParts) -> bool {
        self.method.as_ref().is_none_or(|method| method.as_bytes() == request.method())
            && self.headers.iter().all(|h| request.any_header(&h.name, &mut |value| h.value.matches(value)))
            && self.query.iter().all(|q| query_matches(q, request.query().unwrap_or_default()))
    }
}

fn query_matches(condition: &QueryMatch, query: &[u8]) -> bool {
    let value = query.split(|byte| *byte == b'&').find_map(|pair| {
        let (name, value) = match pair.iter().position(|byte| *byte == b'=') {
            Some(at) => (pair.get(..at)?, pair.get(at + 1..)?),
            None => (pair, &[][..]),
        };
        (name == condition.name.as_bytes()).then_some(value)
    });
    value.is_some_and(|value| condition.value.matches(value))
}
