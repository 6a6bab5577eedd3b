//! HTTP/1.1 in front, HTTP/2 behind.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use h2::server::Builder;
use http::{HeaderMap, Response};

use crate::proxy::{Proxy, eventually, http2};
use crate::server::{Call, Server, echo};

fn through(server: &Server) -> Proxy {
    Proxy::start(&[("a", &[server.address], http2())])
}

#[test]
fn requests_of_all_clients_share_one_connection() {
    let server = Server::echo();
    let proxy = through(&server);
    let clients: Vec<_> = (0..8)
        .map(|n| {
            let mut client = proxy.client();
            std::thread::spawn(move || {
                for m in 0..20 {
                    let path = format!("/{n}/{m}");
                    assert_eq!(client.get(&path).text(), format!("GET {path} 0"));
                    assert_eq!(client.post(&path, "four").text(), format!("POST {path} 4"));
                }
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
    assert_eq!((server.seen.connections(), server.seen.requests()), (1, 8 * 40));
}

#[test]
fn fields_and_trailers_cross_both_ways() {
    let server = Server::start(|mut call: Call| async move {
        let (_, trailers) = call.body().await;
        let seen = call.request.headers().get("x-end-to-end").cloned().unwrap();
        assert!(call.request.headers().get("connection").is_none());
        assert_eq!(call.request.uri().authority().unwrap(), "a");
        let mut response = Response::builder().status(201).header("x-seen", seen);
        if let Some(trailers) = trailers {
            response = response.header("x-trailer", &trailers["x-sum"]);
        }
        let mut send = call.respond.send_response(response.body(()).unwrap(), false).unwrap();
        send.send_data(Bytes::from_static(b"body"), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-after", "yes".parse().unwrap());
        send.send_trailers(trailers).unwrap();
    });
    let proxy = through(&server);
    let mut client = proxy.client();
    for _ in 0..2 {
        client.send(
            "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE\r\nX-End-To-End: 1\r\n\
             Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 6\r\n\r\n",
        );
        let answer = client.answer();
        assert_eq!((answer.status, answer.text().as_str(), answer.is_whole), (201, "body", true));
        assert!(
            answer.head.contains("x-seen: 1\r\n") && answer.head.contains("x-trailer: 6\r\n"),
            "{}",
            answer.head
        );
        assert_eq!(answer.trailers, "x-after: yes\r\n");
    }
}

#[test]
fn answers_without_body_keep_the_client_connection() {
    let server = Server::start(|mut call: Call| async move {
        let status = call.path()[1..].parse::<u16>().unwrap();
        let response = Response::builder().status(status).body(()).unwrap();
        call.respond.send_response(response, true).unwrap();
    });
    let proxy = through(&server);
    let mut client = proxy.client();
    for status in [200, 204, 304, 404, 500] {
        let answer = client.get(&format!("/{status}"));
        assert_eq!((answer.status, answer.body.len(), answer.is_whole), (status, 0, true));
        client.send(format!("HEAD /{status} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let head = client.head();
        assert_eq!(client.body(head, true).status, status);
    }
}

#[test]
fn informational_heads_come_in_their_order() {
    let server = Server::start(|mut call: Call| async move {
        for link in ["</a>", "</b>"] {
            let early = Response::builder().status(103).header("link", link).body(()).unwrap();
            call.respond.send_informational(early).unwrap();
        }
        call.answer("done");
    });
    let proxy = through(&server);
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    for link in ["</a>", "</b>"] {
        let head = client.head();
        assert!(head.starts_with("HTTP/1.1 103") && head.contains(link), "{head}");
    }
    assert_eq!(client.answer().text(), "done");
}

#[test]
fn a_continue_lets_the_body_go() {
    let server = Server::start(|mut call: Call| async move {
        assert_eq!(call.request.headers()["expect"], "100-continue");
        let go_on = Response::builder().status(100).body(()).unwrap();
        call.respond.send_informational(go_on).unwrap();
        echo(call).await;
    });
    let proxy = through(&server);
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n");
    assert!(client.head().starts_with("HTTP/1.1 100"));
    client.send("abc");
    assert_eq!(client.answer().text(), "POST / 3");
}

#[test]
fn large_bodies_cross_under_flow_control() {
    let server = Server::start(|mut call: Call| async move {
        let (body, _) = call.body().await;
        let mut send = call.respond.send_response(Response::new(()), false).unwrap();
        send.reserve_capacity(body.len());
        let mut rest = Bytes::from(body);
        while !rest.is_empty() {
            send.reserve_capacity(rest.len());
            let room = std::future::poll_fn(|cx| send.poll_capacity(cx)).await.unwrap().unwrap();
            let piece = rest.split_to(room.min(rest.len()));
            send.send_data(piece, rest.is_empty()).unwrap();
        }
    });
    let proxy = through(&server);
    let body: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let mut client = proxy.client();
    client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len()));
    client.send(&body);
    let answer = client.answer();
    assert!(answer.is_whole && answer.body == body);
}

#[test]
fn an_early_answer_ends_the_upload() {
    let server = Server::start(|mut call: Call| async move {
        let response = Response::builder().status(413).body(()).unwrap();
        let mut send = call.respond.send_response(response, false).unwrap();
        // With the rest of the request unread, the stream is then reset with NO_ERROR.
        send.send_data(Bytes::from_static(b"too much"), true).unwrap();
    });
    let proxy = through(&server);
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nbegin");
    let answer = client.answer();
    assert_eq!((answer.status, answer.text().as_str(), answer.is_whole), (413, "too much", true));
}

#[test]
fn a_reset_in_a_body_is_seen_as_a_cut() {
    let server = Server::start(|mut call: Call| async move {
        let mut response = Response::builder();
        if call.path() == "/length" {
            response = response.header("content-length", "10");
        }
        let mut send = call.respond.send_response(response.body(()).unwrap(), false).unwrap();
        send.send_data(Bytes::from_static(b"part"), false).unwrap();
        call.seen.go_on.notified().await;
        send.send_reset(if call.path() == "/length" { Reason::NO_ERROR } else { Reason::INTERNAL_ERROR });
    });
    let proxy = through(&server);
    for path in ["/length", "/chunked"] {
        let mut client = proxy.client();
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let head = client.head();
        server.seen.go_on.notify_one();
        let answer = client.body(head, false);
        assert_eq!(
            (answer.status, answer.text().contains("part"), answer.is_whole),
            (200, true, false),
            "{path}"
        );
    }
}

#[test]
fn a_refused_stream_is_sent_again_whatever_the_method() {
    let server = Server::start(|mut call: Call| async move {
        if call.seen.requests() < 3 {
            return call.respond.send_reset(Reason::REFUSED_STREAM);
        }
        echo(call).await;
    });
    let proxy = through(&server);
    let answer = proxy.client().post("/", "body");
    assert_eq!((answer.text().as_str(), server.seen.requests()), ("POST / 4", 3));
}

#[test]
fn a_stream_that_is_always_refused_is_given_up() {
    let server = Server::start(|mut call: Call| async move {
        call.respond.send_reset(Reason::REFUSED_STREAM);
    });
    let proxy = through(&server);
    let answer = proxy.client().post("/", "body");
    assert_eq!((answer.status, answer.text().as_str()), (502, "EmptyResponse\n"));
    assert_eq!(server.seen.requests(), 3);
}

#[test]
fn another_reset_is_not_repeated_for_a_post() {
    let server = Server::start(|mut call: Call| async move {
        call.respond.send_reset(Reason::INTERNAL_ERROR);
    });
    let proxy = through(&server);
    assert_eq!(proxy.client().post("/", "body").status, 502);
    assert_eq!(server.seen.requests(), 1);
}

#[test]
fn going_away_under_load_loses_nothing() {
    let server = Server::echo();
    let proxy = through(&server);
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let mut client = proxy.client();
            std::thread::spawn(move || {
                for _ in 0..200 {
                    assert_eq!(client.post("/", "body").text(), "POST / 4");
                }
            })
        })
        .collect();
    while clients.iter().any(|client| !client.is_finished()) {
        server.seen.go_away.notify_waiters();
        std::thread::sleep(Duration::from_millis(5));
    }
    clients.into_iter().for_each(|client| client.join().unwrap());
    assert!(server.seen.connections() > 1, "it never went away");
    assert_eq!(server.seen.requests(), 1_600, "each request was processed once");
}

#[test]
fn one_stream_at_a_time_and_a_new_connection_for_each_do_not_block() {
    let server = Server::start_with(Builder::new().max_concurrent_streams(1), echo);
    server.seen.one_each.store(true, SeqCst);
    let proxy = through(&server);
    let clients: Vec<_> = (0..16)
        .map(|_| {
            let mut client = proxy.client();
            std::thread::spawn(move || {
                for _ in 0..20 {
                    assert_eq!(client.post("/", "body").text(), "POST / 4");
                }
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
    assert_eq!(server.seen.most.load(SeqCst), 1);
}

#[test]
fn the_limit_of_streams_is_kept_by_opening_connections() {
    let server = Server::start_with(Builder::new().max_concurrent_streams(2), |call: Call| async move {
        while call.seen.requests() < 10 {
            tokio::task::yield_now().await;
        }
        echo(call).await;
    });
    let proxy = through(&server);
    let clients: Vec<_> = (0..10)
        .map(|_| {
            let mut client = proxy.client();
            std::thread::spawn(move || assert_eq!(client.get("/").status, 200))
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
    assert_eq!(server.seen.most.load(SeqCst), 2);
    assert!((5..=10).contains(&server.seen.connections()), "{}", server.seen.connections());
}

#[test]
fn a_slow_reader_stalls_only_itself() {
    let server = Server::start(|mut call: Call| async move {
        if call.path() != "/large" {
            return echo(call).await;
        }
        let mut send = call.respond.send_response(Response::new(()), false).unwrap();
        let piece = Bytes::from(vec![b'x'; 16_384]);
        for _ in 0..4_096 {
            send.reserve_capacity(piece.len());
            match std::future::poll_fn(|cx| send.poll_capacity(cx)).await {
                Some(Ok(_)) => {}
                _ => return,
            }
            let room = send.capacity().min(piece.len());
            if send.send_data(piece.slice(..room), false).is_err() {
                return;
            }
        }
    });
    let proxy = through(&server);
    let mut slow: Vec<_> = (0..20).map(|_| proxy.client()).collect();
    for client in &mut slow {
        client.send("GET /large HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(client.head().starts_with("HTTP/1.1 200"));
    }
    let mut quick = proxy.client();
    for _ in 0..50 {
        assert_eq!(quick.post("/", &"y".repeat(50_000)).text(), "POST / 50000");
    }
    assert_eq!(server.seen.connections(), 1);
}

#[test]
fn an_endpoint_that_leaves_the_table_finishes_what_it_has() {
    let old = Server::start(|mut call: Call| async move {
        let mut send = call.respond.send_response(Response::new(()), false).unwrap();
        send.send_data(Bytes::from_static(b"first,"), false).unwrap();
        call.seen.go_on.notified().await;
        send.send_data(Bytes::from_static(b"last"), true).unwrap();
    });
    let new = Server::echo();
    let mut proxy = through(&old);
    let mut streaming = proxy.client();
    streaming.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = streaming.head();
    proxy.publish(&[("a", &[new.address], http2())]);
    assert_eq!(proxy.client().get("/").text(), "GET / 0");
    assert_eq!(old.seen.ended.load(SeqCst), 0, "the connection ended under its stream");
    old.seen.go_on.notify_one();
    let answer = streaming.body(head, false);
    assert_eq!((answer.text().as_str(), answer.is_whole), ("first,last", true));
    eventually("the old connection is closed", || old.seen.ended.load(SeqCst) == 1);
}

#[test]
fn an_endpoint_that_speaks_only_http1_is_no_endpoint() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        use std::io::{Read, Write};
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _read = stream.read(&mut [0; 1_024]);
            let _sent = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let http2_endpoint = Server::echo();
    let proxy =
        Proxy::start(&[("a", &[address], http2()), ("b", &[address, http2_endpoint.address], http2())]);
    let answer = proxy.client().get("/");
    assert_eq!((answer.status, answer.text().as_str()), (503, "ConnectFailed\n"));
    // Nothing was sent, so that even a POST goes to the next one.
    let mut client = proxy.client();
    for _ in 0..4 {
        client.send("POST / HTTP/1.1\r\nHost: b\r\nContent-Length: 4\r\n\r\nbody");
        assert_eq!(client.answer().text(), "POST / 4");
    }
}

#[test]
fn a_client_that_leaves_cancels_its_stream() {
    let server = Server::start(|mut call: Call| async move {
        let reason = std::future::poll_fn(|cx| call.respond.poll_reset(cx)).await.unwrap();
        call.seen.note(reason.to_string());
    });
    let proxy = through(&server);
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    eventually("the request has arrived", || server.seen.requests() == 1);
    client.abort();
    eventually("the stream is cancelled", || !server.seen.notes().is_empty());
    assert_eq!(server.seen.notes(), [Reason::CANCEL.to_string()]);
}
