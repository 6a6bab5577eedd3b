//! Typed, trimmed objects and the one way from text to them.
//!
//! [`decode`] never fails as a whole: what cannot be read becomes a [`Problem`] with file, line, object and
//! field, and everything else is kept. It decides what an object says, never whether it is served.

mod address_pool;
mod address_range;
pub mod annotations;
mod decode;
pub(crate) mod destination;
pub mod endpoint_slice;
mod holding;
mod identity;
pub mod ingress;
mod json;
mod known;
mod label_selector;
mod meta;
pub(crate) mod native;
pub(crate) mod native_l4;
pub(crate) mod native_route;
pub(crate) mod native_tls;
pub(crate) mod native_types;
mod networks;
mod node;
pub(crate) mod pem;
mod reader;
mod secret;
pub mod service;
pub mod service_addresses;
pub mod service_exposure;
mod suggest;
pub(crate) mod syntax;
pub mod tls;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;

pub use address_pool::{AddressPool, AddressPoolSpec, L2Advertisement, ServiceAllocation};
pub use address_range::AddressRange;
pub use decode::decode;
pub use endpoint_slice::EndpointSlice;
pub use holding::Holding;
pub use ingress::{Ingress, IngressClass};
pub use json::{Received, decode_json};
pub use label_selector::LabelSelector;
pub use native_route::{NativeBackend, NativeListener, NativeRoute};
pub use node::MAX_FILE_BYTES;
pub use pem::{Flaw, Part};
pub use secret::{Secret, is_material_key, is_port_key};
pub use service::Service;

use crate::report::{Kind, ObjectRef, Problem, Severity, SourceLocation, brief};
use crate::table::Certificate;

/// A certificate and its key from PEM, by the same rules as those of Secrets.
///
/// # Errors
/// If one of them is not what it should be, or they do not belong together.
pub fn certificate(name: &str, chain: &[u8], key: &[u8]) -> Result<Arc<Certificate>, Flaw> {
    pem::certificate(&name.into(), chain, key)
}

/// One object as read.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// Who it is.
    pub reference: ObjectRef,
    /// Where it was read; `None` when it came from an API server.
    pub location: Option<SourceLocation>,
    /// What it says.
    pub spec: ObjectSpec,
}

impl Object {
    /// What was found in it, as a problem of it.
    pub(crate) fn problem(&self, finding: Finding) -> Problem {
        finding.into_problem(&self.reference, self.location.as_ref())
    }

    /// The Secrets and ConfigMaps that it names, each once. They are of its own namespace.
    #[must_use]
    pub fn material(&self) -> BTreeSet<ObjectRef> {
        let (settings, tls): (_, &[ingress::IngressTls]) = match &self.spec {
            ObjectSpec::Ingress(ingress) => (&ingress.settings, &ingress.tls),
            ObjectSpec::Service(service) => (&service.settings, &[]),
            _ => return BTreeSet::new(),
        };
        let of = |kind, name: &Arc<str>| {
            let namespace = Arc::clone(&self.reference.namespace);
            ObjectRef { kind, namespace, name: Arc::clone(name) }
        };
        let certificates = tls.iter().filter_map(|entry| entry.secret.as_ref());
        let mut wanted: BTreeSet<ObjectRef> = certificates.map(|name| of(Kind::Secret, name)).collect();
        if let Some(settings) = settings {
            let client = match &settings.tls.client {
                Some(tls::ClientSetting::Require(roots) | tls::ClientSetting::Optional(roots)) => Some(roots),
                Some(tls::ClientSetting::OptionalNoCa | tls::ClientSetting::Closed) | None => None,
            };
            let roots = client.into_iter().chain(&settings.backend_tls_ca);
            wanted.extend(roots.map(|roots| of(roots.kind, &roots.name)));
            wanted.extend(settings.backend_tls_secret.iter().map(|name| of(Kind::Secret, name)));
        }
        wanted
    }
}

