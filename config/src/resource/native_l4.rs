//! Listeners of the native format that relay what they receive: where to, and on which terms.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use super::Finding;
use super::native::{LimitsSpec, ListenerSpec, ShareSpec, set, set_time};
use super::native_route::{Builder, NativeListener};
use super::native_tls::ListenerProtocol;
use super::native_types::{Cidr, Time};
use crate::table::{
    BindConfig, L4Policy, Limits, Listener, OnRemoved, ProxyProtocolIn, ProxyProtocolOut, SourceAddress,
    SourceRanges, Transport, TrustedProxies,
};

/// Where the connections of a `tcp` listener or the datagrams of a `udp` listener go.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ForwardSpec {
    /// Name of the backend that takes everything.
    pub(crate) backend: Option<Arc<str>>,
    /// Backends among which connections are split by weight.
    #[serde(default)]
    pub(crate) backends: Vec<ShareSpec>,
    /// Networks whose clients are served; everybody when left out.
    pub(crate) source_ranges: Option<Vec<Cidr>>,
    /// No byte in either direction (default 1h).
    pub(crate) idle_timeout: Option<Time>,
    /// Longest life of a connection (default `0`, none).
    pub(crate) lifetime: Option<Time>,
    /// Deadline of one attempt to connect; the backend's when left out.
    pub(crate) connect_timeout: Option<Time>,
    /// Endpoints that are tried for one connection, 1 to 16 (default 3).
    #[schemars(range(min = 1, max = 16))]
    pub(crate) tries: Option<u8>,
    /// Open connections (default 16384); 0 for any number. Beyond it, new ones are reset.
    pub(crate) max_connections: Option<u32>,
    /// Open connections per endpoint (default 0, any number).
    pub(crate) max_connections_per_endpoint: Option<u32>,
    /// Bytes that answers may have for each byte of a client that has not gone on after one (default 0, any number).
    pub(crate) max_amplification: Option<u16>,
    /// Send a PROXY protocol header before the client's bytes.
    pub(crate) send_proxy_protocol: Option<ProxyVersionSpec>,
    /// From whose address endpoints are spoken to (default `gateway`); `client` needs `--transparent`.
    pub(crate) source_address: Option<SourceAddressSpec>,
    /// End the connections to an endpoint so long after it was removed; they finish by themselves when left out.
    pub(crate) end_after_removal: Option<Time>,
    /// Keep a client's address with its endpoint until it opened no connection for so long.
    pub(crate) affinity: Option<Time>,
}

/// A version of the PROXY protocol.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ProxyVersionSpec {
    /// As text.
    V1,
    /// Binary.
    V2,
}

/// From whose address endpoints are spoken to.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SourceAddressSpec {
    /// The host's.
    Gateway,
    /// The client's.
    Client,
}

/// What a listener that relays does.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Forward {
    pub(crate) transport: Transport,
    /// Backend names with weights; at least one.
    pub(crate) shares: Vec<(Arc<str>, u32)>,
    pub(crate) policy: L4Policy,
    /// Where it stands, for fields of problems: `listeners[3]`.
    pub(crate) field: String,
}

