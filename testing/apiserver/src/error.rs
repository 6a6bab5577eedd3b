//! What is answered when a request fails: the `Status` object, with the codes, reasons and words of Kubernetes. Never
//! decides that something fails.

use serde_json::{Map, Value, json};

use crate::kinds::{Kind, What};

/// A failed request.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    /// HTTP status.
    pub(crate) code: u16,
    /// `reason`, which clients compare; empty if there is none.
    pub(crate) reason: &'static str,
    /// What people read.
    pub(crate) message: String,
    /// `details`, or null.
    pub(crate) details: Value,
    /// `metadata.continue`: how a list can go on nevertheless.
    pub(crate) go_on: Option<String>,
}

/// What is wrong with one field.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Cause {
    /// `FieldValueRequired` and the like.
    pub(crate) reason: &'static str,
    /// What is wrong, without the name of the field.
    pub(crate) message: String,
    /// Path of the field.
    pub(crate) field: String,
}

impl Cause {
    pub(crate) fn required(field: impl Into<String>, why: &str) -> Self {
        let colon = if why.is_empty() { "" } else { ": " };
        Self {
            reason: "FieldValueRequired",
            message: format!("Required value{colon}{why}"),
            field: field.into(),
        }
    }

    pub(crate) fn invalid(field: impl Into<String>, value: impl Into<Value>, why: &str) -> Self {
        Self {
            reason: "FieldValueInvalid",
            message: format!("Invalid value: {}: {why}", value.into()),
            field: field.into(),
        }
    }

    pub(crate) fn unsupported(field: impl Into<String>, value: impl Into<Value>, known: &[&str]) -> Self {
        let known: Vec<_> = known.iter().map(|value| format!("{value:?}")).collect();
        Self {
            reason: "FieldValueNotSupported",
            message: format!("Unsupported value: {}: supported values: {}", value.into(), known.join(", ")),
            field: field.into(),
        }
    }

    pub(crate) fn duplicate(field: impl Into<String>, value: impl Into<Value>) -> Self {
        Self {
            reason: "FieldValueDuplicate",
            message: format!("Duplicate value: {}", value.into()),
            field: field.into(),
        }
    }

    pub(crate) fn too_long(field: impl Into<String>, limit: usize) -> Self {
        let message = format!("Too long: may not be more than {limit} bytes");
        Self { reason: "FieldValueTooLong", message, field: field.into() }
    }

    pub(crate) fn too_many(field: impl Into<String>, count: usize, limit: usize) -> Self {
        let message = format!("Too many: {count}: must have at most {limit} items");
        Self { reason: "FieldValueTooMany", message, field: field.into() }
    }

    pub(crate) fn forbidden(field: impl Into<String>, why: &str) -> Self {
        Self { reason: "FieldValueForbidden", message: format!("Forbidden: {why}"), field: field.into() }
    }
}

