//! An encrypted connection as a byte stream: rustls for the protocol, the socket and the buffers are ours.
//!
//! Records are decrypted in the buffer that they arrived in and encrypted into one that leaves with one write. Both
//! are on loan from the worker while something is in them: an idle connection owns neither. No more than one record
//! of plaintext and [`MOST_PENDING`] of ciphertext wait here; nothing is read while nobody asks.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{ClientConfig, CommonState, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::configs::HTTP2;
use crate::worker::buffers::{Buf, Buffers};

/// Ciphertext that waits to be sent, about: what one [`TlsStream::poll_write`] takes at most.
const MOST_PENDING: usize = 64 * 1_024;
/// Plaintext of one record (RFC 8446 §5.1).
const RECORD: usize = 16 * 1_024;
/// Parts below this are joined with their neighbours in one record.
const JOIN_BELOW: usize = 8 * 1_024;
/// Longest payload of a received record: TLS 1.2 allows the most overhead (RFC 5246 §6.2.3).
const LONGEST_PAYLOAD: usize = RECORD + 2_048;
/// Handshake messages may be fragmented over records, but not be larger than this.
const LARGEST_MESSAGE: usize = 64 * 1_024;
/// Records after the handshake that carry no data (key updates, tickets, refused renegotiations, empty ones) within
/// [`CONTROL_WINDOW`]; more are an attack on our CPU.
const MOST_CONTROL: u8 = 32;
const CONTROL_WINDOW: Duration = Duration::from_secs(60);
/// Space that is worth a read.
const LEAST_SPACE: usize = 2_048;
/// A part of a record of up to this size waits for the rest without a buffer.
const SHELVED: usize = 1_024;
/// Bytes before a record's payload.
const HEADER: usize = 5;
/// Content types of records (RFC 8446 §5.1).
const KINDS: std::ops::RangeInclusive<u8> = 20..=24;

/// Which end of the connection we are.
// Both are of about the same size, and every connection has one.
enum Session {
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
}

/// What is wanted of the protocol.
enum Wish<'a, 'b> {
    /// Whatever comes next; data stays where it is.
    Advance,
    /// Data.
    Read(&'a mut ReadBuf<'b>),
    /// To send data.
    Write(&'a [u8]),
    /// To announce the end of what is sent.
    Close,
}

/// What a step of the protocol came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Event {
    /// Nothing more without further records.
    Quiet,
    /// Something was done; there may be more.
    Progress,
    /// Data waits in the session.
    Held,
    /// Data was taken from the session.
    Taken,
    /// The wish to write or close is fulfilled.
    Done,
    /// The peer has announced its end.
    PeerClosed,
}

/// See the module's documentation.
pub(crate) struct TlsStream {
    tcp: TcpStream,
    session: Session,
    /// Received, not decrypted, but for the first `fed` bytes.
    incoming: Buf,
    /// Bytes at the front of `incoming` that are parts of an incomplete handshake message.
    fed: usize,
    /// Encrypted, not sent.
    outgoing: Buf,
    /// Decrypted, not read, from `plain_at` on.
    plain: Vec<u8>,
    plain_at: usize,
    /// The session holds data that was decrypted.
    holds_data: bool,
    /// The last step told that nothing is left to be done.
    is_quiet: bool,
    established: bool,
    peer_closed: bool,
    /// `close_notify` was sent, or shall not be.
    closed: bool,
    failed: bool,
    control: u8,
    control_since: Option<Instant>,
    buffers: Rc<Buffers>,
}

impl fmt::Debug for TlsStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream").field("tcp", &self.tcp).finish_non_exhaustive()
    }
}

impl TlsStream {
    /// The server's end. `received` is what was read from `tcp` already.
    ///
    /// # Errors
    /// If `config` is not consistent.
    pub(crate) fn server(
        tcp: TcpStream,
        config: Arc<ServerConfig>,
        received: Buf,
        buffers: &Rc<Buffers>,
    ) -> Result<Self, rustls::Error> {
        let session = Session::Server(UnbufferedServerConnection::new(config)?);
        Ok(Self::new(tcp, session, received, buffers))
    }

