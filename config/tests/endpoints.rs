//! Which endpoints of a Service get requests: readiness, topology, families of addresses, kinds of Services.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failure is a failed test")]

mod common;

use std::net::IpAddr;

use common::{get, route};
use config::compile::{Compiler, EndpointSettings, Settings};
use config::index::{Change, Event, Index};
use config::table::{BackendProtocol, RouteTable};

/// An Ingress for `a.test` whose backend is port `port` of Service `s`.
fn ingress(port: &str) -> String {
    format!(
        "{{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {{name: i}}, spec: {{rules: [{{host: a.test, http: \
         {{paths: [{{path: /, pathType: Prefix, backend: {{service: {{name: s, port: {{{port}}}}}}}}}]}}}}]}}}}\n---\n"
    )
}

fn service(spec: &str) -> String {
    annotated("", spec)
}

fn annotated(annotations: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: s, annotations: {{{annotations}}}}}, spec: {{{spec}}}}}\n---\n"
    )
}

fn slice(name: &str, endpoints: &[&str]) -> String {
    slice_of(name, "IPv4", "{name: http, port: 8080}", endpoints)
}

fn slice_of(name: &str, family: &str, ports: &str, endpoints: &[&str]) -> String {
    format!(
        "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: {name}, labels: \
         {{kubernetes.io/service-name: s}}}}, addressType: {family}, ports: [{ports}], endpoints: [{}]}}\n---\n",
        endpoints.join(", ")
    )
}

/// An address of the gateway itself, which listens on port 80.
const SERVER: &str = "10.96.0.1";

const PORTS: &str = "ports: [{name: http, port: 80, targetPort: web}]";

fn here() -> EndpointSettings {
    EndpointSettings { node: Some("n1".into()), zone: Some("z1".into()), ..EndpointSettings::default() }
}

/// What came of one compile.
struct Outcome {
    /// Addresses of the one backend, or what the request gets instead.
    used: Vec<String>,
    left_out: Vec<String>,
    told: Vec<String>,
}

fn compile(endpoints: EndpointSettings, text: &str) -> Outcome {
    let mut index = Index::new();
    let change = common::apply(&mut index, "f.yaml", text);
    let mut compiler = Compiler::new(Settings { endpoints, ..Settings::default() });
    outcome(&mut compiler, &index, &change)
}

fn outcome(compiler: &mut Compiler, index: &Index, change: &Change) -> Outcome {
    let (table, report) = compiler.compile(index, change, common::NOW);
    let backend = table.backends.iter().next().map(|(_, backend)| backend);
    let used = match backend {
        Some(backend) => backend.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect(),
        None => vec![route(&table, &get("a.test", "/"))],
    };
    let left_out = backend.map(|backend| compiler.left_out(index, &backend.name)).unwrap_or_default();
    let left_out = left_out.iter().map(|left| format!("{}: {}", left.address, left.why)).collect();
    let told = report.problems.iter().map(|problem| format!("{} {}", problem.object, problem.reason));
    Outcome { used, left_out, told: told.collect() }
}

fn used(endpoints: EndpointSettings, text: &str) -> Vec<String> {
    compile(endpoints, text).used
}

/// The last part of each address.
fn short(addresses: &[String]) -> Vec<&str> {
    addresses.iter().map(|address| address.rsplit_once(':').unwrap().0.rsplit_once('.').unwrap().1).collect()
}

#[test]
fn k42_k43_k44_readiness_is_what_the_conditions_say() {
    let conditions = |conditions: &str| {
        let one = format!("{{addresses: [10.0.0.1], conditions: {conditions}}}");
        let text = ingress("number: 80") + &service(PORTS) + &slice("e", &[&one]);
        let alone = !used(here(), &text).is_empty();
        let both = ingress("number: 80")
            + &service(PORTS)
            + &slice("e", &[&one, "{addresses: [10.0.0.2], conditions: {ready: true}}"]);
        (alone, used(here(), &both).len() == 2)
    };
    // alone, besides a ready one
    for (text, expected) in [
        ("{}", (true, true)),
        ("null", (true, true)),
        ("{ready: null}", (true, true)),
        ("{ready: true}", (true, true)),
        ("{ready: true, serving: true, terminating: false}", (true, true)),
        ("{ready: null, serving: false}", (true, true)),
        ("{ready: false}", (false, false)),
        ("{ready: false, serving: true}", (false, false)),
        ("{ready: false, serving: null, terminating: true}", (false, false)),
        ("{ready: false, serving: false, terminating: true}", (false, false)),
        ("{ready: false, serving: true, terminating: true}", (true, false)),
        // As the controller writes it with publishNotReadyAddresses.
        ("{ready: true, serving: true, terminating: true}", (true, true)),
    ] {
        assert_eq!(conditions(text), expected, "{text}");
    }
    let none = compile(
        here(),
        &(ingress("number: 80")
            + &service(PORTS)
            + &slice("e", &["{addresses: [10.0.0.1], conditions: {ready: false}}"])),
    );
    assert!(none.used.is_empty());
    assert_eq!(none.told, ["Service default/s NoReadyEndpoint"]);
    assert_eq!(none.left_out, ["10.0.0.1:8080: not ready"]);
}

