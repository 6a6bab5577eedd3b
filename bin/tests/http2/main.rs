//! HTTP/2 clients in front of the real binary: `curl`, `h2load`, the `h2` crate for what takes care, and frames written by
//! hand for everything that no decent client sends.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "all of it is test code, where a broken assumption must fail loudly"
)]

mod abuse;
mod client;
#[path = "../common/mod.rs"]
mod common;
mod conformance;
mod exchange;
mod flow;
mod frames;
mod h2spec;
mod lifecycle;
#[allow(dead_code, reason = "shared with the tests of the HTTP/1.1 engine")]
#[path = "../engine/origin.rs"]
mod origin;
mod programs;
mod websocket;
#[allow(dead_code, reason = "shared with the tests of the HTTP/1.1 engine")]
#[path = "../engine/wire.rs"]
mod wire;
