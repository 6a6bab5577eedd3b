//! Services at addresses of their own: which are ours, at which addresses, for whom, and who gets one that several want.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failure is a failed test")]

mod common;

use config::compile::{Compiler, EndpointSettings, ServiceSettings, Settings};
use config::index::{Assignment, Change, Event, Index};
use config::report::{Kind, ObjectRef};
use config::table::{
    L4Bind, ProxyProtocolIn, ProxyProtocolOut, RouteTable, SourceAddress, Split, TrustedProxies,
};

fn all_kinds() -> ServiceSettings {
    ServiceSettings {
        load_balancer: true,
        node_port: true,
        cluster_ip: true,
        classless: true,
        requestable: vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()],
        ..ServiceSettings::default()
    }
}

fn balanced_only() -> ServiceSettings {
    ServiceSettings { node_port: false, cluster_ip: false, ..all_kinds() }
}

fn settings(services: ServiceSettings) -> Settings {
    let endpoints = EndpointSettings { node: Some("n1".into()), ..EndpointSettings::default() };
    Settings { http: None, services, endpoints, ..Settings::default() }
}

fn service(name: &str, meta: &str, spec: &str) -> String {
    format!("---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}{meta}}}, spec: {{{spec}}}}}\n")
}

fn slice(service: &str, ports: &str, endpoints: &str) -> String {
    format!(
        "---\n{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: {service}-1, labels: \
         {{kubernetes.io/service-name: {service}}}}}, addressType: IPv4, ports: [{ports}], endpoints: [{endpoints}]}}\n"
    )
}

/// A LoadBalancer Service that asks for 192.0.2.1, with one endpoint on each of two nodes.
fn web(meta: &str, spec: &str) -> String {
    let spec = format!(
        "type: LoadBalancer, loadBalancerIP: 192.0.2.1, ports: [{{port: 80, nodePort: 30080}}]{spec}"
    );
    let endpoints = "{addresses: [10.0.0.1], nodeName: n1}, {addresses: [10.0.0.2], nodeName: n2}";
    service("web", meta, &spec) + &slice("web", "{name: '', port: 8080}", endpoints)
}

struct Outcome {
    /// `bind -> backend`, or why there is none; sorted.
    binds: Vec<String>,
    told: Vec<String>,
    table: std::sync::Arc<RouteTable>,
}

fn compile(services: ServiceSettings, text: &str) -> Outcome {
    let mut index = Index::new();
    let change = common::apply(&mut index, "f.yaml", text);
    outcome(&mut Compiler::new(settings(services)), &index, &change)
}

fn outcome(compiler: &mut Compiler, index: &Index, change: &Change) -> Outcome {
    let (table, report) = compiler.compile(index, change, common::NOW);
    let mut binds: Vec<String> = table.l4.iter().map(|(_, bind)| shown(&table, bind)).collect();
    binds.sort();
    let told = report
        .problems
        .iter()
        .map(|problem| format!("{} {} {}", problem.object, problem.field, problem.reason));
    Outcome { binds, told: told.collect(), table }
}

fn shown(table: &RouteTable, bind: &L4Bind) -> String {
    let target = match &bind.target {
        Ok(Split::One(id)) => table.backends.at(id.0).unwrap().name.to_string(),
        other => format!("{other:?}"),
    };
    format!("{} -> {target}", bind.key)
}

fn bind<'t>(table: &'t RouteTable, key: &str) -> &'t L4Bind {
    table.l4.iter().map(|(_, bind)| &**bind).find(|bind| bind.key.to_string() == key).unwrap()
}

fn endpoints(table: &RouteTable, backend: &str) -> Vec<String> {
    let backend = table.backends.iter().map(|(_, backend)| backend).find(|it| *it.name == *backend).unwrap();
    backend.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect()
}

#[test]
fn no_service_is_served_for_its_own_sake_unless_that_is_asked_for() {
    let outcome = compile(ServiceSettings { classless: true, ..ServiceSettings::default() }, &web("", ""));
    assert!(outcome.binds.is_empty() && outcome.told.is_empty(), "{:?}", outcome.told);
}

