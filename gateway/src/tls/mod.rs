//! TLS, in front and behind: connections as byte streams, and the handshake before them.
//!
//! Which certificate a name gets, and what is asked of clients, is compiled into the table; nothing here reads
//! objects. `configs` makes of it what rustls wants, once per table.

mod accept;
mod client_hello;
mod configs;
#[cfg(test)]
pub(crate) mod fixture;
#[cfg(any(fuzzing, test))]
#[allow(clippy::panic, unreachable_pub, reason = "what does not hold must be seen; fuzz targets call it")]
pub mod fuzz;
mod identity;
mod passthrough;
pub(crate) mod stream;
mod tickets;

pub(crate) use self::accept::{MOST_HANDSHAKES, accept};
pub use self::configs::ServerConfigs;
pub(crate) use self::configs::Workshop;
pub(crate) use self::identity::{Secured, Unserved};
pub(crate) use self::stream::TlsStream;
