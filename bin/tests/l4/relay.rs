//! Bytes, ends and resets.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc;
use std::thread;

use crate::common::free_address;
use crate::common::plain::{echo, endpoint, named};
use crate::rig::{Rig, connect, read_all, reset};

/// Bytes in which every position tells.
pub(crate) fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

#[test]
fn bytes_arrive_as_they_were_sent_in_both_directions() {
    let rig = Rig::start("", &[echo()]);
    let mut client = rig.connect();
    let mut writer = client.try_clone().unwrap();
    let sent = pattern(9_000_001);
    let copy = sent.clone();
    let writing = thread::spawn(move || {
        writer.write_all(&copy).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let received = read_all(&mut client).unwrap();
    writing.join().unwrap();
    assert!(received == sent, "{} bytes of {}", received.len(), sent.len());
    rig.wait_ended("Closed", 1);
    assert_eq!(rig.metric("sluicegate_tcp_bytes_total{direction=\"in\"}"), 9_000_001);
    assert_eq!(rig.metric("sluicegate_tcp_bytes_total{direction=\"out\"}"), 9_000_001);
    assert_eq!(rig.metric("sluicegate_tcp_connections_open"), 0);
}

#[test]
fn small_messages_go_back_and_forth_without_delay() {
    let rig = Rig::start("", &[echo()]);
    let mut client = rig.connect();
    for round in 0..2_000_u32 {
        client.write_all(&round.to_be_bytes()).unwrap();
        let mut answer = [0; 4];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(u32::from_be_bytes(answer), round);
    }
}

#[test]
fn an_endpoint_that_speaks_first_is_heard_before_the_client_says_anything() {
    let rig = Rig::start("", &[named("220 ready\r\n")]);
    assert_eq!(read_all(&mut rig.connect()).unwrap(), b"220 ready\r\n");
}

#[test]
fn a_client_that_has_ended_its_side_still_gets_everything() {
    let rig = Rig::start(
        "",
        &[endpoint(|mut stream| {
            assert_eq!(read_all(&mut stream).unwrap(), b"question");
            stream.write_all(&pattern(1 << 20)).unwrap();
        })],
    );
    let mut client = rig.connect();
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert!(read_all(&mut client).unwrap() == pattern(1 << 20));
}

#[test]
fn an_endpoint_that_has_ended_its_side_still_gets_everything() {
    let (send, received) = mpsc::channel();
    let rig = Rig::start(
        "",
        &[endpoint(move |mut stream| {
            stream.shutdown(Shutdown::Write).unwrap();
            send.send(read_all(&mut stream).unwrap()).unwrap();
        })],
    );
    let mut client = rig.connect();
    assert_eq!(read_all(&mut client).unwrap(), b"");
    client.write_all(&pattern(1 << 20)).unwrap();
    drop(client);
    assert!(received.recv().unwrap() == pattern(1 << 20));
}

#[test]
fn a_reset_of_the_client_reaches_the_endpoint_as_one() {
    let (send, received) = mpsc::channel();
    let rig = Rig::start(
        "",
        &[endpoint(move |mut stream| {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            stream.write_all(&byte).unwrap();
            send.send(stream.read(&mut byte).map_err(|error| error.kind())).unwrap();
        })],
    );
    let mut client = rig.connect();
    client.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
    reset(client);
    assert_eq!(received.recv().unwrap(), Err(ErrorKind::ConnectionReset));
    rig.wait_ended("ClientReset", 1);
}

#[test]
fn a_reset_of_the_endpoint_reaches_the_client_as_one() {
    let rig = Rig::start(
        "",
        &[endpoint(|mut stream| {
            stream.read_exact(&mut [0]).unwrap();
            reset(stream);
        })],
    );
    let mut client = rig.connect();
    client.write_all(b"x").unwrap();
    let error = read_all(&mut client).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    rig.wait_ended("EndpointReset", 1);
}

#[test]
fn a_dead_endpoint_is_passed_over_without_the_client_noticing() {
    let rig = Rig::start("", &[free_address(), named("alive"), free_address()]);
    for _ in 0..6 {
        assert_eq!(read_all(&mut rig.connect()).unwrap(), b"alive");
    }
    assert!(rig.metric("sluicegate_retries_total") > 0);
}

#[test]
fn a_client_of_endpoints_that_all_refuse_is_reset() {
    let rig = Rig::start("", &[free_address(), free_address()]);
    assert!(rig.resets());
    rig.wait_ended("ConnectFailed", 1);
}

#[test]
fn without_an_endpoint_connections_are_refused_and_with_one_they_are_not() {
    let rig = Rig::start("", &[]);
    let error = TcpStream::connect(rig.address).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    rig.change("", "", &[named("here")]);
    assert_eq!(read_all(&mut rig.connect()).unwrap(), b"here");
    rig.change("", "", &[]);
    crate::common::eventually("refused", || {
        TcpStream::connect(rig.address).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    });
    // The port is still ours.
    assert!(std::net::TcpListener::bind(rig.address).is_err());
    rig.change("", "", &[named("again")]);
    assert_eq!(read_all(&mut connect(rig.address)).unwrap(), b"again");
}
