use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use config::report::{Kind, ObjectRef, Problem, Report, Severity};
use config::table::{
    Action, Backend, BackendId, Bind, BindConfig, Candidate, Endpoint, Filters, HeaderModifier, HostMap,
    HostRules, Hostname, Limits, Listener, Matcher, PathMap, PathMatch, RouteId, RouteInfo, RouteTable, Rule,
    RulePolicy, Split, TrustedProxies, WildcardDepth,
};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::*;
use crate::live::Publisher;

thread_local! {
    /// What is remarked on in a test.
    static REMARKS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// An admin port on a free loopback port.
struct Admin {
    address: SocketAddr,
    state: Arc<AdminState>,
    publisher: Publisher,
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Admin {
    async fn start() -> Self {
        Self::start_on("127.0.0.1:0").await
    }

    async fn start_on(address: &str) -> Self {
        let (shared, publisher) = Shared::new(1);
        let state = Arc::new(AdminState {
            shared,
            registry: Registry::new(1),
            readiness: Arc::default(),
            extra_metrics: Box::new(|out| out.push_str("# TYPE extra gauge\nextra 1\n")),
            remarks: Box::new(|| REMARKS.with(|remarks| remarks.borrow().clone())),
            report: Arc::default(),
        });
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, Arc::clone(&state)));
        Self { address, state, publisher }
    }

    /// Publishes `hosts`, each with the same `rules_per_host` rules, on one bind.
    fn publish(&mut self, hosts: &[Hostname], rules_per_host: u32) {
        let mut table = RouteTable { version: 3, ..RouteTable::default() };
        let object = ObjectRef { kind: Kind::Ingress, namespace: "shop".into(), name: "web".into() };
        table.routes.set(0, Some(Arc::new(RouteInfo { object, name: "ingress/shop/web".into() })));
        table.backends.set(0, Some(Arc::new(backend())));
        let mut map = HostMap::default();
        for hostname in hosts {
            let mut paths = PathMap::default();
            (0..rules_per_host).for_each(|index| paths.push(candidate(index)));
            let rules = HostRules {
                hostname: hostname.clone(),
                depth: WildcardDepth::OneLabel,
                paths,
                fallback: None,
                hsts: None,
            };
            map.set(hostname, Some(Arc::new(rules)));
        }
        table.binds.push(Arc::new(Bind { config: bind_config(), hosts: Arc::new(map), tls: None }));
        self.publisher.publish(Arc::new(table));
    }

    async fn request(&self, method: &str, target: &str) -> Answer {
        self.ask(&format!("{method} {target} HTTP/1.1\r\nHost: localhost")).await
    }

    /// Sends this head, without its end.
    async fn ask(&self, head: &str) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let head = format!("{head}\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head: head.to_lowercase(), body: body.to_owned() }
    }

    async fn table(&self, query: &str) -> Value {
        let answer = self.request("GET", &format!("/debug/table{query}")).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        serde_json::from_str(&answer.body).unwrap()
    }
}

fn bind_config() -> Arc<BindConfig> {
    Arc::new(BindConfig {
        https: false,
        address: SocketAddr::from(([127, 0, 0, 1], 8080)),
        listeners: vec![Listener { name: "http".into() }],
        proxy_protocol: false,
        trusted_proxies: TrustedProxies::default(),
        limits: Limits::default(),
        abort_on_half_close: false,
        free_bind: false,
    })
}

fn backend() -> Backend {
    let endpoint = |port| Endpoint {
        address: SocketAddr::from(([127, 0, 0, 1], port)),
        weight: port,
        identity: None,
        dns_name: None,
    };
    let endpoints = (1_000..1_300).map(endpoint).collect();
    Backend { name: "shop/web:80".into(), endpoints, policy: Arc::default() }
}

fn candidate(index: u32) -> Candidate {
    let set = vec![("authorization".into(), "Basic c2VjcmV0".into()), ("x-team".into(), "shop".into())];
    let request_headers = HeaderModifier { set, ..HeaderModifier::default() };
    let filters = Filters { request_headers, ..Filters::default() };
    let rule = Rule {
        route: RouteId(0),
        index,
        path: Box::new(PathMatch::Exact(format!("/{index:04}").into())),
        policy: Arc::new(RulePolicy { filters, ..RulePolicy::default() }),
        action: Action::Forward(Split::One(BackendId(0))),
    };
    let matcher = Matcher { method: Some("GET".into()), ..Matcher::default() };
    Candidate { matcher: Some(Arc::new(matcher)), rule: Arc::new(rule) }
}