/// Pods reach API servers by their Service; nobody else's leads there.
#[test]
fn api_servers_are_reached_by_their_own_service_alone() {
    let port = "{name: https, port: 443, targetPort: 6443}";
    let own = service("kubernetes", "", &format!("clusterIP: 10.96.0.1, ports: [{port}]"));
    let slices = slice("kubernetes", "{name: https, port: 6443}", "{addresses: [10.0.0.1]}")
        .replace("kubernetes-1", "kubernetes");
    // In a slice of somebody's for their Service, only they themselves.
    let more = slice(
        "kubernetes",
        "{name: https, port: 6443}",
        "{addresses: [10.0.0.1]}, {addresses: [169.254.169.254]}",
    );
    let other = service("web", "", "clusterIP: 10.96.0.9, ports: [{port: 443}]")
        + &slice("web", "{name: '', port: 6443}", "{addresses: [10.0.0.1]}, {addresses: [10.0.0.2]}");
    let mut index = Index::new();
    let change = common::apply(&mut index, "f.yaml", &(own + &slices + &more + &other));
    let endpoint_settings = EndpointSettings { is_shared: true, ..EndpointSettings::default() };
    let all =
        Settings { http: None, services: all_kinds(), endpoints: endpoint_settings, ..Settings::default() };
    let outcome = outcome(&mut Compiler::new(all), &index, &change);
    assert_eq!(endpoints(&outcome.table, "default/kubernetes:443/tcp"), ["10.0.0.1:6443"]);
    assert_eq!(endpoints(&outcome.table, "default/web:443/tcp"), ["10.0.0.2:6443"]);
}

#[test]
fn each_kind_of_address_leads_to_the_endpoints() {
    let outcome = compile(all_kinds(), &web("", ", clusterIP: 10.96.0.9"));
    assert_eq!(
        outcome.binds,
        [
            "tcp://0.0.0.0:30080 -> default/web:80/tcp",
            "tcp://10.96.0.9:80 -> default/web:80/tcp",
            "tcp://192.0.2.1:80 -> default/web:80/tcp"
        ]
    );
    assert_eq!(endpoints(&outcome.table, "default/web:80/tcp"), ["10.0.0.1:8080", "10.0.0.2:8080"]);
    let (_, route) = outcome.table.routes.iter().next().unwrap();
    assert_eq!(&*route.name, "service/default/web");
    assert!(bind(&outcome.table, "tcp://192.0.2.1:80").free_bind);
    assert!(!bind(&outcome.table, "tcp://0.0.0.0:30080").free_bind);
    assert!(outcome.told.is_empty(), "{:?}", outcome.told);
}

#[test]
fn a_service_of_another_class_is_never_touched() {
    let ours = ", loadBalancerClass: sluicegate.dev/load-balancer";
    assert_eq!(compile(balanced_only(), &web("", ours)).binds.len(), 1);
    let other = compile(balanced_only(), &web("", ", loadBalancerClass: example.com/other"));
    assert!(other.binds.is_empty() && other.told.is_empty());
    let strict = || ServiceSettings { classless: false, ..balanced_only() };
    assert!(compile(strict(), &web("", "")).binds.is_empty());
    assert_eq!(compile(strict(), &web("", ours)).binds.len(), 1);
}

#[test]
fn only_addresses_that_may_be_asked_for_are_had_by_asking() {
    let strict =
        || ServiceSettings { requestable: vec!["198.51.100.0/24".parse().unwrap()], ..balanced_only() };
    let outcome = compile(strict(), &web("", ""));
    assert!(outcome.binds.is_empty());
    assert_eq!(outcome.told, ["Service default/web spec.loadBalancerIP AddressNotAllowed"]);
    let annotation = ", annotations: {metallb.io/loadBalancerIPs: '198.51.100.1, nonsense,2001:db8::1'}";
    let outcome = compile(strict(), &web(annotation, ""));
    assert_eq!(outcome.binds, ["tcp://198.51.100.1:80 -> default/web:80/tcp"]);
    let outcome =
        compile(strict(), &web(", annotations: {sluicegate.dev/load-balancer-ips: 198.51.100.2}", ""));
    assert_eq!(outcome.binds, ["tcp://198.51.100.2:80 -> default/web:80/tcp"]);
    assert!(outcome.told.is_empty(), "{:?}", outcome.told);
}

