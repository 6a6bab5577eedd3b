//! Figures of the agreement for the metrics endpoint. Written by its thread, read by any.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The figures.
#[derive(Debug, Default)]
pub struct AgreementMetrics {
    pub(super) members: AtomicU64,
    pub(super) lapses: AtomicU64,
    pub(super) writes: AtomicU64,
    pub(super) failures: AtomicU64,
}

impl AgreementMetrics {
    /// Prometheus text.
    pub fn render_metrics(&self, out: &mut String) {
        let mut family = |name: &str, kind: &str, help: &str, value: &AtomicU64| {
            let value = value.load(Relaxed);
            // Writing to a String cannot fail.
            let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n");
        };
        family(
            "sluicegate_announce_members",
            "gauge",
            "Nodes that take part in announcing, as far as this one knows.",
            &self.members,
        );
        family(
            "sluicegate_announce_lapses_total",
            "counter",
            "Times that this node stopped announcing because its Lease could not be renewed in time.",
            &self.lapses,
        );
        family(
            "sluicegate_announce_lease_writes_total",
            "counter",
            "Renewals and changes of this node's Lease that were sent.",
            &self.writes,
        );
        family(
            "sluicegate_announce_lease_failures_total",
            "counter",
            "Those that failed, or of which nothing was heard in time.",
            &self.failures,
        );
    }
}
