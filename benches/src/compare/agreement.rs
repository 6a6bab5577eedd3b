//! Whether two runs say the same: the medians of ours to every other proxy, by scenario. Pure.

use super::bootstrap::Estimate;
use super::record::{Measured, Run};
use super::summary::{Summary, title};
use super::text::{number, percent};

/// The medians of ratios may differ by this share.
pub const TOLERANCE: f64 = 0.05;

/// One scenario in two runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Agreement {
    /// As in [`Measured::name`].
    pub name: String,
    /// As in [`Measured::workers`].
    pub workers: usize,
    /// What ours was compared with, and the median of the ratios in each of the runs.
    pub ratios: Vec<(String, f64, f64)>,
}

impl Agreement {
    /// See [`Summary::title`].
    #[must_use]
    pub fn title(&self) -> String {
        title(&self.name, self.workers)
    }

    /// What differs by more than [`TOLERANCE`].
    pub fn apart(&self) -> impl Iterator<Item = &(String, f64, f64)> {
        self.ratios.iter().filter(|(_, a, b)| difference(*a, *b) > TOLERANCE)
    }

    /// True if nothing is apart, and there was something to compare.
    #[must_use]
    pub fn holds(&self) -> bool {
        !self.ratios.is_empty() && self.apart().next().is_none()
    }

    /// In a line.
    #[must_use]
    pub fn text(&self) -> String {
        let most = self.ratios.iter().map(|(_, a, b)| difference(*a, *b)).max_by(f64::total_cmp);
        let Some(most) = most else { return "no ratio in both runs".to_owned() };
        if self.holds() {
            return format!("{} medians of ratios agree, within {}", self.ratios.len(), percent(most));
        }
        let told = self.apart().map(|(name, a, b)| {
            format!("to {name} {} and {} ({} apart)", number(*a), number(*b), percent(difference(*a, *b)))
        });
        format!("do NOT agree within {}: {}", percent(TOLERANCE), told.collect::<Vec<_>>().join(", "))
    }
}

/// The greater by the lesser, less 1.
fn difference(a: f64, b: f64) -> f64 {
    a.max(b) / a.min(b) - 1.0
}

/// Every scenario that both runs have, in the order of the first.
#[must_use]
pub fn compare(a: &Run, b: &Run) -> Vec<Agreement> {
    let same = |one: &Measured, other: &Measured| one.name == other.name && one.workers == other.workers;
    let pairs = a.scenarios.iter().filter_map(|one| {
        let other = b.scenarios.iter().find(|other| same(one, other))?;
        Some((Summary::of(one), Summary::of(other)))
    });
    pairs
        .map(|(a, b)| Agreement { name: a.name.clone(), workers: a.workers, ratios: ratios(&a, &b) })
        .collect()
}

fn ratios(a: &Summary, b: &Summary) -> Vec<(String, f64, f64)> {
    let both = |name: &str, a: Option<&Estimate>, b: Option<&Estimate>| {
        Some((name.to_owned(), a?.median, b?.median))
    };
    let rows = a.rows.iter().filter_map(|row| {
        let other = b.row(&row.name)?;
        both(&row.name, row.ours_to_it.as_ref(), other.ours_to_it.as_ref())
    });
    let best = |of: &Summary| of.best.as_ref().and_then(|best| best.ratio);
    rows.chain(both("the best", best(a).as_ref(), best(b).as_ref())).collect()
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{figures, run, scenario};
    use super::*;

    fn of(ours: f64, relay: f64) -> Run {
        let round = || figures(&[("sluicegate", ours), ("relay", relay), ("nginx", 20.0)]);
        run(vec![scenario("small-get", vec![round(), round()])])
    }

    #[test]
    fn five_per_cent_is_agreement_and_more_is_none() {
        let [same] = &compare(&of(10.0, 8.0), &of(10.4, 8.1))[..] else { panic!("one scenario") };
        assert!(same.holds());
        assert_eq!(same.text(), "3 medians of ratios agree, within 4.0 %");
        let [other] = &compare(&of(10.0, 8.0), &of(10.0, 7.5))[..] else { panic!("one scenario") };
        assert!(!other.holds());
        assert_eq!(other.text(), "do NOT agree within 5.0 %: to relay 1.25 and 1.33 (6.7 % apart)");
    }

    #[test]
    fn what_one_run_lacks_is_not_compared() {
        let mut second = of(10.0, 8.0);
        second.scenarios[0]
            .rounds
            .iter_mut()
            .for_each(|round| round.outcomes.retain(|(name, _)| name != "nginx"));
        let [agreement] = &compare(&of(10.0, 8.0), &second)[..] else { panic!("one scenario") };
        assert_eq!(agreement.ratios, [("relay".to_owned(), 1.25, 1.25)]);
        second.scenarios[0].workers = 2;
        assert_eq!(compare(&of(10.0, 8.0), &second), []);
    }

    #[test]
    fn nothing_in_common_is_no_agreement() {
        let nothing = Agreement { name: "a".to_owned(), workers: 1, ratios: Vec::new() };
        assert!(!nothing.holds());
    }
}
