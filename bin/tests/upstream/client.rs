//! A plain HTTP/1.1 client that sees every byte.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::proxy::PATIENCE;

/// One response, as it came.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    /// Trailer lines.
    pub(crate) trailers: String,
    /// The body came to its end.
    pub(crate) is_whole: bool,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A connection to the gateway.
pub(crate) struct Client {
    stream: TcpStream,
    ahead: Vec<u8>,
}

impl Client {
    pub(crate) fn new(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream, ahead: Vec::new() }
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    /// False at the end of the connection.
    fn more(&mut self) -> bool {
        let mut piece = [0; 65_536];
        match self.stream.read(&mut piece) {
            Ok(0) | Err(_) => false,
            Ok(n) => {
                self.ahead.extend_from_slice(&piece[..n]);
                true
            }
        }
    }

    /// Exactly `n` bytes.
    pub(crate) fn bytes(&mut self, n: usize) -> Vec<u8> {
        while self.ahead.len() < n {
            assert!(self.more(), "the connection ended");
        }
        self.ahead.drain(..n).collect()
    }

    /// Whether nothing arrives for this long.
    pub(crate) fn is_silent_for(&mut self, time: std::time::Duration) -> bool {
        self.stream.set_read_timeout(Some(time)).unwrap();
        let heard = self.more();
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        !heard
    }

    /// Ends the sending side.
    pub(crate) fn end(&self) {
        self.stream.shutdown(std::net::Shutdown::Write).unwrap();
    }

    /// Up to and with the next `end`; `None` if the connection ends before.
    fn until(&mut self, end: &str) -> Option<String> {
        loop {
            let found = self.ahead.windows(end.len()).position(|window| window == end.as_bytes());
            if let Some(at) = found {
                return Some(String::from_utf8(self.ahead.drain(..at + end.len()).collect()).unwrap());
            }
            if !self.more() {
                return None;
            }
        }
    }

    /// The next response head.
    pub(crate) fn head(&mut self) -> String {
        self.until("\r\n\r\n").expect("a head")
    }

    /// The next response to a request that was not HEAD; informational ones are part of nothing.
    pub(crate) fn answer(&mut self) -> Answer {
        let head = self.head();
        self.body(head, false)
    }

    pub(crate) fn body(&mut self, head: String, to_head: bool) -> Answer {
        let status = head[9..12].parse().unwrap();
        let lower = head.to_ascii_lowercase();
        let mut answer = Answer { status, head, body: Vec::new(), trailers: String::new(), is_whole: true };
        if to_head || matches!(status, 204 | 304) {
        } else if lower.contains("transfer-encoding: chunked") {
            answer.is_whole = self.chunks(&mut answer).is_some();
        } else if let Some(length) = lower.split("content-length: ").nth(1) {
            let length: usize = length.split("\r\n").next().unwrap().parse().unwrap();
            while self.ahead.len() < length && self.more() {}
            answer.is_whole = self.ahead.len() >= length;
            answer.body = self.ahead.drain(..length.min(self.ahead.len())).collect();
        } else {
            while self.more() {}
            answer.body = std::mem::take(&mut self.ahead);
        }
        answer
    }

    fn chunks(&mut self, answer: &mut Answer) -> Option<()> {
        loop {
            let size = self.until("\r\n")?;
            let size = usize::from_str_radix(size.trim_end(), 16).unwrap();
            if size == 0 {
                loop {
                    let line = self.until("\r\n")?;
                    if line == "\r\n" {
                        return Some(());
                    }
                    answer.trailers.push_str(&line);
                }
            }
            while self.ahead.len() < size + 2 {
                if !self.more() {
                    answer.body.append(&mut self.ahead);
                    return None;
                }
            }
            answer.body.extend(self.ahead.drain(..size));
            self.ahead.drain(..2);
        }
    }

    pub(crate) fn get(&mut self, path: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        self.answer()
    }

    pub(crate) fn post(&mut self, path: &str, body: &str) -> Answer {
        self.send(format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
        self.answer()
    }

    /// Ends with a reset.
    pub(crate) fn abort(self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    }
}
