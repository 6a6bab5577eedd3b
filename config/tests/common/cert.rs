//! Certificates made for a test, and the manifests that hold them.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, IsCa, KeyIdMethod,
    KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};

use super::NOW;

/// A day in seconds.
pub(crate) const DAY: i64 = 86_400;

/// A chain and its key in PEM.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    pub(crate) chain: String,
    pub(crate) key: String,
}

fn params(names: &[&str], from: i64, to: i64) -> CertificateParams {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names).unwrap();
    let time =
        |seconds| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(u64::try_from(seconds).unwrap());
    (params.not_before, params.not_after) = (time(from), time(to));
    params
}

/// A certificate for `names`, valid from a day ago to in 90 days.
pub(crate) fn pair(names: &[&str]) -> Pair {
    pair_valid(names, NOW - DAY, NOW + 90 * DAY)
}

/// A certificate for `names`, valid in this time.
pub(crate) fn pair_valid(names: &[&str], from: i64, to: i64) -> Pair {
    with_key(names, from, to, &KeyPair::generate().unwrap())
}

/// A certificate for `names` with this key.
pub(crate) fn with_key(names: &[&str], from: i64, to: i64, key: &KeyPair) -> Pair {
    let chain = params(names, from, to).self_signed(key).unwrap().pem();
    Pair { chain, key: key.serialize_pem() }
}

/// An authority, which can issue and revoke.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Self {
        Self::until(NOW + 900 * DAY)
    }

    /// One whose certificate ends then.
    pub(crate) fn until(end: i64) -> Self {
        let mut params = params(&["ca.test"], NOW - 9 * DAY, end);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate with the authority's own behind it.
    pub(crate) fn issue(&self, names: &[&str]) -> Pair {
        let key = KeyPair::generate().unwrap();
        let leaf = params(names, NOW - DAY, NOW + 90 * DAY).signed_by(&key, &self.0).unwrap();
        Pair { chain: format!("{}{}", leaf.pem(), self.pem()), key: key.serialize_pem() }
    }

    /// A list that revokes one serial number.
    pub(crate) fn revocation_list(&self) -> String {
        self.revocation_list_until(NOW + DAY)
    }

    /// As [`Self::revocation_list`], to be replaced then.
    pub(crate) fn revocation_list_until(&self, due: i64) -> String {
        let time =
            |seconds| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(u64::try_from(seconds).unwrap());
        let params = CertificateRevocationListParams {
            this_update: time(NOW - 9 * DAY),
            next_update: time(due),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: SerialNumber::from(7_u64),
                revocation_time: time(NOW - DAY),
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.0).unwrap().pem().unwrap()
    }
}

/// A manifest of a Secret of `default` with these texts.
pub(crate) fn secret(name: &str, data: &[(&str, &str)]) -> String {
    object("Secret", "type: kubernetes.io/tls\nstringData", name, data)
}

/// A manifest of a ConfigMap of `default` with these texts.
pub(crate) fn config_map(name: &str, data: &[(&str, &str)]) -> String {
    object("ConfigMap", "data", name, data)
}

fn object(kind: &str, section: &str, name: &str, data: &[(&str, &str)]) -> String {
    let mut text = format!("apiVersion: v1\nkind: {kind}\nmetadata: {{name: {name}}}\n{section}:\n");
    for (key, value) in data {
        text.push_str(&format!("  {key}: {}\n", serde_json::to_string(value).unwrap()));
    }
    text
}

/// A Secret with a chain and its key.
pub(crate) fn tls_secret(name: &str, pair: &Pair) -> String {
    secret(name, &[("tls.crt", &pair.chain), ("tls.key", &pair.key)])
}
