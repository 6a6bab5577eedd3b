//! The connection under HTTP/2: its bytes pass the [`Meter`] on their way in.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::meter::Meter;
use crate::stream::Stream;
use crate::worker::timers::Timers;

/// A cleartext or encrypted connection to an endpoint that is to speak HTTP/2.
#[derive(Debug)]
pub(super) struct Io {
    stream: Stream,
    meter: Rc<Meter>,
    timers: Rc<Timers>,
}

impl Io {
    pub(super) fn new(stream: Stream, meter: Rc<Meter>, timers: Rc<Timers>) -> Self {
        Self { stream, meter, timers }
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        space: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = space.filled().len();
        ready!(self.stream.poll_read(cx, space))?;
        let read = space.filled().get(before..).unwrap_or_default();
        if !read.is_empty() {
            let fed = self.meter.feed(read, self.timers.now());
            fed.map_err(|offence| io::Error::new(io::ErrorKind::InvalidData, offence))?;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream.poll_write(cx, parts, false)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.poll_shutdown(cx)
    }
}
