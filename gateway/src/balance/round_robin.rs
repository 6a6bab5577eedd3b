//! Weighted round-robin in O(1): a precomputed cycle in which every endpoint is spread as evenly as its weight
//! allows, walked by a position that the caller keeps.
//!
//! The cycle is an earliest-deadline-first schedule: the k-th turn of an endpoint with share `w/L` may start at
//! slot `⌊k·L/w⌋` and must be over by slot `⌈(k+1)·L/w⌉`. The shares add up to one, so every deadline is met and
//! after any number of slots each endpoint is less than one turn away from its exact share. (nginx reaches the
//! same smoothness with a scan of all endpoints per pick.)

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::{FULL, Pool, first_usable, mix};

/// Longest cycle per endpoint, and shortest cap whatever their number. Weights that need a longer cycle are
/// scaled down, which moves a share by less than 0.1 %.
const CAP_PER_ENDPOINT: usize = 8;
const CAP_MINIMUM: usize = 1_024;

/// Turns that one pick may consume before it looks for any usable endpoint in order.
const MOST_DRAWS: usize = 64;

/// One cycle of turns: `position → endpoint index`.
#[derive(Debug)]
pub struct Sequence {
    /// Empty when all weights are equal: then the cycle is `0..endpoints`.
    turns: Box<[u32]>,
    endpoints: u32,
}

impl Sequence {
    /// The cycle for `weights`; zero counts as one. O(L log n) for a cycle of length L.
    #[must_use]
    pub fn new(weights: &[u16]) -> Self {
        let endpoints = u32::try_from(weights.len()).unwrap_or(u32::MAX);
        let equal = weights.windows(2).all(|pair| pair.first() == pair.last());
        if equal {
            return Self { turns: Box::default(), endpoints };
        }
        Self { turns: schedule(&scaled(weights)), endpoints }
    }

    /// Length of the cycle; 0 without endpoints.
    #[must_use]
    pub fn cycle(&self) -> u64 {
        if self.turns.is_empty() { u64::from(self.endpoints) } else { self.turns.len() as u64 }
    }

    /// The endpoint whose turn `position` is (positions go round); `None` without endpoints.
    #[inline]
    #[must_use]
    pub fn at(&self, position: u64) -> Option<usize> {
        let turn = position.checked_rem(self.cycle())?;
        if self.turns.is_empty() {
            Some(turn as usize)
        } else {
            self.turns.get(turn as usize).map(|i| *i as usize)
        }
    }
}

/// The endpoint of the next usable turn. `next` yields one position after the other and is shared by all picks
/// of the Backend: a turn of an unusable endpoint is consumed and the next one drawn, so that what it leaves is
/// shared by all others instead of going to its neighbour.
///
/// An endpoint in slow start takes `ramp/FULL` of its turns, evenly spread over the cycles.
pub fn choose(sequence: &Sequence, pool: &impl Pool, mut next: impl FnMut() -> u64) -> Option<usize> {
    let cycle = sequence.cycle();
    let mut position = 0;
    for _ in 0..(cycle.saturating_mul(2)).min(MOST_DRAWS as u64) {
        position = next();
        let index = sequence.at(position)?;
        match pool.ramp(index) {
            Some(FULL) => return Some(index),
            Some(ramp) if takes_turn(position, cycle, ramp) => return Some(index),
            Some(_) | None => {}
        }
    }
    first_usable(pool, mix(position))
}

/// True if an endpoint at `ramp` takes its turn at `position`: cycle numbers times the golden ratio are spread
/// evenly over the unit interval, so the share taken is exact within a few cycles and never bursts.
fn takes_turn(position: u64, cycle: u64, ramp: u16) -> bool {
    let round = position.checked_div(cycle).unwrap_or(0);
    (round.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 54) < u64::from(ramp)
}

/// Weights divided by their common divisor and, if the cycle would be too long, scaled to the cap by largest
/// remainder; each stays at least 1.
fn scaled(weights: &[u16]) -> Vec<u64> {
    let divisor = weights.iter().fold(0, |a, b| gcd(a, u64::from((*b).max(1)))).max(1);
    let weights: Vec<u64> = weights.iter().map(|weight| u64::from((*weight).max(1)) / divisor).collect();
    let sum: u64 = weights.iter().sum();
    let cap = weights.len().saturating_mul(CAP_PER_ENDPOINT).max(CAP_MINIMUM) as u64;
    if sum <= cap {
        return weights;
    }
    let mut shares: Vec<u64> = weights.iter().map(|weight| (weight * cap / sum).max(1)).collect();
    let mut by_remainder: Vec<usize> = (0..weights.len()).collect();
    by_remainder.sort_by_key(|index| Reverse(weights.get(*index).map_or(0, |weight| weight * cap % sum)));
    let missing = cap.saturating_sub(shares.iter().sum());
    for index in by_remainder.into_iter().take(usize::try_from(missing).unwrap_or(usize::MAX)) {
        if let Some(share) = shares.get_mut(index) {
            *share += 1;
        }
    }
    shares
}

