//! Least connection: the endpoint with the fewest requests in flight relative to its weight.
//!
//! **Exact up to 16 endpoints, two random choices beyond.** Up to [`EXACT`] endpoints every pick looks at all of
//! them: that is at most 16 loads, less than the system calls of the request cost a hundred times over, and the
//! answer is the true minimum. With more, the scan would grow with the Backend and, worse, all workers would
//! see the same minimum at the same moment and herd onto it. Two draws by weight, of which the less loaded one
//! wins, cost the same for any size and keep the fullest endpoint within O(log log n) of the average.
//!
//! In both, load is compared as `(in flight + 1) / (weight × slow-start ramp)`. Ties go round in turn, so idle
//! endpoints are used alike. An endpoint that fails fast has little in flight and attracts requests: passive
//! ejection by error rate is what stops that, not this policy.

use super::round_robin::Sequence;
use super::{Pool, first_usable, mix};

/// Largest Backend whose every endpoint is looked at.
pub const EXACT: usize = 16;

/// Draws of one pick before it looks for any usable endpoint in order.
const MOST_DRAWS: u64 = 32;

/// The least loaded endpoint (of two, in a Backend of more than [`EXACT`]). `position` turns with every pick
/// and breaks ties; `random` needs 64 fresh bits.
pub fn choose(sequence: &Sequence, pool: &impl Pool, position: u64, random: u64) -> Option<usize> {
    if pool.len() <= EXACT { exact(pool, position) } else { of_two(sequence, pool, random) }
}

fn exact(pool: &impl Pool, position: u64) -> Option<usize> {
    let len = pool.len();
    let start = usize::try_from(position.checked_rem(len as u64)?).unwrap_or(0);
    let mut best: Option<(usize, Load)> = None;
    for index in (start..len).chain(0..start) {
        let Some(ramp) = pool.ramp(index) else { continue };
        let load = Load::of(pool, index, ramp);
        if best.as_ref().is_none_or(|(_, least)| load.is_less(least)) {
            best = Some((index, load));
        }
    }
    best.map(|(index, _)| index)
}

fn of_two(sequence: &Sequence, pool: &impl Pool, random: u64) -> Option<usize> {
    let mut first: Option<(usize, Load)> = None;
    for draw in 0..MOST_DRAWS {
        let index = sequence.at(mix(random.wrapping_add(draw)))?;
        let Some(ramp) = pool.ramp(index) else { continue };
        let load = Load::of(pool, index, ramp);
        match &first {
            None => first = Some((index, load)),
            Some((other, _)) if *other == index => {}
            Some((other, least)) => return Some(if load.is_less(least) { index } else { *other }),
        }
    }
    match first {
        Some((index, _)) => Some(index),
        None => first_usable(pool, mix(random)),
    }
}

/// `requests / capacity`, compared without dividing.
struct Load {
    requests: u64,
    capacity: u64,
}

impl Load {
    fn of(pool: &impl Pool, index: usize, ramp: u16) -> Self {
        Self {
            requests: u64::from(pool.in_flight(index)) + 1,
            capacity: u64::from(pool.weight(index).max(1)) * u64::from(ramp.max(1)),
        }
    }

    /// At most 2³³ × 2²⁶: no overflow.
    const fn is_less(&self, other: &Self) -> bool {
        self.requests * other.capacity < other.requests * self.capacity
    }
}

#[cfg(test)]
mod tests {
    use super::super::FULL;
    use super::super::fixture::Plain;
    use super::*;

    #[test]
    fn the_endpoint_with_the_fewest_in_flight_wins() {
        let mut pool = Plain::equal(4);
        for (one, in_flight) in pool.0.iter_mut().zip([3, 5, 2, 9]) {
            one.in_flight = in_flight;
        }
        let sequence = Sequence::new(&[1; 4]);
        assert!((0..20).all(|position| choose(&sequence, &pool, position, 0) == Some(2)));
        pool.0[2].ramp = None;
        assert_eq!(choose(&sequence, &pool, 0, 0), Some(0));
    }

    #[test]
    fn idle_endpoints_go_round() {
        let (pool, sequence) = (Plain::equal(3), Sequence::new(&[1; 3]));
        let picks: Vec<_> = (0..6).filter_map(|position| choose(&sequence, &pool, position, 0)).collect();
        assert_eq!(picks, [0, 1, 2, 0, 1, 2]);
    }

    /// Closed loop: `held` requests are kept in flight; returns the mean in flight per endpoint.
    fn mean_in_flight(weights: &[u16], held: usize) -> Vec<f64> {
        let mut pool = Plain::weighted(weights);
        let sequence = Sequence::new(weights);
        let mut random = fastrand::Rng::with_seed(7);
        let mut active = Vec::new();
        let mut sums = vec![0_u64; weights.len()];
        const ROUNDS: u64 = 20_000;
        for position in 0..ROUNDS {
            if active.len() >= held {
                let gone: usize = active.swap_remove(random.usize(..active.len()));
                pool.0[gone].in_flight -= 1;
            }
            let pick = choose(&sequence, &pool, position, random.u64(..)).unwrap();
            pool.0[pick].in_flight += 1;
            active.push(pick);
            sums.iter_mut().zip(&pool.0).for_each(|(sum, one)| *sum += u64::from(one.in_flight));
        }
        sums.iter().map(|sum| *sum as f64 / ROUNDS as f64).collect()
    }

    #[test]
    fn requests_in_flight_follow_the_weights_when_exact() {
        let mean = mean_in_flight(&[1, 2, 5], 80);
        for (mean, expected) in mean.iter().zip([10.0, 20.0, 50.0]) {
            assert!((mean - expected).abs() < 1.0, "{mean} instead of {expected}");
        }
    }

    #[test]
    fn requests_in_flight_follow_the_weights_with_two_choices() {
        let weights: Vec<u16> = (0..40).map(|index| 1 + index % 4).collect();
        let mean = mean_in_flight(&weights, 1_000);
        for (mean, weight) in mean.iter().zip(&weights) {
            let expected = f64::from(*weight) * 10.0;
            assert!((mean - expected).abs() < expected * 0.25, "{mean} instead of {expected}");
        }
    }

    #[test]
    fn two_choices_avoid_a_slow_endpoint() {
        let mut pool = Plain::equal(100);
        pool.0[42].in_flight = 50;
        let sequence = Sequence::new(&[1; 100]);
        let hits = (0..100_000).filter(|r| choose(&sequence, &pool, 0, mix(*r)) == Some(42)).count();
        assert_eq!(hits, 0);
    }

    #[test]
    fn the_last_usable_of_many_is_found() {
        let mut pool = Plain::equal(1_000);
        pool.0.iter_mut().for_each(|one| one.ramp = None);
        let sequence = Sequence::new(&[1; 1_000]);
        assert_eq!(choose(&sequence, &pool, 0, 1), None);
        pool.0[999].ramp = Some(FULL);
        assert!((0..100).all(|random| choose(&sequence, &pool, 0, random) == Some(999)));
    }

    #[test]
    fn an_endpoint_in_slow_start_holds_less() {
        let mut pool = Plain::equal(2);
        pool.0[1].ramp = Some(FULL / 4);
        pool.0[0].in_flight = 2;
        let sequence = Sequence::new(&[1; 2]);
        assert_eq!(choose(&sequence, &pool, 1, 0), Some(0));
        pool.0[0].in_flight = 4;
        assert_eq!(choose(&sequence, &pool, 1, 0), Some(1));
    }
}
