//! Which addresses are published: those that are given, those of a Service, or those of the nodes that our Pods run on.
//! Pure: reads the answers of an API server, asks nothing.

mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Deserialize;

pub(super) use self::watch::{Follower, Found, follow, others_run};
use super::observed::Address;

/// Where the published addresses come from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Publish {
    /// These.
    Addresses(BTreeSet<Address>),
    /// Those of a Service: of its load balancer and its external addresses, or else those inside the cluster.
    Service {
        /// Its namespace.
        namespace: Arc<str>,
        /// Its name.
        name: Arc<str>,
    },
    /// Those of the nodes that Pods run on.
    Nodes {
        /// Which Pods of our namespace.
        pods: Pods,
        /// Which addresses of a node.
        kind: NodeAddress,
    },
    /// None: nobody said which.
    Nothing,
}

/// Which Pods are meant.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Pods {
    /// A label selector.
    Selected(Arc<str>),
    /// Those with the labels of this one, which is ours.
    Like(Arc<str>),
}

/// Which addresses of a node are published.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NodeAddress {
    /// The external ones, or the internal ones of a node that has none.
    External,
    /// The internal ones.
    Internal,
}

/// A list as an API server sends it, reduced to what is read of its items.
#[derive(Debug, Deserialize)]
pub(super) struct List<T> {
    pub(super) metadata: ListMeta,
    #[serde(default = "Vec::new")]
    pub(super) items: Vec<T>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ListMeta {
    #[serde(default)]
    pub(super) resource_version: String,
    #[serde(default, rename = "continue")]
    pub(super) token: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Service {
    #[serde(default)]
    spec: ServiceSpec,
    #[serde(default)]
    status: ServiceStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ServiceSpec {
    r#type: String,
    #[serde(rename = "externalIPs")]
    external_ips: Option<Vec<String>>,
    #[serde(rename = "clusterIPs")]
    cluster_ips: Option<Vec<String>>,
    #[serde(rename = "clusterIP")]
    cluster_ip: String,
    external_name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ServiceStatus {
    load_balancer: Option<LoadBalancer>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LoadBalancer {
    ingress: Option<Vec<Named>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Named {
    ip: Option<String>,
    hostname: Option<String>,
}

impl Service {
    /// What it is reached at. Empty if that is not known yet.
    pub(super) fn addresses(&self) -> BTreeSet<Address> {
        let external = self.spec.external_ips.iter().flatten().filter_map(|ip| Address::ip(ip));
        let mut addresses: BTreeSet<Address> = external.collect();
        match self.spec.r#type.as_str() {
            "LoadBalancer" => {
                let named = self.status.load_balancer.iter().flat_map(|balancer| balancer.ingress.iter());
                for Named { ip, hostname } in named.flatten() {
                    addresses.extend(ip.as_deref().and_then(Address::ip));
                    addresses.extend(hostname.as_deref().and_then(Address::hostname));
                }
            }
            "ExternalName" => addresses.extend(Address::hostname(&self.spec.external_name)),
            _ if addresses.is_empty() => {
                let spec = &self.spec;
                let all = spec.cluster_ips.iter().flatten().chain([&spec.cluster_ip]);
                // A headless one says `None`.
                addresses.extend(all.filter_map(|ip| Address::ip(ip)));
            }
            _ => {}
        }
        addresses
    }
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Pod {
    pub(super) metadata: PodMeta,
    #[serde(default)]
    spec: PodSpec,
    #[serde(default)]
    status: PodStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PodMeta {
    pub(super) name: String,
    pub(super) labels: Option<BTreeMap<String, String>>,
    deletion_timestamp: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodSpec {
    node_name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PodStatus {
    phase: String,
    conditions: Option<Vec<Condition>>,
}

#[derive(Debug, Deserialize)]
struct Condition {
    r#type: String,
    status: String,
}

/// Labels that differ between Pods of one owner.
const OWN_LABELS: [&str; 5] = [
    "apps.kubernetes.io/pod-index",
    "controller-revision-hash",
    "pod-template-generation",
    "pod-template-hash",
    "statefulset.kubernetes.io/pod-name",
];

impl Pod {
    /// It runs, and nobody has asked it to end.
    pub(super) fn is_running(&self) -> bool {
        self.status.phase == "Running" && self.metadata.deletion_timestamp.is_none()
    }

    fn is_ready(&self) -> bool {
        let mut conditions = self.status.conditions.iter().flatten();
        conditions.any(|condition| condition.r#type == "Ready" && condition.status == "True")
    }

    /// A selector of the Pods that have the same labels. `None` if it has none that say anything.
    pub(super) fn selector(&self) -> Option<String> {
        let labels = self.metadata.labels.iter().flatten();
        let common = labels.filter(|(name, _)| !OWN_LABELS.contains(&name.as_str()));
        let selector: Vec<String> = common.map(|(name, value)| format!("{name}={value}")).collect();
        (!selector.is_empty()).then(|| selector.join(","))
    }
}

/// The nodes that `pods` run on: of the ready ones, or of all that run if none is ready.
pub(super) fn nodes(pods: &[Pod]) -> BTreeSet<&str> {
    let running = || pods.iter().filter(|pod| pod.is_running() && !pod.spec.node_name.is_empty());
    let ready: BTreeSet<&str> =
        running().filter(|pod| pod.is_ready()).map(|pod| pod.spec.node_name.as_str()).collect();
    if ready.is_empty() { running().map(|pod| pod.spec.node_name.as_str()).collect() } else { ready }
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Node {
    #[serde(default)]
    status: NodeStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NodeStatus {
    addresses: Option<Vec<NodeAddressEntry>>,
}

#[derive(Debug, Deserialize)]
struct NodeAddressEntry {
    r#type: String,
    address: String,
}

impl Node {
    /// What it is reached at.
    pub(super) fn addresses(&self, kind: NodeAddress) -> BTreeSet<Address> {
        let of = |kind: &str| -> BTreeSet<Address> {
            let all = self.status.addresses.iter().flatten();
            all.filter(|entry| entry.r#type == kind).filter_map(|entry| Address::ip(&entry.address)).collect()
        };
        match kind {
            NodeAddress::External => Some(of("ExternalIP"))
                .filter(|external| !external.is_empty())
                .unwrap_or_else(|| of("InternalIP")),
            NodeAddress::Internal => of("InternalIP"),
        }
    }
}

#[cfg(test)]
mod tests;
