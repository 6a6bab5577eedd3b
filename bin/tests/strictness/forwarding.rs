//! Fields that belong to one hop, fields that say who the client is, Expect, Upgrade and CONNECT.

use crate::case::{BAD, Case, Forward, Then, Want, case, forward, post, with_fields};
use crate::gateway::Setup;

/// Fields of a valid WebSocket handshake without `Connection`.
pub(crate) const WEBSOCKET: &str =
    "Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n";

fn root() -> Forward {
    forward("GET / HTTP/1.1")
}

/// E01–E09, E15–E17, E21–E25, E28–E29. E10 is not there because `Forwarded` is not sent; E30–E32 need CONNECT or
/// HTTP/2, which are not built.
pub(crate) fn forwarding(setup: &Setup) -> Vec<Case> {
    let mut cases = hop_by_hop();
    cases.extend(identity(setup));
    cases.extend(expectations());
    cases.extend(upgrades());
    for (number, target) in ["a:80", "a", "/", "http://a:80"].into_iter().enumerate() {
        let id = format!("E28.{}", number + 1);
        let statuses: &[u16] = if number == 0 { &[405] } else { &[400, 405] };
        cases.push(case(
            &id,
            format!("CONNECT {target} HTTP/1.1\r\nHost: a:80\r\n\r\n"),
            Want::Reject(statuses),
        ));
    }
    cases
}

fn hop_by_hop() -> Vec<Case> {
    let mut cases = Vec::new();
    let protected = [
        "X-Forwarded-For",
        "X-Forwarded-Host",
        "X-Forwarded-Proto",
        "X-Real-Ip",
        "Authorization",
        "Cookie",
        "Host",
        "Content-Length",
        "Transfer-Encoding",
    ];
    for name in protected {
        cases.push(case(&format!("E01.{name}"), with_fields(format!("Connection: close, {name}\r\n")), BAD));
    }
    cases.extend([
        case(
            "E02",
            with_fields("Connection: keep-alive, foo\r\nfoo: 1\r\n"),
            root().lacks(&["foo", "keep-alive"]),
        ),
        case("E02.case", with_fields("FOO: 1\r\nConnection: Foo\r\n"), root().lacks(&["foo"])),
        case(
            "E02.twice",
            with_fields("Connection: x\r\nX: 1\r\nConnection: Y\r\ny: 1\r\n"),
            root().lacks(&["x", "y"]),
        ),
        case("E03.keep-alive", with_fields("Keep-Alive: timeout=5\r\n"), root().lacks(&["keep-alive"])),
        case(
            "E03.proxy-connection",
            with_fields("Proxy-Connection: keep-alive\r\n"),
            root().lacks(&["proxy-connection"]),
        ),
        case("E03.te", with_fields("TE: gzip\r\n"), root().lacks(&["te"])),
        case(
            "E03.te-trailers",
            with_fields("Connection: TE\r\nTE: trailers\r\n"),
            root().has("te", "trailers"),
        ),
        case(
            "E03.proxy-auth",
            with_fields("Proxy-Authorization: x\r\n"),
            root().lacks(&["proxy-authorization"]),
        ),
        case("E03.http2", with_fields("HTTP2-Settings: x\r\n"), root().lacks(&["http2-settings"])),
        case("E03.upgrade", with_fields("Upgrade: websocket\r\n"), root().lacks(&["upgrade"])),
        case("E04.1", with_fields("Connection: \"X\"\r\n"), BAD),
        case("E04.2", with_fields("Connection: a b\r\n"), BAD),
        case("E05", with_fields("Connection: close\r\nConnection: keep-alive\r\n"), root().then(Then::Close)),
        case("E05.list", with_fields("Connection: keep-alive, Close\r\n"), root().then(Then::Close)),
        case(
            "E05.1.0",
            "GET / HTTP/1.0\r\nHost: a\r\n\r\n",
            root().then(Then::Close).has("host", "a").lacks(&["connection"]),
        ),
    ]);
    cases
}