impl Builder<'_> {
    /// A listener that relays; `None` if it speaks HTTP.
    pub(super) fn relaying(
        &self,
        name: &Arc<str>,
        spec: &ListenerSpec,
    ) -> Result<Option<NativeListener>, Finding> {
        let transport = match (spec.protocol, &spec.forward) {
            (Some(ListenerProtocol::Tcp), _) => Transport::Tcp,
            (Some(ListenerProtocol::Udp), _) => Transport::Udp,
            (Some(ListenerProtocol::Http | ListenerProtocol::Https) | None, None) => return Ok(None),
            (Some(ListenerProtocol::Http | ListenerProtocol::Https) | None, Some(_)) => {
                let message = "only listeners with `protocol: tcp` or `udp` forward as they are; requests are \
                               forwarded by `routes`";
                return Err(self.error("forward", "InvalidValue", message));
            }
        };
        let Some(forward) = &spec.forward else {
            let message =
                format!("a {transport} listener needs `forward` with a `backend`; `routes` are for HTTP");
            return Err(self.error("forward", "MissingField", message));
        };
        self.refuse_http_settings(transport, spec)?;
        let policy = self.l4_policy(transport, spec, forward)?;
        let shares = self.shares("forward.", forward.backend.as_ref(), &forward.backends)?;
        let config = BindConfig {
            address: spec.address.0,
            listeners: vec![Listener { name: Arc::clone(name) }],
            https: false,
            proxy_protocol: false,
            trusted_proxies: TrustedProxies::default(),
            limits: Limits::default(),
            abort_on_half_close: false,
            free_bind: spec.free_bind,
        };
        let forward = Forward { transport, shares, policy, field: self.field.to_owned() };
        Ok(Some(NativeListener { config, tls: None, forward: Some(Box::new(forward)) }))
    }

    /// What would be without effect is an error: whoever wrote it counts on it.
    fn refuse_http_settings(&self, transport: Transport, spec: &ListenerSpec) -> Result<(), Finding> {
        if spec.tls.is_some() {
            let message = match transport {
                Transport::Tcp => {
                    "a tcp listener relays bytes as they are: use `protocol: https` to end TLS here, or a route with \
                     `tlsPassthrough`"
                }
                Transport::Udp => "a udp listener relays datagrams as they are and knows no TLS",
            };
            return Err(self.error("tls", "InvalidValue", message));
        }
        if spec.limits != LimitsSpec::default() {
            let message = format!("`limits` are for HTTP; those of a {transport} listener are in `forward`");
            return Err(self.error("limits", "InvalidValue", message));
        }
        if spec.abort_on_half_close {
            return Err(self.error("abortOnHalfClose", "InvalidValue", "it is for HTTP"));
        }
        if !spec.trusted_proxies.is_empty() && !spec.proxy_protocol {
            let message =
                format!("on a {transport} listener it says who may send PROXY headers: set `proxyProtocol`");
            return Err(self.error("trustedProxies", "InvalidValue", message));
        }
        Ok(())
    }

    fn l4_policy(
        &self,
        transport: Transport,
        spec: &ListenerSpec,
        forward: &ForwardSpec,
    ) -> Result<L4Policy, Finding> {
        self.range("forward.tries", forward.tries, 1, 16)?;
        for (at, time) in [("connectTimeout", forward.connect_timeout), ("affinity", forward.affinity)] {
            if time.is_some_and(|time| time.0.is_zero()) {
                return Err(self.error(&format!("forward.{at}"), "OutOfRange", "must be more than zero"));
            }
        }
        let ranges = forward.source_ranges.as_ref();
        if ranges.is_some_and(Vec::is_empty) {
            let message = "nobody would be served: write networks, or leave it out to serve everybody";
            return Err(self.error("forward.sourceRanges", "InvalidValue", message));
        }
        if ranges.is_some() && spec.proxy_protocol && spec.trusted_proxies.is_empty() {
            let message = "with `proxyProtocol`, `forward.sourceRanges` are for the clients that headers name, which \
                           anybody could write: say here which networks the proxies are in that send them";
            return Err(self.error("trustedProxies", "MissingField", message));
        }
        let is_of_streams = [
            ("forward.sendProxyProtocol", forward.send_proxy_protocol.is_some()),
            ("forward.connectTimeout", forward.connect_timeout.is_some()),
            ("forward.tries", forward.tries.is_some()),
            ("proxyProtocol", spec.proxy_protocol),
        ];
        if forward.max_amplification.is_some() && transport == Transport::Tcp {
            return Err(self.error("forward.maxAmplification", "InvalidValue", "it is for udp"));
        }
        if let Some((at, _)) = is_of_streams.iter().find(|(_, set)| *set && transport == Transport::Udp) {
            return Err(self.error(at, "InvalidValue", "it is for tcp"));
        }
        let mut policy = match transport {
            Transport::Tcp => L4Policy::default(),
            Transport::Udp => L4Policy::of_datagrams(),
        };
        set_time(&mut policy.idle_timeout, forward.idle_timeout);
        set_time(&mut policy.lifetime, forward.lifetime);
        policy.connect_timeout = forward.connect_timeout.map(|time| time.0);
        set(&mut policy.tries, forward.tries);
        set(&mut policy.max_connections, forward.max_connections);
        set(&mut policy.max_connections_per_endpoint, forward.max_connections_per_endpoint);
        set(&mut policy.max_amplification, forward.max_amplification);
        if spec.proxy_protocol {
            policy.proxy_protocol_in = ProxyProtocolIn::Required { trusted: TrustedProxies(spec.networks()) };
        }
        policy.proxy_protocol_out = match forward.send_proxy_protocol {
            None => ProxyProtocolOut::None,
            Some(ProxyVersionSpec::V1) => ProxyProtocolOut::V1,
            Some(ProxyVersionSpec::V2) => ProxyProtocolOut::V2,
        };
        policy.source_address = match forward.source_address {
            None | Some(SourceAddressSpec::Gateway) => SourceAddress::Gateway,
            Some(SourceAddressSpec::Client) => SourceAddress::Client,
        };
        policy.source_ranges =
            ranges.map(|ranges| Arc::new(SourceRanges::new(ranges.iter().map(|cidr| cidr.0))));
        if let Some(time) = forward.end_after_removal {
            policy.on_removed = OnRemoved::EndAfter(time.0);
        }
        policy.affinity = forward.affinity.map(|time| time.0);
        Ok(policy)
    }
}
