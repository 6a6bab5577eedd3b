//! Routes that lead back into the gateway: by one listener, by two, by all addresses of the host, and by way of another
//! gateway, which no one of them can see.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};

use tempfile::TempDir;

use crate::common::plain::{echo, named};
use crate::common::{Gateway, PATIENCE, eventually, free_address};
use crate::udp_rig::{ask, client, echo as udp_echo, free_udp};

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

/// Two gateways, of which each leads to the other; besides, each serves an endpoint at its second address.
fn two(
    protocol: &str,
    free: impl Fn() -> SocketAddr,
    endpoint: SocketAddr,
) -> [(Gateway, [SocketAddr; 2], TempDir); 2] {
    let ([one, two], others) = ([free(), free()], [free(), free()]);
    let first = start(protocol, &[(one, &[two]), (others[0], &[endpoint])]);
    let second = start(protocol, &[(two, &[one]), (others[1], &[endpoint])]);
    [(first.0, [one, others[0]], first.1), (second.0, [two, others[1]], second.1)]
}

/// L34: nothing says of a connection that it has been here, but each round is one more of one client, which has no more than
/// half of `maxConnections`. So a connection ends after as many rounds, and all of them with it.
#[test]
fn connections_that_go_round_by_way_of_another_gateway_end_and_others_go_on() {
    let [(first, at_first, _one), (second, at_second, _two)] = two("tcp", free_address, echo());
    let mut open: Vec<TcpStream> =
        [at_first[1], at_second[1]].map(|address| TcpStream::connect(address).unwrap()).into();
    for _ in 0..20 {
        assert_eq!(answer(at_first[0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        for stream in &mut open {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(b"x").unwrap();
            stream.read_exact(&mut [0]).unwrap();
        }
    }
    for gateway in [&first, &second] {
        eventually("all have ended", || gateway.metric("sluicegate_tcp_connections_open") == 1);
        assert!(accepted(gateway) <= 20 * 50, "{}", accepted(gateway));
    }
}

/// L34: each round is a flow of its own, and a datagram has one hop less to go in each, as through a router.
#[test]
fn a_datagram_that_goes_round_by_way_of_another_gateway_ends_and_others_go_on() {
    for ip in ["127.0.0.1", "::1"] {
        let ip: IpAddr = ip.parse().unwrap();
        let endpoint = udp_echo("").address;
        let [(first, at_first, _one), (second, at_second, _two)] = two("udp", || free_udp(ip), endpoint);
        let others = [at_first[1], at_second[1]].map(client);
        client(at_first[0]).send(b"?").unwrap();
        eventually("it has no hop left", || {
            let ended = |gateway: &Gateway| gateway.metric("sluicegate_udp_dropped_total{reason=\"Loop\"}");
            ended(&first) + ended(&second) == 1
        });
        for other in &others {
            assert_eq!(ask(other, b"mine"), b"mine");
        }
        // Nothing moves any more: 64 hops, half of them through each.
        let received = |gateway: &Gateway| gateway.metric("sluicegate_udp_datagrams_total{direction=\"in\"}");
        assert_eq!([&first, &second].map(received), [33, 33]);
    }
}
