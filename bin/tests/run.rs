//! `sluicegate run`, as a user drives it: real files, real sockets, real signals.

#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a panic is a failed test")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use common::certificates::{Authority, secret};
use common::{Backend, Client, Gateway, eventually, free_address, ingress, run};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::CertificateDer;
use tempfile::TempDir;

const HOST: &str = "shop.example.com";

struct Site {
    folder: TempDir,
    backends: Vec<Backend>,
}

impl Site {
    /// A folder with one Ingress over `count` backends.
    fn new(count: usize) -> Self {
        let backends: Vec<Backend> =
            (1..=count).map(|number| Backend::start(&format!("backend-{number}"))).collect();
        let site = Self { folder: TempDir::new().unwrap(), backends };
        site.write("shop.yaml", &site.manifest());
        site
    }

    fn manifest(&self) -> String {
        let addresses: Vec<_> = self.backends.iter().map(|backend| backend.address).collect();
        ingress("shop", HOST, &addresses)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.path().join(name), text).unwrap();
    }

    fn start(&self, args: &[&str]) -> Gateway {
        Gateway::start(self.folder.path(), args)
    }
}

#[test]
fn ingress_is_served_and_balanced() {
    let site = Site::new(3);
    let gateway = site.start(&[]);
    let mut answers: Vec<String> = (0..6).map(|_| gateway.get(HOST, "/").body).collect();
    answers.sort();
    answers.dedup();
    assert_eq!(answers.len(), 3, "{answers:?}");
    assert_eq!(gateway.get("other.example.com", "/").status, 404);
}

#[test]
fn edit_in_place_is_served() {
    let site = Site::new(1);
    let gateway = site.start(&[]);
    assert_eq!(gateway.get(HOST, "/").status, 200);
    site.write("shop.yaml", &site.manifest().replace(HOST, "new.example.com"));
    gateway.wait_for_status("new.example.com", "/", 200);
    assert_eq!(gateway.get(HOST, "/").status, 404);
}

#[test]
fn rename_over_is_served_and_never_blinks() {
    let site = Site::new(1);
    let gateway = site.start(&[]);
    let manifest = site.manifest();
    for round in 0..20 {
        let host = format!("round-{round}.example.com");
        site.write(
            "shop.yaml.new",
            &format!("{manifest}---\n{}", ingress("extra", &host, &[site.backends[0].address])),
        );
        fs::rename(site.folder.path().join("shop.yaml.new"), site.folder.path().join("shop.yaml")).unwrap();
        eventually(&host, || {
            assert_eq!(gateway.get(HOST, "/").status, 200, "round {round}");
            gateway.get(&host, "/").status == 200
        });
    }
}

#[test]
fn exchanged_symlink_of_a_mounted_config_map_is_served() {
    let site = Site::new(1);
    let folder = TempDir::new().unwrap();
    for (version, host) in [("..1", HOST), ("..2", "new.example.com")] {
        fs::create_dir(folder.path().join(version)).unwrap();
        fs::write(folder.path().join(version).join("shop.yaml"), site.manifest().replace(HOST, host))
            .unwrap();
    }
    symlink("..1", folder.path().join("..data")).unwrap();
    symlink("..data/shop.yaml", folder.path().join("shop.yaml")).unwrap();
    let gateway = Gateway::start(folder.path(), &[]);
    assert_eq!(gateway.get(HOST, "/").status, 200);
    symlink("..2", folder.path().join("..data_tmp")).unwrap();
    fs::rename(folder.path().join("..data_tmp"), folder.path().join("..data")).unwrap();
    gateway.wait_for_status("new.example.com", "/", 200);
    gateway.wait_for_status(HOST, "/", 404);
}

#[test]
fn broken_edit_keeps_the_last_good_version_and_is_told_once() {
    let site = Site::new(1);
    let gateway = site.start(&[]);
    site.write("shop.yaml", "kind: Ingress\nmetadata: {name: [\n");
    let line = gateway.wait_for_log("ERROR");
    assert!(line.contains("shop.yaml"), "{line}");
    assert_eq!(gateway.get(HOST, "/").status, 200);
    assert!(gateway.admin("/metrics").contains("sluicegate_config_problems{severity=\"error\""));
    // The rest of the folder is still followed.
    site.write("more.yaml", &ingress("more", "more.example.com", &[site.backends[0].address]));
    gateway.wait_for_status("more.example.com", "/", 200);
    assert_eq!(gateway.log().matches("ERROR").count(), 1, "{}", gateway.log());
    site.write("shop.yaml", &site.manifest());
    gateway.wait_for_log("problem is gone");
    assert_eq!(gateway.get(HOST, "/").status, 200);
}

