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

/// Bytes that are read and thrown away while a connection ends, so that what was sent last is not lost to a reset.
const MOST_DISCARDED: usize = 256 * 1_024;

/// One connection.
#[derive(Debug)]
pub(super) struct Wire {
    stream: Stream,
    /// Read before HTTP/2 began.
    ahead: Option<Buf>,
    shared: Rc<Shared>,
    /// Our side is closed; bytes discarded since.
    ending: Option<usize>,
}

impl Wire {
    pub(super) fn new(stream: Stream, ahead: Option<Buf>, shared: Rc<Shared>) -> Self {
        Self { stream, ahead, shared, ending: None }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        space: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.shared.excess().is_some() {
            // The connection's task ends it, which needs nothing more to be read.
            return Poll::Pending;
        }
        let before = space.filled().len();
        if let Some(ahead) = &mut self.ahead {
            let n = ahead.unread().len().min(space.remaining());
            space.put_slice(ahead.unread().get(..n).unwrap_or_default());
            ahead.consume(n);
            if ahead.is_empty() {
                self.ahead = None;
            }
        } else {
            ready!(self.stream.poll_read(cx, space))?;
        }
        if self.shared.read(space.filled().get(before..).unwrap_or_default()) {
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
        let written = self.stream.poll_write(cx, parts, false);
        self.shared.set_blocked(written.is_pending());
        written
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = self.stream.poll_flush(cx);
        self.shared.set_blocked(flushed.is_pending());
        flushed
    }

    /// Closes our side, then waits for the client to close its own. The caller bounds the time.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.ending.is_none() {
            ready!(self.stream.poll_shutdown(cx))?;
            self.ending = Some(0);
        }
        let mut scratch = [0; 4_096];
        loop {
            let mut space = ReadBuf::new(&mut scratch);
            ready!(self.stream.poll_read(cx, &mut space))?;
            let n = space.filled().len();
            let discarded = self.ending.unwrap_or(0) + n;
            self.ending = Some(discarded);
            if n == 0 || discarded > MOST_DISCARDED {
                return Poll::Ready(Ok(()));
            }
        }
    }
}
