//! The load: keep-alive or one-shot client connections in the caller's epoll loop. It checks every response: status,
//! framing, every byte of the body. Whatever is not as it must be is an error with a name; it never forgives one.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use hdrhistogram::Histogram;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType, sockopt};
use rustls::client::{ClientConfig, ClientConnection};
use rustls::{HandshakeKind, ProtocolVersion};

use crate::link::{Link, Received, Sent};
use crate::poller::{Interest, Poller, Ready};
use crate::tls;
use crate::wire::{self, BodyReader, Framing};

/// Token space of client connections: `CLIENT | number of the load << 40 | index`.
pub const CLIENT: u64 = 4 << 32;

/// Which load a token of [`CLIENT`]'s space belongs to.
#[must_use]
pub fn number_of(token: u64) -> usize {
    usize::try_from(token >> 40).unwrap_or(usize::MAX)
}

/// When requests are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// The next one as soon as an answer is in.
    Closed,
    /// This many per second whatever the answers do; latency counts from when each was due.
    Rate(f64),
}

/// What a load does.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where the proxy is.
    pub target: SocketAddr,
    /// Connections.
    pub connections: usize,
    /// Encrypted, with these settings, for [`tls::NAME`].
    pub tls: Option<Arc<ClientConfig>>,
    /// Requests in flight at once, at most `connections`.
    pub in_flight: usize,
    /// When requests are sent.
    pub pace: Pace,
    /// A new connection for each request.
    pub one_shot: bool,
    /// The requests as they go on the wire, taken in turn.
    pub requests: Vec<Vec<u8>>,
    /// Sent after each head: the body on the wire, framing included.
    pub upload: Vec<u8>,
    /// Length of the body of every answer.
    pub expect_body: u64,
    /// Statuses that are right.
    pub expect_status: Vec<u16>,
    /// No answer within this time is an error.
    pub timeout: Duration,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// Requests sent.
    pub sent: u64,
    /// Answers that were right in every byte.
    pub right: u64,
    /// Status other than 200 → how often it was the right answer.
    pub others: BTreeMap<u16, u64>,
    /// Error → how often.
    pub errors: BTreeMap<String, u64>,
    /// Connections opened.
    pub opened: u64,
    /// Full TLS 1.3 handshakes that were followed by a right answer.
    pub full_handshakes: u64,
    /// Resumed TLS 1.3 handshakes that were followed by a right answer.
    pub resumed_handshakes: u64,
    /// From when a request was due to the last byte of its answer, in microseconds.
    pub latency: Histogram<u64>,
}

impl Outcome {
    fn new() -> Result<Self> {
        let latency = Histogram::new_with_bounds(1, 600_000_000, 3)?;
        Ok(Self {
            sent: 0,
            right: 0,
            others: BTreeMap::new(),
            errors: BTreeMap::new(),
            opened: 0,
            full_handshakes: 0,
            resumed_handshakes: 0,
            latency,
        })
    }

    /// All errors together.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.errors.values().sum()
    }
}

#[derive(Debug)]
struct Client {
    link: Option<Link>,
    /// Nothing was answered yet on this connection.
    fresh: bool,
    request: usize,
    /// Bytes of head and upload sent so far.
    written: usize,
    /// From when latency counts.
    due: Instant,
    /// From when the timeout counts: a load that is late itself must not blame the proxy.
    begun: Instant,
    in_flight: bool,
    wants_write: bool,
    partial: Vec<u8>,
    body: Option<(BodyReader, wire::ResponseHead)>,
}

/// Connections to the proxy and what they have seen.
#[derive(Debug)]
pub struct Load {
    plan: Plan,
    /// What all its tokens have in common.
    space: u64,
    clients: Vec<Client>,
    /// Clients without a request in flight; the one idle for longest is used first.
    free: VecDeque<usize>,
    next_request: usize,
    /// Requests still to be sent.
    budget: u64,
    next_due: Instant,
    in_flight: usize,
    next_check: Instant,
    scratch: Vec<u8>,
    /// What came of it so far.
    pub outcome: Outcome,
}

/// An answer's place in its life after some bytes of it.
enum Progress {
    More,
    Done { close: bool },
}

impl Load {
    /// The load `number` of an engine; it has opened nothing yet.
    ///
    /// # Errors
    /// A plan without connections or requests.
    pub fn new(plan: Plan, number: usize) -> Result<Self> {
        ensure!(plan.connections > 0 && plan.in_flight > 0, "a load needs connections");
        ensure!(!plan.requests.is_empty(), "a load needs requests");
        let now = Instant::now();
        let client = || Client {
            link: None,
            fresh: false,
            request: 0,
            written: 0,
            due: now,
            begun: now,
            in_flight: false,
            wants_write: false,
            partial: Vec::new(),
            body: None,
        };
        Ok(Self {
            space: CLIENT | (number as u64) << 40,
            clients: (0..plan.connections).map(|_| client()).collect(),
            free: (0..plan.connections).collect(),
            next_request: 0,
            budget: 0,
            next_due: now,
            in_flight: 0,
            next_check: now,
            scratch: vec![0; 256 * 1024],
            outcome: Outcome::new()?,
            plan,
        })
    }

