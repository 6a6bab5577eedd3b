//! One Ingress: what its status says, what it should say, and what became of attempts to write it. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::Conditions;
use crate::ipam::Desired;
use crate::status::clock::Moment;
use crate::status::observed::{Address, Balancer, Condition, Entry, FINALIZER, Observed};

/// After an object changed, for how long a version that looks older is taken for a late message.
const LATE: Duration = Duration::from_secs(10);
/// An Ingress that was never ours is left alone this long, so that whoever decides whose it is has seen it.
const SETTLING: Duration = Duration::from_secs(10);
/// An object is left alone for this long after as many attempts as there may be in a row.
const SET_ASIDE: Duration = Duration::from_secs(30);
/// Attempts in a row that end in a conflict.
const MAX_CONFLICTS: u32 = 5;
/// Attempts in a row that fail without a conflict while those for others succeed.
const MAX_FAILURES: u32 = 3;
/// By so much later than others an object is tried again on which the server failed.
const GIVES_WAY: Duration = Duration::from_millis(10);
/// Somebody else undoes what we write: this many times in …
const STRIKES: usize = 5;
/// … this time, then the object is left alone for as long again.
const STRIKE_TIME: Duration = Duration::from_secs(600);
/// Of a Service, this long: others believe what its status says.
const SERVICE_PAUSE: Duration = Duration::from_secs(5);
/// How long an object is left alone whose status the server does not accept.
const INVALID: Duration = Duration::from_secs(600);

/// How the field managers of all our installations begin, whatever Lease theirs is.
pub(in crate::status) const MANAGERS: &str = "sluicegate/";

/// What is ours, in whatever object it stands.
#[derive(Debug)]
pub(super) struct Ours<'l> {
    /// All that the status says is for us to say.
    pub(super) is_whole: bool,
    /// To be published.
    pub(super) current: &'l BTreeSet<Address>,
    /// Published formerly.
    pub(super) former: &'l BTreeSet<Address>,
    /// Our field manager.
    pub(super) manager: &'l str,
    /// Tables served so far for which claims were certain.
    pub(super) compiles: u64,
    /// A claim is one, though perhaps by the name of its class alone.
    pub(super) is_certain: bool,
}

impl Ours<'_> {
    fn contains(&self, entry: &Entry) -> bool {
        let is_ours = |address: &Address| self.current.contains(address) || self.former.contains(address);
        self.is_whole || entry.address.as_ref().is_some_and(is_ours)
    }

    /// As [`Self::contains`], for an object that is not ours any more: there, what names an address of ours and says more is
    /// ours as well if we wrote it. Something on the way has added to it.
    fn contains_more(&self, entry: &Entry, writer: Option<&str>) -> bool {
        let is_ours = |address: Address| self.current.contains(&address) || self.former.contains(&address);
        self.contains(entry) || (writer == Some(self.manager) && entry.named().is_some_and(is_ours))
    }

    /// Whether somebody else has written what stands in an object that was `lost` as its own: it publishes an address that
    /// we publish as well. Who only adds to what was there has not.
    fn are_confirmed(&self, lost: &Observed, observed: &Observed) -> bool {
        let writer = observed.writer.as_deref();
        if writer.is_none() || writer == Some(self.manager) || writer == lost.writer.as_deref() {
            return false;
        }
        let is_kept = |entry: &Entry| !self.contains(entry) || observed.entries.contains(entry);
        let is_added = |entry: &Entry| !self.contains(entry) && !lost.entries.contains(entry);
        !(lost.entries.iter().all(is_kept) && observed.entries.iter().any(is_added))
    }

    /// Whether anything of ours stands in the object, in whatever form.
    fn stands_in(&self, observed: &Observed) -> bool {
        let is_traced = |service: &Balancer| service.has_finalizer() || service.condition.is_some();
        observed.entries.iter().any(|entry| self.contains_more(entry, observed.writer.as_deref()))
            || observed.service.as_deref().is_some_and(is_traced)
    }
}

