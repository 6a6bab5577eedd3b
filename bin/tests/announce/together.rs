//! Hosts that agree over an API server, which they reach by another link than the one that is tested. The figures that the
//! tests print are those of docs/benchmarks.md.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use gateway::announce::{Mac, arp};
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use tempfile::TempDir;
use test_apiserver::{Options, Server};

use crate::common::{Gateway, PATIENCE, eventually};
use crate::net::{ANSWERING, CLIENT, Net, ask, can_run};

const VIP: &str = "10.77.0.50";
/// What a new connection may take before it counts as failed.
const SOON: Duration = Duration::from_millis(50);

struct Together {
    gateways: Vec<Option<Gateway>>,
    kubeconfig: PathBuf,
    net: Net,
    _server: Server,
    _folder: TempDir,
}

impl Together {
    fn new(hosts: u8) -> Self {
        let together = Self::launch(Net::new(hosts), &[], &[]);
        eventually("one that announces", || together.owner().is_some());
        eventually("an answer", || together.net.ask(vip(), SOON).is_ok_and(|text| text == "served"));
        eventually("one owner", || together.owners().len() == 1);
        thread::sleep(Duration::from_millis(300));
        together
    }

    /// Gateways that were told `more`, and know of each other, so that nothing moves any more by itself; besides the
    /// Service, the API server has these objects.
    fn launch(net: Net, more: &[&str], objects: &[Value]) -> Self {
        let hosts = net.hosts;
        let mut together = Self::alone(net);
        for object in objects {
            together.apply(object);
        }
        together.apply(&service(&json!({})));
        together.apply(&slice(None));
        together.gateways = (1..=hosts).map(|n| Some(together.start(n, more))).collect();
        for n in 1..=hosts {
            eventually("all nodes", || {
                let gateway = together.gateways[usize::from(n - 1)].as_ref().unwrap();
                let page = together.net.admin(n, gateway, "/metrics");
                page.contains(&format!("\nsluicegate_announce_members {hosts}\n"))
            });
        }
        together
    }

    /// Only the API server.
    fn alone(net: Net) -> Self {
        let folder = TempDir::new().unwrap();
        let address: IpAddr = "10.78.0.100".parse().unwrap();
        let server =
            net.inside(&net.lan(), || Server::start(Options { address, ..Options::default() }).unwrap());
        let kubeconfig = folder.path().join("kubeconfig");
        server.write_kubeconfig(&kubeconfig).unwrap();
        Self { gateways: Vec::new(), kubeconfig, net, _server: server, _folder: folder }
    }

    fn start(&self, n: u8, more: &[&str]) -> Gateway {
        let node = format!("n{n}");
        let mut gateway = self.net.gateway(
            n,
            &[
                &["--kubernetes", "--kubeconfig", self.kubeconfig.to_str().unwrap(), "--node-name", &node],
                &["--http", "none", "--service-types", "load-balancer", "--default-load-balancer"][..],
                &["--load-balancer-addresses", "10.77.0.48/28", "--election-namespace", "default"],
                &["--state-dir", "none", "--announce", "l2", "--announce-interfaces", "eth0"],
                &["--drain-timeout", "1s"],
                more,
            ]
            .concat(),
        );
        gateway.wait_until_ready();
        gateway
    }

    fn apply(&self, object: &Value) {
        let params = PatchParams::apply("test").force();
        self.ask(object, async |api, name| api.patch(name, &params, &Patch::Apply(object)).await.map(drop));
    }

