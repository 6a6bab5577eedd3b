//! Per-worker counter cells. Each cell has one writer (its worker), so an increment is a plain load and
//! store; a scrape reads all of them without stopping anybody.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::record::Record;
use crate::tcp::L4Record;

/// A monotone counter with a single writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning worker may call this.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// The current value, from any thread.
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Upper bounds of the latency buckets in microseconds; the last bucket is unbounded.
pub const LATENCY_BOUNDS_US: [u64; 14] = [
    250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 5_000_000,
    30_000_000,
];

/// A latency histogram with fixed bounds.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Histogram {
    /// Sum of all observations in microseconds.
    pub sum_us: Counter,
    /// Non-cumulative counts; the last one is beyond every bound.
    pub buckets: [Counter; LATENCY_BOUNDS_US.len() + 1],
}

impl Histogram {
    /// Records one observation.
    #[inline]
    pub fn observe(&self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let index =
            LATENCY_BOUNDS_US.iter().position(|bound| us <= *bound).unwrap_or(LATENCY_BOUNDS_US.len());
        if let Some(bucket) = self.buckets.get(index) {
            bucket.add(1);
        }
        self.sum_us.add(us);
    }
}

/// Counters of one route in one worker. With many routes these are in no cache when a request ends, so the order
/// puts all that a success without a request body within 5 ms counts into one cache line.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct RouteCounters {
    /// Body bytes sent to clients.
    pub response_bytes: Counter,
    /// 2xx responses.
    successes: Counter,
    /// Time from the request's head to the end of the response.
    pub duration: Histogram,
    /// Body bytes received from clients.
    pub request_bytes: Counter,
    /// 1xx (101 only), 3xx, 4xx and 5xx responses.
    others: [Counter; 4],
}

impl RouteCounters {
    /// Counts one finished request of this route. Only the owning worker may call this.
    #[inline]
    pub fn request_done(&self, record: &Record<'_>) {
        match status_class(record.status) {
            Some(1) => self.successes.add(1),
            Some(class) => {
                if let Some(other) = self.others.get(class.saturating_sub(usize::from(class > 1))) {
                    other.add(1);
                }
            }
            None => {}
        }
        self.duration.observe(record.duration);
        if record.request_bytes > 0 {
            self.request_bytes.add(record.request_bytes);
        }
        self.response_bytes.add(record.response_bytes);
    }

    /// Counts one relayed connection of this route. Only the owning worker may call this.
    pub fn l4_done(&self, record: &L4Record<'_>) {
        self.duration.observe(record.duration);
        self.request_bytes.add(record.bytes_in);
        self.response_bytes.add(record.bytes_out);
    }

    /// Responses by status class: index 0 = 1xx (101 only) … 4 = 5xx.
    pub fn responses(&self) -> [u64; 5] {
        let [informational, redirects, client, server] = self.others.each_ref().map(Counter::value);
        [informational, self.successes.value(), redirects, client, server]
    }
}

/// Routes whose counters lie next to each other.
pub const ROUTES_PER_BLOCK: usize = 64;

/// `slot → counters` of neighbouring routes in one worker.
#[derive(Debug)]
pub struct RouteBlock([RouteCounters; ROUTES_PER_BLOCK]);

impl Default for RouteBlock {
    fn default() -> Self {
        Self(std::array::from_fn(|_| RouteCounters::default()))
    }
}

impl RouteBlock {
    /// The counters at `slot`, which counts modulo the size of the block.
    #[inline]
    #[must_use]
    pub fn at(&self, slot: usize) -> Option<&RouteCounters> {
        self.0.get(slot % ROUTES_PER_BLOCK)
    }
}

/// Position of a status among the five classes: 0 = 1xx … 4 = 5xx; `None` when no response was sent.
#[inline]
#[must_use]
pub(crate) fn status_class(status: u16) -> Option<usize> {
    usize::from(status / 100).checked_sub(1).filter(|class| *class < 5)
}

/// Counters of one endpoint in one worker.
#[derive(Debug, Default)]
pub struct EndpointCounters {
    /// Requests sent (attempts, not client requests).
    pub requests: Counter,
    /// Attempts that ended in a connect error, reset, timeout or malformed response.
    pub failures: Counter,
    /// New connections opened.
    pub connects: Counter,
    /// Time from the last request byte to the response head.
    pub response_head: Histogram,
}

/// Counters of one backend in one worker.
#[derive(Debug, Default)]
pub struct BackendCounters {
    /// Further attempts after a failed one.
    pub retries: Counter,
    /// Retries that the budget forbade.
    pub retries_denied: Counter,
    /// Requests that found no endpoint.
    pub no_endpoint: Counter,
    /// Requests that waited for a free slot.
    pub queued: Counter,
    /// Requests that gave up waiting or found the queue full.
    pub queue_rejected: Counter,
}

/// Workers whose cells are found without another step through memory.
const NEAR: usize = 4;

/// One lazily made cell per worker: `worker → T`.
#[derive(Debug)]
pub struct PerWorker<T> {
    near: [OnceLock<Box<T>>; NEAR],
    far: Box<[OnceLock<Box<T>>]>,
    workers: usize,
}

impl<T: Default> PerWorker<T> {
    /// Cells for `workers` workers; nothing is allocated per cell before its first use.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        let far = (NEAR..workers).map(|_| OnceLock::new()).collect();
        Self { near: [const { OnceLock::new() }; NEAR], far, workers }
    }

    /// The cell of `worker`, made on first use; `None` for an index out of range.
    #[inline]
    pub fn of(&self, worker: usize) -> Option<&T> {
        if worker >= self.workers {
            return None;
        }
        let cell = self.near.get(worker).or_else(|| self.far.get(worker.checked_sub(NEAR)?))?;
        Some(&**cell.get_or_init(Box::default))
    }

    /// Every cell that exists.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.near.iter().chain(&self.far).filter_map(|cell| cell.get().map(|cell| &**cell))
    }
}
