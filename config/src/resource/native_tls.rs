//! TLS of the native format: which files a listener and a backend name, and what else they say. Paths are those
//! of the user, joined with the folder of the file that they stand in; nothing is read here.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};

use super::native_route::Builder;
use super::native_types::OneOrMany;
use super::{Finding, syntax, tls};
use crate::table::{BackendProtocol, Hostname, TlsVersion};

/// TLS of a listener.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ListenerTlsSpec {
    /// Certificates with their keys; the first is also for clients that name no host, or an unknown one. Without
    /// any, the default certificate is used.
    #[serde(default)]
    pub(crate) certificates: Vec<CertificateSpec>,
    /// PEM file with the authorities that clients' certificates are verified against, and their revocation lists.
    pub(crate) client_ca: Option<Arc<str>>,
    /// Whether clients must have a certificate (default `require` if there is a `clientCa`).
    pub(crate) client_verify: Option<ClientVerifySpec>,
    /// Oldest protocol version: `1.2` (default) or `1.3`.
    pub(crate) min_version: Option<VersionSpec>,
    /// Cipher suites by their IANA or OpenSSL names, in order of preference.
    #[serde(default)]
    pub(crate) cipher_suites: OneOrMany<String>,
    /// Offer HTTP/2 (default true).
    pub(crate) http2: Option<bool>,
}

/// A certificate with its key.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct CertificateSpec {
    /// PEM file with the certificate and its chain, relative to this file's folder.
    pub(crate) cert: Arc<str>,
    /// PEM file with the private key.
    pub(crate) key: Arc<str>,
    /// Hosts that it is for, exact or `*.example.com`; the certificate's own names when left out.
    #[serde(default)]
    pub(crate) hosts: OneOrMany<String>,
}

/// What clients must show.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ClientVerifySpec {
    /// A certificate of one of the authorities.
    Require,
    /// The same, or none.
    Optional,
    /// Any certificate, or none; nobody verifies it.
    OptionalNoCa,
}

/// `1.2` or `1.3`, which YAML takes for numbers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct VersionSpec(pub(crate) TlsVersion);

impl<'de> Deserialize<'de> for VersionSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = VersionSpec;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("1.2 or 1.3")
            }
            fn visit_f64<E: Error>(self, number: f64) -> Result<VersionSpec, E> {
                self.visit_str(&number.to_string())
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<VersionSpec, E> {
                tls::version(text).map(VersionSpec).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for VersionSpec {
    fn schema_name() -> Cow<'static, str> {
        "TlsVersion".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"enum": ["1.2", "1.3", 1.2, 1.3]})
    }
}

/// Protocol of a listener.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ListenerProtocol {
    /// Cleartext.
    Http,
    /// TLS.
    Https,
    /// Connections that are relayed as they are.
    #[serde(alias = "TCP")]
    Tcp,
    /// Datagrams that are relayed as they are.
    #[serde(alias = "UDP")]
    Udp,
}

/// Protocol towards the endpoints of a backend.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ProtocolSpec {
    /// HTTP/1.1 in cleartext.
    Http,
    /// HTTP/1.1 over TLS.
    Https,
    /// HTTP/2 in cleartext.
    H2c,
    /// HTTP/2 over TLS.
    H2,
    /// gRPC: HTTP/2 in cleartext.
    Grpc,
    /// gRPC over TLS.
    Grpcs,
}

/// How the endpoints of an encrypted backend are verified.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct BackendTlsSpec {
    /// `false` accepts any certificate.
    pub(crate) verify: Option<bool>,
    /// PEM file with the authorities to verify against; the system's when left out.
    pub(crate) ca: Option<Arc<str>>,
    /// Name to send and to verify; that of the endpoint when left out.
    pub(crate) server_name: Option<String>,
    /// PEM file with the gateway's own certificate, for backends that ask for one.
    pub(crate) cert: Option<Arc<str>>,
    /// PEM file with its private key.
    pub(crate) key: Option<Arc<str>>,
}

/// A redirect of cleartext requests to HTTPS: whether, or to which port.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct HttpsRedirectSpec(pub(crate) Option<u16>);

