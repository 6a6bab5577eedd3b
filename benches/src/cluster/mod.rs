//! A cluster as an API server shows it, for the drivers of `cluster`: objects of many Services, backends that say who
//! they are, and a probe that says when which of them answered. Owns no figures; the driver does.

pub mod backend;
pub mod objects;
pub mod probe;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::{AsyncBufReadExt, StreamExt, TryStreamExt, stream};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::Value;
use tempfile::TempDir;
use test_apiserver::{Options, Server};

/// Requests to the API server at a time.
const CONCURRENCY: usize = 32;

/// The API server that is used, and how to reach it.
pub struct Cluster {
    client: Client,
    kubeconfig: PathBuf,
    /// Ours, unless another one was named.
    server: Option<Server>,
    _folder: TempDir,
}

impl Cluster {
    /// The server of `kubeconfig`, or one of our own in this process.
    ///
    /// # Errors
    /// If it cannot be started or reached.
    pub async fn new(kubeconfig: Option<&Path>) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let (kubeconfig, server) = match kubeconfig {
            Some(path) => (path.to_owned(), None),
            None => {
                let server = Server::start(Options::default())?;
                let path = folder.path().join("kubeconfig");
                std::fs::write(&path, server.kubeconfig())?;
                (path, Some(server))
            }
        };
        let file = Kubeconfig::read_from(&kubeconfig)?;
        let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
        Ok(Self { client: Client::try_from(config)?, kubeconfig, server, _folder: folder })
    }

    /// For the proxy.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The server if it is ours.
    #[must_use]
    pub fn own(&self) -> Option<&Server> {
        self.server.as_ref()
    }

    /// Applies `objects`, many at a time.
    ///
    /// # Errors
    /// If one of them is refused.
    pub async fn apply_all(&self, objects: impl IntoIterator<Item = Value>) -> Result<()> {
        let applied = stream::iter(objects).map(|object| async move { self.apply(&object).await });
        applied.buffer_unordered(CONCURRENCY).try_collect::<Vec<()>>().await?;
        Ok(())
    }

    /// Creates or changes `object`.
    ///
    /// # Errors
    /// If it is refused.
    pub async fn apply(&self, object: &Value) -> Result<()> {
        let uri = format!("{}?fieldManager=bench&force=true", path_of(object)?);
        self.send("PATCH", &uri, serde_json::to_vec(object)?).await
    }

    /// Has the server know AddressPools, and waits until it does.
    ///
    /// # Errors
    /// If it does not within 30 s.
    pub async fn define_pools(&self) -> Result<()> {
        let definition = include_str!("../../../deploy/chart/crds/addresspools.sluicegate.dev.yaml");
        let uri = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/addresspools.sluicegate.dev";
        let uri = format!("{uri}?fieldManager=bench&force=true");
        self.send("PATCH", &uri, definition.as_bytes().to_vec()).await?;
        let deadline = Instant::now() + Duration::from_secs(30);
        while let Err(error) = self.send("GET", "/apis/sluicegate.dev/v1alpha1/addresspools", vec![]).await {
            ensure!(Instant::now() < deadline, "AddressPools are not served: {error:#}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Deletes `object`.
    ///
    /// # Errors
    /// If it is not there.
    pub async fn delete(&self, object: &Value) -> Result<()> {
        self.send("DELETE", &path_of(object)?, Vec::new()).await
    }

    async fn send(&self, method: &str, uri: &str, body: Vec<u8>) -> Result<()> {
        let request = http::Request::builder()
            .method(method)
            .uri(uri)
            .header("content-type", "application/apply-patch+yaml")
            .body(body)?;
        self.client.request::<Value>(request).await.with_context(|| format!("{method} {uri}"))?;
        Ok(())
    }

    /// Waits until `count` objects at `path` have an address in their status.
    ///
    /// # Errors
    /// If they do not within `patience`.
    pub async fn wait_for_status(&self, path: &str, count: usize, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            let list: Value = self.client.request(http::Request::get(path).body(Vec::new())?).await?;
            let items = list.pointer("/items").and_then(Value::as_array).context("no items")?;
            let has_address = |item: &&Value| item.pointer("/status/loadBalancer/ingress/0").is_some();
            let have = items.iter().filter(has_address).count();
            if have >= count {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "only {have} of {count} have an address");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Follows what is at `path` from now on.
    ///
    /// # Errors
    /// If the watch is refused.
    pub async fn watch(&self, path: &str) -> Result<Events> {
        let list: Value =
            self.client.request(http::Request::get(format!("{path}?limit=1")).body(Vec::new())?).await?;
        let version =
            list.pointer("/metadata/resourceVersion").and_then(Value::as_str).context("no version")?;
        let uri = format!("{path}?watch=true&resourceVersion={version}");
        let lines = self.client.request_stream(http::Request::get(uri).body(Vec::new())?).await?;
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut lines = lines.lines();
            while let Some(Ok(line)) = lines.next().await {
                let when = Instant::now();
                let Ok(event) = serde_json::from_str(&line) else { continue };
                if sender.send((when, event)).is_err() {
                    return;
                }
            }
        });
        Ok(Events(receiver))
    }
}

/// What a watch brings, with the moment at which it came.
#[derive(Debug)]
pub struct Events(tokio::sync::mpsc::UnboundedReceiver<(Instant, Value)>);

impl Events {
    /// When the next event of type `kind` about the object `name` came.
    ///
    /// # Errors
    /// If the watch ended.
    pub async fn next(&mut self, kind: &str, name: &str) -> Result<Instant> {
        loop {
            let (when, event) = self.0.recv().await.context("the watch ended")?;
            let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str);
            if text("/type") == Some(kind) && text("/object/metadata/name") == Some(name) {
                return Ok(when);
            }
        }
    }
}

/// Where the API serves `object`.
fn path_of(object: &Value) -> Result<String> {
    let field = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    let version = field("/apiVersion").context("no apiVersion")?;
    let kind = field("/kind").context("no kind")?.to_lowercase();
    let name = field("/metadata/name").context("no name")?;
    let root = if version.contains('/') { "apis" } else { "api" };
    let plural = if kind.ends_with('s') { format!("{kind}es") } else { format!("{kind}s") };
    ensure!(!name.is_empty(), "an empty name");
    Ok(match field("/metadata/namespace") {
        Some(namespace) => format!("/{root}/{version}/namespaces/{namespace}/{plural}/{name}"),
        None => format!("/{root}/{version}/{plural}/{name}"),
    })
}
