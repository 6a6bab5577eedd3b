//! How flows live: endpoints that leave or die, silence, bounds, changes of the table.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::common::{PATIENCE, eventually};
use crate::udp_rig::{UdpRig, ask, ask_again, client, client_from, echo, free_udp, text};

#[test]
fn a_flow_of_a_removed_endpoint_moves_with_the_next_datagram_and_others_stay() {
    let (one, two) = (echo("one "), echo("two "));
    let rig = UdpRig::start("", &[one.address, two.address]);
    let clients: Vec<UdpSocket> = (0..20).map(|_| rig.client()).collect();
    let before: Vec<Vec<u8>> = clients.iter().map(|client| ask(client, b"?")).collect();
    assert!(before.contains(&b"one ?".to_vec()) && before.contains(&b"two ?".to_vec()));
    let peers = two.peers.lock().unwrap().clone();
    rig.change("", &[two.address]);
    for client in &clients {
        assert_eq!(ask(client, b"?"), b"two ?");
    }
    assert_eq!(rig.open(), 20, "they are the same flows");
    let after = two.peers.lock().unwrap().clone();
    assert!(after.is_superset(&peers) && after.len() == 20, "{} of {}", peers.len(), after.len());
}

#[test]
fn a_flow_may_stay_with_a_removed_endpoint_for_as_long_as_is_configured() {
    let (one, two) = (echo("one "), echo("two "));
    let rig = UdpRig::start(", endAfterRemoval: 1h", &[one.address]);
    let old = rig.client();
    assert_eq!(ask(&old, b"?"), b"one ?");
    rig.change(", endAfterRemoval: 1h", &[two.address]);
    assert_eq!(ask(&old, b"?"), b"one ?");
    assert_eq!(ask(&rig.client(), b"?"), b"two ?");
}

#[test]
fn a_route_to_another_backend_takes_its_flows_along() {
    let (one, two) = (echo("one "), echo("two "));
    let rig = UdpRig::start("", &[one.address]);
    let client = rig.client();
    assert_eq!(ask(&client, b"?"), b"one ?");
    let other = format!(
        "listeners: [{{name: dns, address: \"{}\", protocol: udp, forward: {{backend: other}}}}]\n\
         backends: [{{name: app, endpoints: [\"{}\"]}}, {{name: other, endpoints: [\"{}\"]}}]\n",
        rig.address, one.address, two.address
    );
    rig.write(&other);
    assert_eq!(ask(&client, b"?"), b"two ?");
}

#[test]
fn an_endpoint_that_refuses_is_left_for_another() {
    let nobody = free_udp("127.0.0.1".parse().unwrap());
    let alive = echo("alive ");
    let rig = UdpRig::start("", &[nobody, alive.address]);
    for _ in 0..10 {
        assert_eq!(ask_again(&rig.client(), b"?"), b"alive ?");
    }
    eventually("the dead one is noticed", || {
        let client = rig.client();
        ask_again(&client, b"?");
        let failures = format!("sluicegate_endpoint_failures_total{{backend=\"app\",endpoint=\"{nobody}\"}}");
        rig.gateway.admin("/metrics").contains(&failures)
    });
}

#[test]
fn a_flow_whose_endpoint_dies_goes_on_with_another() {
    let alive = echo("alive ");
    let dying = UdpSocket::bind("127.0.0.1:0").unwrap();
    dying.set_read_timeout(Some(PATIENCE)).unwrap();
    let rig = UdpRig::start("", &[dying.local_addr().unwrap(), alive.address]);
    // One of two flows is with the one that will die.
    let clients = [rig.client(), rig.client()];
    for client in &clients {
        client.send(b"?").unwrap();
    }
    assert_eq!(dying.recv(&mut [0; 16]).unwrap(), 1);
    drop(dying);
    for client in &clients {
        assert_eq!(ask_again(client, b"!").split_last().unwrap().1, b"alive ");
    }
}