    /// Asks the API server about objects like this one, until it answers: it may not know the kind yet.
    fn ask<T: Send>(
        &self,
        object: &Value,
        request: impl AsyncFn(&Api<DynamicObject>, &str) -> kube::Result<T> + Sync,
    ) -> T {
        self.net.inside(&self.net.lan(), || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let file = Kubeconfig::read_from(&self.kubeconfig).unwrap();
                let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
                let client = kube::Client::try_from(config.unwrap()).unwrap();
                let version = object["apiVersion"].as_str().unwrap();
                let (group, version) = version.split_once('/').unwrap_or(("", version));
                let kind = GroupVersionKind::gvk(group, version, object["kind"].as_str().unwrap());
                let resource = ApiResource::from_gvk(&kind);
                let is_of_cluster = ["Node", "CustomResourceDefinition"].contains(&&*kind.kind);
                let api = if is_of_cluster {
                    Api::all_with(client, &resource)
                } else {
                    Api::namespaced_with(client, "default", &resource)
                };
                let name = object["metadata"]["name"].as_str().unwrap_or_default();
                let deadline = Instant::now() + PATIENCE;
                loop {
                    match request(&api, name).await {
                        Ok(answer) => return answer,
                        Err(error) => assert!(Instant::now() < deadline, "{object}: {error}"),
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            })
        })
    }

    fn owners(&self) -> Vec<u8> {
        let count = u8::try_from(self.gateways.len()).unwrap();
        (1..=count.max(1)).filter(|n| self.net.has(*n, VIP)).collect()
    }

    fn owner(&self) -> Option<u8> {
        self.owners().first().copied()
    }

    fn gateway(&self, n: u8) -> &Gateway {
        self.gateways[usize::from(n - 1)].as_ref().unwrap()
    }

    /// Opens connections one after the other while `event` happens and until another host than `from` has had the address
    /// for a while. The longest time without a new connection, and the longest with two that have the address.
    fn watch(&self, from: u8, event: impl FnOnce()) -> (Duration, Duration) {
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            let asking = scope.spawn(|| self.net.inside(&self.net.lan(), || longest_gap(&is_over)));
            let looking = scope.spawn(|| self.longest_overlap(&is_over));
            thread::sleep(Duration::from_millis(300));
            event();
            let deadline = Instant::now() + PATIENCE;
            while self.owners().iter().all(|owner| *owner == from) || self.net.has(from, VIP) {
                assert!(Instant::now() < deadline, "nobody else has the address: {:?}", self.owners());
                thread::sleep(Duration::from_millis(5));
            }
            thread::sleep(Duration::from_millis(700));
            is_over.store(true, SeqCst);
            (asking.join().unwrap(), looking.join().unwrap())
        })
    }

    fn longest_overlap(&self, is_over: &AtomicBool) -> Duration {
        let (mut longest, mut since) = (Duration::ZERO, None);
        while !is_over.load(SeqCst) {
            let now = Instant::now();
            if self.owners().len() > 1 {
                longest = longest.max(now - *since.get_or_insert(now));
            } else {
                since = None;
            }
            thread::sleep(Duration::from_millis(5));
        }
        longest
    }
}

fn vip() -> SocketAddr {
    SocketAddr::new(VIP.parse().unwrap(), 80)
}

/// The Service, with more in its `spec`.
fn service(more: &Value) -> Value {
    let mut service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {
        "type": "LoadBalancer", "loadBalancerIP": VIP, "selector": {"app": "web"},
        "ports": [{"port": 80, "protocol": "TCP"}]}});
    for (name, value) in more.as_object().unwrap() {
        service["spec"][name] = value.clone();
    }
    service
}

fn slice(node: Option<&str>) -> Value {
    let mut endpoint = json!({"addresses": [CLIENT], "conditions": {"ready": true}});
    if let Some(node) = node {
        endpoint["nodeName"] = json!(node);
    }
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"name": "", "port": ANSWERING, "protocol": "TCP"}],
        "endpoints": [endpoint]})
}

/// The longest time between two connections that were served.
fn longest_gap(is_over: &AtomicBool) -> Duration {
    let (mut longest, mut last) = (Duration::ZERO, Instant::now());
    while !is_over.load(SeqCst) {
        if ask(vip(), SOON).is_ok_and(|text| text == "served") {
            longest = longest.max(last.elapsed());
            last = Instant::now();
        }
        thread::sleep(Duration::from_millis(1));
    }
    longest
}

fn report(what: &str, (gap, overlap): (Duration, Duration)) {
    eprintln!("failover: {what}: no new connection for {gap:?}, two with the address for {overlap:?}");
}

