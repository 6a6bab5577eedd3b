//! A gRPC unary backend on the h2 crate, as cheap as it comes: one message in, the same message out. Checks every request;
//! what is wrong with one is its `grpc-message`, and the call fails.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::{BufMut as _, Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{RecvStream, server};
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::{TcpListener, TcpStream};

use crate::pattern;

/// The method that is called.
pub const PATH: &str = "/bench.Echo/Unary";

/// A length-prefixed message whose content is the pattern.
#[must_use]
pub fn message(length: usize) -> Bytes {
    let mut message = BytesMut::with_capacity(length + 5);
    message.put_u8(0);
    message.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    message.put_slice(&pattern::body(length));
    message.freeze()
}

/// What a backend has served.
#[derive(Debug, Default)]
pub struct Served {
    /// Calls that were right.
    pub right: Cell<u64>,
    /// Calls that were not.
    pub wrong: Cell<u64>,
    /// Connections accepted.
    pub connections: Cell<u64>,
}

/// Serves on `listener` for ever; to be spawned on a `LocalSet`.
pub async fn serve(listener: TcpListener, served: Rc<Served>) {
    while let Ok((socket, _)) = listener.accept().await {
        served.connections.set(served.connections.get() + 1);
        tokio::task::spawn_local(connection(socket, Rc::clone(&served)));
    }
}

/// Listens on `address`.
///
/// # Errors
/// Those of `bind`.
pub async fn listen(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}

async fn connection(socket: TcpStream, served: Rc<Served>) {
    // Without it, answers would wait for acknowledgements; it fails only for a socket that is gone.
    let _set = socket.set_nodelay(true);
    let mut builder = server::Builder::new();
    builder
        .max_concurrent_streams(1_000)
        .initial_window_size(1 << 20)
        .initial_connection_window_size(1 << 24);
    let Ok(mut connection) = builder.handshake::<_, Bytes>(socket).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        let served = Rc::clone(&served);
        tokio::task::spawn_local(async move {
            let count = match call(request, respond).await {
                Ok(()) => &served.right,
                Err(_) => &served.wrong,
            };
            count.set(count.get() + 1);
        });
    }
}

async fn call(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) -> Result<()> {
    let (head, mut body) = request.into_parts();
    let verdict = read(&head, &mut body).await;
    let response = Response::builder().header("content-type", "application/grpc").body(())?;
    let mut stream = respond.send_response(response, false)?;
    let mut trailers = HeaderMap::new();
    match &verdict {
        Ok(message) => {
            stream.send_data(message.clone(), false)?;
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
        }
        Err(error) => {
            trailers.insert("grpc-status", HeaderValue::from_static("3"));
            trailers.insert("grpc-message", HeaderValue::from_str(&error.to_string())?);
        }
    }
    stream.send_trailers(trailers)?;
    verdict.map(|_| ())
}

async fn read(head: &http::request::Parts, body: &mut RecvStream) -> Result<Bytes> {
    ensure!(head.method == http::Method::POST && head.uri.path() == PATH, "wrong method or path");
    ensure!(head.headers.get("te").is_some_and(|te| te == "trailers"), "no te");
    ensure!(head.headers.get("content-type").is_some_and(|kind| kind == "application/grpc"), "content-type");
    let mut message = BytesMut::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        // Almost every message is one frame, which needs no copy.
        if message.is_empty() && body.is_end_stream() {
            return checked(chunk);
        }
        message.extend_from_slice(&chunk);
    }
    checked(message.freeze())
}

/// The message, if it is one of the pattern.
///
/// # Errors
/// What is wrong with it.
pub fn checked(message: Bytes) -> Result<Bytes> {
    let Some((prefix, content)) = message.split_first_chunk::<5>() else { bail!("short message") };
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]);
    ensure!(prefix[0] == 0 && usize::try_from(length)? == content.len(), "wrong length");
    ensure!(pattern::matches(0, content), "wrong content");
    Ok(message)
}
