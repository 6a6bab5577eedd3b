//! From the fields of an HTTP/2 request to the head in HTTP/1.1 syntax that the pipeline parses. Sans-I/O.
//!
//! Refuses what only HTTP/2 can get wrong (RFC 9113 §8); everything else is judged by the one parser of heads.

use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::uri::Uri;
use http::{Method, Version};

use crate::http1::authority::parse_authority;
use crate::record::Reason;

/// Why a request is not passed on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Refusal {
    /// Malformed (RFC 9113 §8.1.1): a stream error.
    Malformed,
    /// Answered with this reason's status.
    Answer(Reason),
}

/// What the text does not say.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Kind {
    /// An extended CONNECT, written as the upgrade that it stands for.
    pub(super) is_connect: bool,
}

/// Writes the head of a request to `out`. `has_ended`: it has no body; `key`: for `Sec-WebSocket-Key`, if needed;
/// `most_fields`: fields that it may have.
///
/// # Errors
/// See [`Refusal`].
pub(super) fn write(
    out: &mut Vec<u8>,
    request: &Parts,
    has_ended: bool,
    key: [u8; 16],
    most_fields: u16,
) -> Result<Kind, Refusal> {
    debug_assert_eq!(request.version, Version::HTTP_2);
    // Before cookies are joined: each crumb costs as much as any field.
    if request.headers.len() > usize::from(most_fields) {
        return Err(Refusal::Answer(Reason::HeaderTooLarge));
    }
    let protocol = request.extensions.get::<h2::ext::Protocol>();
    let authority = authority(&request.uri, &request.headers)?;
    let is_websocket = protocol.is_some_and(|protocol| protocol.as_str().eq_ignore_ascii_case("websocket"));
    if protocol.is_some() && !is_websocket {
        return Err(Refusal::Answer(Reason::NotImplemented));
    }
    let method = if is_websocket { &Method::GET } else { &request.method };
    let target = if *method == Method::CONNECT { authority } else { target(method, &request.uri)? };
    put(out, &[method.as_str().as_bytes(), b" ", target, b" HTTP/1.1\r\nhost: ", authority, b"\r\n"]);
    fields(out, &request.headers, is_websocket)?;
    if is_websocket {
        upgrade(out, key);
    } else if *method != Method::CONNECT {
        framing(out, method, &request.headers, has_ended);
    }
    out.extend_from_slice(b"\r\n");
    Ok(Kind { is_connect: is_websocket })
}

fn put(out: &mut Vec<u8>, parts: &[&[u8]]) {
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

/// The one authority that `:authority` and Host name (RFC 9113 §8.3.1).
fn authority<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Result<&'a [u8], Refusal> {
    let mut hosts = headers.get_all(header::HOST).iter().map(HeaderValue::as_bytes);
    let (host, another) = (hosts.next(), hosts.next());
    if another.is_some() {
        return Err(Refusal::Malformed);
    }
    let default_port = match uri.scheme_str() {
        Some(scheme) if scheme.eq_ignore_ascii_case("https") => 443,
        Some(scheme) if scheme.eq_ignore_ascii_case("http") => 80,
        // Dropped by the library where there is no authority, as in a plain CONNECT.
        None => 80,
        Some(_) => return Err(Refusal::Malformed),
    };
    let named = uri.authority().map(|authority| authority.as_str().as_bytes());
    let (mut scratch, mut other) = (Vec::new(), Vec::new());
    let chosen = named.or(host).ok_or(Refusal::Malformed)?;
    let parsed = parse_authority(chosen, &mut scratch).map_err(|_| Refusal::Malformed)?;
    if let (Some(_), Some(host)) = (named, host) {
        let host = parse_authority(host, &mut other).map_err(|_| Refusal::Malformed)?;
        let port = |port: Option<u16>| port.unwrap_or(default_port);
        if host.host != parsed.host || port(host.port) != port(parsed.port) {
            return Err(Refusal::Malformed);
        }
    }
    Ok(chosen)
}

/// `:path`, which has one of two forms (RFC 9113 §8.3.1).
fn target<'a>(method: &Method, uri: &'a Uri) -> Result<&'a [u8], Refusal> {
    let target = uri.path_and_query().ok_or(Refusal::Malformed)?.as_str().as_bytes();
    match target {
        [b'/', ..] => Ok(target),
        b"*" if *method == Method::OPTIONS => Ok(target),
        _ => Err(Refusal::Malformed),
    }
}

