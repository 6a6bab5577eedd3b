//! After an Upgrade: bytes both ways.

use std::time::Duration;

use crate::origin::{Conn, Origin, Setting, Site, switch, upgrade};
use crate::wire::{End, get, pattern};

/// Switches and sends back what comes until it ends, then ends.
fn echo(conn: &mut Conn) {
    let Some(head) = conn.head() else { return };
    if head.value("upgrade").is_none() {
        conn.answer("plain");
        return conn.serve();
    }
    conn.wire.send([switch(), "hello"].concat());
    while let Some(bytes) = conn.wire.some(65_536) {
        if !conn.wire.send(bytes) {
            return;
        }
    }
    conn.wire.send("bye");
}

#[test]
fn a_tunnel_is_exact_in_both_directions_and_half_closes() {
    const LENGTH: usize = 8_000_000;
    let origin = Origin::start(echo);
    let site = Site::plain(&origin);
    let mut client = site.client();
    // The first bytes come with the request, the endpoint's with its 101.
    client.send([upgrade().as_bytes(), pattern(0, 10)].concat());
    assert_eq!(client.head().unwrap().status(), 101);
    assert_eq!(client.exactly(5).unwrap(), b"hello");
    let mut writer = client.split();
    let writer = std::thread::spawn(move || {
        let mut at = 10;
        for size in [1, 100, 65_536, 4_096, 33, 20_000].into_iter().cycle() {
            let size = size.min(LENGTH - at);
            if size == 0 {
                break;
            }
            assert!(writer.send(pattern(at, size)));
            at += size;
        }
        writer.fin();
    });
    client.expect_pattern(0, LENGTH).unwrap();
    assert_eq!(client.exactly(3).unwrap(), b"bye");
    assert_eq!(client.end(), End::Fin);
    writer.join().unwrap();
    site.wait_for_metric("sluicegate_tunnels_open", &[], 0.0);
    site.wait_for_metric("sluicegate_endpoint_in_flight", &[], 0.0);
}

#[test]
fn a_tunnel_survives_the_end_of_its_route() {
    let origin = Origin::start(echo);
    let other = Origin::plain();
    let site = Site::plain(&origin);
    let mut client = site.client();
    client.send(upgrade());
    assert_eq!(client.head().unwrap().status(), 101);
    assert_eq!(client.exactly(5).unwrap(), b"hello");
    let changed = Setting { route: "path: /other", ..Setting::default() };
    std::fs::write(site.folder().join("edge.yaml"), changed.file(site.http, &[other.address])).unwrap();
    crate::common::eventually("the new table", || site.client().get("/chat").head.status() == 404);
    for round in 0..10 {
        client.send(pattern(round * 1_000, 1_000));
        client.expect_pattern(round * 1_000, 1_000).unwrap();
    }
}

#[test]
fn a_client_that_resets_its_tunnel_ends_the_endpoints() {
    let origin = Origin::start(echo);
    let site = Site::plain(&origin);
    let mut client = site.client();
    client.send(upgrade());
    assert_eq!(client.head().unwrap().status(), 101);
    client.reset();
    origin.wait("the end", |seen| seen.ended == 1);
    site.wait_for_metric("sluicegate_tunnels_open", &[], 0.0);
}

#[test]
fn an_idle_tunnel_ends_after_its_timeout() {
    let origin = Origin::start(echo);
    let site =
        Site::start(Setting { flags: &["--tunnel-idle-timeout", "300ms"], ..Setting::default() }, &[&origin]);
    let mut client = site.client();
    client.send(upgrade());
    assert_eq!(client.head().unwrap().status(), 101);
    for _ in 0..5 {
        std::thread::sleep(Duration::from_millis(100));
        client.send("x");
    }
    assert_eq!(client.exactly(10).unwrap(), b"helloxxxxx");
    client.end();
    assert!(site.metric("sluicegate_limit_hits_total", &["tunnel_idle_timeout"]) > 0.5);
}

#[test]
fn an_upgrade_that_is_declined_is_an_ordinary_response() {
    let origin = Origin::start(|conn| {
        while conn.request().is_some() {
            conn.answer("declined");
        }
    });
    let site = Site::plain(&origin);
    let mut client = site.client();
    client.send(upgrade());
    assert_eq!(client.response("GET").text(), "declined");
    client.send(get("/next"));
    assert_eq!(client.response("GET").text(), "declined");
    // A connection on which an upgrade was tried is not used again.
    assert_eq!(origin.see(|seen| seen.opened), 2);
}
