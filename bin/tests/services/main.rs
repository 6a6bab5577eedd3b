//! Services at addresses of their own, as clients see them: the real binary over manifests, and plain sockets.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    unreachable_pub,
    reason = "all of it is test code, where a broken assumption must fail loudly"
)]

#[path = "../common/mod.rs"]
mod common;
mod pools;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::thread;

use common::plain::{echo, greeting, named};
use common::{ConfigFile, Gateway, PATIENCE, eventually, free_address, get, run};
use tempfile::TempDir;

fn ask_from(source: Option<Ipv4Addr>, address: SocketAddr) -> std::io::Result<String> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    if let Some(source) = source {
        socket.bind(&SocketAddr::from((source, 0)).into())?;
    }
    socket.connect_timeout(&address.into(), PATIENCE)?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn ask(address: SocketAddr) -> std::io::Result<String> {
    ask_from(None, address)
}

/// A port that is free on all addresses of loopback, and one of those addresses.
fn virtual_address() -> SocketAddr {
    let port = free_address().port();
    SocketAddr::from(([127, 7, 0, 1], port))
}

fn service(name: &str, spec: &str) -> String {
    format!("---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{{spec}}}}}\n")
}

/// A slice for each endpoint, since each has a port of its own.
fn slices(service: &str, endpoints: &[(SocketAddr, &str)]) -> String {
    let one = |(index, (address, more)): (usize, &(SocketAddr, &str))| {
        format!(
            "---\n{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: {service}-{index}, labels: \
             {{kubernetes.io/service-name: {service}}}}}, addressType: IPv4, ports: [{{name: '', port: {}}}], endpoints: \
             [{{addresses: ['{}']{more}}}]}}\n",
            address.port(),
            address.ip()
        )
    };
    endpoints.iter().enumerate().map(one).collect()
}

struct Rig {
    gateway: Gateway,
    file: ConfigFile,
}

impl Rig {
    fn start(text: &str, args: &[&str]) -> Self {
        let file = ConfigFile::new("services.yaml", text);
        Self { gateway: Gateway::start(&file.path(), &[&["--http", "none"], args].concat()), file }
    }

    fn write(&self, text: &str) {
        self.file.write(text);
    }
}

const BALANCED: [&str; 2] = ["--service-types", "load-balancer"];

fn balanced(at: SocketAddr, more: &str) -> String {
    let (ip, port) = (at.ip(), at.port());
    service("web", &format!("type: LoadBalancer, loadBalancerIP: {ip}, ports: [{{port: {port}}}]{more}"))
}

fn is_refused(address: SocketAddr) -> bool {
    TcpStream::connect_timeout(&address, PATIENCE)
        .is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

#[test]
fn a_load_balancer_is_served_at_the_address_that_it_asks_for() {
    let at = virtual_address();
    let (one, two) = (named("one"), named("two"));
    let rig = Rig::start(&(balanced(at, "") + &slices("web", &[(one, "")])), &BALANCED);
    assert_eq!(ask(at).unwrap(), "one");
    let other = SocketAddr::from(([127, 7, 0, 2], at.port()));
    assert!(is_refused(other), "no other address is served");
    let page = rig.gateway.admin("/debug/table");
    assert!(page.contains("service/default/web") && page.contains("default/web"), "{page}");
    rig.write(&(balanced(at, "") + &slices("web", &[(two, "")])));
    eventually("the other endpoint", || ask(at).is_ok_and(|text| text == "two"));
    // Without endpoints, nobody is told that it is connected.
    rig.write(&balanced(at, ""));
    eventually("a refusal", || is_refused(at));
    rig.write("");
    eventually("the end of the Service", || TcpListener::bind(at).is_ok());
}

/// Ports of Services come and go with the table, and so does what leads back to them.
#[test]
fn a_service_whose_endpoint_is_its_own_address_is_no_loop() {
    let at = virtual_address();
    let rig = Rig::start("", &BALANCED);
    rig.write(&(balanced(at, "") + &slices("web", &[(at, "")])));
    let loops = "sluicegate_tcp_connections_total{reason=\"Loop\"} ";
    eventually("a reset for that", || {
        let _refused_or_reset = ask(at).unwrap_err();
        let page = rig.gateway.admin("/metrics");
        page.lines().any(|line| line.strip_prefix(loops).is_some_and(|count| count != "0"))
    });
    let page = rig.gateway.admin("/metrics");
    let accepted =
        page.lines().filter_map(|line| line.strip_prefix("sluicegate_connections_accepted_total{"));
    let accepted: u32 = accepted.map(|line| line.split_once(' ').unwrap().1.parse::<u32>().unwrap()).sum();
    assert!(accepted < 100, "{accepted}");
    rig.write(&(balanced(at, "") + &slices("web", &[(named("one"), "")])));
    eventually("another endpoint", || ask(at).is_ok_and(|text| text == "one"));
}

#[test]
fn open_connections_outlive_endpoint_changes_and_the_service() {
    let at = virtual_address();
    let rig = Rig::start(&(balanced(at, "") + &slices("web", &[(greeting("1"), "")])), &BALANCED);
    let connect = || {
        let mut stream = TcpStream::connect(at).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut greeting = [0];
        stream.read_exact(&mut greeting).unwrap();
        (stream, greeting)
    };
    let (mut stream, _) = connect();
    let mut exchange = || {
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0]).unwrap();
    };
    exchange();
    rig.write(&(balanced(at, "") + &slices("web", &[(greeting("2"), "")])));
    eventually("the other endpoint", || connect().1 == *b"2");
    exchange();
    rig.write("");
    eventually("the end of the Service", || is_refused(at));
    exchange();
}

