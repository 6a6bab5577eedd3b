//! CPUs: which ones there are, running something on some of them, and what the whole machine used. Reads `/proc`; changes
//! only on which CPUs this thread, and what it starts, may run.

use std::fs;
use std::time::Instant;

use anyhow::{Context, Result};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Ticks per second of the times in `/proc/stat`: `USER_HZ`, which is 100 on every architecture that Linux has today.
const TICKS: f64 = 100.0;

/// The CPUs that this process may use.
///
/// # Errors
/// If the kernel does not tell.
pub fn usable() -> Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect())
}

/// Does `what` with this thread on `cpus` alone; processes that it starts stay there.
///
/// # Errors
/// If the kernel does not let this thread go there or back.
pub fn on<T>(cpus: &[usize], what: impl FnOnce() -> T) -> Result<T> {
    let before = sched_getaffinity(None)?;
    let mut set = CpuSet::new();
    cpus.iter().for_each(|&cpu| set.set(cpu));
    sched_setaffinity(None, &set).with_context(|| format!("cannot run on CPUs {cpus:?}"))?;
    let done = what();
    sched_setaffinity(None, &before)?;
    Ok(done)
}

/// What all CPUs together have done until a moment.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    at: Instant,
    ticks: Ticks,
    /// CPU seconds of this process and of its children that ended.
    ended: f64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Ticks {
    total: f64,
    idle: f64,
    stolen: f64,
}

/// What happened between two moments.
#[derive(Debug, Clone, Copy)]
pub struct Interval {
    /// Wall-clock time in seconds.
    pub seconds: f64,
    /// Share of all CPU time that the host took.
    pub steal: f64,
    /// Share of all CPU time in which CPUs were busy.
    pub busy: f64,
    /// All CPU time in seconds.
    pub total: f64,
    /// CPU seconds of this process and of its children that ended in it.
    pub ended: f64,
}

impl Moment {
    /// This one.
    ///
    /// # Errors
    /// If `/proc` does not tell.
    pub fn now() -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat")?;
        let own = fs::read_to_string("/proc/self/stat")?;
        Ok(Self {
            at: Instant::now(),
            ticks: ticks(&stat).context("/proc/stat has no line for all CPUs")?,
            ended: own_and_ended(&own).context("/proc/self/stat is short")?,
        })
    }

    /// What happened since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Interval {
        let total = (self.ticks.total - before.ticks.total).max(1.0);
        let (idle, stolen) = (self.ticks.idle - before.ticks.idle, self.ticks.stolen - before.ticks.stolen);
        Interval {
            seconds: self.at.duration_since(before.at).as_secs_f64(),
            steal: stolen / total,
            busy: (total - idle - stolen) / total,
            total: total / TICKS,
            ended: self.ended - before.ended,
        }
    }
}

impl Interval {
    /// Share of all CPU time that neither this process and its ended children used nor the proxy, which used `proxy` seconds.
    #[must_use]
    pub fn others(&self, proxy: f64) -> f64 {
        (self.busy - (self.ended + proxy) / self.total).max(0.0)
    }
}

fn ticks(stat: &str) -> Option<Ticks> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let fields: Vec<f64> = line.split_whitespace().map_while(|field| field.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; guests are in user already.
    let total = fields.iter().take(8).sum();
    Some(Ticks { total, idle: fields.get(3)? + fields.get(4)?, stolen: *fields.get(7)? })
}

/// The sum of utime, stime, cutime and cstime, in seconds.
fn own_and_ended(stat: &str) -> Option<f64> {
    // The name may hold spaces and parentheses; what follows its last one is the third field.
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let sum: Option<f64> = fields.get(11..15)?.iter().map(|field| field.parse::<f64>().ok()).sum();
    sum.map(|ticks| ticks / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_all_cpus_is_read() {
        let ticks = ticks("cpu  100 1 20 300 4 0 5 6 7 8\ncpu0 1 2 3 4 5 6 7 8 9 10\n").unwrap();
        assert_eq!(ticks, Ticks { total: 436.0, idle: 304.0, stolen: 6.0 });
    }

    #[test]
    fn a_process_whose_name_has_parentheses_is_read() {
        let stat = "7 (a) (b c) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 25 75 20 0 1 0 99 1 1";
        assert_eq!(own_and_ended(stat), Some(3.0));
    }

    #[test]
    fn a_child_that_ended_is_counted() {
        let before = Moment::now().unwrap();
        let spin = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done";
        std::process::Command::new("sh").args(["-c", spin]).status().unwrap();
        let interval = Moment::now().unwrap().since(&before);
        assert!(interval.ended > 0.0 && interval.seconds > 0.0, "{interval:?}");
    }

    #[test]
    fn what_is_started_on_a_cpu_stays_there() {
        let all = usable().unwrap();
        let last = [*all.last().unwrap()];
        assert_eq!(on(&last, || usable().unwrap()).unwrap(), last);
        assert_eq!(usable().unwrap(), all);
    }
}
