//! One request from its head to the end of its response: plan, attempts, delivery, record.

use std::future::poll_fn;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use config::table::BackendProtocol;

use super::answer::{self, Answer};
use super::attempt::{Attempt, Ended};
use super::connection::{Client, Next, count_limit, refuse};
use super::head::{Framing, RequestHead};
use super::plan::{self, Forward, Plan, Then};
use super::tunnel;
use crate::http2::body::{Refusal, Reset};
use crate::live::{EndpointState, InFlight, Outcome, PickError, PickRequest};
use crate::metrics::LimitHit;
use crate::proxy::grpc::{self, Rpc};
use crate::proxy::grpc_web::Translation;
use crate::proxy::relay::Relay;
use crate::proxy::retry::{Delivered, Event, may_retry};
use crate::record::{Reason, Record, Version};
use crate::upstream::{self, Connection, NoConnection};
use crate::worker::Worker;
use crate::worker::buffers::{Buf, Head};

/// A request that is not idempotent goes out only on a pooled connection that was idle for less than this many
/// ticks: endpoints' idle timeouts are longer, so none is about to be closed under it.
const YOUNG: u32 = 10;
/// Endpoints that may fail one request before it is given up, whatever the policy allows.
const MOST_EXCLUDED: usize = 8;

/// Times that a request is sent again because an endpoint says that it has not processed it.
const MOST_REFUSALS: u8 = 2;

/// What is known of a request as it goes along; becomes the [`Record`].
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) started: Instant,
    pub(crate) status: u16,
    pub(crate) reason: Reason,
    pub(crate) endpoint: Option<SocketAddr>,
    pub(crate) attempts: u8,
    pub(crate) request_bytes: u64,
    pub(crate) response_bytes: u64,
    pub(crate) response_head: Option<Duration>,
    /// See [`plan::Plan::ends_connection`].
    pub(crate) ends_connection: bool,
    /// See [`plan::Plan::hsts`].
    pub(crate) hsts: Option<Arc<str>>,
}

/// Serves the request whose head is the first `length` bytes of the client's buffer.
pub(crate) async fn run(worker: &Worker, client: &mut Client, length: usize) -> Next {
    let Some(mut buf) = client.buf.take() else { return Next::Close };
    if client.served() > 0 {
        worker.metrics.keepalive_requests.add(1);
    }
    let mut plan = plan::make(worker, &client.peer, buf.range(0, length));
    if let Then::Refuse(reason) = plan.then {
        client.buf = Some(buf);
        match reason {
            Reason::HeaderTooLarge => worker.metrics.limit_hit(LimitHit::HeadFields),
            Reason::UriTooLong => worker.metrics.limit_hit(LimitHit::RequestLine),
            _ => {}
        }
        return refuse(worker, client, reason).await;
    }
    buf.consume(plan.head.length);
    client.buf = Some(buf);
    if !Arc::ptr_eq(&client.peer.config, &plan.config) {
        client.peer.config = Arc::clone(&plan.config);
    }
    let mut facts = Facts {
        started: Instant::now(),
        status: 0,
        reason: Reason::Forwarded,
        endpoint: None,
        attempts: 0,
        request_bytes: 0,
        response_bytes: 0,
        response_head: None,
        ends_connection: plan.ends_connection,
        hsts: plan.hsts.take(),
    };
    let head = &plan.head;
    let next = match &mut plan.then {
        Then::Answer(reason) | Then::Refuse(reason) => {
            facts.reason = *reason;
            let status = if *reason == Reason::Local { 204 } else { reason.status() };
            respond(worker, client, head, head.framing, &mut facts, status, b"").await
        }
        Then::Redirect { status, location } => {
            facts.reason = Reason::Redirected;
            respond(worker, client, head, head.framing, &mut facts, *status, location).await
        }
        // Aborted before it was looked at: no endpoint hears of it.
        Then::Forward(_) if client.stream.delimits() && client.stream.is_broken() => {
            facts.reason = Reason::ClientGone;
            Next::Close
        }
        Then::Forward(forward) => exchange(worker, client, head, forward, &mut facts).await,
    };
    record(worker, client, &plan, &facts);
    next
}

