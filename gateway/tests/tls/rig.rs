//! A gateway of one worker with an encrypted Bind and one in cleartext, in front of an HTTP/1.1 backend that answers
//! with the head of what it was asked.

use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use config::compile::{Compiler, Settings};
use config::index::{Change, Event, Index};
use config::table::{
    BackendId, Bind, BindConfig, Certificate, ClientPolicy, Hostname, Limits, RouteTable, TlsHost, TlsMap,
    TlsPolicy, TlsVersion, TrustRoots,
};
use gateway::Gateway;
use gateway::access_log::{AccessLog, Destination, Format};
use gateway::live::{Publisher, Shared};
use gateway::metrics::Registry;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::certificates::{Authority, Leaf};

/// How long anything may take.
pub const DEADLINE: Duration = Duration::from_secs(10);

pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A policy with these certificates that asks nothing of clients.
pub fn policy(leaves: &[&Leaf]) -> TlsPolicy {
    let certificate = |(at, leaf): (usize, &&Leaf)| {
        let key = CertifiedKey::from_der(leaf.chain.clone(), leaf.key_der(), &provider()).unwrap();
        Arc::new(Certificate {
            name: format!("test/{at}").into(),
            key: Arc::new(key),
            fingerprint: [0; 32],
            not_before: 0,
            not_after: 4_000_000_000,
            names: Arc::default(),
        })
    };
    TlsPolicy {
        certificates: leaves.iter().enumerate().map(certificate).collect(),
        client: ClientPolicy::None,
        min_version: TlsVersion::Tls12,
        cipher_suites: Box::default(),
        http2: false,
    }
}

pub fn roots(authority: &Authority) -> Arc<TrustRoots> {
    Arc::new(TrustRoots {
        name: "test/ca".into(),
        certificates: [authority.der()].into(),
        revocation_lists: Box::default(),
        not_after: i64::MAX,
        last_not_after: i64::MAX,
        next_update: None,
    })
}

pub fn terminate(policy: &Arc<TlsPolicy>) -> TlsHost {
    TlsHost::Terminate(Arc::clone(policy))
}

pub fn exact(name: &str) -> Hostname {
    Hostname::Exact(name.into())
}

/// A running gateway.
pub struct Rig {
    gateway: Option<Gateway>,
    publisher: Publisher,
    registry: Arc<Registry>,
    table: RouteTable,
    /// The encrypted Bind.
    pub https: SocketAddr,
    /// The one in cleartext.
    pub http: SocketAddr,
}

impl Rig {
    pub fn new(map: TlsMap) -> Self {
        Self::with(Limits::default(), "", |_| map)
    }

    /// With other limits, a backend called `raw` if there is text for it, and a map that refers to the table.
    pub fn with(limits: Limits, backends: &str, map: impl FnOnce(&RouteTable) -> TlsMap) -> Self {
        // Only what a route names is compiled.
        let routes =
            if backends.is_empty() { "" } else { "- {name: raw, hosts: [raw.example], backend: raw}\n" };
        Self::made(limits, routes, backends, map)
    }

    /// With one more route, which may name the backend `raw`: the same as the other.
    pub fn with_route(route: &str, map: impl FnOnce(&RouteTable) -> TlsMap) -> Self {
        let raw = format!("- {{name: raw, endpoints: [\"{}\"]}}\n", echo());
        Self::made(Limits::default(), route, &raw, map)
    }

    fn made(limits: Limits, routes: &str, backends: &str, map: impl FnOnce(&RouteTable) -> TlsMap) -> Self {
        let backend = echo();
        let text = format!(
            "listeners:\n- {{name: secure, address: \"127.0.0.1:1\"}}\n\
             - {{name: plain, address: \"127.0.0.2:1\"}}\nroutes:\n- {{name: web, backend: app}}\n{routes}\
             backends:\n- {{name: app, endpoints: [\"{backend}\"]}}\n{backends}"
        );
        let mut table = compile(&text);
        for bind in &mut table.binds {
            let config = BindConfig { limits: limits.clone(), ..(*bind.config).clone() };
            *bind = Arc::new(Bind { config: Arc::new(config), ..(**bind).clone() });
        }
        let map = Arc::new(map(&table));
        encrypt(&mut table, &map);
        let registry = Registry::new(1);
        let (shared, mut publisher) = Shared::new(1);
        let log = AccessLog::start(Format::Off, Destination::Stdout, 1).unwrap();
        let mut gateway = Gateway::start(1, &shared, &registry, &log).unwrap();
        assert!(gateway.open_binds(&table).is_empty());
        publisher.publish(Arc::new(table.clone()));
        let bound = |local: [u8; 4]| {
            gateway.bound().find(|(key, _)| key.ip() == std::net::IpAddr::from(local)).unwrap().1
        };
        let (https, http) = (bound([127, 0, 0, 1]), bound([127, 0, 0, 2]));
        Self { gateway: Some(gateway), publisher, registry, table, https, http }
    }

    /// Publishes the same routes with another map.
    pub fn publish(&mut self, map: TlsMap) {
        encrypt(&mut self.table, &Arc::new(map));
        self.table.version += 1;
        self.publisher.publish(Arc::new(self.table.clone()));
    }

