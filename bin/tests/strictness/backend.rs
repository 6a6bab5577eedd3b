//! A raw TCP backend that keeps every byte it receives and answers by script.
//!
//! It runs on one thread, so what reached it first is also recorded first: once a later request was answered,
//! everything that the gateway had sent before is in the record.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::wire::{self, Parsed, Request};

/// Longest wait for anything that must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(8);

pub(crate) const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// The answer to HEAD: [`OK`] without its body.
const OK_HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n";

/// What the backend does once it has read a request's head.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Reads the request's body to its end.
    ReadBody,
    /// Reads until at least so many bytes follow the head.
    ReadAtLeast(usize),
    /// Reads for a while; everything that comes goes to the record.
    Listen(Duration),
    Send(Vec<u8>),
    /// Waits for [`Backend::go_on`].
    Wait,
    /// Ends its own direction.
    Fin,
    /// Resets the connection.
    Reset,
    /// Closes the connection.
    Close,
    /// Reads until the gateway ends its direction, then closes.
    ReadToEnd,
    /// Sends back what comes until the gateway ends its direction, then closes.
    Echo,
}

/// How the gateway ended its direction of a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum End {
    Fin,
    Reset,
    /// The backend itself closed it.
    Ours,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Connection {
    pub(crate) received: Vec<u8>,
    pub(crate) end: Option<End>,
}

#[derive(Default)]
struct State {
    connections: Vec<Connection>,
    scripts: VecDeque<Vec<Step>>,
    /// Waiting points reached so far.
    waits: usize,
    /// How many of them a test has awaited.
    awaited: usize,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// Waiting points that may be passed.
    passed: watch::Sender<usize>,
}

impl Shared {
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let answer = change(&mut self.state.lock().unwrap());
        self.changed.notify_all();
        answer
    }
}

/// Lengths of the record at one instant.
#[derive(Clone, Debug)]
pub(crate) struct Mark(Vec<usize>);

/// What one connection received after a [`Mark`].
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) connection: usize,
    pub(crate) requests: Vec<Request>,
    /// Bytes after the last whole request.
    pub(crate) rest: Vec<u8>,
    /// Why the rest is no request, if it cannot become one.
    pub(crate) invalid: Option<String>,
    pub(crate) end: Option<End>,
}

/// A running backend; it ends with the test process.
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

impl Backend {
    pub(crate) fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
            passed: watch::Sender::new(0),
        });
        let theirs = Arc::clone(&shared);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(accept(listener, theirs));
        });
        Self { address, shared }
    }

    /// The script for the next request that arrives; without one it is answered with [`OK`].
    pub(crate) fn script(&self, steps: Vec<Step>) {
        self.shared.change(|state| state.scripts.push_back(steps));
    }

    /// Forgets scripts that were not used and lets nobody wait.
    pub(crate) fn clear(&self) {
        self.go_on();
        self.shared.change(|state| {
            state.scripts.clear();
            state.awaited = state.waits;
        });
    }

    /// Ends every [`Step::Wait`] that was reached.
    pub(crate) fn go_on(&self) {
        let waits = self.shared.change(|state| state.waits);
        self.shared.passed.send_replace(waits);
    }

    /// Waits until the backend comes to its next [`Step::Wait`].
    pub(crate) fn await_wait(&self) -> Result<(), String> {
        let next = self.shared.change(|state| {
            state.awaited += 1;
            state.awaited
        });
        self.await_state("the backend to come to its waiting point", |state| state.waits >= next)
    }

    pub(crate) fn mark(&self) -> Mark {
        let state = self.shared.state.lock().unwrap();
        Mark(state.connections.iter().map(|connection| connection.received.len()).collect())
    }

    /// Waits until each connection that received something after `mark` has ended.
    pub(crate) fn await_ends(&self, mark: &Mark) -> Result<(), String> {
        self.await_state("the connection to the backend to end", |state| {
            let ended = |(at, connection): (usize, &Connection)| {
                connection.received.len() <= mark.0.get(at).copied().unwrap_or(0) || connection.end.is_some()
            };
            state.connections.iter().enumerate().all(ended)
        })
    }

    fn await_state(&self, what: &str, mut is_so: impl FnMut(&State) -> bool) -> Result<(), String> {
        let until = Instant::now() + PATIENCE;
        let mut state = self.shared.state.lock().unwrap();
        while !is_so(&state) {
            let Some(left) = until.checked_duration_since(Instant::now()) else {
                return Err(format!("waited in vain for {what}"));
            };
            state = self.shared.changed.wait_timeout(state, left).unwrap().0;
        }
        Ok(())
    }

    /// What came after `mark`, by connection; connections without news are left out.
    pub(crate) fn since(&self, mark: &Mark) -> Vec<Received> {
        let connections = self.shared.state.lock().unwrap().connections.clone();
        let mut all = Vec::new();
        for (number, connection) in connections.into_iter().enumerate() {
            let mut rest =
                connection.received.get(mark.0.get(number).copied().unwrap_or(0)..).unwrap_or_default();
            if rest.is_empty() {
                continue;
            }
            let mut requests = Vec::new();
            let mut invalid = None;
            while !rest.is_empty() {
                match wire::parse_request(rest) {
                    Parsed::Complete(request, length) => {
                        requests.push(request);
                        rest = &rest[length..];
                    }
                    Parsed::Incomplete => break,
                    Parsed::Invalid(why) => {
                        invalid = Some(why);
                        break;
                    }
                }
            }
            let rest = rest.to_vec();
            all.push(Received { connection: number, requests, rest, invalid, end: connection.end });
        }
        all
    }
}