#[test]
fn no_service_of_a_cluster_has_addresses_that_mean_the_host_itself() {
    let compile = |is_shared| {
        let endpoints = EndpointSettings { is_shared, ..EndpointSettings::default() };
        let settings = Settings { endpoints, ..settings(balanced_only()) };
        let asked = "127.0.0.1,169.254.169.254,::1,fe80::1,192.0.2.1";
        let annotation = format!(", annotations: {{sluicegate.dev/load-balancer-ips: '{asked}'}}");
        let mut index = Index::new();
        let change = common::apply(&mut index, "f.yaml", &web(&annotation, ""));
        outcome(&mut Compiler::new(settings), &index, &change)
    };
    let shared = compile(true);
    assert_eq!(shared.binds, ["tcp://192.0.2.1:80 -> default/web:80/tcp"]);
    assert_eq!(shared.told, ["Service default/web spec.loadBalancerIP AddressNotAllowed"]);
    assert!(compile(false).binds.len() > 1);
}

#[test]
fn headers_that_a_map_asks_for_are_taken_from_trusted_proxies() {
    let map =
        ServiceSettings { tcp_map: Some(("ingress".into(), "tcp".into())), ..ServiceSettings::default() };
    let text = format!(
        "{}---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: tcp, namespace: ingress}}\ndata:\n  \
         '9001': default/web:80:PROXY\n",
        web("", "")
    );
    let mut index = Index::new();
    let change = common::apply(&mut index, "f.yaml", &text);
    let trusted_proxies = TrustedProxies(vec!["10.0.0.0/8".parse().unwrap()]);
    let mut compiler = Compiler::new(Settings { trusted_proxies: trusted_proxies.clone(), ..settings(map) });
    let table = outcome(&mut compiler, &index, &change).table;
    let policy = &bind(&table, "tcp://0.0.0.0:9001").policy;
    assert_eq!(policy.proxy_protocol_in, ProxyProtocolIn::Required { trusted: trusted_proxies });
}

#[test]
fn addresses_that_were_given_go_before_those_asked_for_and_can_be_taken_away() {
    let mut index = Index::new();
    let mut change = common::apply(&mut index, "f.yaml", &web("", ""));
    let reference = ObjectRef { kind: Kind::Service, namespace: "default".into(), name: "web".into() };
    let give = |index: &mut Index, assignment: Option<Assignment>| {
        index.apply(Event::Assigned { service: reference.clone(), assignment })
    };
    let addresses = ["203.0.113.7".parse().unwrap(), "2001:db8::7".parse().unwrap()].into();
    change.merge(give(&mut index, Some(Assignment { addresses, lack: None })));
    let mut compiler = Compiler::new(settings(balanced_only()));
    let binds = outcome(&mut compiler, &index, &change).binds;
    assert_eq!(
        binds,
        ["tcp://203.0.113.7:80 -> default/web:80/tcp", "tcp://[2001:db8::7]:80 -> default/web:80/tcp"]
    );
    let lack = Some(("PoolExhausted", "no address is left".to_owned()));
    let change = give(&mut index, Some(Assignment { addresses: Box::default(), lack }));
    let nothing = outcome(&mut compiler, &index, &change);
    assert!(nothing.binds.is_empty(), "what it asks for is not for the asking any more");
    assert!(nothing.told.iter().any(|told| told.contains("PoolExhausted")), "{:?}", nothing.told);
    let change = give(&mut index, None);
    let binds = outcome(&mut compiler, &index, &change).binds;
    assert_eq!(binds, ["tcp://192.0.2.1:80 -> default/web:80/tcp"]);
    assert!(give(&mut index, None).is_empty(), "nothing changed");
}

#[test]
fn a_port_of_a_protocol_that_is_not_supported_costs_only_itself() {
    let spec = "type: LoadBalancer, loadBalancerIP: 192.0.2.1, ports: [{name: s, port: 7, protocol: SCTP}, \
                {name: t, port: 7}]";
    let outcome = compile(balanced_only(), &service("web", "", spec));
    assert_eq!(outcome.binds, ["tcp://192.0.2.1:7 -> default/web:7/tcp"]);
    assert!(
        outcome.told.contains(&"Service default/web spec.ports[0].protocol UnsupportedProtocol".to_owned())
    );
}

