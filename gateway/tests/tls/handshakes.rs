//! Handshakes: versions, resumption, deadlines, and what is no handshake.

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use config::table::{ClientPolicy, Limits, TlsMap, TlsVersion};
use rustls::{HandshakeKind, ProtocolVersion};

use crate::certificates::{Authority, Wanted};
use crate::rig::{Client, Rig, exact, policy, roots, socket, status, terminate};

/// A client of one version.
fn of_version(authority: &Authority, version: &'static rustls::SupportedProtocolVersion) -> Client {
    let mut store = rustls::RootCertStore::empty();
    store.add(authority.der()).unwrap();
    let builder = rustls::ClientConfig::builder_with_provider(crate::rig::provider());
    let builder = builder.with_protocol_versions(&[version]).unwrap();
    Client { config: builder.with_root_certificates(store).with_no_client_auth() }
}

#[test]
fn both_versions_are_spoken_and_sessions_resumed() {
    let authority = Authority::new("root");
    let rig = Rig::new(TlsMap::new(Arc::new(policy(&[&authority.issue(&["shop.example"])]))));
    for (version, label) in [(&rustls::version::TLS12, "1.2"), (&rustls::version::TLS13, "1.3")] {
        let client = of_version(&authority, version);
        for expected in [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed] {
            let mut connection = client.connect(rig.https, "shop.example");
            assert_eq!(status(&connection.get("shop.example", "/").unwrap()), 200);
            assert_eq!(connection.0.conn.handshake_kind(), Some(expected), "{label}");
        }
        let count = |kind: &str| {
            rig.metric(&format!("sluicegate_tls_handshakes_total{{version=\"{label}\",kind=\"{kind}\"}}"))
        };
        assert_eq!((count("full"), count("resumed")), (1, 2));
    }
}

#[test]
fn no_session_survives_into_a_policy_that_it_was_not_verified_for() {
    let authority = Authority::new("root");
    let leaf = authority.issue(&["shop.example"]);
    let alice = authority.issue_as(&Wanted::of(&["alice"]).client());
    let with = |client: ClientPolicy| {
        let mut policy = policy(&[&leaf]);
        policy.client = client;
        let mut map = TlsMap::new(Arc::new(crate::rig::policy(&[&leaf])));
        map.set(&exact("shop.example"), terminate(&Arc::new(policy)));
        map
    };
    let mut rig = Rig::new(with(ClientPolicy::None));
    let client = Client::with_certificate(&authority, alice.chain.clone(), alice.key_der());
    let kind = |rig: &Rig| {
        let mut connection = client.connect(rig.https, "shop.example");
        assert_eq!(status(&connection.get("shop.example", "/").unwrap()), 200);
        connection.0.conn.handshake_kind().unwrap()
    };
    assert_eq!(kind(&rig), HandshakeKind::Full);
    assert_eq!(kind(&rig), HandshakeKind::Resumed);
    let other = Authority::new("other");
    let mut lists = (*roots(&authority)).clone();
    lists.certificates = [authority.der(), other.der()].into();
    for policy in [
        ClientPolicy::Require(roots(&authority)),
        ClientPolicy::Optional(roots(&authority)),
        ClientPolicy::Require(Arc::new(lists)),
        ClientPolicy::OptionalNoCa,
    ] {
        rig.publish(with(policy.clone()));
        assert_eq!(kind(&rig), HandshakeKind::Full, "{policy:?}");
        assert_eq!(kind(&rig), HandshakeKind::Resumed, "{policy:?}");
        // Another certificate asks the same of clients.
        rig.publish(with(policy.clone()));
        assert_eq!(kind(&rig), HandshakeKind::Resumed, "{policy:?}");
    }
}

