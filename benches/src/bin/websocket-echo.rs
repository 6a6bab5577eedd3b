//! WebSockets through a proxy: messages are sent one after the other on each, and echoed by a backend in the same thread. Both
//! sides check every byte; whatever is wrong ends the run without a figure.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use benches::backend::{CONNECTION, LISTENER};
use benches::link::{Link, Received, Sent};
use benches::load::CLIENT;
use benches::poller::{Interest, Poller, Ready};
use benches::report::Measured;
use benches::tls::{self, Sessions};
use benches::websocket::{self, Frames, Message, Side};
use benches::{backend, load, process};
use clap::Parser;
use hdrhistogram::Histogram;
use rustix::net::{self, SocketFlags, sockopt};
use rustls::client::{ClientConfig, ClientConnection};
use serde_json::json;
use slab::Slab;

/// Sends messages on WebSockets through a proxy, is its backend too, and checks every byte. Prints one JSON object; exits 1 if
/// anything was wrong.
#[derive(Parser)]
struct Args {
    /// The proxy.
    #[arg(long)]
    target: SocketAddr,
    /// Addresses to listen on as the backend.
    #[arg(long, required = true)]
    backend: Vec<SocketAddr>,
    /// WebSockets.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Bytes in each message, at least 8.
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// Messages per second, sent when they are due whatever the answers do. Without it: the next on a WebSocket as soon as
    /// the one before is back.
    #[arg(long)]
    rate: Option<f64>,
    /// Messages that count.
    #[arg(long, default_value_t = 100_000)]
    requests: u64,
    /// Messages before those.
    #[arg(long, default_value_t = 10_000)]
    warmup: u64,
    /// Encrypt (TLS 1.3), and trust this authority (PEM) alone.
    #[arg(long)]
    tls: Option<PathBuf>,
    /// Account the CPU time of this process and its descendants.
    #[arg(long)]
    pid: Option<u32>,
    /// Seconds until the whole run is given up.
    #[arg(long, default_value_t = 120)]
    limit_seconds: u64,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    ensure!((websocket::SHORTEST..=websocket::LONGEST).contains(&args.size), "no size for a message");
    ensure!(args.connections > 0, "no connections");
    let deadline = Instant::now() + Duration::from_secs(args.limit_seconds);
    let mut echo = Echo::new(&args)?;
    echo.open(&args, deadline)?;
    echo.send(args.warmup, deadline)?;
    let cpu_before = args.pid.map(process::cpu_nanos).transpose()?;
    let begin = Instant::now();
    echo.send(args.requests, deadline)?;
    let elapsed = begin.elapsed();
    let cpu =
        args.pid.map(process::cpu_nanos).transpose()?.zip(cpu_before).map(|(after, before)| after - before);
    let mut report = json!({
        "requests": args.requests,
        "errors": {},
        "backend_requests": echo.server.messages,
        "backend_connections": echo.server.accepted,
        "good": true,
    });
    Measured {
        requests: args.requests,
        elapsed,
        latency: &echo.clients.latency,
        cpu,
        memory: None,
        connections: args.connections,
    }
    .add_to(&mut report);
    println!("{report}");
    Ok(ExitCode::SUCCESS)
}

/// An end of a connection and what waits to be sent on it.
struct End {
    link: Link,
    token: u64,
    out: Vec<u8>,
    sent: usize,
    wants_write: bool,
}

impl End {
    fn new(link: Link, token: u64) -> Self {
        Self { link, token, out: Vec::new(), sent: 0, wants_write: false }
    }

    /// Sends what waits, as far as it goes now.
    fn flush(&mut self, poller: &Poller) -> Result<()> {
        let blocked = loop {
            let rest = self.out.get(self.sent..).unwrap_or_default();
            match self.link.send(rest, false).map_err(|lost| anyhow!(lost))? {
                Sent::All(_) if rest.is_empty() => break false,
                // TLS holds back only so much until the handshake is over.
                Sent::All(0) => break true,
                Sent::All(count) => self.sent += count,
                Sent::Blocked(count) => {
                    self.sent += count;
                    break true;
                }
            }
        };
        if self.sent == self.out.len() {
            self.out.clear();
            self.sent = 0;
        }
        if blocked != self.wants_write {
            self.wants_write = blocked;
            poller.modify(self.link.socket(), self.token, Interest { read: true, write: blocked })?;
        }
        Ok(())
    }
}

/// The backend.
struct Server {
    listeners: Vec<OwnedFd>,
    connections: Slab<Connection>,
    /// Messages echoed, per listener.
    messages: Vec<u64>,
    accepted: u64,
}

struct Connection {
    end: End,
    listener: usize,
    /// The request that opens it, before that is whole.
    head: Option<Vec<u8>>,
    frames: Frames,
}