/// What is to be done with an object.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Want {
    Nothing,
    /// Something, then.
    Later(Moment),
    /// Read it.
    Look,
    /// Write these entries, and of a Service these conditions.
    Write(Box<[Entry]>, Option<Conditions>),
    /// Write these finalizers.
    Finalize(Box<[Arc<str>]>),
}

/// In which order objects come to their turn.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Lane {
    /// Something happened to the object itself.
    Hot,
    /// Something happened to all.
    Cold,
}

#[derive(Debug, Default)]
pub(super) struct Item {
    pub(super) observed: Option<Observed>,
    pub(super) claimed: bool,
    /// What the status of a Service should say, if it is ours.
    desired: Option<Target>,
    /// It was ours, and our entries have not been seen gone since.
    taking_back: bool,
    /// How it was when it ceased to be ours, while `taking_back`.
    lost: Option<Observed>,
    /// When it was first observed: tables served until then, and the moment.
    since: (u64, Moment),
    /// When we heard of the version that `observed` has.
    heard: Moment,
    /// Looks older than `observed`, and came soon after it.
    late: Option<Observed>,
    /// What we wrote was accepted, and has not been seen changed.
    standing: bool,
    /// It is not seen any more, and perhaps still there.
    has_left: bool,
    must_look: bool,
    conflicts: u32,
    failures: u32,
    not_before: Moment,
    strikes: Vec<Moment>,
    contended: bool,
    pub(super) lane: Option<Lane>,
    pub(super) flight: Option<u64>,
}

/// What the status of a Service should say.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Target {
    entries: Box<[Entry]>,
    condition: Condition,
}

impl Target {
    fn new(desired: &Desired) -> Self {
        let entries = desired.addresses.iter().map(|ip| Entry::of(Address::Proxy(*ip))).collect();
        let (is_true, reason, message) = match &desired.lack {
            Some((reason, message)) => (false, *reason, message.as_str()),
            None => (true, "Assigned", "it has the addresses that it asks for"),
        };
        let condition = Condition { is_true, reason: reason.into(), message: message.into(), since: None };
        Self { entries, condition }
    }
}

impl Item {
    /// What is to be done with it at `now`.
    pub(super) fn want(&self, ours: &Ours<'_>, now: Moment) -> Want {
        let Some(observed) = &self.observed else { return Want::Nothing };
        if ours.is_whole && self.wants() {
            return self.want_service(observed, now);
        }
        if !self.wants() {
            return self.want_nothing(observed, ours, now);
        }
        let (mine, foreign): (Vec<&Entry>, Vec<&Entry>) =
            observed.entries.iter().partition(|entry| ours.contains(entry));
        let desired = ours.current;
        let stands: BTreeSet<&Address> = mine.iter().filter_map(|entry| entry.address.as_ref()).collect();
        if stands.iter().copied().eq(desired) {
            return Want::Nothing;
        }
        // Somebody may add to our entries what we do not write: what they name is there.
        let named: BTreeSet<Address> = foreign.iter().filter_map(|entry| entry.named()).collect();
        let desired: BTreeSet<&Address> =
            desired.iter().filter(|address| !named.contains(*address)).collect();
        if stands.iter().all(|address| desired.contains(address) || named.contains(*address))
            && desired.is_subset(&stands)
        {
            return Want::Nothing;
        }
        let entries = foreign.into_iter().cloned().chain(desired.into_iter().cloned().map(Entry::of));
        self.write(entries.collect(), None, now)
    }

    /// What is to be done with a Service that is ours. Its finalizer is there before it has an address.
    fn want_service(&self, observed: &Observed, now: Moment) -> Want {
        let (Some(target), Some(service)) = (&self.desired, observed.service.as_deref()) else {
            return Want::Nothing;
        };
        if !service.is_asked {
            // Whoever decides will have seen that as well.
            return Want::Nothing;
        }
        if !target.entries.is_empty() && !service.has_finalizer() {
            let all = service.finalizers.iter().cloned().chain([Arc::from(FINALIZER)]);
            return self.finalize(all.collect(), now);
        }
        let is_said = service.condition.as_ref().is_some_and(|condition| condition.says(&target.condition));
        if observed.entries == target.entries && is_said {
            return Want::Nothing;
        }
        let mut condition = target.condition.clone();
        let former = service.condition.as_ref().filter(|former| former.is_true == condition.is_true);
        condition.since = former.and_then(|former| former.since.clone());
        let conditions = Conditions { others: service.others.clone(), ours: Some(condition) };
        self.write(target.entries.clone(), Some(conditions), now)
    }

