//! One Bind in one worker: its socket, its flows, and what is in force for it.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use config::table::{L4Bind, SourceAddress, Transport};
use nix::errno::Errno;

use super::flow::{Due, Flow, Flows, Key, Limits, Load, Most, Whom};
use super::shares::Shares;
use super::socket::{Answers, Meta};
use super::train::Train;
use super::upstream::{self, Over, Pools, Upstream};
use super::{Budget, Dropped};
use crate::live::{InFlight, LiveBackend, Outcome, RouteState};
use crate::tcp::{Counted, L4End, L4Record, Listening};
use crate::worker::timers::ticks;
use crate::worker::{Current, Worker};

/// Flows that are ended in one tick; the others have to wait for the next.
const MOST_ENDED: usize = 2_048;
/// Endpoints that may be tried for one datagram.
const MOST_TRIES: usize = 16;

/// What a flow has.
#[derive(Debug)]
pub(super) struct Relay {
    upstream: Option<Upstream>,
    /// The endpoint that refused last; 0 = none.
    avoid: u64,
    route: Option<Arc<RouteState>>,
    backend: Option<Arc<LiveBackend>>,
    endpoint: Option<SocketAddr>,
    attempts: u8,
    bytes_in: u64,
    bytes_out: u64,
    /// The client has said something since an answer: it is where it says.
    has_gone_on: bool,
    started: Instant,
    _counted: Counted,
}

/// What all Binds of a worker share.
#[derive(Debug)]
pub(super) struct Surroundings<'e> {
    pub(super) worker: &'e Worker,
    pub(super) poll: &'e OwnedFd,
    pub(super) budget: &'e Budget,
    /// Number of the Bind in this worker.
    pub(super) index: u32,
}

