//! A tonic server whose methods are all shapes of calls, a client for it, and the gateway between them. Messages are bytes.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, BufMut as _};
use tempfile::TempDir;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::tokio_stream::{self, Stream, StreamExt as _};
use tonic::codegen::{BoxFuture, BoxStream, Service, http};
use tonic::metadata::{KeyAndValueRef, MetadataMap};
use tonic::server::{
    ClientStreamingService, NamedService, ServerStreamingService, StreamingService, UnaryService,
};
use tonic::transport::{Channel, Endpoint, Server, ServerTlsConfig};
use tonic::{Code, Request, Response, Status, Streaming};

use crate::common::certificates::Leaf;
use crate::common::{self, Gateway};

/// Messages as they are.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining()).to_vec()))
    }
}

/// What the server has seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Metadata of each call, as `name: value` lines.
    pub(crate) metadata: Mutex<Vec<Vec<String>>>,
    /// Calls that waited and were dropped before they were done.
    pub(crate) cancelled: AtomicUsize,
    /// Calls that wait now.
    pub(crate) waiting: AtomicUsize,
}

/// What is told of a call that waits.
struct Waiting(Arc<Seen>, bool);

impl Waiting {
    fn new(seen: &Arc<Seen>) -> Self {
        seen.waiting.fetch_add(1, SeqCst);
        Self(Arc::clone(seen), false)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, SeqCst);
        if !self.1 {
            self.0.cancelled.fetch_add(1, SeqCst);
        }
    }
}

/// The service `test.Echo`.
#[derive(Clone, Debug)]
struct Echo(Arc<Seen>);

impl NamedService for Echo {
    const NAME: &'static str = "test.Echo";
}

impl Echo {
    fn note(&self, metadata: &MetadataMap) {
        let line = |entry: KeyAndValueRef<'_>| match entry {
            KeyAndValueRef::Ascii(key, value) => format!("{key}: {}", value.to_str().unwrap()),
            KeyAndValueRef::Binary(key, value) => format!("{key}: {:?}", value.to_bytes().unwrap()),
        };
        self.0.metadata.lock().unwrap().push(metadata.iter().map(line).collect());
    }
}

/// Does what the metadata asks for: waits, fails.
async fn obey(seen: &Arc<Seen>, metadata: &MetadataMap) -> Result<(), Status> {
    let number = |key: &str| metadata.get(key).map(|value| value.to_str().unwrap().parse::<u64>().unwrap());
    if let Some(millis) = number("x-wait") {
        let mut waiting = Waiting::new(seen);
        tokio::time::sleep(Duration::from_millis(millis)).await;
        waiting.1 = true;
    }
    match number("x-fail") {
        None => Ok(()),
        Some(code) => {
            let mut status = Status::with_details(
                Code::from_i32(i32::try_from(code).unwrap()),
                "failed: ü %",
                vec![0, 255].into(),
            );
            status.metadata_mut().insert("x-why", "asked".parse().unwrap());
            Err(status)
        }
    }
}

impl UnaryService<Vec<u8>> for Echo {
    type Response = Vec<u8>;
    type Future = BoxFuture<Response<Vec<u8>>, Status>;

    fn call(&mut self, request: Request<Vec<u8>>) -> Self::Future {
        let echo = self.clone();
        Box::pin(async move {
            let (metadata, _, message) = request.into_parts();
            echo.note(&metadata);
            obey(&echo.0, &metadata).await?;
            let mut response = Response::new(message);
            for name in ["x-bytes-bin", "x-text"] {
                for entry in metadata.iter() {
                    match entry {
                        KeyAndValueRef::Ascii(key, value) if key == name => {
                            response.metadata_mut().append(key, value.clone());
                        }
                        KeyAndValueRef::Binary(key, value) if key == name => {
                            response.metadata_mut().append_bin(key, value.clone());
                        }
                        _ => {}
                    }
                }
            }
            Ok(response)
        })
    }
}

impl ClientStreamingService<Vec<u8>> for Echo {
    type Response = Vec<u8>;
    type Future = BoxFuture<Response<Vec<u8>>, Status>;

    fn call(&mut self, request: Request<Streaming<Vec<u8>>>) -> Self::Future {
        let echo = self.clone();
        Box::pin(async move {
            echo.note(request.metadata());
            let mut messages = request.into_inner();
            let mut all = Vec::new();
            while let Some(message) = messages.message().await? {
                all.extend_from_slice(&message);
            }
            Ok(Response::new(all))
        })
    }
}

impl ServerStreamingService<Vec<u8>> for Echo {
    type Response = Vec<u8>;
    type ResponseStream = BoxStream<Vec<u8>>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    /// As many messages as the request's length, then what the metadata asks for.
    fn call(&mut self, request: Request<Vec<u8>>) -> Self::Future {
        let echo = self.clone();
        Box::pin(async move {
            let (metadata, _, message) = request.into_parts();
            echo.note(&metadata);
            let count = message.len();
            let last = tokio_stream::once(()).then(move |()| {
                let (echo, metadata) = (echo.clone(), metadata.clone());
                async move { obey(&echo.0, &metadata).await.err().map(Err) }
            });
            let messages = tokio_stream::iter((0..count).map(move |at| Some(Ok(vec![message[at]; at + 1]))));
            let all: Self::ResponseStream = Box::pin(messages.chain(last).filter_map(|item| item));
            Ok(Response::new(all))
        })
    }
}

