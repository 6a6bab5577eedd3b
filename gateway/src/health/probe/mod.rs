//! Active probes: TCP connects, `GET`s and gRPC health checks sent by the gateway on its own account, on a thread that
//! serves no traffic, in the protocol and under the identity in which requests are sent. This module does the I/O and keeps the schedule; [`machine`](super::machine) judges the results.
//!
//! There is one task per probed endpoint, however many Backends use it. Its first probe comes at a random
//! moment within one interval, and each interval is jittered by ±10 %, so that neither the endpoints of one
//! gateway nor the gateways of one endpoint beat in time. Until its first probes have failed, a new endpoint
//! counts as healthy: a gateway that starts serves at once.

mod http2;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use config::table::{ActiveProbe, BackendProtocol, Chunks, ProbeKind};
use rustix::io::Errno;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsConnector;
use tracing::{debug, info, warn};

use super::machine::Transition;
use crate::live::{EndpointState, LiveBackend, Shared};
use crate::upstream::TlsIdentity;

/// Response bytes that a probe reads at most.
const MOST_READ: usize = 4_096;
/// Shortest interval, whatever the policy says.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);

const USER_AGENT: &str = concat!("sluicegate-probe/", env!("CARGO_PKG_VERSION"));

/// Why a probe failed.
#[derive(Debug, Error)]
enum ProbeError {
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("connect: {0}")]
    Connect(std::io::Error),
    #[error("exchange: {0}")]
    Exchange(std::io::Error),
    #[error("closed before a whole response head")]
    Closed,
    #[error("no response head within {MOST_READ} bytes")]
    TooLong,
    #[error("malformed response head: {0}")]
    Malformed(httparse::Error),
    #[error("status {0}")]
    Status(u16),
    #[error("HTTP/2: {0}")]
    Http2(h2::Error),
    #[error("grpc-status {0}")]
    Grpc(String),
    #[error("it does not implement grpc.health.v1.Health (UNIMPLEMENTED)")]
    NoHealthService,
    #[error("its health service does not know the service that is asked for (NOT_FOUND)")]
    UnknownService,
    #[error("its health service says that it is not SERVING (status {0})")]
    NotServing(u64),
    #[error("malformed gRPC message")]
    BadMessage,
    #[error("path or host of the probe is not printable ASCII")]
    Request,
}

/// Probes every endpoint whose health policy asks for it, in whatever table is current. Never ends; dropping the
/// future stops all probes. Run it on a tokio runtime with I/O and time that is not a worker's.
pub async fn run_probes(shared: Arc<Shared>) {
    let mut published = shared.subscribe();
    let mut probed = Probed::default();
    loop {
        published.borrow_and_update();
        let backends = shared.load().backends.clone();
        probed.follow(backends);
        tokio::select! {
            changed = published.changed() => if changed.is_err() { return },
            // Reaps tasks whose endpoint was retired; they are aborted, so there is no result to look at.
            Some(_) = probed.tasks.join_next(), if !probed.tasks.is_empty() => {}
        }
    }
}

/// The tasks that are running.
#[derive(Default)]
struct Probed {
    backends: Chunks<LiveBackend>,
    /// endpoint id → its task.
    endpoints: HashMap<u64, Running, foldhash::fast::RandomState>,
    tasks: JoinSet<()>,
}

/// The probes of one endpoint.
struct Running {
    task: AbortHandle,
    /// Backends that use the endpoint.
    users: usize,
    way: Way,
}

/// In which protocol, and as whom. Of several Backends that use an endpoint in different ways, the one that changed last
/// decides.
#[derive(Clone, Debug)]
struct Way {
    protocol: BackendProtocol,
    tls: Option<Arc<TlsIdentity>>,
}

impl Way {
    fn is(&self, other: &Self) -> bool {
        let id = |way: &Self| way.tls.as_ref().map(|tls| tls.id());
        self.protocol == other.protocol && id(self) == id(other)
    }
}

