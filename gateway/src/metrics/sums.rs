//! Counters added up over workers, and over what does not get a series of its own.

use std::collections::HashSet;
use std::hash::Hash;

use foldhash::fast::RandomState;

use super::cells::{
    BackendCounters, Counter, EndpointCounters, Histogram, LATENCY_BOUNDS_US, PerWorker, RouteBlock,
    RouteCounters,
};

/// A set of monotone values that can be added.
pub(crate) trait Sums: Clone + Default {
    /// The cells that one worker writes.
    type Cells: Default;

    /// The present values of one worker.
    fn read(cells: &Self::Cells) -> Self;

    /// Calls `with` for each value and its counterpart.
    fn zip(&mut self, other: &Self, with: &mut dyn FnMut(&mut u64, u64));

    /// Adds value by value.
    fn add(&mut self, other: &Self) {
        self.zip(other, &mut |mine, theirs| *mine = mine.wrapping_add(theirs));
    }

    /// The sum over all workers; `None` if no worker ever counted anything here.
    fn over_workers(cells: &PerWorker<Self::Cells>) -> Option<Self> {
        cells.iter().map(Self::read).reduce(|mut sum, cells| {
            sum.add(&cells);
            sum
        })
    }
}

/// Values of a [`Histogram`].
#[derive(Clone, Debug, Default)]
pub(crate) struct HistogramSums {
    pub(super) buckets: [u64; LATENCY_BOUNDS_US.len() + 1],
    pub(super) sum_us: u64,
}

impl HistogramSums {
    fn read(cells: &Histogram) -> Self {
        Self { buckets: cells.buckets.each_ref().map(Counter::value), sum_us: cells.sum_us.value() }
    }

    fn zip(&mut self, other: &Self, with: &mut dyn FnMut(&mut u64, u64)) {
        self.buckets.iter_mut().zip(&other.buckets).for_each(|(mine, theirs)| with(mine, *theirs));
        with(&mut self.sum_us, other.sum_us);
    }
}

/// Values of [`RouteCounters`].
#[derive(Clone, Debug, Default)]
pub(crate) struct RouteSums {
    pub(super) responses: [u64; 5],
    pub(super) duration: HistogramSums,
    pub(super) request_bytes: u64,
    pub(super) response_bytes: u64,
}

impl RouteSums {
    /// The sum over all workers of what is counted at `slot`; `None` if nothing ever was.
    pub(crate) fn of_slot(blocks: &PerWorker<RouteBlock>, slot: usize) -> Option<Self> {
        let counters = blocks.iter().filter_map(|block| block.at(slot));
        let total = counters.fold(Self::default(), |mut sum, counters| {
            sum.add(&Self::read(counters));
            sum
        });
        total.has_counted().then_some(total)
    }

    /// Without what `earlier` had.
    pub(crate) fn since(mut self, earlier: &Self) -> Self {
        self.zip(earlier, &mut |mine, theirs| *mine = mine.wrapping_sub(theirs));
        self
    }

    /// Number of requests; each has a duration.
    pub(crate) fn requests(&self) -> u64 {
        self.duration.buckets.iter().fold(0, |sum, count| sum.wrapping_add(*count))
    }

    /// Whether any request was counted.
    pub(crate) fn has_counted(&self) -> bool {
        self.requests() > 0
    }
}

impl Sums for RouteSums {
    type Cells = RouteCounters;

    fn read(cells: &RouteCounters) -> Self {
        Self {
            responses: cells.responses(),
            duration: HistogramSums::read(&cells.duration),
            request_bytes: cells.request_bytes.value(),
            response_bytes: cells.response_bytes.value(),
        }
    }

    fn zip(&mut self, other: &Self, with: &mut dyn FnMut(&mut u64, u64)) {
        self.responses.iter_mut().zip(&other.responses).for_each(|(mine, theirs)| with(mine, *theirs));
        self.duration.zip(&other.duration, with);
        with(&mut self.request_bytes, other.request_bytes);
        with(&mut self.response_bytes, other.response_bytes);
    }
}

/// Values of [`BackendCounters`].
#[derive(Clone, Debug, Default)]
pub(super) struct BackendSums {
    pub(super) retries: u64,
    pub(super) retries_denied: u64,
    pub(super) no_endpoint: u64,
    pub(super) queued: u64,
    pub(super) queue_rejected: u64,
}

impl Sums for BackendSums {
    type Cells = BackendCounters;

    fn read(cells: &BackendCounters) -> Self {
        Self {
            retries: cells.retries.value(),
            retries_denied: cells.retries_denied.value(),
            no_endpoint: cells.no_endpoint.value(),
            queued: cells.queued.value(),
            queue_rejected: cells.queue_rejected.value(),
        }
    }

    fn zip(&mut self, other: &Self, with: &mut dyn FnMut(&mut u64, u64)) {
        with(&mut self.retries, other.retries);
        with(&mut self.retries_denied, other.retries_denied);
        with(&mut self.no_endpoint, other.no_endpoint);
        with(&mut self.queued, other.queued);
        with(&mut self.queue_rejected, other.queue_rejected);
    }
}

/// Values of [`EndpointCounters`].
#[derive(Clone, Debug, Default)]
pub(super) struct EndpointSums {
    pub(super) requests: u64,
    pub(super) failures: u64,
    pub(super) connects: u64,
    pub(super) response_head: HistogramSums,
}

impl Sums for EndpointSums {
    type Cells = EndpointCounters;

    fn read(cells: &EndpointCounters) -> Self {
        Self {
            requests: cells.requests.value(),
            failures: cells.failures.value(),
            connects: cells.connects.value(),
            response_head: HistogramSums::read(&cells.response_head),
        }
    }

