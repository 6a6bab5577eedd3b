//! `/debug/table`: the route table as it is served, bounded in size, without secrets.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use config::table::{
    Action, BackendId, Bind, Candidate, HostRules, Hostname, L4Bind, L4Key, RouteId, Rule, RulePolicy, Split,
    TlsHost, TlsMap, Transport,
};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::query::TableQuery;
use super::{AdminState, Phase};
use crate::live::{Live, LiveBackend};

/// Endpoints shown of one backend, and of all per rule asked for.
const MAX_ENDPOINTS: usize = 256;
const ENDPOINTS_PER_RULE: usize = 10;

/// Shown in place of a value that may be a credential.
const HIDDEN: &str = "(hidden)";

/// The page's text.
pub(super) fn render(state: &AdminState, query: &TableQuery) -> String {
    let live = state.shared.load();
    let unopened = state.shared.occupied().unopened();
    let mut view = View {
        live: &live,
        unopened: &unopened,
        left: query.limit,
        truncated: false,
        backends: BTreeSet::new(),
    };
    let binds: Vec<_> =
        live.table.binds.iter().scan(Vec::new(), |seen, bind| Some(view.bind(bind, query, seen))).collect();
    let l4 = view.l4(query);
    let backends = view.backends(query.limit);
    let report = state.report.latest();
    let problems = report.as_ref().map(|report| report.problems.as_slice()).unwrap_or_default();
    let shown = problems.get(..query.limit).unwrap_or(problems);
    let page = json!({
        "version": live.table.version,
        "phase": match state.readiness.phase() {
            Phase::Starting => "starting",
            Phase::Ready => "ready",
            Phase::Draining => "draining",
        },
        "truncated": view.truncated || shown.len() < problems.len(),
        "unopened_total": unopened.len(),
        "binds": binds,
        "l4_total": live.table.l4.iter().count(),
        "l4": l4,
        "backends": backends,
        "problems_total": problems.len(),
        "problems": to_json(&shown),
    });
    let mut text = format!("{page:#}");
    text.push('\n');
    text
}

/// What is being shown, with what may still be added.
struct View<'a> {
    live: &'a Live,
    /// Sockets that could not be opened, and why.
    unopened: &'a BTreeMap<L4Key, String>,
    /// Rules that may still be shown.
    left: usize,
    truncated: bool,
    /// Backends that a shown rule forwards to.
    backends: BTreeSet<u32>,
}

impl<'a> View<'a> {
    /// `seen`: the binds before this one, since binds that serve the same routes share one map.
    fn bind(&mut self, bind: &'a Arc<Bind>, query: &TableQuery, seen: &mut Vec<&'a Arc<Bind>>) -> Value {
        let mut value = to_json(&*bind.config);
        let Value::Object(object) = &mut value else { return value };
        let key = L4Key { address: bind.config.address, transport: Transport::Tcp };
        object.insert("cannot_listen".to_owned(), json!(self.unopened.get(&key)));
        let twin = seen.iter().find(|earlier| Arc::ptr_eq(&earlier.hosts, &bind.hosts));
        object.insert("hosts_total".to_owned(), json!(bind.hosts.iter().count()));
        match twin {
            Some(twin) => object.insert("hosts_as_in".to_owned(), json!(twin.config.address)),
            None => object.insert("hosts".to_owned(), self.hosts(bind, query).into()),
        };
        if let Some(tls) = &bind.tls {
            object.insert("tls".to_owned(), self.tls(tls, query));
        }
        seen.push(bind);
        value
    }

    /// Binds that relay, which have no hosts to ask for.
    fn l4(&mut self, query: &TableQuery) -> Vec<Value> {
        if query.host.is_some() {
            return Vec::new();
        }
        let mut binds: Vec<&'a Arc<L4Bind>> = self.live.table.l4.iter().map(|(_, bind)| bind).collect();
        binds.sort_unstable_by_key(|bind| bind.key);
        self.truncated |= binds.len() > query.limit;
        binds.truncate(query.limit);
        binds.into_iter().map(|bind| self.l4_bind(bind)).collect()
    }

    fn l4_bind(&mut self, bind: &L4Bind) -> Value {
        let route = self.live.routes.at(bind.route.0);
        json!({
            "address": bind.key.address,
            "transport": bind.key.transport,
            "listener": bind.listener,
            "free_bind": bind.free_bind,
            "cannot_listen": self.unopened.get(&bind.key),
            "route": route.map(|route| &*route.info.name),
            "object": route.map(|route| route.info.object.to_string()),
            "action": match &bind.target {
                Ok(split) => self.action(&Action::Forward(split.clone())),
                Err(why) => self.action(&Action::Unavailable(*why)),
            },
            "policy": to_json(&*bind.policy),
        })
    }