fn host(name: &str) -> Hostname {
    Hostname::Exact(name.into())
}

#[tokio::test]
async fn a_port_of_loopback_answers_to_no_name_that_others_could_own() {
    let admin = Admin::start().await;
    let get = "GET /livez HTTP/1.1";
    for host in
        ["127.0.0.1", "127.0.0.1:9901", "localhost", "LocalHost:9901", "[::1]", "[::1]:9901", "192.0.2.1", ""]
    {
        assert_eq!(admin.ask(&format!("{get}\r\nHost: {host}")).await.status, 200, "{host}");
    }
    for host in [
        "attacker.example",
        "attacker.example:9901",
        "127.0.0.1.attacker.example",
        "localhost.attacker.example",
        "localhost.",
        "127.1",
        "0x7f000001",
        "[::1].attacker.example",
        "[attacker.example]",
        "127.0.0.1:9901:80",
        "127.0.0.1@attacker.example",
        "\u{e9}",
    ] {
        let answer = admin.ask(&format!("{get}\r\nHost: {host}")).await;
        assert_eq!(answer.status, 421, "{host}");
        assert!(answer.body.contains("localhost") && !answer.body.contains("ok"), "{}", answer.body);
    }
    assert_eq!(admin.ask(&format!("{get}\r\nHost: localhost\r\nHost: attacker.example")).await.status, 421);
    let absolute = "GET http://attacker.example/livez HTTP/1.1\r\nHost: localhost";
    assert_eq!(admin.ask(absolute).await.status, 421);
    // Programs that send none are no browsers.
    assert_eq!(admin.ask("GET /livez HTTP/1.0").await.status, 200);
    // What others may reach has names that nobody here knows.
    let open = Admin::start_on("0.0.0.0:0").await;
    assert_eq!(open.ask(&format!("{get}\r\nHost: gateway-admin.edge.svc:9901")).await.status, 200);
}

#[tokio::test]
async fn livez_answers_at_once_and_readyz_says_what_it_waits_for() {
    let mut admin = Admin::start().await;
    assert_eq!(admin.request("GET", "/livez").await.status, 200);
    let starting = admin.request("GET", "/readyz").await;
    assert_eq!((starting.status, starting.body.as_str()), (503, "starting: waiting for the first table\n"));

    admin.state.readiness.ready();
    assert_eq!(admin.request("GET", "/readyz").await.status, 503, "there is no table yet");
    admin.publish(&[], 0);
    assert_eq!(admin.request("GET", "/readyz").await.status, 200);

    admin.state.readiness.draining();
    let draining = admin.request("GET", "/readyz").await;
    assert!(draining.status == 503 && draining.body.starts_with("draining"), "{}", draining.body);
    assert_eq!(admin.request("GET", "/livez").await.status, 200);
}

#[tokio::test]
async fn readyz_says_what_a_start_waits_for_and_what_is_not_as_it_should_be() {
    let mut admin = Admin::start().await;
    let remarks = ["waiting for EndpointSlices: 403 Forbidden".to_owned(), "waiting for Services".to_owned()];
    REMARKS.set(remarks.to_vec());
    let starting = admin.request("GET", "/readyz").await;
    assert_eq!(starting.status, 503);
    assert_eq!(
        starting.body,
        format!("starting: waiting for the first table\n{}\n{}\n", remarks[0], remarks[1])
    );

    admin.publish(&[], 0);
    admin.state.readiness.ready();
    let degraded = admin.request("GET", "/readyz").await;
    assert_eq!(degraded.status, 200);
    assert_eq!(degraded.body, format!("ok\n{}\n{}\n", remarks[0], remarks[1]));
}

#[tokio::test]
async fn a_published_table_without_open_sockets_is_not_ready() {
    let mut admin = Admin::start().await;
    admin.publish(&[], 0);
    let starting = admin.request("GET", "/readyz").await;
    assert_eq!(starting.status, 503);
    assert_eq!(starting.body, "starting: waiting for the listening sockets\n");
}

