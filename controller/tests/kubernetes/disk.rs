//! A start while the API server is away.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;
use test_apiserver::Server;

use crate::common::*;

/// A server, and a folder in which its objects were kept.
fn kept() -> (Server, TempDir) {
    let server = server();
    let state_dir = TempDir::new().unwrap();
    let api = Api::new(&server);
    api.create(&secret("tls", "x"));
    for name in ["a", "b"] {
        api.create(&service(name, 80));
        api.create(&slice(name, "10.0.0.1"));
        api.create(&ingress(name, Some("tls")));
    }
    let follower = Follower::synced(&server, state(state_dir.path()));
    // A change after the first lists is kept as well.
    api.create(&service("late", 80));
    follower.until("the change", |seen| seen.has("Service default/late"));
    (server, state_dir)
}

#[test]
fn start_without_the_api_server_serves_what_was_known_last_within_a_second() {
    let (server, state_dir) = kept();
    let expected = Follower::synced(&server, state(TempDir::new().unwrap().path()));
    server.faults().set_refusing(true);
    let start = Instant::now();
    let follower = Follower::start(&server.kubeconfig(), state(state_dir.path()));
    follower.until("the disk's objects", |seen| !seen.batches.is_empty());
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(follower.seen().objects, expected.seen().objects);
    assert!(follower.progress.lines()[0].starts_with("serving the last known configuration from disk"));
    assert_eq!(follower.metric("served_from_disk"), 1.0);

    server.plant(service("new", 80)).unwrap();
    server.faults().set_refusing(false);
    let took = follower.until("the new Service", |seen| seen.has("Service default/new"));
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(follower.seen().changes(), ["+Service default/new"]);
    assert_eq!(follower.seen().batches.len(), 2, "the lists replace it in one batch");
    assert_eq!(follower.metric("served_from_disk"), 0.0);
    until("all is well", || follower.progress.lines().is_empty());
}

#[test]
fn what_is_gone_meanwhile_goes_in_the_same_batch_and_a_new_history_is_nothing_special() {
    let (server, state_dir) = kept();
    server.faults().set_refusing(true);
    let follower = Follower::start(&server.kubeconfig(), state(state_dir.path()));
    follower.until("the disk's objects", |seen| !seen.batches.is_empty());
    let api = {
        // Nothing may see the server in between.
        server.forget_history(Some(3));
        let mut bad = service("b", 80);
        bad["spec"]["ports"] = json!("none");
        server.plant(bad).unwrap();
        server.plant(slice("b", "10.0.0.9")).unwrap();
        server.faults().set_refusing(false);
        Api::new(&server)
    };
    follower.until("the lists", |seen| seen.batches.len() >= 2);
    assert_eq!(follower.seen().changes(), ["+EndpointSlice default/b"]);
    assert!(follower.seen().has("Service default/b"), "its last good version is that of the disk");
    assert!(follower.seen().problems.contains_key("Service default/b"));
    for name in ["a", "b"] {
        api.delete(&ingress(name, None));
    }
    follower.until("the Secret goes with them", |seen| !seen.has("Secret default/tls"));
    drop(follower);

    server.faults().set_refusing(true);
    let follower = Follower::start(&server.kubeconfig(), state(state_dir.path()));
    follower.until("the disk's objects", |seen| !seen.batches.is_empty());
    let names = follower.seen().names();
    assert!(!names.iter().any(|name| name.starts_with("Ingress") || name.starts_with("Secret")), "{names:?}");
}

#[test]
fn object_that_went_while_nobody_looked_goes_when_the_lists_come() {
    let (server, state_dir) = kept();
    Api::new(&server).delete(&service("a", 80));
    server.faults().set_refusing(true);
    let follower = Follower::start(&server.kubeconfig(), state(state_dir.path()));
    follower.until("the disk's objects", |seen| seen.has("Service default/a"));
    server.faults().set_refusing(false);
    follower.until("the lists", |seen| seen.batches.len() >= 2);
    assert_eq!(follower.seen().changes(), ["-Service default/a"]);
}

#[test]
fn disk_is_not_read_if_the_api_server_answers_even_if_it_refuses() {
    let (server, state_dir) = kept();
    let follower = Follower::start(&server.kubeconfig_of("wrong"), state(state_dir.path()));
    until("it is refused", || follower.progress.lines().iter().any(|line| line.contains("401 Unauthorized")));
    std::thread::sleep(Duration::from_millis(1_500));
    assert!(follower.seen().batches.is_empty());
    assert_eq!(follower.metric("served_from_disk"), 0.0);
}

#[test]
fn disk_is_read_if_the_api_server_says_nothing_or_is_broken() {
    use test_apiserver::{Effect, Fault};
    for is_silent in [true, false] {
        let (server, state_dir) = kept();
        if is_silent {
            server.faults().set_silent(true);
        } else {
            server.fail(Fault::new(Effect::Status { code: 500, retry_after: None }));
        }
        let start = Instant::now();
        let follower = Follower::start(&server.kubeconfig(), state(state_dir.path()));
        follower.until("the disk's objects", |seen| !seen.batches.is_empty());
        assert!(start.elapsed() < Duration::from_secs(1), "{is_silent} {:?}", start.elapsed());
        assert!(follower.seen().has("Ingress default/a"));
    }
}

