//! Small pieces between two plain sockets, passed on as soon as they are seen: no task is woken for them, and the
//! runtime does not know their sockets. The sockets of one worker are in an epoll instance of its own, edge-triggered.
//!
//! Only the plain case is dealt with: what there is to read fits one buffer, and the other socket takes all of it.
//! Anything else — an end, an error, a large piece, a socket that is full — stops the pair and wakes the task that it
//! belongs to, which takes its sockets back.

use std::cell::{Cell, OnceCell, RefCell};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use rustix::event::epoll;
use slab::Slab;
use tokio::io::unix::AsyncFd;
use tokio::io::{Interest, Ready};

use super::timers::Timers;
use crate::metrics::WorkerMetrics;

/// Sockets that are served before other connections have their turn.
const EVENTS: usize = 128;
/// A piece of this size or more stops its pair: there is more where it came from, and larger buffers are better at it.
const PIECE: usize = 16 * 1_024;

/// The way on which pairs of sockets are served; made when it is first needed.
#[derive(Debug, Default)]
pub(crate) struct FastPath(OnceCell<Option<Rc<Lanes>>>);

impl FastPath {
    /// Serves these two until [`Lane::poll_stopped`]. `None` if the kernel does not allow it.
    pub(crate) fn enter(
        &self,
        timers: &Rc<Timers>,
        metrics: &Arc<WorkerMetrics>,
        client: &Rc<TcpStream>,
        endpoint: &Rc<TcpStream>,
    ) -> Option<Lane> {
        let lanes = self.0.get_or_init(|| {
            let lanes = begin(timers, metrics);
            lanes.inspect_err(|error| tracing::warn!(%error, "no fast path for small pieces")).ok()
        });
        let lanes = lanes.as_ref()?;
        let key = lanes.pairs.borrow_mut().insert(Pair::new(client, endpoint, timers.now()));
        // Gives the place up again if the sockets cannot be added.
        let lane = Lane { lanes: Rc::clone(lanes), key };
        lanes.add(key, client, endpoint).ok()?;
        Some(lane)
    }
}

/// Begins to serve.
fn begin(timers: &Rc<Timers>, metrics: &Arc<WorkerMetrics>) -> io::Result<Rc<Lanes>> {
    let poll = Rc::new(epoll::create(epoll::CreateFlags::CLOEXEC)?);
    #[expect(
        deprecated,
        reason = "its successor is unsafe for types whose descriptor may change, which an `OwnedFd` is not"
    )]
    let ready = AsyncFd::with_interest(Rc::clone(&poll), Interest::READABLE)?;
    let (timers, metrics) = (Rc::clone(timers), Arc::clone(metrics));
    let lanes = Rc::new(Lanes { poll, timers, metrics, in_hand: Cell::default(), pairs: RefCell::default() });
    tokio::task::spawn_local(run(Rc::clone(&lanes), ready));
    Ok(lanes)
}

/// Serves what is ready whenever something is.
async fn run(lanes: Rc<Lanes>, ready: AsyncFd<Rc<OwnedFd>>) {
    let mut events = Vec::with_capacity(EVENTS);
    let mut space = vec![0; PIECE];
    loop {
        let Ok(mut guard) = ready.readable().await else { return };
        let turn = catch_unwind(AssertUnwindSafe(|| lanes.turn(&mut events, &mut space)));
        match turn.unwrap_or_else(|_| lanes.stop_after_panic()) {
            true => guard.clear_ready_matching(Ready::READABLE),
            false => {
                drop(guard);
                tokio::task::yield_now().await;
            }
        }
    }
}

/// All pairs of one worker.
#[derive(Debug)]
struct Lanes {
    poll: Rc<OwnedFd>,
    timers: Rc<Timers>,
    metrics: Arc<WorkerMetrics>,
    /// The pair that was served last, for the case that this ended in a panic.
    in_hand: Cell<usize>,
    pairs: RefCell<Slab<Pair>>,
}

impl Lanes {
    fn add(&self, key: usize, client: &TcpStream, endpoint: &TcpStream) -> io::Result<()> {
        for (socket, by_endpoint) in [(client, false), (endpoint, true)] {
            let data = epoll::EventData::new_u64((key as u64) << 1 | u64::from(by_endpoint));
            let flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
            epoll::add(&self.poll, socket, data, flags)?;
        }
        Ok(())
    }

    /// Serves what is ready now. True if nothing is left.
    fn turn(&self, events: &mut Vec<epoll::Event>, space: &mut [u8]) -> bool {
        let none = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        events.clear();
        // A panic may have taken it along.
        events.reserve(EVENTS);
        if epoll::wait(&self.poll, rustix::buffer::spare_capacity(events), Some(&none)).is_err() {
            return true;
        }
        let mut pairs = self.pairs.borrow_mut();
        let now = self.timers.now();
        for event in events.iter() {
            let (data, flags) = (event.data.u64(), event.flags);
            let key = (data >> 1) as usize;
            // What has stopped may still be among the events of this turn.
            if let Some(pair) = pairs.get_mut(key).filter(|pair| pair.stopped.is_none()) {
                self.in_hand.set(key);
                pair.pass(data & 1 == 1, flags, space, now);
            }
        }
        events.len() < EVENTS
    }

