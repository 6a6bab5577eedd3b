//! One relayed connection, from its accept to its end.

use std::future::{Future as _, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use config::table::{L4Bind, L4Key, OnRemoved, ProxyProtocolIn, ProxyProtocolOut, SourceAddress, Transport};
use socket2::Type;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;

use super::outcome::{L4End, L4Record};
use super::{Counted, Listening, denied, reset_on_close, too_many};
use crate::balance::consistent_hash::key_hash;
use crate::bind::proxy_protocol::{self, Parsed};
use crate::dial;
use crate::http1::plan::IpText;
use crate::live::{InFlight, Live, LiveBackend, Outcome, PickError, PickRequest, RouteState};
use crate::metrics::LimitHit;
use crate::proxy::route;
use crate::proxy::tunnel::{Cut, Ends, Terms, Tunnel};
use crate::record::Reason;
use crate::stream::Stream;
use crate::transparent;
use crate::worker::buffers::Buf;
use crate::worker::timers::Timer;
use crate::worker::{Current, Worker};

/// Longest time for a PROXY header to arrive.
const HEADER_TIMEOUT: Duration = Duration::from_secs(3);
/// Endpoints that may be tried for one connection.
const MOST_TRIES: usize = 16;

/// One relayed connection. Whatever ends it but both sides, a panic or the end of the process included, both sides see
/// a reset.
pub(super) struct Connection {
    worker: Rc<Worker>,
    /// The table that it is decided by; given up once it is.
    current: Option<Rc<Current>>,
    bind: Arc<L4Bind>,
    route: Option<Arc<RouteState>>,
    backend: Option<Arc<LiveBackend>>,
    client: Stream,
    endpoint: Option<Stream>,
    timer: Timer,
    /// The client, as far as is known.
    source: SocketAddr,
    /// Where it connected to, if a PROXY header has said so.
    destination: Option<SocketAddr>,
    tried: Option<SocketAddr>,
    attempts: u8,
    tunnel: Option<Tunnel>,
    end: L4End,
    started: Instant,
    counted: Counted,
}

impl Connection {
    pub(super) fn new(
        worker: &Rc<Worker>,
        (current, bind): (Rc<Current>, Arc<L4Bind>),
        client: TcpStream,
        source: SocketAddr,
        counted: Counted,
    ) -> Self {
        Self {
            worker: Rc::clone(worker),
            route: current.live.routes.at(bind.route.0).cloned(),
            current: Some(current),
            bind,
            backend: None,
            client: Stream::Tcp(client),
            endpoint: None,
            timer: worker.timers.timer(),
            source,
            destination: None,
            tried: None,
            attempts: 0,
            tunnel: None,
            end: L4End::Shutdown,
            started: Instant::now(),
            counted,
        }
    }

    /// Sees it through.
    pub(super) async fn serve(mut self) {
        self.end = match self.run().await {
            Ok(()) => L4End::Closed,
            Err(end) => end,
        };
    }

    async fn run(&mut self) -> Result<(), L4End> {
        let mut request = self.worker.buffers.resting();
        if let ProxyProtocolIn::Required { .. } = self.bind.policy.proxy_protocol_in {
            self.read_header(&mut request).await?;
            if let Some(why) = denied(&self.bind, self.source) {
                return Err(why);
            }
            let claimed = self.counted.claim(self.source.ip(), self.bind.policy.max_connections);
            claimed.map_err(|full| too_many(&self.worker, full))?;
        }
        let in_flight = self.connect().await?;
        let policy = Arc::clone(&self.bind.policy);
        let terms = Terms {
            idle: policy.idle_timeout,
            lifetime: policy.lifetime,
            has_new_endpoint: true,
            after_removal: match policy.on_removed {
                OnRemoved::Finish => None,
                OnRemoved::EndAfter(time) => Some((Arc::clone(in_flight.endpoint()), time)),
            },
        };
        let mut header = self.worker.buffers.head();
        self.write_header(&mut header);
        let tunnel = self.tunnel.insert(Tunnel::new((header, self.worker.buffers.head()), 0));
        let mut answer = self.worker.buffers.resting();
        let Some(endpoint) = &mut self.endpoint else { return Err(L4End::ConnectFailed) };
        self.worker.metrics.l4_opened.add(1);
        let mut ends =
            Ends { client: &mut self.client, request: &mut request, endpoint, answer: &mut answer };
        let result = tunnel.relay(&self.worker, &mut ends, &mut self.timer, terms).await;
        result.map_err(|cut| match cut {
            Cut::Client => L4End::ClientReset,
            Cut::Endpoint | Cut::Unread => L4End::EndpointReset,
            Cut::Idle => L4End::IdleTimeout,
            Cut::Lifetime => L4End::Lifetime,
            Cut::Removed => L4End::EndpointRemoved,
        })
    }

    /// Reads the PROXY header that the Bind requires; what follows it stays in `buf`.
    async fn read_header(&mut self, buf: &mut Buf) -> Result<(), L4End> {
        self.timer.arm(HEADER_TIMEOUT);
        let (client, timer) = (&mut self.client, &self.timer);
        *buf = self.worker.buffers.small();
        loop {
            let read = poll_fn(|cx| {
                let mut space = ReadBuf::new(buf.spare());
                match client.poll_read(cx, &mut space) {
                    Poll::Ready(Ok(())) => Poll::Ready(space.filled().len()),
                    Poll::Ready(Err(_)) => Poll::Ready(0),
                    Poll::Pending if timer.poll_expired(cx) => Poll::Ready(0),
                    Poll::Pending => Poll::Pending,
                }
            })
            .await;
            buf.filled(read);
            match proxy_protocol::parse(buf.unread()) {
                Ok(Parsed::Incomplete) if read > 0 && !buf.spare().is_empty() => {}
                Ok(Parsed::Done { consumed, source, destination }) => {
                    buf.consume(consumed);
                    self.source = source.unwrap_or(self.source);
                    self.destination = destination;
                    return Ok(());
                }
                Ok(Parsed::Incomplete) | Err(_) => {
                    self.worker.metrics.proxy_protocol_errors.add(1);
                    return Err(L4End::BadProxyHeader);
                }
            }
        }
    }

    /// Writes what is sent before the client's bytes.
    fn write_header(&self, out: &mut Vec<u8>) {
        let write = match self.bind.policy.proxy_protocol_out {
            ProxyProtocolOut::None => return,
            ProxyProtocolOut::V1 => proxy_protocol::write_v1,
            ProxyProtocolOut::V2 => proxy_protocol::write_v2,
        };
        let local = || self.client.socket().and_then(|socket| socket.local_addr().ok());
        let destination = self.destination.or_else(local).unwrap_or(self.bind.key.address);
        write(out, self.source, destination);
    }

    /// Connects to an endpoint; tries others while none comes about, since nothing was sent.
    async fn connect(&mut self) -> Result<InFlight, L4End> {
        let backend = self.choose_backend()?;
        let policy = Arc::clone(&self.bind.policy);
        let timeout = policy.connect_timeout.unwrap_or(backend.config.policy.connect_timeout);
        let hash = match backend.needs_hash() {
            Some(_) => key_hash(IpText::new(self.source.ip()).as_bytes()),
            None => 0,
        };
        // As whom they are spoken to decides which endpoints can be.
        let ipv4 = self.speaks_as().map(|client| client.is_ipv4());
        let mut failed = [0; MOST_TRIES];
        let mut end = L4End::ConnectFailed;
        for attempt in 0..usize::from(policy.tries).clamp(1, MOST_TRIES) {
            let exclude = failed.get(..attempt).unwrap_or_default();
            let cap = policy.max_connections_per_endpoint;
            let (now, worker) = (Instant::now(), self.worker.index);
            let request = PickRequest { hash, exclude, now, worker, cap, is_sticky: true, ipv4 };
            let picked = match backend.pick_for(self.source.ip(), policy.affinity, &request) {
                Err(PickError::AtCapacity) => {
                    Box::pin(backend.wait_for(self.source.ip(), policy.affinity, &request)).await
                }
                other => other,
            };
            let in_flight = picked.map_err(|error| match error {
                PickError::NoEndpoint => L4End::NoEndpoint,
                PickError::OtherFamily => L4End::OtherFamily,
                PickError::AtCapacity => L4End::EndpointsFull,
            })?;
            if attempt > 0 {
                self.worker.metrics.retries.add(1);
                if let Some(counters) = backend.state.counters.of(self.worker.index) {
                    counters.retries.add(1);
                }
            }
            match self.open(&backend, &in_flight, timeout).await {
                Ok(()) => return Ok(in_flight),
                Err(why) => end = why,
            }
            if let Some(slot) = failed.get_mut(attempt) {
                *slot = in_flight.endpoint().id;
            }
        }
        Err(end)
    }

    /// The address that endpoints see, if it is not to be our own.
    fn speaks_as(&self) -> Option<IpAddr> {
        match self.bind.policy.source_address {
            SourceAddress::Gateway => None,
            SourceAddress::Client => Some(self.source.ip()),
        }
    }

    /// The backend that this connection falls to. The table is given up: a connection may outlive many.
    fn choose_backend(&mut self) -> Result<Arc<LiveBackend>, L4End> {
        let Some(current) = self.current.take() else { return Err(L4End::NoRoute) };
        let random = self.worker.random.borrow_mut().u64(..);
        let chosen = match &self.bind.target {
            Ok(split) => route::backend(&current.live, split, random).cloned(),
            Err(why) => Err(route::unavailable(*why)),
        };
        let backend = chosen.map_err(|reason| match reason {
            Reason::InvalidSetting => L4End::InvalidSetting,
            Reason::BackendNotFound => L4End::BackendNotFound,
            _ => L4End::NoEndpoint,
        })?;
        self.backend = Some(Arc::clone(&backend));
        Ok(backend)
    }

    /// One attempt. Without an error, the endpoint is connected.
    async fn open(
        &mut self,
        backend: &LiveBackend,
        in_flight: &InFlight,
        timeout: Duration,
    ) -> Result<(), L4End> {
        let endpoint = in_flight.endpoint();
        self.tried = Some(endpoint.address);
        self.attempts = self.attempts.saturating_add(1);
        let counters = endpoint.counters.of(self.worker.index);
        if let Some(counters) = counters {
            counters.requests.add(1);
        }
        if self.worker.occupied().has(Transport::Tcp, endpoint.address) {
            if let Some(counters) = counters {
                counters.failures.add(1);
            }
            backend.report(endpoint, Outcome::ConnectFailed, Instant::now());
            return Err(L4End::Loop);
        }
        let client = self.speaks_as();
        match connect(&mut self.timer, client, endpoint.address, timeout).await {
            Ok(tcp) => {
                self.worker.metrics.upstream_connects.add(1);
                if let Some(counters) = counters {
                    counters.connects.add(1);
                }
                backend.report(endpoint, Outcome::Success, Instant::now());
                self.endpoint = Some(Stream::Tcp(tcp));
                Ok(())
            }
            Err(error) => {
                self.worker.metrics.upstream_connect_failures.add(1);
                if let Some(counters) = counters {
                    counters.failures.add(1);
                }
                match error.raw_os_error() {
                    // Our own want of descriptors (EMFILE, ENFILE) or ports (EADDRNOTAVAIL) says nothing about the
                    // endpoint.
                    Some(24 | 23) => self.worker.shed(),
                    Some(99) => self.worker.metrics.limit_hit(LimitHit::LocalPorts),
                    _ => backend.report(endpoint, Outcome::ConnectFailed, Instant::now()),
                }
                Err(L4End::ConnectFailed)
            }
        }
    }
}

/// Connects to `address`, as `client` if there is one.
async fn connect(
    timer: &mut Timer,
    client: Option<IpAddr>,
    address: SocketAddr,
    timeout: Duration,
) -> io::Result<TcpStream> {
    timer.arm(timeout);
    let mut connecting = Box::pin(async {
        match client {
            None => dial::connect(address).await,
            Some(client) => {
                let socket = transparent::socket(Type::STREAM, client, address)?;
                dial::connect_from(socket, address).await
            }
        }
    });
    poll_fn(|cx| match connecting.as_mut().poll(cx) {
        Poll::Pending if timer.poll_expired(cx) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
        other => other,
    })
    .await
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.end != L4End::Closed {
            self.client.reset_on_close();
            self.endpoint.iter_mut().for_each(Stream::reset_on_close);
        }
        let metrics = &self.worker.metrics;
        metrics.connections_closed.add(1);
        if self.tunnel.is_some() {
            metrics.l4_closed.add(1);
        }
        if std::thread::panicking() {
            metrics.panics.add(1);
            tracing::error!(client.addr = %self.source, "a connection ended in a panic; please report this");
        }
        let (route, backend) = (self.route.as_deref(), self.backend.as_deref());
        let (bytes_in, bytes_out) = self.tunnel.as_ref().map_or((0, 0), Tunnel::bytes);
        let record = L4Record {
            bind: self.bind.key,
            client: self.source.ip(),
            client_port: self.source.port(),
            end: self.end,
            route: route.map(|route| &*route.info.name),
            backend: backend.map(|backend| &*backend.config.name),
            endpoint: self.tried,
            attempts: self.attempts,
            bytes_in,
            bytes_out,
            duration: self.started.elapsed(),
        };
        note(&self.worker, &record, route);
    }
}

