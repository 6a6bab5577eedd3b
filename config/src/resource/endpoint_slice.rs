//! EndpointSlice: which addresses of a Service may take traffic.

use std::net::IpAddr;
use std::sync::Arc;

use serde::Deserialize;

use super::Finding;
use super::meta::ObjectMeta;
use super::reader::{self, At};
use crate::table::Transport;

/// The label that ties a slice to its Service.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// A trimmed EndpointSlice.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EndpointSlice {
    /// The Service that it belongs to.
    pub service: Option<Arc<str>>,
    /// Ports that its endpoints serve.
    pub ports: Box<[SlicePort]>,
    /// Addresses that may be used, now or when no ready one is left; sorted by address.
    pub endpoints: Box<[SliceEndpoint]>,
}

/// One port of an [`EndpointSlice`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SlicePort {
    /// Name of the Service port; empty if it has none.
    pub name: Arc<str>,
    /// `None` stands for every port.
    pub port: Option<u16>,
    /// What travels there.
    pub transport: Transport,
}

/// One address of an [`EndpointSlice`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SliceEndpoint {
    /// IPv4-mapped IPv6 is canonicalised.
    pub address: IpAddr,
    /// Whether it takes new requests.
    pub state: Readiness,
    /// The Pod's uid.
    pub identity: Option<Arc<str>>,
    /// Where it is and for whom it is meant; `None` if nothing is said.
    pub locality: Option<Arc<Locality>>,
}

/// Where an endpoint is, and for whom it is meant.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Locality {
    /// The zone that it is in.
    pub zone: Option<Arc<str>>,
    /// The node that it is on.
    pub node: Option<Arc<str>>,
    /// `hints.forZones`: zones that are to use it.
    pub for_zones: Box<[Arc<str>]>,
    /// `hints.forNodes`: nodes that are to use it.
    pub for_nodes: Box<[Arc<str>]>,
}

