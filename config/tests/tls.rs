//! Certificates: from Secrets and files to what each name gets.

#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a failure is a failed test")]

mod common;

use std::sync::Arc;

use common::cert::{self, Authority, DAY, Pair, config_map, pair, pair_valid, secret, tls_secret};
use common::{NOW, problems, tls_host, tls_policy};
use config::compile::{Compiler, Settings};
use config::index::{Change, Event, FileContent, Index};
use config::report::{Kind, ObjectRef, Report};
use config::table::{ClientPolicy, RouteTable, TlsMap};
use rcgen::KeyPair;

/// A compiler with a default certificate, and what it has read.
struct World {
    index: Index,
    compiler: Compiler,
    pending: Change,
    now: i64,
}

impl World {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings {
            https: Some("127.0.0.1:8443".parse().unwrap()),
            default_certificate: Some(default_certificate()),
            ..Settings::default()
        };
        change(&mut settings);
        let compiler = Compiler::new(settings);
        Self { index: Index::new(), compiler, pending: Change::default(), now: NOW }
    }

    fn apply(&mut self, text: &str) -> &mut Self {
        // Each text is a file of its own, so that none takes back the problems of another.
        let file = format!("{}.yaml", text.lines().nth(2).unwrap_or_default().len());
        self.pending.merge(common::apply(&mut self.index, &file, text));
        self
    }

    fn delete(&mut self, kind: Kind, name: &str) -> &mut Self {
        let reference = ObjectRef { kind, namespace: "default".into(), name: name.into() };
        self.pending.merge(self.index.apply(Event::Delete(reference)));
        self
    }

    fn load(&mut self, file: &str, content: &str) -> &mut Self {
        let content = FileContent(Ok(content.as_bytes().into()));
        self.pending.merge(self.index.apply(Event::Loaded { file: file.into(), content }));
        self
    }

    fn compile(&mut self) -> (Arc<RouteTable>, Arc<Report>) {
        self.compiler.compile(&self.index, &std::mem::take(&mut self.pending), self.now)
    }

    /// What `name` gets, and what is wrong besides with Secrets and TLS.
    fn outcome(&mut self, name: &str) -> (String, Vec<String>) {
        let (table, report) = self.compile();
        (gets(&table, name), reasons(&report))
    }
}

fn default_certificate() -> Arc<config::table::Certificate> {
    let Pair { chain, key } = pair(&["sluicegate.invalid"]);
    config::resource::certificate("(self-signed)", chain.as_bytes(), key.as_bytes()).unwrap()
}

fn tls(table: &RouteTable) -> &Arc<TlsMap> {
    table.binds.iter().find(|bind| bind.config.https).unwrap().tls.as_ref().unwrap()
}

fn gets(table: &RouteTable, name: &str) -> String {
    let tls = tls(table);
    tls.find(name).map_or_else(|| tls_policy(tls.default_policy()), |host| tls_host(table, host))
}

/// `object reason` of every problem but those of backends.
fn reasons(report: &Report) -> Vec<String> {
    let of_tls = report.problems.iter().filter(|problem| problem.reason != "NoEndpointSlice");
    of_tls.map(|problem| format!("{} {}", problem.object.name, problem.reason)).collect()
}

const SERVICE: &str =
    "---\n{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {ports: [{port: 80}]}}\n";

/// An Ingress with a rule for each host and this `spec.tls`.
fn ingress(name: &str, annotations: &str, hosts: &[&str], tls: &str) -> String {
    let rule = |host: &&str| {
        format!(
            "{{host: \"{host}\", http: {{paths: [{{path: /, pathType: Prefix, backend: {{service: {{name: web, port: {{number: 80}}}}}}}}]}}}}"
        )
    };
    let rules: Vec<_> = hosts.iter().map(rule).collect();
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: {name}, annotations: {{{annotations}}}}}\nspec: {{tls: [{tls}], rules: [{}]}}\n{SERVICE}",
        rules.join(", ")
    )
}

/// An Ingress with a rule for each host and this `spec.tls`, and its Service.
fn world_with(annotations: &str, hosts: &[&str], tls: &str) -> World {
    let mut world = World::new();
    world.apply(&ingress("web", annotations, hosts, tls));
    world
}

#[test]
fn a_host_gets_the_certificate_of_its_secret_and_any_other_name_the_default() {
    let mut world = world_with("", &["a.test"], "{hosts: [A.test], secretName: cert}");
    world.apply(&tls_secret("cert", &pair(&["a.test"])));
    assert_eq!(world.outcome("a.test"), ("default/cert".to_owned(), vec![]));
    assert_eq!(world.outcome("b.test").0, "(self-signed)");
}

#[test]
fn keys_of_every_type_and_form_are_taken() {
    let generated = [
        KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
        KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384),
        KeyPair::generate_for(&rcgen::PKCS_ED25519),
    ];
    let made = generated.map(|key| cert::with_key(&["a.test"], NOW - DAY, NOW + 90 * DAY, &key.unwrap()));
    let fixed = |chain: &str, key: &str| Pair { chain: chain.to_owned(), key: key.to_owned() };
    let fixed = [
        fixed(include_str!("pem/rsa.crt"), include_str!("pem/rsa-pkcs1.key")),
        fixed(include_str!("pem/rsa.crt"), include_str!("pem/rsa-pkcs8.key")),
        fixed(include_str!("pem/ec.crt"), include_str!("pem/ec-sec1.key")),
    ];
    for (index, pair) in made.iter().chain(&fixed).enumerate() {
        let mut world = world_with("", &["a.test"], "{hosts: [a.test], secretName: cert}");
        world.apply(&tls_secret("cert", pair));
        assert_eq!(world.outcome("a.test"), ("default/cert".to_owned(), vec![]), "{index}");
    }
}

#[test]
fn a_chain_is_kept_in_its_order() {
    let mut world = world_with("", &["a.test"], "{hosts: [a.test], secretName: cert}");
    world.apply(&tls_secret("cert", &Authority::new().issue(&["a.test"])));
    let (table, report) = world.compile();
    assert_eq!(reasons(&report), Vec::<String>::new());
    let policy = Arc::clone(tls(&table).policy("a.test").unwrap());
    assert_eq!(policy.certificates[0].key.cert.len(), 2);
    assert_eq!(*policy.certificates[0].names, [Arc::from("a.test")]);
    assert_ne!(policy.certificates[0].fingerprint, [0; 32]);
}

