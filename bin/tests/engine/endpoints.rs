//! Endpoints of Services that change under traffic: who an address is, how it is spoken to, and what becomes of
//! requests when it goes.

use std::net::SocketAddr;

use tempfile::TempDir;

use crate::common::{Gateway, eventually};
use crate::origin::Origin;
use crate::wire::{Wire, get};

/// The gateway with an Ingress whose Service has one endpoint.
struct Cluster {
    gateway: Gateway,
    folder: TempDir,
    endpoint: SocketAddr,
}

impl Cluster {
    fn start(endpoint: SocketAddr, pod: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let ingress = "{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: i}, spec: {rules: [{http: {paths: \
                       [{path: /, pathType: Prefix, backend: {service: {name: s, port: {number: 80}}}}]}}]}}\n";
        std::fs::write(folder.path().join("ingress.yaml"), ingress).unwrap();
        write_service(&folder, "");
        write_slice(&folder, endpoint, pod);
        let gateway = Gateway::start(folder.path(), &["--workers", "1"]);
        Self { gateway, folder, endpoint }
    }

    /// Makes a change, and waits until it is served.
    fn change(&self, change: impl FnOnce(&TempDir)) {
        let version = || {
            let text = self.gateway.admin("/metrics");
            let line = text.lines().find(|line| line.starts_with("sluicegate_table_version ")).unwrap();
            line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
        };
        let before = version();
        change(&self.folder);
        eventually("the change is served", || version() > before);
    }

    fn client(&self) -> Wire {
        Wire::connect(self.gateway.http)
    }
}

fn replace(folder: &TempDir, name: &str, text: &str) {
    let new = folder.path().join("new.tmp");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, folder.path().join(name)).unwrap();
}

fn write_service(folder: &TempDir, port: &str) {
    let text = format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: s}}, spec: {{ports: [{{name: http, port: 80{port}}}]}}}}\n"
    );
    replace(folder, "service.yaml", &text);
}

fn write_slice(folder: &TempDir, endpoint: SocketAddr, pod: &str) {
    let text = format!(
        "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: e, labels: {{kubernetes.io/service-name: \
         s}}}}, addressType: IPv4, ports: [{{name: http, port: {}}}], endpoints: [{{addresses: ['{}'], targetRef: \
         {{kind: Pod, uid: {pod}}}}}]}}\n",
        endpoint.port(),
        endpoint.ip()
    );
    replace(folder, "slice.yaml", &text);
}

#[test]
fn k46_k47_an_address_of_another_pod_inherits_no_connection() {
    let origin = Origin::plain();
    let cluster = Cluster::start(origin.address, "pod-1");
    let mut client = cluster.client();
    for path in ["/1", "/2"] {
        assert_eq!(client.get(path).text(), path);
    }
    assert_eq!(origin.see(|seen| seen.opened), 1);
    cluster.change(|folder| write_slice(folder, cluster.endpoint, "pod-2"));
    assert_eq!(client.get("/3").text(), "/3");
    assert_eq!(origin.see(|seen| seen.opened), 2, "the connection to the former Pod was used");
    origin.wait("end of the former Pod's connection", |seen| seen.ended == 1);
    // The same Pod again is no change, and its connection stays.
    write_slice(&cluster.folder, cluster.endpoint, "pod-2");
    cluster.change(|folder| replace(folder, "more.yaml", "{backends: [{name: b, endpoints: ['127.0.0.1:1']}], routes: [{name: r, hosts: [b.test], backend: b}]}\n"));
    assert_eq!(client.get("/4").text(), "/4");
    assert_eq!(origin.see(|seen| seen.opened), 2);
}

#[test]
fn k45_a_service_that_goes_lets_its_requests_finish_and_takes_no_new_ones() {
    let origin = Origin::start(|conn| {
        let Some(request) = conn.request() else { return };
        conn.note("here");
        while std::fs::metadata(request.head.value("x-until").unwrap()).is_err() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        conn.answer("done");
        conn.wire.end();
    });
    let cluster = Cluster::start(origin.address, "pod-1");
    let until = cluster.folder.path().join("go-on");
    let mut slow = cluster.client();
    slow.send(format!("GET / HTTP/1.1\r\nHost: a\r\nX-Until: {}\r\n\r\n", until.display()));
    origin.wait("the request", |seen| !seen.notes.is_empty());
    cluster.change(|folder| std::fs::remove_file(folder.path().join("service.yaml")).unwrap());
    let answer = cluster.client().get("/");
    assert_eq!(answer.head.status(), 503);
    std::fs::write(until, "").unwrap();
    let answer = slow.response("GET");
    assert_eq!((answer.head.status(), answer.text().as_str()), (200, "done"));
}

#[test]
fn k50_another_app_protocol_is_spoken_on_new_connections() {
    let origin = Origin::start(|conn| {
        while let Some(head) = conn.head() {
            if head.line().starts_with("PRI * HTTP/2.0") {
                conn.note("h2c");
                return;
            }
            conn.wire.send(crate::origin::ok("plain"));
        }
    });
    let cluster = Cluster::start(origin.address, "pod-1");
    let mut client = cluster.client();
    assert_eq!(client.get("/").text(), "plain");
    cluster.change(|folder| write_service(folder, ", appProtocol: kubernetes.io/h2c"));
    client.send(get("/"));
    origin.wait("a connection in HTTP/2", |seen| !seen.notes.is_empty());
    assert!(client.response("GET").head.status() >= 500);
    assert_eq!(origin.lines().iter().filter(|line| line.starts_with("GET")).count(), 1);
    cluster.change(|folder| write_service(folder, ", appProtocol: http"));
    let mut client = cluster.client();
    eventually("plain again", || client.get("/").text() == "plain");
}
