//! Several gateways of one class.

use serde_json::{Value, json};

use crate::cluster::{Cluster, PUBLISHED, backend};
use crate::common::eventually;
use crate::objects::{ingress, site};

fn lease() -> Value {
    json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "e2e"}})
}

fn holder(cluster: &Cluster) -> Option<String> {
    let lease = cluster.get(&lease())?;
    lease["spec"]["holderIdentity"].as_str().filter(|name| !name.is_empty()).map(str::to_owned)
}

fn is_published(now: &Value) -> bool {
    now["status"]["loadBalancer"]["ingress"] == json!([{"ip": PUBLISHED}])
}

#[test]
fn every_replica_serves_and_the_next_one_writes_when_the_leader_dies() {
    let cluster = Cluster::new();
    let one = backend("one");
    let first_ingress = site(&cluster, "a", "a.example", &one);
    let leader = cluster.gateway(&[]);
    cluster.eventually("the address", &first_ingress, is_published);
    let first = holder(&cluster).expect("somebody holds the Lease");
    let follower = cluster.gateway(&[]);
    assert_eq!(leader.get("a.example", "/").status, 200);
    assert_eq!(follower.get("a.example", "/").status, 200);
    assert_eq!(holder(&cluster).as_ref(), Some(&first), "the follower waits");
    leader.signal("KILL");
    let second_ingress = ingress(&cluster, "b", "b.example", "a");
    cluster.apply(&second_ingress);
    follower.wait_for_status("b.example", "/", 200);
    // A Lease is good for 15 s, so this may take as long.
    eventually("another holder", || holder(&cluster).is_some_and(|now| now != first));
    cluster.eventually("the address", &second_ingress, is_published);
    assert!(is_published(&cluster.get(&first_ingress).unwrap()));
}

#[test]
fn leader_that_ends_in_order_gives_the_lease_back() {
    let cluster = Cluster::new();
    let one = backend("one");
    let object = site(&cluster, "a", "a.example", &one);
    let mut leader = cluster.gateway(&[]);
    cluster.eventually("the address", &object, is_published);
    let first = holder(&cluster).expect("somebody holds the Lease");
    let _follower = cluster.gateway(&[]);
    leader.signal("TERM");
    leader.wait_for_exit();
    eventually("another holder or none", || holder(&cluster) != Some(first.clone()));
    eventually("another holder", || holder(&cluster).is_some_and(|now| now != first));
    assert!(is_published(&cluster.get(&object).unwrap()), "what was published stays");
}
