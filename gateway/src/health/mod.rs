//! Whether an endpoint may take requests: one pure state machine, fed by what real requests saw and by probes.

pub mod machine;
pub mod probe;

use serde::Serialize;

/// How one attempt at an endpoint ended, as far as its health is concerned.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Any response below 500.
    Success,
    /// 502, 503 or 504 of the endpoint: it says itself that it cannot serve. Counts like a reset.
    GatewayError,
    /// Another 5xx response: counts towards the error rate, but the endpoint is alive.
    ServerError,
    /// No connection within the deadline, or refused.
    ConnectFailed,
    /// The connection ended before a whole response.
    Reset,
    /// No response head within its deadline.
    Timeout,
    /// The response was malformed.
    BadResponse,
}

impl Outcome {
    /// The outcome of an attempt that was answered with `status`.
    #[must_use]
    pub const fn of_status(status: u16) -> Self {
        match status {
            // Whether a request goes round is a matter of routes, and a client can have itself told so.
            508 => Self::Success,
            502..=504 => Self::GatewayError,
            500..=599 => Self::ServerError,
            _ => Self::Success,
        }
    }
}
