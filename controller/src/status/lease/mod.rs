//! Who of several replicas writes: leader election over one Lease. A pure state machine: time and randomness are
//! arguments, and it never does I/O.
//!
//! Times in the Lease are by the wall clock of whoever wrote it and only compared for equality. A replica takes the Lease
//! when it has seen no change of it for its whole duration by its own clock; the holder stops at the renewal deadline,
//! counted from before its last successful renewal was sent. So the holder has stopped before anybody else can begin,
//! unless clocks run at rates that differ by half.

mod record;

use std::sync::Arc;
use std::time::Duration;

pub(super) use self::record::{Claim, Record};
use super::clock::Moment;

/// For how long others leave the Lease alone once its holder is silent.
const DURATION: Duration = Duration::from_secs(15);
/// How long the holder writes without a renewal.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// Between attempts, and between renewals; up to a fifth is added at random.
const RETRY: Duration = Duration::from_secs(2);
/// The longest time that one request about the Lease may take.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// What to do next.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Step {
    /// Nothing before then.
    Wait(Moment),
    /// Read the Lease; then [`Election::read`] or [`Election::failed`].
    Read,
    /// Make the Lease; then [`Election::written`], [`Election::refused`] or [`Election::failed`].
    Create(Claim),
    /// Change the Lease if it still has this version; then as for [`Step::Create`].
    Change(Arc<str>, Claim),
}

/// The state of one replica.
#[derive(Debug)]
pub(super) struct Election {
    identity: Arc<str>,
    /// What the Lease said when it last changed, and when we saw that.
    seen: Option<(Record, Moment)>,
    /// `seen` is what the server said last, as far as we know.
    is_fresh: bool,
    /// The Lease does not exist.
    is_missing: bool,
    /// We may write until then.
    valid_until: Option<Moment>,
    next: Moment,
    /// What the Lease is to say of published addresses.
    published: Option<Arc<str>>,
    random: fastrand::Rng,
}

impl Election {
    /// Nothing is known yet. `identity` must be another one for each start of each replica; `random` is for jitter.
    pub(super) fn new(identity: Arc<str>, random: fastrand::Rng) -> Self {
        Self {
            identity,
            seen: None,
            is_fresh: false,
            is_missing: false,
            valid_until: None,
            next: Moment::default(),
            published: None,
            random,
        }
    }

    /// We may write until then, if it is not past.
    pub(super) fn valid_until(&self) -> Option<Moment> {
        self.valid_until
    }

    /// True if we may write at `now`.
    pub(super) fn leads(&self, now: Moment) -> bool {
        self.valid_until.is_some_and(|until| now < until)
    }

    /// True if `record` says that we hold the Lease.
    pub(super) fn is_ours(&self, record: &Record) -> bool {
        *record.holder == *self.identity
    }

    /// Who holds the Lease, as far as we know; empty if nobody does.
    pub(super) fn holder(&self) -> &str {
        self.seen.as_ref().map_or("", |(record, _)| &record.holder)
    }

    /// What the Lease says of published addresses.
    pub(super) fn published(&self) -> &str {
        self.seen.as_ref().map_or("", |(record, _)| &record.published)
    }

    /// Has the Lease say `text` of published addresses, soon if it is ours.
    pub(super) fn publish(&mut self, text: Arc<str>, now: Moment) {
        if self.published.as_ref() == Some(&text) {
            return;
        }
        if self.leads(now) && *text != *self.published() {
            self.next = now;
        }
        self.published = Some(text);
    }

    /// What to do at `now`.
    pub(super) fn step(&mut self, now: Moment) -> Step {
        if now < self.next {
            return Step::Wait(self.next);
        }
        if !self.is_fresh {
            return Step::Read;
        }
        let Some((record, since)) = &self.seen else { return Step::Create(self.claim(true, 0)) };
        let is_ours = *record.holder == *self.identity;
        let expires = *since + record.duration.max(DURATION);
        if !is_ours && !record.holder.is_empty() && now < expires {
            // Nothing to be done about it but to look again; also if somebody deleted it under its holder.
            self.is_fresh = false;
            self.next = (now + self.retry()).min(expires);
            return Step::Wait(self.next);
        }
        let transitions = record.transitions.saturating_add(u32::from(!is_ours));
        let claim = self.claim(!is_ours, transitions);
        if self.is_missing { Step::Create(claim) } else { Step::Change(Arc::clone(&record.version), claim) }
    }

    /// The Lease says this, or does not exist.
    pub(super) fn read(&mut self, record: Option<Record>, now: Moment) {
        self.is_fresh = true;
        self.is_missing = record.is_none();
        match record {
            Some(record) => {
                if *record.holder != *self.identity {
                    self.valid_until = None;
                }
                self.see(record, now);
            }
            // Somebody may be making it right now.
            None => self.valid_until = None,
        }
    }

    /// The Lease says now what [`Self::step`] asked for; that request was sent at `sent`, which must not be later than it
    /// was.
    pub(super) fn written(&mut self, record: Record, sent: Moment, now: Moment) {
        self.is_fresh = true;
        self.is_missing = false;
        self.valid_until = (*record.holder == *self.identity).then(|| sent + RENEW_DEADLINE);
        self.seen = Some((record, now));
        self.next = now + self.retry();
    }

    /// The server refused because somebody else was quicker.
    pub(super) fn refused(&mut self, now: Moment) {
        self.is_fresh = false;
        // A holder has a deadline; others can wait.
        let retry = self.retry();
        self.next = now + if self.leads(now) { retry / 8 } else { retry };
    }

    /// Nothing is known of what became of the request.
    pub(super) fn failed(&mut self, now: Moment) {
        self.is_fresh = false;
        self.next = now + self.retry();
    }

    /// What lets others take over at once, if the Lease is ours. We may not write any more.
    pub(super) fn release(&mut self) -> Option<(Arc<str>, Claim)> {
        self.valid_until.take()?;
        let (record, _) = self.seen.as_ref().filter(|(record, _)| *record.holder == *self.identity)?;
        let claim = Claim {
            holder: "".into(),
            duration: Duration::from_secs(1),
            is_new: false,
            transitions: record.transitions,
            published: None,
        };
        Some((Arc::clone(&record.version), claim))
    }

    fn see(&mut self, record: Record, now: Moment) {
        let renewal = |record: &Record| {
            (Arc::clone(&record.holder), Arc::clone(&record.renewed), record.transitions, record.duration)
        };
        let since = match &self.seen {
            Some((old, since)) if renewal(old) == renewal(&record) => *since,
            _ => now,
        };
        self.seen = Some((record, since));
    }

    fn claim(&self, is_new: bool, transitions: u32) -> Claim {
        let published = self.published.clone().filter(|text| self.is_missing || **text != *self.published());
        Claim { holder: Arc::clone(&self.identity), duration: DURATION, is_new, transitions, published }
    }

    fn retry(&mut self) -> Duration {
        RETRY + RETRY.mul_f64(self.random.f64() / 5.0)
    }
}

#[cfg(test)]
mod tests;
