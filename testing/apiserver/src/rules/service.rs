//! Service: its defaults, its cluster address and node ports, and what is wrong with it. Pure but for what is taken.

use std::net::{IpAddr, Ipv4Addr};

use serde_json::{Map, Value, json};

use super::addresses::Allocated;
use super::endpoints::check_protocol;
use super::names::{self, ADDRESS};
use super::{ingress, inside, items, text};
use crate::error::Cause;

const PORT: &str = "must be between 1 and 65535, inclusive";

fn spec(service: &Value) -> &Value {
    static NOTHING: Value = Value::Null;
    service.get("spec").unwrap_or(&NOTHING)
}

fn has_cluster_address(kind: &str) -> bool {
    ["ClusterIP", "NodePort", "LoadBalancer"].contains(&kind)
}

/// Fills in a Service.
pub(crate) fn default(service: &mut Value) {
    let Some(spec) = inside(service, "spec") else { return };
    spec.entry("sessionAffinity").or_insert_with(|| "None".into());
    spec.entry("type").or_insert_with(|| "ClusterIP".into());
    let kind = spec.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    if spec.get("sessionAffinity").is_some_and(|affinity| affinity == "ClientIP") {
        spec.entry("sessionAffinityConfig")
            .or_insert_with(|| json!({"clientIP": {"timeoutSeconds": 10_800}}));
    } else {
        spec.remove("sessionAffinityConfig");
    }
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(port) = port.as_object_mut() else { continue };
        port.entry("protocol").or_insert_with(|| "TCP".into());
        let target = port.get("targetPort").cloned().unwrap_or_default();
        if target.is_null() || target == 0 || target == "" {
            let number = port.get("port").cloned().unwrap_or_default();
            port.insert("targetPort".to_owned(), number);
        }
    }
    let external = ["NodePort", "LoadBalancer"].contains(&kind.as_str())
        || spec.get("externalIPs").is_some() && kind == "ClusterIP";
    if external {
        spec.entry("externalTrafficPolicy").or_insert_with(|| "Cluster".into());
    }
    if has_cluster_address(&kind) {
        spec.entry("internalTrafficPolicy").or_insert_with(|| "Cluster".into());
    }
    if kind == "LoadBalancer" {
        spec.entry("allocateLoadBalancerNodePorts").or_insert(Value::Bool(true));
    }
    let balancers = service.pointer_mut("/status/loadBalancer/ingress").and_then(Value::as_array_mut);
    for ingress in balancers.into_iter().flatten().filter_map(Value::as_object_mut) {
        if ingress.contains_key("ip") {
            ingress.entry("ipMode").or_insert_with(|| "VIP".into());
        }
    }
}

/// A new Service gets its address and ports, and has no status yet.
pub(crate) fn on_create(service: &mut Value, allocated: &Allocated) -> Vec<Cause> {
    if let Some(map) = service.as_object_mut() {
        map.insert("status".to_owned(), json!({"loadBalancer": {}}));
    }
    let (empty, wrong) = (json!({}), check(None, service));
    if wrong.is_empty() { allocate(&empty, service, allocated) } else { Vec::new() }
}

/// A changed Service keeps what it has, gives back what it no longer needs, and gets what it lacks.
pub(crate) fn on_update(before: &Value, service: &mut Value, allocated: &Allocated) -> Vec<Cause> {
    let old = spec(before);
    let (was, is) =
        (text(old, "type").unwrap_or_default(), text(spec(service), "type").unwrap_or_default().to_owned());
    let was_headless = text(old, "clusterIP") == Some("None");
    if let Some(new) = inside(service, "spec") {
        if has_cluster_address(was) && has_cluster_address(&is) {
            for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                if let Some(value) = old.get(field) {
                    new.entry(field).or_insert_with(|| value.clone());
                }
            }
            keep_node_ports(old, new, was, &is);
        } else if is == "ExternalName" && !was_headless {
            release(old, new);
        }
        drop_unneeded(new, was, &is);
    }
    if was == "LoadBalancer"
        && is != "LoadBalancer"
        && let Some(status) = inside(service, "status")
    {
        status.insert("loadBalancer".to_owned(), json!({}));
    }
    if !check(Some(before), service).is_empty() {
        return Vec::new();
    }
    allocate(before, service, allocated)
}

