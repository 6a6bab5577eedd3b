//! What people see of an object: the columns of each kind, and the cells of a row. Pure but for the time of now.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::kinds::{Kind, What};
use crate::rules::{items, text};

const NONE: &str = "<none>";

/// The columns of a kind.
pub(crate) fn columns(kind: &Kind) -> Value {
    let wide = |names: &[&'static str], from: usize| -> Vec<(&'static str, i32)> {
        names.iter().enumerate().map(|(index, name)| (*name, i32::from(index >= from))).collect()
    };
    let names = match &kind.what {
        What::ConfigMap => wide(&["Name", "Data", "Age"], 9),
        What::Endpoints => wide(&["Name", "Endpoints", "Age"], 9),
        What::Namespace => wide(&["Name", "Status", "Age"], 9),
        What::Secret => wide(&["Name", "Type", "Data", "Age"], 9),
        What::Lease => wide(&["Name", "Holder", "Age"], 9),
        What::EndpointSlice => wide(&["Name", "AddressType", "Ports", "Endpoints", "Age"], 9),
        What::IngressClass => wide(&["Name", "Controller", "Parameters", "Age"], 9),
        What::Ingress => wide(&["Name", "Class", "Hosts", "Address", "Ports", "Age"], 9),
        What::Definition => wide(&["Name", "Created At"], 9),
        What::Service => {
            wide(&["Name", "Type", "Cluster-IP", "External-IP", "Port(s)", "Age", "Selector"], 6)
        }
        What::Pod => wide(
            &[
                "Name",
                "Ready",
                "Status",
                "Restarts",
                "Age",
                "IP",
                "Node",
                "Nominated Node",
                "Readiness Gates",
            ],
            5,
        ),
        What::Node => wide(
            &[
                "Name",
                "Status",
                "Roles",
                "Age",
                "Version",
                "Internal-IP",
                "External-IP",
                "OS-Image",
                "Kernel-Version",
                "Container-Runtime",
            ],
            5,
        ),
        What::Event => vec![
            ("Last Seen", 0),
            ("Type", 0),
            ("Reason", 0),
            ("Object", 0),
            ("Subobject", 1),
            ("Source", 1),
            ("Message", 0),
            ("First Seen", 1),
            ("Count", 1),
            ("Name", 1),
        ],
        What::Custom(definition) => return custom_columns(&definition.columns),
    };
    names.into_iter().map(|(name, priority)| column(name, "string", priority)).collect()
}

fn column(name: &str, kind: &str, priority: i32) -> Value {
    let format = if name == "Name" { "name" } else { "" };
    json!({"name": name, "type": kind, "format": format, "description": name, "priority": priority})
}

fn custom_columns(columns: &[Value]) -> Value {
    let mut all = vec![column("Name", "string", 0)];
    for each in columns {
        let priority =
            each.get("priority").and_then(Value::as_i64).and_then(|priority| i32::try_from(priority).ok());
        let (name, kind) = (text(each, "name").unwrap_or_default(), text(each, "type").unwrap_or_default());
        all.push(column(name, kind, priority.unwrap_or(0)));
    }
    if columns.is_empty() {
        all.push(column("Age", "date", 0));
    }
    all.into()
}

/// The cells of an object's row.
pub(crate) fn cells(kind: &Kind, object: &Value) -> Vec<Value> {
    let name = Value::from(at(object, "/metadata/name"));
    let age = Value::from(age_of(at(object, "/metadata/creationTimestamp")));
    let count = |fields: &[&str]| {
        let size =
            |field: &&str| object.get(*field).and_then(Value::as_object).map_or(0, serde_json::Map::len);
        Value::from(fields.iter().map(size).sum::<usize>())
    };
    let or_none = |text: &str| Value::from(if text.is_empty() { NONE } else { text });
    match &kind.what {
        What::ConfigMap => vec![name, count(&["data", "binaryData"]), age],
        What::Secret => vec![name, at(object, "/type").into(), count(&["data"]), age],
        What::Namespace => vec![name, at(object, "/status/phase").into(), age],
        What::Lease => vec![name, at(object, "/spec/holderIdentity").into(), age],
        What::Definition => vec![name, at(object, "/metadata/creationTimestamp").into()],
        What::Endpoints => vec![name, endpoints(object).into(), age],
        What::EndpointSlice => vec![
            name,
            at(object, "/addressType").into(),
            slice_ports(object).into(),
            slice_endpoints(object).into(),
            age,
        ],
        What::IngressClass => {
            let parameters = object.pointer("/spec/parameters").map(|parameters| {
                let kind = text(parameters, "kind").unwrap_or_default();
                let group = text(parameters, "apiGroup").map(|group| format!(".{group}")).unwrap_or_default();
                format!("{kind}{group}/{}", text(parameters, "name").unwrap_or_default())
            });
            vec![name, at(object, "/spec/controller").into(), or_none(&parameters.unwrap_or_default()), age]
        }
        What::Ingress => {
            let class = or_none(at(object, "/spec/ingressClassName"));
            let tls = !items(object.get("spec").unwrap_or(&Value::Null), "tls").is_empty();
            let ports = if tls { "80, 443" } else { "80" };
            vec![name, class, hosts(object).into(), addresses(object).join(",").into(), ports.into(), age]
        }
        What::Service => service(object, name, age),
        What::Pod => pod(object, name, age),
        What::Node => node(object, name, age),
        What::Event => event(kind, object, name),
        What::Custom(definition) => {
            let mut cells = vec![name];
            for column in &definition.columns {
                let path = text(column, "jsonPath").unwrap_or_default();
                let value =
                    path.trim_start_matches('.').split('.').try_fold(object, |value, step| value.get(step));
                cells.push(match (value, text(column, "type")) {
                    (Some(time), Some("date")) => age_of(time.as_str().unwrap_or_default()).into(),
                    (value, _) => value.cloned().unwrap_or_default(),
                });
            }
            if definition.columns.is_empty() {
                cells.push(at(object, "/metadata/creationTimestamp").into());
            }
            cells
        }
    }
}