async fn accept(listener: std::net::TcpListener, shared: Arc<Shared>) {
    let listener = TcpListener::from_std(listener).unwrap();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let number = shared.change(|state| {
            state.connections.push(Connection::default());
            state.connections.len() - 1
        });
        let _ = stream.set_nodelay(true);
        let mut peer = Peer { stream, buffer: Vec::new(), number, shared: Arc::clone(&shared) };
        tokio::spawn(async move {
            let end = peer.serve().await;
            peer.ended(end);
        });
    }
}

struct Peer {
    stream: TcpStream,
    /// Read and not yet taken by a request.
    buffer: Vec<u8>,
    number: usize,
    shared: Arc<Shared>,
}

impl Peer {
    fn ended(&self, end: End) {
        self.shared.change(|state| {
            state.connections[self.number].end.get_or_insert(end);
        });
    }

    /// Reads once; what came is in the record before this returns.
    async fn read(&mut self) -> Result<usize, End> {
        let mut bytes = [0; 65_536];
        match self.stream.read(&mut bytes).await {
            Ok(0) => Err(End::Fin),
            Ok(length) => {
                let bytes = &bytes[..length];
                self.buffer.extend(bytes);
                self.shared.change(|state| state.connections[self.number].received.extend(bytes));
                Ok(length)
            }
            Err(_) => Err(End::Reset),
        }
    }

    async fn serve(&mut self) -> End {
        loop {
            let head = loop {
                if let Some(end) = wire::head_end(&self.buffer) {
                    break end;
                }
                if let Err(end) = self.read().await {
                    return end;
                }
            };
            let script = self.shared.change(|state| state.scripts.pop_front());
            let ok = if self.buffer.starts_with(b"HEAD ") { OK_HEAD } else { OK };
            let script = script.unwrap_or_else(|| vec![Step::ReadBody, Step::Send(ok.to_vec())]);
            let mut taken = head;
            for step in script {
                if let Err(end) = self.step(step, head, &mut taken).await {
                    return end;
                }
            }
            self.buffer.drain(..taken);
        }
    }

    async fn step(&mut self, step: Step, head: usize, taken: &mut usize) -> Result<(), End> {
        match step {
            Step::ReadBody => loop {
                match wire::parse_request(&self.buffer) {
                    Parsed::Complete(_, length) => {
                        *taken = length;
                        break;
                    }
                    Parsed::Incomplete => _ = self.read().await?,
                    Parsed::Invalid(_) => return Err(End::Ours),
                }
            },
            Step::ReadAtLeast(bytes) => {
                while self.buffer.len() < head + bytes {
                    self.read().await?;
                }
                *taken = self.buffer.len();
            }
            Step::Listen(time) => {
                let until = tokio::time::Instant::now() + time;
                while let Ok(read) = tokio::time::timeout_at(until, self.read()).await {
                    read?;
                }
            }
            Step::Send(bytes) => self.stream.write_all(&bytes).await.map_err(|_| End::Reset)?,
            Step::Wait => {
                let number = self.shared.change(|state| {
                    state.waits += 1;
                    state.waits
                });
                let _ = self.shared.passed.subscribe().wait_for(|passed| *passed >= number).await;
            }
            Step::Fin => _ = self.stream.shutdown().await,
            Step::Reset => {
                let _ = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
                return Err(End::Ours);
            }
            Step::Close => return Err(End::Ours),
            Step::ReadToEnd => loop {
                self.read().await?;
            },
            Step::Echo => {
                let early = self.buffer.split_off(head);
                self.stream.write_all(&early).await.map_err(|_| End::Reset)?;
                loop {
                    let length = self.read().await?;
                    let from = self.buffer.len() - length;
                    let bytes = self.buffer.split_off(from);
                    self.stream.write_all(&bytes).await.map_err(|_| End::Reset)?;
                }
            }
        }
        Ok(())
    }
}
