//! The admin port: liveness, readiness, metrics and a look into the table. Read-only.

mod readiness;

pub use readiness::{Phase, Readiness};
