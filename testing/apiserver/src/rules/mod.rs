//! What is particular to each kind: what the server fills in, what it refuses, and what it keeps. Pure but for what it is
//! given of the rest of the cluster.

pub(crate) mod addresses;
mod configuration;
mod definition;
mod endpoints;
mod events;
mod ingress;
mod metadata;
mod names;
mod nodes;
mod service;

use serde_json::{Map, Value};

use crate::error::Cause;
use crate::kinds::{Kind, What};

pub(crate) use self::definition::{Definition, definition, established};
pub(crate) use self::service::taken;

/// The rest of the cluster, as far as a rule asks.
pub(crate) trait Cluster {
    /// The IngressClass that is the default one, if there is one.
    fn default_class(&self) -> Option<String>;
    /// Cluster addresses and node ports.
    fn allocated(&self) -> &addresses::Allocated;
}

/// What a write found besides errors: warnings that go into headers.
pub(crate) type Warnings = Vec<String>;

/// Fills in what a client left out; for all writes of the main resource and of the status.
pub(crate) fn default(kind: &Kind, object: &mut Value) {
    match &kind.what {
        What::Service => service::default(object),
        What::EndpointSlice => {
            endpoints::default_slice(object);
            endpoints::drop_topology(object);
        }
        What::Endpoints => endpoints::default_endpoints(object),
        What::Secret => configuration::default_secret(object),
        What::Pod => nodes::default_pod(object),
        What::IngressClass => ingress::default_class(object),
        What::Definition => definition::default(object),
        What::Namespace => nodes::label_namespace(object),
        What::Custom(definition) => definition.default(object),
        What::ConfigMap | What::Event | What::Node | What::Lease | What::Ingress => {}
    }
}

/// Makes a new object ready to be stored, once it is known to have the right form.
pub(crate) fn on_create(kind: &Kind, object: &mut Value, cluster: &dyn Cluster) -> Vec<Cause> {
    match &kind.what {
        What::Namespace => nodes::new_namespace(object),
        What::Pod => nodes::new_pod(object),
        What::Node => nodes::new_node(object),
        What::Service => return service::on_create(object, cluster.allocated()),
        What::Ingress => ingress::on_create(object, cluster),
        What::Definition => definition::on_create(object),
        What::Custom(_) if kind.status => remove(object, "status"),
        What::ConfigMap
        | What::Endpoints
        | What::Event
        | What::Secret
        | What::Lease
        | What::EndpointSlice
        | What::IngressClass
        | What::Custom(_) => {}
    }
    Vec::new()
}

/// Makes a changed object ready to be stored; not for writes of the status.
pub(crate) fn on_update(kind: &Kind, before: &Value, after: &mut Value, cluster: &dyn Cluster) -> Vec<Cause> {
    match &kind.what {
        What::Service => service::on_update(before, after, cluster.allocated()),
        What::Namespace => {
            copy(before, after, "spec");
            Vec::new()
        }
        What::Pod => {
            nodes::keep_pod_defaults(before, after);
            Vec::new()
        }
        _ => Vec::new(),
    }
}

/// What is wrong with an object; `before` is what it was, if it was.
pub(crate) fn check(kind: &Kind, before: Option<&Value>, after: &Value, status: bool) -> Vec<Cause> {
    let mut causes = metadata::check(kind, before, after);
    if status {
        causes.extend(match &kind.what {
            What::Service => service::check_status(after),
            What::Ingress => ingress::check_status(after),
            What::Namespace => nodes::check_namespace_status(after),
            What::Custom(definition) => definition.check(after),
            _ => Vec::new(),
        });
        return causes;
    }
    causes.extend(match &kind.what {
        What::ConfigMap => configuration::check_config_map(before, after),
        What::Secret => configuration::check_secret(before, after),
        What::Service => service::check(before, after),
        What::Ingress => ingress::check(before, after),
        What::IngressClass => ingress::check_class(before, after),
        What::EndpointSlice => endpoints::check_slice(before, after),
        What::Endpoints => endpoints::check_endpoints(after),
        What::Lease => configuration::check_lease(after),
        What::Event => events::check(kind, before, after),
        What::Pod => nodes::check_pod(before, after),
        What::Node => nodes::check_node(before, after),
        What::Definition => definition::check(after),
        What::Custom(definition) => definition.check(after),
        What::Namespace => Vec::new(),
    });
    causes
}

/// What the server has to say about an object that it takes nevertheless.
pub(crate) fn warnings(kind: &Kind, before: Option<&Value>, after: &Value) -> Warnings {
    let mut warnings = match &kind.what {
        What::Service => service::warnings(after),
        What::Ingress => ingress::warnings(before, after),
        What::Secret => configuration::secret_warnings(after),
        _ => Vec::new(),
    };
    if let (What::EndpointSlice, Some("FQDN")) = (&kind.what, text(after, "addressType")) {
        warnings.push("spec.addressType: FQDN endpoints are deprecated".to_owned());
    }
    warnings
}

/// The text of a field.
pub(crate) fn text<'a>(object: &'a Value, field: &str) -> Option<&'a str> {
    object.get(field)?.as_str()
}

/// The entries of a list, none if there is no list.
pub(crate) fn items<'a>(object: &'a Value, field: &str) -> &'a [Value] {
    object.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// A field as a map that can be changed; made if it is not there.
pub(crate) fn inside<'a>(object: &'a mut Value, field: &str) -> Option<&'a mut Map<String, Value>> {
    let map = object.as_object_mut()?;
    map.entry(field).or_insert_with(|| Value::Object(Map::new())).as_object_mut()
}

fn remove(object: &mut Value, field: &str) {
    if let Some(map) = object.as_object_mut() {
        map.remove(field);
    }
}

fn copy(from: &Value, to: &mut Value, field: &str) {
    if let Some(map) = to.as_object_mut() {
        match from.get(field) {
            Some(value) => map.insert(field.to_owned(), value.clone()),
            None => map.remove(field),
        };
    }
}
