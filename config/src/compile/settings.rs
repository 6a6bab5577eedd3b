//! What the operator decides, outside of any object.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use crate::table::{BackendPolicy, BindConfig, Certificate, Limits, Listener, RulePolicy, TrustedProxies};

/// What the operator decides, outside of any object.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where Ingresses are served over HTTP; `None` serves none.
    pub http: Option<SocketAddr>,
    /// Where Ingresses are served over HTTPS; `None` serves none. Needs [`Self::default_certificate`].
    pub https: Option<SocketAddr>,
    /// Certificate for names that no other one covers.
    pub default_certificate: Option<Arc<Certificate>>,
    /// The Ingress bind requires a PROXY protocol header.
    pub proxy_protocol: bool,
    /// Peers of the Ingress bind whose forwarding headers are believed.
    pub trusted_proxies: TrustedProxies,
    /// Abuse limits of the Ingress bind.
    pub limits: Limits,
    /// The Ingress bind treats a client's FIN as an abort.
    pub abort_on_half_close: bool,
    /// `spec.controller` of the IngressClasses that are ours.
    pub ingress_class: Arc<str>,
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
            proxy_protocol: false,
            trusted_proxies: TrustedProxies::default(),
            limits: Limits::default(),
            abort_on_half_close: false,
            ingress_class: "sluicegate.dev/ingress-controller".into(),
            backend: BackendPolicy::default(),
            rule: RulePolicy::default(),
        }
    }
}

/// The bind that Ingresses are served on.
pub(super) fn ingress_bind(settings: &Settings, address: SocketAddr) -> BindConfig {
    BindConfig {
        address,
        listeners: vec![Listener { name: "http".into() }],
        https: false,
        proxy_protocol: settings.proxy_protocol,
        trusted_proxies: settings.trusted_proxies.clone(),
        limits: settings.limits.clone(),
        abort_on_half_close: settings.abort_on_half_close,
    }
}
