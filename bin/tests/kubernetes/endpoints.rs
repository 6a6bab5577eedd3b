//! Which endpoints of a Service take traffic.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde_json::json;

use crate::cluster::{Cluster, backend};
use crate::common::{Gateway, eventually, free_address, host_ip};
use crate::objects::{endpoint, ingress, service, site, slice, slice_of};

fn answers(gateway: &Gateway, host: &str) -> BTreeSet<String> {
    (0..12).map(|_| gateway.get(host, "/").body.trim().to_owned()).collect()
}

fn wait_for_answers(gateway: &Gateway, host: &str, wanted: &[&str]) {
    let wanted: BTreeSet<String> = wanted.iter().map(|name| format!("hello from {name}")).collect();
    eventually(&format!("answers of {wanted:?}"), || answers(gateway, host) == wanted);
}

#[test]
fn endpoints_of_all_slices_take_traffic_and_removed_ones_none() {
    let cluster = Cluster::new();
    let (one, two) = (backend("one"), backend("two"));
    site(&cluster, "a", "a.example", &one);
    let gateway = cluster.gateway(&[]);
    wait_for_answers(&gateway, "a.example", &["one"]);
    let second = slice_of("a", "2", two.address.port(), vec![endpoint(two.address, json!({"ready": true}))]);
    cluster.apply(&second);
    wait_for_answers(&gateway, "a.example", &["one", "two"]);
    cluster.delete(&slice("a", &[one.address]));
    wait_for_answers(&gateway, "a.example", &["two"]);
}

#[test]
fn endpoint_that_is_not_ready_takes_none_and_a_terminating_one_the_rest() {
    let cluster = Cluster::new();
    let (one, two) = (backend("one"), backend("two"));
    site(&cluster, "a", "a.example", &one);
    let set = |ready: bool, serving: bool, terminating: bool| {
        let conditions = json!({"ready": ready, "serving": serving, "terminating": terminating});
        cluster.apply(&slice_of("a", "2", two.address.port(), vec![endpoint(two.address, conditions)]));
    };
    set(true, true, false);
    let gateway = cluster.gateway(&[]);
    wait_for_answers(&gateway, "a.example", &["one", "two"]);
    set(false, false, false);
    wait_for_answers(&gateway, "a.example", &["one"]);
    // Only terminating ones are left: they serve rather than nobody.
    set(false, true, true);
    cluster.delete(&slice("a", &[one.address]));
    wait_for_answers(&gateway, "a.example", &["two"]);
    set(false, false, true);
    gateway.wait_for_status("a.example", "/", 503);
}

#[test]
fn service_may_want_endpoints_that_are_not_ready() {
    let cluster = Cluster::new();
    let one = backend("one");
    let mut object = service("a");
    object["spec"]["publishNotReadyAddresses"] = json!(true);
    cluster.apply(&object);
    let endpoints = vec![endpoint(one.address, json!({"ready": true, "serving": false}))];
    cluster.apply(&slice_of("a", "1", one.address.port(), endpoints));
    cluster.apply(&ingress(&cluster, "a", "a.example", "a"));
    let gateway = cluster.gateway(&[]);
    gateway.wait_for_body("a.example", "/", "hello from one");
}

#[test]
fn headless_service_is_served_by_the_ports_of_its_slices() {
    let cluster = Cluster::new();
    let one = backend("one");
    let mut object = service("a");
    object["spec"]["clusterIP"] = json!("None");
    cluster.apply(&object);
    cluster.apply(&slice("a", &[one.address]));
    cluster.apply(&ingress(&cluster, "a", "a.example", "a"));
    let gateway = cluster.gateway(&[]);
    gateway.wait_for_body("a.example", "/", "hello from one");
}

/// Ports of Services are opened while the gateway runs; what leads there is refused from then on.
#[test]
fn endpoints_that_become_addresses_of_the_gateway_are_left_out() {
    let cluster = Cluster::new();
    let one = backend("one");
    let at = SocketAddr::new(host_ip(), free_address().port());
    let allowed = format!("{}/32", at.ip());
    let gateway = cluster.gateway(&[
        "--service-types",
        "load-balancer",
        "--default-load-balancer",
        "--load-balancer-addresses",
        &allowed,
    ]);
    site(&cluster, "good", "good.example", &one);
    cluster.apply(&service("loop"));
    cluster.apply(&slice_of("loop", "1", at.port(), vec![endpoint(at, json!({"ready": true}))]));
    cluster.apply(&ingress(&cluster, "loop", "loop.example", "loop"));
    wait_for_answers(&gateway, "good.example", &["one"]);
    assert!(crate::events::reasons(&cluster, "loop").is_empty());
    let mut door = service("door");
    door["spec"]["type"] = json!("LoadBalancer");
    door["spec"]["loadBalancerIP"] = json!(at.ip());
    door["spec"]["ports"][0]["port"] = json!(at.port());
    cluster.apply(&door);
    cluster.apply(&slice("door", &[one.address]));
    eventually("it is told at the Service", || {
        crate::events::reasons(&cluster, "loop") == ["RefusedAddress"]
    });
    gateway.wait_for_status("loop.example", "/", 503);
    cluster.delete(&door);
    eventually("its addresses are given back", || cluster.get(&door).is_none());
}

#[test]
fn external_name_never_leads_to_the_gateway_itself() {
    let cluster = Cluster::new();
    let external = |name: &str, target: &str| {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"type": "ExternalName", "externalName": target, "ports": [{"name": "http", "port": 80}]}})
    };
    for (name, target) in [("self", "localhost"), ("metadata", "169.254.169.254")] {
        cluster.apply(&external(name, target));
        cluster.apply(&ingress(&cluster, name, &format!("{name}.example"), name));
    }
    let gateway = cluster.gateway(&[]);
    gateway.wait_for_status("self.example", "/", 503);
    gateway.wait_for_status("metadata.example", "/", 503);
}

#[test]
fn endpoints_of_a_tenant_lead_neither_to_the_gateway_itself_nor_to_metadata() {
    let cluster = Cluster::new();
    let one = backend("one");
    // Its ports are known once it runs.
    let gateway = cluster.gateway(&["--http", "0.0.0.0:0", "--admin", "0.0.0.0:0"]);
    let [admin, http] = [gateway.admin.port(), gateway.http.port()];
    let at = |address: SocketAddr| endpoint(address, json!({"ready": true}));
    site(&cluster, "good", "good.example", &one);
    let doors: [(&str, SocketAddr); 3] = [
        ("admin", (host_ip(), admin).into()),
        ("loop", (host_ip(), http).into()),
        ("metadata", ([100, 100, 100, 200], 80).into()),
    ];
    for (name, address) in doors {
        let host = format!("{name}.example");
        cluster.apply(&service(name));
        let slice = slice_of(name, "1", address.port(), vec![at(address)]);
        cluster.apply(&slice);
        cluster.apply(&ingress(&cluster, name, &host, name));
        gateway.wait_for_status(&host, "/metrics", 503);
        eventually("it is told at the Service", || {
            crate::events::reasons(&cluster, name) == ["RefusedAddress"]
        });
        // What is refused costs nothing but itself.
        cluster.apply(&slice_of(name, "2", one.address.port(), vec![at(one.address)]));
        wait_for_answers(&gateway, &host, &["one"]);
    }
    // The same host is fine where nobody of ours listens: Pods of the host's network have its address.
    wait_for_answers(&gateway, "good.example", &["one"]);
}
