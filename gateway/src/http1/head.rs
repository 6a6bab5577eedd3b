//! Parse of a complete request head (RFC 9112 §3, §5, §6): tokens by `httparse`, everything that decides on
//! framing, identity and routing by us. What is ambiguous is refused.

use std::mem::MaybeUninit;

use super::fields::{self, Name};
use super::scan::lines_end_with_crlf;
use crate::proxy::grpc::Rpc;
use crate::record::Reason;
use config::table::Limits;

/// Fields that one head may have at most, whatever the setting (size of the parse array).
pub(crate) const MAX_FIELDS: usize = 256;
/// Longest method; longer ones are not implemented by anybody.
pub(crate) const MAX_METHOD: usize = 32;
/// Largest accepted Content-Length.
const MAX_LENGTH: u64 = i64::MAX as u64;

/// A part of the head, relative to its first byte.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Span {
    at: u32,
    len: u32,
}

impl Span {
    /// The part of `head` that `part` is; empty if it is none.
    pub(crate) fn of(head: &[u8], part: &[u8]) -> Self {
        let at = (part.as_ptr() as usize).wrapping_sub(head.as_ptr() as usize);
        // Heads are far below 4 GiB, so that nothing is cut off once the part is known to lie within.
        if at <= head.len() && part.len() <= head.len() - at {
            Self { at: at as u32, len: part.len() as u32 }
        } else {
            Self::default()
        }
    }

    /// Position of the first byte.
    pub(crate) fn start(self) -> usize {
        self.at as usize
    }

    /// The bytes of this part.
    #[inline]
    pub(crate) fn get(self, head: &[u8]) -> &[u8] {
        head.get(self.at as usize..(self.at + self.len) as usize).unwrap_or_default()
    }
}

/// One header field.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    pub(crate) name: Span,
    pub(crate) value: Span,
    pub(crate) kind: Name,
}

/// How the body of a message is delimited.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Framing {
    /// No body.
    #[default]
    None,
    /// Exactly this many bytes; 0 when `Content-Length: 0` was sent.
    Length(u64),
    /// Chunked transfer coding.
    Chunked,
    /// Until the connection closes (responses only).
    Close,
}

/// What the head says, apart from the list of its fields.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RequestHead {
    /// Bytes of the head, its empty line included.
    pub(crate) length: usize,
    pub(crate) method: Span,
    pub(crate) target: Span,
    pub(crate) host: Span,
    pub(crate) user_agent: Span,
    pub(crate) referer: Span,
    pub(crate) minor_version: u8,
    pub(crate) framing: Framing,
    /// The client wants the connection kept.
    pub(crate) keep_alive: bool,
    /// `Expect: 100-continue` with a body to come.
    pub(crate) expect_continue: bool,
    /// A valid WebSocket upgrade (RFC 6455 §4.1).
    pub(crate) websocket: bool,
    /// `Sec-WebSocket-Key`.
    pub(crate) websocket_key: Span,
    /// `TE: trailers`.
    pub(crate) te_trailers: bool,
    /// `Connection` names further fields that must be removed.
    pub(crate) nominates: bool,
    /// Safe to repeat: an idempotent method (RFC 9110 §9.2.2) or an `Idempotency-Key`.
    pub(crate) idempotent: bool,
    pub(crate) is_head: bool,
    /// A call of gRPC.
    pub(crate) rpc: Rpc,
    /// `grpc-timeout`.
    pub(crate) grpc_timeout: Span,
    /// There is a `CDN-Loop`.
    pub(crate) cdn_loop: bool,
}

impl RequestHead {
    /// Nothing follows it: the client has announced its end (RFC 9112 §9.6), and there is no body, behind which old clients
    /// send an empty line (§2.2).
    pub(crate) fn is_last_word(&self) -> bool {
        !self.keep_alive && matches!(self.framing, Framing::None | Framing::Length(0))
    }
}

