//! A server that is slow, silent, away, or says things twice.

use std::time::{Duration, Instant};

use controller::source::kube::Settings;
use serde_json::json;
use test_apiserver::{Effect, Fault};

use crate::common::*;

#[test]
fn server_that_goes_takes_nothing_along_and_its_return_is_seen_within_a_second() {
    let server = server();
    let api = Api::new(&server);
    api.create(&service("web", 80));
    api.create(&slice("web", "10.0.0.1"));
    let follower = Follower::synced(&server, Settings::default());
    server.faults().set_refusing(true);
    until("it is told", || follower.progress.lines().iter().any(|line| line.contains("unreachable")));
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(follower.seen().changes(), [] as [&str; 0]);
    server.plant(service("new", 80)).unwrap();
    server.faults().set_refusing(false);
    let took = follower.until("the new Service", |seen| seen.has("Service default/new"));
    assert!(took < Duration::from_secs(1), "{took:?}");
    follower.until("all is well", |_| follower.progress.lines().is_empty());
    assert_eq!(follower.seen().changes(), ["+Service default/new"]);
}

#[test]
fn watch_that_is_too_old_is_a_list_without_effect() {
    let server = server();
    let api = Api::new(&server);
    for name in ["a", "b"] {
        api.create(&service(name, 80));
    }
    let follower = Follower::synced(&server, Settings::default());
    // Versions go on elsewhere, so that ours is not the latest.
    api.create(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "elsewhere"}}));
    server.compact();
    follower.end_watches(&server);
    until("a list", || follower.metric("lists_total{resource=\"Services\"}") >= 2.0);
    api.create(&service("mark", 80));
    follower.until("the mark", |seen| seen.has("Service default/mark"));
    assert_eq!(follower.seen().changes(), ["+Service default/mark"]);
}

#[test]
fn server_that_comes_and_goes_is_not_asked_for_everything_each_time() {
    let server = server();
    let api = Api::new(&server);
    api.create(&service("web", 80));
    let follower = Follower::synced(&server, Settings::default());
    for _ in 0..8 {
        server.faults().set_refusing(true);
        std::thread::sleep(Duration::from_millis(500));
        server.compact();
        server.faults().set_refusing(false);
        std::thread::sleep(Duration::from_millis(500));
    }
    let lists = follower.metric("lists_total{resource=\"Services\"}");
    assert!(lists <= 3.0, "{lists}");
    assert_eq!(follower.seen().changes(), [] as [&str; 0]);
}

#[test]
fn events_that_come_twice_or_in_another_order_change_nothing_in_the_end() {
    for effect in [Effect::DuplicateEvents, Effect::ReorderEvents] {
        let server = server();
        let api = Api::new(&server);
        api.create(&service("web", 80));
        let follower = Follower::synced(&server, Settings::default());
        server.fail(Fault::new(effect).verbs(&["watch"]));
        for port in 81..120 {
            api.merge(&service("web", 80), &json!({"spec": {"ports": [{"name": "http", "port": port}]}}));
            api.create(&service(&format!("s{port}"), port));
        }
        for port in 81..110 {
            api.delete(&service(&format!("s{port}"), port));
        }
        server.faults().clear();
        api.create(&service("mark", 80));
        follower.until("the mark", |seen| seen.has("Service default/mark"));
        let fresh = Follower::synced(&server, Settings::default());
        follower.until("the same as from a fresh look", |seen| seen.objects == fresh.seen().objects);
        // Ten Services stayed, and nothing came back that was deleted.
        let changes = follower.seen().changes();
        let back = changes.iter().enumerate().filter(|(at, change)| {
            change.strip_prefix('-').is_some_and(|name| changes[at + 1..].contains(&format!("+{name}")))
        });
        assert_eq!(back.count(), 0, "{effect:?} {changes:?}");
    }
}

