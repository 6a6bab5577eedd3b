//! Changes of configuration under load: a proxy is told again and again of other endpoints, while requests come at a fixed rate
//! whatever the answers do. Measures what that costs clients (failed requests), how long it takes (to the first request at the new
//! endpoints and to the last at the old ones), and the CPU time. Endpoints and load are one thread.
//!
//! A failed request is a figure here: an answer that is an error, or none. A wrong answer ends the run without a figure.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use benches::backend::{Backend, Reuse};
use benches::engine::Engine;
use benches::load::{Load, Outcome, Pace, Plan};
use benches::peer::{self, Running};
use benches::process;
use benches::report::{Measured, quantiles};
use clap::Parser;
use serde_json::json;

/// Tells a proxy of other endpoints under load, and measures what comes of it. Prints one JSON object; exits 1 if an answer was
/// wrong or a change was not taken up.
#[derive(Parser)]
struct Args {
    /// The proxy that is started: sluicegate, nginx, nginx-new, haproxy, envoy, traefik or caddy.
    #[arg(long, requires = "binary", conflicts_with_all = ["target", "backend", "other", "apply"])]
    peer: Option<String>,
    /// Its program.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// The CPUs that it may use; without it those that this process may.
    #[arg(long, requires = "peer", value_delimiter = ',')]
    proxy_cpus: Vec<usize>,
    /// A proxy that runs already.
    #[arg(long, required_unless_present = "peer", requires = "apply")]
    target: Option<SocketAddr>,
    /// Its endpoints at first.
    #[arg(long, required_unless_present = "peer")]
    backend: Vec<SocketAddr>,
    /// Its endpoints after the first change; after the second they are those of the beginning, and so on.
    #[arg(long, required_unless_present = "peer")]
    other: Vec<SocketAddr>,
    /// What tells it, run by `sh -c` with the endpoints in `ENDPOINTS`, separated by spaces.
    #[arg(long)]
    apply: Option<String>,
    /// Account the CPU time of this process and its descendants.
    #[arg(long)]
    pid: Option<u32>,
    /// Changes.
    #[arg(long, default_value_t = 20)]
    changes: usize,
    /// Requests per second.
    #[arg(long, default_value_t = 2_000.0)]
    rate: f64,
    /// Client connections.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Seconds without a change before the first, which tell what requests alone cost.
    #[arg(long, default_value_t = 2.0)]
    before_seconds: f64,
    /// Milliseconds without a request at the old endpoints after which a change is over.
    #[arg(long, default_value_t = 1_000)]
    settle_ms: u64,
    /// Seconds that a change may take.
    #[arg(long, default_value_t = 20)]
    change_seconds: u64,
    /// Seconds until the whole run is given up.
    #[arg(long, default_value_t = 300)]
    limit_seconds: u64,
}

/// Whom it is told, and how.
enum Told {
    Peer(Box<Running>, [u16; 2]),
    Command(String, [Vec<SocketAddr>; 2]),
}

/// One change that was taken up.
struct Change {
    first_new: Duration,
    /// `None` if no request came there any more.
    last_old: Option<Duration>,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let deadline = Instant::now() + Duration::from_secs(args.limit_seconds);
    let mut engine = Engine::new(Backend::new(13, Reuse::Serve))?;
    let (mut told, target, pid) = told(&args, &mut engine)?;
    engine.add_load(plan(&args, target))?;
    restart(&mut engine)?;
    engine.run_for(Duration::from_millis(500))?;
    restart(&mut engine)?;
    // What a request costs without changes.
    let before = Instant::now();
    let cpu = pid.map(process::cpu_nanos_with_ended).transpose()?;
    engine.run_for(Duration::from_secs_f64(args.before_seconds))?;
    let quiet =
        pid.map(process::cpu_nanos_with_ended).transpose()?.zip(cpu).map(|(after, before)| after - before);
    let quiet = quiet.map(|cpu| cpu as f64 / before.elapsed().as_nanos() as f64);
    ensure!(
        failed(outcome(&engine)?)? == 0,
        "requests fail without a change: {:?}",
        outcome(&engine)?.errors
    );

