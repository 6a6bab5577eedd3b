//! What can go wrong between us and an API server.

use std::time::Duration;

/// Why a request, or the answer to it, came to nothing.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum Failure {
    /// There is no connection to be had.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// There is a connection, and one side does not trust the other; or our credentials cannot be read.
    #[error("not trusted: {0}")]
    Untrusted(String),
    /// The connection ended before the answer did.
    #[error("connection lost: {0}")]
    Lost(String),
    /// Nothing came for too long.
    #[error("no answer for {} seconds", .0.as_secs())]
    Silent(Duration),
    /// The server no longer has the version that was asked for.
    #[error("410 Gone: {0}")]
    Gone(String),
    /// The server says no.
    #[error("{code} {text}")]
    Status {
        /// HTTP status.
        code: u16,
        /// What the server says about it.
        text: String,
        /// How long it wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// The answer is not what the API says.
    #[error("the answer is not understood: {0}")]
    Malformed(String),
}

impl Failure {
    /// True if a server answered that is in its right mind: what it says is to be taken seriously.
    pub(super) fn is_answer(&self) -> bool {
        match self {
            Self::Gone(_) => true,
            Self::Status { code, .. } => *code < 500,
            Self::Unreachable(_)
            | Self::Untrusted(_)
            | Self::Lost(_)
            | Self::Silent(_)
            | Self::Malformed(_) => false,
        }
    }

    /// True if the server, or the way to it, is in trouble, so that the next answer may be another one.
    pub(super) fn is_trouble(&self) -> bool {
        !self.is_answer() || matches!(self, Self::Status { code: 408 | 429, .. })
    }

    /// True if the server says that there is nothing to be had, and will go on saying so.
    pub(super) fn is_denial(&self) -> bool {
        matches!(self, Self::Status { code: 403 | 404, .. })
    }

    /// True if the server says that there is no such thing.
    pub(super) fn is_missing(&self) -> bool {
        matches!(self, Self::Status { code: 404, .. })
    }

    /// Value of the label `cause` in metrics.
    pub(super) fn cause(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Untrusted(_) => "untrusted",
            Self::Lost(_) => "lost",
            Self::Silent(_) => "silent",
            Self::Gone(_) => "gone",
            Self::Status { code: 401 | 403, .. } => "forbidden",
            Self::Status { code: 404, .. } => "missing",
            Self::Status { code: 429, .. } => "throttled",
            Self::Status { .. } => "status",
            Self::Malformed(_) => "malformed",
        }
    }
}