#[test]
fn nobody_to_send_to_is_a_refusal_until_there_is_somebody() {
    let rig = UdpRig::start("", &[]);
    let client = rig.client();
    eventually("a refusal", || {
        let _sent = client.send(b"?");
        client.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        client.recv(&mut [0; 16]).is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
    });
    assert!(UdpSocket::bind(rig.address).is_err(), "the port stays ours");
    rig.change("", &[echo("").address]);
    assert_eq!(ask_again(&client, b"here"), b"here");
    rig.change("", &[]);
    eventually("a refusal again", || {
        let _sent = client.send(b"?");
        client.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        client.recv(&mut [0; 16]).is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
    });
    assert_eq!(rig.ended("BindClosed"), 1);
}

#[test]
fn a_silent_flow_ends_and_the_next_datagram_begins_another() {
    let backend = echo("");
    let rig = UdpRig::start(", idleTimeout: 300ms", &[backend.address]);
    let client = rig.client();
    ask(&client, b"?");
    eventually("its end", || rig.ended("IdleTimeout") == 1);
    assert_eq!(rig.open(), 0);
    ask(&client, b"?");
    assert_eq!(backend.peers.lock().unwrap().len(), 2, "with a port of its own");
}

#[test]
fn a_flow_ends_at_the_end_of_its_life_however_busy_it_is() {
    let rig = UdpRig::start(", lifetime: 300ms", &[echo("").address]);
    let client = rig.client();
    eventually("its end", || {
        ask(&client, b"?");
        rig.ended("Lifetime") >= 1
    });
}

#[test]
fn clients_outside_of_the_ranges_get_nothing_and_cost_nothing() {
    let backend = echo("");
    let rig = UdpRig::start(", sourceRanges: [127.0.0.2/32]", &[backend.address]);
    let denied = rig.client();
    denied.send(b"?").unwrap();
    eventually("a drop", || rig.dropped("SourceDenied") == 1);
    let served = UdpSocket::bind("127.0.0.2:0").unwrap();
    served.connect(rig.address).unwrap();
    served.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(ask(&served, b"?"), b"?");
    rig.change(", sourceRanges: [127.0.0.3/32]", &[backend.address]);
    served.send(b"?").unwrap();
    eventually("another drop", || rig.dropped("SourceDenied") == 2);
    assert_eq!((rig.open(), rig.ended("SourceDenied")), (0, 1));
}

#[test]
fn a_flood_replaces_its_own_flows_and_those_in_use_stay() {
    let backend = echo("");
    let rig = UdpRig::start_on(
        free_udp("127.0.0.1".parse().unwrap()),
        ", maxConnections: 50",
        &[backend.address],
        &["--workers", "1"],
    );
    let used: Vec<UdpSocket> = (1..=40).map(|client| client_from(client, rig.address)).collect();
    for client in used.iter().chain(&used) {
        assert_eq!(ask(client, b"mine"), b"mine");
    }
    let descriptors = rig.metric("process_open_fds");
    // Kept for as long as their flows, so that no port comes twice; in parts that a socket's buffer holds.
    let mut flood = Vec::new();
    for part in 1..=20 {
        let new: Vec<UdpSocket> = (0..50).map(|_| rig.client()).collect();
        new.iter().for_each(|client| assert_eq!(client.send(b"flood").unwrap(), 5));
        eventually("a part of the flood", || rig.ended("Evicted") == part * 50 - 10);
        flood = new;
    }
    drop(flood);
    assert_eq!(rig.open(), 50);
    assert!(rig.metric("process_open_fds") <= descriptors + 10);
    for client in &used {
        assert_eq!(ask(client, b"still mine"), b"still mine");
    }
    assert_eq!(rig.ended("Evicted"), 990);
}

#[test]
fn flows_that_are_all_in_use_make_no_room() {
    let backend = echo("");
    let rig = UdpRig::start_on(
        free_udp("127.0.0.1".parse().unwrap()),
        ", maxConnections: 2",
        &[backend.address],
        &["--workers", "1"],
    );
    let used = [rig.client(), rig.client()];
    for client in used.iter().chain(&used) {
        ask(client, b"mine");
    }
    rig.client().send(b"more").unwrap();
    eventually("a drop", || rig.dropped("TooMany") == 1);
    assert_eq!(ask(&used[0], b"mine"), b"mine");
}