#[test]
fn wrong_object_keeps_its_last_good_version_and_others_go_on() {
    let site = Site::new(1);
    let gateway = site.start(&[]);
    let wrong = site.manifest().replace("pathType: Prefix", "pathType: 7");
    let more = ingress("more", "more.example.com", &[site.backends[0].address]);
    site.write("shop.yaml", &format!("{wrong}---\n{more}"));
    gateway.wait_for_status("more.example.com", "/", 200);
    assert_eq!(gateway.get(HOST, "/").status, 200);
    gateway.wait_for_log("ERROR");
}

#[test]
fn removed_file_is_no_longer_served() {
    let site = Site::new(1);
    site.write("more.yaml", &ingress("more", "more.example.com", &[site.backends[0].address]));
    let gateway = site.start(&[]);
    assert_eq!(gateway.get("more.example.com", "/").status, 200);
    fs::remove_file(site.folder.path().join("more.yaml")).unwrap();
    gateway.wait_for_status("more.example.com", "/", 404);
    assert_eq!(gateway.get(HOST, "/").status, 200);
}

#[test]
fn empty_folder_starts_and_is_followed() {
    let site = Site::new(1);
    let folder = TempDir::new().unwrap();
    let gateway = Gateway::start(folder.path(), &[]);
    assert_eq!(gateway.get(HOST, "/").status, 404);
    gateway.wait_for_log("EmptyFolder");
    fs::write(folder.path().join("shop.yaml"), site.manifest()).unwrap();
    gateway.wait_for_status(HOST, "/", 200);
}

#[test]
fn vanished_path_keeps_serving() {
    let site = Site::new(1);
    let mut gateway = Gateway::start(&site.folder.path().join("shop.yaml"), &[]);
    fs::remove_file(site.folder.path().join("shop.yaml")).unwrap();
    gateway.wait_for_log("PathUnreadable");
    assert_eq!(gateway.get(HOST, "/").status, 200);
    assert!(gateway.is_running());
}

#[test]
fn dead_backend_costs_no_request() {
    let site = Site::new(3);
    let gateway = site.start(&[]);
    site.backends[1].stop();
    for _ in 0..60 {
        let answer = gateway.get(HOST, "/");
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert!(!answer.body.contains("backend-2"));
    }
}

#[test]
fn hangup_reads_all_files_and_reopens_the_access_log() {
    let site = Site::new(1);
    let log = site.folder.path().join("access.log");
    let gateway = site.start(&["--access-log", "json", "--access-log-file", log.to_str().unwrap()]);
    gateway.get(HOST, "/one");
    eventually("first line", || fs::read_to_string(&log).is_ok_and(|text| text.contains("/one")));
    let rotated = site.folder.path().join("access.log.1");
    fs::rename(&log, &rotated).unwrap();
    gateway.signal("HUP");
    gateway.wait_for_log("reading everything again");
    eventually("new file", || log.exists());
    gateway.get(HOST, "/two");
    eventually("second line", || fs::read_to_string(&log).is_ok_and(|text| text.contains("/two")));
    assert!(!fs::read_to_string(&rotated).unwrap().contains("/two"));
}

#[test]
fn terminate_finishes_what_is_under_way() {
    let site = Site::new(1);
    let mut gateway = site.start(&[]);
    site.backends[0].set_delay(Duration::from_millis(300));
    let mut client = Client::connect(gateway.http).unwrap();
    client.send(&format!("GET /slow HTTP/1.1\r\nhost: {HOST}\r\n\r\n")).unwrap();
    eventually("request arrived", || !site.backends[0].requests().is_empty());
    gateway.signal("TERM");
    let answer = client.response().unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(client.is_closed());
    assert_eq!(gateway.wait_for_exit().code(), Some(0));
}

#[test]
fn lame_duck_serves_with_readiness_off() {
    let site = Site::new(1);
    let mut gateway = site.start(&["--lame-duck", "1s"]);
    assert_eq!(common::get(gateway.admin, "localhost", "/readyz").status, 200);
    gateway.signal("TERM");
    gateway.wait_for_log("not ready any more");
    assert_eq!(common::get(gateway.admin, "localhost", "/readyz").status, 503);
    assert_eq!(gateway.get(HOST, "/").status, 200);
    assert_eq!(gateway.wait_for_exit().code(), Some(0));
}