#[tokio::test]
async fn only_get_and_head_are_served_and_unknown_pages_lead_to_the_index() {
    let admin = Admin::start().await;
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let refused = admin.request(method, "/livez").await;
        assert_eq!(refused.status, 405, "{method}");
        assert!(refused.head.contains("allow: get, head"), "{}", refused.head);
    }
    let head = admin.request("HEAD", "/livez").await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert!(head.head.contains("content-length: 3"), "{}", head.head);
    let index = admin.request("GET", "/").await;
    let unknown = admin.request("GET", "/debug/pprof").await;
    assert_eq!((index.status, unknown.status), (200, 404));
    for page in ["/livez", "/readyz", "/metrics", "/debug/table"] {
        assert!(index.body.contains(page) && unknown.body.contains(page), "{page}");
    }
}

#[tokio::test]
async fn metrics_are_those_of_the_gateway_and_of_whoever_adds_some() {
    let mut admin = Admin::start().await;
    admin.publish(&[], 0);
    admin.state.registry.worker(0).unwrap().connections_accepted.add(5);
    let answer = admin.request("GET", "/metrics").await;
    assert_eq!(answer.status, 200);
    assert!(
        answer.head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"),
        "{}",
        answer.head
    );
    assert!(answer.body.contains("sluicegate_connections_accepted_total{worker=\"0\"} 5\n"));
    assert!(answer.body.contains("sluicegate_table_version 3\n"));
    assert!(answer.body.ends_with("extra 1\n"));
}

#[tokio::test]
async fn the_table_shows_hosts_rules_backends_and_endpoints() {
    let mut admin = Admin::start().await;
    admin.publish(&[host("a.example"), Hostname::Wildcard(".b.example".into()), Hostname::Any], 1);
    let table = admin.table("").await;
    assert_eq!(table["version"], 3);
    assert_eq!(table["truncated"], true, "the backend has more endpoints than are shown");
    let bind = &table["binds"][0];
    assert_eq!(bind["address"], "127.0.0.1:8080");
    assert_eq!(bind["limits"]["header_timeout"], "10s");
    let names: Vec<_> = bind["hosts"].as_array().unwrap().iter().map(|host| &host["host"]).collect();
    assert_eq!(names, ["a.example", "*.b.example", "*"]);
    let rule = &bind["hosts"][0]["rules"][0];
    assert_eq!(rule["route"], "ingress/shop/web");
    assert_eq!(rule["object"], "Ingress shop/web");
    assert_eq!(rule["path"]["value"], "/0000");
    assert_eq!(rule["match"]["method"], "GET");
    assert_eq!(rule["action"]["forward"][0]["backend"], "shop/web:80");
    let backend = &table["backends"][0];
    assert_eq!((&backend["name"], &backend["endpoints_total"]), (&"shop/web:80".into(), &300.into()));
    assert_eq!(backend["endpoints"].as_array().unwrap().len(), 256);
    let endpoint = &backend["endpoints"][0];
    assert_eq!((&endpoint["address"], &endpoint["weight"]), (&"127.0.0.1:1000".into(), &1_000.into()));
    assert_eq!((&endpoint["health"], &endpoint["in_flight"]), (&"healthy".into(), &0.into()));
}

#[tokio::test]
async fn credentials_in_header_changes_are_hidden() {
    let mut admin = Admin::start().await;
    admin.publish(&[host("a.example")], 1);
    let table = admin.table("").await;
    assert!(!table.to_string().contains("c2VjcmV0"));
    let set = &table["binds"][0]["hosts"][0]["rules"][0]["policy"]["filters"]["request_headers"]["set"];
    assert_eq!(*set, serde_json::json!([["authorization", "(hidden)"], ["x-team", "shop"]]));
}

