//! Status and events of the objects that are ours, written back to the API server. Owns what is written; never decides
//! traffic, and nothing of it is ever waited for by whoever serves.

#[allow(dead_code)]
mod clock;
#[allow(dead_code)]
mod journal;
#[allow(dead_code)]
mod lease;
#[allow(dead_code)]
mod ledger;
mod notes;
mod observed;
#[allow(dead_code)]
mod pace;
#[allow(dead_code)]
mod publish;

pub use self::notes::{Inbox, News, Note, Notes};
pub use self::observed::{Address, Entry, Observed};
