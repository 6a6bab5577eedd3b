//! PROXY protocol v1 and v2 headers (HAProxy's `proxy-protocol.txt`), read from the start of a connection, and written
//! to one.
//!
//! Strict and sans-I/O: it never looks beyond the declared length, so whatever follows is payload, and never
//! guesses whether a header is there. Deadlines, and who may send a header at all, are the caller's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str;

use thiserror::Error;

/// Longest header in bytes that is read to its end. The format allows 65,551 and senders stay far below.
pub const MAX_HEADER: usize = 4_096;

/// The longest v1 line in bytes, with its CRLF.
const MAX_V1: usize = 107;

const V1_PREFIX: &[u8] = b"PROXY ";
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and transport, length.
const V2_FIXED: usize = 16;
const TLV_CRC32C: u8 = 0x03;

/// Why a connection has no valid header. There is nothing to answer: it is closed.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum InvalidProxyHeader {
    /// The first bytes are those of something else.
    #[error("connection does not start with a PROXY header")]
    Missing,
    /// A v1 line without end within 107 bytes, or a v2 header of more than [`MAX_HEADER`] bytes.
    #[error("PROXY header is too long")]
    TooLong,
    /// A v1 line that is not of the one allowed form.
    #[error("PROXY v1 line is malformed")]
    Line,
    /// A v2 version, command, family or transport that does not exist.
    #[error("PROXY v2 header has an unknown version, command or family")]
    Unknown,
    /// The declared length is too short for the addresses, or an extension does not end within it.
    #[error("PROXY v2 header does not fit its length")]
    Length,
    /// The header's checksum is wrong.
    #[error("PROXY v2 header has a wrong checksum")]
    Checksum,
}

/// What the bytes so far amount to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Parsed {
    /// More bytes are needed; never more than [`MAX_HEADER`] in all.
    Incomplete,
    /// A whole header.
    Done {
        /// Bytes of the header; the payload starts behind them.
        consumed: usize,
        /// The client. `None` for health checks and unknown or local families: the peer is who it is.
        source: Option<SocketAddr>,
        /// What the client connected to; `None` together with `source`.
        destination: Option<SocketAddr>,
    },
}

/// Reads a header from the start of `buf`. IPv4-mapped addresses come out as IPv4.
///
/// # Errors
/// As soon as `buf` cannot become a valid header; the connection must be closed then.
pub fn parse(buf: &[u8]) -> Result<Parsed, InvalidProxyHeader> {
    if starts_as(buf, V2_SIGNATURE) {
        parse_v2(buf)
    } else if starts_as(buf, V1_PREFIX) {
        parse_v1(buf)
    } else {
        Err(InvalidProxyHeader::Missing)
    }
}

/// Appends a v1 header: `source` connected to `destination`.
pub fn write_v1(out: &mut Vec<u8>, source: SocketAddr, destination: SocketAddr) {
    use std::io::Write as _;
    let (from, to, from_port, to_port) = match alike(source, destination) {
        Pair::V4(from, to) => (IpAddr::V4(from), IpAddr::V4(to), source.port(), destination.port()),
        Pair::V6(from, to) => (IpAddr::V6(from), IpAddr::V6(to), source.port(), destination.port()),
    };
    let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
    // Writing to a vector cannot fail.
    let _written = write!(out, "PROXY {family} {from} {to} {from_port} {to_port}\r\n");
}

/// Appends a v2 header without extensions: `source` connected to `destination`.
pub fn write_v2(out: &mut Vec<u8>, source: SocketAddr, destination: SocketAddr) {
    out.extend_from_slice(V2_SIGNATURE);
    match alike(source, destination) {
        Pair::V4(from, to) => {
            out.extend_from_slice(&[0x21, 0x11, 0, 12]);
            out.extend_from_slice(&from.octets());
            out.extend_from_slice(&to.octets());
        }
        Pair::V6(from, to) => {
            out.extend_from_slice(&[0x21, 0x21, 0, 36]);
            out.extend_from_slice(&from.octets());
            out.extend_from_slice(&to.octets());
        }
    }
    out.extend_from_slice(&source.port().to_be_bytes());
    out.extend_from_slice(&destination.port().to_be_bytes());
}

