//! The Ingress controller at the size of a big cluster, against an API server: our own in this process, or any that
//! `--kubeconfig` names. Asserts what must never happen and prints what it measured.
//!
//! `cargo run --release -p benches --bin cluster -- scale`

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use benches::cluster::Cluster;
use benches::cluster::backend::Backend;
use benches::cluster::objects::{self, CONTROLLER, NAMESPACE};
use benches::cluster::probe::Probe;
use benches::process::{self, Proxy};
use benches::report::{millis, quantiles};
use clap::{Args as Arguments, Parser, Subcommand};
use serde_json::{Value, json};

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Parser)]
#[command(about = "The Ingress controller at the size of a big cluster")]
struct Args {
    #[command(subcommand)]
    what: What,
    #[command(flatten)]
    common: Common,
}

#[derive(Arguments, Debug)]
struct Common {
    /// The sluicegate to measure
    #[arg(long, default_value = "target/release/sluicegate", global = true)]
    binary: PathBuf,
    /// The API server; default: our own, in this process
    #[arg(long, global = true)]
    kubeconfig: Option<PathBuf>,
    /// Services, each with an EndpointSlice and an Ingress, that are there besides
    #[arg(long, default_value_t = 10_000, global = true)]
    services: u32,
    /// Endpoints of each
    #[arg(long, default_value_t = 10, global = true)]
    endpoints: u32,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Cold start, memory, and CPU while slices change
    Scale {
        /// EndpointSlice changes per second
        #[arg(long, default_value_t = 50)]
        rate: u32,
        #[arg(long, default_value_t = 30)]
        seconds: u32,
    },
    /// From the event of an EndpointSlice to the first request there, and to the last one
    Endpoints {
        #[arg(long, default_value_t = 200)]
        rounds: u32,
    },
    /// From a new Ingress to its first 200, asked each millisecond
    Hosts {
        #[arg(long, default_value_t = 200)]
        rounds: u32,
    },
    /// Rolling restarts of a backend under load
    Restarts {
        #[arg(long, default_value_t = 1_000)]
        rounds: u32,
        /// Connections that ask all the time
        #[arg(long, default_value_t = 4)]
        connections: u32,
    },
    /// Writes of status when Ingresses are created at once (our own server only, which counts them)
    Status {
        #[arg(long, default_value_t = 1_000)]
        ingresses: u32,
    },
    /// The API server goes away and comes back with another history (our own server only)
    Away {
        #[arg(long, default_value_t = 600)]
        seconds: u64,
    },
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let report = runtime.block_on(run(&args))?;
    println!("{report}");
    Ok(ExitCode::SUCCESS)
}

async fn run(args: &Args) -> Result<Value> {
    let cluster = Cluster::new(args.common.kubeconfig.as_deref()).await?;
    for object in objects::ground() {
        cluster.apply(&object).await?;
    }
    let began = Instant::now();
    let (services, endpoints) = (args.common.services, args.common.endpoints);
    cluster.apply_all((0..services).flat_map(|number| objects::site(number, endpoints))).await?;
    eprintln!("{services} Services with {endpoints} endpoints and an Ingress each: {:?}", began.elapsed());
    let common = &args.common;
    match args.what {
        What::Scale { rate, seconds } => scale(&cluster, common, rate, seconds).await,
        What::Endpoints { rounds } => endpoints_move(&cluster, common, rounds).await,
        What::Hosts { rounds } => hosts(&cluster, common, rounds).await,
        What::Restarts { rounds, connections } => restarts(&cluster, common, rounds, connections).await,
        What::Away { seconds } => away(&cluster, common, seconds).await,
        What::Status { ingresses } => status(&cluster, common, ingresses).await,
    }
}

/// Starts the proxy on `cluster` and waits until it is ready.
fn start(cluster: &Cluster, common: &Common, extra: &[&str]) -> Result<Proxy> {
    let kubeconfig = path(cluster.kubeconfig())?;
    let mut args = vec!["--kubernetes", "--kubeconfig", kubeconfig, "--controller-class", CONTROLLER];
    args.extend(["--ingress-class", objects::CLASS, "--election-namespace", NAMESPACE]);
    args.extend(["--state-dir", "none"]);
    if !extra.contains(&"--publish-address") {
        args.push("--update-status=false");
    }
    args.extend(extra);
    Proxy::spawn(&common.binary, &args)?.ready_within(PATIENCE)
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().context("path is not UTF-8")
}

