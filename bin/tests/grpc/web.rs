//! gRPC-Web as a browser's `fetch` sends it, over HTTP/1.1 and HTTP/2.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::common::{Client, PATIENCE};
use crate::setup::{self, Backend, HOST};

/// A frame: a message (0) or trailers (0x80).
fn frame(flag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![flag];
    out.extend_from_slice(&u32::try_from(content.len()).unwrap().to_be_bytes());
    out.extend_from_slice(content);
    out
}

/// The frames of a body.
fn frames(mut body: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut out = Vec::new();
    while let Some((head, rest)) = body.split_first_chunk::<5>() {
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        out.push((head[0], rest[..length].to_vec()));
        body = &rest[length..];
    }
    assert!(body.is_empty(), "left: {body:?}");
    out
}

/// Base64 texts, each with its own padding.
fn decoded(text: &[u8]) -> Vec<u8> {
    text.chunks(4).flat_map(|group| BASE64.decode(group).unwrap()).collect()
}

/// Trailers of the last frame, which is nothing else.
fn trailers((flag, content): &(u8, Vec<u8>)) -> String {
    assert_eq!(*flag, 0x80);
    String::from_utf8(content.clone()).unwrap()
}

/// Head and body of the answer to a POST, in HTTP/1.1.
fn post(address: SocketAddr, path: &str, kind: &str, metadata: &str, body: &[u8]) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: {kind}\r\nX-Grpc-Web: 1\r\n{metadata}\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    // In pieces that end in the middle of a group of base64.
    for piece in body.chunks(body.len().div_ceil(3).max(1)) {
        stream.write_all(piece).unwrap();
        stream.flush().unwrap();
    }
    read(stream)
}

fn read(mut stream: TcpStream) -> (String, Vec<u8>) {
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let at = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    let head = String::from_utf8(answer[..at].to_vec()).unwrap().to_lowercase();
    let mut rest = &answer[at..];
    if !head.contains("transfer-encoding: chunked") {
        return (head, rest.to_vec());
    }
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|window| window == b"\r\n").unwrap();
        let length = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        body.extend_from_slice(&rest[end + 2..end + 2 + length]);
        rest = &rest[end + 4 + length..];
        if length == 0 {
            assert!(rest.is_empty(), "after the last chunk: {rest:?}");
            return (head, body);
        }
    }
}

#[test]
fn a_call_in_binary_is_translated_both_ways() {
    let backend = Backend::start(None);
    let (_folder, gateway) = setup::gateway(&[backend.address], "GRPC", "", &[]);
    let body = frame(0, b"hello");
    let (head, body) = post(gateway.http, "/test.Echo/Unary", "application/grpc-web+proto", "", &body);
    assert!(head.starts_with("http/1.1 200"), "{head}");
    assert!(head.contains("content-type: application/grpc-web\r\n"), "{head}");
    let frames = frames(&body);
    assert_eq!(frames.len(), 2, "{frames:?}");
    assert_eq!(frames[0], (0, b"hello".to_vec()));
    assert!(trailers(&frames[1]).contains("grpc-status: 0\r\n"), "{frames:?}");
    let seen = backend.seen.metadata.lock().unwrap().concat();
    assert!(seen.iter().any(|line| line == "te: trailers"), "{seen:?}");
    assert!(!seen.iter().any(|line| line.contains("grpc-web+")), "{seen:?}");
}

#[test]
fn a_call_in_text_is_translated_both_ways() {
    let backend = Backend::start(None);
    let (_folder, gateway) = setup::gateway(&[backend.address], "GRPC", "", &[]);
    for length in [0, 1, 2, 3, 1_000, 300_000] {
        let message: Vec<u8> = (0..length).map(|number| (number % 251) as u8).collect();
        let text = BASE64.encode(frame(0, &message));
        let (head, body) =
            post(gateway.http, "/test.Echo/Unary", "application/grpc-web-text", "", text.as_bytes());
        assert!(head.contains("content-type: application/grpc-web-text\r\n"), "{head}");
        let frames = frames(&decoded(&body));
        assert!(frames[0] == (0, message), "{length}");
        assert!(trailers(&frames[1]).contains("grpc-status: 0\r\n"));
    }
}

