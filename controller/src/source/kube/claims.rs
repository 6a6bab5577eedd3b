//! Which Ingresses are ours, as far as it decides on what is asked for: only the Secrets and ConfigMaps of those are. Pure;
//! the rule itself is the compiler's.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use config::compile::{ClassSettings, Classes};
use config::report::ObjectRef;
use config::resource::{IngressClass, Object, ObjectSpec};
use foldhash::quality::FixedState;

/// IngressClasses, and the Ingresses that name Secrets or ConfigMaps.
#[derive(Debug)]
pub(super) struct Claims {
    classes: Classes,
    /// Names of classes that only the disk has said anything of.
    restored: BTreeSet<Arc<str>>,
    ingresses: HashMap<ObjectRef, Naming, FixedState>,
}

/// An Ingress that names Secrets or ConfigMaps.
#[derive(Debug)]
struct Naming {
    class: Option<Arc<str>>,
    legacy: Option<Arc<str>>,
    named: Box<[ObjectRef]>,
}

impl Claims {
    /// Neither classes nor Ingresses are known.
    pub(super) fn new(settings: ClassSettings) -> Self {
        let classes = Classes::none(settings);
        Self { classes, restored: BTreeSet::new(), ingresses: HashMap::default() }
    }

    /// Takes in what `object`, which is no class, names; returns what of that is to be asked for.
    pub(super) fn take(&mut self, object: &Object) -> BTreeSet<ObjectRef> {
        let named = object.material();
        let ObjectSpec::Ingress(ingress) = &object.spec else { return named };
        if named.is_empty() {
            self.ingresses.remove(&object.reference);
            return named;
        }
        let (class, legacy) = (ingress.class.clone(), ingress.legacy_class.clone());
        let is_ours = self.classes.claims(class.as_ref(), legacy.as_ref());
        let naming = Naming { class, legacy, named: named.iter().cloned().collect() };
        self.ingresses.insert(object.reference.clone(), naming);
        if is_ours { named } else { BTreeSet::new() }
    }

    /// The Ingress is gone.
    pub(super) fn forget(&mut self, ingress: &ObjectRef) {
        self.ingresses.remove(ingress);
    }

    /// What a class is now; `None` if it is gone. True if that may change whose an Ingress is.
    pub(super) fn class(&mut self, name: &Arc<str>, class: Option<&IngressClass>) -> bool {
        self.restored.remove(name);
        match class {
            Some(class) => self.classes.put(name, class),
            None => self.classes.remove(name),
        }
    }

    /// What a class was when the disk was written; what the API server says goes before it.
    pub(super) fn restore_class(&mut self, name: &Arc<str>, class: &IngressClass) {
        if !self.classes.contains(name) {
            self.classes.put(name, class);
            self.restored.insert(Arc::clone(name));
        }
    }

    /// All classes were listed: those that only the disk had are gone.
    pub(super) fn classes_listed(&mut self) {
        for name in std::mem::take(&mut self.restored) {
            self.classes.remove(&name);
        }
    }

    /// The Ingresses that are ours, with what they name.
    pub(super) fn ours(&self) -> Vec<(ObjectRef, BTreeSet<ObjectRef>)> {
        let ours = self.ingresses.iter().filter(|(_, naming)| self.is_ours(naming));
        ours.map(|(ingress, naming)| (ingress.clone(), naming.named.iter().cloned().collect())).collect()
    }

    /// The Ingresses that are not.
    pub(super) fn foreign(&self) -> Vec<ObjectRef> {
        let foreign = self.ingresses.iter().filter(|(_, naming)| !self.is_ours(naming));
        foreign.map(|(ingress, _)| ingress.clone()).collect()
    }

    fn is_ours(&self, naming: &Naming) -> bool {
        self.classes.claims(naming.class.as_ref(), naming.legacy.as_ref())
    }
}
