//! One measurement: a proxy is loaded, and what it cost is judged.

use std::collections::BTreeMap;
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

/// Rounds of a scenario on the same CPUs. Unless each measurement needs a proxy that is new, all proxies are started once
/// and stay, and the load goes from one to the next: what a start leaves behind (cold caches, memory that is still being
/// zeroed) is in no figure, and the same processes are compared in every round.
#[derive(Debug)]
pub struct Block<'a> {
    scenario: &'a Scenario,
    programs: &'a Programs,
    workers: usize,
    /// Where they run.
    pub place: Placement,
    running: BTreeMap<&'static str, Proxy>,
}

impl<'a> Block<'a> {
    /// Nothing runs yet.
    #[must_use]
    pub fn new(scenario: &'a Scenario, programs: &'a Programs, workers: usize, place: Placement) -> Self {
        Self { scenario, programs, workers, place, running: BTreeMap::new() }
    }

    /// Measures `peer` as soon as `probe` finds the CPUs as quick as ever, if it need not wait for long. What goes wrong is
    /// an outcome too, unless the comparison was told to end.
    ///
    /// # Errors
    /// If it was.
    pub fn measure(&mut self, peer: &'static Peer, amount: Amount, probe: &mut Probe) -> Result<Outcome> {
        let unit = self.scenario.unit;
        // Memory is the same on a slow CPU.
        let before = if unit == Unit::BytesEach { 0.0 } else { probe.wait()? };
        match self.sample(peer, amount) {
            Ok(mut sample) => {
                sample.slowness = probe.slowness()?.max(before);
                Ok(judge(sample, unit, amount))
            }
            Err(error) => {
                stop::check()?;
                // Whatever state it is in, the next round is not to suffer from it.
                self.running.remove(peer.name);
                Ok(Outcome::Failed(format!("{error:#}")))
            }
        }
    }

    fn sample(&mut self, peer: &'static Peer, amount: Amount) -> Result<Sample> {
        let program = self.programs.of(peer).context("it is gone")?;
        match self.scenario.tool {
            CHANGE => self.change(peer, &program),
            START => self.start(peer, &program),
            MEMORY => {
                let small = Scenario { table: Table::One, ..*self.scenario };
                let before = self.fresh(&small, peer, &program, amount)?.1;
                let (mut sample, after) = self.fresh(self.scenario, peer, &program, amount)?;
                sample.figure = (after as f64 - before as f64) / HOSTS as f64;
                Ok(sample)
            }
            _ if self.scenario.needs_new_proxies() => {
                Ok(self.fresh(self.scenario, peer, &program, amount)?.0)
            }
            _ => {
                if !self.running.contains_key(peer.name) {
                    let proxy = Proxy::start(peer, &program, self.scenario, self.workers, &self.place.proxy)?;
                    self.running.insert(peer.name, proxy);
                }
                let proxy = self.running.get(peer.name).context("it does not run")?;
                self.loaded(self.scenario, peer, proxy, amount)
            }
        }
    }

    /// A sample of a proxy that is started for it, and its memory at the end.
    fn fresh(
        &self,
        scenario: &Scenario,
        peer: &Peer,
        program: &Path,
        amount: Amount,
    ) -> Result<(Sample, u64)> {
        let proxy = Proxy::start(peer, program, scenario, self.workers, &self.place.proxy)?;
        let sample = self.loaded(scenario, peer, &proxy, amount)?;
        Ok((sample, pss_bytes(proxy.pid())?))
    }

    fn loaded(&self, scenario: &Scenario, peer: &Peer, proxy: &Proxy, amount: Amount) -> Result<Sample> {
        let (before, used_before) = (Moment::now()?, cpu_nanos(proxy.pid())?);
        let report = load::run(scenario, self.programs, peer, proxy, amount, &self.place.load)?;
        let used = (cpu_nanos(proxy.pid())? - used_before) as f64 / 1e9;
        let interval = Moment::now()?.since(&before);
        let figure = if scenario.tool == MEMORY { Some(0.0) } else { figure(scenario, &report) };
        Ok(Sample {
            figure: figure.context("the load reports no figure")?,
            requests: report.requests,
            seconds: report.seconds,
            proxy_cpu: report.cpu_us_per_request.map_or(used, |each| each * report.requests as f64 / 1e6),
            load_idle: idle(&interval, self.place.load.len()),
            steal: interval.steal,
            others: interval.others(used),
            slowness: 0.0,
            latency: report.latency_us,
        })
    }

    /// The time from the start of the process to its first answer for the last host. All hosts must answer then.
    fn start(&self, peer: &Peer, program: &Path) -> Result<Sample> {
        let prepared = Prepared::new(peer, program, self.scenario, self.workers)?;
        let backend =
            load::backend(&prepared.backends(), prepared.folder(), self.programs, &self.place.load)?;
        let (before, begin) = (Moment::now()?, Instant::now());
        let mut proxy = prepared.spawn(&self.place.proxy)?;
        proxy.answers(&format!("h{}.{NAME}", HOSTS - 1))?;
        let elapsed = begin.elapsed();
        let used = cpu_nanos(proxy.pid())? as f64 / 1e9;
        drop(backend);
        let amount = Amount { requests: None, rate: None };
        let report = load::run(self.scenario, self.programs, peer, &proxy, amount, &self.place.load)?;
        // Who else had the CPUs is judged with the load after it: a start may be shorter than a tick of the clock.
        let all = cpu_nanos(proxy.pid())? as f64 / 1e9;
        let interval = Moment::now()?.since(&before);
        Ok(Sample {
            figure: elapsed.as_secs_f64() * 1e3,
            requests: report.requests,
            seconds: elapsed.as_secs_f64(),
            proxy_cpu: used,
            load_idle: idle(&interval, self.place.load.len()),
            steal: interval.steal,
            others: interval.others(all),
            slowness: 0.0,
            latency: BTreeMap::new(),
        })
    }

    /// The time from a change to its effect, under load. The load starts the proxy itself, and tells it.
    fn change(&self, peer: &Peer, program: &Path) -> Result<Sample> {
        let (scenario, place) = (self.scenario, &self.place);
        let folder = tempfile::TempDir::with_prefix("compare-")?;
        let mut command = Command::new(load::program(scenario.tool, self.programs)?);
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
        format!("the CPUs were {:.0} % slower than at their best", sample.slowness * 100.0)
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
    fn what_slow_cpus_did_is_thrown_away_and_may_be_better_another_time() {
        let slow = Sample { slowness: 0.23, ..sample(0.0, 0.0) };
        assert!(is_disturbed(&slow));
        let Outcome::ThrownAway(_, reason) = judge(slow, TIME, CLOSED) else { panic!("it counts") };
        assert_eq!(reason, "the CPUs were 23 % slower than at their best");
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
