//! Backends: which endpoints a Service port has now, under which policy.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::native;
use crate::index::{Index, ServiceKey};
use crate::report::Problem;
use crate::resource::endpoint_slice::{EndpointSlice, Readiness};
use crate::resource::ingress::PortRef;
use crate::resource::service::{self, ServicePort};
use crate::resource::{Finding, Object, ObjectSpec};
use crate::table::Endpoint;

/// Identifies a backend for as long as anything refers to it.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) enum BackendKey {
    /// A port of a Service.
    Service {
        service: ServiceKey,
        port: u16,
        /// The Ingress (of the same namespace) whose annotations override the Service's.
        via: Option<Arc<str>>,
    },
    /// A backend of the native format.
    Native { name: Arc<str> },
}

impl BackendKey {
    /// What it must be compiled again with.
    pub(super) fn service(&self) -> ServiceKey {
        match self {
            Self::Service { service, .. } => service.clone(),
            Self::Native { name } => native::key(name),
        }
    }

    /// Stable display name.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Service { service: (namespace, name), port, via: None } => {
                format!("{namespace}/{name}:{port}")
            }
            Self::Service { service: (namespace, name), port, via: Some(ingress) } => {
                format!("{namespace}/{name}:{port}@{ingress}")
            }
            Self::Native { name } => name.to_string(),
        }
    }
}

/// Endpoints with what there is to say about them.
#[derive(Debug, Default)]
pub(super) struct Resolved {
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) problem: Option<Problem>,
    /// DNS names that it depends on.
    pub(super) names: Vec<Arc<str>>,
}

/// The endpoints of `port` of a Service, sorted by address, each address once.
pub(super) fn service_endpoints(index: &Index, key: &ServiceKey, port: u16) -> Resolved {
    let Some((object, service)) = index.service(key) else { return Resolved::default() };
    if let Some(Ok(name)) = &service.external_name {
        return external_endpoints(index, object, name, port);
    }
    let Some(spec) = service.port(&PortRef::Number(port)) else { return Resolved::default() };
    let mut ready = BTreeMap::new();
    let mut terminating = BTreeMap::new();
    let (mut slices, mut with_port) = (0, 0);
    for slice in index.slices(key) {
        let ObjectSpec::EndpointSlice(slice) = &slice.spec else { continue };
        slices += 1;
        let Some(port) = slice_port(slice, spec) else { continue };
        with_port += 1;
        for endpoint in &slice.endpoints {
            let target = match endpoint.state {
                Readiness::Ready => &mut ready,
                Readiness::Terminating => &mut terminating,
                Readiness::NotReady => continue,
            };
            let address = SocketAddr::new(endpoint.address, port);
            let identity = target.entry(address).or_insert_with(|| endpoint.identity.clone());
            // Two slices may name one address while Pods move: the order of slices must not matter.
            if *identity < endpoint.identity {
                identity.clone_from(&endpoint.identity);
            }
        }
    }
    let usable = if ready.is_empty() { terminating } else { ready };
    if usable.is_empty() {
        let (reason, message) = no_endpoints(&key.1, spec, slices, with_port);
        let finding = Finding::warning("", 0, reason, message);
        let problem = Some(finding.into_problem(&object.reference, object.location.as_ref()));
        return Resolved { endpoints: Vec::new(), problem, names: Vec::new() };
    }
    let endpoint = |(address, identity)| Endpoint { address, weight: 1, identity, dns_name: None };
    Resolved { endpoints: usable.into_iter().map(endpoint).collect(), ..Resolved::default() }
}

/// The port number that `slice` gives to the Service port.
fn slice_port(slice: &EndpointSlice, port: &ServicePort) -> Option<u16> {
    let found = slice.ports.iter().find(|candidate| candidate.name == port.name)?;
    found.port.or(match &port.target {
        Some(PortRef::Number(target)) => Some(*target),
        Some(PortRef::Name(_)) => None,
        None => Some(port.port),
    })
}

fn no_endpoints(name: &str, port: &ServicePort, slices: usize, with_port: usize) -> (&'static str, String) {
    let answer = "requests are answered 503";
    match (slices, with_port) {
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

fn external_endpoints(index: &Index, object: &Object, name: &Arc<str>, port: u16) -> Resolved {
    let names = vec![Arc::clone(name)];
    let Some(addresses) = index.addresses(name) else { return Resolved { names, ..Resolved::default() } };
    let (allowed, refused): (Vec<_>, Vec<_>) =
        addresses.iter().partition(|address| service::is_external(**address));
    let message = match (allowed.is_empty(), refused.first()) {
        (_, Some(address)) => Some(format!(
            "`{name}` resolves to {address}, which is refused: it leads to the gateway's own host or link"
        )),
        (true, None) => Some(format!("`{name}` does not resolve, so requests are answered 503")),
        (false, None) => None,
    };
    let problem = message.map(|message| {
        let reason = if refused.is_empty() { "Unresolved" } else { "RefusedAddress" };
        Finding::warning("spec.externalName", 0, reason, message)
            .into_problem(&object.reference, object.location.as_ref())
    });
    let endpoint = |address: &std::net::IpAddr| Endpoint {
        address: SocketAddr::new(*address, port),
        weight: 1,
        identity: None,
        dns_name: Some(Arc::clone(name)),
    };
    Resolved { endpoints: allowed.into_iter().map(endpoint).collect(), problem, names }
}