#[test]
fn addresses_that_are_not_ready_are_published_where_the_service_says_so() {
    let endpoints = [
        "{addresses: [10.0.0.1], conditions: {ready: false}}",
        "{addresses: [10.0.0.2], conditions: {ready: false, serving: true, terminating: true}}",
        "{addresses: [10.0.0.3]}",
    ];
    let with = |spec: &str| {
        used(here(), &(ingress("number: 80") + &service(&format!("{PORTS}{spec}")) + &slice("e", &endpoints)))
    };
    assert_eq!(short(&with("")), ["3"]);
    assert_eq!(short(&with(", publishNotReadyAddresses: false")), ["3"]);
    assert_eq!(short(&with(", publishNotReadyAddresses: true")), ["1", "2", "3"]);
}

#[test]
fn k40_an_address_in_two_slices_is_one_endpoint_and_ready_if_any_says_so() {
    let not_ready = "{addresses: [10.0.0.1], conditions: {ready: false}, targetRef: {uid: u1}}";
    let terminating = "{addresses: [10.0.0.1], conditions: {ready: false, serving: true, terminating: true}}";
    let ready = "{addresses: [10.0.0.1], targetRef: {uid: u2}}";
    let other = "{addresses: [10.0.0.2]}";
    for (first, second, expected) in [
        (not_ready, ready, &["1", "2"][..]),
        (ready, not_ready, &["1", "2"]),
        (terminating, ready, &["1", "2"]),
        (ready, ready, &["1", "2"]),
        (not_ready, terminating, &["2"]),
        (not_ready, not_ready, &["2"]),
    ] {
        let text =
            ingress("number: 80") + &service(PORTS) + &slice("a", &[first]) + &slice("b", &[second, other]);
        let outcome = compile(here(), &text);
        assert_eq!(short(&outcome.used), expected, "{first} {second}");
        assert!(outcome.told.is_empty(), "{:?}", outcome.told);
    }
    // Ports differ: two endpoints.
    let text = ingress("number: 80")
        + &service(PORTS)
        + &slice("a", &[ready])
        + &slice_of("b", "IPv4", "{name: http, port: 8081}", &[ready]);
    assert_eq!(used(here(), &text), ["10.0.0.1:8080", "10.0.0.1:8081"]);
}

/// Endpoints of three zones and nodes, `more` of each with its zone for `@z` and its node for `@n`.
fn spread(more: &str) -> Vec<String> {
    let one = |n: &str| {
        let more = more.replace("@z", &format!("z{n}")).replace("@n", &format!("n{n}"));
        format!("{{addresses: [10.0.0.{n}]{more}}}")
    };
    ["1", "2", "3"].into_iter().map(one).collect()
}

fn among(settings: EndpointSettings, service: &str, endpoints: &[String]) -> Vec<String> {
    let endpoints: Vec<&str> = endpoints.iter().map(|endpoint| &**endpoint).collect();
    let used = used(settings, &(ingress("number: 80") + service + &slice("e", &endpoints)));
    short(&used).into_iter().map(str::to_owned).collect()
}

#[test]
fn hints_of_zones_and_nodes_are_followed_as_kube_proxy_does() {
    let all = ["1", "2", "3"];
    let zones = spread(", hints: {forZones: [{name: @z}]}");
    let nodes = spread(", hints: {forNodes: [{name: @n}], forZones: [{name: @z}, {name: z1}]}");
    let plain = service(PORTS);
    assert_eq!(among(here(), &plain, &zones), ["1"]);
    assert_eq!(among(here(), &plain, &nodes), ["1"]);
    let in_zone = |zone: Option<&str>| EndpointSettings { zone: zone.map(Into::into), ..here() };
    assert_eq!(among(in_zone(Some("z2")), &plain, &zones), ["2"]);
    // Nobody is meant for us, or we do not know where we are.
    assert_eq!(among(in_zone(Some("z9")), &plain, &zones), all);
    assert_eq!(among(in_zone(Some("")), &plain, &zones), all);
    assert_eq!(among(in_zone(None), &plain, &zones), all);
    // No endpoint for this node: those for its zone.
    let other_node = EndpointSettings { node: Some("n9".into()), ..here() };
    assert_eq!(among(other_node, &plain, &nodes), all);
    let other_node = EndpointSettings { node: None, ..in_zone(Some("z2")) };
    assert_eq!(among(other_node, &plain, &nodes), ["2"]);
    // One ready endpoint without a hint, and all hints are off.
    let mut partly = zones.clone();
    partly[2] = "{addresses: [10.0.0.3]}".to_owned();
    assert_eq!(among(here(), &plain, &partly), all);
    partly[2] = "{addresses: [10.0.0.3], hints: {forZones: []}}".to_owned();
    assert_eq!(among(here(), &plain, &partly), all);
    // One that is not ready needs none.
    partly[2] = "{addresses: [10.0.0.3], conditions: {ready: false}}".to_owned();
    assert_eq!(among(here(), &plain, &partly), ["1"]);
    // That ours are not ready is as if nobody were meant for us.
    let mut ours_gone = zones.clone();
    ours_gone[0] = ours_gone[0].replace(", hints", ", conditions: {ready: false}, hints");
    assert_eq!(among(here(), &plain, &ours_gone), ["2", "3"]);
    // The operator of the Service wants none of it.
    for key in ["topology-mode", "topology-aware-hints"] {
        let off = annotated(&format!("service.kubernetes.io/{key}: Disabled"), PORTS);
        assert_eq!(among(here(), &off, &zones), all);
        let auto = annotated(&format!("service.kubernetes.io/{key}: Auto"), PORTS);
        assert_eq!(among(here(), &auto, &zones), ["1"]);
    }
}

