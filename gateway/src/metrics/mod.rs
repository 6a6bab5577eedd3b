//! Counters that workers write without sharing cache lines, and their Prometheus text.
//!
//! Owns the cells, the registry that a scrape reads, and the exposition format. It never decides anything
//! from a counter and never locks on the request path.

pub mod cells;
mod families;
mod process;
mod registry;
pub(crate) mod sums;
mod table;
mod text;
mod worker;

#[cfg(test)]
mod tests;

pub use families::{FAMILIES, Family, FamilyKind};
pub use registry::Registry;
pub use table::SeriesLimits;
pub use text::CONTENT_TYPE;
pub use worker::{HandshakeFailure, LimitHit, WorkerMetrics};
