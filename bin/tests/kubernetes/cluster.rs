//! The API server of a test, a namespace of its own, and gateways in it.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::common::{Backend, Gateway, PATIENCE};

/// A namespace with an IngressClass, on the API server of the test.
pub struct Cluster {
    runtime: Runtime,
    client: Client,
    kubeconfig: PathBuf,
    folder: tempfile::TempDir,
    /// Its namespace; also the name of its IngressClass.
    pub namespace: String,
    /// Cluster-wide objects to remove at the end.
    cluster_wide: std::cell::RefCell<Vec<Value>>,
}

/// The kubeconfig of the server that is tested against.
fn kubeconfig() -> &'static PathBuf {
    static KUBECONFIG: OnceLock<(PathBuf, Option<Own>)> = OnceLock::new();
    &KUBECONFIG
        .get_or_init(|| match std::env::var_os("SLUICEGATE_E2E_KUBECONFIG") {
            Some(path) => (PathBuf::from(path), None),
            None => {
                let folder = tempfile::tempdir().expect("temporary folder");
                let server =
                    test_apiserver::Server::start(test_apiserver::Options::default()).expect("API server");
                let path = folder.path().join("kubeconfig");
                std::fs::write(&path, server.kubeconfig()).expect("kubeconfig");
                (path, Some(Own { _server: server, _folder: folder }))
            }
        })
        .0
}

struct Own {
    _server: test_apiserver::Server,
    _folder: tempfile::TempDir,
}

