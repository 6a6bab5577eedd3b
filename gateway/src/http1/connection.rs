//! The driver of one client connection: waits, reads heads, hands each request on, keeps or closes.
//!
//! An idle connection owns no buffer. A panic in here ends this connection only.

use std::future::poll_fn;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use config::table::{BindConfig, Limits};
use tokio::io::ReadBuf;
use tokio::net::TcpStream;

use super::answer::{self, Answer};
use super::exchange;
use super::head;
use super::plan::IpText;
use super::scan::HeadScan;
use crate::bind::proxy_protocol;
use crate::http2;
use crate::http2::guard::PREFACE;
use crate::metrics::LimitHit;
use crate::proxy::route;
use crate::record::{Reason, Record, Version};
use crate::stream::Stream;
use crate::tls::{self, Secured};
use crate::worker::buffers::Buf;
use crate::worker::timers::Timer;
use crate::worker::{Admission, Worker};

/// What of the HTTP/2 preface looks like a request's head.
const PREFACE_HEAD: &[u8] = PREFACE.split_at(18).0;
/// How long a refused client may still send before the connection is torn down, and how much.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 256 * 1_024;

/// Who is at the other end.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// Key of the Bind in the table.
    pub(crate) key: SocketAddr,
    /// Settings when the connection was accepted.
    pub(crate) config: Arc<BindConfig>,
    /// The connected address, or the one that the PROXY header named; canonical.
    pub(crate) address: SocketAddr,
    /// Its IP as text.
    pub(crate) text: IpText,
    /// The local port as text.
    pub(crate) port: IpText,
    /// What its handshake came to, if the connection is encrypted.
    pub(crate) tls: Option<Rc<Secured>>,
}

/// One client connection.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) stream: Stream,
    pub(crate) peer: Peer,
    pub(crate) timer: Timer,
    /// Present while bytes are at hand.
    pub(crate) buf: Option<Buf>,
    /// The client has sent FIN.
    pub(crate) half_closed: bool,
    served: u32,
    /// Absent on a stream of a connection that is counted itself.
    admission: Option<Admission>,
}

/// What follows a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Next {
    /// The next request on this connection.
    KeepAlive,
    /// Close now.
    Close,
    /// Close: the client has announced that it sends nothing more, and was right as far as is known. Else as `Linger`.
    Leave,
    /// Close, but let the client read what was sent although it may still be sending.
    Linger,
}

enum Received {
    Head(usize),
    /// The client speaks HTTP/2 (prior knowledge, RFC 9113 §3.3); its preface is still in the buffer.
    Http2,
    Closed,
    Refused(Reason),
}

impl Client {
    pub(crate) fn new(worker: &Worker, stream: TcpStream, address: SocketAddr, admission: Admission) -> Self {
        let socket = admission.socket();
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        let current = worker.live();
        let config = route::bind(&current.live, socket.key).map_or(&socket.config, |bind| &bind.config);
        let peer = Peer {
            key: socket.key,
            config: Arc::clone(config),
            address,
            text: IpText::new(address.ip()),
            port: IpText::new(socket.port),
            tls: None,
        };
        let timer = worker.timers.timer();
        Self {
            stream: Stream::Tcp(stream),
            peer,
            timer,
            buf: None,
            half_closed: false,
            served: 0,
            admission: Some(admission),
        }
    }

    /// The client as one stream of a multiplexed connection sees it. `buf` holds the request's head; `served`
    /// requests came before on the connection.
    pub(crate) fn of_stream(
        worker: &Worker,
        peer: Peer,
        stream: Stream,
        buf: Option<Buf>,
        served: u32,
    ) -> Self {
        let timer = worker.timers.timer();
        Self { stream, peer, timer, buf, half_closed: false, served, admission: None }
    }

    /// Takes the connection out, so that another protocol can drive it.
    pub(crate) fn into_parts(self) -> (Stream, Peer, Timer, Option<Buf>, Option<Admission>) {
        (self.stream, self.peer, self.timer, self.buf, self.admission)
    }

    /// The version of HTTP that the client speaks, of the two that share a syntax the later one.
    pub(crate) fn version(&self) -> Version {
        if self.stream.delimits() { Version::Http2 } else { Version::Http11 }
    }
}

/// Counts a connection's end, however it ends.
struct End {
    worker: Rc<Worker>,
    address: SocketAddr,
}

