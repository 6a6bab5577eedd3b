//! Ourselves, driven by a file: a Service, its EndpointSlice and the Ingresses of the scenario; or a native listener for
//! connections and datagrams.

use std::fs;

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use super::{BACKENDS, Launch, Ready, Setup};
use crate::compare::scenario::{Back, Front, HOSTS, Table};
use crate::tls::NAME;

pub(super) fn launch(setup: &Setup<'_>) -> Result<Launch> {
    let config = setup.folder.join("config");
    fs::create_dir(&config)?;
    let content = match setup.scenario.front {
        Front::Tcp => listener(setup, "tcp"),
        Front::Udp => listener(setup, "udp"),
        _ => json!({"apiVersion": "v1", "kind": "List", "items": objects(setup)?}),
    };
    fs::write(config.join("bench.json"), content.to_string())?;
    let (http, https) = match setup.scenario.front {
        Front::Tcp | Front::Udp => ("none".to_owned(), "none".to_owned()),
        front if front.is_tls() => ("none".to_owned(), setup.listen()),
        _ => (setup.listen(), "none".to_owned()),
    };
    let mut args: Vec<String> = ["run", "--config"].map(str::to_owned).to_vec();
    args.push(config.display().to_string());
    args.extend(["--http".to_owned(), http, "--https".to_owned(), https]);
    args.extend(["--admin".to_owned(), format!("127.0.0.1:{}", setup.admin)]);
    args.extend(["--workers".to_owned(), setup.workers.to_string(), "--access-log".to_owned()]);
    if setup.scenario.log {
        args.extend(["json".to_owned(), "--access-log-file".to_owned(), setup.log().display().to_string()]);
    } else {
        args.push("off".to_owned());
    }
    Ok(Launch::new(args, Ready::Says(setup.admin, "/readyz")))
}

fn listener(setup: &Setup<'_>, protocol: &str) -> Value {
    let endpoints: Vec<_> = setup.backends().map(|backend| backend.to_string()).collect();
    json!({
        "listeners": [
            {"name": "bench", "address": setup.listen(), "protocol": protocol, "forward": {"backend": "bench"}},
        ],
        "backends": [{"name": "bench", "endpoints": endpoints}],
    })
}

fn objects(setup: &Setup<'_>) -> Result<Vec<Value>> {
    let mut objects = service(setup);
    let table = if setup.variant == "one-route" { Table::One } else { setup.scenario.table };
    match table {
        Table::Hosts => objects.extend((0..HOSTS).map(|number| {
            ingress(setup, &format!("h{number}"), Some(&format!("h{number}.{NAME}")), &["/".to_owned()])
        })),
        Table::Paths => {
            let paths: Vec<_> = (0..HOSTS).map(|number| format!("/p{number}")).collect();
            objects.push(ingress(setup, "paths", Some(NAME), &paths));
        }
        Table::One => {
            let host = setup.scenario.front.is_tls().then_some(NAME);
            objects.push(ingress(setup, "bench", host, &["/".to_owned()]));
        }
    }
    if setup.scenario.front.is_tls() {
        objects.push(secret(setup)?);
    }
    Ok(objects)
}

fn service(setup: &Setup<'_>) -> Vec<Value> {
    let endpoints: Vec<_> =
        BACKENDS.iter().map(|host| json!({"addresses": [host], "conditions": {"ready": true}})).collect();
    vec![
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "bench", "namespace": "bench"},
            "spec": {"ports": [{"port": 80, "targetPort": setup.backend_port}]},
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {
                "name": "bench-1", "namespace": "bench",
                "labels": {"kubernetes.io/service-name": "bench"},
            },
            "ports": [{"port": setup.backend_port, "protocol": "TCP"}],
            "endpoints": endpoints,
        }),
    ]
}

fn ingress(setup: &Setup<'_>, name: &str, host: Option<&str>, paths: &[String]) -> Value {
    let backend = json!({"service": {"name": "bench", "port": {"number": 80}}});
    let paths: Vec<_> =
        paths.iter().map(|path| json!({"path": path, "pathType": "Prefix", "backend": backend})).collect();
    let mut rule = json!({"http": {"paths": paths}});
    if let (Some(host), Some(rule)) = (host, rule.as_object_mut()) {
        rule.insert("host".to_owned(), host.into());
    }
    let mut spec = json!({"rules": [rule]});
    if let (true, Some(spec)) = (setup.scenario.front.is_tls(), spec.as_object_mut()) {
        spec.insert("tls".to_owned(), json!([{"hosts": [NAME], "secretName": "bench"}]));
    }
    let annotations = match setup.scenario.back {
        Back::Http1 => json!({}),
        Back::Http2 => json!({"sluicegate.dev/backend-protocol": "H2C"}),
        Back::Grpc => json!({"sluicegate.dev/backend-protocol": "GRPC"}),
    };
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"name": name, "namespace": "bench", "annotations": annotations},
        "spec": spec,
    })
}

fn secret(setup: &Setup<'_>) -> Result<Value> {
    let part = |name: &str| -> Result<String> { Ok(BASE64.encode(fs::read(setup.folder.join(name))?)) };
    Ok(json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"name": "bench", "namespace": "bench"},
        "data": {"tls.crt": part("leaf.crt")?, "tls.key": part("leaf.key")?},
    }))
}
