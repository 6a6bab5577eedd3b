//! Manifests in any number, read as they are from a file. Service number `n` has the EndpointSlice number `n`; Ingress
//! number `n` has a host of its own and belongs to a Service.

use anyhow::{Context, Result, ensure};
use config::index::{Change, Event, Index};
use config::resource::{Object, decode};
use config::table::explain::Request;
use config::table::{Action, RouteTable, Split};

/// Port of every endpoint.
pub const PORT: u16 = 8_080;

/// A Service in one of a hundred namespaces.
#[must_use]
pub fn service(number: usize) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: s{number}, namespace: n{}}}, \
         spec: {{ports: [{{name: http, port: 80}}]}}}}",
        number % 100
    )
}

/// The slice of a Service, with addresses of its own; `more` are added at the end.
#[must_use]
pub fn slice(number: usize, endpoints: usize, more: usize) -> String {
    let address = |i: usize| {
        let id = number * 100 + i;
        format!("{{addresses: [\"10.{}.{}.{}\"]}}", (id >> 16) & 255, (id >> 8) & 255, id & 255)
    };
    let list: Vec<_> = (0..endpoints + more).map(address).collect();
    format!(
        "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: s{number}-x, namespace: n{}, \
         labels: {{kubernetes.io/service-name: s{number}}}}}, addressType: IPv4, \
         ports: [{{name: http, port: {PORT}}}], endpoints: [{}]}}",
        number % 100,
        list.join(", ")
    )
}

/// An Ingress of the host [`host`] with one path, which leads to one of `services`.
#[must_use]
pub fn ingress(number: usize, services: usize, path: &str) -> String {
    let service = number % services.max(1);
    format!(
        "{{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {{name: i{number}, namespace: n{}}}, \
         spec: {{rules: [{{host: {}, http: {{paths: [{{path: {path}, pathType: Prefix, \
         backend: {{service: {{name: s{service}, port: {{name: http}}}}}}}}]}}}}]}}}}",
        service % 100,
        host(number)
    )
}

/// The host of an Ingress.
#[must_use]
pub fn host(number: usize) -> String {
    format!("host-{number}.example.com")
}

/// The objects in `text`.
///
/// # Errors
/// There is something wrong with one.
pub fn objects(text: &str) -> Result<Vec<Object>> {
    let decoded = decode(&"bench.yaml".into(), text.as_bytes());
    ensure!(decoded.problems.is_empty(), "{:?}", decoded.problems.first());
    Ok(decoded.objects)
}

/// The only object in `text`.
///
/// # Errors
/// There is something wrong with it, or there is none.
pub fn object(text: &str) -> Result<Object> {
    objects(text)?.pop().context("no object")
}

/// Puts what is in `text` into the index.
///
/// # Errors
/// There is something wrong with it.
pub fn apply(index: &mut Index, text: &str) -> Result<Change> {
    let mut change = Change::default();
    for object in objects(text)? {
        change.merge(index.apply(Event::Apply(object)));
    }
    Ok(change)
}

/// An index of Services with a slice each, and of Ingresses for `/`.
///
/// # Errors
/// None that depends on the numbers.
pub fn index(services: usize, endpoints: usize, ingresses: usize) -> Result<Index> {
    let mut index = Index::new();
    for number in 0..services {
        apply(&mut index, &service(number))?;
        apply(&mut index, &slice(number, endpoints, 0))?;
    }
    for number in 0..ingresses {
        apply(&mut index, &ingress(number, services, "/"))?;
    }
    Ok(index)
}

/// A GET of `path` on `host`.
#[must_use]
pub fn request<'a>(host: &'a str, path: &'a str) -> Request<'a> {
    Request { bind: None, https: false, method: "GET", host, path, query: None, headers: &[] }
}

/// How many endpoints the backend has that this request goes to; `None` without a route.
#[must_use]
pub fn endpoints_of(table: &RouteTable, host: &str, path: &str) -> Option<usize> {
    let rule = table.binds.first()?.hosts.route(host, path, &request(host, path))?;
    match &rule.action {
        Action::Forward(Split::One(id)) => Some(table.backends.at(id.0)?.endpoints.len()),
        _ => None,
    }
}
