//! The native format: listeners, routes and backends in one short file, for use without Kubernetes.
//!
//! The types here are the wire format, its JSON Schema and the stored object at once. Each entry of a file is
//! an object of its own, so that a wrong one costs only itself. Unknown fields are errors.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Deserialize;

use super::address_pool::AddressPoolEntry;
use super::native_l4::ForwardSpec;
use super::native_tls::{BackendTlsSpec, HttpsRedirectSpec, ListenerProtocol, ListenerTlsSpec, ProtocolSpec};
use super::native_types::{
    Cidr, EndpointSpec, HashBy, ListenAddress, ListenerEntry, OneOrMany, StatusRange, Time,
};

/// A file in the native format.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(title = "Sluicegate configuration")]
pub(crate) struct ConfigFile {
    /// `sluicegate.dev/v1alpha1`; may be left out.
    #[expect(dead_code, reason = "read by hand, listed for the schema")]
    api_version: Option<ApiVersion>,
    /// `Config`; may be left out.
    #[expect(dead_code, reason = "read by hand, listed for the schema")]
    kind: Option<ConfigKind>,
    /// Free for the author's own use.
    #[expect(dead_code, reason = "read by hand, listed for the schema")]
    metadata: Option<BTreeMap<String, serde_json::Value>>,
    /// Sockets to listen on. Without any, routes are served where Ingresses are (`--http`).
    #[expect(dead_code, reason = "read by hand, listed for the schema")]
    #[serde(default)]
    listeners: Vec<ListenerEntry>,
    /// Which requests go where.
    #[expect(dead_code, reason = "read by hand, listed for the schema")]
    #[serde(default)]
    routes: Vec<RouteSpec>,
    /// Pools of endpoints that routes name.
    #[expect(dead_code, reason = "read by hand, listed for the schema")]
    #[serde(default)]
    backends: Vec<BackendSpec>,
    /// Addresses for Services of type LoadBalancer.
    #[expect(dead_code, reason = "read by hand, listed for the schema")]
    #[serde(default)]
    address_pools: Vec<AddressPoolEntry>,
}

#[derive(Debug, Deserialize, JsonSchema)]
enum ApiVersion {
    #[serde(rename = "sluicegate.dev/v1alpha1")]
    V1Alpha1,
}

#[derive(Debug, Deserialize, JsonSchema)]
enum ConfigKind {
    Config,
}

/// A socket to listen on: an address such as `127.0.0.1:8080`, or a map.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ListenerSpec {
    /// Name that routes refer to; the address when left out.
    pub(crate) name: Option<Arc<str>>,
    /// Address and port, as in `0.0.0.0:80` or `[::]:80`.
    pub(crate) address: ListenAddress,
    /// `http` (default), `https` (if there is `tls`), `tcp` or `udp`.
    pub(crate) protocol: Option<ListenerProtocol>,
    /// Certificates, and what is asked of clients.
    pub(crate) tls: Option<ListenerTlsSpec>,
    /// Require a PROXY protocol v1 or v2 header on every connection.
    #[serde(default)]
    pub(crate) proxy_protocol: bool,
    /// Networks whose `X-Forwarded-*` fields are believed; on a `tcp` listener, those that may connect and send a PROXY
    /// header.
    #[serde(default)]
    pub(crate) trusted_proxies: Vec<Cidr>,
    /// Listen although the host does not have the address (yet).
    #[serde(default)]
    pub(crate) free_bind: bool,
    /// Where a `tcp` or `udp` listener forwards to.
    pub(crate) forward: Option<ForwardSpec>,
    /// Abuse limits.
    #[serde(default)]
    pub(crate) limits: LimitsSpec,
    /// Treat a client's half-close as an abort.
    #[serde(default)]
    pub(crate) abort_on_half_close: bool,
}

