//! Certificate authorities, certificates and their Secrets and files for tests: real keys, made when a test runs.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, RsaKeySize,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// Seconds of a day.
const DAY: i64 = 86_400;

/// `seconds` from now, as rcgen's type.
macro_rules! moment {
    ($seconds:expr) => {{
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
        let at = now.checked_add_signed($seconds).expect("after 1970");
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(at)
    }};
}
/// Type of a private key.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum KeyKind {
    /// ECDSA on P-256, the usual one.
    #[default]
    P256,
    /// ECDSA on P-384.
    P384,
    /// Ed25519.
    Ed25519,
    /// RSA of 2,048 bits.
    Rsa,
}

impl KeyKind {
    fn generate(self) -> KeyPair {
        match self {
            Self::P256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
            Self::P384 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384),
            Self::Ed25519 => KeyPair::generate_for(&rcgen::PKCS_ED25519),
            Self::Rsa => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048),
        }
        .expect("a key is generated")
    }
}

/// What a certificate is to say.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Names and addresses; the first is the common name as well.
    pub names: Vec<String>,
    /// Type of its key.
    pub key: KeyKind,
    /// First and last second of its validity, from now, in seconds.
    pub validity: (i64, i64),
    /// It is to identify clients, not servers.
    pub client: bool,
}

impl Wanted {
    /// A server's certificate on P-256, valid from yesterday for 30 days.
    pub fn of(names: &[&str]) -> Self {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        Self { names, key: KeyKind::P256, validity: (-DAY, 30 * DAY), client: false }
    }

    /// With another type of key.
    pub fn key(self, key: KeyKind) -> Self {
        Self { key, ..self }
    }

    /// Valid until yesterday.
    pub fn expired(self) -> Self {
        Self { validity: (-3 * DAY, -DAY), ..self }
    }

    /// Valid from tomorrow.
    pub fn not_yet_valid(self) -> Self {
        Self { validity: (DAY, 3 * DAY), ..self }
    }

    /// A client's certificate.
    pub fn client(self) -> Self {
        Self { client: true, ..self }
    }

    fn params(&self) -> CertificateParams {
        let mut params = CertificateParams::new(self.names.clone()).expect("names are valid");
        let common = self.names.first().map_or("nobody", String::as_str);
        params.distinguished_name.push(DnType::CommonName, common);
        params.not_before = moment!(self.validity.0);
        params.not_after = moment!(self.validity.1);
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![match self.client {
            true => ExtendedKeyUsagePurpose::ClientAuth,
            false => ExtendedKeyUsagePurpose::ServerAuth,
        }];
        params
    }
}

/// An authority that issues certificates.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// Certificates between this one and the root, this one first; empty for a root.
    above: Vec<CertificateDer<'static>>,
}

impl Authority {
    /// A root authority.
    pub fn new(name: &str) -> Self {
        let issuer = CertifiedIssuer::self_signed(Self::params(name), KeyKind::P256.generate());
        Self { issuer: issuer.expect("an authority signs itself"), above: Vec::new() }
    }

    /// An authority that this one has issued; chains of what it issues contain its certificate.
    pub fn intermediate(&self, name: &str) -> Self {
        let key = KeyKind::P256.generate();
        let issuer = CertifiedIssuer::signed_by(Self::params(name), key, &self.issuer).expect("signed");
        let mut above = vec![issuer.der().clone()];
        above.extend(self.above.iter().cloned());
        Self { issuer, above }
    }

    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
    }

    /// Its certificate.
    pub fn der(&self) -> CertificateDer<'static> {
        self.issuer.der().clone()
    }

    /// Its certificate as PEM text.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A server's certificate for `names`.
    pub fn issue(&self, names: &[&str]) -> Leaf {
        self.issue_as(&Wanted::of(names))
    }

    /// A certificate as `wanted`.
    pub fn issue_as(&self, wanted: &Wanted) -> Leaf {
        let key = wanted.key.generate();
        let leaf = wanted.params().signed_by(&key, &self.issuer).expect("signed");
        let mut chain = vec![leaf.der().clone()];
        chain.extend(self.above.iter().cloned());
        Leaf { chain, key }
    }

    /// An Opaque Secret (or ConfigMap) manifest with its certificate as `ca.crt`.
    pub fn secret(&self, namespace: &str, name: &str) -> String {
        let data = BASE64.encode(self.pem());
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
             type: Opaque\ndata: {{ca.crt: {data}}}\n"
        )
    }
}

/// A certificate with its chain (without the root) and its key.
pub struct Leaf {
    /// The certificate and those that have issued it, in order.
    pub chain: Vec<CertificateDer<'static>>,
    key: KeyPair,
}

