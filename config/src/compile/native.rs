//! Native objects → binds, routes and backends, through the same constructors as Ingress.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::backend::{BackendKey, Resolved};
use super::policy::Speech;
use super::route::{Entry, Goal, Order, Outcome, Route, Share, What, rule};
use super::tls::{Claim, lack_message};
use super::vault::{Origin, Vault};
use super::{NATIVE, Workshop};
use crate::index::Index;
use crate::report::{Kind, ObjectRef, Problem};
use crate::resource::native::{BackendSpec, BalanceSpec, EndpointHost, HealthSpec, set, set_time};
use crate::resource::native_route::NativeGoal;
use crate::resource::native_tls::{ClientFiles, ListenerTls, NativeSpeech};
use crate::resource::tls::TlsSettings;
use crate::resource::{Finding, NativeBackend, NativeListener, NativeRoute, Object, ObjectSpec};
use crate::table::{
    Action, ActiveProbe, BackendPolicy, BackendTls, Balance, BindConfig, Candidate, Endpoint, HashKey,
    HealthPolicy, Hostname, PassivePolicy, Passthrough, ProbeKind, RouteId, RulePolicy, Unavailable,
};

/// The listeners of the index, by address and by name.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    pub(super) configs: BTreeMap<SocketAddr, BindConfig>,
    /// listener name → address
    pub(super) by_name: BTreeMap<Arc<str>, SocketAddr>,
    /// address → TLS of the listener in force there
    pub(super) tls: BTreeMap<SocketAddr, ListenerTlsOf>,
    /// Names of listeners that do not speak HTTP.
    pub(super) relaying: BTreeSet<Arc<str>>,
    pub(super) problems: Vec<(ObjectRef, Problem)>,
}

/// TLS of one listener.
#[derive(Debug)]
pub(super) struct ListenerTlsOf {
    pub(super) object: ObjectRef,
    pub(super) tls: Arc<ListenerTls>,
}

/// Whether some route names one of the binds of Ingresses and not the other, so that they cannot share their
/// hosts.
pub(super) fn splits(index: &Index) -> bool {
    let of_ingress = |name: &Arc<str>| matches!(&**name, "http" | "https");
    index.objects().any(|object| match &object.spec {
        ObjectSpec::Route(route) => route.listeners.iter().flatten().any(of_ingress),
        _ => false,
    })
}

impl Listeners {
    /// Reads every listener; of two that disagree about one address, the first by name wins. What guards access is
    /// not lost to a name: if they ask different things of clients, the address is closed.
    pub(super) fn new(index: &Index) -> Self {
        let mut objects: Vec<&Object> =
            index.objects().filter(|o| o.reference.kind == Kind::Listener).collect();
        objects.sort_by(|a, b| a.reference.cmp(&b.reference));
        let mut listeners = Self::default();
        for object in objects {
            let ObjectSpec::Listener(listener) = &object.spec else { continue };
            if listener.forward.is_some() {
                listeners.relaying.insert(Arc::clone(&object.reference.name));
                continue;
            }
            let config = &listener.config;
            match listeners.configs.get_mut(&config.address) {
                None => {
                    listeners.configs.insert(config.address, config.clone());
                    if let Some(tls) = &listener.tls {
                        let (object, tls) = (object.reference.clone(), Arc::clone(tls));
                        listeners.tls.insert(config.address, ListenerTlsOf { object, tls });
                    }
                }
                Some(first) => {
                    let same_tls = match (listeners.tls.get(&config.address), &listener.tls) {
                        (Some(first), Some(tls)) => first.tls.says_the_same(tls),
                        (None, None) => true,
                        _ => false,
                    };
                    let alike = same_tls
                        && BindConfig { listeners: first.listeners.clone(), ..config.clone() } == *first;
                    if !alike {
                        let winner = first.listeners.first().map(|listener| Arc::clone(&listener.name));
                        let is_closed = close_if_disputed(&mut listeners.tls, &object.reference, listener);
                        let message = format!(
                            "listener `{}` has the same address with other settings, which are the ones in force{}",
                            winner.unwrap_or_default(),
                            if is_closed {
                                "; what they ask of clients is not the same, so requests are answered 503"
                            } else {
                                ""
                            }
                        );
                        let finding = Finding::error("address", 0, "Conflict", message);
                        listeners.problems.push((object.reference.clone(), object.problem(finding)));
                    }
                    first.listeners.extend(config.listeners.iter().cloned());
                }
            }
            listeners.by_name.insert(Arc::clone(&object.reference.name), config.address);
        }
        listeners
    }
}

