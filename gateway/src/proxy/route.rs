//! From a request's host and path to a decision. Pure: one table, no I/O.

use std::net::SocketAddr;
use std::sync::Arc;

use config::table::{
    Action, Bind, HashKey, PathMatch, PathModifier, Redirect, RequestParts, Rule, Split, Unavailable,
};

use crate::http1::target::{canonical_path, merge_slashes};
use crate::live::{Live, LiveBackend};
use crate::record::Reason;

/// The Bind of `address` in this table.
pub(crate) fn bind(live: &Live, address: SocketAddr) -> Option<&Arc<Bind>> {
    live.table.binds.iter().find(|bind| bind.config.address == address)
}

/// The rule for `host` (lower-case, without port) and canonical `path`.
///
/// # Errors
/// `NoRoute`; or `BadRequest` when the path has empty segments and merging them would change the rule.
pub(crate) fn rule<'t>(
    bind: &'t Bind,
    host: &str,
    path: &str,
    request: &impl RequestParts,
    scratch: &mut Vec<u8>,
) -> Result<&'t Arc<Rule>, Reason> {
    let found = bind.hosts.route(host, path, request);
    if path.contains("//") {
        let merged = bind.hosts.route(host, merge_slashes(path, scratch), request);
        if found.map(Arc::as_ptr) != merged.map(Arc::as_ptr) {
            return Err(Reason::BadRequest);
        }
    }
    found.ok_or(Reason::NoRoute)
}

/// The backend that a Split gives this request. `random` is uniform over `u64`.
///
/// # Errors
/// The reason why this share cannot be served.
pub(crate) fn backend<'l>(
    live: &'l Live,
    split: &Split,
    random: u64,
) -> Result<&'l Arc<LiveBackend>, Reason> {
    let chosen = match split {
        Split::One(id) => Ok(*id),
        Split::Weighted(shares) => {
            let total: u64 = shares.iter().map(|share| u64::from(share.weight)).sum();
            let mut at = random.checked_rem(total).ok_or(Reason::NoEndpoint)?;
            let share = shares.iter().find(|share| match at.checked_sub(u64::from(share.weight)) {
                Some(rest) => {
                    at = rest;
                    false
                }
                None => true,
            });
            share.map_or(Err(Unavailable::BackendNotFound), |share| share.backend)
        }
    };
    let id = chosen.map_err(unavailable)?;
    live.backends.at(id.0).ok_or(Reason::BackendNotFound)
}

/// The reason code of a rule that cannot serve.
pub(crate) fn unavailable(why: Unavailable) -> Reason {
    match why {
        Unavailable::BackendNotFound => Reason::BackendNotFound,
        Unavailable::InvalidSetting => Reason::InvalidSetting,
    }
}

/// What `rule` does with a request that is not forwarded.
pub(crate) fn split(rule: &Rule) -> Result<&Split, Refusal<'_>> {
    match &rule.action {
        Action::Forward(split) => Ok(split),
        Action::Redirect(redirect) => Err(Refusal::Redirect(redirect)),
        Action::Unavailable(why) => Err(Refusal::Reason(unavailable(*why))),
    }
}

/// A request that the gateway answers itself.
#[derive(Debug)]
pub(crate) enum Refusal<'r> {
    /// With a redirect.
    Redirect(&'r Redirect),
    /// With a reason code.
    Reason(Reason),
}

