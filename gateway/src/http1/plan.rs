//! From a complete request head to a plan: parse, route, and write the onward head. One synchronous step, so
//! that its working memory can be shared by all connections of the worker.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use config::table::{
    BackendProtocol, Bind, BindConfig, ClientPolicy, PathMatch, RequestParts, RouteId, Rule, RulePolicy,
};

use super::authority::{Authority, parse_authority};
use super::connection::Peer;
use super::fields::Name;
use super::head::{self, RequestHead, Span};
use super::target::{Target, canonical_path, split_target, valid_query};
use super::write::{self, Onward, Request};
use crate::live::{Live, LiveBackend};
use crate::proxy::grpc::Rpc;
use crate::proxy::route::{self, Refusal};
use crate::record::Reason;
use crate::tls::Unserved;
use crate::worker::buffers::Head;
use crate::worker::{Current, Scratch, Worker};

/// A parsed request and what becomes of it.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) head: RequestHead,
    pub(crate) id: RequestId,
    pub(crate) client: IpAddr,
    pub(crate) current: Rc<Current>,
    pub(crate) config: Arc<BindConfig>,
    pub(crate) route: Option<RouteId>,
    pub(crate) then: Then,
    /// No further request is served on the connection.
    pub(crate) ends_connection: bool,
    /// `Strict-Transport-Security` of an answer of the gateway itself.
    pub(crate) hsts: Option<Arc<str>>,
}

/// What becomes of a request.
#[derive(Debug)]
pub(crate) enum Then {
    /// It is sent to an endpoint.
    Forward(Forward),
    /// The gateway redirects.
    Redirect { status: u16, location: Head },
    /// The gateway answers itself.
    Answer(Reason),
    /// The request is malformed: it is refused, and its connection ends.
    Refuse(Reason),
}

/// A request ready to be sent.
#[derive(Debug)]
pub(crate) struct Forward {
    pub(crate) policy: Arc<RulePolicy>,
    pub(crate) backend: Arc<LiveBackend>,
    /// Hash of the consistent-hash key.
    pub(crate) hash: u64,
    /// A call to an endpoint that can speak gRPC: its streams may be quiet.
    pub(crate) is_call: bool,
    /// The call is translated from this to gRPC, and its answer back.
    pub(crate) web: Rpc,
    /// The onward head; taken when it is sent.
    pub(crate) bytes: Option<Head>,
}

/// `X-Request-ID` of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RequestId {
    /// Made by the gateway.
    Ours([u8; 32]),
    /// Sent by a trusted peer.
    Theirs(Span),
}

impl RequestId {
    pub(crate) fn bytes<'a>(&'a self, head: &'a [u8]) -> &'a [u8] {
        match self {
            Self::Ours(id) => id,
            Self::Theirs(span) => span.get(head),
        }
    }
}

/// A request's parts for matchers.
struct Parts<'a> {
    request: Request<'a>,
    query: Option<&'a [u8]>,
}

impl RequestParts for Parts<'_> {
    fn method(&self) -> &[u8] {
        self.request.head.method.get(self.request.bytes)
    }

    fn query(&self) -> Option<&[u8]> {
        self.query
    }

    fn any_header(&self, name: &str, visit: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        let bytes = self.request.bytes;
        let named = |field: &&head::Field| field.name.get(bytes).eq_ignore_ascii_case(name.as_bytes());
        self.request.fields.iter().filter(named).any(|field| visit(field.value.get(bytes)))
    }
}

/// Makes a plan for the head at the start of `bytes`.
pub(crate) fn make(worker: &Worker, peer: &Peer, bytes: &[u8]) -> Plan {
    let current = worker.live();
    let bind = route::bind(&current.live, peer.key);
    let config = bind.map_or(&peer.config, |bind| &bind.config);
    let mut plan = Plan {
        head: RequestHead::default(),
        id: RequestId::Theirs(Span::default()),
        client: peer.address.ip(),
        config: Arc::clone(config),
        route: None,
        then: Then::Answer(Reason::NoRoute),
        ends_connection: false,
        hsts: None,
        current: Rc::clone(&current),
    };
    if let Err(reason) = fill(worker, peer, bytes, bind, &mut plan) {
        plan.then = Then::Refuse(reason);
    }
    plan
}

