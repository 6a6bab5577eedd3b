//! Objects by number.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};

/// Namespace of everything.
pub const NAMESPACE: &str = "bench";
/// The IngressClass, and its controller.
pub const CLASS: &str = "bench";
/// `spec.controller` of [`CLASS`].
pub const CONTROLLER: &str = "bench.sluicegate.dev/controller";

/// `loadBalancerClass` of Services that are for us.
pub const BALANCER: &str = "sluicegate.dev/load-balancer";

/// Namespace and class.
#[must_use]
pub fn ground() -> [Value; 2] {
    [
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}),
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {"name": CLASS},
            "spec": {"controller": CONTROLLER}}),
    ]
}

/// A Service without selector.
#[must_use]
pub fn service(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": NAMESPACE,
            "labels": {"app.kubernetes.io/name": name, "app.kubernetes.io/managed-by": "bench"}},
        "spec": {"ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}]}})
}

/// Slice `number` of a Service with `endpoints` made-up endpoints of which `turn` names the last.
#[must_use]
pub fn made_up_slice(service: &str, number: u32, endpoints: u32, turn: u32) -> Value {
    let endpoint = |index: u32| {
        // 10.0.0.0/8 by Service and index; nothing is ever sent there.
        let last = if index + 1 == endpoints { turn % 100 + 100 } else { index };
        let [_, a, b, c] = (number * 256 + last).to_be_bytes();
        json!({"addresses": [format!("10.{a}.{b}.{c}")], "nodeName": "node-1", "zone": "zone-1",
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "targetRef": {"kind": "Pod", "namespace": NAMESPACE, "name": format!("{service}-{last}"),
                "uid": format!("{number:08x}-0000-4000-8000-{last:012x}")}})
    };
    slice_of(service, "1", 8080, (0..endpoints).map(endpoint).collect())
}

/// A slice with the one endpoint `address`.
#[must_use]
pub fn slice(service: &str, suffix: &str, address: SocketAddr) -> Value {
    let conditions = json!({"ready": true, "serving": true, "terminating": false});
    slice_with(service, suffix, address, &conditions)
}

/// A slice with the one endpoint `address` in these `conditions`.
#[must_use]
pub fn slice_with(service: &str, suffix: &str, address: SocketAddr, conditions: &Value) -> Value {
    let endpoint = json!({"addresses": [address.ip().to_string()], "conditions": conditions});
    slice_of(service, suffix, address.port(), vec![endpoint])
}

fn slice_of(service: &str, suffix: &str, port: u16, endpoints: Vec<Value>) -> Value {
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": format!("{service}-{suffix}"), "namespace": NAMESPACE,
            "labels": {"kubernetes.io/service-name": service, "endpointslice.kubernetes.io/managed-by": "bench"}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
        "endpoints": endpoints})
}

/// An Ingress of [`CLASS`] that sends all of `host` to a Service.
#[must_use]
pub fn ingress(name: &str, host: &str, service: &str) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"ingressClassName": CLASS, "rules": [{"host": host, "http": {"paths": [
            {"path": "/", "pathType": "Prefix",
                "backend": {"service": {"name": service, "port": {"number": 80}}}}]}}]}})
}

/// The objects of site `number`: Service, slice of made-up endpoints, Ingress for `NUMBER.example`.
#[must_use]
pub fn site(number: u32, endpoints: u32) -> [Value; 3] {
    let name = format!("site-{number}");
    [
        service(&name),
        made_up_slice(&name, number, endpoints, 0),
        ingress(&name, &format!("{number}.example"), &name),
    ]
}

/// A Service of type LoadBalancer that asks for `address`, or for any, with the ports `(name, port)`, and without ports of
/// the node, of which there are not enough.
#[must_use]
pub fn load_balancer(name: &str, address: Option<IpAddr>, ports: &[(&str, u16)]) -> Value {
    let port = |(name, port)| json!({"name": name, "port": port, "protocol": "TCP", "targetPort": name});
    let ports: Vec<Value> = ports.iter().copied().map(port).collect();
    let mut service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"type": "LoadBalancer", "loadBalancerClass": BALANCER, "allocateLoadBalancerNodePorts": false,
            "ports": ports}});
    if let (Some(address), Some(Value::Object(spec))) = (address, service.get_mut("spec")) {
        spec.insert("loadBalancerIP".to_owned(), json!(address));
    }
    service
}

/// A pool of these addresses, for Services that ask for one of them only, or for all.
#[must_use]
pub fn pool(name: &str, addresses: &str, is_for_all: bool) -> Value {
    json!({"apiVersion": "sluicegate.dev/v1alpha1", "kind": "AddressPool", "metadata": {"name": name},
        "spec": {"addresses": [addresses], "autoAssign": is_for_all}})
}

/// A slice of one endpoint with the ports `(name, port)`.
#[must_use]
pub fn slice_of_ports(service: &str, suffix: &str, address: IpAddr, ports: &[(&str, u16)]) -> Value {
    let conditions = json!({"ready": true, "serving": true, "terminating": false});
    let mut slice = slice_with(service, suffix, SocketAddr::new(address, 0), &conditions);
    let ports = ports.iter().map(|(name, port)| json!({"name": name, "port": port, "protocol": "TCP"}));
    if let Some(all) = slice.get_mut("ports") {
        *all = ports.collect();
    }
    slice
}
