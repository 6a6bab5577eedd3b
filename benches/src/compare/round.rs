//! Rounds: in which order peers go, on which CPUs, how long each may take, and how often what does not count is repeated.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::load::Amount;
use super::measure::{Block, Placement, is_disturbed};
use super::peers::{Peer, Programs};
use super::probe::Probe;
use super::record::{Outcome, Round};
use super::scenario::{Scenario, Size, Table};

/// A measurement is no shorter, in seconds: below that, ticks of the clock are seen in it.
const SHORTEST: f64 = 0.25;
/// Warm-up included, a load takes this much longer than what counts of it.
const WITH_WARMUP: f64 = 7.0 / 6.0;
/// Ending a proxy, and what else is around a measurement, in seconds.
const AROUND: (f64, f64) = (0.1, 0.06);
/// What was disturbed is measured so often again, at most.
const REPEATS: usize = 3;
/// About as many loads are run once more as this share of all: time is kept for them.
const REPEATED: f64 = 0.25;
/// All rounds are on one CPU for the proxy, and then on the other.
pub const BLOCKS: usize = 2;
/// What a start takes longer with a large table, in seconds.
const LARGE: f64 = 0.5;

/// A scenario with those of its peers that are there.
#[derive(Debug)]
pub struct Job {
    /// What is measured.
    pub scenario: &'static Scenario,
    /// Whom.
    pub peers: Vec<&'static Peer>,
    /// How often.
    pub rounds: usize,
}

impl Job {
    fn measurements(&self) -> f64 {
        (self.peers.len() * self.rounds) as f64
    }

    /// Seconds that do not depend on how long a load is.
    fn fixed(&self) -> f64 {
        let times = if self.scenario.needs_new_proxies() { self.rounds } else { BLOCKS.min(self.rounds) };
        self.starts() * times as f64 + self.load() * self.measurements()
    }

    /// Seconds to start, and to end, each of the proxies.
    fn starts(&self) -> f64 {
        self.peers.iter().map(|peer| self.start(peer)).sum()
    }

    fn start(&self, peer: &Peer) -> f64 {
        let large = if self.scenario.table == Table::One { 0.0 } else { LARGE };
        peer.start + AROUND.0 + large
    }

    /// Seconds of a measurement that do not depend on how long its load is.
    fn load(&self) -> f64 {
        let load = match self.scenario.size {
            Size::Timed(_) => 0.0,
            Size::Fixed(seconds) => seconds,
        };
        load + AROUND.1
    }

    /// Loads that are as long as there is time.
    fn timed(&self) -> f64 {
        if matches!(self.scenario.size, Size::Timed(_)) { self.measurements() } else { 0.0 }
    }
}

/// The time that there is.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// When all must be done; `None` if it takes what it takes.
    pub end: Option<Instant>,
    /// The longest load, in seconds.
    pub longest: f64,
}

impl Budget {
    /// Seconds of each load, if `jobs` are all that is left to do at `now`.
    #[must_use]
    pub fn load_seconds(&self, jobs: &[Job], now: Instant) -> f64 {
        let Some(end) = self.end else { return self.longest };
        let left = end.saturating_duration_since(now).as_secs_f64();
        let (fixed, timed) = totals(jobs);
        ((left - fixed) / (timed.max(1.0) * WITH_WARMUP * (1.0 + REPEATED)))
            .min(self.longest)
            .max(SHORTEST.min(self.longest))
    }

    /// Whether there is time for `more` besides `jobs`, even if their loads get as short as they may be.
    #[must_use]
    pub fn allows(&self, more: f64, jobs: &[Job], now: Instant) -> bool {
        let (fixed, timed) = totals(jobs);
        let needed = fixed + timed * SHORTEST.min(self.longest) * WITH_WARMUP + more;
        self.end.is_none_or(|end| end.saturating_duration_since(now).as_secs_f64() > needed)
    }

    /// How long `jobs` will take, in seconds.
    #[must_use]
    pub fn estimate(&self, jobs: &[Job], now: Instant) -> f64 {
        let (fixed, timed) = totals(jobs);
        fixed + timed * WITH_WARMUP * (1.0 + REPEATED) * self.load_seconds(jobs, now)
    }
}

fn totals(jobs: &[Job]) -> (f64, f64) {
    jobs.iter().fold((0.0, 0.0), |(fixed, timed), job| (fixed + job.fixed(), timed + job.timed()))
}

/// The peers forth and back (ABBA), so that a machine that gets slower or faster is the same for all.
#[must_use]
pub fn order<T: Copy>(peers: &[T], number: usize) -> Vec<T> {
    if number.is_multiple_of(2) { peers.to_vec() } else { peers.iter().rev().copied().collect() }
}

