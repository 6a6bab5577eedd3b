//! Figures of announcing, for the metrics endpoint. Written by the announcer, read by any thread.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The figures.
#[derive(Debug, Default)]
pub struct AnnounceStats {
    pub(super) held: AtomicU64,
    pub(super) taken: AtomicU64,
    pub(super) withdrawn: AtomicU64,
    pub(super) conflicts: AtomicU64,
    pub(super) defences: AtomicU64,
    pub(super) errors: AtomicU64,
}

impl AnnounceStats {
    /// Prometheus text.
    pub fn render_metrics(&self, out: &mut String) {
        let mut family = |name: &str, kind: &str, help: &str, value: &AtomicU64| {
            // Writing to a String cannot fail.
            let _ =
                write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {}\n", value.load(Relaxed));
        };
        family("sluicegate_announce_addresses", "gauge", "Addresses that this node announces.", &self.held);
        family("sluicegate_announce_taken_total", "counter", "Addresses taken.", &self.taken);
        family("sluicegate_announce_withdrawn_total", "counter", "Addresses given up.", &self.withdrawn);
        family(
            "sluicegate_announce_conflicts_total",
            "counter",
            "Claims of others heard for addresses of ours.",
            &self.conflicts,
        );
        family(
            "sluicegate_announce_defences_total",
            "counter",
            "Announcements in answer to such claims.",
            &self.defences,
        );
        family(
            "sluicegate_announce_errors_total",
            "counter",
            "Changes of addresses and frames that the kernel refused.",
            &self.errors,
        );
    }
}
