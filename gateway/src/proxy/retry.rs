//! The only automatic retries there are, as one pure table (RFC 9110 §9.2.2, RFC 9112 §9.3.1): what may be
//! repeated depends on what the endpoint can have seen.

use config::table::Retry;

use crate::http2::body::{Refusal, Reset};

/// How much of the request can have reached the endpoint's application.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Delivered {
    /// Provably nothing: no connection, no byte accepted, or the endpoint had closed before it arrived.
    Nothing,
    /// Possibly some or all of it.
    Possibly,
}

/// What ended the attempt.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Event {
    /// No connection came about.
    ConnectFailed,
    /// The connection ended before any response byte.
    Ended {
        /// It had carried a request before.
        reused: bool,
    },
    /// The endpoint broke the stream off before any response, while its connection goes on.
    Reset(Reset),
    /// The endpoint has not processed the request, and says so (RFC 9113 §8.7).
    NotProcessed(Refusal),
    /// No response head in time.
    Timeout,
    /// The endpoint answered with this status.
    Status(u16),
    /// The response was malformed, or ended in its head.
    BadResponse,
}

/// Whether the request may be sent once more.
///
/// `idempotent`: by method or `Idempotency-Key`. `replayable`: all of it is still at hand.
pub(crate) fn may_retry(
    event: Event,
    delivered: Delivered,
    idempotent: bool,
    replayable: bool,
    policy: &Retry,
) -> bool {
    if !replayable {
        return false;
    }
    match event {
        Event::ConnectFailed | Event::NotProcessed(_) => true,
        Event::Ended { .. } if delivered == Delivered::Nothing => true,
        Event::Ended { reused } => idempotent && (reused || policy.on_empty_response),
        // No connection was stale here: the endpoint had the request.
        Event::Reset(_) => idempotent && policy.on_empty_response,
        Event::Timeout => idempotent && policy.on_timeout,
        Event::Status(status) => idempotent && policy.codes.contains(&status),
        Event::BadResponse => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOT_IDEMPOTENT: bool = false;
    const IDEMPOTENT: bool = true;

    fn retried(event: Event, delivered: Delivered, idempotent: bool) -> bool {
        may_retry(event, delivered, idempotent, true, &Retry::default())
    }

    #[test]
    fn what_was_never_delivered_is_retried_for_every_method() {
        for idempotent in [IDEMPOTENT, NOT_IDEMPOTENT] {
            assert!(retried(Event::ConnectFailed, Delivered::Nothing, idempotent));
            assert!(retried(Event::Ended { reused: true }, Delivered::Nothing, idempotent));
            for refusal in [Refusal::GoingAway, Refusal::Refused] {
                assert!(retried(Event::NotProcessed(refusal), Delivered::Possibly, idempotent));
            }
        }
    }

    #[test]
    fn what_may_have_run_is_never_repeated_unless_idempotent() {
        for reused in [true, false] {
            assert!(!retried(Event::Ended { reused }, Delivered::Possibly, NOT_IDEMPOTENT));
            assert!(retried(Event::Ended { reused }, Delivered::Possibly, IDEMPOTENT));
        }
    }

    #[test]
    fn a_stream_that_was_broken_off_is_an_empty_response() {
        for reset in [Reset::Harmless, Reset::Fault] {
            assert!(retried(Event::Reset(reset), Delivered::Possibly, IDEMPOTENT));
            assert!(!retried(Event::Reset(reset), Delivered::Possibly, NOT_IDEMPOTENT));
            let policy = Retry { on_empty_response: false, ..Retry::default() };
            assert!(!may_retry(Event::Reset(reset), Delivered::Possibly, IDEMPOTENT, true, &policy));
        }
    }

    #[test]
    fn timeouts_and_statuses_are_retried_only_when_asked_for() {
        assert!(!retried(Event::Timeout, Delivered::Possibly, IDEMPOTENT));
        assert!(!retried(Event::Status(503), Delivered::Possibly, IDEMPOTENT));
        let policy = Retry { codes: vec![503], on_timeout: true, ..Retry::default() };
        for (idempotent, expected) in [(IDEMPOTENT, true), (NOT_IDEMPOTENT, false)] {
            assert_eq!(
                may_retry(Event::Status(503), Delivered::Possibly, idempotent, true, &policy),
                expected
            );
            assert_eq!(may_retry(Event::Timeout, Delivered::Possibly, idempotent, true, &policy), expected);
        }
    }

    #[test]
    fn nothing_is_retried_once_its_body_is_gone() {
        assert!(!may_retry(Event::ConnectFailed, Delivered::Nothing, true, false, &Retry::default()));
    }
}
