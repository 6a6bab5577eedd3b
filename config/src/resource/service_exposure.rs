//! How a Service is reached by addresses and ports of its own: what the object says of ClusterIP, NodePort and
//! LoadBalancer. Decides nothing about which of it is served.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;

use super::Finding;
use super::annotations::Text;
use super::meta::ObjectMeta;
use super::reader::{self, At};
use super::service_addresses::{self, AddressWish, ServiceStatus};
use super::syntax;
use crate::table::{ProxyProtocolOut, SourceAddress, SourceRanges};

/// Label by which a Service is another proxy's.
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// The older way to say `loadBalancerSourceRanges`.
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
/// Annotations that ask for addresses, the first that is there counts.
pub(super) const REQUESTED: [&str; 3] =
    ["sluicegate.dev/load-balancer-ips", "metallb.io/loadBalancerIPs", "metallb.universe.tf/loadBalancerIPs"];
/// From which address endpoints are spoken to.
const SOURCE_ADDRESS: &str = "sluicegate.dev/source-address";
/// The PROXY header that endpoints get.
const SEND_PROXY: &str = "sluicegate.dev/send-proxy-protocol";
/// Names of our annotations that are read here.
pub(super) const READ_THERE: [&str; 3] = ["load-balancer-ips", "source-address", "send-proxy-protocol"];
/// `sessionAffinityConfig.clientIP.timeoutSeconds` if it is not given.
const AFFINITY_SECONDS: i64 = 10_800;
/// The longest that the API allows, a day.
const MOST_AFFINITY_SECONDS: i64 = 86_400;

/// How a Service is reached by addresses and ports of its own.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Exposure {
    /// `type`.
    pub kind: ServiceKind,
    /// Seconds since 1970.
    pub created: Option<i64>,
    /// `loadBalancerClass`.
    pub class: Option<Arc<str>>,
    /// Addresses that it asks for, in its own order.
    pub requested: Box<[IpAddr]>,
    /// What else it says about addresses of load balancers; only of [`ServiceKind::LoadBalancer`].
    pub wish: Option<Box<AddressWish>>,
    /// Clients that its load balancer's addresses serve; everybody when absent. An error closes them: something else was
    /// wanted than can be understood.
    pub source_ranges: Option<Result<Arc<SourceRanges>, Unreadable>>,
    /// How endpoints learn who their clients are. An error closes it: they would take the gateway for one.
    pub towards: Result<Towards, Unreadable>,
    /// `sessionAffinity: ClientIP`.
    pub affinity: Option<Duration>,
    /// `externalTrafficPolicy: Local`.
    pub external_local: bool,
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `healthCheckNodePort`.
    pub health_check: Option<u16>,
    /// It is for this other proxy, as far as kube-proxy's part is concerned.
    pub proxy_name: Option<Arc<str>>,
    /// IPv4 is among its families.
    pub ipv4: bool,
    /// IPv6 is among its families.
    pub ipv6: bool,
    /// What there is to say about all this, if it is served.
    pub findings: Box<[Finding]>,
}

/// `type` of a Service that has addresses.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ServiceKind {
    /// `ClusterIP`, the default.
    ClusterIp,
    /// `NodePort`.
    NodePort,
    /// `LoadBalancer`.
    LoadBalancer,
}

/// How endpoints learn who their clients are.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Towards {
    /// The annotation `sluicegate.dev/source-address`.
    pub source_address: SourceAddress,
    /// The annotation `sluicegate.dev/send-proxy-protocol`; of TCP.
    pub proxy_protocol: ProxyProtocolOut,
}

/// A setting about clients that cannot be understood.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Unreadable;

/// Those fields of a Service's `spec` that concern this.
#[derive(Debug, Default)]
pub(super) struct ExposureSpec {
    pub(super) class: Option<Arc<str>>,
    pub(super) load_balancer_ip: Option<At<String>>,
    pub(super) source_ranges: Vec<At<String>>,
    pub(super) affinity: Option<At<String>>,
    pub(super) affinity_config: AffinityConfig,
    pub(super) external_policy: Option<At<String>>,
    pub(super) internal_policy: Option<At<String>>,
    pub(super) health_check: Option<i64>,
    pub(super) families: Vec<String>,
    pub(super) family_policy: Option<String>,
    pub(super) selector: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename = "SessionAffinityConfig", rename_all = "camelCase")]
