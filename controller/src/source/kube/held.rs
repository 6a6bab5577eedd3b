//! Objects that name a Secret or ConfigMap of which nothing is known yet: they wait a moment for it. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use config::report::ObjectRef;
use config::resource::Object;

/// The longest wait.
const PATIENCE: Duration = Duration::from_millis(500);

/// What waits.
#[derive(Debug, Default)]
pub(super) struct Held(BTreeMap<ObjectRef, One>);

#[derive(Debug)]
struct One {
    object: Object,
    named: BTreeSet<ObjectRef>,
    until: Instant,
}

impl Held {
    /// `object` waits for what it names. A newer version of an object that waits does not wait longer than that one.
    pub(super) fn hold(&mut self, object: Object, named: BTreeSet<ObjectRef>, now: Instant) {
        let until = self.0.get(&object.reference).map_or(now + PATIENCE, |former| former.until);
        self.0.insert(object.reference.clone(), One { object, named, until });
    }

    /// The object is gone, or there is a version of it that need not wait.
    pub(super) fn remove(&mut self, reference: &ObjectRef) {
        self.0.remove(reference);
    }

    /// The objects that need not wait any longer, and what they name.
    pub(super) fn release(
        &mut self,
        now: Instant,
        is_known: impl Fn(&ObjectRef) -> bool,
    ) -> Vec<(Object, BTreeSet<ObjectRef>)> {
        let is_ready = |one: &One| one.until <= now || one.named.iter().all(&is_known);
        let ready = self.0.extract_if(.., |_, one| is_ready(one));
        ready.map(|(_, One { object, named, .. })| (object, named)).collect()
    }

    /// When the first of them has waited long enough.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.0.values().map(|one| one.until).min()
    }
}
