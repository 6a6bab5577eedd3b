//! Rows in which client and backend take turns.

use std::time::Duration;

use crate::backend::{End as BackendEnd, OK, Step};
use crate::case::{Outcome, expect_end, expect_refusal, post, post_chunked, with_fields};
use crate::client::{Client, End};
use crate::forwarding::WEBSOCKET;
use crate::gateway::{Marks, Setup};
use crate::wire::{self, Request};

pub(crate) type Scenario = fn(&Setup) -> Result<(), String>;

/// How long something must not happen before we believe that it does not.
const MOMENT: Duration = Duration::from_millis(120);

const ACCEPTED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Runs each scenario and clears away what it left.
pub(crate) fn run(setup: &Setup, scenarios: &[(&str, Scenario)]) -> Vec<Outcome> {
    let one = |(id, scenario): &(&str, Scenario)| {
        let result = scenario(setup);
        setup.clear();
        let flushed = setup.sentinel().map(|_| ());
        ((*id).to_owned(), result.and(flushed))
    };
    scenarios.iter().map(one).collect()
}

fn websocket_request() -> Vec<u8> {
    with_fields(format!("Connection: Upgrade\r\n{WEBSOCKET}"))
}

fn send(bytes: impl AsRef<[u8]>) -> Step {
    Step::Send(bytes.as_ref().to_vec())
}

/// Every whole request that arrived, in order of connections.
fn requests(setup: &Setup, marks: &Marks) -> Result<Vec<Request>, String> {
    let mut all = Vec::new();
    for (_, received) in setup.since(marks) {
        if let Some(why) = received.invalid {
            return Err(format!("backend got an invalid request: {why}"));
        }
        all.extend(received.requests);
    }
    Ok(all)
}

pub(crate) fn only_request(setup: &Setup, marks: &Marks) -> Result<Request, String> {
    match &requests(setup, marks)?[..] {
        [request] => Ok(request.clone()),
        all => Err(format!("backend got {all:?}, wanted one request")),
    }
}

pub(crate) fn no_request(setup: &Setup, marks: &Marks) -> Result<(), String> {
    match &requests(setup, marks)?[..] {
        [] => Ok(()),
        all => Err(format!("backend got {all:?}, wanted no whole request")),
    }
}

pub(crate) fn expect_status(client: &mut Client, status: u16) -> Result<wire::Head, String> {
    let head = client.read_response("GET")?.head;
    if head.status() == status { Ok(head) } else { Err(format!("answered {:?}, wanted {status}", head.line)) }
}

/// The connection that served what came after `marks` is not used again.
fn not_reused(setup: &Setup, marks: &Marks) -> Result<(), String> {
    let used: Vec<usize> = setup.since(marks).iter().map(|(_, received)| received.connection).collect();
    let next = setup.sentinel()?;
    if used.contains(&next) { Err("connection to the backend is used again".into()) } else { Ok(()) }
}

