//! Secrets and ConfigMaps that objects name. Owns who names what, and which of them are there. Pure: it says what must be
//! fetched and what can be forgotten, and neither fetches nor decodes.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use config::report::{Kind, ObjectRef};
use foldhash::quality::FixedState;

use super::item::Item;
use super::version::Version;

/// What is known of a Secret or ConfigMap that is named.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Material {
    /// Nothing yet.
    Unknown,
    /// It is there, in this version.
    Loaded(Option<Version>),
    /// There is none of that name, or we may not see it.
    Absent,
}

/// Everything that is named, shared with whoever must tell it from the rest.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted(Arc<Mutex<Names>>);

/// kind → namespace → name → material
type Names = HashMap<Kind, HashMap<Arc<str>, HashMap<Arc<str>, (usize, Material), FixedState>, FixedState>>;

impl Wanted {
    fn lock(&self) -> MutexGuard<'_, Names> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of the Secret or ConfigMap; `None` if nobody names it.
    pub(super) fn find(&self, kind: Kind, item: &Item<'_>) -> Option<Material> {
        let names = self.lock();
        Some(names.get(&kind)?.get(&*item.namespace)?.get(&*item.name)?.1.clone())
    }

    /// The same.
    pub(super) fn material(&self, reference: &ObjectRef) -> Option<Material> {
        let names = self.lock();
        Some(names.get(&reference.kind)?.get(&reference.namespace)?.get(&reference.name)?.1.clone())
    }

    /// Notes what became of it; without effect if nobody names it. True if it was [`Material::Unknown`].
    pub(super) fn set(&self, reference: &ObjectRef, material: Material) -> bool {
        let mut names = self.lock();
        let found = names
            .get_mut(&reference.kind)
            .and_then(|names| names.get_mut(&reference.namespace)?.get_mut(&reference.name));
        found.is_some_and(|(_, known)| std::mem::replace(known, material) == Material::Unknown)
    }

    /// True if nothing is known yet of something that is named.
    pub(super) fn is_any_unknown(&self) -> bool {
        let names = self.lock();
        let mut all = names.values().flat_map(HashMap::values).flat_map(HashMap::values);
        all.any(|(_, material)| *material == Material::Unknown)
    }

    /// Everything of `kind` that is named.
    pub(super) fn of_kind(&self, kind: Kind) -> Vec<(ObjectRef, Material)> {
        let names = self.lock();
        let all = names.get(&kind).into_iter().flatten();
        all.flat_map(|(namespace, names)| {
            names.iter().map(move |(name, (_, material))| {
                let (namespace, name) = (Arc::clone(namespace), Arc::clone(name));
                (ObjectRef { kind, namespace, name }, material.clone())
            })
        })
        .collect()
    }

    /// One more object names it; true if it is the first one.
    fn add(&self, reference: &ObjectRef) -> bool {
        let mut names = self.lock();
        let namespace = names.entry(reference.kind).or_default().entry(Arc::clone(&reference.namespace));
        let (count, _) =
            namespace.or_default().entry(Arc::clone(&reference.name)).or_insert((0, Material::Unknown));
        *count += 1;
        *count == 1
    }

    /// One object less names it; true if it was the last one.
    fn remove(&self, reference: &ObjectRef) -> bool {
        let mut names = self.lock();
        let Some(namespaces) = names.get_mut(&reference.kind) else { return false };
        let Some(of_namespace) = namespaces.get_mut(&reference.namespace) else { return false };
        let Some((count, _)) = of_namespace.get_mut(&reference.name) else { return false };
        *count = count.saturating_sub(1);
        if *count > 0 {
            return false;
        }
        of_namespace.remove(&reference.name);
        if of_namespace.is_empty() {
            namespaces.remove(&reference.namespace);
        }
        true
    }
}