    /// What is to be done with it if it is not to have our addresses.
    fn want_nothing(&self, observed: &Observed, ours: &Ours<'_>, now: Moment) -> Want {
        if !ours.stands_in(observed) {
            return Want::Nothing;
        }
        if !self.claimed && !self.taking_back {
            let is_ours = observed.writer.as_deref() == Some(ours.manager) || is_left_behind(observed);
            if !is_ours || ours.compiles <= self.since.0 {
                return Want::Nothing;
            }
            let settled = self.since.1 + SETTLING;
            if now < settled {
                return Want::Later(settled);
            }
        }
        let writer = observed.writer.as_deref();
        let foreign = observed.entries.iter().filter(|entry| !ours.contains_more(entry, writer));
        let conditions = match observed.service.as_deref() {
            // So that a Service that is being deleted is there until nobody has its addresses. Its condition may stay: it
            // tells whoever comes next whose the finalizer is.
            Some(service)
                if observed.entries.is_empty()
                    && (service.condition.is_none() || service.is_deleting && service.has_finalizer()) =>
            {
                let rest = service.finalizers.iter().filter(|finalizer| ***finalizer != *FINALIZER);
                return self.finalize(rest.cloned().collect(), now);
            }
            Some(service) => {
                let ours =
                    service.condition.clone().filter(|_| service.is_deleting && service.has_finalizer());
                Some(Conditions { others: service.others.clone(), ours })
            }
            None => None,
        };
        self.write(foreign.cloned().collect(), conditions, now)
    }

    fn write(&self, entries: Box<[Entry]>, conditions: Option<Conditions>, now: Moment) -> Want {
        self.in_time(Want::Write(entries, conditions), now)
    }

    fn finalize(&self, finalizers: Box<[Arc<str>]>, now: Moment) -> Want {
        self.in_time(Want::Finalize(finalizers), now)
    }

    /// `want`, unless something else comes first.
    fn in_time(&self, want: Want, now: Moment) -> Want {
        if now < self.not_before {
            return Want::Later(self.not_before);
        }
        if self.must_look { Want::Look } else { want }
    }

    /// What the status should say from now on, if it is to be ours.
    pub(super) fn desire(&mut self, desired: Option<&Desired>) {
        let target = desired.map(Target::new);
        if self.desired != target {
            self.desired = target;
            self.forget_standing();
        }
    }

    /// True if it is to have our addresses.
    fn wants(&self) -> bool {
        self.claimed && !self.has_left
    }

    /// True if it is ours and its status names addresses that are not.
    pub(super) fn has_foreign(&self, ours: &Ours<'_>) -> bool {
        let entries = self.observed.iter().flat_map(|observed| &observed.entries);
        self.claimed && entries.into_iter().any(|entry| !ours.contains(entry))
    }

    /// It was seen like this. Returns when to look at it again, if what was seen may be old, and whether somebody undid
    /// what we wrote.
    pub(super) fn observe(
        &mut self,
        observed: Observed,
        ours: &Ours<'_>,
        now: Moment,
    ) -> (Option<Moment>, bool) {
        if self.observed.as_ref().is_none_or(|old| old.uid != observed.uid) {
            self.vanish();
            self.since = (ours.compiles, now);
            self.heard = now;
            self.observed = Some(observed);
            return (None, false);
        }
        if std::mem::take(&mut self.has_left) {
            self.taking_back = !self.claimed && self.taking_back;
        }
        let again = self.heard + LATE;
        if now < again && self.is_known_newer(&observed) {
            self.late = Some(observed);
            return (Some(again), false);
        }
        self.late = None;
        if self.observed.as_ref().is_some_and(|old| old.resource_version != observed.resource_version) {
            self.must_look = false;
            self.heard = now;
        }
        self.observed = Some(observed);
        let undone = self.standing && self.claimed && !matches!(self.want(ours, now), Want::Nothing);
        self.standing &= !undone;
        let contended = undone && self.strike(now);
        self.settle(ours);
        (None, contended)
    }

