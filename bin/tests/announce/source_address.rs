//! Endpoints that see who their client is, since the gateway speaks to them from its address.

use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use crate::common::{Gateway, eventually};
use crate::net::{CLIENT, Net, can_run};

const SHORT: Duration = Duration::from_secs(2);
const CLIENT6: &str = "fd77::100";
const POD: &str = "10.79.0.2";
const POD6: &str = "fd79::2";
const PORT: u16 = 7_001;

/// A gateway's host, and another one that stands for a Pod of it: it is reached through the first alone, and tells its
/// clients which address they come from.
fn net() -> Net {
    let net = Net::new(2);
    net.ip(2, &["link", "set", "eth0", "down"]);
    let pod = net.host(2);
    net.ip(1, &["link", "add", "pod", "type", "veth", "peer", "name", "uplink", "netns", &pod]);
    for (n, link, address, address6) in
        [(1, "pod", "10.79.0.1/24", "fd79::1/64"), (2, "uplink", "10.79.0.2/24", "fd79::2/64")]
    {
        net.ip(n, &["link", "set", link, "up"]);
        net.ip(n, &["addr", "add", address, "dev", link]);
        net.ip(n, &["addr", "add", address6, "dev", link, "nodad"]);
    }
    net.ip(2, &["route", "add", "default", "via", "10.79.0.1"]);
    net.ip(2, &["-6", "route", "add", "default", "via", "fd79::1"]);
    // What the Pod answers is the gateway's, whoever it is for.
    for family in ["-4", "-6"] {
        net.ip(1, &[family, "rule", "add", "iif", "pod", "lookup", "83"]);
        net.ip(1, &[family, "route", "add", "local", "default", "dev", "lo", "table", "83"]);
    }
    net.inside(&pod, || {
        for ip in [POD, POD6] {
            let at = SocketAddr::new(ip.parse().unwrap(), PORT);
            let (listener, socket) = (TcpListener::bind(at).unwrap(), UdpSocket::bind(at).unwrap());
            thread::spawn(move || tell_peers(&listener));
            thread::spawn(move || tell_senders(&socket));
        }
    });
    net
}

fn tell_peers(listener: &TcpListener) {
    while let Ok((mut stream, peer)) = listener.accept() {
        let _ = std::io::Write::write_all(&mut stream, peer.ip().to_string().as_bytes());
    }
}

fn tell_senders(socket: &UdpSocket) {
    let mut space = [0; 64];
    while let Ok((_, from)) = socket.recv_from(&mut space) {
        let _ = socket.send_to(from.ip().to_string().as_bytes(), from);
    }
}

fn start(net: &Net, text: &str, more: &[&str]) -> (Gateway, TempDir) {
    let folder = TempDir::new().unwrap();
    let path: PathBuf = folder.path().join("config.yaml");
    std::fs::write(&path, text).unwrap();
    let args = [&["--config", shown(&path), "--http", "none"], more].concat();
    let mut gateway = net.gateway(1, &args);
    gateway.wait_until_ready();
    (gateway, folder)
}