impl Cluster {
    /// A new namespace with an IngressClass of the same name.
    pub fn new() -> Self {
        let kubeconfig = kubeconfig().clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        let client = runtime.block_on(async {
            let file = Kubeconfig::read_from(&kubeconfig).expect("kubeconfig can be read");
            let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
            Client::try_from(config.expect("kubeconfig can be used")).expect("client")
        });
        let folder = tempfile::tempdir().expect("temporary folder");
        let cluster_wide = std::cell::RefCell::default();
        let mut cluster =
            Self { runtime, client, kubeconfig, folder, namespace: String::new(), cluster_wide };
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace",
            "metadata": {"generateName": "sluicegate-e2e-", "labels": {"sluicegate.dev/e2e": "true"}}});
        cluster.namespace =
            cluster.create(&namespace)["metadata"]["name"].as_str().expect("a name").to_owned();
        cluster.ingress_class(&cluster.namespace.clone(), &cluster.controller(), false);
        cluster
    }

    /// The controller name of its class.
    pub fn controller(&self) -> String {
        format!("e2e.sluicegate.dev/{}", self.namespace)
    }

    /// Applies an IngressClass, which goes with the cluster.
    pub fn ingress_class(&self, name: &str, controller: &str, is_default: bool) {
        self.apply(&json!({"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass",
            "metadata": {"name": name, "annotations":
                {"ingressclass.kubernetes.io/is-default-class": is_default.to_string()}},
            "spec": {"controller": controller}}));
    }

    /// Starts a gateway for the class of the cluster and waits until it is ready.
    pub fn gateway(&self, args: &[&str]) -> Gateway {
        self.gateway_publishing(&[&["--publish-address", PUBLISHED], args].concat())
    }

    /// Starts a gateway for the class of the cluster; `args` say what it publishes as its address.
    pub fn gateway_publishing(&self, args: &[&str]) -> Gateway {
        let controller = self.controller();
        let state = self.folder.path().join(format!("state-{}", fastrand::u64(..)));
        let mut all = vec!["--kubernetes", "--kubeconfig", text(&self.kubeconfig)];
        all.extend(["--controller-class", &controller, "--ingress-class", &self.namespace]);
        all.extend(["--election-namespace", &self.namespace, "--election-id", "e2e"]);
        if !args.contains(&"--state-dir") {
            all.extend(["--state-dir", text(&state)]);
        }
        all.extend(args);
        Gateway::start_with(&all)
    }

    /// Has the server know pools of addresses, ours and MetalLB's. That stays, for other tests have them at the same time.
    pub fn know_pools(&self) {
        let ours = include_str!("../../../deploy/chart/crds/addresspools.sluicegate.dev.yaml");
        let ours: Value = serde_saphyr::from_str(ours).expect("a manifest");
        for definition in [ours, metallb("IPAddressPool"), metallb("L2Advertisement")] {
            let (api, name) = (self.api(&definition), name_of(&definition));
            let params = PatchParams::apply("sluicegate-e2e").force();
            let stored = self.runtime.block_on(api.patch(&name, &params, &Patch::Apply(&definition)));
            stored.unwrap_or_else(|error| panic!("{name}: {error}"));
            self.eventually("the kind is served", &definition, |now| {
                let conditions = now["status"]["conditions"].as_array().cloned().unwrap_or_default();
                conditions.iter().any(|one| one["type"] == "Established" && one["status"] == "True")
            });
        }
    }

    /// Creates or changes an object: server-side apply under the tests' own field manager. Returns what is stored.
    pub fn apply(&self, object: &Value) -> Value {
        let (api, name) = (self.api(object), name_of(object));
        if namespace_of(object, "").is_none() {
            self.remember(object);
        }
        let params = PatchParams::apply("sluicegate-e2e").force();
        let stored = self.runtime.block_on(api.patch(&name, &params, &Patch::Apply(object)));
        serde_json::to_value(stored.unwrap_or_else(|error| panic!("{object}: {error}"))).expect("JSON")
    }

    /// Creates an object, perhaps under a generated name.
    pub fn create(&self, object: &Value) -> Value {
        let api = self.api(object);
        let parsed: DynamicObject = serde_json::from_value(object.clone()).expect("an object");
        let stored = self.runtime.block_on(api.create(&PostParams::default(), &parsed));
        serde_json::to_value(stored.unwrap_or_else(|error| panic!("{object}: {error}"))).expect("JSON")
    }

    /// Writes the status of an object as another controller would.
    pub fn write_status(&self, object: &Value, status: &Value) {
        let (api, name) = (self.api(object), name_of(object));
        let params =
            PatchParams { field_manager: Some("other-controller".to_owned()), ..PatchParams::default() };
        let patch = Patch::Merge(json!({"status": status}));
        let outcome = self.runtime.block_on(api.patch_status(&name, &params, &patch));
        outcome.unwrap_or_else(|error| panic!("{object}: {error}"));
    }

    /// Changes an object by a merge patch.
    pub fn merge(&self, object: &Value, patch: &Value) {
        let (api, name) = (self.api(object), name_of(object));
        let outcome = self.runtime.block_on(api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)));
        outcome.unwrap_or_else(|error| panic!("{object}: {error}"));
    }

    /// Deletes an object; that it is not there is fine.
    pub fn delete(&self, object: &Value) {
        let (api, name) = (self.api(object), name_of(object));
        match self.runtime.block_on(api.delete(&name, &DeleteParams::default())) {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => panic!("{name}: {error}"),
        }
    }

    /// The object as it is now.
    pub fn get(&self, object: &Value) -> Option<Value> {
        let (api, name) = (self.api(object), name_of(object));
        let stored = self.runtime.block_on(api.get_opt(&name)).expect("GET");
        stored.map(|stored| serde_json::to_value(stored).expect("JSON"))
    }

    /// All objects of the kind of `object` in the namespace.
    pub fn list(&self, object: &Value) -> Vec<Value> {
        let api = self.api(object);
        let list = self.runtime.block_on(api.list(&ListParams::default())).expect("list");
        list.items.into_iter().map(|item| serde_json::to_value(item).expect("JSON")).collect()
    }

    /// Waits until `holds` of the object.
    pub fn eventually(&self, what: &str, object: &Value, holds: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now = self.get(object);
            if let Some(now) = now.as_ref().filter(|now| holds(now)) {
                return now.clone();
            }
            assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}; it is {now:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn remember(&self, object: &Value) {
        let mut known = self.cluster_wide.borrow_mut();
        if !known.iter().any(|other| name_of(other) == name_of(object)) {
            known.push(object.clone());
        }
    }

    fn api(&self, object: &Value) -> Api<DynamicObject> {
        let version = object["apiVersion"].as_str().expect("apiVersion");
        let kind = object["kind"].as_str().expect("kind");
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        match namespace_of(object, &self.namespace) {
            Some(namespace) => Api::namespaced_with(self.client.clone(), &namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for object in self.cluster_wide.take() {
            self.delete(&object);
        }
        if self.namespace.is_empty() {
            return;
        }
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}});
        self.delete(&namespace);
        // A failed test says why it failed, not that its remains are still being removed.
        let deadline = Instant::now() + PATIENCE;
        while !std::thread::panicking() && self.get(&namespace).is_some() {
            assert!(Instant::now() < deadline, "namespace {} is still there", self.namespace);
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The definition of a kind of MetalLB's, as far as the tests need it.
fn metallb(kind: &str) -> Value {
    let plural = format!("{}s", kind.to_lowercase());
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.metallb.io")},
        "spec": {"group": "metallb.io", "scope": "Namespaced",
            "names": {"kind": kind, "listKind": format!("{kind}List"), "plural": plural, "singular": kind.to_lowercase()},
            "versions": [{"name": "v1beta1", "served": true, "storage": true, "schema": {"openAPIV3Schema":
                {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}})
}

/// What gateways of tests publish as their address.
pub const PUBLISHED: &str = "198.51.100.7";

fn name_of(object: &Value) -> String {
    object["metadata"]["name"].as_str().expect("metadata.name").to_owned()
}

/// The namespace of an object; `None` for kinds that have none.
fn namespace_of(object: &Value, default: &str) -> Option<String> {
    match object["kind"].as_str() {
        Some("Namespace" | "IngressClass" | "Node" | "AddressPool" | "CustomResourceDefinition") => None,
        _ => Some(object["metadata"]["namespace"].as_str().unwrap_or(default).to_owned()),
    }
}

fn text(path: &std::path::Path) -> &str {
    path.to_str().expect("path is UTF-8")
}

/// A backend that an EndpointSlice may name.
pub fn backend(name: &str) -> Backend {
    Backend::start_in_cluster(name)
}
