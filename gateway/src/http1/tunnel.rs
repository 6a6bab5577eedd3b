//! After `101 Switching Protocols`, and for TLS that is passed through: bytes both ways, half-close aware, until both sides have ended or nothing
//! moved for the idle timeout. No table swap touches it.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::attempt::Attempt;
use super::connection::Next;
use super::exchange::Facts;
use super::head::Framing;
use super::write::Delivery;
use crate::metrics::LimitHit;
use crate::proxy::grpc::Rpc;
use crate::proxy::relay::{Fault, Relay};
use crate::record::Reason;
use crate::stream::Stream;
use crate::worker::Worker;
use crate::worker::buffers::{Buf, Buffers, Head};
use crate::worker::timers::Timer;

/// Two connections, or streams, and what was read from them.
#[derive(Debug)]
pub(crate) struct Ends<'a> {
    pub(crate) client: &'a mut Stream,
    pub(crate) request: &'a mut Buf,
    pub(crate) endpoint: &'a mut Stream,
    pub(crate) answer: &'a mut Buf,
}

/// Bytes both ways.
#[derive(Debug)]
pub(crate) struct Tunnel {
    up: Relay,
    down: Relay,
    /// The sending side was ended: towards the endpoint, towards the client.
    shut: (bool, bool),
}

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
    // RFC 8441 §5: a tunnel over HTTP/2 begins with a 200.
    facts.status = if attempt.client.stream.delimits() { 200 } else { 101 };
    let delivery =
        Delivery { framing: Framing::None, close: false, http10: false, trailers: false, web: Rpc::None };
    let head = attempt.encode_head(delivery);
    let head_length = u64::try_from(head.len()).unwrap_or(0);
    let client = &mut *attempt.client;
    let Some(request) = &mut client.buf else { return Next::Close };
    let mut tunnel = Tunnel::new(worker, head, request.position());
    let idle = client.peer.config.limits.tunnel_idle_timeout;
    let mut ends = Ends {
        client: &mut client.stream,
        request,
        endpoint: &mut attempt.connection.stream,
        answer: &mut attempt.answer,
    };
    if let Err(reason) = tunnel.relay(worker, &mut ends, &mut client.timer, idle).await {
        facts.reason = reason;
    }
    facts.request_bytes = tunnel.up.received;
    facts.response_bytes = tunnel.down.written.saturating_sub(head_length);
    Next::Close
}

impl Tunnel {
    /// `head` goes to the client before anything else; what lies before `floor` in the client's buffer is kept.
    pub(crate) fn new(worker: &Worker, head: Head, floor: usize) -> Self {
        let mut up = Relay::new(worker.buffers.head(), Framing::Close, Framing::Close, false, floor);
        let mut down = Relay::new(head, Framing::Close, Framing::Close, false, 0);
        (up.is_tunnel, down.is_tunnel) = (true, true);
        Self { up, down, shut: (false, false) }
    }

    /// Bytes taken from the client, and from the endpoint.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        (self.up.received, self.down.received)
    }

    /// Relays until both sides have ended.
    ///
    /// # Errors
    /// Who broke it off, or that nothing moved for `idle`.
    pub(crate) async fn relay(
        &mut self,
        worker: &Worker,
        ends: &mut Ends<'_>,
        timer: &mut Timer,
        idle: Duration,
    ) -> Result<(), Reason> {
        worker.metrics.tunnels_opened.add(1);
        let _open = Open(&worker.metrics);
        timer.arm(idle);
        let result = poll_fn(|cx| {
            let before = self.bytes();
            let done = self.poll_both(cx, ends, &worker.buffers);
            if before != self.bytes() {
                timer.arm(idle);
            }
            match done {
                Poll::Pending if timer.poll_expired(cx) => {
                    worker.metrics.limit_hit(LimitHit::TunnelIdleTimeout);
                    Poll::Ready(Err(Reason::IdleTimeout))
                }
                other => other,
            }
        })
        .await;
        worker.metrics.spliced_bytes.add(self.up.spliced + self.down.spliced);
        result
    }

    fn poll_both(
        &mut self,
        cx: &mut Context<'_>,
        ends: &mut Ends<'_>,
        buffers: &Rc<Buffers>,
    ) -> Poll<Result<(), Reason>> {
        let Ends { client, request, endpoint, answer } = ends;
        let upward = self.up.poll(cx, client, request, endpoint, buffers);
        let downward = self.down.poll(cx, endpoint, answer, client, buffers);
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
                let up_ended = upward.is_ready() && end_sending(cx, endpoint, &mut self.shut.0);
                let down_ended = downward.is_ready() && end_sending(cx, client, &mut self.shut.1);
                if up_ended && down_ended {
                    return Poll::Ready(Ok(()));
                }
                // Of a client that has ended its side nothing is read any more that would tell.
                if client.poll_aborted(cx).is_ready() {
                    endpoint.reset_on_close();
                    return Poll::Ready(Err(Reason::ClientGone));
                }
                Poll::Pending
            }
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
