//! Growth as a command: the cost of every [`Subject`] at every size, the exponent of its growth, and what is written of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::fit::exponent;
use super::{ALL, Subject, Work, page};
use crate::compare::machine;
use crate::compare::record::Machine;

/// What takes at least this long is timed one by one, so that reading the clock is a small part of it.
const ALONE: Duration = Duration::from_micros(5);
/// How long a batch of anything else takes.
const BATCH: Duration = Duration::from_micros(200);

/// `growth.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Growth {
    /// The arguments of the command.
    pub arguments: Vec<String>,
    /// When it began, as RFC 3339 in UTC.
    pub began: String,
    /// Where it ran.
    pub machine: Machine,
    /// What was measured, in the order of [`ALL`].
    pub curves: Vec<Curve>,
}

/// The cost of one [`Subject`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// As in [`Subject::name`].
    pub name: String,
    /// As in [`Subject::about`].
    pub about: String,
    /// As in [`Subject::counts`].
    pub counts: String,
    /// As in [`Subject::at_most`].
    pub at_most: f64,
    /// By size, rising.
    pub points: Vec<Point>,
}

impl Curve {
    /// The exponent of growth, if there are sizes enough.
    #[must_use]
    pub fn exponent(&self) -> Option<f64> {
        let points: Vec<(f64, f64)> =
            self.points.iter().map(|point| (point.size as f64, point.median)).collect();
        exponent(&points)
    }

    /// Whether it grows no more than it may.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.exponent().is_some_and(|exponent| exponent <= self.at_most)
    }
}

/// The cost at one size, in nanoseconds for each time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// In what [`Curve::counts`] says.
    pub size: usize,
    /// Median of the batches.
    pub median: f64,
    /// 99th percentile of the batches.
    pub p99: f64,
    /// How many batches there were.
    pub batches: usize,
    /// How many times it was done in each.
    pub per_batch: u64,
}

/// Measures what parts of the gateway cost in process, and how that grows. Fails if something grows more than it may.
#[derive(Debug, Args)]
pub struct Options {
    /// A tenth of the time, and no judgement
    #[arg(long)]
    quick: bool,
    /// What to measure, several times or with commas; all by default
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    subject: Vec<String>,
    /// Largest size
    #[arg(long, value_name = "N")]
    largest: Option<usize>,
    /// Folder for growth.md, growth.svg and growth.json
    #[arg(long, value_name = "DIR", default_value = "docs/benchmarks")]
    out: PathBuf,
}

impl Options {
    /// Measures, and writes what was measured.
    ///
    /// # Errors
    /// There is no such subject, a wrong answer, a file that cannot be written, or (unless `--quick`) growth beyond a bound.
    pub fn run(&self) -> Result<()> {
        for name in &self.subject {
            let names: Vec<_> = ALL.iter().map(|subject| subject.name).collect();
            ensure!(names.contains(&name.as_str()), "no subject {name:?}; there are {}", names.join(", "));
        }
        let mut growth = Growth {
            arguments: std::env::args().skip(1).collect(),
            began: Timestamp::now().round(jiff::Unit::Second)?.to_string(),
            machine: machine::here()?,
            curves: Vec::new(),
        };
        let is_wanted = |subject: &&Subject| {
            self.subject.is_empty() || self.subject.iter().any(|name| name == subject.name)
        };
        for subject in ALL.iter().filter(is_wanted) {
            growth.curves.push(self.curve(subject)?);
        }
        write(&growth, &self.out)?;
        println!("written: {}", self.out.join("growth.md").display());
        let broken: Vec<&str> =
            growth.curves.iter().filter(|curve| !curve.holds()).map(|curve| &*curve.name).collect();
        ensure!(self.quick || broken.is_empty(), "grows more than it may: {}", broken.join(", "));
        Ok(())
    }

