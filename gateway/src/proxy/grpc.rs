//! gRPC over the pipeline: which requests are calls, when they must be over, and what the gateway's own errors look like to
//! who speaks it. Sans-I/O. Messages are never looked at.

use std::time::Duration;

use config::table::{Limits, Timeouts};

/// What a request is, by its content type.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Rpc {
    /// No call.
    #[default]
    None,
    /// gRPC over HTTP/2.
    Grpc,
    /// gRPC-Web with messages as they are.
    Web,
    /// gRPC-Web in base64.
    WebText,
}

impl Rpc {
    /// What a message with this `Content-Type` is.
    pub(crate) fn of(content_type: &[u8]) -> Self {
        let after = |name: &[u8]| {
            let (start, rest) = content_type.split_at_checked(name.len())?;
            let ends = matches!(rest.first(), None | Some(b'+' | b';' | b' ' | b'\t'));
            (ends && start.eq_ignore_ascii_case(name)).then_some(())
        };
        if after(b"application/grpc").is_some() {
            Self::Grpc
        } else if after(b"application/grpc-web").is_some() {
            Self::Web
        } else if after(b"application/grpc-web-text").is_some() {
            Self::WebText
        } else {
            Self::None
        }
    }

    /// Some kind of call.
    #[inline]
    pub(crate) fn is_call(self) -> bool {
        self != Self::None
    }

    /// A call that only a translation makes gRPC.
    pub(crate) fn is_web(self) -> bool {
        matches!(self, Self::Web | Self::WebText)
    }

    /// Media type without the suffix that names the messages' encoding.
    pub(crate) fn media_type(self) -> &'static [u8] {
        match self {
            Self::None => b"",
            Self::Grpc => b"application/grpc",
            Self::Web => b"application/grpc-web",
            Self::WebText => b"application/grpc-web-text",
        }
    }

    /// `content_type` of one kind of call for this kind: the suffix is kept. What is of none stays as it is.
    pub(crate) fn retyped(self, content_type: &[u8]) -> (&'static [u8], &[u8]) {
        match Self::of(content_type) {
            Self::None => (b"", content_type),
            call => (self.media_type(), content_type.get(call.media_type().len()..).unwrap_or_default()),
        }
    }
}

/// gRPC's status code for an error that the gateway answers with `status`.
///
/// The official mapping from HTTP, but for errors that the gateway knows better than that: a deadline of its own is
/// `DEADLINE_EXCEEDED`, a limit `RESOURCE_EXHAUSTED`, and what it does not implement `UNIMPLEMENTED`.
pub(crate) fn code_of(status: u16) -> &'static str {
    match status {
        400 => "13",
        401 => "16",
        403 => "7",
        404 | 501 => "12",
        408 | 504 => "4",
        413 | 431 => "8",
        429 | 502 | 503 => "14",
        _ => "2",
    }
}

