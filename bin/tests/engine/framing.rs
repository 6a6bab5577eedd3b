//! Heads and bodies of every form: kept connections, pipelining, codings, versions, Expect and 1xx.

use std::time::Duration;

use crate::origin::{Origin, Setting, Site};
use crate::wire::{End, get, post};

/// Answers each request with these bytes.
fn always(answer: &'static str) -> Origin {
    Origin::start(move |conn| while conn.request().is_some() && conn.wire.send(answer) {})
}

/// Answers once with these bytes and ends.
fn once(answer: &'static str) -> Origin {
    Origin::start(move |conn| {
        let _ = conn.request();
        conn.wire.send(answer);
    })
}

#[test]
fn a_connection_carries_many_requests_and_so_does_the_endpoints() {
    let origin = Origin::plain();
    let site = Site::plain(&origin);
    let mut client = site.client();
    for number in 0..50 {
        let path = format!("/{number}");
        assert_eq!(client.get(&path).text(), path);
    }
    assert_eq!(origin.see(|seen| seen.opened), 1);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let origin = Origin::plain();
    let site = Site::plain(&origin);
    let mut client = site.client();
    let mut all = String::new();
    for number in 0..10 {
        all += &match number % 3 {
            0 => get(&format!("/{number}")),
            1 => post(&format!("/{number}"), &"b".repeat(number * 100)),
            _ => format!(
                "PUT /{number} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n{number}\r\n{}\r\n0\r\n\r\n",
                "d".repeat(number)
            ),
        };
    }
    client.send(all);
    for number in 0..10 {
        let expected = match number % 3 {
            0 => format!("/{number}"),
            1 => format!("/{number} {}", number * 100),
            _ => format!("/{number} {}", number + 3),
        };
        assert_eq!(client.response("GET").text(), expected);
    }
}

#[test]
fn bodies_of_gets_are_forwarded() {
    let origin = Origin::plain();
    let site = Site::plain(&origin);
    let mut client = site.client();
    client.send(post("/1", "body").replace("POST", "GET") + &get("/2"));
    assert_eq!(client.response("GET").text(), "/1 4");
    assert_eq!(client.response("GET").text(), "/2");
}

#[test]
fn requests_pipelined_behind_a_long_upload_are_served_after_it() {
    const LENGTH: usize = 3_000_000;
    let origin = Origin::start(|conn| {
        while let Some(head) = conn.head() {
            let length = head.value("content-length").map_or(0, |length| length.parse().unwrap());
            if conn.wire.expect_pattern(0, length).is_none() || !conn.answer(head.target()) {
                return;
            }
        }
    });
    let site = Site::plain(&origin);
    let mut client = site.client();
    let mut reader = client.split();
    let writer = std::thread::spawn(move || {
        client.send(format!("POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: {LENGTH}\r\n\r\n"));
        client.send_pattern(0, LENGTH);
        client.send((0..400).map(|number| get(&format!("/{number}"))).collect::<String>());
        client
    });
    assert_eq!(reader.response("POST").text(), "/up");
    for number in 0..400 {
        assert_eq!(reader.response("GET").text(), format!("/{number}"));
    }
    drop(writer.join().unwrap());
}

