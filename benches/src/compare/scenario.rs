//! What is compared: each scenario with its load, the proxies that it is about, and what its figure counts. Data alone; how
//! a proxy is set up for it is in [`super::peers`], how it is run in [`super::measure`].

use super::record::Unit;
use super::summary::LEAST_ROUNDS;

/// How clients speak to the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Front {
    /// HTTP/1.1.
    Http,
    /// HTTP/1.1 over TLS 1.3.
    Https,
    /// HTTP/2 in cleartext, by prior knowledge.
    Http2,
    /// HTTP/2 over TLS 1.3.
    Https2,
    /// Connections, relayed as they are.
    Tcp,
    /// Datagrams, relayed as they are.
    Udp,
}

impl Front {
    /// Whether clients encrypt.
    #[must_use]
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Https2)
    }

    /// Whether clients speak HTTP/2.
    #[must_use]
    pub fn is_http2(self) -> bool {
        matches!(self, Self::Http2 | Self::Https2)
    }

    /// Whether the proxy knows of requests.
    #[must_use]
    pub fn is_http(self) -> bool {
        !matches!(self, Self::Tcp | Self::Udp)
    }
}

/// How the proxy speaks to the backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Back {
    /// HTTP/1.1, kept alive; or as it came, if there are no requests.
    Http1,
    /// HTTP/2 in cleartext.
    Http2,
    /// HTTP/2 in cleartext, and the requests are gRPC calls.
    Grpc,
}

/// How many routes a large table has.
pub const HOSTS: usize = 10_000;

/// What the proxy knows of hosts and paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// One route for everything.
    One,
    /// 10,000 hosts.
    Hosts,
    /// 10,000 paths of one host.
    Paths,
}

/// How much is done in a measurement.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Size {
    /// As much as fits into the time there is; a good proxy does about this many requests a second.
    Timed(f64),
    /// What the load's arguments say, which takes about this many seconds.
    Fixed(f64),
}

/// Not a program of its own, but `loadgen` and a clock: how long a proxy takes to start.
pub const START: &str = "start";
/// Not a program of its own, but `loadgen` with a large and a small table: what the routes of a proxy take.
pub const MEMORY: &str = "memory";

/// A load that starts the proxy itself, since it tells it of changes.
pub const CHANGE: &str = "config-change";

/// One scenario.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// Its name, such as `small-get`.
    pub name: &'static str,
    /// What is done, in a sentence.
    pub about: &'static str,
    /// What the figure counts.
    pub unit: Unit,
    /// Bytes of a request and its answer, where the figure is per gigabyte.
    pub bytes: u64,
    /// Towards the clients.
    pub front: Front,
    /// Towards the backends.
    pub back: Back,
    /// Whether requests become WebSockets.
    pub upgrade: bool,
    /// What is routed.
    pub table: Table,
    /// Whether requests are logged, as JSON and to a file.
    pub log: bool,
    /// The program that makes the load: one of this package, or `h2load`.
    pub tool: &'static str,
    /// Its arguments, besides those that every load has. `@CA@` is the file with the authority.
    pub args: &'static [&'static str],
    /// How much it does.
    pub size: Size,
    /// Requests before those that count, at least: until all is as it stays.
    pub warmup: u64,
    /// Requests a second, each sent when it is due; without it the next as soon as an answer is in.
    pub rate: Option<f64>,
    /// The proxies that it is about.
    pub peers: &'static [&'static str],
    /// Those of them in a quick comparison; empty if it is none of its scenarios.
    pub quick: &'static [&'static str],
    /// A variant of our own that a claim compares with.
    pub against: Option<&'static str>,
}

/// Everyone who speaks HTTP.
const EVERYONE: &[&str] = &[
    "relay",
    "sluicegate",
    "nginx",
    "nginx-new",
    "haproxy",
    "envoy",
    "traefik",
    "caddy",
    "hyper-proxy",
    "pingora-proxy",
];
/// The five that matter most.
const FIVE: &[&str] = &["relay", "sluicegate", "nginx", "haproxy", "envoy"];
/// The relay knows nothing of TLS, HTTP/2 and memory.
const EVERYONE_BUT_RELAY: &[&str] =
    &["sluicegate", "nginx", "nginx-new", "haproxy", "envoy", "traefik", "caddy"];
