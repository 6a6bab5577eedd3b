//! What is wrong with an object is told at the object.

use serde_json::{Value, json};

use crate::cluster::{Cluster, backend};
use crate::common::eventually;
use crate::objects::{ingress, site};

pub fn reasons(cluster: &Cluster, about: &str) -> Vec<String> {
    let kind = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {}});
    let events = cluster.list(&kind);
    let ours = events.iter().filter(|event| event["regarding"]["name"] == *about);
    ours.filter_map(|event| event["reason"].as_str().map(str::to_owned)).collect()
}

#[test]
fn wrong_ingress_gets_an_event_and_costs_only_itself() {
    let cluster = Cluster::new();
    let one = backend("one");
    site(&cluster, "good", "good.example", &one);
    let gateway = cluster.gateway(&[]);
    let mut wrong: Value = ingress(&cluster, "wrong", "wrong.example", "nowhere");
    wrong["metadata"]["annotations"] = json!({"sluicegate.dev/response-timeout": "soon"});
    cluster.apply(&wrong);
    eventually("events at the Ingress", || reasons(&cluster, "wrong").len() >= 2);
    assert_eq!(gateway.get("good.example", "/").status, 200);
    assert!(reasons(&cluster, "good").is_empty());
}
