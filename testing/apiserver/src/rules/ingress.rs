//! Ingress and IngressClass. Pure.

use serde_json::{Value, json};

use super::names::{self, ADDRESS};
use super::{Cluster, inside, items, text};
use crate::error::Cause;

const CLASS_ANNOTATION: &str = "/metadata/annotations/kubernetes.io~1ingress.class";

/// A new Ingress gets the default class, and has no status yet.
pub(crate) fn on_create(ingress: &mut Value, cluster: &dyn Cluster) {
    if let Some(map) = ingress.as_object_mut() {
        map.insert("status".to_owned(), json!({"loadBalancer": {}}));
    }
    let has_class =
        ingress.pointer("/spec/ingressClassName").is_some() || ingress.pointer(CLASS_ANNOTATION).is_some();
    if !has_class
        && let Some(class) = cluster.default_class()
        && let Some(spec) = inside(ingress, "spec")
    {
        spec.insert("ingressClassName".to_owned(), class.into());
    }
}

/// What is wrong with an Ingress.
pub(crate) fn check(before: Option<&Value>, ingress: &Value) -> Vec<Cause> {
    static NOTHING: Value = Value::Null;
    let spec = ingress.get("spec").unwrap_or(&NOTHING);
    let mut causes = Vec::new();
    let rules = items(spec, "rules");
    if rules.is_empty() && spec.get("defaultBackend").is_none() {
        let why = "either `defaultBackend` or `rules` must be specified";
        causes.push(Cause::invalid("spec", Value::Null, why));
    }
    if let Some(backend) = spec.get("defaultBackend") {
        check_backend("spec.defaultBackend", backend, &mut causes);
    }
    for (index, rule) in rules.iter().enumerate() {
        check_rule(&format!("spec.rules[{index}]"), rule, &mut causes);
    }
    for (index, tls) in items(spec, "tls").iter().enumerate() {
        let field = format!("spec.tls[{index}]");
        for (index, host) in items(tls, "hosts").iter().enumerate() {
            let host = host.as_str().unwrap_or_default();
            let field = format!("{field}.hosts[{index}]");
            causes.extend(names::host(host).iter().map(|why| Cause::invalid(&field, host, why)));
        }
        if let Some(secret) = text(tls, "secretName") {
            let field = format!("{field}.secretName");
            causes.extend(names::subdomain(secret).iter().map(|why| Cause::invalid(&field, secret, why)));
        }
    }
    if let Some(class) = text(spec, "ingressClassName") {
        let field = "spec.ingressClassName";
        causes.extend(names::subdomain(class).iter().map(|why| Cause::invalid(field, class, why)));
        let annotation = ingress.pointer(CLASS_ANNOTATION).and_then(Value::as_str);
        if before.is_none()
            && let Some(annotation) = annotation.filter(|annotation| *annotation != class)
        {
            let why = "must match `ingressClassName` when both are specified";
            causes.push(Cause::invalid("annotations.kubernetes.io/ingress.class", annotation, why));
        }
    }
    causes
}

fn check_rule(field: &str, rule: &Value, causes: &mut Vec<Cause>) {
    if let Some(host) = text(rule, "host") {
        let field = format!("{field}.host");
        if host.parse::<std::net::IpAddr>().is_ok() {
            causes.push(Cause::invalid(&field, host, "must be a DNS name, not an IP address"));
        } else {
            causes.extend(names::host(host).iter().map(|why| Cause::invalid(&field, host, why)));
        }
    }
    let Some(http) = rule.get("http") else { return };
    if items(http, "paths").is_empty() {
        causes.push(Cause::required(format!("{field}.http.paths"), ""));
    }
    for (index, path) in items(http, "paths").iter().enumerate() {
        let field = format!("{field}.http.paths[{index}]");
        check_path(&field, path, causes);
        check_backend(&format!("{field}.backend"), path.get("backend").unwrap_or(&Value::Null), causes);
    }
}

fn check_path(field: &str, path: &Value, causes: &mut Vec<Cause>) {
    let value = text(path, "path").unwrap_or_default();
    let at = format!("{field}.path");
    let mut invalid = |why: &str| causes.push(Cause::invalid(&at, value, why));
    match text(path, "pathType") {
        Some("Exact" | "Prefix") => {
            if !value.starts_with('/') {
                invalid("must be an absolute path");
            }
            for wrong in ["//", "/./", "/../", "%2f", "%2F"] {
                if value.contains(wrong) {
                    invalid(&format!("must not contain '{wrong}'"));
                }
            }
            for wrong in ["/..", "/."] {
                if value.ends_with(wrong) {
                    invalid(&format!("cannot end with '{wrong}'"));
                }
            }
        }
        Some("ImplementationSpecific") => {
            if !value.is_empty() && !value.starts_with('/') {
                invalid("must be an absolute path");
            }
        }
        None => {
            causes.push(Cause::required(format!("{field}.pathType"), "pathType must be specified"));
        }
        Some(other) => {
            let known = ["Exact", "ImplementationSpecific", "Prefix"];
            causes.push(Cause::unsupported(format!("{field}.pathType"), other, &known));
        }
    }
}