    /// The connection that was in hand ends, everything else goes on.
    #[cold]
    fn stop_after_panic(&self) -> bool {
        self.metrics.panics.add(1);
        tracing::error!("relaying ended in a panic; please report this");
        if let Some(pair) = self.pairs.borrow_mut().get_mut(self.in_hand.get()) {
            pair.stop(Stopped::Source { by_endpoint: true, error: ErrorKind::Other });
        }
        false
    }
}

/// Why a pair is served no more.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Stopped {
    /// Whoever reads on will see.
    Here,
    /// What was read last the other side has not taken; from the endpoint if so.
    Rest { by_endpoint: bool, bytes: Vec<u8> },
    /// Reading failed, from the endpoint if so.
    Source { by_endpoint: bool, error: ErrorKind },
    /// Writing failed of what was read, from the endpoint if so.
    Destination { by_endpoint: bool, error: ErrorKind },
}

/// Two sockets, and what has passed between them.
#[derive(Debug)]
pub(crate) struct Pair {
    client: Rc<TcpStream>,
    endpoint: Rc<TcpStream>,
    /// Bytes read from the client.
    pub(crate) up: u64,
    /// Bytes read from the endpoint.
    pub(crate) down: u64,
    /// The tick of the last piece.
    last: u32,
    pub(crate) stopped: Option<Stopped>,
    waker: Option<Waker>,
}

impl Pair {
    fn new(client: &Rc<TcpStream>, endpoint: &Rc<TcpStream>, now: u32) -> Self {
        let (client, endpoint) = (Rc::clone(client), Rc::clone(endpoint));
        Self { client, endpoint, up: 0, down: 0, last: now, stopped: None, waker: None }
    }

    /// Passes one piece on, from the endpoint if so.
    fn pass(&mut self, by_endpoint: bool, flags: epoll::EventFlags, space: &mut [u8], now: u32) {
        if flags != epoll::EventFlags::IN {
            return self.stop(Stopped::Here);
        }
        let (mut from, mut to, count) = match by_endpoint {
            false => (&*self.client, &*self.endpoint, &mut self.up),
            true => (&*self.endpoint, &*self.client, &mut self.down),
        };
        let piece = match from.read(space) {
            Ok(0) => return self.stop(Stopped::Here),
            Ok(n) => space.get(..n).unwrap_or_default(),
            Err(error) => {
                return match error.kind() {
                    // It was read before it was known to be ready, which it is told of again.
                    ErrorKind::WouldBlock => {}
                    ErrorKind::Interrupted => self.stop(Stopped::Here),
                    error => self.stop(Stopped::Source { by_endpoint, error }),
                };
            }
        };
        *count += piece.len() as u64;
        self.last = now;
        let written = match to.write(piece) {
            Ok(n) => n,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => 0,
            Err(error) => return self.stop(Stopped::Destination { by_endpoint, error: error.kind() }),
        };
        let rest = piece.get(written..).unwrap_or_default();
        if !rest.is_empty() {
            let bytes = rest.to_vec();
            self.stop(Stopped::Rest { by_endpoint, bytes });
        } else if piece.len() == PIECE {
            self.stop(Stopped::Here);
        }
    }