/// Fills a plan in place.
///
/// # Errors
/// The reason to refuse a malformed request with.
fn fill(
    worker: &Worker,
    peer: &Peer,
    bytes: &[u8],
    bind: Option<&Arc<Bind>>,
    plan: &mut Plan,
) -> Result<(), Reason> {
    let config = bind.map_or(&peer.config, |bind| &bind.config);
    let mut scratch = worker.scratch.borrow_mut();
    let scratch = &mut *scratch;
    scratch.uses += 1;
    plan.head = head::parse(bytes, &config.limits, &mut scratch.fields)?;
    let parsed = plan.head;
    if parsed.target.get(bytes).len() + 16 > config.limits.request_line_bytes as usize {
        return Err(Reason::UriTooLong);
    }
    let trusted = !config.trusted_proxies.0.is_empty() && config.trusted_proxies.contains(peer.address.ip());
    let request = Request { bytes, head: &parsed, fields: &scratch.fields };
    if trusted {
        plan.client = resolve_client(request, config, peer);
    }
    plan.id = request_id(worker, request, trusted);
    let target = split_target(parsed.target.get(bytes)).map_err(|_| Reason::BadRequest)?;
    plan_target(worker, peer, bytes, bind, target, trusted, scratch, plan)
}

#[expect(clippy::too_many_arguments, reason = "one step of `make`, split for length")]
fn plan_target(
    worker: &Worker,
    peer: &Peer,
    bytes: &[u8],
    bind: Option<&Arc<Bind>>,
    target: Target<'_>,
    trusted: bool,
    scratch: &mut Scratch,
    plan: &mut Plan,
) -> Result<(), Reason> {
    let host = plan.head.host.get(bytes);
    let (authority, path, query) = match target {
        Target::Asterisk if plan.head.method.get(bytes) == b"OPTIONS" => {
            plan.then = Then::Answer(Reason::Local);
            return check_host(host, plan.head.minor_version, &mut scratch.host);
        }
        Target::Asterisk => return Err(Reason::BadRequest),
        Target::Origin { path, query } => (host, path, query),
        Target::Absolute { scheme_https, .. } if scheme_https != peer.tls.is_some() => {
            return Err(Reason::BadRequest);
        }
        Target::Absolute { authority, path, query, scheme_https } => {
            let default_port = if scheme_https { 443 } else { 80 };
            same_authority(authority, host, default_port, &mut scratch.host, &mut scratch.rewritten)?;
            (authority, path, query)
        }
    };
    if query.is_some_and(|query| !valid_query(query)) {
        return Err(Reason::BadRequest);
    }
    let path = canonical_path(path, &mut scratch.path).map_err(|_| Reason::BadRequest)?;
    let requested = if authority.is_empty() && plan.head.minor_version == 0 {
        Authority { host: "", port: None, raw: b"" }
    } else {
        parse_authority(authority, &mut scratch.host).map_err(|_| Reason::BadRequest)?
    };
    let name = requested.host;
    let Some(bind) = bind else { return Ok(()) };
    let secured = match &peer.tls {
        Some(secured) => {
            let unserved = Unserved { reason: Reason::MisdirectedRequest, is_outdated: false };
            bind.tls.as_ref().map_or(Err(unserved), |map| secured.admits(map, name))
        }
        None => Ok(&b""[..]),
    };
    let identity = match secured {
        Ok(identity) => identity,
        Err(unserved) => {
            plan.then = Then::Answer(unserved.reason);
            plan.ends_connection = unserved.is_outdated;
            plan.hsts = bind.hosts.hsts(name).cloned();
            return Ok(());
        }
    };
    let request = Request { bytes, head: &plan.head, fields: &scratch.fields };
    let parts = Parts { request, query };
    let rule = match route::rule(bind, name, path, &parts, &mut scratch.rewritten) {
        Ok(rule) => rule,
        Err(Reason::NoRoute) => {
            plan.hsts = bind.hosts.hsts(name).filter(|_| peer.tls.is_some()).cloned();
            return Ok(());
        }
        Err(reason) => return Err(reason),
    };
    plan.route = Some(rule.route);
    plan.hsts = rule.policy.https.hsts.as_ref().filter(|_| peer.tls.is_some()).cloned();
    let to = Destination { peer, trusted, identity, requested, path, query };
    plan.then = decide(worker, plan, bind, rule, &parts, &to, (&mut scratch.rewritten, &mut scratch.merged))?;
    Ok(())
}

