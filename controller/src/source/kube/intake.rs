//! Objects of one list as they come → changes. Pure: it holds what is known of the list, decodes what is new, and throws
//! everything else away at once.

mod material;

use std::collections::HashSet;
use std::sync::Arc;

use config::report::{Kind, ObjectRef, Problem};
use config::resource::{AddressPool, Holding, Object, ObjectSpec, Received, decode_json};
use foldhash::quality::FixedState;

pub(super) use self::material::decode_material;
use super::item::{self, Happened, Item};
use super::journal;
use super::known::{Key, Known, Seen, Verdict};
use super::reflector::Found;
use super::resource::{Resource, Target};
use super::version::Version;
use super::wanted::Wanted;
use crate::status::Observed;

/// What is new.
#[derive(Debug)]
pub(super) enum Change {
    /// The object is new or has changed.
    Apply(Applied),
    /// The object is what it was, under another version.
    Observed(Observed),
    /// There is something else to say about the object.
    Problems(ObjectRef, Vec<Problem>),
    /// The object is there, and is not of a form that we know; of a Service, the addresses that it may have.
    Undecoded(ObjectRef, Option<Holding>),
    /// The object is gone.
    Gone(ObjectRef),
    /// A Secret or ConfigMap that is named has another version, this one, than the one that is known.
    Touched(ObjectRef, Option<Version>),
    /// The namespace is one of those that are watched (true), or no longer.
    Namespace(Arc<str>, bool),
}

/// An object that is new or has changed.
#[derive(Debug)]
pub(super) struct Applied {
    pub(super) object: Object,
    pub(super) version: Option<Version>,
    /// What the status writer is told.
    pub(super) observed: Option<Observed>,
    /// The object as it is kept on disk; empty if nothing is.
    pub(super) raw: Box<[u8]>,
}

/// An object that says nothing of who it is, or a namespace that is not ours.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Unreadable;

/// What is wanted besides the objects.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Extras {
    /// Somebody writes status.
    pub(super) observes: bool,
    /// Somebody writes the status of Services.
    pub(super) observes_services: bool,
    /// Objects are kept on disk.
    pub(super) keeps: bool,
}

/// Namespaces whose objects are taken in.
pub(super) type Namespaces = HashSet<Arc<str>, FixedState>;

/// One list.
#[derive(Debug)]
pub(super) struct Intake {
    target: Target,
    known: Known,
    wanted: Wanted,
    extras: Extras,
    /// `None` for all.
    namespaces: Option<Namespaces>,
    /// The first list is complete.
    is_synced: bool,
    /// What the list that is being read has, which counts when it is complete; and what is remembered of it.
    pending: Vec<Change>,
    remembered: Vec<(Key, Seen)>,
    /// Material that was named when the list began, and material that the list has.
    awaited: HashSet<ObjectRef, FixedState>,
    present: HashSet<ObjectRef, FixedState>,
    /// Objects that the list has.
    listed: usize,
    /// Objects of the list that nothing can be read of.
    unreadable: usize,
    /// Objects that do not decode, since [`Self::take_decode_failures`].
    decode_failures: u64,
}

impl Intake {
    pub(super) fn new(
        target: Target,
        wanted: Wanted,
        extras: Extras,
        namespaces: Option<Namespaces>,
    ) -> Self {
        Self {
            target,
            known: Known::default(),
            wanted,
            extras,
            namespaces,
            is_synced: false,
            pending: Vec::new(),
            remembered: Vec::new(),
            awaited: HashSet::default(),
            present: HashSet::default(),
            listed: 0,
            unreadable: 0,
            decode_failures: 0,
        }
    }

    /// What is followed.
    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    /// Objects known.
    pub(super) fn len(&self) -> usize {
        if self.target.resource.is_material() { self.present.len() } else { self.known.len() }
    }

    /// Objects that did not decode since the last call.
    pub(super) fn take_decode_failures(&mut self) -> u64 {
        std::mem::take(&mut self.decode_failures)
    }

    /// A list begins.
    pub(super) fn begin_list(&mut self) {
        self.abandon_list();
        self.known.begin_list();
        self.present.clear();
        let named = self.material().map(|kind| self.wanted.of_kind(kind)).unwrap_or_default();
        self.awaited = named.into_iter().map(|(reference, _)| reference).collect();
        (self.listed, self.unreadable) = (0, 0);
    }

    /// What came of a list that was not completed is forgotten.
    pub(super) fn abandon_list(&mut self) {
        self.pending = Vec::new();
        self.remembered = Vec::new();
    }

    /// Nobody knows how far it got: of all objects, no more is known than that they are there.
    pub(super) fn distrust(&mut self) {
        self.abandon_list();
        self.known.distrust();
    }