/// Node ports are kept for the same port, where the client left them out.
fn keep_node_ports(old: &Value, new: &mut Map<String, Value>, was: &str, is: &str) {
    if was == "ClusterIP" || is == "ClusterIP" {
        return;
    }
    if let Some(port) = old.get("healthCheckNodePort") {
        new.entry("healthCheckNodePort").or_insert_with(|| port.clone());
    }
    for port in new.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        let same =
            |other: &&Value| ["port", "protocol"].iter().all(|field| other.get(*field) == port.get(*field));
        let kept = items(old, "ports").iter().find(same).and_then(|other| other.get("nodePort")).cloned();
        if let (Some(port), Some(kept)) = (port.as_object_mut(), kept) {
            port.entry("nodePort").or_insert(kept);
        }
    }
}

/// What a Service without an address of its own does not keep, where it is as it was.
fn release(old: &Value, new: &mut Map<String, Value>) {
    for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"] {
        if new.get(field) == old.get(field) {
            new.remove(field);
        }
    }
}

fn drop_unneeded(new: &mut Map<String, Value>, was: &str, is: &str) {
    if was != is && !["NodePort", "LoadBalancer"].contains(&is) {
        for port in new.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(port) = port.as_object_mut() {
                port.remove("nodePort");
            }
        }
        if !new.contains_key("externalIPs") {
            new.remove("externalTrafficPolicy");
        }
        new.remove("healthCheckNodePort");
    }
    if was == "LoadBalancer" && is != "LoadBalancer" {
        new.remove("allocateLoadBalancerNodePorts");
        new.remove("loadBalancerClass");
    }
    if is == "ExternalName" {
        new.remove("internalTrafficPolicy");
    }
}

/// Addresses and ports that a Service has taken.
pub(crate) fn taken(service: &Value) -> (Vec<Ipv4Addr>, Vec<u16>) {
    let spec = spec(service);
    let addresses = items(spec, "clusterIPs").iter().filter_map(|address| address.as_str()?.parse().ok());
    let port = |port: Option<&Value>| port.and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok());
    let ports =
        items(spec, "ports").iter().map(|each| each.get("nodePort")).chain([spec.get("healthCheckNodePort")]);
    (addresses.collect(), ports.filter_map(port).filter(|port| *port > 0).collect())
}

fn allocate(before: &Value, service: &mut Value, allocated: &Allocated) -> Vec<Cause> {
    let (old_addresses, old_ports) = taken(before);
    let kind = text(spec(service), "type").unwrap_or_default().to_owned();
    let has_selector = spec(service).get("selector").is_some();
    let Some(spec) = inside(service, "spec") else { return Vec::new() };
    let mut causes = Vec::new();
    if has_cluster_address(&kind) {
        match spec.get("clusterIP").and_then(Value::as_str).map(str::to_owned) {
            Some(address) if address == "None" => {
                let dual = !has_selector && !spec.contains_key("ipFamilyPolicy");
                let (families, policy) = if dual {
                    (json!(["IPv4", "IPv6"]), "RequireDualStack")
                } else {
                    (json!(["IPv4"]), "SingleStack")
                };
                spec.entry("ipFamilies").or_insert(families);
                spec.entry("ipFamilyPolicy").or_insert_with(|| policy.into());
                spec.entry("clusterIPs").or_insert_with(|| json!(["None"]));
            }
            given => {
                let address = given.and_then(|given| given.parse::<Ipv4Addr>().ok());
                causes.extend(give_address(spec, address, &old_addresses, allocated));
            }
        }
    }
    let wants_ports = kind == "NodePort"
        || kind == "LoadBalancer" && spec.get("allocateLoadBalancerNodePorts") != Some(&Value::Bool(false));
    if wants_ports || kind == "LoadBalancer" {
        causes.extend(give_ports(spec, &old_ports, wants_ports, allocated));
    }
    let local = spec.get("externalTrafficPolicy").is_some_and(|policy| policy == "Local");
    if kind == "LoadBalancer" && local && !spec.contains_key("healthCheckNodePort") {
        let used: Vec<u16> = ports_of(spec);
        if let Some(port) = allocated.any_port(&used) {
            spec.insert("healthCheckNodePort".to_owned(), port.into());
        }
    }
    causes
}

