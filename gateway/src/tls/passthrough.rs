//! TLS that is passed on as it is: the name in the hello has chosen the endpoint, and from then on bytes are relayed
//! that nobody here can read. No table swap touches it.

use std::future::{Future as _, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use config::table::Passthrough;
use tokio::net::TcpStream;

use crate::balance::consistent_hash::key_hash;
use crate::dial;
use crate::http1::connection::Client;
use crate::http1::tunnel::Open;
use crate::live::{InFlight, LiveBackend, Outcome, PickError, PickRequest};
use crate::metrics::LimitHit;
use crate::proxy::route;
use crate::proxy::tunnel::{Cut, Ends, Terms, Tunnel};
use crate::record::{Reason, Record, Version};
use crate::stream::Stream;
use crate::worker::{Current, Worker};

/// Endpoints that are tried for one connection.
const MOST_ATTEMPTS: usize = 4;

/// What is known of a connection as it goes along.
struct Facts {
    started: Instant,
    reason: Reason,
    endpoint: Option<SocketAddr>,
    attempts: u8,
    bytes: (u64, u64),
}

/// Relays the connection, whose hello is in the client's buffer, to its end.
pub(super) async fn run(
    worker: &Rc<Worker>,
    mut client: Box<Client>,
    name: &str,
    current: Rc<Current>,
    passthrough: &Passthrough,
) {
    let mut facts = Facts {
        started: Instant::now(),
        reason: Reason::PassedThrough,
        endpoint: None,
        attempts: 0,
        bytes: (0, 0),
    };
    let random = worker.random.borrow_mut().u64(..);
    let backend = match &passthrough.split {
        Ok(split) => route::backend(&current.live, split, random).cloned(),
        Err(why) => Err(route::unavailable(*why)),
    };
    let state = current.live.routes.at(passthrough.route.0).cloned();
    // Whatever follows must not keep a table alive for as long as a client stays.
    drop(current);
    let served = match &backend {
        Ok(backend) => relay(worker, &mut client, backend, &mut facts).await,
        Err(reason) => Err(*reason),
    };
    if let Err(reason) = served {
        facts.reason = reason;
        if facts.bytes == (0, 0) {
            // There was no endpoint: nothing is said in its name but that there is nobody.
            client.stream.reset_on_close();
        }
    }
    let record = Record {
        client: client.peer.address.ip(),
        method: b"",
        host: name.as_bytes(),
        target: b"",
        version: Version::Http11,
        request_id: b"",
        user_agent: b"",
        referer: b"",
        status: 0,
        reason: facts.reason,
        route: state.as_ref().map(|state| &*state.info.name),
        backend: backend.as_ref().ok().map(|backend| &*backend.config.name),
        endpoint: facts.endpoint,
        attempts: facts.attempts,
        request_bytes: facts.bytes.0,
        response_bytes: facts.bytes.1,
        duration: facts.started.elapsed(),
        response_head: None,
    };
    worker.metrics.request_done(&record);
    if let Some(counters) = state.as_ref().and_then(|state| state.counters(worker.index)) {
        counters.request_done(&record);
    }
    worker.log.borrow_mut().write(&record, SystemTime::now());
}

async fn relay(
    worker: &Rc<Worker>,
    client: &mut Client,
    backend: &Arc<LiveBackend>,
    facts: &mut Facts,
) -> Result<(), Reason> {
    let (_counted, tcp) = connect(worker, client, backend, facts).await?;
    let mut endpoint = Stream::Tcp(tcp);
    let mut answer = worker.buffers.resting();
    let Some(request) = &mut client.buf else { return Err(Reason::ClientGone) };
    let mut tunnel = Tunnel::new((worker.buffers.head(), worker.buffers.head()), 0);
    let idle = client.peer.config.limits.tunnel_idle_timeout;
    let mut ends = Ends { client: &mut client.stream, request, endpoint: &mut endpoint, answer: &mut answer };
    let _open = Open::new(&worker.metrics);
    let result = tunnel.relay(worker, &mut ends, &mut client.timer, Terms::idle(idle)).await;
    facts.bytes = tunnel.bytes();
    if result == Err(Cut::Idle) {
        worker.metrics.limit_hit(LimitHit::TunnelIdleTimeout);
    }
    result.or_else(|cut| cut.reason().map_or(Ok(()), Err))
}

/// Connects to an endpoint; tries others while none comes about.
async fn connect(
    worker: &Rc<Worker>,
    client: &mut Client,
    backend: &Arc<LiveBackend>,
    facts: &mut Facts,
) -> Result<(InFlight, TcpStream), Reason> {
    let hash = key_hash(client.peer.text.as_bytes());
    let mut failed = [0; MOST_ATTEMPTS];
    for attempt in 0..MOST_ATTEMPTS {
        let exclude = failed.get(..attempt).unwrap_or_default();
        let request = PickRequest {
            hash,
            exclude,
            now: Instant::now(),
            worker: worker.index,
            cap: 0,
            is_sticky: true,
            ipv4: None,
        };
        let picked = match backend.pick(&request) {
            Err(PickError::AtCapacity) => Box::pin(backend.wait_for_slot(&request)).await,
            other => other,
        };
        let in_flight = picked.map_err(|error| match error {
            PickError::NoEndpoint | PickError::OtherFamily => Reason::NoEndpoint,
            PickError::AtCapacity => Reason::Overloaded,
        })?;
        let endpoint = Arc::clone(in_flight.endpoint());
        facts.endpoint = Some(endpoint.address);
        facts.attempts += 1;
        let counters = endpoint.counters.of(worker.index);
        if let Some(counters) = counters {
            counters.requests.add(1);
        }
        match open(client, endpoint.address, backend.config.policy.connect_timeout).await {
            Ok(tcp) => {
                worker.metrics.upstream_connects.add(1);
                if let Some(counters) = counters {
                    counters.connects.add(1);
                }
                return Ok((in_flight, tcp));
            }
            Err(error) => {
                worker.metrics.upstream_connect_failures.add(1);
                if let Some(counters) = counters {
                    counters.failures.add(1);
                }
                // Our own want of descriptors (EMFILE, ENFILE) says nothing about the endpoint.
                if matches!(error.raw_os_error(), Some(24 | 23)) {
                    worker.pool.clear();
                } else {
                    backend.report(&endpoint, Outcome::ConnectFailed, Instant::now());
                }
                if let Some(slot) = failed.get_mut(attempt) {
                    *slot = endpoint.id;
                }
            }
        }
    }
    Err(Reason::ConnectFailed)
}

async fn open(client: &mut Client, address: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    client.timer.arm(timeout);
    let mut connecting = Box::pin(dial::connect(address));
    let tcp = poll_fn(|cx| match connecting.as_mut().poll(cx) {
        Poll::Pending if client.timer.poll_expired(cx) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
        other => other,
    })
    .await?;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}