const FOUR: &[&str] = &["sluicegate", "nginx", "haproxy", "envoy"];
const SPLICING: &[&str] = &[
    "relay",
    "relay-splice",
    "sluicegate",
    "nginx",
    "nginx-new",
    "haproxy",
    "haproxy-splice",
    "envoy",
    "traefik",
    "caddy",
    "hyper-proxy",
    "pingora-proxy",
];
const SPLICING_QUICK: &[&str] =
    &["relay", "relay-splice", "sluicegate", "nginx", "haproxy", "haproxy-splice", "envoy"];
const UPLOADS: &[&str] = &[
    "relay",
    "relay-splice",
    "sluicegate",
    "nginx",
    "nginx-stream",
    "nginx-new",
    "haproxy",
    "envoy",
    "traefik",
    "caddy",
    "hyper-proxy",
    "pingora-proxy",
];
const UPLOADS_QUICK: &[&str] = &["relay", "sluicegate", "nginx-stream", "haproxy", "envoy"];
const TABLES: &[&str] = &["relay", "sluicegate-one-route", "sluicegate"];
/// Caddy is not one of them: with 10,000 sites it does not start in time.
const HOSTED: &[&str] = &["sluicegate", "nginx", "nginx-new", "haproxy", "envoy", "traefik"];
const STREAMS: &[&str] = &["relay", "sluicegate", "nginx", "nginx-new", "haproxy", "envoy", "traefik"];
const STREAMS_SPLICING: &[&str] = &[
    "relay",
    "relay-splice",
    "sluicegate",
    "nginx",
    "nginx-new",
    "haproxy",
    "haproxy-splice",
    "envoy",
    "traefik",
];
const DATAGRAMS: &[&str] = &["sluicegate", "nginx", "nginx-new", "envoy", "traefik"];

const HTTP: Scenario = Scenario {
    name: "",
    about: "",
    unit: Unit::CpuMicrosPerRequest,
    bytes: 0,
    front: Front::Http,
    back: Back::Http1,
    upgrade: false,
    table: Table::One,
    log: false,
    tool: "loadgen",
    args: &[],
    size: Size::Timed(60_000.0),
    warmup: 0,
    rate: None,
    peers: EVERYONE,
    quick: FIVE,
    against: None,
};
const TLS: Scenario = Scenario { front: Front::Https, peers: EVERYONE_BUT_RELAY, quick: FOUR, ..HTTP };
const IDLE: Scenario = Scenario { unit: Unit::BytesEach, peers: EVERYONE_BUT_RELAY, quick: FOUR, ..HTTP };