    /// Waits until a series has this value.
    pub fn await_metric(&self, series: &str, value: u64) {
        let end = Instant::now() + DEADLINE;
        while self.metric(series) != value {
            assert!(Instant::now() < end, "{series} is {}, not {value}", self.metric(series));
            std::thread::yield_now();
        }
    }

    /// Waits until so many handshakes have failed for `cause`.
    pub fn await_failures(&self, cause: &str, value: u64) {
        self.await_metric(&format!("sluicegate_tls_handshake_failures_total{{cause=\"{cause}\"}}"), value);
    }

    /// The value of a series, by its whole name.
    pub fn metric(&self, series: &str) -> u64 {
        let mut text = String::new();
        self.registry.render(Some(&self.publisher.shared().load()), &mut text);
        let line =
            text.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')));
        line.unwrap_or_else(|| panic!("no {series} in\n{text}")).rsplit(' ').next().unwrap().parse().unwrap()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Some(gateway) = self.gateway.take() {
            gateway.stop();
        }
    }
}

fn compile(text: &str) -> RouteTable {
    let decoded = config::resource::decode(&"test.yaml".into(), text.as_bytes());
    assert!(decoded.problems.is_empty(), "{:?}", decoded.problems);
    let (mut index, mut change) = (Index::new(), Change::default());
    for object in decoded.objects {
        change.merge(index.apply(Event::Apply(object)));
    }
    let (table, report) = Compiler::new(Settings::default()).compile(&index, &change, 1_000_000_000);
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    (*table).clone()
}

fn encrypt(table: &mut RouteTable, map: &Arc<TlsMap>) {
    table.binds.retain(|bind| bind.config.address.port() <= 1);
    for bind in &mut table.binds {
        let secure = bind.config.address.ip() == std::net::IpAddr::from([127, 0, 0, 1]);
        let mut config = (*bind.config).clone();
        config.https = secure;
        config.address.set_port(0);
        let tls = (secure || map.is_guarded()).then(|| Arc::clone(map));
        *bind = Arc::new(Bind { config: Arc::new(config), tls, hosts: Arc::clone(&bind.hosts) });
    }
}

/// The id of a backend.
pub fn backend(table: &RouteTable, name: &str) -> BackendId {
    let found = table.backends.iter().find(|(_, backend)| &*backend.name == name);
    BackendId(found.unwrap().0)
}

/// Starts a backend for as long as the test runs.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || answer_all(&stream.unwrap()));
        }
    });
    address
}

fn answer_all(stream: &TcpStream) {
    let mut lines = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if lines.read_line(&mut head).unwrap_or(0) == 0 {
                return;
            }
        }
        let length = head.len();
        let response = format!(
            "HTTP/1.1 200 OK\r\nStrict-Transport-Security: upstream\r\nContent-Length: {length}\r\n\r\n{head}"
        );
        if { stream }.write_all(response.as_bytes()).is_err() {
            return;
        }
    }
}

/// A client's side of TLS.
pub struct Client {
    pub config: ClientConfig,
}

impl Client {
    /// Trusts `authority` and has no certificate.
    pub fn new(authority: &Authority) -> Self {
        Self { config: builder(authority).with_no_client_auth() }
    }

    pub fn with_certificate(
        authority: &Authority,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Self {
        Self { config: builder(authority).with_client_auth_cert(chain, key).unwrap() }
    }

    pub fn connect(&self, to: SocketAddr, name: &str) -> Connection {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let client = ClientConnection::new(Arc::new(self.config.clone()), name).unwrap();
        Connection(StreamOwned::new(client, socket(to)))
    }
}

fn builder(authority: &Authority) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    let mut store = RootCertStore::empty();
    store.add(authority.der()).unwrap();
    let builder =
        ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    builder.with_root_certificates(store)
}

/// A socket on which nothing takes longer than [`DEADLINE`].
pub fn socket(to: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(to).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.set_write_timeout(Some(DEADLINE)).unwrap();
    socket
}

/// An open connection.
pub struct Connection(pub StreamOwned<ClientConnection, TcpStream>);

impl Connection {
    /// One request and its response, head and body.
    pub fn get(&mut self, host: &str, path: &str) -> io::Result<String> {
        exchange(&mut self.0, &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"))
    }

    pub fn exchange(&mut self, request: &str) -> io::Result<String> {
        exchange(&mut self.0, request)
    }
}

/// Sends `request` and reads the response by its Content-Length.
pub fn exchange(stream: &mut (impl Read + Write), request: &str) -> io::Result<String> {
    stream.write_all(request.as_bytes())?;
    let (mut seen, mut byte) = (Vec::new(), [0]);
    while !seen.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        seen.push(byte[0]);
    }
    let mut text = String::from_utf8(seen).unwrap();
    let length =
        text.lines().find_map(|line| line.strip_prefix("Content-Length: ")).map(|length| length.parse());
    let mut body = vec![0; length.unwrap_or(Ok(0)).unwrap()];
    stream.read_exact(&mut body)?;
    text.push_str(std::str::from_utf8(&body).unwrap());
    Ok(text)
}

/// The status of a response.
pub fn status(response: &str) -> u16 {
    response.split(' ').nth(1).unwrap().parse().unwrap()
}
