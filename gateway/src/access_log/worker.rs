//! A worker's end of the log: the buffer it formats into, and the buffers on their way.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::SystemTime;

use super::clock::Clock;
use super::stats::LogStats;
use super::writer::{Chunk, Message};
use super::{BUFFER_BYTES, BUFFERS_PER_WORKER, Format, line};
use crate::record::Record;
use crate::tcp::L4Record;

/// The access log of one worker. Dropping it hands over what is left.
#[derive(Debug)]
pub struct WorkerLog {
    format: Format,
    clock: Clock,
    stats: Arc<LogStats>,
    /// Lines not handed over yet. Never grows beyond [`BUFFER_BYTES`].
    buffer: Vec<u8>,
    lines: u32,
    /// `None` with [`Format::Off`].
    pipe: Option<Pipe>,
}

#[derive(Debug)]
struct Pipe {
    queue: SyncSender<Message>,
    home: SyncSender<Vec<u8>>,
    /// Empty buffers, back from the writer.
    spares: Receiver<Vec<u8>>,
    /// Buffers made so far, the current one included; at most [`BUFFERS_PER_WORKER`].
    made: usize,
}

impl WorkerLog {
    pub(super) fn new(format: Format, queue: Option<SyncSender<Message>>, stats: Arc<LogStats>) -> Self {
        let pipe = queue.map(|queue| {
            let (home, spares) = sync_channel(BUFFERS_PER_WORKER);
            Pipe { queue, home, spares, made: 1 }
        });
        let buffer = Vec::with_capacity(if pipe.is_some() { BUFFER_BYTES } else { 0 });
        Self { format, clock: Clock::default(), stats, buffer, lines: 0, pipe }
    }

    /// Whether lines are written at all.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.pipe.is_some()
    }

    /// Adds one line; never blocks. `wall` is the time of the request's end. When the writer is behind, the
    /// line is dropped and counted.
    #[inline]
    pub fn write(&mut self, record: &Record<'_>, wall: SystemTime) {
        if !self.has_room(|| line::bound(record)) {
            return;
        }
        match self.format {
            Format::Off => return,
            Format::Json => line::json(&mut self.buffer, &mut self.clock, record, wall),
            Format::Combined => line::combined(&mut self.buffer, &mut self.clock, record, wall),
        }
        self.lines += 1;
    }

    /// As [`Self::write`], for a connection that was relayed as it was.
    pub fn write_l4(&mut self, record: &L4Record<'_>, wall: SystemTime) {
        if !self.has_room(|| line::bound_l4(record)) {
            return;
        }
        match self.format {
            Format::Off => return,
            Format::Json => line::json_l4(&mut self.buffer, &mut self.clock, record, wall),
            Format::Combined => line::combined_l4(&mut self.buffer, &mut self.clock, record, wall),
        }
        self.lines += 1;
    }

    /// Whether a line of this length can be written; if not, it is counted as dropped.
    #[inline]
    fn has_room(&mut self, length: impl FnOnce() -> usize) -> bool {
        if self.pipe.is_none() {
            return false;
        }
        if self.buffer.len() + length() > BUFFER_BYTES && !self.hand_over() {
            self.stats.dropped(1);
            return false;
        }
        true
    }

    /// Hands over what is there, so that a line is not older than the worker's tick when it is written. When
    /// the writer is behind, the lines stay until the next call. Never blocks.
    #[inline]
    pub fn flush(&mut self) {
        if !self.buffer.is_empty() {
            self.hand_over();
        }
    }

    /// True if the buffer is empty now.
    fn hand_over(&mut self) -> bool {
        let Some(pipe) = &mut self.pipe else { return false };
        let spare = match pipe.spares.try_recv() {
            Ok(spare) => spare,
            Err(_) if pipe.made < BUFFERS_PER_WORKER => {
                pipe.made += 1;
                Vec::with_capacity(BUFFER_BYTES)
            }
            Err(_) => return false,
        };
        let bytes = std::mem::replace(&mut self.buffer, spare);
        let chunk = Chunk { bytes, lines: std::mem::take(&mut self.lines), home: pipe.home.clone() };
        match pipe.queue.try_send(Message::Chunk(chunk)) {
            Ok(()) => {}
            // More workers than were announced, or no writer any more: these lines are lost, not the worker.
            Err(TrySendError::Full(message) | TrySendError::Disconnected(message)) => {
                if let Message::Chunk(mut chunk) = message {
                    self.stats.dropped(u64::from(chunk.lines));
                    chunk.bytes.clear();
                    self.buffer = chunk.bytes;
                    pipe.made -= 1;
                }
            }
        }
        true
    }
}

impl Drop for WorkerLog {
    fn drop(&mut self) {
        self.flush();
        self.stats.dropped(u64::from(self.lines));
    }
}
