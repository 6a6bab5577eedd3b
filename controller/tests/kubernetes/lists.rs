//! Lists that are large, torn or wrong in parts.

use std::time::Duration;

use controller::source::kube::Settings;
use serde_json::{Value, json};
use test_apiserver::{Effect, Fault, Server};

use crate::common::*;

/// More than two pages.
fn plant_many(server: &Server) {
    for number in 0..1_200 {
        server.plant(service(&format!("s{number:04}"), 80)).unwrap();
    }
}

fn services(follower: &Follower) -> usize {
    follower.seen().objects.keys().filter(|name| name.starts_with("Service default/s")).count()
}

#[test]
fn list_of_many_pages_is_complete() {
    let server = server();
    plant_many(&server);
    let follower = Follower::synced(&server, Settings::default());
    assert_eq!(services(&follower), 1_200);
    assert!(server.requests().of("list", "services") >= 3);
    assert_eq!(follower.metric("lists_total{resource=\"Services\"}"), 1.0);
}

#[test]
fn list_whose_continuation_expires_starts_again_and_nothing_is_passed_on_before_it_is_complete() {
    let server = server();
    plant_many(&server);
    server.fail(Fault::new(Effect::Delay { millis: 300 }).verbs(&["list"]).resources(&["services"]));
    let follower = Follower::start(&server.kubeconfig(), Settings::default());
    until("the second page is asked for", || server.requests().of("list", "services") == 2);
    server.plant(service("s9999", 80)).unwrap();
    server.compact();
    follower.until("the first batch", |seen| !seen.batches.is_empty());
    assert_eq!(services(&follower), 1_201);
    assert!(follower.metric("lists_total{resource=\"Services\"}") >= 2.0);
    assert_eq!(follower.metric("failures_total{resource=\"Services\",cause=\"gone\"}"), 1.0);
}

#[test]
fn relist_that_breaks_off_takes_nothing_away() {
    let server = server();
    plant_many(&server);
    let follower = Follower::synced(&server, Settings::default());
    // The first page comes whole, what follows breaks off.
    server.fail(Fault::new(Effect::Delay { millis: 100 }).verbs(&["list"]).resources(&["services"]));
    let before = server.requests().of("list", "services");
    follower.reread();
    until("a page is asked for", || server.requests().of("list", "services") >= before + 3);
    let torn = server.fail(Fault::new(Effect::Truncate).verbs(&["list"]).resources(&["services"]));
    until("it fails", || follower.metric("failures_total{resource=\"Services\",cause=\"lost\"}") >= 2.0);
    assert_eq!(services(&follower), 1_200);
    server.faults().remove(torn);
    Api::new(&server).create(&service("s9999", 80));
    follower.until("the list is complete after all", |seen| seen.has("Service default/s9999"));
    assert_eq!(follower.seen().changes(), ["+Service default/s9999"]);
}

#[test]
fn what_was_deleted_unseen_goes_when_everything_is_listed_again() {
    let server = server();
    let api = Api::new(&server);
    for name in ["a", "b", "c"] {
        api.create(&service(name, 80));
    }
    let follower = Follower::synced(&server, Settings::default());
    let deaf = server.fail(Fault::new(Effect::Status { code: 500, retry_after: None }).verbs(&["watch"]));
    follower.end_watches(&server);
    until("watches fail", || {
        follower.metric("failures_total{resource=\"Services\",cause=\"status\"}") >= 1.0
    });
    api.delete(&service("a", 80));
    api.merge(&service("b", 80), &json!({"spec": {"ports": [{"name": "http", "port": 81}]}}));
    server.compact();
    server.faults().remove(deaf);
    let took = follower.until("the deletion", |seen| !seen.has("Service default/a"));
    assert!(took < Duration::from_secs(3), "{took:?}");
    let batches = follower.seen().batches.clone();
    assert_eq!(batches.last().unwrap(), &["+Service default/b", "-Service default/a"]);
}