/// Whether an endpoint takes new requests.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Readiness {
    /// It does not.
    NotReady,
    /// Only when no ready endpoint is left: it is going away but still serves.
    Terminating,
    /// It does.
    Ready,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EndpointSliceObject {
    pub(super) metadata: ObjectMeta,
    address_type: Option<At<String>>,
    #[serde(default, deserialize_with = "reader::absent")]
    endpoints: Vec<At<SliceEndpointSpec>>,
    #[serde(default, deserialize_with = "reader::absent")]
    ports: Vec<At<SlicePortSpec>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SliceEndpointSpec {
    #[serde(default, deserialize_with = "reader::absent")]
    addresses: Vec<String>,
    #[serde(default, deserialize_with = "reader::absent")]
    conditions: Conditions,
    target_ref: Option<SliceTargetRef>,
    zone: Option<Arc<str>>,
    node_name: Option<Arc<str>>,
    hints: Option<Hints>,
}

#[derive(Debug, Deserialize)]
#[serde(rename = "EndpointHints", rename_all = "camelCase")]
struct Hints {
    #[serde(default, deserialize_with = "reader::absent")]
    for_zones: Vec<HintFor>,
    #[serde(default, deserialize_with = "reader::absent")]
    for_nodes: Vec<HintFor>,
}

#[derive(Debug, Deserialize)]
struct HintFor {
    #[serde(default, deserialize_with = "reader::absent")]
    name: Arc<str>,
}

#[derive(Debug, Default, Deserialize)]
struct Conditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct SliceTargetRef {
    uid: Option<Arc<str>>,
}

#[derive(Debug, Deserialize)]
struct SlicePortSpec {
    #[serde(default, deserialize_with = "reader::absent")]
    name: Arc<str>,
    port: Option<i64>,
    protocol: Option<String>,
}

impl Conditions {
    fn readiness(&self) -> Readiness {
        if self.ready.unwrap_or(true) {
            return Readiness::Ready;
        }
        // `serving` is like `ready`, without regard to termination.
        match (self.terminating.unwrap_or(false), self.serving.unwrap_or(false)) {
            (true, true) => Readiness::Terminating,
            _ => Readiness::NotReady,
        }
    }
}

impl SliceEndpointSpec {
    fn locality(&mut self) -> Option<Arc<Locality>> {
        let names = |list: Vec<HintFor>| list.into_iter().map(|hint| hint.name).collect();
        let hints = self.hints.take();
        let (for_zones, for_nodes) =
            hints.map(|hints| (names(hints.for_zones), names(hints.for_nodes))).unwrap_or_default();
        let named = |text: Option<Arc<str>>| text.filter(|text| !text.is_empty());
        let (zone, node) = (named(self.zone.take()), named(self.node_name.take()));
        let locality = Locality { zone, node, for_zones, for_nodes };
        (locality != Locality::default()).then(|| Arc::new(locality))
    }
}

impl EndpointSliceObject {
    pub(super) fn trim(self, findings: &mut Vec<Finding>) -> EndpointSlice {
        let service = self.metadata.labels.get(SERVICE_LABEL).map(|name| Arc::from(&**name));
        if service.is_none() {
            let message = format!(
                "the label `{SERVICE_LABEL}: NAME-OF-THE-SERVICE` is missing, so no Service uses this slice"
            );
            findings.push(Finding::warning("metadata.labels", 0, "MissingLabel", message));
        }
        let family = self.address_type.unwrap_or_default();
        if !matches!(&*family.value, "IPv4" | "IPv6") {
            let message = match &*family.value {
                "" => "`addressType` is required: IPv4 or IPv6; the slice is ignored".to_owned(),
                "FQDN" => "slices of DNS names are not supported, the slice is ignored: use a Service of type ExternalName".to_owned(),
                other => format!("`{other}` is not one of IPv4, IPv6; the slice is ignored"),
            };
            findings.push(Finding::error("addressType", family.line, "InvalidAddressType", message));
            return EndpointSlice { service, ports: Box::default(), endpoints: Box::default() };
        }
        let mut ports = Vec::new();
        for (index, spec) in self.ports.into_iter().enumerate() {
            match slice_port(index, spec) {
                Ok(port) => ports.extend(port),
                Err(finding) => findings.push(finding),
            }
        }
        let mut endpoints = Vec::new();
        for (index, mut spec) in self.endpoints.into_iter().enumerate() {
            let field = format!("endpoints[{index}].addresses");
            let state = spec.value.conditions.readiness();
            let locality = spec.value.locality();
            let identity = spec.value.target_ref.and_then(|target| target.uid).filter(|uid| !uid.is_empty());
            // All addresses of one endpoint are the same Pod: the API says that consumers use the first.
            match spec.value.addresses.first().map(|text| (text, text.parse::<IpAddr>())) {
                Some((_, Ok(address))) => {
                    let address = address.to_canonical();
                    endpoints.push(SliceEndpoint { address, state, identity, locality });
                }
                Some((text, Err(_))) => {
                    let message = format!("`{text}` is not an IP address; the endpoint is ignored");
                    findings.push(Finding::error(
                        format!("{field}[0]"),
                        spec.line,
                        "InvalidAddress",
                        message,
                    ));
                }
                None => {
                    let message = "an endpoint needs an address; the endpoint is ignored".to_owned();
                    findings.push(Finding::error(field, spec.line, "MissingField", message));
                }
            }
        }
        // Their order says nothing. Sorted, a slice that was only shuffled is the same one, and many are merged quickly.
        endpoints.sort_by_key(|endpoint: &SliceEndpoint| endpoint.address);
        EndpointSlice { service, ports: ports.into(), endpoints: endpoints.into() }
    }
}

/// `None` for a port of another protocol.
fn slice_port(index: usize, spec: At<SlicePortSpec>) -> Result<Option<SlicePort>, Finding> {
    let transport = match spec.value.protocol.as_deref() {
        None | Some("TCP") => Transport::Tcp,
        Some("UDP") => Transport::Udp,
        Some(_) => return Ok(None),
    };
    let port = match spec.value.port {
        None => None,
        Some(number) => match u16::try_from(number) {
            Ok(port) if port != 0 => Some(port),
            _ => {
                let message = format!("{number} is not a port (1 to 65535); the port is ignored");
                return Err(Finding::error(
                    format!("ports[{index}].port"),
                    spec.line,
                    "InvalidPort",
                    message,
                ));
            }
        },
    };
    Ok(Some(SlicePort { name: spec.value.name, port, transport }))
}