/// The earliest-deadline-first schedule of the module's documentation. `shares` are at least 1 each.
fn schedule(shares: &[u64]) -> Box<[u32]> {
    let length: u64 = shares.iter().sum();
    let release = |turn: u64, share: u64| turn * length / share;
    let deadline = |turn: u64, share: u64| ((turn + 1) * length).div_ceil(share);
    // (deadline, endpoint, turn) and (release, endpoint, turn), smallest first.
    let mut ready = BinaryHeap::new();
    let mut waiting = BinaryHeap::new();
    for (index, share) in (0_u32..).zip(shares) {
        ready.push(Reverse((deadline(0, *share), index, 0_u64)));
    }
    let mut turns = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
    for slot in 0..length {
        while let Some(Reverse((at, index, turn))) = waiting.peek().copied()
            && at <= slot
        {
            waiting.pop();
            let share = shares.get(index as usize).copied().unwrap_or(1);
            ready.push(Reverse((deadline(turn, share), index, turn)));
        }
        let Some(Reverse((_, index, turn))) = ready.pop() else { break };
        turns.push(index);
        let share = shares.get(index as usize).copied().unwrap_or(1);
        if turn + 1 < share {
            waiting.push(Reverse((release(turn + 1, share), index, turn + 1)));
        }
    }
    turns.into_boxed_slice()
}

const fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::fixture::Plain;
    use super::*;

    fn picks(weights: &[u16], pool: &Plain, count: u64) -> Vec<usize> {
        let sequence = Sequence::new(weights);
        let mut position = 0..;
        (0..count).map(|_| choose(&sequence, pool, || position.next().unwrap()).unwrap()).collect()
    }

    #[test]
    fn equal_weights_take_turns_in_order() {
        assert_eq!(picks(&[7, 7, 7], &Plain::equal(3), 6), [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn a_heavy_endpoint_is_spread_over_the_cycle() {
        assert_eq!(picks(&[5, 1, 1], &Plain::weighted(&[5, 1, 1]), 7), [0, 0, 0, 1, 0, 0, 2]);
    }

    #[test]
    fn weights_are_reduced_by_their_common_divisor() {
        assert_eq!(Sequence::new(&[300, 100]).cycle(), 4);
        assert_eq!(Sequence::new(&[u16::MAX, u16::MAX]).cycle(), 2);
    }

    #[test]
    fn a_long_cycle_is_capped_and_nobody_starves() {
        let sequence = Sequence::new(&[u16::MAX, 1, 32_749]);
        assert!(sequence.cycle() <= CAP_MINIMUM as u64 + 3);
        assert!((0..sequence.cycle()).any(|position| sequence.at(position) == Some(1)));
    }

    #[test]
    fn what_a_bad_endpoint_leaves_is_shared_by_all_others() {
        let mut pool = Plain::equal(4);
        pool.0[1].ramp = None;
        let picks = picks(&[1; 4], &pool, 3_000);
        for index in [0, 2, 3] {
            assert_eq!(picks.iter().filter(|pick| **pick == index).count(), 1_000);
        }
    }

    #[test]
    fn an_endpoint_in_slow_start_takes_the_share_of_its_ramp() {
        let mut pool = Plain::equal(4);
        pool.0[2].ramp = Some(FULL / 4);
        let picks = picks(&[1; 4], &pool, 13_000);
        let warming = picks.iter().filter(|pick| **pick == 2).count();
        assert!((980..=1_020).contains(&warming), "{warming} of 13,000, expected 1/13");
    }

    #[test]
    fn endpoints_that_all_start_slowly_share_evenly() {
        let mut pool = Plain::equal(2);
        pool.0.iter_mut().for_each(|one| one.ramp = Some(1));
        let first = picks(&[1; 2], &pool, 1_000).iter().filter(|pick| **pick == 0).count();
        assert!((400..=600).contains(&first), "{first}");
    }

    #[test]
    fn one_usable_among_many_is_found() {
        let mut pool = Plain::equal(5_000);
        pool.0.iter_mut().for_each(|one| one.ramp = None);
        pool.0[4_321].ramp = Some(FULL);
        assert_eq!(picks(&vec![1; 5_000], &pool, 3), [4_321; 3]);
        pool.0[4_321].ramp = None;
        assert_eq!(choose(&Sequence::new(&[1; 5_000]), &pool, || 0), None);
        assert_eq!(choose(&Sequence::new(&[]), &Plain::equal(0), || 0), None);
    }

    proptest! {
        #[test]
        fn after_any_number_of_turns_each_endpoint_is_within_one_of_its_share(
            weights in prop::collection::vec(1_u16..60, 1..12),
        ) {
            let sequence = Sequence::new(&weights);
            let sum: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
            let mut taken = vec![0_u64; weights.len()];
            for slot in 0..sequence.cycle() {
                taken[sequence.at(slot).unwrap()] += 1;
                for (taken, weight) in taken.iter().zip(&weights) {
                    // |taken − (slot+1)·w/sum| ≤ 1, multiplied out.
                    let exact = (slot + 1) * u64::from(*weight);
                    prop_assert!(exact.abs_diff(taken * sum) <= sum, "slot {slot}: {taken} of {exact}/{sum}");
                }
            }
        }

        #[test]
        fn a_capped_cycle_keeps_every_share_within_two_turns(
            weights in prop::collection::vec(1_u16..=u16::MAX, 2..40),
        ) {
            let sequence = Sequence::new(&weights);
            let sum: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
            for (index, weight) in weights.iter().enumerate() {
                let taken = (0..sequence.cycle()).filter(|p| sequence.at(*p) == Some(index)).count() as u64;
                let exact = u64::from(*weight) * sequence.cycle() / sum;
                prop_assert!(taken.abs_diff(exact) <= 2, "{taken} of {exact}");
            }
        }
    }
}
