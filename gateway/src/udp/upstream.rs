//! The endpoint's side of a flow: choosing it, its connected socket, and what becomes of it when endpoints change.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use config::table::{L4Bind, OnRemoved, SourceAddress, Split};
use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::SendFlags;
use socket2::{Domain, Protocol, Socket, Type};

use super::Dropped;
use super::train::{self, Pace, Train, Trust};
use crate::balance::consistent_hash::key_hash;
use crate::http1::plan::IpText;
use crate::live::{InFlight, Live, LiveBackend, Outcome, PickError, PickRequest};
use crate::proxy::route;
use crate::record::Reason;
use crate::transparent;
use crate::worker::Worker;
use crate::worker::timers::ticks;

/// An endpoint whose ejection is over, and that gets a flow for a trial, has passed if it refused nothing for so long.
const TRIAL: Duration = Duration::from_secs(1);

/// Hops that datagrams have at most: what systems begin with. Where fewer are left to a client's, they have those: what goes
/// round would begin anew here.
const USUAL: u8 = 64;

/// The endpoint that a flow belongs to now.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) socket: OwnedFd,
    pub(super) in_flight: InFlight,
    pub(super) backend: Arc<LiveBackend>,
    /// Tick in which it was chosen.
    since: u32,
    /// Tick in which it was last asked whether a healthier one is there.
    asked: u32,
    /// Tick in which it was found to be no longer wanted.
    pub(super) leaving: Option<u32>,
    pub(super) pace: Pace,
    trust: Trust,
}

/// What a Bind forwards to in one version of the table.
#[derive(Debug, Default)]
pub(super) struct Pools(Vec<(Arc<LiveBackend>, Vec<u64>)>);

impl Pools {
    pub(super) fn of(bind: &L4Bind, live: &Live) -> Self {
        let (one, several) = match &bind.target {
            Ok(Split::One(id)) => (Some(*id), &[][..]),
            Ok(Split::Weighted(shares)) => (None, &**shares),
            Err(_) => (None, &[][..]),
        };
        let shares = several.iter().filter(|share| share.weight > 0).filter_map(|share| share.backend.ok());
        let backends = one.into_iter().chain(shares).filter_map(|id| live.backends.at(id.0));
        Self(backends.map(|backend| (Arc::clone(backend), Vec::new())).collect())
    }

    /// Whether nothing has changed in any of them.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(|(a, b)| Arc::ptr_eq(&a.0, &b.0))
    }

    /// Makes [`Self::follow`] quick.
    pub(super) fn prepare(&mut self) {
        for (backend, ids) in &mut self.0 {
            *ids = backend.endpoints.iter().map(|endpoint| endpoint.id).collect();
            ids.sort_unstable();
        }
    }

    /// Tells `upstream` whether it is still wanted.
    pub(super) fn follow(&self, upstream: &mut Upstream, now: u32) {
        let id = upstream.in_flight.endpoint().id;
        let same = |pool: &&(Arc<LiveBackend>, Vec<u64>)| Arc::ptr_eq(&pool.0.state, &upstream.backend.state);
        match self.0.iter().find(same) {
            Some((backend, ids)) if ids.binary_search(&id).is_ok() => {
                upstream.backend = Arc::clone(backend);
                upstream.leaving = None;
            }
            _ => upstream.leaving = upstream.leaving.or(Some(now)),
        }
    }
}

impl Upstream {
    /// Whether a datagram of the client goes elsewhere, if there is an elsewhere.
    pub(super) fn is_over(&mut self, bind: &L4Bind, now: u32) -> Over {
        if let Some(since) = self.leaving
            && let OnRemoved::EndAfter(time) = bind.policy.on_removed
            && now.saturating_sub(since) >= ticks(time)
        {
            return Over::Removed;
        }
        if self.in_flight.endpoint().is_healthy() || self.asked == now {
            return Over::No;
        }
        self.asked = now;
        if self.in_flight.is_trial() {
            if now.saturating_sub(self.since) >= ticks(TRIAL) {
                self.report(Outcome::Success);
            }
            return Over::No;
        }
        if self.backend.ignores_health() { Over::No } else { Over::Unhealthy }
    }

    /// Sends a client's datagrams from number `sent` on, and counts them.
    ///
    /// # Errors
    /// As the kernel says of the first that it does not take.
    pub(super) fn pass(&mut self, train: &Train<'_>, sent: &mut usize) -> nix::Result<()> {
        if train.count() > 1 && *sent == 0 && self.trust.may() {
            match train.send(&self.socket) {
                Err(error) if train::is_refused(error) => self.trust.failed(),
                result => {
                    result?;
                    self.trust.worked();
                    *sent = train.count();
                }
            }
        }
        while *sent < train.count() {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            let result = rustix::net::send(&self.socket, train.at(*sent), flags);
            result.map_err(|error| nix::errno::Errno::from_raw(error.raw_os_error()))?;
            *sent += 1;
        }
        Ok(())
    }

