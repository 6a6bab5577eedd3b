//! Certificates of clients, as `curl` shows them.

use crate::common::certificates::{Authority, Wanted};
use crate::common::programs::are_here;
use crate::{Setup, secure};

/// Hosts `require.example`, `optional.example` and `optional-no-ca.example`, and files with certificates to show.
fn setup() -> Setup {
    let setup = Setup::new(&[], |authority, backend| {
        let mut parts = vec![authority.secret("test", "clients")];
        for mode in ["require", "optional", "optional-no-ca"] {
            let host = format!("{mode}.example");
            let annotations = [("client-ca", "secret/clients"), ("client-verify", mode)];
            parts.push(secure(mode, &host, backend, mode, &annotations));
            parts.push(authority.issue(&[&host]).secret("test", mode));
        }
        parts.join("---\n")
    });
    let wanted = || Wanted::of(&["alice"]).client();
    setup.authority.issue_as(&wanted()).write(setup.client.path(), "good");
    setup.authority.issue_as(&wanted().expired()).write(setup.client.path(), "expired");
    Authority::new("other").issue_as(&wanted()).write(setup.client.path(), "foreign");
    setup
}

/// Status of a request that shows the certificate `shown`, or none if that is empty.
fn ask(setup: &Setup, host: &str, shown: &str, more: &[&str]) -> u16 {
    let (cert, key) = (format!("{shown}.crt"), format!("{shown}.key"));
    let mut args = more.to_vec();
    if !shown.is_empty() {
        args.extend(["--cert", &cert, "--key", &key]);
    }
    setup.curl(host, "/", &args).0
}

#[test]
fn each_mode_admits_whom_it_says() {
    if !are_here(&["curl"]) {
        return;
    }
    let setup = setup();
    for (mode, shown, status) in [
        ("require", "good", 200),
        ("require", "", 0),
        ("require", "expired", 0),
        ("require", "foreign", 0),
        ("optional", "good", 200),
        ("optional", "", 200),
        ("optional", "foreign", 0),
        ("optional-no-ca", "good", 200),
        ("optional-no-ca", "", 200),
        ("optional-no-ca", "foreign", 200),
        ("optional-no-ca", "expired", 200),
    ] {
        for version in ["--http1.1", "--http2"] {
            let host = format!("{mode}.example");
            assert_eq!(ask(&setup, &host, shown, &[version]), status, "{mode} {shown} {version}");
        }
    }
    // Never in cleartext, and never on a connection for another host.
    assert_eq!(setup.gateway.get("require.example", "/").status, 308);
    assert_eq!(ask(&setup, "optional.example", "good", &["-H", "Host: require.example"]), 421);
}

/// RFC 8555 §8.3: an authority has no certificate to show, and must not be sent elsewhere.
#[test]
fn challenges_of_guarded_hosts_are_answered_by_what_is_there_for_them_and_never_redirected() {
    let setup = setup();
    let challenge = "/.well-known/acme-challenge/token";
    let before = setup.backend.requests().len();
    assert_eq!(setup.gateway.get("require.example", challenge).status, 404);
    assert_eq!(setup.backend.requests().len(), before);
    let solver = secure("solver", "require.example", &setup.backend, "", &[]);
    crate::write(
        setup.config.path(),
        "solver.yaml",
        &solver.replace("path: /", &format!("path: {challenge}")),
    );
    setup.gateway.wait_for_status("require.example", challenge, 200);
    for guarded in ["/", "/.well-known/acme-challenge/other/../../../", "/.well-known/acme-challenges/x"] {
        assert_eq!(setup.gateway.get("require.example", guarded).status, 308, "{guarded}");
    }
    assert_eq!(setup.gateway.get("require.example", "/.well-known/acme-challenge/other").status, 404);
}

#[test]
fn endpoints_learn_who_it_is_and_nobody_can_forge_it() {
    let setup = setup();
    let forged = [
        "-H",
        "Client-Cert: :Zm9yZ2Vk:",
        "-H",
        "X-Client-Cert-Verified: success",
        "-H",
        "X_Client_Cert_Verified: success",
        "-H",
        "ssl-client-verify: SUCCESS",
        "-H",
        "X-Client-Cert-Subject: CN=forged",
    ];
    for (host, shown, expected) in [
        ("require.example", "good", "success"),
        ("optional.example", "", "none"),
        ("optional-no-ca.example", "foreign", "unverified"),
    ] {
        for version in ["--http1.1", "--http2"] {
            let more = [&forged[..], &[version]].concat();
            assert_eq!(ask(&setup, host, shown, &more), 200, "{host}");
            let requests = setup.backend.requests();
            let head = requests.last().unwrap();
            let told: Vec<_> = head.lines().filter(|line| line.to_lowercase().contains("verif")).collect();
            assert_eq!(told, [format!("X-Client-Cert-Verified: {expected}")], "{head}");
            assert!(!head.contains("Zm9yZ2Vk") && !head.contains("forged"), "{head}");
            assert_eq!(head.contains("Client-Cert: :"), !shown.is_empty(), "{head}");
        }
    }
}

#[test]
fn an_authority_that_cannot_be_had_closes_the_host() {
    if !are_here(&["curl"]) {
        return;
    }
    let setup = Setup::new(&[], |authority, backend| {
        let secret = authority.issue(&["shop.example"]).secret("test", "shop");
        let annotations = [("client-ca", "secret/absent")];
        format!("{}---\n{secret}", secure("shop", "shop.example", backend, "shop", &annotations))
    });
    assert_eq!(setup.curl("shop.example", "/", &[]).0, 503);
    assert_eq!(setup.gateway.get("shop.example", "/").status, 503);
    assert!(setup.backend.requests().is_empty());
}
