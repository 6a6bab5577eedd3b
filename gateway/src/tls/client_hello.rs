//! What a client says before anything is encrypted: the name that it wants (RFC 6066 §3) and the protocols that it
//! offers (RFC 7301), read from the bytes as they arrive. Sans-I/O.
//!
//! It looks only, and takes nothing out of the bytes: they are for whoever serves the connection. Only the structure
//! on the way to these two extensions is checked.

use std::net::IpAddr;

/// Bytes of a ClientHello at most, without the headers of its records. Post-quantum key shares make 2 KiB usual.
pub(crate) const MOST: usize = 64 * 1_024;
/// Bytes on the wire at most: a hello in records of a few bytes each is legal, but no one's habit.
const MOST_ON_WIRE: usize = 96 * 1_024;
/// Content type of handshake records (RFC 8446 §5.1), and of alerts.
const HANDSHAKE: u8 = 22;
/// Message type (RFC 8446 §4).
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;

/// What the bytes of a complete hello say.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct ClientHello {
    /// In lower case, without a trailing dot; `None` if there is none, or what is there is no DNS name.
    pub(crate) server_name: Option<Box<str>>,
    /// Protocols in the client's order.
    pub(crate) protocols: Vec<Box<[u8]>>,
}

/// Why the bytes are no hello.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Refused {
    /// A request in cleartext.
    Http,
    /// Something else than TLS.
    NotTls,
    /// Larger than this is allowed to be.
    TooLarge,
    /// TLS, but no ClientHello, or one that contradicts itself.
    Malformed,
}

impl Refused {
    /// Description of the alert that answers it (RFC 8446 §6).
    pub(crate) const fn alert(self) -> u8 {
        match self {
            // unexpected_message, illegal_parameter, decode_error
            Self::Http | Self::NotTls => 10,
            Self::TooLarge => 47,
            Self::Malformed => 50,
        }
    }
}

/// Collects a hello from the records that it comes in. Every byte is looked at once.
#[derive(Debug, Default)]
pub(crate) struct Assembly {
    /// Where in the received bytes the next record begins.
    at: usize,
    /// The message as far as it has arrived, if it takes more than one record.
    message: Vec<u8>,
}

impl Assembly {
    /// Looks at all bytes `received` so far. `None`: more are needed.
    ///
    /// # Errors
    /// As soon as it is certain that no acceptable hello can follow.
    pub(crate) fn advance(&mut self, received: &[u8]) -> Result<Option<ClientHello>, Refused> {
        if self.at == 0 && !received.is_empty() {
            first_bytes(received)?;
        }
        while let Some(record) = received.get(self.at..).filter(|rest| !rest.is_empty()) {
            if self.at > MOST_ON_WIRE {
                return Err(Refused::TooLarge);
            }
            let mut rest = Bytes(record);
            let (Some(kind), Some(major)) = (rest.u8(), rest.u8()) else { return Ok(None) };
            if kind != HANDSHAKE || major != 3 {
                return Err(Refused::Malformed);
            }
            let (Some(_), Some(length)) = (rest.u8(), rest.u16()) else { return Ok(None) };
            // Empty handshake records are not allowed (RFC 8446 §5.1), and this one is not encrypted.
            if !(1..=16_384).contains(&length) {
                return Err(Refused::Malformed);
            }
            let Some(payload) = rest.take(usize::from(length)) else {
                // What is there of the message may already tell that it is too large.
                let so_far = if self.message.is_empty() { rest.0 } else { &self.message };
                return announced(so_far).map(|_| None);
            };
            if self.message.is_empty()
                && let Some(total) = announced(payload)?
                && total <= payload.len()
            {
                return parse(payload.get(4..total).unwrap_or_default()).map(Some).ok_or(Refused::Malformed);
            }
            self.message.extend_from_slice(payload);
            self.at += 5 + usize::from(length);
            if let Some(total) = announced(&self.message)?
                && let Some(body) = self.message.get(4..total)
            {
                return parse(body).map(Some).ok_or(Refused::Malformed);
            }
        }
        Ok(None)
    }
}

/// Tells other protocols from TLS.
fn first_bytes(received: &[u8]) -> Result<(), Refused> {
    const METHODS: [&[u8]; 9] = [
        b"GET ",
        b"HEAD ",
        b"POST ",
        b"PUT ",
        b"PATCH ",
        b"DELETE ",
        b"OPTIONS ",
        b"CONNECT ",
        b"PRI * HTTP/2",
    ];
    if received.first() == Some(&HANDSHAKE) {
        return Ok(());
    }
    let is_like = |method: &[u8]| received.starts_with(method) || method.starts_with(received);
    Err(if METHODS.iter().any(|method| is_like(method)) { Refused::Http } else { Refused::NotTls })
}

