//! Which Events are to be written: what is wrong with objects, each thing once, told again before the server forgets it,
//! and one word when all is well. Pure: time and randomness are arguments, and requests are made by others.
//!
//! The name of an Event follows from what it says, so that another replica, or the next process, finds it written.

mod line;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use config::report::{Kind, ObjectRef};
use foldhash::quality::FixedState;

use self::line::Line;
use super::clock::Moment;
use super::pace::{Bucket, backoff};

/// What is wrong with an object, as people read it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Matter {
    pub(super) object: ObjectRef,
    /// Stable, in CamelCase.
    pub(super) reason: &'static str,
    /// At most [`MAX_NOTE`] bytes are told.
    pub(super) note: String,
}

/// An Event to be written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Telling {
    /// Number of the matter; 0 for a word that all is well.
    pub(super) key: u64,
    pub(super) object: ObjectRef,
    pub(super) action: Action,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Action {
    /// A new one.
    Create { is_warning: bool, reason: &'static str, note: Arc<str> },
    /// It is still so: the Event of this name has happened so often now.
    Repeat { name: Arc<str>, count: u32 },
}

/// What became of a [`Telling`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Outcome {
    /// The Event has this name and has happened so often.
    Done { name: Arc<str>, count: u32 },
    /// There is no such Event any more.
    Gone,
    /// There is no such object, or it cannot be read.
    NoObject,
    /// The server does not accept it.
    Invalid,
    /// We may not write Events.
    Denied,
    /// The server fails, or has too much to do.
    Failed,
    /// It was not sent.
    Aborted,
}

/// What to do next.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Next {
    Tell(Telling),
    /// Nothing before then, or before something happens.
    Wait(Option<Moment>),
}

/// The longest text of an Event, in bytes; a server takes 1,024 characters.
pub(super) const MAX_NOTE: usize = 1_024;
/// Reason of the word that all is well.
pub(super) const RESOLVED: &str = "ProblemsResolved";
/// Matters of one object that have an Event each.
const MAX_PER_OBJECT: usize = 10;
/// Matters of all objects.
const MAX_LINES: usize = 5_000;
/// Matters of the objects of one namespace: whoever writes many texts there pushes out nobody else's.
const MAX_PER_NAMESPACE: usize = 1_000;
/// Events of one object in a burst, and the time for each after that.
const OBJECT_BURST: u32 = 10;
const OBJECT_INTERVAL: Duration = Duration::from_secs(60);
/// Events of one namespace in a burst, and the time for each after that.
const NAMESPACE_BURST: u32 = 50;
const NAMESPACE_INTERVAL: Duration = Duration::from_millis(500);
/// What goes away before this is not told.
const SETTLING: Duration = Duration::from_secs(2);
/// How long all must be well before it is told.
const RELIEF: Duration = Duration::from_secs(5);
/// Servers forget Events after an hour without a change.
const REPEAT: Duration = Duration::from_secs(30 * 60);
/// What comes and goes is told again at most this often.
const COMES_AGAIN: Duration = Duration::from_secs(5 * 60);
/// For how long it is remembered that something was told, after it went away.
const MEMORY: Duration = Duration::from_secs(3_600);
/// Until a matter is tried again that could not be told for a reason of its own.
const SET_ASIDE: Duration = Duration::from_secs(600);
/// Until it is tried again in a namespace in which we may not write.
const DENIED: Duration = Duration::from_secs(300);
/// Until a matter is tried again on which the server failed.
const FAILED: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// Matters of the objects of one namespace.
#[derive(Debug, Default)]
struct Crowd {
    count: usize,
    /// Those that are over.
    over: Vec<u64>,
}

/// The state of everything that was or is to be told.
#[derive(Debug)]
pub(super) struct Journal {
    /// number of a matter → its state
    lines: HashMap<u64, Line, FixedState>,
    /// object of which something was told and all is well now → since when
    relieved: BTreeMap<ObjectRef, Moment>,
    bucket: Bucket,
    /// object → how fast Events about it may be written, where that was made use of lately
    of_objects: HashMap<ObjectRef, Bucket, FixedState>,
    /// namespace → how fast Events may be written there, where that was made use of lately
    of_namespaces: HashMap<Arc<str>, Bucket, FixedState>,
    paused_until: Moment,
    failures: u32,
    /// namespace in which we may not write → until when we do not try
    denied: HashMap<Arc<str>, Moment, FixedState>,
    is_busy: bool,
    leads: bool,
    /// Nothing is due before, unless something happens.
    quiet_until: Option<Moment>,
    random: fastrand::Rng,
}

