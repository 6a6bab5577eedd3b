//! Each deadline: who is told what, and what log and metrics say.

use std::time::Duration;

use crate::origin::{Conn, Origin, Setting, Site, ok};
use crate::wire::{get, timed};

const LOG: [&str; 2] = ["--access-log", "json"];

fn logs(site: &Site, reason: &str) {
    site.gateway.wait_for_log(&format!("\"reason\":\"{reason}\""));
    assert!((site.metric("sluicegate_requests_total", &[reason]) - 1.0).abs() < 0.5, "{reason}");
}

/// Takes requests and never answers.
fn silent() -> Origin {
    Origin::start(|conn| while conn.request().is_some() {})
}

fn limited(origin: &Origin, limits: &str) -> Site {
    let listener = format!("limits: {{{limits}}}");
    Site::start(Setting { listener: Some(&listener), flags: &LOG, ..Setting::default() }, &[origin])
}

fn routed(origin: &Origin, timeouts: &str) -> Site {
    let route = format!("timeouts: {{{timeouts}}}, retry: {{attempts: 0}}");
    Site::start(Setting { route: &route, flags: &LOG, ..Setting::default() }, &[origin])
}

#[test]
fn a_head_that_does_not_end_is_answered_408() {
    let origin = Origin::plain();
    let site = limited(&origin, "headerTimeout: 300ms");
    let mut client = site.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n");
    let answer = client.response("GET");
    assert_eq!((answer.head.status(), answer.head.closes()), (408, true));
    logs(&site, "HeaderTimeout");
    assert!(site.metric("sluicegate_limit_hits_total", &["header_timeout"]) > 0.5);
}

#[test]
fn a_dribbled_head_has_no_more_time_than_another() {
    let origin = Origin::plain();
    let site = limited(&origin, "headerTimeout: 400ms");
    let mut client = site.client();
    let mut writer = client.split();
    let writer = std::thread::spawn(move || {
        writer.send("GET / HTTP/1.1\r\nHost: a\r\nX: ");
        while writer.send("x") {
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let (answer, took) = timed(|| client.response("GET"));
    assert_eq!(answer.head.status(), 408);
    assert!(took < Duration::from_secs(2), "{took:?}");
    drop(client);
    writer.join().unwrap();
}

#[test]
fn idle_connections_end_in_silence() {
    let origin = Origin::plain();
    let site = limited(&origin, "headerTimeout: 300ms, idleTimeout: 600ms");
    let (mut fresh, mut used) = (site.client(), site.client());
    assert_eq!(used.get("/").text(), "/");
    let (ends, took) = timed(|| used.ends_here());
    assert!(ends && took > Duration::from_millis(500), "{took:?}");
    assert!(fresh.ends_here());
    assert!(site.metric("sluicegate_limit_hits_total", &["idle_timeout"]) > 0.5);
}

#[test]
fn a_late_response_head_is_answered_504() {
    let origin = silent();
    let site = routed(&origin, "response: 300ms");
    let mut client = site.client();
    let answer = client.get("/");
    assert_eq!((answer.head.status(), answer.text().as_str()), (504, "ResponseTimeout\n"));
    logs(&site, "ResponseTimeout");
    origin.wait("the end of the endpoint's connection", |seen| seen.ended == 1);
}

#[test]
fn a_dribbled_response_head_has_no_more_time_than_another() {
    let origin = Origin::start(|conn| {
        let _ = conn.request();
        conn.wire.send("HTTP/1.1 200 OK\r\nX: ");
        while conn.wire.send("x") {
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let site = routed(&origin, "response: 400ms, idle: 10s");
    let (answer, took) = timed(|| site.client().get("/"));
    assert_eq!(answer.head.status(), 504);
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[test]
fn informational_responses_do_not_extend_the_response_timeout() {
    let origin = Origin::start(|conn| {
        let _ = conn.request();
        while conn.wire.send("HTTP/1.1 102 Processing\r\n\r\n") {
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    let site = routed(&origin, "response: 400ms");
    let mut client = site.client();
    client.send(get("/"));
    let last = loop {
        let answer = client.response("GET");
        if answer.head.status() != 102 {
            break answer;
        }
    };
    assert_eq!(last.head.status(), 504);
}

#[test]
fn a_response_body_that_stops_is_cut_off() {
    let origin = Origin::start(|conn| {
        let _ = conn.request();
        conn.wire.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart");
        conn.wire.end();
    });
    let site = routed(&origin, "idle: 300ms");
    let mut client = site.client();
    client.send(get("/"));
    let head = client.head().unwrap();
    assert!(client.body(head, "GET").is_none());
    logs(&site, "IdleTimeout");
}

#[test]
fn a_body_that_keeps_moving_outlives_the_idle_timeout_but_not_the_total() {
    let origin = Origin::start(|conn| {
        let _ = conn.request();
        conn.wire.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n");
        while conn.wire.send("x") {
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let site = routed(&origin, "idle: 300ms, total: 900ms");
    let mut client = site.client();
    client.send(get("/"));
    let head = client.head().unwrap();
    let (body, took) = timed(|| client.body(head, "GET").map(|answer| answer.text()));
    assert!(body.is_none() && took > Duration::from_millis(600), "{took:?}");
    logs(&site, "RequestTimeout");
}

#[test]
fn a_request_body_that_stops_is_answered_408() {
    let origin = Origin::plain();
    let site = limited(&origin, "bodyIdleTimeout: 300ms");
    let mut client = site.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc");
    let answer = client.response("POST");
    assert_eq!((answer.head.status(), answer.head.closes()), (408, true));
    logs(&site, "BodyTimeout");
    origin.wait("the end of the endpoint's connection", |seen| seen.ended == 1);
}

#[test]
fn a_request_body_below_the_slowest_rate_is_answered_408() {
    let origin = Origin::plain();
    let site = limited(&origin, "minBodyRate: 100");
    let mut client = site.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n");
    let mut writer = client.split();
    let writer = std::thread::spawn(move || {
        while writer.send("x") {
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let (answer, took) = timed(|| client.response("POST"));
    assert_eq!(answer.head.status(), 408);
    assert!(took > Duration::from_secs(9), "{took:?}");
    assert!(site.metric("sluicegate_limit_hits_total", &["min_body_rate"]) > 0.5);
    drop(client);
    writer.join().unwrap();
}

#[test]
fn an_endpoint_that_reads_nothing_of_an_upload_is_given_up() {
    let origin = Origin::start(|conn: &mut Conn| {
        let _ = conn.head();
        std::thread::sleep(Duration::from_secs(3));
        conn.wire.send(ok("late"));
    });
    let site = routed(&origin, "idle: 400ms");
    let mut client = site.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 60000000\r\n\r\n");
    let mut writer = client.split();
    let writer = std::thread::spawn(move || writer.send_pattern(0, 60_000_000));
    let answer = client.response("POST");
    assert_eq!((answer.head.status(), answer.text().as_str()), (504, "IdleTimeout\n"));
    client.end();
    assert!(!writer.join().unwrap());
}
