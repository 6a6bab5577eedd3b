//! A long mixed load, in search of leaks: connections of TCP and HTTP and flows of UDP that are begun, used, ended, broken
//! off and forgotten, while the table changes. Claims, and exits 1 if they do not hold: when all is over, the proxy has as
//! many descriptors as before and neither connections nor flows; and in the second half its memory did not grow.
//!
//! `cargo run --release -p benches --bin soak -- target/release/sluicegate`

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use benches::process::{self, Proxy};
use benches::{endurance, manifest};
use clap::Parser;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// Loads a proxy for long and looks for what it does not give back.
#[derive(Parser)]
struct Args {
    /// The sluicegate binary.
    binary: PathBuf,
    /// How long.
    #[arg(long, default_value_t = 20.0)]
    minutes: f64,
    /// Growth of memory in the second half that is put up with, per minute.
    #[arg(long, default_value_t = 64.0)]
    most_kib_per_minute: f64,
}

/// Tasks of each kind of load.
const TASKS: u64 = 6;
/// Listeners and backends forget whoever is silent for so long.
const IDLE: &str = "3s";
/// Time after which nothing of the load is left: longer than [`IDLE`] and than pooled connections live.
const SETTLE: Duration = Duration::from_secs(150);
/// Ends of pipes that a worker may keep for the next splice.
const SPARE_PIPES: usize = 2 * 64;
const SAMPLE: Duration = Duration::from_secs(5);
const CHANGE: Duration = Duration::from_millis(250);
/// Metrics that are 0 again at the end.
const OPEN: [&str; 3] =
    ["sluicegate_tcp_connections_open", "sluicegate_udp_flows_open", "sluicegate_connections_open"];

/// Where everything is.
#[derive(Clone, Copy)]
struct Places {
    http: SocketAddr,
    tcp: SocketAddr,
    udp: SocketAddr,
    /// Of HTTP, TCP and UDP; two of each.
    endpoints: [[SocketAddr; 2]; 3],
}

/// What the load has done.
#[derive(Default)]
struct Counts {
    stopped: Cell<bool>,
    requests: Cell<u64>,
    connections: Cell<u64>,
    flows: Cell<u64>,
    failed: Cell<u64>,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let limit = Duration::from_secs_f64(args.minutes * 60.0) + SETTLE * 2;
    endurance::main(limit, run(&args))
}

async fn run(args: &Args) -> Result<Value> {
    let folder = manifest::Folder::new()?;
    let endpoints = [
        [http_endpoint().await?, http_endpoint().await?],
        [tcp_endpoint().await?, tcp_endpoint().await?],
        [udp_endpoint().await?, udp_endpoint().await?],
    ];
    let [http, tcp, udp] = [process::free_address()?, process::free_address()?, process::free_address()?];
    let places = Places { http, tcp, udp, endpoints };
    write(folder.path(), &places, 0)?;
    let proxy = Proxy::start(&args.binary, folder.path(), &[])?;
    let before = descriptors(&proxy)?;
    let counts = Rc::new(Counts::default());
    let tasks: Vec<_> = (0..TASKS).flat_map(|seed| load(seed, &places, &counts)).collect();
    let mut samples = Vec::new();
    let (begin, end) = (Instant::now(), Duration::from_secs_f64(args.minutes * 60.0));
    let (mut number, mut next_sample) = (0, Duration::ZERO);
    while begin.elapsed() < end {
        number += 1;
        write(folder.path(), &places, number)?;
        if begin.elapsed() >= next_sample {
            samples.push((
                begin.elapsed().as_secs_f64() / 60.0,
                process::pss_bytes(proxy.pid())? as f64 / 1_024.0,
            ));
            next_sample += SAMPLE;
        }
        tokio::time::sleep(CHANGE).await;
    }
    counts.stopped.set(true);
    for task in tasks {
        task.await?;
    }
    let settled = settle(&proxy, &before).await?;
    let (_, second_half) = samples.split_at(samples.len() / 2);
    let slope = slope(second_half);
    let kib = |sample: Option<&(f64, f64)>| sample.map(|(_, kib)| *kib);
    Ok(json!({
        "minutes": args.minutes, "changes": number,
        "requests": counts.requests.get(), "connections": counts.connections.get(),
        "flows": counts.flows.get(), "failed": counts.failed.get(),
        "memory_kib": {"first": kib(samples.first()), "middle": kib(second_half.first()), "last": kib(samples.last()),
            "after": process::pss_bytes(proxy.pid())? as f64 / 1_024.0},
        "memory_kib_per_minute": slope,
        "descriptors": [before, descriptors(&proxy)?],
        "left_over": settled,
        "good": settled.is_empty() && slope <= args.most_kib_per_minute && counts.failed.get() == 0,
    }))
}