#[test]
fn ports_of_the_node_are_served_on_the_chosen_addresses() {
    let at = virtual_address();
    let port = at.port();
    let text = service("web", &format!("type: NodePort, ports: [{{port: 80, nodePort: {port}}}]"))
        + &slices("web", &[(named("one"), "")]);
    let _rig = Rig::start(&text, &["--service-types", "node-port"]);
    assert_eq!(ask(at).unwrap(), "one");
    let other = virtual_address();
    let text = text.replace(&port.to_string(), &other.port().to_string());
    let _rig = Rig::start(&text, &["--service-types", "node-port", "--nodeport-addresses", "127.0.0.0/8"]);
    assert_eq!(ask(SocketAddr::from(([127, 0, 0, 1], other.port()))).unwrap(), "one");
    assert!(is_refused(other), "127.7.0.1 is none of the addresses of this host");
}

#[test]
fn clients_keep_their_endpoint_across_workers() {
    let at = virtual_address();
    let text = balanced(at, ", sessionAffinity: ClientIP")
        + &slices("web", &[(named("one"), ""), (named("two"), ""), (named("three"), "")]);
    let rig = Rig::start(&text, &[&BALANCED[..], &["--workers", "2"]].concat());
    let mut seen = std::collections::BTreeSet::new();
    for client in 1..=24 {
        let source = Ipv4Addr::new(127, 8, 0, client);
        let first = ask_from(Some(source), at).unwrap();
        for _ in 0..6 {
            assert_eq!(ask_from(Some(source), at).unwrap(), first, "{source}");
        }
        seen.insert(first);
    }
    assert_eq!(seen.len(), 3, "clients are spread");
    drop(rig);
}

#[test]
fn clients_outside_of_the_source_ranges_are_reset() {
    let at = virtual_address();
    let text =
        balanced(at, ", loadBalancerSourceRanges: [127.8.0.0/24]") + &slices("web", &[(named("one"), "")]);
    let rig = Rig::start(&text, &BALANCED);
    assert_eq!(ask_from(Some(Ipv4Addr::new(127, 8, 0, 1)), at).unwrap(), "one");
    let denied = ask_from(Some(Ipv4Addr::new(127, 9, 0, 1)), at);
    assert!(denied.is_err(), "{denied:?}");
    rig.write(&text.replace("127.8.0.0/24", "everybody"));
    eventually("what cannot be understood serves nobody", || {
        ask_from(Some(Ipv4Addr::new(127, 8, 0, 1)), at).is_err()
    });
}

