//! Counters that workers write without sharing cache lines, and their Prometheus text.
//!
//! Owns the cells, the registry that a scrape reads, and the exposition format. It never decides anything
//! from a counter and never locks on the request path.

pub mod cells;
mod registry;
mod worker;

pub use registry::Registry;
pub use worker::{LimitHit, WorkerMetrics};