/// Length of the message that begins with `bytes`, header included, once it is known.
fn announced(bytes: &[u8]) -> Result<Option<usize>, Refused> {
    let mut rest = Bytes(bytes);
    match rest.u8() {
        None => return Ok(None),
        Some(CLIENT_HELLO) => {}
        Some(_) => return Err(Refused::Malformed),
    }
    let (Some(high), Some(low)) = (rest.u8(), rest.u16()) else { return Ok(None) };
    let length = (usize::from(high) << 16) | usize::from(low);
    if length > MOST { Err(Refused::TooLarge) } else { Ok(Some(4 + length)) }
}

/// The body of a ClientHello (RFC 8446 §4.1.2, RFC 5246 §7.4.1.2). `None` if it is malformed.
fn parse(body: &[u8]) -> Option<ClientHello> {
    let mut rest = Bytes(body);
    // Version, random.
    rest.take(2 + 32)?;
    let session_id = rest.list8()?;
    let cipher_suites = rest.list16()?;
    let compression = rest.list8()?;
    if session_id.0.len() > 32 || cipher_suites.0.len() < 2 || compression.0.is_empty() {
        return None;
    }
    let mut hello = ClientHello::default();
    if rest.0.is_empty() {
        return Some(hello);
    }
    let mut extensions = rest.list16()?;
    if !rest.0.is_empty() {
        return None;
    }
    let mut seen = (false, false);
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let data = extensions.list16()?;
        // An extension that is there twice means two things to two readers (RFC 8446 §4.2).
        match kind {
            SERVER_NAME if std::mem::replace(&mut seen.0, true) => return None,
            SERVER_NAME => hello.server_name = server_name(data)?,
            ALPN if std::mem::replace(&mut seen.1, true) => return None,
            ALPN => hello.protocols = protocols(data)?,
            _ => {}
        }
    }
    Some(hello)
}

/// The one host name of the extension (RFC 6066 §3); outer `None` if it is malformed.
fn server_name(mut data: Bytes<'_>) -> Option<Option<Box<str>>> {
    let mut list = data.list16()?;
    if !data.0.is_empty() || list.0.is_empty() {
        return None;
    }
    let mut found = None;
    while !list.0.is_empty() {
        let is_host = list.u8()? == 0;
        let name = list.list16()?;
        // "MUST NOT contain more than one name of the same name_type".
        if is_host && found.replace(name.0).is_some() {
            return None;
        }
    }
    Some(found.and_then(dns_name))
}

/// `name` as the table has names, if it is one of a host.
fn dns_name(name: &[u8]) -> Option<Box<str>> {
    let name = name.strip_suffix(b".").unwrap_or(name);
    let is_label = |label: &[u8]| {
        (1..=63).contains(&label.len())
            && label.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    if name.len() > 253 || !name.split(|byte| *byte == b'.').all(is_label) {
        return None;
    }
    let name = std::str::from_utf8(name).ok()?.to_ascii_lowercase();
    // "Literal IPv4 and IPv6 addresses are not permitted".
    if name.parse::<IpAddr>().is_ok() { None } else { Some(name.into()) }
}

fn protocols(mut data: Bytes<'_>) -> Option<Vec<Box<[u8]>>> {
    let mut list = data.list16()?;
    if !data.0.is_empty() || list.0.is_empty() {
        return None;
    }
    let mut out = Vec::new();
    while !list.0.is_empty() {
        let name = list.list8()?;
        if name.0.is_empty() {
            return None;
        }
        out.push(name.0.into());
    }
    Some(out)
}

/// Bytes that are read from the front.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (now, later) = self.0.split_at_checked(n)?;
        self.0 = later;
        Some(now)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)?.try_into().ok().map(u16::from_be_bytes)
    }

    /// A vector with a length of one byte.
    fn list8(&mut self) -> Option<Self> {
        let length = self.u8()?;
        self.take(usize::from(length)).map(Self)
    }

    /// A vector with a length of two bytes.
    fn list16(&mut self) -> Option<Self> {
        let length = self.u16()?;
        self.take(usize::from(length)).map(Self)
    }
}

#[cfg(test)]
mod tests;
