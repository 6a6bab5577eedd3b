//! `metadata`: its forms, and what cannot change. Pure.

use serde_json::Value;

use super::{items, names, text};
use crate::error::Cause;
use crate::kinds::{Kind, What};

/// The most that annotations may take together.
const ANNOTATIONS: usize = 256 * 1024;

/// What is wrong with the metadata of an object.
pub(crate) fn check(kind: &Kind, before: Option<&Value>, after: &Value) -> Vec<Cause> {
    static NOTHING: Value = Value::Null;
    let metadata = after.get("metadata").unwrap_or(&NOTHING);
    let mut causes = Vec::new();
    if before.is_none() {
        if let Some(prefix) = text(metadata, "generateName") {
            // What follows makes a name of it that may end with a hyphen.
            check_name(kind, "metadata.generateName", prefix.trim_end_matches('-'), &mut causes);
        }
        check_name(kind, "metadata.name", text(metadata, "name").unwrap_or_default(), &mut causes);
    }
    for (key, value) in metadata.get("labels").and_then(Value::as_object).into_iter().flatten() {
        let wrong_key = names::qualified(key).into_iter().map(|why| (key.as_str(), why));
        let value = value.as_str().unwrap_or_default();
        let wrong_value = names::label_value(value).into_iter().map(|why| (value, why));
        causes.extend(
            wrong_key.chain(wrong_value).map(|(what, why)| Cause::invalid("metadata.labels", what, &why)),
        );
    }
    let mut size = 0;
    for (key, value) in metadata.get("annotations").and_then(Value::as_object).into_iter().flatten() {
        size += key.len() + value.as_str().unwrap_or_default().len();
        let wrong = names::qualified(&key.to_lowercase());
        causes.extend(wrong.iter().map(|why| Cause::invalid("metadata.annotations", key.as_str(), why)));
    }
    if size > ANNOTATIONS {
        causes.push(Cause::too_long("metadata.annotations", ANNOTATIONS));
    }
    check_finalizers(metadata, &mut causes);
    check_owners(metadata, &mut causes);
    if let Some(before) = before.and_then(|before| before.get("metadata")) {
        check_change(before, metadata, &mut causes);
    }
    causes
}

fn check_name(kind: &Kind, field: &str, name: &str, causes: &mut Vec<Cause>) {
    let wrong = match &kind.what {
        What::Namespace | What::Service => names::label(name),
        What::Custom(_)
        | What::ConfigMap
        | What::Endpoints
        | What::Node
        | What::Pod
        | What::Secret
        | What::Definition
        | What::Lease
        | What::EndpointSlice
        | What::IngressClass
        | What::Ingress
        | What::Event => names::subdomain(name),
    };
    causes.extend(wrong.iter().map(|why| Cause::invalid(field, name, why)));
    let wrong = names::path_segment(name);
    causes.extend(wrong.iter().map(|why| Cause::invalid(field, name, why)));
}

fn check_finalizers(metadata: &Value, causes: &mut Vec<Cause>) {
    for (index, finalizer) in items(metadata, "finalizers").iter().enumerate() {
        let name = finalizer.as_str().unwrap_or_default();
        let field = format!("metadata.finalizers[{index}]");
        let wrong = names::qualified(name);
        causes.extend(wrong.iter().map(|why| Cause::invalid(&field, name, why)));
        let standard = ["kubernetes", "orphan", "foregroundDeletion"].contains(&name);
        if !standard && !name.contains('/') && !name.starts_with("customresourcecleanup.") {
            let why = "name is neither a standard finalizer name nor is it fully qualified";
            causes.push(Cause::invalid(&field, name, why));
        }
    }
}

fn check_owners(metadata: &Value, causes: &mut Vec<Cause>) {
    let field = "metadata.ownerReferences";
    let owners = items(metadata, "ownerReferences");
    for owner in owners {
        for name in ["apiVersion", "kind", "name", "uid"] {
            if text(owner, name).unwrap_or_default().is_empty() {
                causes.push(Cause::invalid(format!("{field}.{name}"), "", "must not be empty"));
            }
        }
    }
    if owners.iter().filter(|owner| owner.get("controller") == Some(&Value::Bool(true))).count() > 1 {
        let why = "Only one reference can have Controller set to true.";
        causes.push(Cause::invalid(field, Value::Array(owners.to_vec()), why));
    }
}

/// What the server alone decides.
fn check_change(before: &Value, after: &Value, causes: &mut Vec<Cause>) {
    for field in ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        // What is not said is kept.
        if let Some(said) = after.get(field)
            && Some(said) != before.get(field)
        {
            causes.push(Cause::invalid(format!("metadata.{field}"), said.clone(), "field is immutable"));
        }
    }
    if text(before, "deletionTimestamp").is_some() {
        let old = items(before, "finalizers");
        let new: Vec<_> = items(after, "finalizers")
            .iter()
            .filter(|finalizer| !old.contains(finalizer))
            .map(Value::to_string)
            .collect();
        if !new.is_empty() {
            let why = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                new.join(", ")
            );
            causes.push(Cause::forbidden("metadata.finalizers", &why));
        }
    }
}