#[test]
fn drain_ends_at_its_deadline() {
    let site = Site::new(1);
    let mut gateway = site.start(&["--drain-timeout", "200ms"]);
    site.backends[0].set_delay(Duration::from_secs(10));
    let mut client = Client::connect(gateway.http).unwrap();
    client.send(&format!("GET /slow HTTP/1.1\r\nhost: {HOST}\r\n\r\n")).unwrap();
    eventually("request arrived", || !site.backends[0].requests().is_empty());
    gateway.signal("TERM");
    assert_eq!(gateway.wait_for_exit().code(), Some(0));
    gateway.wait_for_log("drain deadline passed");
}

#[test]
fn a_signal_that_comes_twice_at_once_is_one_signal() {
    let site = Site::new(1);
    let mut gateway = site.start(&[]);
    site.backends[0].set_delay(Duration::from_secs(1));
    let mut client = Client::connect(gateway.http).unwrap();
    client.send(&format!("GET /slow HTTP/1.1\r\nhost: {HOST}\r\n\r\n")).unwrap();
    eventually("request arrived", || !site.backends[0].requests().is_empty());
    // As `timeout` does: to the process, then to its group.
    gateway.signal("TERM");
    gateway.signal("TERM");
    assert_eq!(gateway.wait_for_exit().code(), Some(0));
}

#[test]
fn second_signal_ends_at_once() {
    let site = Site::new(1);
    let mut gateway = site.start(&["--drain-timeout", "10m"]);
    site.backends[0].set_delay(Duration::from_secs(10));
    let mut client = Client::connect(gateway.http).unwrap();
    client.send(&format!("GET /slow HTTP/1.1\r\nhost: {HOST}\r\n\r\n")).unwrap();
    eventually("request arrived", || !site.backends[0].requests().is_empty());
    gateway.signal("TERM");
    gateway.wait_for_log("draining");
    let since = Instant::now();
    gateway.signal("INT");
    assert_eq!(gateway.wait_for_exit().code(), Some(130));
    assert!(since.elapsed() < Duration::from_secs(5));
}

#[test]
fn address_in_use_is_an_error_that_names_the_flag() {
    let site = Site::new(1);
    let taken = site.backends[0].address.to_string();
    let config = site.folder.path().to_str().unwrap();
    let (code, _, error) =
        run(&["run", "--config", config, "--http", &taken, "--https", "none", "--admin", "none"]);
    assert_eq!(code, 1);
    assert!(
        error.contains(&taken) && error.contains("--http") && error.contains("another program"),
        "{error}"
    );
    let (code, _, error) =
        run(&["run", "--config", config, "--http", "127.0.0.1:0", "--https", "none", "--admin", &taken]);
    assert_eq!(code, 1);
    assert!(error.contains(&taken) && error.contains("--admin"), "{error}");
}

#[test]
fn address_of_another_machine_is_an_error_that_says_so() {
    let site = Site::new(1);
    let config = site.folder.path().to_str().unwrap();
    let (code, _, error) =
        run(&["run", "--config", config, "--http", "192.0.2.1:8080", "--https", "none", "--admin", "none"]);
    assert_eq!(code, 1);
    assert!(error.contains("does not have that address"), "{error}");
}

#[test]
fn missing_path_is_an_error_at_the_start() {
    let (code, _, error) = run(&["run", "--config", "/nowhere/at/all", "--admin", "none"]);
    assert_eq!(code, 1);
    assert!(error.contains("/nowhere/at/all"), "{error}");
}

#[test]
fn readiness_and_table_are_shown() {
    let site = Site::new(1);
    let gateway = site.start(&[]);
    assert_eq!(common::get(gateway.admin, "localhost", "/livez").status, 200);
    assert_eq!(common::get(gateway.admin, "localhost", "/readyz").status, 200);
    assert!(gateway.admin("/debug/table").contains(HOST));
}

#[test]
fn every_metric_is_on_the_page_once_and_documented() {
    let site = Site::new(1);
    let gateway = site.start(&[]);
    let metrics = gateway.admin("/metrics");
    let page = fs::read_to_string(format!("{}/../docs/metrics.md", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let mut seen = BTreeSet::new();
    for line in metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let name = line.split(' ').next().unwrap();
        assert!(seen.insert(name), "{name} twice");
        assert!(page.contains(&format!("`{name}`")), "docs/metrics.md lacks {name}");
    }
    assert!(
        seen.contains("sluicegate_config_problems") && seen.contains("sluicegate_requests_total"),
        "{seen:?}"
    );
}

#[test]
fn settings_come_from_the_environment_too() {
    let site = Site::new(1);
    let taken = site.backends[0].address.to_string();
    let output = std::process::Command::new(common::binary())
        .args(["run", "--admin", "none"])
        .env("SLUICEGATE_CONFIG", site.folder.path())
        .env("SLUICEGATE_HTTP", &taken)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains(&taken));
}

