//! A host that announces without a cluster.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use gateway::announce::{Mac, arp};
use tempfile::TempDir;

use crate::common::{Gateway, eventually, run};
use crate::net::{ANSWERING, CLIENT, Net, can_run};

const VIP: &str = "10.77.0.50";
const VIP6: &str = "fd77::50";
const SHORT: Duration = Duration::from_millis(200);
/// A neighbour that is not ours.
const STRANGER: Mac = Mac([2, 0, 0, 0, 0, 99]);

fn at(ip: &str) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), 80)
}

/// A Service with both addresses, whose endpoint is the client's own answering service.
fn manifest() -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("services.yaml");
    let text = format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: web, annotations: {{sluicegate.dev/load-balancer-ips: \
         '{VIP},{VIP6}'}}}}, spec: {{type: LoadBalancer, ipFamilies: [IPv4, IPv6], ports: [{{port: 80}}]}}}}\n---\n\
         {{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: web-1, labels: \
         {{kubernetes.io/service-name: web}}}}, addressType: IPv4, ports: [{{name: '', port: {ANSWERING}}}], \
         endpoints: [{{addresses: ['{CLIENT}']}}]}}\n"
    );
    std::fs::write(&path, text).unwrap();
    (folder, path)
}

fn start(net: &Net, path: &Path) -> Gateway {
    let path = path.to_str().unwrap();
    let mut gateway = net.gateway(
        1,
        &["--config", path, "--http", "none", "--service-types", "load-balancer", "--announce", "l2"],
    );
    gateway.wait_until_ready();
    gateway
}

fn is_served(net: &Net, ip: &str) -> bool {
    net.ask(at(ip), SHORT).is_ok_and(|text| text == "served")
}

#[test]
fn neighbours_reach_addresses_that_the_host_did_not_have() {
    if !can_run() {
        return;
    }
    let (net, (_folder, path)) = (Net::new(1), manifest());
    let mut gateway = start(&net, &path);
    eventually("an answer over IPv4", || is_served(&net, VIP));
    eventually("an answer over IPv6", || is_served(&net, VIP6));
    let page = net.admin(1, &gateway, "/metrics");
    assert!(page.contains("\nsluicegate_announce_addresses 2\n"), "{page}");
    // What is no longer wanted is given up; so is everything at the end.
    std::fs::write(&path, std::fs::read_to_string(&path).unwrap().replace(&format!(",{VIP6}"), "")).unwrap();
    eventually("one address less", || !net.has(1, VIP6) && net.has(1, VIP));
    gateway.signal("TERM");
    assert!(gateway.wait_for_exit().success());
    assert!(!net.has(1, VIP));
}

#[test]
fn an_address_of_a_pool_is_at_the_interfaces_of_its_advertisement_only() {
    if !can_run() {
        return;
    }
    let (net, (_folder, path)) = (Net::new(1), manifest());
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text.replace("ipFamilies", "ipFamilyPolicy: RequireDualStack, ipFamilies");
    let advertised_at = |interface: &str| {
        let text = format!(
            "{text}---\n{{apiVersion: metallb.io/v1beta1, kind: IPAddressPool, metadata: {{name: a, namespace: m}}, \
             spec: {{addresses: [{VIP}/32, '{VIP6}/128']}}}}\n---\n{{apiVersion: metallb.io/v1beta1, kind: \
             L2Advertisement, metadata: {{name: a, namespace: m}}, spec: {{interfaces: [{interface}]}}}}\n"
        );
        std::fs::write(&path, text).unwrap();
    };
    advertised_at("eth0");
    let _gateway = start(&net, &path);
    eventually("an answer", || is_served(&net, VIP));
    advertised_at("wan0");
    eventually("no address where it is not advertised", || !net.has(1, VIP) && !net.has(1, VIP6));
    advertised_at("eth0");
    eventually("an answer again", || is_served(&net, VIP));
}

#[test]
fn a_frozen_or_killed_process_loses_its_addresses_by_itself() {
    if !can_run() {
        return;
    }
    let (net, (_folder, path)) = (Net::new(1), manifest());
    let gateway = start(&net, &path);
    eventually("both addresses", || net.has(1, VIP) && net.has(1, VIP6));
    gateway.signal("STOP");
    let stopped = Instant::now();
    eventually("no address", || !net.has(1, VIP) && !net.has(1, VIP6));
    // A lifetime of a second, which the kernel ends up to one later.
    assert!(stopped.elapsed() < Duration::from_millis(2_500), "{:?}", stopped.elapsed());
    gateway.signal("CONT");
    eventually("both addresses again", || is_served(&net, VIP) && is_served(&net, VIP6));
    gateway.signal("KILL");
    eventually("no address", || !net.has(1, VIP) && !net.has(1, VIP6));
}

#[test]
fn who_was_frozen_does_not_take_back_what_a_neighbour_has_since() {
    if !can_run() {
        return;
    }
    let (net, (_folder, path)) = (Net::new(2), manifest());
    let gateway = start(&net, &path);
    eventually("both addresses", || net.has(1, VIP) && net.has(1, VIP6));
    gateway.signal("STOP");
    eventually("no address", || !net.has(1, VIP) && !net.has(1, VIP6));
    net.ip(2, &["addr", "add", "10.77.0.50/32", "dev", "eth0"]);
    gateway.signal("CONT");
    gateway.wait_for_log("another host has an address");
    assert!(!net.has(1, VIP));
    eventually("the other address", || net.has(1, VIP6));
}

