//! A set of numbers as runs of neighbours, so that a full pool of any size costs one entry.

use std::collections::BTreeMap;

/// A set of numbers.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Runs {
    /// first number of a run → its last one; runs neither overlap nor touch
    runs: BTreeMap<u128, u128>,
    count: u128,
}

impl Runs {
    /// How many numbers there are.
    pub(super) fn len(&self) -> u128 {
        self.count
    }

    /// The lowest number from `from` on that is not there.
    pub(super) fn gap_from(&self, from: u128) -> u128 {
        self.around(from).map_or(from, |(_, last)| last.saturating_add(1))
    }

    /// How many numbers there are from `first` to `last`.
    pub(super) fn within(&self, first: u128, last: u128) -> u128 {
        let start = self.around(first).map_or(first, |(start, _)| start);
        let runs = self.runs.range(start..=last);
        runs.map(|(from, to)| (*to).min(last) - (*from).max(first) + 1).sum()
    }

    /// The run that `number` is in.
    fn around(&self, number: u128) -> Option<(u128, u128)> {
        let (first, last) = self.runs.range(..=number).next_back()?;
        (number <= *last).then_some((*first, *last))
    }

    /// Adds `number`, if it is not there.
    pub(super) fn insert(&mut self, number: u128) {
        if self.around(number).is_some() {
            return;
        }
        self.count += 1;
        let after = number.checked_add(1).and_then(|next| self.runs.remove(&next));
        let last = after.unwrap_or(number);
        let before = number.checked_sub(1).and_then(|previous| self.around(previous));
        let first = before.map_or(number, |(first, _)| first);
        self.runs.insert(first, last);
    }

    /// Takes `number` away, if it is there.
    pub(super) fn remove(&mut self, number: u128) {
        let Some((first, last)) = self.around(number) else { return };
        self.count -= 1;
        self.runs.remove(&first);
        if first < number {
            self.runs.insert(first, number - 1);
        }
        if number < last {
            self.runs.insert(number + 1, last);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn runs_are_the_set_of_their_numbers(steps in prop::collection::vec((any::<bool>(), 0_u128..24), 0..80)) {
            let (mut runs, mut plain) = (Runs::default(), BTreeSet::new());
            for (is_added, number) in steps {
                if is_added {
                    runs.insert(number);
                    plain.insert(number);
                } else {
                    runs.remove(number);
                    plain.remove(&number);
                }
                let gap = (0..).find(|n| !plain.contains(n));
                prop_assert_eq!(Some(runs.gap_from(0)), gap);
                let gap = (7..).find(|n| !plain.contains(n));
                prop_assert_eq!(Some(runs.gap_from(7)), gap);
                prop_assert_eq!(runs.within(5, 11), plain.range(5..=11).count() as u128);
                prop_assert_eq!(runs.len(), plain.len() as u128);
                let ends: Vec<(u128, u128)> = runs.runs.iter().map(|(a, b)| (*a, *b)).collect();
                prop_assert!(ends.windows(2).all(|two| two[0].1 + 1 < two[1].0), "{:?}", ends);
            }
        }
    }

    #[test]
    fn the_ends_of_the_numbers_are_numbers() {
        let mut runs = Runs::default();
        runs.insert(u128::MAX);
        runs.insert(0);
        assert_eq!((runs.len(), runs.gap_from(0)), (2, 1));
        runs.remove(u128::MAX);
        assert_eq!(runs.len(), 1);
    }
}
