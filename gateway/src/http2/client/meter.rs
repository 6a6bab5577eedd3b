//! Watches the frames that an endpoint sends, as bytes: whether it speaks HTTP/2 at all, whether it is going away, and
//! that it sends no more heads than a stream can have. Sans-I/O; never changes a byte.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use foldhash::fast::FixedState;
use thiserror::Error;

/// HEADERS frames that one stream may receive: informational heads, the final one and trailers. Heads that nobody has
/// read yet wait in memory, and flow control does not bound them (RFC 9113 §5.2 covers DATA only).
const MOST_HEADS: u8 = 20;
/// Length of a frame's header (RFC 9113 §4.1).
const FRAME_HEADER: usize = 9;

const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;

/// Why an endpoint is not listened to any more.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub(crate) enum Offence {
    /// Its first bytes are no SETTINGS frame (RFC 9113 §3.4).
    #[error("the endpoint does not speak HTTP/2: its first bytes are no SETTINGS frame")]
    NotHttp2,
    /// More HEADERS frames on one stream than any response has.
    #[error("more than {MOST_HEADS} heads on one stream")]
    TooManyHeads,
}

/// What was seen on one connection.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    frames: RefCell<Frames>,
    /// stream → its HEADERS frames
    heads: RefCell<HashMap<u32, u8, FixedState>>,
    has_settings: Cell<bool>,
    goes_away: Cell<bool>,
    /// Reads that found something; wraps.
    reads: Cell<u32>,
}

/// Where in a frame the connection is.
#[derive(Debug, Default)]
struct Frames {
    header: [u8; FRAME_HEADER],
    have: usize,
    /// Payload bytes that are still to come.
    payload: usize,
    /// Some frame has begun.
    began: bool,
}

impl Meter {
    /// Looks at bytes in the order in which they arrive.
    pub(crate) fn feed(&self, mut bytes: &[u8]) -> Result<(), Offence> {
        self.reads.set(self.reads.get().wrapping_add(1));
        let mut frames = self.frames.borrow_mut();
        while !bytes.is_empty() {
            let skipped = frames.payload.min(bytes.len());
            frames.payload -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            if bytes.is_empty() {
                break;
            }
            let have = frames.have;
            let taken = bytes.len().min(FRAME_HEADER - have);
            if let (Some(to), Some(from)) = (frames.header.get_mut(have..have + taken), bytes.get(..taken)) {
                to.copy_from_slice(from);
            }
            bytes = bytes.get(taken..).unwrap_or_default();
            frames.have += taken;
            if frames.have == FRAME_HEADER {
                frames.have = 0;
                let [a, b, c, kind, flags, stream @ ..] = frames.header;
                frames.payload = u32::from_be_bytes([0, a, b, c]) as usize;
                let first = !std::mem::replace(&mut frames.began, true);
                // The highest bit is reserved (RFC 9113 §4.1).
                self.frame(kind, flags, u32::from_be_bytes(stream) & 0x7fff_ffff, first)?;
            }
        }
        Ok(())
    }

    fn frame(&self, kind: u8, flags: u8, stream: u32, first: bool) -> Result<(), Offence> {
        const ACK: u8 = 1;
        if first && (kind != SETTINGS || flags & ACK != 0 || stream != 0) {
            return Err(Offence::NotHttp2);
        }
        match kind {
            SETTINGS if flags & ACK == 0 => self.has_settings.set(true),
            GOAWAY => self.goes_away.set(true),
            HEADERS => {
                // Streams that are not known here have ended for us; nothing of them is kept.
                if let Some(heads) = self.heads.borrow_mut().get_mut(&stream) {
                    *heads += 1;
                    if *heads > MOST_HEADS {
                        return Err(Offence::TooManyHeads);
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// A stream was opened.
    pub(super) fn open(&self, stream: u32) {
        self.heads.borrow_mut().insert(stream, 0);
    }

    /// Nobody waits for the stream any more.
    pub(super) fn close(&self, stream: u32) {
        self.heads.borrow_mut().remove(&stream);
    }

    /// The endpoint's settings have begun to arrive.
    pub(super) fn has_settings(&self) -> bool {
        self.has_settings.get()
    }

    /// The endpoint takes no further streams on this connection.
    pub(super) fn goes_away(&self) -> bool {
        self.goes_away.get()
    }

    /// Changes whenever something arrives.
    pub(super) fn reads(&self) -> u32 {
        self.reads.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        let mut bytes = vec![length[1], length[2], length[3], kind, flags];
        bytes.extend_from_slice(&stream.to_be_bytes());
        bytes.resize(bytes.len() + payload, b'x');
        bytes
    }

    #[test]
    fn frames_are_seen_however_they_are_cut() {
        let mut bytes = frame(SETTINGS, 0, 0, 6);
        bytes.extend(frame(HEADERS, 4, 1, 30));
        bytes.extend(frame(0, 1, 1, 70_000));
        bytes.extend(frame(GOAWAY, 0, 0, 8));
        for piece in [1, 2, 8, 9, 10, 16_384, bytes.len()] {
            let meter = Meter::default();
            meter.open(1);
            for piece in bytes.chunks(piece) {
                meter.feed(piece).unwrap();
            }
            assert!(meter.has_settings() && meter.goes_away(), "pieces of {piece}");
            assert_eq!(meter.heads.borrow()[&1], 1, "pieces of {piece}");
        }
    }

    #[test]
    fn whoever_does_not_begin_with_settings_does_not_speak_http2() {
        assert_eq!(Meter::default().feed(b"HTTP/1.1 400 Bad Request\r\n"), Err(Offence::NotHttp2));
        assert_eq!(Meter::default().feed(&frame(SETTINGS, 1, 0, 0)), Err(Offence::NotHttp2));
        assert_eq!(Meter::default().feed(&frame(6, 0, 0, 8)), Err(Offence::NotHttp2));
        assert_eq!(Meter::default().feed(b"HTTP"), Ok(()));
    }

    #[test]
    fn heads_are_bounded_per_stream() {
        let meter = Meter::default();
        meter.feed(&frame(SETTINGS, 0, 0, 0)).unwrap();
        meter.open(1);
        meter.open(3);
        for _ in 0..MOST_HEADS {
            meter.feed(&frame(HEADERS, 4, 1, 1)).unwrap();
            meter.feed(&frame(HEADERS, 4, 3, 1)).unwrap();
            meter.feed(&frame(HEADERS, 4, 5, 1)).unwrap();
        }
        meter.close(3);
        assert_eq!(meter.feed(&frame(HEADERS, 4, 3, 1)), Ok(()));
        assert_eq!(meter.feed(&frame(HEADERS, 4, 1, 1)), Err(Offence::TooManyHeads));
    }
}
