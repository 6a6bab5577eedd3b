//! Bodies between gRPC-Web and gRPC: trailers as a last frame of the body, base64 both ways. Sans-I/O, piece by piece: nothing
//! is kept but what is left of a group of four.

use std::io::Write as _;

use super::grpc::Rpc;

/// Marks a frame that holds trailers; messages have 0 or 1 here.
const TRAILERS: u8 = 0x80;

/// What is done to the body of one message.
#[derive(Debug)]
pub(crate) enum Translation {
    /// A request in base64 becomes one without.
    Decode(Decoder),
    /// A response gets its trailers as a frame, and is put into base64 if the encoder is there.
    Frames { encoder: Option<Encoder>, seen: bool },
}

/// Not base64.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct NotBase64;

impl Translation {
    /// For the request of a call, if its body must be changed.
    pub(crate) fn of_request(rpc: Rpc) -> Option<Box<Self>> {
        (rpc == Rpc::WebText).then(|| Box::new(Self::Decode(Decoder::default())))
    }

    /// For the response to a call.
    pub(crate) fn of_response(rpc: Rpc) -> Option<Box<Self>> {
        let encoder = (rpc == Rpc::WebText).then(Encoder::default);
        rpc.is_web().then(|| Box::new(Self::Frames { encoder, seen: false }))
    }

    /// Writes the end of a response's body: the frame with `lines`, which are trailers in HTTP/1.1 syntax.
    pub(crate) fn finish(&mut self, out: &mut Vec<u8>, lines: &[u8]) {
        let Self::Frames { encoder, seen } = self else { return };
        // Without messages, the status stands in the head.
        if lines.is_empty() && !*seen {
            return;
        }
        // A call without a status has failed in a way that nobody knows.
        let lines = if lines.is_empty() { b"grpc-status: 2\r\n" } else { lines };
        let mut frame = vec![TRAILERS];
        frame.extend_from_slice(&u32::try_from(lines.len()).unwrap_or(u32::MAX).to_be_bytes());
        let mut is_name = true;
        // Names are in lower case there, as in HTTP/2.
        frame.extend(lines.iter().map(|byte| {
            is_name = *byte == b'\n' || (is_name && *byte != b':');
            if is_name { byte.to_ascii_lowercase() } else { *byte }
        }));
        match encoder {
            None => out.extend_from_slice(&frame),
            Some(encoder) => {
                encoder.encode(&frame, out);
                encoder.finish(out);
            }
        }
    }
}

/// Writes `bytes` as a chunk (RFC 9112 §7.1), unless there are none.
pub(crate) fn chunk(out: &mut Vec<u8>, chunked: bool, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    if !chunked {
        out.extend_from_slice(bytes);
        return;
    }
    // Writing to a Vec does not fail.
    let _written = write!(out, "{:x}\r\n", bytes.len());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// Base64 (RFC 4648 §4) to bytes. Padding may end any group of four, since whole messages are encoded one by one.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    bits: u32,
    /// Characters of the current group.
    group: u8,
    /// Padding that must still come.
    padding: u8,
}

impl Decoder {
    /// Decodes in place; what comes of it is at the front, and as long as is returned.
    pub(crate) fn decode(&mut self, bytes: &mut [u8]) -> Result<usize, NotBase64> {
        let mut length = 0;
        for at in 0..bytes.len() {
            let Some(character) = bytes.get(at).copied() else { break };
            let Some(byte) = self.next(character)? else { continue };
            // Each character yields one byte at most.
            if let Some(slot) = bytes.get_mut(length) {
                *slot = byte;
                length += 1;
            }
        }
        Ok(length)
    }

    /// The byte that `character` completes.
    fn next(&mut self, character: u8) -> Result<Option<u8>, NotBase64> {
        if self.padding > 0 || (character == b'=' && self.group >= 2) {
            return self.pad(character);
        }
        let sextet = SEXTETS.get(usize::from(character)).copied().filter(|sextet| *sextet < 64);
        self.bits = self.bits << 6 | u32::from(sextet.ok_or(NotBase64)?);
        self.group = (self.group + 1) % 4;
        Ok(match self.group {
            1 => None,
            2 => Some(self.bits >> 4),
            3 => Some(self.bits >> 2),
            _ => Some(self.bits),
        }
        .map(|bits| (bits & 0xff) as u8))
    }

    fn pad(&mut self, character: u8) -> Result<Option<u8>, NotBase64> {
        if character != b'=' {
            return Err(NotBase64);
        }
        if self.padding == 0 {
            let unused = if self.group == 2 { 0xf } else { 0x3 };
            // Bits beyond the last byte are zero, or two texts would mean the same.
            if self.bits & unused != 0 {
                return Err(NotBase64);
            }
            self.padding = 4 - self.group;
            self.group = 0;
        }
        self.padding -= 1;
        Ok(None)
    }

    /// Nothing is left of a group.
    pub(crate) fn is_whole(&self) -> bool {
        self.group == 0 && self.padding == 0
    }
}

/// Bytes to base64.
#[derive(Debug, Default)]
pub(crate) struct Encoder {
    left: [u8; 2],
    count: usize,
}

