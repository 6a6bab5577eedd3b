//! Which file gave which object. It turns "this file now holds these objects" into events, keeps the last
//! good version of what no longer decodes, and settles which of two files has an object. No I/O.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use config::index::Event;
use config::report::{Kind, ObjectRef, Problem, Severity, SourceLocation};
use config::resource::{Decoded, ListenersRead, Object};

/// An object that a file holds.
#[derive(Debug)]
enum Held {
    /// In the index, from this file.
    Served,
    /// Not in the index: a file that sorts before this one holds it as well.
    Shadowed(Box<Object>),
}

#[derive(Debug, Default)]
struct FileObjects {
    /// object → how it is held
    held: BTreeMap<ObjectRef, Held>,
    problems: Vec<Problem>,
    /// It has, or may have, listeners of which no version was ever good.
    is_obscure: bool,
}

/// All objects of all files.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    /// path as shown → what it holds
    files: BTreeMap<Arc<str>, FileObjects>,
    /// object → the files that hold it; the first one is served
    owners: HashMap<ObjectRef, Owners>,
}

/// The files that hold an object: most often one, which is not worth a set.
#[derive(Debug)]
enum Owners {
    One(Arc<str>),
    Several(BTreeSet<Arc<str>>),
}

impl Owners {
    fn first(&self) -> Option<&Arc<str>> {
        match self {
            Self::One(file) => Some(file),
            Self::Several(files) => files.first(),
        }
    }

    fn insert(&mut self, file: &Arc<str>) {
        match self {
            Self::One(known) if known == file => {}
            Self::One(known) => *self = Self::Several([known, file].map(Arc::clone).into()),
            Self::Several(files) => {
                files.insert(Arc::clone(file));
            }
        }
    }

    /// Takes `file` away; the one that is served then, if any is left.
    fn remove(&mut self, file: &Arc<str>) -> Option<Arc<str>> {
        match self {
            Self::One(known) => (known != file).then(|| Arc::clone(known)),
            Self::Several(files) => {
                files.remove(file);
                let next = files.first().cloned();
                if let (1, Some(last)) = (files.len(), &next) {
                    *self = Self::One(Arc::clone(last));
                }
                next
            }
        }
    }
}

/// What a change of one file means.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) events: Vec<Event>,
    /// Files whose object is hidden by the changed file from now on: they must be read again, so that their
    /// version is at hand when the changed file gives it up.
    pub(super) reread: BTreeSet<Arc<str>>,
}

impl Catalog {
    /// True if `file` gave any object.
    pub(super) fn has_objects(&self, file: &str) -> bool {
        self.files.get(file).is_some_and(|known| !known.held.is_empty())
    }

    /// Takes in what `file` holds now.
    pub(super) fn replace(&mut self, file: &Arc<str>, decoded: Decoded) -> Outcome {
        let mut outcome = Outcome::default();
        let mut changed = BTreeSet::from([Arc::clone(file)]);
        let former = self.files.remove(file);
        let (is_new, was_obscure) =
            (former.is_none(), former.as_ref().is_some_and(|former| former.is_obscure));
        let mut former = former.unwrap_or_default();
        let mut now = FileObjects { held: BTreeMap::new(), problems: decoded.problems, is_obscure: false };
        outcome.events.reserve(decoded.objects.len());
        for object in decoded.objects {
            if now.held.contains_key(&object.reference) {
                now.problems.push(duplicate(&object, file));
                continue;
            }
            former.held.remove(&object.reference);
            self.take_in(file, object, &mut now, &mut outcome, &mut changed);
        }
        let invalid: BTreeSet<ObjectRef> = decoded.invalid.into_iter().collect();
        for (reference, held) in former.held {
            if decoded.incomplete || invalid.contains(&reference) {
                now.held.insert(reference, held);
            } else {
                self.give_up(file, &reference, &held, &mut outcome, &mut changed);
            }
        }
        let is_unread = is_new || was_obscure;
        let has_listeners = || now.held.keys().any(|reference| reference.kind == Kind::Listener);
        now.is_obscure = match decoded.listeners {
            ListenersRead::All => false,
            // The former version is in force as a whole.
            ListenersRead::Unread => is_unread,
            ListenersRead::Misread => !has_listeners(),
        } || invalid
            .iter()
            .any(|reference| reference.kind == Kind::Listener && !self.owners.contains_key(reference));
        clarify(file, was_obscure, now.is_obscure, &mut outcome);
        self.files.insert(Arc::clone(file), now);
        self.report(&changed, &mut outcome);
        outcome
    }

