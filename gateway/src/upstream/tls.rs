//! Who the gateway is to its endpoints, and whom it takes them for: configurations made when a table is published, never
//! for a connection, and handshakes with them.
//!
//! Verification is on unless a Backend says otherwise, and a setting that cannot be used fails its connections.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::{Arc, Weak};

use config::table::{BackendProtocol, BackendTls, TrustRoots};
use foldhash::fast::RandomState;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, DigitallySignedStruct, HandshakeKind, RootCertStore, SignatureScheme};
use thiserror::Error;
use tokio::net::TcpStream;

use crate::live::EndpointState;
use crate::metrics::WorkerMetrics;
use crate::tls::TlsStream;
use crate::worker::buffers::Buffers;

/// Sessions with different names that one worker can resume, per identity.
const SESSIONS: usize = 64;
/// Application protocols (RFC 7301 §6).
const HTTP_1_1: &[u8] = b"http/1.1";
const H2: &[u8] = b"h2";

/// Why connections with these settings cannot be made.
#[derive(Clone, Debug, Error)]
enum Unusable {
    #[error("`{0}` is no name that a certificate can have")]
    Name(Arc<str>),
    #[error("no usable certificate authority in `{0}`")]
    NoRoots(Arc<str>),
    #[error("the system has no certificate authorities; name one for this backend, or set SSL_CERT_FILE")]
    NoSystemRoots,
    #[error("{0}")]
    Other(String),
}

/// One way of speaking TLS to endpoints. Connections are shared only within one.
#[derive(Debug)]
pub(crate) struct TlsIdentity {
    /// Unique for the process's life; at least 1.
    id: u64,
    /// `worker → configuration`, and one more for probes: sessions are resumed by whoever had them, without a lock
    /// that others wait for.
    configs: Result<Box<[Arc<ClientConfig>]>, Unusable>,
    server_name: Option<ServerName<'static>>,
    protocol: BackendProtocol,
}

/// The identities in use. Owned by the publisher.
#[derive(Debug)]
pub(crate) struct TlsIdentities {
    workers: usize,
    known: HashMap<(Arc<BackendTls>, BackendProtocol), Weak<TlsIdentity>, RandomState>,
    last: u64,
    provider: Arc<CryptoProvider>,
    /// Read once, when first needed.
    system_roots: Option<Arc<RootCertStore>>,
}

impl TlsIdentities {
    pub(crate) fn new(workers: usize) -> Self {
        Self {
            workers,
            known: HashMap::default(),
            last: 0,
            provider: Arc::new(aws_lc_rs::default_provider()),
            system_roots: None,
        }
    }

    /// The identity for these settings: the same as before while anybody has it.
    pub(crate) fn of(&mut self, tls: &Arc<BackendTls>, protocol: BackendProtocol) -> Arc<TlsIdentity> {
        let key = (Arc::clone(tls), protocol);
        if let Some(identity) = self.known.get(&key).and_then(Weak::upgrade) {
            return identity;
        }
        self.last += 1;
        let (configs, server_name) = match self.make(tls, protocol) {
            Ok((configs, name)) => (Ok(configs), name),
            Err(error) => {
                tracing::error!(%error, "TLS settings of a backend cannot be used: its requests are answered 503");
                (Err(error), None)
            }
        };
        let identity = Arc::new(TlsIdentity { id: self.last, configs, server_name, protocol });
        self.known.retain(|_, known| known.strong_count() > 0);
        self.known.insert(key, Arc::downgrade(&identity));
        identity
    }

    #[expect(clippy::type_complexity, reason = "the two parts of an identity that can fail")]
    fn make(
        &mut self,
        tls: &BackendTls,
        protocol: BackendProtocol,
    ) -> Result<(Box<[Arc<ClientConfig>]>, Option<ServerName<'static>>), Unusable> {
        let name = |name: &Arc<str>| {
            ServerName::try_from(name.to_string()).map_err(|_| Unusable::Name(Arc::clone(name)))
        };
        let server_name = tls.server_name.as_ref().map(name).transpose()?;
        let other = |error: rustls::Error| Unusable::Other(error.to_string());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()
            .map_err(other)?
            .dangerous()
            .with_custom_certificate_verifier(self.verifier(tls)?);
        let mut config = match &tls.certificate {
            Some(certificate) => {
                let key = SingleCertAndKey::from((*certificate.key).clone());
                builder.with_client_cert_resolver(Arc::new(key))
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![alpn(protocol).to_vec()];
        let one = || {
            let mut config = config.clone();
            config.resumption = Resumption::in_memory_sessions(SESSIONS);
            Arc::new(config)
        };
        Ok(((0..=self.workers).map(|_| one()).collect(), server_name))
    }

    fn verifier(&mut self, tls: &BackendTls) -> Result<Arc<dyn ServerCertVerifier>, Unusable> {
        if tls.insecure {
            return Ok(Arc::new(Unverified(Arc::clone(&self.provider))));
        }
        let (roots, lists) = match &tls.roots {
            Some(roots) => (Arc::new(store(roots)?), roots.revocation_lists.to_vec()),
            None => (self.system_roots()?, Vec::new()),
        };
        WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&self.provider))
            .with_crls(lists)
            .allow_unknown_revocation_status()
            .build()
            .map(|verifier| verifier as Arc<dyn ServerCertVerifier>)
            .map_err(|error| Unusable::Other(error.to_string()))
    }

