//! Medians and how far they can be trusted: percentile bootstrap with a fixed seed. Pure: the same values give the same
//! bounds in any order.

/// Resamples of each interval.
pub const RESAMPLES: usize = 2_000;

/// Share of the resamples that lie outside of the interval, on each side.
const TAIL: f64 = 0.025;

/// Any constant: a report that is made again must be the same one.
const SEED: u64 = 0x51_1c_e9_a7_e0;

/// A median and its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The median of the values.
    pub median: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
    /// How many values there were.
    pub rounds: usize,
}

/// The median; the mean of the two in the middle if their number is even. `None` without values.
#[must_use]
pub fn median(values: &[f64]) -> Option<f64> {
    let mut values = values.to_vec();
    middle(&mut values)
}

/// The median of `values`, one for each round, and its interval: rounds are drawn with replacement, as many as there are,
/// [`RESAMPLES`] times. What is not finite is left out. `None` if nothing is left.
#[must_use]
pub fn estimate(values: &[f64]) -> Option<Estimate> {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    sorted.sort_unstable_by(f64::total_cmp);
    let median = median(&sorted)?;
    let mut random = fastrand::Rng::with_seed(SEED);
    let mut drawn = Vec::with_capacity(sorted.len());
    let mut medians = Vec::with_capacity(RESAMPLES);
    for _ in 0..RESAMPLES {
        drawn.clear();
        drawn.extend((0..sorted.len()).filter_map(|_| random.choice(&sorted)));
        medians.extend(middle(&mut drawn));
    }
    medians.sort_unstable_by(f64::total_cmp);
    let outside = (RESAMPLES as f64 * TAIL) as usize;
    let low = medians.get(outside).copied()?;
    let high = medians.iter().rev().nth(outside).copied()?;
    Some(Estimate { median, low, high, rounds: sorted.len() })
}

fn middle(values: &mut [f64]) -> Option<f64> {
    let half = values.len() / 2;
    if values.is_empty() {
        return None;
    }
    let is_odd = values.len() % 2 == 1;
    let (below, upper, _) = values.select_nth_unstable_by(half, f64::total_cmp);
    let upper = *upper;
    if is_odd {
        return Some(upper);
    }
    below.iter().copied().max_by(f64::total_cmp).map(|lower| f64::midpoint(lower, upper))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_an_even_number_is_between_the_two_in_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 9.0]), Some(3.0));
    }

    #[test]
    fn equal_values_have_no_width() {
        let expected = Estimate { median: 0.8, low: 0.8, high: 0.8, rounds: 12 };
        assert_eq!(estimate(&[0.8; 12]), Some(expected));
    }

    /// The median of a resample of five is the least value if at least three of the draws are: in 5.8 % of them.
    #[test]
    fn five_values_bound_their_median_by_the_least_and_the_greatest() {
        let found = estimate(&[5.0, 3.0, 1.0, 2.0, 4.0]).unwrap();
        assert_eq!((found.low, found.median, found.high), (1.0, 3.0, 5.0));
    }

    /// By the binomial distribution, the interval is 51 ± 1.96 × √101 ÷ 2, which is from 41.2 to 60.8.
    #[test]
    fn many_values_have_the_interval_of_their_order_statistics() {
        let values: Vec<f64> = (1..=101).map(f64::from).collect();
        let found = estimate(&values).unwrap();
        assert_eq!(found.median, 51.0);
        assert!((40.0..=42.5).contains(&found.low), "{found:?}");
        assert!((59.5..=62.0).contains(&found.high), "{found:?}");
    }

    #[test]
    fn order_of_the_values_does_not_matter() {
        let values: Vec<f64> = (0..13).map(|n| f64::from(n * n % 17)).collect();
        let mut other = values.clone();
        other.reverse();
        other.swap(2, 9);
        assert_eq!(estimate(&values), estimate(&other));
    }

    #[test]
    fn what_is_not_finite_does_not_count() {
        assert_eq!(estimate(&[1.0, f64::NAN, f64::INFINITY, 1.0]).unwrap().rounds, 2);
        assert_eq!(estimate(&[f64::NAN]), None);
    }
}
