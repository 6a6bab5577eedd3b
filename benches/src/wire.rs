//! HTTP/1.1 as the load and the backend see it, sans I/O: heads and bodies of messages whose body is the
//! [`pattern`]. Knows what these benches send and nothing more; it is no parser for the open world.

use crate::pattern;

/// What the wire held that it should not.
pub type Fault = &'static str;

/// How a body ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Framing {
    /// After this many bytes.
    Length(u64),
    /// After the last chunk and its trailers.
    Chunked,
    /// When the connection ends.
    UntilClose,
}

/// A response head.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ResponseHead {
    /// Bytes that it took.
    pub len: usize,
    /// Status code.
    pub status: u16,
    /// How its body ends.
    pub framing: Framing,
    /// The sender will close after this response.
    pub close: bool,
}

/// A request head.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RequestHead {
    /// Bytes that it took.
    pub len: usize,
    /// How its body ends; never [`Framing::UntilClose`].
    pub framing: Framing,
    /// The sender will close after the response.
    pub close: bool,
    /// `POST`, the one method that these benches treat as not idempotent.
    pub post: bool,
    /// Value of `X-Execution`, the number that a driver gives a request to count how often it was executed.
    pub execution: Option<u64>,
    /// There was an `X-Forwarded-For` field.
    pub forwarded: bool,
}

const FIELDS: usize = 64;

/// Parses a response head, or `None` if `bytes` do not hold a whole one yet.
///
/// # Errors
/// What is wrong with it.
pub fn response_head(bytes: &[u8]) -> Result<Option<ResponseHead>, Fault> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut response = httparse::Response::new(&mut fields);
    let Ok(parsed) = response.parse(bytes) else { return Err("malformed response head") };
    let httparse::Status::Complete(len) = parsed else { return Ok(None) };
    let status = response.code.ok_or("no status code")?;
    let facts = Facts::collect(response.headers)?;
    Ok(Some(ResponseHead {
        len,
        status,
        framing: facts.framing.unwrap_or(Framing::UntilClose),
        close: facts.close || facts.framing.is_none(),
    }))
}

/// Parses a request head, or `None` if `bytes` do not hold a whole one yet.
///
/// # Errors
/// What is wrong with it.
pub fn request_head(bytes: &[u8]) -> Result<Option<RequestHead>, Fault> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    let Ok(parsed) = request.parse(bytes) else { return Err("malformed request head") };
    let httparse::Status::Complete(len) = parsed else { return Ok(None) };
    let facts = Facts::collect(request.headers)?;
    Ok(Some(RequestHead {
        len,
        framing: facts.framing.unwrap_or(Framing::Length(0)),
        close: facts.close,
        post: request.method == Some("POST"),
        execution: facts.execution,
        forwarded: facts.forwarded,
    }))
}

#[derive(Default)]
struct Facts {
    framing: Option<Framing>,
    close: bool,
    forwarded: bool,
    execution: Option<u64>,
}

impl Facts {
    fn collect(fields: &[httparse::Header<'_>]) -> Result<Self, Fault> {
        let mut facts = Self::default();
        for field in fields {
            let name = field.name;
            if name.eq_ignore_ascii_case("content-length") {
                let length = number(field.value).ok_or("content-length is no number")?;
                if facts.framing.replace(Framing::Length(length)).is_some() {
                    return Err("framed twice");
                }
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                if !field.value.eq_ignore_ascii_case(b"chunked") {
                    return Err("unknown transfer-encoding");
                }
                if facts.framing.replace(Framing::Chunked).is_some() {
                    return Err("framed twice");
                }
            } else if name.eq_ignore_ascii_case("connection") {
                facts.close |= field.value.eq_ignore_ascii_case(b"close");
            } else if name.eq_ignore_ascii_case("x-forwarded-for") {
                facts.forwarded = true;
            } else if name.eq_ignore_ascii_case("x-execution") {
                facts.execution = number(field.value);
            }
        }
        Ok(facts)
    }
}

fn number(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// Takes a body apart and compares every byte with the pattern.
#[derive(Clone, Copy, Debug)]
pub struct BodyReader {
    framing: Framing,
    /// Whether the bytes must be the pattern's; an error's body is the proxy's own.
    ours: bool,
    received: u64,
    chunk: Chunk,
}

#[derive(Clone, Copy, Debug)]
enum Chunk {
    /// Reading a size line: the number so far, digits seen, still before any extension.
    Size { value: u64, digits: u8, in_digits: bool },
    /// This many bytes of data are left.
    Data(u64),
    /// The line end after the data.
    DataEnd,
    /// In the trailer section: bytes in the current line.
    Trailer(u32),
    /// All read.
    Done,
}

const NEW_CHUNK: Chunk = Chunk::Size { value: 0, digits: 0, in_digits: true };

impl BodyReader {
    /// A reader at the first byte of a body that is the pattern.
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        Self { framing, ours: true, received: 0, chunk: NEW_CHUNK }
    }

    /// A reader at the first byte of a body that may be anything: only its framing is checked.
    #[must_use]
    pub fn any(framing: Framing) -> Self {
        Self { ours: false, ..Self::new(framing) }
    }

    /// Body bytes seen so far, framing excluded.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received
    }

