//! gRPC through the built binary: tonic's servers and clients with the gateway between them, over real sockets and real TLS,
//! and gRPC-Web as a browser sends it.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "all of it is test code, where a broken assumption must fail loudly"
)]

mod calls;
#[path = "../common/mod.rs"]
mod common;
mod errors;
mod setup;
mod web;
