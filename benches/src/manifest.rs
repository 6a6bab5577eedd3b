//! Manifests for the proxy under test: one Service with any endpoints and an Ingress with any hosts and paths. Writes
//! by rename, as editors and `kubectl` mounts do, so that no half-written file is ever read.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::certificates::Leaf;

/// A temporary folder for manifests; it goes when this value does.
#[derive(Debug)]
pub struct Folder {
    _outer: TempDir,
    path: PathBuf,
}

impl Folder {
    /// A new one. It is the only thing in a folder of its own: a proxy that watches its parent too must see what
    /// happens to it, not what the whole machine does in its temporary folder.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn new() -> Result<Self> {
        let outer = tempfile::tempdir()?;
        let path = outer.path().join("config");
        fs::create_dir(&path)?;
        Ok(Self { _outer: outer, path })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The Service `name` in namespace `bench` and its EndpointSlice.
#[must_use]
pub fn service(name: &str, endpoints: &[SocketAddr]) -> Vec<Value> {
    let mut objects = vec![json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "bench"},
        "spec": {"ports": [{"name": "http", "port": 80, "targetPort": "http"}]},
    })];
    objects.extend(endpoints.iter().enumerate().map(|(number, endpoint)| slice(name, number, *endpoint)));
    objects
}

/// One EndpointSlice of one endpoint; a slice has one port for all its addresses.
fn slice(service: &str, number: usize, endpoint: SocketAddr) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{service}-{number}"), "namespace": "bench",
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": endpoint.port(), "protocol": "TCP"}],
        "endpoints": [{"addresses": [endpoint.ip()], "conditions": {"ready": true}}],
    })
}

/// An Ingress `name` that sends every path in `paths` (as Prefix) of every host in `hosts` (none: any) to `service`.
#[must_use]
pub fn ingress(name: &str, hosts: &[String], paths: &[String], service: &str) -> Value {
    let backend = json!({"service": {"name": service, "port": {"name": "http"}}});
    let path = |path: &String| json!({"path": path, "pathType": "Prefix", "backend": backend});
    let http = json!({"paths": paths.iter().map(path).collect::<Vec<_>>()});
    let rules: Vec<Value> = if hosts.is_empty() {
        vec![json!({"http": http})]
    } else {
        hosts.iter().map(|host| json!({"host": host, "http": http})).collect()
    };
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"name": name, "namespace": "bench"},
        "spec": {"rules": rules},
    })
}

/// A `kubernetes.io/tls` Secret in namespace `bench`.
#[must_use]
pub fn secret(name: &str, leaf: &Leaf) -> Value {
    let encode = |text: &str| BASE64.encode(text);
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"name": name, "namespace": "bench"},
        "data": {"tls.crt": encode(&leaf.chain), "tls.key": encode(&leaf.key)},
    })
}

/// Puts `objects` into `directory/name` in one step.
///
/// # Errors
/// Those of the file system.
pub fn write(directory: &Path, name: &str, objects: &[Value]) -> Result<()> {
    put(directory, name, &json!({"apiVersion": "v1", "kind": "List", "items": objects}))
}

/// Puts `file` into `directory/name` in one step.
///
/// # Errors
/// Those of the file system.
pub fn put(directory: &Path, name: &str, file: &Value) -> Result<()> {
    let temporary = directory.join(format!(".{name}.new"));
    fs::write(&temporary, serde_json::to_vec(file)?)?;
    fs::rename(&temporary, directory.join(name))?;
    Ok(())
}
