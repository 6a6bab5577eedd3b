//! How relayed connections end: the one set of reasons for metrics and access log.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use config::table::L4Key;

/// How a relayed connection or flow ended, or why it never came about.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum L4End {
    /// Both sides ended it.
    Closed,
    /// The client broke it off.
    ClientReset,
    /// The endpoint broke it off.
    EndpointReset,
    /// No byte moved for the idle timeout.
    IdleTimeout,
    /// It reached its longest life.
    Lifetime,
    /// Its endpoint was removed, and the time to finish was over.
    EndpointRemoved,
    /// The gateway went down before it ended.
    Shutdown,
    /// The client is in none of the source ranges.
    SourceDenied,
    /// The PROXY header was absent, malformed or late.
    BadProxyHeader,
    /// The Bind has as many connections as it may have.
    TooMany,
    /// Every endpoint has as many connections as it may have.
    EndpointsFull,
    /// No endpoint may be used.
    NoEndpoint,
    /// Endpoints are to see the client's address, and none is of its family.
    OtherFamily,
    /// Every attempt to connect failed.
    ConnectFailed,
    /// The endpoint is this gateway itself.
    Loop,
    /// The backend does not exist.
    BackendNotFound,
    /// A setting of the route is invalid, so it is closed.
    InvalidSetting,
    /// The route was removed while the client connected.
    NoRoute,
    /// A flow that had not shown that anybody is there made room for another.
    Evicted,
    /// The listener was removed, or nobody was left to send to, and the flow went with it.
    BindClosed,
}

impl L4End {
    /// Every end, in the order of [`Self::index`].
    pub const ALL: [Self; 20] = [
        Self::Closed,
        Self::ClientReset,
        Self::EndpointReset,
        Self::IdleTimeout,
        Self::Lifetime,
        Self::EndpointRemoved,
        Self::Shutdown,
        Self::SourceDenied,
        Self::BadProxyHeader,
        Self::TooMany,
        Self::EndpointsFull,
        Self::NoEndpoint,
        Self::OtherFamily,
        Self::ConnectFailed,
        Self::Loop,
        Self::BackendNotFound,
        Self::InvalidSetting,
        Self::NoRoute,
        Self::Evicted,
        Self::BindClosed,
    ];

    /// Position in [`Self::ALL`]. Not stable between releases.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// CamelCase reason code, in logs and metrics.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Closed => "Closed",
            Self::ClientReset => "ClientReset",
            Self::EndpointReset => "EndpointReset",
            Self::IdleTimeout => "IdleTimeout",
            Self::Lifetime => "Lifetime",
            Self::EndpointRemoved => "EndpointRemoved",
            Self::Shutdown => "Shutdown",
            Self::SourceDenied => "SourceDenied",
            Self::BadProxyHeader => "BadProxyHeader",
            Self::TooMany => "TooMany",
            Self::EndpointsFull => "EndpointsFull",
            Self::NoEndpoint => "NoEndpoint",
            Self::OtherFamily => "OtherFamily",
            Self::ConnectFailed => "ConnectFailed",
            Self::Loop => "Loop",
            Self::BackendNotFound => "BackendNotFound",
            Self::InvalidSetting => "InvalidSetting",
            Self::NoRoute => "NoRoute",
            Self::Evicted => "Evicted",
            Self::BindClosed => "BindClosed",
        }
    }
}

/// What is known of a relayed connection when it ends: the single input of metrics and access log.
#[derive(Debug)]
pub struct L4Record<'a> {
    /// Where the client connected to.
    pub bind: L4Key,
    /// The client, as its PROXY header says if one is required.
    pub client: IpAddr,
    /// Its port.
    pub client_port: u16,
    /// How it ended.
    pub end: L4End,
    /// Route's display name, if there is one.
    pub route: Option<&'a str>,
    /// Backend's display name, if one was chosen.
    pub backend: Option<&'a str>,
    /// Endpoint of the last attempt.
    pub endpoint: Option<SocketAddr>,
    /// Attempts to connect.
    pub attempts: u8,
    /// Bytes taken from the client, without a PROXY header.
    pub bytes_in: u64,
    /// Bytes taken from the endpoint.
    pub bytes_out: u64,
    /// From the accept to the end.
    pub duration: Duration,
}

#[cfg(test)]
mod tests {
    use super::L4End;

    #[test]
    fn the_index_of_an_end_is_its_position_among_all() {
        for (position, end) in L4End::ALL.into_iter().enumerate() {
            assert_eq!(end.index(), position, "{}", end.code());
        }
    }
}
