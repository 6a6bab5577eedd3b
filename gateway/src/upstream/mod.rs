//! Connections to endpoints: per-worker pools, and opening new ones. Nothing here knows what is sent on them.

mod http2;
mod pool;

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use config::table::BackendProtocol;
use tokio::net::TcpStream;

pub(crate) use http2::{Http2Pool, NoConnection};
pub(crate) use pool::Pool;

use crate::http2::client::Driver;
use crate::live::{EndpointState, LiveBackend};
use crate::stream::Stream;
use crate::worker::Worker;
use crate::worker::timers::{Timers, ticks};

/// Connections are shared between requests only if all of this is the same.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Key {
    /// [`EndpointState::id`].
    pub(crate) endpoint: u64,
}

/// A connection to an endpoint, or a stream of one, in exclusive use.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) stream: Stream,
    pub(crate) endpoint: Arc<EndpointState>,
    /// It carried a request before.
    pub(crate) reused: bool,
}

/// A new connection to one of `backend`'s endpoints, or a stream of a shared one. The caller bounds the time.
///
/// # Errors
/// What the kernel says: refused, unreachable, out of descriptors; `InvalidData` from an endpoint that does not speak
/// the protocol. Nothing of any request was sent.
pub(crate) async fn open(
    worker: &Worker,
    backend: &LiveBackend,
    endpoint: &Arc<EndpointState>,
) -> Result<Connection, NoConnection> {
    let policy = &backend.config.policy;
    let address = endpoint.address;
    match policy.protocol {
        BackendProtocol::Http1 => {
            let stream = connect(address).await.map_err(|error| NoConnection { error, first: true })?;
            Ok(Connection { stream, endpoint: Arc::clone(endpoint), reused: false })
        }
        BackendProtocol::Http2 => {
            let keep = if policy.keepalive_connections == 0 { 0 } else { ticks(policy.keepalive_timeout) };
            let (timers, timeout) = (&worker.timers, policy.connect_timeout);
            let connect = || begin_http2(address, timeout, Rc::clone(timers));
            worker.http2.wait(backend.connection_key(endpoint), endpoint, keep, connect).await
        }
    }
}

async fn connect(address: SocketAddr) -> io::Result<Stream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(Stream::Tcp(stream))
}

/// A connection for HTTP/2, settings exchanged. It serves many requests, so that none of them bounds its time.
async fn begin_http2(address: SocketAddr, timeout: Duration, timers: Rc<Timers>) -> io::Result<Driver> {
    let connecting = async {
        let stream = connect(address).await?;
        Driver::begin(stream, false, &timers).await
    };
    within(timeout, &timers, connecting).await
}

/// `TimedOut` unless `future` is ready in time.
async fn within<T>(
    timeout: Duration,
    timers: &Rc<Timers>,
    future: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    let mut timer = timers.timer();
    timer.arm(timeout);
    let mut future = pin!(future);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Pending if timer.poll_expired(cx) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
        polled => polled,
    })
    .await
}
