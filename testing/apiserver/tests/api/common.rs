//! A server, a client of it, and a namespace of one's own.

use std::future::Future;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

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
