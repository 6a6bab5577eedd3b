//! Who is let in, how many, for how long; and what becomes of connections when endpoints or the gateway go.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::common::eventually;
use crate::common::plain::{echo, named};
use crate::rig::{Rig, read_all, text};

/// One round trip, so that it is known to be connected to its endpoint.
pub(crate) fn settled(rig: &Rig) -> TcpStream {
    let mut client = rig.connect();
    client.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
    client
}

fn works(client: &mut TcpStream) -> bool {
    client.write_all(b"y").is_ok() && client.read_exact(&mut [0]).is_ok()
}

fn is_reset(client: &mut TcpStream) -> bool {
    matches!(client.read(&mut [0]), Err(error) if error.kind() == ErrorKind::ConnectionReset)
}

#[test]
fn clients_outside_the_source_ranges_are_reset() {
    let rig = Rig::start(", sourceRanges: [10.0.0.0/8, \"fd00::/8\"]", &[echo()]);
    assert!(rig.resets());
    rig.wait_ended("SourceDenied", 1);
    rig.change("", ", sourceRanges: [127.0.0.1]", &[echo()]);
    assert!(works(&mut rig.connect()));
}

#[test]
fn a_listener_whose_source_ranges_are_wrong_lets_nobody_in() {
    let rig = Rig::start(", sourceRanges: [127.0.0.1/40]", &[echo()]);
    assert_eq!(TcpStream::connect(rig.address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    // What was good stays in force when it goes bad.
    let endpoint = echo();
    let rig = Rig::start(", sourceRanges: [10.0.0.0/8]", &[endpoint]);
    rig.write(&text(rig.address, "", ", sourceRanges: [nonsense]", &[endpoint]));
    rig.gateway.wait_for_log("nonsense");
    assert!(rig.resets());
}

#[test]
fn beyond_the_most_connections_of_a_listener_clients_are_reset() {
    let rig = Rig::start(", maxConnections: 2", &[echo()]);
    let (mut one, two) = (settled(&rig), settled(&rig));
    assert!(rig.resets());
    rig.wait_ended("TooMany", 1);
    assert!(works(&mut one));
    drop(two);
    rig.wait_ended("Closed", 1);
    assert!(works(&mut rig.connect()));
}

#[test]
fn an_endpoint_at_its_cap_is_passed_over_and_if_all_are_clients_are_reset() {
    let rig = Rig::start(", maxConnectionsPerEndpoint: 2", &[echo(), echo()]);
    let mut clients: Vec<TcpStream> = (0..4).map(|_| settled(&rig)).collect();
    assert!(rig.resets());
    rig.wait_ended("EndpointsFull", 1);
    clients.pop();
    rig.wait_ended("Closed", 1);
    clients.push(settled(&rig));
    assert!(clients.iter_mut().all(works));
}

#[test]
fn a_quiet_connection_is_reset_and_a_busy_one_is_not() {
    let rig = Rig::start(", idleTimeout: 600ms", &[echo()]);
    let (mut busy, mut quiet) = (settled(&rig), settled(&rig));
    let started = Instant::now();
    let deadline = started + Duration::from_secs(2);
    quiet.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut quiet_for = None;
    while Instant::now() < deadline {
        assert!(works(&mut busy));
        if quiet_for.is_none() && is_reset(&mut quiet) {
            quiet_for = Some(started.elapsed());
        }
    }
    let quiet_for = quiet_for.expect("the quiet one was reset");
    assert!(quiet_for > Duration::from_millis(500), "{quiet_for:?}");
    assert_eq!(rig.ended("IdleTimeout"), 1);
}

#[test]
fn a_connection_ends_with_its_lifetime_however_busy_it_is() {
    let rig = Rig::start(", lifetime: 700ms", &[echo()]);
    let mut client = settled(&rig);
    let started = Instant::now();
    while works(&mut client) {
        assert!(started.elapsed() < Duration::from_secs(10));
    }
    assert!(started.elapsed() > Duration::from_millis(500), "{:?}", started.elapsed());
    rig.wait_ended("Lifetime", 1);
}

#[test]
fn connections_to_a_removed_endpoint_finish() {
    let (old, new) = (echo(), named("new"));
    let rig = Rig::start("", &[old]);
    let mut client = settled(&rig);
    rig.change("", "", &[new]);
    assert_eq!(read_all(&mut rig.connect()).unwrap(), b"new");
    for _ in 0..50 {
        assert!(works(&mut client));
    }
}

#[test]
fn connections_to_a_removed_endpoint_are_reset_at_the_deadline() {
    let terms = ", endAfterRemoval: 800ms";
    let (old, stays) = (echo(), echo());
    let rig = Rig::start(terms, &[old, stays]);
    let mut clients: Vec<TcpStream> = (0..8).map(|_| settled(&rig)).collect();
    let removed = Instant::now();
    rig.change("", terms, &[stays]);
    rig.wait_ended("EndpointRemoved", 4);
    let elapsed = removed.elapsed();
    assert!(elapsed > Duration::from_millis(700), "{elapsed:?}");
    let left = clients.iter_mut().filter_map(|client| works(client).then_some(())).count();
    assert_eq!(left, 4);
}

#[test]
fn a_connection_outlives_its_listener() {
    let rig = Rig::start("", &[echo()]);
    let mut client = settled(&rig);
    rig.write("listeners: []\n");
    eventually("closed", || TcpStream::connect(rig.address).is_err());
    for _ in 0..10 {
        assert!(works(&mut client));
    }
}

#[test]
fn a_gateway_that_goes_down_lets_connections_finish() {
    let mut rig = Rig::start_with("", "", &[echo()], &["--drain-timeout", "20s"]);
    let mut client = settled(&rig);
    rig.gateway.signal("TERM");
    eventually("no new ones", || TcpStream::connect(rig.address).is_err());
    assert!(works(&mut client));
    drop(client);
    assert!(rig.gateway.wait_for_exit().success());
}

#[test]
fn what_is_left_when_the_drain_is_over_is_reset() {
    let mut rig = Rig::start_with("", "", &[echo()], &["--drain-timeout", "300ms"]);
    let mut client = settled(&rig);
    rig.gateway.signal("TERM");
    assert!(is_reset(&mut client));
    rig.gateway.wait_for_exit();
}

#[test]
fn a_line_of_the_access_log_tells_how_it_ended() {
    let endpoint = echo();
    let rig = Rig::start_with("", "", &[endpoint], &["--access-log", "json"]);
    let client = settled(&rig);
    let port = client.local_addr().unwrap().port();
    drop(client);
    let line: serde_json::Value = serde_json::from_str(&rig.gateway.wait_for_log("\"reason\"")).unwrap();
    assert_eq!(line["client.addr"], "127.0.0.1");
    assert_eq!(line["client.port"], port);
    assert_eq!(line["protocol"], "tcp");
    assert_eq!(line["bind"], rig.address.to_string());
    assert_eq!(line["reason"], "Closed");
    assert_eq!(line["route"], "listener/tcp");
    assert_eq!(line["backend"], "app");
    assert_eq!(line["endpoint"], endpoint.to_string());
    assert_eq!((&line["bytes.in"], &line["bytes.out"]), (&1.into(), &1.into()));
}
