//! HTTP/2 (RFC 9113) at both ends. Below [`Stream`](crate::stream::Stream), each HTTP/2 stream is turned into a
//! message in HTTP/1.1 syntax and back, so that every version goes through the same pipeline.

pub(crate) mod body;
pub(crate) mod client;
mod frames;
pub(crate) mod guard;
pub(crate) mod head;
pub(crate) mod server;
