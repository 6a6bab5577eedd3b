//! One HTTP/2 connection to an endpoint, shared by many requests: how many streams it takes, when it is left alone, and
//! the task that moves its bytes.
//!
//! It never decides which request goes where; that is [`upstream`](crate::upstream)'s.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, Connection, ResponseFuture, SendRequest};
use h2::{Ping, PingPong, SendStream};
use http::Request;

use super::io::Io;
use super::meter::Meter;
use crate::http2::body::into_io;
use crate::stream::Stream;
use crate::worker::timers::{Timer, Timers};

/// Streams that one connection carries at a time, however many the endpoint would take: each may hold a window of
/// received data, and all of them share one TCP connection's losses.
const MOST_STREAMS: usize = 128;
/// What one stream may receive ahead of its reader.
const STREAM_WINDOW: u32 = 64 * 1_024;
/// Room for all streams' windows: a stream that nobody reads cannot stall the others.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * MOST_STREAMS as u32;
/// Decoded size of a head (RFC 9113 §6.5.2).
const HEADER_LIST: u32 = 64 * 1_024;
/// Requests that one connection carries in its life: stream ids end at 2^31 (RFC 9113 §5.1.1).
const MOST_REQUESTS: u32 = 1 << 29;
/// Ticks of silence of an endpoint that owes answers until it is asked for a sign of life. gRPC servers take more than one PING
/// in five minutes for abuse; a dead host is noticed earlier, by TCP keep-alive.
const SILENCE: u32 = 3_100;
/// Within this time a PING is answered, or the connection is dead.
const PING_WAIT: Duration = Duration::from_secs(10);
/// Ticks after which a request that is given up, with nothing heard of the endpoint meanwhile, makes it suspect.
const SUSPECT_AFTER: u32 = 10;
/// How long a connection that is not used any more may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(2);

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Session {
    /// Opens streams; gone once the connection takes no more.
    opener: RefCell<Option<SendRequest<Bytes>>>,
    meter: Rc<Meter>,
    active: Cell<usize>,
    opened: Cell<u32>,
    /// Ticks for which it is kept while no stream is open.
    keep: Cell<u32>,
    /// Tick at which the last stream ended.
    idle_since: Cell<u32>,
    timers: Rc<Timers>,
    /// It has let a request wait in vain, and has not been heard of since.
    is_suspect: Cell<bool>,
    driver: RefCell<Option<Waker>>,
    https: bool,
}

impl Session {
    /// Streams may be opened now.
    pub(crate) fn has_room(&self) -> bool {
        self.streams_left() > 0
    }

    /// Streams that may be opened now.
    pub(crate) fn streams_left(&self) -> usize {
        if self.is_suspect.get() {
            return 0;
        }
        let most = self.opener.borrow().as_ref().map_or(0, SendRequest::current_max_send_streams);
        most.min(MOST_STREAMS).saturating_sub(self.active.get())
    }

    /// It takes no further streams, now or later.
    pub(crate) fn is_over(&self) -> bool {
        self.opener.borrow().is_none()
    }

    /// Nobody uses it.
    pub(crate) fn is_idle(&self) -> bool {
        self.active.get() == 0
    }

    /// Nobody has used it for so long that it is not worth keeping.
    pub(crate) fn is_stale(&self) -> bool {
        self.is_idle() && self.timers.now() >= self.idle_since.get().saturating_add(self.keep.get())
    }

    /// Lets open streams finish and closes then.
    pub(crate) fn retire(&self) {
        // Dropped outside the borrow: it takes the connection's lock and wakes its task.
        let opener = self.opener.borrow_mut().take();
        drop(opener);
        self.wake_driver();
    }

    /// How many ticks the connection is kept while no stream is open.
    pub(crate) fn keep_for(&self, ticks: u32) {
        self.keep.set(ticks);
    }

    /// Reserves a stream.
    pub(super) fn enter(&self) {
        self.active.set(self.active.get() + 1);
    }

    /// Gives a reserved stream back.
    pub(super) fn leave(&self, opened: Option<Opened>) {
        self.active.set(self.active.get().saturating_sub(1));
        let now = self.timers.now();
        if self.is_idle() {
            self.idle_since.set(now);
            if self.keep.get() == 0 {
                self.retire();
            }
        }
        let Some(opened) = opened else { return };
        self.meter.close(opened.stream);
        let waited = now.saturating_sub(opened.at) >= SUSPECT_AFTER;
        if waited && opened.reads == self.meter.reads() && !self.is_suspect.replace(true) {
            self.wake_driver();
        }
        if self.is_idle() && self.is_suspect.get() {
            self.retire();
        }
    }