    /// Names with their certificates and what is asked of clients. Types of the table never serialize a key.
    fn tls(&mut self, tls: &'a TlsMap, query: &TableQuery) -> Value {
        let mut hosts: Vec<(&Arc<str>, &TlsHost)> = match &query.host {
            Some(Hostname::Exact(host) | Hostname::Wildcard(host)) => {
                let suffix = host.find('.').and_then(|at| host.get(at..));
                tls.hosts().filter(|(name, _)| **name == *host || Some(&***name) == suffix).collect()
            }
            Some(Hostname::Any) => Vec::new(),
            None => tls.hosts().collect(),
        };
        let total = hosts.len();
        hosts.sort_unstable_by_key(|(name, _)| Arc::clone(name));
        hosts.truncate(query.limit);
        self.truncated |= hosts.len() < total;
        let hosts = hosts.into_iter().map(|(name, host)| {
            let name = if name.starts_with('.') { format!("*{name}") } else { name.to_string() };
            match host {
                TlsHost::Terminate(policy) => json!({ "name": name, "policy": to_json(&**policy) }),
                TlsHost::Passthrough(passthrough) => json!({
                    "name": name,
                    "passthrough": {
                        "route": self.live.routes.at(passthrough.route.0).map(|route| &*route.info.name),
                        "to": match &passthrough.split {
                            Ok(split) => self.action(&Action::Forward(split.clone())),
                            Err(unavailable) => to_json(unavailable),
                        },
                    },
                }),
            }
        });
        let hosts: Vec<_> = hosts.collect();
        json!({ "default": to_json(&**tls.default_policy()), "hosts_total": total, "hosts": hosts })
    }

    fn hosts(&mut self, bind: &Bind, query: &TableQuery) -> Vec<Value> {
        let mut hosts: Vec<&Arc<HostRules>> = match &query.host {
            Some(Hostname::Exact(host)) => bind.hosts.find(host).into_iter().collect(),
            Some(host) => bind.hosts.exactly(host).into_iter().collect(),
            None => bind.hosts.iter().collect(),
        };
        // Every host shown takes up at least one rule, so no more than the first `left` are needed.
        if hosts.len() > self.left {
            self.truncated = true;
            if self.left > 0 {
                hosts.select_nth_unstable_by(self.left - 1, |a, b| a.hostname.cmp(&b.hostname));
            }
            hosts.truncate(self.left);
        }
        hosts.sort_by(|a, b| a.hostname.cmp(&b.hostname));
        hosts.into_iter().map(|host| self.host(host)).collect()
    }

    fn host(&mut self, host: &HostRules) -> Value {
        let candidates = host.paths.candidates();
        let total = candidates.len() + usize::from(host.fallback.is_some());
        let shown = candidates.len().min(self.left);
        let rules: Vec<_> =
            candidates.into_iter().take(shown).map(|candidate| self.candidate(candidate)).collect();
        self.left -= shown;
        let fallback = host.fallback.as_deref().filter(|_| self.left > 0).map(|rule| {
            self.left -= 1;
            self.rule(rule)
        });
        self.truncated |= shown + usize::from(fallback.is_some()) < total;
        json!({
            "host": match &host.hostname {
                Hostname::Exact(name) => name.to_string(),
                Hostname::Wildcard(suffix) => format!("*{suffix}"),
                Hostname::Any => "*".to_owned(),
            },
            "rules_total": total,
            "rules": rules,
            "fallback": fallback,
        })
    }

    fn candidate(&mut self, candidate: &Candidate) -> Value {
        let mut value = self.rule(&candidate.rule);
        if let (Some(matcher), Value::Object(object)) = (&candidate.matcher, &mut value) {
            let mut matcher = to_json(&**matcher);
            hide_matched_credentials(&mut matcher);
            object.insert("match".to_owned(), matcher);
        }
        value
    }

    fn rule(&mut self, rule: &Rule) -> Value {
        let route = self.live.routes.at(rule.route.0);
        json!({
            "route": route.map(|route| &*route.info.name),
            "object": route.map(|route| route.info.object.to_string()),
            "route_id": RouteId(rule.route.0),
            "index": rule.index,
            "path": to_json(&rule.path),
            "action": self.action(&rule.action),
            "policy": policy(&rule.policy),
        })
    }

    fn action(&mut self, action: &Action) -> Value {
        match action {
            Action::Forward(Split::One(id)) => json!({ "forward": [{ "backend": self.backend_name(*id) }] }),
            Action::Forward(Split::Weighted(shares)) => {
                let share = |share: &config::table::WeightedBackend| match &share.backend {
                    Ok(id) => json!({ "backend": self.backend_name(*id), "weight": share.weight }),
                    Err(unavailable) => json!({ "unavailable": unavailable, "weight": share.weight }),
                };
                json!({ "forward": shares.iter().map(share).collect::<Vec<_>>() })
            }
            Action::Redirect(_) | Action::Unavailable(_) => to_json(action),
        }
    }