    fn system_roots(&mut self) -> Result<Arc<RootCertStore>, Unusable> {
        let roots = self.system_roots.get_or_insert_with(|| {
            let found = rustls_native_certs::load_native_certs();
            for error in &found.errors {
                tracing::warn!(%error, "cannot read a certificate authority of the system");
            }
            let mut roots = RootCertStore::empty();
            let (known, _) = roots.add_parsable_certificates(found.certs);
            if known == 0 {
                tracing::error!(
                    "the system has no certificate authorities: backends without one of their own fail"
                );
            }
            Arc::new(roots)
        });
        if roots.is_empty() { Err(Unusable::NoSystemRoots) } else { Ok(Arc::clone(roots)) }
    }
}

fn store(roots: &TrustRoots) -> Result<RootCertStore, Unusable> {
    let mut store = RootCertStore::empty();
    let (known, _) = store.add_parsable_certificates(roots.certificates.iter().cloned());
    if known == 0 { Err(Unusable::NoRoots(Arc::clone(&roots.name))) } else { Ok(store) }
}

impl TlsIdentity {
    pub(crate) const fn id(&self) -> u64 {
        self.id
    }

    /// The configuration of a worker; of the probes beyond the last one.
    ///
    /// # Errors
    /// `InvalidInput` if the settings cannot be used.
    pub(crate) fn config(&self, worker: usize) -> io::Result<&Arc<ClientConfig>> {
        let configs = self.configs.as_ref().map_err(|error| invalid(error.clone()))?;
        configs.get(worker).or_else(|| configs.last()).ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    /// The configuration of probes, for `protocol`.
    ///
    /// # Errors
    /// `InvalidInput` if the settings cannot be used.
    pub(crate) fn probe_config(&self, protocol: BackendProtocol) -> io::Result<Arc<ClientConfig>> {
        let config = self.config(usize::MAX)?;
        if protocol == self.protocol {
            return Ok(Arc::clone(config));
        }
        let mut config = (**config).clone();
        config.alpn_protocols = vec![alpn(protocol).to_vec()];
        Ok(Arc::new(config))
    }

    /// What was agreed on is what will be spoken.
    ///
    /// # Errors
    /// `InvalidData` if it is not.
    pub(crate) fn check_own(&self, agreed: Option<&[u8]>) -> io::Result<()> {
        Self::check(self.protocol, agreed)
    }

    /// The name that an endpoint's certificate must have.
    ///
    /// # Errors
    /// `InvalidInput` if no certificate can have it.
    pub(crate) fn name_of(&self, endpoint: &EndpointState) -> io::Result<ServerName<'static>> {
        if let Some(name) = &self.server_name {
            return Ok(name.clone());
        }
        match endpoint.tls_name() {
            Some(name) => {
                ServerName::try_from(name.to_string()).map_err(|_| invalid(Unusable::Name(Arc::clone(name))))
            }
            None => Ok(ServerName::IpAddress(endpoint.address.ip().into())),
        }
    }

    /// `agreed` (RFC 7301) fits `protocol`.
    ///
    /// # Errors
    /// `InvalidData` if it does not.
    pub(crate) fn check(protocol: BackendProtocol, agreed: Option<&[u8]>) -> io::Result<()> {
        match (protocol, agreed) {
            (BackendProtocol::Http1, None | Some(HTTP_1_1)) | (BackendProtocol::Http2, Some(H2)) => Ok(()),
            (BackendProtocol::Http1, Some(_)) => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the endpoint has chosen another protocol than http/1.1",
            )),
            (BackendProtocol::Http2, _) => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "the endpoint does not offer h2 (ALPN)"))
            }
        }
    }
}

fn alpn(protocol: BackendProtocol) -> &'static [u8] {
    match protocol {
        BackendProtocol::Http1 => HTTP_1_1,
        BackendProtocol::Http2 => H2,
    }
}

fn invalid(error: Unusable) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error)
}

/// The handshake on a fresh connection. The caller bounds the time.
pub(crate) async fn handshake(
    worker: usize,
    buffers: &Rc<Buffers>,
    metrics: &WorkerMetrics,
    identity: &TlsIdentity,
    endpoint: &EndpointState,
    tcp: TcpStream,
) -> io::Result<TlsStream> {
    let made = async {
        let config = Arc::clone(identity.config(worker)?);
        let name = identity.name_of(endpoint)?;
        let mut stream = TlsStream::client(tcp, config, name, buffers).map_err(io::Error::other)?;
        poll_fn(|cx| stream.poll_handshake(cx)).await?;
        identity.check_own(stream.facts().alpn_protocol())?;
        Ok(stream)
    };
    match made.await {
        Ok(stream) => {
            match stream.facts().handshake_kind() {
                Some(HandshakeKind::Resumed) => metrics.upstream_tls_resumptions.add(1),
                _ => metrics.upstream_tls_handshakes.add(1),
            }
            Ok(stream)
        }
        Err(error) => {
            metrics.upstream_tls_failures.add(1);
            if endpoint.may_log_tls_failure() {
                tracing::warn!(
                    endpoint.addr = %endpoint.address,
                    %error,
                    "TLS handshake with an endpoint has failed"
                );
            }
            Err(error)
        }
    }
}

/// Takes every certificate. That the endpoint has its key is verified all the same.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
