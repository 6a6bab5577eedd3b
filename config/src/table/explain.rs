//! Why a request goes where it goes: the rule that wins, and why each other candidate loses. For people; the
//! gateway never calls it.

use std::net::SocketAddr;
use std::sync::Arc;

use serde::Serialize;

use super::backend::Backend;
use super::bind::Bind;
use super::hosts::{HostRules, Hostname};
use super::matcher::{Matcher, RequestParts};
use super::path::PathMatch;
use super::rule::{Action, Candidate, Rule, RulePolicy, Split, Unavailable};
use super::tls::{ClientPolicy, TlsHost, TlsPolicy};
use super::{RouteTable, oracle};
use crate::report::{ObjectRef, Problem, Report};

/// Losing candidates that are listed; more are counted.
const MAX_OTHERS: usize = 50;

/// What is asked about.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The bind it arrives at; the first that has a rule for it when `None`.
    pub bind: Option<SocketAddr>,
    /// It arrives over TLS, so without `bind` only encrypted ones are looked at, and otherwise only others.
    pub https: bool,
    /// Method.
    pub method: &'a str,
    /// Host: lower-case, without port and trailing dot.
    pub host: &'a str,
    /// Canonical path.
    pub path: &'a str,
    /// Query without `?`.
    pub query: Option<&'a str>,
    /// Header fields; names in any case.
    pub headers: &'a [(String, String)],
}

impl RequestParts for Request<'_> {
    fn method(&self) -> &[u8] {
        self.method.as_bytes()
    }

    fn query(&self) -> Option<&[u8]> {
        self.query.map(str::as_bytes)
    }

    fn any_header(&self, name: &str, visit: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        self.headers.iter().any(|(other, value)| other.eq_ignore_ascii_case(name) && visit(value.as_bytes()))
    }
}

/// Where a request goes and why.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// The bind that was looked at; `None` if there is none.
    pub bind: Option<SocketAddr>,
    /// Its listeners.
    pub listeners: Vec<Arc<str>>,
    /// The host entry whose rules alone may serve the request, as users write it; `*` for rules without host.
    pub host: Option<String>,
    /// What becomes of the TLS connection that the request would come in on.
    pub tls: Option<Connection>,
    /// One sentence.
    pub verdict: String,
    /// The rule that takes it; `None` means 404.
    pub chosen: Option<Chosen>,
    /// Candidates that name this host or path and lost, the nearest first.
    pub others: Vec<Other>,
    /// Further ones that are not listed.
    pub omitted: usize,
}

/// What becomes of a TLS connection whose client names the request's host.
#[derive(Clone, Debug, Serialize)]
pub struct Connection {
    /// The name under which it is configured, as users write it; `None` for the default.
    pub name: Option<String>,
    /// How it is encrypted; `None` if it is relayed as it is.
    pub policy: Option<Arc<TlsPolicy>>,
    /// The route that asks for it to be relayed, and its backends.
    pub passthrough: Option<Relayed>,
}

/// Where a connection is relayed to.
#[derive(Clone, Debug, Serialize)]
pub struct Relayed {
    /// The route's display name.
    pub route: Arc<str>,
    /// The backends; none if connections are closed.
    pub backends: Vec<Share>,
}

/// The rule that takes the request.
#[derive(Clone, Debug, Serialize)]
pub struct Chosen {
    /// The user's object.
    pub object: Option<ObjectRef>,
    /// The route's display name.
    pub route: Arc<str>,
    /// Position within the route.
    pub rule: u32,
    /// Its path condition as users write it; `None` for a default backend.
    pub path: Option<String>,
    /// Its other conditions.
    pub conditions: Option<Arc<Matcher>>,
    /// Filters, timeouts, retry.
    pub policy: Arc<RulePolicy>,
    /// What happens.
    pub action: Action,
    /// The backends that it may go to.
    pub backends: Vec<Share>,
}

