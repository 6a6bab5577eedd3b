//! What a Service of type LoadBalancer says about the addresses that it wants, and which its status says it has. Decides
//! nothing about what it gets.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::Deserialize;

use super::annotations::Text;
use super::meta::ObjectMeta;
use super::reader;

/// Annotations that name the only pool that is wanted; the first that is there counts.
const POOL: [&str; 3] =
    ["sluicegate.dev/address-pool", "metallb.io/address-pool", "metallb.universe.tf/address-pool"];
/// Annotations with the key under which addresses are shared; the first that is there counts.
const SHARING: [&str; 3] =
    ["sluicegate.dev/allow-shared-ip", "metallb.io/allow-shared-ip", "metallb.universe.tf/allow-shared-ip"];

/// What a Service of type LoadBalancer says about its addresses, besides those that it asks for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AddressWish {
    /// Text among the requested addresses that is none.
    pub misread: Option<Arc<str>>,
    /// The name of the only pool that is wanted.
    pub pool: Option<Arc<str>>,
    /// Services with the same key may have the same address. Not empty.
    pub sharing_key: Option<Arc<str>>,
    /// Which Pods are its endpoints.
    pub selector: BTreeMap<String, String>,
    /// Its own labels.
    pub labels: Arc<BTreeMap<String, String>>,
    /// `ipFamilyPolicy`.
    pub families: FamilyPolicy,
    /// `status.loadBalancer.ingress[].ip`. Whoever may write the status may write anything there: no reason to serve an
    /// address before it is known to be in a pool that is for this Service.
    pub recorded: Box<[IpAddr]>,
    /// It is being deleted.
    pub is_deleting: bool,
}

/// How many families are wanted.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum FamilyPolicy {
    /// One: `SingleStack`, the default.
    #[default]
    Single,
    /// Both, or one if there is no other: `PreferDualStack`.
    Prefer,
    /// Both: `RequireDualStack`.
    Require,
}

/// `status` as far as it is read.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ServiceStatus {
    #[serde(default, deserialize_with = "reader::absent")]
    load_balancer: LoadBalancerStatus,
}

#[derive(Debug, Default, Deserialize)]
struct LoadBalancerStatus {
    #[serde(default, deserialize_with = "reader::absent")]
    ingress: Vec<LoadBalancerIngress>,
}

#[derive(Debug, Default, Deserialize)]
struct LoadBalancerIngress {
    ip: Option<String>,
}

/// Reads what annotations, `status` and `spec` say.
pub(super) fn read(
    meta: &ObjectMeta,
    status: &ServiceStatus,
    selector: BTreeMap<String, String>,
    family_policy: Option<&str>,
    misread: Option<Arc<str>>,
) -> AddressWish {
    let recorded = status.load_balancer.ingress.iter().filter_map(|one| one.ip.as_ref()?.parse().ok());
    AddressWish {
        misread,
        pool: text(&meta.annotations, &POOL),
        sharing_key: text(&meta.annotations, &SHARING),
        selector,
        labels: Arc::new(meta.labels.clone()),
        families: match family_policy {
            Some("PreferDualStack") => FamilyPolicy::Prefer,
            Some("RequireDualStack") => FamilyPolicy::Require,
            _ => FamilyPolicy::Single,
        },
        recorded: recorded.map(|ip: IpAddr| ip.to_canonical()).collect(),
        is_deleting: meta.deletion_timestamp.is_some(),
    }
}

fn text(annotations: &Text, keys: &[&str]) -> Option<Arc<str>> {
    let text = keys.iter().find_map(|key| annotations.get(*key))?.value.trim();
    (!text.is_empty()).then(|| text.into())
}
