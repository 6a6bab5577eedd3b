//! What a comparison writes down: every round of every scenario as it was measured, and the machine that it was measured
//! on. The report is made from this alone, so that it can be made again, elsewhere, from the JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One run of the comparison: `docs/benchmarks/*.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Run {
    /// The command line, as it was given.
    pub command: Vec<String>,
    /// When it began, as RFC 3339 in UTC.
    pub began: String,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Where it ran, and what.
    pub machine: Machine,
    /// In the order in which they ran.
    pub scenarios: Vec<Measured>,
    /// Peers that were asked for and are not there, each with what would install it.
    pub absent: BTreeMap<String, String>,
}

/// What a figure depends on besides the proxies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The commit of this tree; with `+` at its end if there were changes.
    pub commit: String,
    /// As `uname -r` says it.
    pub kernel: String,
    /// The model of the first CPU.
    pub cpu: String,
    /// CPUs that could be used.
    pub cpus: usize,
    /// Main memory in bytes.
    pub memory: u64,
    /// `net.ipv4.tcp_congestion_control` and the other settings that matter, by name, as they were during the run.
    pub sysctls: BTreeMap<String, String>,
    /// The version of each peer, control and load generator, by name.
    pub versions: BTreeMap<String, String>,
}

/// A scenario and its rounds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Measured {
    /// Its name, such as `small-get`.
    pub name: String,
    /// What is done, in a sentence.
    pub about: String,
    /// Workers of each proxy, and the CPUs that they have: 1, or 2 in the second mode.
    pub workers: usize,
    /// What `Sample::figure` counts.
    pub unit: Unit,
    /// Variants of our own that a claim compares (`sluicegate-one-route`), besides the ratios to relay and peers.
    pub against: Option<String>,
    /// In the order in which they ran.
    pub rounds: Vec<Round>,
}

/// What a figure counts; always such that less is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Microseconds of CPU time of the proxy for each request.
    CpuMicrosPerRequest,
    /// Milliseconds of CPU time of the proxy for each gigabyte (10⁹ bytes) that went through.
    CpuMillisPerGigabyte,
    /// Bytes of memory (PSS) for each connection, route or whatever the scenario counts.
    BytesEach,
    /// Milliseconds from a cause to its effect.
    Millis,
    /// Microseconds that a client waited, at the 99th percentile.
    LatencyMicros,
}

/// Every peer once, in one order, on one side of the machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Round {
    /// The CPUs of the proxy.
    pub proxy_cpus: Vec<usize>,
    /// The CPUs of load and backends.
    pub load_cpus: Vec<usize>,
    /// What came of each peer, in the order in which they ran. One that did not count may be followed by another of the same
    /// peer.
    pub outcomes: Vec<(String, Outcome)>,
}

/// What came of one peer in one round.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It counts.
    Good(Sample),
    /// It was measured but does not count; the reason is told with it.
    ThrownAway(Sample, String),
    /// It gave wrong answers, or none.
    Failed(String),
}

/// What one measurement gave.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sample {
    /// In the scenario's unit.
    pub figure: f64,
    /// Requests, or what the scenario counts.
    pub requests: u64,
    /// Seconds that they took.
    pub seconds: f64,
    /// CPU time of the proxy and its children in that time, in seconds.
    pub proxy_cpu: f64,
    /// Share of the time in which the load's CPUs were idle, 0 to 1.
    pub load_idle: f64,
    /// Share of all CPU time that the host took from this machine, 0 to 1.
    pub steal: f64,
    /// Share of all CPU time that neither the proxy nor its load used, 0 to 1.
    pub others: f64,
    /// How much longer than at their best the CPUs took for the same work before or after, 0 for as quick as ever.
    #[serde(default)]
    pub slowness: f64,
    /// Microseconds that a client waited, by percentile (`"p50"`, `"p99"`, `"max"`).
    pub latency: BTreeMap<String, f64>,
}
