//! WebSockets through the built binary: tungstenite's clients and servers with the gateway between them, in cleartext, over TLS
//! and over HTTP/2 (RFC 8441).

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "all of it is test code, where a broken assumption must fail loudly"
)]

#[path = "../common/mod.rs"]
mod common;
mod http2;
mod life;
mod messages;
mod setup;
