//! Load and backend in one thread, as JSON: what a proxy between them did to every byte, how long it took, and what CPU
//! time and memory it used for it.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use benches::backend::{Backend, Reuse};
use benches::engine::Engine;
use benches::load::{Pace, Plan};
use benches::report::Measured;
use benches::tls::{self, Sessions};
use benches::{pattern, process};
use clap::Parser;
use rustls::client::ClientConfig;
use serde_json::json;

/// Loads a proxy, is its backend too, and checks every byte on both sides. Prints one JSON object; exits 1 if any
/// answer or upload was wrong.
#[derive(Parser)]
struct Args {
    /// The proxy.
    #[arg(long)]
    target: SocketAddr,
    /// Addresses to listen on as the backend.
    #[arg(long, required = true)]
    backend: Vec<SocketAddr>,
    /// Bytes in each answer's body.
    #[arg(long, default_value_t = 13)]
    body: usize,
    /// Client connections.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Requests in flight at once (default: one per connection).
    #[arg(long)]
    in_flight: Option<usize>,
    /// Requests per second, sent when they are due whatever the answers do. Without it: the next as soon as an answer
    /// is in.
    #[arg(long)]
    rate: Option<f64>,
    /// Requests that count.
    #[arg(long, default_value_t = 100_000)]
    requests: u64,
    /// Requests before those.
    #[arg(long, default_value_t = 10_000)]
    warmup: u64,
    /// A new connection for each request, with `Connection: close`.
    #[arg(long)]
    one_shot: bool,
    /// Hosts to ask for in turn, `h0.bench.test` and so on; without it `bench.test`.
    #[arg(long)]
    hosts: Option<usize>,
    /// Paths to ask for in turn, `/p0` and so on; without it `/`.
    #[arg(long)]
    paths: Option<usize>,
    /// Request head of about 430 bytes, as a browser sends, instead of about 80, as a tool does.
    #[arg(long)]
    browser_head: bool,
    /// POST a body of this many bytes.
    #[arg(long)]
    upload: Option<usize>,
    /// Upload in chunks of 16 KiB instead of with a Content-Length.
    #[arg(long)]
    chunked: bool,
    /// Account the CPU time of this process and its descendants.
    #[arg(long)]
    pid: Option<u32>,
    /// File with that process id, instead.
    #[arg(long)]
    pid_file: Option<PathBuf>,
    /// Encrypt (TLS 1.3), and trust this authority (PEM) alone.
    #[arg(long)]
    tls: Option<PathBuf>,
    /// Resume TLS sessions. After the warm-up every handshake must; without this none may.
    #[arg(long, requires = "tls")]
    resume: bool,
    /// After the load, leave the connections idle for this long and account the memory of the process for them.
    #[arg(long)]
    hold_seconds: Option<f64>,
    /// Every request must reach the backend with `X-Forwarded-For`.
    #[arg(long)]
    expect_forwarded: bool,
    /// Seconds until the whole run is given up.
    #[arg(long, default_value_t = 120)]
    limit_seconds: u64,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let mut engine = Engine::new(Backend::new(args.body, Reuse::Serve))?;
    let pid = args.process()?;
    let memory_before = pid.map(process::pss_bytes).transpose()?;
    for address in &args.backend {
        let listening = engine.backend.listen(&engine.poller, *address);
        listening.with_context(|| format!("cannot listen on {address}"))?;
    }
    engine.add_load(args.plan()?)?;
    let deadline = Instant::now() + Duration::from_secs(args.limit_seconds);
    restart(&mut engine, args.warmup)?;
    engine.finish(deadline)?;
    let warm_failures = engine.loads.first().map_or(0, |load| load.outcome.failed());
    ensure!(warm_failures == 0, "{warm_failures} requests failed during warm-up: {:?}", errors(&engine));
    let forwarded_before = engine.backend.seen.forwarded;
    let cpu_before = pid.map(process::cpu_nanos).transpose()?;
    let begin = Instant::now();
    restart(&mut engine, args.requests)?;
    engine.finish(deadline)?;
    let elapsed = begin.elapsed();
    let cpu = pid.map(process::cpu_nanos).transpose()?.zip(cpu_before).map(|(after, before)| after - before);
    let forwarded = engine.backend.seen.forwarded - forwarded_before;
    let memory = match (args.hold_seconds, pid, memory_before) {
        (Some(hold), Some(pid), Some(before)) => {
            engine.run_for(Duration::from_secs_f64(hold))?;
            Some((before, process::pss_bytes(pid)?))
        }
        _ => None,
    };
    let Some(load) = engine.loads.first() else { bail!("no load") };
    let (outcome, seen) = (&load.outcome, &engine.backend.seen);
    let all_forwarded = !args.expect_forwarded || forwarded == args.requests;
    let other_handshakes = if args.resume { outcome.full_handshakes } else { outcome.resumed_handshakes };
    let good = outcome.failed() == 0
        && outcome.right == args.requests
        && seen.faults.is_empty()
        && all_forwarded
        && other_handshakes == 0;
    let mut report = json!({
        "requests": outcome.right,
        "errors": outcome.errors,
        "backend_faults": seen.faults,
        "backend_requests": seen.requests,
        "backend_connections": seen.accepted,
        "forwarded_for": forwarded,
        "full_handshakes": outcome.full_handshakes,
        "resumed_handshakes": outcome.resumed_handshakes,
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
    println!("{report}");
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn restart(engine: &mut Engine, requests: u64) -> Result<()> {
    engine.loads.iter_mut().try_for_each(|load| load.restart(requests))
}

fn errors(engine: &Engine) -> Vec<String> {
    engine.loads.iter().flat_map(|load| load.outcome.errors.keys().cloned()).collect()
}

impl Args {
    fn process(&self) -> Result<Option<u32>> {
        let Some(file) = &self.pid_file else { return Ok(self.pid) };
        Ok(Some(fs::read_to_string(file)?.trim().parse()?))
    }

    fn plan(&self) -> Result<Plan> {
        let upload = match self.upload {
            Some(len) if self.chunked => pattern::chunked(len, 16 * 1024),
            Some(len) => pattern::body(len),
            None => Vec::new(),
        };
        Ok(Plan {
            target: self.target,
            connections: self.connections,
            tls: self.settings()?,
            in_flight: self.in_flight.unwrap_or(self.connections),
            pace: self.rate.map_or(Pace::Closed, Pace::Rate),
            one_shot: self.one_shot,
            requests: self.heads(),
            upload,
            expect_body: self.body as u64,
            expect_status: vec![200],
            timeout: Duration::from_secs(20),
        })
    }

    fn settings(&self) -> Result<Option<Arc<ClientConfig>>> {
        let Some(roots) = &self.tls else { return Ok(None) };
        Ok(Some(tls::client(roots, b"http/1.1", self.sessions())?))
    }

    fn sessions(&self) -> Sessions {
        if self.resume { Sessions::Resumed } else { Sessions::Full }
    }

    /// Every request head that will be sent. With many hosts or paths they are shuffled, with a fixed seed, so that
    /// neighbours in the table are not neighbours in time.
    fn heads(&self) -> Vec<Vec<u8>> {
        let count = self.hosts.unwrap_or(1).max(self.paths.unwrap_or(1));
        let mut heads: Vec<Vec<u8>> = (0..count).map(|number| self.head(number).into_bytes()).collect();
        fastrand::Rng::with_seed(7).shuffle(&mut heads);
        heads
    }

    fn head(&self, number: usize) -> String {
        let method = if self.upload.is_some() { "POST" } else { "GET" };
        let host = self
            .hosts
            .map_or_else(|| "bench.test".to_owned(), |hosts| format!("h{}.bench.test", number % hosts));
        let path = self.paths.map_or_else(|| "/".to_owned(), |paths| format!("/p{}", number % paths));
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n");
        if self.browser_head {
            head.push_str(
                "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0\r\n\
                 Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n\
                 Accept-Language: en-GB,en;q=0.9,de;q=0.8\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n\
                 Cookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\nUpgrade-Insecure-Requests: 1\r\n",
            );
        } else {
            head.push_str("User-Agent: bench/1.0\r\nAccept: */*\r\n");
        }
        if self.one_shot {
            head.push_str("Connection: close\r\n");
        }
        match self.upload {
            Some(_) if self.chunked => head.push_str("Transfer-Encoding: chunked\r\n"),
            Some(len) => head.push_str(&format!("Content-Length: {len}\r\n")),
            None => {}
        }
        head + "\r\n"
    }
}
