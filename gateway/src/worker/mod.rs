//! One worker: a `current_thread` runtime with its own sockets, buffers, pools and counters. Nothing in a
//! [`Worker`] is shared with another thread but what it is given in [`Shared`] and the metrics.

mod accept;
pub(crate) mod buffers;
pub(crate) mod fast_path;
mod run;
pub(crate) mod timers;
pub(crate) mod watch;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Instant;

use config::table::BindConfig;
use std::net::SocketAddr;
use tokio::sync::Semaphore;

use self::buffers::Buffers;
use self::fast_path::FastPath;
use self::timers::Timers;
use self::watch::Watched;
use crate::access_log::WorkerLog;
use crate::http1::head::Field;
use crate::live::{Live, Occupied, Shared};
use crate::metrics::WorkerMetrics;
use crate::proxy::cdn_loop::LoopToken;
use crate::upstream::{Http2Pool, Pool};

pub(crate) use self::run::{Command, Place, Thread, start};

/// What the tasks of one thread share.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) index: usize,
    shared: Arc<Shared>,
    live: RefCell<Rc<Current>>,
    pub(crate) metrics: Arc<WorkerMetrics>,
    pub(crate) log: RefCell<WorkerLog>,
    pub(crate) timers: Rc<Timers>,
    pub(crate) buffers: Rc<Buffers>,
    pub(crate) watched: Rc<Watched>,
    pub(crate) fast_path: FastPath,
    /// The version whose removals were told to those who watch.
    told: Cell<u64>,
    pub(crate) pool: Pool,
    pub(crate) http2: Http2Pool,
    pub(crate) scratch: RefCell<Scratch>,
    pub(crate) random: RefCell<fastrand::Rng>,
    /// Taken while a handshake is computed.
    pub(crate) handshakes: Semaphore,
    /// No new request is accepted on a connection that has served one.
    draining: Cell<bool>,
    started: Instant,
}

/// The table version that this worker serves from.
#[derive(Debug)]
pub(crate) struct Current {
    pub(crate) live: Arc<Live>,
    version: u64,
}

/// Memory for parsing, used between two awaits only.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// Counts the uses, so that whoever filled `fields` can tell whether they are still there.
    pub(crate) uses: u64,
    pub(crate) fields: Vec<Field>,
    pub(crate) path: Vec<u8>,
    pub(crate) host: Vec<u8>,
    pub(crate) rewritten: Vec<u8>,
    pub(crate) merged: Vec<u8>,
}

impl Worker {
    pub(crate) fn new(
        index: usize,
        shared: Arc<Shared>,
        metrics: Arc<WorkerMetrics>,
        log: WorkerLog,
        started: Instant,
    ) -> Rc<Self> {
        let version = shared.version();
        let live = arc_swap::Guard::into_inner(shared.load());
        Rc::new(Self {
            index,
            shared,
            live: RefCell::new(Rc::new(Current { live, version })),
            metrics,
            log: RefCell::new(log),
            timers: Rc::default(),
            buffers: Rc::default(),
            watched: Rc::default(),
            fast_path: FastPath::default(),
            told: Cell::new(version),
            pool: Pool::default(),
            http2: Http2Pool::default(),
            scratch: RefCell::default(),
            random: RefCell::new(fastrand::Rng::new()),
            handshakes: Semaphore::new(crate::tls::MOST_HANDSHAKES),
            draining: Cell::new(false),
            started,
        })
    }

    /// The current table and state, one cheap version check per call. Holding it keeps that version alive, so
    /// that a request sees one table from its head to its end.
    #[inline]
    pub(crate) fn live(&self) -> Rc<Current> {
        if self.live.borrow().version != self.shared.version() {
            self.reload();
        }
        Rc::clone(&self.live.borrow())
    }

    #[cold]
    fn reload(&self) {
        // The version is read first: a publish in between is seen by the next call.
        let version = self.shared.version();
        let live = arc_swap::Guard::into_inner(self.shared.load());
        *self.live.borrow_mut() = Rc::new(Current { live, version });
        self.metrics.swaps_seen.add(1);
    }

    /// How many workers there are.
    pub(crate) fn workers(&self) -> usize {
        self.shared.workers()
    }

    /// Where this process listens itself.
    pub(crate) fn occupied(&self) -> &Occupied {
        self.shared.occupied()
    }

    /// What tells requests that have been here before.
    pub(crate) fn loop_token(&self) -> &LoopToken {
        self.shared.loop_token()
    }

    /// Whether the process is going down.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Announces the end on every connection and wakes the idle ones.
    pub(crate) fn drain(&self) {
        self.draining.set(true);
        self.timers.wake_all();
    }

    /// Gives back what can be done without, for want of descriptors.
    pub(crate) fn shed(&self) {
        self.pool.clear();
        self.http2.clear();
    }

    /// What is done once per tick.
    pub(crate) fn tick(&self) {
        self.timers.advance(self.started.elapsed());
        self.log.borrow_mut().flush();
        if self.live.borrow().version != self.shared.version() {
            self.reload();
        }
        if self.told.replace(self.shared.version()) != self.shared.version() {
            self.watched.wake_retired();
        }
        self.pool.sweep(self.timers.now());
        self.http2.sweep();
        let evicted = self.pool.take_evicted() + self.http2.take_closed();
        if evicted > 0 {
            self.metrics.upstream_evictions.add(evicted);
        }
    }
}

/// One Bind as the workers see it: its settings as of the last request, and its open connections.
#[derive(Debug)]
pub(crate) struct Socket {
    /// The configured address: the key in the table.
    pub(crate) key: SocketAddr,
    /// The port that is listened on; differs from the configured one if that is 0.
    pub(crate) port: u16,
    /// Settings when the socket was opened; used where the table no longer has the Bind.
    pub(crate) config: Arc<BindConfig>,
    /// Open client connections over all workers.
    pub(crate) open: AtomicUsize,
    /// Connections are accepted only below this.
    pub(crate) most: AtomicU32,
}

impl Socket {
    /// Counts a connection in, unless the limit is reached.
    pub(crate) fn admit(self: &Arc<Self>) -> Option<Admission> {
        let before = self.open.fetch_add(1, Ordering::Relaxed);
        let admission = Admission(Arc::clone(self));
        (before < self.most.load(Ordering::Relaxed) as usize).then_some(admission)
    }
}

/// A counted connection; counts itself out when dropped, panics included.
#[derive(Debug)]
pub(crate) struct Admission(Arc<Socket>);

impl Admission {
    /// The Bind that the connection came in on.
    pub(crate) fn socket(&self) -> &Arc<Socket> {
        &self.0
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}
