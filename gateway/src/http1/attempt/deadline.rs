//! By when an attempt must make progress, or be over, and who is to blame if it does not.

use std::task::{Context, Poll};
use std::time::Duration;

use super::{Attempt, Ended, RATE_WINDOW};
use crate::metrics::LimitHit;
use crate::proxy::grpc;
use crate::proxy::retry::Event;
use crate::record::Reason;

/// How often it is looked whether a client that nothing is read from is still there.
const LOOK_FOR_CLIENT: Duration = Duration::from_millis(200);

impl Attempt<'_> {
    pub(super) fn progressed(&mut self) {
        let waits_for_client = self.upload.waits_for_source && !self.upload.finished;
        let idle = if waits_for_client && !self.may_be_quiet {
            self.client.peer.config.limits.body_idle_timeout
        } else {
            self.idle()
        };
        self.phase = self.client.timer.tick_after(idle);
    }

    /// No byte moved for so long.
    pub(super) fn idle(&self) -> Duration {
        let timeouts = &self.forward.policy.timeouts;
        if self.forward.is_call {
            grpc::idle(timeouts, &self.client.peer.config.limits)
        } else {
            timeouts.idle
        }
    }

    pub(super) fn response_timeout(&self) -> Duration {
        let timeouts = &self.forward.policy.timeouts;
        if self.forward.is_call {
            grpc::response_head(timeouts, &self.client.peer.config.limits)
        } else {
            timeouts.response_head
        }
    }

    pub(super) fn poll_deadline(&mut self, cx: &Context<'_>) -> Poll<Result<(), Ended>> {
        loop {
            if self.has_vanished(self.client.timer.now()) {
                return Poll::Ready(Err(Ended::Client(Reason::ClientGone)));
            }
            let next = self.phase.min(self.total).min(self.hold_until).min(self.rate_check).min(self.look_at);
            self.client.timer.arm_at(next);
            if !self.client.timer.poll_expired(cx) {
                return Poll::Pending;
            }
            let now = self.client.timer.now();
            let never = self.client.timer.tick_after(Duration::ZERO);
            if self.hold_until <= now {
                self.hold_until = never;
                self.upload.hold = false;
                cx.waker().wake_by_ref();
            } else if self.total <= now {
                return Poll::Ready(Err(if self.upload.waits_for_source && !self.upload.finished {
                    Ended::Client(Reason::RequestTimeout)
                } else {
                    Ended::Endpoint(Event::Timeout, Reason::RequestTimeout)
                }));
            } else if self.rate_check <= now {
                if let Some(ended) = self.judge_rate() {
                    return Poll::Ready(Err(ended));
                }
            } else if self.upload.finished {
                return Poll::Ready(Err(Ended::Endpoint(Event::Timeout, Reason::ResponseTimeout)));
            } else if self.upload.waits_for_source {
                return Poll::Ready(Err(Ended::Client(Reason::BodyTimeout)));
            } else {
                return Poll::Ready(Err(Ended::Endpoint(Event::Timeout, Reason::IdleTimeout)));
            }
        }
    }

    /// While the upload waits for the endpoint, nothing is read that would tell of a client that is gone, and the reactor
    /// tells of nothing while there is something to read. So it is looked at from time to time; true if it is gone.
    pub(super) fn has_vanished(&mut self, now: u32) -> bool {
        let is_blocked = !self.upload.finished
            && !self.upload.waits_for_source
            && self.upload_error.is_none()
            && !self.client.stream.delimits();
        if !is_blocked {
            self.look_at = self.client.timer.tick_after(Duration::ZERO);
            return false;
        }
        if self.look_at <= now && self.client.stream.is_broken() {
            return true;
        }
        let next = self.client.timer.tick_after(LOOK_FOR_CLIENT);
        self.look_at = if self.look_at <= now { next } else { self.look_at.min(next) };
        false
    }

    /// Whether the client sent its body too slowly over the last window.
    fn judge_rate(&mut self) -> Option<Ended> {
        let rate = u64::from(self.client.peer.config.limits.min_body_rate);
        let moved = self.upload.received - self.rate_seen;
        self.rate_seen = self.upload.received;
        let waits = !self.upload.finished && self.upload.waits_for_source && !self.upload.hold;
        let window = if self.upload.finished { Duration::ZERO } else { RATE_WINDOW };
        self.rate_check = self.client.timer.tick_after(window);
        if !waits || moved >= rate * RATE_WINDOW.as_secs() {
            return None;
        }
        self.worker.metrics.limit_hit(LimitHit::BodyRate);
        Some(Ended::Client(Reason::BodyTimeout))
    }
}