    restart(&mut engine)?;
    let cpu = pid.map(process::cpu_nanos_with_ended).transpose()?;
    let begin = Instant::now();
    let mut changes = Vec::new();
    for number in 0..args.changes {
        let change = change(&args, &mut engine, &mut told, number)?;
        changes.push(change.with_context(|| format!("change {number} was not taken up"))?);
        ensure!(Instant::now() < deadline, "not done in time, after {} changes", changes.len());
    }
    let elapsed = begin.elapsed();
    let cpu =
        pid.map(process::cpu_nanos_with_ended).transpose()?.zip(cpu).map(|(after, before)| after - before);
    engine.loads.iter_mut().for_each(Load::stop);
    engine.finish(Instant::now() + Duration::from_secs(20))?;
    ensure!(engine.backend.seen.faults.is_empty(), "wrong requests: {:?}", engine.backend.seen.faults);
    let outcome = outcome(&engine)?;
    let mut report = json!({
        "peer": args.peer,
        "way": match &told { Told::Peer(running, _) => running.way(), Told::Command(command, _) => command },
        "requests": outcome.right,
        "failed": failed(outcome)?,
        "errors": outcome.errors,
        "connections": outcome.opened,
        "changes": changes.len(),
        "first_new_ms": quantiles(&mut changes.iter().map(|change| in_millis(change.first_new)).collect::<Vec<_>>()),
        "last_old_ms": quantiles(&mut changes.iter().filter_map(|change| change.last_old).map(in_millis).collect::<Vec<_>>()),
        "cpu_ms_per_change": cpu.zip(quiet).map(|(cpu, quiet)| {
            (cpu as f64 - quiet * elapsed.as_nanos() as f64) / 1e6 / changes.len().max(1) as f64
        }),
        "good": true,
    });
    Measured {
        requests: outcome.right,
        elapsed,
        latency: &outcome.latency,
        cpu,
        memory: None,
        connections: args.connections,
    }
    .add_to(&mut report);
    println!("{report}");
    Ok(ExitCode::SUCCESS)
}

/// Starts the endpoints, and the proxy if one is to be started; where it is, and its process.
fn told(args: &Args, engine: &mut Engine) -> Result<(Told, SocketAddr, Option<u32>)> {
    let Some(name) = &args.peer else {
        let (target, apply) = args.target.zip(args.apply.clone()).context("no proxy")?;
        let sets = [args.backend.clone(), args.other.clone()];
        listen(engine, sets.iter().flatten().copied())?;
        return Ok((Told::Command(apply, sets), target, args.pid));
    };
    let mut ports = [0; 2];
    for port in &mut ports {
        *port = peer::free_endpoints()?;
        listen(engine, peer::endpoints(*port))?;
    }
    let binary = args.binary.as_ref().context("no program")?;
    let mut running = Running::start(name, binary, ports[0], &args.proxy_cpus)?;
    running.listens_within(Duration::from_secs(30))?;
    let (address, pid) = (running.address, running.pid());
    Ok((Told::Peer(Box::new(running), ports), address, Some(pid)))
}

fn listen(engine: &mut Engine, addresses: impl Iterator<Item = SocketAddr>) -> Result<()> {
    for address in addresses {
        let listening = engine.backend.listen(&engine.poller, address);
        listening.with_context(|| format!("cannot listen on {address}"))?;
    }
    Ok(())
}

