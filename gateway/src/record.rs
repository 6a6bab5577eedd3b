//! What is known of a request when it ends: the single input of metrics and access log.

use std::net::IpAddr;
use std::time::Duration;

/// Why the gateway itself answered, or how the exchange ended. The name is the reason code that clients, logs
/// and metrics see.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Reason {
    /// The endpoint's response was forwarded to its end.
    Forwarded,
    /// The rule is a redirect.
    Redirected,
    /// `OPTIONS *`, answered locally.
    Local,
    /// A TLS connection was passed on as it is, to its end.
    PassedThrough,
    /// Malformed or ambiguous request (400).
    BadRequest,
    /// CONNECT or TRACE (405).
    MethodNotAllowed,
    /// The head did not arrive in time (408).
    HeaderTimeout,
    /// The request body arrived too slowly or not at all (408).
    BodyTimeout,
    /// Content-Length beyond what can be represented (413).
    ContentTooLarge,
    /// Request line too long (414).
    UriTooLong,
    /// An expectation other than 100-continue (417).
    ExpectationFailed,
    /// WebSocket version other than 13 (426).
    UpgradeRequired,
    /// Head too large or too many fields (431).
    HeaderTooLarge,
    /// A transfer coding or method we do not implement (501).
    NotImplemented,
    /// The request came back to this gateway too often (508).
    LoopDetected,
    /// HTTP version other than 1.0 and 1.1 (505).
    VersionNotSupported,
    /// The host is served under other TLS settings than those of this connection (421).
    MisdirectedRequest,
    /// No rule for host and path (404).
    NoRoute,
    /// The backend has no endpoint that may be used (503).
    NoEndpoint,
    /// The rule's Service or port does not exist (503).
    BackendNotFound,
    /// A setting of the route is invalid, so it is closed (503).
    InvalidSetting,
    /// Every attempt to connect failed (503).
    ConnectFailed,
    /// The endpoint cap was reached and the queue was full or too slow (503).
    Overloaded,
    /// The endpoint's response was malformed (502).
    BadResponse,
    /// The endpoint closed without a response (502).
    EmptyResponse,
    /// The endpoint speaks HTTP/2 and takes no WebSockets (502).
    WebSocketUnsupported,
    /// No response head in time (504).
    ResponseTimeout,
    /// The total request deadline passed (504 if nothing was sent).
    RequestTimeout,
    /// The response body was cut short by the endpoint.
    ResponseTruncated,
    /// No byte moved for the idle timeout in mid-exchange.
    IdleTimeout,
    /// The client went away.
    ClientGone,
}

impl Reason {
    /// Every reason, in the order of [`Self::index`].
    pub const ALL: [Self; 31] = [
        Self::Forwarded,
        Self::Redirected,
        Self::Local,
        Self::PassedThrough,
        Self::BadRequest,
        Self::MethodNotAllowed,
        Self::HeaderTimeout,
        Self::BodyTimeout,
        Self::ContentTooLarge,
        Self::UriTooLong,
        Self::ExpectationFailed,
        Self::UpgradeRequired,
        Self::HeaderTooLarge,
        Self::NotImplemented,
        Self::LoopDetected,
        Self::VersionNotSupported,
        Self::MisdirectedRequest,
        Self::NoRoute,
        Self::NoEndpoint,
        Self::BackendNotFound,
        Self::InvalidSetting,
        Self::ConnectFailed,
        Self::Overloaded,
        Self::BadResponse,
        Self::EmptyResponse,
        Self::WebSocketUnsupported,
        Self::ResponseTimeout,
        Self::RequestTimeout,
        Self::ResponseTruncated,
        Self::IdleTimeout,
        Self::ClientGone,
    ];

