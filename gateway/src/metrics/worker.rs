//! What one worker counts for itself, whatever route or backend is concerned.
//!
//! It never aggregates: the registry adds the workers up at a scrape.

use super::cells::{Counter, status_class};
use crate::record::{Reason, Record};
use crate::tcp::{L4End, L4Record};
use crate::udp::Dropped;

/// A limit of [`config::table::Limits`] that stopped something. The label of `sluicegate_limit_hits_total`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum LimitHit {
    /// Head larger than `head_bytes`.
    HeadBytes,
    /// More fields than `head_fields`.
    HeadFields,
    /// Request line longer than `request_line_bytes`.
    RequestLine,
    /// No complete head within `header_timeout`.
    HeaderTimeout,
    /// Keep-alive connection without a request for `idle_timeout`.
    IdleTimeout,
    /// No body byte for `body_idle_timeout`.
    BodyIdleTimeout,
    /// Request body slower than `min_body_rate`.
    BodyRate,
    /// `max_connections` were open.
    Connections,
    /// `max_requests_per_connection` were served.
    RequestsPerConnection,
    /// Tunnel without a byte for `tunnel_idle_timeout`.
    TunnelIdleTimeout,
    /// Too many HTTP/2 streams that the client aborted before their response had ended.
    Http2Resets,
    /// Too many malformed HTTP/2 requests, or other reasons to reset streams.
    Http2Malformed,
    /// Too many SETTINGS frames.
    Http2Settings,
    /// Too many PING frames.
    Http2Pings,
    /// Too many HTTP/2 frames that carry nothing.
    Http2Frames,
    /// An HTTP/2 field block of too many frames or bytes.
    Http2FieldBlock,
    /// What the HTTP/2 library counts itself: streams reset before they were looked at, resets made necessary by errors,
    /// small and empty DATA frames, the size of decoded fields.
    Http2Other,
    /// An HTTP/2 client that took nothing of a response for `body_idle_timeout`, or next to nothing.
    Http2Stall,
    /// Relayed TCP connections had the share of file descriptors that is theirs.
    Descriptors,
    /// No local port was left for a connection to an endpoint of a TCP route.
    LocalPorts,
}

impl LimitHit {
    /// Every limit, in the order of [`Self::index`].
    pub const ALL: [Self; 20] = [
        Self::HeadBytes,
        Self::HeadFields,
        Self::RequestLine,
        Self::HeaderTimeout,
        Self::IdleTimeout,
        Self::BodyIdleTimeout,
        Self::BodyRate,
        Self::Connections,
        Self::RequestsPerConnection,
        Self::TunnelIdleTimeout,
        Self::Http2Resets,
        Self::Http2Malformed,
        Self::Http2Settings,
        Self::Http2Pings,
        Self::Http2Frames,
        Self::Http2FieldBlock,
        Self::Http2Other,
        Self::Http2Stall,
        Self::Descriptors,
        Self::LocalPorts,
    ];

    /// Position in [`Self::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The setting's name, as the metric label has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::HeadBytes => "head_bytes",
            Self::HeadFields => "head_fields",
            Self::RequestLine => "request_line_bytes",
            Self::HeaderTimeout => "header_timeout",
            Self::IdleTimeout => "idle_timeout",
            Self::BodyIdleTimeout => "body_idle_timeout",
            Self::BodyRate => "min_body_rate",
            Self::Connections => "max_connections",
            Self::RequestsPerConnection => "max_requests_per_connection",
            Self::TunnelIdleTimeout => "tunnel_idle_timeout",
            Self::Http2Resets => "http2_resets",
            Self::Http2Malformed => "http2_malformed",
            Self::Http2Settings => "http2_settings",
            Self::Http2Pings => "http2_pings",
            Self::Http2Frames => "http2_frames",
            Self::Http2FieldBlock => "http2_field_block",
            Self::Http2Other => "http2_other",
            Self::Http2Stall => "http2_stall",
            Self::Descriptors => "descriptors",
            Self::LocalPorts => "local_ports",
        }
    }
}

