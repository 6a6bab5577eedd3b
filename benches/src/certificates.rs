//! Certificates for benches: an authority and what it issues, on P-256. Makes new keys every time and keeps none.

use std::fs;
use std::path::Path;

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::CertificateDer;

/// An authority.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate with its key, as PEM text.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// The certificate alone: the authority has issued it itself.
    pub chain: String,
    /// PKCS#8.
    pub key: String,
    /// The certificate.
    pub der: CertificateDer<'static>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority")
    }
}

impl Authority {
    /// A new one.
    ///
    /// # Errors
    /// If there is no randomness.
    pub fn new() -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "bench authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ok(Self(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?))
    }

    /// Its certificate, as PEM text.
    #[must_use]
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Its certificate.
    #[must_use]
    pub fn der(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    /// A new certificate for `name`, with a new key.
    ///
    /// # Errors
    /// If `name` is none, or there is no randomness.
    pub fn issue(&self, name: &str) -> Result<Leaf> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new([name.to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.0)?;
        Ok(Leaf { chain: certificate.pem(), key: key.serialize_pem(), der: certificate.der().clone() })
    }
}

/// Writes `ca.pem`, and `leaf.crt`, `leaf.key` and `leaf.pem` (both in one file) for `name` into `folder`.
///
/// # Errors
/// Those of the file system, and of [`Authority::issue`].
pub fn write(folder: &Path, name: &str) -> Result<()> {
    let authority = Authority::new()?;
    let leaf = authority.issue(name)?;
    fs::write(folder.join("ca.pem"), authority.pem())?;
    fs::write(folder.join("leaf.pem"), format!("{}{}", leaf.chain, leaf.key))?;
    fs::write(folder.join("leaf.crt"), leaf.chain)?;
    fs::write(folder.join("leaf.key"), leaf.key)?;
    Ok(())
}
