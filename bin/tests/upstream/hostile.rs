//! Endpoints that break or abuse HTTP/2, frame by frame: each costs its own requests and nothing else.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use crate::proxy::{Proxy, eventually, http2};
use crate::server::Server;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// `:status: 200` and `:status: 103` (RFC 7541 §6).
const STATUS_200: &[u8] = &[0x88];
const STATUS_103: &[u8] = &[0x08, 3, b'1', b'0', b'3'];

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// A connection that was accepted, settings exchanged.
struct Raw {
    tcp: TcpStream,
}

impl Raw {
    fn send(&mut self, frame: &[u8]) -> bool {
        self.tcp.write_all(frame).is_ok()
    }

    /// Reads frames up to the next request; its stream.
    fn request(&mut self) -> Option<u32> {
        loop {
            let mut header = [0; 9];
            self.tcp.read_exact(&mut header).ok()?;
            let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
            let mut payload = vec![0; length as usize];
            self.tcp.read_exact(&mut payload).ok()?;
            if header[3] == HEADERS {
                return Some(u32::from_be_bytes([header[5], header[6], header[7], header[8]]));
            }
        }
    }

    /// Until the gateway closes.
    fn drain(&mut self) {
        while matches!(self.tcp.read(&mut [0; 4_096]), Ok(n) if n > 0) {}
    }
}

/// An endpoint that answers the first request of each connection by `misbehave`.
fn endpoint(misbehave: impl Fn(&mut Raw, u32) + Send + Sync + Clone + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for tcp in listener.incoming() {
            let (mut raw, misbehave) = (Raw { tcp: tcp.unwrap() }, misbehave.clone());
            std::thread::spawn(move || {
                let mut preface = [0; 24];
                raw.tcp.read_exact(&mut preface).unwrap();
                raw.send(&frame(SETTINGS, 0, 0, &[]));
                if let Some(stream) = raw.request() {
                    misbehave(&mut raw, stream);
                }
                raw.drain();
            });
        }
    });
    address
}

/// The answer to a POST, which nothing repeats, while another endpoint is served beside.
fn outcome(misbehave: impl Fn(&mut Raw, u32) + Send + Sync + Clone + 'static) -> (u16, String, bool) {
    let good = Server::echo();
    let proxy = Proxy::start(&[("a", &[endpoint(misbehave)], http2()), ("good", &[good.address], http2())]);
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody");
    let mut beside = proxy.client();
    for _ in 0..10 {
        beside.send("GET / HTTP/1.1\r\nHost: good\r\n\r\n");
        assert_eq!(beside.answer().text(), "GET / 0");
    }
    let mut head = client.head();
    while head.starts_with("HTTP/1.1 1") {
        head = client.head();
    }
    let answer = client.body(head, false);
    (answer.status, answer.text(), answer.is_whole)
}

fn bad_response() -> (u16, String, bool) {
    (502, "BadResponse\n".to_owned(), true)
}

#[test]
fn continuations_without_end_are_cut_off() {
    let ended = outcome(|raw, stream| {
        raw.send(&frame(HEADERS, 0, stream, STATUS_200));
        while raw.send(&frame(CONTINUATION, 0, stream, &[0, 1, b'x', 1, b'y'])) {}
    });
    assert_eq!(ended, bad_response());
}

#[test]
fn empty_continuations_without_end_are_cut_off() {
    let ended = outcome(|raw, stream| {
        raw.send(&frame(HEADERS, 0, stream, STATUS_200));
        while raw.send(&frame(CONTINUATION, 0, stream, &[])) {}
    });
    assert_eq!(ended, bad_response());
}

#[test]
fn a_head_that_is_large_once_decoded_is_refused() {
    let ended = outcome(|raw, stream| {
        // One large field into the dynamic table, then references of one byte to it.
        let mut block = STATUS_200.to_vec();
        block.extend_from_slice(&[0x40, 1, b'x', 0x7f, 0x81, 0x1e]);
        block.extend(std::iter::repeat_n(b'v', 3_968));
        block.extend(std::iter::repeat_n(0x80 | 62, 4_000));
        raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &block));
    });
    assert_eq!(ended, bad_response());
}

