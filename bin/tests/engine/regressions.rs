//! Faults that the engine had: each test failed once.

use std::time::Duration;

use crate::common::eventually;
use crate::origin::{Conn, Origin, Seen, Setting, Site, switch, upgrade};
use crate::wire::{Wire, get, post, timed};

/// Reads a request and ends without an answer.
fn mute_after_first(conn: &mut Conn) {
    if conn.number > 0 {
        return conn.serve();
    }
    let _ = conn.request();
}

#[test]
fn what_follows_a_failed_upload_is_not_taken_for_its_body() {
    let origin = Origin::start(mute_after_first);
    let site = Site::plain(&origin);
    let mut client = site.client();
    let trap = "GET /x HTTP/1.1\r\nHost: a\r\n\r\n";
    let body = "A".repeat(trap.len());
    client.send(post("/first", &body) + trap + &get("/second"));
    assert_eq!(client.response("POST").head.status(), 502);
    assert_eq!(client.response("GET").text(), "/x");
    assert_eq!(client.response("GET").text(), "/second");
}

#[test]
fn connection_is_kept_after_a_failed_request_whose_body_was_taken() {
    let origin = Origin::start(mute_after_first);
    let site = Site::plain(&origin);
    let mut client = site.client();
    client
        .send("POST /first HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
    let answer = client.response("POST");
    assert_eq!((answer.head.status(), answer.head.closes()), (502, false));
    assert_eq!(client.get("/second").text(), "/second");
}

/// The first connection answers once and ends as soon as `until` came on it; the others serve.
fn stale_after(until: &'static str) -> impl Fn(&mut Conn) + Send + Sync {
    move |conn| {
        if conn.number > 0 {
            return conn.serve();
        }
        let _ = conn.request();
        conn.answer("warm");
        let _ = conn.head();
        let mut seen = String::new();
        while !seen.contains(until) {
            match conn.wire.some(1) {
                Some(byte) => seen.push(char::from(byte[0])),
                None => return,
            }
        }
    }
}

#[test]
fn chunk_framing_that_was_taken_is_never_replayed_as_something_else() {
    // The chunk's size reaches the gateway alone; its data look like the end of a body and a request.
    let origin = Origin::start(|conn| {
        if conn.number > 0 {
            return conn.serve();
        }
        let _ = conn.request();
        conn.answer("warm");
        let _ = conn.head();
        conn.note("headed");
        std::thread::sleep(Duration::from_millis(100));
    });
    let site = Site::plain(&origin);
    let mut client = site.client();
    assert_eq!(client.get("/warm").text(), "warm");
    let data = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    client.send(format!(
        "PUT /up HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n",
        data.len()
    ));
    origin.wait("the head", |seen| seen.notes.len() == 1);
    origin.wait("the end of the stale connection", |seen| seen.ended == 1);
    std::thread::sleep(Duration::from_millis(50));
    client.send(format!("{data}\r\n0\r\n\r\n"));
    client.fin();
    client.end();
    assert!(!origin.lines().iter().any(|line| line.contains("smuggled")), "{:?}", origin.lines());
}

#[test]
fn trailers_are_never_replayed_in_place_of_a_head() {
    let origin = Origin::start(stale_after("0\r\nX-T: 1\r\n\r\n"));
    let site = Site::plain(&origin);
    let mut client = site.client();
    assert_eq!(client.get("/warm").text(), "warm");
    client.send("PUT /up HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-T: 1\r\n\r\n");
    let answer = client.response("PUT");
    let bad = |line: &String| !line.starts_with("GET /warm ") && !line.starts_with("PUT /up ");
    assert!(!origin.lines().iter().any(bad), "{:?}", origin.lines());
    assert!(matches!(answer.head.status(), 200 | 502), "{}", answer.head.0);
}

#[test]
fn a_status_that_is_not_retried_counts_as_one_failure() {
    let origin = Origin::start(|conn| {
        while conn.request().is_some() {
            conn.wire.send("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let setting = Setting {
        route: "retry: {attempts: 0, codes: [503]}",
        backend: "panicThreshold: 0, health: {passive: {consecutiveFailures: 3, baseEjection: 60s}}",
        ..Setting::default()
    };
    let site = Site::start(setting, &[&origin]);
    let mut client = site.client();
    for _ in 0..3 {
        assert_eq!(client.get("/").body, b"", "answered by the endpoint");
    }
    assert_eq!(client.get("/").text(), "NoEndpoint\n");
}

#[test]
fn nothing_is_retried_after_the_total_timeout() {
    let silent = || {
        Origin::start(|conn| {
            while let Some(request) = conn.request() {
                if request.head.target() == "/warm" {
                    conn.answer("warm");
                }
            }
        })
    };
    let (one, other) = (silent(), silent());
    let setting = Setting {
        route: "timeouts: {total: 200ms}, retry: {attempts: 3, onTimeout: true}",
        ..Setting::default()
    };
    let site = Site::start(setting, &[&one, &other]);
    for _ in 0..2 {
        assert_eq!(site.client().get("/warm").text(), "warm");
    }
    let answer = site.client().get("/");
    assert_eq!((answer.head.status(), answer.text().as_str()), (504, "RequestTimeout\n"));
    assert_eq!(one.lines().len() + other.lines().len(), 3);
}

#[test]
fn a_slow_client_is_not_the_endpoints_failure() {
    let origin = Origin::plain();
    let setting = Setting {
        route: "timeouts: {total: 200ms}",
        backend: "panicThreshold: 0, health: {passive: {consecutiveFailures: 1, baseEjection: 60s}}",
        ..Setting::default()
    };
    let site = Site::start(setting, &[&origin]);
    let mut client = site.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc");
    assert_eq!(client.response("POST").head.status(), 504);
    assert_eq!(site.client().get("/still").text(), "/still");
}

#[test]
fn max_connections_counts_connections_and_nothing_else() {
    let origin = Origin::plain();
    let setting = Setting { flags: &["--workers", "2", "--max-connections", "2"], ..Setting::default() };
    let site = Site::start(setting, &[&origin]);
    // Many pairs, so that both workers get some, and one worker both of a pair.
    for _ in 0..12 {
        let (mut one, mut other) = (site.client(), site.client());
        assert_eq!(one.get("/1").text(), "/1");
        assert_eq!(other.get("/2").text(), "/2");
        let mut third = site.client();
        third.send(get("/3"));
        assert!(third.is_silent_for(Duration::from_millis(50)));
        drop(one);
        assert_eq!(third.response("GET").text(), "/3");
    }
}

#[test]
fn no_limit_is_hit_while_nobody_is_connected() {
    let origin = Origin::plain();
    let setting = Setting { flags: &["--workers", "2", "--max-connections", "1"], ..Setting::default() };
    let site = Site::start(setting, &[&origin]);
    std::thread::sleep(Duration::from_millis(300));
    assert!(site.metric("sluicegate_limit_hits_total", &["max_connections"]) < 0.5);
}

const HOLD: &str = "POST /hold HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n";

#[test]
fn a_client_that_leaves_the_queue_frees_its_place() {
    let origin = Origin::plain();
    let setting = Setting {
        backend: "maxRequestsPerEndpoint: 1, queueSize: 1, queueTimeout: 10s",
        ..Setting::default()
    };
    let site = Site::start(setting, &[&origin]);
    let mut holder = site.client();
    holder.send(HOLD);
    origin.wait("the holder", |seen| seen.heads.len() == 1);
    let mut waiter = site.client();
    waiter.send(get("/waiter"));
    site.wait_for_metric("sluicegate_backend_waiting", &[], 1.0);
    let ((), took) = timed(|| {
        waiter.reset();
        site.wait_for_metric("sluicegate_requests_total", &["ClientGone"], 1.0);
    });
    assert!(took < Duration::from_secs(5), "{took:?}");
    let mut next = site.client();
    next.send(get("/next"));
    site.wait_for_metric("sluicegate_backend_waiting", &[], 1.0);
    holder.send("ab");
    assert_eq!(next.response("GET").text(), "/next");
}

#[test]
fn the_total_timeout_covers_the_queue() {
    let origin = Origin::start(|conn| {
        let _ = conn.request();
        conn.wire.send(switch());
        conn.wire.end();
    });
    let setting = Setting {
        route: "timeouts: {total: 300ms}",
        backend: "maxRequestsPerEndpoint: 1, queueSize: 9, queueTimeout: 10s",
        ..Setting::default()
    };
    let site = Site::start(setting, &[&origin]);
    // In a tunnel no total timeout passes.
    let mut holder = site.client();
    holder.send(upgrade());
    assert_eq!(holder.head().unwrap().status(), 101);
    let answer = site.client().get("/waiter");
    assert_eq!((answer.head.status(), answer.text().as_str()), (504, "RequestTimeout\n"));
}

#[test]
fn content_length_of_a_response_to_head_is_said_once() {
    let origin = Origin::start(|conn| {
        while conn.request().is_some() {
            conn.wire.send("HTTP/1.1 200 OK\r\nContent-Length: 005\r\nContent-Length: 5\r\n\r\n");
        }
    });
    let site = Site::plain(&origin);
    let mut client = site.client();
    client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response("HEAD").head.values("content-length"), ["5"]);
}

#[test]
fn the_response_timeout_ends_with_the_response_head() {
    let origin = Origin::start(|conn| {
        let Some(head) = conn.head() else { return };
        conn.wire.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab");
        let _ = conn.wire.body(head, "");
        std::thread::sleep(Duration::from_millis(900));
        conn.wire.send("cd");
    });
    let setting = Setting { route: "timeouts: {response: 200ms, idle: 30s}", ..Setting::default() };
    let site = Site::start(setting, &[&origin]);
    let mut client = site.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n");
    let head = client.head().unwrap();
    client.send("hi");
    assert_eq!(client.body(head, "POST").map(|answer| answer.text()).as_deref(), Some("abcd"));
}

#[test]
fn a_listener_that_comes_to_require_the_proxy_protocol_does() {
    let origin = Origin::plain();
    let setting = Setting { listener: Some(""), ..Setting::default() };
    let site = Site::start(setting, &[&origin]);
    assert_eq!(site.client().get("/").text(), "/");
    let strict = Setting { listener: Some("proxyProtocol: true"), ..Setting::default() };
    std::fs::write(site.folder().join("edge.yaml"), strict.file(site.http, &[origin.address])).unwrap();
    eventually("connections without the header are closed", || {
        let mut client = site.client();
        client.send(get("/without"));
        client.head().is_none()
    });
    let mut client = site.client();
    client.send(format!("PROXY TCP4 192.0.2.7 192.0.2.8 1234 80\r\n{}", get("/with")));
    assert_eq!(client.response("GET").text(), "/with");
    let with = |seen: &Seen| seen.heads.last().unwrap().1.value("x-forwarded-for").map(str::to_owned);
    assert_eq!(origin.see(with).as_deref(), Some("192.0.2.7"));
}

#[test]
fn many_large_informational_responses_are_relayed() {
    let origin = Origin::start(|conn| {
        while conn.request().is_some() {
            for _ in 0..12 {
                let hints = format!("HTTP/1.1 103 Early Hints\r\nX-Pad: {}\r\n\r\n", "h".repeat(15_000));
                conn.wire.send(hints);
            }
            conn.answer("done");
        }
    });
    let site = Site::plain(&origin);
    let mut client = site.client();
    client.send(get("/"));
    for _ in 0..12 {
        assert_eq!(client.response("GET").head.status(), 103);
    }
    assert_eq!(client.response("GET").text(), "done");
}

#[test]
fn the_part_of_a_large_body_that_came_is_not_held_back() {
    const LENGTH: usize = 1_000_000;
    const PART: usize = 40_001;
    let origin = Origin::start(|conn| {
        while conn.request().is_some() {
            conn.wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n"));
            // The rest never comes.
            conn.wire.send_pattern(0, PART);
        }
    });
    let site = Site::plain(&origin);
    // The machine may be busy: the best of a few counts.
    let times = (0..4).map(|_| {
        let mut client = site.client();
        client.send(get("/"));
        let _ = client.head().unwrap();
        let (part, took) = timed(|| client.expect_pattern(0, PART));
        assert!(part.is_some());
        took
    });
    let best = times.min().unwrap();
    assert!(best < Duration::from_millis(100), "held back for {best:?}");
}

/// The last piece of a spliced body waits in the pipe while the client reads nothing: it is sent before the
/// exchange counts as over.
#[test]
fn the_last_piece_of_a_body_is_not_forgotten_in_the_pipe() {
    const LENGTH: usize = 6_000_000;
    let origin = Origin::start(|conn| {
        while conn.request().is_some() {
            conn.wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n"));
            conn.wire.send_pattern(0, LENGTH);
        }
    });
    let site = Site::plain(&origin);
    let mut client = Wire::connect_narrow(site.http);
    for _ in 0..4 {
        client.send(get("/"));
        let head = client.head().unwrap();
        assert_eq!(head.value("content-length"), Some("6000000"));
        let mut at = 0;
        while at < LENGTH {
            let length = 500_000.min(LENGTH - at);
            client.expect_pattern(at, length).unwrap();
            at += length;
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

#[test]
fn idle_tunnels_give_their_large_buffers_back() {
    const TUNNELS: usize = 120;
    /// Free buffers that a worker keeps for re-use.
    const KEPT: usize = 9 * 1_024 * 1_024;
    let origin = Origin::start(|conn| {
        let Some(head) = conn.head() else { return };
        if head.value("upgrade").is_none() {
            conn.answer("");
            return;
        }
        conn.wire.send(switch());
        while let Some(bytes) = conn.wire.some(65_536) {
            conn.wire.send(bytes);
        }
    });
    let site = Site::plain(&origin);
    let before = site.memory();
    let mut tunnels: Vec<Wire> = (0..TUNNELS)
        .map(|_| {
            let mut tunnel = site.client();
            tunnel.send(upgrade());
            assert_eq!(tunnel.head().unwrap().status(), 101);
            for round in 0..5 {
                tunnel.send_pattern(round * 30_000, (round + 1) * 30_000);
                tunnel.expect_pattern(round * 30_000, 30_000).unwrap();
            }
            tunnel
        })
        .collect();
    let grown = site.memory().saturating_sub(before);
    assert!(grown < KEPT + TUNNELS * 16 * 1_024, "{} KiB per tunnel", grown / 1_024 / TUNNELS);
    for tunnel in &mut tunnels {
        tunnel.send("ping");
        assert_eq!(tunnel.exactly(4).unwrap(), b"ping");
    }
}

#[test]
fn new_connections_are_refused_once_draining() {
    let origin = Origin::start(|conn| {
        let _ = conn.request();
        conn.wire.line();
        conn.answer("late");
    });
    let mut site = Site::plain(&origin);
    let mut client = site.client();
    client.send(get("/slow"));
    origin.wait("the request", |seen| seen.heads.len() == 1);
    site.gateway.signal("TERM");
    site.gateway.wait_for_log("draining");
    eventually("new connections are refused", || std::net::TcpStream::connect(site.http).is_err());
    assert!(site.gateway.is_running());
    client.reset();
    assert!(site.gateway.wait_for_exit().success());
}
