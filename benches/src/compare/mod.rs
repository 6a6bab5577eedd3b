//! Proxies side by side: the rounds, what was written down of them, and what is told of it.

use std::time::Duration;

pub mod agreement;
pub mod bootstrap;
pub mod chart;
pub mod cpu;
#[cfg(test)]
mod fixture;
pub mod load;
pub mod machine;
pub mod measure;
pub mod page;
pub mod peers;
pub mod probe;
pub mod proxy;
pub mod record;
pub mod report;
pub mod round;
pub mod run;
pub mod scenario;
pub mod stop;
pub mod summary;
mod template;
pub mod text;

/// The time for a quick comparison of everything. Its end may come a little later, but within 15 minutes.
pub const QUICK: Duration = Duration::from_mins(14);
