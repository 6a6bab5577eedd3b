//! Request targets: the split into path and query, and the one canonical form of a path.
//!
//! Routes are matched on the canonical path and the same string is forwarded, so that no later hop can read
//! another path than the one that was matched. It never looks at a query beyond its bytes, never decodes a
//! reserved character and never knows a route.

use std::str;

use thiserror::Error;

/// Why a request target is refused; the text names the fact, without quoting what the client sent.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error("{0}")]
pub struct InvalidPath(pub &'static str);

/// The forms of a request target that a reverse proxy serves (RFC 9112 §3.2). Authority-form belongs to
/// CONNECT, which is refused before its target is read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Target<'a> {
    /// `/path?query`
    Origin {
        /// Raw path; starts with `/`.
        path: &'a [u8],
        /// What follows the first `?`.
        query: Option<&'a [u8]>,
    },
    /// `http://authority/path?query`
    Absolute {
        /// True for `https`, false for `http`.
        scheme_https: bool,
        /// Raw, not empty, not yet checked.
        authority: &'a [u8],
        /// Raw path; `/` if the target had none.
        path: &'a [u8],
        /// What follows the first `?`.
        query: Option<&'a [u8]>,
    },
    /// `*`, which only OPTIONS may have.
    Asterisk,
}

/// Splits a request target into its parts without judging path, query or authority.
///
/// # Errors
/// If it has none of the forms of [`Target`].
pub fn split_target(raw: &[u8]) -> Result<Target<'_>, InvalidPath> {
    if raw.first() == Some(&b'/') {
        let (path, query) = split_query(raw);
        return Ok(Target::Origin { path, query });
    }
    if raw == b"*" {
        return Ok(Target::Asterisk);
    }
    let colon = raw.iter().position(|byte| *byte == b':').ok_or(InvalidPath("target has no known form"))?;
    let (scheme, rest) = raw.split_at(colon);
    let scheme_https = if scheme.eq_ignore_ascii_case(b"http") {
        false
    } else if scheme.eq_ignore_ascii_case(b"https") {
        true
    } else {
        return Err(InvalidPath("target has an unsupported scheme"));
    };
    let rest = rest.strip_prefix(b"://").ok_or(InvalidPath("target has no authority"))?;
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(end);
    if authority.is_empty() {
        return Err(InvalidPath("target has an empty authority"));
    }
    let (path, query) = split_query(rest);
    let path = if path.is_empty() { b"/" } else { path };
    Ok(Target::Absolute { scheme_https, authority, path, query })
}

fn split_query(raw: &[u8]) -> (&[u8], Option<&[u8]>) {
    match memchr::memchr(b'?', raw) {
        Some(mark) => {
            let (path, query) = raw.split_at(mark);
            (path, query.get(1..))
        }
        None => (raw, None),
    }
}

/// Whether a query (without its `?`) consists of bytes that may be forwarded untouched: no control, no space,
/// nothing from 0x80 and no `#`.
#[must_use]
pub fn valid_query(raw: &[u8]) -> bool {
    raw.iter().all(|byte| matches!(byte, 0x21..=0x7e) && *byte != b'#')
}

/// The canonical form of `raw`, a path without query that starts with `/`.
///
/// Percent-encoded unreserved characters are decoded, hex digits are upper-case, dot segments are removed
/// (RFC 3986 §6.2.2), and printable characters that a path may not hold raw but browsers send (`"<>[]^{|}` and
/// the grave accent) are percent-encoded. Reserved characters keep the form they came in. It decodes once:
/// `%252e` stays as it is. Returns `raw` itself if it is canonical already, else the form written into
/// `scratch`, which is cleared first.
///
/// # Errors
/// For what two parsers could read as two different paths: a dot segment above the root or with parameters
/// (`..;x`), a backslash or an encoded slash, backslash or NUL, an incomplete or non-hex escape, overlong UTF-8,
/// and every raw byte outside printable ASCII.
#[inline]
pub fn canonical_path<'a>(raw: &'a [u8], scratch: &'a mut Vec<u8>) -> Result<&'a str, InvalidPath> {
    if raw.first() != Some(&b'/') {
        return Err(InvalidPath("path does not start with a slash"));
    }
    if !is_plain(raw) {
        write_canonical(raw, scratch)?;
        if scratch != raw {
            return as_text(scratch);
        }
    }
    as_text(raw)
}

/// Writes `path` with every run of slashes made one. For a canonical path that holds `//`, the caller must see
/// that both spellings find the same rule, because some backends merge slashes and some do not.
#[must_use]
pub fn merge_slashes<'a>(path: &str, scratch: &'a mut Vec<u8>) -> &'a str {
    scratch.clear();
    for byte in path.bytes() {
        if byte != b'/' || scratch.last() != Some(&b'/') {
            scratch.push(byte);
        }
    }
    // Dropping ASCII bytes from text leaves text.
    str::from_utf8(scratch).unwrap_or_default()
}

const PLAIN: u8 = 0;
const SLASH: u8 = 1;
const DOT: u8 = 2;
const SPECIAL: u8 = 4;

/// byte → what it means to [`is_plain`]
const CLASS: [u8; 256] = classes();

#[expect(clippy::indexing_slicing, reason = "every index is below 256")]
const fn classes() -> [u8; 256] {
    let mut table = [SPECIAL; 256];
    let mut byte = 0x21;
    while byte < 0x7f {
        table[byte as usize] = match byte {
            b'/' => SLASH,
            b'.' => DOT,
            byte if is_pchar(byte) => PLAIN,
            _ => SPECIAL,
        };
        byte += 1;
    }
    table
}