    /// The client's end; `name` is what the server's certificate is verified for.
    ///
    /// # Errors
    /// If `config` is not consistent.
    pub(crate) fn client(
        tcp: TcpStream,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        buffers: &Rc<Buffers>,
    ) -> Result<Self, rustls::Error> {
        let session = Session::Client(UnbufferedClientConnection::new(config, name)?);
        Ok(Self::new(tcp, session, buffers.resting(), buffers))
    }

    fn new(tcp: TcpStream, session: Session, incoming: Buf, buffers: &Rc<Buffers>) -> Self {
        Self {
            tcp,
            session,
            incoming,
            fed: 0,
            outgoing: buffers.resting(),
            plain: Vec::new(),
            plain_at: 0,
            holds_data: false,
            is_quiet: false,
            established: false,
            peer_closed: false,
            closed: false,
            failed: false,
            control: 0,
            control_since: None,
            buffers: Rc::clone(buffers),
        }
    }

    /// The socket underneath.
    pub(crate) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// What both ends agreed on; complete after [`Self::poll_handshake`].
    pub(crate) fn facts(&self) -> &CommonState {
        match &self.session {
            Session::Server(server) => server,
            Session::Client(client) => client,
        }
    }

    /// Ready when data can be exchanged and nothing of our part of the handshake is held back.
    ///
    /// # Errors
    /// [`failure`] tells a protocol error from one of the socket. An alert was sent, if there is one for it.
    pub(crate) fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.established {
            match self.step(Wish::Advance)? {
                Event::Quiet | Event::Held if !self.facts().is_handshaking() => self.established = true,
                Event::Quiet => {
                    ready!(self.poll_flush(cx))?;
                    if !self.has_record() {
                        ready!(self.poll_fill(cx, false))?;
                    }
                }
                Event::Progress | Event::Done | Event::Taken => {}
                Event::Held | Event::PeerClosed => {
                    return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                }
            }
        }
        self.poll_flush(cx)
    }

    /// Reads into `space`; nothing filled = the peer has ended its side.
    ///
    /// # Errors
    /// `UnexpectedEof` if the socket ended without the announcement that TLS demands (RFC 8446 §6.1).
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        space: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.take_plain(space) {
            return Poll::Ready(Ok(()));
        }
        self.poll_data(cx, Some(space))
    }

    /// Ready when [`Self::poll_read`] would find data, the end or an error.
    pub(crate) fn poll_read_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.plain_at < self.plain.len() || self.holds_data {
            return Poll::Ready(Ok(()));
        }
        self.poll_data(cx, None)
    }

    fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
        mut space: Option<&mut ReadBuf<'_>>,
    ) -> Poll<io::Result<()>> {
        loop {
            if self.peer_closed {
                return Poll::Ready(Ok(()));
            }
            let wish = match &mut space {
                Some(space) => Wish::Read(space),
                None => Wish::Advance,
            };
            match self.step(wish)? {
                Event::Taken | Event::Held => return Poll::Ready(Ok(())),
                Event::PeerClosed => self.peer_closed = true,
                Event::Progress | Event::Done => {}
                Event::Quiet if self.has_record() => {}
                Event::Quiet => {
                    // Answers to key updates and the like; they need not have left for reading to go on.
                    if let Poll::Ready(Err(error)) = self.poll_send(cx) {
                        return Poll::Ready(Err(error));
                    }
                    ready!(self.poll_fill(cx, space.is_none()))?;
                }
            }
        }
    }

    /// Takes from the front of `parts` what one write may hold, encrypts it and sends what the socket takes.
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_flush(cx))?;
        if self.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let mut taken = 0;
        let mut rest = parts.iter();
        let mut part: &[u8] = rest.next().map_or(&[], |part| part);
        while taken < MOST_PENDING {
            while part.is_empty() {
                let Some(next) = rest.next() else { break };
                part = next;
            }
            let is_last = rest.as_slice().is_empty();
            if part.is_empty() {
                break;
            }
            if part.len() >= JOIN_BELOW || is_last {
                let (now, later) = part.split_at(part.len().min(RECORD));
                self.encrypt(now)?;
                (taken, part) = (taken + now.len(), later);
                continue;
            }
            let mut joined = self.buffers.small();
            while !part.is_empty() && !joined.spare().is_empty() {
                let n = part.len().min(joined.spare().len());
                let (now, later) = part.split_at(n);
                joined.spare().iter_mut().zip(now).for_each(|(to, from)| *to = *from);
                joined.filled(n);
                part = later;
                while part.is_empty() {
                    let Some(next) = rest.next() else { break };
                    part = next;
                }
            }
            self.encrypt(joined.unread())?;
            taken += joined.unread().len();
        }
        // What the socket does not take now is sent by the next call, or by a flush.
        if let Poll::Ready(Err(error)) = self.poll_send(cx) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(taken))
    }

    /// Ready when nothing is held back.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_send(cx)
    }

    /// Announces the end of what is sent (RFC 8446 §6.1), sends all, and ends the socket's sending side.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !std::mem::replace(&mut self.closed, true) && self.established && !self.failed {
            while !matches!(self.step(Wish::Close)?, Event::Done | Event::Quiet) {}
        }
        ready!(self.poll_flush(cx))?;
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }

    /// Announces the end as far as that is possible at once: for a connection on which nobody waits for anything.
    pub(crate) fn take_leave(&mut self) {
        if self.closed || self.failed || !self.established || !self.outgoing.is_empty() {
            return;
        }
        self.closed = true;
        while matches!(self.step(Wish::Close), Ok(Event::Progress | Event::Taken | Event::PeerClosed)) {}
        // A client that is gone does not mind.
        let _sent = self.tcp.try_write(self.outgoing.unread());
    }

    /// Encrypts `data` into `outgoing`.
    fn encrypt(&mut self, data: &[u8]) -> io::Result<()> {
        loop {
            match self.step(Wish::Write(data))? {
                Event::Done => return Ok(()),
                Event::PeerClosed => self.peer_closed = true,
                Event::Progress | Event::Held | Event::Taken => {}
                Event::Quiet => return Err(io::ErrorKind::NotConnected.into()),
            }
        }
    }

    /// Copies plaintext that is at hand. False if there is none.
    fn take_plain(&mut self, space: &mut ReadBuf<'_>) -> bool {
        let rest = self.plain.get(self.plain_at..).unwrap_or_default();
        if rest.is_empty() {
            return false;
        }
        let n = rest.len().min(space.remaining());
        space.put_slice(rest.get(..n).unwrap_or_default());
        self.plain_at += n;
        if self.plain_at == self.plain.len() {
            self.plain = Vec::new();
            self.plain_at = 0;
        }
        true
    }

    /// Whether a record, or what can be none, is at hand that the session has not seen.
    fn has_record(&self) -> bool {
        next_record(self.incoming.unread(), self.fed).is_some()
    }

    /// One step of the protocol. A new record is fed only for reading, and only when the last one is done with.
    fn step(&mut self, wish: Wish<'_, '_>) -> io::Result<Event> {
        if self.failed {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let reads = matches!(wish, Wish::Advance | Wish::Read(_));
        let end = if self.is_quiet && reads { next_record(self.incoming.unread(), self.fed) } else { None };
        let is_new = end.is_some();
        let end = end.unwrap_or(self.fed);
        let records = self.incoming.unread_mut().get_mut(..end).unwrap_or_default();
        let mut io = Sides { outgoing: &mut self.outgoing, plain: &mut self.plain };
        let (discard, event) = match &mut self.session {
            Session::Server(server) => io.react(server.process_tls_records(records), wish),
            Session::Client(client) => io.react(client.process_tls_records(records), wish),
        };
        self.incoming.consume(discard);
        self.fed = end.saturating_sub(discard);
        self.incoming.rewind(0);
        let event = match event {
            Ok(event) if self.fed <= LARGEST_MESSAGE => event,
            Ok(_) => return Err(self.fail(rustls::Error::General("handshake message too large".into()))),
            Err(error) => return Err(self.fail(error)),
        };
        self.is_quiet = event == Event::Quiet;
        self.holds_data = event == Event::Held;
        if is_new && self.established && !matches!(event, Event::Held | Event::Taken | Event::PeerClosed) {
            self.count_control()?;
        }
        Ok(event)
    }

    /// Counts a record that carries no data.
    fn count_control(&mut self) -> io::Result<()> {
        let now = Instant::now();
        if self.control_since.is_none_or(|since| now.duration_since(since) > CONTROL_WINDOW) {
            (self.control, self.control_since) = (0, Some(now));
        }
        self.control += 1;
        if self.control <= MOST_CONTROL {
            return Ok(());
        }
        Err(self.fail(rustls::Error::General("too many records without data".into())))
    }

    /// Notes a fatal error and sends the alert for it, as far as the socket takes it at once.
    #[cold]
    fn fail(&mut self, error: rustls::Error) -> io::Error {
        self.failed = true;
        self.incoming.discard();
        // Alerts are at the front of what the session has to send: no record is needed for them.
        while self.facts().wants_write() {
            let mut io = Sides { outgoing: &mut self.outgoing, plain: &mut Vec::new() };
            let (_, event) = match &mut self.session {
                Session::Server(server) => io.react(server.process_tls_records(&mut []), Wish::Advance),
                Session::Client(client) => io.react(client.process_tls_records(&mut []), Wish::Advance),
            };
            if !matches!(event, Ok(Event::Progress)) {
                break;
            }
        }
        while let Ok(n @ 1..) = self.tcp.try_write(self.outgoing.unread()) {
            self.outgoing.consume(n);
        }
        self.outgoing.discard();
        self.outgoing.rest(0);
        io::Error::new(io::ErrorKind::InvalidData, error)
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            let n = ready!(Pin::new(&mut self.tcp).poll_write(cx, self.outgoing.unread()))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outgoing.consume(n);
        }
        self.outgoing.rest(0);
        Poll::Ready(Ok(()))
    }

    /// Reads what has arrived. While nothing has, a small part of a record waits without a buffer, and a large one as
    /// well if the connection is `idle`.
    fn poll_fill(&mut self, cx: &mut Context<'_>, idle: bool) -> Poll<io::Result<()>> {
        let polled = self.poll_socket(cx);
        if polled.is_pending() && (idle || self.incoming.unread().len() <= SHELVED) {
            self.incoming.shelve();
        }
        polled
    }

    fn poll_socket(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Known without a system call; a buffer is taken only then.
        ready!(self.tcp.poll_read_ready(cx))?;
        if self.incoming.spare().len() < LEAST_SPACE && !make_room(&mut self.incoming) {
            return Poll::Ready(Err(self.fail(rustls::Error::General("record too large".into()))));
        }
        let mut space = ReadBuf::new(self.incoming.spare());
        ready!(Pin::new(&mut self.tcp).poll_read(cx, &mut space))?;
        let n = space.filled().len();
        if n == 0 {
            self.failed = true;
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        self.incoming.filled(n);
        Poll::Ready(Ok(()))
    }

    /// The peer has agreed to speak HTTP/2.
    pub(crate) fn is_http2(&self) -> bool {
        self.facts().alpn_protocol() == Some(HTTP2)
    }

    /// The socket, with whatever was not sent or read given up.
    pub(crate) fn into_tcp(self) -> TcpStream {
        self.tcp
    }
}