    /// It carried a request before.
    pub(crate) fn is_used(&self) -> bool {
        self.opened.get() > 0
    }

    /// The scheme to name in requests.
    pub(super) fn is_https(&self) -> bool {
        self.https
    }

    /// WebSockets can be opened (RFC 8441 §3).
    pub(crate) fn allows_extended_connect(&self) -> bool {
        self.opener.borrow().as_ref().is_some_and(SendRequest::is_extended_connect_protocol_enabled)
    }

    /// Opens the reserved stream.
    ///
    /// # Errors
    /// [`NotSent`]: in any case nothing of the request was sent.
    pub(super) fn send(
        &self,
        request: Request<()>,
        last: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>, Opened), NotSent> {
        // A clone of its own: h2 refuses a handle whose last stream still waits for its turn.
        let Some(mut opener) = self.opener.borrow().clone() else { return Err(NotSent::Closed) };
        let (response, body) = opener.send_request(request, last).map_err(|error| {
            // What is neither of the connection nor of the other side is the request's fault.
            if error.is_io() || error.is_go_away() { NotSent::Closed } else { NotSent::Impossible(error) }
        })?;
        let stream = body.stream_id().as_u32();
        self.meter.open(stream);
        self.opened.set(self.opened.get() + 1);
        if self.opened.get() >= MOST_REQUESTS {
            self.retire();
        }
        Ok((response, body, Opened { stream, at: self.timers.now(), reads: self.meter.reads() }))
    }

    /// A piece of a body was handed over.
    pub(super) fn note_sent(&self, bytes: usize) {
        self.meter.sent(bytes);
    }

    fn wake_driver(&self) {
        if let Some(waker) = &*self.driver.borrow() {
            waker.wake_by_ref();
        }
    }
}

/// A stream that was opened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opened {
    stream: u32,
    /// Tick.
    at: u32,
    /// The connection's reads by then.
    reads: u32,
}

/// Why a stream was not opened.
#[derive(Debug)]
pub(super) enum NotSent {
    /// The connection takes no more.
    Closed,
    /// HTTP/2 cannot say this.
    Impossible(h2::Error),
}

/// The task's side of a [`Session`].
#[derive(Debug)]
pub(crate) struct Driver {
    connection: Connection<Io, Bytes>,
    session: Rc<Session>,
    pings: Option<PingPong>,
    timer: Timer,
    /// Tick at which the endpoint was last heard of, and the reads by then.
    heard: (u32, u32),
    /// Tick by which a PING must be answered.
    ping_until: Option<u32>,
    /// Tick from which another PING may be sent.
    ping_from: u32,
    /// Tick by which the goodbye must be over.
    goodbye_until: Option<u32>,
}

impl Driver {
    /// Begins HTTP/2 on a fresh connection (RFC 9113 §3.4). The caller bounds the time.
    ///
    /// # Errors
    /// If the connection fails, or the endpoint's first bytes show that it does not speak HTTP/2. No request was sent.
    pub(crate) async fn begin(stream: Stream, https: bool, timers: &Rc<Timers>) -> io::Result<Self> {
        let timer = timers.timer();
        let meter = Rc::new(Meter::default());
        let handshake = Builder::new()
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(HEADER_LIST)
            .max_send_buffer_size(STREAM_WINDOW as usize)
            // Until the endpoint's settings are there.
            .initial_max_send_streams(0)
            // Cancelled requests are everyday; only what the endpoint does wrong is held against it.
            .max_concurrent_reset_streams(MOST_STREAMS)
            .handshake::<_, Bytes>(Io::new(stream, Rc::clone(&meter), Rc::clone(timers)));
        let (opener, mut connection) = handshake.await.map_err(into_io)?;
        let pings = connection.ping_pong();
        let session = Rc::new(Session {
            opener: RefCell::new(Some(opener)),
            meter,
            active: Cell::new(0),
            opened: Cell::new(0),
            keep: Cell::new(0),
            idle_since: Cell::new(timers.now()),
            timers: Rc::clone(timers),
            is_suspect: Cell::new(false),
            driver: RefCell::new(None),
            https,
        });
        let heard = (timer.now(), 0);
        let mut driver = Self {
            connection,
            session,
            pings,
            timer,
            heard,
            ping_until: None,
            ping_from: 0,
            goodbye_until: None,
        };
        // The endpoint's settings come first of all, and say how many streams it takes. A request that went out
        // before could be lost on an endpoint that does not speak HTTP/2, or be refused.
        poll_fn(|cx| driver.poll_settings(cx)).await?;
        Ok(driver)
    }

