//! Annotations → typed settings: the one place where their text is read.
//!
//! A value that is wrong costs only its own setting, unless it guards access: then the whole object is closed
//! (ARCHITECTURE, invariant 10).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::reader::At;
use super::tls::{self, ClientSetting, ClientVerify, Protocol, RootsRef, TlsSettings};
use super::{Finding, service_exposure, suggest, syntax};
use crate::report::Severity;
use crate::table::{HashKey, PathModifier, ProbeKind};

/// Prefix of our annotations.
const OURS: &str = "sluicegate.dev/";
/// Prefix of ingress-nginx's annotations.
const NGINX: &str = "nginx.ingress.kubernetes.io/";

/// What the annotations of one Ingress or Service ask for; `None` leaves the decision to the next level.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Settings {
    /// `load-balance`.
    pub balance: Option<BalanceKind>,
    /// `hash-by`.
    pub hash_by: Option<HashKey>,
    /// `connect-timeout`.
    pub connect_timeout: Option<Duration>,
    /// `response-timeout`.
    pub response_timeout: Option<Duration>,
    /// `idle-timeout`.
    pub idle_timeout: Option<Duration>,
    /// `request-timeout`.
    pub request_timeout: Option<Duration>,
    /// `retries`.
    pub retries: Option<u8>,
    /// `retry-on`.
    pub retry_on: Option<RetryOn>,
    /// `health-check`.
    pub health_check: Option<ProbeKind>,
    /// `health-check-interval`.
    pub health_check_interval: Option<Duration>,
    /// `health-check-timeout`.
    pub health_check_timeout: Option<Duration>,
    /// `slow-start`.
    pub slow_start: Option<Duration>,
    /// `max-requests-per-endpoint`.
    pub max_requests_per_endpoint: Option<u32>,
    /// `queue-size`.
    pub queue_size: Option<u32>,
    /// `queue-timeout`.
    pub queue_timeout: Option<Duration>,
    /// `max-failures`: failures in a row that eject an endpoint.
    pub max_failures: Option<u32>,
    /// `max-ejected`: percentage.
    pub max_ejected: Option<u8>,
    /// `panic-threshold`: percentage.
    pub panic_threshold: Option<u8>,
    /// `rewrite-prefix`.
    pub rewrite_prefix: Option<PathModifier>,
    /// `ssl-redirect`.
    pub ssl_redirect: Option<bool>,
    /// `ssl-redirect-port`.
    pub ssl_redirect_port: Option<u16>,
    /// `hsts`, in canonical form.
    pub hsts: Option<Arc<str>>,
    /// What concerns whole hosts; only of an Ingress.
    pub tls: TlsSettings,
    /// `backend-protocol`.
    pub backend_protocol: Option<Protocol>,
    /// `backend-tls-verify`.
    pub backend_tls_verify: Option<bool>,
    /// `backend-tls-ca`.
    pub backend_tls_ca: Option<RootsRef>,
    /// `backend-tls-server-name`.
    pub backend_tls_server_name: Option<Arc<str>>,
    /// `backend-tls-secret`.
    pub backend_tls_secret: Option<Arc<str>>,
    /// `service-upstream`.
    pub service_upstream: Option<bool>,
    /// A setting of those that decide who a backend is, or who may reach it, is wrong.
    pub backend_closed: bool,
}

/// Value of `load-balance`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum BalanceKind {
    /// `round-robin`.
    RoundRobin,
    /// `least-connection`.
    LeastConnection,
    /// `consistent-hash`.
    ConsistentHash,
}

/// Value of `retry-on`.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct RetryOn {
    /// Response codes, 500..=599, sorted.
    pub codes: Vec<u16>,
    /// `timeout`.
    pub timeout: bool,
    /// `empty-response`.
    pub empty_response: bool,
}