/// A native file with a listener at each of `listeners`, and one route to `backend` on all of them.
fn native(listeners: &[SocketAddr], backend: &str) -> String {
    let listeners: Vec<String> = listeners.iter().map(|address| format!("\"{address}\"")).collect();
    format!(
        "listeners: [{}]\nroutes:\n- {{name: all, backend: app}}\nbackends:\n- {{name: app, endpoints: [\"{backend}\"]}}\n",
        listeners.join(", ")
    )
}

#[test]
fn listener_comes_and_goes_with_an_edit() {
    let site = Site::new(1);
    let backend = site.backends[0].address.to_string();
    let (first, second) = (free_address(), free_address());
    site.write("edge.yaml", &native(&[first], &backend));
    let gateway = site.start(&["--http", "none"]);
    assert_eq!(common::get(first, HOST, "/").status, 200);
    site.write("edge.yaml", &native(&[first, second], &backend));
    eventually("second listener", || {
        common::try_get(second, HOST, "/").is_ok_and(|answer| answer.status == 200)
    });
    site.write("edge.yaml", &native(&[second], &backend));
    eventually("first listener closed", || common::try_get(first, HOST, "/").is_err());
    assert_eq!(common::get(second, HOST, "/").status, 200);
    assert!(!gateway.log().contains("ERROR"), "{}", gateway.log());
}

#[test]
fn listener_that_cannot_be_opened_later_is_told_and_the_rest_served() {
    let site = Site::new(1);
    let backend = site.backends[0].address.to_string();
    let first = free_address();
    site.write("edge.yaml", &native(&[first], &backend));
    let mut gateway = site.start(&["--http", "none"]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let second = taken.local_addr().unwrap();
    site.write("edge.yaml", &native(&[first, second], &backend));
    let line = gateway.wait_for_log("cannot listen");
    assert!(line.contains(&second.to_string()), "{line}");
    assert_eq!(common::get(first, HOST, "/").status, 200);
    assert!(gateway.is_running());
    drop(taken);
    eventually("second listener, without any change", || {
        common::try_get(second, HOST, "/").is_ok_and(|answer| answer.status == 200)
    });
}

#[test]
fn endpoint_by_name_is_resolved() {
    let site = Site::new(1);
    let listener = free_address();
    let by_name = format!("localhost:{}", site.backends[0].address.port());
    site.write("edge.yaml", &native(&[listener], &by_name));
    let gateway = site.start(&["--http", "none"]);
    eventually("the name's address is served", || {
        common::try_get(listener, HOST, "/").is_ok_and(|answer| answer.body == "hello from backend-1\n")
    });
    assert!(gateway.admin("/metrics").contains("sluicegate_dns_lookups_total 1\n"));
}

#[test]
fn hundred_edits_under_load_cost_no_request() {
    let site = Site::new(2);
    let gateway = site.start(&[]);
    let address = gateway.http;
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|number| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                let mut client = Client::connect(address).unwrap();
                let mut answered = 0_u32;
                while !stop.load(Relaxed) {
                    // Two clients keep their connection, two use a new one each time.
                    let answer = if number < 2 {
                        client.get(HOST, "/").unwrap()
                    } else {
                        common::get(address, HOST, "/")
                    };
                    assert_eq!(answer.status, 200, "{}", answer.body);
                    answered += 1;
                }
                answered
            })
        })
        .collect();
    let manifest = site.manifest();
    for round in 0..100 {
        let host = format!("round-{round}.example.com");
        site.write(
            "shop.yaml",
            &format!("{manifest}---\n{}", ingress("extra", &host, &[site.backends[0].address])),
        );
        gateway.wait_for_status(&host, "/", 200);
    }
    stop.store(true, Relaxed);
    for client in clients {
        assert!(client.join().unwrap() > 0);
    }
}

/// The leaf certificate that `name` gets at `address`.
fn certificate_of(address: SocketAddr, name: &str) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone))
        .with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from(name.to_owned()).unwrap();
    let mut session = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(common::PATIENCE)).unwrap();
    while session.is_handshaking() {
        session.complete_io(&mut socket).unwrap();
    }
    session.peer_certificates().unwrap()[0].to_vec()
}