/// Parses the head at the start of `bytes`, which end where it ends or later. Fills `fields`.
///
/// # Errors
/// The [`Reason`] to answer with; nothing of such a request may be forwarded.
pub(crate) fn parse(bytes: &[u8], limits: &Limits, fields: &mut Vec<Field>) -> Result<RequestHead, Reason> {
    let mut headers = [const { MaybeUninit::<httparse::Header<'_>>::uninit() }; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut []);
    // The parser skips any number of empty lines.
    if bytes.first().is_some_and(|byte| matches!(byte, b'\r' | b'\n')) {
        return Err(Reason::BadRequest);
    }
    let head = match request.parse_with_uninit_headers(bytes, &mut headers) {
        Ok(httparse::Status::Complete(length)) => bytes.get(..length).unwrap_or_default(),
        Ok(httparse::Status::Partial) => return Err(Reason::BadRequest),
        Err(httparse::Error::TooManyHeaders) => return Err(Reason::HeaderTooLarge),
        Err(_) => return Err(first_line_fault(bytes)),
    };
    if request.headers.len() > usize::from(limits.head_fields) {
        return Err(Reason::HeaderTooLarge);
    }
    fields.clear();
    for header in request.headers.iter() {
        let name = header.name.as_bytes();
        let value = fields::trim(header.value);
        let kind = fields::classify(name);
        fields.push(Field { name: Span::of(head, name), value: Span::of(head, value), kind });
    }
    if !lines_end_with_crlf(head, fields) {
        return Err(Reason::BadRequest);
    }
    let method = request.method.unwrap_or_default().as_bytes();
    let mut out = RequestHead {
        length: head.len(),
        method: Span::of(head, method),
        target: Span::of(head, request.path.unwrap_or_default().as_bytes()),
        minor_version: request.version.unwrap_or(1),
        ..RequestHead::default()
    };
    out.keep_alive = out.minor_version == 1;
    check_method(method)?;
    interpret(head, fields, &mut out)?;
    Ok(out)
}

fn check_method(method: &[u8]) -> Result<(), Reason> {
    match method {
        b"CONNECT" | b"TRACE" => Err(Reason::MethodNotAllowed),
        _ if method.len() > MAX_METHOD => Err(Reason::NotImplemented),
        _ => Ok(()),
    }
}

/// 505 for a well-formed version that is not ours (RFC 9110 §15.6.6), 400 for everything else.
fn first_line_fault(head: &[u8]) -> Reason {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let version = line.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
    let parts = line.split(|byte| *byte == b' ').count();
    match version {
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if parts == 3
                && major.is_ascii_digit()
                && minor.is_ascii_digit()
                && !matches!(version, b"HTTP/1.0" | b"HTTP/1.1") =>
        {
            Reason::VersionNotSupported
        }
        _ => Reason::BadRequest,
    }
}

/// What the fields that decide on framing and identity were seen to be.
#[derive(Default)]
struct Seen<'a> {
    length: Option<&'a [u8]>,
    coding: Option<&'a [u8]>,
    host: bool,
    expect: Option<&'a [u8]>,
    upgrade: Option<&'a [u8]>,
    ws_key: Option<&'a [u8]>,
    ws_version: Option<&'a [u8]>,
    close: bool,
    keep_alive: bool,
    upgrade_option: bool,
    idempotency_key: bool,
}

fn interpret(head: &[u8], fields: &[Field], out: &mut RequestHead) -> Result<(), Reason> {
    let mut seen = Seen::default();
    for field in fields {
        let value = field.value.get(head);
        match field.kind {
            Name::Host => {
                if std::mem::replace(&mut seen.host, true) {
                    return Err(Reason::BadRequest);
                }
                out.host = field.value;
            }
            Name::ContentLength => once(&mut seen.length, value)?,
            Name::TransferEncoding => once(&mut seen.coding, value)?,
            Name::Connection => connection_options(value, &mut seen, out)?,
            Name::Expect => seen.expectation(value, out.minor_version)?,
            Name::Upgrade => once(&mut seen.upgrade, value)?,
            Name::Te => {
                out.te_trailers |= fields::list(value).any(|coding| coding.eq_ignore_ascii_case(b"trailers"))
            }
            Name::UserAgent => out.user_agent = field.value,
            Name::Referer => out.referer = field.value,
            Name::WebSocketKey => {
                once(&mut seen.ws_key, value)?;
                out.websocket_key = field.value;
            }
            Name::WebSocketVersion => seen.ws_version = Some(value),
            Name::IdempotencyKey => seen.idempotency_key = true,
            Name::ContentType => out.rpc = Rpc::of(value),
            Name::GrpcTimeout => out.grpc_timeout = field.value,
            Name::CdnLoop => out.cdn_loop = true,
            _ => {}
        }
    }
    if !seen.host && out.minor_version == 1 {
        return Err(Reason::BadRequest);
    }
    out.framing = framing(&seen, out.minor_version)?;
    let method = out.method.get(head);
    out.is_head = method == b"HEAD";
    out.idempotent =
        matches!(method, b"GET" | b"HEAD" | b"OPTIONS" | b"PUT" | b"DELETE") || seen.idempotency_key;
    out.keep_alive = !seen.close && (out.minor_version == 1 || seen.keep_alive);
    expectation(&seen, out)?;
    websocket(&seen, method, out)
}

impl<'a> Seen<'a> {
    /// An expectation of an HTTP/1.0 client is ignored (RFC 9110 §10.1.1).
    fn expectation(&mut self, value: &'a [u8], minor_version: u8) -> Result<(), Reason> {
        if minor_version == 1 && self.expect.replace(value).is_some() {
            return Err(Reason::ExpectationFailed);
        }
        Ok(())
    }
}

fn once<'a>(slot: &mut Option<&'a [u8]>, value: &'a [u8]) -> Result<(), Reason> {
    if slot.replace(value).is_some() { Err(Reason::BadRequest) } else { Ok(()) }
}

