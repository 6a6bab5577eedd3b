//! Running a load against a proxy, and reading what it reports. A load that saw one wrong answer is an error.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use super::peers::{Peer, Programs, Source};
use super::proxy::{Process, Proxy};
use super::scenario::{Back, Front, Scenario};
use super::{cpu, stop};
use crate::process::cpu_nanos;

/// A load that takes longer has hung.
const LIMIT: Duration = Duration::from_secs(120);

/// What a load reports: one JSON object, the same for all loads.
#[derive(Debug, Default, Deserialize)]
pub struct Report {
    /// Requests that were measured.
    pub requests: u64,
    /// Seconds that they took.
    pub seconds: f64,
    /// CPU time of the proxy for each.
    #[serde(default)]
    pub cpu_us_per_request: Option<f64>,
    /// Microseconds that clients waited, by percentile.
    #[serde(default)]
    pub latency_us: BTreeMap<String, f64>,
    /// Memory of the proxy, if it was asked for.
    #[serde(default)]
    pub memory: Option<Memory>,
    /// Requests that failed where that is a figure: while the configuration changed.
    #[serde(default)]
    pub failed: u64,
    /// Milliseconds from a change to the first request at the new endpoints, by percentile.
    #[serde(default)]
    pub first_new_ms: BTreeMap<String, f64>,
}

/// Memory of the proxy for what the load holds.
#[derive(Debug, Default, Deserialize)]
pub struct Memory {
    /// Bytes for each of what is counted.
    pub per_connection: f64,
}

/// How much a load is to do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Amount {
    /// Requests that count; `None` if the arguments say so.
    pub requests: Option<u64>,
    /// Requests a second, if they are not sent as soon as answers are in.
    pub rate: Option<f64>,
}

impl Amount {
    /// Requests before those that count: a sixth of them, unless the scenario needs more.
    fn warmup(self, scenario: &Scenario) -> Option<u64> {
        self.requests.map(|requests| requests.div_ceil(6).max(scenario.warmup))
    }
}