/// Waits until nothing of the load is left; what is, if something stays.
async fn settle(proxy: &Proxy, before: &BTreeMap<String, usize>) -> Result<Vec<String>> {
    let deadline = Instant::now() + SETTLE;
    loop {
        let mut left = Vec::new();
        for (kind, count) in descriptors(proxy)? {
            let allowed =
                before.get(&kind).copied().unwrap_or(0) + if kind == "pipe" { SPARE_PIPES } else { 0 };
            if count > allowed {
                left.push(format!("{count} descriptors of kind {kind}, {allowed} are expected"));
            }
        }
        for name in OPEN {
            let value = proxy.metric(name, "")?.with_context(|| format!("the proxy has no metric {name}"))?;
            if value != 0.0 {
                left.push(format!("{name} {value}"));
            }
        }
        if left.is_empty() || Instant::now() > deadline {
            return Ok(left);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// How many descriptors the proxy has of each kind: `socket`, `pipe`, `anon_inode` and files.
fn descriptors(proxy: &Proxy) -> Result<BTreeMap<String, usize>> {
    let mut kinds = BTreeMap::new();
    for entry in std::fs::read_dir(format!("/proc/{}/fd", proxy.pid()))? {
        // One that was closed meanwhile is not counted.
        let Ok(target) = std::fs::read_link(entry?.path()) else { continue };
        let target = target.to_string_lossy();
        *kinds.entry(target.split(':').next().unwrap_or_default().to_owned()).or_default() += 1;
    }
    Ok(kinds)
}

/// Of a line through `samples`, by least squares.
fn slope(samples: &[(f64, f64)]) -> f64 {
    let count = samples.len() as f64;
    let (x, y) =
        samples.iter().fold((0.0, 0.0), |(x, y), sample| (x + sample.0 / count, y + sample.1 / count));
    let (mut above, mut below) = (0.0, 0.0);
    for sample in samples {
        above += (sample.0 - x) * (sample.1 - y);
        below += (sample.0 - x).powi(2);
    }
    if below == 0.0 { 0.0 } else { above / below }
}

/// One task of each kind.
fn load(seed: u64, places: &Places, counts: &Rc<Counts>) -> [tokio::task::JoinHandle<()>; 3] {
    let (http, tcp, udp) = (places.http, places.tcp, places.udp);
    let repeat = |kind: u64| (fastrand::Rng::with_seed(seed * 3 + kind), Rc::clone(counts));
    let (mut random, all) = repeat(0);
    let requests = tokio::task::spawn_local(async move {
        while !all.stopped.get() {
            note(&all, &all.requests, ask(http, &mut random).await).await;
        }
    });
    let (mut random, all) = repeat(1);
    let connections = tokio::task::spawn_local(async move {
        while !all.stopped.get() {
            note(&all, &all.connections, talk(tcp, &mut random).await).await;
        }
    });
    let (mut random, all) = repeat(2);
    let flows = tokio::task::spawn_local(async move {
        while !all.stopped.get() {
            note(&all, &all.flows, send(udp, &mut random).await).await;
        }
    });
    [requests, connections, flows]
}

async fn note(counts: &Counts, kind: &Cell<u64>, outcome: Result<()>) {
    kind.set(kind.get() + 1);
    if let Err(error) = outcome {
        eprintln!("{error:#}");
        counts.failed.set(counts.failed.get() + 1);
    }
    tokio::time::sleep(Duration::from_millis(5)).await;
}

/// Some requests on a connection, the last of which may be left without waiting for its answer.
async fn ask(target: SocketAddr, random: &mut fastrand::Rng) -> Result<()> {
    let mut stream = TcpStream::connect(target).await?;
    for _ in 0..random.u8(..4) {
        stream.write_all(b"GET /some HTTP/1.1\r\nHost: soak.example\r\n\r\n").await?;
        let mut answer = [0; 4_096];
        let length = within(stream.read(&mut answer)).await??;
        ensure!(
            answer.starts_with(b"HTTP/1.1 200 "),
            "{}",
            String::from_utf8_lossy(answer.get(..length).unwrap_or_default())
        );
    }
    match random.u8(..4) {
        0 => {
            stream
                .write_all(b"POST /some HTTP/1.1\r\nHost: soak.example\r\nContent-Length: 9\r\n\r\nhalf")
                .await?
        }
        1 => stream.write_all(b"GET /so").await?,
        2 => reset(&stream)?,
        _ => {}
    }
    Ok(())
}

/// A connection that says something, hears it, and is ended, reset, or left to its own.
async fn talk(target: SocketAddr, random: &mut fastrand::Rng) -> Result<()> {
    let mut stream = TcpStream::connect(target).await?;
    let length = if random.u8(..8) == 0 { 200_000 } else { random.usize(1..2_000) };
    let (piece, mut back) = (vec![random.u8(..); length], vec![0; length]);
    let (mut reader, mut writer) = stream.split();
    let (written, read) = tokio::join!(writer.write_all(&piece), within(reader.read_exact(&mut back)));
    written?;
    read??;
    ensure!(piece == back, "other bytes");
    match random.u8(..64) {
        0 => {
            // The gateway ends it.
            let ended = tokio::time::timeout(Duration::from_secs(20), stream.read(&mut back)).await;
            ensure!(ended.is_ok(), "an idle connection does not end");
        }
        1..16 => reset(&stream)?,
        16..32 => {
            stream.shutdown().await?;
            ensure!(within(stream.read(&mut back)).await?? == 0, "bytes after the end");
        }
        _ => {}
    }
    Ok(())
}

/// A flow of a few datagrams that is then forgotten.
async fn send(target: SocketAddr, random: &mut fastrand::Rng) -> Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    socket.connect(target).await?;
    for _ in 0..random.u8(1..4) {
        let piece = vec![random.u8(..); random.usize(1..1_400)];
        socket.send(&piece).await?;
        let mut back = [0; 2_000];
        let length = within(socket.recv(&mut back)).await??;
        ensure!(back.get(..length) == Some(&*piece), "another datagram");
    }
    Ok(())
}

fn reset(stream: &TcpStream) -> Result<()> {
    Ok(rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO))?)
}