    /// True when nothing more belongs to this body.
    #[must_use]
    pub fn is_done(&self) -> bool {
        match self.framing {
            Framing::Length(length) => self.received == length,
            Framing::Chunked => matches!(self.chunk, Chunk::Done),
            Framing::UntilClose => false,
        }
    }

    /// Reads on in `bytes`; returns how many of them belong to this body.
    ///
    /// # Errors
    /// What differs from the pattern or breaks the framing.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        match self.framing {
            Framing::Length(length) => {
                let left = usize::try_from(length - self.received).unwrap_or(usize::MAX);
                self.check(bytes.get(..left).unwrap_or(bytes))
            }
            Framing::UntilClose => self.check(bytes),
            Framing::Chunked => self.feed_chunked(bytes),
        }
    }

    fn check(&mut self, data: &[u8]) -> Result<usize, Fault> {
        if self.ours && !pattern::matches(self.received, data) {
            return Err("body differs from the pattern");
        }
        self.received += data.len() as u64;
        Ok(data.len())
    }

    fn feed_chunked(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        let mut rest = bytes;
        while let Some((&byte, after)) = rest.split_first() {
            self.chunk = match self.chunk {
                Chunk::Done => break,
                Chunk::Data(left) => {
                    let take = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                    let (data, beyond) = rest.split_at(take);
                    self.check(data)?;
                    rest = beyond;
                    self.chunk = match left - take as u64 {
                        0 => Chunk::DataEnd,
                        left => Chunk::Data(left),
                    };
                    continue;
                }
                Chunk::DataEnd if byte == b'\n' => NEW_CHUNK,
                Chunk::DataEnd if byte == b'\r' => Chunk::DataEnd,
                Chunk::DataEnd => return Err("chunk data too long"),
                Chunk::Trailer(0) if byte == b'\n' => Chunk::Done,
                Chunk::Trailer(_) if byte == b'\n' => Chunk::Trailer(0),
                Chunk::Trailer(seen) if byte == b'\r' => Chunk::Trailer(seen),
                Chunk::Trailer(seen) => Chunk::Trailer(seen.saturating_add(1)),
                Chunk::Size { value, digits, in_digits } => size_byte(byte, value, digits, in_digits)?,
            };
            rest = after;
        }
        Ok(bytes.len() - rest.len())
    }
}

fn size_byte(byte: u8, value: u64, digits: u8, in_digits: bool) -> Result<Chunk, Fault> {
    if byte == b'\n' {
        return match (digits, value) {
            (0, _) => Err("chunk without a size"),
            (_, 0) => Ok(Chunk::Trailer(0)),
            (_, size) => Ok(Chunk::Data(size)),
        };
    }
    match char::from(byte).to_digit(16) {
        Some(digit) if in_digits && digits < 15 => {
            Ok(Chunk::Size { value: value * 16 + u64::from(digit), digits: digits + 1, in_digits })
        }
        Some(_) if in_digits => Err("chunk size too long"),
        _ => Ok(Chunk::Size { value, digits, in_digits: false }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunked_body_reads_the_same_however_it_is_cut() {
        let mut wire = pattern::chunked(1_000, 77);
        wire.extend_from_slice(b"next");
        for cut in 1..200 {
            let mut reader = BodyReader::new(Framing::Chunked);
            let mut used = 0;
            for part in wire.chunks(cut) {
                used += reader.feed(part).unwrap();
            }
            assert!(reader.is_done());
            assert_eq!(reader.received(), 1_000);
            assert_eq!(used, wire.len() - 4);
        }
    }

    #[test]
    fn a_wrong_byte_is_a_fault_in_every_framing() {
        let mut wire = pattern::chunked(100, 50);
        wire[10] = b'~' + 1;
        assert!(BodyReader::new(Framing::Chunked).feed(&wire).is_err());
        assert!(BodyReader::new(Framing::Length(3)).feed(b"!!!").is_err());
    }

    #[test]
    fn a_head_says_how_its_body_ends() {
        let head = response_head(b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n").unwrap().unwrap();
        assert_eq!((head.status, head.framing, head.close), (200, Framing::Length(13), false));
        let head = request_head(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nX-Execution: 7\r\n\r\n");
        let head = head.unwrap().unwrap();
        assert_eq!((head.framing, head.execution, head.post), (Framing::Chunked, Some(7), true));
        assert_eq!(response_head(b"HTTP/1.1 200 OK\r\n").unwrap(), None);
    }
}
