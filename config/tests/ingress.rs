//! Ingress v1 rules, from manifest text to the route that a request takes.

#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a failure is a failed test")]

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

/// One Ingress with these `host path type service` rules; every Service exists.
fn with_rules(rules: &[(&str, &str, &str, &str)]) -> String {
    let rule = |(host, path, kind, service): &(&str, &str, &str, &str)| {
        format!(
            "{{host: \"{host}\", http: {{paths: [{{path: \"{path}\", pathType: {kind}, backend: {{service: {{name: {service}, \
             port: {{number: 80}}}}}}}}]}}}}"
        )
    };
    let list: Vec<_> = rules.iter().map(rule).collect();
    let mut text = format!(
        "{{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {{name: i}}, spec: {{rules: [{}]}}}}\n",
        list.join(", ")
    );
    for (_, _, _, service) in rules {
        text.push_str(&format!(
            "---\n{{apiVersion: v1, kind: Service, metadata: {{name: {service}}}, spec: {{ports: [{{port: 80}}]}}}}\n"
        ));
    }
    text
}

/// Which Service takes each `host path`.
fn takers(rules: &[(&str, &str, &str, &str)], requests: &[(&str, &str)]) -> Vec<String> {
    let (table, _) = compile(&with_rules(rules));
    let name = |text: String| {
        let service = text.strip_prefix("default/").and_then(|text| text.strip_suffix(":80"));
        service.map_or_else(|| text.clone(), str::to_owned)
    };
    requests.iter().map(|(host, path)| name(route(&table, &get(host, path)))).collect()
}

#[test]
fn exact_is_the_whole_path_and_knows_case_and_slash() {
    let rules = [("a.test", "/foo", "Exact", "foo")];
    let requests = [
        ("a.test", "/foo"),
        ("a.test", "/foo/"),
        ("a.test", "/Foo"),
        ("a.test", "/foo/bar"),
        ("a.test", "/"),
    ];
    assert_eq!(takers(&rules, &requests), ["foo", "404", "404", "404", "404"]);
}

#[test]
fn prefix_matches_whole_elements_and_ignores_its_own_trailing_slash() {
    for path in ["/aaa/bbb", "/aaa/bbb/"] {
        let rules = [("a.test", path, "Prefix", "b")];
        let requests = [
            ("a.test", "/aaa/bbb"),
            ("a.test", "/aaa/bbb/"),
            ("a.test", "/aaa/bbb/ccc"),
            ("a.test", "/aaa/bbbxyz"),
            ("a.test", "/aaa"),
        ];
        assert_eq!(takers(&rules, &requests), ["b", "b", "b", "404", "404"]);
    }
}

#[test]
fn the_longest_prefix_wins_and_exact_beats_prefix() {
    let rules = [
        ("a.test", "/", "Prefix", "root"),
        ("a.test", "/aaa", "Prefix", "a"),
        ("a.test", "/aaa/bbb", "ImplementationSpecific", "b"),
        ("a.test", "/aaa/bbb", "Exact", "e"),
    ];
    let requests = [
        ("a.test", "/aaa/bbb"),
        ("a.test", "/aaa/bbb/x"),
        ("a.test", "/aaa/x"),
        ("a.test", "/ccc"),
        ("a.test", "/"),
    ];
    assert_eq!(takers(&rules, &requests), ["e", "b", "a", "root", "root"]);
}

#[test]
fn a_wildcard_is_exactly_one_label() {
    let rules = [("*.foo.test", "/", "Prefix", "w")];
    let requests = [("bar.foo.test", "/"), ("baz.bar.foo.test", "/"), ("foo.test", "/"), (".foo.test", "/")];
    assert_eq!(takers(&rules, &requests), ["w", "404", "404", "404"]);
}

#[test]
fn a_host_never_falls_through_to_a_less_specific_one() {
    let rules = [
        ("a.foo.test", "/only", "Prefix", "exact"),
        ("*.foo.test", "/", "Prefix", "wild"),
        ("", "/", "Prefix", "any"),
    ];
    let requests =
        [("a.foo.test", "/only"), ("a.foo.test", "/other"), ("b.foo.test", "/other"), ("x.test", "/other")];
    assert_eq!(takers(&rules, &requests), ["exact", "404", "wild", "any"]);
}

#[test]
fn a_named_port_is_another_number_in_each_slice() {
    let (table, _) = compile(SHOP);
    let api = table.backends.iter().find(|(_, backend)| &*backend.name == "shop/api:8080").unwrap().1;
    let ports: Vec<_> = api.endpoints.iter().map(|endpoint| endpoint.address.port()).collect();
    assert_eq!(ports, [3000, 3001]);
    assert_eq!(api.endpoints[1].identity.as_deref(), Some("u3"));
}

#[test]
fn a_terminating_endpoint_serves_only_when_no_ready_one_is_left() {
    let endpoints = |first: &str| {
        let text = format!(
            "{}---\n{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: s, labels: \
             {{kubernetes.io/service-name: s}}}}, addressType: IPv4, ports: [{{port: 80}}], endpoints: [\
             {{addresses: [10.0.0.1], conditions: {{{first}}}}}, \
             {{addresses: [10.0.0.2], conditions: {{ready: false, serving: true, terminating: true}}}}, \
             {{addresses: [10.0.0.3], conditions: {{ready: false, serving: false, terminating: true}}}}]}}\n",
            with_rules(&[("a.test", "/", "Prefix", "s")])
        );
        let (table, _) = compile(&text);
        let backend = table.backends.at(0).unwrap();
        backend.endpoints.iter().map(|endpoint| endpoint.address.ip().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(endpoints("ready: true"), ["10.0.0.1"]);
    assert_eq!(endpoints("ready: null"), ["10.0.0.1"]);
    assert_eq!(endpoints("ready: false"), ["10.0.0.2"]);
}

#[test]
fn without_an_ingress_class_object_a_classless_ingress_is_served() {
    let rules = [("a.test", "/", "Prefix", "s")];
    assert_eq!(takers(&rules, &[("a.test", "/")]), ["s"]);
    let class = |default: bool| {
        format!(
            "---\n{{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {{name: c, annotations: \
             {{ingressclass.kubernetes.io/is-default-class: \"{default}\"}}}}, spec: {{controller: \
             sluicegate.dev/ingress-controller}}}}\n"
        )
    };
    for (default, expected) in [(true, "default/s:80"), (false, "404")] {
        let (table, _) = compile(&format!("{}{}", with_rules(&rules), class(default)));
        assert_eq!(route(&table, &get("a.test", "/")), expected);
    }
}
