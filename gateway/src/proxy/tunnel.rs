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
use crate::proxy::relay::{Fault, Relay};
use crate::record::Reason;
use crate::stream::Stream;
use crate::worker::Worker;
use crate::worker::buffers::{Buf, Buffers, Head};
use crate::worker::timers::Timer;
use crate::worker::watch::Watch;

/// For so long there is no keepalive on the connection to the endpoint, since most that are short are shorter.
const SETTLED: Duration = Duration::from_secs(2);

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
        Self { up, down, shut: (false, false), may_wait: false }
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
        let result = poll_fn(|cx| {
            let before = self.bytes();
            let done = self.poll_both(cx, ends, &worker.buffers);
            if done.is_ready() {
                return done;
            }
            if before != self.bytes() {
                ending.arm(timer);
            }
            ending.poll(cx, timer, ends.endpoint)
        })
        .await;
        worker.metrics.spliced_bytes.add(self.up.spliced + self.down.spliced);
        result
    }

    fn poll_both(
        &mut self,
        cx: &mut Context<'_>,
        ends: &mut Ends<'_>,
        buffers: &Rc<Buffers>,
    ) -> Poll<Result<(), Cut>> {
        let Ends { client, request, endpoint, answer } = ends;
        let upward = self.up.poll(cx, client, request, endpoint, buffers);
        if self.may_wait && self.up.writes > 1 {
            // The second write is the first that could be held back; this lets it go.
            self.may_wait = false;
            if let Some(tcp) = endpoint.socket() {
                // Fails only for a socket that is gone already.
                let _set = tcp.set_nodelay(true);
            }
        }
        let downward = self.down.poll(cx, endpoint, answer, client, buffers);
        match (upward, downward) {
            (Poll::Ready(Err(fault)), _) | (_, Poll::Ready(Err(fault))) => {
                let by_client = matches!(upward, Poll::Ready(Err(Fault::Source(_))))
                    || matches!(downward, Poll::Ready(Err(Fault::Destination(_))));
                // A reset is passed on as a reset: the other side must not take it for a proper end.
                debug_assert_ne!(fault, Fault::SourceMalformed);
                client.reset_on_close();
                endpoint.reset_on_close();
                Poll::Ready(Err(match by_client {
                    true => Cut::Client,
                    false if self.down.finished => Cut::Unread,
                    false => Cut::Endpoint,
                }))
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
            if let Some(tcp) = endpoint.socket() {
                dial::keep_alive(tcp);
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
