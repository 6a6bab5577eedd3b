//! An HTTP/2 client that sends frames as they are written, right or wrong, and reads what comes back.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::common::PATIENCE;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const ACK: u8 = 1;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const PADDED: u8 = 8;
pub(crate) const PRIORITIZED: u8 = 0x20;

pub(crate) const PROTOCOL_ERROR: u32 = 1;
pub(crate) const FLOW_CONTROL_ERROR: u32 = 3;
pub(crate) const SETTINGS_TIMEOUT: u32 = 4;
pub(crate) const STREAM_CLOSED: u32 = 5;
pub(crate) const FRAME_SIZE_ERROR: u32 = 6;
pub(crate) const REFUSED_STREAM: u32 = 7;
pub(crate) const COMPRESSION_ERROR: u32 = 9;
pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;

/// One frame with its payload.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// One field as a literal that is not indexed. Strings are below 127 bytes or take a longer length.
pub(crate) fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut out = vec![0];
    for text in [name, value] {
        match text.len() {
            short @ ..127 => out.push(u8::try_from(short).unwrap()),
            long => {
                out.push(127);
                let mut rest = long - 127;
                while rest >= 128 {
                    out.push(u8::try_from(rest % 128).unwrap() | 128);
                    rest /= 128;
                }
                out.push(u8::try_from(rest).unwrap());
            }
        }
        out.extend(text);
    }
    out
}

/// A field block of literals.
pub(crate) fn block<N: AsRef<[u8]>, V: AsRef<[u8]>>(fields: &[(N, V)]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| literal(name.as_ref(), value.as_ref())).collect()
}

/// The pseudo-header fields of a GET.
pub(crate) fn get(path: &str) -> Vec<(String, String)> {
    request("GET", path)
}

/// The pseudo-header fields of a request.
pub(crate) fn request(method: &str, path: &str) -> Vec<(String, String)> {
    [(":method", method), (":scheme", "http"), (":path", path), (":authority", "a")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
}

/// The HEADERS frame of a GET.
pub(crate) fn get_frame(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, block(&get(path)))
}

/// A frame that was received.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    fn number(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }

    /// Status, of the first response on a connection that has it.
    fn status(&self) -> u16 {
        match self.payload[..] {
            [0x88, ..] => 200,
            [0x89, ..] => 204,
            [0x8b, ..] => 304,
            [0x8c, ..] => 400,
            [0x8d, ..] => 404,
            [0x8e, ..] => 500,
            [0x48 | 0x08, length, ..] => {
                digits(&self.payload[2..2 + usize::from(length & 127)], length & 128 != 0)
            }
            _ => panic!("a status in another form: {:?}", self.payload),
        }
    }
}

/// A number, in the Huffman code of RFC 7541 Appendix B or not.
fn digits(bytes: &[u8], is_huffman: bool) -> u16 {
    if !is_huffman {
        return std::str::from_utf8(bytes).unwrap().parse().unwrap();
    }
    let bits: Vec<u8> = bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect();
    let number = |bits: &[u8]| bits.iter().fold(0u16, |number, bit| number << 1 | u16::from(*bit));
    let mut at = 0;
    let mut out = 0;
    for _ in 0..3 {
        let five = number(&bits[at..at + 5]);
        let digit = if five <= 2 {
            at += 5;
            five
        } else {
            at += 6;
            number(&bits[at - 6..at]) - 0x19 + 3
        };
        out = out * 10 + digit;
    }
    out
}

/// What came of a stream, or of the connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Outcome {
    Status(u16),
    Reset(u32),
    Goaway(u32),
    Closed,
}

pub(crate) struct Raw {
    pub(crate) stream: TcpStream,
    buffer: Vec<u8>,
}

impl Raw {
    /// Connects and sends nothing.
    pub(crate) fn bare(to: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&to, PATIENCE).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream, buffer: Vec::new() }
    }

    /// Connects and exchanges settings.
    pub(crate) fn connect(to: SocketAddr) -> Self {
        Self::with_settings(to, &[])
    }

    /// As [`Self::connect`], with these settings of the client.
    pub(crate) fn with_settings(to: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let mut raw = Self::bare(to);
        let payload: Vec<u8> = settings
            .iter()
            .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
            .collect();
        raw.send([PREFACE, &frame(SETTINGS, 0, 0, payload), &frame(SETTINGS, ACK, 0, "")].concat());
        raw
    }

    /// Sends everything; false if the gateway is gone.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).is_ok()
    }

    /// The next frame, or `None` at the end of the connection.
    pub(crate) fn next(&mut self) -> Option<Frame> {
        let header = self.take(9)?;
        let length = usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2]);
        let payload = self.take(length)?;
        let stream = u32::from_be_bytes(header[5..9].try_into().unwrap());
        Some(Frame { kind: header[3], flags: header[4], stream, payload })
    }

    fn take(&mut self, length: usize) -> Option<Vec<u8>> {
        let mut chunk = [0; 16_384];
        while self.buffer.len() < length {
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(n) => self.buffer.extend(&chunk[..n]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    panic!("nothing arrives; so far {:?}", self.buffer)
                }
                Err(_) => return None,
            }
        }
        Some(self.buffer.drain(..length).collect())
    }

    /// What becomes of `stream` (0: of the connection). Informational responses are passed over.
    pub(crate) fn outcome(&mut self, stream: u32) -> Outcome {
        while let Some(frame) = self.next() {
            match frame.kind {
                GOAWAY if frame.number(4) != 0 => return Outcome::Goaway(frame.number(4)),
                RST_STREAM if frame.stream == stream => return Outcome::Reset(frame.number(0)),
                HEADERS if frame.stream == stream && frame.status() >= 200 => {
                    return Outcome::Status(frame.status());
                }
                _ => {}
            }
        }
        Outcome::Closed
    }

    /// Reads until `stream` has ended, one way or another; bytes of its body.
    pub(crate) fn body(&mut self, stream: u32) -> usize {
        let mut length = 0;
        while let Some(frame) = self.next() {
            if frame.stream != stream {
                continue;
            }
            length += if frame.kind == DATA { frame.payload.len() } else { 0 };
            if frame.kind == RST_STREAM
                || (matches!(frame.kind, DATA | HEADERS) && frame.flags & END_STREAM != 0)
            {
                break;
            }
        }
        length
    }

    /// Waits for the end of the connection, for at most `within`. The last error code that the gateway sent.
    pub(crate) fn end(&mut self, within: Duration) -> Result<Option<u32>, String> {
        let began = Instant::now();
        let mut code = None;
        while let Some(frame) = self.next() {
            if frame.kind == GOAWAY {
                code = Some(frame.number(4));
            }
            if began.elapsed() > within {
                break;
            }
        }
        if began.elapsed() > within { Err(format!("open after {:?}", began.elapsed())) } else { Ok(code) }
    }
}
