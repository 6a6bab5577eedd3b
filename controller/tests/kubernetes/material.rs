//! Secrets and ConfigMaps: those that are named, and no others.

use std::time::{Duration, Instant};

use controller::source::kube::Settings;
use serde_json::json;
use test_apiserver::{Effect, Fault};

use crate::common::*;

/// The certificate of an authority, another one each time.
fn authority() -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.self_signed(&key).unwrap().pem()
}

#[test]
fn only_what_is_named_is_kept_and_read() {
    let server = server();
    let api = Api::new(&server);
    for number in 0..50 {
        api.create(&secret(&format!("other{number}"), "x"));
    }
    api.create(&secret("tls", "x"));
    api.create(&ingress("web", Some("tls")));
    let follower = Follower::synced(&server, Settings::default());
    assert_eq!(follower.seen().names(), ["Ingress default/web", "Secret default/tls"]);
    assert_eq!(server.requests().of("get", "secrets"), 1, "none but the one that is named");
    assert_eq!(server.requests().of("list", "configmaps"), 0, "none is named");
    api.merge(&secret("other7", ""), &json!({"stringData": {"ca.crt": authority()}}));
    api.merge(&secret("tls", ""), &json!({"stringData": {"ca.crt": authority()}}));
    follower.until("the change", |seen| !seen.changes().is_empty());
    api.delete(&secret("tls", ""));
    follower.until("the deletion", |seen| !seen.has("Secret default/tls"));
    assert_eq!(follower.seen().changes(), ["+Secret default/tls", "-Secret default/tls"]);
    assert_eq!(server.requests().of("get", "secrets"), 2);
}

#[test]
fn secret_that_its_list_shows_while_it_is_on_its_way_is_asked_for_once() {
    let server = server();
    let api = Api::new(&server);
    api.create(&secret("tls", "x"));
    api.create(&ingress("web", Some("tls")));
    server.fail(Fault::new(Effect::Delay { millis: 300 }).verbs(&["get"]).resources(&["secrets"]));
    let follower = Follower::synced(&server, Settings::default());
    assert!(follower.seen().has("Secret default/tls"));
    assert_eq!(server.requests().of("get", "secrets"), 1);
    // What changes while it is on its way is asked for again.
    api.create(&secret("two", "x"));
    api.create(&ingress("other", Some("two")));
    until("it is asked for", || server.requests().of("get", "secrets") == 2);
    api.merge(&secret("two", ""), &json!({"stringData": {"ca.crt": authority()}}));
    follower.until("the change", |seen| {
        seen.changes().iter().filter(|change| *change == "+Secret default/two").count() >= 1
    });
    api.merge(&secret("tls", ""), &json!({"stringData": {"ca.crt": authority()}}));
    follower.until("the mark", |seen| seen.changes().contains(&"+Secret default/tls".to_owned()));
    assert!((3..=4).contains(&server.requests().of("get", "secrets")));
}

#[test]
fn nothing_is_asked_of_secrets_if_none_is_named() {
    let server = server();
    Api::new(&server).create(&ingress("web", None));
    let _follower = Follower::synced(&server, Settings::default());
    for verb in ["list", "watch", "get"] {
        assert_eq!(server.requests().of(verb, "secrets"), 0, "{verb}");
    }
}

#[test]
fn ingress_comes_together_with_the_secret_that_it_names() {
    let server = server();
    let api = Api::new(&server);
    api.create(&ingress("first", Some("one")));
    let follower = Follower::synced(&server, Settings::default());
    server.fail(Fault::new(Effect::Delay { millis: 200 }).verbs(&["get"]).resources(&["secrets"]));
    api.create(&secret("two", "x"));
    api.create(&ingress("web", Some("two")));
    follower.until("the Ingress", |seen| seen.has("Ingress default/web"));
    assert_eq!(follower.seen().changes(), ["+Secret default/two", "+Ingress default/web"]);
    assert_eq!(follower.seen().batches.last().unwrap().len(), 2, "they are one batch");
}

#[test]
fn secret_that_is_not_there_or_does_not_come_holds_nothing_up_for_long() {
    let server = server();
    let api = Api::new(&server);
    api.create(&ingress("first", Some("one")));
    let follower = Follower::synced(&server, Settings::default());
    api.create(&ingress("web", Some("missing")));
    let took = follower.until("the Ingress", |seen| seen.has("Ingress default/web"));
    assert!(took < Duration::from_millis(400), "{took:?}");
    server.fail(Fault::new(Effect::Hang).verbs(&["get"]).resources(&["secrets"]));
    let start = Instant::now();
    api.create(&ingress("slow", Some("hangs")));
    follower.until("the Ingress", |seen| seen.has("Ingress default/slow"));
    let took = start.elapsed();
    assert!((400 * MS..1_500 * MS).contains(&took), "{took:?}");
}

#[test]
fn secret_that_nobody_names_any_more_is_forgotten() {
    let server = server();
    let api = Api::new(&server);
    api.create(&secret("one", "x"));
    api.create(&secret("two", "x"));
    api.create(&ingress("a", Some("one")));
    api.create(&ingress("b", Some("one")));
    let follower = Follower::synced(&server, Settings::default());
    api.merge(&ingress("a", None), &json!({"spec": {"tls": [{"secretName": "two"}]}}));
    follower.until("the other Secret", |seen| seen.has("Secret default/two"));
    assert!(follower.seen().has("Secret default/one"));
    api.delete(&ingress("b", None));
    follower.until("nobody names it", |seen| !seen.has("Secret default/one"));
    let changes = follower.seen().changes();
    assert_eq!(
        changes,
        ["+Secret default/two", "+Ingress default/a", "-Ingress default/b", "-Secret default/one"]
    );
}

