//! Which status is to be written next: what should stand in every Ingress against what stands there. Pure: time and
//! randomness are arguments, and requests are made by others. Level-triggered: whatever was missed, repeated or reordered,
//! what is written depends on the latest of each object only.
//!
//! `status.loadBalancer.ingress` is one value to an API server (an atomic list), so no field manager can own a part of
//! it. Entries are ours if they name an address that we publish, or have published; all others are kept as they are. A
//! write names the version that it is based on, and a server refuses it if there is a newer one.

mod item;
mod queue;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use config::report::ObjectRef;
use foldhash::quality::FixedState;

pub(super) use self::item::MANAGERS;
use self::item::{Item, Lane, Ours, Want};
use super::clock::Moment;
use super::observed::{Address, Condition, Entry, Observed};
use super::pace::{Bucket, backoff};
use crate::ipam::Desired;

/// Requests in a burst, and the time for each after that.
const BURST: u32 = 400;
const INTERVAL: Duration = Duration::from_millis(5);
/// For how long a former address is remembered that stands nowhere: changes may come late.
const MEMORY: Duration = Duration::from_secs(3_600);
/// How often it is looked whether they stand anywhere.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// Former addresses that are remembered at most.
const MAX_FORMER: usize = 256;
/// Delays of one object after a conflict.
const FIRST_CONFLICT: Duration = Duration::from_millis(20);
const MAX_CONFLICT: Duration = Duration::from_secs(1);

static NOTHING: BTreeSet<Address> = BTreeSet::new();

/// A request to be made.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Task {
    pub(super) object: ObjectRef,
    pub(super) flight: u64,
    pub(super) action: Action,
}

/// What a [`Task`] asks for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Action {
    /// Read the object.
    Look,
    /// Write `status.loadBalancer.ingress`, and of a Service the conditions.
    Write {
        /// Only if the object has this version.
        version: Arc<str>,
        entries: Box<[Entry]>,
        conditions: Option<Conditions>,
    },
    /// Write `metadata.finalizers`.
    Finalize {
        /// Only if the object has this version.
        version: Arc<str>,
        finalizers: Box<[Arc<str>]>,
    },
}

impl Action {
    /// The version that the object must have.
    fn version(&self) -> Option<&Arc<str>> {
        match self {
            Self::Look => None,
            Self::Write { version, .. } | Self::Finalize { version, .. } => Some(version),
        }
    }
}

/// The conditions of a Service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Conditions {
    /// Of others, as they are.
    pub(super) others: Box<[Arc<str>]>,
    pub(super) ours: Option<Condition>,
}

/// Whose the status is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Scope {
    /// Of Ingresses: all get the same addresses, and others may add theirs.
    Shared,
    /// Of Services: each gets its own, and whoever balances it says all of it.
    Whole,
}

/// What became of a [`Task`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Outcome {
    /// It was done, and this is the object now.
    Done(Observed),
    /// There is no such object.
    Gone,
    /// The object has another version.
    Conflict,
    /// The server does not accept the status.
    Invalid,
    /// We may not do this here.
    Denied,
    /// The server has too much to do.
    Busy(Option<Duration>),
    /// Nothing is known of it, or the server failed.
    Failed,
    /// It was not sent, or given up.
    Aborted,
}

/// What to do next.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Next {
    Task(Task),
    /// Nothing before then, or before something happens.
    Wait(Option<Moment>),
}

/// What changed by an outcome or an observation, for whoever tells of it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Told {
    /// Somebody else keeps undoing what we write to the object, so it is left alone for a time.
    pub(super) contended: bool,
}

/// A namespace in which writes are denied or fail.
#[derive(Clone, Copy, Debug, Default)]
struct Denied {
    /// Until when we do not try.
    until: Moment,
    /// In a row.
    times: u32,
    /// One request finds out whether it is over.
    is_tried: bool,
    /// The server failed; it did not deny.
    has_failed: bool,
}

