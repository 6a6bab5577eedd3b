//! The accept loop of every Bind that takes connections. What becomes of them is the caller's.

use std::fmt::Display;
use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use super::Worker;
use super::timers::TICK;
use crate::tcp::BACKLOG;

/// Accepts until `end`, then takes what is queued: its clients were told that they are connected. No other connection is
/// accepted while `admit` waits.
pub(crate) async fn accept(
    worker: &Worker,
    bind: impl Display,
    listener: TcpListener,
    mut end: oneshot::Receiver<()>,
    mut admit: impl AsyncFnMut(TcpStream, SocketAddr),
) {
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = listener.accept() => accepted,
            _ = &mut end => break,
        };
        match accepted {
            Ok((stream, address)) => admit(stream, address).await,
            Err(error) => {
                tracing::warn!(%bind, %error, "cannot accept a connection");
                if matches!(error.raw_os_error(), Some(24 | 23)) {
                    worker.metrics.connections_rejected.add(1);
                    worker.shed();
                }
                if error.kind() != io::ErrorKind::ConnectionAborted {
                    tokio::time::sleep(TICK).await;
                }
            }
        }
    }
    // The reactor may not have heard of the youngest ones yet. Those that come after them go to another socket, or are
    // refused: whoever connects faster than this takes them must not keep the worker from everything else.
    let Ok(listener) = listener.into_std() else { return };
    for _ in 0..=BACKLOG {
        let Ok((stream, address)) = listener.accept() else { return };
        let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
        if let Ok(stream) = stream {
            admit(stream, address).await;
        }
    }
}
