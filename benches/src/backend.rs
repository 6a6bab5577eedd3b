//! The backend: any number of addresses, all in the caller's epoll loop, answering every request with one prepared
//! response. It reads uploads to the last byte and answers 500 to one that differs from the pattern. Its
//! misbehaviour, where a driver asks for it, is scripted per connection; it never misbehaves by itself.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};
use slab::Slab;

use crate::pattern;
use crate::poller::{Interest, Poller, Ready};
use crate::wire::{self, BodyReader, Fault};

/// Token space of listeners: `LISTENER | index`.
pub const LISTENER: u64 = 1 << 32;
/// Token space of connections: `CONNECTION | key`.
pub const CONNECTION: u64 = 2 << 32;

/// How the backend treats a connection after its first answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reuse {
    /// Serves on, as a good backend does.
    Serve,
    /// Never serves a second request on it: each connection ends in the next of three ways.
    Close,
}

/// The ways in which a kept-alive connection ends under the hands of a proxy.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Ending {
    /// None: it serves on.
    Never,
    /// When the second request arrives, which is left unread: the proxy sees a reset.
    Unread,
    /// When the second request has been read and executed: the proxy sees an end before any byte of an answer.
    Executed,
    /// Right after the first answer, without notice: the next request and the end may cross.
    Crossing,
}

impl Ending {
    fn of(reuse: Reuse, accepted: u64) -> Self {
        match (reuse, accepted % 3) {
            (Reuse::Serve, _) => Self::Never,
            (Reuse::Close, 0) => Self::Unread,
            (Reuse::Close, 1) => Self::Executed,
            (Reuse::Close, _) => Self::Crossing,
        }
    }
}

/// What was seen since the start.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Requests answered, per listener.
    pub requests: Vec<u64>,
    /// Connections accepted.
    pub accepted: u64,
    /// Connections closed at their reuse.
    pub reuses_closed: u64,
    /// Of those, after the request had been executed.
    pub executed_then_closed: u64,
    /// Connections closed right after their first answer.
    pub crossed: u64,
    /// Requests or uploads that were not what was sent.
    pub faults: Vec<Fault>,
    /// Requests that carried `X-Forwarded-For`.
    pub forwarded: u64,
    /// Execution number → how often executed; only for requests that carry one.
    pub executions: Vec<u8>,
}

/// Listeners, connections and the prepared response.
#[derive(Debug)]
pub struct Backend {
    listeners: Vec<Listener>,
    connections: Slab<Connection>,
    reply: Vec<u8>,
    reuse: Reuse,
    /// What was seen since the start.
    pub seen: Seen,
    scratch: Vec<u8>,
}

#[derive(Debug)]
struct Listener {
    address: SocketAddr,
    socket: Option<OwnedFd>,
}

#[derive(Debug)]
struct Connection {
    stream: OwnedFd,
    listener: usize,
    /// A head that has not arrived in whole.
    partial: Vec<u8>,
    /// The body being read, and the head it belongs to.
    upload: Option<(BodyReader, wire::RequestHead)>,
    /// How much of the reply has been sent, while one is being sent.
    sent: Option<usize>,
    served: u64,
    close: bool,
    ending: Ending,
}

/// Whether a connection lives on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fate {
    Keep,
    Drop,
}

const BAD_UPLOAD: &[u8] =
    b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

impl Backend {
    /// A backend whose every response carries the first `body` bytes of the pattern.
    #[must_use]
    pub fn new(body: usize, reuse: Reuse) -> Self {
        let mut reply = format!(
            "HTTP/1.1 200 OK\r\nServer: bench\r\nContent-Type: application/octet-stream\r\nContent-Length: {body}\r\n\r\n"
        )
        .into_bytes();
        reply.extend_from_slice(&pattern::body(body));
        Self {
            listeners: Vec::new(),
            connections: Slab::new(),
            reply,
            reuse,
            seen: Seen::default(),
            scratch: vec![0; 256 * 1024],
        }
    }

