//! One writes, whatever happens to it; everybody serves.

use std::time::{Duration, Instant};

use serde_json::json;
use test_apiserver::{Effect, Fault};

use crate::cluster::{Cluster, ingresses, listed, throughout, within};
use crate::common::Gateway;

const ADDRESSES: [&str; 2] = ["--publish-address", "192.0.2.1"];

/// Two gateways, the first of which leads.
fn two(cluster: &Cluster) -> (Gateway, Gateway, String) {
    let one = cluster.gateway("one", &ADDRESSES);
    let holder = cluster.wait_for_leader("");
    let two = cluster.gateway("two", &ADDRESSES);
    (one, two, holder)
}

#[test]
fn another_replica_takes_over_from_one_that_is_killed() {
    let cluster = Cluster::start();
    let (one, two, holder) = two(&cluster);
    cluster.many_ingresses(50);
    cluster.wait_for_status("many-49", &["192.0.2.1"]);
    within(Duration::from_secs(20), "all are written", || cluster.writes() >= 50);
    let writes_of_two = cluster.count_writes_of("two");
    one.signal("KILL");
    let killed = Instant::now();
    cluster.ingress("late", "sluicegate");
    assert_ne!(cluster.wait_for_leader(&holder), holder);
    let led = killed.elapsed();
    cluster.wait_for_status("late", &["192.0.2.1"]);
    println!("led after {led:?}, written after {:?}", killed.elapsed());
    assert!(
        killed.elapsed() < Duration::from_secs(19),
        "within the time of the Lease: {:?}",
        killed.elapsed()
    );
    assert_eq!(writes_of_two.now(), 1, "what is right already is not written again: {}", two.log());
}

#[test]
fn replica_that_ends_hands_over_at_once() {
    let cluster = Cluster::start();
    let (mut one, _two, holder) = two(&cluster);
    // The other one must have seen who leads; nobody else reads the Lease.
    let reads = cluster.server.requests().of("get", "leases");
    within(Duration::from_secs(10), "it looks", || cluster.server.requests().of("get", "leases") > reads + 1);
    one.signal("TERM");
    let ended = Instant::now();
    cluster.ingress("late", "sluicegate");
    cluster.wait_for_leader(&holder);
    cluster.wait_for_status("late", &["192.0.2.1"]);
    assert!(ended.elapsed() < Duration::from_secs(5), "{:?}", ended.elapsed());
    assert!(one.wait_for_exit().success());
}

#[test]
fn replica_that_stood_still_writes_nothing_when_it_wakes() {
    let cluster = Cluster::start();
    // So that it has a lot to do when it is stopped, and requests under way.
    cluster.server.fail(
        Fault::new(Effect::Delay { millis: 500 })
            .verbs(&["patch"])
            .resources(&["ingresses/status"])
            .users(&["one"]),
    );
    let (one, _two, holder) = two(&cluster);
    let (of_one, of_two) = (cluster.count_writes_of("one"), cluster.count_writes_of("two"));
    cluster.many_ingresses(300);
    within(Duration::from_secs(20), "it is at work", || of_one.now() >= 20);
    one.signal("STOP");
    let stopped = Instant::now();
    // What was sent before may still arrive.
    let mut before = of_one.now();
    within(Duration::from_secs(5), "nothing is on its way", || {
        std::thread::sleep(Duration::from_millis(200));
        std::mem::replace(&mut before, of_one.now()) == before
    });
    assert_eq!(of_two.now(), 0, "while the Lease is held");
    cluster.wait_for_leader(&holder);
    println!("led after {:?}", stopped.elapsed());
    within(Duration::from_secs(20), "the other one does the rest", || {
        cluster.list(&ingresses()).iter().all(|one| !listed(one).is_empty())
    });
    std::thread::sleep(Duration::from_secs(20).saturating_sub(stopped.elapsed()));
    one.signal("CONT");
    one.wait_for_log("does not write status and events any more");
    // There would be something to write.
    cluster.ingress("after", "sluicegate");
    cluster.wait_for_status("after", &["192.0.2.1"]);
    throughout(Duration::from_secs(3), "it writes nothing", || of_one.now() == before);
}

