//! Ingress v1 rules, from manifest text to the route that a request takes.

use std::sync::Arc;

use config::compile::{Compiler, Settings};
use config::index::{Change, Event, Index};
use config::report::Report;
use config::table::{Action, RequestParts, RouteTable, Split};

struct Get;

impl RequestParts for Get {
    fn method(&self) -> &[u8] {
        b"GET"
    }
    fn query(&self) -> Option<&[u8]> {
        None
    }
    fn any_header(&self, _: &str, _: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        false
    }
}

fn compile(text: &str) -> (Arc<RouteTable>, Arc<Report>) {
    let decoded = config::resource::decode(&"test.yaml".into(), text.as_bytes());
    let mut index = Index::new();
    let mut change = Change::default();
    for object in decoded.objects {
        change.merge(index.apply(Event::Apply(object)));
    }
    change.merge(index.apply(Event::Problems { source: "test.yaml".into(), problems: decoded.problems }));
    Compiler::new(Settings::default()).compile(&index, &change)
}

/// Backend's name, or the reason code, or `404`.
fn route(table: &RouteTable, host: &str, path: &str) -> String {
    let Some(rule) = table.binds[0].hosts.route(host, path, &Get) else { return "404".to_owned() };
    match &rule.action {
        Action::Forward(Split::One(id)) => table.backends.at(id.0).unwrap().name.to_string(),
        other => format!("{other:?}"),
    }
}

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
    assert_eq!(route(&table, "shop.example.com", "/"), "shop/web:80");
    assert_eq!(route(&table, "shop.example.com", "/api/x"), "shop/api:8080");
    assert_eq!(route(&table, "shop.example.com", "/api"), "shop/web:80");
    assert_eq!(route(&table, "shop.example.com", "/apix"), "shop/web:80");
    assert_eq!(route(&table, "shop.example.com", "/gone"), "Unavailable(BackendNotFound)");
    assert_eq!(route(&table, "other.example.com", "/"), "404");
    let api = table.backends.iter().find(|(_, backend)| &*backend.name == "shop/api:8080").unwrap().1;
    let addresses: Vec<_> = api.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect();
    assert_eq!(addresses, ["10.0.0.1:3000", "10.0.0.3:3001"]);
    let told: Vec<_> = report.problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "test.yaml:15: Ingress shop/web: spec.rules[0].http.paths[3].backend.service.name: there is no Service \
             `gone` in namespace `shop`, so this answers 503 (BackendNotFound)",
            "test.yaml:17: Service shop/web: there is no EndpointSlice of this Service, so requests are answered \
             503; add one with the label `kubernetes.io/service-name: web` (NoEndpointSlice)",
        ]
    );
}