pub(crate) const BODIES: &[(&str, Scenario)] = &[
    ("Q61", |setup| {
        // A body cut short never looks whole to the backend.
        let marks = setup.marks();
        let mut client = setup.client();
        client.send(&post("Content-Length: 10\r\n", "hello"));
        setup.main.script(vec![Step::ReadToEnd]);
        client.fin();
        client.read_to_end();
        if client.end == End::Open {
            return Err("connection stays open".into());
        }
        setup.await_aborts(&marks)?;
        setup.clear();
        setup.sentinel()?;
        no_request(setup, &marks)
    }),
    ("Q63.length", |setup| {
        // Nothing of a body that the gateway did not want is ever a request.
        let marks = setup.marks();
        let inner = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
        let mut client = setup.client();
        let fields =
            format!("POST /none HTTP/1.1\r\nHost: b\r\nContent-Length: {}\r\n\r\n{inner}", inner.len());
        client.send(fields.as_bytes());
        expect_status(&mut client, 404)?;
        client.fin();
        expect_end(&mut client)?;
        setup.sentinel()?;
        no_request(setup, &marks)
    }),
    ("Q63.chunked", |setup| {
        let marks = setup.marks();
        let inner = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
        let mut client = setup.client();
        let head = "GET /none HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\n";
        client.send(format!("{head}{:x}\r\n{inner}\r\n0\r\n\r\n", inner.len()).as_bytes());
        expect_status(&mut client, 404)?;
        client.fin();
        expect_end(&mut client)?;
        setup.sentinel()?;
        no_request(setup, &marks)
    }),
    ("Q63.unread", |setup| {
        // More body than the gateway drains: the connection ends.
        let marks = setup.marks();
        let mut client = setup.client();
        client.send(
            b"POST /none HTTP/1.1\r\nHost: b\r\nContent-Length: 100000000\r\n\r\nGET /smuggled HTTP/1.1\r\n",
        );
        expect_status(&mut client, 404)?;
        expect_end(&mut client)?;
        setup.sentinel()?;
        no_request(setup, &marks)
    }),
    ("Q89", |setup| {
        let bytes = post_chunked("5\r\nhello\r\n0\r\n\r\n");
        for cut in 1..bytes.len() {
            let marks = setup.marks();
            let mut client = setup.client();
            client.send(&bytes[..cut]);
            setup.sentinel()?;
            client.send(&bytes[cut..]);
            expect_status(&mut client, 200).map_err(|why| format!("cut at {cut}: {why}"))?;
            let request = only_request(setup, &marks)?;
            if request.body.bytes != b"hello" {
                return Err(format!("cut at {cut}: backend got {:?}", request.body));
            }
        }
        Ok(())
    }),
    ("Q101", |setup| {
        // Without a last chunk from the client, the backend gets none either.
        let marks = setup.marks();
        let mut client = setup.client();
        client.send(&post_chunked("5\r\nhello\r\n"));
        client.fin();
        client.read_to_end();
        if client.end == End::Open {
            return Err("connection stays open".into());
        }
        setup.await_aborts(&marks)?;
        setup.sentinel()?;
        no_request(setup, &marks)
    }),
    ("Q107", |setup| {
        // A chunk is announced when its bytes are in hand, not when the client announces it.
        let marks = setup.marks();
        setup.main.script(vec![Step::ReadAtLeast(15), Step::Wait, Step::Close]);
        let mut client = setup.client();
        client.send(&post_chunked("10000\r\n0123456789"));
        setup.main.await_wait()?;
        let received = setup.since(&marks);
        setup.main.go_on();
        let [(_, received)] = &received[..] else { return Err(format!("backends got {received:?}")) };
        let head = wire::head_end(&received.rest).ok_or("backend got no head")?;
        let body = &received.rest[head..];
        if body != b"a\r\n0123456789\r\n" {
            return Err(format!("backend got {}", body.escape_ascii()));
        }
        Ok(())
    }),
];

/// P21 and the redirect of Q63.
pub(crate) const REDIRECTS: &[(&str, Scenario)] = &[
    ("P21.plain", |setup| redirects(setup, "/a/../b?c", "https://r/b?c")),
    ("P21.slashes", |setup| redirects(setup, "//evil.example/", "https://r//evil.example/")),
    ("P21.line-break", |setup| redirects(setup, "/%0d%0aX:1", "https://r/%0D%0AX:1")),
    ("P21.quotes", |setup| redirects(setup, "/\"><script>", "https://r/%22%3E%3Cscript%3E")),
    ("Q63.redirect", |setup| {
        let marks = setup.marks();
        let inner = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
        let mut client = setup.client();
        let head = format!("POST / HTTP/1.1\r\nHost: r\r\nContent-Length: {}\r\n\r\n{inner}", inner.len());
        client.send(head.as_bytes());
        expect_status(&mut client, 308)?;
        client.fin();
        expect_end(&mut client)?;
        setup.sentinel()?;
        no_request(setup, &marks)
    }),
];

