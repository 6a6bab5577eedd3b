//! One Event, and what its answer means for the journal.

use std::sync::Arc;
use std::time::Duration;

use config::report::ObjectRef;
use http::{Method, StatusCode};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;

use crate::status::api::{Answer, Api, Failure, Payload, escape, resource};
use crate::status::gate::Gate;
use crate::status::journal::{Action, Outcome, Telling, namespace, number};
use crate::status::metrics::Ending;

const TIMEOUT: Duration = Duration::from_secs(10);
/// The longest name of an object that goes into the name of an Event, which must stay below 253.
const MAX_NAME: usize = 200;
/// The longest name of who reports.
const MAX_INSTANCE: usize = 128;
/// Who reports.
const CONTROLLER: &str = "sluicegate.dev/ingress-controller";

/// Writes what `telling` says. `uid` is the object's, if it is known; `instance` is who we are.
pub(super) async fn perform(
    api: &Api,
    gate: &Gate,
    instance: &str,
    telling: &Telling,
    uid: Option<Arc<str>>,
) -> (Outcome, Ending, String) {
    let namespace = namespace(&telling.object);
    let path = format!("/apis/events.k8s.io/v1/namespaces/{}/events", escape(namespace));
    let answer = match &telling.action {
        Action::Create { is_warning, reason, note } => {
            let uid = match uid {
                Some(uid) => Ok(Some(uid)),
                None => api.uid(&telling.object, TIMEOUT).await,
            };
            let uid = match uid {
                Ok(Some(uid)) => uid,
                Ok(None) => return (Outcome::NoObject, Ending::Gone, String::new()),
                Err(failure) => return failed(gate, &failure),
            };
            let name = name(&telling.object, &uid, telling.key);
            let event = json!({
                "apiVersion": "events.k8s.io/v1",
                "kind": "Event",
                "metadata": { "name": name, "namespace": namespace },
                "eventTime": now(),
                "reportingController": CONTROLLER,
                "reportingInstance": instance.get(..instance.floor_char_boundary(MAX_INSTANCE)),
                "action": "Compile",
                "type": if *is_warning { "Warning" } else { "Normal" },
                "reason": reason,
                "note": &**note,
                "regarding": regarding(&telling.object, &uid),
            });
            let answer = api.write(Method::POST, &path, Payload::Object(event.to_string()), TIMEOUT).await;
            match answer.as_ref().map(|answer| answer.status) {
                Ok(StatusCode::CONFLICT) => {
                    // Told by another replica, or by an earlier process.
                    let path = format!("{path}/{}", escape(&name));
                    api.write(Method::GET, &path, Payload::None, TIMEOUT).await
                }
                Ok(StatusCode::NOT_FOUND) => return (Outcome::NoObject, Ending::Gone, String::new()),
                _ => answer,
            }
        }
        Action::Repeat { name: told, count } => {
            let uid = match uid {
                Some(uid) => Ok(Some(uid)),
                None => api.uid(&telling.object, TIMEOUT).await,
            };
            match uid {
                // It is another object by now, of which nothing was told.
                Ok(Some(uid)) if name(&telling.object, &uid, telling.key) != **told => {
                    return (Outcome::Gone, Ending::Gone, String::new());
                }
                Ok(Some(_)) => {}
                Ok(None) => return (Outcome::NoObject, Ending::Gone, String::new()),
                Err(failure) => return failed(gate, &failure),
            }
            let series = json!({ "series": { "count": count, "lastObservedTime": now() } });
            let path = format!("{path}/{}", escape(told));
            api.write(Method::PATCH, &path, Payload::MergePatch(series.to_string()), TIMEOUT).await
        }
    };
    match answer {
        Ok(answer) => judge(&answer),
        Err(failure) => failed(gate, &failure),
    }
}

fn failed(gate: &Gate, failure: &Failure) -> (Outcome, Ending, String) {
    if gate.is_open() {
        (Outcome::Failed, Ending::Failed, failure.to_string())
    } else {
        (Outcome::Aborted, Ending::Aborted, String::new())
    }
}

