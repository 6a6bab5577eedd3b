//! Which endpoints of a Service take requests, and why the others do not: readiness, families of addresses, and the
//! topology of the cluster, as kube-proxy has it. Facts about one Service go in; nothing is remembered.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use foldhash::quality::FixedState;

use super::EndpointSettings;
use super::backend::Resolved;
use crate::index::{self, Index, ServiceKey};
use crate::resource::destination;
use crate::resource::endpoint_slice::{EndpointSlice, Locality, Readiness, SliceEndpoint, SlicePort};
use crate::resource::ingress::PortRef;
use crate::resource::service::{Distribution, Service, ServicePort};
use crate::resource::{Finding, Object, ObjectSpec};
use crate::table::explain::LeftOut;
use crate::table::{Endpoint, Transport};

/// Where the gateway is, and what it can and may reach from there.
#[derive(Clone, Copy)]
pub(super) struct Vantage<'a> {
    settings: &'a EndpointSettings,
    index: &'a Index,
    zone: Option<&'a str>,
    /// Endpoints may be API servers.
    is_of_servers: bool,
}

impl<'a> Vantage<'a> {
    pub(super) fn new(settings: &'a EndpointSettings, index: &'a Index) -> Self {
        let zone = settings.zone.as_deref().or_else(|| index.zone());
        Self { settings, index, zone, is_of_servers: false }
    }

    fn node(&self) -> Option<&'a str> {
        self.settings.node.as_deref()
    }

    /// Whether what is at `locality` is of this node. Where there are no nodes, all of it is.
    fn is_here(&self, locality: Option<&Locality>) -> bool {
        match self.node() {
            Some(own) => locality.and_then(|locality| locality.node.as_deref()) == Some(own),
            None => !self.settings.is_shared,
        }
    }

    /// What this host has itself, it always reaches.
    fn reaches(&self, address: SocketAddr) -> bool {
        let by_family = if address.is_ipv4() { self.settings.ipv4 } else { self.settings.ipv6 };
        by_family || address.ip().is_loopback()
    }

    /// Whether an ExternalName may lead to `address`.
    fn allows(&self, address: SocketAddr) -> bool {
        destination::is_allowed(address.ip()) && !self.index.refuses(address)
    }

    /// Whether a Service may have an endpoint at `address`.
    fn allows_endpoint(&self, address: SocketAddr) -> bool {
        let is_server = || self.is_of_servers && self.index.is_server(address);
        !self.settings.is_shared
            || (destination::is_endpoint(address.ip()) && (is_server() || !self.index.refuses(address)))
    }
}

/// An address of a Service on its way.
struct Candidate<'a> {
    address: SocketAddr,
    state: Readiness,
    endpoint: &'a SliceEndpoint,
    fate: Fate,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fate {
    Used,
    /// No Service may lead there.
    Refused,
    NotReady,
    /// Others are ready.
    Terminating,
    /// The host has no address of its family, and there are others.
    Unreachable,
    /// The same Pod is used by its address of the other family.
    Twin,
    /// Others are preferred for this zone or node.
    Elsewhere,
    /// It is on another node, and only those of this one are wanted.
    OffNode,
}

/// Which endpoints may be used at all, as traffic policies have it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) enum Scope {
    /// Those of the whole cluster.
    Cluster,
    /// Those of this node.
    Node,
}

/// A port of a Service whose bytes are relayed, and which of its endpoints may be used.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct RelayedPort {
    pub(super) port: u16,
    pub(super) transport: Transport,
    pub(super) scope: Scope,
}

impl Candidate<'_> {
    fn is_used(&self) -> bool {
        self.fate == Fate::Used
    }

    fn locality(&self) -> Option<&Locality> {
        self.endpoint.locality.as_deref()
    }
}

