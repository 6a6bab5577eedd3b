//! Probes in the protocol and under the identity of requests.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use bytes::Bytes;
use config::table::{ActiveProbe, BackendPolicy, HealthPolicy, ProbeKind};
use h2::server::Builder;
use http::{HeaderMap, Response};

use crate::certificates::Authority;
use crate::proxy::{PATIENCE, Proxy, eventually, http1, http2};
use crate::server::{Call, Server};
use crate::tls::{Https, OK, named, over, server};

fn probed(kind: ProbeKind, policy: BackendPolicy) -> BackendPolicy {
    let active = ActiveProbe {
        kind,
        interval: Duration::from_millis(10),
        timeout: PATIENCE,
        healthy_threshold: 2,
        unhealthy_threshold: 2,
    };
    BackendPolicy { health: Arc::new(HealthPolicy { active: Some(active), passive: None }), ..policy }
}

fn grpc(service: &str) -> ProbeKind {
    ProbeKind::Grpc { service: service.into(), port: None }
}

fn get(path: &str) -> ProbeKind {
    ProbeKind::Http { path: path.into(), host: None, expected: Arc::new([(200, 299)]), port: None }
}

/// A health service that serves while the endpoint's record says so.
async fn health(mut call: Call) {
    let (body, _) = call.body().await;
    call.seen.note(format!("{} {}", call.path(), String::from_utf8_lossy(&body[5..])));
    let serving = if call.seen.is_up.load(SeqCst) { 1 } else { 2 };
    let response = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
    let mut send = call.respond.send_response(response, false).unwrap();
    send.send_data(Bytes::from(vec![0, 0, 0, 0, 2, 8, serving]), false).unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    send.send_trailers(trailers).unwrap();
}

#[test]
fn a_grpc_service_that_does_not_serve_gets_no_requests_until_it_does() {
    let server = Server::start(health);
    server.seen.is_up.store(true, SeqCst);
    let proxy = Proxy::start(&[("a", &[server.address], probed(grpc("shop.Cart"), http2()))]);
    proxy.probe();
    eventually("it is probed", || server.seen.requests() > 2);
    assert!(proxy.is_healthy());
    assert_eq!(server.seen.notes()[0], "/grpc.health.v1.Health/Check \n\tshop.Cart");
    server.seen.is_up.store(false, SeqCst);
    eventually("it is found out", || !proxy.is_healthy());
    server.seen.is_up.store(true, SeqCst);
    eventually("it is back", || proxy.is_healthy());
}

#[test]
fn a_server_without_health_service_is_bad() {
    let server = Server::start(|mut call: Call| async move {
        let response = Response::builder().header("grpc-status", "12").body(()).unwrap();
        call.respond.send_response(response, true).unwrap();
    });
    let proxy = Proxy::start(&[("a", &[server.address], probed(grpc(""), http2()))]);
    proxy.probe();
    eventually("it is found out", || !proxy.is_healthy());
}

#[test]
fn probes_are_sent_over_tls_where_requests_are() {
    let authority = Authority::new("Inside");
    let leaf = authority.issue(&["a"]);
    let https = Https::start(server(&leaf, None, &["http/1.1"]), OK);
    let http2_server = Server::start_over(Some(server(&leaf, None, &["h2"])), &Builder::new(), health);
    http2_server.seen.is_up.store(true, SeqCst);
    for (address, kind, policy) in [
        (https.address, get("/healthz"), http1()),
        (http2_server.address, grpc(""), http2()),
        // Asked in HTTP/2, whatever requests are sent in.
        (http2_server.address, grpc(""), http1()),
    ] {
        let tls = |name: &str| over(&named(&authority, name), probed(kind.clone(), policy.clone()));
        let mut proxy = Proxy::start(&[("a", &[address], tls("someone-else"))]);
        proxy.probe();
        eventually("another one is not taken for it", || !proxy.is_healthy());
        proxy.publish(&[("a", &[address], tls("a"))]);
        eventually("new settings count at once", || proxy.is_healthy());
    }
}

#[test]
fn http2_endpoints_are_asked_in_http2() {
    let server = Server::start(|mut call: Call| async move {
        let status = if call.path() == "/healthz" { 200 } else { 404 };
        let response = Response::builder().status(status).body(()).unwrap();
        call.respond.send_response(response, true).unwrap();
    });
    let proxy = |path: &str| {
        let proxy = Proxy::start(&[("a", &[server.address], probed(get(path), http2()))]);
        proxy.probe();
        proxy
    };
    let bad = proxy("/other");
    eventually("404 is bad", || !bad.is_healthy());
    let good = proxy("/healthz");
    let before = server.seen.requests();
    eventually("it is probed", || server.seen.requests() > before + 10);
    assert!(good.is_healthy());
}
