//! Connections that small pieces have brought to the fast path, and what becomes of them when something else comes.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::eventually;
use crate::common::plain::{echo, endpoint};
use crate::relay::pattern;
use crate::rig::{Rig, read_all, reset};

/// After so many round trips any connection is on the fast path.
const MANY: u8 = 100;

/// So many round trips of one byte.
fn exchange(client: &mut TcpStream) {
    for byte in 0..MANY {
        client.write_all(&[byte]).unwrap();
        let mut answer = [!byte];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(answer, [byte]);
    }
}

fn fast(rig: &Rig) -> TcpStream {
    let mut client = rig.connect();
    exchange(&mut client);
    client
}

/// An endpoint that sends back so many bytes, then does something else.
fn echo_then(then: impl Fn(TcpStream) + Clone + Send + 'static) -> SocketAddr {
    endpoint(move |mut stream| {
        for _ in 0..MANY {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            stream.write_all(&byte).unwrap();
        }
        then(stream);
    })
}

fn works(client: &mut TcpStream) -> bool {
    client.write_all(b"y").is_ok() && client.read_exact(&mut [0]).is_ok()
}

fn is_reset(client: &mut TcpStream) -> bool {
    matches!(client.read(&mut [0]), Err(error) if error.kind() == ErrorKind::ConnectionReset)
}

#[test]
fn large_and_small_pieces_alternate() {
    let rig = Rig::start("", &[echo()]);
    let mut client = rig.connect();
    let large = pattern(3_000_001);
    for _ in 0..5 {
        exchange(&mut client);
        let (mut writer, copy) = (client.try_clone().unwrap(), large.clone());
        let writing = thread::spawn(move || writer.write_all(&copy).unwrap());
        let mut received = vec![0; large.len()];
        client.read_exact(&mut received).unwrap();
        writing.join().unwrap();
        assert!(received == large);
    }
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&mut client).unwrap(), b"");
    rig.wait_ended("Closed", 1);
    let bytes = 5 * (3_000_001 + u64::from(MANY));
    assert_eq!(rig.metric("sluicegate_tcp_bytes_total{direction=\"in\"}"), bytes);
    assert_eq!(rig.metric("sluicegate_tcp_bytes_total{direction=\"out\"}"), bytes);
}

