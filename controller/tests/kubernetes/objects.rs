//! What comes and goes, in good order.

use serde_json::json;
use test_apiserver::{Effect, Fault};

use crate::common::*;
use controller::source::kube::Settings;

#[test]
fn first_batch_is_complete_and_changes_follow() {
    let server = server();
    let api = Api::new(&server);
    api.create(&service("web", 80));
    api.create(&slice("web", "10.0.0.1"));
    api.create(&ingress("web", None));
    api.create(
        &json!({"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {"name": "own"},
        "spec": {"controller": "sluicegate.dev/ingress-controller"}}),
    );
    let follower = Follower::synced(&server, Settings::default());
    let names = follower.seen().names();
    for name in
        ["EndpointSlice default/web", "Ingress default/web", "IngressClass own", "Service default/web"]
    {
        assert!(names.iter().any(|seen| seen == name), "{name}: {names:?}");
    }
    assert!(follower.progress.lines().is_empty(), "{:?}", follower.progress.lines());

    api.create(&service("late", 80));
    follower.until("the new Service", |seen| seen.has("Service default/late"));
    api.delete(&ingress("web", None));
    follower.until("the Ingress goes", |seen| !seen.has("Ingress default/web"));
    assert_eq!(follower.seen().changes(), ["+Service default/late", "-Ingress default/web"]);
}

#[test]
fn change_of_status_or_of_what_nobody_reads_changes_nothing() {
    let server = server();
    let api = Api::new(&server);
    api.create(&service("web", 80));
    let follower = Follower::synced(&server, Settings::default());
    api.merge(&service("web", 80), &json!({"metadata": {"annotations": {"of": "others"}}}));
    api.create(&service("mark", 80));
    follower.until("the mark", |seen| seen.has("Service default/mark"));
    assert_eq!(follower.seen().changes(), ["+Service default/mark"]);
}

#[test]
fn only_the_named_namespaces_are_watched() {
    let server = server();
    let api = Api::new(&server);
    for namespace in ["one", "two", "three"] {
        api.create(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}));
        api.create(&within(service("web", 80), namespace));
    }
    let namespaces = ["one".into(), "two".into()].into();
    let follower = Follower::synced(&server, Settings { namespaces, ..Settings::default() });
    let names = follower.seen().names();
    assert_eq!(names, ["Service one/web", "Service two/web"]);
    api.create(&within(service("late", 80), "three"));
    api.create(&within(service("late", 80), "two"));
    follower.until("the new Service", |seen| seen.has("Service two/late"));
    assert!(!follower.seen().has("Service three/late"));
}

#[test]
fn only_ingresses_with_the_labels_are_watched() {
    let server = server();
    let api = Api::new(&server);
    let labelled = |name: &str, value: &str| {
        let mut object = ingress(name, None);
        object["metadata"]["labels"] = json!({"edge": value});
        object
    };
    api.create(&labelled("a", "public"));
    api.create(&labelled("b", "internal"));
    api.create(&service("web", 80));
    let selector = Some("edge in (public,partner)".into());
    let follower = Follower::synced(&server, Settings { selector, ..Settings::default() });
    assert!(follower.seen().has("Ingress default/a") && !follower.seen().has("Ingress default/b"));
    assert!(follower.seen().has("Service default/web"));
    api.merge(&ingress("b", None), &json!({"metadata": {"labels": {"edge": "partner"}}}));
    follower.until("the label", |seen| seen.has("Ingress default/b"));
    api.merge(&ingress("a", None), &json!({"metadata": {"labels": {"edge": "none"}}}));
    follower.until("the label", |seen| !seen.has("Ingress default/a"));
}

