//! When one resource is listed, when it is watched, and what a failure means for that. A pure state machine: time and
//! randomness are arguments; it never sees an object and never does I/O.
//!
//! - Lists come in pages and are consistent reads; a continuation that has expired starts the list again.
//! - A watch goes on from the last version that was seen. It is short (so that it never outlives what a load balancer
//!   remembers, and so that the server's last bookmark keeps the version young), and reopened at once.
//! - Before a watch is resumed after something looked wrong, and before everything is listed again, a few objects are
//!   asked for: has this server seen what we have? All lists are consistent reads, so that one which is behind us is of
//!   another history; that is believed when it was said twice, and later only if most objects would go with it.
//! - Lists after the first one are rationed, so that a server that comes and goes is not asked for everything each time.
//!   Where the server still knows our version, the watch goes on until there is a ration.
//! - Everything is listed again after an outage, and now and then without a reason: whatever was missed, and however,
//!   is found then.

mod failures;
mod ration;

use std::sync::Arc;
use std::time::{Duration, Instant};

use self::failures::MAX_DELAY;
use self::ration::{RELISTS, Ration};
use super::version::Version;

/// How long a watch is asked for, in milliseconds. Servers send a bookmark shortly before its end.
const WATCH_MS: std::ops::RangeInclusive<u64> = 25_000..=30_000;
/// A watch that lasted this long was no failure.
const FAIR_WATCH: Duration = Duration::from_secs(5);
/// A server that is behind what we have seen is believed when it says so again after this time …
const SECOND_READ: Duration = Duration::from_millis(100);
/// … or after this time, if it has less than half of the objects: they may just be on their way back.
const PATIENCE: Duration = Duration::from_secs(10);
/// Everything is listed again after this time at the latest, so that nothing that was missed is missed for ever …
const REVIEW: Duration = Duration::from_secs(600);
/// … and after this time if the last list could not be read in full.
const EARLY_REVIEW: Duration = Duration::from_secs(60);

/// What to do next.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Step {
    /// Nothing before then.
    Wait(Instant),
    /// Ask for a few objects and compare.
    Check,
    /// Ask for a page of the list: the first one, or the one that the token continues with.
    List(Option<Arc<str>>),
    /// Watch from this version on, for this long.
    Watch(Version, Duration),
}

/// What a [`Step::Check`] found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Found {
    /// All is as we know it.
    Same,
    /// The server is not behind, but something was missed.
    Missed,
    /// The server is behind what we have seen.
    Behind,
    /// The server is behind, and has less than half of what is known.
    Shrunk,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Goal {
    List { token: Option<Arc<str>> },
    Check,
    Watch,
}

/// Whether everything is to be listed again.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Relist {
    No,
    /// As soon as there is a ration; the watch may go on until then.
    Due,
    /// Before anything else: the server does not know our version.
    Must,
}

/// The state of one resource.
#[derive(Debug)]
pub(super) struct Reflector {
    goal: Goal,
    /// The last version that was seen; `None` before the first list is complete.
    position: Option<Version>,
    not_before: Option<Instant>,
    /// Failures in a row.
    failures: u32,
    ration: Ration,
    relist: Relist,
    /// When a list is due without any other reason; `None` before the first one.
    review: Option<Instant>,
    /// The server has been behind since.
    behind_since: Option<Instant>,
    /// When the watch was opened, and whether anything came.
    opened: Option<Instant>,
    heard: bool,
    random: fastrand::Rng,
}

impl Reflector {
    /// Nothing is known yet. `random` is for jitter.
    pub(super) fn new(random: fastrand::Rng) -> Self {
        Self {
            goal: Goal::List { token: None },
            position: None,
            not_before: None,
            failures: 0,
            ration: Ration { left: RELISTS, last: None },
            relist: Relist::No,
            review: None,
            behind_since: None,
            opened: None,
            heard: false,
            random,
        }
    }

    /// The last version that was seen; `None` before the first list is complete.
    pub(super) fn position(&self) -> Option<&Version> {
        self.position.as_ref()
    }

    /// What to do at `now`.
    pub(super) fn step(&mut self, now: Instant) -> Step {
        if let Some(until) = self.not_before.filter(|until| *until > now) {
            return Step::Wait(until);
        }
        match (&self.goal, &self.position) {
            (Goal::List { token }, _) => Step::List(token.clone()),
            (Goal::Check, _) if self.relist == Relist::Must && self.ration.opens(now) > now => {
                Step::Wait(self.ration.opens(now))
            }
            (Goal::Check, _) => Step::Check,
            (Goal::Watch, Some(position)) => {
                let position = position.clone();
                Step::Watch(position, Duration::from_millis(self.random.u64(WATCH_MS)))
            }
            (Goal::Watch, None) => Step::List(None),
        }
    }

    /// A page came, and `token` continues with the next one.
    pub(super) fn page(&mut self, now: Instant, token: &str) {
        self.spend(now);
        self.goal = Goal::List { token: Some(token.into()) };
    }

    /// The last page came; the list is as of `version`, and `shrinks` if it lacks most of what is known. True if it is to
    /// be believed; otherwise it must be thrown away.
    pub(super) fn listed(&mut self, now: Instant, version: Option<Version>, shrinks: bool) -> bool {
        self.spend(now);
        let is_behind = match (&version, &self.position) {
            (Some(version), Some(position)) => version.is_before(position),
            _ => false,
        };
        if is_behind && !self.is_believed(now, shrinks) {
            if shrinks {
                // There may be many of those, and the one that is believed must not come late for them.
                self.ration.left = RELISTS.min(self.ration.left + 1);
            }
            self.behind(now);
            return false;
        }
        self.position = version;
        self.goal = Goal::Watch;
        self.failures = 0;
        self.behind_since = None;
        self.relist = Relist::No;
        self.review = Some(now + self.jittered(REVIEW));
        // Without a version there is nothing to watch from.
        if self.position.is_none() {
            self.goal = Goal::List { token: None };
            self.delay(now, MAX_DELAY);
        }
        true
    }

