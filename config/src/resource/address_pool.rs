//! Pools of addresses for Services of type LoadBalancer, and on which nodes they are announced: our `AddressPool`, as an
//! object and in the native format, and MetalLB's `IPAddressPool` and `L2Advertisement`. Decides nothing about who gets
//! what.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::address_range::AddressRange;
use super::label_selector::LabelSelector;
use super::meta::ObjectMeta;
use super::{Finding, reader};

/// A pool of addresses.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AddressPool {
    /// Its own labels, by which announcements choose it.
    pub labels: BTreeMap<String, String>,
    /// What it says.
    pub spec: AddressPoolSpec,
    /// There is more that cannot be read: what was given of it stays, and nothing is given anew.
    pub is_partial: bool,
}

impl AddressPool {
    /// What can be read of a pool of an API server that does not decode as a whole; nothing of what is no JSON. Whom it is
    /// for is read without fields that are not known, or else it is for nobody.
    #[must_use]
    pub fn in_part(json: &[u8]) -> Self {
        let object: Value = serde_json::from_slice(json).unwrap_or_default();
        let spec = object.get("spec").cloned().unwrap_or_default();
        let labels = object.pointer("/metadata/labels").and_then(Value::as_object).into_iter().flatten();
        let labels = labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())));
        let labels = labels.collect();
        let ranges = spec.get("addresses").and_then(Value::as_array).into_iter().flatten();
        let addresses = ranges.filter_map(|range| range.as_str()?.parse().ok()).collect();
        let mut allocation = spec.get("serviceAllocation").cloned().unwrap_or_default();
        if let Some(fields) = allocation.as_object_mut() {
            fields.retain(|name, _| ALLOCATION.contains(&name.as_str()));
        }
        let nobody = || ServiceAllocation { namespaces: vec!["".into()], ..ServiceAllocation::default() };
        let service_allocation =
            Option::deserialize(allocation).map_or_else(|_| nobody(), Option::unwrap_or_default);
        let avoid_buggy_ips = spec.get("avoidBuggyIPs").and_then(Value::as_bool).unwrap_or_default();
        let spec = AddressPoolSpec { addresses, auto_assign: false, avoid_buggy_ips, service_allocation };
        Self { labels, spec, is_partial: true }
    }
}

/// The fields of [`ServiceAllocation`].
const ALLOCATION: [&str; 4] = ["priority", "namespaces", "namespaceSelectors", "serviceSelectors"];

/// What a pool says. The same fields as those of MetalLB's IPAddressPool.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AddressPoolSpec {
    /// Networks and ranges, of both families if need be.
    pub addresses: Vec<AddressRange>,
    /// Services get addresses of it without asking for it or for them.
    #[serde(default = "yes")]
    pub auto_assign: bool,
    /// IPv4 addresses that end in .0 or .255 are not of it.
    #[serde(default, rename = "avoidBuggyIPs")]
    pub avoid_buggy_ips: bool,
    /// Which Services may have addresses of it, and in which order pools are looked at.
    #[serde(default, deserialize_with = "reader::absent")]
    pub service_allocation: ServiceAllocation,
}

impl Default for AddressPoolSpec {
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            auto_assign: true,
            avoid_buggy_ips: false,
            service_allocation: ServiceAllocation::default(),
        }
    }
}

/// Which Services may have addresses of a pool.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceAllocation {
    /// Pools with lower numbers are looked at first; those with 0, or none, last.
    #[serde(default, deserialize_with = "reader::absent")]
    pub priority: u32,
    /// Namespaces whose Services may; with `namespaceSelectors`, those of either. All when neither is there.
    #[serde(default, deserialize_with = "reader::absent")]
    pub namespaces: Vec<Arc<str>>,
    /// Labels of namespaces whose Services may; one must select.
    #[serde(default, deserialize_with = "reader::absent")]
    pub namespace_selectors: Vec<LabelSelector>,
    /// Labels of Services that may; one must select. All when there are none.
    #[serde(default, deserialize_with = "reader::absent")]
    pub service_selectors: Vec<LabelSelector>,
}

impl ServiceAllocation {
    /// Whether only some Services may.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        !(self.namespaces.is_empty()
            && self.namespace_selectors.is_empty()
            && self.service_selectors.is_empty())
    }

    /// Whether a Service with `labels` may, in the namespace of that name and labels. One whose labels are not known satisfies
    /// no selector, not even one that asks for a label to be absent.
    #[must_use]
    pub fn admits(
        &self,
        (namespace, namespace_labels): (&str, Option<&BTreeMap<String, String>>),
        labels: &BTreeMap<String, String>,
    ) -> bool {
        // Selectors that select nothing admit nobody: they were meant as a limit.
        let any_namespace = self.namespaces.is_empty() && self.namespace_selectors.is_empty();
        let is_in = any_namespace
            || self.namespaces.iter().any(|name| **name == *namespace)
            || namespace_labels.is_some_and(|labels| {
                self.namespace_selectors.iter().any(|selector| selector.selects(labels))
            });
        let selectors = &self.service_selectors;
        is_in && (selectors.is_empty() || selectors.iter().any(|selector| selector.selects(labels)))
    }
}