#[test]
fn without_a_leader_everything_is_served_and_nothing_written() {
    let cluster = Cluster::start();
    cluster.server.fail(
        Fault::new(Effect::Status { code: 403, retry_after: None }).resources(&["leases"]).users(&["one"]),
    );
    let gateway = cluster.gateway("one", &ADDRESSES);
    cluster.ingress("a", "sluicegate");
    // No endpoints, but a route.
    gateway.wait_for_status("a.example", "/", 503);
    gateway.wait_for_log("the Lease cannot be used");
    assert_eq!(cluster.writes(), 0);
    let metrics = gateway.admin("/metrics");
    assert!(metrics.contains("sluicegate_status_leader 0\n"), "{metrics}");
}

#[test]
fn leader_without_a_server_stops_before_others_may_begin() {
    let cluster = Cluster::start();
    let (one, _two, holder) = two(&cluster);
    cluster.server.fail(Fault::new(Effect::Drop).users(&["one"]));
    let cut = Instant::now();
    one.wait_for_log("does not write status and events any more");
    assert!(cut.elapsed() < Duration::from_secs(12), "{:?}", cut.elapsed());
    assert_eq!(cluster.holder(), holder, "the Lease has not expired yet");
    cluster.wait_for_leader(&holder);
}

#[test]
fn silent_server_does_not_hold_up_the_end() {
    let cluster = Cluster::start();
    let mut gateway = cluster.gateway("one", &[&ADDRESSES[..], &["--update-status-on-shutdown"]].concat());
    cluster.ingress("a", "sluicegate");
    cluster.wait_for_status("a", &["192.0.2.1"]);
    cluster.server.faults().set_silent(true);
    gateway.signal("TERM");
    let ended = Instant::now();
    assert!(gateway.wait_for_exit().success());
    assert!(ended.elapsed() < Duration::from_secs(18), "{:?}", ended.elapsed());
    println!("ended after {:?}", ended.elapsed());
}

#[test]
fn deleted_lease_makes_no_second_leader() {
    let cluster = Cluster::start();
    let (one, two, holder) = two(&cluster);
    let (of_one, of_two) = (cluster.count_writes_of("one"), cluster.count_writes_of("two"));
    // The other one must have seen who leads.
    std::thread::sleep(Duration::from_secs(3));
    cluster.delete("/apis/coordination.k8s.io/v1/namespaces/default/leases/sluicegate-leader");
    assert_eq!(cluster.wait_for_leader(""), holder, "its holder makes it again");
    cluster.ingress("a", "sluicegate");
    cluster.wait_for_status("a", &["192.0.2.1"]);
    assert_eq!((of_one.now(), of_two.now()), (1, 0), "{}\n{}", one.log(), two.log());
}

#[test]
fn status_stays_at_the_end_unless_that_is_wanted_and_nobody_else_runs() {
    let cluster = Cluster::start();
    let pod = |name: &str| {
        cluster.create(
            "/api/v1/namespaces/default/pods",
            json!({
                "metadata": {"name": name, "labels": {"app": "gate", "pod-template-hash": "x"}},
                "spec": {"nodeName": "node-1", "containers": [{"name": "gate", "image": "gate"}]},
            }),
        );
        let status =
            json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        cluster.patch(&format!("/api/v1/namespaces/default/pods/{name}/status"), status);
    };
    pod("gate-1");
    pod("gate-2");
    cluster.ingress("a", "sluicegate");
    let args = [
        &ADDRESSES[..],
        &["--update-status-on-shutdown", "--pod-name", "gate-1", "--pod-namespace", "default"],
    ]
    .concat();
    let mut first = cluster.gateway("one", &args);
    cluster.wait_for_status("a", &["192.0.2.1"]);
    first.signal("TERM");
    assert!(first.wait_for_exit().success());
    assert_eq!(cluster.status("a").len(), 1, "another replica runs: {}", first.log());
    cluster.delete("/api/v1/namespaces/default/pods/gate-2?gracePeriodSeconds=0");
    let mut last = cluster.gateway("one", &args);
    last.wait_for_log("this replica writes status");
    last.signal("TERM");
    assert!(last.wait_for_exit().success());
    assert!(cluster.status("a").is_empty(), "{}", last.log());
}
