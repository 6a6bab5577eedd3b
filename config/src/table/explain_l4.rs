//! Where a connection or datagram that is relayed goes, and why, or why it is refused. For people; the gateway never
//! calls it.

use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;

use super::RouteTable;
use super::explain::{Share, shares};
use super::l4::{L4Bind, L4Key, L4Policy, ProxyProtocolIn, SourceAddress};
use crate::report::{ObjectRef, Problem};

/// What becomes of a connection or datagram.
#[derive(Clone, Debug, Serialize)]
pub struct L4Explanation {
    /// The socket that takes it.
    pub bind: Option<L4Key>,
    /// Its listener.
    pub listener: Option<Arc<str>>,
    /// One sentence.
    pub verdict: String,
    /// Some backend takes it.
    pub is_served: bool,
    /// The user's object.
    pub object: Option<ObjectRef>,
    /// The route's display name.
    pub route: Option<Arc<str>>,
    /// The terms.
    pub policy: Option<Arc<L4Policy>>,
    /// The backends that it may go to.
    pub backends: Vec<Share>,
    /// What was said about objects that want the same socket and do not have it; empty until it is filled in.
    pub others: Vec<Problem>,
}

/// Explains what becomes of whatever comes to `to` from the client `from`; of any client when absent.
#[must_use]
pub fn explain_l4(table: &RouteTable, to: L4Key, from: Option<IpAddr>) -> L4Explanation {
    let Some(bind) = find(table, to) else {
        return L4Explanation {
            bind: None,
            listener: None,
            verdict: format!("refused: nothing relays on {to}"),
            is_served: false,
            object: None,
            route: None,
            policy: None,
            backends: Vec::new(),
            others: Vec::new(),
        };
    };
    let info = table.routes.at(bind.route.0);
    let route = info.map_or_else(|| "?".into(), |info| Arc::clone(&info.name));
    let backends = bind.target.as_ref().map(|split| shares(table, split)).unwrap_or_default();
    let refused = refusal(bind, from, &backends);
    L4Explanation {
        bind: Some(bind.key),
        listener: Some(Arc::clone(&bind.listener)),
        is_served: refused.is_none(),
        verdict: refused.unwrap_or_else(|| format!("relayed by {route}")),
        object: info.map(|info| info.object.clone()),
        route: Some(route),
        policy: Some(Arc::clone(&bind.policy)),
        backends,
        others: Vec::new(),
    }
}

/// The socket that the kernel gives it to: that of the very address, or else the wildcard's.
fn find(table: &RouteTable, to: L4Key) -> Option<&Arc<L4Bind>> {
    let at = |key: L4Key| table.l4.iter().map(|(_, bind)| bind).find(move |bind| bind.key == key);
    at(to).or_else(|| at(to.on_all()))
}

/// Why a client is refused whose address endpoints are to see, if none is of its family. Headers may name another client
/// than `from`, and the socket's own address tells the family where nothing else does.
fn other_family(bind: &L4Bind, from: Option<IpAddr>, backends: &[Share]) -> Option<String> {
    let is_seen = bind.policy.source_address == SourceAddress::Client
        && bind.policy.proxy_protocol_in == ProxyProtocolIn::None;
    let own = Some(bind.key.address.ip()).filter(|ip| !ip.is_unspecified());
    let client = from.or(own).filter(|_| is_seen)?;
    let shares = backends.iter().filter(|share| share.weight > 0);
    let mut endpoints =
        shares.filter_map(|share| share.backend.as_ref()).flat_map(|backend| backend.endpoints.iter());
    let family = if client.is_ipv4() { "IPv4" } else { "IPv6" };
    endpoints.all(|endpoint| endpoint.address.is_ipv4() != client.is_ipv4()).then(|| {
        format!(
            "reset: endpoints are spoken to from the client's address, and none is of {family} (OtherFamily)"
        )
    })
}

fn refusal(bind: &L4Bind, from: Option<IpAddr>, backends: &[Share]) -> Option<String> {
    if let Err(why) = bind.target {
        return Some(format!("refused: the route is closed ({why:?}); see the problems"));
    }
    let is_served = |share: &Share| {
        share.weight > 0 && share.backend.as_ref().is_some_and(|backend| !backend.endpoints.is_empty())
    };
    if !backends.iter().any(is_served) {
        return Some("refused: no backend has an endpoint, so the address does not listen".to_owned());
    }
    if let Some(why) = other_family(bind, from, backends) {
        return Some(why);
    }
    let from = from?;
    if let ProxyProtocolIn::Required { trusted } = &bind.policy.proxy_protocol_in
        && !trusted.0.is_empty()
        && !trusted.contains(from)
    {
        return Some(format!("reset: {from} is none of the trusted proxies, and a PROXY header is required"));
    }
    let ranges = bind.policy.source_ranges.as_ref()?;
    let is_client = bind.policy.proxy_protocol_in == ProxyProtocolIn::None;
    (is_client && !ranges.contains(from)).then(|| format!("reset: {from} is in none of the source ranges"))
}
