//! Two gateways that lead to each other. A request with `CDN-Loop` entries goes on, and one that goes round ends.

use std::net::SocketAddr;

use tempfile::TempDir;

use crate::common::{Gateway, eventually, free_address};
use crate::origin::{Origin, upgrade};
use crate::wire::{Wire, get, post};

/// Two gateways. Everything goes from one to the other, but `/app` only once, and then to an endpoint.
struct Pair {
    addresses: [SocketAddr; 2],
    gateways: [Gateway; 2],
    _folder: TempDir,
}

impl Pair {
    fn start(protocol: &str, origin: SocketAddr) -> Self {
        let folder = TempDir::new().unwrap();
        let addresses = [free_address(), free_address()];
        let start = |name: usize| {
            let (own, other) = (addresses[name], addresses[1 - name]);
            let app = ["other", "app"][name];
            let text = format!(
                "listeners: [{{name: edge, address: '{own}'}}]
routes:
- {{name: app, pathPrefix: /app, backend: {app}}}
- {{name: all, backend: other}}
backends:
- {{name: other, endpoints: ['{other}'], protocol: {protocol}}}
- {{name: app, endpoints: ['{origin}']}}
"
            );
            let file = folder.path().join(format!("{name}.yaml"));
            std::fs::write(&file, text).unwrap();
            Gateway::start(&file, &["--http", "none", "--workers", "1"])
        };
        Self { gateways: [start(0), start(1)], addresses, _folder: folder }
    }

    fn client(&self) -> Wire {
        Wire::connect(self.addresses[0])
    }

    /// Requests that ended so, at each.
    fn ended(&self, reason: &str) -> [u64; 2] {
        let series = format!("sluicegate_requests_total{{reason=\"{reason}\"}}");
        [0, 1].map(|name: usize| self.gateways[name].metric(&series))
    }
}

/// L34.
#[test]
fn a_request_that_goes_round_between_two_gateways_ends_and_the_others_go_on() {
    for protocol in ["http", "h2c"] {
        let origin = Origin::plain();
        let pair = Pair::start(protocol, origin.address);
        let mut client = pair.client();
        for count in 1..=3 {
            let refused = client.get("/round");
            assert_eq!((refused.head.status(), &*refused.text()), (508, "LoopDetected\n"), "{protocol}");
            // The connection is kept, and what is not in a loop is served.
            assert_eq!(client.get("/app").text(), "/app");
            eventually("counted", || pair.ended("LoopDetected") == [count, 0]);
            // Three times through each, and `/app` through both.
            eventually("forwarded", || pair.ended("Forwarded") == [4 * count, 4 * count]);
        }
    }
}

#[test]
fn an_upload_that_goes_round_ends() {
    let origin = Origin::plain();
    let pair = Pair::start("http", origin.address);
    let mut client = pair.client();
    client.send(post("/round", &"x".repeat(300_000)));
    assert_eq!(client.response("POST").head.status(), 508);
    assert_eq!(pair.client().get("/app").head.status(), 200);
}

#[test]
fn a_websocket_that_goes_round_is_refused_before_it_is_one() {
    let origin = Origin::plain();
    for protocol in ["http", "h2c"] {
        let pair = Pair::start(protocol, origin.address);
        let mut client = pair.client();
        client.send(upgrade());
        assert_eq!(client.response("GET").head.status(), 508, "{protocol}");
        eventually("counted", || pair.ended("LoopDetected") == [1, 0]);
    }
}

#[test]
fn a_call_that_goes_round_ends_with_a_status_of_its_own() {
    let origin = Origin::plain();
    let pair = Pair::start("grpc", origin.address);
    let mut client = pair.client();
    client.send("POST /s/m HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc\r\nTE: trailers\r\nContent-Length: 5\r\n\r\n\0\0\0\0\0");
    let head = client.response("POST").head;
    assert_eq!((head.status(), head.value("grpc-status")), (200, Some("2")));
    assert_eq!(head.value("grpc-message"), Some("LoopDetected"));
    eventually("counted", || pair.ended("LoopDetected") == [1, 0]);
}

/// RFC 8586 §2: none is removed, and each adds one of its own.
#[test]
fn entries_of_others_stay_before_those_of_each_gateway() {
    let origin = Origin::plain();
    let pair = Pair::start("http", origin.address);
    let mut client = pair.client();
    client.send(
        "GET /app HTTP/1.1\r\nHost: a\r\nCDN-Loop: one.example, two; v=\"1\"\r\ncdn-loop: three\r\n\r\n",
    );
    assert_eq!(client.response("GET").head.status(), 200);
    let seen = || -> Vec<String> {
        let last = origin.see(|seen| seen.heads.last().unwrap().1.clone());
        last.values("cdn-loop").into_iter().map(str::to_owned).collect()
    };
    let all = seen();
    let [first, second, ours, theirs] = &all[..] else { panic!("{all:?}") };
    assert_eq!((&**first, &**second), ("one.example, two; v=\"1\"", "three"));
    for entry in [ours, theirs] {
        let number = entry.strip_prefix("sluicegate-").unwrap();
        assert!(number.len() == 16 && u64::from_str_radix(number, 16).is_ok(), "{entry}");
    }
    assert_ne!(ours, theirs);
    // The same number for all requests.
    client.send(get("/app"));
    assert_eq!(client.response("GET").head.status(), 200);
    assert_eq!(seen(), [&**ours, theirs]);
    // What says that the field is for one hop only would hide a loop.
    client.send("GET /app HTTP/1.1\r\nHost: a\r\nConnection: cdn-loop\r\n\r\n");
    assert_eq!(client.response("GET").head.status(), 400);
}

/// An endpoint that is a proxy itself may come back for another host, and pass on what it was sent.
#[test]
fn a_request_that_comes_back_for_something_else_is_served() {
    let origin = Origin::start(|conn| {
        while let Some(request) = conn.request() {
            let known = request.head.values("cdn-loop").join(", ");
            let gateway: SocketAddr = request.head.value("x-back").unwrap_or("127.0.0.1:1").parse().unwrap();
            let body = match request.head.target() {
                "/app/done" => known,
                _ => {
                    let mut wire = Wire::connect(gateway);
                    wire.send(format!("GET /app/done HTTP/1.1\r\nHost: a\r\nCDN-Loop: {known}\r\n\r\n"));
                    wire.response("GET").text()
                }
            };
            if !conn.answer(&body) {
                return;
            }
        }
    });
    let pair = Pair::start("http", origin.address);
    let mut client = pair.client();
    client.send(format!("GET /app/first HTTP/1.1\r\nHost: a\r\nX-Back: {}\r\n\r\n", pair.addresses[0]));
    let answer = client.response("GET");
    let entries: Vec<_> = answer.text().trim().split(", ").map(str::to_owned).collect();
    assert_eq!((answer.head.status(), entries.len()), (200, 4), "{entries:?}");
    assert_eq!(entries[..2], entries[2..]);
}
