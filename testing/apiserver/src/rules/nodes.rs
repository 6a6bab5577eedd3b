//! Namespace, Node and Pod. Pure.

use serde_json::{Value, json};

use super::{inside, items, text};
use crate::error::Cause;

/// Every namespace has its name as a label.
pub(crate) fn label_namespace(namespace: &mut Value) {
    let name = namespace.pointer("/metadata/name").cloned().unwrap_or_default();
    let Some(metadata) = inside(namespace, "metadata") else { return };
    let labels = metadata.entry("labels").or_insert_with(|| json!({}));
    if let Some(labels) = labels.as_object_mut() {
        labels.insert("kubernetes.io/metadata.name".to_owned(), name);
    }
}

/// A new Namespace.
pub(crate) fn new_namespace(namespace: &mut Value) {
    if let Some(map) = namespace.as_object_mut() {
        map.insert("spec".to_owned(), json!({"finalizers": ["kubernetes"]}));
        map.insert("status".to_owned(), json!({"phase": "Active"}));
    }
}

/// What is wrong with the status of a Namespace.
pub(crate) fn check_namespace_status(namespace: &Value) -> Vec<Cause> {
    let phase = namespace.pointer("/status/phase").and_then(Value::as_str).unwrap_or_default();
    let deleted = namespace.pointer("/metadata/deletionTimestamp").is_some();
    let (wanted, when) = if deleted { ("Terminating", "is not empty") } else { ("Active", "is empty") };
    if phase == wanted {
        return Vec::new();
    }
    let why = format!("may only be '{wanted}' if `deletionTimestamp` {when}");
    vec![Cause::invalid("status.Phase", phase, &why)]
}

/// Fills in a Pod.
pub(crate) fn default_pod(pod: &mut Value) {
    let Some(spec) = inside(pod, "spec") else { return };
    for (field, value) in [
        ("dnsPolicy", json!("ClusterFirst")),
        ("enableServiceLinks", json!(true)),
        ("restartPolicy", json!("Always")),
        ("schedulerName", json!("default-scheduler")),
        ("securityContext", json!({})),
        ("terminationGracePeriodSeconds", json!(30)),
    ] {
        spec.entry(field).or_insert(value);
    }
    for list in ["containers", "initContainers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            default_container(container);
        }
    }
}

fn default_container(container: &mut Value) {
    let image = text(container, "image").unwrap_or_default();
    let last = image.rsplit('/').next().unwrap_or_default();
    let latest = !image.contains('@') && (!last.contains(':') || last.ends_with(":latest"));
    let pull = if latest { "Always" } else { "IfNotPresent" };
    let Some(map) = container.as_object_mut() else { return };
    for (field, value) in [
        ("imagePullPolicy", json!(pull)),
        ("terminationMessagePath", json!("/dev/termination-log")),
        ("terminationMessagePolicy", json!("File")),
    ] {
        map.entry(field).or_insert(value);
    }
    for port in map.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(port) = port.as_object_mut() {
            port.entry("protocol").or_insert_with(|| "TCP".into());
        }
    }
}

/// A new Pod: what the control plane adds to its spec, and its first status.
pub(crate) fn new_pod(pod: &mut Value) {
    if let Some(spec) = inside(pod, "spec") {
        let tolerated = |key: &str| {
            json!({
                "key": format!("node.kubernetes.io/{key}"), "operator": "Exists",
                "effect": "NoExecute", "tolerationSeconds": 300,
            })
        };
        for (field, value) in [
            ("preemptionPolicy", json!("PreemptLowerPriority")),
            ("priority", json!(0)),
            ("tolerations", json!([tolerated("not-ready"), tolerated("unreachable")])),
        ] {
            spec.entry(field).or_insert(value);
        }
    }
    if let Some(map) = pod.as_object_mut() {
        map.insert("status".to_owned(), json!({"phase": "Pending", "qosClass": "BestEffort"}));
    }
}

/// What the control plane added is kept where a client leaves it out.
pub(crate) fn keep_pod_defaults(before: &Value, after: &mut Value) {
    let old = before.get("spec").cloned().unwrap_or_default();
    if let Some(spec) = inside(after, "spec") {
        for field in ["preemptionPolicy", "priority", "tolerations", "nodeName"] {
            if let Some(value) = old.get(field) {
                spec.entry(field).or_insert_with(|| value.clone());
            }
        }
    }
}

/// What is wrong with a Pod.
pub(crate) fn check_pod(before: Option<&Value>, pod: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    let containers = items(spec, "containers");
    if containers.is_empty() {
        causes.push(Cause::required("spec.containers", ""));
    }
    for (index, container) in containers.iter().enumerate() {
        let field = format!("spec.containers[{index}]");
        for name in ["name", "image"] {
            if text(container, name).unwrap_or_default().is_empty() {
                causes.push(Cause::required(format!("{field}.{name}"), ""));
            }
        }
    }
    if let Some(before) = before {
        let mut was = before.clone();
        // An image may change, and tolerations may be added; nothing else of a spec.
        for list in ["containers", "initContainers"] {
            let images: Vec<_> =
                items(spec, list).iter().map(|container| container.get("image").cloned()).collect();
            let old = was.pointer_mut(&format!("/spec/{list}")).and_then(Value::as_array_mut);
            for (container, image) in old.into_iter().flatten().zip(images) {
                if let (Some(container), Some(image)) = (container.as_object_mut(), image) {
                    container.insert("image".to_owned(), image);
                }
            }
        }
        if let Some(map) = was.get_mut("spec").and_then(Value::as_object_mut) {
            for field in ["tolerations", "activeDeadlineSeconds", "terminationGracePeriodSeconds"] {
                match spec.get(field) {
                    Some(value) => map.insert(field.to_owned(), value.clone()),
                    None => map.remove(field),
                };
            }
        }
        if was.get("spec") != pod.get("spec") {
            causes.push(Cause::forbidden(
                "spec",
                "pod updates may not change fields other than images and tolerations",
            ));
        }
    }
    causes
}

/// A new Node is not ready until something says so.
pub(crate) fn new_node(node: &mut Value) {
    let taint = json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"});
    if let Some(spec) = inside(node, "spec") {
        let taints = spec.entry("taints").or_insert_with(|| json!([]));
        if let Some(taints) = taints.as_array_mut()
            && !taints.contains(&taint)
        {
            taints.push(taint);
        }
    }
}

/// What is wrong with a Node.
pub(crate) fn check_node(before: Option<&Value>, node: &Value) -> Vec<Cause> {
    let provider = |node: &Value| node.pointer("/spec/providerID").and_then(Value::as_str).map(str::to_owned);
    let mut causes = Vec::new();
    if let Some(old) = before.and_then(provider)
        && Some(&old) != provider(node).as_ref()
    {
        causes.push(Cause::forbidden(
            "spec.providerID",
            "node updates may not change providerID except from \"\" to valid",
        ));
    }
    causes
}
