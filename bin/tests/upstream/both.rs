//! HTTP/2 in front and behind.

use std::future::poll_fn;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, SendStream};
use http::{HeaderMap, Request, Response};

use crate::front::{connect, connect_with, fetch, get, read, read_body, request, run, send, send_all};
use crate::proxy::{Proxy, http2};
use crate::server::{Call, Server};

fn through(server: &Server) -> Proxy {
    Proxy::start(&[("a", &[server.address], http2())])
}

/// Waits while the connections go on.
async fn until(is_so: impl Fn() -> bool) {
    while !is_so() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn trailers(name: &'static str, value: &'static str) -> HeaderMap {
    let mut map = HeaderMap::new();
    map.insert(name, value.parse().unwrap());
    map
}

/// Bytes that differ wherever they are cut.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n % 251) as u8 ^ (n / 4_096) as u8).collect()
}

fn head(respond: &mut SendResponse<Bytes>) -> SendStream<Bytes> {
    respond.send_response(Response::new(()), false).unwrap()
}

/// Sends back what arrives as it arrives, trailers last.
async fn mirror(mut call: Call) {
    let mut out = head(&mut call.respond);
    let body = call.request.body_mut();
    while let Some(piece) = body.data().await {
        let piece = piece.unwrap();
        body.flow_control().release_capacity(piece.len()).unwrap();
        send_all(&mut out, &piece, false).await.unwrap();
    }
    match body.trailers().await.unwrap() {
        Some(trailers) => out.send_trailers(trailers).unwrap(),
        None => out.send_data(Bytes::new(), true).unwrap(),
    }
}

#[test]
fn large_bodies_cross_both_ways_at_once() {
    let server = Server::start(mirror);
    let proxy = through(&server);
    run(async {
        let client = connect(proxy.address).await;
        let body = pattern(4_000_000);
        let call = async |n: usize| {
            let length = body.len() - n;
            let post = Request::post("http://a/").header("content-length", length).body(()).unwrap();
            let (response, mut out) = send(&client, post, false).await;
            let sent = async { send_all(&mut out, &body[..length], true).await.unwrap() };
            let (got, ()) = tokio::join!(async { read(response).await.unwrap() }, sent);
            assert!(got.body == body[..length], "{n}");
        };
        tokio::join!(call(0), call(1), call(77_777));
    });
    assert_eq!(server.seen.connections(), 1);
}

#[test]
fn streams_go_both_ways_piece_by_piece_and_end_with_trailers() {
    let server = Server::start(mirror);
    let proxy = through(&server);
    run(async {
        let client = connect(proxy.address).await;
        let (response, mut out) = send(&client, request("POST", "/"), false).await;
        let mut answer = response.await.unwrap().into_body();
        for n in 0..100 {
            let piece = Bytes::from(format!("piece {n}"));
            out.send_data(piece.clone(), false).unwrap();
            assert_eq!(answer.data().await.unwrap().unwrap(), piece);
        }
        out.send_trailers(trailers("x-sum", "100")).unwrap();
        assert!(answer.data().await.is_none());
        assert_eq!(answer.trailers().await.unwrap().unwrap()["x-sum"], "100");
    });
}

#[test]
fn a_window_that_opens_late_gets_the_whole_body() {
    let server = Server::start(async |mut call: Call| {
        let mut out = head(&mut call.respond);
        send_all(&mut out, &pattern(1_000_000), true).await.unwrap();
    });
    let proxy = through(&server);
    run(async {
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(1_000).initial_connection_window_size(1 << 20);
        let client = connect_with(proxy.address, &builder).await;
        let (response, _out) = send(&client, get("/"), true).await;
        let mut body = response.await.unwrap().into_body();
        // Long enough for everything in between to fill up.
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(read_body(&mut body).await.unwrap() == pattern(1_000_000));
    });
}

#[test]
fn answers_without_body_are_whole() {
    let server = Server::start(async |mut call: Call| {
        let status = call.path()[1..].parse::<u16>().unwrap();
        let response = Response::builder().status(status).header("content-length", "7").body(()).unwrap();
        let ends = call.request.method() == "HEAD" || status == 304;
        let mut out = call.respond.send_response(response, ends).unwrap();
        if !ends {
            out.send_data(Bytes::from_static(b"1234567"), true).unwrap();
        }
    });
    let proxy = through(&server);
    run(async {
        let client = connect(proxy.address).await;
        for (method, path, length) in [("HEAD", "/200", 0), ("GET", "/304", 0), ("GET", "/200", 7)] {
            let got = fetch(&client, request(method, path)).await.unwrap();
            assert_eq!(got.body.len(), length, "{method} {path}");
            assert_eq!(got.head.headers()["content-length"], "7", "{method} {path}");
        }
    });
}