/// What an old server or a broken tool may have left.
fn bad_ingresses() -> Vec<Value> {
    let with = |name: &str, field: &str, value: Value| {
        let mut object = ingress(name, None);
        object.pointer_mut(field).map(|place| *place = value).unwrap();
        object
    };
    vec![
        with("bad-rules", "/spec/rules", json!("none")),
        with("bad-spec", "/spec", json!(7)),
        with("bad-paths", "/spec/rules/0/http/paths", json!({"path": "/"})),
        with("bad-port", "/spec/rules/0/http/paths/0/backend/service/port", json!([])),
        with("bad-host", "/spec/rules/0/host", json!({})),
    ]
}

#[test]
fn object_that_does_not_decode_is_told_and_hides_no_other() {
    let server = server();
    for object in bad_ingresses() {
        server.plant(object).unwrap();
    }
    server.plant(ingress("good", None)).unwrap();
    let follower = Follower::synced(&server, Settings::default());
    let seen = follower.seen();
    assert!(seen.has("Ingress default/good"), "{:?}", seen.names());
    for bad in bad_ingresses() {
        let name = format!("Ingress default/{}", bad["metadata"]["name"].as_str().unwrap());
        assert!(seen.problems.contains_key(&name) && !seen.has(&name), "{name}: {:?}", seen.problems);
    }
    drop(seen);
    assert_eq!(follower.metric("decode_failures_total{resource=\"Ingresses\"}"), 5.0);
}

#[test]
fn object_that_no_longer_decodes_keeps_its_last_good_version_until_it_does_or_goes() {
    let server = server();
    let api = Api::new(&server);
    api.create(&service("web", 80));
    let follower = Follower::synced(&server, Settings::default());
    let mut bad = service("web", 80);
    bad["spec"]["ports"] = json!("all");
    server.plant(bad).unwrap();
    follower.until("the problem", |seen| seen.problems.contains_key("Service default/web"));
    assert!(follower.seen().has("Service default/web"));
    // Also when everything is listed again.
    server.compact();
    follower.end_watches(&server);
    api.create(&service("mark", 80));
    follower.until("the mark", |seen| seen.has("Service default/mark"));
    assert!(follower.seen().has("Service default/web"));

    server.plant(service("web", 81)).unwrap();
    follower.until("it is good again", |seen| !seen.problems.contains_key("Service default/web"));
    let mut bad = service("web", 80);
    bad["spec"] = json!(false);
    server.plant(bad).unwrap();
    follower.until("the problem", |seen| seen.problems.contains_key("Service default/web"));
    api.delete(&service("web", 80));
    follower.until("it goes, and the problem with it", |seen| {
        !seen.has("Service default/web") && seen.problems.is_empty()
    });
}

#[test]
fn fields_of_a_newer_version_are_no_problem() {
    let server = server();
    let mut object = ingress("new", None);
    object["spec"]["newField"] = json!({"deep": [1, null]});
    object["spec"]["rules"][0]["http"]["paths"][0]["newer"] = json!(true);
    object["newest"] = json!(1);
    server.plant(object).unwrap();
    let follower = Follower::synced(&server, Settings::default());
    assert!(follower.seen().has("Ingress default/new"));
    assert!(follower.seen().problems.is_empty(), "{:?}", follower.seen().problems);
}

#[test]
fn object_of_any_size_that_a_server_may_hold_is_taken() {
    let server = server();
    let mut object = ingress("large", None);
    object["metadata"]["annotations"] = json!({"of/others": "x".repeat(6 * 1024 * 1024)});
    server.plant(object).unwrap();
    let mut huge = ingress("huge", None);
    huge["metadata"]["annotations"] = json!({"of/others": "x".repeat(9 * 1024 * 1024)});
    server.plant(huge).unwrap();
    server.plant(ingress("small", None)).unwrap();
    let follower = Follower::synced(&server, Settings::default());
    assert_eq!(follower.seen().names(), ["Ingress default/large", "Ingress default/small"]);
    assert_eq!(follower.metric("decode_failures_total{resource=\"Ingresses\"}"), 1.0);
}
