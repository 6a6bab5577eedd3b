//! Service: ports, ExternalName, settings, and how it is reached from outside of its Pods.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{Deserializer, Visitor};

use super::annotations::{self, On, Settings};
use super::ingress::PortRef;
use super::meta::ObjectMeta;
use super::reader::{self, At};
use super::service_addresses::ServiceStatus;
use super::service_exposure::{self, AffinityConfig, Exposure, ExposureSpec, ServiceKind};
use super::{Finding, syntax};
use crate::table::Transport;

/// Annotation about topology.
const TOPOLOGY_MODE: &str = "service.kubernetes.io/topology-mode";
/// What it was called before.
const TOPOLOGY_HINTS: &str = "service.kubernetes.io/topology-aware-hints";

/// A trimmed Service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Service {
    /// Usable ports, in the order of the object.
    pub ports: Box<[ServicePort]>,
    /// The DNS name of an ExternalName Service as it is looked up, with a dot at its end, or why it is refused.
    pub external_name: Option<Result<Arc<str>, Refused>>,
    /// Its own addresses, those of its first family first; none if it is headless, or nothing was said.
    pub cluster_ips: Box<[IpAddr]>,
    /// `clusterIP: None`.
    pub is_headless: bool,
    /// Endpoints count as ready whatever they say.
    pub publish_not_ready: bool,
    /// Of a Pod with an address of each family, the IPv6 one is used.
    pub prefers_ipv6: bool,
    /// Which endpoints are preferred.
    pub distribution: Distribution,
    /// Our annotations.
    pub settings: Option<Arc<Settings>>,
    /// How it is reached by addresses and ports of its own; absent if it has none by its nature.
    pub exposure: Option<Box<Exposure>>,
}

/// Which of a Service's ready endpoints are preferred.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Distribution {
    /// Those that hints say, if there are hints.
    #[default]
    Hinted,
    /// All, whatever hints say: `service.kubernetes.io/topology-mode: Disabled`.
    Even,
    /// `PreferSameZone`, or `PreferClose` as it was called.
    SameZone,
    /// `PreferSameNode`, then those of the same zone.
    SameNode,
}

/// The name of an ExternalName Service leads where no Service may.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Refused;

/// One port of a [`Service`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServicePort {
    /// Name, empty for a single unnamed port; the same in the Service's EndpointSlices.
    pub name: Arc<str>,
    /// 1..=65,535.
    pub port: u16,
    /// `targetPort`, if given.
    pub target: Option<PortRef>,
    /// `appProtocol`, if given.
    pub app_protocol: Option<Arc<str>>,
    /// What travels there.
    pub transport: Transport,
    /// `nodePort`, if given.
    pub node_port: Option<u16>,
}

impl Service {
    /// The port of streams that `wanted` names.
    #[must_use]
    pub fn port(&self, wanted: &PortRef) -> Option<&ServicePort> {
        self.port_of(Transport::Tcp, wanted)
    }

