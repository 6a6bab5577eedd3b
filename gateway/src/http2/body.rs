//! Bodies of HTTP/2 streams as bytes, under the peer's flow control: nothing is sent beyond its window, and its window
//! grows only by what was taken out of here.

use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::ReadBuf;

use super::head;

/// Bytes that one write hands over at most: one stream must not fill the connection's memory.
const MOST_PER_WRITE: usize = 64 * 1_024;

/// What a peer sends on one stream.
#[derive(Debug)]
pub(crate) struct BodyIn {
    recv: RecvStream,
    /// Received, and not yet read.
    chunk: Bytes,
    ended: bool,
    trailers: Vec<u8>,
}

impl BodyIn {
    pub(crate) fn new(recv: RecvStream) -> Self {
        Self { recv, chunk: Bytes::new(), ended: false, trailers: Vec::new() }
    }

    /// Reads into `space`; nothing filled = the end, with what [`Self::take_trailers`] then has.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        space: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_ready(cx))?;
        let n = self.chunk.len().min(space.remaining());
        space.put_slice(self.chunk.get(..n).unwrap_or_default());
        self.chunk.advance(n);
        if n > 0 {
            self.recv.flow_control().release_capacity(n).map_err(into_io)?;
        }
        Poll::Ready(Ok(()))
    }

    /// Ready when there is something to read, or the end.
    pub(crate) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.chunk.is_empty() && !self.ended {
            match ready!(self.recv.poll_data(cx)) {
                Some(chunk) => self.chunk = chunk.map_err(into_io)?,
                None => {
                    if let Some(trailers) = ready!(self.recv.poll_trailers(cx)).map_err(into_io)? {
                        head::write_fields(&mut self.trailers, &trailers);
                    }
                    self.ended = true;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Everything was read, and there are no trailers: known without another read.
    pub(crate) fn has_ended(&self) -> bool {
        self.chunk.is_empty() && (self.ended || self.recv.is_end_stream()) && self.trailers.is_empty()
    }

    /// Trailer lines in HTTP/1.1 syntax, once.
    pub(crate) fn take_trailers(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.trailers)
    }
}

/// What is sent to a peer on one stream.
#[derive(Debug)]
pub(crate) struct BodyOut {
    send: SendStream<Bytes>,
    ended: bool,
}

impl BodyOut {
    pub(crate) fn new(send: SendStream<Bytes>, ended: bool) -> Self {
        Self { send, ended }
    }

    /// Hands over what the peer's window allows of `parts`. `last`: the stream ends with them.
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
        last: bool,
    ) -> Poll<io::Result<usize>> {
        let total: usize = parts.iter().map(|part| part.len()).sum();
        if self.ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let wanted = total.min(MOST_PER_WRITE);
        if self.send.capacity() < wanted {
            self.send.reserve_capacity(wanted);
        }
        while self.send.capacity() == 0 {
            match ready!(self.send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(into_io(error))),
                None => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            }
        }
        let n = self.send.capacity().min(wanted);
        let mut data = BytesMut::with_capacity(n);
        for part in parts {
            data.put_slice(part.get(..part.len().min(n - data.len())).unwrap_or_default());
        }
        self.ended = last && n == total;
        self.send.send_data(data.freeze(), self.ended).map_err(into_io)?;
        Poll::Ready(Ok(n))
    }

    /// Ends the stream, with trailer lines in HTTP/1.1 syntax if there are any. Repeating it does nothing.
    pub(crate) fn finish(&mut self, trailers: &[u8]) -> io::Result<()> {
        if std::mem::replace(&mut self.ended, true) {
            return Ok(());
        }
        let sent = if trailers.is_empty() {
            self.send.send_data(Bytes::new(), true)
        } else {
            self.send.send_trailers(head::fields_of(trailers)?)
        };
        sent.map_err(into_io)
    }

    /// Aborts the stream, unless it was ended.
    pub(crate) fn reset(&mut self, reason: Reason) {
        if !std::mem::replace(&mut self.ended, true) {
            self.send.send_reset(reason);
        }
    }

    /// The last frame was handed over.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Ready when the peer has aborted the stream, or the connection is gone.
    pub(crate) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.send.poll_reset(cx).map(|_| ())
    }
}

/// What an endpoint says of a request that it has not processed (RFC 9113 §8.7), so that it may be sent again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Refusal {
    /// The connection takes no more streams: GOAWAY with a lower last stream, or it was closed before this one.
    GoingAway,
    /// This stream is refused: REFUSED_STREAM.
    Refused,
}

impl Refusal {
    /// Whether `error` is one. What was found wrong on this side never is.
    pub(crate) fn of(error: &h2::Error) -> Option<Self> {
        match error.reason() {
            // h2 says so of streams beyond the last one that the GOAWAY names, and of no others.
            _ if error.is_go_away() && error.is_remote() => Some(Self::GoingAway),
            Some(Reason::REFUSED_STREAM) if error.is_reset() && error.is_remote() => Some(Self::Refused),
            _ => None,
        }
    }
}

/// How an endpoint broke one stream off while its connection goes on (RFC 9113 §6.4).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Reset {
    /// NO_ERROR or CANCEL: it says that nothing went wrong.
    Harmless,
    /// Something went wrong there, or it holds something against us.
    Fault,
}

impl Reset {
    /// Whether `error` is one. What was not processed is a [`Refusal`].
    pub(crate) fn of(error: &h2::Error) -> Option<Self> {
        match error.reason() {
            _ if !(error.is_reset() && error.is_remote()) => None,
            Some(Reason::REFUSED_STREAM) | None => None,
            Some(Reason::NO_ERROR | Reason::CANCEL) => Some(Self::Harmless),
            Some(_) => Some(Self::Fault),
        }
    }

    /// The same of an error that [`into_io`] made.
    pub(crate) fn of_io(error: &io::Error) -> Option<Self> {
        Self::of(error.get_ref()?.downcast_ref()?)
    }
}

/// The error as callers tell errors apart: `InvalidData` = the other side broke the protocol, everything else = it is
/// gone or has aborted.
pub(crate) fn into_io(error: h2::Error) -> io::Error {
    let kind = if error.is_library() {
        io::ErrorKind::InvalidData
    } else {
        error.get_io().map_or(io::ErrorKind::ConnectionReset, io::Error::kind)
    };
    io::Error::new(kind, error)
}
