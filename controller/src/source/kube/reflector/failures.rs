//! What a failure means for what comes next, and when that is.

use std::time::{Duration, Instant};

use super::super::failure::Failure;
use super::{Goal, Reflector, Relist};

/// The first delay after a failure, and the longest.
const FIRST_DELAY: Duration = Duration::from_millis(250);
pub(super) const MAX_DELAY: Duration = Duration::from_secs(30);
/// The longest delay while one asks for all whether the server is there again.
const AWAY_DELAY: Duration = Duration::from_millis(200);
/// The delay where others are answered, after …
const CALM_DELAY: Duration = Duration::from_secs(1);
/// … this many failures.
const FEW_FAILURES: u32 = 5;
/// The longest delay where nothing but a connection is lost.
const MAX_LOST_DELAY: Duration = Duration::from_secs(1);
/// The longest delay that a server can ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);
/// A page is asked for again this often before the list starts anew.
pub(super) const PAGE_ATTEMPTS: u32 = 3;

impl Reflector {
    /// A request failed, or the answer to it.
    pub(in super::super) fn failed(&mut self, now: Instant, failure: &Failure) {
        self.opened = None;
        let is_away = self.is_away(failure);
        match failure {
            Failure::Unreachable(_) => {
                self.outage();
                let delay = self.jittered(if is_away { AWAY_DELAY } else { 2 * FIRST_DELAY });
                self.delay(now, delay);
            }
            Failure::Lost(_) | Failure::Silent(_) => {
                self.lost(now);
                self.restart(self.failures < PAGE_ATTEMPTS);
            }
            Failure::Gone(_) => {
                self.lost_position();
                self.lost(now);
            }
            Failure::Untrusted(_) => {
                self.outage();
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
                    _ => self.lost_position(),
                }
            }
            Failure::Malformed(_) => {
                self.back_off(now);
                self.lost_position();
            }
        }
        let is_asked_to_wait = matches!(failure, Failure::Status { retry_after: Some(_), .. });
        if is_away && !is_asked_to_wait {
            self.want_list(Relist::Due);
            let delay = self.jittered(AWAY_DELAY);
            self.delay(now, delay);
        }
    }

    /// Others are answered, so that it is this list that the server is in trouble with: after a few failures, there is no
    /// hurry.
    pub(in super::super) fn calm(&mut self, now: Instant) {
        if self.failures > FEW_FAILURES {
            let until = now + CALM_DELAY + self.jittered(CALM_DELAY / 2);
            self.not_before = Some(self.not_before.map_or(until, |at| at.max(until)));
        }
    }

    /// True if this failure, of what comes next, says that a server which was followed is away: it cannot be reached, or
    /// does not even answer the least that can be asked of it.
    pub(in super::super) fn is_away(&self, failure: &Failure) -> bool {
        let is_check = self.goal == Goal::Check;
        match failure {
            Failure::Unreachable(_) => self.position.is_some(),
            Failure::Untrusted(_) | Failure::Silent(_) | Failure::Status { code: 500.., .. } => is_check,
            _ => false,
        }
    }

    /// After a failure that says nothing against what we know: go on with the page, or check and watch.
    pub(super) fn restart(&mut self, keep_page: bool) {
        match &self.goal {
            Goal::List { token: Some(_) } if keep_page => return,
            Goal::List { .. } => self.want_list(Relist::Due),
            Goal::Check | Goal::Watch => {}
        }
        self.look();
    }

    /// The server was away: nobody knows what it is when it comes back.
    pub(super) fn outage(&mut self) {
        self.want_list(Relist::Due);
        self.look();
    }

    /// After a failure that says that what we know is of no use to the server.
    pub(super) fn lost_position(&mut self) {
        self.want_list(Relist::Must);
        self.look();
    }

    /// Only a connection is lost: the first time that is nothing, and it never is much.
    pub(super) fn lost(&mut self, now: Instant) {
        let delay = match self.failures {
            0 => self.jittered(FIRST_DELAY / 5),
            failures => self.exponential(failures, MAX_LOST_DELAY),
        };
        self.failures = self.failures.saturating_add(1);
        self.delay(now, delay);
    }

    pub(super) fn back_off(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        let delay = self.exponential(self.failures, MAX_DELAY);
        self.delay(now, delay);
    }

    pub(super) fn exponential(&mut self, failures: u32, most: Duration) -> Duration {
        let delay = FIRST_DELAY * 2_u32.saturating_pow(failures.saturating_sub(1).min(10));
        self.jittered(delay.min(most))
    }

    /// Between half of `delay` and all of it.
    pub(super) fn jittered(&mut self, delay: Duration) -> Duration {
        delay.mul_f64(0.5 + self.random.f64() / 2.0)
    }

    pub(super) fn delay(&mut self, now: Instant, delay: Duration) {
        self.not_before = Some(now + delay);
    }
}