/// The state of all Ingresses, or of all Services with load balancers.
#[derive(Debug)]
pub(super) struct Ledger {
    scope: Scope,
    manager: Arc<str>,
    /// What is said to be gone may only have ceased to be chosen.
    verifies_gone: bool,
    /// Ingress → its state
    items: HashMap<ObjectRef, Item, FixedState>,
    /// To be published; `None` until it is known.
    current: Option<BTreeSet<Address>>,
    former: BTreeSet<Address>,
    /// former address → since when it has stood nowhere
    absent: BTreeMap<Address, Moment>,
    /// When that was looked at.
    looked: Moment,
    /// What whoever leads next will know for ours.
    recorded: BTreeSet<Address>,
    /// Tables so far for which claims were certain.
    compiles: u64,
    /// Claims follow from the names of classes alone: they are good enough to write, and to take back what was claimed, and
    /// say nothing of what others claim.
    is_by_name: bool,
    /// Unclaimed when first observed, to be looked at after the next compile.
    unsettled: BTreeSet<ObjectRef>,
    hot: VecDeque<ObjectRef>,
    cold: VecDeque<ObjectRef>,
    turn: u32,
    timers: BTreeSet<(Moment, ObjectRef)>,
    /// namespace in which writes are denied or fail
    denied: HashMap<Arc<str>, Denied, FixedState>,
    paused_until: Moment,
    failures: u32,
    bucket: Bucket,
    in_flight: usize,
    flights: u64,
    leads: bool,
    random: fastrand::Rng,
}

impl Ledger {
    /// Nothing is known yet. `manager` is our field manager. With `verifies_gone`, an object that is gone is looked for
    /// before that is believed.
    pub(super) fn new(scope: Scope, manager: Arc<str>, verifies_gone: bool, random: fastrand::Rng) -> Self {
        Self {
            scope,
            manager,
            verifies_gone,
            items: HashMap::default(),
            current: None,
            former: BTreeSet::new(),
            absent: BTreeMap::new(),
            looked: Moment::START,
            recorded: BTreeSet::new(),
            compiles: 0,
            is_by_name: false,
            unsettled: BTreeSet::new(),
            hot: VecDeque::new(),
            cold: VecDeque::new(),
            turn: 0,
            timers: BTreeSet::new(),
            denied: HashMap::default(),
            paused_until: Moment::START,
            failures: 0,
            bucket: Bucket::new(INTERVAL, BURST),
            in_flight: 0,
            flights: 0,
            leads: false,
            random,
        }
    }

    /// The object is like this.
    pub(super) fn observe(&mut self, observed: Observed, now: Moment) -> Told {
        let object = observed.object.clone();
        let has_traces = !observed.entries.is_empty() || observed.service.is_some();
        let (item, ours) = self.item(&object);
        let is_new = item.observed.is_none();
        let (again, contended) = item.observe(observed, &ours, now);
        let is_stranger = is_new && has_traces && !item.claimed;
        if is_stranger {
            self.unsettled.insert(object.clone());
        }
        if let Some(again) = again {
            self.timers.insert((again, object.clone()));
        }
        self.touch(object, Lane::Hot, now);
        Told { contended }
    }

    /// The object is gone, or not chosen any more.
    pub(super) fn gone(&mut self, object: &ObjectRef, now: Moment) {
        if !self.items.contains_key(object) {
            return;
        }
        // Whoever leads sees to it; those who do not would keep it for ever.
        let verifies = self.verifies_gone && self.leads;
        let (item, ours) = self.item(object);
        if verifies && item.leave(&ours) {
            self.touch(object.clone(), Lane::Hot, now);
        } else if item.claimed {
            item.vanish();
        } else {
            self.forget(object);
        }
    }

    /// The object is there, was written by us, and perhaps nobody tells of it: then our entries are taken back.
    pub(super) fn stray(&mut self, observed: Observed, now: Moment) {
        let object = observed.object.clone();
        if self.items.contains_key(&object) {
            return;
        }
        let (item, ours) = self.item(&object);
        if item.stray(observed, &ours, now) {
            self.touch(object, Lane::Cold, now);
        } else {
            self.items.remove(&object);
        }
    }

    /// The object became ours, or ceased to be.
    pub(super) fn claim(&mut self, object: &ObjectRef, claimed: bool, now: Moment) {
        let (item, ours) = self.item(object);
        item.claim(claimed, &ours);
        if !claimed && item.observed.is_none() {
            self.forget(object);
            return;
        }
        if !claimed && self.compiles == 0 {
            self.unsettled.insert(object.clone());
        }
        self.touch(object.clone(), Lane::Hot, now);
    }

