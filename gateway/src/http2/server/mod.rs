//! One HTTP/2 connection of a client: accepts its streams, ends it when it is idle, too old or hostile.
//!
//! It never looks at a request beyond what makes it a head; each is served in a task of its own.

mod request;
mod shared;
mod stream;
mod wire;

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use config::table::Limits;
use h2::server::{Builder, Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::Request;
use tokio::io::ReadBuf;

use self::request::{Kind, Refusal};
use self::shared::Shared;
use self::wire::Wire;
use crate::http1::connection::{self, Client, Peer};
use crate::http1::exchange;
use crate::metrics::LimitHit;
use crate::proxy::route;
use crate::record::{self, Version};
use crate::stream::Stream;
use crate::worker::Worker;
use crate::worker::timers::Timer;

pub(crate) use self::stream::ServerStream;

/// What a client may send on one stream before it is read.
const STREAM_WINDOW: u32 = 64 * 1_024;
/// What it may send on all of them: room for a dozen that stall, below 1 MiB.
const CONNECTION_WINDOW: u32 = 768 * 1_024;
/// What waits on one stream to be written.
const SEND_BUFFER: usize = 64 * 1_024;
/// Bytes of the heads of all open requests; more are refused, and the client may send them again.
const MOST_HEAD_BYTES: usize = 512 * 1_024;
/// Streams that were reset and are remembered, so that what still arrives for them is no error.
const MOST_RESET: usize = 64;
const RESET_MEMORY: Duration = Duration::from_secs(2);
/// Streams that the client may reset before they are accepted.
const MOST_PENDING_RESET: usize = 20;
/// Streams that the client may make the library reset by breaking the protocol (CVE-2025-8671).
const MOST_ERROR_RESETS: usize = 128;
/// Bytes of small DATA frames that are held beyond their payload.
const DATA_FRAME_BUDGET: usize = 256 * 1_024;
/// How long the client's acknowledgement of our SETTINGS may take.
const SETTINGS_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the last bytes of a connection may take.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// Bytes that are thrown away meanwhile.
const MOST_DISCARDED: usize = 256 * 1_024;
/// How long a client has to answer the announcement that its idle connection ends.
const FAREWELL: Duration = Duration::from_secs(5);
/// Stream identifiers are not used up to the last.
const LAST_STREAM: u32 = 1 << 30;

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    Open,
    /// The client was asked to open no more streams.
    Leaving,
    /// Nothing more is served; over at this tick.
    Ending(u32),
}

struct Driver {
    worker: Rc<Worker>,
    shared: Rc<Shared>,
    connection: Connection<Wire, Bytes>,
    peer: Peer,
    timer: Timer,
    phase: Phase,
    requests: u32,
    /// Tick at which SETTINGS must have been acknowledged.
    settings_by: u32,
    /// Tick at which a connection without streams ends.
    idle_until: Option<u32>,
}

/// Serves an HTTP/2 connection until it ends. The client's preface has not been consumed.
pub(crate) async fn serve(worker: Rc<Worker>, client: Box<Client>) {
    let (stream, peer, mut timer, buf, _admission) = client.into_parts();
    let shared = Shared::new(Rc::clone(&worker));
    let wire = Wire::new(stream, buf, Rc::clone(&shared));
    let limits = &peer.config.limits;
    timer.arm(limits.header_timeout);
    let handshake = builder(limits).handshake(wire);
    let connection = {
        let mut handshake = pin!(handshake);
        poll_fn(|cx| match handshake.as_mut().poll(cx) {
            Poll::Ready(made) => Poll::Ready(made.ok()),
            Poll::Pending if timer.poll_expired(cx) => {
                worker.metrics.limit_hit(LimitHit::HeaderTimeout);
                Poll::Ready(None)
            }
            Poll::Pending => Poll::Pending,
        })
        .await
    };
    let Some(connection) = connection else { return };
    let settings_by = timer.tick_after(SETTINGS_TIMEOUT);
    let mut driver = Driver {
        worker,
        shared,
        connection,
        peer,
        timer,
        phase: Phase::Open,
        requests: 0,
        settings_by,
        idle_until: None,
    };
    poll_fn(|cx| driver.poll(cx)).await;
    let Driver { shared, mut timer, .. } = driver;
    if let Some(stream) = shared.take_rest() {
        linger(stream, &mut timer).await;
    }
}

