//! Secrets that change under load.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use rustls::pki_types::CertificateDer;

use crate::common::certificates::{Authority, Leaf};
use crate::common::{Backend, eventually};
use crate::{Setup, secure, write};

const HOST: &str = "shop.example";

fn manifests(leaf: &Leaf, backend: &Backend) -> String {
    format!("{}---\n{}", secure("shop", HOST, backend, "shop", &[]), leaf.secret("test", "shop"))
}

/// A handshake and a request; the certificate that was shown.
fn ask(config: &Arc<rustls::ClientConfig>, to: std::net::SocketAddr) -> CertificateDer<'static> {
    use std::io::{Read as _, Write as _};
    let client = rustls::ClientConnection::new(Arc::clone(config), HOST.try_into().unwrap()).unwrap();
    let mut tls = rustls::StreamOwned::new(client, std::net::TcpStream::connect(to).unwrap());
    let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
    tls.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    tls.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    tls.conn.peer_certificates().unwrap()[0].clone()
}

fn client(authority: &Authority) -> Arc<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.der()).unwrap();
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let builder = rustls::ClientConfig::builder_with_provider(provider.into());
    let mut config = builder
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    // Every handshake is a full one, so that a certificate is shown.
    config.resumption = rustls::client::Resumption::disabled();
    Arc::new(config)
}

#[test]
fn rotations_under_load_fail_no_handshake_and_touch_no_connection() {
    let setup = Setup::new(&[], |authority, backend| manifests(&authority.issue(&[HOST]), backend));
    let (config, to) = (client(&setup.authority), setup.gateway.https);
    let stop = AtomicBool::new(false);
    let seen = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut count = 0;
            while !stop.load(Relaxed) {
                *seen.lock().unwrap() = ask(&config, to).to_vec();
                count += 1;
            }
            count
        });
        for _ in 0..20 {
            let leaf = setup.authority.issue(&[HOST]);
            write(setup.config.path(), "all.yaml", &manifests(&leaf, &setup.backend));
            eventually("the new certificate is shown", || *seen.lock().unwrap() == *leaf.chain[0]);
        }
        stop.store(true, Relaxed);
        assert!(load.join().unwrap() >= 20);
    });
    let failures = setup.gateway.admin("/metrics");
    let failed: Vec<_> = failures
        .lines()
        .filter(|line| line.starts_with("sluicegate_tls_handshake_failures_total{") && !line.ends_with(" 0"))
        .collect();
    assert_eq!(failed, [] as [&str; 0]);
}

#[test]
fn a_bad_certificate_leaves_the_good_one_in_service() {
    let setup = Setup::new(&[], |authority, backend| manifests(&authority.issue(&[HOST]), backend));
    let (config, to) = (client(&setup.authority), setup.gateway.https);
    let good = ask(&config, to);
    let (one, other) = (setup.authority.issue(&[HOST]), setup.authority.issue(&[HOST]));
    let mixed = crate::common::certificates::secret("test", "shop", &one.chain_pem(), &other.key_pem());
    let text = format!("{}---\n{mixed}", secure("shop", HOST, &setup.backend, "shop", &[]));
    write(setup.config.path(), "all.yaml", &text);
    setup.gateway.wait_for_log("KeyMismatch");
    assert_eq!(ask(&config, to), good);
}
