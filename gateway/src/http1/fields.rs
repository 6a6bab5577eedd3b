//! What a header field means to a proxy: classification by name, in one place for requests and responses.
//!
//! Names are compared case-insensitively. Names in which `_` or `.` stands for `-` are treated as aliases of
//! the managed names and dropped, because some servers read them as equal.

/// What the proxy does with a field.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Name {
    /// Forwarded unchanged.
    Other,
    /// RFC 9112 §3.2.
    Host,
    /// RFC 9112 §6.2.
    ContentLength,
    /// RFC 9112 §6.1.
    TransferEncoding,
    /// RFC 9110 §7.6.1.
    Connection,
    /// RFC 9110 §10.1.1.
    Expect,
    /// RFC 9110 §7.8.
    Upgrade,
    /// RFC 9110 §10.1.4.
    Te,
    /// RFC 9110 §6.6.2.
    Trailer,
    /// Hop-by-hop and others that a proxy always removes.
    HopByHop,
    /// `X-Forwarded-For`: appended to for trusted peers, replaced otherwise.
    ForwardedFor,
    /// `X-Forwarded-Proto`.
    ForwardedProto,
    /// `X-Forwarded-Host`.
    ForwardedHost,
    /// `X-Forwarded-Port`.
    ForwardedPort,
    /// `X-Real-IP`: always ours.
    RealIp,
    /// `X-Request-ID`.
    RequestId,
    /// Identity and rewriting fields that only a trusted peer may send.
    ForwardingIdentity,
    /// What tells of a client's certificate: always ours, whoever sends it.
    ClientCertificate,
    /// `CDN-Loop` (RFC 8586): passes whatever is configured, with our entry behind it.
    CdnLoop,
    /// An alias (`_` or `.` for `-`) of a managed name: dropped.
    Alias,
    /// Logged.
    UserAgent,
    /// Logged.
    Referer,
    /// `Sec-WebSocket-Key`.
    WebSocketKey,
    /// `Sec-WebSocket-Version`.
    WebSocketVersion,
    /// `Sec-WebSocket-Accept`.
    WebSocketAccept,
    /// `Keep-Alive`: hop-by-hop, but its timeout is honoured on upstream connections.
    KeepAlive,
    /// `Content-Type`: tells calls of gRPC.
    ContentType,
    /// `grpc-timeout`: the client's deadline.
    GrpcTimeout,
    /// `Idempotency-Key`: makes any method safe to repeat.
    IdempotencyKey,
}

/// Managed names, by length.
const MANAGED: &[(&str, Name)] = &[
    ("te", Name::Te),
    ("host", Name::Host),
    ("expect", Name::Expect),
    ("alt-svc", Name::HopByHop),
    ("upgrade", Name::Upgrade),
    ("trailer", Name::Trailer),
    ("referer", Name::Referer),
    ("cdn-loop", Name::CdnLoop),
    ("forwarded", Name::ForwardingIdentity),
    ("x-real-ip", Name::RealIp),
    ("connection", Name::Connection),
    ("keep-alive", Name::KeepAlive),
    ("user-agent", Name::UserAgent),
    ("client-cert", Name::ClientCertificate),
    ("x-request-id", Name::RequestId),
    ("content-type", Name::ContentType),
    ("grpc-timeout", Name::GrpcTimeout),
    ("x-rewrite-url", Name::ForwardingIdentity),
    ("x-client-cert", Name::ClientCertificate),
    ("x-original-url", Name::ForwardingIdentity),
    ("http2-settings", Name::HopByHop),
    ("content-length", Name::ContentLength),
    ("x-forwarded-for", Name::ForwardedFor),
    ("ssl-client-cert", Name::ClientCertificate),
    ("idempotency-key", Name::IdempotencyKey),
    ("x-forwarded-host", Name::ForwardedHost),
    ("x-forwarded-port", Name::ForwardedPort),
    ("proxy-connection", Name::HopByHop),
    ("x-forwarded-proto", Name::ForwardedProto),
    ("transfer-encoding", Name::TransferEncoding),
    ("sec-websocket-key", Name::WebSocketKey),
    ("client-cert-chain", Name::ClientCertificate),
    ("ssl-client-verify", Name::ClientCertificate),
    ("x-client-cert-san", Name::ClientCertificate),
    ("proxy-authenticate", Name::HopByHop),
    ("x-forwarded-prefix", Name::ForwardingIdentity),
    ("x-forwarded-server", Name::ForwardingIdentity),
    ("x-forwarded-scheme", Name::ForwardingIdentity),
    ("proxy-authorization", Name::HopByHop),
    ("sec-websocket-accept", Name::WebSocketAccept),
    ("ssl-client-issuer-dn", Name::ClientCertificate),
    ("x-client-cert-issuer", Name::ClientCertificate),
    ("sec-websocket-version", Name::WebSocketVersion),
    ("ssl-client-subject-dn", Name::ClientCertificate),
    ("x-client-cert-subject", Name::ClientCertificate),
    ("x-client-cert-verified", Name::ClientCertificate),
    ("x-forwarded-client-cert", Name::ForwardingIdentity),
    ("x-client-cert-fingerprint", Name::ClientCertificate),
];

const LONGEST: usize = 25;

