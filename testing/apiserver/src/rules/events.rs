//! Event, in both of its groups. Pure.

use serde_json::Value;

use super::text;
use crate::error::Cause;
use crate::kinds::Kind;

/// What is wrong with an Event.
pub(crate) fn check(kind: &Kind, before: Option<&Value>, after: &Value) -> Vec<Cause> {
    let new = &*kind.group == "events.k8s.io";
    let (object, message) = if new { ("regarding", "note") } else { ("involvedObject", "message") };
    let mut causes = Vec::new();
    let namespace = after.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or_default();
    let about = after.get(object).and_then(|object| text(object, "namespace")).unwrap_or_default();
    // What is about the cluster goes to the namespace `default`.
    let matches =
        if about.is_empty() { ["default", "kube-system"].contains(&namespace) } else { about == namespace };
    if !matches {
        causes.push(Cause::invalid("involvedObject.namespace", about, "does not match event.namespace"));
    }
    // Only what is made in the new group, with its time, must be complete; and nothing of it may change but the series.
    if !new {
        return causes;
    }
    if let Some(before) = before {
        for field in [
            "note",
            "reason",
            "type",
            "action",
            "regarding",
            "reportingController",
            "reportingInstance",
            "eventTime",
        ] {
            if before.get(field) != after.get(field) {
                let shown = after.get(field).cloned().unwrap_or_default();
                let name = if field == "note" { message_name(field) } else { field };
                causes.push(Cause::invalid(name, shown, "field is immutable"));
            }
        }
        check_series(after, &mut causes);
        return causes;
    }
    check_new(after, message, &mut causes);
    causes
}

fn message_name(field: &str) -> &str {
    if field == "note" { "message" } else { field }
}

fn check_new(after: &Value, message: &str, causes: &mut Vec<Cause>) {
    if after.get("eventTime").is_none_or(Value::is_null) {
        causes.push(Cause::required("eventTime", ""));
    }
    for (field, limit) in
        [("reportingController", 128), ("reportingInstance", 128), ("action", 128), ("reason", 128)]
    {
        let value = text(after, field).unwrap_or_default();
        if value.is_empty() {
            causes.push(Cause::required(field, ""));
        }
        if field == "reportingController" {
            causes.extend(super::names::qualified(value).iter().map(|why| Cause::invalid(field, value, why)));
        }
        if value.len() > limit {
            causes.push(Cause::invalid(field, "", &format!("can have at most {limit} characters")));
        }
    }
    let kind = text(after, "type").unwrap_or_default();
    if !["Normal", "Warning"].contains(&kind) {
        causes.push(Cause::invalid("type", "", &format!("has invalid value: {kind}")));
    }
    if text(after, message).unwrap_or_default().len() > 1024 {
        causes.push(Cause::invalid("message", "", "can have at most 1024 characters"));
    }
    for (field, name) in [("deprecatedCount", "count"), ("deprecatedFirstTimestamp", "firstTimestamp")] {
        if after.get(field).is_some_and(|value| !value.is_null()) {
            causes.push(Cause::invalid(name, "", "needs to be unset"));
        }
    }
    check_series(after, causes);
}

fn check_series(after: &Value, causes: &mut Vec<Cause>) {
    let Some(series) = after.get("series").filter(|series| !series.is_null()) else { return };
    if series.get("count").and_then(Value::as_i64).unwrap_or(0) < 2 {
        causes.push(Cause::invalid("series.count", "", "should be at least 2"));
    }
    if series.get("lastObservedTime").is_none_or(Value::is_null) {
        causes.push(Cause::required("series.lastObservedTime", ""));
    }
}