async fn scale(cluster: &Cluster, common: &Common, rate: u32, seconds: u32) -> Result<Value> {
    let began = Instant::now();
    let proxy = start(cluster, common, &[])?;
    let ready = began.elapsed();
    let cpu_to_ready = process::cpu_nanos(proxy.pid())?;
    let after_start = process::pss_bytes(proxy.pid())?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (began, cpu) = (Instant::now(), process::cpu_nanos(proxy.pid())?);
    let mut tick = tokio::time::interval(Duration::from_secs(1) / rate.max(1));
    for turn in 0..rate * seconds {
        tick.tick().await;
        let number = fastrand::u32(..common.services);
        let name = format!("site-{number}");
        cluster.apply(&objects::made_up_slice(&name, number, common.endpoints, turn)).await?;
    }
    let (elapsed, used) = (began.elapsed(), process::cpu_nanos(proxy.pid())? - cpu);
    let memory = process::pss_bytes(proxy.pid())?;
    let (cpu, idle) = (process::cpu_nanos(proxy.pid())?, Instant::now());
    tokio::time::sleep(Duration::from_secs(10)).await;
    let idle_cores = (process::cpu_nanos(proxy.pid())? - cpu) as f64 / idle.elapsed().as_nanos() as f64;
    Ok(json!({
        "ready_seconds": ready.as_secs_f64(),
        "cpu_seconds_to_ready": cpu_to_ready as f64 / 1e9,
        "memory_mib_at_ready": after_start as f64 / f64::from(1 << 20),
        "memory_mib_after_changes": memory as f64 / f64::from(1 << 20),
        "changes_per_second": f64::from(rate * seconds) / elapsed.as_secs_f64(),
        "cores_while_changing": used as f64 / elapsed.as_nanos() as f64,
        "cores_idle": idle_cores,
    }))
}