/// Counts and logs a request that has ended.
fn record(worker: &Worker, client: &Client, plan: &Plan, facts: &Facts) {
    let head = &plan.head;
    let is_logged = worker.log.borrow().is_on();
    // Names are for the log: without it, reading them would only cost cache misses.
    let route_name = plan.route.filter(|_| is_logged).and_then(|route| plan.current.live.routes.at(route.0));
    let backend_name = match &plan.then {
        Then::Forward(forward) if is_logged => Some(&*forward.backend.config.name),
        _ => None,
    };
    let bytes = client.buf.as_ref().map_or(&[][..], |buf| buf.range(0, head.length));
    let record = Record {
        client: plan.client,
        method: head.method.get(bytes),
        host: head.host.get(bytes),
        target: head.target.get(bytes),
        version: if head.minor_version == 0 { Version::Http10 } else { client.version() },
        request_id: plan.id.bytes(bytes),
        user_agent: head.user_agent.get(bytes),
        referer: head.referer.get(bytes),
        status: facts.status,
        reason: facts.reason,
        route: route_name.map(|route| &*route.info.name),
        backend: backend_name,
        endpoint: facts.endpoint,
        attempts: facts.attempts,
        request_bytes: facts.request_bytes,
        response_bytes: facts.response_bytes,
        duration: facts.started.elapsed(),
        response_head: facts.response_head,
    };
    count_limit(worker, record.reason);
    worker.metrics.request_done(&record);
    if let Some(counters) = plan.route.and_then(|route| plan.current.live.route_counters(route, worker.index))
    {
        counters.request_done(&record);
    }
    if is_logged {
        worker.log.borrow_mut().write(&record, SystemTime::now());
    }
}

/// Answers without an endpoint. The connection is kept if what is `left` of the request's body is at hand in
/// full; `Close` = unknown.
async fn respond(
    worker: &Worker,
    client: &mut Client,
    head: &RequestHead,
    left: Framing,
    facts: &mut Facts,
    status: u16,
    location: &[u8],
) -> Next {
    facts.status = status;
    if status == 0 {
        return Next::Close;
    }
    let consumed = consume_body(client, left);
    let limits = &client.peer.config.limits;
    if facts.ends_connection {
        client.stream.retire_connection();
    }
    let may_stay = consumed && head.keep_alive && !facts.ends_connection;
    let close = !may_stay || worker.is_draining() || client.is_last(limits);
    let mut out = worker.buffers.head();
    let http10 = head.minor_version == 0;
    let answer = Answer {
        reason: Some(facts.reason),
        status,
        location,
        hsts: facts.hsts.as_deref().unwrap_or_default().as_bytes(),
        is_head: head.is_head,
        close,
        http10,
        rpc: head.rpc,
    };
    answer::write(&mut out, &answer);
    client.timer.arm(limits.body_idle_timeout);
    match (client.write_all(&out, true).await, close) {
        (false, _) => Next::Close,
        (true, false) => Next::KeepAlive,
        (true, true) if head.is_last_word() => Next::Leave,
        (true, true) => Next::Linger,
    }
}

/// Answers with the status of the reason in `facts`.
async fn respond_reason(
    worker: &Worker,
    client: &mut Client,
    head: &RequestHead,
    left: Framing,
    facts: &mut Facts,
) -> Next {
    let status = facts.reason.status();
    respond(worker, client, head, left, facts, status, b"").await
}

/// Consumes a body that has arrived completely.
fn consume_body(client: &mut Client, framing: Framing) -> bool {
    match (framing, &mut client.buf) {
        (Framing::None | Framing::Length(0), _) => true,
        (Framing::Length(length), Some(buf)) => match usize::try_from(length) {
            Ok(length) if length <= buf.unread().len() => {
                buf.consume(length);
                true
            }
            _ => false,
        },
        _ => false,
    }
}

