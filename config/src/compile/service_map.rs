//! ConfigMaps that say which Services ports lead to, as ingress-nginx has them for `tcp-services` and `udp-services`:
//! `PORT: "NAMESPACE/SERVICE:PORT[:PROXY[:PROXY]]"`. A line that is wrong costs only itself.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use super::backend::BackendKey;
use super::endpoints::{RelayedPort, Scope};
use super::route::{Outcome, Route};
use super::service;
use super::workshop::Workshop;
use crate::index::ServiceKey;
use crate::resource::ingress::PortRef;
use crate::resource::{Finding, Object, Secret, syntax};
use crate::table::{
    ALL_ADDRESSES, BackendId, L4Bind, L4Key, L4Policy, ProxyProtocolIn, ProxyProtocolOut, RouteId, Split,
    Transport, TrustedProxies, Unavailable,
};

/// What a line says.
#[derive(Debug)]
struct Line {
    /// That is listened on.
    listen: u16,
    service: ServiceKey,
    port: PortRef,
    /// PROXY headers are expected of clients.
    decode: bool,
    /// PROXY headers are sent to endpoints.
    encode: bool,
}

/// Compiles the ConfigMap, which may be the one of TCP, the one of UDP, or both.
pub(super) fn compile(shop: &mut Workshop<'_>, object: &Object, map: &Secret, id: RouteId) -> Outcome {
    let (settings, namespace, name) = (shop.settings, &object.reference.namespace, &object.reference.name);
    let (mut findings, mut l4) = (Vec::new(), Vec::new());
    let (mut held, mut services) = (BTreeSet::new(), BTreeSet::new());
    for transport in settings.services.transports_of(&object.reference) {
        for (key, value) in &map.texts {
            let mut tell = |reason, message: String| {
                findings.push(Finding::error(format!("data[{key}]"), value.line, reason, message));
            };
            let line = match parse(key, &value.value, transport) {
                Ok(line) => line,
                Err(message) => {
                    tell("InvalidLine", message + "; the line is ignored");
                    continue;
                }
            };
            let target = match resolve(shop, &line, transport, &mut held) {
                Ok(backend) => Ok(Split::One(backend)),
                Err((why, reason, message)) => {
                    tell(reason, message + ", so connections are refused");
                    Err(why)
                }
            };
            services.insert(line.service.clone());
            let policy = policy(transport, &line, &shop.settings.trusted_proxies);
            let policy = shop.l4_policies.intern(policy);
            for address in addresses(shop, line.listen) {
                l4.push(Arc::new(L4Bind {
                    key: L4Key { address, transport },
                    listener: format!("{namespace}/{name}:{}", line.listen).into(),
                    free_bind: false,
                    local_route: false,
                    route: id,
                    target: target.clone(),
                    policy: Arc::clone(&policy),
                }));
            }
        }
    }
    let problems = findings.into_iter().map(|finding| object.problem(finding)).collect();
    let route = Route::of_binds(object, map.created, l4, held, services.into_iter().collect());
    Outcome { route: Some(route), problems }
}

/// All addresses of the host, as ingress-nginx has it.
fn addresses(shop: &Workshop<'_>, port: u16) -> Vec<SocketAddr> {
    let all = ALL_ADDRESSES.into_iter().filter(|ip| ip.is_ipv4() || shop.settings.endpoints.ipv6);
    all.map(|ip| SocketAddr::new(ip, port)).collect()
}

fn policy(transport: Transport, line: &Line, trusted: &TrustedProxies) -> L4Policy {
    let mut policy = service::terms(transport);
    if line.decode {
        policy.proxy_protocol_in = ProxyProtocolIn::Required { trusted: trusted.clone() };
    }
    if line.encode {
        policy.proxy_protocol_out = ProxyProtocolOut::V1;
    }
    policy
}

fn parse(key: &str, value: &str, transport: Transport) -> Result<Line, String> {
    let listen = key.trim().parse::<u16>().ok().filter(|port| *port != 0);
    let listen = listen.ok_or_else(|| format!("`{key}` is not a port (1 to 65535)"))?;
    let form = || format!("`{value}` is not of the form NAMESPACE/SERVICE:PORT[:PROXY][:PROXY]");
    let parts: Vec<&str> = value.trim().split(':').collect();
    let (name, port, rest) = match &*parts {
        [name, port, rest @ ..] if rest.len() <= 2 => (*name, *port, rest),
        _ => return Err(form()),
    };
    let (namespace, name) = name.split_once('/').ok_or_else(form)?;
    let is_good =
        syntax::dns_label(namespace).is_ok() && syntax::object_name(name).is_ok() && !port.is_empty();
    if !is_good {
        return Err(form());
    }
    let is_proxy = |text: Option<&&str>| match text.map(|text| text.to_ascii_uppercase()).as_deref() {
        None | Some("") => Ok(false),
        Some("PROXY") => Ok(true),
        Some(_) => Err(form()),
    };
    let (decode, encode) = (is_proxy(rest.first())?, is_proxy(rest.get(1))?);
    if (decode || encode) && transport == Transport::Udp {
        return Err("PROXY is for TCP".to_owned());
    }
    let port = match port.parse::<u16>() {
        Ok(0) => return Err(form()),
        Ok(number) => PortRef::Number(number),
        Err(_) if port.bytes().all(|byte| byte.is_ascii_digit()) => return Err(form()),
        Err(_) => PortRef::Name(port.into()),
    };
    Ok(Line { listen, service: (namespace.into(), name.into()), port, decode, encode })
}

/// The backend that a line leads to, or why there is none.
fn resolve(
    shop: &mut Workshop<'_>,
    line: &Line,
    transport: Transport,
    held: &mut BTreeSet<BackendId>,
) -> Result<BackendId, (Unavailable, &'static str, String)> {
    let (namespace, name) = &line.service;
    let found = shop.index.service(&line.service).map(|(_, service)| service);
    let Some(service) = found else {
        let message = format!("there is no Service {namespace}/{name}");
        return Err((Unavailable::BackendNotFound, "ServiceNotFound", message));
    };
    if service.external_name.is_some() && !shop.settings.endpoints.external_names {
        let message = format!("Service {namespace}/{name} is an ExternalName, and those are turned off");
        return Err((Unavailable::BackendNotFound, "ExternalNameDisabled", message));
    }
    let port = match (&line.port, service.port_of(transport, &line.port)) {
        (_, Some(port)) => port.port,
        // It stands for a host, which has every port.
        (PortRef::Number(number), None) if service.external_name.is_some() => *number,
        (PortRef::Number(wanted), None) => {
            let message = format!("Service {namespace}/{name} has no {transport} port {wanted}");
            return Err((Unavailable::BackendNotFound, "PortNotFound", message));
        }
        (PortRef::Name(wanted), None) => {
            let message = format!("Service {namespace}/{name} has no {transport} port named `{wanted}`");
            return Err((Unavailable::BackendNotFound, "PortNotFound", message));
        }
    };
    let service = (shop.intern(namespace), shop.intern(name));
    let port = RelayedPort { port, transport, scope: Scope::Cluster };
    Ok(shop.acquire(BackendKey::Relayed { service, port }, held))
}
