//! An API server, a client that changes things, and a source that follows.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use config::index::Event;
use config::resource::Object;
use controller::source::Source;
use controller::source::kube::{KubeSource, Progress, Settings};
use controller::status::Notes;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use test_apiserver::{Options, Server};
use tokio::sync::mpsc;

/// Longer than anything takes that is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
pub(crate) const MS: Duration = Duration::from_millis(1);

pub(crate) fn server() -> Server {
    Server::start(Options::default()).unwrap()
}

pub(crate) fn configuration(kubeconfig: &str) -> kube::Config {
    let kubeconfig = Kubeconfig::from_yaml(kubeconfig).unwrap();
    let options = KubeConfigOptions::default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(kube::Config::from_custom_kubeconfig(kubeconfig, &options)).unwrap()
}

/// A client that writes.
pub(crate) struct Api {
    runtime: tokio::runtime::Runtime,
    client: kube::Client,
}

impl Api {
    pub(crate) fn new(server: &Server) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let config = configuration(&server.kubeconfig());
        let client = {
            let _inside = runtime.enter();
            controller::cluster::client(&config).unwrap()
        };
        Self { runtime, client }
    }

    fn send(&self, method: &str, path: &str, media: &str, body: &Value) -> Value {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let request = || {
            let builder = http::Request::builder().method(method).uri(path).header("content-type", media);
            builder.body(body.clone()).unwrap()
        };
        let start = Instant::now();
        loop {
            match self.runtime.block_on(self.client.request_text(request())) {
                Ok(text) => return serde_json::from_str(&text).unwrap(),
                // A connection of the pool that the server has closed.
                Err(kube::Error::Service(_)) if start.elapsed() < PATIENCE => {}
                Err(error) => panic!("{method} {path}: {error:?}"),
            }
        }
    }

    pub(crate) fn create(&self, object: &Value) {
        let path = path_of(object);
        self.send("POST", path.rsplit_once('/').unwrap().0, "application/json", object);
    }

    /// Changes some of an object's fields.
    pub(crate) fn merge(&self, object: &Value, patch: &Value) {
        self.send("PATCH", &path_of(object), "application/merge-patch+json", patch);
    }

    pub(crate) fn delete(&self, object: &Value) {
        self.send("DELETE", &path_of(object), "application/json", &Value::Null);
    }
}

fn path_of(object: &Value) -> String {
    let kind = object["kind"].as_str().unwrap();
    let plural = match kind {
        "IngressClass" => "ingressclasses".to_owned(),
        "Ingress" => "ingresses".to_owned(),
        kind => format!("{}s", kind.to_lowercase()),
    };
    let version = object["apiVersion"].as_str().unwrap();
    let api = if version == "v1" { "/api/v1".to_owned() } else { format!("/apis/{version}") };
    let name = object["metadata"]["name"].as_str().unwrap();
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("{api}/namespaces/{namespace}/{plural}/{name}"),
        None => format!("{api}/{plural}/{name}"),
    }
}

pub(crate) fn service(name: &str, port: u16) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
        "spec": {"ports": [{"name": "http", "port": port}]}})
}

pub(crate) fn slice(name: &str, address: &str) -> Value {
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": name}},
        "ports": [{"name": "http", "port": 8080}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": true}}]})
}

pub(crate) fn ingress(name: &str, secret: Option<&str>) -> Value {
    let backend = json!({"service": {"name": "web", "port": {"number": 80}}});
    let host = format!("{name}.example.com");
    let mut object = json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"rules": [{"host": host, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}]}});
    if let Some(secret) = secret {
        object["spec"]["tls"] = json!([{"hosts": [host], "secretName": secret}]);
    }
    object
}

pub(crate) fn secret(name: &str, text: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": "default"},
        "type": "Opaque", "stringData": {"ca.crt": text}})
}

pub(crate) fn within(mut object: Value, namespace: &str) -> Value {
    object["metadata"]["namespace"] = namespace.into();
    object
}

/// What a source has passed on.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// object → what it is now
    pub(crate) objects: BTreeMap<String, Object>,
    /// object → what there is to say about it
    pub(crate) problems: BTreeMap<String, usize>,
    /// Every batch: `+` new or changed, `=` not changed, `-` gone.
    pub(crate) batches: Vec<Vec<String>>,
}

