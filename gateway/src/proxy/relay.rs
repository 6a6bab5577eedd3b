//! Moves one message from one connection to another: the written head, then the body from its own framing
//! into ours. Streaming, bounded by one buffer, with back-pressure: nothing is read while something waits to
//! be written. Used for both directions.

use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};

use rustix::pipe::SpliceFlags;
use tokio::io::{Interest, ReadBuf};
use tokio::net::TcpStream;

use crate::http1::chunked::{BadChunk, Decoder, Step};
use crate::http1::head::Framing;
use crate::http1::write;
use crate::proxy::grpc_web::{self, NotBase64, Translation};
use crate::stream::Stream;
use crate::worker::buffers::{Buf, Buffers, Head, Pipe, PipeGuard};
use std::rc::Rc;

/// Bodies with at least this much left are spliced (performance: below it, a copy is cheaper).
const SPLICE_FROM: u64 = 32 * 1_024;
/// Less than this is a small piece: it is copied behind a head that is still to be written, and wants no more room.
pub(crate) const JOIN_BELOW: usize = 4_096;
/// A stream that came in so many pieces of less than [`JOIN_BELOW`] holds no buffer while it waits for more.
const TRICKLE: u8 = 4;
/// A tunnel's first piece that is spliced; each that the destination takes at once lets the next one be twice as large.
/// What a destination that takes nothing leaves in a pipe is memory of the kernel, whoever has many of them.
const FIRST_PIECE: usize = 64 * 1_024;
/// Pieces that are spliced before other connections have their turn.
const SPLICE_TURN: u32 = 16;
/// Less room than this behind the head, or a body longer than this, earns a large buffer.
const LARGE_BODY: usize = 16 * 1_024;

/// A body that is kept is kept up to this size.
const MOST_KEPT: u64 = 8 * 1_024;

/// Why a relay stopped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fault {
    /// The source closed before the message ended.
    SourceClosed,
    /// Reading failed.
    Source(io::ErrorKind),
    /// The source's chunked coding is malformed.
    SourceMalformed,
    /// Writing failed.
    Destination(io::ErrorKind),
}

#[derive(Debug)]
enum Input {
    Length(u64),
    Chunked(Decoder),
    Close,
}

/// One message on its way.
#[derive(Debug)]
pub(crate) struct Relay {
    /// The head; later the last chunk with trailers.
    prefix: Head,
    prefix_at: usize,
    /// Length of the head alone, without what was joined to it.
    head_length: usize,
    input: Input,
    chunked_out: bool,
    with_trailers: bool,
    /// The source has told that what was read from it is all.
    pub(crate) source_ended: bool,
    /// Trailer lines for a destination that delimits messages itself, or from such a source.
    trailers: Vec<u8>,
    /// Bytes of the buffer before this position are kept.
    floor: usize,
    /// Chunk header.
    frame: [u8; 18],
    frame_at: u8,
    frame_end: u8,
    /// Data in the buffer that waits to be written.
    span: (usize, usize),
    /// What follows the data.
    tail: &'static [u8],
    pipe: Option<PipeGuard>,
    /// May wait for long: holds no buffer meanwhile.
    pub(crate) is_tunnel: bool,
    /// What is done to the body besides.
    pub(crate) translation: Option<Box<Translation>>,
    /// Small pieces in a row, up to [`TRICKLE`].
    small_pieces: u8,
    /// How much is spliced at once; see [`FIRST_PIECE`].
    piece: usize,
    /// The kernel does not splice these sockets.
    is_unspliceable: bool,
    /// What was taken of the body stays in the buffer, so that it can be sent again; given up when it grows.
    pub(crate) keeps: bool,
    /// The body waits (for `100 Continue`).
    pub(crate) hold: bool,
    /// Something of the body, be it only framing, was taken from the buffer.
    pub(crate) touched: bool,
    /// The input has been read to its end.
    pub(crate) ended: bool,
    /// Everything has been written.
    pub(crate) finished: bool,
    /// Bytes of the destination's message that were accepted by the kernel, head included.
    pub(crate) written: u64,
    /// How many writes it took, up to 255; what was spliced is not counted.
    pub(crate) writes: u8,
    /// Body bytes taken from the source.
    pub(crate) received: u64,
    /// Body bytes moved by splice.
    pub(crate) spliced: u64,
    /// What the last `Pending` waits for.
    pub(crate) waits_for_source: bool,
}

