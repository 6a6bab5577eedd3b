//! Requests and responses through the gateway: HTTP/2 in front, HTTP/1.1 behind.

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, Request};

use crate::client::{connect, fetch, get, read, request, run, send, send_all};
use crate::common::eventually;
use crate::origin::{Origin, Setting, Site, ok};
use crate::wire::pattern;

#[test]
fn a_request_is_written_as_http_1_1() {
    let origin = Origin::plain();
    let site = Site::plain(&origin);
    run(async {
        let client = connect(site.http).await;
        let mut asked = get("/a/%7eb?q=1");
        asked.headers_mut().insert("accept", "*/*".parse().unwrap());
        asked.headers_mut().append("cookie", "a=1".parse().unwrap());
        asked.headers_mut().append("cookie", "b=2".parse().unwrap());
        asked.headers_mut().insert("x-forwarded-for", "203.0.113.9".parse().unwrap());
        let got = fetch(&client, asked).await.unwrap();
        assert_eq!((got.status(), got.text().as_str()), (200, "/a/~b?q=1"));
    });
    let head = origin.see(|seen| seen.heads[0].1.clone());
    assert_eq!(head.line(), "GET /a/~b?q=1 HTTP/1.1");
    assert_eq!(head.values("host"), ["a"]);
    assert_eq!(head.values("cookie"), ["a=1; b=2"]);
    assert_eq!(head.values("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(head.values("x-forwarded-proto"), ["http"]);
    assert!(head.values("transfer-encoding").is_empty() && head.values("content-length").is_empty());
    assert!(head.values("connection").is_empty());
    site.wait_for_metric("sluicegate_requests_total", &["reason=\"Forwarded\""], 1.0);
}

#[test]
fn bodies_are_exact_with_and_without_a_length() {
    const LENGTH: usize = 3_000_000;
    let origin = Origin::start(|conn| {
        while let Some(request) = conn.request() {
            assert!(
                (0..LENGTH).step_by(50_000).all(|at| request.body[at..at + 50_000] == *pattern(at, 50_000))
            );
            conn.wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n"));
            conn.wire.send(&request.body);
        }
    });
    let site = Site::plain(&origin);
    let body: Vec<u8> = (0..LENGTH).step_by(50_000).flat_map(|at| pattern(at, 50_000).to_vec()).collect();
    run(async {
        let client = connect(site.http).await;
        for method in ["POST", "GET"] {
            for length in [None, Some(LENGTH)] {
                let mut asked = request(method, "/");
                if let Some(length) = length {
                    asked.headers_mut().insert("content-length", length.into());
                }
                let (response, mut stream) = send(&client, asked, false).await;
                send_all(&mut stream, &body, true).await.unwrap();
                let got = read(response).await.unwrap();
                assert!(got.body == body);
                assert_eq!(got.head.headers()["content-length"], LENGTH.to_string());
            }
        }
    });
    let framed: Vec<bool> = origin
        .see(|seen| seen.heads.iter().map(|(_, head)| head.value("content-length").is_some()).collect());
    assert_eq!(framed, [false, true, false, true]);
}

#[test]
fn a_post_that_ends_with_its_head_has_length_0() {
    let origin = Origin::plain();
    let site = Site::plain(&origin);
    run(async {
        let client = connect(site.http).await;
        fetch(&client, request("POST", "/")).await.unwrap();
        // The end comes by itself.
        let (response, mut stream) = send(&client, request("POST", "/"), false).await;
        stream.send_data(Bytes::new(), true).unwrap();
        assert_eq!(read(response).await.unwrap().status(), 200);
    });
    assert_eq!(origin.see(|seen| seen.heads[0].1.values("content-length").join(",")), "0");
}

#[test]
fn trailers_pass_in_both_directions() {
    let origin = Origin::start(|conn| {
        while let Some(request) = conn.request() {
            conn.note(request.trailers);
            conn.wire.send(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 5\r\ncontent-length: 9\r\n\r\n",
            );
        }
    });
    let site = Site::plain(&origin);
    run(async {
        let client = connect(site.http).await;
        let (response, mut stream) = send(&client, request("POST", "/"), false).await;
        stream.send_data(Bytes::from_static(b"body"), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-up", "1".parse().unwrap());
        trailers.insert("transfer-encoding", "chunked".parse().unwrap());
        trailers.insert("authorization", "no".parse().unwrap());
        trailers.remove("transfer-encoding");
        stream.send_trailers(trailers).unwrap();
        let got = read(response).await.unwrap();
        assert_eq!(got.text(), "hello");
        let trailers = got.trailers.unwrap();
        assert_eq!((trailers.len(), &trailers["x-sum"]), (1, &"5".parse().unwrap()));
        // With a length there is no place for them in HTTP/1.1.
        let mut asked = request("POST", "/");
        asked.headers_mut().insert("content-length", 4.into());
        let (response, mut stream) = send(&client, asked, false).await;
        stream.send_data(Bytes::from_static(b"body"), false).unwrap();
        stream
            .send_trailers(HeaderMap::from_iter([("x-up".parse().unwrap(), "1".parse().unwrap())]))
            .unwrap();
        assert_eq!(read(response).await.unwrap().status(), 200);
    });
    assert_eq!(origin.see(|seen| seen.notes.clone()), ["x-up: 1\r\n", ""]);
}

#[test]
fn responses_without_body_keep_their_length() {
    let origin = Origin::start(|conn| {
        while let Some(head) = conn.head() {
            conn.wire.send(match head.target() {
                "/304" => "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\nETag: \"x\"\r\n\r\n",
                "/204" => "HTTP/1.1 204 No Content\r\n\r\n",
                _ => "HTTP/1.1 200 OK\r\nContent-Length: 12\r\nConnection: keep-alive\r\n\r\n",
            });
        }
    });
    let site = Site::plain(&origin);
    run(async {
        let client = connect(site.http).await;
        let head = fetch(&client, request("HEAD", "/")).await.unwrap();
        assert_eq!((head.status(), head.head.headers()["content-length"].as_bytes()), (200, &b"12"[..]));
        assert!(!head.head.headers().contains_key("connection"));
        assert_eq!(fetch(&client, get("/304")).await.unwrap().head.headers()["etag"], "\"x\"");
        assert_eq!(fetch(&client, get("/204")).await.unwrap().status(), 204);
    });
    assert_eq!(origin.see(|seen| seen.opened), 1);
}

#[test]
fn informational_responses_pass() {
    let origin = Origin::start(|conn| {
        while let Some(head) = conn.head() {
            conn.wire.send("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n");
            if head.value("expect").is_some() {
                conn.wire.send("HTTP/1.1 100 Continue\r\n\r\n");
            }
            conn.wire.body(head, "");
            conn.answer("done");
        }
    });
    let site = Site::plain(&origin);
    run(async {
        let client = connect(site.http).await;
        let mut asked = request("POST", "/");
        asked.headers_mut().insert("expect", "100-continue".parse().unwrap());
        let (mut response, mut stream) = send(&client, asked, false).await;
        let first = std::future::poll_fn(|cx| response.poll_informational(cx)).await.unwrap().unwrap();
        assert_eq!((first.status().as_u16(), &first.headers()["link"]), (103, &"</x>".parse().unwrap()));
        let second = std::future::poll_fn(|cx| response.poll_informational(cx)).await.unwrap().unwrap();
        assert_eq!(second.status().as_u16(), 100);
        stream.send_data(Bytes::from_static(b"body"), true).unwrap();
        assert_eq!(read(response).await.unwrap().text(), "done");
    });
}

#[test]
fn a_response_cut_short_is_a_reset() {
    let origin = Origin::start(|conn| {
        let head = conn.head().unwrap();
        conn.wire.send(match head.target() {
            "/length" => "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
            _ => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        });
    });
    let site = Site::plain(&origin);
    run(async {
        let client = connect(site.http).await;
        for path in ["/length", "/chunked"] {
            let error = fetch(&client, get(path)).await.unwrap_err();
            assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR), "{error}");
        }
    });
    site.wait_for_metric("sluicegate_requests_total", &["ResponseTruncated"], 2.0);
}

#[test]
fn an_early_response_is_whole_and_ends_the_upload_without_error() {
    let origin = Origin::start(|conn| {
        let _ = conn.head();
        conn.wire.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig");
        let _ = conn.wire.some(1);
    });
    let site = Site::plain(&origin);
    run(async {
        let client = connect(site.http).await;
        let (response, mut stream) = send(&client, request("POST", "/"), false).await;
        stream.send_data(Bytes::from_static(b"begin"), false).unwrap();
        let got = read(response).await.unwrap();
        assert_eq!((got.status(), got.text().as_str()), (413, "big"));
        let reason = std::future::poll_fn(|cx| stream.poll_reset(cx)).await.unwrap();
        assert_eq!(reason, Reason::NO_ERROR);
    });
}

#[test]
fn a_reset_cancels_the_request_at_once() {
    let origin = Origin::start(|conn| {
        let Some(head) = conn.head() else { return };
        if head.target() == "/body" {
            conn.wire.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
        }
        // Answers no more; ends when the gateway does.
        let _ = conn.wire.end();
    });
    let site = Site::plain(&origin);
    run(async {
        let client = connect(site.http).await;
        let (response, mut stream) = send(&client, get("/wait"), true).await;
        until(|| origin.see(|seen| seen.heads.len() == 1)).await;
        stream.send_reset(Reason::CANCEL);
        drop(response);
        until(|| origin.see(|seen| seen.ended == 1)).await;
        // The same while the response is under way, and while the upload is.
        let (response, mut stream) = send(&client, get("/body"), true).await;
        let mut body = response.await.unwrap().into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "half");
        stream.send_reset(Reason::CANCEL);
        until(|| origin.see(|seen| seen.ended == 2)).await;
        let (_response, mut stream) = send(&client, request("POST", "/up"), false).await;
        stream.send_data(Bytes::from_static(b"part"), false).unwrap();
        until(|| origin.see(|seen| seen.heads.len() == 3)).await;
        stream.send_reset(Reason::CANCEL);
        until(|| origin.see(|seen| seen.ended == 3)).await;
    });
    site.wait_for_metric("sluicegate_endpoint_in_flight", &[], 0.0);
    site.wait_for_metric("sluicegate_requests_total", &["ClientGone"], 3.0);
}