/// One CPU for the proxy and one for the load, swapped in every other `block`; with two `workers`, both share both.
#[must_use]
pub fn placement(cpus: [usize; 2], workers: usize, block: usize) -> Placement {
    let [first, second] = cpus;
    if workers > 1 {
        return Placement { proxy: cpus.to_vec(), load: cpus.to_vec() };
    }
    if block.is_multiple_of(2) {
        Placement { proxy: vec![first], load: vec![second] }
    } else {
        Placement { proxy: vec![second], load: vec![first] }
    }
}

/// How many of `rounds` are in `block`.
#[must_use]
pub fn rounds_of(rounds: usize, block: usize) -> usize {
    (rounds + BLOCKS - 1 - block) / BLOCKS
}

/// What is the same for all rounds of a job.
#[derive(Debug)]
pub struct Rounds<'a> {
    /// What is measured, and whom.
    pub job: &'a Job,
    /// Where programs are.
    pub programs: &'a Programs,
    /// CPUs to use.
    pub cpus: [usize; 2],
    /// Workers of each proxy.
    pub workers: usize,
    /// Seconds of each load.
    pub seconds: f64,
    /// Requests a second that the command line asks for.
    pub rate: Option<f64>,
    /// Requests a second of each peer, as far as they are known.
    speeds: BTreeMap<&'static str, f64>,
}

impl<'a> Rounds<'a> {
    /// Those of `job`.
    #[must_use]
    pub fn new(
        job: &'a Job,
        programs: &'a Programs,
        cpus: [usize; 2],
        workers: usize,
        seconds: f64,
        rate: Option<f64>,
    ) -> Self {
        Self { job, programs, cpus, workers, seconds, rate, speeds: BTreeMap::new() }
    }

    /// The proxies of block `number`, from 0, of which none runs yet.
    #[must_use]
    pub fn block(&self, number: usize) -> Block<'a> {
        let place = placement(self.cpus, self.workers, number);
        Block::new(self.job.scenario, self.programs, self.workers, place)
    }

    /// Round `number`, from 0, in `block`. What was disturbed is measured again at once, a few times if `may_repeat` says
    /// that there is time for what one more takes.
    ///
    /// # Errors
    /// If the comparison was told to end.
    pub fn run(
        &mut self,
        number: usize,
        block: &mut Block<'_>,
        probe: &mut Probe,
        may_repeat: impl Fn(f64) -> bool,
    ) -> Result<Round> {
        let mut outcomes = Vec::new();
        for peer in order(&self.job.peers, number) {
            for repeats in (0..=REPEATS).rev() {
                let outcome = block.measure(peer, self.amount(peer), probe)?;
                if let Outcome::Good(sample) | Outcome::ThrownAway(sample, _) = &outcome {
                    self.speeds.insert(peer.name, sample.requests as f64 / sample.seconds.max(1e-3));
                }
                let again = is_spoilt(&outcome) && repeats > 0 && may_repeat(self.once(peer));
                outcomes.push((peer.name.to_owned(), outcome));
                if !again {
                    break;
                }
            }
        }
        let Placement { proxy, load } = block.place.clone();
        Ok(Round { proxy_cpus: proxy, load_cpus: load, outcomes })
    }

    /// As many requests as `peer` does in the time, as far as one knows.
    fn amount(&self, peer: &Peer) -> Amount {
        let rate = self.job.scenario.rate(self.rate);
        let Size::Timed(per_second) = self.job.scenario.size else { return Amount { requests: None, rate } };
        let speed = rate.or_else(|| self.speeds.get(peer.name).copied()).unwrap_or(per_second * peer.speed);
        Amount { requests: Some(((speed * self.seconds) as u64).max(8)), rate }
    }

    /// Seconds of one more round, about.
    #[must_use]
    pub fn cost(&self) -> f64 {
        self.job.peers.iter().map(|peer| self.once(peer)).sum()
    }

    /// Seconds of one more measurement of `peer`, about.
    fn once(&self, peer: &Peer) -> f64 {
        let scenario = self.job.scenario;
        let start = if scenario.needs_new_proxies() { self.job.start(peer) } else { 0.0 };
        let timed = if matches!(scenario.size, Size::Timed(_)) { WITH_WARMUP * self.seconds } else { 0.0 };
        start + self.job.load() + timed
    }
}

/// Whether something does not count that would perhaps when the machine is quiet.
#[must_use]
pub fn is_spoilt(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::ThrownAway(sample, _) if is_disturbed(sample))
}