fn redirects(setup: &Setup, path: &str, location: &str) -> Result<(), String> {
    let mut client = setup.client();
    client.send(format!("GET {path} HTTP/1.1\r\nHost: r\r\n\r\n").as_bytes());
    let head = expect_status(&mut client, 308)?;
    match head.value("location") {
        Some(got) if got == location => Ok(()),
        got => Err(format!("redirects to {got:?}, wanted {location:?}")),
    }
}

pub(crate) const EXPECT: &[(&str, Scenario)] = &[
    ("E12", |setup| {
        let marks = setup.marks();
        setup.main.script(vec![send("HTTP/1.1 100 Continue\r\n\r\n"), Step::ReadBody, send(OK)]);
        let mut client = setup.client();
        client.send(&post("Expect: 100-continue\r\nContent-Length: 5\r\n", ""));
        let head = client.read_head()?;
        if head.status() != 100 {
            return Err(format!("answered {:?}, wanted 100", head.line));
        }
        client.send(b"hello");
        expect_status(&mut client, 200)?;
        let request = only_request(setup, &marks)?;
        match (request.head.value("expect"), &request.body.bytes[..]) {
            (Some("100-continue"), b"hello") => Ok(()),
            _ => Err(format!("backend got {request:?}")),
        }
    }),
    ("E13.length", |setup| {
        final_instead_of_100(setup, &post("Expect: 100-continue\r\nContent-Length: 5\r\n", ""))
    }),
    ("E13.chunked", |setup| {
        final_instead_of_100(setup, &post("Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n", ""))
    }),
    ("E14", |setup| {
        let marks = setup.marks();
        let mut client = setup.client();
        let mut bytes = post("Expect: 100-continue\r\nContent-Length: 5\r\n", "hello");
        bytes.extend(b"GET /second HTTP/1.1\r\nHost: a\r\n\r\n");
        client.send(&bytes);
        let mut head = client.read_head()?;
        if head.status() == 100 {
            head = client.read_head()?;
        }
        let first = client.read_body(head, "POST")?;
        if first.head.status() != 200 {
            return Err(format!("answered {:?}", first.head.line));
        }
        expect_status(&mut client, 200)?;
        match &requests(setup, &marks)?[..] {
            [first, second] if first.body.bytes == b"hello" && second.head.line.contains("/second") => Ok(()),
            all => Err(format!("backend got {all:?}")),
        }
    }),
    ("S28", |setup| {
        // An answer before the end of the upload is relayed, and neither connection is used again.
        let marks = setup.marks();
        setup.main.script(vec![
            send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno"),
            Step::ReadToEnd,
        ]);
        let mut client = setup.client();
        client.send(&post("Content-Length: 1000000\r\n", "0123456789"));
        expect_status(&mut client, 413)?;
        expect_end(&mut client)?;
        setup.await_aborts(&marks)?;
        setup.clear();
        not_reused(setup, &marks)
    }),
];

/// E13: the final answer is relayed, no body follows, and the backend's connection ends, because the backend may
/// still be waiting for the body.
fn final_instead_of_100(setup: &Setup, bytes: &[u8]) -> Result<(), String> {
    let marks = setup.marks();
    setup
        .main
        .script(vec![send("HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno"), Step::ReadToEnd]);
    let mut client = setup.client();
    client.send(bytes);
    expect_status(&mut client, 401)?;
    expect_end(&mut client)?;
    setup.await_aborts(&marks)?;
    setup.clear();
    not_reused(setup, &marks)
}