/// The time in a `grpc-timeout`: at most eight digits and a unit. `None` if it is malformed: then the server judges it.
pub(crate) fn timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(number * 3_600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

/// How long a call may take in all: the shorter of the client's deadline and the route's. Zero = for ever.
pub(crate) fn total(policy: Duration, client: Option<Duration>) -> Duration {
    match client {
        // Zero means off in a policy, and over at once here.
        Some(client) if policy.is_zero() => client.max(Duration::from_nanos(1)),
        Some(client) => client.max(Duration::from_nanos(1)).min(policy),
        None => policy,
    }
}

/// How long nothing may move in a call. Streams are quiet for as long as there is nothing to say, so that what is meant for
/// pages does not apply, unless the route says something of its own.
pub(crate) fn idle(timeouts: &Timeouts, limits: &Limits) -> Duration {
    if timeouts.set.idle { timeouts.idle } else { limits.tunnel_idle_timeout }
}

/// How long a call may wait for a response's head: many servers send it with their first message.
pub(crate) fn response_head(timeouts: &Timeouts, limits: &Limits) -> Duration {
    if timeouts.set.response_head { timeouts.response_head } else { limits.tunnel_idle_timeout }
}

#[cfg(test)]
mod tests {
    use config::table::TimeoutsSet;

    use super::*;
    use crate::record::Reason;

    #[test]
    fn a_call_is_known_by_its_content_type() {
        for (text, rpc) in [
            ("application/grpc", Rpc::Grpc),
            ("application/grpc+proto", Rpc::Grpc),
            ("Application/GRPC;charset=x", Rpc::Grpc),
            ("application/grpc-web", Rpc::Web),
            ("application/grpc-web+proto", Rpc::Web),
            ("application/grpc-web-text", Rpc::WebText),
            ("application/grpc-web-text+proto", Rpc::WebText),
            ("application/grpc-webx", Rpc::None),
            ("application/grpc-web-texts", Rpc::None),
            ("application/grpcx", Rpc::None),
            ("application/json", Rpc::None),
            ("", Rpc::None),
        ] {
            assert_eq!(Rpc::of(text.as_bytes()), rpc, "{text}");
        }
    }

    #[test]
    fn the_encoding_of_messages_is_kept_in_translation() {
        let (media_type, suffix) = Rpc::Grpc.retyped(b"application/grpc-web-text+json");
        assert_eq!((media_type, suffix), (&b"application/grpc"[..], &b"+json"[..]));
        let (media_type, suffix) = Rpc::WebText.retyped(b"application/grpc");
        assert_eq!((media_type, suffix), (&b"application/grpc-web-text"[..], &b""[..]));
        assert_eq!(Rpc::Grpc.retyped(b"text/html"), (&b""[..], &b"text/html"[..]));
    }

    #[test]
    fn a_timeout_is_a_number_of_at_most_eight_digits_and_a_unit() {
        assert_eq!(timeout(b"1S"), Some(Duration::from_secs(1)));
        assert_eq!(timeout(b"99999999H"), Some(Duration::from_secs(359_999_996_400)));
        assert_eq!(timeout(b"20m"), Some(Duration::from_millis(20)));
        assert_eq!(timeout(b"3M"), Some(Duration::from_secs(180)));
        assert_eq!(timeout(b"5u"), Some(Duration::from_micros(5)));
        assert_eq!(timeout(b"0n"), Some(Duration::ZERO));
        for bad in ["", "S", "1", "1s", "-1S", "1.5S", "123456789S", "1 S", "+1S"] {
            assert_eq!(timeout(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn the_shorter_deadline_counts_and_zero_is_over_at_once() {
        let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
        assert_eq!(total(Duration::ZERO, None), Duration::ZERO);
        assert_eq!(total(Duration::ZERO, Some(second)), second);
        assert_eq!(total(minute, Some(second)), second);
        assert_eq!(total(second, Some(minute)), second);
        assert!(!total(Duration::ZERO, Some(Duration::ZERO)).is_zero());
    }

    #[test]
    fn errors_are_told_in_the_official_mapping() {
        for (reason, code) in [
            (Reason::NoRoute, "12"),
            (Reason::NoEndpoint, "14"),
            (Reason::Overloaded, "14"),
            (Reason::EmptyResponse, "14"),
            (Reason::ResponseTimeout, "4"),
            (Reason::RequestTimeout, "4"),
            (Reason::BadRequest, "13"),
        ] {
            assert_eq!(code_of(reason.status()), code, "{}", reason.code());
        }
    }

    /// `grpc-message` is percent-encoded: reason codes need none of it.
    #[test]
    fn reason_codes_can_be_a_message_as_they_are() {
        for reason in Reason::ALL {
            assert!(reason.code().bytes().all(|byte| byte.is_ascii_alphanumeric()), "{}", reason.code());
        }
    }

    #[test]
    fn what_is_meant_for_pages_does_not_end_streams_but_a_route_may() {
        let limits = Limits::default();
        assert_eq!(idle(&Timeouts::default(), &limits), limits.tunnel_idle_timeout);
        assert_eq!(response_head(&Timeouts::default(), &limits), limits.tunnel_idle_timeout);
        // Also what is the default for pages.
        for seconds in [5, 60] {
            let after = Duration::from_secs(seconds);
            let set = TimeoutsSet { idle: true, response_head: true };
            let own = Timeouts { idle: after, response_head: after, set, ..Timeouts::default() };
            assert_eq!((idle(&own, &limits), response_head(&own, &limits)), (after, after));
        }
    }
}
