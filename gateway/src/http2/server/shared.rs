//! What one HTTP/2 connection and its streams know of each other.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use config::table::Limits;

use crate::http2::guard::Guard;
use crate::metrics::LimitHit;
use crate::stream::Stream;
use crate::worker::Worker;

/// Bytes that all streams of a connection may have handed over and not seen written.
const MOST_QUEUED: usize = 256 * 1_024;

/// State of a connection that its streams change.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(super) worker: Rc<Worker>,
    pub(super) guard: RefCell<Guard>,
    /// The budget that the client has exceeded.
    excess: Cell<Option<LimitHit>>,
    /// A request could be served on a new connection only.
    is_outdated: Cell<bool>,
    /// Streams that are served.
    open: Cell<u32>,
    /// Bytes of the heads of their requests.
    head_bytes: Cell<usize>,
    /// Bytes handed over to be written, since everything was.
    queued: Cell<usize>,
    /// The connection takes no more at the moment.
    is_blocked: Cell<bool>,
    /// The connection, once our side is closed.
    rest: RefCell<Option<Stream>>,
    /// Streams that wait for room.
    waiting: RefCell<Vec<Waker>>,
    /// The connection's task.
    task: RefCell<Option<Waker>>,
    stall_timeout: Cell<Duration>,
    least_progress: Cell<u64>,
}

impl Shared {
    pub(super) fn new(worker: Rc<Worker>) -> Rc<Self> {
        let guard = RefCell::new(Guard::new(worker.timers.now()));
        Rc::new(Self {
            worker,
            guard,
            excess: Cell::new(None),
            is_outdated: Cell::new(false),
            open: Cell::new(0),
            head_bytes: Cell::new(0),
            queued: Cell::new(0),
            is_blocked: Cell::new(false),
            rest: RefCell::new(None),
            waiting: RefCell::default(),
            task: RefCell::new(None),
            stall_timeout: Cell::new(Duration::ZERO),
            least_progress: Cell::new(0),
        })
    }

    /// The limits in force for streams from now on.
    pub(super) fn set_limits(&self, limits: &Limits) {
        self.stall_timeout.set(limits.body_idle_timeout);
        self.least_progress.set(u64::from(limits.min_body_rate) * limits.body_idle_timeout.as_secs());
    }

    /// How long a client may take nothing of a response.
    pub(super) fn stall_timeout(&self) -> Duration {
        self.stall_timeout.get()
    }

    /// Bytes that it must take in that time.
    pub(super) fn least_progress(&self) -> u64 {
        self.least_progress.get().max(1)
    }

    pub(super) fn opened(&self, head_bytes: usize) {
        self.open.set(self.open.get() + 1);
        self.head_bytes.set(self.head_bytes.get() + head_bytes);
    }

    pub(super) fn closed(&self, head_bytes: usize) {
        self.open.set(self.open.get().saturating_sub(1));
        self.head_bytes.set(self.head_bytes.get().saturating_sub(head_bytes));
        self.wake();
    }

    /// The client shall open no more streams here.
    pub(super) fn retire(&self) {
        self.is_outdated.set(true);
        self.wake();
    }

    pub(super) fn is_outdated(&self) -> bool {
        self.is_outdated.get()
    }

    pub(super) fn open(&self) -> u32 {
        self.open.get()
    }

    pub(super) fn head_bytes(&self) -> usize {
        self.head_bytes.get()
    }

    /// Remembers whom to wake when a stream ends or a budget is exceeded.
    pub(super) fn set_task(&self, waker: &Waker) {
        let mut task = self.task.borrow_mut();
        if !task.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *task = Some(waker.clone());
        }
    }

    fn wake(&self) {
        if let Some(task) = &*self.task.borrow() {
            task.wake_by_ref();
        }
    }

    /// `bytes` of a response were handed over.
    pub(super) fn sent(&self, bytes: usize) {
        self.queued.set(self.queued.get() + bytes);
        self.guard.borrow_mut().sent(bytes);
    }

    /// Ready unless too much waits to be written.
    pub(super) fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        if self.queued.get() < MOST_QUEUED {
            return Poll::Ready(());
        }
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Whether the last write left something behind.
    pub(super) fn set_blocked(&self, is_blocked: bool) {
        self.is_blocked.set(is_blocked);
    }

    /// Keeps a connection whose sending side is closed.
    pub(super) fn set_rest(&self, stream: Stream) {
        *self.rest.borrow_mut() = Some(stream);
    }

    /// The connection, if its sending side is closed.
    pub(super) fn take_rest(&self) -> Option<Stream> {
        self.rest.take()
    }

    /// The library has written what it could: everything that was handed over, but for what the client's windows hold
    /// back, unless the connection is blocked.
    pub(super) fn settle_queue(&self) {
        if self.is_blocked.get() {
            return;
        }
        self.queued.set(0);
        self.waiting.take().into_iter().for_each(Waker::wake);
    }

    /// `bytes` were read from the client. False if a budget is exceeded.
    pub(super) fn read(&self, bytes: &[u8]) -> bool {
        let result = self.guard.borrow_mut().read(bytes, self.worker.timers.now());
        self.judge(result)
    }

    /// The client has aborted a stream.
    pub(super) fn cancelled(&self) {
        let result = self.guard.borrow_mut().cancelled(self.worker.timers.now());
        self.judge(result);
    }

    /// A malformed request arrived.
    pub(super) fn malformed(&self) {
        let result = self.guard.borrow_mut().malformed(self.worker.timers.now());
        self.judge(result);
    }

    /// A request was refused for want of room for its head.
    pub(super) fn refused(&self) {
        let result = self.guard.borrow_mut().refused(self.worker.timers.now());
        self.judge(result);
    }

    fn judge(&self, result: Result<(), LimitHit>) -> bool {
        if let Err(limit) = result {
            self.excess.set(Some(limit));
            self.wake();
        }
        result.is_ok()
    }

    /// The budget that was exceeded.
    pub(super) fn excess(&self) -> Option<LimitHit> {
        self.excess.get()
    }
}
