//! Status and events of the objects that are ours, written back to the API server. Owns what is written; never decides
//! traffic, and nothing of it is ever waited for by whoever serves.
//!
//! What decides is pure: `ledger` which status is to be written next, `journal` which Event, `lease` whether it is us
//! who write, `publish` which addresses. `writer` does what they say, over `api`; `gate` has the last word on
//! whether bytes may leave. Every replica keeps all of this up to date; only the one that holds the Lease writes.

mod api;
pub(crate) mod clock;
mod gate;
mod journal;
mod lease;
mod ledger;
mod metrics;
mod notes;
mod observed;
mod pace;
mod publish;
mod writer;

pub(crate) use self::journal::number;
pub use self::metrics::StatusMetrics;
pub use self::notes::{Inbox, News, Note, Notes};
pub use self::observed::{Address, Balancer, Condition, Entry, Observed};
pub use self::publish::{NodeAddress, Pods, Publish};
pub use self::writer::{Settings, run};
