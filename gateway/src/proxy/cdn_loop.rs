//! Requests that go round between gateways, told by `CDN-Loop` (RFC 8586): each process adds an entry of its own, and counts
//! those that it finds. It never removes an entry, whoever made it (§2).
//!
//! Not `Via`, which RFC 9110 §7.6.3 has for this: nginx does not compress answers to requests that have it. An entry is a random
//! number: a client learns it only from an endpoint that shows what it received, and all it can do with it is to have its own
//! requests refused.

use std::fmt;
use std::io::Write as _;

use crate::http1::fields;

/// Times that one process sends a request on. Twice is no loop: an endpoint that is a proxy itself may come back for another host,
/// and pass on what it was sent.
const MOST: usize = 3;

const NAME: &[u8] = b"CDN-Loop: ";
/// `sluicegate-` and 16 hexadecimal digits.
const ENTRY: usize = 27;
const LINE: usize = NAME.len() + ENTRY + 2;

/// The entry of one process, as the line that it adds to each request.
#[derive(Clone, Copy)]
pub(crate) struct LoopToken {
    line: [u8; LINE],
}

impl LoopToken {
    /// The entry with this number.
    pub(crate) fn new(number: u64) -> Self {
        let mut line = [b' '; LINE];
        // It has exactly this length.
        let _fits = write!(&mut line[..], "CDN-Loop: sluicegate-{number:016x}\r\n");
        Self { line }
    }

    /// The line, with its end.
    #[inline]
    pub(crate) fn line(&self) -> &[u8] {
        &self.line
    }

    fn entry(&self) -> &[u8] {
        self.line.get(NAME.len()..NAME.len() + ENTRY).unwrap_or_default()
    }

    /// Whether this process has sent a request with `values` in `CDN-Loop` on as often as it may. Parameters of entries are of no
    /// account; a comma in a quoted one at worst makes an entry of it.
    pub(crate) fn has_gone_round<'a>(&self, values: impl Iterator<Item = &'a [u8]>) -> bool {
        let entries = values.flat_map(fields::list);
        let names =
            entries.map(|entry| fields::trim(entry.split(|byte| *byte == b';').next().unwrap_or_default()));
        names.filter(|name| name.eq_ignore_ascii_case(self.entry())).nth(MOST - 1).is_some()
    }
}

impl Default for LoopToken {
    /// A random number, so that no two processes share one.
    fn default() -> Self {
        Self::new(fastrand::u64(..))
    }
}

impl fmt::Debug for LoopToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LoopToken").field(&String::from_utf8_lossy(self.entry())).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_refused(values: &[&str]) -> bool {
        LoopToken::new(0xab).has_gone_round(values.iter().map(|value| value.as_bytes()))
    }

    #[test]
    fn the_line_is_a_field_of_its_own() {
        assert_eq!(LoopToken::new(0xab).line(), b"CDN-Loop: sluicegate-00000000000000ab\r\n");
        assert_eq!(LoopToken::new(u64::MAX).line(), b"CDN-Loop: sluicegate-ffffffffffffffff\r\n");
        assert_ne!(LoopToken::default().line(), LoopToken::default().line());
    }

    #[test]
    fn a_request_passes_three_times_and_no_fourth() {
        let own = "sluicegate-00000000000000ab";
        assert!(!is_refused(&[]));
        assert!(!is_refused(&[own, own]));
        assert!(is_refused(&[own, own, own]));
        assert!(is_refused(&[own, "other.example, x;y=\"z\"", own, "", own]));
    }

    #[test]
    fn entries_are_found_in_one_list_in_any_case_and_with_parameters() {
        let list = "sluicegate-00000000000000ab;v=1,, SLUICEGATE-00000000000000AB ; v , a, sluicegate-00000000000000ab";
        assert!(is_refused(&[list]));
    }

    #[test]
    fn what_others_added_is_not_counted() {
        let others = [
            "sluicegate-00000000000000ac",
            "xsluicegate-00000000000000ab",
            "sluicegate",
            "a;sluicegate-00000000000000ab",
        ];
        assert!(!is_refused(&others.repeat(100)));
    }
}
