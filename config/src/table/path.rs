//! Path conditions and the per-host index over them.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::quality::FixedState;
use regex::Regex;
use serde::Serialize;

use super::matcher::RequestParts;
use super::rule::{Candidate, Rule};

/// A condition on the canonical path.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case", tag = "type", content = "value")]
pub enum PathMatch {
    /// The whole path, case-sensitive.
    Exact(Arc<str>),
    /// Element-wise prefix without its trailing slash; `/` is the empty string.
    Prefix(Arc<str>),
    /// Full match of a regular expression (linear time, size-limited at compile).
    Regex(#[serde(serialize_with = "as_text")] Regex),
}

fn as_text<S: serde::Serializer>(regex: &Regex, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(regex.as_str())
}

impl PathMatch {
    /// Whether the canonical `path` fulfils the condition, by its definition and without any index.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => **exact == *path,
            Self::Prefix(prefix) => match path.strip_prefix(&**prefix) {
                Some(rest) => rest.is_empty() || rest.starts_with('/'),
                None => false,
            },
            Self::Regex(regex) => regex.is_match(path),
        }
    }
}

impl PartialEq for PathMatch {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(a), Self::Exact(b)) | (Self::Prefix(a), Self::Prefix(b)) => a == b,
            (Self::Regex(a), Self::Regex(b)) => a.as_str() == b.as_str(),
            _ => false,
        }
    }
}

impl Eq for PathMatch {}

/// `path → candidates`, for one host. Precedence: exact, then regular expressions in the order given, then the
/// longest prefix (so that a catch-all prefix hides none of them); within one path, the order of the candidates.
#[derive(Clone, Debug, Default)]
#[repr(C)]
pub struct PathMap {
    /// prefix without trailing slash → candidates
    prefix: Index,
    /// Longest prefix in bytes: longer parts of a path are never probed.
    longest_prefix: usize,
    /// What most hosts do not have.
    special: Option<Box<Special>>,
}

/// Paths that go before prefixes.
#[derive(Clone, Debug, Default)]
struct Special {
    /// path → candidates
    exact: Index,
    /// In precedence order.
    regex: Vec<(Regex, Candidates)>,
}

/// Entries up to which a list is searched: most hosts have one or two paths, and a list of these is one cache
/// line where a hash table is several, which is what a lookup among 10,000 hosts costs.
const FEW: usize = 4;

/// key → candidates
#[derive(Clone, Debug, Default)]
enum Index {
    #[default]
    Empty,
    One(Arc<str>, Candidates),
    Few(Vec<(Arc<str>, Candidates)>),
    #[expect(clippy::box_collection, reason = "hosts with many paths shall not make all others larger")]
    Many(Box<HashMap<Arc<str>, Candidates, FixedState>>),
}

impl Index {
    #[inline]
    fn at(&self, key: &str) -> Option<&Candidates> {
        match self {
            Self::Empty => None,
            Self::One(known, candidates) => (**known == *key).then_some(candidates),
            Self::Few(few) => few.iter().find(|(known, _)| **known == *key).map(|(_, candidates)| candidates),
            Self::Many(many) => many.get(key),
        }
    }

    fn push(&mut self, key: Arc<str>, candidate: Candidate) {
        match self {
            Self::Empty => *self = Self::One(key, Candidates::One(candidate)),
            Self::One(known, candidates) if *known == key => candidates.push(candidate),
            Self::One(..) => {
                if let Self::One(known, candidates) = std::mem::take(self) {
                    *self = Self::Few(vec![(known, candidates), (key, Candidates::One(candidate))]);
                }
            }
            Self::Few(few) => {
                if let Some((_, candidates)) = few.iter_mut().find(|(known, _)| **known == *key) {
                    candidates.push(candidate);
                } else if few.len() < FEW {
                    few.reserve_exact(1);
                    few.push((key, Candidates::One(candidate)));
                } else {
                    let mut many: HashMap<_, _, _> = std::mem::take(few).into_iter().collect();
                    many.insert(key, Candidates::One(candidate));
                    *self = Self::Many(Box::new(many));
                }
            }
            Self::Many(many) => match many.get_mut(&key) {
                Some(candidates) => candidates.push(candidate),
                None => {
                    many.insert(key, Candidates::One(candidate));
                }
            },
        }
    }

    fn entries(&self) -> Vec<(&Arc<str>, &Candidates)> {
        match self {
            Self::Empty => Vec::new(),
            Self::One(key, candidates) => vec![(key, candidates)],
            Self::Few(few) => few.iter().map(|(key, candidates)| (key, candidates)).collect(),
            Self::Many(many) => many.iter().collect(),
        }
    }
}

/// Almost always one, so it costs no list.
#[derive(Clone, Debug)]
enum Candidates {
    One(Candidate),
    Many(Box<[Candidate]>),
}

