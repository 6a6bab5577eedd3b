//! The keep-alive race: a backend that closes a connection at the very moment the proxy reuses it. Claims, and exits 1
//! if they do not hold: no GET fails, and no POST is executed twice.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use benches::backend::{Backend, Reuse, Seen};
use benches::engine::Engine;
use benches::load::{Outcome, Pace, Plan};
use benches::manifest;
use benches::process::Proxy;
use clap::Parser;
use serde_json::json;

/// Reuses of upstream connections that the backend closes at that instant: none may cost a GET, none may execute a
/// POST twice.
#[derive(Parser)]
struct Args {
    /// The sluicegate binary.
    binary: PathBuf,
    /// Closed reuses to see for each method.
    #[arg(long, default_value_t = 100_000)]
    reuses: u64,
    /// Client connections.
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// Seconds until a method's run is given up.
    #[arg(long, default_value_t = 300)]
    limit_seconds: u64,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let (get, get_seen) = run(&args, "GET", &[200])?;
    // A POST that may have been executed must not be sent again, so 502 is a right answer to it.
    let (post, post_seen) = run(&args, "POST", &[200, 502])?;
    let twice = post_seen.executions.iter().filter(|count| **count > 1).count();
    let good = get.failed() == 0
        && post.failed() == 0
        && twice == 0
        && get_seen.faults.is_empty()
        && post_seen.faults.is_empty();
    let summary = |outcome: &Outcome, seen: &Seen| {
        json!({
            "requests": outcome.sent,
            "right": outcome.right,
            "other_statuses": outcome.others,
            "errors": outcome.errors,
            "reuses_closed": seen.reuses_closed,
            "executed_then_closed": seen.executed_then_closed,
            "closed_after_answer": seen.crossed,
            "backend_faults": seen.faults,
            "p50_us": outcome.latency.value_at_quantile(0.5),
            "p99_us": outcome.latency.value_at_quantile(0.99),
        })
    };
    println!(
        "{}",
        json!({
            "get": summary(&get, &get_seen),
            "post": summary(&post, &post_seen),
            "post_executed_twice": twice,
            "good": good,
        })
    );
    // By return, not by exit: the proxy ends when its value is dropped.
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run(args: &Args, method: &str, right: &[u16]) -> Result<(Outcome, Seen)> {
    let mut engine = Engine::new(Backend::new(13, Reuse::Close))?;
    let mut endpoints = Vec::new();
    for host in 11..=14 {
        endpoints.push(engine.backend.listen(&engine.poller, SocketAddr::from(([127, 0, 0, host], 0)))?.1);
    }
    let folder = manifest::Folder::new()?;
    let mut objects = manifest::service("race", &endpoints);
    objects.push(manifest::ingress("race", &[], &["/".to_owned()], "race"));
    manifest::write(folder.path(), "race.json", &objects)?;
    let proxy = Proxy::start(&args.binary, folder.path(), &[])?;
    // Twice as many as there are reuses to see: some connections end between two requests, as they may.
    let count = args.reuses * 4;
    let request = |number: u64| {
        format!(
            "{method} / HTTP/1.1\r\nHost: bench.test\r\nX-Execution: {number}\r\nContent-Length: 0\r\n\r\n"
        )
        .into_bytes()
    };
    engine.add_load(Plan {
        target: proxy.http,
        tls: None,
        connections: args.connections,
        in_flight: args.connections,
        pace: Pace::Closed,
        one_shot: false,
        requests: (0..count).map(request).collect(),
        upload: Vec::new(),
        expect_body: 13,
        expect_status: right.to_vec(),
        timeout: Duration::from_secs(10),
    })?;
    let deadline = Instant::now() + Duration::from_secs(args.limit_seconds);
    for load in &mut engine.loads {
        load.restart(count)?;
    }
    while engine.backend.seen.reuses_closed < args.reuses {
        if Instant::now() > deadline || engine.loads.iter().all(benches::load::Load::is_done) {
            bail!("only {} closed reuses of {} were seen", engine.backend.seen.reuses_closed, args.reuses);
        }
        engine.turn(Duration::from_millis(200))?;
    }
    engine.loads.iter_mut().for_each(benches::load::Load::stop);
    engine.finish(deadline)?;
    let Some(load) = engine.loads.pop() else { bail!("no load") };
    Ok((load.outcome, engine.backend.seen))
}