async fn endpoints_move(cluster: &Cluster, common: &Common, rounds: u32) -> Result<Value> {
    let (stays, comes) = (Backend::start(1)?, Backend::start(2)?);
    let lasting = objects::slice("moving", "1", stays.address);
    let moving = objects::slice("moving", "2", comes.address);
    cluster
        .apply_all([
            objects::service("moving"),
            lasting,
            objects::ingress("moving", "moving.example", "moving"),
        ])
        .await?;
    let proxy = start(cluster, common, &[])?;
    let mut events =
        cluster.watch(&format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices")).await?;
    let probe = Probe::start(proxy.http, "moving.example", Duration::ZERO);
    let mut writes = Vec::new();
    for _ in 0..rounds {
        let written = Instant::now();
        cluster.apply(&moving).await?;
        let added = (written, events.next("ADDED", "moving-2").await?);
        tokio::time::sleep(Duration::from_millis(100)).await;
        let written = Instant::now();
        cluster.delete(&moving).await?;
        writes.push((added, (written, events.next("DELETED", "moving-2").await?)));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let answers = probe.stop()?;
    ensure!(answers.iter().all(|answer| answer.status == 200), "an answer other than 200");
    let mut first = Vec::new();
    let mut first_from_write = Vec::new();
    let mut last = Vec::new();
    for ((written, event), (_, removed)) in writes {
        let found = answers.iter().find(|answer| answer.number == Some(2) && answer.read > written);
        let found = found.context("the new endpoint never answered")?;
        first.push(millis(found.read, event));
        first_from_write.push(millis(found.read, written));
        // The last request that was sent to the endpoint that is gone.
        let until = removed + Duration::from_millis(90);
        let late = answers.iter().filter(|answer| answer.number == Some(2) && answer.sent < until);
        last.push(late.map(|answer| millis(answer.sent, removed)).fold(f64::MIN, f64::max));
    }
    Ok(json!({
        "rounds": rounds, "requests": answers.len(),
        "event_to_first_request_ms": quantiles(&mut first),
        "write_to_first_request_ms": quantiles(&mut first_from_write),
        "removal_to_last_request_ms": quantiles(&mut last),
    }))
}

async fn hosts(cluster: &Cluster, common: &Common, rounds: u32) -> Result<Value> {
    let backend = Backend::start(1)?;
    cluster.apply_all([objects::service("front"), objects::slice("front", "1", backend.address)]).await?;
    let proxy = start(cluster, common, &[])?;
    let mut delays = Vec::new();
    for round in 0..rounds {
        let host = format!("new-{round}.example");
        let probe = Probe::start(proxy.http, &host, Duration::from_millis(1));
        tokio::time::sleep(Duration::from_millis(20)).await;
        let written = Instant::now();
        cluster.apply(&objects::ingress(&format!("new-{round}"), &host, "front")).await?;
        tokio::time::sleep(Duration::from_millis(60)).await;
        let answers = probe.stop()?;
        let first = answers.iter().position(|answer| answer.status == 200).context("never 200")?;
        let (before, after) = answers.split_at(first);
        ensure!(before.iter().all(|answer| answer.status == 404), "a status other than 404 before");
        ensure!(after.iter().all(|answer| answer.status == 200), "a status other than 200 after");
        delays.extend(after.first().map(|answer| millis(answer.read, written)));
    }
    Ok(json!({"rounds": rounds, "write_to_200_ms": quantiles(&mut delays)}))
}

async fn restarts(cluster: &Cluster, common: &Common, rounds: u32, connections: u32) -> Result<Value> {
    let mut current = Backend::start(0)?;
    let site = [
        objects::service("rolling"),
        objects::slice("rolling", "0", current.address),
        objects::ingress("rolling", "rolling.example", "rolling"),
    ];
    cluster.apply_all(site).await?;
    let proxy = start(cluster, common, &[])?;
    let start_probe = |_| Probe::start(proxy.http, "rolling.example", Duration::from_micros(200));
    let probes: Vec<Probe> = (0..connections).map(start_probe).collect();
    let mut events =
        cluster.watch(&format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices")).await?;
    for round in 1..=rounds {
        let next = Backend::start(u64::from(round))?;
        let (old, new) = (format!("{}", round - 1), format!("{round}"));
        cluster.apply(&objects::slice("rolling", &new, next.address)).await?;
        let terminating = json!({"ready": false, "serving": true, "terminating": true});
        cluster.apply(&objects::slice_with("rolling", &old, current.address, &terminating)).await?;
        cluster.delete(&objects::slice("rolling", &old, current.address)).await?;
        events.next("DELETED", &format!("rolling-{old}")).await?;
        // What a Pod has between being told to end and ending, at the least.
        tokio::time::sleep(Duration::from_millis(10)).await;
        drop(std::mem::replace(&mut current, next));
    }
    let mut answers = Vec::new();
    for probe in probes {
        answers.extend(probe.stop()?);
    }
    let failed = answers.iter().filter(|answer| answer.status != 200).count();
    let last = answers.iter().filter_map(|answer| answer.number).max();
    ensure!(last == Some(u64::from(rounds)), "the last version never answered");
    Ok(json!({"restarts": rounds, "requests": answers.len(), "failed": failed}))
}

async fn status(cluster: &Cluster, common: &Common, ingresses: u32) -> Result<Value> {
    let server = cluster.own().context("only our own server counts requests")?;
    let proxy = start(cluster, common, &["--publish-address", "198.51.100.7"])?;
    let list = format!("/apis/networking.k8s.io/v1/namespaces/{NAMESPACE}/ingresses");
    cluster.wait_for_status(&list, common.services as usize, PATIENCE).await?;
    let before = server.requests().writes("ingresses/status");
    let began = Instant::now();
    let new = (0..ingresses)
        .map(|n| objects::ingress(&format!("at-once-{n}"), &format!("at-once-{n}.example"), "front"));
    cluster.apply_all(new).await?;
    cluster.wait_for_status(&list, (common.services + ingresses) as usize, PATIENCE * 5).await?;
    let took = began.elapsed();
    // Whatever would be written twice is by now.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let writes = server.requests().writes("ingresses/status") - before;
    drop(proxy);
    Ok(json!({"ingresses": ingresses, "seconds": took.as_secs_f64(), "writes": writes,
        "writes_per_ingress": writes as f64 / f64::from(ingresses)}))
}

async fn away(cluster: &Cluster, common: &Common, seconds: u64) -> Result<Value> {
    let server = cluster.own().context("only our own server can be taken away")?;
    let (one, two) = (Backend::start(1)?, Backend::start(2)?);
    let site = [
        objects::service("lasting"),
        objects::slice("lasting", "1", one.address),
        objects::ingress("lasting", "lasting.example", "lasting"),
    ];
    cluster.apply_all(site).await?;
    let proxy = start(cluster, common, &[])?;
    let probe = Probe::start(proxy.http, "lasting.example", Duration::from_millis(1));
    tokio::time::sleep(Duration::from_secs(1)).await;
    server.faults().set_refusing(true);
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    // It comes back with a history that begins anew, in which the endpoint is another one.
    server.forget_history(Some(1));
    server.plant(objects::slice("lasting", "1", two.address)).map_err(anyhow::Error::msg)?;
    let back = Instant::now();
    server.faults().set_refusing(false);
    tokio::time::sleep(Duration::from_secs(30)).await;
    let answers = probe.stop()?;
    let failed = answers.iter().filter(|answer| answer.status != 200).count();
    let converged =
        answers.iter().find(|answer| answer.number == Some(2)).map(|answer| millis(answer.read, back));
    Ok(
        json!({"seconds_away": seconds, "requests": answers.len(), "failed": failed, "converged_after_ms": converged}),
    )
}