/// The load.
struct Clients {
    sockets: Vec<Client>,
    /// Those with nothing under way; the one idle for longest is used first.
    free: VecDeque<usize>,
    /// Messages that are still to be sent.
    budget: u64,
    under_way: usize,
    rate: Option<f64>,
    next_due: Instant,
    size: usize,
    latency: Histogram<u64>,
}

struct Client {
    end: End,
    key: String,
    /// The answer that opens it, before that is whole.
    head: Option<Vec<u8>>,
    frames: Frames,
    /// What is under way, since when.
    waits: Option<(Message, Instant)>,
    sent: u32,
}

/// Both, and what they share.
struct Echo {
    poller: Poller,
    ready: Vec<Ready>,
    scratch: Vec<u8>,
    server: Server,
    clients: Clients,
}

impl Echo {
    fn new(args: &Args) -> Result<Self> {
        let poller = Poller::new()?;
        let mut listeners = Vec::new();
        for (index, address) in args.backend.iter().enumerate() {
            let listening = backend::listen(*address);
            let (socket, _) = listening.with_context(|| format!("cannot listen on {address}"))?;
            poller.add(&socket, LISTENER | index as u64, Interest::READ)?;
            listeners.push(socket);
        }
        let messages = vec![0; listeners.len()];
        Ok(Self {
            poller,
            ready: Vec::new(),
            scratch: vec![0; 256 * 1024],
            server: Server { listeners, connections: Slab::new(), messages, accepted: 0 },
            clients: Clients {
                sockets: Vec::new(),
                free: VecDeque::new(),
                budget: 0,
                under_way: 0,
                rate: args.rate,
                next_due: Instant::now(),
                size: args.size,
                latency: Histogram::new_with_bounds(1, 600_000_000, 3)?,
            },
        })
    }

    /// Opens the WebSockets, all at once.
    fn open(&mut self, args: &Args, deadline: Instant) -> Result<()> {
        let settings = match &args.tls {
            Some(roots) => Some(tls::client(roots, b"http/1.1", Sessions::Full)?),
            None => None,
        };
        for index in 0..args.connections {
            let token = CLIENT | index as u64;
            let link = connect(args.target, settings.as_ref()).context("cannot connect")?;
            self.poller.add(link.socket(), token, Interest::READ)?;
            let (mut end, key) = (End::new(link, token), websocket::key());
            end.out = websocket::request(tls::NAME, &key);
            end.flush(&self.poller)?;
            let (head, frames) = (Some(Vec::new()), Frames::new(Side::Server));
            self.clients.sockets.push(Client { end, key, head, frames, waits: None, sent: 0 });
        }
        while self.clients.free.len() < args.connections {
            self.turn(deadline, Duration::from_millis(200))?;
        }
        Ok(())
    }

    /// Sends `count` messages and waits until each is back.
    fn send(&mut self, count: u64, deadline: Instant) -> Result<()> {
        self.clients.budget = count;
        self.clients.next_due = Instant::now();
        self.clients.latency.reset();
        while self.clients.budget > 0 || self.clients.under_way > 0 {
            let sleep = self.clients.begin(&self.poller)?;
            self.turn(deadline, sleep)?;
        }
        Ok(())
    }

    /// Waits for at most `sleep` and acts on what is ready.
    fn turn(&mut self, deadline: Instant, sleep: Duration) -> Result<()> {
        ensure!(
            Instant::now() < deadline,
            "not done in time; {} messages are under way",
            self.clients.under_way
        );
        self.poller.wait(&mut self.ready, Some(sleep))?;
        for ready in &self.ready {
            let index = usize::try_from(ready.token & u64::from(u32::MAX)).unwrap_or(usize::MAX);
            if ready.token & LISTENER != 0 {
                self.server.accept(&self.poller, index)?;
            } else if ready.token & CONNECTION != 0 {
                self.server.ready(&self.poller, index, *ready, &mut self.scratch).context("backend")?;
            } else {
                self.clients.ready(&self.poller, index, *ready, &mut self.scratch).context("client")?;
            }
        }
        Ok(())
    }
}

impl Server {
    fn accept(&mut self, poller: &Poller, listener: usize) -> Result<()> {
        let Some(socket) = self.listeners.get(listener) else { return Ok(()) };
        while let Ok(stream) = net::accept_with(socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            sockopt::set_tcp_nodelay(&stream, true)?;
            let entry = self.connections.vacant_entry();
            let token = CONNECTION | entry.key() as u64;
            poller.add(&stream, token, Interest::READ)?;
            self.accepted += 1;
            let (end, frames) = (End::new(Link::new(stream, None), token), Frames::new(Side::Client));
            entry.insert(Connection { end, listener, head: Some(Vec::new()), frames });
        }
        Ok(())
    }