/// `5 min 12 s`.
#[must_use]
pub fn spell(time: Duration) -> String {
    let seconds = time.as_secs();
    if seconds < 60 { format!("{seconds} s") } else { format!("{} min {} s", seconds / 60, seconds % 60) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::record::Sample;
    use crate::compare::{peers, scenario};

    fn job(name: &str, rounds: usize) -> Job {
        let scenario = scenario::find(name).unwrap();
        let peers = scenario.quick.iter().map(|peer| peers::find(peer).unwrap()).collect();
        Job { scenario, peers, rounds }
    }

    #[test]
    fn every_other_round_goes_back() {
        assert_eq!(order(&["a", "b", "c"], 0), ["a", "b", "c"]);
        assert_eq!(order(&["a", "b", "c"], 1), ["c", "b", "a"]);
    }

    #[test]
    fn half_of_the_rounds_are_on_swapped_cpus() {
        assert_eq!(placement([2, 5], 1, 0), Placement { proxy: vec![2], load: vec![5] });
        assert_eq!(placement([2, 5], 1, 1), Placement { proxy: vec![5], load: vec![2] });
        for (rounds, blocks) in [(1, [1, 0]), (5, [3, 2]), (12, [6, 6])] {
            assert_eq!([rounds_of(rounds, 0), rounds_of(rounds, 1)], blocks);
        }
    }

    #[test]
    fn two_workers_share_both_cpus_with_the_load() {
        let place = placement([0, 1], 2, 1);
        assert_eq!((place.proxy, place.load), (vec![0, 1], vec![0, 1]));
    }

    #[test]
    fn loads_are_as_long_as_the_time_allows() {
        let now = Instant::now();
        let jobs = [job("small-get", 5), job("idle-10k", 2)];
        let budget = |seconds| Budget { end: Some(now + Duration::from_secs(seconds)), longest: 1.0 };
        assert!((budget(100_000).load_seconds(&jobs, now) - 1.0).abs() < 1e-9);
        assert!((budget(1).load_seconds(&jobs, now) - SHORTEST).abs() < 1e-9);
        let some = budget(60);
        let seconds = some.load_seconds(&jobs, now);
        assert!(seconds > SHORTEST && seconds < 1.0, "{seconds}");
        assert!((some.estimate(&jobs, now) - 60.0).abs() < 1.0);
        let unlimited = Budget { end: None, longest: 2.0 };
        assert!((unlimited.load_seconds(&jobs, now) - 2.0).abs() < 1e-9);
    }

    #[test]
    fn something_is_repeated_only_if_what_is_left_still_fits() {
        let now = Instant::now();
        let jobs = [job("small-get", 5)];
        let least = jobs[0].fixed() + jobs[0].timed() * SHORTEST * WITH_WARMUP;
        let budget = Budget { end: Some(now + Duration::from_secs_f64(least + 10.0)), longest: 1.0 };
        assert!(budget.allows(9.0, &jobs, now));
        assert!(!budget.allows(11.0, &jobs, now));
    }

    #[test]
    fn a_quick_comparison_of_everything_fits_into_its_time() {
        let jobs: Vec<_> =
            scenario::ALL.iter().map(|scenario| job(scenario.name, scenario.rounds(8))).collect();
        let now = Instant::now();
        let budget = Budget { end: Some(now + super::super::QUICK), longest: 1.0 };
        let seconds = budget.load_seconds(&jobs, now);
        assert!(seconds > SHORTEST * 1.2, "loads of {seconds} s");
    }

    #[test]
    fn a_rate_that_a_peer_cannot_keep_is_not_tried_again() {
        let outcome = |others| {
            let sample = Sample {
                figure: 1.0,
                requests: 1,
                seconds: 1.0,
                proxy_cpu: 1.0,
                load_idle: 0.5,
                steal: 0.0,
                others,
                slowness: 0.0,
                latency: BTreeMap::new(),
            };
            Outcome::ThrownAway(sample, String::new())
        };
        assert!(!is_spoilt(&outcome(0.01)));
        assert!(is_spoilt(&outcome(0.2)));
    }

    #[test]
    fn the_first_load_is_sized_by_a_guess_and_the_next_by_what_was_seen() {
        let job = job("small-get", 5);
        let programs = Programs::new("/nowhere".as_ref(), "/nowhere".as_ref());
        let mut rounds = Rounds::new(&job, &programs, [0, 1], 1, 0.5, None);
        let ours = peers::find("sluicegate").unwrap();
        assert_eq!(rounds.amount(ours), Amount { requests: Some(30_000), rate: None });
        rounds.speeds.insert("sluicegate", 80_000.0);
        assert_eq!(rounds.amount(ours).requests, Some(40_000));
        rounds.rate = Some(1_000.0);
        assert_eq!(rounds.amount(ours), Amount { requests: Some(500), rate: Some(1_000.0) });
    }
}
