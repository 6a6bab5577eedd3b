//! Figures of status and events for the metrics endpoint. Written by the writer of status, read by any thread.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::ledger::Figures;
use crate::source::Certainty;

/// How requests end, as values of the label `outcome`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Ending {
    /// Done.
    Done,
    /// The object had another version.
    Conflict,
    /// There is no such object.
    Gone,
    /// The server does not accept it.
    Invalid,
    /// We may not do that.
    Denied,
    /// The server has too much to do.
    Throttled,
    /// The server failed, or nothing is known.
    Failed,
    /// Not sent, because the Lease was lost.
    Aborted,
}

const ENDINGS: [(Ending, &str); 8] = [
    (Ending::Done, "done"),
    (Ending::Conflict, "conflict"),
    (Ending::Gone, "gone"),
    (Ending::Invalid, "invalid"),
    (Ending::Denied, "denied"),
    (Ending::Throttled, "throttled"),
    (Ending::Failed, "failed"),
    (Ending::Aborted, "aborted"),
];

#[derive(Debug, Default)]
struct Endings([AtomicU64; ENDINGS.len()]);

impl Endings {
    fn count(&self, ending: Ending) {
        if let Some(counter) = self.0.get(ending as usize) {
            counter.fetch_add(1, Relaxed);
        }
    }
}

/// The figures.
#[derive(Debug, Default)]
pub struct StatusMetrics {
    leads: AtomicU64,
    gained: AtomicU64,
    lost: AtomicU64,
    lease: Endings,
    writes: Endings,
    reads: AtomicU64,
    events: Endings,
    claimed: AtomicU64,
    pending: AtomicU64,
    foreign: AtomicU64,
    contended: AtomicU64,
    addresses: AtomicU64,
    certainty: AtomicU64,
}

impl StatusMetrics {
    pub(super) fn lead(&self, leads: bool) {
        if self.leads.swap(u64::from(leads), Relaxed) != u64::from(leads) {
            let counter = if leads { &self.gained } else { &self.lost };
            counter.fetch_add(1, Relaxed);
        }
    }

    pub(super) fn certainty(&self, certainty: Certainty) {
        let value = match certainty {
            Certainty::Unknown => 0,
            Certainty::ByName => 1,
            Certainty::Whole => 2,
        };
        self.certainty.fetch_max(value, Relaxed);
    }

    pub(super) fn lease(&self, ending: Ending) {
        self.lease.count(ending);
    }

    pub(super) fn written(&self, ending: Ending) {
        self.writes.count(ending);
    }

    pub(super) fn read(&self) {
        self.reads.fetch_add(1, Relaxed);
    }

    pub(super) fn event(&self, ending: Ending) {
        self.events.count(ending);
    }

    pub(super) fn objects(&self, figures: Figures, addresses: usize) {
        self.claimed.store(figures.claimed, Relaxed);
        self.pending.store(figures.pending, Relaxed);
        self.foreign.store(figures.foreign, Relaxed);
        self.contended.store(figures.contended, Relaxed);
        self.addresses.store(u64::try_from(addresses).unwrap_or(u64::MAX), Relaxed);
    }

    /// Appends all figures in the Prometheus text format.
    pub fn render_metrics(&self, out: &mut String) {
        gauge(out, "sluicegate_status_leader", "1 if this replica writes status and events.", &self.leads);
        head(
            out,
            "sluicegate_status_leader_changes_total",
            "counter",
            "Times that this replica began or ceased to write.",
        );
        line(out, "sluicegate_status_leader_changes_total{to=\"leader\"}", &self.gained);
        line(out, "sluicegate_status_leader_changes_total{to=\"follower\"}", &self.lost);
        endings(
            out,
            "sluicegate_lease_writes_total",
            "Requests that create, renew or release the Lease, by outcome.",
            &self.lease,
        );
        endings(out, "sluicegate_status_writes_total", "Writes of status, by outcome.", &self.writes);
        head(
            out,
            "sluicegate_status_reads_total",
            "counter",
            "Ingresses read again before their status is written.",
        );
        line(out, "sluicegate_status_reads_total", &self.reads);
        endings(
            out,
            "sluicegate_events_total",
            "Events written for objects of the cluster, by outcome.",
            &self.events,
        );
        gauge(out, "sluicegate_status_ingresses", "Ingresses that are ours.", &self.claimed);
        gauge(out, "sluicegate_status_pending", "Ingresses whose status is to be written.", &self.pending);
        gauge(
            out,
            "sluicegate_status_foreign",
            "Ingresses of ours whose status names addresses that are not ours.",
            &self.foreign,
        );
        gauge(
            out,
            "sluicegate_status_contended",
            "Ingresses left alone because somebody else undoes what is written.",
            &self.contended,
        );
        gauge(
            out,
            "sluicegate_status_certainty",
            "How well it is known whose Ingresses are: 0 not yet, so that nothing is written, 1 by the names of classes, 2 by IngressClasses.",
            &self.certainty,
        );
        gauge(out, "sluicegate_status_addresses", "Addresses that are published.", &self.addresses);
    }
}

fn endings(out: &mut String, name: &str, help: &str, counts: &Endings) {
    head(out, name, "counter", help);
    for ((_, label), count) in ENDINGS.iter().zip(&counts.0) {
        line(out, &format!("{name}{{outcome=\"{label}\"}}"), count);
    }
}

fn gauge(out: &mut String, name: &str, help: &str, value: &AtomicU64) {
    head(out, name, "gauge", help);
    line(out, name, value);
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn line(out: &mut String, series: &str, value: &AtomicU64) {
    let _ = writeln!(out, "{series} {}", value.load(Relaxed));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leadership_is_counted_when_it_changes() {
        let metrics = StatusMetrics::default();
        for leads in [false, true, true, false, true] {
            metrics.lead(leads);
        }
        metrics.written(Ending::Throttled);
        let mut text = String::new();
        metrics.render_metrics(&mut text);
        assert!(text.contains("sluicegate_status_leader 1\n"), "{text}");
        assert!(text.contains("sluicegate_status_leader_changes_total{to=\"leader\"} 2\n"), "{text}");
        assert!(text.contains("sluicegate_status_leader_changes_total{to=\"follower\"} 1\n"), "{text}");
        assert!(text.contains("sluicegate_status_writes_total{outcome=\"throttled\"} 1\n"), "{text}");
    }
}
