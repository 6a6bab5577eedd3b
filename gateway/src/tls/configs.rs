//! From policies to what rustls wants: made when a table is published, never in a handshake, and kept for as long as
//! the policy is in the table. Sessions are resumed only where what is asked of clients is the same.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Instant;

use config::table::{Certificate, ClientPolicy, RouteTable, TlsMap, TlsPolicy, TlsVersion, TrustRoots};
use foldhash::fast::RandomState;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, SupportedKxGroup, WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{
    ClientHello, NoClientAuth, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig, SignatureScheme,
    SupportedProtocolVersion,
};

use super::tickets::Tickets;

/// Key exchange groups. Which one is used is the client's choice; the classic ones are the cheapest.
static GROUPS: [&dyn SupportedKxGroup; 4] = [
    aws_lc_rs::kx_group::X25519,
    aws_lc_rs::kx_group::SECP256R1,
    aws_lc_rs::kx_group::SECP384R1,
    aws_lc_rs::kx_group::X25519MLKEM768,
];

/// Application protocols (RFC 7301, RFC 9113 §3.2), the preferred one first.
const PROTOCOLS: [&[u8]; 2] = [HTTP2, b"http/1.1"];
pub(super) const HTTP2: &[u8] = b"h2";

/// Parts of [`ServerConfigs`], of which a change copies those that it touches.
const SHARDS: usize = 64;

/// address of the policy → policy and configuration, unless it could not be made
type Shard = HashMap<usize, (Arc<TlsPolicy>, Option<Arc<ServerConfig>>), RandomState>;

/// Every policy of one table with its configuration. Cloning copies 64 pointers.
#[derive(Clone, Debug)]
pub struct ServerConfigs {
    shards: Vec<Arc<Shard>>,
}

impl Default for ServerConfigs {
    fn default() -> Self {
        Self { shards: vec![Arc::default(); SHARDS] }
    }
}

impl ServerConfigs {
    /// The configuration of a policy of the same table; `None` if it could not be made.
    #[must_use]
    pub fn of(&self, policy: &Arc<TlsPolicy>) -> Option<&Arc<ServerConfig>> {
        let address = address(policy);
        let (_, config) = self.shards.get(shard_of(address))?.get(&address)?;
        config.as_ref()
    }

    fn shard_mut(&mut self, address: usize) -> Option<&mut Shard> {
        self.shards.get_mut(shard_of(address)).map(Arc::make_mut)
    }
}

fn address(policy: &Arc<TlsPolicy>) -> usize {
    Arc::as_ptr(policy).addr()
}

fn shard_of(address: usize) -> usize {
    // Allocations of one size lie at multiples of 16.
    (address >> 4) % SHARDS
}

/// Makes configurations. Owned by the publisher.
#[derive(Debug)]
pub(crate) struct Workshop {
    provider: Arc<CryptoProvider>,
    /// cipher suites → provider with these only
    providers: HashMap<Box<[Arc<str>]>, Weak<CryptoProvider>, RandomState>,
    /// what is asked of clients → tickets for sessions with them
    tickets: HashMap<ClientPolicy, Weak<Tickets>, RandomState>,
    /// For policies that ask nothing of clients.
    open_tickets: Option<Arc<Tickets>>,
    /// address of the policy → hosts that have it, over all Binds; each is kept by the configurations
    uses: HashMap<usize, usize, RandomState>,
    /// Look for tickets and providers that nobody uses any more when there are more than these.
    sweep_at: usize,
}

impl Workshop {
    pub(crate) fn new() -> Self {
        let provider = CryptoProvider { kx_groups: GROUPS.to_vec(), ..aws_lc_rs::default_provider() };
        let open_tickets = Tickets::new(Instant::now()).map(Arc::new);
        Self {
            provider: Arc::new(provider),
            providers: HashMap::default(),
            tickets: HashMap::default(),
            open_tickets,
            uses: HashMap::default(),
            sweep_at: 64,
        }
    }

