//! One connection: its TLS, what is served on it, and how it is broken on purpose.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::serve::serve;
use crate::state::State;

/// The end of a connection, in the hands of its requests.
#[derive(Debug)]
pub(crate) struct Line(watch::Sender<Option<Cut>>);

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Cut {
    Closed,
    Reset,
}

impl Line {
    /// Breaks the connection. Never comes back: who called goes with it.
    pub(crate) async fn cut(&self, reset: bool) {
        self.0.send_replace(Some(if reset { Cut::Reset } else { Cut::Closed }));
        pending().await
    }
}

/// Serves a connection until it ends, or is broken.
pub(crate) async fn connection(stream: TcpStream, acceptor: TlsAcceptor, state: Arc<State>) {
    let _ = stream.set_nodelay(true);
    // A second handle on the socket, so that it can be told to reset while TLS owns the first.
    let Ok(handle) = SockRef::from(&stream).try_clone() else { return };
    let mut resets = state.faults.resets();
    state.faults.heard().await;
    let (sender, mut cut) = watch::channel(None);
    let line = Arc::new(Line(sender));
    let serving = async {
        let Ok(stream) = acceptor.accept(stream).await else { return };
        let service = service_fn(|request| {
            let (state, line) = (state.clone(), line.clone());
            async move { Ok::<_, std::convert::Infallible>(serve(state, line, request).await) }
        });
        // What a client does to its connection concerns nobody else.
        let _ =
            auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
    };
    let reset = tokio::select! {
        () = serving => false,
        cut = cut.wait_for(Option::is_some) => cut.is_ok_and(|cut| *cut == Some(Cut::Reset)),
        changed = resets.changed() => changed.is_ok(),
    };
    if reset {
        let _ = handle.set_linger(Some(Duration::ZERO));
    }
}
