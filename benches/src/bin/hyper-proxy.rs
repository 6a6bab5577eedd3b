//! A control: a plain reverse proxy made of hyper and the pooled client of hyper-util, with one thread. HTTP/1.1 with both sides
//! kept alive, endpoints in strict turn, and the forwarded headers that all peers set (`benches/peers/nginx.conf`). It has no
//! routes, no health, no log, and passes no upgrade on.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use clap::Parser;
use http::header::{self, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Request, Response, StatusCode, Uri};
use http_body_util::{Either, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};

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

/// Idle connections to each endpoint that are kept, more than any load needs.
const POOL: usize = 1_024;
/// Fields that are about one connection (RFC 9110 §7.6.1), besides those that `Connection` names.
const HOP_BY_HOP: [HeaderName; 6] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

type Body = Either<Incoming, Empty<Bytes>>;

struct Proxy {
    client: Client<HttpConnector, Incoming>,
    upstreams: Vec<Authority>,
    turn: AtomicUsize,
    /// The port that clients connect to.
    port: HeaderValue,
}

/// What a connection's client is called in every request.
struct Peer {
    address: HeaderValue,
    proxy: Arc<Proxy>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve(args))
}

async fn serve(args: Args) -> Result<()> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client = Client::builder(TokioExecutor::new())
        .pool_max_idle_per_host(POOL)
        .pool_timer(TokioTimer::new())
        .build(connector);
    let upstreams = args.upstream.iter().map(|address| Authority::try_from(address.to_string()));
    let proxy = Arc::new(Proxy {
        client,
        upstreams: upstreams.collect::<Result<_, _>>()?,
        turn: AtomicUsize::new(0),
        port: HeaderValue::from(args.listen.port()),
    });
    let listener = TcpListener::bind(args.listen).await?;
    loop {
        let (socket, address) = listener.accept().await.context("cannot accept")?;
        let address = HeaderValue::try_from(address.ip().to_string())?;
        tokio::spawn(connection(socket, Arc::new(Peer { address, proxy: Arc::clone(&proxy) })));
    }
}

async fn connection(socket: TcpStream, peer: Arc<Peer>) {
    // It fails only for a socket that is gone.
    let _set = socket.set_nodelay(true);
    let service = service_fn(move |request| {
        let peer = Arc::clone(&peer);
        async move { Ok::<_, Infallible>(peer.pass(request).await) }
    });
    // A timer, so that heads have 30 seconds, as a proxy in earnest would have it. Whatever ends the connection is seen by
    // the load.
    let _ended =
        http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(socket), service).await;
}

impl Peer {
    async fn pass(&self, request: Request<Incoming>) -> Response<Body> {
        let Some(request) = self.forward(request) else { return alone(StatusCode::BAD_REQUEST) };
        match self.proxy.client.request(request).await {
            Ok(mut response) => {
                strip(response.headers_mut());
                response.map(Either::Left)
            }
            Err(_) => alone(StatusCode::BAD_GATEWAY),
        }
    }

    /// The request as the next endpoint gets it; `None` if it cannot be sent to one.
    fn forward(&self, mut request: Request<Incoming>) -> Option<Request<Incoming>> {
        let proxy = &*self.proxy;
        let turn = proxy.turn.fetch_add(1, Ordering::Relaxed);
        let upstream = proxy.upstreams.get(turn % proxy.upstreams.len().max(1))?;
        let path = request.uri().path_and_query().cloned();
        *request.uri_mut() = Uri::builder()
            .scheme(Scheme::HTTP)
            .authority(upstream.clone())
            .path_and_query(path.unwrap_or_else(|| PathAndQuery::from_static("/")))
            .build()
            .ok()?;
        let fields = request.headers_mut();
        strip(fields);
        fields.insert(FORWARDED_FOR, self.address.clone());
        fields.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
        if let Some(host) = fields.get(header::HOST).cloned() {
            fields.insert(FORWARDED_HOST, host);
        }
        fields.insert(FORWARDED_PORT, proxy.port.clone());
        fields.insert(REAL_IP, self.address.clone());
        fields.insert(REQUEST_ID, HeaderValue::try_from(format!("{:032x}", fastrand::u128(..))).ok()?);
        Some(request)
    }
}

/// Removes what is about the connection that it came on.
fn strip(fields: &mut HeaderMap) {
    let named: Vec<HeaderName> = fields
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in HOP_BY_HOP.iter().chain(&named) {
        fields.remove(name);
    }
}

fn alone(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Either::Right(Empty::new()));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_about_one_connection_is_not_passed_on() {
        let mut fields = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Mine"),
            ("x-mine", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("x-theirs", "2"),
            ("content-length", "3"),
        ] {
            fields.insert(name, HeaderValue::from_static(value));
        }
        strip(&mut fields);
        let mut left: Vec<&str> = fields.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-length", "x-theirs"]);
    }
}
