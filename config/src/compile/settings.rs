//! What the operator decides, outside of any object.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use crate::report::{Kind, ObjectRef};
use crate::resource::service_exposure::Exposure;
use crate::resource::{AddressRange, destination};
use crate::table::{
    BackendPolicy, BindConfig, Certificate, Limits, Listener, RulePolicy, Transport, TrustedProxies,
};

/// `loadBalancerClass` of Services that are ours.
const LOAD_BALANCER_CLASS: &str = "sluicegate.dev/load-balancer";

/// What the operator decides, outside of any object.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where Ingresses are served over HTTP; `None` serves none.
    pub http: Option<SocketAddr>,
    /// Where Ingresses are served over HTTPS; `None` serves none. Not opened while there is no default certificate.
    pub https: Option<SocketAddr>,
    /// Certificate for names that no other one covers, unless [`Self::default_secret`] has one.
    pub default_certificate: Option<Arc<Certificate>>,
    /// Namespace and name of the Secret with the default certificate.
    pub default_secret: Option<(Arc<str>, Arc<str>)>,
    /// The Ingress binds require a PROXY protocol header.
    pub proxy_protocol: bool,
    /// Peers of the Ingress binds whose forwarding headers are believed.
    pub trusted_proxies: TrustedProxies,
    /// Abuse limits of the Ingress binds.
    pub limits: Limits,
    /// The Ingress binds treat a client's FIN as an abort.
    pub abort_on_half_close: bool,
    /// By what an Ingress is ours.
    pub classes: ClassSettings,
    /// Which endpoints of Services can and may be used.
    pub endpoints: EndpointSettings,
    /// Which Services are served at addresses of their own.
    pub services: ServiceSettings,
    /// Endpoints may be spoken to from their clients' addresses.
    pub transparent: bool,
    /// What backends do unless an annotation or a native backend says otherwise.
    pub backend: BackendPolicy,
    /// What rules do unless an annotation or a native route says otherwise.
    pub rule: RulePolicy,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            http: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 8_080))),
            https: None,
            default_certificate: None,
            default_secret: None,
            proxy_protocol: false,
            trusted_proxies: TrustedProxies::default(),
            limits: Limits::default(),
            abort_on_half_close: false,
            classes: ClassSettings::default(),
            endpoints: EndpointSettings::default(),
            services: ServiceSettings::default(),
            transparent: false,
            backend: BackendPolicy::default(),
            rule: RulePolicy::default(),
        }
    }
}

/// Which endpoints of Services can and may be used from where the gateway is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EndpointSettings {
    /// The node that it runs on.
    pub node: Option<Arc<str>>,
    /// The zone that it runs in; else what [`crate::index::Event::Zone`] said last.
    pub zone: Option<Arc<str>>,
    /// IPv4 addresses other than its own can be reached.
    pub ipv4: bool,
    /// IPv6 addresses other than its own can be reached.
    pub ipv6: bool,
    /// Services of type ExternalName are served.
    pub external_names: bool,
    /// Whoever writes EndpointSlices may be another than who runs the gateway: they lead nowhere that no ExternalName
    /// may lead to. Else endpoints on this very host are fine.
    pub is_shared: bool,
}

impl Default for EndpointSettings {
    fn default() -> Self {
        Self { node: None, zone: None, ipv4: true, ipv6: true, external_names: true, is_shared: false }
    }
}

/// Which Services are served at addresses of their own, besides those that routes name. By default, none.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ServiceSettings {
    /// Those of type LoadBalancer that are ours, at the addresses that they were given.
    pub load_balancer: bool,
    /// Ports of the node.
    pub node_port: bool,
    /// The addresses within the cluster.
    pub cluster_ip: bool,
    /// Services of type LoadBalancer without a class are ours as well.
    pub classless: bool,
    /// Networks whose addresses a Service has by asking for them; any other it must be given.
    pub requestable: Vec<IpNet>,
    /// Addresses of this host on which ports of the node are served; all of them when absent.
    pub node_addresses: Option<Box<[IpAddr]>>,
    /// Namespace and name of the ConfigMap that says which Services ports of TCP lead to.
    pub tcp_map: Option<(Arc<str>, Arc<str>)>,
    /// The same of UDP.
    pub udp_map: Option<(Arc<str>, Arc<str>)>,
}