/// Why a TLS handshake failed. The label of `sluicegate_tls_handshake_failures_total`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum HandshakeFailure {
    /// Not over within `handshake_timeout`.
    Timeout,
    /// The client closed or reset the connection, without an alert.
    Closed,
    /// The first bytes were no TLS.
    NotTls,
    /// Messages that are malformed, too large or out of order.
    Malformed,
    /// No version, cipher suite, group, signature scheme or protocol in common.
    Incompatible,
    /// The client's certificate is missing where it is required, or does not verify.
    ClientCertificate,
    /// The client sent an alert: most often it does not accept our certificate.
    ClientAlert,
    /// Nothing can be served under the name: its settings could not be used, or the Bind is gone.
    NotServed,
}

impl HandshakeFailure {
    /// Every cause, in the order of [`Self::index`].
    pub const ALL: [Self; 8] = [
        Self::Timeout,
        Self::Closed,
        Self::NotTls,
        Self::Malformed,
        Self::Incompatible,
        Self::ClientCertificate,
        Self::ClientAlert,
        Self::NotServed,
    ];

    /// Position in [`Self::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The metric label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Closed => "closed",
            Self::NotTls => "not_tls",
            Self::Malformed => "malformed",
            Self::Incompatible => "incompatible",
            Self::ClientCertificate => "client_certificate",
            Self::ClientAlert => "client_alert",
            Self::NotServed => "not_served",
        }
    }
}

/// Labels of the cells in [`WorkerMetrics::tls_handshakes`], in their order: version and kind.
pub(super) const HANDSHAKES: [(&str, &str); 4] =
    [("1.2", "full"), ("1.2", "resumed"), ("1.3", "full"), ("1.3", "resumed")];

/// Counters of one worker. The worker is the single writer; a scrape reads from another thread. Aligned so
/// that two workers' cells never share a cache line (nor a prefetched pair of them).
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct WorkerMetrics {
    /// Client connections taken from the listening sockets.
    pub connections_accepted: Counter,
    /// Client connections that ended; what is open now is `connections_accepted - connections_closed`.
    pub connections_closed: Counter,
    /// Client connections closed at once because of `max_connections` or for want of file descriptors. Not
    /// counted as accepted.
    pub connections_rejected: Counter,
    /// Finished requests by [`Reason::index`].
    pub requests: [Counter; Reason::ALL.len()],
    /// Responses by status class: index 0 = 1xx … 4 = 5xx, of routed and unrouted requests.
    pub responses: [Counter; 5],
    /// Body bytes received from clients.
    pub request_bytes: Counter,
    /// Body bytes sent to clients.
    pub response_bytes: Counter,
    /// Requests on a client connection after its first.
    pub keepalive_requests: Counter,
    /// Hits of a limit by [`LimitHit::index`].
    pub limit_hits: [Counter; LimitHit::ALL.len()],
    /// TLS handshakes with clients that were completed, in the order of `HANDSHAKES`.
    pub tls_handshakes: [Counter; HANDSHAKES.len()],
    /// TLS handshakes with clients that failed, by [`HandshakeFailure::index`].
    pub tls_handshake_failures: [Counter; HandshakeFailure::ALL.len()],
    /// Connections opened to endpoints.
    pub upstream_connects: Counter,
    /// Attempts to connect to an endpoint that failed or timed out.
    pub upstream_connect_failures: Counter,
    /// Full TLS handshakes with endpoints.
    pub upstream_tls_handshakes: Counter,
    /// TLS handshakes with endpoints that resumed a session.
    pub upstream_tls_resumptions: Counter,
    /// TLS handshakes with endpoints that failed; those that took too long are not among them.
    pub upstream_tls_failures: Counter,
    /// Requests sent on a pooled connection.
    pub upstream_reuses: Counter,
    /// Pooled connections closed while idle: too old, too many, closed by the endpoint, or endpoint removed.
    pub upstream_evictions: Counter,
    /// Attempts after the first one.
    pub retries: Counter,
    /// Bytes moved inside the kernel instead of through our buffers.
    pub spliced_bytes: Counter,
    /// Tunnels begun by an Upgrade.
    pub tunnels_opened: Counter,
    /// Tunnels that ended; what is open now is `tunnels_opened - tunnels_closed`.
    pub tunnels_closed: Counter,
    /// Relayed connections that ended or were refused, by [`L4End::index`].
    pub l4_ended: [Counter; L4End::ALL.len()],
    /// Bytes of relayed connections that have ended, from clients.
    pub l4_bytes_in: Counter,
    /// Bytes of relayed connections that have ended, from endpoints.
    pub l4_bytes_out: Counter,
    /// Relayed connections that were connected to an endpoint.
    pub l4_opened: Counter,
    /// Those of [`Self::l4_opened`] that have ended.
    pub l4_closed: Counter,
    /// UDP flows that got an endpoint.
    pub udp_opened: Counter,
    /// Those of [`Self::udp_opened`] that have ended, by [`L4End::index`].
    pub udp_ended: [Counter; L4End::ALL.len()],
    /// Datagrams from clients.
    pub udp_datagrams_in: Counter,
    /// Datagrams from endpoints.
    pub udp_datagrams_out: Counter,
    /// Bytes of datagrams from clients.
    pub udp_bytes_in: Counter,
    /// Bytes of datagrams from endpoints.
    pub udp_bytes_out: Counter,
    /// Datagrams that went nowhere, by [`Dropped::index`].
    pub udp_dropped: [Counter; Dropped::ALL.len()],
    /// Connections whose PROXY protocol header was absent or malformed.
    pub proxy_protocol_errors: Counter,
    /// Table versions that this worker has switched to.
    pub swaps_seen: Counter,
    /// Connections that ended in a panic.
    pub panics: Counter,
}

