//! Services of type LoadBalancer: who gives them addresses, where that stands, and that it is what is served.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde_json::{Value, json};

use crate::cluster::{Cluster, backend};
use crate::common::{Backend, Gateway, eventually, free_address, try_get};
use crate::objects::slice;

const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";

/// A cluster with a backend, and with addresses of loopback that nobody else has.
struct Rig {
    cluster: Cluster,
    backend: Backend,
    port: u16,
    net: [u8; 2],
}

impl Rig {
    fn new() -> Self {
        let cluster = Cluster::new();
        cluster.know_pools();
        let net = [fastrand::u8(16..=250), fastrand::u8(..)];
        Self { backend: backend("one"), port: free_address().port(), net, cluster }
    }

    fn gateway(&self, more: &[&str]) -> Gateway {
        // Backends of tests keep their side of a connection open.
        let own = [
            "--service-types",
            "load-balancer",
            "--default-load-balancer",
            "--load-balancer-addresses",
            "127.0.0.0/8",
            "--http",
            "none",
            "--drain-timeout",
            "1s",
        ];
        self.cluster.gateway(&[&own[..], &["--watch-namespace", &self.cluster.namespace], more].concat())
    }

    fn ip(&self, last: u8) -> String {
        IpAddr::from(Ipv4Addr::new(127, self.net[0], self.net[1], last)).to_string()
    }

    /// A pool of the addresses from the first to the last, for this namespace.
    fn pool(&self, name: &str, first: u8, last: u8) -> Value {
        json!({"apiVersion": "sluicegate.dev/v1alpha1", "kind": "AddressPool",
            "metadata": {"name": format!("{}-{name}", self.cluster.namespace)}, "spec": self.range(first, last)})
    }

    fn range(&self, first: u8, last: u8) -> Value {
        json!({"addresses": [format!("{}-{}", self.ip(first), self.ip(last))],
            "serviceAllocation": {"namespaces": [self.cluster.namespace]}})
    }

    /// A Service of type LoadBalancer with an endpoint.
    fn balancer(&self, name: &str, more: &Value) -> Value {
        let mut service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec":
            {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false,
            "ports": [{"name": "http", "port": self.port, "protocol": "TCP"}]}});
        for (field, value) in more.as_object().into_iter().flatten() {
            service["spec"][field] = value.clone();
        }
        self.cluster.apply(&service);
        self.cluster.apply(&slice(name, &[self.backend.address]));
        service
    }

    fn has_address(&self, service: &Value, last: u8) -> Value {
        let expected = json!([{"ip": self.ip(last), "ipMode": "Proxy"}]);
        self.cluster
            .eventually("the address", service, |now| now["status"]["loadBalancer"]["ingress"] == expected)
    }

    fn is_served(&self, last: u8) -> bool {
        let address = SocketAddr::new(self.ip(last).parse().unwrap(), self.port);
        try_get(address, "any", "/").is_ok_and(|response| response.status == 200)
    }
}

impl Drop for Rig {
    /// Takes the finalizers away, for whoever would is gone.
    fn drop(&mut self) {
        for service in self.cluster.list(&json!({"apiVersion": "v1", "kind": "Service"})) {
            let object = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": service["metadata"]["name"]}});
            self.cluster.merge(&object, &json!({"metadata": {"finalizers": null}}));
        }
    }
}