/// Takes any certificate: these tests look at which one it is.
#[derive(Debug)]
struct Anyone;

impl rustls::client::danger::ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

#[test]
fn secret_is_served_by_name_and_followed_and_a_bad_one_changes_nothing() {
    let site = Site::new(1);
    let authority = Authority::new("run");
    let (first, second) = (authority.issue(&[HOST]), authority.issue(&[HOST]));
    let tls = format!("spec:\n  tls: [{{hosts: [{HOST}], secretName: cert}}]\n  rules:");
    site.write("shop.yaml", &site.manifest().replacen("spec:\n  rules:", &tls, 1));
    site.write("cert.yaml", &first.secret("test", "cert"));
    let gateway = site.start(&["--https", "127.0.0.1:0"]);
    gateway.wait_for_log("self-signed");
    assert_eq!(certificate_of(gateway.https, HOST), first.chain[0].to_vec());
    assert_ne!(certificate_of(gateway.https, "other.example.com"), first.chain[0].to_vec());
    site.write("cert.yaml", &second.secret("test", "cert"));
    eventually("the new certificate", || certificate_of(gateway.https, HOST) == second.chain[0].to_vec());
    site.write("cert.yaml", &secret("test", "cert", &first.chain_pem(), &second.key_pem()));
    gateway.wait_for_log("the previous version stays in use");
    assert!(
        gateway
            .admin("/metrics")
            .contains("sluicegate_config_problems{severity=\"error\",reason=\"KeyMismatch\"} 1")
    );
    assert!(gateway.admin("/debug/table").contains("KeyMismatch"));
    assert_eq!(certificate_of(gateway.https, HOST), second.chain[0].to_vec());
    fs::remove_file(site.folder.path().join("cert.yaml")).unwrap();
    gateway.wait_for_log("SecretNotFound");
    assert!(!gateway.log().contains("PRIVATE"));
}

#[test]
fn certificate_files_of_a_listener_are_followed() {
    let site = Site::new(1);
    let authority = Authority::new("run");
    let (first, second) = (authority.issue(&[HOST]), authority.issue(&[HOST]));
    first.write(site.folder.path(), "edge");
    let address = free_address();
    let listener = format!(
        "listeners:\n- {{name: edge, address: '{address}', tls: {{certificates: [{{cert: edge.crt, key: edge.key}}]}}}}\n"
    );
    site.write("edge.yaml", &listener);
    let gateway = site.start(&[]);
    assert_eq!(gateway.listeners["edge"], address);
    assert_eq!(certificate_of(address, HOST), first.chain[0].to_vec());
    second.write(site.folder.path(), "edge");
    eventually("the new certificate", || certificate_of(address, HOST) == second.chain[0].to_vec());
}

#[test]
fn explain_says_which_certificate_and_what_is_asked_of_clients() {
    let site = Site::new(1);
    let authority = Authority::new("run");
    let tls = format!("spec:\n  tls: [{{hosts: [{HOST}], secretName: cert}}]\n  rules:");
    let manifest = site.manifest().replacen("spec:\n  rules:", &tls, 1);
    let manifest = manifest.replacen(
        "namespace: test}",
        "namespace: test, annotations: {sluicegate.dev/client-ca: secret/ca}}",
        1,
    );
    site.write("shop.yaml", &manifest);
    site.write("cert.yaml", &authority.issue(&[HOST]).secret("test", "cert"));
    site.write("ca.yaml", &authority.secret("test", "ca"));
    let config = site.folder.path().to_str().unwrap();
    let explain = |url: &str| run(&["explain", "GET", url, "--config", config]);
    let (code, out, error) = explain(&format!("https://{HOST}/"));
    assert_eq!(code, 0, "{out}{error}");
    assert!(
        out.contains("test/cert, for shop.example.com") && out.contains("a certificate of test/ca"),
        "{out}"
    );
    let (_, out, _) = explain(&format!("http://{HOST}/"));
    assert!(out.contains("refused: clients of this host need a certificate of test/ca"), "{out}");
    let (_, out, _) = explain("https://other.example.com/");
    assert!(out.contains("(self-signed)"), "{out}");
}

#[test]
fn one_address_cannot_be_both_http_and_https() {
    let site = Site::new(1);
    let config = site.folder.path().to_str().unwrap();
    let (code, _, error) = run(&[
        "run",
        "--config",
        config,
        "--http",
        "127.0.0.1:1",
        "--https",
        "127.0.0.1:1",
        "--admin",
        "none",
    ]);
    assert_eq!(code, 1);
    assert!(error.contains("--https"), "{error}");
}
