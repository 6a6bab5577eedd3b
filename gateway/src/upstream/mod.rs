//! Connections to endpoints: per-worker pools, and opening new ones. Nothing here knows HTTP.

mod pool;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;

pub(crate) use pool::Pool;

use crate::live::EndpointState;
use crate::stream::Stream;

/// A connection to an endpoint, in exclusive use.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) stream: Stream,
    pub(crate) endpoint: Arc<EndpointState>,
    /// It carried a request before.
    pub(crate) reused: bool,
}

/// Opens a connection. The caller bounds the time.
///
/// # Errors
/// What the kernel says; refused, unreachable, out of descriptors.
pub(crate) async fn connect(address: SocketAddr) -> io::Result<Stream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(Stream::Tcp(stream))
}
