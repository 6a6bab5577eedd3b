//! The merge of server-side apply, and the removal of fields. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::set::{Set, Step};
use super::{Atom, Entries, atom, is_empty, steps};
use crate::schema::{Listed, Type};

/// `live` with what `config` says. What has no fields of its own is replaced.
pub(crate) fn merge(live: Option<&Value>, config: Option<&Value>, is: &Type) -> Option<Value> {
    match atom(is, live, config) {
        Atom::Map(entries) if !(is_empty(live) && is_empty(config)) => merge_maps(live, config, entries),
        Atom::List(of, by) if !(is_empty(live) && is_empty(config)) => merge_lists(live, config, of, by),
        _ => config.or(live).cloned(),
    }
}

fn merge_maps(live: Option<&Value>, config: Option<&Value>, entries: Entries<'_>) -> Option<Value> {
    let map = |value: Option<&Value>| value.and_then(Value::as_object).cloned().unwrap_or_default();
    let (live, config) = (map(live), map(config));
    let mut merged = Map::new();
    for name in live.keys().chain(config.keys().filter(|name| !live.contains_key(*name))) {
        let is = entries.of(name).unwrap_or(&Type::Any);
        if let Some(value) = merge(live.get(name), config.get(name), is) {
            merged.insert(name.clone(), value);
        }
    }
    (!merged.is_empty()).then_some(Value::Object(merged))
}

/// Entries of the configuration keep their order among each other; those that only the live object has keep their places
/// before the shared entry that follows them.
fn merge_lists(live: Option<&Value>, config: Option<&Value>, of: &Type, by: &Listed) -> Option<Value> {
    let live = steps(live, by).unwrap_or_default();
    let config = steps(config, by).unwrap_or_default();
    let in_live: BTreeMap<&Step, &Value> = live.iter().map(|(step, item)| (step, *item)).collect();
    let in_config: BTreeMap<&Step, &Value> = config.iter().map(|(step, item)| (step, *item)).collect();
    let mut shared = config.iter().map(|(step, _)| step).filter(|step| in_live.contains_key(step)).peekable();
    let mut done: BTreeSet<&Step> = BTreeSet::new();
    let mut merged = Vec::new();
    let (mut left, mut right) = (live.iter().peekable(), config.iter().peekable());
    loop {
        match (left.peek(), right.peek()) {
            (Some((here, _)), Some((there, item))) if here == there => {
                merged.extend(merge(in_live.get(here).copied(), Some(item), of));
                done.insert(there);
                shared.next_if_eq(&there);
                left.next();
                right.next();
            }
            (Some((here, _)), Some(_))
                if in_config.contains_key(here) && shared.peek().is_some_and(|next| *next != here) =>
            {
                left.next();
            }
            (Some((here, item)), _) if !in_config.contains_key(here) => {
                merged.extend(merge(Some(item), None, of));
                left.next();
            }
            (Some((here, _)), _) if done.contains(here) => {
                left.next();
            }
            (_, Some((there, item))) => {
                merged.extend(merge(in_live.get(there).copied(), Some(item), of));
                done.insert(there);
                shared.next_if_eq(&there);
                right.next();
            }
            (Some(_), None) => {
                left.next();
            }
            (None, None) => break,
        }
    }
    (!merged.is_empty()).then_some(Value::Array(merged))
}

/// `value` without the fields in `gone`; none if nothing is left.
pub(crate) fn without(value: &Value, gone: &Set, is: &Type) -> Option<Value> {
    match atom(is, Some(value), None) {
        Atom::Leaf if value.is_object() || value.is_array() => None,
        Atom::Leaf => Some(value.clone()),
        Atom::Map(entries) => {
            let mut left = Map::new();
            let mut matched = false;
            for (name, entry) in value.as_object().into_iter().flatten() {
                let step = Step::field(name);
                if gone.has(&step) {
                    continue;
                }
                let is = entries.of(name).unwrap_or(&Type::Any);
                left.insert(name.clone(), rest(entry, gone.below(&step), is, &mut matched));
            }
            (!left.is_empty() || matched).then_some(Value::Object(left))
        }
        Atom::List(of, by) => {
            let mut left = Vec::new();
            let mut matched = false;
            for (step, item) in steps(Some(value), by).unwrap_or_default() {
                if !gone.has(&step) {
                    left.push(rest(item, gone.below(&step), of, &mut matched));
                }
            }
            (!left.is_empty() || matched).then_some(Value::Array(left))
        }
    }
}

/// An entry without what is gone below it; empty, but there, if nothing is left.
fn rest(entry: &Value, gone: Option<&Set>, is: &Type, matched: &mut bool) -> Value {
    let Some(gone) = gone else { return entry.clone() };
    *matched = true;
    without(entry, gone, is).unwrap_or_else(|| match entry {
        Value::Object(_) => Value::Object(Map::new()),
        Value::Array(_) => Value::Array(Vec::new()),
        _ => Value::Null,
    })
}
