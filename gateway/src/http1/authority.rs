//! Host fields and the authority of absolute-form targets.
//!
//! Strict on purpose: what is left after parsing is a DNS name or an IP address, and nothing that another parser
//! could read as a second host. It never resolves and never compares with a route.

use std::io::Write as _;
use std::net::Ipv6Addr;
use std::str;

use thiserror::Error;

/// Longest host in bytes: the longest name that DNS can hold.
const MAX_HOST: usize = 253;

/// Why an authority is refused; the text names the fact, without quoting what the client sent.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error("{0}")]
pub struct InvalidAuthority(pub &'static str);

/// A parsed authority.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Authority<'a> {
    /// Lower-case, without trailing dot and port; an IPv6 address is in its canonical form within brackets.
    pub host: &'a str,
    /// `None` if there was none or it was empty.
    pub port: Option<u16>,
    /// As sent; what is forwarded.
    pub raw: &'a [u8],
}

/// Parses `host [":" port]`, without surrounding white space. `scratch` is cleared and used only if the host is
/// not in its canonical form already.
///
/// # Errors
/// For userinfo, lists, wildcards, percent-encoding, zone identifiers, empty labels, hosts longer than 253
/// bytes, ports outside 1..=65535, and every byte that a DNS name does not have (`_` is accepted, since it is in
/// use).
#[inline]
pub fn parse_authority<'a>(
    raw: &'a [u8],
    scratch: &'a mut Vec<u8>,
) -> Result<Authority<'a>, InvalidAuthority> {
    if raw.first() == Some(&b'[') {
        return parse_ipv6(raw, scratch);
    }
    let (name, port) = match memchr::memchr(b':', raw) {
        Some(colon) => {
            let (name, port) = raw.split_at(colon);
            (name, parse_port(port)?)
        }
        None => (raw, None),
    };
    let name = name.strip_suffix(b".").unwrap_or(name);
    let is_lower_case = check_name(name)?;
    let host = if is_lower_case {
        as_text(name)?
    } else {
        scratch.clear();
        scratch.extend(name.iter().map(u8::to_ascii_lowercase));
        as_text(scratch)?
    };
    Ok(Authority { host, port, raw })
}

/// Checks a name without trailing dot; true if it has no upper-case letter.
fn check_name(name: &[u8]) -> Result<bool, InvalidAuthority> {
    if name.is_empty() {
        return Err(InvalidAuthority("host is empty"));
    }
    if name.len() > MAX_HOST {
        return Err(InvalidAuthority("host is too long"));
    }
    let mut is_lower_case = true;
    let mut before = b'.';
    for &byte in name {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => {}
            b'A'..=b'Z' => is_lower_case = false,
            b'.' if before != b'.' => {}
            b'.' => return Err(InvalidAuthority("host has an empty label")),
            _ => return Err(InvalidAuthority("host has a byte that no name has")),
        }
        before = byte;
    }
    if before == b'.' {
        return Err(InvalidAuthority("host has an empty label"));
    }
    Ok(is_lower_case)
}

fn parse_ipv6<'a>(raw: &'a [u8], scratch: &'a mut Vec<u8>) -> Result<Authority<'a>, InvalidAuthority> {
    let malformed = InvalidAuthority("host is not an IPv6 address");
    let end = memchr::memchr(b']', raw).ok_or(malformed)?;
    let (bracketed, port) = raw.split_at_checked(end + 1).ok_or(malformed)?;
    let port = if port.is_empty() { None } else { parse_port(port)? };
    let address = bracketed.get(1..end).and_then(|text| str::from_utf8(text).ok()).ok_or(malformed)?;
    let address: Ipv6Addr = address.parse().map_err(|_| malformed)?;
    scratch.clear();
    write!(scratch, "[{address}]").map_err(|_| malformed)?;
    Ok(Authority { host: as_text(scratch)?, port, raw })
}

/// `text` starts with what must be the colon.
fn parse_port(text: &[u8]) -> Result<Option<u16>, InvalidAuthority> {
    let malformed = InvalidAuthority("port is not a number from 1 to 65535");
    let digits = text.strip_prefix(b":").ok_or(malformed)?;
    if digits.is_empty() {
        return Ok(None);
    }
    if digits.len() > 5 || !digits.iter().all(u8::is_ascii_digit) {
        return Err(malformed);
    }
    let value = digits.iter().fold(0_u32, |value, digit| value * 10 + u32::from(digit - b'0'));
    match u16::try_from(value) {
        Ok(port) if port != 0 => Ok(Some(port)),
        _ => Err(malformed),
    }
}

