//! A change costs what it touches: everything else is the same allocation before and after.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failure is a failed test")]

mod common;

use std::sync::Arc;

use config::compile::{Compiler, Settings};
use config::index::{Change, Event, Index};
use config::report::{Kind, ObjectRef};
use config::table::Hostname;

fn ingress(name: &str, host: &str, path: &str) -> String {
    format!(
        "{{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {{name: {name}}}, spec: {{rules: [{{host: {host}, \
         http: {{paths: [{{path: {path}, pathType: Prefix, backend: {{service: {{name: web, port: {{number: 80}}}}}}}}]}}}}]}}}}"
    )
}

fn slice(address: &str) -> String {
    format!(
        "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: web, labels: \
         {{kubernetes.io/service-name: web}}}}, addressType: IPv4, ports: [{{port: 80}}], endpoints: [{{addresses: [{address}]}}]}}"
    )
}

const SERVICE: &str = "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {ports: [{port: 80}]}}";

fn filled() -> (Index, Compiler) {
    let mut index = Index::new();
    for text in [SERVICE, &slice("10.0.0.1"), &ingress("a", "a.test", "/"), &ingress("b", "b.test", "/")] {
        common::apply(&mut index, "f.yaml", text);
    }
    (index, Compiler::new(Settings::default()))
}

#[test]
fn an_endpoint_change_touches_one_backend_and_no_rule() {
    let (mut index, mut compiler) = filled();
    let (old, old_report) = compiler.compile(&index, &Change::default(), common::NOW);
    let change = common::apply(&mut index, "f.yaml", &slice("10.0.0.2"));
    let (new, new_report) = compiler.compile(&index, &change, common::NOW);
    assert!(Arc::ptr_eq(&old.binds[0], &new.binds[0]));
    assert!(Arc::ptr_eq(&old_report, &new_report));
    let (before, after) = (old.backends.at(0).unwrap(), new.backends.at(0).unwrap());
    assert!(Arc::ptr_eq(&before.policy, &after.policy));
    assert_eq!(after.endpoints[0].address.to_string(), "10.0.0.2:80");
    assert!(new.version > old.version);
}

#[test]
fn the_same_endpoints_again_change_nothing() {
    let (mut index, mut compiler) = filled();
    let (old, _) = compiler.compile(&index, &Change::default(), common::NOW);
    let change = index.apply(Event::Delete(ObjectRef {
        kind: Kind::EndpointSlice,
        namespace: "default".into(),
        name: "web".into(),
    }));
    assert!(!change.is_empty());
    let mut change = change;
    change.merge(common::apply(&mut index, "f.yaml", &slice("10.0.0.1")));
    let (new, _) = compiler.compile(&index, &change, common::NOW);
    assert!(Arc::ptr_eq(&old, &new));
    assert!(common::apply(&mut index, "f.yaml", &slice("10.0.0.1")).is_empty());
}

#[test]
fn a_route_change_touches_its_hosts_only() {
    let (mut index, mut compiler) = filled();
    let (old, _) = compiler.compile(&index, &Change::default(), common::NOW);
    let change = common::apply(&mut index, "f.yaml", &ingress("a", "a.test", "/new"));
    let (new, _) = compiler.compile(&index, &change, common::NOW);
    let rules = |table: &config::table::RouteTable, host: &str| {
        Arc::clone(table.binds[0].hosts.exactly(&Hostname::Exact(host.into())).unwrap())
    };
    assert!(Arc::ptr_eq(&rules(&old, "b.test"), &rules(&new, "b.test")));
    assert!(!Arc::ptr_eq(&rules(&old, "a.test"), &rules(&new, "a.test")));
    assert!(Arc::ptr_eq(&old.binds[0].config, &new.binds[0].config));
    assert!(Arc::ptr_eq(old.backends.at(0).unwrap(), new.backends.at(0).unwrap()));
}

#[test]
fn rules_with_equal_policies_share_one() {
    let (index, mut compiler) = filled();
    let (table, _) = compiler.compile(&index, &Change::default(), common::NOW);
    let policy = |host: &str| {
        let request = common::get(host, "/");
        Arc::clone(&table.binds[0].hosts.route(host, "/", &request).unwrap().policy)
    };
    assert!(Arc::ptr_eq(&policy("a.test"), &policy("b.test")));
}

#[test]
fn a_name_resolves_into_endpoints_and_its_own_host_is_refused_to_services() {
    let mut index = Index::new();
    let service = "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {type: ExternalName, externalName: Api.Example.org}}";
    let native = "{listeners: ['127.0.0.1:1'], routes: [{name: r, backend: b}], backends: [{name: b, endpoints: ['localhost:9000']}]}";
    for text in [service, &ingress("a", "a.test", "/"), native] {
        common::apply(&mut index, "f.yaml", text);
    }
    let mut compiler = Compiler::new(Settings::default());
    compiler.compile(&index, &Change::default(), common::NOW);
    let names: Vec<_> = compiler.dns_names().into_iter().collect();
    // What a Service names is not looked for in search lists.
    assert_eq!(names, ["api.example.org.".into(), Arc::<str>::from("localhost")]);
    let mut change = Change::default();
    for (name, addresses) in
        [("api.example.org.", ["127.0.0.1", "203.0.113.7"]), ("localhost", ["127.0.0.1", "::1"])]
    {
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        change.merge(index.apply(Event::Resolved { name: name.into(), addresses }));
    }
    let (table, report) = compiler.compile(&index, &change, common::NOW);
    let endpoints = |name: &str| {
        let backend = table.backends.iter().find(|(_, backend)| &*backend.name == name).unwrap().1;
        backend.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(endpoints("default/web:80"), ["203.0.113.7:80"]);
    assert_eq!(endpoints("b"), ["127.0.0.1:9000", "[::1]:9000"]);
    assert!(report.problems.iter().any(|problem| problem.reason == "RefusedAddress"), "{report:?}");
}

#[test]
fn the_schema_is_of_the_types_that_read_the_format() {
    let schema = config::schema::json_schema();
    let text = schema.to_string();
    for word in [
        "listeners",
        "pathPrefix",
        "hashBy",
        "trustedProxies",
        "slowStart",
        "additionalProperties",
        "2020-12",
    ] {
        assert!(text.contains(word), "{word}");
    }
    assert_eq!(schema["type"], "object");
    assert!(schema["required"].is_null(), "nothing is required at the top: {schema}");
}
