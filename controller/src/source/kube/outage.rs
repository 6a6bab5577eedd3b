//! One of all who wait for the API server asks whether it is there again; the others are told.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::failure::Failure;
use super::progress::FeedId;

/// Who does not ask looks for himself after this long, in case the one who asks has other trouble.
const SECOND_LOOK: Duration = Duration::from_secs(5);

/// Whether the API server can be reached.
#[derive(Debug, Default)]
pub(super) struct Outage {
    state: Mutex<Option<Away>>,
    over: Notify,
}

#[derive(Debug)]
struct Away {
    since: Instant,
    asking: FeedId,
    /// It was logged.
    is_told: bool,
}

impl Outage {
    fn lock(&self) -> MutexGuard<'_, Option<Away>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `id` found the server away; `is_news` if it has not said so before.
    pub(super) fn begin(&self, id: FeedId, failure: &Failure, is_news: bool, now: Instant) {
        let mut state = self.lock();
        if state.is_none() {
            *state = Some(Away { since: now, asking: id, is_told: is_news });
            if is_news {
                tracing::warn!("the API server cannot be reached, everything goes on as it is: {failure}");
            }
        }
    }

    /// An answer came.
    pub(super) fn end(&self) {
        if let Some(Away { since, is_told, .. }) = self.lock().take() {
            if is_told {
                tracing::info!(seconds = since.elapsed().as_secs(), "the API server answers again");
            }
            self.over.notify_waiters();
        }
    }

    /// True if `id` is the one who asks for all.
    pub(super) fn is_asked_by(&self, id: FeedId) -> bool {
        self.lock().as_ref().is_some_and(|away| away.asking == id)
    }

    /// Waits until the server is back. Safe to drop while waiting.
    pub(super) async fn ended(&self) {
        self.over.notified().await;
    }

    /// Waits until `id` should try again: not before `until`, and not at all while another one asks for all. Safe to drop
    /// while waiting.
    pub(super) async fn wait(&self, id: FeedId, until: Instant) {
        let over = self.over.notified();
        let is_asked_for = self.lock().as_ref().is_some_and(|away| away.asking != id);
        if !is_asked_for {
            return tokio::time::sleep_until(until.into()).await;
        }
        tokio::select! {
            () = over => {}
            () = tokio::time::sleep_until((until + SECOND_LOOK).into()) => {}
        }
    }
}
