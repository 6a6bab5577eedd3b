//! What a load prints of its measurement, the same for every kind of load.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// One measured load.
#[derive(Debug)]
pub struct Measured<'a> {
    /// Requests that were measured.
    pub requests: u64,
    /// How long they took altogether.
    pub elapsed: Duration,
    /// Latencies in microseconds.
    pub latency: &'a Histogram<u64>,
    /// CPU time of the proxy in nanoseconds, if it was watched.
    pub cpu: Option<u64>,
    /// Memory of the proxy before and after, in bytes, if it was asked for.
    pub memory: Option<(u64, u64)>,
    /// Connections that the memory is for.
    pub connections: usize,
}

impl Measured<'_> {
    /// Adds the figures to `report`, which is an object.
    pub fn add_to(&self, report: &mut Value) {
        let requests = self.requests as f64;
        let figures = json!({
            "seconds": self.elapsed.as_secs_f64(),
            "per_second": requests / self.elapsed.as_secs_f64(),
            "latency_us": {
                "p50": self.latency.value_at_quantile(0.5),
                "p99": self.latency.value_at_quantile(0.99),
                "max": self.latency.max(),
            },
            "cpu_us_per_request": self.cpu.map(|nanos| nanos as f64 / 1_000.0 / requests),
            "cpu_share": self.cpu.map(|nanos| nanos as f64 / self.elapsed.as_nanos() as f64),
            "memory": self.memory.map(|(before, after)| json!({
                "before": before,
                "after": after,
                "per_connection": (after as f64 - before as f64) / self.connections as f64,
            })),
        });
        if let (Some(report), Value::Object(figures)) = (report.as_object_mut(), figures) {
            report.extend(figures);
        }
    }
}

/// Milliseconds from `from` to `to`; negative if it was before.
#[must_use]
pub fn millis(to: Instant, from: Instant) -> f64 {
    match to.checked_duration_since(from) {
        Some(time) => time.as_secs_f64() * 1e3,
        None => -from.duration_since(to).as_secs_f64() * 1e3,
    }
}

/// Mean and quantiles of `values`, which are sorted by it.
#[must_use]
pub fn quantiles(values: &mut [f64]) -> Value {
    values.sort_unstable_by(f64::total_cmp);
    let at =
        |share: f64| values.get((values.len() as f64 * share) as usize).or_else(|| values.last()).copied();
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    json!({"mean": mean, "p50": at(0.5), "p99": at(0.99), "max": values.last()})
}