#[test]
fn a_stream_of_messages_is_translated() {
    let backend = Backend::start(None);
    let (_folder, gateway) = setup::gateway(&[backend.address], "GRPC", "", &[]);
    let request = frame(0, b"abc");
    for kind in ["application/grpc-web", "application/grpc-web-text"] {
        let is_text = kind.ends_with("text");
        let sent = if is_text { BASE64.encode(&request).into_bytes() } else { request.clone() };
        let (_, body) = post(gateway.http, "/test.Echo/Spread", kind, "x-fail: 5\r\n", &sent);
        let frames = frames(&if is_text { decoded(&body) } else { body });
        let messages: Vec<_> = frames.iter().take(3).map(|(_, message)| &**message).collect();
        assert_eq!(messages, [&b"a"[..], b"bb", b"ccc"]);
        let trailers = trailers(&frames[3]);
        assert!(
            trailers.contains("grpc-status: 5\r\n") && trailers.contains("x-why: asked\r\n"),
            "{trailers}"
        );
    }
}

/// A server that fails at once sends a head alone; so does the gateway.
#[test]
fn a_status_without_messages_stands_in_the_head() {
    let backend = Backend::start(None);
    let (_folder, gateway) = setup::gateway(&[backend.address], "GRPC", "", &[]);
    let kind = "application/grpc-web+proto";
    let (head, body) = post(gateway.http, "/test.Echo/Unary", kind, "x-fail: 7\r\n", &frame(0, b"x"));
    assert!(head.contains("grpc-status: 7\r\n") && body.is_empty(), "{head}{body:?}");
    let (_folder, gateway) = setup::gateway(&[], "GRPC", "", &[]);
    for kind in [kind, "application/grpc-web-text+proto"] {
        let (head, body) = post(gateway.http, "/test.Echo/Unary", kind, "", &frame(0, b"x"));
        assert!(head.starts_with("http/1.1 200") && body.is_empty(), "{head}");
        assert!(head.contains(&format!("content-type: {kind}\r\n")), "{head}");
        assert!(head.contains("grpc-status: 14\r\ngrpc-message: noendpoint\r\n"), "{head}");
    }
}

#[test]
fn what_is_no_base64_is_refused() {
    let backend = Backend::start(None);
    let (_folder, gateway) = setup::gateway(&[backend.address], "GRPC", "", &[]);
    for body in [&b"AAAA!"[..], b"AAAAA"] {
        let (head, _) = post(gateway.http, "/test.Echo/Unary", "application/grpc-web-text", "", body);
        assert!(head.contains("grpc-status: 13\r\n") && head.contains("badrequest"), "{head}");
    }
}

#[test]
fn nothing_is_translated_for_who_does_not_speak_http2() {
    let backend = crate::common::Backend::start("http1");
    let (_folder, gateway) = setup::gateway(&[backend.address], "HTTP", "", &[]);
    let mut client = Client::connect(gateway.http).unwrap();
    client
        .send(&format!(
            "POST /test.Echo/Unary HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/grpc-web+proto\r\nContent-Length: 0\r\n\r\n"
        ))
        .unwrap();
    assert_eq!(client.response().unwrap().body, "hello from http1\n");
    let head = backend.requests().concat().to_lowercase();
    assert!(head.contains("content-type: application/grpc-web+proto\r\n"), "{head}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_in_text_crosses_http2_as_well() {
    let backend = Backend::start(None);
    let (_folder, gateway) = setup::gateway(&[backend.address], "GRPC", "", &[]);
    let socket = tokio::net::TcpStream::connect(gateway.http).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(socket).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::post(format!("http://{HOST}/test.Echo/Unary"))
        .header("content-type", "application/grpc-web-text+proto");
    let (response, mut body) = sender.send_request(request.body(()).unwrap(), false).unwrap();
    body.send_data(BASE64.encode(frame(0, b"hello")).into(), true).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/grpc-web-text");
    let mut stream = response.into_body();
    let mut text = Vec::new();
    while let Some(chunk) = stream.data().await {
        let chunk = chunk.unwrap();
        stream.flow_control().release_capacity(chunk.len()).unwrap();
        text.extend_from_slice(&chunk);
    }
    // As trailers they would not reach a page.
    assert!(stream.trailers().await.unwrap().is_none());
    let frames = frames(&decoded(&text));
    assert_eq!(frames[0], (0, b"hello".to_vec()));
    assert!(trailers(&frames[1]).contains("grpc-status: 0\r\n"));
}