/// Who names what.
#[derive(Debug, Default)]
pub(super) struct Wants {
    wanted: Wanted,
    /// object → what it names; objects that name nothing are not in it
    by_object: HashMap<ObjectRef, BTreeSet<ObjectRef>, FixedState>,
}

impl Wants {
    /// Nothing is named but `always`.
    pub(super) fn new<'a>(always: impl IntoIterator<Item = &'a ObjectRef>) -> Self {
        let wants = Self::default();
        for always in always {
            wants.wanted.add(always);
        }
        wants
    }

    /// What is named, to share.
    pub(super) fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    /// `object` names these as well, from now on; returns what nobody has named before.
    pub(super) fn add(&mut self, object: &ObjectRef, named: BTreeSet<ObjectRef>) -> Vec<ObjectRef> {
        if named.is_empty() {
            return Vec::new();
        }
        let known = self.by_object.entry(object.clone()).or_default();
        let mut first = Vec::new();
        for reference in named {
            if !known.contains(&reference) {
                if self.wanted.add(&reference) {
                    first.push(reference.clone());
                }
                known.insert(reference);
            }
        }
        first
    }

    /// `object` names only these any more; returns what nobody names now.
    pub(super) fn keep(&mut self, object: &ObjectRef, named: &BTreeSet<ObjectRef>) -> Vec<ObjectRef> {
        let Some(known) = self.by_object.get_mut(object) else { return Vec::new() };
        let mut last = Vec::new();
        known.retain(|reference| {
            let is_kept = named.contains(reference);
            if !is_kept && self.wanted.remove(reference) {
                last.push(reference.clone());
            }
            is_kept
        });
        if known.is_empty() {
            self.by_object.remove(object);
        }
        last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(name: &str) -> ObjectRef {
        ObjectRef { kind: Kind::Secret, namespace: "n".into(), name: name.into() }
    }

    fn ingress(name: &str) -> ObjectRef {
        ObjectRef { kind: Kind::Ingress, namespace: "n".into(), name: name.into() }
    }

    fn names<const N: usize>(names: [&str; N]) -> BTreeSet<ObjectRef> {
        names.into_iter().map(secret).collect()
    }

    #[test]
    fn secret_is_wanted_from_the_first_object_that_names_it_to_the_last() {
        let mut wants = Wants::default();
        assert_eq!(wants.add(&ingress("a"), names(["x", "y"])).len(), 2);
        assert_eq!(wants.add(&ingress("b"), names(["x"])), []);
        assert_eq!(wants.keep(&ingress("a"), &names(["y"])), []);
        assert_eq!(wants.keep(&ingress("b"), &names([])), [secret("x")]);
        assert_eq!(wants.wanted().material(&secret("x")), None);
        assert_eq!(wants.wanted().material(&secret("y")), Some(Material::Unknown));
    }

    #[test]
    fn object_that_names_the_same_again_counts_once() {
        let mut wants = Wants::default();
        wants.add(&ingress("a"), names(["x"]));
        wants.add(&ingress("a"), names(["x"]));
        assert_eq!(wants.keep(&ingress("a"), &names([])), [secret("x")]);
    }

    #[test]
    fn default_certificate_is_always_wanted() {
        let mut wants = Wants::new(Some(&secret("x")));
        assert_eq!(wants.add(&ingress("a"), names(["x"])), []);
        assert_eq!(wants.keep(&ingress("a"), &names([])), []);
        assert_eq!(wants.wanted().of_kind(Kind::Secret), [(secret("x"), Material::Unknown)]);
    }

    #[test]
    fn first_news_of_a_secret_is_told_from_later_ones() {
        let mut wants = Wants::default();
        wants.add(&ingress("a"), names(["x"]));
        assert!(wants.wanted().set(&secret("x"), Material::Absent));
        assert!(!wants.wanted().set(&secret("x"), Material::Loaded(None)));
        assert!(!wants.wanted().set(&secret("nobody's"), Material::Absent));
    }
}
