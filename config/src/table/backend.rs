//! Backends: a resolved pool of endpoints with its balance and health policy.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::tls::BackendTls;

/// A resolved pool: endpoints that may take new requests now, and how to choose among them.
#[derive(Clone, Debug, Serialize)]
pub struct Backend {
    /// Stable display name: `namespace/service:port`, or the native backend's name. A metric label.
    pub name: Arc<str>,
    /// Endpoints eligible for new requests, deduplicated and sorted by address. Terminating ones appear only
    /// when no ready endpoint is left.
    pub endpoints: Arc<[Endpoint]>,
    /// Everything but the endpoints; shared, so an endpoint change does not copy it.
    pub policy: Arc<BackendPolicy>,
}

/// One address:port of a [`Backend`].
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Endpoint {
    /// Where to connect. IPv4-mapped IPv6 is canonicalised to IPv4.
    pub address: SocketAddr,
    /// Relative share of traffic, 1..=65,535 (default 1).
    pub weight: u16,
    /// Who is behind the address (a Pod's uid), so that a re-used IP inherits neither health nor connections.
    pub identity: Option<Arc<str>>,
    /// The DNS name that this address came from, if any; the probe's and the request's default Host is not
    /// changed by it.
    pub dns_name: Option<Arc<str>>,
}

/// How a [`Backend`] is spoken to, balanced and watched.
#[derive(Clone, Debug, Eq, Hash, PartialEq, Serialize)]
pub struct BackendPolicy {
    /// Wire protocol to the endpoints.
    pub protocol: BackendProtocol,
    /// Connections to the endpoints are encrypted; cleartext when absent.
    pub tls: Option<Arc<BackendTls>>,
    /// Balancing policy.
    pub balance: Balance,
    /// Active and passive health checking.
    pub health: Arc<HealthPolicy>,
    /// Concurrent requests per endpoint, 0 = no cap. At the cap, other endpoints are tried, then the queue.
    pub max_requests_per_endpoint: u32,
    /// Requests that may wait for a free slot of this Backend, over all workers; 0 = no queue (503 at once).
    pub queue_size: u32,
    /// How long one may wait in the queue before 503.
    pub queue_timeout: Duration,
    /// Ramp for an endpoint that is new or has recovered: its share grows linearly over this time. Zero = off.
    pub slow_start: Duration,
    /// When fewer than this percentage of endpoints is healthy, health is ignored (0 = never; default 50).
    pub panic_threshold: u8,
    /// TCP connect deadline.
    pub connect_timeout: Duration,
    /// How long an idle pooled connection is kept.
    pub keepalive_timeout: Duration,
    /// Idle connections kept per endpoint and worker; 0 turns reuse off.
    pub keepalive_connections: u32,
}

/// Wire protocol towards endpoints.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendProtocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2: by prior knowledge in cleartext (RFC 9113 §3.3), by ALPN `h2` over TLS.
    Http2,
}

/// How an endpoint is chosen.
#[derive(Clone, Debug, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Balance {
    /// Weighted, smooth, O(1) per pick.
    RoundRobin,
    /// Fewest requests in flight relative to weight.
    LeastConnection,
    /// Ketama ring with bounded load.
    ConsistentHash(HashKey),
}

/// What a consistent hash is computed from. When the request lacks it, the pick falls back to the source IP.
#[derive(Clone, Debug, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum HashKey {
    /// The client's address as resolved through trusted proxies.
    SourceIp,
    /// A request header, by lower-case name.
    Header(Arc<str>),
    /// A cookie, by exact name.
    Cookie(Arc<str>),
    /// Path and query as forwarded.
    Uri,
}

/// Active and passive health checking of a [`Backend`].
#[derive(Clone, Debug, Eq, Hash, PartialEq, Serialize)]
pub struct HealthPolicy {
    /// Probes sent by the gateway, if any.
    pub active: Option<ActiveProbe>,
    /// Ejection by observed failures, if any.
    pub passive: Option<PassivePolicy>,
}

/// Probes that the gateway sends.
#[derive(Clone, Debug, Eq, Hash, PartialEq, Serialize)]
pub struct ActiveProbe {
    /// What is sent and expected.
    pub kind: ProbeKind,
    /// Time between two probes of one endpoint; ±10 % jitter is added.
    pub interval: Duration,
    /// Deadline of one probe, connect included.
    pub timeout: Duration,
    /// Successes in a row until a bad endpoint is healthy again.
    pub healthy_threshold: u32,
    /// Failures in a row until a healthy endpoint is bad.
    pub unhealthy_threshold: u32,
}

/// What an active probe does.
#[derive(Clone, Debug, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ProbeKind {
    /// A TCP connect that succeeds.
    Tcp,
    /// `GET path` answered with a status in `expected`.
    Http {
        /// Request target.
        path: Arc<str>,
        /// Host header; the endpoint's address when absent.
        host: Option<Arc<str>>,
        /// Accepted status codes, inclusive ranges.
        expected: Arc<[(u16, u16)]>,
        /// Port to probe instead of the endpoint's own.
        port: Option<u16>,
    },
    /// `grpc.health.v1.Health/Check` answered with SERVING.
    Grpc {
        /// Service to ask for; empty = the server as a whole.
        service: Arc<str>,
        /// Port to probe instead of the endpoint's own.
        port: Option<u16>,
    },
}

/// Ejection by what real requests saw.
#[derive(Clone, Debug, Eq, Hash, PartialEq, Serialize)]
pub struct PassivePolicy {
    /// Failures in a row (connect error, reset, timeout, 502/503/504 of the endpoint) that eject; 0 = off.
    pub consecutive_failures: u32,
    /// Failed share in percent within `window` that ejects; 0 = off.
    pub error_rate: u8,
    /// Requests within `window` before `error_rate` counts.
    pub minimum_requests: u32,
    /// Sliding window of `error_rate`.
    pub window: Duration,
    /// First ejection; the n-th lasts n times as long.
    pub base_ejection: Duration,
    /// Longest ejection.
    pub max_ejection: Duration,
    /// At most this percentage of a Backend's endpoints is ejected (at least one may always be).
    pub max_ejected: u8,
}

impl Default for PassivePolicy {
    fn default() -> Self {
        Self {
            consecutive_failures: 3,
            error_rate: 0,
            minimum_requests: 20,
            window: Duration::from_secs(10),
            base_ejection: Duration::from_secs(5),
            max_ejection: Duration::from_secs(300),
            max_ejected: 100,
        }
    }
}

impl Default for HealthPolicy {
    fn default() -> Self {
        Self { active: None, passive: Some(PassivePolicy::default()) }
    }
}

impl Default for BackendPolicy {
    fn default() -> Self {
        Self {
            protocol: BackendProtocol::Http1,
            tls: None,
            balance: Balance::RoundRobin,
            health: Arc::new(HealthPolicy::default()),
            max_requests_per_endpoint: 0,
            queue_size: 0,
            queue_timeout: Duration::from_secs(1),
            slow_start: Duration::ZERO,
            panic_threshold: 50,
            connect_timeout: Duration::from_secs(1),
            keepalive_timeout: Duration::from_secs(60),
            keepalive_connections: 1_024,
        }
    }
}
