//! WebSockets (RFC 6455) as a load and its backend speak them, sans I/O: the opening handshake, and binary messages of one frame
//! each that tell who sent them, so that every byte of each can be checked on both sides. Knows what these benches send and
//! nothing more; whatever else arrives is a fault.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::pattern;
use crate::wire::Fault;

/// The shortest message: the number of its sender and its own.
pub const SHORTEST: usize = 8;
/// The longest message that is taken for one.
pub const LONGEST: usize = 16 << 20;

/// Which side sends, which decides whether its frames are masked (RFC 6455 §5.1).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Side {
    /// Masks what it sends.
    Client,
    /// Masks nothing.
    Server,
}

/// What a message says: who sent it, and how many of its sender came before.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Message {
    /// Number of the sender.
    pub sender: u32,
    /// Number of the message.
    pub number: u32,
}

impl Message {
    /// Puts a frame with this message of `size` bytes, at least [`SHORTEST`], at the end of `out`.
    pub fn put(self, size: usize, side: Side, out: &mut Vec<u8>) {
        let begin = header(size, side, out);
        out.extend_from_slice(&self.sender.to_be_bytes());
        out.extend_from_slice(&self.number.to_be_bytes());
        pattern::put(u64::from(self.number), size.saturating_sub(SHORTEST), out);
        finish(begin, side, out);
    }

    /// The message that `content` is.
    ///
    /// # Errors
    /// If a byte of it is not as its sender must have sent it.
    pub fn read(content: &[u8]) -> Result<Self, Fault> {
        let (Some((sender, rest)), true) = (content.split_first_chunk(), content.len() >= SHORTEST) else {
            return Err("short message");
        };
        let Some((number, rest)) = rest.split_first_chunk() else { return Err("short message") };
        let number = u32::from_be_bytes(*number);
        if !pattern::matches(u64::from(number), rest) {
            return Err("another byte in a message");
        }
        Ok(Self { sender: u32::from_be_bytes(*sender), number })
    }
}

/// Puts a frame with `content` at the end of `out`.
pub fn put(content: &[u8], side: Side, out: &mut Vec<u8>) {
    let begin = header(content.len(), side, out);
    out.extend_from_slice(content);
    finish(begin, side, out);
}

/// Puts the head of a whole binary message; returns where its content begins.
fn header(size: usize, side: Side, out: &mut Vec<u8>) -> usize {
    let masked = if side == Side::Client { 0x80 } else { 0 };
    out.push(0x82);
    match (u8::try_from(size), u16::try_from(size)) {
        (Ok(short @ ..=125), _) => out.push(masked | short),
        (_, Ok(medium)) => {
            out.push(masked | 126);
            out.extend_from_slice(&medium.to_be_bytes());
        }
        _ => {
            out.push(masked | 127);
            out.extend_from_slice(&(size as u64).to_be_bytes());
        }
    }
    if side == Side::Client {
        out.extend_from_slice(&fastrand::u32(..).to_be_bytes());
    }
    out.len()
}

/// Masks what was put since `begin` with the key right before it.
fn finish(begin: usize, side: Side, out: &mut [u8]) {
    if side == Side::Server {
        return;
    }
    let (head, content) = out.split_at_mut(begin);
    if let Some(key) = head.last_chunk() {
        mask(*key, content);
    }
}

/// Masks or unmasks (RFC 6455 §5.3).
fn mask(key: [u8; 4], content: &mut [u8]) {
    let mut chunks = content.chunks_exact_mut(4);
    for chunk in &mut chunks {
        for (byte, key) in chunk.iter_mut().zip(key) {
            *byte ^= key;
        }
    }
    for (byte, key) in chunks.into_remainder().iter_mut().zip(key) {
        *byte ^= key;
    }
}

/// Takes the bytes of one direction apart.
pub struct Frames {
    from: Side,
    /// Of a frame that has not arrived in whole.
    partial: Vec<u8>,
}

impl fmt::Debug for Frames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frames").field("from", &self.from).field("partial", &self.partial.len()).finish()
    }
}

impl Frames {
    /// Of what `from` sends.
    #[must_use]
    pub fn new(from: Side) -> Self {
        Self { from, partial: Vec::new() }
    }

