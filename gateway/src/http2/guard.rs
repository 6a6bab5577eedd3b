//! Budgets for what a client may send on an HTTP/2 connection besides requests and bodies. Reads the nine bytes before
//! each frame as they pass, and nothing else. Sans-I/O: bytes and time are arguments.
//!
//! It never judges whether a frame is valid: that is the protocol library's part. It stops what is valid and costs the
//! gateway more than the client (RFC 9113 §10.5).

use super::frames::{ACK, CONTINUATION, DATA, END_HEADERS, Frame, Frames, HEADERS, PING, SETTINGS};
use crate::metrics::LimitHit;

/// Length of the client's connection preface (RFC 9113 §3.4), of which the caller has seen nothing.
pub(crate) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Ticks over which frames are counted: 10 s.
const WINDOW: u32 = 100;
/// SETTINGS in a window; each is answered (CVE-2019-9515).
const MOST_SETTINGS: u32 = 50;
/// PINGs in a window beyond one per request and piece of a response; each is answered (CVE-2019-9512).
const MOST_PINGS: u32 = 100;
/// Frames in a window that carry nothing, beyond a few per request and piece of a response.
const MOST_OTHERS: u32 = 500;
const OTHERS_PER_MESSAGE: u32 = 4;
/// Streams in a window that the client aborts before their response has ended (CVE-2023-44487).
const MOST_CANCELLED: u32 = 100;
/// Malformed requests in a window: each makes the gateway reset a stream (CVE-2025-8671).
const MOST_MALFORMED: u32 = 100;
/// Requests in a window that are refused because those before them have too large heads: the client may send them again,
/// but each has cost a table of fields by then.
const MOST_REFUSED: u32 = 100;
/// CONTINUATION frames and bytes of one field block (CVE-2024-27316).
const MOST_CONTINUATIONS: u32 = 16;
const MOST_BLOCK_BYTES: u32 = 64 * 1_024;

/// What was counted since [`Counts::since`].
#[derive(Debug, Default)]
struct Counts {
    since: u32,
    settings: u32,
    pings: u32,
    others: u32,
    cancelled: u32,
    malformed: u32,
    refused: u32,
}

/// A field block that is not complete.
#[derive(Clone, Copy, Debug)]
struct Block {
    since: u32,
    frames: u32,
    bytes: u32,
}

/// The frame counter of one connection. A tick is a tenth of a second.
#[derive(Debug)]
pub(crate) struct Guard {
    frames: Frames,
    block: Option<Block>,
    counts: Counts,
    /// PINGs and other frames that what was received and sent accounts for; kept over windows, since a client may read
    /// slowly what was sent at once.
    due_pings: u32,
    due_others: u32,
    is_acknowledged: bool,
}

impl Guard {
    /// A counter for a connection that begins at tick `now`.
    pub(crate) fn new(now: u32) -> Self {
        Self {
            frames: Frames::after(PREFACE.len()),
            block: None,
            counts: Counts { since: now, ..Counts::default() },
            due_pings: 0,
            due_others: 0,
            is_acknowledged: false,
        }
    }

    /// Counts the frames in `bytes`, the next ones on the connection.
    ///
    /// # Errors
    /// The budget that was exceeded; the connection must end.
    pub(crate) fn read(&mut self, mut bytes: &[u8], now: u32) -> Result<(), LimitHit> {
        self.turn(now);
        while let Some(frame) = self.frames.next(&mut bytes) {
            self.frame(frame, now)?;
        }
        Ok(())
    }

    /// A piece of a response is sent: what the client sends in reply to it is no excess.
    pub(crate) fn sent(&mut self, bytes: usize) {
        self.account(u32::try_from(bytes / 4_096).unwrap_or(u32::MAX).saturating_add(1));
    }

    fn account(&mut self, pieces: u32) {
        self.due_pings = self.due_pings.saturating_add(pieces);
        self.due_others = self.due_others.saturating_add(pieces.saturating_mul(OTHERS_PER_MESSAGE));
    }