fn give_address(
    spec: &mut Map<String, Value>,
    asked: Option<Ipv4Addr>,
    old: &[Ipv4Addr],
    allocated: &Allocated,
) -> Option<Cause> {
    let address = match asked {
        Some(address) if old.contains(&address) => address,
        Some(address) => match allocated.refuses_address(address) {
            Some(why) => {
                let why = format!("failed to allocate IP {address}: {why}");
                return Some(Cause::invalid("spec.clusterIPs", json!([address.to_string()]), &why));
            }
            None => address,
        },
        None => match allocated.any_address() {
            Some(address) => address,
            None => {
                return Some(Cause::invalid(
                    "spec.clusterIPs",
                    json!([]),
                    "failed to allocate IP: range is full",
                ));
            }
        },
    };
    spec.insert("clusterIP".to_owned(), address.to_string().into());
    spec.insert("clusterIPs".to_owned(), json!([address.to_string()]));
    spec.entry("ipFamilies").or_insert_with(|| json!(["IPv4"]));
    spec.entry("ipFamilyPolicy").or_insert_with(|| "SingleStack".into());
    None
}

fn ports_of(spec: &Map<String, Value>) -> Vec<u16> {
    let ports = spec.get("ports").and_then(Value::as_array).into_iter().flatten();
    ports.filter_map(|port| port.get("nodePort")?.as_u64()?.try_into().ok()).collect()
}

fn give_ports(spec: &mut Map<String, Value>, old: &[u16], wanted: bool, allocated: &Allocated) -> Vec<Cause> {
    let mut causes = Vec::new();
    let mut used = ports_of(spec);
    let ports = spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten();
    for (index, port) in ports.enumerate() {
        let Some(port) = port.as_object_mut() else { continue };
        let asked = port.get("nodePort").and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok());
        match asked {
            Some(asked) if old.contains(&asked) => {}
            Some(asked) => {
                if let Some(why) = allocated.refuses_port(asked) {
                    causes.push(Cause::invalid(format!("spec.ports[{index}].nodePort"), asked, why));
                }
            }
            None if wanted => {
                if let Some(free) = allocated.any_port(&used) {
                    used.push(free);
                    port.insert("nodePort".to_owned(), free.into());
                }
            }
            None => {}
        }
    }
    causes
}

/// What is wrong with a Service.
pub(crate) fn check(before: Option<&Value>, service: &Value) -> Vec<Cause> {
    let spec = spec(service);
    let kind = text(spec, "type").unwrap_or_default();
    let headless = text(spec, "clusterIP") == Some("None");
    let mut causes = Vec::new();
    let kinds = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    if !kinds.contains(&kind) {
        causes.push(Cause::unsupported("spec.type", kind, &kinds));
    }
    check_kind(kind, spec, headless, &mut causes);
    check_ports(kind, spec, headless, &mut causes);
    for (key, value) in spec.get("selector").and_then(Value::as_object).into_iter().flatten() {
        let value = value.as_str().unwrap_or_default();
        let wrong = names::qualified(key).into_iter().map(|why| (key.as_str(), why));
        let wrong = wrong.chain(names::label_value(value).into_iter().map(|why| (value, why)));
        causes.extend(wrong.map(|(what, why)| Cause::invalid("spec.selector", what, &why)));
    }
    let affinity = text(spec, "sessionAffinity").unwrap_or_default();
    if !["ClientIP", "None"].contains(&affinity) {
        causes.push(Cause::unsupported("spec.sessionAffinity", affinity, &["ClientIP", "None"]));
    }
    let distributions = ["PreferClose", "PreferSameZone", "PreferSameNode"];
    if let Some(other) = text(spec, "trafficDistribution").filter(|given| !distributions.contains(given)) {
        causes.push(Cause::unsupported("spec.trafficDistribution", other, &distributions));
    }
    check_addresses(before, spec, kind, &mut causes);
    check_policies(spec, kind, &mut causes);
    causes
}

fn check_kind(kind: &str, spec: &Value, headless: bool, causes: &mut Vec<Cause>) {
    if kind == "ExternalName" {
        let name = text(spec, "externalName").unwrap_or_default();
        if name.is_empty() {
            causes.push(Cause::required("spec.externalName", ""));
        } else {
            let name = name.strip_suffix('.').unwrap_or(name);
            let wrong = names::subdomain(name);
            causes.extend(wrong.iter().map(|why| Cause::invalid("spec.externalName", name, why)));
        }
        for field in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if spec.get(field).is_some() {
                let why = format!("may not be set for ExternalName services ({field})");
                causes.push(Cause::forbidden(format!("spec.{field}"), &why));
            }
        }
    }
    if kind != "ClusterIP" && headless {
        let why = format!("may not be set to 'None' for {kind} services");
        causes.push(Cause::invalid("spec.clusterIPs[0]", "None", &why));
    }
    if kind != "LoadBalancer" {
        for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if spec.get(field).is_some() {
                causes.push(Cause::forbidden(
                    format!("spec.{field}"),
                    "may only be used when `type` is 'LoadBalancer'",
                ));
            }
        }
    }
}

