//! Endpoints that break their answers off, time after time, are ejected; those that have their reasons are not.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use bytes::Bytes;
use config::table::{BackendPolicy, BackendProtocol};
use h2::Reason;
use http::Response;

use crate::proxy::{PATIENCE, Proxy, eventually};
use crate::server::{Call, Server, echo};

/// The health policy that is the default.
fn judged(protocol: BackendProtocol) -> BackendPolicy {
    BackendPolicy { protocol, ..BackendPolicy::default() }
}

/// Requests that fail until the endpoint is ejected; `None` if it is not within 20. A first one makes the connection a used
/// one.
fn ejected_after(proxy: &Proxy, method: &str) -> Option<usize> {
    let mut client = proxy.client();
    assert_eq!(client.get("/well").status, 200);
    for n in 0..20 {
        if !proxy.is_healthy() {
            return Some(n);
        }
        let mut client = proxy.client();
        client.send(format!("{method} /bad HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"));
        let head = client.head();
        client.body(head, false);
    }
    None
}

fn resets(reason: Reason) -> Server {
    Server::start(move |mut call: Call| async move {
        if call.path() == "/well" {
            return echo(call).await;
        }
        call.respond.send_reset(reason);
    })
}

#[test]
fn an_endpoint_that_resets_every_stream_of_a_used_connection_is_ejected() {
    for reason in [
        Reason::INTERNAL_ERROR,
        Reason::PROTOCOL_ERROR,
        Reason::ENHANCE_YOUR_CALM,
        Reason::STREAM_CLOSED,
        Reason::REFUSED_STREAM,
    ] {
        for method in ["GET", "POST"] {
            let server = resets(reason);
            let proxy = Proxy::start(&[("a", &[server.address], judged(BackendProtocol::Http2))]);
            let after = ejected_after(&proxy, method);
            assert!(after.is_some_and(|n| n <= 3), "{reason:?} {method}: {after:?}");
            assert!(server.seen.connections() <= 2, "{}", server.seen.connections());
        }
    }
}

#[test]
fn an_endpoint_that_cancels_streams_is_not_ejected() {
    for reason in [Reason::CANCEL, Reason::NO_ERROR] {
        let server = resets(reason);
        let proxy = Proxy::start(&[("a", &[server.address], judged(BackendProtocol::Http2))]);
        assert_eq!(ejected_after(&proxy, "POST"), None, "{reason:?}");
    }
}

/// An endpoint that resets each stream behind the head of its response.
fn cuts(reason: Reason) -> Server {
    Server::start(move |mut call: Call| async move {
        if call.path() == "/well" {
            return echo(call).await;
        }
        let mut send = call.respond.send_response(Response::new(()), false).unwrap();
        send.send_data(Bytes::from_static(b"part"), false).unwrap();
        send.reserve_capacity(1);
        // The part goes out before.
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        send.send_reset(reason);
    })
}

#[test]
fn an_endpoint_that_breaks_every_response_off_is_ejected() {
    let server = cuts(Reason::INTERNAL_ERROR);
    let proxy = Proxy::start(&[("a", &[server.address], judged(BackendProtocol::Http2))]);
    let after = ejected_after(&proxy, "GET");
    assert!(after.is_some_and(|n| n <= 3), "{after:?}");
    let server = cuts(Reason::CANCEL);
    let proxy = Proxy::start(&[("a", &[server.address], judged(BackendProtocol::Http2))]);
    assert_eq!(ejected_after(&proxy, "GET"), None);
}

#[test]
fn an_endpoint_whose_http1_responses_are_never_whole_is_ejected() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                let mut head = [0; 4_096];
                while let Ok(n @ 1..) = stream.read(&mut head) {
                    let is_well = head[..n].starts_with(b"GET /well");
                    let length = if is_well { 4 } else { 400 };
                    let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\npart");
                    if !is_well {
                        return;
                    }
                }
            });
        }
    });
    let proxy = Proxy::start(&[("a", &[address], judged(BackendProtocol::Http1))]);
    let after = ejected_after(&proxy, "GET");
    assert!(after.is_some_and(|n| n <= 3), "{after:?}");
}

#[test]
fn whole_responses_between_broken_ones_keep_an_endpoint_in_service() {
    let server = cuts(Reason::INTERNAL_ERROR);
    let proxy = Proxy::start(&[("a", &[server.address], judged(BackendProtocol::Http2))]);
    for round in 0..10 {
        for _ in 0..2 {
            let mut client = proxy.client();
            client.send("GET /bad HTTP/1.1\r\nHost: a\r\n\r\n");
            let head = client.head();
            client.body(head, false);
        }
        assert_eq!(proxy.client().get("/well").status, 200);
        assert!(proxy.is_healthy(), "ejected in round {round}");
    }
    eventually("healthy still", || proxy.is_healthy());
}
