//! How endpoints are spoken to: the gateway over tables made by hand, between plain HTTP/1.1 clients and real HTTP/2
//! and TLS servers over loopback sockets.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "all of it is test code, where a broken assumption must fail loudly"
)]

#[path = "../common/certificates.rs"]
#[allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]
mod certificates;
mod client;
mod hostile;
mod http2;
mod probes;
mod proxy;
mod server;
mod tls;
mod websocket;
