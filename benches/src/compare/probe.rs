//! How quick a CPU is at this moment, by work that is always the same: what the host gives to others without telling (of
//! the core, of its caches) shows in it. Counts CPU time alone, so that waiting for the CPU does not.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::time::{ClockId, clock_gettime};

use super::{cpu, stop};

/// Connections, as many as most loads have: they do not fit into the first caches.
const PAIRS: usize = 64;
/// Times that something is said on each of them.
const SWEEPS: usize = 4;
/// A CPU that takes this much longer than at its best is slow.
const SLOW: f64 = 0.10;
/// How long to wait for a slow CPU before a measurement, and between two looks at it.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_millis(40));
/// Looks at each CPU that say what its best is, before there is anything to compare with.
const FIRST: usize = 40;

/// Connections of this process with itself, and the best of each CPU.
#[derive(Debug)]
pub struct Probe {
    pairs: Vec<(TcpStream, TcpStream)>,
    /// CPU → nanoseconds
    best: BTreeMap<usize, f64>,
    /// How much longer it may wait, in all.
    left: Duration,
}

impl Probe {
    /// Looks at `cpus`, and will wait for no more than `most` in all.
    ///
    /// # Errors
    /// If there are no connections to be had on loopback, or this thread may not go to one of these CPUs.
    pub fn new(cpus: &[usize], most: Duration) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let pair = |_| -> Result<_> {
            let (ours, theirs) = (TcpStream::connect(address)?, listener.accept()?.0);
            ours.set_nodelay(true)?;
            Ok((ours, theirs))
        };
        let pairs = (0..PAIRS).map(pair).collect::<Result<_>>()?;
        let mut probe = Self { pairs, best: BTreeMap::new(), left: most };
        for _ in 0..FIRST {
            for &cpu in cpus {
                probe.slowness(cpu)?;
            }
        }
        Ok(probe)
    }

    /// How much longer the slowest of `cpus` takes than at its best until now, as a share: 0 is as quick as ever.
    ///
    /// # Errors
    /// If this thread may not go there.
    pub fn slowest(&mut self, cpus: impl IntoIterator<Item = usize>) -> Result<f64> {
        let mut slowest: f64 = 0.0;
        for cpu in cpus {
            slowest = slowest.max(self.slowness(cpu)?);
        }
        Ok(slowest)
    }

    /// Waits until none of `cpus` is slow, but not for ever; then says as [`Self::slowest`] how slow they are.
    ///
    /// # Errors
    /// If the comparison was told to end, or this thread may not go there.
    pub fn wait(&mut self, cpus: &[usize]) -> Result<f64> {
        let begin = Instant::now();
        let mut slowness = self.slowest(cpus.iter().copied())?;
        while is_slow(slowness) && begin.elapsed() < PATIENCE.0.min(self.left) {
            stop::check()?;
            std::thread::sleep(PATIENCE.1);
            slowness = self.slowest(cpus.iter().copied())?;
        }
        self.left = self.left.saturating_sub(begin.elapsed());
        Ok(slowness)
    }

    fn slowness(&mut self, cpu: usize) -> Result<f64> {
        let pairs = &mut self.pairs;
        let took = cpu::on(&[cpu], || work(pairs))??;
        let best = self.best.entry(cpu).or_insert(took);
        *best = best.min(took);
        Ok(took / *best - 1.0)
    }
}

/// Whether a CPU that takes so much longer than at its best is none to measure on.
#[must_use]
pub fn is_slow(slowness: f64) -> bool {
    slowness > SLOW
}

/// Nanoseconds of CPU time for saying and hearing something on each connection. The quickest of a few times counts: what
/// comes between is no property of the CPU.
fn work(pairs: &mut [(TcpStream, TcpStream)]) -> Result<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..SWEEPS {
        let before = cpu_time();
        for (ours, theirs) in &mut *pairs {
            ours.write_all(&[7; 64])?;
            theirs.read_exact(&mut [0; 64])?;
        }
        best = best.min(cpu_time() - before);
    }
    Ok(best)
}

fn cpu_time() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_is_as_quick_as_its_best_or_slower() {
        let cpus = cpu::usable().unwrap();
        let mut probe = Probe::new(&cpus[..1], Duration::ZERO).unwrap();
        assert!(probe.best[&cpus[0]] > 1_000.0);
        assert!(probe.slowest([cpus[0]]).unwrap() >= 0.0);
        *probe.best.get_mut(&cpus[0]).unwrap() /= 3.0;
        assert!(is_slow(probe.slowest([cpus[0]]).unwrap()));
    }

    #[test]
    fn nobody_waits_longer_than_told() {
        let cpus = cpu::usable().unwrap();
        let mut probe = Probe::new(&cpus[..1], Duration::from_millis(100)).unwrap();
        *probe.best.get_mut(&cpus[0]).unwrap() /= 3.0;
        let begin = Instant::now();
        probe.wait(&cpus[..1]).unwrap();
        assert!(probe.left < Duration::from_millis(30) && begin.elapsed() < Duration::from_secs(2));
        probe.wait(&cpus[..1]).unwrap();
        assert_eq!(probe.left, Duration::ZERO);
    }
}