fn condition(now: &Value) -> String {
    let conditions = now["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let ours = conditions.iter().find(|one| one["type"] == "sluicegate.dev/AddressAssigned");
    ours.map_or_else(String::new, |one| {
        format!("{} {}", one["status"].as_str().unwrap(), one["reason"].as_str().unwrap())
    })
}

fn has_finalizer(now: &Value) -> bool {
    now["metadata"]["finalizers"].as_array().is_some_and(|all| all.contains(&json!(FINALIZER)))
}

#[test]
fn address_of_a_pool_is_recorded_and_served_until_the_service_is_of_another_type() {
    let rig = Rig::new();
    rig.cluster.apply(&rig.pool("a", 1, 9));
    let service = rig.balancer("web", &json!({}));
    let _gateway = rig.gateway(&[]);
    let now = rig.has_address(&service, 1);
    assert_eq!(condition(&now), "True Assigned");
    assert!(has_finalizer(&now), "{now}");
    eventually("traffic", || rig.is_served(1));
    let mut plain = service.clone();
    plain["spec"] = json!({"type": "ClusterIP", "ports": service["spec"]["ports"]});
    rig.cluster.apply(&plain);
    let now = rig.cluster.eventually("its release", &service, |now| {
        now["status"]["loadBalancer"]["ingress"].is_null() && !has_finalizer(now)
    });
    assert_eq!(condition(&now), "");
    eventually("no traffic", || !rig.is_served(1));
    // Whoever comes next may have the address, and a Service that is deleted goes.
    let next = rig.balancer("next", &json!({}));
    rig.has_address(&next, 1);
    rig.cluster.delete(&next);
    eventually("the end of the Service", || rig.cluster.get(&next).is_none());
    eventually("no traffic", || !rig.is_served(1));
}

#[test]
fn restart_keeps_addresses_and_a_follower_serves_what_the_leader_gave() {
    let rig = Rig::new();
    rig.cluster.apply(&rig.pool("a", 1, 9));
    let web = rig.balancer("web", &json!({"loadBalancerIP": rig.ip(5)}));
    let mut leader = rig.gateway(&[]);
    rig.has_address(&web, 5);
    eventually("traffic", || rig.is_served(5));
    leader.signal("TERM");
    leader.wait_for_exit();
    // It does not ask for it any more; and an older name comes, which would be first in line.
    let mut relaxed = web.clone();
    relaxed["spec"].as_object_mut().unwrap().remove("loadBalancerIP");
    rig.cluster.apply(&relaxed);
    let other = rig.balancer("aaa", &json!({}));
    let mut second = rig.gateway(&[]);
    rig.has_address(&other, 1);
    rig.has_address(&web, 5);
    second.signal("KILL");
    second.wait_for_exit();
    // One that only follows.
    let _follower = rig.gateway(&["--update-status=false"]);
    assert!(rig.is_served(5) && rig.is_served(1));
    let third = rig.balancer("third", &json!({}));
    rig.cluster.write_status(&third, &json!({"loadBalancer": {"ingress": [{"ip": rig.ip(7)}]}}));
    eventually("what another leader gave", || rig.is_served(7));
}

#[test]
fn started_again_without_load_balancers_it_takes_back_what_it_wrote_and_the_finalizer() {
    let rig = Rig::new();
    rig.cluster.apply(&rig.pool("a", 1, 9));
    let web = rig.balancer("web", &json!({}));
    let mut first = rig.gateway(&[]);
    rig.has_address(&web, 1);
    first.signal("TERM");
    first.wait_for_exit();
    let _second = rig.cluster.gateway(&["--watch-namespace", &rig.cluster.namespace]);
    rig.cluster.eventually("its release", &web, |now| {
        now["status"]["loadBalancer"]["ingress"].is_null() && !has_finalizer(now)
    });
}

#[test]
fn condition_says_why_there_is_no_address() {
    let rig = Rig::new();
    rig.cluster.apply(&rig.pool("a", 1, 1));
    let first = rig.balancer("first", &json!({}));
    let _gateway = rig.gateway(&[]);
    rig.has_address(&first, 1);
    let second = rig.balancer("second", &json!({}));
    rig.cluster.eventually("the condition", &second, |now| condition(now) == "False PoolExhausted");
    let greedy = rig.balancer("greedy", &json!({"loadBalancerIP": "203.0.113.1"}));
    rig.cluster.eventually("the condition", &greedy, |now| condition(now) == "False AddressNotInPool");
    // The pool grows.
    rig.cluster.apply(&rig.pool("a", 1, 2));
    let now = rig.has_address(&second, 2);
    assert_eq!(condition(&now), "True Assigned");
}

#[test]
fn pool_of_metallb_is_used_as_it_is_and_services_of_others_are_not_touched() {
    let rig = Rig::new();
    rig.cluster.apply(
        &json!({"apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool", "metadata": {"name": "old"},
        "spec": rig.range(1, 9)}),
    );
    let theirs = rig.balancer("theirs", &json!({"loadBalancerClass": "example.com/other"}));
    rig.cluster.write_status(&theirs, &json!({"loadBalancer": {"ingress": [{"ip": rig.ip(1)}]}}));
    let before = rig.cluster.get(&theirs).unwrap();
    // MetalLB's own status of a Service that is ours from now on.
    let ours = rig.balancer("ours", &json!({}));
    rig.cluster.write_status(&ours, &json!({"loadBalancer": {"ingress": [{"ip": rig.ip(7)}]}}));
    let _gateway = rig.gateway(&["--metallb-pools"]);
    rig.has_address(&ours, 7);
    eventually("traffic", || rig.is_served(7));
    assert_eq!(
        rig.cluster.get(&theirs).unwrap()["metadata"]["resourceVersion"],
        before["metadata"]["resourceVersion"]
    );
    assert!(!rig.is_served(1));
}

#[test]
fn what_a_status_claims_outside_of_the_pools_is_not_believed() {
    let rig = Rig::new();
    rig.cluster.apply(&rig.pool("a", 1, 9));
    let service = rig.balancer("web", &json!({}));
    rig.cluster.write_status(&service, &json!({"loadBalancer": {"ingress": [{"ip": rig.ip(200)}]}}));
    let _gateway = rig.gateway(&[]);
    rig.has_address(&service, 1);
    eventually("traffic", || rig.is_served(1));
    assert!(!rig.is_served(200));
}