#[test]
fn default_certificate_is_kept_although_nobody_names_it() {
    let server = server();
    let api = Api::new(&server);
    api.create(&secret("wildcard", "x"));
    let default_certificate = Some(("default".into(), "wildcard".into()));
    let follower = Follower::synced(&server, Settings { default_certificate, ..Settings::default() });
    assert!(follower.seen().has("Secret default/wildcard"));
    api.merge(&secret("wildcard", ""), &json!({"stringData": {"ca.crt": authority()}}));
    follower.until("the change", |seen| seen.changes() == ["+Secret default/wildcard"]);
}

#[test]
fn many_secrets_are_taken_from_their_list() {
    let server = server();
    for number in 0..300 {
        let name = format!("tls{number}");
        server
            .plant(json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque",
            "metadata": {"name": name, "namespace": "default"}, "data": {"ca.crt": "eA=="}}))
            .unwrap();
        server.plant(ingress(&format!("i{number}"), Some(&name))).unwrap();
    }
    let follower = Follower::synced(&server, Settings::default());
    let count = follower.seen().objects.keys().filter(|name| name.starts_with("Secret")).count();
    assert_eq!(count, 300);
    assert_eq!(server.requests().of("get", "secrets"), 0);
}

#[test]
fn large_secrets_of_others_are_never_read() {
    let server = server();
    for number in 0..40 {
        server
            .plant(json!({"apiVersion": "v1", "kind": "Secret", "type": "helm.sh/release.v1",
            "metadata": {"name": format!("release{number}"), "namespace": "default"},
            "data": {"release": "eA==".repeat(250_000)}}))
            .unwrap();
    }
    Api::new(&server).create(&secret("tls", "x"));
    server.plant(ingress("web", Some("tls"))).unwrap();
    let start = Instant::now();
    let follower = Follower::synced(&server, Settings::default());
    assert_eq!(follower.seen().names(), ["Ingress default/web", "Secret default/tls"]);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn authority_may_be_a_config_map() {
    let server = server();
    let api = Api::new(&server);
    api.create(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "roots", "namespace": "default"},
        "data": {"ca.crt": "x"}}));
    let mut object = service("web", 443);
    object["metadata"]["annotations"] = json!({"sluicegate.dev/backend-protocol": "https", "sluicegate.dev/backend-tls-ca": "configmap/roots"});
    api.create(&object);
    let follower = Follower::synced(&server, Settings::default());
    assert!(follower.seen().has("ConfigMap default/roots"), "{:?}", follower.seen().names());
}

#[test]
fn default_certificate_may_be_in_a_namespace_that_is_not_watched() {
    for is_by_labels in [true, false] {
        let server = server();
        let api = Api::new(&server);
        for (name, team) in [("ours", "web"), ("infra", "none")] {
            api.create(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"team": team}}}));
        }
        api.create(&within(secret("wildcard", "x"), "infra"));
        api.create(&within(secret("tls", "x"), "ours"));
        api.create(&within(ingress("web", Some("tls")), "ours"));
        let mut settings = Settings {
            default_certificate: Some(("infra".into(), "wildcard".into())),
            ..Settings::default()
        };
        if is_by_labels {
            settings.namespace_selector = Some("team=web".into());
        } else {
            settings.namespaces = ["ours".into()].into();
        }
        let follower = Follower::synced(&server, settings);
        follower
            .until("both Secrets", |seen| seen.has("Secret infra/wildcard") && seen.has("Secret ours/tls"));
        follower.reread();
        until("lists", || follower.metric("lists_total{resource=\"Secrets\"}") >= 2.0);
        api.create(&within(service("mark", 80), "ours"));
        follower.until("the mark", |seen| seen.has("Service ours/mark"));
        assert!(follower.seen().has("Secret infra/wildcard"), "{is_by_labels}");
    }
}

#[test]
fn secret_that_is_throttled_or_not_answered_is_not_taken_for_missing() {
    for code in [429, 500, 401] {
        let server = server();
        let api = Api::new(&server);
        api.create(&secret("tls", "x"));
        api.create(&ingress("web", Some("tls")));
        let busy = Fault::new(Effect::Status { code, retry_after: None });
        server.fail(busy.verbs(&["get"]).resources(&["secrets"]).times(2));
        let follower = Follower::start(&server.kubeconfig(), Settings::default());
        follower.until("the first batch", |seen| !seen.batches.is_empty());
        assert!(follower.seen().has("Secret default/tls"), "{code}");
    }
}

#[test]
fn material_that_does_not_decode_is_told_and_holds_nothing_up() {
    let server = server();
    let broken = |kind: &str, name: &str| {
        json!({"apiVersion": "v1", "kind": kind,
        "metadata": {"name": name, "namespace": "default"}, "data": "none"})
    };
    server.plant(broken("Secret", "tls")).unwrap();
    server.plant(broken("ConfigMap", "roots")).unwrap();
    let mut object = service("web", 443);
    object["metadata"]["annotations"] = json!({"sluicegate.dev/backend-protocol": "https", "sluicegate.dev/backend-tls-ca": "configmap/roots"});
    server.plant(object).unwrap();
    server.plant(ingress("web", Some("tls"))).unwrap();
    let start = Instant::now();
    let follower = Follower::synced(&server, Settings::default());
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    let is_told = |name: &str| follower.seen().problems.contains_key(name);
    assert!(
        is_told("Secret default/tls") && is_told("ConfigMap default/roots"),
        "{:?}",
        follower.seen().problems
    );
    assert!(follower.seen().has("Ingress default/web"));
    // A later change is held up by it no more.
    Api::new(&server).create(&ingress("late", Some("tls")));
    let took = follower.until("the Ingress", |seen| seen.has("Ingress default/late"));
    assert!(took < 400 * MS, "{took:?}");
}
