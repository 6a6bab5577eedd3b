//! The comparison as a command: which scenarios, which peers, their rounds, what is told while it runs, and the record.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use jiff::Timestamp;

use super::machine::{self, Congestion};
use super::peers::{self, Peer, Programs, Source};
use super::probe::Probe;
use super::record::{Measured, Outcome, Round, Run, Unit};
use super::round::{BLOCKS, Budget, Job, Rounds, rounds_of, spell};
use super::scenario::{self, Scenario};
use super::{QUICK, cpu, report, stop};

/// Rounds at least, of a quick comparison and of another.
const ROUNDS: (usize, usize) = (8, 20);
/// How long to wait in all for CPUs that are slow, in a quick comparison and in another.
const WAITING: (Duration, Duration) = (Duration::from_secs(90), Duration::from_secs(900));
/// The longest load, in seconds.
const LOADS: (f64, f64) = (0.8, 1.0);

/// Measures proxies side by side. Installs nothing: what is not there is skipped, and named; `benches/peers.sh` installs it.
#[derive(Args, Debug)]
pub struct Options {
    /// At most 15 minutes: fewer rounds, shorter loads, fewer peers and scenarios where they matter less
    #[arg(long)]
    quick: bool,
    /// Scenarios to run, several times or with commas; all by default
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    scenario: Vec<String>,
    /// Peers to measure, several times or with commas; the relay is always one of them
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    peer: Vec<String>,
    /// Rounds: 8 with --quick and 20 without, unless this says otherwise
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// Seconds of each load at most: 0.8 with --quick and 1 without, unless this says otherwise
    #[arg(long, value_name = "S")]
    seconds: Option<f64>,
    /// Requests a second, each sent when it is due, instead of the next as soon as an answer is in; where that makes sense
    #[arg(long, value_name = "R")]
    rate: Option<f64>,
    /// Workers of each proxy. With 2, each has both CPUs, which it shares with the load
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    workers: u8,
    /// Folder with the release binaries; by default they are built first
    #[arg(long, value_name = "DIR")]
    binaries: Option<PathBuf>,
    /// Folder into which benches/peers.sh installed peers
    #[arg(long, value_name = "DIR", default_value_os_t = target().join("peers"))]
    peers_folder: PathBuf,
    /// Folder for the record, and in it for its report
    #[arg(long, value_name = "DIR", default_value_os_t = target().join("compare"))]
    out: PathBuf,
    /// Name the scenarios and their peers, and measure nothing
    #[arg(long)]
    list: bool,
}

/// Where cargo puts what it builds.
#[must_use]
pub fn target() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let root = root.canonicalize().unwrap_or(root);
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |target| root.join(target))
}

impl Options {
    /// Runs the comparison, and says where the record is.
    ///
    /// # Errors
    /// If something is asked for that there is not, a binary of this tree is missing, or it was told to end; what was
    /// measured until then is written nevertheless.
    pub fn run(&self) -> Result<()> {
        if self.list {
            scenario::ALL.iter().for_each(list);
            return Ok(());
        }
        let scenarios = self.scenarios()?;
        let binaries = self.binaries()?;
        // Programs are started in folders of their own.
        let peers = self.peers_folder.canonicalize().unwrap_or_else(|_| self.peers_folder.clone());
        let programs = Programs::new(&binaries, &peers.join("bin"));
        let (jobs, absent) = self.jobs(&scenarios, &programs)?;
        let cpus = cpu::usable()?;
        let &[first, second, ..] = cpus.as_slice() else {
            bail!("two CPUs are needed: one for the proxy, one for load and backends");
        };
        stop::listen()?;
        let _congestion = Congestion::cubic();
        let record = Run {
            command: std::env::args().collect(),
            began: Timestamp::now().round(jiff::Unit::Second)?.to_string(),
            seconds: 0.0,
            machine: machine::describe(&programs)?,
            scenarios: Vec::new(),
            absent,
        };
        let begin = Instant::now();
        let longest = self.seconds.unwrap_or(if self.quick { LOADS.0 } else { LOADS.1 });
        let budget = Budget { end: self.quick.then(|| begin + QUICK), longest };
        let workers = usize::from(self.workers);
        let cpus = [first, second];
        let probe = Probe::new(cpus, if self.quick { WAITING.0 } else { WAITING.1 })?;
        Comparison { record, programs, cpus, workers, rate: self.rate, budget, begin, probe }
            .run(&jobs, &self.out)
    }

