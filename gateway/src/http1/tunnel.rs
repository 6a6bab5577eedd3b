//! After `101 Switching Protocols`: bytes both ways, half-close aware, until both sides have ended or nothing
//! moved for the idle timeout. No table swap touches it.

use std::future::poll_fn;
use std::task::{Context, Poll};

use super::attempt::Attempt;
use super::connection::Next;
use super::exchange::Facts;
use super::head::Framing;
use super::write::Delivery;
use crate::metrics::LimitHit;
use crate::proxy::relay::{Fault, Relay};
use crate::record::Reason;
use crate::stream::Stream;

/// Counts an open tunnel, panics included.
struct Open<'a>(&'a crate::metrics::WorkerMetrics);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.tunnels_closed.add(1);
    }
}

/// Relays until the end; the client connection ends with it.
pub(crate) async fn run(attempt: &mut Attempt<'_>, facts: &mut Facts) -> Next {
    let worker = attempt.worker;
    worker.metrics.tunnels_opened.add(1);
    let _open = Open(&worker.metrics);
    // RFC 8441 §5: a tunnel over HTTP/2 begins with a 200.
    facts.status = if attempt.client.stream.delimits() { 200 } else { 101 };
    let delivery = Delivery { framing: Framing::None, close: false, http10: false, trailers: false };
    let head = attempt.encode_head(delivery);
    let head_length = u64::try_from(head.len()).unwrap_or(0);
    let floor = attempt.client.buf.as_ref().map_or(0, |buf| buf.position());
    let mut up = Relay::new(worker.buffers.head(), Framing::Close, Framing::Close, false, floor);
    let mut down = Relay::new(head, Framing::Close, Framing::Close, false, 0);
    (up.is_tunnel, down.is_tunnel) = (true, true);
    let idle = attempt.client.peer.config.limits.tunnel_idle_timeout;
    attempt.client.timer.arm(idle);
    let mut shut = (false, false);
    let result = poll_fn(|cx| {
        let before = up.received + down.received;
        let done = poll_both(cx, attempt, &mut up, &mut down, &mut shut);
        if before != up.received + down.received {
            attempt.client.timer.arm(idle);
        }
        match done {
            Poll::Pending if attempt.client.timer.poll_expired(cx) => {
                attempt.worker.metrics.limit_hit(LimitHit::TunnelIdleTimeout);
                Poll::Ready(Err(Reason::IdleTimeout))
            }
            other => other,
        }
    })
    .await;
    if let Err(reason) = result {
        facts.reason = reason;
    }
    facts.request_bytes = up.received;
    facts.response_bytes = down.written.saturating_sub(head_length);
    Next::Close
}

fn poll_both(
    cx: &mut Context<'_>,
    attempt: &mut Attempt<'_>,
    up: &mut Relay,
    down: &mut Relay,
    shut: &mut (bool, bool),
) -> Poll<Result<(), Reason>> {
    let buffers = &attempt.worker.buffers;
    let Some(buf) = &mut attempt.client.buf else { return Poll::Ready(Err(Reason::ClientGone)) };
    let (client, endpoint) = (&mut attempt.client.stream, &mut attempt.connection.stream);
    let upward = up.poll(cx, client, buf, endpoint, buffers);
    let downward = down.poll(cx, endpoint, &mut attempt.answer, client, buffers);
    match (upward, downward) {
        (Poll::Ready(Err(fault)), _) | (_, Poll::Ready(Err(fault))) => {
            let by_client = matches!(upward, Poll::Ready(Err(Fault::Source(_))))
                || matches!(downward, Poll::Ready(Err(Fault::Destination(_))));
            // A reset is passed on as a reset: the other side must not take it for a proper end.
            debug_assert_ne!(fault, Fault::SourceMalformed);
            client.reset_on_close();
            endpoint.reset_on_close();
            Poll::Ready(Err(if by_client { Reason::ClientGone } else { Reason::ResponseTruncated }))
        }
        (upward, downward) => {
            let up_ended = upward.is_ready() && end_sending(cx, endpoint, &mut shut.0);
            let down_ended = downward.is_ready() && end_sending(cx, client, &mut shut.1);
            if up_ended && down_ended { Poll::Ready(Ok(())) } else { Poll::Pending }
        }
    }
}

/// `Sec-WebSocket-Accept` for a key (RFC 6455 §4.2.2).
pub(crate) fn accept_for(key: &[u8]) -> String {
    use base64::Engine as _;
    use sha1::Digest as _;
    let digest =
        sha1::Sha1::new().chain_update(key).chain_update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").finalize();
    base64::engine::general_purpose::STANDARD.encode(digest)
}

/// Passes a FIN on, once.
fn end_sending(cx: &mut Context<'_>, stream: &mut Stream, done: &mut bool) -> bool {
    if !*done {
        *done = stream.poll_shutdown(cx).is_ready();
    }
    *done
}

#[cfg(test)]
mod tests {
    use super::accept_for;

    #[test]
    fn the_accept_value_is_that_of_the_rfc() {
        assert_eq!(accept_for(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