    /// Takes in one object of a list.
    pub(super) fn list_item(&mut self, json: &[u8]) {
        self.listed += 1;
        let Some(item) = item::peek(json) else {
            self.unreadable += 1;
            self.decode_failures += 1;
            tracing::debug!(resource = self.target.resource.name(), "an object of the list has no name");
            return;
        };
        if !self.is_ours(&item) {
            return;
        }
        if self.target.resource.is_material() {
            self.material_item(&item, json);
            return;
        }
        let verdict = self.known.mark(&item);
        if verdict == Verdict::Renumbered {
            self.pending.extend(self.observed(json).map(Change::Observed));
        } else if verdict == Verdict::New {
            let (change, key, seen) = self.read(&item, json);
            if !self.is_synced {
                // Nothing is served yet, so that it need not wait for the rest.
                self.known.accept(&key, seen);
                self.pending.extend(change);
                return;
            }
            self.remembered.push((key, seen));
            self.pending.extend(change);
        }
    }

    /// An object of a list was too large to be read.
    pub(super) fn skipped(&mut self) {
        self.listed += 1;
        self.unreadable += 1;
        self.decode_failures += 1;
    }

    /// True if the list that was read has objects that cannot be read.
    pub(super) fn is_in_part(&self) -> bool {
        self.unreadable > 0
    }

    /// What came so far of the first list, which nothing has to wait for.
    pub(super) fn take_early(&mut self) -> Vec<Change> {
        if self.is_synced { Vec::new() } else { std::mem::take(&mut self.pending) }
    }

    /// True if the list that is being read has less than half of what is known.
    pub(super) fn shrinks(&self) -> bool {
        self.is_synced && self.is_less_than_half(self.listed)
    }

    fn is_less_than_half(&self, count: usize) -> bool {
        !self.target.resource.is_material() && 2 * count < self.known.len()
    }

    /// The list is complete: everything that follows from it.
    pub(super) fn end_list(&mut self) -> Vec<Change> {
        self.is_synced = true;
        for (key, seen) in std::mem::take(&mut self.remembered) {
            self.known.accept(&key, seen);
        }
        let mut changes = std::mem::take(&mut self.pending);
        if self.unreadable > 0 {
            // What is missing may be one of those.
            tracing::warn!(
                resource = self.target.resource.name(),
                objects = self.unreadable,
                "the list has objects that cannot be read, so that nothing is taken for deleted"
            );
            return changes;
        }
        if let Some(kind) = self.material() {
            self.missing_material(kind, &mut changes);
            return changes;
        }
        let gone = self.known.end_list();
        gone.into_iter().for_each(|(key, seen)| self.gone(&key, &seen, &mut changes));
        changes
    }

    /// Takes in what a watch says; also returns the version.
    pub(super) fn watch_item(
        &mut self,
        happened: Happened,
        json: &[u8],
    ) -> Result<(Option<Version>, Vec<Change>), Unreadable> {
        let Some(item) = item::peek(json) else {
            self.decode_failures += 1;
            return Err(Unreadable);
        };
        let version = item.version.clone();
        if !self.is_ours(&item) {
            return Ok((version, Vec::new()));
        }
        if self.target.resource.is_material() {
            self.material_event(happened, &item, json);
        } else {
            match (self.known.judge(&item), happened) {
                (Verdict::Stale, _) => {}
                (Verdict::Same, Happened::Applied) => {}
                (Verdict::Renumbered, Happened::Applied) => {
                    self.known.update(&item);
                    self.pending.extend(self.observed(json).map(Change::Observed));
                }
                (Verdict::New, Happened::Applied) => {
                    let (change, key, seen) = self.read(&item, json);
                    self.known.accept(&key, seen);
                    self.pending.extend(change);
                }
                (Verdict::New | Verdict::Same | Verdict::Renumbered, Happened::Deleted) => {
                    let key: Key = (Arc::from(&*item.namespace), Arc::from(&*item.name));
                    if let Some(seen) = self.known.remove(&key, version.clone()) {
                        let mut changes = Vec::new();
                        self.gone(&key, &seen, &mut changes);
                        self.pending = changes;
                    }
                }
            }
        }
        Ok((version, std::mem::take(&mut self.pending)))
    }

    /// Compares a sample from a server, whose list is as of `version` and has `count` objects (if it says so), with what
    /// is known up to `position`.
    pub(super) fn compare(
        &self,
        sample: &[Vec<u8>],
        version: Option<&Version>,
        count: Option<usize>,
        position: &Version,
    ) -> Found {
        let items = || sample.iter().filter_map(|json| item::peek(json)).filter(|item| self.is_ours(item));
        let is_known = !self.target.resource.is_material();
        if version.is_some_and(|version| version.is_before(position)) {
            let shrinks = count.is_some_and(|count| self.is_less_than_half(count));
            return if shrinks { Found::Shrunk } else { Found::Behind };
        }
        if is_known && items().any(|item| self.known.is_missed(&item, position)) {
            return Found::Missed;
        }
        // What is left out, or cannot be read, is counted by the server alone.
        let are_all_known = is_known && self.namespaces.is_none() && self.unreadable == 0;
        if are_all_known && version == Some(position) && count.is_some_and(|count| count != self.known.len())
        {
            return Found::Missed;
        }
        Found::Same
    }

