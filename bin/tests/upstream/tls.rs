//! TLS behind: whom the gateway takes an endpoint for, and whom it shows itself as.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};

use config::table::{BackendPolicy, BackendTls, Certificate, TrustRoots};
use rustls::server::{WebPkiClientVerifier, danger::ClientCertVerifier};
use rustls::{HandshakeKind, RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use crate::certificates::{Authority, Leaf, Wanted};
use crate::client::Client;
use crate::proxy::{Proxy, http1, http2};
use crate::server::Server;

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn roots(authority: &Authority) -> Arc<TrustRoots> {
    Arc::new(TrustRoots {
        name: "test/ca".into(),
        certificates: Box::new([authority.der()]),
        revocation_lists: Box::default(),
        not_after: i64::MAX,
        last_not_after: i64::MAX,
        next_update: None,
    })
}

/// A server's configuration with this certificate, and with clients that `clients` has issued.
pub(crate) fn server(leaf: &Leaf, clients: Option<&Authority>, protocols: &[&str]) -> Arc<ServerConfig> {
    let verifier: Arc<dyn ClientCertVerifier> = match clients {
        None => WebPkiClientVerifier::no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.der()).unwrap();
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build().unwrap()
        }
    };
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(leaf.chain.clone(), leaf.key_der())
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

fn certificate(leaf: &Leaf) -> Arc<Certificate> {
    let key = provider().key_provider.load_private_key(leaf.key_der()).unwrap();
    Arc::new(Certificate {
        name: "test/client".into(),
        key: Arc::new(rustls::sign::CertifiedKey::new(leaf.chain.clone(), key)),
        fingerprint: leaf.chain[0][leaf.chain[0].len() - 32..].try_into().unwrap(),
        not_before: 0,
        not_after: i64::MAX,
        names: Arc::default(),
    })
}

pub(crate) fn over(tls: &BackendTls, policy: BackendPolicy) -> BackendPolicy {
    BackendPolicy { tls: Some(Arc::new(tls.clone())), ..policy }
}

pub(crate) fn named(authority: &Authority, name: &str) -> BackendTls {
    BackendTls { roots: Some(roots(authority)), server_name: Some(name.into()), ..BackendTls::default() }
}

/// An HTTP/1.1 endpoint over TLS, one thread per connection.
pub(crate) struct Https {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Handshake>>>,
}

/// What the endpoint knows of a connection.
#[derive(Clone, Debug)]
struct Handshake {
    sni: Option<String>,
    kind: Option<HandshakeKind>,
    has_certificate: bool,
    requests: usize,
}

impl Https {
    /// Answers each request with `response`, and closes after it if it says so.
    pub(crate) fn start(config: Arc<ServerConfig>, response: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Mutex<Vec<Handshake>>>::default();
        let shared = Arc::clone(&seen);
        std::thread::spawn(move || {
            for tcp in listener.incoming() {
                let (config, seen, tcp) = (Arc::clone(&config), Arc::clone(&shared), tcp.unwrap());
                std::thread::spawn(move || {
                    let session = ServerConnection::new(config).unwrap();
                    serve(StreamOwned::new(session, tcp), &seen, response);
                });
            }
        });
        Self { address, seen }
    }

    fn seen(&self) -> Vec<Handshake> {
        self.seen.lock().unwrap().clone()
    }
}

fn serve(
    mut stream: StreamOwned<ServerConnection, std::net::TcpStream>,
    seen: &Mutex<Vec<Handshake>>,
    response: &str,
) {
    let mut number = None;
    let mut bytes = Vec::new();
    let mut piece = [0; 4_096];
    loop {
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return,
            Ok(n) => bytes.extend_from_slice(&piece[..n]),
        }
        {
            let mut seen = seen.lock().unwrap();
            let number = *number.get_or_insert_with(|| {
                seen.push(Handshake {
                    sni: stream.conn.server_name().map(str::to_owned),
                    kind: stream.conn.handshake_kind(),
                    has_certificate: stream.conn.peer_certificates().is_some(),
                    requests: 0,
                });
                seen.len() - 1
            });
            if !bytes.ends_with(b"\r\n\r\n") && !bytes.ends_with(b"body") {
                continue;
            }
            seen[number].requests += 1;
        }
        bytes.clear();
        stream.write_all(response.as_bytes()).unwrap();
        stream.flush().unwrap();
        if response.contains("close") {
            if response.contains("cut") {
                // No close_notify: anybody could have sent this FIN.
                return;
            }
            stream.conn.send_close_notify();
            let _flushed = stream.flush();
            return;
        }
    }
}

