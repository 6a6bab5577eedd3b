//! An HTTP/2 endpoint whose behaviour is a closure.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::RecvStream;
use h2::server::{Builder, SendResponse};
use http::{HeaderMap, Request, Response};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;

/// What reached an endpoint, and what it is told.
#[derive(Default)]
pub(crate) struct Seen {
    /// Connections accepted.
    pub(crate) connections: AtomicUsize,
    /// Connections that have ended.
    pub(crate) ended: AtomicUsize,
    /// Requests accepted.
    pub(crate) requests: AtomicUsize,
    /// Most requests at a time on one connection.
    pub(crate) most: AtomicUsize,
    pub(crate) notes: Mutex<Vec<String>>,
    /// Every connection begins to go away.
    pub(crate) go_away: Notify,
    /// Connections go away after each request.
    pub(crate) one_each: AtomicBool,
    /// For handlers that ask.
    pub(crate) is_up: AtomicBool,
    /// TLS handshakes that failed.
    pub(crate) refused: AtomicUsize,
    /// For handlers that wait.
    pub(crate) go_on: Notify,
}

impl Seen {
    pub(crate) fn note(&self, text: impl Into<String>) {
        self.notes.lock().unwrap().push(text.into());
    }

    pub(crate) fn notes(&self) -> Vec<String> {
        self.notes.lock().unwrap().clone()
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }

    pub(crate) fn requests(&self) -> usize {
        self.requests.load(SeqCst)
    }
}

/// One request at an endpoint.
pub(crate) struct Call {
    pub(crate) request: Request<RecvStream>,
    pub(crate) respond: SendResponse<Bytes>,
    pub(crate) seen: Arc<Seen>,
    /// The client's certificate.
    pub(crate) who: Option<Vec<u8>>,
}

impl Call {
    pub(crate) fn path(&self) -> String {
        self.request.uri().path().to_owned()
    }

    /// The whole request body, and trailers.
    pub(crate) async fn body(&mut self) -> (Vec<u8>, Option<HeaderMap>) {
        let body = self.request.body_mut();
        let mut all = Vec::new();
        while let Some(piece) = body.data().await {
            let piece = piece.unwrap();
            body.flow_control().release_capacity(piece.len()).unwrap();
            all.extend_from_slice(&piece);
        }
        (all, body.trailers().await.unwrap())
    }

    /// Answers with a body.
    pub(crate) fn answer(mut self, body: impl Into<Bytes>) {
        let mut send = self.respond.send_response(Response::new(()), false).unwrap();
        send.send_data(body.into(), true).unwrap();
    }
}

/// A running endpoint; its thread ends with the test's process.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) seen: Arc<Seen>,
}

type Serve = Arc<dyn Fn(Call) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

impl Server {
    pub(crate) fn start<F>(serve: impl Fn(Call) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::start_with(&Builder::new(), serve)
    }

    pub(crate) fn start_with<F>(builder: &Builder, serve: impl Fn(Call) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::start_over(None, builder, serve)
    }

    /// Answers as [`Self::echo`], over TLS; notes who the client is.
    pub(crate) fn echo_over(config: Arc<rustls::ServerConfig>) -> Self {
        Self::start_over(Some(config), &Builder::new(), echo)
    }

    pub(crate) fn start_over<F>(
        tls: Option<Arc<rustls::ServerConfig>>,
        builder: &Builder,
        serve: impl Fn(Call) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Seen>::default();
        let server = Self { address, seen: Arc::clone(&seen) };
        let serve: Serve = Arc::new(move |call| Box::pin(serve(call)));
        let builder = builder.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(accept(listener, tls.map(TlsAcceptor::from), builder, serve, seen));
        });
        server
    }

    /// Answers `METHOD path length-of-body`.
    pub(crate) fn echo() -> Self {
        Self::start(echo)
    }
}

pub(crate) async fn echo(mut call: Call) {
    let (body, _) = call.body().await;
    let text = format!("{} {} {}", call.request.method(), call.path(), body.len());
    if let Some(who) = &call.who {
        // Names stand in certificates as they are.
        let is = |name: &str| who.windows(name.len()).any(|window| window == name.as_bytes());
        let name = ["first-client", "second-client"].into_iter().find(|name| is(name)).unwrap_or("?");
        return call.answer(format!("{text} {name}"));
    }
    call.answer(text);
}

async fn accept(
    listener: std::net::TcpListener,
    tls: Option<TlsAcceptor>,
    builder: Builder,
    serve: Serve,
    seen: Arc<Seen>,
) {
    let listener = TcpListener::from_std(listener).unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (builder, serve, seen) = (builder.clone(), Arc::clone(&serve), Arc::clone(&seen));
        match tls.clone() {
            None => drop(tokio::spawn(connection(stream, builder, None, serve, seen))),
            Some(tls) => drop(tokio::spawn(async move {
                let Ok(stream) = tls.accept(stream).await else {
                    seen.refused.fetch_add(1, SeqCst);
                    return;
                };
                let session = stream.get_ref().1;
                let who = session.peer_certificates().map(|chain| chain[0].to_vec());
                connection(stream, builder, who, serve, seen).await;
            })),
        }
    }
}

async fn connection<T>(stream: T, builder: Builder, who: Option<Vec<u8>>, serve: Serve, seen: Arc<Seen>)
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    seen.connections.fetch_add(1, SeqCst);
    if let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await {
        let open = Arc::<AtomicUsize>::default();
        loop {
            let accepted = tokio::select! {
                accepted = connection.accept() => accepted,
                () = seen.go_away.notified() => {
                    connection.graceful_shutdown();
                    continue;
                }
            };
            let Some(Ok((request, respond))) = accepted else { break };
            seen.requests.fetch_add(1, SeqCst);
            seen.most.fetch_max(open.fetch_add(1, SeqCst) + 1, SeqCst);
            let call = Call { request, respond, seen: Arc::clone(&seen), who: who.clone() };
            let (served, open) = (serve(call), Arc::clone(&open));
            tokio::spawn(async move {
                served.await;
                open.fetch_sub(1, SeqCst);
            });
            if seen.one_each.load(SeqCst) {
                connection.graceful_shutdown();
            }
        }
    }
    seen.ended.fetch_add(1, SeqCst);
}