    /// Replaces only the problems of `file`, which could not be read: its objects stay.
    pub(super) fn keep(&mut self, file: &Arc<str>, problems: Vec<Problem>) -> Outcome {
        let mut outcome = Outcome::default();
        match self.files.get_mut(file) {
            Some(known) => known.problems = problems,
            None => {
                clarify(file, false, true, &mut outcome);
                let known = FileObjects { held: BTreeMap::new(), problems, is_obscure: true };
                self.files.insert(Arc::clone(file), known);
            }
        }
        self.report(&BTreeSet::from([Arc::clone(file)]), &mut outcome);
        outcome
    }

    /// Takes in that `file` is gone.
    pub(super) fn remove(&mut self, file: &Arc<str>) -> Outcome {
        let mut outcome = Outcome::default();
        let mut changed = BTreeSet::from([Arc::clone(file)]);
        let former = self.files.remove(file).unwrap_or_default();
        clarify(file, former.is_obscure, false, &mut outcome);
        for (reference, held) in &former.held {
            self.give_up(file, reference, held, &mut outcome, &mut changed);
        }
        self.report(&changed, &mut outcome);
        outcome
    }

    fn take_in(
        &mut self,
        file: &Arc<str>,
        object: Object,
        now: &mut FileObjects,
        outcome: &mut Outcome,
        changed: &mut BTreeSet<Arc<str>>,
    ) {
        let mut served_by = None;
        let owners = self.owners.entry(object.reference.clone()).and_modify(|owners| {
            served_by = owners.first().cloned();
            owners.insert(file);
        });
        let owners = owners.or_insert_with(|| Owners::One(Arc::clone(file)));
        if owners.first() != Some(file) {
            now.held.insert(object.reference.clone(), Held::Shadowed(Box::new(object)));
            return;
        }
        if let Some(loser) = served_by.filter(|former| former != file) {
            outcome.reread.insert(Arc::clone(&loser));
            changed.insert(loser);
        }
        now.held.insert(object.reference.clone(), Held::Served);
        outcome.events.push(Event::Apply(object));
    }

    fn give_up(
        &mut self,
        file: &Arc<str>,
        reference: &ObjectRef,
        held: &Held,
        outcome: &mut Outcome,
        changed: &mut BTreeSet<Arc<str>>,
    ) {
        let Some(owners) = self.owners.get_mut(reference) else { return };
        let next = owners.remove(file);
        if next.is_none() {
            self.owners.remove(reference);
        }
        if matches!(held, Held::Shadowed(_)) {
            return;
        }
        let next_held = next.as_ref().and_then(|next| {
            changed.insert(Arc::clone(next));
            self.files.get_mut(next)?.held.get_mut(reference)
        });
        match next_held.map(|held| std::mem::replace(held, Held::Served)) {
            Some(Held::Shadowed(object)) => outcome.events.push(Event::Apply(*object)),
            // The index holds the other file's version, or one that it accepted as equal to its own.
            Some(Held::Served) => {}
            None => outcome.events.push(Event::Delete(reference.clone())),
        }
    }

    /// Says anew what is wrong with each of `files`.
    fn report(&self, files: &BTreeSet<Arc<str>>, outcome: &mut Outcome) {
        for file in files {
            let mut problems = Vec::new();
            if let Some(known) = self.files.get(file) {
                problems.clone_from(&known.problems);
                for (reference, held) in &known.held {
                    let winner = self.owners.get(reference).and_then(Owners::first);
                    if let (Held::Shadowed(object), Some(winner)) = (held, winner) {
                        problems.push(duplicate(object, winner));
                    }
                }
            }
            outcome.events.push(Event::Problems { source: Arc::clone(file), problems });
        }
    }
}

/// Says whether all listeners of `file` are known, if that is new.
fn clarify(file: &Arc<str>, was_obscure: bool, is_obscure: bool, outcome: &mut Outcome) {
    if was_obscure != is_obscure {
        outcome.events.push(Event::Listeners { source: Arc::clone(file), are_known: !is_obscure });
    }
}

fn duplicate(object: &Object, winner: &str) -> Problem {
    Problem {
        object: object.reference.clone(),
        location: object.location.clone().or_else(|| Some(SourceLocation { file: winner.into(), line: 0 })),
        field: String::new(),
        severity: Severity::Error,
        reason: "DuplicateObject",
        message: format!("the same object is in {winner}, which is served; remove or rename one of the two"),
    }
}

#[cfg(test)]
mod tests;
