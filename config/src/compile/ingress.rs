//! Ingress → route.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Workshop;
use super::backend::BackendKey;
use super::route::{Entry, Goal, Order, Outcome, Route, Share, What, rule};
use crate::index::ServiceKey;
use crate::report::Problem;
use crate::resource::annotations::Settings;
use crate::resource::ingress::{IngressBackend, IngressPath, PortRef};
use crate::resource::service::{Refused, Service};
use crate::resource::{Finding, Ingress, Object};
use crate::table::{BackendId, Candidate, Hostname, PathMatch, RouteId, Unavailable};

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
}

/// What a backend reference leads to, and the settings of its Service.
type Target = (Share, Option<Arc<Settings>>);

/// Compiles `ingress`, which is known to be ours.
pub(super) fn compile(shop: &mut Workshop<'_>, object: &Object, ingress: &Ingress, id: RouteId) -> Outcome {
    let problem =
        |finding: &Finding| finding.clone().into_problem(&object.reference, object.location.as_ref());
    let mut work = Compilation {
        shop,
        object,
        ingress,
        id,
        problems: ingress.findings.iter().map(problem).collect(),
        resolved: BTreeMap::new(),
        backends: BTreeSet::new(),
        services: BTreeSet::new(),
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
    let Compilation { problems, backends, services, shop, .. } = work;
    let route = Route {
        order: Order { created: ingress.created, rank: 0, object: object.reference.clone() },
        binds: Arc::clone(&shop.ingress_binds),
        entries: entries.into(),
        backends: backends.into_iter().collect(),
        services: services.into_iter().collect(),
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
            entries.push(Entry { host: host.clone(), what: What::Fallback(Arc::clone(&rule)) });
        }
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
        let share = match self.service_port(&key, service, port, field, line) {
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
        match port.app_protocol.as_deref() {
            Some(
                protocol @ ("https" | "kubernetes.io/h2c" | "h2c" | "grpc" | "kubernetes.io/wss" | "http2"
                | "HTTP2" | "HTTPS" | "GRPC"),
            ) => {
                let message = format!(
                    "port `{wanted}` of Service `{}` speaks `{protocol}` (appProtocol), which is not supported yet; this answers 503",
                    key.1
                );
                self.tell(Finding::error(format!("{}.service.port", field()), line, "Unsupported", message));
                Err(Unavailable::InvalidSetting)
            }
            _ => Ok(port.port),
        }
    }

    fn tell(&mut self, finding: Finding) {
        self.problems.push(finding.into_problem(&self.object.reference, self.object.location.as_ref()));
    }
}

/// What could have been meant.
fn ports(service: &Service) -> String {
    let names = service.ports.iter().map(|port| match &*port.name {
        "" => port.port.to_string(),
        name => format!("{} ({name})", port.port),
    });
    let all: Vec<_> = names.collect();
    if all.is_empty() { String::new() } else { format!(" (it has {})", all.join(", ")) }
}