/// Two addresses in one family, as headers want them.
enum Pair {
    V4(Ipv4Addr, Ipv4Addr),
    V6(Ipv6Addr, Ipv6Addr),
}

/// An IPv4 address beside one of IPv6 is written as a mapped one.
fn alike(source: SocketAddr, destination: SocketAddr) -> Pair {
    let v6 = |address: IpAddr| match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    match (source.ip().to_canonical(), destination.ip().to_canonical()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => Pair::V4(source, destination),
        (source, destination) => Pair::V6(v6(source), v6(destination)),
    }
}

/// Whether `buf` starts with `prefix` or could still come to.
fn starts_as(buf: &[u8], prefix: &[u8]) -> bool {
    buf.iter().zip(prefix).all(|(byte, want)| byte == want)
}

fn parse_v1(buf: &[u8]) -> Result<Parsed, InvalidProxyHeader> {
    let head = buf.get(..MAX_V1).unwrap_or(buf);
    let Some(line_feed) = memchr::memchr(b'\n', head) else {
        return if head.len() < MAX_V1 { Ok(Parsed::Incomplete) } else { Err(InvalidProxyHeader::TooLong) };
    };
    let line = head.get(..line_feed).and_then(|line| line.strip_suffix(b"\r"));
    let rest = line.and_then(|line| line.strip_prefix(V1_PREFIX)).ok_or(InvalidProxyHeader::Line)?;
    if rest.contains(&b'\r') {
        return Err(InvalidProxyHeader::Line);
    }
    let consumed = line_feed + 1;
    if rest == b"UNKNOWN" || rest.starts_with(b"UNKNOWN ") {
        return Ok(Parsed::Done { consumed, source: None, destination: None });
    }
    let rest = str::from_utf8(rest).map_err(|_| InvalidProxyHeader::Line)?;
    let (source, destination) = v1_addresses(rest).ok_or(InvalidProxyHeader::Line)?;
    Ok(Parsed::Done { consumed, source: Some(source), destination: Some(destination) })
}

fn v1_addresses(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    let mut words = line.split(' ');
    let family = words.next()?;
    let address = |text: &str| -> Option<IpAddr> {
        match family {
            "TCP4" => text.parse().ok().map(IpAddr::V4),
            "TCP6" => text.parse().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    let source = address(words.next()?)?;
    let destination = address(words.next()?)?;
    let source_port = v1_port(words.next()?)?;
    let destination_port = v1_port(words.next()?)?;
    if words.next().is_some() {
        return None;
    }
    Some((endpoint(source, source_port), endpoint(destination, destination_port)))
}

/// Decimal without sign and without leading zeros, which could be taken for octal.
fn v1_port(text: &str) -> Option<u16> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if is_plain { text.parse().ok() } else { None }
}

fn endpoint(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address.to_canonical(), port)
}