/// One backend of the chosen rule.
#[derive(Clone, Debug, Serialize)]
pub struct Share {
    /// Relative share of requests.
    pub weight: u32,
    /// The backend with its eligible endpoints and policy.
    pub backend: Option<Arc<Backend>>,
    /// Why this share is answered 503 instead.
    pub unavailable: Option<Unavailable>,
    /// Endpoints that the Service has and that get no requests. No table knows them: whoever has the compiler adds
    /// them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<LeftOut>,
}

/// An endpoint of a Service that gets no requests.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct LeftOut {
    /// Its address.
    pub address: SocketAddr,
    /// For people.
    pub why: String,
}

/// A candidate that lost.
#[derive(Clone, Debug, Serialize)]
pub struct Other {
    /// The user's object.
    pub object: Option<ObjectRef>,
    /// The route's display name.
    pub route: Arc<str>,
    /// Position within the route; `None` where only the object is known.
    pub rule: Option<u32>,
    /// Host entry as users write it.
    pub host: String,
    /// Path condition as users write it; empty for a default backend.
    pub path: String,
    /// Why it lost.
    pub why: String,
}

/// Explains `request` against `table`. `report` comes from the same compile and tells of rules that lost
/// against older objects and are in no table.
#[must_use]
pub fn explain(table: &RouteTable, report: &Report, request: &Request<'_>) -> Explanation {
    let Some(bind) = choose_bind(table, request) else {
        let verdict = match request.bind {
            Some(address) => format!("nothing listens on {address}"),
            None if request.https => "nothing listens with TLS".to_owned(),
            None => "nothing listens: there is no bind".to_owned(),
        };
        return Explanation {
            bind: None,
            listeners: Vec::new(),
            host: None,
            tls: None,
            verdict,
            chosen: None,
            others: Vec::new(),
            omitted: 0,
        };
    };
    let tls = connection(table, bind, request.host);
    let entry = bind.hosts.find(request.host);
    if let Some(relayed) = tls.as_ref().and_then(|tls| tls.passthrough.as_ref()) {
        return Explanation {
            bind: Some(bind.config.address),
            listeners: listener_names(bind),
            host: entry.map(|rules| host_text(&rules.hostname)),
            verdict: if relayed.backends.is_empty() {
                format!(
                    "the connection is closed: {} asks for passthrough and has no backend for it",
                    relayed.route
                )
            } else {
                format!("the connection is passed through as it is, by {}", relayed.route)
            },
            tls,
            chosen: None,
            others: Vec::new(),
            omitted: 0,
        };
    }
    let rule = bind.hosts.route(request.host, request.path, request);
    let chosen = rule.map(|rule| chosen(table, entry, rule, request));
    let guard = guard(bind, request.host);
    let mut others = losers(table, report, bind, entry, rule, request);
    let omitted = others.len().saturating_sub(MAX_OTHERS);
    others.truncate(MAX_OTHERS);
    Explanation {
        bind: Some(bind.config.address),
        listeners: listener_names(bind),
        host: entry.map(|rules| host_text(&rules.hostname)),
        tls,
        verdict: guard
            .or_else(|| redirected(bind, request, chosen.as_ref()))
            .unwrap_or_else(|| verdict(entry, chosen.as_ref())),
        chosen,
        others,
        omitted,
    }
}

fn choose_bind<'t>(table: &'t RouteTable, request: &Request<'_>) -> Option<&'t Arc<Bind>> {
    match request.bind {
        Some(address) => table.binds.iter().find(|bind| bind.config.address == address),
        None => {
            let has_rule =
                |bind: &&Arc<Bind>| bind.hosts.route(request.host, request.path, request).is_some();
            let mut binds = table.binds.iter().filter(|bind| bind.config.https == request.https);
            binds.clone().find(has_rule).or_else(|| binds.next())
        }
    }
}

