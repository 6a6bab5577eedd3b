//! Servers that refuse a part of what is asked.

use std::time::{Duration, Instant};

use controller::source::kube::{Pools, Settings};
use test_apiserver::{Effect, Fault, Options, Rule, Server, Token};

use crate::common::*;

fn forbidden(resource: &str) -> Fault {
    Fault::new(Effect::Status { code: 403, retry_after: None }).resources(&[resource])
}

#[test]
fn nothing_is_served_without_what_is_indispensable_and_it_is_said() {
    let server = server();
    Api::new(&server).create(&service("web", 80));
    let fault = server.fail(forbidden("endpointslices"));
    let follower = Follower::start(&server.kubeconfig(), Settings::default());
    until("it is said", || {
        follower
            .progress
            .lines()
            .iter()
            .any(|line| line.starts_with("waiting for EndpointSlices: 403 Forbidden"))
    });
    assert!(follower.seen().batches.is_empty());
    server.faults().remove(fault);
    follower.until("the first batch", |seen| !seen.batches.is_empty());
    assert!(follower.progress.lines().is_empty());
    assert!(follower.metric("failures_total{resource=\"EndpointSlices\",cause=\"forbidden\"}") >= 1.0);
}

#[test]
fn with_pools_nothing_is_served_without_namespaces_but_without_pools_that_the_cluster_does_not_know() {
    let server = server();
    Api::new(&server).create(&service("web", 80));
    let fault = server.fail(forbidden("namespaces"));
    let settings = Settings { pools: Pools::Ours, ..Settings::default() };
    let follower = Follower::start(&server.kubeconfig(), settings);
    let is_said = |line: &String| line.starts_with("waiting for") && line.contains("403 Forbidden");
    until("it is said", || follower.progress.lines().iter().any(is_said));
    assert!(follower.seen().batches.is_empty());
    server.faults().remove(fault);
    follower.until("the first batch", |seen| !seen.batches.is_empty());
}

#[test]
fn what_can_be_done_without_is_waited_for_and_then_said_and_picked_up_later() {
    for code in [403, 404] {
        let server = server();
        let api = Api::new(&server);
        api.create(&service("web", 80));
        api.create(&serde_json::json!({"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass",
            "metadata": {"name": "own"}, "spec": {"controller": "x.example/y"}}));
        let refused = Fault::new(Effect::Status { code, retry_after: None }).resources(&["ingressclasses"]);
        let fault = server.fail(refused);
        let start = Instant::now();
        let follower = Follower::synced(&server, Settings::default());
        assert!((9..13).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
        assert!(follower.seen().has("Service default/web"));
        let lines = follower.progress.lines();
        assert!(lines.len() == 1 && lines[0].starts_with("waiting for IngressClasses: 40"), "{lines:?}");
        if code == 404 {
            server.faults().remove(fault);
            follower.until("it is picked up", |seen| seen.has("IngressClass own"));
            assert!(follower.progress.lines().is_empty());
        }
    }
}

fn rule(group: &str, resource: &str, verbs: &[&str], names: &[&str]) -> Rule {
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    Rule {
        api_groups: owned(&[group]),
        resources: owned(&[resource]),
        verbs: owned(verbs),
        resource_names: owned(names),
        ..Rule::default()
    }
}

#[test]
fn named_secrets_are_read_by_name_where_their_list_may_not_be_seen() {
    let all = ["get", "list", "watch"];
    let rules = vec![
        rule("", "services", &all, &[]),
        rule("discovery.k8s.io", "endpointslices", &all, &[]),
        rule("networking.k8s.io", "ingresses", &all, &[]),
        rule("networking.k8s.io", "ingressclasses", &all, &[]),
        rule("", "secrets", &["get"], &["tls", "late"]),
    ];
    let poor = Token { token: "poor".to_owned(), user: "poor".to_owned(), rules: Some(rules) };
    let options = Options { tokens: vec![Token::admin("rich"), poor], ..Options::default() };
    let server = Server::start(options).unwrap();
    let api = Api::new(&server);
    api.create(&secret("tls", "x"));
    api.create(&ingress("web", Some("tls")));
    let follower = Follower::start(&server.kubeconfig_of("poor"), Settings::default());
    let took = follower.until("the first batch", |seen| !seen.batches.is_empty());
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(follower.seen().names(), ["Ingress default/web", "Secret default/tls"]);
    assert!(follower.progress.lines().iter().any(|line| line.starts_with("waiting for Secrets: 403")));
    api.create(&secret("late", "x"));
    api.create(&ingress("late", Some("late")));
    follower.until("another one", |seen| seen.has("Secret default/late"));
    // One that may not be seen at all holds nothing up.
    api.create(&secret("hidden", "x"));
    api.create(&ingress("hidden", Some("hidden")));
    let took = follower.until("its Ingress", |seen| seen.has("Ingress default/hidden"));
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(!follower.seen().has("Secret default/hidden"));
}

#[test]
fn rights_that_are_taken_away_take_nothing_else_away() {
    let server = server();
    let api = Api::new(&server);
    api.create(&service("web", 80));
    let follower = Follower::synced(&server, Settings::default());
    let fault = server.fail(forbidden("services"));
    follower.end_watches(&server);
    until("it is said", || {
        follower.progress.lines().iter().any(|line| line.starts_with("not following Services: 403"))
    });
    api.create(&ingress("other", None));
    follower.until("others are followed", |seen| seen.has("Ingress default/other"));
    assert!(follower.seen().has("Service default/web"));
    server.faults().remove(fault);
    server.plant(service("new", 80)).unwrap();
    follower.until("it is followed again", |seen| seen.has("Service default/new"));
    assert_eq!(follower.seen().changes(), ["+Ingress default/other", "+Service default/new"]);
}

#[test]
fn token_that_is_not_accepted_is_said() {
    let server = server();
    let follower = Follower::start(&server.kubeconfig_of("wrong"), Settings::default());
    until("it is said", || {
        follower
            .progress
            .lines()
            .iter()
            .any(|line| line.starts_with("waiting for Ingresses: 401 Unauthorized"))
    });
    assert!(follower.seen().batches.is_empty());
}
