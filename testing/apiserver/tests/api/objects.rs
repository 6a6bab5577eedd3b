//! Objects one by one.

use serde_json::json;

use crate::common::{refusal, with};

#[test]
fn what_is_created_has_an_identity() {
    with(async |api| {
        let made = api.post("v1/configmaps", json!({"metadata": {"generateName": "a-"}})).await.unwrap();
        let name = made["metadata"]["name"].as_str().unwrap();
        assert!(name.starts_with("a-") && name.len() == 7, "{name}");
        assert_eq!(made["metadata"]["uid"].as_str().unwrap().len(), 36);
        assert!(made["metadata"]["creationTimestamp"].is_string());
        assert_eq!(api.get(&format!("v1/configmaps/{name}")).await.unwrap(), made);
    });
}

#[test]
fn an_old_version_is_a_conflict() {
    with(async |api| {
        let first = api.post("v1/configmaps", json!({"metadata": {"name": "a"}})).await.unwrap();
        api.merge("v1/configmaps/a", json!({"data": {"k": "v"}})).await.unwrap();
        assert_eq!(refusal(api.put("v1/configmaps/a", first).await), (409, "Conflict".to_owned()));
        let again = api.post("v1/configmaps", json!({"metadata": {"name": "a"}})).await;
        assert_eq!(refusal(again), (409, "AlreadyExists".to_owned()));
    });
}

#[test]
fn status_is_written_apart_from_the_rest() {
    with(async |api| {
        let spec = json!({"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}});
        let status = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}});
        let body = json!({"metadata": {"name": "i"}, "spec": spec, "status": status});
        let made = api.post("networking.k8s.io/v1/ingresses", body).await.unwrap();
        assert_eq!(
            (&made["status"], &made["metadata"]["generation"]),
            (&json!({"loadBalancer": {}}), &json!(1))
        );
        let other = json!({"defaultBackend": {"service": {"name": "t", "port": {"number": 80}}}});
        let patch = json!({"spec": other, "status": status});
        let path = "networking.k8s.io/v1/ingresses/i";
        let after = api.merge(&format!("{path}/status"), patch.clone()).await.unwrap();
        assert_eq!((&after["spec"], &after["status"]), (&made["spec"], &status));
        let patch = json!({"spec": other, "status": {"loadBalancer": null}});
        let after = api.merge(path, patch).await.unwrap();
        assert_eq!((&after["spec"], &after["status"]), (&other, &status));
        assert_eq!(after["metadata"]["generation"], json!(2));
    });
}

#[test]
fn an_object_with_finalizers_waits_for_them() {
    with(async |api| {
        let body = json!({"metadata": {"name": "a", "finalizers": ["example.org/x"]}});
        api.post("v1/configmaps", body).await.unwrap();
        let marked = api.delete("v1/configmaps/a").await.unwrap();
        assert!(marked["metadata"]["deletionTimestamp"].is_string());
        api.merge("v1/configmaps/a", json!({"metadata": {"finalizers": null}})).await.unwrap();
        assert_eq!(refusal(api.get("v1/configmaps/a").await), (404, "NotFound".to_owned()));
    });
}
