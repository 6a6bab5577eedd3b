//! Entries of the native format → stored objects: every text becomes a type of the table, or an error that
//! names the field.

use std::collections::BTreeMap;
use std::sync::Arc;

use regex::{Regex, RegexBuilder};

use super::ingress::without_slash;
use super::native::{
    BackendSpec, FiltersSpec, HeadersSpec, LimitsSpec, ListenerSpec, MatchSpec, RedirectSpec, RetrySpec,
    RouteSpec, ShareSpec, TimeoutsSpec, ValueSpec, set, set_time,
};
use super::native_l4::Forward;
use super::native_tls::{ListenerTls, NativeSpeech};
use super::native_types::is_name;
use super::{Finding, syntax};
use crate::table::{
    BindConfig, Filters, HeaderMatch, HeaderModifier, Hostname, HttpsPolicy, Limits, Listener, Matcher,
    PathMatch, PathModifier, QueryMatch, Redirect, Rewrite, TrustedProxies, ValueMatch,
};

/// Largest compiled regular expression, in bytes.
const REGEX_BYTES: usize = 1 << 20;

/// A listener of the native format.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NativeListener {
    pub(crate) config: BindConfig,
    /// `None` in cleartext.
    pub(crate) tls: Option<Arc<ListenerTls>>,
    /// What it does if it does not speak HTTP. Of `config` only address, name and free binding count then.
    pub(crate) forward: Option<Box<Forward>>,
}

/// A route of the native format.
#[derive(Clone, Debug, PartialEq)]
pub struct NativeRoute {
    /// Position in its file: among routes of equal standing, the first wins.
    pub(crate) position: u32,
    pub(crate) listeners: Option<Vec<Arc<str>>>,
    /// Its file has listeners that speak HTTP, be they right or wrong: it is for no others than native ones.
    pub(crate) has_listeners: bool,
    /// At least one.
    pub(crate) hosts: Vec<Hostname>,
    /// At least one.
    pub(crate) matches: Vec<NativeMatch>,
    pub(crate) filters: Filters,
    pub(crate) timeouts: TimeoutsSpec,
    pub(crate) retry: RetrySpec,
    pub(crate) https: HttpsPolicy,
    pub(crate) passthrough: bool,
    pub(crate) goal: NativeGoal,
    /// Where the route stands, for fields of problems: `routes[3]`.
    pub(crate) field: String,
}

/// One alternative of a [`NativeRoute`].
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NativeMatch {
    pub(crate) path: PathMatch,
    pub(crate) matcher: Option<Arc<Matcher>>,
}

/// What a [`NativeRoute`] does.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum NativeGoal {
    /// Backend names with weights.
    Forward(Vec<(Arc<str>, u32)>),
    Redirect(Arc<Redirect>),
}

/// A backend of the native format.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NativeBackend {
    pub(crate) spec: Box<BackendSpec>,
    pub(crate) speech: NativeSpeech,
}

/// Builds one entry; `field` is where it stands.
pub(super) struct Builder<'a> {
    /// The file that it is in.
    pub(super) file: &'a str,
    pub(super) field: &'a str,
    pub(super) line: u32,
    /// There are listeners beside it.
    pub(super) has_listeners: bool,
}

