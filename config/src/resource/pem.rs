//! PEM text → certificates, keys and lists of the table, or exactly why not. Owns what makes a certificate
//! usable; never knows what it is for, nor what time it is.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::SupportedCipherSuite;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

use crate::table::{Certificate, TrustRoots};

/// Certificates in one chain.
const MAX_CHAIN: usize = 16;
/// Certificate authorities in one bundle; the largest public ones have less than 200.
const MAX_ROOTS: usize = 2_048;

/// Which part of a Secret, ConfigMap or pair of files is wrong.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Part {
    /// `tls.crt`.
    Certificate,
    /// `tls.key`.
    Key,
    /// `ca.crt`.
    Roots,
    /// `ca.crl`.
    RevocationList,
}

impl Part {
    /// Key in the data of a Secret or ConfigMap.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::Certificate => "tls.crt",
            Self::Key => "tls.key",
            Self::Roots => "ca.crt",
            Self::RevocationList => "ca.crl",
        }
    }
}

/// Why something cannot be used.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Flaw {
    /// What is wrong.
    pub part: Part,
    /// Stable CamelCase reason code.
    pub reason: &'static str,
    /// The same for people.
    pub message: String,
}

impl Flaw {
    pub(crate) fn new(part: Part, reason: &'static str, message: impl Into<String>) -> Self {
        Self { part, reason, message: message.into() }
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// A chain with its key, both in PEM. The order of the chain is kept.
///
/// # Errors
/// If one of them is not what it should be, or they do not belong together.
pub(crate) fn certificate(name: &Arc<str>, chain: &[u8], key: &[u8]) -> Result<Arc<Certificate>, Flaw> {
    let chain = certificates(Part::Certificate, chain, MAX_CHAIN)?;
    let key = private_key(key)?;
    let key = aws_lc_rs::sign::any_supported_type(&key).map_err(|error| {
        let kinds = "RSA of 2048 bits or more, ECDSA P-256, P-384 or P-521, or Ed25519";
        Flaw::new(
            Part::Key,
            "UnsupportedKey",
            format!("the key cannot be used ({error}); it must be {kinds}"),
        )
    })?;
    let leaf = chain.first().cloned().ok_or_else(|| nothing(Part::Certificate))?;
    let pair = CertifiedKey::new(chain, key);
    if let Err(error) = pair.keys_match() {
        return Err(mismatch(&pair, &error));
    }
    let (_, parsed) = X509Certificate::from_der(&leaf).map_err(|_| garbage(Part::Certificate, 1))?;
    Ok(Arc::new(Certificate {
        name: Arc::clone(name),
        fingerprint: sha256(&leaf),
        not_before: parsed.validity().not_before.timestamp(),
        not_after: parsed.validity().not_after.timestamp(),
        names: names(&parsed),
        key: Arc::new(pair),
    }))
}

/// Certificate authorities and revocation lists, both in PEM.
///
/// # Errors
/// If there is no authority, or one of them or a list is not what it should be.
pub(crate) fn trust_roots(
    name: &Arc<str>,
    roots: &[u8],
    lists: Option<&[u8]>,
) -> Result<Arc<TrustRoots>, Flaw> {
    let certificates = certificates(Part::Roots, roots, MAX_ROOTS)?;
    let mut store = RootCertStore::empty();
    for (index, certificate) in (1..).zip(&certificates) {
        store.add(certificate.clone()).map_err(|_| garbage(Part::Roots, index))?;
    }
    let revocation_lists = lists.map(revocation_lists).transpose()?.unwrap_or_default();
    if !revocation_lists.is_empty() {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider)
            .with_crls(revocation_lists.iter().cloned());
        verifier.build().map_err(|error| {
            let message = format!("a revocation list cannot be used: {error}");
            Flaw::new(Part::RevocationList, "InvalidRevocationList", message)
        })?;
    }
    let ends = |certificate: &CertificateDer<'_>| {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        Some(parsed.validity().not_after.timestamp())
    };
    let due = |list: &CertificateRevocationListDer<'_>| {
        let (_, parsed) = CertificateRevocationList::from_der(list).ok()?;
        Some(parsed.next_update()?.timestamp())
    };
    Ok(Arc::new(TrustRoots {
        name: Arc::clone(name),
        not_after: certificates.iter().filter_map(ends).min().unwrap_or(i64::MAX),
        last_not_after: certificates.iter().filter_map(ends).max().unwrap_or(i64::MAX),
        next_update: revocation_lists.iter().filter_map(due).min(),
        certificates: certificates.into(),
        revocation_lists: revocation_lists.into(),
    }))
}

fn certificates(part: Part, text: &[u8], most: usize) -> Result<Vec<CertificateDer<'static>>, Flaw> {
    let mut found = Vec::new();
    for section in sections(part, text)? {
        if section.0 != SectionKind::Certificate {
            continue;
        }
        let certificate = CertificateDer::from(section.1);
        let is_good = X509Certificate::from_der(&certificate).is_ok_and(|(rest, _)| rest.is_empty());
        if !is_good {
            return Err(garbage(part, found.len() + 1));
        }
        found.push(certificate);
        if found.len() > most {
            let message = format!("there are more than {most} certificates");
            return Err(Flaw::new(part, "TooManyCertificates", message));
        }
    }
    if found.is_empty() { Err(nothing(part)) } else { Ok(found) }
}

