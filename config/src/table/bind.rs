//! Binds and listeners: the sockets and what is in force on them.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde::Serialize;

use super::hosts::HostMap;
use super::tls::TlsMap;

/// One socket: address, port, transport, with the hosts reachable through it.
#[derive(Clone, Debug)]
pub struct Bind {
    /// Everything but the hosts; shared, so that a route change does not copy it.
    pub config: Arc<BindConfig>,
    /// Host → rules. Binds that serve the same routes share one map.
    pub hosts: Arc<HostMap>,
    /// Name → certificates and what is asked of clients. Present if connections are encrypted
    /// ([`BindConfig::https`]), and on a cleartext Bind whose hosts include some that must not be served there
    /// ([`TlsMap::is_guarded`]).
    pub tls: Option<Arc<TlsMap>>,
}

/// The settings of a [`Bind`].
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct BindConfig {
    /// Address to listen on.
    pub address: SocketAddr,
    /// The listeners on this socket, for `/debug/table` and `explain`.
    pub listeners: Vec<Listener>,
    /// Connections begin with a TLS handshake.
    pub https: bool,
    /// Require a PROXY protocol v1 or v2 header before anything else.
    pub proxy_protocol: bool,
    /// Peers whose forwarding headers are believed.
    pub trusted_proxies: TrustedProxies,
    /// Abuse limits.
    pub limits: Limits,
    /// Treat a client's FIN as an abort (default false: a half-closed client still gets its answer).
    pub abort_on_half_close: bool,
    /// The address need not be the host's (yet): `IP_FREEBIND`, `IPV6_FREEBIND`.
    pub free_bind: bool,
}

/// Hostname + protocol on a Bind.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Listener {
    /// Name as the user wrote it; `http` for the Ingress bind.
    pub name: Arc<str>,
}

/// Peers whose `X-Forwarded-*` and `X-Request-ID` are believed.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq, Serialize)]
pub struct TrustedProxies(pub Vec<IpNet>);

impl TrustedProxies {
    /// True if `address` (canonicalised) is in one of the networks.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|net| net.contains(&address))
    }
}

/// Abuse limits of one Bind. Each has a safe default, a setting and a metric.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Limits {
    /// Request (and response) head in bytes, 1,024..=65,536.
    pub head_bytes: u32,
    /// Fields in a head, 1..=256.
    pub head_fields: u16,
    /// Request line in bytes; at least 8,000 must be accepted (RFC 9112 §3).
    pub request_line_bytes: u32,
    /// From the first byte of a head to its last, and for the first byte on a new connection.
    pub header_timeout: Duration,
    /// Keep-alive connection without a request.
    pub idle_timeout: Duration,
    /// No byte moved in either direction while a body is expected.
    pub body_idle_timeout: Duration,
    /// Slowest accepted request body, bytes per second averaged after a 10 s grace; 0 = off.
    pub min_body_rate: u32,
    /// Open client connections over all workers; more are accepted only when others close.
    pub max_connections: u32,
    /// Requests on one connection before it is closed; 0 = no limit.
    pub max_requests_per_connection: u32,
    /// After an Upgrade: no byte in either direction.
    pub tunnel_idle_timeout: Duration,
    /// From the first byte of a connection to the end of its TLS handshake.
    pub handshake_timeout: Duration,
    /// Requests at a time on one HTTP/2 connection, 1..=1,000 (SETTINGS_MAX_CONCURRENT_STREAMS).
    pub max_concurrent_streams: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_bytes: 65_536,
            head_fields: 100,
            request_line_bytes: 8_192,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            body_idle_timeout: Duration::from_secs(30),
            min_body_rate: 240,
            max_connections: 16_384,
            max_requests_per_connection: 0,
            tunnel_idle_timeout: Duration::from_secs(3_600),
            handshake_timeout: Duration::from_secs(10),
            max_concurrent_streams: 100,
        }
    }
}