/// The typed content of an [`Object`].
#[derive(Clone, Debug, PartialEq)]
pub enum ObjectSpec {
    /// `networking.k8s.io/v1` Ingress.
    Ingress(Box<Ingress>),
    /// `networking.k8s.io/v1` IngressClass.
    IngressClass(IngressClass),
    /// `v1` Service.
    Service(Service),
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice(EndpointSlice),
    /// `v1` Secret, as far as it concerns certificates.
    Secret(Box<Secret>),
    /// `v1` ConfigMap, as far as it concerns certificate authorities.
    ConfigMap(Box<Secret>),
    /// `v1` Namespace: its labels.
    Namespace(BTreeMap<String, String>),
    /// A pool of addresses: ours, MetalLB's, or of the native format.
    AddressPool(Box<AddressPool>),
    /// `metallb.io/v1beta1` L2Advertisement.
    L2Advertisement(Box<L2Advertisement>),
    /// What a `v1` Node or a `networking.k8s.io/v1` ServiceCIDR has: no address of it is anybody else's.
    Networks(Box<[IpNet]>),
    /// A listener of the native format.
    Listener(Box<NativeListener>),
    /// A route of the native format.
    Route(Box<NativeRoute>),
    /// A backend of the native format.
    Backend(Box<NativeBackend>),
}

/// What [`decode`] made of one file.
#[derive(Clone, Debug, Default)]
pub struct Decoded {
    /// Objects that can be used, in the order of the file.
    pub objects: Vec<Object>,
    /// Everything there is to say about the file.
    pub problems: Vec<Problem>,
    /// Objects that are named but do not decode: their last good version must be kept.
    pub invalid: Vec<ObjectRef>,
    /// The text is broken, so that objects may be missing without being named.
    pub incomplete: bool,
    /// How much is known of its listeners, those of [`Self::invalid`] aside.
    pub listeners: ListenersRead,
}

impl Decoded {
    /// Adds what was found further down in the file.
    fn join(&mut self, further: Self) {
        if self.objects.is_empty() {
            self.objects = further.objects;
        } else {
            self.objects.extend(further.objects);
        }
        self.problems.extend(further.problems);
        self.invalid.extend(further.invalid);
        self.incomplete |= further.incomplete;
        self.listeners = self.listeners.max(further.listeners);
    }
}

/// How much is known of the listeners of a file: what they ask of clients must not be lost with them.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub enum ListenersRead {
    /// There are no others than those that were found.
    #[default]
    All,
    /// Some text could not be read at all, and with it nothing new.
    Unread,
    /// Something was not understood that may be meant as listeners, beside what was read.
    Misread,
}

/// A problem within an object, before it is known whether the object concerns us.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Finding {
    /// Dotted path.
    pub field: String,
    /// 1-based line; 0 when unknown.
    pub line: u32,
    /// Error or warning.
    pub severity: Severity,
    /// Stable CamelCase reason code.
    pub reason: &'static str,
    /// What is wrong and what to do.
    pub message: String,
}

impl Finding {
    pub(crate) fn error(field: impl Into<String>, line: u32, reason: &'static str, message: String) -> Self {
        Self { field: field.into(), line, severity: Severity::Error, reason, message }
    }

    pub(crate) fn warning(
        field: impl Into<String>,
        line: u32,
        reason: &'static str,
        message: String,
    ) -> Self {
        Self { field: field.into(), line, severity: Severity::Warning, reason, message }
    }

    /// The problem of `object`, read at `location`.
    pub(crate) fn into_problem(self, object: &ObjectRef, location: Option<&SourceLocation>) -> Problem {
        let at = |location: &SourceLocation| SourceLocation {
            file: Arc::clone(&location.file),
            line: if self.line == 0 { location.line } else { self.line },
        };
        Problem {
            object: object.clone(),
            location: location.map(at),
            field: self.field,
            severity: self.severity,
            reason: self.reason,
            message: brief(self.message),
        }
    }
}
