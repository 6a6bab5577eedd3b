//! TCP that is relayed as it is: accept, admit, choose an endpoint, connect, relay.
//!
//! Decides nothing about bytes, and never tells a client that it is connected when it can be known before that nobody
//! is there to talk to: while a route has no endpoint, its address refuses connections.

mod connection;
mod outcome;
mod room;
mod sockets;

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use config::table::{L4Bind, L4Key, ProxyProtocolIn};
use tokio::net::TcpStream;

pub use self::outcome::{L4End, L4Record};
pub(crate) use self::room::Room;
use self::room::{Seat, Share};
pub(crate) use self::sockets::{BACKLOG, Order, Sockets, probe, raw_socket};
use crate::live::Live;
use crate::metrics::LimitHit;
use crate::worker::Worker;

/// File descriptors that the process may have; as good as any number if nobody says.
pub(crate) fn descriptors() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX)
}

/// A Bind as the workers see it.
#[derive(Debug)]
pub(crate) struct Listening {
    pub(crate) key: L4Key,
    /// Where the table has it.
    pub(crate) slot: AtomicU32,
    /// Open connections over all workers.
    open: AtomicUsize,
    /// Of which it takes, besides.
    room: Option<Arc<Room>>,
}

/// Why there is no room for another connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Full {
    /// The Bind has as many as it may have, or the client has too much of what is left to it.
    Bind,
    /// All Binds together have, or the Bind or the client has too much of what is left to all of them.
    Process,
}

impl Listening {
    pub(crate) fn new(key: L4Key, slot: u32, room: Option<Arc<Room>>) -> Self {
        Self { key, slot: AtomicU32::new(slot), open: AtomicUsize::new(0), room }
    }

    /// What is in force for it now; `None` if the table no longer has it.
    pub(crate) fn bind<'l>(&self, live: &'l Live) -> Option<&'l Arc<L4Bind>> {
        live.table.l4.at(self.slot.load(Ordering::Relaxed)).filter(|bind| bind.key == self.key)
    }

    /// Counts a connection in, unless there are `most` (0 = any number), or too many of all Binds.
    pub(crate) fn admit(self: &Arc<Self>, most: u32) -> Result<Counted, Full> {
        let before = self.open.fetch_add(1, Ordering::Relaxed);
        let is_room = self.room.as_ref().is_none_or(|room| room.take(before));
        let counted = Counted { listening: Arc::clone(self), seat: None };
        if most != 0 && before >= most as usize {
            return Err(Full::Bind);
        }
        if is_room { Ok(counted) } else { Err(Full::Process) }
    }
}

/// A counted connection; counts itself out when dropped, panics included.
#[derive(Debug)]
pub(crate) struct Counted {
    listening: Arc<Listening>,
    seat: Option<Seat>,
}

impl Counted {
    /// Counts it as the client's as well, once that is known, unless the client has too much already of the `most` (0 = any
    /// number) of the Bind, or of all Binds. A client is an address of IPv4 or a /64 of IPv6.
    fn claim(&mut self, client: IpAddr, most: u32) -> Result<(), Full> {
        let Some(room) = &self.listening.room else { return Ok(()) };
        let others = self.listening.open.load(Ordering::Relaxed).saturating_sub(1);
        let most = if most == 0 { usize::MAX } else { most as usize };
        let (seat, of_bind, of_process) = room.seat(self.listening.key, client, others, most);
        if let Some(before) = self.seat.replace(seat) {
            room.leave(before);
        }
        if of_bind.is_spent() {
            return Err(Full::Bind);
        }
        if of_process.into_iter().any(Share::is_spent) { Err(Full::Process) } else { Ok(()) }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.listening.open.fetch_sub(1, Ordering::Relaxed);
        if let Some(room) = &self.listening.room {
            room.give();
            if let Some(seat) = self.seat.take() {
                room.leave(seat);
            }
        }
    }
}

/// Serves a connection, or refuses it if that can be decided without a wait.
pub(crate) fn admit(worker: &Rc<Worker>, listening: &Arc<Listening>, stream: TcpStream, address: SocketAddr) {
    worker.metrics.connections_accepted.add(1);
    let peer = SocketAddr::new(address.ip().to_canonical(), address.port());
    let current = worker.live();
    let refused = match listening.bind(&current.live) {
        None => Err(L4End::NoRoute),
        Some(bind) => match refusal(bind, peer) {
            Some(why) => Err(why),
            None => listening
                .admit(bind.policy.max_connections)
                .and_then(|mut counted| {
                    if let ProxyProtocolIn::None = bind.policy.proxy_protocol_in {
                        counted.claim(peer.ip(), bind.policy.max_connections)?;
                    }
                    Ok((Arc::clone(bind), counted))
                })
                .map_err(|full| too_many(worker, full)),
        },
    };
    match refused {
        Ok((bind, counted)) => {
            let connection = connection::Connection::new(worker, (current, bind), stream, peer, counted);
            tokio::task::spawn_local(connection.serve());
        }
        Err(why) => connection::refuse(worker, (&current.live, listening), stream, peer, why),
    }
}

