//! Requests to endpoints that speak HTTP/2: one stream of a shared connection as a [`Stream`](crate::stream::Stream).
//! The pipeline writes a request as HTTP/1.1 text and reads the response as such.
//!
//! Never decides what is sent, nor whether it is sent again.

mod io;
mod meter;
mod session;

use std::future::Future as _;
use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use h2::Reason;
use h2::client::ResponseFuture;
use tokio::io::ReadBuf;

pub(crate) use self::session::{Driver, Session};

use self::session::{NotSent, Opened};
use super::body::{BodyIn, BodyOut, Refusal, Reset, into_io};
use super::head;
use crate::http1::tunnel::accept_for;

/// One stream, from before its request is sent to its end.
#[derive(Debug)]
pub(crate) struct Http2Client {
    out: Option<BodyOut>,
    incoming: Incoming,
    /// A response head as text, from `text_at` on not yet read.
    text: Vec<u8>,
    text_at: usize,
    /// `Sec-WebSocket-Accept` of the WebSocket that the request opens.
    accept: Option<String>,
    refusal: Option<Refusal>,
    reset: Option<Reset>,
    /// Given back last, when the stream is done with.
    place: Place,
}

#[derive(Debug)]
enum Incoming {
    /// The request was not sent.
    Nothing,
    Head(ResponseFuture),
    Body(BodyIn),
    /// The stream has failed.
    Failed(ErrorKind),
}

/// A reserved stream; gives itself back, panics included.
#[derive(Debug)]
struct Place {
    session: Rc<Session>,
    opened: Option<Opened>,
    /// Told when the place is free.
    freed: Rc<tokio::sync::Notify>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.session.leave(self.opened);
        self.freed.notify_one();
    }
}

impl Http2Client {
    /// Reserves a stream, which [`Session::has_room`] for. `freed` is told when it ends.
    pub(crate) fn reserve(session: &Rc<Session>, freed: &Rc<tokio::sync::Notify>) -> Self {
        session.enter();
        Self {
            place: Place { session: Rc::clone(session), opened: None, freed: Rc::clone(freed) },
            out: None,
            incoming: Incoming::Nothing,
            text: Vec::new(),
            text_at: 0,
            accept: None,
            refusal: None,
            reset: None,
        }
    }

    /// Whether the endpoint takes WebSockets on this connection (RFC 8441 §3).
    pub(crate) fn allows_websocket(&self) -> bool {
        self.place.session.allows_extended_connect()
    }

