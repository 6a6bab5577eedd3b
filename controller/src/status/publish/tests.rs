use super::*;

fn service(json: &str) -> Vec<String> {
    let service: Service = serde_json::from_str(json).unwrap();
    service.addresses().iter().map(ToString::to_string).collect()
}

#[test]
fn load_balancer_is_reached_at_its_status_and_external_addresses() {
    let json = r#"{"spec":{"type":"LoadBalancer","clusterIP":"10.0.0.1","externalIPs":["203.0.113.1"]},
        "status":{"loadBalancer":{"ingress":[{"ip":"192.0.2.1","ipMode":"VIP"},{"ip":"2001:db8::1"},
        {"hostname":"lb.example","ip":"192.0.2.2"}]}}}"#;
    assert_eq!(service(json), ["192.0.2.1", "192.0.2.2", "203.0.113.1", "2001:db8::1", "lb.example"]);
    let pending = r#"{"spec":{"type":"LoadBalancer","clusterIP":"10.0.0.1"},"status":{"loadBalancer":{}}}"#;
    assert!(service(pending).is_empty());
}

#[test]
fn other_services_are_reached_at_external_or_else_cluster_addresses() {
    let spec = r#""clusterIP":"10.0.0.1","clusterIPs":["10.0.0.1","fd00::1"]"#;
    for kind in ["ClusterIP", "NodePort"] {
        assert_eq!(
            service(&format!(r#"{{"spec":{{"type":"{kind}",{spec}}}}}"#)),
            ["10.0.0.1", "fd00::1"],
            "{kind}"
        );
        let external = format!(r#"{{"spec":{{"type":"{kind}",{spec},"externalIPs":["203.0.113.1"]}}}}"#);
        assert_eq!(service(&external), ["203.0.113.1"], "{kind}");
    }
    assert!(service(r#"{"spec":{"type":"ClusterIP","clusterIP":"None","clusterIPs":["None"]}}"#).is_empty());
    assert_eq!(
        service(r#"{"spec":{"type":"ExternalName","externalName":"edge.example"}}"#),
        ["edge.example"]
    );
}

fn pod(name: &str, node: &str, phase: &str, ready: bool) -> Pod {
    let json = format!(
        r#"{{"metadata":{{"name":"{name}","labels":{{"app":"x","pod-template-hash":"1"}}}},"spec":{{"nodeName":"{node}"}},
        "status":{{"phase":"{phase}","conditions":[{{"type":"Ready","status":"{}"}}]}}}}"#,
        if ready { "True" } else { "False" }
    );
    serde_json::from_str(&json).unwrap()
}

#[test]
fn nodes_are_those_of_ready_pods_or_of_running_ones() {
    let pods = [
        pod("a", "one", "Running", true),
        pod("b", "two", "Running", false),
        pod("c", "three", "Pending", false),
    ];
    assert_eq!(nodes(&pods), BTreeSet::from(["one"]));
    assert_eq!(nodes(&pods[1..]), BTreeSet::from(["two"]));
    let mut ending = pod("a", "one", "Running", true);
    ending.metadata.deletion_timestamp = Some("2026-01-01T00:00:00Z".to_owned());
    assert!(nodes(&[ending]).is_empty());
}

#[test]
fn pods_of_one_owner_have_the_labels_that_are_not_their_own() {
    assert_eq!(pod("a", "one", "Running", true).selector().as_deref(), Some("app=x"));
    assert_eq!(Pod::default().selector(), None);
}

#[test]
fn node_is_reached_at_external_addresses_unless_told_otherwise() {
    let json = r#"{"status":{"addresses":[{"type":"InternalIP","address":"10.0.0.1"},{"type":"Hostname","address":"one"},
        {"type":"ExternalIP","address":"203.0.113.1"},{"type":"ExternalIP","address":"2001:db8::1"}]}}"#;
    let node: Node = serde_json::from_str(json).unwrap();
    let texts = |kind| -> Vec<String> { node.addresses(kind).iter().map(ToString::to_string).collect() };
    assert_eq!(texts(NodeAddress::External), ["203.0.113.1", "2001:db8::1"]);
    assert_eq!(texts(NodeAddress::Internal), ["10.0.0.1"]);
    let inner: Node =
        serde_json::from_str(r#"{"status":{"addresses":[{"type":"InternalIP","address":"10.0.0.1"}]}}"#)
            .unwrap();
    assert_eq!(inner.addresses(NodeAddress::External).len(), 1);
}