/// length → range in `MANAGED`, so that a name is compared with at most a handful of candidates.
#[expect(clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "evaluated at compile time")]
const fn ranges() -> [(u8, u8); LONGEST + 1] {
    let mut out = [(0u8, 0u8); LONGEST + 1];
    let mut at = 0;
    while at < MANAGED.len() {
        let length = MANAGED[at].0.len();
        if out[length].1 == 0 {
            out[length].0 = at as u8;
        }
        out[length].1 = at as u8 + 1;
        at += 1;
    }
    out
}

static RANGES: [(u8, u8); LONGEST + 1] = ranges();

/// The meaning of a field name (a token).
#[inline]
pub(crate) fn classify(name: &[u8]) -> Name {
    let Some(first) = name.first().map(|byte| byte | 0x20) else { return Name::Other };
    // `x-envoy-*` is read by an Envoy behind us as instructions.
    if first == b'x' && name.get(..8).is_some_and(|prefix| is(prefix, b"x-envoy-")) && name.len() > 8 {
        return Name::ForwardingIdentity;
    }
    let Some((from, to)) = RANGES.get(name.len()) else { return Name::Other };
    let candidates = MANAGED.get(usize::from(*from)..usize::from(*to)).unwrap_or_default();
    let mut may_be_alias = false;
    for (known, meaning) in candidates {
        if known.as_bytes().first() == Some(&first) {
            if is(name, known.as_bytes()) {
                return *meaning;
            }
            may_be_alias = true;
        }
    }
    if may_be_alias && memchr::memchr2(b'_', b'.', name).is_some() {
        classify_alias(name, candidates)
    } else {
        Name::Other
    }
}

/// Whether the token `name` is `known` (letters in lower case, digits and `-` only, of the same length) in any
/// case. Setting bit 5 maps no other token byte to one of these.
#[inline]
fn is(name: &[u8], known: &[u8]) -> bool {
    name.iter().zip(known).fold(0, |difference, (byte, known)| difference | ((byte | 0x20) ^ known)) == 0
}

#[cold]
fn classify_alias(name: &[u8], candidates: &[(&str, Name)]) -> Name {
    let plain = |byte: &u8| if matches!(byte, b'_' | b'.') { b'-' } else { byte.to_ascii_lowercase() };
    let managed = candidates.iter().any(|(known, _)| known.bytes().eq(name.iter().map(plain)));
    if managed { Name::Alias } else { Name::Other }
}

/// Fields that a `Connection` option must never name, because stripping them would change who the request
/// seems to be from or where it goes (CVE-2022-31813, CVE-2024-45410), or hide that it goes round.
pub(crate) fn is_protected(option: &[u8]) -> bool {
    const PROTECTED: [&str; 13] = [
        "host",
        "authorization",
        "cookie",
        "content-length",
        "transfer-encoding",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-forwarded-port",
        "x-real-ip",
        "x-request-id",
        "forwarded",
        "cdn-loop",
    ];
    PROTECTED.iter().any(|name| name.as_bytes().eq_ignore_ascii_case(option))
}

/// Whether `byte` may stand in a token (RFC 9110 §5.6.2).
#[inline]
pub(crate) const fn is_token_byte(byte: u8) -> bool {
    matches!(byte,
        b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z')
}

/// Whether `text` is a token.
pub(crate) fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| is_token_byte(*byte))
}

/// The elements of a comma-separated list without surrounding whitespace; empty elements are yielded as such.
pub(crate) fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(trim)
}

/// `text` without leading and trailing SP and HTAB.
pub(crate) fn trim(text: &[u8]) -> &[u8] {
    let is_ows = |byte: &u8| matches!(byte, b' ' | b'\t');
    let Some(from) = text.iter().position(|byte| !is_ows(byte)) else { return &[] };
    let to = text.iter().rposition(|byte| !is_ows(byte)).map_or(from, |last| last + 1);
    text.get(from..to).unwrap_or_default()
}

/// A line without its trailing CR.
pub(crate) fn trim_line(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Parses a decimal that consists of digits only; `None` if it does not fit or has any other byte.
pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |value, byte| {
        if !byte.is_ascii_digit() {
            return None;
        }
        value.checked_mul(10)?.checked_add(u64::from(byte - b'0'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_by_length() {
        assert!(MANAGED.windows(2).all(|pair| pair[0].0.len() <= pair[1].0.len()));
        assert_eq!(MANAGED.last().map(|(name, _)| name.len()), Some(LONGEST));
    }

    #[test]
    fn every_managed_name_is_found_in_any_case() {
        for (name, meaning) in MANAGED {
            assert_eq!(classify(name.as_bytes()), *meaning, "{name}");
            assert_eq!(classify(name.to_ascii_uppercase().as_bytes()), *meaning, "{name}");
        }
    }

    #[test]
    fn aliases_of_managed_names_are_dropped_and_others_kept() {
        assert_eq!(classify(b"X_Forwarded_For"), Name::Alias);
        assert_eq!(classify(b"transfer.encoding"), Name::Alias);
        assert_eq!(classify(b"Content_Length"), Name::Alias);
        assert_eq!(classify(b"x_custom_field_"), Name::Other);
        assert_eq!(classify(b"accept"), Name::Other);
        assert_eq!(classify(b""), Name::Other);
    }
}