impl Probed {
    /// Starts and stops tasks for what changed since the last call.
    fn follow(&mut self, backends: Chunks<LiveBackend>) {
        let mut gone: Vec<Arc<LiveBackend>> = Vec::new();
        backends.changes(&self.backends, |_, before, after| {
            gone.extend(before.cloned());
            let Some((after, probe)) =
                after.and_then(|backend| Some((backend, backend.config.policy.health.active.as_ref()?)))
            else {
                return;
            };
            let way = Way { protocol: after.config.policy.protocol, tls: after.tls.clone() };
            for endpoint in &after.endpoints {
                let tasks = &mut self.tasks;
                let mut start = || {
                    let name = Arc::clone(&after.config.name);
                    tasks.spawn(probe_forever(name, Arc::clone(endpoint), probe.clone(), way.clone()))
                };
                let running = self.endpoints.entry(endpoint.id).or_insert_with(|| Running {
                    task: start(),
                    users: 0,
                    way: way.clone(),
                });
                if !running.way.is(&way) {
                    running.task.abort();
                    (running.task, running.way) = (start(), way.clone());
                }
                running.users += 1;
            }
        });
        for backend in gone.iter().filter(|backend| backend.config.policy.health.active.is_some()) {
            for endpoint in &backend.endpoints {
                if let Some(running) = self.endpoints.get_mut(&endpoint.id) {
                    running.users -= 1;
                    if running.users == 0 {
                        running.task.abort();
                        self.endpoints.remove(&endpoint.id);
                    }
                }
            }
        }
        self.backends = backends;
    }
}

async fn probe_forever(backend: Arc<str>, endpoint: Arc<EndpointState>, probe: ActiveProbe, way: Way) {
    let interval = probe.interval.max(SHORTEST_INTERVAL);
    let mut next = tokio::time::Instant::now() + interval.mul_f64(fastrand::f64());
    loop {
        tokio::time::sleep_until(next).await;
        let began = tokio::time::Instant::now();
        match probe_once(&endpoint, &probe, &way).await {
            Err(ProbeError::Connect(error)) if is_our_own(&error) => {
                debug!(%error, endpoint.addr = %endpoint.address, "probe not sent: out of local resources");
            }
            result => note(&backend, &endpoint, &result),
        }
        next = began + interval.mul_f64(0.9 + 0.2 * fastrand::f64());
    }
}

/// True if the error says something about this machine and nothing about the endpoint.
fn is_our_own(error: &std::io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::ADDRNOTAVAIL))
}

/// Hands the result to the state machine and says what it changed.
fn note(backend: &str, endpoint: &EndpointState, result: &Result<(), ProbeError>) {
    let transition = endpoint.probed(result.is_ok(), Instant::now());
    match (transition, result) {
        (Some(Transition::ProbesFailed), Err(error)) => warn!(
            backend,
            endpoint.addr = %endpoint.address,
            %error,
            "endpoint failed its probes: it gets no requests until they succeed"
        ),
        (Some(Transition::Recovered), _) if endpoint.is_healthy() => {
            info!(backend, endpoint.addr = %endpoint.address, "endpoint is back: its probes succeed");
        }
        _ => {}
    }
}

/// One probe, within its deadline.
async fn probe_once(endpoint: &EndpointState, probe: &ActiveProbe, way: &Way) -> Result<(), ProbeError> {
    let address =
        |port: &Option<u16>| SocketAddr::new(endpoint.address.ip(), port.unwrap_or(endpoint.address.port()));
    let exchange = async {
        match &probe.kind {
            ProbeKind::Tcp => connect(endpoint.address).await.map(drop),
            ProbeKind::Http { path, host, expected, port } => {
                let address = address(port);
                let host = host.as_ref().map_or_else(|| address.to_string(), ToString::to_string);
                let status = status_of(endpoint, address, way, path, &host).await?;
                let accepted = expected.iter().any(|(low, high)| (*low..=*high).contains(&status));
                if accepted { Ok(()) } else { Err(ProbeError::Status(status)) }
            }
            ProbeKind::Grpc { service, port } => {
                let address = address(port);
                let tcp = connect(address).await?;
                let host = address.to_string();
                match &way.tls {
                    None => http2::check_grpc(tcp, format!("http://{host}"), service).await,
                    Some(tls) => {
                        let stream = encrypt(tcp, endpoint, tls, BackendProtocol::Http2).await?;
                        http2::check_grpc(stream, format!("https://{host}"), service).await
                    }
                }
            }
        }
    };
    match tokio::time::timeout(probe.timeout, exchange).await {
        Ok(result) => result,
        Err(_) => Err(ProbeError::Timeout(probe.timeout)),
    }
}

