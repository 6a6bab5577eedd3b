//! The source of a cluster's objects against an API server, over HTTP and TLS, and through its faults.

#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod claims;
mod common;
mod disk;
mod faults;
mod histories;
mod lists;
mod material;
mod objects;
mod rights;