/// Applies a path modifier to the canonical `path` under the rule's path condition; the result is canonical, and in
/// `out`. Both vectors are cleared first.
///
/// # Errors
/// `BadRequest` if the result would not be a valid path.
pub(crate) fn modified_path(
    modifier: &PathModifier,
    matched: &PathMatch,
    path: &str,
    out: &mut Vec<u8>,
    scratch: &mut Vec<u8>,
) -> Result<(), Reason> {
    let (start, rest) = match modifier {
        PathModifier::ReplaceFullPath(full) => (&**full, ""),
        PathModifier::ReplacePrefixMatch(replacement) => {
            let rest = match matched {
                PathMatch::Prefix(prefix) => path.strip_prefix(&**prefix).unwrap_or(path),
                PathMatch::Exact(_) | PathMatch::Regex(_) => "",
            };
            (replacement.trim_end_matches('/'), rest)
        }
    };
    out.clear();
    // A rewrite must never leave `//host` or an empty path behind.
    out.push(b'/');
    let start = start.trim_start_matches('/');
    out.extend_from_slice(start.as_bytes());
    let rest = if start.is_empty() { rest.trim_start_matches('/') } else { rest };
    out.extend_from_slice(rest.as_bytes());
    let written = out.as_ptr();
    let canonical = canonical_path(out, scratch).map_err(|_| Reason::BadRequest)?;
    // What is canonical already is where it was.
    if canonical.as_ptr() != written {
        std::mem::swap(out, scratch);
    }
    Ok(())
}

/// Hash of the request's key for a consistent-hash backend. Falls back to the client's address when the
/// request lacks the key.
pub(crate) fn hash(
    key: &HashKey,
    client: &[u8],
    uri: (&str, Option<&[u8]>),
    request: &impl RequestParts,
) -> u64 {
    use crate::balance::consistent_hash::{key_hash, key_hash_of};
    let mut found = None;
    match key {
        HashKey::SourceIp => {}
        HashKey::Header(name) => {
            request.any_header(name, &mut |value| {
                found = Some(key_hash(value));
                true
            });
        }
        HashKey::Cookie(name) => {
            request.any_header("cookie", &mut |value| {
                found = cookie(value, name.as_bytes()).map(key_hash);
                found.is_some()
            });
        }
        HashKey::Uri => {
            let path = uri.0.as_bytes();
            found = Some(uri.1.map_or_else(|| key_hash(path), |query| key_hash_of(&[path, b"?", query])));
        }
    }
    found.unwrap_or_else(|| key_hash(client))
}

/// The value of the first cookie called `name` in a `Cookie` field (RFC 6265 §5.4).
fn cookie<'v>(field: &'v [u8], name: &[u8]) -> Option<&'v [u8]> {
    field.split(|byte| *byte == b';').map(crate::http1::fields::trim).find_map(|pair| {
        let value = pair.strip_prefix(name)?.strip_prefix(b"=")?;
        Some(value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix_replaced(prefix: &str, replacement: &str, path: &str) -> String {
        let mut out = Vec::new();
        let modifier = PathModifier::ReplacePrefixMatch(replacement.into());
        let matched = PathMatch::Prefix(prefix.into());
        modified_path(&modifier, &matched, path, &mut out, &mut vec![b'x']).unwrap();
        String::from_utf8(out).unwrap()
    }

    /// The table in Gateway API's `HTTPPathModifier.replacePrefixMatch`.
    #[test]
    fn prefixes_are_replaced_as_gateway_api_tabulates() {
        let rows = [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
        ];
        for (path, prefix, replacement, expected) in rows {
            assert_eq!(prefix_replaced(prefix, replacement, path), expected, "{path} {prefix} {replacement}");
        }
    }

    #[test]
    fn a_rewrite_cannot_make_a_network_path_reference() {
        assert_eq!(prefix_replaced("/a", "", "/a//evil.example"), "/evil.example");
    }

    #[test]
    fn a_key_in_parts_hashes_as_the_whole() {
        use crate::balance::consistent_hash::{key_hash, key_hash_of};
        assert_eq!(key_hash_of(&[b"/a", b"?", b"b=1"]), key_hash(b"/a?b=1"));
    }

    #[test]
    fn cookies_are_found_by_exact_name() {
        assert_eq!(cookie(b"a=1; session=xyz; b=2", b"session"), Some(&b"xyz"[..]));
        assert_eq!(cookie(b"xsession=1", b"session"), None);
    }
}
