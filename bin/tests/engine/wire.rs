//! One end of a connection, read and written by hand: used for the client's side and the endpoint's.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::common::PATIENCE;

/// Length after which [`pattern`] repeats: prime, so that no buffer size is a multiple of it.
const PERIOD: usize = 65_521;
/// Longest piece that [`pattern`] gives.
pub(crate) const PIECE: usize = 65_536;

/// Bytes `offset..offset + length` of the body that every test sends. `length` is at most [`PIECE`].
pub(crate) fn pattern(offset: usize, length: usize) -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    let bytes = BYTES.get_or_init(|| {
        let byte = |at: usize| (at % PERIOD).wrapping_mul(2_654_435_761).to_be_bytes()[5];
        (0..PERIOD + PIECE).map(byte).collect()
    });
    &bytes[offset % PERIOD..][..length]
}

/// A head with its parts at hand.
#[derive(Clone, Debug)]
pub(crate) struct Head(pub(crate) String);

impl Head {
    pub(crate) fn line(&self) -> &str {
        self.0.lines().next().unwrap_or_default()
    }

    /// Status of a response.
    pub(crate) fn status(&self) -> u16 {
        self.0.get(9..12).and_then(|code| code.parse().ok()).unwrap_or(0)
    }

    /// Target of a request.
    pub(crate) fn target(&self) -> &str {
        self.line().split(' ').nth(1).unwrap_or_default()
    }

    pub(crate) fn values(&self, name: &str) -> Vec<&str> {
        let fields = self.0.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).collect()
    }

    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.values(name).first().copied()
    }

    pub(crate) fn closes(&self) -> bool {
        self.values("connection").iter().any(|value| value.eq_ignore_ascii_case("close"))
    }
}

/// A whole message.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) head: Head,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: String,
}

impl Message {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// How the other side ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum End {
    Fin,
    Reset,
}

pub(crate) struct Wire {
    pub(crate) stream: TcpStream,
    buffer: Vec<u8>,
    at: usize,
}

