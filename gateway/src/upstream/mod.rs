//! Connections to endpoints: per-worker pools, and opening new ones. Nothing here knows what is sent on them.

mod http2;
mod pool;
mod tls;

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use config::table::BackendProtocol;
use tokio::net::TcpStream;

pub(crate) use http2::{Http2Pool, NoConnection};
pub(crate) use pool::Pool;
pub(crate) use tls::{TlsIdentities, TlsIdentity};

use crate::dial;
use crate::http2::client::Driver;
use crate::live::{EndpointState, LiveBackend};
use crate::metrics::WorkerMetrics;
use crate::stream::Stream;
use crate::worker::Worker;
use crate::worker::buffers::Buffers;
use crate::worker::timers::{Timers, ticks};

/// Connections are shared between requests only if all of this is the same.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Key {
    /// [`EndpointState::id`].
    pub(crate) endpoint: u64,
    /// Of the TLS settings together with the protocol; 0 in cleartext.
    pub(crate) identity: u64,
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
    let way = Way {
        worker: worker.index,
        tls: backend.tls.clone(),
        endpoint: Arc::clone(endpoint),
        buffers: Rc::clone(&worker.buffers),
        timers: Rc::clone(&worker.timers),
        metrics: Arc::clone(&worker.metrics),
    };
    match policy.protocol {
        BackendProtocol::Http1 => {
            let stream = way.connect().await.map_err(|error| NoConnection { error, first: true })?;
            Ok(Connection { stream, endpoint: Arc::clone(endpoint), reused: false })
        }
        BackendProtocol::Http2 => {
            let keep = if policy.keepalive_connections == 0 { 0 } else { ticks(policy.keepalive_timeout) };
            let timeout = policy.connect_timeout;
            let connect = || way.clone().begin_http2(timeout);
            worker.http2.wait(backend.connection_key(endpoint), endpoint, keep, connect).await
        }
    }
}

/// All that it takes to get to an endpoint.
#[derive(Clone)]
struct Way {
    worker: usize,
    tls: Option<Arc<TlsIdentity>>,
    endpoint: Arc<EndpointState>,
    buffers: Rc<Buffers>,
    timers: Rc<Timers>,
    metrics: Arc<WorkerMetrics>,
}

impl Way {
    async fn connect(&self) -> io::Result<Stream> {
        // In a box, for as long as it takes: a client that waits for nothing has no room for it.
        let tcp = Box::pin(dial::connect(self.endpoint.address)).await?;
        tcp.set_nodelay(true)?;
        let Some(identity) = &self.tls else { return Ok(Stream::Tcp(tcp)) };
        let stream =
            tls::handshake(self.worker, &self.buffers, &self.metrics, identity, &self.endpoint, tcp).await?;
        Ok(Stream::Tls(Box::new(stream)))
    }

    /// A connection for HTTP/2, settings exchanged, within `timeout`: it serves many requests, so that none of them
    /// bounds its time.
    async fn begin_http2(self, timeout: Duration) -> io::Result<Driver> {
        let connecting = async {
            let stream = self.connect().await?;
            if let Some(tcp) = stream.socket() {
                keep_alive(tcp)?;
            }
            Driver::begin(stream, self.tls.is_some(), &self.timers).await
        };
        within(timeout, &self.timers, connecting).await
    }
}

/// A host that is gone without a word is noticed by the kernel within a minute, or half of that while bytes wait for it.
fn keep_alive(tcp: &TcpStream) -> io::Result<()> {
    let settings = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(30))
        .with_interval(Duration::from_secs(10))
        .with_retries(3);
    dial::give_up_soon(tcp);
    socket2::SockRef::from(tcp).set_tcp_keepalive(&settings)
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
