//! Patches: what the body of a PATCH means for an object. Pure.

use http::StatusCode;
use serde_json::{Map, Value};

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
    /// The body of a request with this content type.
    pub(crate) fn parse(content_type: &str, body: &[u8]) -> Result<Self, Failure> {
        let wrong =
            |error: &dyn std::fmt::Display| Failure::bad_request(format!("error decoding patch: {error}"));
        let object = |value: Value| match value {
            Value::Object(_) => Ok(value),
            _ => Err(Failure::bad_request("error decoding patch: not an object")),
        };
        match content_type.split(';').next().unwrap_or_default().trim() {
            "application/json-patch+json" => {
                serde_json::from_slice(body).map(Self::Json).map_err(|error| wrong(&error))
            }
            "application/merge-patch+json" => {
                object(serde_json::from_slice(body).map_err(|error| wrong(&error))?).map(Self::Merge)
            }
            "application/strategic-merge-patch+json" => {
                object(serde_json::from_slice(body).map_err(|error| wrong(&error))?).map(Self::Strategic)
            }
            "application/apply-patch+yaml" => {
                let text = std::str::from_utf8(body).map_err(|error| wrong(&error))?;
                let value: Value = match serde_json::from_str(text) {
                    Ok(value) => value,
                    Err(_) => serde_saphyr::from_str(text).map_err(|error| wrong(&error))?,
                };
                object(value).map(Self::Apply)
            }
            other => Err(Failure::unsupported_media(format!(
                "the body of the request was in an unknown format - accepted media types include: \
                 application/json-patch+json, application/merge-patch+json, \
                 application/strategic-merge-patch+json, application/apply-patch+yaml (not {other:?})"
            ))),
        }
    }

    /// True if the patch makes the object where there is none.
    pub(crate) fn creates(&self) -> bool {
        matches!(self, Self::Apply(_))
    }

    /// `object` after the patch.
    pub(crate) fn apply(self, kind: &Kind, name: &str, mut object: Value) -> Result<Value, Failure> {
        match self {
            Self::Json(patch) => {
                json_patch::patch(&mut object, &patch).map_err(|error| Failure {
                    code: StatusCode::UNPROCESSABLE_ENTITY.as_u16(),
                    ..Failure::invalid(
                        kind,
                        name,
                        &[crate::error::Cause::invalid("patch", Value::Null, &error.to_string())],
                    )
                })?;
            }
            Self::Merge(patch) => merge(&mut object, patch),
            Self::Strategic(patch) | Self::Apply(patch) => merge(&mut object, patch),
        }
        Ok(object)
    }
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