    /// Takes `bytes`, in which it unmasks, and gives the content of each message that is whole to `each`.
    ///
    /// # Errors
    /// If something else than binary messages of one frame arrives, or `each` says so.
    pub fn feed(
        &mut self,
        bytes: &mut [u8],
        mut each: impl FnMut(&[u8]) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        if self.partial.is_empty() {
            let used = take(self.from, bytes, &mut each)?;
            self.partial.extend_from_slice(bytes.get(used..).unwrap_or_default());
            return Ok(());
        }
        self.partial.extend_from_slice(bytes);
        let used = take(self.from, &mut self.partial, &mut each)?;
        self.partial.drain(..used);
        Ok(())
    }
}

/// Gives each whole message in `bytes` to `each`; returns how many bytes they took.
fn take(
    from: Side,
    mut bytes: &mut [u8],
    each: &mut impl FnMut(&[u8]) -> Result<(), Fault>,
) -> Result<usize, Fault> {
    let mut used = 0;
    while let Some((head, size)) = head(from, bytes)? {
        let Some(rest) = bytes.get_mut(head..) else { break };
        if rest.len() < size {
            break;
        }
        let (frame, rest) = std::mem::take(&mut bytes).split_at_mut(head + size);
        let (head, content) = frame.split_at_mut(head);
        if let (Side::Client, Some(key)) = (from, head.last_chunk()) {
            mask(*key, content);
        }
        each(content)?;
        used += head.len() + size;
        bytes = rest;
    }
    Ok(used)
}

/// Length of the head of the frame that `bytes` begin with, and of its content; `None` if the head is not whole.
fn head(from: Side, bytes: &[u8]) -> Result<Option<(usize, usize)>, Fault> {
    let [first, second, rest @ ..] = bytes else { return Ok(None) };
    match first {
        0x82 => {}
        0x88 => return Err("a close frame"),
        _ => return Err("a frame that nobody sent"),
    }
    if (second & 0x80 != 0) != (from == Side::Client) {
        return Err("a frame with a mask of the wrong side");
    }
    let (size, head) = match second & 0x7f {
        126 => match rest.first_chunk() {
            Some(size) => (usize::from(u16::from_be_bytes(*size)), 4),
            None => return Ok(None),
        },
        127 => match rest.first_chunk() {
            Some(size) => (usize::try_from(u64::from_be_bytes(*size)).unwrap_or(usize::MAX), 10),
            None => return Ok(None),
        },
        short => (usize::from(short), 2),
    };
    if size > LONGEST {
        return Err("a message that nobody sent");
    }
    let head = head + if from == Side::Client { 4 } else { 0 };
    Ok((bytes.len() >= head).then_some((head, size)))
}

/// A new `Sec-WebSocket-Key`.
#[must_use]
pub fn key() -> String {
    BASE64.encode(fastrand::u128(..).to_be_bytes())
}

/// The request that opens a WebSocket to `host` with `key`.
#[must_use]
pub fn request(host: &str, key: &str) -> Vec<u8> {
    format!(
        "GET /echo HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    .into_bytes()
}

/// The answer to the request that `bytes` begin with, and how long that is; `None` if it is not whole.
///
/// # Errors
/// If it does not open a WebSocket.
pub fn accept(bytes: &[u8]) -> Result<Option<(usize, Vec<u8>)>, Fault> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut fields);
    let Ok(parsed) = request.parse(bytes) else { return Err("malformed request head") };
    let httparse::Status::Complete(length) = parsed else { return Ok(None) };
    if request.method != Some("GET") || request.path != Some("/echo") {
        return Err("another request");
    }
    upgrades(request.headers)?;
    if field(request.headers, "sec-websocket-version") != Some("13") {
        return Err("another version");
    }
    let key = field(request.headers, "sec-websocket-key").ok_or("no key")?;
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n\r\n",
        derive_accept_key(key.as_bytes())
    );
    Ok(Some((length, answer.into_bytes())))
}

/// How long the answer is that `bytes` begin with, if it accepts `key`; `None` if it is not whole.
///
/// # Errors
/// If it does not.
pub fn accepted(bytes: &[u8], key: &str) -> Result<Option<usize>, Fault> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut fields);
    let Ok(parsed) = response.parse(bytes) else { return Err("malformed response head") };
    let httparse::Status::Complete(length) = parsed else { return Ok(None) };
    if response.code != Some(101) {
        return Err("another status than 101");
    }
    upgrades(response.headers)?;
    if field(response.headers, "sec-websocket-accept") != Some(&derive_accept_key(key.as_bytes())) {
        return Err("another Sec-WebSocket-Accept");
    }
    Ok(Some(length))
}

