//! Small grammars that users write: hostnames, paths, names, durations, header names and values. Each turns
//! text into the table's type or says what is wrong with it.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::table::Hostname;

/// Longest path that a rule may have.
const MAX_PATH: usize = 4_096;
/// Longest duration that a setting may have.
const MAX_DURATION: Duration = Duration::from_secs(7 * 24 * 3_600);

/// A host as Ingress writes it: empty for any, `*.` for a wildcard.
pub(crate) fn hostname(text: &str) -> Result<Hostname, String> {
    if text.is_empty() {
        return Ok(Hostname::Any);
    }
    if text == "*" {
        return Err("`*` is not a host: leave the host out to match every host".to_owned());
    }
    if text.parse::<IpAddr>().is_ok() {
        return Err(format!("`{text}` is an IP address; a host must be a DNS name, or be left out"));
    }
    if let Some((_, port)) = text.rsplit_once(':')
        && port.bytes().all(|byte| byte.is_ascii_digit())
    {
        return Err(format!("`{text}` has a port; a host matches every port, so leave `:{port}` out"));
    }
    let lower = text.to_ascii_lowercase();
    let (wildcard, name) = match lower.strip_prefix("*.") {
        Some(rest) => (true, rest),
        None => (false, &*lower),
    };
    if name.contains('*') {
        return Err(format!("`{text}`: a wildcard must be the whole first label, as in `*.example.com`"));
    }
    dns_subdomain(name).map_err(|why| format!("`{text}` is not a host name: {why}"))?;
    Ok(if wildcard { Hostname::Wildcard(format!(".{name}").into()) } else { Hostname::Exact(name.into()) })
}

/// RFC 1123 subdomain: labels of lower-case letters, digits and inner hyphens, 253 bytes in all.
pub(crate) fn dns_subdomain(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("it is empty");
    }
    if name.len() > 253 {
        return Err("it is longer than 253 characters");
    }
    name.split('.').try_for_each(dns_label)
}

/// Name of a Kubernetes object: as [`dns_subdomain`], but a label may be as long as the whole.
pub(crate) fn object_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("it is empty");
    }
    if name.len() > 253 {
        return Err("it is longer than 253 characters");
    }
    name.split('.').try_for_each(label_characters)
}

/// RFC 1123 label.
pub(crate) fn dns_label(label: &str) -> Result<(), &'static str> {
    if label.len() > 63 {
        return Err("a label is longer than 63 characters");
    }
    label_characters(label)
}

fn label_characters(label: &str) -> Result<(), &'static str> {
    if label.is_empty() {
        return Err("a label between dots is empty");
    }
    if !label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-') {
        return Err("only lower-case letters, digits, `-` and `.` are allowed");
    }
    if label.starts_with('-') || label.ends_with('-') {
        return Err("a label starts or ends with `-`");
    }
    Ok(())
}

/// A rule's path in the canonical form that requests are matched in: unreserved characters percent-decoded,
/// hex in upper case, what is not allowed in a URI encoded.
pub(crate) fn path(text: &str) -> Result<Arc<str>, String> {
    if !text.starts_with('/') {
        return Err(format!("path `{text}` must start with `/`"));
    }
    if text.len() > MAX_PATH {
        return Err(format!("path is longer than {MAX_PATH} bytes"));
    }
    if let Some(bad) = text.chars().find(|c| c.is_control() || matches!(c, '?' | '#' | '\\')) {
        return Err(format!("path `{}` has a {bad:?}; it must not", text.escape_debug()));
    }
    let canonical = canonical(text)?;
    for segment in canonical.split('/') {
        if matches!(segment, "." | "..") {
            return Err(format!(
                "path `{text}` has the segment `{segment}`; requests never do, write it out"
            ));
        }
    }
    if canonical.contains("//") {
        return Err(format!("path `{text}` has an empty segment (`//`)"));
    }
    Ok(canonical.into())
}

