//! Servers that come back with another history.

use std::time::Duration;

use controller::source::kube::Settings;
use test_apiserver::{Effect, Fault, Server};

use crate::common::*;

fn follow() -> (Server, Follower) {
    let server = server();
    for name in ["a", "b", "c"] {
        server.plant(service(name, 80)).unwrap();
        server.plant(slice(name, "10.0.0.1")).unwrap();
        server.plant(ingress(name, None)).unwrap();
    }
    let follower = Follower::synced(&server, Settings::default());
    (server, follower)
}

#[test]
fn history_that_begins_anew_changes_nothing_and_is_followed_within_a_second() {
    for first in [Some(7), None] {
        let (server, follower) = follow();
        server.faults().set_refusing(true);
        until("it is told", || follower.progress.lines().iter().any(|line| line.contains("unreachable")));
        server.forget_history(first);
        server.plant(service("new", 80)).unwrap();
        server.faults().set_refusing(false);
        let took = follower.until("the new Service", |seen| seen.has("Service default/new"));
        assert!(took < Duration::from_secs(1), "{first:?} {took:?}");
        server.plant(slice("new", "10.0.0.2")).unwrap();
        follower.until("a change", |seen| seen.has("EndpointSlice default/new"));
        assert_eq!(follower.seen().changes(), ["+Service default/new", "+EndpointSlice default/new"]);
    }
}

#[test]
fn history_that_changes_without_an_outage_is_noticed() {
    let (server, follower) = follow();
    server.forget_history(Some(7));
    server.plant(ingress("new", None)).unwrap();
    let took = follower.until("the new Ingress", |seen| seen.has("Ingress default/new"));
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(follower.seen().changes(), ["+Ingress default/new"]);
}

#[test]
fn what_is_not_in_the_new_history_goes_and_what_was_made_again_stays() {
    let (server, follower) = follow();
    let api = Api::new(&server);
    server.faults().set_refusing(true);
    until("it is told", || follower.progress.lines().iter().any(|line| line.contains("unreachable")));
    server.forget_history(Some(7));
    server.faults().set_refusing(false);
    api.delete(&service("a", 80));
    follower.until("the deletion", |seen| !seen.has("Service default/a"));
    assert_eq!(follower.seen().changes(), ["-Service default/a"]);
}

#[test]
fn what_went_while_the_server_was_away_goes_whatever_the_versions_are_then() {
    for first in [Some(7), None] {
        let (server, follower) = follow();
        let api = Api::new(&server);
        let deaf = server.fail(Fault::new(Effect::Drop).verbs(&["watch", "list"]));
        server.faults().reset_connections();
        for name in ["a", "b"] {
            api.delete(&ingress(name, None));
        }
        // The same name, and another object.
        server.plant(ingress("b", None)).unwrap();
        server.faults().set_refusing(true);
        until("it is told", || follower.progress.lines().iter().any(|line| line.contains("unreachable")));
        server.faults().remove(deaf);
        server.forget_history(first);
        server.faults().set_refusing(false);
        let took = follower.until("the deletion", |seen| !seen.has("Ingress default/a"));
        assert!(took < Duration::from_secs(1), "{first:?} {took:?}");
        let mut changes = follower.seen().changes().to_vec();
        // It is younger, and so another one, if a second began between the first and this one of its name.
        changes.retain(|change| change != "+Ingress default/b");
        assert_eq!(changes, ["-Ingress default/a"]);
    }
}

#[test]
fn secret_that_changed_in_a_history_with_lower_versions_is_read_again() {
    let (server, follower) = follow();
    let api = Api::new(&server);
    api.create(&secret("tls", "x"));
    api.create(&ingress("d", Some("tls")));
    follower.until("the Secret", |seen| seen.has("Secret default/tls"));
    until("a watch", || server.requests().of("watch", "secrets") >= 1);
    server.faults().set_refusing(true);
    until("it is told", || follower.progress.lines().iter().any(|line| line.contains("unreachable")));
    server.forget_history(Some(7));
    server.plant(secret("tls", "y")).unwrap();
    let gets = server.requests().of("get", "secrets");
    server.faults().set_refusing(false);
    let took = until("it is read", || server.requests().of("get", "secrets") > gets);
    assert!(took < Duration::from_secs(1), "{took:?}");
}
