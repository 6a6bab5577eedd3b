//! What differs between two values, field by field; and which fields a value has. Pure.

use std::collections::BTreeMap;

use serde_json::Value;

use super::set::{Set, Step};
use super::{Atom, atom, is_empty, step_of, steps};
use crate::schema::{Listed, Type};

/// What differs.
#[derive(Debug, Default)]
pub(crate) struct Difference {
    pub(crate) added: Set,
    pub(crate) changed: Set,
    pub(crate) removed: Set,
}

/// What must be done to `old` to get `new`.
pub(crate) fn compare(old: &Value, new: &Value, is: &Type) -> Difference {
    let mut difference = Difference::default();
    walk(Some(old), Some(new), is, &mut Vec::new(), &mut difference);
    difference
}

fn walk(old: Option<&Value>, new: Option<&Value>, is: &Type, path: &mut Vec<Step>, out: &mut Difference) {
    let leaf = match atom(is, old, new) {
        Atom::Leaf => true,
        Atom::List(..) | Atom::Map(_) => is_empty(old) && is_empty(new),
    };
    if leaf {
        match (old, new) {
            (None, _) => out.added.insert(path),
            (_, None) => out.removed.insert(path),
            (Some(old), Some(new)) if old != new => out.changed.insert(path),
            _ => {}
        }
        return;
    }
    match atom(is, old, new) {
        Atom::Leaf => {}
        Atom::Map(entries) => {
            let map = |value: Option<&Value>| value.and_then(Value::as_object).cloned().unwrap_or_default();
            let (left, right) = (map(old), map(new));
            for name in left.keys().chain(right.keys().filter(|name| !left.contains_key(*name))) {
                path.push(Step::field(name));
                let is = entries.of(name).unwrap_or(&Type::Any);
                walk(left.get(name), right.get(name), is, path, out);
                path.pop();
            }
        }
        Atom::List(of, by) => {
            let (left, right) = (by_step(old, by), by_step(new, by));
            for step in left.keys().chain(right.keys().filter(|step| !left.contains_key(*step))) {
                path.push(step.clone());
                walk(left.get(step).copied(), right.get(step).copied(), of, path, out);
                path.pop();
            }
        }
    }
    if old.is_none() {
        out.added.insert(path);
    } else if new.is_none() {
        out.removed.insert(path);
    }
}

fn by_step<'a>(items: Option<&'a Value>, by: &Listed) -> BTreeMap<Step, &'a Value> {
    // What has no step cannot be owned; validation refuses it.
    let items = items.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    items.iter().filter_map(|item| Some((step_of(item, by).ok()?, item))).collect()
}

/// The fields that `value` has. Entries of maps and lists count as fields themselves, structs do not.
pub(crate) fn fields_of(value: &Value, is: &Type) -> Set {
    let mut set = Set::default();
    collect(value, is, &mut Vec::new(), &mut set);
    set
}

fn collect(value: &Value, is: &Type, path: &mut Vec<Step>, set: &mut Set) {
    match atom(is, Some(value), None) {
        Atom::Leaf => set.insert(path),
        Atom::Map(entries) => {
            for (name, entry) in value.as_object().into_iter().flatten() {
                path.push(Step::field(name));
                collect(entry, entries.of(name).unwrap_or(&Type::Any), path, set);
                let empty = entry.is_null() || entry.as_object().is_some_and(serde_json::Map::is_empty);
                if empty || !entries.names(name) {
                    set.insert(path);
                }
                path.pop();
            }
        }
        Atom::List(of, by) => {
            for (step, item) in steps(Some(value), by).unwrap_or_default() {
                path.push(step);
                collect(item, of, path, set);
                set.insert(path);
                path.pop();
            }
        }
    }
}

/// What is wrong with a configuration that is to be applied, if anything.
pub(crate) fn check(value: &Value, is: &Type, path: &mut String) -> Result<(), String> {
    let expected = |wanted: &str| {
        Err(format!("{path}: expected {wanted}, got &value.valueUnstructured{{Value:{value}}}"))
    };
    match is {
        _ if value.is_null() => return Ok(()),
        Type::String | Type::Bytes | Type::Time | Type::MicroTime if !value.is_string() => {
            return expected("string");
        }
        Type::Int32 | Type::Int64 | Type::Number if !value.is_number() => return expected("numeric"),
        Type::Bool if !value.is_boolean() => return expected("boolean"),
        Type::Struct { .. } | Type::Map { .. } if !value.is_object() => return expected("map"),
        Type::List { .. } if !value.is_array() => return expected("list"),
        _ => {}
    }
    let length = path.len();
    match is {
        Type::Struct { is, .. } => {
            for (name, entry) in value.as_object().into_iter().flatten() {
                path.push('.');
                path.push_str(name);
                match is.fields().fields.get(name) {
                    Some(field) => check(entry, &field.is, path)?,
                    None if is.fields().open => {}
                    None => return Err(format!("{path}: field not declared in schema")),
                }
                path.truncate(length);
            }
        }
        Type::Map { of, .. } => {
            for (name, entry) in value.as_object().into_iter().flatten() {
                path.push('.');
                path.push_str(name);
                check(entry, of, path)?;
                path.truncate(length);
            }
        }
        Type::List { of, by } => {
            let mut seen = Vec::new();
            for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                let place = if *by == Listed::Whole {
                    format!("[{index}]")
                } else {
                    let step =
                        step_of(item, by).map_err(|error| format!("{path}: element {index}: {error}"))?;
                    if seen.contains(&step) {
                        return Err(format!("{path}: duplicate entries for key {}", step.to_path()));
                    }
                    let place = step.to_path();
                    seen.push(step);
                    place
                };
                path.push_str(&place);
                check(item, of, path)?;
                path.truncate(length);
            }
        }
        _ => {}
    }
    Ok(())
}