/// Everything but Host, with the crumbs of a cookie joined (RFC 9113 §8.2.3).
fn fields(out: &mut Vec<u8>, headers: &HeaderMap, is_websocket: bool) -> Result<(), Refusal> {
    for name in headers.keys() {
        if *name == header::HOST || (is_websocket && is_of_handshake(name)) {
            continue;
        }
        if *name == header::COOKIE {
            put(out, &[b"cookie: "]);
            for (index, crumb) in headers.get_all(name).iter().enumerate() {
                let separator: &[u8] = if index == 0 { b"" } else { b"; " };
                put(out, &[separator, crumb.as_bytes()]);
            }
            put(out, &[b"\r\n"]);
            continue;
        }
        for value in headers.get_all(name) {
            put(out, &[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
        }
    }
    Ok(())
}

/// Fields of a WebSocket handshake that HTTP/2 does without (RFC 8441 §5), and those that frame a body.
fn is_of_handshake(name: &header::HeaderName) -> bool {
    [header::SEC_WEBSOCKET_KEY, header::SEC_WEBSOCKET_ACCEPT, header::CONTENT_LENGTH, header::EXPECT]
        .contains(name)
}

fn upgrade(out: &mut Vec<u8>, key: [u8; 16]) {
    use base64::Engine as _;
    let key = base64::engine::general_purpose::STANDARD.encode(key);
    put(out, &[b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: ", key.as_bytes(), b"\r\n"]);
}

/// A body that HTTP/2 delimits by itself needs framing of another kind elsewhere.
fn framing(out: &mut Vec<u8>, method: &Method, headers: &HeaderMap, has_ended: bool) {
    if headers.contains_key(header::CONTENT_LENGTH) {
        return;
    }
    if !has_ended {
        put(out, &[b"transfer-encoding: chunked\r\n"]);
    } else if [Method::POST, Method::PUT, Method::PATCH].contains(method) {
        // RFC 9110 §8.6: such a method without a length makes some servers ask for one.
        put(out, &[b"content-length: 0\r\n"]);
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn written(request: http::request::Builder, has_ended: bool) -> Result<String, Refusal> {
        let (parts, ()) = request.version(Version::HTTP_2).body(()).unwrap().into_parts();
        let mut out = Vec::new();
        write(&mut out, &parts, has_ended, [0; 16], 10)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_request_becomes_a_head() {
        let request = Request::get("http://shop.example/a?b")
            .header("accept", "*/*")
            .header("x-a", "1")
            .header("x-a", "2");
        assert_eq!(
            written(request, true).unwrap(),
            "GET /a?b HTTP/1.1\r\nhost: shop.example\r\naccept: */*\r\nx-a: 1\r\nx-a: 2\r\n\r\n"
        );
    }

    #[test]
    fn a_body_is_chunked_unless_its_length_is_known() {
        let post = || Request::post("http://a/");
        assert!(written(post(), false).unwrap().contains("transfer-encoding: chunked\r\n"));
        assert!(written(post(), true).unwrap().contains("content-length: 0\r\n"));
        assert!(!written(Request::get("http://a/"), true).unwrap().contains("content-length"));
        let known = written(post().header("content-length", "5"), false).unwrap();
        assert!(known.contains("content-length: 5\r\n") && !known.contains("chunked"));
    }

    #[test]
    fn crumbs_are_one_cookie_and_counted_one_by_one() {
        let with = |crumbs: usize| {
            (0..crumbs).fold(Request::get("http://a/"), |request, _| request.header("cookie", "a=b"))
        };
        assert!(written(with(3), true).unwrap().contains("cookie: a=b; a=b; a=b\r\n"));
        assert_eq!(written(with(11), true), Err(Refusal::Answer(Reason::HeaderTooLarge)));
    }

    #[test]
    fn host_and_authority_name_the_same() {
        let with = |host: &str| written(Request::get("https://Shop.example/").header("host", host), true);
        assert!(with("shop.example:443").unwrap().starts_with("GET / HTTP/1.1\r\nhost: Shop.example\r\n"));
        for other in ["shop.example:80", "other.example", "shop.example,a", ""] {
            assert_eq!(with(other), Err(Refusal::Malformed), "{other}");
        }
        let only_host = written(Request::get("/").header("host", "a"), true).unwrap();
        assert_eq!(only_host, "GET / HTTP/1.1\r\nhost: a\r\n\r\n");
        assert_eq!(written(Request::get("/"), true), Err(Refusal::Malformed));
    }

    #[test]
    fn targets_and_schemes_of_other_forms_are_malformed() {
        let malformed = [
            Request::get("ftp://a/"),
            Request::get("http://u@a/"),
            Request::get(Uri::builder().scheme("http").authority("a").path_and_query("*").build().unwrap()),
        ];
        for request in malformed {
            assert_eq!(written(request, true), Err(Refusal::Malformed));
        }
    }

    #[test]
    fn an_extended_connect_is_an_upgrade() {
        let request = Request::connect("https://a/chat")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "x")
            .extension(h2::ext::Protocol::from_static("websocket"));
        assert_eq!(
            written(request, false).unwrap(),
            "GET /chat HTTP/1.1\r\nhost: a\r\nsec-websocket-version: 13\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        );
        let other = Request::connect("https://a/").extension(h2::ext::Protocol::from_static("connect-udp"));
        assert_eq!(written(other, false), Err(Refusal::Answer(Reason::NotImplemented)));
    }
}
