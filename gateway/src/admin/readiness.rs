//! Whether new traffic should be sent here.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

/// Where the process is in its life.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Phase {
    /// No table is served yet.
    Starting,
    /// Serving.
    Ready,
    /// Finishing what is open; new traffic should go elsewhere.
    Draining,
}

/// The process' [`Phase`], shared by whoever changes it and whoever reports it. It only moves forward.
#[derive(Debug, Default)]
pub struct Readiness(AtomicU8);

impl Readiness {
    /// The current phase.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self.0.load(Relaxed) {
            0 => Phase::Starting,
            1 => Phase::Ready,
            _ => Phase::Draining,
        }
    }

    /// Every bind of the first table is open. Has no effect while draining.
    pub fn ready(&self) {
        self.0.fetch_max(1, Relaxed);
    }

    /// Shutdown has begun.
    pub fn draining(&self) {
        self.0.fetch_max(2, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draining_process_never_becomes_ready_again() {
        let readiness = Readiness::default();
        assert_eq!(readiness.phase(), Phase::Starting);
        readiness.ready();
        assert_eq!(readiness.phase(), Phase::Ready);
        readiness.draining();
        readiness.ready();
        assert_eq!(readiness.phase(), Phase::Draining);
    }
}
