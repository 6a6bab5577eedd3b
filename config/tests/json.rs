//! JSON is read by a reader of its own; whatever it says of a file, the reader of YAML says the same.

#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a panic is a failed test")]

use std::sync::Arc;

use config::resource::{Decoded, ObjectSpec, decode};
use serde_json::{Value, json};

fn ingress(name: &str, host: &str) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"name": name, "namespace": "shop", "annotations": {}},
        "spec": {"rules": [{"host": host, "http": {"paths": [
            {"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "web", "port": {"number": 80}}}}
        ]}}]},
    })
}

fn read(text: &str) -> Decoded {
    decode(&"f.json".into(), text.as_bytes())
}

/// What is read of `text`, which must not depend on who reads it: with a comment at its end it is JSON no more.
fn either_way(text: &str) -> Decoded {
    let (as_json, as_yaml) = (read(text), read(&format!("{text}\n# a comment\n")));
    assert_eq!(format!("{as_json:?}"), format!("{as_yaml:?}"), "{text}");
    as_json
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap()
}

#[test]
fn lists_and_what_is_wrong_in_them_are_read_as_in_yaml() {
    let mut wrong = ingress("wrong", "b.test");
    wrong["spec"]["rules"][0]["http"]["paths"][0]["pathType"] = json!("Suffix");
    let mut typo = ingress("typo", "c.test");
    typo["spec"]["ingresClassName"] = json!("x");
    let mut number = ingress("number", "d.test");
    number["metadata"]["annotations"] = json!({"a": 1});
    let nested = json!({"kind": "IngressList", "apiVersion": "v1", "items": [ingress("nested", "e.test")]});
    let native = json!({"apiVersion": "sluicegate.dev/v1alpha1", "kind": "Config", "backends": [{"name": "x", "endpoints": ["10.0.0.1:80"]}]});
    let items =
        [ingress("good", "a.test"), wrong, typo, number, nested, native, json!(1), json!({"kind": "Pod"})];
    let list =
        json!({"apiVersion": "v1", "kind": "List", "items": items, "metadata": {"resourceVersion": ""}});
    let decoded = either_way(&pretty(&list));
    assert_eq!(decoded.objects.len(), 5, "{:?}", decoded.objects);
    let lines: Vec<_> =
        decoded.problems.iter().map(|problem| problem.location.as_ref().unwrap().line).collect();
    assert!(lines.len() == 2 && lines.iter().all(|line| *line > 30), "{lines:?}");
    either_way(&list.to_string());
}

#[test]
fn what_has_items_and_is_no_list_is_read_as_in_yaml() {
    let item = ingress("a", "a.test");
    for value in [
        json!({"items": [item]}),
        json!({"kind": "Set", "apiVersion": "v1", "items": [item]}),
        json!({"kind": 1, "items": [item]}),
        json!({"kind": "List", "items": {"a": item}}),
        json!({"kind": "List", "items": null}),
        json!({"kind": "List", "items": []}),
        json!({"kind": "List"}),
        json!({"items": [item], "routes": []}),
        json!({"kind": "Config", "items": [item], "routes": []}),
        json!({"apiVersion": "apps/v1", "kind": "ReplicaSetList", "items": [item]}),
        json!([item]),
        item,
    ] {
        either_way(&pretty(&value));
    }
}

#[test]
fn a_list_that_ends_too_early_or_late_gives_nothing_but_where() {
    let list = pretty(&json!({"apiVersion": "v1", "kind": "List", "items": [ingress("a", "a.test")]}));
    let cut = list.trim_end().strip_suffix('}').unwrap();
    for broken in
        [cut.to_owned(), format!("{list}]"), list.replacen("\"shop\"", "\"shop\", \"name\": \"b\"", 1)]
    {
        let decoded = either_way(&broken);
        assert!(decoded.objects.is_empty() && decoded.incomplete, "{broken}: {decoded:?}");
        assert_eq!(decoded.problems.len(), 1, "{decoded:?}");
        assert_eq!(decoded.problems[0].reason, "InvalidYaml");
    }
}

#[test]
fn what_many_objects_name_alike_is_there_once() {
    let items: Vec<_> =
        (0..3).map(|number| ingress(&format!("i{number}"), &format!("h{number}.test"))).collect();
    let decoded = either_way(&json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string());
    let services: Vec<&Arc<str>> = decoded
        .objects
        .iter()
        .map(|object| match &object.spec {
            ObjectSpec::Ingress(ingress) => match &ingress.paths[0].backend {
                config::resource::ingress::IngressBackend::Service(name, _) => name,
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(services.iter().all(|name| Arc::ptr_eq(name, services[0])));
    let first = &decoded.objects[0].reference.namespace;
    assert!(decoded.objects.iter().all(|object| Arc::ptr_eq(&object.reference.namespace, first)));
}
