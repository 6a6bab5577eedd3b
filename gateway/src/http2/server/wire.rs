//! The bytes of an HTTP/2 connection between the stream that carries them and the protocol library, counted as they
//! pass.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::shared::Shared;
use crate::stream::Stream;
use crate::worker::buffers::Buf;

/// One connection.
#[derive(Debug)]
pub(super) struct Wire {
    /// Absent once our side is closed: then [`Shared`] has it.
    stream: Option<Stream>,
    /// Read before HTTP/2 began.
    ahead: Option<Buf>,
    shared: Rc<Shared>,
}

impl Wire {
    pub(super) fn new(stream: Stream, ahead: Option<Buf>, shared: Rc<Shared>) -> Self {
        Self { stream: Some(stream), ahead, shared }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        space: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let wire = &mut *self;
        if wire.shared.excess().is_some() {
            // The connection's task ends it, which needs nothing more to be read.
            return Poll::Pending;
        }
        let before = space.filled().len();
        if let Some(ahead) = &mut wire.ahead {
            let n = ahead.unread().len().min(space.remaining());
            space.put_slice(ahead.unread().get(..n).unwrap_or_default());
            ahead.consume(n);
            if ahead.is_empty() {
                wire.ahead = None;
            }
        } else if let Some(stream) = &mut wire.stream {
            ready!(stream.poll_read(cx, space))?;
        }
        if wire.shared.read(space.filled().get(before..).unwrap_or_default()) {
            return Poll::Ready(Ok(()));
        }
        space.set_filled(before);
        Poll::Pending
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        let written = stream.poll_write(cx, parts, false);
        self.shared.set_blocked(written.is_pending());
        written
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(Ok(())) };
        let flushed = stream.poll_flush(cx);
        self.shared.set_blocked(flushed.is_pending());
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(stream) = &mut self.stream {
            // Why the connection ends matters more than that its end could not be said.
            let _said = ready!(stream.poll_shutdown(cx));
        }
        if let Some(stream) = self.stream.take() {
            self.shared.set_rest(stream);
        }
        Poll::Ready(Ok(()))
    }
}
