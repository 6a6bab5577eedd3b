//! Status and Events of a cluster's Ingresses, by the built binary against a server over TLS.

#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod addresses;
mod balancers;
mod cluster;
#[path = "../common/mod.rs"]
mod common;
mod events;
mod leadership;
mod writes;