    /// Some of the last list could not be read, so that it said nothing on what is gone.
    pub(super) fn listed_in_part(&mut self, now: Instant) {
        self.review = Some(now + EARLY_REVIEW);
    }

    /// What the check found. True if the history is another one than before.
    pub(super) fn checked(&mut self, now: Instant, found: Found) -> bool {
        let is_other = match found {
            Found::Behind | Found::Shrunk if !self.is_believed(now, found == Found::Shrunk) => {
                self.behind(now);
                return false;
            }
            Found::Behind | Found::Shrunk => true,
            Found::Same | Found::Missed => false,
        };
        if is_other {
            self.want_list(Relist::Must);
        } else {
            self.behind_since = None;
        }
        if found == Found::Missed {
            self.want_list(Relist::Due);
        }
        let is_rationed = self.ration.opens(now) > now;
        self.goal = match self.relist {
            Relist::No => Goal::Watch,
            Relist::Due if is_rationed => Goal::Watch,
            Relist::Must if is_rationed => Goal::Check,
            Relist::Due | Relist::Must => Goal::List { token: None },
        };
        is_other
    }

    /// The watch is open.
    pub(super) fn opened(&mut self, now: Instant) {
        self.opened = Some(now);
        self.heard = false;
    }

    /// An event or a bookmark of `version` came. False if the server went back in time, so that the watch must be left.
    pub(super) fn heard(&mut self, version: Option<Version>, is_bookmark: bool) -> bool {
        self.heard = true;
        self.failures = 0;
        let Some(version) = version else { return true };
        if self.position.as_ref().is_some_and(|position| version.is_before(position)) {
            if is_bookmark {
                self.goal = Goal::Check;
            }
            return !is_bookmark;
        }
        self.position = Some(version);
        true
    }

    /// An event came of which not even the version can be read. True if the watch is to be left for a list now; if there
    /// is no ration for one, it is better to hear the rest meanwhile.
    pub(super) fn missed(&mut self, now: Instant) -> bool {
        self.want_list(Relist::Due);
        let is_left = self.ration.opens(now) <= now;
        if is_left {
            self.goal = Goal::Check;
        }
        is_left
    }

    /// The watch ended as it should.
    pub(super) fn ended(&mut self, now: Instant) {
        let lasted = self.opened.take().map_or(Duration::ZERO, |opened| now - opened);
        if lasted >= FAIR_WATCH {
            self.failures = 0;
        } else {
            self.lost(now);
        }
        if self.review.is_some_and(|at| at <= now) {
            self.want_list(Relist::Due);
        }
        let is_list_possible = self.relist != Relist::No && self.ration.opens(now) <= now;
        // Not even a bookmark: a server whose history ends before our version has nothing to say, for ever.
        if self.goal == Goal::Watch && (!self.heard || is_list_possible) {
            self.goal = Goal::Check;
        }
    }

    /// True if what comes next is answered soon by any server that answers at all, and nothing says yet that it is slow.
    pub(super) fn is_quick(&self) -> bool {
        match &self.goal {
            Goal::Check => self.failures <= 1,
            Goal::Watch => self.failures == 0,
            Goal::List { token } => self.failures == 0 && token.is_none() && self.position.is_none(),
        }
    }

    /// The user wants everything to be looked at again.
    pub(super) fn reread(&mut self) {
        self.not_before = None;
        self.list_soon();
    }

    /// Something is wanted that only a list has: it comes as soon as the server can be asked, whatever was rationed.
    pub(super) fn list_soon(&mut self) {
        self.ration.left = self.ration.left.max(1);
        self.want_list(Relist::Due);
        self.look();
    }

    /// Something looks wrong with the server: it must be checked before the watch goes on.
    pub(super) fn suspect(&mut self) {
        if self.goal == Goal::Watch {
            self.goal = Goal::Check;
        }
    }

    /// What was waited for until `until` may be tried at once; it is known that the server is there.
    pub(super) fn hurry_after(&mut self, until: Instant) {
        self.not_before = self.not_before.filter(|at| *at > until);
    }

    /// True in the middle of a list, which must be of one mind on what is wanted.
    pub(super) fn is_listing(&self) -> bool {
        matches!(self.goal, Goal::List { token: Some(_) })
    }

    /// True if the watch is to go on.
    pub(super) fn is_watching(&self) -> bool {
        self.goal == Goal::Watch
    }

    /// The next thing is a look at the server; if nothing is known there is nothing to compare.
    fn look(&mut self) {
        self.goal = match self.position {
            Some(_) => Goal::Check,
            None => Goal::List { token: None },
        };
    }

    fn want_list(&mut self, relist: Relist) {
        self.relist = self.relist.max(relist);
    }

    fn behind(&mut self, now: Instant) {
        self.goal = Goal::Check;
        let delay = SECOND_READ + self.jittered(SECOND_READ);
        self.delay(now, delay);
    }

    /// True if a server that is behind, as it was before, is to be believed.
    fn is_believed(&mut self, now: Instant, shrinks: bool) -> bool {
        let since = *self.behind_since.get_or_insert(now);
        now - since >= if shrinks { PATIENCE } else { SECOND_READ }
    }

    /// The first page of a list that is not the first list.
    fn spend(&mut self, now: Instant) {
        if self.position.is_some() && self.goal == (Goal::List { token: None }) {
            self.ration.spend(now);
        }
    }
}

#[cfg(test)]
mod tests;