fn connection_options(value: &[u8], seen: &mut Seen<'_>, out: &mut RequestHead) -> Result<(), Reason> {
    for option in fields::list(value) {
        if option.is_empty() {
            continue;
        }
        if option.eq_ignore_ascii_case(b"keep-alive") {
            seen.keep_alive = true;
        } else if option.eq_ignore_ascii_case(b"close") {
            seen.close = true;
        } else if option.eq_ignore_ascii_case(b"upgrade") {
            seen.upgrade_option = true;
        } else if !fields::is_token(option) || fields::is_protected(option) {
            return Err(Reason::BadRequest);
        } else if !option.eq_ignore_ascii_case(b"te") {
            out.nominates = true;
        }
    }
    Ok(())
}

/// RFC 9112 §6.3 with every choice it leaves open made for refusal.
fn framing(seen: &Seen<'_>, minor_version: u8) -> Result<Framing, Reason> {
    match (seen.length, seen.coding) {
        (None, None) => Ok(Framing::None),
        (Some(_), Some(_)) => Err(Reason::BadRequest),
        (Some(length), None) => content_length(length).map(Framing::Length),
        (None, Some(_)) if minor_version == 0 => Err(Reason::BadRequest),
        (None, Some(coding)) => transfer_coding(coding).map(|()| Framing::Chunked),
    }
}

fn content_length(value: &[u8]) -> Result<u64, Reason> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(Reason::BadRequest);
    }
    fields::decimal(value).filter(|length| *length <= MAX_LENGTH).ok_or(Reason::ContentTooLarge)
}

/// `chunked` alone is understood. Other codings before a final `chunked` are well-formed but not implemented.
fn transfer_coding(value: &[u8]) -> Result<(), Reason> {
    if value.eq_ignore_ascii_case(b"chunked") {
        return Ok(());
    }
    if !fields::list(value).all(fields::is_token) {
        return Err(Reason::BadRequest);
    }
    let chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
    let count = fields::list(value).filter(|coding| chunked(coding)).count();
    let last = fields::list(value).last().is_some_and(chunked);
    if count == 0 || (count == 1 && last) { Err(Reason::NotImplemented) } else { Err(Reason::BadRequest) }
}

fn expectation(seen: &Seen<'_>, out: &mut RequestHead) -> Result<(), Reason> {
    let Some(expect) = seen.expect else { return Ok(()) };
    if !expect.eq_ignore_ascii_case(b"100-continue") {
        return Err(Reason::ExpectationFailed);
    }
    out.expect_continue = !matches!(out.framing, Framing::None | Framing::Length(0));
    Ok(())
}

fn websocket(seen: &Seen<'_>, method: &[u8], out: &mut RequestHead) -> Result<(), Reason> {
    let Some(upgrade) = seen.upgrade else { return Ok(()) };
    if out.minor_version == 0
        || method != b"GET"
        || !seen.upgrade_option
        || !upgrade.eq_ignore_ascii_case(b"websocket")
    {
        return Ok(());
    }
    if !matches!(out.framing, Framing::None | Framing::Length(0)) {
        return Err(Reason::BadRequest);
    }
    if seen.ws_version != Some(b"13") {
        return Err(Reason::UpgradeRequired);
    }
    if !seen.ws_key.is_some_and(is_websocket_key) {
        return Err(Reason::BadRequest);
    }
    out.websocket = true;
    Ok(())
}

