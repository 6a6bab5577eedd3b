//! Ingress → route.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Workshop;
use super::backend::BackendKey;
use super::class::Classes;
use super::policy::{Speechless, speech};
use super::route::{Entry, Goal, Order, Outcome, Route, Share, What, rule};
use super::tls::{Claim, TlsEntry, roots_origin};
use super::vault::Origin;
use crate::index::ServiceKey;
use crate::report::Problem;
use crate::resource::annotations::Settings;
use crate::resource::ingress::{IngressBackend, IngressPath, IngressTls, PortRef};
use crate::resource::service::{Refused, Service};
use crate::resource::tls::{ClientSetting, TlsSettings};
use crate::resource::{Finding, Ingress, Object};
use crate::table::{
    Action, BackendId, Candidate, Hostname, Passthrough, PathMatch, RouteId, Transport, Unavailable,
};

/// One Ingress on its way to a route.
struct Compilation<'a, 'w> {
    shop: &'a mut Workshop<'w>,
    object: &'a Object,
    ingress: &'a Ingress,
    id: RouteId,
    problems: Vec<Problem>,
    /// service and port → what it resolved to, with the Service's settings
    resolved: BTreeMap<(Arc<str>, PortRef), Target>,
    backends: BTreeSet<BackendId>,
    services: BTreeSet<ServiceKey>,
    materials: BTreeSet<Origin>,
}

/// What a backend reference leads to, and the settings of its Service.
type Target = (Share, Option<Arc<Settings>>);

/// Compiles `ingress`, which is known to be ours.
pub(super) fn compile(shop: &mut Workshop<'_>, object: &Object, ingress: &Ingress, id: RouteId) -> Outcome {
    let problem = |finding: &Finding| object.problem(finding.clone());
    let mut work = Compilation {
        shop,
        object,
        ingress,
        id,
        problems: Classes::remark(ingress).iter().chain(&ingress.findings).map(problem).collect(),
        resolved: BTreeMap::new(),
        backends: BTreeSet::new(),
        services: BTreeSet::new(),
        materials: BTreeSet::new(),
    };
    let mut entries = Vec::with_capacity(ingress.paths.len());
    for (index, path) in (0..).zip(&ingress.paths) {
        entries.push(work.path(index, path));
    }
    for host in &ingress.hosts {
        if !ingress.paths.iter().any(|path| path.host == *host) {
            entries.push(Entry { host: host.clone(), what: What::Host });
        }
    }
    if let Some(backend) = &ingress.default_backend {
        work.fallback(backend, &mut entries);
    }
    entries.sort_by(|a, b| a.host.cmp(&b.host));
    let claims = work.claims(&entries);
    let tls = work.tls_entries();
    let roots = work.roots();
    let Compilation { problems, backends, services, materials, shop, .. } = work;
    let route = Route {
        order: Order { created: ingress.created, rank: 0, object: object.reference.clone() },
        binds: Arc::clone(&shop.ingress_binds),
        l4: Box::new([]),
        entries: entries.into(),
        backends: backends.into_iter().collect(),
        services: services.into_iter().collect(),
        claims,
        tls,
        roots,
        materials: materials.into_iter().collect(),
        passthrough_field: "metadata.annotations[\"sluicegate.dev/ssl-passthrough\"]".into(),
    };
    Outcome { route: Some(route), problems }
}

impl Compilation<'_, '_> {
    fn path(&mut self, index: u32, path: &IngressPath) -> Entry {
        let field = || format!("spec.rules[{}].http.paths[{}].backend", path.rule, path.index);
        let (share, settings) = self.backend(&path.backend, field, path.line);
        let policy = self.shop.rule_policy([self.ingress.settings.clone(), settings], Some(&path.path));
        let goal = if self.ingress.closed {
            Goal::Closed(Unavailable::InvalidSetting)
        } else {
            Goal::Forward(vec![share])
        };
        let rule = rule(self.id, index, path.path.clone(), policy, goal);
        Entry { host: path.host.clone(), what: What::Rule(Candidate { matcher: None, rule }) }
    }

    /// The default backend serves what no path of the Ingress' hosts matches; without rules, every host.
    fn fallback(&mut self, backend: &IngressBackend, entries: &mut Vec<Entry>) {
        let (share, settings) =
            self.backend(backend, || "spec.defaultBackend".to_owned(), self.ingress.default_backend_line);
        let policy = self.shop.rule_policy([self.ingress.settings.clone(), settings], None);
        let goal = if self.ingress.closed {
            Goal::Closed(Unavailable::InvalidSetting)
        } else {
            Goal::Forward(vec![share])
        };
        let index = u32::try_from(self.ingress.paths.len()).unwrap_or(u32::MAX);
        let rule = rule(self.id, index, PathMatch::Prefix("".into()), policy, goal);
        let hosts = if self.ingress.hosts.is_empty() { &[Hostname::Any][..] } else { &self.ingress.hosts };
        for host in hosts {
            // What asks something of clients must not be reached through hosts of others, which ask nothing.
            let is_guarded = *host == Hostname::Any && self.settings().client.is_some();
            let what = if is_guarded {
                What::Rule(Candidate { matcher: None, rule: Arc::clone(&rule) })
            } else {
                What::Fallback(Arc::clone(&rule))
            };
            entries.push(Entry { host: host.clone(), what });
        }
    }