    /// The client has aborted a stream before its response had ended.
    ///
    /// # Errors
    /// If these are too many.
    pub(crate) fn cancelled(&mut self, now: u32) -> Result<(), LimitHit> {
        self.turn(now);
        spend(&mut self.counts.cancelled, MOST_CANCELLED, LimitHit::Http2Resets)
    }

    /// A malformed request arrived.
    ///
    /// # Errors
    /// If these are too many.
    pub(crate) fn malformed(&mut self, now: u32) -> Result<(), LimitHit> {
        self.turn(now);
        spend(&mut self.counts.malformed, MOST_MALFORMED, LimitHit::Http2Malformed)
    }

    /// A request was refused for want of room for its head.
    ///
    /// # Errors
    /// If these are too many.
    pub(crate) fn refused(&mut self, now: u32) -> Result<(), LimitHit> {
        self.turn(now);
        spend(&mut self.counts.refused, MOST_REFUSED, LimitHit::HeadBytes)
    }

    /// Tick at which the field block that is not complete began.
    pub(crate) fn block_since(&self) -> Option<u32> {
        self.block.map(|block| block.since)
    }

    /// Our SETTINGS were acknowledged.
    pub(crate) fn is_acknowledged(&self) -> bool {
        self.is_acknowledged
    }

    fn turn(&mut self, now: u32) {
        if now.saturating_sub(self.counts.since) >= WINDOW {
            self.counts = Counts { since: now, ..Counts::default() };
        }
    }

    fn frame(&mut self, frame: Frame, now: u32) -> Result<(), LimitHit> {
        let Frame { length, kind, flags, .. } = frame;
        let counts = &mut self.counts;
        let is_ack = flags & ACK != 0;
        match kind {
            // The library has a budget for these.
            DATA => Ok(()),
            HEADERS | CONTINUATION => {
                self.account(u32::from(kind == HEADERS));
                self.field_block(kind, flags, length, now)
            }
            SETTINGS if is_ack => {
                self.is_acknowledged = true;
                self.other()
            }
            SETTINGS => spend(&mut counts.settings, MOST_SETTINGS, LimitHit::Http2Settings),
            PING if !is_ack => {
                if take(&mut self.due_pings) {
                    return Ok(());
                }
                spend(&mut counts.pings, MOST_PINGS, LimitHit::Http2Pings)
            }
            // PRIORITY, RST_STREAM, GOAWAY, WINDOW_UPDATE, acknowledgements, and what we do not know.
            _ => self.other(),
        }
    }

    fn other(&mut self) -> Result<(), LimitHit> {
        if take(&mut self.due_others) {
            return Ok(());
        }
        spend(&mut self.counts.others, MOST_OTHERS, LimitHit::Http2Frames)
    }

    fn field_block(&mut self, kind: u8, flags: u8, length: u32, now: u32) -> Result<(), LimitHit> {
        let mut block = match self.block.take() {
            Some(block) if kind == CONTINUATION => block,
            _ => Block { since: now, frames: 0, bytes: 0 },
        };
        block.bytes = block.bytes.saturating_add(length);
        block.frames += u32::from(kind == CONTINUATION);
        if flags & END_HEADERS == 0 {
            self.block = Some(block);
        }
        if block.frames > MOST_CONTINUATIONS || block.bytes > MOST_BLOCK_BYTES {
            return Err(LimitHit::Http2FieldBlock);
        }
        Ok(())
    }
}

/// Takes one of what is due.
fn take(due: &mut u32) -> bool {
    let left = due.checked_sub(1);
    *due = left.unwrap_or(0);
    left.is_some()
}

