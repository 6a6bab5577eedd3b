//! `sluicegate run --kubernetes` as an operator meets it: what it says while it waits, and what it does without an API
//! server. The objects themselves are the matter of the tests of `controller`.

#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a panic is a failed test")]

mod common;

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::{Backend, Gateway, eventually, free_address, try_get};
use serde_json::json;
use tempfile::TempDir;
use test_apiserver::{Effect, Fault, Options, Server};

/// An API server with one Ingress, a backend, and where its kubeconfig is.
struct Cluster {
    server: Server,
    backend: Backend,
    folder: TempDir,
}

impl Cluster {
    fn start() -> Self {
        let server = Server::start(Options::default()).unwrap();
        let folder = TempDir::new().unwrap();
        server.write_kubeconfig(&folder.path().join("kubeconfig")).unwrap();
        let backend = Backend::start_in_cluster("one");
        let cluster = Self { server, backend, folder };
        cluster.server.plant(service()).unwrap();
        cluster.server.plant(slice(cluster.backend.address)).unwrap();
        cluster.server.plant(ingress("web")).unwrap();
        cluster
    }

    fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    fn args<'a>(kubeconfig: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
        let mut args = vec!["--kubernetes", "--kubeconfig", kubeconfig.to_str().unwrap()];
        args.extend(more);
        args
    }

    fn gateway(&self, more: &[&str]) -> Gateway {
        Gateway::start_with(&Self::args(&self.kubeconfig(), more))
    }
}

fn service() -> serde_json::Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"},
        "spec": {"ports": [{"name": "http", "port": 80}]}})
}

fn slice(address: SocketAddr) -> serde_json::Value {
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "web-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
        "ports": [{"name": "http", "port": address.port()}],
        "endpoints": [{"addresses": [address.ip().to_string()], "conditions": {"ready": true}}]})
}

