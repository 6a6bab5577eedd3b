//! Addresses that this host announces on its links. Owns that they are the host's, for as long as the kernel is told and
//! no longer, that neighbours hear of it, and what neighbours claim. Never decides which addresses those are.
//!
//! An address is put on its interface with a lifetime that ends by itself: whoever hangs, is stopped or is cut off does not
//! renew it, and the kernel, which answers ARP and NDP for it, answers no more. `arp`, `ndp`, `filter`, `links`, `alone`
//! and the messages of `netlink` are pure; [`Station`] does what they say.

mod alone;
pub mod arp;
mod ear;
mod filter;
mod frame;
mod links;
mod local_routes;
pub mod ndp;
mod netlink;
mod station;
mod stats;

pub use self::alone::{Alone, AloneStep};
pub use self::frame::{Claim, Mac};
pub use self::links::Pattern;
pub use self::local_routes::LocalRoutes;
pub use self::station::{Heard, Hold, Station};
pub use self::stats::AnnounceStats;
