//! The managers of an object: who wrote which fields, and how that changes with a write. Pure.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::compare::{Difference, compare};
use super::set::Set;
use crate::schema::Type;

/// How a manager writes.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Operation {
    Apply,
    Update,
}

/// Who a manager is.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Manager {
    operation: Operation,
    name: String,
    /// Empty for those who apply: they are the same in all versions.
    version: String,
    subresource: String,
}

/// What a manager owns.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Owned {
    version: String,
    set: Set,
    time: String,
}

/// manager → what it owns
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Managers(BTreeMap<Manager, Owned>);

/// Who writes, and when.
#[derive(Clone, Debug)]
pub(crate) struct Writer {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) subresource: String,
    pub(crate) time: String,
}

impl Writer {
    pub(crate) fn manager(&self, operation: Operation) -> Manager {
        let version = match operation {
            Operation::Apply => String::new(),
            Operation::Update => self.version.clone(),
        };
        Manager { operation, name: self.name.clone(), version, subresource: self.subresource.clone() }
    }
}

impl Manager {
    /// As conflicts name it.
    pub(crate) fn described(&self) -> String {
        let mut text = format!("{:?}", self.name);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation == Operation::Update {
            text.push_str(&format!(" using {}", self.version));
        }
        text
    }
}

impl Managers {
    /// Of `metadata.managedFields`; none if that is not of its form.
    pub(crate) fn read(list: Option<&Value>) -> Option<Self> {
        let mut managers = BTreeMap::new();
        for entry in list.and_then(Value::as_array).into_iter().flatten() {
            let text = |field: &str| entry.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
            let operation = match text("operation").as_str() {
                "Apply" => Operation::Apply,
                "Update" => Operation::Update,
                _ => return None,
            };
            let version = text("apiVersion");
            let set = entry.get("fieldsV1").map_or_else(|| Some(Set::default()), Set::from_json)?;
            let writer = Writer {
                name: text("manager"),
                version: version.clone(),
                subresource: text("subresource"),
                time: text("time"),
            };
            managers.insert(writer.manager(operation), Owned { version, set, time: writer.time });
        }
        Some(Self(managers))
    }

    /// For `metadata.managedFields`.
    pub(crate) fn write(&self) -> Value {
        let mut entries: Vec<_> = self.0.iter().collect();
        entries.sort_by(|(one, owned), (other, theirs)| {
            let key = |manager: &Manager, owned: &Owned| {
                let Manager { operation, name, subresource, .. } = manager.clone();
                (operation, owned.time.clone(), name, owned.version.clone(), subresource)
            };
            key(one, owned).cmp(&key(other, theirs))
        });
        let entries = entries.into_iter().map(|(manager, owned)| {
            let mut entry = Map::new();
            let operation = match manager.operation {
                Operation::Apply => "Apply",
                Operation::Update => "Update",
            };
            let texts = [
                ("manager", manager.name.as_str()),
                ("operation", operation),
                ("apiVersion", &owned.version),
                ("time", &owned.time),
                ("fieldsType", "FieldsV1"),
                ("subresource", &manager.subresource),
            ];
            for (field, text) in texts {
                if !text.is_empty() {
                    entry.insert(field.to_owned(), text.into());
                }
            }
            entry.insert("fieldsV1".to_owned(), owned.set.to_json());
            Value::Object(entry)
        });
        entries.collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What a manager owns.
    pub(crate) fn owned(&self, manager: &Manager) -> Option<&Set> {
        self.0.get(manager).map(|owned| &owned.set)
    }

    /// What all managers own.
    pub(crate) fn all(&self) -> Set {
        self.0.values().fold(Set::default(), |all, owned| all.union(&owned.set))
    }

    /// Makes a manager own `set`, since `time` if that is news.
    pub(crate) fn own(&mut self, manager: Manager, version: &str, set: Set, time: &str) {
        let since = match self.0.get(&manager) {
            Some(owned) if owned.set == set => owned.time.clone(),
            _ => time.to_owned(),
        };
        self.0.insert(manager, Owned { version: version.to_owned(), set, time: since });
    }

    /// Whom a write takes fields from: manager → the fields that it would lose.
    pub(crate) fn losers(&self, writer: &Manager, difference: &Difference) -> Vec<(Manager, Set)> {
        let taken = difference.changed.union(&difference.added);
        let others = self.0.iter().filter(|(manager, _)| *manager != writer);
        let lost = others.map(|(manager, owned)| (manager.clone(), owned.set.intersection(&taken)));
        lost.filter(|(_, set)| !set.is_empty()).collect()
    }

    /// Takes from all but the writer what the difference changes, and from all what it removes.
    pub(crate) fn take(&mut self, writer: &Manager, difference: &Difference) {
        let taken = difference.changed.union(&difference.added).union(&difference.removed);
        for (_, owned) in self.0.iter_mut().filter(|(manager, _)| *manager != writer) {
            owned.set = owned.set.difference(&taken);
        }
    }

    /// Nobody owns what the server alone writes; who owns nothing is no manager.
    pub(crate) fn tidy(&mut self) {
        let stripped = Set::of_fields(&[
            "apiVersion",
            "kind",
            "metadata",
            "metadata.name",
            "metadata.namespace",
            "metadata.creationTimestamp",
            "metadata.selfLink",
            "metadata.uid",
            "metadata.generation",
            "metadata.managedFields",
            "metadata.resourceVersion",
        ]);
        for owned in self.0.values_mut() {
            owned.set = owned.set.difference(&stripped);
        }
        self.0.retain(|_, owned| !owned.set.is_empty());
    }
}

/// The managers after `writer` made `new` of `old` by a create, update or patch. `ignored` is what it cannot write.
pub(crate) fn on_update(
    old: &Value,
    new: &Value,
    is: &Type,
    mut managers: Managers,
    writer: &Writer,
    ignored: &Set,
) -> Managers {
    let mut difference = compare(old, new, is);
    for set in [&mut difference.added, &mut difference.changed, &mut difference.removed] {
        *set = set.outside(ignored);
    }
    let manager = writer.manager(Operation::Update);
    managers.take(&manager, &difference);
    let mine = managers.owned(&manager).cloned().unwrap_or_default();
    let mine = mine.difference(&difference.removed).union(&difference.changed).union(&difference.added);
    managers.own(manager, &writer.version, mine.outside(ignored), &writer.time);
    managers.tidy();
    managers
}

/// `metadata.managedFields` that says "forget them all": `[{}]` or `[]`.
pub(crate) fn forgets(list: Option<&Value>) -> bool {
    list.is_some_and(|list| *list == json!([]) || *list == json!([{}]))
}
