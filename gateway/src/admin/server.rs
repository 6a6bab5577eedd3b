//! Connections of the admin port.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};

use super::AdminState;
use super::pages::{self, Admission};

/// Open connections; one more closes the oldest. A client that opens connections and says nothing can
/// therefore not keep a probe out.
const MAX_CONNECTIONS: usize = 64;

/// From the opening of a connection, or from the previous answer, to a complete request head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// After this a connection is closed as soon as no answer is under way …
const MAX_AGE: Duration = Duration::from_secs(60);
/// … and after this much longer in any case.
const LAST_ANSWER: Duration = Duration::from_secs(30);

/// Largest request head; nobody needs more to ask for a page.
const MAX_HEAD: usize = 16 * 1024;

/// Pause when accepting fails, for want of file descriptors as a rule.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves the admin port on `listener` until dropped; dropping it closes every connection. Runs on any tokio
/// runtime with I/O and time; not on a worker's, since an answer may take milliseconds.
pub async fn serve(listener: TcpListener, state: Arc<AdminState>) {
    // Where it cannot be told, it is taken for one that others cannot reach.
    let is_loopback = listener.local_addr().map_or(true, |at| at.ip().to_canonical().is_loopback());
    let renders = Arc::new(Semaphore::new(pages::MAX_RENDERS));
    let admission = Arc::new(Admission { state, renders, is_loopback });
    let mut connections = JoinSet::new();
    let mut by_age: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "admin port cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        by_age.retain(|connection| !connection.is_finished());
        if by_age.len() >= MAX_CONNECTIONS
            && let Some(oldest) = by_age.pop_front()
        {
            oldest.abort();
        }
        by_age.push_back(connections.spawn(connection(stream, Arc::clone(&admission))));
    }
}

async fn connection(stream: TcpStream, admission: Arc<Admission>) {
    let service = service_fn(move |request| {
        let admission = Arc::clone(&admission);
        async move { Ok::<_, Infallible>(pages::respond(admission, &request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    // A peer's misbehaviour is its own business: whatever ends the connection, it ends.
    if tokio::time::timeout(MAX_AGE, connection.as_mut()).await.is_err() {
        connection.as_mut().graceful_shutdown();
        let _ = tokio::time::timeout(LAST_ANSWER, connection).await;
    }
}
