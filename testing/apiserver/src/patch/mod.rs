//! Patches: what the body of a PATCH means for an object. Pure.

mod strategic;

use serde_json::{Map, Value, json};

use crate::decode::read;
use crate::error::Failure;
use crate::kinds::Kind;

/// A patch of one of the four types.
#[derive(Debug)]
pub(crate) enum Patch {
    /// RFC 6902.
    Json(json_patch::Patch),
    /// RFC 7396.
    Merge(Value),
    /// Merge patch with lists merged by key.
    Strategic(Value),
    /// Server-side apply.
    Apply(Value),
}

impl Patch {
    /// The body of a request with this content type, and the fields that stand twice in it.
    pub(crate) fn parse(content_type: &str, body: &[u8]) -> Result<(Self, Vec<String>), Failure> {
        let wrong =
            |error: &dyn std::fmt::Display| Failure::bad_request(format!("error decoding patch: {error}"));
        let object = || {
            let (value, duplicates) = read(body).map_err(|error| wrong(&error))?;
            if value.is_object() {
                Ok((value, duplicates))
            } else {
                Err(Failure::bad_request("error decoding patch: not an object"))
            }
        };
        match content_type.split(';').next().unwrap_or_default().trim() {
            "application/json-patch+json" => json(body).map(|patch| (patch, Vec::new())),
            "application/merge-patch+json" => object().map(|(patch, twice)| (Self::Merge(patch), twice)),
            "application/strategic-merge-patch+json" => {
                object().map(|(patch, twice)| (Self::Strategic(patch), twice))
            }
            "application/apply-patch+yaml" => {
                let text = std::str::from_utf8(body).map_err(|error| wrong(&error))?;
                let value: Value = match serde_json::from_str(text) {
                    Ok(value) => value,
                    Err(_) => serde_saphyr::from_str(text)
                        .map_err(|error| Failure::bad_request(format!("error decoding YAML: {error}")))?,
                };
                if !value.is_object() {
                    return Err(Failure::bad_request("error decoding YAML: not an object"));
                }
                Ok((Self::Apply(value), Vec::new()))
            }
            _ => Err(Failure {
                details: json!({}),
                ..Failure::unsupported_media("415: Unsupported Media Type")
            }),
        }
    }

    /// `object` after the patch, whose text messages show. An apply is not done here: it needs to know who manages what.
    pub(crate) fn apply(self, kind: &Kind, mut object: Value, text: &str) -> Result<Value, Failure> {
        match self {
            Self::Json(patch) => {
                json_patch::patch(&mut object, &patch).map_err(|_| Failure::failed_patch())?;
            }
            Self::Merge(patch) | Self::Apply(patch) => merge(&mut object, patch),
            Self::Strategic(patch) => strategic::merge(&mut object, patch, &kind.schema).map_err(|why| {
                if why.contains("merge key") { Failure::plain(why) } else { Failure::unfit_patch(text, &why) }
            })?,
        }
        Ok(object)
    }
}

fn json(body: &[u8]) -> Result<Patch, Failure> {
    let value: Value = serde_json::from_slice(body)
        .map_err(|error| Failure::bad_request(format!("error decoding patch: {error}")))?;
    if !value.is_array() {
        return Err(Failure::bad_request("error decoding patch: a JSON patch is a list"));
    }
    serde_json::from_value(value).map(Patch::Json).map_err(|_| Failure::failed_patch())
}

/// RFC 7396.
pub(crate) fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(target) = target.as_object_mut() else { return };
    for (field, value) in patch {
        if value.is_null() {
            target.remove(&field);
        } else {
            merge(target.entry(field).or_insert(Value::Null), value);
        }
    }
}
