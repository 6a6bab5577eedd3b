//! One measurement: a proxy is started, loaded and ended, and what it cost is judged.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::cpu::{Interval, Moment};
use super::load::{self, Amount, Report};
use super::peers::{Peer, Programs};
use super::probe::{Probe, is_slow};
use super::proxy::{Prepared, Proxy};
use super::record::{Outcome, Sample, Unit};
use super::scenario::{CHANGE, HOSTS, MEMORY, START, Scenario, Table};
use super::stop;
use crate::process::{cpu_nanos, pss_bytes};
use crate::tls::NAME;

/// More than these shares of all CPU time taken by the host, or by anything but the proxy and its load: it does not count.
const STEAL: f64 = 0.01;
const OTHERS: f64 = 0.05;
/// A load that sends less than this share of the requests that are due measures itself.
const KEPT: f64 = 0.98;

/// CPUs of the proxy, and of load and backends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// The proxy's.
    pub proxy: Vec<usize>,
    /// The load's.
    pub load: Vec<usize>,
}

impl Placement {
    /// All of them, each once.
    #[must_use]
    pub fn all(&self) -> Vec<usize> {
        let all: BTreeSet<usize> = self.proxy.iter().chain(&self.load).copied().collect();
        all.into_iter().collect()
    }
}

/// Measures `peer` as soon as `probe` finds the CPUs as quick as ever, if it need not wait for long. What goes wrong is an outcome too, unless the comparison was told to end.
///
/// # Errors
/// If it was.
pub fn measure(
    scenario: &Scenario,
    programs: &Programs,
    peer: &Peer,
    amount: Amount,
    workers: usize,
    place: &Placement,
    probe: &mut Probe,
) -> Result<Outcome> {
    let cpus = place.all();
    // Memory is the same on a slow CPU.
    let before = if scenario.unit == Unit::BytesEach { 0.0 } else { probe.wait(&cpus)? };
    match sample(scenario, programs, peer, amount, workers, place) {
        Ok(mut sample) => {
            sample.slowness = probe.slowest(cpus)?.max(before);
            Ok(judge(sample, scenario.unit, amount))
        }
        Err(error) => {
            stop::check()?;
            Ok(Outcome::Failed(format!("{error:#}")))
        }
    }
}

fn sample(
    scenario: &Scenario,
    programs: &Programs,
    peer: &Peer,
    amount: Amount,
    workers: usize,
    place: &Placement,
) -> Result<Sample> {
    let program = programs.of(peer).context("it is gone")?;
    match scenario.tool {
        CHANGE => change(scenario, programs, peer, &program, place),
        START => start(scenario, programs, peer, &program, workers, place),
        MEMORY => {
            let small = Scenario { table: Table::One, ..*scenario };
            let before = loaded(&small, programs, peer, &program, amount, workers, place)?.1;
            let (mut sample, after) = loaded(scenario, programs, peer, &program, amount, workers, place)?;
            sample.figure = (after as f64 - before as f64) / HOSTS as f64;
            Ok(sample)
        }
        _ => Ok(loaded(scenario, programs, peer, &program, amount, workers, place)?.0),
    }
}

/// A sample, and the memory of the proxy at its end.
fn loaded(
    scenario: &Scenario,
    programs: &Programs,
    peer: &Peer,
    program: &Path,
    amount: Amount,
    workers: usize,
    place: &Placement,
) -> Result<(Sample, u64)> {
    let proxy = Proxy::start(peer, program, scenario, workers, &place.proxy)?;
    let (before, used_before) = (Moment::now()?, cpu_nanos(proxy.pid())?);
    let report = load::run(scenario, programs, peer, &proxy, amount, &place.load)?;
    let used = (cpu_nanos(proxy.pid())? - used_before) as f64 / 1e9;
    let interval = Moment::now()?.since(&before);
    let figure = if scenario.tool == MEMORY { Some(0.0) } else { figure(scenario, &report) };
    let figure = figure.context("the load reports no figure")?;
    let sample = Sample {
        figure,
        requests: report.requests,
        seconds: report.seconds,
        proxy_cpu: report.cpu_us_per_request.map_or(used, |each| each * report.requests as f64 / 1e6),
        load_idle: idle(&interval, place.load.len()),
        steal: interval.steal,
        others: interval.others(used),
        slowness: 0.0,
        latency: report.latency_us,
    };
    Ok((sample, pss_bytes(proxy.pid())?))
}

