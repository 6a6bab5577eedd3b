//! Addresses of Services whatever the API server leaves out.

use std::time::Duration;

use serde_json::{Value, json};
use test_apiserver::{Effect, Fault};

use crate::cluster::{Cluster, NAMESPACE, throughout, within};
use crate::common::Gateway;

const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/default/leases/sluicegate-leader";

fn services() -> String {
    format!("/api/v1/namespaces/{NAMESPACE}/services")
}

/// A cluster with `AddressPool`, and a pool of 192.0.2.1 to 192.0.2.9.
fn with_pool() -> Cluster {
    let cluster = Cluster::start();
    let definition = include_str!("../../../deploy/chart/crds/addresspools.sluicegate.dev.yaml");
    let definition: Value = serde_saphyr::from_str(definition).unwrap();
    cluster.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition);
    let pool = json!({"apiVersion": "sluicegate.dev/v1alpha1", "kind": "AddressPool", "metadata": {"name": "a"},
        "spec": {"addresses": ["192.0.2.1-192.0.2.9"]}});
    within(Duration::from_secs(10), "the kind is served", || {
        cluster.read("/apis/sluicegate.dev/v1alpha1/addresspools").is_some()
    });
    cluster.create("/apis/sluicegate.dev/v1alpha1/addresspools", pool);
    cluster
}

fn gateway(cluster: &Cluster, more: &[&str]) -> Gateway {
    let own = ["--service-types", "load-balancer", "--default-load-balancer", "--http", "none"];
    cluster.gateway("one", &[&own[..], more].concat())
}

