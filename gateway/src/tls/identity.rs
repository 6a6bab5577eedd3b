//! What is known of a connection since its handshake, and which requests it may therefore carry.
//!
//! The fields that tell endpoints of a client's certificate are written once per connection. Clients cannot send
//! them: `http1::fields` has their names.

use std::fmt::Write as _;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use config::table::{ClientPolicy, TlsMap, TlsPolicy, TlsVersion, TrustRoots};
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::record::Reason;

/// Longest line made of a certificate's names; what is longer is left out, never cut.
const LONGEST_LINE: usize = 4_096;

const NO_CERTIFICATE: &[u8] = b"X-Client-Cert-Verified: none\r\n";

/// The far end of an encrypted connection.
#[derive(Debug)]
pub(crate) struct Secured {
    /// The name that the client asked for, as [`TlsMap`] has it.
    pub(crate) server_name: Option<Box<str>>,
    /// The policy of the handshake.
    policy: Arc<TlsPolicy>,
    version: TlsVersion,
    /// A certificate was shown, and the policy's roots had issued it if it has any.
    has_certificate: bool,
    /// Lines for endpoints, each with its line end.
    identity: Box<[u8]>,
}

impl Secured {
    /// `chain`: what the client has shown, and rustls has verified as the policy demands. `now` in seconds since
    /// 1970.
    ///
    /// # Errors
    /// If a resumed session's certificate is no longer valid, or no certificate was shown where one must be.
    pub(crate) fn new(
        server_name: Option<Box<str>>,
        (policy, version): (Arc<TlsPolicy>, TlsVersion),
        chain: &[CertificateDer<'_>],
        now: i64,
    ) -> Result<Self, Rejected> {
        let verified = match policy.client {
            // Nothing is asked, so there is nothing to tell.
            ClientPolicy::None | ClientPolicy::Closed => None,
            ClientPolicy::Require(_) | ClientPolicy::Optional(_) => Some("success"),
            ClientPolicy::OptionalNoCa => Some("unverified"),
        };
        let Some(verified) = verified else {
            return Ok(Self {
                server_name,
                policy,
                version,
                has_certificate: false,
                identity: Box::default(),
            });
        };
        let Some(leaf) = chain.first() else {
            if matches!(policy.client, ClientPolicy::Require(_)) {
                return Err(Rejected);
            }
            return Ok(Self {
                server_name,
                policy,
                version,
                has_certificate: false,
                identity: NO_CERTIFICATE.into(),
            });
        };
        let parsed = X509Certificate::from_der(leaf).ok().map(|(_, parsed)| parsed);
        // Resumption does not verify again; time has passed since.
        let is_over = parsed.as_ref().is_none_or(|leaf| leaf.validity().not_after.timestamp() < now);
        if is_over && verified == "success" {
            return Err(Rejected);
        }
        let identity = lines(leaf, parsed.as_ref(), verified).into_boxed_slice();
        Ok(Self { server_name, policy, version, has_certificate: true, identity })
    }

    /// Whether a request for `host` may be served on this connection, by the table of now, and if so, with which
    /// lines for the endpoint. What is compared is what the client's name means now with what the host means now, so
    /// that a rotated certificate sends nobody away.
    ///
    /// # Errors
    /// `MisdirectedRequest` (RFC 9110 §7.4) or `InvalidSetting`, and whether the connection is of no use any more.
    pub(crate) fn admits(&self, map: &TlsMap, host: &str) -> Result<&[u8], Unserved> {
        let misdirected = Unserved { reason: Reason::MisdirectedRequest, is_outdated: false };
        let Some(wanted) = map.policy(host) else { return Err(misdirected) };
        match &self.server_name {
            Some(name) if !map.policy(name).is_some_and(|policy| Arc::ptr_eq(policy, wanted)) => {
                return Err(misdirected);
            }
            // The handshake was one for any host.
            None if self.version < wanted.min_version => return Err(misdirected),
            Some(_) | None => {}
        }
        match &wanted.client {
            ClientPolicy::Closed => Err(Unserved { reason: Reason::InvalidSetting, is_outdated: false }),
            ClientPolicy::None => Ok(b""),
            ClientPolicy::OptionalNoCa if self.policy.client == ClientPolicy::OptionalNoCa => {
                Ok(&self.identity)
            }
            // Whatever was shown for something else counts for nothing here.
            ClientPolicy::OptionalNoCa => Ok(NO_CERTIFICATE),
            ClientPolicy::Optional(_) if !self.has_certificate => Ok(NO_CERTIFICATE),
            ClientPolicy::Require(roots) | ClientPolicy::Optional(roots)
                if self.has_certificate && self.is_verified_by(roots) =>
            {
                Ok(&self.identity)
            }
            // The host is one of the name's, so that it was not asked then for what it is asked for now.
            ClientPolicy::Require(_) | ClientPolicy::Optional(_) => {
                Err(Unserved { is_outdated: self.server_name.is_some(), ..misdirected })
            }
        }
    }

    fn is_verified_by(&self, roots: &Arc<TrustRoots>) -> bool {
        match &self.policy.client {
            ClientPolicy::Require(own) | ClientPolicy::Optional(own) => {
                Arc::ptr_eq(own, roots) || own.verifies_the_same(roots)
            }
            ClientPolicy::None | ClientPolicy::OptionalNoCa | ClientPolicy::Closed => false,
        }
    }
}

/// Why a request is not served on a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Unserved {
    pub(crate) reason: Reason,
    /// What is asked of clients has changed since the handshake: only a new connection helps.
    pub(crate) is_outdated: bool,
}