/// The backend in a process of its own, on `cpus`, once it listens on `addresses`. What it complains of goes to `folder`.
///
/// # Errors
/// If it cannot be started.
pub fn backend(
    addresses: &[SocketAddr],
    folder: &Path,
    programs: &Programs,
    cpus: &[usize],
) -> Result<Process> {
    let mut command = Command::new(program("backend", programs)?);
    command.args(addresses.iter().map(SocketAddr::to_string)).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(File::create(folder.join("backend.err"))?);
    let backend = Process(cpu::on(cpus, || command.spawn())??);
    let deadline = Instant::now() + Duration::from_secs(10);
    for address in addresses {
        while TcpStream::connect(address).is_err() {
            stop::check()?;
            ensure!(Instant::now() < deadline, "the backend does not listen");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    Ok(backend)
}

/// Runs the load of `scenario` on `cpus`.
///
/// # Errors
/// If it fails, saw a wrong answer, or does not end.
pub fn run(
    scenario: &Scenario,
    programs: &Programs,
    peer: &Peer,
    proxy: &Proxy,
    amount: Amount,
    cpus: &[usize],
) -> Result<Report> {
    if scenario.tool == "h2load" {
        return h2load(scenario, programs, proxy, amount, cpus);
    }
    let program = program(scenario.program(), programs)?;
    let mut command = Command::new(program);
    command.args(["--target", &format!("127.0.0.1:{}", proxy.port), "--pid", &proxy.pid().to_string()]);
    for backend in proxy.backends() {
        command.args(["--backend", &backend.to_string()]);
    }
    let ca = proxy.folder().join("ca.pem");
    command.args(scenario.args.iter().map(|arg| if *arg == "@CA@" { ca.clone() } else { arg.into() }));
    if let (Some(requests), Some(warmup)) = (amount.requests, amount.warmup(scenario)) {
        command.args(["--requests", &requests.to_string(), "--warmup", &warmup.to_string()]);
    }
    if let Some(rate) = amount.rate {
        command.args(["--rate", &rate.to_string()]);
    }
    if scenario.program() == "loadgen" && scenario.front.is_http() && !peer.is_relay() {
        command.arg("--expect-forwarded");
    }
    let said = finish(command, proxy.folder(), cpus)?;
    serde_json::from_str(&said).with_context(|| format!("no report: {}", start_of(&said)))
}

/// The program of a load.
///
/// # Errors
/// If it is not there.
pub fn program(tool: &str, programs: &Programs) -> Result<PathBuf> {
    let source = if tool == "h2load" { Source::System } else { Source::Tree };
    programs.find(tool, source).with_context(|| format!("{tool} is missing"))
}

/// What `command`, run on `cpus`, says on its standard output, once it ended well.
///
/// # Errors
/// What it said if it did not.
pub fn finish(mut command: Command, folder: &Path, cpus: &[usize]) -> Result<String> {
    let (out, error) = (folder.join("load.out"), folder.join("load.err"));
    command.env("RUST_BACKTRACE", "0").stdin(Stdio::null());
    command.stdout(File::create(&out)?).stderr(File::create(&error)?);
    let mut process = Process(cpu::on(cpus, || command.spawn())?.context("cannot start the load")?);
    let deadline = Instant::now() + LIMIT;
    let status = loop {
        if let Some(status) = process.0.try_wait()? {
            break status;
        }
        stop::check()?;
        ensure!(Instant::now() < deadline, "the load does not end");
        std::thread::sleep(Duration::from_millis(4));
    };
    let said = fs::read_to_string(&out)?;
    if !status.success() {
        bail!("{}", failure(&said, &fs::read_to_string(&error)?));
    }
    Ok(said)
}

/// What is wrong, in a line: the errors of a report, or what was said.
fn failure(said: &str, error: &str) -> String {
    let report: Value = serde_json::from_str(said).unwrap_or_default();
    let parts =
        ["errors", "backend_faults", "wrong", "backend_wrong", "resumed_handshakes", "full_handshakes"];
    let parts: Vec<_> = parts
        .iter()
        .filter_map(|part| report.get(part).map(|value| (part, value)))
        .filter(|(_, value)| ![Value::from(0), json!({}), json!([])].contains(value))
        .map(|(part, value)| format!("{part}: {value}"))
        .collect();
    let parts = parts.join(", ");
    start_of(if parts.is_empty() { if error.is_empty() { said } else { error } } else { &parts })
}

fn start_of(text: &str) -> String {
    text.trim().chars().take(400).collect()
}

/// `h2load` asserts little by itself: every status, and the bytes of all bodies together, are checked here; each request by
/// the backend.
fn h2load(
    scenario: &Scenario,
    programs: &Programs,
    proxy: &Proxy,
    amount: Amount,
    cpus: &[usize],
) -> Result<Report> {
    ensure!(scenario.back == Back::Http1, "the backend speaks HTTP/1.1");
    let mut backend = backend(&proxy.backends(), proxy.folder(), programs, cpus)?;
    let (Some(requests), Some(warmup)) = (amount.requests, amount.warmup(scenario)) else {
        bail!("no requests")
    };
    let h2load = program("h2load", programs)?;
    let load = |requests: u64| -> Result<Report> {
        let scheme = if scenario.front == Front::Https2 { "https" } else { "http" };
        let mut command = Command::new(&h2load);
        command.args(["-n", &requests.to_string()]).args(scenario.args);
        command.arg(format!("--connect-to=127.0.0.1:{}", proxy.port));
        command.arg(format!("{scheme}://bench.test:{}/", proxy.port));
        let said = finish(command, proxy.folder(), cpus)?;
        h2load_report(&said, requests).with_context(|| format!("h2load: {}", start_of(&said)))
    };
    load(warmup.max(1_000))?;
    let before = cpu_nanos(proxy.pid())?;
    let mut report = load(requests)?;
    let used = cpu_nanos(proxy.pid())? - before;
    report.cpu_us_per_request = Some(used as f64 / 1_000.0 / requests as f64);
    if let Some(status) = backend.0.try_wait()? {
        let said = fs::read_to_string(proxy.folder().join("backend.err"))?;
        bail!("the backend ended ({status}): {}", start_of(&said));
    }
    Ok(report)
}

/// What `h2load` says of `requests`, each of which had to be answered by 200 and 13 bytes.
fn h2load_report(said: &str, requests: u64) -> Result<Report> {
    let line = |start: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix(start));
        line.with_context(|| format!("no line {start:?}"))
    };
    let before = |text: &str, word: &str| {
        let number = text.split(", ").find_map(|part| part.trim().strip_suffix(word));
        number.and_then(|number| number.trim().parse::<u64>().ok()).with_context(|| format!("no {word:?}"))
    };
    let outcome = line("requests: ")?;
    ensure!(before(outcome, " succeeded")? == requests, "not all succeeded: {outcome}");
    let codes = line("status codes: ")?;
    ensure!(before(codes, " 2xx")? == requests, "not all were 2xx: {codes}");
    let traffic = line("traffic: ")?;
    let data = traffic.rsplit_once("(").and_then(|(_, rest)| rest.strip_suffix(") data"));
    ensure!(data == Some((requests * 13).to_string().as_str()), "not the bytes of all bodies: {traffic}");
    let seconds = line("finished in ")?.split(',').next().and_then(seconds).context("no time")?;
    let times: Vec<&str> = line("time for request: ")?.split_whitespace().collect();
    // Minimum, maximum, mean: there are no percentiles.
    let mut latency_us = BTreeMap::new();
    if let Some(longest) = times.get(1).copied().and_then(self::seconds) {
        latency_us.insert("max".to_owned(), longest * 1e6);
    }
    Ok(Report { requests, seconds, latency_us, ..Report::default() })
}