#[test]
fn traffic_distribution_goes_by_place_where_nobody_writes_hints() {
    let all = ["1", "2", "3"];
    let placed = spread(", zone: @z, nodeName: @n");
    let wants = |distribution: &str| service(&format!("{PORTS}, trafficDistribution: {distribution}"));
    assert_eq!(among(here(), &service(PORTS), &placed), all);
    assert_eq!(among(here(), &wants("PreferClose"), &placed), ["1"]);
    assert_eq!(among(here(), &wants("PreferSameZone"), &placed), ["1"]);
    assert_eq!(among(here(), &wants("PreferSameNode"), &placed), ["1"]);
    let elsewhere = EndpointSettings { node: Some("n9".into()), zone: Some("z2".into()), ..here() };
    assert_eq!(among(elsewhere.clone(), &wants("PreferSameNode"), &placed), ["2"]);
    let nowhere = EndpointSettings { node: None, zone: None, ..here() };
    for distribution in ["PreferSameZone", "PreferSameNode"] {
        assert_eq!(among(nowhere.clone(), &wants(distribution), &placed), all);
        // Hints that somebody writes go before it.
        let hinted = spread(", zone: @z, nodeName: @n, hints: {forZones: [{name: z2}, {name: z1}]}");
        assert_eq!(among(elsewhere.clone(), &wants(distribution), &hinted), all);
        // As with hints, one whose place is unknown would get nothing.
        let mut partly = placed.clone();
        partly[2] = "{addresses: [10.0.0.3]}".to_owned();
        assert_eq!(among(here(), &wants(distribution), &partly), all);
    }
    // A value of a newer version has no effect, and is told.
    let endpoints: Vec<&str> = placed.iter().map(|endpoint| &**endpoint).collect();
    let text = ingress("number: 80") + &wants("PreferSameRack") + &slice("e", &endpoints);
    let outcome = compile(here(), &text);
    assert_eq!(short(&outcome.used), all);
    assert_eq!(outcome.told, ["Service default/s UnknownValue"]);
}

#[test]
fn terminating_endpoints_stand_in_whatever_their_zone() {
    let endpoints = spread(
        ", conditions: {ready: false, serving: true, terminating: true}, hints: {forZones: [{name: @z}]}",
    );
    assert_eq!(among(here(), &service(PORTS), &endpoints), ["1", "2", "3"]);
}

#[test]
fn a_zone_that_becomes_known_changes_the_endpoints() {
    let mut index = Index::new();
    let zones = spread(", hints: {forZones: [{name: @z}]}");
    let zones: Vec<&str> = zones.iter().map(|endpoint| &**endpoint).collect();
    let text = ingress("number: 80") + &service(PORTS) + &slice("e", &zones);
    let change = common::apply(&mut index, "f.yaml", &text);
    let mut compiler = Compiler::new(Settings::default());
    assert_eq!(short(&outcome(&mut compiler, &index, &change).used), ["1", "2", "3"]);
    let change = index.apply(Event::Zone(Some("z3".into())));
    assert_eq!(short(&outcome(&mut compiler, &index, &change).used), ["3"]);
    assert!(index.apply(Event::Zone(Some("z3".into()))).is_empty());
    let change = index.apply(Event::Zone(None));
    assert_eq!(short(&outcome(&mut compiler, &index, &change).used), ["1", "2", "3"]);
    // What the operator says goes before what the node says.
    let endpoints = EndpointSettings { zone: Some("z1".into()), ..EndpointSettings::default() };
    let mut compiler = Compiler::new(Settings { endpoints, ..Settings::default() });
    index.apply(Event::Zone(Some("z3".into())));
    assert_eq!(short(&outcome(&mut compiler, &index, &Change::default()).used), ["1"]);
}

