//! Ingress and IngressClass: from the wire type to what compile needs, path by path, so that one bad path
//! costs only itself.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::annotations::{self, On, Settings};
use super::meta::ObjectMeta;
use super::reader::{self, At};
use super::{Finding, syntax, tls};
use crate::table::{Hostname, PathMatch};

/// A trimmed Ingress.
#[derive(Clone, Debug, PartialEq)]
pub struct Ingress {
    /// `creationTimestamp` in seconds since 1970; files have none.
    pub created: Option<i64>,
    /// `spec.ingressClassName`.
    pub class: Option<Arc<str>>,
    /// Annotation `kubernetes.io/ingress.class`; an empty one says nothing.
    pub legacy_class: Option<Arc<str>>,
    /// The distinct hosts of all rules, those without paths included.
    pub hosts: Box<[Hostname]>,
    /// Every usable path of every rule.
    pub paths: Box<[IngressPath]>,
    /// `spec.defaultBackend`.
    pub default_backend: Option<IngressBackend>,
    /// 1-based line of `spec.defaultBackend`; 0 when unknown.
    pub default_backend_line: u32,
    /// `spec.tls`.
    pub tls: Arc<[IngressTls]>,
    /// Our annotations.
    pub settings: Option<Arc<Settings>>,
    /// An annotation guards access and cannot be honoured: every path answers 503.
    pub closed: bool,
    /// What is wrong with the object, told only if the object is ours.
    pub findings: Box<[Finding]>,
}

/// One entry of `spec.tls`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct IngressTls {
    /// Hosts, exact and wildcard; none stands for those of the rules.
    pub hosts: Box<[Hostname]>,
    /// The Secret with certificate and key; the default certificate when absent.
    pub secret: Option<Arc<str>>,
    /// Index in `spec.tls`.
    pub index: u32,
    /// 1-based line; 0 when unknown.
    pub line: u32,
}

/// One usable path.
#[derive(Clone, Debug, PartialEq)]
pub struct IngressPath {
    /// Host of the rule.
    pub host: Hostname,
    /// Condition.
    pub path: PathMatch,
    /// Where it goes.
    pub backend: IngressBackend,
    /// Index of the rule in `spec.rules`.
    pub rule: u32,
    /// Index of the path in the rule.
    pub index: u32,
    /// 1-based line of the path; 0 when unknown.
    pub line: u32,
}

/// What a path names as its backend.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum IngressBackend {
    /// A port of a Service in the Ingress' namespace.
    Service(Arc<str>, PortRef),
    /// A resource, which we do not support.
    Resource,
}

/// A port by name or number.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum PortRef {
    /// 1..=65,535.
    Number(u16),
    /// Name of a Service port.
    Name(Arc<str>),
}

impl std::fmt::Display for PortRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// A trimmed IngressClass.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct IngressClass {
    /// `spec.controller`.
    pub controller: Arc<str>,
    /// Annotation `ingressclass.kubernetes.io/is-default-class` is `true`.
    pub is_default: bool,
    /// 1-based line of `spec.parameters` if there are some; 0 when unknown.
    pub parameters_line: Option<u32>,
}