impl Drop for End {
    fn drop(&mut self) {
        self.worker.metrics.connections_closed.add(1);
        // The runtime keeps a panic within its task: this connection ends, the worker goes on.
        if std::thread::panicking() {
            self.worker.metrics.panics.add(1);
            tracing::error!(client.addr = %self.address, "a connection ended in a panic; please report this");
        }
    }
}

/// Serves a connection until it ends. The client is boxed so that the task holds it once.
pub(crate) async fn serve(worker: Rc<Worker>, mut client: Box<Client>) {
    let _end = End { worker: Rc::clone(&worker), address: client.peer.address };
    if client.peer.config.proxy_protocol && !read_proxy_header(&worker, &mut client).await {
        return;
    }
    if client.peer.config.https {
        // Boxed: what a handshake needs would make every connection's task larger.
        client = match Box::pin(tls::accept(&worker, client)).await {
            Some(client) => client,
            None => return,
        };
        if matches!(&client.stream, Stream::Tls(tls) if tls.is_http2()) {
            return Box::pin(http2::server::serve(worker, client)).await;
        }
    }
    loop {
        let next = match receive(&worker, &mut client).await {
            Received::Head(length) => exchange::run(&worker, &mut client, length).await,
            Received::Http2 => return Box::pin(http2::server::serve(worker, client)).await,
            Received::Closed => return client.stream.take_leave(),
            Received::Refused(reason) => {
                count_limit(&worker, reason);
                refuse(&worker, &mut client, reason).await
            }
        };
        client.served = client.served.saturating_add(1);
        match next {
            Next::KeepAlive => {}
            Next::Close => return,
            Next::Leave if client.is_quiet() => return,
            Next::Leave | Next::Linger => return linger(&worker, &mut client).await,
        }
        let most = client.peer.config.limits.max_requests_per_connection;
        if most > 0 && client.served >= most {
            worker.metrics.limit_hit(LimitHit::RequestsPerConnection);
            return linger(&worker, &mut client).await;
        }
    }
}

impl Client {
    /// Whether the request being served is the last one that this connection may carry.
    pub(crate) fn is_last(&self, limits: &Limits) -> bool {
        limits.max_requests_per_connection > 0 && self.served + 1 >= limits.max_requests_per_connection
    }

    /// Requests served before the current one.
    pub(crate) fn served(&self) -> u32 {
        self.served
    }

    /// Gives the buffer back if nothing is in it, else moves what is left to its front.
    fn settle_buffer(&mut self) {
        if let Some(mut buf) = self.buf.take()
            && !buf.is_empty()
        {
            buf.compact_to(0);
            self.buf = Some(buf);
        }
    }

    /// Whether nothing more has arrived, and nothing has to be said at the end.
    fn is_quiet(&mut self) -> bool {
        self.stream.spliceable().is_some()
            && self.buf.as_ref().is_none_or(Buf::is_empty)
            && self.stream.is_quiet()
    }

    /// Waits for bytes with no buffer. False when the connection is to be closed.
    async fn wait_idle(&mut self, worker: &Worker) -> bool {
        if self.half_closed {
            return false;
        }
        let limits = &self.peer.config.limits;
        let (limit, wait) = if self.served == 0 {
            (LimitHit::HeaderTimeout, limits.header_timeout)
        } else {
            (LimitHit::IdleTimeout, limits.idle_timeout)
        };
        self.timer.arm(wait);
        let served = self.served;
        poll_fn(|cx| {
            if let Poll::Ready(result) = self.stream.poll_read_ready(cx) {
                return Poll::Ready(result.is_ok());
            }
            if self.timer.poll_expired(cx) {
                worker.metrics.limit_hit(limit);
                return Poll::Ready(false);
            }
            if worker.is_draining() && served > 0 { Poll::Ready(false) } else { Poll::Pending }
        })
        .await
    }

