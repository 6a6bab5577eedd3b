//! Which Ingresses are ours.

use serde_json::json;

use crate::cluster::{Cluster, backend};
use crate::objects::{ingress, site};

#[test]
fn ingress_of_another_class_is_left_alone_until_it_is_ours() {
    let cluster = Cluster::new();
    let one = backend("one");
    let other = format!("{}-other", cluster.namespace);
    cluster.ingress_class(&other, "example.com/other", false);
    let mut object = site(&cluster, "a", "a.example", &one);
    let gateway = cluster.gateway(&[]);
    gateway.wait_for_status("a.example", "/", 200);
    object["spec"]["ingressClassName"] = json!(other);
    cluster.apply(&object);
    gateway.wait_for_status("a.example", "/", 404);
    object["spec"]["ingressClassName"] = json!(cluster.namespace);
    cluster.apply(&object);
    gateway.wait_for_status("a.example", "/", 200);
}

#[test]
fn class_that_changes_its_controller_takes_its_ingresses_along() {
    let cluster = Cluster::new();
    let one = backend("one");
    let class = format!("{}-moving", cluster.namespace);
    cluster.ingress_class(&class, "example.com/other", false);
    let mut object = site(&cluster, "a", "a.example", &one);
    object["spec"]["ingressClassName"] = json!(class);
    cluster.apply(&object);
    let gateway = cluster.gateway(&[]);
    assert_eq!(gateway.get("a.example", "/").status, 404);
    // A controller cannot be changed in place: the class is made anew.
    let named =
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {"name": class}});
    cluster.delete(&named);
    cluster.ingress_class(&class, &cluster.controller(), false);
    gateway.wait_for_status("a.example", "/", 200);
    cluster.delete(&named);
    gateway.wait_for_status("a.example", "/", 404);
}

#[test]
fn legacy_annotation_names_the_class() {
    let cluster = Cluster::new();
    let one = backend("one");
    site(&cluster, "a", "a.example", &one);
    let mut object = ingress(&cluster, "legacy", "legacy.example", "a");
    object["spec"].as_object_mut().unwrap().remove("ingressClassName");
    object["metadata"]["annotations"] = json!({"kubernetes.io/ingress.class": cluster.namespace});
    cluster.apply(&object);
    let mut nobody = ingress(&cluster, "nobody", "nobody.example", "a");
    nobody["spec"].as_object_mut().unwrap().remove("ingressClassName");
    cluster.apply(&nobody);
    let gateway = cluster.gateway(&[]);
    assert_eq!(gateway.get("legacy.example", "/").status, 200);
    assert_eq!(gateway.get("nobody.example", "/").status, 404);
}
