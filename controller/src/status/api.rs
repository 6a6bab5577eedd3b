//! Requests to the API server and what their answers mean. Owns paths, time limits and bounds; decides nothing.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use config::report::{Kind, ObjectRef};
use http::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use hyper_util::client::legacy::connect::HttpConnector;
use kube::client::Body;

use super::clock::Moment;
use super::gate::{Gate, Guarded};
use crate::cluster::{self, ClusterError};

/// Of an answer no more is read.
const MAX_BODY: usize = 32 * 1024 * 1024;
/// Credentials that are refused are read again this often.
const RELOAD_INTERVAL: Duration = Duration::from_secs(10);

/// What is sent.
#[derive(Clone, Debug)]
pub(super) enum Payload {
    None,
    Object(String),
    MergePatch(String),
}

/// What came of a request that a server answered.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// How long the server wants to be left alone.
    pub(super) retry_after: Option<Duration>,
    pub(super) body: Bytes,
}

/// No answer, and why.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum Failure {
    #[error("no answer for {} seconds", .0.as_secs())]
    Silent(Duration),
    #[error("{0}")]
    Lost(String),
}

/// The way to the API server.
#[derive(Clone)]
pub(super) struct Api(Arc<Inner>);

struct Inner {
    clients: Mutex<Clients>,
    gate: Gate,
    kubeconfig: Option<PathBuf>,
}

#[derive(Clone)]
struct Clients {
    open: kube::Client,
    /// Its connections write while the gate is open.
    guarded: kube::Client,
    read: Moment,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").field("kubeconfig", &self.0.kubeconfig).finish_non_exhaustive()
    }
}

impl Clients {
    fn new(config: &kube::Config, gate: &Gate) -> Result<Self, ClusterError> {
        let gate = gate.clone();
        Ok(Self {
            open: cluster::client(config)?,
            guarded: cluster::client_over(config, |inner: HttpConnector| Guarded::new(inner, gate))?,
            read: Moment::now(),
        })
    }
}

impl Api {
    /// Nothing is asked yet. Connections live on the runtime that this is called on. `kubeconfig` is where `config` is from.
    pub(super) fn new(
        config: &kube::Config,
        kubeconfig: Option<PathBuf>,
        gate: Gate,
    ) -> Result<Self, ClusterError> {
        let clients = Mutex::new(Clients::new(config, &gate)?);
        Ok(Self(Arc::new(Inner { clients, gate, kubeconfig })))
    }

    /// Asks whether or not we lead.
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        payload: Payload,
        limit: Duration,
    ) -> Result<Answer, Failure> {
        let client = self.clients().open;
        self.send(&client, request(method, path, "application/json", payload)?, limit).await
    }

    /// Asks on connections that are silent when we do not lead.
    pub(super) async fn write(
        &self,
        method: Method,
        path: &str,
        payload: Payload,
        limit: Duration,
    ) -> Result<Answer, Failure> {
        let client = self.clients().guarded;
        self.send(&client, request(method, path, "application/json", payload)?, limit).await
    }

    /// `metadata.uid` of any object. `None` if there is none, or it may not be read.
    pub(super) async fn uid(&self, object: &ObjectRef, limit: Duration) -> Result<Option<Arc<str>>, Failure> {
        const METADATA: &str =
            "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1, application/json";
        #[derive(serde::Deserialize)]
        struct Object {
            metadata: Metadata,
        }
        #[derive(serde::Deserialize)]
        struct Metadata {
            uid: Arc<str>,
        }
        let Some(path) = object_path(object) else { return Ok(None) };
        let client = self.clients().open;
        let answer = self.send(&client, request(Method::GET, &path, METADATA, Payload::None)?, limit).await?;
        match answer.status {
            StatusCode::OK => {
                let object = serde_json::from_slice::<Object>(&answer.body);
                Ok(object.ok().map(|object| object.metadata.uid))
            }
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                Err(Failure::Lost(status.to_string()))
            }
            _ => Ok(None),
        }
    }

    /// Opens a watch, and returns when anything comes, or it ends, or `limit` is over.
    pub(super) async fn await_change(&self, path: &str, limit: Duration) -> Result<(), Failure> {
        let client = self.clients().open;
        let request = request(Method::GET, path, "application/json", Payload::None)?;
        let change = async {
            let answer = client.send(request).await.map_err(|error| Failure::Lost(cause(&error)))?;
            let (head, mut body) = answer.into_parts();
            if head.status != StatusCode::OK {
                return Err(Failure::Lost(head.status.to_string()));
            }
            match body.frame().await {
                Some(Err(error)) => Err(Failure::Lost(error.to_string())),
                Some(Ok(_)) | None => Ok(()),
            }
        };
        tokio::time::timeout(limit, change).await.unwrap_or(Ok(()))
    }

    fn clients(&self) -> Clients {
        self.0.clients.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn send(
        &self,
        client: &kube::Client,
        request: Request<Body>,
        limit: Duration,
    ) -> Result<Answer, Failure> {
        let exchange = async {
            let answer = client.send(request).await.map_err(|error| Failure::Lost(cause(&error)))?;
            let (head, mut body) = answer.into_parts();
            let mut bytes = BytesMut::new();
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| Failure::Lost(error.to_string()))?;
                if let Ok(data) = frame.into_data() {
                    if bytes.len() + data.len() > MAX_BODY {
                        return Err(Failure::Lost("the answer is too long".to_owned()));
                    }
                    bytes.extend_from_slice(&data);
                }
            }
            let seconds = head.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
            let retry_after = seconds.map(Duration::from_secs);
            Ok(Answer { status: head.status, retry_after, body: bytes.freeze() })
        };
        let answer = tokio::time::timeout(limit, exchange).await.unwrap_or(Err(Failure::Silent(limit)))?;
        if answer.status == StatusCode::UNAUTHORIZED {
            self.reload().await;
        }
        Ok(answer)
    }

    /// Reads configuration and credentials again, unless that was done just now.
    async fn reload(&self) {
        {
            let mut clients = self.0.clients.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Moment::now();
            if now.since(clients.read) < RELOAD_INTERVAL {
                return;
            }
            clients.read = now;
        }
        let config = cluster::configuration(self.0.kubeconfig.as_deref()).await;
        match config.and_then(|config| Clients::new(&config, &self.0.gate)) {
            Ok(new) => *self.0.clients.lock().unwrap_or_else(PoisonError::into_inner) = new,
            Err(error) => tracing::debug!(%error, "the API server's configuration cannot be read again"),
        }
    }
}

