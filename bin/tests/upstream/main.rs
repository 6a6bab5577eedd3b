//! How endpoints are spoken to: the gateway over tables made by hand, between plain HTTP/1.1 clients and real HTTP/2
//! and TLS servers over loopback sockets.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "all of it is test code, where a broken assumption must fail loudly"
)]

mod annotations;
mod both;
mod client;
mod client_faults;
#[path = "../common/mod.rs"]
mod common;
#[allow(dead_code, reason = "shared with the tests of HTTP/2 in front")]
#[path = "../http2/client.rs"]
mod front;
mod hostile;
mod http2;
mod probes;
mod proxy;
mod resets;
mod server;
mod tls;
mod websocket;

use common::certificates;
