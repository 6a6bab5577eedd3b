//! When one resource is listed, when it is watched, and what a failure means for that. A pure state machine: time and
//! randomness are arguments; it never sees an object and never does I/O.
//!
//! - Lists come in pages and are consistent reads; a continuation that has expired starts the list again.
//! - A watch goes on from the last version that was seen. It is short (so that it never outlives what a load balancer
//!   remembers, and so that the server's last bookmark keeps the version young), and reopened at once.
//! - Before a watch is resumed after something looked wrong, and before everything is listed again, a few objects are
//!   asked for: is this server ahead of what we have seen, and is its history the one that we know? A server that is
//!   behind is given time to catch up; only then is it believed that its history is another one.
//! - Lists after the first one are rationed, so that a server that comes and goes is not asked for everything each time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::failure::Failure;
use super::version::Version;

/// How long a watch is asked for, in milliseconds. Servers send a bookmark shortly before its end.
const WATCH_MS: std::ops::RangeInclusive<u64> = 25_000..=30_000;
/// A watch that lasted this long was no failure.
const FAIR_WATCH: Duration = Duration::from_secs(5);
/// The first delay after a failure, and the longest.
const FIRST_DELAY: Duration = Duration::from_millis(250);
const MAX_DELAY: Duration = Duration::from_secs(30);
/// The longest delay where nothing but a connection is lost.
const MAX_LOST_DELAY: Duration = Duration::from_secs(1);
/// The longest delay that a server can ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);
/// A page is asked for again this often before the list starts anew.
const PAGE_ATTEMPTS: u32 = 3;
/// How long a server may be behind what we have seen.
const PATIENCE: Duration = Duration::from_secs(10);
/// Lists after the first one: this many at once …
const RELISTS: u32 = 2;
/// … and one more each …
const RELIST_INTERVAL: Duration = Duration::from_secs(30);

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
    /// The server is behind, and has things that cannot be in the history that we know.
    Other,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Goal {
    List { token: Option<Arc<str>> },
    Check { then_list: bool },
    Watch,
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
    /// The server has been behind since.
    behind_since: Option<Instant>,
    /// A list may be behind what was seen: the history is another one.
    is_other_history: bool,
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
            behind_since: None,
            is_other_history: false,
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
            (Goal::Check { then_list: true }, _) if self.ration.opens(now) > now => {
                Step::Wait(self.ration.opens(now))
            }
            (Goal::Check { .. }, _) => Step::Check,
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
        let is_hasty = shrinks && !self.is_patience_over(now);
        if is_behind && (!self.is_other_history || is_hasty) {
            self.behind(now, true);
            return false;
        }
        self.position = version;
        self.goal = Goal::Watch;
        self.failures = 0;
        self.behind_since = None;
        self.is_other_history = false;
        // Without a version there is nothing to watch from.
        if self.position.is_none() {
            self.goal = Goal::List { token: None };
            self.delay(now, MAX_DELAY);
        }
        true
    }

    /// What the check found; `is_known_other` if another resource has seen that the history is another one.
    pub(super) fn checked(&mut self, now: Instant, found: Found, is_known_other: bool) {
        let then_list = self.goal == Goal::Check { then_list: true };
        match found {
            Found::Same => {
                self.behind_since = None;
                self.goal = if then_list { Goal::List { token: None } } else { Goal::Watch };
            }
            Found::Missed => {
                self.behind_since = None;
                self.list_when_rationed(now);
            }
            Found::Behind if !is_known_other && !self.is_patience_over(now) => self.behind(now, then_list),
            Found::Behind | Found::Other => {
                self.behind_since.get_or_insert(now);
                self.is_other_history = true;
                self.list_when_rationed(now);
            }
        }
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
                self.goal = Goal::Check { then_list: false };
            }
            return !is_bookmark;
        }
        self.position = Some(version);
        true
    }

    /// An event came of which not even the version can be read.
    pub(super) fn missed(&mut self) {
        self.goal = Goal::Check { then_list: true };
    }

    /// The watch ended as it should.
    pub(super) fn ended(&mut self, now: Instant) {
        let lasted = self.opened.take().map_or(Duration::ZERO, |opened| now - opened);
        if lasted >= FAIR_WATCH {
            self.failures = 0;
        } else {
            self.lost(now);
        }
        if !self.heard && self.goal == Goal::Watch {
            // Not even a bookmark: a server whose history ends before our version has nothing to say, for ever.
            self.goal = Goal::Check { then_list: false };
        }
    }

    /// A request failed, or the answer to it.
    pub(super) fn failed(&mut self, now: Instant, failure: &Failure) {
        self.opened = None;
        match failure {
            Failure::Unreachable(_) => {
                self.restart(false);
                let delay = self.jittered(2 * FIRST_DELAY);
                self.delay(now, delay);
            }
            Failure::Lost(_) | Failure::Silent(_) => {
                self.lost(now);
                self.restart(self.failures < PAGE_ATTEMPTS);
            }
            Failure::Gone(_) => {
                self.relist();
                self.lost(now);
            }
            Failure::Untrusted(_) => {
                self.restart(false);
                self.back_off(now);
            }
            Failure::Status { code, retry_after, .. } => {
                self.back_off(now);
                if let Some(wanted) = retry_after {
                    let wanted = (*wanted).min(MAX_RETRY_AFTER);
                    let delay = wanted + self.jittered(wanted / 4);
                    self.delay(now, delay);
                }
                match code {
                    429 | 500.. => self.restart(self.failures < PAGE_ATTEMPTS),
                    401 | 403 | 404 => self.restart(false),
                    _ => self.relist(),
                }
            }
            Failure::Malformed(_) => {
                self.back_off(now);
                self.relist();
            }
        }
    }

    /// The user wants everything to be looked at again.
    pub(super) fn reread(&mut self) {
        self.not_before = None;
        self.ration.left = self.ration.left.max(1);
        self.goal = match self.position {
            Some(_) => Goal::Check { then_list: true },
            None => Goal::List { token: None },
        };
    }

    /// Something looks wrong with the server: it must be checked before the watch goes on.
    pub(super) fn suspect(&mut self) {
        if self.goal == Goal::Watch {
            self.goal = Goal::Check { then_list: false };
        }
    }

    /// What was waited for until `until` may be tried at once; it is known that the server is there.
    pub(super) fn hurry_after(&mut self, until: Instant) {
        self.not_before = self.not_before.filter(|at| *at > until);
    }

    /// After a failure that says nothing against what we know: go on with the page, or check and watch.
    fn restart(&mut self, keep_page: bool) {
        match &self.goal {
            Goal::List { token: Some(_) } if keep_page => {}
            Goal::List { .. } if self.position.is_none() => self.goal = Goal::List { token: None },
            Goal::List { .. } => self.goal = Goal::Check { then_list: true },
            Goal::Check { .. } => {}
            Goal::Watch => self.goal = Goal::Check { then_list: false },
        }
    }

    /// After a failure that says that what we know is of no use to the server.
    fn relist(&mut self) {
        self.goal = match self.position {
            Some(_) => Goal::Check { then_list: true },
            None => Goal::List { token: None },
        };
    }

    fn list_when_rationed(&mut self, now: Instant) {
        self.goal = if self.ration.opens(now) <= now {
            Goal::List { token: None }
        } else {
            Goal::Check { then_list: true }
        };
    }

    fn behind(&mut self, now: Instant, then_list: bool) {
        self.behind_since.get_or_insert(now);
        self.goal = Goal::Check { then_list };
        let delay = self.jittered(2 * FIRST_DELAY);
        self.delay(now, delay);
    }

    fn is_patience_over(&self, now: Instant) -> bool {
        self.behind_since.is_some_and(|since| now - since >= PATIENCE)
    }

    /// The first page of a list that is not the first list.
    fn spend(&mut self, now: Instant) {
        if self.position.is_some() && self.goal == (Goal::List { token: None }) {
            self.ration.spend(now);
        }
    }

    /// Only a connection is lost: the first time that is nothing, and it never is much.
    fn lost(&mut self, now: Instant) {
        let delay = match self.failures {
            0 => self.jittered(FIRST_DELAY / 5),
            failures => self.exponential(failures, MAX_LOST_DELAY),
        };
        self.failures = self.failures.saturating_add(1);
        self.delay(now, delay);
    }

    fn back_off(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        let delay = self.exponential(self.failures, MAX_DELAY);
        self.delay(now, delay);
    }

    fn exponential(&mut self, failures: u32, most: Duration) -> Duration {
        let delay = FIRST_DELAY * 2_u32.saturating_pow(failures.saturating_sub(1).min(10));
        self.jittered(delay.min(most))
    }

    /// Between half of `delay` and all of it.
    fn jittered(&mut self, delay: Duration) -> Duration {
        delay.mul_f64(0.5 + self.random.f64() / 2.0)
    }

    fn delay(&mut self, now: Instant, delay: Duration) {
        self.not_before = Some(now + delay);
    }
}

/// Lists after the first one.
#[derive(Debug)]
struct Ration {
    left: u32,
    /// When the last one was added or, if none was missing, used.
    last: Option<Instant>,
}

impl Ration {
    /// When the next list may begin.
    fn opens(&mut self, now: Instant) -> Instant {
        while let Some(last) = self.last.filter(|last| self.left < RELISTS && *last + RELIST_INTERVAL <= now)
        {
            self.left += 1;
            self.last = Some(last + RELIST_INTERVAL);
        }
        match self.last {
            Some(last) if self.left == 0 => last + RELIST_INTERVAL,
            _ => now,
        }
    }

    fn spend(&mut self, now: Instant) {
        if self.left == RELISTS {
            self.last = Some(now);
        }
        self.left = self.left.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests;
