//! A control: a plain reverse proxy made of pingora-proxy, with one thread. HTTP/1.1 with both sides kept alive, endpoints in
//! strict turn, and the forwarded headers that all peers set (`benches/peers/nginx.conf`). It has no routes, no health and no
//! log.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use clap::Parser;
use pingora_core::server::Server;
use pingora_core::server::configuration::ServerConf;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorType, Result};
use pingora_http::RequestHeader;
use pingora_proxy::{ProxyHttp, Session};

/// The same as sluicegate's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Passes requests on to endpoints in turn.
#[derive(Parser)]
struct Args {
    /// Where clients connect.
    #[arg(long)]
    listen: SocketAddr,
    /// Where requests go; several are taken in turn.
    #[arg(long, required = true)]
    upstream: Vec<SocketAddr>,
}

/// Idle connections to endpoints that are kept, as many as the other peers may keep.
const POOL: usize = 1_024;

struct Proxy {
    upstreams: Vec<SocketAddr>,
    turn: AtomicUsize,
    /// Port that clients connect to, as text.
    port: Arc<str>,
}

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _: &mut Session, _: &mut ()) -> Result<Box<HttpPeer>> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        match self.upstreams.get(turn % self.upstreams.len()) {
            Some(address) => Ok(Box::new(HttpPeer::new(address, false, String::new()))),
            None => Error::err(ErrorType::ConnectProxyFailure),
        }
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        _: &mut (),
    ) -> Result<()> {
        let client = session.client_addr().and_then(|address| address.as_inet()).map(|address| address.ip().to_string());
        if let Some(client) = client {
            request.insert_header("X-Forwarded-For", client.as_str())?;
            request.insert_header("X-Real-IP", client)?;
        }
        request.insert_header("X-Forwarded-Proto", "http")?;
        if let Some(host) = request.headers.get("Host").cloned() {
            request.insert_header("X-Forwarded-Host", host)?;
        }
        request.insert_header("X-Forwarded-Port", &*self.port)?;
        request.insert_header("X-Request-ID", format!("{:032x}", fastrand::u128(..)))?;
        Ok(())
    }
}

fn main() {
    let args = Args::parse();
    let conf = ServerConf { threads: 1, upstream_keepalive_pool_size: POOL, ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let port = args.listen.port().to_string().into();
    let proxy = Proxy { upstreams: args.upstream, turn: AtomicUsize::new(0), port };
    let mut service = pingora_proxy::http_proxy_service(&server.configuration, proxy);
    service.add_tcp(&args.listen.to_string());
    server.add_service(service);
    server.run_forever()
}
