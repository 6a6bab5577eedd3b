//! The thread of one worker: runtime, accept loops, the tick, and commands from the control thread.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use std::{fmt, io};

use config::table::{L4Key, Transport};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::LocalOptions;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::accept::accept;
use super::timers::TICK;
use super::{Socket, Worker};
use crate::access_log::WorkerLog;
use crate::http1::connection::{self, Client};
use crate::live::Shared;
use crate::metrics::WorkerMetrics;
use crate::tcp::{self, Listening};
use crate::udp::Datagrams;

/// How often a connection beyond `max_connections` looks whether there is room.
const FULL_WAIT: Duration = Duration::from_millis(10);

/// What the control thread asks of a worker.
#[derive(Debug)]
pub(crate) enum Command {
    /// Accept on this socket.
    Open(Arc<Socket>, std::net::TcpListener),
    /// Accept on this socket of a Bind that relays.
    OpenTcp(Arc<Listening>, std::net::TcpListener),
    /// Relay datagrams of this socket.
    OpenUdp(Arc<Listening>, std::net::UdpSocket),
    /// Take what is queued, then stop accepting on the Bind.
    Close(Place),
    /// Drop the sender once everything that was to be opened before takes connections.
    Tell(mpsc::Sender<()>),
    /// Announce the end on every connection, take what is queued, stop accepting, then drop the sender.
    Drain(std::sync::mpsc::Sender<()>),
    /// End now.
    Stop,
}

/// Where connections come in.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Place {
    /// A Bind on which HTTP is spoken.
    Http(SocketAddr),
    /// A Bind that relays.
    L4(L4Key),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(address) => address.fmt(f),
            Self::L4(key) => key.fmt(f),
        }
    }
}

/// What ends an accept loop when dropped, and the loop.
type Accepting = (oneshot::Sender<()>, JoinHandle<()>);

/// A running worker.
#[derive(Debug)]
pub(crate) struct Thread {
    pub(crate) commands: mpsc::UnboundedSender<Command>,
    pub(crate) handle: thread::JoinHandle<()>,
}

/// Starts the thread.
///
/// # Errors
/// If the thread or its runtime cannot be made.
pub(crate) fn start(
    index: usize,
    shared: Arc<Shared>,
    metrics: Arc<WorkerMetrics>,
    log: WorkerLog,
) -> io::Result<Thread> {
    let (commands, receiver) = mpsc::unbounded_channel();
    // Made in its thread, because it never leaves it; whether it could be made comes back by channel.
    let (made, outcome) = std::sync::mpsc::sync_channel(1);
    let main = move || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = match builder.enable_all().build_local(LocalOptions::default()) {
            Ok(runtime) => runtime,
            Err(error) => return drop(made.send(Err(error))),
        };
        // The starter waits for this, or has gone and needs it no more.
        let _sent = made.send(Ok(()));
        let worker = Worker::new(index, shared, metrics, log, Instant::now());
        runtime.block_on(run(Rc::clone(&worker), receiver));
        // Open connections end here, with the runtime that they are registered with.
        drop(runtime);
        worker.log.borrow_mut().flush();
    };
    let handle = thread::Builder::new().name(format!("worker-{index}")).spawn(main)?;
    outcome.recv().map_err(io::Error::other)??;
    Ok(Thread { commands, handle })
}

async fn run(worker: Rc<Worker>, mut commands: mpsc::UnboundedReceiver<Command>) {
    let mut accepting: HashMap<Place, Accepting> = HashMap::new();
    let datagrams = Datagrams::new(&worker);
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _ = tick.tick() => {
                worker.tick();
                datagrams.tick();
            }
            command = commands.recv() => match command {
                Some(Command::Open(socket, listener)) => {
                    let key = socket.key;
                    let to = Rc::clone(&worker);
                    let admit = async move |stream, address| admit(&to, &socket, stream, address).await;
                    accepting.extend(begin(&worker, Place::Http(key), listener, admit));
                }
                Some(Command::OpenTcp(listening, listener)) => {
                    let key = listening.key;
                    let to = Rc::clone(&worker);
                    let admit = async move |stream, address| tcp::admit(&to, &listening, stream, address);
                    accepting.extend(begin(&worker, Place::L4(key), listener, admit));
                }
                Some(Command::OpenUdp(listening, socket)) => datagrams.open(listening, socket),
                Some(Command::Close(Place::L4(key))) if key.transport == Transport::Udp => datagrams.close(key),
                Some(Command::Close(place)) => drop(accepting.remove(&place)),
                Some(Command::Tell(sender)) => {
                    // The accept loops that were begun before come first.
                    tokio::task::spawn_local(async move { drop(sender) });
                }
                Some(Command::Drain(seen)) => {
                    worker.drain();
                    let loops: Vec<_> = accepting.drain().map(|(_, (_, task))| task).collect();
                    tokio::task::spawn_local(async move {
                        for task in loops {
                            // It ends however it ends; a panic was printed.
                            let _ended = task.await;
                        }
                        drop(seen);
                    });
                }
                Some(Command::Stop) | None => return datagrams.stop(),
            },
        }
    }
}

/// Begins to accept at `place`.
fn begin(
    worker: &Rc<Worker>,
    place: Place,
    listener: std::net::TcpListener,
    admit: impl AsyncFnMut(TcpStream, SocketAddr) + 'static,
) -> Option<(Place, Accepting)> {
    let listener = TcpListener::from_std(listener);
    let listener =
        listener.inspect_err(|error| tracing::error!(bind = %place, %error, "cannot accept on socket"));
    let (go_on, end) = oneshot::channel();
    let (worker, listener) = (Rc::clone(worker), listener.ok()?);
    let task = async move { accept(&worker, place, listener, end, admit).await };
    Some((place, (go_on, tokio::task::spawn_local(task))))
}

/// Serves a connection once there is room for it. Only the one that waits here is accepted beyond the limit;
/// the others wait in the kernel's queue.
async fn admit(worker: &Rc<Worker>, socket: &Arc<Socket>, stream: TcpStream, address: SocketAddr) {
    let mut admission = socket.admit();
    if admission.is_none() {
        worker.metrics.limit_hit(crate::metrics::LimitHit::Connections);
    }
    let admission = loop {
        match admission {
            Some(admission) => break admission,
            None => tokio::time::sleep(FULL_WAIT).await,
        }
        admission = socket.admit();
    };
    worker.metrics.connections_accepted.add(1);
    let client = Box::new(Client::new(worker, stream, address, admission));
    tokio::task::spawn_local(connection::serve(Rc::clone(worker), client));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_task<F: Future>(_: impl FnOnce(Rc<Worker>, Box<Client>) -> F) -> usize {
        size_of::<F>()
    }

    /// An idle connection costs its task, its client state and its registration with the reactor, so the
    /// task's size is what 10,000 of them cost 10,000 times.
    #[test]
    fn a_connection_task_stays_small() {
        let size = size_of_task(connection::serve);
        assert!(size <= 2_304, "a connection's task has {size} bytes");
    }
}