/// Characters that a path may hold as they are (`pchar` of RFC 3986 without percent-encoding).
const fn is_pchar(byte: u8) -> bool {
    is_unreserved(byte)
        || matches!(
            byte,
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@'
        )
}

const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// True if nothing needs a closer look: only characters that stay as they are, and no segment that starts with
/// a dot. No branch depends on the bytes.
#[expect(clippy::indexing_slicing, reason = "the table has an entry for every byte")]
fn is_plain(raw: &[u8]) -> bool {
    let mut found = 0;
    let mut before = 0;
    for byte in raw {
        let class = CLASS[usize::from(*byte)];
        found |= (class & SPECIAL) | ((before << 1) & class & DOT);
        before = class;
    }
    found == 0
}

fn as_text(bytes: &[u8]) -> Result<&str, InvalidPath> {
    // Only ASCII gets here; the check is what tells the compiler.
    str::from_utf8(bytes).map_err(|_| InvalidPath("path is not ASCII"))
}

/// One pass: bytes go to `out` in canonical form, and each segment is judged when it ends. What a `..` removes
/// was written once, so the whole is linear.
fn write_canonical(raw: &[u8], out: &mut Vec<u8>) -> Result<(), InvalidPath> {
    out.clear();
    out.push(b'/');
    let mut segment = 1;
    let mut rest = raw.get(1..).unwrap_or_default();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        match byte {
            b'/' => {
                if end_segment(out, segment)? {
                    out.push(b'/');
                }
                segment = out.len();
            }
            b'%' => {
                let octet = escaped(rest).ok_or(InvalidPath("path has an invalid percent-encoding"))?;
                rest = rest.get(2..).unwrap_or_default();
                push_escaped(octet, rest, out)?;
            }
            byte if is_pchar(byte) => out.push(byte),
            b'"' | b'<' | b'>' | b'[' | b']' | b'^' | b'`' | b'{' | b'|' | b'}' => push_percent(byte, out),
            b'\\' => return Err(InvalidPath("path has a backslash")),
            b'#' | b'?' => return Err(InvalidPath("path has a delimiter")),
            _ => return Err(InvalidPath("path has a byte outside printable ASCII")),
        }
    }
    end_segment(out, segment)?;
    Ok(())
}

/// Judges the segment that starts at `start` in `out`. Dot segments are removed; then `out` already ends with
/// the slash to go on from and the answer is false.
fn end_segment(out: &mut Vec<u8>, start: usize) -> Result<bool, InvalidPath> {
    let segment = out.get(start..).unwrap_or_default();
    if segment.first() != Some(&b'.') {
        return Ok(true);
    }
    match segment {
        b"." => out.truncate(start),
        b".." => {
            out.truncate(start - 1);
            let parent = out.iter().rposition(|byte| *byte == b'/');
            out.truncate(parent.ok_or(InvalidPath("path leads above the root"))? + 1);
        }
        _ => {
            // Some servers cut parameters off before they look for dot segments.
            let rest = segment.strip_prefix(b"..").or_else(|| segment.strip_prefix(b".")).unwrap_or_default();
            if rest.starts_with(b";") || rest.starts_with(b"%3B") {
                return Err(InvalidPath("path has a dot segment with parameters"));
            }
            return Ok(true);
        }
    }
    Ok(false)
}

/// The octet that the two hex digits at the start of `digits` stand for.
fn escaped(digits: &[u8]) -> Option<u8> {
    let [high, low, ..] = digits else { return None };
    let value = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    Some(value(*high)? << 4 | value(*low)?)
}

/// `rest` is what follows the escape; overlong UTF-8 shows in the next octet.
fn push_escaped(octet: u8, rest: &[u8], out: &mut Vec<u8>) -> Result<(), InvalidPath> {
    match octet {
        0 => return Err(InvalidPath("path has an encoded NUL")),
        b'/' => return Err(InvalidPath("path has an encoded slash")),
        b'\\' => return Err(InvalidPath("path has an encoded backslash")),
        octet if is_unreserved(octet) => out.push(octet),
        octet => {
            let next = rest.strip_prefix(b"%").and_then(escaped);
            if next.is_some_and(|next| is_overlong(octet, next)) {
                return Err(InvalidPath("path has overlong UTF-8"));
            }
            push_percent(octet, out);
        }
    }
    Ok(())
}

/// Whether the two octets start a UTF-8 form that is longer than its character needs. Decoders that take such
/// forms, or do not check the second octet, find slashes and dots in them.
const fn is_overlong(first: u8, second: u8) -> bool {
    match first {
        0xc0 | 0xc1 => matches!(second, 0x00..=0x1f | 0x80..=0xbf),
        0xe0 => matches!(second, 0x80..=0x9f),
        0xf0 => matches!(second, 0x80..=0x8f),
        0xf8 => matches!(second, 0x80..=0x87),
        0xfc => matches!(second, 0x80..=0x83),
        _ => false,
    }
}

fn push_percent(octet: u8, out: &mut Vec<u8>) {
    let digit = |value: u8| if value < 10 { b'0' + value } else { b'A' + value - 10 };
    out.extend_from_slice(&[b'%', digit(octet >> 4), digit(octet & 15)]);
}

#[cfg(test)]
mod tests;