    /// Reads more into the buffer.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<usize>> {
        let Some(buf) = &mut self.buf else { return Poll::Ready(Ok(0)) };
        let mut space = ReadBuf::new(buf.spare());
        ready!(self.stream.poll_read(cx, &mut space))?;
        let n = space.filled().len();
        buf.filled(n);
        self.half_closed |= n == 0;
        Poll::Ready(Ok(n))
    }

    /// Takes in what the client sends ahead, as far as the buffer has room; true when the client is gone.
    pub(crate) fn has_left(&mut self, cx: &mut Context<'_>) -> bool {
        if self.stream.delimits() {
            // What it sends ahead is bounded by its window, and the end of its message is no end of anything else.
            return self.stream.poll_aborted(cx).is_ready();
        }
        while !self.half_closed && self.buf.as_mut().is_some_and(|buf| !buf.spare().is_empty()) {
            match self.poll_fill(cx) {
                Poll::Ready(Ok(n)) if n > 0 => {}
                Poll::Ready(Ok(_)) => return self.peer.config.abort_on_half_close,
                Poll::Ready(Err(_)) => return true,
                Poll::Pending => return false,
            }
        }
        false
    }

    /// As [`Self::poll_fill`], bounded by the timer: `None` when it expired.
    pub(crate) async fn fill(&mut self) -> Option<std::io::Result<usize>> {
        poll_fn(|cx| {
            if let Poll::Ready(result) = self.poll_fill(cx) {
                return Poll::Ready(Some(result));
            }
            if self.timer.poll_expired(cx) { Poll::Ready(None) } else { Poll::Pending }
        })
        .await
    }

    /// Writes all of `bytes`, bounded by the timer; `last`: they complete a message. False when it failed.
    pub(crate) async fn write_all(&mut self, bytes: &[u8], last: bool) -> bool {
        let mut rest = bytes;
        poll_fn(|cx| {
            while !rest.is_empty() {
                match self.stream.poll_write(cx, &[IoSlice::new(rest)], last) {
                    Poll::Ready(Ok(n)) if n > 0 => rest = rest.get(n..).unwrap_or_default(),
                    Poll::Ready(_) => return Poll::Ready(false),
                    Poll::Pending if self.timer.poll_expired(cx) => return Poll::Ready(false),
                    Poll::Pending => return Poll::Pending,
                }
            }
            let done = if last { self.stream.poll_finish(cx, b"") } else { self.stream.poll_flush(cx) };
            match done {
                Poll::Pending if !self.timer.poll_expired(cx) => Poll::Pending,
                flushed => Poll::Ready(matches!(flushed, Poll::Ready(Ok(())))),
            }
        })
        .await
    }
}

/// Reads until a complete head is at the front of the buffer.
async fn receive(worker: &Worker, client: &mut Client) -> Received {
    client.settle_buffer();
    if client.buf.is_none() {
        if !client.wait_idle(worker).await {
            return Received::Closed;
        }
        client.buf = Some(worker.buffers.small());
        match client.fill().await {
            Some(Ok(n)) if n > 0 => {}
            _ => return Received::Closed,
        }
    }
    let config = Arc::clone(&client.peer.config);
    let limits = &config.limits;
    client.timer.arm(limits.header_timeout);
    let mut scan = HeadScan::default();
    let mut skipped = false;
    loop {
        let Some(buf) = &mut client.buf else { return Received::Closed };
        // One empty line before a request is a habit of old clients (RFC 9112 §2.2).
        if !skipped && buf.unread().starts_with(b"\r\n") {
            skipped = true;
            buf.consume(2);
            buf.compact_to(0);
        }
        // Most often the head is all there is: the parser then finds its end.
        let at_hand = buf.unread().len();
        // Over TLS, it is negotiated (RFC 9113 §3.2).
        if buf.unread().starts_with(PREFACE_HEAD) && client.served == 0 && client.peer.tls.is_none() {
            return Received::Http2;
        }
        if at_hand <= limits.head_bytes as usize && buf.unread().ends_with(b"\r\n\r\n") {
            return Received::Head(at_hand);
        }
        match scan.advance(buf.unread()) {
            Ok(Some(length)) if length <= limits.head_bytes as usize => return Received::Head(length),
            Ok(Some(_)) => return Received::Refused(Reason::HeaderTooLarge),
            Err(_) => {
                return Received::Refused(early(buf.unread(), &scan, limits).unwrap_or(Reason::BadRequest));
            }
            Ok(None) => {}
        }
        if buf.unread().first() == Some(&0x16) {
            // A TLS ClientHello on a cleartext port: no answer that it could understand.
            return Received::Closed;
        }
        if let Some(reason) = early(buf.unread(), &scan, limits) {
            return Received::Refused(reason);
        }
        if buf.spare().is_empty() {
            buf.enlarge();
        }
        match client.fill().await {
            None => return Received::Refused(Reason::HeaderTimeout),
            Some(Ok(n)) if n > 0 => {}
            Some(_) => return Received::Closed,
        }
    }
}