/// Counts and logs what has ended.
fn note(worker: &Worker, record: &L4Record<'_>, route: Option<&RouteState>) {
    worker.metrics.l4_done(record);
    if let Some(counters) = route.and_then(|route| route.counters(worker.index)) {
        counters.l4_done(record);
    }
    worker.log.borrow_mut().write_l4(record, SystemTime::now());
}

/// Resets a connection that is not served.
pub(super) fn refuse(
    worker: &Worker,
    (live, listening): (&Live, &Listening),
    client: TcpStream,
    peer: SocketAddr,
    end: L4End,
) {
    reset_on_close(&client);
    drop(client);
    worker.metrics.connections_closed.add(1);
    let route = listening.bind(live).and_then(|bind| live.routes.at(bind.route.0));
    let record = refusal(listening.key, peer, end, route.map(|route| &*route.info.name));
    note(worker, &record, route.map(|route| &**route));
}

fn refusal(bind: L4Key, peer: SocketAddr, end: L4End, route: Option<&str>) -> L4Record<'_> {
    L4Record {
        bind,
        client: peer.ip(),
        client_port: peer.port(),
        end,
        route,
        backend: None,
        endpoint: None,
        attempts: 0,
        bytes_in: 0,
        bytes_out: 0,
        duration: Duration::ZERO,
    }
}
