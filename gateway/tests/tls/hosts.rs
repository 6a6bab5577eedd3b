//! Which certificate a name gets, and which requests a connection may carry.

use std::sync::Arc;

use config::table::{ClientPolicy, Hostname, TlsMap, TlsVersion};
use rustls::pki_types::CertificateDer;

use crate::certificates::{Authority, KeyKind, Wanted};
use crate::rig::{Client, Rig, exact, exchange, policy, roots, socket, status, terminate};

#[test]
fn requests_are_served_and_endpoints_told_of_https() {
    let authority = Authority::new("root");
    let leaf = authority.issue(&["shop.example"]);
    let rig = Rig::new(TlsMap::new(Arc::new(policy(&[&leaf]))));
    let mut connection = Client::new(&authority).connect(rig.https, "shop.example");
    for path in ["/a?b=c", "/again"] {
        let response = connection.get("shop.example", path).unwrap();
        assert_eq!(status(&response), 200, "{response}");
        assert!(response.contains(&format!("GET {path} HTTP/1.1\r\n")), "{response}");
        assert!(response.contains("\r\nX-Forwarded-Proto: https\r\n"), "{response}");
        assert!(response.contains(&format!("\r\nX-Forwarded-Port: {}\r\n", rig.https.port())), "{response}");
    }
    assert_eq!(rig.metric("sluicegate_tls_handshakes_total{version=\"1.3\",kind=\"full\"}"), 1);
    assert_eq!(
        rig.metric("sluicegate_certificate_expiry_timestamp_seconds{certificate=\"test/0\"}"),
        4_000_000_000
    );
}

#[test]
fn exact_names_come_before_wildcards_before_the_default() {
    let authority = Authority::new("root");
    let leaf = |name: &str| authority.issue(&[name]);
    let (exactly, wild, default) = (leaf("a.shop.example"), leaf("*.shop.example"), leaf("default.example"));
    let mut map = TlsMap::new(Arc::new(policy(&[&default])));
    map.set(&exact("a.shop.example"), terminate(&Arc::new(policy(&[&exactly]))));
    map.set(&Hostname::Wildcard(".shop.example".into()), terminate(&Arc::new(policy(&[&wild]))));
    let rig = Rig::new(map);
    let shown = |name: &str| -> CertificateDer<'static> {
        let mut client = Client::new(&authority);
        client.config.dangerous().set_certificate_verifier(Arc::new(anyone::Anyone));
        let mut connection = client.connect(rig.https, name);
        // Under another policy than the name's, there is no service, but there is a certificate.
        connection.get(name, "/").unwrap();
        connection.0.conn.peer_certificates().unwrap()[0].clone()
    };
    assert_eq!(shown("a.shop.example"), exactly.chain[0]);
    assert_eq!(shown("A.Shop.Example"), exactly.chain[0]);
    assert_eq!(shown("b.shop.example"), wild.chain[0]);
    assert_eq!(shown("x.y.shop.example"), default.chain[0]);
    assert_eq!(shown("shop.example"), default.chain[0]);
    // No name at all.
    assert_eq!(shown("127.0.0.1"), default.chain[0]);
}

#[test]
fn the_certificate_is_chosen_by_what_the_client_can_verify() {
    let authority = Authority::new("root");
    let names = ["shop.example"];
    let leaf = |kind| authority.issue_as(&Wanted::of(&names).key(kind));
    let leaves = [KeyKind::Ed25519, KeyKind::P256, KeyKind::P384, KeyKind::Rsa].map(leaf);
    let rig = Rig::new(TlsMap::new(Arc::new(policy(&leaves.each_ref()))));
    for (at, scheme) in [
        (0, rustls::SignatureScheme::ED25519),
        (1, rustls::SignatureScheme::ECDSA_NISTP256_SHA256),
        (2, rustls::SignatureScheme::ECDSA_NISTP384_SHA384),
        (3, rustls::SignatureScheme::RSA_PSS_SHA256),
    ] {
        let mut client = Client::new(&authority);
        client.config.dangerous().set_certificate_verifier(Arc::new(anyone::Only(scheme)));
        let mut connection = client.connect(rig.https, "shop.example");
        assert_eq!(status(&connection.get("shop.example", "/").unwrap()), 200, "{scheme:?}");
        assert_eq!(connection.0.conn.peer_certificates().unwrap()[0], leaves[at].chain[0], "{scheme:?}");
    }
}