    fn zip(&mut self, other: &Self, with: &mut dyn FnMut(&mut u64, u64)) {
        with(&mut self.requests, other.requests);
        with(&mut self.failures, other.failures);
        with(&mut self.connects, other.connects);
        self.response_head.zip(&other.response_head, with);
    }
}

/// Which keys have a series of their own, from scrape to scrape.
///
/// A key that has one keeps it while it exists, so that no counter jumps between its own series and `_other`
/// for want of room. What is folded into `_other` never decreases: when a folded key vanishes or gets its own
/// series, its share stays.
#[derive(Debug)]
pub(super) struct Folding<K, S> {
    limit: usize,
    own: HashSet<K, RandomState>,
    /// The folded sum at the last scrape.
    last: S,
    /// What earlier members of the folded sum took away when they left it.
    kept: S,
}

/// The outcome of [`Folding::fold`].
#[derive(Debug)]
pub(super) struct Folded<K, S> {
    /// Keys with a series of their own, in the order given.
    pub(super) own: Vec<(K, S)>,
    /// The rest; `None` as long as there was never any.
    pub(super) other: Option<S>,
    /// How many keys make up the rest now.
    pub(super) folded: usize,
}

impl<K: Clone + Eq + Hash, S: Sums> Folding<K, S> {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, own: HashSet::default(), last: S::default(), kept: S::default() }
    }

    /// Whether `key` has a series of its own since the last [`Self::fold`].
    pub(super) fn has(&self, key: &K) -> bool {
        self.own.contains(key)
    }

    /// Room left for series without counters.
    pub(super) fn room(&self) -> usize {
        self.limit.saturating_sub(self.own.len())
    }

    /// Decides for every key with counters. `items`: key → values, each key once, in an order that stays the
    /// same from scrape to scrape.
    pub(super) fn fold(&mut self, items: Vec<(K, S)>) -> Folded<K, S> {
        let before = std::mem::take(&mut self.own);
        self.own.extend(items.iter().map(|(key, _)| key).filter(|key| before.contains(*key)).cloned());
        let mut own = Vec::with_capacity(items.len().min(self.limit));
        let mut rest = S::default();
        let mut folded = 0;
        for (key, values) in items {
            if self.own.contains(&key) {
                own.push((key, values));
            } else if self.own.len() < self.limit {
                self.own.insert(key.clone());
                own.push((key, values));
            } else {
                rest.add(&values);
                folded += 1;
            }
        }
        let mut lost = std::mem::replace(&mut self.last, rest.clone());
        lost.zip(&rest, &mut |before, now| *before = before.saturating_sub(now));
        self.kept.add(&lost);
        rest.add(&self.kept);
        let mut any = folded > 0;
        rest.clone().zip(&S::default(), &mut |value, _| any |= *value > 0);
        Folded { own, other: any.then_some(rest), folded }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retries(count: u64) -> BackendSums {
        BackendSums { retries: count, ..BackendSums::default() }
    }

    fn items(list: &[(&'static str, u64)]) -> Vec<(&'static str, BackendSums)> {
        list.iter().map(|(name, count)| (*name, retries(*count))).collect()
    }

    fn own(folded: &Folded<&'static str, BackendSums>) -> Vec<(&'static str, u64)> {
        folded.own.iter().map(|(name, sums)| (*name, sums.retries)).collect()
    }

    #[test]
    fn beyond_the_limit_keys_are_summed_up() {
        let mut folding = Folding::new(2);
        let folded = folding.fold(items(&[("a", 1), ("b", 2), ("c", 4), ("d", 8)]));
        assert_eq!(own(&folded), [("a", 1), ("b", 2)]);
        assert_eq!((folded.other.unwrap().retries, folded.folded), (12, 2));
    }

    #[test]
    fn a_key_with_a_series_keeps_it_when_a_lesser_one_arrives() {
        let mut folding = Folding::new(1);
        folding.fold(items(&[("m", 1)]));
        let folded = folding.fold(items(&[("a", 5), ("m", 2)]));
        assert_eq!(own(&folded), [("m", 2)]);
        assert_eq!(folded.other.unwrap().retries, 5);
    }

    #[test]
    fn the_folded_sum_never_decreases() {
        let mut folding = Folding::new(1);
        assert!(folding.fold(items(&[("a", 1)])).other.is_none());
        assert_eq!(folding.fold(items(&[("a", 1), ("b", 10), ("c", 5)])).other.unwrap().retries, 15);
        // b vanishes: its ten stay.
        assert_eq!(folding.fold(items(&[("a", 1), ("c", 5)])).other.unwrap().retries, 15);
        assert_eq!(folding.fold(items(&[("a", 1), ("c", 7)])).other.unwrap().retries, 17);
        // a vanishes, so c gets its own series: what it counted until now stays in the sum as well.
        let folded = folding.fold(items(&[("c", 9)]));
        assert_eq!((folded.other.as_ref().unwrap().retries, folded.folded), (17, 0));
        assert_eq!(own(&folded), [("c", 9)]);
    }

    #[test]
    fn cells_of_all_workers_are_added_and_absent_ones_are_no_traffic() {
        let cells = PerWorker::<BackendCounters>::new(4);
        assert!(BackendSums::over_workers(&cells).is_none());
        cells.of(0).unwrap().queued.add(2);
        cells.of(3).unwrap().queued.add(3);
        assert_eq!(BackendSums::over_workers(&cells).unwrap().queued, 5);
    }
}