#[test]
fn disk_is_read_if_one_list_or_the_secrets_do_not_come() {
    use test_apiserver::{Effect, Fault};
    let busy = |code| Fault::new(Effect::Status { code, retry_after: None });
    let faults = [
        busy(500).resources(&["endpointslices"]),
        busy(429).resources(&["ingresses"]),
        busy(429),
        busy(500).resources(&["secrets"]),
    ];
    for fault in faults {
        let (server, state_dir) = kept();
        let name = format!("{fault:?}");
        let fault = server.fail(fault);
        let start = Instant::now();
        let follower = Follower::start(&server.kubeconfig(), state(state_dir.path()));
        follower.until("the disk's objects", |seen| !seen.batches.is_empty());
        assert!(start.elapsed() < Duration::from_millis(1_500), "{name} {:?}", start.elapsed());
        assert!(follower.seen().has("Ingress default/a") && follower.seen().has("Secret default/tls"));
        server.faults().remove(fault);
        follower.until("the lists", |seen| seen.batches.len() >= 2);
        assert_eq!(follower.seen().changes(), [] as [&str; 0], "{name}");
    }
}

#[test]
fn what_the_disk_has_to_say_of_an_object_goes_with_the_first_word_of_the_api_server() {
    let (server, state_dir) = kept();
    let api = Api::new(&server);
    let mut bad = service("bad", 80);
    bad["spec"]["type"] = json!("LoadBalancer");
    bad["metadata"]["annotations"] = json!({"sluicegate.dev/backend-protocol": "carrier-pigeon"});
    for name in ["bad", "worse", "right"] {
        let mut object = bad.clone();
        object["metadata"]["name"] = name.into();
        api.create(&object);
    }
    let has = |seen: &Seen, name: &str| seen.problems.contains_key(&format!("Service default/{name}"));
    let follower = Follower::synced(&server, state(state_dir.path()));
    follower.until("problems", |seen| ["bad", "worse", "right"].iter().all(|name| has(seen, name)));
    drop(follower);
    api.delete(&service("worse", 80));
    api.merge(&service("right", 80), &json!({"metadata": {"annotations": null}}));
    server.faults().set_refusing(true);
    let follower = Follower::start(&server.kubeconfig(), state(state_dir.path()));
    follower.until("the disk's objects", |seen| seen.has("Service default/worse"));
    assert!(has(&follower.seen(), "worse") && has(&follower.seen(), "right"));
    server.faults().set_refusing(false);
    follower.until("the lists", |seen| seen.batches.len() >= 2);
    let seen = follower.seen();
    assert!(!has(&seen, "worse") && !has(&seen, "right") && has(&seen, "bad"), "{:?}", seen.problems);
}

#[test]
fn what_is_of_another_cluster_or_of_other_namespaces_is_not_served() {
    let (server, state_dir) = kept();
    let other = crate::common::server();
    other.faults().set_refusing(true);
    server.faults().set_refusing(true);
    let follower = Follower::start(&other.kubeconfig(), state(state_dir.path()));
    let mut settings = state(state_dir.path());
    settings.namespaces = ["default".into()].into();
    let narrower = Follower::start(&server.kubeconfig(), settings);
    std::thread::sleep(Duration::from_millis(1_500));
    assert!(follower.seen().batches.is_empty());
    assert!(narrower.seen().batches.is_empty());
}

#[test]
fn damage_costs_only_what_is_damaged() {
    let (server, state_dir) = kept();
    server.faults().set_refusing(true);
    let path = state_dir.path().join("kubernetes/objects.journal");
    let mut bytes = fs::read(&path).unwrap();
    let end = bytes.len();
    bytes.truncate(end - 3);
    fs::write(&path, &bytes).unwrap();
    let follower = Follower::start(&server.kubeconfig(), state(state_dir.path()));
    follower.until("the disk's objects", |seen| !seen.batches.is_empty());
    assert_eq!(follower.seen().objects.len(), 7, "{:?}", follower.seen().names());
}

#[test]
fn nothing_of_a_start_that_was_never_complete_is_kept() {
    use test_apiserver::{Effect, Fault};
    let (server, state_dir) = kept();
    server.fail(Fault::new(Effect::Status { code: 403, retry_after: None }).resources(&["endpointslices"]));
    Api::new(&server).delete(&service("a", 80));
    let follower = Follower::start(&server.kubeconfig(), state(state_dir.path()));
    until("it is said", || follower.progress.lines().iter().any(|line| line.contains("403")));
    drop(follower);
    server.faults().set_refusing(true);
    let follower = Follower::start(&server.kubeconfig(), state(state_dir.path()));
    follower.until("the disk's objects", |seen| !seen.batches.is_empty());
    assert!(follower.seen().has("Service default/a"));
}

#[test]
fn secret_of_the_disk_stays_in_use_and_on_disk_until_it_is_known_to_be_gone() {
    use test_apiserver::{Effect, Fault};
    let (server, state_dir) = kept();
    let api = Api::new(&server);
    server.faults().set_refusing(true);
    let follower = Follower::start(&server.kubeconfig(), state(state_dir.path()));
    follower.until("the disk's objects", |seen| !seen.batches.is_empty());
    let busy = Fault::new(Effect::Status { code: 500, retry_after: None });
    let busy = server.fail(busy.verbs(&["get"]).resources(&["secrets"]));
    server.faults().set_refusing(false);
    follower.until("the lists", |seen| seen.batches.len() >= 2);
    assert_eq!(follower.seen().changes(), [] as [&str; 0]);
    drop(follower);

    server.faults().set_refusing(true);
    let follower = Follower::start(&server.kubeconfig(), state(state_dir.path()));
    follower.until("the disk's objects", |seen| !seen.batches.is_empty());
    assert!(follower.seen().has("Secret default/tls"));
    server.faults().remove(busy);
    server.faults().set_refusing(false);
    api.delete(&secret("tls", ""));
    follower.until("it is gone", |seen| !seen.has("Secret default/tls"));
}
