//! A cluster for tests: an API server, a client of it, and what an administrator does.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use tempfile::TempDir;
use test_apiserver::{Fault, Options, Server, Token};
use tokio::runtime::Runtime;

use crate::common::Gateway;

/// Namespace of everything that tests make.
pub(crate) const NAMESPACE: &str = "shop";

pub(crate) struct Cluster {
    pub(crate) server: Server,
    client: kube::Client,
    runtime: Runtime,
    folder: TempDir,
}

impl Cluster {
    pub(crate) fn start() -> Self {
        Self::start_with(vec![Token::admin("admin"), token("one"), token("two")])
    }

    pub(crate) fn start_with(tokens: Vec<Token>) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let server = Server::start(Options { tokens, ..Options::default() }).unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let client = runtime.block_on(async {
            let kubeconfig = Kubeconfig::from_yaml(&server.kubeconfig()).unwrap();
            let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
            kube::Client::try_from(config.unwrap()).unwrap()
        });
        let cluster = Self { server, client, runtime, folder: TempDir::new().unwrap() };
        cluster.create("/api/v1/namespaces", json!({"metadata": {"name": NAMESPACE}}));
        for (name, controller) in
            [("sluicegate", "sluicegate.dev/ingress-controller"), ("other", "example.com/other")]
        {
            cluster.create(
                "/apis/networking.k8s.io/v1/ingressclasses",
                json!({"metadata": {"name": name}, "spec": {"controller": controller}}),
            );
        }
        cluster
    }

    /// A gateway for the cluster, as the user of `token`.
    pub(crate) fn gateway(&self, token: &str, args: &[&str]) -> Gateway {
        let path = self.kubeconfig(token);
        Gateway::start_with(&[&["--kubernetes", "--kubeconfig", path.to_str().unwrap()], args].concat())
    }

    fn kubeconfig(&self, token: &str) -> PathBuf {
        let path = self.folder.path().join(token);
        std::fs::write(&path, self.server.kubeconfig_of(token)).unwrap();
        path
    }

    fn send(&self, method: &str, path: &str, media: &str, body: &Value) -> Result<Value, u16> {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let ask = || {
            let request = http::Request::builder().method(method).uri(path).header("content-type", media);
            self.runtime.block_on(self.client.request_text(request.body(body.clone()).unwrap()))
        };
        let answer = match ask() {
            // The connection was from before the server went away, which the client had not noticed.
            Err(kube::Error::Service(_)) if method != "POST" => ask(),
            answer => answer,
        };
        match answer {
            Ok(text) => Ok(serde_json::from_str(&text).unwrap()),
            Err(kube::Error::Api(status)) => Err(status.code),
            Err(error) => panic!("{method} {path}: {error}"),
        }
    }

    pub(crate) fn create(&self, path: &str, object: Value) -> Value {
        self.send("POST", path, "application/json", &object).unwrap()
    }

    pub(crate) fn read(&self, path: &str) -> Option<Value> {
        self.send("GET", path, "", &Value::Null).ok()
    }

    pub(crate) fn patch(&self, path: &str, patch: Value) -> Value {
        self.send("PATCH", path, "application/merge-patch+json", &patch).unwrap()
    }

    pub(crate) fn delete(&self, path: &str) {
        self.send("DELETE", path, "application/json", &Value::Null).unwrap();
    }

    pub(crate) fn list(&self, path: &str) -> Vec<Value> {
        let list = self.read(path).unwrap();
        list["items"].as_array().unwrap().clone()
    }

    /// Makes an Ingress of `class` for the host `NAME.example`.
    pub(crate) fn ingress(&self, name: &str, class: &str) {
        self.create(&ingresses(), ingress(name, class));
    }

    /// Makes `count` Ingresses of our class at once.
    pub(crate) fn many_ingresses(&self, count: usize) {
        let requests = (0..count).map(|index| {
            let body = ingress(&format!("many-{index}"), "sluicegate").to_string().into_bytes();
            let request =
                http::Request::post(ingresses()).header("content-type", "application/json").body(body);
            let client = self.client.clone();
            async move { client.request_text(request.unwrap()).await.map(drop) }
        });
        self.runtime.block_on(async {
            let mut tasks = tokio::task::JoinSet::<kube::Result<()>>::new();
            for request in requests {
                if tasks.len() >= 32 {
                    tasks.join_next().await.unwrap().unwrap().unwrap();
                }
                tasks.spawn(request);
            }
            tasks.join_all().await.into_iter().for_each(Result::unwrap);
        });
    }

    /// What the status of an Ingress lists, in any order. Empty if there is no such Ingress.
    pub(crate) fn status(&self, name: &str) -> BTreeSet<String> {
        self.read(&format!("{}/{name}", ingresses())).as_ref().map(listed).unwrap_or_default()
    }

    /// Waits until the status of an Ingress lists exactly these.
    pub(crate) fn wait_for_status(&self, name: &str, wanted: &[&str]) {
        let wanted: BTreeSet<String> = wanted.iter().map(|one| (*one).to_owned()).collect();
        within(Duration::from_secs(30), &format!("{name} has {wanted:?}"), || self.status(name) == wanted);
    }

    /// Has somebody else write the status of an Ingress.
    pub(crate) fn write_status(&self, name: &str, entries: Value) {
        let path = format!("{}/{name}/status?fieldManager=somebody-else", ingresses());
        self.patch(&path, json!({"status": {"loadBalancer": {"ingress": entries}}}));
    }

    pub(crate) fn events(&self) -> Vec<Value> {
        self.list(&format!("/apis/events.k8s.io/v1/namespaces/{NAMESPACE}/events"))
    }

    pub(crate) fn holder(&self) -> String {
        let lease = self.read("/apis/coordination.k8s.io/v1/namespaces/default/leases/sluicegate-leader");
        lease.and_then(|lease| Some(lease["spec"]["holderIdentity"].as_str()?.to_owned())).unwrap_or_default()
    }

    /// Waits until somebody holds the Lease, or somebody else than before.
    pub(crate) fn wait_for_leader(&self, other_than: &str) -> String {
        let mut holder = String::new();
        within(Duration::from_secs(30), "somebody leads", || {
            holder = self.holder();
            !holder.is_empty() && holder != other_than
        });
        holder
    }

    /// Counts what a user writes to statuses from now on.
    pub(crate) fn count_writes_of(&self, user: &str) -> Count<'_> {
        let fault = Fault::new(test_apiserver::Effect::Delay { millis: 0 });
        let fault = fault.users(&[user]).verbs(&["patch"]).resources(&["ingresses/status"]).times(MANY);
        Count { server: &self.server, id: self.server.fail(fault) }
    }

    pub(crate) fn writes(&self) -> u64 {
        self.server.requests().writes("ingresses/status")
    }
}