#[test]
fn each_endpoint_that_is_left_out_is_explained() {
    let text = ingress("number: 80")
        + &service(PORTS)
        + &slice(
            "e",
            &[
                "{addresses: [10.0.0.1], targetRef: {uid: u1}, hints: {forZones: [{name: z1}]}}",
                "{addresses: [10.0.0.2], zone: z2, nodeName: n2, hints: {forZones: [{name: z2}]}}",
                "{addresses: [10.0.0.3], conditions: {ready: false}}",
                "{addresses: [10.0.0.4], conditions: {ready: false, serving: true, terminating: true}}",
            ],
        )
        + &slice_of(
            "v6",
            "IPv6",
            "{name: http, port: 8080}",
            &["{addresses: ['fd00::1'], targetRef: {uid: u1}}"],
        );
    let outcome = compile(here(), &text);
    assert_eq!(short(&outcome.used), ["1"]);
    assert_eq!(
        outcome.left_out,
        [
            "10.0.0.2:8080: others are preferred here by topology (it is in zone z2, on node n2)",
            "10.0.0.3:8080: not ready",
            "10.0.0.4:8080: terminating, and others are ready",
            "[fd00::1]:8080: the same Pod is used by its address of the other family",
        ]
    );
}

#[test]
fn k51_of_two_families_the_one_that_can_be_reached_is_used() {
    let v4 = slice(
        "a",
        &["{addresses: [10.0.0.1], targetRef: {uid: u1}}", "{addresses: [10.0.0.2], targetRef: {uid: u2}}"],
    );
    let v6 = |state: &str| {
        slice_of(
            "b",
            "IPv6",
            "{name: http, port: 8080}",
            &[
                &format!("{{addresses: ['fd00::1'], targetRef: {{uid: u1}}{state}}}"),
                "{addresses: ['fd00::9']}",
            ],
        )
    };
    let only = |ipv4, ipv6| EndpointSettings { ipv4, ipv6, ..here() };
    let both = ingress("number: 80") + &service(PORTS) + &v4 + &v6("");
    let (first, second, sixth, ninth) =
        ("10.0.0.1:8080", "10.0.0.2:8080", "[fd00::1]:8080", "[fd00::9]:8080");
    // A Pod with both addresses is one endpoint; by the first family of the Service.
    assert_eq!(used(here(), &both), [first, second, ninth]);
    let primary =
        ingress("number: 80") + &service(&format!("{PORTS}, ipFamilies: [IPv6, IPv4]")) + &v4 + &v6("");
    assert_eq!(used(here(), &primary), [second, sixth, ninth]);
    // Its other address is ready earlier.
    let half = ingress("number: 80")
        + &service(&format!("{PORTS}, ipFamilies: [IPv6, IPv4]"))
        + &v4
        + &v6(", conditions: {ready: false, serving: true, terminating: true}");
    assert_eq!(used(here(), &half), [first, second, ninth]);
    assert_eq!(used(only(true, false), &both), [first, second]);
    assert_eq!(used(only(true, false), &primary), [first, second]);
    assert_eq!(used(only(false, true), &both), [sixth, ninth]);
    // Nothing else is left: that the host had no address when it started may be over.
    let outcome = compile(only(true, false), &(ingress("number: 80") + &service(PORTS) + &v6("")));
    assert_eq!(outcome.used, [sixth, ninth]);
    assert_eq!(outcome.told, ["Service default/s UnreachableFamily"]);
    let outcome = compile(only(true, true), &(ingress("number: 80") + &service(PORTS) + &v6("")));
    assert!(outcome.told.is_empty(), "{:?}", outcome.told);
    // The own host is always reached.
    let own = slice_of("c", "IPv6", "{name: http, port: 8080}", &["{addresses: ['::1']}"]);
    let outcome = compile(only(true, false), &(ingress("number: 80") + &service(PORTS) + &own));
    assert_eq!((outcome.used.len(), outcome.told.len()), (1, 0));
}

#[test]
fn k48_a_named_port_has_the_number_of_each_slice() {
    let text = ingress("name: http")
        + &service(PORTS)
        + &slice_of("a", "IPv4", "{name: http, port: 8080}, {name: admin, port: 9}", &["{addresses: [10.0.0.1]}"])
        + &slice_of("b", "IPv4", "{name: admin, port: 9}, {name: http, port: 8081}", &["{addresses: [10.0.0.2]}"])
        // The port was renamed here, or is not there yet.
        + &slice_of("c", "IPv4", "{name: web, port: 8082}", &["{addresses: [10.0.0.3]}"])
        // A slice of all ports, which cannot know the number of a name.
        + &slice_of("d", "IPv4", "{name: http}", &["{addresses: [10.0.0.4]}"]);
    assert_eq!(used(here(), &text), ["10.0.0.1:8080", "10.0.0.2:8081"]);
    let numbered = text.replace("targetPort: web", "targetPort: 7000");
    assert_eq!(used(here(), &numbered), ["10.0.0.1:8080", "10.0.0.2:8081", "10.0.0.4:7000"]);
    let only_renamed = ingress("name: http")
        + &service(PORTS)
        + &slice_of("c", "IPv4", "{name: web, port: 8082}", &["{addresses: [10.0.0.3]}"]);
    let outcome = compile(here(), &only_renamed);
    assert!(outcome.used.is_empty());
    assert_eq!(outcome.told, ["Service default/s NoEndpointPort"]);
}