/// Discards what still arrives, so that what was sent last is not lost to a reset.
async fn linger(mut stream: Stream, timer: &mut Timer) {
    timer.arm(LAST_WORDS);
    let mut seen = 0;
    poll_fn(|cx| {
        let mut scratch = [0; 4_096];
        loop {
            let mut space = ReadBuf::new(&mut scratch);
            match stream.poll_read(cx, &mut space) {
                Poll::Ready(Ok(())) if !space.filled().is_empty() && seen < MOST_DISCARDED => {
                    seen += space.filled().len();
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending if timer.poll_expired(cx) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await;
}

fn builder(limits: &Limits) -> Builder {
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(limits.max_concurrent_streams)
        // The library refuses a list that reaches the limit.
        .max_header_list_size(limits.head_bytes.saturating_add(1))
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_reset_streams(MOST_RESET)
        .reset_stream_duration(RESET_MEMORY)
        .max_pending_accept_reset_streams(MOST_PENDING_RESET)
        .max_local_error_reset_streams(Some(MOST_ERROR_RESETS))
        .data_frame_budget(DATA_FRAME_BUDGET)
        .enable_connect_protocol();
    builder
}

impl Driver {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.shared.set_task(cx.waker());
        loop {
            // What was read already is not served any more.
            if let (Some(limit), Phase::Open | Phase::Leaving) = (self.shared.excess(), self.phase) {
                self.end(Some(limit), Reason::ENHANCE_YOUR_CALM);
            }
            match self.connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    self.accept(request, respond);
                    continue;
                }
                Poll::Ready(Some(Err(error))) => {
                    self.failed(&error);
                    return Poll::Ready(());
                }
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending => self.shared.settle_queue(),
            }
            if !self.judge() {
                continue;
            }
            // Every other deadline was judged and armed anew.
            return if self.timer.poll_expired(cx) { Poll::Ready(()) } else { Poll::Pending };
        }
    }

    /// Looks at budgets and deadlines, and arms the timer. False if the connection must be polled again.
    fn judge(&mut self) -> bool {
        let now = self.timer.now();
        let never = self.timer.tick_after(Duration::ZERO);
        if let Phase::Ending(until) = self.phase {
            self.timer.arm_at(until);
            return true;
        }
        if self.shared.excess().is_some() {
            return false;
        }
        let (block_since, is_acknowledged) = {
            let guard = self.shared.guard.borrow();
            (guard.block_since(), guard.is_acknowledged())
        };
        let settings_by = if is_acknowledged { never } else { self.settings_by };
        if settings_by <= now {
            return self.end(Some(LimitHit::Http2Settings), Reason::SETTINGS_TIMEOUT);
        }
        let limits = &self.peer.config.limits;
        let block_by = block_since.map_or(never, |since| {
            let wait = self.timer.tick_after(limits.header_timeout);
            if wait == never { never } else { wait - now + since }
        });
        if block_by <= now {
            return self.end(Some(LimitHit::HeaderTimeout), Reason::ENHANCE_YOUR_CALM);
        }
        if self.phase == Phase::Open && (self.worker.is_draining() || self.shared.is_outdated()) {
            return self.leave();
        }
        let idle_until = self.idle_deadline();
        if idle_until <= now {
            if self.phase == Phase::Open {
                self.worker.metrics.limit_hit(LimitHit::IdleTimeout);
                return self.leave();
            }
            return self.end(None, Reason::NO_ERROR);
        }
        self.timer.arm_at(settings_by.min(block_by).min(idle_until));
        true
    }

    /// Tick at which the connection ends if no stream is opened; never while one is open.
    fn idle_deadline(&mut self) -> u32 {
        if self.shared.open() > 0 {
            self.idle_until = None;
            return self.timer.tick_after(Duration::ZERO);
        }
        let wait = if self.phase == Phase::Open { self.peer.config.limits.idle_timeout } else { FAREWELL };
        *self.idle_until.get_or_insert_with(|| self.timer.tick_after(wait))
    }

    /// Asks the client to open no more streams; serves those it has opened until then (RFC 9113 §6.8).
    fn leave(&mut self) -> bool {
        if self.phase == Phase::Open {
            self.phase = Phase::Leaving;
            self.idle_until = None;
            self.connection.graceful_shutdown();
        }
        false
    }

    /// Ends the connection at once.
    fn end(&mut self, limit: Option<LimitHit>, reason: Reason) -> bool {
        if let Some(limit) = limit {
            self.worker.metrics.limit_hit(limit);
            tracing::debug!(client.addr = %self.peer.address, limit = limit.name(), "an HTTP/2 connection is ended");
        }
        self.phase = Phase::Ending(self.timer.tick_after(LAST_WORDS));
        self.connection.abrupt_shutdown(reason);
        false
    }

    /// The library has ended the connection.
    fn failed(&self, error: &h2::Error) {
        if error.reason() == Some(Reason::ENHANCE_YOUR_CALM) && error.is_library() {
            self.worker.metrics.limit_hit(LimitHit::Http2Other);
        }
        tracing::debug!(client.addr = %self.peer.address, %error, "an HTTP/2 connection failed");
    }

    /// Starts a request in a task of its own.
    fn accept(&mut self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        let before = self.requests;
        self.requests = self.requests.saturating_add(1);
        self.refresh();
        let limits = &self.peer.config.limits;
        if limits.max_requests_per_connection > 0 && self.requests == limits.max_requests_per_connection {
            self.worker.metrics.limit_hit(LimitHit::RequestsPerConnection);
            self.leave();
        } else if respond.stream_id().as_u32() >= LAST_STREAM {
            self.leave();
        }
        let (parts, body) = request.into_parts();
        let key = self.worker.random.borrow_mut().u128(..).to_ne_bytes();
        let mut head = self.worker.buffers.head();
        let most = self.peer.config.limits.head_fields;
        let written = request::write(&mut head, &parts, body.is_end_stream(), key, most);
        drop(parts);
        let (kind, refusal) = match written {
            Ok(kind) => (kind, None),
            Err(Refusal::Answer(reason)) => (Kind::default(), Some(reason)),
            Err(Refusal::Malformed) => {
                connection::record_refusal(
                    &self.worker,
                    &self.peer,
                    Version::Http2,
                    record::Reason::BadRequest,
                    0,
                );
                self.shared.malformed();
                return respond.send_reset(Reason::PROTOCOL_ERROR);
            }
        };
        if self.shared.head_bytes() + head.len() > MOST_HEAD_BYTES {
            self.worker.metrics.limit_hit(LimitHit::HeadBytes);
            self.shared.refused();
            return respond.send_reset(Reason::REFUSED_STREAM);
        }
        let buf = self.worker.buffers.holding(&head);
        let stream = ServerStream::new(body, respond, Rc::clone(&self.shared), head.len(), kind.is_connect);
        let stream = Stream::Http2Server(Box::new(stream));
        let client = Client::of_stream(&self.worker, self.peer.clone(), stream, Some(buf), before);
        let (worker, client, length) = (Rc::clone(&self.worker), Box::new(client), head.len());
        let task = move || run(worker, client, length, refusal);
        // Boxed within: the runtime moves what it is given more than once.
        tokio::task::spawn_local(async move { Box::pin(task()).await });
    }

    /// Takes over the Bind's settings as the table has them now.
    fn refresh(&mut self) {
        let current = self.worker.live();
        if let Some(bind) = route::bind(&current.live, self.peer.key)
            && !Arc::ptr_eq(&bind.config, &self.peer.config)
        {
            self.peer.config = Arc::clone(&bind.config);
        }
        self.shared.set_limits(&self.peer.config.limits);
    }
}

/// Counts a panic, which ends this stream only.
struct Watch {
    worker: Rc<Worker>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.worker.metrics.panics.add(1);
            tracing::error!("a stream ended in a panic; please report this");
        }
    }
}

/// Serves one request.
async fn run(worker: Rc<Worker>, mut client: Box<Client>, length: usize, refusal: Option<record::Reason>) {
    let _watch = Watch { worker: Rc::clone(&worker) };
    // What follows on the connection is decided by its own task.
    let _next = match refusal {
        None => exchange::run(&worker, &mut client, length).await,
        Some(reason) => {
            if reason == record::Reason::HeaderTooLarge {
                worker.metrics.limit_hit(LimitHit::HeadFields);
            }
            connection::refuse(&worker, &mut client, reason).await
        }
    };
}