impl Failure {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: Value::Null, go_on: None }
    }

    fn about(code: u16, reason: &'static str, message: String, kind: &Kind, name: &str) -> Self {
        let mut details = Map::new();
        if !name.is_empty() {
            details.insert("name".into(), name.into());
        }
        if !kind.group.is_empty() {
            details.insert("group".into(), (&*kind.group).into());
        }
        details.insert("kind".into(), (&*kind.plural).into());
        Self { details: Value::Object(details), ..Self::new(code, reason, message) }
    }

    /// 400: the request itself is wrong.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 401: no token, or an unknown one.
    pub(crate) fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// 403: not with this token.
    pub(crate) fn forbidden(message: impl Into<String>, group: &str, kind: &str, name: &str) -> Self {
        let mut details = Map::new();
        for (field, value) in [("name", name), ("group", group), ("kind", kind)] {
            if !value.is_empty() {
                details.insert(field.into(), value.into());
            }
        }
        Self { details: Value::Object(details), ..Self::new(403, "Forbidden", message) }
    }

    /// 403 for something that may not be done with the object as it is.
    pub(crate) fn not_allowed(kind: &Kind, name: &str, why: &str) -> Self {
        let message = format!("{} {name:?} is forbidden: {why}", kind.qualified());
        Self::about(403, "Forbidden", message, kind, name)
    }

    /// 404: nothing is served at this path.
    pub(crate) fn no_such_path() -> Self {
        Self {
            details: json!({}),
            ..Self::new(404, "NotFound", "the server could not find the requested resource")
        }
    }

    /// 404: no such object.
    pub(crate) fn not_found(kind: &Kind, name: &str) -> Self {
        Self::about(404, "NotFound", format!("{} {name:?} not found", kind.qualified()), kind, name)
    }

    /// 405: the resource has no such verb.
    pub(crate) fn method_not_allowed() -> Self {
        Self {
            details: json!({}),
            ..Self::new(
                405,
                "MethodNotAllowed",
                "the server does not allow this method on the requested resource",
            )
        }
    }

    /// 406: no representation that the client takes.
    pub(crate) fn not_acceptable() -> Self {
        let message = "406: Not Acceptable\n\nAvailable representations: application/json, application/json;stream=watch";
        Self { details: json!({}), ..Self::new(406, "NotAcceptable", message) }
    }

    /// 409: there is one of this name.
    pub(crate) fn already_exists(kind: &Kind, name: &str, is_deleted: bool) -> Self {
        let deleted = if is_deleted { "object is being deleted: " } else { "" };
        let message = format!("{deleted}{} {name:?} already exists", kind.qualified());
        Self::about(409, "AlreadyExists", message, kind, name)
    }

    /// 409: the object is not what the client thinks.
    pub(crate) fn conflict(kind: &Kind, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} {name:?}: {why}", kind.qualified());
        Self::about(409, "Conflict", message, kind, name)
    }

    /// 409: the object is of another resource version.
    pub(crate) fn stale(kind: &Kind, name: &str) -> Self {
        Self::conflict(
            kind,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// 409: other managers own fields that an apply would change.
    pub(crate) fn apply_conflict(message: String, causes: Vec<Value>) -> Self {
        Self { details: json!({ "causes": causes }), ..Self::new(409, "Conflict", message) }
    }

    /// 410: that part of the history is forgotten.
    pub(crate) fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// 413: the body is larger than the server takes.
    pub(crate) fn too_large(limit: usize) -> Self {
        Self::new(413, "RequestEntityTooLarge", format!("Request entity too large: limit is {limit}"))
    }

    /// 415: a body that is not understood.
    pub(crate) fn unsupported_media(message: impl Into<String>) -> Self {
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// 422: fields are wrong.
    pub(crate) fn invalid(kind: &Kind, name: &str, causes: &[Cause]) -> Self {
        // Both kinds of Event are judged as one.
        let group = if matches!(kind.what, What::Event) { "" } else { &*kind.group };
        Self::invalid_of(group, &kind.kind, name, causes)
    }

    /// 422: parameters of the request do not go together.
    pub(crate) fn invalid_options(options: &str, causes: &[Cause]) -> Self {
        Self::invalid_of("meta.k8s.io", options, "", causes)
    }

    fn invalid_of(group: &str, kind: &str, name: &str, causes: &[Cause]) -> Self {
        let mut each: Vec<_> =
            causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect();
        each.dedup();
        let words = match each.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let qualified = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        let causes: Vec<_> = causes
            .iter()
            .map(|cause| json!({"reason": cause.reason, "message": cause.message, "field": cause.field}))
            .collect();
        let mut details = Map::new();
        for (field, value) in [("name", name), ("group", group), ("kind", kind)] {
            if !value.is_empty() {
                details.insert(field.into(), value.into());
            }
        }
        details.insert("causes".into(), causes.into());
        let message = format!("{qualified} {name:?} is invalid: {words}");
        Self { details: Value::Object(details), ..Self::new(422, "Invalid", message) }
    }

    /// 422: a patch does not fit the object.
    pub(crate) fn unfit_patch(patch: &str, why: &str) -> Self {
        Self::invalid_of("", "", "", &[Cause::invalid("patch", patch, why)])
    }

    /// 422: a JSON patch fails.
    pub(crate) fn failed_patch() -> Self {
        let message = "the server rejected our request due to an error in our request";
        Self { details: json!({}), ..Self::new(422, "Invalid", message) }
    }

    /// 500 without a reason, where the real server has none.
    pub(crate) fn plain(message: impl Into<String>) -> Self {
        Self::new(500, "", message)
    }

    /// What a status code says by itself.
    pub(crate) fn of_code(code: u16, retry_after: Option<u64>) -> Self {
        let (reason, message) = match code {
            401 => ("Unauthorized", "Unauthorized"),
            403 => ("Forbidden", "forbidden: by order of a test"),
            404 => ("NotFound", "the server could not find the requested resource"),
            409 => (
                "Conflict",
                "the object has been modified; please apply your changes to the latest version and try again",
            ),
            410 => ("Expired", "too old resource version"),
            429 => ("TooManyRequests", "the server has received too many requests, please try again later"),
            500 => ("InternalError", "Internal error occurred: by order of a test"),
            503 => ("ServiceUnavailable", "the server is currently unable to handle the request"),
            504 => ("Timeout", "Timeout: request did not complete within requested timeout"),
            _ => ("", "by order of a test"),
        };
        let details = retry_after.map_or(Value::Null, |seconds| json!({ "retryAfterSeconds": seconds }));
        Self { details, ..Self::new(code, reason, message) }
    }

    /// 504: the resource version lies in the future.
    pub(crate) fn too_large_version(asked: u64, current: u64) -> Self {
        Self {
            details: json!({
                "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
                "retryAfterSeconds": 1,
            }),
            ..Self::new(
                504,
                "Timeout",
                format!("Timeout: Too large resource version: {asked}, current: {current}"),
            )
        }
    }

    /// The `Status` object.
    pub(crate) fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "code": self.code,
        });
        if let Some(map) = status.as_object_mut() {
            if !self.reason.is_empty() {
                map.insert("reason".into(), self.reason.into());
            }
            if !self.details.is_null() {
                map.insert("details".into(), self.details.clone());
            }
            if let Some(token) = &self.go_on {
                map.insert("metadata".into(), json!({ "continue": token }));
            }
        }
        status
    }

    /// `Retry-After` in seconds, where clients are told to come back.
    pub(crate) fn retry_after(&self) -> Option<u64> {
        self.details.get("retryAfterSeconds")?.as_u64()
    }
}