/// All of them, in the order in which they run.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "small-get",
        about: "GET over 64 keep-alive connections, answers of 13 bytes",
        args: &["--connections", "64"],
        quick: EVERYONE,
        ..HTTP
    },
    Scenario {
        name: "small-get-1",
        about: "GET over 1 keep-alive connection, answers of 13 bytes",
        args: &["--connections", "1"],
        size: Size::Timed(15_000.0),
        ..HTTP
    },
    Scenario {
        name: "small-get-512",
        about: "GET over 512 keep-alive connections, answers of 13 bytes",
        args: &["--connections", "512"],
        warmup: 2_000,
        ..HTTP
    },
    Scenario {
        name: "small-get-browser",
        about: "small-get with a request head of 430 bytes",
        args: &["--browser-head"],
        quick: &[],
        ..HTTP
    },
    Scenario {
        name: "small-get-json-log",
        about: "small-get with a JSON access log to a file",
        log: true,
        peers: &["relay", "sluicegate", "nginx", "nginx-new", "haproxy", "envoy", "traefik", "caddy"],
        ..HTTP
    },
    Scenario {
        name: "fixed-rate",
        about: "small-get at 20,000 requests a second, each sent when it is due: CPU time at the same rate for everyone",
        rate: Some(20_000.0),
        peers: FIVE,
        ..HTTP
    },
    Scenario {
        name: "latency",
        about: "what clients of small-get wait at 10,000 requests a second, each sent when it is due: the 99th percentile",
        unit: Unit::LatencyMicros,
        // More than a second: in less, one pause of the machine of a few milliseconds is more than a hundredth.
        args: &["--requests", "12000", "--warmup", "1000"],
        size: Size::Fixed(1.4),
        rate: Some(10_000.0),
        ..HTTP
    },
    Scenario {
        name: "churn",
        about: "64 connections at once, a new one for each small GET (the relay opens one to a backend for each, too)",
        args: &["--one-shot"],
        size: Size::Timed(10_000.0),
        ..HTTP
    },
    Scenario {
        name: "get-64kib",
        about: "GET over 32 keep-alive connections, answers of 64 KiB",
        args: &["--connections", "32", "--body", "65536"],
        size: Size::Timed(14_000.0),
        peers: SPLICING,
        quick: SPLICING_QUICK,
        ..HTTP
    },
    Scenario {
        name: "get-1mib",
        about: "GET over 8 keep-alive connections, answers of 1 MiB",
        unit: Unit::CpuMillisPerGigabyte,
        bytes: 1_048_576,
        args: &["--connections", "8", "--body", "1048576"],
        size: Size::Timed(1_800.0),
        peers: SPLICING,
        quick: SPLICING_QUICK,
        ..HTTP
    },
    Scenario {
        name: "upload-1mib",
        about: "POST of 1 MiB with a Content-Length over 8 keep-alive connections",
        unit: Unit::CpuMillisPerGigabyte,
        bytes: 1_048_576,
        args: &["--connections", "8", "--upload", "1048576"],
        size: Size::Timed(1_200.0),
        peers: UPLOADS,
        quick: UPLOADS_QUICK,
        ..HTTP
    },
    Scenario {
        name: "upload-10mib-chunked",
        about: "POST of 10 MiB in chunks of 16 KiB over 4 keep-alive connections",
        unit: Unit::CpuMillisPerGigabyte,
        bytes: 10_485_760,
        args: &["--connections", "4", "--upload", "10485760", "--chunked"],
        size: Size::Timed(100.0),
        peers: UPLOADS,
        quick: UPLOADS_QUICK,
        ..HTTP
    },
    Scenario {
        name: "hosts-10k",
        about: "small-get over 10,000 hosts, each an Ingress of its own, against a table of one route for the same requests",
        table: Table::Hosts,
        args: &["--hosts", "10000"],
        peers: TABLES,
        quick: TABLES,
        against: Some("sluicegate-one-route"),
        ..HTTP
    },
    Scenario {
        name: "hosts-10k-peers",
        about: "small-get over 10,000 hosts, for everyone",
        table: Table::Hosts,
        args: &["--hosts", "10000"],
        peers: HOSTED,
        quick: &[],
        ..HTTP
    },
    Scenario {
        name: "start-1",
        about: "milliseconds from the start of the process to the first answer, with one route",
        unit: Unit::Millis,
        tool: START,
        args: &["--connections", "4", "--requests", "10000", "--warmup", "0"],
        size: Size::Fixed(0.9),
        peers: HOSTED,
        quick: &["sluicegate", "nginx", "haproxy", "envoy"],
        ..HTTP
    },
    Scenario {
        name: "start-10k",
        about: "milliseconds from the start of the process to the first answer for the last of 10,000 hosts; after that, all of \
                them answer",
        unit: Unit::Millis,
        table: Table::Hosts,
        tool: START,
        args: &["--hosts", "10000", "--connections", "4", "--requests", "10000", "--warmup", "0"],
        size: Size::Fixed(1.5),
        peers: HOSTED,
        quick: &["sluicegate", "nginx", "haproxy", "envoy"],
        ..HTTP
    },
    Scenario {
        name: "memory-10k",
        about: "memory (PSS) for each of 10,000 hosts, once each has been asked for: what the process has more than with one route",
        unit: Unit::BytesEach,
        table: Table::Hosts,
        tool: MEMORY,
        args: &["--hosts", "10000", "--connections", "4", "--requests", "10000", "--warmup", "0"],
        size: Size::Fixed(3.0),
        peers: HOSTED,
        quick: &["sluicegate", "nginx", "haproxy", "envoy"],
        ..HTTP
    },
    Scenario {
        name: "config-change",
        about: "2,000 requests a second while the endpoints change four times: milliseconds from a change to the first request at \
                the new ones. A failed request is a failure",
        unit: Unit::Millis,
        tool: CHANGE,
        args: &["--changes", "4", "--before-seconds", "0.2", "--settle-ms", "200"],
        size: Size::Fixed(3.0),
        peers: EVERYONE_BUT_RELAY,
        quick: &["sluicegate", "nginx", "haproxy", "envoy"],
        ..HTTP
    },
    Scenario {
        name: "paths-10k",
        about: "small-get over 10,000 paths of one host, against a table of one route for the same requests",
        table: Table::Paths,
        args: &["--paths", "10000"],
        peers: TABLES,
        against: Some("sluicegate-one-route"),
        quick: &[],
        ..HTTP
    },
    Scenario {
        name: "tls-handshake",
        about: "64 connections at once, for each small GET a new one with a full handshake (TLS 1.3, ECDSA P-256, X25519)",
        args: &["--tls", "@CA@", "--one-shot"],
        size: Size::Timed(2_500.0),
        ..TLS
    },
    Scenario {
        name: "tls-resumed",
        about: "the same with every session resumed by a ticket",
        args: &["--tls", "@CA@", "--resume", "--one-shot"],
        size: Size::Timed(4_000.0),
        // Each of the connections has its ticket from an earlier one.
        warmup: 400,
        ..TLS
    },
    Scenario {
        name: "tls-keepalive",
        about: "small-get over TLS 1.3: 64 keep-alive connections",
        args: &["--tls", "@CA@"],
        size: Size::Timed(50_000.0),
        ..TLS
    },
    Scenario {
        name: "h2-to-h1",
        about: "small GETs, 16 connections × 32 streams of HTTP/2 in cleartext; backends speak HTTP/1.1",
        front: Front::Http2,
        tool: "h2load",
        args: &["-c", "16", "-m", "32", "-t", "1"],
        quick: FOUR,
        ..TLS
    },
    Scenario {
        name: "h2-tls-to-h1",
        about: "the same over TLS",
        front: Front::Https2,
        tool: "h2load",
        args: &["-c", "16", "-m", "32", "-t", "1"],
        quick: &[],
        ..TLS
    },
    Scenario {
        name: "grpc-unary",
        about: "gRPC calls of 13 bytes, 16 connections × 32 streams, HTTP/2 in cleartext on both sides",
        front: Front::Http2,
        back: Back::Grpc,
        tool: "streams",
        args: &["--grpc"],
        size: Size::Timed(45_000.0),
        quick: FOUR,
        ..TLS
    },
    Scenario {
        name: "grpc-stream",
        about: "gRPC calls of 1,000 messages of 13 bytes, each sent when the one before is back, 16 connections × 32 streams; \
                a request is a message each way",
        front: Front::Http2,
        back: Back::Grpc,
        tool: "streams",
        args: &["--grpc", "--stream-messages", "1000"],
        size: Size::Timed(80_000.0),
        ..TLS
    },
    Scenario {
        name: "h2-to-h2",
        about: "small GETs, 16 connections × 32 streams, HTTP/2 in cleartext on both sides",
        front: Front::Http2,
        back: Back::Http2,
        tool: "streams",
        args: &["--backend-h2"],
        size: Size::Timed(45_000.0),
        peers: &["sluicegate", "nginx-new", "haproxy", "envoy", "traefik", "caddy"],
        quick: &["sluicegate", "nginx-new", "haproxy", "envoy"],
        ..TLS
    },
    Scenario {
        name: "websocket-echo",
        about: "64 WebSockets, messages of 64 bytes, each sent when the one before is back; a request is a message each way",
        upgrade: true,
        tool: "websocket-echo",
        args: &["--connections", "64"],
        peers: &["relay", "sluicegate", "nginx", "nginx-new", "haproxy", "envoy", "traefik", "caddy"],
        ..HTTP
    },
    Scenario {
        name: "idle-10k",
        about: "memory (PSS) for each of 10,000 keep-alive connections, idle after one request each",
        args: &[
            "--connections",
            "10000",
            "--in-flight",
            "64",
            "--requests",
            "10000",
            "--warmup",
            "0",
            "--hold-seconds",
            "1",
        ],
        size: Size::Fixed(2.5),
        quick: FOUR,
        ..IDLE
    },
    Scenario {
        name: "idle-tls-10k",
        about: "memory (PSS) for each of 10,000 connections of HTTP/1.1 over TLS, idle after one request each",
        front: Front::Https,
        args: &[
            "--tls",
            "@CA@",
            "--connections",
            "10000",
            "--in-flight",
            "64",
            "--requests",
            "10000",
            "--warmup",
            "0",
            "--hold-seconds",
            "1",
        ],
        size: Size::Fixed(6.0),
        quick: &[],
        ..IDLE
    },
    Scenario {
        name: "idle-h2-tls-10k",
        about: "memory (PSS) for each of 10,000 connections of HTTP/2 over TLS, idle after one request each",
        front: Front::Https2,
        tool: "streams",
        args: &[
            "--tls",
            "@CA@",
            "--connections",
            "10000",
            "--in-flight",
            "64",
            "--requests",
            "10000",
            "--warmup",
            "0",
            "--hold-seconds",
            "1",
        ],
        size: Size::Fixed(7.0),
        quick: &[],
        ..IDLE
    },
    Scenario {
        name: "tcp-bulk",
        about: "relayed as it is: 4 connections, answers of 64 MiB",
        unit: Unit::CpuMillisPerGigabyte,
        bytes: 67_108_864,
        front: Front::Tcp,
        args: &["--connections", "4", "--body", "67108864"],
        size: Size::Timed(30.0),
        peers: STREAMS_SPLICING,
        quick: SPLICING_QUICK,
        ..HTTP
    },
    Scenario {
        name: "tcp-ping-pong",
        about: "relayed as it is: 64 connections, messages of less than 100 bytes back and forth",
        front: Front::Tcp,
        peers: STREAMS,
        ..HTTP
    },
    Scenario {
        name: "tcp-churn",
        about: "relayed as it is: 64 connections at once, a new one for each small message",
        front: Front::Tcp,
        args: &["--one-shot"],
        size: Size::Timed(10_000.0),
        peers: STREAMS,
        ..HTTP
    },
    Scenario {
        name: "udp-echo",
        about: "echoes of 64 bytes over 1,000 flows, 128 under way; a request is a datagram each way",
        front: Front::Udp,
        tool: "datagrams",
        args: &["--flows", "1000"],
        size: Size::Timed(70_000.0),
        peers: DATAGRAMS,
        quick: DATAGRAMS,
        ..HTTP
    },
    Scenario {
        name: "udp-burst",
        about: "echoes of 1,200 bytes in bursts of 16, 64 flows of which 4 are busy; a request is a datagram each way",
        front: Front::Udp,
        tool: "datagrams",
        args: &["--flows", "64", "--in-flight", "4", "--burst", "16", "--size", "1200"],
        size: Size::Timed(80_000.0),
        peers: DATAGRAMS,
        quick: &[],
        ..HTTP
    },
];

