//! Pools of addresses, as each of their three forms has them.

#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "a failure is a failed test")]

use std::collections::BTreeMap;
use std::sync::Arc;

use config::report::Kind;
use config::resource::{AddressPool, Decoded, ObjectSpec, decode, decode_json};

fn read(text: &str) -> Decoded {
    decode(&Arc::from("pools.yaml"), text.as_bytes())
}

fn pool(decoded: &Decoded) -> &AddressPool {
    match &decoded.objects[0].spec {
        ObjectSpec::AddressPool(pool) => pool,
        other => panic!("{other:?}"),
    }
}

const SPEC: &str = "
  addresses: [192.0.2.0/28, 2001:db8::1-2001:db8::9]
  autoAssign: false
  avoidBuggyIPs: true
  serviceAllocation:
    priority: 5
    namespaces: [shop]
    namespaceSelectors: [{matchLabels: {team: blue}}]
    serviceSelectors: [{matchExpressions: [{key: tier, operator: In, values: [web]}]}]
";

#[test]
fn our_pools_metallbs_and_native_ones_say_the_same() {
    let ours = read(&format!(
        "apiVersion: sluicegate.dev/v1alpha1\nkind: AddressPool\nmetadata: {{name: a}}\nspec:{SPEC}"
    ));
    let theirs = read(&format!(
        "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {{name: a, namespace: metallb-system}}\nspec:{SPEC}"
    ));
    let native = read(&format!("addressPools:\n- name: a{}", SPEC.trim_end()));
    for decoded in [&ours, &theirs, &native] {
        assert_eq!(decoded.problems, []);
        assert_eq!(pool(decoded), pool(&ours));
    }
    assert_eq!(ours.objects[0].reference.to_string(), "AddressPool a");
    assert_eq!(native.objects[0].reference, ours.objects[0].reference);
    assert_eq!(theirs.objects[0].reference.to_string(), "IPAddressPool metallb-system/a");
    let spec = &pool(&ours).spec;
    let ranges: Vec<String> = spec.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(ranges, ["192.0.2.0-192.0.2.15", "2001:db8::1-2001:db8::9"]);
    assert!(!spec.auto_assign && spec.avoid_buggy_ips);
    let labels = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
    let (none, web) = (BTreeMap::new(), labels("tier", "web"));
    assert!(spec.service_allocation.admits(("shop", Some(&none)), &web));
    assert!(spec.service_allocation.admits(("other", Some(&labels("team", "blue"))), &web));
    assert!(!spec.service_allocation.admits(("other", Some(&none)), &web));
    assert!(!spec.service_allocation.admits(("shop", Some(&none)), &none));
}

#[test]
fn a_pool_with_a_mistake_is_refused_as_a_whole_so_that_its_last_good_version_stays() {
    for (text, reason) in [
        (
            "apiVersion: sluicegate.dev/v1alpha1\nkind: AddressPool\nmetadata: {name: a}\nspec: {addresses: [192.0.2]}",
            "InvalidValue",
        ),
        ("addressPools: [{name: a, addresses: [fe80::/64]}]", "InvalidValue"),
        ("addressPools: [{name: a, addresses: [], namespace: x}]", "UnknownField"),
        (
            "apiVersion: metallb.io/v1beta2\nkind: IPAddressPool\nmetadata: {name: a}\nspec: {addresses: []}",
            "UnsupportedVersion",
        ),
    ] {
        let decoded = read(text);
        assert_eq!(decoded.problems.len(), 1, "{text}: {decoded:?}");
        assert_eq!(decoded.problems[0].reason, reason, "{text}");
        assert_eq!(decoded.invalid.len(), 1, "{text}");
    }
}

#[test]
fn an_api_server_sends_them_too() {
    let json = br#"{"apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool", "metadata": {"name": "a",
        "namespace": "m", "labels": {"zone": "a"}}, "spec": {"addresses": ["192.0.2.1"], "new": 1}}"#;
    let received = decode_json(Kind::IPAddressPool, json);
    assert_eq!(received.problems, []);
    let Some(ObjectSpec::AddressPool(pool)) = received.object.map(|object| object.spec) else { panic!() };
    assert!(pool.spec.auto_assign);
    let json = br#"{"metadata": {"name": "l", "namespace": "m"}, "spec": {"ipAddressPools": ["b"],
        "ipAddressPoolSelectors": [{"matchLabels": {"zone": "a"}}], "interfaces": ["eth0"],
        "nodeSelectors": [{"matchLabels": {"kubernetes.io/hostname": "n"}}]}}"#;
    let received = decode_json(Kind::L2Advertisement, json);
    let Some(ObjectSpec::L2Advertisement(advertisement)) = received.object.map(|object| object.spec) else {
        panic!()
    };
    assert!(advertisement.announces("a", &pool.labels));
    assert!(advertisement.announces("b", &BTreeMap::new()));
    assert!(!advertisement.announces("c", &BTreeMap::new()));
    assert_eq!(*advertisement.interfaces[0], *"eth0");
    assert_eq!(advertisement.node_selectors.len(), 1);
    assert_eq!(received.problems, []);
}

#[test]
fn from_files_labels_of_nodes_are_not_known() {
    let advertisement = |spec: &str| {
        let head = "apiVersion: metallb.io/v1beta1\nkind: L2Advertisement\nmetadata: {name: l, namespace: m}";
        read(&format!("{head}\nspec: {spec}\n")).problems
    };
    let problems = advertisement("{nodeSelectors: [{matchLabels: {a: b}}]}");
    let fields: Vec<&str> = problems.iter().map(|problem| &*problem.field).collect();
    assert_eq!(fields, ["spec.nodeSelectors"], "it announces nothing, which is told");
    assert_eq!(advertisement("{interfaces: [eth0]}"), []);
}
