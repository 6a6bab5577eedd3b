//! Small grammars of TLS settings, the same in annotations and in the native format, and the settings that they
//! amount to. Names of Secrets stay names here: whether there is such a Secret is compile's to find out.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;

use super::syntax;
use crate::report::Kind;
use crate::table::TlsVersion;

/// A Secret or ConfigMap of the object's own namespace that holds certificate authorities.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RootsRef {
    /// [`Kind::Secret`] or [`Kind::ConfigMap`].
    pub kind: Kind,
    /// Its name.
    pub name: Arc<str>,
}

/// Value of `client-verify`.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum ClientVerify {
    /// `require`.
    #[default]
    Require,
    /// `optional`.
    Optional,
    /// `optional-no-ca`.
    OptionalNoCa,
}

/// What an Ingress asks for of clients.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum ClientSetting {
    /// A certificate of one of these authorities.
    Require(RootsRef),
    /// The same, or no certificate.
    Optional(RootsRef),
    /// Any certificate, or none.
    OptionalNoCa,
    /// Something is wrong with what it asks for.
    Closed,
}

/// What an Ingress asks for of encrypted connections to its hosts.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct TlsSettings {
    /// `ssl-passthrough`.
    pub passthrough: bool,
    /// `client-ca` and `client-verify`.
    pub client: Option<ClientSetting>,
    /// `min-tls-version`.
    pub min_version: Option<TlsVersion>,
    /// `tls-cipher-suites`, as the table names them.
    pub cipher_suites: Option<Arc<[Arc<str>]>>,
}

/// Value of `backend-protocol` or `appProtocol`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Protocol {
    /// HTTP/1.1 in cleartext.
    Http,
    /// HTTP/1.1 over TLS.
    Https,
    /// HTTP/2 in cleartext.
    H2c,
    /// HTTP/2 over TLS.
    H2,
}

impl Protocol {
    /// True if connections are encrypted.
    #[must_use]
    pub fn is_encrypted(self) -> bool {
        matches!(self, Self::Https | Self::H2)
    }

    /// True for HTTP/2.
    #[must_use]
    pub fn is_http2(self) -> bool {
        matches!(self, Self::H2c | Self::H2)
    }
}

/// `HTTP`, `HTTPS`, `H2C`, `GRPC` or `GRPCS`, in any case.
pub(crate) fn protocol(text: &str) -> Result<Protocol, String> {
    match &*text.to_ascii_uppercase() {
        "HTTP" => Ok(Protocol::Http),
        "HTTPS" => Ok(Protocol::Https),
        "H2C" | "GRPC" => Ok(Protocol::H2c),
        "GRPCS" => Ok(Protocol::H2),
        _ => Err(format!("`{text}` is not one of HTTP, HTTPS, H2C, GRPC, GRPCS")),
    }
}

/// What `appProtocol` says about HTTP; `None` for names that say nothing to us (KEP-3726 and IANA's names).
pub(crate) fn app_protocol(text: &str) -> Option<Protocol> {
    match text {
        "http" | "HTTP" | "kubernetes.io/ws" => Some(Protocol::Http),
        "https" | "HTTPS" | "kubernetes.io/wss" => Some(Protocol::Https),
        "kubernetes.io/h2c" | "h2c" | "grpc" | "GRPC" | "http2" | "HTTP2" => Some(Protocol::H2c),
        "grpcs" | "GRPCS" => Some(Protocol::H2),
        _ => None,
    }
}

/// `secret/NAME` or `configmap/NAME`.
pub(crate) fn roots_ref(text: &str) -> Result<RootsRef, String> {
    let wanted = "write `secret/NAME` or `configmap/NAME`";
    let kind = |kind: &str| match kind {
        "secret" => Some(Kind::Secret),
        "configmap" => Some(Kind::ConfigMap),
        _ => None,
    };
    let (kind, name) = text
        .split_once('/')
        .and_then(|(before, name)| Some((kind(before)?, name)))
        .ok_or_else(|| format!("`{text}`: {wanted}"))?;
    Ok(RootsRef { kind, name: object_name(name)? })
}

/// A Secret's name, with or without `secret/` in front.
pub(crate) fn secret_name(text: &str) -> Result<Arc<str>, String> {
    object_name(text.strip_prefix("secret/").unwrap_or(text))
}

