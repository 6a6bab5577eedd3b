//! Parse of a complete response head. Upstream bytes are as untrusted as client bytes: what is ambiguous is a
//! bad response.

use std::mem::MaybeUninit;

use super::fields::{self, Name};
use super::head::{Field, Framing, MAX_FIELDS, Span};
use super::scan::lines_end_with_crlf;
use crate::proxy::grpc::Rpc;

/// The response cannot be forwarded (502).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct BadResponse;

/// What a response head says, apart from the list of its fields.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ResponseHead {
    /// Bytes of the head, its empty line included.
    pub(crate) length: usize,
    pub(crate) status: u16,
    pub(crate) reason: Span,
    pub(crate) framing: Framing,
    /// The endpoint keeps the connection after this response.
    pub(crate) keep_alive: bool,
    /// Seconds for which the endpoint keeps it (`Keep-Alive: timeout`).
    pub(crate) keep_alive_timeout: Option<u32>,
    /// `Connection` names further fields that must be removed.
    pub(crate) nominates: bool,
    /// `Connection: upgrade` and `Upgrade: websocket`.
    pub(crate) upgrades_to_websocket: bool,
    /// `Sec-WebSocket-Accept`.
    pub(crate) websocket_accept: Span,
    /// The answer to a call of gRPC.
    pub(crate) is_grpc: bool,
}

/// Parses the head at the start of `bytes`; `None` if it is not complete. `to_head` = the request was HEAD.
///
/// # Errors
/// [`BadResponse`] for everything malformed or ambiguous.
pub(crate) fn parse(
    bytes: &[u8],
    to_head: bool,
    fields: &mut Vec<Field>,
) -> Result<Option<ResponseHead>, BadResponse> {
    let mut headers = [const { MaybeUninit::<httparse::Header<'_>>::uninit() }; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut []);
    let mut parser = httparse::ParserConfig::default();
    parser.allow_obsolete_multiline_headers_in_responses(true);
    parser.allow_spaces_after_header_name_in_responses(true);
    let head = match parser.parse_response_with_uninit_headers(&mut response, bytes, &mut headers) {
        Ok(httparse::Status::Complete(length)) => bytes.get(..length).unwrap_or_default(),
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(BadResponse),
    };
    let status = response.code.filter(|code| (100..=999).contains(code)).ok_or(BadResponse)?;
    fields.clear();
    for header in response.headers.iter() {
        let name = fields::trim(header.name.as_bytes());
        let kind = fields::classify(name);
        let value = Span::of(head, fields::trim(header.value));
        fields.push(Field { name: Span::of(head, name), value, kind });
    }
    if !lines_end_with_crlf(head, fields) {
        return Err(BadResponse);
    }
    let reason = Span::of(head, response.reason.unwrap_or_default().as_bytes());
    let minor_version = response.version.unwrap_or(1);
    let mut out = ResponseHead { length: head.len(), status, reason, ..ResponseHead::default() };
    interpret(head, fields, minor_version, to_head, &mut out)?;
    Ok(Some(out))
}

fn interpret(
    head: &[u8],
    fields: &[Field],
    minor_version: u8,
    to_head: bool,
    out: &mut ResponseHead,
) -> Result<(), BadResponse> {
    let mut length: Option<u64> = None;
    let mut chunked = false;
    let (mut close, mut keep_alive, mut upgrade_option, mut websocket) = (false, false, false, false);
    for field in fields {
        let value = field.value.get(head);
        match field.kind {
            Name::ContentLength => {
                let value = fields::decimal(value).ok_or(BadResponse)?;
                if length.replace(value).is_some_and(|before| before != value) {
                    return Err(BadResponse);
                }
            }
            Name::TransferEncoding => {
                if minor_version == 0 || chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(BadResponse);
                }
                chunked = true;
            }
            Name::Connection => {
                for option in fields::list(value) {
                    match () {
                        () if option.eq_ignore_ascii_case(b"close") => close = true,
                        () if option.eq_ignore_ascii_case(b"keep-alive") => keep_alive = true,
                        () if option.eq_ignore_ascii_case(b"upgrade") => upgrade_option = true,
                        () => out.nominates |= !option.is_empty(),
                    }
                }
            }
            Name::Upgrade => websocket |= value.eq_ignore_ascii_case(b"websocket"),
            Name::WebSocketAccept => out.websocket_accept = field.value,
            Name::KeepAlive => out.keep_alive_timeout = timeout(value),
            Name::ContentType => out.is_grpc = Rpc::of(value) == Rpc::Grpc,
            _ => {}
        }
    }
    if chunked && length.is_some() {
        return Err(BadResponse);
    }
    out.keep_alive = !close && (minor_version == 1 || keep_alive);
    out.upgrades_to_websocket = upgrade_option && websocket;
    out.framing = match (out.status, length) {
        (100..=199 | 204 | 304, _) => Framing::None,
        _ if to_head => Framing::None,
        _ if chunked => Framing::Chunked,
        (_, Some(length)) => Framing::Length(length),
        (_, None) => Framing::Close,
    };
    if out.framing == Framing::Close {
        out.keep_alive = false;
    }
    Ok(())
}

fn timeout(value: &[u8]) -> Option<u32> {
    let value = fields::list(value).find_map(|part| part.strip_prefix(b"timeout="))?;
    fields::decimal(value).and_then(|seconds| u32::try_from(seconds).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(head: &str) -> Result<ResponseHead, BadResponse> {
        parse(head.as_bytes(), false, &mut Vec::new())?.ok_or(BadResponse)
    }

    #[test]
    fn framing_is_decided_or_refused() {
        let ok = |fields: &str| parsed(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n")).map(|head| head.framing);
        assert_eq!(ok("Content-Length: 5\r\n"), Ok(Framing::Length(5)));
        assert_eq!(ok("Content-Length: 5\r\nContent-Length: 5\r\n"), Ok(Framing::Length(5)));
        assert_eq!(ok("Transfer-Encoding: chunked\r\n"), Ok(Framing::Chunked));
        assert_eq!(ok(""), Ok(Framing::Close));
        for bad in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "Content-Length: 5\r\nContent-Length: 6\r\n",
            "Content-Length: -1\r\n",
            "Content-Length:\r\n",
            "Transfer-Encoding: chunked, chunked\r\n",
            "Transfer-Encoding: gzip\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        ] {
            assert_eq!(ok(bad), Err(BadResponse), "{bad}");
        }
    }

    #[test]
    fn bad_status_lines_are_refused() {
        for line in ["HTTP/1.1 99", "HTTP/1.1 1000", "HTTP/1.1 2O0", "HTTP/2 200", "ICY 200", ""] {
            assert!(parsed(&format!("{line}\r\nA: b\r\n\r\n")).is_err(), "{line}");
        }
    }

    #[test]
    fn bodiless_statuses_have_no_body_whatever_the_fields_say() {
        for status in [204, 304, 100] {
            let head = format!("HTTP/1.1 {status} X\r\nContent-Length: 5\r\n\r\n");
            assert_eq!(parsed(&head).unwrap().framing, Framing::None);
        }
    }
}
