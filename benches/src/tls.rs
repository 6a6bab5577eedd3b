//! TLS as load generators speak it: version 1.3, one group, every chain verified, and sessions resumed always or never.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use rustls::client::{
    ClientConfig, ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{NamedGroup, RootCertStore};

/// The name that certificates are made for and asked for.
pub const NAME: &str = "bench.test";

/// Whether sessions are resumed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sessions {
    /// Every handshake is a full one.
    Full,
    /// Every handshake uses a ticket of a former one, if there is one.
    Resumed,
}

/// A client's settings, which trusts only `roots` (PEM) and offers only `alpn`.
///
/// X25519 alone: what a hello offers decides what the handshake costs the server, so it must not depend on a library's
/// defaults.
///
/// # Errors
/// If there is no certificate in the file.
pub fn client(roots: &Path, alpn: &[u8], sessions: Sessions) -> Result<Arc<ClientConfig>> {
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(roots)? {
        store.add(certificate?).context("no certificate of an authority")?;
    }
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups.retain(|group| group.name() == NamedGroup::X25519);
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(store)
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = match sessions {
        Sessions::Full => Resumption::disabled(),
        Sessions::Resumed => Resumption::store(Arc::new(Tickets::default())),
    };
    Ok(Arc::new(config))
}

/// [`NAME`], as rustls takes it.
///
/// # Errors
/// None in practice: the name is fixed.
pub fn name() -> Result<ServerName<'static>> {
    Ok(ServerName::try_from(NAME)?)
}

/// Every ticket there was, each used once. (The store that comes with rustls keeps eight, which is fewer than the
/// connections that ask at once.)
#[derive(Default)]
struct Tickets(Mutex<Vec<Tls13ClientSessionValue>>);

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tickets")
    }
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'_>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(value);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'_>) -> Option<Tls13ClientSessionValue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }
}
