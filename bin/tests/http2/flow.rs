//! Flow control: who reads slowly waits alone, and nobody's memory grows with it.

use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::Reason;

use crate::client::{connect, connect_with, fetch, get, read, request, run, send, send_all};
use crate::frames::{self, END_STREAM, HEADERS, RST_STREAM, Raw, SETTINGS, WINDOW_UPDATE, frame, get_frame};
use crate::origin::{Conn, Origin, Setting, Site};
use crate::wire::{PIECE, pattern};

/// Sends a body of as many bytes as the path says, or the target.
fn sized(conn: &mut Conn) {
    while let Some(request) = conn.request() {
        let Ok(length) = request.head.target()[1..].parse::<usize>() else {
            conn.answer(request.head.target());
            continue;
        };
        if !conn.wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n")) {
            return;
        }
        let mut at = 0;
        while at < length {
            let size = PIECE.min(length - at);
            if !conn.wire.send(pattern(at, size)) {
                return;
            }
            at += size;
        }
    }
}

#[test]
fn a_large_response_is_exact() {
    const LENGTH: usize = 8_000_000;
    let origin = Origin::start(sized);
    let site = Site::plain(&origin);
    run(async {
        let client = connect(site.http).await;
        let got = fetch(&client, get(&format!("/{LENGTH}"))).await.unwrap();
        assert_eq!(got.body.len(), LENGTH);
        assert!(
            got.body
                .chunks(50_000)
                .enumerate()
                .all(|(index, piece)| piece == pattern(index * 50_000, piece.len()))
        );
    });
}

/// H49.
#[test]
fn a_stream_that_is_not_read_stalls_alone() {
    let origin = Origin::start(sized);
    let site = Site::plain(&origin);
    run(async {
        let mut builder = h2::client::Builder::new();
        builder.initial_connection_window_size(1 << 24);
        let client = connect_with(site.http, &builder).await;
        let mut stalled = Vec::new();
        for _ in 0..10 {
            let (response, _) = send(&client, get("/10000000"), true).await;
            stalled.push(response.await.unwrap());
        }
        for _ in 0..90 {
            assert_eq!(fetch(&client, get("/100000")).await.unwrap().body.len(), 100_000);
        }
        assert_eq!(stalled.len(), 10);
    });
}

/// H48.
#[test]
fn slow_readers_of_large_bodies_cost_little_memory() {
    let origin = Origin::start(sized);
    let site =
        Site::start(Setting { flags: &["--body-idle-timeout", "60s"], ..Setting::default() }, &[&origin]);
    run(async {
        let client = connect(site.http).await;
        fetch(&client, get("/1000000")).await.unwrap();
        let before = site.memory();
        let mut builder = h2::client::Builder::new();
        builder.initial_connection_window_size(1 << 24).initial_window_size(1 << 20);
        let slow = connect_with(site.http, &builder).await;
        let mut responses = Vec::new();
        for _ in 0..100 {
            let (response, _) = send(&slow, get("/100000000"), true).await;
            responses.push(response.await.unwrap());
        }
        // Each has its first window by now, or waits for the connection's.
        let mut last = 0;
        loop {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let sent = site.metric("sluicegate_endpoint_in_flight", &[]);
            assert!((sent - 100.0).abs() < 0.5);
            let memory = site.memory();
            if memory <= last {
                break;
            }
            last = memory;
        }
        let grown = site.memory().saturating_sub(before);
        // Beside 64 KiB of each stream: the connection itself, and pages that the allocator has only begun.
        assert!(grown < 100 * 64 * 1_024 + 1_024 * 1_024, "100 streams cost {grown} bytes");
        assert_eq!(fetch(&client, get("/100")).await.unwrap().body.len(), 100);
    });
}

fn setting(id: u16, value: u32) -> (u16, u32) {
    (id, value)
}

/// H41.
#[test]
fn a_window_that_stays_shut_frees_the_request() {
    let origin = Origin::start(sized);
    let site =
        Site::start(Setting { flags: &["--body-idle-timeout", "1s"], ..Setting::default() }, &[&origin]);
    let mut shut = Raw::with_settings(site.http, &[setting(4, 0)]);
    let mut drip = Raw::with_settings(site.http, &[setting(4, 0)]);
    for raw in [&mut shut, &mut drip] {
        raw.send([get_frame(1, "/1000000"), get_frame(3, "/1000000")].concat());
    }
    let began = Instant::now();
    crate::common::eventually("both requests", || site.metric("sluicegate_endpoint_in_flight", &[]) > 3.5);
    let dripping = std::thread::spawn(move || {
        // Less than the slowest rate, but never nothing.
        let update = frame(WINDOW_UPDATE, 0, 1, 1u32.to_be_bytes());
        while began.elapsed() < Duration::from_secs(4) && drip.send(&update) {
            std::thread::sleep(Duration::from_millis(50));
        }
        drip
    });
    site.wait_for_metric("sluicegate_endpoint_in_flight", &[], 0.0);
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    assert!(site.metric("sluicegate_limit_hits_total", &["http2_stall"]) > 3.5);
    let mut drip = dripping.join().unwrap();
    for raw in [&mut shut, &mut drip] {
        let mut reset = Vec::new();
        while reset.len() < 2 {
            let frame = raw.next().unwrap();
            if frame.kind == RST_STREAM {
                reset.push(frame.stream);
            }
        }
    }
}