#[test]
fn k49_a_port_that_the_service_has_not_is_answered_503_and_told() {
    for port in ["number: 8080", "number: 81", "name: web", "name: HTTP"] {
        let text = ingress(port) + &service(PORTS) + &slice("e", &["{addresses: [10.0.0.1]}"]);
        let outcome = compile(here(), &text);
        assert_eq!(outcome.used, ["unavailable BackendNotFound"], "{port}");
        assert_eq!(outcome.told, ["Ingress default/i BackendNotFound"], "{port}");
    }
}

#[test]
fn k52_services_of_every_kind_lead_to_their_endpoints() {
    let endpoints = slice("e", &["{addresses: [10.0.0.1]}", "{addresses: [10.0.0.2]}"]);
    for spec in [
        // Headless, with and without a selector: the numbers are those of the slices.
        "clusterIP: None, selector: {app: x}, ports: [{name: http, port: 80, targetPort: 8080}]",
        "clusterIP: None, ports: [{name: http, port: 80}]",
        // Without a selector: somebody wrote the slices.
        "ports: [{name: http, port: 80}]",
        "clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1], ports: [{name: http, port: 80}]",
        "type: NodePort, ports: [{name: http, port: 80, nodePort: 30080}]",
        "type: LoadBalancer, loadBalancerClass: x/y, ports: [{name: http, port: 80, targetPort: web}]",
        "type: SomethingNew, ports: [{name: http, port: 80}]",
        "internalTrafficPolicy: Local, ports: [{name: http, port: 80}]",
    ] {
        let outcome = compile(here(), &(ingress("number: 80") + &service(spec) + &endpoints));
        assert_eq!(outcome.used, ["10.0.0.1:8080", "10.0.0.2:8080"], "{spec}");
        assert!(outcome.told.is_empty(), "{spec} {:?}", outcome.told);
    }
    let outcome = compile(here(), &(ingress("number: 80") + &service(PORTS)));
    assert!(outcome.used.is_empty());
    assert_eq!(outcome.told, ["Service default/s NoEndpointSlice"]);
    // As the controller writes them for a Service without Pods.
    let empty =
        slice("e", &[]).replace("endpoints: []", "endpoints: null").replace("{name: http, port: 8080}", "");
    let outcome = compile(here(), &(ingress("number: 80") + &service(PORTS) + &empty));
    assert_eq!(outcome.told, ["Service default/s NoEndpointPort"]);
    // A headless Service may have no port at all, and then nothing can name one.
    let outcome = compile(here(), &(ingress("number: 80") + &service("clusterIP: None") + &endpoints));
    assert_eq!(outcome.used, ["unavailable BackendNotFound"]);
}

fn protocol(app_protocol: &str) -> (BackendProtocol, bool, Vec<String>) {
    let spec = format!("ports: [{{name: http, port: 80, appProtocol: {app_protocol}}}]");
    let text = ingress("number: 80") + &service(&spec) + &slice("e", &["{addresses: [10.0.0.1]}"]);
    let (table, report) = common::compile(&text);
    let policy = policy(&table);
    let told = report.problems.iter().map(|problem| problem.reason.to_owned()).collect();
    (policy.0, policy.1, told)
}

fn policy(table: &RouteTable) -> (BackendProtocol, bool) {
    let policy = &table.backends.iter().next().unwrap().1.policy;
    (policy.protocol, policy.tls.is_some())
}

