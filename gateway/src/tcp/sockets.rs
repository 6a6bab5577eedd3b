//! The listening sockets of L4 Binds, kept in step with the table. Owned by the control thread.
//!
//! A Bind whose route has no endpoint keeps its port and does not listen: clients are refused by the kernel, and no
//! other program takes the port meanwhile. A table costs what changed in it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use config::table::{Backend, Chunks, L4Bind, L4Key, RouteTable, Split, Transport, overlaps};
use socket2::{Domain, Protocol, Socket as RawSocket, Type};

use super::{Listening, Room};
use crate::{dial, udp};

/// Connections that the kernel queues per socket before they are accepted.
pub(crate) const BACKLOG: i32 = 4_096;

/// What a Bind has of the kernel.
#[derive(Debug)]
enum Held {
    /// Workers accept.
    Open(Arc<Listening>),
    /// The port, without listening.
    Reserved { _socket: RawSocket },
}

#[derive(Debug)]
struct Entry {
    held: Held,
    actual: SocketAddr,
}

/// What the workers are to do.
#[derive(Debug)]
pub(crate) enum Order {
    /// Accept or receive on these, one for each worker.
    Open(Arc<Listening>, Vec<RawSocket>),
    /// Take what is queued, then stop accepting.
    Close(L4Key),
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Sockets {
    workers: usize,
    /// For the connections of all TCP Binds.
    room: Arc<Room>,
    held: BTreeMap<L4Key, Entry>,
    /// what travels there, port, and whether it is of IPv4 → how many sockets, and how many of them on every address
    ports: HashMap<(Transport, u16, bool), (usize, usize)>,
    /// backend → slots that forward to it
    users: HashMap<u32, BTreeSet<u32>>,
    /// What was seen last.
    binds: Chunks<L4Bind>,
    backends: Chunks<Backend>,
    /// Slots to be looked at after the swap.
    touched: BTreeSet<u32>,
    /// Keys to be closed after the swap, unless some slot wants them.
    left: BTreeSet<L4Key>,
    /// Slots that could not be opened.
    failed: BTreeSet<u32>,
    /// What is held is not what it was.
    has_moved: bool,
}

impl Sockets {
    pub(crate) fn new(workers: usize) -> Self {
        Self {
            workers,
            room: Arc::new(Room::of_process()),
            held: BTreeMap::new(),
            ports: HashMap::new(),
            users: HashMap::new(),
            binds: Chunks::default(),
            backends: Chunks::default(),
            touched: BTreeSet::new(),
            left: BTreeSet::new(),
            failed: BTreeSet::new(),
            has_moved: false,
        }
    }

    /// Opens what `table` has and is not open yet. To be called before it is published. What fails is tried again at the
    /// next call. `others` are sockets that are not ours to open.
    pub(crate) fn open(
        &mut self,
        table: &RouteTable,
        others: &[SocketAddr],
    ) -> (Vec<Order>, Vec<(L4Key, io::Error)>) {
        self.look(table);
        let (mut orders, mut errors) = (Vec::new(), Vec::new());
        for slot in std::mem::take(&mut self.failed)
            .into_iter()
            .chain(self.touched.iter().copied())
            .collect::<BTreeSet<_>>()
        {
            let Some(bind) = table.l4.at(slot) else { continue };
            self.left.remove(&bind.key);
            match self.ensure(bind, slot, has_endpoint(bind, &table.backends), others) {
                Ok(order) => orders.extend(order),
                Err(error) => {
                    self.failed.insert(slot);
                    errors.push((bind.key, error));
                }
            }
        }
        (orders, errors)
    }