pub(crate) const UPGRADE: &[(&str, Scenario)] = &[
    ("E19", |setup| {
        let marks = setup.marks();
        setup.sentinel()?;
        setup.main.script(vec![Step::Listen(MOMENT), Step::Wait, send(ACCEPTED), Step::Echo]);
        let mut client = setup.client();
        client.send(&[&websocket_request(), &b"EARLY"[..]].concat());
        setup.main.await_wait()?;
        let early = setup.since(&marks);
        setup.main.go_on();
        if early.iter().any(|(_, received)| !received.rest.is_empty()) {
            return Err(format!("backend got bytes before its 101: {early:?}"));
        }
        let request = only_request(setup, &marks)?;
        for (name, value) in [("upgrade", "websocket"), ("sec-websocket-version", "13")] {
            if request.head.value(name) != Some(value) {
                return Err(format!("backend got {:?}", request.head));
            }
        }
        if !request.head.value("connection").is_some_and(|value| value.eq_ignore_ascii_case("upgrade")) {
            return Err(format!("backend got {:?}", request.head));
        }
        let head = client.read_head()?;
        if head.status() != 101 || head.value("sec-websocket-accept").is_none() {
            return Err(format!("answered {head:?}"));
        }
        let echoed = client.read_exactly(5)?;
        client.send(b"more");
        if echoed != b"EARLY" || client.read_exactly(4)? != b"more" {
            return Err("the tunnel changes bytes".into());
        }
        client.fin();
        expect_end(&mut client)?;
        not_reused(setup, &marks)
    }),
    ("E20.next", |setup| {
        // A refused upgrade is a normal response; what follows is HTTP.
        let marks = setup.marks();
        let mut client = setup.client();
        client.send(&websocket_request());
        expect_status(&mut client, 200)?;
        not_reused(setup, &marks)?;
        client.send(b"GET /second HTTP/1.1\r\nHost: a\r\n\r\n");
        client.fin();
        client.read_to_end();
        match client.buffer.is_empty() || client.buffer.starts_with(b"HTTP/1.1 200 ") {
            true => Ok(()),
            false => Err(format!("then: {}", client.shown())),
        }
    }),
    ("E20.garbage", |setup| {
        let marks = setup.marks();
        let mut client = setup.client();
        client.send(&[&websocket_request(), &b"\x81\x05hello\r\n\r\n"[..]].concat());
        expect_status(&mut client, 200)?;
        if client.read_to_end() == End::Open {
            return Err("connection stays open".into());
        }
        if !client.buffer.is_empty() && !client.buffer.starts_with(b"HTTP/1.1 400 ") {
            return Err(format!("then: {}", client.shown()));
        }
        not_reused(setup, &marks)?;
        only_request(setup, &marks).map(|_| ())
    }),
    ("E21.length", |setup| upgrade_with_body(setup, "Content-Length: 5\r\n", "hello")),
    ("E21.chunked", |setup| {
        upgrade_with_body(setup, "Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n")
    }),
    ("E25.version-header", |setup| {
        let bytes = String::from_utf8(websocket_request()).unwrap().replace("Version: 13", "Version: 8");
        let mut client = setup.client();
        client.send(bytes.as_bytes());
        let head = expect_status(&mut client, 426)?;
        match head.value("sec-websocket-version") {
            Some("13") => Ok(()),
            _ => Err(format!("answered {head:?}")),
        }
    }),
    ("E26.protocol", |setup| {
        bad_switch(setup, &websocket_request(), &ACCEPTED.replace("websocket", "other"))
    }),
    ("E26.none", |setup| {
        bad_switch(setup, &websocket_request(), &ACCEPTED.replace("Upgrade: websocket\r\n", ""))
    }),
    ("E26.accept", |setup| bad_switch(setup, &websocket_request(), &ACCEPTED.replace("s3pP", "AAAA"))),
    ("E26.unasked", |setup| bad_switch(setup, &with_fields(""), ACCEPTED)),
    ("E27.fin", |setup| {
        // Each direction of the tunnel ends by itself.
        let marks = setup.marks();
        setup.main.script(vec![
            send(ACCEPTED),
            send("one"),
            Step::Wait,
            send("two"),
            Step::Fin,
            Step::ReadToEnd,
        ]);
        let mut client = open_tunnel(setup)?;
        if client.read_exactly(3)? != b"one" {
            return Err("the tunnel changes bytes".into());
        }
        client.fin();
        setup.main.await_wait()?;
        setup.main.go_on();
        if client.read_exactly(3)? != b"two" {
            return Err("the tunnel changes bytes".into());
        }
        expect_end(&mut client)?;
        backend_sees(setup, &marks, BackendEnd::Fin)
    }),
    ("E27.reset-by-client", |setup| {
        let marks = setup.marks();
        setup.main.script(vec![send(ACCEPTED), Step::ReadToEnd]);
        let client = open_tunnel(setup)?;
        client.reset();
        backend_sees(setup, &marks, BackendEnd::Reset)
    }),
    ("E27.reset-by-backend", |setup| {
        setup.main.script(vec![send(ACCEPTED), Step::Wait, Step::Reset]);
        let mut client = open_tunnel(setup)?;
        setup.main.await_wait()?;
        setup.main.go_on();
        match client.read_to_end() {
            End::Reset => Ok(()),
            end => Err(format!("client sees {end:?}, wanted Reset")),
        }
    }),
];

