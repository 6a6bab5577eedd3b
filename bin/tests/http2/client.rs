//! A correct HTTP/2 client: the `h2` crate.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};

/// Longest time that a test may take.
const LIMIT: Duration = Duration::from_secs(60);

/// Runs a test that waits.
pub(crate) fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(LIMIT, test).await.expect("in time") })
}

pub(crate) type Client = SendRequest<Bytes>;

/// A connection with the windows that the crate has by default.
pub(crate) async fn connect(to: SocketAddr) -> Client {
    connect_with(to, &h2::client::Builder::new()).await
}

pub(crate) async fn connect_with(to: SocketAddr, builder: &h2::client::Builder) -> Client {
    let stream = tokio::net::TcpStream::connect(to).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (client, connection) = builder.handshake(stream).await.unwrap();
    tokio::spawn(async move { drop(connection.await) });
    client.ready().await.unwrap()
}

/// A response that was read to its end.
#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) head: Response<()>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Got {
    pub(crate) fn status(&self) -> u16 {
        self.head.status().as_u16()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

pub(crate) fn get(path: &str) -> Request<()> {
    request("GET", path)
}

pub(crate) fn request(method: &str, path: &str) -> Request<()> {
    Request::builder().method(method).uri(format!("http://a{path}")).body(()).unwrap()
}

/// Sends the head; `ends`: it is all.
pub(crate) async fn send(
    client: &Client,
    request: Request<()>,
    ends: bool,
) -> (ResponseFuture, SendStream<Bytes>) {
    client.clone().ready().await.unwrap().send_request(request, ends).unwrap()
}

/// A whole request without body.
pub(crate) async fn fetch(client: &Client, request: Request<()>) -> Result<Got, h2::Error> {
    let mut client = client.clone().ready().await?;
    let (response, _) = client.send_request(request, true)?;
    read(response).await
}

/// Reads a response to its end.
pub(crate) async fn read(response: ResponseFuture) -> Result<Got, h2::Error> {
    let (head, mut stream) = response.await?.into_parts();
    let body = read_body(&mut stream).await?;
    let trailers = stream.trailers().await?;
    Ok(Got { head: Response::from_parts(head, ()), body, trailers })
}

pub(crate) async fn read_body(stream: &mut RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = stream.data().await {
        let chunk = chunk?;
        stream.flow_control().release_capacity(chunk.len())?;
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Sends `bytes` as the windows allow.
pub(crate) async fn send_all(
    stream: &mut SendStream<Bytes>,
    bytes: &[u8],
    ends: bool,
) -> Result<(), h2::Error> {
    let mut rest = Bytes::copy_from_slice(bytes);
    while !rest.is_empty() {
        stream.reserve_capacity(rest.len().min(16_384));
        let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
        let room = room.ok_or_else(|| h2::Error::from(h2::Reason::CANCEL))??;
        let piece = rest.split_to(room.min(rest.len()));
        stream.send_data(piece, ends && rest.is_empty())?;
    }
    Ok(())
}