    fn curve(&self, subject: &Subject) -> Result<Curve> {
        let (budget, least) =
            if self.quick { (Duration::from_millis(40), 3) } else { (Duration::from_millis(400), 11) };
        let mut points = Vec::new();
        for size in subject.sizes.iter().filter(|size| self.largest.is_none_or(|largest| **size <= largest)) {
            let mut work = (subject.prepare)(*size).with_context(|| format!("{} at {size}", subject.name))?;
            let point = measure(*size, &mut work, budget, least);
            println!("{} of {size} {}: {}", subject.name, subject.counts, page::time(point.median));
            points.push(point);
        }
        let curve = Curve {
            name: subject.name.to_owned(),
            about: subject.about.to_owned(),
            counts: subject.counts.to_owned(),
            at_most: subject.at_most,
            points,
        };
        if let Some(exponent) = curve.exponent() {
            println!("{}: exponent {exponent:.2}, at most {}", curve.name, curve.at_most);
        }
        Ok(curve)
    }
}

/// Batches until the time is up, `least` of them in any case.
fn measure(size: usize, work: &mut Work, budget: Duration, least: usize) -> Point {
    let mut time = |times: u64| {
        // The clock of a thread's CPU time is too coarse on some machines; medians do not mind that a batch was interrupted.
        let began = Instant::now();
        work(times);
        began.elapsed()
    };
    let per_batch = batch(&mut time);
    let (mut batches, mut spent) = (Vec::new(), Duration::ZERO);
    while spent < budget || batches.len() < least {
        let took = time(per_batch);
        batches.push(took.as_nanos() as f64 / per_batch as f64);
        // Where the clock is coarse, a batch may take no time at all.
        spent += took.max(Duration::from_nanos(100));
    }
    batches.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| batches.get((batches.len() as f64 * share) as usize).copied().unwrap_or_default();
    Point { size, median: at(0.5), p99: at(0.99), batches: batches.len(), per_batch }
}

/// How many times make a batch; found by doing it twice as often each time, which also warms it up.
fn batch(time: &mut impl FnMut(u64) -> Duration) -> u64 {
    time(1);
    if time(1) >= ALONE {
        return 1;
    }
    let mut times = 2;
    while times < 1 << 20 && time(times) < BATCH {
        times *= 2;
    }
    times
}

/// Writes `growth.md`, `growth.svg` and `growth.json` to a folder, which is made if it is not there.
///
/// # Errors
/// A file cannot be written.
pub fn write(growth: &Growth, out: &Path) -> Result<()> {
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let files = [
        ("growth.md", page::page(growth)),
        ("growth.svg", page::chart(growth)),
        ("growth.json", serde_json::to_string_pretty(growth)? + "\n"),
    ];
    for (name, content) in files {
        let path = out.join(name);
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// What [`write()`] has written to the folder, if it has.
///
/// # Errors
/// It cannot be read, or is something else.
pub fn read(out: &Path) -> Result<Option<Growth>> {
    let path = out.join("growth.json");
    if !path.exists() {
        return Ok(None);
    }
    let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let growth = serde_json::from_slice(&text).with_context(|| format!("{} is no growth", path.display()))?;
    Ok(Some(growth))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_slow_is_timed_alone_and_what_is_quick_in_batches() {
        assert_eq!(batch(&mut |times| Duration::from_micros(6) * times as u32), 1);
        assert_eq!(batch(&mut |times| Duration::from_nanos(100) * times as u32), 2_048);
        assert_eq!(batch(&mut |_| Duration::ZERO), 1 << 20);
    }

    #[test]
    fn a_point_has_enough_batches_and_the_cost_of_one_time() {
        let mut work: Work = Box::new(|times| {
            let mut sum = 0_u64;
            for number in 0..times * 1_000 {
                sum = std::hint::black_box(sum ^ number);
            }
        });
        let point = measure(7, &mut work, Duration::ZERO, 5);
        assert_eq!((point.size, point.batches), (7, 5));
        assert!(point.median > 0.0 && point.p99 >= point.median, "{point:?}");
    }
}