    /// That the endpoint has not processed the request, if it says so.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        self.refusal
    }

    /// How the endpoint broke the stream off, if it did, as far as reading has shown it.
    pub(crate) fn was_reset(&self) -> Option<Reset> {
        self.reset
    }

    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
        last: bool,
    ) -> Poll<Result<usize>> {
        let Some(out) = &mut self.out else { return Poll::Ready(self.send_head(parts, last)) };
        let written = ready!(out.poll_write(cx, parts, last && self.accept.is_none()))?;
        self.place.session.note_sent(written);
        Poll::Ready(Ok(written))
    }

    /// Opens the stream with the head that `parts` begins with. What follows it is written by the next call.
    fn send_head(&mut self, parts: &[IoSlice<'_>], last: bool) -> Result<usize> {
        if let Incoming::Failed(kind) = self.incoming {
            return Err(kind.into());
        }
        let text = parts.first().map_or(&[][..], |part| part);
        let outgoing = match head::request_of(text, self.place.session.is_https()) {
            Ok(outgoing) => outgoing,
            Err(error) => return Err(self.fail(error)),
        };
        self.accept = outgoing.websocket.map(|key| accept_for(&key));
        let total: usize = parts.iter().map(|part| part.len()).sum();
        let ends = last && total == outgoing.length && self.accept.is_none();
        match self.place.session.send(outgoing.request, ends) {
            Ok((response, send, opened)) => {
                self.place.opened = Some(opened);
                self.out = Some(BodyOut::new(send, ends));
                self.incoming = Incoming::Head(response);
                Ok(outgoing.length)
            }
            Err(NotSent::Closed) => {
                self.refusal = Some(Refusal::GoingAway);
                Err(self.fail(ErrorKind::ConnectionAborted.into()))
            }
            Err(NotSent::Impossible(error)) => Err(self.fail(Error::new(ErrorKind::InvalidData, error))),
        }
    }

    fn fail(&mut self, error: Error) -> Error {
        self.incoming = Incoming::Failed(error.kind());
        error
    }

    pub(crate) fn poll_finish(&mut self, trailers: &[u8]) -> Result<()> {
        match &mut self.out {
            // A WebSocket goes on after the request.
            Some(out) if self.accept.is_none() => out.finish(trailers),
            _ => Ok(()),
        }
    }

    /// Ends the sending side.
    pub(crate) fn poll_shutdown(&mut self) -> Result<()> {
        self.out.as_mut().map_or(Ok(()), |out| out.finish(b""))
    }

    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, space: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        ready!(self.poll_head(cx))?;
        if self.text_at < self.text.len() {
            let rest = self.text.get(self.text_at..).unwrap_or_default();
            let n = rest.len().min(space.remaining());
            space.put_slice(rest.get(..n).unwrap_or_default());
            self.text_at += n;
            if self.text_at == self.text.len() {
                self.text = Vec::new();
                self.text_at = 0;
            }
            return Poll::Ready(Ok(()));
        }
        match &mut self.incoming {
            Incoming::Body(body) => {
                let read = ready!(body.poll_read(cx, space));
                Poll::Ready(read.inspect_err(|error| self.reset = Reset::of_io(error)))
            }
            Incoming::Failed(kind) => Poll::Ready(Err((*kind).into())),
            Incoming::Nothing | Incoming::Head(_) => Poll::Pending,
        }
    }

    pub(crate) fn poll_read_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        ready!(self.poll_head(cx))?;
        match &mut self.incoming {
            Incoming::Body(body) if self.text.is_empty() => {
                let read = ready!(body.poll_ready(cx));
                Poll::Ready(read.inspect_err(|error| self.reset = Reset::of_io(error)))
            }
            _ => Poll::Ready(Ok(())),
        }
    }

    /// Ready when there is text to read, or the final head was read. Informational heads come in their order.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let Incoming::Head(response) = &mut self.incoming else { return Poll::Ready(Ok(())) };
        if !self.text.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let failed = match ready!(response.poll_informational(cx)) {
            Some(Ok(informational)) => {
                head::write_response(&mut self.text, &informational, None);
                return Poll::Ready(Ok(()));
            }
            Some(Err(error)) => error,
            None => match ready!(Pin::new(response).poll(cx)) {
                Ok(response) => {
                    let (parts, body) = response.into_parts();
                    let response = http::Response::from_parts(parts, ());
                    head::write_response(&mut self.text, &response, self.accept.as_deref());
                    self.incoming = Incoming::Body(BodyIn::new(body));
                    return Poll::Ready(Ok(()));
                }
                Err(error) => error,
            },
        };
        self.refusal = Refusal::of(&failed);
        self.reset = Reset::of(&failed);
        Poll::Ready(Err(self.fail(into_io(failed))))
    }

    pub(crate) fn has_ended(&self) -> bool {
        match &self.incoming {
            Incoming::Body(body) => self.text.is_empty() && body.has_ended(),
            Incoming::Nothing | Incoming::Head(_) | Incoming::Failed(_) => false,
        }
    }

    pub(crate) fn take_trailers(&mut self) -> Vec<u8> {
        match &mut self.incoming {
            Incoming::Body(body) => body.take_trailers(),
            Incoming::Nothing | Incoming::Head(_) | Incoming::Failed(_) => Vec::new(),
        }
    }

    /// Aborts the stream; an end that was sent is not taken back.
    pub(crate) fn reset(&mut self) {
        if let Some(out) = &mut self.out {
            out.reset(Reason::CANCEL);
        }
    }
}
