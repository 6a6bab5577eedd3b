//! Routes that lead back into the gateway: by one listener, by two, by all addresses of the host.

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};

use tempfile::TempDir;

use crate::common::plain::named;
use crate::common::{Gateway, PATIENCE, eventually, free_address};
use crate::udp_rig::{client, free_udp};

/// Listeners that forward to what is beside them.
fn start(protocol: &str, ways: &[(SocketAddr, &[SocketAddr])]) -> (Gateway, TempDir) {
    let (mut listeners, mut backends) = (String::new(), String::new());
    for (number, (address, endpoints)) in ways.iter().enumerate() {
        let endpoints: Vec<String> = endpoints.iter().map(|endpoint| format!("\"{endpoint}\"")).collect();
        let limits = "maxConnections: 50";
        listeners += &format!(
            "- {{name: l{number}, address: \"{address}\", protocol: {protocol}, forward: {{backend: b{number}, {limits}}}}}\n"
        );
        backends += &format!("- {{name: b{number}, endpoints: [{}]}}\n", endpoints.join(", "));
    }
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("edge.yaml");
    std::fs::write(&file, format!("listeners:\n{listeners}backends:\n{backends}")).unwrap();
    (Gateway::start(&file, &["--http", "none", "--workers", "2"]), folder)
}

fn loops(gateway: &Gateway) -> u64 {
    gateway.metric("sluicegate_tcp_connections_total{reason=\"Loop\"}")
}

/// Over all workers.
fn accepted(gateway: &Gateway) -> u64 {
    let page = gateway.admin("/metrics");
    let lines = page.lines().filter_map(|line| line.strip_prefix("sluicegate_connections_accepted_total{"));
    lines.map(|line| line.split_once(' ').unwrap().1.parse::<u64>().unwrap()).sum()
}

fn answer(address: SocketAddr) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut all = Vec::new();
    stream.read_to_end(&mut all).map(|_| all)
}

fn at(ip: [u8; 4], of: SocketAddr) -> SocketAddr {
    SocketAddr::from((ip, of.port()))
}

#[test]
fn connections_do_not_go_round_through_two_listeners() {
    let (one, two) = (free_address(), free_address());
    let (gateway, _folder) = start("tcp", &[(one, &[two]), (two, &[one])]);
    assert_eq!(answer(one).unwrap_err().kind(), ErrorKind::ConnectionReset);
    eventually("a loop is counted", || loops(&gateway) == 1);
    assert_eq!(accepted(&gateway), 1);
}

#[test]
fn connections_do_not_go_round_through_all_addresses_of_the_host() {
    let (one, two) = (free_address(), free_address());
    let any = [0, 0, 0, 0];
    let (gateway, _folder) = start(
        "tcp",
        &[(at(any, one), &[at([127, 0, 0, 2], two)]), (at(any, two), &[at([127, 0, 0, 3], one)])],
    );
    assert_eq!(answer(one).unwrap_err().kind(), ErrorKind::ConnectionReset);
    eventually("a loop is counted", || loops(&gateway) == 1);
    assert_eq!(accepted(&gateway), 1);
}

#[test]
fn an_endpoint_that_is_the_gateway_is_passed_over() {
    let (one, two) = (free_address(), free_address());
    let (good, other) = (named("good"), named("other"));
    let (gateway, _folder) = start("tcp", &[(one, &[two, good]), (two, &[other])]);
    for _ in 0..8 {
        assert_eq!(answer(one).unwrap(), b"good");
    }
    assert_eq!(loops(&gateway), 0);
}

#[test]
fn datagrams_do_not_go_round() {
    let ip = "127.0.0.1".parse().unwrap();
    for (first, second) in [([127, 0, 0, 1], [127, 0, 0, 1]), ([0, 0, 0, 0], [127, 0, 0, 9])] {
        let (one, two) = (free_udp(ip), free_udp(ip));
        let ways = [(at(first, one), &[at(second, two)][..]), (at(first, two), &[at(second, one)][..])];
        let (gateway, _folder) = start("udp", &ways);
        client(one).send(b"?").unwrap();
        eventually("a loop is counted", || {
            gateway.metric("sluicegate_udp_dropped_total{reason=\"Loop\"}") == 1
        });
        assert_eq!(gateway.metric("sluicegate_udp_datagrams_total{direction=\"in\"}"), 1);
    }
}