    /// Position in [`Self::ALL`], for arrays with one cell per reason. Not stable between releases.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// CamelCase reason code.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Forwarded => "Forwarded",
            Self::Redirected => "Redirected",
            Self::Local => "Local",
            Self::PassedThrough => "PassedThrough",
            Self::BadRequest => "BadRequest",
            Self::MethodNotAllowed => "MethodNotAllowed",
            Self::HeaderTimeout => "HeaderTimeout",
            Self::BodyTimeout => "BodyTimeout",
            Self::ContentTooLarge => "ContentTooLarge",
            Self::UriTooLong => "UriTooLong",
            Self::ExpectationFailed => "ExpectationFailed",
            Self::UpgradeRequired => "UpgradeRequired",
            Self::HeaderTooLarge => "HeaderTooLarge",
            Self::NotImplemented => "NotImplemented",
            Self::LoopDetected => "LoopDetected",
            Self::VersionNotSupported => "VersionNotSupported",
            Self::MisdirectedRequest => "MisdirectedRequest",
            Self::NoRoute => "NoRoute",
            Self::NoEndpoint => "NoEndpoint",
            Self::BackendNotFound => "BackendNotFound",
            Self::InvalidSetting => "InvalidSetting",
            Self::ConnectFailed => "ConnectFailed",
            Self::Overloaded => "Overloaded",
            Self::BadResponse => "BadResponse",
            Self::EmptyResponse => "EmptyResponse",
            Self::WebSocketUnsupported => "WebSocketUnsupported",
            Self::ResponseTimeout => "ResponseTimeout",
            Self::RequestTimeout => "RequestTimeout",
            Self::ResponseTruncated => "ResponseTruncated",
            Self::IdleTimeout => "IdleTimeout",
            Self::ClientGone => "ClientGone",
        }
    }

    /// The status that the gateway answers with when nothing was sent yet: the one table from errors to
    /// statuses. 0 = close without an answer.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::Forwarded | Self::Redirected | Self::Local => 200,
            Self::BadRequest => 400,
            Self::NoRoute => 404,
            Self::MethodNotAllowed => 405,
            Self::HeaderTimeout | Self::BodyTimeout => 408,
            Self::ContentTooLarge => 413,
            Self::UriTooLong => 414,
            Self::ExpectationFailed => 417,
            Self::MisdirectedRequest => 421,
            Self::UpgradeRequired => 426,
            Self::HeaderTooLarge => 431,
            Self::NotImplemented => 501,
            Self::BadResponse
            | Self::EmptyResponse
            | Self::ResponseTruncated
            | Self::WebSocketUnsupported => 502,
            Self::NoEndpoint
            | Self::BackendNotFound
            | Self::InvalidSetting
            | Self::ConnectFailed
            | Self::Overloaded => 503,
            Self::ResponseTimeout | Self::RequestTimeout | Self::IdleTimeout => 504,
            Self::VersionNotSupported => 505,
            Self::LoopDetected => 508,
            Self::ClientGone | Self::PassedThrough => 0,
        }
    }
}

/// A version of HTTP.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
    /// HTTP/2.
    Http2,
}

impl Version {
    /// Major and minor number.
    #[must_use]
    pub const fn number(self) -> &'static str {
        match self {
            Self::Http10 => "1.0",
            Self::Http11 => "1.1",
            Self::Http2 => "2.0",
        }
    }
}

/// One finished request. Borrowed from the connection's buffers; nothing in it is kept.
#[derive(Debug)]
pub struct Record<'a> {
    /// The client's address as resolved through trusted proxies.
    pub client: IpAddr,
    /// Method as sent; empty if the head never parsed.
    pub method: &'a [u8],
    /// Authority as sent.
    pub host: &'a [u8],
    /// Request target as sent.
    pub target: &'a [u8],
    /// Version of HTTP that the client speaks.
    pub version: Version,
    /// `X-Request-ID` as forwarded.
    pub request_id: &'a [u8],
    /// `User-Agent` as sent.
    pub user_agent: &'a [u8],
    /// `Referer` as sent.
    pub referer: &'a [u8],
    /// Status sent to the client; 0 if none was.
    pub status: u16,
    /// How it ended.
    pub reason: Reason,
    /// Route's display name, if one was chosen.
    pub route: Option<&'a str>,
    /// Backend's display name, if one was chosen.
    pub backend: Option<&'a str>,
    /// Endpoint of the last attempt.
    pub endpoint: Option<std::net::SocketAddr>,
    /// Attempts made.
    pub attempts: u8,
    /// Body bytes received from the client.
    pub request_bytes: u64,
    /// Body bytes sent to the client.
    pub response_bytes: u64,
    /// From the request's head to the end of the response.
    pub duration: Duration,
    /// From the last request byte to the response head, for the last attempt.
    pub response_head: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use super::Reason;

    #[test]
    fn the_index_of_a_reason_is_its_position_among_all() {
        for (position, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), position, "{}", reason.code());
        }
    }

    #[test]
    fn no_two_reasons_share_a_code() {
        let codes: std::collections::HashSet<_> = Reason::ALL.into_iter().map(Reason::code).collect();
        assert_eq!(codes.len(), Reason::ALL.len());
    }
}
