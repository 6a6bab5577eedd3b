//! How an object is written: with or without its kind, in the group that was asked for. Never judges what is in it.

use serde_json::{Map, Value};

use crate::kinds::Kind;
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
pub(crate) fn write_untyped(kind: &Kind, object: &Object, text: &mut Vec<u8>) {
    let converted = converted(kind, object);
    text.extend_from_slice(converted.as_deref().unwrap_or(&object.json));
}

/// The text of one object.
pub(crate) fn typed(kind: &Kind, object: &Object) -> Vec<u8> {
    let mut text = Vec::with_capacity(object.json.len() + 64);
    write_typed(kind, object, &mut text);
    text
}

fn converted(kind: &Kind, object: &Object) -> Option<Vec<u8>> {
    if !(kind.is_event() && &*kind.group == "events.k8s.io") {
        return None;
    }
    Some(to_new_event(object.value()).to_string().into_bytes())
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
    event
}

/// An Event of events.k8s.io as it is stored.
pub(crate) fn to_core_event(mut event: Value) -> Value {
    rename(&mut event, EVENT_FIELDS.map(|(core, new)| (new, core)));
    event
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