/// The name of an object of the same namespace.
pub(crate) fn object_name(name: &str) -> Result<Arc<str>, String> {
    if name.contains('/') {
        return Err(format!("`{name}`: only objects of the same namespace can be named"));
    }
    syntax::object_name(name).map_err(|why| format!("`{name}` is not an object's name: {why}"))?;
    Ok(name.into())
}

/// `require`, `optional` or `optional-no-ca`.
pub(crate) fn client_verify(text: &str) -> Result<ClientVerify, String> {
    match text {
        "require" => Ok(ClientVerify::Require),
        "optional" => Ok(ClientVerify::Optional),
        "optional-no-ca" => Ok(ClientVerify::OptionalNoCa),
        _ => Err(format!("`{text}` is not one of require, optional, optional-no-ca")),
    }
}

/// `1.2` or `1.3`, with or without `TLSv` in front.
pub(crate) fn version(text: &str) -> Result<TlsVersion, String> {
    match text.strip_prefix("TLSv").unwrap_or(text) {
        "1.2" => Ok(TlsVersion::Tls12),
        "1.3" => Ok(TlsVersion::Tls13),
        "1.0" | "1.1" | "1" => Err(format!("TLS {text} is broken and not spoken; write 1.2 or 1.3")),
        _ => Err(format!("`{text}` is not one of 1.2, 1.3")),
    }
}

/// A DNS name or an address, as certificates have it.
pub(crate) fn server_name(text: &str) -> Result<Arc<str>, String> {
    let name = text.to_ascii_lowercase();
    match ServerName::try_from(name.as_str()) {
        Ok(_) => Ok(name.into()),
        Err(_) => Err(format!("`{text}` is neither a DNS name nor an address")),
    }
}

/// Cipher suites that were asked for.
#[derive(Debug, Default)]
pub(crate) struct Suites {
    /// As the table names them, in the order given.
    pub(crate) known: Vec<Arc<str>>,
    /// Names that stand for nothing that is implemented.
    pub(crate) unknown: Vec<String>,
}

/// Cipher suites by their IANA or OpenSSL names, separated by colons, commas or spaces. Suites of TLS 1.3 are
/// added if only ones of TLS 1.2 are named: that list never was about them.
pub(crate) fn cipher_suites(names: &str) -> Suites {
    let mut suites = Suites::default();
    let all = || aws_lc_rs::ALL_CIPHER_SUITES.iter().filter_map(|suite| suite.suite().as_str());
    for name in names.split([':', ',', ' ', '\n', '\t']).filter(|name| !name.is_empty()) {
        match all().find(|known| is_suite(known, name)) {
            Some(known) if suites.known.iter().any(|other| **other == *known) => {}
            Some(known) => suites.known.push(known.into()),
            None => suites.unknown.push(name.to_owned()),
        }
    }
    let is_new = |name: &str| name.starts_with("TLS13_");
    if !suites.known.is_empty() && !suites.known.iter().any(|name| is_new(name)) {
        suites.known.extend(all().filter(|name| is_new(name)).map(Arc::from));
    }
    suites
}

/// Whether `name` is the suite that the library calls `known`.
fn is_suite(known: &str, name: &str) -> bool {
    let plain = |text: &str| {
        let text = text.to_ascii_uppercase().replace('-', "_");
        // TLS13_AES_128… and TLS_AES_128…; TLS_ECDHE_RSA_WITH_AES_128_GCM… and ECDHE-RSA-AES128-GCM….
        let text = text.replace("TLS13_", "").replace("TLS_", "").replace("_WITH_", "_");
        let text = text.replace("AES_", "AES");
        text.strip_suffix("POLY1305_SHA256").map_or_else(|| text.clone(), |text| format!("{text}POLY1305"))
    };
    plain(known) == plain(name)
}

