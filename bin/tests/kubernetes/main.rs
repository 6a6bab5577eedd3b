//! The Ingress controller against an API server, over HTTP, as a user would run it. Nothing here depends on which
//! server answers: by default it is the project's own; `SLUICEGATE_E2E_KUBECONFIG` names any other. Every test has a
//! namespace, an IngressClass and a controller name of its own, and removes them.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    unreachable_pub,
    reason = "test code: a panic is a failed test"
)]

mod classes;
mod cluster;
#[path = "../common/mod.rs"]
mod common;
mod endpoints;
mod events;
mod objects;
mod port_maps;
mod replicas;
mod routing;
mod services;
mod status;
mod tls;
