//! What goes wrong on purpose: rules that say which requests fail how, and switches for the whole server. Never changes an
//! object.

mod control;
mod rule;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

pub(crate) use self::control::control;
pub use self::rule::{Effect, Fault, FaultId};
use crate::auth::Deed;

/// What goes wrong on purpose, until it is taken back.
#[derive(Debug)]
pub struct Faults {
    rules: Mutex<Rules>,
    /// How many rules there are, so that most requests take no lock.
    count: AtomicUsize,
    /// Grows when all watches are to end.
    ends: watch::Sender<u64>,
    /// Grows when all connections are to be reset.
    resets: watch::Sender<u64>,
    silent: watch::Sender<bool>,
    refusing: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Rules {
    next: u64,
    list: Vec<(FaultId, Fault)>,
}

/// What is to go wrong with one request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    /// It is looked at only then.
    pub(crate) delay: Duration,
    /// How it ends instead of being answered.
    pub(crate) end: Option<End>,
    /// It is done, but nobody learns of it.
    pub(crate) lose_answer: bool,
    /// The answer breaks off in the middle.
    pub(crate) truncate: bool,
}

/// How a request ends that is not answered as it should be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum End {
    Drop,
    Reset,
    Hang,
    Status { code: u16, retry_after: Option<u64> },
}

/// What goes wrong with the events of a watch.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Stream {
    pub(crate) delay: Duration,
    pub(crate) duplicate: bool,
    pub(crate) reorder: bool,
    pub(crate) lose: bool,
    pub(crate) skip_bookmarks: bool,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            rules: Mutex::default(),
            count: AtomicUsize::new(0),
            ends: watch::Sender::new(0),
            resets: watch::Sender::new(0),
            silent: watch::Sender::new(false),
            refusing: watch::Sender::new(false),
        }
    }
}

impl Faults {
    /// Adds a rule. Rules are asked in the order in which they were added; each that fits a request has its effect.
    pub fn add(&self, fault: Fault) -> FaultId {
        let mut rules = self.rules();
        rules.next += 1;
        let id = FaultId(rules.next);
        rules.list.push((id, fault));
        self.count.store(rules.list.len(), Ordering::Release);
        id
    }

    /// Takes a rule back; false if there is none of this number.
    pub fn remove(&self, id: FaultId) -> bool {
        let mut rules = self.rules();
        let before = rules.list.len();
        rules.list.retain(|(each, _)| *each != id);
        self.count.store(rules.list.len(), Ordering::Release);
        rules.list.len() < before
    }

    /// The rules, with how often they may still have their effect.
    #[must_use]
    pub fn rules_now(&self) -> Vec<(FaultId, Fault)> {
        self.rules().list.clone()
    }

    /// Takes everything back: rules, silence and refusal.
    pub fn clear(&self) {
        self.rules().list.clear();
        self.count.store(0, Ordering::Release);
        self.set_silent(false);
        self.set_refusing(false);
    }

    /// Ends all watches that are open, without an error, as a server does that is told to go.
    pub fn end_watches(&self) {
        self.ends.send_modify(|count| *count += 1);
    }

    /// Resets all connections that are open.
    pub fn reset_connections(&self) {
        self.resets.send_modify(|count| *count += 1);
    }

    /// A black hole: no connection is accepted, no request is answered, no event is sent, until it is false again. What
    /// waited is then answered.
    pub fn set_silent(&self, silent: bool) {
        self.silent.send_if_modified(|now| std::mem::replace(now, silent) != silent);
    }

    /// The server is gone: all connections are reset and its port is closed, until it is false again.
    pub fn set_refusing(&self, refusing: bool) {
        self.refusing.send_if_modified(|now| std::mem::replace(now, refusing) != refusing);
        if refusing {
            self.reset_connections();
        }
    }

    pub(crate) fn ends(&self) -> watch::Receiver<u64> {
        self.ends.subscribe()
    }

    pub(crate) fn resets(&self) -> watch::Receiver<u64> {
        self.resets.subscribe()
    }

    pub(crate) fn refusing(&self) -> watch::Receiver<bool> {
        self.refusing.subscribe()
    }

    /// Waits while the server is silent.
    pub(crate) async fn heard(&self) {
        let mut silent = self.silent.subscribe();
        // The sender lives as long as the server.
        let _ = silent.wait_for(|silent| !silent).await;
    }

    /// What goes wrong with a request; uses up one time of each rule that fits.
    pub(crate) fn plan(&self, deed: Deed<'_>, user: &str) -> Plan {
        let mut plan = Plan::default();
        if self.count.load(Ordering::Acquire) == 0 {
            return plan;
        }
        let mut rules = self.rules();
        for (_, fault) in &mut rules.list {
            if !fault.effect.is_of_requests() || !fault.fits(deed, user) || !fault.take_one() {
                continue;
            }
            match fault.effect {
                Effect::Delay { millis } => plan.delay += Duration::from_millis(millis),
                Effect::Drop => plan.end = plan.end.or(Some(End::Drop)),
                Effect::Reset => plan.end = plan.end.or(Some(End::Reset)),
                Effect::Hang => plan.end = plan.end.or(Some(End::Hang)),
                Effect::Status { code, retry_after } => {
                    plan.end = plan.end.or(Some(End::Status { code, retry_after }));
                }
                Effect::LoseAnswer => plan.lose_answer = true,
                Effect::Truncate => plan.truncate = true,
                Effect::DelayEvents { .. }
                | Effect::DuplicateEvents
                | Effect::ReorderEvents
                | Effect::LoseEvents
                | Effect::SkipBookmarks
                | Effect::Stale { .. } => {}
            }
        }
        rules.list.retain(|(_, fault)| fault.times != Some(0));
        self.count.store(rules.list.len(), Ordering::Release);
        plan
    }

    /// What goes wrong with the next event of a watch.
    pub(crate) fn stream(&self, deed: Deed<'_>, user: &str, bookmark: bool) -> Stream {
        let mut stream = Stream::default();
        if self.count.load(Ordering::Acquire) == 0 {
            return stream;
        }
        let mut rules = self.rules();
        for (_, fault) in &mut rules.list {
            let of_events = !fault.effect.is_of_requests() && !matches!(fault.effect, Effect::Stale { .. });
            let of_bookmarks = matches!(fault.effect, Effect::SkipBookmarks);
            if !of_events || of_bookmarks != bookmark || !fault.fits(deed, user) || !fault.take_one() {
                continue;
            }
            match fault.effect {
                Effect::DelayEvents { millis } => stream.delay += Duration::from_millis(millis),
                Effect::DuplicateEvents => stream.duplicate = true,
                Effect::ReorderEvents => stream.reorder = true,
                Effect::LoseEvents => stream.lose = true,
                Effect::SkipBookmarks => stream.skip_bookmarks = true,
                _ => {}
            }
        }
        rules.list.retain(|(_, fault)| fault.times != Some(0));
        self.count.store(rules.list.len(), Ordering::Release);
        stream
    }

    /// The version at which the cache stands that this request is answered from, if it stands still.
    pub(crate) fn stale(&self, deed: Deed<'_>, user: &str) -> Option<u64> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let rules = self.rules();
        rules
            .list
            .iter()
            .filter_map(|(_, fault)| match fault.effect {
                Effect::Stale { version } if fault.fits(deed, user) => Some(version),
                _ => None,
            })
            .min()
    }

    fn rules(&self) -> MutexGuard<'_, Rules> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