/// Closes the address of `listener` if it asks something else of clients than the one in force there.
fn close_if_disputed(
    all: &mut BTreeMap<SocketAddr, ListenerTlsOf>,
    object: &ObjectRef,
    listener: &NativeListener,
) -> bool {
    let address = listener.config.address;
    let asked = |tls: Option<&Arc<ListenerTls>>| {
        tls.map(|tls| &tls.client).filter(|client| **client != ClientFiles::None).cloned()
    };
    let first = all.get(&address).map(|of| &of.tls);
    if asked(first) == asked(listener.tls.as_ref()) {
        return false;
    }
    let Some(tls) = first.or(listener.tls.as_ref()) else { return false };
    let tls = Arc::new(ListenerTls { client: ClientFiles::Closed, ..ListenerTls::clone(tls) });
    match all.get_mut(&address) {
        Some(first) => first.tls = tls,
        // In cleartext there is nobody who could be verified either.
        None => {
            all.insert(address, ListenerTlsOf { object: object.clone(), tls });
        }
    }
    true
}

/// Compiles a native route.
pub(super) fn compile(
    shop: &mut Workshop<'_>,
    object: &Object,
    native: &NativeRoute,
    id: RouteId,
) -> Outcome {
    let mut problems = Vec::new();
    let mut tell = |at: &str, reason, message| {
        let field = format!("{}.{at}", native.field);
        let finding = Finding::error(field, 0, reason, message);
        problems.push(object.problem(finding));
    };
    let binds = binds(shop, &object.reference, native, &mut tell);
    let mut held = BTreeSet::new();
    let mut services = BTreeSet::new();
    let mut materials = BTreeSet::new();
    let mut shares: Vec<Share> = Vec::new();
    if let NativeGoal::Forward(names) = &native.goal {
        for (name, weight) in names {
            let key = (Arc::clone(&shop.native_namespace), shop.intern(name));
            let spoken = shop
                .index
                .native_backend(name)
                .map(|(_, backend)| speech(shop.index, shop.vault, backend, &mut materials));
            shares.push(match spoken {
                Some(Ok(_)) => {
                    (Ok(shop.acquire(BackendKey::Native { name: Arc::clone(&key.1) }, &mut held)), *weight)
                }
                Some(Err((reason, message))) => {
                    tell("backend", reason, format!("{message}, so requests to `{name}` are answered 503"));
                    (Err(Unavailable::InvalidSetting), *weight)
                }
                None => {
                    let message = format!("there is no backend `{name}`, so its requests are answered 503");
                    tell("backend", "BackendNotFound", message);
                    (Err(Unavailable::BackendNotFound), *weight)
                }
            });
            services.insert(key);
        }
    }
    let policy = shop.rule_policies.intern(rule_policy(native, &shop.settings.rule));
    let mut rules = Vec::with_capacity(native.matches.len());
    for (index, one) in (0..).zip(&native.matches) {
        let goal = match &native.goal {
            NativeGoal::Redirect(redirect) => Goal::Redirect(Arc::clone(redirect)),
            NativeGoal::Forward(_) => Goal::Forward(shares.clone()),
        };
        let rule = rule(id, index, one.path.clone(), Arc::clone(&policy), goal);
        rules.push(Candidate { matcher: one.matcher.clone(), rule });
    }
    let mut hosts = native.hosts.clone();
    hosts.sort_unstable();
    let entry = |host: &_, candidate: &Candidate| Entry {
        host: Clone::clone(host),
        what: What::Rule(candidate.clone()),
    };
    let claims = passthrough(native, id, &rules, &hosts);
    let entries = hosts.iter().flat_map(|host| rules.iter().map(move |candidate| entry(host, candidate)));
    let route = Route {
        order: Order { created: None, rank: native.position, object: object.reference.clone() },
        binds,
        l4: Box::new([]),
        entries: entries.collect(),
        backends: held.into_iter().collect(),
        services: services.into_iter().collect(),
        claims,
        tls: Box::new([]),
        roots: Box::new([]),
        materials: materials.into_iter().collect(),
        passthrough_field: format!("{}.tlsPassthrough", native.field).into(),
    };
    Outcome { route: Some(route), problems }
}

