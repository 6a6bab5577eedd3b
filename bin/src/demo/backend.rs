//! A small web server that says its name, can die and come back. For the demo only.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

/// One backend of the demo.
#[derive(Debug)]
pub(super) struct Backend {
    pub(super) name: String,
    pub(super) address: SocketAddr,
    serving: Option<JoinHandle<()>>,
}

impl Backend {
    /// Starts a backend on a free loopback port.
    pub(super) async fn start(name: String) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let serving = Some(tokio::spawn(serve(listener, name.clone())));
        Ok(Self { name, address, serving })
    }

    /// Dies without warning: the port refuses, open connections are cut.
    pub(super) async fn kill(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
            // Done when the port is closed; being cancelled is what was asked for.
            let _ = serving.await;
        }
    }

    /// Comes back on the same port.
    pub(super) async fn revive(&mut self) -> io::Result<()> {
        let listener = TcpListener::bind(self.address).await?;
        self.serving = Some(tokio::spawn(serve(listener, self.name.clone())));
        Ok(())
    }
}

async fn serve(listener: TcpListener, name: String) {
    // Dropped, and every connection with it, when this task is aborted.
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        while connections.try_join_next().is_some() {}
        let name = name.clone();
        connections.spawn(async move {
            let service = service_fn(|request| answer(&name, request));
            // A connection that breaks is the gateway's business, not ours.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

fn answer(
    name: &str,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<Full<Bytes>>, Infallible>> + use<> {
    let text = format!("hello from {name}: {} {}\n", request.method(), request.uri());
    std::future::ready(Ok(Response::new(Full::from(text))))
}