/// Makes change `number` and waits until it is over; `None` if it was not taken up in time.
fn change(args: &Args, engine: &mut Engine, told: &mut Told, number: usize) -> Result<Option<Change>> {
    let to_other = number.is_multiple_of(2);
    let first = told.first();
    // At the old endpoints, and at the new.
    let counts = |engine: &Engine| -> (u64, u64) {
        let seen = &engine.backend.seen.requests;
        let (one, other) = seen.split_at(first.min(seen.len()));
        let (one, other) = (one.iter().sum(), other.iter().sum());
        if to_other { (one, other) } else { (other, one) }
    };
    let (mut old, new) = counts(engine);
    let begun = Instant::now();
    let mut command = told.tell(to_other)?;
    let (mut first_new, mut last_old) = (None, None);
    let mut quiet_since = begun;
    loop {
        engine.turn(Duration::from_millis(1))?;
        let now = Instant::now();
        let (old_now, new_now) = counts(engine);
        if old_now > old {
            old = old_now;
            last_old = Some(now - begun);
            quiet_since = now;
        }
        if new_now > new && first_new.is_none() {
            first_new = Some(now - begun);
        }
        if let Some(child) = &mut command
            && let Some(status) = child.try_wait()?
        {
            ensure!(status.success(), "the command ended: {status}");
            command = None;
        }
        match first_new {
            Some(first_new)
                if command.is_none()
                    && now - quiet_since.max(begun + first_new) > Duration::from_millis(args.settle_ms) =>
            {
                return Ok(Some(Change { first_new, last_old }));
            }
            _ if now - begun > Duration::from_secs(args.change_seconds) => return Ok(None),
            _ => {}
        }
    }
}

impl Told {
    /// How many of the endpoints are those of the beginning.
    fn first(&self) -> usize {
        match self {
            Self::Peer(_, [first, _]) => peer::endpoints(*first).count(),
            Self::Command(_, [first, _]) => first.len(),
        }
    }

    /// Tells it of the other endpoints, or of those of the beginning. The command that does it may still run.
    fn tell(&mut self, other: bool) -> Result<Option<Child>> {
        match self {
            Self::Peer(running, [first, second]) => running.change(if other { *second } else { *first }),
            Self::Command(command, [first, second]) => {
                let endpoints = if other { second } else { first };
                let endpoints: Vec<String> = endpoints.iter().map(SocketAddr::to_string).collect();
                let mut shell = Command::new("sh");
                shell.args(["-c", command]).env("ENDPOINTS", endpoints.join(" "));
                shell.stdin(Stdio::null()).stdout(Stdio::null());
                Ok(Some(shell.spawn().context("cannot run the command")?))
            }
        }
    }
}

fn restart(engine: &mut Engine) -> Result<()> {
    engine.loads.iter_mut().try_for_each(|load| load.restart(u64::MAX))
}

fn outcome(engine: &Engine) -> Result<&Outcome> {
    Ok(&engine.loads.first().context("no load")?.outcome)
}

/// Requests that got an error for an answer, or none.
///
/// # Errors
/// If there was a wrong answer.
fn failed(outcome: &Outcome) -> Result<u64> {
    for error in outcome.errors.keys() {
        ensure!(is_failure(error), "a wrong answer: {error}");
    }
    Ok(outcome.failed())
}

fn is_failure(error: &str) -> bool {
    ["end before", "recv: ", "send: ", "connect: ", "no answer in time", "status 5"]
        .iter()
        .any(|kind| error.starts_with(kind))
}

fn in_millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn plan(args: &Args, target: SocketAddr) -> Plan {
    Plan {
        target,
        tls: None,
        connections: args.connections,
        in_flight: args.connections,
        pace: Pace::Rate(args.rate),
        one_shot: false,
        requests: vec![b"GET / HTTP/1.1\r\nHost: bench.test\r\n\r\n".to_vec()],
        upload: Vec::new(),
        expect_body: 13,
        expect_status: vec![200],
        timeout: Duration::from_secs(10),
    }
}

#[cfg(test)]
mod tests {
    use super::is_failure;

    #[test]
    fn a_request_that_fails_is_a_figure_and_a_wrong_answer_is_none() {
        for failure in ["end before the answer was whole", "recv: Connection reset by peer", "status 503"] {
            assert!(is_failure(failure), "{failure}");
        }
        for wrong in
            ["body differs from the pattern", "status 404", "bytes after the answer", "body of 12 bytes"]
        {
            assert!(!is_failure(wrong), "{wrong}");
        }
    }
}