    fn stop(&mut self, why: Stopped) {
        self.stopped = Some(why);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// Two sockets on the [`FastPath`], until this is dropped.
#[derive(Debug)]
pub(crate) struct Lane {
    lanes: Rc<Lanes>,
    key: usize,
}

impl Lane {
    /// Ready when the sockets are served no more.
    pub(crate) fn poll_stopped(&self, cx: &Context<'_>) -> Poll<()> {
        let mut pairs = self.lanes.pairs.borrow_mut();
        let Some(pair) = pairs.get_mut(self.key).filter(|pair| pair.stopped.is_none()) else {
            return Poll::Ready(());
        };
        if !pair.waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            pair.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// The tick in which something has moved last.
    pub(crate) fn last(&self) -> u32 {
        self.lanes.pairs.borrow().get(self.key).map_or(0, |pair| pair.last)
    }

    /// Takes the sockets back, and what is known of them; once.
    pub(crate) fn leave(&self) -> Option<Pair> {
        let pair = self.lanes.pairs.borrow_mut().try_remove(self.key)?;
        for socket in [&pair.client, &pair.endpoint] {
            // Fails only for one that was not added.
            let _deleted = epoll::delete(&self.lanes.poll, socket);
        }
        Some(pair)
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::net::TcpListener;
    use std::time::Duration;

    use tokio::task::{LocalSet, yield_now};
    use tokio::time::timeout;

    use super::*;

    /// One end for the gateway, and the other.
    fn connection() -> (Rc<TcpStream>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let ours = listener.accept().unwrap().0;
        ours.set_nonblocking(true).unwrap();
        theirs.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        (Rc::new(ours), theirs)
    }

    struct Case {
        lane: Lane,
        client: TcpStream,
        endpoint: TcpStream,
        /// Keeps what serves the pair.
        _path: FastPath,
    }

    impl Case {
        fn new() -> Self {
            let ((ours, client), (to_endpoint, endpoint)) = (connection(), connection());
            let (path, timers) = (FastPath::default(), Rc::default());
            let lane = path.enter(&timers, &Arc::default(), &ours, &to_endpoint).unwrap();
            Self { lane, client, endpoint, _path: path }
        }

        /// Waits until the pair is served no more.
        async fn stopped(&self) -> Pair {
            let lane = &self.lane;
            timeout(Duration::from_secs(10), poll_fn(|cx| lane.poll_stopped(cx))).await.unwrap();
            self.lane.leave().unwrap()
        }

        fn is_served(&self) -> bool {
            self.lane.poll_stopped(&Context::from_waker(Waker::noop())).is_pending()
        }

        /// Waits for bytes without holding up who sends them.
        async fn arrives(to: &mut TcpStream, wanted: &[u8]) {
            let mut got = vec![0; wanted.len()];
            to.set_nonblocking(true).unwrap();
            let mut at = 0;
            while let Some(space) = got.get_mut(at..).filter(|space| !space.is_empty()) {
                match to.read(space) {
                    Ok(n) => at += n,
                    Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
                }
                yield_now().await;
            }
            to.set_nonblocking(false).unwrap();
            assert_eq!(got, wanted);
        }
    }

    async fn local(case: impl Future<Output = ()>) {
        LocalSet::new().run_until(case).await;
    }

    #[tokio::test]
    async fn small_pieces_pass_both_ways_until_one_side_ends() {
        local(async {
            let mut case = Case::new();
            for _ in 0..20 {
                case.client.write_all(b"ping").unwrap();
                Case::arrives(&mut case.endpoint, b"ping").await;
                case.endpoint.write_all(b"pongs").unwrap();
                Case::arrives(&mut case.client, b"pongs").await;
                assert!(case.is_served());
            }
            case.client.write_all(b"last").unwrap();
            case.client.shutdown(std::net::Shutdown::Write).unwrap();
            let pair = case.stopped().await;
            // The last piece is left to whoever sees the end.
            assert_eq!((pair.up, pair.down, pair.stopped), (80, 100, Some(Stopped::Here)));
            let mut last = [0; 5];
            assert_eq!((&*pair.client).read(&mut last).unwrap(), 4);
        })
        .await;
    }

    #[tokio::test]
    async fn a_reset_and_a_large_piece_are_left_to_others() {
        local(async {
            let mut case = Case::new();
            case.endpoint.write_all(&[b'x'; 3 * PIECE]).unwrap();
            let pair = case.stopped().await;
            assert_eq!((pair.down, pair.stopped), (PIECE as u64, Some(Stopped::Here)));

            let mut case = Case::new();
            socket2::SockRef::from(&case.endpoint).set_linger(Some(Duration::ZERO)).unwrap();
            case.endpoint = connection().1;
            assert_eq!(case.stopped().await.stopped, Some(Stopped::Here));
        })
        .await;
    }

    #[tokio::test]
    async fn what_a_full_socket_does_not_take_is_handed_back_in_order() {
        local(async {
            let mut case = Case::new();
            let mut sent = Vec::new();
            while case.is_served() {
                let piece: Vec<u8> = (0..9_973_u32).map(|at| (at + sent.len() as u32) as u8).collect();
                case.endpoint.write_all(&piece).unwrap();
                sent.extend_from_slice(&piece);
                for _ in 0..50 {
                    yield_now().await;
                }
            }
            let pair = case.stopped().await;
            let Some(Stopped::Rest { by_endpoint: true, bytes: rest }) = pair.stopped else {
                panic!(
                    "stopped for another reason: {:?}",
                    pair.stopped.map(|why| std::mem::discriminant(&why))
                );
            };
            assert!(!rest.is_empty());
            let written = pair.down as usize - rest.len();
            Case::arrives(&mut case.client, &sent[..written]).await;
            assert_eq!(rest, sent[written..pair.down as usize]);
        })
        .await;
    }

    #[tokio::test]
    async fn what_has_left_is_not_served() {
        local(async {
            let mut case = Case::new();
            let pair = case.lane.leave().unwrap();
            assert!(case.lane.leave().is_none());
            case.client.write_all(b"x").unwrap();
            for _ in 0..20 {
                yield_now().await;
            }
            assert_eq!((&*pair.client).read(&mut [0]).unwrap(), 1);
            assert!(!case.is_served());
        })
        .await;
    }
}
