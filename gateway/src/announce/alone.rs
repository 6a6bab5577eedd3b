//! Who announces where nobody else is to be asked: this host, after a probe has found no other (RFC 5227 §2.1, with shorter
//! waits). A pure state machine: time is an argument, and it sends nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Probes before an address is taken, and the time after each.
const PROBES: u32 = 3;
const PROBE_INTERVAL: Duration = Duration::from_millis(250);

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    /// So many probes were sent; the next thing happens then.
    Probing(u32, Instant),
    Held,
    /// Somebody has it. Tried again then.
    Taken(Instant),
}

/// The addresses that are wanted here.
#[derive(Debug, Default)]
pub struct Alone {
    /// address → where it stands
    addresses: BTreeMap<IpAddr, State>,
}

/// What to do now.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AloneStep {
    /// Send a probe for each.
    pub probe: Vec<IpAddr>,
    /// Announce these and no others.
    pub hold: BTreeSet<IpAddr>,
    /// When to ask again, if nothing happens.
    pub next: Option<Instant>,
}

impl Alone {
    /// From a claim of somebody else until it is tried again.
    pub const RETRY: Duration = Duration::from_secs(10);

    /// These are wanted; those that are `ours` already need no probe.
    pub fn want(&mut self, wanted: &BTreeSet<IpAddr>, ours: &BTreeSet<IpAddr>, now: Instant) {
        self.addresses.retain(|address, _| wanted.contains(address));
        for address in wanted {
            let state = if ours.contains(address) { State::Held } else { State::Probing(0, now) };
            self.addresses.entry(*address).or_insert(state);
        }
    }

    /// Somebody else claims `address`; true if it is left alone for that, which was not so before. What is held is
    /// defended, not given up.
    pub fn claimed(&mut self, address: IpAddr, now: Instant) -> bool {
        match self.addresses.get_mut(&address) {
            Some(state @ State::Probing(..)) => {
                *state = State::Taken(now + Self::RETRY);
                true
            }
            _ => false,
        }
    }

    /// What to do at `now`.
    pub fn step(&mut self, now: Instant) -> AloneStep {
        let mut step = AloneStep::default();
        for (address, state) in &mut self.addresses {
            *state = match *state {
                State::Taken(at) | State::Probing(0, at) if now >= at => {
                    step.probe.push(*address);
                    State::Probing(1, now + PROBE_INTERVAL)
                }
                State::Probing(PROBES.., at) if now >= at => State::Held,
                State::Probing(sent, at) if now >= at => {
                    step.probe.push(*address);
                    State::Probing(sent + 1, now + PROBE_INTERVAL)
                }
                same => same,
            };
            match *state {
                State::Held => {
                    step.hold.insert(*address);
                }
                State::Probing(_, at) | State::Taken(at) => {
                    step.next = Some(step.next.map_or(at, |next| next.min(at)));
                }
            }
        }
        step
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(addresses: &[&str]) -> BTreeSet<IpAddr> {
        addresses.iter().map(|address| address.parse().unwrap()).collect()
    }

    /// Follows the steps until there is nothing to wait for; returns how many probes were sent, and the end.
    fn run(alone: &mut Alone, mut now: Instant) -> (usize, AloneStep, Instant) {
        let mut probes = 0;
        loop {
            let step = alone.step(now);
            probes += step.probe.len();
            match step.next {
                Some(next) => now = next,
                None => return (probes, step, now),
            }
        }
    }

    #[test]
    fn an_address_is_taken_after_probes_that_nobody_answered() {
        let start = Instant::now();
        let mut alone = Alone::default();
        alone.want(&set(&["192.0.2.1", "2001:db8::1"]), &set(&[]), start);
        let (probes, end, now) = run(&mut alone, start);
        assert_eq!((probes, end.hold), (6, set(&["192.0.2.1", "2001:db8::1"])));
        assert_eq!(now - start, PROBE_INTERVAL * 3);
        alone.want(&set(&["192.0.2.1"]), &set(&[]), now);
        assert_eq!(alone.step(now).hold, set(&["192.0.2.1"]));
    }

    #[test]
    fn an_address_that_somebody_has_is_left_alone_and_asked_for_again() {
        let start = Instant::now();
        let mut alone = Alone::default();
        alone.want(&set(&["192.0.2.1"]), &set(&[]), start);
        alone.step(start);
        alone.claimed("192.0.2.1".parse().unwrap(), start);
        let step = alone.step(start + PROBE_INTERVAL * 8);
        assert_eq!(step, AloneStep { next: Some(start + Alone::RETRY), ..AloneStep::default() });
        let (probes, end, _) = run(&mut alone, start + Alone::RETRY);
        assert_eq!((probes, end.hold), (3, set(&["192.0.2.1"])));
    }

    #[test]
    fn what_is_held_is_kept_whoever_claims_it_and_what_was_ours_is_taken_up() {
        let start = Instant::now();
        let mut alone = Alone::default();
        alone.want(&set(&["192.0.2.1"]), &set(&["192.0.2.1", "192.0.2.2"]), start);
        alone.claimed("192.0.2.1".parse().unwrap(), start);
        let step = alone.step(start);
        assert_eq!((step.probe.len(), step.hold), (0, set(&["192.0.2.1"])));
    }
}