/// Waits while the connection goes on.
async fn until(is_so: impl Fn() -> bool) {
    while !is_so() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[test]
fn the_gateways_own_answers_are_the_same() {
    let origin = Origin::plain();
    let setting = Setting { route: "hosts: a, path: /only", ..Setting::default() };
    let site = Site::start(setting, &[&origin]);
    run(async {
        let client = connect(site.http).await;
        let got = fetch(&client, get("/other")).await.unwrap();
        assert_eq!((got.status(), got.text().as_str()), (404, "NoRoute\n"));
        assert!(!got.head.headers().contains_key("connection"));
        let options = Request::options("http://a/*").body(()).unwrap();
        assert_eq!(fetch(&client, options).await.unwrap().status(), 404);
        // A body that nobody reads does not hold up the answer.
        let (response, mut stream) = send(&client, request("POST", "/other"), false).await;
        stream.send_data(Bytes::from_static(b"unread"), false).unwrap();
        assert_eq!(read(response).await.unwrap().status(), 404);
        origin.stop();
        assert_eq!(fetch(&client, get("/only")).await.unwrap().status(), 503);
    });
}

#[test]
fn a_request_is_retried_on_another_endpoint() {
    let broken = Origin::start(|conn| {
        let _ = conn.request();
    });
    let good = Origin::plain();
    let site =
        Site::start(Setting { backend: "balance: round-robin", ..Setting::default() }, &[&broken, &good]);
    run(async {
        let client = connect(site.http).await;
        for _ in 0..4 {
            assert_eq!(fetch(&client, get("/")).await.unwrap().status(), 200);
        }
    });
}

#[test]
fn the_access_log_names_the_version() {
    let origin = Origin::start(|conn| {
        while conn.request().is_some() {
            conn.wire.send(ok("x"));
        }
    });
    let site = Site::start(Setting { flags: &["--access-log", "json"], ..Setting::default() }, &[&origin]);
    run(async {
        let client = connect(site.http).await;
        fetch(&client, get("/seen")).await.unwrap();
    });
    eventually("the line", || {
        site.gateway.log().contains(r#""path":"/seen","http.version":"2.0","status":200"#)
    });
}