/// The time from the start of the process to its first answer for the last host. All hosts must answer then.
fn start(
    scenario: &Scenario,
    programs: &Programs,
    peer: &Peer,
    program: &Path,
    workers: usize,
    place: &Placement,
) -> Result<Sample> {
    let prepared = Prepared::new(peer, program, scenario, workers)?;
    let backend = load::backend(&prepared.backends(), prepared.folder(), programs, &place.load)?;
    let (before, begin) = (Moment::now()?, Instant::now());
    let mut proxy = prepared.spawn(&place.proxy)?;
    proxy.answers(&format!("h{}.{NAME}", HOSTS - 1))?;
    let elapsed = begin.elapsed();
    let used = cpu_nanos(proxy.pid())? as f64 / 1e9;
    drop(backend);
    let interval = Moment::now()?.since(&before);
    let report =
        load::run(scenario, programs, peer, &proxy, Amount { requests: None, rate: None }, &place.load)?;
    Ok(Sample {
        figure: elapsed.as_secs_f64() * 1e3,
        requests: report.requests,
        seconds: elapsed.as_secs_f64(),
        proxy_cpu: used,
        load_idle: idle(&interval, place.load.len()),
        steal: interval.steal,
        others: interval.others(used),
        slowness: 0.0,
        latency: BTreeMap::new(),
    })
}

/// The time from a change to its effect, under load. The load starts the proxy itself, and tells it.
fn change(
    scenario: &Scenario,
    programs: &Programs,
    peer: &Peer,
    program: &Path,
    place: &Placement,
) -> Result<Sample> {
    let folder = tempfile::TempDir::with_prefix("compare-")?;
    let mut command = Command::new(load::program(scenario.tool, programs)?);
    command.args(["--peer", peer.name, "--binary"]).arg(program).args(scenario.args);
    for cpu in &place.proxy {
        command.args(["--proxy-cpus", &cpu.to_string()]);
    }
    let before = Moment::now()?;
    let said = load::finish(command, folder.path(), &place.load)?;
    let interval = Moment::now()?.since(&before);
    let report: Report = serde_json::from_str(&said)?;
    let figure = figure(scenario, &report).context("the load reports no figure")?;
    let (failed, all) = (report.failed, report.requests + report.failed);
    ensure!(
        failed == 0,
        "{failed} of {all} requests failed; the new endpoints were reached after {figure:.0} ms"
    );
    let each = report.cpu_us_per_request.unwrap_or(0.0);
    Ok(Sample {
        figure,
        requests: report.requests,
        seconds: report.seconds,
        proxy_cpu: each * report.requests as f64 / 1e6,
        load_idle: idle(&interval, place.load.len() + place.proxy.len()),
        steal: interval.steal,
        // The proxy ended with the load, of which it was a child.
        others: interval.others(0.0),
        slowness: 0.0,
        latency: report.latency_us,
    })
}

/// Share of the time in which the load did nothing.
fn idle(interval: &Interval, cpus: usize) -> f64 {
    (1.0 - interval.ended / (interval.seconds * cpus as f64)).clamp(0.0, 1.0)
}

fn figure(scenario: &Scenario, report: &Report) -> Option<f64> {
    match scenario.unit {
        Unit::CpuMicrosPerRequest => report.cpu_us_per_request,
        Unit::CpuMillisPerGigabyte => {
            report.cpu_us_per_request.map(|each| each * 1e6 / scenario.bytes as f64)
        }
        Unit::BytesEach => report.memory.as_ref().map(|memory| memory.per_connection),
        Unit::LatencyMicros => report.latency_us.get("p99").copied(),
        Unit::Millis => report.first_new_ms.get("p50").copied(),
    }
}

/// Whether the machine got in the way: another time may be better.
#[must_use]
pub fn is_disturbed(sample: &Sample) -> bool {
    sample.steal > STEAL || sample.others > OTHERS || is_slow(sample.slowness)
}