/// The state of a request over its attempts.
struct Attempts<'a> {
    worker: &'a Worker,
    head: &'a RequestHead,
    forward: &'a Forward,
    /// Ids of endpoints that failed this request.
    excluded: [u64; MOST_EXCLUDED],
    failures: usize,
    /// A pooled connection turned out to be dead: take none for the rest of this request.
    fresh_only: bool,
    retries_left: u8,
    /// Times that the request may be told that it was not processed, beyond what the policy allows.
    refusals_left: u8,
}

/// Why there is no connection to an endpoint.
enum NotConnected {
    /// The endpoint's fault, or the way to it. `first`: of all who waited for the same connection.
    Failed { kind: ErrorKind, first: bool },
    /// The request is over.
    GivenUp(Reason),
}

/// What an attempt needs.
struct Acquired {
    in_flight: InFlight,
    connection: Connection,
}

async fn exchange(
    worker: &Worker,
    client: &mut Client,
    head: &RequestHead,
    forward: &mut Forward,
    facts: &mut Facts,
) -> Next {
    let mut prefix = forward.bytes.take();
    let forward = &*forward;
    // Base64 is decoded where it lies.
    let body_at_hand = body_at_hand(client, head.framing) && forward.web != Rpc::WebText;
    let mut hold = head.expect_continue && client.buf.as_ref().is_none_or(Buf::is_empty);
    let mut attempts = Attempts::new(worker, head, forward);
    let body_start = client.buf.as_ref().map_or(0, Buf::position);
    let (total, is_clients) = deadline(client, head, forward);
    loop {
        let Acquired { in_flight: _counted, connection } = match attempts.acquire(client, total, facts).await
        {
            Ok(acquired) => acquired,
            Err(reason) => {
                facts.reason = reason;
                // Each attempt leaves the body as it found it, or is the last.
                return respond_reason(worker, client, head, head.framing, facts).await;
            }
        };
        let reused = connection.reused;
        let endpoint = Arc::clone(&connection.endpoint);
        let began = if facts.attempts == 1 { facts.started } else { Instant::now() };
        let Some(bytes) = prefix.take() else { return Next::Close };
        let mut upload = upload(client, &connection, head, forward.web, bytes);
        // Only the first attempt waits for `100 Continue`.
        upload.hold = std::mem::take(&mut hold);
        let mut attempt = Attempt::new(worker, client, head, forward, connection, upload, total, began);
        let ended = attempt.response_head(facts).await;
        let (event, reason) = match ended {
            Ended::Head => match attempt.retryable_status() {
                Some(status) => (Event::Status(status), Reason::Forwarded),
                None => {
                    attempt.report(facts);
                    return match attempt.deliver(facts).await {
                        Ok(next) => attempt.settle(next),
                        Err(left) => respond_reason(worker, client, head, left, facts).await,
                    };
                }
            },
            Ended::Upgraded => {
                attempt.report(facts);
                attempt.report_good(facts);
                // Boxed: tunnels are rare, and their state would make every connection's task larger.
                return Box::pin(tunnel::run(&mut attempt, facts)).await;
            }
            Ended::Client(reason) => {
                facts.request_bytes = attempt.received();
                facts.reason = reason;
                drop(attempt);
                return abandon(worker, client, head, facts).await;
            }
            Ended::Endpoint(event, reason) => (event, reason),
        };
        let delivered = attempt.delivered(event).await;
        let replayable = body_at_hand || attempt.body_untouched() || attempt.body_is_kept();
        // Nothing is retried for nobody.
        let retry = reason != Reason::RequestTimeout
            && !attempt.client().stream.is_broken()
            && may_retry(event, delivered, head.idempotent, replayable, &forward.policy.retry)
            && attempts.take_retry(event, &endpoint);
        // A deadline of the client's choice says nothing about the endpoint.
        if is_failure(event, retry) && !(is_clients && reason == Reason::RequestTimeout) {
            attempt.report_failure(event);
        }
        if !retry {
            facts.reason = reason;
            if let Event::Status(_) = event {
                attempt.report(facts);
                return match attempt.deliver(facts).await {
                    Ok(next) => attempt.settle(next),
                    Err(left) => respond_reason(worker, client, head, left, facts).await,
                };
            }
            facts.request_bytes = attempt.received();
            let left = attempt.body_left();
            drop(attempt);
            return respond_reason(worker, client, head, left, facts).await;
        }
        attempts.fresh_only |= reused;
        worker.metrics.retries.add(1);
        prefix = Some(attempt.into_prefix());
        if let Some(buf) = &mut client.buf {
            buf.unconsume_to(body_start);
        }
    }
}