    /// Forgets what was seen (not the connections) and allows `requests` more.
    ///
    /// # Errors
    /// None in practice: the histogram's bounds are fixed.
    pub fn restart(&mut self, requests: u64) -> Result<()> {
        self.outcome = Outcome::new()?;
        self.budget = requests;
        self.next_due = Instant::now();
        Ok(())
    }

    /// Sends nothing new; what is in flight is still awaited.
    pub fn stop(&mut self) {
        self.budget = 0;
    }

    /// Sends requests in `requests` from now on, in turn.
    pub fn use_requests(&mut self, requests: Vec<Vec<u8>>) {
        self.plan.requests = requests;
    }

    /// True when nothing is in flight and nothing is left to send.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.budget == 0 && self.in_flight == 0
    }

    /// Sends what is due at `now`, gives up what has waited too long, and says how long the loop may sleep: zero while
    /// a rate is kept (a sleep would be coarser than the interval), otherwise until the next look at timeouts.
    pub fn tick(&mut self, poller: &Poller, now: Instant) -> Duration {
        while self.budget > 0 && self.in_flight < self.plan.in_flight {
            let due = match self.plan.pace {
                Pace::Closed => now,
                Pace::Rate(_) if self.next_due > now => break,
                Pace::Rate(_) => self.next_due,
            };
            let Some(index) = self.free.pop_front() else { break };
            if let Pace::Rate(rate) = self.plan.pace {
                self.next_due += Duration::from_secs_f64(1.0 / rate.max(0.001));
            }
            self.budget -= 1;
            self.begin(poller, index, due, now);
        }
        if now >= self.next_check {
            self.next_check = now + Duration::from_millis(200);
            self.expire(now);
        }
        match self.plan.pace {
            Pace::Rate(_) if self.budget > 0 => Duration::ZERO,
            _ => Duration::from_millis(200),
        }
    }

    fn expire(&mut self, now: Instant) {
        let timeout = self.plan.timeout;
        let late =
            |client: &Client| client.in_flight && now.saturating_duration_since(client.begun) > timeout;
        let late: Vec<usize> = self
            .clients
            .iter()
            .enumerate()
            .filter(|(_, client)| late(client))
            .map(|(index, _)| index)
            .collect();
        for index in late {
            self.fail(index, "no answer in time".to_owned());
        }
    }

    fn begin(&mut self, poller: &Poller, index: usize, due: Instant, now: Instant) {
        let request = self.next_request;
        self.next_request = (request + 1) % self.plan.requests.len();
        let Some(client) = self.clients.get_mut(index) else { return };
        self.in_flight += 1;
        self.outcome.sent += 1;
        client.in_flight = true;
        client.request = request;
        client.written = 0;
        client.due = due;
        client.begun = now;
        client.body = None;
        client.partial.clear();
        if client.link.is_none() {
            match open(&self.plan, poller, self.space | index as u64) {
                Ok(link) => client.link = Some(link),
                Err(error) => return self.fail(index, format!("connect: {error}")),
            }
            client.fresh = true;
            self.outcome.opened += 1;
        }
        self.write(poller, index);
    }

    fn write(&mut self, poller: &Poller, index: usize) {
        let Some(client) = self.clients.get_mut(index) else { return };
        let (Some(link), Some(head)) = (&mut client.link, self.plan.requests.get(client.request)) else {
            return;
        };
        let upload = &self.plan.upload;
        let mut failure = None;
        let blocked = loop {
            let (rest, more) = match head.get(client.written..) {
                Some(rest) if !rest.is_empty() => (rest, !upload.is_empty()),
                _ => (upload.get(client.written - head.len()..).unwrap_or_default(), false),
            };
            match link.send(rest, more) {
                Ok(Sent::All(_)) if rest.is_empty() => break false,
                Ok(Sent::Blocked(count)) => {
                    client.written += count;
                    break true;
                }
                // TLS holds back only so much until the handshake is over.
                Ok(Sent::All(0)) => break true,
                Ok(Sent::All(count)) => client.written += count,
                Err(error) => {
                    failure = Some(error);
                    break false;
                }
            }
        };
        if blocked != client.wants_write && failure.is_none() {
            client.wants_write = blocked;
            let interest = Interest { read: true, write: blocked };
            failure = poller
                .modify(link.socket(), self.space | index as u64, interest)
                .err()
                .map(|e| format!("epoll: {e}"));
        }
        if let Some(failure) = failure {
            self.fail(index, failure);
        }
    }

    /// Acts on a readiness whose token is in [`CLIENT`]'s space.
    pub fn ready(&mut self, poller: &Poller, ready: Ready) {
        let index = usize::try_from(ready.token & u64::from(u32::MAX)).unwrap_or(usize::MAX);
        if ready.writable && self.clients.get(index).is_some_and(|client| client.wants_write) {
            self.write(poller, index);
        }
        if ready.readable {
            self.read(index);
        }
    }

    fn read(&mut self, index: usize) {
        let Some(client) = self.clients.get_mut(index) else { return };
        let Some(link) = &mut client.link else { return };
        let count = match link.receive(&mut self.scratch) {
            Ok(Received::Bytes(count)) => count,
            Ok(Received::Nothing) => return,
            Ok(Received::End) => return self.lost(index, "end before the answer was whole"),
            Err(error) => return self.lost(index, &error),
        };
        if !client.in_flight {
            return self.fail(index, "bytes that answer nothing".to_owned());
        }
        let bytes = self.scratch.get(..count).unwrap_or_default();
        match consume(client, &self.plan, bytes) {
            Ok(Progress::More) => {}
            Ok(Progress::Done { close }) => self.complete(index, close),
            Err(error) => self.fail(index, error),
        }
    }

    /// The proxy ended the connection: right after a close-delimited answer, fair while idle, else an error.
    fn lost(&mut self, index: usize, why: &str) {
        let Some(client) = self.clients.get_mut(index) else { return };
        if !client.in_flight {
            client.link = None;
            return;
        }
        let expect = self.plan.expect_body;
        let until_close = client
            .body
            .as_ref()
            .is_some_and(|(reader, head)| head.framing == Framing::UntilClose && reader.received() == expect);
        if until_close { self.complete(index, true) } else { self.fail(index, why.to_owned()) }
    }

    fn complete(&mut self, index: usize, close: bool) {
        let Some(client) = self.clients.get_mut(index) else { return };
        if std::mem::take(&mut client.fresh)
            && let Some(tls) = client.link.as_ref().and_then(Link::tls)
        {
            match (tls.protocol_version(), tls.handshake_kind()) {
                (Some(ProtocolVersion::TLSv1_3), Some(HandshakeKind::Full)) => {
                    self.outcome.full_handshakes += 1;
                }
                (Some(ProtocolVersion::TLSv1_3), Some(HandshakeKind::Resumed)) => {
                    self.outcome.resumed_handshakes += 1;
                }
                other => return self.fail(index, format!("handshake: {other:?}")),
            }
        }
        if close || self.plan.one_shot {
            if let Some(mut link) = client.link.take() {
                link.say_goodbye();
            }
            client.wants_write = false;
        }
        client.in_flight = false;
        let status = client.body.take().map_or(200, |(_, head)| head.status);
        if status != 200 {
            *self.outcome.others.entry(status).or_insert(0) += 1;
        }
        let micros = u64::try_from(client.due.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.outcome.latency.saturating_record(micros);
        self.outcome.right += 1;
        self.in_flight -= 1;
        self.free.push_back(index);
    }

    fn fail(&mut self, index: usize, why: String) {
        *self.outcome.errors.entry(why).or_insert(0) += 1;
        let Some(client) = self.clients.get_mut(index) else { return };
        client.link = None;
        client.wants_write = false;
        client.body = None;
        if client.in_flight {
            client.in_flight = false;
            self.in_flight -= 1;
            self.free.push_back(index);
        }
    }
}

