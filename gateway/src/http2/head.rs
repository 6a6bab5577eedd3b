//! Heads between HTTP/1.1 text, which is what the pipeline writes and reads, and HTTP/2 fields. Sans-I/O.

use std::io;
use std::mem::MaybeUninit;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Response, StatusCode, Uri, Version};

use crate::http1::head::MAX_FIELDS;

/// Fields of most responses.
const USUAL_FIELDS: usize = 12;

/// A response head that the pipeline wrote, and its length in bytes.
///
/// # Errors
/// `InvalidData` if it is none; the pipeline writes no such head.
pub(crate) fn response_of(text: &[u8]) -> io::Result<(Response<()>, usize)> {
    let line = text.strip_prefix(b"HTTP/1.1 ").ok_or(io::ErrorKind::InvalidData)?;
    let mut response = Response::new(());
    *response.version_mut() = Version::HTTP_2;
    *response.status_mut() = StatusCode::from_bytes(line.get(..3).unwrap_or_default()).map_err(invalid)?;
    response.headers_mut().reserve(USUAL_FIELDS);
    let mut at = line_end(text, 0)?;
    loop {
        let end = line_end(text, at)?;
        let line = text.get(at..end - 2).unwrap_or_default();
        at = end;
        if line.is_empty() {
            return Ok((response, at));
        }
        let (name, value) = field_of(line)?;
        append(response.headers_mut(), name, value)?;
    }
}

/// Where the line that begins at `from` ends, its CRLF included.
fn line_end(text: &[u8], from: usize) -> io::Result<usize> {
    let rest = text.get(from..).unwrap_or_default();
    let end =
        memchr::memchr(b'\n', rest).filter(|end| rest.get(..*end).is_some_and(|line| line.ends_with(b"\r")));
    Ok(from + end.ok_or(io::ErrorKind::InvalidData)? + 1)
}

/// A request as it is sent to an endpoint.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) request: Request<()>,
    /// Bytes of the head that it was made of.
    pub(crate) length: usize,
    /// `Sec-WebSocket-Key`: the request opens a WebSocket, by extended CONNECT (RFC 8441 §5).
    pub(crate) websocket: Option<Box<[u8]>>,
}

/// A request head that the pipeline wrote; `https` is the scheme that is named.
///
/// # Errors
/// `InvalidData` if it is none; the pipeline writes no such head.
pub(crate) fn request_of(text: &[u8], https: bool) -> io::Result<Outgoing> {
    let mut headers = [const { MaybeUninit::<httparse::Header<'_>>::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    let length = match parsed.parse_with_uninit_headers(text, &mut headers) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) | Err(_) => return Err(io::ErrorKind::InvalidData.into()),
    };
    let field = |name: &str| {
        let found = parsed.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name));
        found.map(|field| field.value)
    };
    let websocket = field("upgrade").and_then(|_| field("sec-websocket-key")).map(Box::from);
    let mut request = Request::new(());
    *request.version_mut() = Version::HTTP_2;
    *request.method_mut() =
        Method::from_bytes(parsed.method.unwrap_or_default().as_bytes()).map_err(invalid)?;
    let mut uri = Uri::builder();
    match field("host").filter(|host| !host.is_empty()) {
        Some(host) => {
            let scheme = if https { Scheme::HTTPS } else { Scheme::HTTP };
            uri = uri.scheme(scheme).authority(Authority::try_from(host).map_err(invalid)?);
        }
        // A request that named no host has no `:authority` either (RFC 9113 §8.3.1); h2 takes that only from HTTP/1.1.
        None => *request.version_mut() = Version::HTTP_11,
    }
    uri = uri.path_and_query(path_of(parsed.path.unwrap_or_default())?);
    *request.uri_mut() = uri.build().map_err(invalid)?;
    request.headers_mut().reserve(parsed.headers.len());
    insert(request.headers_mut(), parsed.headers)?;
    if websocket.is_some() {
        *request.method_mut() = Method::CONNECT;
        request.headers_mut().remove(header::SEC_WEBSOCKET_KEY);
        request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
    }
    Ok(Outgoing { request, length, websocket })
}

/// The target; what the type does not take, though the pipeline does, is percent-encoded.
fn path_of(target: &str) -> io::Result<PathAndQuery> {
    if let Ok(path) = PathAndQuery::try_from(target) {
        return Ok(path);
    }
    let mut escaped = String::with_capacity(target.len() + 16);
    for byte in target.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/?%".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push('%');
            for digit in [byte >> 4, byte & 15] {
                escaped.push(char::from_digit(u32::from(digit), 16).unwrap_or('0').to_ascii_uppercase());
            }
        }
    }
    PathAndQuery::try_from(escaped).map_err(invalid)
}

/// Writes a response head that an endpoint sent as HTTP/1.1 text. `accept` = the WebSocket that it opens, if any: then
/// a success is what a 101 is in HTTP/1.1 (RFC 8441 §5).
pub(crate) fn write_response(out: &mut Vec<u8>, response: &Response<()>, accept: Option<&str>) {
    let accept = accept.filter(|_| response.status().is_success());
    let status = response.status();
    let status = if accept.is_some() { "101" } else { status.as_str() };
    for part in [b"HTTP/1.1 ", status.as_bytes(), b" \r\n"] {
        out.extend_from_slice(part);
    }
    if let Some(accept) = accept {
        const UPGRADE: &[u8] = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: ";
        for part in [UPGRADE, accept.as_bytes(), b"\r\n"] {
            out.extend_from_slice(part);
        }
    }
    write_fields(out, response.headers());
    out.extend_from_slice(b"\r\n");
}