/// Tick by which the request must be over, and whether that is the client's choice.
fn deadline(client: &Client, head: &RequestHead, forward: &Forward) -> (u32, bool) {
    let policy = forward.policy.timeouts.total;
    let mut within = policy;
    if head.rpc.is_call() {
        let bytes = client.buf.as_ref().map_or(&[][..], Buf::all_filled);
        within = grpc::total(policy, grpc::timeout(head.grpc_timeout.get(bytes)));
    }
    (client.timer.tick_after(within), within != policy)
}

/// The request on its way to the endpoint.
fn upload(client: &Client, connection: &Connection, head: &RequestHead, web: Rpc, prefix: Head) -> Relay {
    // A stream that has ended needs no read to know it. What an attempt before this one has read of it is at hand.
    let has_ended = client.stream.has_ended();
    let is_at_hand = client.buf.as_ref().is_some_and(|buf| !buf.is_empty());
    let framing = if has_ended && !is_at_hand { Framing::None } else { head.framing };
    let (input, output) = (client.stream.framing(framing), connection.stream.framing(head.framing));
    // Over HTTP/2, trailers need not be announced.
    let trailers = head.te_trailers || client.stream.delimits();
    let mut upload = Relay::new(prefix, input, output, trailers, head.length);
    upload.source_ended = has_ended;
    upload.translation = Translation::of_request(web);
    // Such bodies arrive behind their heads, however small they are. Decoding changes what is in the buffer.
    upload.keeps = client.stream.delimits() && upload.translation.is_none();
    upload
}

/// Whether `event` is held against the endpoint. A connection that is stale or going away is no failure; a status that
/// is passed on is reported as a response.
fn is_failure(event: Event, retry: bool) -> bool {
    match event {
        Event::Ended { reused: true }
        | Event::NotProcessed(Refusal::GoingAway)
        | Event::Reset(Reset::Harmless) => false,
        Event::Status(_) => retry,
        Event::Ended { reused: false }
        | Event::NotProcessed(Refusal::Refused)
        | Event::Reset(Reset::Fault)
        | Event::ConnectFailed
        | Event::Timeout
        | Event::BadResponse => true,
    }
}

/// Whether the whole body is in the buffer, so that it can be sent again. Chunked bodies are decoded in place
/// and never can.
fn body_at_hand(client: &Client, framing: Framing) -> bool {
    let at_hand = client.buf.as_ref().map_or(0, |buf| buf.unread().len());
    match framing {
        Framing::None => true,
        Framing::Length(length) => usize::try_from(length).is_ok_and(|length| length <= at_hand),
        Framing::Chunked | Framing::Close => false,
    }
}

/// Ready if a request that is not sent yet need not be any more: the client left, or `total` has passed. The
/// client's timer is armed.
fn given_up(client: &mut Client, total: u32, cx: &mut Context<'_>) -> Poll<Reason> {
    if client.has_left(cx) {
        return Poll::Ready(Reason::ClientGone);
    }
    if client.timer.poll_expired(cx) && client.timer.now() >= total {
        return Poll::Ready(Reason::RequestTimeout);
    }
    Poll::Pending
}

/// Ends a request whose client misbehaved or left.
async fn abandon(worker: &Worker, client: &mut Client, head: &RequestHead, facts: &mut Facts) -> Next {
    match facts.reason.status() {
        0 => Next::Close,
        status => {
            // Whatever the client still sends belongs to no request.
            let _kept = respond(worker, client, head, Framing::Close, facts, status, b"").await;
            Next::Linger
        }
    }
}

