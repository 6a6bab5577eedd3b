//! What goes wrong on purpose. These tests have a server each, and know that it is the one of this crate.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use test_apiserver::{Effect, Fault, Options, Server};

use crate::common::{Api, Events, refusal, run};

fn server() -> Server {
    Server::start(Options::default()).unwrap()
}

async fn make(api: &Api, name: &str) -> Value {
    api.post("v1/configmaps", json!({"metadata": {"name": name}})).await.unwrap()
}

#[test]
fn a_request_is_refused_as_often_as_was_said() {
    let server = server();
    run(&server.kubeconfig(), async |api| {
        let status = Effect::Status { code: 500, retry_after: None };
        server.fail(Fault::new(status).verbs(&["get"]).resources(&["configmaps"]).times(1));
        assert_eq!(refusal(api.get("v1/configmaps/a").await), (500, "InternalError".to_owned()));
        assert_eq!(refusal(api.get("v1/configmaps/a").await), (404, "NotFound".to_owned()));
        assert_eq!(server.requests().of("get", "configmaps"), 2);
    });
}

#[test]
fn who_is_told_to_come_back_later_does() {
    let server = server();
    run(&server.kubeconfig(), async |api| {
        make(&api, "a").await;
        let started = Instant::now();
        let status = Effect::Status { code: 429, retry_after: Some(1) };
        server.fail(Fault::new(status).verbs(&["get"]).times(1));
        // The client repeats the request by itself.
        assert!(api.get("v1/configmaps/a").await.is_ok());
        assert_eq!(server.requests().of("get", "configmaps"), 2);
        assert!(started.elapsed() >= Duration::from_millis(500));
    });
}

#[test]
fn one_kind_is_forbidden_and_the_others_are_not() {
    let server = server();
    run(&server.kubeconfig(), async |api| {
        let id =
            server.fail(Fault::new(Effect::Status { code: 403, retry_after: None }).resources(&["services"]));
        assert_eq!(refusal(api.get("v1/services").await), (403, "Forbidden".to_owned()));
        assert!(api.get("v1/configmaps").await.is_ok());
        assert!(server.faults().remove(id));
        assert!(api.get("v1/services").await.is_ok());
    });
}

#[test]
fn what_is_delayed_comes_late() {
    let server = server();
    run(&server.kubeconfig(), async |api| {
        server.fail(Fault::new(Effect::Delay { millis: 200 }).resources(&["configmaps"]).times(1));
        let started = Instant::now();
        api.get("v1/configmaps").await.unwrap();
        assert!(started.elapsed() >= Duration::from_millis(200));
    });
}

#[test]
fn a_broken_connection_is_an_error_and_the_next_one_works() {
    let server = server();
    run(&server.kubeconfig(), async |api| {
        make(&api, "a").await;
        for effect in [Effect::Drop, Effect::Reset, Effect::Truncate] {
            server.fail(Fault::new(effect).verbs(&["list"]).resources(&["configmaps"]).times(1));
            assert!(api.try_get("v1/configmaps").await.is_err(), "{effect:?}");
            assert!(api.try_get("v1/configmaps").await.is_ok(), "{effect:?}");
        }
    });
}

#[test]
fn a_write_whose_answer_is_lost_is_done() {
    let server = server();
    run(&server.kubeconfig(), async |api| {
        server.fail(Fault::new(Effect::LoseAnswer).verbs(&["create"]).resources(&["configmaps"]).times(1));
        let path = api.path("v1/configmaps");
        let body = json!({"metadata": {"name": "a"}}).to_string().into_bytes();
        let request =
            http::Request::post(path).header("content-type", "application/json").body(body).unwrap();
        assert!(api.client.request_text(request).await.is_err());
        assert!(api.get("v1/configmaps/a").await.is_ok());
    });
}

#[test]
fn events_are_doubled_swapped_and_lost() {
    let server = server();
    run(&server.kubeconfig(), async |api| {
        let version = api.version("v1/configmaps").await;
        let query = format!("?watch=true&resourceVersion={version}&timeoutSeconds=10");
        let mut events = Events::open(&api, "v1/configmaps", &query).await;
        let watched = |effect| Fault::new(effect).resources(&["configmaps"]).verbs(&["watch"]).times(1);
        server.fail(watched(Effect::DuplicateEvents));
        make(&api, "a").await;
        assert_eq!(events.named(2).await, ["a", "a"]);
        server.fail(watched(Effect::LoseEvents));
        make(&api, "b").await;
        make(&api, "c").await;
        assert_eq!(events.named(1).await, ["c"]);
        server.fail(watched(Effect::ReorderEvents));
        server.faults().set_silent(true);
        let (both, ()) = tokio::join!(
            async {
                // Both are written while nothing is sent, so that they come in one go.
                events.named(2).await
            },
            async {
                server.plant(object("d", &api.namespace)).unwrap();
                server.plant(object("e", &api.namespace)).unwrap();
                server.faults().set_silent(false);
            }
        );
        assert!(both == ["e", "d"] || both == ["d", "e"], "{both:?}");
    });
}