/// What the slices of a Service say about one port.
struct Found<'a> {
    /// Sorted by address, each once.
    candidates: Vec<Candidate<'a>>,
    slices: usize,
    with_port: usize,
    /// Some are usable, but none can be reached.
    is_stranded: bool,
}

/// What there is to say of addresses that are refused.
const NOWHERE: &str = "no Service may lead to the gateway's own host, link or listeners, to a metadata service or to the API server";

/// The endpoints of `port` of a Service that take requests, sorted by address, each address once; with `upstream`, the
/// Service's own address instead.
pub(super) fn service(
    index: &Index,
    vantage: Vantage<'_>,
    key: &ServiceKey,
    port: u16,
    upstream: bool,
) -> Resolved {
    let port = RelayedPort { port, transport: Transport::Tcp, scope: Scope::Cluster };
    resolve(index, vantage, key, (port, "requests are answered 503"), upstream)
}

/// The endpoints that bytes for a port of a Service are relayed to.
pub(super) fn relayed(index: &Index, vantage: Vantage<'_>, key: &ServiceKey, port: RelayedPort) -> Resolved {
    let otherwise = match port.transport {
        Transport::Tcp => "connections are refused",
        Transport::Udp => "datagrams are dropped",
    };
    // The API servers' own Service, which is how Pods reach them; nobody else's may lead there.
    let vantage = Vantage { is_of_servers: index::is_service_of_servers(key), ..vantage };
    resolve(index, vantage, key, (port, otherwise), false)
}

/// The endpoints of a port; `otherwise` is what happens if there are none, for people.
fn resolve(
    index: &Index,
    vantage: Vantage<'_>,
    key: &ServiceKey,
    (port, otherwise): (RelayedPort, &str),
    upstream: bool,
) -> Resolved {
    let Some((object, service)) = index.service(key) else { return Resolved::default() };
    let RelayedPort { port, transport, scope } = port;
    let mut findings = Vec::new();
    let mut names = Vec::new();
    let endpoints = match &service.external_name {
        Some(Ok(name)) => {
            if upstream {
                findings.push(no_upstream("it has an ExternalName"));
            }
            names.push(Arc::clone(name));
            external(index, vantage, name, port, &mut findings)
        }
        Some(Err(_)) => Vec::new(),
        None => match upstream.then(|| cluster_ip(vantage, service)) {
            Some(Ok(address)) => {
                let address = SocketAddr::new(address, port);
                if vantage.allows_endpoint(address) {
                    vec![plain(address)]
                } else {
                    let message = format!("{address} is refused: {NOWHERE}; {otherwise}");
                    findings.push(Finding::warning("spec.clusterIP", 0, "RefusedAddress", message));
                    Vec::new()
                }
            }
            other => {
                findings.extend(other.and_then(Result::err).map(no_upstream));
                let spec = service.port_of(transport, &PortRef::Number(port));
                let use_ = Use { scope, otherwise };
                spec.map(|spec| sliced(index, vantage, (key, service), (spec, use_), &mut findings))
                    .unwrap_or_default()
            }
        },
    };
    let problems = findings.into_iter().map(|finding| object.problem(finding)).collect();
    Resolved { endpoints, problems, names }
}

/// The endpoints of `port` of a Service that get no requests.
pub(super) fn left_out(
    index: &Index,
    vantage: Vantage<'_>,
    key: &ServiceKey,
    port: RelayedPort,
) -> Vec<LeftOut> {
    let RelayedPort { port, transport, scope } = port;
    let Some((_, service)) = index.service(key) else { return Vec::new() };
    if let Some(name) = &service.external_name {
        let addresses = name.as_ref().ok().and_then(|name| index.addresses(name));
        let refused = addresses.into_iter().flat_map(|all| all.iter().copied());
        let refused = refused.map(|address| SocketAddr::new(address, port));
        let refused = refused.filter(|address| !vantage.allows(*address));
        return refused.map(|address| LeftOut { address, why: "refused".to_owned() }).collect();
    }
    let Some(spec) = service.port_of(transport, &PortRef::Number(port)) else { return Vec::new() };
    let found = find(index, vantage, (key, service), spec, scope);
    let lost = found.candidates.iter().filter(|candidate| !candidate.is_used());
    lost.map(|candidate| LeftOut { address: candidate.address, why: why(candidate) }).collect()
}

