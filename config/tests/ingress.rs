//! Ingress v1 rules, from manifest text to the route that a request takes.

mod common;

use common::{compile, get, problems, route};

const SHOP: &str = r#"
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: web
  namespace: shop
spec:
  rules:
    - host: shop.example.com
      http:
        paths:
          - {path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}
          - {path: /api, pathType: Prefix, backend: {service: {name: api, port: {name: http}}}}
          - {path: /api, pathType: Exact, backend: {service: {name: web, port: {number: 80}}}}
          - {path: /gone, pathType: Prefix, backend: {service: {name: gone, port: {number: 80}}}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: api, namespace: shop}
spec: {ports: [{port: 8080, name: http, targetPort: web}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: api-1, namespace: shop, labels: {kubernetes.io/service-name: api}}
addressType: IPv4
ports: [{name: http, port: 3000}]
endpoints:
  - {addresses: [10.0.0.1]}
  - {addresses: [10.0.0.2], conditions: {ready: false}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: api-2, namespace: shop, labels: {kubernetes.io/service-name: api}}
addressType: IPv4
ports: [{name: http, port: 3001}]
endpoints:
  - {addresses: [10.0.0.3], conditions: {ready: true}, targetRef: {kind: Pod, name: api-3, uid: u3}}
"#;

#[test]
fn an_ingress_routes_by_host_and_path_to_the_endpoints_of_its_services() {
    let (table, report) = compile(SHOP);
    assert_eq!(route(&table, &get("shop.example.com", "/")), "shop/web:80");
    assert_eq!(route(&table, &get("shop.example.com", "/api/x")), "shop/api:8080");
    assert_eq!(route(&table, &get("shop.example.com", "/api")), "shop/web:80");
    assert_eq!(route(&table, &get("shop.example.com", "/apix")), "shop/web:80");
    assert_eq!(route(&table, &get("shop.example.com", "/gone")), "unavailable BackendNotFound");
    assert_eq!(route(&table, &get("other.example.com", "/")), "404");
    let api = table.backends.iter().find(|(_, backend)| &*backend.name == "shop/api:8080").unwrap().1;
    let addresses: Vec<_> = api.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect();
    assert_eq!(addresses, ["10.0.0.1:3000", "10.0.0.3:3001"]);
    let told = problems(&report);
    assert_eq!(
        told,
        [
            "Error test.yaml:15: Ingress shop/web: spec.rules[0].http.paths[3].backend.service.name: there is no Service \
             `gone` in namespace `shop`, so this answers 503 (BackendNotFound)",
            "Warning test.yaml:17: Service shop/web: there is no EndpointSlice of this Service, so requests are answered \
             503; add one with the label `kubernetes.io/service-name: web` (NoEndpointSlice)",
        ]
    );
}
