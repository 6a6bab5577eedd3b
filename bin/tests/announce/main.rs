//! Addresses of Services as neighbours see them: the real binary in network namespaces, with a client in another one.
//! Needs root and `ip netns`; says so where it cannot be shown.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    unreachable_pub,
    reason = "all of it is test code, where a broken assumption must fail loudly"
)]

#[path = "../common/mod.rs"]
mod common;

mod alone;
mod cluster_ips;
mod dead_peers;
mod net;
mod source_address;
mod together;
