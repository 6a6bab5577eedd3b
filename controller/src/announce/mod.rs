//! Which node announces which address. Owns that decision, and what nodes tell each other for it; never touches an
//! interface.
//!
//! `agreement` decides (pure, tested by simulation); `leases` speaks with the API server; `labels` asks it for
//! those of this node, and `events` tells Services whose addresses others have; `wanted` says which addresses there are.

mod agreement;
mod events;
mod labels;
mod leases;
mod metrics;
mod wanted;

pub use self::labels::follow_labels;
pub use self::leases::{Announce, ForeignClaim, LeaseSettings, Left, run};
pub use self::metrics::AgreementMetrics;
pub use self::wanted::{Board, Wanted};
