//! The writer thread: takes full buffers, writes them, gives them back.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::Duration;

use super::Destination;
use super::stats::LogStats;

/// What the writer is told.
#[derive(Debug)]
pub(super) enum Message {
    /// Whole lines to write.
    Chunk(Chunk),
    /// Nothing but to look whether the file is to be opened anew.
    Wake,
}

/// A buffer with whole lines.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) bytes: Vec<u8>,
    pub(super) lines: u32,
    /// Where the empty buffer goes back to.
    pub(super) home: SyncSender<Vec<u8>>,
}

/// An open destination.
#[derive(Debug)]
pub(super) struct Sink {
    file: File,
    /// Set if the destination can be opened anew.
    path: Option<PathBuf>,
}

impl Sink {
    pub(super) fn open(destination: Destination) -> io::Result<Self> {
        match destination {
            Destination::Stdout => {
                // Our own descriptor: no line buffering and no lock shared with anybody who prints.
                let fd = io::stdout().as_fd().try_clone_to_owned()?;
                Ok(Self { file: File::from(fd), path: None })
            }
            Destination::File(path) => Ok(Self { file: open_file(&path)?, path: Some(path) }),
            Destination::Fd(fd) => Ok(Self { file: File::from(fd), path: None }),
        }
    }
}

fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

/// The state of the writer thread.
#[derive(Debug)]
pub(super) struct Writer {
    sink: Sink,
    inbox: Receiver<Message>,
    stats: Arc<LogStats>,
    /// The last write stopped within a line.
    torn: bool,
    /// The last write failed; said once, not per buffer.
    failing: bool,
}

impl Writer {
    pub(super) const fn new(sink: Sink, inbox: Receiver<Message>, stats: Arc<LogStats>) -> Self {
        Self { sink, inbox, stats, torn: false, failing: false }
    }

    /// Writes until every sender is gone.
    pub(super) fn run(mut self) {
        while let Ok(message) = self.inbox.recv() {
            if self.stats.take_reopen() {
                self.reopen();
            }
            if let Message::Chunk(mut chunk) = message {
                self.write(&chunk);
                chunk.bytes.clear();
                // The worker may be gone; then so is its buffer.
                let _ = chunk.home.try_send(chunk.bytes);
            }
        }
    }

    fn reopen(&mut self) {
        let Some(path) = &self.sink.path else { return };
        match open_file(path) {
            Ok(file) => {
                self.sink.file = file;
                self.torn = false;
            }
            Err(error) => {
                self.stats.failed();
                tracing::warn!(file = %path.display(), %error, "access log cannot be opened anew, going on with the old file");
            }
        }
    }

    fn write(&mut self, chunk: &Chunk) {
        let torn = if self.torn { self.write_all(b"\n").1 } else { Ok(()) };
        let (written, result) = match torn {
            Ok(()) => {
                self.torn = false;
                self.write_all(&chunk.bytes)
            }
            Err(error) => (0, Err(error)),
        };
        let done = chunk.bytes.get(..written).unwrap_or_default();
        let lines = match result {
            Ok(()) => u64::from(chunk.lines),
            Err(_) => u64::try_from(memchr::memchr_iter(b'\n', done).count()).unwrap_or_default(),
        };
        self.stats.wrote(lines, u64::try_from(written).unwrap_or_default());
        match result {
            Ok(()) if self.failing => {
                self.failing = false;
                tracing::info!("access log is written again");
            }
            Ok(()) => {}
            Err(error) => {
                self.torn |= done.last().is_some_and(|byte| *byte != b'\n');
                self.stats.dropped(u64::from(chunk.lines).saturating_sub(lines));
                self.stats.failed();
                if !self.failing {
                    self.failing = true;
                    tracing::warn!(%error, "access log cannot be written, lines are lost");
                }
            }
        }
    }

    /// Like `Write::write_all`, but says how much was written before an error, and waits where the descriptor
    /// is non-blocking (a terminal or pipe that another process made so).
    fn write_all(&mut self, bytes: &[u8]) -> (usize, io::Result<()>) {
        let mut written = 0;
        while let Some(rest) = bytes.get(written..)
            && !rest.is_empty()
        {
            match self.sink.file.write(rest) {
                Ok(0) => return (written, Err(ErrorKind::WriteZero.into())),
                Ok(count) => written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(FULL_PIPE_PAUSE),
                Err(error) => return (written, Err(error)),
            }
        }
        (written, Ok(()))
    }
}

/// How long the writer (never a worker) waits before it tries a full non-blocking descriptor again.
const FULL_PIPE_PAUSE: Duration = Duration::from_millis(5);
