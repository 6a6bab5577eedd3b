//! The server: its socket, its TLS, its threads, and the kubeconfig with which it is reached.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::PrivateKeyDer;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;

use crate::auth::Token;
use crate::faults::{Fault, FaultId, Faults};
use crate::lifecycle;
use crate::line::connection;
use crate::requests::Requests;
use crate::state::State;
use crate::write::Strictness;

/// How a server is to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it listens; the threads that serve are in the network namespace of the one that starts it.
    pub address: IpAddr,
    /// Port there; 0 takes a free one.
    pub port: u16,
    /// Who may ask. The first stands in the kubeconfig.
    pub tokens: Vec<Token>,
    /// How many changes of each kind are remembered; older watches and pages get 410.
    pub history: usize,
    /// The version before the first.
    pub first_version: u64,
    /// What is done with unknown fields where a request does not say it (`fieldValidation`).
    pub unknown_fields: Strictness,
    /// How often a quiet watch that asks for bookmarks gets one.
    pub bookmark_interval: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            address: Ipv4Addr::LOCALHOST.into(),
            port: 0,
            tokens: vec![Token::admin("test-token")],
            history: 4_096,
            first_version: 1_000,
            unknown_fields: Strictness::Strict,
            bookmark_interval: Duration::from_secs(60),
        }
    }
}

/// A server that runs until it is dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    state: Arc<State>,
    runtime: Option<Runtime>,
}

impl Server {
    /// Opens the socket and serves.
    ///
    /// # Errors
    ///
    /// If the socket cannot be opened, or no certificate or thread can be made.
    pub fn start(options: Options) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind((options.address, options.port))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (certificate, acceptor) = identity(options.address)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("apiserver")
            .enable_all()
            .build()?;
        let (tasks, receiver) = mpsc::unbounded_channel();
        let state = Arc::new(State::new(options, address, certificate, tasks));
        state.begin();
        runtime.spawn(lifecycle::run(Arc::downgrade(&state), receiver));
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(listener)?
        };
        runtime.spawn(accept(listener, address, acceptor, state.clone()));
        Ok(Self { address, state, runtime: Some(runtime) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The certificate that it shows, in PEM; it is its own authority.
    #[must_use]
    pub fn certificate(&self) -> &str {
        self.state.certificate()
    }

    /// A kubeconfig for the first token.
    #[must_use]
    pub fn kubeconfig(&self) -> String {
        let token = self.state.options.tokens.first().map(|token| token.token.as_str());
        self.kubeconfig_of(token.unwrap_or_default())
    }

    /// A kubeconfig for any token, known or not.
    #[must_use]
    pub fn kubeconfig_of(&self, token: &str) -> String {
        let authority = STANDARD.encode(self.certificate());
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
             contexts: [{{name: test, context: {{cluster: test, user: test}}}}]\n\
             clusters: [{{name: test, cluster: {{server: \"https://{}\", certificate-authority-data: {authority}}}}}]\n\
             users: [{{name: test, user: {{token: \"{token}\"}}}}]\n",
            self.address
        )
    }

    /// Writes [`Server::kubeconfig`] to a file.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn write_kubeconfig(&self, path: &Path) -> io::Result<()> {
        std::fs::write(path, self.kubeconfig())
    }

    /// What is to go wrong.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.state.faults
    }

    /// Adds a fault. [`Effect::Stale`](crate::Effect::Stale) without a version stands still from now on.
    pub fn fail(&self, fault: Fault) -> FaultId {
        self.state.add_fault(fault)
    }

    /// Forgets all changes so far, as compaction does: watches from older versions and pages of older lists get 410.
    pub fn compact(&self) {
        self.state.compact();
    }

    /// As after a restored backup: every object has a new version, counted from `first` or from far ahead of now, nothing
    /// older is known, and all connections are reset. The latest version.
    pub fn forget_history(&self, first: Option<u64>) -> u64 {
        self.state.forget_history(first)
    }

    /// Stores an object without looking at it, whatever it says: what an old server or an older schema may have left.
    ///
    /// # Errors
    ///
    /// If its kind is not served, or it has no name.
    pub fn plant(&self, object: serde_json::Value) -> Result<(), String> {
        self.state.plant(object).map_err(|failure| failure.message)
    }

    /// The latest resource version.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.state.store().version()
    }

    /// What was asked.
    #[must_use]
    pub fn requests(&self) -> &Requests {
        &self.state.requests
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A certificate for loopback, and what shows it.
fn identity(address: IpAddr) -> io::Result<(String, TlsAcceptor)> {
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    if !address.is_loopback() {
        names.push(address.to_string());
    }
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(names).map_err(io::Error::other)?;
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).map_err(io::Error::other)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(vec![cert.der().clone()], key))
        .map_err(io::Error::other)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok((cert.pem(), TlsAcceptor::from(Arc::new(config))))
}

/// Accepts connections; while the server is to be gone, its port is closed.
async fn accept(first: TcpListener, address: SocketAddr, acceptor: TlsAcceptor, state: Arc<State>) {
    let mut refusing = state.faults.refusing();
    let mut listener = Some(first);
    loop {
        let Some(open) = &listener else {
            if !until(&mut refusing, false).await {
                return;
            }
            match TcpListener::bind(address).await {
                Ok(again) => listener = Some(again),
                // Somebody took the port, or it lingers.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
            continue;
        };
        tokio::select! {
            accepted = open.accept() => match accepted {
                Ok((stream, _)) => {
                    tokio::spawn(connection(stream, acceptor.clone(), state.clone()));
                }
                // Too many files, most likely: others end meanwhile.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
            told = until(&mut refusing, true) => {
                if !told {
                    return;
                }
                listener = None;
            }
        }
    }
}

/// Waits for a switch; false if nobody can turn it any more.
async fn until(switch: &mut watch::Receiver<bool>, wanted: bool) -> bool {
    switch.wait_for(|now| *now == wanted).await.is_ok()
}
