//! HTTP/2 load: connections of many streams each, over TLS or not; gRPC calls of one message or many, or GETs. Load and backend are one
//! process, as in `loadgen`, and every answer is checked.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use benches::backend::{Backend, Reuse};
use benches::engine::Engine;
use benches::grpc::{self, Served};
use benches::report::Measured;
use benches::tls::Sessions;
use benches::{pattern, process, tls};
use bytes::{Bytes, BytesMut};
use clap::Parser;
use h2::client::{self, SendRequest};
use hdrhistogram::Histogram;
use http::{HeaderMap, Request, Response};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::task::LocalSet;
use tokio_rustls::TlsConnector;

/// Loads a proxy over HTTP/2, is its backend too, and checks every answer. Prints one JSON object; exits 1 if any was wrong.
#[derive(Clone, Parser)]
struct Args {
    /// The proxy.
    #[arg(long)]
    target: SocketAddr,
    /// Addresses to listen on as the backend.
    #[arg(long, required = true)]
    backend: Vec<SocketAddr>,
    /// gRPC unary calls to a backend that speaks HTTP/2, instead of GETs to one that speaks HTTP/1.1.
    #[arg(long)]
    grpc: bool,
    /// Calls that carry this many messages, each sent when the one before is back, instead of unary ones; a request is then a
    /// message.
    #[arg(long, requires = "grpc")]
    stream_messages: Option<u64>,
    /// The backend of GETs speaks HTTP/2 as well.
    #[arg(long, conflicts_with = "grpc")]
    backend_h2: bool,
    /// Bytes in each answer's body; of a call, in the messages of both directions.
    #[arg(long, default_value_t = 13)]
    body: usize,
    /// Client connections.
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// Requests in flight on each.
    #[arg(long, default_value_t = 32)]
    streams: usize,
    /// Requests in flight at once, instead; each goes to the next connection.
    #[arg(long)]
    in_flight: Option<usize>,
    /// Requests that count.
    #[arg(long, default_value_t = 100_000)]
    requests: u64,
    /// Requests before those.
    #[arg(long, default_value_t = 10_000)]
    warmup: u64,
    /// Encrypt (TLS 1.3), and trust this authority (PEM) alone.
    #[arg(long)]
    tls: Option<PathBuf>,
    /// Account the CPU time of this process and its descendants.
    #[arg(long)]
    pid: Option<u32>,
    /// After the load, leave the connections idle for this long and account the memory of the process for them.
    #[arg(long)]
    hold_seconds: Option<f64>,
    /// Seconds until the whole run is given up.
    #[arg(long, default_value_t = 120)]
    limit_seconds: u64,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let limit = Duration::from_secs(args.limit_seconds);
    let run = async { tokio::time::timeout(limit, LocalSet::new().run_until(run(&args))).await };
    let (report, good) = runtime.block_on(run).context("not done in time")??;
    println!("{report}");
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What came of a number of requests.
struct Outcome {
    right: u64,
    /// Error → how often.
    errors: BTreeMap<String, u64>,
    latency: Histogram<u64>,
    /// Requests still to be sent.
    budget: u64,
}

impl Outcome {
    fn new(budget: u64) -> Result<Self> {
        let latency = Histogram::new_with_bounds(1, 600_000_000, 3)?;
        Ok(Self { right: 0, errors: BTreeMap::new(), latency, budget })
    }