#[test]
fn hosts_of_other_policies_are_misdirected() {
    let authority = Authority::new("root");
    let leaf = authority.issue(&["a.example", "b.example", "c.example"]);
    let (first, second) = (Arc::new(policy(&[&leaf])), {
        let mut second = policy(&[&leaf]);
        second.min_version = TlsVersion::Tls13;
        Arc::new(second)
    });
    let map = || {
        let mut map = TlsMap::new(Arc::new(policy(&[&leaf])));
        map.set(&exact("a.example"), terminate(&first));
        map.set(&exact("b.example"), terminate(&first));
        map.set(&exact("c.example"), terminate(&second));
        map
    };
    let mut rig = Rig::new(map());
    let mut connection = Client::new(&authority).connect(rig.https, "a.example");
    assert_eq!(status(&connection.get("a.example", "/").unwrap()), 200);
    assert_eq!(status(&connection.get("b.example:443", "/").unwrap()), 200);
    let refused = connection.get("c.example", "/").unwrap();
    assert_eq!(status(&refused), 421);
    assert!(refused.ends_with("MisdirectedRequest\n"), "{refused}");
    assert_eq!(status(&connection.get("unknown.example", "/").unwrap()), 421);
    // A rotated certificate is another policy; this connection goes on.
    let rotated = Arc::new(policy(&[&authority.issue(&["a.example"])]));
    let mut next = map();
    next.set(&exact("a.example"), terminate(&rotated));
    rig.publish(next);
    assert_eq!(status(&connection.get("a.example", "/").unwrap()), 200);
    assert_eq!(status(&connection.get("b.example", "/").unwrap()), 421);
}

#[test]
fn a_connection_without_a_name_serves_every_host_that_asks_nothing_of_clients() {
    let authority = Authority::new("root");
    let leaf = authority.issue(&["127.0.0.1", "a.example"]);
    let mut guarded = policy(&[&leaf]);
    guarded.client = ClientPolicy::Require(roots(&authority));
    let mut closed = policy(&[&leaf]);
    closed.client = ClientPolicy::Closed;
    let mut map = TlsMap::new(Arc::new(policy(&[&leaf])));
    map.set(&exact("a.example"), terminate(&Arc::new(policy(&[&leaf]))));
    map.set(&exact("b.example"), terminate(&Arc::new(guarded)));
    map.set(&exact("c.example"), terminate(&Arc::new(closed)));
    let rig = Rig::new(map);
    let mut connection = Client::new(&authority).connect(rig.https, "127.0.0.1");
    assert_eq!(status(&connection.get("a.example", "/").unwrap()), 200);
    assert_eq!(status(&connection.get("b.example", "/").unwrap()), 421);
    assert_eq!(status(&connection.get("c.example", "/").unwrap()), 503);
}

#[test]
fn guarded_hosts_are_not_served_in_cleartext() {
    let authority = Authority::new("root");
    let leaf = authority.issue(&["a.example"]);
    let mut guarded = policy(&[&leaf]);
    guarded.client = ClientPolicy::Require(roots(&authority));
    let mut closed = policy(&[&leaf]);
    closed.client = ClientPolicy::Closed;
    let mut map = TlsMap::new(Arc::new(policy(&[&leaf])));
    map.set(&exact("b.example"), terminate(&Arc::new(guarded)));
    map.set(&exact("c.example"), terminate(&Arc::new(closed)));
    let rig = Rig::new(map);
    let mut plain = socket(rig.http);
    let mut ask = |host: &str, path: &str| {
        exchange(&mut plain, &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).unwrap()
    };
    assert_eq!(status(&ask("a.example", "/")), 200);
    let redirected = ask("b.example:8080", "/x/y?z=1");
    assert_eq!(status(&redirected), 308);
    assert!(redirected.contains("\r\nLocation: https://b.example:0/x/y?z=1\r\n"), "{redirected}");
    assert_eq!(status(&ask("b.example", "/.well-known/acme-challenge/x")), 404);
    assert_eq!(status(&ask("c.example", "/")), 503);
}

