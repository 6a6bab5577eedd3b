//! Table swaps under load: manifests are rewritten as fast as the proxy takes them in, while keep-alive and one-shot
//! clients go on. Claims, and exits 1 if they do not hold: no request fails, and every kind of change took effect.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use benches::backend::{Backend, Reuse};
use benches::engine::Engine;
use benches::load::{Load, Pace, Plan};
use benches::manifest;
use benches::process::{self, Proxy};
use clap::Parser;
use serde_json::json;

/// Swaps the table thousands of times under keep-alive and new-connection load; no request may fail.
#[derive(Parser)]
struct Args {
    /// The sluicegate binary.
    binary: PathBuf,
    /// Swaps to see, as counted by the proxy.
    #[arg(long, default_value_t = 10_000)]
    swaps: u64,
    /// Keep-alive requests per second; half as many again come on new connections.
    #[arg(long, default_value_t = 2_000.0)]
    rate: f64,
    /// Seconds until the run is given up.
    #[arg(long, default_value_t = 900)]
    limit_seconds: u64,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let mut engine = Engine::new(Backend::new(13, Reuse::Serve))?;
    let mut endpoints = Vec::new();
    for host in 11..=14 {
        endpoints.push(engine.backend.listen(&engine.poller, SocketAddr::from(([127, 0, 0, host], 0)))?.1);
    }
    let folder = manifest::Folder::new()?;
    write(folder.path(), &endpoints, 0)?;
    let proxy = Proxy::start(&args.binary, folder.path(), &[])?;
    for one_shot in [false, true] {
        let rate = if one_shot { args.rate / 2.0 } else { args.rate };
        engine.add_load(plan(proxy.http, rate, one_shot))?;
    }
    for load in &mut engine.loads {
        load.restart(u64::MAX)?;
    }
    engine.run_for(Duration::from_millis(500))?;
    let deadline = Instant::now() + Duration::from_secs(args.limit_seconds);
    let begin = Instant::now();
    let first = proxy.swaps()?;
    let (mut writes, mut seen) = (0, 0);
    // A leak grows from tenth to tenth; an allocator that has found its size does not.
    let mut memory = Vec::new();
    while seen < args.swaps {
        if seen * 10 >= args.swaps * memory.len() as u64 {
            memory.push(process::pss_bytes(proxy.pid())?);
        }
        if Instant::now() > deadline {
            bail!("only {seen} swaps after {writes} changes");
        }
        writes += 1;
        write(folder.path(), &endpoints, writes)?;
        // One change must be in before the next is made, or bursts would be taken in as one.
        while proxy.swaps()? == first + seen && Instant::now() < deadline {
            engine.run_for(Duration::from_millis(2))?;
        }
        seen = proxy.swaps()? - first;
    }
    let elapsed = begin.elapsed();
    engine.loads.iter_mut().for_each(Load::stop);
    engine.finish(Instant::now() + Duration::from_secs(20))?;
    let failed: u64 = engine.loads.iter().map(|load| load.outcome.failed()).sum();
    // Every endpoint was in some tables and out of others, so each must have served some.
    let all_served = engine.backend.seen.requests.iter().all(|count| *count > 0);
    let good = failed == 0 && all_served && engine.backend.seen.faults.is_empty();
    let summary = |load: &Load| {
        let outcome = &load.outcome;
        json!({
            "requests": outcome.right,
            "connections": outcome.opened,
            "errors": outcome.errors,
            "p50_us": outcome.latency.value_at_quantile(0.5),
            "p99_us": outcome.latency.value_at_quantile(0.99),
            "max_us": outcome.latency.max(),
        })
    };
    let loads: Vec<_> = engine.loads.iter().map(summary).collect();
    println!(
        "{}",
        json!({
            "swaps": seen,
            "changes": writes,
            "seconds": elapsed.as_secs_f64(),
            "keep_alive": loads.first(),
            "one_shot": loads.get(1),
            "backend_requests": engine.backend.seen.requests,
            "memory_at_tenths": memory,
            "good": good,
        })
    );
    // By return, not by exit: the proxy ends when its value is dropped.
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The table of change `number`: two of the four endpoints serve, a route next to the one under load comes and goes.
fn write(folder: &Path, endpoints: &[SocketAddr], number: usize) -> Result<()> {
    let ready = endpoints.iter().cycle().skip(number % endpoints.len().max(1)).take(2).copied();
    let mut objects = manifest::service("swap", &ready.collect::<Vec<_>>());
    objects.push(manifest::ingress("swap", &["bench.test".to_owned()], &["/".to_owned()], "swap"));
    if number % 3 == 1 {
        let path = format!("/more-{number}");
        objects.push(manifest::ingress("more", &["bench.test".to_owned()], &[path], "swap"));
    }
    manifest::write(folder, "swap.json", &objects)
}

fn plan(target: SocketAddr, rate: f64, one_shot: bool) -> Plan {
    let close = if one_shot { "Connection: close\r\n" } else { "" };
    Plan {
        target,
        tls: None,
        connections: 32,
        in_flight: 32,
        pace: Pace::Rate(rate),
        one_shot,
        requests: vec![format!("GET /a/b HTTP/1.1\r\nHost: bench.test\r\n{close}\r\n").into_bytes()],
        upload: Vec::new(),
        expect_body: 13,
        expect_status: vec![200],
        timeout: Duration::from_secs(10),
    }
}
