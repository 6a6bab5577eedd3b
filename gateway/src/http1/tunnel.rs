//! After `101 Switching Protocols`, or the 200 of an extended CONNECT: what was agreed is done by
//! [`Tunnel`](crate::proxy::tunnel::Tunnel).

use super::attempt::Attempt;
use super::connection::Next;
use super::exchange::Facts;
use super::head::Framing;
use super::write::Delivery;
use crate::metrics::{LimitHit, WorkerMetrics};
use crate::proxy::grpc::Rpc;
use crate::proxy::tunnel::{Cut, Ends, Terms, Tunnel};

/// Counts an open tunnel, panics included.
#[derive(Debug)]
pub(crate) struct Open<'a>(&'a WorkerMetrics);

impl<'a> Open<'a> {
    pub(crate) fn new(metrics: &'a WorkerMetrics) -> Self {
        metrics.tunnels_opened.add(1);
        Self(metrics)
    }
}

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
    let mut tunnel = Tunnel::new((worker.buffers.head(), head), request.position());
    let idle = client.peer.config.limits.tunnel_idle_timeout;
    let mut ends = Ends {
        client: &mut client.stream,
        request,
        endpoint: &mut attempt.connection.stream,
        answer: &mut attempt.answer,
    };
    let _open = Open::new(&worker.metrics);
    if let Err(cut) = tunnel.relay(worker, &mut ends, &mut client.timer, Terms::idle(idle)).await {
        if cut == Cut::Idle {
            worker.metrics.limit_hit(LimitHit::TunnelIdleTimeout);
        }
        facts.reason = cut.reason().unwrap_or(facts.reason);
    }
    facts.request_bytes = tunnel.up.received;
    facts.response_bytes = tunnel.down.written.saturating_sub(head_length);
    Next::Close
}

/// `Sec-WebSocket-Accept` for a key (RFC 6455 §4.2.2).
pub(crate) fn accept_for(key: &[u8]) -> String {
    use base64::Engine as _;
    use sha1::Digest as _;
    let digest =
        sha1::Sha1::new().chain_update(key).chain_update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").finalize();
    base64::engine::general_purpose::STANDARD.encode(digest)
}

#[cfg(test)]
mod tests {
    use super::accept_for;

    #[test]
    fn the_accept_value_is_that_of_the_rfc() {
        assert_eq!(accept_for(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
