//! TLS as compiled: which certificate a name gets, what is asked of clients, and how endpoints are spoken to.
//!
//! Values only: certificates are parsed and keys are known to match before they come here; sessions, tickets and
//! handshakes are the gateway's.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;

use foldhash::quality::FixedState;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use rustls::sign::CertifiedKey;
use serde::Serialize;

use super::hosts::Hostname;
use super::rule::{RouteId, Split, Unavailable};

/// A certificate chain with its private key, known to match. Two are equal if their chains are.
#[derive(Clone, Serialize)]
pub struct Certificate {
    /// `namespace/secret`, or the file's path: for logs, metrics and `/debug/table`.
    pub name: Arc<str>,
    /// Chain and key, ready to sign with. Never shown.
    #[serde(skip)]
    pub key: Arc<CertifiedKey>,
    /// SHA-256 of the leaf certificate.
    #[serde(skip)]
    pub fingerprint: [u8; 32],
    /// Start of validity, seconds since 1970.
    pub not_before: i64,
    /// End of validity, seconds since 1970.
    pub not_after: i64,
    /// DNS names and addresses that it is valid for (subjectAltName, RFC 6125 §6.4), as written.
    pub names: Arc<[Arc<str>]>,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("name", &self.name)
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.key.cert == other.key.cert
    }
}

impl Eq for Certificate {}

impl Hash for Certificate {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
        self.fingerprint.hash(state);
    }
}

/// Certificate authorities that somebody is verified against.
#[derive(Clone, Debug, Eq, Hash, PartialEq, Serialize)]
pub struct TrustRoots {
    /// `namespace/name` of the Secret or ConfigMap, or the file's path.
    pub name: Arc<str>,
    /// At least one.
    #[serde(skip)]
    pub certificates: Box<[CertificateDer<'static>]>,
    /// Revocation lists; certificates that none of them covers are not revoked.
    #[serde(skip)]
    pub revocation_lists: Box<[CertificateRevocationListDer<'static>]>,
    /// When the first authority's validity ends, seconds since 1970.
    pub not_after: i64,
    /// When the last one's does.
    pub last_not_after: i64,
    /// When the first list is due to be replaced (RFC 5280 §5.1.2.5), seconds since 1970.
    pub next_update: Option<i64>,
}

impl TrustRoots {
    /// Whether both verify the same peers, whatever they are called and in whatever order they are written.
    #[must_use]
    pub fn verifies_the_same(&self, other: &Self) -> bool {
        fn sorted<T: AsRef<[u8]>>(all: &[T]) -> Vec<&[u8]> {
            let mut all: Vec<&[u8]> = all.iter().map(AsRef::as_ref).collect();
            all.sort_unstable();
            all.dedup();
            all
        }
        sorted(&self.certificates) == sorted(&other.certificates)
            && sorted(&self.revocation_lists) == sorted(&other.revocation_lists)
    }
}

/// Oldest protocol version that is spoken.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246).
    #[default]
    #[serde(rename = "1.2")]
    Tls12,
    /// TLS 1.3 (RFC 8446).
    #[serde(rename = "1.3")]
    Tls13,
}

/// What is asked of clients.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClientPolicy {
    /// Nothing.
    #[default]
    None,
    /// A certificate that one of `roots` has issued: without one there is no connection, and no cleartext either.
    Require(Arc<TrustRoots>),
    /// As [`Self::Require`] if the client sends a certificate; it may send none.
    Optional(Arc<TrustRoots>),
    /// Any certificate, verified by nobody, or none.
    OptionalNoCa,
    /// The setting is invalid: every request is answered 503 (invariant 10).
    Closed,
}

impl ClientPolicy {
    /// Whether both ask the same of clients, whatever their authorities are called.
    #[must_use]
    pub fn asks_the_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Require(one), Self::Require(other)) | (Self::Optional(one), Self::Optional(other)) => {
                Arc::ptr_eq(one, other) || one.verifies_the_same(other)
            }
            _ => self == other,
        }
    }
}