    /// Closes what the table that was opened last does not have, or has no endpoint for. To be called after it was
    /// published.
    pub(crate) fn close(&mut self) -> Vec<Order> {
        let mut orders = Vec::new();
        for key in std::mem::take(&mut self.left) {
            let Some(entry) = self.held.remove(&key) else { continue };
            self.count(key, false);
            if let Held::Open(_) = entry.held {
                orders.push(Order::Close(key));
            }
        }
        for slot in std::mem::take(&mut self.touched) {
            let Some(bind) = self.binds.at(slot).cloned() else { continue };
            let is_idle = !has_endpoint(&bind, &self.backends);
            let Some(entry) = self.held.get_mut(&bind.key).filter(|_| is_idle) else { continue };
            if let Held::Open(_) = entry.held {
                // Without the reservation the port could be lost to another program, which is better than to go on
                // telling clients that they are connected.
                match reserve(bind.key.transport, entry.actual, bind.free_bind) {
                    Ok(socket) => entry.held = Held::Reserved { _socket: socket },
                    Err(error) => {
                        tracing::warn!(bind = %bind.key, %error, "cannot keep the port while there is no endpoint");
                        self.held.remove(&bind.key);
                        self.count(bind.key, false);
                    }
                }
                orders.push(Order::Close(bind.key));
            }
        }
        orders
    }

    /// Whether [`Self::bound`] has changed since this was asked last.
    pub(crate) fn take_moved(&mut self) -> bool {
        std::mem::take(&mut self.has_moved)
    }

    /// Binds and the addresses that are listened on (they differ for port 0).
    pub(crate) fn bound(&self) -> impl Iterator<Item = (L4Key, SocketAddr)> {
        self.held.iter().map(|(key, entry)| (*key, entry.actual))
    }

    /// Whether a socket of ours takes what is sent to the address, or would without a more specific one.
    pub(crate) fn overlaps(&self, key: L4Key) -> bool {
        let address = key.address;
        match self.ports.get(&(key.transport, address.port(), address.is_ipv4())) {
            None => false,
            Some((_, 1..)) => true,
            Some(_) if address.ip().is_unspecified() => true,
            Some(_) => self.held.contains_key(&key),
        }
    }

    /// Notes what has changed since the last table.
    fn look(&mut self, table: &RouteTable) {
        let Self { users, touched, left, .. } = self;
        table.l4.changes(&self.binds, |slot, before, after| {
            touched.insert(slot);
            for id in before.into_iter().flat_map(|bind| backends(bind)) {
                if let Some(slots) = users.get_mut(&id) {
                    slots.remove(&slot);
                    if slots.is_empty() {
                        users.remove(&id);
                    }
                }
            }
            for id in after.into_iter().flat_map(|bind| backends(bind)) {
                users.entry(id).or_default().insert(slot);
            }
            left.extend(before.map(|bind| bind.key));
        });
        table.backends.changes(&self.backends, |id, before, after| {
            let is_empty =
                |backend: Option<&Arc<Backend>>| backend.is_none_or(|backend| backend.endpoints.is_empty());
            if is_empty(before) != is_empty(after) {
                touched.extend(users.get(&id).into_iter().flatten());
            }
        });
        self.binds = table.l4.clone();
        self.backends = table.backends.clone();
    }

    fn ensure(
        &mut self,
        bind: &L4Bind,
        slot: u32,
        listens: bool,
        others: &[SocketAddr],
    ) -> io::Result<Option<Order>> {
        let key = bind.key;
        let actual = match self.held.get(&key) {
            Some(Entry { held: Held::Open(listening), .. }) => {
                listening.slot.store(slot, Ordering::Relaxed);
                return Ok(None);
            }
            Some(Entry { held: Held::Reserved { .. }, .. }) if !listens => return Ok(None),
            Some(entry) => entry.actual,
            None => {
                let is_http = || others.iter().any(|other| overlaps(*other, key.address));
                let is_ours = self.overlaps(key) || (key.transport == Transport::Tcp && is_http());
                probe(key, bind.free_bind, is_ours)?
            }
        };
        let (held, order) = if listens {
            let listener = || listen(key.transport, actual, bind.free_bind);
            let listeners = (0..self.workers).map(|_| listener()).collect::<io::Result<_>>()?;
            let room = (key.transport == Transport::Tcp).then(|| Arc::clone(&self.room));
            let listening = Arc::new(Listening::new(key, slot, room));
            (Held::Open(Arc::clone(&listening)), Some(Order::Open(listening, listeners)))
        } else {
            (Held::Reserved { _socket: reserve(key.transport, actual, bind.free_bind)? }, None)
        };
        if self.held.insert(key, Entry { held, actual }).is_none() {
            self.count(key, true);
        }
        Ok(order)
    }