impl StreamingService<Vec<u8>> for Echo {
    type Response = Vec<u8>;
    type ResponseStream = BoxStream<Vec<u8>>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: Request<Streaming<Vec<u8>>>) -> Self::Future {
        let echo = self.clone();
        Box::pin(async move {
            echo.note(request.metadata());
            let all: Self::ResponseStream = Box::pin(request.into_inner());
            Ok(Response::new(all))
        })
    }
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<http::Response<Body>, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let echo = self.clone();
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(Raw).apply_max_message_size_config(Some(64 << 20), None);
            Ok(match request.uri().path() {
                "/test.Echo/Unary" => grpc.unary(echo, request).await,
                "/test.Echo/Gather" => grpc.client_streaming(echo, request).await,
                "/test.Echo/Spread" => grpc.server_streaming(echo, request).await,
                "/test.Echo/Both" => grpc.streaming(echo, request).await,
                _ => Status::unimplemented("no such method").into_http(),
            })
        })
    }
}

/// A running server; it ends with the process.
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    pub(crate) seen: Arc<Seen>,
}

impl Backend {
    pub(crate) fn start(identity: Option<&Leaf>) -> Self {
        let (address, seen) = (common::free_address(), Arc::new(Seen::default()));
        let mut server = Server::builder();
        if let Some(leaf) = identity {
            let identity = tonic::transport::Identity::from_pem(leaf.chain_pem(), leaf.key_pem());
            server = server.tls_config(ServerTlsConfig::new().identity(identity)).unwrap();
        }
        let serving = server.add_service(Echo(Arc::clone(&seen))).serve(address);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(serving).unwrap();
        });
        common::eventually("the server listens", || std::net::TcpStream::connect(address).is_ok());
        Self { address, seen }
    }

    pub(crate) fn cancelled(&self) -> usize {
        self.seen.cancelled.load(SeqCst)
    }

    pub(crate) fn waiting(&self) -> usize {
        self.seen.waiting.load(SeqCst)
    }
}

/// The host of all calls.
pub(crate) const HOST: &str = "grpc.test";

/// The gateway in front of `backends`, which speak `protocol`, with further lines of annotations.
pub(crate) fn gateway(
    backends: &[SocketAddr],
    protocol: &str,
    annotations: &str,
    args: &[&str],
) -> (TempDir, Gateway) {
    let folder = tempfile::tempdir().unwrap();
    let manifest = ingress(backends, protocol, annotations);
    std::fs::write(folder.path().join("echo.yaml"), manifest).unwrap();
    let gateway = Gateway::start(folder.path(), args);
    (folder, gateway)
}

/// An Ingress for [`HOST`] with annotations.
pub(crate) fn ingress(backends: &[SocketAddr], protocol: &str, annotations: &str) -> String {
    let metadata = format!(
        "metadata: {{name: echo, namespace: test, annotations: {{sluicegate.dev/backend-protocol: {protocol}{annotations}}}}}"
    );
    common::ingress("echo", HOST, backends).replacen("metadata: {name: echo, namespace: test}", &metadata, 1)
}

/// A client of the gateway.
pub(crate) async fn client(address: SocketAddr) -> Client {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let endpoint = endpoint.origin(format!("http://{HOST}").parse().unwrap());
    Client::new(endpoint.connect().await.unwrap())
}

/// A client of `test.Echo`.
#[derive(Clone)]
pub(crate) struct Client(Grpc<Channel>);

impl Client {
    pub(crate) fn new(channel: Channel) -> Self {
        Self(Grpc::new(channel).max_decoding_message_size(64 << 20))
    }

    async fn ready(&mut self) -> &mut Grpc<Channel> {
        self.0.ready().await.unwrap();
        &mut self.0
    }

    pub(crate) async fn unary(&mut self, request: Request<Vec<u8>>) -> Result<Response<Vec<u8>>, Status> {
        let path = http::uri::PathAndQuery::from_static("/test.Echo/Unary");
        self.ready().await.unary(request, path, Raw).await
    }

    pub(crate) async fn call(&mut self, path: &'static str) -> Result<Response<Vec<u8>>, Status> {
        let path = http::uri::PathAndQuery::from_static(path);
        self.ready().await.unary(Request::new(b"x".to_vec()), path, Raw).await
    }

    pub(crate) async fn gather(
        &mut self,
        messages: impl Stream<Item = Vec<u8>> + Send + 'static,
    ) -> Result<Response<Vec<u8>>, Status> {
        let path = http::uri::PathAndQuery::from_static("/test.Echo/Gather");
        self.ready().await.client_streaming(Request::new(messages), path, Raw).await
    }

    pub(crate) async fn spread(
        &mut self,
        request: Request<Vec<u8>>,
    ) -> Result<Response<Streaming<Vec<u8>>>, Status> {
        let path = http::uri::PathAndQuery::from_static("/test.Echo/Spread");
        self.ready().await.server_streaming(request, path, Raw).await
    }

    pub(crate) async fn both(
        &mut self,
        messages: impl Stream<Item = Vec<u8>> + Send + 'static,
    ) -> Result<Response<Streaming<Vec<u8>>>, Status> {
        let path = http::uri::PathAndQuery::from_static("/test.Echo/Both");
        self.ready().await.streaming(Request::new(messages), path, Raw).await
    }
}

/// A request with metadata.
pub(crate) fn with(message: &[u8], metadata: &[(&'static str, &str)]) -> Request<Vec<u8>> {
    let mut request = Request::new(message.to_vec());
    for (name, value) in metadata {
        request.metadata_mut().append(*name, value.parse().unwrap());
    }
    request
}
