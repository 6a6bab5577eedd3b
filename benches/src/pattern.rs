//! The body pattern: every byte of a body is known from its offset alone, so that any loss, surplus, mix-up or
//! reordering in transit is seen. Owns no state.

use std::sync::LazyLock;

/// Length of the repetition. A prime, so that it lines up with no buffer, page or chunk size.
const PERIOD: usize = 89;

/// The longest slice that one comparison or copy handles.
const SPAN: usize = 128 * 1024;

static BLOCK: LazyLock<Vec<u8>> =
    LazyLock::new(|| (0..SPAN + PERIOD).map(|i| b'!' + u8::try_from(i % PERIOD).unwrap_or(0)).collect());

/// True if `bytes` are what the pattern has at `offset`.
#[must_use]
pub fn matches(offset: u64, bytes: &[u8]) -> bool {
    let mut at = offset;
    bytes.chunks(SPAN).all(|part| {
        let start = usize::try_from(at % PERIOD as u64).unwrap_or(0);
        at += part.len() as u64;
        BLOCK.get(start..start + part.len()) == Some(part)
    })
}

/// The first `len` bytes of the pattern.
#[must_use]
pub fn body(len: usize) -> Vec<u8> {
    piece(0, len)
}

/// `len` bytes of the pattern from `offset` on.
#[must_use]
pub fn piece(offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len);
    put(offset, len, &mut bytes);
    bytes
}

/// Puts `len` bytes of the pattern from `offset` on at the end of `out`.
pub fn put(mut offset: u64, len: usize, out: &mut Vec<u8>) {
    let end = out.len() + len;
    while out.len() < end {
        let start = usize::try_from(offset % PERIOD as u64).unwrap_or(0);
        let span = SPAN.min(end - out.len());
        out.extend_from_slice(BLOCK.get(start..start + span).unwrap_or_default());
        offset += span as u64;
    }
}

/// The first `len` bytes of the pattern in chunked coding, `chunk` bytes per chunk, without trailers.
#[must_use]
pub fn chunked(len: usize, chunk: usize) -> Vec<u8> {
    let mut wire = Vec::with_capacity(len + len / chunk.max(1) * 16 + 16);
    for part in body(len).chunks(chunk.max(1)) {
        wire.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
        wire.extend_from_slice(part);
        wire.extend_from_slice(b"\r\n");
    }
    wire.extend_from_slice(b"0\r\n\r\n");
    wire
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slice_of_a_body_matches_at_its_own_offset_only() {
        let whole = body(300_000);
        assert!(matches(0, &whole));
        assert!(matches(70_001, &whole[70_001..]));
        assert_eq!(piece(70_001, 500), whole[70_001..70_501]);
        assert_eq!(piece(1_001, 290_000), whole[1_001..291_001]);
        assert!(!matches(70_002, &whole[70_001..]));
        let mut broken = whole;
        broken[200_000] ^= 1;
        assert!(!matches(0, &broken));
    }
}
