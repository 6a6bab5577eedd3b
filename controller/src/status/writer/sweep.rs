//! Ingresses that labels choose no more, so that nobody tells of them: those that we wrote to are looked for once by
//! whoever begins to lead. Decides nothing on them.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::status::api::{Api, Failure, Payload, escape};
use crate::status::observed::Observed;

/// For one page.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Ingresses of one page.
const PAGE: usize = 100;

#[derive(Deserialize)]
struct List<'j> {
    metadata: Metadata,
    #[serde(borrow, default)]
    items: Vec<&'j RawValue>,
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(default, rename = "continue")]
    token: String,
}

/// All Ingresses of `namespaces`, or of all if there are none, whose entries `manager` wrote last.
pub(super) async fn written_by(
    api: &Api,
    namespaces: &[Arc<str>],
    manager: &str,
) -> Result<Vec<Observed>, Failure> {
    const ROOT: &str = "/apis/networking.k8s.io/v1";
    let of_one = |name: &Arc<str>| format!("{ROOT}/namespaces/{}/ingresses", escape(name));
    let mut paths: Vec<String> = namespaces.iter().map(of_one).collect();
    if paths.is_empty() {
        paths.push(format!("{ROOT}/ingresses"));
    }
    let mut found = Vec::new();
    for path in paths {
        let mut token = String::new();
        loop {
            let page = format!("{path}?limit={PAGE}&continue={}", escape(&token));
            let answer = api.ask(Method::GET, &page, Payload::None, TIMEOUT).await?;
            if answer.status != StatusCode::OK {
                return Err(Failure::Lost(answer.message()));
            }
            let list: List<'_> =
                serde_json::from_slice(&answer.body).map_err(|error| Failure::Lost(error.to_string()))?;
            let items = list.items.iter().filter_map(|item| Observed::from_json(item.get().as_bytes()));
            found.extend(items.filter(|observed| observed.writer.as_deref() == Some(manager)));
            token = list.metadata.token;
            if token.is_empty() {
                break;
            }
        }
    }
    Ok(found)
}