impl Relay {
    /// A relay that writes `prefix` and then the body. `floor` = start of the buffer region it may recycle.
    pub(crate) fn new(
        prefix: Head,
        input: Framing,
        output: Framing,
        with_trailers: bool,
        floor: usize,
    ) -> Self {
        let input = match input {
            Framing::None => Input::Length(0),
            Framing::Length(length) => Input::Length(length),
            Framing::Chunked => Input::Chunked(Decoder::default()),
            Framing::Close => Input::Close,
        };
        Self {
            head_length: prefix.len(),
            prefix,
            prefix_at: 0,
            input,
            chunked_out: output == Framing::Chunked,
            with_trailers,
            source_ended: false,
            trailers: Vec::new(),
            floor,
            frame: [0; 18],
            frame_at: 0,
            frame_end: 0,
            span: (0, 0),
            tail: b"",
            pipe: None,
            is_tunnel: false,
            translation: None,
            small_pieces: 0,
            piece: FIRST_PIECE,
            is_unspliceable: false,
            keeps: false,
            hold: false,
            touched: false,
            ended: false,
            finished: false,
            written: 0,
            writes: 0,
            received: 0,
            spliced: 0,
            waits_for_source: false,
        }
    }

    /// The head as written, for another attempt.
    pub(crate) fn into_prefix(self) -> Head {
        let mut prefix = self.prefix;
        prefix.truncate(self.head_length);
        prefix
    }

