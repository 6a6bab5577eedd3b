//! A server, a client of it, and a namespace of one's own.

use std::future::Future;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use futures_util::AsyncBufReadExt;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};
use test_apiserver::{Options, Server};

/// A client of the server under test.
pub(crate) struct Api {
    pub(crate) client: Client,
    pub(crate) namespace: String,
}

/// Runs `test` with a client and a namespace that is removed afterwards.
pub(crate) fn with<F: Future<Output = ()>>(test: impl FnOnce(Api) -> F) {
    static SERVER: OnceLock<Server> = OnceLock::new();
    let text = match std::env::var_os("TEST_APISERVER_KUBECONFIG") {
        Some(path) => std::fs::read_to_string(PathBuf::from(path)).unwrap(),
        None => SERVER.get_or_init(|| Server::start(Options::default()).unwrap()).kubeconfig(),
    };
    run(&text, test);
}

/// Runs `test` with a client of the server that `kubeconfig` names.
pub(crate) fn run<F: Future<Output = ()>>(kubeconfig: &str, test: impl FnOnce(Api) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = client(kubeconfig).await;
        let namespace = format!("t-{:08x}", fastrand::u32(..));
        let path = "/api/v1/namespaces";
        send(&client, "POST", path, "", json!({"metadata": {"name": namespace}})).await.unwrap();
        let api = Api { client: client.clone(), namespace: namespace.clone() };
        tokio::time::timeout(Duration::from_secs(60), test(api)).await.expect("in time");
        let path = format!("{path}/{namespace}");
        send(&client, "DELETE", &path, "", Value::Null).await.unwrap();
    });
}

/// A client as the crate `kube` makes it.
pub(crate) async fn client(kubeconfig: &str) -> Client {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let kubeconfig = Kubeconfig::from_yaml(kubeconfig).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    Client::try_from(config).unwrap()
}

/// One request; the object, or the `Status` that was answered.
pub(crate) async fn send(
    client: &Client,
    method: &str,
    path: &str,
    media: &str,
    body: Value,
) -> Result<Value, Value> {
    let media = if media.is_empty() { "application/json" } else { media };
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let request =
        http::Request::builder().method(method).uri(path).header("content-type", media).body(body).unwrap();
    match client.request_text(request).await {
        Ok(text) => Ok(serde_json::from_str(&text).unwrap()),
        Err(kube::Error::Api(status)) => Err(serde_json::to_value(status).unwrap()),
        Err(error) => panic!("{method} {path}: {error}"),
    }
}

impl Api {
    /// Path of a namespaced resource: `v1/services` or `networking.k8s.io/v1/ingresses/NAME`.
    pub(crate) fn path(&self, resource: &str) -> String {
        let mut parts = resource.splitn(3, '/');
        let (first, second, third) = (parts.next().unwrap(), parts.next().unwrap(), parts.next());
        let namespace = &self.namespace;
        match (first, third) {
            ("v1", None) => format!("/api/v1/namespaces/{namespace}/{second}"),
            ("v1", Some(rest)) => format!("/api/v1/namespaces/{namespace}/{second}/{rest}"),
            (group, Some(rest)) => format!("/apis/{group}/{second}/namespaces/{namespace}/{rest}"),
            _ => panic!("{resource}"),
        }
    }

    pub(crate) async fn get(&self, resource: &str) -> Result<Value, Value> {
        send(&self.client, "GET", &self.path(resource), "", Value::Null).await
    }

    pub(crate) async fn post(&self, resource: &str, body: Value) -> Result<Value, Value> {
        send(&self.client, "POST", &self.path(resource), "", body).await
    }

    pub(crate) async fn put(&self, resource: &str, body: Value) -> Result<Value, Value> {
        send(&self.client, "PUT", &self.path(resource), "", body).await
    }

    pub(crate) async fn merge(&self, resource: &str, body: Value) -> Result<Value, Value> {
        send(&self.client, "PATCH", &self.path(resource), "application/merge-patch+json", body).await
    }

    pub(crate) async fn delete(&self, resource: &str) -> Result<Value, Value> {
        send(&self.client, "DELETE", &self.path(resource), "", Value::Null).await
    }
}

/// Code and reason of a refusal.
pub(crate) fn refusal(result: Result<Value, Value>) -> (u64, String) {
    let status = result.expect_err("a refusal");
    (status["code"].as_u64().unwrap(), status["reason"].as_str().unwrap_or_default().to_owned())
}

impl Api {
    /// A request that may fail in other ways than by a `Status`.
    pub(crate) async fn try_get(&self, resource: &str) -> Result<String, kube::Error> {
        self.client.request_text(http::Request::get(self.path(resource)).body(Vec::new()).unwrap()).await
    }

    /// A GET that is repeated while there is no connection.
    pub(crate) async fn retry_get(&self, resource: &str) -> Result<Value, Value> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match self.try_get(resource).await {
                Ok(text) => return Ok(serde_json::from_str(&text).unwrap()),
                Err(kube::Error::Api(status)) => return Err(serde_json::to_value(status).unwrap()),
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// A request for what only the server of this crate has.
    pub(crate) async fn control(&self, method: &str, path: &str, body: Value) -> Value {
        send(&self.client, method, path, "", body).await.unwrap()
    }

    /// The version of a list.
    pub(crate) async fn version(&self, resource: &str) -> u64 {
        let list = self.get(resource).await.unwrap();
        list["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
    }

    /// The names in a list, but for what a cluster puts into each namespace.
    pub(crate) async fn names(&self, resource: &str) -> Vec<String> {
        let list = self.get(resource).await.unwrap();
        let names =
            list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap());
        names.filter(|name| *name != "kube-root-ca.crt").map(str::to_owned).collect()
    }
}

/// The events of a watch.
pub(crate) struct Events(Box<dyn futures_util::AsyncBufRead + Unpin>);

impl Events {
    pub(crate) async fn open(api: &Api, resource: &str, query: &str) -> Self {
        let path = api.path(resource) + query;
        let request = http::Request::get(path).body(Vec::new()).unwrap();
        Self(Box::new(Box::pin(api.client.request_stream(request).await.unwrap())))
    }

    /// The next event; none when the watch is over.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        let mut line = String::new();
        match self.0.read_line(&mut line).await {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(serde_json::from_str(&line).unwrap()),
        }
    }

    /// The names in the next events.
    pub(crate) async fn named(&mut self, count: usize) -> Vec<String> {
        let mut names = Vec::new();
        while names.len() < count {
            let event = self.next().await.expect("an event");
            let name = event["object"]["metadata"]["name"].as_str().unwrap().to_owned();
            if name != "kube-root-ca.crt" {
                names.push(name);
            }
        }
        names
    }
}