impl Wire {
    pub(crate) fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream, buffer: Vec::new(), at: 0 }
    }

    pub(crate) fn connect(to: SocketAddr) -> Self {
        Self::new(TcpStream::connect_timeout(&to, PATIENCE).unwrap())
    }

    /// A connection whose receive buffer is small, so that back-pressure sets in early.
    pub(crate) fn connect_narrow(to: SocketAddr) -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(16 * 1_024).unwrap();
        socket.connect(&to.into()).unwrap();
        Self::new(socket.into())
    }

    /// A second handle, for the other direction.
    pub(crate) fn split(&self) -> Self {
        Self { stream: self.stream.try_clone().unwrap(), buffer: Vec::new(), at: 0 }
    }

    /// Sends everything; false if the other side is gone.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).is_ok()
    }

    /// Sends `from..to` of the pattern.
    pub(crate) fn send_pattern(&mut self, from: usize, to: usize) -> bool {
        let mut at = from;
        while at < to {
            let length = (to - at).min(PIECE);
            if !self.send(pattern(at, length)) {
                return false;
            }
            at += length;
        }
        true
    }

    pub(crate) fn fin(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Sends until nothing more is taken for a while.
    pub(crate) fn send_until_blocked(&mut self) {
        self.stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
        while self.send([b'x'; PIECE]) {}
    }

    /// Closes with a reset.
    pub(crate) fn reset(self) {
        let _ = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }

    fn unread(&self) -> &[u8] {
        &self.buffer[self.at..]
    }

    fn fill(&mut self) -> Result<(), End> {
        if self.at == self.buffer.len() {
            self.buffer.clear();
            self.at = 0;
        }
        let mut bytes = [0; PIECE];
        match self.stream.read(&mut bytes) {
            Ok(0) => Err(End::Fin),
            Ok(length) => {
                self.buffer.extend_from_slice(&bytes[..length]);
                Ok(())
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("nothing arrives; so far: {:?}", String::from_utf8_lossy(self.unread()))
            }
            Err(_) => Err(End::Reset),
        }
    }

    /// Takes up to and including `end`.
    fn until(&mut self, end: &[u8]) -> Option<String> {
        loop {
            if let Some(found) = self.unread().windows(end.len()).position(|window| window == end) {
                let bytes = self.unread()[..found + end.len()].to_vec();
                self.at += bytes.len();
                return Some(String::from_utf8_lossy(&bytes).into_owned());
            }
            self.fill().ok()?;
        }
    }

    /// The next head, or `None` if the other side ends before.
    pub(crate) fn head(&mut self) -> Option<Head> {
        self.until(b"\r\n\r\n").map(Head)
    }

    pub(crate) fn line(&mut self) -> Option<String> {
        self.until(b"\r\n")
    }

    /// At most `most` bytes of what comes next; `None` at the end.
    pub(crate) fn some(&mut self, most: usize) -> Option<Vec<u8>> {
        if self.unread().is_empty() {
            self.fill().ok()?;
        }
        let length = self.unread().len().min(most);
        let bytes = self.unread()[..length].to_vec();
        self.at += length;
        Some(bytes)
    }

    pub(crate) fn exactly(&mut self, length: usize) -> Option<Vec<u8>> {
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            bytes.extend(self.some(length - bytes.len())?);
        }
        Some(bytes)
    }

    /// Reads `length` bytes that must be the pattern from `offset` on.
    pub(crate) fn expect_pattern(&mut self, offset: usize, length: usize) -> Option<()> {
        let (mut at, end) = (offset, offset + length);
        while at < end {
            let bytes = self.some((end - at).min(PIECE))?;
            assert!(bytes == pattern(at, bytes.len()), "other bytes at {at} of {end}");
            at += bytes.len();
        }
        Some(())
    }

    /// Reads a chunked body that must be the pattern; its length.
    pub(crate) fn expect_chunked_pattern(&mut self) -> Option<usize> {
        let mut at = 0;
        loop {
            let size = usize::from_str_radix(self.line()?.trim(), 16).unwrap();
            if size > 0 {
                self.expect_pattern(at, size)?;
                at += size;
            }
            if size == 0 {
                while self.line()? != "\r\n" {}
                return Some(at);
            }
            assert_eq!(self.line()?, "\r\n");
        }
    }

    /// The body of `head`; `method` is that of the request.
    pub(crate) fn body(&mut self, head: Head, method: &str) -> Option<Message> {
        let mut message = Message { head, body: Vec::new(), trailers: String::new() };
        let is_response = message.head.0.starts_with("HTTP/");
        let status = message.head.status();
        if method == "HEAD" || (is_response && (status < 200 || status == 204 || status == 304)) {
            return Some(message);
        }
        if message.head.value("transfer-encoding").is_some() {
            loop {
                let size = usize::from_str_radix(self.line()?.trim(), 16).unwrap();
                if size == 0 {
                    break;
                }
                message.body.extend(self.exactly(size)?);
                assert_eq!(self.line()?, "\r\n");
            }
            loop {
                let line = self.line()?;
                if line == "\r\n" {
                    break;
                }
                message.trailers += &line;
            }
        } else if let Some(length) = message.head.value("content-length") {
            message.body = self.exactly(length.parse().unwrap())?;
        } else if is_response {
            while let Some(bytes) = self.some(PIECE) {
                message.body.extend(bytes);
            }
        }
        Some(message)
    }

    /// The next response to a request with `method`, 1xx included.
    pub(crate) fn response(&mut self, method: &str) -> Message {
        let head = self.head().expect("a response head");
        self.body(head, method).expect("a response body")
    }

    /// GET on this connection.
    pub(crate) fn get(&mut self, path: &str) -> Message {
        assert!(self.send(get(path)));
        self.response("GET")
    }

    /// Waits for the end; what came before is dropped.
    pub(crate) fn end(&mut self) -> End {
        loop {
            self.at = self.buffer.len();
            if let Err(end) = self.fill() {
                return end;
            }
        }
    }

    /// Whether the other side ends without another byte.
    pub(crate) fn ends_here(&mut self) -> bool {
        self.unread().is_empty() && self.fill().is_err()
    }

    /// True if nothing arrives for `time`.
    pub(crate) fn is_silent_for(&self, time: Duration) -> bool {
        if !self.unread().is_empty() {
            return false;
        }
        self.stream.set_read_timeout(Some(time)).unwrap();
        let silent = matches!(self.stream.peek(&mut [0]), Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut));
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        silent
    }
}

/// A GET request that keeps the connection.
pub(crate) fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")
}

/// A POST request with this body.
pub(crate) fn post(path: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// How long `act` takes.
pub(crate) fn timed<T>(act: impl FnOnce() -> T) -> (T, Duration) {
    let began = Instant::now();
    let answer = act();
    (answer, began.elapsed())
}
