//! Networks that a cluster has for itself: of its nodes, its Pods, its Services. Of a Node, nothing else is kept.

use ipnet::IpNet;
use serde::Deserialize;

use super::meta::ObjectMeta;
use super::reader;

/// `v1` Node.
#[derive(Debug, Deserialize)]
pub(super) struct NodeObject {
    pub(super) metadata: ObjectMeta,
    #[serde(default, deserialize_with = "reader::absent")]
    spec: NodeSpec,
    #[serde(default, deserialize_with = "reader::absent")]
    status: NodeStatus,
}

#[derive(Debug, Default, Deserialize)]
struct NodeSpec {
    #[serde(rename = "podCIDR")]
    pod_cidr: Option<String>,
    #[serde(rename = "podCIDRs", default, deserialize_with = "reader::absent")]
    pod_cidrs: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
struct NodeStatus {
    #[serde(default, deserialize_with = "reader::absent")]
    addresses: Vec<NodeAddress>,
}

#[derive(Debug, Deserialize)]
struct NodeAddress {
    address: Option<String>,
}

impl NodeObject {
    /// Networks of its Pods, and its own addresses; names among these are none.
    pub(super) fn trim(&self) -> Box<[IpNet]> {
        let pods = self.spec.pod_cidrs.iter().chain(&self.spec.pod_cidr);
        let own = self.status.addresses.iter().filter_map(|one| one.address.as_ref());
        networks(pods.chain(own))
    }
}

/// `networking.k8s.io/v1` ServiceCIDR.
#[derive(Debug, Deserialize)]
pub(super) struct ServiceCidrObject {
    pub(super) metadata: ObjectMeta,
    #[serde(default, deserialize_with = "reader::absent")]
    spec: ServiceCidrSpec,
}

#[derive(Debug, Default, Deserialize)]
struct ServiceCidrSpec {
    #[serde(default, deserialize_with = "reader::absent")]
    cidrs: Vec<String>,
}

impl ServiceCidrObject {
    pub(super) fn trim(&self) -> Box<[IpNet]> {
        networks(self.spec.cidrs.iter())
    }
}

/// Those of `texts` that are networks or addresses, each once.
fn networks<'a>(texts: impl Iterator<Item = &'a String>) -> Box<[IpNet]> {
    let network = |text: &String| {
        let text = text.trim();
        let address =
            || text.parse().ok().map(|address: std::net::IpAddr| IpNet::from(address.to_canonical()));
        text.parse::<IpNet>().ok().map(|network| network.trunc()).or_else(address)
    };
    let mut all: Vec<IpNet> = texts.filter_map(network).collect();
    all.sort_unstable();
    all.dedup();
    all.into()
}

#[cfg(test)]
mod tests {
    use crate::report::Kind;
    use crate::resource::{ObjectSpec, decode_json};

    fn shown(kind: Kind, json: &str) -> Vec<String> {
        match decode_json(kind, json.as_bytes()).object.unwrap().spec {
            ObjectSpec::Networks(networks) => networks.iter().map(ToString::to_string).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn of_a_node_its_networks_and_addresses_are_kept() {
        let json = r#"{"metadata": {"name": "a"}, "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00:1::/64", "?"]},
            "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.7"}, {"type": "Hostname", "address": "a"},
            {"type": "ExternalIP", "address": "2001:db8::7"}, {"type": "InternalIP"}], "images": [{"names": ["x"]}]}}"#;
        assert_eq!(
            shown(Kind::Node, json),
            ["10.244.1.0/24", "192.0.2.7/32", "2001:db8::7/128", "fd00:1::/64"]
        );
        assert!(shown(Kind::Node, r#"{"metadata": {"name": "a"}, "spec": {}}"#).is_empty());
    }

    #[test]
    fn a_service_cidr_is_its_networks() {
        let json =
            r#"{"metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/12", "fd00:2::/108"]}}"#;
        assert_eq!(shown(Kind::ServiceCIDR, json), ["10.96.0.0/12", "fd00:2::/108"]);
    }
}
