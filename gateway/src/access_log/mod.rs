//! The access log: one line per finished request, which no worker ever waits for.
//!
//! A worker formats lines into its own 64 KiB buffer and hands full buffers to one writer thread; the thread
//! hands them back empty, so that nothing is allocated per request. When the writer cannot keep up (a full
//! pipe, a slow disk) lines are dropped and counted, and requests go on. This module formats and writes; it
//! never decides which requests are logged, and never blocks a worker.

mod clock;
mod escape;
mod line;
mod stats;
mod worker;
mod writer;

#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

pub use stats::LogStats;
pub use worker::WorkerLog;

use writer::{Message, Sink, Writer};

/// Size of one buffer of lines. A buffer is handed over when the next line might not fit, and at each tick.
const BUFFER_BYTES: usize = 64 * 1024;

/// Buffers per worker: what may be in the writer's queue before lines are dropped is one less.
const BUFFERS_PER_WORKER: usize = 16;

/// How a request becomes a line.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Format {
    /// No access log.
    #[default]
    Off,
    /// One JSON object per line.
    Json,
    /// The NCSA combined format that Apache and nginx write.
    Combined,
}

/// A name that is no [`Format`].
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("expected off, json or combined")]
pub struct UnknownFormat;

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "off" => Ok(Self::Off),
            "json" => Ok(Self::Json),
            "combined" => Ok(Self::Combined),
            _ => Err(UnknownFormat),
        }
    }
}

/// Where lines go.
#[derive(Debug)]
pub enum Destination {
    /// Standard output.
    Stdout,
    /// A file, created if absent and appended to; [`AccessLog::reopen`] opens it anew.
    File(PathBuf),
    /// An open descriptor, for a pipe or socket that somebody else made.
    Fd(OwnedFd),
}

/// The access log of the process: owns the writer thread.
#[derive(Debug)]
pub struct AccessLog {
    format: Format,
    stats: Arc<LogStats>,
    /// `None` when the format is [`Format::Off`]: there is no thread then.
    writer: Option<WriterThread>,
}

#[derive(Debug)]
struct WriterThread {
    queue: SyncSender<Message>,
    /// Disconnects when the thread ends.
    ended: Receiver<()>,
}

impl AccessLog {
    /// Opens `destination` and starts the writer thread; with [`Format::Off`] neither happens.
    ///
    /// # Errors
    /// The file cannot be opened, standard output cannot be duplicated, or no thread can be started.
    pub fn start(format: Format, destination: Destination, workers: usize) -> io::Result<Self> {
        let stats = Arc::<LogStats>::default();
        if format == Format::Off {
            return Ok(Self { format, stats, writer: None });
        }
        let sink = Sink::open(destination)?;
        // Every buffer that exists fits, so a hand-over never finds the queue full; the rest is for `reopen`.
        let (queue, inbox) = sync_channel(workers.max(1) * BUFFERS_PER_WORKER + 1);
        let (alive, ended) = sync_channel(0);
        let writer = Writer::new(sink, inbox, Arc::clone(&stats));
        std::thread::Builder::new().name("access-log".to_owned()).spawn(move || {
            writer.run();
            drop(alive);
        })?;
        Ok(Self { format, stats, writer: Some(WriterThread { queue, ended }) })
    }

    /// The log of one worker. Each worker takes one, at its start.
    #[must_use]
    pub fn worker(&self, _worker: usize) -> WorkerLog {
        let queue = self.writer.as_ref().map(|writer| writer.queue.clone());
        WorkerLog::new(self.format, queue, Arc::clone(&self.stats))
    }

    /// What was written and dropped so far.
    #[must_use]
    pub fn stats(&self) -> &Arc<LogStats> {
        &self.stats
    }

    /// Opens the file anew, after it was renamed by a log rotation. What is queued already goes to either
    /// file; no line is lost or split. When the file cannot be opened, the old one stays in use and a warning
    /// is logged. Nothing to do for other destinations.
    pub fn reopen(&self) {
        self.stats.request_reopen();
        if let Some(writer) = &self.writer {
            // Only a wake-up: a full queue means that the writer is awake.
            let _ = writer.queue.try_send(Message::Wake);
        }
    }

    /// Ends the log after every [`WorkerLog`] was dropped: waits until all they handed over is written, at
    /// most `timeout`. Returns whether it all was.
    pub fn close(self, timeout: Duration) -> bool {
        let Some(WriterThread { queue, ended }) = self.writer else { return true };
        drop(queue);
        !matches!(ended.recv_timeout(timeout), Err(RecvTimeoutError::Timeout))
    }
}
