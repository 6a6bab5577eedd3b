//! Bytes both ways between two connections, for whatever is relayed without being read: upgraded connections, TLS that
//! is passed through, TCP routes. Half-close aware; ends when both sides have ended, when one breaks it off, or when
//! its terms say so. No table swap touches it.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::dial;
use crate::http1::head::Framing;
use crate::live::EndpointState;
use crate::proxy::relay::{Fault, JOIN_BELOW, Relay};
use crate::record::Reason;
use crate::stream::Stream;
use crate::worker::Worker;
use crate::worker::buffers::{Buf, Buffers, Head};
use crate::worker::fast_path::{Lane, Stopped};
use crate::worker::timers::Timer;
use crate::worker::watch::Watch;

/// For so long there is no keepalive on the connection to the endpoint, since most that are short are shorter.
const SETTLED: Duration = Duration::from_secs(2);
/// After so many small pieces in a row a tunnel changes to the fast path: what that costs is what they would have cost
/// more. It doubles each time that it has to come back, up to [`MOST_PIECES`].
const PIECES: u32 = 16;
const MOST_PIECES: u32 = 16_384;

/// Two connections, or streams, and what was read from them.
#[derive(Debug)]
pub(crate) struct Ends<'a> {
    pub(crate) client: &'a mut Stream,
    pub(crate) request: &'a mut Buf,
    pub(crate) endpoint: &'a mut Stream,
    pub(crate) answer: &'a mut Buf,
}

/// What ends a tunnel besides its two sides.
#[derive(Debug)]
pub(crate) struct Terms {
    /// Nothing moved in either direction for so long; zero = off.
    pub(crate) idle: Duration,
    /// It lasted so long; zero = off.
    pub(crate) lifetime: Duration,
    /// The socket of its endpoint is as it was made: what is to be set on it is set once it pays.
    pub(crate) has_new_endpoint: bool,
    /// Its endpoint was removed so long ago.
    pub(crate) after_removal: Option<(Arc<EndpointState>, Duration)>,
}

impl Terms {
    /// Only idleness ends it.
    pub(crate) const fn idle(idle: Duration) -> Self {
        Self { idle, lifetime: Duration::ZERO, has_new_endpoint: false, after_removal: None }
    }
}

/// Why a tunnel ended before both sides had.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Cut {
    /// The client broke it off.
    Client,
    /// The endpoint broke it off.
    Endpoint,
    /// The endpoint, all of whose bytes had arrived, took no more of the client's.
    Unread,
    /// See [`Terms::idle`].
    Idle,
    /// See [`Terms::lifetime`].
    Lifetime,
    /// See [`Terms::after_removal`].
    Removed,
}

impl Cut {
    /// What the client missed by it; nothing if all that the endpoint had to say has arrived.
    pub(crate) const fn reason(self) -> Option<Reason> {
        match self {
            Self::Client => Some(Reason::ClientGone),
            Self::Endpoint | Self::Removed => Some(Reason::ResponseTruncated),
            Self::Unread => None,
            Self::Idle | Self::Lifetime => Some(Reason::IdleTimeout),
        }
    }
}

/// Bytes both ways.
#[derive(Debug)]
pub(crate) struct Tunnel {
    pub(crate) up: Relay,
    pub(crate) down: Relay,
    /// The sending side was ended: towards the endpoint, towards the client.
    shut: (bool, bool),
    /// Nagle's algorithm is on towards the endpoint.
    may_wait: bool,
    /// Small pieces in a row.
    pieces: u32,
    /// See [`PIECES`].
    fast_after: u32,
}

/// What ends a turn on the ordinary path.
enum Turn {
    Over(Result<(), Cut>),
    /// Nothing is on its way, and small pieces are to be expected.
    Small,
}

/// When a tunnel must end, and what else is due, in ticks.
struct Ending {
    idle: Duration,
    /// As of the last bytes.
    idle_at: u32,
    /// See [`SETTLED`].
    settled: u32,
    lifetime: u32,
    removal: u32,
    after_removal: Option<(Watch, Duration)>,
}