    fn backend_name(&mut self, id: BackendId) -> Option<&'a str> {
        self.backends.insert(id.0);
        self.live.backends.at(id.0).map(|backend| &*backend.config.name)
    }

    fn backends(&mut self, limit: usize) -> Vec<Value> {
        let mut endpoints_left = limit.saturating_mul(ENDPOINTS_PER_RULE).max(MAX_ENDPOINTS);
        let mut shown = Vec::new();
        for id in &self.backends {
            let Some(backend) = self.live.backends.at(*id) else { continue };
            let count = backend.endpoints.len().min(MAX_ENDPOINTS).min(endpoints_left);
            endpoints_left -= count;
            self.truncated |= count < backend.endpoints.len();
            shown.push(backend_json(backend, count));
        }
        shown
    }
}

fn backend_json(backend: &LiveBackend, count: usize) -> Value {
    let configured = backend.config.endpoints.iter();
    let endpoints = backend.endpoints.iter().zip(configured).take(count).map(|(endpoint, configured)| {
        let mut value = to_json(&endpoint.status());
        if let Value::Object(object) = &mut value {
            object.insert("weight".to_owned(), json!(configured.weight));
            object.insert("dns_name".to_owned(), json!(configured.dns_name));
        }
        value
    });
    json!({
        "name": backend.config.name,
        "policy": to_json(&*backend.config.policy),
        "endpoints_total": backend.endpoints.len(),
        "endpoints": endpoints.collect::<Vec<_>>(),
    })
}

/// The policy, with the values of header changes that may carry a credential hidden.
fn policy(policy: &RulePolicy) -> Value {
    let mut value = to_json(policy);
    for direction in ["request_headers", "response_headers"] {
        for change in ["set", "add"] {
            let pairs =
                value.pointer_mut(&format!("/filters/{direction}/{change}")).and_then(Value::as_array_mut);
            for pair in pairs.into_iter().flatten().filter_map(Value::as_array_mut) {
                if let [Value::String(name), value] = pair.as_mut_slice()
                    && may_hold_credential(name)
                {
                    *value = HIDDEN.into();
                }
            }
        }
    }
    value
}

fn hide_matched_credentials(matcher: &mut Value) {
    for kind in ["headers", "query"] {
        let conditions = matcher.get_mut(kind).and_then(Value::as_array_mut);
        for condition in conditions.into_iter().flatten().filter_map(Value::as_object_mut) {
            if condition.get("name").and_then(Value::as_str).is_some_and(may_hold_credential) {
                condition.insert("value".to_owned(), HIDDEN.into());
            }
        }
    }
}

/// Whether a field or parameter of this name usually holds something that must not be shown.
fn may_hold_credential(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["auth", "cookie", "token", "secret", "password", "api-key", "apikey", "api_key"]
        .iter()
        .any(|telling| name.contains(telling))
}

/// Durations become seconds: people read this.
fn to_json(value: &impl Serialize) -> Value {
    let mut value = serde_json::to_value(value).unwrap_or_else(|error| json!({ "error": error.to_string() }));
    shorten_durations(&mut value);
    value
}

fn shorten_durations(value: &mut Value) {
    match value {
        Value::Object(object) => {
            if let Some(seconds) = as_seconds(object) {
                *value = seconds;
            } else {
                object.values_mut().for_each(shorten_durations);
            }
        }
        Value::Array(values) => values.iter_mut().for_each(shorten_durations),
        _ => {}
    }
}

/// serde writes a duration as `{"secs": 1, "nanos": 0}`.
fn as_seconds(object: &Map<String, Value>) -> Option<Value> {
    let (secs, nanos) = (object.get("secs")?.as_u64()?, object.get("nanos")?.as_u64()?);
    let seconds = std::time::Duration::new(secs, u32::try_from(nanos).ok()?).as_secs_f64();
    (object.len() == 2)
        .then(|| if nanos == 0 { json!(format!("{secs}s")) } else { json!(format!("{seconds}s")) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_hold_credentials_are_known() {
        for name in
            ["Authorization", "proxy-authorization", "cookie", "x-api-key", "X-Auth-Request", "access_token"]
        {
            assert!(may_hold_credential(name), "{name}");
        }
        for name in ["x-forwarded-for", "accept", "page"] {
            assert!(!may_hold_credential(name), "{name}");
        }
    }

    #[test]
    fn durations_are_seconds() {
        let value =
            to_json(&json!({ "a": { "secs": 60, "nanos": 0 }, "b": [{ "secs": 0, "nanos": 250_000_000 }] }));
        assert_eq!(value, json!({ "a": "60s", "b": ["0.25s"] }));
    }
}
