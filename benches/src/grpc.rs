//! A backend on the h2 crate, as cheap as it comes: gRPC calls that echo their messages, one or many, and GETs that are answered
//! with the pattern. Checks every request; what is wrong with a call is its `grpc-message`, and the call fails.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::{BufMut as _, Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream, server};
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::{TcpListener, TcpStream};

use crate::pattern;

/// The method that takes one message.
pub const PATH: &str = "/bench.Echo/Unary";
/// The method that takes any number of messages and answers each at once.
pub const STREAM: &str = "/bench.Echo/Stream";

/// The longest message that is taken for one.
const LONGEST: usize = 16 << 20;

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
    /// Requests that were right.
    pub right: Cell<u64>,
    /// Requests that were not.
    pub wrong: Cell<u64>,
    /// Connections accepted.
    pub connections: Cell<u64>,
}

/// Serves on `listener` for ever, GETs with `body`; to be spawned on a `LocalSet`.
pub async fn serve(listener: TcpListener, served: Rc<Served>, body: Bytes) {
    while let Ok((socket, _)) = listener.accept().await {
        served.connections.set(served.connections.get() + 1);
        tokio::task::spawn_local(connection(socket, Rc::clone(&served), body.clone()));
    }
}

/// Listens on `address`.
///
/// # Errors
/// Those of `bind`.
pub async fn listen(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}

async fn connection(socket: TcpStream, served: Rc<Served>, answer: Bytes) {
    // Without it, answers would wait for acknowledgements; it fails only for a socket that is gone.
    let _set = socket.set_nodelay(true);
    let mut builder = server::Builder::new();
    builder
        .max_concurrent_streams(1_000)
        .initial_window_size(1 << 20)
        .initial_connection_window_size(1 << 24);
    let Ok(mut connection) = builder.handshake::<_, Bytes>(socket).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        let (served, answer) = (Rc::clone(&served), answer.clone());
        tokio::task::spawn_local(async move {
            let outcome = match (request.method(), request.uri().path()) {
                (&http::Method::GET, "/") => get(respond, answer),
                (_, STREAM) => stream(request, respond).await,
                _ => call(request, respond).await,
            };
            let count = if outcome.is_ok() { &served.right } else { &served.wrong };
            count.set(count.get() + 1);
        });
    }
}

fn get(mut respond: SendResponse<Bytes>, answer: Bytes) -> Result<()> {
    let response = Response::builder()
        .header("content-type", "application/octet-stream")
        .header("content-length", answer.len())
        .body(())?;
    Ok(respond.send_response(response, false)?.send_data(answer, true)?)
}

async fn stream(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) -> Result<()> {
    let (head, mut body) = request.into_parts();
    let response = Response::builder().header("content-type", "application/grpc").body(())?;
    let mut answers = respond.send_response(response, false)?;
    let verdict = echo(&head, &mut body, &mut answers).await;
    answers.send_trailers(trailers(verdict.as_ref().err())?)?;
    verdict
}

async fn echo(
    head: &http::request::Parts,
    body: &mut RecvStream,
    answers: &mut SendStream<Bytes>,
) -> Result<()> {
    check_head(head, STREAM)?;
    let mut messages = Messages::default();
    while let Some(message) = messages.next(body).await? {
        answers.send_data(message, false)?;
    }
    Ok(())
}

async fn call(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) -> Result<()> {
    let (head, mut body) = request.into_parts();
    let verdict = read(&head, &mut body).await;
    let response = Response::builder().header("content-type", "application/grpc").body(())?;
    let mut stream = respond.send_response(response, false)?;
    if let Ok(message) = &verdict {
        stream.send_data(message.clone(), false)?;
    }
    stream.send_trailers(trailers(verdict.as_ref().err())?)?;
    verdict.map(|_| ())
}

fn trailers(error: Option<&anyhow::Error>) -> Result<HeaderMap> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(if error.is_some() { "3" } else { "0" }));
    if let Some(error) = error {
        trailers.insert("grpc-message", HeaderValue::from_str(&error.to_string())?);
    }
    Ok(trailers)
}

fn check_head(head: &http::request::Parts, path: &str) -> Result<()> {
    ensure!(head.method == http::Method::POST && head.uri.path() == path, "wrong method or path");
    ensure!(head.headers.get("te").is_some_and(|te| te == "trailers"), "no te");
    ensure!(head.headers.get("content-type").is_some_and(|kind| kind == "application/grpc"), "content-type");
    Ok(())
}

async fn read(head: &http::request::Parts, body: &mut RecvStream) -> Result<Bytes> {
    check_head(head, PATH)?;
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

/// The messages of a stream, however frames cut them.
#[derive(Debug, Default)]
pub struct Messages(BytesMut);

impl Messages {
    /// The next message of `body`; `None` at its end.
    ///
    /// # Errors
    /// If it is not one of the pattern, or the stream ends otherwise.
    pub async fn next(&mut self, body: &mut RecvStream) -> Result<Option<Bytes>> {
        loop {
            if let Some(message) = self.whole()? {
                return Ok(Some(message));
            }
            let Some(chunk) = body.data().await else {
                ensure!(self.0.is_empty(), "half a message");
                return Ok(None);
            };
            let chunk = chunk?;
            body.flow_control().release_capacity(chunk.len())?;
            self.0.extend_from_slice(&chunk);
        }
    }

    fn whole(&mut self) -> Result<Option<Bytes>> {
        let Some(prefix) = self.0.first_chunk::<5>() else { return Ok(None) };
        let length = usize::try_from(u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]))?;
        ensure!(length <= LONGEST, "a message that nobody sent");
        if self.0.len() < length + prefix.len() {
            return Ok(None);
        }
        checked(self.0.split_to(length + 5).freeze()).map(Some)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_whole_however_they_are_cut() {
        let wire = [message(13), message(0), message(300)].concat();
        for cut in [1, 7, wire.len()] {
            let (mut messages, mut arrived) = (Messages::default(), Vec::new());
            for piece in wire.chunks(cut) {
                messages.0.extend_from_slice(piece);
                while let Some(message) = messages.whole().unwrap() {
                    arrived.push(message);
                }
            }
            assert_eq!(arrived, [message(13), message(0), message(300)]);
            assert!(messages.0.is_empty());
        }
    }

    #[test]
    fn another_byte_is_an_error() {
        let mut wire = BytesMut::from(&*message(13));
        wire[9] ^= 1;
        assert!(Messages(wire).whole().is_err());
    }
}