#[test]
fn head_204_and_304_have_no_body_and_keep_the_connection() {
    let origin = Origin::start(|conn| {
        while let Some(request) = conn.request() {
            let line = match request.head.target() {
                "/204" => "204 No Content\r\n",
                "/304" => "304 Not Modified\r\nContent-Length: 9\r\n",
                "/chunked" => "200 OK\r\nTransfer-Encoding: chunked\r\n",
                _ => "200 OK\r\nContent-Length: 9\r\n",
            };
            conn.wire.send(format!("HTTP/1.1 {line}\r\n"));
        }
    });
    let site = Site::plain(&origin);
    let mut client = site.client();
    for (method, path, length) in [
        ("HEAD", "/", Some("9")),
        ("GET", "/204", None),
        ("GET", "/304", Some("9")),
        ("HEAD", "/chunked", None),
        ("HEAD", "/204", None),
    ] {
        client.send(format!("{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let answer = client.response(method);
        assert_eq!(answer.head.value("content-length"), length, "{method} {path}");
        assert!(!answer.head.closes());
    }
    assert_eq!(origin.see(|seen| seen.opened), 1);
}

#[test]
fn trailers_pass_both_ways_for_those_who_accept_them() {
    let origin = Origin::start(|conn| {
        while let Some(request) = conn.request() {
            conn.note(format!("{} {}", request.text(), request.trailers.trim()));
            conn.wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Down\r\n\r\n2\r\nhi\r\n0\r\nX-Down: d\r\n\r\n");
        }
    });
    let site = Site::plain(&origin);
    let mut client = site.client();
    let request = |fields: &str| {
        format!(
            "POST / HTTP/1.1\r\nHost: a\r\n{fields}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1;x=y\r\nd\r\n0\r\nX-Up: u\r\n\r\n"
        )
    };
    client.send(request("TE: trailers\r\nConnection: TE\r\n"));
    let answer = client.response("POST");
    assert_eq!((answer.text().as_str(), answer.trailers.as_str()), ("hi", "X-Down: d\r\n"));
    client.send(request(""));
    let answer = client.response("POST");
    assert_eq!((answer.text().as_str(), answer.trailers.as_str()), ("hi", ""));
    assert_eq!(origin.see(|seen| seen.notes.clone()), ["abcd X-Up: u", "abcd "]);
}

#[test]
fn a_body_that_ends_with_the_connection_becomes_chunked() {
    let origin = once("HTTP/1.0 200 OK\r\n\r\nuntil the end");
    let site = Site::plain(&origin);
    let mut client = site.client();
    for _ in 0..2 {
        let answer = client.get("/");
        assert_eq!(answer.text(), "until the end");
        assert_eq!(answer.head.value("transfer-encoding"), Some("chunked"));
        assert!(!answer.head.closes());
    }
}

#[test]
fn http10_connections_end_unless_asked_to_be_kept() {
    let origin = Origin::plain();
    let site = Site::plain(&origin);
    let mut client = site.client();
    for path in ["/1", "/2"] {
        client.send(format!("GET {path} HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n"));
        let answer = client.response("GET");
        assert_eq!(answer.text(), path);
        assert_eq!(answer.head.value("connection"), Some("keep-alive"));
    }
    client.send("GET /3 HTTP/1.0\r\nHost: a\r\n\r\n");
    let answer = client.response("GET");
    assert_eq!((answer.text().as_str(), answer.head.closes()), ("/3", true));
    assert_eq!(client.end(), End::Fin);
}

#[test]
fn http10_clients_get_chunked_bodies_plain_and_no_informational_responses() {
    let origin = always(
        "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n4\r\nthis\r\n0\r\n\r\n",
    );
    let site = Site::plain(&origin);
    let mut client = site.client();
    client.send("GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n");
    let answer = client.response("GET");
    assert_eq!((answer.head.status(), answer.text().as_str()), (200, "hithis"));
    assert!(answer.head.closes() && answer.head.value("transfer-encoding").is_none());
}

#[test]
fn absolute_form_is_forwarded_in_origin_form() {
    let origin = Origin::plain();
    let site = Site::plain(&origin);
    let mut client = site.client();
    client.send("GET http://a/path?q=1 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response("GET").text(), "/path?q=1");
    assert_eq!(client.get("/next").text(), "/next");
}

#[test]
fn every_informational_response_is_relayed() {
    let origin = always(
        "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
    );
    let site = Site::plain(&origin);
    let mut client = site.client();
    for _ in 0..3 {
        client.send(get("/"));
        let statuses: Vec<u16> = (0..3).map(|_| client.response("GET").head.status()).collect();
        assert_eq!(statuses, [102, 103, 200]);
    }
    assert_eq!(origin.see(|seen| seen.opened), 1);
}

const EXPECT: &str = "POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";

#[test]
fn a_body_waits_for_the_endpoints_100() {
    let origin = Origin::start(|conn| {
        while let Some(head) = conn.head() {
            assert!(conn.wire.is_silent_for(Duration::from_millis(50)), "body before 100");
            conn.wire.send("HTTP/1.1 100 Continue\r\n\r\n");
            let Some(request) = conn.wire.body(head, "") else { return };
            conn.answer(&request.text());
        }
    });
    let site = Site::plain(&origin);
    let mut client = site.client();
    for _ in 0..2 {
        client.send(EXPECT);
        assert_eq!(client.response("POST").head.status(), 100);
        client.send("hello");
        assert_eq!(client.response("POST").text(), "hello");
    }
    assert_eq!(origin.see(|seen| seen.opened), 1);
}

#[test]
fn an_endpoint_that_never_says_100_gets_the_body_all_the_same() {
    let origin = Origin::plain();
    let site = Site::plain(&origin);
    let mut client = site.client();
    client.send(EXPECT);
    client.send("hello");
    assert_eq!(client.response("POST").text(), "/up 5");
}

#[test]
fn a_refusal_instead_of_100_ends_both_connections() {
    let origin = Origin::start(|conn| {
        if conn.head().is_some() {
            conn.wire.send("HTTP/1.1 413 No\r\nContent-Length: 2\r\n\r\nno");
            conn.wire.end();
        }
    });
    let site = Site::plain(&origin);
    let mut client = site.client();
    client.send(EXPECT);
    let answer = client.response("POST");
    assert_eq!((answer.head.status(), answer.head.closes()), (413, true));
    origin.wait("the end of the endpoint's connection", |seen| seen.ended == 1);
    client.send("hello");
    client.end();
    assert_eq!(origin.lines().len(), 1);
}

#[test]
fn an_early_answer_reaches_a_client_that_is_still_sending() {
    let origin = Origin::start(|conn| {
        if conn.head().is_some() {
            conn.answer("enough");
            conn.wire.end();
        }
    });
    let site = Site::plain(&origin);
    let mut client = site.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 50000000\r\n\r\n");
    let mut writer = client.split();
    let writer = std::thread::spawn(move || writer.send_pattern(0, 50_000_000));
    let answer = client.response("POST");
    assert_eq!((answer.text().as_str(), answer.head.closes()), ("enough", true));
    client.end();
    assert!(!writer.join().unwrap(), "the whole upload was taken");
}

#[test]
fn a_local_answer_reaches_a_client_that_is_still_sending() {
    let origin = Origin::plain();
    let site = Site::start(Setting { route: "hosts: a", ..Setting::default() }, &[&origin]);
    let mut client = site.client();
    client.send("POST / HTTP/1.1\r\nHost: other\r\nContent-Length: 200000\r\n\r\n");
    client.send_pattern(0, 200_000);
    let answer = client.response("POST");
    assert_eq!((answer.head.status(), answer.head.closes()), (404, true));
    assert_eq!(client.end(), End::Fin);
}

#[test]
fn a_local_answer_keeps_the_connection_if_the_body_is_there() {
    let origin = Origin::plain();
    let site = Site::start(Setting { route: "hosts: a", ..Setting::default() }, &[&origin]);
    let mut client = site.client();
    client.send(post("/", "abc").replace("Host: a", "Host: b") + &get("/next"));
    assert_eq!(client.response("POST").head.status(), 404);
    assert_eq!(client.response("GET").text(), "/next");
}

#[test]
fn a_half_closed_client_gets_every_answer() {
    let origin = Origin::plain();
    let site = Site::plain(&origin);
    let mut client = site.client();
    client.send(get("/1") + &post("/2", "abc") + &get("/3"));
    client.fin();
    for expected in ["/1", "/2 3", "/3"] {
        assert_eq!(client.response("GET").text(), expected);
    }
    assert_eq!(client.end(), End::Fin);
}

#[test]
fn bytes_after_a_response_cost_the_endpoint_its_connection_only() {
    let origin = Origin::start(|conn| {
        while conn.request().is_some() {
            conn.wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil");
        }
    });
    let site = Site::plain(&origin);
    let mut client = site.client();
    for _ in 0..5 {
        assert_eq!(client.get("/").text(), "ok");
    }
    assert_eq!(origin.see(|seen| seen.opened), 5);
}

#[test]
fn an_endpoint_that_closes_as_it_says_is_not_reused() {
    let origin = once("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
    let site = Site::plain(&origin);
    let mut client = site.client();
    for _ in 0..20 {
        assert_eq!(client.get("/").text(), "ok");
    }
    assert_eq!(origin.see(|seen| seen.opened), 20);
}
