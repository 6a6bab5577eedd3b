//! Services that are served at addresses of their own: of a load balancer, of the node, of the cluster. Decides which
//! addresses those are and on which terms; who gets an address that several want is decided elsewhere.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::Compiler;
use super::backend::BackendKey;
use super::endpoints::{self, RelayedPort, Scope, Vantage};
use super::route::{Outcome, Route};
use super::settings::{ServiceSettings, Settings};
use super::workshop::Workshop;
use crate::index::{Assignment, Index, ServiceKey};
use crate::report::ObjectRef;
use crate::resource::service::{Service, ServicePort};
use crate::resource::service_exposure::{Exposure, ServiceKind, Towards, Unreadable};
use crate::resource::{Finding, Object};
use crate::table::{
    ALL_ADDRESSES, BackendId, L4Bind, L4Key, L4Policy, ProxyProtocolOut, RouteId, ServiceCheck,
    SourceAddress, SourceRanges, Split, Transport, Unavailable,
};

/// Streams may be silent for long: databases keep connections that nobody uses, and the kernel's own tracking, which
/// Services are used to, waits for days.
const IDLE: Duration = Duration::from_secs(24 * 3_600);
/// Datagrams that belong together come within this.
const FLOW_IDLE: Duration = Duration::from_secs(120);
/// Open connections of one address and port. Kubernetes knows no limit; descriptors are one.
const MOST_CONNECTIONS: u32 = 262_144;

/// Whether the Service may be served at addresses of its own.
pub(super) fn is_ours(settings: &ServiceSettings, service: &Service) -> bool {
    service.exposure.as_ref().is_some_and(|exposure| Kinds::new(settings, exposure).is_any())
}

/// By which kinds of addresses a Service is reached here.
#[derive(Clone, Copy, Debug)]
struct Kinds {
    load_balancer: bool,
    node: bool,
    cluster: bool,
}

impl Kinds {
    fn new(settings: &ServiceSettings, exposure: &Exposure) -> Self {
        // Only what kube-proxy does is left to another proxy.
        let is_for_us = exposure.proxy_name.is_none();
        Self {
            load_balancer: settings.balances(exposure),
            node: settings.node_port && is_for_us && exposure.kind != ServiceKind::ClusterIp,
            cluster: settings.cluster_ip && is_for_us,
        }
    }

    fn is_any(self) -> bool {
        self.load_balancer || self.node || self.cluster
    }
}

/// One way to a port of the Service.
struct Way {
    address: SocketAddr,
    free_bind: bool,
    local_route: bool,
    scope: Scope,
    /// Clients that may come this way.
    clients: Clients,
}

#[derive(Clone, Copy)]
enum Clients {
    All,
    /// As `loadBalancerSourceRanges` has it.
    InRanges,
}

/// Compiles a Service that [`is_ours`].
pub(super) fn compile(shop: &mut Workshop<'_>, object: &Object, service: &Service, id: RouteId) -> Outcome {
    let Some(exposure) = &service.exposure else { return Outcome { route: None, problems: Vec::new() } };
    let kinds = Kinds::new(&shop.settings.services, exposure);
    let mut findings: Vec<Finding> = exposure.findings.to_vec();
    let balanced =
        if kinds.load_balancer { balanced(shop, object, exposure, &mut findings) } else { Vec::new() };
    let key = (shop.intern(&object.reference.namespace), shop.intern(&object.reference.name));
    let towards = towards(shop, exposure, &mut findings);
    let mut held = BTreeSet::new();
    let mut l4: Vec<Arc<L4Bind>> = Vec::new();
    let mut seen = BTreeSet::new();
    for port in &service.ports {
        for way in ways(
            shop.settings.services.node_addresses.as_deref(),
            (kinds, &balanced),
            service,
            exposure,
            port,
        ) {
            let l4_key = L4Key { address: way.address, transport: port.transport };
            if !seen.insert(l4_key) {
                continue;
            }
            let relayed = RelayedPort { port: port.port, transport: port.transport, scope: way.scope };
            let backend = BackendKey::Relayed { service: key.clone(), port: relayed };
            let backend = shop.acquire(backend, &mut held);
            let (target, ranges) = match towards {
                Ok(_) => target(&way, exposure, backend),
                Err(_) => (Err(Unavailable::InvalidSetting), None),
            };
            l4.push(Arc::new(L4Bind {
                key: l4_key,
                listener: format!("{}/{}:{}", key.0, key.1, port.port).into(),
                free_bind: way.free_bind,
                local_route: way.local_route,
                route: id,
                target,
                policy: shop.l4_policies.intern(policy(port.transport, (exposure, towards), ranges)),
            }));
        }
    }
    let is_node_wanted =
        l4.iter().any(|bind| matches!(bind.target, Ok(Split::One(id)) if is_of_node(shop, id)));
    let endpoints = &shop.settings.endpoints;
    if is_node_wanted && endpoints.is_shared && endpoints.node.is_none() {
        let message = "a traffic policy is Local, and which node this is was not said (--node-name), so clients are \
                       refused";
        findings.push(Finding::error("spec.externalTrafficPolicy", 0, "UnknownNode", message.to_owned()));
    }
    let problems = findings.into_iter().map(|finding| object.problem(finding)).collect();
    let route = Route::of_binds(object, exposure.created, l4, held, vec![key]);
    Outcome { route: Some(route), problems }
}