impl<'a> Attempts<'a> {
    fn new(worker: &'a Worker, head: &'a RequestHead, forward: &'a Forward) -> Self {
        Self {
            worker,
            head,
            forward,
            excluded: [0; MOST_EXCLUDED],
            failures: 0,
            fresh_only: head.websocket,
            retries_left: forward.policy.retry.attempts,
            refusals_left: MOST_REFUSALS,
        }
    }

    /// Picks an endpoint and gets a connection to it; tries others while none comes about.
    async fn acquire(
        &mut self,
        client: &mut Client,
        total: u32,
        facts: &mut Facts,
    ) -> Result<Acquired, Reason> {
        loop {
            let now = if facts.attempts == 0 { facts.started } else { Instant::now() };
            let in_flight = self.pick(client, total, now).await?;
            let endpoint = in_flight.endpoint();
            facts.endpoint = Some(endpoint.address);
            facts.attempts = facts.attempts.saturating_add(1);
            let counters = endpoint.counters.of(self.worker.index);
            if let Some(counters) = counters {
                counters.requests.add(1);
            }
            let connected = match self.pooled(endpoint, client.timer.now()) {
                Some(connection) => Ok(connection),
                None => self.connect(client, total, endpoint).await,
            };
            match connected {
                Ok(connection) if self.head.websocket && !connection.stream.allows_websocket() => {
                    return Err(Reason::WebSocketUnsupported);
                }
                Ok(connection) if connection.reused => {
                    self.worker.metrics.upstream_reuses.add(1);
                    return Ok(Acquired { in_flight, connection });
                }
                Ok(connection) => {
                    self.worker.metrics.upstream_connects.add(1);
                    if let Some(counters) = counters {
                        counters.connects.add(1);
                    }
                    return Ok(Acquired { in_flight, connection });
                }
                Err(NotConnected::GivenUp(reason)) => return Err(reason),
                Err(NotConnected::Failed { kind, first }) => {
                    if matches!(kind, ErrorKind::TooManyLinks) {
                        // Our own want of descriptors says nothing about the endpoint.
                        self.worker.shed();
                    } else if first {
                        self.forward.backend.report(endpoint, Outcome::ConnectFailed, Instant::now());
                    }
                    if first {
                        self.worker.metrics.upstream_connect_failures.add(1);
                        if let Some(counters) = counters {
                            counters.failures.add(1);
                        }
                    }
                    let endpoint = Arc::clone(endpoint);
                    if !self.take_retry(Event::ConnectFailed, &endpoint) {
                        return Err(Reason::ConnectFailed);
                    }
                    self.worker.metrics.retries.add(1);
                }
            }
        }
    }

    async fn pick(&self, client: &mut Client, total: u32, now: Instant) -> Result<InFlight, Reason> {
        let exclude = self.excluded.get(..self.failures).unwrap_or_default();
        let request = PickRequest {
            hash: self.forward.hash,
            exclude,
            now,
            worker: self.worker.index,
            cap: 0,
            is_sticky: false,
            ipv4: None,
        };
        let picked = match self.forward.backend.pick(&request) {
            // Boxed: waiting is rare, and its state would make every connection's task larger.
            Err(PickError::AtCapacity) => {
                let mut waiting = Box::pin(self.forward.backend.wait_for_slot(&request));
                client.timer.arm_at(total);
                poll_fn(|cx| match waiting.as_mut().poll(cx) {
                    Poll::Ready(picked) => Poll::Ready(Ok(picked)),
                    Poll::Pending => given_up(client, total, cx).map(Err),
                })
                .await?
            }
            other => other,
        };
        picked.map_err(|error| match error {
            PickError::NoEndpoint | PickError::OtherFamily => Reason::NoEndpoint,
            PickError::AtCapacity => Reason::Overloaded,
        })
    }

    fn pooled(&self, endpoint: &Arc<EndpointState>, now: u32) -> Option<Connection> {
        let key = self.forward.backend.connection_key(endpoint);
        match self.forward.backend.config.policy.protocol {
            BackendProtocol::Http1 if self.fresh_only => None,
            BackendProtocol::Http1 => {
                let not_before = if self.head.idempotent { 0 } else { now.saturating_sub(YOUNG) };
                self.worker.pool.take(key, endpoint, now, not_before)
            }
            BackendProtocol::Http2 => self.worker.http2.take(key, endpoint),
        }
    }

