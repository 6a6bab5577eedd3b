//! Writes canonical heads: every byte of framing is ours, every field is re-emitted from its parsed parts.

use super::fields::{self, Name};
use super::head::{Field, Framing, RequestHead, Span};
use super::response::ResponseHead;
use crate::proxy::cdn_loop::LoopToken;
use crate::proxy::grpc::Rpc;
use config::table::HeaderModifier;

/// Hops of `X-Forwarded-For` that are kept from a trusted peer.
const MAX_HOPS: usize = 16;

/// A request head with the fields that were parsed from it.
#[derive(Clone, Copy)]
pub(crate) struct Request<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) head: &'a RequestHead,
    pub(crate) fields: &'a [Field],
}

/// What the gateway decided about the forwarded request.
#[derive(Clone, Copy)]
pub(crate) struct Onward<'a> {
    /// Canonical or rewritten path.
    pub(crate) path: &'a str,
    pub(crate) query: Option<&'a [u8]>,
    /// Authority to send.
    pub(crate) host: &'a [u8],
    /// Authority as the client sent it.
    pub(crate) original_host: &'a [u8],
    /// The peer may set forwarding fields.
    pub(crate) trusted: bool,
    /// The connected peer, as text.
    pub(crate) peer: &'a [u8],
    /// The client as resolved, as text.
    pub(crate) client: &'a [u8],
    /// The client's connection is encrypted.
    pub(crate) secure: bool,
    /// Lines that tell of the client's certificate.
    pub(crate) identity: &'a [u8],
    /// Local port, as text.
    pub(crate) port: &'a [u8],
    pub(crate) request_id: &'a [u8],
    /// What this process adds to `CDN-Loop`.
    pub(crate) token: &'a LoopToken,
    pub(crate) modifier: &'a HeaderModifier,
    /// The call is translated from gRPC-Web to gRPC.
    pub(crate) to_grpc: bool,
}

macro_rules! put {
    ($out:expr, $($part:expr),+ $(,)?) => {{ $( $out.extend_from_slice($part); )+ }};
}

/// Writes the head of the request to the endpoint.
pub(crate) fn request(out: &mut Vec<u8>, from: Request<'_>, to: &Onward<'_>) {
    let method = from.head.method.get(from.bytes);
    put!(out, method, b" ", to.path.as_bytes());
    if let Some(query) = to.query {
        put!(out, b"?", query);
    }
    put!(out, b" HTTP/1.1\r\nHost: ", to.host, b"\r\n");
    let mut kept = Kept::default();
    for field in from.fields {
        if request_field_passes(field, from, to, &mut kept) {
            put!(out, field.name.get(from.bytes), b": ");
            if to.to_grpc && field.kind == Name::ContentType {
                let (media_type, suffix) = Rpc::Grpc.retyped(field.value.get(from.bytes));
                put!(out, media_type, suffix, b"\r\n");
            } else {
                put!(out, field.value.get(from.bytes), b"\r\n");
            }
        }
    }
    forwarding(out, from, to, &kept);
    modifications(out, to.modifier);
    match from.head.framing {
        Framing::Length(length) if !to.to_grpc => {
            put!(out, b"Content-Length: ", itoa::Buffer::new().format(length).as_bytes(), b"\r\n")
        }
        // A translation may change the length.
        Framing::Chunked | Framing::Length(_) => put!(out, b"Transfer-Encoding: chunked\r\n"),
        Framing::None | Framing::Close => {}
    }
    if from.head.expect_continue {
        put!(out, b"Expect: 100-continue\r\n");
    }
    if from.head.websocket {
        put!(out, b"Connection: Upgrade\r\nUpgrade: websocket\r\n");
    } else if from.head.te_trailers || to.to_grpc {
        put!(out, b"Connection: TE\r\nTE: trailers\r\n");
    }
    put!(out, b"\r\n");
}

/// Which forwarding fields of a trusted peer were passed on as they came.
#[derive(Default)]
struct Kept {
    proto: bool,
    host: bool,
    port: bool,
}

fn request_field_passes(field: &Field, from: Request<'_>, to: &Onward<'_>, kept: &mut Kept) -> bool {
    let passes = match field.kind {
        Name::Other
        | Name::UserAgent
        | Name::Referer
        | Name::WebSocketKey
        | Name::WebSocketVersion
        | Name::WebSocketAccept
        | Name::ContentType
        | Name::CdnLoop
        | Name::GrpcTimeout
        | Name::IdempotencyKey => true,
        Name::ForwardedProto => to.trusted && !std::mem::replace(&mut kept.proto, true),
        Name::ForwardedHost => to.trusted && !std::mem::replace(&mut kept.host, true),
        Name::ForwardedPort => to.trusted && !std::mem::replace(&mut kept.port, true),
        Name::ForwardingIdentity => to.trusted,
        Name::Trailer => from.head.te_trailers,
        Name::Host
        | Name::ContentLength
        | Name::TransferEncoding
        | Name::Connection
        | Name::Expect
        | Name::Upgrade
        | Name::Te
        | Name::HopByHop
        | Name::ForwardedFor
        | Name::RealIp
        | Name::RequestId
        | Name::ClientCertificate
        | Name::Alias
        | Name::KeepAlive => false,
    };
    passes
        && !(from.head.nominates && is_nominated(field.name, from.bytes, from.fields))
        && (to.modifier.is_empty() || !is_modified(to.modifier, field.name.get(from.bytes)))
}

