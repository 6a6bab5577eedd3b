//! The pages of the admin port.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderValue, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS,
};
use hyper::http::uri::Authority;
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::query::TableQuery;
use super::{AdminState, Phase, debug_table};
use crate::metrics;

/// Answers of `/metrics` and `/debug/table` that may be made or on their way at one time. It bounds the
/// memory that slow readers can hold; probes need none of it.
pub(super) const MAX_RENDERS: usize = 4;

/// How long a request waits for its turn before 503.
const RENDER_WAIT: Duration = Duration::from_secs(5);

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

const NOT_OURS: &str = "\
this port is for its own host only and has no name but localhost: ask for it by its address or as localhost
";

const INDEX: &str = "\
sluicegate admin port (read-only)

/livez         200 while the process runs
/readyz        200 when traffic may be sent here, else 503 with what it waits for
/metrics       Prometheus text format
/debug/table   the route table as served, as JSON; ?host=NAME for one host, ?limit=N rules (default 1000)
";

/// The state with the turnstile for large answers.
pub(super) struct Admission {
    pub(super) state: Arc<AdminState>,
    pub(super) renders: Arc<Semaphore>,
    /// Only this host can connect.
    pub(super) is_loopback: bool,
}

/// The bytes of a large answer, with its place in the turnstile until the last of them is sent.
struct Held {
    text: String,
    _turn: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

pub(super) async fn respond<B>(admission: Arc<Admission>, request: &Request<B>) -> Response<Full<Bytes>> {
    if admission.is_loopback && !is_local(request) {
        return page(StatusCode::MISDIRECTED_REQUEST, TEXT, NOT_OURS);
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut refused = page(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n");
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    let query = request.uri().query().unwrap_or_default();
    match request.uri().path() {
        "/" => page(StatusCode::OK, TEXT, INDEX),
        "/livez" => page(StatusCode::OK, TEXT, "ok\n"),
        "/readyz" => ready(&admission.state),
        "/metrics" => rendered(admission, metrics::CONTENT_TYPE, render_metrics).await,
        "/debug/table" => match TableQuery::parse(query) {
            Ok(query) => rendered(admission, JSON, move |state| debug_table::render(state, &query)).await,
            Err(error) => page(StatusCode::BAD_REQUEST, TEXT, format!("{error}\n")),
        },
        _ => page(StatusCode::NOT_FOUND, TEXT, INDEX),
    }
}

/// Whether whoever asks means this host. A browser that asks for another name has been sent here by whoever owns that
/// name (DNS rebinding), and would let the pages of that site read the answer.
fn is_local<B>(request: &Request<B>) -> bool {
    let mut fields = request.headers().get_all(HOST).iter();
    let (first, second) = (fields.next(), fields.next());
    let authority = request.uri().authority().map(Authority::as_str);
    // Without any, which HTTP/1.0 allows, it is no browser.
    let is_fine = |field: &HeaderValue| field.to_str().is_ok_and(names_this_host);
    second.is_none() && first.is_none_or(is_fine) && authority.is_none_or(names_this_host)
}

/// Whether `authority` is an IP address or `localhost`, with a port or without.
fn names_this_host(authority: &str) -> bool {
    let is_port = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if let Some((inner, port)) = authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        let is_port = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        return is_port && inner.parse::<Ipv6Addr>().is_ok();
    }
    let host = match authority.split_once(':') {
        Some((host, port)) if is_port(port) => host,
        Some(_) => return false,
        None => authority,
    };
    host.is_empty() || host.eq_ignore_ascii_case("localhost") || host.parse::<Ipv4Addr>().is_ok()
}

fn ready(state: &AdminState) -> Response<Full<Bytes>> {
    let (status, phase) = match state.readiness.phase() {
        Phase::Draining => {
            let text = "draining: open requests are being finished, new ones should go elsewhere";
            return page(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{text}\n"));
        }
        _ if !state.shared.ready() => {
            (StatusCode::SERVICE_UNAVAILABLE, "starting: waiting for the first table")
        }
        Phase::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting: waiting for the listening sockets"),
        Phase::Ready => (StatusCode::OK, "ok"),
    };
    let mut text = format!("{phase}\n");
    for remark in (state.remarks)() {
        text.push_str(&remark);
        text.push('\n');
    }
    page(status, TEXT, text)
}

fn render_metrics(state: &AdminState) -> String {
    let mut out = String::with_capacity(64 * 1024);
    let live = state.shared.load();
    state.registry.render(Some(&live), &mut out);
    (state.extra_metrics)(&mut out);
    out
}

/// Makes a large answer on a thread that may block: a table of 100,000 routes takes long enough to delay
/// what else this runtime does.
async fn rendered(
    admission: Arc<Admission>,
    content_type: &'static str,
    render: impl FnOnce(&AdminState) -> String + Send + 'static,
) -> Response<Full<Bytes>> {
    let turn = Arc::clone(&admission.renders).acquire_owned();
    let Ok(Ok(turn)) = tokio::time::timeout(RENDER_WAIT, turn).await else {
        let mut busy =
            page(StatusCode::SERVICE_UNAVAILABLE, TEXT, "too many large answers are on their way\n");
        busy.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("5"));
        return busy;
    };
    // The turn goes along, so that an aborted connection does not make room before the work is done.
    let work = tokio::task::spawn_blocking(move || Held { text: render(&admission.state), _turn: turn });
    match work.await {
        Ok(held) => page(StatusCode::OK, content_type, Bytes::from_owner(held)),
        Err(error) => {
            tracing::error!(%error, "admin page failed");
            page(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "the page could not be made; see the log\n")
        }
    }
}

fn page(status: StatusCode, content_type: &'static str, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
