//! Secrets are asked for only if an Ingress names them that is ours.

use std::fs;

use config::compile::{ClassSettings, Classless};
use controller::source::kube::Settings;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::*;

const OURS: &str = "sluicegate.dev/ingress-controller";

fn class(name: &str, controller: &str, is_default: bool) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "spec": {"controller": controller},
        "metadata": {"name": name,
            "annotations": {"ingressclass.kubernetes.io/is-default-class": is_default.to_string()}}})
}

fn of_class(mut ingress: Value, class: &str) -> Value {
    ingress["spec"]["ingressClassName"] = class.into();
    ingress
}

fn in_a_cluster() -> Settings {
    let classes = ClassSettings { classless: Classless::IfDefault, ..ClassSettings::default() };
    Settings { classes, ..Settings::default() }
}

#[test]
fn nothing_is_asked_of_secrets_that_only_others_name() {
    let server = server();
    let api = Api::new(&server);
    api.create(&secret("theirs", "x"));
    api.create(&ingress("c", Some("theirs")));
    api.create(&class("edge", OURS, false));
    api.create(&class("nginx", "k8s.io/ingress-nginx", true));
    api.create(&of_class(ingress("a", Some("theirs")), "nginx"));
    api.create(&of_class(ingress("b", Some("theirs")), "nowhere"));
    let follower = Follower::synced(&server, in_a_cluster());
    api.create(&of_class(ingress("late", Some("theirs")), "nginx"));
    follower.until("the Ingress", |seen| seen.has("Ingress default/late"));
    assert!(!follower.seen().has("Secret default/theirs"));
    for verb in ["list", "watch", "get"] {
        assert_eq!(server.requests().of(verb, "secrets"), 0, "{verb}");
    }
}

#[test]
fn class_that_becomes_ours_comes_together_with_what_its_ingresses_name() {
    let server = server();
    let api = Api::new(&server);
    api.create(&class("nginx", "k8s.io/ingress-nginx", false));
    api.create(&secret("tls", "x"));
    api.create(&of_class(ingress("a", Some("tls")), "nginx"));
    let follower = Follower::synced(&server, in_a_cluster());
    assert!(!follower.seen().has("Secret default/tls"));
    // The controller of a class cannot be changed; another one of that name can be made.
    api.delete(&class("nginx", "", false));
    follower.until("the deletion", |seen| !seen.has("IngressClass nginx"));
    api.create(&class("nginx", OURS, false));
    follower.until("the class", |seen| seen.has("IngressClass nginx"));
    let last = follower.seen().batches.last().unwrap().clone();
    assert_eq!(last, ["+Secret default/tls", "+IngressClass nginx"]);
    api.delete(&class("nginx", "", false));
    follower.until("the Secret is none of ours", |seen| !seen.has("Secret default/tls"));
    assert_eq!(follower.seen().batches.last().unwrap(), &["-IngressClass nginx", "-Secret default/tls"]);
}

#[test]
fn deletion_that_leaves_one_default_class_comes_together_with_what_ingresses_name() {
    let server = server();
    let api = Api::new(&server);
    api.create(&secret("tls", "x"));
    // Before the classes, of which the server would give it one.
    api.create(&ingress("a", Some("tls")));
    api.create(&class("edge", OURS, true));
    api.create(&class("other", "x.example/y", true));
    let follower = Follower::synced(&server, in_a_cluster());
    assert!(!follower.seen().has("Secret default/tls"), "nobody knows whose it is");
    api.delete(&class("other", "", true));
    follower.until("the deletion", |seen| !seen.has("IngressClass other"));
    assert_eq!(follower.seen().batches.last().unwrap(), &["+Secret default/tls", "-IngressClass other"]);
}

#[test]
fn ingress_that_changes_its_class_takes_its_secret_along() {
    let server = server();
    let api = Api::new(&server);
    api.create(&class("edge", OURS, false));
    api.create(&class("nginx", "k8s.io/ingress-nginx", false));
    api.create(&secret("tls", "x"));
    api.create(&of_class(ingress("a", Some("tls")), "nginx"));
    let follower = Follower::synced(&server, in_a_cluster());
    api.merge(&ingress("a", None), &json!({"spec": {"ingressClassName": "edge"}}));
    follower.until("the change", |seen| !seen.changes().is_empty());
    assert_eq!(follower.seen().changes(), ["+Secret default/tls", "+Ingress default/a"]);
    api.merge(&ingress("a", None), &json!({"spec": {"ingressClassName": "nginx"}}));
    follower.until("the Secret is none of ours", |seen| !seen.has("Secret default/tls"));
}

#[test]
fn on_disk_there_is_nothing_of_secrets_but_what_is_read() {
    let server = server();
    let api = Api::new(&server);
    let state_dir = TempDir::new().unwrap();
    api.create(&class("edge", OURS, false));
    let mut mixed = secret("tls", "public");
    mixed["stringData"]["password"] = "hunter2".into();
    api.create(&mixed);
    api.create(&secret("theirs", "secret of others"));
    api.create(&of_class(ingress("a", Some("tls")), "edge"));
    api.create(&of_class(ingress("b", Some("theirs")), "nginx"));
    let settings = Settings { state: Some(state_dir.path().into()), ..in_a_cluster() };
    drop(Follower::synced(&server, settings.clone()));
    let kept = fs::read(state_dir.path().join("kubernetes/objects.journal")).unwrap();
    let has = |text: &str| kept.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(has("Secret") && has("ca.crt"), "ours is kept");
    assert!(!has("password") && !has("aHVudGVyMg"), "a key that is not read is not");
    assert!(!has("c2VjcmV0IG9mIG90aGVycw"), "what is not ours is not");
    server.faults().set_refusing(true);
    let follower = Follower::start(&server.kubeconfig(), settings);
    follower.until("the disk's objects", |seen| seen.has("Secret default/tls"));
    assert!(!follower.seen().has("Secret default/theirs"));
}