    fn scenarios(&self) -> Result<Vec<&'static Scenario>> {
        if self.scenario.is_empty() || self.scenario.iter().any(|name| name == "all") {
            let all = scenario::ALL.iter();
            return Ok(all.filter(|scenario| !self.quick || !scenario.quick.is_empty()).collect());
        }
        let find = |name: &String| {
            scenario::find(name).with_context(|| {
                let names: Vec<_> = scenario::ALL.iter().map(|scenario| scenario.name).collect();
                format!("no scenario {name:?}; there are {}", names.join(", "))
            })
        };
        self.scenario.iter().map(find).collect()
    }

    /// Each scenario with the peers that are there, and what is not.
    fn jobs(
        &self,
        scenarios: &[&'static Scenario],
        programs: &Programs,
    ) -> Result<(Vec<Job>, BTreeMap<String, String>)> {
        for name in &self.peer {
            let known: Vec<_> = peers::names().collect();
            ensure!(known.contains(&name.as_str()), "no peer {name:?}; there are {}", known.join(", "));
        }
        let (mut jobs, mut absent) = (Vec::new(), BTreeMap::new());
        let least = if self.quick { ROUNDS.0 } else { ROUNDS.1 };
        let rounds = self.rounds.unwrap_or(least);
        ensure!(rounds > 0, "at least one round");
        for &scenario in scenarios {
            let tool_source = if scenario.program() == "h2load" { Source::System } else { Source::Tree };
            if programs.find(scenario.program(), tool_source).is_none() {
                let remedy = if tool_source == Source::System {
                    "benches/peers.sh"
                } else {
                    "cargo build --release -p benches"
                };
                absent.insert(scenario.program().to_owned(), remedy.to_owned());
                continue;
            }
            let mut there = Vec::new();
            for peer in self.wanted(scenario) {
                if programs.of(peer).is_some() {
                    there.push(peer);
                } else {
                    absent.insert(peer.name.to_owned(), peer.remedy().to_owned());
                }
            }
            if !there.is_empty() {
                jobs.push(Job { scenario, peers: there, rounds: scenario.rounds(rounds) });
            }
        }
        ensure!(!jobs.is_empty(), "none of the peers is in one of the scenarios, and there");
        Ok((jobs, absent))
    }

    /// The peers of a scenario, by what the command line says.
    fn wanted(&self, scenario: &Scenario) -> Vec<&'static Peer> {
        let few = self.quick && self.peer.is_empty() && !scenario.quick.is_empty();
        let names = if few { scenario.quick } else { scenario.peers };
        let named = |name: &str| self.peer.is_empty() || self.peer.iter().any(|peer| peer == name);
        let named: Vec<_> = names.iter().copied().filter(|name| named(name)).collect();
        if named.is_empty() {
            return Vec::new();
        }
        let wanted = names.iter().copied().filter(|name| named.contains(name) || *name == "relay");
        wanted.filter_map(peers::find).collect()
    }

    fn binaries(&self) -> Result<PathBuf> {
        if let Some(folder) = &self.binaries {
            return folder.canonicalize().with_context(|| format!("{} is not there", folder.display()));
        }
        // Not in one go: each has its own features.
        for package in ["sluicegate", "benches"] {
            eprintln!("building {package} …");
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let built = std::process::Command::new(cargo)
                .args(["build", "--release", "--quiet", "-p", package])
                .current_dir(env!("CARGO_MANIFEST_DIR"))
                .status()?;
            ensure!(built.success(), "{package} could not be built");
        }
        Ok(target().join("release"))
    }
}

fn list(scenario: &Scenario) {
    println!("{}: {}", scenario.name, scenario.about);
    println!("    {}", scenario.peers.join(", "));
}

struct Comparison {
    record: Run,
    programs: Programs,
    cpus: [usize; 2],
    workers: usize,
    rate: Option<f64>,
    budget: Budget,
    begin: Instant,
    probe: Probe,
}