fn at<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// How long ago, as people say it.
fn age_of(time: &str) -> String {
    let Ok(then) = time.parse::<Timestamp>() else { return "<unknown>".to_owned() };
    let seconds = Timestamp::now().duration_since(then).as_secs().max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    let small = |whole: i64, unit: &str, rest: i64, smaller: &str| {
        if rest > 0 { format!("{whole}{unit}{rest}{smaller}") } else { format!("{whole}{unit}") }
    };
    match seconds {
        ..120 => format!("{seconds}s"),
        120..600 => small(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => small(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => small(days, "d", hours % 24, "h"),
        _ => format!("{days}d"),
    }
}

/// The first few, and how many more.
fn few(all: &[String], separator: &str) -> String {
    let (first, more) = all.split_at(all.len().min(3));
    let first = first.join(separator);
    if more.is_empty() { first } else { format!("{first} + {} more...", more.len()) }
}

fn endpoints(object: &Value) -> String {
    let mut all = Vec::new();
    for subset in items(object, "subsets") {
        for port in items(subset, "ports") {
            for address in items(subset, "addresses") {
                let port = port.get("port").and_then(Value::as_i64).unwrap_or(0);
                all.push(format!("{}:{port}", text(address, "ip").unwrap_or_default()));
            }
        }
    }
    if all.is_empty() { NONE.to_owned() } else { few(&all, ",") }
}

fn slice_ports(object: &Value) -> String {
    let number = |port: &Value| port.get("port").map_or_else(|| "*".to_owned(), Value::to_string);
    let ports: Vec<_> = items(object, "ports").iter().map(number).collect();
    if ports.is_empty() { "<unset>".to_owned() } else { few(&ports, ",") }
}

fn slice_endpoints(object: &Value) -> String {
    let addresses = items(object, "endpoints").iter().flat_map(|endpoint| items(endpoint, "addresses"));
    let all: Vec<_> = addresses.filter_map(Value::as_str).map(str::to_owned).collect();
    if all.is_empty() { "<unset>".to_owned() } else { few(&all, ",") }
}

fn hosts(object: &Value) -> String {
    let rules = items(object.get("spec").unwrap_or(&Value::Null), "rules");
    let hosts: Vec<_> = rules.iter().filter_map(|rule| text(rule, "host")).map(str::to_owned).collect();
    if hosts.is_empty() { "*".to_owned() } else { few(&hosts, ",") }
}

fn addresses(object: &Value) -> Vec<String> {
    let balancer = object.pointer("/status/loadBalancer").unwrap_or(&Value::Null);
    let address =
        |ingress: &Value| text(ingress, "ip").or_else(|| text(ingress, "hostname")).map(str::to_owned);
    items(balancer, "ingress").iter().filter_map(address).collect()
}

fn service(object: &Value, name: Value, age: Value) -> Vec<Value> {
    let spec = object.get("spec").unwrap_or(&Value::Null);
    let kind = text(spec, "type").unwrap_or_default();
    let mut external: Vec<String> =
        items(spec, "externalIPs").iter().filter_map(Value::as_str).map(str::to_owned).collect();
    let external = match kind {
        "ExternalName" => text(spec, "externalName").unwrap_or_default().to_owned(),
        "LoadBalancer" => {
            let mut all = addresses(object);
            all.append(&mut external);
            if all.is_empty() { "<pending>".to_owned() } else { all.join(",") }
        }
        "ClusterIP" | "NodePort" if external.is_empty() => NONE.to_owned(),
        "ClusterIP" | "NodePort" => external.join(","),
        _ => "<unknown>".to_owned(),
    };
    let ports: Vec<_> = items(spec, "ports")
        .iter()
        .map(|port| {
            let number = |field: &str| port.get(field).and_then(Value::as_i64);
            let node = number("nodePort").map(|port| format!(":{port}")).unwrap_or_default();
            format!("{}{node}/{}", number("port").unwrap_or(0), text(port, "protocol").unwrap_or_default())
        })
        .collect();
    let selector = spec.get("selector").and_then(Value::as_object).into_iter().flatten();
    let selector: Vec<_> =
        selector.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    let or_none = |text: String| Value::from(if text.is_empty() { NONE.to_owned() } else { text });
    let address = or_none(text(spec, "clusterIP").unwrap_or_default().to_owned());
    vec![
        name,
        kind.into(),
        address,
        external.into(),
        or_none(ports.join(",")),
        age,
        or_none(selector.join(",")),
    ]
}

fn pod(object: &Value, name: Value, age: Value) -> Vec<Value> {
    let total = items(object.get("spec").unwrap_or(&Value::Null), "containers").len();
    let statuses = items(object.get("status").unwrap_or(&Value::Null), "containerStatuses");
    let ready = statuses.iter().filter(|status| status.get("ready") == Some(&Value::Bool(true))).count();
    let restarts: i64 = statuses.iter().filter_map(|status| status.get("restartCount")?.as_i64()).sum();
    let deleted = object.pointer("/metadata/deletionTimestamp").is_some();
    let phase = if deleted { "Terminating" } else { at(object, "/status/phase") };
    let or_none = |text: &str| Value::from(if text.is_empty() { NONE } else { text });
    vec![
        name,
        format!("{ready}/{total}").into(),
        phase.into(),
        restarts.to_string().into(),
        age,
        or_none(at(object, "/status/podIP")),
        or_none(at(object, "/spec/nodeName")),
        NONE.into(),
        NONE.into(),
    ]
}

fn node(object: &Value, name: Value, age: Value) -> Vec<Value> {
    let status = object.get("status").unwrap_or(&Value::Null);
    let ready = items(status, "conditions").iter().find(|condition| text(condition, "type") == Some("Ready"));
    let mut state = match ready.and_then(|condition| text(condition, "status")) {
        Some("True") => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if object.pointer("/spec/unschedulable") == Some(&Value::Bool(true)) {
        state.push_str(",SchedulingDisabled");
    }
    let labels = object.pointer("/metadata/labels").and_then(Value::as_object).into_iter().flatten();
    let roles: Vec<_> =
        labels.filter_map(|(label, _)| label.strip_prefix("node-role.kubernetes.io/")).collect();
    let roles = if roles.is_empty() { NONE.to_owned() } else { roles.join(",") };
    let address = |kind: &str| {
        let found = items(status, "addresses").iter().find(|address| text(address, "type") == Some(kind));
        Value::from(found.and_then(|address| text(address, "address")).unwrap_or(NONE))
    };
    let info = |field: &str| {
        let value = at(status, &format!("/nodeInfo/{field}"));
        Value::from(if value.is_empty() { "<unknown>" } else { value })
    };
    vec![
        name,
        state.into(),
        roles.into(),
        age,
        at(status, "/nodeInfo/kubeletVersion").into(),
        address("InternalIP"),
        address("ExternalIP"),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}

fn event(kind: &Kind, object: &Value, name: Value) -> Vec<Value> {
    let core = if kind.is_new_event() { crate::shape::to_core_event(object.clone()) } else { object.clone() };
    let about = core.get("involvedObject").unwrap_or(&Value::Null);
    let kind = text(about, "kind").unwrap_or_default().to_lowercase();
    let object = format!("{kind}/{}", text(about, "name").unwrap_or_default());
    let source = at(&core, "/source/component");
    let source = if source.is_empty() { at(&core, "/reportingComponent") } else { source };
    let time = |field: &str| {
        let time = at(&core, field);
        let time = if time.is_empty() { at(&core, "/eventTime") } else { time };
        Value::from(age_of(time))
    };
    vec![
        time("/lastTimestamp"),
        at(&core, "/type").into(),
        at(&core, "/reason").into(),
        object.into(),
        at(about, "/fieldPath").into(),
        source.into(),
        at(&core, "/message").trim().into(),
        time("/firstTimestamp"),
        core.get("count").and_then(Value::as_i64).unwrap_or(1).into(),
        name,
    ]
}