/// How connections to one or several hosts are encrypted. Hosts with the same policy share the allocation: a
/// connection that was opened for one of them may carry requests for the others (RFC 9110 §7.4), and only then.
#[derive(Clone, Debug, Eq, Hash, PartialEq, Serialize)]
pub struct TlsPolicy {
    /// The first whose key suits the client is used; at least one on an encrypted Bind.
    pub certificates: Box<[Arc<Certificate>]>,
    /// What is asked of clients.
    pub client: ClientPolicy,
    /// Oldest protocol version.
    pub min_version: TlsVersion,
    /// Cipher suites by their IANA names, such as `TLS13_AES_128_GCM_SHA256`, in order of preference, all known to
    /// be implemented; empty = the default ones.
    pub cipher_suites: Box<[Arc<str>]>,
    /// `h2` is offered besides `http/1.1` (RFC 7301).
    pub http2: bool,
}

/// What becomes of connections for one name.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TlsHost {
    /// They end here.
    Terminate(Arc<TlsPolicy>),
    /// They are relayed as they are.
    Passthrough(Arc<Passthrough>),
}

impl TlsHost {
    fn is_guarded(&self) -> bool {
        matches!(self, Self::Terminate(policy) if policy.is_guarded())
    }
}

impl TlsPolicy {
    /// True if hosts with this policy must not be served in cleartext.
    #[must_use]
    pub fn is_guarded(&self) -> bool {
        matches!(self.client, ClientPolicy::Require(_) | ClientPolicy::Closed)
    }
}

fn shard_of(key: &str) -> usize {
    // The map's own hash uses the same function, so the shard takes bits that a table index does not.
    usize::try_from(FixedState::with_seed(1).hash_one(key) >> 58).unwrap_or(0)
}

/// Where connections are relayed to.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Passthrough {
    /// The route that asks for it.
    pub route: RouteId,
    /// The choice among backends, or why there is none: such connections are closed.
    pub split: Result<Split, Unavailable>,
}

/// Number of shards: a change to one host of 100,000 copies about 1,600 entries.
const SHARDS: usize = 64;

/// exact host, or wildcard suffix with its leading dot → what becomes of it
type Shard = HashMap<Arc<str>, TlsHost, FixedState>;

/// name → what becomes of connections for it, for the encrypted Binds. Cloning copies 64 pointers; changing a host
/// copies its shard.
#[derive(Clone, Debug)]
pub struct TlsMap {
    shards: Vec<Arc<Shard>>,
    default: Arc<TlsPolicy>,
    /// Number of hosts that must not be served in cleartext, without the default.
    guarded: usize,
}

impl TlsMap {
    /// A map in which every name gets `default`.
    #[must_use]
    pub fn new(default: Arc<TlsPolicy>) -> Self {
        Self { shards: vec![Arc::default(); SHARDS], default, guarded: 0 }
    }

    /// Sets what becomes of `hostname`. [`Hostname::Any`] can only be terminated, and replaces the default.
    pub fn set(&mut self, hostname: &Hostname, host: TlsHost) {
        match (hostname, host) {
            (Hostname::Exact(key) | Hostname::Wildcard(key), host) => {
                self.guarded += usize::from(host.is_guarded());
                let old = self.shard_mut(key).and_then(|shard| shard.insert(Arc::clone(key), host));
                self.guarded -= usize::from(old.is_some_and(|old| old.is_guarded()));
            }
            (Hostname::Any, TlsHost::Terminate(policy)) => self.default = policy,
            (Hostname::Any, TlsHost::Passthrough(_)) => {}
        }
    }

    /// Makes `hostname` a name like any other again. [`Hostname::Any`] has no effect: there is always a default.
    pub fn remove(&mut self, hostname: &Hostname) {
        let (Hostname::Exact(key) | Hostname::Wildcard(key)) = hostname else { return };
        if !self.shard(key).is_some_and(|shard| shard.contains_key(key)) {
            return;
        }
        let old = self.shard_mut(key).and_then(|shard| shard.remove(key));
        self.guarded -= usize::from(old.is_some_and(|old| old.is_guarded()));
    }

    fn shard(&self, key: &str) -> Option<&Arc<Shard>> {
        self.shards.get(shard_of(key))
    }