/// H62.
#[test]
fn a_change_of_the_window_holds_for_responses_under_way() {
    let origin = Origin::start(sized);
    let site = Site::plain(&origin);
    let mut raw = Raw::with_settings(site.http, &[setting(4, 10)]);
    raw.send(get_frame(1, "/100"));
    let data = |raw: &mut Raw| loop {
        let frame = raw.next().unwrap();
        if frame.kind == frames::DATA {
            return frame.payload.len();
        }
    };
    assert_eq!(data(&mut raw), 10);
    // Now at -5, which an update of 5 brings to 0.
    let settings =
        |value: u32| frame(SETTINGS, 0, 0, [&4u16.to_be_bytes()[..], &value.to_be_bytes()].concat());
    raw.send(settings(5));
    raw.send(frame(WINDOW_UPDATE, 0, 1, 5u32.to_be_bytes()));
    raw.send(frame(WINDOW_UPDATE, 0, 1, 7u32.to_be_bytes()));
    assert_eq!(data(&mut raw), 7);
    raw.send(settings(1_000));
    assert_eq!(data(&mut raw), 83);
}

/// H59.
#[test]
fn cancelled_uploads_give_their_window_back() {
    let origin = Origin::start(|conn| {
        while let Some(request) = conn.request() {
            conn.answer(&request.body.len().to_string());
        }
    });
    let site = Site::plain(&origin);
    run(async {
        let client = connect(site.http).await;
        for _ in 0..90 {
            let (_response, mut stream) = send(&client, request("POST", "/"), false).await;
            stream.send_data(Bytes::from_static(pattern(0, 60_000)), false).ok();
            // Has arrived by then.
            assert_eq!(fetch(&client, get("/")).await.unwrap().text(), "0");
            stream.send_reset(Reason::CANCEL);
        }
        let (response, mut stream) = send(&client, request("POST", "/"), false).await;
        let body = vec![0; 2_000_000];
        send_all(&mut stream, &body, true).await.unwrap();
        assert_eq!(read(response).await.unwrap().text(), "2000000");
    });
}

#[test]
fn an_upload_that_is_not_read_stalls_alone() {
    let origin = Origin::start(|conn| {
        while let Some(head) = conn.head() {
            if head.target() == "/stall" {
                std::thread::sleep(Duration::from_secs(3));
                return;
            }
            let request = conn.wire.body(head, "").unwrap();
            conn.answer(&request.body.len().to_string());
        }
    });
    let site = Site::plain(&origin);
    run(async {
        let client = connect(site.http).await;
        let mut stalled = Vec::new();
        for _ in 0..5 {
            let (response, mut stream) = send(&client, request("POST", "/stall"), false).await;
            stream.send_data(Bytes::from_static(pattern(0, PIECE)), false).unwrap();
            stream.send_data(Bytes::from_static(pattern(0, PIECE)), false).unwrap();
            stalled.push((response, stream));
        }
        for _ in 0..5 {
            let (response, mut stream) = send(&client, request("POST", "/"), false).await;
            send_all(&mut stream, &vec![0; 300_000], true).await.unwrap();
            assert_eq!(read(response).await.unwrap().text(), "300000");
        }
    });
}

#[test]
fn the_last_data_of_a_small_response_ends_its_stream() {
    let origin = Origin::start(sized);
    let site = Site::plain(&origin);
    let mut raw = Raw::connect(site.http);
    raw.send(get_frame(1, "/13"));
    let frames: Vec<_> =
        std::iter::from_fn(|| raw.next()).filter(|frame| frame.stream == 1).take(2).collect();
    assert_eq!((frames[0].kind, frames[0].flags & END_STREAM), (HEADERS, 0));
    assert_eq!(
        (frames[1].kind, frames[1].flags & END_STREAM, frames[1].payload.len()),
        (frames::DATA, END_STREAM, 13)
    );
}
