//! Every metric family of the gateway. `docs/metrics.md` lists the same; a test compares them.

/// What a family's values are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FamilyKind {
    /// Only ever increases.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Buckets, sum and count.
    Histogram,
}

/// A metric's name with everything that is fixed about it.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// Full name, with unit and `_total` where due.
    pub name: &'static str,
    /// What the values are.
    pub kind: FamilyKind,
    /// Label names, besides `le`.
    pub labels: &'static [&'static str],
    /// One sentence for the `HELP` line.
    pub help: &'static str,
}

macro_rules! families {
    ($($ident:ident: $kind:ident $name:literal [$($label:literal),*] $help:literal)*) => {
        $(pub(super) const $ident: Family = Family {
            name: $name,
            kind: FamilyKind::$kind,
            labels: &[$($label),*],
            help: $help,
        };)*

        /// All of them, in the order in which they are rendered.
        pub const FAMILIES: &[Family] = &[$($ident),*];
    };
}

families! {
    BUILD_INFO: Gauge "sluicegate_build_info" ["version"] "Always 1; the label tells the version."
    WORKERS: Gauge "sluicegate_workers" [] "Worker threads."

    CONNECTIONS_OPEN: Gauge "sluicegate_connections_open" ["worker"] "Client connections open now."
    CONNECTIONS_ACCEPTED: Counter "sluicegate_connections_accepted_total" ["worker"] "Client connections accepted."
    CONNECTIONS_REJECTED: Counter "sluicegate_connections_rejected_total" [] "Client connections closed at once because too many were open or no file descriptor was left."
    PROXY_PROTOCOL_ERRORS: Counter "sluicegate_proxy_protocol_errors_total" [] "Client connections closed because their PROXY protocol header was absent or malformed."
    REQUESTS: Counter "sluicegate_requests_total" ["reason"] "Finished requests by how they ended."
    RESPONSES: Counter "sluicegate_responses_total" ["class"] "Responses sent to clients by status class."
    REQUEST_BYTES: Counter "sluicegate_request_body_bytes_total" [] "Body bytes received from clients."
    RESPONSE_BYTES: Counter "sluicegate_response_body_bytes_total" [] "Body bytes sent to clients."
    SPLICED_BYTES: Counter "sluicegate_spliced_bytes_total" [] "Bytes moved inside the kernel, without a copy through the process."
    KEEPALIVE_REQUESTS: Counter "sluicegate_keepalive_requests_total" [] "Requests on a client connection after its first."
    LIMIT_HITS: Counter "sluicegate_limit_hits_total" ["limit"] "Requests refused and connections closed because of a limit, by the limit's name."
    TUNNELS_OPEN: Gauge "sluicegate_tunnels_open" [] "Upgraded connections (WebSocket and the like) and TLS connections passed through, open now."
    TUNNELS_OPENED: Counter "sluicegate_tunnels_opened_total" [] "Upgraded connections and TLS connections passed through, begun."

    TCP_OPEN: Gauge "sluicegate_tcp_connections_open" [] "Connections of TCP routes that are connected to an endpoint now."
    TCP_ENDED: Counter "sluicegate_tcp_connections_total" ["reason"] "Connections of TCP routes that ended or were refused, by how."
    TCP_BYTES: Counter "sluicegate_tcp_bytes_total" ["direction"] "Bytes of TCP routes' connections that have ended: in, from clients, and out, from endpoints."

    UDP_OPEN: Gauge "sluicegate_udp_flows_open" [] "Flows of UDP routes that exist now."
    UDP_OPENED: Counter "sluicegate_udp_flows_opened_total" [] "Flows of UDP routes that got an endpoint."
    UDP_ENDED: Counter "sluicegate_udp_flows_ended_total" ["reason"] "Flows of UDP routes that ended, by how."
    UDP_DATAGRAMS: Counter "sluicegate_udp_datagrams_total" ["direction"] "Datagrams received on UDP routes: in, from clients, and out, from endpoints."
    UDP_BYTES: Counter "sluicegate_udp_bytes_total" ["direction"] "Bytes in these datagrams."
    UDP_DROPPED: Counter "sluicegate_udp_dropped_total" ["reason"] "Datagrams among these that were not sent on, by why."

    TLS_HANDSHAKES: Counter "sluicegate_tls_handshakes_total" ["version", "kind"] "TLS handshakes with clients that were completed, by protocol version, full or resumed."
    TLS_HANDSHAKE_FAILURES: Counter "sluicegate_tls_handshake_failures_total" ["cause"] "TLS handshakes with clients that failed, by cause."

    UPSTREAM_CONNECTS: Counter "sluicegate_upstream_connects_total" [] "Connections opened to endpoints."
    UPSTREAM_CONNECT_FAILURES: Counter "sluicegate_upstream_connect_failures_total" [] "Connections to endpoints that failed or timed out while opening."
    UPSTREAM_TLS_HANDSHAKES: Counter "sluicegate_upstream_tls_handshakes_total" [] "Full TLS handshakes with endpoints."
    UPSTREAM_TLS_RESUMPTIONS: Counter "sluicegate_upstream_tls_resumptions_total" [] "TLS handshakes with endpoints that resumed a session."
    UPSTREAM_TLS_FAILURES: Counter "sluicegate_upstream_tls_failures_total" [] "TLS handshakes with endpoints that failed: name, issuer, validity or protocol."
    UPSTREAM_REUSES: Counter "sluicegate_upstream_reuses_total" [] "Requests sent on a pooled connection."
    UPSTREAM_EVICTIONS: Counter "sluicegate_upstream_evictions_total" [] "Pooled connections closed while idle."
    RETRIES: Counter "sluicegate_retries_total" [] "Attempts after the first one of a request."
    SWAPS: Counter "sluicegate_worker_swaps_total" [] "Table versions taken up, summed over workers."
    PANICS: Counter "sluicegate_panics_total" [] "Connections that ended in a panic; always a bug worth reporting."

    ACCESS_LOG_LINES: Counter "sluicegate_access_log_lines_total" [] "Access log lines written."
    ACCESS_LOG_BYTES: Counter "sluicegate_access_log_bytes_total" [] "Access log bytes written."
    ACCESS_LOG_DROPPED: Counter "sluicegate_access_log_dropped_total" [] "Access log lines lost because writing was too slow or failed."
    ACCESS_LOG_ERRORS: Counter "sluicegate_access_log_write_errors_total" [] "Failed writes to the access log and failed attempts to open it anew."

    BINDS_FAILED: Gauge "sluicegate_binds_failed" [] "Addresses that the table has and that could not be opened."
    TABLE_VERSION: Gauge "sluicegate_table_version" [] "Version of the table that is served."
    TABLE_OBJECTS: Gauge "sluicegate_table_objects" ["kind"] "Binds, routes, backends and endpoints in the table that is served."
    CERTIFICATE_EXPIRY: Gauge "sluicegate_certificate_expiry_timestamp_seconds" ["certificate"] "When a served certificate expires, in seconds since the Unix epoch."
    CLIENT_CA_EXPIRY: Gauge "sluicegate_client_ca_expiry_timestamp_seconds" ["ca"] "When the first of the authorities that clients are verified against expires, in seconds since the Unix epoch."
    CLIENT_CRL_UPDATE: Gauge "sluicegate_client_crl_next_update_timestamp_seconds" ["ca"] "When the first of their revocation lists is due to be replaced, in seconds since the Unix epoch."
    FOLDED: Gauge "sluicegate_metrics_folded" ["kind"] "Routes, backends and endpoints that have no series of their own but are summed up under _other."

    ROUTE_RESPONSES: Counter "sluicegate_route_responses_total" ["route", "class"] "Responses sent to clients by status class."
    ROUTE_DURATION: Histogram "sluicegate_route_request_duration_seconds" ["route"] "Time from a request's head to the end of its response."
    ROUTE_REQUEST_BYTES: Counter "sluicegate_route_request_body_bytes_total" ["route"] "Body bytes received from clients."
    ROUTE_RESPONSE_BYTES: Counter "sluicegate_route_response_body_bytes_total" ["route"] "Body bytes sent to clients."

    BACKEND_ENDPOINTS: Gauge "sluicegate_backend_endpoints" ["backend", "state"] "Endpoints of the backend that are healthy and unhealthy."
    BACKEND_WAITING: Gauge "sluicegate_backend_waiting" ["backend"] "Requests that wait for a free slot now."
    BACKEND_RETRIES: Counter "sluicegate_backend_retries_total" ["backend"] "Further attempts after a failed one."
    BACKEND_RETRIES_DENIED: Counter "sluicegate_backend_retries_denied_total" ["backend"] "Retries that the retry budget forbade."
    BACKEND_NO_ENDPOINT: Counter "sluicegate_backend_no_endpoint_total" ["backend"] "Requests that found no endpoint."
    BACKEND_QUEUED: Counter "sluicegate_backend_queued_total" ["backend"] "Requests that waited because every endpoint was at its cap."
    BACKEND_QUEUE_REJECTED: Counter "sluicegate_backend_queue_rejected_total" ["backend"] "Requests refused because the queue was full or the wait too long."

    ENDPOINT_HEALTHY: Gauge "sluicegate_endpoint_healthy" ["backend", "endpoint"] "1 if the endpoint takes traffic, 0 if probes or failures took it out."
    ENDPOINT_IN_FLIGHT: Gauge "sluicegate_endpoint_in_flight" ["backend", "endpoint"] "Requests at the endpoint now."
    ENDPOINT_REQUESTS: Counter "sluicegate_endpoint_requests_total" ["backend", "endpoint"] "Attempts sent to the endpoint."
    ENDPOINT_FAILURES: Counter "sluicegate_endpoint_failures_total" ["backend", "endpoint"] "Attempts that ended in a connect error, reset, timeout or malformed response."
    ENDPOINT_CONNECTS: Counter "sluicegate_endpoint_connects_total" ["backend", "endpoint"] "Connections opened to the endpoint."
    ENDPOINT_HEAD: Histogram "sluicegate_endpoint_response_head_seconds" ["backend", "endpoint"] "Time from the last request byte to the response head."

    PROCESS_CPU: Counter "process_cpu_seconds_total" [] "User and system CPU time spent."
    PROCESS_RESIDENT_MEMORY: Gauge "process_resident_memory_bytes" [] "Resident memory."
    PROCESS_THREADS: Gauge "process_threads" [] "Threads."
    PROCESS_OPEN_FDS: Gauge "process_open_fds" [] "Open file descriptors."
    PROCESS_MAX_FDS: Gauge "process_max_fds" [] "File descriptors that may be open."
    PROCESS_START_TIME: Gauge "process_start_time_seconds" [] "When the process started, in seconds since the Unix epoch."
}
