//! WebSockets to endpoints that speak HTTP/2 (RFC 8441).

use bytes::Bytes;
use h2::Reason;
use h2::ext::Protocol;
use h2::server::Builder;
use http::{Method, Request, Response};

use crate::front;
use crate::proxy::{Proxy, eventually, http2};
use crate::server::{Call, Server, echo};

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// Sends back what it receives until the other side ends.
async fn chat(mut call: Call) {
    assert_eq!((call.request.method(), call.request.uri().path()), (&Method::CONNECT, "/chat"));
    assert_eq!(call.request.extensions().get::<Protocol>().unwrap().as_str(), "websocket");
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

#[test]
fn a_client_that_resets_after_its_end_ends_the_websocket() {
    let server = Server::start_with(Builder::new().enable_connect_protocol(), |mut call: Call| async move {
        if call.path() != "/chat" {
            return echo(call).await;
        }
        let mut send = call.respond.send_response(Response::new(()), false).unwrap();
        while call.request.body_mut().data().await.is_some() {}
        call.seen.note("client has ended");
        let reason = std::future::poll_fn(|cx| send.poll_reset(cx)).await.unwrap();
        call.seen.note(reason.to_string());
    });
    let proxy = Proxy::start(&[("a", &[server.address], http2())]);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (mut out, _body) = runtime.block_on(async {
        let client = front::connect(proxy.address).await;
        // By then the gateway has told that it allows WebSockets.
        front::fetch(&client, front::get("/")).await.unwrap();
        let chat = Request::connect("http://a/chat").extension(Protocol::from_static("websocket"));
        let chat = chat.header("sec-websocket-version", "13").body(()).unwrap();
        let (response, mut out) = front::send(&client, chat, false).await;
        let body = response.await.unwrap().into_body();
        out.send_data(Bytes::new(), true).unwrap();
        (out, body)
    });
    eventually("the end has arrived", || server.seen.notes().len() == 1);
    out.send_reset(Reason::CANCEL);
    eventually("the endpoint hears of it", || server.seen.notes().len() == 2);
}
