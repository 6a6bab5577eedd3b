//! Certificates and authorities from Secrets and ConfigMaps.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use base64::Engine as _;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};

use crate::cluster::{Cluster, backend};
use crate::common::certificates::{Authority, Leaf};
use crate::common::{PATIENCE, eventually};
use crate::objects::{ingress, site};

fn base64(text: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(text)
}

fn secret(name: &str, leaf: &Leaf) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": "kubernetes.io/tls",
        "data": {"tls.crt": base64(&leaf.chain_pem()), "tls.key": base64(&leaf.key_pem())}})
}

/// GET over TLS by a client that trusts `authority` alone; the status.
fn get(address: SocketAddr, host: &str, authority: &Authority) -> std::io::Result<u16> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.der()).expect("a root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.expect("versions").with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).expect("a name");
    let socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let connection = ClientConnection::new(Arc::new(config), name).map_err(std::io::Error::other)?;
    let mut stream = StreamOwned::new(connection, socket);
    write!(stream, "GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")?;
    let mut head = [0; 12];
    stream.read_exact(&mut head)?;
    let text = String::from_utf8_lossy(&head).into_owned();
    text.get(9..).and_then(|status| status.parse().ok()).ok_or_else(|| std::io::Error::other(text))
}

fn with_tls(cluster: &Cluster, name: &str, host: &str, secret: &str) -> Value {
    let mut object = ingress(cluster, name, host, "a");
    object["spec"]["tls"] = json!([{"hosts": [host], "secretName": secret}]);
    object
}

#[test]
fn certificate_of_a_secret_is_served_and_its_successor_as_well() {
    let cluster = Cluster::new();
    let one = backend("one");
    let (first, second) = (Authority::new("first"), Authority::new("second"));
    site(&cluster, "a", "plain.example", &one);
    cluster.apply(&secret("web", &first.issue(&["a.example"])));
    cluster.apply(&with_tls(&cluster, "tls", "a.example", "web"));
    let gateway = cluster.gateway(&["--https", "127.0.0.1:0"]);
    assert_eq!(get(gateway.https, "a.example", &first).expect("first certificate"), 200);
    cluster.apply(&secret("web", &second.issue(&["a.example"])));
    eventually("the second certificate", || get(gateway.https, "a.example", &second).is_ok());
    assert!(get(gateway.https, "a.example", &first).is_err());
}

#[test]
fn secret_may_come_after_its_ingress() {
    let cluster = Cluster::new();
    let one = backend("one");
    let authority = Authority::new("ca");
    site(&cluster, "a", "plain.example", &one);
    let gateway = cluster.gateway(&["--https", "127.0.0.1:0"]);
    cluster.apply(&with_tls(&cluster, "tls", "a.example", "late"));
    eventually("the host", || gateway.get("a.example", "/").status != 404);
    assert!(get(gateway.https, "a.example", &authority).is_err());
    cluster.apply(&secret("late", &authority.issue(&["a.example"])));
    eventually("the certificate", || get(gateway.https, "a.example", &authority).is_ok());
}

#[test]
fn secret_that_goes_bad_or_away_is_served_on() {
    let cluster = Cluster::new();
    let one = backend("one");
    let authority = Authority::new("ca");
    site(&cluster, "a", "plain.example", &one);
    let good = secret("web", &authority.issue(&["a.example"]));
    cluster.apply(&good);
    cluster.apply(&with_tls(&cluster, "tls", "a.example", "web"));
    let gateway = cluster.gateway(&["--https", "127.0.0.1:0"]);
    assert_eq!(get(gateway.https, "a.example", &authority).expect("certificate"), 200);
    let mut bad = good.clone();
    bad["data"]["tls.crt"] =
        json!(base64("-----BEGIN CERTIFICATE-----\nnothing\n-----END CERTIFICATE-----\n"));
    cluster.apply(&bad);
    gateway.wait_for_log("Secret");
    assert_eq!(get(gateway.https, "a.example", &authority).expect("last good one"), 200);
    cluster.delete(&good);
    // Something else that comes later is seen: so the deletion was.
    cluster.apply(&ingress(&cluster, "later", "later.example", "a"));
    gateway.wait_for_status("later.example", "/", 200);
    assert_eq!(get(gateway.https, "a.example", &authority).expect("last good one"), 200);
}

#[test]
fn authority_of_a_config_map_keeps_strangers_out() {
    let cluster = Cluster::new();
    let one = backend("one");
    let authority = Authority::new("ca");
    site(&cluster, "a", "plain.example", &one);
    cluster.apply(&secret("web", &authority.issue(&["a.example"])));
    cluster.apply(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "clients"},
        "data": {"ca.crt": Authority::new("clients").pem()}}));
    let mut object = with_tls(&cluster, "tls", "a.example", "web");
    object["metadata"]["annotations"] = json!({"sluicegate.dev/client-ca": "configmap/clients"});
    cluster.apply(&object);
    let gateway = cluster.gateway(&["--https", "127.0.0.1:0"]);
    let outcome = get(gateway.https, "a.example", &authority);
    assert!(outcome.is_err(), "a client without certificate got {outcome:?}");
}
