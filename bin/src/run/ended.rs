//! How the end of a thread is noticed, also by a panic. Never ends one.

use tokio::sync::oneshot;

/// Kept by the thread for as long as it runs.
#[derive(Debug)]
pub(super) struct Alive {
    _end: oneshot::Sender<()>,
}

/// Says when the thread has ended.
#[derive(Debug)]
pub(super) struct Ended(Option<oneshot::Receiver<()>>);

/// Both, for one thread.
pub(super) fn watched() -> (Alive, Ended) {
    let (end, ended) = oneshot::channel();
    (Alive { _end: end }, Ended(Some(ended)))
}

impl Ended {
    /// Returns when the thread has ended, and only once.
    pub(super) async fn once(&mut self) {
        match self.0.as_mut() {
            Some(ended) => {
                let _ = ended.await;
                self.0 = None;
            }
            None => std::future::pending().await,
        }
    }
}