#[test]
fn pieces_of_all_sizes_arrive_in_order_be_the_reader_slow() {
    let rig = Rig::start("", &[echo()]);
    let mut client = fast(&rig);
    let sent = pattern(8_000_000);
    let (mut writer, copy) = (client.try_clone().unwrap(), sent.clone());
    let writing = thread::spawn(move || {
        let (mut rest, mut length) = (&*copy, 1);
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at(length.min(rest.len()));
            writer.write_all(piece).unwrap();
            rest = behind;
            length = length * 7 % 40_009 + 1;
        }
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let (mut received, mut buf) = (Vec::new(), vec![0; 100_000]);
    loop {
        match client.read(&mut buf).unwrap() {
            0 => break,
            n => received.extend_from_slice(&buf[..n]),
        }
        if received.len() % 13 == 0 {
            thread::sleep(Duration::from_millis(2));
        }
    }
    writing.join().unwrap();
    assert!(received == sent, "{} bytes of {}", received.len(), sent.len());
}

#[test]
fn whoever_has_ended_its_side_still_gets_everything() {
    let long = || pattern(1 << 20);
    let rig = Rig::start(
        "",
        &[echo_then(move |mut stream| {
            assert_eq!(read_all(&mut stream).unwrap(), b"");
            stream.write_all(&long()).unwrap();
        })],
    );
    let mut client = fast(&rig);
    client.shutdown(Shutdown::Write).unwrap();
    assert!(read_all(&mut client).unwrap() == long());

    let (send, received) = mpsc::channel();
    let rig = Rig::start(
        "",
        &[echo_then(move |mut stream| {
            stream.shutdown(Shutdown::Write).unwrap();
            send.send(read_all(&mut stream).unwrap()).unwrap();
        })],
    );
    let mut client = fast(&rig);
    assert_eq!(read_all(&mut client).unwrap(), b"");
    client.write_all(&long()).unwrap();
    drop(client);
    assert!(received.recv().unwrap() == long());
}

#[test]
fn a_reset_of_either_side_reaches_the_other_as_one() {
    let (send, received) = mpsc::channel();
    let rig = Rig::start(
        "",
        &[echo_then(move |mut stream| {
            send.send(stream.read(&mut [0]).map_err(|error| error.kind())).unwrap();
        })],
    );
    reset(fast(&rig));
    assert_eq!(received.recv().unwrap(), Err(ErrorKind::ConnectionReset));
    rig.wait_ended("ClientReset", 1);

    let rig = Rig::start("", &[echo_then(reset)]);
    assert!(is_reset(&mut fast(&rig)));
    rig.wait_ended("EndpointReset", 1);
}

#[test]
fn a_quiet_connection_is_reset_and_a_busy_one_is_not() {
    let rig = Rig::start(", idleTimeout: 600ms", &[echo()]);
    let (mut busy, mut quiet) = (fast(&rig), fast(&rig));
    let started = Instant::now();
    quiet.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut quiet_for = None;
    while started.elapsed() < Duration::from_secs(2) {
        assert!(works(&mut busy));
        if quiet_for.is_none() && is_reset(&mut quiet) {
            quiet_for = Some(started.elapsed());
        }
    }
    let quiet_for = quiet_for.expect("the quiet one was reset");
    assert!(quiet_for > Duration::from_millis(500) && quiet_for < Duration::from_secs(1), "{quiet_for:?}");
    assert_eq!(rig.ended("IdleTimeout"), 1);
}

#[test]
fn a_connection_ends_with_its_lifetime_however_busy_it_is() {
    let rig = Rig::start(", lifetime: 700ms", &[echo()]);
    let mut client = fast(&rig);
    let started = Instant::now();
    while works(&mut client) {
        assert!(started.elapsed() < Duration::from_secs(10));
    }
    rig.wait_ended("Lifetime", 1);
}

#[test]
fn connections_to_a_removed_endpoint_go_on_until_the_deadline() {
    let (terms, stays) = (", endAfterRemoval: 800ms", echo());
    let rig = Rig::start(terms, &[echo(), stays]);
    let mut clients: Vec<TcpStream> = (0..8).map(|_| fast(&rig)).collect();
    let removed = Instant::now();
    rig.change("", terms, &[stays]);
    assert!(clients.iter_mut().all(works));
    rig.wait_ended("EndpointRemoved", 4);
    assert!(removed.elapsed() > Duration::from_millis(700));
    assert_eq!(clients.iter_mut().filter_map(|client| works(client).then_some(())).count(), 4);
}

#[test]
fn a_gateway_that_goes_down_lets_connections_finish_until_the_drain_is_over() {
    let mut rig = Rig::start_with("", "", &[echo()], &["--drain-timeout", "20s"]);
    let mut client = fast(&rig);
    rig.gateway.signal("TERM");
    eventually("no new ones", || TcpStream::connect(rig.address).is_err());
    assert!(works(&mut client));
    drop(client);
    assert!(rig.gateway.wait_for_exit().success());

    let mut rig = Rig::start_with("", "", &[echo()], &["--drain-timeout", "300ms"]);
    let mut client = fast(&rig);
    rig.gateway.signal("TERM");
    assert!(is_reset(&mut client));
    rig.gateway.wait_for_exit();
}

#[test]
fn a_line_of_the_access_log_counts_what_has_passed() {
    let rig = Rig::start_with("", "", &[echo()], &["--access-log", "json"]);
    drop(fast(&rig));
    let line: serde_json::Value = serde_json::from_str(&rig.gateway.wait_for_log("\"reason\"")).unwrap();
    assert_eq!(line["reason"], "Closed");
    assert_eq!((&line["bytes.in"], &line["bytes.out"]), (&MANY.into(), &MANY.into()));
}
