//! The query of `/debug/table`, parsed to a type.

use config::table::Hostname;

/// Rules shown when the query does not say.
const DEFAULT_LIMIT: usize = 1_000;
/// Most rules that may be asked for, so that an answer stays within some megabytes.
const MAX_LIMIT: usize = 10_000;

/// What to show of the table.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct TableQuery {
    /// Only the rules that would serve this host, or those filed under this wildcard.
    pub(super) host: Option<Hostname>,
    /// At most this many rules.
    pub(super) limit: usize,
}

/// A query that is not understood.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum QueryError {
    #[error("unknown parameter {0:?}: use host and limit")]
    UnknownParameter(String),
    #[error("limit must be a number from 1 to {MAX_LIMIT}")]
    Limit,
    #[error("host must be a host name, or a wildcard such as *.example.com")]
    Host,
}

impl TableQuery {
    pub(super) fn parse(query: &str) -> Result<Self, QueryError> {
        let mut parsed = Self { host: None, limit: DEFAULT_LIMIT };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = percent_decoded(value);
            match name {
                "host" => parsed.host = Some(hostname(value.as_deref().unwrap_or_default())?),
                "limit" => {
                    let limit = value.and_then(|value| value.parse().ok());
                    parsed.limit =
                        limit.filter(|limit| (1..=MAX_LIMIT).contains(limit)).ok_or(QueryError::Limit)?;
                }
                _ => return Err(QueryError::UnknownParameter(name.to_owned())),
            }
        }
        Ok(parsed)
    }
}

/// As the table files hosts: lower-case, without port and trailing dot.
fn hostname(text: &str) -> Result<Hostname, QueryError> {
    let text = text.to_ascii_lowercase();
    let (wildcard, name) = match text.strip_prefix('*') {
        Some(name) if name.starts_with('.') => (true, name),
        Some(_) => return Err(QueryError::Host),
        None => (false, text.as_str()),
    };
    let name = match name.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') && port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => name,
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    let plain = name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'*' && byte != b'/');
    if name.is_empty() || !plain || (!wildcard && name.starts_with('.')) {
        return Err(QueryError::Host);
    }
    Ok(if wildcard { Hostname::Wildcard(name.into()) } else { Hostname::Exact(name.into()) })
}

/// `%XX` decoded; `None` if that is not UTF-8 or an escape is malformed.
fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
        if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = tail.get(2..)?;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_query_shows_the_first_thousand_rules() {
        assert_eq!(TableQuery::parse(""), Ok(TableQuery { host: None, limit: 1_000 }));
    }

    #[test]
    fn a_host_is_taken_as_the_table_files_it() {
        let host = |query: &str| TableQuery::parse(query).map(|query| query.host);
        assert_eq!(host("host=Shop.Example.com.:8080"), Ok(Some(Hostname::Exact("shop.example.com".into()))));
        assert_eq!(host("host=shop.example.com."), Ok(Some(Hostname::Exact("shop.example.com".into()))));
        assert_eq!(host("host=%2A.Example.com&limit=5"), Ok(Some(Hostname::Wildcard(".example.com".into()))));
        assert_eq!(host("host=[::1]:80"), Ok(Some(Hostname::Exact("[::1]".into()))));
        assert_eq!(host("host=[::1]"), Ok(Some(Hostname::Exact("[::1]".into()))));
        for bad in ["host=", "host=*", "host=.", "host=.a", "host=a/b", "host=a%00", "host=%zz", "host=*.*.a"]
        {
            assert_eq!(host(bad), Err(QueryError::Host), "{bad}");
        }
    }

    #[test]
    fn a_limit_outside_its_range_is_refused() {
        assert_eq!(TableQuery::parse("limit=10000").map(|query| query.limit), Ok(10_000));
        for bad in ["limit=0", "limit=10001", "limit=-1", "limit=x", "limit="] {
            assert_eq!(TableQuery::parse(bad), Err(QueryError::Limit), "{bad}");
        }
    }

    #[test]
    fn a_misspelt_parameter_is_named() {
        assert_eq!(TableQuery::parse("hots=a"), Err(QueryError::UnknownParameter("hots".to_owned())));
    }
}
