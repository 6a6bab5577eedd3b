//! One attempt: the request to one endpoint, the response from it. Upload and response run concurrently, so
//! that an early answer is seen while a large body is still being sent.

use std::future::poll_fn;
use std::io::ErrorKind;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{Interest, ReadBuf};

use super::connection::{Client, Next};
use super::exchange::{Facts, delivered_by_error};
use super::head::{Framing, RequestHead};
use super::plan::Forward;
use super::response::{self, ResponseHead};
use super::scan::HeadScan;
use super::tunnel;
use super::write::{self, Delivery};
use crate::http2::body::Reset;
use crate::live::Outcome;
use crate::proxy::grpc::{self, Rpc};
use crate::proxy::grpc_web::Translation;
use crate::proxy::relay::{Fault, Relay};
use crate::proxy::retry::{Delivered, Event};
use crate::record::Reason;
use crate::upstream::Connection;
use crate::worker::Worker;
use crate::worker::buffers::{Buf, Head};
use crate::worker::timers::TICK;

mod deadline;

/// Informational responses before the final one.
const MOST_INFORMATIONAL: u8 = 16;
/// How long a body waits for `100 Continue` (RFC 9110 §10.1.1: not indefinitely).
const CONTINUE_WAIT: Duration = Duration::from_secs(1);
/// Grace before `min_body_rate` is judged, and the interval of judging.
const RATE_WINDOW: Duration = Duration::from_secs(10);
/// How long a reset may take to follow the FIN of an endpoint that never got the request.
const RESET_WAIT: Duration = Duration::from_millis(200);

/// How waiting for a response head ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// A final response head is parsed.
    Head,
    /// The endpoint switched to WebSocket.
    Upgraded,
    /// The client is to blame, or gone.
    Client(Reason),
    /// The endpoint is to blame.
    Endpoint(Event, Reason),
}

const BAD_RESPONSE: Ended = Ended::Endpoint(Event::BadResponse, Reason::BadResponse);

/// One attempt in progress.
#[derive(Debug)]
pub(crate) struct Attempt<'a> {
    pub(super) worker: &'a Worker,
    pub(super) client: &'a mut Client,
    head: &'a RequestHead,
    pub(super) forward: &'a Forward,
    pub(super) connection: Connection,
    upload: Relay,
    upload_error: Option<ErrorKind>,
    read_error: Option<ErrorKind>,
    pub(super) answer: Buf,
    pub(super) response: ResponseHead,
    /// The use of the scratch memory that holds the response's fields.
    parsed_in: u64,
    informational: u8,
    /// The response was read and sent to its end.
    is_whole: bool,
    /// Its head is a success, of which the health state was not told.
    is_unjudged: bool,
    /// When the attempt began: when a request without body was sent.
    began: Instant,
    sent: Option<Instant>,
    /// Tick by which the whole request must be over.
    total: u32,
    /// Tick by which the current phase must make progress (or be over).
    phase: u32,
    hold_until: u32,
    /// Tick at which to look whether the client is still there.
    look_at: u32,
    /// What the client sends is a stream of messages, not an upload.
    may_be_quiet: bool,
    rate_check: u32,
    rate_seen: u64,
}