impl Settings {
    /// True if any setting concerns the backend rather than the route.
    pub(crate) fn concerns_backend(&self) -> bool {
        let route_only = Self {
            response_timeout: self.response_timeout,
            idle_timeout: self.idle_timeout,
            request_timeout: self.request_timeout,
            retries: self.retries,
            retry_on: self.retry_on.clone(),
            rewrite_prefix: self.rewrite_prefix.clone(),
            ssl_redirect: self.ssl_redirect,
            ssl_redirect_port: self.ssl_redirect_port,
            hsts: self.hsts.clone(),
            tls: self.tls.clone(),
            ..Self::default()
        };
        *self != route_only
    }
}

/// Annotation text with the line of its value.
pub(crate) type Text = BTreeMap<String, At<String>>;

/// What [`parse`] made of an object's annotations.
#[derive(Debug, Default)]
pub(crate) struct Parsed {
    pub(crate) settings: Option<Arc<Settings>>,
    /// A setting that guards access is there and cannot be honoured: serve nothing.
    pub(crate) closed: bool,
    pub(crate) findings: Vec<Finding>,
}

/// Reads what concerns us among `annotations` of an Ingress or a Service.
pub(crate) fn parse(annotations: &Text, on: On) -> Parsed {
    let mut parsed = Parsed::default();
    let mut settings = Settings::default();
    let mut client = Client::default();
    let mut ignored = Vec::new();
    let mut closing = Vec::new();
    let mut nginx_line = 0;
    for (key, text) in annotations {
        if let Some(name) = key.strip_prefix(OURS) {
            let outcome = match on {
                On::Service if service_exposure::READ_THERE.contains(&name) => Ok(()),
                On::Service if HOST_LEVEL.contains(&name) => Err(misplaced(&mut settings, name)),
                On::Ingress if HOST_LEVEL.contains(&name) => {
                    client.apply(&mut settings.tls, name, text.value.trim(), text.line)
                }
                On::Ingress | On::Service => apply(&mut settings, name, text.value.trim()),
            };
            if let Err(problem) = outcome {
                settings.backend_closed |= matches!(problem, Wrong::Closes(_));
                parsed.findings.push(finding(key, text.line, problem));
            }
        } else if let Some(name) = key.strip_prefix(NGINX) {
            if ignored.is_empty() && closing.is_empty() {
                nginx_line = text.line;
            }
            if guards_access(name, &text.value) {
                closing.push(key.as_str())
            } else {
                ignored.push(name)
            };
        }
    }
    if settings.hash_by.is_some() && settings.balance.is_none() {
        settings.balance = Some(BalanceKind::ConsistentHash);
    }
    parsed.findings.extend(client.settle(&mut settings.tls));
    if !ignored.is_empty() {
        let message = format!(
            "annotations of ingress-nginx have no effect here: {}; see the `{OURS}` annotations",
            ignored.join(", ")
        );
        let severity = Severity::Warning;
        let field = "metadata.annotations".to_owned();
        parsed.findings.push(Finding {
            field,
            line: nginx_line,
            severity,
            reason: "IgnoredAnnotation",
            message,
        });
    }
    for key in closing {
        let line = annotations.get(key).map_or(0, |text| text.line);
        let message = "this guards access and is not supported, so every path of this object answers 503; \
                       remove the annotation to open them"
            .to_owned();
        let severity = Severity::Error;
        parsed.findings.push(Finding {
            field: field(key),
            line,
            severity,
            reason: "InvalidSetting",
            message,
        });
        parsed.closed = true;
    }
    if settings != Settings::default() {
        parsed.settings = Some(Arc::new(settings));
    }
    parsed
}

fn field(key: &str) -> String {
    format!("metadata.annotations[{key:?}]")
}

fn finding(key: &str, line: u32, problem: Wrong) -> Finding {
    let field = field(key);
    match problem {
        Wrong::Unknown(message) => {
            Finding { field, line, severity: Severity::Warning, reason: "UnknownAnnotation", message }
        }
        Wrong::Value(message) => {
            let message = format!("{message}; the default is used");
            Finding { field, line, severity: Severity::Error, reason: "InvalidAnnotation", message }
        }
        Wrong::Closes(message) => {
            let message = format!("{message}; until it is right, requests are answered 503");
            Finding { field, line, severity: Severity::Error, reason: "InvalidAnnotation", message }
        }
        Wrong::Partly(message) => {
            Finding { field, line, severity: Severity::Warning, reason: "InvalidAnnotation", message }
        }
    }
}