impl Tunnel {
    /// `prefixes` go to the endpoint and to the client before anything else; what lies before `floor` in the client's
    /// buffer is kept.
    pub(crate) fn new((to_endpoint, to_client): (Head, Head), floor: usize) -> Self {
        let mut up = Relay::new(to_endpoint, Framing::Close, Framing::Close, false, floor);
        let mut down = Relay::new(to_client, Framing::Close, Framing::Close, false, 0);
        (up.is_tunnel, down.is_tunnel) = (true, true);
        Self { up, down, shut: (false, false), may_wait: false, pieces: 0, fast_after: PIECES }
    }

    /// Bytes taken from the client, and from the endpoint.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        (self.up.received, self.down.received)
    }

    /// Relays until both sides have ended.
    ///
    /// # Errors
    /// Why it ended before. Both sides are to see an abort then, except for what [`Cut::Idle`] and the like mean to
    /// the caller.
    pub(crate) async fn relay(
        &mut self,
        worker: &Worker,
        ends: &mut Ends<'_>,
        timer: &mut Timer,
        terms: Terms,
    ) -> Result<(), Cut> {
        self.may_wait = terms.has_new_endpoint;
        let mut ending = Ending::new(worker, timer, terms);
        ending.arm(timer);
        let result = loop {
            match self.relay_any(worker, ends, timer, &mut ending).await {
                Turn::Over(result) => break result,
                Turn::Small => {}
            }
            if let Err(cut) = self.relay_small(worker, ends, timer, &mut ending).await {
                break Err(cut);
            }
        };
        worker.metrics.spliced_bytes.add(self.up.spliced + self.down.spliced);
        result
    }

    /// Relays whatever comes.
    async fn relay_any(
        &mut self,
        worker: &Worker,
        ends: &mut Ends<'_>,
        timer: &mut Timer,
        ending: &mut Ending,
    ) -> Turn {
        poll_fn(|cx| {
            let before = self.bytes();
            if let Poll::Ready(result) = self.poll_both(cx, ends, &worker.buffers) {
                return Poll::Ready(Turn::Over(result));
            }
            if before != self.bytes() {
                ending.arm(timer);
                if self.expects_small(before, ends) {
                    return Poll::Ready(Turn::Small);
                }
            }
            ending.poll(cx, timer, ends.endpoint).map(Turn::Over)
        })
        .await
    }

    /// Whether more small pieces are to be expected, after those since `before`, and the fast path may have them.
    fn expects_small(&mut self, before: (u64, u64), ends: &Ends<'_>) -> bool {
        let after = self.bytes();
        let moved = (after.0 - before.0).max(after.1 - before.1);
        self.pieces = if moved < JOIN_BELOW as u64 { self.pieces + 1 } else { 0 };
        self.pieces >= self.fast_after
            && self.shut == (false, false)
            && self.up.is_at_rest(ends.request)
            && self.down.is_at_rest(ends.answer)
            && ends.client.spliceable().is_some()
            && ends.endpoint.spliceable().is_some()
    }

    /// Lets the fast path relay until it comes upon something else.
    async fn relay_small(
        &mut self,
        worker: &Worker,
        ends: &mut Ends<'_>,
        timer: &mut Timer,
        ending: &mut Ending,
    ) -> Result<(), Cut> {
        self.pieces = 0;
        self.fast_after = self.fast_after.saturating_mul(2).min(MOST_PIECES);
        self.wait_no_more(ends.endpoint);
        let (client, endpoint) = (ends.client.detach(), ends.endpoint.detach());
        let lane = client.zip(endpoint).and_then(|(client, endpoint)| {
            worker.fast_path.enter(&worker.timers, &worker.metrics, &client, &endpoint)
        });
        let mut result = Ok(());
        if let Some(lane) = lane {
            let mut small = Small { tunnel: self, lane };
            result = poll_fn(|cx| small.poll(cx, timer, ending, ends.endpoint)).await;
            let fault = small.finish();
            drop(small);
            if let Some((fault, by_client)) = fault {
                return Err(self.broken(ends, fault, by_client));
            }
        } else {
            self.fast_after = u32::MAX;
        }
        // What cannot be registered anew reads as broken.
        let _attached = (ends.client.attach(), ends.endpoint.attach());
        result
    }

    /// The second write is the first that could be held back; this lets it go.
    fn wait_no_more(&mut self, endpoint: &Stream) {
        if std::mem::take(&mut self.may_wait)
            && let Some(tcp) = endpoint.socket()
        {
            // Fails only for a socket that is gone already.
            let _set = tcp.set_nodelay(true);
        }
    }

    fn poll_both(
        &mut self,
        cx: &mut Context<'_>,
        ends: &mut Ends<'_>,
        buffers: &Rc<Buffers>,
    ) -> Poll<Result<(), Cut>> {
        let Ends { client, request, endpoint, answer } = ends;
        let upward = self.up.poll(cx, client, request, endpoint, buffers);
        if self.up.writes > 1 {
            self.wait_no_more(endpoint);
        }
        let downward = self.down.poll(cx, endpoint, answer, client, buffers);
        match (upward, downward) {
            (Poll::Ready(Err(fault)), _) | (_, Poll::Ready(Err(fault))) => {
                let by_client = matches!(upward, Poll::Ready(Err(Fault::Source(_))))
                    || matches!(downward, Poll::Ready(Err(Fault::Destination(_))));
                Poll::Ready(Err(self.broken(ends, fault, by_client)))
            }
            (upward, downward) => {
                let over = upward.is_ready() && downward.is_ready();
                let up_ended = upward.is_ready() && end_sending(cx, endpoint, &mut self.shut.0, over);
                let down_ended = downward.is_ready() && end_sending(cx, client, &mut self.shut.1, over);
                if up_ended && down_ended {
                    return Poll::Ready(Ok(()));
                }
                // Of a client that has ended its side nothing is read any more that would tell.
                if client.poll_aborted(cx).is_ready() {
                    endpoint.reset_on_close();
                    return Poll::Ready(Err(Cut::Client));
                }
                Poll::Pending
            }
        }
    }

    /// A reset is passed on as a reset: the other side must not take it for a proper end.
    fn broken(&self, ends: &mut Ends<'_>, fault: Fault, by_client: bool) -> Cut {
        debug_assert_ne!(fault, Fault::SourceMalformed);
        ends.client.reset_on_close();
        ends.endpoint.reset_on_close();
        match by_client {
            true => Cut::Client,
            false if self.down.finished => Cut::Unread,
            false => Cut::Endpoint,
        }
    }
}

