//! The admin thread: the admin port, health checks of Services and the probes, away from workers and control.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;

use gateway::admin::{AdminState, serve, serve_service_checks};
use gateway::health::probe::run_probes;
use tokio::sync::oneshot;

use super::listen_error;

/// The running admin thread.
#[derive(Debug)]
pub(super) struct AdminThread {
    address: Option<SocketAddr>,
    thread: JoinHandle<()>,
    stop: oneshot::Sender<()>,
}

impl AdminThread {
    /// Opens `address`, if any, and starts the thread. Probes run in either case, and health checks of Services are
    /// answered at `node_addresses`, or at all addresses of the host.
    pub(super) fn start(
        address: Option<SocketAddr>,
        node_addresses: Option<Box<[IpAddr]>>,
        state: Arc<AdminState>,
    ) -> anyhow::Result<Self> {
        let listener = address.map(open).transpose()?;
        let address = listener.as_ref().map(TcpListener::local_addr).transpose()?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("admin".to_owned()).spawn(move || {
            if let Err(error) = work(listener, node_addresses, state, stopped) {
                tracing::error!(%error, "neither the admin port nor probes work");
            }
        })?;
        Ok(Self { address, thread, stop })
    }

    /// Where the admin port is.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Closes the admin port and ends the probes.
    pub(super) async fn stop(self) {
        let Self { thread, stop, .. } = self;
        drop(stop);
        // A panic of the thread was printed when it happened.
        let _ = tokio::task::spawn_blocking(move || thread.join()).await;
    }
}

/// What the thread does until `stopped` is disconnected.
fn work(
    listener: Option<TcpListener>,
    node_addresses: Option<Box<[IpAddr]>>,
    state: Arc<AdminState>,
    stopped: oneshot::Receiver<()>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = listener.map(tokio::net::TcpListener::from_std).transpose()?;
        let probes = run_probes(Arc::clone(&state.shared));
        let checks =
            serve_service_checks(Arc::clone(&state.shared), Arc::clone(&state.readiness), node_addresses);
        let admin = async {
            if let Some(listener) = listener {
                serve(listener, state).await;
            }
        };
        tokio::select! {
            ((), (), ()) = async { tokio::join!(probes, admin, checks) } => {}
            _ = stopped => {}
        }
        Ok(())
    })
}

fn open(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let open = || {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    open().map_err(|error: io::Error| {
        anyhow::anyhow!("cannot listen on {address}: {}", listen_error::advice(&error, "--admin"))
    })
}