#[test]
fn the_local_policy_uses_endpoints_of_this_node_and_tells_health_checks() {
    let at = virtual_address();
    let check = free_address().port();
    let (here, there) = (named("here"), named("there"));
    let spec = format!(", externalTrafficPolicy: Local, healthCheckNodePort: {check}");
    let text = |here_ready: bool| {
        let own = format!(", nodeName: n1, conditions: {{ready: {here_ready}}}");
        balanced(at, &spec) + &slices("web", &[(here, &own), (there, ", nodeName: n2")])
    };
    let args = ["--service-types", "load-balancer,node-port", "--node-name", "n1"];
    let rig = Rig::start(&text(true), &args);
    for _ in 0..4 {
        assert_eq!(ask(at).unwrap(), "here");
    }
    let health = SocketAddr::from((IpAddr::from([127, 0, 0, 1]), check));
    eventually("an open port", || TcpStream::connect(health).is_ok());
    let answer = get(health, "node", "/");
    assert_eq!((answer.status, answer.header("x-load-balancing-endpoint-weight")), (200, Some("1")));
    let expected =
        r#"{"localEndpoints":1,"service":{"name":"web","namespace":"default"},"serviceProxyHealthy":true}"#;
    assert_eq!(answer.body, expected);
    rig.write(&text(false));
    eventually("no endpoint here", || is_refused(at));
    eventually("503", || get(health, "node", "/healthz").status == 503);
    rig.write("");
    eventually("a closed port", || is_refused(health));
}

/// A Service with a health check on `port`, of which one endpoint is here.
fn checked(name: &str, port: u16) -> String {
    let spec = format!(
        "type: LoadBalancer, loadBalancerIP: 127.7.0.9, ports: [{{port: {}}}], externalTrafficPolicy: Local, \
         healthCheckNodePort: {port}",
        free_address().port()
    );
    service(name, &spec) + &slices(name, &[(named("x"), ", nodeName: n1")])
}

const CHECKED: [&str; 4] = ["--service-types", "load-balancer,node-port", "--node-name", "n1"];

#[test]
fn health_checks_are_answered_however_many_connections_say_nothing() {
    let port = free_address().port();
    let _rig = Rig::start(&checked("web", port), &CHECKED);
    let health = SocketAddr::from(([127, 0, 0, 1], port));
    eventually("an open port", || TcpStream::connect(health).is_ok());
    let idle: Vec<TcpStream> = (0..400).map(|_| TcpStream::connect(health).unwrap()).collect();
    for _ in 0..5 {
        assert_eq!(get(health, "node", "/").status, 200);
    }
    // Who says nothing is not waited for.
    for mut one in idle {
        one.set_read_timeout(Some(PATIENCE)).unwrap();
        assert!(!matches!(one.read(&mut [0]), Ok(1..)));
    }
}

#[test]
fn a_health_check_port_goes_from_one_service_to_another_at_once() {
    let port = free_address().port();
    let rig = Rig::start(&(checked("one", port) + &checked("two", free_address().port())), &CHECKED);
    let health = SocketAddr::from(([127, 0, 0, 1], port));
    let name = || {
        let body = TcpStream::connect(health).is_ok().then(|| get(health, "node", "/").body);
        body.and_then(|body| Some(body.split_once("\"name\":\"")?.1.split_once('"')?.0.to_owned()))
    };
    eventually("the first", || name().is_some_and(|name| name == "one"));
    let started = std::time::Instant::now();
    rig.write(&checked("two", port));
    eventually("the second", || name().is_some_and(|name| name == "two"));
    assert!(started.elapsed() < std::time::Duration::from_secs(10), "{:?}", started.elapsed());
}

#[test]
fn a_service_whose_address_is_taken_costs_only_itself() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = virtual_address();
    let spec = format!(
        "type: LoadBalancer, loadBalancerIP: 127.0.0.1, ports: [{{port: {}}}]",
        taken.local_addr().unwrap().port()
    );
    let text = service("taken", &spec)
        + &slices("taken", &[(named("taken"), "")])
        + &balanced(at, "")
        + &slices("web", &[(named("one"), "")]);
    let rig = Rig::start(&text, &BALANCED);
    assert_eq!(ask(at).unwrap(), "one");
    rig.gateway.wait_for_log("cannot listen");
    let has = |page: &str, text: &str| rig.gateway.admin(page).contains(text);
    assert!(has("/metrics", "\nsluicegate_binds_failed 1\n"));
    assert!(has("/debug/table", "\"cannot_listen\": \"Address already in use"));
    drop(taken);
    eventually("an open address", || has("/metrics", "\nsluicegate_binds_failed 0\n"));
}

