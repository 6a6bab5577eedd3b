//! A panic of one task must not end what it does for good.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Poll;

/// `work`, to its end; an error if it panics, and then nothing of it goes on.
pub(super) async fn caught(work: impl Future<Output = ()>) -> Result<(), Panicked> {
    let mut work = std::pin::pin!(work);
    std::future::poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context))) {
        Ok(poll) => poll.map(Ok),
        Err(_) => Poll::Ready(Err(Panicked)),
    })
    .await
}

/// Something went wrong by a mistake of ours, which was printed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Panicked;