fn object(name: &str, namespace: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}, "data": 7})
}

#[test]
fn what_is_planted_is_served_as_it_is() {
    let server = server();
    run(&server.kubeconfig(), async |api| {
        server.plant(object("wrong", &api.namespace)).unwrap();
        let list = api.get("v1/configmaps").await.unwrap();
        let wrong = list["items"].as_array().unwrap().iter().find(|item| item["metadata"]["name"] == "wrong");
        assert_eq!(wrong.unwrap()["data"], json!(7));
    });
}

#[test]
fn a_cache_that_stands_still_shows_the_past_to_those_who_allow_it() {
    let server = server();
    run(&server.kubeconfig(), async |api| {
        make(&api, "a").await;
        let fault = server.fail(Fault::new(Effect::Stale { version: 0 }).resources(&["configmaps"]));
        make(&api, "b").await;
        let names = async |query: &str| api.names(&format!("v1/configmaps{query}")).await;
        assert_eq!(names("?resourceVersion=0").await, ["a"]);
        assert_eq!(names("").await, ["a", "b"]);
        let mut events = Events::open(&api, "v1/configmaps", "?watch=true&timeoutSeconds=10").await;
        assert_eq!(events.named(1).await, ["a"]);
        server.faults().remove(fault);
        make(&api, "c").await;
        assert_eq!(events.named(2).await, ["b", "c"]);
    });
}

#[test]
fn a_lost_history_is_gone_for_pages_and_watches() {
    let server = server();
    run(&server.kubeconfig(), async |api| {
        make(&api, "a").await;
        make(&api, "b").await;
        let page = api.get("v1/configmaps?limit=1").await.unwrap();
        let token = page["metadata"]["continue"].as_str().unwrap().to_owned();
        let before = api.version("v1/configmaps").await;
        let after = server.forget_history(None);
        assert!(after > before);
        let go_on = api.retry_get(&format!("v1/configmaps?limit=1&continue={token}")).await;
        let status = go_on.expect_err("gone");
        assert_eq!((&status["code"], &status["reason"]), (&json!(410), &json!("Expired")));
        let token = status["metadata"]["continue"].as_str().unwrap();
        assert_eq!(api.names(&format!("v1/configmaps?limit=1&continue={token}")).await, ["b"]);
        let query = format!("?watch=true&resourceVersion={before}&timeoutSeconds=10");
        let mut events = Events::open(&api, "v1/configmaps", &query).await;
        let event = events.next().await.unwrap();
        assert_eq!((&event["type"], &event["object"]["code"]), (&json!("ERROR"), &json!(410)));
        assert_eq!(events.next().await, None);
        assert_eq!(api.names("v1/configmaps").await, ["a", "b"]);
    });
}

#[test]
fn a_server_that_is_gone_comes_back_at_its_port() {
    let server = server();
    run(&server.kubeconfig(), async |api| {
        make(&api, "a").await;
        let mut events =
            Events::open(&api, "v1/configmaps", "?watch=true&resourceVersion=1&timeoutSeconds=10").await;
        assert_eq!(events.named(1).await, ["a"]);
        server.faults().set_refusing(true);
        while events.next().await.is_some() {}
        assert!(api.try_get("v1/configmaps").await.is_err());
        server.faults().set_refusing(false);
        assert_eq!(api.retry_get("v1/configmaps/a").await.unwrap()["metadata"]["name"], "a");
    });
}

#[test]
fn a_silent_server_answers_when_it_is_heard_again() {
    let server = server();
    run(&server.kubeconfig(), async |api| {
        make(&api, "a").await;
        server.faults().set_silent(true);
        let waiting = api.get("v1/configmaps/a");
        tokio::pin!(waiting);
        let early = tokio::time::timeout(Duration::from_millis(200), &mut waiting).await;
        assert!(early.is_err(), "answered while silent");
        server.faults().set_silent(false);
        assert!(waiting.await.is_ok());
    });
}

#[test]
fn faults_are_told_over_http_as_well() {
    let server = server();
    run(&server.kubeconfig(), async |api| {
        let fault =
            json!({"effect": {"type": "status", "code": 500}, "resources": ["configmaps"], "times": 1});
        let id = api.control("POST", "/_faults", fault).await["id"].clone();
        assert_eq!(api.control("GET", "/_faults", Value::Null).await[0]["id"], id);
        assert_eq!(refusal(api.get("v1/configmaps").await).0, 500);
        assert_eq!(api.control("GET", "/_faults", Value::Null).await, json!([]));
        let counts = api.control("GET", "/_requests", Value::Null).await;
        let wanted = json!({"verb": "list", "resource": "configmaps", "count": 1});
        assert!(counts.as_array().unwrap().contains(&wanted), "{counts}");
        api.control("PUT", "/_objects", object("w", &api.namespace)).await;
        assert_eq!(api.names("v1/configmaps").await, ["w"]);
    });
}
