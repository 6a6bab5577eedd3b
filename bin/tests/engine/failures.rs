//! Endpoints that fail: retries, caps and queues, ejection and recovery, probes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use crate::common::{eventually, free_address};
use crate::origin::{Conn, Origin, Setting, Site};
use crate::wire::{get, post};

/// Answers every request with 503.
fn failing() -> Origin {
    Origin::start(|conn| {
        while conn.request().is_some() {
            conn.wire.send("HTTP/1.1 503 No\r\nContent-Length: 4\r\n\r\nbusy");
        }
    })
}

/// Passive health off, so that only the rule under test is at work.
const NO_HEALTH: &str = "health: {passive: {enabled: false}}";

#[test]
fn what_could_not_connect_goes_elsewhere_for_every_method() {
    let origin = Origin::plain();
    let setting = Setting { backend: NO_HEALTH, ..Setting::default() };
    let site = Site::at(setting, &[free_address(), origin.address]);
    let mut client = site.client();
    for _ in 0..10 {
        assert_eq!(client.get("/get").text(), "/get");
        client.send(post("/post", "body"));
        assert_eq!(client.response("POST").text(), "/post 4");
    }
    assert!(site.metric("sluicegate_retries_total", &[]) > 0.5);
}

#[test]
fn nobody_to_connect_to_is_503() {
    let site = Site::at(Setting::default(), &[free_address()]);
    let answer = site.client().get("/");
    assert_eq!((answer.head.status(), answer.text().as_str()), (503, "ConnectFailed\n"));
}

#[test]
fn codes_are_retried_elsewhere_for_idempotent_requests_only() {
    let (bad, good) = (failing(), Origin::plain());
    let setting =
        Setting { route: "retry: {attempts: 1, codes: [503]}", backend: NO_HEALTH, ..Setting::default() };
    let site = Site::start(setting, &[&bad, &good]);
    let mut client = site.client();
    for _ in 0..8 {
        assert_eq!(client.get("/get").text(), "/get");
    }
    let mut statuses = [0; 8].map(|_| {
        client.send(post("/post", "x"));
        client.response("POST").head.status()
    });
    statuses.sort_unstable();
    assert_eq!((statuses[0], statuses[7]), (200, 503));
    let posts = |origin: &Origin| origin.lines().iter().filter(|line| line.starts_with("POST")).count();
    assert_eq!(posts(&bad) + posts(&good), 8);
}

#[test]
fn a_retry_never_goes_to_the_endpoint_that_failed() {
    let endpoints = [failing(), failing(), failing()];
    let setting =
        Setting { route: "retry: {attempts: 2, codes: [503]}", backend: NO_HEALTH, ..Setting::default() };
    let site = Site::start(setting, &endpoints.each_ref());
    for round in 1..=5 {
        assert_eq!(site.client().get("/").text(), "busy");
        for endpoint in &endpoints {
            assert_eq!(endpoint.lines().len(), round);
        }
    }
}

#[test]
fn a_post_that_arrived_is_never_repeated() {
    let mute = || {
        Origin::start(|conn| {
            let _ = conn.request();
        })
    };
    let endpoints = [mute(), mute()];
    let setting = Setting { route: "retry: {attempts: 1}", backend: NO_HEALTH, ..Setting::default() };
    let site = Site::start(setting, &endpoints.each_ref());
    for _ in 0..6 {
        let mut client = site.client();
        client.send(post("/", "x"));
        let answer = client.response("POST");
        assert_eq!((answer.head.status(), answer.text().as_str()), (502, "EmptyResponse\n"));
    }
    assert_eq!(endpoints[0].lines().len() + endpoints[1].lines().len(), 6);
    let count = || endpoints[0].lines().len() + endpoints[1].lines().len();
    let before = count();
    let mut client = site.client();
    client.send(post("/", "x").replace("Host: a", "Host: a\r\nIdempotency-Key: k"));
    assert_eq!(client.response("POST").head.status(), 502);
    assert_eq!(count() - before, 2, "repeated once elsewhere, as its key allows");
}

#[test]
fn a_stale_connection_costs_a_get_nothing() {
    // Ends each connection after one answer, without saying so.
    let origin = Origin::start(|conn| {
        let Some(request) = conn.request() else { return };
        conn.answer(request.head.target());
        let _ = conn.wire.line();
    });
    let setting = Setting { backend: NO_HEALTH, ..Setting::default() };
    let site = Site::start(setting, &[&origin]);
    let mut client = site.client();
    for number in 0..30 {
        let path = format!("/{number}");
        assert_eq!(client.get(&path).text(), path);
    }
}

