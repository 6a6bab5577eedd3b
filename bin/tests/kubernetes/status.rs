//! `status.loadBalancer` of Ingresses.

use serde_json::{Value, json};

use crate::cluster::{Cluster, PUBLISHED, backend};
use crate::objects::{ingress, site};

fn entries(object: &Value) -> Vec<String> {
    let entries = object["status"]["loadBalancer"]["ingress"].as_array().cloned().unwrap_or_default();
    let text = |entry: &Value| entry["ip"].as_str().or_else(|| entry["hostname"].as_str()).map(str::to_owned);
    entries.iter().filter_map(text).collect()
}

#[test]
fn address_is_published_while_the_ingress_is_ours() {
    let cluster = Cluster::new();
    let one = backend("one");
    let other = format!("{}-other", cluster.namespace);
    cluster.ingress_class(&other, "example.com/other", false);
    let mut object = site(&cluster, "a", "a.example", &one);
    let _gateway = cluster.gateway(&[]);
    cluster.eventually("the address", &object, |now| entries(now) == [PUBLISHED]);
    object["spec"]["ingressClassName"] = json!(other);
    cluster.apply(&object);
    cluster.eventually("no address", &object, |now| entries(now).is_empty());
}

#[test]
fn ingress_of_others_keeps_its_status() {
    let cluster = Cluster::new();
    let one = backend("one");
    let other = format!("{}-other", cluster.namespace);
    cluster.ingress_class(&other, "example.com/other", false);
    let ours = site(&cluster, "a", "a.example", &one);
    let mut theirs = ingress(&cluster, "theirs", "theirs.example", "a");
    theirs["spec"]["ingressClassName"] = json!(other);
    cluster.apply(&theirs);
    cluster.write_status(&theirs, &json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.9"}]}}));
    let _gateway = cluster.gateway(&[]);
    cluster.eventually("the address", &ours, |now| entries(now) == [PUBLISHED]);
    assert_eq!(entries(&cluster.get(&theirs).unwrap()), ["203.0.113.9"]);
}

#[test]
fn status_is_written_once_and_then_left_alone() {
    let cluster = Cluster::new();
    let one = backend("one");
    let object = site(&cluster, "a", "a.example", &one);
    let gateway = cluster.gateway(&[]);
    let written = cluster.eventually("the address", &object, |now| entries(now) == [PUBLISHED]);
    // Another Ingress gets its address later; that the first was not touched meanwhile shows in its version.
    let second = ingress(&cluster, "second", "second.example", "a");
    cluster.apply(&second);
    gateway.wait_for_status("second.example", "/", 200);
    cluster.eventually("the address", &second, |now| entries(now) == [PUBLISHED]);
    let now = cluster.get(&object).unwrap();
    assert_eq!(now["metadata"]["resourceVersion"], written["metadata"]["resourceVersion"]);
}

#[test]
fn address_of_a_service_is_published_and_followed() {
    let cluster = Cluster::new();
    let one = backend("one");
    let object = site(&cluster, "a", "a.example", &one);
    let balancer = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "front"},
        "spec": {"type": "LoadBalancer", "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}});
    cluster.apply(&balancer);
    let address = |ip: &str| json!({"loadBalancer": {"ingress": [{"ip": ip}]}});
    cluster.write_status(&balancer, &address("203.0.113.1"));
    let service = format!("{}/front", cluster.namespace);
    let _gateway = cluster.gateway_publishing(&["--publish-service", &service]);
    cluster.eventually("the address", &object, |now| entries(now) == ["203.0.113.1"]);
    cluster.write_status(&balancer, &address("203.0.113.2"));
    cluster.eventually("the new address", &object, |now| entries(now) == ["203.0.113.2"]);
}
