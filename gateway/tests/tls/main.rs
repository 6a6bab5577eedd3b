//! TLS in front, over real sockets, with tables made by hand.
#![allow(
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

#[path = "../../../bin/tests/common/certificates.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the tests of the binary")]
mod certificates;
mod clients;
mod handshakes;
mod hosts;
mod passthrough;
mod rig;
