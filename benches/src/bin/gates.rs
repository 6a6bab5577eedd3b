//! The deterministic gates: system calls and heap allocations per request. No clock decides here, so a busy machine fails
//! nothing that a quiet one passes. Exits 1 if a gate fails; says loudly which one it could not measure.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use benches::backend::{Backend, Reuse};
use benches::engine::Engine;
use benches::load::{Pace, Plan};
use benches::manifest;
use benches::process::Proxy;
use clap::Parser;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// Counts system calls and heap allocations per keep-alive request, and fails when there are too many.
#[derive(Parser)]
struct Args {
    /// The sluicegate binary whose system calls are counted.
    #[arg(long)]
    syscalls: Option<PathBuf>,
    /// A sluicegate binary built with the feature `count-allocations`.
    #[arg(long)]
    allocations: Option<PathBuf>,
    /// Fail, rather than skip, when strace cannot be used.
    #[arg(long)]
    strict: bool,
}

/// Reads and writes of sockets and pipes. A small request and its answer need four.
const DATA: [&str; 10] =
    ["recvfrom", "recvmsg", "recvmmsg", "read", "readv", "sendto", "sendmsg", "write", "writev", "splice"];
const MOST_DATA: f64 = 4.2;
/// Neither data nor waiting: clocks, wake-ups, re-arming.
const MOST_OTHER: f64 = 0.1;
const MOST_ALLOCATIONS: f64 = 0.001;
const ALLOCATIONS: &str = "sluicegate_allocations_total";

/// One kind of request.
struct Shape {
    name: &'static str,
    target: &'static str,
    status: u16,
}

const PLAIN: Shape = Shape { name: "plain", target: "/a/b?c=d", status: 200 };
/// What takes another way through the gateway than most requests.
const SHAPES: [Shape; 6] = [
    Shape { name: "rewritten prefix", target: "/old/b?c=d", status: 200 },
    Shape { name: "rewritten prefix, not canonical", target: "/old/./%7Eb/../c", status: 200 },
    Shape { name: "redirect", target: "/moved/b?c=d", status: 302 },
    Shape { name: "redirect to https", target: "/secure/b?c=d", status: 308 },
    Shape { name: "empty segments", target: "/a//b///c", status: 200 },
    Shape { name: "absolute form", target: "http://Bench.test:80/a/b", status: 200 },
];

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let mut results = Vec::new();
    if let Some(binary) = &args.syscalls {
        for connections in [1, 64] {
            results.push(syscalls(binary.clone(), connections, args.strict)?);
        }
    }
    if let Some(binary) = &args.allocations {
        results.push(allocations(binary.clone(), 1, &PLAIN)?);
        for shape in [&PLAIN].into_iter().chain(&SHAPES) {
            results.push(allocations(binary.clone(), 64, shape)?);
        }
    }
    ensure!(!results.is_empty(), "nothing to do: give --syscalls or --allocations");
    for result in &results {
        println!("{result}");
    }
    let failed = results.iter().any(|result| result.get("pass") == Some(&Value::Bool(false)));
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// A proxy between a load of small GETs and four backends.
struct Bench {
    engine: Engine,
    proxy: Proxy,
    _config: manifest::Folder,
}

impl Bench {
    fn start(binary: &std::path::Path, connections: usize, shape: &Shape) -> Result<Self> {
        let mut engine = Engine::new(Backend::new(13, Reuse::Serve))?;
        let mut endpoints = Vec::new();
        for host in 11..=14 {
            endpoints
                .push(engine.backend.listen(&engine.poller, SocketAddr::from(([127, 0, 0, host], 0)))?.1);
        }
        let config = manifest::Folder::new()?;
        let mut objects = manifest::service("gate", &endpoints);
        objects.push(manifest::ingress("gate", &["bench.test".to_owned()], &["/".to_owned()], "gate"));
        manifest::write(config.path(), "gate.json", &objects)?;
        fs::write(config.path().join("routes.yaml"), routes(&endpoints))?;
        let proxy = Proxy::start(binary, config.path(), &[])?;
        engine.add_load(Plan {
            target: proxy.http,
            tls: None,
            connections,
            in_flight: connections,
            pace: Pace::Closed,
            one_shot: false,
            requests: vec![
                format!(
                    "GET {} HTTP/1.1\r\nHost: bench.test\r\nUser-Agent: bench/1.0\r\nAccept: */*\r\n\r\n",
                    shape.target
                )
                .into_bytes(),
            ],
            upload: Vec::new(),
            expect_body: 13,
            expect_status: vec![shape.status],
            timeout: Duration::from_secs(20),
        })?;
        Ok(Self { engine, proxy, _config: config })
    }

    /// Sends `requests` and checks that each was answered right.
    fn run(&mut self, requests: u64) -> Result<()> {
        for load in &mut self.engine.loads {
            load.restart(requests)?;
        }
        self.engine.finish(Instant::now() + Duration::from_secs(300))?;
        let outcome = &self.engine.loads.first().context("no load")?.outcome;
        ensure!(outcome.right == requests, "requests failed: {:?}", outcome.errors);
        Ok(())
    }
}

/// Routes that rewrite and redirect, beside the Ingress.
fn routes(endpoints: &[SocketAddr]) -> String {
    let endpoints: Vec<String> = endpoints.iter().map(|endpoint| format!("\"{endpoint}\"")).collect();
    format!(
        "routes:\n\
         - {{hosts: [bench.test], pathPrefix: /old, backend: b, filters: {{rewrite: {{prefix: /new}}}}}}\n\
         - {{hosts: [bench.test], pathPrefix: /moved, filters: {{redirect: {{hostname: other.test, prefix: /to, status: 302}}}}}}\n\
         - {{hosts: [bench.test], pathPrefix: /secure, backend: b, httpsRedirect: 8443}}\n\
         backends:\n\
         - {{name: b, endpoints: [{}]}}\n",
        endpoints.join(", ")
    )
}

