//! What `curl` and `openssl` see.

use std::io::Write as _;

use crate::common::certificates::{KeyKind, Wanted};
use crate::common::programs::are_here;
use crate::{Setup, secure};

#[test]
fn curl_is_served_over_https_with_every_type_of_key() {
    if !are_here(&["curl", "openssl"]) {
        return;
    }
    let kinds = [
        (KeyKind::P256, "p256.example"),
        (KeyKind::P384, "p384.example"),
        (KeyKind::Ed25519, "ed25519.example"),
        (KeyKind::Rsa, "rsa.example"),
    ];
    let setup = Setup::new(&[], |authority, backend| {
        let below = authority.intermediate("below");
        kinds
            .map(|(kind, host)| {
                let name = host.trim_end_matches(".example");
                let secret = below.issue_as(&Wanted::of(&[host]).key(kind)).secret("test", name);
                format!("{}---\n{secret}", secure(name, host, backend, name, &[]))
            })
            .join("---\n")
    });
    for (kind, host) in kinds {
        for version in [["--tlsv1.2", "--tls-max", "1.2"], ["--tlsv1.3", "--tls-max", "1.3"]] {
            let more = [&["--http1.1"][..], &version].concat();
            let (status, output) = setup.curl(host, "/", &more);
            assert_eq!(status, 200, "{kind:?} {version:?}: {output}");
            assert!(output.contains("HTTP/1.1 200 OK"), "{output}");
        }
        let (status, output) = setup.curl(host, "/", &["--http2"]);
        assert_eq!(status, 200, "{kind:?}: {output}");
        assert!(output.contains("HTTP/2 200"), "{output}");
        // TLS 1.2 leaves the kind of signature to the key.
        for version in ["-tls1_2", "-tls1_3"] {
            let output = setup.openssl(host, &[version, "-verify_return_error"]);
            assert!(output.contains("Verify return code: 0 (ok)"), "{kind:?} {version}: {output}");
            assert!(output.contains("HTTP/1.1 200 OK"), "{kind:?} {version}: {output}");
        }
    }
}

#[test]
fn names_choose_certificates_exact_wildcard_default() {
    if !are_here(&["openssl"]) {
        return;
    }
    let setup = Setup::new(&["--default-certificate", "test/fallback"], |authority, backend| {
        let secret = |name: &str, host: &str| authority.issue(&[host]).secret("test", name);
        [
            secure("exact", "a.shop.example", backend, "exact", &[]),
            secret("exact", "a.shop.example"),
            secure("wild", "*.shop.example", backend, "wild", &[]),
            secret("wild", "*.shop.example"),
            secret("fallback", "fallback.example"),
        ]
        .join("---\n")
    });
    let subject = |name: &str| {
        let output = setup.openssl(name, &[]);
        let line = output.lines().find_map(|line| line.strip_prefix("subject=")).map(str::to_owned);
        line.unwrap_or_else(|| panic!("{output}")).replace(' ', "")
    };
    assert_eq!(subject("a.shop.example"), "CN=a.shop.example");
    assert_eq!(subject("b.shop.example"), "CN=*.shop.example");
    assert_eq!(subject("x.y.shop.example"), "CN=fallback.example");
    assert_eq!(subject("elsewhere.example"), "CN=fallback.example");
}

#[test]
fn openssl_resumes_sessions_of_both_versions() {
    if !are_here(&["openssl"]) {
        return;
    }
    let setup = Setup::new(&[], |authority, backend| {
        let secret = authority.issue(&["shop.example"]).secret("test", "shop");
        format!("{}---\n{secret}", secure("shop", "shop.example", backend, "shop", &[]))
    });
    for version in ["-tls1_2", "-tls1_3"] {
        let first = setup.openssl("shop.example", &[version, "-sess_out", "session.pem"]);
        assert!(first.contains("New, TLSv1."), "{first}");
        // Whichever of two workers it comes to.
        for _ in 0..4 {
            let again = setup.openssl("shop.example", &[version, "-sess_in", "session.pem"]);
            assert!(again.contains("Reused, TLSv1."), "{version}: {again}");
            assert!(again.contains("HTTP/1.1 200 OK"), "{version}: {again}");
        }
    }
}

#[test]
fn cleartext_is_redirected_where_asked_for_and_hsts_is_told_over_tls_only() {
    if !are_here(&["curl"]) {
        return;
    }
    let setup = Setup::new(&[], |authority, backend| {
        let secret = authority.issue(&["shop.example"]).secret("test", "shop");
        let annotations = [("ssl-redirect", "true"), ("hsts", "max-age=600"), ("ssl-redirect-port", "8443")];
        format!("{}---\n{secret}", secure("shop", "shop.example", backend, "shop", &annotations))
    });
    let response = setup.gateway.get("shop.example", "/a?b=c");
    assert_eq!(response.status, 308);
    assert_eq!(response.header("location"), Some("https://shop.example:8443/a?b=c"));
    let challenge = setup.gateway.get("shop.example", "/.well-known/acme-challenge/x");
    assert_eq!((challenge.status, challenge.header("strict-transport-security")), (200, None));
    for version in ["--http1.1", "--http2"] {
        let (status, output) = setup.curl("shop.example", "/", &[version]);
        assert_eq!(status, 200, "{output}");
        assert!(output.to_lowercase().contains("strict-transport-security: max-age=600"), "{output}");
    }
}

