//! What the tests share: text → index → table, a canonical rendering, a plain request.
#![allow(dead_code, clippy::unwrap_used, reason = "each test uses its part; a failure is a failed test")]

pub(crate) mod cert;

use std::fmt::Write as _;
use std::sync::Arc;

use config::compile::{Compiler, Settings};
use config::index::{Change, Event, Index};
use config::report::Report;
use config::table::explain::{Request, host_text, path_text};
use config::table::{
    Action, BackendPolicy, Bind, BindConfig, ClientPolicy, L4Policy, Limits, RouteTable, Rule, RulePolicy,
    Split, TlsHost, TlsPolicy, TlsVersion, TrustedProxies,
};

/// The time at which tests compile, seconds since 1970.
pub(crate) const NOW: i64 = 1_800_000_000;

/// A GET for `host` and `path`.
pub(crate) fn get<'a>(host: &'a str, path: &'a str) -> Request<'a> {
    Request { bind: None, https: false, method: "GET", host, path, query: None, headers: &[] }
}

/// Applies one file to an index, as the file source does.
pub(crate) fn apply(index: &mut Index, file: &str, text: &str) -> Change {
    let decoded = config::resource::decode(&file.into(), text.as_bytes());
    let mut change = Change::default();
    for object in decoded.objects {
        change.merge(index.apply(Event::Apply(object)));
    }
    change.merge(index.apply(Event::Problems { source: file.into(), problems: decoded.problems }));
    change
}

pub(crate) fn compile_with(settings: Settings, text: &str) -> (Arc<RouteTable>, Arc<Report>) {
    let mut index = Index::new();
    let change = apply(&mut index, "test.yaml", text);
    Compiler::new(settings).compile(&index, &change, NOW)
}

pub(crate) fn compile(text: &str) -> (Arc<RouteTable>, Arc<Report>) {
    compile_with(Settings::default(), text)
}

/// Backend's name, or what else happens, or `404`.
pub(crate) fn route(table: &RouteTable, request: &Request<'_>) -> String {
    let Some(bind) = table.binds.first() else { return "no bind".to_owned() };
    match bind.hosts.route(request.host, request.path, request) {
        Some(rule) => action(table, rule),
        None => "404".to_owned(),
    }
}

pub(crate) fn problems(report: &Report) -> Vec<String> {
    report.problems.iter().map(|problem| format!("{:?} {problem}", problem.severity)).collect()
}

fn backend_name(table: &RouteTable, id: config::table::BackendId) -> String {
    table.backends.at(id.0).map_or_else(|| "DANGLING".to_owned(), |backend| backend.name.to_string())
}

pub(crate) fn action(table: &RouteTable, rule: &Rule) -> String {
    action_text(table, &rule.action)
}

fn action_text(table: &RouteTable, action: &Action) -> String {
    match action {
        Action::Forward(Split::One(id)) => backend_name(table, *id),
        Action::Forward(Split::Weighted(shares)) => {
            let share = |share: &config::table::WeightedBackend| match share.backend {
                Ok(id) => format!("{} x{}", backend_name(table, id), share.weight),
                Err(why) => format!("{why:?} x{}", share.weight),
            };
            shares.iter().map(share).collect::<Vec<_>>().join(" | ")
        }
        Action::Redirect(redirect) => format!("redirect {}", serde_json::to_string(redirect).unwrap()),
        Action::Unavailable(why) => format!("unavailable {why:?}"),
    }
}

/// Everything that a table says, without ids and versions, in one order.
pub(crate) fn render(table: &RouteTable, report: &Report) -> String {
    let mut out = String::new();
    for bind in &table.binds {
        render_bind(&mut out, table, bind);
    }
    let mut l4: Vec<_> = table.l4.iter().map(|(_, bind)| bind).collect();
    l4.sort_by_key(|bind| bind.key);
    for bind in l4 {
        let target = bind.target.clone().map_or_else(Action::Unavailable, Action::Forward);
        let route = table.routes.at(bind.route.0).map_or("DANGLING", |info| &info.name);
        let free = if bind.free_bind { ", free" } else { "" };
        let target = action_text(table, &target);
        writeln!(out, "bind {} ({}{free}) -> {target} [{route}]", bind.key, bind.listener).unwrap();
        difference(&mut out, "  ", &*bind.policy, &L4Policy::default());
    }
    let mut backends: Vec<_> = table.backends.iter().map(|(_, backend)| backend).collect();
    backends.sort_by(|a, b| a.name.cmp(&b.name));
    for backend in backends {
        writeln!(out, "backend {}", backend.name).unwrap();
        for endpoint in backend.endpoints.iter() {
            write!(out, "  {}", endpoint.address).unwrap();
            if endpoint.weight != 1 {
                write!(out, " weight {}", endpoint.weight).unwrap();
            }
            if let Some(identity) = &endpoint.identity {
                write!(out, " identity {identity}").unwrap();
            }
            if let Some(name) = &endpoint.dns_name {
                write!(out, " from {name}").unwrap();
            }
            out.push('\n');
        }
        difference(&mut out, "  ", &*backend.policy, &BackendPolicy::default());
    }
    let mut routes: Vec<_> = table.routes.iter().map(|(_, info)| info.name.to_string()).collect();
    routes.sort();
    writeln!(out, "routes {}", routes.join(", ")).unwrap();
    for problem in problems(report) {
        writeln!(out, "{problem}").unwrap();
    }
    out
}

