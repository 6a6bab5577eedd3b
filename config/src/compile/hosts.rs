//! The hosts of a group of binds: who contributes to each, and their rules in order of precedence.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use foldhash::quality::FixedState;

use super::members::Members;
use super::route::{Entry, Order, Route, What, specificity};
use crate::report::ObjectRef;
use crate::table::{Candidate, HostMap, HostRules, Hostname, PathMap, PathMatch, WildcardDepth};

/// A map of hosts under construction.
#[derive(Debug, Default)]
pub(super) struct HostState {
    hosts: HostMap,
    /// The routes with entries for a host.
    pub(super) members: Members,
    published: Option<Arc<HostMap>>,
}

/// A rule, or a fallback, that lost against an older one.
#[derive(Debug)]
pub(super) struct Loss {
    pub(super) loser: ObjectRef,
    /// The rule's position in its route; `None` for a fallback.
    pub(super) index: Option<u32>,
    pub(super) winner: ObjectRef,
}

impl HostState {
    /// Rebuilds the hosts that were touched; returns each with its losses.
    pub(super) fn rebuild<'r>(
        &mut self,
        route: impl Fn(u32) -> Option<&'r Route>,
    ) -> Vec<(Hostname, Vec<Loss>)> {
        let mut rebuilt = Vec::with_capacity(self.members.dirty.len());
        for host in std::mem::take(&mut self.members.dirty) {
            let mut routes: Vec<&Route> = self.members.of(&host).iter().filter_map(|id| route(*id)).collect();
            routes.sort_by(|a, b| a.order.cmp(&b.order));
            let (rules, losses) = build(&host, &routes);
            self.hosts.set(&host, rules.map(Arc::new));
            self.published = None;
            rebuilt.push((host, losses));
        }
        rebuilt
    }

    pub(super) fn publish(&mut self) -> Arc<HostMap> {
        Arc::clone(self.published.get_or_insert_with(|| Arc::new(self.hosts.clone())))
    }
}

/// `entries` of one host within a route.
pub(super) fn entries_of<'r>(route: &'r Route, host: &Hostname) -> &'r [Entry] {
    let start = route.entries.partition_point(|entry| entry.host < *host);
    let end = route.entries.partition_point(|entry| entry.host <= *host);
    route.entries.get(start..end).unwrap_or_default()
}

/// The rules of `host` from its routes, oldest first.
fn build(host: &Hostname, routes: &[&Route]) -> (Option<HostRules>, Vec<Loss>) {
    let mut losses = Vec::new();
    let mut candidates: Vec<(&Candidate, &Order)> = Vec::new();
    let mut fallback: Option<(&Arc<_>, &Order)> = None;
    let mut hsts = None;
    for route in routes {
        for entry in entries_of(route, host) {
            if hsts.is_none() {
                hsts = entry.what.rule().and_then(|rule| rule.policy.https.hsts.clone());
            }
            match (&entry.what, fallback) {
                (What::Rule(candidate), _) => candidates.push((candidate, &route.order)),
                (What::Fallback(rule), None) => fallback = Some((rule, &route.order)),
                (What::Fallback(_), Some((_, winner))) if winner.object != route.order.object => {
                    let (loser, winner) = (route.order.object.clone(), winner.object.clone());
                    losses.push(Loss { loser, index: None, winner });
                }
                (What::Fallback(_) | What::Host, _) => {}
            }
        }
    }
    if routes.is_empty() {
        return (None, losses);
    }
    if candidates.iter().any(|(candidate, _)| candidate.matcher.is_some()) {
        // Stable, so that age and the user's order decide between equals.
        candidates.sort_by_key(|(candidate, _)| Reverse(specificity(candidate.matcher.as_deref())));
    }
    let mut paths = PathMap::default();
    let mut seen: HashMap<(u8, &str), Vec<(&Candidate, &Order)>, FixedState> = HashMap::default();
    for (candidate, order) in &candidates {
        if candidates.len() > 1 {
            let same_path = seen.entry(path_key(&candidate.rule.path)).or_default();
            if let Some((_, winner)) = same_path.iter().find(|(other, _)| other.matcher == candidate.matcher)
            {
                let (loser, winner) = (order.object.clone(), winner.object.clone());
                losses.push(Loss { loser, index: Some(candidate.rule.index), winner });
                continue;
            }
            same_path.push((candidate, order));
        }
        paths.push((*candidate).clone());
    }
    let fallback = fallback.map(|(rule, _)| Arc::clone(rule));
    let (hostname, depth) = (host.clone(), WildcardDepth::OneLabel);
    (Some(HostRules { hostname, depth, paths, fallback, hsts }), losses)
}

fn path_key(path: &PathMatch) -> (u8, &str) {
    match path {
        PathMatch::Exact(path) => (0, path),
        PathMatch::Prefix(path) => (1, path),
        PathMatch::Regex(regex) => (2, regex.as_str()),
    }
}