/// Where the session's output goes.
struct Sides<'a> {
    outgoing: &'a mut Buf,
    plain: &'a mut Vec<u8>,
}

impl Sides<'_> {
    /// Does what the state of the session asks for; also tells how many bytes of records are done with.
    fn react<D>(
        &mut self,
        status: UnbufferedStatus<'_, '_, D>,
        wish: Wish<'_, '_>,
    ) -> (usize, Result<Event, rustls::Error>) {
        let event = match status.state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => match wish {
                Wish::Advance => Ok(Event::Held),
                Wish::Read(space) => traffic.next_record().map_or(Ok(Event::Progress), |record| {
                    let payload = record?.payload;
                    let (now, later) = payload.split_at(payload.len().min(space.remaining()));
                    space.put_slice(now);
                    self.plain.extend_from_slice(later);
                    Ok(Event::Taken)
                }),
                // Data stands in the way of sending: it waits outside.
                Wish::Write(_) | Wish::Close => traffic.next_record().map_or(Ok(Event::Progress), |record| {
                    self.plain.extend_from_slice(record?.payload);
                    Ok(Event::Taken)
                }),
            },
            Ok(ConnectionState::EncodeTlsData(mut message)) => loop {
                match message.encode(self.outgoing.spare()) {
                    Ok(n) => {
                        self.outgoing.filled(n);
                        break Ok(Event::Progress);
                    }
                    Err(EncodeError::InsufficientSize(_)) if make_room(self.outgoing) => {}
                    Err(error) => break Err(rustls::Error::General(error.to_string())),
                }
            },
            Ok(ConnectionState::TransmitTlsData(sent)) => {
                // It is in `outgoing`, ahead of whatever follows.
                sent.done();
                Ok(Event::Progress)
            }
            Ok(ConnectionState::BlockedHandshake) => Ok(Event::Quiet),
            Ok(ConnectionState::WriteTraffic(mut traffic)) => match wish {
                Wish::Advance | Wish::Read(_) => Ok(Event::Quiet),
                Wish::Write(data) => self.write(|out| traffic.encrypt(data, out)),
                Wish::Close => self.write(|out| traffic.queue_close_notify(out)),
            },
            Ok(ConnectionState::PeerClosed) => Ok(Event::PeerClosed),
            Ok(ConnectionState::Closed) => match wish {
                Wish::Advance | Wish::Read(_) => Ok(Event::PeerClosed),
                // Whoever waits for this would wait forever.
                Wish::Write(_) | Wish::Close => Err(rustls::Error::General("closed".into())),
            },
            Ok(_) => Err(rustls::Error::General("unexpected state".into())),
            Err(error) => Err(error),
        };
        (status.discard, event)
    }

    fn write(
        &mut self,
        mut encrypt: impl FnMut(&mut [u8]) -> Result<usize, EncryptError>,
    ) -> Result<Event, rustls::Error> {
        if self.outgoing.is_resting() {
            self.outgoing.enlarge();
        }
        loop {
            match encrypt(self.outgoing.spare()) {
                Ok(n) => {
                    self.outgoing.filled(n);
                    return Ok(Event::Done);
                }
                Err(EncryptError::InsufficientSize(_)) if make_room(self.outgoing) => {}
                Err(_) => return Err(rustls::Error::EncryptError),
            }
        }
    }
}

/// Makes the spare space of `buf` larger. False if it has its largest size.
fn make_room(buf: &mut Buf) -> bool {
    let before = buf.spare().len();
    buf.compact_to(0);
    if buf.spare().len() == before {
        buf.enlarge();
    }
    buf.spare().len() > before
}

/// End of the first record behind the `fed` bytes that were seen before, if it is complete. What can be no record
/// is complete: the session then says what is wrong with it.
fn next_record(received: &[u8], fed: usize) -> Option<usize> {
    let rest = received.get(fed..)?;
    let &[kind, major, _, high, low, ..] = rest else {
        // Something else than TLS shows in the first byte.
        return rest.first().is_some_and(|kind| !KINDS.contains(kind)).then_some(received.len());
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if !KINDS.contains(&kind) || major != 3 || length > LONGEST_PAYLOAD {
        return Some(received.len());
    }
    let end = fed + HEADER + length;
    (end <= received.len()).then_some(end)
}

/// The protocol error within an error of this module; `None` if the socket failed or ended.
pub(crate) fn failure(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

#[cfg(test)]
mod tests;
