//! The binary, an Ingress whose annotations say how endpoints are spoken to, and Secrets.

use std::path::Path;

use crate::certificates::{Authority, Leaf, Wanted};
use crate::common::Gateway;
use crate::server::Server;
use crate::tls::server;

fn secret(leaf: &Leaf, name: &str) -> String {
    let text = |pem: String| pem.replace('\n', "\n    ");
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: shop}}\ntype: kubernetes.io/tls\n\
         stringData:\n  tls.crt: |\n    {}\n  tls.key: |\n    {}\n",
        text(leaf.chain_pem()),
        text(leaf.key_pem())
    )
}

fn ingress(endpoint: &Server, annotations: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: web
  namespace: shop
  annotations: {{{annotations}}}
spec:
  rules: [{{host: a, http: {{paths: [{{path: /, pathType: Prefix, backend: {{service: {{name: web, port: {{number: 80}}}}}}}}]}}}}]
---
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: shop}}
spec: {{ports: [{{port: 80, targetPort: {port}}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: web-1, namespace: shop, labels: {{kubernetes.io/service-name: web}}}}
addressType: IPv4
ports: [{{port: {port}}}]
endpoints: [{{addresses: [127.0.0.1]}}]
",
        port = endpoint.address.port()
    )
}

fn start(folder: &Path, documents: &[String]) -> Gateway {
    std::fs::write(folder.join("all.yaml"), documents.join("---\n")).unwrap();
    Gateway::start(folder, &[])
}

#[test]
fn grpcs_with_an_authority_and_a_client_certificate() {
    let authority = Authority::new("Inside");
    let endpoint = Server::echo_over(server(&authority.issue(&["web.shop.svc"]), Some(&authority), &["h2"]));
    let annotations = "sluicegate.dev/backend-protocol: GRPCS, sluicegate.dev/backend-tls-ca: secret/ca, \
        sluicegate.dev/backend-tls-secret: me";
    let folder = tempfile::tempdir().unwrap();
    let me = authority.issue_as(&Wanted::of(&["first-client"]).client());
    let documents = [ingress(&endpoint, annotations), authority.secret("shop", "ca"), secret(&me, "me")];
    let gateway = start(folder.path(), &documents);
    let answer = gateway.get("a", "/x");
    assert_eq!((answer.status, answer.body.as_str()), (200, "GET /x 0 first-client"));
}

#[test]
fn an_endpoint_of_a_foreign_authority_is_told_in_the_log() {
    let endpoint =
        Server::echo_over(server(&Authority::new("Outside").issue(&["web.shop.svc"]), None, &["h2"]));
    let annotations = "sluicegate.dev/backend-protocol: GRPCS, sluicegate.dev/backend-tls-ca: secret/ca";
    let folder = tempfile::tempdir().unwrap();
    let documents = [ingress(&endpoint, annotations), Authority::new("Inside").secret("shop", "ca")];
    let gateway = start(folder.path(), &documents);
    assert_eq!(gateway.get("a", "/").status, 503);
    let line = gateway.wait_for_log("TLS handshake with an endpoint has failed");
    assert!(line.contains("UnknownIssuer"), "{line}");
    assert!(!gateway.admin("/metrics").contains("sluicegate_upstream_tls_failures_total 0"));
}
