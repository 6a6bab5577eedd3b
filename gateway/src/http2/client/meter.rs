//! Watches the frames that an endpoint sends, as bytes: whether it speaks HTTP/2 at all, whether it is going away, that
//! it sends no more heads than a stream can have, and not much that carries nothing. Sans-I/O: bytes and time are
//! arguments; never changes a byte.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use foldhash::fast::FixedState;
use thiserror::Error;

use crate::http2::frames::{ACK, DATA, Frame, Frames, GOAWAY, HEADERS, SETTINGS};

/// HEADERS frames that one stream may receive: informational heads, the final one and trailers. Heads that nobody has
/// read yet wait in memory, and flow control does not bound them (RFC 9113 §5.2 covers DATA only).
const MOST_HEADS: u8 = 20;
/// Ticks over which frames that carry nothing are counted: 10 s.
const WINDOW: u32 = 100;
/// Such frames in a window, beyond those that are earned: each costs us more than it costs the endpoint.
const MOST_EMPTY: u32 = 1_000;
/// What is earned by a stream that is opened, and by a piece of a body that is received or sent and so many bytes of it:
/// endpoints give windows back, and measure round trips by PING, as bodies flow.
const PER_STREAM: u32 = 8;
const PER_PIECE: u32 = 4;
const BYTES_PER_ONE: u32 = 1_024;

/// Why an endpoint is not listened to any more.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub(crate) enum Offence {
    /// Its first bytes are no SETTINGS frame (RFC 9113 §3.4).
    #[error("the endpoint does not speak HTTP/2: its first bytes are no SETTINGS frame")]
    NotHttp2,
    /// More HEADERS frames on one stream than any response has.
    #[error("more than {MOST_HEADS} heads on one stream")]
    TooManyHeads,
    /// More frames that carry nothing than there is a reason for.
    #[error("a flood of frames that carry nothing")]
    Flood,
}

/// What was seen on one connection.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    frames: RefCell<Frames>,
    /// Some frame has begun.
    began: Cell<bool>,
    /// stream → its HEADERS frames
    heads: RefCell<HashMap<u32, u8, FixedState>>,
    has_settings: Cell<bool>,
    goes_away: Cell<bool>,
    /// Reads that found something; wraps.
    reads: Cell<u32>,
    empty: Cell<Empty>,
}

/// Frames that carry nothing, in one window.
#[derive(Clone, Copy, Debug, Default)]
struct Empty {
    /// Tick.
    since: u32,
    seen: u32,
    earned: u32,
}

impl Meter {
    /// Looks at bytes in the order in which they arrive.
    pub(crate) fn feed(&self, mut bytes: &[u8], now: u32) -> Result<(), Offence> {
        self.reads.set(self.reads.get().wrapping_add(1));
        if now.saturating_sub(self.empty.get().since) >= WINDOW {
            self.empty.set(Empty { since: now, seen: 0, earned: 0 });
        }
        let mut frames = self.frames.borrow_mut();
        while let Some(frame) = frames.next(&mut bytes) {
            if !self.frame(frame)? && (frame.kind != DATA || frame.length == 0) {
                self.note_empty()?;
            } else if frame.kind == DATA {
                self.earn(PER_PIECE);
            }
        }
        Ok(())
    }

    fn note_empty(&self) -> Result<(), Offence> {
        let Empty { since, seen, earned } = self.empty.get();
        let seen = seen + 1;
        self.empty.set(Empty { since, seen, earned });
        if seen > MOST_EMPTY.saturating_add(earned) { Err(Offence::Flood) } else { Ok(()) }
    }

    fn earn(&self, frames: u32) {
        let empty = self.empty.get();
        self.empty.set(Empty { earned: empty.earned.saturating_add(frames), ..empty });
    }

    /// A piece of a body was sent.
    pub(super) fn sent(&self, bytes: usize) {
        self.earn(PER_PIECE + u32::try_from(bytes).unwrap_or(u32::MAX) / BYTES_PER_ONE);
    }

    /// Whether the frame is a head that somebody waits for.
    fn frame(&self, Frame { kind, flags, stream, .. }: Frame) -> Result<bool, Offence> {
        let first = !self.began.replace(true);
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
                    return Ok(true);
                }
            }
            _ => {}
        }
        Ok(false)
    }

    /// A stream was opened.
    pub(super) fn open(&self, stream: u32) {
        self.heads.borrow_mut().insert(stream, 0);
        self.earn(PER_STREAM);
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
                meter.feed(piece, 0).unwrap();
            }
            assert!(meter.has_settings() && meter.goes_away(), "pieces of {piece}");
            assert_eq!(meter.heads.borrow()[&1], 1, "pieces of {piece}");
        }
    }

    #[test]
    fn whoever_does_not_begin_with_settings_does_not_speak_http2() {
        assert_eq!(Meter::default().feed(b"HTTP/1.1 400 Bad Request\r\n", 0), Err(Offence::NotHttp2));
        assert_eq!(Meter::default().feed(&frame(SETTINGS, 1, 0, 0), 0), Err(Offence::NotHttp2));
        assert_eq!(Meter::default().feed(&frame(6, 0, 0, 8), 0), Err(Offence::NotHttp2));
        assert_eq!(Meter::default().feed(b"HTTP", 0), Ok(()));
    }

    #[test]
    fn heads_are_bounded_per_stream() {
        let meter = Meter::default();
        meter.feed(&frame(SETTINGS, 0, 0, 0), 0).unwrap();
        meter.open(1);
        meter.open(3);
        for _ in 0..MOST_HEADS {
            meter.feed(&frame(HEADERS, 4, 1, 1), 0).unwrap();
            meter.feed(&frame(HEADERS, 4, 3, 1), 0).unwrap();
            meter.feed(&frame(HEADERS, 4, 5, 1), 0).unwrap();
        }
        meter.close(3);
        assert_eq!(meter.feed(&frame(HEADERS, 4, 3, 1), 0), Ok(()));
        assert_eq!(meter.feed(&frame(HEADERS, 4, 1, 1), 0), Err(Offence::TooManyHeads));
    }

    #[test]
    fn frames_that_carry_nothing_are_bounded_by_what_is_exchanged() {
        let ping = frame(6, 0, 0, 8);
        let flood = |meter: &Meter, now: u32| (0..).take_while(|_| meter.feed(&ping, now).is_ok()).count();
        let begun = || {
            let meter = Meter::default();
            meter.feed(&frame(SETTINGS, 0, 0, 0), 0).unwrap();
            meter
        };
        assert_eq!(flood(&begun(), 0), 999);
        // A later window, in which something is exchanged.
        let meter = begun();
        (0..900).for_each(|_| meter.feed(&ping, 0).unwrap());
        meter.feed(&ping, WINDOW).unwrap();
        meter.open(1);
        meter.sent(10 * 1_024);
        meter.feed(&frame(DATA, 0, 1, 100), WINDOW).unwrap();
        assert_eq!(flood(&meter, WINDOW), 999 + 8 + 4 + 10 + 4);
    }

    #[test]
    fn what_carries_something_is_not_counted() {
        let meter = Meter::default();
        meter.feed(&frame(SETTINGS, 0, 0, 0), 0).unwrap();
        for stream in 1..5_000 {
            meter.open(stream);
            meter.feed(&frame(HEADERS, 4, stream, 10), 0).unwrap();
            meter.feed(&frame(DATA, 1, stream, 10), 0).unwrap();
            meter.feed(&frame(8, 0, 0, 4), 0).unwrap();
            meter.close(stream);
        }
    }
}