/// Abuse limits of a listener; what is left out keeps its safe default.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct LimitsSpec {
    /// Request head in bytes, 1024 to 65536.
    #[schemars(range(min = 1_024, max = 65_536))]
    pub(crate) head_bytes: Option<u32>,
    /// Fields in a head, 1 to 256.
    #[schemars(range(min = 1, max = 256))]
    pub(crate) head_fields: Option<u16>,
    /// Request line in bytes, 8000 to 65536.
    #[schemars(range(min = 8_000, max = 65_536))]
    pub(crate) request_line_bytes: Option<u32>,
    /// For a whole request head to arrive.
    pub(crate) header_timeout: Option<Time>,
    /// A keep-alive connection without a request.
    pub(crate) idle_timeout: Option<Time>,
    /// No byte of a body moved.
    pub(crate) body_idle_timeout: Option<Time>,
    /// Slowest accepted request body in bytes per second; 0 turns it off.
    pub(crate) min_body_rate: Option<u32>,
    /// Open client connections.
    #[schemars(range(min = 1))]
    pub(crate) max_connections: Option<u32>,
    /// Requests on one connection; 0 for any number.
    pub(crate) max_requests_per_connection: Option<u32>,
    /// No byte moved after an Upgrade.
    pub(crate) tunnel_idle_timeout: Option<Time>,
    /// For a whole TLS handshake.
    pub(crate) handshake_timeout: Option<Time>,
    /// Requests at a time on one HTTP/2 connection, 1 to 1000.
    #[schemars(range(min = 1, max = 1_000))]
    pub(crate) max_concurrent_streams: Option<u32>,
}

/// Requests that match go to a backend, or are redirected.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct RouteSpec {
    /// Name in logs and metrics; made from the file's name and the position when left out.
    pub(crate) name: Option<Arc<str>>,
    /// Names of the listeners it is served on; all of the native ones when left out.
    pub(crate) listeners: Option<OneOrMany<Arc<str>>>,
    /// Hosts, exact or `*.example.com` (one label); every host when left out.
    #[serde(default)]
    pub(crate) hosts: OneOrMany<String>,
    /// Exact path; short for a single entry in `matches`.
    pub(crate) path: Option<String>,
    /// Path prefix by whole segments; short for a single entry in `matches`.
    pub(crate) path_prefix: Option<String>,
    /// Regular expression over the whole path; short for a single entry in `matches`.
    pub(crate) path_regex: Option<String>,
    /// Conditions of which one must hold; every request when left out.
    #[serde(default)]
    pub(crate) matches: Vec<MatchSpec>,
    /// Changes to requests and responses, or a redirect.
    #[serde(default)]
    pub(crate) filters: FiltersSpec,
    /// Name of the backend that takes all requests.
    pub(crate) backend: Option<Arc<str>>,
    /// Backends among which requests are split by weight.
    #[serde(default)]
    pub(crate) backends: Vec<ShareSpec>,
    /// Deadlines.
    #[serde(default)]
    pub(crate) timeouts: TimeoutsSpec,
    /// Automatic retries.
    #[serde(default)]
    pub(crate) retry: RetrySpec,
    /// Redirect cleartext requests to HTTPS: `true` for port 443, or the port.
    pub(crate) https_redirect: Option<HttpsRedirectSpec>,
    /// `Strict-Transport-Security` of responses over TLS, as in `max-age=31536000; includeSubDomains`.
    pub(crate) hsts: Option<String>,
    /// Relay TLS connections for the hosts to the backend as they are.
    #[serde(default)]
    pub(crate) tls_passthrough: bool,
}

/// Conditions that must all hold. At most one of the three paths.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct MatchSpec {
    /// Exact path.
    pub(crate) path: Option<String>,
    /// Path prefix by whole segments.
    pub(crate) path_prefix: Option<String>,
    /// Regular expression over the whole path.
    pub(crate) path_regex: Option<String>,
    /// Exact method, as in `POST`.
    pub(crate) method: Option<Arc<str>>,
    /// Header fields by name; a text compares exactly, `{regex: …}` matches the whole value.
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, ValueSpec>,
    /// Query parameters by name.
    #[serde(default)]
    pub(crate) query: BTreeMap<String, ValueSpec>,
}