    /// It is gone, and may come again as another one.
    pub(super) fn vanish(&mut self) {
        let (claimed, lane) = (self.claimed, self.lane);
        let desired = self.desired.take();
        *self = Self { claimed, desired, lane, ..Self::default() };
    }

    /// It is not seen any more, and may be gone or not: what is ours is taken back if it is still there. Returns false if
    /// nothing of ours was seen.
    pub(super) fn leave(&mut self, ours: &Ours<'_>) -> bool {
        let is_ours = (self.claimed || self.taking_back)
            && self.observed.as_ref().is_some_and(|observed| ours.stands_in(observed));
        if is_ours {
            self.has_left = true;
            self.taking_back = true;
            self.must_look = true;
            self.late = None;
        }
        is_ours
    }

    /// It is there and nobody tells of it, and we wrote to it. Returns false if nothing of ours stands there.
    pub(super) fn stray(&mut self, observed: Observed, ours: &Ours<'_>, now: Moment) -> bool {
        self.taking_back = ours.stands_in(&observed);
        self.has_left = true;
        self.must_look = true;
        self.since = (ours.compiles, now);
        self.heard = now;
        // It may be so new that it is still to be told of, and claimed.
        self.not_before = now + SETTLING;
        self.observed = Some(observed);
        self.taking_back
    }

    /// What came late has not been followed by anything: it is how things are.
    pub(super) fn believe_late(&mut self, now: Moment) {
        if self.heard + LATE <= now
            && let Some(late) = self.late.take()
        {
            self.observed = Some(late);
            self.heard = now;
            // Whatever is wrong with it is for the server to say.
            self.must_look = true;
        }
    }

    /// It became ours, or ceased to be.
    pub(super) fn claim(&mut self, claimed: bool, ours: &Ours<'_>) {
        // A claim that was never certain is no reason to take anything back.
        self.taking_back = !claimed && ours.is_certain && (self.taking_back || self.claimed);
        if self.claimed != claimed {
            self.go_on();
            self.lost = self.observed.clone().filter(|_| self.taking_back);
        }
        self.claimed = claimed;
        self.standing = false;
        self.settle(ours);
    }

    /// What was decided about it does not count any more.
    pub(super) fn start_over(&mut self, compiles: u64, now: Moment) {
        (self.claimed, self.desired, self.taking_back, self.lost) = (false, None, false, None);
        self.since = (compiles, now);
        self.forget_standing();
    }

    /// The addresses are others.
    pub(super) fn forget_standing(&mut self) {
        self.standing = false;
        self.go_on();
    }

    /// Whatever it was left alone for is past.
    fn go_on(&mut self) {
        self.not_before = Moment::START;
        self.strikes.clear();
        self.contended = false;
        (self.conflicts, self.failures) = (0, 0);
    }

    /// A server that can be believed says this, after we asked; with what we wrote, if we did. Returns whether it is left
    /// alone because what we write does not last.
    pub(super) fn answered(
        &mut self,
        observed: Observed,
        written: Option<&[Entry]>,
        ours: &Ours<'_>,
        now: Moment,
    ) -> bool {
        let is_write = written.is_some();
        self.must_look = false;
        self.failures = 0;
        if is_write {
            self.conflicts = 0;
            self.contended = false;
        }
        if self
            .observed
            .as_ref()
            .is_some_and(|old| is_older(&observed.resource_version, &old.resource_version))
        {
            // It was changed again, and that was told before the answer was.
            return false;
        }
        self.heard = now;
        self.late = None;
        // Something on the way changes what we write.
        let named =
            |entries: &[Entry]| -> BTreeSet<Address> { entries.iter().filter_map(Entry::named).collect() };
        let is_changed = written.is_some_and(|written| named(written) != named(&observed.entries));
        self.observed = Some(observed);
        self.standing |= is_write && self.claimed && (ours.is_whole || !ours.current.is_empty());
        self.settle(ours);
        if !is_changed || !matches!(self.want(ours, now), Want::Write(..)) {
            return false;
        }
        self.standing = false;
        self.not_before = now + SET_ASIDE;
        self.strike(now)
    }