impl Builder<'_> {
    pub(super) fn error(&self, at: &str, reason: &'static str, message: impl Into<String>) -> Finding {
        Finding::error(format!("{}.{at}", self.field), self.line, reason, message.into())
    }

    pub(super) fn range<T: PartialOrd + std::fmt::Display + Copy>(
        &self,
        at: &str,
        value: Option<T>,
        least: T,
        most: T,
    ) -> Result<(), Finding> {
        match value {
            Some(value) if value < least || value > most => {
                Err(self.error(at, "OutOfRange", format!("{value} is not from {least} to {most}")))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn name(&self, name: &str) -> Result<(), Finding> {
        if is_name(name) {
            return Ok(());
        }
        let message = format!("`{name}` is not a name: up to 63 letters, digits, `-`, `_` and `.`");
        Err(self.error("name", "InvalidName", message))
    }

    pub(super) fn listener(&self, name: &Arc<str>, spec: &ListenerSpec) -> Result<NativeListener, Finding> {
        if let Some(relaying) = self.relaying(name, spec)? {
            return Ok(relaying);
        }
        let limits = self.limits(&spec.limits)?;
        let tls = self.listener_tls(spec.protocol, spec.tls.as_ref())?;
        Ok(NativeListener {
            config: BindConfig {
                address: spec.address.0,
                listeners: vec![Listener { name: Arc::clone(name) }],
                https: tls.is_some(),
                proxy_protocol: spec.proxy_protocol,
                trusted_proxies: TrustedProxies(spec.networks()),
                limits,
                abort_on_half_close: spec.abort_on_half_close,
                free_bind: spec.free_bind,
            },
            tls,
            forward: None,
        })
    }

    fn limits(&self, spec: &LimitsSpec) -> Result<Limits, Finding> {
        self.range("limits.headBytes", spec.head_bytes, 1_024, 65_536)?;
        self.range("limits.headFields", spec.head_fields, 1, 256)?;
        self.range("limits.requestLineBytes", spec.request_line_bytes, 8_000, 65_536)?;
        self.range("limits.maxConnections", spec.max_connections, 1, 10_000_000)?;
        self.range("limits.maxConcurrentStreams", spec.max_concurrent_streams, 1, 1_000)?;
        if spec.handshake_timeout.is_some_and(|time| time.0.is_zero()) {
            return Err(self.error("limits.handshakeTimeout", "OutOfRange", "must be more than zero"));
        }
        let mut limits = Limits::default();
        set(&mut limits.head_bytes, spec.head_bytes);
        set(&mut limits.head_fields, spec.head_fields);
        set(&mut limits.request_line_bytes, spec.request_line_bytes);
        set_time(&mut limits.header_timeout, spec.header_timeout);
        set_time(&mut limits.idle_timeout, spec.idle_timeout);
        set_time(&mut limits.body_idle_timeout, spec.body_idle_timeout);
        set(&mut limits.min_body_rate, spec.min_body_rate);
        set(&mut limits.max_connections, spec.max_connections);
        set(&mut limits.max_requests_per_connection, spec.max_requests_per_connection);
        set_time(&mut limits.tunnel_idle_timeout, spec.tunnel_idle_timeout);
        set_time(&mut limits.handshake_timeout, spec.handshake_timeout);
        set(&mut limits.max_concurrent_streams, spec.max_concurrent_streams);
        Ok(limits)
    }

    pub(super) fn backend(&self, spec: BackendSpec) -> Result<NativeBackend, Finding> {
        self.name(&spec.name)?;
        self.range("panicThreshold", spec.panic_threshold, 0, 100)?;
        self.range("health.passive.errorRate", spec.health.passive.error_rate, 0, 100)?;
        self.range("health.passive.maxEjected", spec.health.passive.max_ejected, 0, 100)?;
        if let Some(active) = &spec.health.active {
            self.range("health.active.healthyThreshold", active.healthy_threshold, 1, 1_000)?;
            self.range("health.active.unhealthyThreshold", active.unhealthy_threshold, 1, 1_000)?;
            self.range("health.active.port", active.port, 1, u16::MAX)?;
            let visible = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
            if let Some(path) = active.path.as_deref().filter(|path| !path.starts_with('/') || !visible(path))
            {
                let message = format!("`{path}` is not a path such as `/healthz`");
                return Err(self.error("health.active.path", "InvalidPath", message));
            }
            if let Some(service) = active.grpc.as_deref() {
                if active.path.is_some() {
                    let message = "a probe has either `path` or `grpc`".to_owned();
                    return Err(self.error("health.active.grpc", "Conflict", message));
                }
                if !syntax::is_grpc_service(service) {
                    let message = format!("`{service}` is not a gRPC service such as `shop.v1.Cart`");
                    return Err(self.error("health.active.grpc", "InvalidService", message));
                }
            }
            if let Some(host) = active.host.as_deref().filter(|host| host.is_empty() || !visible(host)) {
                return Err(self.error(
                    "health.active.host",
                    "InvalidHost",
                    format!("`{host}` is not a host"),
                ));
            }
            for (at, time) in [("interval", active.interval), ("timeout", active.timeout)] {
                if time.is_some_and(|time| time.0.is_zero()) {
                    return Err(self.error(
                        &format!("health.active.{at}"),
                        "OutOfRange",
                        "must be more than zero",
                    ));
                }
            }
        }
        if spec.connect_timeout.is_some_and(|time| time.0.is_zero()) {
            return Err(self.error("connectTimeout", "OutOfRange", "must be more than zero"));
        }
        let speech = self.speech(spec.protocol, spec.tls.as_ref())?;
        Ok(NativeBackend { spec: Box::new(spec), speech })
    }

    pub(super) fn route(&self, spec: RouteSpec, position: u32) -> Result<NativeRoute, Finding> {
        let mut hosts = Vec::new();
        for (index, host) in spec.hosts.0.iter().enumerate() {
            let host = syntax::hostname(host)
                .map_err(|message| self.error(&format!("hosts[{index}]"), "InvalidHost", message))?;
            if !hosts.contains(&host) {
                hosts.push(host);
            }
        }
        if hosts.is_empty() {
            hosts.push(Hostname::Any);
        }
        let matches = self.matches(&spec)?;
        let filters = self.filters(&spec.filters, &matches)?;
        let goal = self.goal(&spec, &matches)?;
        let redirect = spec.https_redirect.and_then(|redirect| redirect.0);
        let https = HttpsPolicy { redirect, hsts: self.hsts(spec.hsts.as_deref())? };
        let passthrough = spec.tls_passthrough;
        if passthrough && hosts.contains(&Hostname::Any) {
            let message = "connections are passed through by host, so `hosts` is required";
            return Err(self.error("tlsPassthrough", "InvalidPassthrough", message));
        }
        if passthrough && matches!(goal, NativeGoal::Redirect(_)) {
            let message = "connections are passed through to a backend, and a redirect has none";
            return Err(self.error("tlsPassthrough", "InvalidPassthrough", message));
        }
        self.retry(&spec.retry)?;
        let (timeouts, retry) = (spec.timeouts, spec.retry);
        let listeners = spec.listeners.map(|listeners| listeners.0);
        let field = self.field.to_owned();
        Ok(NativeRoute {
            position,
            listeners,
            has_listeners: self.has_listeners,
            hosts,
            matches,
            filters,
            timeouts,
            retry,
            https,
            passthrough,
            goal,
            field,
        })
    }

    fn retry(&self, spec: &RetrySpec) -> Result<(), Finding> {
        self.range("retry.attempts", spec.attempts, 0, 5)?;
        for (index, code) in spec.codes.iter().enumerate() {
            self.range(&format!("retry.codes[{index}]"), Some(*code), 500, 599)?;
        }
        Ok(())
    }

    fn matches(&self, spec: &RouteSpec) -> Result<Vec<NativeMatch>, Finding> {
        let short = MatchSpec {
            path: spec.path.clone(),
            path_prefix: spec.path_prefix.clone(),
            path_regex: spec.path_regex.clone(),
            ..MatchSpec::default()
        };
        let is_short = short.path.is_some() || short.path_prefix.is_some() || short.path_regex.is_some();
        if is_short && !spec.matches.is_empty() {
            let message = "write either a path at the route or a list of `matches`, not both";
            return Err(self.error("matches", "InvalidMatch", message));
        }
        let written = if spec.matches.is_empty() { std::slice::from_ref(&short) } else { &spec.matches };
        let mut matches = Vec::with_capacity(written.len());
        for (index, one) in written.iter().enumerate() {
            let at = if spec.matches.is_empty() { String::new() } else { format!("matches[{index}].") };
            let built = self.one_match(&at, one)?;
            if matches.contains(&built) {
                return Err(self.error(
                    at.trim_end_matches('.'),
                    "DuplicatePath",
                    "the same match is there twice",
                ));
            }
            matches.push(built);
        }
        Ok(matches)
    }

    fn one_match(&self, at: &str, spec: &MatchSpec) -> Result<NativeMatch, Finding> {
        let path = match (&spec.path, &spec.path_prefix, &spec.path_regex) {
            (None, None, None) => PathMatch::Prefix("".into()),
            (Some(path), None, None) => PathMatch::Exact(self.path(&format!("{at}path"), path)?),
            (None, Some(path), None) => {
                PathMatch::Prefix(without_slash(&self.path(&format!("{at}pathPrefix"), path)?))
            }
            (None, None, Some(regex)) => PathMatch::Regex(self.regex(&format!("{at}pathRegex"), regex)?),
            _ => {
                let message = "write only one of `path`, `pathPrefix` and `pathRegex`";
                return Err(self.error(&format!("{at}path"), "InvalidMatch", message));
            }
        };
        let mut matcher = Matcher { method: spec.method.clone(), ..Matcher::default() };
        if let Some(method) = spec.method.as_deref().filter(|method| !syntax::is_token(method)) {
            return Err(self.error(
                &format!("{at}method"),
                "InvalidMatch",
                format!("`{method}` is not a method"),
            ));
        }
        for (name, value) in &spec.headers {
            let field = format!("{at}headers.{name}");
            if !syntax::is_token(name) {
                return Err(self.error(&field, "InvalidHeader", format!("`{name}` is not a header name")));
            }
            let name = name.to_ascii_lowercase().into();
            matcher.headers.push(HeaderMatch { name, value: self.value(&field, value)? });
        }
        for (name, value) in &spec.query {
            let value = self.value(&format!("{at}query.{name}"), value)?;
            matcher.query.push(QueryMatch { name: name.as_str().into(), value });
        }
        let matcher = (matcher != Matcher::default()).then(|| Arc::new(matcher));
        Ok(NativeMatch { path, matcher })
    }

    fn path(&self, at: &str, text: &str) -> Result<Arc<str>, Finding> {
        syntax::path(text).map_err(|message| self.error(at, "InvalidPath", message))
    }

    fn regex(&self, at: &str, text: &str) -> Result<Regex, Finding> {
        let whole = format!("^(?:{text})$");
        // The bare text first, so that an unbalanced bracket cannot escape the group.
        let bare = RegexBuilder::new(text).size_limit(REGEX_BYTES).build();
        let built = bare.and_then(|_| RegexBuilder::new(&whole).size_limit(REGEX_BYTES).build());
        built.map_err(|error| {
            let text = error.to_string();
            let last = text.lines().last().unwrap_or_default().trim().trim_start_matches("error: ");
            self.error(at, "InvalidRegex", format!("not a regular expression: {last}"))
        })
    }

    fn value(&self, at: &str, spec: &ValueSpec) -> Result<ValueMatch, Finding> {
        match spec {
            ValueSpec::Exact(text) => Ok(ValueMatch::Exact(Arc::clone(text))),
            ValueSpec::Regex(spec) => Ok(ValueMatch::Regex(self.regex(&format!("{at}.regex"), &spec.regex)?)),
        }
    }

    fn filters(&self, spec: &FiltersSpec, matches: &[NativeMatch]) -> Result<Filters, Finding> {
        let rewrite = match &spec.rewrite {
            None => None,
            Some(rewrite) => Some(Rewrite {
                hostname: self.hostname("filters.rewrite.hostname", rewrite.hostname.as_deref())?,
                path: self.path_modifier(
                    "filters.rewrite",
                    rewrite.path.as_deref(),
                    rewrite.prefix.as_deref(),
                    matches,
                )?,
            }),
        };
        Ok(Filters {
            request_headers: self.headers("filters.requestHeaders", &spec.request_headers)?,
            response_headers: self.headers("filters.responseHeaders", &spec.response_headers)?,
            rewrite,
        })
    }

    fn hostname(&self, at: &str, text: Option<&str>) -> Result<Option<Arc<str>>, Finding> {
        let Some(text) = text else { return Ok(None) };
        match syntax::hostname(text) {
            Ok(Hostname::Exact(host)) => Ok(Some(host)),
            Ok(_) => Err(self.error(at, "InvalidHost", format!("`{text}` is not a single host"))),
            Err(message) => Err(self.error(at, "InvalidHost", message)),
        }
    }

    fn path_modifier(
        &self,
        at: &str,
        whole: Option<&str>,
        prefix: Option<&str>,
        matches: &[NativeMatch],
    ) -> Result<Option<PathModifier>, Finding> {
        match (whole, prefix) {
            (None, None) => Ok(None),
            (Some(path), None) => {
                Ok(Some(PathModifier::ReplaceFullPath(self.path(&format!("{at}.path"), path)?)))
            }
            (None, Some(path)) => {
                if matches.iter().any(|one| !matches!(one.path, PathMatch::Prefix(_))) {
                    let message =
                        "a prefix can only be replaced where every match is a `pathPrefix`; use `path`";
                    return Err(self.error(&format!("{at}.prefix"), "InvalidFilter", message));
                }
                Ok(Some(PathModifier::ReplacePrefixMatch(self.path(&format!("{at}.prefix"), path)?)))
            }
            (Some(_), Some(_)) => {
                Err(self.error(at, "InvalidFilter", "write either `path` or `prefix`, not both"))
            }
        }
    }

    fn headers(&self, at: &str, spec: &HeadersSpec) -> Result<HeaderModifier, Finding> {
        let pairs = |what: &str, map: &BTreeMap<String, String>| {
            let pair = |(name, value): (&String, &String)| {
                let field = format!("{at}.{what}.{name}");
                let name = self.header_name(&field, name)?;
                if !syntax::is_field_value(value) {
                    return Err(self.error(
                        &field,
                        "InvalidHeader",
                        "the value has a line end or another control character",
                    ));
                }
                Ok((name, Arc::from(&**value)))
            };
            map.iter().map(pair).collect::<Result<Vec<_>, Finding>>()
        };
        let (set, add) = (pairs("set", &spec.set)?, pairs("add", &spec.add)?);
        let mut remove = Vec::with_capacity(spec.remove.len());
        for (index, name) in spec.remove.iter().enumerate() {
            remove.push(self.header_name(&format!("{at}.remove[{index}]"), name)?);
        }
        Ok(HeaderModifier { remove, set, add })
    }

    fn header_name(&self, at: &str, name: &str) -> Result<Arc<str>, Finding> {
        if !syntax::is_token(name) {
            return Err(self.error(at, "InvalidHeader", format!("`{name}` is not a header name")));
        }
        let name = name.to_ascii_lowercase();
        if MANAGED.contains(&&*name) {
            let message = format!("`{name}` is set by the gateway and cannot be changed here");
            return Err(self.error(at, "InvalidHeader", message));
        }
        Ok(name.into())
    }

    fn goal(&self, spec: &RouteSpec, matches: &[NativeMatch]) -> Result<NativeGoal, Finding> {
        let ways = usize::from(spec.backend.is_some())
            + usize::from(!spec.backends.is_empty())
            + usize::from(spec.filters.redirect.is_some());
        if ways != 1 {
            let message = "a route needs one of `backend`, `backends` and `filters.redirect`";
            let reason = if ways == 0 { "MissingField" } else { "InvalidRoute" };
            return Err(self.error("backend", reason, message));
        }
        if let Some(redirect) = &spec.filters.redirect {
            return Ok(NativeGoal::Redirect(Arc::new(self.redirect(redirect, matches)?)));
        }
        Ok(NativeGoal::Forward(self.shares("", spec.backend.as_ref(), &spec.backends)?))
    }

    /// Names with weights, of `backend` or `backends` below `at`.
    pub(super) fn shares(
        &self,
        at: &str,
        one: Option<&Arc<str>>,
        several: &[ShareSpec],
    ) -> Result<Vec<(Arc<str>, u32)>, Finding> {
        match (one, several) {
            (Some(backend), []) => return Ok(vec![(Arc::clone(backend), 1)]),
            (Some(_), _) => {
                let message = "write either `backend` or `backends`, not both";
                return Err(self.error(&format!("{at}backends"), "InvalidValue", message));
            }
            (None, []) => {
                return Err(self.error(&format!("{at}backend"), "MissingField", "`backend` is required"));
            }
            (None, _) => {}
        }
        let mut shares = Vec::with_capacity(several.len());
        for (index, share) in several.iter().enumerate() {
            self.range(&format!("{at}backends[{index}].weight"), share.weight, 0, 1_000_000)?;
            shares.push((Arc::clone(&share.name), share.weight.unwrap_or(1)));
        }
        if shares.iter().all(|(_, weight)| *weight == 0) {
            let message = "at least one weight must be more than zero";
            return Err(self.error(&format!("{at}backends"), "OutOfRange", message));
        }
        Ok(shares)
    }

    fn redirect(&self, spec: &RedirectSpec, matches: &[NativeMatch]) -> Result<Redirect, Finding> {
        let at = "filters.redirect";
        if let Some(scheme) = spec.scheme.as_deref().filter(|scheme| !matches!(*scheme, "http" | "https")) {
            let message = format!("`{scheme}` is not one of http, https");
            return Err(self.error(&format!("{at}.scheme"), "InvalidFilter", message));
        }
        let status = spec.status.unwrap_or(302);
        if !matches!(status, 301 | 302 | 303 | 307 | 308) {
            let message = format!("{status} is not one of 301, 302, 303, 307, 308");
            return Err(self.error(&format!("{at}.status"), "OutOfRange", message));
        }
        self.range(&format!("{at}.port"), spec.port, 1, u16::MAX)?;
        let redirect = Redirect {
            scheme: spec.scheme.as_deref().map(Arc::from),
            hostname: self.hostname(&format!("{at}.hostname"), spec.hostname.as_deref())?,
            port: spec.port,
            path: self.path_modifier(at, spec.path.as_deref(), spec.prefix.as_deref(), matches)?,
            status,
        };
        if redirect.scheme.is_none()
            && redirect.hostname.is_none()
            && redirect.port.is_none()
            && redirect.path.is_none()
        {
            let message =
                "say where to: `scheme`, `hostname`, `port`, `path` or `prefix`; else it leads to itself";
            return Err(self.error(at, "InvalidFilter", message));
        }
        Ok(redirect)
    }
}

/// Fields that frame a message or that the gateway sets itself.
const MANAGED: [&str; 17] = [
    "cdn-loop",
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-real-ip",
    "x-request-id",
];