impl Journal {
    /// Nothing is known.
    pub(super) fn new(random: fastrand::Rng) -> Self {
        Self {
            lines: HashMap::default(),
            relieved: BTreeMap::new(),
            bucket: Bucket::new(Duration::from_millis(200), 50),
            of_objects: HashMap::default(),
            of_namespaces: HashMap::default(),
            paused_until: Moment::START,
            failures: 0,
            denied: HashMap::default(),
            is_busy: false,
            leads: false,
            quiet_until: None,
            random,
        }
    }

    /// All that is wrong at `now`, those of one object together.
    pub(super) fn report(&mut self, matters: impl Iterator<Item = Matter>, now: Moment) {
        self.quiet_until = None;
        let mut seen: HashSet<u64, FixedState> = HashSet::default();
        let mut count: (Option<ObjectRef>, usize) = (None, 0);
        let mut crowds = self.crowds();
        for matter in matters {
            if count.0.as_ref() != Some(&matter.object) {
                count = (Some(matter.object.clone()), 0);
            }
            count.1 += 1;
            let matter = match count.1 {
                ..MAX_PER_OBJECT => matter,
                MAX_PER_OBJECT => {
                    let note =
                        "there are more problems than these; the log and /debug/table have all of them";
                    Matter { reason: "MoreProblems", note: note.to_owned(), ..matter }
                }
                _ => continue,
            };
            let key = key(&matter);
            if self.lines.contains_key(&key) || self.makes_room(&matter.object, &mut crowds) {
                seen.insert(key);
                self.relieved.remove(&matter.object);
                self.lines.entry(key).or_insert_with(|| Line::new(matter, now)).stands(now);
            }
        }
        let mut afflicted: HashSet<ObjectRef, FixedState> = HashSet::default();
        let mut relieved: Vec<ObjectRef> = Vec::new();
        for (key, line) in &mut self.lines {
            if seen.contains(key) {
                afflicted.insert(line.object.clone());
            } else if line.goes(now) {
                relieved.push(line.object.clone());
            }
        }
        for object in relieved.into_iter().filter(|object| !afflicted.contains(object)) {
            self.relieved.entry(object).or_insert(now);
        }
    }

    /// namespace → matters of its objects
    fn crowds(&self) -> HashMap<Arc<str>, Crowd, FixedState> {
        let mut crowds: HashMap<Arc<str>, Crowd, FixedState> = HashMap::default();
        for (key, line) in &self.lines {
            let crowd = crowds.entry(Arc::clone(&line.object.namespace)).or_default();
            crowd.count += 1;
            crowd.over.extend(line.is_gone().then_some(*key));
        }
        crowds
    }

    /// Whether there is room for one more matter of `object`, which is then counted; if need be, where it was remembered
    /// that something was told that is over.
    fn makes_room(&mut self, object: &ObjectRef, crowds: &mut HashMap<Arc<str>, Crowd, FixedState>) -> bool {
        let own = crowds.get(&object.namespace).map_or(0, |crowd| crowd.count);
        let crowded = if own >= MAX_PER_NAMESPACE {
            crowds.get_mut(&object.namespace)
        } else if self.lines.len() >= MAX_LINES {
            crowds.values_mut().max_by_key(|crowd| (crowd.count, crowd.over.len()))
        } else {
            None
        };
        if let Some(crowded) = crowded {
            // One that stands again by now is not there twice.
            let Some(over) = crowded.over.pop() else { return false };
            self.lines.remove(&over);
            crowded.count = crowded.count.saturating_sub(1);
        }
        crowds.entry(Arc::clone(&object.namespace)).or_default().count += 1;
        true
    }

    /// When there may be an Event about `object`.
    fn allowed(&self, object: &ObjectRef, now: Moment) -> Moment {
        let ready = |bucket: Option<&Bucket>| bucket.map_or(Moment::START, |bucket| bucket.ready(now));
        let denied = self.denied.get(namespace(object)).copied().unwrap_or_default();
        denied.max(ready(self.of_objects.get(object))).max(ready(self.of_namespaces.get(namespace(object))))
    }

    /// There is an Event about `object`.
    fn spend(&mut self, object: &ObjectRef, now: Moment) {
        self.bucket.take(now);
        self.of_objects.retain(|_, bucket| !bucket.is_full(now));
        self.of_namespaces.retain(|_, bucket| !bucket.is_full(now));
        let full = || Bucket::new(OBJECT_INTERVAL, OBJECT_BURST);
        self.of_objects.entry(object.clone()).or_insert_with(full).take(now);
        let full = || Bucket::new(NAMESPACE_INTERVAL, NAMESPACE_BURST);
        self.of_namespaces.entry(namespace(object).into()).or_insert_with(full).take(now);
    }

    /// The object is gone, or another one by now: nothing that was told is about it.
    pub(super) fn forget(&mut self, object: &ObjectRef) {
        self.quiet_until = None;
        self.relieved.remove(object);
        self.lines.retain(|_, line| line.object != *object || !line.is_gone());
        self.lines.values_mut().filter(|line| line.object == *object).for_each(Line::forget);
    }

