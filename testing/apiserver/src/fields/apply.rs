//! Server-side apply: a configuration is merged into an object, fields that its manager no longer says go, and nothing is
//! taken from others without force. Pure.

use serde_json::Value;

use super::compare::{compare, fields_of};
use super::managed::{Managers, Operation, Writer, on_update};
use super::merge::{merge, without};
use super::set::Set;
use crate::schema::Type;

/// What an apply made.
#[derive(Debug)]
pub(crate) struct Applied {
    pub(crate) object: Value,
    pub(crate) managers: Managers,
}

/// A field that another manager owns with another value.
#[derive(Debug)]
pub(crate) struct Conflict {
    /// Path of the field.
    pub(crate) field: String,
    /// The other manager, as messages name it.
    pub(crate) manager: String,
}

/// An apply of `config` to `live`.
pub(crate) struct Apply<'a> {
    /// What is there; the empty form of the kind if nothing is.
    pub(crate) live: &'a Value,
    pub(crate) config: &'a Value,
    pub(crate) is: &'a Type,
    pub(crate) managers: Managers,
    pub(crate) writer: &'a Writer,
    /// Fields that cannot be written this way.
    pub(crate) ignored: &'a Set,
    /// The empty form of the kind, if the object was there before and nobody manages it yet.
    pub(crate) unmanaged: Option<&'a Value>,
    pub(crate) force: bool,
}

impl Apply<'_> {
    /// The object and its managers afterwards, or with whom there are conflicts.
    pub(crate) fn run(mut self) -> Result<Applied, Vec<Conflict>> {
        if let Some(empty) = self.unmanaged.filter(|_| self.managers.is_empty()) {
            let writer = Writer {
                name: "before-first-apply".to_owned(),
                subresource: String::new(),
                ..self.writer.clone()
            };
            self.managers = on_update(empty, self.live, self.is, self.managers, &writer, &Set::default());
        }
        let manager = self.writer.manager(Operation::Apply);
        let last = self.managers.owned(&manager).cloned().unwrap_or_default();
        let wanted = fields_of(self.config, self.is).outside(self.ignored);
        let merged = merge(Some(self.live), Some(self.config), self.is).unwrap_or_default();
        self.managers.own(manager.clone(), &self.writer.version, wanted, &self.writer.time);
        let object = self.prune(merged, &last);
        let mut difference = compare(self.live, &object, self.is);
        for set in [&mut difference.added, &mut difference.changed, &mut difference.removed] {
            *set = set.outside(self.ignored);
        }
        let losers = self.managers.losers(&manager, &difference);
        if !self.force && !losers.is_empty() {
            let conflicts = losers.iter().flat_map(|(loser, set)| {
                let manager = loser.described();
                set.paths().into_iter().map(move |field| Conflict { field, manager: manager.clone() })
            });
            return Err(conflicts.collect());
        }
        self.managers.take(&manager, &difference);
        self.managers.tidy();
        Ok(Applied { object, managers: self.managers })
    }

    /// Without what the manager said last time and now does not, unless somebody else owns it.
    fn prune(&self, merged: Value, last: &Set) -> Value {
        if last.is_empty() {
            return merged;
        }
        let named = |set: &Set| set.with_named_parents(self.is);
        let fields = |value: &Value| named(&fields_of(value, self.is));
        let gone = |value: &Value, set: &Set| without(value, set, self.is).unwrap_or_default();
        let all = fields(&merged);
        let pruned = gone(&merged, &named(last));
        let kept = fields(&pruned).union(&named(&self.managers.all()));
        let pruned = gone(&merged, &all.difference(&kept));
        gone(&merged, &all.difference(&fields(&pruned)).intersection(&named(last)))
    }
}
