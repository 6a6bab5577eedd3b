//! The last compile's findings, for display.

use std::sync::{Arc, Mutex, PoisonError};

use config::report::Report;

/// Holds the last [`Report`]. Written by the control thread, read by the admin port, never by a worker.
#[derive(Debug, Default)]
pub struct ReportSlot(Mutex<Option<Arc<Report>>>);

impl ReportSlot {
    /// Replaces the report.
    pub fn set(&self, report: Arc<Report>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(report);
    }

    /// The last report; `None` before the first compile.
    #[must_use]
    pub fn latest(&self) -> Option<Arc<Report>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