/// What is wanted of encrypted connections to `hosts`.
fn passthrough(native: &NativeRoute, id: RouteId, rules: &[Candidate], hosts: &[Hostname]) -> Box<[Claim]> {
    let Some(first) = rules.first().filter(|_| native.passthrough) else { return Box::new([]) };
    let split = match &first.rule.action {
        Action::Forward(split) => Ok(split.clone()),
        Action::Unavailable(why) => Err(*why),
        Action::Redirect(_) => Err(Unavailable::InvalidSetting),
    };
    let passthrough = Arc::new(Passthrough { route: id, split });
    let settings = Arc::new(TlsSettings::default());
    let claim = |host: &Hostname| Claim {
        host: host.clone(),
        named: None,
        settings: Arc::clone(&settings),
        passthrough: Some(Arc::clone(&passthrough)),
        is_loose: false,
    };
    hosts.iter().map(claim).collect()
}

/// How a native backend is spoken to, which needs what is noted in `materials`; or reason and message.
pub(super) fn speech(
    index: &Index,
    vault: &mut Vault,
    backend: &NativeBackend,
    materials: &mut BTreeSet<Origin>,
) -> Result<Speech, (&'static str, String)> {
    let NativeSpeech { protocol, tls } = &backend.speech;
    let Some(files) = tls else { return Ok(Speech { protocol: *protocol, tls: None }) };
    let mut note = |origin: &Origin, vault: &mut Vault| {
        materials.insert(origin.clone());
        vault.ensure(index, origin);
    };
    let roots = match &files.ca {
        None => None,
        Some(file) => {
            let origin = Origin::RootsFile(Arc::clone(file));
            note(&origin, vault);
            Some(Arc::clone(vault.roots(&origin).map_err(|lack| lack_message(&origin, lack))?))
        }
    };
    let certificate = match &files.pair {
        None => None,
        Some((cert, key)) => {
            let origin = Origin::Pair(Arc::clone(cert), Arc::clone(key));
            note(&origin, vault);
            Some(Arc::clone(vault.certificate(&origin).map_err(|lack| lack_message(&origin, lack))?))
        }
    };
    let (insecure, server_name) = (files.insecure, files.server_name.clone());
    let tls = BackendTls { insecure, roots, server_name, certificate };
    Ok(Speech { protocol: *protocol, tls: Some(Arc::new(tls)) })
}