fn render_bind(out: &mut String, table: &RouteTable, bind: &Bind) {
    let names: Vec<_> = bind.config.listeners.iter().map(|listener| &*listener.name).collect();
    writeln!(out, "bind {} ({})", bind.config.address, names.join(", ")).unwrap();
    let plain = BindConfig {
        address: bind.config.address,
        listeners: bind.config.listeners.clone(),
        https: false,
        proxy_protocol: false,
        trusted_proxies: TrustedProxies::default(),
        limits: Limits::default(),
        abort_on_half_close: false,
        free_bind: false,
    };
    difference(out, "  ", &*bind.config, &plain);
    if let Some(tls) = &bind.tls {
        writeln!(out, "  tls * -> {}", tls_policy(tls.default_policy())).unwrap();
        let mut hosts: Vec<_> = tls.hosts().collect();
        hosts.sort_by_key(|(host, _)| Arc::clone(host));
        for (host, what) in hosts {
            writeln!(out, "  tls {host} -> {}", tls_host(table, what)).unwrap();
        }
    }
    let mut hosts: Vec<_> = bind.hosts.iter().collect();
    hosts.sort_by(|a, b| a.hostname.cmp(&b.hostname));
    for rules in hosts {
        writeln!(out, "  host {}", host_text(&rules.hostname)).unwrap();
        for candidate in rules.paths.candidates() {
            let path = path_text(&candidate.rule.path);
            render_rule(out, table, &path, &candidate.rule);
            if let Some(matcher) = &candidate.matcher {
                writeln!(out, "      if {}", serde_json::to_string(matcher).unwrap()).unwrap();
            }
        }
        if let Some(rule) = &rules.fallback {
            render_rule(out, table, "otherwise", rule);
        }
    }
}

/// What becomes of connections for one name.
pub(crate) fn tls_host(table: &RouteTable, host: &TlsHost) -> String {
    match host {
        TlsHost::Terminate(policy) => tls_policy(policy),
        TlsHost::Passthrough(passthrough) => match &passthrough.split {
            Ok(Split::One(id)) => format!("passthrough {}", backend_name(table, *id)),
            other => format!("passthrough {other:?}"),
        },
    }
}

/// Certificates by name, and what is not as usual.
pub(crate) fn tls_policy(policy: &TlsPolicy) -> String {
    let names: Vec<_> = policy.certificates.iter().map(|certificate| &*certificate.name).collect();
    let mut out = names.join(" + ");
    match &policy.client {
        ClientPolicy::None => {}
        ClientPolicy::Require(roots) => write!(out, ", clients of {}", roots.name).unwrap(),
        ClientPolicy::Optional(roots) => write!(out, ", clients of {} or none", roots.name).unwrap(),
        other => write!(out, ", clients {other:?}").unwrap(),
    }
    if policy.min_version != TlsVersion::default() {
        write!(out, ", from {:?}", policy.min_version).unwrap();
    }
    if !policy.cipher_suites.is_empty() {
        write!(out, ", {}", policy.cipher_suites.join(" ")).unwrap();
    }
    if !policy.http2 {
        out.push_str(", no h2");
    }
    out
}

fn render_rule(out: &mut String, table: &RouteTable, path: &str, rule: &Rule) {
    let route = table.routes.at(rule.route.0).map_or("DANGLING", |info| &info.name);
    writeln!(out, "    {path} -> {} [{route}#{}]", action(table, rule), rule.index).unwrap();
    difference(out, "      ", &*rule.policy, &RulePolicy::default());
}

/// The fields of `value` that are not as in `plain`.
fn difference(out: &mut String, indent: &str, value: &impl serde::Serialize, plain: &impl serde::Serialize) {
    let (value, plain) = (serde_json::to_value(value).unwrap(), serde_json::to_value(plain).unwrap());
    for (key, value) in value.as_object().unwrap() {
        if plain.get(key) != Some(value) {
            writeln!(out, "{indent}{key}: {value}").unwrap();
        }
    }
}