impl<'a> Attempt<'a> {
    #[expect(clippy::too_many_arguments, reason = "everything that an attempt is made of, once")]
    pub(crate) fn new(
        worker: &'a Worker,
        client: &'a mut Client,
        head: &'a RequestHead,
        forward: &'a Forward,
        connection: Connection,
        upload: Relay,
        total: u32,
        began: Instant,
    ) -> Self {
        let never = client.timer.tick_after(Duration::ZERO);
        let hold_until = if upload.hold { client.timer.tick_after(CONTINUE_WAIT) } else { never };
        // A client may say little, and that rarely; but not as an excuse for a slow upload of another kind.
        let may_be_quiet = forward.is_call && head.rpc == Rpc::Grpc && client.stream.delimits();
        let rate =
            client.peer.config.limits.min_body_rate > 0 && head.framing != Framing::None && !may_be_quiet;
        let rate_check = if rate { client.timer.tick_after(RATE_WINDOW) } else { never };
        let timeouts = &forward.policy.timeouts;
        let first =
            if may_be_quiet { grpc::idle(timeouts, &client.peer.config.limits) } else { timeouts.idle };
        let phase = client.timer.tick_after(first);
        Self {
            worker,
            client,
            head,
            forward,
            connection,
            upload,
            upload_error: None,
            read_error: None,
            answer: worker.buffers.resting(),
            response: ResponseHead::default(),
            parsed_in: 0,
            informational: 0,
            is_whole: false,
            is_unjudged: false,
            began,
            sent: None,
            total,
            phase,
            hold_until,
            look_at: never,
            may_be_quiet,
            rate_check,
            rate_seen: 0,
        }
    }

    pub(crate) fn client(&mut self) -> &mut Client {
        self.client
    }

    /// Body bytes received from the client.
    pub(crate) fn received(&self) -> u64 {
        self.upload.received
    }

    /// Nothing of the body was taken from the client, so that another attempt can send it. Chunk framing that
    /// was taken counts: without it, what follows would mean something else.
    pub(crate) fn body_untouched(&self) -> bool {
        !self.upload.touched
    }

    /// All that was taken of the body is still in the client's buffer.
    pub(crate) fn body_is_kept(&self) -> bool {
        self.upload.keeps
    }

    /// Framing of what the client's buffer still holds, or will, of the body; `Close` = unknown.
    pub(crate) fn body_left(&self) -> Framing {
        match (self.upload.ended, self.upload.touched) {
            (true, _) => Framing::None,
            (false, false) => self.head.framing,
            (false, true) => Framing::Close,
        }
    }

    pub(crate) fn into_prefix(self) -> Head {
        self.upload.into_prefix()
    }

    /// The status, if the policy retries on it.
    pub(crate) fn retryable_status(&self) -> Option<u16> {
        let status = self.response.status;
        (self.head.idempotent && self.forward.policy.retry.codes.contains(&status)).then_some(status)
    }

    /// Sends the request and reads up to the final response head; relays informational ones.
    pub(crate) async fn response_head(&mut self, facts: &mut Facts) -> Ended {
        loop {
            self.response = match poll_fn(|cx| self.poll_first(cx)).await {
                Ok(Some(parsed)) => parsed,
                Ok(None) => match self.rest_of_head().await {
                    Ok(parsed) => parsed,
                    Err(ended) => return ended,
                },
                Err(ended) => return ended,
            };
            match self.response.status {
                101 if self.accepts_websocket() => return Ended::Upgraded,
                101 => return BAD_RESPONSE,
                // Without a switch there is no tunnel, but a success would tell an HTTP/2 client that there is one
                // (RFC 8441 §5).
                200..=299 if self.head.websocket && self.client.stream.delimits() => return BAD_RESPONSE,
                100..=199 => {
                    self.informational += 1;
                    if self.informational > MOST_INFORMATIONAL {
                        return BAD_RESPONSE;
                    }
                    if !self.relay_informational().await {
                        return Ended::Client(Reason::ClientGone);
                    }
                }
                _ => {
                    facts.response_head = self.sent.map(|sent| sent.elapsed());
                    return Ended::Head;
                }
            }
        }
    }

    /// Whether the 101 answers the key that was sent (RFC 6455 §4.1).
    fn accepts_websocket(&self) -> bool {
        let Some(buf) = &self.client.buf else { return false };
        let accept = self.response.websocket_accept.get(self.answer.unread());
        let key = self.head.websocket_key.get(buf.all_filled());
        self.head.websocket
            && self.response.upgrades_to_websocket
            && tunnel::accept_for(key).as_bytes() == accept
    }

