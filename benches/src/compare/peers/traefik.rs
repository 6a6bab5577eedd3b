//! Traefik, with static configuration and one dynamic file.

use anyhow::Result;
use serde_json::{Value, json};

use super::{Launch, Ready, Setup};
use crate::compare::scenario::{Back, Front, HOSTS, Table};
use crate::tls::NAME;

pub(super) fn launch(setup: &Setup<'_>) -> Result<Launch> {
    let (dynamic, path, suffix) = match setup.scenario.front {
        Front::Tcp => (layer4(setup, "tcp"), "/api/tcp/services/bench@file", ""),
        Front::Udp => (layer4(setup, "udp"), "/api/udp/services/bench@file", "/udp"),
        _ => (http(setup), "/api/http/services/bench@file", ""),
    };
    std::fs::write(setup.folder.join("dynamic.json"), dynamic.to_string())?;
    let log = if setup.scenario.log {
        format!("accessLog:\n  format: json\n  filePath: {}\n  bufferingSize: 100\n", setup.log().display())
    } else {
        String::new()
    };
    let config = setup.write("traefik.yaml", &[("LOG", log), ("SUFFIX", suffix.to_owned())])?;
    let mut launch = Launch::new([format!("--configFile={config}")], Ready::Says(setup.admin, path));
    launch.env.push(("GOMAXPROCS", setup.workers.to_string()));
    Ok(launch)
}

fn layer4(setup: &Setup<'_>, protocol: &str) -> Value {
    let servers: Vec<_> = setup.backends().map(|backend| json!({"address": backend.to_string()})).collect();
    let mut router = json!({"entryPoints": ["bench"], "service": "bench"});
    if let (true, Some(router)) = (protocol == "tcp", router.as_object_mut()) {
        router.insert("rule".to_owned(), "HostSNI(`*`)".into());
    }
    json!({protocol: {
        "routers": {"bench": router},
        "services": {"bench": {"loadBalancer": {"servers": servers}}},
    }})
}

fn http(setup: &Setup<'_>) -> Value {
    let scheme = if setup.scenario.back == Back::Http1 { "http" } else { "h2c" };
    let servers: Vec<_> =
        setup.backends().map(|backend| json!({"url": format!("{scheme}://{backend}")})).collect();
    let router = |rule: String| json!({"entryPoints": ["bench"], "rule": rule, "service": "bench"});
    let mut routers = serde_json::Map::new();
    if setup.scenario.table == Table::Hosts {
        let rule = |number| router(format!("Host(`h{number}.{NAME}`)"));
        routers.extend((0..HOSTS).map(|number| (format!("h{number}"), rule(number))));
    } else {
        routers.insert("bench".to_owned(), router("PathPrefix(`/`)".to_owned()));
    }
    let mut dynamic = json!({});
    if let (true, Some(dynamic)) = (setup.scenario.front.is_tls(), dynamic.as_object_mut()) {
        for router in routers.values_mut().filter_map(Value::as_object_mut) {
            router.insert("tls".to_owned(), json!({}));
        }
        let files = json!({"certFile": setup.file("leaf.crt"), "keyFile": setup.file("leaf.key")});
        dynamic.insert(
            "tls".to_owned(),
            json!({
                "certificates": [files], "stores": {"default": {"defaultCertificate": files}},
            }),
        );
    }
    let http = json!({
        "routers": routers,
        "services": {"bench": {"loadBalancer": {"servers": servers, "serversTransport": "bench"}}},
        "serversTransports": {"bench": {"maxIdleConnsPerHost": 1_024}},
    });
    if let Some(dynamic) = dynamic.as_object_mut() {
        dynamic.insert("http".to_owned(), http);
    }
    dynamic
}