fn listener_names(bind: &Bind) -> Vec<Arc<str>> {
    bind.config.listeners.iter().map(|listener| Arc::clone(&listener.name)).collect()
}

/// What becomes of a connection to an encrypted bind whose client names `host`.
fn connection(table: &RouteTable, bind: &Bind, host: &str) -> Option<Connection> {
    let tls = bind.tls.as_ref().filter(|_| bind.config.https)?;
    let exact = tls.exactly(&Hostname::Exact(host.into())).is_some();
    let suffix = host.find('.').and_then(|at| host.get(at..)).unwrap_or_default();
    Some(match tls.find(host) {
        None => Connection { name: None, policy: Some(Arc::clone(tls.default_policy())), passthrough: None },
        Some(found) => {
            let name = Some(if exact { host.to_owned() } else { format!("*{suffix}") });
            match found {
                TlsHost::Terminate(policy) => {
                    Connection { name, policy: Some(Arc::clone(policy)), passthrough: None }
                }
                TlsHost::Passthrough(passthrough) => {
                    let route = table.routes.at(passthrough.route.0);
                    let relayed = Relayed {
                        route: route.map_or_else(|| "?".into(), |route| Arc::clone(&route.name)),
                        backends: passthrough
                            .split
                            .as_ref()
                            .map(|split| shares(table, split))
                            .unwrap_or_default(),
                    };
                    Connection { name, policy: None, passthrough: Some(relayed) }
                }
            }
        }
    })
}

/// Why requests for `host` are refused before any rule is looked at.
fn guard(bind: &Bind, host: &str) -> Option<String> {
    let policy = bind.tls.as_ref()?.policy(host)?;
    match &policy.client {
        ClientPolicy::Closed => {
            Some("503: what is asked of clients of this host cannot be checked; see the problems".to_owned())
        }
        ClientPolicy::Require(roots) if !bind.config.https => Some(format!(
            "refused: clients of this host need a certificate of {}, and there is none in cleartext",
            roots.name
        )),
        ClientPolicy::Require(_)
        | ClientPolicy::Optional(_)
        | ClientPolicy::OptionalNoCa
        | ClientPolicy::None => None,
    }
}

/// Where a request in cleartext is sent instead.
fn redirected(bind: &Bind, request: &Request<'_>, chosen: Option<&Chosen>) -> Option<String> {
    let chosen = chosen.filter(|_| !bind.config.https)?;
    let port = chosen.policy.https.redirect?;
    // RFC 8555 §8.3: whoever renews a certificate asks in cleartext.
    if request.path.starts_with("/.well-known/acme-challenge/") {
        return None;
    }
    Some(format!("308: {} sends cleartext requests to https, port {port}", chosen.route))
}

fn verdict(entry: Option<&Arc<HostRules>>, chosen: Option<&Chosen>) -> String {
    match (entry, chosen) {
        (None, _) => "404: no route has this host, and none is without host".to_owned(),
        (Some(_), None) => {
            "404: the host is known, but no path of it matches and there is no default backend".to_owned()
        }
        (_, Some(chosen)) => match &chosen.action {
            Action::Redirect(redirect) => format!("{}: redirected by {}", redirect.status, chosen.route),
            Action::Unavailable(why) => format!("503: {} takes it, but is closed ({why:?})", chosen.route),
            Action::Forward(_) if chosen.backends.iter().all(|share| share.endpoints() == 0) => {
                format!("503: {} takes it, but no backend has an endpoint", chosen.route)
            }
            Action::Forward(_) => format!("forwarded by {}", chosen.route),
        },
    }
}

impl Share {
    fn endpoints(&self) -> usize {
        self.backend.as_ref().map_or(0, |backend| backend.endpoints.len())
    }
}