    /// Connects, or waits for a stream of a connection, within the connect timeout and what is left of the total one.
    async fn connect(
        &self,
        client: &mut Client,
        total: u32,
        endpoint: &Arc<EndpointState>,
    ) -> Result<Connection, NotConnected> {
        let policy = &self.forward.backend.config.policy;
        let deadline = client.timer.tick_after(policy.connect_timeout).min(total);
        client.timer.arm_at(deadline);
        // Boxed: connecting is rare, and its state would make every connection's task larger.
        let mut connecting = Box::pin(upstream::open(self.worker, &self.forward.backend, endpoint));
        let result = poll_fn(|cx| {
            if let Poll::Ready(result) = connecting.as_mut().poll(cx) {
                let failed = |failed: NoConnection| {
                    let kind = match failed.error.raw_os_error() {
                        // EMFILE, ENFILE: no descriptor left; give idle ones back.
                        Some(24 | 23) => ErrorKind::TooManyLinks,
                        _ => failed.error.kind(),
                    };
                    NotConnected::Failed { kind, first: failed.first }
                };
                return Poll::Ready(result.map_err(failed));
            }
            match given_up(client, total, cx) {
                Poll::Ready(reason) => Poll::Ready(Err(NotConnected::GivenUp(reason))),
                Poll::Pending if client.timer.is_expired() => {
                    let key = self.forward.backend.connection_key(endpoint);
                    Poll::Ready(Err(if self.worker.http2.is_full(key) {
                        NotConnected::GivenUp(Reason::Overloaded)
                    } else {
                        NotConnected::Failed { kind: ErrorKind::TimedOut, first: true }
                    }))
                }
                Poll::Pending => Poll::Pending,
            }
        });
        result.await
    }

    /// Takes one retry from what the policy and the budget allow, and excludes the endpoint that failed.
    fn take_retry(&mut self, event: Event, endpoint: &Arc<EndpointState>) -> bool {
        match event {
            // The endpoint may be well; only the pooled connection was stale. Costs nothing but a connect.
            Event::Ended { reused: true } => return !self.fresh_only,
            Event::NotProcessed(refusal) => {
                let Some(left) = self.refusals_left.checked_sub(1) else { return false };
                self.refusals_left = left;
                // An endpoint that goes away loads nobody: what it leaves would have come anyway.
                if refusal == Refusal::GoingAway {
                    return true;
                }
                // Not the policy's concern, but the budget's.
                self.retries_left = self.retries_left.saturating_add(1);
            }
            Event::Ended { reused: false }
            | Event::Reset(_)
            | Event::ConnectFailed
            | Event::Timeout
            | Event::Status(_)
            | Event::BadResponse => {}
        }
        if let Some(slot) = self.excluded.get_mut(self.failures) {
            *slot = endpoint.id;
            self.failures += 1;
        }
        let Some(left) = self.retries_left.checked_sub(1) else { return false };
        self.retries_left = left;
        // A failed connect loads no endpoint; everything else could amplify an overload.
        let allowed = event == Event::ConnectFailed || self.forward.backend.retry_allowed();
        let counters = self.forward.backend.state.counters.of(self.worker.index);
        if let Some(counters) = counters {
            if allowed { counters.retries.add(1) } else { counters.retries_denied.add(1) }
        }
        allowed
    }
}

/// Whether the endpoint can have seen the request, judged by how its reused connection ended. `Nothing` only
/// when that is certain.
pub(crate) fn delivered_by_error(written: u64, error: Option<ErrorKind>, one_segment: bool) -> Delivered {
    match error {
        _ if written == 0 => Delivered::Nothing,
        // Linux reports EPIPE when a reset arrives after a FIN: the endpoint had closed its side, and what
        // it then received (this request) was thrown away by its kernel. With more than one segment, an
        // earlier one could have been read before.
        Some(ErrorKind::BrokenPipe) if one_segment => Delivered::Nothing,
        _ => Delivered::Possibly,
    }
}