/// Secrets that cannot be used, with the reason.
fn bad_secrets() -> Vec<(&'static str, String)> {
    let (good, other) = (pair(&["a.test"]), pair(&["a.test"]));
    let of = |chain: &str, key: &str| secret("cert", &[("tls.crt", chain), ("tls.key", key)]);
    let data = |chain: &str, key: &str| {
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: cert}}\ndata: {{tls.crt: '{chain}', tls.key: '{key}'}}\n"
        )
    };
    let backwards = {
        let issued = Authority::new().issue(&["a.test"]);
        let (leaf, rest) = issued.chain.split_at(issued.chain.rfind("-----BEGIN").unwrap());
        of(&format!("{rest}{leaf}"), &issued.key)
    };
    vec![
        ("KeyMismatch", of(&good.chain, &other.key)),
        ("KeyMismatch", backwards),
        ("NoCertificate", of("", &good.key)),
        ("NoCertificate", of(&good.key, &good.key)),
        ("NoCertificate", secret("cert", &[("tls.key", &good.key)])),
        ("NoKey", of(&good.chain, "")),
        ("NoKey", of(&good.chain, &good.chain)),
        ("NoKey", secret("cert", &[("tls.crt", &good.chain)])),
        ("InvalidKey", of(&good.chain, &format!("{}{}", good.key, other.key))),
        ("InvalidPem", of(&good.chain.replace("-----END CERTIFICATE-----", ""), &good.key)),
        ("InvalidPem", of(&good.chain, &good.key.replace('M', "*"))),
        (
            "InvalidCertificate",
            of("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", &good.key),
        ),
        ("UnsupportedKey", of(&good.chain, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")),
        ("UnsupportedKey", of(include_str!("pem/rsa-1024.crt"), include_str!("pem/rsa-1024.key"))),
        ("EncryptedKey", of(include_str!("pem/rsa.crt"), include_str!("pem/rsa-encrypted-pkcs8.key"))),
        ("EncryptedKey", of(include_str!("pem/rsa.crt"), include_str!("pem/rsa-encrypted-pkcs1.key"))),
        ("InvalidBase64", data("%%%", "AAAA")),
        ("InvalidBase64", data(&good.chain.replace('\n', " "), "AAAA")),
        ("NoCertificate", data("", "")),
        ("WrongType", secret("cert", &[("password", "x")])),
        ("WrongType", secret("cert", &[("ca.crt", &good.chain)])),
        ("CertificateExpired", tls_secret("cert", &pair_valid(&["a.test"], NOW - 9 * DAY, NOW - DAY))),
        ("CertificateNotYetValid", tls_secret("cert", &pair_valid(&["a.test"], NOW + DAY, NOW + 9 * DAY))),
    ]
}

#[test]
fn k16_a_bad_secret_keeps_the_good_one_that_was_there_and_says_why() {
    let good = tls_secret("cert", &pair(&["a.test", "good.test"]));
    for (reason, bad) in bad_secrets() {
        let mut world = world_with("", &["a.test"], "{hosts: [a.test], secretName: cert}");
        world.apply(&good).compile();
        let before = Arc::clone(&tls(&world.compile().0).policy("a.test").unwrap().certificates[0]);
        world.apply(&bad);
        let (table, report) = world.compile();
        assert_eq!(reasons(&report), [format!("cert {reason}")], "{bad}");
        assert!(report.has_errors());
        let told = problems(&report);
        assert!(told.iter().any(|told| told.contains("the previous version stays in use")), "{told:?}");
        assert!(Arc::ptr_eq(&before, &tls(&table).policy("a.test").unwrap().certificates[0]), "{bad}");
        world.apply(&good);
        assert_eq!(world.outcome("a.test"), ("default/cert".to_owned(), vec![]));
    }
}

#[test]
fn a_bad_secret_without_a_good_one_before_leaves_the_default_but_for_its_time() {
    for (reason, bad) in bad_secrets() {
        let mut world = world_with("", &["a.test"], "{hosts: [a.test], secretName: cert}");
        world.apply(&bad);
        let (gets, told) = world.outcome("a.test");
        if matches!(reason, "CertificateExpired" | "CertificateNotYetValid") {
            assert_eq!((&*gets, told), ("default/cert", vec![format!("cert {reason}")]));
        } else {
            assert_eq!(
                (&*gets, told),
                ("(self-signed)", vec![format!("web {reason}"), format!("cert {reason}")]),
                "{bad}"
            );
        }
    }
}

#[test]
fn k18_a_secret_that_is_deleted_stays_in_use_and_is_an_error_of_each_ingress_that_names_it() {
    let mut world = world_with("", &["a.test"], "{hosts: [a.test], secretName: cert}");
    let missing = || ("(self-signed)".to_owned(), vec!["web SecretNotFound".to_owned()]);
    assert_eq!(world.outcome("a.test"), missing());
    world.apply(&tls_secret("cert", &pair(&["a.test"]))).compile();
    let both = || vec!["web SecretNotFound".to_owned(), "cert SecretNotFound".to_owned()];
    world.delete(Kind::Secret, "cert");
    assert_eq!(world.outcome("a.test"), ("default/cert".to_owned(), both()));
    // What else happens does not bring it back, nor take it away.
    world.apply(&ingress("other", "", &["b.test"], ""));
    assert_eq!(world.outcome("a.test"), ("default/cert".to_owned(), both()));
    world.apply(&tls_secret("cert", &pair(&["a.test"])));
    assert_eq!(world.outcome("a.test"), ("default/cert".to_owned(), vec![]));
    // A bad one after that is judged as ever.
    world.delete(Kind::Secret, "cert").compile();
    world.apply(&secret("cert", &[("password", "x")]));
    assert_eq!(world.outcome("a.test"), ("default/cert".to_owned(), vec!["cert WrongType".to_owned()]));
    // Once nobody uses it, it is forgotten: in one change, and in two.
    world.delete(Kind::Secret, "cert").delete(Kind::Ingress, "web");
    assert_eq!(world.outcome("a.test").1, Vec::<String>::new());
    world.apply(&ingress("web", "", &["a.test"], "{hosts: [a.test], secretName: cert}"));
    assert_eq!(world.outcome("a.test"), missing());
    world.apply(&tls_secret("cert", &pair(&["a.test"]))).compile();
    world.delete(Kind::Secret, "cert").compile();
    world.delete(Kind::Ingress, "web").compile();
    world.apply(&ingress("web", "", &["a.test"], "{hosts: [a.test], secretName: cert}"));
    assert_eq!(world.outcome("a.test"), missing());
}

#[test]
fn k18_the_default_certificate_and_those_for_backends_outlive_their_secrets() {
    let name = (Arc::from("default"), Arc::from("cert"));
    let mut world = World::with(|settings| settings.default_secret = Some(name));
    world.apply(&tls_secret("cert", &pair(&["a.test"]))).compile();
    world.delete(Kind::Secret, "cert");
    assert_eq!(
        world.outcome("any.test"),
        ("default/cert".to_owned(), vec!["cert SecretNotFound".to_owned()])
    );
    let annotations = "sluicegate.dev/backend-protocol: HTTPS, sluicegate.dev/backend-tls-secret: cert";
    let mut world = World::new();
    world
        .apply(&ingress("web", annotations, &["a.test"], ""))
        .apply(&tls_secret("cert", &pair(&["us.test"])));
    world.compile();
    world.delete(Kind::Secret, "cert");
    let (table, report) = world.compile();
    assert_eq!(reasons(&report), ["cert SecretNotFound"]);
    assert_eq!(common::route(&table, &common::get("a.test", "/")), "default/web:80@web");
    let policy = &table.backends.iter().next().unwrap().1.policy;
    assert!(policy.tls.as_ref().unwrap().certificate.is_some());
}

#[test]
fn k17_a_certificate_is_taken_into_use_when_it_becomes_valid() {
    let mut world = world_with("", &["a.test"], "{hosts: [a.test], secretName: cert}");
    world.apply(&tls_secret("cert", &pair(&["a.test"]))).compile();
    let old = Arc::clone(&tls(&world.compile().0).policy("a.test").unwrap().certificates[0]);
    world.apply(&tls_secret("cert", &pair_valid(&["a.test"], NOW + DAY, NOW + 99 * DAY)));
    assert_eq!(world.outcome("a.test").1, ["cert CertificateNotYetValid"]);
    assert_eq!(world.compiler.wake(), Some(NOW + DAY));
    world.now = NOW + DAY;
    let (table, report) = world.compile();
    assert_eq!(reasons(&report), Vec::<String>::new());
    assert!(!Arc::ptr_eq(&old, &tls(&table).policy("a.test").unwrap().certificates[0]));
}

#[test]
fn k17_the_end_of_a_certificate_is_told_before_and_after() {
    let mut world = world_with("", &["a.test"], "{hosts: [a.test], secretName: cert}");
    world.apply(&tls_secret("cert", &pair_valid(&["a.test"], NOW - DAY, NOW + 90 * DAY)));
    assert_eq!(world.outcome("a.test").1, Vec::<String>::new());
    assert_eq!(world.compiler.wake(), Some(NOW + 76 * DAY));
    world.now = NOW + 76 * DAY;
    assert_eq!(world.outcome("a.test").1, ["cert CertificateExpiresSoon"]);
    world.now = world.compiler.wake().unwrap();
    assert_eq!(world.now, NOW + 90 * DAY + 1);
    assert_eq!(
        world.outcome("a.test"),
        ("default/cert".to_owned(), vec!["cert CertificateExpired".to_owned()])
    );
    assert_eq!(world.compiler.wake(), None);
}

#[test]
fn a_certificate_of_a_week_is_not_warned_about_all_its_life() {
    let mut world = world_with("", &["a.test"], "{hosts: [a.test], secretName: cert}");
    world.apply(&tls_secret("cert", &pair_valid(&["a.test"], NOW - DAY, NOW + 5 * DAY)));
    assert_eq!(world.outcome("a.test").1, Vec::<String>::new());
    assert_eq!(world.compiler.wake(), Some(NOW + 3 * DAY));
}

#[test]
fn a_secret_that_nobody_uses_is_nobodys_problem() {
    let mut world = World::new();
    world.apply(&tls_secret("cert", &pair_valid(&["a.test"], NOW - 9 * DAY, NOW - DAY)));
    assert_eq!(world.outcome("a.test").1, Vec::<String>::new());
    assert_eq!(world.compiler.wake(), None);
}

#[test]
fn entries_are_chosen_by_host_then_by_name_then_without_hosts() {
    let entries =
        "{hosts: [a.test], secretName: one}, {hosts: ['*.w.test'], secretName: two}, {secretName: three}";
    let mut world = world_with("", &["a.test", "x.w.test", "b.test", "c.test"], entries);
    world.apply(&tls_secret("one", &pair(&["a.test", "b.test"])));
    world.apply(&tls_secret("two", &pair(&["*.w.test"])));
    world.apply(&tls_secret("three", &pair(&["c.test"])));
    let mut gets = |name: &str| world.outcome(name).0;
    assert_eq!(gets("a.test"), "default/one");
    assert_eq!(gets("x.w.test"), "default/two");
    assert_eq!(gets("b.test"), "default/one", "the certificate is for this host");
    assert_eq!(gets("c.test"), "default/three");
}

#[test]
fn an_entry_without_secret_is_the_default_certificate_even_below_a_wildcard() {
    let mut world = world_with(
        "",
        &["*.test", "a.test", "b.test"],
        "{hosts: ['*.test'], secretName: wild}, {hosts: [a.test]}",
    );
    world.apply(&tls_secret("wild", &pair(&["*.test"])));
    assert_eq!(world.outcome("a.test").0, "(self-signed)");
    assert_eq!(world.outcome("b.test").0, "default/wild");
    assert_eq!(world.outcome("c.test").0, "default/wild");
    assert_eq!(world.outcome("c.b.test").0, "(self-signed)");
}

#[test]
fn the_oldest_ingress_with_a_usable_certificate_wins_and_the_loser_is_told() {
    let mut world = World::new();
    world.apply(&ingress("a", "", &["a.test"], "{hosts: [a.test], secretName: gone}"));
    world.apply(&ingress("b", "", &["a.test"], "{hosts: [a.test], secretName: one}"));
    world.apply(&ingress("c", "", &["a.test"], "{hosts: [a.test], secretName: two}"));
    world.apply(&tls_secret("one", &pair(&["a.test"])));
    world.apply(&tls_secret("two", &pair(&["a.test"])));
    let (gets, told) = world.outcome("a.test");
    assert_eq!(gets, "default/one");
    let of_tls: Vec<_> = world
        .compile()
        .1
        .problems
        .iter()
        .filter(|p| p.field.starts_with("spec.tls"))
        .map(|p| format!("{} {}", p.object.name, p.reason))
        .collect();
    assert_eq!(of_tls, ["a SecretNotFound", "c Conflict"], "{told:?}");
}

#[test]
fn a_certificate_for_other_names_is_served_with_a_warning() {
    let mut world = world_with("", &["a.test"], "{hosts: [a.test], secretName: cert}");
    world.apply(&tls_secret("cert", &pair(&["b.test"])));
    assert_eq!(
        world.outcome("a.test"),
        ("default/cert".to_owned(), vec!["web CertificateNameMismatch".to_owned()])
    );
}

#[test]
fn a_host_of_tls_that_no_rule_has_is_told_unless_a_rule_covers_it() {
    let mut world = world_with("", &["a.test"], "{hosts: [a.test, other.test], secretName: cert}");
    world.apply(&tls_secret("cert", &pair(&["a.test", "other.test"])));
    assert_eq!(
        world.outcome("other.test"),
        ("(self-signed)".to_owned(), vec!["web UnusedTlsHost".to_owned()])
    );
    let mut world = world_with("", &[""], "{hosts: [a.test], secretName: cert}");
    world.apply(&tls_secret("cert", &pair(&["a.test"])));
    assert_eq!(world.outcome("a.test"), ("default/cert".to_owned(), vec![]));
    assert_eq!(world.outcome("b.test").0, "(self-signed)");
}

const CA: &str = "sluicegate.dev/client-ca: secret/ca";

#[test]
fn a_host_asks_of_clients_what_any_of_its_ingresses_asks() {
    let mut world = World::new();
    world.apply(&ingress("a", "", &["a.test"], "{hosts: [a.test], secretName: cert}"));
    world.apply(&ingress("b", CA, &["a.test"], ""));
    world.apply(&tls_secret("cert", &pair(&["a.test"])));
    world.apply(&secret("ca", &[("ca.crt", &Authority::new().pem())]));
    let (gets, _) = world.outcome("a.test");
    assert_eq!(gets, "default/cert, clients of default/ca");
    let (table, _) = world.compile();
    let cleartext = table.binds.iter().find(|bind| !bind.config.https).unwrap();
    assert!(cleartext.tls.as_ref().is_some_and(|tls| tls.is_guarded()), "nor is it served in cleartext");
    world.delete(Kind::Ingress, "b");
    assert_eq!(world.outcome("a.test").0, "default/cert");
    let (table, _) = world.compile();
    assert!(table.binds.iter().find(|bind| !bind.config.https).unwrap().tls.is_none());
}

#[test]
fn ingresses_that_ask_different_things_of_clients_close_the_host() {
    let mut world = World::new();
    world.apply(&ingress("a", CA, &["a.test"], ""));
    world.apply(&ingress(
        "b",
        "sluicegate.dev/client-ca: secret/ca, sluicegate.dev/client-verify: optional",
        &["a.test"],
        "",
    ));
    world.apply(&secret("ca", &[("ca.crt", &Authority::new().pem())]));
    let (gets, told) = world.outcome("a.test");
    assert_eq!(gets, "(self-signed), clients Closed");
    assert!(told.contains(&"b Conflict".to_owned()), "{told:?}");
}

#[test]
fn authorities_that_cannot_be_had_close_the_host() {
    let authority = Authority::new();
    let bad = [
        String::new(),
        secret("ca", &[("tls.crt", &authority.pem())]),
        secret("ca", &[("ca.crt", "nonsense")]),
        secret("ca", &[("ca.crt", &authority.pem()), ("ca.crl", "nonsense")]),
        config_map("ca", &[("ca.crt", &authority.pem())]),
    ];
    for text in bad {
        let mut world = world_with(CA, &["a.test"], "");
        world.apply(&text);
        let (gets, told) = world.outcome("a.test");
        assert_eq!(gets, "(self-signed), clients Closed", "{text}");
        assert!(!told.is_empty());
        world.apply(&secret("ca", &[("ca.crt", &authority.pem()), ("ca.crl", &authority.revocation_list())]));
        assert_eq!(
            world.outcome("a.test"),
            ("(self-signed), clients of default/ca".to_owned(), vec![]),
            "{text}"
        );
        world.apply(&secret("ca", &[("ca.crt", "nonsense")]));
        let (gets, told) = world.outcome("a.test");
        assert_eq!(
            (&*gets, told),
            ("(self-signed), clients of default/ca", vec!["ca NoCertificate".to_owned()])
        );
    }
}

#[test]
fn wrong_settings_of_clients_close_the_host() {
    for annotations in [
        "sluicegate.dev/client-ca: ca",
        "sluicegate.dev/client-ca: secret/other/ca",
        "sluicegate.dev/client-ca: secret/ca, sluicegate.dev/client-verify: sometimes",
        "sluicegate.dev/client-verify: require",
    ] {
        let mut world = world_with(annotations, &["a.test"], "");
        world.apply(&secret("ca", &[("ca.crt", &Authority::new().pem())]));
        let (gets, told) = world.outcome("a.test");
        assert_eq!(
            (&*gets, told),
            ("(self-signed), clients Closed", vec!["web InvalidAnnotation".to_owned()]),
            "{annotations}"
        );
    }
}

#[test]
fn authorities_come_from_config_maps_as_well() {
    let mut world = world_with(
        "sluicegate.dev/client-ca: configmap/ca, sluicegate.dev/client-verify: optional, sluicegate.dev/min-tls-version: '1.3'",
        &["a.test"],
        "",
    );
    world.apply(&config_map("ca", &[("ca.crt", &Authority::new().pem()), ("note", "x")]));
    assert_eq!(
        world.outcome("a.test"),
        ("(self-signed), clients of default/ca or none, from Tls13".to_owned(), vec![])
    );
}

#[test]
fn a_certificate_for_one_name_below_a_guarded_wildcard_opens_no_door() {
    let mut world = World::new();
    world.apply(&ingress("guard", CA, &["*.test"], ""));
    world.apply(&ingress("other", "", &[""], "{hosts: [x.test], secretName: cert}"));
    world.apply(&tls_secret("cert", &pair(&["x.test"])));
    world.apply(&secret("ca", &[("ca.crt", &Authority::new().pem())]));
    // Requests for x.test are served by the rules of `*.test`.
    assert_eq!(world.outcome("x.test").0, "default/cert, clients of default/ca");
    // Rules of its own take it out from below the wildcard.
    world.apply(&ingress("own", "", &["x.test"], ""));
    assert_eq!(world.outcome("x.test").0, "default/cert");
    world.delete(Kind::Ingress, "own");
    assert_eq!(world.outcome("x.test").0, "default/cert, clients of default/ca");
    world.delete(Kind::Ingress, "guard");
    assert_eq!(world.outcome("x.test").0, "default/cert");
}

#[test]
fn a_guarded_default_backend_is_not_reached_through_other_hosts() {
    let mut world = World::new();
    let guarded = format!(
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: all, annotations: {{{CA}}}}}\nspec: {{defaultBackend: {{service: {{name: web, port: {{number: 80}}}}}}}}\n"
    );
    world.apply(&guarded);
    world.apply(&ingress("a", "", &["a.test"], "").replace("path: /,", "path: /a,"));
    world.apply(&secret("ca", &[("ca.crt", &Authority::new().pem())]));
    let (table, _) = world.compile();
    assert_eq!(common::route(&table, &common::get("a.test", "/b")), "404");
    assert_eq!(common::route(&table, &common::get("b.test", "/b")), "default/web:80");
    assert_eq!(gets(&table, "b.test"), "(self-signed), clients of default/ca");
    assert_eq!(gets(&table, "a.test"), "(self-signed)", "who has rules of his own is not asked");
    world.delete(Kind::Ingress, "all");
    let (table, _) = world.compile();
    assert_eq!(tls(&table).hosts().count(), 0);
}

