//! Large bodies: every byte arrives, nothing is buffered whole, and whoever leaves is noticed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use crate::common::eventually;
use crate::origin::{Conn, Origin, Setting, Site};
use crate::wire::{End, PIECE, Wire, get, pattern, timed};

const MIB: usize = 1_024 * 1_024;
const LARGE: usize = 50 * MIB;

/// Sends the pattern in chunks of odd sizes.
fn send_chunked(wire: &mut Wire, length: usize) -> bool {
    let sizes = [1, 7, 4_095, 4_096, 4_097, 16_383, 65_521, 3, 31_337, 65_536];
    let mut at = 0;
    for size in sizes.iter().cycle() {
        let size = (*size).min(length - at);
        if size == 0 {
            return wire.send("0\r\n\r\n");
        }
        let mut chunk = format!("{size:x}\r\n").into_bytes();
        chunk.extend_from_slice(pattern(at, size));
        chunk.extend_from_slice(b"\r\n");
        if !wire.send(chunk) {
            return false;
        }
        at += size;
    }
    false
}

/// `/length/N` and `/chunked/N` send that much; an upload is checked and its length answered.
fn serve(conn: &mut Conn) {
    while let Some(head) = conn.head() {
        let mut parts = head.target().split('/').skip(1);
        let (kind, length) = (parts.next().unwrap_or_default(), parts.next().and_then(|n| n.parse().ok()));
        let length: usize = length.unwrap_or(0);
        let alive = match kind {
            "length" => {
                conn.wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"))
                    && conn.wire.send_pattern(0, length)
            }
            "chunked" => {
                conn.wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                    && send_chunked(&mut conn.wire, length)
            }
            _ => {
                let received = match head.value("content-length") {
                    Some(length) => {
                        let length = length.parse().unwrap();
                        conn.wire.expect_pattern(0, length).map(|()| length)
                    }
                    None => conn.wire.expect_chunked_pattern(),
                };
                received.is_some_and(|received| conn.answer(&received.to_string()))
            }
        };
        if !alive {
            return;
        }
    }
}

#[test]
fn large_responses_arrive_byte_by_byte_with_a_length() {
    let origin = Origin::start(serve);
    let site = Site::plain(&origin);
    let mut client = site.client();
    for length in [LARGE, 32 * 1_024 - 1, 32 * 1_024, 32 * 1_024 + 1, 100_000, MIB + 1] {
        client.send(get(&format!("/length/{length}")));
        assert_eq!(client.head().unwrap().status(), 200);
        client.expect_pattern(0, length).unwrap();
    }
    assert!(site.metric("sluicegate_spliced_bytes_total", &[]) > 50e6);
    assert_eq!(origin.see(|seen| seen.opened), 1);
}

#[test]
fn large_responses_arrive_byte_by_byte_chunked() {
    let origin = Origin::start(serve);
    let site = Site::plain(&origin);
    let mut client = site.client();
    for length in [LARGE, 1, 16_383, 100_000] {
        client.send(get(&format!("/chunked/{length}")));
        assert_eq!(client.head().unwrap().value("transfer-encoding"), Some("chunked"));
        assert_eq!(client.expect_chunked_pattern(), Some(length));
    }
    assert_eq!(origin.see(|seen| seen.opened), 1);
}

#[test]
fn large_uploads_arrive_byte_by_byte_with_a_length() {
    let origin = Origin::start(serve);
    let site = Site::plain(&origin);
    let mut client = site.client();
    for length in [LARGE, 100_000, 32 * 1_024, 16_384, 5] {
        client.send(format!("POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n"));
        client.send_pattern(0, length);
        assert_eq!(client.response("POST").text(), length.to_string());
    }
    assert_eq!(origin.see(|seen| seen.opened), 1);
}

