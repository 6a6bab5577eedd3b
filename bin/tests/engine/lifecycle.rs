//! Limits, who the client is, table changes under load, and the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use crate::common::eventually;
use crate::origin::{Origin, Seen, Setting, Site, ok, switch, upgrade};
use crate::wire::{End, get, timed};

#[test]
fn heads_are_bounded_in_bytes_and_fields() {
    let origin = Origin::plain();
    let setting =
        Setting { listener: Some("limits: {headBytes: 2048, headFields: 10}"), ..Setting::default() };
    let site = Site::start(setting, &[&origin]);
    let request = |fields: String| format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    let pad = |length: usize| {
        format!("X: {}\r\n", "x".repeat(length - "GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n".len()))
    };
    let many = |count: usize| "A: b\r\n".repeat(count - 1);
    for (fields, status) in [(pad(2_048), 200), (pad(2_049), 431), (many(10), 200), (many(11), 431)] {
        let mut client = site.client();
        client.send(request(fields));
        let answer = client.response("GET");
        assert_eq!((answer.head.status(), answer.head.closes()), (status, status == 431));
    }
    assert!(site.metric("sluicegate_limit_hits_total", &["head_bytes"]) > 0.5);
    assert!(site.metric("sluicegate_limit_hits_total", &["head_fields"]) > 0.5);
}

#[test]
fn a_connection_ends_after_its_last_request() {
    let origin = Origin::plain();
    let setting = Setting { listener: Some("limits: {maxRequestsPerConnection: 3}"), ..Setting::default() };
    let site = Site::start(setting, &[&origin]);
    let mut client = site.client();
    client.send((0..5).map(|number| get(&format!("/{number}"))).collect::<String>());
    for number in 0..3 {
        let answer = client.response("GET");
        assert_eq!((answer.text(), answer.head.closes()), (format!("/{number}"), number == 2));
    }
    assert_eq!(client.end(), End::Fin);
    assert_eq!(origin.lines().len(), 3);
}

fn last_get(target: &str) -> String {
    get(target).replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")
}

#[test]
fn a_client_that_has_announced_its_end_is_not_waited_for() {
    let origin = Origin::plain();
    let site = Site::start(Setting { route: "hosts: a", ..Setting::default() }, &[&origin]);
    for request in [last_get("/"), last_get("/").replace("Host: a", "Host: unknown")] {
        // Who waits for the client's end does so for a second; one attempt of ten may be slow for other reasons.
        let quickest = (0..10).map(|_| {
            let mut client = site.client();
            client.send(&request);
            assert!(client.response("GET").head.closes());
            let (end, took) = timed(|| {
                let end = client.end();
                eventually("no connection", || site.metric("sluicegate_connections_open", &[]) < 0.5);
                end
            });
            assert_eq!(end, End::Fin);
            took
        });
        assert!(quickest.min().unwrap().as_millis() < 900);
    }
}

#[test]
fn what_a_client_sends_after_its_last_request_does_not_cost_it_the_answer() {
    let origin = Origin::plain();
    let site = Site::plain(&origin);
    for more in [1, 10_000, 200_000] {
        let mut client = site.client();
        client.send([last_get("/kept").into_bytes(), vec![b'x'; more]].concat());
        assert_eq!(client.response("GET").text(), "/kept");
        assert_eq!(client.end(), End::Fin);
    }
}

fn last(seen: &Seen, name: &str) -> String {
    seen.heads.last().unwrap().1.values(name).join("|")
}

#[test]
fn the_client_is_who_the_proxy_header_says() {
    let origin = Origin::plain();
    let site =
        Site::start(Setting { listener: Some("proxyProtocol: true"), ..Setting::default() }, &[&origin]);
    let mut v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    v2.extend([192, 0, 2, 9, 192, 0, 2, 1, 0x30, 0x39, 0, 80]);
    for (header, address) in
        [(b"PROXY TCP6 2001:db8::7 2001:db8::1 99 80\r\n".to_vec(), "2001:db8::7"), (v2, "192.0.2.9")]
    {
        let mut client = site.client();
        client.send([header, get("/1").into_bytes()].concat());
        assert_eq!(client.response("GET").text(), "/1");
        assert_eq!(client.get("/2").text(), "/2");
        assert_eq!(origin.see(|seen| last(seen, "x-forwarded-for")), address);
        assert_eq!(origin.see(|seen| last(seen, "x-real-ip")), address);
    }
}

