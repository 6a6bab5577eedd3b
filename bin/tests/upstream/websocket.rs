//! WebSockets to endpoints that speak HTTP/2 (RFC 8441).

use bytes::Bytes;
use h2::server::Builder;
use http::{Method, Response};

use crate::proxy::{Proxy, http2};
use crate::server::{Call, Server};

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// Sends back what it receives until the other side ends.
async fn chat(mut call: Call) {
    assert_eq!((call.request.method(), call.request.uri().path()), (&Method::CONNECT, "/chat"));
    assert_eq!(call.request.extensions().get::<h2::ext::Protocol>().unwrap().as_str(), "websocket");
    assert!(call.request.headers().get("sec-websocket-key").is_none());
    let mut send = call.respond.send_response(Response::new(()), false).unwrap();
    let body = call.request.body_mut();
    while let Some(piece) = body.data().await {
        let piece = piece.unwrap();
        body.flow_control().release_capacity(piece.len()).unwrap();
        send.send_data(piece, false).unwrap();
    }
    send.send_data(Bytes::from_static(b"bye"), true).unwrap();
}

#[test]
fn a_websocket_crosses_to_an_endpoint_that_allows_it() {
    let server = Server::start_with(Builder::new().enable_connect_protocol(), chat);
    let proxy = Proxy::start(&[("a", &[server.address], http2())]);
    let mut client = proxy.client();
    client.send(UPGRADE);
    let head = client.head();
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
    for text in ["one", "two"] {
        client.send(text);
        assert_eq!(client.bytes(3), text.as_bytes());
    }
    client.end();
    assert_eq!(client.bytes(3), b"bye");
}

#[test]
fn a_refused_websocket_is_answered_as_the_endpoint_says() {
    let server = Server::start_with(Builder::new().enable_connect_protocol(), |mut call: Call| async move {
        let response = Response::builder().status(403).header("content-length", 0).body(()).unwrap();
        call.respond.send_response(response, true).unwrap();
    });
    let proxy = Proxy::start(&[("a", &[server.address], http2())]);
    let mut client = proxy.client();
    client.send(UPGRADE);
    assert_eq!(client.answer().status, 403);
}

#[test]
fn an_endpoint_without_websockets_gets_none() {
    let server = Server::echo();
    let proxy = Proxy::start(&[("a", &[server.address], http2())]);
    let mut client = proxy.client();
    client.send(UPGRADE);
    let answer = client.answer();
    assert_eq!((answer.status, answer.text().as_str()), (502, "WebSocketUnsupported\n"));
    assert_eq!(server.seen.requests(), 0);
}
