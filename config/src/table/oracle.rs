//! The naive reading of the rules: a linear scan that the indexed lookup must agree with. Tests use it as the
//! judge, and `explain` to say why each other candidate lost. Never on the path of a request.

use std::cmp::Reverse;
use std::sync::Arc;

use super::hosts::{HostMap, HostRules, Hostname, WildcardDepth};
use super::matcher::RequestParts;
use super::path::PathMatch;
use super::rule::{Candidate, Rule};

/// Whether the host condition holds for `host` (lower-case, no port, no trailing dot), by its definition.
#[must_use]
pub fn host_matches(rules: &HostRules, host: &str) -> bool {
    match &rules.hostname {
        Hostname::Any => true,
        Hostname::Exact(exact) => **exact == *host,
        Hostname::Wildcard(suffix) => host.strip_suffix(&**suffix).is_some_and(|labels| {
            !labels.is_empty()
                && !labels.starts_with('.')
                && (rules.depth == WildcardDepth::AnyDepth || !labels.contains('.'))
        }),
    }
}

/// How specific a hostname is: exact, then wildcards by length, then none.
#[must_use]
pub fn host_rank(hostname: &Hostname) -> (u8, usize) {
    match hostname {
        Hostname::Exact(_) => (2, 0),
        Hostname::Wildcard(suffix) => (1, suffix.len()),
        Hostname::Any => (0, 0),
    }
}

/// How specific a path is: exact, then regular expressions, then prefixes by length.
#[must_use]
pub fn path_rank(path: &PathMatch) -> (u8, usize) {
    match path {
        PathMatch::Exact(_) => (2, 0),
        PathMatch::Regex(_) => (1, 0),
        PathMatch::Prefix(prefix) => (0, prefix.len()),
    }
}

/// The entry whose rules alone may serve `host`.
#[must_use]
pub fn host_entry<'t>(hosts: &'t HostMap, host: &str) -> Option<&'t Arc<HostRules>> {
    let covering = hosts.iter().filter(|rules| host_matches(rules, host));
    covering.max_by_key(|rules| host_rank(&rules.hostname))
}

/// Whether a candidate's path and conditions hold.
#[must_use]
pub fn matches(candidate: &Candidate, path: &str, request: &impl RequestParts) -> bool {
    candidate.rule.path.matches(path)
        && candidate.matcher.as_ref().is_none_or(|matcher| matcher.matches(request))
}

/// The rule for a request, found by looking at every one.
#[must_use]
pub fn route<'t>(
    hosts: &'t HostMap,
    host: &str,
    path: &str,
    request: &impl RequestParts,
) -> Option<&'t Arc<Rule>> {
    let entry = host_entry(hosts, host)?;
    let matching = entry.paths.candidates().into_iter().filter(|candidate| matches(candidate, path, request));
    let best = matching.min_by_key(|candidate| Reverse(path_rank(&candidate.rule.path)));
    best.map(|candidate| &candidate.rule)
        .or(entry.fallback.as_ref())
        .or_else(|| hosts.any().and_then(|any| any.fallback.as_ref()))
}
