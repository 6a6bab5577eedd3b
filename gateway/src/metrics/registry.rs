//! The registry: every worker's counters, from which a scrape is rendered.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

use super::cells::Counter;
use super::families::{self as f, Family};
use super::process;
use super::table::{SeriesLimits, TableSeries};
use super::text::{Text, label};
use super::worker::{HANDSHAKES, HandshakeFailure, LimitHit, WorkerMetrics};
use crate::access_log::LogStats;
use crate::live::Live;
use crate::record::Reason;
use crate::tcp::L4End;
use crate::udp::Dropped;

/// All counters of the data plane that are not part of the table's runtime state, and what must be remembered
/// between two scrapes.
#[derive(Debug)]
pub struct Registry {
    /// worker → metrics
    workers: Box<[Arc<WorkerMetrics>]>,
    access_log: OnceLock<Arc<LogStats>>,
    /// Taken by a scrape only, never by a worker.
    table: Mutex<TableSeries>,
    started: SystemTime,
    /// Addresses of the table that could not be opened.
    pub(crate) binds_failed: AtomicU64,
}

impl Registry {
    /// A registry for `workers` workers with the default [`SeriesLimits`]. Made once, when the process
    /// starts.
    #[must_use]
    pub fn new(workers: usize) -> Arc<Self> {
        Self::with_limits(workers, SeriesLimits::default())
    }