    /// Moves as much as both sides allow. Ready when everything has been written.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut Stream,
        buf: &mut Buf,
        destination: &mut Stream,
        pipes: &Rc<Buffers>,
    ) -> Poll<Result<(), Fault>> {
        while !self.finished {
            if !self.ended && !self.hold && self.body_is_written() && !self.is_in_pipe() {
                self.take(buf).map_err(|BadChunk| Fault::SourceMalformed)?;
            }
            if !self.is_written() {
                self.waits_for_source = false;
                ready!(self.poll_write(cx, buf, destination))?;
                continue;
            }
            if self.ended {
                if self.trailers_to_write() {
                    continue;
                }
                self.waits_for_source = false;
                // A body of known length on a connection has no place for trailers.
                let trailers = if destination.delimits() { &*self.trailers } else { &[] };
                let finished = ready!(destination.poll_finish(cx, trailers));
                finished.map_err(|error| Fault::Destination(error.kind()))?;
                self.finished = true;
                break;
            }
            self.waits_for_source = false;
            ready!(destination.poll_flush(cx)).map_err(|error| Fault::Destination(error.kind()))?;
            self.waits_for_source = true;
            if self.hold {
                return Poll::Pending;
            }
            if let (Some(from), Some(to)) = (source.spliceable(), destination.spliceable())
                && self.can_splice(buf, pipes)
            {
                if self.is_tunnel {
                    buf.rest(self.floor);
                }
                ready!(self.poll_splice(cx, from, to))?;
            } else {
                ready!(self.poll_fill(cx, source, buf))?;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Nothing is on its way, and nothing waits to be taken from `buf`: whoever reads the source next may be another.
    pub(crate) fn is_at_rest(&self, buf: &Buf) -> bool {
        self.waits_for_source && !self.ended && self.is_written() && !self.is_in_pipe() && buf.is_empty()
    }

    /// Counts what another has relayed since [`Self::is_at_rest`], of which `rest` is still to be written.
    pub(crate) fn relayed(&mut self, count: u64, rest: &[u8]) {
        self.received += count;
        self.written += count.saturating_sub(rest.len() as u64);
        self.prefix.clear();
        self.prefix.extend_from_slice(rest);
        self.prefix_at = 0;
    }

    /// Takes what the buffer holds of the body; sets up what is to be written. The first call joins head and
    /// body into one write.
    fn take(&mut self, buf: &mut Buf) -> Result<(), BadChunk> {
        let from = buf.position();
        match &mut self.input {
            Input::Length(remaining) => {
                let available = u64::try_from(buf.unread().len()).unwrap_or(0).min(*remaining);
                *remaining -= available;
                self.ended = *remaining == 0;
                let available = usize::try_from(available).unwrap_or(0);
                buf.consume(available);
                self.span = (from, from + available);
            }
            Input::Close => {
                buf.consume(buf.unread().len());
                self.span = (from, buf.position());
                self.ended = self.source_ended;
            }
            Input::Chunked(decoder) => (self.span, self.ended) = take_chunks(decoder, buf)?,
        }
        let length = self.span.1 - self.span.0;
        self.touched |= buf.position() != from;
        self.received += u64::try_from(length).unwrap_or(0);
        if self.translation.is_some() {
            return self.translate(buf);
        }
        if self.chunked_out {
            self.frame(length);
        }
        if self.prefix_at == 0 && !self.prefix.is_empty() && (1..=JOIN_BELOW).contains(&length) {
            self.join(buf);
        }
        Ok(())
    }

    /// As the end of [`Self::take`], for a body that is changed on its way.
    #[cold]
    fn translate(&mut self, buf: &mut Buf) -> Result<(), BadChunk> {
        match self.translation.as_deref_mut() {
            Some(Translation::Decode(decoder)) => {
                let length =
                    decoder.decode(buf.range_mut(self.span.0, self.span.1)).map_err(|NotBase64| BadChunk)?;
                self.span.1 = self.span.0 + length;
                if self.ended && !decoder.is_whole() {
                    return Err(BadChunk);
                }
            }
            Some(Translation::Frames { encoder, seen }) => {
                *seen |= self.span.0 < self.span.1;
                if let Some(encoder) = encoder {
                    let mut text = Vec::new();
                    encoder.encode(buf.range(self.span.0, self.span.1), &mut text);
                    if self.prefix_at == self.prefix.len() {
                        self.prefix.clear();
                        self.prefix_at = 0;
                    }
                    grpc_web::chunk(&mut self.prefix, self.chunked_out, &text);
                    self.span.0 = self.span.1;
                    return Ok(());
                }
            }
            None => {}
        }
        if self.chunked_out {
            self.frame(self.span.1 - self.span.0);
        }
        Ok(())
    }

    /// Copies a small body behind the head that has not left yet: one plain write of a few KiB costs the
    /// kernel less than one that gathers.
    fn join(&mut self, buf: &Buf) {
        let frame =
            self.frame.get(usize::from(self.frame_at)..usize::from(self.frame_end)).unwrap_or_default();
        for part in [frame, buf.range(self.span.0, self.span.1), self.tail] {
            self.prefix.extend_from_slice(part);
        }
        self.frame_at = self.frame_end;
        self.span.0 = self.span.1;
        self.tail = b"";
    }

    fn has_trailers(&self) -> bool {
        let decoded = matches!(&self.input, Input::Chunked(decoder) if !decoder.trailers().is_empty());
        let framed = matches!(self.translation.as_deref(), Some(Translation::Frames { .. }));
        framed || (self.with_trailers && (decoded || !self.trailers.is_empty()))
    }

    /// Sets up chunk header and tail for `length` bytes of data.
    fn frame(&mut self, length: usize) {
        let last = self.ended && !self.has_trailers();
        if length == 0 {
            self.tail = if last { b"0\r\n\r\n" } else { b"" };
            return;
        }
        self.tail = if last { b"\r\n0\r\n\r\n" } else { b"\r\n" };
        let mut at = self.frame.len();
        let mut rest = length;
        for byte in [b'\n', b'\r'] {
            at -= 1;
            if let Some(slot) = self.frame.get_mut(at) {
                *slot = byte;
            }
        }
        while rest > 0 && at > 0 {
            at -= 1;
            if let (Some(slot), Some(digit)) = (self.frame.get_mut(at), b"0123456789abcdef".get(rest & 15)) {
                *slot = *digit;
            }
            rest >>= 4;
        }
        self.frame_at = u8::try_from(at).unwrap_or(0);
        self.frame_end = 18;
    }

    /// Once data and head are out: puts the last chunk with trailers where the head was. True if it did.
    fn trailers_to_write(&mut self) -> bool {
        if self.frame_trailers() {
            return true;
        }
        if !self.has_trailers() {
            self.trailers.clear();
            return false;
        }
        if let Input::Chunked(decoder) = &self.input {
            write::trailers(&mut self.trailers, decoder.trailers());
            self.input = Input::Length(0);
        }
        if !self.chunked_out {
            return false;
        }
        self.prefix.clear();
        self.prefix_at = 0;
        for part in [b"0\r\n", &*self.trailers, b"\r\n"] {
            self.prefix.extend_from_slice(part);
        }
        self.trailers.clear();
        true
    }

    /// Once data and head are out: puts what ends a translated response where the head was. True if it did.
    fn frame_trailers(&mut self) -> bool {
        let Some(mut translation) =
            self.translation.take_if(|translation| matches!(**translation, Translation::Frames { .. }))
        else {
            return false;
        };
        self.prefix.clear();
        self.prefix_at = 0;
        let mut end = Vec::new();
        translation.finish(&mut end, &self.trailers);
        grpc_web::chunk(&mut self.prefix, self.chunked_out, &end);
        if self.chunked_out {
            self.prefix.extend_from_slice(b"0\r\n\r\n");
        }
        self.trailers.clear();
        true
    }

    fn is_written(&self) -> bool {
        self.prefix_at == self.prefix.len() && self.body_is_written()
    }

    /// What was taken of the body is out; the head need not be, so that both leave in one write.
    fn body_is_written(&self) -> bool {
        self.frame_at == self.frame_end && self.span.0 == self.span.1 && self.tail.is_empty()
    }

    /// Bytes that were read are in the pipe: the body is not over, though nothing more may be left to read.
    fn is_in_pipe(&self) -> bool {
        self.pipe.as_ref().is_some_and(|pipe| pipe.filled() > 0)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, buf: &Buf, to: &mut Stream) -> Poll<Result<(), Fault>> {
        let frame = self.frame.get(usize::from(self.frame_at)..usize::from(self.frame_end));
        let parts = [
            self.prefix.get(self.prefix_at..).unwrap_or_default(),
            frame.unwrap_or_default(),
            buf.range(self.span.0, self.span.1),
            self.tail,
        ];
        let mut slices = [IoSlice::new(&[]); 4];
        let mut count = 0;
        for part in parts {
            if !part.is_empty()
                && let Some(slice) = slices.get_mut(count)
            {
                *slice = IoSlice::new(part);
                count += 1;
            }
        }
        let Some(slices) = slices.get(..count).filter(|slices| !slices.is_empty()) else {
            return Poll::Ready(Ok(()));
        };
        let last = self.ended && !self.has_trailers();
        match ready!(to.poll_write(cx, slices, last)) {
            Ok(0) => Poll::Ready(Err(Fault::Destination(io::ErrorKind::WriteZero))),
            Ok(n) => {
                self.wrote(n);
                Poll::Ready(Ok(()))
            }
            Err(error) => Poll::Ready(Err(Fault::Destination(error.kind()))),
        }
    }

    fn wrote(&mut self, n: usize) {
        self.written += u64::try_from(n).unwrap_or(0);
        self.writes = self.writes.saturating_add(1);
        let mut rest = n;
        let mut take = |available: usize| {
            let taken = rest.min(available);
            rest -= taken;
            taken
        };
        self.prefix_at += take(self.prefix.len() - self.prefix_at);
        self.frame_at += u8::try_from(take(usize::from(self.frame_end - self.frame_at))).unwrap_or(0);
        self.span.0 += take(self.span.1 - self.span.0);
        let tail = take(self.tail.len());
        self.tail = self.tail.get(tail..).unwrap_or_default();
    }

    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Stream,
        buf: &mut Buf,
    ) -> Poll<Result<(), Fault>> {
        if buf.is_resting() {
            ready!(from.poll_read_ready(cx)).map_err(|error| Fault::Source(error.kind()))?;
            buf.enlarge();
        }
        self.keeps &= self.received <= MOST_KEPT && buf.spare().len() >= JOIN_BELOW;
        if !self.keeps {
            buf.rewind(self.floor);
        }
        let wants_large = match &self.input {
            Input::Length(remaining) => *remaining > LARGE_BODY as u64,
            // What comes through a tunnel in small pieces goes on to, most likely.
            Input::Close if self.is_tunnel && self.small_pieces > 0 => false,
            Input::Chunked(_) | Input::Close => self.received > LARGE_BODY as u64,
        };
        if wants_large || buf.spare().len() < JOIN_BELOW {
            buf.compact_to(self.floor);
            if wants_large || buf.spare().len() < JOIN_BELOW {
                buf.enlarge();
            }
        }
        let mut space = ReadBuf::new(buf.spare());
        let Poll::Ready(result) = from.poll_read(cx, &mut space) else {
            if self.is_tunnel || (self.floor == 0 && self.small_pieces >= TRICKLE) {
                buf.rest(self.floor);
            }
            return Poll::Pending;
        };
        match result {
            Ok(()) => {
                let n = space.filled().len();
                buf.filled(n);
                self.small_pieces = if n < JOIN_BELOW { self.small_pieces.saturating_add(1) } else { 0 };
                self.source_ended = from.has_ended();
                if n > 0 {
                    return Poll::Ready(Ok(()));
                }
                if matches!(self.input, Input::Close) {
                    if matches!(self.translation.as_deref(), Some(Translation::Decode(decoder)) if !decoder.is_whole())
                    {
                        return Poll::Ready(Err(Fault::SourceMalformed));
                    }
                    self.ended = true;
                    write::trailers(&mut self.trailers, &from.take_trailers());
                    self.keeps &= self.trailers.is_empty();
                    if self.chunked_out {
                        self.frame(0);
                    }
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Err(Fault::SourceClosed))
            }
            Err(error) => Poll::Ready(Err(Fault::Source(error.kind()))),
        }
    }

    fn can_splice(&mut self, buf: &Buf, pipes: &Rc<Buffers>) -> bool {
        if self.is_in_pipe() {
            return true;
        }
        if self.chunked_out || self.is_unspliceable || !buf.is_empty() {
            return false;
        }
        let is_worthwhile = match self.input {
            Input::Length(remaining) => remaining >= SPLICE_FROM,
            // A tunnel through which much flows in large pieces.
            Input::Close => self.is_tunnel && self.small_pieces == 0 && self.received >= SPLICE_FROM,
            Input::Chunked(_) => false,
        };
        if !is_worthwhile && self.pipe.is_none() {
            return false;
        }
        if self.pipe.is_none() {
            self.pipe = pipes.pipe();
        }
        self.pipe.is_some()
    }

    /// Moves body bytes through a pipe without copying them to user space.
    fn poll_splice(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
        to: &TcpStream,
    ) -> Poll<Result<(), Fault>> {
        let Some(pipe) = self.pipe.as_mut().and_then(PipeGuard::pipe) else { return Poll::Ready(Ok(())) };
        let mut endless = u64::MAX;
        let (remaining, is_open) = match &mut self.input {
            Input::Length(remaining) => (remaining, false),
            Input::Close => (&mut endless, true),
            Input::Chunked(_) => return Poll::Ready(Ok(())),
        };
        let (mut pieces, mut more) = (0, false);
        loop {
            if pipe.filled > 0 {
                self.waits_for_source = false;
                match splice_out(pipe, to, *remaining > 0 && more) {
                    Ok(n) => {
                        pipe.filled -= n.min(pipe.filled);
                        self.written += u64::try_from(n).unwrap_or(0);
                        self.spliced += u64::try_from(n).unwrap_or(0);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        self.piece = FIRST_PIECE;
                        ready!(to.poll_write_ready(cx)).map_err(|error| Fault::Destination(error.kind()))?;
                    }
                    Err(error) => return Poll::Ready(Err(Fault::Destination(error.kind()))),
                }
                continue;
            }
            if *remaining == 0 {
                self.ended = true;
                self.pipe = None;
                return Poll::Ready(Ok(()));
            }
            self.waits_for_source = true;
            pieces += 1;
            if pieces > SPLICE_TURN {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let most = usize::try_from(*remaining).unwrap_or(usize::MAX).min(pipe.capacity);
            let most = if is_open { most.min(self.piece) } else { most };
            match splice_in(from, pipe, most) {
                Ok(0) if is_open => {
                    self.ended = true;
                    self.pipe = None;
                    return Poll::Ready(Ok(()));
                }
                Ok(0) => return Poll::Ready(Err(Fault::SourceClosed)),
                Ok(n) => {
                    self.touched = true;
                    if n == most {
                        self.piece = self.piece.saturating_mul(2).min(pipe.capacity.max(FIRST_PIECE));
                    }
                    more = n == most && !is_open;
                    self.small_pieces = if n < JOIN_BELOW { self.small_pieces.saturating_add(1) } else { 0 };
                    pipe.filled += n;
                    let n = u64::try_from(n).unwrap_or(0);
                    *remaining -= n.min(*remaining);
                    self.received += n;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let polled = from.poll_read_ready(cx).map_err(|error| Fault::Source(error.kind()));
                    if is_open && (polled.is_pending() || self.small_pieces > 0) {
                        // A tunnel that waits holds no pipe.
                        self.pipe = None;
                        return polled;
                    }
                    ready!(polled)?;
                }
                // EINVAL, ENOSYS, EPERM: what cannot be spliced here, or may not, is copied.
                Err(error) if matches!(error.raw_os_error(), Some(22 | 38 | 1)) => {
                    self.is_unspliceable = true;
                    self.pipe = None;
                    return Poll::Ready(Ok(()));
                }
                Err(error) => return Poll::Ready(Err(Fault::Source(error.kind()))),
            }
        }
    }
}

/// From the pipe to the socket. Said without `more` at hand, MORE would hold the last segment back for 200 ms.
fn splice_out(pipe: &Pipe, to: &TcpStream, more: bool) -> io::Result<usize> {
    let flags = if more { SpliceFlags::MORE | SpliceFlags::NONBLOCK } else { SpliceFlags::NONBLOCK };
    to.try_io(Interest::WRITABLE, || {
        Ok(rustix::pipe::splice(&pipe.read, None, to, None, pipe.filled, flags)?)
    })
}

/// From the socket to the pipe, `most` bytes.
fn splice_in(from: &TcpStream, pipe: &Pipe, most: usize) -> io::Result<usize> {
    from.try_io(Interest::READABLE, || {
        Ok(rustix::pipe::splice(from, None, &pipe.write, None, most, SpliceFlags::NONBLOCK)?)
    })
}

/// Decodes from the front of `buf`; chunks are joined in place, since moving them together costs less than a write for
/// each. Returns the data's span and whether the message ended.
fn take_chunks(decoder: &mut Decoder, buf: &mut Buf) -> Result<((usize, usize), bool), BadChunk> {
    let (mut from, mut to) = (buf.position(), buf.position());
    loop {
        match decoder.next(buf.unread())? {
            Step::Skip(n) => buf.consume(n),
            Step::Data(n) => {
                let at = buf.position();
                if from == to {
                    (from, to) = (at, at);
                }
                buf.move_down(at, at + n, to);
                to += n;
                buf.consume(n);
            }
            Step::NeedMore => return Ok(((from, to), false)),
            Step::End(n) => {
                buf.consume(n);
                return Ok(((from, to), true));
            }
        }
    }
}