pub(crate) const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn get(proxy: &Proxy, host: &str) -> (u16, String) {
    let mut client = proxy.client();
    request(&mut client, host)
}

fn request(client: &mut Client, host: &str) -> (u16, String) {
    client.send(format!("POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 4\r\n\r\nbody"));
    let answer = client.answer();
    (answer.status, answer.text())
}

#[test]
fn an_endpoint_is_verified_by_the_name_that_is_set() {
    let authority = Authority::new("Inside");
    let endpoint = Https::start(server(&authority.issue(&["shop.internal"]), None, &[]), OK);
    let to = &[endpoint.address][..];
    let proxy = Proxy::start(&[
        ("right", to, over(&named(&authority, "shop.internal"), http1())),
        ("wrong", to, over(&named(&authority, "bank.internal"), http1())),
        ("foreign", to, over(&named(&Authority::new("Outside"), "shop.internal"), http1())),
        ("insecure", to, over(&BackendTls { insecure: true, ..named(&authority, "bank.internal") }, http1())),
    ]);
    assert_eq!(get(&proxy, "right"), (200, "ok".to_owned()));
    assert_eq!(endpoint.seen()[0].sni.as_deref(), Some("shop.internal"));
    for host in ["wrong", "foreign"] {
        assert_eq!(get(&proxy, host), (503, "ConnectFailed\n".to_owned()), "{host}");
    }
    assert_eq!(get(&proxy, "insecure"), (200, "ok".to_owned()));
    let requests: usize = endpoint.seen().iter().map(|handshake| handshake.requests).sum();
    assert_eq!(requests, 2, "a request went to an endpoint that is not who it should be");
}

#[test]
fn a_certificate_out_of_its_time_is_refused_and_another_endpoint_is_tried() {
    let authority = Authority::new("Inside");
    let good = Https::start(server(&authority.issue(&["a"]), None, &[]), OK);
    let leaf = |wanted: Wanted| server(&authority.issue_as(&wanted), None, &[]);
    for bad in [Wanted::of(&["a"]).expired(), Wanted::of(&["a"]).not_yet_valid()] {
        let bad = Https::start(leaf(bad), OK);
        let policy = over(&named(&authority, "a"), http1());
        let proxy = Proxy::start(&[
            ("bad", &[bad.address], policy.clone()),
            ("both", &[bad.address, good.address], policy),
        ]);
        assert_eq!(get(&proxy, "bad").0, 503);
        for _ in 0..4 {
            assert_eq!(get(&proxy, "both").0, 200);
        }
        assert!(bad.seen().is_empty());
    }
}

#[test]
fn without_a_name_the_address_is_verified_and_not_sent() {
    let authority = Authority::new("Inside");
    let by_address = Https::start(server(&authority.issue(&["127.0.0.1"]), None, &[]), OK);
    let by_name = Https::start(server(&authority.issue(&["localhost"]), None, &[]), OK);
    let tls = BackendTls { roots: Some(roots(&authority)), ..BackendTls::default() };
    let proxy = Proxy::start(&[
        ("address", &[by_address.address], over(&tls, http1())),
        ("name", &[by_name.address], over(&tls, http1())),
    ]);
    assert_eq!(get(&proxy, "address").0, 200);
    assert_eq!(by_address.seen()[0].sni, None);
    assert_eq!(get(&proxy, "name").0, 503);
}

#[test]
fn a_session_is_resumed_by_the_next_connection() {
    let authority = Authority::new("Inside");
    let closing = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
    let endpoint = Https::start(server(&authority.issue(&["a"]), None, &[]), closing);
    let proxy = Proxy::start(&[("a", &[endpoint.address], over(&named(&authority, "a"), http1()))]);
    for _ in 0..3 {
        assert_eq!(get(&proxy, "a").0, 200);
    }
    let kinds: Vec<_> = endpoint.seen().iter().map(|handshake| handshake.kind).collect();
    assert_eq!(
        kinds,
        [Some(HandshakeKind::Full), Some(HandshakeKind::Resumed), Some(HandshakeKind::Resumed)]
    );
}

#[test]
fn a_connection_is_kept_for_the_next_request() {
    let authority = Authority::new("Inside");
    let endpoint = Https::start(server(&authority.issue(&["a"]), None, &[]), OK);
    let proxy = Proxy::start(&[("a", &[endpoint.address], over(&named(&authority, "a"), http1()))]);
    let mut client = proxy.client();
    for _ in 0..5 {
        assert_eq!(request(&mut client, "a").0, 200);
    }
    assert_eq!(endpoint.seen().len(), 1);
}