#[test]
fn an_address_that_a_neighbour_has_is_left_to_it() {
    if !can_run() {
        return;
    }
    let (net, (_folder, path)) = (Net::new(2), manifest());
    net.ip(2, &["addr", "add", "10.77.0.50/32", "dev", "eth0"]);
    net.ip(2, &["addr", "add", "fd77::50/128", "dev", "eth0", "nodad"]);
    let gateway = start(&net, &path);
    gateway.wait_for_log("another host has an address");
    assert!(!net.has(1, VIP));
    net.ip(2, &["addr", "del", "10.77.0.50/32", "dev", "eth0"]);
    eventually("the address", || is_served(&net, VIP));
    assert!(!net.has(1, VIP6));
}

#[test]
fn a_claim_of_a_stranger_is_answered_and_a_storm_of_them_is_not() {
    if !can_run() {
        return;
    }
    let (net, (_folder, path)) = (Net::new(2), manifest());
    let gateway = start(&net, &path);
    eventually("an answer", || is_served(&net, VIP));
    let claim = arp::announcement(STRANGER, VIP.parse().unwrap());
    net.send(2, &claim, 1);
    gateway.wait_for_log("another host claims an address");
    net.send(2, &claim, 2_000);
    eventually("served as before", || is_served(&net, VIP));
    let page = net.admin(1, &gateway, "/metrics");
    let figure = |name: &str| -> u64 {
        let line = page.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().parse().unwrap()
    };
    let conflicts = figure("sluicegate_announce_conflicts_total");
    let defences = figure("sluicegate_announce_defences_total");
    assert!(conflicts >= 1 && (1..=3).contains(&defences), "{conflicts} {defences}");
}

/// L68: the kernel answers who asks for an address, and lets this process sleep meanwhile.
#[test]
fn a_flood_of_questions_for_an_address_costs_the_process_nothing() {
    const QUESTIONS: u32 = 20_000;
    if !can_run() {
        return;
    }
    let (net, (_folder, path)) = (Net::new(2), manifest());
    let gateway = start(&net, &path);
    eventually("an answer", || is_served(&net, VIP));
    let cpu_seconds = || -> f64 {
        let page = net.admin(1, &gateway, "/metrics");
        let line = page.lines().find_map(|line| line.strip_prefix("process_cpu_seconds_total "));
        line.unwrap().parse().unwrap()
    };
    let received = || -> u32 {
        let text = net.ip_says(1, &["-json", "-statistics", "link", "show", "eth0"]);
        let links: serde_json::Value = serde_json::from_str(&text).unwrap();
        u32::try_from(links[0]["stats64"]["rx"]["packets"].as_u64().unwrap()).unwrap()
    };
    let (before, packets) = (cpu_seconds(), received());
    net.send(2, &arp::probe(STRANGER, VIP.parse().unwrap()), QUESTIONS);
    let used = cpu_seconds() - before;
    assert!(received() - packets >= QUESTIONS, "all of them arrive");
    // A twentieth of the two seconds that they take where there are 10,000 a second.
    assert!(used <= 0.1, "{used} s of CPU time");
    assert!(is_served(&net, VIP));
}

#[test]
fn no_route_leads_round_over_an_address_that_was_just_taken() {
    if !can_run() {
        return;
    }
    let (net, (folder, path)) = (Net::new(1), manifest());
    let text = format!(
        "listeners:\n- {{name: round, address: '0.0.0.0:90', protocol: tcp, forward: {{backend: round, maxConnections: 50}}}}\n\
         backends:\n- {{name: round, endpoints: ['{VIP}:90']}}\n"
    );
    std::fs::write(folder.path().join("edge.yaml"), text).unwrap();
    let gateway = start(&net, path.parent().unwrap());
    eventually("the address", || net.has(1, VIP));
    let loops = "sluicegate_tcp_connections_total{reason=\"Loop\"}";
    let page = || net.admin(1, &gateway, "/metrics");
    let count = || page().lines().find_map(|line| line.strip_prefix(loops)?.trim().parse::<u64>().ok());
    assert_eq!(count().unwrap_or_default(), 0);
    assert!(net.ask("10.77.0.1:90".parse().unwrap(), SHORT).is_err());
    eventually("a loop to be seen where it began", || count() == Some(1));
}

#[test]
fn an_address_goes_with_its_link_and_comes_back_with_it() {
    if !can_run() {
        return;
    }
    let (net, (_folder, path)) = (Net::new(1), manifest());
    let _gateway = start(&net, &path);
    eventually("an answer", || is_served(&net, VIP));
    net.ip(1, &["link", "set", "eth0", "down"]);
    eventually("no address", || !net.has(1, VIP));
    net.ip(1, &["link", "set", "eth0", "up"]);
    eventually("an answer", || is_served(&net, VIP));
}

#[test]
fn without_the_capabilities_it_says_which_and_does_not_start() {
    let (_folder, path) = manifest();
    let path = path.to_str().unwrap();
    let words = ["--bounding-set", "-net_raw,-net_admin", crate::common::binary(), "run", "--config", path];
    let more = ["--http", "none", "--https", "none", "--admin", "none", "--announce", "l2"];
    let Ok(output) = Command::new("setpriv").args(words).args(more).output() else {
        eprintln!("skipped: no setpriv here");
        return;
    };
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    if text.contains("setpriv:") {
        eprintln!("skipped: setpriv may not change capabilities here");
        return;
    }
    assert!(!output.status.success() && text.contains("NET_ADMIN") && text.contains("NET_RAW"), "{text}");
}

#[test]
fn flags_that_mean_nothing_are_refused() {
    for (flag, value) in
        [("--announce-lease", "1500ms"), ("--announce-lease", "0s"), ("--announce-interfaces", "a/b")]
    {
        let (code, _, text) = run(&["run", "--config", "x", flag, value]);
        assert!(code == 2 && text.contains(flag), "{text}");
    }
}
