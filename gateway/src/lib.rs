//! The data plane. It knows [`config::table`] only and cannot name Kubernetes.
//!
//! One `current_thread` runtime per worker, each with its own listening sockets (`SO_REUSEPORT`), buffers,
//! upstream pools and counters. Workers share one swapped value, [`live::Live`], and the atomics of endpoint
//! state that outlive a swap.

pub mod access_log;
pub mod admin;
pub mod announce;
pub mod balance;
pub mod bind;
mod dial;
mod gateway;
pub mod health;
pub mod http1;
mod http2;
pub mod live;
pub mod metrics;
mod proxy;
pub mod record;
mod stream;
pub mod tcp;
#[cfg(fuzzing)]
pub mod tls;
#[cfg(not(fuzzing))]
mod tls;
mod transparent;
pub mod udp;
mod upstream;
mod worker;

pub use self::gateway::{BindError, Gateway};