    /// Configurations for `new`, given those of `old`. Costs what changed of certificates, names and settings of TLS.
    pub(crate) fn build(
        &mut self,
        new: &RouteTable,
        old: &RouteTable,
        configs: &Arc<ServerConfigs>,
    ) -> Arc<ServerConfigs> {
        if maps(new).map(|(_, map)| Arc::as_ptr(map)).eq(maps(old).map(|(_, map)| Arc::as_ptr(map))) {
            return Arc::clone(configs);
        }
        let mut configs = ServerConfigs::clone(configs);
        // What comes goes first, so that nothing is made anew that only moves.
        for (came, other) in differences(new, old) {
            for policy in came.policies_unlike(other.map(|map| &**map)) {
                self.join(policy, &mut configs);
            }
        }
        for (gone, other) in differences(old, new) {
            for policy in gone.policies_unlike(other.map(|map| &**map)) {
                self.leave(policy, &mut configs);
            }
        }
        if self.tickets.len().max(self.providers.len()) > self.sweep_at {
            self.providers.retain(|_, provider| provider.strong_count() > 0);
            self.tickets.retain(|_, tickets| tickets.strong_count() > 0);
            self.sweep_at = (2 * self.tickets.len().max(self.providers.len())).max(64);
        }
        Arc::new(configs)
    }

    fn join(&mut self, policy: &Arc<TlsPolicy>, configs: &mut ServerConfigs) {
        let uses = self.uses.entry(address(policy)).or_default();
        *uses += 1;
        if *uses > 1 {
            return;
        }
        let config = self.config(policy).map(Arc::new).map_err(|error| {
            let names: Vec<&str> = policy.certificates.iter().map(|one| &*one.name).collect();
            tracing::error!(certificates = ?names, %error, "TLS settings cannot be used: handshakes fail");
        });
        if let Some(shard) = configs.shard_mut(address(policy)) {
            shard.insert(address(policy), (Arc::clone(policy), config.ok()));
        }
    }

    fn leave(&mut self, policy: &Arc<TlsPolicy>, configs: &mut ServerConfigs) {
        let Some(uses) = self.uses.get_mut(&address(policy)) else { return };
        *uses = uses.saturating_sub(1);
        if *uses == 0 {
            self.uses.remove(&address(policy));
            if let Some(shard) = configs.shard_mut(address(policy)) {
                shard.remove(&address(policy));
            }
        }
    }

    fn config(&mut self, policy: &TlsPolicy) -> Result<ServerConfig, Error> {
        let provider = self.provider(&policy.cipher_suites);
        let verifier = verifier(&policy.client, &provider)?;
        let versions: Vec<&SupportedProtocolVersion> = [&rustls::version::TLS13, &rustls::version::TLS12]
            .into_iter()
            .filter(|version| policy.min_version == TlsVersion::Tls12 || **version == rustls::version::TLS13)
            .filter(|version| provider.cipher_suites.iter().any(|suite| suite.version() == *version))
            .collect();
        let certificates = policy.certificates.clone();
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(BySignature { certificates }));
        config.ignore_client_order = !policy.cipher_suites.is_empty();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        if let Some(tickets) = self.tickets(&policy.client) {
            config.ticketer = tickets;
        } else {
            config.send_tls13_tickets = 0;
        }
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
        if !policy.http2 {
            config.alpn_protocols.retain(|protocol| protocol != HTTP2);
        }
        Ok(config)
    }

    fn provider(&mut self, suites: &[Arc<str>]) -> Arc<CryptoProvider> {
        if suites.is_empty() {
            return Arc::clone(&self.provider);
        }
        if let Some(provider) = self.providers.get(suites).and_then(Weak::upgrade) {
            return provider;
        }
        let named = |name: &Arc<str>| {
            aws_lc_rs::ALL_CIPHER_SUITES.iter().find(|suite| suite.suite().as_str() == Some(&**name)).copied()
        };
        let cipher_suites = suites.iter().filter_map(named).collect();
        let provider = Arc::new(CryptoProvider { cipher_suites, ..(*self.provider).clone() });
        self.providers.insert(suites.into(), Arc::downgrade(&provider));
        provider
    }

    fn tickets(&mut self, client: &ClientPolicy) -> Option<Arc<Tickets>> {
        match client {
            ClientPolicy::None | ClientPolicy::Closed => self.open_tickets.clone(),
            ClientPolicy::Require(_) | ClientPolicy::Optional(_) | ClientPolicy::OptionalNoCa => {
                if let Some(tickets) = self.tickets.get(client).and_then(Weak::upgrade) {
                    return Some(tickets);
                }
                let tickets = Arc::new(Tickets::new(Instant::now())?);
                self.tickets.insert(client.clone(), Arc::downgrade(&tickets));
                Some(tickets)
            }
        }
    }
}