fn why(candidate: &Candidate<'_>) -> String {
    let locality = candidate.locality();
    match candidate.fate {
        Fate::Used => String::new(),
        Fate::Refused => "refused".to_owned(),
        Fate::NotReady => "not ready".to_owned(),
        Fate::Terminating => "terminating, and others are ready".to_owned(),
        Fate::Unreachable => "this host has no address of its family, and others can be reached".to_owned(),
        Fate::Twin => "the same Pod is used by its address of the other family".to_owned(),
        Fate::OffNode => {
            let node = locality.and_then(|locality| locality.node.as_deref()).unwrap_or("unknown");
            format!("on node {node}, and the traffic policy is Local")
        }
        Fate::Elsewhere => {
            let zone = locality.and_then(|locality| locality.zone.as_deref()).unwrap_or("unknown");
            let node = locality.and_then(|locality| locality.node.as_deref()).unwrap_or("unknown");
            format!("others are preferred here by topology (it is in zone {zone}, on node {node})")
        }
    }
}

fn plain(address: SocketAddr) -> Endpoint {
    Endpoint { address, weight: 1, identity: None, dns_name: None }
}

fn no_upstream(why: &str) -> Finding {
    let message = format!("`service-upstream` has no effect: {why}; requests go to the endpoints");
    Finding::warning("spec.clusterIP", 0, "NoClusterIP", message)
}

/// The Service's own address that can be reached, those of its first family first.
fn cluster_ip(vantage: Vantage<'_>, service: &Service) -> Result<IpAddr, &'static str> {
    let reached = service.cluster_ips.iter().find(|ip| vantage.reaches(SocketAddr::new(**ip, 0)));
    match reached.or_else(|| service.cluster_ips.first()) {
        Some(address) => Ok(*address),
        None if service.is_headless => Err("the Service is headless"),
        None => Err("the Service has no `clusterIP`"),
    }
}

/// How many ready endpoints of the Service are on this node, whatever their ports.
pub(super) fn ready_here(index: &Index, vantage: Vantage<'_>, key: &ServiceKey, service: &Service) -> u32 {
    let slices = index.slices(key).filter_map(|slice| match &slice.spec {
        ObjectSpec::EndpointSlice(slice) => Some(slice),
        _ => None,
    });
    let here = slices.flat_map(|slice| slice.endpoints.iter()).filter(|endpoint| {
        let is_ready = service.publish_not_ready || endpoint.state == Readiness::Ready;
        is_ready && vantage.is_here(endpoint.locality.as_deref())
    });
    let addresses: BTreeSet<IpAddr> = here.map(|endpoint| endpoint.address).collect();
    u32::try_from(addresses.len()).unwrap_or(u32::MAX)
}

/// What the endpoints of a port are for.
#[derive(Clone, Copy)]
struct Use<'a> {
    scope: Scope,
    /// What happens if there are none, for people.
    otherwise: &'a str,
}