fn private_key(text: &[u8]) -> Result<PrivateKeyDer<'static>, Flaw> {
    let mut keys =
        sections(Part::Key, text)?.into_iter().filter_map(|(kind, der)| PrivateKeyDer::from_pem(kind, der));
    match (keys.next(), keys.next()) {
        (Some(key), None) => Ok(key),
        (Some(_), Some(_)) => Err(Flaw::new(Part::Key, "InvalidKey", "there is more than one private key")),
        (None, _)
            if contains(text, b"ENCRYPTED PRIVATE KEY") || contains(text, b"Proc-Type: 4,ENCRYPTED") =>
        {
            let message = "the private key is encrypted with a passphrase; store it without one";
            Err(Flaw::new(Part::Key, "EncryptedKey", message))
        }
        (None, _) => Err(nothing(Part::Key)),
    }
}

fn revocation_lists(text: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, Flaw> {
    let lists = sections(Part::RevocationList, text)?;
    let lists: Vec<_> = lists.into_iter().filter(|(kind, _)| *kind == SectionKind::Crl).collect();
    if lists.is_empty() && !text.iter().all(u8::is_ascii_whitespace) {
        return Err(nothing(Part::RevocationList));
    }
    Ok(lists.into_iter().map(|(_, der)| CertificateRevocationListDer::from(der)).collect())
}

/// The sections of a PEM text. Text between them is a comment.
fn sections(part: Part, text: &[u8]) -> Result<Vec<(SectionKind, Vec<u8>)>, Flaw> {
    // What OpenSSL writes around an encrypted key in the old form is not base64, and has its own reason.
    if part == Part::Key && contains(text, b"Proc-Type: 4,ENCRYPTED") {
        return Ok(Vec::new());
    }
    let sections: Result<Vec<_>, pem::Error> = <(SectionKind, Vec<u8>)>::pem_slice_iter(text).collect();
    sections.map_err(|error| {
        // The library's own words may repeat the text, which may be a key.
        let what = match error {
            pem::Error::MissingSectionEnd { .. } => "a section has no `-----END …-----` line",
            pem::Error::IllegalSectionStart { .. } => "a `-----BEGIN …-----` line is malformed",
            pem::Error::Base64Decode(_) => "a section is not base64",
            _ => "it cannot be read",
        };
        Flaw::new(part, "InvalidPem", format!("not PEM: {what}"))
    })
}

fn nothing(part: Part) -> Flaw {
    match part {
        Part::Certificate | Part::Roots => {
            Flaw::new(part, "NoCertificate", "there is no certificate (`-----BEGIN CERTIFICATE-----`)")
        }
        Part::Key => Flaw::new(part, "NoKey", "there is no private key (`-----BEGIN PRIVATE KEY-----`)"),
        Part::RevocationList => Flaw::new(
            part,
            "InvalidRevocationList",
            "there is no revocation list (`-----BEGIN X509 CRL-----`)",
        ),
    }
}

fn garbage(part: Part, position: usize) -> Flaw {
    Flaw::new(part, "InvalidCertificate", format!("certificate {position} is not an X.509 certificate"))
}

/// Why `keys_match` failed: the certificate itself, the order of the chain, or a key of something else.
fn mismatch(pair: &CertifiedKey, error: &rustls::Error) -> Flaw {
    if !matches!(error, rustls::Error::InconsistentKeys(_)) {
        let message = format!("the certificate cannot be used: {error}");
        return Flaw::new(Part::Certificate, "InvalidCertificate", message);
    }
    for (position, other) in (1..).zip(&pair.cert).skip(1) {
        let other = CertifiedKey::new(vec![other.clone()], Arc::clone(&pair.key));
        if other.keys_match().is_ok() {
            let message = format!(
                "the key does not match the first certificate but number {position}: the server's own certificate \
                 must come first"
            );
            return Flaw::new(Part::Certificate, "KeyMismatch", message);
        }
    }
    Flaw::new(Part::Key, "KeyMismatch", "the key does not match the certificate")
}

/// DNS names and addresses of subjectAltName. A common name counts for nothing (RFC 9525 §2).
fn names(certificate: &X509Certificate<'_>) -> Arc<[Arc<str>]> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return Arc::default() };
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(Arc::from(*name)),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            let v6 = <[u8; 16]>::try_from(*bytes).map(IpAddr::from);
            v4.or(v6).ok().map(|address| address.to_string().into())
        }
        _ => None,
    };
    extension.value.general_names.iter().filter_map(name).collect()
}

/// SHA-256 by the library that everything else of TLS uses.
fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    if let SupportedCipherSuite::Tls13(suite) = aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256 {
        let hash = suite.common.hash_provider.hash(bytes);
        if let Some(hash) = hash.as_ref().first_chunk() {
            digest = *hash;
        }
    }
    digest
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window == word)
}

/// Whether a certificate for `names` is one for `host`: the name itself, or a wildcard of one label (RFC 9525
/// §6.3). `host` may be a wildcard's suffix (`.example.com`), which only that wildcard covers.
pub(crate) fn covers(names: &[Arc<str>], host: &str) -> bool {
    let suffix = host.find('.').and_then(|at| host.get(at..));
    names.iter().any(|name| {
        let wildcard = name.strip_prefix('*');
        name.eq_ignore_ascii_case(host)
            || wildcard.zip(suffix).is_some_and(|(wildcard, suffix)| wildcard.eq_ignore_ascii_case(suffix))
    })
}
