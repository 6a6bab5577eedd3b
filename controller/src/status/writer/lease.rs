//! One request about the Lease, and what its answer means for the election.

use std::sync::Arc;

use http::{Method, StatusCode};
use jiff::Timestamp;

use crate::status::api::{Answer, Api, Failure, Payload, escape};
use crate::status::clock::Moment;
use crate::status::lease::{Claim, REQUEST_TIMEOUT, Record};
use crate::status::metrics::Ending;

/// A request about the Lease.
#[derive(Clone, Debug)]
pub(super) enum Request {
    Read,
    Create(Claim),
    Change(Arc<str>, Claim),
}

/// What came of it.
#[derive(Clone, Debug)]
pub(super) enum News {
    Read(Option<Record>),
    /// With the moment before it was sent.
    Written(Record, Moment),
    Refused,
    Failed(String),
}

/// Which Lease.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) namespace: Arc<str>,
    pub(super) name: Arc<str>,
}

impl Place {
    fn all(&self) -> String {
        format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", escape(&self.namespace))
    }

    fn one(&self) -> String {
        format!("{}/{}", self.all(), escape(&self.name))
    }
}

/// Sends `request`. `sent` must not be later than this call.
pub(super) async fn perform(
    api: &Api,
    place: &Place,
    request: Request,
    sent: Moment,
) -> (News, Option<Ending>) {
    let now = format!("{:.6}", Timestamp::now());
    let is_read = matches!(request, Request::Read);
    let is_create = matches!(request, Request::Create(_));
    let answer = match request {
        Request::Read => api.ask(Method::GET, &place.one(), Payload::None, REQUEST_TIMEOUT).await,
        Request::Create(claim) => {
            let object = Payload::Object(claim.to_object(&place.name, &now));
            api.ask(Method::POST, &place.all(), object, REQUEST_TIMEOUT).await
        }
        Request::Change(version, claim) => {
            let patch = Payload::MergePatch(claim.to_patch(&version, &now));
            api.ask(Method::PATCH, &place.one(), patch, REQUEST_TIMEOUT).await
        }
    };
    let (news, ending) = news(answer, is_read, sent);
    // A Lease that is made cannot be missing: what is missing is its namespace.
    let is_lost = is_create && ending == Ending::Gone;
    let lack = || News::Failed(format!("there is no namespace {} for the Lease", place.namespace));
    let news = if is_lost { lack() } else { news };
    (news, (!is_read).then_some(ending))
}

fn news(answer: Result<Answer, Failure>, is_read: bool, sent: Moment) -> (News, Ending) {
    let answer = match answer {
        Ok(answer) => answer,
        Err(failure) => return (News::Failed(failure.to_string()), Ending::Failed),
    };
    match answer.status {
        StatusCode::OK | StatusCode::CREATED => match Record::from_json(&answer.body) {
            Some(record) if is_read => (News::Read(Some(record)), Ending::Done),
            Some(record) => (News::Written(record, sent), Ending::Done),
            None => (News::Failed("the answer is no Lease".to_owned()), Ending::Failed),
        },
        StatusCode::NOT_FOUND => (News::Read(None), Ending::Gone),
        StatusCode::CONFLICT => (News::Refused, Ending::Conflict),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => (News::Failed(answer.message()), Ending::Denied),
        StatusCode::TOO_MANY_REQUESTS => (News::Failed(answer.message()), Ending::Throttled),
        status if status.is_client_error() => (News::Failed(answer.message()), Ending::Invalid),
        _ => (News::Failed(answer.message()), Ending::Failed),
    }
}