fn open_tunnel(setup: &Setup) -> Result<Client, String> {
    let mut client = setup.client();
    client.send(&websocket_request());
    match client.read_head()? {
        head if head.status() == 101 => Ok(client),
        head => Err(format!("answered {:?}, wanted 101", head.line)),
    }
}

fn backend_sees(setup: &Setup, marks: &Marks, want: BackendEnd) -> Result<(), String> {
    setup.await_all_ends(marks)?;
    let ends: Vec<_> = setup.since(marks).iter().map(|(_, received)| received.end).collect();
    if ends == [Some(want)] { Ok(()) } else { Err(format!("backend sees {ends:?}, wanted {want:?}")) }
}

/// E21: refused, or the upgrade is ignored; never both a body and an upgrade.
fn upgrade_with_body(setup: &Setup, field: &str, body: &str) -> Result<(), String> {
    let marks = setup.marks();
    let mut client = setup.client();
    client.send(
        &[&with_fields(format!("Connection: Upgrade\r\n{WEBSOCKET}{field}"))[..], body.as_bytes()].concat(),
    );
    let head = client.read_response("GET")?.head;
    setup.sentinel()?;
    if head.status() == 400 {
        expect_end(&mut client)?;
        return no_request(setup, &marks);
    }
    let request = only_request(setup, &marks)?;
    match request.head.values("upgrade")[..] {
        [] => Ok(()),
        _ => Err(format!("backend got an upgrade with a body: {request:?}")),
    }
}

/// E26: a 101 that the client did not ask for in this form.
fn bad_switch(setup: &Setup, request: &[u8], response: &str) -> Result<(), String> {
    let marks = setup.marks();
    setup.main.script(vec![send(response), Step::ReadToEnd]);
    let mut client = setup.client();
    client.send(request);
    expect_status(&mut client, 502)?;
    setup.clear();
    not_reused(setup, &marks)
}

