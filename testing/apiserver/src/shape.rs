//! How an object is written: with or without its kind, in the group that was asked for. Never judges what is in it.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::decode::{Findings, decode};
use crate::kinds::Kind;
use crate::schema;
use crate::store::Object;

/// The object with `kind` and `apiVersion` first, as it is answered and watched.
pub(crate) fn write_typed(kind: &Kind, object: &Object, text: &mut Vec<u8>) {
    let head = format!(r#"{{"kind":"{}","apiVersion":"{}","#, kind.kind, kind.api_version());
    text.extend_from_slice(head.as_bytes());
    let converted = converted(kind, object);
    let json = converted.as_deref().unwrap_or(&object.json);
    text.extend_from_slice(json.get(1..).unwrap_or_default());
}

/// The object without `kind` and `apiVersion`, as it stands in lists of built-in kinds.
fn write_untyped(kind: &Kind, object: &Object, text: &mut Vec<u8>) {
    let converted = converted(kind, object);
    text.extend_from_slice(converted.as_deref().unwrap_or(&object.json));
}

/// The text of a list.
pub(crate) fn write_list(kind: &Kind, metadata: &Value, objects: &[Arc<Object>]) -> Vec<u8> {
    let size: usize = objects.iter().map(|object| object.json.len() + 64).sum();
    let mut text = Vec::with_capacity(size + 256);
    let head = format!(
        r#"{{"kind":"{}","apiVersion":"{}","metadata":{metadata},"items":["#,
        kind.list_kind,
        kind.api_version()
    );
    text.extend_from_slice(head.as_bytes());
    for (index, object) in objects.iter().enumerate() {
        if index > 0 {
            text.push(b',');
        }
        if kind.is_custom() {
            write_typed(kind, object, &mut text);
        } else {
            write_untyped(kind, object, &mut text);
        }
    }
    text.extend_from_slice(b"]}");
    text
}

/// A stored object as clients see it.
pub(crate) fn outside(kind: &Kind, object: &Object) -> Value {
    let mut value = if kind.is_new_event() { to_new_event(object.value()) } else { object.value() };
    put(&mut value, "kind", Some((&*kind.kind).into()));
    put(&mut value, "apiVersion", Some(kind.api_version().into()));
    value
}

fn converted(kind: &Kind, object: &Object) -> Option<Vec<u8>> {
    kind.is_new_event().then(|| to_new_event(object.value()).to_string().into_bytes())
}

/// core name → events.k8s.io name
const EVENT_FIELDS: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// A stored Event in the words of events.k8s.io.
pub(crate) fn to_new_event(mut event: Value) -> Value {
    rename(&mut event, EVENT_FIELDS);
    reshape(event, "events.k8s.io")
}

/// An Event of events.k8s.io as it is stored.
pub(crate) fn to_core_event(mut event: Value) -> Value {
    rename(&mut event, EVENT_FIELDS.map(|(core, new)| (new, core)));
    reshape(event, "")
}

/// What says nothing is written differently in the two groups.
fn reshape(event: Value, group: &str) -> Value {
    decode(event.clone(), &schema::of_kind(group, "Event"), &mut Findings::default()).unwrap_or(event)
}

fn rename<const N: usize>(event: &mut Value, names: [(&str, &str); N]) {
    let Some(map) = event.as_object_mut() else { return };
    let renamed: Map<_, _> = std::mem::take(map)
        .into_iter()
        .map(|(field, value)| {
            let name = names.iter().find(|(from, _)| *from == field).map(|(_, to)| (*to).to_owned());
            (name.unwrap_or(field), value)
        })
        .collect();
    *map = renamed;
}

/// Sets or removes a field at the top.
pub(crate) fn put(value: &mut Value, field: &str, to: Option<Value>) {
    if let Some(map) = value.as_object_mut() {
        match to {
            Some(to) => map.insert(field.to_owned(), to),
            None => map.remove(field),
        };
    }
}