    /// Listens on `address` (port 0: any) and returns the address in use and its number for [`Seen::requests`].
    ///
    /// # Errors
    /// Those of `bind` and `listen`.
    pub fn listen(
        &mut self,
        poller: &Poller,
        address: SocketAddr,
    ) -> rustix::io::Result<(usize, SocketAddr)> {
        let index = self.listeners.len();
        let (socket, address) = listen(address)?;
        poller.add(&socket, LISTENER | index as u64, Interest::READ)?;
        self.listeners.push(Listener { address, socket: Some(socket) });
        self.seen.requests.push(0);
        Ok((index, address))
    }

    /// Ends listener `index` and all its connections as the kernel does for a process that is killed: no goodbye,
    /// a reset wherever something was unread, refusal from now on.
    pub fn kill(&mut self, index: usize) {
        if let Some(listener) = self.listeners.get_mut(index) {
            listener.socket = None;
        }
        self.connections.retain(|_, connection| connection.listener != index);
    }

    /// Listens again where [`kill`](Self::kill) ended it.
    ///
    /// # Errors
    /// Those of `bind` and `listen`.
    pub fn revive(&mut self, poller: &Poller, index: usize) -> rustix::io::Result<()> {
        let Some(listener) = self.listeners.get_mut(index) else { return Ok(()) };
        let (socket, _) = listen(listener.address)?;
        poller.add(&socket, LISTENER | index as u64, Interest::READ)?;
        listener.socket = Some(socket);
        Ok(())
    }

    /// Open connections.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Acts on a readiness whose token is in one of this backend's spaces.
    pub fn ready(&mut self, poller: &Poller, ready: Ready) {
        let low = usize::try_from(ready.token & u64::from(u32::MAX)).unwrap_or(usize::MAX);
        if ready.token & LISTENER != 0 {
            self.accept(poller, low);
            return;
        }
        let Self { connections, reply, seen, scratch, .. } = self;
        let Some(connection) = connections.get_mut(low) else { return };
        let mut turn = Turn { poller, key: low, reply, seen };
        let fate = match (connection.sent, ready) {
            (Some(_), Ready { writable: true, .. }) => turn.send(connection),
            (Some(_), _) => Fate::Keep,
            (None, Ready { readable: true, .. }) => turn.read(connection, scratch),
            (None, _) => Fate::Keep,
        };
        if fate == Fate::Drop {
            connections.remove(low);
        }
    }

    fn accept(&mut self, poller: &Poller, index: usize) {
        let Some(Listener { socket: Some(socket), .. }) = self.listeners.get(index) else { return };
        while let Ok(stream) = net::accept_with(socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            let _ = sockopt::set_tcp_nodelay(&stream, true);
            let entry = self.connections.vacant_entry();
            if poller.add(&stream, CONNECTION | entry.key() as u64, Interest::READ).is_err() {
                continue;
            }
            self.seen.accepted += 1;
            entry.insert(Connection {
                stream,
                listener: index,
                partial: Vec::new(),
                upload: None,
                sent: None,
                served: 0,
                close: false,
                ending: Ending::of(self.reuse, self.seen.accepted),
            });
        }
    }
}

/// Listens on `address` (port 0: any) without blocking; with the address in use.
///
/// # Errors
/// Those of `bind` and `listen`.
pub fn listen(address: SocketAddr) -> rustix::io::Result<(OwnedFd, SocketAddr)> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    net::bind(&socket, &address)?;
    net::listen(&socket, 4_096)?;
    let bound = net::getsockname(&socket)?;
    Ok((socket, SocketAddr::try_from(bound).unwrap_or(address)))
}

/// One readiness of one connection.
struct Turn<'a> {
    poller: &'a Poller,
    key: usize,
    reply: &'a [u8],
    seen: &'a mut Seen,
}

