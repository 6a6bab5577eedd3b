//! What must hold for every input: the index agrees with the naive reading, an incremental compile with a full
//! one, in any order of arrival, and nothing panics.

#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::too_many_lines,
    reason = "a failure is a failed test, and a generator is a long list"
)]

mod common;

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use common::cert::{self, Pair};
use common::{get, render};
use config::compile::{Compiler, EndpointSettings, Settings};
use config::index::{Change, Event, FileContent, Index};
use config::report::{Kind, ObjectRef};
use config::table::explain::{Request, explain};
use config::table::oracle;
use proptest::prelude::*;

const HOSTS: [&str; 6] = ["", "a.test", "b.a.test", "*.test", "*.a.test", "A.test"];
const PATHS: [&str; 8] = ["/", "/a", "/a/", "/a/b", "/ab", "/a%62", "/a/b/c", "/b/"];
const TYPES: [&str; 4] = ["Exact", "Prefix", "ImplementationSpecific", "Wrong"];

/// One object of a small universe, so that they meet: which one, and which of its versions.
fn object(which: u8, version: u32) -> String {
    let pick = |shift: u32| (version >> shift) as usize;
    let service = |shift| format!("s{}", pick(shift) % 3);
    let port = |shift| ["{number: 80}", "{name: http}", "{number: 81}"][pick(shift) % 3];
    match which % 18 {
        n @ 0..=4 => {
            let path = |shift| {
                let (path, kind) = (PATHS[pick(shift) % 8], TYPES[pick(shift + 3) % 4]);
                let (service, port) = (service(shift + 5), port(shift + 7));
                format!(
                    "{{path: {path}, pathType: {kind}, backend: {{service: {{name: {service}, port: {port}}}}}}}"
                )
            };
            let host = |shift| HOSTS[pick(shift) % 6];
            let created = ["", ", creationTimestamp: \"2026-01-01T00:00:00Z\""][pick(1) % 2];
            let default = ["", "defaultBackend: {service: {name: s0, port: {number: 80}}}, "][pick(2) % 2];
            let class =
                ["", "ingressClassName: c0, ", "ingressClassName: c1, ", "ingressClassName: sluicegate, "]
                    [pick(4) % 4];
            let balance = [
                "",
                "sluicegate.dev/load-balance: least-connection",
                "sluicegate.dev/client-ca: secret/ca",
                "sluicegate.dev/client-ca: configmap/ca",
                "sluicegate.dev/ssl-passthrough: 'true'",
                "sluicegate.dev/backend-protocol: HTTPS, sluicegate.dev/backend-tls-ca: secret/ca",
                "sluicegate.dev/backend-protocol: GRPCS, sluicegate.dev/backend-tls-secret: c0",
                "sluicegate.dev/min-tls-version: '1.3'",
            ][pick(6) % 8];
            let tls = [
                "",
                "tls: [{hosts: [a.test, '*.test'], secretName: c0}], ",
                "tls: [{hosts: [x.a.test], secretName: c1}, {secretName: c0}], ",
                "tls: [{hosts: [b.a.test]}], ",
            ][pick(17) % 4];
            format!(
                "{{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {{name: i{n}{created}, annotations: {{{balance}}}}}, spec: \
                 {{{class}{tls}{default}rules: [{{host: \"{}\", http: {{paths: [{}, {}]}}}}, {{host: \"{}\"}}]}}}}",
                host(9),
                path(12),
                path(20),
                host(15),
            )
        }
        n @ 5..=7 => {
            let n = n - 5;
            let spec = [
                "ports: [{port: 80, name: http}, {port: 81, name: x}]",
                "ports: [{port: 80, name: http}]",
                "type: ExternalName, externalName: x.test",
                "ports: [{port: 80, name: http, appProtocol: https}]",
                "ports: [{port: 80, name: http}], trafficDistribution: PreferSameZone",
                "ports: [{port: 80, name: http, appProtocol: odd}], publishNotReadyAddresses: true",
                "ports: [{port: 80, name: http}], clusterIP: 10.9.9.9, ipFamilies: [IPv6]",
                "ports: [{port: 80, name: http}], clusterIP: None, trafficDistribution: PreferSameNode",
            ][pick(0) % 8];
            let annotation = [
                "",
                ", annotations: {sluicegate.dev/slow-start: 1s}",
                ", annotations: {sluicegate.dev/service-upstream: 'true'}",
                ", annotations: {service.kubernetes.io/topology-mode: Disabled}",
            ][pick(3) % 4];
            format!(
                "{{apiVersion: v1, kind: Service, metadata: {{name: s{n}{annotation}}}, spec: {{{spec}}}}}"
            )
        }
        n @ 8..=9 => {
            let endpoint = |shift| {
                let state = [
                    "",
                    ", conditions: {ready: false}",
                    ", conditions: {ready: false, serving: true, terminating: true}",
                    "",
                ];
                let place = [
                    "",
                    ", zone: z1, nodeName: n1",
                    ", zone: z2, nodeName: n2, hints: {forZones: [{name: z2}, {name: z1}]}",
                    ", hints: {forZones: [{name: z1}], forNodes: [{name: n1}]}",
                ][pick(shift + 4) % 4];
                let address = [format!("10.0.0.{}", pick(shift) % 4), format!("'fd00::{}'", pick(shift) % 2)];
                let address = &address[usize::from(pick(shift + 6) % 4 == 0)];
                let pod = pick(shift + 7) % 3;
                let state = state[pick(shift + 2) % 4];
                format!("{{addresses: [{address}]{state}{place}, targetRef: {{uid: u{pod}}}}}")
            };
            format!(
                "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: e{n}, labels: \
                 {{kubernetes.io/service-name: {}}}}}, addressType: IPv4, ports: [{{name: http, port: {}}}], \
                 endpoints: [{}, {}]}}",
                service(0),
                8_000 + pick(2) % 2,
                endpoint(3),
                endpoint(13),
            )
        }
        10 => {
            let controller = ["sluicegate.dev/ingress-controller", "other"][pick(0) % 2];
            let default = pick(1) % 2 == 0;
            format!(
                "{{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {{name: {}, annotations: \
                 {{ingressclass.kubernetes.io/is-default-class: \"{default}\"}}}}, spec: {{controller: {controller}}}}}",
                ["c0", "c1", "sluicegate"][pick(2) % 3],
            )
        }
        11 => {
            let address = ["127.0.0.1:8080", "127.0.0.1:1", "127.0.0.1:8443"][pick(0) % 3];
            let tls = [
                "",
                ", protocol: https",
                ", tls: {certificates: [{cert: c.pem, key: c.key}]}",
                ", tls: {certificates: [{cert: c.pem, key: c.key, hosts: [a.test]}], clientCa: ca.pem}",
                ", protocol: tcp, forward: {backend: b0}",
                ", protocol: tcp, forward: {backends: [{name: b1}, {name: b0, weight: 2}], sourceRanges: [10.0.0.0/8]}",
            ][pick(4) % 6];
            format!(
                "{{listeners: [{{name: l{}, address: \"{address}\", proxyProtocol: {}{tls}}}]}}",
                pick(2) % 2,
                pick(3) % 2 == 0
            )
        }
        n @ 14..=15 => {
            let pair = &pairs()[pick(0) % 3];
            cert::tls_secret(&format!("c{}", n - 14), pair)
        }
        16 => match pick(0) % 3 {
            0 => cert::secret("ca", &[("ca.crt", &pairs()[0].chain)]),
            1 => cert::secret("ca", &[("ca.crt", &pairs()[1].chain)]),
            _ => cert::config_map("ca", &[("ca.crt", &pairs()[2].chain)]),
        },
        12 => {
            let path = ["path: /a", "pathPrefix: /a/", "pathRegex: /a.*", "pathPrefix: /"][pick(0) % 4];
            let more =
                ["", ", method: POST", ", headers: {x: y}", ", query: {q: {regex: \"1+\"}}"][pick(2) % 4];
            let on = ["", "listeners: [l0], ", "listeners: [https], ", "httpsRedirect: true, "][pick(4) % 4];
            let on = if pick(13) % 4 == 0 { "tlsPassthrough: true, " } else { on };
            format!(
                "{{routes: [{{name: r{}, {on}hosts: [\"{}\"], matches: [{{{path}{more}}}], backend: b{}}}]}}",
                pick(5) % 4,
                HOSTS[pick(7) % 6],
                pick(10) % 2,
            )
        }
        _ => format!(
            "{{backends: [{{name: b{}, {}endpoints: [\"10.0.0.{}:80\", \"{}:80\"]}}]}}",
            pick(0) % 2,
            ["", "protocol: grpc, ", "protocol: https, tls: {ca: ca.pem}, "][pick(5) % 3],
            pick(1) % 4,
            ["x.test", "y.test", "10.0.0.1"][pick(3) % 3],
        ),
    }
}