/// The scenario of that name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Scenario> {
    ALL.iter().find(|scenario| scenario.name == name)
}

impl Scenario {
    /// Rounds of it: memory, which hardly differs from round to round, needs no more than a verdict does, and what takes its
    /// time whatever time there is has half.
    #[must_use]
    pub fn rounds(&self, rounds: usize) -> usize {
        match self.size {
            _ if self.unit == Unit::BytesEach => rounds.min(LEAST_ROUNDS),
            Size::Fixed(_) => rounds.div_ceil(2).max(LEAST_ROUNDS).min(rounds),
            Size::Timed(_) => rounds,
        }
    }

    /// Whether each measurement is of a proxy that was started for it: starts, and memory, of which a process keeps some.
    #[must_use]
    pub fn needs_new_proxies(&self) -> bool {
        matches!(self.tool, START | MEMORY | CHANGE) || self.unit == Unit::BytesEach
    }

    /// The program that makes the load.
    #[must_use]
    pub fn program(&self) -> &'static str {
        if matches!(self.tool, START | MEMORY) { "loadgen" } else { self.tool }
    }

    /// Requests a second that are asked for, if any: its own, or what the command line says for closed loops of `loadgen`.
    #[must_use]
    pub fn rate(&self, wanted: Option<f64>) -> Option<f64> {
        let settable = self.tool == "loadgen" && matches!(self.size, Size::Timed(_)) && self.bytes == 0;
        self.rate.or_else(|| wanted.filter(|_| settable))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::peers;

    #[test]
    fn names_are_unique() {
        for (number, scenario) in ALL.iter().enumerate() {
            assert!(
                ALL.iter().skip(number + 1).all(|other| other.name != scenario.name),
                "{}",
                scenario.name
            );
        }
    }

    #[test]
    fn quick_peers_are_peers_and_all_peers_are_known() {
        for scenario in ALL {
            for peer in scenario.quick {
                assert!(scenario.peers.contains(peer), "{}: {peer}", scenario.name);
            }
            for peer in scenario.peers.iter().chain(&scenario.against) {
                assert!(peers::find(peer).is_some(), "{}: {peer}", scenario.name);
            }
        }
    }

    #[test]
    fn memory_and_long_loads_have_fewer_rounds() {
        assert_eq!(find("start-1").unwrap().rounds(12), 6);
        assert_eq!(find("idle-10k").unwrap().rounds(12), 5);
        assert_eq!(find("idle-10k").unwrap().rounds(2), 2);
        assert_eq!(find("small-get").unwrap().rounds(5), 5);
    }

    #[test]
    fn a_rate_is_for_closed_loops_of_requests() {
        assert_eq!(find("small-get").unwrap().rate(Some(5.0)), Some(5.0));
        assert_eq!(find("latency").unwrap().rate(Some(5.0)), Some(10_000.0));
        assert_eq!(find("get-1mib").unwrap().rate(Some(5.0)), None);
        assert_eq!(find("idle-10k").unwrap().rate(Some(5.0)), None);
    }
}