fn early(partial: &[u8], scan: &HeadScan, limits: &Limits) -> Option<Reason> {
    if partial.is_empty() || partial == b"\r" {
        return None;
    }
    head::refuse_early(partial, scan.has_first_line(), limits)
}

/// Answers a request that never became one, and ends the connection.
pub(crate) async fn refuse(worker: &Worker, client: &mut Client, reason: Reason) -> Next {
    let mut out = worker.buffers.head();
    answer::write(
        &mut out,
        &Answer { reason: Some(reason), status: reason.status(), close: true, ..Answer::default() },
    );
    record_refusal(worker, &client.peer, client.version(), reason, reason.status());
    client.timer.arm(LINGER);
    if client.write_all(&out, true).await { Next::Linger } else { Next::Close }
}

/// Counts and logs a request that never became one; `status` is what the client is told.
pub(crate) fn record_refusal(worker: &Worker, peer: &Peer, version: Version, reason: Reason, status: u16) {
    let record = Record {
        client: peer.address.ip(),
        method: b"",
        host: b"",
        target: b"",
        version,
        request_id: b"",
        user_agent: b"",
        referer: b"",
        status,
        reason,
        route: None,
        backend: None,
        endpoint: None,
        attempts: 0,
        request_bytes: 0,
        response_bytes: 0,
        duration: Duration::ZERO,
        response_head: None,
    };
    worker.metrics.request_done(&record);
    worker.log.borrow_mut().write(&record, std::time::SystemTime::now());
}

pub(crate) fn count_limit(worker: &Worker, reason: Reason) {
    let limit = match reason {
        Reason::HeaderTooLarge => LimitHit::HeadBytes,
        Reason::UriTooLong => LimitHit::RequestLine,
        Reason::HeaderTimeout => LimitHit::HeaderTimeout,
        Reason::BodyTimeout => LimitHit::BodyIdleTimeout,
        _ => return,
    };
    worker.metrics.limit_hit(limit);
}

/// Ends the sending side and discards what still arrives, so that the answer is not lost to a reset.
pub(crate) async fn linger(worker: &Worker, client: &mut Client) {
    client.timer.arm(LINGER);
    let sent = poll_fn(|cx| match client.stream.poll_shutdown(cx) {
        Poll::Pending if !client.timer.poll_expired(cx) => Poll::Pending,
        sent => Poll::Ready(matches!(sent, Poll::Ready(Ok(())))),
    });
    if !sent.await {
        return;
    }
    let mut seen = 0;
    let buf = client.buf.get_or_insert_with(|| worker.buffers.small());
    poll_fn(|cx| {
        loop {
            buf.discard();
            let mut space = ReadBuf::new(buf.spare());
            match client.stream.poll_read(cx, &mut space) {
                Poll::Ready(Ok(())) if !space.filled().is_empty() && seen < LINGER_BYTES => {
                    seen += space.filled().len();
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending if client.timer.poll_expired(cx) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await;
}

/// Reads the PROXY protocol header that this Bind requires. False when there is none.
async fn read_proxy_header(worker: &Worker, client: &mut Client) -> bool {
    client.timer.arm(client.peer.config.limits.header_timeout);
    client.buf = Some(worker.buffers.small());
    loop {
        match client.fill().await {
            Some(Ok(n)) if n > 0 => {}
            _ => break,
        }
        let Some(buf) = &mut client.buf else { break };
        match proxy_protocol::parse(buf.unread()) {
            Ok(proxy_protocol::Parsed::Incomplete) if !buf.spare().is_empty() => {}
            Ok(proxy_protocol::Parsed::Incomplete) => buf.enlarge(),
            Ok(proxy_protocol::Parsed::Done { consumed, source, .. }) => {
                buf.consume(consumed);
                if let Some(source) = source {
                    client.peer.address = SocketAddr::new(source.ip().to_canonical(), source.port());
                    client.peer.text = IpText::new(client.peer.address.ip());
                }
                return true;
            }
            Err(_) => break,
        }
    }
    worker.metrics.proxy_protocol_errors.add(1);
    false
}