/// What the annotations stand on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum On {
    Ingress,
    Service,
}

/// Annotations that concern whole hosts, so that a Service cannot have them.
const HOST_LEVEL: [&str; 5] =
    ["ssl-passthrough", "client-ca", "client-verify", "min-tls-version", "tls-cipher-suites"];

/// A host's annotation at a Service. What guards access must not be lost in silence.
fn misplaced(settings: &mut Settings, name: &str) -> Wrong {
    let message = format!("`{OURS}{name}` belongs to an Ingress, not to a Service");
    let guards = name.starts_with("client-");
    settings.backend_closed |= guards;
    if guards { Wrong::Closes(message) } else { Wrong::Unknown(message) }
}

/// `client-ca` and `client-verify`, which mean something only together.
#[derive(Default)]
struct Client {
    line: u32,
    roots: Option<RootsRef>,
    verify: Option<ClientVerify>,
    is_wrong: bool,
}

impl Client {
    fn apply(&mut self, settings: &mut TlsSettings, name: &str, text: &str, line: u32) -> Result<(), Wrong> {
        match name {
            "client-ca" => {
                self.line = line;
                self.roots = Some(tls::roots_ref(text).map_err(|message| self.wrong(&message))?);
            }
            "client-verify" => {
                self.line = line;
                self.verify = Some(tls::client_verify(text).map_err(|message| self.wrong(&message))?);
            }
            "ssl-passthrough" => settings.passthrough = boolean(text)?,
            "min-tls-version" => settings.min_version = Some(tls::version(text).map_err(Wrong::Value)?),
            _ => {
                let suites = tls::cipher_suites(text);
                if suites.known.is_empty() {
                    return Err(Wrong::Value("none of these cipher suites is implemented".to_owned()));
                }
                settings.cipher_suites = Some(suites.known.into());
                if !suites.unknown.is_empty() {
                    let message =
                        format!("left out, for they are not implemented: {}", suites.unknown.join(", "));
                    return Err(Wrong::Partly(message));
                }
            }
        }
        Ok(())
    }

    fn wrong(&mut self, message: &str) -> Wrong {
        self.is_wrong = true;
        Wrong::Closes(message.to_owned())
    }

    /// What both amount to.
    fn settle(self, settings: &mut TlsSettings) -> Option<Finding> {
        settings.client = match (self.roots, self.verify) {
            _ if self.is_wrong => Some(ClientSetting::Closed),
            (None, None) => None,
            (_, Some(ClientVerify::OptionalNoCa)) => Some(ClientSetting::OptionalNoCa),
            (Some(roots), None | Some(ClientVerify::Require)) => Some(ClientSetting::Require(roots)),
            (Some(roots), Some(ClientVerify::Optional)) => Some(ClientSetting::Optional(roots)),
            (None, Some(ClientVerify::Require | ClientVerify::Optional)) => {
                settings.client = Some(ClientSetting::Closed);
                let message = "`client-ca` is missing, so nobody could be verified".to_owned();
                return Some(finding(&format!("{OURS}client-verify"), self.line, Wrong::Closes(message)));
            }
        };
        None
    }
}

/// Annotations of ingress-nginx that keep somebody out. An explicit "off" guards nothing.
fn guards_access(name: &str, value: &str) -> bool {
    let listed = name.starts_with("auth-")
        || matches!(
            name,
            "enable-global-auth"
                | "whitelist-source-range"
                | "allowlist-source-range"
                | "denylist-source-range"
                | "satisfy"
                | "enable-modsecurity"
                | "modsecurity-snippet"
        );
    listed && !(matches!(name, "enable-global-auth" | "enable-modsecurity") && value.trim() == "false")
}

enum Wrong {
    Unknown(String),
    Value(String),
    /// It decides who may do what, so there is no default to go on with.
    Closes(String),
    /// Some of it is used.
    Partly(String),
}

