//! Which Bind of a worker gives up a flow while there is no room for sockets. Ends nothing by itself.

use slab::Slab;

use super::bound::Bound;
use super::flow::{Load, Whom};

/// A look at all Binds is good for some flows, so that one flow costs no look.
#[derive(Debug, Default)]
pub(super) struct Victims {
    chosen: Option<Chosen>,
    /// When no Bind had anything to give.
    barren: Option<u32>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Chosen {
    index: usize,
    whom: Whom,
    /// How many flows before another look.
    turns: usize,
}

impl Victims {
    /// The Bind that gives up its next flow, and of which kind: of the doubtful, the Bind that has most of them; so a flood
    /// costs its own flows. When the doubtful of all Binds are few, the Bind with most flows gives up one that is in
    /// use and silent. `None` if there is none of either, which is looked for no more than once in a tick.
    pub(super) fn next(&mut self, binds: &Slab<Bound>, now: u32) -> Option<(usize, Whom)> {
        let gives = |index, whom| binds.get(index).is_some_and(|bound| bound.gives(whom, now));
        let is_good = |chosen: &Chosen| chosen.turns > 0 && gives(chosen.index, chosen.whom);
        if !self.chosen.as_ref().is_some_and(is_good) {
            if self.barren == Some(now) {
                return None;
            }
            let loads = binds.iter().map(|(index, bound)| (index, bound.load()));
            self.chosen = choose(loads, |index| gives(index, Whom::Silent));
            self.barren = self.chosen.is_none().then_some(now);
        }
        let chosen = self.chosen.as_mut()?;
        chosen.turns -= 1;
        Some((chosen.index, chosen.whom))
    }
}

/// A look at all Binds.
fn choose(
    loads: impl Iterator<Item = (usize, Load)>,
    has_silent: impl FnOnce(usize) -> bool,
) -> Option<Chosen> {
    let mut sum = Load::default();
    let (mut doubtful, mut fullest) = ((0, 0), (0, 0));
    for (index, load) in loads {
        sum.all += load.all;
        sum.doubtful += load.doubtful;
        doubtful = doubtful.max((load.doubtful, index));
        fullest = fullest.max((load.all, index));
    }
    // Another Bind has hardly more before a quarter of these is gone.
    let turns = doubtful.0.div_ceil(4);
    let most_doubtful = (turns > 0).then_some(Chosen { index: doubtful.1, whom: Whom::Doubtful, turns });
    if sum.gives_doubtful() || !has_silent(fullest.1) {
        return most_doubtful;
    }
    let turns = sum.doubtful_wanted().div_ceil(4).max(1);
    Some(Chosen { index: fullest.1, whom: Whom::Silent, turns })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(loads: &[(usize, usize)], silent: &[usize]) -> Option<(usize, Whom)> {
        let loads = loads.iter().map(|(all, doubtful)| Load { all: *all, doubtful: *doubtful }).enumerate();
        choose(loads, |index| silent.contains(&index)).map(|chosen| (chosen.index, chosen.whom))
    }

    #[test]
    fn the_bind_with_most_doubtful_flows_gives_however_many_flows_others_have() {
        assert_eq!(chosen(&[(1_000, 10), (300, 300), (20, 20)], &[0, 1, 2]), Some((1, Whom::Doubtful)));
    }

    #[test]
    fn the_fullest_bind_gives_silent_flows_when_few_are_doubtful() {
        assert_eq!(chosen(&[(100, 0), (1_000, 10), (20, 20)], &[0, 1, 2]), Some((1, Whom::Silent)));
        assert_eq!(chosen(&[(100, 0), (1_000, 0)], &[0, 1]), Some((1, Whom::Silent)));
    }

    #[test]
    fn binds_that_are_not_the_fullest_keep_their_silent_flows() {
        assert_eq!(chosen(&[(100, 0), (1_000, 10)], &[0]), Some((1, Whom::Doubtful)));
        assert_eq!(chosen(&[(100, 0), (1_000, 0)], &[0]), None);
    }

    #[test]
    fn a_look_at_all_is_good_for_a_quarter_of_what_is_to_go() {
        let load = |all, doubtful| std::iter::once((0, Load { all, doubtful }));
        let turns = |all, doubtful| choose(load(all, doubtful), |_| true).map(|chosen| chosen.turns);
        assert_eq!((turns(800, 800), turns(800, 101), turns(1, 1)), (Some(200), Some(26), Some(1)));
        assert_eq!((turns(800, 20), turns(800, 99), turns(1, 0)), (Some(20), Some(1), Some(1)));
        assert_eq!(turns(0, 0), None);
    }
}
