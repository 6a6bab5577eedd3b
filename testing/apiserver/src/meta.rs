//! `metadata`: what only the server sets, and what it keeps. Never looks beside it, but for generations.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use crate::kinds::{Kind, What};

/// A text in `metadata`.
pub(crate) fn text(object: &Value, field: &str) -> Option<String> {
    Some(object.get("metadata")?.get(field)?.as_str()?.to_owned())
}

/// Sets a field of `metadata`.
pub(crate) fn set(object: &mut Value, field: &str, value: Value) {
    if let Some(object) = object.as_object_mut() {
        let metadata = object.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
        if let Some(metadata) = metadata.as_object_mut() {
            metadata.insert(field.to_owned(), value);
        }
    }
}

/// Removes a field of `metadata`.
pub(crate) fn unset(object: &mut Value, field: &str) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove(field);
    }
}

/// Sets a field, or removes it.
pub(crate) fn set_or_unset(object: &mut Value, field: &str, value: Option<Value>) {
    match value {
        Some(value) => set(object, field, value),
        None => unset(object, field),
    }
}

/// Now, in whole seconds.
pub(crate) fn now() -> String {
    after_seconds(0)
}

fn after_seconds(seconds: u64) -> String {
    let later = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(0));
    let time = Timestamp::now().checked_add(later).unwrap_or(Timestamp::MAX);
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Makes `object` a new one.
pub(crate) fn begin(kind: &Kind, object: &mut Value) {
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "managedFields"] {
        unset(object, field);
    }
    set(object, "uid", uid().into());
    set(object, "creationTimestamp", now().into());
    if kind.generation {
        set(object, "generation", 1.into());
    }
}

/// What a client leaves out, or cannot say, stays as it was.
pub(crate) fn carry_over(before: &Value, after: &mut Value) {
    let old = |field: &str| before.get("metadata").and_then(|metadata| metadata.get(field)).cloned();
    for field in ["generation", "resourceVersion", "selfLink", "name", "namespace"] {
        set_or_unset(after, field, old(field));
    }
    let fields = ["uid", "creationTimestamp", "generateName"];
    let deletion = ["deletionTimestamp", "deletionGracePeriodSeconds"];
    for field in fields.into_iter().chain(deletion) {
        let kept = old(field);
        let said = after.get("metadata").and_then(|metadata| metadata.get(field)).is_some();
        if !said || deletion.contains(&field) && kept.is_some() {
            set_or_unset(after, field, kept);
        }
    }
}

/// `metadata.generation` grows if anything but metadata and status differs; or labels and annotations, where they count.
pub(crate) fn count_generation(before: &Value, after: &mut Value, labels_count: bool) {
    let rest = |value: &Value| {
        let mut map = value.as_object().cloned().unwrap_or_default();
        let metadata = map.remove("metadata").unwrap_or_default();
        map.remove("status");
        let labels = |field: &str| metadata.get(field).filter(|_| labels_count).cloned();
        (map, labels("labels"), labels("annotations"))
    };
    if rest(before) != rest(after) {
        grow_generation(after);
    }
}

fn grow_generation(object: &mut Value) {
    let generation = object.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0);
    if generation > 0 {
        set(object, "generation", (generation + 1).into());
    }
}

/// True if anything waits to finish the object's deletion.
pub(crate) fn finalizers(object: &Value) -> bool {
    object
        .pointer("/metadata/finalizers")
        .and_then(Value::as_array)
        .is_some_and(|finalizers| !finalizers.is_empty())
}

/// True if the object is to be deleted.
pub(crate) fn is_deleted(object: &Value) -> bool {
    object.pointer("/metadata/deletionTimestamp").is_some_and(|time| !time.is_null())
}

/// True if the object was to be deleted and nothing waits for it any more.
pub(crate) fn is_over(object: &Value) -> bool {
    let grace = object.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_u64).unwrap_or(0);
    is_deleted(object) && grace == 0 && !finalizers(object) && !namespace_waits(object)
}

fn namespace_waits(object: &Value) -> bool {
    object.pointer("/spec/finalizers").and_then(Value::as_array).is_some_and(|list| !list.is_empty())
}

/// Marks an object for deletion.
pub(crate) fn mark_deleted(kind: &Kind, object: &mut Value, grace: u64) {
    set(object, "deletionTimestamp", after_seconds(grace).into());
    if matches!(kind.what, What::Namespace | What::Definition) {
        return;
    }
    set(object, "deletionGracePeriodSeconds", grace.into());
    grow_generation(object);
}

/// Marks an object for deletion at once.
pub(crate) fn end_now(kind: &Kind, object: &mut Value) {
    if !is_deleted(object) {
        mark_deleted(kind, object, 0);
    }
    set(object, "deletionGracePeriodSeconds", 0.into());
}

/// A namespace that is to be deleted says so.
pub(crate) fn start_terminating(namespace: &mut Value) {
    if let Some(map) = namespace.as_object_mut() {
        map.insert("status".into(), json!({"phase": "Terminating"}));
    }
}

/// A random identity.
pub(crate) fn uid() -> String {
    let bits = (fastrand::u128(..) & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    let part = |range: std::ops::Range<usize>| hex.get(range).unwrap_or_default().to_owned();
    [part(0..8), part(8..12), part(12..16), part(16..20), part(20..32)].join("-")
}

/// A name that begins with `prefix`, as the real one makes it: five letters and digits that spell nothing.
pub(crate) fn generated_name(prefix: &str) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut name: String = prefix.chars().take(58).collect();
    for _ in 0..5 {
        if let Some(letter) = fastrand::choice(LETTERS) {
            name.push(char::from(*letter));
        }
    }
    name
}