fn shown(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn ask_udp(net: &Net, at: SocketAddr) -> String {
    net.inside(&net.lan(), || {
        let any: IpAddr = if at.is_ipv4() { [0, 0, 0, 0].into() } else { [0; 16].into() };
        let socket = UdpSocket::bind((any, 0)).unwrap();
        socket.set_read_timeout(Some(SHORT)).unwrap();
        socket.send_to(b"who?", at).unwrap();
        let mut space = [0; 64];
        let length = socket.recv(&mut space).expect("an answer");
        String::from_utf8_lossy(&space[..length]).into_owned()
    })
}

#[test]
fn endpoints_see_the_addresses_of_their_clients() {
    if !can_run() {
        return;
    }
    let net = net();
    let text: String = ["listeners:\n".to_owned()]
        .into_iter()
        .chain([("10.77.0.1", "four"), ("'[fd77::1]", "six")].iter().flat_map(|(ip, backend)| {
            let quote = if ip.starts_with('\'') { "'" } else { "" };
            ["tcp", "udp"].map(|protocol| {
                format!(
                    "- {{name: {backend}-{protocol}, address: {ip}:80{quote}, protocol: {protocol}, forward: {{backend: \
                     {backend}, sourceAddress: client}}}}\n"
                )
            })
        }))
        .chain([format!(
            "backends:\n- {{name: four, endpoints: ['{POD}:{PORT}']}}\n- {{name: six, endpoints: ['[{POD6}]:{PORT}']}}\n"
        )])
        .collect();
    let (_gateway, _folder) = start(&net, &text, &["--transparent"]);
    for (at, client) in [("10.77.0.1:80", CLIENT), ("[fd77::1]:80", CLIENT6)] {
        let at: SocketAddr = at.parse().unwrap();
        // Of IPv6, neighbours are asked by an address of the link, which takes the kernel two seconds to have.
        eventually("the client's address", || net.ask(at, SHORT).is_ok_and(|text| text == client));
        assert_eq!(ask_udp(&net, at), client, "UDP");
    }
}

#[test]
fn without_the_right_to_speak_as_others_it_does_not_start() {
    if !can_run() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("config.yaml");
    std::fs::write(&path, "listeners: []\n").unwrap();
    let mut gateway = Gateway::launch_after(
        &["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"],
        &["--config", shown(&path), "--http", "none", "--transparent"],
    );
    assert!(!gateway.wait_for_exit().success());
    gateway.wait_for_log("--transparent needs the capability NET_ADMIN");
}

#[test]
fn a_service_says_whether_its_endpoints_see_clients() {
    if !can_run() {
        return;
    }
    let net = net();
    let service = |annotations: &str| {
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: one, annotations: {{{annotations}}}}}, spec: {{type: \
             LoadBalancer, loadBalancerIP: 10.77.0.1, ports: [{{port: 80}}]}}}}\n---\n\
             {{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: one-1, labels: \
             {{kubernetes.io/service-name: one}}}}, addressType: IPv4, ports: [{{name: '', port: {PORT}}}], \
             endpoints: [{{addresses: ['{POD}']}}]}}\n"
        )
    };
    let types = ["--service-types", "load-balancer"];
    let at: SocketAddr = "10.77.0.1:80".parse().unwrap();
    let wish = "sluicegate.dev/source-address: client";
    let (gateway, folder) = start(&net, &service(""), &[&types[..], &["--transparent"]].concat());
    assert_eq!(net.ask(at, SHORT).unwrap(), "10.79.0.1", "the gateway's own address");
    std::fs::write(folder.path().join("config.yaml"), service(wish)).unwrap();
    eventually("the client's address", || net.ask(at, SHORT).is_ok_and(|text| text == CLIENT));
    drop(gateway);
    // Not allowed: nobody is served, since endpoints would take the gateway for their client.
    let (gateway, _folder) = start(&net, &service(wish), &types);
    assert!(net.ask(at, SHORT).is_err());
    assert!(net.admin(1, &gateway, "/debug/table").contains("NotTransparent"));
}

#[test]
fn clients_get_endpoints_of_their_own_family_or_are_told_that_there_is_none() {
    if !can_run() {
        return;
    }
    let net = net();
    let listener = |name: &str, address: &str, protocol: &str, backend: &str| {
        format!(
            "- {{name: {name}-{protocol}, address: '{address}', protocol: {protocol}, forward: {{backend: {backend}, \
             sourceAddress: client{}}}}}\n",
            if protocol == "tcp" { ", tries: 1" } else { "" }
        )
    };
    let listeners: String = ["tcp", "udp"]
        .into_iter()
        .map(|protocol| {
            listener("both", "10.77.0.1:80", protocol, "both")
                + &listener("both6", "[fd77::1]:80", protocol, "both")
                + &listener("other", "10.77.0.1:81", protocol, "six")
        })
        .collect();
    let text = format!(
        "listeners:\n{listeners}backends:\n- {{name: both, endpoints: ['{POD}:{PORT}', '[{POD6}]:{PORT}']}}\n\
         - {{name: six, endpoints: ['[{POD6}]:{PORT}']}}\n"
    );
    let (gateway, _folder) = start(&net, &text, &["--transparent"]);
    for (at, client) in [("10.77.0.1:80", CLIENT), ("[fd77::1]:80", CLIENT6)] {
        let at: SocketAddr = at.parse().unwrap();
        eventually("the client's address", || net.ask(at, SHORT).is_ok_and(|text| text == client));
        for _ in 0..6 {
            assert_eq!(net.ask(at, SHORT).unwrap(), client, "TCP, at the first try");
            assert_eq!(ask_udp(&net, at), client, "UDP");
        }
    }
    let at: SocketAddr = "10.77.0.1:81".parse().unwrap();
    assert!(net.ask(at, SHORT).is_err());
    net.inside(&net.lan(), || UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"who?", at).unwrap());
    eventually("the reason", || {
        let page = net.admin(1, &gateway, "/metrics");
        page.contains("sluicegate_tcp_connections_total{reason=\"OtherFamily\"} 1\n")
            && page.contains("sluicegate_udp_dropped_total{reason=\"OtherFamily\"} 1\n")
            && page.contains("sluicegate_limit_hits_total{limit=\"local_ports\"} 0\n")
    });
}