    /// A registry for `workers` workers.
    #[must_use]
    pub fn with_limits(workers: usize, limits: SeriesLimits) -> Arc<Self> {
        Arc::new(Self {
            workers: (0..workers).map(|_| Arc::default()).collect(),
            access_log: OnceLock::new(),
            table: Mutex::new(TableSeries::new(limits)),
            started: SystemTime::now(),
            binds_failed: AtomicU64::new(0),
        })
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

    /// Adds the access log's counts to every scrape. Only the first call has an effect.
    pub fn watch_access_log(&self, stats: Arc<LogStats>) {
        let _ = self.access_log.set(stats);
    }

    /// Appends all families in the text exposition format 0.0.4. `live` adds those of the table that is
    /// served. Takes time in proportion to the table; not for a worker's thread.
    pub fn render(&self, live: Option<&Live>, out: &mut String) {
        let mut text = Text::new(out);
        text.family(&f::BUILD_INFO);
        text.sample(&f::BUILD_INFO, &label("version", env!("CARGO_PKG_VERSION")), 1);
        text.single(&f::WORKERS, self.workers.len());
        self.render_downstream(&mut text);
        self.render_upstream(&mut text);
        if let Some(stats) = self.access_log.get() {
            text.single(&f::ACCESS_LOG_LINES, stats.written_lines());
            text.single(&f::ACCESS_LOG_BYTES, stats.written_bytes());
            text.single(&f::ACCESS_LOG_DROPPED, stats.dropped_lines());
            text.single(&f::ACCESS_LOG_ERRORS, stats.write_errors());
        }
        if let Some(live) = live {
            text.single(&f::BINDS_FAILED, self.binds_failed.load(Relaxed));
            // A panic in an earlier scrape left at worst an old choice of series behind.
            self.table.lock().unwrap_or_else(PoisonError::into_inner).render(live, &mut text);
        }
        process::render(&mut text, self.started);
    }

    fn render_downstream(&self, text: &mut Text<'_>) {
        self.per_worker(text, &f::CONNECTIONS_OPEN, |worker| {
            // Read first what can only lag behind, so that the difference is never negative.
            let closed = worker.connections_closed.value();
            worker.connections_accepted.value().saturating_sub(closed)
        });
        self.per_worker(text, &f::CONNECTIONS_ACCEPTED, |worker| worker.connections_accepted.value());
        self.sum(text, &f::CONNECTIONS_REJECTED, |worker| &worker.connections_rejected);
        self.sum(text, &f::PROXY_PROTOCOL_ERRORS, |worker| &worker.proxy_protocol_errors);
        self.sums(text, &f::REQUESTS, "reason", Reason::ALL.map(Reason::code), |worker| &worker.requests);
        self.sums(text, &f::RESPONSES, "class", STATUS_CLASSES, |worker| &worker.responses);
        self.sum(text, &f::REQUEST_BYTES, |worker| &worker.request_bytes);
        self.sum(text, &f::RESPONSE_BYTES, |worker| &worker.response_bytes);
        self.sum(text, &f::SPLICED_BYTES, |worker| &worker.spliced_bytes);
        self.sum(text, &f::KEEPALIVE_REQUESTS, |worker| &worker.keepalive_requests);
        self.sums(text, &f::LIMIT_HITS, "limit", LimitHit::ALL.map(LimitHit::name), |worker| {
            &worker.limit_hits
        });
        let open = self.workers.iter().map(|worker| {
            let closed = worker.tunnels_closed.value();
            worker.tunnels_opened.value().saturating_sub(closed)
        });
        text.single(&f::TUNNELS_OPEN, open.sum::<u64>());
        self.sum(text, &f::TUNNELS_OPENED, |worker| &worker.tunnels_opened);
        let open = self.workers.iter().map(|worker| {
            let closed = worker.l4_closed.value();
            worker.l4_opened.value().saturating_sub(closed)
        });
        text.single(&f::TCP_OPEN, open.sum::<u64>());
        self.sums(text, &f::TCP_ENDED, "reason", L4End::ALL.map(L4End::code), |worker| &worker.l4_ended);
        text.family(&f::TCP_BYTES);
        let sum = |cell: fn(&WorkerMetrics) -> &Counter| {
            self.workers.iter().map(|worker| cell(worker).value()).sum::<u64>()
        };
        text.sample(&f::TCP_BYTES, &label("direction", "in"), sum(|worker| &worker.l4_bytes_in));
        text.sample(&f::TCP_BYTES, &label("direction", "out"), sum(|worker| &worker.l4_bytes_out));
        self.render_udp(text);
        text.family(&f::TLS_HANDSHAKES);
        for (index, (version, kind)) in HANDSHAKES.into_iter().enumerate() {
            let of = |worker: &Arc<WorkerMetrics>| worker.tls_handshakes.get(index).map_or(0, Counter::value);
            let labels = format!("{},{}", label("version", version), label("kind", kind));
            text.sample(&f::TLS_HANDSHAKES, &labels, self.workers.iter().map(of).sum::<u64>());
        }
        let causes = HandshakeFailure::ALL.map(HandshakeFailure::name);
        self.sums(text, &f::TLS_HANDSHAKE_FAILURES, "cause", causes, |worker| &worker.tls_handshake_failures);
    }

    fn render_udp(&self, text: &mut Text<'_>) {
        let sum = |cell: fn(&WorkerMetrics) -> &Counter| {
            self.workers.iter().map(|worker| cell(worker).value()).sum::<u64>()
        };
        let open = self.workers.iter().map(|worker| {
            let ended: u64 = worker.udp_ended.iter().map(Counter::value).sum();
            worker.udp_opened.value().saturating_sub(ended)
        });
        text.single(&f::UDP_OPEN, open.sum::<u64>());
        self.sum(text, &f::UDP_OPENED, |worker| &worker.udp_opened);
        self.sums(text, &f::UDP_ENDED, "reason", L4End::ALL.map(L4End::code), |worker| &worker.udp_ended);
        text.family(&f::UDP_DATAGRAMS);
        text.sample(&f::UDP_DATAGRAMS, &label("direction", "in"), sum(|worker| &worker.udp_datagrams_in));
        text.sample(&f::UDP_DATAGRAMS, &label("direction", "out"), sum(|worker| &worker.udp_datagrams_out));
        text.family(&f::UDP_BYTES);
        text.sample(&f::UDP_BYTES, &label("direction", "in"), sum(|worker| &worker.udp_bytes_in));
        text.sample(&f::UDP_BYTES, &label("direction", "out"), sum(|worker| &worker.udp_bytes_out));
        self.sums(text, &f::UDP_DROPPED, "reason", Dropped::ALL.map(Dropped::code), |worker| {
            &worker.udp_dropped
        });
    }

    fn render_upstream(&self, text: &mut Text<'_>) {
        self.sum(text, &f::UPSTREAM_CONNECTS, |worker| &worker.upstream_connects);
        self.sum(text, &f::UPSTREAM_CONNECT_FAILURES, |worker| &worker.upstream_connect_failures);
        self.sum(text, &f::UPSTREAM_TLS_HANDSHAKES, |worker| &worker.upstream_tls_handshakes);
        self.sum(text, &f::UPSTREAM_TLS_RESUMPTIONS, |worker| &worker.upstream_tls_resumptions);
        self.sum(text, &f::UPSTREAM_TLS_FAILURES, |worker| &worker.upstream_tls_failures);
        self.sum(text, &f::UPSTREAM_REUSES, |worker| &worker.upstream_reuses);
        self.sum(text, &f::UPSTREAM_EVICTIONS, |worker| &worker.upstream_evictions);
        self.sum(text, &f::RETRIES, |worker| &worker.retries);
        self.sum(text, &f::SWAPS, |worker| &worker.swaps_seen);
        self.sum(text, &f::PANICS, |worker| &worker.panics);
    }

    fn per_worker(&self, text: &mut Text<'_>, family: &Family, value: impl Fn(&WorkerMetrics) -> u64) {
        text.family(family);
        for (index, worker) in self.workers.iter().enumerate() {
            text.sample(family, &format!("worker=\"{index}\""), value(worker));
        }
    }

    fn sum(&self, text: &mut Text<'_>, family: &Family, cell: impl Fn(&WorkerMetrics) -> &Counter) {
        text.single(family, self.workers.iter().map(|worker| cell(worker).value()).sum::<u64>());
    }

    /// One series per value of a closed set, those at zero included: a series that appears with its first
    /// error hides that error from a rate.
    fn sums<const N: usize>(
        &self,
        text: &mut Text<'_>,
        family: &Family,
        name: &str,
        values: [&str; N],
        cells: impl Fn(&WorkerMetrics) -> &[Counter; N],
    ) {
        text.family(family);
        for (index, value) in values.into_iter().enumerate() {
            let of = |worker: &Arc<WorkerMetrics>| cells(worker).get(index).map_or(0, Counter::value);
            text.sample(family, &label(name, value), self.workers.iter().map(of).sum::<u64>());
        }
    }
}

/// Label values of the status classes, in the order of the cells.
pub(super) const STATUS_CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