/// What `rule` makes of the request.
fn decide(
    worker: &Worker,
    plan: &Plan,
    bind: &Bind,
    rule: &Rule,
    parts: &Parts<'_>,
    to: &Destination<'_>,
    rewriting: (&mut Vec<u8>, &mut Vec<u8>),
) -> Result<Then, Reason> {
    if to.peer.tls.is_none()
        && let Some(encrypted) = to_https(&plan.current.live, bind, rule, to, parts.request)
    {
        let name = to.requested.host;
        return Ok(match encrypted {
            ToHttps::Port(_) if name.is_empty() => Then::Answer(Reason::BadRequest),
            ToHttps::Port(port) => {
                let mut location = worker.buffers.head();
                put_origin(&mut location, "https", name, Some(port).filter(|port| *port != 443));
                location.extend_from_slice(to.path.as_bytes());
                put_query(&mut location, to.query);
                Then::Redirect { status: 308, location }
            }
            ToHttps::Never(reason) => Then::Answer(reason),
        });
    }
    Ok(match route::split(rule) {
        Err(Refusal::Reason(reason)) => Then::Answer(reason),
        Err(Refusal::Redirect(redirect)) => {
            let mut out = worker.buffers.head();
            location(&mut out, redirect, rule, to, rewriting)?;
            Then::Redirect { status: redirect.status, location: out }
        }
        Ok(_) if plan.head.cdn_loop && has_gone_round(worker, parts.request) => {
            Then::Answer(Reason::LoopDetected)
        }
        Ok(split) => match route::backend(&plan.current.live, split, worker.random.borrow_mut().u64(..)) {
            Err(reason) => Then::Answer(reason),
            Ok(backend) => Then::Forward(forward(worker, plan, parts, rule, backend, to, rewriting)?),
        },
    })
}

/// Whether the request has been here as often as one may.
#[cold]
fn has_gone_round(worker: &Worker, request: Request<'_>) -> bool {
    let fields = request.fields.iter().filter(|field| field.kind == Name::CdnLoop);
    worker.loop_token().has_gone_round(fields.map(|field| field.value.get(request.bytes)))
}

struct Destination<'a> {
    peer: &'a Peer,
    trusted: bool,
    identity: &'a [u8],
    requested: Authority<'a>,
    path: &'a str,
    query: Option<&'a [u8]>,
}