#[derive(Debug, Deserialize)]
pub(super) struct IngressObject {
    pub(super) metadata: ObjectMeta,
    #[serde(default, deserialize_with = "reader::absent")]
    spec: IngressSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct IngressSpec {
    ingress_class_name: Option<Arc<str>>,
    default_backend: Option<At<BackendSpec>>,
    #[serde(default, deserialize_with = "reader::absent")]
    rules: Vec<At<RuleSpec>>,
    #[serde(default, deserialize_with = "reader::absent")]
    tls: Vec<At<TlsSpec>>,
}

#[derive(Debug, Deserialize)]
struct RuleSpec {
    host: Option<At<String>>,
    http: Option<HttpSpec>,
}

#[derive(Debug, Deserialize)]
struct HttpSpec {
    #[serde(default, deserialize_with = "reader::absent")]
    paths: Vec<At<PathSpec>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PathSpec {
    path: Option<String>,
    path_type: Option<String>,
    backend: Option<At<BackendSpec>>,
}

#[derive(Debug, Deserialize)]
struct BackendSpec {
    service: Option<ServiceSpec>,
    resource: Option<ResourceRef>,
}

#[derive(Debug, Deserialize)]
#[serde(rename = "IngressServiceBackend")]
struct ServiceSpec {
    name: Option<Arc<str>>,
    port: Option<PortSpec>,
}

#[derive(Debug, Deserialize)]
struct PortSpec {
    name: Option<Arc<str>>,
    number: Option<i64>,
}

#[derive(Debug, Deserialize)]
struct ResourceRef {
    #[expect(dead_code, reason = "read so that a wrong type is an error")]
    kind: Option<String>,
    #[expect(dead_code, reason = "read so that a wrong type is an error")]
    name: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TlsSpec {
    #[serde(default, deserialize_with = "reader::absent")]
    hosts: Vec<At<String>>,
    secret_name: Option<At<String>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct IngressClassObject {
    pub(super) metadata: ObjectMeta,
    #[serde(default, deserialize_with = "reader::absent")]
    spec: IngressClassSpec,
}

#[derive(Debug, Default, Deserialize)]
struct IngressClassSpec {
    controller: Option<Arc<str>>,
    parameters: Option<At<IgnoredAny>>,
}

impl IngressClassObject {
    pub(super) fn trim(self) -> IngressClass {
        let is_default = self
            .metadata
            .annotations
            .get("ingressclass.kubernetes.io/is-default-class")
            .is_some_and(|text| text.value == "true");
        let parameters_line = self.spec.parameters.map(|parameters| parameters.line);
        IngressClass { controller: self.spec.controller.unwrap_or_default(), is_default, parameters_line }
    }
}

impl Ingress {
    /// Replaces every text that many Ingresses have in common.
    pub(super) fn share(&mut self, mut share: impl FnMut(&mut Arc<str>)) {
        self.class.iter_mut().chain(&mut self.legacy_class).for_each(&mut share);
        let backends = self.paths.iter_mut().map(|path| &mut path.backend).chain(&mut self.default_backend);
        for backend in backends {
            if let IngressBackend::Service(name, port) = backend {
                share(name);
                if let PortRef::Name(port) = port {
                    share(port);
                }
            }
        }
    }
}

impl IngressObject {
    /// Checks every part; what is wrong is dropped and told in `findings`.
    pub(super) fn trim(self, unknown: Vec<Finding>) -> Ingress {
        let annotations = annotations::parse(&self.metadata.annotations, On::Ingress);
        let mut findings = unknown;
        findings.extend(annotations.findings);
        let legacy_class = self.metadata.annotations.get("kubernetes.io/ingress.class");
        let tls = (0..)
            .zip(self.spec.tls)
            .filter_map(|(index, spec)| spec.value.trim(index, spec.line, &mut findings));
        let tls: Arc<[_]> = tls.collect::<Vec<_>>().into();
        let tls = if tls.is_empty() { Arc::default() } else { tls };
        let default_backend_line = self.spec.default_backend.as_ref().map_or(0, |spec| spec.line);
        let default_backend = self.spec.default_backend.and_then(|spec| {
            spec.value.trim("spec.defaultBackend", spec.line).map_err(|finding| findings.push(finding)).ok()
        });
        if self.spec.rules.is_empty() && default_backend.is_none() {
            let message = "there are neither `rules` nor a `defaultBackend`, so nothing is served".to_owned();
            findings.push(Finding::error("spec", 0, "NoRules", message));
        }
        let mut rules = Rules { findings, hosts: Vec::new(), paths: Vec::new(), seen: HashMap::new() };
        for (index, rule) in (0..).zip(self.spec.rules) {
            rules.add(index, rule);
        }
        Ingress {
            created: self.metadata.creation_timestamp.as_deref().and_then(syntax::timestamp),
            class: self.spec.ingress_class_name.filter(|name| !name.is_empty()),
            legacy_class: legacy_class
                .map(|text| Arc::from(&*text.value))
                .filter(|name: &Arc<str>| !name.is_empty()),
            hosts: rules.hosts.into(),
            paths: rules.paths.into(),
            default_backend,
            default_backend_line,
            tls,
            settings: annotations.settings,
            closed: annotations.closed,
            findings: rules.findings.into(),
        }
    }
}

/// What the rules of one Ingress amount to.
struct Rules {
    findings: Vec<Finding>,
    hosts: Vec<Hostname>,
    paths: Vec<IngressPath>,
    /// host, is exact, path → field of the first occurrence
    seen: HashMap<(Hostname, bool, Arc<str>), String>,
}

impl Rules {
    fn add(&mut self, index: u32, rule: At<RuleSpec>) {
        let text = rule.value.host.unwrap_or_default();
        let host = match syntax::hostname(&text.value) {
            Ok(host) => host,
            Err(message) => {
                let message = format!("{message}; the rule is not served");
                self.findings.push(Finding::error(
                    format!("spec.rules[{index}].host"),
                    text.line,
                    "InvalidHost",
                    message,
                ));
                return;
            }
        };
        let host = match self.hosts.iter().find(|known| **known == host) {
            Some(known) => known.clone(),
            None => {
                self.hosts.push(host.clone());
                host
            }
        };
        for (position, path) in (0..).zip(rule.value.http.map(|http| http.paths).unwrap_or_default()) {
            let field = format!("spec.rules[{index}].http.paths[{position}]");
            match self.path(&field, &host, path) {
                Ok(path) => self.paths.push(IngressPath { rule: index, index: position, ..path }),
                Err(finding) => self.findings.push(finding),
            }
        }
    }

    fn path(&mut self, field: &str, host: &Hostname, spec: At<PathSpec>) -> Result<IngressPath, Finding> {
        let line = spec.line;
        let text = spec.value.path.filter(|path| !path.is_empty()).unwrap_or_else(|| "/".to_owned());
        let exact = match spec.value.path_type.as_deref() {
            Some("Exact") => true,
            Some("Prefix" | "ImplementationSpecific") => false,
            other => {
                let problem = match other {
                    Some(word) => format!("`{word}` is not a path type"),
                    None => "`pathType` is required".to_owned(),
                };
                let message = format!(
                    "{problem}: write Exact, Prefix or ImplementationSpecific; the path is not served"
                );
                let reason = if other.is_some() { "InvalidPathType" } else { "MissingField" };
                return Err(Finding::error(format!("{field}.pathType"), line, reason, message));
            }
        };
        let canonical = syntax::path(&text).map_err(|message| {
            Finding::error(
                format!("{field}.path"),
                line,
                "InvalidPath",
                format!("{message}; the path is not served"),
            )
        })?;
        let path =
            if exact { PathMatch::Exact(canonical) } else { PathMatch::Prefix(without_slash(&canonical)) };
        let (PathMatch::Exact(key) | PathMatch::Prefix(key)) = &path else {
            return Err(Finding::error(
                field,
                line,
                "InvalidPath",
                "regular expressions are not served".to_owned(),
            ));
        };
        if let Some(first) = self.seen.get(&(host.clone(), exact, Arc::clone(key))) {
            let message = format!("host and path are the same as in {first}, which is served; remove one");
            return Err(Finding::error(field, line, "DuplicatePath", message));
        }
        self.seen.insert((host.clone(), exact, Arc::clone(key)), field.to_owned());
        let Some(backend) = spec.value.backend else {
            let message = "`backend` is required; the path is not served".to_owned();
            return Err(Finding::error(format!("{field}.backend"), line, "MissingField", message));
        };
        let backend = backend.value.trim(&format!("{field}.backend"), backend.line)?;
        Ok(IngressPath { host: host.clone(), path, backend, rule: 0, index: 0, line })
    }
}

/// A prefix's key: the trailing slash says nothing, and `/` is the empty string.
pub(crate) fn without_slash(path: &Arc<str>) -> Arc<str> {
    match path.strip_suffix('/') {
        // What most paths are: nothing is allocated for it.
        Some("") => Arc::default(),
        Some(shorter) => shorter.into(),
        None => Arc::clone(path),
    }
}

impl TlsSpec {
    /// `None` if nothing of it can be used.
    fn trim(self, index: u32, line: u32, findings: &mut Vec<Finding>) -> Option<IngressTls> {
        let is_general = self.hosts.is_empty();
        let mut hosts = Vec::with_capacity(self.hosts.len());
        for (position, text) in self.hosts.into_iter().enumerate() {
            let parsed = match syntax::hostname(&text.value) {
                Ok(Hostname::Any) => Err("a host must not be empty".to_owned()),
                parsed => parsed,
            };
            match parsed {
                Ok(host) => hosts.push(host),
                Err(message) => {
                    let field = format!("spec.tls[{index}].hosts[{position}]");
                    let message = format!("{message}; it gets no certificate of this entry");
                    findings.push(Finding::error(field, text.line, "InvalidHost", message));
                }
            }
        }
        if hosts.is_empty() && !is_general {
            return None;
        }
        let secret = match self.secret_name.filter(|name| !name.value.is_empty()) {
            None => None,
            Some(name) => match tls::object_name(&name.value) {
                Ok(name) => Some(name),
                Err(message) => {
                    let message = format!("{message}; the default certificate is served instead");
                    let field = format!("spec.tls[{index}].secretName");
                    findings.push(Finding::error(field, name.line, "InvalidName", message));
                    None
                }
            },
        };
        Some(IngressTls { hosts: hosts.into(), secret, index, line })
    }
}

impl BackendSpec {
    fn trim(self, field: &str, line: u32) -> Result<IngressBackend, Finding> {
        let bad = |at: &str, reason, message: &str| {
            Finding::error(format!("{field}{at}"), line, reason, format!("{message}; the path is not served"))
        };
        let service = match (self.service, self.resource) {
            (Some(_), Some(_)) => {
                return Err(bad("", "InvalidBackend", "write either `service` or `resource`, not both"));
            }
            (None, Some(_)) => return Ok(IngressBackend::Resource),
            (None, None) => return Err(bad(".service", "MissingField", "`service` is required")),
            (Some(service), None) => service,
        };
        let Some(name) = service.name.filter(|name| !name.is_empty()) else {
            return Err(bad(".service.name", "MissingField", "`name` is required"));
        };
        let port = service
            .port
            .map(|port| (port.name.filter(|name| !name.is_empty()), port.number.filter(|n| *n != 0)));
        match port {
            Some((Some(_), Some(_))) => Err(bad(
                ".service.port",
                "InvalidPort",
                "write either the port's `name` or its `number`, not both",
            )),
            Some((Some(port), None)) => Ok(IngressBackend::Service(name, PortRef::Name(port))),
            Some((None, Some(number))) => match u16::try_from(number) {
                Ok(number) => Ok(IngressBackend::Service(name, PortRef::Number(number))),
                Err(_) => Err(bad(
                    ".service.port.number",
                    "InvalidPort",
                    &format!("{number} is not a port (1 to 65535)"),
                )),
            },
            Some((None, None)) | None => {
                Err(bad(".service.port", "MissingField", "the port's `name` or `number` is required"))
            }
        }
    }
}