/// Whether a `Connection` field names `name`.
#[cold]
fn is_nominated(name: Span, bytes: &[u8], fields: &[Field]) -> bool {
    let name = name.get(bytes);
    let connection = fields.iter().filter(|field| field.kind == Name::Connection);
    let mut options = connection.flat_map(|field| fields::list(field.value.get(bytes)));
    options.any(|option| option.eq_ignore_ascii_case(name))
}

fn is_modified(modifier: &HeaderModifier, name: &[u8]) -> bool {
    let is = |other: &str| other.as_bytes().eq_ignore_ascii_case(name);
    modifier.remove.iter().any(|other| is(other)) || modifier.set.iter().any(|(other, _)| is(other))
}

fn modifications(out: &mut Vec<u8>, modifier: &HeaderModifier) {
    for (name, value) in modifier.set.iter().chain(&modifier.add) {
        put!(out, name.as_bytes(), b": ", value.as_bytes(), b"\r\n");
    }
}

fn forwarding(out: &mut Vec<u8>, from: Request<'_>, to: &Onward<'_>, kept: &Kept) {
    put!(out, b"X-Forwarded-For: ");
    if to.trusted {
        former_hops(out, from);
    }
    put!(out, to.peer, b"\r\n");
    if !kept.proto {
        let proto: &[u8] = if to.secure { b"https" } else { b"http" };
        put!(out, b"X-Forwarded-Proto: ", proto, b"\r\n");
    }
    if !kept.host && !to.original_host.is_empty() {
        put!(out, b"X-Forwarded-Host: ", to.original_host, b"\r\n");
    }
    if !kept.port {
        put!(out, b"X-Forwarded-Port: ", to.port, b"\r\n");
    }
    put!(
        out,
        b"X-Real-IP: ",
        to.client,
        b"\r\nX-Request-ID: ",
        to.request_id,
        b"\r\n",
        to.identity,
        to.token.line()
    );
}

/// The last [`MAX_HOPS`] addresses of the incoming `X-Forwarded-For`, in order, each followed by `, `. What
/// does not parse as an address ends the list from the right: nothing beyond it can be believed.
#[cold]
fn former_hops(out: &mut Vec<u8>, from: Request<'_>) {
    let mut hops = [""; MAX_HOPS];
    let mut count = 0;
    for hop in forwarded_for(from).take(MAX_HOPS) {
        if let Some(slot) = hops.get_mut(count) {
            *slot = hop;
            count += 1;
        }
    }
    for hop in hops.iter().take(count).rev() {
        put!(out, hop.as_bytes(), b", ");
    }
}

/// The addresses of all `X-Forwarded-For` fields from the last to the first, up to the first that is none.
pub(crate) fn forwarded_for<'a>(from: Request<'a>) -> impl Iterator<Item = &'a str> {
    let fields = from.fields.iter().rev().filter(|field| field.kind == Name::ForwardedFor);
    fields
        .flat_map(move |field| field.value.get(from.bytes).rsplit(|byte| *byte == b',').map(fields::trim))
        .map_while(|hop| {
            std::str::from_utf8(hop).ok().filter(|text| text.parse::<std::net::IpAddr>().is_ok())
        })
}

/// The first `X-Forwarded-Proto`, as it came; empty without one.
pub(crate) fn forwarded_proto(from: Request<'_>) -> &[u8] {
    let field = from.fields.iter().find(|field| field.kind == Name::ForwardedProto);
    field.map_or(b"", |field| field.value.get(from.bytes))
}

/// How the response is framed towards the client and what becomes of the connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Delivery {
    pub(crate) framing: Framing,
    /// `Connection: close` is announced.
    pub(crate) close: bool,
    /// The client speaks HTTP/1.0 (and must be told that the connection is kept).
    pub(crate) http10: bool,
    /// The client accepts trailers.
    pub(crate) trailers: bool,
    /// What the answer to a call is translated to.
    pub(crate) web: Rpc,
}

