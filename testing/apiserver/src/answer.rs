//! The forms in which objects are answered: JSON as they are, their metadata alone, or rows of a table. Decides nothing
//! about which objects.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::decode::{Findings, decode};
use crate::error::Failure;
use crate::kinds::Kind;
use crate::list::Page;
use crate::query::Query;
use crate::store::Object;
use crate::{shape, table};

/// In which form an object is answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Form {
    /// As it is.
    Object,
    /// Its metadata (`PartialObjectMetadata`).
    Metadata,
    /// A row for people (`Table`).
    Table(Include),
}

/// What stands beside the cells of a row.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Include {
    Nothing,
    Metadata,
    Object,
}

impl Form {
    /// The first form of an `Accept` header that there is.
    pub(crate) fn parse(accept: &str, query: &Query) -> Result<Self, Failure> {
        if accept.trim().is_empty() {
            return Ok(Self::Object);
        }
        accept.split(',').find_map(|media| Self::of_media(media, query)).ok_or_else(Failure::not_acceptable)
    }

    fn of_media(media: &str, query: &Query) -> Option<Self> {
        let mut parts = media.split(';').map(str::trim);
        if !["application/json", "application/*", "*/*"].contains(&parts.next()?) {
            return None;
        }
        let parameters: Vec<&str> = parts.collect();
        let parameter = |name: &str| {
            let named = |part: &&str| {
                part.split_once('=').filter(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
            };
            parameters.iter().find_map(named)
        };
        match (parameter("as").as_deref(), parameter("v").as_deref(), parameter("g").as_deref()) {
            (None, ..) => Some(Self::Object),
            (Some("Table"), Some("v1"), Some("meta.k8s.io")) => {
                Some(Self::Table(match query.text("includeObject") {
                    Some("None") => Include::Nothing,
                    Some("Object") => Include::Object,
                    _ => Include::Metadata,
                }))
            }
            (
                Some("PartialObjectMetadata" | "PartialObjectMetadataList"),
                Some("v1"),
                Some("meta.k8s.io"),
            ) => Some(Self::Metadata),
            _ => None,
        }
    }

    /// Writes one object. The columns of a table are left out if `columns` is false.
    pub(crate) fn write(self, kind: &Kind, object: &Object, columns: bool, text: &mut Vec<u8>) {
        match self {
            Self::Object => shape::write_typed(kind, object, text),
            Self::Metadata => text.extend_from_slice(partial(&object.value()).to_string().as_bytes()),
            Self::Table(include) => {
                let value = shape::outside(kind, object);
                let version = json!({"resourceVersion": object.version.to_string()});
                let table = table(kind, columns, version, vec![row(kind, value, include)]);
                text.extend_from_slice(table.to_string().as_bytes());
            }
        }
    }

    /// The text of a page of a list.
    pub(crate) fn write_list(self, kind: &Kind, page: &Page) -> Vec<u8> {
        let metadata = page.metadata(kind.is_custom() && self == Self::Object);
        match self {
            Self::Object => shape::write_list(kind, &metadata, &page.objects),
            Self::Metadata => {
                let items: Vec<_> = page.objects.iter().map(|object| partial(&object.value())).collect();
                let list = json!({
                    "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
                    "metadata": metadata, "items": items,
                });
                list.to_string().into_bytes()
            }
            Self::Table(include) => {
                let rows = page.objects.iter().map(|object| row(kind, shape::outside(kind, object), include));
                table(kind, true, metadata, rows.collect()).to_string().into_bytes()
            }
        }
    }
}

fn table(kind: &Kind, columns: bool, metadata: Value, rows: Vec<Value>) -> Value {
    let columns = if columns { table::columns(kind) } else { Value::Null };
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
        "columnDefinitions": columns, "rows": rows,
    })
}

fn row(kind: &Kind, value: Value, include: Include) -> Value {
    let cells = table::cells(kind, &value);
    let object = match include {
        Include::Nothing => Value::Null,
        Include::Metadata => partial(&value),
        Include::Object => value,
    };
    json!({"cells": cells, "object": object})
}

fn partial(value: &Value) -> Value {
    let metadata = value.get("metadata").cloned().unwrap_or_default();
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
}

/// What a bookmark shows: an object that says nothing but its version.
pub(crate) fn bookmark(kind: &Kind, form: Form, version: u64, end_of_initial_events: bool) -> Value {
    let mut metadata = json!({"resourceVersion": version.to_string()});
    if end_of_initial_events {
        shape::put(&mut metadata, "annotations", Some(json!({"k8s.io/initial-events-end": "true"})));
    }
    let empty = Value::Object(Map::new());
    let mut value = if kind.is_custom() {
        empty
    } else {
        decode(empty, &kind.schema, &mut Findings::default()).unwrap_or_default()
    };
    shape::put(&mut value, "kind", Some((&*kind.kind).into()));
    shape::put(&mut value, "apiVersion", Some(kind.api_version().into()));
    shape::put(&mut value, "metadata", Some(metadata.clone()));
    match form {
        Form::Object => value,
        Form::Metadata => partial(&value),
        Form::Table(include) => {
            let version = json!({"resourceVersion": version.to_string()});
            table(kind, false, version, vec![row(kind, value, include)])
        }
    }
}

/// `object` as it was, under another version.
pub(crate) fn at_version(object: &Arc<Object>, version: u64) -> Arc<Object> {
    if object.version == version {
        return object.clone();
    }
    let mut value = object.value();
    crate::meta::set(&mut value, "resourceVersion", version.to_string().into());
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