fn syscalls(binary: PathBuf, connections: usize, strict: bool) -> Result<Value> {
    const REQUESTS: u64 = 20_000;
    let mut bench = Bench::start(&binary, connections, &PLAIN)?;
    bench.run(2_000)?;
    let summary = tempfile::NamedTempFile::new()?;
    let tracer = match Tracer::attach(bench.proxy.pid(), summary.path()) {
        Ok(tracer) => tracer,
        Err(error) if !strict => {
            eprintln!("\n!!! GATE NOT MEASURED: system calls per request: {error:#}\n");
            return Ok(
                json!({"gate": "syscalls", "connections": connections, "skipped": format!("{error:#}")}),
            );
        }
        Err(error) => return Err(error),
    };
    bench.run(REQUESTS)?;
    tracer.finish()?;
    let counts = parse_summary(&fs::read_to_string(summary.path())?);
    let is_data = |name: &str| DATA.contains(&name);
    let is_wait = |name: &str| name.starts_with("epoll_") && name.contains("wait");
    let per_request = |wanted: &dyn Fn(&str) -> bool| {
        counts.iter().filter(|(name, _)| wanted(name)).map(|(_, count)| *count).sum::<u64>() as f64
            / REQUESTS as f64
    };
    let (data, wait) = (per_request(&is_data), per_request(&is_wait));
    let other = per_request(&|name| !is_data(name) && !is_wait(name));
    Ok(json!({
        "gate": "syscalls",
        "connections": connections,
        "data_per_request": data,
        "wait_per_request": wait,
        "other_per_request": other,
        "limits": {"data": MOST_DATA, "other": MOST_OTHER},
        "calls": counts.iter().map(|(name, count)| (name.clone(), json!(count))).collect::<serde_json::Map<_, _>>(),
        // Fewer than four would mean that nothing was counted.
        "pass": (3.9..=MOST_DATA).contains(&data) && other <= MOST_OTHER,
    }))
}

/// An strace that counts the calls of a process until it is finished.
struct Tracer(Child);

impl Tracer {
    fn attach(pid: u32, summary: &std::path::Path) -> Result<Self> {
        let mut child = Command::new("strace")
            .args(["-c", "-f", "-qq", "-p", &pid.to_string(), "-o"])
            .arg(summary)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("strace cannot be started")?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while !is_traced(pid) {
            if let Some(status) = child.try_wait()? {
                bail!("strace may not attach ({status})");
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                let _ = child.wait();
                bail!("strace did not attach within ten seconds");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(Self(child))
    }

    fn finish(mut self) -> Result<()> {
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw).context("no process id")?;
        kill_process(pid, Signal::INT)?;
        self.0.wait()?;
        Ok(())
    }
}

/// True when every thread of `pid` has a tracer.
fn is_traced(pid: u32) -> bool {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    tasks.flatten().all(|task| {
        let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
        status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
    })
}

/// Name and count of each row of `strace -c`.
fn parse_summary(text: &str) -> Vec<(String, u64)> {
    let row = |line: &str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let (name, calls) = (columns.last()?, columns.get(3)?);
        (*name != "total").then_some(())?;
        Some(((*name).to_owned(), calls.parse().ok()?))
    };
    text.lines().filter_map(row).collect()
}

fn allocations(binary: PathBuf, connections: usize, shape: &Shape) -> Result<Value> {
    const REQUESTS: u64 = 100_000;
    let mut bench = Bench::start(&binary, connections, shape)?;
    bench.run(10_000)?;
    let read = |bench: &Bench| -> Result<f64> {
        bench.proxy.metric(ALLOCATIONS, "")?.with_context(|| {
            format!(
                "{} has no metric {ALLOCATIONS}: build it with --features count-allocations",
                binary.display()
            )
        })
    };
    // What reading the metric itself costs is the difference of two readings with nothing between them; what the process does
    // besides, such as looking for changed files, is what it does in as long a time without requests.
    read(&bench)?;
    let idle = read(&bench)?;
    let before = read(&bench)?;
    let began = Instant::now();
    bench.run(REQUESTS)?;
    let after = read(&bench)?;
    std::thread::sleep(began.elapsed());
    let rested = read(&bench)?;
    let (reading, besides) = (before - idle, (rested - after) - (before - idle));
    let count = (after - before) - reading - besides;
    let per_request = count / REQUESTS as f64;
    Ok(json!({
        "gate": "allocations",
        "request": shape.name,
        "connections": connections,
        "per_request": per_request,
        "count": count,
        "reading_costs": reading,
        "besides": besides,
        "limit": MOST_ALLOCATIONS,
        // A counter that stands still would pass anything: the admin request alone allocates.
        "pass": per_request < MOST_ALLOCATIONS && before > idle,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_has_a_count_per_call_with_and_without_an_error_column() {
        let text = "% time     seconds  usecs/call     calls    errors syscall\n\
                    ------ ----------- ----------- --------- --------- ----------------\n\
                     57.85    0.953669          23     40000           sendto\n\
                      0.00    0.000000           0        69         5 accept4\n\
                    100.00    1.648481          20     81162         5 total\n";
        assert_eq!(parse_summary(text), [("sendto".to_owned(), 40_000), ("accept4".to_owned(), 69)]);
    }
}