#[test]
fn labels_of_a_namespace_decide_at_once_on_what_is_in_it() {
    let server = server();
    let api = Api::new(&server);
    let namespace = |name: &str, team: &str| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"team": team}}});
    api.create(&namespace("ours", "web"));
    api.create(&namespace("theirs", "data"));
    for name in ["ours", "theirs"] {
        api.create(&within(service("web", 80), name));
        api.create(&within(ingress("web", Some("tls")), name));
        api.create(&within(secret("tls", "x"), name));
    }
    let namespace_selector = Some("team=web".into());
    let follower = Follower::synced(&server, Settings { namespace_selector, ..Settings::default() });
    let ours = ["Ingress ours/web", "Secret ours/tls", "Service ours/web"];
    assert_eq!(follower.seen().names(), ours);

    api.merge(&namespace("theirs", ""), &json!({"metadata": {"labels": {"team": "web"}}}));
    let took = follower.until("what joined", |seen| {
        ["Ingress theirs/web", "Secret theirs/tls", "Service theirs/web"].iter().all(|name| seen.has(name))
    });
    assert!(took < 1_000 * MS, "{took:?}");
    api.create(&within(service("late", 80), "theirs"));
    follower.until("a change there", |seen| seen.has("Service theirs/late"));

    api.merge(&namespace("theirs", ""), &json!({"metadata": {"labels": {"team": "data"}}}));
    let took = follower.until("what left", |seen| seen.names() == ours);
    assert!(took < 1_000 * MS, "{took:?}");
    api.create(&within(service("later", 80), "theirs"));
    api.create(&within(service("later", 80), "ours"));
    follower.until("a change here", |seen| seen.has("Service ours/later"));
    assert!(!follower.seen().has("Service theirs/later"));
}

#[test]
fn namespace_that_joined_while_the_server_was_in_trouble_is_asked_for_again_at_once() {
    let server = server();
    let api = Api::new(&server);
    let namespace = |name: &str, team: &str| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"team": team}}});
    api.create(&namespace("ours", "web"));
    api.create(&namespace("theirs", "data"));
    api.create(&within(service("web", 80), "theirs"));
    let namespace_selector = Some("team=web".into());
    let follower = Follower::synced(&server, Settings { namespace_selector, ..Settings::default() });
    let busy = Fault::new(Effect::Status { code: 500, retry_after: None });
    server.fail(busy.verbs(&["list"]).resources(&["services"]).times(1));
    api.merge(&namespace("theirs", ""), &json!({"metadata": {"labels": {"team": "web"}}}));
    let took = follower.until("what joined", |seen| seen.has("Service theirs/web"));
    assert!(took < 2_000 * MS, "{took:?}");
    assert_eq!(follower.metric("failures_total{resource=\"Services\",cause=\"status\"}"), 1.0);
}

#[test]
fn zone_is_that_of_the_node_and_no_zone_holds_nothing_up() {
    let server = server();
    server
        .plant(json!({"apiVersion": "v1", "kind": "Node",
            "metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "west"}}}))
        .unwrap();
    let with = |node: Option<&str>, zone: Option<&str>| {
        let (node, zone) = (node.map(Into::into), zone.map(Into::into));
        let follower = Follower::synced(&server, Settings { node, zone, ..Settings::default() });
        let batch = follower.seen().batches[0].clone();
        batch.into_iter().filter(|event| event.starts_with("zone")).collect::<Vec<_>>()
    };
    assert_eq!(with(Some("n1"), None), ["zone Some(\"west\")"]);
    assert_eq!(with(Some("n1"), Some("east")), ["zone Some(\"east\")"]);
    assert_eq!(with(None, None), [] as [&str; 0]);
    assert_eq!(with(Some("missing"), None), ["zone None"]);
}

#[test]
fn user_gets_a_fresh_look() {
    let server = server();
    Api::new(&server).create(&service("web", 80));
    let follower = Follower::synced(&server, Settings::default());
    let before = server.requests().of("list", "services");
    follower.reread();
    until("another list", || server.requests().of("list", "services") >= before + 2);
    follower.until("it is followed again", |_| follower.progress.lines().is_empty());
    assert_eq!(follower.seen().changes(), [] as [&str; 0]);
}
