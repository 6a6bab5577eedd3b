//! What is served, as clients ask before anything else: groups, versions, resources. Never looks at an object.

use serde_json::{Map, Value, json};

use crate::kinds::Kind;
use crate::state::State;

/// `/version`.
pub(crate) fn version() -> Value {
    json!({
        "major": "1", "minor": "36", "gitVersion": "v1.36.0", "gitCommit": "0000000", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none", "compiler": "rustc", "platform": "linux/amd64",
    })
}

/// `/api`.
pub(crate) fn core_versions(address: &str) -> Value {
    json!({
        "kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    })
}

/// `/apis`.
pub(crate) fn groups(state: &State) -> Value {
    let groups: Vec<_> = state.groups().iter().map(|(group, versions)| one_group(group, versions)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/GROUP`.
pub(crate) fn group(state: &State, name: &str) -> Option<Value> {
    let groups = state.groups();
    let (group, versions) = groups.iter().find(|(group, _)| &**group == name)?;
    let mut value = one_group(group, versions);
    let map = value.as_object_mut()?;
    map.insert("kind".into(), "APIGroup".into());
    map.insert("apiVersion".into(), "v1".into());
    Some(value)
}

fn one_group(group: &str, versions: &[Box<str>]) -> Value {
    let versions: Vec<_> = versions
        .iter()
        .map(|version| json!({"groupVersion": format!("{group}/{version}"), "version": &**version}))
        .collect();
    json!({"name": group, "preferredVersion": versions.first(), "versions": versions})
}

/// `/api/v1` and `/apis/GROUP/VERSION`.
pub(crate) fn resources(state: &State, group: &str, version: &str) -> Option<Value> {
    let kinds = state.kinds();
    let mut list = Vec::new();
    for kind in kinds.iter().filter(|kind| &*kind.group == group && &*kind.version == version) {
        let mut resource = json!({
            "name": &*kind.plural, "singularName": &*kind.singular, "namespaced": kind.namespaced,
            "kind": &*kind.kind, "verbs": kind.verbs(),
        });
        add_names(&mut resource, kind);
        list.push(resource);
        if kind.status {
            list.push(json!({
                "name": format!("{}/status", kind.plural), "singularName": "", "namespaced": kind.namespaced,
                "kind": &*kind.kind, "verbs": ["get", "patch", "update"],
            }));
        }
        if kind.group.is_empty() && &*kind.plural == "namespaces" {
            list.push(json!({
                "name": "namespaces/finalize", "singularName": "", "namespaced": false,
                "kind": "Namespace", "verbs": ["update"],
            }));
        }
    }
    if list.is_empty() {
        return None;
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let mut value = json!({"kind": "APIResourceList", "groupVersion": group_version, "resources": list});
    if !group.is_empty() {
        // As the real one has it: the list of the core group says no version.
        value.as_object_mut()?.insert("apiVersion".into(), "v1".into());
    }
    Some(value)
}

fn add_names(resource: &mut Value, kind: &Kind) {
    let Some(map) = resource.as_object_mut() else { return };
    for (field, names) in [("shortNames", &kind.short_names), ("categories", &kind.categories)] {
        if !names.is_empty() {
            map.insert(field.into(), names.iter().map(|name| Value::from(&**name)).collect());
        }
    }
}

/// `/api` and `/apis` in one answer (`apidiscovery.k8s.io/v2`).
pub(crate) fn aggregated(state: &State, core: bool) -> Value {
    let groups = if core { vec![("".into(), vec!["v1".into()])] } else { state.groups() };
    let kinds = state.kinds();
    let items: Vec<_> = groups
        .iter()
        .map(|(group, versions)| {
            let versions: Vec<_> = versions
                .iter()
                .map(|version| {
                    let resources: Vec<_> = kinds
                        .iter()
                        .filter(|kind| kind.group == *group && kind.version == *version)
                        .map(|kind| aggregated_resource(kind))
                        .collect();
                    json!({"version": &**version, "resources": resources, "freshness": "Current"})
                })
                .collect();
            let mut metadata = Map::new();
            if !group.is_empty() {
                metadata.insert("name".into(), (&**group).into());
            }
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn aggregated_resource(kind: &Kind) -> Value {
    let answers = json!({"group": &*kind.group, "version": &*kind.version, "kind": &*kind.kind});
    let mut resource = json!({
        "resource": &*kind.plural, "responseKind": answers,
        "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": &*kind.singular, "verbs": kind.verbs(),
    });
    add_names(&mut resource, kind);
    let mut subresources = Vec::new();
    if kind.group.is_empty() && &*kind.plural == "namespaces" {
        subresources.push(json!({"subresource": "finalize", "responseKind": answers, "verbs": ["update"]}));
    }
    if kind.status {
        let verbs = json!(["get", "patch", "update"]);
        subresources.push(json!({"subresource": "status", "responseKind": answers, "verbs": verbs}));
    }
    if !subresources.is_empty()
        && let Some(map) = resource.as_object_mut()
    {
        map.insert("subresources".into(), subresources.into());
    }
    resource
}