impl Encoder {
    /// Appends what `bytes` complete of groups of three.
    pub(crate) fn encode(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let mut rest = bytes;
        if self.count > 0 {
            let mut group = [0; 3];
            let (kept, free) = group.split_at_mut(self.count);
            kept.copy_from_slice(self.left.get(..self.count).unwrap_or_default());
            let Some((now, later)) = rest.split_at_checked(free.len()) else {
                return self.keep(rest);
            };
            free.copy_from_slice(now);
            self.count = 0;
            put(out, group);
            rest = later;
        }
        let mut groups = rest.chunks_exact(3);
        for group in &mut groups {
            put(out, [0, 1, 2].map(|at| group.get(at).copied().unwrap_or(0)));
        }
        self.keep(groups.remainder());
    }

    fn keep(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if let Some(slot) = self.left.get_mut(self.count) {
                *slot = *byte;
                self.count += 1;
            }
        }
    }

    /// Appends what is left, with padding.
    pub(crate) fn finish(&mut self, out: &mut Vec<u8>) {
        let count = std::mem::take(&mut self.count);
        if count == 0 {
            return;
        }
        let mut group = [0; 3];
        for (slot, byte) in group.iter_mut().zip(self.left.iter().take(count)) {
            *slot = *byte;
        }
        put(out, group);
        let end = out.len();
        if let Some(padding) = out.get_mut(end - (3 - count)..) {
            padding.fill(b'=');
        }
    }
}

fn put(out: &mut Vec<u8>, group: [u8; 3]) {
    let [a, b, c] = group.map(u32::from);
    let bits = a << 16 | b << 8 | c;
    let digit = |shift: u32| ALPHABET.get((bits >> shift & 63) as usize).copied().unwrap_or(b'A');
    out.extend_from_slice(&[digit(18), digit(12), digit(6), digit(0)]);
}

static ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// character → its six bits; 64 = none
static SEXTETS: [u8; 256] = {
    let mut out = [64; 256];
    let mut at = 0;
    while at < 64 {
        #[expect(
            clippy::indexing_slicing,
            clippy::cast_possible_truncation,
            reason = "evaluated at compile time"
        )]
        {
            out[ALPHABET[at] as usize] = at as u8;
        }
        at += 1;
    }
    out
};

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;

    use super::*;

    fn decoded(text: &[u8], piece: usize) -> Result<Vec<u8>, NotBase64> {
        let mut decoder = Decoder::default();
        let mut out = Vec::new();
        for part in text.chunks(piece) {
            let mut part = part.to_vec();
            let length = decoder.decode(&mut part)?;
            out.extend_from_slice(&part[..length]);
        }
        if decoder.is_whole() { Ok(out) } else { Err(NotBase64) }
    }

    fn encoded(bytes: &[u8], piece: usize) -> Vec<u8> {
        let (mut encoder, mut out) = (Encoder::default(), Vec::new());
        for part in bytes.chunks(piece) {
            encoder.encode(part, &mut out);
        }
        encoder.finish(&mut out);
        out
    }

    proptest! {
        #[test]
        fn pieces_of_any_size_are_coded_as_the_whole_is(bytes: Vec<u8>, piece in 1_usize..9) {
            let text = STANDARD.encode(&bytes).into_bytes();
            prop_assert_eq!(&encoded(&bytes, piece), &text);
            prop_assert_eq!(decoded(&text, piece), Ok(bytes));
        }

        #[test]
        fn what_others_do_not_decode_is_refused(text in "[A-Za-z0-9+/=]{0,12}", piece in 1_usize..5) {
            // Alone, without a second text behind its padding.
            prop_assume!(!text.trim_end_matches('=').contains('='));
            prop_assert_eq!(decoded(text.as_bytes(), piece).ok(), STANDARD.decode(&text).ok());
        }
    }

    #[test]
    fn messages_that_were_encoded_one_by_one_are_decoded_together() {
        assert_eq!(decoded(b"YQ==YmM=ZGVm", 5), Ok(b"abcdef".to_vec()));
    }

    #[test]
    fn what_is_no_base64_is_refused() {
        for text in ["a", "ab", "abc", "ab=", "ab=c", "====", "a===", "ab c", "ab-_", "YR==", "YWJ="] {
            assert_eq!(decoded(text.as_bytes(), 3), Err(NotBase64), "{text}");
        }
    }

    #[test]
    fn trailers_are_the_last_frame_in_lower_case() {
        let mut out = Vec::new();
        let mut translation = Translation::of_response(Rpc::Web).unwrap();
        translation.finish(&mut out, b"Grpc-Status: 0\r\nX-Note: A:B\r\n");
        assert_eq!(out, b"\x80\0\0\0\x1dgrpc-status: 0\r\nx-note: A:B\r\n");
    }

    #[test]
    fn a_response_without_trailers_has_a_frame_only_if_it_had_messages() {
        let mut out = Vec::new();
        let mut translation = Translation::of_response(Rpc::Web).unwrap();
        translation.finish(&mut out, b"");
        assert!(out.is_empty());
        let mut translation = Translation::Frames { encoder: None, seen: true };
        translation.finish(&mut out, b"");
        assert_eq!(out, b"\x80\0\0\0\x10grpc-status: 2\r\n");
    }
}
