//! What one access log line costs a worker, in nanoseconds of its thread's CPU time, and what it costs the
//! process with the writer thread. Every line is read back and checked.
//!
//! `cargo run --release -p benches --bin access_log -- [--lines N]`

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, SystemTime};

use anyhow::{Context, ensure};
use clap::Parser;
use gateway::access_log::{AccessLog, Destination, Format};
use gateway::record::{Reason, Record, Version};
use rustix::time::{ClockId, clock_gettime};

/// Measures the access log.
#[derive(Debug, Parser)]
struct Arguments {
    /// Lines per format.
    #[arg(long, default_value_t = 500_000)]
    lines: u64,
}

/// Lines between two looks at the clock; they fit into one buffer, so no hand-over ever finds none free.
const BATCH: u64 = 100;

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    for (name, format) in [("json", Format::Json), ("combined", Format::Combined)] {
        let result = run(format, arguments.lines).context(name)?;
        println!("{{\"format\":\"{name}\",\"lines\":{},{result}}}", arguments.lines);
    }
    Ok(())
}

fn run(format: Format, lines: u64) -> anyhow::Result<String> {
    let file = tempfile::NamedTempFile::new()?;
    let log = AccessLog::start(format, Destination::File(file.path().to_owned()), 1)?;
    let mut worker = log.worker(0);
    let process = cpu(ClockId::ProcessCPUTime);
    let mut thread = Duration::ZERO;
    let mut done = 0;
    while done < lines {
        let wall = SystemTime::now();
        let begin = cpu(ClockId::ThreadCPUTime);
        for number in done..lines.min(done + BATCH) {
            worker.write(&record(number), wall);
        }
        worker.flush();
        thread += cpu(ClockId::ThreadCPUTime) - begin;
        done = lines.min(done + BATCH);
        // What is measured is the worker, not a disk that is slower than a loop without any request in it.
        while log.stats().written_lines() + 1_000 < done {
            std::thread::sleep(Duration::from_micros(50));
        }
    }
    drop(worker);
    let dropped = log.stats().dropped_lines();
    let bytes = log.stats().written_bytes();
    ensure!(log.close(Duration::from_secs(30)), "the writer did not finish");
    let process = cpu(ClockId::ProcessCPUTime) - process;
    ensure!(dropped == 0, "{dropped} lines were dropped");
    check(format, file.path(), lines)?;
    let per_line = |time: Duration| time.as_nanos() as f64 / lines as f64;
    Ok(format!(
        "\"bytes_per_line\":{},\"worker_ns_per_line\":{:.0},\"process_ns_per_line\":{:.0}",
        bytes / lines,
        per_line(thread),
        per_line(process)
    ))
}

fn check(format: Format, path: &std::path::Path, lines: u64) -> anyhow::Result<()> {
    let mut count = 0;
    for line in BufReader::new(std::fs::File::open(path)?).lines() {
        let line = line?;
        match format {
            Format::Json => {
                let value: serde_json::Value = serde_json::from_str(&line)?;
                ensure!(value.get("duration_us").and_then(serde_json::Value::as_u64) == Some(count % 10_000));
                ensure!(value.get("path").and_then(serde_json::Value::as_str) == Some(TARGET));
            }
            _ => ensure!(
                line.starts_with("192.0.2.77 - - [")
                    && line.ends_with(
                        "\"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\""
                    ),
                "{line}"
            ),
        }
        count += 1;
    }
    ensure!(count == lines, "{count} lines arrived");
    Ok(())
}

const TARGET: &str = "/catalogue/shoes/running?page=2&sort=price&colour=red";

fn record(number: u64) -> Record<'static> {
    Record {
        client: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 77)),
        method: b"GET",
        host: b"shop.example.com",
        target: TARGET.as_bytes(),
        version: Version::Http11,
        request_id: b"3f6c1b7e9a0d4c52b8e1f00d5eedcafe",
        user_agent: b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
        referer: b"https://shop.example.com/catalogue/shoes",
        status: 200,
        reason: Reason::Forwarded,
        route: Some("ingress/shop/web"),
        backend: Some("shop/catalogue:8080"),
        endpoint: Some(SocketAddr::from(([10, 244, 3, 17], 8080))),
        attempts: 1,
        request_bytes: 0,
        response_bytes: 18_231,
        duration: Duration::from_micros(number % 10_000),
        response_head: Some(Duration::from_micros(number % 10_000)),
    }
}

fn cpu(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or_default(),
        u32::try_from(time.tv_nsec).unwrap_or_default(),
    )
}