async fn within<T>(what: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(Duration::from_secs(10), what).await.context("late")
}

async fn http_endpoint() -> Result<SocketAddr> {
    serve(|mut stream| async move {
        let (mut head, mut byte) = (Vec::new(), [0; 1_024]);
        while let Ok(length @ 1..) = stream.read(&mut byte).await {
            head.extend_from_slice(byte.get(..length).unwrap_or_default());
            if head.ends_with(b"\r\n\r\n") {
                head.clear();
                if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nsoak").await.is_err() {
                    return;
                }
            }
        }
    })
    .await
}

async fn tcp_endpoint() -> Result<SocketAddr> {
    serve(|mut stream| async move {
        let (mut reader, mut writer) = stream.split();
        // An error is seen by the client as well.
        let _copied = tokio::io::copy(&mut reader, &mut writer).await;
        let _ended = writer.shutdown().await;
    })
    .await
}

async fn serve<F: Future<Output = ()> + 'static>(
    with: impl Fn(TcpStream) -> F + 'static,
) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.11:0").await?;
    let address = listener.local_addr()?;
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::task::spawn_local(with(stream));
        }
    });
    Ok(address)
}

async fn udp_endpoint() -> Result<SocketAddr> {
    let socket = UdpSocket::bind("127.0.0.11:0").await?;
    let address = socket.local_addr()?;
    tokio::task::spawn_local(async move {
        let mut buf = vec![0; 65_536];
        loop {
            // Refusals of flows that are gone come as errors of a later call.
            let Ok((length, from)) = socket.recv_from(&mut buf).await else { continue };
            let _sent = socket.send_to(buf.get(..length).unwrap_or_default(), from).await;
        }
    });
    Ok(address)
}

/// The table of change `number`: one or both endpoints of each kind, a listener that comes and goes.
fn write(folder: &Path, places: &Places, number: usize) -> Result<()> {
    let backend = |name: &str, [one, two]: [SocketAddr; 2]| match number % 3 {
        0 => json!({"name": name, "endpoints": [one, two]}),
        1 => json!({"name": name, "endpoints": [two]}),
        _ => json!({"name": name, "endpoints": [one]}),
    };
    let [http, tcp, udp] = places.endpoints;
    let listener = |name: &str, address: SocketAddr, protocol: &str| {
        let forward = json!({"backend": protocol, "idleTimeout": IDLE});
        json!({"name": name, "address": address, "protocol": protocol, "forward": forward})
    };
    let http_listener = json!({"name": "http", "address": places.http});
    let mut listeners =
        vec![http_listener, listener("tcp", places.tcp, "tcp"), listener("udp", places.udp, "udp")];
    if number % 4 == 1 {
        let more = SocketAddr::from(([127, 0, 0, 12], places.tcp.port()));
        listeners.push(listener("more", more, "tcp"));
    }
    let file = json!({
        "listeners": listeners,
        "backends": [backend("http", http), backend("tcp", tcp), backend("udp", udp)],
        "routes": [{"name": "soak", "backend": "http"}],
    });
    let (new, path) = (folder.join(".soak.new"), folder.join("soak.json"));
    std::fs::write(&new, file.to_string())?;
    std::fs::rename(new, path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_slope_is_that_of_the_line() {
        let line: Vec<(f64, f64)> = (0..10).map(|x| (f64::from(x), 3.0 * f64::from(x) + 7.0)).collect();
        assert!((super::slope(&line) - 3.0).abs() < 1e-9);
        assert_eq!(super::slope(&[]), 0.0);
    }
}