impl Seen {
    fn take(&mut self, events: Vec<Event>) {
        let mut batch = Vec::new();
        for event in events {
            match event {
                Event::Apply(object) => {
                    let name = object.reference.to_string();
                    let is_same = self.objects.get(&name) == Some(&object);
                    batch.push(format!("{}{name}", if is_same { '=' } else { '+' }));
                    self.objects.insert(name, object);
                }
                Event::Delete(reference) => {
                    let name = reference.to_string();
                    if self.objects.remove(&name).is_some() {
                        batch.push(format!("-{name}"));
                    }
                }
                Event::Problems { source, problems } if problems.is_empty() => {
                    self.problems.remove(&*source);
                }
                Event::Problems { source, problems } => {
                    self.problems.insert(source.to_string(), problems.len());
                }
                Event::Zone(zone) => batch.push(format!("zone {zone:?}")),
                // Its last good version stays.
                Event::Undecoded { .. } => {}
                event => panic!("{event:?}"),
            }
        }
        self.batches.push(batch);
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.objects.contains_key(name)
    }

    /// Everything that changed in all batches but the first, in order.
    pub(crate) fn changes(&self) -> Vec<String> {
        let later = self.batches.iter().skip(1).flatten();
        later.filter(|change| !change.starts_with('=')).cloned().collect()
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.objects.keys().cloned().collect()
    }
}

/// A source that runs until it is dropped.
pub(crate) struct Follower {
    seen: Arc<Mutex<Seen>>,
    pub(crate) progress: Arc<Progress>,
    /// `true` to read everything again; closed to end.
    orders: Option<mpsc::UnboundedSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Follower {
    pub(crate) fn start(kubeconfig: &str, settings: Settings) -> Self {
        let mut source = KubeSource::new(configuration(kubeconfig), settings, Notes::to_nobody());
        let progress = source.progress();
        let seen = Arc::<Mutex<Seen>>::default();
        let (orders, mut receiver) = mpsc::unbounded_channel();
        let passed = Arc::clone(&seen);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                loop {
                    tokio::select! {
                        batch = source.next() => passed.lock().unwrap().take(batch.events),
                        order = receiver.recv() => match order {
                            Some(()) => source.reread(),
                            None => return,
                        }
                    }
                }
            });
        });
        Self { seen, progress, orders: Some(orders), thread: Some(thread) }
    }

    /// A source that has passed on its first batch.
    pub(crate) fn synced(server: &Server, settings: Settings) -> Self {
        let follower = Self::start(&server.kubeconfig(), settings);
        follower.until("the first batch", |seen| !seen.batches.is_empty());
        for resource in ["EndpointSlices", "Ingresses", "Services"] {
            until("a watch", || follower.watches(resource) >= 1.0);
        }
        follower
    }

    fn watches(&self, resource: &str) -> f64 {
        self.metric(&format!("watches_total{{resource=\"{resource}\"}}"))
    }

    /// Has the server end all watches.
    pub(crate) fn end_watches(&self, server: &Server) {
        let ended = || {
            let failures = "failures_total{resource=\"Services\",cause=";
            self.watches("Services")
                + self.metric(&format!("{failures}\"status\"}}"))
                + self.metric(&format!("{failures}\"forbidden\"}}"))
                + self.metric(&format!("{failures}\"gone\"}}"))
        };
        let before = ended();
        // One that is just being opened is not ended the first time.
        until("watches end", || {
            server.faults().end_watches();
            ended() > before
        });
    }

    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }

    pub(crate) fn reread(&self) {
        self.orders.as_ref().unwrap().send(()).unwrap();
    }

    /// Waits until it is so; returns how long that took.
    pub(crate) fn until(&self, what: &str, mut is_so: impl FnMut(&Seen) -> bool) -> Duration {
        let start = Instant::now();
        loop {
            let seen = self.seen();
            if is_so(&seen) {
                return start.elapsed();
            }
            assert!(
                start.elapsed() < PATIENCE,
                "not within {PATIENCE:?}: {what}; {:#?} {seen:#?}",
                self.progress.lines()
            );
            drop(seen);
            std::thread::sleep(MS);
        }
    }

    /// The value of a metric, by its name with labels.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let mut text = String::new();
        self.progress.render_metrics(&mut text);
        let line = text.lines().find(|line| line.starts_with(&format!("sluicegate_kubernetes_{name} ")));
        line.map_or(0.0, |line| line.rsplit_once(' ').unwrap().1.parse().unwrap())
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        drop(self.orders.take());
        // A panic of the thread was printed when it happened.
        let _ = self.thread.take().unwrap().join();
    }
}

/// Waits until it is so.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(MS);
    }
    start.elapsed()
}

pub(crate) fn state(path: &std::path::Path) -> Settings {
    Settings { state: Some(PathBuf::from(path)), ..Settings::default() }
}
