//! The workers as a whole: starting them, keeping their sockets in step with the table, draining.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use config::table::{Bind, L4Key, RouteTable, Transport, overlaps};
use tokio::sync::mpsc;

use crate::access_log::AccessLog;
use crate::dial;
use crate::live::Shared;
use crate::metrics::Registry;
use crate::tcp::{BACKLOG, Order, Sockets, probe, raw_socket};
use crate::worker::{self, Command, Place, Socket, Thread};

/// A Bind that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}")]
pub struct BindError {
    /// The configured address.
    pub address: SocketAddr,
    /// What the kernel said.
    pub source: io::Error,
}

/// The running data plane. Owned by the control thread.
#[derive(Debug)]
pub struct Gateway {
    workers: Vec<Thread>,
    /// configured address → open socket and the address that it got
    open: BTreeMap<SocketAddr, (Arc<Socket>, SocketAddr)>,
    l4: Sockets,
    shared: Arc<Shared>,
    registry: Arc<Registry>,
    /// What is open is not what was told last.
    has_moved: bool,
}

impl Gateway {
    /// Starts `workers` threads (at least one); they serve nothing before [`Self::open_binds`].
    ///
    /// # Errors
    /// If a thread or its runtime cannot be made.
    pub fn start(
        workers: usize,
        shared: &Arc<Shared>,
        registry: &Arc<Registry>,
        log: &AccessLog,
    ) -> io::Result<Self> {
        let start = |index| {
            let metrics = registry.worker(index).cloned().unwrap_or_default();
            worker::start(index, Arc::clone(shared), metrics, log.worker(index))
        };
        let workers: Vec<Thread> = (0..workers.max(1)).map(start).collect::<io::Result<_>>()?;
        let l4 = Sockets::new(workers.len());
        let (shared, registry) = (Arc::clone(shared), Arc::clone(registry));
        Ok(Self { workers, open: BTreeMap::new(), l4, shared, registry, has_moved: false })
    }

    /// Opens what `table` has and is not open yet, and applies changed limits. Call before the table is
    /// published. A Bind that fails is tried again at the next call; the others are not touched.
    pub fn open_binds(&mut self, table: &RouteTable) -> Vec<BindError> {
        let mut errors: Vec<(L4Key, io::Error)> = Vec::new();
        for bind in &table.binds {
            let address = bind.config.address;
            if let Some((socket, _)) = self.open.get(&address) {
                socket.most.store(bind.config.limits.max_connections, Ordering::Relaxed);
            } else if let Err(source) = self.open_bind(bind) {
                errors.push((L4Key { address, transport: Transport::Tcp }, source));
            }
        }
        let others: Vec<SocketAddr> = self.open.values().map(|(_, actual)| *actual).collect();
        let (orders, failures) = self.l4.open(table, &others);
        self.tell_occupied();
        self.give(orders);
        errors.extend(failures);
        let lacks: BTreeMap<L4Key, String> =
            errors.iter().map(|(key, error)| (*key, error.to_string())).collect();
        self.registry.binds_failed.store(lacks.len() as u64, Ordering::Relaxed);
        self.shared.occupied().lacks(lacks);
        errors.into_iter().map(|(key, source)| BindError { address: key.address, source }).collect()
    }

    fn open_bind(&mut self, bind: &Bind) -> io::Result<()> {
        let key = bind.config.address;
        let l4_key = L4Key { address: key, transport: Transport::Tcp };
        let is_ours =
            self.l4.overlaps(l4_key) || self.open.values().any(|(_, actual)| overlaps(*actual, key));
        let free_bind = bind.config.free_bind;
        let actual = probe(l4_key, free_bind, is_ours)?;
        let listener = |_: &Thread| listen(actual, free_bind);
        let listeners: Vec<TcpListener> = self.workers.iter().map(listener).collect::<io::Result<_>>()?;
        let socket = Arc::new(Socket {
            key,
            port: actual.port(),
            config: Arc::clone(&bind.config),
            open: AtomicUsize::new(0),
            most: AtomicU32::new(bind.config.limits.max_connections),
        });
        for (worker, listener) in self.workers.iter().zip(listeners) {
            // A worker that is gone has logged why.
            let _sent = worker.commands.send(Command::Open(Arc::clone(&socket), listener));
        }
        self.open.insert(key, (socket, actual));
        self.has_moved = true;
        Ok(())
    }