#[test]
fn requests_for_another_certificate_are_misdirected_over_both_versions() {
    if !are_here(&["curl"]) {
        return;
    }
    let setup = Setup::new(&[], |authority, backend| {
        let secret = |name: &str, host: &str| authority.issue(&[host]).secret("test", name);
        [
            secure("a", "a.example", backend, "a", &[]),
            secret("a", "a.example"),
            secure("b", "b.example", backend, "b", &[]),
            secret("b", "b.example"),
        ]
        .join("---\n")
    });
    for version in ["--http1.1", "--http2"] {
        let (status, output) = setup.curl("a.example", "/", &[version, "-H", "Host: b.example"]);
        assert_eq!(status, 421, "{output}");
        assert_eq!(setup.curl("b.example", "/", &[version]).0, 200);
    }
}

#[test]
fn passed_through_hosts_are_served_by_their_own_certificate() {
    if !are_here(&["curl"]) {
        return;
    }
    let own = crate::common::certificates::Authority::new("own");
    let leaf = own.issue(&["through.example"]);
    let config =
        rustls::ServerConfig::builder_with_provider(rustls::crypto::aws_lc_rs::default_provider().into())
            .with_safe_default_protocol_versions()
            .unwrap();
    let config = config.with_no_client_auth().with_single_cert(leaf.chain.clone(), leaf.key_der()).unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let config = std::sync::Arc::new(config);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let server = rustls::ServerConnection::new(std::sync::Arc::clone(&config)).unwrap();
            let mut tls = rustls::StreamOwned::new(server, stream.unwrap());
            let mut seen = [0; 4_096];
            // A client that does not like the certificate leaves here.
            if std::io::Read::read(&mut tls, &mut seen).is_ok() {
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\nbehind\n";
                tls.write_all(answer).unwrap();
                tls.conn.send_close_notify();
                tls.flush().unwrap();
            }
        }
    });
    let setup = Setup::new(&["--access-log", "json"], |authority, backend| {
        let through = crate::common::ingress("through", "through.example", &[address]).replacen(
            "namespace: test}",
            "namespace: test, annotations: {sluicegate.dev/ssl-passthrough: \"true\"}}",
            1,
        );
        let secret = authority.issue(&["shop.example"]).secret("test", "shop");
        format!("{}---\n{secret}---\n{through}", secure("shop", "shop.example", backend, "shop", &[]))
    });
    std::fs::write(setup.client.path().join("own.pem"), own.pem()).unwrap();
    let (status, output) = setup.curl("through.example", "/", &["--http1.1", "--cacert", "own.pem"]);
    assert_eq!(status, 200, "{output}");
    assert!(output.contains("behind"), "{output}");
    assert_eq!(setup.curl("shop.example", "/", &[]).0, 200);
    let line = setup.gateway.wait_for_log("\"PassedThrough\"");
    assert!(line.contains("through.example") && line.contains("test/through"), "{line}");
}

/// H56: over TLS, HTTP/2 is negotiated or not spoken at all (RFC 9113 §3.2).
#[test]
fn a_preface_on_a_connection_that_negotiated_http1_is_refused() {
    if !are_here(&["openssl"]) {
        return;
    }
    let setup = Setup::new(&[], |_, backend| secure("shop", "shop.example", backend, "", &[]));
    let to = setup.gateway.https.to_string();
    for alpn in [&["-alpn", "http/1.1"][..], &[]] {
        let args =
            [&["s_client", "-connect", &to, "-ign_eof", "-servername", "shop.example"][..], alpn].concat();
        let (_, output) =
            setup.run("openssl", &args, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\u{4}\0\0\0\0\0");
        assert!(output.contains("HTTP/1.1 505 "), "{alpn:?}: {output}");
    }
    assert!(setup.backend.requests().is_empty());
}

#[test]
fn hsts_is_told_in_answers_of_the_gateway_itself_over_tls_only() {
    if !are_here(&["curl"]) {
        return;
    }
    let setup = Setup::new(&[], |authority, backend| {
        let hsts = ("hsts", "max-age=600");
        let path = |text: String, path: &str| text.replace("path: /", &format!("path: {path}"));
        [
            authority.issue(&["a.example"]).secret("test", "a"),
            authority.issue(&["b.example"]).secret("test", "b"),
            path(secure("a", "a.example", backend, "a", &[hsts]), "/here"),
            path(secure("b", "b.example", backend, "b", &[hsts, ("client-ca", "secret/none")]), "/"),
            path(secure("plain", "plain.example", backend, "", &[]), "/here"),
            "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: gone, namespace: test, annotations: \
             {sluicegate.dev/hsts: max-age=600}}\nspec:\n  rules:\n  - host: a.example\n    http: {paths: [{path: /gone, \
             pathType: Prefix, backend: {service: {name: gone, port: {number: 80}}}}]}\n"
                .to_owned(),
        ]
        .join("---\n")
    });
    let told = |output: &str| output.to_lowercase().contains("strict-transport-security: max-age=600");
    for version in ["--http1.1", "--http2"] {
        for (host, path, more, status, is_told) in [
            ("a.example", "/here", None, 200, true),
            ("a.example", "/nowhere", None, 404, true),
            ("a.example", "/gone", None, 503, true),
            ("a.example", "/here", Some("Host: b.example"), 421, true),
            ("b.example", "/", None, 503, true),
        ] {
            let mut args = vec![version];
            args.extend(more.iter().flat_map(|header| ["-H", header]));
            let (got, output) = setup.curl(host, path, &args);
            assert_eq!((got, told(&output)), (status, is_told), "{version} {host} {path} {output}");
        }
        let (got, output) = setup.curl("plain.example", "/nowhere", &[version, "-k"]);
        assert_eq!((got, told(&output)), (404, false), "{output}");
    }
    for path in ["/here", "/nowhere", "/gone"] {
        assert_eq!(setup.gateway.get("a.example", path).header("strict-transport-security"), None);
    }
}