fn judge(sample: Sample, unit: Unit, amount: Amount) -> Outcome {
    let rate = sample.requests as f64 / sample.seconds;
    // Memory is the same however busy the machine is.
    let reason = if unit == Unit::BytesEach {
        return Outcome::Good(sample);
    } else if sample.steal > STEAL {
        format!("the host took {:.1} % of the CPU time", sample.steal * 100.0)
    } else if sample.others > OTHERS {
        format!("something else used {:.1} % of the CPU time", sample.others * 100.0)
    } else if is_slow(sample.slowness) {
        format!("a CPU was {:.0} % slower than at its best", sample.slowness * 100.0)
    } else if let Some(wanted) = amount.rate.filter(|wanted| rate < wanted * KEPT) {
        format!("{rate:.0} of {wanted:.0} requests a second")
    } else {
        return Outcome::Good(sample);
    };
    Outcome::ThrownAway(sample, reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::scenario;

    const TIME: Unit = Unit::CpuMicrosPerRequest;
    const CLOSED: Amount = Amount { requests: Some(10), rate: None };

    fn sample(steal: f64, others: f64) -> Sample {
        Sample {
            figure: 1.0,
            requests: 1_000,
            seconds: 1.0,
            proxy_cpu: 0.1,
            load_idle: 0.0,
            steal,
            others,
            slowness: 0.0,
            latency: BTreeMap::new(),
        }
    }

    #[test]
    fn a_quiet_machine_counts() {
        assert!(matches!(judge(sample(0.009, 0.04), TIME, CLOSED), Outcome::Good(_)));
    }

    #[test]
    fn what_others_took_is_thrown_away_with_its_reason() {
        let Outcome::ThrownAway(_, reason) = judge(sample(0.02, 0.0), TIME, CLOSED) else {
            panic!("it counts")
        };
        assert_eq!(reason, "the host took 2.0 % of the CPU time");
        let Outcome::ThrownAway(_, reason) = judge(sample(0.0, 0.2), TIME, CLOSED) else {
            panic!("it counts")
        };
        assert_eq!(reason, "something else used 20.0 % of the CPU time");
    }

    #[test]
    fn what_a_slow_cpu_did_is_thrown_away_and_may_be_better_another_time() {
        let slow = Sample { slowness: 0.23, ..sample(0.0, 0.0) };
        assert!(is_disturbed(&slow));
        let Outcome::ThrownAway(_, reason) = judge(slow, TIME, CLOSED) else { panic!("it counts") };
        assert_eq!(reason, "a CPU was 23 % slower than at its best");
    }

    #[test]
    fn memory_counts_on_a_busy_machine() {
        assert!(matches!(judge(sample(0.1, 0.9), Unit::BytesEach, CLOSED), Outcome::Good(_)));
    }

    #[test]
    fn a_rate_that_is_not_kept_does_not_count() {
        let kept = Amount { requests: Some(1_000), rate: Some(1_010.0) };
        assert!(matches!(judge(sample(0.0, 0.0), TIME, kept), Outcome::Good(_)));
        let missed = Amount { requests: Some(1_000), rate: Some(2_000.0) };
        let Outcome::ThrownAway(_, reason) = judge(sample(0.0, 0.0), TIME, missed) else {
            panic!("it counts")
        };
        assert_eq!(reason, "1000 of 2000 requests a second");
    }

    #[test]
    fn a_figure_is_in_the_unit_of_its_scenario() {
        let report = Report {
            cpu_us_per_request: Some(67.108_864),
            latency_us: BTreeMap::from([("p99".to_owned(), 900.0)]),
            ..Report::default()
        };
        let figure = |name| figure(scenario::find(name).unwrap(), &report).unwrap();
        assert!((figure("small-get") - 67.108_864).abs() < 1e-9);
        assert!((figure("tcp-bulk") - 1.0).abs() < 1e-9);
        assert!((figure("latency") - 900.0).abs() < 1e-9);
        assert!(super::figure(scenario::find("idle-10k").unwrap(), &report).is_none());
    }
}