/// Makes a Service of type LoadBalancer, perhaps with an address that somebody has given to it.
fn balancer(cluster: &Cluster, name: &str, address: Option<&str>) {
    cluster.create(
        &services(),
        json!({"metadata": {"name": name}, "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}}),
    );
    if let Some(address) = address {
        let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": address, "ipMode": "Proxy"}]}}});
        cluster.patch(&format!("{}/{name}/status?fieldManager=former", services()), status);
    }
}

fn address(cluster: &Cluster, name: &str) -> String {
    let service = cluster.read(&format!("{}/{name}", services())).unwrap();
    service["status"]["loadBalancer"]["ingress"][0]["ip"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn who_becomes_leader_behind_its_watch_gives_nobody_an_address_that_somebody_has() {
    let cluster = with_pool();
    let lease = json!({"metadata": {"name": "sluicegate-leader"}, "spec":
        {"holderIdentity": "former", "leaseDurationSeconds": 600, "renewTime": "2026-01-01T00:00:00.000000Z"}});
    cluster.create(LEASE.rsplit_once('/').unwrap().0, lease);
    balancer(&cluster, "new", None);
    let _gateway = gateway(&cluster, &[]);
    let stale = Fault::new(Effect::Stale { version: 0 }).resources(&["services"]).users(&["one"]);
    cluster.server.fail(stale);
    // The last that the former leader did.
    balancer(&cluster, "had", Some("192.0.2.1"));
    cluster.patch(LEASE, json!({"spec": {"holderIdentity": ""}}));
    within(Duration::from_secs(30), "an address", || !address(&cluster, "new").is_empty());
    assert_eq!((&*address(&cluster, "had"), &*address(&cluster, "new")), ("192.0.2.1", "192.0.2.2"));
}

#[test]
fn a_server_that_does_not_know_a_kind_of_pools_yet_costs_no_address() {
    let cluster = with_pool();
    // Of the other kind of pools there is one, so that some pool is known.
    for (kind, plural) in [("IPAddressPool", "ipaddresspools"), ("L2Advertisement", "l2advertisements")] {
        let schema =
            json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
        let version = json!({"name": "v1beta1", "served": true, "storage": true, "schema": schema});
        let names = json!({"kind": kind, "listKind": format!("{kind}List"), "plural": plural,
            "singular": kind.to_lowercase()});
        cluster.create(
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
            json!({"metadata": {"name": format!("{plural}.metallb.io")}, "spec":
                {"group": "metallb.io", "scope": "Namespaced", "names": names, "versions": [version]}}),
        );
    }
    cluster.create(
        "/apis/metallb.io/v1beta1/namespaces/default/ipaddresspools",
        json!({"apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool", "metadata": {"name": "b"},
            "spec": {"addresses": ["198.51.100.1-198.51.100.9"]}}),
    );
    balancer(&cluster, "had", Some("192.0.2.7"));
    let unknown = Fault::new(Effect::Status { code: 404, retry_after: None }).resources(&["addresspools"]);
    let unknown = cluster.server.fail(unknown);
    // Who may not read advertisements can still give addresses.
    let denied = Fault::new(Effect::Status { code: 403, retry_after: None });
    cluster.server.fail(denied.resources(&["l2advertisements"]).users(&["one"]));
    let _gateway = gateway(&cluster, &["--metallb-pools"]);
    cluster.wait_for_leader("");
    throughout(Duration::from_secs(3), "it keeps its address", || address(&cluster, "had") == "192.0.2.7");
    cluster.server.faults().remove(unknown);
    balancer(&cluster, "new", None);
    within(Duration::from_secs(60), "an address", || !address(&cluster, "new").is_empty());
    assert_eq!(address(&cluster, "had"), "192.0.2.7");
}

#[test]
fn a_service_and_a_pool_that_do_not_decode_hold_up_no_other() {
    let cluster = with_pool();
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "broken", "namespace": NAMESPACE},
        "spec": {"type": "LoadBalancer", "ports": "all"},
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}});
    cluster.server.plant(service).unwrap();
    let pool = json!({"apiVersion": "sluicegate.dev/v1alpha1", "kind": "AddressPool", "metadata": {"name": "broken"},
        "spec": "all"});
    cluster.server.plant(pool).unwrap();
    balancer(&cluster, "new", None);
    let gateway = gateway(&cluster, &[]);
    within(Duration::from_secs(30), "an address", || !address(&cluster, "new").is_empty());
    assert_eq!((&*address(&cluster, "broken"), &*address(&cluster, "new")), ("192.0.2.1", "192.0.2.2"));
    let page = gateway.admin("/metrics");
    assert!(page.contains("sluicegate_kubernetes_undecoded{resource=\"Services\"} 1"), "{page}");
    within(Duration::from_secs(30), "an Event", || {
        cluster.events().iter().any(|event| {
            let note = event["note"].as_str().unwrap_or_default();
            event["regarding"]["name"] == "broken" && note.contains("no pool gives 192.0.2.1 to another")
        })
    });
}

#[test]
fn no_address_of_a_node_or_its_pods_is_given_where_nodes_may_be_read_and_others_go_on_where_not() {
    // The server does not know ServiceCIDRs, as older ones do not.
    for (may_read, wanted) in [(true, "192.0.2.8"), (false, "192.0.2.1")] {
        let cluster = with_pool();
        let node = json!({"metadata": {"name": "n1"}, "spec": {"podCIDR": "192.0.2.0/29", "podCIDRs": ["192.0.2.0/29"]}});
        cluster.create("/api/v1/nodes", node);
        if !may_read {
            let denied = Fault::new(Effect::Status { code: 403, retry_after: None });
            cluster.server.fail(denied.resources(&["nodes"]).users(&["one"]));
        }
        balancer(&cluster, "new", None);
        let gateway = gateway(&cluster, &[]);
        within(Duration::from_secs(30), "an address", || !address(&cluster, "new").is_empty());
        assert_eq!(address(&cluster, "new"), wanted);
        let page = gateway.admin("/debug/table");
        assert_eq!(page.contains("192.0.2.0/29 is the cluster's own, of Node n1"), may_read, "{page}");
    }
}
