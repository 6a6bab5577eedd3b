//! Sets of fields, and their form in `managedFields` (`FieldsV1`). Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde_json::{Map, Value};

use super::{Atom, atom};
use crate::schema::Type;

/// One step of the path to a field.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Step {
    /// A field of a struct, or an entry of a map.
    Field(String),
    /// The entry of a list with these keys, as JSON.
    Key(String),
    /// The entry of a set, as JSON.
    Value(String),
}

/// Fields: those that are in it, and below each step those that are.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Set {
    members: BTreeSet<Step>,
    children: BTreeMap<Step, Self>,
}

impl Set {
    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty() && self.children.values().all(Self::is_empty)
    }

    /// Adds the field at `path`.
    pub(crate) fn insert(&mut self, path: &[Step]) {
        match path {
            [] => {}
            [last] => {
                self.members.insert(last.clone());
            }
            [first, rest @ ..] => self.children.entry(first.clone()).or_default().insert(rest),
        }
    }

    pub(crate) fn has(&self, step: &Step) -> bool {
        self.members.contains(step)
    }

    /// What is below a step.
    pub(crate) fn below(&self, step: &Step) -> Option<&Self> {
        self.children.get(step).filter(|child| !child.is_empty())
    }

    pub(crate) fn union(&self, other: &Self) -> Self {
        let mut children = self.children.clone();
        for (step, child) in &other.children {
            let merged = children.get(step).map_or_else(|| child.clone(), |mine| mine.union(child));
            children.insert(step.clone(), merged);
        }
        Self { members: self.members.union(&other.members).cloned().collect(), children }
    }

    /// Fields in both.
    pub(crate) fn intersection(&self, other: &Self) -> Self {
        let children = self
            .children
            .iter()
            .filter_map(|(step, child)| {
                let both = child.intersection(other.children.get(step)?);
                (!both.is_empty()).then(|| (step.clone(), both))
            })
            .collect();
        Self { members: self.members.intersection(&other.members).cloned().collect(), children }
    }

    /// Fields in this but not in the other.
    pub(crate) fn difference(&self, other: &Self) -> Self {
        let children = self
            .children
            .iter()
            .filter_map(|(step, child)| {
                let rest =
                    other.children.get(step).map_or_else(|| child.clone(), |other| child.difference(other));
                (!rest.is_empty()).then(|| (step.clone(), rest))
            })
            .collect();
        Self { members: self.members.difference(&other.members).cloned().collect(), children }
    }

    /// Fields in this that are neither in the other nor below what is in it.
    pub(crate) fn outside(&self, other: &Self) -> Self {
        let children = self
            .children
            .iter()
            .filter(|(step, _)| !other.members.contains(step))
            .filter_map(|(step, child)| {
                let rest =
                    other.children.get(step).map_or_else(|| child.clone(), |other| child.outside(other));
                (!rest.is_empty()).then(|| (step.clone(), rest))
            })
            .collect();
        Self { members: self.members.difference(&other.members).cloned().collect(), children }
    }

    /// With each named field of a struct that something is below of.
    pub(crate) fn with_named_parents(&self, is: &Type) -> Self {
        let (mut members, mut children) = (self.members.clone(), BTreeMap::new());
        // What is not typed has no named fields.
        let atom = atom(is, None, None);
        for (step, child) in &self.children {
            let below = match (&atom, step) {
                (Atom::Map(entries), Step::Field(name)) => {
                    if entries.names(name) {
                        members.insert(step.clone());
                    }
                    entries.of(name)
                }
                (Atom::List(of, _), _) => Some(*of),
                _ => None,
            };
            children.insert(step.clone(), child.with_named_parents(below.unwrap_or(&Type::Any)));
        }
        Self { members, children }
    }

    /// The form in `managedFields`.
    pub(crate) fn to_json(&self) -> Value {
        let mut map = Map::new();
        for step in self.members.iter().chain(self.children.keys()) {
            let mut below = match self.children.get(step).map(Self::to_json) {
                Some(Value::Object(below)) => below,
                _ => Map::new(),
            };
            if self.members.contains(step) && !below.is_empty() {
                below.insert(".".to_owned(), Value::Object(Map::new()));
            }
            if self.members.contains(step) || !below.is_empty() {
                map.insert(step.to_text(), Value::Object(below));
            }
        }
        Value::Object(map)
    }

    /// From the form in `managedFields`; none if it is not of that form.
    pub(crate) fn from_json(value: &Value) -> Option<Self> {
        let mut set = Self::default();
        for (name, below) in value.as_object()? {
            if name == "." {
                continue;
            }
            let step = Step::from_text(name)?;
            let below_map = below.as_object()?;
            if below_map.is_empty() || below_map.contains_key(".") {
                set.members.insert(step.clone());
            }
            let child = Self::from_json(below)?;
            if !child.is_empty() {
                set.children.insert(step, child);
            }
        }
        Some(set)
    }

    /// The paths of all fields, as conflicts name them.
    pub(crate) fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect_paths("", &mut paths);
        paths
    }

    fn collect_paths(&self, prefix: &str, paths: &mut Vec<String>) {
        paths.extend(self.members.iter().map(|step| format!("{prefix}{}", step.to_path())));
        for (step, child) in &self.children {
            child.collect_paths(&format!("{prefix}{}", step.to_path()), paths);
        }
    }

    /// A set of the paths that these texts name, fields separated by dots.
    pub(crate) fn of_fields(paths: &[&str]) -> Self {
        let mut set = Self::default();
        for path in paths {
            let steps: Vec<_> = path.split('.').map(|name| Step::Field(name.to_owned())).collect();
            set.insert(&steps);
        }
        set
    }
}

impl Step {
    pub(crate) fn field(name: &str) -> Self {
        Self::Field(name.to_owned())
    }

    fn to_text(&self) -> String {
        match self {
            Self::Field(name) => format!("f:{name}"),
            Self::Key(key) => format!("k:{key}"),
            Self::Value(value) => format!("v:{value}"),
        }
    }

    fn from_text(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        let canonical = |text: &str| Some(serde_json::from_str::<Value>(text).ok()?.to_string());
        match kind {
            "f" => Some(Self::Field(rest.to_owned())),
            "k" => canonical(rest).map(Self::Key),
            "v" => canonical(rest).map(Self::Value),
            _ => None,
        }
    }

    /// As messages name it.
    pub(crate) fn to_path(&self) -> String {
        match self {
            Self::Field(name) => format!(".{name}"),
            Self::Value(value) => format!("[={value}]"),
            Self::Key(key) => {
                let mut text = String::from("[");
                let keys: Map<String, Value> = serde_json::from_str(key).unwrap_or_default();
                for (index, (name, value)) in keys.iter().enumerate() {
                    let comma = if index == 0 { "" } else { "," };
                    // Writing to a text does not fail.
                    let _ = write!(text, "{comma}{name}={value}");
                }
                text.push(']');
                text
            }
        }
    }
}