    fn ready(&mut self, poller: &Poller, key: usize, ready: Ready, scratch: &mut [u8]) -> Result<()> {
        let Some(connection) = self.connections.get_mut(key) else { return Ok(()) };
        if ready.writable && connection.end.wants_write {
            connection.end.flush(poller)?;
        }
        if !ready.readable {
            return Ok(());
        }
        let count = match connection.end.link.receive(scratch).map_err(|lost| anyhow!(lost))? {
            Received::Bytes(count) => count,
            Received::Nothing => return Ok(()),
            Received::End => {
                // If it had a client, that one sees it.
                self.connections.remove(key);
                return Ok(());
            }
        };
        let bytes = scratch.get_mut(..count).unwrap_or_default();
        let echoed = connection.take(bytes).map_err(|fault| anyhow!(fault))?;
        if let Some(messages) = self.messages.get_mut(connection.listener) {
            *messages += echoed;
        }
        connection.end.flush(poller)
    }
}

impl Connection {
    /// Answers what `bytes` say; returns how many messages that were.
    fn take(&mut self, bytes: &mut [u8]) -> Result<u64, &'static str> {
        if let Some(head) = &mut self.head {
            head.extend_from_slice(bytes);
            let Some((length, answer)) = websocket::accept(head)? else { return Ok(0) };
            if length != head.len() {
                return Err("bytes before the WebSocket is open");
            }
            self.end.out.extend_from_slice(&answer);
            self.head = None;
            return Ok(0);
        }
        let (out, mut count) = (&mut self.end.out, 0);
        self.frames.feed(bytes, |content| {
            Message::read(content)?;
            websocket::put(content, Side::Server, out);
            count += 1;
            Ok(())
        })?;
        Ok(count)
    }
}

impl Clients {
    /// Sends what is due; returns how long the loop may sleep.
    fn begin(&mut self, poller: &Poller) -> Result<Duration> {
        let now = Instant::now();
        while self.budget > 0 {
            let due = match self.rate {
                Some(_) if self.next_due > now => break,
                Some(_) => self.next_due,
                None => now,
            };
            let Some(index) = self.free.pop_front() else { break };
            if let Some(rate) = self.rate {
                self.next_due += Duration::from_secs_f64(1.0 / rate.max(0.001));
            }
            let Some(client) = self.sockets.get_mut(index) else { bail!("no such client") };
            let message = Message { sender: u32::try_from(index)?, number: client.sent };
            client.sent = client.sent.wrapping_add(1);
            client.waits = Some((message, due));
            message.put(self.size, Side::Client, &mut client.end.out);
            client.end.flush(poller)?;
            self.budget -= 1;
            self.under_way += 1;
        }
        // A sleep would be coarser than the interval.
        let keeps_rate = self.rate.is_some() && self.budget > 0;
        Ok(if keeps_rate { Duration::ZERO } else { Duration::from_millis(200) })
    }

    fn ready(&mut self, poller: &Poller, index: usize, ready: Ready, scratch: &mut [u8]) -> Result<()> {
        let Some(client) = self.sockets.get_mut(index) else { return Ok(()) };
        if ready.writable && client.end.wants_write {
            client.end.flush(poller)?;
        }
        if !ready.readable {
            return Ok(());
        }
        let count = match client.end.link.receive(scratch).map_err(|lost| anyhow!(lost))? {
            Received::Bytes(count) => count,
            Received::Nothing => return Ok(()),
            Received::End => bail!("a WebSocket has ended"),
        };
        let bytes = scratch.get_mut(..count).unwrap_or_default();
        if let Some(head) = &mut client.head {
            head.extend_from_slice(bytes);
            let length = websocket::accepted(head, &client.key).map_err(|fault| anyhow!(fault))?;
            let Some(length) = length else { return Ok(()) };
            ensure!(length == head.len(), "bytes that answer nothing");
            client.head = None;
            self.free.push_back(index);
            return Ok(());
        }
        let (size, waits) = (self.size, &mut client.waits);
        let mut since = None;
        let outcome = client.frames.feed(bytes, |content| {
            let Some((sent, due)) = waits.take() else { return Err("a message that answers nothing") };
            if content.len() != size || Message::read(content)? != sent {
                return Err("another message");
            }
            since = Some(due);
            Ok(())
        });
        outcome.map_err(|fault| anyhow!(fault))?;
        if let Some(due) = since {
            let micros = u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.latency.saturating_record(micros);
            self.under_way -= 1;
            self.free.push_back(index);
        }
        Ok(())
    }
}

fn connect(target: SocketAddr, settings: Option<&Arc<ClientConfig>>) -> Result<Link> {
    let socket = load::connect(target)?;
    let session = match settings {
        Some(settings) => Some(ClientConnection::new(Arc::clone(settings), tls::name()?)?),
        None => None,
    };
    Ok(Link::new(socket, session))
}