#[test]
fn a_body_that_ends_without_a_goodbye_is_cut() {
    let authority = Authority::new("Inside");
    let config = || server(&authority.issue(&["a"]), None, &[]);
    let cut = Https::start(config(), "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\ncut");
    let whole = Https::start(config(), "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nall");
    let policy = over(&named(&authority, "a"), http1());
    let proxy = Proxy::start(&[("cut", &[cut.address], policy.clone()), ("whole", &[whole.address], policy)]);
    for (host, is_whole) in [("cut", false), ("whole", true)] {
        let mut client = proxy.client();
        client.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(client.answer().is_whole, is_whole, "{host}");
    }
}

#[test]
fn http2_is_spoken_only_where_it_is_agreed_on() {
    let authority = Authority::new("Inside");
    let leaf = authority.issue(&["a"]);
    let both = Server::echo_over(server(&leaf, None, &["http/1.1", "h2"]));
    let old = Https::start(server(&leaf, None, &["http/1.1"]), OK);
    let silent = Https::start(server(&leaf, None, &[]), OK);
    let policy = over(&named(&authority, "a"), http2());
    let proxy = Proxy::start(&[
        ("both", &[both.address], policy.clone()),
        ("old", &[old.address], policy.clone()),
        ("silent", &[silent.address], policy),
    ]);
    assert_eq!(get(&proxy, "both"), (200, "POST / 4".to_owned()));
    for host in ["old", "silent"] {
        assert_eq!(get(&proxy, host), (503, "ConnectFailed\n".to_owned()), "{host}");
    }
}

#[test]
fn no_request_travels_under_another_identity() {
    let authority = Authority::new("Inside");
    let endpoint = Server::echo_over(server(&authority.issue(&["a"]), Some(&authority), &["h2"]));
    let client = |name: &str| BackendTls {
        certificate: Some(certificate(&authority.issue_as(&Wanted::of(&[name]).client()))),
        ..named(&authority, "a")
    };
    let (first, second) = (client("first-client"), client("second-client"));
    let to = &[endpoint.address][..];
    let proxy = Proxy::start(&[
        ("first", to, over(&first, http2())),
        ("second", to, over(&second, http2())),
        ("third", to, over(&first, http2())),
        ("nobody", to, over(&named(&authority, "a"), http2())),
    ]);
    for _ in 0..10 {
        assert_eq!(get(&proxy, "first").1, "POST / 4 first-client");
        assert_eq!(get(&proxy, "second").1, "POST / 4 second-client");
        assert_eq!(get(&proxy, "third").1, "POST / 4 first-client");
        assert_eq!(get(&proxy, "nobody").0, 503);
    }
    assert_eq!(endpoint.seen.connections(), 2, "equal identities share a connection");
    assert!(endpoint.seen.refused.load(SeqCst) > 0);
}

#[test]
fn a_pooled_connection_is_used_by_its_own_identity_only() {
    let authority = Authority::new("Inside");
    let endpoint = Https::start(server(&authority.issue(&["a"]), Some(&authority), &[]), OK);
    let with = |name: &str| {
        let certificate = certificate(&authority.issue_as(&Wanted::of(&[name]).client()));
        over(&BackendTls { certificate: Some(certificate), ..named(&authority, "a") }, http1())
    };
    let to = &[endpoint.address][..];
    let proxy = Proxy::start(&[("first", to, with("first-client")), ("second", to, with("second-client"))]);
    for _ in 0..4 {
        assert_eq!((get(&proxy, "first").0, get(&proxy, "second").0), (200, 200));
    }
    let requests: Vec<_> = endpoint.seen().iter().map(|seen| (seen.requests, seen.has_certificate)).collect();
    assert_eq!(requests, [(4, true), (4, true)]);
}

#[test]
fn an_identity_survives_a_new_table() {
    let authority = Authority::new("Inside");
    let endpoint = Https::start(server(&authority.issue(&["a"]), None, &[]), OK);
    let to = &[endpoint.address][..];
    let policy = || over(&named(&authority, "a"), http1());
    let mut proxy = Proxy::start(&[("a", to, policy())]);
    assert_eq!(get(&proxy, "a").0, 200);
    proxy.publish(&[("a", to, policy()), ("b", to, policy())]);
    assert_eq!((get(&proxy, "a").0, get(&proxy, "b").0), (200, 200));
    assert_eq!(endpoint.seen().len(), 1);
}