fn is_of_node(shop: &Workshop<'_>, id: BackendId) -> bool {
    let slot = shop.backends.at(id.0);
    slot.is_some_and(|slot| {
        matches!(slot.key, BackendKey::Relayed { port: RelayedPort { scope: Scope::Node, .. }, .. })
    })
}

/// The addresses that the Service has of the load balancer.
fn balanced(
    shop: &Workshop<'_>,
    object: &Object,
    exposure: &Exposure,
    findings: &mut Vec<Finding>,
) -> Vec<IpAddr> {
    if let Some(Assignment { addresses, lack }) = shop.index.assigned(&object.reference) {
        findings.extend(lack.as_ref().map(|(reason, message)| {
            let finding: fn(&'static str, u32, &'static str, String) -> Finding =
                if addresses.is_empty() { Finding::error } else { Finding::warning };
            finding("spec.type", 0, reason, message.clone())
        }));
        return addresses.to_vec();
    }
    let is_shared = shop.settings.endpoints.is_shared;
    let may = |ip: &IpAddr| shop.settings.services.may_ask(*ip, is_shared);
    let (allowed, others): (Vec<IpAddr>, Vec<IpAddr>) = exposure.requested.iter().partition(|ip| may(ip));
    if let Some(refused) = others.first() {
        let message = format!("{refused} is not one of the addresses that Services may ask for");
        findings.push(Finding::error("spec.loadBalancerIP", 0, "AddressNotAllowed", message));
    } else if allowed.is_empty() {
        let message = "it has no address: there is no pool, and neither `spec.loadBalancerIP` nor the annotation \
                       sluicegate.dev/load-balancer-ips asks for one";
        findings.push(Finding::warning("spec.loadBalancerIP", 0, "NoAddress", message.to_owned()));
    }
    allowed
}

/// Every way to `port`; those that say more about clients first.
fn ways(
    node_addresses: Option<&[IpAddr]>,
    (kinds, balanced): (Kinds, &[IpAddr]),
    service: &Service,
    exposure: &Exposure,
    port: &ServicePort,
) -> Vec<Way> {
    let scope = |is_local: bool| if is_local { Scope::Node } else { Scope::Cluster };
    let external = scope(exposure.external_local);
    let way = |ip: &IpAddr, port, free_bind, scope, clients| Way {
        address: SocketAddr::new(*ip, port),
        free_bind,
        local_route: false,
        scope,
        clients,
    };
    let mut ways = Vec::new();
    ways.extend(balanced.iter().map(|ip| way(ip, port.port, true, external, Clients::InRanges)));
    if let Some(node_port) = port.node_port.filter(|_| kinds.node) {
        let families = |ip: &IpAddr| if ip.is_ipv4() { exposure.ipv4 } else { exposure.ipv6 };
        let addresses = node_addresses.unwrap_or(&ALL_ADDRESSES).iter().filter(|ip| families(ip));
        ways.extend(addresses.map(|ip| way(ip, node_port, false, external, Clients::All)));
    }
    if kinds.cluster {
        let internal = scope(exposure.internal_local);
        let all = service.cluster_ips.iter().map(|ip| way(ip, port.port, true, internal, Clients::All));
        ways.extend(all.map(|way| Way { local_route: true, ..way }));
    }
    ways
}

