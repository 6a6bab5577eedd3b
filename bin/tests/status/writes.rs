//! What is written to statuses, how often, and what becomes of it if the server is in trouble.

use std::time::{Duration, Instant};

use serde_json::json;
use test_apiserver::{Effect, Fault, Rule, Token};

use crate::cluster::{Cluster, NAMESPACE, ingresses, listed, throughout, token, within};
use crate::common::{Backend, eventually};

const ADDRESSES: [&str; 2] = ["--publish-address", "192.0.2.1"];

fn status_writes(effect: Effect) -> Fault {
    Fault::new(effect).verbs(&["patch"]).resources(&["ingresses/status"])
}

/// A Service and its endpoint.
fn serve(cluster: &Cluster, backend: &Backend) {
    let port = backend.address.port();
    cluster.create(
        &format!("/api/v1/namespaces/{NAMESPACE}/services"),
        json!({"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80, "targetPort": port}], "selector": {"app": "web"}}}),
    );
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "web-1", "namespace": NAMESPACE, "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [{"name": "", "port": port, "protocol": "TCP"}],
        "endpoints": [{"addresses": [backend.address.ip()], "conditions": {"ready": true}}],
    });
    cluster.create(&format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices"), slice);
}

#[test]
fn thousand_ingresses_at_once_take_hardly_more_writes() {
    let cluster = Cluster::start();
    let _gateway = cluster.gateway("one", &ADDRESSES);
    cluster.wait_for_leader("");
    let start = Instant::now();
    cluster.many_ingresses(1_000);
    let created = start.elapsed();
    within(Duration::from_secs(60), "every Ingress has its address", || {
        let all = cluster.list(&ingresses());
        all.len() == 1_000 && all.iter().all(|one| listed(one).contains("192.0.2.1"))
    });
    let done = start.elapsed();
    throughout(Duration::from_secs(2), "nothing more is written", || cluster.writes() <= 1_050);
    println!("{} writes for 1,000 Ingresses, created in {created:?}, done after {done:?}", cluster.writes());
}

#[test]
fn every_figure_is_explained() {
    let cluster = Cluster::start();
    let gateway = cluster.gateway("one", &ADDRESSES);
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    let page = std::fs::read_to_string(page).unwrap();
    let metrics = gateway.admin("/metrics");
    let types = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let mut count = 0;
    for line in types {
        let (name, kind) = line.split_once(' ').unwrap();
        if ["sluicegate_status_", "sluicegate_lease_", "sluicegate_events_"]
            .iter()
            .any(|one| name.starts_with(one))
        {
            count += 1;
            assert!(page.contains(&format!("| `{name}` | {kind} |")), "{line}");
        }
    }
    assert_eq!(count, 12);
}

#[test]
fn ingress_that_changes_is_not_written_again() {
    let cluster = Cluster::start();
    let gateway = cluster.gateway("one", &ADDRESSES);
    cluster.ingress("a", "sluicegate");
    cluster.wait_for_status("a", &["192.0.2.1"]);
    let writes = cluster.writes();
    for index in 0..20 {
        cluster
            .patch(&format!("{}/a", ingresses()), json!({"metadata": {"labels": {"n": index.to_string()}}}));
    }
    // When this one is done, those are as well.
    cluster.ingress("b", "sluicegate");
    cluster.wait_for_status("b", &["192.0.2.1"]);
    assert_eq!(cluster.writes(), writes + 1, "{}", gateway.log());
}

#[test]
fn status_is_taken_back_when_the_class_changes_and_entries_of_others_stay() {
    let cluster = Cluster::start();
    let _gateway = cluster.gateway("one", &ADDRESSES);
    for name in ["a", "b", "strange"] {
        cluster.ingress(name, if name == "strange" { "other" } else { "sluicegate" });
    }
    cluster.write_status("strange", json!([{"ip": "192.0.2.1"}]));
    cluster.wait_for_status("a", &["192.0.2.1"]);
    let theirs = json!({"ip": "203.0.113.9", "ports": [{"port": 80, "protocol": "TCP"}]});
    cluster.write_status("a", json!([theirs]));
    cluster.wait_for_status("a", &["192.0.2.1", "203.0.113.9"]);
    let path = format!("{}/a", ingresses());
    assert_eq!(cluster.read(&path).unwrap()["status"]["loadBalancer"]["ingress"][0], theirs);
    cluster.patch(&path, json!({"spec": {"ingressClassName": "other"}}));
    cluster.wait_for_status("a", &["203.0.113.9"]);
    assert_eq!(cluster.read(&path).unwrap()["status"]["loadBalancer"]["ingress"], json!([theirs]));
    // The whole class becomes another controller's.
    cluster.wait_for_status("b", &["192.0.2.1"]);
    cluster.delete("/apis/networking.k8s.io/v1/ingressclasses/sluicegate");
    cluster.create(
        "/apis/networking.k8s.io/v1/ingressclasses",
        json!({"metadata": {"name": "sluicegate"}, "spec": {"controller": "example.com/other"}}),
    );
    cluster.wait_for_status("b", &[]);
    assert_eq!(
        cluster.status("strange").len(),
        1,
        "what another controller wrote is not ours, whatever it says"
    );
}

#[test]
fn status_is_taken_back_from_ingresses_that_labels_choose_no_more() {
    let cluster = Cluster::start();
    let path = format!("{}/a", ingresses());
    cluster.ingress("a", "sluicegate");
    cluster.patch(&path, json!({"metadata": {"labels": {"edge": "public"}}}));
    let _gateway = cluster.gateway("one", &[&ADDRESSES[..], &["--watch-selector", "edge=public"]].concat());
    cluster.wait_for_status("a", &["192.0.2.1"]);
    cluster.patch(&path, json!({"metadata": {"labels": {"edge": "private"}}}));
    cluster.wait_for_status("a", &[]);
    cluster.patch(&path, json!({"metadata": {"labels": {"edge": "public"}}}));
    cluster.wait_for_status("a", &["192.0.2.1"]);
}

#[test]
fn ingress_that_labels_ceased_to_choose_while_nobody_looked_is_left_without_our_address() {
    let cluster = Cluster::start();
    let args = [&ADDRESSES[..], &["--watch-selector", "edge=public"]].concat();
    for name in ["a", "b"] {
        cluster.ingress(name, "sluicegate");
        let path = format!("{}/{name}", ingresses());
        cluster.patch(&path, json!({"metadata": {"labels": {"edge": "public"}}}));
    }
    let mut gateway = cluster.gateway("one", &args);
    cluster.wait_for_status("a", &["192.0.2.1"]);
    cluster.wait_for_status("b", &["192.0.2.1"]);
    gateway.signal("TERM");
    gateway.wait_for_exit();
    cluster.patch(&format!("{}/a", ingresses()), json!({"metadata": {"labels": {"edge": "private"}}}));
    let _gateway = cluster.gateway("one", &args);
    cluster.wait_for_status("a", &[]);
    assert_eq!(cluster.status("b").len(), 1);
}

#[test]
fn what_changed_owner_while_nobody_looked_is_taken_back() {
    let cluster = Cluster::start();
    let mut gateway = cluster.gateway("one", &ADDRESSES);
    cluster.ingress("a", "sluicegate");
    cluster.ingress("b", "sluicegate");
    cluster.wait_for_status("a", &["192.0.2.1"]);
    cluster.wait_for_status("b", &["192.0.2.1"]);
    gateway.signal("TERM");
    gateway.wait_for_exit();
    assert_eq!(cluster.status("a").len(), 1, "status stays at the end");
    cluster.patch(&format!("{}/a", ingresses()), json!({"spec": {"ingressClassName": "other"}}));
    let _gateway = cluster.gateway("one", &["--publish-address", "192.0.2.2"]);
    cluster.wait_for_status("b", &["192.0.2.2"]);
    cluster.wait_for_status("a", &[]);
}

#[test]
fn object_that_is_made_anew_gets_its_status_again() {
    let cluster = Cluster::start();
    let _gateway = cluster.gateway("one", &ADDRESSES);
    for _ in 0..5 {
        cluster.ingress("a", "sluicegate");
        cluster.wait_for_status("a", &["192.0.2.1"]);
        cluster.delete(&format!("{}/a", ingresses()));
    }
}

#[test]
fn slow_status_delays_no_traffic() {
    let cluster = Cluster::start();
    cluster.server.fail(status_writes(Effect::Delay { millis: 10_000 }));
    let backend = Backend::start_in_cluster("web");
    serve(&cluster, &backend);
    let gateway = cluster.gateway("one", &ADDRESSES);
    cluster.wait_for_leader("");
    cluster.many_ingresses(50);
    eventually("the slow writes are under way", || cluster.writes() >= 10);
    for index in 0..5 {
        let name = format!("new-{index}");
        let start = Instant::now();
        cluster.ingress(&name, "sluicegate");
        gateway.wait_for_status(&format!("{name}.example"), "/", 200);
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    }
    assert!(cluster.writes() <= 20, "a slow server gets no more requests: {}", cluster.writes());
    // Nothing is given up because it takes long.
    within(Duration::from_secs(25), "the first writes are done", || {
        cluster.list(&ingresses()).iter().filter(|one| !listed(one).is_empty()).count() >= 10
    });
    let metrics = gateway.admin("/metrics");
    assert!(metrics.contains("sluicegate_status_writes_total{outcome=\"failed\"} 0\n"), "{metrics}");
}

#[test]
fn conflicts_are_resolved_and_endless_ones_given_up() {
    let cluster = Cluster::start();
    cluster.server.fail(status_writes(Effect::Status { code: 409, retry_after: None }).times(3));
    let gateway = cluster.gateway("one", &ADDRESSES);
    cluster.ingress("a", "sluicegate");
    cluster.wait_for_status("a", &["192.0.2.1"]);
    assert_eq!(cluster.writes(), 4);
    cluster.server.fail(status_writes(Effect::Status { code: 409, retry_after: None }));
    cluster.ingress("b", "sluicegate");
    eventually("five attempts", || cluster.writes() >= 9);
    throughout(Duration::from_secs(3), "and no sixth", || cluster.writes() <= 9);
    let metrics = gateway.admin("/metrics");
    assert!(metrics.contains("sluicegate_status_writes_total{outcome=\"conflict\"} 8\n"), "{metrics}");
}

#[test]
fn write_whose_answer_is_lost_is_not_repeated_for_nothing() {
    let cluster = Cluster::start();
    cluster.server.fail(status_writes(Effect::LoseAnswer).times(1));
    let _gateway = cluster.gateway("one", &ADDRESSES);
    cluster.ingress("a", "sluicegate");
    cluster.wait_for_status("a", &["192.0.2.1"]);
    cluster.ingress("b", "sluicegate");
    cluster.wait_for_status("b", &["192.0.2.1"]);
    throughout(Duration::from_secs(2), "one more write at most", || cluster.writes() <= 3);
}

#[test]
fn throttled_writer_waits_as_long_as_it_is_told() {
    let cluster = Cluster::start();
    let throttled = Effect::Status { code: 429, retry_after: Some(3) };
    cluster.server.fail(status_writes(throttled).times(1));
    let _gateway = cluster.gateway("one", &ADDRESSES);
    cluster.wait_for_leader("");
    cluster.many_ingresses(20);
    eventually("the first answer", || cluster.writes() >= 1);
    let start = Instant::now();
    let first = cluster.writes();
    throughout(Duration::from_millis(2_500), "nobody asks meanwhile", || cluster.writes() <= first.max(10));
    within(Duration::from_secs(20), "then all is written", || {
        cluster.list(&ingresses()).iter().all(|one| !listed(one).is_empty())
    });
    assert!(start.elapsed() < Duration::from_secs(15));
}

#[test]
fn server_that_fails_for_a_while_is_not_hammered() {
    let cluster = Cluster::start();
    let id = cluster.server.fail(status_writes(Effect::Status { code: 500, retry_after: None }));
    let gateway = cluster.gateway("one", &ADDRESSES);
    cluster.wait_for_leader("");
    cluster.many_ingresses(100);
    eventually("a first try", || cluster.writes() >= 1);
    throughout(Duration::from_secs(2), "few tries", || cluster.writes() <= 20);
    cluster.server.faults().remove(id);
    within(Duration::from_secs(10), "then all is written", || {
        cluster.list(&ingresses()).iter().all(|one| !listed(one).is_empty())
    });
    assert_eq!(gateway.log().matches("status cannot be written").count(), 1, "{}", gateway.log());
}

/// The rights of the table in docs/kubernetes.md.
fn documented_rights() -> Vec<Rule> {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/kubernetes.md");
    let page = std::fs::read_to_string(page).unwrap();
    let table =
        page.split("\n## Rights of status and Events\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let words =
        |cell: &str| -> Vec<String> { cell.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
    let rows = table.lines().filter(|line| line.starts_with('|')).skip(2);
    let rule = |row: &str| {
        let cells: Vec<&str> = row.split('|').collect();
        Rule {
            api_groups: vec![words(cells[1]).first().cloned().unwrap_or_default()],
            resources: words(cells[2]),
            verbs: words(cells[3]),
            ..Rule::default()
        }
    };
    rows.map(rule).collect()
}

#[test]
fn documented_rights_are_enough() {
    let reads = [
        ("networking.k8s.io", "ingresses"),
        ("networking.k8s.io", "ingressclasses"),
        ("", "services"),
        ("discovery.k8s.io", "endpointslices"),
        ("", "secrets"),
        ("", "configmaps"),
    ];
    let mut rules: Vec<Rule> = reads
        .into_iter()
        .map(|(group, resource)| Rule {
            api_groups: vec![group.to_owned()],
            resources: vec![resource.to_owned()],
            verbs: vec!["list".to_owned(), "watch".to_owned()],
            ..Rule::default()
        })
        .collect();
    rules.extend(documented_rights());
    assert!(rules.len() > 15, "{rules:?}");
    let least = Token { token: "least".to_owned(), user: "least".to_owned(), rules: Some(rules) };
    let cluster = Cluster::start_with(vec![Token::admin("admin"), least]);
    let services = "/api/v1/namespaces/default/services";
    cluster.create(
        services,
        json!({"metadata": {"name": "lb"}, "spec": {"externalIPs": ["192.0.2.1"], "ports": [{"port": 80}], "selector": {"a": "b"}}}),
    );
    cluster.server.fail(status_writes(Effect::Status { code: 409, retry_after: None }).times(2));
    let gateway = cluster.gateway("least", &["--publish-service", "default/lb"]);
    cluster.ingress("a", "sluicegate");
    cluster.wait_for_status("a", &["192.0.2.1"]);
    within(Duration::from_secs(20), "an Event", || !cluster.events().is_empty());
    assert!(!gateway.log().contains("forbidden"), "{}", gateway.log());
}

#[test]
fn without_the_right_to_write_everything_is_served() {
    let everything = |resources: &[&str]| Rule {
        api_groups: vec!["*".to_owned()],
        resources: resources.iter().map(|one| (*one).to_owned()).collect(),
        verbs: vec!["*".to_owned()],
        ..Rule::default()
    };
    let read = [
        "ingresses",
        "ingressclasses",
        "services",
        "endpointslices",
        "secrets",
        "configmaps",
        "namespaces",
        "leases",
    ];
    let reader =
        Token { token: "reader".to_owned(), user: "reader".to_owned(), rules: Some(vec![everything(&read)]) };
    let cluster = Cluster::start_with(vec![Token::admin("admin"), token("one"), reader]);
    let backend = Backend::start_in_cluster("web");
    serve(&cluster, &backend);
    let gateway = cluster.gateway("reader", &ADDRESSES);
    cluster.wait_for_leader("");
    cluster.many_ingresses(30);
    gateway.wait_for_status("many-29.example", "/", 200);
    gateway.wait_for_log("status cannot be written");
    throughout(Duration::from_secs(2), "few tries", || cluster.writes() <= 10);
    assert!(cluster.list(&ingresses()).iter().all(|one| listed(one).is_empty()));
}

#[test]
fn without_the_right_to_read_classes_status_goes_by_their_names() {
    let everything = |resources: &[&str]| Rule {
        api_groups: vec!["*".to_owned()],
        resources: resources.iter().map(|one| (*one).to_owned()).collect(),
        verbs: vec!["*".to_owned()],
        ..Rule::default()
    };
    let rest = [
        "ingresses",
        "ingresses/status",
        "services",
        "endpointslices",
        "secrets",
        "configmaps",
        "leases",
        "events",
    ];
    let namespaced =
        Token { token: "roles".to_owned(), user: "roles".to_owned(), rules: Some(vec![everything(&rest)]) };
    let cluster = Cluster::start_with(vec![Token::admin("admin"), namespaced]);
    cluster.ingress("named", "sluicegate");
    cluster.ingress("strange", "other");
    cluster.write_status("strange", json!([{"ip": "192.0.2.1"}]));
    let gateway = cluster.gateway("roles", &ADDRESSES);
    cluster.wait_for_status("named", &["192.0.2.1"]);
    gateway.wait_for_log("IngressClasses may not be read, so status is written only");
    let metrics = gateway.admin("/metrics");
    assert!(metrics.contains("\nsluicegate_status_certainty 1\n"), "{metrics}");
    cluster.patch(&format!("{}/named", ingresses()), json!({"spec": {"ingressClassName": "other"}}));
    cluster.wait_for_status("named", &[]);
    assert_eq!(cluster.status("strange").len(), 1);
    assert_eq!(gateway.log().matches("IngressClasses may not be read").count(), 1, "{}", gateway.log());
}

#[test]
fn statuses_are_right_again_after_the_server_was_restored_from_a_backup() {
    let cluster = Cluster::start();
    let _gateway = cluster.gateway("one", &ADDRESSES);
    for name in ["a", "b"] {
        cluster.ingress(name, "sluicegate");
        cluster.wait_for_status(name, &["192.0.2.1"]);
    }
    cluster.server.faults().set_refusing(true);
    cluster.server.faults().set_refusing(false);
    cluster.server.forget_history(Some(10));
    // What the backup did not have.
    cluster.write_status("a", json!([]));
    cluster.ingress("c", "sluicegate");
    for name in ["a", "b", "c"] {
        cluster.wait_for_status(name, &["192.0.2.1"]);
    }
}