#[test]
fn terms_of_a_wildcard_do_not_reach_hosts_with_rules_of_their_own() {
    for terms in [CA, "sluicegate.dev/ssl-passthrough: 'true'"] {
        let mut world = World::new();
        world.apply(&ingress("wild", terms, &["*.test"], "{hosts: ['*.test'], secretName: cert}"));
        world.apply(&tls_secret("cert", &pair(&["*.test"])));
        world.apply(&secret("ca", &[("ca.crt", &Authority::new().pem())]));
        let strict = world.outcome("own.test").0;
        assert_ne!(strict, "default/cert");
        world.apply(&ingress("own", "", &["own.test"], ""));
        assert_eq!(world.outcome("own.test").0, "default/cert");
        assert_eq!(world.outcome("other.test").0, strict);
        world.apply(&ingress("wild", "", &["*.test"], "{hosts: ['*.test'], secretName: cert}"));
        let (table, _) = world.compile();
        assert_eq!(tls(&table).hosts().count(), 1, "{table:?}");
        world.apply(&ingress("wild", terms, &["*.test"], "{hosts: ['*.test'], secretName: cert}"));
        assert_eq!(world.outcome("own.test").0, "default/cert");
        world.delete(Kind::Ingress, "own");
        assert_eq!(world.outcome("own.test").0, strict);
    }
}

