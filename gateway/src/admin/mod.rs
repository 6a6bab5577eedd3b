//! The admin port: liveness, readiness, metrics and a look into the table. Read-only.
//!
//! It serves people and probes, never traffic, and runs off the workers' threads. Nobody who reaches it can
//! change anything or learn a private key, and no client can hold it for others: connections are few and
//! short-lived, the oldest one yields to a new one, and large answers are made a few at a time.

mod debug_table;
mod pages;
mod query;
mod readiness;
mod report;
mod server;
mod service_checks;

#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use readiness::{Phase, Readiness};
pub use report::ReportSlot;
pub use server::serve;
pub use service_checks::serve_service_checks;

use crate::live::Shared;
use crate::metrics::Registry;

/// What the admin port shows. Everything in it is shared with whoever changes it.
pub struct AdminState {
    /// The table that is served.
    pub shared: Arc<Shared>,
    /// The gateway's metrics.
    pub registry: Arc<Registry>,
    /// Whether new traffic should come here.
    pub readiness: Arc<Readiness>,
    /// Appends further families to `/metrics`, in the same text format and under names of their own.
    pub extra_metrics: Box<dyn Fn(&mut String) + Send + Sync>,
    /// What there is to say about readiness besides its phase, a line each; none if all is well.
    pub remarks: Box<dyn Fn() -> Vec<String> + Send + Sync>,
    /// What the last compile said.
    pub report: Arc<ReportSlot>,
}