pub(super) struct AffinityConfig {
    #[serde(rename = "clientIP", default, deserialize_with = "reader::absent")]
    client_ip: ClientIpConfig,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClientIpConfig {
    timeout_seconds: Option<At<i64>>,
}

/// Reads what `spec` and annotations say; `findings` is what is known of its ports already.
pub(super) fn read(
    kind: ServiceKind,
    (meta, status): (&ObjectMeta, &ServiceStatus),
    mut spec: ExposureSpec,
    cluster_ips: &[IpAddr],
    mut findings: Vec<Finding>,
) -> Exposure {
    let findings = &mut findings;
    let affinity = affinity(&spec, findings);
    let source_ranges = source_ranges(&meta.annotations, &spec.source_ranges, findings);
    let (requested, misread) = requested(&meta.annotations, spec.load_balancer_ip.as_ref(), findings);
    let towards = towards(&meta.annotations, findings);
    let selector = std::mem::take(&mut spec.selector);
    let wish = (kind == ServiceKind::LoadBalancer).then(|| {
        let policy = spec.family_policy.as_deref();
        Box::new(service_addresses::read(meta, status, selector, policy, misread))
    });
    let external_local = is_local("spec.externalTrafficPolicy", spec.external_policy.as_ref(), findings);
    let internal_local = is_local("spec.internalTrafficPolicy", spec.internal_policy.as_ref(), findings);
    let has = |family: &str, is_family: fn(&IpAddr) -> bool| {
        let is_dual = matches!(spec.family_policy.as_deref(), Some("PreferDualStack" | "RequireDualStack"));
        is_dual
            || spec.families.iter().any(|one| one == family)
            || (spec.families.is_empty() && cluster_ips.iter().any(is_family))
    };
    let ipv6 = has("IPv6", IpAddr::is_ipv6);
    Exposure {
        kind,
        created: meta.creation_timestamp.as_deref().and_then(syntax::timestamp),
        class: spec.class.clone().filter(|class| !class.is_empty()),
        requested,
        wish,
        source_ranges,
        towards,
        affinity,
        external_local,
        internal_local,
        health_check: spec.health_check.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0),
        proxy_name: meta.labels.get(PROXY_NAME).map(|name| Arc::from(&**name)),
        ipv4: has("IPv4", IpAddr::is_ipv4) || !ipv6,
        ipv6,
        findings: std::mem::take(findings).into(),
    }
}

/// How endpoints learn who their clients are.
fn towards(annotations: &Text, findings: &mut Vec<Finding>) -> Result<Towards, Unreadable> {
    let mut towards = Towards::default();
    let mut read = |key: &str, choices: &str, take: &mut dyn FnMut(&str) -> bool| {
        let Some(text) = annotations.get(key) else { return Ok(()) };
        let value = text.value.trim();
        if take(value) {
            return Ok(());
        }
        let message = format!("`{value}` is not one of {choices}, so nobody is served");
        let field = format!("metadata.annotations[{key:?}]");
        findings.push(Finding::error(field, text.line, "UnknownValue", message));
        Err(Unreadable)
    };
    let source = read(SOURCE_ADDRESS, "client, gateway", &mut |value| {
        towards.source_address = match value {
            "client" => SourceAddress::Client,
            "gateway" => SourceAddress::Gateway,
            _ => return false,
        };
        true
    });
    let proxy = read(SEND_PROXY, "v1, v2", &mut |value| {
        towards.proxy_protocol = match value {
            "v1" => ProxyProtocolOut::V1,
            "v2" => ProxyProtocolOut::V2,
            _ => return false,
        };
        true
    });
    source.and(proxy).map(|()| towards)
}