impl Comparison {
    fn run(mut self, jobs: &[Job], out: &Path) -> Result<()> {
        fs::create_dir_all(out).with_context(|| format!("cannot write to {}", out.display()))?;
        let path = out.join(format!("{}.json", self.record.began.replace([':', '-'], "")));
        for (peer, remedy) in &self.record.absent {
            eprintln!("{peer}: not there, skipped ({remedy})");
        }
        let time = Duration::from_secs_f64(self.budget.estimate(jobs, Instant::now()));
        let seconds = self.budget.load_seconds(jobs, Instant::now());
        eprintln!("{} scenarios with loads of {seconds:.2} s, about {}", jobs.len(), spell(time));
        let mut done = Ok(());
        for number in 0..jobs.len() {
            let Some([job, rest @ ..]) = jobs.get(number..) else { break };
            done = self.scenario(job, jobs.get(number..).unwrap_or_default(), rest);
            self.record.seconds = self.begin.elapsed().as_secs_f64();
            fs::write(&path, serde_json::to_string_pretty(&self.record)?)?;
            if done.is_err() {
                break;
            }
        }
        if done.is_err() {
            eprintln!("what was measured: {}", path.display());
        }
        done?;
        let folder = out.join("report");
        report::write(&[self.record], &folder)?;
        println!("\n{}\n{}", path.display(), folder.join("README.md").display());
        Ok(())
    }

    fn scenario(&mut self, job: &Job, all: &[Job], rest: &[Job]) -> Result<()> {
        let scenario = job.scenario;
        println!("\n{}: {}", scenario.name, scenario.about);
        self.record.scenarios.push(Measured {
            name: scenario.name.to_owned(),
            about: scenario.about.to_owned(),
            workers: self.workers,
            unit: scenario.unit,
            against: scenario.against.map(str::to_owned),
            rounds: Vec::new(),
        });
        let seconds = self.budget.load_seconds(all, Instant::now());
        let programs = self.programs.clone();
        let mut rounds = Rounds::new(job, &programs, self.cpus, self.workers, seconds, self.rate);
        let budget = self.budget;
        let mut number = 0;
        for block in 0..BLOCKS {
            let mut proxies = rounds.block(block);
            for _ in 0..rounds_of(job.rounds, block) {
                stop::check()?;
                let mut left = rounds.cost() * (job.rounds - number - 1) as f64;
                let may_repeat = |more: f64| budget.allows(left + more, rest, Instant::now());
                let round = rounds.run(number, &mut proxies, &mut self.probe, may_repeat)?;
                number += 1;
                left += budget.estimate(rest, Instant::now());
                tell(&round, number, job.rounds, scenario.unit, left);
                if let Some(measured) = self.record.scenarios.last_mut() {
                    measured.rounds.push(round);
                }
            }
        }
        if let Some(measured) = self.record.scenarios.last() {
            summarize(measured, &job.peers);
        }
        Ok(())
    }
}

/// A line for a round, and one for each failure.
fn tell(round: &Round, number: usize, of: usize, unit: Unit, left: f64) {
    let cpus: Vec<_> = round.proxy_cpus.iter().map(usize::to_string).collect();
    let figures: Vec<_> = round
        .outcomes
        .iter()
        .map(|(peer, outcome)| match outcome {
            Outcome::Good(sample) => format!("{peer} {}", figure(sample.figure)),
            Outcome::ThrownAway(sample, _) => format!("{peer} ({})", figure(sample.figure)),
            Outcome::Failed(_) => format!("{peer} failed"),
        })
        .collect();
    let left = spell(Duration::from_secs_f64(left));
    eprintln!("  {number}/{of} cpu {}, {}: {}; {left} left", cpus.join("+"), short(unit), figures.join(", "));
    for (peer, outcome) in &round.outcomes {
        match outcome {
            Outcome::Good(_) => {}
            Outcome::ThrownAway(_, reason) => eprintln!("      {peer} does not count: {reason}"),
            Outcome::Failed(reason) => eprintln!("      {peer} failed: {reason}"),
        }
    }
}

