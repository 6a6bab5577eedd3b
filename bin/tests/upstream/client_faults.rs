//! What a client does is not held against endpoints, nor against whoever shares its connection.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use bytes::Bytes;
use config::table::{BackendPolicy, BackendProtocol};
use http::{HeaderMap, Response};

use crate::proxy::{PATIENCE, Proxy, http2};
use crate::server::{Call, Server, echo};

#[test]
fn a_client_that_leaves_during_informational_heads_is_no_failure_of_the_endpoint() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let policy = BackendPolicy { protocol: BackendProtocol::Http1, ..BackendPolicy::default() };
    let proxy = Proxy::start(&[("a", &[listener.local_addr().unwrap()], policy)]);
    for n in 0..300 {
        assert!(proxy.is_healthy(), "ejected after {n} requests");
        let mut client = proxy.client();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let (mut endpoint, _) = listener.accept().unwrap();
        endpoint.set_read_timeout(Some(PATIENCE)).unwrap();
        let _head = endpoint.read(&mut [0; 4_096]).unwrap();
        // Whichever of the two is seen first.
        endpoint.write_all(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n").unwrap();
        client.abort();
        while matches!(endpoint.read(&mut [0; 4_096]), Ok(n) if n > 0) {}
    }
}

#[test]
fn a_deadline_of_a_client_is_no_failure_of_the_endpoint() {
    let server = Server::start(|call: Call| async move {
        call.seen.go_on.notified().await;
        drop(call);
    });
    let policy = BackendPolicy { protocol: BackendProtocol::Http2, ..BackendPolicy::default() };
    let proxy = Proxy::start(&[("a", &[server.address], policy)]);
    let mut client = proxy.client();
    for n in 0..5 {
        client.send(
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc\r\nGrpc-Timeout: 1m\r\n\
             Content-Length: 0\r\n\r\n",
        );
        let answer = client.answer();
        assert!(answer.head.contains("grpc-status: 4\r\n"), "{n}: {}", answer.head);
        assert!(proxy.is_healthy(), "ejected after {n} calls");
    }
}

/// Answers HEAD with a head, and all else with a message and its status.
async fn rpc(mut call: Call) {
    if call.path() == "/plain" {
        return echo(call).await;
    }
    let response = Response::builder().header("content-type", "application/grpc").header("content-length", 5);
    let is_head = call.request.method() == "HEAD";
    let mut send = call.respond.send_response(response.body(()).unwrap(), is_head).unwrap();
    if !is_head {
        send.send_data(Bytes::from_static(&[0; 5]), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        send.send_trailers(trailers).unwrap();
    }
}

#[test]
fn a_translated_answer_to_head_has_no_body() {
    let server = Server::start(rpc);
    let proxy = Proxy::start(&[("a", &[server.address], http2())]);
    let mut client = proxy.client();
    client.send("HEAD / HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc-web\r\n\r\n");
    let head = client.head();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    // The next answer on the connection begins where the head ended.
    let next = client.get("/plain");
    assert_eq!((next.status, next.text().as_str()), (200, "GET /plain 0"), "{}", next.head);
}

#[test]
fn a_translated_answer_in_http10_ends_with_its_connection() {
    let server = Server::start(rpc);
    let proxy = Proxy::start(&[("a", &[server.address], http2())]);
    let mut client = proxy.client();
    client.send(
        "POST / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nContent-Type: application/grpc-web\r\n\
         Content-Length: 5\r\n\r\n\0\0\0\0\0",
    );
    let answer = client.answer();
    assert!(!answer.head.to_ascii_lowercase().contains("content-length"), "{}", answer.head);
    assert_eq!(answer.body, b"\0\0\0\0\0\x80\0\0\0\x10grpc-status: 0\r\n");
}
