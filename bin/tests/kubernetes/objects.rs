//! Manifests of the tests, as JSON.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::common::Backend;

/// A Service without selector: its slices are the test's.
pub fn service(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}})
}

/// A slice with one ready endpoint for each of `addresses`, which have one port.
pub fn slice(service: &str, addresses: &[SocketAddr]) -> Value {
    let endpoints = addresses.iter().map(|address| endpoint(*address, json!({"ready": true})));
    slice_of(service, "1", addresses.first().map_or(80, SocketAddr::port), endpoints.collect())
}

/// An entry of `endpoints`.
pub fn endpoint(address: SocketAddr, conditions: Value) -> Value {
    json!({"addresses": [address.ip().to_string()], "conditions": conditions})
}

/// A slice of `endpoints`.
pub fn slice_of(service: &str, suffix: &str, port: u16, endpoints: Vec<Value>) -> Value {
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": format!("{service}-{suffix}"), "labels": {"kubernetes.io/service-name": service,
            "endpointslice.kubernetes.io/managed-by": "e2e.sluicegate.dev"}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
        "endpoints": endpoints})
}

/// An Ingress of the cluster's class that sends all of `host` to a Service.
pub fn ingress(cluster: &Cluster, name: &str, host: &str, service: &str) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": name},
        "spec": {"ingressClassName": cluster.namespace,
            "rules": [{"host": host, "http": {"paths": [{"path": "/", "pathType": "Prefix",
                "backend": {"service": {"name": service, "port": {"number": 80}}}}]}}]}})
}

/// Ingress, Service and slice of one site; returns the Ingress.
pub fn site(cluster: &Cluster, name: &str, host: &str, backend: &Backend) -> Value {
    cluster.apply(&service(name));
    cluster.apply(&slice(name, &[backend.address]));
    let ingress = ingress(cluster, name, host, name);
    cluster.apply(&ingress);
    ingress
}
