//! Heads between HTTP/1.1 text, which is what the pipeline writes and reads, and HTTP/2 fields. Sans-I/O.

use std::io;
use std::mem::MaybeUninit;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Response, StatusCode, Uri, Version};

use crate::http1::head::MAX_FIELDS;

/// A response head that the pipeline wrote, and its length in bytes.
///
/// # Errors
/// `InvalidData` if it is none; the pipeline writes no such head.
pub(crate) fn response_of(text: &[u8]) -> io::Result<(Response<()>, usize)> {
    let mut headers = [const { MaybeUninit::<httparse::Header<'_>>::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let length = match config.parse_response_with_uninit_headers(&mut parsed, text, &mut headers) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) | Err(_) => return Err(io::ErrorKind::InvalidData.into()),
    };
    let mut response = Response::new(());
    *response.version_mut() = Version::HTTP_2;
    *response.status_mut() = StatusCode::from_u16(parsed.code.unwrap_or_default()).map_err(invalid)?;
    response.headers_mut().reserve(parsed.headers.len());
    insert(response.headers_mut(), parsed.headers)?;
    Ok((response, length))
}

/// A request head that the pipeline wrote, and its length in bytes; `https` is the scheme that is named.
///
/// # Errors
/// `InvalidData` if it is none; the pipeline writes no such head.
pub(crate) fn request_of(text: &[u8], https: bool) -> io::Result<(Request<()>, usize)> {
    let mut headers = [const { MaybeUninit::<httparse::Header<'_>>::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    let length = match parsed.parse_with_uninit_headers(text, &mut headers) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) | Err(_) => return Err(io::ErrorKind::InvalidData.into()),
    };
    let mut request = Request::new(());
    *request.version_mut() = Version::HTTP_2;
    *request.method_mut() =
        Method::from_bytes(parsed.method.unwrap_or_default().as_bytes()).map_err(invalid)?;
    let mut uri = Uri::builder().scheme(if https { Scheme::HTTPS } else { Scheme::HTTP });
    let host = parsed.headers.iter().find(|field| field.name.eq_ignore_ascii_case("host"));
    let host = host.map(|field| field.value).unwrap_or_default();
    uri = uri.authority(Authority::try_from(host).map_err(invalid)?);
    let path = parsed.path.unwrap_or_default();
    uri = uri.path_and_query(PathAndQuery::try_from(path).map_err(invalid)?);
    *request.uri_mut() = uri.build().map_err(invalid)?;
    request.headers_mut().reserve(parsed.headers.len());
    insert(request.headers_mut(), parsed.headers)?;
    Ok((request, length))
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
        let colon = line.iter().position(|byte| *byte == b':').ok_or(io::ErrorKind::InvalidData)?;
        let (name, value) = line.split_at(colon);
        let value = value.get(1..).unwrap_or_default().trim_ascii();
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
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(invalid)?;
        if matches!(name, header::CONNECTION | header::TRANSFER_ENCODING | header::UPGRADE | header::HOST) {
            continue;
        }
        map.try_append(name, HeaderValue::from_bytes(field.value).map_err(invalid)?).map_err(invalid)?;
    }
    Ok(())
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
        let (request, _) = request_of(text, true).unwrap();
        assert_eq!(request.uri(), "https://shop.example:81/a?b=1");
        assert_eq!(request.headers().len(), 1);
        assert_eq!(request.headers()["te"], "trailers");
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
