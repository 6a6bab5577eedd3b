//! What is asked of the API server, as paths.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use config::report::Kind;

use super::version::Version;

/// Objects on one page of a list.
const PAGE: u32 = 500;
/// Objects that are looked at to see whether a server knows what we know.
const SAMPLE: u32 = 16;

/// A list of the API that can be watched.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) enum Resource {
    Namespaces,
    IngressClasses,
    Ingresses,
    Services,
    EndpointSlices,
    Secrets,
    ConfigMaps,
    AddressPools,
    IpAddressPools,
    L2Advertisements,
    /// Namespaces as objects of the index, for their labels.
    NamespaceLabels,
    /// Of nodes, the networks that are theirs and their Pods'.
    Nodes,
    /// Networks of Services.
    ServiceCidrs,
}

impl Resource {
    /// All that are objects of the index.
    pub(super) const OF_OBJECTS: [Self; 12] = [
        Self::IngressClasses,
        Self::Ingresses,
        Self::Services,
        Self::EndpointSlices,
        Self::Secrets,
        Self::ConfigMaps,
        Self::AddressPools,
        Self::IpAddressPools,
        Self::L2Advertisements,
        Self::NamespaceLabels,
        Self::Nodes,
        Self::ServiceCidrs,
    ];

    /// Those that say which addresses Services never get.
    pub(super) const OF_NETWORKS: [Self; 2] = [Self::Nodes, Self::ServiceCidrs];

    /// Those that say which addresses Services get.
    pub(super) const OF_POOLS: [Self; 4] =
        [Self::AddressPools, Self::IpAddressPools, Self::L2Advertisements, Self::NamespaceLabels];

    /// The list of objects of `kind`, if an API server has them.
    pub(super) fn of(kind: Kind) -> Option<Self> {
        match kind {
            Kind::Ingress => Some(Self::Ingresses),
            Kind::IngressClass => Some(Self::IngressClasses),
            Kind::Service => Some(Self::Services),
            Kind::EndpointSlice => Some(Self::EndpointSlices),
            Kind::Secret => Some(Self::Secrets),
            Kind::ConfigMap => Some(Self::ConfigMaps),
            Kind::Namespace => Some(Self::NamespaceLabels),
            Kind::AddressPool => Some(Self::AddressPools),
            Kind::IPAddressPool => Some(Self::IpAddressPools),
            Kind::L2Advertisement => Some(Self::L2Advertisements),
            Kind::Node => Some(Self::Nodes),
            Kind::ServiceCIDR => Some(Self::ServiceCidrs),
            Kind::Config | Kind::Listener | Kind::Route | Kind::Backend | Kind::File => None,
        }
    }

    /// The kind of its objects; `None` for the namespaces that are watched, which are no objects of the index.
    pub(super) fn kind(self) -> Option<Kind> {
        match self {
            Self::Namespaces => None,
            Self::IngressClasses => Some(Kind::IngressClass),
            Self::Ingresses => Some(Kind::Ingress),
            Self::Services => Some(Kind::Service),
            Self::EndpointSlices => Some(Kind::EndpointSlice),
            Self::Secrets => Some(Kind::Secret),
            Self::ConfigMaps => Some(Kind::ConfigMap),
            Self::AddressPools => Some(Kind::AddressPool),
            Self::IpAddressPools => Some(Kind::IPAddressPool),
            Self::L2Advertisements => Some(Kind::L2Advertisement),
            Self::NamespaceLabels => Some(Kind::Namespace),
            Self::Nodes => Some(Kind::Node),
            Self::ServiceCidrs => Some(Kind::ServiceCIDR),
        }
    }