impl ServiceSettings {
    /// True if some Services are served for their own sake.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.load_balancer || self.node_port || self.cluster_ip
    }

    /// What travels to the ports in this ConfigMap: it may be the map of TCP, of UDP, of both or of none.
    pub(super) fn transports_of(&self, map: &ObjectRef) -> impl Iterator<Item = Transport> {
        let maps = [(Transport::Tcp, &self.tcp_map), (Transport::Udp, &self.udp_map)];
        let named = maps.into_iter().filter_map(|(transport, named)| Some((transport, named.as_ref()?)));
        let is_meant = |(namespace, name): &(Arc<str>, Arc<str>)| {
            map.kind == Kind::ConfigMap && *namespace == map.namespace && *name == map.name
        };
        named.filter(move |(_, named)| is_meant(named)).map(|(transport, _)| transport)
    }

    /// True if the Service is of type LoadBalancer and ours, and to have addresses: its class is ours, or it has none and
    /// those are ours as well. One that is being deleted is to have none.
    #[must_use]
    pub fn balances(&self, exposure: &Exposure) -> bool {
        let is_ours = match exposure.class.as_deref() {
            Some(class) => class == LOAD_BALANCER_CLASS,
            None => self.classless,
        };
        let is_wanted = exposure.wish.as_ref().is_some_and(|wish| !wish.is_deleting);
        self.load_balancer && is_wanted && is_ours
    }

    /// True if a pool may have `range`: one with loopback only if the operator says that Services may ask for all of it,
    /// for else it is a mistake in a cluster, and for files that is what is said unless something else is.
    #[must_use]
    pub fn may_pool(&self, range: &AddressRange) -> bool {
        let has = |network: &IpNet| network.contains(&range.first()) && network.contains(&range.last());
        !range.has_loopback() || self.requestable.iter().any(has)
    }

    /// True if a Service may have `address` by asking for it. Where Services are others' than whoever runs the gateway
    /// (`is_shared`), none has loopback, nor what only a link knows, however wide the operator's networks are.
    #[must_use]
    pub fn may_ask(&self, address: IpAddr, is_shared: bool) -> bool {
        self.requestable.iter().any(|network| network.contains(&address))
            && (!is_shared || destination::is_endpoint(address))
    }
}

/// By what an Ingress is ours.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClassSettings {
    /// The name of our class: in the annotation `kubernetes.io/ingress.class`, and where there is no IngressClass of
    /// this name.
    pub name: Arc<str>,
    /// `spec.controller` of the IngressClasses that are ours.
    pub controller: Arc<str>,
    /// What becomes of Ingresses without a class.
    pub classless: Classless,
}

/// When an Ingress without a class is ours.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Classless {
    /// If our class is the default one, or there is no IngressClass at all: whoever writes files for us means us.
    #[default]
    IfAlone,
    /// If our class is the default one. In a cluster, what is without a class may be another controller's.
    IfDefault,
    /// Whatever classes there are.
    Always,
}

impl Default for ClassSettings {
    fn default() -> Self {
        Self {
            name: "sluicegate".into(),
            controller: "sluicegate.dev/ingress-controller".into(),
            classless: Classless::default(),
        }
    }
}

/// A bind that Ingresses are served on.
pub(super) fn ingress_bind(settings: &Settings, address: SocketAddr, https: bool) -> BindConfig {
    BindConfig {
        address,
        listeners: vec![Listener { name: if https { "https" } else { "http" }.into() }],
        https,
        proxy_protocol: settings.proxy_protocol,
        trusted_proxies: settings.trusted_proxies.clone(),
        limits: settings.limits.clone(),
        abort_on_half_close: settings.abort_on_half_close,
        free_bind: false,
    }
}