#[test]
fn heads_that_only_inform_are_bounded() {
    let ended = outcome(|raw, stream| {
        let early = frame(HEADERS, END_HEADERS, stream, STATUS_103);
        for _ in 0..100_000 {
            if !raw.send(&early) {
                return;
            }
        }
    });
    assert_eq!(ended, bad_response());
}

#[test]
fn pushed_responses_are_refused() {
    let ended = outcome(|raw, stream| {
        raw.send(&frame(PUSH_PROMISE, END_HEADERS, stream, &[0, 0, 0, 2, 0x82, 0x84, 0x86]));
    });
    assert_eq!(ended.0, 502);
}

#[test]
fn floods_of_frames_that_carry_nothing_end_with_their_connection() {
    for (kind, id, payload) in
        [(RST_STREAM, 1, 4), (6, 0, 8), (SETTINGS, 0, 0), (8, 0, 4), (DATA, 1, 0), (2, 1, 5)]
    {
        let cut = Arc::<AtomicBool>::default();
        let seen = Arc::clone(&cut);
        let ended = outcome(move |raw, _| {
            let piece = frame(kind, 0, id, &[0, 0, 0, 1, 0, 0, 0, 0][..payload]).repeat(100);
            while raw.send(&piece) {}
            seen.store(true, SeqCst);
        });
        assert_eq!(ended.0, 502, "frames of type {kind}");
        eventually("the connection is cut", || cut.load(SeqCst));
    }
}

#[test]
fn a_field_that_belongs_to_a_connection_makes_a_response_malformed() {
    let ended = outcome(|raw, stream| {
        let mut block = STATUS_200.to_vec();
        block.extend_from_slice(b"\x00\x11transfer-encoding\x07chunked");
        raw.send(&frame(HEADERS, END_HEADERS, stream, &block));
        raw.send(&frame(DATA, END_STREAM, stream, b"0\r\n\r\n"));
    });
    assert_eq!(ended, bad_response());
}

#[test]
fn a_body_of_another_length_than_announced_is_cut() {
    for (body, announced) in [("too long", b'4'), ("cut", b'4')] {
        let ended = outcome(move |raw, stream| {
            let mut block = STATUS_200.to_vec();
            block.extend_from_slice(b"\x00\x0econtent-length\x01");
            block.push(announced);
            raw.send(&frame(HEADERS, END_HEADERS, stream, &block));
            raw.send(&frame(DATA, END_STREAM, stream, body.as_bytes()));
        });
        assert!(ended.0 == 502 || !ended.2, "{ended:?}");
    }
}

#[test]
fn going_away_without_the_request_lets_it_go_elsewhere() {
    let away = endpoint(|raw, _| {
        raw.send(&frame(GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 2]));
    });
    let good = Server::echo();
    let proxy = Proxy::start(&[("a", &[away, good.address], http2())]);
    for _ in 0..6 {
        let answer = proxy.client().post("/", "body");
        assert!(answer.text() == "POST / 4" || answer.status == 502, "{answer:?}");
    }
    assert!(good.seen.requests() > 2);
}

#[test]
fn an_end_of_the_connection_is_no_proof_for_a_post() {
    let ended = outcome(|raw, _| raw.tcp.shutdown(std::net::Shutdown::Both).unwrap());
    assert_eq!(ended, (502, "EmptyResponse\n".to_owned(), true));
}

#[test]
fn a_connection_on_which_a_request_waited_in_vain_gets_no_other() {
    let calls = Arc::<AtomicUsize>::default();
    let address = endpoint(move |raw, stream| {
        // The first connection is dead from here on, though nobody has closed it.
        if calls.fetch_add(1, SeqCst) > 0 {
            raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, STATUS_200));
        }
    });
    let proxy = Proxy::start(&[("a", &[address], http2())]);
    let mut waiting = proxy.client();
    waiting.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(waiting.is_silent_for(Duration::from_millis(1_500)));
    waiting.abort();
    // The gateway hears of the abort before it hears of a request that comes later.
    eventually("a later request is served", || {
        let mut client = proxy.client();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let is_served = !client.is_silent_for(Duration::from_millis(1_500));
        is_served && client.answer().status == 200
    });
}
