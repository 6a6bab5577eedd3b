//! What messages travel on. Above this, every stream carries HTTP/1.1 message syntax: a head as text, then a body;
//! what a protocol does differently on the wire stays below.
//!
//! Never decides what is sent, and holds no more than one write's worth of bytes.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::http1::head::Framing;
use crate::http2::body::{Refusal, Reset};
use crate::http2::client::Http2Client;
use crate::http2::server::ServerStream;
use crate::tls::TlsStream;

/// One connection, or one stream of a multiplexed connection.
#[derive(Debug)]
pub(crate) enum Stream {
    /// Cleartext.
    Tcp(TcpStream),
    /// TLS, after its handshake.
    Tls(Box<TlsStream>),
    /// One request of an HTTP/2 client.
    Http2Server(Box<ServerStream>),
    /// A request to an endpoint that speaks HTTP/2.
    Http2Client(Box<Http2Client>),
    /// Cleartext that is relayed on the [`FastPath`](crate::worker::fast_path::FastPath), see [`Self::detach`]. `None` if
    /// the kernel did not let the socket be registered anew.
    Detached(Option<Rc<std::net::TcpStream>>),
}

/// What comes of using a stream that is [`Stream::Detached`].
fn detached<T>() -> Poll<io::Result<T>> {
    Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
}

