//! One request of an HTTP/2 client as the pipeline sees it: a body to read, and a response in HTTP/1.1 syntax to write.

use std::io::{self, IoSlice};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::StatusCode;
use tokio::io::ReadBuf;

use super::shared::Shared;
use crate::http2::body::{BodyIn, BodyOut};
use crate::http2::head;
use crate::metrics::LimitHit;
use crate::worker::timers::Timer;

/// Parts of one write at most, as the relay makes them.
const MOST_PARTS: usize = 4;

#[derive(Debug)]
enum Output {
    /// The final head is still to come.
    Head(SendResponse<Bytes>),
    Body(BodyOut),
}

/// One stream. Dropped before its response has ended, it is reset.
#[derive(Debug)]
pub(crate) struct ServerStream {
    input: BodyIn,
    output: Output,
    shared: Rc<Shared>,
    /// Bytes of the request's head, counted in [`Shared`].
    head_bytes: usize,
    /// An extended CONNECT: a 101 of the endpoint is a 200 here (RFC 8441 §5).
    is_connect: bool,
    /// Armed while the client takes nothing, and what it took since.
    stall: Option<(Timer, u64)>,
}

impl ServerStream {
    /// Asks the client to open no more streams on the connection.
    pub(crate) fn retire_connection(&self) {
        self.shared.retire();
    }

    pub(super) fn new(
        body: RecvStream,
        respond: SendResponse<Bytes>,
        shared: Rc<Shared>,
        head_bytes: usize,
        is_connect: bool,
    ) -> Self {
        shared.opened(head_bytes);
        Self {
            input: BodyIn::new(body),
            output: Output::Head(respond),
            shared,
            head_bytes,
            is_connect,
            stall: None,
        }
    }

    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        space: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.input.poll_read(cx, space)
    }

    pub(crate) fn poll_read_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.input.poll_ready(cx)
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.input.has_ended()
    }

    pub(crate) fn take_trailers(&mut self) -> Vec<u8> {
        self.input.take_trailers()
    }

    /// As [`Stream::poll_write`](crate::stream::Stream::poll_write).
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
        last: bool,
    ) -> Poll<io::Result<usize>> {
        if let Output::Head(_) = self.output {
            return Poll::Ready(self.write_head(cx, parts, last));
        }
        self.poll_write_body(cx, parts, last)
    }

    /// Sends the head at the front of `parts`, and what follows it as far as the window allows.
    fn write_head(&mut self, cx: &mut Context<'_>, parts: &[IoSlice<'_>], last: bool) -> io::Result<usize> {
        let Output::Head(respond) = &mut self.output else { return Ok(0) };
        let text = parts.first().map_or(&[][..], |part| &**part);
        let (mut response, length) = head::response_of(text)?;
        let status = response.status();
        if status == StatusCode::SWITCHING_PROTOCOLS && self.is_connect {
            *response.status_mut() = StatusCode::OK;
            response.headers_mut().remove(http::header::SEC_WEBSOCKET_ACCEPT);
        } else if status.is_informational() {
            respond.send_informational(response).map_err(crate::http2::body::into_io)?;
            return Ok(length);
        }
        let is_all = parts.iter().map(|part| part.len()).sum::<usize>() == length;
        let ends = last && is_all;
        let send = respond.send_response(response, ends).map_err(crate::http2::body::into_io)?;
        self.shared.sent(0);
        self.output = Output::Body(BodyOut::new(send, ends));
        if is_all {
            return Ok(length);
        }
        let mut rest = [IoSlice::new(&[]); MOST_PARTS];
        let mut count = 0;
        let mut skip = length;
        for part in parts {
            let bytes = part.get(skip..).unwrap_or_default();
            skip = skip.saturating_sub(part.len());
            if let Some(slot) = rest.get_mut(count).filter(|_| !bytes.is_empty()) {
                *slot = IoSlice::new(bytes);
                count += 1;
            }
        }
        // Bytes beyond the parts that fit are no error: they are offered again.
        let last = last && parts.len() <= MOST_PARTS;
        match self.poll_write_body(cx, rest.get(..count).unwrap_or_default(), last) {
            Poll::Ready(Ok(n)) => Ok(length + n),
            Poll::Ready(Err(error)) => Err(error),
            Poll::Pending => Ok(length),
        }
    }

    fn poll_write_body(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
        last: bool,
    ) -> Poll<io::Result<usize>> {
        let Output::Body(body) = &mut self.output else { return Poll::Ready(Ok(0)) };
        let written = match self.shared.poll_room(cx) {
            Poll::Ready(()) => body.poll_write(cx, parts, last),
            Poll::Pending => Poll::Pending,
        };
        match written {
            Poll::Ready(Ok(n)) => {
                self.shared.sent(n);
                if n == parts.iter().map(|part| part.len()).sum::<usize>() {
                    // Nothing waits.
                    self.stall = None;
                }
                self.took(n);
                Poll::Ready(Ok(n))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                ready!(self.poll_stalled(cx));
                self.shared.worker.metrics.limit_hit(LimitHit::Http2Stall);
                self.reset(Reason::CANCEL);
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }

    /// The client took `n` bytes. Next to nothing is no progress: its request would be held for as long as it likes.
    fn took(&mut self, n: usize) {
        if let Some((_, taken)) = &mut self.stall {
            *taken += u64::try_from(n).unwrap_or(0);
            if *taken >= self.shared.least_progress() {
                self.stall = None;
            }
        }
    }

    /// Ready when the client has taken too little for too long.
    fn poll_stalled(&mut self, cx: &Context<'_>) -> Poll<()> {
        let shared = &self.shared;
        let (timer, _) = self.stall.get_or_insert_with(|| {
            let mut timer = shared.worker.timers.timer();
            timer.arm(shared.stall_timeout());
            (timer, 0)
        });
        if timer.poll_expired(cx) { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Ends the response, with `trailers` in HTTP/1.1 syntax.
    pub(crate) fn finish(&mut self, trailers: &[u8]) -> io::Result<()> {
        match &mut self.output {
            // The pipeline ends no message that it has not begun.
            Output::Head(_) => Err(io::ErrorKind::InvalidInput.into()),
            Output::Body(body) => body.finish(trailers),
        }
    }

    /// Ready when the client has reset the stream, or the connection is gone.
    pub(crate) fn poll_aborted(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.output {
            Output::Head(respond) => respond.poll_reset(cx).map(|_| ()),
            Output::Body(body) => body.poll_reset(cx),
        }
    }

    fn has_finished(&self) -> bool {
        matches!(&self.output, Output::Body(body) if body.has_ended())
    }

    fn reset(&mut self, reason: Reason) {
        match &mut self.output {
            Output::Head(respond) => respond.send_reset(reason),
            Output::Body(body) => body.reset(reason),
        }
    }
}

impl Drop for ServerStream {
    fn drop(&mut self) {
        if !self.has_finished() {
            let mut cx = Context::from_waker(Waker::noop());
            if self.poll_aborted(&mut cx).is_ready() {
                self.shared.cancelled();
            } else {
                // A response that stops before its end must not look whole. An aborted tunnel is one too.
                self.reset(if self.is_connect { Reason::CANCEL } else { Reason::INTERNAL_ERROR });
            }
        }
        self.shared.closed(self.head_bytes);
    }
}
