//! Which addresses are there to be announced, as far as the table says. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use config::report::Kind;
use config::table::{L4Bind, RouteTable, Split};
use ipnet::IpNet;

/// An address of a Service.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Wanted {
    /// Which.
    pub address: IpAddr,
    /// Only some nodes may announce it: those with an endpoint of it (`externalTrafficPolicy: Local`).
    pub is_restricted: bool,
    /// This node may.
    pub is_able: bool,
}

/// The addresses within `networks` that Services have in `table`, in order.
#[must_use]
pub fn wanted(table: &RouteTable, networks: &[IpNet]) -> Arc<[Wanted]> {
    let mut all = BTreeMap::<IpAddr, Wanted>::new();
    for (_, bind) in table.l4.iter() {
        let address = bind.key.address.ip();
        let is_service =
            || table.routes.at(bind.route.0).is_some_and(|route| route.object.kind == Kind::Service);
        let is_one = !address.is_unspecified() && !address.is_multicast() && !address.is_loopback();
        if !bind.free_bind || !is_one || !networks.iter().any(|net| net.contains(&address)) || !is_service() {
            continue;
        }
        let (is_local, has_endpoint) = endpoints(bind, table);
        let one = all.entry(address).or_insert(Wanted { address, is_restricted: false, is_able: true });
        // One port with an endpoint here is enough; the others would have none here either way.
        one.is_able = if is_local && !one.is_restricted { has_endpoint } else { one.is_able || has_endpoint };
        one.is_restricted |= is_local;
    }
    all.into_values().collect()
}

/// Whether only endpoints of this node count, and whether there is one.
fn endpoints(bind: &L4Bind, table: &RouteTable) -> (bool, bool) {
    let Ok(Split::One(id)) = &bind.target else { return (false, false) };
    let Some(backend) = table.backends.at(id.0) else { return (false, false) };
    (backend.name.ends_with("@node"), !backend.endpoints.is_empty())
}
