//! What is known of one resource: which objects, and which version of each. Pure; it decides what is new, what is the
//! same, what is stale and what is gone, and holds nothing of the objects themselves.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use foldhash::quality::{FixedState, RandomState};

use super::item::Item;
use super::version::Version;

/// Deletions that are remembered, so that an event from before one of them is not believed after it.
const MAX_GONE: usize = 1_024;

/// One object.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    version: Option<Version>,
    uid: u64,
    /// Mark of all that it says.
    content: u64,
    /// The last list that had it.
    list: u32,
    /// Problems were told of it.
    pub(super) has_problems: bool,
}

/// What an object that came is to what is known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Verdict {
    /// It is this very version.
    Same,
    /// It says the same as the version that is known.
    Renumbered,
    /// It is to be taken in.
    New,
    /// What is known is newer.
    Stale,
}

/// The objects of one resource.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// namespace → name → object
    objects: HashMap<Arc<str>, HashMap<Arc<str>, Seen, FixedState>, FixedState>,
    count: usize,
    /// The last list that was begun.
    list: u32,
    /// What marks are made with, so that nobody can choose them.
    marks: RandomState,
    /// Namespace, name and version of the last deletions, the oldest first.
    gone: VecDeque<(Arc<str>, Arc<str>, Version)>,
}

/// Namespace and name.
pub(super) type Key = (Arc<str>, Arc<str>);

impl Known {
    /// Number of objects.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// True if there are none.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// A text that is shared by all objects of the namespace.
    pub(super) fn namespace(&self, namespace: &str) -> Arc<str> {
        self.objects
            .get_key_value(namespace)
            .map_or_else(|| namespace.into(), |(shared, _)| Arc::clone(shared))
    }

    /// True if problems were told of that object.
    pub(super) fn has_problems(&self, item: &Item<'_>) -> bool {
        self.seen(item).is_some_and(|seen| seen.has_problems)
    }

    fn seen(&self, item: &Item<'_>) -> Option<&Seen> {
        self.objects.get(&*item.namespace)?.get(&*item.name)
    }

    /// Judges what a watch sent.
    pub(super) fn judge(&self, item: &Item<'_>) -> Verdict {
        let Some(version) = &item.version else {
            return self.seen(item).map_or(Verdict::New, |seen| self.compare(item, seen));
        };
        let gone = self
            .gone
            .iter()
            .rev()
            .find(|(namespace, name, _)| **namespace == *item.namespace && **name == *item.name);
        if gone.is_some_and(|(_, _, gone)| !gone.is_before(version) && gone.compare(version).is_some()) {
            return Verdict::Stale;
        }
        match self.seen(item) {
            Some(Seen { version: Some(known), .. }) if version.is_before(known) => Verdict::Stale,
            Some(seen) => self.compare(item, seen),
            None => Verdict::New,
        }
    }

    fn compare(&self, item: &Item<'_>, seen: &Seen) -> Verdict {
        if seen.uid != item.uid_mark(&self.marks) {
            Verdict::New
        } else if item.version.is_some() && seen.version == item.version {
            Verdict::Same
        } else if seen.content == item.content_mark(&self.marks) {
            Verdict::Renumbered
        } else {
            Verdict::New
        }
    }

    /// Judges what a list has: a list is the truth, so nothing in it is stale. What is the same is marked as still there.
    pub(super) fn mark(&mut self, item: &Item<'_>) -> Verdict {
        let verdict = self.seen(item).map_or(Verdict::New, |seen| self.compare(item, seen));
        if verdict != Verdict::New {
            self.update(item);
        }
        verdict
    }

    /// Notes that an object which is the same has this version now.
    pub(super) fn update(&mut self, item: &Item<'_>) {
        let seen = self.objects.get_mut(&*item.namespace).and_then(|names| names.get_mut(&*item.name));
        if let Some(seen) = seen {
            seen.list = self.list;
            seen.version.clone_from(&item.version);
        }
    }

