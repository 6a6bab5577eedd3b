//! Service: ports, ExternalName and settings; nothing that only kube-proxy needs.

use std::net::IpAddr;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{Deserializer, Visitor};

use super::annotations::{self, On, Settings};
use super::ingress::PortRef;
use super::meta::ObjectMeta;
use super::reader::{self, At};
use super::{Finding, syntax};

/// A trimmed Service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Service {
    /// Usable ports, in the order of the object.
    pub ports: Box<[ServicePort]>,
    /// The DNS name of an ExternalName Service, or why it is refused.
    pub external_name: Option<Result<Arc<str>, Refused>>,
    /// Our annotations.
    pub settings: Option<Arc<Settings>>,
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
}

impl Service {
    /// The port that `wanted` names.
    #[must_use]
    pub fn port(&self, wanted: &PortRef) -> Option<&ServicePort> {
        self.ports.iter().find(|port| match wanted {
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
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ServiceSpec {
    #[serde(rename = "type")]
    kind: Option<String>,
    external_name: Option<At<String>>,
    #[serde(default, deserialize_with = "reader::absent")]
    ports: Vec<At<ServicePortSpec>>,
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
    pub(super) fn trim(self, findings: &mut Vec<Finding>) -> Service {
        let annotations = annotations::parse(&self.metadata.annotations, On::Service);
        // ingress-nginx reads a few of its annotations from Services; none of them guards access.
        findings
            .extend(annotations.findings.into_iter().filter(|finding| finding.reason != "InvalidSetting"));
        let mut ports: Vec<ServicePort> = Vec::new();
        for (index, spec) in self.spec.ports.into_iter().enumerate() {
            let field = format!("spec.ports[{index}]");
            match port(&field, spec, &ports) {
                Ok(port) => ports.extend(port),
                Err(finding) => findings.push(finding),
            }
        }
        let external_name = (self.spec.kind.as_deref() == Some("ExternalName")).then(|| {
            let name = self.spec.external_name.unwrap_or_default();
            external(&name.value).map_err(|message| {
                findings.push(Finding::error("spec.externalName", name.line, "InvalidExternalName", message));
                Refused
            })
        });
        Service { ports: ports.into(), external_name, settings: annotations.settings }
    }
}

/// `None` for a port of another protocol.
fn port(
    field: &str,
    spec: At<ServicePortSpec>,
    earlier: &[ServicePort],
) -> Result<Option<ServicePort>, Finding> {
    let line = spec.line;
    let spec = spec.value;
    let bad = |at: &str, number: i64| {
        let message = format!("{number} is not a port (1 to 65535); the port is ignored");
        Finding::error(format!("{field}.{at}"), line, "InvalidPort", message)
    };
    if spec.protocol.as_deref().is_some_and(|protocol| protocol != "TCP") {
        return Ok(None);
    }
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
    if let Some(other) = earlier.iter().find(|other| other.name == spec.name || other.port == number) {
        let message =
            format!("name or number is the same as that of port {}; the port is ignored", other.port);
        return Err(Finding::error(field, line, "DuplicatePort", message));
    }
    Ok(Some(ServicePort { name: spec.name, port: number, target, app_protocol: spec.app_protocol }))
}

/// A name that a Service may stand for. The gateway must not become a way into its own host.
fn external(name: &str) -> Result<Arc<str>, String> {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    if let Ok(address) = name.parse::<IpAddr>() {
        return Err(format!("`{address}` is an IP address; write an EndpointSlice instead"));
    }
    if name == "localhost" || name.ends_with(".localhost") {
        return Err(format!("`{name}` is refused: it leads to the gateway's own host"));
    }
    syntax::dns_subdomain(&name).map_err(|why| format!("`{name}` is not a DNS name: {why}"))?;
    Ok(name.into())
}

/// Whether an ExternalName may resolve to `address`: not to the gateway's own host or link, where metadata
/// services live.
pub(crate) fn is_external(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            !(v4.is_loopback()
                || v4.is_link_local()
                || v4.is_unspecified()
                || v4.is_broadcast()
                || v4.is_multicast())
        }
        IpAddr::V6(v6) => {
            let metadata = v6.segments().first() == Some(&0xfd00) && v6.segments().get(1) == Some(&0xec2);
            !(v6.is_loopback()
                || v6.is_unicast_link_local()
                || v6.is_unspecified()
                || v6.is_multicast()
                || metadata)
        }
    }
}