fn identity(setup: &Setup) -> Vec<Case> {
    let own = || {
        root()
            .has("x-forwarded-for", "127.0.0.1")
            .has("x-forwarded-proto", "http")
            .has("x-forwarded-host", "a")
            .has("x-forwarded-port", setup.http.port().to_string())
            .has("x-real-ip", "127.0.0.1")
    };
    let mut cases = vec![
        case("E06", with_fields("X-Forwarded-For: 1.2.3.4\r\n"), own()),
        case("E06.none", with_fields(""), own()),
        case("E06.twice", with_fields("X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-For: ::1, x\r\n"), own()),
        case("E07", with_fields(format!("X-Forwarded-For: {}\r\n", ["1.2.3.4"; 2_000].join(", "))), own()),
        case("E08.space", with_fields("x-forwarded-for : 1\r\n"), BAD),
    ];
    for name in ["X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port", "X-Real-IP"] {
        cases.push(case(&format!("E09.{name}"), with_fields(format!("{name}: evil\r\n")), own()));
    }
    let aliases = [
        "X_Forwarded_For",
        "X.Forwarded.For",
        "X_Forwarded-For",
        "x_forwarded_host",
        "X.Forwarded.Proto",
        "X_Forwarded_Port",
        "X_Real_IP",
        "X.Real.IP",
    ];
    for name in aliases {
        cases.push(case(&format!("E08.{name}"), with_fields(format!("{name}: 1\r\n")), own().lacks(&[name])));
    }
    let unwanted = [
        "X-Forwarded-Prefix",
        "X-Forwarded-Server",
        "X-Forwarded-Client-Cert",
        "Forwarded",
        "X-Original-URL",
        "X-Rewrite-URL",
        "X-Envoy-External-Address",
    ];
    for name in unwanted {
        cases.push(case(
            &format!("E09.{name}"),
            with_fields(format!("{name}: evil\r\n")),
            own().lacks(&[name]),
        ));
    }
    cases
}

fn expectations() -> Vec<Case> {
    let wrong = ["y 100-continue", "100-continue, x", "foo"];
    let mut cases = Vec::new();
    for (number, value) in wrong.into_iter().enumerate() {
        let fields = format!("Expect: {value}\r\nContent-Length: 5\r\n");
        cases.push(case(&format!("E15.{}", number + 1), post(fields, ""), Want::Reject(&[417])));
    }
    cases.extend([
        case(
            "E16",
            "POST / HTTP/1.0\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
            forward("POST / HTTP/1.1").body("hello").lacks(&["expect"]).then(Then::Close),
        ),
        case("E17.none", with_fields("Expect: 100-continue\r\n"), root()),
        case(
            "E17.zero",
            post("Expect: 100-continue\r\nContent-Length: 0\r\n", ""),
            forward("POST / HTTP/1.1"),
        ),
    ]);
    cases
}

fn upgrades() -> Vec<Case> {
    let plain = || root().lacks(&["upgrade", "connection", "http2-settings"]);
    let socket = |fields: &str| with_fields(format!("Connection: upgrade\r\nUpgrade: websocket\r\n{fields}"));
    let (key, version) = ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", "Sec-WebSocket-Version: 13\r\n");
    vec![
        case("E22", with_fields("Connection: upgrade\r\nUpgrade: foo\r\n"), plain()),
        case(
            "E23.1",
            with_fields("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n"),
            plain(),
        ),
        case("E23.2", with_fields("Connection: upgrade\r\nUpgrade: h2c\r\n"), plain()),
        case(
            "E24.1.0",
            format!("GET / HTTP/1.0\r\nHost: a\r\nConnection: upgrade\r\n{WEBSOCKET}\r\n"),
            plain().then(Then::Close),
        ),
        case(
            "E24.post",
            post(format!("Connection: upgrade\r\nContent-Length: 0\r\n{WEBSOCKET}"), ""),
            forward("POST / HTTP/1.1").lacks(&["upgrade", "connection"]),
        ),
        case("E24.no-connection", with_fields(WEBSOCKET), plain()),
        case("E25.no-key", socket(version), BAD),
        case("E25.short-key", socket(&format!("Sec-WebSocket-Key: AAAA\r\n{version}")), BAD),
        case(
            "E25.bad-key",
            socket(&format!("Sec-WebSocket-Key: !!!!!!!!!!!!!!!!!!!!!!==\r\n{version}")),
            BAD,
        ),
        case("E25.two-keys", socket(&format!("{key}{key}{version}")), BAD),
        case("E25.version", socket(&format!("{key}Sec-WebSocket-Version: 8\r\n")), Want::Reject(&[426])),
        case("E25.no-version", socket(key), Want::Reject(&[400, 426])),
    ]
}