/// Counts that there was no room.
fn too_many(worker: &Worker, full: Full) -> L4End {
    if full == Full::Process {
        worker.metrics.limit_hit(LimitHit::Descriptors);
    }
    L4End::TooMany
}

/// Why this peer is not served, as far as its address tells.
fn refusal(bind: &L4Bind, peer: SocketAddr) -> Option<L4End> {
    match &bind.policy.proxy_protocol_in {
        // The header will say who the client is.
        ProxyProtocolIn::Required { trusted } if trusted.0.is_empty() || trusted.contains(peer.ip()) => None,
        ProxyProtocolIn::Required { .. } => Some(L4End::SourceDenied),
        ProxyProtocolIn::None => denied(bind, peer),
    }
}

/// Why this client is not served, whoever sent it.
fn denied(bind: &L4Bind, client: SocketAddr) -> Option<L4End> {
    let ranges = bind.policy.source_ranges.as_ref()?;
    (!ranges.contains(client.ip())).then_some(L4End::SourceDenied)
}

/// Makes the other side see a reset when `stream` is dropped.
fn reset_on_close(stream: &TcpStream) {
    // Fails only for a socket that is gone already.
    let _set = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

#[cfg(test)]
mod tests {
    use config::table::Transport;

    use super::*;

    fn size_of_task<F: Future>(_: impl FnOnce(connection::Connection) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn binds_that_take_all_they_can_leave_something_to_others() {
        let room = Arc::new(Room::of(1_000));
        let key = |port| L4Key { address: ([127, 0, 0, 1], port).into(), transport: Transport::Tcp };
        let bind = |port| Arc::new(Listening::new(key(port), 0, Some(Arc::clone(&room))));
        let fill =
            |bind: &Arc<Listening>| std::iter::from_fn(|| bind.admit(0).ok()).take(2_000).collect::<Vec<_>>();
        let (one, two, three) = (bind(1), bind(2), bind(3));
        let first = fill(&one);
        assert_eq!(first.len(), 800);
        let second = fill(&two);
        assert_eq!(second.len(), 160);
        assert!(one.admit(0).is_err_and(|full| full == Full::Process));
        assert_eq!(three.admit(0).map(drop), Ok(()));
        drop((first, second));
        assert!(room.is_empty());
        assert_eq!(fill(&three).len(), 800);
    }

    #[test]
    fn clients_that_take_all_they_can_leave_something_to_others() {
        let room = Arc::new(Room::of(1_000));
        let key = |port| L4Key { address: ([127, 0, 0, 1], port).into(), transport: Transport::Tcp };
        let bind = |port| Arc::new(Listening::new(key(port), 0, Some(Arc::clone(&room))));
        let open = |bind: &Arc<Listening>, client: u8, most| {
            let mut counted = bind.admit(most)?;
            counted.claim([10, 0, 0, client].into(), most).map(|()| counted)
        };
        let fill = |bind: &Arc<Listening>, client, most| {
            std::iter::from_fn(|| open(bind, client, most).ok()).take(2_000).collect::<Vec<_>>()
        };
        let (one, two) = (bind(1), bind(2));
        let first = fill(&one, 1, 0);
        assert_eq!(first.len(), 500, "no more than is free");
        assert!(open(&two, 1, 0).is_err_and(|full| full == Full::Process), "anywhere");
        let second = fill(&one, 2, 0);
        assert_eq!(second.len(), 250, "half of what the first has left");
        assert!(open(&one, 3, 0).is_ok() && open(&two, 3, 0).is_ok(), "the next gets in");
        drop((first, second));
        // The same for what a Bind may have by its own limit; few are everybody's.
        let own = fill(&one, 1, 100);
        assert_eq!(own.len(), 50);
        assert!(open(&one, 1, 100).is_err_and(|full| full == Full::Bind) && open(&one, 2, 100).is_ok());
        assert!(open(&two, 1, 0).is_ok());
        assert_eq!(fill(&two, 1, 4).len(), 4);
        drop(own);
        assert!(room.is_empty());
    }

    /// An idle connection costs its task and two registrations with the reactor.
    #[test]
    fn a_connection_task_stays_small() {
        let size = size_of_task(connection::Connection::serve);
        assert!(size <= 3_072, "a connection's task has {size} bytes");
    }
}