#[tokio::test]
async fn a_host_query_shows_the_rules_that_would_serve_it() {
    let mut admin = Admin::start().await;
    admin.publish(&[host("a.example"), Hostname::Wildcard(".b.example".into())], 2);
    for (query, shown) in [
        ("?host=A.example:80", Some("a.example")),
        ("?host=x.b.example", Some("*.b.example")),
        ("?host=*.b.example", Some("*.b.example")),
        ("?host=c.example", None),
    ] {
        let table = admin.table(query).await;
        let hosts: Vec<_> =
            table["binds"][0]["hosts"].as_array().unwrap().iter().map(|h| &h["host"]).collect();
        assert_eq!(hosts, shown.into_iter().collect::<Vec<_>>(), "{query}");
    }
    let refused = admin.request("GET", "/debug/table?hots=a").await;
    assert_eq!(refused.status, 400);
    assert_eq!(refused.body, "unknown parameter \"hots\": use host and limit\n");
}

#[tokio::test]
async fn no_more_rules_are_shown_than_asked_for_in_a_stable_order() {
    let mut admin = Admin::start().await;
    let hosts: Vec<_> = (0..50).rev().map(|number| host(&format!("h{number:02}.example"))).collect();
    admin.publish(&hosts, 3);
    let table = admin.table("?limit=4").await;
    assert_eq!(table["truncated"], true);
    let bind = &table["binds"][0];
    assert_eq!(bind["hosts_total"], 50);
    let shown: Vec<_> = bind["hosts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|host| {
            (
                host["host"].as_str().unwrap(),
                host["rules"].as_array().unwrap().len(),
                host["rules_total"].as_u64().unwrap(),
            )
        })
        .filter(|(_, rules, _)| *rules > 0)
        .collect();
    assert_eq!(shown, [("h00.example", 3, 3), ("h01.example", 1, 3)]);
}

#[tokio::test]
async fn problems_of_the_last_report_are_shown() {
    let admin = Admin::start().await;
    let problem = Problem {
        object: ObjectRef { kind: Kind::Ingress, namespace: "shop".into(), name: "web".into() },
        location: None,
        field: "spec.rules[0]".to_owned(),
        severity: Severity::Error,
        reason: "PortNotFound",
        message: "service has no port 81".to_owned(),
    };
    admin.state.report.set(Arc::new(Report { problems: vec![problem] }));
    let table = admin.table("").await;
    assert_eq!(table["problems_total"], 1);
    assert_eq!(table["problems"][0]["reason"], "PortNotFound");
}

#[tokio::test]
async fn idle_connections_cannot_keep_a_probe_out() {
    let admin = Admin::start().await;
    let mut idle = Vec::new();
    for _ in 0..200 {
        idle.push(TcpStream::connect(admin.address).await.unwrap());
    }
    assert_eq!(admin.request("GET", "/livez").await.status, 200);
    // The oldest one had to go.
    assert_eq!(idle[0].read(&mut [0; 1]).await.unwrap_or(0), 0);
}

#[tokio::test(start_paused = true)]
async fn large_answers_are_made_a_few_at_a_time_and_never_hold_up_a_probe() {
    let mut admin = Admin::start().await;
    let hosts = [host("a.example"), host("b.example")];
    admin.publish(&hosts, 1_000);
    // Clients that ask for a megabyte and more, and read nothing.
    let mut stuck = Vec::new();
    for _ in 0..pages::MAX_RENDERS {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4_096).unwrap();
        let mut stream = socket.connect(admin.address).await.unwrap();
        stream.write_all(b"GET /debug/table?limit=2000 HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let mut first = [0; 1];
        stream.read_exact(&mut first).await.unwrap();
        stuck.push(stream);
    }
    assert_eq!(admin.request("GET", "/livez").await.status, 200);
    let busy = admin.request("GET", "/metrics").await;
    assert_eq!(busy.status, 503);
    assert!(busy.head.contains("retry-after: 5"), "{}", busy.head);
    drop(stuck);
    assert_eq!(admin.request("GET", "/metrics").await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_head_that_does_not_come_ends_the_connection() {
    let admin = Admin::start().await;
    let mut slow = TcpStream::connect(admin.address).await.unwrap();
    slow.write_all(b"GET /livez HTTP/1.1\r\nHost:").await.unwrap();
    let mut rest = Vec::new();
    // Paused time jumps ahead as soon as everybody waits.
    let ended = tokio::time::timeout(Duration::from_secs(50), slow.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "the connection is still open after the header timeout");
}