#[test]
fn a_minimum_version_and_cipher_suites_are_kept() {
    let authority = Authority::new("root");
    let leaf = authority.issue(&["new.example", "suite.example"]);
    let (mut new, mut suite) = (policy(&[&leaf]), policy(&[&leaf]));
    new.min_version = TlsVersion::Tls13;
    suite.cipher_suites = ["TLS13_CHACHA20_POLY1305_SHA256".into(), "TLS13_AES_128_GCM_SHA256".into()].into();
    let mut map = TlsMap::new(Arc::new(policy(&[&leaf])));
    map.set(&exact("new.example"), terminate(&Arc::new(new)));
    map.set(&exact("suite.example"), terminate(&Arc::new(suite)));
    let rig = Rig::new(map);
    let old = of_version(&authority, &rustls::version::TLS12);
    assert!(old.connect(rig.https, "new.example").get("new.example", "/").is_err());
    assert!(old.connect(rig.https, "suite.example").get("suite.example", "/").is_err());
    rig.await_failures("incompatible", 2);
    let mut connection = Client::new(&authority).connect(rig.https, "suite.example");
    assert_eq!(status(&connection.get("suite.example", "/").unwrap()), 200);
    let conn = &connection.0.conn;
    assert_eq!(conn.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(
        conn.negotiated_cipher_suite().unwrap().suite(),
        rustls::CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
    );
}

#[test]
fn protocols_that_are_not_offered_end_the_handshake() {
    let authority = Authority::new("root");
    let rig = Rig::new(TlsMap::new(Arc::new(policy(&[&authority.issue(&["shop.example"])]))));
    let mut client = Client::new(&authority);
    client.config.alpn_protocols = vec![b"ftp".to_vec()];
    let error = client.connect(rig.https, "shop.example").get("shop.example", "/").unwrap_err();
    assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");
    client.config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let mut connection = client.connect(rig.https, "shop.example");
    assert_eq!(status(&connection.get("shop.example", "/").unwrap()), 200);
    assert_eq!(connection.0.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
}

/// What comes back for `bytes`, to the end.
fn raw(rig: &Rig, bytes: &[u8]) -> Vec<u8> {
    let mut socket = socket(rig.https);
    socket.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).unwrap();
    answer
}

#[test]
fn what_is_no_tls_is_answered_and_counted() {
    let authority = Authority::new("root");
    let rig = Rig::new(TlsMap::new(Arc::new(policy(&[&authority.issue(&["shop.example"])]))));
    let plain = raw(&rig, b"GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n");
    assert!(plain.starts_with(b"HTTP/1.1 400 Bad Request\r\n"), "{}", String::from_utf8_lossy(&plain));
    assert_eq!(raw(&rig, b"SSH-2.0-OpenSSH\r\n"), [21, 3, 3, 0, 2, 2, 10]);
    assert_eq!(raw(&rig, &[22, 3, 1, 0, 4, 2, 0, 0, 0]), [21, 3, 3, 0, 2, 2, 50]);
    assert_eq!(raw(&rig, &[22, 3, 1, 0x40, 0, 1, 2, 0, 0]), [21, 3, 3, 0, 2, 2, 47]);
    // A hello that is one, with nothing in common.
    let body = [&[3, 3][..], &[7; 32], &[0, 0, 2, 0, 5, 1, 0]].concat();
    let hello = [&[22, 3, 1, 0, 45, 1, 0, 0, 41][..], &body].concat();
    assert_eq!(raw(&rig, &hello)[..5], [21, 3, 3, 0, 2]);
    for (cause, count) in [("not_tls", 2), ("malformed", 2), ("incompatible", 1)] {
        rig.await_failures(cause, count);
    }
}

#[test]
fn a_client_that_leaves_is_counted() {
    let authority = Authority::new("root");
    let rig = Rig::new(TlsMap::new(Arc::new(policy(&[&authority.issue(&["shop.example"])]))));
    let mut leaving = socket(rig.https);
    leaving.write_all(&[22, 3, 1]).unwrap();
    leaving.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(leaving.read(&mut [0]).unwrap(), 0);
    rig.await_failures("closed", 1);
    let doubtful = Client::new(&Authority::new("other"));
    doubtful.connect(rig.https, "shop.example").get("shop.example", "/").unwrap_err();
    rig.await_failures("client_alert", 1);
}

#[test]
fn nobody_has_longer_than_the_deadline() {
    let authority = Authority::new("root");
    let map = TlsMap::new(Arc::new(policy(&[&authority.issue(&["shop.example"])])));
    let limits = Limits { handshake_timeout: Duration::from_millis(300), ..Limits::default() };
    let rig = Rig::with(limits, "", |_| map);
    let hello = {
        let name = "shop.example".try_into().unwrap();
        let config = Arc::new(Client::new(&authority).config);
        let mut client = rustls::ClientConnection::new(config, name).unwrap();
        let mut out = Vec::new();
        client.write_tls(&mut out).unwrap();
        out
    };
    // Nothing, a part of the hello, the whole of it and no more.
    for length in [0, 50, hello.len()] {
        let mut stalling = socket(rig.https);
        stalling.write_all(&hello[..length]).unwrap();
        let mut answer = Vec::new();
        stalling.read_to_end(&mut answer).unwrap();
        assert_eq!(answer.is_empty(), length < hello.len());
    }
    rig.await_failures("timeout", 3);
}

#[test]
fn clients_that_stall_keep_nobody_from_shaking_hands() {
    let authority = Authority::new("root");
    let rig = Rig::new(TlsMap::new(Arc::new(policy(&[&authority.issue(&["shop.example"])]))));
    let client = Client::new(&authority);
    let stalling: Vec<_> = (0..100)
        .map(|_| {
            let mut connection = client.connect(rig.https, "shop.example");
            connection.0.conn.write_tls(&mut connection.0.sock).unwrap();
            connection
        })
        .collect();
    let mut connection = client.connect(rig.https, "shop.example");
    assert_eq!(status(&connection.get("shop.example", "/").unwrap()), 200);
    drop(stalling);
}

#[test]
fn a_close_right_after_the_hello_spins_nothing() {
    let authority = Authority::new("root");
    let rig = Rig::new(TlsMap::new(Arc::new(policy(&[&authority.issue(&["shop.example"])]))));
    let client = Client::new(&authority);
    let mut connection = client.connect(rig.https, "shop.example");
    connection.0.conn.write_tls(&mut connection.0.sock).unwrap();
    // A close_notify in cleartext.
    connection.0.sock.write_all(&[21, 3, 3, 0, 2, 1, 0]).unwrap();
    let mut answer = Vec::new();
    connection.0.sock.read_to_end(&mut answer).unwrap();
    rig.await_failures("client_alert", 1);
}

#[test]
fn rotations_under_load_fail_no_handshake() {
    let authority = Authority::new("root");
    let names = ["shop.example"];
    let mut rig = Rig::new(TlsMap::new(Arc::new(policy(&[&authority.issue(&names)]))));
    let address = rig.https;
    let client = Client::new(&authority);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut count = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let mut connection = client.connect(address, "shop.example");
                assert_eq!(status(&connection.get("shop.example", "/").unwrap()), 200);
                count += 1;
            }
            count
        });
        for _ in 0..50 {
            rig.publish(TlsMap::new(Arc::new(policy(&[&authority.issue(&names)]))));
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(load.join().unwrap() > 0);
    });
}