impl Turn<'_> {
    fn read(&mut self, connection: &mut Connection, scratch: &mut [u8]) -> Fate {
        if connection.served > 0 && connection.ending == Ending::Unread {
            return self.close_unread(connection);
        }
        let count = match net::recv(&connection.stream, &mut *scratch, RecvFlags::empty()) {
            Ok((0, _)) => return Fate::Drop,
            Ok((count, _)) => count,
            Err(Errno::AGAIN | Errno::INTR) => return Fate::Keep,
            Err(_) => return Fate::Drop,
        };
        let bytes = scratch.get(..count).unwrap_or_default();
        match self.consume(connection, bytes) {
            Ok(fate) => fate,
            Err(fault) => {
                self.seen.faults.push(fault);
                let _ = net::send(&connection.stream, BAD_UPLOAD, SendFlags::NOSIGNAL);
                Fate::Drop
            }
        }
    }

    /// Closes with the request unread in the kernel, unless what arrived is only the proxy's own end.
    fn close_unread(&mut self, connection: &Connection) -> Fate {
        let mut probe = [0; 1];
        if let Ok((1, _)) = net::recv(&connection.stream, &mut probe, RecvFlags::PEEK) {
            self.seen.reuses_closed += 1;
        }
        Fate::Drop
    }

    fn consume(&mut self, connection: &mut Connection, bytes: &[u8]) -> Result<Fate, Fault> {
        let mut rest = bytes;
        if connection.upload.is_none() {
            let whole;
            let unread = if connection.partial.is_empty() {
                rest
            } else {
                connection.partial.extend_from_slice(rest);
                whole = std::mem::take(&mut connection.partial);
                &whole
            };
            let Some(head) = wire::request_head(unread)? else {
                connection.partial = unread.to_vec();
                return Ok(Fate::Keep);
            };
            let mut reader = BodyReader::new(head.framing);
            let used = head.len + reader.feed(unread.get(head.len..).unwrap_or_default())?;
            if used != unread.len() {
                return Err("bytes after the request");
            }
            connection.upload = Some((reader, head));
            rest = &[];
        }
        let Some((reader, head)) = &mut connection.upload else { return Ok(Fate::Keep) };
        if reader.feed(rest)? != rest.len() {
            return Err("bytes after the request");
        }
        if !reader.is_done() {
            return Ok(Fate::Keep);
        }
        let head = *head;
        connection.upload = None;
        Ok(self.execute(connection, head))
    }

    fn execute(&mut self, connection: &mut Connection, head: wire::RequestHead) -> Fate {
        self.seen.forwarded += u64::from(head.forwarded);
        if let Some(number) = head.execution {
            let number = usize::try_from(number).unwrap_or(0);
            if self.seen.executions.len() <= number {
                self.seen.executions.resize(number + 1, 0);
            }
            if let Some(count) = self.seen.executions.get_mut(number) {
                *count = count.saturating_add(1);
            }
        }
        if connection.served > 0 && connection.ending == Ending::Executed {
            self.seen.reuses_closed += 1;
            self.seen.executed_then_closed += 1;
            return Fate::Drop;
        }
        connection.close = head.close;
        connection.sent = Some(0);
        self.send(connection)
    }

    fn send(&mut self, connection: &mut Connection) -> Fate {
        let Some(mut sent) = connection.sent else { return Fate::Keep };
        let token = CONNECTION | self.key as u64;
        let was_waiting = sent > 0;
        while let Some(rest) = self.reply.get(sent..).filter(|rest| !rest.is_empty()) {
            match net::send(&connection.stream, rest, SendFlags::NOSIGNAL) {
                Ok(count) => sent += count,
                Err(Errno::AGAIN) => {
                    connection.sent = Some(sent);
                    return keep_if(self.poller.modify(&connection.stream, token, Interest::WRITE));
                }
                Err(Errno::INTR) => {}
                Err(_) => return Fate::Drop,
            }
        }
        connection.sent = None;
        connection.served += 1;
        if let Some(count) = self.seen.requests.get_mut(connection.listener) {
            *count += 1;
        }
        if connection.ending == Ending::Crossing {
            self.seen.crossed += 1;
            return Fate::Drop;
        }
        if connection.close {
            return Fate::Drop;
        }
        if was_waiting {
            keep_if(self.poller.modify(&connection.stream, token, Interest::READ))
        } else {
            Fate::Keep
        }
    }
}

fn keep_if(result: rustix::io::Result<()>) -> Fate {
    if result.is_ok() { Fate::Keep } else { Fate::Drop }
}
