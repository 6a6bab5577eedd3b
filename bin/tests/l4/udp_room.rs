//! Who has room when descriptors run out: no client and no listener has all, and datagrams are never the end of
//! everything else.

use std::net::UdpSocket;

use crate::common::eventually;
use crate::udp_rig::{UdpRig, ask, ask_again, client_from, echo, free_udp, text};

/// A quarter of them is for datagrams.
const FILES: u32 = 400;
const ROOM: u64 = 100;

fn free() -> std::net::SocketAddr {
    free_udp("127.0.0.1".parse().unwrap())
}

#[test]
fn a_flood_at_one_listener_leaves_room_at_the_others() {
    let (flooded, other) = (free(), free());
    let (backend, listener) = (echo("").address, |name, address| {
        format!("- {{name: {name}, address: \"{address}\", protocol: udp, forward: {{backend: app}}}}\n")
    });
    let all = format!(
        "listeners:\n{}{}backends: [{{name: app, endpoints: [\"{backend}\"]}}]\n",
        listener("flooded", flooded),
        listener("other", other)
    );
    let rig = UdpRig::start_with_files(FILES, flooded, &all);
    let used = client_from(1, flooded);
    ask(&used, b"mine");
    ask(&used, b"mine");
    let flood: Vec<UdpSocket> = (0..ROOM + 50).map(|_| client_from(2, flooded)).collect();
    for (sent, client) in (1..).zip(&flood) {
        client.send(b"flood").unwrap();
        eventually("its flow", || rig.metric("sluicegate_udp_flows_opened_total") == sent + 1);
    }
    assert_eq!(rig.open(), ROOM);
    let new = client_from(3, other);
    for _ in 0..3 {
        assert_eq!(ask(&new, b"new"), b"new");
    }
    assert_eq!(ask(&used, b"mine"), b"mine");
    assert_eq!((rig.dropped("NoRoom"), rig.open()), (0, ROOM));
}

#[test]
fn one_client_with_many_flows_leaves_room_for_others() {
    let address = free();
    let config = text(address, ", maxConnections: 0", &[echo("").address]);
    let rig = UdpRig::start_with_files(FILES, address, &config);
    let used = client_from(1, address);
    ask(&used, b"mine");
    ask(&used, b"mine");
    // They all have answers, and go on.
    let many: Vec<UdpSocket> = (0..ROOM).map(|_| client_from(2, address)).collect();
    for client in &many {
        ask(client, b"many");
        ask(client, b"many");
    }
    for _ in 0..10 {
        assert_eq!(ask(&client_from(3, address), b"new"), b"new");
    }
    assert_eq!(ask(&used, b"mine"), b"mine");
    assert_eq!((rig.dropped("NoRoom"), rig.open()), (0, ROOM));
}

/// Whoever forges addresses can send a second datagram blindly, when there must be an answer to the first.
#[test]
fn many_clients_that_went_on_after_an_answer_and_fell_silent_keep_nobody_out() {
    let (flooded, other) = (free(), free());
    let (backend, listener) = (echo("").address, |name, address| {
        format!(
            "- {{name: {name}, address: \"{address}\", protocol: udp, forward: {{backend: app, maxConnections: 0}}}}\n"
        )
    });
    let all = format!(
        "listeners:\n{}{}backends: [{{name: app, endpoints: [\"{backend}\"]}}]\n",
        listener("flooded", flooded),
        listener("other", other)
    );
    let rig = UdpRig::start_with_files(FILES, flooded, &all);
    let (used, host) = (client_from(250, other), |number: u64| u8::try_from(number + 1).unwrap());
    let silent: Vec<UdpSocket> = (0..ROOM - 1).map(|number| client_from(host(number), flooded)).collect();
    for client in silent.iter().chain(&silent) {
        ask(client, b"forged");
    }
    // Last of all: whoever has been silent for longer than everybody at the fullest listener may have to go instead.
    ask(&used, b"mine");
    ask(&used, b"mine");
    assert_eq!(rig.open(), ROOM);
    for address in [other, flooded] {
        assert_eq!(ask_again(&client_from(251, address), b"new"), b"new");
    }
    assert_eq!(ask(&used, b"mine"), b"mine");
    assert_eq!((rig.open(), rig.ended("Evicted")), (ROOM, 2), "one for each new client");
}

#[test]
fn flows_without_a_socket_open_none_when_there_is_no_room() {
    let (address, endpoint) = (free(), free());
    let rig = UdpRig::start_with_files(FILES, address, &text(address, ", maxConnections: 0", &[endpoint]));
    let clients: Vec<UdpSocket> = (0..ROOM * 2).map(|_| client_from(2, address)).collect();
    let failures = format!("sluicegate_endpoint_failures_total{{backend=\"app\",endpoint=\"{endpoint}\"}}");
    for (sent, client) in (1..).zip(&clients) {
        client.send(b"?").unwrap();
        eventually("its refusal", || {
            let page = rig.gateway.admin("/metrics");
            let count =
                page.lines().find_map(|line| line.strip_prefix(&failures)?.trim().parse::<u64>().ok());
            count.is_some_and(|count| count >= sent)
        });
    }
    let silent = UdpSocket::bind(endpoint).unwrap();
    let before = rig.metric("process_open_fds");
    for client in &clients {
        client.send(b"?").unwrap();
    }
    // Flows that have no socket go first, and free none: some of the datagrams are lost.
    silent.set_read_timeout(Some(crate::common::PATIENCE)).unwrap();
    for _ in 0..ROOM {
        silent.recv(&mut [0; 16]).unwrap();
    }
    eventually("all have come", || {
        rig.metric("sluicegate_udp_datagrams_total{direction=\"in\"}") == ROOM * 4
    });
    let after = rig.metric("process_open_fds");
    assert!(after <= before + ROOM, "{before} to {after}");
}