    /// One that was begun at `begun` is right.
    fn record(&mut self, begun: Instant) {
        self.right += 1;
        let micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.latency.saturating_record(micros);
    }
}

async fn run(args: &Args) -> Result<(serde_json::Value, bool)> {
    let memory_before = args.pid.map(process::pss_bytes).transpose()?;
    let served = Rc::new(Served::default());
    if args.grpc || args.backend_h2 {
        let body = Bytes::from(pattern::body(args.body));
        for address in &args.backend {
            let listener = grpc::listen(*address).await?;
            tokio::task::spawn_local(grpc::serve(listener, Rc::clone(&served), body.clone()));
        }
    } else {
        serve_http1(args)?;
    }
    let connections = connect_all(args).await?;
    let warm = load(args, &connections, args.warmup).await?;
    ensure!(warm.errors.is_empty(), "requests failed during warm-up: {:?}", warm.errors);
    let cpu_before = args.pid.map(process::cpu_nanos).transpose()?;
    let begin = Instant::now();
    let outcome = load(args, &connections, args.requests).await?;
    let elapsed = begin.elapsed();
    let cpu =
        args.pid.map(process::cpu_nanos).transpose()?.zip(cpu_before).map(|(after, before)| after - before);
    let memory = match (args.hold_seconds, args.pid, memory_before) {
        (Some(hold), Some(pid), Some(before)) => {
            tokio::time::sleep(Duration::from_secs_f64(hold)).await;
            Some((before, process::pss_bytes(pid)?))
        }
        _ => None,
    };
    let good = outcome.errors.is_empty() && outcome.right == args.requests && served.wrong.get() == 0;
    let mut report = json!({
        "requests": outcome.right,
        "errors": outcome.errors,
        "backend_wrong": served.wrong.get(),
        "backend_connections": served.connections.get(),
        "good": good,
    });
    Measured {
        requests: args.requests,
        elapsed,
        latency: &outcome.latency,
        cpu,
        memory,
        connections: args.connections,
    }
    .add_to(&mut report);
    Ok((report, good))
}

/// The HTTP/1.1 backend has an epoll loop of its own, and so a thread; the process ends it.
fn serve_http1(args: &Args) -> Result<()> {
    let (ready, listening) = std::sync::mpsc::channel();
    let (addresses, body) = (args.backend.clone(), args.body);
    let limit = Duration::from_secs(args.limit_seconds);
    std::thread::Builder::new().name("backend".to_owned()).spawn(move || -> Result<()> {
        let mut engine = Engine::new(Backend::new(body, Reuse::Serve))?;
        for address in addresses {
            let listening = engine.backend.listen(&engine.poller, address);
            listening.with_context(|| format!("cannot listen on {address}"))?;
        }
        ready.send(())?;
        engine.run_for(limit)
    })?;
    listening.recv().context("the backend cannot listen")
}

/// One connection after the other: a proxy with one worker accepts no faster.
async fn connect_all(args: &Args) -> Result<Vec<SendRequest<Bytes>>> {
    let connector = match &args.tls {
        Some(roots) => Some(TlsConnector::from(tls::client(roots, b"h2", Sessions::Full)?)),
        None => None,
    };
    let mut connections = Vec::with_capacity(args.connections);
    for _ in 0..args.connections {
        let socket = TcpStream::connect(args.target).await?;
        socket.set_nodelay(true)?;
        let sender = match &connector {
            None => start(socket).await?,
            Some(connector) => {
                let stream = connector.connect(tls::name()?, socket).await?;
                ensure!(stream.get_ref().1.alpn_protocol() == Some(b"h2"), "no h2 by ALPN");
                start(stream).await?
            }
        };
        connections.push(sender);
    }
    Ok(connections)
}

async fn start<S>(stream: S) -> Result<SendRequest<Bytes>>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + 'static,
{
    let mut builder = client::Builder::new();
    builder.initial_window_size(1 << 20).initial_connection_window_size(1 << 24).enable_push(false);
    let (sender, connection) = builder.handshake::<_, Bytes>(stream).await?;
    tokio::task::spawn_local(async move {
        // Whatever ends it is seen by the requests on it.
        let _ended = connection.await;
    });
    Ok(sender)
}

async fn load(args: &Args, connections: &[SendRequest<Bytes>], requests: u64) -> Result<Outcome> {
    let outcome = Rc::new(RefCell::new(Outcome::new(requests)?));
    let args = Arc::new(args.clone());
    let mut tasks = Vec::new();
    let groups: Vec<Vec<_>> = match args.in_flight {
        Some(count) => {
            let group = |first| connections.iter().skip(first).step_by(count).cloned().collect();
            (0..count.min(connections.len())).map(group).collect()
        }
        None => (0..args.streams).flat_map(|_| connections.iter().map(|one| vec![one.clone()])).collect(),
    };
    for senders in groups {
        tasks.push(tokio::task::spawn_local(stream(Arc::clone(&args), senders, Rc::clone(&outcome))));
    }
    for task in tasks {
        task.await?;
    }
    let Ok(outcome) = Rc::try_unwrap(outcome) else { bail!("a stream has not ended") };
    Ok(outcome.into_inner())
}

/// One request after the other while there are some to send, on `senders` in turn.
async fn stream(args: Arc<Args>, mut senders: Vec<SendRequest<Bytes>>, outcome: Rc<RefCell<Outcome>>) {
    let message = grpc::message(args.body);
    let count = senders.len().max(1);
    for number in 0_usize.. {
        let Some(sender) = senders.get_mut(number % count) else { return };
        if let Some(messages) = args.stream_messages {
            let Some(messages) = take(&outcome, messages) else { return };
            if let Err(error) = converse(sender, &args, &message, messages, &outcome).await {
                *outcome.borrow_mut().errors.entry(format!("{error:#}")).or_insert(0) += 1;
            }
            continue;
        }
        if take(&outcome, 1).is_none() {
            return;
        }
        let begun = Instant::now();
        let answer = async {
            match args.grpc {
                true => call(sender, &args, &message).await,
                false => get(sender, &args).await,
            }
        };
        let result = within(answer).await;
        let mut outcome = outcome.borrow_mut();
        match result {
            Ok(()) => outcome.record(begun),
            Err(error) => *outcome.errors.entry(format!("{error:#}")).or_insert(0) += 1,
        }
    }
}

/// Up to `count` requests that are still to be sent; `None` if there are none.
fn take(outcome: &RefCell<Outcome>, count: u64) -> Option<u64> {
    let mut outcome = outcome.borrow_mut();
    let taken = count.max(1).min(outcome.budget);
    outcome.budget -= taken;
    (taken > 0).then_some(taken)
}

async fn within<T>(answer: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(Duration::from_secs(20), answer).await.context("no answer in time")?
}

/// One call of `count` messages, each sent when the one before is back.
async fn converse(
    sender: &mut SendRequest<Bytes>,
    args: &Args,
    message: &Bytes,
    count: u64,
    outcome: &RefCell<Outcome>,
) -> Result<()> {
    std::future::poll_fn(|cx| sender.poll_ready(cx)).await?;
    let (response, mut body) = sender.send_request(grpc_request(args, grpc::STREAM)?, false)?;
    let mut begun = Instant::now();
    body.send_data(message.clone(), false)?;
    let response = within(async { Ok(response.await?) }).await?;
    ensure!(response.status() == 200, "status {}, {:?}", response.status(), response.headers());
    let (mut answers, mut messages) = (response.into_body(), grpc::Messages::default());
    for left in (0..count).rev() {
        let answer = within(messages.next(&mut answers)).await?;
        ensure!(answer.as_ref() == Some(message), "another message");
        outcome.borrow_mut().record(begun);
        if left > 0 {
            begun = Instant::now();
            body.send_data(message.clone(), false)?;
        }
    }
    body.send_data(Bytes::new(), true)?;
    ensure!(within(messages.next(&mut answers)).await?.is_none(), "a message that answers nothing");
    let trailers = within(async { Ok(answers.trailers().await?) }).await?;
    check_status(trailers.as_ref())
}

fn grpc_request(args: &Args, path: &str) -> Result<Request<()>> {
    Ok(Request::post(uri(args, path))
        .header("te", "trailers")
        .header("content-type", "application/grpc")
        .header("user-agent", "grpc-bench/1.0")
        .body(())?)
}

fn check_status(trailers: Option<&HeaderMap>) -> Result<()> {
    let status = trailers.and_then(|trailers| trailers.get("grpc-status"));
    ensure!(status.is_some_and(|status| status == "0"), "grpc-status {status:?}");
    Ok(())
}

async fn get(sender: &mut SendRequest<Bytes>, args: &Args) -> Result<()> {
    let request = Request::get(uri(args, "/")).header("user-agent", "bench/1.0").body(())?;
    std::future::poll_fn(|cx| sender.poll_ready(cx)).await?;
    let (response, _) = sender.send_request(request, true)?;
    let (body, _) = whole(response.await?).await?;
    ensure!(body.len() == args.body && pattern::matches(0, &body), "body of {} bytes", body.len());
    Ok(())
}

async fn call(sender: &mut SendRequest<Bytes>, args: &Args, message: &Bytes) -> Result<()> {
    let request = grpc_request(args, grpc::PATH)?;
    std::future::poll_fn(|cx| sender.poll_ready(cx)).await?;
    let (response, mut body) = sender.send_request(request, false)?;
    body.send_data(message.clone(), true)?;
    let (answer, trailers) = whole(response.await?).await?;
    check_status(trailers.as_ref())?;
    ensure!(answer == *message, "another message");
    Ok(())
}

fn uri(args: &Args, path: &str) -> String {
    let scheme = if args.tls.is_some() { "https" } else { "http" };
    format!("{scheme}://{}{path}", tls::NAME)
}

/// The body and the trailers of a response with status 200.
async fn whole(response: Response<h2::RecvStream>) -> Result<(Bytes, Option<HeaderMap>)> {
    ensure!(response.status() == 200, "status {}, {:?}", response.status(), response.headers());
    let mut stream = response.into_body();
    let mut body = BytesMut::new();
    while let Some(chunk) = stream.data().await {
        let chunk = chunk?;
        stream.flow_control().release_capacity(chunk.len())?;
        body.extend_from_slice(&chunk);
    }
    Ok((body.freeze(), stream.trailers().await?))
}