async fn connect(address: SocketAddr) -> Result<TcpStream, ProbeError> {
    TcpStream::connect(address).await.map_err(ProbeError::Connect)
}

/// The handshake that requests have as well; `protocol` may be another one than theirs.
async fn encrypt(
    tcp: TcpStream,
    endpoint: &EndpointState,
    tls: &TlsIdentity,
    protocol: BackendProtocol,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, ProbeError> {
    let config = tls.probe_config(protocol).map_err(ProbeError::Connect)?;
    let name = tls.name_of(endpoint).map_err(ProbeError::Connect)?;
    let stream = TlsConnector::from(config).connect(name, tcp).await.map_err(ProbeError::Connect)?;
    TlsIdentity::check(protocol, stream.get_ref().1.alpn_protocol()).map_err(ProbeError::Connect)?;
    Ok(stream)
}

/// Status of a `GET` in the protocol of requests.
async fn status_of(
    endpoint: &EndpointState,
    address: SocketAddr,
    way: &Way,
    path: &str,
    host: &str,
) -> Result<u16, ProbeError> {
    let request = request(path, host)?;
    let tcp = connect(address).await?;
    match (&way.tls, way.protocol) {
        (None, BackendProtocol::Http1) => http1_status(tcp, &request).await,
        (None, BackendProtocol::Http2) => http2::status_of(tcp, format!("http://{host}{path}")).await,
        (Some(tls), BackendProtocol::Http1) => {
            http1_status(encrypt(tcp, endpoint, tls, way.protocol).await?, &request).await
        }
        (Some(tls), BackendProtocol::Http2) => {
            let stream = encrypt(tcp, endpoint, tls, way.protocol).await?;
            http2::status_of(stream, format!("https://{host}{path}")).await
        }
    }
}

/// The request's bytes. The last guard against a path that would end the request line.
fn request(path: &str, host: &str) -> Result<Vec<u8>, ProbeError> {
    let clean = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    if !path.starts_with('/') || !clean(path) || !clean(host) {
        return Err(ProbeError::Request);
    }
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {USER_AGENT}\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    Ok(request.into_bytes())
}

/// Sends `request` and reads up to the status of the final response head.
async fn http1_status(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    request: &[u8],
) -> Result<u16, ProbeError> {
    stream.write_all(request).await.map_err(ProbeError::Exchange)?;
    stream.flush().await.map_err(ProbeError::Exchange)?;
    let mut buffer = Vec::with_capacity(1_024);
    loop {
        while let Some((status, length)) = head(&buffer)? {
            if status >= 200 {
                return Ok(status);
            }
            buffer.drain(..length);
        }
        if buffer.len() >= MOST_READ {
            return Err(ProbeError::TooLong);
        }
        let rest = (MOST_READ - buffer.len()) as u64;
        if (&mut stream).take(rest).read_buf(&mut buffer).await.map_err(ProbeError::Exchange)? == 0 {
            return Err(ProbeError::Closed);
        }
    }
}

/// Status and length of a whole response head, if there is one.
fn head(buffer: &[u8]) -> Result<Option<(u16, usize)>, ProbeError> {
    let mut headers = [httparse::EMPTY_HEADER; 128];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(buffer).map_err(ProbeError::Malformed)? {
        httparse::Status::Complete(length) => Ok(response.code.map(|status| (status, length))),
        httparse::Status::Partial => Ok(None),
    }
}

#[cfg(test)]
mod tests;