#[test]
fn an_endpoint_at_its_cap_is_passed_over() {
    let (one, two) = (echo("one "), echo("two "));
    let rig = UdpRig::start(", maxConnectionsPerEndpoint: 1", &[one.address, two.address]);
    let clients = [rig.client(), rig.client()];
    let mut answers = clients.each_ref().map(|client| ask(client, b"?"));
    answers.sort();
    assert_eq!(answers, [b"one ?".to_vec(), b"two ?".to_vec()]);
    rig.client().send(b"?").unwrap();
    eventually("a drop", || rig.dropped("EndpointsFull") == 1);
}

#[test]
fn answers_are_taken_from_the_endpoint_alone() {
    let backend = UdpSocket::bind("127.0.0.1:0").unwrap();
    backend.set_read_timeout(Some(PATIENCE)).unwrap();
    let rig = UdpRig::start("", &[backend.local_addr().unwrap()]);
    let client = rig.client();
    client.send(b"?").unwrap();
    let (_, flow) = backend.recv_from(&mut [0; 16]).unwrap();
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    for _ in 0..100 {
        stranger.send_to(b"forged", flow).unwrap();
    }
    let other_port_of_the_endpoint = UdpSocket::bind("127.0.0.1:0").unwrap();
    other_port_of_the_endpoint.send_to(b"forged", flow).unwrap();
    backend.send_to(b"true", flow).unwrap();
    let mut answer = [0; 16];
    let length = client.recv(&mut answer).unwrap();
    assert_eq!(&answer[..length], b"true");
    assert_eq!(rig.metric("sluicegate_udp_datagrams_total{direction=\"out\"}"), 1);
}

#[test]
fn a_listener_that_is_removed_closes_and_comes_back() {
    let backend = echo("");
    let rig = UdpRig::start("", &[backend.address]);
    let client = rig.client();
    ask(&client, b"?");
    let without = format!("backends: [{{name: app, endpoints: [\"{}\"]}}]\n", backend.address);
    rig.write(&without);
    eventually("its end", || rig.ended("BindClosed") == 1);
    eventually("a free port", || UdpSocket::bind(rig.address).is_ok());
    rig.write(&text(rig.address, "", &[backend.address]));
    assert_eq!(ask_again(&client, b"back"), b"back");
}

#[test]
fn changes_of_the_table_lose_nothing_of_flows_whose_endpoint_stays() {
    let (one, two) = (echo(""), echo(""));
    let rig = UdpRig::start("", &[one.address]);
    let (stop, address) = (Arc::new(AtomicBool::new(false)), rig.address);
    let clients: Vec<_> = (0..8_u32)
        .map(|number| {
            let stop = Arc::clone(&stop);
            thread::spawn(move || steady(address, number, &stop))
        })
        .collect();
    for round in 0..20 {
        let both = [one.address, two.address];
        rig.change("", if round % 2 == 0 { &both } else { &both[..1] });
    }
    stop.store(true, Ordering::Relaxed);
    let rounds: u32 = clients.into_iter().map(|client| client.join().unwrap()).sum();
    assert!(rounds > 100, "{rounds} rounds");
    assert_eq!(one.peers.lock().unwrap().len(), 8, "no flow has moved");
}

/// Asks until `stop`; nothing may be lost.
fn steady(address: SocketAddr, number: u32, stop: &AtomicBool) -> u32 {
    let client = client(address);
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        let question = [number.to_be_bytes(), u32::to_be_bytes(round)].concat();
        assert_eq!(ask(&client, &question), question, "client {number}, round {round}");
        thread::sleep(Duration::from_millis(1));
    }
    round
}

#[test]
fn a_flow_has_one_line_in_the_access_log_when_it_ends() {
    let rig = UdpRig::start_on(
        free_udp("127.0.0.1".parse().unwrap()),
        ", idleTimeout: 200ms",
        &[echo("").address],
        &["--access-log", "json"],
    );
    ask(&rig.client(), b"four");
    let line = rig.gateway.wait_for_log("\"protocol\":\"udp\"");
    for part in ["\"reason\":\"IdleTimeout\"", "\"bytes.in\":4", "\"bytes.out\":4", "\"attempts\":1"] {
        assert!(line.contains(part), "{line}");
    }
}
