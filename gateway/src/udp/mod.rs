//! UDP: datagrams are relayed as they are, by flows. A flow is what one client sends to one address of ours, and belongs
//! to one endpoint until that leaves, refuses or falls ill, or until nobody says anything for a while.
//!
//! Every worker has its own socket per Bind, and the kernel gives all datagrams of one client to the same one, so that
//! nothing is shared. An answer is taken from the endpoint's address and port alone, and leaves from the address that the
//! client used. Nothing is sent that did not arrive whole.

mod bound;
mod dropped;
mod flow;
pub mod measure;
mod shares;
mod socket;
mod train;
mod upstream;
mod victims;

use std::cell::{Cell, RefCell};
use std::io;
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;

use config::table::L4Key;
use rustix::event::epoll;
use slab::Slab;
use tokio::io::unix::AsyncFd;
use tokio::io::{Interest, Ready};
use tokio::task::JoinHandle;

use self::bound::{Bound, Surroundings, share, token};
pub use self::dropped::Dropped;
use self::flow::Whom;
use self::shares::Shares;
pub(crate) use self::shares::host_of;
use self::socket::{Answers, BATCH, Received};
pub(crate) use self::socket::{prepare, refuse};
use self::victims::Victims;
use crate::tcp::{L4End, Listening, descriptors};
use crate::worker::Worker;

/// Sockets that are looked at between two looks at everything else that the worker has to do.
const EVENTS: usize = 256;
/// Batches that are taken from one Bind at a time.
const ROUNDS: usize = 4;
/// Flows that are given up for one datagram, at most: those whose endpoint refused free no socket.
const MOST_EVICTED: usize = 64;

/// What a worker does with datagrams.
#[derive(Debug)]
pub(crate) struct Datagrams {
    worker: Rc<Worker>,
    running: RefCell<Option<Running>>,
}

/// It costs nothing where no Bind is for UDP.
#[derive(Debug)]
struct Running {
    engine: Rc<RefCell<Engine>>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Datagrams {
    pub(crate) fn new(worker: &Rc<Worker>) -> Self {
        Self { worker: Rc::clone(worker), running: RefCell::default() }
    }

    /// Relays what comes to `socket`.
    pub(crate) fn open(&self, listening: Arc<Listening>, socket: UdpSocket) {
        let key = listening.key;
        let opened = self.engine().and_then(|engine| engine.borrow_mut().open(listening, socket));
        if let Err(error) = opened {
            tracing::error!(bind = %key, %error, "cannot receive on socket");
        }
    }

    /// Relays what is queued, then ends the Bind with its flows.
    pub(crate) fn close(&self, key: L4Key) {
        if let Some(running) = &*self.running.borrow() {
            running.engine.borrow_mut().close(key);
        }
    }

    /// What is done once per tick.
    pub(crate) fn tick(&self) {
        if let Some(running) = &*self.running.borrow() {
            running.engine.borrow_mut().tick();
        }
    }

    /// Ends everything.
    pub(crate) fn stop(&self) {
        if let Some(running) = self.running.take() {
            running.engine.borrow_mut().stop();
        }
    }

    fn engine(&self) -> io::Result<Rc<RefCell<Engine>>> {
        if let Some(running) = &*self.running.borrow() {
            return Ok(Rc::clone(&running.engine));
        }
        let engine = Engine::new(&self.worker)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe for types whose descriptor may change, which an `OwnedFd` is not"
        )]
        let poll = AsyncFd::with_interest(Rc::clone(&engine.poll), Interest::READABLE)?;
        let engine = Rc::new(RefCell::new(engine));
        let task = tokio::task::spawn_local(run(Rc::clone(&engine), poll));
        *self.running.borrow_mut() = Some(Running { engine: Rc::clone(&engine), task });
        Ok(engine)
    }
}

/// Serves what is ready whenever something is.
async fn run(engine: Rc<RefCell<Engine>>, poll: AsyncFd<Rc<OwnedFd>>) {
    loop {
        let Ok(mut guard) = poll.readable().await else { return };
        let turn = catch_unwind(AssertUnwindSafe(|| engine.borrow_mut().turn()));
        let is_done = turn.unwrap_or_else(|_| {
            // What it had in its hands is lost, everything else goes on.
            engine.borrow().worker.metrics.panics.add(1);
            tracing::error!("relaying a datagram ended in a panic; please report this");
            false
        });
        if is_done {
            guard.clear_ready_matching(Ready::READABLE);
        } else {
            drop(guard);
            tokio::task::yield_now().await;
        }
    }
}