    /// Somebody changed it in between. Returns whether it is given up for long because of that.
    pub(super) fn conflict(&mut self, version: &str, delay: Duration, now: Moment) -> bool {
        self.must_look = self.observed.as_ref().is_none_or(|observed| *observed.resource_version == *version);
        self.conflicts += 1;
        self.not_before = now + delay;
        if self.conflicts < MAX_CONFLICTS {
            return false;
        }
        self.conflicts = 0;
        self.not_before = now + SET_ASIDE;
        self.strike(now)
    }

    /// The server did not do it. `alone` if it did what was asked for others before: then it may be for this object's
    /// sake. `turn` is when others may be tried again, who go first.
    pub(super) fn failed(&mut self, alone: bool, turn: Moment, now: Moment) {
        self.not_before = turn + GIVES_WAY;
        self.failures += u32::from(alone);
        if alone && self.failures >= MAX_FAILURES {
            // After the pause, one more is enough.
            self.failures = MAX_FAILURES - 1;
            self.not_before = now + SET_ASIDE;
        }
    }

    /// The server will not have it.
    pub(super) fn invalid(&mut self, now: Moment) {
        self.must_look = true;
        self.not_before = now + INVALID;
    }

    /// It has another version than this one by now, as far as we know.
    pub(super) fn is_other_than(&self, version: Option<&Arc<str>>) -> bool {
        let known = self.observed.as_ref().map(|observed| &observed.resource_version);
        version.is_some() && known != version
    }

    /// Somebody else writes other entries again and again, so it is left alone.
    pub(super) fn is_contended(&self, now: Moment) -> bool {
        self.contended && now < self.not_before
    }

    /// Notes that what we wrote does not last; returns whether that is now too often.
    fn strike(&mut self, now: Moment) -> bool {
        self.strikes.retain(|at| now.since(*at) < STRIKE_TIME);
        self.strikes.push(now);
        let contended = self.strikes.len() >= STRIKES;
        if contended {
            // After the pause, one more is enough. What a Service's status says must not be somebody else's word for long.
            let is_service = self.observed.as_ref().is_some_and(|observed| observed.service.is_some());
            self.not_before = now + if is_service { SERVICE_PAUSE } else { STRIKE_TIME };
            self.strikes = vec![self.not_before; STRIKES - 1];
        }
        self.contended = contended;
        contended
    }

    /// What we know already is newer for certain.
    fn is_known_newer(&self, observed: &Observed) -> bool {
        let known = self.observed.as_ref();
        known.is_some_and(|known| is_older(&observed.resource_version, &known.resource_version))
    }

    /// Nothing of ours is left where it should not be.
    fn settle(&mut self, ours: &Ours<'_>) {
        let Some(observed) = &self.observed else { return };
        let is_theirs = self.lost.as_ref().is_some_and(|lost| ours.are_confirmed(lost, observed));
        self.taking_back &= ours.stands_in(observed) && !is_theirs;
        if !self.taking_back {
            self.lost = None;
        }
    }
}

/// Whether it is a Service that is being deleted, and cannot go because of a finalizer that one of our installations put
/// there which is no more: with another Lease, or one whose status was overwritten. Where somebody else has given it
/// addresses since, the finalizer is theirs now.
fn is_left_behind(observed: &Observed) -> bool {
    let is_of_us =
        |manager: &Option<Arc<str>>| manager.as_deref().is_some_and(|manager| manager.starts_with(MANAGERS));
    observed.service.as_deref().is_some_and(|service| {
        let is_ours =
            service.condition.is_some() || observed.entries.is_empty() || is_of_us(&observed.writer);
        service.is_deleting && service.has_finalizer() && is_of_us(&service.finalizer_by) && is_ours
    })
}

/// True if version `one` was made before `other` for certain. Versions of one server are decimal numbers that only grow.
fn is_older(one: &str, other: &str) -> bool {
    match (one.parse::<u64>(), other.parse::<u64>()) {
        (Ok(one), Ok(other)) => one < other,
        _ => false,
    }
}
