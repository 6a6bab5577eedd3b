//! What became of the lines.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// Counts of the access log, for the metrics. All monotone.
#[derive(Debug, Default)]
pub struct LogStats {
    written_lines: AtomicU64,
    written_bytes: AtomicU64,
    dropped_lines: AtomicU64,
    write_errors: AtomicU64,
    reopen: AtomicBool,
}

impl LogStats {
    /// Lines written to the destination.
    #[must_use]
    pub fn written_lines(&self) -> u64 {
        self.written_lines.load(Relaxed)
    }

    /// Bytes written to the destination.
    #[must_use]
    pub fn written_bytes(&self) -> u64 {
        self.written_bytes.load(Relaxed)
    }

    /// Lines lost: because the writer was behind, or because writing failed.
    #[must_use]
    pub fn dropped_lines(&self) -> u64 {
        self.dropped_lines.load(Relaxed)
    }

    /// Writes to the destination, or attempts to open it anew, that failed.
    #[must_use]
    pub fn write_errors(&self) -> u64 {
        self.write_errors.load(Relaxed)
    }

    pub(super) fn wrote(&self, lines: u64, bytes: u64) {
        self.written_lines.fetch_add(lines, Relaxed);
        self.written_bytes.fetch_add(bytes, Relaxed);
    }

    /// Shared by all workers: it is touched only when lines are being lost.
    pub(super) fn dropped(&self, lines: u64) {
        self.dropped_lines.fetch_add(lines, Relaxed);
    }

    pub(super) fn failed(&self) {
        self.write_errors.fetch_add(1, Relaxed);
    }

    pub(super) fn request_reopen(&self) {
        self.reopen.store(true, Relaxed);
    }

    pub(super) fn take_reopen(&self) -> bool {
        self.reopen.load(Relaxed) && self.reopen.swap(false, Relaxed)
    }
}
