//! What is wrong with objects, as `kubectl describe` shows it.

use std::time::Duration;

use serde_json::{Value, json};
use test_apiserver::{Effect, Fault};

use crate::cluster::{Cluster, NAMESPACE, ingresses, throughout, within};

const ADDRESSES: [&str; 2] = ["--publish-address", "192.0.2.1"];

fn of<'e>(events: &'e [Value], reason: &str) -> Vec<&'e Value> {
    events.iter().filter(|event| event["reason"] == reason).collect()
}

fn wait_for(cluster: &Cluster, reason: &str) -> Value {
    let mut found = Value::Null;
    within(Duration::from_secs(20), reason, || {
        let events = cluster.events();
        found = of(&events, reason).first().map(|event| (*event).clone()).unwrap_or_default();
        !found.is_null()
    });
    found
}

#[test]
fn problem_is_told_once_and_its_end_as_well() {
    let cluster = Cluster::start();
    let mut gateway = cluster.gateway("one", &ADDRESSES);
    cluster.ingress("a", "sluicegate");
    cluster.ingress("strange", "other");
    let event = wait_for(&cluster, "BackendNotFound");
    let ingress = cluster.read(&format!("{}/a", ingresses())).unwrap();
    assert_eq!(event["regarding"]["uid"], ingress["metadata"]["uid"]);
    assert_eq!((&event["regarding"]["kind"], &event["type"]), (&json!("Ingress"), &json!("Warning")));
    assert!(event["note"].as_str().unwrap().starts_with("spec.rules[0].http.paths[0].backend"), "{event}");
    // The same problem, whatever else changes.
    for index in 0..5 {
        cluster
            .patch(&format!("{}/a", ingresses()), json!({"metadata": {"labels": {"n": index.to_string()}}}));
    }
    // Another process finds it told.
    gateway.signal("TERM");
    gateway.wait_for_exit();
    let gateway = cluster.gateway("one", &ADDRESSES);
    gateway.wait_for_log("this replica writes status");
    within(Duration::from_secs(20), "it has looked", || {
        gateway.admin("/metrics").contains("sluicegate_events_total{outcome=\"done\"} 1\n")
    });
    let events = cluster.events();
    assert_eq!(events.len(), 1, "{events:?}");
    assert!(events[0]["series"].is_null(), "{events:?}");
    cluster.create(
        &format!("/api/v1/namespaces/{NAMESPACE}/services"),
        json!({"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}], "selector": {"app": "web"}}}),
    );
    let event = wait_for(&cluster, "ProblemsResolved");
    assert_eq!(event["type"], "Normal");
}

#[test]
fn problem_of_a_service_is_told_there_if_it_is_used() {
    let cluster = Cluster::start();
    let _gateway = cluster.gateway("one", &ADDRESSES);
    for name in ["web", "unused"] {
        cluster
            .server
            .plant(json!({
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": name, "namespace": NAMESPACE},
                "spec": {"type": "ExternalName", "externalName": "not a name", "ports": [{"port": 80}]},
            }))
            .unwrap();
    }
    cluster.ingress("a", "sluicegate");
    within(Duration::from_secs(20), "an Event of the Service", || {
        cluster.events().iter().any(|event| event["regarding"]["kind"] == "Service")
    });
    throughout(Duration::from_secs(3), "none of a Service that nobody uses", || {
        cluster.events().iter().all(|event| event["regarding"]["name"] != "unused")
    });
}

#[test]
fn two_writers_of_one_status_are_noticed() {
    let cluster = Cluster::start();
    let gateway = cluster.gateway("one", &ADDRESSES);
    cluster.ingress("a", "sluicegate");
    for _ in 0..5 {
        within(Duration::from_secs(10), "our address is written", || {
            cluster.status("a").contains("192.0.2.1")
        });
        cluster.write_status("a", json!([{"ip": "203.0.113.9"}]));
    }
    gateway.wait_for_log("somebody else keeps changing the status");
    let writes = cluster.writes();
    throughout(Duration::from_secs(2), "it is left alone", || cluster.writes() == writes);
    wait_for(&cluster, "StatusContended");
    // Others are not concerned.
    cluster.ingress("b", "sluicegate");
    cluster.wait_for_status("b", &["192.0.2.1"]);
}

#[test]
fn forbidden_events_hold_up_nothing() {
    let cluster = Cluster::start();
    cluster.server.fail(Fault::new(Effect::Status { code: 403, retry_after: None }).resources(&["events"]));
    let gateway = cluster.gateway("one", &ADDRESSES);
    cluster.ingress("a", "sluicegate");
    gateway.wait_for_log("an Event cannot be written");
    cluster.ingress("b", "sluicegate");
    cluster.wait_for_status("b", &["192.0.2.1"]);
    assert_eq!(cluster.server.requests().writes("events"), 1);
}