    /// The head, if the first bytes that arrive hold it; `None` if they hold a part of it.
    fn poll_first(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<ResponseHead>, Ended>> {
        if self.answer.is_empty() {
            ready!(self.poll_more(cx))?;
        }
        Poll::Ready(self.parse())
    }

    /// Reads on, line by line, until the head is complete.
    async fn rest_of_head(&mut self) -> Result<ResponseHead, Ended> {
        let mut scan = HeadScan::default();
        poll_fn(|cx| {
            loop {
                match scan.advance(self.answer.unread()) {
                    Ok(Some(_)) => return Poll::Ready(Ok(())),
                    Ok(None) if self.answer.unread().len() <= self.head_limit() => {}
                    Ok(None) | Err(_) => return Poll::Ready(Err(BAD_RESPONSE)),
                }
                ready!(self.poll_more(cx))?;
            }
        })
        .await?;
        self.parse()?.ok_or(BAD_RESPONSE)
    }

    fn head_limit(&self) -> usize {
        self.client.peer.config.limits.head_bytes as usize
    }

    fn parse(&mut self) -> Result<Option<ResponseHead>, Ended> {
        let mut scratch = self.worker.scratch.borrow_mut();
        scratch.uses += 1;
        self.parsed_in = scratch.uses;
        match response::parse(self.answer.unread(), self.head.is_head, &mut scratch.fields) {
            Ok(Some(parsed)) if parsed.length > self.head_limit() => Err(BAD_RESPONSE),
            Ok(parsed) => Ok(parsed),
            Err(_) => Err(BAD_RESPONSE),
        }
    }

    /// Passes a 1xx on (never to an HTTP/1.0 client, RFC 9110 §15.2). False if the client is gone.
    async fn relay_informational(&mut self) -> bool {
        let is_continue = self.response.status == 100;
        if is_continue {
            self.upload.hold = false;
        }
        let wanted = self.head.minor_version == 1 && (!is_continue || self.head.expect_continue);
        if !wanted {
            self.answer.consume(self.response.length);
            return true;
        }
        let out = self.encode_head(Delivery {
            framing: Framing::None,
            close: false,
            http10: false,
            trailers: false,
            web: Rpc::None,
        });
        self.client.timer.arm_at(self.phase.min(self.total));
        self.client.write_all(&out, false).await
    }

    /// Writes the response's head for the client and consumes it.
    pub(super) fn encode_head(&mut self, delivery: Delivery) -> Head {
        let mut out = self.worker.buffers.head();
        let mut scratch = self.worker.scratch.borrow_mut();
        let bytes = self.answer.unread().get(..self.response.length).unwrap_or_default();
        // Another request may have used the scratch memory since; a head that parsed once parses alike.
        if scratch.uses != self.parsed_in {
            scratch.uses += 1;
            let again = response::parse(bytes, self.head.is_head, &mut scratch.fields);
            debug_assert!(again.is_ok());
        }
        let modifier = &self.forward.policy.filters.response_headers;
        let is_final = self.response.status >= 200 && self.client.peer.tls.is_some();
        let hsts = self.forward.policy.https.hsts.as_deref().filter(|_| is_final);
        write::response(&mut out, bytes, &self.response, &scratch.fields, delivery, modifier, hsts);
        self.answer.consume(self.response.length);
        out
    }

    /// Moves the request on and reads more of the response.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        self.poll_upload(cx)?;
        if self.answer.spare().is_empty() {
            // Informational responses before this one are done with.
            self.answer.compact_to(0);
            self.answer.enlarge();
        }
        let mut space = ReadBuf::new(self.answer.spare());
        match self.connection.stream.poll_read(cx, &mut space) {
            Poll::Ready(Ok(())) if !space.filled().is_empty() => {
                let n = space.filled().len();
                self.answer.filled(n);
                return Poll::Ready(Ok(()));
            }
            Poll::Ready(result) => {
                self.read_error = result.err().map(|error| error.kind());
                return Poll::Ready(Err(self.ended()));
            }
            // One buffer serves all that wait, and stays in the processor's cache.
            Poll::Pending => self.answer.rest(0),
        }
        let has_left = if self.upload.finished {
            self.client.has_left(cx)
        } else {
            // While the upload waits for the endpoint, nothing is read that would tell.
            self.client.stream.poll_aborted(cx).is_ready()
        };
        if has_left {
            return Poll::Ready(Err(Ended::Client(Reason::ClientGone)));
        }
        self.poll_deadline(cx)
    }