/// What epoll tells of a flow's socket, or of a Bind's own (`flow` is `None`).
pub(super) fn token(index: u32, flow: Option<u32>) -> u64 {
    u64::from(index) << 32 | flow.map_or(0, |id| u64::from(id) + 1)
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Bound {
    listening: Arc<Listening>,
    socket: UdpSocket,
    local: SocketAddr,
    flows: Flows<Relay>,
    /// Flows of one client that are kept in any case.
    most: Most,
    bind: Option<Arc<L4Bind>>,
    pools: Pools,
    current: Option<Rc<Current>>,
}

impl Bound {
    pub(super) fn new(
        listening: Arc<Listening>,
        socket: UdpSocket,
        shares: Rc<RefCell<Shares>>,
    ) -> io::Result<Self> {
        let local = socket.local_addr()?;
        let (flows, pools) = (Flows::new(shares), Pools::default());
        Ok(Self {
            listening,
            socket,
            local,
            flows,
            most: Most { here: 0, all: 0 },
            bind: None,
            pools,
            current: None,
        })
    }

    pub(super) const fn local(&self) -> SocketAddr {
        self.local
    }

    pub(super) const fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// Takes up the table that is in force; flows learn whether their endpoints are still wanted.
    pub(super) fn follow(&mut self, around: &Surroundings<'_>) {
        let current = around.worker.live();
        if self.current.as_ref().is_some_and(|known| Rc::ptr_eq(known, &current)) {
            return;
        }
        let bind = self.listening.bind(&current.live).cloned();
        let mut pools = bind.as_ref().map_or_else(Pools::default, |bind| Pools::of(bind, &current.live));
        let is_same_bind = match (&bind, &self.bind) {
            (Some(new), Some(old)) => Arc::ptr_eq(new, old),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        self.current = Some(current);
        if is_same_bind && pools.is_same(&self.pools) {
            return;
        }
        self.bind = bind;
        self.most = self.most(around);
        pools.prepare();
        let now = around.worker.timers.now();
        for id in self.flows.ids().collect::<Vec<_>>() {
            let Some(flow) = self.flows.at_mut(id) else { continue };
            if let Some(upstream) = &mut flow.value.upstream {
                pools.follow(upstream, now);
            }
            let client = flow.key.client.ip();
            if self.bind.as_ref().is_some_and(|bind| !is_let_in(bind, client)) {
                self.end(around, id, L4End::SourceDenied);
            }
        }
        self.pools = pools;
    }

    pub(super) fn load(&self) -> Load {
        self.flows.load()
    }

    /// Whether [`Self::evict`] would end a flow.
    pub(super) fn gives(&self, whom: Whom, now: u32) -> bool {
        self.flows.victim(whom, now).is_some()
    }

    /// Ends a flow that may have to go when there is no room; false if there is none.
    pub(super) fn evict(&mut self, around: &Surroundings<'_>, whom: Whom) -> bool {
        let Some(victim) = self.flows.victim(whom, around.worker.timers.now()) else { return false };
        self.end(around, victim, L4End::Evicted);
        true
    }

    /// Whether [`Self::forward`] would open one more socket.
    pub(super) fn wants_socket(&self, meta: Meta) -> bool {
        let key = self.key(meta);
        match self.flows.find(&key).and_then(|id| self.flows.at(id)) {
            Some(flow) => flow.value.upstream.is_none(),
            None => self.bind.as_ref().is_some_and(|bind| is_let_in(bind, key.client.ip())),
        }
    }

    fn key(&self, meta: Meta) -> Key {
        Key { client: meta.from, local: meta.to.unwrap_or_else(|| self.local.ip()) }
    }

    /// Sends a client's datagram on. There must be room for a socket if it [wants](Self::wants_socket) one.
    pub(super) fn forward(&mut self, around: &Surroundings<'_>, meta: Meta, train: &Train<'_>) {
        let metrics = &around.worker.metrics;
        metrics.udp_received(train.count(), train.total());
        let mut sent = 0;
        if let Err(why) = self.try_forward(around, meta, train, &mut sent) {
            metrics.udp_dropped(train.count() - sent, why);
        }
    }

    /// `sent` counts those that went on.
    fn try_forward(
        &mut self,
        around: &Surroundings<'_>,
        meta: Meta,
        train: &Train<'_>,
        sent: &mut usize,
    ) -> Result<(), Dropped> {
        if meta.is_cut {
            return Err(Dropped::TooLarge);
        }
        let key = self.key(meta);
        let id = match self.flows.find(&key) {
            Some(id) => id,
            None => self.begin(around, key)?,
        };
        let now = around.worker.timers.now();
        self.flows.heard_client(id, now, self.most);
        let Self { bind: Some(bind), current: Some(current), flows, .. } = self else {
            return Err(Dropped::NoRoute);
        };
        let Some(flow) = flows.at_mut(id) else { return Err(Dropped::NoRoom) };
        flow.value.has_gone_on |= flow.value.bytes_out > 0;
        let token = token(around.index, Some(id));
        let result = flow.value.send(around, (bind, current), token, key, (train, sent));
        if result.is_err() && flow.value.endpoint.is_none() {
            // Nobody was there for its first datagram, so it is no flow.
            self.flows.remove(id);
        }
        result
    }

    /// How many flows of one client are kept in any case.
    fn most(&self, around: &Surroundings<'_>) -> Most {
        let most = self.bind.as_ref().map_or(0, |bind| bind.policy.max_connections);
        let of_worker = most / u32::try_from(around.worker.workers()).unwrap_or(u32::MAX).max(1);
        let here = if most == 0 { u32::MAX } else { share(of_worker) };
        Most { here, all: around.budget.share() }
    }

    /// Makes room for a flow, and makes it.
    fn begin(&mut self, around: &Surroundings<'_>, key: Key) -> Result<u32, Dropped> {
        let bind = self.bind.clone().ok_or(Dropped::NoRoute)?;
        if !is_let_in(&bind, key.client.ip()) {
            return Err(Dropped::SourceDenied);
        }
        let counted = match self.listening.admit(bind.policy.max_connections) {
            Ok(counted) => counted,
            Err(_) => {
                if !self.evict(around, Whom::Any) {
                    return Err(Dropped::TooMany);
                }
                self.listening.admit(bind.policy.max_connections).map_err(|_| Dropped::TooMany)?
            }
        };
        let route = self.current.as_ref().and_then(|current| current.live.routes.at(bind.route.0).cloned());
        let relay = Relay {
            upstream: None,
            avoid: 0,
            route,
            backend: None,
            endpoint: None,
            attempts: 0,
            bytes_in: 0,
            bytes_out: 0,
            has_gone_on: false,
            started: Instant::now(),
            _counted: counted,
        };
        Ok(self.flows.insert(key, around.worker.timers.now(), relay).0)
    }

    /// Takes datagrams of the endpoint, if there are some and there is room.
    pub(super) fn answer(&mut self, around: &Surroundings<'_>, id: u32, answers: &mut Answers) {
        let now = around.worker.timers.now();
        let most = self.bind.as_ref().map_or(0, |bind| bind.policy.max_amplification);
        let Some(flow) = self.flows.at_mut(id) else { return };
        let key = flow.key;
        let mut room = flow.value.room(most);
        let Some(upstream) = &mut flow.value.upstream else { return };
        let tried = upstream.pace.reads(&upstream.socket, now);
        let mut got = 0;
        let refused = loop {
            match upstream.pace.receive(&upstream.socket, answers.space()) {
                Ok((len, segment)) => {
                    got += 1;
                    let sent = within(room, len, segment);
                    if sent.is_none_or(|sent| sent < len) {
                        let left = len - sent.unwrap_or_default();
                        around.worker.metrics.udp_dropped(datagrams(left, segment), Dropped::Amplification);
                    }
                    if let Some(sent) = sent {
                        room = room.saturating_sub(sent as u64);
                        flow.value.bytes_out += sent as u64;
                        around.worker.metrics.udp_answered(datagrams(sent, segment), sent);
                        answers.push_train(key.client, key.local, sent, segment);
                    }
                }
                Err(Errno::EAGAIN | Errno::EINTR) => break false,
                Err(_) => break true,
            }
            // What is left waits for the next turn.
            if got == tried || answers.is_full() {
                break false;
            }
        };
        upstream.pace.had(got, tried);
        if got > 0 {
            upstream.report(Outcome::Success);
        }
        let is_leaving = upstream.leaving.is_some();
        if refused {
            flow.value.refused(around);
        }
        // What no longer belongs to the table does not keep itself alive.
        if got > 0 && !is_leaving {
            self.flows.heard_endpoint(id, now);
        }
    }

    /// Sends what was gathered for clients.
    pub(super) fn flush(&self, worker: &Worker, answers: &mut Answers) {
        answers.send(&self.socket, self.local, |error| {
            let why = match error {
                Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM => Dropped::NoRoom,
                Errno::EMSGSIZE => Dropped::TooLarge,
                _ => Dropped::ClientUnreachable,
            };
            worker.metrics.udp_dropped(1, why);
        });
    }

    /// Ends the flows that have reached a limit.
    pub(super) fn tick(&mut self, around: &Surroundings<'_>) {
        self.follow(around);
        let Some(policy) = self.bind.as_ref().map(|bind| Arc::clone(&bind.policy)) else { return };
        let now = around.worker.timers.now();
        let limits = Limits { idle: ticks(policy.idle_timeout), lifetime: ticks(policy.lifetime) };
        for _ in 0..MOST_ENDED {
            let Some((id, due)) = self.flows.due(now, limits) else { break };
            let end = match due {
                Due::Idle => L4End::IdleTimeout,
                Due::Lifetime => L4End::Lifetime,
            };
            self.end(around, id, end);
        }
    }

    /// Ends all flows.
    pub(super) fn end_all(&mut self, around: &Surroundings<'_>, why: L4End) {
        for id in self.flows.ids().collect::<Vec<_>>() {
            self.end(around, id, why);
        }
    }

    fn end(&mut self, around: &Surroundings<'_>, id: u32, end: L4End) {
        let Some(Flow { key, mut value, .. }) = self.flows.remove(id) else { return };
        value.close(around);
        let record = L4Record {
            bind: self.listening.key,
            client: key.client.ip(),
            client_port: key.client.port(),
            end,
            route: value.route.as_deref().map(|route| &*route.info.name),
            backend: value.backend.as_deref().map(|backend| &*backend.config.name),
            endpoint: value.endpoint,
            attempts: value.attempts,
            bytes_in: value.bytes_in,
            bytes_out: value.bytes_out,
            duration: value.started.elapsed(),
        };
        let worker = around.worker;
        worker.metrics.udp_ended(end);
        if let Some(counters) = value.route.as_deref().and_then(|route| route.counters(worker.index)) {
            counters.l4_done(&record);
        }
        worker.log.borrow_mut().write_l4(&record, SystemTime::now());
    }
}

/// What one client may have of so many flows and be sure to keep: its part is small, but a few are everybody's.
pub(super) fn share(of: u32) -> u32 {
    (of / 16).max(4)
}

/// Datagrams in `len` bytes, each of `segment` but the last.
fn datagrams(len: usize, segment: usize) -> usize {
    len.div_ceil(segment.max(1)).max(1)
}

/// How many of the `len` bytes go within `room`, in whole datagrams of `segment`; `None` if not even the first does.
fn within(room: u64, len: usize, segment: usize) -> Option<usize> {
    let room = usize::try_from(room).unwrap_or(usize::MAX);
    if len <= room {
        return Some(len);
    }
    room.checked_div(segment).map(|whole| whole * segment).filter(|sent| *sent > 0)
}

fn is_let_in(bind: &L4Bind, client: IpAddr) -> bool {
    bind.policy.source_ranges.as_ref().is_none_or(|ranges| ranges.contains(client))
}

impl Relay {
    /// Sends datagrams to the flow's endpoint; to another one if that is gone, unwell or refuses. Counts those that went.
    fn send(
        &mut self,
        around: &Surroundings<'_>,
        (bind, current): (&L4Bind, &Current),
        token: u64,
        key: Key,
        (train, sent): (&Train<'_>, &mut usize),
    ) -> Result<(), Dropped> {
        let now = around.worker.timers.now();
        match self.upstream.as_mut().map_or(Over::Removed, |upstream| upstream.is_over(bind, now)) {
            Over::No => {}
            Over::Removed => {
                self.close(around);
                self.open(around, (bind, current), token, (key, train.hops()))?;
            }
            // If there is no other, the one that it has is better than none.
            Over::Unhealthy => drop(self.open(around, (bind, current), token, (key, train.hops()))),
        }
        for _ in 0..usize::from(bind.policy.tries).clamp(1, MOST_TRIES) {
            let Some(upstream) = &mut self.upstream else {
                self.open(around, (bind, current), token, (key, train.hops()))?;
                continue;
            };
            let before = *sent;
            let result = upstream.pass(train, sent);
            self.bytes_in += train.lengths().take(*sent).skip(before).sum::<usize>() as u64;
            match result {
                Ok(()) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM) => return Err(Dropped::NoRoom),
                Err(Errno::EMSGSIZE) => return Err(Dropped::TooLarge),
                Err(_) => {
                    self.refused(around);
                    self.open(around, (bind, current), token, (key, train.hops()))?;
                }
            }
        }
        Err(Dropped::Refused)
    }

    /// Gives the flow an endpoint. What it had stays if none can be had.
    fn open(
        &mut self,
        around: &Surroundings<'_>,
        (bind, current): (&L4Bind, &Current),
        token: u64,
        (key, hops): (Key, u8),
    ) -> Result<(), Dropped> {
        // As a router does: each round of a datagram by way of another gateway, of which nothing here can know, is a new flow.
        let Some(hops) = hops.checked_sub(1).filter(|hops| *hops > 0) else { return Err(Dropped::Loop) };
        let chosen = self.choose(around, (bind, current), key)?;
        if self.attempts > 0 {
            around.worker.metrics.retries.add(1);
        }
        self.attempts = self.attempts.saturating_add(1);
        let endpoint = chosen.1.endpoint().address;
        let client = match bind.policy.source_address {
            SourceAddress::Gateway => None,
            SourceAddress::Client => Some(key.client.ip()),
        };
        let opened =
            upstream::open(around.worker, around.poll, token, (client, hops), chosen).map_err(|error| {
                tracing::debug!(endpoint.addr = %endpoint, %error, "cannot open a flow");
                if upstream::is_our_want(&error) {
                    // Ports, or an address to send from, are not had by closing connections.
                    if error.kind() != io::ErrorKind::AddrNotAvailable {
                        around.worker.shed();
                    }
                    Dropped::NoRoom
                } else {
                    Dropped::Refused
                }
            })?;
        self.close(around);
        around.budget.take();
        if self.endpoint.is_none() {
            around.worker.metrics.udp_opened.add(1);
        }
        self.backend = Some(Arc::clone(&opened.backend));
        self.endpoint = Some(endpoint);
        self.upstream = Some(opened);
        Ok(())
    }

    /// Bytes of answers that the client may have, which gets at most `most` for each of its own until it shows that it is
    /// where it says; 0 = any number.
    fn room(&self, most: u16) -> u64 {
        if most == 0 || self.has_gone_on {
            return u64::MAX;
        }
        self.bytes_in.saturating_mul(most.into()).saturating_sub(self.bytes_out)
    }

    /// The endpoint that is next, which is not this gateway itself.
    fn choose(
        &self,
        around: &Surroundings<'_>,
        (bind, current): (&L4Bind, &Current),
        key: Key,
    ) -> Result<(Arc<LiveBackend>, InFlight), Dropped> {
        let mut avoid = [self.avoid; MOST_TRIES + 1];
        let mut count = usize::from(self.avoid != 0);
        for _ in 0..usize::from(bind.policy.tries).clamp(1, MOST_TRIES) {
            let avoided = avoid.get(..count).unwrap_or_default();
            let chosen = upstream::choose(around.worker, &current.live, bind, key.client.ip(), avoided)?;
            let endpoint = chosen.1.endpoint();
            if !around.worker.occupied().has(Transport::Udp, endpoint.address) {
                return Ok(chosen);
            }
            if let Some(counters) = endpoint.counters.of(around.worker.index) {
                counters.failures.add(1);
            }
            chosen.0.report(endpoint, Outcome::ConnectFailed, Instant::now());
            if let Some(next) = avoid.get_mut(count) {
                *next = endpoint.id;
                count += 1;
            }
        }
        Err(Dropped::Loop)
    }

    /// The endpoint has refused: the client's next datagram goes elsewhere.
    fn refused(&mut self, around: &Surroundings<'_>) {
        let Some(upstream) = &self.upstream else { return };
        upstream.report(Outcome::ConnectFailed);
        let endpoint = upstream.in_flight.endpoint();
        if let Some(counters) = endpoint.counters.of(around.worker.index) {
            counters.failures.add(1);
        }
        self.avoid = endpoint.id;
        self.close(around);
    }

    fn close(&mut self, around: &Surroundings<'_>) {
        if self.upstream.take().is_some() {
            around.budget.give();
        }
    }
}