/// A tunnel on the fast path; knows what was relayed once that is over, be it that its task is dropped.
struct Small<'a> {
    tunnel: &'a mut Tunnel,
    lane: Lane,
}

impl Small<'_> {
    fn poll(
        &self,
        cx: &Context<'_>,
        timer: &mut Timer,
        ending: &mut Ending,
        endpoint: &Stream,
    ) -> Poll<Result<(), Cut>> {
        if self.lane.poll_stopped(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        if timer.is_expired() {
            ending.arm_since(timer, self.lane.last());
        }
        ending.poll(cx, timer, endpoint)
    }

    /// Takes over what was relayed, once. What has failed, if so, and whether the client has.
    fn finish(&mut self) -> Option<(Fault, bool)> {
        let pair = self.lane.leave()?;
        let (mut rests, mut failed): ([&[u8]; 2], _) = ([b"", b""], None);
        match &pair.stopped {
            None | Some(Stopped::Here) => {}
            Some(Stopped::Rest { by_endpoint: false, bytes }) => rests = [bytes, b""],
            Some(Stopped::Rest { by_endpoint: true, bytes }) => rests = [b"", bytes],
            Some(Stopped::Source { by_endpoint, error }) => {
                failed = Some((Fault::Source(*error), !by_endpoint));
            }
            Some(Stopped::Destination { by_endpoint, error }) => {
                failed = Some((Fault::Destination(*error), *by_endpoint));
            }
        }
        let [up, down] = rests;
        self.tunnel.up.relayed(pair.up, up);
        self.tunnel.down.relayed(pair.down, down);
        failed
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        self.finish();
    }
}

