//! Lists: which version is asked for, page by page, and how it is written. Never changes anything.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::error::{Cause, Failure};
use crate::kinds::Kind;
use crate::query::{Query, Selector};
use crate::shape;
use crate::state::State;
use crate::store::{Forgotten, Object};

/// One page of a list.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) objects: Vec<Arc<Object>>,
    pub(crate) version: u64,
    pub(crate) go_on: Option<String>,
    pub(crate) remaining: Option<usize>,
}

/// Which version a list shows.
enum At {
    Latest,
    NotOlderThan(u64),
    Exact(u64),
}

/// Reads a page.
pub(crate) fn read(
    state: &State,
    kind: &Kind,
    namespace: Option<&str>,
    query: &Query,
    selector: &Selector,
    stale: Option<u64>,
) -> Result<Page, Failure> {
    let limit = query.number("limit")?.unwrap_or(0);
    query.number("timeoutSeconds")?;
    // "Any version" comes from the cache, which knows no pages.
    let limit = if query.version()? == Some(0) { 0 } else { limit };
    let mut after = None;
    let at = if let Some(token) = query.text("continue") {
        let (version, start) = parse_token(token)?;
        if query.text("resourceVersion").is_some_and(|version| version != "0") {
            return Err(Failure::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        after = Some(start);
        version.map_or(At::Latest, At::Exact)
    } else {
        asked(query, limit)?
    };
    let store = state.store();
    let oldest = store.oldest(&kind.storage);
    // A cache that stands still answers what need not be the latest.
    let cached = stale.map_or_else(|| store.version(), |version| version.max(oldest).min(store.version()));
    let version = match at {
        At::Latest => store.version(),
        At::NotOlderThan(version) if version > cached => {
            return Err(Failure::too_large_version(version, cached));
        }
        At::Exact(version) if version > store.version() => {
            return Err(Failure::too_large_version(version, store.version()));
        }
        At::NotOlderThan(_) => cached,
        At::Exact(version) => version,
    };
    let mut objects =
        store.list(&kind.storage, namespace, after.as_deref(), version).map_err(|Forgotten { .. }| {
            match &after {
                Some(start) => expired_token(start),
                None => Failure::expired(format!(
                    "The resourceVersion for the provided list is too old ({version} < {oldest})"
                )),
            }
        })?;
    drop(store);
    let everything = selector.is_everything();
    if !everything {
        objects.retain(|object| selector.selects(object));
    }
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    if limit == 0 || objects.len() <= limit {
        return Ok(Page { objects, version, go_on: None, remaining: None });
    }
    let remaining = everything.then_some(objects.len() - limit);
    objects.truncate(limit);
    let go_on = objects.last().map(|last| token(Some(version), &last.key));
    Ok(Page { objects, version, go_on, remaining })
}

fn asked(query: &Query, limit: u64) -> Result<At, Failure> {
    let version = query.version()?;
    let field = "resourceVersionMatch";
    let wrong = |cause| Err(invalid_options(&[cause]));
    if query.flag("sendInitialEvents").is_some() {
        return wrong(Cause::forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list"));
    }
    match (query.text(field), version) {
        (None, None) => Ok(At::Latest),
        (None, Some(0)) => Ok(At::NotOlderThan(0)),
        // A page of the version named, as before there was resourceVersionMatch.
        (None, Some(version)) if limit > 0 => Ok(At::Exact(version)),
        (None | Some("NotOlderThan"), Some(version)) => Ok(At::NotOlderThan(version)),
        (Some("Exact"), Some(0)) => wrong(Cause::forbidden(
            field,
            "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
        )),
        (Some("Exact"), Some(version)) => Ok(At::Exact(version)),
        (Some(_), None) => wrong(Cause::forbidden(
            field,
            "resourceVersionMatch is forbidden unless resourceVersion is provided",
        )),
        (Some(other), Some(_)) => wrong(Cause::unsupported(field, other, &["Exact", "NotOlderThan", ""])),
    }
}

/// 422 for parameters that do not go together.
pub(crate) fn invalid_options(causes: &[Cause]) -> Failure {
    Failure::invalid_options("ListOptions", causes)
}

fn token(version: Option<u64>, start: &str) -> String {
    let version = version.map_or(-1, |version| i64::try_from(version).unwrap_or(i64::MAX));
    URL_SAFE_NO_PAD.encode(json!({"v": "meta.k8s.io/v1", "rv": version, "start": start}).to_string())
}

fn parse_token(token: &str) -> Result<(Option<u64>, String), Failure> {
    let wrong =
        || Failure::bad_request("continue key is not valid: encoding is not a version meta.k8s.io/v1");
    let bytes = URL_SAFE_NO_PAD.decode(token.trim_end_matches('=')).map_err(|_| wrong())?;
    let value: Value = serde_json::from_slice(&bytes).map_err(|_| wrong())?;
    let start = value.get("start").and_then(Value::as_str).ok_or_else(wrong)?;
    let version = value.get("rv").and_then(Value::as_i64).ok_or_else(wrong)?;
    Ok((u64::try_from(version).ok(), start.to_owned()))
}

fn expired_token(start: &str) -> Failure {
    let message = "The provided continue parameter is too old to display a consistent list result. You can start a \
                   new list without the continue parameter, or use the continue token in this response to retrieve \
                   the remainder of the results. Continuing with the provided token results in an inconsistent list \
                   - objects that were created, modified, or deleted between the time the first chunk was returned \
                   and now may show up in the list.";
    Failure { go_on: Some(token(None, start)), ..Failure::expired(message) }
}

impl Page {
    /// `metadata` of the list.
    pub(crate) fn metadata(&self, says_no_more: bool) -> Value {
        let mut metadata = json!({"resourceVersion": self.version.to_string()});
        let token = self.go_on.as_deref();
        // Lists of custom resources say that there is no more; others do not say anything.
        if let Some(token) = token.or_else(|| says_no_more.then_some("")) {
            shape::put(&mut metadata, "continue", Some(token.into()));
        }
        if let Some(remaining) = self.remaining {
            shape::put(&mut metadata, "remainingItemCount", Some(remaining.into()));
        }
        metadata
    }
}
