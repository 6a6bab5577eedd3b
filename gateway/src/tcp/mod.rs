//! TCP that is relayed as it is: accept, admit, choose an endpoint, connect, relay.
//!
//! Decides nothing about bytes, and never tells a client that it is connected when it can be known before that nobody
//! is there to talk to: while a route has no endpoint, its address refuses connections.

mod connection;
mod outcome;
mod sockets;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use config::table::{L4Bind, L4Key, ProxyProtocolIn};
use socket2::TcpKeepalive;
use tokio::net::TcpStream;

pub use self::outcome::{L4End, L4Record};
pub(crate) use self::sockets::{BACKLOG, Order, Sockets, probe, raw_socket};
use crate::live::Live;
use crate::metrics::LimitHit;
use crate::worker::Worker;

/// File descriptors that the process may have; as good as any number if nobody says.
pub(crate) fn descriptors() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX)
}

/// Room for TCP connections over all Binds: descriptors are the process's, and HTTP wants to live as well.
#[derive(Debug)]
pub(crate) struct Room {
    open: AtomicUsize,
    most: usize,
}

impl Room {
    /// A quarter of the descriptors in number, of which each needs two: one to the client, one to the endpoint.
    pub(crate) fn of_process() -> Self {
        Self::of(descriptors() / 4)
    }

    fn of(most: usize) -> Self {
        Self { open: AtomicUsize::new(0), most: most.max(1) }
    }

    /// Counts one more in; whether there is room for it on a Bind that has so many. A Bind may have no more than some
    /// times of what is free, so that there is always something left for the others.
    fn take(&self, of_bind: usize) -> bool {
        const TIMES_FREE: usize = 4;
        let free = self.most.saturating_sub(self.open.fetch_add(1, Ordering::Relaxed));
        of_bind < free.saturating_mul(TIMES_FREE)
    }
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
    /// The Bind has as many as it may have.
    Bind,
    /// All Binds together have, or it has too much of what is left to all of them.
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
        let counted = Counted(Arc::clone(self));
        if most != 0 && before >= most as usize {
            return Err(Full::Bind);
        }
        if is_room { Ok(counted) } else { Err(Full::Process) }
    }
}

/// A counted connection; counts itself out when dropped, panics included.
#[derive(Debug)]
pub(crate) struct Counted(Arc<Listening>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        if let Some(room) = &self.0.room {
            room.open.fetch_sub(1, Ordering::Relaxed);
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
            None => match listening.admit(bind.policy.max_connections) {
                Ok(counted) => Ok((Arc::clone(bind), counted)),
                Err(full) => {
                    if full == Full::Process {
                        worker.metrics.limit_hit(LimitHit::Descriptors);
                    }
                    Err(L4End::TooMany)
                }
            },
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

/// Whoever is gone without a word is noticed within a minute and a half of silence.
fn keepalive() -> TcpKeepalive {
    let keepalive =
        TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(10));
    keepalive.with_retries(3)
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
        assert_eq!(room.open.load(Ordering::Relaxed), 0);
        assert_eq!(fill(&three).len(), 800);
    }

    /// An idle connection costs its task and two registrations with the reactor.
    #[test]
    fn a_connection_task_stays_small() {
        let size = size_of_task(connection::Connection::serve);
        assert!(size <= 3_072, "a connection's task has {size} bytes");
    }
}