#[test]
fn an_idle_connection_is_ended_as_tls_demands() {
    let authority = Authority::new("root");
    let map = TlsMap::new(Arc::new(policy(&[&authority.issue(&["shop.example"])])));
    let limits = Limits { idle_timeout: Duration::from_millis(200), ..Limits::default() };
    let rig = Rig::with(limits, "", |_| map);
    let mut connection = Client::new(&authority).connect(rig.https, "shop.example");
    assert_eq!(status(&connection.get("shop.example", "/").unwrap()), 200);
    // rustls tells an end that was not announced by an error.
    assert_eq!(connection.0.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_client_that_has_ended_its_side_gets_its_answer_and_a_proper_end() {
    let authority = Authority::new("root");
    let rig = Rig::new(TlsMap::new(Arc::new(policy(&[&authority.issue(&["shop.example"])]))));
    let mut connection = Client::new(&authority).connect(rig.https, "shop.example");
    connection.0.write_all(b"GET / HTTP/1.0\r\nHost: shop.example\r\n\r\n").unwrap();
    connection.0.conn.send_close_notify();
    connection.0.flush().unwrap();
    let mut answer = String::new();
    connection.0.read_to_string(&mut answer).unwrap();
    assert_eq!(status(&answer), 200);
}

#[test]
fn the_oldest_version_of_a_host_holds_without_a_name_as_well() {
    let authority = Authority::new("root");
    let leaf = authority.issue(&["127.0.0.1", "new.example"]);
    let mut map = TlsMap::new(Arc::new(policy(&[&leaf])));
    let mut strict = policy(&[&leaf]);
    strict.min_version = TlsVersion::Tls13;
    map.set(&exact("new.example"), terminate(&Arc::new(strict)));
    let rig = Rig::new(map);
    for (version, wanted) in [(&rustls::version::TLS12, 421), (&rustls::version::TLS13, 200)] {
        let mut connection = of_version(&authority, version).connect(rig.https, "127.0.0.1");
        assert_eq!(status(&connection.get("new.example", "/").unwrap()), wanted);
    }
}