#[test]
fn who_is_told_to_end_hands_its_addresses_over_without_a_gap() {
    if !can_run() {
        return;
    }
    let mut together = Together::new(2);
    let from = together.owner().unwrap();
    let seen = together.watch(from, || together.gateway(from).signal("TERM"));
    report("planned", seen);
    assert!(seen.0 < Duration::from_millis(400), "{:?}", seen.0);
    assert!(seen.1 < Duration::from_secs(1), "{:?}", seen.1);
    let mut gateway = together.gateways[usize::from(from - 1)].take().unwrap();
    assert!(gateway.wait_for_exit().success());
}

#[test]
fn who_is_killed_has_a_successor_when_its_lease_is_over() {
    if !can_run() {
        return;
    }
    let together = Together::new(2);
    let from = together.owner().unwrap();
    let seen = together.watch(from, || together.gateway(from).signal("KILL"));
    report("killed", seen);
    assert!(seen.0 < Duration::from_secs(3), "{:?}", seen.0);
    assert!(seen.1 < Duration::from_millis(1_500), "{:?}", seen.1);
}

#[test]
fn who_is_frozen_loses_its_addresses_and_does_not_take_them_back() {
    if !can_run() {
        return;
    }
    let together = Together::new(2);
    let from = together.owner().unwrap();
    let seen = together.watch(from, || together.gateway(from).signal("STOP"));
    report("frozen", seen);
    assert!(seen.0 < Duration::from_secs(3), "{:?}", seen.0);
    assert!(seen.1 < Duration::from_millis(1_500), "{:?}", seen.1);
    assert!(!together.net.has(from, VIP), "the frozen one has it no more");
    // It comes back, and takes its share as anybody who joins.
    let (gap, overlap) = {
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            let asking = scope.spawn(|| together.net.inside(&together.net.lan(), || longest_gap(&is_over)));
            let looking = scope.spawn(|| together.longest_overlap(&is_over));
            together.gateway(from).signal("CONT");
            thread::sleep(Duration::from_secs(2));
            is_over.store(true, SeqCst);
            (asking.join().unwrap(), looking.join().unwrap())
        })
    };
    report("back from the ice", (gap, overlap));
    assert!(gap < Duration::from_secs(1) && overlap < Duration::from_secs(1), "{gap:?} {overlap:?}");
    eventually("one owner", || together.owners().len() == 1);
}

#[test]
fn whose_link_is_down_gives_its_addresses_up() {
    if !can_run() {
        return;
    }
    let together = Together::new(2);
    let from = together.owner().unwrap();
    let seen = together.watch(from, || together.net.ip(from, &["link", "set", "eth0", "down"]));
    report("link down", seen);
    assert!(seen.0 < Duration::from_secs(3), "{:?}", seen.0);
}

#[test]
fn with_the_local_policy_the_address_follows_its_endpoints() {
    if !can_run() {
        return;
    }
    let together = Together::new(2);
    together.apply(&slice(Some("n1")));
    together.apply(&service(&json!({"externalTrafficPolicy": "Local"})));
    for (node, other) in [(1, 2), (2, 1), (1, 2)] {
        together.apply(&slice(Some(&format!("n{node}"))));
        eventually("the address where the endpoint is", || {
            together.net.has(node, VIP) && !together.net.has(other, VIP)
        });
        eventually("an answer", || together.net.ask(vip(), SOON).is_ok_and(|text| text == "served"));
    }
    together.apply(&slice(Some("elsewhere")));
    eventually("nobody", || together.owners().is_empty());
}