/// Base64 of 16 bytes.
fn is_websocket_key(key: &[u8]) -> bool {
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    key.len() == 24 && key.ends_with(b"==") && key.iter().take(22).all(is_base64)
}

/// What can be said of a head that is not complete yet: the reason to refuse it already, if any.
pub(crate) fn refuse_early(partial: &[u8], has_first_line: bool, limits: &Limits) -> Option<Reason> {
    let method_end = partial.iter().take(MAX_METHOD + 1).position(|byte| !fields::is_token_byte(*byte));
    match method_end {
        None if partial.len() > MAX_METHOD => return Some(Reason::NotImplemented),
        Some(at) if partial.get(at) != Some(&b' ') || at == 0 => return Some(Reason::BadRequest),
        _ => {}
    }
    if !has_first_line && partial.len() > limits.request_line_bytes as usize {
        return Some(Reason::UriTooLong);
    }
    (partial.len() >= limits.head_bytes as usize).then_some(Reason::HeaderTooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(head: &str) -> Result<RequestHead, Reason> {
        parse(head.as_bytes(), &Limits::default(), &mut Vec::new())
    }

    fn with(fields: &str) -> Result<RequestHead, Reason> {
        parsed(&format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n"))
    }

    #[test]
    fn framing_is_decided_or_refused() {
        assert_eq!(with("Content-Length: 005").unwrap().framing, Framing::Length(5));
        assert_eq!(with("Transfer-Encoding: Chunked\t").unwrap().framing, Framing::Chunked);
        assert_eq!(with("Accept: */*").unwrap().framing, Framing::None);
        let refused = [
            ("Content-Length: 5\r\nTransfer-Encoding: chunked", Reason::BadRequest),
            ("Content-Length: 5\r\nContent-Length: 5", Reason::BadRequest),
            ("Content-Length: 5, 5", Reason::BadRequest),
            ("Content-Length: +5", Reason::BadRequest),
            ("Content-Length:", Reason::BadRequest),
            ("Content-Length: 18446744073709551616", Reason::ContentTooLarge),
            ("Transfer-Encoding: gzip", Reason::NotImplemented),
            ("Transfer-Encoding: gzip, chunked", Reason::NotImplemented),
            ("Transfer-Encoding: chunked, gzip", Reason::BadRequest),
            ("Transfer-Encoding: chunked, chunked", Reason::BadRequest),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", Reason::BadRequest),
            ("Transfer-Encoding: ,chunked", Reason::BadRequest),
            ("Transfer-Encoding: chunked;x=1", Reason::BadRequest),
            ("Transfer-Encoding:", Reason::BadRequest),
        ];
        for (fields, reason) in refused {
            assert_eq!(with(fields).unwrap_err(), reason, "{fields}");
        }
    }

    #[test]
    fn versions_other_than_ours_are_told_apart_from_garbage() {
        for version in ["HTTP/1.2", "HTTP/2.0", "HTTP/3.0"] {
            let head = format!("GET / {version}\r\nHost: a\r\n\r\n");
            assert_eq!(parsed(&head).unwrap_err(), Reason::VersionNotSupported, "{version}");
        }
        for version in ["HTTP/01.1", "HTTP/1", "http/1.1", "HTTP/ 1.1", "HTTP/1.10", "RTSP/1.1"] {
            let head = format!("GET / {version}\r\nHost: a\r\n\r\n");
            assert_eq!(parsed(&head).unwrap_err(), Reason::BadRequest, "{version}");
        }
    }

    #[test]
    fn protected_fields_cannot_be_nominated() {
        assert_eq!(with("Connection: close, X-Forwarded-For").unwrap_err(), Reason::BadRequest);
        assert!(with("Connection: keep-alive, foo").unwrap().nominates);
        assert_eq!(with("Connection: \"X\"").unwrap_err(), Reason::BadRequest);
    }

    #[test]
    fn close_wins_over_keep_alive() {
        assert!(!with("Connection: close\r\nConnection: keep-alive").unwrap().keep_alive);
    }
}
