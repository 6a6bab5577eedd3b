//! WebSockets on streams of HTTP/2 (RFC 8441), to an endpoint that speaks HTTP/1.1.

use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use h2::ext::Protocol;
use h2::{RecvStream, SendStream};
use http::{Method, Request};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::common::certificates::Authority;
use crate::setup::{self, HOST};

/// A connection whose server has said that it takes extended CONNECT.
async fn handshake(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> SendRequest<Bytes> {
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    while !sender.is_extended_connect_protocol_enabled() {
        tokio::task::yield_now().await;
    }
    sender
}

/// Opens a WebSocket on a stream.
async fn open(sender: &mut SendRequest<Bytes>, scheme: &str) -> (SendStream<Bytes>, RecvStream) {
    let request = Request::builder()
        .method(Method::CONNECT)
        .uri(format!("{scheme}://{HOST}/chat"))
        .extension(Protocol::from_static("websocket"))
        .header("sec-websocket-version", "13")
        .body(())
        .unwrap();
    let (response, send) = sender.send_request(request, false).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(!response.headers().contains_key("sec-websocket-accept"));
    (send, response.into_body())
}

/// A binary message of less than 126 bytes, masked with zeros.
fn message(content: &[u8]) -> Bytes {
    let head = [0x82, 0x80 | u8::try_from(content.len()).unwrap(), 0, 0, 0, 0];
    [&head, content].concat().into()
}

/// Sends a message and expects it back, unmasked.
async fn say((send, receive): &mut (SendStream<Bytes>, RecvStream), content: &[u8]) {
    send.send_data(message(content), false).unwrap();
    let expected = [&[0x82, u8::try_from(content.len()).unwrap()], content].concat();
    let mut came = BytesMut::new();
    while came.len() < expected.len() {
        let chunk = receive.data().await.unwrap().unwrap();
        receive.flow_control().release_capacity(chunk.len()).unwrap();
        came.extend_from_slice(&chunk);
    }
    assert_eq!(came, expected);
}

async fn several_sockets_on_one_connection(mut sender: SendRequest<Bytes>, scheme: &str) {
    let mut sockets = Vec::new();
    for _ in 0..5 {
        sockets.push(open(&mut sender, scheme).await);
    }
    for round in 0..20 {
        for (number, socket) in sockets.iter_mut().enumerate() {
            say(socket, format!("{round} of {number}").as_bytes()).await;
        }
    }
    // The end of one is not the end of others.
    let (mut send, mut receive) = sockets.remove(0);
    send.send_data(Bytes::from_static(&[0x88, 0x80, 0, 0, 0, 0]), true).unwrap();
    while let Some(chunk) = receive.data().await {
        let chunk = chunk.unwrap();
        receive.flow_control().release_capacity(chunk.len()).unwrap();
    }
    for socket in &mut sockets {
        say(socket, b"still here").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sockets_share_a_connection_in_cleartext() {
    let (_folder, gateway) = setup::gateway(&[setup::echo().await], &[]);
    let stream = TcpStream::connect(gateway.http).await.unwrap();
    several_sockets_on_one_connection(handshake(stream).await, "http").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sockets_share_a_connection_over_tls() {
    let authority = Authority::new("front");
    let (_folder, gateway) = setup::gateway_tls(&[setup::echo().await], &authority);
    let stream = setup::tls(gateway.listeners["https"], &authority, b"h2").await;
    several_sockets_on_one_connection(handshake(stream).await, "https").await;
}