/// Writes the head of the response to the client.
pub(crate) fn response(
    out: &mut Vec<u8>,
    bytes: &[u8],
    head: &ResponseHead,
    fields: &[Field],
    delivery: Delivery,
    modifier: &HeaderModifier,
    hsts: Option<&str>,
) {
    put!(out, b"HTTP/1.1 ", itoa::Buffer::new().format(head.status).as_bytes(), b" ");
    put!(out, head.reason.get(bytes), b"\r\n");
    let mut has_length = delivery.framing == Framing::None && !matches!(head.status, 100..=199 | 204);
    for field in fields {
        let passes = match field.kind {
            Name::Connection
            | Name::KeepAlive
            | Name::TransferEncoding
            | Name::Upgrade
            | Name::HopByHop
            | Name::Te
            | Name::Alias => false,
            // HEAD and 304 carry the length that a GET would have had; repeated ones are equal.
            Name::ContentLength => std::mem::take(&mut has_length),
            Name::Trailer => delivery.trailers,
            _ => true,
        };
        if !passes
            || (head.nominates && is_nominated(field.name, bytes, fields))
            || (!modifier.is_empty() && is_modified(modifier, field.name.get(bytes)))
            || (hsts.is_some() && field.name.get(bytes).eq_ignore_ascii_case(b"strict-transport-security"))
        {
            continue;
        }
        put!(out, field.name.get(bytes), b": ");
        match fields::decimal(field.value.get(bytes)).filter(|_| field.kind == Name::ContentLength) {
            Some(length) => out.extend_from_slice(itoa::Buffer::new().format(length).as_bytes()),
            None if delivery.web.is_call() && field.kind == Name::ContentType => {
                let (media_type, suffix) = delivery.web.retyped(field.value.get(bytes));
                put!(out, media_type, suffix);
            }
            None => value_on_one_line(out, field.value.get(bytes)),
        }
        put!(out, b"\r\n");
    }
    modifications(out, modifier);
    if let Some(hsts) = hsts {
        put!(out, b"Strict-Transport-Security: ", hsts.as_bytes(), b"\r\n");
    }
    match delivery.framing {
        Framing::Length(length) => {
            put!(out, b"Content-Length: ", itoa::Buffer::new().format(length).as_bytes(), b"\r\n")
        }
        Framing::Chunked => put!(out, b"Transfer-Encoding: chunked\r\n"),
        Framing::None | Framing::Close => {}
    }
    if head.status == 101 {
        put!(out, b"Connection: Upgrade\r\nUpgrade: websocket\r\n");
    } else if delivery.close && head.status >= 200 {
        put!(out, b"Connection: close\r\n");
    } else if delivery.http10 {
        put!(out, b"Connection: keep-alive\r\n");
    }
    put!(out, b"\r\n");
}

/// Replaces each obsolete line fold by one space (RFC 9112 §5.2).
fn value_on_one_line(out: &mut Vec<u8>, value: &[u8]) {
    if memchr::memchr2(b'\r', b'\n', value).is_none() {
        out.extend_from_slice(value);
        return;
    }
    let lines = value.split(|byte| matches!(byte, b'\r' | b'\n')).map(fields::trim);
    for (index, line) in lines.filter(|line| !line.is_empty()).enumerate() {
        if index > 0 {
            out.push(b' ');
        }
        out.extend_from_slice(line);
    }
}

/// Fields that must not stand in a trailer section (RFC 9110 §6.5.1), dropped while copying `trailers`.
pub(crate) fn trailers(out: &mut Vec<u8>, trailers: &[u8]) {
    const FORBIDDEN: [&str; 10] = [
        "authorization",
        "set-cookie",
        "cookie",
        "content-type",
        "content-encoding",
        "content-range",
        "cache-control",
        "www-authenticate",
        "location",
        "max-forwards",
    ];
    for line in trailers.split(|byte| *byte == b'\n').map(fields::trim_line) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let name = line.get(..colon).unwrap_or_default();
        let managed = !matches!(fields::classify(name), Name::Other);
        if managed || FORBIDDEN.iter().any(|other| other.as_bytes().eq_ignore_ascii_case(name)) {
            continue;
        }
        put!(out, name, b": ", fields::trim(line.get(colon + 1..).unwrap_or_default()), b"\r\n");
    }
}

/// Hexadecimal digits of `value`.
pub(crate) fn hex(value: u128) -> [u8; 32] {
    let mut out = [0; 32];
    for (digits, byte) in out.chunks_exact_mut(2).zip(value.to_be_bytes()) {
        digits.copy_from_slice(HEX.get(usize::from(byte)).unwrap_or(b"00"));
    }
    out
}

/// byte → its two digits
static HEX: [[u8; 2]; 256] = {
    let mut out = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        #[expect(clippy::indexing_slicing, reason = "evaluated at compile time")]
        {
            let digits = b"0123456789abcdef";
            out[byte] = [digits[byte >> 4], digits[byte & 15]];
        }
        byte += 1;
    }
    out
};

/// Whether a received `X-Request-ID` may be passed on: at most 128 visible token bytes, so that it can hurt no
/// log.
pub(crate) fn is_request_id(value: &[u8]) -> bool {
    value.len() <= 128 && fields::is_token(value)
}