/// MetalLB's L2Advertisement: from which nodes and interfaces addresses of pools are announced.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct L2Advertisement {
    /// Names of pools; with `ipAddressPoolSelectors`, those of either. All when neither is there.
    #[serde(default, deserialize_with = "reader::absent")]
    pub ip_address_pools: Vec<Arc<str>>,
    /// Labels of pools.
    #[serde(default, deserialize_with = "reader::absent")]
    pub ip_address_pool_selectors: Vec<LabelSelector>,
    /// Labels of nodes, of which one must select; all nodes when there are none.
    #[serde(default, deserialize_with = "reader::absent")]
    pub node_selectors: Vec<LabelSelector>,
    /// Labels of Services, of which one must select; all Services when there are none.
    #[serde(default, deserialize_with = "reader::absent")]
    pub service_selectors: Vec<LabelSelector>,
    /// Names of interfaces; all when there are none.
    #[serde(default, deserialize_with = "reader::absent")]
    pub interfaces: Vec<Arc<str>>,
}

impl L2Advertisement {
    /// Whether addresses of the pool of that name and labels are meant.
    #[must_use]
    pub fn announces(&self, pool: &str, labels: &BTreeMap<String, String>) -> bool {
        let is_any = self.ip_address_pools.is_empty() && self.ip_address_pool_selectors.is_empty();
        is_any
            || self.ip_address_pools.iter().any(|name| **name == *pool)
            || self.ip_address_pool_selectors.iter().any(|selector| selector.selects(labels))
    }
}

fn yes() -> bool {
    true
}

/// A pool on the wire, ours or MetalLB's.
#[derive(Debug, Deserialize)]
pub(super) struct AddressPoolObject {
    pub(super) metadata: ObjectMeta,
    spec: AddressPoolSpec,
}

impl AddressPoolObject {
    pub(super) fn trim(self) -> AddressPool {
        AddressPool { labels: self.metadata.labels, spec: self.spec, is_partial: false }
    }
}

/// What there is to say about an advertisement that names nodes, where there is no cluster to ask for them.
const FOR_SOME_NODES: &str = "labels of nodes are known in a cluster only: from files, this announces nothing, rather than at every node";

/// An L2Advertisement on the wire; its `spec` may be absent.
#[derive(Debug, Deserialize)]
pub(super) struct L2AdvertisementObject {
    pub(super) metadata: ObjectMeta,
    #[serde(default, deserialize_with = "reader::absent")]
    spec: L2Advertisement,
}

impl L2AdvertisementObject {
    pub(super) fn trim(self) -> L2Advertisement {
        self.spec
    }

    /// As [`Self::trim`], of a file.
    pub(super) fn trim_of_file(self, findings: &mut Vec<Finding>) -> L2Advertisement {
        if !self.spec.node_selectors.is_empty() {
            findings.push(Finding::warning(
                "spec.nodeSelectors",
                0,
                "Unsupported",
                FOR_SOME_NODES.to_owned(),
            ));
        }
        self.trim()
    }
}

/// A pool of the native format.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct AddressPoolEntry {
    /// Name by which Services ask for it.
    pub(crate) name: Arc<str>,
    /// Networks and ranges, of both families if need be.
    addresses: Vec<AddressRange>,
    /// Services get addresses of it without asking for it or for them.
    #[serde(default = "yes")]
    auto_assign: bool,
    /// IPv4 addresses that end in .0 or .255 are not of it.
    #[serde(default, rename = "avoidBuggyIPs")]
    avoid_buggy_ips: bool,
    /// Which Services may have addresses of it, and in which order pools are looked at.
    #[serde(default)]
    service_allocation: ServiceAllocation,
}

impl AddressPoolEntry {
    pub(super) fn trim(self) -> AddressPool {
        let Self { name: _, addresses, auto_assign, avoid_buggy_ips, service_allocation } = self;
        let spec = AddressPoolSpec { addresses, auto_assign, avoid_buggy_ips, service_allocation };
        AddressPool { labels: BTreeMap::new(), spec, is_partial: false }
    }
}

/// A namespace on the wire, of which only labels are read.
#[derive(Debug, Deserialize)]
pub(super) struct NamespaceObject {
    pub(super) metadata: ObjectMeta,
}