#[test]
fn list_from_a_cache_that_stands_still_takes_nothing_back() {
    let server = server();
    let api = Api::new(&server);
    api.create(&service("web", 80));
    let follower = Follower::synced(&server, Settings::default());
    let stale = server.fail(Fault::new(Effect::Stale { version: 0 }));
    api.merge(&service("web", 80), &json!({"spec": {"ports": [{"name": "http", "port": 81}]}}));
    api.create(&service("new", 80));
    follower.reread();
    follower.until("what is new", |seen| seen.has("Service default/new"));
    server.faults().reset_connections();
    follower.reread();
    until("lists", || follower.metric("lists_total{resource=\"Services\"}") >= 3.0);
    server.faults().remove(stale);
    api.create(&service("mark", 80));
    follower.until("the mark", |seen| seen.has("Service default/mark"));
    let changes = follower.seen().changes();
    assert_eq!(changes, ["+Service default/new", "+Service default/web", "+Service default/mark"]);
}

#[test]
fn server_that_is_overloaded_is_left_alone_for_as_long_as_it_says() {
    let server = server();
    Api::new(&server).create(&service("web", 80));
    let busy = Fault::new(Effect::Status { code: 429, retry_after: Some(2) }).resources(&["services"]);
    server.fail(busy.verbs(&["list"]).times(1));
    let start = Instant::now();
    let follower = Follower::synced(&server, Settings::default());
    let took = start.elapsed();
    assert!((2_000 * MS..4_000 * MS).contains(&took), "{took:?}");
    assert_eq!(follower.metric("failures_total{resource=\"Services\",cause=\"throttled\"}"), 1.0);
}

#[test]
fn silent_death_of_a_watch_is_noticed_within_45_seconds() {
    let server = server();
    let api = Api::new(&server);
    api.create(&service("web", 80));
    let follower = Follower::synced(&server, Settings::default());
    let start = Instant::now();
    // Nothing arrives on the connections that are open, for ever; others are answered as ever.
    let deaf = Fault::new(Effect::DelayEvents { millis: 3_600_000 });
    server.fail(deaf.verbs(&["watch"]).resources(&["services"]).times(1));
    api.create(&service("lost", 80));
    while !follower.seen().has("Service default/lost") {
        assert!(start.elapsed() < Duration::from_secs(45));
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn server_that_does_not_say_a_word_is_told_and_found_again() {
    let server = server();
    let api = Api::new(&server);
    api.create(&service("web", 80));
    let follower = Follower::synced(&server, Settings::default());
    server.faults().set_silent(true);
    server.faults().reset_connections();
    until("it is told", || follower.progress.lines().iter().any(|line| line.contains("no answer")));
    server.plant(service("new", 80)).unwrap();
    server.faults().set_silent(false);
    let took = follower.until("the new Service", |seen| seen.has("Service default/new"));
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[test]
fn server_that_answers_with_nothing_but_errors_is_found_again_within_a_second() {
    let effect = Effect::Status { code: 503, retry_after: None };
    let server = server();
    Api::new(&server).create(&service("web", 80));
    let follower = Follower::synced(&server, Settings::default());
    let broken = server.fail(Fault::new(effect));
    server.faults().reset_connections();
    let is_told = |line: &String| line.contains("503");
    until("it is told", || follower.progress.lines().iter().any(is_told));
    // Long enough for delays to have grown.
    std::thread::sleep(Duration::from_secs(6));
    server.plant(service("new", 80)).unwrap();
    server.faults().remove(broken);
    let took = follower.until("the new Service", |seen| seen.has("Service default/new"));
    assert!(took < Duration::from_millis(2_000), "{effect:?} {took:?}");
    assert_eq!(follower.seen().changes(), ["+Service default/new"]);
}

#[test]
fn first_request_that_is_never_answered_is_made_once_more_after_two_seconds() {
    let server = server();
    Api::new(&server).create(&service("web", 80));
    server.fail(Fault::new(Effect::Hang).verbs(&["list"]).resources(&["services"]).times(1));
    let start = Instant::now();
    let _follower = Follower::synced(&server, Settings::default());
    assert!((2_000 * MS..8_000 * MS).contains(&start.elapsed()), "{:?}", start.elapsed());
}