#[test]
fn absolute_targets_name_the_scheme_of_the_connection() {
    let authority = Authority::new("root");
    let leaf = authority.issue(&["a.example"]);
    let rig = Rig::new(TlsMap::new(Arc::new(policy(&[&leaf]))));
    let ask = |target: &str, host: &str| {
        let mut connection = Client::new(&authority).connect(rig.https, "a.example");
        status(&connection.exchange(&format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n")).unwrap())
    };
    assert_eq!(ask("https://a.example/x", "a.example"), 200);
    assert_eq!(ask("https://a.example:443/x", "a.example"), 200);
    assert_eq!(ask("https://a.example:80/x", "a.example"), 400);
    assert_eq!(ask("http://a.example/x", "a.example"), 400);
    let mut plain = socket(rig.http);
    let response =
        exchange(&mut plain, "GET https://a.example/x HTTP/1.1\r\nHost: a.example\r\n\r\n").unwrap();
    assert_eq!(status(&response), 400);
}

#[test]
fn rules_that_demand_https_redirect_requests_in_cleartext() {
    let authority = Authority::new("root");
    let leaf = authority.issue(&["a.example"]);
    let rule = "- {name: raw, hosts: [a.example], backend: raw, httpsRedirect: 8443, hsts: max-age=60}\n";
    let rig = Rig::with_route(rule, |_| TlsMap::new(Arc::new(policy(&[&leaf]))));
    let ask = |path: &str, fields: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: a.example:80\r\n{fields}\r\n");
        exchange(&mut socket(rig.http), &request).unwrap()
    };
    let redirected = ask("/x/../y?z=%2F", "");
    assert_eq!(status(&redirected), 308);
    assert!(redirected.contains("\r\nLocation: https://a.example:8443/y?z=%2F\r\n"), "{redirected}");
    assert_eq!(status(&ask("/.well-known/acme-challenge/token", "")), 200);
    assert_eq!(status(&ask("/.well-known/acme-challenge/../x", "")), 308);
    // Nobody in front is trusted here.
    assert_eq!(status(&ask("/", "X-Forwarded-Proto: https\r\n")), 308);
    let mut connection = Client::new(&authority).connect(rig.https, "a.example");
    let response = connection.get("a.example", "/").unwrap();
    assert!(response.contains("\r\nStrict-Transport-Security: max-age=60\r\n"), "{response}");
    assert!(!response.contains("upstream"), "{response}");
    // In cleartext, what the endpoint says is its own affair, and nothing is added.
    assert!(ask("/.well-known/acme-challenge/token", "").contains("Security: upstream"));
}

#[test]
fn redirects_of_rules_keep_the_scheme() {
    let authority = Authority::new("root");
    let leaf = authority.issue(&["a.example"]);
    let rule = "- {name: raw, hosts: [a.example], filters: {redirect: {hostname: b.example}}}\n";
    let rig = Rig::with_route(rule, |_| TlsMap::new(Arc::new(policy(&[&leaf]))));
    let mut connection = Client::new(&authority).connect(rig.https, "a.example");
    let response = connection.get("a.example", "/").unwrap();
    assert!(response.contains("\r\nLocation: https://b.example/\r\n"), "{response}");
}

/// Clients that do not verify.
mod anyone {
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use rustls::{DigitallySignedStruct, Error, SignatureScheme};

    /// With every signature scheme.
    #[derive(Debug)]
    pub struct Anyone;

    /// With one signature scheme.
    #[derive(Debug)]
    pub struct Only(pub SignatureScheme);

    macro_rules! verifier {
        ($name:ident, $self:ident, $schemes:expr) => {
            impl ServerCertVerifier for $name {
                fn verify_server_cert(
                    &self,
                    _: &CertificateDer<'_>,
                    _: &[CertificateDer<'_>],
                    _: &ServerName<'_>,
                    _: &[u8],
                    _: UnixTime,
                ) -> Result<ServerCertVerified, Error> {
                    Ok(ServerCertVerified::assertion())
                }

                fn verify_tls12_signature(
                    &self,
                    _: &[u8],
                    _: &CertificateDer<'_>,
                    _: &DigitallySignedStruct,
                ) -> Result<HandshakeSignatureValid, Error> {
                    Ok(HandshakeSignatureValid::assertion())
                }

                fn verify_tls13_signature(
                    &self,
                    _: &[u8],
                    _: &CertificateDer<'_>,
                    _: &DigitallySignedStruct,
                ) -> Result<HandshakeSignatureValid, Error> {
                    Ok(HandshakeSignatureValid::assertion())
                }

                fn supported_verify_schemes(&$self) -> Vec<SignatureScheme> {
                    $schemes
                }
            }
        };
    }

    verifier!(Anyone, self, crate::rig::provider().signature_verification_algorithms.supported_schemes());
    verifier!(Only, self, vec![self.0]);
}