/// The maps of all encrypted Binds, by address.
fn maps(table: &RouteTable) -> impl Iterator<Item = (SocketAddr, &Arc<TlsMap>)> {
    let encrypted = table.binds.iter().filter(|bind| bind.config.https);
    encrypted.filter_map(|bind| Some((bind.config.address, bind.tls.as_ref()?)))
}

/// Each Bind's map in `of`, and in `other`, where these are not the same.
fn differences<'t>(
    of: &'t RouteTable,
    other: &'t RouteTable,
) -> impl Iterator<Item = (&'t Arc<TlsMap>, Option<&'t Arc<TlsMap>>)> {
    maps(of).filter_map(move |(address, map)| {
        let other = maps(other).find(|(known, _)| *known == address).map(|(_, map)| map);
        (!other.is_some_and(|other| Arc::ptr_eq(other, map))).then_some((map, other))
    })
}

fn verifier(
    client: &ClientPolicy,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    let (roots, optional) = match client {
        // Requests on connections of a closed host are answered 503, whoever sends them.
        ClientPolicy::None | ClientPolicy::Closed => return Ok(Arc::new(NoClientAuth)),
        ClientPolicy::OptionalNoCa => {
            return Ok(Arc::new(AnyCertificate { algorithms: provider.signature_verification_algorithms }));
        }
        ClientPolicy::Require(roots) => (roots, false),
        ClientPolicy::Optional(roots) => (roots, true),
    };
    let general = |error: &dyn std::fmt::Display| Error::General(format!("{}: {error}", roots.name));
    let store = Arc::new(store(roots)?);
    let mut builder = WebPkiClientVerifier::builder_with_provider(store, Arc::clone(provider))
        .with_crls(roots.revocation_lists.iter().cloned())
        .allow_unknown_revocation_status();
    if optional {
        builder = builder.allow_unauthenticated();
    }
    builder
        .build()
        .map(|verifier| -> Arc<dyn ClientCertVerifier> { verifier })
        .map_err(|error| general(&error))
}

fn store(roots: &TrustRoots) -> Result<RootCertStore, Error> {
    let mut store = RootCertStore::empty();
    for certificate in &roots.certificates {
        store.add(certificate.clone())?;
    }
    Ok(store)
}

/// Chooses among a policy's certificates by what signatures the client understands.
#[derive(Debug)]
struct BySignature {
    certificates: Box<[Arc<Certificate>]>,
}

impl ResolvesServerCert for BySignature {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let suits = |one: &&Arc<Certificate>| one.key.key.choose_scheme(hello.signature_schemes()).is_some();
        let chosen = self.certificates.iter().find(suits).or_else(|| self.certificates.first())?;
        Some(Arc::clone(&chosen.key))
    }
}

/// Takes any certificate, whoever issued it, from a client that has its key.
#[derive(Debug)]
struct AnyCertificate {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for AnyCertificate {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
