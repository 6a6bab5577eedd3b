//! TLS, in front and behind: connections as byte streams, and the handshake before them.
//!
//! Which certificate a name gets is compiled into the table; nothing here reads objects.

#[cfg(test)]
pub(crate) mod fixture;
pub(crate) mod stream;

pub(crate) use self::stream::TlsStream;