#[test]
fn k50_the_protocol_is_what_app_protocol_says() {
    use BackendProtocol::{Http1, Http2};
    for (text, wire, is_encrypted) in [
        ("http", Http1, false),
        ("HTTP", Http1, false),
        ("kubernetes.io/ws", Http1, false),
        ("https", Http1, true),
        ("kubernetes.io/wss", Http1, true),
        ("kubernetes.io/h2c", Http2, false),
        ("grpc", Http2, false),
    ] {
        assert_eq!(protocol(text), (wire, is_encrypted, vec![]), "{text}");
    }
    for unknown in ["tcp", "mongodb", "example.com/custom", "kubernetes.io/h3"] {
        assert_eq!(protocol(unknown), (Http1, false, vec!["UnknownProtocol".to_owned()]), "{unknown}");
    }
    // Nobody is told of what no rule uses, nor of what an annotation decides.
    let odd = "ports: [{name: http, port: 80, appProtocol: tcp}]";
    let outcome = compile(here(), &service(odd));
    assert!(outcome.told.is_empty(), "{:?}", outcome.told);
    let decided = annotated("sluicegate.dev/backend-protocol: H2C", odd);
    let outcome =
        compile(here(), &(ingress("number: 80") + &decided + &slice("e", &["{addresses: [10.0.0.1]}"])));
    assert!(outcome.told.is_empty(), "{:?}", outcome.told);
    // A change is a change of the backend, whose connections are others then.
    let mut index = Index::new();
    let text = |app_protocol: &str| {
        service(&format!("ports: [{{name: http, port: 80, appProtocol: {app_protocol}}}]"))
    };
    common::apply(&mut index, "f.yaml", &(ingress("number: 80") + &text("http")));
    let mut compiler = Compiler::new(Settings::default());
    let (table, _) = compiler.compile(&index, &Change::default(), common::NOW);
    assert_eq!(policy(&table), (Http1, false));
    for (next, expected) in
        [("kubernetes.io/h2c", (Http2, false)), ("https", (Http1, true)), ("x", (Http1, false))]
    {
        let change = common::apply(&mut index, "f.yaml", &text(next));
        let (table, _) = compiler.compile(&index, &change, common::NOW);
        assert_eq!(policy(&table), expected, "{next}");
    }
}

#[test]
fn a_service_may_be_reached_by_its_own_address() {
    let upstream = "sluicegate.dev/service-upstream: 'true'";
    let endpoints = slice("e", &["{addresses: [10.0.0.1]}"]);
    let with = |spec: &str, settings| {
        compile(settings, &(ingress("number: 80") + &annotated(upstream, spec) + &endpoints))
    };
    let dual = format!("{PORTS}, clusterIP: 10.96.0.7, clusterIPs: [10.96.0.7, 'fd00:96::7']");
    for (spec, expected) in [
        (format!("{PORTS}, clusterIP: 10.96.0.7"), "10.96.0.7:80"),
        (dual.clone(), "10.96.0.7:80"),
        (
            format!("{PORTS}, clusterIP: 'fd00:96::7', clusterIPs: ['fd00:96::7', 10.96.0.7]"),
            "[fd00:96::7]:80",
        ),
    ] {
        let outcome = with(&spec, here());
        assert_eq!((outcome.used, outcome.told), (vec![expected.to_owned()], vec![]), "{spec}");
    }
    assert_eq!(with(&dual, EndpointSettings { ipv4: false, ..here() }).used, ["[fd00:96::7]:80"]);
    // Without an address of its own it is as without the annotation, which is told.
    for spec in [format!("{PORTS}, clusterIP: None, clusterIPs: [None]"), PORTS.to_owned()] {
        let outcome = with(&spec, here());
        assert_eq!(outcome.used, ["10.0.0.1:8080"], "{spec}");
        assert_eq!(outcome.told, ["Service default/s NoClusterIP"], "{spec}");
    }
    // On the Ingress, for its own backend, and against what the Service says.
    let spec = format!("{PORTS}, clusterIP: 10.96.0.7");
    let on_ingress = |value: &str, own: &str| {
        let ingress = ingress("number: 80").replacen(
            "metadata: {",
            &format!("metadata: {{annotations: {{sluicegate.dev/service-upstream: '{value}'}}, "),
            1,
        );
        used(here(), &(ingress + &annotated(own, &spec) + &endpoints))
    };
    assert_eq!(on_ingress("true", ""), ["10.96.0.7:80"]);
    assert_eq!(on_ingress("false", upstream), ["10.0.0.1:8080"]);
}

/// An ExternalName Service with these further fields, resolved to `addresses`.
fn external(settings: EndpointSettings, port: &str, more: &str, addresses: &[&str]) -> Outcome {
    let mut index = Index::new();
    let spec = format!("type: ExternalName, externalName: Api.Example.com{more}");
    let mut change = common::apply(&mut index, "f.yaml", &(ingress(port) + &service(&spec)));
    change.merge(index.apply(Event::Refused(vec![(SERVER.parse::<IpAddr>().unwrap(), 80).into()])));
    let mut compiler = Compiler::new(Settings { endpoints: settings, ..Settings::default() });
    compiler.compile(&index, &Change::default(), common::NOW);
    for name in compiler.dns_names() {
        assert_eq!(&*name, "api.example.com.");
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        change.merge(index.apply(Event::Resolved { name, addresses }));
    }
    outcome(&mut compiler, &index, &change)
}