fn canonical(text: &str) -> Result<Cow<'_, str>, String> {
    let plain = |byte: u8| {
        byte.is_ascii_graphic()
            && !matches!(byte, b'%' | b'"' | b'<' | b'>' | b'`' | b'{' | b'}' | b'^' | b'|')
    };
    if text.bytes().all(plain) {
        return Ok(Cow::Borrowed(text));
    }
    let mut out = String::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let decoded = if byte == b'%' {
            let pair = (bytes.next().and_then(hex), bytes.next().and_then(hex));
            let (Some(high), Some(low)) = pair else {
                return Err(format!("path `{text}` has a `%` that is not followed by two hex digits"));
            };
            match high << 4 | low {
                0 => return Err(format!("path `{text}` has a NUL (`%00`)")),
                b'/' | b'\\' => {
                    return Err(format!("path `{text}` has an encoded slash; requests with one are refused"));
                }
                value => Some(value),
            }
        } else {
            None
        };
        let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
        match decoded {
            Some(value) if unreserved(value) => out.push(char::from(value)),
            Some(value) => out.push_str(&format!("%{value:02X}")),
            None if plain(byte) => out.push(char::from(byte)),
            None => out.push_str(&format!("%{byte:02X}")),
        }
    }
    Ok(Cow::Owned(out))
}

fn hex(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// `10s`, `500ms`, `1h 30m`; `0` (or `0s`) where zero means off. At most seven days.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    if text.trim() == "0" {
        return Ok(Duration::ZERO);
    }
    let wanted = "write a number with a unit, as in `10s` or `500ms`";
    let value = humantime::parse_duration(text.trim())
        .map_err(|_| format!("`{text}` is not a duration; {wanted}"))?;
    if value > MAX_DURATION {
        return Err(format!("`{text}` is longer than seven days"));
    }
    if !value.is_zero() && value < Duration::from_millis(1) {
        return Err(format!("`{text}` is shorter than a millisecond"));
    }
    Ok(value)
}

/// Whether a text is the name of a gRPC service; an empty one stands for the whole server.
pub(crate) fn is_grpc_service(text: &str) -> bool {
    text.len() <= 256 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte))
}

/// RFC 9110 §5.6.2 token.
pub(crate) fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// RFC 9110 §5.5 field value: visible characters, spaces and tabs inside, nothing that ends a line.
pub(crate) fn is_field_value(text: &str) -> bool {
    text.trim_matches([' ', '\t']) == text
        && text.bytes().all(|byte| byte == b'\t' || (byte >= 0x20 && byte != 0x7f))
}

/// Seconds since 1970 of an RFC 3339 time.
pub(crate) fn timestamp(text: &str) -> Option<i64> {
    text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_become_exact_wildcard_or_any() {
        assert_eq!(hostname(""), Ok(Hostname::Any));
        assert_eq!(hostname("Shop.Example.com"), Ok(Hostname::Exact("shop.example.com".into())));
        assert_eq!(hostname("*.example.com"), Ok(Hostname::Wildcard(".example.com".into())));
        for bad in [
            "*",
            "*.*.com",
            "a*.com",
            "*.",
            "foo.*.com",
            "10.0.0.1",
            "::1",
            "a.com:80",
            "a..b",
            "a.com.",
            "-a.com",
            "a_b.com",
            "ü.de",
            "a b",
        ] {
            assert!(hostname(bad).is_err(), "{bad}");
        }
        assert!(hostname(&"a".repeat(64)).is_err());
    }

    #[test]
    fn paths_are_brought_to_the_form_that_requests_have() {
        let ok = |text| path(text).map(|path| path.to_string());
        assert_eq!(ok("/"), Ok("/".to_owned()));
        assert_eq!(ok("/a%62/%c3%bc"), Ok("/ab/%C3%BC".to_owned()));
        assert_eq!(ok("/ü x"), Ok("/%C3%BC%20x".to_owned()));
        for bad in [
            "",
            "a",
            "/a//b",
            "/a/../b",
            "/.",
            "/a%2fb",
            "/%00",
            "/%zz",
            "/%4",
            "/a?b",
            "/a#b",
            "/a\\b",
            "/a\nb",
            "/%2e%2e/x",
        ] {
            assert!(path(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_need_a_unit_and_a_bound() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1h 30m"), Ok(Duration::from_secs(5_400)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        for bad in ["", "10", "-1s", "ten seconds", "8days", "1ns", "1.5.s", "99999999999999999999s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn field_values_cannot_smuggle_a_line() {
        assert!(is_field_value("text/html; q=1"));
        assert!(is_field_value(""));
        for bad in ["a\r\nb", "a\nb", " a", "a\0", "a\u{7f}"] {
            assert!(!is_field_value(bad), "{bad:?}");
        }
        assert!(is_token("X-Real-IP") && !is_token("a b") && !is_token("") && !is_token("ü"));
    }
}