    /// The endpoint's side ended before a head.
    fn ended(&self) -> Ended {
        let is_malformed = self.read_error == Some(ErrorKind::InvalidData);
        if self.answer.is_empty()
            && self.informational == 0
            && let Some(refusal) = self.connection.stream.refusal()
        {
            Ended::Endpoint(Event::NotProcessed(refusal), Reason::EmptyResponse)
        } else if self.answer.is_empty()
            && self.informational == 0
            && let Some(reset) = self.connection.stream.was_reset()
        {
            Ended::Endpoint(Event::Reset(reset), Reason::EmptyResponse)
        } else if self.answer.is_empty() && self.informational == 0 && !is_malformed {
            Ended::Endpoint(Event::Ended { reused: self.connection.reused }, Reason::EmptyResponse)
        } else {
            BAD_RESPONSE
        }
    }

    /// Moves the request on. An error of the endpoint's side is kept for later: it may have answered already.
    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<(), Ended> {
        if self.upload.finished || self.upload_error.is_some() {
            return Ok(());
        }
        let before = self.upload.received + self.upload.written;
        let Some(buf) = &mut self.client.buf else { return Err(Ended::Client(Reason::ClientGone)) };
        let polled = self.upload.poll(
            cx,
            &mut self.client.stream,
            buf,
            &mut self.connection.stream,
            &self.worker.buffers,
        );
        match polled {
            Poll::Ready(Ok(())) => {
                self.sent = Some(if self.upload.received == 0 { self.began } else { Instant::now() });
                // An early response has its head already.
                let is_answered = self.response.status >= 200;
                let next = if is_answered { self.idle() } else { self.response_timeout() };
                self.phase = self.client.timer.tick_after(next);
            }
            Poll::Ready(Err(Fault::Destination(kind))) => self.upload_error = Some(kind),
            Poll::Ready(Err(Fault::SourceMalformed)) => return Err(Ended::Client(Reason::BadRequest)),
            Poll::Ready(Err(Fault::SourceClosed | Fault::Source(_))) => {
                return Err(Ended::Client(Reason::ClientGone));
            }
            Poll::Pending if before != self.upload.received + self.upload.written => self.progressed(),
            Poll::Pending => {}
        }
        Ok(())
    }

    /// Whether the endpoint can have seen the request, after the attempt ended with `event`.
    pub(crate) async fn delivered(&mut self, event: Event) -> Delivered {
        if !matches!(event, Event::Ended { .. }) {
            return Delivered::Possibly;
        }
        let Some(stream) = self.connection.stream.socket() else { return Delivered::Possibly };
        let mss = socket2::SockRef::from(stream).tcp_mss().unwrap_or(0);
        let one_segment = self.connection.stream.on_wire(self.upload.written) <= u64::from(mss);
        let pending = || stream.take_error().ok().flatten().map(|error| error.kind());
        let mut error = self.upload_error.or(self.read_error).or_else(pending);
        if error.is_none() && one_segment && !self.head.idempotent && self.connection.reused {
            // A clean end: if the endpoint closed before the request reached it, its reset is on the way.
            self.client.timer.arm(RESET_WAIT);
            let mut reset = Box::pin(stream.ready(Interest::ERROR));
            let timer = &self.client.timer;
            poll_fn(|cx| match reset.as_mut().poll(cx) {
                Poll::Ready(_) => Poll::Ready(()),
                Poll::Pending if timer.poll_expired(cx) => Poll::Ready(()),
                Poll::Pending => Poll::Pending,
            })
            .await;
            error = pending();
        }
        delivered_by_error(self.upload.written, error, one_segment)
    }