fn check_backend(field: &str, backend: &Value, causes: &mut Vec<Cause>) {
    let (service, resource) = (backend.get("service"), backend.get("resource"));
    let service = match (service, resource) {
        (Some(_), Some(_)) => {
            causes.push(Cause::invalid(field, "", "cannot set both resource and service backends"));
            return;
        }
        (None, Some(resource)) => {
            for name in ["kind", "name"] {
                if text(resource, name).unwrap_or_default().is_empty() {
                    causes.push(Cause::required(format!("{field}.resource.{name}"), ""));
                }
            }
            return;
        }
        (None, None) => {
            causes.push(Cause::invalid(field, "", "resource or service backend is required"));
            return;
        }
        (Some(service), None) => service,
    };
    let name = text(service, "name").unwrap_or_default();
    let at = format!("{field}.service.name");
    if name.is_empty() {
        causes.push(Cause::required(at, ""));
    } else {
        causes.extend(names::label(name).iter().map(|why| Cause::invalid(&at, name, why)));
    }
    let port = service.get("port").unwrap_or(&Value::Null);
    match (text(port, "name"), port.get("number").and_then(Value::as_i64)) {
        (Some(_), Some(_)) => {
            causes.push(Cause::invalid(field, "", "cannot set both port name & port number"))
        }
        (Some(name), None) => {
            let at = format!("{field}.service.port.name");
            causes.extend(names::port_name(name).iter().map(|why| Cause::invalid(&at, name, why)));
        }
        (None, Some(number)) => {
            if !(1..=65_535).contains(&number) {
                let at = format!("{field}.service.port.number");
                causes.push(Cause::invalid(at, number, "must be between 1 and 65535, inclusive"));
            }
        }
        (None, None) => causes.push(Cause::required(field, "port name or number is required")),
    }
}

/// What is wrong with the status of an Ingress.
pub(crate) fn check_status(ingress: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let balancer = ingress.pointer("/status/loadBalancer").unwrap_or(&Value::Null);
    check_addresses(balancer, &mut causes);
    causes
}

/// What is wrong with the addresses of a load balancer.
pub(crate) fn check_addresses(balancer: &Value, causes: &mut Vec<Cause>) {
    for (index, ingress) in items(balancer, "ingress").iter().enumerate() {
        let field = format!("status.loadBalancer.ingress[{index}]");
        if let Some(ip) = text(ingress, "ip")
            && ip.parse::<std::net::IpAddr>().is_err()
        {
            causes.push(Cause::invalid(format!("{field}.ip"), ip, ADDRESS));
        }
        if let Some(host) = text(ingress, "hostname") {
            let field = format!("{field}.hostname");
            causes.extend(names::subdomain(host).iter().map(|why| Cause::invalid(&field, host, why)));
            if host.parse::<std::net::IpAddr>().is_ok() {
                causes.push(Cause::invalid(&field, host, "must be a DNS name, not an IP address"));
            }
        }
    }
}

/// What there is to say about an Ingress.
pub(crate) fn warnings(before: Option<&Value>, ingress: &Value) -> Vec<String> {
    let has_class = ingress.pointer("/spec/ingressClassName").is_some();
    if before.is_none() && !has_class && ingress.pointer(CLASS_ANNOTATION).is_some() {
        let words = "annotation \"kubernetes.io/ingress.class\" is deprecated, please use 'spec.ingressClassName' instead";
        return vec![words.to_owned()];
    }
    Vec::new()
}

/// Fills in an IngressClass.
pub(crate) fn default_class(class: &mut Value) {
    let parameters = class.pointer_mut("/spec/parameters").and_then(Value::as_object_mut);
    if let Some(parameters) = parameters.filter(|map| map.get("scope").is_none_or(Value::is_null)) {
        parameters.insert("scope".to_owned(), "Cluster".into());
    }
}

/// What is wrong with an IngressClass.
pub(crate) fn check_class(before: Option<&Value>, class: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let controller = class.pointer("/spec/controller").and_then(Value::as_str).unwrap_or_default();
    let field = "spec.controller";
    if let Some(before) = before {
        let old = before.pointer("/spec/controller").and_then(Value::as_str).unwrap_or_default();
        if old != controller {
            causes.push(Cause::invalid(field, controller, "field is immutable"));
        }
    }
    if controller.is_empty() {
        causes.push(Cause::required(field, ""));
    } else if !controller.split_once('/').is_some_and(|(domain, path)| {
        names::subdomain(domain).is_empty() && !path.is_empty() && !path.ends_with('/')
    }) {
        causes.push(Cause::invalid(
            field,
            controller,
            "must be a domain-prefixed path (such as \"acme.io/foo\")",
        ));
    }
    let Some(parameters) = class.pointer("/spec/parameters") else { return causes };
    for name in ["kind", "name"] {
        if text(parameters, name).unwrap_or_default().is_empty() {
            causes.push(Cause::required(format!("spec.parameters.{name}"), ""));
        }
    }
    let namespace = text(parameters, "namespace").unwrap_or_default();
    match text(parameters, "scope").unwrap_or_default() {
        "Cluster" if !namespace.is_empty() => {
            causes.push(Cause::forbidden(
                "spec.parameters.namespace",
                "`parameters.scope` is set to 'Cluster'",
            ));
        }
        "Namespace" if namespace.is_empty() => {
            causes.push(Cause::required(
                "spec.parameters.namespace",
                "`parameters.scope` is set to 'Namespace'",
            ));
        }
        "Cluster" | "Namespace" => {}
        other => {
            causes.push(Cause::unsupported("spec.parameters.scope", other, &["Cluster", "Namespace"]));
        }
    }
    causes
}