    /// What an object is remembered as, if it is taken in.
    pub(super) fn memory_of(&self, item: &Item<'_>, has_problems: bool) -> Seen {
        Seen {
            version: item.version.clone(),
            uid: item.uid_mark(&self.marks),
            content: item.content_mark(&self.marks),
            list: 0,
            has_problems,
        }
    }

    /// Remembers that an object was taken in; returns what was known of it.
    pub(super) fn accept(&mut self, key: &Key, mut seen: Seen) -> Option<Seen> {
        seen.list = self.list;
        if !self.gone.is_empty() {
            self.gone.retain(|(namespace, name, _)| (namespace, name) != (&key.0, &key.1));
        }
        let old = self.objects.entry(Arc::clone(&key.0)).or_default().insert(Arc::clone(&key.1), seen);
        self.count += usize::from(old.is_none());
        old
    }

    /// Forgets an object that was deleted as of `version`; returns what was known of it.
    pub(super) fn remove(&mut self, key: &Key, version: Option<Version>) -> Option<Seen> {
        if let Some(version) = version {
            if self.gone.len() >= MAX_GONE {
                self.gone.pop_front();
            }
            self.gone.push_back((Arc::clone(&key.0), Arc::clone(&key.1), version));
        }
        let names = self.objects.get_mut(&key.0)?;
        let old = names.remove(&key.1);
        if names.is_empty() {
            self.objects.remove(&key.0);
        }
        self.count -= usize::from(old.is_some());
        old
    }

    /// No object is taken for the same as before any more.
    pub(super) fn distrust(&mut self) {
        self.gone.clear();
        self.marks = RandomState::default();
        self.objects.values_mut().flat_map(HashMap::values_mut).for_each(|seen| seen.version = None);
    }

    /// Begins a list. Whatever is not marked or accepted from now on will be missing in it.
    pub(super) fn begin_list(&mut self) {
        self.list = self.list.wrapping_add(1);
    }

    /// Ends a list that is complete: forgets what it did not have, and returns that.
    pub(super) fn end_list(&mut self) -> Vec<(Key, Seen)> {
        self.gone.clear();
        let list = self.list;
        self.take(|_, seen| seen.list != list)
    }

    /// Forgets all objects of `namespace`, and returns them.
    pub(super) fn leave(&mut self, namespace: &str) -> Vec<(Key, Seen)> {
        self.take(|key, _| &**key == namespace)
    }

    fn take(&mut self, mut is_taken: impl FnMut(&Arc<str>, &Seen) -> bool) -> Vec<(Key, Seen)> {
        let mut taken = Vec::new();
        for (namespace, names) in &mut self.objects {
            let out = names.extract_if(|_, seen| is_taken(namespace, seen));
            taken.extend(out.map(|(name, seen)| ((Arc::clone(namespace), name), seen)));
        }
        self.objects.retain(|_, names| !names.is_empty());
        self.count -= taken.len();
        taken
    }