#[test]
fn large_uploads_arrive_byte_by_byte_chunked() {
    let origin = Origin::start(serve);
    let site = Site::plain(&origin);
    let mut client = site.client();
    for length in [LARGE, 100_000, 16_384, 5] {
        client.send("POST /up HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
        assert!(send_chunked(&mut client, length));
        assert_eq!(client.response("POST").text(), length.to_string());
    }
    assert_eq!(origin.see(|seen| seen.opened), 1);
}

#[test]
fn bodies_move_both_ways_at_once() {
    const LENGTH: usize = 20 * MIB;
    let origin = Origin::start(|conn| {
        if conn.head().is_none() {
            return;
        }
        conn.wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n"));
        let mut left = LENGTH;
        while left > 0 {
            let Some(bytes) = conn.wire.some(left) else { return };
            left -= bytes.len();
            if !conn.wire.send(bytes) {
                return;
            }
        }
        conn.wire.end();
    });
    let site = Site::plain(&origin);
    let mut client = site.client();
    client.send(format!("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {LENGTH}\r\n\r\n"));
    let mut writer = client.split();
    let writer = std::thread::spawn(move || writer.send_pattern(0, LENGTH));
    assert_eq!(client.head().unwrap().status(), 200);
    client.expect_pattern(0, LENGTH).unwrap();
    assert!(writer.join().unwrap());
}

#[test]
fn a_stalled_download_is_not_buffered() {
    const LENGTH: usize = 200 * MIB;
    let origin = Origin::start(serve);
    let site = Site::plain(&origin);
    for kind in ["length", "chunked"] {
        let before = site.memory();
        let mut client = Wire::connect_narrow(site.http);
        client.send(get(&format!("/{kind}/{LENGTH}")));
        client.head().unwrap();
        let moved = || site.metric("process_cpu_seconds_total", &[]);
        // Stalled: the gateway does nothing any more.
        let mut last = moved();
        eventually("the transfer stalls", || {
            std::thread::sleep(Duration::from_millis(100));
            let now = moved();
            let stalls = now - last < 0.011;
            last = now;
            stalls
        });
        let grown = site.memory().saturating_sub(before);
        assert!(grown < 8 * MIB, "{kind}: {} KiB", grown / 1_024);
        client.reset();
    }
}

#[test]
fn a_stalled_upload_is_not_buffered_and_goes_on() {
    const LENGTH: usize = 60 * MIB;
    let origin = Origin::start(|conn| {
        let Some(head) = conn.head() else { return };
        // Reads when the test has seen the stall.
        while conn.wire.stream.peek(&mut [0; 2]).is_ok_and(|n| n < 1) {}
        std::thread::sleep(Duration::from_millis(500));
        let length = head.value("content-length").unwrap().parse().unwrap();
        let _ = conn.wire.expect_pattern(0, length);
        conn.answer("all");
    });
    let site = Site::plain(&origin);
    let before = site.memory();
    let mut client = site.client();
    client.send(format!("POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: {LENGTH}\r\n\r\n"));
    assert!(client.send_pattern(0, LENGTH));
    assert_eq!(client.response("POST").text(), "all");
    let grown = site.memory().saturating_sub(before);
    assert!(grown < 8 * MIB, "{} KiB", grown / 1_024);
}

#[test]
fn a_response_cut_short_is_seen_as_such() {
    let origin = Origin::start(|conn| {
        let Some(request) = conn.request() else { return };
        match request.head.target() {
            "/length" => conn.wire.send("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\npart"),
            _ => conn.wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n"),
        };
    });
    let site = Site::plain(&origin);
    for path in ["/length", "/chunked"] {
        let mut client = site.client();
        client.send(get(path));
        let head = client.head().unwrap();
        assert!(client.body(head, "GET").is_none(), "{path}");
    }
    // An HTTP/1.0 client knows the end by the connection alone: a reset says that it is none.
    let mut client = site.client();
    client.send("GET /chunked HTTP/1.0\r\nHost: a\r\n\r\n");
    client.head().unwrap();
    assert_eq!(client.end(), End::Reset);
    site.wait_for_metric("sluicegate_requests_total", &["ResponseTruncated"], 3.0);
}

/// Endpoints that take a request and note when the gateway leaves.
fn waiting() -> Origin {
    Origin::start(|conn| {
        let _ = conn.request();
        conn.wire.end();
    })
}

#[test]
fn a_client_that_resets_takes_its_request_along_at_once() {
    let origin = waiting();
    let site = Site::plain(&origin);
    // The machine may be busy: the best of a few counts.
    let times = (1..=5).map(|count| {
        let mut client = site.client();
        client.send(get("/"));
        origin.wait("the request", |seen| seen.heads.len() == count);
        site.wait_for_metric("sluicegate_endpoint_in_flight", &[], 1.0);
        let ((), took) = timed(|| {
            client.reset();
            origin.wait("the end", |seen| seen.ended == count);
        });
        site.wait_for_metric("sluicegate_endpoint_in_flight", &[], 0.0);
        took
    });
    let best = times.min().unwrap();
    assert!(best < Duration::from_millis(200), "{best:?}");
    site.wait_for_metric("sluicegate_connections_open", &[], 0.0);
    site.wait_for_metric("sluicegate_requests_total", &["ClientGone"], 5.0);
}

#[test]
fn a_client_that_resets_in_mid_download_ends_it() {
    let origin = Origin::start(serve);
    let site = Site::plain(&origin);
    for kind in ["length", "chunked"] {
        let mut client = site.client();
        client.send(get(&format!("/{kind}/{}", 200 * MIB)));
        client.head().unwrap();
        client.some(PIECE).unwrap();
        client.reset();
    }
    origin.wait("the end of both", |seen| seen.ended == 2);
    site.wait_for_metric("sluicegate_endpoint_in_flight", &[], 0.0);
}

#[test]
fn a_client_that_resets_in_mid_upload_ends_it() {
    let origin = Origin::start(serve);
    let site = Site::plain(&origin);
    for framing in ["Content-Length: 1000000", "Transfer-Encoding: chunked"] {
        let mut client = site.client();
        client.send(format!("POST /up HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n"));
        client.reset();
    }
    site.wait_for_metric("sluicegate_requests_total", &["ClientGone"], 2.0);
    site.wait_for_metric("sluicegate_endpoint_in_flight", &[], 0.0);
    origin.wait("the end of all", |seen| seen.ended == seen.opened);
}

#[test]
fn a_half_close_aborts_where_it_is_set_to() {
    let origin = waiting();
    let setting = Setting { listener: Some("abortOnHalfClose: true"), ..Setting::default() };
    let site = Site::start(setting, &[&origin]);
    let mut client = site.client();
    client.send(get("/"));
    origin.wait("the request", |seen| seen.heads.len() == 1);
    client.fin();
    origin.wait("the end", |seen| seen.ended == 1);
    assert_eq!(client.head().map(|head| head.status()), None);
}

#[test]
fn a_client_that_resets_while_the_endpoint_takes_nothing_is_noticed_at_once() {
    let over = Arc::<AtomicBool>::default();
    let until = Arc::clone(&over);
    let origin = Origin::start(move |conn| {
        let _ = conn.head();
        // Takes nothing of the body.
        eventually("the end", || until.load(SeqCst));
    });
    let site = Site::plain(&origin);
    for framing in ["Content-Length: 1000000000", "Transfer-Encoding: chunked"] {
        let mut client = site.client();
        client.send(format!("POST /up HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n"));
        if framing.starts_with('T') {
            client.send("40000000\r\n");
        }
        client.send_until_blocked();
        site.wait_for_metric("sluicegate_endpoint_in_flight", &[], 1.0);
        let ((), took) = timed(|| {
            client.reset();
            site.wait_for_metric("sluicegate_endpoint_in_flight", &[], 0.0);
        });
        assert!(took < Duration::from_secs(5), "{took:?}");
    }
    site.wait_for_metric("sluicegate_requests_total", &["ClientGone"], 2.0);
    over.store(true, SeqCst);
}