/// Trailer lines as fields.
///
/// # Errors
/// `InvalidData` if a line is no field.
pub(crate) fn fields_of(lines: &[u8]) -> io::Result<HeaderMap> {
    let mut map = HeaderMap::new();
    for line in lines.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            continue;
        }
        let (name, value) = field_of(line)?;
        let name = HeaderName::from_bytes(name).map_err(invalid)?;
        map.try_append(name, HeaderValue::from_bytes(value).map_err(invalid)?).map_err(invalid)?;
    }
    Ok(map)
}

/// Appends fields as lines in HTTP/1.1 syntax.
pub(crate) fn write_fields(out: &mut Vec<u8>, fields: &HeaderMap) {
    for (name, value) in fields {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            out.extend_from_slice(part);
        }
    }
}

/// Everything but what belongs to an HTTP/1.1 connection (RFC 9113 §8.2.2), and Host, which is `:authority`.
fn insert(map: &mut HeaderMap, fields: &[httparse::Header<'_>]) -> io::Result<()> {
    fields.iter().try_for_each(|field| append(map, field.name.as_bytes(), field.value))
}

fn append(map: &mut HeaderMap, name: &[u8], value: &[u8]) -> io::Result<()> {
    let name = HeaderName::from_bytes(name).map_err(invalid)?;
    if matches!(name, header::CONNECTION | header::TRANSFER_ENCODING | header::UPGRADE | header::HOST) {
        return Ok(());
    }
    map.try_append(name, HeaderValue::from_bytes(value).map_err(invalid)?).map_err(invalid)?;
    Ok(())
}

/// Name and value of a line.
fn field_of(line: &[u8]) -> io::Result<(&[u8], &[u8])> {
    let colon = memchr::memchr(b':', line).ok_or(io::ErrorKind::InvalidData)?;
    let (name, value) = line.split_at(colon);
    Ok((name, value.get(1..).unwrap_or_default().trim_ascii()))
}

fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_loses_what_belongs_to_the_connection() {
        let text =
            b"HTTP/1.1 201 Created\r\nX-A: 1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\nbody";
        let (response, length) = response_of(text).unwrap();
        assert_eq!((response.status().as_u16(), length), (201, text.len() - 4));
        assert_eq!(response.headers().len(), 1);
        assert_eq!(response.headers()["x-a"], "1");
    }

    #[test]
    fn a_request_takes_its_authority_from_host() {
        let text = b"GET /a?b=1 HTTP/1.1\r\nHost: shop.example:81\r\nConnection: TE\r\nTE: trailers\r\n\r\n";
        let request = request_of(text, true).unwrap().request;
        assert_eq!(request.uri(), "https://shop.example:81/a?b=1");
        assert_eq!(request.headers().len(), 1);
        assert_eq!(request.headers()["te"], "trailers");
    }

    #[test]
    fn a_websocket_becomes_an_extended_connect() {
        let text =
            b"GET /chat HTTP/1.1\r\nHost: a\r\nSec-WebSocket-Key: key\r\nSec-WebSocket-Version: 13\r\n\
            Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        let Outgoing { request, websocket, .. } = request_of(text, false).unwrap();
        assert_eq!((request.method(), websocket.as_deref()), (&Method::CONNECT, Some(&b"key"[..])));
        assert_eq!(request.uri(), "http://a/chat");
        assert_eq!(request.extensions().get::<h2::ext::Protocol>().unwrap().as_str(), "websocket");
        let names: Vec<_> = request.headers().keys().collect();
        assert_eq!(names, ["sec-websocket-version"]);
        let mut out = Vec::new();
        write_response(&mut out, &Response::new(()), Some("yes"));
        assert!(out.starts_with(b"HTTP/1.1 101 \r\n") && out.ends_with(b"Sec-WebSocket-Accept: yes\r\n\r\n"));
    }

    #[test]
    fn a_target_that_the_type_refuses_is_escaped() {
        let path = |target: &str| {
            let text = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
            request_of(text.as_bytes(), false).unwrap().request.uri().path_and_query().unwrap().to_string()
        };
        assert_eq!(path("/a<b>?c=`d`"), "/a%3Cb%3E?c=%60d%60");
        assert_eq!(path("/a%20b?c|d"), "/a%20b?c|d");
    }

    #[test]
    fn a_request_without_host_names_no_authority() {
        let request = request_of(b"GET / HTTP/1.1\r\nHost: \r\n\r\n", false).unwrap().request;
        assert_eq!((request.uri().authority(), request.version()), (None, Version::HTTP_11));
    }

    #[test]
    fn trailers_survive_both_ways() {
        let fields = fields_of(b"grpc-status: 0\r\nx-a:  b \r\n").unwrap();
        let mut lines = Vec::new();
        write_fields(&mut lines, &fields);
        assert_eq!(lines, b"grpc-status: 0\r\nx-a: b\r\n");
        assert!(fields_of(b"no field\r\n").is_err());
    }
}