/// A condition on a text: the text itself, or `{regex: …}`.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(untagged)]
pub(crate) enum ValueSpec {
    Exact(Arc<str>),
    Regex(RegexSpec),
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RegexSpec {
    /// Regular expression over the whole value.
    pub(crate) regex: String,
}

/// Changes to requests and responses, or a redirect.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct FiltersSpec {
    /// Changes to the request's header.
    #[serde(default)]
    pub(crate) request_headers: HeadersSpec,
    /// Changes to the response's header.
    #[serde(default)]
    pub(crate) response_headers: HeadersSpec,
    /// Change of host or path before forwarding.
    pub(crate) rewrite: Option<RewriteSpec>,
    /// Answer with a redirect instead of forwarding.
    pub(crate) redirect: Option<RedirectSpec>,
}

/// Header changes: `remove`, then `set`, then `add`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct HeadersSpec {
    /// Name to value, replacing what is there.
    #[serde(default)]
    pub(crate) set: BTreeMap<String, String>,
    /// Name to value, besides what is there.
    #[serde(default)]
    pub(crate) add: BTreeMap<String, String>,
    /// Names to remove.
    #[serde(default)]
    pub(crate) remove: Vec<String>,
}

/// Change of host or path before forwarding.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct RewriteSpec {
    /// New host.
    pub(crate) hostname: Option<String>,
    /// New whole path; the query stays.
    pub(crate) path: Option<String>,
    /// Replaces the matched prefix.
    pub(crate) prefix: Option<String>,
}

/// A redirect; what is left out is taken from the request.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct RedirectSpec {
    /// `http` or `https`.
    pub(crate) scheme: Option<String>,
    /// Host of the new location.
    pub(crate) hostname: Option<String>,
    /// Port of the new location.
    pub(crate) port: Option<u16>,
    /// Whole path of the new location.
    pub(crate) path: Option<String>,
    /// Replaces the matched prefix.
    pub(crate) prefix: Option<String>,
    /// 301, 302 (default), 303, 307 or 308.
    pub(crate) status: Option<u16>,
}

/// One share of a split.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ShareSpec {
    /// Name of the backend.
    pub(crate) name: Arc<str>,
    /// Relative share, 0 to 1000000 (default 1).
    #[schemars(range(max = 1_000_000))]
    pub(crate) weight: Option<u32>,
}

/// Deadlines of one request; `0` turns one off.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct TimeoutsSpec {
    /// From the request's end to the response's head.
    pub(crate) response: Option<Time>,
    /// No byte moved in either direction.
    pub(crate) idle: Option<Time>,
    /// The whole exchange.
    pub(crate) total: Option<Time>,
}

/// Automatic retries of idempotent requests.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct RetrySpec {
    /// Further attempts, 0 to 5.
    #[schemars(range(max = 5))]
    pub(crate) attempts: Option<u8>,
    /// Response codes to retry on, 500 to 599.
    #[serde(default)]
    pub(crate) codes: Vec<u16>,
    /// Retry when the response's head does not arrive in time.
    pub(crate) on_timeout: Option<bool>,
    /// Retry when a fresh connection ends without a response.
    pub(crate) on_empty_response: Option<bool>,
}

/// A pool of endpoints.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct BackendSpec {
    /// Name that routes refer to.
    pub(crate) name: Arc<str>,
    /// `address:port` or `dns-name:port`, or a map with a weight.
    pub(crate) endpoints: Vec<EndpointSpec>,
    /// How endpoints are spoken to (default `http`).
    pub(crate) protocol: Option<ProtocolSpec>,
    /// How endpoints of an encrypted backend are verified.
    pub(crate) tls: Option<BackendTlsSpec>,
    /// How an endpoint is chosen (default `round-robin`).
    pub(crate) balance: Option<BalanceSpec>,
    /// What a consistent hash is computed from: `source-ip` (default), `uri`, `header:NAME` or `cookie:NAME`.
    pub(crate) hash_by: Option<HashBy>,
    /// Health checks.
    #[serde(default)]
    pub(crate) health: HealthSpec,
    /// TCP connect deadline.
    pub(crate) connect_timeout: Option<Time>,
    /// How long an idle connection is kept.
    pub(crate) keepalive_timeout: Option<Time>,
    /// Idle connections kept per endpoint and worker; 0 turns reuse off.
    pub(crate) keepalive_connections: Option<u32>,
    /// Concurrent requests per endpoint; 0 for any number.
    pub(crate) max_requests_per_endpoint: Option<u32>,
    /// Requests that may wait for a free slot, per worker.
    pub(crate) queue_size: Option<u32>,
    /// How long one may wait.
    pub(crate) queue_timeout: Option<Time>,
    /// Ramp of new and recovered endpoints.
    pub(crate) slow_start: Option<Time>,
    /// Ignore health when fewer than this percentage is healthy; 0 for never.
    #[schemars(range(max = 100))]
    pub(crate) panic_threshold: Option<u8>,
}

