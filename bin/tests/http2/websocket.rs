//! WebSocket over HTTP/2 (RFC 8441) to an endpoint that speaks HTTP/1.1.

use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, ext::Protocol};
use http::Request;

use crate::client::{Client, connect, fetch, get, read, read_body, run, send, send_all};
use crate::origin::{Conn, Origin, Setting, Site};
use crate::wire::pattern;

/// The value that answers `key` (RFC 6455 §4.2.2).
fn accept(key: &str) -> String {
    use base64::Engine as _;
    use sha1::Digest as _;
    let digest =
        sha1::Sha1::new().chain_update(key).chain_update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11").finalize();
    base64::engine::general_purpose::STANDARD.encode(digest)
}

/// Switches and sends back what comes until it ends, then says goodbye.
fn echo(conn: &mut Conn) {
    let Some(head) = conn.head() else { return };
    let (Some("websocket"), Some(key)) = (head.value("upgrade"), head.value("sec-websocket-key")) else {
        conn.answer("plain");
        return;
    };
    let accept = match head.target() {
        "/wrong" => "AAAAAAAAAAAAAAAAAAAAAAAAAAA=".to_owned(),
        _ => accept(key),
    };
    if head.target() == "/declined" {
        conn.wire.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
        return;
    }
    if head.target() == "/success" {
        conn.answer("no tunnel");
        return;
    }
    conn.wire.send(format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: chat\r\n\r\nhello"
    ));
    while let Some(bytes) = conn.wire.some(65_536) {
        if !conn.wire.send(bytes) {
            return;
        }
    }
    conn.wire.send("bye");
}

fn connect_to(path: &str) -> Request<()> {
    Request::connect(format!("http://a{path}"))
        .extension(Protocol::from_static("websocket"))
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "chat")
        .body(())
        .unwrap()
}

/// A connection that has seen that the gateway speaks RFC 8441.
async fn ready(site: &Site) -> Client {
    let client = connect(site.http).await;
    while !client.is_extended_connect_protocol_enabled() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    client
}

#[test]
fn a_tunnel_is_exact_in_both_directions_and_half_closes() {
    let origin = Origin::start(echo);
    let site = Site::plain(&origin);
    run(async {
        let client = ready(&site).await;
        let (response, mut stream) = send(&client, connect_to("/chat"), false).await;
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["sec-websocket-protocol"], "chat");
        assert!(!response.headers().contains_key("sec-websocket-accept"));
        let mut body = response.into_body();
        let writer = tokio::spawn(async move {
            for round in 0..100 {
                send_all(&mut stream, pattern(round * 10_000, 10_000), round == 99).await.unwrap();
            }
        });
        let got = read_body(&mut body).await.unwrap();
        assert_eq!(got.len(), 5 + 1_000_000 + 3);
        assert!(got.starts_with(b"hello") && got.ends_with(b"bye"));
        assert!(
            (0..100).all(|round| got[5 + round * 10_000..][..10_000] == *pattern(round * 10_000, 10_000))
        );
        writer.await.unwrap();
        // Others share the connection.
        assert_eq!(fetch(&client, get("/")).await.unwrap().text(), "plain");
    });
    site.wait_for_metric("sluicegate_tunnels_open", &[], 0.0);
    site.wait_for_metric("sluicegate_endpoint_in_flight", &[], 0.0);
}

#[test]
fn an_endpoint_that_does_not_switch_is_no_tunnel() {
    let origin = Origin::start(echo);
    let site = Site::plain(&origin);
    run(async {
        let client = ready(&site).await;
        for (path, status, text) in
            [("/declined", 403, "no"), ("/success", 502, "BadResponse\n"), ("/wrong", 502, "BadResponse\n")]
        {
            let (response, _stream) = send(&client, connect_to(path), false).await;
            let got = read(response).await.unwrap();
            assert_eq!((got.status(), got.text().as_str()), (status, text), "{path}");
        }
    });
}

#[test]
fn a_tunnel_ends_with_either_side_and_when_idle() {
    let origin = Origin::start(echo);
    let site =
        Site::start(Setting { flags: &["--tunnel-idle-timeout", "1s"], ..Setting::default() }, &[&origin]);
    run(async {
        let client = ready(&site).await;
        // Reset by the client.
        let (response, mut stream) = send(&client, connect_to("/"), false).await;
        let _body = response.await.unwrap().into_body();
        stream.send_reset(Reason::CANCEL);
        while origin.see(|seen| seen.ended) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // Idle.
        let (response, mut stream) = send(&client, connect_to("/"), false).await;
        let mut body = response.await.unwrap().into_body();
        stream.send_data(Bytes::from_static(b"x"), false).unwrap();
        let error = read_body(&mut body).await.unwrap_err();
        assert_eq!(error.reason(), Some(Reason::CANCEL));
    });
    site.wait_for_metric("sluicegate_limit_hits_total", &["tunnel_idle_timeout"], 1.0);
    site.wait_for_metric("sluicegate_tunnels_open", &[], 0.0);
}