/// File descriptors that flows of one worker may have.
#[derive(Debug)]
struct Budget {
    most: usize,
    used: Cell<usize>,
}

impl Budget {
    /// A quarter of what the process may have, and half of the ports that the kernel gives out: HTTP and TCP, and other
    /// programs, want to live as well.
    fn of(workers: usize) -> Self {
        let most = (descriptors() / 4).min(local_ports() / 2) / workers.max(1);
        Self { most: most.max(1), used: Cell::new(0) }
    }

    const fn is_spent(&self) -> bool {
        self.used.get() >= self.most
    }

    /// How many descriptors of one client's flows are kept in any case.
    fn share(&self) -> u32 {
        share(u32::try_from(self.most).unwrap_or(u32::MAX))
    }

    fn take(&self) {
        self.used.set(self.used.get() + 1);
    }

    fn give(&self) {
        self.used.set(self.used.get().saturating_sub(1));
    }
}

/// How many ports the kernel gives out by itself; every flow has one.
fn local_ports() -> usize {
    const DEFAULT: usize = 28_232;
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut bounds = text.split_whitespace().map_while(|bound| bound.parse::<usize>().ok());
    bounds.next().zip(bounds.next()).map_or(DEFAULT, |(first, last)| last.saturating_sub(first) + 1)
}

/// All Binds for UDP of one worker, and their flows. Its sockets are in an epoll instance of its own, level-triggered:
/// one read per datagram and none to learn that there is nothing more.
struct Engine {
    worker: Rc<Worker>,
    poll: Rc<OwnedFd>,
    budget: Budget,
    shares: Rc<RefCell<Shares>>,
    binds: Slab<Bound>,
    victims: Victims,
    keys: std::collections::HashMap<L4Key, usize>,
    events: Vec<epoll::Event>,
    received: Received,
    answers: Answers,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("budget", &self.budget)
            .field("keys", &self.keys)
            .finish_non_exhaustive()
    }
}

impl Engine {
    fn new(worker: &Rc<Worker>) -> io::Result<Self> {
        Ok(Self {
            worker: Rc::clone(worker),
            poll: Rc::new(epoll::create(epoll::CreateFlags::CLOEXEC)?),
            budget: Budget::of(worker.workers()),
            shares: Rc::default(),
            binds: Slab::new(),
            victims: Victims::default(),
            keys: std::collections::HashMap::new(),
            events: Vec::with_capacity(EVENTS),
            received: Received::default(),
            answers: Answers::default(),
        })
    }

    fn open(&mut self, listening: Arc<Listening>, socket: UdpSocket) -> io::Result<()> {
        let key = listening.key;
        self.close(key);
        let bound = Bound::new(listening, socket, Rc::clone(&self.shares))?;
        let entry = self.binds.vacant_entry();
        let index = u32::try_from(entry.key()).map_err(io::Error::other)?;
        let data = epoll::EventData::new_u64(token(index, None));
        epoll::add(&self.poll, bound.socket(), data, epoll::EventFlags::IN)?;
        self.keys.insert(key, entry.key());
        entry.insert(bound);
        Ok(())
    }

    fn close(&mut self, key: L4Key) {
        let Some(index) = self.keys.remove(&key) else { return };
        self.receive(index);
        let Self { worker, poll, budget, binds, .. } = self;
        let around = surroundings(worker, poll, budget, index);
        if let Some(mut bound) = binds.try_remove(index) {
            bound.end_all(&around, L4End::BindClosed);
        }
    }

    fn stop(&mut self) {
        let Self { worker, poll, budget, binds, .. } = self;
        for (index, bound) in binds.iter_mut() {
            bound.end_all(&surroundings(worker, poll, budget, index), L4End::Shutdown);
        }
    }