    /// Stops accepting on what `table` no longer has. Call after the table is published; open connections
    /// finish what they have.
    pub fn close_binds(&mut self, table: &RouteTable) {
        let wanted = |key: &SocketAddr| table.binds.iter().any(|bind| bind.config.address == *key);
        let gone: Vec<SocketAddr> = self.open.keys().copied().filter(|key| !wanted(key)).collect();
        for key in gone {
            self.open.remove(&key);
            self.has_moved = true;
            self.command(|| Command::Close(Place::Http(key)));
        }
        let orders = self.l4.close();
        self.tell_occupied();
        self.give(orders);
    }

    /// Tells where this process listens, before anybody is served there.
    fn tell_occupied(&mut self) {
        let has_moved = std::mem::take(&mut self.has_moved);
        if !self.l4.take_moved() && !has_moved {
            return;
        }
        let http = self.bound().map(|(_, address)| L4Key { address, transport: Transport::Tcp });
        let l4 = self.l4_bound().map(|(key, address)| L4Key { address, ..key });
        self.shared.occupied().listens(http.chain(l4));
    }

    fn give(&self, orders: Vec<Order>) {
        for order in orders {
            match order {
                Order::Open(listening, sockets) => {
                    for (worker, socket) in self.workers.iter().zip(sockets) {
                        let listening = Arc::clone(&listening);
                        let command = match listening.key.transport {
                            Transport::Tcp => Command::OpenTcp(listening, socket.into()),
                            Transport::Udp => Command::OpenUdp(listening, socket.into()),
                        };
                        // A worker that is gone has logged why.
                        let _sent = worker.commands.send(command);
                    }
                }
                Order::Close(key) => self.command(|| Command::Close(Place::L4(key))),
            }
        }
    }

    /// Its channel is closed when all workers take connections at everything that was opened so far; nothing is sent there.
    /// With thousands of Binds that is a while after [`Self::open_binds`], for which clients wait in the kernel's queue.
    #[must_use]
    pub fn accepting(&self) -> mpsc::Receiver<()> {
        let (sender, receiver) = mpsc::channel(1);
        self.command(|| Command::Tell(sender.clone()));
        receiver
    }

    /// Binds that relay, and the addresses that are listened on.
    pub fn l4_bound(&self) -> impl Iterator<Item = (L4Key, SocketAddr)> {
        self.l4.bound()
    }

    /// configured address → address listened on (they differ for port 0).
    pub fn bound(&self) -> impl Iterator<Item = (SocketAddr, SocketAddr)> {
        self.open.iter().map(|(key, (_, actual))| (*key, *actual))
    }

    /// Open client connections on all Binds.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.registry.open_connections()
    }

    /// Stops accepting, closes idle connections and announces `Connection: close` on the others; returns when none
    /// is left or `deadline` has passed. True if none is left.
    pub fn drain(&self, deadline: Duration) -> bool {
        let (seen, all_seen) = std::sync::mpsc::channel();
        self.command(|| Command::Drain(seen.clone()));
        drop(seen);
        let end = Instant::now() + deadline;
        // Disconnects when every worker has counted the last connection that it takes.
        let _disconnected = all_seen.recv_timeout(deadline);
        loop {
            if self.connections() == 0 {
                return true;
            }
            if Instant::now() >= end {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends every connection and thread.
    pub fn stop(self) {
        self.command(|| Command::Stop);
        for worker in self.workers {
            if worker.handle.join().is_err() {
                tracing::error!("a worker ended in a panic");
            }
        }
    }

    fn command(&self, command: impl Fn() -> Command) {
        for worker in &self.workers {
            // A worker that is gone needs no command.
            let _sent = worker.commands.send(command());
        }
    }
}

fn listen(address: SocketAddr, free_bind: bool) -> io::Result<TcpListener> {
    let socket = raw_socket(Transport::Tcp, address, free_bind)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    // Accepted sockets inherit these, so that no connection pays for them: Nagle would hold back the last part of a response.
    socket.set_tcp_nodelay(true)?;
    dial::give_up_soon(&socket);
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn what_is_sent_to_clients_is_not_held_back() {
        let listener = listen(([127, 0, 0, 1], 0).into(), false).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        listener.set_nonblocking(false).unwrap();
        assert!(listener.accept().unwrap().0.nodelay().unwrap());
    }
}