/// `1.20s`, `35.1ms` or `870us` in seconds.
fn seconds(text: &str) -> Option<f64> {
    let text = text.trim();
    let (number, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic())?);
    let scale = match unit {
        "s" => 1.0,
        "ms" => 1e-3,
        "us" => 1e-6,
        _ => return None,
    };
    number.parse::<f64>().ok().map(|number| number * scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "starting benchmark...\n\
        finished in 412.35ms, 72753.70 req/s, 3.33MB/s\n\
        requests: 30000 total, 30000 started, 30000 done, 30000 succeeded, 0 failed, 0 errored, 0 timeout\n\
        status codes: 30000 2xx, 0 3xx, 0 4xx, 0 5xx\n\
        traffic: 1.38MB (1442432) total, 351.92KB (360362) headers (space savings 93.10%), 380.86KB (390000) data\n\
        \x20                    min         max         mean         sd        +/- sd\n\
        time for request:      412us     21.30ms      6.92ms      1.20ms    81.11%\n\
        time for connect:      128us       943us       512us       231us    62.50%\n";

    #[test]
    fn what_h2load_says_is_read() {
        let report = h2load_report(SAID, 30_000).unwrap();
        assert!((report.seconds - 0.41235).abs() < 1e-9);
        assert_eq!(report.latency_us, BTreeMap::from([("max".to_owned(), 21_300.0)]));
    }

    #[test]
    fn one_missing_answer_or_byte_is_an_error() {
        assert!(h2load_report(SAID, 30_001).is_err());
        let failed = SAID.replace("30000 succeeded, 0 failed", "29999 succeeded, 1 failed");
        assert!(h2load_report(&failed, 30_000).is_err());
        let other = SAID.replace("30000 2xx, 0 3xx", "29999 2xx, 1 3xx");
        assert!(h2load_report(&other, 30_000).is_err());
        let short = SAID.replace("(390000) data", "(389987) data");
        assert!(h2load_report(&short, 30_000).is_err());
    }

    #[test]
    fn times_have_units() {
        assert_eq!(seconds("1.20s"), Some(1.2));
        assert_eq!(seconds("870us"), Some(870.0 * 1e-6));
        assert_eq!(seconds("870"), None);
    }

    #[test]
    fn a_report_is_read_with_and_without_memory() {
        let said = r#"{"requests": 5, "good": true, "errors": {}, "seconds": 0.5, "per_second": 10.0,
            "latency_us": {"p50": 1, "p99": 2, "max": 3}, "cpu_us_per_request": 12.5, "cpu_share": 0.1, "memory": null}"#;
        let report: Report = serde_json::from_str(said).unwrap();
        assert_eq!(report.cpu_us_per_request, Some(12.5));
        assert_eq!(report.latency_us.get("p99"), Some(&2.0));
        let with = said.replace("null", r#"{"before": 1, "after": 21, "per_connection": 4.0}"#);
        let report: Report = serde_json::from_str(&with).unwrap();
        assert_eq!(report.memory.map(|memory| memory.per_connection), Some(4.0));
    }

    #[test]
    fn a_failure_is_told_by_the_errors_of_the_report() {
        let said = r#"{"requests": 4, "errors": {"status 502": 1}, "backend_faults": {}, "wrong": 0}"#;
        assert_eq!(failure(said, ""), r#"errors: {"status 502":1}"#);
        assert_eq!(
            failure("", "Error: 3 requests failed during warm-up\n"),
            "Error: 3 requests failed during warm-up"
        );
    }
}