    /// The port of `transport` that `wanted` names.
    #[must_use]
    pub fn port_of(&self, transport: Transport, wanted: &PortRef) -> Option<&ServicePort> {
        self.ports.iter().filter(|port| port.transport == transport).find(|port| match wanted {
            PortRef::Number(number) => port.port == *number,
            PortRef::Name(name) => port.name == *name,
        })
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct ServiceObject {
    pub(super) metadata: ObjectMeta,
    #[serde(default, deserialize_with = "reader::absent")]
    spec: ServiceSpec,
    #[serde(default, deserialize_with = "reader::absent")]
    status: ServiceStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ServiceSpec {
    #[serde(rename = "type")]
    kind: Option<String>,
    external_name: Option<At<String>>,
    #[serde(rename = "clusterIP")]
    cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs", default, deserialize_with = "reader::absent")]
    cluster_ips: Vec<String>,
    #[serde(default, deserialize_with = "reader::absent")]
    ip_families: Vec<String>,
    #[serde(default, deserialize_with = "reader::absent")]
    publish_not_ready_addresses: bool,
    traffic_distribution: Option<At<String>>,
    #[serde(default, deserialize_with = "reader::absent")]
    ports: Vec<At<ServicePortSpec>>,
    load_balancer_class: Option<Arc<str>>,
    #[serde(rename = "loadBalancerIP")]
    load_balancer_ip: Option<At<String>>,
    #[serde(default, deserialize_with = "reader::absent")]
    load_balancer_source_ranges: Vec<At<String>>,
    session_affinity: Option<At<String>>,
    #[serde(default, deserialize_with = "reader::absent")]
    session_affinity_config: AffinityConfig,
    external_traffic_policy: Option<At<String>>,
    internal_traffic_policy: Option<At<String>>,
    health_check_node_port: Option<i64>,
    ip_family_policy: Option<String>,
    #[serde(default, deserialize_with = "reader::absent")]
    selector: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ServicePortSpec {
    #[serde(default, deserialize_with = "reader::absent")]
    name: Arc<str>,
    port: i64,
    target_port: Option<IntOrText>,
    protocol: Option<String>,
    app_protocol: Option<Arc<str>>,
    node_port: Option<i64>,
}

/// Kubernetes IntOrString.
#[derive(Debug)]
enum IntOrText {
    Int(i64),
    Text(Arc<str>),
}

impl<'de> Deserialize<'de> for IntOrText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = IntOrText;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a port number or name")
            }
            fn visit_i64<E>(self, number: i64) -> Result<IntOrText, E> {
                Ok(IntOrText::Int(number))
            }
            fn visit_u64<E>(self, number: u64) -> Result<IntOrText, E> {
                Ok(IntOrText::Int(i64::try_from(number).unwrap_or(i64::MAX)))
            }
            fn visit_str<E>(self, text: &str) -> Result<IntOrText, E> {
                Ok(IntOrText::Text(text.into()))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl ServiceObject {
    pub(super) fn trim(mut self, findings: &mut Vec<Finding>) -> Service {
        let annotations = annotations::parse(&self.metadata.annotations, On::Service);
        // ingress-nginx reads a few of its annotations from Services; none of them guards access.
        findings
            .extend(annotations.findings.into_iter().filter(|finding| finding.reason != "InvalidSetting"));
        let mut ports: Vec<ServicePort> = Vec::new();
        // What only matters if the Service is served at addresses of its own.
        let mut about_ports = Vec::new();
        for (index, spec) in std::mem::take(&mut self.spec.ports).into_iter().enumerate() {
            let field = format!("spec.ports[{index}]");
            match port(&field, spec, &ports, &mut about_ports) {
                Ok(port) => ports.extend(port),
                Err(finding) => findings.push(finding),
            }
        }
        let external_name = (self.spec.kind.as_deref() == Some("ExternalName")).then(|| {
            let name = self.spec.external_name.take().unwrap_or_default();
            external(&name.value).map_err(|message| {
                findings.push(Finding::error("spec.externalName", name.line, "InvalidExternalName", message));
                Refused
            })
        });
        let preference = self.spec.traffic_distribution.take();
        let distribution = distribution(&self.metadata.annotations, preference, findings);
        let mut texts = std::mem::take(&mut self.spec.cluster_ips);
        if texts.is_empty() {
            texts.extend(self.spec.cluster_ip.take());
        }
        let is_headless = texts.iter().any(|ip| ip == "None");
        let cluster_ips: Box<[IpAddr]> = texts.iter().filter_map(|ip| ip.parse().ok()).collect();
        let prefers_ipv6 = self.spec.ip_families.first().is_some_and(|family| family == "IPv6");
        let exposure = self.exposure(is_headless, &cluster_ips, about_ports);
        Service {
            ports: ports.into(),
            external_name,
            cluster_ips,
            is_headless,
            publish_not_ready: self.spec.publish_not_ready_addresses,
            prefers_ipv6,
            distribution,
            settings: annotations.settings,
            exposure,
        }
    }

    /// How it is reached by addresses of its own, if it may have some.
    fn exposure(
        &mut self,
        is_headless: bool,
        cluster_ips: &[IpAddr],
        mut findings: Vec<Finding>,
    ) -> Option<Box<Exposure>> {
        let spec = &mut self.spec;
        let kind = match spec.kind.as_deref() {
            _ if is_headless => return None,
            None | Some("ClusterIP") => ServiceKind::ClusterIp,
            Some("NodePort") => ServiceKind::NodePort,
            Some("LoadBalancer") => ServiceKind::LoadBalancer,
            Some("ExternalName") => return None,
            Some(other) => {
                let message = format!(
                    "`{other}` is not one of ClusterIP, NodePort, LoadBalancer, ExternalName; it counts as ClusterIP"
                );
                findings.push(Finding::error("spec.type", 0, "UnknownValue", message));
                ServiceKind::ClusterIp
            }
        };
        let said = ExposureSpec {
            class: spec.load_balancer_class.take(),
            load_balancer_ip: spec.load_balancer_ip.take().filter(|ip| !ip.value.is_empty()),
            source_ranges: std::mem::take(&mut spec.load_balancer_source_ranges),
            affinity: spec.session_affinity.take(),
            affinity_config: std::mem::take(&mut spec.session_affinity_config),
            external_policy: spec.external_traffic_policy.take(),
            internal_policy: spec.internal_traffic_policy.take(),
            health_check: spec.health_check_node_port,
            families: std::mem::take(&mut spec.ip_families),
            family_policy: spec.ip_family_policy.take(),
            selector: std::mem::take(&mut spec.selector),
        };
        let meta = (&self.metadata, &self.status);
        Some(Box::new(service_exposure::read(kind, meta, said, cluster_ips, findings)))
    }
}

/// What `trafficDistribution` and the older annotation ask for. `Auto` is for whoever writes hints.
fn distribution(
    annotations: &annotations::Text,
    field: Option<At<String>>,
    findings: &mut Vec<Finding>,
) -> Distribution {
    match field.as_ref().map(|field| &*field.value) {
        Some("PreferClose" | "PreferSameZone") => return Distribution::SameZone,
        Some("PreferSameNode") => return Distribution::SameNode,
        Some("") | None => {}
        Some(other) => {
            let message = format!(
                "`{other}` is not one of PreferSameZone, PreferClose, PreferSameNode; it has no effect of its own"
            );
            let line = field.as_ref().map_or(0, |field| field.line);
            findings.push(Finding::warning("spec.trafficDistribution", line, "UnknownValue", message));
        }
    }
    let mode = annotations.get(TOPOLOGY_MODE).or_else(|| annotations.get(TOPOLOGY_HINTS));
    match mode {
        Some(mode) if mode.value.eq_ignore_ascii_case("disabled") => Distribution::Even,
        _ => Distribution::Hinted,
    }
}

/// `None` for a port of another protocol, which is noted with the `asides`.
fn port(
    field: &str,
    spec: At<ServicePortSpec>,
    earlier: &[ServicePort],
    asides: &mut Vec<Finding>,
) -> Result<Option<ServicePort>, Finding> {
    let line = spec.line;
    let spec = spec.value;
    let bad = |at: &str, number: i64| {
        let message = format!("{number} is not a port (1 to 65535); the port is ignored");
        Finding::error(format!("{field}.{at}"), line, "InvalidPort", message)
    };
    let transport = match spec.protocol.as_deref() {
        None | Some("TCP") => Transport::Tcp,
        Some("UDP") => Transport::Udp,
        Some(other) => {
            let message =
                format!("`{other}` is not supported, so port {} is not served; the others are", spec.port);
            asides.push(Finding::warning(format!("{field}.protocol"), line, "UnsupportedProtocol", message));
            return Ok(None);
        }
    };
    let node_port = spec.node_port.filter(|port| *port != 0).and_then(|number| {
        let node_port = u16::try_from(number).ok();
        if node_port.is_none() {
            asides.push(bad("nodePort", number));
        }
        node_port
    });
    let number =
        u16::try_from(spec.port).ok().filter(|port| *port != 0).ok_or_else(|| bad("port", spec.port))?;
    let target = match spec.target_port {
        None | Some(IntOrText::Int(0)) => None,
        Some(IntOrText::Int(target)) => match u16::try_from(target) {
            Ok(target) => Some(PortRef::Number(target)),
            Err(_) => return Err(bad("targetPort", target)),
        },
        Some(IntOrText::Text(name)) => Some(PortRef::Name(name)),
    };
    let is_same = |other: &&ServicePort| {
        other.transport == transport && (other.name == spec.name || other.port == number)
    };
    if let Some(other) = earlier.iter().find(is_same) {
        let message =
            format!("name or number is the same as that of port {}; the port is ignored", other.port);
        return Err(Finding::error(field, line, "DuplicatePort", message));
    }
    let ServicePortSpec { name, app_protocol, .. } = spec;
    Ok(Some(ServicePort { name, port: number, target, app_protocol, transport, node_port }))
}

/// A name that a Service may stand for, as it is looked up: as it is, whatever the resolver's search list, in which
/// others may have names. The gateway must not become a way into its own host, nor to who gives keys away.
fn external(name: &str) -> Result<Arc<str>, String> {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    if let Ok(address) = name.parse::<IpAddr>() {
        return Err(format!("`{address}` is an IP address; write an EndpointSlice instead"));
    }
    if is_refused_name(&name) {
        return Err(format!(
            "`{name}` is refused: it leads to the gateway's own host, to a metadata service or to the API server"
        ));
    }
    syntax::dns_subdomain(&name).map_err(|why| format!("`{name}` is not a DNS name: {why}"))?;
    Ok(format!("{name}.").into())
}

/// Names of this host, of metadata services and of the API server. Their addresses are refused as well, as far as
/// they can be known.
fn is_refused_name(name: &str) -> bool {
    const NAMES: [&str; 10] = [
        "localhost",
        "localhost.localdomain",
        "ip6-localhost",
        "ip6-loopback",
        "metadata",
        "metadata.google.internal",
        "metadata.goog",
        "instance-data",
        "kubernetes",
        "kubernetes.default",
    ];
    NAMES.contains(&name)
        || name.ends_with(".localhost")
        || name.starts_with("instance-data.")
        || name == "kubernetes.default.svc"
        || name.starts_with("kubernetes.default.svc.")
}
