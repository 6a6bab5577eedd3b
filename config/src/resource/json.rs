//! One object as an API server sends it → a typed object. What the server stores was checked by it, so a field that we do
//! not know is of a newer version and no mistake.

use serde::Deserialize;

use super::decode::{self, HasMeta};
use super::endpoint_slice::EndpointSliceObject;
use super::ingress::{IngressClassObject, IngressObject};
use super::meta::ObjectMeta;
use super::secret::{ConfigMapObject, SecretObject};
use super::service::ServiceObject;
use super::{Finding, Object, ObjectSpec};
use crate::report::{Kind, ObjectRef, Problem, Severity};

/// What became of one object.
#[derive(Clone, Debug)]
pub struct Received {
    /// Who it is; `None` if not even that can be read.
    pub reference: Option<ObjectRef>,
    /// What it says; `None` if it does not decode, in which case `problems` says why and its last good version stays.
    pub object: Option<Object>,
    /// What there is to say about it, besides what is told with the object if it is ours. Replaces what was said before.
    pub problems: Vec<Problem>,
}

/// Reads `json`, one object of `kind`. Only what we need is kept; nothing is kept of what is skipped. Never fails as a
/// whole: what is wrong is in the outcome.
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
            read(kind, json, |object: ServiceObject, findings| ObjectSpec::Service(object.trim(findings)))
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
        Kind::Config | Kind::Listener | Kind::Route | Kind::Backend | Kind::File => {
            unreadable(kind, json, "UnknownKind", format!("{kind:?} is not a kind of an API server"))
        }
    }
}

fn read<T: for<'de> Deserialize<'de> + HasMeta>(
    kind: Kind,
    json: &[u8],
    trim: impl FnOnce(T, &mut Vec<Finding>) -> ObjectSpec,
) -> Received {
    let object: T = match serde_json::from_slice(json) {
        Ok(object) => object,
        // Keys are never shown: the text of an error may hold a value, and that of a Secret must not.
        Err(_) if kind == Kind::Secret => {
            return unreadable(kind, json, "WrongType", "the Secret does not decode".to_owned());
        }
        Err(error) => return unreadable(kind, json, "WrongType", error.to_string()),
    };
    let reference = match decode::reference(kind, object.meta()) {
        Ok(reference) => reference,
        Err((_, reason, message)) => return unreadable(kind, json, reason, message),
    };
    let mut findings = Vec::new();
    let spec = trim(object, &mut findings);
    let problems = findings.into_iter().map(|finding| finding.into_problem(&reference, None)).collect();
    let object = Object { reference: reference.clone(), location: None, spec };
    Received { reference: Some(reference), object: Some(object), problems }
}

/// Only `metadata`, for objects of which nothing else can be read.
#[derive(Deserialize)]
struct Named {
    metadata: ObjectMeta,
}

fn unreadable(kind: Kind, json: &[u8], reason: &'static str, message: String) -> Received {
    let named: Option<Named> = serde_json::from_slice(json).ok();
    let reference = named.and_then(|named| decode::reference(kind, &named.metadata).ok());
    let object =
        reference.clone().unwrap_or_else(|| ObjectRef { kind, namespace: "".into(), name: "?".into() });
    let (field, severity) = (String::new(), Severity::Error);
    let message = format!("does not decode, so its last good version is served, if there was one: {message}");
    let problem = Problem { object, location: None, field, severity, reason, message };
    Received { reference, object: None, problems: vec![problem] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object_of_an_api_server_is_read_without_what_nobody_needs() {
        let json = br#"{"metadata":{"name":"a","namespace":"n","managedFields":[{"x":1}],"uid":"u"},
            "spec":{"newField":1,"rules":[{"host":"a.example","http":{"paths":[{"path":"/","pathType":"Prefix",
            "backend":{"service":{"name":"s","port":{"number":80}}}}]}}]},"status":{"loadBalancer":{}}}"#;
        let received = decode_json(Kind::Ingress, json);
        assert!(received.problems.is_empty(), "{:?}", received.problems);
        let Some(Object { spec: ObjectSpec::Ingress(ingress), .. }) = received.object else {
            panic!("no Ingress")
        };
        assert_eq!(ingress.paths.len(), 1);
        assert!(ingress.findings.is_empty(), "{:?}", ingress.findings);
    }

    #[test]
    fn object_that_does_not_decode_keeps_its_name() {
        let json = br#"{"metadata":{"name":"a","namespace":"n"},"spec":{"rules":"none"}}"#;
        let received = decode_json(Kind::Ingress, json);
        assert!(received.object.is_none());
        assert_eq!(received.reference.unwrap().to_string(), "Ingress n/a");
        assert_eq!(received.problems.len(), 1);
    }

    #[test]
    fn nothing_of_a_secret_is_shown() {
        let json = br#"{"metadata":{"name":"a"},"data":{"tls.key":12345}}"#;
        let received = decode_json(Kind::Secret, json);
        assert!(!format!("{received:?}").contains("12345"));
    }
}