#[test]
fn beyond_the_cap_requests_queue_and_then_are_refused() {
    let origin = Origin::plain();
    let setting = Setting {
        backend: "maxRequestsPerEndpoint: 2, queueSize: 2, queueTimeout: 10s",
        ..Setting::default()
    };
    let site = Site::start(setting, &[&origin]);
    let hold = "POST /hold HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n";
    let mut holders = [site.client(), site.client()];
    for holder in &mut holders {
        holder.send(hold);
    }
    origin.wait("both", |seen| seen.heads.len() == 2);
    let mut queued = [site.client(), site.client()];
    for client in &mut queued {
        client.send(get("/queued"));
    }
    site.wait_for_metric("sluicegate_backend_waiting", &[], 2.0);
    let refused = site.client().get("/refused");
    assert_eq!((refused.head.status(), refused.text().as_str()), (503, "Overloaded\n"));
    assert_eq!(origin.lines().len(), 2);
    for holder in &mut holders {
        holder.send("ab");
        assert_eq!(holder.response("POST").text(), "/hold 2");
    }
    for client in &mut queued {
        assert_eq!(client.response("GET").text(), "/queued");
    }
    site.wait_for_metric("sluicegate_endpoint_in_flight", &[], 0.0);
}

#[test]
fn waiting_in_the_queue_ends() {
    let origin = Origin::plain();
    let setting = Setting {
        backend: "maxRequestsPerEndpoint: 1, queueSize: 5, queueTimeout: 200ms",
        ..Setting::default()
    };
    let site = Site::start(setting, &[&origin]);
    let mut holder = site.client();
    holder.send("POST /hold HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n");
    origin.wait("the holder", |seen| seen.heads.len() == 1);
    assert_eq!(site.client().get("/").text(), "Overloaded\n");
}

/// Serves while the switch is on, ends every connection at once while it is off.
fn switched() -> (Origin, Arc<AtomicBool>) {
    let on = Arc::new(AtomicBool::new(true));
    let theirs = Arc::clone(&on);
    let origin = Origin::start(move |conn: &mut Conn| {
        while theirs.load(SeqCst) {
            let Some(request) = conn.request() else { return };
            if !theirs.load(SeqCst) || !conn.answer(request.head.target()) {
                return;
            }
        }
    });
    (origin, on)
}

#[test]
fn a_failing_endpoint_is_ejected_and_comes_back() {
    let (shaky, on) = switched();
    let steady = Origin::plain();
    let setting = Setting {
        backend: "panicThreshold: 0, health: {passive: {consecutiveFailures: 3, baseEjection: 300ms}}",
        ..Setting::default()
    };
    let site = Site::start(setting, &[&shaky, &steady]);
    let healthy = |value: f64| {
        site.wait_for_metric("sluicegate_endpoint_healthy", &[&shaky.address.to_string()], value)
    };
    let mut client = site.client();
    healthy(1.0);
    on.store(false, SeqCst);
    for _ in 0..20 {
        assert_eq!(client.get("/").text(), "/", "a GET sees no failure");
    }
    healthy(0.0);
    on.store(true, SeqCst);
    eventually("the endpoint is back", || {
        assert_eq!(client.get("/").text(), "/");
        site.metric("sluicegate_endpoint_healthy", &[&shaky.address.to_string()]) > 0.5
    });
    let before = shaky.lines().len();
    for _ in 0..10 {
        client.get("/");
    }
    assert!(shaky.lines().len() > before);
}

#[test]
fn probes_take_an_endpoint_out_and_back_in() {
    let healthy = Arc::new(AtomicBool::new(true));
    let theirs = Arc::clone(&healthy);
    let probed = Origin::start(move |conn| {
        while let Some(request) = conn.request() {
            let bad = request.head.target() == "/healthz" && !theirs.load(SeqCst);
            let line = if bad { "500 Bad" } else { "200 OK" };
            conn.wire.send(format!("HTTP/1.1 {line}\r\nContent-Length: 6\r\n\r\nprobed"));
        }
    });
    let other = Origin::plain();
    let setting = Setting {
        backend: "panicThreshold: 0, health: {active: {path: /healthz, interval: 100ms, timeout: 1s, healthyThreshold: 1, unhealthyThreshold: 2}}",
        ..Setting::default()
    };
    let site = Site::start(setting, &[&probed, &other]);
    let wait = |value: f64| {
        site.wait_for_metric("sluicegate_endpoint_healthy", &[&probed.address.to_string()], value)
    };
    let mut client = site.client();
    let mut served = || (0..10).filter(|_| client.get("/").text() == "probed").count();
    eventually("both serve", || served() > 0);
    healthy.store(false, SeqCst);
    wait(0.0);
    assert_eq!(served(), 0);
    healthy.store(true, SeqCst);
    wait(1.0);
    eventually("it serves again", || served() > 0);
}