#[test]
fn what_the_endpoint_breaks_off_does_not_look_whole() {
    let server = Server::start(async |mut call: Call| {
        let path = call.path();
        let mut response = Response::builder();
        if path.starts_with("/length") {
            response = response.header("content-length", "10");
        }
        let mut out = call.respond.send_response(response.body(()).unwrap(), false).unwrap();
        out.send_data(Bytes::from_static(b"part"), path.ends_with("/end")).unwrap();
        call.seen.go_on.notified().await;
        match path.rsplit('/').next().unwrap() {
            "cancel" => out.send_reset(Reason::CANCEL),
            "no-error" => out.send_reset(Reason::NO_ERROR),
            "more" => drop(out.send_data(Bytes::from_static(b"too much"), true)),
            _ => {}
        }
    });
    let proxy = through(&server);
    run(async {
        let client = connect(proxy.address).await;
        for path in ["/cancel", "/no-error", "/length/cancel", "/length/no-error", "/length/more"] {
            let (response, _out) = send(&client, get(path), true).await;
            let mut body = response.await.unwrap().into_body();
            server.seen.go_on.notify_one();
            let error = read_body(&mut body).await.expect_err(path);
            assert!(error.is_reset() && error.reason() != Some(Reason::NO_ERROR), "{path}: {error}");
        }
        let short = fetch(&client, get("/length/end")).await;
        assert!(short.as_ref().map_or(true, |got| got.status() == 502), "{short:?}");
    });
}

#[test]
fn an_early_answer_is_whole_though_the_upload_goes_on() {
    let server = Server::start(async |mut call: Call| {
        let mut out = head(&mut call.respond);
        send_all(&mut out, &pattern(300_000), false).await.unwrap();
        out.send_trailers(trailers("x-after", "yes")).unwrap();
    });
    let proxy = through(&server);
    run(async {
        let client = connect(proxy.address).await;
        let (response, mut out) = send(&client, request("POST", "/"), false).await;
        let upload = async {
            let body = pattern(1_000_000);
            while send_all(&mut out, &body, false).await.is_ok() {}
            poll_fn(|cx| out.poll_reset(cx)).await
        };
        let (got, reset) = tokio::join!(read(response), upload);
        let got = got.unwrap();
        assert!(got.body == pattern(300_000));
        assert_eq!(got.trailers.unwrap()["x-after"], "yes");
        assert_eq!(reset.unwrap(), Reason::NO_ERROR);
    });
}

/// An endpoint that reads nothing, answers `/answered` at once, and notes how its streams end.
fn idle() -> Server {
    Server::start(async |mut call: Call| {
        if call.path() == "/answered" {
            let mut out = head(&mut call.respond);
            let reason = poll_fn(|cx| out.poll_reset(cx)).await.unwrap();
            return call.seen.note(reason.to_string());
        }
        let reason = poll_fn(|cx| call.respond.poll_reset(cx)).await.unwrap();
        call.seen.note(reason.to_string());
    })
}

#[test]
fn a_client_that_resets_cancels_its_stream_at_every_stage() {
    let server = idle();
    let proxy = through(&server);
    run(async {
        let client = connect(proxy.address).await;
        for (n, path) in (1..).zip(["/", "/answered"]) {
            let (response, mut out) = send(&client, get(path), true).await;
            until(|| server.seen.requests() == n).await;
            out.send_reset(Reason::CANCEL);
            drop(response);
            until(|| server.seen.notes().len() == n).await;
        }
        assert!(server.seen.notes().iter().all(|note| *note == Reason::CANCEL.to_string()));
        assert_eq!(server.seen.ended.load(SeqCst), 0, "the connection is shared by others");
    });
}

#[test]
fn a_client_that_resets_an_upload_that_nobody_reads_cancels_its_stream() {
    let server = idle();
    let proxy = through(&server);
    run(async {
        for (n, path) in (1..).zip(["/", "/answered"]) {
            let client = connect(proxy.address).await;
            let (_response, mut out) = send(&client, request("POST", path), false).await;
            // More than all windows and buffers hold: the upload waits for the endpoint.
            let body = pattern(1_000_000);
            let filled = tokio::time::timeout(Duration::from_millis(500), send_all(&mut out, &body, true));
            assert!(filled.await.is_err(), "everything was read");
            out.send_reset(Reason::CANCEL);
            let noticed =
                tokio::time::timeout(Duration::from_secs(5), until(|| server.seen.notes().len() == n));
            noticed.await.expect(path);
        }
    });
}
