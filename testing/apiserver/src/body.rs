//! The body of an answer: all at once, or events as they come, or broken off on purpose.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

/// What is sent back.
#[derive(Debug)]
pub(crate) enum Answer {
    /// All at once.
    Whole(Option<Bytes>),
    /// Events of a watch.
    Events(mpsc::Receiver<Bytes>),
    /// Half of it, and then the connection breaks.
    Broken(Box<Self>, bool),
}

impl Body for Answer {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Events(receiver) => {
                receiver.poll_recv(context).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
            }
            Self::Broken(_, true) => Poll::Ready(Some(Err(io::ErrorKind::ConnectionReset.into()))),
            Self::Broken(inner, broken) => {
                let frame = match &mut **inner {
                    Self::Whole(bytes) => {
                        let half = bytes.take().map(|bytes| bytes.slice(..bytes.len() / 2));
                        Poll::Ready(half.map(|half| Ok(Frame::data(half))))
                    }
                    other => Pin::new(other).poll_frame(context),
                };
                *broken = frame.is_ready();
                frame
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len().try_into().unwrap_or(0)))
            }
            Self::Events(_) => SizeHint::default(),
            Self::Broken(inner, _) => inner.size_hint(),
        }
    }
}
