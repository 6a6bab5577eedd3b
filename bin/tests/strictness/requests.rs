//! Malformed and ambiguous requests: line discipline, targets, authorities, framing, chunked bodies.

use crate::case::{BAD, Case, Forward, Then, Want, case, forward, post, post_chunked, with_fields};
use crate::gateway::Which;

fn root() -> Forward {
    forward("GET / HTTP/1.1")
}

fn posted() -> Forward {
    forward("POST / HTTP/1.1")
}

/// A request for `target` with `Host: a`.
fn target(target: impl AsRef<[u8]>) -> Vec<u8> {
    [b"GET ", target.as_ref(), b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat()
}

fn start_line(line: impl AsRef<[u8]>) -> Vec<u8> {
    [line.as_ref(), b"\r\nHost: a\r\n\r\n"].concat()
}

fn host(value: impl AsRef<[u8]>) -> Vec<u8> {
    [b"GET / HTTP/1.1\r\nHost: ", value.as_ref(), b"\r\n\r\n"].concat()
}

/// One case for each of `inputs`, all refused.
fn all_bad(id: &str, inputs: impl IntoIterator<Item = Vec<u8>>, want: &'static [u16]) -> Vec<Case> {
    let numbered = inputs.into_iter().enumerate();
    numbered.map(|(number, bytes)| case(&format!("{id}.{}", number + 1), bytes, Want::Reject(want))).collect()
}

/// Q01–Q24 without the slow ones.
pub(crate) fn lines() -> Vec<Case> {
    let mut cases = vec![
        case("Q01", "GET / HTTP/1.1\nHost: a\n\n", BAD),
        case("Q02", "GET / HTTP/1.1\r\nHost: a\r\nX: b\nY: c\r\n\r\n", BAD),
        case("Q02.end", "GET / HTTP/1.1\r\nHost: a\r\nX: b\n\r\n", BAD),
        case("Q02.empty-line", "GET / HTTP/1.1\r\nHost: a\r\n\n", BAD),
        case("Q02.request-line", "GET / HTTP/1.1\nHost: a\r\n\r\n", BAD),
        case("Q03", "GET / HTTP/1.1\rHost: a\r\r", BAD),
        case("Q04", "GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", BAD),
        case("Q05", "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", root()),
        case("Q06", "\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
        case("Q07", start_line("GET  / HTTP/1.1"), BAD),
        case("Q08", start_line("GET\t/\tHTTP/1.1"), BAD),
        case("Q09", start_line("GET /a b HTTP/1.1"), BAD),
        case("Q10", start_line("GET / HTTP/1.1 "), BAD),
        case("Q11", "GET /\r\n", BAD),
        case("Q12", start_line("GET / HTTP/1.2"), Want::Reject(&[505])),
        case("Q13.2", start_line("GET / HTTP/2.0"), Want::Reject(&[505])),
        case("Q13.3", start_line("GET / HTTP/3.0"), Want::Reject(&[505])),
        case("Q15.octet", start_line(b"G\x80T / HTTP/1.1"), BAD),
        case("Q16", start_line(format!("{} / HTTP/1.1", "A".repeat(100_000))), Want::Reject(&[501])),
        case("Q17", start_line("get / HTTP/1.1"), forward("get / HTTP/1.1")),
        case("Q18", b"\0\x01\xff\xfe\x02garbage\x80\x81\x82\0\0\0\x7f\xc0".repeat(3), Want::RejectOrClose),
        case("Q19", "PRI * HTTP/2.0\r\nHost: a\r\n\r\n", Want::Reject(&[505])),
        case("Q20", client_hello(), Want::Close),
        case("Q21", "GET / HTTP/1.1\r\n X: y\r\nHost: a\r\n\r\n", BAD),
        case("Q21.tab", "GET / HTTP/1.1\r\n\tX: y\r\nHost: a\r\n\r\n", BAD),
        case("Q22", "   \r\nHost: a\r\n\r\n", BAD),
        case("Q23", target(format!("/{}", "a".repeat(100_000))), Want::Reject(&[414])),
        case("Q23.query", target(format!("/?{}", "a".repeat(100_000))), Want::Reject(&[414])),
        long_line(),
    ];
    let versions = [
        "HTTP/01.1",
        "HTTP/1",
        "http/1.1",
        "HTTP/ 1.1",
        "HTTP/4294967295.255",
        "HTTP/1.10",
        "RTSP/1.1",
        "HTTP/1.",
    ];
    cases.extend(all_bad("Q14", versions.map(|version| start_line(format!("GET / {version}"))), &[400]));
    let delimiters = "\"(),/:;<=>?@[]{}\\".chars();
    cases.extend(all_bad("Q15", delimiters.map(|c| start_line(format!("G{c}T / HTTP/1.1"))), &[400]));
    cases
}

/// A request line of 8,000 bytes, which every recipient must take.
fn long_line() -> Case {
    let line = format!("GET /{} HTTP/1.1", "a".repeat(8_000 - 14));
    assert_eq!(line.len(), 8_000);
    case("Q23.8000", start_line(&line), forward(&line))
}

fn client_hello() -> Vec<u8> {
    let mut hello = b"\x16\x03\x01\x00\x9f\x01\x00\x00\x9b\x03\x03".to_vec();
    hello.extend([0x5a; 32]);
    hello.extend(b"\x00\x00\x02\x13\x01\x01\x00\x00\x70");
    hello.resize(164, 0);
    hello
}

/// Q25–Q50.
pub(crate) fn targets() -> Vec<Case> {
    let mut cases = vec![
        case("Q25", target(b"/\0"), BAD),
        case("Q26.1", target(b"/\xc3\xa9"), BAD),
        case("Q26.2", target(b"/\xc0\xaf"), BAD),
        case("Q26.query", target(b"/?\xc3\xa9"), BAD),
        case("Q27", target("/a#frag"), BAD),
        case("Q27.query", target("/a?b#frag"), BAD),
        case("Q28", target(r"/a\b"), BAD),
        case("Q29.1", target("admin"), BAD),
        case("Q29.2", target("a/b"), BAD),
        case("Q29.3", target("a:80"), BAD),
        case("Q30.1", target("*"), BAD),
        case("Q30.2", start_line("OPTIONS */x HTTP/1.1"), BAD),
        case("Q31", start_line("OPTIONS * HTTP/1.1"), Want::Local(&[200, 204])),
        case("Q32", "GET / HTTP/1.1\r\n\r\n", BAD),
        case("Q33", "GET / HTTP/1.0\r\n\r\n", root().to(Which::Fallback).then(Then::Close)),
        case("Q34.1", with_fields("Host: b\r\n"), BAD),
        case("Q34.2", with_fields("Host: a\r\n"), BAD),
        case("Q34.1.0", "GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n", BAD),
        case("Q38", "GET / HTTP/1.1\r\nHost:\r\n\r\n", BAD),
        case("Q38.space", "GET / HTTP/1.1\r\nHost: \r\n\r\n", BAD),
        case("Q40.dot", host("a."), root().has("host", "a.")),
        case("Q40.case", host("A"), root().has("host", "A")),
        case("Q40.port", host("a:80"), root().has("host", "a:80")),
        case("Q40.other-port", host("a:8080"), root().has("host", "a:8080")),
        case("Q41.ok", host("[::1]:80"), root().to(Which::Fallback).has("host", "[::1]:80")),
        case("Q44", target("http://a/x?y"), forward("GET /x?y HTTP/1.1").has("host", "a")),
        case("Q44.case", target("HTTP://A/x"), forward("GET /x HTTP/1.1")),
        case("Q45.target", target("http://a:80/"), root()),
        case("Q45.host", "GET http://a/ HTTP/1.1\r\nHost: a:80\r\n\r\n", root()),
        case("Q45.empty-port", host("a:"), root()),
        case("Q45.both", "GET http://a:80/ HTTP/1.1\r\nHost: a:\r\n\r\n", root()),
        case("Q46.host", "GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n", BAD),
        case("Q46.port", "GET http://a:8080/ HTTP/1.1\r\nHost: a:8081\r\n\r\n", BAD),
        case("Q46.missing-port", "GET http://a:8080/ HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
        case("Q46.surplus-port", "GET http://a/ HTTP/1.1\r\nHost: a:8080\r\n\r\n", BAD),
        case("Q46.no-host", "GET http://a/ HTTP/1.1\r\n\r\n", BAD),
        case("Q47", target("https://a/"), Want::Reject(&[400, 421])),
        case("Q48", target("http://u:p@a/"), BAD),
        case("Q50", target("http://a?x=1"), forward("GET /?x=1 HTTP/1.1").has("host", "a")),
        case("Q50.empty", target("http://a"), root().has("host", "a")),
    ];
    let lists = ["a, b", "a,b", "a b"];
    cases.extend(all_bad("Q35", lists.map(host), &[400]));
    cases.extend(all_bad("Q36", ["a@b", "user:p@a"].map(host), &[400]));
    cases.extend(all_bad("Q37", ["a/x", "a?x", "a#x", r"a\x"].map(host), &[400]));
    cases.extend(all_bad("Q39", ["a:99999", "a:0", "a:-1", "a:80:80", "a:8o"].map(host), &[400]));
    cases.extend(all_bad("Q41", ["[::1", "[::1]x", "::1", "[fe80::1%25eth0]"].map(host), &[400]));
    cases.extend(all_bad("Q42", [host(b"google.com\0.evil")], &[400]));
    cases.extend(all_bad("Q43", ["*", "*.a"].map(host), &[400]));
    let schemes = ["ftp://a/", "javascript:x", "http:a", "http:///"];
    cases.extend(all_bad("Q49", schemes.map(target), &[400]));
    cases
}

/// Q51–Q88 without the scenarios.
pub(crate) fn framing() -> Vec<Case> {
    const CHUNKS: &str = "5\r\nhello\r\n0\r\n\r\n";
    let mut cases = vec![
        case("Q51", post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", CHUNKS), BAD),
        case("Q52", post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", CHUNKS), BAD),
        case("Q53.1", post("Content-Length: x\r\nTransfer-Encoding: chunked\r\n", CHUNKS), BAD),
        case("Q53.2", post("Transfer-Encoding: chunked\r\nContent-Length: x\r\n", CHUNKS), BAD),
        case("Q54", post("Content-Length: 5\r\nContent-Length: 10\r\n", "hello"), BAD),
        case("Q55.1", post("Content-Length: 5\r\nContent-Length: 5\r\n", "hello"), BAD),
        case("Q55.2", post("Content-Length: 5, 5\r\n", "hello"), BAD),
        case("Q56.1", post("Content-Length:\r\n", ""), BAD),
        case("Q56.2", post("Content-Length: \r\nContent-Length: 59\r\n", "x".repeat(59)), BAD),
        case(
            "Q58.1",
            post("Content-Length: 005\r\n", "hello"),
            posted().body("hello").has("content-length", "5"),
        ),
        case("Q58.2", post("Content-Length: 0200\r\n", [b'x'; 200]), posted().body([b'x'; 200])),
        case("Q58.3", post("Content-Length: 00\r\n", ""), posted().body("")),
        case(
            "Q62",
            post("Content-Length: 5\r\n", "helloworld\r\n\r\n"),
            posted().body("hello").then(Then::Reject(400)),
        ),
        embedded_request(),
        case("Q66", start_line("TRACE / HTTP/1.1"), Want::Reject(&[405])),
        case(
            "Q66.body",
            "TRACE / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
            Want::Reject(&[405]),
        ),
        case("Q67", format!("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{CHUNKS}"), BAD),
        case("Q72", post("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n", CHUNKS), BAD),
        case("Q76.1", post("Transfer-Encoding: Chunked\r\n", CHUNKS), posted().chunked("hello")),
        case("Q76.2", post("TRANSFER-ENCODING: CHUNKED\r\n", CHUNKS), posted().chunked("hello")),
        case("Q81.1", post("Content-Length 5\r\n", "hello"), BAD),
        case("Q81.2", with_fields("Te\nst: x\r\n"), BAD),
        case("Q82", post("Transfer-\r\nEncoding: chunked\r\n", CHUNKS), BAD),
        case("Q83.1", with_fields(": v\r\n"), BAD),
        case("Q83.2", with_fields(":\r\n"), BAD),
        case("Q86", with_fields("X: a\r\n b\r\n"), BAD),
        case("Q86.tab", with_fields("X: a\r\n\tb\r\n"), BAD),
    ];
    for method in ["HEAD", "OPTIONS", "DELETE"] {
        let bytes = format!(
            "{method} / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
        );
        let want = forward(&format!("{method} / HTTP/1.1")).chunked("hello");
        cases.push(case(&format!("Q65.{method}"), bytes, want));
    }
    cases.extend(lengths());
    cases.extend(codings());
    cases.extend(fields());
    cases
}

/// Q64: what looks like a request within a body is body.
fn embedded_request() -> Case {
    let inner = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let bytes = with_fields(format!("Content-Length: {}\r\n", inner.len()));
    case("Q64", [&bytes, inner.as_bytes()].concat(), root().body(inner))
}

fn lengths() -> Vec<Case> {
    let wrong = ["+5", "-0", "-48", "0x5", "0o5", "1_0", "5 5", "5;", "5.0", "1Z", "٥", "\t+5", "5\t5"];
    let mut cases =
        all_bad("Q57", wrong.map(|length| post(format!("Content-Length: {length}\r\n"), "hello")), &[400]);
    let ten_to_30 = format!("1{}", "0".repeat(30));
    let huge = ["18446744073709551616", "9223372036854775808", "18446744073709551615", &ten_to_30];
    let huge = huge.map(|length| post(format!("Content-Length: {length}\r\n"), "hello"));
    cases.extend(all_bad("Q59", huge, &[400, 413]));
    cases
}

fn codings() -> Vec<Case> {
    const CHUNKS: &str = "5\r\nhello\r\n0\r\n\r\n";
    let coded = |value: &[u8]| post([b"Transfer-Encoding:", value, b"\r\n"].concat(), CHUNKS);
    let of = |values: &[&str]| values.iter().map(|value| coded(value.as_bytes())).collect::<Vec<_>>();
    let mut cases = all_bad("Q68", of(&[" gzip", " identity", " xchunked", " blegh"]), &[501]);
    cases.extend(all_bad("Q69", of(&[" gzip, chunked"]), &[501]));
    cases.extend(all_bad("Q70", of(&[" chunked, gzip", " chunked, identity"]), &[400]));
    cases.extend(all_bad(
        "Q71",
        of(&[" chunked, chunked", " chunked\r\nTransfer-Encoding: chunked"]),
        &[400],
    ));
    cases.extend(all_bad("Q73", of(&[" ,chunked", " chunked,", " , chunked"]), &[400]));
    for (number, value) in [" chunked\t", "\tchunked", " chunked ", "chunked"].into_iter().enumerate() {
        let want = posted().chunked("hello").has("transfer-encoding", "chunked");
        cases.push(case(&format!("Q74.{}", number + 1), coded(value.as_bytes()), want));
    }
    let odd: [&[u8]; 7] = [
        b" \x0bchunked",
        b" \x0cchunked",
        b" chunked\0",
        b" \xa0chunked",
        b" \"chunked\"",
        b" chunked;x=1",
        b" chunked chunked",
    ];
    cases.extend(all_bad("Q75", odd.map(coded), &[400]));
    cases.extend(all_bad("Q77", of(&["", " "]), &[400]));
    cases.extend(all_bad("Q78", of(&["\r\n chunked", "\r\n\tchunked"]), &[400]));
    let spaced = ["Transfer-Encoding : chunked\r\n", "Transfer-Encoding\t: chunked\r\n"];
    cases.extend(all_bad("Q79", spaced.map(|field| post(field, CHUNKS)), &[400]));
    cases
}

fn fields() -> Vec<Case> {
    let mut cases = vec![
        case(
            "Q80.1",
            post("Transfer_Encoding: chunked\r\nContent-Length: 5\r\n", "hello"),
            posted().body("hello").lacks(&["transfer_encoding", "transfer-encoding"]),
        ),
        case(
            "Q80.2",
            post("Transfer.Encoding: chunked\r\nContent-Length: 5\r\n", "hello"),
            posted().body("hello").lacks(&["transfer.encoding", "transfer-encoding"]),
        ),
        case(
            "Q80.3",
            post("Content_Length: 9\r\nContent-Length: 5\r\n", "hello"),
            posted().body("hello").lacks(&["content_length"]),
        ),
        case(
            "Q80.4",
            with_fields("Content_Length: 9\r\n"),
            root().lacks(&["content_length", "content-length"]),
        ),
    ];
    let names: [&[u8]; 5] = [b"X\0", b"X\x85", b"X Y", b"X(", b"\"X\""];
    cases.extend(all_bad("Q84", names.map(|name| with_fields([name, b": v\r\n"].concat())), &[400]));
    let values: [&[u8]; 3] = [b"a\0b", b"a\x01b", b"\x7f"];
    cases.extend(all_bad("Q85", values.map(|value| with_fields([b"X: ", value, b"\r\n"].concat())), &[400]));
    let many = |count: usize| with_fields((0..count).map(|n| format!("X{n}: v\r\n")).collect::<String>());
    cases.push(case("Q87.100", many(99), root().has("x98", "v")));
    cases.push(case("Q87.101", many(100), Want::Reject(&[431])));
    // 10,000 distinct names (Q88) end at the same limit, before any map of them exists.
    cases.push(case("Q87.10000", many(10_000), Want::Reject(&[431])));
    cases.push(case("Q87.head", with_fields(format!("X: {}\r\n", "x".repeat(65_536))), Want::Reject(&[431])));
    cases.push(case(
        "Q87.name",
        with_fields(format!("{}: v\r\n", "X".repeat(100_000))),
        Want::Reject(&[431]),
    ));
    cases.push(case("Q87.ok", with_fields(format!("X: {}\r\n", "x".repeat(60_000))), root()));
    cases
}

/// Q90–Q106 without the scenarios.
pub(crate) fn chunked() -> Vec<Case> {
    let bad = |id: &str, body: &[u8]| case(id, post_chunked(body), Want::RejectBody(&[400]));
    let sizes = ["0x5", "+5", "-0", "-5", "0_5", "5_0", " 5", "\t5", "5g", "1these-bytes", "INVALID", ""];
    let mut cases = Vec::new();
    for (number, size) in sizes.into_iter().enumerate() {
        let body = format!("{size}\r\nhello\r\n0\r\n\r\n");
        cases.push(bad(&format!("Q90.{}", number + 1), body.as_bytes()));
        // In a later chunk, when the head is on its way already.
        let body = format!("2\r\nhi\r\n{size}\r\nhello\r\n0\r\n\r\n");
        cases.push(bad(&format!("Q90.{}.second", number + 1), body.as_bytes()));
    }
    cases.extend([
        bad("Q91", b"5 \r\nhello\r\n0\r\n\r\n"),
        bad("Q91.tab", b"5\t\r\nhello\r\n0\r\n\r\n"),
        bad("Q92.1", b"00000000000000005\r\nhello\r\n0\r\n\r\n"),
        bad("Q92.2", b"FFFFFFFFFFFFFFFF1\r\nhello\r\n0\r\n\r\n"),
        case("Q93.1", post_chunked("A\r\n0123456789\r\n0\r\n\r\n"), posted().chunked("0123456789")),
        case("Q93.2", post_chunked("a\r\n0123456789\r\n0\r\n\r\n"), posted().chunked("0123456789")),
        bad("Q94.1", b"5\nhello\r\n0\r\n\r\n"),
        bad("Q94.2", b"5\r\nhello\n0\r\n\r\n"),
        bad("Q94.3", b"5\r\nhello\r\n0\r\n\n"),
        bad("Q94.4", b"5\r\nhello\r\n0\n\r\n"),
        bad("Q95.1", b"5\rhello\r\n0\r\n\r\n"),
        bad("Q95.2", b"5\r\r;a\nhello\r\n0\r\n\r\n"),
        bad("Q96.1", b"5;\nhello\r\n0\r\n\r\n"),
        bad("Q96.2", b"5;a\nhello\r\n0\r\n\r\n"),
        bad("Q97.1", b"5;\r\nhello\r\n0\r\n\r\n"),
        bad("Q97.2", b"5;=v\r\nhello\r\n0\r\n\r\n"),
        bad("Q97.3", b"5;a b\r\nhello\r\n0\r\n\r\n"),
        bad("Q97.4", b"5;a=\"unterminated\r\nhello\r\n0\r\n\r\n"),
        bad("Q97.5", b"5;[\r\nhello\r\n0\r\n\r\n"),
        case("Q98.1", post_chunked("5;a=b\r\nhello\r\n0\r\n\r\n"), posted().chunked("hello")),
        case("Q98.2", post_chunked("5;a=\"q\\\"x\"\r\nhello\r\n0;z\r\n\r\n"), posted().chunked("hello")),
        bad("Q99.1", format!("5;a={}\r\nhello\r\n0\r\n\r\n", "x".repeat(65_536)).as_bytes()),
        bad("Q99.2", (format!("1;a={}\r\nx\r\n", "x".repeat(1_000)).repeat(20) + "0\r\n\r\n").as_bytes()),
        bad("Q100.1", b"5\r\nhello!!\r\n0\r\n\r\n"),
        bad("Q100.2", b"5\r\nhello0\r\n\r\n"),
        case(
            "Q102",
            post_chunked("10\r\n0\r\n\r\nGET / HTTP/\r\n0\r\n\r\n"),
            posted().chunked("0\r\n\r\nGET / HTTP/"),
        ),
        case(
            "Q103",
            post_chunked("5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n"),
            posted().chunked("hello").lacks(&["x-t"]),
        ),
        forbidden_trailers(),
        case(
            "Q105.request",
            post_chunked("0\r\nX:POST / HTTP/1.1\r\nHost: a\r\n\r\n"),
            posted().chunked("").has("host", "a"),
        ),
        bad("Q105.colon", b"0\r\nno colon\r\n\r\n"),
        bad("Q105.lf", b"0\r\nX: 1\nY: 2\r\n\r\n"),
        bad("Q105.fold", b"0\r\nX: 1\r\n Y: 2\r\n\r\n"),
        bad("Q105.name", b"0\r\nX Y: 1\r\n\r\n"),
        case(
            "Q105.endless",
            post_chunked("0\r\n".to_owned() + &"X: 0123456789\r\n".repeat(700)),
            Want::RejectBody(&[400, 431]),
        ),
        case(
            "Q105.many",
            post_chunked("0\r\n".to_owned() + &"X: 1\r\n".repeat(33) + "\r\n"),
            Want::RejectBody(&[400, 431]),
        ),
        many_small_chunks(),
    ]);
    cases
}

/// Q104: what would change meaning never becomes a field of the request.
fn forbidden_trailers() -> Case {
    let trailers = "Content-Length: 9\r\nTransfer-Encoding: gzip\r\nHost: b\r\nAuthorization: x\r\nContent-Type: y\r\n\
                    Trailer: z\r\nConnection: close\r\nCookie: c\r\n";
    let bytes = post_chunked(format!("5\r\nhello\r\n0\r\n{trailers}\r\n"));
    let want = posted().chunked("hello").has("host", "a");
    case("Q104", bytes, want.lacks(&["content-length", "authorization", "content-type", "trailer", "cookie"]))
}

/// Q106.
fn many_small_chunks() -> Case {
    let bytes = post_chunked("1\r\nx\r\n".repeat(20_000) + "0\r\n\r\n");
    case("Q106", bytes, posted().chunked([b'x'; 20_000]))
}

/// Q108: a refusal ends a pipeline that started well.
pub(crate) fn pipelines() -> Vec<Case> {
    let first = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let refused = |id: &str, second: &str| {
        let bytes = format!("{first}{second}GET /pipelined HTTP/1.1\r\nHost: a\r\n\r\n");
        case(id, bytes, root().then(Then::Reject(400)))
    };
    vec![
        refused("Q108.1", "\0garbage\r\n\r\n"),
        refused("Q108.2", "GET / HTTP/1.1\r\n\r\n"),
        refused("Q108.3", "GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n"),
        refused(
            "Q108.4",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        ),
    ]
}