#[test]
fn a_wildcard_that_comes_and_goes_leaves_guarded_terms_off_hosts_with_rules_of_their_own() {
    let mut world = World::new();
    world.apply(&format!(
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: all, annotations: {{{CA}}}}}\nspec: {{defaultBackend: {{service: {{name: web, port: {{number: 80}}}}}}}}\n"
    ));
    world.apply(&secret("ca", &[("ca.crt", &Authority::new().pem())]));
    world.apply(&ingress("wild", "", &["*.test"], ""));
    world.compile();
    world.apply(&ingress("own", "", &["own.test"], ""));
    assert_eq!(world.outcome("own.test").0, "(self-signed)");
    for wild in [false, true, false] {
        if wild {
            world.apply(&ingress("wild", "", &["*.test"], ""));
        } else {
            world.delete(Kind::Ingress, "wild");
        }
        let (table, _) = world.compile();
        assert_eq!(gets(&table, "own.test"), "(self-signed)");
        assert_eq!(tls(&table).hosts().count(), 1, "as if compiled at once");
    }
    assert_eq!(world.outcome("other.test").0, "(self-signed), clients of default/ca");
}

#[test]
fn passthrough_goes_to_the_backend_of_the_root() {
    let passthrough = "sluicegate.dev/ssl-passthrough: 'true'";
    let mut world = world_with(passthrough, &["a.test"], "");
    assert_eq!(world.outcome("a.test"), ("passthrough default/web:80".to_owned(), vec![]));
    let mut world = World::new();
    world.apply(&ingress("web", passthrough, &["a.test"], "").replace("path: /,", "path: /a,"));
    let (gets, told) = world.outcome("a.test");
    assert_eq!(
        (&*gets, told),
        ("passthrough Err(InvalidSetting)", vec!["web InvalidPassthrough".to_owned()])
    );
    let mut world = world_with(passthrough, &[""], "");
    assert_eq!(
        world.outcome("a.test"),
        ("(self-signed)".to_owned(), vec!["web InvalidPassthrough".to_owned()])
    );
}