fn ingress(name: &str) -> serde_json::Value {
    let backend = json!({"service": {"name": "web", "port": {"number": 80}}});
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": name, "namespace": "default"},
        "spec": {"ingressClassName": "sluicegate", "rules": [{"host": format!("{name}.example.com"),
            "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}]}})
}

#[test]
fn ingresses_of_a_cluster_are_served_and_followed() {
    let cluster = Cluster::start();
    let gateway = cluster.gateway(&[]);
    assert_eq!(gateway.get("web.example.com", "/").status, 200);
    assert_eq!(gateway.admin("/readyz"), "ok\n");
    assert!(gateway.admin("/metrics").contains("sluicegate_kubernetes_synced{resource=\"Ingresses\"} 1\n"));
    cluster.server.plant(ingress("new")).unwrap();
    gateway.wait_for_status("new.example.com", "/", 200);
}

#[test]
fn start_says_what_it_waits_for_and_listens_only_when_it_has_it() {
    let cluster = Cluster::start();
    let fault = cluster
        .server
        .fail(Fault::new(Effect::Status { code: 403, retry_after: None }).resources(&["endpointslices"]));
    let (http, admin) = (free_address().to_string(), free_address().to_string());
    let kubeconfig = cluster.kubeconfig();
    let mut gateway = Gateway::launch(&Cluster::args(&kubeconfig, &["--http", &http, "--admin", &admin]));
    let page = |path: &str| try_get(admin.parse().unwrap(), "localhost", path);
    eventually("it says so", || {
        page("/readyz").is_ok_and(|page| {
            page.status == 503 && page.body.contains("waiting for EndpointSlices: 403 Forbidden")
        })
    });
    assert_eq!(page("/livez").unwrap().status, 200);
    assert!(TcpStream::connect(&http).is_err(), "neither 404 nor 503: whoever asks must go elsewhere");
    cluster.server.faults().remove(fault);
    gateway.wait_until_ready();
    assert_eq!(gateway.get("web.example.com", "/").status, 200);
    assert_eq!(page("/readyz").unwrap().body, "ok\n");
}

#[test]
fn signal_ends_a_start_that_waits() {
    let cluster = Cluster::start();
    cluster.server.faults().set_refusing(true);
    let admin = free_address().to_string();
    let kubeconfig = cluster.kubeconfig();
    let mut gateway = Gateway::launch(&Cluster::args(&kubeconfig, &["--admin", &admin]));
    eventually("it says that it waits", || {
        try_get(admin.parse().unwrap(), "localhost", "/readyz")
            .is_ok_and(|page| page.body.contains("waiting for Ingresses: unreachable"))
    });
    let start = Instant::now();
    gateway.signal("TERM");
    gateway.wait_for_exit();
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

#[test]
fn restart_without_the_api_server_serves_from_disk_says_so_and_moves_over_when_it_returns() {
    let cluster = Cluster::start();
    let state = cluster.folder.path().join("state");
    let state = ["--state-dir", state.to_str().unwrap()];
    let mut gateway = cluster.gateway(&state);
    assert_eq!(gateway.get("web.example.com", "/").status, 200);
    gateway.signal("TERM");
    gateway.wait_for_exit();

    cluster.server.faults().set_refusing(true);
    let start = Instant::now();
    let gateway = cluster.gateway(&state);
    assert_eq!(gateway.get("web.example.com", "/").status, 200);
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    let page = gateway.admin("/readyz");
    assert!(page.starts_with("ok\nserving the last known configuration from disk"), "{page}");
    assert!(gateway.admin("/metrics").contains("\nsluicegate_kubernetes_served_from_disk 1\n"));
    gateway.wait_for_log("serving the last known configuration from disk");

    cluster.server.forget_history(Some(5));
    cluster.server.plant(ingress("new")).unwrap();
    let other = Backend::start_in_cluster("two");
    cluster.server.plant(slice(other.address)).unwrap();
    let start = Instant::now();
    cluster.server.faults().set_refusing(false);
    while !try_get(gateway.http, "new.example.com", "/").is_ok_and(|answer| answer.body.contains("two")) {
        assert!(start.elapsed() < Duration::from_secs(1));
        assert_eq!(gateway.get("web.example.com", "/").status, 200);
    }
    eventually("all is well", || gateway.admin("/readyz") == "ok\n");
    assert!(gateway.admin("/metrics").contains("\nsluicegate_kubernetes_served_from_disk 0\n"));
}

#[test]
fn requests_do_not_notice_that_the_api_server_is_away_or_has_another_history() {
    let cluster = Cluster::start();
    let gateway = cluster.gateway(&[]);
    let wait = |time: u64| {
        let until = Instant::now() + Duration::from_millis(time);
        while Instant::now() < until {
            assert_eq!(gateway.get("web.example.com", "/").status, 200);
        }
    };
    wait(100);
    cluster.server.faults().set_refusing(true);
    wait(1_500);
    cluster.server.forget_history(Some(9));
    cluster.server.faults().set_refusing(false);
    wait(1_000);
    assert_eq!(gateway.admin("/readyz"), "ok\n");
    cluster.server.faults().reset_connections();
    cluster.server.compact();
    wait(500);
    cluster.server.plant(ingress("new")).unwrap();
    gateway.wait_for_status("new.example.com", "/", 200);
}

#[test]
fn configuration_that_cannot_be_used_ends_the_start_and_is_explained() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("kubeconfig");
    let run = |args: &[&str]| {
        let kubeconfig = path.to_str().unwrap();
        let base =
            ["run", "--kubernetes", "--kubeconfig", kubeconfig, "--http", "127.0.0.1:0", "--https", "none"];
        common::run(&[&base, args].concat())
    };
    let (code, _, error) = run(&[]);
    assert!(code == 1 && error.contains("cannot use the kubeconfig"), "{code} {error}");
    std::fs::write(&path, "apiVersion: v1\nkind: Config\n").unwrap();
    let (code, _, error) = run(&[]);
    assert!(code == 1 && error.contains("cannot use the kubeconfig"), "{code} {error}");
    let server = Server::start(Options::default()).unwrap();
    server.write_kubeconfig(&path).unwrap();
    let (code, _, error) = run(&["--state-dir", "/proc/none", "--admin", "none"]);
    assert!(code == 1 && error.contains("--state-dir: cannot write to /proc/none"), "{code} {error}");
}