fn check_ports(kind: &str, spec: &Value, headless: bool, causes: &mut Vec<Cause>) {
    let ports = items(spec, "ports");
    if ports.is_empty() && kind != "ExternalName" && !headless {
        causes.push(Cause::required("spec.ports", ""));
    }
    let mut names_seen = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        let field = format!("spec.ports[{index}]");
        let name = text(port, "name").unwrap_or_default();
        let at = format!("{field}.name");
        if name.is_empty() {
            if ports.len() > 1 {
                causes.push(Cause::required(at, ""));
            }
        } else {
            causes.extend(names::label(name).iter().map(|why| Cause::invalid(&at, name, why)));
            if names_seen.contains(&name) {
                causes.push(Cause::duplicate(&at, name));
            }
            names_seen.push(name);
        }
        let in_range = |number: i64| (1..=65_535).contains(&number);
        let number = port.get("port").and_then(Value::as_i64).unwrap_or(0);
        if !in_range(number) {
            causes.push(Cause::invalid(format!("{field}.port"), number, PORT));
        }
        check_protocol(&format!("{field}.protocol"), port, causes);
        let at = format!("{field}.targetPort");
        match port.get("targetPort") {
            Some(Value::String(name)) => {
                causes
                    .extend(names::port_name(name).iter().map(|why| Cause::invalid(&at, name.as_str(), why)));
            }
            Some(number) if !number.as_i64().is_some_and(in_range) => {
                causes.push(Cause::invalid(&at, number.clone(), PORT));
            }
            _ => {}
        }
        if let Some(protocol) = text(port, "appProtocol") {
            let at = format!("{field}.appProtocol");
            causes.extend(names::qualified(protocol).iter().map(|why| Cause::invalid(&at, protocol, why)));
        }
        if port.get("nodePort").is_some() && ["ClusterIP", "ExternalName"].contains(&kind) {
            let why = format!("may not be used when `type` is '{kind}'");
            causes.push(Cause::forbidden(format!("{field}.nodePort"), &why));
        }
    }
    let same =
        |one: &Value, other: &Value| ["port", "protocol"].iter().all(|key| one.get(*key) == other.get(*key));
    for (index, port) in ports.iter().enumerate() {
        if ports.iter().take(index).any(|other| same(port, other)) {
            causes.push(Cause::duplicate(format!("spec.ports[{index}]"), port.clone()));
        }
    }
}