fn upgrades(fields: &[httparse::Header<'_>]) -> Result<(), Fault> {
    let names = |name: &str, wanted: &str| {
        field(fields, name)
            .is_some_and(|value| value.split(',').any(|one| one.trim().eq_ignore_ascii_case(wanted)))
    };
    if names("upgrade", "websocket") && names("connection", "upgrade") { Ok(()) } else { Err("no upgrade") }
}

/// The value of the one field called `name`.
fn field<'a>(fields: &[httparse::Header<'a>], name: &str) -> Option<&'a str> {
    let mut values = fields.iter().filter(|field| field.name.eq_ignore_ascii_case(name));
    let value = values.next()?.value;
    if values.next().is_some() { None } else { std::str::from_utf8(value).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: [usize; 6] = [8, 64, 125, 126, 65_535, 65_536];

    fn messages(frames: &mut Frames, bytes: &mut [u8]) -> Result<Vec<(Message, usize)>, Fault> {
        let mut all = Vec::new();
        frames.feed(bytes, |content| {
            all.push((Message::read(content)?, content.len()));
            Ok(())
        })?;
        Ok(all)
    }

    #[test]
    fn messages_arrive_however_they_are_cut() {
        for side in [Side::Client, Side::Server] {
            let (mut wire, mut sent) = (Vec::new(), Vec::new());
            for (number, size) in SIZES.into_iter().enumerate() {
                let message = Message { sender: 7, number: u32::try_from(number).unwrap() };
                message.put(size, side, &mut wire);
                sent.push((message, size));
            }
            for cut in [1, 3, 1_000, wire.len()] {
                let mut frames = Frames::new(side);
                let arrived =
                    wire.chunks(cut).flat_map(|piece| messages(&mut frames, &mut piece.to_vec()).unwrap());
                assert_eq!(arrived.collect::<Vec<_>>(), sent);
            }
        }
    }

    #[test]
    fn frames_are_those_of_the_standard() {
        // RFC 6455 §5.7: "Hello", as binary.
        let mut wire = Vec::new();
        put(b"Hello", Side::Server, &mut wire);
        assert_eq!(wire, b"\x82\x05Hello");
        let mut masked = b"\x82\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58".to_vec();
        let mut content = Vec::new();
        Frames::new(Side::Client)
            .feed(&mut masked, |bytes| {
                content.extend_from_slice(bytes);
                Ok(())
            })
            .unwrap();
        assert_eq!(content, b"Hello");
    }

    #[test]
    fn whatever_was_not_sent_is_a_fault() {
        let message = Message { sender: 1, number: 2 };
        let mut good = Vec::new();
        message.put(64, Side::Server, &mut good);
        // But for the eight bytes that name it, every byte is known.
        for at in (0..2).chain(10..good.len()) {
            let mut bad = good.clone();
            bad[at] ^= 0x41;
            let mut frames = Frames::new(Side::Server);
            let outcome = messages(&mut frames, &mut bad);
            assert!(outcome.is_err() || outcome == Ok(Vec::new()), "{at}: {outcome:?}");
        }
        assert_eq!(
            messages(&mut Frames::new(Side::Client), &mut good),
            Err("a frame with a mask of the wrong side")
        );
        assert_eq!(messages(&mut Frames::new(Side::Server), &mut [0x88, 0]), Err("a close frame"));
    }

    #[test]
    fn an_answer_is_to_its_own_request_only() {
        let (key, other) = (key(), key());
        let request = request("bench.test", &key);
        assert_eq!(accept(&request[..40]), Ok(None));
        let (length, answer) = accept(&request).unwrap().unwrap();
        assert_eq!(length, request.len());
        assert_eq!(accepted(&answer, &key), Ok(Some(answer.len())));
        assert_eq!(accepted(&answer, &other), Err("another Sec-WebSocket-Accept"));
        assert!(accept(&crate::websocket::request("bench.test", "").split_off(1)).is_err());
    }
}
