//! Which endpoint a connection gets.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};

use crate::common::plain::{endpoint, named};
use crate::common::{PATIENCE, eventually, free_address};
use crate::rig::{Rig, read_all};

fn config(rig: &Rig, balance: &str, endpoints: &[SocketAddr]) -> String {
    let endpoints: Vec<String> = endpoints.iter().map(|address| format!("\"{address}\"")).collect();
    format!(
        "listeners: [{{name: tcp, address: \"{}\", protocol: tcp, forward: {{backend: app}}}}]\n\
         backends: [{{name: app{balance}, endpoints: [{}]}}]\n",
        rig.address,
        endpoints.join(", ")
    )
}

fn start(balance: &str, endpoints: &[SocketAddr]) -> Rig {
    let rig = Rig::start("", endpoints);
    let version = rig.version();
    rig.write(&config(&rig, balance, endpoints));
    eventually("another table", || rig.version() != version);
    rig
}

/// Connects from `source`.
fn connect_from(source: Ipv4Addr, address: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(IpAddr::V4(source), 0).into()).unwrap();
    socket.connect(&address.into()).unwrap();
    let stream: TcpStream = socket.into();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

#[test]
fn round_robin_gives_each_endpoint_its_turn() {
    let rig = start(", balance: round-robin", &[named("a"), named("b"), named("c")]);
    let mut seen = BTreeMap::new();
    for _ in 0..30 {
        *seen.entry(read_all(&mut rig.connect()).unwrap()).or_insert(0) += 1;
    }
    assert_eq!(seen.values().copied().collect::<Vec<_>>(), [10, 10, 10]);
}

/// An endpoint that says its name and stays.
fn staying(name: &'static str) -> SocketAddr {
    endpoint(move |mut stream| {
        stream.write_all(name.as_bytes()).unwrap();
        let _ = stream.read(&mut [0]);
    })
}

#[test]
fn least_connection_goes_by_open_connections() {
    let rig = start(", balance: least-connection", &[staying("a"), staying("b")]);
    let named = |rig: &Rig| {
        let mut stream = rig.connect();
        let mut name = [0];
        stream.read_exact(&mut name).unwrap();
        (name[0], stream)
    };
    let mut open: Vec<(u8, TcpStream)> = (0..10).map(|_| named(&rig)).collect();
    assert_eq!(open.iter().filter(|(name, _)| *name == b'a').count(), 5);
    // Those of one endpoint end; the next ones all go there.
    open.retain(|(name, _)| *name == b'b');
    rig.wait_ended("Closed", 5);
    for _ in 0..5 {
        let one = named(&rig);
        assert_eq!(one.0, b'a');
        open.push(one);
    }
}

#[test]
fn consistent_hash_goes_by_the_clients_address() {
    let rig =
        start(", balance: consistent-hash, hashBy: 'header:x-user'", &[named("a"), named("b"), named("c")]);
    let mut seen = BTreeMap::new();
    for last in 1..=40 {
        let source = Ipv4Addr::new(127, 0, 0, last);
        let first = read_all(&mut connect_from(source, rig.address)).unwrap();
        for _ in 0..3 {
            assert_eq!(read_all(&mut connect_from(source, rig.address)).unwrap(), first, "{source}");
        }
        *seen.entry(first).or_insert(0) += 1;
    }
    assert_eq!(seen.len(), 3, "{seen:?}");
}

#[test]
fn an_endpoint_that_refuses_connections_is_ejected() {
    let dead = free_address();
    let rig = start(", health: {passive: {consecutiveFailures: 2, baseEjection: 60s}}", &[dead, named("ok")]);
    for _ in 0..20 {
        assert_eq!(read_all(&mut rig.connect()).unwrap(), b"ok");
    }
    let healthy = format!("sluicegate_endpoint_healthy{{backend=\"app\",endpoint=\"{dead}\"}}");
    assert_eq!(rig.metric(&healthy), 0);
    assert_eq!(rig.metric("sluicegate_upstream_connect_failures_total"), 2);
}

#[test]
fn an_endpoint_whose_probes_fail_gets_no_connection() {
    let dead = free_address();
    let rig = start(
        ", health: {active: {interval: 50ms, unhealthyThreshold: 1}, passive: {enabled: false}}",
        &[dead, named("ok")],
    );
    let healthy = format!("sluicegate_endpoint_healthy{{backend=\"app\",endpoint=\"{dead}\"}}");
    eventually("probed", || rig.metric(&healthy) == 0);
    let failures = rig.metric("sluicegate_upstream_connect_failures_total");
    for _ in 0..10 {
        assert_eq!(read_all(&mut rig.connect()).unwrap(), b"ok");
    }
    assert_eq!(rig.metric("sluicegate_upstream_connect_failures_total"), failures);
}

#[test]
fn a_split_goes_by_weight() {
    let rig = Rig::start("", &[named("x")]);
    let (a, b) = (named("a"), named("b"));
    let version = rig.version();
    rig.write(&format!(
        "listeners: [{{name: tcp, address: \"{}\", protocol: tcp, forward: {{backends: [{{name: a, weight: 3}}, {{name: b}}, {{name: c, weight: 0}}]}}}}]\n\
         backends: [{{name: a, endpoints: [\"{a}\"]}}, {{name: b, endpoints: [\"{b}\"]}}, {{name: c, endpoints: []}}]\n",
        rig.address
    ));
    eventually("another table", || rig.version() != version);
    let count = (0..200).filter(|_| read_all(&mut rig.connect()).unwrap() == b"a").count();
    assert!((120..=180).contains(&count), "{count} of 200");
}

#[test]
fn with_affinity_a_client_keeps_its_endpoint_while_that_may_be_used() {
    let terms = ", affinity: 1h";
    let endpoints = [named("a"), named("b"), named("c")];
    let rig = Rig::start(terms, &endpoints);
    let ask = |last| read_all(&mut connect_from(Ipv4Addr::new(127, 0, 0, last), rig.address)).unwrap();
    let first: Vec<_> = (1..=12).map(ask).collect();
    for _ in 0..3 {
        assert_eq!((1..=12).map(ask).collect::<Vec<_>>(), first);
    }
    let all: std::collections::BTreeSet<_> = first.iter().collect();
    assert_eq!(all.len(), 3);
    // Its endpoint is gone: another one, and from then on that one.
    rig.change("", terms, &endpoints[..2]);
    let second: Vec<_> = (1..=12).map(ask).collect();
    for (before, after) in first.iter().zip(&second) {
        assert!(after == before || before == b"c");
        assert_ne!(after, b"c");
    }
    rig.change("", terms, &endpoints);
    assert_eq!((1..=12).map(ask).collect::<Vec<_>>(), second);
}

#[test]
fn affinity_ends_when_a_client_was_away_for_too_long() {
    let rig = Rig::start(", affinity: 200ms", &[named("a"), named("b")]);
    let ask = || read_all(&mut rig.connect()).unwrap();
    let first = ask();
    assert_eq!(ask(), first);
    eventually("another one", || {
        std::thread::sleep(std::time::Duration::from_millis(250));
        ask() != first
    });
}