fn judge(answer: &Answer) -> (Outcome, Ending, String) {
    match answer.status {
        StatusCode::OK | StatusCode::CREATED => match told(&answer.body) {
            Some((name, count)) => (Outcome::Done { name, count }, Ending::Done, String::new()),
            None => (Outcome::Invalid, Ending::Failed, "the answer is no Event".to_owned()),
        },
        StatusCode::NOT_FOUND => (Outcome::Gone, Ending::Gone, answer.message()),
        // Nobody may, in a namespace that is going away.
        StatusCode::FORBIDDEN if answer.message().contains("being terminated") => {
            (Outcome::NoObject, Ending::Gone, answer.message())
        }
        // Credentials have just been read again.
        StatusCode::UNAUTHORIZED => (Outcome::Failed, Ending::Denied, answer.message()),
        StatusCode::FORBIDDEN => (Outcome::Denied, Ending::Denied, answer.message()),
        StatusCode::TOO_MANY_REQUESTS => (Outcome::Failed, Ending::Throttled, answer.message()),
        status if status.is_client_error() => (Outcome::Invalid, Ending::Invalid, answer.message()),
        _ => (Outcome::Failed, Ending::Failed, answer.message()),
    }
}

/// Name of an Event and how often it has happened.
fn told(json: &[u8]) -> Option<(Arc<str>, u32)> {
    #[derive(Deserialize)]
    struct Event {
        metadata: Metadata,
        series: Option<Series>,
    }
    #[derive(Deserialize)]
    struct Metadata {
        name: Arc<str>,
    }
    #[derive(Deserialize)]
    struct Series {
        #[serde(default)]
        count: u32,
    }
    let Event { metadata, series } = serde_json::from_slice(json).ok()?;
    Some((metadata.name, series.map_or(1, |series| series.count.max(1))))
}

/// The name follows from what is told of which object. A word that all is well is told anew each time.
fn name(object: &ObjectRef, uid: &str, key: u64) -> String {
    let moment = if key == 0 { Timestamp::now().to_string() } else { String::new() };
    let mut name: String = object.name.to_string();
    name.truncate(name.floor_char_boundary(MAX_NAME));
    // A part of a name may end where a name must not.
    let name = name.trim_end_matches(['.', '-']);
    format!("{name}.{:016x}", number(&[uid, &key.to_string(), &moment]))
}

/// Which object is meant.
fn regarding(object: &ObjectRef, uid: &str) -> serde_json::Value {
    let version = resource(object.kind).map(|(version, _)| version);
    let namespace = Some(&*object.namespace).filter(|namespace| !namespace.is_empty());
    json!({
        "apiVersion": version,
        "kind": format!("{:?}", object.kind),
        "namespace": namespace,
        "name": &*object.name,
        "uid": uid,
    })
}

fn now() -> String {
    format!("{:.6}", Timestamp::now())
}

#[cfg(test)]
mod tests {
    use config::report::Kind;

    use super::*;

    fn object(name: &str) -> ObjectRef {
        ObjectRef { kind: Kind::Ingress, namespace: "shop".into(), name: name.into() }
    }

    #[test]
    fn name_follows_from_object_and_matter() {
        let one = name(&object("web"), "u", 5);
        assert_eq!(one, name(&object("web"), "u", 5));
        assert_ne!(one, name(&object("web"), "u", 6));
        assert_ne!(one, name(&object("web"), "v", 5));
        assert!(one.starts_with("web."), "{one}");
        let long = name(&object(&format!("{}.{}", "a".repeat(199), "b".repeat(50))), "u", 5);
        assert_eq!(long.len(), 199 + 17);
    }

    #[test]
    fn count_of_an_event_is_that_of_its_series() {
        assert_eq!(told(br#"{"metadata":{"name":"a"}}"#), Some(("a".into(), 1)));
        assert_eq!(told(br#"{"metadata":{"name":"a"},"series":{"count":7}}"#), Some(("a".into(), 7)));
    }
}