    fn settings(&self) -> TlsSettings {
        self.ingress.settings.as_ref().map(|settings| settings.tls.clone()).unwrap_or_default()
    }

    fn roots(&self) -> Box<[Origin]> {
        match self.settings().client {
            Some(ClientSetting::Require(roots) | ClientSetting::Optional(roots)) => {
                Box::new([roots_origin(&self.object.reference.namespace, &roots)])
            }
            Some(ClientSetting::OptionalNoCa | ClientSetting::Closed) | None => Box::new([]),
        }
    }

    fn tls_entries(&self) -> Box<[TlsEntry]> {
        let namespace = &self.object.reference.namespace;
        let entry = |entry: &IngressTls| TlsEntry {
            origin: entry.secret.as_ref().map(|name| Origin::secret(namespace, name)),
            field: format!("spec.tls[{}]", entry.index),
            line: entry.line,
            has_hosts: !entry.hosts.is_empty(),
        };
        self.ingress.tls.iter().map(entry).collect()
    }

    /// What is wanted of encrypted connections to the hosts of `entries`.
    fn claims(&mut self, entries: &[Entry]) -> Box<[Claim]> {
        let settings = Arc::new(self.settings());
        let tls = Arc::clone(&self.ingress.tls);
        if tls.is_empty() && *settings == TlsSettings::default() {
            return Box::new([]);
        }
        if self.shop.settings.https.is_none()
            && let Some(first) = tls.first()
        {
            let message = "there is no HTTPS address (--https), so these hosts are served in cleartext only";
            self.tell(Finding::warning("spec.tls", first.line, "NoHttps", message.to_owned()));
        }
        let any = [Hostname::Any];
        let ingress = self.ingress;
        let hosts = if ingress.hosts.is_empty() { &any[..] } else { &ingress.hosts };
        let mut claims = Vec::with_capacity(hosts.len());
        for host in hosts {
            let exactly = |entry: &IngressTls| entry.hosts.contains(host);
            let above = |entry: &IngressTls| entry.hosts.iter().any(|wildcard| covers(wildcard, host));
            let named = tls.iter().position(exactly).or_else(|| tls.iter().position(above));
            let passthrough = settings.passthrough.then(|| self.passthrough(host, entries)).flatten();
            let (host, settings) = (host.clone(), Arc::clone(&settings));
            claims.push(Claim { host, named, settings, passthrough, is_loose: false });
        }
        for (index, entry) in tls.iter().enumerate() {
            for (position, host) in entry.hosts.iter().enumerate() {
                if claims.iter().any(|claim| claim.host == *host) {
                    continue;
                }
                let is_served = hosts.iter().any(|rule| *rule == Hostname::Any || covers(rule, host));
                if is_served {
                    let (host, settings) = (host.clone(), Arc::clone(&settings));
                    claims.push(Claim {
                        host,
                        named: Some(index),
                        settings,
                        passthrough: None,
                        is_loose: true,
                    });
                } else if !hosts.iter().any(|rule| covers(host, rule)) {
                    let field = format!("spec.tls[{}].hosts[{position}]", entry.index);
                    let message = "no rule of this Ingress is for this host, so it gets no certificate here";
                    self.tell(Finding::warning(field, entry.line, "UnusedTlsHost", message.to_owned()));
                }
            }
        }
        claims.into()
    }

    /// Where connections to `host` are relayed to: what takes its path `/`.
    fn passthrough(&mut self, host: &Hostname, entries: &[Entry]) -> Option<Arc<Passthrough>> {
        let of_root = |entry: &&Entry| {
            entry.host == *host
                && match &entry.what {
                    What::Rule(candidate) => {
                        matches!(&*candidate.rule.path, PathMatch::Prefix(path) if path.is_empty())
                    }
                    What::Fallback(_) => true,
                    What::Host => false,
                }
        };
        let rule = entries.iter().filter(of_root).find_map(|entry| match &entry.what {
            What::Rule(candidate) => Some(&candidate.rule),
            What::Fallback(rule) => Some(rule),
            What::Host => None,
        });
        let field = "metadata.annotations[\"sluicegate.dev/ssl-passthrough\"]";
        if *host == Hostname::Any {
            let message = "connections are passed through by host, and here is a rule without one".to_owned();
            self.tell(Finding::error(field, 0, "InvalidPassthrough", message));
            return None;
        }
        let split = match rule.map(|rule| &rule.action) {
            Some(Action::Forward(split)) => Ok(split.clone()),
            Some(Action::Unavailable(why)) => Err(*why),
            Some(Action::Redirect(_)) | None => {
                let message =
                    "there is no path `/`, whose backend would get the connections; they are closed";
                self.tell(Finding::error(field, 0, "InvalidPassthrough", message.to_owned()));
                Err(Unavailable::InvalidSetting)
            }
        };
        Some(Arc::new(Passthrough { route: self.id, split }))
    }

