//! ConfigMaps in the format of ingress-nginx's `tcp-services` and `udp-services`: their ports are opened, follow them, and
//! go with them.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::common::{eventually, free_address, host_ip};
use crate::objects::{endpoint, service, slice, slice_of};

const SOON: Duration = Duration::from_millis(500);

/// Says its name to whoever connects.
fn stream_of(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind((host_ip(), 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.write_all(name.as_bytes());
        }
    });
    address
}

/// Answers each datagram with its name.
fn datagrams_of(name: &'static str) -> SocketAddr {
    let socket = UdpSocket::bind((host_ip(), 0)).unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, client)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(name.as_bytes(), client);
        }
    });
    address
}

fn over_tcp(port: u16) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&(Ipv4Addr::LOCALHOST, port).into(), SOON)?;
    stream.set_read_timeout(Some(SOON))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn over_udp(port: u16) -> io::Result<String> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_read_timeout(Some(SOON))?;
    socket.connect((Ipv4Addr::LOCALHOST, port))?;
    socket.send(b"who")?;
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

fn is_refused(answer: io::Result<String>) -> bool {
    answer.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

fn free_udp_port() -> u16 {
    UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap().local_addr().unwrap().port()
}

/// A Service for datagrams, with its endpoint.
fn udp_service(cluster: &Cluster, name: &str, address: SocketAddr) {
    let mut object = service(name);
    object["spec"]["ports"] = json!([{"name": "dns", "port": 53, "protocol": "UDP"}]);
    cluster.apply(&object);
    let mut object = slice_of(name, "1", address.port(), vec![endpoint(address, json!({"ready": true}))]);
    object["ports"] = json!([{"name": "dns", "port": address.port(), "protocol": "UDP"}]);
    cluster.apply(&object);
}

#[test]
fn ports_of_the_maps_are_served_follow_a_change_and_close_with_it() {
    let cluster = Cluster::new();
    for (name, datagrams) in [("one", "dns-one"), ("two", "dns-two")] {
        cluster.apply(&service(name));
        cluster.apply(&slice(name, &[stream_of(name)]));
        udp_service(&cluster, datagrams, datagrams_of(datagrams));
    }
    let map = |name: &str, port: u16, to: &str| -> Value {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name},
            "data": {port.to_string(): format!("{}/{to}", cluster.namespace)}})
    };
    let (tcp, udp, later) = (free_address().port(), free_udp_port(), free_address().port());
    cluster.apply(&map("tcp-services", tcp, "one:80"));
    let named = |name: &str| format!("{}/{name}", cluster.namespace);
    let (tcp_map, udp_map) = (named("tcp-services"), named("udp-services"));
    let maps = ["--tcp-services-configmap", &tcp_map, "--udp-services-configmap", &udp_map];
    let _gateway = cluster.gateway(&[&maps[..], &["--http", "none", "--drain-timeout", "1s"]].concat());
    eventually("the port of TCP", || over_tcp(tcp).is_ok_and(|text| text == "one"));
    assert!(is_refused(over_udp(udp)), "there is no map of UDP yet");
    cluster.apply(&map("udp-services", udp, "dns-one:53"));
    eventually("the port of UDP", || over_udp(udp).is_ok_and(|text| text == "dns-one"));
    // To another Service, and then to another port.
    cluster.apply(&map("tcp-services", tcp, "two:80"));
    cluster.apply(&map("udp-services", udp, "dns-two:dns"));
    eventually("the other Service", || over_tcp(tcp).is_ok_and(|text| text == "two"));
    eventually("the other Service over UDP", || over_udp(udp).is_ok_and(|text| text == "dns-two"));
    cluster.apply(&map("tcp-services", later, "two:80"));
    eventually("the other port", || over_tcp(later).is_ok_and(|text| text == "two"));
    eventually("the former port to be closed", || is_refused(over_tcp(tcp)));
    cluster.delete(&map("tcp-services", later, "two:80"));
    cluster.delete(&map("udp-services", udp, "dns-two:dns"));
    eventually("the port of TCP to be closed", || is_refused(over_tcp(later)));
    eventually("the port of UDP to be closed", || is_refused(over_udp(udp)));
}
