//! Datagrams, flows, and what becomes of them.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use crate::common::eventually;
use crate::udp_rig::{UdpRig, ask, client, echo, echo_on, free_udp, repeating};

#[test]
fn datagrams_go_to_the_endpoint_and_answers_come_back_whole_and_in_order() {
    let rig = UdpRig::start("", &[echo("").address]);
    let client = rig.client();
    for round in 0..1_000_u32 {
        assert_eq!(ask(&client, &round.to_be_bytes()), round.to_be_bytes());
    }
    assert_eq!(rig.open(), 1);
    assert_eq!(rig.metric("sluicegate_udp_datagrams_total{direction=\"in\"}"), 1_000);
    assert_eq!(rig.metric("sluicegate_udp_bytes_total{direction=\"out\"}"), 4_000);
}

#[test]
fn a_thousand_clients_have_a_flow_each() {
    let backend = echo("");
    let rig = UdpRig::start("", &[backend.address]);
    let clients: Vec<UdpSocket> = (0..1_000).map(|_| rig.client()).collect();
    for round in 0..3_u32 {
        for (number, client) in clients.iter().enumerate() {
            client.send(&[number.to_be_bytes().as_slice(), &round.to_be_bytes()].concat()).unwrap();
        }
        for (number, client) in clients.iter().enumerate() {
            let mut answer = [0; 64];
            let length = client.recv(&mut answer).unwrap();
            assert_eq!(answer[..length], [number.to_be_bytes().as_slice(), &round.to_be_bytes()].concat());
        }
    }
    assert_eq!(rig.open(), 1_000);
    assert_eq!(backend.peers.lock().unwrap().len(), 1_000);
}

/// L42: whoever forges answers of a DNS server has to guess a port as well (RFC 5452 §4.5), which the port of the flow before
/// must not tell.
#[test]
fn the_port_of_a_flow_does_not_tell_that_of_the_next() {
    const FLOWS: usize = 64;
    let backend = echo("");
    let rig = UdpRig::start("", &[backend.address]);
    let mut ports = Vec::new();
    for _ in 0..FLOWS {
        assert_eq!(ask(&rig.client(), b"hello"), b"hello");
        let seen = backend.peers.lock().unwrap();
        let new = seen.iter().map(SocketAddr::port).find(|port| !ports.contains(port));
        ports.push(new.expect("a port of its own"));
    }
    let near = ports.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) <= 64).count();
    assert!(near <= FLOWS / 8, "{near} of {ports:?}");
}

#[test]
fn answers_leave_from_the_address_that_the_client_used() {
    let rig = UdpRig::start_on(free_udp("0.0.0.0".parse().unwrap()), "", &[echo("").address], &[]);
    for ip in ["127.0.0.1", "127.0.0.2", "127.0.0.3"] {
        let to = SocketAddr::new(ip.parse().unwrap(), rig.address.port());
        // It is connected, so it hears that address alone.
        assert_eq!(ask(&client(to), b"hello"), b"hello", "{to}");
    }
    let one = UdpSocket::bind("127.0.0.1:0").unwrap();
    one.set_read_timeout(Some(crate::common::PATIENCE)).unwrap();
    for ip in ["127.0.0.1", "127.0.0.2", "127.0.0.3"] {
        let to = SocketAddr::new(ip.parse::<IpAddr>().unwrap(), rig.address.port());
        one.send_to(b"hello", to).unwrap();
        assert_eq!(one.recv_from(&mut [0; 16]).unwrap(), (5, to));
    }
    assert_eq!(rig.open(), 6, "one socket that uses three addresses has three flows");
}

#[test]
fn ipv6_is_served_on_an_address_and_on_all() {
    for ip in ["::1", "::"] {
        let address = free_udp(ip.parse().unwrap());
        let rig = UdpRig::start_on(address, "", &[echo_on("[::1]:0", "").address], &[]);
        let to = SocketAddr::new("::1".parse().unwrap(), rig.address.port());
        assert_eq!(ask(&client(to), b"hello"), b"hello", "{ip}");
    }
}

#[test]
fn the_largest_and_the_empty_datagram_arrive_as_they_are() {
    let rig = UdpRig::start("", &[echo("").address]);
    let client = rig.client();
    for length in [0, 1, 1_472, 9_000, 65_507] {
        let question: Vec<u8> =
            (0..length).map(|at: usize| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        assert!(ask(&client, &question) == question, "{length} bytes");
    }
    eventually("one flow", || rig.open() == 1);
}

/// L37: an address that somebody else may have written gets no more than so many times what was sent in its name.
#[test]
fn a_client_that_has_not_gone_on_gets_answers_of_a_limited_size() {
    let rig = UdpRig::start(", maxAmplification: 3", &[repeating().address]);
    let client = rig.client();
    // Of four answers as large as the question, the fourth is too much, and so are all to what follows it at once.
    client.send(&[4; 100]).unwrap();
    eventually("what is too much is dropped", || rig.dropped("Amplification") == 1);
    let mut answer = [0; 4_096];
    for _ in 0..3 {
        assert_eq!(client.recv(&mut answer).unwrap(), 100);
    }
    // Whoever goes on has got something: it is there.
    client.send(&[20; 100]).unwrap();
    for _ in 0..20 {
        assert_eq!(client.recv(&mut answer).unwrap(), 100);
    }
    assert_eq!(rig.dropped("Amplification"), 1);
    // Whoever asks again has sent more, and may have more.
    let large = UdpRig::start(
        ", maxAmplification: 3",
        &[echo("x-longer-than-five-times-the-question-that-it-gets-her").address],
    );
    let client = large.client();
    for count in 1..=2 {
        client.send(&[0; 10]).unwrap();
        eventually("dropped", || large.dropped("Amplification") == count);
    }
    assert_eq!(ask(&client, &[0; 10]).len(), 64);
    assert_eq!(large.metric("sluicegate_udp_datagrams_total{direction=\"out\"}"), 1);
}

/// What follows each other may pass the kernel together; nobody sees that.
#[test]
fn bursts_of_all_sizes_arrive_as_they_were_sent_and_in_order() {
    let rig = UdpRig::start("", &[echo("").address]);
    let client = rig.client();
    let sizes: [&[usize]; 6] = [
        &[1_200; 40],
        &[1_200, 1_200, 1_200, 300, 300, 1_200],
        &[64, 65, 65, 64, 64, 0, 64, 0, 0, 7],
        &[9_000; 12],
        &[1; 100],
        &[30_000, 30_000, 30_000],
    ];
    let mut number = 0_u8;
    let mut answer = vec![0; 65_536];
    // So many in a row that the gateway finds it worth to take several at a time.
    for sizes in sizes.iter().cycle().take(120) {
        let burst: Vec<Vec<u8>> = sizes
            .iter()
            .map(|length| {
                number = number.wrapping_add(1);
                vec![number; *length]
            })
            .collect();
        for datagram in &burst {
            client.send(datagram).unwrap();
        }
        for datagram in &burst {
            let length = client.recv(&mut answer).unwrap();
            assert!(answer[..length] == **datagram, "{length} bytes instead of {}", datagram.len());
        }
    }
    let sent = sizes.iter().map(|burst| burst.len() as u64).sum::<u64>() * 20;
    for direction in ["in", "out"] {
        let series = format!("sluicegate_udp_datagrams_total{{direction=\"{direction}\"}}");
        assert_eq!(rig.metric(&series), sent, "{direction}");
    }
}
