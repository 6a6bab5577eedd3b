//! What a backend may send, and what the client gets of it.

use crate::backend::{OK, Step};
use crate::case::{ResponseCase, ResponseWant, answer};
use crate::wire::Framing;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const GET_1_0: &str = "GET / HTTP/1.0\r\nHost: a\r\n\r\n";
const HEAD: &str = "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n";

fn response(id: &str, bytes: impl AsRef<[u8]>, want: impl Into<ResponseWant>) -> ResponseCase {
    to(GET, id, bytes, want)
}

/// The backend's answer to `request`, after which it keeps the connection open.
fn to(request: &str, id: &str, bytes: impl AsRef<[u8]>, want: impl Into<ResponseWant>) -> ResponseCase {
    let script = vec![Step::ReadBody, Step::Send(bytes.as_ref().to_vec())];
    ResponseCase { id: id.into(), request: request.into(), script, want: want.into() }
}

/// The same, and the backend ends the connection.
fn ended(request: &str, id: &str, bytes: impl AsRef<[u8]>, want: impl Into<ResponseWant>) -> ResponseCase {
    let mut case = to(request, id, bytes, want);
    case.script.extend([Step::Fin, Step::ReadToEnd]);
    case
}

/// `200` with these field lines and this body.
fn ok(fields: impl AsRef<[u8]>, body: impl AsRef<[u8]>) -> Vec<u8> {
    [b"HTTP/1.1 200 OK\r\n", fields.as_ref(), b"\r\n", body.as_ref()].concat()
}

fn all_bad(id: &str, responses: impl IntoIterator<Item = Vec<u8>>) -> Vec<ResponseCase> {
    let numbered = responses.into_iter().enumerate();
    let one = |(number, bytes): (usize, Vec<u8>)| {
        response(&format!("{id}.{}", number + 1), bytes, ResponseWant::BadGateway)
    };
    numbered.map(one).collect()
}

/// S01–S11: framing. The scenario of S11 is elsewhere.
pub(crate) fn framing() -> Vec<ResponseCase> {
    const CHUNKS: &str = "5\r\nhello\r\n0\r\n\r\n";
    let mut cases = vec![
        response(
            "S01",
            ok("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\nGET / HTTP/1.1\r\n"),
            ResponseWant::BadGateway,
        ),
        response(
            "S03",
            ok("Content-Length: 5\r\nContent-Length: 5\r\n", "hello"),
            answer(200).body("hello").has("content-length", "5"),
        ),
        // A list is no repetition of the field; RFC 9110 §8.6 lets a recipient refuse both.
        response("S03.list", ok("Content-Length: 5, 5\r\n", "hello"), ResponseWant::BadGateway),
        response(
            "S06",
            format!("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{CHUNKS}"),
            ResponseWant::BadGateway,
        ),
        response("S07", ok("Content-Length: 5\r\n", "helloworld"), answer(200).body("hello").not_pooled()),
        ended(GET, "S08", ok("Content-Length: 10\r\n", "hello"), ResponseWant::Truncated(b"hello")),
        ended(GET, "S08.empty", ok("Content-Length: 10\r\n", ""), ResponseWant::Truncated(b"")),
        ended(GET_1_0, "S08.1.0", ok("Content-Length: 10\r\n", "hello"), ResponseWant::Truncated(b"hello")),
        ended(
            GET,
            "S09.1",
            ok("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n"),
            ResponseWant::Truncated(b"hello"),
        ),
        ended(
            GET,
            "S09.2",
            ok("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n"),
            ResponseWant::Truncated(b"hello"),
        ),
        ended(GET, "S09.3", ok("Transfer-Encoding: chunked\r\n", "5\r\nhe"), ResponseWant::Truncated(b"")),
        response(
            "S09.bad-size",
            // Seen before anything was sent to the client.
            ok("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\nxyz\r\n"),
            ResponseWant::BadGateway,
        ),
        ended(GET, "S10", ok("", "hello"), answer(200).body("hello").framing(Framing::Chunked).not_pooled()),
        ended(GET, "S10.empty", ok("", ""), answer(200).body("").not_pooled()),
        ended(
            GET_1_0,
            "S10.1.0",
            ok("", "hello"),
            answer(200).body("hello").framing(Framing::Close).not_pooled(),
        ),
        response(
            "S10.chunked",
            ok("Transfer-Encoding: chunked\r\n", CHUNKS),
            answer(200).body("hello").framing(Framing::Chunked),
        ),
        to(
            GET_1_0,
            "S10.chunked-to-1.0",
            ok("Transfer-Encoding: chunked\r\n", CHUNKS),
            answer(200).body("hello").framing(Framing::Close).lacks(&["transfer-encoding"]),
        ),
    ];
    let lengths = [
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: x",
        "Content-Length:",
        "Content-Length: -1",
    ];
    cases.extend(all_bad("S02", lengths.map(|fields| ok(format!("{fields}\r\n"), "hello"))));
    let codings = ["chunked, chunked", "chunked, gzip", "gzip", "chunked, gzip, chunked"];
    cases
        .extend(all_bad("S04", codings.map(|coding| ok(format!("Transfer-Encoding: {coding}\r\n"), CHUNKS))));
    let codings = ["chunked\r\nTransfer-Encoding: chunked", "blah", "", "\x0bchunked"];
    cases
        .extend(all_bad("S05", codings.map(|coding| ok(format!("Transfer-Encoding: {coding}\r\n"), CHUNKS))));
    cases
}

