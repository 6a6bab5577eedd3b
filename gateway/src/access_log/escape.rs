//! Text from outside, made harmless for one line of the log.
//!
//! Whatever a peer sends, the result has no control byte, no unescaped quote, and a bounded length.

/// What each function here writes for one input byte, at most.
pub(super) const WORST_GROWTH: usize = 6;

/// Marks a text that was cut.
const CUT: &[u8] = b"...";

/// Appends `text` as the inside of a JSON string: valid UTF-8, at most `max` bytes of the input. What is not
/// UTF-8 becomes U+FFFD; control characters, C1 ones included, become `\u00XX`.
#[inline]
pub(super) fn json(out: &mut Vec<u8>, text: &[u8], max: usize) {
    let kept = text.get(..max).unwrap_or(text);
    if is_plain(kept) {
        out.extend_from_slice(kept);
    } else {
        json_escaped(out, kept);
    }
    if kept.len() < text.len() {
        out.extend_from_slice(CUT);
    }
}

/// Appends `text` as the inside of a quoted field of the combined format: at most `max` bytes of the input,
/// with quotes, backslashes and everything that is not printable ASCII as `\xNN`, as nginx does. An empty
/// text is `-`.
#[inline]
pub(super) fn combined(out: &mut Vec<u8>, text: &[u8], max: usize) {
    let kept = text.get(..max).unwrap_or(text);
    if kept.is_empty() {
        out.push(b'-');
    } else if is_plain(kept) {
        out.extend_from_slice(kept);
    } else {
        combined_escaped(out, kept);
    }
    if kept.len() < text.len() {
        out.extend_from_slice(CUT);
    }
}

/// True if every byte is printable ASCII other than `"` and `\`. Looks at every byte without a branch, so
/// that it compiles to vector code.
#[inline]
fn is_plain(text: &[u8]) -> bool {
    let special = |byte: u8| (byte.wrapping_sub(0x20) >= 0x5f) | (byte == b'"') | (byte == b'\\');
    !text.iter().fold(false, |found, byte| found | special(*byte))
}

#[cold]
fn json_escaped(out: &mut Vec<u8>, text: &[u8]) {
    for chunk in text.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '"' => out.extend_from_slice(b"\\\""),
                '\\' => out.extend_from_slice(b"\\\\"),
                // JavaScript takes the last two for line ends.
                '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' => {
                    let code = u32::from(character);
                    out.extend_from_slice(b"\\u");
                    out.extend([12, 8, 4, 0].map(|shift| hex_digit(code >> shift)));
                }
                _ => out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

#[cold]
fn combined_escaped(out: &mut Vec<u8>, text: &[u8]) {
    for byte in text {
        match byte {
            b'"' | b'\\' | 0..=0x1f | 0x7f..=0xff => {
                out.extend_from_slice(b"\\x");
                out.extend([4, 0].map(|shift| hex_digit(u32::from(*byte) >> shift).to_ascii_uppercase()));
            }
            _ => out.push(*byte),
        }
    }
}

/// The lower-case hexadecimal digit of the low four bits.
fn hex_digit(value: u32) -> u8 {
    let low = u8::try_from(value & 0xf).unwrap_or_default();
    if low < 10 { b'0' + low } else { b'a' + low - 10 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn as_json(text: &[u8]) -> String {
        let mut out = Vec::new();
        json(&mut out, text, 1_000);
        String::from_utf8(out).unwrap()
    }

    fn as_combined(text: &[u8]) -> String {
        let mut out = Vec::new();
        combined(&mut out, text, 1_000);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn json_keeps_text_and_escapes_what_would_end_the_string_or_the_line() {
        assert_eq!(as_json(b"plain ~!"), "plain ~!");
        assert_eq!(as_json("grün 🚦".as_bytes()), "grün 🚦");
        assert_eq!(as_json(b"a\"b\\c\nd\x7f"), "a\\\"b\\\\c\\u000ad\\u007f");
        assert_eq!(as_json("\u{9b}31m\u{2028}".as_bytes()), "\\u009b31m\\u2028");
    }

    #[test]
    fn json_replaces_what_is_not_utf8() {
        assert_eq!(as_json(b"a\xffb\xc3"), "a\u{fffd}b\u{fffd}");
    }

    #[test]
    fn combined_escapes_everything_but_printable_ascii() {
        assert_eq!(as_combined(b""), "-");
        assert_eq!(as_combined(b"a\"b\\c\r\n\xff"), "a\\x22b\\x5Cc\\x0D\\x0A\\xFF");
    }

    #[test]
    fn a_text_beyond_its_bound_is_cut_and_marked() {
        let mut out = Vec::new();
        json(&mut out, b"abcdef", 4);
        assert_eq!(out, b"abcd...");
        out.clear();
        combined(&mut out, b"abcdef", 6);
        assert_eq!(out, b"abcdef");
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_json_string_that_reads_back_as_their_lossy_text(text: Vec<u8>) {
            let quoted = format!("\"{}\"", as_json(&text));
            let back: String = serde_json::from_str(&quoted).unwrap();
            prop_assert_eq!(back, String::from_utf8_lossy(&text));
            prop_assert!(quoted.len() <= 2 + WORST_GROWTH * text.len());
            prop_assert!(!quoted.chars().any(char::is_control));
        }

        #[test]
        fn any_bytes_give_a_combined_field_without_quote_or_control(text: Vec<u8>) {
            let field = as_combined(&text);
            prop_assert!(field.bytes().all(|byte| (0x20..0x7f).contains(&byte) && byte != b'"'));
            prop_assert!(field.len() <= 1 + WORST_GROWTH * text.len());
        }
    }
}