/// Applies, deletes or resolves.
fn step(index: &mut Index, which: u8, version: u32, delete: bool) -> Change {
    if which % 20 == 19 {
        // All at once: what is bad for a while is remembered, and is not for a full compile.
        let mut change = Change::default();
        for file in index.files() {
            change.merge(index.apply(loaded(&file, version)));
        }
        return change;
    }
    if which % 21 == 20 {
        let zone = [None, Some("z1".into()), Some("z2".into())][version as usize % 3].clone();
        return index.apply(Event::Zone(zone));
    }
    if which % 20 == 18 {
        let addresses = ["10.0.0.9", "10.0.0.8", "127.0.0.1"][..(version % 4).min(3) as usize].iter();
        let addresses = addresses.map(|text| text.parse().unwrap()).collect();
        return index.apply(Event::Resolved { name: "x.test".into(), addresses });
    }
    let mut change = Change::default();
    let decoded = config::resource::decode(&"p.yaml".into(), object(which, version).as_bytes());
    assert!(!decoded.incomplete, "{:?}", decoded.problems);
    for object in decoded.objects {
        // The certificate of a Secret that is gone is remembered, and is not for a full compile.
        let delete = delete && object.reference.kind != Kind::Secret;
        let event = if delete { Event::Delete(object.reference) } else { Event::Apply(object) };
        change.merge(index.apply(event));
    }
    change
}