const MANY: u64 = 1_000_000;

/// How often a user wrote.
pub(crate) struct Count<'s> {
    server: &'s Server,
    id: test_apiserver::FaultId,
}

impl Count<'_> {
    pub(crate) fn now(&self) -> u64 {
        let rules = self.server.faults().rules_now();
        let rule = rules.iter().find(|(id, _)| *id == self.id).unwrap();
        MANY - rule.1.times.unwrap()
    }
}

/// A token that may do everything, of a user of the same name.
pub(crate) fn token(name: &str) -> Token {
    Token { user: name.to_owned(), ..Token::admin(name) }
}

pub(crate) fn ingresses() -> String {
    format!("/apis/networking.k8s.io/v1/namespaces/{NAMESPACE}/ingresses")
}

fn ingress(name: &str, class: &str) -> Value {
    let backend = json!({"service": {"name": "web", "port": {"number": 80}}});
    let path = json!({"path": "/", "pathType": "Prefix", "backend": backend});
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"ingressClassName": class, "rules": [{"host": format!("{name}.example"), "http": {"paths": [path]}}]},
    })
}

/// What the status of an Ingress lists.
pub(crate) fn listed(ingress: &Value) -> BTreeSet<String> {
    let entries = ingress["status"]["loadBalancer"]["ingress"].as_array();
    let entries = entries.into_iter().flatten();
    entries
        .filter_map(|entry| Some(entry["ip"].as_str().or_else(|| entry["hostname"].as_str())?.to_owned()))
        .collect()
}

/// Waits until `condition` holds.
pub(crate) fn within(patience: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {patience:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Watches for a time that `condition` holds all along.
pub(crate) fn throughout(time: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        assert!(condition(), "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