fn forward(
    worker: &Worker,
    plan: &Plan,
    parts: &Parts<'_>,
    rule: &Rule,
    backend: &Arc<LiveBackend>,
    to: &Destination<'_>,
    (rewritten, scratch): (&mut Vec<u8>, &mut Vec<u8>),
) -> Result<Forward, Reason> {
    let filters = &rule.policy.filters;
    let rewrite = filters.rewrite.as_ref();
    let path = match rewrite.and_then(|rewrite| rewrite.path.as_ref()) {
        None => to.path,
        Some(modifier) => {
            route::modified_path(modifier, &rule.path, to.path, rewritten, scratch)?;
            std::str::from_utf8(rewritten).map_err(|_| Reason::BadRequest)?
        }
    };
    let resolved;
    let client = if plan.client == to.peer.address.ip() {
        to.peer.text.as_bytes()
    } else {
        resolved = IpText::new(plan.client);
        resolved.as_bytes()
    };
    let hash = backend.needs_hash().map_or(0, |key| route::hash(key, client, (path, to.query), parts));
    // Only who speaks HTTP/2 can speak gRPC; others get what was sent.
    let speaks_grpc = backend.config.policy.protocol == BackendProtocol::Http2;
    let is_call = speaks_grpc && plan.head.rpc.is_call();
    let web = if is_call && plan.head.rpc.is_web() { plan.head.rpc } else { Rpc::None };
    let hostname = rewrite.and_then(|rewrite| rewrite.hostname.as_ref());
    let onward = Onward {
        path,
        query: to.query,
        host: hostname.map_or(to.requested.raw, |host| host.as_bytes()),
        original_host: to.requested.raw,
        trusted: to.trusted,
        secure: to.peer.tls.is_some(),
        identity: to.identity,
        peer: to.peer.text.as_bytes(),
        client,
        port: to.peer.port.as_bytes(),
        request_id: plan.id.bytes(parts.request.bytes),
        token: worker.loop_token(),
        modifier: &filters.request_headers,
        to_grpc: web.is_call(),
    };
    let mut bytes = worker.buffers.head();
    write::request(&mut bytes, parts.request, &onward);
    Ok(Forward {
        policy: Arc::clone(&rule.policy),
        backend: Arc::clone(backend),
        hash,
        is_call,
        web,
        bytes: Some(bytes),
    })
}

/// `OPTIONS *` needs a valid Host as every request does.
fn check_host(host: &[u8], minor_version: u8, scratch: &mut Vec<u8>) -> Result<(), Reason> {
    if host.is_empty() && minor_version == 0 {
        return Ok(());
    }
    parse_authority(host, scratch).map(|_| ()).map_err(|_| Reason::BadRequest)
}

/// An absolute-form target must name the same authority as Host, default port aside: a mismatch is how
/// requests are smuggled past what was checked.
fn same_authority(
    target: &[u8],
    host: &[u8],
    default_port: u16,
    one: &mut Vec<u8>,
    other: &mut Vec<u8>,
) -> Result<(), Reason> {
    let target = parse_authority(target, one).map_err(|_| Reason::BadRequest)?;
    let host = parse_authority(host, other).map_err(|_| Reason::BadRequest)?;
    let port = |port: Option<u16>| port.unwrap_or(default_port);
    let same = target.host == host.host && port(target.port) == port(host.port);
    if same { Ok(()) } else { Err(Reason::BadRequest) }
}

/// Where a request in cleartext has to go instead.
enum ToHttps {
    /// To `https` on this port.
    Port(u16),
    /// Nowhere.
    Never(Reason),
}

/// Whether a request in cleartext must not be served, because its host demands a certificate of clients, or shall not,
/// because its rule demands `https`.
fn to_https(
    live: &Live,
    bind: &Bind,
    rule: &Rule,
    to: &Destination<'_>,
    request: Request<'_>,
) -> Option<ToHttps> {
    let is_challenge = to.path.starts_with(ACME);
    let redirect = rule.policy.https.redirect;
    let policy = bind.tls.as_ref().and_then(|map| map.policy(to.requested.host));
    // A trusted proxy in front has ended TLS: a redirect would lead to the same place.
    let was_https = || to.trusted && write::forwarded_proto(request).eq_ignore_ascii_case(b"https");
    match policy.map(|policy| &policy.client) {
        Some(ClientPolicy::Closed) => return Some(ToHttps::Never(Reason::InvalidSetting)),
        Some(ClientPolicy::Require(_)) if was_https() => {
            return Some(ToHttps::Never(Reason::MisdirectedRequest));
        }
        // Authorities have no certificate to show. They are answered by what is there for them, and by nothing else.
        Some(ClientPolicy::Require(_)) if is_challenge => {
            return (!is_for_challenges(&rule.path)).then_some(ToHttps::Never(Reason::NoRoute));
        }
        Some(ClientPolicy::Require(_)) => {
            let encrypted = || live.table.binds.iter().find(|bind| bind.config.https);
            let port = redirect.or_else(|| encrypted().map(|bind| bind.config.address.port()));
            return Some(ToHttps::Port(port.unwrap_or(443)));
        }
        Some(ClientPolicy::None | ClientPolicy::Optional(_) | ClientPolicy::OptionalNoCa) | None => {}
    }
    redirect.filter(|_| !is_challenge && !was_https()).map(ToHttps::Port)
}