    fn key(&self, name: &Arc<str>) -> ServiceKey {
        (self.shop.intern(&self.object.reference.namespace), self.shop.intern(name))
    }

    /// What a backend reference leads to; the first path with a bad one tells.
    fn backend(&mut self, backend: &IngressBackend, field: impl Fn() -> String, line: u32) -> Target {
        let IngressBackend::Service(name, port) = backend else {
            let message =
                "resource backends are not supported, so this answers 503: name a Service".to_owned();
            self.tell(Finding::error(format!("{}.resource", field()), line, "Unsupported", message));
            return ((Err(Unavailable::BackendNotFound), 1), None);
        };
        let known = (Arc::clone(name), port.clone());
        if let Some(target) = self.resolved.get(&known) {
            return target.clone();
        }
        let key = self.key(name);
        let service = self.shop.index.service(&key).map(|(_, service)| service);
        let port = self.service_port(&key, service, port, &field, line);
        let usable = port.and_then(|port| self.may_speak(&key, service, port, &field, line).map(|()| port));
        let share = match usable {
            Ok(port) => {
                let via = self.ingress.settings.as_ref().filter(|settings| settings.concerns_backend());
                let via = via.map(|_| Arc::clone(&self.object.reference.name));
                let key = BackendKey::Service { service: key.clone(), port, via };
                (Ok(self.shop.acquire(key, &mut self.backends)), 1)
            }
            Err(why) => (Err(why), 1),
        };
        let target = (share, service.and_then(|service| service.settings.clone()));
        self.services.insert(key);
        self.resolved.insert(known, target.clone());
        target
    }

    fn service_port(
        &mut self,
        key: &ServiceKey,
        service: Option<&Service>,
        wanted: &PortRef,
        field: impl Fn() -> String,
        line: u32,
    ) -> Result<u16, Unavailable> {
        let Some(service) = service else {
            let message =
                format!("there is no Service `{}` in namespace `{}`, so this answers 503", key.1, key.0);
            self.tell(Finding::error(format!("{}.service.name", field()), line, "BackendNotFound", message));
            return Err(Unavailable::BackendNotFound);
        };
        if let Some(Err(Refused)) = &service.external_name {
            return Err(Unavailable::InvalidSetting);
        }
        if service.external_name.is_some() && !self.shop.settings.endpoints.external_names {
            let message = format!(
                "Service `{}` is of type ExternalName, which is not served here (--disable-svc-external-name), so this \
                 answers 503",
                key.1
            );
            self.tell(Finding::error(format!("{}.service.name", field()), line, "ExternalName", message));
            return Err(Unavailable::InvalidSetting);
        }
        let port = match (service.port(wanted), wanted) {
            (Some(port), _) => port,
            // The ports of an ExternalName Service are optional.
            (None, PortRef::Number(number)) if service.external_name.is_some() => return Ok(*number),
            (None, _) => {
                let message =
                    format!("Service `{}` has no port `{wanted}`{}; this answers 503", key.1, ports(service));
                self.tell(Finding::error(
                    format!("{}.service.port", field()),
                    line,
                    "BackendNotFound",
                    message,
                ));
                return Err(Unavailable::BackendNotFound);
            }
        };
        Ok(port.port)
    }

    /// Whether requests may be sent to the backend at all: how it must be spoken to is known and possible.
    fn may_speak(
        &mut self,
        key: &ServiceKey,
        service: Option<&Service>,
        port: u16,
        field: impl Fn() -> String,
        line: u32,
    ) -> Result<(), Unavailable> {
        let Some(service) = service else { return Ok(()) };
        let levels = [self.ingress.settings.as_deref(), service.settings.as_deref()];
        // What is wrong with an annotation was told where it stands.
        if levels.into_iter().flatten().any(|settings| settings.backend_closed) {
            return Err(Unavailable::InvalidSetting);
        }
        let target = (key, service, port);
        match speech(self.shop.index, self.shop.vault, levels, target, &mut self.materials) {
            Ok(_) => Ok(()),
            Err(Speechless { annotation, reason, message }) => {
                let message = format!("{message} (sluicegate.dev/{annotation}), so this answers 503");
                self.tell(Finding::error(format!("{}.service", field()), line, reason, message));
                Err(Unavailable::InvalidSetting)
            }
        }
    }

    fn tell(&mut self, finding: Finding) {
        self.problems.push(self.object.problem(finding));
    }
}

/// Whether `wildcard` is a wildcard that stands for `host` among others.
fn covers(wildcard: &Hostname, host: &Hostname) -> bool {
    match (wildcard, host) {
        (Hostname::Wildcard(suffix), Hostname::Exact(host)) => {
            host.find('.').and_then(|at| host.get(at..)) == Some(&**suffix)
        }
        _ => false,
    }
}

/// What could have been meant.
fn ports(service: &Service) -> String {
    let streams = service.ports.iter().filter(|port| port.transport == Transport::Tcp);
    let names = streams.map(|port| match &*port.name {
        "" => port.port.to_string(),
        name => format!("{} ({name})", port.port),
    });
    let all: Vec<_> = names.collect();
    if all.is_empty() { String::new() } else { format!(" (it has {})", all.join(", ")) }
}
