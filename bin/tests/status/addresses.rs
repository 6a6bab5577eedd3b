//! Which addresses are published, followed live.

use std::time::Duration;

use serde_json::json;

use crate::cluster::{Cluster, throughout};

const SERVICES: &str = "/api/v1/namespaces/default/services";

#[test]
fn addresses_of_a_service_are_followed() {
    let cluster = Cluster::start();
    cluster.ingress("a", "sluicegate");
    let gateway = cluster.gateway("one", &["--publish-service", "default/lb"]);
    gateway.wait_for_log("there is no Service default/lb");
    cluster.create(
        SERVICES,
        json!({"metadata": {"name": "lb"}, "spec": {"type": "LoadBalancer", "ports": [{"port": 80}], "selector": {"a": "b"}}}),
    );
    let publish = |entries| {
        let status = json!({"status": {"loadBalancer": {"ingress": entries}}});
        cluster.patch(&format!("{SERVICES}/lb/status"), status);
    };
    publish(json!([{"ip": "192.0.2.1"}]));
    cluster.wait_for_status("a", &["192.0.2.1"]);
    publish(json!([{"ip": "192.0.2.2"}, {"ip": "2001:db8::2"}, {"hostname": "lb.example"}]));
    cluster.wait_for_status("a", &["192.0.2.2", "2001:db8::2", "lb.example"]);
    // A load balancer that is replaced, or a Service that is made anew.
    cluster.delete(&format!("{SERVICES}/lb"));
    throughout(Duration::from_secs(2), "addresses outlive their source for a moment", || {
        cluster.status("a").len() == 3
    });
}

#[test]
fn addresses_of_nodes_with_our_pods_are_followed() {
    let cluster = Cluster::start();
    cluster.ingress("a", "sluicegate");
    for (name, internal, external) in [
        ("node-1", "10.0.0.1", Some("203.0.113.1")),
        ("node-2", "10.0.0.2", None),
        ("node-3", "10.0.0.3", None),
    ] {
        cluster.create("/api/v1/nodes", json!({"metadata": {"name": name}}));
        let addresses: Vec<_> = [("InternalIP", Some(internal)), ("ExternalIP", external)]
            .into_iter()
            .filter_map(|(kind, address)| Some(json!({"type": kind, "address": address?})))
            .collect();
        cluster.patch(&format!("/api/v1/nodes/{name}/status"), json!({"status": {"addresses": addresses}}));
    }
    let pod = |name: &str, node: &str, app: &str| {
        let labels = json!({"app": app, "controller-revision-hash": name});
        cluster.create(
            "/api/v1/namespaces/default/pods",
            json!({
                "metadata": {"name": name, "labels": labels},
                "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]},
            }),
        );
        let status =
            json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        cluster.patch(&format!("/api/v1/namespaces/default/pods/{name}/status"), status);
    };
    pod("gate-1", "node-1", "gate");
    pod("else-1", "node-3", "else");
    let _gateway = cluster.gateway("one", &["--pod-name", "gate-1", "--pod-namespace", "default"]);
    cluster.wait_for_status("a", &["203.0.113.1"]);
    pod("gate-2", "node-2", "gate");
    cluster.wait_for_status("a", &["203.0.113.1", "10.0.0.2"]);
    // The node of one is gone, as its Pod will be in some minutes.
    pod("gate-9", "node-9", "gate");
    pod("gate-3", "node-3", "gate");
    cluster.wait_for_status("a", &["203.0.113.1", "10.0.0.2", "10.0.0.3"]);
    cluster.delete("/api/v1/namespaces/default/pods/gate-3?gracePeriodSeconds=0");
    cluster.delete("/api/v1/namespaces/default/pods/gate-1?gracePeriodSeconds=0");
    cluster.wait_for_status("a", &["10.0.0.2"]);
}

#[test]
fn without_addresses_nothing_is_written_and_that_is_said() {
    let cluster = Cluster::start();
    cluster.ingress("a", "sluicegate");
    let gateway = cluster.gateway("one", &[]);
    gateway.wait_for_log("no addresses are known for the status of Ingresses");
    gateway.wait_for_log("this replica writes status");
    throughout(Duration::from_secs(1), "nothing is written", || cluster.writes() == 0);
}

#[test]
fn where_status_is_off_nothing_at_all_is_written() {
    let cluster = Cluster::start();
    cluster.ingress("a", "sluicegate");
    let gateway = cluster.gateway("one", &["--publish-address", "192.0.2.1", "--update-status=false"]);
    gateway.wait_for_status("a.example", "/", 503);
    throughout(Duration::from_secs(4), "nothing is written", || {
        let requests = cluster.server.requests();
        cluster.writes() == 0 && requests.writes("events") == 0 && requests.writes("leases") == 0
    });
}
