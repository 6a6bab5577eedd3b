//! One object as an API server sends it → a typed object. What the server stores was checked by it, so a field that we do
//! not know is of a newer version and no mistake.

use serde::Deserialize;

use super::address_pool::{AddressPool, AddressPoolObject, L2AdvertisementObject, NamespaceObject};
use super::endpoint_slice::EndpointSliceObject;
use super::identity::{self, HasMeta};
use super::ingress::{IngressClassObject, IngressObject};
use super::networks::{NodeObject, ServiceCidrObject};
use super::node::{self, Node};
use super::reader;
use super::secret::{ConfigMapObject, SecretObject};
use super::service::ServiceObject;
use super::{Finding, Holding, Object, ObjectSpec};
use crate::report::{Kind, ObjectRef, Problem, Severity, brief};

/// Largest object that is read once more to find out what is wrong with it. No API server takes one of this size.
const MAX_TREE_BYTES: usize = 3 << 20;

/// What became of one object.
#[derive(Clone, Debug)]
pub struct Received {
    /// Who it is; `None` if not even that can be read.
    pub reference: Option<ObjectRef>,
    /// What it says; `None` if it does not decode, in which case `problems` says why and its last good version stays.
    pub object: Option<Object>,
    /// What there is to say about it, besides what is told with the object if it is ours. Replaces what was said before.
    pub problems: Vec<Problem>,
    /// Of a Service that does not decode, the addresses that it may have all the same.
    pub holding: Option<Holding>,
}

/// Reads `json`, one object of `kind`. Only what we need is kept; nothing is kept of what is skipped. Never fails as a
/// whole: what is wrong is in the outcome, with the path of the field.
#[must_use]
pub fn decode_json(kind: Kind, json: &[u8]) -> Received {
    match kind {
        Kind::Ingress => read(kind, json, |object: IngressObject, findings| {
            ObjectSpec::Ingress(Box::new(object.trim(std::mem::take(findings))))
        }),
        Kind::IngressClass => {
            read(kind, json, |object: IngressClassObject, _| ObjectSpec::IngressClass(object.trim()))
        }
        Kind::Service => {
            let received = read(kind, json, |object: ServiceObject, findings| {
                ObjectSpec::Service(object.trim(findings))
            });
            if received.object.is_some() { received } else { with_holding(json, received) }
        }
        Kind::EndpointSlice => read(kind, json, |object: EndpointSliceObject, findings| {
            ObjectSpec::EndpointSlice(object.trim(findings))
        }),
        Kind::Secret => {
            read(kind, json, |object: SecretObject, _| ObjectSpec::Secret(Box::new(object.trim())))
        }
        Kind::ConfigMap => {
            read(kind, json, |object: ConfigMapObject, _| ObjectSpec::ConfigMap(Box::new(object.trim())))
        }
        Kind::Namespace => {
            read(kind, json, |object: NamespaceObject, _| ObjectSpec::Namespace(object.metadata.labels))
        }
        Kind::AddressPool | Kind::IPAddressPool => {
            let received = read(kind, json, |object: AddressPoolObject, _| {
                ObjectSpec::AddressPool(Box::new(object.trim()))
            });
            if received.object.is_some() { received } else { in_part(json, received) }
        }
        Kind::L2Advertisement => read(kind, json, |object: L2AdvertisementObject, _| {
            ObjectSpec::L2Advertisement(Box::new(object.trim()))
        }),
        Kind::Node => read(kind, json, |object: NodeObject, _| ObjectSpec::Networks(object.trim())),
        Kind::ServiceCIDR => {
            read(kind, json, |object: ServiceCidrObject, _| ObjectSpec::Networks(object.trim()))
        }
        Kind::Config | Kind::Listener | Kind::Route | Kind::Backend | Kind::File => {
            let message = format!("{kind:?} is not a kind of an API server");
            let wrong = Wrong { field: String::new(), reason: "UnknownKind", message };
            unreadable(kind, None, wrong)
        }
    }
}

/// Why an object cannot be used.
struct Wrong {
    field: String,
    reason: &'static str,
    message: String,
}

fn read<T: for<'de> Deserialize<'de> + HasMeta>(
    kind: Kind,
    json: &[u8],
    trim: impl FnOnce(T, &mut Vec<Finding>) -> ObjectSpec,
) -> Received {
    let object: T = match serde_json::from_slice(json) {
        Ok(object) => object,
        Err(error) => {
            let node = tree(json);
            match read_again(kind, node.as_ref(), &error) {
                Ok(object) => object,
                Err(wrong) => return unreadable(kind, node.as_ref(), wrong),
            }
        }
    };
    let reference = match identity::reference(kind, object.meta()) {
        Ok(reference) => reference,
        Err((field, reason, message)) => {
            return unreadable(kind, None, Wrong { field: field.to_owned(), reason, message });
        }
    };
    let mut findings = Vec::new();
    let spec = trim(object, &mut findings);
    let problems = findings.into_iter().map(|finding| finding.into_problem(&reference, None)).collect();
    let object = Object { reference: reference.clone(), location: None, spec };
    Received { reference: Some(reference), object: Some(object), problems, holding: None }
}

/// A Service that does not decode keeps its addresses from others.
fn with_holding(json: &[u8], mut received: Received) -> Received {
    received.holding = Holding::in_part(json);
    if let (Some(holding), Some(problem)) = (&received.holding, received.problems.first_mut()) {
        let addresses: Vec<String> = holding.addresses.iter().map(ToString::to_string).collect();
        problem.message = format!("{}; no pool gives {} to another", problem.message, addresses.join(", "));
    }
    received
}

/// A pool that does not decode costs nobody an address: what can be read of it stays.
fn in_part(json: &[u8], received: Received) -> Received {
    let object = received.reference.clone().map(|reference| {
        let pool = AddressPool::in_part(json);
        Object { reference, location: None, spec: ObjectSpec::AddressPool(Box::new(pool)) }
    });
    Received { object, ..received }
}

fn tree(json: &[u8]) -> Option<Node> {
    if json.len() > MAX_TREE_BYTES {
        return None;
    }
    serde_json::from_slice(json).ok().map(node::of_json)
}

/// The slow way, which knows where it is, and is not put off by a null or by a key that is there twice.
fn read_again<T: for<'de> Deserialize<'de>>(
    kind: Kind,
    node: Option<&Node>,
    error: &serde_json::Error,
) -> Result<T, Wrong> {
    let (field, reason, message) = match node.map(|node| reader::read(node, "", false)) {
        Some(Ok((object, _))) => return Ok(object),
        Some(Err(error)) => (error.place().0.to_owned(), error.reason(), error.message().to_owned()),
        None => (String::new(), "WrongType", error.to_string()),
    };
    // Keys are never shown: the text of an error may hold a value.
    let message = if kind == Kind::Secret { "not what a Secret has here".to_owned() } else { message };
    Err(Wrong { field, reason, message })
}

fn unreadable(kind: Kind, node: Option<&Node>, wrong: Wrong) -> Received {
    let Wrong { field, reason, message } = wrong;
    let reference = node.and_then(|node| identity::guess(node, kind));
    let object =
        reference.clone().unwrap_or_else(|| ObjectRef { kind, namespace: "".into(), name: "?".into() });
    let message = brief(message) + "; the object's last good version is served, if there was one";
    let problem = Problem { object, location: None, field, severity: Severity::Error, reason, message };
    Received { reference, object: None, problems: vec![problem], holding: None }
}

#[cfg(test)]
mod tests;