impl<'de> Deserialize<'de> for HttpsRedirectSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = HttpsRedirectSpec;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false or a port")
            }
            fn visit_bool<E>(self, on: bool) -> Result<HttpsRedirectSpec, E> {
                Ok(HttpsRedirectSpec(on.then_some(443)))
            }
            fn visit_i64<E: Error>(self, number: i64) -> Result<HttpsRedirectSpec, E> {
                let port = u16::try_from(number).ok().filter(|port| *port > 0);
                let port = port.ok_or_else(|| E::custom(format!("{number} is not a port (1 to 65535)")))?;
                Ok(HttpsRedirectSpec(Some(port)))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for HttpsRedirectSpec {
    fn schema_name() -> Cow<'static, str> {
        "HttpsRedirect".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"anyOf": [{"type": "boolean"}, {"type": "integer", "minimum": 1, "maximum": 65535}]})
    }
}

/// TLS of a listener as stored.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct ListenerTls {
    pub(crate) certificates: Box<[CertificateFiles]>,
    pub(crate) client: ClientFiles,
    pub(crate) min_version: TlsVersion,
    pub(crate) cipher_suites: Box<[Arc<str>]>,
    pub(crate) http2: bool,
    /// Where it stands.
    pub(crate) field: String,
}

/// A certificate with its key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct CertificateFiles {
    pub(crate) cert: Arc<str>,
    pub(crate) key: Arc<str>,
    pub(crate) hosts: Box<[Hostname]>,
    /// Where it stands.
    pub(crate) field: String,
}

/// What clients must show.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum ClientFiles {
    None,
    Require(Arc<str>),
    Optional(Arc<str>),
    OptionalNoCa,
    /// Listeners of one address ask different things, so nobody is served.
    Closed,
}

impl ClientFiles {
    /// The file with the authorities.
    pub(crate) fn roots(&self) -> Option<&Arc<str>> {
        match self {
            Self::Require(file) | Self::Optional(file) => Some(file),
            Self::None | Self::OptionalNoCa | Self::Closed => None,
        }
    }
}

impl ListenerTls {
    /// True if `other` differs at most in where it stands.
    pub(crate) fn says_the_same(&self, other: &Self) -> bool {
        let plain = |tls: &Self| {
            let certificates = tls.certificates.iter();
            let certificates =
                certificates.map(|files| CertificateFiles { field: String::new(), ..files.clone() });
            Self { certificates: certificates.collect(), field: String::new(), ..tls.clone() }
        };
        plain(self) == plain(other)
    }

    /// Every file that it names.
    pub(crate) fn files(&self) -> impl Iterator<Item = &Arc<str>> {
        self.certificates.iter().flat_map(|files| [&files.cert, &files.key]).chain(self.client.roots())
    }
}

/// How a native backend is spoken to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct NativeSpeech {
    pub(crate) protocol: BackendProtocol,
    pub(crate) tls: Option<BackendFiles>,
}

/// TLS towards a native backend.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct BackendFiles {
    pub(crate) insecure: bool,
    pub(crate) ca: Option<Arc<str>>,
    pub(crate) server_name: Option<Arc<str>>,
    /// Certificate and key.
    pub(crate) pair: Option<(Arc<str>, Arc<str>)>,
}

impl BackendFiles {
    /// Every file that it names.
    pub(crate) fn files(&self) -> impl Iterator<Item = &Arc<str>> {
        self.ca.iter().chain(self.pair.iter().flat_map(|(cert, key)| [cert, key]))
    }
}