/// How an endpoint is chosen.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum BalanceSpec {
    /// Each in turn, by weight.
    RoundRobin,
    /// The one with the fewest requests in flight, by weight.
    LeastConnection,
    /// The same endpoint for the same key (`hashBy`).
    ConsistentHash,
}

/// Health checks.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct HealthSpec {
    /// Probes that are sent.
    pub(crate) active: Option<ActiveSpec>,
    /// Ejection by what requests see; on by default.
    #[serde(default)]
    pub(crate) passive: PassiveSpec,
}

/// Probes that are sent: HTTP if there is a `path`, gRPC if there is `grpc`, else a TCP connect.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ActiveSpec {
    /// Path to ask for, as in `/healthz`.
    pub(crate) path: Option<Arc<str>>,
    /// gRPC service to ask for by `grpc.health.v1.Health/Check`; `""` = the server as a whole.
    pub(crate) grpc: Option<Arc<str>>,
    /// Host to ask for; the endpoint's address when left out.
    pub(crate) host: Option<Arc<str>>,
    /// Port to probe instead of the endpoint's.
    pub(crate) port: Option<u16>,
    /// Good status codes or ranges, as in `200-399` (default).
    #[serde(default)]
    pub(crate) expected: Vec<StatusRange>,
    /// Time between two probes (default 5s).
    pub(crate) interval: Option<Time>,
    /// Deadline of a probe (default 1s).
    pub(crate) timeout: Option<Time>,
    /// Successes in a row until a bad endpoint is good again (default 2).
    #[schemars(range(min = 1))]
    pub(crate) healthy_threshold: Option<u32>,
    /// Failures in a row until a good endpoint is bad (default 3).
    #[schemars(range(min = 1))]
    pub(crate) unhealthy_threshold: Option<u32>,
}

/// Ejection by what requests see.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct PassiveSpec {
    /// `false` turns it off.
    pub(crate) enabled: Option<bool>,
    /// Failures in a row that eject; 0 turns this rule off.
    pub(crate) consecutive_failures: Option<u32>,
    /// Failed percentage within the window that ejects; 0 turns this rule off.
    #[schemars(range(max = 100))]
    pub(crate) error_rate: Option<u8>,
    /// Requests within the window before the rate counts.
    pub(crate) minimum_requests: Option<u32>,
    /// Window of the rate.
    pub(crate) window: Option<Time>,
    /// First ejection; the n-th lasts n times as long.
    pub(crate) base_ejection: Option<Time>,
    /// Longest ejection.
    pub(crate) max_ejection: Option<Time>,
    /// At most this percentage of the endpoints is ejected.
    #[schemars(range(max = 100))]
    pub(crate) max_ejected: Option<u8>,
}

impl ListenerSpec {
    /// A listener of which only the address is said.
    pub(crate) fn at(address: ListenAddress) -> Self {
        Self {
            name: None,
            address,
            protocol: None,
            tls: None,
            proxy_protocol: false,
            trusted_proxies: Vec::new(),
            free_bind: false,
            forward: None,
            limits: LimitsSpec::default(),
            abort_on_half_close: false,
        }
    }

    /// The networks of `trustedProxies`.
    pub(crate) fn networks(&self) -> Vec<IpNet> {
        self.trusted_proxies.iter().map(|cidr| cidr.0).collect()
    }
}

/// Replaces `target` where the user said something.
pub(crate) fn set<T>(target: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *target = value;
    }
}

/// Replaces `target` where the user said something.
pub(crate) fn set_time(target: &mut Duration, value: Option<Time>) {
    set(target, value.map(|time| time.0));
}

/// An endpoint's host: an address, or a name to resolve.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum EndpointHost {
    Address(IpAddr),
    Name(Arc<str>),
}