fn sliced(
    index: &Index,
    vantage: Vantage<'_>,
    (key, service): (&ServiceKey, &Service),
    (spec, Use { scope, otherwise }): (&ServicePort, Use<'_>),
    findings: &mut Vec<Finding>,
) -> Vec<Endpoint> {
    let port = spec.port;
    let found = find(index, vantage, (key, service), spec, scope);
    let used = found.candidates.iter().filter(|candidate| candidate.is_used());
    let endpoints: Vec<Endpoint> = used
        .map(|candidate| Endpoint {
            identity: candidate.endpoint.identity.clone(),
            ..plain(candidate.address)
        })
        .collect();
    let all = found.candidates.len();
    let refused = || found.candidates.iter().filter(|candidate| candidate.fate == Fate::Refused);
    let count = refused().count();
    if let Some(first) = refused().next() {
        let rest = if endpoints.is_empty() { otherwise } else { "requests go to the others" };
        let message = format!(
            "{count} of {all} endpoints of port {port} are refused, the first is {}: {NOWHERE}; {rest}",
            first.address
        );
        findings.push(Finding::warning("", 0, "RefusedAddress", message));
    }
    if endpoints.is_empty() && count > 0 && count == all {
        // That is all there is to say.
    } else if endpoints.is_empty() {
        // That none is on this node is how things are on most nodes.
        if found.candidates.iter().all(|candidate| candidate.fate != Fate::OffNode) {
            let (reason, message) = no_endpoints(&key.1, spec, &found, otherwise);
            findings.push(Finding::warning("", 0, reason, message));
        }
    } else if found.is_stranded {
        let message = format!(
            "no endpoint of port {port} has an address of a family that this host had when it started, so requests \
             will probably be answered 502"
        );
        findings.push(Finding::warning("", 0, "UnreachableFamily", message));
    }
    endpoints
}

fn find<'a>(
    index: &'a Index,
    vantage: Vantage<'_>,
    (key, service): (&ServiceKey, &Service),
    spec: &ServicePort,
    scope: Scope,
) -> Found<'a> {
    let mut found = Found { candidates: Vec::new(), slices: 0, with_port: 0, is_stranded: false };
    for slice in index.slices(key) {
        let ObjectSpec::EndpointSlice(slice) = &slice.spec else { continue };
        found.slices += 1;
        let Some(port) = slice_port(slice, spec) else { continue };
        found.with_port += 1;
        found.candidates.extend(slice.endpoints.iter().map(|endpoint| {
            let state = if service.publish_not_ready { Readiness::Ready } else { endpoint.state };
            let address = SocketAddr::new(endpoint.address, port);
            Candidate { address, state, endpoint, fate: Fate::Used }
        }));
    }
    // Two slices may name one address while Pods move: it is ready if any says so, and the order of slices must
    // not matter.
    // Stable, for what is sorted within each slice need only be merged.
    found.candidates.sort_by(|a, b| {
        let rest = |candidate: &Candidate<'a>| {
            (candidate.state, &candidate.endpoint.identity, &candidate.endpoint.locality)
        };
        a.address.cmp(&b.address).then_with(|| rest(b).cmp(&rest(a)))
    });
    found.candidates.dedup_by(|later, first| later.address == first.address);
    found.is_stranded = judge(&mut found.candidates, service, vantage, scope);
    found
}

