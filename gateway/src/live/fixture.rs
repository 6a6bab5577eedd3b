//! Tables made by hand.

use std::net::SocketAddr;
use std::sync::Arc;

use config::report::{Kind, ObjectRef};
use config::table::{Backend, BackendPolicy, Chunks, Endpoint, RouteInfo, RouteTable};

/// `10.0.0.n:80`.
pub(crate) fn address(n: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, (n >> 8) as u8, n as u8], 80))
}

/// A backend with these endpoints, all of weight 1.
pub(crate) fn backend(name: &str, addresses: &[SocketAddr], policy: &Arc<BackendPolicy>) -> Arc<Backend> {
    let weighted: Vec<_> = addresses.iter().map(|address| (*address, 1)).collect();
    weighted_backend(name, &weighted, policy)
}

/// A backend with these endpoints and weights.
pub(crate) fn weighted_backend(
    name: &str,
    endpoints: &[(SocketAddr, u16)],
    policy: &Arc<BackendPolicy>,
) -> Arc<Backend> {
    let endpoint = |(address, weight): &(SocketAddr, u16)| Endpoint {
        address: *address,
        weight: *weight,
        identity: None,
        dns_name: None,
    };
    Arc::new(Backend {
        name: name.into(),
        endpoints: endpoints.iter().map(endpoint).collect(),
        policy: Arc::clone(policy),
    })
}

/// A table of these backends, by slot, and no binds.
pub(crate) fn table(backends: &[Option<Arc<Backend>>]) -> Arc<RouteTable> {
    let mut table = RouteTable::default();
    for (slot, backend) in (0..).zip(backends) {
        table.backends.set(slot, backend.clone());
    }
    Arc::new(table)
}

/// Routes by slot.
pub(crate) fn routes(names: &[Option<&str>]) -> Chunks<RouteInfo> {
    let mut routes = Chunks::default();
    for (slot, name) in (0..).zip(names) {
        let info = name.map(|name| {
            let object = ObjectRef { kind: Kind::Ingress, namespace: "shop".into(), name: name.into() };
            Arc::new(RouteInfo { object, name: name.into() })
        });
        routes.set(slot, info);
    }
    routes
}
