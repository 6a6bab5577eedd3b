//! The HTTP/1.1 engine as clients and endpoints see it: the real binary between hand-written clients and
//! endpoints over loopback sockets. Time passes only where time is what is tested.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "all of it is test code, where a broken assumption must fail loudly"
)]

mod bodies;
#[path = "../common/mod.rs"]
mod common;
mod endpoints;
mod failures;
mod framing;
mod lifecycle;
mod loops;
mod origin;
mod regressions;
mod timeouts;
mod tunnels;
mod wire;
