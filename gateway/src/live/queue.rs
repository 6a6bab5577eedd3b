//! Waiting for a free slot when every endpoint of a Backend is at its cap: bounded in number and time, first
//! come first served, across workers.

use std::pin::pin;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use tokio::time::timeout_at;

use super::backend::{BackendState, LiveBackend};
use super::pick::{InFlight, PickError, PickRequest};

/// How often a waiter looks by itself. A slot may also become free without a word: by another Backend's request
/// to a shared endpoint, or by an endpoint that recovers.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

impl LiveBackend {
    /// Waits for a slot after [`pick`](Self::pick) answered [`PickError::AtCapacity`], for at most the Backend's
    /// queue timeout. Dropping the future leaves the queue. Counts `queued` and `queue_rejected`.
    ///
    /// # Errors
    /// [`PickError::AtCapacity`] if the queue is full, off, or no slot became free in time;
    /// [`PickError::NoEndpoint`] if meanwhile every endpoint went bad.
    pub async fn wait_for_slot(&self, request: &PickRequest<'_>) -> Result<InFlight, PickError> {
        let counters = self.state.counters.of(request.worker);
        let policy = &self.config.policy;
        let mut place = Place::join(&self.state, policy.queue_size);
        let picked = match &mut place {
            None => Err(PickError::AtCapacity),
            Some(place) => {
                if let Some(counters) = counters {
                    counters.queued.add(1);
                }
                self.wait(request, place, Instant::now() + policy.queue_timeout).await
            }
        };
        if let (Err(PickError::AtCapacity), Some(counters)) = (&picked, counters) {
            counters.queue_rejected.add(1);
        }
        picked
    }

    async fn wait(
        &self,
        request: &PickRequest<'_>,
        place: &mut Place<'_>,
        end: Instant,
    ) -> Result<InFlight, PickError> {
        let mut notified = pin!(self.state.freed.notified());
        notified.as_mut().enable();
        // A slot that became free just before this request was counted as waiting was announced to nobody.
        let mut look = place.first;
        loop {
            let now = Instant::now();
            if look {
                match self.pick_now(&PickRequest { now, ..*request }) {
                    Err(PickError::AtCapacity) => {}
                    other => {
                        place.served = other.is_ok();
                        return other;
                    }
                }
            }
            if now >= end {
                return Err(PickError::AtCapacity);
            }
            let until = end.min(now + LOOK_AGAIN);
            if timeout_at(until.into(), notified.as_mut()).await.is_ok() {
                notified.set(self.state.freed.notified());
                notified.as_mut().enable();
            }
            look = true;
        }
    }
}

/// A place in the queue; given up when dropped.
struct Place<'a> {
    state: &'a BackendState,
    /// Nobody else waited when this one joined.
    first: bool,
    served: bool,
}

impl<'a> Place<'a> {
    fn join(state: &'a BackendState, size: u32) -> Option<Self> {
        let before =
            state.waiting.fetch_update(SeqCst, SeqCst, |waiting| (waiting < size).then_some(waiting + 1));
        before.ok().map(|before| Self { state, first: before == 0, served: false })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        // Whoever leaves empty-handed may have been told of a slot that it did not take.
        if self.state.waiting.fetch_sub(1, SeqCst) > 1 && !self.served {
            self.state.freed.notify_one();
        }
    }
}
