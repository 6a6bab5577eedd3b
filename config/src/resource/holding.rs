//! What a Service that does not decode says of addresses, as far as that can be read: a mistake in it must not give away
//! what it has. Nothing of it is served.

use std::net::IpAddr;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::service_addresses::{SHARING, ServiceStatus};
use super::service_exposure::{MOST_REQUESTED, REQUESTED};

/// The finalizer of a Service that was given addresses.
const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";

/// The addresses that a Service may have that does not decode.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Holding {
    /// At least one. Those of its status; and those that it asks for, if its finalizers say that it was given some.
    pub addresses: Box<[IpAddr]>,
    /// Services of its namespace with the same key may have them as well.
    pub sharing_key: Option<Arc<str>>,
}

impl Holding {
    /// What `json`, a Service, says of that, whatever is next to it; `None` if nothing, or if it is no JSON.
    #[must_use]
    pub fn in_part(json: &[u8]) -> Option<Self> {
        let object: Value = serde_json::from_slice(json).ok()?;
        let status = object.get("status").map(ServiceStatus::deserialize).and_then(Result::ok);
        let mut addresses = status.unwrap_or_default().recorded;
        let metadata = object.get("metadata");
        let finalizers = metadata.and_then(|metadata| metadata.get("finalizers")?.as_array());
        let annotation = |keys: &[&str]| {
            let annotations = metadata?.get("annotations")?;
            keys.iter().find_map(|key| annotations.get(*key)?.as_str()).map(str::to_owned)
        };
        if finalizers.is_some_and(|all| all.iter().any(|one| one.as_str() == Some(FINALIZER))) {
            let field = || Some(object.get("spec")?.get("loadBalancerIP")?.as_str()?.to_owned());
            let asked = annotation(&REQUESTED).or_else(field).unwrap_or_default();
            let asked = asked.split(',').filter_map(|part| part.trim().parse::<IpAddr>().ok());
            addresses.extend(asked.take(MOST_REQUESTED).map(|address| address.to_canonical()));
        }
        addresses.sort_unstable();
        addresses.dedup();
        let sharing_key =
            annotation(&SHARING).map(|key| key.trim().into()).filter(|key: &Arc<str>| !key.is_empty());
        (!addresses.is_empty()).then(|| Self { addresses: addresses.into(), sharing_key })
    }
}

#[cfg(test)]
mod tests {
    use crate::report::Kind;
    use crate::resource::decode_json;

    #[test]
    fn a_service_that_does_not_decode_says_which_addresses_it_has() {
        let json = r#"{"metadata": {"name": "web", "namespace": "n", "finalizers": [7, "service.kubernetes.io/load-balancer-cleanup"],
            "annotations": {"metallb.io/loadBalancerIPs": "192.0.2.9, none", "metallb.io/allow-shared-ip": "k", "x": 1}},
            "spec": {"type": "LoadBalancer", "ports": "all", "loadBalancerIP": "192.0.2.10"},
            "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.7"}, 7, {"ip": "2001:db8::1"}]}}}"#;
        let received = decode_json(Kind::Service, json.as_bytes());
        assert!(received.object.is_none());
        let holding = received.holding.unwrap();
        let addresses: Vec<String> = holding.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["192.0.2.7", "192.0.2.9", "2001:db8::1"]);
        assert_eq!(holding.sharing_key.as_deref(), Some("k"));
        let message = &received.problems[0].message;
        assert!(message.ends_with("no pool gives 192.0.2.7, 192.0.2.9, 2001:db8::1 to another"), "{message}");
        let wishes_only = json.replace("load-balancer-cleanup", "other").replace("status", "stat");
        assert_eq!(decode_json(Kind::Service, wishes_only.as_bytes()).holding, None);
    }
}
