//! WebSockets over table changes: a thousand of them are opened, in cleartext and over TLS, and talk on while manifests are
//! rewritten and the endpoints that they lead to come and go. Claims, and exits 1 if they do not hold: none of them ends, and
//! every message comes back as it was sent.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use benches::certificates::{Authority, Leaf};
use benches::endurance::{self, Counts, Open};
use benches::process::{self, Proxy};
use benches::{manifest, pattern, tls};
use clap::Parser;
use futures_util::{SinkExt as _, StreamExt as _};
use rustls::RootCertStore;
use rustls::client::ClientConfig;
use rustls::crypto::aws_lc_rs;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, accept_async, client_async};

/// Changes the table many times under many WebSockets; none may end or lose a byte.
#[derive(Parser)]
struct Args {
    /// The sluicegate binary.
    binary: PathBuf,
    /// WebSockets; one of four is encrypted.
    #[arg(long, default_value_t = 1_000)]
    sockets: usize,
    /// Changes of the table to see, as counted by the proxy.
    #[arg(long, default_value_t = 1_000)]
    changes: u64,
    /// Seconds until the run is given up.
    #[arg(long, default_value_t = 600)]
    limit_seconds: u64,
}

/// The longest message.
const LONGEST: usize = 20_000;
/// Pause of a socket between two messages.
const PAUSE: Duration = Duration::from_millis(100);

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    endurance::main(Duration::from_secs(args.limit_seconds), run(&args))
}

async fn run(args: &Args) -> Result<Value> {
    let endpoints = [echo().await?, echo().await?, echo().await?, echo().await?];
    let (authority, folder) = (Authority::new()?, manifest::Folder::new()?);
    let leaf = authority.issue(tls::NAME)?;
    write(folder.path(), &endpoints, &leaf, 0)?;
    let https = process::free_address()?;
    let proxy = Proxy::start(&args.binary, folder.path(), &["--https", &https.to_string()])?;
    let connector = TlsConnector::from(settings(&authority)?);
    let counts = Rc::new(Counts::default());
    let mut sockets = Vec::new();
    for number in 0..args.sockets {
        let stream = TcpStream::connect(if number % 4 == 3 { https } else { proxy.http }).await?;
        stream.set_nodelay(true)?;
        let counts = Open::new(&counts);
        sockets.push(if number % 4 == 3 {
            let stream = connector.connect(tls::name()?, stream).await?;
            let socket = client_async(format!("wss://{}/", tls::NAME), stream).await?.0;
            tokio::task::spawn_local(talk(socket, number, counts))
        } else {
            let socket = client_async(format!("ws://{}/", tls::NAME), stream).await?.0;
            tokio::task::spawn_local(talk(socket, number, counts))
        });
    }
    let change = |number| write(folder.path(), &endpoints, &leaf, number);
    endurance::change(&proxy, &counts, sockets, args.changes, change).await
}

/// Sends messages of all lengths, and expects each back, until it is told to stop; then closes as RFC 6455 §7 has it.
async fn talk<S>(mut socket: WebSocketStream<S>, number: usize, open: Open) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let counts = Rc::clone(open.counts());
    let mut random = fastrand::Rng::with_seed(number as u64);
    // Spread over the time, so that they do not all talk at once.
    tokio::time::sleep(PAUSE.mul_f64(random.f64())).await;
    while !counts.is_over() {
        let length = if random.u8(..) < 16 { random.usize(..LONGEST) } else { random.usize(..200) };
        // Begun with who sends it, so that one that went astray is known.
        let mut content = format!("{number}:").into_bytes();
        content.extend_from_slice(&pattern::body(length));
        let message = Message::binary(content);
        socket.send(message.clone()).await?;
        let answer = tokio::time::timeout(Duration::from_secs(30), socket.next()).await;
        let answer = answer.context("no answer in time")?.context("the socket has ended")??;
        ensure!(answer == message, "another message of {} bytes", answer.len());
        counts.messages.set(counts.messages.get() + 1);
        counts.bytes.set(counts.bytes.get() + message.len() as u64);
        tokio::time::sleep(PAUSE).await;
    }
    drop(open);
    socket.close(None).await?;
    while let Some(message) = socket.next().await {
        ensure!(message?.is_close(), "something after the end");
    }
    Ok(())
}

/// A server that sends back what it gets.
async fn echo() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.11:0").await?;
    let address = listener.local_addr()?;
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::task::spawn_local(async move {
                // Without it, answers would wait for acknowledgements; it fails only for a socket that is gone.
                let _set = stream.set_nodelay(true);
                let Ok(mut socket) = accept_async(stream).await else { return };
                while let Some(Ok(message)) = socket.next().await {
                    if message.is_binary() && socket.send(message).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    Ok(address)
}

fn settings(authority: &Authority) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.der())?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The table of change `number`: two of the four endpoints serve, a route next to that of the sockets comes and goes.
fn write(folder: &Path, endpoints: &[SocketAddr], leaf: &Leaf, number: usize) -> Result<()> {
    let ready = endpoints.iter().cycle().skip(number % endpoints.len().max(1)).take(2).copied();
    let mut objects = manifest::service("echo", &ready.collect::<Vec<_>>());
    let mut ingress = manifest::ingress("echo", &[tls::NAME.to_owned()], &["/".to_owned()], "echo");
    if let Some(spec) = ingress.get_mut("spec").and_then(Value::as_object_mut) {
        spec.insert("tls".to_owned(), json!([{"hosts": [tls::NAME], "secretName": "echo"}]));
    }
    objects.extend([ingress, manifest::secret("echo", leaf)]);
    if number % 3 == 1 {
        let path = format!("/more-{number}");
        objects.push(manifest::ingress("more", &[tls::NAME.to_owned()], &[path], "echo"));
    }
    manifest::write(folder, "echo.json", &objects)
}