    /// The Service is ours, and its status should say this; or (`None`) it is not ours, or no longer.
    pub(super) fn desire(&mut self, object: &ObjectRef, desired: Option<&Desired>, now: Moment) {
        let (item, _) = self.item(object);
        item.desire(desired);
        self.claim(object, desired.is_some(), now);
    }

    /// A table is served, and it is certain whose Ingresses are. Before the first of these, nothing is written.
    pub(super) fn compiled(&mut self, now: Moment) {
        self.compiles += 1;
        for object in std::mem::take(&mut self.unsettled) {
            self.touch(object, Lane::Cold, now);
        }
    }

    /// A table is served for which claims follow from the names of classes alone, since IngressClasses may not be read.
    pub(super) fn compiled_by_name(&mut self, now: Moment) {
        if !std::mem::replace(&mut self.is_by_name, true) {
            self.touch_all(now);
        }
    }

    /// True if it is known which Ingresses are ours.
    pub(super) fn is_certain(&self) -> bool {
        self.compiles > 0 || self.is_by_name
    }

    /// These are to be published.
    pub(super) fn publish(&mut self, addresses: BTreeSet<Address>, now: Moment) {
        if self.current.as_ref() == Some(&addresses) {
            return;
        }
        if let Some(old) = self.current.replace(addresses) {
            self.former.extend(old);
        }
        self.items.values_mut().for_each(Item::forget_standing);
        self.touch_all(now);
    }

    /// Whoever leads next will know that these are ours.
    pub(super) fn record(&mut self, addresses: BTreeSet<Address>, now: Moment) {
        let is_new = !addresses.is_subset(&self.former);
        self.former.extend(addresses.iter().take(2 * MAX_FORMER).cloned());
        self.recorded = addresses;
        if is_new {
            self.touch_all(now);
        }
    }

    /// What is to be recorded: all that we publish or that may stand somewhere from former times. `None` until it is
    /// known what we publish.
    pub(super) fn known_addresses(&mut self, now: Moment) -> Option<BTreeSet<Address>> {
        let current = self.current.as_ref()?;
        if now.since(self.looked) >= LOOK_INTERVAL && self.compiles > 0 && self.is_idle() {
            self.looked = now;
            let entries = self.items.values().filter_map(|item| item.observed.as_ref());
            let standing: BTreeSet<&Address> = entries
                .flat_map(|observed| observed.entries.iter().filter_map(|entry| entry.address.as_ref()))
                .collect();
            self.absent.retain(|address, _| !standing.contains(address));
            for address in self.former.iter().filter(|address| !standing.contains(address)) {
                self.absent.entry(address.clone()).or_insert(now);
            }
            let absent = &self.absent;
            let is_forgotten =
                |address: &Address| absent.get(address).is_some_and(|at| now.since(*at) >= MEMORY);
            self.former.retain(|address| !is_forgotten(address));
            let former = &self.former;
            self.absent.retain(|address, _| former.contains(address));
        }
        // A cluster whose nodes come and go must not make this grow without end.
        let many = self.former.len().saturating_sub(MAX_FORMER);
        for address in self.absent.keys().take(many).cloned().collect::<Vec<_>>() {
            self.absent.remove(&address);
            self.former.remove(&address);
        }
        let rest = self.former.iter().filter(|address| !current.contains(address)).take(MAX_FORMER);
        Some(rest.chain(current).cloned().collect())
    }

    /// We may write, or may not.
    pub(super) fn lead(&mut self, leads: bool, now: Moment) {
        if leads && !self.leads {
            self.denied.clear();
            self.failures = 0;
            self.paused_until = now;
            self.leads = true;
            if self.scope == Scope::Whole {
                // Others have decided meanwhile: nothing is known before we do.
                let compiles = self.compiles;
                self.items.values_mut().for_each(|item| item.start_over(compiles, now));
            }
            self.touch_all(now);
        } else if !leads && self.leads {
            self.hot.clear();
            self.cold.clear();
            self.items.values_mut().for_each(|item| item.lane = None);
        }
        self.leads = leads;
    }