fn consume(client: &mut Client, plan: &Plan, bytes: &[u8]) -> Result<Progress, String> {
    let whole;
    let mut rest = bytes;
    if client.body.is_none() {
        if !client.partial.is_empty() {
            client.partial.extend_from_slice(bytes);
            whole = std::mem::take(&mut client.partial);
            rest = &whole;
        }
        let head = loop {
            let Some(head) = wire::response_head(rest)? else {
                client.partial = rest.to_vec();
                return Ok(Progress::More);
            };
            if head.status >= 200 {
                break head;
            }
            rest = rest.get(head.len..).unwrap_or_default();
        };
        if !plan.expect_status.contains(&head.status) {
            return Err(format!("status {}", head.status));
        }
        rest = rest.get(head.len..).unwrap_or_default();
        let reader =
            if head.status == 200 { BodyReader::new(head.framing) } else { BodyReader::any(head.framing) };
        client.body = Some((reader, head));
    }
    let Some((reader, head)) = &mut client.body else { return Ok(Progress::More) };
    if reader.feed(rest)? != rest.len() {
        return Err("bytes after the answer".to_owned());
    }
    if !reader.is_done() {
        return Ok(Progress::More);
    }
    if head.status == 200 && reader.received() != plan.expect_body {
        return Err(format!("body of {} bytes", reader.received()));
    }
    Ok(Progress::Done { close: head.close })
}

/// Connects and registers.
fn open(plan: &Plan, poller: &Poller, token: u64) -> Result<Link> {
    let socket = connect(plan.target)?;
    poller.add(&socket, token, Interest::READ)?;
    let session = match &plan.tls {
        Some(config) => Some(ClientConnection::new(Arc::clone(config), tls::name()?)?),
        None => None,
    };
    Ok(Link::new(socket, session))
}

/// A connection to `target` that blocks no more. The connect itself blocks: on loopback it is over within the call.
///
/// # Errors
/// Those of `connect`.
pub fn connect(target: SocketAddr) -> rustix::io::Result<OwnedFd> {
    let family = if target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    net::connect(&socket, &target)?;
    rustix::io::ioctl_fionbio(&socket, true)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    Ok(socket)
}
