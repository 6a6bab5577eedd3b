//! HTTP/1.1 on the wire: strict parsing and canonical writing (sans-I/O), and the driver of a client
//! connection.

pub(crate) mod answer;
mod attempt;
pub mod authority;
pub(crate) mod chunked;
pub(crate) mod connection;
pub(crate) mod exchange;
pub(crate) mod fields;
#[cfg(fuzzing)]
pub mod fuzz;
pub(crate) mod head;
pub mod measure;
pub(crate) mod plan;
pub(crate) mod response;
mod scan;
pub mod target;
pub(crate) mod tunnel;
pub(crate) mod write;
