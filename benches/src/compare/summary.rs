//! What a scenario's rounds say: medians, ratios of the same round, and what did not count. Pure; the order of rounds and
//! of proxies in them changes nothing, and a proxy that is not there changes only what is said of it.

use std::cmp::Ordering;

use super::bootstrap::{Estimate, estimate, median};
use super::record::{Measured, Outcome, Round, Sample, Unit};

/// The proxy that all of this is about.
pub const OURS: &str = "sluicegate";
/// The floor that ratios are taken to.
pub const RELAY: &str = "relay";
/// With fewer rounds, the interval from the least to the greatest ratio holds the median with less than 93 %, so that
/// nobody has won.
pub const LEAST_ROUNDS: usize = 5;

/// What a proxy is in a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// What it is about.
    Ours,
    /// The same with another task, such as a table of one route.
    Variant,
    /// Relays bytes blindly: what no proxy can avoid.
    Floor,
    /// Made of a library, to judge the choice not to use it.
    Control,
    /// A peer that does less than the others, which shows what that costs.
    Lean,
    /// A peer that does the same job.
    Peer,
}

impl Role {
    /// By name.
    #[must_use]
    pub fn of(name: &str) -> Self {
        let family = name.split('-').next().unwrap_or(name);
        match family {
            _ if name == OURS => Self::Ours,
            OURS => Self::Variant,
            RELAY => Self::Floor,
            "pingora" | "hyper" => Self::Control,
            _ if name.ends_with("-lean") => Self::Lean,
            _ => Self::Peer,
        }
    }
}

/// A scenario in a few numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// As in [`Measured::name`].
    pub name: String,
    /// As in [`Measured::about`].
    pub about: String,
    /// As in [`Measured::workers`].
    pub workers: usize,
    /// As in [`Measured::unit`].
    pub unit: Unit,
    /// A proxy each, the least figure first; those without a figure come last.
    pub rows: Vec<Row>,
    /// The peer with the least median, if there is one.
    pub best: Option<Best>,
    /// The variant that ours is compared with, and the ratio to it.
    pub against: Option<(String, Estimate)>,
    /// How quiet the machine was.
    pub noise: Noise,
}

/// What is said of one proxy.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// What it is.
    pub role: Role,
    /// In the scenario's unit.
    pub figure: Option<Estimate>,
    /// Its figure by that of the relay.
    pub to_relay: Option<Estimate>,
    /// Our figure by its figure.
    pub ours_to_it: Option<Estimate>,
    /// Median of the rounds' medians, in microseconds.
    pub p50: Option<f64>,
    /// Median of the rounds' 99th percentiles, in microseconds.
    pub p99: Option<f64>,
    /// The longest of all rounds, in microseconds.
    pub max: Option<f64>,
    /// Median of what was done in a second.
    pub per_second: Option<f64>,
    /// Rounds that count.
    pub good: usize,
    /// Measurements that do not count: number of the round, from 1, and why.
    pub thrown_away: Vec<(usize, String)>,
    /// Rounds with wrong answers, or none: number of the round, from 1, and why.
    pub failed: Vec<(usize, String)>,
}

/// The peer to beat.
#[derive(Debug, Clone, PartialEq)]
pub struct Best {
    /// Its name.
    pub name: String,
    /// The median of its figures.
    pub figure: f64,
    /// Our figure by that of the best peer of the same round, whichever that is; of rounds in which this peer counts.
    /// `None` if there is none in which we count as well.
    pub ratio: Option<Estimate>,
}

/// The worst of all rounds that count, as shares from 0 to 1.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Noise {
    /// See [`Sample::steal`].
    pub steal: f64,
    /// See [`Sample::others`].
    pub others: f64,
    /// The least of [`Sample::load_idle`].
    pub load_idle: f64,
}

/// Who needs less.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Ours, in the whole interval.
    Win,
    /// The other, in the whole interval.
    Loss,
    /// The interval includes 1.
    Tie,
    /// Fewer than [`LEAST_ROUNDS`] count.
    TooFew,
}

impl Verdict {
    /// Of a ratio of ours to another's.
    #[must_use]
    pub fn of(ratio: &Estimate) -> Self {
        match ratio {
            _ if ratio.rounds < LEAST_ROUNDS => Self::TooFew,
            _ if ratio.high < 1.0 => Self::Win,
            _ if ratio.low > 1.0 => Self::Loss,
            _ => Self::Tie,
        }
    }

    /// In a word or three.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Win => "win",
            Self::Loss => "loss",
            Self::Tie => "tie",
            Self::TooFew => "too few rounds",
        }
    }
}

impl Summary {
    /// Of one scenario.
    #[must_use]
    pub fn of(measured: &Measured) -> Self {
        let rounds = &measured.rounds;
        let mut names: Vec<&str> =
            rounds.iter().flat_map(|round| &round.outcomes).map(|(n, _)| &**n).collect();
        names.sort_unstable();
        names.dedup();
        let mut rows: Vec<Row> = names.iter().map(|name| Row::of(name, rounds)).collect();
        rows.sort_by(|a, b| order(a.figure.as_ref(), b.figure.as_ref()).then_with(|| a.name.cmp(&b.name)));
        let best = Best::of(&rows, rounds);
        let against = measured.against.as_ref().and_then(|name| {
            let ratio = ratio(rounds, OURS, |round| figure(round, name))?;
            Some((name.clone(), ratio))
        });
        Self {
            name: measured.name.clone(),
            about: measured.about.clone(),
            workers: measured.workers,
            unit: measured.unit,
            rows,
            best,
            against,
            noise: Noise::of(rounds),
        }
    }