pub(super) fn shares(table: &RouteTable, split: &Split) -> Vec<Share> {
    let backend = |id: &super::BackendId| table.backends.at(id.0).map(Arc::clone);
    match split {
        Split::One(id) => {
            vec![Share { weight: 1, backend: backend(id), unavailable: None, left_out: Vec::new() }]
        }
        Split::Weighted(shares) => {
            let share = |share: &super::WeightedBackend| Share {
                weight: share.weight,
                backend: share.backend.as_ref().ok().and_then(backend),
                unavailable: share.backend.err(),
                left_out: Vec::new(),
            };
            shares.iter().map(share).collect()
        }
    }
}

fn chosen(
    table: &RouteTable,
    entry: Option<&Arc<HostRules>>,
    rule: &Arc<Rule>,
    request: &Request<'_>,
) -> Chosen {
    let candidates = entry.map(|entry| entry.paths.candidates()).unwrap_or_default();
    // One rule may stand under several conditions: the first that holds is the one that was taken.
    let mut same = candidates.iter().filter(|candidate| Arc::ptr_eq(&candidate.rule, rule));
    let candidate = same.find(|candidate| oracle::matches(candidate, request.path, request));
    let backends = match &rule.action {
        Action::Forward(split) => shares(table, split),
        Action::Redirect(_) | Action::Unavailable(_) => Vec::new(),
    };
    let (object, route) = who(table, rule);
    Chosen {
        object,
        route,
        rule: rule.index,
        path: candidate.map(|candidate| path_text(&candidate.rule.path)),
        conditions: candidate.and_then(|candidate| candidate.matcher.clone()),
        policy: Arc::clone(&rule.policy),
        action: rule.action.clone(),
        backends,
    }
}

fn who(table: &RouteTable, rule: &Rule) -> (Option<ObjectRef>, Arc<str>) {
    match table.routes.at(rule.route.0) {
        Some(info) => (Some(info.object.clone()), Arc::clone(&info.name)),
        None => (None, "?".into()),
    }
}

/// Every candidate that names the host or the path, except the winner; nearest first.
fn losers(
    table: &RouteTable,
    report: &Report,
    bind: &Bind,
    entry: Option<&Arc<HostRules>>,
    winner: Option<&Arc<Rule>>,
    request: &Request<'_>,
) -> Vec<Other> {
    let mut ranked = Vec::new();
    for rules in bind.hosts.iter() {
        let is_entry = entry.is_some_and(|entry| Arc::ptr_eq(entry, rules));
        let covers = oracle::host_matches(rules, request.host);
        for candidate in rules.paths.candidates() {
            if is_entry && winner.is_some_and(|winner| Arc::ptr_eq(winner, &candidate.rule)) {
                continue;
            }
            let path_matches = candidate.rule.path.matches(request.path);
            // A root prefix of a foreign host matches every path and says nothing.
            let tells = path_matches && oracle::path_rank(&candidate.rule.path) != (1, 0);
            if !covers && !tells {
                continue;
            }
            let why = if is_entry {
                lost_path(candidate, winner, path_matches, request)
            } else if covers {
                let winner = entry.map(|entry| host_text(&entry.hostname)).unwrap_or_default();
                format!("host `{winner}` is more specific, and requests never fall through to other hosts")
            } else {
                "the host does not match".to_owned()
            };
            let rank = (!is_entry, !covers, !path_matches);
            let (host, path) = (host_text(&rules.hostname), path_text(&candidate.rule.path));
            ranked.push((rank, other(table, &candidate.rule, host, path, why)));
        }
        if let Some(fallback) = &rules.fallback
            && covers
            && !winner.is_some_and(|winner| Arc::ptr_eq(winner, fallback))
        {
            let why = "a default backend is only used when nothing else matches".to_owned();
            ranked.push((
                (!is_entry, !covers, true),
                other(table, fallback, host_text(&rules.hostname), String::new(), why),
            ));
        }
    }
    if let Some(entry) = entry {
        ranked.extend(conflicts(table, report, entry).map(|other| ((false, false, false), other)));
    }
    ranked.sort_by(|(a, left), (b, right)| {
        let name = |other: &Other| (Arc::clone(&other.route), other.rule);
        a.cmp(b).then_with(|| left.host.cmp(&right.host)).then_with(|| name(left).cmp(&name(right)))
    });
    ranked.into_iter().map(|(_, other)| other).collect()
}

