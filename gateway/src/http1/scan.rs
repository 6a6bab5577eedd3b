//! Finds the end of a head in bytes that arrive piecemeal, and refuses line discipline that differs from
//! CRLF at the first offending byte (RFC 9112 §2.2).
//!
//! A head that is complete at first sight is found by its end alone; whether each of its lines ends with CRLF is
//! then for the parser to check ([`lines_end_with_crlf`]).

use std::sync::LazyLock;

use memchr::memmem::Finder;

use super::head::Field;

/// The end of a head.
static END: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\r\n\r\n"));

/// Progress of the scan over one head.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HeadScan {
    /// Bytes looked at.
    at: usize,
    /// Start of the current line.
    line: usize,
}

/// LF without CR before it, or CR without LF after it: the head can never become valid.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct BareLineBreak;

impl HeadScan {
    /// Continues over `buf` (always the same head, from its first byte). Returns the head's length including
    /// the empty line, or `None` if it is not complete.
    #[inline]
    pub(crate) fn advance(&mut self, buf: &[u8]) -> Result<Option<usize>, BareLineBreak> {
        if self.at == 0
            && let Some(at) = END.find(buf)
        {
            return Ok(Some(at + 4));
        }
        while let Some(found) = buf.get(self.at..).and_then(|rest| memchr::memchr2(b'\r', b'\n', rest)) {
            let at = self.at + found;
            if buf.get(at) == Some(&b'\n') {
                return Err(BareLineBreak);
            }
            match buf.get(at + 1) {
                None => {
                    self.at = at;
                    return Ok(None);
                }
                Some(b'\n') => {}
                Some(_) => return Err(BareLineBreak),
            }
            self.at = at + 2;
            if at == self.line && at > 0 {
                return Ok(Some(self.at));
            }
            self.line = self.at;
        }
        self.at = buf.len();
        Ok(None)
    }

    /// Whether the first line is complete.
    pub(crate) fn has_first_line(&self) -> bool {
        self.line > 0
    }
}

/// Whether CRLF stands before each field, which is after the line before it; a bare CR within a line is no
/// field value byte.
pub(crate) fn lines_end_with_crlf(head: &[u8], fields: &[Field]) -> bool {
    head.ends_with(b"\r\n\r\n")
        && fields.iter().all(|field| {
            let at = field.name.start();
            at >= 2 && head.get(at - 2..at) == Some(b"\r\n")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_end_wherever_the_bytes_are_split() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nrest";
        for split in 0..head.len() {
            let mut scan = HeadScan::default();
            let first = scan.advance(&head[..split]).unwrap();
            let end = first.or_else(|| scan.advance(head).unwrap());
            assert_eq!(end, Some(head.len() - 4), "split at {split}");
        }
    }

    #[test]
    fn refuses_bare_line_breaks_at_once() {
        for bad in [&b"GET / HTTP/1.1\n"[..], b"GET / HTTP/1.1\rHost", b"GET / HTTP/1.1\r\nA: b\nC"] {
            assert_eq!(HeadScan::default().advance(bad), Err(BareLineBreak));
        }
    }
}
