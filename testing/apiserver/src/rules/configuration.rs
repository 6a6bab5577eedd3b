//! ConfigMap, Secret and Lease. Pure.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::{names, text};
use crate::error::Cause;

/// The most that a ConfigMap or Secret may hold.
const MAX: usize = 1024 * 1024;

fn map<'a>(object: &'a Value, field: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    object.get(field).and_then(Value::as_object).into_iter().flatten()
}

/// What is wrong with a ConfigMap.
pub(crate) fn check_config_map(before: Option<&Value>, after: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let mut size = 0;
    let binary = after.get("binaryData").and_then(Value::as_object);
    for (key, value) in map(after, "data") {
        check_key(&format!("data[{key}]"), key, &mut causes);
        if binary.is_some_and(|binary| binary.contains_key(key)) {
            let why = "duplicate of key present in binaryData";
            causes.push(Cause::invalid(format!("data[{key}]"), key.as_str(), why));
        }
        size += value.as_str().unwrap_or_default().len();
    }
    for (key, value) in map(after, "binaryData") {
        check_key(&format!("binaryData[{key}]"), key, &mut causes);
        size += STANDARD.decode(value.as_str().unwrap_or_default()).map_or(0, |bytes| bytes.len());
    }
    if size > MAX {
        causes.push(Cause::too_long("[]", MAX));
    }
    check_immutable(before, after, &["data", "binaryData"], &mut causes);
    causes
}

fn check_key(field: &str, key: &str, causes: &mut Vec<Cause>) {
    causes.extend(names::config_key(key).iter().map(|why| Cause::invalid(field, key, why)));
}

fn check_immutable(before: Option<&Value>, after: &Value, fields: &[&str], causes: &mut Vec<Cause>) {
    let why = "field is immutable when `immutable` is set";
    let Some(before) = before.filter(|before| before.get("immutable") == Some(&Value::Bool(true))) else {
        return;
    };
    for field in ["immutable"].iter().chain(fields) {
        if before.get(*field) != after.get(*field) {
            causes.push(Cause::forbidden(*field, why));
        }
    }
}

/// Fills in a Secret: its type, and what is written as text.
pub(crate) fn default_secret(secret: &mut Value) {
    let Some(object) = secret.as_object_mut() else { return };
    if let Some(Value::Object(texts)) = object.remove("stringData") {
        let data = object.entry("data").or_insert_with(|| Value::Object(Map::new()));
        if let Some(data) = data.as_object_mut() {
            for (key, value) in texts {
                data.insert(key, STANDARD.encode(value.as_str().unwrap_or_default()).into());
            }
        }
    }
    object.entry("type").or_insert_with(|| "Opaque".into());
}

/// What is wrong with a Secret.
pub(crate) fn check_secret(before: Option<&Value>, after: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let mut size = 0;
    for (key, value) in map(after, "data") {
        check_key(&format!("data[{key}]"), key, &mut causes);
        size += STANDARD.decode(value.as_str().unwrap_or_default()).map_or(0, |bytes| bytes.len());
    }
    if size > MAX {
        causes.push(Cause::too_long("data", MAX));
    }
    if text(after, "type") == Some("kubernetes.io/service-account-token")
        && after.pointer("/metadata/annotations/kubernetes.io~1service-account.name").is_none()
    {
        causes.push(Cause::required("metadata.annotations[kubernetes.io/service-account.name]", ""));
    }
    let has = |key: &str| after.get("data").is_some_and(|data| data.get(key).is_some());
    if text(after, "type") == Some("kubernetes.io/basic-auth") && !has("username") && !has("password") {
        causes.push(Cause::required("data[username]", ""));
        causes.push(Cause::required("data[password]", ""));
    }
    let wanted: &[&str] = match text(after, "type").unwrap_or_default() {
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        _ => &[],
    };
    for key in wanted {
        if !has(key) {
            causes.push(Cause::required(format!("data[{key}]"), ""));
        }
    }
    if let Some(before) = before
        && before.get("type") != after.get("type")
    {
        causes.push(Cause::invalid(
            "type",
            after.get("type").cloned().unwrap_or_default(),
            "field is immutable",
        ));
    }
    check_immutable(before, after, &["data"], &mut causes);
    causes
}

/// What there is to say about a Secret.
pub(crate) fn secret_warnings(secret: &Value) -> Vec<String> {
    let is_tls = text(secret, "type") == Some("kubernetes.io/tls");
    let certificate = secret.pointer("/data/tls.crt").and_then(Value::as_str).unwrap_or_default();
    let certificate = STANDARD.decode(certificate).unwrap_or_default();
    if is_tls && !certificate.windows(10).any(|window| window == b"-----BEGIN") {
        return vec!["tls: failed to find any PEM data in certificate input".to_owned()];
    }
    Vec::new()
}

/// What is wrong with a Lease.
pub(crate) fn check_lease(lease: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let number = |field: &str| lease.pointer(&format!("/spec/{field}")).and_then(Value::as_i64);
    if let Some(seconds) = number("leaseDurationSeconds").filter(|seconds| *seconds <= 0) {
        causes.push(Cause::invalid("spec.leaseDurationSeconds", seconds, "must be greater than 0"));
    }
    if let Some(count) = number("leaseTransitions").filter(|count| *count < 0) {
        causes.push(Cause::invalid("spec.leaseTransitions", count, "must be greater than or equal to 0"));
    }
    causes
}
