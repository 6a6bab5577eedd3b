//! Addresses of the cluster: nobody has them on an interface, and the host answers to them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use crate::common::{Gateway, eventually};
use crate::net::{ANSWERING, CLIENT, Net, ask, can_run};

const ONE: &str = "10.96.0.7";
const ONE6: &str = "fd96::7";
const TWO: &str = "10.96.0.8";
const SHORT: Duration = Duration::from_millis(300);

fn at(ip: &str) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), 80)
}

/// A Service of type ClusterIP, whose endpoint is the client's own answering service.
fn service(name: &str, addresses: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{clusterIPs: [{addresses}], ports: [{{port: 80}}]}}}}\n\
         ---\n\
         {{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: {name}-1, labels: \
         {{kubernetes.io/service-name: {name}}}}}, addressType: IPv4, ports: [{{name: '', port: {ANSWERING}}}], \
         endpoints: [{{addresses: ['{CLIENT}']}}]}}\n---\n"
    )
}

fn one() -> String {
    service("one", &format!("{ONE}, '{ONE6}'"))
}

fn two() -> String {
    service("two", TWO)
}

fn file(text: &str) -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("services.yaml");
    std::fs::write(&path, text).unwrap();
    (folder, path)
}

fn start(net: &Net, path: &Path) -> Gateway {
    let args = ["--config", path.to_str().unwrap(), "--http", "none", "--service-types", "cluster-ip"];
    let mut gateway = net.gateway(1, &args);
    gateway.wait_until_ready();
    gateway
}

/// A host through which the client reaches the addresses of the cluster, as a Pod does.
fn net() -> Net {
    let net = Net::new(1);
    net.ip_of_client(&["route", "add", "10.96.0.0/16", "via", "10.77.0.1"]);
    net.ip_of_client(&["-6", "route", "add", "fd96::/64", "via", "fd77::1"]);
    net
}

fn is_served(net: &Net, ip: &str) -> bool {
    net.ask(at(ip), SHORT).is_ok_and(|text| text == "served")
}

/// Addresses of both families that the host has by routes of ours.
fn routes(net: &Net) -> String {
    let of = |family| net.ip_says(1, &[family, "route", "show", "table", "local", "proto", "83"]);
    of("-4") + &of("-6")
}

#[test]
fn cluster_ips_are_served_to_others_and_to_the_host_itself() {
    if !can_run() {
        return;
    }
    let (net, (_folder, path)) = (net(), file(&(one() + &two())));
    let mut gateway = start(&net, &path);
    for address in [ONE, ONE6, TWO] {
        assert!(is_served(&net, address), "{address}");
        let own = net.inside(&net.host(1), || ask(at(address), SHORT));
        assert_eq!(own.unwrap(), "served", "{address}, from the host itself");
    }
    assert!(!net.has(1, ONE), "it is on no interface");
    // What is no longer wanted is not the host's any more, and the rest stays.
    std::fs::write(&path, two()).unwrap();
    eventually("one Service less", || !routes(&net).contains(ONE) && !routes(&net).contains(ONE6));
    assert!(net.ask(at(ONE), SHORT).is_err());
    assert!(is_served(&net, TWO));
    gateway.signal("TERM");
    assert!(gateway.wait_for_exit().success());
    assert_eq!(routes(&net), "");
}

#[test]
fn routes_that_a_killed_process_left_are_taken_up_or_taken_back() {
    if !can_run() {
        return;
    }
    let (net, (_folder, path)) = (net(), file(&(one() + &two())));
    let mut gateway = start(&net, &path);
    assert!(is_served(&net, ONE) && is_served(&net, TWO));
    gateway.signal("KILL");
    gateway.wait_for_exit();
    assert!(routes(&net).contains(ONE));
    std::fs::write(&path, two()).unwrap();
    let _gateway = start(&net, &path);
    assert!(is_served(&net, TWO));
    eventually("only what is wanted", || !routes(&net).contains(ONE) && routes(&net).contains(TWO));
}

#[test]
fn an_address_that_the_host_has_itself_stays_its_own() {
    if !can_run() {
        return;
    }
    let (net, (_folder, path)) = (net(), file(&service("own", "10.77.0.1")));
    let mut gateway = start(&net, &path);
    assert!(is_served(&net, "10.77.0.1"));
    assert_eq!(routes(&net), "");
    gateway.signal("TERM");
    assert!(gateway.wait_for_exit().success());
    assert!(net.has(1, "10.77.0.1"));
}

#[test]
fn without_the_right_to_make_routes_it_does_not_start() {
    if !can_run() {
        return;
    }
    let (_folder, path) = file(&one());
    let mut gateway = Gateway::launch_after(
        &["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"],
        &["--config", path.to_str().unwrap(), "--http", "none", "--service-types", "cluster-ip"],
    );
    assert!(!gateway.wait_for_exit().success());
    gateway.wait_for_log("--service-types cluster-ip needs the capability NET_ADMIN");
}