    /// From now on, objects of `namespace` are taken in as well.
    pub(super) fn join(&mut self, namespace: Arc<str>) {
        if let Some(namespaces) = &mut self.namespaces {
            namespaces.insert(namespace);
        }
    }

    /// Takes in an object of a list of one namespace; the watch has gone on meanwhile and may know better.
    pub(super) fn join_item(&mut self, json: &[u8]) -> Vec<Change> {
        self.watch_item(Happened::Applied, json).map(|(_, changes)| changes).unwrap_or_default()
    }

    /// Objects of `namespace` are none of ours any more.
    pub(super) fn leave(&mut self, namespace: &str) -> Vec<Change> {
        if let Some(namespaces) = &mut self.namespaces {
            namespaces.remove(namespace);
        }
        let mut changes = Vec::new();
        for (key, seen) in self.known.leave(namespace) {
            self.gone(&key, &seen, &mut changes);
        }
        changes
    }

    /// The kind of the list, if it is one of those of which only what is named counts.
    fn material(&self) -> Option<Kind> {
        self.target.resource.kind().filter(|_| self.target.resource.is_material())
    }

    fn is_ours(&self, item: &Item<'_>) -> bool {
        item.namespace.is_empty() || self.is_watched(&item.namespace)
    }

    fn is_watched(&self, namespace: &str) -> bool {
        self.namespaces.as_ref().is_none_or(|namespaces| namespaces.contains(namespace))
    }

    fn gone(&self, key: &Key, seen: &Seen, changes: &mut Vec<Change>) {
        let Some(kind) = self.target.resource.kind() else {
            changes.push(Change::Namespace(Arc::clone(&key.1), false));
            return;
        };
        let reference = ObjectRef { kind, namespace: Arc::clone(&key.0), name: Arc::clone(&key.1) };
        if seen.has_problems {
            changes.push(Change::Problems(reference.clone(), Vec::new()));
        }
        changes.push(Change::Gone(reference));
    }

    /// Decodes an object, and says what is to be remembered of it.
    fn read(&mut self, item: &Item<'_>, json: &[u8]) -> (Vec<Change>, Key, Seen) {
        let key = || (self.known.namespace(&item.namespace), Arc::from(&*item.name));
        let Some(kind) = self.target.resource.kind() else {
            let key: Key = key();
            let change = Change::Namespace(Arc::clone(&key.1), true);
            return (vec![change], key, self.known.memory_of(item, false));
        };
        let Received { reference: _, object, problems, holding } = decode_json(kind, json);
        let object = object.or_else(|| unknown_pool(kind, item, json));
        let had_problems = self.known.has_problems(item);
        let has_problems = !problems.is_empty();
        let mut changes = Vec::with_capacity(1);
        let key = match object {
            Some(mut object) => {
                object.reference.namespace = self.known.namespace(&object.reference.namespace);
                let key = (Arc::clone(&object.reference.namespace), Arc::clone(&object.reference.name));
                let observed = self.observed(json);
                let raw = if self.extras.keeps && !self.target.resource.is_of_networks() {
                    journal::trim(json, kind == Kind::Service)
                } else {
                    Box::default()
                };
                changes.push(Change::Apply(Applied { object, version: item.version.clone(), observed, raw }));
                key
            }
            None => {
                self.decode_failures += 1;
                let key: Key = key();
                let (namespace, name) = (Arc::clone(&key.0), Arc::clone(&key.1));
                changes.push(Change::Undecoded(ObjectRef { kind, namespace, name }, holding));
                key
            }
        };
        if has_problems || had_problems {
            let reference = ObjectRef { kind, namespace: Arc::clone(&key.0), name: Arc::clone(&key.1) };
            changes.push(Change::Problems(reference, problems));
        }
        (changes, key, self.known.memory_of(item, has_problems))
    }

    /// What the status writer is told of an Ingress, or of a Service with a load balancer.
    fn observed(&self, json: &[u8]) -> Option<Observed> {
        match self.target.resource {
            Resource::Ingresses if self.extras.observes => Observed::from_json(json),
            Resource::Services if self.extras.observes_services => Observed::from_service(json),
            _ => None,
        }
    }
}

/// A pool of which no more is known than that it is there: it takes nothing from anybody.
fn unknown_pool(kind: Kind, item: &Item<'_>, json: &[u8]) -> Option<Object> {
    if !matches!(kind, Kind::AddressPool | Kind::IPAddressPool) {
        return None;
    }
    let reference =
        ObjectRef { kind, namespace: item.namespace.as_ref().into(), name: item.name.as_ref().into() };
    let spec = ObjectSpec::AddressPool(Box::new(AddressPool::in_part(json)));
    Some(Object { reference, location: None, spec })
}