    /// We may write, or may not.
    pub(super) fn lead(&mut self, leads: bool) {
        if self.leads != leads {
            self.quiet_until = None;
            self.denied.clear();
        }
        self.leads = leads;
    }

    /// What to do at `now`.
    pub(super) fn next(&mut self, now: Moment) -> Next {
        if let Some(until) = self.quiet_until.filter(|until| now < *until) {
            return Next::Wait(Some(until));
        }
        self.lines.retain(|_, line| !line.is_forgotten(now));
        if !self.leads || self.is_busy {
            return Next::Wait(None);
        }
        let lines = self.lines.iter();
        let lines =
            lines.filter_map(|(key, line)| Some((line.due()?.max(self.allowed(&line.object, now)), *key)));
        let relieved = self.relieved.iter();
        let relieved =
            relieved.map(|(object, since)| ((*since + RELIEF).max(self.allowed(object, now)), object));
        let (line, relief) = (lines.min(), relieved.min());
        let due = line.map(|(due, _)| due).into_iter().chain(relief.as_ref().map(|(due, _)| *due)).min();
        let Some(due) = due else {
            self.quiet_until = Some(now + MEMORY);
            return Next::Wait(None);
        };
        let ready = due.max(self.bucket.ready(now)).max(self.paused_until);
        if now < ready {
            self.quiet_until = Some(ready);
            return Next::Wait(Some(ready));
        }
        self.is_busy = true;
        if let Some((_, object)) = relief.filter(|(at, _)| *at <= now) {
            let object = object.clone();
            self.relieved.remove(&object);
            self.spend(&object, now);
            let note = "what was wrong with this object is no longer so".into();
            let action = Action::Create { is_warning: false, reason: RESOLVED, note };
            return Next::Tell(Telling { key: 0, object, action });
        }
        let line = line.and_then(|(_, key)| Some((key, self.lines.get(&key)?)));
        let telling = line.map(|(key, line)| (key, line.object.clone(), line.action()));
        let Some((key, object, action)) = telling else { return Next::Wait(None) };
        self.spend(&object, now);
        Next::Tell(Telling { key, object, action })
    }

    /// This became of `telling`.
    pub(super) fn outcome(&mut self, telling: &Telling, outcome: Outcome, now: Moment) {
        self.is_busy = false;
        self.quiet_until = None;
        match outcome {
            Outcome::Denied => {
                self.failures = 0;
                self.denied.retain(|_, until| now < *until);
                self.denied.insert(namespace(&telling.object).into(), now + DENIED);
            }
            Outcome::Failed => {
                self.failures += 1;
                self.paused_until = now + backoff(self.failures, FIRST_PAUSE, MAX_PAUSE, &mut self.random);
            }
            Outcome::Aborted => {}
            Outcome::Done { .. } | Outcome::Gone | Outcome::NoObject | Outcome::Invalid => self.failures = 0,
        }
        let Some(line) = self.lines.get_mut(&telling.key) else { return };
        match outcome {
            Outcome::Done { name, count } => {
                // Not all at once, half an hour after a start.
                let next = now + REPEAT.mul_f64(0.8 + self.random.f64() / 5.0);
                line.told(name, count, now, next);
            }
            Outcome::Gone => line.forget(),
            Outcome::NoObject | Outcome::Invalid => line.set_aside(now + SET_ASIDE),
            // Others go first.
            Outcome::Failed => line.set_aside(now + FAILED),
            Outcome::Denied | Outcome::Aborted => {}
        }
    }
}

/// The namespace that Events about `object` are written to.
pub(super) fn namespace(object: &ObjectRef) -> &str {
    match &*object.namespace {
        "" => "default",
        namespace => namespace,
    }
}

/// A number that is the same in every process: FNV-1a.
pub(crate) fn number(parts: &[&str]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

fn key(matter: &Matter) -> u64 {
    let Matter { object: ObjectRef { kind, namespace, name }, reason, note } = matter;
    number(&[kind_name(*kind), namespace, name, reason, note]).max(1)
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Ingress => "Ingress",
        Kind::IngressClass => "IngressClass",
        Kind::Service => "Service",
        Kind::EndpointSlice => "EndpointSlice",
        Kind::Secret => "Secret",
        Kind::ConfigMap => "ConfigMap",
        Kind::Namespace => "Namespace",
        Kind::AddressPool => "AddressPool",
        Kind::IPAddressPool => "IPAddressPool",
        Kind::L2Advertisement => "L2Advertisement",
        Kind::Node => "Node",
        Kind::ServiceCIDR => "ServiceCIDR",
        Kind::Config => "Config",
        Kind::Listener => "Listener",
        Kind::Route => "Route",
        Kind::Backend => "Backend",
        Kind::File => "File",
    }
}

#[cfg(test)]
mod tests;