/// What the driver does: content for what is wanted and not known.
fn read_files(index: &mut Index) -> Change {
    let mut change = Change::default();
    for file in index.unread_files() {
        change.merge(index.apply(loaded(&file, 0)));
    }
    change
}

fn loaded(file: &Arc<str>, version: u32) -> Event {
    let pair = &pairs()[version as usize % 3];
    let text = if file.ends_with(".key") { &pair.key } else { &pair.chain };
    Event::Loaded { file: Arc::clone(file), content: FileContent(Ok(text.as_bytes().into())) }
}

fn pairs() -> &'static [Pair; 3] {
    static PAIRS: OnceLock<[Pair; 3]> = OnceLock::new();
    PAIRS.get_or_init(|| {
        [cert::pair(&["a.test", "b.test"]), cert::pair(&["*.test"]), cert::pair(&["b.a.test", "*.a.test"])]
    })
}

fn settings() -> Settings {
    static DEFAULT: OnceLock<Arc<config::table::Certificate>> = OnceLock::new();
    let certificate = DEFAULT.get_or_init(|| {
        let Pair { chain, key } = cert::pair(&["sluicegate.invalid"]);
        config::resource::certificate("default", chain.as_bytes(), key.as_bytes()).unwrap()
    });
    let https = Some("127.0.0.1:8443".parse().unwrap());
    let endpoints = EndpointSettings { node: Some("n1".into()), ..EndpointSettings::default() };
    Settings { https, default_certificate: Some(Arc::clone(certificate)), endpoints, ..Settings::default() }
}

fn full(index: &Index) -> String {
    let (table, report) = Compiler::new(settings()).compile(index, &Change::default(), common::NOW);
    render(&table, &report)
}

/// The Ingresses that are ours.
fn claims(index: &Index) -> BTreeSet<ObjectRef> {
    let mut compiler = Compiler::new(settings());
    compiler.compile(index, &Change::default(), common::NOW);
    compiler.take_claims().into_iter().filter(|(_, is_ours)| *is_ours).map(|(object, _)| object).collect()
}