    fn tick(&mut self) {
        let Self { worker, poll, budget, binds, .. } = self;
        for (index, bound) in binds.iter_mut() {
            bound.tick(&surroundings(worker, poll, budget, index));
        }
    }

    /// Serves what is ready now. True if nothing was.
    fn turn(&mut self) -> bool {
        let none = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        self.events.clear();
        // A panic may have taken it along.
        self.events.reserve(EVENTS);
        let ready = epoll::wait(&self.poll, rustix::buffer::spare_capacity(&mut self.events), Some(&none));
        if ready.is_err() || self.events.is_empty() {
            return true;
        }
        // A panic may have left some.
        self.answers.clear();
        let mut pending = None;
        let mut events = std::mem::take(&mut self.events);
        for event in events.drain(..) {
            let token = event.data.u64();
            let (index, flow) = ((token >> 32) as usize, token & u64::from(u32::MAX));
            match flow.checked_sub(1).and_then(|id| u32::try_from(id).ok()) {
                None => {
                    self.receive(index);
                }
                Some(id) => {
                    if pending != Some(index) || self.answers.is_full() {
                        self.flush(pending);
                    }
                    pending = Some(index);
                    let Self { worker, poll, budget, binds, answers, .. } = self;
                    if let Some(bound) = binds.get_mut(index) {
                        bound.answer(&surroundings(worker, poll, budget, index), id, answers);
                    }
                }
            }
        }
        self.flush(pending);
        self.events = events;
        false
    }

    fn flush(&mut self, index: Option<usize>) {
        if self.answers.is_empty() {
            return;
        }
        match index.and_then(|index| self.binds.get(index)) {
            Some(bound) => bound.flush(&self.worker, &mut self.answers),
            // They must not leave from another Bind's address.
            None => self.answers.clear(),
        }
    }

    /// Makes room for one more socket of the Bind at `index`, if that can be done.
    fn make_room(&mut self, index: usize) -> bool {
        for _ in 0..MOST_EVICTED {
            if !self.budget.is_spent() {
                return true;
            }
            let now = self.worker.timers.now();
            let Self { worker, poll, budget, binds, victims, .. } = self;
            let (index, whom) = victims.next(binds, now).unwrap_or((index, Whom::Any));
            let Some(bound) = binds.get_mut(index) else { return false };
            if !bound.evict(&surroundings(worker, poll, budget, index), whom) {
                return false;
            }
        }
        !self.budget.is_spent()
    }

    /// Forwards what is at `position` of a batch, and what goes with it. How many that were.
    fn forward(&mut self, index: usize, position: usize) -> usize {
        let Some(meta) = self.received.metas.get(position).copied() else { return 1 };
        let wants_room =
            self.budget.is_spent() && self.binds.get(index).is_some_and(|bound| bound.wants_socket(meta));
        let has_room = !wants_room || self.make_room(index);
        let Self { worker, poll, budget, binds, received, .. } = self;
        let Some(bound) = binds.get_mut(index) else { return 1 };
        if !has_room {
            worker.metrics.udp_received(1, meta.len);
            worker.metrics.udp_dropped(1, Dropped::NoRoom);
            return 1;
        }
        let train = received.train(position);
        bound.forward(&surroundings(worker, poll, budget, index), meta, &train);
        train.count()
    }

    /// Forwards what is queued at a Bind.
    fn receive(&mut self, index: usize) {
        for round in 0..ROUNDS {
            let Self { worker, poll, budget, binds, received, .. } = self;
            let Some(bound) = binds.get_mut(index) else { return };
            if round == 0 {
                bound.follow(&surroundings(worker, poll, budget, index));
            }
            let count = match received.receive(bound.socket(), bound.local()) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => return tracing::debug!(bind = %bound.local(), %error, "cannot receive"),
            };
            let mut position = 0;
            while position < count {
                position += self.forward(index, position).max(1);
            }
            if count < BATCH {
                return;
            }
        }
    }
}

fn surroundings<'e>(
    worker: &'e Worker,
    poll: &'e OwnedFd,
    budget: &'e Budget,
    index: usize,
) -> Surroundings<'e> {
    let index = u32::try_from(index).unwrap_or(u32::MAX);
    Surroundings { worker, poll, budget, index }
}
