//! TCP over table changes: a thousand connections through one listener carry a known pattern both ways while the
//! configuration is rewritten and the endpoints that they lead to come and go. Claims, and exits 1 if they do not hold: none
//! of them ends before it is told to, every byte comes back as it was sent, and none is missing at the end.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use benches::endurance::{self, Counts, Open};
use benches::process::{self, Proxy};
use benches::{manifest, pattern};
use clap::Parser;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Changes the table many times under many TCP connections; none may end or lose a byte.
#[derive(Parser)]
struct Args {
    /// The sluicegate binary.
    binary: PathBuf,
    /// Connections.
    #[arg(long, default_value_t = 1_000)]
    streams: usize,
    /// Changes of the table to see, as counted by the proxy.
    #[arg(long, default_value_t = 1_000)]
    changes: u64,
    /// Seconds until the run is given up.
    #[arg(long, default_value_t = 600)]
    limit_seconds: u64,
}

/// The longest piece that is sent at once: beyond what is copied, so that some of it is spliced.
const LONGEST: usize = 256 * 1_024;
/// Pause of a connection between two pieces.
const PAUSE: Duration = Duration::from_millis(100);

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    endurance::main(Duration::from_secs(args.limit_seconds), run(&args))
}

async fn run(args: &Args) -> Result<Value> {
    let endpoints = [echo().await?, echo().await?, echo().await?, echo().await?];
    let folder = manifest::Folder::new()?;
    let addresses = (process::free_address()?, process::free_address()?);
    write(folder.path(), addresses, &endpoints, 0)?;
    let proxy = Proxy::start(&args.binary, folder.path(), &[])?;
    let counts = Rc::new(Counts::default());
    let mut streams = Vec::new();
    for number in 0..args.streams {
        let stream = TcpStream::connect(addresses.0).await?;
        stream.set_nodelay(true)?;
        streams.push(tokio::task::spawn_local(carry(stream, number, Open::new(&counts))));
    }
    let change = |number| write(folder.path(), addresses, &endpoints, number);
    let mut report = endurance::change(&proxy, &counts, streams, args.changes, change).await?;
    let closed = proxy.metric("sluicegate_tcp_connections_total", "reason=\"Closed\"")?;
    if let Some(report) = report.as_object_mut() {
        report.insert("spliced_bytes".to_owned(), json!(proxy.metric("sluicegate_spliced_bytes_total", "")?));
        report.insert("closed_in_order".to_owned(), json!(closed));
    }
    Ok(report)
}

/// Sends pieces of all lengths and expects each back until it is told to stop; then ends its side, and expects the end.
async fn carry(mut stream: TcpStream, number: usize, open: Open) -> Result<()> {
    let counts = Rc::clone(open.counts());
    let mut random = fastrand::Rng::with_seed(number as u64);
    // Each begins elsewhere in the pattern, so that bytes of another one are known.
    let mut offset = number as u64;
    // Spread over the time, so that they do not all talk at once.
    tokio::time::sleep(PAUSE.mul_f64(random.f64())).await;
    while !counts.is_over() {
        let length = if random.u8(..) < 4 { random.usize(..LONGEST) } else { random.usize(1..2_000) };
        let piece = pattern::piece(offset, length);
        let (mut reader, mut writer) = stream.split();
        let reading = async {
            let mut buf = vec![0; length];
            tokio::time::timeout(Duration::from_secs(30), reader.read_exact(&mut buf))
                .await
                .context("late")??;
            ensure!(pattern::matches(offset, &buf), "other bytes at {offset} of {number}");
            Ok(())
        };
        let (written, read) = tokio::join!(writer.write_all(&piece), reading);
        written?;
        read?;
        offset += length as u64;
        counts.messages.set(counts.messages.get() + 1);
        counts.bytes.set(counts.bytes.get() + 2 * length as u64);
        tokio::time::sleep(PAUSE).await;
    }
    drop(open);
    stream.shutdown().await?;
    let mut rest = Vec::new();
    tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut rest))
        .await
        .context("no end")??;
    ensure!(rest.is_empty(), "{} bytes after the end", rest.len());
    Ok(())
}

/// A server that sends back what it gets, and ends when the client does.
async fn echo() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.11:0").await?;
    let address = listener.local_addr()?;
    tokio::task::spawn_local(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::task::spawn_local(async move {
                // Without it, answers would wait for acknowledgements; it fails only for a socket that is gone.
                let _set = stream.set_nodelay(true);
                let (mut reader, mut writer) = stream.split();
                // An error is seen by the client as well.
                let _copied = tokio::io::copy(&mut reader, &mut writer).await;
                let _ended = writer.shutdown().await;
            });
        }
    });
    Ok(address)
}

/// The table of change `number`: two of the four endpoints serve, a listener next to that of the connections comes and
/// goes, and the terms change.
fn write(
    folder: &Path,
    (address, other): (SocketAddr, SocketAddr),
    endpoints: &[SocketAddr],
    number: usize,
) -> Result<()> {
    let ready = endpoints.iter().cycle().skip(number % endpoints.len().max(1)).take(2);
    let forward = json!({"backend": "echo", "idleTimeout": format!("{}s", 600 + number % 7)});
    let mut listeners =
        vec![json!({"name": "echo", "address": address, "protocol": "tcp", "forward": forward})];
    if number % 3 == 1 {
        listeners.push(
            json!({"name": "more", "address": other, "protocol": "tcp", "forward": {"backend": "echo"}}),
        );
    }
    let file = json!({
        "listeners": listeners,
        "backends": [{"name": "echo", "endpoints": ready.collect::<Vec<_>>()}],
    });
    manifest::put(folder, "edge.json", &file)
}