/// The client's certificate does not do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Rejected;

/// The fields that tell of a certificate.
fn lines(leaf: &CertificateDer<'_>, parsed: Option<&X509Certificate<'_>>, verified: &str) -> Vec<u8> {
    let mut out = String::with_capacity(2 * leaf.len());
    // RFC 9440 §2.2: a byte sequence of structured fields.
    let _ = write!(out, "Client-Cert: :{}:\r\nX-Client-Cert-Verified: {verified}\r\n", STANDARD.encode(leaf));
    out.push_str("X-Client-Cert-Fingerprint: ");
    for byte in digest(&SHA256, leaf).as_ref() {
        let _ = write!(out, "{byte:02x}");
    }
    out.push_str("\r\n");
    if let Some(parsed) = parsed {
        line(&mut out, "X-Client-Cert-Subject", &escaped(&parsed.subject().to_string()));
        line(&mut out, "X-Client-Cert-Issuer", &escaped(&parsed.issuer().to_string()));
        let names = parsed.subject_alternative_name().ok().flatten();
        let names = names.iter().flat_map(|names| &names.value.general_names).filter_map(alternative);
        line(&mut out, "X-Client-Cert-SAN", &names.collect::<Vec<_>>().join(", "));
    }
    out.into_bytes()
}

/// One line, if there is anything to say. `value` is escaped.
fn line(out: &mut String, name: &str, value: &str) {
    if !value.is_empty() && value.len() <= LONGEST_LINE {
        let _ = write!(out, "{name}: {value}\r\n");
    }
}

/// Percent-encodes whatever could end a line, and spaces at either end.
fn escaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    let last = value.len().saturating_sub(1);
    for (at, byte) in value.bytes().enumerate() {
        match byte {
            b'!'..=b'~' if byte != b'%' => out.push(char::from(byte)),
            b' ' if at != 0 && at != last => out.push(' '),
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

/// An alternative name with its kind, as in `DNS:a.example`. Commas and spaces in it are encoded: they stand between
/// names.
fn alternative(name: &GeneralName<'_>) -> Option<String> {
    let plain = |kind: &str, text: &str| {
        Some(format!("{kind}:{}", escaped(text).replace(',', "%2C").replace(' ', "%20")))
    };
    match name {
        GeneralName::DNSName(name) => plain("DNS", name),
        GeneralName::RFC822Name(name) => plain("email", name),
        GeneralName::URI(uri) => plain("URI", uri),
        GeneralName::IPAddress(bytes) => {
            let address = match **bytes {
                [a, b, c, d] => std::net::IpAddr::from([a, b, c, d]),
                ref bytes => std::net::IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
            };
            Some(format!("IP:{address}"))
        }
        _ => None,
    }
}
