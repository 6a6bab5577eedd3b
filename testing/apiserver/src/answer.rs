//! The forms in which objects are answered: JSON as they are, their metadata alone, or rows of a table. Decides nothing
//! about which objects.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::kinds::Kind;
use crate::shape;
use crate::store::Object;

/// In which form an object is answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Form {
    /// As it is.
    Object,
}

impl Form {
    /// Writes one object.
    pub(crate) fn write(self, kind: &Kind, object: &Object, text: &mut Vec<u8>) {
        match self {
            Self::Object => shape::write_typed(kind, object, text),
        }
    }
}

/// What a bookmark shows.
pub(crate) fn bookmark(kind: &Kind, _form: Form, version: u64, end_of_initial_events: bool) -> Value {
    let mut metadata = json!({"resourceVersion": version.to_string()});
    if end_of_initial_events && let Some(metadata) = metadata.as_object_mut() {
        metadata.insert("annotations".into(), json!({"k8s.io/initial-events-end": "true"}));
    }
    json!({"kind": &*kind.kind, "apiVersion": kind.api_version(), "metadata": metadata})
}

/// `object` as it was, under another version.
pub(crate) fn at_version(object: &Arc<Object>, version: u64) -> Arc<Object> {
    if object.version == version {
        return object.clone();
    }
    let mut value = object.value();
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("resourceVersion".into(), version.to_string().into());
    }
    Arc::new(Object {
        key: object.key.clone(),
        namespace: object.namespace.clone(),
        name: object.name.clone(),
        version,
        labels: object.labels.clone(),
        fields: object.fields.clone(),
        json: Bytes::from(value.to_string()),
    })
}
