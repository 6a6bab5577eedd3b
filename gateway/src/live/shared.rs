//! The one ArcSwap, and its single writer.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Guard};
use config::table::{Chunks, RouteTable};
use tokio::sync::watch;
use tracing::warn;

use crate::proxy::cdn_loop::LoopToken;

use super::registry::Registry;
use super::{Live, Occupied, clock};

/// What all workers share: the current [`Live`].
#[derive(Debug)]
pub struct Shared {
    live: ArcSwap<Live>,
    version: AtomicU64,
    workers: usize,
    published: watch::Sender<u64>,
    occupied: Occupied,
    loop_token: LoopToken,
}

/// Replaces the current [`Live`]. There is one, on the control thread.
#[derive(Debug)]
pub struct Publisher {
    shared: Arc<Shared>,
    registry: Registry,
    reaper: Option<mpsc::Sender<Arc<Live>>>,
}

impl Shared {
    /// The shared value with an empty table, and its writer. `workers` is the number of workers that will count
    /// and pick.
    #[must_use]
    pub fn new(workers: usize) -> (Arc<Self>, Publisher) {
        clock::start();
        let empty = Live {
            table: Arc::default(),
            backends: Chunks::default(),
            tls: Arc::default(),
            routes: Chunks::default(),
            cells: Arc::default(),
        };
        let shared = Arc::new(Self {
            live: ArcSwap::from_pointee(empty),
            version: AtomicU64::new(0),
            workers,
            published: watch::Sender::new(0),
            occupied: Occupied::default(),
            loop_token: LoopToken::default(),
        });
        let publisher = Publisher {
            shared: Arc::clone(&shared),
            registry: Registry::new(workers),
            reaper: spawn_reaper(),
        };
        (shared, publisher)
    }

    /// The current value. Take what is needed and drop the guard before any `.await`.
    #[inline]
    #[must_use]
    pub fn load(&self) -> Guard<Arc<Live>> {
        self.live.load()
    }

    /// Number of tables published so far. One atomic load.
    #[inline]
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version.load(Acquire)
    }

    /// What tells requests that have been here before.
    pub(crate) const fn loop_token(&self) -> &LoopToken {
        &self.loop_token
    }

    /// Number of workers that serve from it.
    pub(crate) const fn workers(&self) -> usize {
        self.workers
    }

    /// Where this process listens itself.
    #[must_use]
    pub const fn occupied(&self) -> &Occupied {
        &self.occupied
    }

    /// True once a table was published.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.version() > 0
    }

    /// Follows [`Self::version`]: wakes at each publish.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.published.subscribe()
    }
}

impl Publisher {
    /// Makes `table` the one that is served. Unchanged parts and all endpoint state are shared with the table
    /// before; what it no longer refers to is retired; the old value is dropped on a thread of its own.
    pub fn publish(&mut self, table: Arc<RouteTable>) {
        let now = Instant::now();
        let (live, released) = {
            let old = self.shared.live.load();
            self.registry.build(table, &old, now)
        };
        let old = self.shared.live.swap(Arc::new(live));
        for endpoint in &released.endpoints {
            endpoint.retire();
        }
        let version = self.shared.version.load(Acquire) + 1;
        self.shared.version.store(version, Release);
        self.shared.published.send_replace(version);
        if let Some(reaper) = &self.reaper {
            // Without a reaper the value is dropped here: by the publisher, or by the last request that holds it.
            let _ = reaper.send(old);
        }
    }

    /// What this publisher writes to.
    #[must_use]
    pub const fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

/// A thread that keeps each old value until nobody else does, so that no worker ever pays for freeing a table.
fn spawn_reaper() -> Option<mpsc::Sender<Arc<Live>>> {
    let (sender, receiver) = mpsc::channel();
    let spawned = std::thread::Builder::new().name("reaper".into()).spawn(move || reap(&receiver));
    if let Err(error) = spawned {
        warn!(%error, "cannot start the reaper thread: old tables are freed by the control thread");
        return None;
    }
    Some(sender)
}

/// Sleeps while it keeps something, so that a burst of tables wakes it once and not each time.
fn reap(receiver: &mpsc::Receiver<Arc<Live>>) {
    const LOOK_AGAIN: Duration = Duration::from_millis(50);
    while let Ok(old) = receiver.recv() {
        let mut kept = vec![old];
        while !kept.is_empty() {
            std::thread::sleep(LOOK_AGAIN);
            kept.extend(receiver.try_iter());
            // The swap has turned every worker's guard into a counted reference, so the count is exact.
            kept.retain(|old| Arc::strong_count(old) > 1);
        }
    }
}