    fn shard_mut(&mut self, key: &str) -> Option<&mut Shard> {
        self.shards.get_mut(shard_of(key)).map(Arc::make_mut)
    }

    fn host(&self, key: &str) -> Option<&TlsHost> {
        self.shard(key)?.get(key)
    }

    /// What becomes of `name` (lower-case, without trailing dot): exact, then the wildcard of one label. `None` =
    /// [`Self::default_policy`].
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&TlsHost> {
        self.host(name).or_else(|| {
            let at = name.find('.').filter(|at| *at > 0)?;
            self.host(name.get(at..)?)
        })
    }

    /// What becomes of exactly `hostname`; `None` for [`Hostname::Any`].
    #[must_use]
    pub fn exactly(&self, hostname: &Hostname) -> Option<&TlsHost> {
        match hostname {
            Hostname::Exact(key) | Hostname::Wildcard(key) => self.host(key),
            Hostname::Any => None,
        }
    }

    /// The policy under which requests for `name` are served; `None` if its connections are passed through.
    #[must_use]
    pub fn policy(&self, name: &str) -> Option<&Arc<TlsPolicy>> {
        match self.find(name) {
            Some(TlsHost::Terminate(policy)) => Some(policy),
            Some(TlsHost::Passthrough(_)) => None,
            None => Some(&self.default),
        }
    }

    /// The policy for names that no host has, and for clients that name none.
    #[must_use]
    pub fn default_policy(&self) -> &Arc<TlsPolicy> {
        &self.default
    }

    /// True if some host must not be served in cleartext.
    #[must_use]
    pub fn is_guarded(&self) -> bool {
        self.guarded > 0 || self.default.is_guarded()
    }

    /// Every policy, the default first; some of them more than once.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<TlsPolicy>> {
        let terminated = self.hosts().filter_map(|(_, host)| match host {
            TlsHost::Terminate(policy) => Some(policy),
            TlsHost::Passthrough(_) => None,
        });
        std::iter::once(&self.default).chain(terminated)
    }

    /// The policies of hosts in the parts of this map that `other` does not share, once for each host; the default if
    /// `other` has another one. What a change costs, where a walk over all would cost the whole map.
    pub fn policies_unlike<'a>(
        &'a self,
        other: Option<&'a Self>,
    ) -> impl Iterator<Item = &'a Arc<TlsPolicy>> {
        let is_shared = move |(index, shard): (usize, &Arc<Shard>)| {
            other.and_then(|other| other.shards.get(index)).is_some_and(|known| Arc::ptr_eq(known, shard))
        };
        let parts = self.shards.iter().enumerate().filter(move |part| !is_shared(*part));
        let terminated = parts.flat_map(|(_, shard)| shard.values()).filter_map(|host| match host {
            TlsHost::Terminate(policy) => Some(policy),
            TlsHost::Passthrough(_) => None,
        });
        let default = Some(&self.default);
        let is_known =
            move |default: &&Arc<TlsPolicy>| other.is_some_and(|other| Arc::ptr_eq(&other.default, default));
        default.filter(move |default| !is_known(default)).into_iter().chain(terminated)
    }

    /// Every name (exact host, or wildcard suffix with its leading dot), in no particular order.
    pub fn hosts(&self) -> impl Iterator<Item = (&Arc<str>, &TlsHost)> {
        self.shards.iter().flat_map(|shard| shard.iter())
    }
}

/// How endpoints of a Backend are spoken to over TLS. Connections are shared only between equal ones.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq, Serialize)]
pub struct BackendTls {
    /// Do not verify the endpoint's certificate. Off unless asked for.
    pub insecure: bool,
    /// Verify against these; against the system's roots when absent.
    pub roots: Option<Arc<TrustRoots>>,
    /// Name to send (SNI) and to verify; when absent, the endpoint's DNS name, or else its address, which is
    /// verified and not sent (RFC 6066 §3).
    pub server_name: Option<Arc<str>>,
    /// Certificate to show to the endpoint.
    pub certificate: Option<Arc<Certificate>>,
}