    /// True if `item`, from a server that is not behind, shows that something up to `position` was missed.
    pub(super) fn is_missed(&self, item: &Item<'_>, position: &Version) -> bool {
        let Some(version) = item.version.as_ref().filter(|version| !position.is_before(version)) else {
            return false;
        };
        self.seen(item).is_none_or(|seen| {
            seen.version.as_ref() != Some(version) || seen.uid != item.uid_mark(&self.marks)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::item::peek;
    use super::*;

    fn json(name: &str, uid: &str, version: u64) -> String {
        format!(
            r#"{{"metadata":{{"name":"{name}","namespace":"n","uid":"{uid}","resourceVersion":"{version}",
            "generation":{}}},"spec":{{}}}}"#,
            // Versions 4 and 50 say the same.
            if version == 4 { 50 } else { version }
        )
    }

    fn key(name: &str) -> Key {
        ("n".into(), name.into())
    }

    fn accept(known: &mut Known, name: &str, uid: &str, version: u64) {
        let json = json(name, uid, version);
        let item = peek(json.as_bytes()).unwrap();
        let memory = known.memory_of(&item, false);
        known.accept(&key(name), memory);
    }

    fn judge(known: &Known, name: &str, uid: &str, version: u64) -> Verdict {
        known.judge(&peek(json(name, uid, version).as_bytes()).unwrap())
    }

    #[test]
    fn duplicate_is_the_same_and_an_older_version_is_stale() {
        let mut known = Known::default();
        assert_eq!(judge(&known, "a", "u", 7), Verdict::New);
        accept(&mut known, "a", "u", 7);
        assert_eq!(judge(&known, "a", "u", 7), Verdict::Same);
        assert_eq!(judge(&known, "a", "u", 6), Verdict::Stale);
        assert_eq!(judge(&known, "a", "u", 8), Verdict::New);
        assert_eq!(judge(&known, "a", "other", 9), Verdict::New);
        accept(&mut known, "b", "u", 4);
        assert_eq!(judge(&known, "b", "u", 50), Verdict::Renumbered);
    }

    #[test]
    fn event_from_before_a_deletion_does_not_bring_the_object_back() {
        let mut known = Known::default();
        accept(&mut known, "a", "u", 7);
        known.remove(&key("a"), Some(Version::Number(9)));
        assert_eq!(judge(&known, "a", "u", 8), Verdict::Stale);
        assert_eq!(judge(&known, "a", "v", 10), Verdict::New);
        accept(&mut known, "a", "v", 10);
        assert_eq!(judge(&known, "a", "v", 11), Verdict::New);
        assert_eq!(known.len(), 1);
    }

    #[test]
    fn complete_list_tells_what_is_gone_and_an_incomplete_one_nothing() {
        let mut known = Known::default();
        for name in ["a", "b", "c"] {
            accept(&mut known, name, "u", 1);
        }
        known.begin_list();
        assert_eq!(known.mark(&peek(json("a", "u", 1).as_bytes()).unwrap()), Verdict::Same);
        // The continuation expired: the list begins again.
        known.begin_list();
        assert_eq!(known.mark(&peek(json("b", "u", 1).as_bytes()).unwrap()), Verdict::Same);
        assert_eq!(known.mark(&peek(json("c", "u", 2).as_bytes()).unwrap()), Verdict::New);
        accept(&mut known, "c", "u", 2);
        let gone: Vec<Key> = known.end_list().into_iter().map(|(key, _)| key).collect();
        assert_eq!(gone, [key("a")]);
        assert_eq!(known.len(), 2);
    }

    #[test]
    fn what_is_distrusted_is_new_again_and_still_missed() {
        let mut known = Known::default();
        for name in ["a", "b"] {
            accept(&mut known, name, "u", 4);
        }
        known.distrust();
        known.begin_list();
        assert_eq!(known.mark(&peek(json("a", "u", 4).as_bytes()).unwrap()), Verdict::New);
        accept(&mut known, "a", "u", 4);
        let gone: Vec<Key> = known.end_list().into_iter().map(|(key, _)| key).collect();
        assert_eq!(gone, [key("b")]);
    }

    #[test]
    fn same_version_of_another_object_is_another_object() {
        let mut known = Known::default();
        accept(&mut known, "a", "u", 1);
        known.begin_list();
        assert_eq!(known.mark(&peek(json("a", "v", 1).as_bytes()).unwrap()), Verdict::New);
    }

    #[test]
    fn what_was_missed_is_noticed() {
        let mut known = Known::default();
        accept(&mut known, "a", "u", 50);
        let position = Version::Number(90);
        let is_missed =
            |name, version| known.is_missed(&peek(json(name, "u", version).as_bytes()).unwrap(), &position);
        assert!(!is_missed("a", 50));
        assert!(is_missed("a", 60));
        assert!(is_missed("b", 60));
        assert!(!is_missed("b", 91), "that is news which the watch will bring");
    }

    #[test]
    fn namespace_that_is_left_takes_its_objects_along() {
        let mut known = Known::default();
        accept(&mut known, "a", "u", 1);
        assert!(known.leave("m").is_empty());
        assert_eq!(known.leave("n").len(), 1);
        assert!(known.is_empty());
    }
}