    pub(super) fn report(&self, outcome: Outcome) {
        self.backend.report(self.in_flight.endpoint(), outcome, Instant::now());
    }
}

/// Whether a flow's endpoint has to be replaced.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Over {
    No,
    /// It is gone.
    Removed,
    /// It is better replaced, if there is another.
    Unhealthy,
}

/// Chooses an endpoint for a client; not `avoid` if there is another.
pub(super) fn choose(
    worker: &Worker,
    live: &Live,
    bind: &L4Bind,
    client: IpAddr,
    avoid: &[u64],
) -> Result<(Arc<LiveBackend>, InFlight), Dropped> {
    let random = worker.random.borrow_mut().u64(..);
    let chosen = match &bind.target {
        Ok(split) => route::backend(live, split, random),
        Err(why) => Err(route::unavailable(*why)),
    };
    let backend = chosen.map_err(|reason| match reason {
        Reason::InvalidSetting => Dropped::InvalidSetting,
        Reason::BackendNotFound => Dropped::BackendNotFound,
        _ => Dropped::NoEndpoint,
    })?;
    let hash = match backend.needs_hash() {
        Some(_) => key_hash(IpText::new(client).as_bytes()),
        None => 0,
    };
    let cap = bind.policy.max_connections_per_endpoint;
    let (now, worker) = (Instant::now(), worker.index);
    let ipv4 = (bind.policy.source_address == SourceAddress::Client).then_some(client.is_ipv4());
    let request = PickRequest { hash, exclude: avoid, now, worker, cap, is_sticky: true, ipv4 };
    match backend.pick_for(client, bind.policy.affinity, &request) {
        Ok(in_flight) => Ok((Arc::clone(backend), in_flight)),
        Err(PickError::NoEndpoint) => Err(Dropped::NoEndpoint),
        Err(PickError::OtherFamily) => Err(Dropped::OtherFamily),
        Err(PickError::AtCapacity) => Err(Dropped::EndpointsFull),
    }
}

/// Opens the socket of a flow to the endpoint that was chosen for it, which is spoken to as `client` if there is one, over no
/// more than `hops`.
///
/// # Errors
/// As the kernel says; what is our own want is no fault of the endpoint and is not reported as one.
pub(super) fn open(
    worker: &Worker,
    poll: &OwnedFd,
    token: u64,
    (client, hops): (Option<IpAddr>, u8),
    (backend, in_flight): (Arc<LiveBackend>, InFlight),
) -> io::Result<Upstream> {
    let address = in_flight.endpoint().address;
    if let Some(counters) = in_flight.endpoint().counters.of(worker.index) {
        counters.requests.add(1);
    }
    let now = worker.timers.now();
    let opened = connect(client, hops, address).and_then(|socket| {
        let data = epoll::EventData::new_u64(token);
        epoll::add(poll, &socket, data, epoll::EventFlags::IN)?;
        Ok(socket)
    });
    match opened {
        Ok(socket) => {
            let (pace, trust) = (Pace::default(), Trust::default());
            Ok(Upstream { socket, in_flight, backend, since: now, asked: now, leaving: None, pace, trust })
        }
        Err(error) => {
            if let Some(counters) = in_flight.endpoint().counters.of(worker.index) {
                counters.failures.add(1);
            }
            if !is_our_want(&error) {
                backend.report(in_flight.endpoint(), Outcome::ConnectFailed, Instant::now());
            }
            Err(error)
        }
    }
}

/// Out of descriptors, ports or memory.
pub(super) fn is_our_want(error: &io::Error) -> bool {
    let ours = [Errno::MFILE, Errno::NFILE, Errno::ADDRNOTAVAIL, Errno::AGAIN, Errno::NOBUFS, Errno::NOMEM];
    error.raw_os_error().is_some_and(|code| ours.iter().any(|errno| errno.raw_os_error() == code))
}

fn connect(client: Option<IpAddr>, hops: u8, address: SocketAddr) -> io::Result<OwnedFd> {
    let kind = Type::DGRAM.nonblocking().cloexec();
    let socket = match client {
        None => Socket::new_raw(Domain::for_address(address), kind, Some(Protocol::UDP))?,
        Some(client) => transparent::socket(Type::DGRAM, client, address)?,
    };
    let hops = u32::from(hops.min(USUAL));
    if address.is_ipv4() {
        socket.set_ttl_v4(hops)?;
    } else {
        socket.set_unicast_hops_v6(hops)?;
    }
    socket.connect(&address.into())?;
    Ok(socket.into())
}