/// The binds that a route is served on.
fn binds(
    shop: &Workshop<'_>,
    reference: &ObjectRef,
    native: &NativeRoute,
    tell: &mut impl FnMut(&str, &'static str, String),
) -> Arc<[SocketAddr]> {
    let listeners = &shop.listeners.by_name;
    let obscure = shop.index.obscure_source(reference);
    let Some(wanted) = &native.listeners else {
        let all: BTreeSet<SocketAddr> = listeners.values().copied().collect();
        if !all.is_empty() {
            return all.into_iter().collect();
        }
        if native.has_listeners {
            // What they would have asked of clients, other addresses do not ask.
            let message = "none of the listeners of its file can be used, so this route is not served";
            tell("listeners", "NoListener", message.to_owned());
            return Arc::new([]);
        }
        if let Some(source) = obscure {
            tell("listeners", "ListenersUnknown", obscure_message(source));
            return Arc::new([]);
        }
        if shop.ingress_binds.is_empty() {
            tell("listeners", "NoListener", "there is no listener, so this route is not served".to_owned());
        }
        return Arc::clone(&shop.ingress_binds);
    };
    let mut found = BTreeSet::new();
    for name in wanted {
        match listeners.get(name) {
            Some(address) => {
                found.insert(*address);
            }
            None if matches!(&**name, "http" | "https") && obscure.is_some() => {
                let source = obscure.map(|source| &**source).unwrap_or_default();
                tell("listeners", "ListenersUnknown", obscure_message(source));
            }
            // The binds of Ingresses go by these names.
            None if **name == *"http" && shop.settings.http.is_some() => found.extend(shop.settings.http),
            None if **name == *"https" && shop.settings.https.is_some() => found.extend(shop.settings.https),
            None if shop.listeners.relaying.contains(name) => {
                let message =
                    format!("listener `{name}` takes no routes: it forwards to its own `forward.backend`");
                tell("listeners", "InvalidListener", message);
            }
            None => tell("listeners", "ListenerNotFound", format!("there is no listener `{name}`")),
        }
    }
    found.into_iter().collect()
}

/// What a route is told that would else be served on the addresses of Ingresses.
fn obscure_message(source: &str) -> String {
    format!(
        "{source} has a listener that is wrong, or may have one that cannot be read, and what it would ask of clients is \
         not known, so this route is not served"
    )
}

fn rule_policy(native: &NativeRoute, default: &RulePolicy) -> RulePolicy {
    let mut policy = default.clone();
    policy.https.clone_from(&native.https);
    policy.filters.clone_from(&native.filters);
    set_time(&mut policy.timeouts.response_head, native.timeouts.response);
    set_time(&mut policy.timeouts.idle, native.timeouts.idle);
    set_time(&mut policy.timeouts.total, native.timeouts.total);
    policy.timeouts.set.response_head |= native.timeouts.response.is_some();
    policy.timeouts.set.idle |= native.timeouts.idle.is_some();
    set(&mut policy.retry.attempts, native.retry.attempts);
    set(&mut policy.retry.on_timeout, native.retry.on_timeout);
    set(&mut policy.retry.on_empty_response, native.retry.on_empty_response);
    if !native.retry.codes.is_empty() {
        policy.retry.codes.clone_from(&native.retry.codes);
        policy.retry.codes.sort_unstable();
        policy.retry.codes.dedup();
    }
    policy
}

/// The endpoints of a native backend, with the names among them resolved as far as they are known.
pub(super) fn endpoints(index: &Index, name: &str) -> Resolved {
    let Some((object, backend)) = index.native_backend(name) else { return Resolved::default() };
    let mut weights: BTreeMap<SocketAddr, (u16, Option<Arc<str>>)> = BTreeMap::new();
    let mut add = |address: IpAddr, port: u16, weight: u16, from: Option<&Arc<str>>| {
        let slot = weights.entry(SocketAddr::new(address, port)).or_insert_with(|| (0, from.cloned()));
        slot.0 = slot.0.saturating_add(weight);
    };
    let mut names = Vec::new();
    let mut failed = Vec::new();
    let mut pending = false;
    for endpoint in &backend.spec.endpoints {
        match &endpoint.host {
            EndpointHost::Address(address) => add(*address, endpoint.port, endpoint.weight, None),
            EndpointHost::Name(dns) => {
                names.push(Arc::clone(dns));
                match index.addresses(dns) {
                    None => pending = true,
                    Some(addresses) if addresses.is_empty() => failed.push(&**dns),
                    Some(addresses) => {
                        addresses
                            .iter()
                            .for_each(|address| add(*address, endpoint.port, endpoint.weight, Some(dns)));
                    }
                }
            }
        }
    }
    let message = if !failed.is_empty() {
        Some(("Unresolved", format!("does not resolve: {}", failed.join(", "))))
    } else if weights.is_empty() && !pending {
        Some(("NoEndpoints", "there is no endpoint, so requests are answered 503".to_owned()))
    } else {
        None
    };
    let problem = |(reason, message)| object.problem(Finding::warning("endpoints", 0, reason, message));
    let problems = message.map(problem).into_iter().collect();
    let endpoint = |(address, (weight, dns_name))| Endpoint { address, weight, identity: None, dns_name };
    Resolved { endpoints: weights.into_iter().map(endpoint).collect(), problems, names }
}

/// How a native backend is treated.
pub(super) fn backend_policy(spec: &BackendSpec, default: &BackendPolicy, speech: Speech) -> BackendPolicy {
    let mut policy = BackendPolicy { protocol: speech.protocol, tls: speech.tls, ..default.clone() };
    let hash_by = spec.hash_by.as_ref().map(|by| by.0.clone());
    match (spec.balance, hash_by) {
        (Some(BalanceSpec::RoundRobin), _) => policy.balance = Balance::RoundRobin,
        (Some(BalanceSpec::LeastConnection), _) => policy.balance = Balance::LeastConnection,
        (Some(BalanceSpec::ConsistentHash), key) => {
            policy.balance = Balance::ConsistentHash(key.unwrap_or(HashKey::SourceIp));
        }
        (None, Some(key)) => policy.balance = Balance::ConsistentHash(key),
        (None, None) => {}
    }
    set_time(&mut policy.connect_timeout, spec.connect_timeout);
    set_time(&mut policy.keepalive_timeout, spec.keepalive_timeout);
    set(&mut policy.keepalive_connections, spec.keepalive_connections);
    set(&mut policy.max_requests_per_endpoint, spec.max_requests_per_endpoint);
    set(&mut policy.queue_size, spec.queue_size);
    set_time(&mut policy.queue_timeout, spec.queue_timeout);
    set_time(&mut policy.slow_start, spec.slow_start);
    set(&mut policy.panic_threshold, spec.panic_threshold);
    let health = health(&spec.health, &policy.health);
    if health != *policy.health {
        policy.health = Arc::new(health);
    }
    policy
}

fn health(spec: &HealthSpec, default: &HealthPolicy) -> HealthPolicy {
    let mut health = default.clone();
    if let Some(active) = &spec.active {
        let expected = active.expected.iter().map(|range| (range.0, range.1));
        let kind = match (&active.path, &active.grpc) {
            (None, None) => ProbeKind::Tcp,
            (None, Some(service)) => ProbeKind::Grpc { service: Arc::clone(service), port: active.port },
            (Some(path), _) => ProbeKind::Http {
                path: Arc::clone(path),
                host: active.host.clone(),
                expected: if active.expected.is_empty() {
                    Arc::new([(200, 399)])
                } else {
                    expected.collect()
                },
                port: active.port,
            },
        };
        let mut probe = ActiveProbe {
            kind,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(1),
            healthy_threshold: 2,
            unhealthy_threshold: 3,
        };
        set_time(&mut probe.interval, active.interval);
        set_time(&mut probe.timeout, active.timeout);
        set(&mut probe.healthy_threshold, active.healthy_threshold);
        set(&mut probe.unhealthy_threshold, active.unhealthy_threshold);
        health.active = Some(probe);
    }
    let passive = &spec.passive;
    if passive.enabled == Some(false) {
        health.passive = None;
        return health;
    }
    let policy = health.passive.get_or_insert_with(PassivePolicy::default);
    set(&mut policy.consecutive_failures, passive.consecutive_failures);
    set(&mut policy.error_rate, passive.error_rate);
    set(&mut policy.minimum_requests, passive.minimum_requests);
    set_time(&mut policy.window, passive.window);
    set_time(&mut policy.base_ejection, passive.base_ejection);
    set_time(&mut policy.max_ejection, passive.max_ejection);
    set(&mut policy.max_ejected, passive.max_ejected);
    health
}

/// The key under which a native backend's dependents are filed: no namespace is empty otherwise.
pub(super) fn key(name: &Arc<str>) -> (Arc<str>, Arc<str>) {
    (Arc::from(NATIVE), Arc::clone(name))
}