#[test]
fn what_a_stranger_has_is_left_to_it_and_who_claims_what_is_ours_is_told() {
    if !can_run() {
        return;
    }
    let net = Net::new(2);
    net.ip_of_client(&["addr", "add", "10.77.0.50/32", "dev", "br0"]);
    let together = Together::launch(net, &[], &[]);
    let reasons = || {
        let kind = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {}});
        let all = together.ask(&kind, async |api, _| api.list(&ListParams::default()).await);
        let about = |event: &DynamicObject| event.data["regarding"]["name"] == "web";
        let reason = |event: &DynamicObject| event.data["reason"].as_str().unwrap().to_owned();
        all.items.iter().filter(|event| about(event)).map(reason).collect::<Vec<_>>()
    };
    eventually("both nodes to say so", || reasons() == ["AddressInUse", "AddressInUse"]);
    assert!(together.owners().is_empty());
    together.net.ip_of_client(&["addr", "del", "10.77.0.50/32", "dev", "br0"]);
    eventually("one owner", || together.owners().len() == 1);
    let owner = together.owner().unwrap();
    let claim = arp::announcement(Mac([2, 0, 0, 0, 0, 99]), VIP.parse().unwrap());
    eventually("the conflict to be told", || {
        together.net.send(3 - owner, &claim, 1);
        reasons().iter().any(|reason| reason == "AddressConflict")
    });
    together.net.send(3 - owner, &claim, 500);
    eventually("an answer", || together.net.ask(vip(), SOON).is_ok_and(|text| text == "served"));
    assert_eq!(reasons().iter().filter(|reason| *reason == "AddressConflict").count(), 1);
}

/// The definition of a kind of MetalLB's, as far as is needed here.
fn metallb(kind: &str) -> Value {
    let plural = format!("{}s", kind.to_lowercase());
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.metallb.io")},
        "spec": {"group": "metallb.io", "scope": "Namespaced", "names": {"kind": kind,
            "listKind": format!("{kind}List"), "plural": plural, "singular": kind.to_lowercase()},
            "versions": [{"name": "v1beta1", "served": true, "storage": true, "schema": {"openAPIV3Schema":
                {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}})
}

/// An advertisement of all pools.
fn advertisement(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "metallb.io/v1beta1", "kind": "L2Advertisement", "metadata": {"name": name}, "spec": spec})
}

#[test]
fn an_address_is_announced_by_nodes_that_an_advertisement_selects() {
    if !can_run() {
        return;
    }
    let node = |name: &str, rack: &str| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"rack": rack}}});
    let in_rack = |rack: &str| json!({"nodeSelectors": [{"matchLabels": {"rack": rack}}]});
    let together = Together::launch(
        Net::new(2),
        &["--metallb-pools"],
        &[
            node("n1", "a"),
            node("n2", "b"),
            metallb("IPAddressPool"),
            metallb("L2Advertisement"),
            json!({"apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool", "metadata": {"name": "p"},
                "spec": {"addresses": [format!("{VIP}/32")]}}),
            advertisement("one", &in_rack("a")),
        ],
    );
    let is_at = |node: u8| {
        eventually("the address at the selected node, and an answer", || {
            together.owners() == [node] && together.net.ask(vip(), SOON).is_ok_and(|text| text == "served")
        });
    };
    is_at(1);
    together.apply(&advertisement("one", &in_rack("b")));
    is_at(2);
    // Labels are followed, and advertisements add up.
    together.apply(&node("n2", "c"));
    eventually("nobody", || together.owners().is_empty());
    together.apply(&advertisement("two", &in_rack("c")));
    is_at(2);
    together.apply(&node("n1", "b"));
    together.apply(&node("n2", "d"));
    is_at(1);
    together.apply(&advertisement("one", &json!({"nodeSelectors": [{"matchLabels": {"rack": "nowhere"}}]})));
    eventually("nobody", || together.owners().is_empty());
    together.apply(&advertisement("three", &json!({"interfaces": ["eth0"]})));
    eventually("one owner", || together.owners().len() == 1);
}

#[test]
fn without_the_api_server_nodes_that_knew_of_each_other_stop() {
    if !can_run() {
        return;
    }
    let together = Together::new(2);
    for n in 1..=2 {
        together.net.ip(n, &["link", "set", "eth1", "down"]);
    }
    eventually("nobody", || together.owners().is_empty());
    for n in 1..=2 {
        together.net.ip(n, &["link", "set", "eth1", "up"]);
    }
    eventually("one owner", || together.owners().len() == 1);
}

#[test]
fn a_node_without_a_name_is_refused() {
    let (code, _, text) = crate::common::run(&["run", "--kubernetes", "--announce", "l2"]);
    assert!(code == 1 && text.contains("--node-name"), "{text}");
}
