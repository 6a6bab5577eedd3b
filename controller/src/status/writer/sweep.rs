//! Ingresses and Services that labels choose no more, so that nobody tells of them: those that we wrote to are looked for once by
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
/// Objects of one page.
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

/// All Ingresses and Services of `namespaces`, or of all if there are none, whose entries `manager` wrote last.
pub(super) async fn written_by(
    api: &Api,
    namespaces: &[Arc<str>],
    manager: &str,
) -> Result<Vec<Observed>, Failure> {
    type Read = fn(&[u8]) -> Option<Observed>;
    const KINDS: [(&str, &str, Read); 2] = [
        ("/apis/networking.k8s.io/v1", "ingresses", Observed::from_json),
        ("/api/v1", "services", Observed::from_service),
    ];
    let mut paths = Vec::new();
    for (root, plural, read) in KINDS {
        let of_one = |name: &Arc<str>| format!("{root}/namespaces/{}/{plural}", escape(name));
        if namespaces.is_empty() {
            paths.push((format!("{root}/{plural}"), read));
        }
        paths.extend(namespaces.iter().map(|name| (of_one(name), read)));
    }
    let mut found = Vec::new();
    for (path, read) in paths {
        let mut token = String::new();
        loop {
            let page = format!("{path}?limit={PAGE}&continue={}", escape(&token));
            let answer = api.ask(Method::GET, &page, Payload::None, TIMEOUT).await?;
            if answer.status != StatusCode::OK {
                return Err(Failure::Lost(answer.message()));
            }
            let list: List<'_> =
                serde_json::from_slice(&answer.body).map_err(|error| Failure::Lost(error.to_string()))?;
            let items = list.items.iter().filter_map(|item| read(item.get().as_bytes()));
            found.extend(items.filter(|observed| observed.writer.as_deref() == Some(manager)));
            token = list.metadata.token;
            if token.is_empty() {
                break;
            }
        }
    }
    Ok(found)
}