    fn count(&mut self, key: L4Key, comes: bool) {
        self.has_moved = true;
        let address = key.address;
        let port = (key.transport, address.port(), address.is_ipv4());
        let (all, wildcards) = self.ports.entry(port).or_default();
        let one = usize::from(address.ip().is_unspecified());
        if comes {
            (*all, *wildcards) = (*all + 1, *wildcards + one);
        } else {
            (*all, *wildcards) = (all.saturating_sub(1), wildcards.saturating_sub(one));
            if *all == 0 {
                self.ports.remove(&port);
            }
        }
    }
}

/// The backends that a Bind forwards to.
fn backends(bind: &L4Bind) -> impl Iterator<Item = u32> {
    let (one, several) = match &bind.target {
        Ok(Split::One(id)) => (Some(id.0), &[][..]),
        Ok(Split::Weighted(shares)) => (None, &**shares),
        Err(_) => (None, &[][..]),
    };
    one.into_iter().chain(several.iter().filter_map(|share| Some(share.backend.ok()?.0)))
}

/// Whether there is somebody to connect a client to.
fn has_endpoint(bind: &L4Bind, table: &Chunks<Backend>) -> bool {
    let is_served = |id: u32| table.at(id).is_some_and(|backend| !backend.endpoints.is_empty());
    match &bind.target {
        Ok(Split::One(id)) => is_served(id.0),
        Ok(Split::Weighted(shares)) => {
            let served = |backend: config::table::BackendId| is_served(backend.0);
            shares.iter().any(|share| share.weight > 0 && share.backend.is_ok_and(served))
        }
        Err(_) => false,
    }
}

/// Whether the address can be had: the address, with the port that it got. `SO_REUSEPORT` would silently share the port
/// with another process of the same user, so this looks without; which only tells while no socket of ours is there.
pub(crate) fn probe(key: L4Key, free_bind: bool, is_ours: bool) -> io::Result<SocketAddr> {
    if is_ours {
        return Ok(key.address);
    }
    let probe = raw_socket(key.transport, key.address, free_bind)?;
    probe.bind(&key.address.into())?;
    Ok(probe.local_addr()?.as_socket().unwrap_or(key.address))
}

/// A socket that is to listen.
pub(crate) fn raw_socket(
    transport: Transport,
    address: SocketAddr,
    free_bind: bool,
) -> io::Result<RawSocket> {
    let domain = Domain::for_address(address);
    let socket = match transport {
        Transport::Tcp => {
            let socket = RawSocket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
            socket.set_reuse_address(true)?;
            socket
        }
        // Two UDP sockets with SO_REUSEADDR could have one address, and one of them all datagrams.
        Transport::Udp => RawSocket::new(domain, Type::DGRAM, Some(Protocol::UDP))?,
    };
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if free_bind {
        match address {
            SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
            SocketAddr::V6(_) => socket.set_freebind_v6(true)?,
        }
    }
    Ok(socket)
}

/// Keeps the port from others, and refuses who connects or sends.
fn reserve(transport: Transport, address: SocketAddr, free_bind: bool) -> io::Result<RawSocket> {
    let socket = raw_socket(transport, address, free_bind)?;
    // With it, others who set it as well could have the port while nobody listens.
    socket.set_reuse_address(false)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    if transport == Transport::Udp {
        // An address that the host does not have yet cannot be connected; nothing is sent to it either.
        if let Err(error) = udp::refuse(&socket, address) {
            tracing::debug!(%address, %error, "cannot refuse datagrams while there is no endpoint");
        }
    }
    Ok(socket)
}

fn listen(transport: Transport, address: SocketAddr, free_bind: bool) -> io::Result<RawSocket> {
    let socket = raw_socket(transport, address, free_bind)?;
    socket.set_reuse_port(true)?;
    if transport == Transport::Udp {
        udp::prepare(&socket, address)?;
        socket.bind(&address.into())?;
        return Ok(socket);
    }
    socket.bind(&address.into())?;
    // Accepted sockets inherit these, so that no connection pays for them.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&dial::keepalive())?;
    dial::give_up_soon(&socket);
    socket.set_nonblocking(true)?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}