impl Leaf {
    /// A certificate that nobody has issued but itself.
    pub fn self_signed(wanted: &Wanted) -> Self {
        let key = wanted.key.generate();
        let leaf = wanted.params().self_signed(&key).expect("signed");
        Self { chain: vec![leaf.der().clone()], key }
    }

    /// The chain as PEM text.
    pub fn chain_pem(&self) -> String {
        self.chain.iter().fold(String::new(), |mut text, der| {
            text.push_str(&pem("CERTIFICATE", der));
            text
        })
    }

    /// The key as PKCS#8 PEM text (`PRIVATE KEY`).
    pub fn key_pem(&self) -> String {
        pem("PRIVATE KEY", &self.pkcs8())
    }

    /// The key in the form that is particular to its type: `RSA PRIVATE KEY` (PKCS#1, RFC 8017) or `EC PRIVATE KEY`
    /// (SEC1, RFC 5915). Ed25519 has none.
    pub fn key_pem_traditional(&self) -> String {
        let (algorithm, inner) = parts_of_pkcs8(self.key.serialized_der());
        if self.key.algorithm() == &rcgen::PKCS_RSA_SHA256 {
            return pem("RSA PRIVATE KEY", inner);
        }
        // In PKCS#8 the curve stands in the algorithm; on its own, the key names it itself.
        let (_, curve) = element(element(algorithm).0);
        let fields = element(inner).0;
        let (_version, rest) = element(fields);
        let (_private, public) = element(rest);
        let before = &fields[..fields.len() - public.len()];
        pem("EC PRIVATE KEY", &constructed(0x30, &[before, &constructed(0xa0, curve), public].concat()))
    }

    /// The key as rustls takes it.
    pub fn key_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.pkcs8()))
    }

    /// Version 1 (RFC 5208), as OpenSSL writes it, without the public key that version 2 (RFC 5958) adds for Ed25519.
    fn pkcs8(&self) -> Vec<u8> {
        let (algorithm, inner) = parts_of_pkcs8(self.key.serialized_der());
        let algorithm = constructed(0x30, element(algorithm).0);
        constructed(0x30, &[&[2, 1, 0][..], &algorithm, &constructed(4, inner)].concat())
    }

    /// A `kubernetes.io/tls` Secret manifest.
    pub fn secret(&self, namespace: &str, name: &str) -> String {
        secret(namespace, name, &self.chain_pem(), &self.key_pem())
    }

    /// Writes `NAME.crt` and `NAME.key` into `folder`, and returns where they are.
    pub fn write(&self, folder: &Path, name: &str) -> (PathBuf, PathBuf) {
        let (chain, key) = (folder.join(format!("{name}.crt")), folder.join(format!("{name}.key")));
        std::fs::write(&chain, self.chain_pem()).expect("chain is written");
        std::fs::write(&key, self.key_pem()).expect("key is written");
        (chain, key)
    }
}

/// A `kubernetes.io/tls` Secret manifest with any `chain` and `key`, matching or not.
pub fn secret(namespace: &str, name: &str, chain: &str, key: &str) -> String {
    let (chain, key) = (BASE64.encode(chain), BASE64.encode(key));
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         type: kubernetes.io/tls\ndata: {{tls.crt: {chain}, tls.key: {key}}}\n"
    )
}

/// PEM text (RFC 7468).
pub fn pem(label: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    let encoded = BASE64.encode(der);
    for line in encoded.as_bytes().chunks(64) {
        writeln!(text, "{}", String::from_utf8_lossy(line)).expect("writing to a String");
    }
    writeln!(text, "-----END {label}-----").expect("writing to a String");
    text
}

/// The `privateKeyAlgorithm`, with its tag, and the content of `privateKey` (RFC 5958 §2).
fn parts_of_pkcs8(der: &[u8]) -> (&[u8], &[u8]) {
    let (_version, rest) = element(element(der).0);
    (rest, element(element(rest).1).0)
}

/// A DER element of `content`.
fn constructed(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).expect("keys are short").to_be_bytes();
    let head = match length {
        [0, short @ ..=0x7f] => vec![tag, short],
        [0, short] => vec![tag, 0x81, short],
        [high, low] => vec![tag, 0x82, high, low],
    };
    [&*head, content].concat()
}

/// Content of the first DER element, and what follows it.
fn element(der: &[u8]) -> (&[u8], &[u8]) {
    let (length, head) = match der[1] {
        short @ ..=0x7f => (usize::from(short), 2),
        long => {
            let digits = usize::from(long & 0x7f);
            let length = der[2..2 + digits].iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
            (length, 2 + digits)
        }
    };
    der[head..].split_at(length)
}