    /// What is said of the proxy of this name.
    #[must_use]
    pub fn row(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == name)
    }

    /// Its name and, if it is not one, the number of workers.
    #[must_use]
    pub fn title(&self) -> String {
        title(&self.name, self.workers)
    }
}

/// What a scenario is called where there may be several with its name.
#[must_use]
pub fn title(name: &str, workers: usize) -> String {
    if workers == 1 { name.to_owned() } else { format!("{name}, {workers} workers") }
}

fn order(a: Option<&Estimate>, b: Option<&Estimate>) -> Ordering {
    match (a, b) {
        (Some(a), Some(b)) => a.median.total_cmp(&b.median),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => Ordering::Equal,
    }
}

impl Row {
    fn of(name: &str, rounds: &[Round]) -> Self {
        let samples: Vec<&Sample> = rounds.iter().filter_map(|round| good(round, name)).collect();
        let figures: Vec<f64> = samples.iter().map(|sample| sample.figure).collect();
        let latencies = |percentile: &str| -> Vec<f64> {
            samples.iter().filter_map(|sample| sample.latency.get(percentile)).copied().collect()
        };
        let per_second = samples.iter().filter(|sample| sample.seconds > 0.0);
        let per_second: Vec<f64> = per_second.map(|sample| sample.requests as f64 / sample.seconds).collect();
        let (mut thrown_away, mut failed) = (Vec::new(), Vec::new());
        for (number, round) in (1..).zip(rounds) {
            for outcome in outcomes(round, name) {
                match outcome {
                    Outcome::ThrownAway(_, why) => thrown_away.push((number, why.clone())),
                    Outcome::Failed(why) => failed.push((number, why.clone())),
                    Outcome::Good(_) => {}
                }
            }
        }
        Self {
            name: name.to_owned(),
            role: Role::of(name),
            figure: estimate(&figures),
            to_relay: ratio(rounds, name, |round| figure(round, RELAY)).filter(|_| name != RELAY),
            ours_to_it: ratio(rounds, OURS, |round| figure(round, name)).filter(|_| name != OURS),
            p50: median(&latencies("p50")),
            p99: median(&latencies("p99")),
            max: latencies("max").into_iter().max_by(f64::total_cmp),
            per_second: median(&per_second),
            good: samples.len(),
            thrown_away,
            failed,
        }
    }
}

impl Best {
    /// A peer that gave a figure in less than half of the rounds of the others is not the best one.
    fn of(rows: &[Row], rounds: &[Round]) -> Option<Self> {
        let peers = || rows.iter().filter(|row| row.role == Role::Peer);
        let most = peers().map(|row| row.good).max()?;
        let best = peers().find(|row| row.figure.is_some() && row.good * 2 >= most)?;
        let ratio = ratio(rounds, OURS, |round| {
            figure(round, &best.name)?;
            let peers = round.outcomes.iter().filter(|(name, _)| Role::of(name) == Role::Peer);
            peers.filter_map(|(name, _)| figure(round, name)).min_by(f64::total_cmp)
        });
        Some(Self { name: best.name.clone(), figure: best.figure?.median, ratio })
    }
}

impl Noise {
    fn of(rounds: &[Round]) -> Self {
        let samples = || {
            rounds.iter().flat_map(|round| &round.outcomes).filter_map(|(_, outcome)| match outcome {
                Outcome::Good(sample) => Some(sample),
                Outcome::ThrownAway(..) | Outcome::Failed(_) => None,
            })
        };
        let worst = |of: fn(&Sample) -> f64| samples().map(of).max_by(f64::total_cmp).unwrap_or_default();
        Self {
            steal: worst(|sample| sample.steal),
            others: worst(|sample| sample.others),
            load_idle: samples().map(|sample| sample.load_idle).min_by(f64::total_cmp).unwrap_or_default(),
        }
    }
}

/// What came of each of its measurements in `round`: those that were thrown away, and that which was the last.
fn outcomes<'r>(round: &'r Round, name: &str) -> impl Iterator<Item = &'r Outcome> {
    round.outcomes.iter().filter(move |(of, _)| of == name).map(|(_, outcome)| outcome)
}

fn good<'r>(round: &'r Round, name: &str) -> Option<&'r Sample> {
    outcomes(round, name).find_map(|outcome| match outcome {
        Outcome::Good(sample) => Some(sample),
        Outcome::ThrownAway(..) | Outcome::Failed(_) => None,
    })
}

/// What a ratio can be made of.
fn figure(round: &Round, name: &str) -> Option<f64> {
    good(round, name).map(|sample| sample.figure).filter(|figure| figure.is_finite() && *figure > 0.0)
}

/// The figure of `name` by another one of the same round, over all rounds that have both.
fn ratio(rounds: &[Round], name: &str, other: impl Fn(&Round) -> Option<f64>) -> Option<Estimate> {
    let ratios: Vec<f64> =
        rounds.iter().filter_map(|round| Some(figure(round, name)? / other(round)?)).collect();
    estimate(&ratios)
}

#[cfg(test)]
mod tests;
