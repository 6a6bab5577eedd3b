//! The pure core of Sluicegate: objects in, [`table::RouteTable`] and [`report::Report`] out.
//!
//! This crate performs no I/O and reads neither clock nor random source: where time matters it is an
//! argument. It knows nothing of sockets, of tokio, or of any Kubernetes client.

pub mod compile;
mod endpoint_addresses;
pub mod index;
mod obscure;
pub mod report;
pub mod resource;
pub mod schema;
mod shared;
pub mod table;
