//! A raw client: sends bytes as they are and reads answers strictly.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use crate::backend::PATIENCE;
use crate::wire::{self, Body, Framing, Head, Parsed};

/// One whole response.
#[derive(Clone, Debug)]
pub(crate) struct Response {
    pub(crate) head: Head,
    pub(crate) body: Body,
    pub(crate) framing: Framing,
}

/// How the gateway ended its direction.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum End {
    Fin,
    Reset,
    /// It did not.
    Open,
}

pub(crate) struct Client {
    stream: TcpStream,
    /// Read and not yet taken.
    pub(crate) buffer: Vec<u8>,
    pub(crate) end: End,
}

impl Client {
    pub(crate) fn connect(to: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&to, PATIENCE).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream, buffer: Vec::new(), end: End::Open }
    }

    /// Sends as much as the gateway takes; it may refuse before the end.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Ends our direction.
    pub(crate) fn fin(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Closes with a reset.
    pub(crate) fn reset(self) {
        let _ = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }

    /// Reads once; false if nothing more comes (in time).
    fn read(&mut self) -> bool {
        if self.end != End::Open {
            return false;
        }
        let mut bytes = [0; 65_536];
        match self.stream.read(&mut bytes) {
            Ok(0) => self.end = End::Fin,
            Ok(length) => {
                self.buffer.extend(&bytes[..length]);
                return true;
            }
            Err(error)
                if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(_) => self.end = End::Reset,
        }
        false
    }

    /// Reads until `bytes` bytes are there.
    pub(crate) fn read_exactly(&mut self, bytes: usize) -> Result<Vec<u8>, String> {
        while self.buffer.len() < bytes {
            if !self.read() {
                return Err(format!("wanted {bytes} bytes, got {:?}", self.shown()));
            }
        }
        Ok(self.buffer.drain(..bytes).collect())
    }

    /// Reads until the gateway ends its direction; what came is in `buffer`.
    pub(crate) fn read_to_end(&mut self) -> End {
        while self.read() {}
        self.end
    }

    /// Whether the connection stays open and silent for as long as it takes to notice otherwise.
    pub(crate) fn is_quiet_for(&mut self, time: Duration) -> bool {
        self.stream.set_read_timeout(Some(time)).unwrap();
        let got = self.read();
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        !got && self.end == End::Open
    }

    /// Reads a head, informational ones too.
    pub(crate) fn read_head(&mut self) -> Result<Head, String> {
        loop {
            match wire::parse_response_head(&self.buffer) {
                Parsed::Complete(head, length) => {
                    self.buffer.drain(..length);
                    return Ok(head);
                }
                Parsed::Invalid(why) => return Err(format!("invalid response: {why}; {}", self.shown())),
                Parsed::Incomplete if self.read() => {}
                Parsed::Incomplete => return Err(format!("no whole response head: {}", self.shown())),
            }
        }
    }

    /// Reads the body that belongs to `head`.
    pub(crate) fn read_body(&mut self, head: Head, method: &str) -> Result<Response, String> {
        let framing = wire::response_framing(&head, method)?;
        if framing == Framing::Close {
            return match self.read_to_end() {
                End::Fin => {
                    let body = Body { bytes: std::mem::take(&mut self.buffer), ..Body::default() };
                    Ok(Response { head, body, framing })
                }
                end => Err(format!("response until the end of the connection ends with {end:?}")),
            };
        }
        loop {
            match wire::parse_body(&self.buffer, framing) {
                Parsed::Complete(body, length) => {
                    self.buffer.drain(..length);
                    return Ok(Response { head, body, framing });
                }
                Parsed::Invalid(why) => return Err(format!("invalid response body: {why}")),
                Parsed::Incomplete if self.read() => {}
                Parsed::Incomplete => {
                    return Err(format!(
                        "{:?}, body cut short ({:?}): {}",
                        head.line,
                        self.end,
                        self.shown()
                    ));
                }
            }
        }
    }

    /// Reads one final response; informational ones before it are an error.
    pub(crate) fn read_response(&mut self, method: &str) -> Result<Response, String> {
        let head = self.read_head()?;
        if head.status() / 100 == 1 {
            return Err(format!("unexpected {}", head.line));
        }
        self.read_body(head, method)
    }

    /// What is in the buffer, for messages.
    pub(crate) fn shown(&self) -> String {
        shown(&self.buffer)
    }
}

/// Bytes for messages, shortened.
pub(crate) fn shown(bytes: &[u8]) -> String {
    let start = bytes.get(..400).unwrap_or(bytes).escape_ascii();
    if bytes.len() > 400 { format!("\"{start}\"… ({} bytes)", bytes.len()) } else { format!("\"{start}\"") }
}