#[test]
fn ports_of_streams_are_told_from_ports_of_datagrams_of_the_same_number() {
    let spec = "clusterIP: 10.96.0.10, ports: [{name: dns, port: 53, protocol: UDP, targetPort: dns}, \
                {name: dns-tcp, port: 53, targetPort: dns-tcp}]";
    let ports = "{name: dns, port: 5353, protocol: UDP}, {name: dns-tcp, port: 5354}";
    let text = service("dns", "", spec) + &slice("dns", ports, "{addresses: [10.0.0.1]}");
    let outcome = compile(all_kinds(), &text);
    assert!(
        outcome.binds.contains(&"tcp://10.96.0.10:53 -> default/dns:53/tcp".to_owned()),
        "{:?}",
        outcome.binds
    );
    assert_eq!(endpoints(&outcome.table, "default/dns:53/tcp"), ["10.0.0.1:5354"]);
}

#[test]
fn headless_services_and_external_names_have_no_address() {
    let headless = service("a", "", "clusterIP: None, ports: [{port: 80}]");
    let external = service("b", "", "type: ExternalName, externalName: example.com, ports: [{port: 80}]");
    let outcome = compile(all_kinds(), &(headless + &external));
    assert!(outcome.binds.is_empty());
}

#[test]
fn external_addresses_that_anybody_could_claim_are_not_served() {
    let outcome = compile(all_kinds(), &web("", ", externalIPs: [192.0.2.9]"));
    assert!(outcome.binds.iter().all(|bind| !bind.contains("192.0.2.9")), "{:?}", outcome.binds);
}

#[test]
fn what_is_for_another_proxy_is_left_to_it_but_for_the_load_balancer() {
    let label = ", labels: {service.kubernetes.io/service-proxy-name: other}";
    let outcome = compile(all_kinds(), &web(label, ", clusterIP: 10.96.0.9"));
    assert_eq!(outcome.binds, ["tcp://192.0.2.1:80 -> default/web:80/tcp"]);
}

#[test]
fn source_ranges_are_for_the_addresses_of_the_load_balancer_only() {
    let text = web("", ", loadBalancerSourceRanges: [' 192.0.2.0/24 '], clusterIP: 10.96.0.9");
    let outcome = compile(all_kinds(), &text);
    let ranges = |key| bind(&outcome.table, key).policy.source_ranges.clone();
    let balanced = ranges("tcp://192.0.2.1:80").unwrap();
    assert!(
        balanced.contains("192.0.2.77".parse().unwrap()) && !balanced.contains("10.0.0.1".parse().unwrap())
    );
    assert!(ranges("tcp://10.96.0.9:80").is_none() && ranges("tcp://0.0.0.0:30080").is_none());
}

fn annotated(text: &str) -> String {
    web(&format!(", annotations: {{{text}}}"), "")
}

#[test]
fn endpoints_learn_of_their_clients_as_the_service_says() {
    let text = annotated("sluicegate.dev/source-address: client, sluicegate.dev/send-proxy-protocol: v2");
    let mut index = Index::new();
    let change = common::apply(&mut index, "f.yaml", &text);
    let settings = Settings { transparent: true, ..settings(balanced_only()) };
    let outcome = outcome(&mut Compiler::new(settings), &index, &change);
    let policy = &bind(&outcome.table, "tcp://192.0.2.1:80").policy;
    assert_eq!(policy.source_address, SourceAddress::Client);
    assert_eq!(policy.proxy_protocol_out, ProxyProtocolOut::V2);
    assert!(outcome.told.is_empty(), "{:?}", outcome.told);
}

#[test]
fn what_endpoints_are_to_learn_of_clients_and_cannot_serves_nobody() {
    for (annotation, reason) in [
        ("sluicegate.dev/source-address: client", "NotTransparent"),
        ("sluicegate.dev/source-address: mine", "UnknownValue"),
        ("sluicegate.dev/send-proxy-protocol: v3", "UnknownValue"),
    ] {
        let outcome = compile(balanced_only(), &annotated(annotation));
        assert_eq!(outcome.binds, ["tcp://192.0.2.1:80 -> Err(InvalidSetting)"], "{annotation}");
        assert!(outcome.told[0].ends_with(reason), "{:?}", outcome.told);
    }
}

