//! EndpointSlice and Endpoints. Pure.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::{items, names, text};
use crate::error::Cause;

const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];

/// Fills in an EndpointSlice.
pub(crate) fn default_slice(slice: &mut Value) {
    for port in slice.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(port) = port.as_object_mut() {
            port.entry("name").or_insert_with(|| "".into());
            port.entry("protocol").or_insert_with(|| "TCP".into());
        }
    }
}

/// What the older API said about topology is not taken any more.
pub(crate) fn drop_topology(slice: &mut Value) {
    for endpoint in slice.get_mut("endpoints").and_then(Value::as_array_mut).into_iter().flatten() {
        super::remove(endpoint, "deprecatedTopology");
    }
}

/// Fills in Endpoints.
pub(crate) fn default_endpoints(endpoints: &mut Value) {
    for subset in endpoints.get_mut("subsets").and_then(Value::as_array_mut).into_iter().flatten() {
        for port in subset.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(port) = port.as_object_mut() {
                port.entry("protocol").or_insert_with(|| json!("TCP"));
            }
        }
    }
}

/// What is wrong with an EndpointSlice.
pub(crate) fn check_slice(before: Option<&Value>, slice: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let kind = text(slice, "addressType").unwrap_or_default();
    match kind {
        "" => causes.push(Cause::required("addressType", "")),
        "IPv4" | "IPv6" | "FQDN" => {}
        other => causes.push(Cause::unsupported("addressType", other, &["FQDN", "IPv4", "IPv6"])),
    }
    if before.is_some_and(|before| text(before, "addressType") != Some(kind)) {
        causes.push(Cause::invalid("addressType", kind, "field is immutable"));
    }
    let endpoints = items(slice, "endpoints");
    if endpoints.len() > 1000 {
        causes.push(Cause::too_many("endpoints", endpoints.len(), 1000));
        return causes;
    }
    for (index, endpoint) in endpoints.iter().enumerate() {
        check_endpoint(&format!("endpoints[{index}]"), endpoint, kind, &mut causes);
    }
    check_ports(slice, &mut causes);
    causes
}

fn check_endpoint(field: &str, endpoint: &Value, kind: &str, causes: &mut Vec<Cause>) {
    let addresses = items(endpoint, "addresses");
    let at = format!("{field}.addresses");
    if addresses.is_empty() {
        causes.push(Cause::required(&at, "must contain at least 1 address"));
    } else if addresses.len() > 100 {
        causes.push(Cause::too_many(&at, addresses.len(), 100));
        return;
    }
    for (index, address) in addresses.iter().enumerate() {
        check_address(&at, index, address.as_str().unwrap_or_default(), kind, causes);
    }
    if let Some(hostname) = text(endpoint, "hostname") {
        let at = format!("{field}.hostname");
        causes.extend(names::label(hostname).iter().map(|why| Cause::invalid(&at, hostname, why)));
    }
    if let Some(node) = text(endpoint, "nodeName") {
        let at = format!("{field}.nodeName");
        causes.extend(names::subdomain(node).iter().map(|why| Cause::invalid(&at, node, why)));
    }
    let Some(hints) = endpoint.get("hints") else { return };
    for list in ["forZones", "forNodes"] {
        let at = format!("{field}.hints.{list}");
        let entries = items(hints, list);
        if entries.len() > 8 {
            causes.push(Cause::too_many(&at, entries.len(), 8));
        }
        let mut seen = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            let name = text(entry, "name").unwrap_or_default();
            let at = format!("{at}[{index}].name");
            if seen.contains(&name) {
                causes.push(Cause::duplicate(&at, name));
            } else {
                causes.extend(names::label_value(name).iter().map(|why| Cause::invalid(&at, name, why)));
            }
            seen.push(name);
        }
    }
}

fn check_address(field: &str, index: usize, text: &str, kind: &str, causes: &mut Vec<Cause>) {
    let at = format!("{field}[{index}]");
    if kind == "FQDN" {
        causes.extend(names::subdomain(text).iter().map(|why| Cause::invalid(&at, text, why)));
        return;
    }
    let address = match names::address(text) {
        Ok(address) => address,
        Err(why) => {
            causes.push(Cause::invalid(at, text, &why));
            return;
        }
    };
    match (kind, address) {
        ("IPv4", IpAddr::V6(_)) => causes.push(Cause::invalid(field, text, "must be an IPv4 address")),
        ("IPv6", IpAddr::V4(_)) => causes.push(Cause::invalid(field, text, "must be an IPv6 address")),
        _ => {}
    }
    causes.extend(names::endpoint_address(address).into_iter().map(|why| Cause::invalid(&at, text, why)));
}

fn check_ports(slice: &Value, causes: &mut Vec<Cause>) {
    let ports = items(slice, "ports");
    if ports.len() > 20_000 {
        causes.push(Cause::too_many("ports", ports.len(), 20_000));
        return;
    }
    let mut seen = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        let name = text(port, "name").unwrap_or_default();
        let at = format!("ports[{index}].name");
        if !name.is_empty() {
            causes.extend(names::label(name).iter().map(|why| Cause::invalid(&at, name, why)));
        }
        if seen.contains(&name) {
            causes.push(Cause::duplicate(&at, name));
        }
        seen.push(name);
        check_protocol(&format!("ports[{index}].protocol"), port, causes);
        if let Some(protocol) = text(port, "appProtocol") {
            let at = format!("ports[{index}].appProtocol");
            causes.extend(names::qualified(protocol).iter().map(|why| Cause::invalid(&at, protocol, why)));
        }
    }
}

/// What is wrong with a protocol.
pub(crate) fn check_protocol(field: &str, port: &Value, causes: &mut Vec<Cause>) {
    match text(port, "protocol").unwrap_or_default() {
        "" => causes.push(Cause::required(field, "")),
        protocol if PROTOCOLS.contains(&protocol) => {}
        other => causes.push(Cause::unsupported(field, other, &PROTOCOLS)),
    }
}

/// What is wrong with Endpoints.
pub(crate) fn check_endpoints(endpoints: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    for (index, subset) in items(endpoints, "subsets").iter().enumerate() {
        let field = format!("subsets[{index}]");
        let lists = ["addresses", "notReadyAddresses"];
        if lists.iter().all(|list| items(subset, list).is_empty()) {
            causes.push(Cause::required(&field, "must specify `addresses` or `notReadyAddresses`"));
        }
        for list in lists {
            for (index, address) in items(subset, list).iter().enumerate() {
                let ip = text(address, "ip").unwrap_or_default();
                let at = format!("{field}.{list}[{index}].ip");
                match names::address(ip) {
                    Ok(address) => {
                        let wrong = names::endpoint_address(address);
                        causes.extend(wrong.into_iter().map(|why| Cause::invalid(&at, ip, why)));
                    }
                    Err(why) => causes.push(Cause::invalid(at, ip, &why)),
                }
            }
        }
        let ports = items(subset, "ports");
        for (index, port) in ports.iter().enumerate() {
            let at = format!("{field}.ports[{index}]");
            let name = text(port, "name").unwrap_or_default();
            if name.is_empty() && ports.len() > 1 {
                causes.push(Cause::required(format!("{at}.name"), ""));
            }
            let number = port.get("port").and_then(Value::as_i64).unwrap_or(0);
            if !(1..=65_535).contains(&number) {
                causes.push(Cause::invalid(
                    format!("{at}.port"),
                    number,
                    "must be between 1 and 65535, inclusive",
                ));
            }
            check_protocol(&format!("{at}.protocol"), port, &mut causes);
        }
    }
    causes
}
