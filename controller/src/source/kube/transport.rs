//! Requests to the API server and their answers, chunk by chunk. Owns time limits and what an error is; decides nothing
//! on what follows from it.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{ACCEPT, HeaderMap, RETRY_AFTER};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use hyper_util::client::legacy;
use kube::client::Body;

use super::failure::Failure;
use super::item;
use super::split::MAX_OBJECT;
use crate::cluster::{self, ClusterError};

/// From the request to the head of the answer, connection and handshake included.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two chunks of a list or an object.
pub(super) const CHUNK_TIMEOUT: Duration = Duration::from_secs(10);
/// Of an error no more is read …
const MAX_ERROR: usize = 64 * 1024;
/// … and shown.
const MAX_TEXT: usize = 300;
/// Credentials that are refused are read again this often.
const RELOAD_INTERVAL: Duration = Duration::from_secs(10);

/// What an answer is to be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Form {
    /// Whole objects.
    Whole,
    /// A list of metadata only, as far as the server can do that.
    MetadataList,
    /// Metadata only, event by event.
    Metadata,
}

impl Form {
    fn accept(self) -> &'static str {
        match self {
            Self::Whole => "application/json",
            Self::MetadataList => {
                "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1, application/json"
            }
            Self::Metadata => {
                "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1, application/json"
            }
        }
    }
}

/// The way to the API server.
#[derive(Clone)]
pub(super) struct Transport {
    client: Arc<Mutex<Client>>,
    kubeconfig: Option<PathBuf>,
}

struct Client {
    client: kube::Client,
    /// When the credentials were read.
    read: Instant,
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transport").field("kubeconfig", &self.kubeconfig).finish_non_exhaustive()
    }
}

impl Transport {
    /// Nothing is asked yet. Connections live on the runtime that this is called on.
    pub(super) fn new(config: &kube::Config, kubeconfig: Option<PathBuf>) -> Result<Self, ClusterError> {
        let client = Client { client: cluster::client(config)?, read: Instant::now() };
        Ok(Self { client: Arc::new(Mutex::new(client)), kubeconfig })
    }

    /// Asks for `path`, and returns when the answer begins.
    pub(super) async fn open(&self, path: &str, form: Form) -> Result<Answer, Failure> {
        self.open_within(HEAD_TIMEOUT, path, form).await
    }

    /// Asks for `path`, and returns when the answer begins, which it must within `patience`.
    pub(super) async fn open_within(
        &self,
        patience: Duration,
        path: &str,
        form: Form,
    ) -> Result<Answer, Failure> {
        let request = Request::get(path)
            .header(ACCEPT, form.accept())
            .body(Body::empty())
            .map_err(|error| Failure::Malformed(error.to_string()))?;
        let client = self.client.lock().unwrap_or_else(PoisonError::into_inner).client.clone();
        let response = match tokio::time::timeout(patience, client.send(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                let failure = failure_of(error);
                if matches!(failure, Failure::Untrusted(_)) {
                    self.reload().await;
                }
                return Err(failure);
            }
            Err(_) => return Err(Failure::Silent(patience)),
        };
        let (head, body) = response.into_parts();
        let mut answer = Answer { body };
        if head.status == StatusCode::OK {
            return Ok(answer);
        }
        let text = answer.collect(MAX_ERROR).await.unwrap_or_default();
        if head.status == StatusCode::UNAUTHORIZED {
            self.reload().await;
        }
        Err(refusal(head.status, &head.headers, &text))
    }

    /// Asks for one whole object.
    pub(super) async fn object(&self, path: &str) -> Result<Vec<u8>, Failure> {
        self.open(path, Form::Whole).await?.collect(MAX_OBJECT).await
    }

    /// Reads configuration and credentials again, unless that was done just now.
    async fn reload(&self) {
        {
            let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
            if client.read.elapsed() < RELOAD_INTERVAL {
                return;
            }
            client.read = Instant::now();
        }
        let config = cluster::configuration(self.kubeconfig.as_deref()).await;
        match config.and_then(|config| cluster::client(&config)) {
            Ok(new) => self.client.lock().unwrap_or_else(PoisonError::into_inner).client = new,
            Err(error) => tracing::debug!(%error, "the API server's configuration cannot be read again"),
        }
    }
}