/// A value of `Strict-Transport-Security` (RFC 6797 §6.1), checked and written anew.
pub(crate) fn hsts(text: &str) -> Result<Arc<str>, String> {
    let wanted = "write it as in `max-age=31536000; includeSubDomains; preload`";
    let (mut age, mut sub_domains, mut preload) = (None, false, false);
    for directive in text.split(';').map(str::trim).filter(|directive| !directive.is_empty()) {
        let (name, value) = match directive.split_once('=') {
            Some((name, value)) => (name.trim(), Some(value.trim().trim_matches('"'))),
            None => (directive, None),
        };
        match (&*name.to_ascii_lowercase(), value) {
            ("max-age", Some(value)) if age.is_none() => {
                let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
                let seconds = value.parse::<u64>().ok().filter(|_| digits);
                age = Some(seconds.ok_or_else(|| format!("`{value}` is not a number of seconds"))?);
            }
            ("includesubdomains", None) if !sub_domains => sub_domains = true,
            ("preload", None) if !preload => preload = true,
            _ => return Err(format!("`{directive}` is not expected; {wanted}")),
        }
    }
    let age = age.ok_or_else(|| format!("`max-age` is required; {wanted}"))?;
    let tail = |on: bool, text| if on { text } else { "" };
    Ok(format!("max-age={age}{}{}", tail(sub_domains, "; includeSubDomains"), tail(preload, "; preload"))
        .into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hsts_is_checked_and_written_in_one_form() {
        let ok = |text| hsts(text).map(|value| value.to_string());
        assert_eq!(ok("max-age=300"), Ok("max-age=300".to_owned()));
        assert_eq!(
            ok(" Preload ;INCLUDESUBDOMAINS; Max-Age=\"31536000\";"),
            Ok("max-age=31536000; includeSubDomains; preload".to_owned())
        );
        for bad in [
            "",
            "includeSubDomains",
            "max-age",
            "max-age=",
            "max-age=-1",
            "max-age=1y",
            "max-age=1; max-age=2",
            "max-age=1; preload=1",
            "max-age=1\r\nSet-Cookie: a=b",
            "max-age=99999999999999999999999",
        ] {
            assert!(hsts(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn cipher_suites_have_names_of_iana_and_of_openssl() {
        let known = |text: &str| {
            let suites = cipher_suites(text);
            assert_eq!(suites.unknown, Vec::<String>::new(), "{text}");
            suites.known.first().map(ToString::to_string)
        };
        for (name, suite) in [
            ("TLS_AES_128_GCM_SHA256", "TLS13_AES_128_GCM_SHA256"),
            ("TLS_CHACHA20_POLY1305_SHA256", "TLS13_CHACHA20_POLY1305_SHA256"),
            ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"),
            ("ECDHE-ECDSA-AES128-GCM-SHA256", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"),
            ("ecdhe-rsa-chacha20-poly1305", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"),
        ] {
            assert_eq!(known(name).as_deref(), Some(suite), "{name}");
        }
        let suites = cipher_suites("ECDHE-RSA-AES128-GCM-SHA256:AES128-SHA:!RC4");
        assert_eq!(suites.unknown, ["AES128-SHA", "!RC4"]);
        assert_eq!(suites.known.len(), 4, "those of TLS 1.3 stay: {suites:?}");
    }

    #[test]
    fn authorities_are_named_within_the_namespace() {
        assert_eq!(roots_ref("secret/ca"), Ok(RootsRef { kind: Kind::Secret, name: "ca".into() }));
        assert_eq!(roots_ref("configmap/ca"), Ok(RootsRef { kind: Kind::ConfigMap, name: "ca".into() }));
        for bad in ["ca", "secret/", "secret/other/ca", "configMap/ca", "pod/x", "secret/A b"] {
            assert!(roots_ref(bad).is_err(), "{bad}");
        }
        assert_eq!(secret_name("secret/x"), Ok("x".into()));
        assert!(secret_name("other/x").is_err());
    }

    #[test]
    fn protocols_have_the_names_that_kubernetes_and_ingress_nginx_gave_them() {
        assert_eq!(protocol("grpcs"), Ok(Protocol::H2));
        assert_eq!(protocol("H2C"), Ok(Protocol::H2c));
        assert!(protocol("FCGI").is_err() && protocol("").is_err());
        assert_eq!(app_protocol("kubernetes.io/wss"), Some(Protocol::Https));
        assert_eq!(app_protocol("kubernetes.io/h2c"), Some(Protocol::H2c));
        assert_eq!(app_protocol("postgresql"), None);
    }
}
