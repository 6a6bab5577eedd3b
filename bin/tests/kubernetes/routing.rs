//! What is applied is served, what is deleted is not, and nothing else is seen in between.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use serde_json::json;

use crate::cluster::{Cluster, backend};
use crate::common::{get, try_get};
use crate::objects::{endpoint, ingress, service, site, slice, slice_of};

#[test]
fn ingress_is_served_while_it_exists() {
    let cluster = Cluster::new();
    let one = backend("one");
    let gateway = cluster.gateway(&[]);
    assert_eq!(gateway.get("a.example", "/").status, 404);
    let object = site(&cluster, "a", "a.example", &one);
    gateway.wait_for_body("a.example", "/", "hello from one");
    cluster.delete(&object);
    gateway.wait_for_status("a.example", "/", 404);
}

#[test]
fn what_existed_before_the_start_is_served_when_ready() {
    let cluster = Cluster::new();
    let one = backend("one");
    site(&cluster, "a", "a.example", &one);
    let gateway = cluster.gateway(&[]);
    assert_eq!(gateway.get("a.example", "/x").body, "hello from one\n");
}

#[test]
fn new_host_goes_from_404_to_200_and_shows_nothing_else() {
    let cluster = Cluster::new();
    let one = backend("one");
    cluster.apply(&service("a"));
    cluster.apply(&slice("a", &[one.address]));
    let gateway = cluster.gateway(&[]);
    let http = gateway.http;
    let done = Arc::new(AtomicBool::new(false));
    let probe = std::thread::spawn({
        let done = Arc::clone(&done);
        move || {
            let mut seen = Vec::new();
            while !done.load(SeqCst) {
                let status = get(http, "new.example", "/").status;
                if seen.last() != Some(&status) {
                    seen.push(status);
                }
            }
            seen
        }
    });
    cluster.apply(&ingress(&cluster, "a", "new.example", "a"));
    gateway.wait_for_status("new.example", "/", 200);
    done.store(true, SeqCst);
    let seen = probe.join().unwrap();
    assert!(seen == [404, 200] || seen == [200] || seen == [404], "{seen:?}");
}

#[test]
fn paths_and_hosts_are_chosen_as_the_api_says() {
    let cluster = Cluster::new();
    let (one, two, three) = (backend("one"), backend("two"), backend("three"));
    for (name, backend) in [("one", &one), ("two", &two), ("three", &three)] {
        cluster.apply(&service(name));
        cluster.apply(&slice(name, &[backend.address]));
    }
    let to = |name: &str| json!({"service": {"name": name, "port": {"name": "http"}}});
    let mut object = ingress(&cluster, "a", "a.example", "one");
    object["spec"]["rules"][0]["http"]["paths"] = json!([
        {"path": "/", "pathType": "Prefix", "backend": to("one")},
        {"path": "/two", "pathType": "Prefix", "backend": to("two")},
        {"path": "/two/exact", "pathType": "Exact", "backend": to("three")}]);
    let wildcard = json!({"host": "*.a.example", "http": {"paths": [
        {"path": "/", "pathType": "ImplementationSpecific", "backend": to("three")}]}});
    object["spec"]["rules"].as_array_mut().unwrap().push(wildcard);
    cluster.apply(&object);
    let gateway = cluster.gateway(&[]);
    let body = |host: &str, path: &str| gateway.get(host, path).body;
    assert_eq!(body("a.example", "/twofold"), "hello from one\n");
    assert_eq!(body("a.example", "/two/x"), "hello from two\n");
    assert_eq!(body("a.example", "/two/exact"), "hello from three\n");
    assert_eq!(body("x.a.example", "/"), "hello from three\n");
    assert_eq!(gateway.get("x.y.a.example", "/").status, 404);
}

#[test]
fn service_that_comes_late_and_goes_again_is_followed() {
    let cluster = Cluster::new();
    let one = backend("one");
    cluster.apply(&ingress(&cluster, "a", "a.example", "late"));
    let gateway = cluster.gateway(&[]);
    gateway.wait_for_status("a.example", "/", 503);
    cluster.apply(&service("late"));
    cluster.apply(&slice("late", &[one.address]));
    gateway.wait_for_body("a.example", "/", "hello from one");
    cluster.delete(&service("late"));
    gateway.wait_for_status("a.example", "/", 503);
    cluster.delete(&slice("late", &[one.address]));
    cluster.apply(&service("late"));
    cluster.apply(&slice("late", &[one.address]));
    gateway.wait_for_body("a.example", "/", "hello from one");
}

#[test]
fn rolling_restarts_lose_no_request() {
    let cluster = Cluster::new();
    let mut current = backend("v0");
    site(&cluster, "a", "a.example", &current);
    let gateway = cluster.gateway(&[]);
    let http = gateway.http;
    let done = Arc::new(AtomicBool::new(false));
    let load = std::thread::spawn({
        let done = Arc::clone(&done);
        move || {
            let mut count = 0_u32;
            while !done.load(SeqCst) {
                let answer = try_get(http, "a.example", "/").map(|response| response.status);
                assert!(matches!(answer, Ok(200)), "request {count}: {answer:?}");
                count += 1;
            }
            count
        }
    });
    for version in 1..=20 {
        let next = backend(&format!("v{version}"));
        let slice_at = |suffix: &str, at: std::net::SocketAddr, conditions| {
            slice_of("a", suffix, at.port(), vec![endpoint(at, conditions)])
        };
        let (new, old) = if version % 2 == 0 { ("1", "2") } else { ("2", "1") };
        cluster.apply(&slice_at(new, next.address, json!({"ready": true})));
        // As a kubelet does it: first it is said that the Pod terminates, then the slice loses it, then it ends.
        let terminating = json!({"ready": false, "serving": true, "terminating": true});
        cluster.apply(&slice_at(old, current.address, terminating));
        gateway.wait_for_body("a.example", "/", &format!("hello from v{version}\n"));
        cluster.delete(&slice_at(old, current.address, json!({})));
        current = next;
    }
    done.store(true, SeqCst);
    assert!(load.join().unwrap() > 20);
}