#[test]
fn k52_an_external_name_leads_to_what_it_resolves_to() {
    let one = ["203.0.113.7"];
    // The port of the Service, or, where it has none, that of the Ingress.
    assert_eq!(external(here(), "number: 8443", "", &one).used, ["203.0.113.7:8443"]);
    assert_eq!(external(here(), "number: 80", ", ports: [{port: 80}]", &one).used, ["203.0.113.7:80"]);
    assert_eq!(
        external(here(), "name: web", ", ports: [{name: web, port: 81}]", &one).used,
        ["203.0.113.7:81"]
    );
    assert_eq!(external(here(), "name: web", "", &one).used, ["unavailable BackendNotFound"]);
    let outcome = external(here(), "number: 80", "", &["203.0.113.7", "203.0.113.8", "2001:db8::1"]);
    assert_eq!(outcome.used, ["203.0.113.7:80", "203.0.113.8:80", "[2001:db8::1]:80"]);
    let outcome = external(here(), "number: 80", "", &[]);
    assert!(outcome.used.is_empty());
    assert_eq!(outcome.told, ["Service default/s Unresolved"]);
    // The operator may want none of them.
    let off = EndpointSettings { external_names: false, ..here() };
    let outcome = external(off, "number: 80", "", &one);
    assert_eq!(outcome.used, ["unavailable InvalidSetting"]);
    assert_eq!(outcome.told, ["Ingress default/i ExternalName"]);
}

#[test]
fn l60_an_external_name_never_leads_to_the_own_host_metadata_or_the_api_server() {
    for refused in [
        "127.0.0.1",
        "169.254.169.254",
        "fd00:ec2::254",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::",
        "0.0.0.0",
        "::",
        "224.0.0.1",
        SERVER,
        "::ffff:10.96.0.1",
    ] {
        let outcome = external(here(), "number: 80", "", &[refused, "203.0.113.7"]);
        assert_eq!(outcome.used, ["203.0.113.7:80"], "{refused}");
        assert_eq!(outcome.told, ["Service default/s RefusedAddress"], "{refused}");
        assert_eq!(outcome.left_out.len(), 1, "{refused}");
    }
    for name in [
        "localhost",
        "x.localhost",
        "LOCALHOST.",
        "ip6-localhost",
        "metadata.google.internal",
        "metadata.google.internal.",
        "metadata",
        "instance-data.ec2.internal",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "169.254.169.254",
        "127.0.0.1",
        "::1",
    ] {
        let text = ingress("number: 80") + &service(&format!("type: ExternalName, externalName: '{name}'"));
        let outcome = compile(here(), &text);
        assert_eq!(outcome.used, ["unavailable InvalidSetting"], "{name}");
        assert_eq!(outcome.told, ["Service default/s InvalidExternalName"], "{name}");
    }
}

/// A gateway whose EndpointSlices are written by others.
fn shared() -> EndpointSettings {
    EndpointSettings { is_shared: true, ..here() }
}

/// Service `s` with an endpoint at each of `addresses`, port 8080, where the gateway listens on `own`.
fn at(settings: EndpointSettings, own: &[&str], spec: &str, addresses: &[&str]) -> Outcome {
    let endpoints = |family: &str, is_v6: bool| {
        let all = addresses.iter().filter(|address| address.contains(':') == is_v6);
        let all: Vec<String> = all.map(|address| format!("{{addresses: ['{address}']}}")).collect();
        let all: Vec<&str> = all.iter().map(|one| &**one).collect();
        slice_of(&family.to_lowercase(), family, "{name: http, port: 8080}", &all)
    };
    let text = ingress("number: 80") + &service(spec) + &endpoints("IPv4", false) + &endpoints("IPv6", true);
    let mut index = Index::new();
    let mut change = common::apply(&mut index, "f.yaml", &text);
    let own = own.iter().map(|address| address.parse().unwrap()).collect();
    change.merge(index.apply(Event::Refused(own)));
    let mut compiler = Compiler::new(Settings { endpoints: settings, ..Settings::default() });
    outcome(&mut compiler, &index, &change)
}

#[test]
fn endpoint_of_a_cluster_is_never_the_own_host_its_link_or_a_metadata_service() {
    for refused in [
        "127.0.0.1",
        "127.8.8.8",
        "0.0.0.0",
        "169.254.169.254",
        "169.254.1.1",
        "100.100.100.200",
        "168.63.129.16",
        "224.0.0.1",
        "239.255.255.250",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "ff02::1",
        "fd00:ec2::254",
        "::ffff:127.0.0.1",
        "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::1",
    ] {
        let outcome = at(shared(), &[], PORTS, &[refused, "10.0.0.1"]);
        assert_eq!(outcome.used, ["10.0.0.1:8080"], "{refused}");
        assert_eq!(outcome.told, ["Service default/s RefusedAddress"], "{refused}");
        assert_eq!(outcome.left_out.len(), 1, "{refused}");
        assert!(outcome.left_out[0].ends_with(": refused"), "{:?}", outcome.left_out);
        // That it is not ready yet, or that all are published, makes no difference.
        let outcome = at(shared(), &[], &format!("{PORTS}, publishNotReadyAddresses: true"), &[refused]);
        assert!(outcome.used.is_empty(), "{refused}");
        assert_eq!(outcome.told, ["Service default/s RefusedAddress"], "{refused}");
    }
    // In files, everything is the operator's own.
    let outcome = at(here(), &["10.0.0.2:8080"], PORTS, &["127.0.0.1", "10.0.0.2"]);
    assert_eq!(outcome.used, ["10.0.0.2:8080", "127.0.0.1:8080"]);
    assert!(outcome.told.is_empty());
}