impl Candidates {
    fn as_slice(&self) -> &[Candidate] {
        match self {
            Self::One(candidate) => std::slice::from_ref(candidate),
            Self::Many(candidates) => candidates,
        }
    }

    fn push(&mut self, candidate: Candidate) {
        let mut all = self.as_slice().to_vec();
        all.push(candidate);
        *self = Self::Many(all.into());
    }

    #[inline]
    fn find(&self, request: &impl RequestParts) -> Option<&Arc<Rule>> {
        let matches = |c: &&Candidate| c.matcher.as_ref().is_none_or(|matcher| matcher.matches(request));
        self.as_slice().iter().find(matches).map(|candidate| &candidate.rule)
    }
}

impl Special {
    fn find(&self, path: &str, request: &impl RequestParts) -> Option<&Arc<Rule>> {
        if let Some(rule) = self.exact.at(path).and_then(|candidates| candidates.find(request)) {
            return Some(rule);
        }
        let mut matching = self.regex.iter().filter(|(regex, _)| regex.is_match(path));
        matching.find_map(|(_, candidates)| candidates.find(request))
    }
}

impl PathMap {
    /// Files `candidate` under its rule's path, after those already there for the same path.
    pub fn push(&mut self, candidate: Candidate) {
        match (*candidate.rule.path).clone() {
            PathMatch::Exact(path) => self.special.get_or_insert_default().exact.push(path, candidate),
            PathMatch::Prefix(path) => {
                self.longest_prefix = self.longest_prefix.max(path.len());
                self.prefix.push(path, candidate);
            }
            PathMatch::Regex(regex) => {
                let list = &mut self.special.get_or_insert_default().regex;
                match list.iter_mut().find(|(known, _)| known.as_str() == regex.as_str()) {
                    Some((_, candidates)) => candidates.push(candidate),
                    None => list.push((regex, Candidates::One(candidate))),
                }
            }
        }
    }

    /// The first rule in precedence order that matches the canonical `path` and the request.
    #[inline]
    #[must_use]
    pub fn find(&self, path: &str, request: &impl RequestParts) -> Option<&Arc<Rule>> {
        if let Some(special) = &self.special
            && let Some(rule) = special.find(path, request)
        {
            return Some(rule);
        }
        match &self.prefix {
            Index::Empty => None,
            // The root alone, which most hosts have: every path begins with it.
            Index::One(root, candidates) if root.is_empty() => candidates.find(request),
            _ => self.find_prefix(path, request),
        }
    }

    /// The rule that takes every request, if there is one that no condition and no other path can keep from it.
    #[must_use]
    pub fn only(&self) -> Option<&Arc<Rule>> {
        match (&self.special, &self.prefix) {
            (None, Index::One(root, Candidates::One(candidate)))
                if root.is_empty() && candidate.matcher.is_none() =>
            {
                Some(&candidate.rule)
            }
            _ => None,
        }
    }

    /// Probes from the longest element-wise prefix that can exist down to the root.
    fn find_prefix(&self, path: &str, request: &impl RequestParts) -> Option<&Arc<Rule>> {
        let bytes = path.as_bytes();
        let mut end = path.len();
        if end > self.longest_prefix {
            // The longest prefix that ends where an element ends and is no longer than any stored one.
            end = bytes.iter().take(self.longest_prefix + 1).rposition(|byte| *byte == b'/').unwrap_or(0);
        }
        loop {
            if let Some(prefix) = path.get(..end)
                && let Some(rule) = self.prefix.at(prefix).and_then(|candidates| candidates.find(request))
            {
                return Some(rule);
            }
            if end == 0 {
                return None;
            }
            end = bytes.iter().take(end).rposition(|byte| *byte == b'/').unwrap_or(0);
        }
    }

    /// All candidates in precedence order (prefixes by length, longest first).
    #[must_use]
    pub fn candidates(&self) -> Vec<&Candidate> {
        let special = self.special.as_deref();
        let mut exact = special.map(|special| special.exact.entries()).unwrap_or_default();
        exact.sort_by(|a, b| a.0.cmp(b.0));
        let mut prefix = self.prefix.entries();
        prefix.sort_by(|a, b| b.0.len().cmp(&a.0.len()).then_with(|| a.0.cmp(b.0)));
        let exact = exact.into_iter().flat_map(|(_, candidates)| candidates.as_slice());
        let regex = special.map(|special| special.regex.as_slice()).unwrap_or_default();
        let regex = regex.iter().flat_map(|(_, candidates)| candidates.as_slice());
        let prefix = prefix.into_iter().flat_map(|(_, candidates)| candidates.as_slice());
        exact.chain(regex).chain(prefix).collect()
    }
}