    fn poll_settings(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.connection).poll(cx) {
            Poll::Ready(Ok(())) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            Poll::Ready(Err(error)) => return Poll::Ready(Err(into_io(error))),
            Poll::Pending => {}
        }
        // An endpoint that takes no stream for now is of no use for now.
        if self.session.meter.has_settings() && self.session.has_room() {
            return Poll::Ready(Ok(()));
        }
        Poll::Pending
    }

    pub(crate) fn session(&self) -> &Rc<Session> {
        &self.session
    }

    /// Moves the connection until it has ended; calls `changed` when its room for streams may have grown.
    ///
    /// # Errors
    /// Why it ended early.
    pub(crate) async fn run(&mut self, mut changed: impl FnMut()) -> io::Result<()> {
        poll_fn(|cx| self.poll(cx, &mut changed)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>, changed: &mut impl FnMut()) -> Poll<io::Result<()>> {
        {
            let mut driver = self.session.driver.borrow_mut();
            if !driver.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
                *driver = Some(cx.waker().clone());
            }
        }
        let before = self.session.streams_left();
        loop {
            if let Poll::Ready(ended) = Pin::new(&mut self.connection).poll(cx) {
                return Poll::Ready(ended.map_err(into_io));
            }
            if self.session.meter.goes_away() && !self.session.is_over() {
                self.session.retire();
            }
            self.listen(cx);
            let now = self.timer.now();
            if self.ping_until.is_some_and(|until| until <= now) {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            if self.goodbye_until.is_some_and(|until| until <= now) {
                return Poll::Ready(Ok(()));
            }
            if self.ping_until.is_some() || !self.wants_sign_of_life() {
                break;
            }
            self.ping();
        }
        if self.session.streams_left() > before {
            changed();
        }
        self.arm();
        // A deadline that has passed meanwhile is looked at in another turn.
        if self.timer.poll_expired(cx) {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Notes whether the endpoint was heard of, and whether all is over but the goodbye.
    fn listen(&mut self, cx: &mut Context<'_>) {
        let reads = self.session.meter.reads();
        if reads != self.heard.1 {
            self.heard = (self.timer.now(), reads);
            self.ping_until = None;
            self.session.is_suspect.set(false);
        } else if self.session.is_idle() && self.ping_until.is_none() {
            // Nobody waits: silence means nothing.
            self.heard.0 = self.timer.now();
        }
        if let Some(pings) = &mut self.pings {
            // The answer as such does not matter, only that something arrived; h2 wants it taken.
            let _pong = pings.poll_pong(cx);
        }
        if self.session.is_over() && self.session.is_idle() {
            self.goodbye_until.get_or_insert_with(|| self.timer.tick_after(GOODBYE));
        }
    }

    fn wants_sign_of_life(&self) -> bool {
        let silent = self.timer.now().saturating_sub(self.heard.0);
        let owes = !self.session.is_idle();
        owes && self.timer.now() >= self.ping_from && (self.session.is_suspect.get() || silent >= SILENCE)
    }

    /// Asks for a sign of life.
    fn ping(&mut self) {
        if let Some(pings) = &mut self.pings {
            // Fails while an earlier one is on its way, whose answer is as good.
            let _sent = pings.send_ping(Ping::opaque());
        }
        self.ping_until = Some(self.timer.tick_after(PING_WAIT));
        self.ping_from = self.timer.now().saturating_add(SILENCE);
    }

    fn arm(&mut self) {
        let silent_at = if self.session.is_idle() {
            u32::MAX
        } else {
            self.heard.0.saturating_add(SILENCE).max(self.ping_from)
        };
        let next = self.ping_until.unwrap_or(silent_at).min(self.goodbye_until.unwrap_or(u32::MAX));
        self.timer.arm_at(next);
    }
}

impl Drop for Driver {
    /// However the task ends, nothing is opened on its connection any more.
    fn drop(&mut self) {
        self.session.retire();
    }
}
