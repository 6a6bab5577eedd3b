//! What an API server answers. Every test but those of faults runs against any server: the one of this crate, or the one
//! that `TEST_APISERVER_KUBECONFIG` names.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a panic is a failed test"
)]

mod common;
mod faults;
mod objects;