fn affinity(spec: &ExposureSpec, findings: &mut Vec<Finding>) -> Option<Duration> {
    let affinity = spec.affinity.as_ref()?;
    match &*affinity.value {
        "ClientIP" => {}
        "" | "None" => return None,
        other => {
            let message = format!("`{other}` is not one of ClientIP, None; clients have no affinity");
            findings.push(Finding::error("spec.sessionAffinity", affinity.line, "UnknownValue", message));
            return None;
        }
    }
    let seconds = spec.affinity_config.client_ip.timeout_seconds.map_or(AFFINITY_SECONDS, |it| it.value);
    let bounded = seconds.clamp(1, MOST_AFFINITY_SECONDS);
    if bounded != seconds {
        let message =
            format!("{seconds} is not within 1 and {MOST_AFFINITY_SECONDS}; it counts as {bounded}");
        let line = spec.affinity_config.client_ip.timeout_seconds.map_or(0, |it| it.line);
        let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
        findings.push(Finding::error(field, line, "OutOfRange", message));
    }
    Some(Duration::from_secs(bounded.unsigned_abs()))
}

fn is_local(field: &str, policy: Option<&At<String>>, findings: &mut Vec<Finding>) -> bool {
    match policy.map(|policy| &*policy.value) {
        Some("Local") => true,
        None | Some("" | "Cluster") => false,
        Some(other) => {
            let message = format!("`{other}` is not one of Cluster, Local; it counts as Cluster");
            let line = policy.map_or(0, |policy| policy.line);
            findings.push(Finding::error(field, line, "UnknownValue", message));
            false
        }
    }
}

/// Networks from the field, else from the annotation.
fn source_ranges(
    annotations: &Text,
    field: &[At<String>],
    findings: &mut Vec<Finding>,
) -> Option<Result<Arc<SourceRanges>, Unreadable>> {
    let (at, parts): (String, Vec<(&str, u32)>) = if field.is_empty() {
        let text = annotations.get(SOURCE_RANGES)?;
        // Empty, it is as if it were not there.
        if text.value.trim().is_empty() {
            return None;
        }
        let parts = text.value.split(',').map(|part| (part, text.line)).collect();
        (format!("metadata.annotations[{SOURCE_RANGES}]"), parts)
    } else {
        let parts = field.iter().map(|part| (&*part.value, part.line)).collect();
        ("spec.loadBalancerSourceRanges".to_owned(), parts)
    };
    let mut nets = Vec::with_capacity(parts.len());
    for (text, line) in parts {
        match text.trim().parse::<IpNet>() {
            Ok(net) => nets.push(net),
            Err(_) => {
                let message = format!(
                    "`{}` is not a network such as 192.0.2.0/24, so nobody is served at the addresses of the load \
                     balancer",
                    text.trim()
                );
                findings.push(Finding::error(at, line, "InvalidSourceRange", message));
                return Some(Err(Unreadable));
            }
        }
    }
    Some(Ok(Arc::new(SourceRanges::new(nets))))
}

/// Addresses that one Service may ask for: each is a socket per port and worker.
pub(super) const MOST_REQUESTED: usize = 8;

/// Addresses from the annotations, else from the field; and the first text there that is none.
fn requested(
    annotations: &Text,
    field: Option<&At<String>>,
    findings: &mut Vec<Finding>,
) -> (Box<[IpAddr]>, Option<Arc<str>>) {
    let annotation = REQUESTED.iter().find_map(|key| Some((*key, annotations.get(*key)?)));
    let (at, text) = match (annotation, field) {
        (Some((key, text)), _) => (format!("metadata.annotations[{key}]"), text),
        (None, Some(text)) => ("spec.loadBalancerIP".to_owned(), text),
        (None, None) => return (Box::default(), None),
    };
    let mut addresses: Vec<IpAddr> = Vec::new();
    let mut misread = None;
    for part in text.value.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let usable = part.parse::<IpAddr>().ok().map(|ip| ip.to_canonical());
        match usable.filter(|ip| !ip.is_unspecified() && !ip.is_multicast()) {
            Some(_) if addresses.len() == MOST_REQUESTED => {
                let message =
                    format!("at most {MOST_REQUESTED} addresses are looked at; `{part}` is ignored");
                findings.push(Finding::error(at, text.line, "TooManyAddresses", message));
                break;
            }
            Some(address) if !addresses.contains(&address) => addresses.push(address),
            Some(_) => {}
            None => {
                misread = misread.or_else(|| Some(Arc::from(part)));
                let message =
                    format!("`{part}` is not an address that can be a Service's own; it is ignored");
                findings.push(Finding::error(at.clone(), text.line, "InvalidAddress", message));
            }
        }
    }
    (addresses.into(), misread)
}