impl Stream {
    /// Reads into `space`; nothing filled = the other side has ended its message (or its side).
    #[inline]
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        space: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(tcp) => Pin::new(tcp).poll_read(cx, space),
            Self::Tls(tls) => tls.poll_read(cx, space),
            Self::Http2Server(stream) => stream.poll_read(cx, space),
            Self::Http2Client(stream) => stream.poll_read(cx, space),
            Self::Detached(_) => detached(),
        }
    }

    /// Ready when [`Self::poll_read`] would find bytes, an end or an error. Needs no buffer.
    #[inline]
    pub(crate) fn poll_read_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(tcp) => tcp.poll_read_ready(cx),
            Self::Tls(tls) => tls.poll_read_ready(cx),
            Self::Http2Server(stream) => stream.poll_read_ready(cx),
            Self::Http2Client(stream) => stream.poll_read_ready(cx),
            Self::Detached(_) => detached(),
        }
    }

    /// Writes from the front of `parts` (not empty). `last`: with these bytes the message is complete, but for
    /// trailers; a stream that delimits messages itself can say so at once.
    ///
    /// The first part of a message begins with its whole head.
    #[inline]
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
        last: bool,
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(tcp) => match parts {
                [one] => Pin::new(tcp).poll_write(cx, one),
                several => Pin::new(tcp).poll_write_vectored(cx, several),
            },
            Self::Tls(tls) => tls.poll_write(cx, parts),
            Self::Http2Server(stream) => stream.poll_write(cx, parts, last),
            Self::Http2Client(stream) => stream.poll_write(cx, parts, last),
            Self::Detached(_) => detached(),
        }
    }

    /// Ready when nothing that was accepted by [`Self::poll_write`] is held back any more. To be called before
    /// waiting for anything else.
    #[inline]
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            // What HTTP/2 has accepted its connection's own task sends.
            Self::Tcp(_) | Self::Detached(_) | Self::Http2Server(_) | Self::Http2Client(_) => {
                Poll::Ready(Ok(()))
            }
            Self::Tls(tls) => tls.poll_flush(cx),
        }
    }

    /// Ends the message, and flushes. `trailers` are lines in HTTP/1.1 syntax, empty where the stream does not
    /// delimit messages itself.
    #[inline]
    pub(crate) fn poll_finish(&mut self, cx: &mut Context<'_>, trailers: &[u8]) -> Poll<io::Result<()>> {
        debug_assert!(trailers.is_empty() || self.delimits());
        match self {
            Self::Tcp(_) | Self::Tls(_) | Self::Detached(_) => self.poll_flush(cx),
            Self::Http2Server(stream) => Poll::Ready(stream.finish(trailers)),
            Self::Http2Client(stream) => Poll::Ready(stream.poll_finish(trailers)),
        }
    }

    /// Ends the sending side; what was sent is delivered.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => tls.poll_shutdown(cx),
            Self::Http2Server(stream) => Poll::Ready(stream.finish(b"")),
            Self::Http2Client(stream) => Poll::Ready(stream.poll_shutdown()),
            Self::Detached(_) => detached(),
        }
    }

    /// The stream delimits messages itself: bodies are sent without chunked coding, and end by
    /// [`Self::poll_finish`].
    #[inline]
    pub(crate) fn delimits(&self) -> bool {
        match self {
            Self::Tcp(_) | Self::Tls(_) | Self::Detached(_) => false,
            Self::Http2Server(_) | Self::Http2Client(_) => true,
        }
    }

    /// How a body that the head announces as `framing` is read from or written to this stream.
    #[inline]
    pub(crate) fn framing(&self, framing: Framing) -> Framing {
        match framing {
            Framing::Length(_) | Framing::Chunked if self.delimits() => Framing::Close,
            framing => framing,
        }
    }

    /// Whether everything of the message was read, known before a read that finds nothing.
    #[inline]
    pub(crate) fn has_ended(&self) -> bool {
        match self {
            Self::Tcp(_) | Self::Tls(_) | Self::Detached(_) => false,
            Self::Http2Server(stream) => stream.has_ended(),
            Self::Http2Client(stream) => stream.has_ended(),
        }
    }

    /// Trailers of the message that was read to its end, as lines in HTTP/1.1 syntax; only where the stream
    /// delimits messages itself.
    pub(crate) fn take_trailers(&mut self) -> Vec<u8> {
        match self {
            Self::Tcp(_) | Self::Tls(_) | Self::Detached(_) => Vec::new(),
            Self::Http2Server(stream) => stream.take_trailers(),
            Self::Http2Client(stream) => stream.take_trailers(),
        }
    }

    /// The socket, if its bytes are the message's bytes, so that they can be spliced.
    #[inline]
    pub(crate) fn spliceable(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(tcp) => Some(tcp),
            Self::Tls(_) | Self::Http2Server(_) | Self::Http2Client(_) | Self::Detached(_) => None,
        }
    }

    /// The socket, if no other stream shares it.
    #[inline]
    pub(crate) fn socket(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(tcp) => Some(tcp),
            Self::Tls(tls) => Some(tls.tcp()),
            Self::Http2Server(_) | Self::Http2Client(_) | Self::Detached(_) => None,
        }
    }

    /// The descriptor of [`Self::socket`], for its options; has one wherever it is served.
    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Detached(socket) => socket.as_ref().map(|socket| socket.as_fd()),
            _ => self.socket().map(TcpStream::as_fd),
        }
    }

    /// Takes a plain socket out of the hands of the runtime, until [`Self::attach`]. `None` if it is no plain socket.
    pub(crate) fn detach(&mut self) -> Option<Rc<std::net::TcpStream>> {
        self.spliceable()?;
        let Self::Tcp(tcp) = std::mem::replace(self, Self::Detached(None)) else { return None };
        let socket = Rc::new(tcp.into_std().ok()?);
        *self = Self::Detached(Some(Rc::clone(&socket)));
        Some(socket)
    }

    /// Gives the socket back to the runtime; nobody else has it any more.
    ///
    /// # Errors
    /// If it cannot be registered; it is closed then.
    pub(crate) fn attach(&mut self) -> io::Result<()> {
        let Self::Detached(socket) = self else { return Ok(()) };
        let socket = socket.take().and_then(Rc::into_inner).ok_or(io::ErrorKind::NotConnected)?;
        *self = Self::Tcp(TcpStream::from_std(socket)?);
        Ok(())
    }

    /// The other side takes it for a proper end when this is dropped: nothing has to be announced.
    pub(crate) fn ends_when_dropped(&self) -> bool {
        match self {
            Self::Tcp(_) | Self::Http2Server(_) | Self::Http2Client(_) | Self::Detached(_) => true,
            Self::Tls(_) => false,
        }
    }

    /// Announces the end of an idle connection, if its protocol has a way to, without waiting.
    pub(crate) fn take_leave(&mut self) {
        if let Self::Tls(tls) = self {
            tls.take_leave();
        }
    }

    /// Nothing more is served on the connection: where streams share one, the client is asked to open no more.
    pub(crate) fn retire_connection(&self) {
        if let Self::Http2Server(stream) = self {
            stream.retire_connection();
        }
    }

    /// Makes the other side see an abort, not an end, when this is dropped.
    pub(crate) fn reset_on_close(&mut self) {
        if let Self::Http2Client(stream) = self {
            return stream.reset();
        }
        // What is dropped before its end is reset anyway on other streams of HTTP/2.
        if let Some(socket) = self.descriptor() {
            // Fails only for a socket that is gone already.
            let _set = socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO));
        }
    }

    /// Whether the other side is known to have aborted.
    pub(crate) fn is_broken(&mut self) -> bool {
        match self {
            Self::Tcp(tcp) => !matches!(tcp.take_error(), Ok(None)),
            Self::Tls(tls) => !matches!(tls.tcp().take_error(), Ok(None)),
            Self::Http2Server(stream) => {
                stream.poll_aborted(&mut Context::from_waker(Waker::noop())).is_ready()
            }
            Self::Http2Client(_) | Self::Detached(_) => false,
        }
    }

    /// Ready when the other side has aborted the message. Pending where only reading could tell.
    pub(crate) fn poll_aborted(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Tcp(_) | Self::Tls(_) => Poll::Pending,
            Self::Http2Server(stream) => stream.poll_aborted(cx),
            Self::Http2Client(_) | Self::Detached(_) => Poll::Pending,
        }
    }

    /// Whether nothing has arrived on a pooled connection: neither an end nor bytes that belong to no request.
    /// Costs no system call as long as the reactor has heard of nothing.
    pub(crate) fn is_quiet(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        match self {
            Self::Tcp(tcp) => match tcp.poll_read_ready(&mut cx) {
                Poll::Pending => true,
                // Readiness may be left over from a read that filled its buffer exactly.
                Poll::Ready(_) => {
                    matches!(tcp.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
                }
            },
            // Session tickets often follow a response; they are taken in here.
            Self::Tls(tls) => tls.poll_read_ready(&mut cx).is_pending(),
            // Carries one request, so that it is in no pool.
            Self::Http2Server(_) | Self::Http2Client(_) | Self::Detached(_) => false,
        }
    }

    /// Bytes that `written` ones can have become on the wire, at most.
    pub(crate) fn on_wire(&self, written: u64) -> u64 {
        /// Header, padding, explicit nonce and MAC of a record (RFC 5246 §6.2.3, RFC 8446 §5.2); pieces below a few
        /// KiB are joined, so that records are not shorter than that but for the last one.
        const OVERHEAD: u64 = 128;
        match self {
            Self::Tls(_) => written + OVERHEAD * (2 + written / 4_096),
            Self::Tcp(_) | Self::Http2Server(_) | Self::Http2Client(_) | Self::Detached(_) => written,
        }
    }

    /// Whether a WebSocket can be opened on it.
    pub(crate) fn allows_websocket(&self) -> bool {
        match self {
            Self::Tcp(_) | Self::Tls(_) | Self::Http2Server(_) | Self::Detached(_) => true,
            Self::Http2Client(stream) => stream.allows_websocket(),
        }
    }

    /// How the endpoint broke the message off while its connection goes on, as far as reading has shown it.
    pub(crate) fn was_reset(&self) -> Option<Reset> {
        match self {
            Self::Tcp(_) | Self::Tls(_) | Self::Http2Server(_) | Self::Detached(_) => None,
            Self::Http2Client(stream) => stream.was_reset(),
        }
    }

    /// That the other side has not processed the request, if it says so.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Tcp(_) | Self::Tls(_) | Self::Http2Server(_) | Self::Detached(_) => None,
            Self::Http2Client(stream) => stream.refusal(),
        }
    }
}