#[test]
fn passthrough_never_takes_a_host_from_who_terminates_or_guards_it() {
    let passthrough = "sluicegate.dev/ssl-passthrough: 'true'";
    for (older, younger) in [("a", "b"), ("b", "a")] {
        let mut world = World::new();
        world.apply(&ingress(older, CA, &["a.test"], ""));
        world.apply(&ingress(younger, passthrough, &["a.test"], ""));
        world.apply(&secret("ca", &[("ca.crt", &Authority::new().pem())]));
        let (gets, told) = world.outcome("a.test");
        assert_eq!(gets, "(self-signed), clients of default/ca");
        assert!(told.contains(&format!("{younger} Conflict")), "{told:?}");
    }
    let mut world = World::new();
    world.apply(&ingress("a", "", &["a.test"], "{hosts: [a.test]}"));
    world.apply(&ingress("b", passthrough, &["a.test"], ""));
    assert_eq!(world.outcome("a.test").0, "(self-signed)");
}

/// How the backend of the only Ingress is spoken to, or what its path answers.
fn speaks(annotations: &str, port: &str, more: &[String]) -> String {
    let mut world = world_with(annotations, &["a.test"], "");
    world.apply(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec: {{ports: [{{port: 80{port}}}]}}\n"
    ));
    for text in more {
        world.apply(text);
    }
    let (table, _) = world.compile();
    let action = common::route(&table, &common::get("a.test", "/"));
    let Some((_, backend)) = table.backends.iter().next() else { return action };
    let Some(tls) = &backend.policy.tls else { return format!("{:?}", backend.policy.protocol) };
    let roots = tls.roots.as_ref().map_or("system", |roots| &roots.name);
    let own = tls.certificate.as_ref().map(|own| format!(" as {}", own.name)).unwrap_or_default();
    let verify = if tls.insecure { "anything" } else { roots };
    format!(
        "{:?} TLS {} by {verify}{own}",
        backend.policy.protocol,
        tls.server_name.as_deref().unwrap_or("?")
    )
}

#[test]
fn backends_are_spoken_to_as_annotation_or_app_protocol_says() {
    for (annotations, port, expected) in [
        ("", "", "Http1"),
        ("", ", appProtocol: kubernetes.io/h2c", "Http2"),
        ("", ", appProtocol: grpc", "Http2"),
        ("", ", appProtocol: kubernetes.io/ws", "Http1"),
        ("", ", appProtocol: mysql", "Http1"),
        ("", ", appProtocol: https", "Http1 TLS web.default.svc by system"),
        ("", ", appProtocol: kubernetes.io/wss", "Http1 TLS web.default.svc by system"),
        ("sluicegate.dev/backend-protocol: HTTP", ", appProtocol: https", "Http1"),
        ("sluicegate.dev/backend-protocol: GRPCS", "", "Http2 TLS web.default.svc by system"),
        (
            "sluicegate.dev/backend-protocol: HTTPS, sluicegate.dev/backend-tls-verify: 'off'",
            "",
            "Http1 TLS web.default.svc by anything",
        ),
        (
            "sluicegate.dev/backend-protocol: HTTPS, sluicegate.dev/backend-tls-server-name: API.test",
            "",
            "Http1 TLS api.test by system",
        ),
    ] {
        assert_eq!(speaks(annotations, port, &[]), expected, "{annotations} {port}");
    }
}

#[test]
fn backends_whose_identity_cannot_be_judged_are_closed() {
    let https = "sluicegate.dev/backend-protocol: HTTPS";
    let ca = secret("ca", &[("ca.crt", &Authority::new().pem())]);
    let own = tls_secret("own", &pair(&["me.test"]));
    let closed = "unavailable InvalidSetting";
    for (annotations, more, expected) in [
        (format!("{https}, sluicegate.dev/backend-tls-ca: secret/ca"), vec![], closed),
        (
            format!("{https}, sluicegate.dev/backend-tls-ca: secret/ca"),
            vec![ca.clone()],
            "Http1 TLS web.default.svc by default/ca",
        ),
        (format!("{https}, sluicegate.dev/backend-tls-secret: own"), vec![], closed),
        (
            format!("{https}, sluicegate.dev/backend-tls-secret: own"),
            vec![own],
            "Http1 TLS web.default.svc by system as default/own",
        ),
        (format!("{https}, sluicegate.dev/backend-tls-ca: ca"), vec![ca], closed),
        ("sluicegate.dev/backend-protocol: FCGI".to_owned(), vec![], closed),
        (format!("{https}, sluicegate.dev/backend-tls-verify: maybe"), vec![], closed),
    ] {
        assert_eq!(speaks(&annotations, "", &more), expected, "{annotations}");
    }
}

#[test]
fn a_rotated_secret_touches_its_hosts_only_and_both_binds_share_everything() {
    let mut world = World::new();
    for name in ["a", "b"] {
        let host = format!("{name}.test");
        world.apply(&ingress(name, "", &[&host], &format!("{{hosts: [{host}], secretName: {name}}}")));
        world.apply(&tls_secret(name, &pair(&[&host])));
    }
    let (old, _) = world.compile();
    world.apply(&tls_secret("a", &pair(&["a.test"])));
    let (new, _) = world.compile();
    let policy = |table: &RouteTable, host| Arc::clone(tls(table).policy(host).unwrap());
    assert!(!Arc::ptr_eq(&policy(&old, "a.test"), &policy(&new, "a.test")));
    assert!(Arc::ptr_eq(&policy(&old, "b.test"), &policy(&new, "b.test")));
    assert!(Arc::ptr_eq(&old.binds[0], &new.binds[0]), "cleartext is not touched");
    assert!(Arc::ptr_eq(&new.binds[0].hosts, &new.binds[1].hosts));
    assert!(Arc::ptr_eq(&old.binds[1].hosts, &new.binds[1].hosts), "no rule is touched");
}

#[test]
fn hosts_with_equal_policies_share_one() {
    let mut world = world_with(
        "",
        &["a.test", "b.test", "c.test"],
        "{hosts: [a.test, b.test], secretName: cert}, {hosts: [c.test]}",
    );
    world.apply(&tls_secret("cert", &pair(&["a.test", "b.test"])));
    let (table, _) = world.compile();
    let policy = |host| tls(&table).policy(host).unwrap();
    assert!(Arc::ptr_eq(policy("a.test"), policy("b.test")));
    assert!(Arc::ptr_eq(policy("c.test"), tls(&table).default_policy()));
}