const NAMES: &[&str] = &[
    "load-balance",
    "hash-by",
    "connect-timeout",
    "response-timeout",
    "idle-timeout",
    "request-timeout",
    "retries",
    "retry-on",
    "health-check",
    "health-check-interval",
    "health-check-timeout",
    "slow-start",
    "max-requests-per-endpoint",
    "queue-size",
    "queue-timeout",
    "max-failures",
    "max-ejected",
    "panic-threshold",
    "rewrite-prefix",
    "ssl-redirect",
    "ssl-redirect-port",
    "hsts",
    "ssl-passthrough",
    "client-ca",
    "client-verify",
    "min-tls-version",
    "tls-cipher-suites",
    "backend-protocol",
    "backend-tls-verify",
    "backend-tls-ca",
    "backend-tls-server-name",
    "backend-tls-secret",
    "service-upstream",
];

fn apply(settings: &mut Settings, name: &str, text: &str) -> Result<(), Wrong> {
    let time = || syntax::duration(text).map(Some).map_err(Wrong::Value);
    let positive = || match syntax::duration(text) {
        Ok(Duration::ZERO) => Err(Wrong::Value(format!("`{text}`: must be more than zero"))),
        other => other.map(Some).map_err(Wrong::Value),
    };
    match name {
        "load-balance" => settings.balance = Some(balance(text)?),
        "hash-by" => settings.hash_by = Some(hash_key(text).map_err(Wrong::Value)?),
        "connect-timeout" => settings.connect_timeout = positive()?,
        "response-timeout" => settings.response_timeout = time()?,
        "idle-timeout" => settings.idle_timeout = time()?,
        "request-timeout" => settings.request_timeout = time()?,
        "retries" => settings.retries = Some(number(text, 0, 5)?),
        "retry-on" => settings.retry_on = Some(retry_on(text).map_err(Wrong::Value)?),
        "health-check" => settings.health_check = Some(probe(text).map_err(Wrong::Value)?),
        "health-check-interval" => settings.health_check_interval = positive()?,
        "health-check-timeout" => settings.health_check_timeout = positive()?,
        "slow-start" => settings.slow_start = time()?,
        "max-requests-per-endpoint" => settings.max_requests_per_endpoint = Some(number(text, 0, 1_000_000)?),
        "queue-size" => settings.queue_size = Some(number(text, 0, 1_000_000)?),
        "queue-timeout" => settings.queue_timeout = positive()?,
        "max-failures" => settings.max_failures = Some(number(text, 0, 1_000)?),
        "max-ejected" => settings.max_ejected = Some(number(text, 0, 100)?),
        "panic-threshold" => settings.panic_threshold = Some(number(text, 0, 100)?),
        "rewrite-prefix" => {
            let path = syntax::path(text).map_err(Wrong::Value)?;
            settings.rewrite_prefix = Some(PathModifier::ReplacePrefixMatch(path));
        }
        _ if name.starts_with("backend-") => return apply_to_backend(settings, name, text),
        "ssl-redirect" => settings.ssl_redirect = Some(boolean(text)?),
        "ssl-redirect-port" => settings.ssl_redirect_port = Some(number(text, 1, 65_535)?),
        "service-upstream" => settings.service_upstream = Some(boolean(text)?),
        "hsts" => settings.hsts = Some(tls::hsts(text).map_err(Wrong::Value)?),
        _ => return Err(unknown(name)),
    }
    Ok(())
}

/// What decides who a backend is.
fn apply_to_backend(settings: &mut Settings, name: &str, text: &str) -> Result<(), Wrong> {
    match name {
        "backend-protocol" => settings.backend_protocol = Some(tls::protocol(text).map_err(Wrong::Closes)?),
        "backend-tls-verify" => {
            settings.backend_tls_verify = match text {
                "on" | "true" => Some(true),
                "off" | "false" => Some(false),
                _ => return Err(Wrong::Closes(format!("`{text}` is neither `on` nor `off`"))),
            }
        }
        "backend-tls-ca" => settings.backend_tls_ca = Some(tls::roots_ref(text).map_err(Wrong::Closes)?),
        "backend-tls-server-name" => {
            settings.backend_tls_server_name = Some(tls::server_name(text).map_err(Wrong::Closes)?);
        }
        "backend-tls-secret" => {
            settings.backend_tls_secret = Some(tls::secret_name(text).map_err(Wrong::Closes)?);
        }
        _ => return Err(unknown(name)),
    }
    Ok(())
}