fn spend(spent: &mut u32, most: u32, limit: LimitHit) -> Result<(), LimitHit> {
    *spent = spent.saturating_add(1);
    if *spent > most { Err(limit) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, length: u32) -> Vec<u8> {
        let mut out = length.to_be_bytes().get(1..).unwrap().to_vec();
        out.extend([kind, flags, 0, 0, 0, 1]);
        out.resize(9 + length as usize, 0xff);
        out
    }

    fn after_preface() -> Guard {
        let mut guard = Guard::new(0);
        guard.read(PREFACE, 0).unwrap();
        guard
    }

    /// How many of `frame` pass before one is too many.
    fn passing(guard: &mut Guard, frame: &[u8]) -> (usize, LimitHit) {
        for count in 0..100_000 {
            if let Err(limit) = guard.read(frame, 0) {
                return (count, limit);
            }
        }
        panic!("no limit");
    }

    #[test]
    fn each_kind_of_frame_has_its_budget() {
        let cases = [
            (frame(SETTINGS, 0, 6), (50, LimitHit::Http2Settings)),
            (frame(PING, 0, 8), (100, LimitHit::Http2Pings)),
            (frame(PING, ACK, 8), (500, LimitHit::Http2Frames)),
            (frame(2, 0, 5), (500, LimitHit::Http2Frames)),
            (frame(8, 0, 4), (500, LimitHit::Http2Frames)),
            (frame(0xfa, 0, 100), (500, LimitHit::Http2Frames)),
            (frame(CONTINUATION, 0, 1), (16, LimitHit::Http2FieldBlock)),
            (frame(CONTINUATION, 0, 16_384), (4, LimitHit::Http2FieldBlock)),
        ];
        for (bytes, want) in cases {
            assert_eq!(passing(&mut after_preface(), &bytes), want);
        }
    }

    #[test]
    fn a_budget_is_new_after_ten_seconds() {
        let mut guard = after_preface();
        let ping = frame(PING, 0, 8);
        for tick in 0..1_000 {
            guard.read(&ping, tick).unwrap();
        }
        assert_eq!(
            passing(&mut Guard { counts: Counts { since: 1_000, ..Counts::default() }, ..guard }, &ping).0,
            100
        );
    }

    #[test]
    fn replies_to_what_was_sent_are_no_excess() {
        for (bytes, want) in [(frame(PING, 0, 8), 1_101), (frame(8, 0, 4), 500 + 4 * 1_001)] {
            let mut guard = after_preface();
            guard.sent(1_000 * 4_096);
            guard.read(b"", 1_000).unwrap();
            assert_eq!(passing(&mut guard, &bytes).0, want);
        }
    }

    #[test]
    fn a_complete_block_is_forgotten() {
        let mut guard = after_preface();
        for _ in 0..100 {
            guard.read(&frame(HEADERS, 0, 100), 3).unwrap();
            assert_eq!(guard.block_since(), Some(3));
            guard.read(&frame(CONTINUATION, END_HEADERS, 100), 5).unwrap();
            assert_eq!(guard.block_since(), None);
        }
    }

    proptest! {
        #[test]
        fn the_outcome_does_not_depend_on_how_bytes_arrive(
            frames in prop::collection::vec((0u8..12, any::<u8>(), 0u32..40), 0..60),
            pieces in prop::collection::vec(1usize..50, 1..20),
        ) {
            let mut bytes = PREFACE.to_vec();
            for (kind, flags, length) in frames {
                bytes.extend(frame(kind, flags, length));
            }
            let mut whole = Guard::new(0);
            let want = whole.read(&bytes, 0);
            let mut cut = Guard::new(0);
            let mut got = Ok(());
            let mut rest = &bytes[..];
            for size in pieces.iter().cycle() {
                if rest.is_empty() || got.is_err() {
                    break;
                }
                let (now, later) = rest.split_at((*size).min(rest.len()));
                got = cut.read(now, 0);
                rest = later;
            }
            prop_assert_eq!(want, got);
            prop_assert_eq!(whole.frames, cut.frames);
        }
    }
}
