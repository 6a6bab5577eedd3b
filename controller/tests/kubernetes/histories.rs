//! Servers that come back with another history.

use std::time::Duration;

use controller::source::kube::Settings;
use test_apiserver::Server;

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
