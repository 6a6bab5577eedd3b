//! HTTP/1.1 on the wire: strict parsing and canonical writing. Nothing here does I/O or knows a route.

pub mod authority;
pub mod target;
