//! The manifests of the demo, as a user would write them.

use std::net::SocketAddr;

/// The host that the demo's Ingress is for.
pub(super) const HOST: &str = "demo.example.com";
/// The path that all backends serve.
pub(super) const PATH: &str = "/hello";
/// The path that the live edit adds.
pub(super) const NEW_PATH: &str = "/new";

/// The manifest that the demo starts with.
pub(super) fn first(backends: &[SocketAddr]) -> String {
    let mut text = ingress(&[(PATH, "hello")]);
    text += &service("hello", backends);
    text
}

/// The manifest after the edit: one more path, served by the last backend only.
pub(super) fn edited(backends: &[SocketAddr]) -> String {
    let mut text = ingress(&[(PATH, "hello"), (NEW_PATH, "new")]);
    text += &service("hello", backends);
    text += &service("new", backends.last().map(std::slice::from_ref).unwrap_or_default());
    text
}

fn ingress(paths: &[(&str, &str)]) -> String {
    let mut text = format!(
        "apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: demo
  namespace: demo
  annotations:
    sluicegate.dev/load-balance: round-robin
    sluicegate.dev/health-check: /
    sluicegate.dev/health-check-interval: 500ms
spec:
  rules:
  - host: {HOST}
    http:
      paths:
"
    );
    for (path, service) in paths {
        text += &format!(
            "      - path: {path}
        pathType: Prefix
        backend:
          service:
            name: {service}
            port:
              number: 80
"
        );
    }
    text
}

fn service(name: &str, endpoints: &[SocketAddr]) -> String {
    let mut text = format!(
        "---
apiVersion: v1
kind: Service
metadata:
  name: {name}
  namespace: demo
spec:
  ports:
  - name: http
    port: 80
"
    );
    // Each endpoint has a port of its own here, so each needs a slice of its own.
    for (index, endpoint) in endpoints.iter().enumerate() {
        text += &format!(
            "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {name}-{index}
  namespace: demo
  labels:
    kubernetes.io/service-name: {name}
addressType: IPv4
ports:
- name: http
  port: {}
endpoints:
- addresses: [{}]
",
            endpoint.port(),
            endpoint.ip()
        );
    }
    text
}
