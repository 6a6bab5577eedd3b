//! Finds the frames in the bytes of an HTTP/2 connection as they pass. Sans-I/O; reads the nine bytes before each frame
//! and never judges one.

/// Length of a frame's header (RFC 9113 §4.1).
const HEADER: usize = 9;

/// Types of frames (RFC 9113 §6).
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const CONTINUATION: u8 = 9;
/// Flag of SETTINGS and PING.
pub(crate) const ACK: u8 = 0x1;
/// Flag of HEADERS and CONTINUATION.
pub(crate) const END_HEADERS: u8 = 0x4;

/// The header of a frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Frame {
    /// Bytes of the payload.
    pub(crate) length: u32,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
}

/// Where in a connection's frames its bytes are.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct Frames {
    header: [u8; HEADER],
    /// Bytes of `header` that have arrived.
    filled: usize,
    /// Bytes until the next header.
    skip: usize,
}

impl Frames {
    /// Frames that begin after `skip` bytes.
    pub(crate) fn after(skip: usize) -> Self {
        Self { skip, ..Self::default() }
    }

    /// The next header that is complete; takes what it looks at from the front of `bytes`, which are empty when there is
    /// none.
    pub(crate) fn next(&mut self, bytes: &mut &[u8]) -> Option<Frame> {
        let (skipped, rest) = bytes.split_at(bytes.len().min(self.skip));
        self.skip -= skipped.len();
        let space = self.header.get_mut(self.filled..).unwrap_or_default();
        let (read, rest) = rest.split_at(rest.len().min(space.len()));
        space.iter_mut().zip(read).for_each(|(to, from)| *to = *from);
        self.filled += read.len();
        *bytes = rest;
        if self.filled < HEADER {
            return None;
        }
        self.filled = 0;
        let [a, b, c, kind, flags, stream @ ..] = self.header;
        let length = u32::from_be_bytes([0, a, b, c]);
        self.skip = usize::try_from(length).unwrap_or(usize::MAX);
        // The highest bit is reserved (RFC 9113 §4.1).
        Some(Frame { length, kind, flags, stream: u32::from_be_bytes(stream) & 0x7fff_ffff })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found_however_they_are_cut() {
        let bytes =
            [&b"ahead"[..], &[0, 0, 2, DATA, 1, 0x80, 0, 0, 3], b"ab", &[0, 0, 0, PING, 0, 0, 0, 0, 0]]
                .concat();
        let expected = [
            Frame { length: 2, kind: DATA, flags: 1, stream: 3 },
            Frame { length: 0, kind: PING, flags: 0, stream: 0 },
        ];
        for size in 1..=bytes.len() {
            let mut frames = Frames::after(5);
            let mut found = Vec::new();
            for mut piece in bytes.chunks(size) {
                while let Some(frame) = frames.next(&mut piece) {
                    found.push(frame);
                }
                assert!(piece.is_empty());
            }
            assert_eq!(found, expected, "in pieces of {size}");
        }
    }
}