/// The median of each peer, how many of its rounds count, and its median ratio to the first.
fn summarize(measured: &Measured, peers: &[&'static Peer]) {
    let figure_of = |round: &Round, peer: &str| {
        round.outcomes.iter().find_map(|(name, outcome)| match outcome {
            Outcome::Good(sample) if name == peer => Some(sample.figure),
            _ => None,
        })
    };
    let Some(base) = peers.first().map(|peer| peer.name) else { return };
    println!("  {:22} {:>14} {:>9}   rounds", "", short(measured.unit), format!("× {base}"));
    for peer in peers {
        let figures: Vec<_> =
            measured.rounds.iter().filter_map(|round| figure_of(round, peer.name)).collect();
        let ratios = measured
            .rounds
            .iter()
            .filter_map(|round| Some(figure_of(round, peer.name)? / figure_of(round, base)?))
            .collect();
        let count = figures.len();
        let cell = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), figure);
        let (median_figure, median_ratio) = (cell(median(figures)), cell(median(ratios)));
        println!(
            "  {:22} {median_figure:>14} {median_ratio:>9}   {count}/{}",
            peer.name,
            measured.rounds.len()
        );
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = *values.get((values.len() - 1) / 2)?;
    Some(f64::midpoint(lower, upper))
}

fn figure(value: f64) -> String {
    if value.abs() >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

fn short(unit: Unit) -> &'static str {
    match unit {
        Unit::CpuMicrosPerRequest => "µs CPU/request",
        Unit::CpuMillisPerGigabyte => "ms CPU/GB",
        Unit::BytesEach => "bytes each",
        Unit::Millis => "ms",
        Unit::LatencyMicros => "µs p99",
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn options(line: &str) -> Options {
        Line::parse_from(line.split(' ')).options
    }

    fn names(options: &Options, name: &str) -> Vec<&'static str> {
        options.wanted(scenario::find(name).unwrap()).iter().map(|peer| peer.name).collect()
    }

    #[test]
    fn the_relay_is_in_every_round() {
        let options = options("compare --peer nginx,haproxy");
        assert_eq!(names(&options, "small-get"), ["relay", "nginx", "haproxy"]);
        assert_eq!(names(&options, "tls-keepalive"), ["nginx", "haproxy"]);
        assert!(names(&options, "hosts-10k").is_empty());
    }

    #[test]
    fn a_scenario_that_is_not_quick_runs_if_it_is_named() {
        let all = options("compare --quick").scenarios().unwrap();
        assert!(all.iter().all(|scenario| scenario.name != "udp-burst"));
        let named = options("compare --quick --scenario udp-burst");
        assert_eq!(named.scenarios().unwrap().len(), 1);
        assert!(names(&named, "udp-burst").contains(&"nginx"));
    }

    #[test]
    fn a_quick_comparison_has_fewer_peers_unless_they_are_named() {
        assert!(!names(&options("compare --quick"), "small-get-1").contains(&"traefik"));
        assert!(names(&options("compare"), "small-get-1").contains(&"traefik"));
        let named = options("compare --quick --peer traefik");
        assert_eq!(names(&named, "small-get-1"), ["relay", "traefik"]);
    }

    #[test]
    fn what_is_not_there_is_named_and_changes_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["relay", "sluicegate", "loadgen"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let programs = Programs::new(folder.path(), folder.path());
        let options = options("compare --peer sluicegate,traefik,caddy --rounds 2");
        let (jobs, absent) = options.jobs(&[scenario::find("small-get").unwrap()], &programs).unwrap();
        let names: Vec<_> = jobs[0].peers.iter().map(|peer| peer.name).collect();
        assert_eq!((names, jobs[0].rounds), (vec!["relay", "sluicegate"], 2));
        assert_eq!(absent.get("caddy").map(String::as_str), Some("benches/peers.sh"));
    }

    #[test]
    fn a_name_that_is_none_is_an_error() {
        assert!(options("compare --scenario nothing").scenarios().is_err());
        let programs = Programs::new("/nowhere".as_ref(), "/nowhere".as_ref());
        assert!(options("compare --peer nothing").jobs(&[], &programs).is_err());
    }

    #[test]
    fn the_median_of_an_even_number_is_between_the_middle_ones() {
        assert_eq!(median(vec![3.0, 1.0]), Some(2.0));
        assert_eq!(median(vec![3.0, 1.0, 9.0]), Some(3.0));
        assert_eq!(median(vec![]), None);
    }
}