#[test]
fn source_ranges_that_cannot_be_understood_serve_nobody() {
    let annotation =
        ", annotations: {service.beta.kubernetes.io/load-balancer-source-ranges: '192.0.2.0/24,all'}";
    let outcome = compile(balanced_only(), &web(annotation, ""));
    assert_eq!(outcome.binds, ["tcp://192.0.2.1:80 -> Err(InvalidSetting)"]);
    assert!(outcome.told[0].ends_with("InvalidSourceRange"), "{:?}", outcome.told);
}

#[test]
fn traffic_policies_choose_the_endpoints_of_this_node() {
    let text = web("", ", clusterIP: 10.96.0.9, externalTrafficPolicy: Local");
    let outcome = compile(all_kinds(), &text);
    assert_eq!(
        outcome.binds,
        [
            "tcp://0.0.0.0:30080 -> default/web:80/tcp@node",
            "tcp://10.96.0.9:80 -> default/web:80/tcp",
            "tcp://192.0.2.1:80 -> default/web:80/tcp@node"
        ]
    );
    assert_eq!(endpoints(&outcome.table, "default/web:80/tcp@node"), ["10.0.0.1:8080"]);
    let outcome = compile(all_kinds(), &web("", ", clusterIP: 10.96.0.9, internalTrafficPolicy: Local"));
    assert_eq!(outcome.binds[1], "tcp://10.96.0.9:80 -> default/web:80/tcp@node");
}

#[test]
fn affinity_of_clients_lasts_three_hours_unless_said_otherwise() {
    let affinity = |spec: &str| {
        let outcome = compile(balanced_only(), &web("", spec));
        bind(&outcome.table, "tcp://192.0.2.1:80").policy.affinity.map(|time| time.as_secs())
    };
    assert_eq!(affinity(""), None);
    assert_eq!(affinity(", sessionAffinity: ClientIP"), Some(10_800));
    let config = ", sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 5}}";
    assert_eq!(affinity(config), Some(5));
}

#[test]
fn the_older_service_gets_an_address_that_two_want_and_the_other_is_told() {
    let spec = "type: LoadBalancer, loadBalancerIP: 192.0.2.1, ports: [{port: 80}]";
    let young = service("a", ", creationTimestamp: '2026-01-02T00:00:00Z'", spec);
    let old = service("b", ", creationTimestamp: '2026-01-01T00:00:00Z'", spec);
    let outcome = compile(balanced_only(), &(young + &old));
    assert_eq!(outcome.binds, ["tcp://192.0.2.1:80 -> default/b:80/tcp"]);
    assert!(outcome.told.contains(&"Service default/a spec.ports Conflict".to_owned()), "{:?}", outcome.told);
}

#[test]
fn a_service_that_goes_leaves_nothing() {
    let mut index = Index::new();
    let mut compiler = Compiler::new(settings(all_kinds()));
    let change = common::apply(&mut index, "f.yaml", &web("", ", clusterIP: 10.96.0.9"));
    assert_eq!(outcome(&mut compiler, &index, &change).binds.len(), 3);
    let reference = ObjectRef { kind: Kind::Service, namespace: "default".into(), name: "web".into() };
    let change = index.apply(Event::Delete(reference));
    let outcome = outcome(&mut compiler, &index, &change);
    assert!(outcome.binds.is_empty() && outcome.told.is_empty());
    assert_eq!(outcome.table.routes.iter().count() + outcome.table.backends.iter().count(), 0);
}

#[test]
fn an_endpoint_costs_the_backends_of_its_service_and_no_bind() {
    let mut index = Index::new();
    let mut compiler = Compiler::new(settings(all_kinds()));
    let change = common::apply(&mut index, "f.yaml", &web("", ""));
    let before = outcome(&mut compiler, &index, &change).table;
    let change = common::apply(
        &mut index,
        "f.yaml",
        &slice("web", "{name: '', port: 8080}", "{addresses: [10.0.0.9]}"),
    );
    let after = outcome(&mut compiler, &index, &change).table;
    assert_eq!(endpoints(&after, "default/web:80/tcp"), ["10.0.0.9:8080"]);
    for (slot, bind) in after.l4.iter() {
        assert!(std::sync::Arc::ptr_eq(bind, before.l4.at(slot).unwrap()));
    }
}