    /// Tells the health state that a response came. Whether it is a good one, its end decides, unless the endpoint
    /// is on trial: others wait for the verdict, and a stream may last.
    pub(crate) fn report(&mut self, facts: &Facts) {
        let outcome = Outcome::of_status(self.response.status);
        self.is_unjudged = outcome == Outcome::Success && self.connection.endpoint.is_healthy();
        if !self.is_unjudged {
            self.report_outcome(outcome, facts);
        }
        if let (Some(counters), Some(took)) =
            (self.connection.endpoint.counters.of(self.worker.index), facts.response_head)
        {
            counters.response_head.observe(took);
        }
    }

    /// Tells the health state that the response is good, if nobody did.
    pub(crate) fn report_good(&mut self, facts: &Facts) {
        if std::mem::take(&mut self.is_unjudged) {
            self.report_outcome(Outcome::Success, facts);
        }
    }

    fn report_outcome(&self, outcome: Outcome, facts: &Facts) {
        self.forward.backend.report(&self.connection.endpoint, outcome, self.sent.unwrap_or(facts.started));
    }

    /// Tells the health state that no (good) response came.
    pub(crate) fn report_failure(&self, event: Event) {
        let outcome = match event {
            Event::ConnectFailed => Outcome::ConnectFailed,
            Event::Ended { .. } | Event::NotProcessed(_) | Event::Reset(_) => Outcome::Reset,
            Event::Timeout => Outcome::Timeout,
            Event::Status(status) => Outcome::of_status(status),
            Event::BadResponse => Outcome::BadResponse,
        };
        self.forward.backend.report(&self.connection.endpoint, outcome, Instant::now());
        if let Some(counters) = self.connection.endpoint.counters.of(self.worker.index) {
            counters.failures.add(1);
        }
    }

    /// Sends the response to the client and settles both connections. Fails when the response turned out to be
    /// malformed before any of it was sent, so that the client can still be told.
    ///
    /// # Errors
    /// [`Self::body_left`], if so.
    pub(crate) async fn deliver(&mut self, facts: &mut Facts) -> Result<Next, Framing> {
        let http10 = self.head.minor_version == 0;
        let framing = match self.response.framing {
            Framing::Chunked | Framing::Close if http10 => Framing::Close,
            Framing::Chunked | Framing::Close => Framing::Chunked,
            framing => framing,
        };
        // Without a body there is nothing to translate.
        let is_call = self.response.is_grpc && framing != Framing::None;
        let web = if is_call { self.forward.web } else { Rpc::None };
        let framing = match web.is_call() {
            // A translation changes the length.
            true if http10 => Framing::Close,
            true => Framing::Chunked,
            false => framing,
        };
        let limits = &self.client.peer.config.limits;
        let close = !self.head.keep_alive
            || framing == Framing::Close
            || !self.upload.finished
            || self.worker.is_draining()
            || self.client.is_last(limits);
        facts.status = self.response.status;
        let trailers = self.head.te_trailers || self.client.stream.delimits();
        let prefix = self.encode_head(Delivery { framing, close, http10, trailers, web });
        let head_length = u64::try_from(prefix.len()).unwrap_or(0);
        let input = self.connection.stream.framing(self.response.framing);
        let output = self.client.stream.framing(framing);
        let mut down = Relay::new(prefix, input, output, trailers, 0);
        down.source_ended = self.connection.stream.has_ended();
        down.translation = Translation::of_response(web);
        self.phase = self.client.timer.tick_after(self.idle());
        let result = poll_fn(|cx| self.poll_deliver(cx, &mut down)).await;
        facts.request_bytes = self.upload.received;
        facts.response_bytes = down.written.saturating_sub(head_length);
        let spliced = down.spliced + self.upload.spliced;
        if spliced > 0 {
            self.worker.metrics.spliced_bytes.add(spliced);
        }
        if let Err(reason) = result {
            facts.reason = reason;
            let is_cut = reason == Reason::ResponseTruncated;
            if is_cut && self.connection.stream.was_reset() != Some(Reset::Harmless) {
                self.report_failure(Event::BadResponse);
            } else {
                self.report_good(facts);
            }
            if is_cut && down.written == 0 {
                facts.reason = Reason::BadResponse;
                return Err(self.body_left());
            }
            if framing == Framing::Close {
                // The end of such a body is the end of the connection: only a reset shows that it is not whole.
                self.client.stream.reset_on_close();
            }
            return Ok(Next::Close);
        }
        self.is_whole = true;
        self.report_good(facts);
        Ok(match (close, self.upload.finished) {
            (false, _) => Next::KeepAlive,
            (true, true) if self.client.half_closed && self.client.stream.ends_when_dropped() => Next::Close,
            // Where nothing arrives any more, no reset can overtake the answer.
            (true, true) if self.head.is_last_word() => Next::Leave,
            (true, _) => Next::Linger,
        })
    }