#[test]
fn nothing_shows_a_key() {
    let pair = pair(&["a.test"]);
    let mut world = world_with("", &["a.test"], "{hosts: [a.test], secretName: cert}");
    world.apply(&tls_secret("cert", &pair)).load("/x", &pair.key);
    let (table, report) = world.compile();
    let tls = tls(&table);
    let shown = format!("{:?}{table:?}{report:?}{:?}", world.index, world.compiler)
        + &serde_json::to_string(&**tls.default_policy()).unwrap();
    for line in pair.key.lines().filter(|line| !line.starts_with("---")) {
        assert!(!shown.contains(line));
    }
    let der = rustls::pki_types::pem::PemObject::from_pem_slice(pair.key.as_bytes())
        .map(|key: rustls::pki_types::PrivateKeyDer<'_>| key.secret_der().to_vec())
        .unwrap();
    assert!(!shown.contains(&format!("{:?}", &der[der.len() - 30..]).trim_matches(['[', ']']).to_owned()));
}

#[test]
fn the_operators_default_certificate_is_a_secret_like_any_other() {
    let mut world = World::with(|settings| settings.default_secret = Some(("default".into(), "wild".into())));
    assert_eq!(world.outcome("a.test"), ("(self-signed)".to_owned(), vec!["wild SecretNotFound".to_owned()]));
    world.apply(&tls_secret("wild", &pair(&["*.test"])));
    assert_eq!(world.outcome("a.test"), ("default/wild".to_owned(), vec![]));
    world.apply(&ingress("web", "", &["b.test"], "{hosts: [b.test]}"));
    assert_eq!(world.outcome("b.test").0, "default/wild");
    world.apply(&secret("wild", &[("tls.crt", "x"), ("tls.key", "y")]));
    let (gets, told) = world.outcome("b.test");
    assert_eq!((&*gets, told), ("default/wild", vec!["wild NoCertificate".to_owned()]));
}

const NATIVE: &str = "listeners:\n- {name: edge, address: '127.0.0.1:1', tls: {certificates: [{cert: c.pem, key: c.key}, {cert: d.pem, key: d.key, hosts: [d.test]}]}}\nroutes:\n- {name: r, backend: b}\nbackends:\n- {name: b, endpoints: ['10.0.0.1:80']}\n";

#[test]
fn a_pair_of_files_that_changes_one_after_the_other_is_never_served_mixed() {
    let mut world = World::with(|settings| settings.https = None);
    world.apply(NATIVE);
    let files: Vec<_> = world.index.files().into_iter().collect();
    assert_eq!(files, ["c.key", "c.pem", "d.key", "d.pem"].map(Arc::from));
    let (old, new, other) = (pair(&["c.test"]), pair(&["c.test"]), pair(&["x.test"]));
    world
        .load("c.pem", &old.chain)
        .load("c.key", &old.key)
        .load("d.pem", &other.chain)
        .load("d.key", &other.key);
    let (gets, told) = world.outcome("c.test");
    assert_eq!((&*gets, told), ("c.pem", vec!["edge CertificateNameMismatch".to_owned()]));
    assert_eq!(world.outcome("d.test").0, "d.pem");
    assert_eq!(world.outcome("unknown.test").0, "c.pem", "the first is for all other names");
    let serial =
        |world: &mut World| tls(&world.compile().0).policy("c.test").unwrap().certificates[0].fingerprint;
    let before = serial(&mut world);
    world.load("c.pem", &new.chain);
    assert_eq!(serial(&mut world), before);
    assert_eq!(world.outcome("c.test").1, ["edge CertificateNameMismatch", "c.key KeyMismatch"]);
    world.load("c.key", &new.key);
    assert_ne!(serial(&mut world), before);
    let gone = FileContent(Err("no such file".to_owned()));
    world.pending.merge(world.index.apply(Event::Loaded { file: "c.key".into(), content: gone }));
    let (gets, told) = world.outcome("c.test");
    assert_eq!((&*gets, &*told[1]), ("c.pem", "c.key FileUnreadable"));
}

#[test]
fn a_listener_that_changes_keeps_the_good_certificates_of_bad_files() {
    let mut world = World::with(|settings| settings.https = None);
    let guarded = NATIVE.replace("tls: {", "tls: {clientCa: ca.pem, ");
    world.apply(&guarded);
    let (good, other) = (pair(&["c.test"]), pair(&["c.test"]));
    world.load("c.pem", &good.chain).load("c.key", &good.key).load("ca.pem", &Authority::new().pem());
    assert_eq!(world.outcome("c.test").0, "c.pem, clients of ca.pem");
    world.load("c.key", &other.key).load("ca.pem", "garbage");
    assert_eq!(world.outcome("c.test").0, "c.pem, clients of ca.pem");
    world.apply(&guarded.replace("tls: {", "tls: {http2: false, "));
    let (gets, told) = world.outcome("c.test");
    assert!(gets.contains("c.pem") && gets.contains("clients of ca.pem"), "{gets}");
    assert!(told.contains(&"c.key KeyMismatch".to_owned()), "{told:?}");
}

#[test]
fn authorities_and_default_certificates_that_change_reach_hosts_that_have_rules_only() {
    let text = NATIVE
        .replace("tls: {", "tls: {clientCa: ca.pem, ")
        .replace("hosts: [d.test]", "hosts: ['*.example.com']")
        .replace("{name: r, ", "{name: r, hosts: [shop.example.com, plain.test], ");
    let (mut world, wild) = (World::with(|settings| settings.https = None), pair(&["*.example.com"]));
    let (first, second) = (pair(&["c.test"]), pair(&["c.test"]));
    let (old, new) = (Authority::new().pem(), Authority::new().pem());
    world.apply(&text).load("d.pem", &wild.chain).load("d.key", &wild.key);
    world.load("c.pem", &first.chain).load("c.key", &first.key);
    let of = |world: &mut World, host: &str| {
        let table = world.compile().0;
        let policy = tls(&table).policy(host).unwrap();
        (policy.client.clone(), policy.certificates[0].fingerprint)
    };
    assert_eq!(of(&mut world, "shop.example.com").0, ClientPolicy::Closed);
    for (ca, pair) in [(&old, &first), (&new, &second)] {
        world.load("ca.pem", ca).load("c.pem", &pair.chain).load("c.key", &pair.key);
        let (now, mut fresh) = (world.compile().0, World::with(|settings| settings.https = None));
        fresh.apply(&text).load("d.pem", &wild.chain).load("d.key", &wild.key).load("ca.pem", ca);
        fresh.load("c.pem", &pair.chain).load("c.key", &pair.key);
        assert!(now.binds.iter().any(|bind| bind.config.https));
        for host in ["shop.example.com", "plain.test", "unknown.test"] {
            assert_eq!(of(&mut world, host), of(&mut fresh, host), "{host}");
        }
    }
}

#[test]
fn a_listener_without_usable_certificates_serves_the_default_and_without_authorities_nobody() {
    let mut world = World::with(|settings| settings.https = None);
    let guarded = NATIVE.replace("tls: {", "tls: {clientCa: ca.pem, ");
    world.apply(&guarded);
    let (gets, told) = world.outcome("c.test");
    assert_eq!(gets, "(self-signed), clients Closed");
    assert!(told.contains(&"edge FileUnreadable".to_owned()), "{told:?}");
    world.load("ca.pem", &Authority::new().pem());
    assert_eq!(world.outcome("c.test").0, "(self-signed), clients of ca.pem");
}

#[test]
fn passthrough_does_not_lead_past_a_listener_that_asks_for_certificates() {
    let mut world = World::with(|settings| settings.https = None);
    let native = NATIVE.replace("{name: r, ", "{name: r, hosts: p.test, tlsPassthrough: true, ");
    world.apply(&native);
    assert_eq!(world.outcome("p.test").0, "passthrough b");
    world
        .apply(&native.replace("tls: {", "tls: {clientCa: ca.pem, "))
        .load("ca.pem", &Authority::new().pem());
    let (gets, told) = world.outcome("p.test");
    assert_eq!(gets, "(self-signed), clients of ca.pem");
    assert!(told.contains(&"r Conflict".to_owned()), "{told:?}");
}

#[test]
fn listeners_that_ask_different_things_of_clients_at_one_address_serve_nobody() {
    let listener = |name: &str, more: &str| format!("{{name: {name}, address: '127.0.0.1:1'{more}}}");
    let open = ", tls: {certificates: [{cert: c.pem, key: c.key}]}";
    let guarded = ", tls: {certificates: [{cert: c.pem, key: c.key}], clientCa: ca.pem}";
    for (first, second) in [(open, guarded), (guarded, open), ("", guarded), (guarded, "")] {
        let mut world = World::with(|settings| settings.https = None);
        let text = |first: &str, second: &str| {
            format!(
                "listeners: [{}, {}]\nroutes: [{{name: r, listeners: b, backend: b}}]\nbackends: [{{name: b, endpoints: ['10.0.0.1:80']}}]\n",
                listener("a", first),
                listener("b", second)
            )
        };
        world.apply(&text(first, second));
        let pair = pair(&["c.test"]);
        world.load("c.pem", &pair.chain).load("c.key", &pair.key).load("ca.pem", &Authority::new().pem());
        let (table, report) = world.compile();
        let client = |table: &RouteTable| {
            let bind = table.binds.iter().find(|bind| bind.config.address.port() == 1).unwrap();
            bind.tls.as_ref().map(|map| map.policy("c.test").unwrap().client.clone())
        };
        assert_eq!(client(&table), Some(ClientPolicy::Closed), "{first} {second}");
        assert!(reasons(&report).contains(&"b Conflict".to_owned()), "{report:?}");
        world.apply(&text(first, first));
        let alone = client(&world.compile().0);
        assert_ne!(alone, Some(ClientPolicy::Closed), "{first}");
    }
}

#[test]
fn a_route_of_a_file_whose_listeners_are_wrong_is_not_served_elsewhere() {
    let mut world = World::new();
    let text = "listeners: [{name: edge, address: '127.0.0.1:1', tls: {clientVerify: require}}]\nroutes: [{name: r, backend: b}]\nbackends: [{name: b, endpoints: ['10.0.0.1:80']}]\n";
    world.apply(text);
    let (table, report) = world.compile();
    assert!(table.binds.iter().all(|bind| bind.hosts.iter().count() == 0), "{table:?}");
    assert_eq!(reasons(&report), ["edge MissingField", "r NoListener"]);
    world.apply(&text.replace("{clientVerify: require}", "{}"));
    let (table, _) = world.compile();
    let served: Vec<_> = table.binds.iter().filter(|bind| bind.hosts.iter().count() == 1).collect();
    assert!(served.len() == 1 && served[0].config.address.port() == 1, "{table:?}");
}

const PLAIN_ROUTE: &str =
    "routes: [{name: r, backend: b}]\nbackends: [{name: b, endpoints: ['10.0.0.1:80']}]\n";

fn is_served(table: &RouteTable, host: &str) -> bool {
    table.binds.iter().any(|bind| bind.hosts.route(host, "/", &common::get(host, "/")).is_some())
}

fn listeners_of_another_file(world: &mut World, are_known: bool) -> (Arc<RouteTable>, Arc<Report>) {
    let change = world.index.apply(Event::Listeners { source: "edge.yaml".into(), are_known });
    world.pending.merge(change);
    world.compile()
}

#[test]
fn a_native_route_is_not_served_on_the_ingress_addresses_while_listeners_of_another_file_are_not_known() {
    for route in [PLAIN_ROUTE.to_owned(), PLAIN_ROUTE.replace("name: r,", "name: r, listeners: http,")] {
        let mut world = World::new();
        listeners_of_another_file(&mut world, false);
        world.apply(&route);
        let (table, report) = world.compile();
        assert!(!is_served(&table, "a.test"), "{route}");
        assert_eq!(reasons(&report), ["r ListenersUnknown"]);
        let (table, report) = listeners_of_another_file(&mut world, true);
        assert!(is_served(&table, "a.test") && report.problems.is_empty(), "{route}");
    }
}

#[test]
fn what_is_served_stays_so_when_a_broken_file_comes_and_what_comes_with_it_waits() {
    let mut world = World::new();
    world.apply(PLAIN_ROUTE);
    assert!(is_served(&world.compile().0, "a.test"));
    let (table, report) = listeners_of_another_file(&mut world, false);
    assert!(is_served(&table, "a.test") && report.problems.is_empty(), "{report:?}");
    let both = PLAIN_ROUTE.replace("routes: [", "routes: [{name: new, hosts: [new.test], backend: b}, ");
    world.apply(&both);
    let (table, report) = world.compile();
    assert!(is_served(&table, "a.test"));
    assert_eq!(reasons(&report), ["new ListenersUnknown"]);
    // On a listener since, and off it again: what it asked of clients, the addresses of Ingresses do not ask.
    let listener = "listeners: [{name: edge, address: '127.0.0.1:1'}]\n";
    world.apply(&format!("{listener}{both}"));
    assert!(world.compile().1.problems.is_empty());
    let edge = ObjectRef { kind: Kind::Listener, namespace: "".into(), name: "edge".into() };
    let change = world.index.apply(Event::Delete(edge));
    world.pending.merge(change);
    world.apply(&both);
    let (table, report) = world.compile();
    assert!(!is_served(&table, "a.test"), "{report:?}");
    assert!(listeners_of_another_file(&mut world, true).1.problems.is_empty());
}

#[test]
fn what_may_be_a_slip_for_listeners_is_told_from_what_cannot_be() {
    use config::resource::ListenersRead::{All, Misread, Unread};
    let of = |text: &str| config::resource::decode(&"a.yaml".into(), text.as_bytes()).listeners;
    for (text, expected) in [
        (PLAIN_ROUTE, All),
        ("listeners: ['127.0.0.1:1']\n", All),
        ("rotues: []\nbackends: []\n", All),
        ("listener: ['127.0.0.1:1']\nroutes: []\n", Misread),
        ("binds: ['127.0.0.1:1']\nroutes: []\n", Misread),
        ("listener: ['127.0.0.1:1']\n", Misread),
        ("listeners: {a: b}\nroutes: []\n", Misread),
        ("listeners: [{address: [], tls: {clientVerify: require}}]\n", Misread),
        ("apiVersion: sluicegate.dev/v1alpha1\nkind: Confg\nlisteners: ['127.0.0.1:1']\n", Misread),
        ("kind: Confg\nlisteners: ['127.0.0.1:1']\n", Misread),
        ("apiVersion: sluicegate.dev/v9\nlisteners: ['127.0.0.1:1']\n", Unread),
        ("listeners: [\n", Unread),
        ("just words\n", Unread),
        ("a\0b", Unread),
        ("apiVersion: v1\nkind: Service\nmetadata: {name: [\n", All),
        ("apiVersion: v1\nmetadata: {name: a}\n", All),
        ("kind: Service\nmetadata: {}\n", All),
        ("", All),
    ] {
        assert_eq!(of(text), expected, "{text}");
    }
}

#[test]
fn without_any_certificate_an_encrypted_address_is_not_opened() {
    let mut world = World::with(|settings| settings.default_certificate = None);
    world.apply(&ingress("web", "", &["a.test"], "{hosts: [a.test]}"));
    assert!(world.compile().0.binds.iter().all(|bind| !bind.config.https));
}

#[test]
fn a_native_route_on_one_of_the_ingress_addresses_is_not_on_the_other() {
    let mut world = World::new();
    world.apply("routes: [{name: r, listeners: https, backend: b}]\nbackends: [{name: b, endpoints: ['10.0.0.1:80']}]\n#\n");
    world.apply(&ingress("web", "", &["a.test"], ""));
    let (table, _) = world.compile();
    let routes = |table: &RouteTable, https, host: &str| {
        let bind = table.binds.iter().find(|bind| bind.config.https == https).unwrap();
        bind.hosts.route(host, "/", &common::get(host, "/")).is_some()
    };
    assert!(routes(&table, true, "x.test") && !routes(&table, false, "x.test"));
    assert!(routes(&table, true, "a.test") && routes(&table, false, "a.test"));
    let gone = ObjectRef { kind: Kind::Route, namespace: "".into(), name: "r".into() };
    world.pending.merge(world.index.apply(Event::Delete(gone)));
    let (table, _) = world.compile();
    assert!(
        !routes(&table, true, "x.test") && routes(&table, true, "a.test") && routes(&table, false, "a.test")
    );
    assert!(Arc::ptr_eq(&table.binds[0].hosts, &table.binds[1].hosts));
}

#[test]
fn a_change_costs_its_host_however_many_inherit_a_certificate() {
    const HOSTS: usize = 500;
    let mut world = world_with("", &["*.a.test"], "{hosts: ['*.a.test'], secretName: cert}");
    let certificate = || pair(&["*.a.test"]);
    world.apply(&tls_secret("cert", &certificate()));
    // A setting of their own makes each a host of its own, with the certificate of the wildcard.
    let own = "sluicegate.dev/min-tls-version: '1.3'";
    let of = |number: usize, path: &str| {
        let name = format!("h{number}");
        ingress(&name, own, &[&format!("{name}.a.test")], "").replace("path: /,", &format!("path: {path},"))
    };
    for number in 0..HOSTS {
        world.apply(&of(number, "/"));
    }
    world.apply(&ingress("b", "", &["b.test"], "{hosts: [b.test], secretName: b}"));
    world.apply(&tls_secret("b", &pair(&["b.test"])));
    let gets = |table: &RouteTable, host: &str| tls_policy(tls(table).policy(host).unwrap());
    let (old, report) = world.compile();
    assert_eq!(reasons(&report), Vec::<String>::new());
    assert!(gets(&old, "h7.a.test").contains("default/cert"), "{}", gets(&old, "h7.a.test"));
    assert!(world.compiler.rebuilt_hosts() >= 2 * HOSTS);
    let rotated = tls_secret("b", &pair(&["b.test"]));
    let wildcards_rule = ingress("web", "", &["*.a.test"], "{hosts: ['*.a.test'], secretName: cert}")
        .replace("path: /,", "path: /new,");
    for (what, text) in [
        ("one of those that inherit", of(7, "/new")),
        ("another certificate", rotated),
        ("a rule of the wildcard", wildcards_rule),
        ("a new host", ingress("c", own, &["c.test"], "")),
    ] {
        let old = tls(&world.compile().0).clone();
        // Without the Service, which all of them would have to be looked at for.
        world.apply(text.split("---\n").next().unwrap());
        let (new, _) = world.compile();
        assert!(world.compiler.rebuilt_hosts() <= 4, "{what}: {}", world.compiler.rebuilt_hosts());
        // Nor does the gateway look at more than a few of the parts of the map.
        let looked_at = tls(&new).policies_unlike(Some(&old)).count();
        assert!(looked_at <= HOSTS / 8, "{what}: {looked_at}");
    }
    // What they inherit reaches all of them.
    let before = Arc::clone(&tls(&old).policy("h7.a.test").unwrap().certificates[0]);
    world.apply(&tls_secret("cert", &certificate()));
    let (new, _) = world.compile();
    assert!(world.compiler.rebuilt_hosts() >= HOSTS);
    assert_ne!(before.fingerprint, tls(&new).policy("h7.a.test").unwrap().certificates[0].fingerprint);
}

#[test]
fn the_same_authority_under_two_names_is_no_conflict() {
    let mut world = World::new();
    let authority = Authority::new();
    let with = |name: &str| format!("sluicegate.dev/client-ca: secret/{name}");
    world.apply(&ingress("a", &with("ca-1"), &["a.test"], ""));
    world.apply(&ingress("b", &with("ca-2"), &["a.test"], ""));
    let ca = |name: &str, authority: &Authority| secret(name, &[("ca.crt", &authority.pem())]);
    world.apply(&ca("ca-1", &authority)).apply(&ca("ca-2", &authority));
    let (gets, told) = world.outcome("a.test");
    assert_eq!(gets, "(self-signed), clients of default/ca-1");
    assert!(!told.iter().any(|one| one.ends_with(" Conflict") && one.starts_with("ca")), "{told:?}");
    world.apply(&ca("ca-2", &Authority::new()));
    assert_eq!(world.outcome("a.test").0, "(self-signed), clients Closed");
}

#[test]
fn authorities_and_lists_that_are_over_are_told_and_stay_in_force() {
    let year = 365 * DAY;
    for (authority_ends, list_due, expected) in [
        (NOW + year, NOW + DAY, vec![]),
        (NOW + 9 * DAY, NOW + DAY, vec!["ca CertificateExpiresSoon"]),
        (NOW - DAY, NOW + DAY, vec!["ca CertificateExpired"]),
        (NOW + year, NOW - DAY, vec!["ca RevocationListExpired"]),
    ] {
        let mut world = world_with(CA, &["a.test"], "");
        let authority = Authority::until(authority_ends);
        let list = authority.revocation_list_until(list_due);
        world.apply(&secret("ca", &[("ca.crt", &authority.pem()), ("ca.crl", &list)]));
        let (gets, told) = world.outcome("a.test");
        assert_eq!(
            (&*gets, told),
            ("(self-signed), clients of default/ca", expected.iter().map(|one| (*one).to_owned()).collect())
        );
    }
    // Nothing has to change for it.
    let mut world = world_with(CA, &["a.test"], "");
    let authority = Authority::until(NOW + 100 * DAY);
    let list = authority.revocation_list_until(NOW + DAY);
    world.apply(&secret("ca", &[("ca.crt", &authority.pem()), ("ca.crl", &list)])).compile();
    for (at, expected) in [
        (NOW + DAY + 1, "ca RevocationListExpired"),
        (NOW + 86 * DAY, "ca RevocationListExpired"),
        (NOW + 100 * DAY + 1, "ca CertificateExpired"),
    ] {
        assert_eq!(world.compiler.wake(), Some(at));
        world.now = at;
        assert_eq!(world.outcome("a.test").1, [expected]);
    }
    assert_eq!(world.compiler.wake(), None);
}