/// Where a way leads, and who may go it.
fn target(
    way: &Way,
    exposure: &Exposure,
    backend: BackendId,
) -> (Result<Split, Unavailable>, Option<Arc<SourceRanges>>) {
    match (way.clients, &exposure.source_ranges) {
        (Clients::InRanges, Some(Ok(ranges))) => (Ok(Split::One(backend)), Some(Arc::clone(ranges))),
        (Clients::InRanges, Some(Err(_))) => (Err(Unavailable::InvalidSetting), None),
        (Clients::InRanges, None) | (Clients::All, _) => (Ok(Split::One(backend)), None),
    }
}

/// How endpoints learn who their clients are, as far as that is allowed here.
fn towards(
    shop: &Workshop<'_>,
    exposure: &Exposure,
    findings: &mut Vec<Finding>,
) -> Result<Towards, Unreadable> {
    let towards = exposure.towards?;
    if towards.source_address == SourceAddress::Client && !shop.settings.transparent {
        let field = "metadata.annotations[\"sluicegate.dev/source-address\"]";
        findings.push(Finding::error(field, 0, NOT_TRANSPARENT.0, NOT_TRANSPARENT.1.to_owned()));
        return Err(Unreadable);
    }
    Ok(towards)
}

/// Reason and message where endpoints are to see their clients' addresses and that is not allowed.
pub(super) const NOT_TRANSPARENT: (&str, &str) = (
    "NotTransparent",
    "clients' addresses towards endpoints need `--transparent`, and the right to use them; nobody is served without, since \
     endpoints would take the gateway for their client",
);

fn policy(
    transport: Transport,
    (exposure, towards): (&Exposure, Result<Towards, Unreadable>),
    source_ranges: Option<Arc<SourceRanges>>,
) -> L4Policy {
    let Towards { source_address, proxy_protocol } = towards.unwrap_or_default();
    let proxy_protocol_out = match transport {
        Transport::Tcp => proxy_protocol,
        Transport::Udp => ProxyProtocolOut::None,
    };
    L4Policy {
        affinity: exposure.affinity,
        source_ranges,
        source_address,
        proxy_protocol_out,
        ..terms(transport)
    }
}

/// The terms of Services that say nothing about it.
pub(super) fn terms(transport: Transport) -> L4Policy {
    match transport {
        Transport::Tcp => {
            L4Policy { idle_timeout: IDLE, max_connections: MOST_CONNECTIONS, ..L4Policy::default() }
        }
        Transport::Udp => L4Policy { idle_timeout: FLOW_IDLE, ..L4Policy::of_datagrams() },
    }
}

impl Compiler {
    /// How many ready endpoints of the Service are on the node that the gateway runs on.
    #[must_use]
    pub fn endpoints_here(&self, index: &Index, service: &ObjectRef) -> u32 {
        let key = (Arc::clone(&service.namespace), Arc::clone(&service.name));
        let vantage = Vantage::new(&self.settings.endpoints, index);
        index.service(&key).map_or(0, |(_, service)| endpoints::ready_here(index, vantage, &key, service))
    }
}

/// What health checks of a Service are told, if it has a port for that.
pub(super) fn check(index: &Index, settings: &Settings, key: &ServiceKey) -> Option<ServiceCheck> {
    let (_, service) = index.service(key)?;
    let exposure = service.exposure.as_ref().filter(|exposure| exposure.external_local)?;
    let port = exposure.health_check?;
    if !Kinds::new(&settings.services, exposure).node || exposure.kind != ServiceKind::LoadBalancer {
        return None;
    }
    let local_endpoints =
        endpoints::ready_here(index, Vantage::new(&settings.endpoints, index), key, service);
    let (namespace, name) = (Arc::clone(&key.0), Arc::clone(&key.1));
    Some(ServiceCheck { port, namespace, name, local_endpoints })
}