    /// As people write it, and in metrics.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Namespaces => "Namespaces",
            Self::NamespaceLabels => "NamespaceLabels",
            Self::IngressClasses => "IngressClasses",
            Self::Ingresses => "Ingresses",
            Self::Services => "Services",
            Self::EndpointSlices => "EndpointSlices",
            Self::Secrets => "Secrets",
            Self::ConfigMaps => "ConfigMaps",
            Self::AddressPools => "AddressPools",
            Self::IpAddressPools => "IPAddressPools",
            Self::L2Advertisements => "L2Advertisements",
            Self::Nodes => "Nodes",
            Self::ServiceCidrs => "ServiceCIDRs",
        }
    }

    /// Nothing sensible can be served without it.
    pub(super) fn is_indispensable(self) -> bool {
        match self {
            Self::Namespaces
            | Self::Ingresses
            | Self::Services
            | Self::EndpointSlices
            // Without these, Services would lose their addresses.
            | Self::AddressPools
            | Self::IpAddressPools
            | Self::NamespaceLabels => true,
            Self::IngressClasses
            | Self::Secrets
            | Self::ConfigMaps
            | Self::L2Advertisements
            | Self::Nodes
            | Self::ServiceCidrs => false,
        }
    }

    /// A cluster need not know it: it is of a CustomResourceDefinition, or of newer servers.
    pub(super) fn is_custom(self) -> bool {
        matches!(
            self,
            Self::AddressPools | Self::IpAddressPools | Self::L2Advertisements | Self::ServiceCidrs
        )
    }

    /// It is watched in those namespaces whose objects are served; anything else concerns all of them.
    pub(super) fn is_of_namespaces(self) -> bool {
        match self {
            Self::Ingresses | Self::Services | Self::EndpointSlices | Self::Secrets | Self::ConfigMaps => {
                true
            }
            Self::Namespaces
            | Self::IngressClasses
            | Self::AddressPools
            | Self::IpAddressPools
            | Self::L2Advertisements
            | Self::NamespaceLabels
            | Self::Nodes
            | Self::ServiceCidrs => false,
        }
    }

    /// Its objects say which addresses Services never get. Nothing is served by it.
    pub(super) fn is_of_networks(self) -> bool {
        Self::OF_NETWORKS.contains(&self)
    }

    /// Its objects are kept only if other objects name them.
    pub(super) fn is_material(self) -> bool {
        matches!(self, Self::Secrets | Self::ConfigMaps)
    }

    /// Names and versions are enough in lists and watches.
    pub(super) fn is_by_metadata(self) -> bool {
        matches!(self, Self::Namespaces | Self::NamespaceLabels | Self::Secrets | Self::ConfigMaps)
    }

    fn api(self) -> &'static str {
        match self {
            Self::Namespaces
            | Self::NamespaceLabels
            | Self::Services
            | Self::Secrets
            | Self::ConfigMaps
            | Self::Nodes => "/api/v1",
            Self::AddressPools => "/apis/sluicegate.dev/v1alpha1",
            Self::IpAddressPools | Self::L2Advertisements => "/apis/metallb.io/v1beta1",
            Self::IngressClasses | Self::Ingresses | Self::ServiceCidrs => "/apis/networking.k8s.io/v1",
            Self::EndpointSlices => "/apis/discovery.k8s.io/v1",
        }
    }

    fn plural(self) -> &'static str {
        match self {
            Self::Namespaces | Self::NamespaceLabels => "namespaces",
            Self::IngressClasses => "ingressclasses",
            Self::Ingresses => "ingresses",
            Self::Services => "services",
            Self::EndpointSlices => "endpointslices",
            Self::Secrets => "secrets",
            Self::ConfigMaps => "configmaps",
            Self::AddressPools => "addresspools",
            Self::IpAddressPools => "ipaddresspools",
            Self::L2Advertisements => "l2advertisements",
            Self::Nodes => "nodes",
            Self::ServiceCidrs => "servicecidrs",
        }
    }

    /// The path of one object.
    pub(super) fn object(self, namespace: &str, name: &str) -> String {
        format!("{}/{}", self.path((!namespace.is_empty()).then_some(namespace)), encode(name))
    }

    fn path(self, namespace: Option<&str>) -> String {
        match namespace {
            Some(namespace) => {
                format!("{}/namespaces/{}/{}", self.api(), encode(namespace), self.plural())
            }
            None => format!("{}/{}", self.api(), self.plural()),
        }
    }
}

/// A part of a list.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Target {
    pub(super) resource: Resource,
    /// Only in this namespace.
    pub(super) namespace: Option<Arc<str>>,
    /// Only what has these labels.
    pub(super) selector: Option<Arc<str>>,
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} in {namespace}", self.resource.name()),
            None => f.write_str(self.resource.name()),
        }
    }
}

impl Target {
    /// A page of the list, or the next one.
    pub(super) fn list(&self, token: Option<&str>) -> String {
        let mut path = self.query(&format!("limit={PAGE}"));
        if let Some(token) = token {
            add(&mut path, "continue", token);
        }
        path
    }

    /// A few objects.
    pub(super) fn sample(&self) -> String {
        self.query(&format!("limit={SAMPLE}"))
    }

    /// What happens after `from`, for `time`.
    pub(super) fn watch(&self, from: &Version, time: Duration) -> String {
        let mut path = self.query("watch=true&allowWatchBookmarks=true");
        add(&mut path, "resourceVersion", &from.to_string());
        add(&mut path, "timeoutSeconds", &time.as_secs().to_string());
        path
    }

    /// The same within one namespace.
    pub(super) fn within(&self, namespace: &Arc<str>) -> Self {
        Self { namespace: Some(Arc::clone(namespace)), ..self.clone() }
    }

    fn query(&self, query: &str) -> String {
        let mut path = format!("{}?{query}", self.resource.path(self.namespace.as_deref()));
        if let Some(selector) = &self.selector {
            add(&mut path, "labelSelector", selector);
        }
        path
    }
}

fn add(path: &mut String, key: &str, value: &str) {
    // Writing to a String cannot fail.
    let _ = write!(path, "&{key}={}", encode(value));
}

/// RFC 3986, section 2.3: everything else is written as `%XX`.
pub(super) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_api() {
        let all = Target { resource: Resource::Ingresses, namespace: None, selector: None };
        assert_eq!(all.list(None), "/apis/networking.k8s.io/v1/ingresses?limit=500");
        let some = Target { selector: Some("team in (a,b)".into()), ..all.within(&"n".into()) };
        assert_eq!(
            some.list(Some("a/b=")),
            "/apis/networking.k8s.io/v1/namespaces/n/ingresses?limit=500&labelSelector=team%20in%20%28a%2Cb%29&continue=a%2Fb%3D"
        );
        let slices = Target { resource: Resource::EndpointSlices, ..all };
        assert_eq!(
            slices.watch(&Version::Number(7), Duration::from_millis(28_700)),
            "/apis/discovery.k8s.io/v1/endpointslices?watch=true&allowWatchBookmarks=true&resourceVersion=7&timeoutSeconds=28"
        );
    }

    #[test]
    fn name_of_an_object_stays_one_segment_of_the_path() {
        assert_eq!(Resource::Secrets.object("n", "a/../b?c"), "/api/v1/namespaces/n/secrets/a%2F..%2Fb%3Fc");
        assert_eq!(Resource::IngressClasses.object("", "x"), "/apis/networking.k8s.io/v1/ingressclasses/x");
    }
}