    /// Returns the endpoint's connection to the pool if, and only if, it is in a known state: request fully
    /// written, response fully framed and read, nothing left over, no upgrade attempted.
    pub(crate) fn settle(self, next: Next) -> Next {
        let reusable = self.is_whole
            // One that delimits messages itself carries no other.
            && !self.connection.stream.delimits()
            && self.upload.finished
            && self.response.keep_alive
            && self.answer.is_empty()
            && !self.head.websocket;
        if !reusable {
            return next;
        }
        let policy = &self.forward.backend.config.policy;
        let offered = self
            .response
            .keep_alive_timeout
            .map(|seconds| Duration::from_secs(u64::from(seconds.saturating_sub(1))));
        let keep = offered.map_or(policy.keepalive_timeout, |offered| offered.min(policy.keepalive_timeout));
        if keep < TICK {
            return next;
        }
        let now = self.client.timer.now();
        let until = self.client.timer.tick_after(keep);
        let key = self.forward.backend.connection_key(&self.connection.endpoint);
        self.worker.pool.put(key, self.connection, now, until, policy.keepalive_connections);
        next
    }

    fn poll_deliver(&mut self, cx: &mut Context<'_>, down: &mut Relay) -> Poll<Result<(), Reason>> {
        let before = down.written + down.received;
        let polled = down.poll(
            cx,
            &mut self.connection.stream,
            &mut self.answer,
            &mut self.client.stream,
            &self.worker.buffers,
        );
        match polled {
            Poll::Ready(Ok(())) => return Poll::Ready(Ok(())),
            Poll::Ready(Err(Fault::Destination(_))) => return Poll::Ready(Err(Reason::ClientGone)),
            Poll::Ready(Err(_)) => return Poll::Ready(Err(Reason::ResponseTruncated)),
            Poll::Pending if before != down.written + down.received => {
                self.phase = self.client.timer.tick_after(self.idle());
            }
            Poll::Pending => {}
        }
        if self.upload.finished {
            if self.client.has_left(cx) {
                return Poll::Ready(Err(Reason::ClientGone));
            }
        } else if self.poll_upload(cx).is_err() {
            // The answer is under way; what the client does with the rest of its body no longer matters.
            self.upload_error = Some(ErrorKind::ConnectionAborted);
        }
        if !self.upload.finished && self.client.stream.poll_aborted(cx).is_ready() {
            return Poll::Ready(Err(Reason::ClientGone));
        }
        if self.has_vanished(self.client.timer.now()) {
            return Poll::Ready(Err(Reason::ClientGone));
        }
        self.client.timer.arm_at(self.phase.min(self.total).min(self.look_at));
        if !self.client.timer.poll_expired(cx) {
            return Poll::Pending;
        }
        let total = self.total <= self.client.timer.now();
        Poll::Ready(Err(if total { Reason::RequestTimeout } else { Reason::IdleTimeout }))
    }
}