/// Paths at which an authority looks whether a host is ours (RFC 8555 §8.3).
const ACME: &str = "/.well-known/acme-challenge/";

/// Whether a rule is for challenges only.
fn is_for_challenges(path: &PathMatch) -> bool {
    match path {
        PathMatch::Exact(path) => path.starts_with(ACME),
        PathMatch::Prefix(path) => path.starts_with(ACME) || **path == *ACME.trim_end_matches('/'),
        PathMatch::Regex(_) => false,
    }
}

fn put_origin(out: &mut Vec<u8>, scheme: &str, host: &str, port: Option<u16>) {
    out.extend_from_slice(scheme.as_bytes());
    out.extend_from_slice(b"://");
    out.extend_from_slice(host.as_bytes());
    if let Some(port) = port {
        out.push(b':');
        out.extend_from_slice(itoa::Buffer::new().format(port).as_bytes());
    }
}

fn put_query(out: &mut Vec<u8>, query: Option<&[u8]>) {
    if let Some(query) = query {
        out.push(b'?');
        out.extend_from_slice(query);
    }
}

/// The first address from the right of `X-Forwarded-For` that no trusted proxy has.
fn resolve_client(request: Request<'_>, config: &BindConfig, peer: &Peer) -> IpAddr {
    let mut client = peer.address.ip();
    for hop in write::forwarded_for(request).take(16) {
        if !config.trusted_proxies.contains(client) {
            break;
        }
        let Ok(address) = hop.parse::<IpAddr>() else { break };
        client = address.to_canonical();
    }
    client
}

fn request_id(worker: &Worker, request: Request<'_>, trusted: bool) -> RequestId {
    if trusted
        && let Some(field) = request.fields.iter().find(|field| field.kind == Name::RequestId)
        && write::is_request_id(field.value.get(request.bytes))
    {
        return RequestId::Theirs(field.value);
    }
    RequestId::Ours(write::hex(worker.random.borrow_mut().u128(..)))
}

fn location(
    out: &mut Vec<u8>,
    redirect: &config::table::Redirect,
    rule: &Rule,
    to: &Destination<'_>,
    (modified, scratch): (&mut Vec<u8>, &mut Vec<u8>),
) -> Result<(), Reason> {
    let Destination { peer, requested, path, query, .. } = *to;
    let connection = if peer.tls.is_some() { "https" } else { "http" };
    let scheme = redirect.scheme.as_deref().unwrap_or(connection);
    let host = redirect.hostname.as_deref().unwrap_or(requested.host);
    // Without a port setting: the request's port, unless the scheme changes to one with its own default.
    let port = redirect.port.or_else(|| requested.port.filter(|_| redirect.scheme.is_none()));
    let is_default = |port: &u16| matches!((scheme, *port), ("http", 80) | ("https", 443));
    put_origin(out, scheme, host, port.filter(|port| !is_default(port)));
    match &redirect.path {
        None => out.extend_from_slice(path.as_bytes()),
        Some(modifier) => {
            route::modified_path(modifier, &rule.path, path, modified, scratch)?;
            out.extend_from_slice(modified);
        }
    }
    put_query(out, query);
    Ok(())
}

/// An address or port as text, without allocation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IpText {
    bytes: [u8; 45],
    length: u8,
}

impl IpText {
    /// The text of `value`, cut at 45 bytes (no address is longer).
    pub(crate) fn new(value: impl std::fmt::Display) -> Self {
        use std::io::Write as _;
        let mut out = Self { bytes: [0; 45], length: 0 };
        let mut rest = &mut out.bytes[..];
        // An error means that the text did not fit, which no address reaches.
        let _fits = write!(rest, "{value}");
        out.length = u8::try_from(45 - rest.len()).unwrap_or(0);
        out
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or_default()
    }
}