fn parse_v2(buf: &[u8]) -> Result<Parsed, InvalidProxyHeader> {
    let signature = V2_SIGNATURE.len();
    // Judged as soon as it is there, so that nonsense does not hold a connection until its declared end.
    if let Some(byte) = buf.get(signature)
        && !matches!(byte, 0x20 | 0x21)
    {
        return Err(InvalidProxyHeader::Unknown);
    }
    let Some(&[command, family, length_high, length_low]) = buf.get(signature..V2_FIXED) else {
        return Ok(Parsed::Incomplete);
    };
    let consumed = V2_FIXED + usize::from(u16::from_be_bytes([length_high, length_low]));
    if consumed > MAX_HEADER {
        return Err(InvalidProxyHeader::TooLong);
    }
    let without_addresses = Parsed::Done { consumed, source: None, destination: None };
    let is_local = command == 0x20;
    let addresses = if is_local { 0 } else { address_bytes(family)? };
    if consumed - V2_FIXED < addresses {
        return Err(InvalidProxyHeader::Length);
    }
    let Some(header) = buf.get(..consumed) else { return Ok(Parsed::Incomplete) };
    // Without a known address length there is no telling where extensions start; all of it is skipped.
    if addresses == 0 {
        return Ok(without_addresses);
    }
    check_extensions(header, V2_FIXED + addresses)?;
    let Some((source, destination)) = v2_addresses(family, header.get(V2_FIXED..).unwrap_or_default()) else {
        return Ok(without_addresses);
    };
    Ok(Parsed::Done { consumed, source: Some(source), destination: Some(destination) })
}

/// Bytes that the addresses of this family and transport take.
fn address_bytes(family: u8) -> Result<usize, InvalidProxyHeader> {
    match (family >> 4, family & 0x0f) {
        (_, 0x3..) => Err(InvalidProxyHeader::Unknown),
        (0x0, _) => Ok(0),
        (0x1, _) => Ok(12),
        (0x2, _) => Ok(36),
        (0x3, _) => Ok(216),
        _ => Err(InvalidProxyHeader::Unknown),
    }
}

/// `None` for local sockets and unspecified transports.
fn v2_addresses(family: u8, block: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let (source, destination, ports) = match family {
        0x11 | 0x12 => {
            let (source, rest) = block.split_first_chunk::<4>()?;
            let (destination, ports) = rest.split_first_chunk::<4>()?;
            (Ipv4Addr::from(*source).into(), Ipv4Addr::from(*destination).into(), ports)
        }
        0x21 | 0x22 => {
            let (source, rest) = block.split_first_chunk::<16>()?;
            let (destination, ports) = rest.split_first_chunk::<16>()?;
            (Ipv6Addr::from(*source).into(), Ipv6Addr::from(*destination).into(), ports)
        }
        _ => return None,
    };
    let (source_port, rest) = ports.split_first_chunk::<2>()?;
    let destination_port = rest.first_chunk::<2>()?;
    Some((
        endpoint(source, u16::from_be_bytes(*source_port)),
        endpoint(destination, u16::from_be_bytes(*destination_port)),
    ))
}

/// Extensions (type, length, value) start at `start` and must end where the header ends. A checksum among them
/// must be right; every other one is skipped.
fn check_extensions(header: &[u8], start: usize) -> Result<(), InvalidProxyHeader> {
    let mut at = start;
    let mut has_checksum = false;
    while at < header.len() {
        let Some(&[kind, length_high, length_low]) = header.get(at..at + 3) else {
            return Err(InvalidProxyHeader::Length);
        };
        let value_at = at + 3;
        let length = usize::from(u16::from_be_bytes([length_high, length_low]));
        let value = header.get(value_at..value_at + length).ok_or(InvalidProxyHeader::Length)?;
        if kind == TLV_CRC32C {
            let stated = value.try_into().map_err(|_| InvalidProxyHeader::Checksum)?;
            if has_checksum || checksum(header, value_at) != u32::from_be_bytes(stated) {
                return Err(InvalidProxyHeader::Checksum);
            }
            has_checksum = true;
        }
        at = value_at + length;
    }
    Ok(())
}

/// CRC-32C of the header with the four bytes at `zeroed` taken as zero. Bit by bit: a header has at most
/// [`MAX_HEADER`] bytes, comes once per connection, and few senders add a checksum.
fn checksum(header: &[u8], zeroed: usize) -> u32 {
    let mut crc = u32::MAX;
    for (at, byte) in header.iter().enumerate() {
        let byte = if (zeroed..zeroed + 4).contains(&at) { 0 } else { *byte };
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

#[cfg(test)]
mod tests;