    /// This became of `task`.
    pub(super) fn outcome(&mut self, task: &Task, outcome: Outcome, now: Moment) -> Told {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.pace(&task.object, &outcome, now);
        let delay = match outcome {
            Outcome::Conflict => backoff(1, FIRST_CONFLICT, MAX_CONFLICT, &mut self.random),
            _ => Duration::ZERO,
        };
        let namespace = self.denied.get(&task.object.namespace).copied().unwrap_or_default();
        let (item, ours) = self.item(&task.object);
        if item.flight != Some(task.flight) {
            // It is another object by now, or none.
            self.forget_if_unknown(&task.object);
            return Told::default();
        }
        item.flight = None;
        let mut told = Told::default();
        let lane = if outcome == Outcome::Failed { Lane::Cold } else { Lane::Hot };
        match outcome {
            Outcome::Done(observed) => {
                let written = match &task.action {
                    Action::Write { entries, .. } => Some(&**entries),
                    Action::Look | Action::Finalize { .. } => None,
                };
                told.contended = item.answered(observed, written, &ours, now);
            }
            Outcome::Gone => item.observed = None,
            Outcome::Conflict => {
                if let Some(version) = task.action.version() {
                    told.contended = item.conflict(version, delay, now);
                }
            }
            Outcome::Invalid if item.is_other_than(task.action.version()) => {}
            Outcome::Invalid => item.invalid(now),
            Outcome::Failed => item.failed(namespace.times <= 1, namespace.until, now),
            Outcome::Denied | Outcome::Busy(_) | Outcome::Aborted => {}
        }
        self.forget_if_unknown(&task.object);
        self.touch(task.object.clone(), lane, now);
        told
    }

    /// The object as it was last observed.
    pub(super) fn observed(&self, object: &ObjectRef) -> Option<&Observed> {
        self.items.get(object)?.observed.as_ref()
    }

    /// True if the object is ours.
    pub(super) fn is_claimed(&self, object: &ObjectRef) -> bool {
        self.items.get(object).is_some_and(|item| item.claimed)
    }

    /// True if there is nothing to be done, now or later.
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight == 0 && self.hot.is_empty() && self.cold.is_empty() && self.timers.is_empty()
    }

    /// The objects that are left alone because somebody else undoes what we write.
    pub(super) fn contended(&self, now: Moment) -> impl Iterator<Item = &ObjectRef> {
        self.items.iter().filter(move |(_, item)| item.is_contended(now)).map(|(object, _)| object)
    }

    /// Counts for metrics, of all objects.
    pub(super) fn figures(&self, now: Moment) -> Figures {
        let mut figures = Figures::default();
        let ours = self.ours();
        for item in self.items.values() {
            figures.claimed += u64::from(item.claimed);
            figures.foreign += u64::from(item.has_foreign(&ours));
            figures.contended += u64::from(item.is_contended(now));
            let is_known = self.current.is_some() || self.scope == Scope::Whole;
            figures.pending += u64::from(is_known && item.want(&ours, now) != Want::Nothing);
        }
        figures
    }

    fn ours(&self) -> Ours<'_> {
        Ours {
            is_whole: self.scope == Scope::Whole,
            current: self.current.as_ref().unwrap_or(&NOTHING),
            former: &self.former,
            manager: &self.manager,
            compiles: self.compiles,
            is_certain: self.is_certain(),
        }
    }

    /// The state of `object`, and what it is compared with.
    fn item(&mut self, object: &ObjectRef) -> (&mut Item, Ours<'_>) {
        let ours = Ours {
            is_whole: self.scope == Scope::Whole,
            current: self.current.as_ref().unwrap_or(&NOTHING),
            former: &self.former,
            manager: &self.manager,
            compiles: self.compiles,
            is_certain: self.is_certain(),
        };
        (self.items.entry(object.clone()).or_default(), ours)
    }

    fn forget_if_unknown(&mut self, object: &ObjectRef) {
        if self.items.get(object).is_some_and(|item| item.observed.is_none() && !item.claimed) {
            self.forget(object);
        }
    }

    fn forget(&mut self, object: &ObjectRef) {
        self.items.remove(object);
        self.unsettled.remove(object);
    }
}

/// Counts of objects.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Figures {
    /// Ours.
    pub(super) claimed: u64,
    /// To be written.
    pub(super) pending: u64,
    /// Ours, with addresses of others in their status.
    pub(super) foreign: u64,
    /// Left alone because somebody else undoes what we write.
    pub(super) contended: u64,
}

#[cfg(test)]
mod tests;