/// S12–S20: responses without body, and heads.
pub(crate) fn heads() -> Vec<ResponseCase> {
    let status = |line: &str| format!("{line}\r\nContent-Length: 2\r\n\r\nok");
    let mut cases = vec![
        to(
            HEAD,
            "S12.head",
            ok("Content-Length: 5\r\n", "hello"),
            answer(200).has("content-length", "5").not_pooled(),
        ),
        to(HEAD, "S12.head-ok", ok("Content-Length: 5\r\n", ""), answer(200).has("content-length", "5")),
        to(HEAD, "S12.head-chunked", ok("Transfer-Encoding: chunked\r\n", ""), answer(200)),
        response("S12.204", "HTTP/1.1 204 No Content\r\n\r\nhello", answer(204).not_pooled()),
        response("S12.304", "HTTP/1.1 304 Not Modified\r\n\r\nhello", answer(304).not_pooled()),
        response("S12.304-length", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", answer(304)),
        response(
            "S12.1xx",
            "HTTP/1.1 100 Continue\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            ResponseWant::BadGateway,
        ),
        response(
            "S13.zero",
            "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
            answer(204).pooled_or_not(),
        ),
        response(
            "S13.five",
            "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
            answer(204).pooled_or_not(),
        ),
        response(
            "S13.chunked",
            "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            answer(204).not_pooled(),
        ),
        response(
            "S13.1xx",
            [b"HTTP/1.1 103 Early Hints\r\nContent-Length: 0\r\n\r\n", OK].concat(),
            answer(200).after(&[103]).body("ok").pooled_or_not(),
        ),
        response("S14.1", "HTTP/1.1 200 OK\nContent-Length: 0\n\n", ResponseWant::BadGateway),
        response("S14.2", "HTTP/1.1 200 OK\r\nA: b\nContent-Length: 0\r\n\r\n", ResponseWant::BadGateway),
        response(
            "S15",
            ok("X: a\r\n b\r\nContent-Length: 2\r\n", "ok"),
            answer(200).has("x", "a b").body("ok"),
        ),
        response(
            "S15.tab",
            ok("X: a \r\n\t b\r\nContent-Length: 2\r\n", "ok"),
            answer(200).has("x", "a b").body("ok"),
        ),
        response(
            "S15.first",
            "HTTP/1.1 200 OK\r\n X: a\r\nContent-Length: 0\r\n\r\n",
            ResponseWant::BadGateway,
        ),
        response("S16", ok("X : v\r\nContent-Length: 2\r\n", "ok"), answer(200).has("x", "v").body("ok")),
        response(
            "S16.length",
            ok("Content-Length : 2\r\n", "ok"),
            answer(200).has("content-length", "2").body("ok"),
        ),
        response("S19.none", status("HTTP/1.1 200"), answer(200).body("ok")),
        response("S19.empty", status("HTTP/1.1 200 "), answer(200).body("ok")),
        response("S19.long", status(&format!("HTTP/1.1 200 {}", "r".repeat(8_192))), answer(200).body("ok")),
        // The grammar of RFC 9112 §4 has no control characters, so the line is malformed.
        response("S19.control", status("HTTP/1.1 200 O\x01K"), ResponseWant::BadGateway),
        response(
            "S20.size",
            ok(format!("X: {}\r\nContent-Length: 0\r\n", "x".repeat(65_536)), ""),
            ResponseWant::BadGateway,
        ),
        response("S20.fields", ok("X: v\r\n".repeat(300), ""), ResponseWant::BadGateway),
    ];
    let fields: [&[u8]; 6] = [b"X: a\0b", b"X: a\x01b", b"X: a\rb", b": v", b"no colon", b"X: \x7f"];
    cases.extend(all_bad("S17", fields.map(|field| ok([field, b"\r\nContent-Length: 0\r\n"].concat(), ""))));
    let lines =
        ["HTTP/1.1 99", "HTTP/1.1 1000", "HTTP/1.1 2O0", "HTTP/2 200", "HTTP/2.0 200 OK", "ICY 200", ""];
    cases.extend(all_bad("S18", lines.map(|line| status(line).into_bytes())));
    cases
}

/// S21–S30: informational responses, connection reuse, fields of one hop. S31 needs TLS, S32–S34 HTTP/2.
pub(crate) fn connections() -> Vec<ResponseCase> {
    let with = |fields: &str| ok(format!("Content-Length: 2\r\n{fields}"), "ok");
    let hinted = [b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", OK].concat();
    let mut cases = vec![
        response("S21", "HTTP/1.1 100 Continue\r\n\r\n".repeat(1_000), ResponseWant::BadGateway),
        response(
            "S21.few",
            ["HTTP/1.1 102 Processing\r\n\r\n".repeat(3).as_bytes(), OK].concat(),
            answer(200).after(&[102; 3]).body("ok"),
        ),
        response(
            "S22",
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
            ResponseWant::BadGateway,
        ),
        response("S23", &hinted, answer(200).after(&[103]).body("ok")),
        to(GET_1_0, "S23.1.0", &hinted, answer(200).body("ok")),
        to(GET_1_0, "E18", [b"HTTP/1.1 100 Continue\r\n\r\n", OK].concat(), answer(200).body("ok")),
        response(
            "S24",
            [OK, b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"].concat(),
            answer(200).body("ok").not_pooled(),
        ),
        response(
            "S26.http-1.0",
            "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
            answer(200).body("ok").not_pooled(),
        ),
        response(
            "S27.1",
            with("Keep-Alive: timeout=1\r\n"),
            answer(200).body("ok").lacks(&["keep-alive"]).not_pooled(),
        ),
        response("S27.5", with("Keep-Alive: timeout=5\r\n"), answer(200).body("ok").lacks(&["keep-alive"])),
        response(
            "S29",
            with(
                "Connection: foo\r\nfoo: 1\r\nKeep-Alive: timeout=60\r\nProxy-Connection: x\r\nProxy-Authenticate: x\r\n\
                 Upgrade: h2c\r\nTE: x\r\nX-Kept: yes\r\n",
            ),
            answer(200).body("ok").has("x-kept", "yes").lacks(&[
                "connection",
                "foo",
                "keep-alive",
                "proxy-connection",
                "proxy-authenticate",
                "upgrade",
                "te",
            ]),
        ),
        response("S29.alt-svc", with("Alt-Svc: h3=\":443\"\r\n"), answer(200).body("ok").lacks(&["alt-svc"])),
        response(
            "S30",
            ok("Content-Encoding: gzip\r\nContent-Length: 4\r\n", b"\x1f\x8b\x08\x00"),
            answer(200).body(b"\x1f\x8b\x08\x00").has("content-encoding", "gzip"),
        ),
    ];
    let closes = ["close", "Close", "keep-alive, CLOSE", "keep-alive\r\nConnection: close"];
    for (number, value) in closes.into_iter().enumerate() {
        let bytes = with(&format!("Connection: {value}\r\n"));
        let want = answer(200).body("ok").lacks(&["connection"]).not_pooled();
        cases.push(response(&format!("S26.{}", number + 1), bytes, want));
    }
    cases
}