#[test]
fn forwarded_addresses_are_believed_from_trusted_proxies_only() {
    let origin = Origin::plain();
    let trusting =
        Setting { listener: Some("trustedProxies: [127.0.0.1, 10.0.0.0/8]"), ..Setting::default() };
    let request = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 6.6.6.6, 198.51.100.7, 10.1.1.1\r\nX-Forwarded-Proto: https\r\n\r\n";
    for (setting, chain, client, proto) in [
        (trusting, "6.6.6.6, 198.51.100.7, 10.1.1.1, 127.0.0.1", "198.51.100.7", "https"),
        (Setting::default(), "127.0.0.1", "127.0.0.1", "http"),
    ] {
        let site = Site::start(setting, &[&origin]);
        let mut wire = site.client();
        wire.send(request);
        wire.response("GET");
        assert_eq!(origin.see(|seen| last(seen, "x-forwarded-for")), chain);
        assert_eq!(origin.see(|seen| last(seen, "x-real-ip")), client);
        assert_eq!(origin.see(|seen| last(seen, "x-forwarded-proto")), proto);
    }
}

#[test]
fn no_request_fails_while_the_table_changes() {
    let origins = [Origin::plain(), Origin::plain(), Origin::plain()];
    let setting = Setting { flags: &["--workers", "2"], ..Setting::default() };
    let site = Site::start(setting, &origins.each_ref());
    let stop = Arc::new(AtomicBool::new(false));
    let served = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..16)
        .map(|number| {
            let (http, stop, served) = (site.http, Arc::clone(&stop), Arc::clone(&served));
            std::thread::spawn(move || {
                while !stop.load(SeqCst) {
                    let mut client = crate::wire::Wire::connect(http);
                    // Some keep their connection, some do not.
                    for round in 0..if number % 2 == 0 { 50 } else { 1 } {
                        let path = format!("/{number}/{round}");
                        let answer = client.get(&path);
                        assert_eq!((answer.head.status(), answer.text()), (200, path));
                        served.fetch_add(1, SeqCst);
                    }
                }
            })
        })
        .collect();
    let swaps = || site.metric("sluicegate_table_version", &[]);
    let begin = swaps();
    for round in 0..50 {
        let left: Vec<_> = (0..3).filter(|at| round % 4 != *at).map(|at| origins[at].address).collect();
        let before = swaps();
        let file = site.folder().join("edge.yaml");
        std::fs::write(file.with_extension("new"), setting.file(site.http, &left)).unwrap();
        std::fs::rename(file.with_extension("new"), file).unwrap();
        eventually("the change is served", || swaps() > before);
    }
    stop.store(true, SeqCst);
    for client in clients {
        client.join().unwrap();
    }
    assert!(swaps() - begin > 49.0);
    assert!(served.load(SeqCst) > 500, "{}", served.load(SeqCst));
}

#[test]
fn a_drain_finishes_what_is_under_way_and_closes_what_is_idle() {
    let origin = Origin::start(|conn| {
        while let Some(request) = conn.request() {
            if request.head.target() == "/slow" {
                conn.note("slow");
                // The test lets it go on by a second connection.
                while std::fs::metadata(request.head.value("x-until").unwrap()).is_err() {
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
            }
            conn.wire.send(ok(request.head.target()));
        }
    });
    let mut site = Site::plain(&origin);
    let until = site.folder().join("go-on");
    let (mut slow, mut idle) = (site.client(), site.client());
    assert_eq!(idle.get("/idle").text(), "/idle");
    slow.send(format!("GET /slow HTTP/1.1\r\nHost: a\r\nX-Until: {}\r\n\r\n", until.display()));
    origin.wait("the slow request", |seen| seen.notes.len() == 1);
    site.gateway.signal("TERM");
    assert!(idle.ends_here());
    assert!(site.gateway.is_running());
    std::fs::write(until, "").unwrap();
    let answer = slow.response("GET");
    assert_eq!((answer.text().as_str(), answer.head.closes()), ("/slow", true));
    assert_eq!(slow.end(), End::Fin);
    drop(slow);
    assert!(site.gateway.wait_for_exit().success());
}

#[test]
fn a_drain_ends_at_its_deadline() {
    let origin = Origin::start(|conn| {
        let Some(request) = conn.request() else { return };
        if request.head.value("upgrade").is_some() {
            conn.wire.send(switch());
        }
        conn.wire.end();
    });
    let mut site =
        Site::start(Setting { flags: &["--drain-timeout", "500ms"], ..Setting::default() }, &[&origin]);
    let (mut stuck, mut tunnel) = (site.client(), site.client());
    stuck.send(get("/"));
    tunnel.send(upgrade());
    assert_eq!(tunnel.head().unwrap().status(), 101);
    origin.wait("both", |seen| seen.heads.len() == 2);
    site.gateway.signal("TERM");
    let (status, took) = timed(|| site.gateway.wait_for_exit());
    assert!(status.success());
    assert!(took.as_millis() >= 400 && took.as_secs() < 5, "{took:?}");
    stuck.end();
    tunnel.end();
}