#[test]
fn a_bad_line_of_a_map_costs_only_itself() {
    let map =
        ServiceSettings { tcp_map: Some(("ingress".into(), "tcp".into())), ..ServiceSettings::default() };
    let text = format!(
        "{}---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: tcp, namespace: ingress}}\ndata:\n  \
         '9000': default/web:80\n  '9001': default/web:80:PROXY\n  '9002': default/web:80::PROXY\n  \
         '9003': web\n  x: default/web:80\n  '9004': default/none:80\n  '9005': default/web:81\n  \
         '9006': default/web:http:PROXY:NO\n  '70000': default/web:80\n",
        web("", "")
    );
    let outcome = compile(map, &text);
    let v4: Vec<&String> = outcome.binds.iter().filter(|bind| bind.contains("0.0.0.0")).collect();
    assert_eq!(
        v4,
        [
            "tcp://0.0.0.0:9000 -> default/web:80/tcp",
            "tcp://0.0.0.0:9001 -> default/web:80/tcp",
            "tcp://0.0.0.0:9002 -> default/web:80/tcp",
            "tcp://0.0.0.0:9004 -> Err(BackendNotFound)",
            "tcp://0.0.0.0:9005 -> Err(BackendNotFound)",
        ]
    );
    let policy = |port: u16| {
        let policy = &bind(&outcome.table, &format!("tcp://0.0.0.0:{port}")).policy;
        serde_json::json!([policy.proxy_protocol_in, policy.proxy_protocol_out]).to_string()
    };
    assert_eq!(policy(9000), r#"["none","none"]"#);
    assert!(policy(9001).contains("required") && policy(9001).contains("none"), "{}", policy(9001));
    assert_eq!(policy(9002), r#"["none","v1"]"#);
    let told: Vec<&str> =
        outcome.told.iter().map(|told| told.trim_start_matches("ConfigMap ingress/tcp ")).collect();
    assert_eq!(
        told,
        [
            "data[70000] InvalidLine",
            "data[9003] InvalidLine",
            "data[9004] ServiceNotFound",
            "data[9005] PortNotFound",
            "data[9006] InvalidLine",
            "data[x] InvalidLine"
        ]
    );
}

#[test]
fn a_map_follows_the_services_that_it_names() {
    let map =
        ServiceSettings { tcp_map: Some(("default".into(), "tcp".into())), ..ServiceSettings::default() };
    let mut index = Index::new();
    let mut compiler = Compiler::new(settings(map));
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: tcp}\ndata: {'9000': 'default/web:80'}\n";
    let change = common::apply(&mut index, "map.yaml", text);
    assert!(outcome(&mut compiler, &index, &change).binds[0].contains("BackendNotFound"));
    let change = common::apply(&mut index, "web.yaml", &web("", ""));
    let outcome = outcome(&mut compiler, &index, &change);
    assert_eq!(outcome.binds[0], "tcp://0.0.0.0:9000 -> default/web:80/tcp");
    assert!(outcome.told.is_empty());
}

/// A LoadBalancer Service of `namespace`, made at `hour`, that asks for 192.0.2.1.
fn asking(namespace: &str, name: &str, hour: u32, port: u16) -> String {
    let meta = format!(", namespace: {namespace}, creationTimestamp: '2026-01-01T{hour:02}:00:00Z'");
    let ports = format!("type: LoadBalancer, loadBalancerIP: 192.0.2.1, ports: [{{port: {port}}}]");
    service(name, &meta, &ports)
}

#[test]
fn no_service_takes_a_port_of_ingresses_on_one_address() {
    let text = asking("default", "thief", 1, 8080) + &asking("default", "honest", 2, 8081);
    let mut index = Index::new();
    let change = common::apply(&mut index, "f.yaml", &text);
    let http = Some("0.0.0.0:8080".parse().unwrap());
    let mut compiler = Compiler::new(Settings { http, ..settings(balanced_only()) });
    let outcome = outcome(&mut compiler, &index, &change);
    assert_eq!(outcome.binds, ["tcp://192.0.2.1:8081 -> default/honest:8081/tcp"]);
    assert!(
        outcome.told.contains(&"Service default/thief spec.ports Conflict".to_owned()),
        "{:?}",
        outcome.told
    );
}

#[test]
fn a_port_of_all_addresses_is_not_taken_by_a_younger_service_on_one_of_them() {
    let node = |hour: u32| {
        let meta = format!(", creationTimestamp: '2026-01-01T{hour:02}:00:00Z'");
        service("node", &meta, "type: NodePort, ports: [{port: 80, nodePort: 30080}]")
    };
    let both = || ServiceSettings { cluster_ip: false, ..all_kinds() };
    let one = asking("default", "one", 5, 30080);
    let all = "tcp://0.0.0.0:30080 -> default/node:80/tcp".to_owned();
    let binds = compile(both(), &(node(1) + &one)).binds;
    assert!(binds.contains(&all) && !binds.iter().any(|bind| bind.contains("192.0.2.1")), "{binds:?}");
    let binds = compile(both(), &(node(9) + &one)).binds;
    assert!(binds.contains(&all) && binds.iter().any(|bind| bind.contains("192.0.2.1")), "{binds:?}");

    let (mut index, mut compiler) = (Index::new(), Compiler::new(settings(both())));
    let change = common::apply(&mut index, "f.yaml", &(node(1) + &one));
    outcome(&mut compiler, &index, &change);
    let node = ObjectRef { kind: Kind::Service, namespace: "default".into(), name: "node".into() };
    let change = index.apply(Event::Delete(node));
    let binds = outcome(&mut compiler, &index, &change).binds;
    assert_eq!(binds, ["tcp://192.0.2.1:30080 -> default/one:30080/tcp"]);
}

#[test]
fn an_address_is_shared_within_a_namespace_only() {
    let text = asking("a", "first", 1, 80) + &asking("a", "second", 2, 81) + &asking("b", "other", 3, 82);
    let (mut index, mut compiler) = (Index::new(), Compiler::new(settings(balanced_only())));
    let change = common::apply(&mut index, "f.yaml", &text);
    let found = outcome(&mut compiler, &index, &change);
    assert_eq!(
        found.binds,
        ["tcp://192.0.2.1:80 -> a/first:80/tcp", "tcp://192.0.2.1:81 -> a/second:81/tcp"]
    );
    assert!(found.told.contains(&"Service b/other spec.ports Conflict".to_owned()), "{:?}", found.told);
    let mut change = Change::default();
    for name in ["first", "second"] {
        let reference = ObjectRef { kind: Kind::Service, namespace: "a".into(), name: name.into() };
        change.merge(index.apply(Event::Delete(reference)));
    }
    let found = outcome(&mut compiler, &index, &change);
    assert_eq!(found.binds, ["tcp://192.0.2.1:82 -> b/other:82/tcp"]);
}

#[test]
fn a_port_that_a_stranger_asked_for_first_is_its_owners() {
    let text = asking("a", "first", 1, 443) + &asking("b", "stranger", 2, 80) + &asking("a", "late", 3, 80);
    let found = compile(balanced_only(), &text);
    assert_eq!(
        found.binds,
        ["tcp://192.0.2.1:443 -> a/first:443/tcp", "tcp://192.0.2.1:80 -> a/late:80/tcp"]
    );
    assert_eq!(found.told.iter().filter(|told| told.ends_with("Conflict")).count(), 1, "{:?}", found.told);
    assert!(found.told.contains(&"Service b/stranger spec.ports Conflict".to_owned()), "{:?}", found.told);
}

#[test]
fn a_service_asks_for_eight_addresses_at_most() {
    let many: Vec<String> = (1..=9).map(|host| format!("198.51.100.{host}")).collect();
    let annotation = format!(", annotations: {{sluicegate.dev/load-balancer-ips: '{}'}}", many.join(","));
    let outcome = compile(balanced_only(), &web(&annotation, ""));
    assert_eq!(outcome.binds.len(), 8);
    assert!(outcome.told.iter().any(|told| told.ends_with("TooManyAddresses")), "{:?}", outcome.told);
}