/// An answer whose head has come.
#[derive(Debug)]
pub(super) struct Answer {
    body: Body,
}

impl Answer {
    /// The next bytes; `None` at the end. Safe to drop while waiting.
    pub(super) async fn chunk(&mut self, silence: Duration) -> Result<Option<Bytes>, Failure> {
        loop {
            match tokio::time::timeout(silence, self.body.frame()).await {
                Ok(Some(Ok(frame))) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
                Ok(Some(Err(error))) => return Err(Failure::Lost(root(&error))),
                Ok(None) => return Ok(None),
                Err(_) => return Err(Failure::Silent(silence)),
            }
        }
    }

    /// All of it, up to `most` bytes.
    async fn collect(&mut self, most: usize) -> Result<Vec<u8>, Failure> {
        let mut all = Vec::new();
        while let Some(chunk) = self.chunk(CHUNK_TIMEOUT).await? {
            if all.len() + chunk.len() > most {
                return Err(Failure::Malformed(format!("more than {most} bytes")));
            }
            all.extend_from_slice(&chunk);
        }
        Ok(all)
    }
}

/// What an answer with another status than 200 says.
fn refusal(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Failure {
    let said = item::status(body).map(|(_, text)| text);
    let plain = said.unwrap_or_else(|| String::from_utf8_lossy(body).into_owned());
    let reason = status.canonical_reason().unwrap_or_default();
    let text = match shown(&plain) {
        text if text.is_empty() => reason.to_owned(),
        text => format!("{reason}: {text}"),
    };
    if status == StatusCode::GONE {
        return Failure::Gone(text);
    }
    let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    Failure::Status { code: status.as_u16(), text, retry_after: seconds.map(Duration::from_secs) }
}

/// Text of others as it may be logged.
pub(super) fn shown(text: &str) -> String {
    let plain = || text.chars().filter(|c| !c.is_control());
    let mut out: String = plain().take(MAX_TEXT).collect();
    if plain().nth(MAX_TEXT).is_some() {
        out.pop();
        out.push('…');
    }
    out.trim().to_owned()
}

/// Where a request got to that has no answer.
fn failure_of(error: kube::Error) -> Failure {
    let text = root(&error);
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    let (mut is_connect, mut is_http) = (false, false);
    while let Some(at) = cause {
        if let Some(error) = at.downcast_ref::<legacy::Error>() {
            is_http = true;
            is_connect |= error.is_connect();
        }
        // What rustls has to say about certificates comes as such an error.
        if at.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::InvalidData) {
            return Failure::Untrusted(text);
        }
        cause = match at.downcast_ref::<kube::Error>() {
            Some(kube::Error::Service(inner)) => Some(&**inner),
            _ => at.source(),
        };
    }
    match (is_connect, is_http || matches!(error, kube::Error::HyperError(_))) {
        (true, _) => Failure::Unreachable(text),
        (false, true) => Failure::Lost(text),
        (false, false) => Failure::Untrusted(text),
    }
}

/// The innermost cause, which is what an operator can do something about.
fn root(error: &(dyn std::error::Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    shown(&innermost.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusal_says_what_the_server_says() {
        let body =
            br#"{"kind":"Status","message":"secrets is forbidden\u0007","reason":"Forbidden","code":403}"#;
        let failure = refusal(StatusCode::FORBIDDEN, &HeaderMap::new(), body);
        assert_eq!(failure.to_string(), "403 Forbidden: secrets is forbidden");
        assert!(matches!(refusal(StatusCode::GONE, &HeaderMap::new(), b""), Failure::Gone(_)));
    }

    #[test]
    fn server_says_how_long_to_stay_away() {
        let headers = HeaderMap::from_iter([(RETRY_AFTER, "7".parse().unwrap())]);
        let failure = refusal(StatusCode::TOO_MANY_REQUESTS, &headers, b"slow\ndown");
        let Failure::Status { code, text, retry_after } = failure else { panic!("{failure}") };
        assert_eq!(
            (code, &*text, retry_after),
            (429, "Too Many Requests: slowdown", Some(Duration::from_secs(7)))
        );
    }

    #[test]
    fn long_text_is_cut() {
        assert_eq!(shown(&"a".repeat(5_000)).chars().count(), MAX_TEXT);
    }
}