impl Answer {
    /// What the server says about an error.
    pub(super) fn message(&self) -> String {
        #[derive(serde::Deserialize)]
        struct Status {
            message: String,
        }
        let status = serde_json::from_slice::<Status>(&self.body);
        let text = status.map_or_else(|_| self.status.to_string(), |status| status.message);
        text.chars().take(300).collect()
    }
}

fn request(method: Method, path: &str, accept: &str, payload: Payload) -> Result<Request<Body>, Failure> {
    let builder = Request::builder().method(method).uri(path).header(ACCEPT, accept);
    let request = match payload {
        Payload::None => builder.body(Body::empty()),
        Payload::Object(text) => {
            builder.header(CONTENT_TYPE, "application/json").body(Body::from(text.into_bytes()))
        }
        Payload::MergePatch(text) => {
            builder.header(CONTENT_TYPE, "application/merge-patch+json").body(Body::from(text.into_bytes()))
        }
    };
    request.map_err(|error| Failure::Lost(error.to_string()))
}

/// The innermost cause, which says most.
fn cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// Escapes a part of a path or query.
pub(super) fn escape(part: &str) -> String {
    let mut out = String::with_capacity(part.len());
    for byte in part.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// `apiVersion` and plural of a kind that an API server knows.
pub(super) fn resource(kind: Kind) -> Option<(&'static str, &'static str)> {
    match kind {
        Kind::Ingress => Some(("networking.k8s.io/v1", "ingresses")),
        Kind::IngressClass => Some(("networking.k8s.io/v1", "ingressclasses")),
        Kind::Service => Some(("v1", "services")),
        Kind::EndpointSlice => Some(("discovery.k8s.io/v1", "endpointslices")),
        Kind::Secret => Some(("v1", "secrets")),
        Kind::ConfigMap => Some(("v1", "configmaps")),
        Kind::Namespace
        | Kind::AddressPool
        | Kind::IPAddressPool
        | Kind::L2Advertisement
        | Kind::Node
        | Kind::ServiceCIDR
        | Kind::Config
        | Kind::Listener
        | Kind::Route
        | Kind::Backend
        | Kind::File => None,
    }
}

/// Where `object` is read. `None` if an API server does not know its kind, or it has no name.
pub(super) fn object_path(object: &ObjectRef) -> Option<String> {
    let (version, plural) = resource(object.kind)?;
    let root = if version == "v1" { "/api/v1".to_owned() } else { format!("/apis/{version}") };
    let name = escape(&object.name);
    match (object.namespace.is_empty(), object.kind) {
        (true, Kind::IngressClass) => Some(format!("{root}/{plural}/{name}")),
        (true, _) => None,
        (false, _) => Some(format!("{root}/namespaces/{}/{plural}/{name}", escape(&object.namespace))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object_is_found_below_its_group_and_namespace() {
        let path = |kind, namespace: &str, name: &str| {
            object_path(&ObjectRef { kind, namespace: namespace.into(), name: name.into() })
        };
        assert_eq!(
            path(Kind::Ingress, "shop", "web").as_deref(),
            Some("/apis/networking.k8s.io/v1/namespaces/shop/ingresses/web")
        );
        assert_eq!(
            path(Kind::Service, "shop", "web").as_deref(),
            Some("/api/v1/namespaces/shop/services/web")
        );
        assert_eq!(
            path(Kind::IngressClass, "", "public").as_deref(),
            Some("/apis/networking.k8s.io/v1/ingressclasses/public")
        );
        assert_eq!(path(Kind::Backend, "", "a"), None);
        assert_eq!(path(Kind::Secret, "", "a"), None);
    }

    #[test]
    fn names_cannot_leave_their_place_in_a_path() {
        assert_eq!(escape("a/../b?c=d#e f%"), "a%2F..%2Fb%3Fc%3Dd%23e%20f%25");
    }
}
