use serde_json::json;
use test_apiserver::{Options, Server};

use super::*;
use crate::status::gate::Gate;

fn node(internal: &str) -> serde_json::Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "one"},
        "status": {"addresses": [{"type": "InternalIP", "address": internal}]}})
}

#[tokio::test]
async fn node_that_comes_back_under_its_name_has_its_addresses_at_once() {
    let server = Server::start(Options::default()).unwrap();
    let kubeconfig = kube::config::Kubeconfig::from_yaml(&server.kubeconfig()).unwrap();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await.unwrap();
    let api = Api::new(&config, None, Gate::default()).unwrap();
    let mut follower = Follower::new(api, Publish::Nothing, "default".into(), fastrand::Rng::new());
    let names = BTreeSet::from(["one"]);
    let gone = follower.node_addresses(&names, NodeAddress::External).await.unwrap();
    assert!(gone.is_empty(), "its Pods are still there");
    server.plant(node("10.0.0.1")).unwrap();
    for _ in 0..2 {
        let back = follower.node_addresses(&names, NodeAddress::External).await.unwrap();
        assert_eq!(back, BTreeSet::from([Address::ip("10.0.0.1").unwrap()]));
    }
    assert_eq!(server.requests().of("get", "nodes"), 2, "addresses that are known are not asked for again");
}