#[test]
fn a_map_in_the_format_of_ingress_nginx_opens_ports() {
    let (plain, headed) = (free_address(), free_address());
    let text = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: tcp-services, namespace: ingress-nginx}}\ndata:\n  \
         '{}': default/web:80\n  '{}': default/web:80::PROXY\n  '1x': default/web:80\n",
        plain.port(),
        headed.port()
    );
    let text = text + &service("web", "ports: [{port: 80}]") + &slices("web", &[(echo(), "")]);
    let rig = Rig::start(&text, &["--tcp-services-configmap", "ingress-nginx/tcp-services"]);
    let mut stream = TcpStream::connect(plain).unwrap();
    stream.write_all(b"x").unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.read_exact(&mut [0]).unwrap();
    let mut stream = TcpStream::connect(headed).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut head = [0; 10];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"PROXY TCP4");
    rig.gateway.wait_for_log("data[1x]");
}

#[test]
fn tcp_and_udp_are_served_on_one_number() {
    let at = virtual_address();
    let answering = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let udp_port = answering.local_addr().unwrap().port();
    thread::spawn(move || {
        let mut buf = [0; 64];
        while let Ok((_, client)) = answering.recv_from(&mut buf) {
            answering.send_to(b"datagram", client).unwrap();
        }
    });
    let tcp_port = named("stream").port();
    let (ip, port) = (at.ip(), at.port());
    let ports = format!("[{{name: t, port: {port}}}, {{name: u, port: {port}, protocol: UDP}}]");
    let text = service("dns", &format!("type: LoadBalancer, loadBalancerIP: {ip}, ports: {ports}"))
        + &format!(
            "---\n{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: dns-1, labels: \
             {{kubernetes.io/service-name: dns}}}}, addressType: IPv4, ports: [{{name: t, port: {tcp_port}}}, \
             {{name: u, port: {udp_port}, protocol: UDP}}], endpoints: [{{addresses: [127.0.0.1]}}]}}\n"
        );
    let _rig = Rig::start(&text, &BALANCED);
    assert_eq!(ask(at).unwrap(), "stream");
    let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.send_to(b"x", at).unwrap();
    let mut buf = [0; 64];
    let (length, from) = client.recv_from(&mut buf).unwrap();
    assert_eq!((&buf[..length], from), (&b"datagram"[..], at));
}

#[test]
fn check_says_what_is_wrong_with_services_that_would_be_served() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("a.yaml");
    let text = service(
        "web",
        "type: LoadBalancer, loadBalancerSourceRanges: [all], ports: [{port: 80, protocol: SCTP}, {name: b, port: 81}]",
    );
    std::fs::write(&file, text).unwrap();
    let path = |file: &Path| file.to_str().unwrap().to_owned();
    let (code, out, _) = run(&["check", &path(&file)]);
    assert!(code == 0 && !out.contains("InvalidSourceRange"), "{out}");
    let (code, out, _) = run(&["check", &path(&file), "--service-types", "load-balancer"]);
    assert_eq!(code, 1, "{out}");
    for reason in ["InvalidSourceRange", "UnsupportedProtocol", "NoAddress"] {
        assert!(out.contains(reason), "{reason}: {out}");
    }
}

#[test]
fn explain_names_whom_an_address_is_not_given_to() {
    let balancer = |namespace: &str, name: &str, created: &str, port: u16| {
        format!(
            "---\n{{apiVersion: v1, kind: Service, metadata: {{namespace: {namespace}, name: {name}, creationTimestamp: \
             '{created}'}}, spec: {{type: LoadBalancer, loadBalancerIP: 127.7.0.1, ports: [{{port: {port}}}]}}}}\n"
        )
    };
    let text = balancer("a", "old", "2026-01-01T00:00:00Z", 5432)
        + &balancer("a", "young", "2026-01-02T00:00:00Z", 5432)
        + &balancer("b", "stranger", "2026-01-03T00:00:00Z", 54320);
    let file = ConfigFile::new("services.yaml", &text);
    let path = file.path();
    let explain = |url: &str| {
        let path = path.to_str().unwrap();
        let (_, out, _) =
            run(&["explain", url, "--config", path, "--http", "none", "--json", BALANCED[0], BALANCED[1]]);
        serde_json::from_str::<serde_json::Value>(&out).unwrap()
    };
    let one = explain("tcp://127.7.0.1:5432");
    assert_eq!(one["object"]["name"], "old");
    assert_eq!(one["others"].as_array().unwrap().len(), 1, "{one}");
    assert_eq!(one["others"][0]["object"]["name"], "young");
    let other = explain("tcp://127.7.0.1:54320");
    assert_eq!(other["is_served"], false);
    assert_eq!(other["others"].as_array().unwrap().len(), 1, "{other}");
    assert_eq!(other["others"][0]["object"]["name"], "stranger");
}
