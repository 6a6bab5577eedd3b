//! News of objects that name a Secret or ConfigMap of which nothing is known yet: they wait a moment for it. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use config::index::Event;
use config::report::{Kind, ObjectRef};

/// The longest wait.
const PATIENCE: Duration = Duration::from_millis(500);

/// What waits.
#[derive(Debug, Default)]
pub(super) struct Held(BTreeMap<ObjectRef, One>);

#[derive(Debug)]
struct One {
    event: Event,
    named: BTreeSet<ObjectRef>,
    until: Instant,
}

impl Held {
    /// `event`, which is news of `object`, waits for `named`. What is newer does not wait longer than what waits already.
    pub(super) fn hold(&mut self, object: ObjectRef, event: Event, named: BTreeSet<ObjectRef>, now: Instant) {
        let until = self.0.get(&object).map_or(now + PATIENCE, |former| former.until);
        self.0.insert(object, One { event, named, until });
    }

    /// True if an object of `kind` waits.
    pub(super) fn has(&self, kind: Kind) -> bool {
        self.0.keys().any(|object| object.kind == kind)
    }

    /// The object is gone, or there is a version of it that need not wait.
    pub(super) fn remove(&mut self, reference: &ObjectRef) {
        self.0.remove(reference);
    }

    /// What need not wait any longer, of which objects, and what these name.
    pub(super) fn release(
        &mut self,
        now: Instant,
        is_known: impl Fn(&ObjectRef) -> bool,
    ) -> Vec<(ObjectRef, Event, BTreeSet<ObjectRef>)> {
        let is_ready = |one: &One| one.until <= now || one.named.iter().all(&is_known);
        let ready = self.0.extract_if(.., |_, one| is_ready(one));
        ready.map(|(object, One { event, named, .. })| (object, event, named)).collect()
    }

    /// When the first of them has waited long enough.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.0.values().map(|one| one.until).min()
    }
}