fn unknown(name: &str) -> Wrong {
    let hint = suggest::hint(name, NAMES.iter().copied());
    Wrong::Unknown(format!("`{OURS}{name}` is not an annotation we know{hint}"))
}

fn boolean(text: &str) -> Result<bool, Wrong> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(Wrong::Value(format!("`{text}` is neither `true` nor `false`"))),
    }
}

fn balance(text: &str) -> Result<BalanceKind, Wrong> {
    let known = ["round-robin", "least-connection", "consistent-hash"];
    match text {
        "round-robin" => Ok(BalanceKind::RoundRobin),
        "least-connection" => Ok(BalanceKind::LeastConnection),
        "consistent-hash" => Ok(BalanceKind::ConsistentHash),
        _ => Err(Wrong::Value(format!(
            "`{text}` is not one of {}{}",
            known.join(", "),
            suggest::hint(text, known)
        ))),
    }
}

/// `source-ip`, `uri`, `header:NAME` or `cookie:NAME`.
pub(crate) fn hash_key(text: &str) -> Result<HashKey, String> {
    match text.split_once(':') {
        None if text == "source-ip" => Ok(HashKey::SourceIp),
        None if text == "uri" => Ok(HashKey::Uri),
        Some(("header", name)) if syntax::is_token(name) => {
            Ok(HashKey::Header(name.to_ascii_lowercase().into()))
        }
        Some(("cookie", name)) if syntax::is_token(name) => Ok(HashKey::Cookie(name.into())),
        _ => Err(format!("`{text}` is not one of source-ip, uri, header:NAME, cookie:NAME")),
    }
}

/// `tcp`, `grpc`, `grpc:SERVICE`, or a path that must answer 200..=399.
pub(crate) fn probe(text: &str) -> Result<ProbeKind, String> {
    if text == "tcp" {
        return Ok(ProbeKind::Tcp);
    }
    if let Some(service) = if text == "grpc" { Some("") } else { text.strip_prefix("grpc:") } {
        if !syntax::is_grpc_service(service) {
            return Err(format!("`{service}` is not a gRPC service such as `shop.v1.Cart`"));
        }
        return Ok(ProbeKind::Grpc { service: service.into(), port: None });
    }
    if !text.starts_with('/') || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!(
            "`{text}` is none of `tcp`, `grpc`, `grpc:SERVICE` and an HTTP path such as `/healthz`"
        ));
    }
    Ok(ProbeKind::Http { path: text.into(), host: None, expected: Arc::new([(200, 399)]), port: None })
}

/// Comma-separated response codes, `timeout`, `empty-response`.
pub(crate) fn retry_on(text: &str) -> Result<RetryOn, String> {
    let mut on = RetryOn::default();
    for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        match word {
            "timeout" => on.timeout = true,
            "empty-response" => on.empty_response = true,
            _ => match word.parse() {
                Ok(code @ 500..=599) => on.codes.push(code),
                _ => {
                    return Err(format!(
                        "`{word}` is not a code from 500 to 599, `timeout` or `empty-response`"
                    ));
                }
            },
        }
    }
    on.codes.sort_unstable();
    on.codes.dedup();
    Ok(on)
}

fn number<T: TryFrom<u32>>(text: &str, least: u32, most: u32) -> Result<T, Wrong> {
    let wrong = || Wrong::Value(format!("`{text}` is not a number from {least} to {most}"));
    let value: u32 = text.parse().map_err(|_| wrong())?;
    if !(least..=most).contains(&value) {
        return Err(wrong());
    }
    T::try_from(value).map_err(|_| wrong())
}
