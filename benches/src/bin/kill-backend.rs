//! A backend of three is killed without warning under load and comes back later. Claims, and exits 1 if they do not
//! hold: no idempotent request fails, the endpoint is ejected within the second, and it serves again after it is back.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use benches::backend::{Backend, Reuse};
use benches::engine::Engine;
use benches::load::{Pace, Plan};
use benches::manifest;
use benches::process::Proxy;
use clap::Parser;
use serde_json::json;

/// Kills one backend of three under load, revives it, and watches what clients and metrics see.
#[derive(Parser)]
struct Args {
    /// The sluicegate binary.
    binary: PathBuf,
    /// Requests per second.
    #[arg(long, default_value_t = 5_000.0)]
    rate: f64,
    /// How often it is killed and revived.
    #[arg(long, default_value_t = 3)]
    times: u32,
    /// Seconds that a revived backend has until it serves again.
    #[arg(long, default_value_t = 30)]
    back_within: u64,
}

/// The endpoint that is killed, among [`ENDPOINTS`].
const VICTIM: usize = 1;
const ENDPOINTS: u8 = 3;
/// The gauge of an endpoint's health: 0 while it is ejected.
const HEALTH: &str = "sluicegate_endpoint_healthy";

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let mut engine = Engine::new(Backend::new(13, Reuse::Serve))?;
    let mut endpoints = Vec::new();
    for host in 0..ENDPOINTS {
        endpoints
            .push(engine.backend.listen(&engine.poller, SocketAddr::from(([127, 0, 0, 11 + host], 0)))?.1);
    }
    let folder = manifest::Folder::new()?;
    let mut objects = manifest::service("kill", &endpoints);
    objects.push(manifest::ingress("kill", &[], &["/".to_owned()], "kill"));
    manifest::write(folder.path(), "kill.json", &objects)?;
    let proxy = Proxy::start(&args.binary, folder.path(), &[])?;
    let victim = endpoints.get(VICTIM).context("no such endpoint")?.to_string();
    engine.add_load(Plan {
        target: proxy.http,
        tls: None,
        connections: 64,
        in_flight: 64,
        pace: Pace::Rate(args.rate),
        one_shot: false,
        requests: vec![b"GET / HTTP/1.1\r\nHost: bench.test\r\n\r\n".to_vec()],
        upload: Vec::new(),
        expect_body: 13,
        expect_status: vec![200],
        timeout: Duration::from_secs(10),
    })?;
    for load in &mut engine.loads {
        load.restart(u64::MAX)?;
    }
    let (mut ejected, mut back) = (Vec::new(), Vec::new());
    for _ in 0..args.times {
        engine.run_for(Duration::from_secs(2))?;
        engine.backend.kill(VICTIM);
        let is_out = |_: &Engine| Ok(proxy.metric(HEALTH, &victim)? == Some(0.0));
        ejected.push(until(&mut engine, Duration::from_secs(5), is_out)?);
        engine.run_for(Duration::from_secs(1))?;
        engine.backend.revive(&engine.poller, VICTIM)?;
        let served = requests(&engine);
        let serves = |engine: &Engine| Ok(requests(engine) > served + 100);
        back.push(until(&mut engine, Duration::from_secs(args.back_within), serves)?);
    }
    engine.loads.iter_mut().for_each(benches::load::Load::stop);
    engine.finish(Instant::now() + Duration::from_secs(20))?;
    let outcome = &engine.loads.first().context("no load")?.outcome;
    let in_time = ejected.iter().all(|time| time.is_some_and(|time| time <= Duration::from_secs(1)));
    let good = outcome.failed() == 0 && in_time && back.iter().all(Option::is_some);
    let millis = |times: &[Option<Duration>]| -> Vec<Option<u128>> {
        times.iter().map(|time| time.map(|time| time.as_millis())).collect()
    };
    println!(
        "{}",
        json!({
            "requests": outcome.right,
            "errors": outcome.errors,
            "backend_requests": engine.backend.seen.requests,
            "ejected_after_ms": millis(&ejected),
            "serves_again_after_ms": millis(&back),
            "latency_us": {
                "p50": outcome.latency.value_at_quantile(0.5),
                "p99": outcome.latency.value_at_quantile(0.99),
                "max": outcome.latency.max(),
            },
            "good": good,
        })
    );
    // By return, not by exit: the proxy ends when its value is dropped.
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Requests that the victim has answered.
fn requests(engine: &Engine) -> u64 {
    engine.backend.seen.requests.get(VICTIM).copied().unwrap_or(0)
}

/// Runs on until `reached`, asked every ten milliseconds; how long it took, or `None` if `limit` passed first.
fn until(
    engine: &mut Engine,
    limit: Duration,
    mut reached: impl FnMut(&Engine) -> Result<bool>,
) -> Result<Option<Duration>> {
    let begin = Instant::now();
    while begin.elapsed() < limit {
        engine.run_for(Duration::from_millis(10))?;
        if reached(engine)? {
            return Ok(Some(begin.elapsed()));
        }
    }
    Ok(None)
}