/// Decides each candidate's fate. True if some are usable and none can be reached: then they are used all the
/// same, for what the host had when it started may have changed.
fn judge(candidates: &mut [Candidate<'_>], service: &Service, vantage: Vantage<'_>, scope: Scope) -> bool {
    for candidate in candidates.iter_mut() {
        if !vantage.allows_endpoint(candidate.address) {
            candidate.fate = Fate::Refused;
        } else if scope == Scope::Node && !vantage.is_here(candidate.locality()) {
            candidate.fate = Fate::OffNode;
        } else if candidate.state == Readiness::NotReady {
            candidate.fate = Fate::NotReady;
        }
    }
    let mut is_stranded = false;
    if !(vantage.settings.ipv4 && vantage.settings.ipv6) {
        let reaches = |candidate: &Candidate<'_>| vantage.reaches(candidate.address);
        if candidates.iter().any(|candidate| candidate.is_used() && reaches(candidate)) {
            let lost = candidates.iter_mut().filter(|candidate| candidate.is_used() && !reaches(candidate));
            lost.for_each(|candidate| candidate.fate = Fate::Unreachable);
        } else {
            is_stranded = candidates.iter().any(Candidate::is_used);
        }
    }
    leave_out_twins(candidates, service.prefers_ipv6);
    let is_ready = |candidate: &Candidate<'_>| candidate.is_used() && candidate.state == Readiness::Ready;
    if !candidates.iter().any(is_ready) {
        return is_stranded;
    }
    for candidate in candidates.iter_mut().filter(|candidate| candidate.is_used() && !is_ready(candidate)) {
        candidate.fate = Fate::Terminating;
    }
    // Whoever wants those of the node has chosen already.
    let preference = (scope == Scope::Cluster)
        .then(|| Preference::of(candidates, service.distribution, vantage))
        .flatten();
    if let Some(preference) = preference {
        let lost = candidates.iter_mut().filter(|candidate| candidate.is_used());
        lost.filter(|candidate| !preference.fits(candidate.locality(), vantage))
            .for_each(|candidate| candidate.fate = Fate::Elsewhere);
    }
    is_stranded
}

/// Of a Pod with an address of each family, one is enough.
fn leave_out_twins(candidates: &mut [Candidate<'_>], prefers_ipv6: bool) {
    let is_preferred = |candidate: &Candidate<'_>| candidate.address.is_ipv6() == prefers_ipv6;
    let used = candidates.iter().filter(|candidate| candidate.is_used());
    let (preferred, others): (Vec<_>, Vec<_>) = used.partition(|candidate| is_preferred(candidate));
    if preferred.is_empty() || others.is_empty() {
        return;
    }
    let mut states: HashMap<Arc<str>, Readiness, FixedState> = HashMap::default();
    for candidate in preferred {
        if let Some(identity) = &candidate.endpoint.identity {
            let state = states.entry(Arc::clone(identity)).or_insert(candidate.state);
            *state = candidate.state.max(*state);
        }
    }
    for candidate in candidates.iter_mut().filter(|candidate| candidate.is_used() && !is_preferred(candidate))
    {
        let twin = candidate.endpoint.identity.as_ref().and_then(|identity| states.get(identity));
        if twin.is_some_and(|state| *state >= candidate.state) {
            candidate.fate = Fate::Twin;
        }
    }
}

/// By what some of the ready endpoints go before the others.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Preference {
    HintedNode,
    HintedZone,
    OwnNode,
    OwnZone,
}

impl Preference {
    /// What the ready endpoints allow for. A preference holds only if every endpoint says something about it, and
    /// at least one fits: otherwise those that say nothing would get nothing, or nobody would get anything.
    fn of(candidates: &[Candidate<'_>], distribution: Distribution, vantage: Vantage<'_>) -> Option<Self> {
        let holds = |preference: &Self| {
            let used = || candidates.iter().filter(|candidate| candidate.is_used());
            used().any(|candidate| preference.fits(candidate.locality(), vantage))
                && used().all(|candidate| candidate.locality().is_some_and(|it| preference.is_told(it)))
        };
        let is_hinted =
            |locality: &Locality| Self::HintedNode.is_told(locality) || Self::HintedZone.is_told(locality);
        let mut used = candidates.iter().filter(|candidate| candidate.is_used());
        let without_hints = !used.any(|candidate| candidate.locality().is_some_and(is_hinted));
        let order: &[Self] = match (distribution, without_hints) {
            (Distribution::Even, _) | (Distribution::Hinted, true) => &[],
            (_, false) => &[Self::HintedNode, Self::HintedZone],
            // Slices that no controller looks after: what it would write follows from where the endpoints are.
            (Distribution::SameZone, true) => &[Self::OwnZone],
            (Distribution::SameNode, true) => &[Self::OwnNode, Self::OwnZone],
        };
        order.iter().copied().find(holds)
    }

    fn is_told(self, locality: &Locality) -> bool {
        match self {
            Self::HintedNode => !locality.for_nodes.is_empty(),
            Self::HintedZone => !locality.for_zones.is_empty(),
            Self::OwnNode => locality.node.is_some(),
            Self::OwnZone => locality.zone.is_some(),
        }
    }

    fn fits(self, locality: Option<&Locality>, vantage: Vantage<'_>) -> bool {
        let Some(locality) = locality else { return false };
        let is = |name: &Arc<str>, own: Option<&str>| own == Some(&**name);
        match self {
            Self::HintedNode => locality.for_nodes.iter().any(|node| is(node, vantage.node())),
            Self::HintedZone => locality.for_zones.iter().any(|zone| is(zone, vantage.zone)),
            Self::OwnNode => locality.node.as_ref().is_some_and(|node| is(node, vantage.node())),
            Self::OwnZone => locality.zone.as_ref().is_some_and(|zone| is(zone, vantage.zone)),
        }
    }
}

/// The port number that `slice` gives to the Service port.
fn slice_port(slice: &EndpointSlice, port: &ServicePort) -> Option<u16> {
    let is_it = |candidate: &&SlicePort| candidate.name == port.name && candidate.transport == port.transport;
    let found = slice.ports.iter().find(is_it)?;
    found.port.or(match &port.target {
        Some(PortRef::Number(target)) => Some(*target),
        Some(PortRef::Name(_)) => None,
        None => Some(port.port),
    })
}

fn no_endpoints(name: &str, port: &ServicePort, found: &Found<'_>, answer: &str) -> (&'static str, String) {
    let slices = found.slices;
    match (slices, found.with_port) {
        (0, _) => (
            "NoEndpointSlice",
            format!(
                "there is no EndpointSlice of this Service, so {answer}; add one with the label \
                 `kubernetes.io/service-name: {name}`"
            ),
        ),
        (_, 0) => {
            let wanted = if port.name.is_empty() {
                "without a name".to_owned()
            } else {
                format!("named `{}`", port.name)
            };
            (
                "NoEndpointPort",
                format!(
                    "none of the {slices} EndpointSlices of this Service has a port {wanted} for its port {}, so {answer}",
                    port.port
                ),
            )
        }
        _ => ("NoReadyEndpoint", format!("no endpoint of port {} is ready, so {answer}", port.port)),
    }
}

fn external(
    index: &Index,
    vantage: Vantage<'_>,
    name: &Arc<str>,
    port: u16,
    findings: &mut Vec<Finding>,
) -> Vec<Endpoint> {
    let Some(addresses) = index.addresses(name) else { return Vec::new() };
    let (allowed, refused): (Vec<_>, Vec<_>) =
        addresses.iter().map(|ip| SocketAddr::new(*ip, port)).partition(|address| vantage.allows(*address));
    let shown: Arc<str> = name.trim_end_matches('.').into();
    if let Some(address) = refused.first() {
        let message = format!("`{shown}` resolves to {}, which is refused: {NOWHERE}", address.ip());
        findings.push(Finding::warning("spec.externalName", 0, "RefusedAddress", message));
    } else if allowed.is_empty() {
        let message = format!("`{shown}` does not resolve, so requests are answered 503");
        findings.push(Finding::warning("spec.externalName", 0, "Unresolved", message));
    }
    allowed
        .into_iter()
        .map(|address| Endpoint { dns_name: Some(Arc::clone(&shown)), ..plain(address) })
        .collect()
}

/// What there is to say if `object`'s port speaks a protocol that nobody knows.
pub(super) fn unknown_protocol(object: &Object, port: u16, text: &str) -> crate::report::Problem {
    let message = format!(
        "`{text}` of port {port} is not an `appProtocol` that is known here, so its endpoints are spoken to in HTTP/1.1; \
         the annotation sluicegate.dev/backend-protocol goes before it"
    );
    let finding = Finding::warning("spec.ports.appProtocol", 0, "UnknownProtocol", message);
    object.problem(finding)
}