impl WorkerMetrics {
    /// Counts one finished request. Only the owning worker may call this.
    #[inline]
    pub fn request_done(&self, record: &Record<'_>) {
        if let Some(reason) = self.requests.get(record.reason.index()) {
            reason.add(1);
        }
        if let Some(class) = status_class(record.status).and_then(|class| self.responses.get(class)) {
            class.add(1);
        }
        self.request_bytes.add(record.request_bytes);
        self.response_bytes.add(record.response_bytes);
    }

    /// Counts a relayed connection that has ended. Only the owning worker may call this.
    pub fn l4_done(&self, record: &L4Record<'_>) {
        if let Some(end) = self.l4_ended.get(record.end.index()) {
            end.add(1);
        }
        self.l4_bytes_in.add(record.bytes_in);
        self.l4_bytes_out.add(record.bytes_out);
    }

    /// Counts datagrams of a client. Only the owning worker may call this.
    #[inline]
    pub fn udp_received(&self, count: usize, bytes: usize) {
        self.udp_datagrams_in.add(count as u64);
        self.udp_bytes_in.add(bytes as u64);
    }

    /// Counts datagrams of an endpoint. Only the owning worker may call this.
    #[inline]
    pub fn udp_answered(&self, count: usize, bytes: usize) {
        self.udp_datagrams_out.add(count as u64);
        self.udp_bytes_out.add(bytes as u64);
    }

    /// Counts datagrams that go nowhere. Only the owning worker may call this.
    pub fn udp_dropped(&self, count: usize, why: Dropped) {
        if let Some(cell) = self.udp_dropped.get(why.index()) {
            cell.add(count as u64);
        }
    }

    /// Counts a flow that has ended. Only the owning worker may call this.
    pub fn udp_ended(&self, end: L4End) {
        if let Some(cell) = self.udp_ended.get(end.index()) {
            cell.add(1);
        }
    }

    /// Counts a completed handshake. Only the owning worker may call this.
    pub fn handshake_done(&self, is_tls13: bool, resumed: bool) {
        let index = usize::from(is_tls13) * 2 + usize::from(resumed);
        if let Some(cell) = self.tls_handshakes.get(index) {
            cell.add(1);
        }
    }

    /// Counts a failed handshake. Only the owning worker may call this.
    pub fn handshake_failed(&self, why: HandshakeFailure) {
        if let Some(cell) = self.tls_handshake_failures.get(why.index()) {
            cell.add(1);
        }
    }

    /// Counts one hit of `limit`. Only the owning worker may call this.
    #[inline]
    pub fn limit_hit(&self, limit: LimitHit) {
        if let Some(cell) = self.limit_hits.get(limit.index()) {
            cell.add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{HandshakeFailure, LimitHit};

    #[test]
    fn the_index_of_a_failure_is_its_position_among_all() {
        for (position, failure) in HandshakeFailure::ALL.into_iter().enumerate() {
            assert_eq!(failure.index(), position, "{}", failure.name());
        }
    }

    #[test]
    fn the_index_of_a_limit_is_its_position_among_all() {
        for (position, limit) in LimitHit::ALL.into_iter().enumerate() {
            assert_eq!(limit.index(), position, "{}", limit.name());
        }
    }
}