/// (which object, which version, delete, compile now)
fn steps() -> impl Strategy<Value = Vec<(u8, u32, bool, bool)>> {
    prop::collection::vec(
        (any::<u8>(), any::<u32>(), prop::bool::weighted(0.2), prop::bool::weighted(0.6)),
        1..40,
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn an_incremental_compile_is_a_full_one(steps in steps()) {
        let mut index = Index::new();
        let mut compiler = Compiler::new(settings());
        let mut pending = Change::default();
        let mut claimed = BTreeSet::new();
        for (which, version, delete, now) in steps {
            pending.merge(step(&mut index, which, version, delete));
            if now {
                pending.merge(read_files(&mut index));
                let (table, report) = compiler.compile(&index, &std::mem::take(&mut pending), common::NOW);
                prop_assert_eq!(render(&table, &report), full(&index));
                for (object, is_ours) in compiler.take_claims() {
                    let is_news = if is_ours { claimed.insert(object) } else { claimed.remove(&object) };
                    prop_assert!(is_news);
                }
                prop_assert_eq!(&claimed, &claims(&index));
            }
        }
        pending.merge(read_files(&mut index));
        let (table, report) = compiler.compile(&index, &pending, common::NOW);
        prop_assert_eq!(render(&table, &report), full(&index));
        let (again, same) = compiler.compile(&index, &Change::default(), common::NOW);
        prop_assert!(Arc::ptr_eq(&again, &table) && Arc::ptr_eq(&same, &report));
    }

    #[test]
    fn the_order_of_arrival_does_not_matter(steps in steps(), seed in any::<u64>()) {
        let mut index = Index::new();
        for (which, version, _, _) in &steps {
            step(&mut index, *which % 18, *version, false);
        }
        let mut objects: Vec<_> = index.objects().cloned().collect();
        objects.sort_by(|a, b| {
            let key = |object: &config::resource::Object| {
                object.reference.to_string().bytes().fold(seed, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
            };
            key(a).cmp(&key(b))
        });
        let mut other = Index::new();
        let mut compiler = Compiler::new(settings());
        let mut last = compiler.compile(&other, &Change::default(), common::NOW);
        for object in objects {
            let change = other.apply(Event::Apply(object));
            last = compiler.compile(&other, &change, common::NOW);
        }
        prop_assert_eq!(render(&last.0, &last.1), full(&index));
    }

    #[test]
    fn the_indexed_lookup_agrees_with_the_naive_reading(
        steps in steps(),
        requests in prop::collection::vec((0..8_usize, 0..10_usize, any::<bool>(), any::<bool>()), 1..40),
    ) {
        let mut index = Index::new();
        for (which, version, _, _) in &steps {
            step(&mut index, *which, *version, false);
        }
        let (table, report) = Compiler::new(settings()).compile(&index, &Change::default(), common::NOW);
        let hosts = ["a.test", "b.a.test", "c.b.a.test", "x.test", "test", "", ".test", "other"];
        let paths = ["/", "/a", "/a/", "/a/b", "/ab", "/abc", "/a/b/c/d", "/b", "/b/", "//a"];
        let headers = [("X".to_owned(), "y".to_owned())];
        for (host, path, post, more) in requests {
            let request = Request {
                method: if post { "POST" } else { "GET" },
                query: more.then_some("q=11"),
                headers: if more { &headers } else { &[] },
                ..get(hosts[host], paths[path])
            };
            for bind in &table.binds {
                let found = bind.hosts.route(request.host, request.path, &request);
                let judged = oracle::route(&bind.hosts, request.host, request.path, &request);
                prop_assert_eq!(found.map(Arc::as_ptr), judged.map(Arc::as_ptr), "{:?}", request);
                let request = Request { bind: Some(bind.config.address), ..request.clone() };
                let explanation = explain(&table, &report, &request);
                let is_relayed = explanation.tls.as_ref().is_some_and(|tls| tls.passthrough.is_some());
                prop_assert_eq!(explanation.chosen.is_some(), found.is_some() && !is_relayed);
                prop_assert!(serde_json::to_string(&explanation).is_ok());
            }
        }
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let decoded = config::resource::decode(&"x".into(), &bytes);
        prop_assert!(decoded.problems.len() < 1_000);
    }

    #[test]
    fn no_damaged_manifest_panics(
        which in any::<u8>(),
        version in any::<u32>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), "[ -~\n]{0,6}"), 1..6),
    ) {
        let mut text = object(which, version);
        for (at, with) in damage {
            let at = at.index(text.len());
            let end = (at + with.len()).min(text.len());
            text.replace_range(at..end, &with);
        }
        common::compile(&text);
        common::compile(&text.replace(['{', '}'], " "));
    }
}