const NEVER: u32 = u32::MAX;

impl Ending {
    fn new(worker: &Worker, timer: &Timer, terms: Terms) -> Self {
        let Terms { idle, lifetime, has_new_endpoint, after_removal } = terms;
        let settled = if has_new_endpoint { timer.tick_after(SETTLED) } else { NEVER };
        let after_removal = after_removal.map(|(endpoint, after)| (worker.watched.watch(endpoint), after));
        Self {
            idle,
            idle_at: NEVER,
            settled,
            lifetime: timer.tick_after(lifetime),
            removal: NEVER,
            after_removal,
        }
    }

    /// Sets the timer anew, since something has moved.
    fn arm(&mut self, timer: &mut Timer) {
        self.idle_at = timer.tick_after(self.idle);
        self.rearm(timer);
    }

    /// Sets the timer anew; something has moved last at `tick`.
    fn arm_since(&mut self, timer: &mut Timer, tick: u32) {
        self.idle_at = timer.tick_since(tick, self.idle);
        self.rearm(timer);
    }

    /// Sets the timer to what comes first.
    fn rearm(&self, timer: &mut Timer) {
        timer.arm_at(self.idle_at.min(self.lifetime).min(self.removal).min(self.settled));
    }

    fn poll(&mut self, cx: &Context<'_>, timer: &mut Timer, endpoint: &Stream) -> Poll<Result<(), Cut>> {
        if let Some((watch, after)) = &self.after_removal
            && watch.poll_retired(cx)
        {
            self.removal = timer.tick_after((*after).max(Duration::from_millis(1)));
            self.after_removal = None;
            self.rearm(timer);
        }
        if timer.is_expired() && self.settled <= timer.now() {
            self.settled = NEVER;
            if let Some(socket) = endpoint.descriptor() {
                dial::keep_alive(&socket);
            }
            self.rearm(timer);
        }
        if !timer.poll_expired(cx) {
            return Poll::Pending;
        }
        let is_over = |tick: u32| tick <= timer.now();
        Poll::Ready(Err(if is_over(self.removal) {
            Cut::Removed
        } else if is_over(self.lifetime) {
            Cut::Lifetime
        } else {
            Cut::Idle
        }))
    }
}

/// Passes a FIN on, once. If all is over, a plain socket is left to send it when it is closed: nothing is unread there
/// that would make a reset of it.
fn end_sending(cx: &mut Context<'_>, stream: &mut Stream, done: &mut bool, over: bool) -> bool {
    if !*done {
        *done = (over && stream.spliceable().is_some()) || stream.poll_shutdown(cx).is_ready();
    }
    *done
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// A connection of ours, and its other end.
    async fn connection() -> (Stream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = dial::connect(listener.local_addr().unwrap()).await.unwrap();
        (Stream::Tcp(ours), listener.accept().unwrap().0)
    }

    #[tokio::test]
    async fn no_message_to_an_endpoint_waits_for_one_before() {
        let ((mut client, mut sender), (mut endpoint, mut receiver)) =
            (connection().await, connection().await);
        let buffers = Rc::<Buffers>::default();
        let (mut request, mut answer) = (buffers.resting(), buffers.resting());
        let mut tunnel = Tunnel::new((buffers.head(), buffers.head()), 0);
        tunnel.may_wait = true;
        for (number, is_set) in [(1, false), (2, true), (3, true)] {
            sender.write_all(b"x").unwrap();
            let mut ends = Ends {
                client: &mut client,
                request: &mut request,
                endpoint: &mut endpoint,
                answer: &mut answer,
            };
            poll_fn(|cx| match tunnel.poll_both(cx, &mut ends, &buffers) {
                Poll::Pending if tunnel.up.written < number => Poll::Pending,
                _ => Poll::Ready(()),
            })
            .await;
            receiver.read_exact(&mut [0]).unwrap();
            assert_eq!(endpoint.socket().unwrap().nodelay().unwrap(), is_set, "after message {number}");
        }
    }
}