fn other(table: &RouteTable, rule: &Rule, host: String, path: String, why: String) -> Other {
    let (object, route) = who(table, rule);
    Other { object, route, rule: Some(rule.index), host, path, why }
}

/// Why a candidate of the right host lost.
fn lost_path(
    candidate: &Candidate,
    winner: Option<&Arc<Rule>>,
    path_matches: bool,
    request: &Request<'_>,
) -> String {
    if !path_matches {
        return "the path does not match".to_owned();
    }
    if let Some(why) = candidate.matcher.as_ref().and_then(|matcher| unmet(matcher, request)) {
        return why;
    }
    let Some(winner) = winner else { return "it matches".to_owned() };
    let (own, other) = (oracle::path_rank(&candidate.rule.path), oracle::path_rank(&winner.path));
    match (own.0, other.0) {
        _ if own == other => "another rule with the same path has more conditions, or goes first".to_owned(),
        (_, 2) => "an exact path won".to_owned(),
        (0, 0) => format!("the longer prefix {} won", path_text(&winner.path)),
        _ => format!("{} comes before prefixes", path_text(&winner.path)),
    }
}

/// The first condition that does not hold.
fn unmet(matcher: &Matcher, request: &Request<'_>) -> Option<String> {
    if let Some(method) = &matcher.method
        && **method != *request.method
    {
        return Some(format!("the method is not {method}"));
    }
    for header in &matcher.headers {
        if !request.any_header(&header.name, &mut |value| header.value.matches(value)) {
            return Some(format!("header `{}` is absent or has another value", header.name));
        }
    }
    for query in &matcher.query {
        let alone = Matcher { query: vec![query.clone()], ..Matcher::default() };
        if !alone.matches(request) {
            return Some(format!("query parameter `{}` is absent or has another value", query.name));
        }
    }
    None
}

/// Rules for this host that an older object keeps out of the table.
fn conflicts<'t>(
    table: &'t RouteTable,
    report: &'t Report,
    entry: &'t HostRules,
) -> impl Iterator<Item = Other> + use<'t> {
    let host = host_text(&entry.hostname);
    let needle = match &entry.hostname {
        Hostname::Any => "requests without a more specific host".to_owned(),
        _ => format!("host `{host}`"),
    };
    let concerns =
        move |problem: &&Problem| problem.reason == "Conflict" && problem.message.contains(&needle);
    report.problems.iter().filter(concerns).map(move |problem| {
        let info = table.routes.iter().find(|(_, info)| info.object == problem.object);
        Other {
            object: Some(problem.object.clone()),
            route: info.map_or_else(|| problem.object.to_string().into(), |(_, info)| Arc::clone(&info.name)),
            rule: None,
            host: host.clone(),
            path: problem.field.clone(),
            why: problem.message.clone(),
        }
    })
}

/// A hostname as users write it.
#[must_use]
pub fn host_text(hostname: &Hostname) -> String {
    match hostname {
        Hostname::Exact(host) => host.to_string(),
        Hostname::Wildcard(suffix) => format!("*{suffix}"),
        Hostname::Any => "*".to_owned(),
    }
}

/// A path condition as users write it.
#[must_use]
pub fn path_text(path: &PathMatch) -> String {
    match path {
        PathMatch::Exact(path) => format!("Exact {path}"),
        PathMatch::Prefix(prefix) if prefix.is_empty() => "Prefix /".to_owned(),
        PathMatch::Prefix(prefix) => format!("Prefix {prefix}"),
        PathMatch::Regex(regex) => format!("Regex {}", regex.as_str()),
    }
}
