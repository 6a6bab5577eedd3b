//! Who an object is: its kind, and its checked name and namespace.

use std::sync::Arc;

use super::address_pool::{AddressPoolObject, L2AdvertisementObject, NamespaceObject};
use super::endpoint_slice::EndpointSliceObject;
use super::ingress::{IngressClassObject, IngressObject};
use super::meta::ObjectMeta;
use super::node::Node;
use super::secret::{ConfigMapObject, SecretObject};
use super::service::ServiceObject;
use super::syntax;
use crate::report::{Kind, ObjectRef};

/// Wire types with `metadata`.
pub(super) trait HasMeta {
    fn meta(&self) -> &ObjectMeta;
}

macro_rules! has_meta {
    ($($kind:ty),*) => {$(
        impl HasMeta for $kind {
            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }
        }
    )*};
}

has_meta!(
    IngressObject,
    IngressClassObject,
    ServiceObject,
    EndpointSliceObject,
    SecretObject,
    ConfigMapObject,
    NamespaceObject,
    super::networks::NodeObject,
    super::networks::ServiceCidrObject,
    AddressPoolObject,
    L2AdvertisementObject
);

/// Who an object is, by its checked name.
pub(super) fn reference(
    kind: Kind,
    meta: &ObjectMeta,
) -> Result<ObjectRef, (&'static str, &'static str, String)> {
    let Some(name) = meta.name.clone().filter(|name| !name.is_empty()) else {
        return Err(("metadata.name", "MissingField", "`name` is required".to_owned()));
    };
    let invalid =
        |field, text: &str, why| (field, "InvalidName", format!("`{text}` is not a valid name: {why}"));
    syntax::object_name(&name).map_err(|why| invalid("metadata.name", &name, why))?;
    let namespace = match (kind, &meta.namespace) {
        (Kind::IngressClass | Kind::Namespace | Kind::AddressPool | Kind::Node | Kind::ServiceCIDR, _) => {
            "".into()
        }
        (_, Some(namespace)) if !namespace.is_empty() => {
            syntax::dns_label(namespace).map_err(|why| invalid("metadata.namespace", namespace, why))?;
            Arc::clone(namespace)
        }
        _ => "default".into(),
    };
    Ok(ObjectRef { kind, namespace, name })
}

pub(super) fn kind_of(text: &str) -> Option<Kind> {
    Some(match text {
        "Ingress" => Kind::Ingress,
        "IngressClass" => Kind::IngressClass,
        "Service" => Kind::Service,
        "EndpointSlice" => Kind::EndpointSlice,
        "Secret" => Kind::Secret,
        "ConfigMap" => Kind::ConfigMap,
        "Namespace" => Kind::Namespace,
        "AddressPool" => Kind::AddressPool,
        "IPAddressPool" => Kind::IPAddressPool,
        "L2Advertisement" => Kind::L2Advertisement,
        _ => return None,
    })
}

/// Who an object is that cannot be read as a whole.
pub(super) fn guess(node: &Node, kind: Kind) -> Option<ObjectRef> {
    let text = |key| node.field("metadata")?.field(key)?.text().map(Arc::from);
    reference(kind, &ObjectMeta { name: text("name"), namespace: text("namespace"), ..ObjectMeta::default() })
        .ok()
}
