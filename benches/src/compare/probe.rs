//! How quick the CPUs are at this moment, by work that is always the same: what the host gives to others without telling
//! (of a core, of its caches) shows in it. All of them work at once, and with each other, as proxy and load do: two CPUs that
//! share a core for a while are quick as long as only one of them has something to do.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use super::{cpu, stop};

/// Connections, as many as most loads have: they do not fit into the first caches.
const PAIRS: usize = 64;
/// Times that something is said on each of them, and answered. The quickest counts: what comes between now and then is no
/// property of the CPUs.
const SWEEPS: usize = 8;
/// CPUs that take this much longer than at their best are slow.
const SLOW: f64 = 0.10;
/// How long to wait for slow CPUs before a measurement, and between two looks at them.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_millis(40));
/// Looks at the CPUs that say what their best is, before there is anything to compare with.
const FIRST: usize = 40;

/// Connections of this process with itself, and the best of the CPUs.
#[derive(Debug)]
pub struct Probe {
    cpus: [usize; 2],
    pairs: Vec<(TcpStream, TcpStream)>,
    /// Seconds.
    best: f64,
    /// How much longer it may wait, in all.
    left: Duration,
}

impl Probe {
    /// Looks at `cpus`, and will wait for no more than `most` in all.
    ///
    /// # Errors
    /// If there are no connections to be had on loopback, or this process may not use one of these CPUs.
    pub fn new(cpus: [usize; 2], most: Duration) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let pair = |_| -> Result<_> {
            let (ours, theirs) = (TcpStream::connect(address)?, listener.accept()?.0);
            for end in [&ours, &theirs] {
                end.set_nodelay(true)?;
                end.set_nonblocking(true)?;
            }
            Ok((ours, theirs))
        };
        let pairs = (0..PAIRS).map(pair).collect::<Result<_>>()?;
        let mut probe = Self { cpus, pairs, best: f64::INFINITY, left: most };
        for _ in 0..FIRST {
            probe.slowness()?;
        }
        Ok(probe)
    }

    /// How much longer the CPUs take than at their best until now, as a share: 0 is as quick as ever.
    ///
    /// # Errors
    /// If this process may not use one of them.
    pub fn slowness(&mut self) -> Result<f64> {
        let took = work(&mut self.pairs, self.cpus)?;
        self.best = self.best.min(took);
        Ok(took / self.best - 1.0)
    }

    /// Waits until they are not slow, but not for ever; then says as [`Self::slowness`] how slow they are.
    ///
    /// # Errors
    /// If the comparison was told to end, or this process may not use one of them.
    pub fn wait(&mut self) -> Result<f64> {
        let begin = Instant::now();
        let mut slowness = self.slowness()?;
        while is_slow(slowness) && begin.elapsed() < PATIENCE.0.min(self.left) {
            stop::check()?;
            std::thread::sleep(PATIENCE.1);
            slowness = self.slowness()?;
        }
        self.left = self.left.saturating_sub(begin.elapsed());
        Ok(slowness)
    }
}

/// Whether CPUs that take so much longer than at their best are none to measure on.
#[must_use]
pub fn is_slow(slowness: f64) -> bool {
    slowness > SLOW
}

/// Seconds in which one of the CPUs said something on each connection and heard what the other answered. Neither sleeps.
fn work(pairs: &mut [(TcpStream, TcpStream)], [first, second]: [usize; 2]) -> Result<f64> {
    let (mut ours, mut theirs): (Vec<_>, Vec<_>) = pairs.iter_mut().map(|(a, b)| (a, b)).unzip();
    let answer = |streams: &mut [&mut TcpStream]| -> Result<()> {
        for _ in 0..SWEEPS {
            for stream in &mut *streams {
                hear(stream)?;
                stream.write_all(&[7; 64])?;
            }
        }
        Ok(())
    };
    let ask = |streams: &mut [&mut TcpStream]| -> Result<f64> {
        let mut best = f64::INFINITY;
        for _ in 0..SWEEPS {
            let begin = Instant::now();
            for stream in &mut *streams {
                stream.write_all(&[7; 64])?;
            }
            for stream in &mut *streams {
                hear(stream)?;
            }
            best = best.min(begin.elapsed().as_secs_f64());
        }
        Ok(best)
    };
    std::thread::scope(|scope| {
        let answers = scope.spawn(|| cpu::on(&[second], || answer(&mut theirs))?);
        let took = cpu::on(&[first], || ask(&mut ours))?;
        answers.join().map_err(|_| anyhow!("the other CPU's thread ended"))??;
        took
    })
}

fn hear(stream: &mut TcpStream) -> Result<()> {
    let mut heard = [0; 64];
    let mut length = 0;
    while length < heard.len() {
        match stream.read(heard.get_mut(length..).unwrap_or_default()) {
            Ok(0) => return Err(anyhow!("a connection of the probe ended")),
            Ok(more) => length += more,
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::hint::spin_loop(),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(most: Duration) -> Probe {
        let cpus = cpu::usable().unwrap();
        Probe::new([cpus[0], cpus[1]], most).unwrap()
    }

    #[test]
    fn cpus_are_as_quick_as_their_best_or_slower() {
        let mut probe = probe(Duration::ZERO);
        assert!(probe.best > 1e-6 && probe.best < 1.0, "{}", probe.best);
        assert!(probe.slowness().unwrap() >= 0.0);
        probe.best /= 3.0;
        assert!(is_slow(probe.slowness().unwrap()));
    }

    #[test]
    fn nobody_waits_longer_than_told() {
        let mut probe = probe(Duration::from_millis(100));
        probe.best /= 100.0;
        let begin = Instant::now();
        probe.wait().unwrap();
        assert!(probe.left < Duration::from_millis(30) && begin.elapsed() < Duration::from_secs(2));
        probe.wait().unwrap();
        assert_eq!(probe.left, Duration::ZERO);
    }
}