impl Builder<'_> {
    /// A file, relative to the folder of the file that names it.
    fn file(&self, at: &str, path: &Arc<str>) -> Result<Arc<str>, Finding> {
        if path.trim().is_empty() {
            return Err(self.error(at, "InvalidPath", "a file is required"));
        }
        let folder = Path::new(self.file).parent().unwrap_or_else(|| Path::new(""));
        Ok(folder.join(&**path).to_string_lossy().into())
    }

    /// TLS of a listener; `None` for cleartext.
    pub(super) fn listener_tls(
        &self,
        protocol: Option<ListenerProtocol>,
        spec: Option<&ListenerTlsSpec>,
    ) -> Result<Option<Arc<ListenerTls>>, Finding> {
        let none = ListenerTlsSpec::default();
        let spec = match (protocol, spec) {
            (Some(ListenerProtocol::Http), Some(_)) => {
                let message = "a listener with `tls` speaks `https`; remove one of the two";
                return Err(self.error("protocol", "InvalidValue", message));
            }
            (Some(ListenerProtocol::Http) | None, None) => return Ok(None),
            // These never come here.
            (Some(ListenerProtocol::Tcp | ListenerProtocol::Udp), _) => return Ok(None),
            (Some(ListenerProtocol::Https), None) => &none,
            (_, Some(spec)) => spec,
        };
        let mut certificates = Vec::with_capacity(spec.certificates.len());
        for (index, one) in spec.certificates.iter().enumerate() {
            let at = format!("tls.certificates[{index}]");
            let mut hosts = Vec::new();
            for (position, text) in one.hosts.0.iter().enumerate() {
                match syntax::hostname(text) {
                    Ok(Hostname::Any) => {
                        return Err(self.error(
                            &format!("{at}.hosts[{position}]"),
                            "InvalidHost",
                            "it is empty",
                        ));
                    }
                    Ok(host) => hosts.push(host),
                    Err(message) => {
                        return Err(self.error(&format!("{at}.hosts[{position}]"), "InvalidHost", message));
                    }
                }
            }
            certificates.push(CertificateFiles {
                cert: self.file(&format!("{at}.cert"), &one.cert)?,
                key: self.file(&format!("{at}.key"), &one.key)?,
                hosts: hosts.into(),
                field: format!("{}.{at}", self.field),
            });
        }
        let roots = spec.client_ca.as_ref().map(|file| self.file("tls.clientCa", file)).transpose()?;
        let client = match (spec.client_verify, roots) {
            (None, None) => ClientFiles::None,
            (Some(ClientVerifySpec::OptionalNoCa), _) => ClientFiles::OptionalNoCa,
            (None | Some(ClientVerifySpec::Require), Some(roots)) => ClientFiles::Require(roots),
            (Some(ClientVerifySpec::Optional), Some(roots)) => ClientFiles::Optional(roots),
            (Some(ClientVerifySpec::Require | ClientVerifySpec::Optional), None) => {
                return Err(self.error(
                    "tls.clientCa",
                    "MissingField",
                    "without it nobody could be verified",
                ));
            }
        };
        let suites = tls::cipher_suites(&spec.cipher_suites.0.join(" "));
        if !suites.unknown.is_empty() {
            let message = format!("not implemented: {}", suites.unknown.join(", "));
            return Err(self.error("tls.cipherSuites", "InvalidValue", message));
        }
        Ok(Some(Arc::new(ListenerTls {
            certificates: certificates.into(),
            client,
            min_version: spec.min_version.map(|version| version.0).unwrap_or_default(),
            cipher_suites: suites.known.into(),
            http2: spec.http2.unwrap_or(true),
            field: format!("{}.tls", self.field),
        })))
    }

    /// How a backend is spoken to.
    pub(super) fn speech(
        &self,
        protocol: Option<ProtocolSpec>,
        spec: Option<&BackendTlsSpec>,
    ) -> Result<NativeSpeech, Finding> {
        let protocol = protocol.unwrap_or(ProtocolSpec::Http);
        let (wire, encrypted) = match protocol {
            ProtocolSpec::Http => (BackendProtocol::Http1, false),
            ProtocolSpec::Https => (BackendProtocol::Http1, true),
            ProtocolSpec::H2c | ProtocolSpec::Grpc => (BackendProtocol::Http2, false),
            ProtocolSpec::H2 | ProtocolSpec::Grpcs => (BackendProtocol::Http2, true),
        };
        let spec = match (encrypted, spec) {
            (false, None) => return Ok(NativeSpeech { protocol: wire, tls: None }),
            (false, Some(_)) => {
                let message = "`tls` needs a `protocol` that is encrypted: https, h2 or grpcs";
                return Err(self.error("protocol", "InvalidValue", message));
            }
            (true, spec) => spec.cloned().unwrap_or_default(),
        };
        let pair = match (&spec.cert, &spec.key) {
            (None, None) => None,
            (Some(cert), Some(key)) => Some((self.file("tls.cert", cert)?, self.file("tls.key", key)?)),
            (Some(_), None) => return Err(self.error("tls.key", "MissingField", "`cert` needs its `key`")),
            (None, Some(_)) => return Err(self.error("tls.cert", "MissingField", "`key` needs its `cert`")),
        };
        let server_name = spec.server_name.as_deref().map(tls::server_name).transpose();
        let tls = BackendFiles {
            insecure: spec.verify == Some(false),
            ca: spec.ca.as_ref().map(|file| self.file("tls.ca", file)).transpose()?,
            server_name: server_name
                .map_err(|message| self.error("tls.serverName", "InvalidValue", message))?,
            pair,
        };
        Ok(NativeSpeech { protocol: wire, tls: Some(tls) })
    }

    /// A value of `hsts`.
    pub(super) fn hsts(&self, text: Option<&str>) -> Result<Option<Arc<str>>, Finding> {
        text.map(tls::hsts).transpose().map_err(|message| self.error("hsts", "InvalidValue", message))
    }
}