fn as_text(bytes: &[u8]) -> Result<&str, InvalidAuthority> {
    // Only ASCII gets here; the check is what tells the compiler.
    str::from_utf8(bytes).map_err(|_| InvalidAuthority("host is not ASCII"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(raw: &[u8]) -> Option<(String, Option<u16>)> {
        let mut scratch = b"left over".to_vec();
        let authority = parse_authority(raw, &mut scratch).ok()?;
        assert_eq!(authority.raw, raw);
        Some((authority.host.to_owned(), authority.port))
    }

    #[track_caller]
    fn gives(raw: &str, host: &str, port: Option<u16>) {
        assert_eq!(parsed(raw.as_bytes()), Some((host.to_owned(), port)), "{raw}");
    }

    #[track_caller]
    fn refused(raw: &str) {
        assert_eq!(parsed(raw.as_bytes()), None, "{raw}");
    }

    #[test]
    fn host_is_lower_case_without_port_and_one_trailing_dot() {
        gives("a", "a", None);
        gives("a.", "a", None);
        gives("A", "a", None);
        gives("a:80", "a", Some(80));
        gives("Shop.Example.COM.:8080", "shop.example.com", Some(8080));
        gives("a_b-c.9", "a_b-c.9", None);
        gives("127.0.0.1:65535", "127.0.0.1", Some(65_535));
    }

    #[test]
    fn empty_port_is_no_port() {
        gives("a:", "a", None);
        gives("[::1]:", "[::1]", None);
    }

    #[test]
    fn port_is_a_decimal_from_1_to_65535() {
        gives("a:080", "a", Some(80));
        for raw in
            ["a:99999", "a:65536", "a:0", "a:00000", "a:-1", "a:+1", "a:80:80", "a:8o", "a: 80", "a:000080"]
        {
            refused(raw);
        }
    }

    #[test]
    fn a_second_host_is_refused() {
        for raw in ["a, b", "a,b", "a b", "a@b", "user:p@a", "u@a", "a/x", "a?x", "a#x", "a\\x", "a;b"] {
            refused(raw);
        }
    }

    #[test]
    fn empty_hosts_and_labels_are_refused() {
        for raw in ["", ".", ":80", ".a", "a..", "a..b", "..", "a..:80"] {
            refused(raw);
        }
    }

    #[test]
    fn wildcards_are_refused() {
        for raw in ["*", "*.a", "a.*"] {
            refused(raw);
        }
    }

    #[test]
    fn bytes_outside_names_are_refused() {
        for raw in
            [&b"google.com\0.evil"[..], b"a\tb", b"\xc3\xa9", b"a%61", b" a", b"a ", b"a\x7f", b"a\"", b"a'"]
        {
            assert_eq!(parsed(raw), None, "{raw:?}");
        }
    }

    #[test]
    fn ipv6_needs_brackets_and_has_no_zone() {
        gives("[::1]", "[::1]", None);
        gives("[::1]:8080", "[::1]", Some(8080));
        gives("[2001:DB8:0:0:0:0:0:1]", "[2001:db8::1]", None);
        for raw in [
            "[::1",
            "[::1]x",
            "::1",
            "[fe80::1%25eth0]",
            "[fe80::1%eth0]",
            "[]",
            "[v1.x]",
            "[1.2.3.4]",
            "[::1].",
            "[",
        ] {
            refused(raw);
        }
    }

    #[test]
    fn host_has_at_most_253_bytes() {
        let long = ["a"; 127].join(".");
        assert_eq!(long.len(), 253);
        gives(&long, &long, None);
        gives(&format!("{long}."), &long, None);
        refused(&format!("{long}a"));
    }

    #[test]
    fn a_canonical_host_is_not_copied() {
        let raw = b"shop.example.com:80";
        let mut scratch = Vec::new();
        let authority = parse_authority(raw, &mut scratch).unwrap();
        assert!(std::ptr::eq(authority.host.as_ptr(), raw.as_ptr()));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(raw in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = parsed(&raw);
        }

        #[test]
        fn the_host_is_its_own_canonical_form(raw in "[a-zA-Z0-9._:\\[\\]-]{1,40}") {
            if let Some((host, _)) = parsed(raw.as_bytes()) {
                prop_assert_eq!(parsed(host.as_bytes()), Some((host, None)));
            }
        }
    }
}