fn check_addresses(before: Option<&Value>, new: &Value, kind: &str, causes: &mut Vec<Cause>) {
    let given: Vec<&Value> = match items(new, "clusterIPs") {
        [] => new.get("clusterIP").into_iter().collect(),
        many => many.iter().collect(),
    };
    for (index, address) in given.iter().enumerate() {
        let address = address.as_str().unwrap_or_default();
        if address != "None" && address.parse::<IpAddr>().is_err() {
            causes.push(Cause::invalid(format!("spec.clusterIPs[{index}]"), address, ADDRESS));
        }
    }
    if let (Some(first), Some(one)) = (items(new, "clusterIPs").first(), new.get("clusterIP"))
        && first != one
    {
        causes.push(Cause::invalid(
            "spec.clusterIPs",
            new.get("clusterIPs").cloned().unwrap_or_default(),
            "first value must match `clusterIP`",
        ));
    }
    let old = before.map(spec).filter(|old| has_cluster_address(text(old, "type").unwrap_or_default()));
    if let Some(old) = old.filter(|_| has_cluster_address(kind))
        && old.get("clusterIP").is_some_and(|was| Some(was) != new.get("clusterIP"))
    {
        let shown = new.get("clusterIPs").or_else(|| new.get("clusterIP")).cloned().unwrap_or_default();
        causes.push(Cause::invalid("spec.clusterIPs[0]", shown, "may not change once set"));
    }
    for (index, address) in items(new, "externalIPs").iter().enumerate() {
        let address = address.as_str().unwrap_or_default();
        let field = format!("spec.externalIPs[{index}]");
        match address.parse::<IpAddr>() {
            Ok(parsed) => {
                let wrong = names::endpoint_address(parsed);
                causes.extend(wrong.into_iter().map(|why| Cause::invalid(&field, address, why)));
            }
            Err(_) => causes.push(Cause::invalid(field, address, ADDRESS)),
        }
    }
    for (index, range) in items(new, "loadBalancerSourceRanges").iter().enumerate() {
        let range = range.as_str().unwrap_or_default().trim();
        let fits = range.split_once('/').is_some_and(|(address, bits)| {
            let most = if address.contains(':') { 128 } else { 32 };
            address.parse::<IpAddr>().is_ok() && bits.parse::<u8>().is_ok_and(|bits| bits <= most)
        });
        if !fits {
            let why = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            causes.push(Cause::invalid(format!("spec.LoadBalancerSourceRanges[{index}]"), range, why));
        }
    }
    for (index, family) in items(new, "ipFamilies").iter().enumerate() {
        let headless = text(new, "clusterIP") == Some("None");
        if family != "IPv4" && !headless {
            let field = format!("spec.ipFamilies[{index}]");
            causes.push(Cause::invalid(field, family.clone(), "not configured on this cluster"));
        }
    }
    let headless_without_selector = text(new, "clusterIP") == Some("None") && new.get("selector").is_none();
    if text(new, "ipFamilyPolicy") == Some("RequireDualStack") && !headless_without_selector {
        let why = "this cluster is not configured for dual-stack services";
        causes.push(Cause::invalid("spec.ipFamilyPolicy", "RequireDualStack", why));
    }
}

fn check_policies(spec: &Value, kind: &str, causes: &mut Vec<Cause>) {
    let external = ["NodePort", "LoadBalancer"].contains(&kind) || !items(spec, "externalIPs").is_empty();
    let known = ["Cluster", "Local"];
    match text(spec, "externalTrafficPolicy") {
        Some(policy) if !external => {
            let why = "may only be set for externally-accessible services";
            causes.push(Cause::invalid("spec.externalTrafficPolicy", policy, why));
        }
        Some(policy) if !known.contains(&policy) => {
            causes.push(Cause::unsupported("spec.externalTrafficPolicy", policy, &known));
        }
        None if external => causes.push(Cause::required("spec.externalTrafficPolicy", "")),
        _ => {}
    }
    match text(spec, "internalTrafficPolicy") {
        Some(policy) if !known.contains(&policy) => {
            causes.push(Cause::unsupported("spec.internalTrafficPolicy", policy, &known));
        }
        None if has_cluster_address(kind) => causes.push(Cause::required("spec.internalTrafficPolicy", "")),
        _ => {}
    }
}

/// What is wrong with the status of a Service.
pub(crate) fn check_status(service: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let balancer = service.pointer("/status/loadBalancer").unwrap_or(&Value::Null);
    if !items(balancer, "ingress").is_empty() && text(spec(service), "type") != Some("LoadBalancer") {
        let why = "may only be used when `spec.type` is 'LoadBalancer'";
        causes.push(Cause::forbidden("status.loadBalancer.ingress", why));
    }
    ingress::check_addresses(balancer, &mut causes);
    for (index, entry) in items(balancer, "ingress").iter().enumerate() {
        let field = format!("status.loadBalancer.ingress[{index}].ipMode");
        match text(entry, "ipMode") {
            Some(_) if entry.get("ip").is_none() => {
                causes.push(Cause::forbidden(field, "may not be specified when `ip` is not set"));
            }
            Some(mode) if !["Proxy", "VIP"].contains(&mode) => {
                causes.push(Cause::unsupported(field, mode, &["Proxy", "VIP"]));
            }
            _ => {}
        }
    }
    causes
}

/// What there is to say about a Service.
pub(crate) fn warnings(service: &Value) -> Vec<String> {
    let spec = spec(service);
    let mut warnings = Vec::new();
    if !items(spec, "externalIPs").is_empty() {
        warnings.push(
            "spec.externalIPs is deprecated and may no longer be implemented in some clusters".to_owned(),
        );
    }
    if text(spec, "trafficDistribution") == Some("PreferClose") {
        let words = "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"";
        warnings.push(words.to_owned());
    }
    warnings
}
