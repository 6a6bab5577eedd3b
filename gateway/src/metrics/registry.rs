//! The registry: every worker's counters, from which a scrape is rendered.

use std::sync::Arc;

use super::worker::WorkerMetrics;

/// All counters of the data plane that are not part of the table's runtime state: `worker → metrics`.
#[derive(Debug)]
pub struct Registry {
    workers: Box<[Arc<WorkerMetrics>]>,
}

impl Registry {
    /// A registry for `workers` workers.
    #[must_use]
    pub fn new(workers: usize) -> Arc<Self> {
        Arc::new(Self { workers: (0..workers).map(|_| Arc::default()).collect() })
    }

    /// Client connections that are open now, over all workers.
    #[must_use]
    pub fn open_connections(&self) -> u64 {
        let open = |metrics: &Arc<WorkerMetrics>| {
            // Closed first: a connection that comes and goes in between must not count below zero.
            let closed = metrics.connections_closed.value();
            metrics.connections_accepted.value().saturating_sub(closed)
        };
        self.workers.iter().map(open).sum()
    }

    /// The cells of `worker`, which must be their only writer; `None` for an index out of range.
    #[must_use]
    pub fn worker(&self, worker: usize) -> Option<&Arc<WorkerMetrics>> {
        self.workers.get(worker)
    }
}