pub(crate) const RESPONSES: &[(&str, Scenario)] = &[
    ("S11", |setup| {
        // A reset in a body until the end of the connection is not its end.
        setup.main.script(vec![send("HTTP/1.1 200 OK\r\n\r\nhello"), Step::Wait, Step::Reset]);
        let mut client = setup.client();
        client.send(&with_fields(""));
        let head = client.read_head()?;
        client.read_exactly(10)?;
        setup.main.await_wait()?;
        setup.main.go_on();
        match client.read_body(head, "GET") {
            Err(_) if client.end != End::Open => Ok(()),
            other => Err(format!("client sees {other:?}, {:?}", client.end)),
        }
    }),
    ("S11.1.0", |setup| {
        setup.main.script(vec![send("HTTP/1.1 200 OK\r\n\r\nhello"), Step::Wait, Step::Reset]);
        let mut client = setup.client();
        client.send(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n");
        client.read_head()?;
        client.read_exactly(5)?;
        setup.main.await_wait()?;
        setup.main.go_on();
        match client.read_to_end() {
            End::Reset => Ok(()),
            end => Err(format!("client sees {end:?}, wanted Reset")),
        }
    }),
    ("S25", |setup| {
        // Bytes on an idle connection: it is not used again, and the next request does not notice.
        let marks = setup.marks();
        let junk = "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n";
        setup.main.script(vec![Step::ReadBody, send(OK), Step::Wait, send(junk), Step::Wait]);
        let mut client = setup.client();
        client.send(&with_fields(""));
        expect_status(&mut client, 200)?;
        setup.main.await_wait()?;
        setup.main.go_on();
        setup.main.await_wait()?;
        not_reused(setup, &marks)?;
        setup.main.go_on();
        Ok(())
    }),
    ("S25.fin", |setup| {
        let marks = setup.marks();
        setup.main.script(vec![Step::ReadBody, send(OK), Step::Wait, Step::Fin, Step::Wait]);
        let mut client = setup.client();
        client.send(&post("Content-Length: 1\r\n", "x"));
        expect_status(&mut client, 200)?;
        setup.main.await_wait()?;
        setup.main.go_on();
        setup.main.await_wait()?;
        not_reused(setup, &marks)?;
        setup.main.go_on();
        Ok(())
    }),
];

/// E11 for a client that is not trusted: whatever it sends is replaced.
pub(crate) const REQUEST_ID: &[(&str, Scenario)] = &[
    ("E11.long", |setup| new_request_id(setup, &"x".repeat(5_000))),
    ("E11.spaces", |setup| new_request_id(setup, "a b\tc")),
    ("E11.quote", |setup| new_request_id(setup, "\"},{\"x\":\"")),
];

/// The same for a trusted one, with `--trusted-proxy`.
pub(crate) const TRUSTED: &[(&str, Scenario)] = &[
    ("E06.trusted", |setup| {
        let head = forwarded(
            setup,
            "X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: shop\r\n",
        )?;
        has(&head, &[("x-forwarded-for", "1.2.3.4, 127.0.0.1"), ("x-real-ip", "1.2.3.4")])?;
        has(&head, &[("x-forwarded-proto", "https"), ("x-forwarded-host", "shop")])
    }),
    ("E06.walk", |setup| {
        // From the right, up to the first address that is not trusted.
        let head = forwarded(setup, "X-Forwarded-For: 6.6.6.6, 1.2.3.4, 127.9.9.9\r\n")?;
        has(&head, &[("x-real-ip", "1.2.3.4")])
    }),
    ("E07.many", |setup| {
        let head = forwarded(setup, &format!("X-Forwarded-For: {}\r\n", ["1.2.3.4"; 2_000].join(", ")))?;
        let hops = head.value("x-forwarded-for").unwrap_or_default().split(',').count();
        if hops <= 17 { Ok(()) } else { Err(format!("{hops} hops")) }
    }),
    ("E07.garbage", |setup| {
        let head = forwarded(setup, "X-Forwarded-For: ::1, \"<script>\"\r\n")?;
        match head.value("x-forwarded-for") {
            Some(hops) if !hops.contains('<') && hops.ends_with("127.0.0.1") => {
                has(&head, &[("x-real-ip", "127.0.0.1")])
            }
            _ => Err(format!("backend got {head:?}")),
        }
    }),
    ("E11.trusted", |setup| {
        has(&forwarded(setup, "X-Request-Id: abc-123\r\n")?, &[("x-request-id", "abc-123")])
    }),
    ("E11.trusted-long", |setup| new_request_id(setup, &"x".repeat(129))),
    ("E11.trusted-spaces", |setup| new_request_id(setup, "a b")),
];

/// The head that the backend gets for `GET /` with these fields.
fn forwarded(setup: &Setup, fields: &str) -> Result<wire::Head, String> {
    let marks = setup.marks();
    let mut client = setup.client();
    client.send(&with_fields(fields));
    expect_status(&mut client, 200)?;
    Ok(only_request(setup, &marks)?.head)
}

pub(crate) fn has(head: &wire::Head, fields: &[(&str, &str)]) -> Result<(), String> {
    for (name, value) in fields {
        if head.value(name) != Some(value) {
            return Err(format!("backend got {name}: {:?}, wanted {value:?}", head.values(name)));
        }
    }
    Ok(())
}

fn new_request_id(setup: &Setup, sent: &str) -> Result<(), String> {
    let head = forwarded(setup, &format!("X-Request-Id: {sent}\r\n"))?;
    let Some(id) = head.value("x-request-id") else {
        return Err(format!("backend got {:?}", head.values("x-request-id")));
    };
    let is_clean = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if id != sent && is_clean && (8..=128).contains(&id.len()) { Ok(()) } else { Err(format!("id {id:?}")) }
}

/// Q24 and Q60, with deadlines of a few hundred milliseconds.
pub(crate) const SLOW_CLIENTS: &[(&str, Scenario)] = &[
    ("Q24.stall", |setup| {
        let mut client = setup.client();
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n");
        expect_refusal(&mut client, &[408])
    }),
    ("Q24.dribble", |setup| {
        // The deadline is for the whole head, not for each read.
        let mut client = setup.client();
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\nX: ");
        for _ in 0..100 {
            client.send(b"x");
            if !client.is_quiet_for(Duration::from_millis(40)) {
                return expect_refusal(&mut client, &[408]);
            }
        }
        Err("head may dribble for ever".into())
    }),
    ("Q24.silence", |setup| {
        let mut client = setup.client();
        match client.read_to_end() {
            End::Open => Err("connection stays open".into()),
            _ => Ok(()),
        }
    }),
    ("Q60", |setup| {
        let marks = setup.marks();
        let mut client = setup.client();
        client.send(&post("Content-Length: 999999999\r\n", ""));
        if client.read_to_end() == End::Open {
            return Err("connection stays open".into());
        }
        if !client.buffer.is_empty() && !client.buffer.starts_with(b"HTTP/1.1 408 ") {
            return Err(format!("answered {}", client.shown()));
        }
        setup.await_aborts(&marks)?;
        no_request(setup, &marks)
    }),
];

/// S20 with a deadline for the response's head.
pub(crate) const SLOW_BACKENDS: &[(&str, Scenario)] = &[
    ("S20.stall", |setup| {
        setup.main.script(vec![send("HTTP/1.1 200 OK\r\nX: "), Step::ReadToEnd]);
        let mut client = setup.client();
        client.send(&with_fields(""));
        expect_status(&mut client, 504).map(|_| ())
    }),
    ("S20.dribble", |setup| {
        let mut script = vec![send("HTTP/1.1 200 OK\r\nX: ")];
        for _ in 0..100 {
            script.extend([send("x"), Step::Listen(Duration::from_millis(40))]);
        }
        setup.main.script(script);
        let mut client = setup.client();
        client.send(&with_fields(""));
        expect_status(&mut client, 504).map(|_| ())
    }),
    ("D10", |setup| {
        setup.main.script(vec![send("HTTP/1.1 100 Continue\r\n\r\n"), Step::ReadToEnd]);
        let mut client = setup.client();
        client.send(&with_fields(""));
        let head = client.read_head()?;
        let head = if head.status() == 100 { client.read_head()? } else { head };
        if head.status() == 504 { Ok(()) } else { Err(format!("answered {:?}", head.line)) }
    }),
];