#[test]
fn endpoint_of_a_cluster_is_never_a_listener_of_the_gateway_and_may_be_its_node() {
    let own = ["10.0.0.1:8080", "10.0.0.2:9901", "[fd01::1]:8080"];
    let found = at(shared(), &own, PORTS, &["10.0.0.1", "10.0.0.2", "fd01::1", "fd01::2"]);
    assert_eq!(found.used, ["10.0.0.2:8080", "[fd01::2]:8080"]);
    assert_eq!(found.told, ["Service default/s RefusedAddress"]);
    // Translated on its way (RFC 6052), it would be just that listener.
    let found = at(shared(), &own, PORTS, &["64:ff9b::a00:1", "64:ff9b::a00:2"]);
    assert_eq!(found.used, ["[64:ff9b::a00:2]:8080"]);
    assert_eq!(found.told, ["Service default/s RefusedAddress"]);
    let upstream = |own: &[&str]| {
        let text = ingress("number: 80")
            + &annotated(
                "sluicegate.dev/service-upstream: 'true'",
                &format!("{PORTS}, clusterIP: 10.96.0.7"),
            )
            + &slice("e", &["{addresses: [10.0.0.1]}"]);
        let mut index = Index::new();
        let mut change = common::apply(&mut index, "f.yaml", &text);
        change.merge(index.apply(Event::Refused(own.iter().map(|one| one.parse().unwrap()).collect())));
        let mut compiler = Compiler::new(Settings { endpoints: shared(), ..Settings::default() });
        outcome(&mut compiler, &index, &change)
    };
    assert_eq!(upstream(&["10.96.0.7:443"]).used, ["10.96.0.7:80"]);
    let refused = upstream(&["10.96.0.7:80"]);
    assert!(refused.used.is_empty(), "{:?}", refused.used);
    assert_eq!(refused.told, ["Service default/s RefusedAddress"]);
}

#[test]
fn listeners_and_api_servers_that_come_and_go_are_refused_and_allowed() {
    let mut index = Index::new();
    let two = ["{addresses: [10.0.0.1]}", "{addresses: [10.0.0.2]}"];
    let mut change =
        common::apply(&mut index, "f.yaml", &(ingress("number: 80") + &service(PORTS) + &slice("e", &two)));
    let mut compiler = Compiler::new(Settings { endpoints: shared(), ..Settings::default() });
    let mut used = |index: &Index, change: &Change| outcome(&mut compiler, index, change).used;
    assert_eq!(used(&index, &change), ["10.0.0.1:8080", "10.0.0.2:8080"]);
    change = index.apply(Event::Refused(vec!["10.0.0.1:8080".parse().unwrap()]));
    assert_eq!(used(&index, &change), ["10.0.0.2:8080"]);
    // The slice that API servers write of themselves.
    let servers = slice("kubernetes", &["{addresses: [10.0.0.2]}"])
        .replace("service-name: s", "service-name: kubernetes");
    change = common::apply(&mut index, "g.yaml", &servers);
    assert!(used(&index, &change).is_empty());
    let reference = index.objects().find(|object| &*object.reference.name == "kubernetes");
    let reference = reference.unwrap().reference.clone();
    change = index.apply(Event::Delete(reference));
    change.merge(index.apply(Event::Refused(Vec::new())));
    assert_eq!(used(&index, &change), ["10.0.0.1:8080", "10.0.0.2:8080"]);
    assert!(index.apply(Event::Refused(Vec::new())).is_empty());
    // What is no endpoint costs nothing.
    assert!(index.apply(Event::Refused(vec!["10.0.0.9:8080".parse().unwrap()])).is_empty());
    assert!(!index.apply(Event::Refused(vec!["10.0.0.2:1".parse().unwrap()])).is_empty());
}

#[test]
fn names_that_no_backend_needs_are_not_resolved() {
    let mut index = Index::new();
    let text = service("type: ExternalName, externalName: api.example.com");
    common::apply(&mut index, "f.yaml", &text);
    let mut compiler = Compiler::new(Settings::default());
    compiler.compile(&index, &Change::default(), common::NOW);
    assert!(compiler.dns_names().is_empty());
    let change = common::apply(&mut index, "f.yaml", &ingress("number: 80"));
    compiler.compile(&index, &change, common::NOW);
    assert_eq!(compiler.dns_names().len(), 1);
    // With another kind of Service, it is no longer needed.
    let change = common::apply(&mut index, "f.yaml", &service(PORTS));
    compiler.compile(&index, &change, common::NOW);
    assert!(compiler.dns_names().is_empty());
}
