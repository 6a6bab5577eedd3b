//! One request about the status of an Ingress or a Service, and what its answer means for the ledger.

use std::time::Duration;

use config::report::Kind;
use http::{Method, StatusCode};
use jiff::Timestamp;
use serde_json::json;

use crate::status::api::{Api, Payload, escape, object_path};
use crate::status::gate::Gate;
use crate::status::ledger::{Action, Conditions, Outcome, Task};
use crate::status::metrics::Ending;
use crate::status::observed::{Entry, Observed};

/// For a read.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// For a write, of which a slow server should rather be done than asked again.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// What became of a request, for the ledger, for metrics, and for people.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Done {
    pub(super) outcome: Outcome,
    pub(super) ending: Ending,
    /// What the server, or the lack of one, says; empty if all is well.
    pub(super) message: String,
}

impl Done {
    /// Nothing is known of what became of it.
    pub(super) fn failed(message: String) -> Self {
        done(Outcome::Failed, Ending::Failed, message)
    }

    /// Nothing was sent, or nobody waits for the answer.
    pub(super) fn aborted() -> Self {
        done(Outcome::Aborted, Ending::Aborted, String::new())
    }
}

/// Sends the request of `task`. `manager` is our field manager.
pub(super) async fn perform(api: &Api, gate: &Gate, manager: &str, task: &Task) -> Done {
    let Some(path) = object_path(&task.object) else {
        return done(Outcome::Gone, Ending::Gone, String::new());
    };
    let answer = match &task.action {
        Action::Look => api.write(Method::GET, &path, Payload::None, READ_TIMEOUT).await,
        Action::Write { version, entries, conditions } => {
            let path = format!("{path}/status?fieldManager={}", escape(manager));
            let now = format!("{:.0}", Timestamp::now());
            let patch = Payload::MergePatch(patch(version, entries, conditions.as_ref(), &now));
            api.write(Method::PATCH, &path, patch, WRITE_TIMEOUT).await
        }
        Action::Finalize { version, finalizers } => {
            let path = format!("{path}?fieldManager={}", escape(manager));
            let finalizers: Vec<&str> = finalizers.iter().map(|finalizer| &**finalizer).collect();
            let metadata = json!({"resourceVersion": &**version, "finalizers": finalizers});
            let patch = Payload::MergePatch(json!({"metadata": metadata}).to_string());
            api.write(Method::PATCH, &path, patch, WRITE_TIMEOUT).await
        }
    };
    let answer = match answer {
        Ok(answer) => answer,
        Err(_) if !gate.is_open() => return Done::aborted(),
        Err(failure) => return Done::failed(failure.to_string()),
    };
    match answer.status {
        StatusCode::OK | StatusCode::CREATED => match read(task.object.kind, &answer.body) {
            Some(observed) => done(Outcome::Done(observed), Ending::Done, String::new()),
            // Nothing of ours is left, which is all that matters of it.
            None if task.object.kind == Kind::Service => done(Outcome::Gone, Ending::Done, String::new()),
            None => done(Outcome::Failed, Ending::Failed, "the answer is no Ingress".to_owned()),
        },
        StatusCode::NOT_FOUND => done(Outcome::Gone, Ending::Gone, String::new()),
        StatusCode::CONFLICT => done(Outcome::Conflict, Ending::Conflict, answer.message()),
        // Credentials have just been read again.
        StatusCode::UNAUTHORIZED => done(Outcome::Failed, Ending::Denied, answer.message()),
        StatusCode::FORBIDDEN => done(Outcome::Denied, Ending::Denied, answer.message()),
        StatusCode::TOO_MANY_REQUESTS => {
            done(Outcome::Busy(answer.retry_after), Ending::Throttled, answer.message())
        }
        status if status.is_client_error() => done(Outcome::Invalid, Ending::Invalid, answer.message()),
        _ => {
            let busy = Outcome::Busy(answer.retry_after);
            let outcome = if answer.retry_after.is_some() { busy } else { Outcome::Failed };
            done(outcome, Ending::Failed, answer.message())
        }
    }
}

fn read(kind: Kind, json: &[u8]) -> Option<Observed> {
    if kind == Kind::Service { Observed::from_service(json) } else { Observed::from_json(json) }
}

fn done(outcome: Outcome, ending: Ending, message: String) -> Done {
    Done { outcome, ending, message }
}

/// A merge patch, which replaces the lists. A server refuses it if the object has another version by now.
fn patch(version: &str, entries: &[Entry], conditions: Option<&Conditions>, now: &str) -> String {
    let entries: Vec<String> = entries.iter().map(Entry::to_json).collect();
    let conditions = conditions.map_or_else(String::new, |conditions| {
        let others = conditions.others.iter().map(|text| text.to_string());
        let all = others.chain(conditions.ours.iter().map(|condition| condition.to_json(now)));
        format!(r#","conditions":[{}]"#, all.collect::<Vec<_>>().join(","))
    });
    format!(
        r#"{{"metadata":{{"resourceVersion":{}}},"status":{{"loadBalancer":{{"ingress":[{}]}}{conditions}}}}}"#,
        serde_json::Value::from(version),
        entries.join(",")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::observed::Address;

    #[test]
    fn patch_keeps_the_text_of_others() {
        let entries = [
            Entry { address: None, text: Some(r#"{"ip":"192.0.2.9","ports":[]}"#.into()) },
            Entry::of(Address::ip("2001:db8::1").unwrap()),
        ];
        assert_eq!(
            patch("7\"", &entries, None, ""),
            r#"{"metadata":{"resourceVersion":"7\""},"status":{"loadBalancer":{"ingress":[{"ip":"192.0.2.9","ports":[]},{"ip":"2001:db8::1"}]}}}"#
        );
    }
}
