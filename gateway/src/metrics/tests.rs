use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use config::report::{Kind, ObjectRef};
use config::table::{
    Backend, Bind, BindConfig, Certificate, ClientPolicy, Endpoint, Limits, RouteInfo, RouteTable, TlsMap,
    TlsPolicy, TlsVersion, TrustRoots, TrustedProxies,
};

use super::*;
use crate::access_log::{AccessLog, Destination, Format};
use crate::live::{Publisher, Shared};
use crate::record::{Reason, Record, Version};

fn record(reason: Reason, status: u16) -> Record<'static> {
    Record {
        client: IpAddr::V4(Ipv4Addr::LOCALHOST),
        method: b"GET",
        host: b"a.example",
        target: b"/",
        version: Version::Http11,
        request_id: b"",
        user_agent: b"",
        referer: b"",
        status,
        reason,
        route: None,
        backend: None,
        endpoint: None,
        attempts: 1,
        request_bytes: 10,
        response_bytes: 100,
        duration: Duration::from_micros(700),
        response_head: None,
    }
}

fn route(name: &str) -> RouteInfo {
    let object = ObjectRef { kind: Kind::Route, namespace: "".into(), name: name.into() };
    RouteInfo { object, name: name.into() }
}

fn backend(name: &str, ports: &[u16]) -> Backend {
    let endpoint = |port: &u16| Endpoint {
        address: SocketAddr::from(([127, 0, 0, 1], *port)),
        weight: 1,
        identity: None,
        dns_name: None,
    };
    Backend { name: name.into(), endpoints: ports.iter().map(endpoint).collect(), policy: Arc::default() }
}

fn published(routes: &[&str], backends: Vec<Backend>) -> (Arc<Shared>, Publisher) {
    let mut table = RouteTable { version: 7, ..RouteTable::default() };
    for (id, name) in (0..).zip(routes) {
        table.routes.set(id, Some(Arc::new(route(name))));
    }
    for (id, backend) in (0..).zip(backends) {
        table.backends.set(id, Some(Arc::new(backend)));
    }
    table.binds.push(encrypted());
    let (shared, mut publisher) = Shared::new(2);
    publisher.publish(Arc::new(table));
    (shared, publisher)
}

/// A Bind with one certificate.
fn encrypted() -> Arc<Bind> {
    use rustls::sign::CertifiedKey;
    let (leaf, key) = crate::tls::fixture::self_signed(&["a.example"]);
    let certificate = Certificate {
        name: "shop/tls".into(),
        key: Arc::new(
            CertifiedKey::from_der(vec![leaf.clone()], key, &crate::tls::fixture::provider()).unwrap(),
        ),
        fingerprint: [0; 32],
        not_before: 0,
        not_after: 4_000_000_000,
        names: Arc::default(),
    };
    let roots = TrustRoots {
        name: "shop/clients".into(),
        certificates: Box::new([leaf.clone()]),
        revocation_lists: Box::default(),
        not_after: 4_000_000_000,
        last_not_after: 4_000_000_000,
        next_update: Some(3_000_000_000),
    };
    let policy = TlsPolicy {
        certificates: [Arc::new(certificate)].into(),
        client: ClientPolicy::Optional(Arc::new(roots)),
        min_version: TlsVersion::Tls12,
        cipher_suites: Box::default(),
        http2: false,
    };
    let config = BindConfig {
        address: SocketAddr::from(([127, 0, 0, 1], 443)),
        listeners: Vec::new(),
        https: true,
        proxy_protocol: false,
        trusted_proxies: TrustedProxies::default(),
        limits: Limits::default(),
        abort_on_half_close: false,
        free_bind: false,
    };
    let tls = Some(Arc::new(TlsMap::new(Arc::new(policy))));
    Arc::new(Bind { config: Arc::new(config), hosts: Arc::default(), tls })
}

fn scrape(registry: &Registry, shared: &Shared) -> String {
    let mut out = String::new();
    registry.render(Some(&shared.load()), &mut out);
    out
}

/// Sends one request through every counter of route and backend `id` and of its first endpoint.
fn count_traffic(shared: &Shared, id: u32) {
    let live = shared.load();
    live.routes.at(id).unwrap().counters(0).unwrap().request_done(&record(Reason::Forwarded, 200));
    let backend = live.backends.at(id).unwrap();
    backend.state.counters.of(0).unwrap().retries.add(1);
    let cells = backend.endpoints[0].counters.of(0).unwrap();
    cells.requests.add(2);
    cells.response_head.observe(Duration::from_micros(600));
}

/// A scrape, checked against the rules of the format: series (name with labels) → value, and family → kind.
struct Scrape {
    series: BTreeMap<String, f64>,
    families: Vec<(String, String)>,
    labels: BTreeMap<String, BTreeSet<String>>,
}

impl Scrape {
    fn parse(text: &str) -> Self {
        assert!(text.ends_with('\n'));
        let mut scrape = Self { series: BTreeMap::new(), families: Vec::new(), labels: BTreeMap::new() };
        let mut help = None;
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, text) = rest.split_once(' ').expect("a HELP line has a text");
                assert!(!text.contains('\\') && text.ends_with('.'), "{line}");
                help = Some(name);
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert_eq!(help.take(), Some(name), "HELP comes right before TYPE");
                assert!(scrape.families.iter().all(|(known, _)| known != name), "{name} begins twice");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
                scrape.families.push((name.to_owned(), kind.to_owned()));
            } else {
                scrape.sample(line);
            }
        }
        scrape.check_histograms();
        scrape
    }

    fn sample(&mut self, line: &str) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = match series.split_once('{') {
            Some((name, labels)) => (name, parse_labels(labels.strip_suffix('}').unwrap())),
            None => (series, Vec::new()),
        };
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
        let (family, kind) = self.families.last().expect("a TYPE line precedes every sample");
        let suffix = name.strip_prefix(family.as_str()).unwrap_or_else(|| panic!("{name} within {family}"));
        match kind.as_str() {
            "histogram" => assert!(["_bucket", "_sum", "_count"].contains(&suffix), "{name}"),
            _ => assert_eq!(suffix, "", "{name}"),
        }
        let names: Vec<_> = labels.iter().map(|(name, _)| name.clone()).collect();
        assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len(), "{line}");
        let of_family = self.labels.entry(family.clone()).or_default();
        of_family.extend(names.into_iter().filter(|name| name != "le"));
        let value: f64 = value.parse().unwrap();
        assert!(value >= 0.0 && value.is_finite(), "{line}");
        assert_eq!(self.series.insert(series.to_owned(), value), None, "{series} appears twice");
    }

    fn check_histograms(&self) {
        for (series, count) in &self.series {
            let Some((name, labels)) = series.split_once("_count") else { continue };
            let inner = labels.trim_start_matches('{').trim_end_matches('}');
            let bucket = |bound: &str| self.series[&format!("{name}_bucket{{{inner},le=\"{bound}\"}}")];
            let bounds = ["0.00025", "0.0005", "0.001", "0.0025", "0.005", "0.01", "0.025", "0.05", "0.1"];
            let bounds = bounds.into_iter().chain(["0.25", "0.5", "1", "5", "30", "+Inf"]);
            let counts: Vec<_> = bounds.map(bucket).collect();
            assert!(counts.is_sorted(), "{series}");
            assert_eq!(counts.last(), Some(count), "{series}");
        }
    }

    fn value(&self, series: &str) -> Option<f64> {
        self.series.get(series).copied()
    }
}

/// Name and unescaped value of each label.
fn parse_labels(text: &str) -> Vec<(String, String)> {
    let mut labels = Vec::new();
    let mut characters = text.chars().peekable();
    while characters.peek().is_some() {
        let name: String = characters.by_ref().take_while(|character| *character != '=').collect();
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{text}");
        assert_eq!(characters.next(), Some('"'), "{text}");
        let mut value = String::new();
        loop {
            match characters.next().expect("a label value ends with a quote") {
                '"' => break,
                '\\' => value.push(match characters.next() {
                    Some('n') => '\n',
                    Some(escaped @ ('\\' | '"')) => escaped,
                    other => panic!("{other:?} in {text}"),
                }),
                character => value.push(character),
            }
        }
        labels.push((name, value));
        assert!(matches!(characters.next(), None | Some(',')), "{text}");
    }
    labels
}

#[test]
fn every_family_is_rendered_as_declared_and_as_documented() {
    let registry = Registry::new(2);
    let log = AccessLog::start(Format::Off, Destination::Stdout, 2).unwrap();
    registry.watch_access_log(Arc::clone(log.stats()));
    let (shared, _publisher) = published(&["route/web"], vec![backend("web", &[8001])]);
    count_traffic(&shared, 0);
    let scrape = Scrape::parse(&scrape(&registry, &shared));

    let kind = |family: &Family| format!("{:?}", family.kind).to_lowercase();
    let declared: Vec<_> = FAMILIES.iter().map(|family| (family.name.to_owned(), kind(family))).collect();
    assert_eq!(scrape.families, declared);
    for family in FAMILIES {
        let labels: BTreeSet<_> = family.labels.iter().map(|label| (*label).to_owned()).collect();
        assert_eq!(scrape.labels[family.name], labels, "{}", family.name);
    }

    let rows: Vec<_> = FAMILIES
        .iter()
        .map(|family| {
            let labels: Vec<_> = family.labels.iter().map(|label| format!("`{label}`")).collect();
            format!("| `{}` | {} | {} | {} |", family.name, kind(family), labels.join(", "), family.help)
        })
        .collect();
    // What the control plane renders is held against the page by its own tests.
    let page =
        include_str!("../../../docs/metrics.md").split("\n## Control plane").next().unwrap_or_default();
    let documented: Vec<_> = page.lines().filter(|line| line.starts_with("| `")).collect();
    let missing: Vec<_> = rows.iter().filter(|row| !documented.contains(&row.as_str())).collect();
    assert!(missing.is_empty(), "docs/metrics.md lacks\n{missing:#?}");
    assert_eq!(documented, rows, "docs/metrics.md lists what is not rendered, or in another order");
}

#[test]
fn workers_are_added_up() {
    let registry = Registry::new(2);
    for (worker, count) in [(0, 3), (1, 4)] {
        let cells = registry.worker(worker).unwrap();
        cells.connections_accepted.add(count);
        cells.connections_closed.add(1);
        cells.request_done(&record(Reason::NoRoute, 404));
        cells.limit_hit(LimitHit::HeadBytes);
    }
    assert!(registry.worker(2).is_none());
    let mut out = String::new();
    registry.render(None, &mut out);
    let scrape = Scrape::parse(&out);
    for (series, value) in [
        ("sluicegate_workers", 2.0),
        ("sluicegate_connections_open{worker=\"0\"}", 2.0),
        ("sluicegate_connections_open{worker=\"1\"}", 3.0),
        ("sluicegate_requests_total{reason=\"NoRoute\"}", 2.0),
        ("sluicegate_requests_total{reason=\"Forwarded\"}", 0.0),
        ("sluicegate_responses_total{class=\"4xx\"}", 2.0),
        ("sluicegate_limit_hits_total{limit=\"head_bytes\"}", 2.0),
        ("sluicegate_request_body_bytes_total", 20.0),
        ("sluicegate_response_body_bytes_total", 200.0),
    ] {
        assert_eq!(scrape.value(series), Some(value), "{series}");
    }
}

#[test]
fn a_request_without_a_response_is_in_no_status_class() {
    let registry = Registry::new(1);
    registry.worker(0).unwrap().request_done(&record(Reason::ClientGone, 0));
    let mut out = String::new();
    registry.render(None, &mut out);
    let scrape = Scrape::parse(&out);
    assert_eq!(scrape.value("sluicegate_requests_total{reason=\"ClientGone\"}"), Some(1.0));
    let responses = scrape.series.iter().filter(|(name, _)| name.starts_with("sluicegate_responses_total"));
    assert_eq!(responses.map(|(_, value)| value).sum::<f64>(), 0.0);
}

#[test]
fn only_what_saw_traffic_has_counters_and_every_endpoint_its_health() {
    let registry = Registry::new(2);
    let backends = vec![backend("web", &[8001, 8002]), backend("idle", &[9001])];
    let (shared, _publisher) = published(&["route/web", "route/idle"], backends);
    count_traffic(&shared, 0);
    let scrape = Scrape::parse(&scrape(&registry, &shared));
    for (series, value) in [
        ("sluicegate_table_version", Some(7.0)),
        ("sluicegate_table_objects{kind=\"endpoint\"}", Some(3.0)),
        ("sluicegate_route_responses_total{route=\"route/web\",class=\"2xx\"}", Some(1.0)),
        ("sluicegate_route_request_duration_seconds_sum{route=\"route/web\"}", Some(0.0007)),
        ("sluicegate_route_request_duration_seconds_bucket{route=\"route/web\",le=\"0.0005\"}", Some(0.0)),
        ("sluicegate_route_request_duration_seconds_bucket{route=\"route/web\",le=\"0.001\"}", Some(1.0)),
        ("sluicegate_route_responses_total{route=\"route/idle\",class=\"2xx\"}", None),
        ("sluicegate_backend_retries_total{backend=\"web\"}", Some(1.0)),
        ("sluicegate_backend_retries_total{backend=\"idle\"}", None),
        ("sluicegate_backend_endpoints{backend=\"idle\",state=\"healthy\"}", Some(1.0)),
        ("sluicegate_endpoint_requests_total{backend=\"web\",endpoint=\"127.0.0.1:8001\"}", Some(2.0)),
        ("sluicegate_endpoint_requests_total{backend=\"web\",endpoint=\"127.0.0.1:8002\"}", None),
        ("sluicegate_endpoint_healthy{backend=\"web\",endpoint=\"127.0.0.1:8002\"}", Some(1.0)),
        ("sluicegate_endpoint_in_flight{backend=\"idle\",endpoint=\"127.0.0.1:9001\"}", Some(0.0)),
        ("sluicegate_metrics_folded{kind=\"route\"}", Some(0.0)),
    ] {
        assert_eq!(scrape.value(series), value, "{series}");
    }
}

#[test]
fn routes_and_endpoints_beyond_the_limit_are_folded_and_counted() {
    let registry = Registry::with_limits(1, SeriesLimits { routes: 1, backends: 1, endpoints: 1 });
    let backends = vec![backend("a", &[8001]), backend("b", &[8002]), backend("c", &[8003])];
    let (shared, _publisher) = published(&["a", "b", "c"], backends);
    (0..3).for_each(|id| count_traffic(&shared, id));
    let scrape = Scrape::parse(&scrape(&registry, &shared));
    for (series, value) in [
        ("sluicegate_route_responses_total{route=\"a\",class=\"2xx\"}", Some(1.0)),
        ("sluicegate_route_responses_total{route=\"b\",class=\"2xx\"}", None),
        ("sluicegate_route_responses_total{route=\"_other\",class=\"2xx\"}", Some(2.0)),
        ("sluicegate_backend_retries_total{backend=\"_other\"}", Some(2.0)),
        ("sluicegate_endpoint_requests_total{backend=\"_other\",endpoint=\"_other\"}", Some(4.0)),
        ("sluicegate_endpoint_healthy{backend=\"a\",endpoint=\"127.0.0.1:8001\"}", Some(1.0)),
        ("sluicegate_endpoint_healthy{backend=\"b\",endpoint=\"127.0.0.1:8002\"}", None),
        ("sluicegate_metrics_folded{kind=\"route\"}", Some(2.0)),
        ("sluicegate_metrics_folded{kind=\"backend\"}", Some(2.0)),
        ("sluicegate_metrics_folded{kind=\"endpoint\"}", Some(2.0)),
    ] {
        assert_eq!(scrape.value(series), value, "{series}");
    }
}

#[test]
fn slots_of_one_name_share_a_series_and_count_once() {
    let registry = Registry::new(2);
    let (shared, _publisher) = published(&["r", "r"], vec![backend("b", &[8001]), backend("b", &[8001])]);
    (0..2).for_each(|id| count_traffic(&shared, id));
    let scrape = Scrape::parse(&scrape(&registry, &shared));
    for (series, value) in [
        ("sluicegate_route_responses_total{route=\"r\",class=\"2xx\"}", 2.0),
        ("sluicegate_backend_retries_total{backend=\"b\"}", 2.0),
        ("sluicegate_backend_endpoints{backend=\"b\",state=\"healthy\"}", 1.0),
        ("sluicegate_endpoint_requests_total{backend=\"b\",endpoint=\"127.0.0.1:8001\"}", 4.0),
    ] {
        assert_eq!(scrape.value(series), Some(value), "{series}");
    }
}

#[test]
fn a_hostile_name_cannot_break_the_format() {
    let name = "a\"} 1\nevil{x=\"\\";
    let registry = Registry::new(2);
    let (shared, _publisher) = published(&[name], vec![backend(name, &[8001])]);
    count_traffic(&shared, 0);
    let text = scrape(&registry, &shared);
    Scrape::parse(&text);
    let line =
        text.lines().find(|line| line.starts_with("sluicegate_route_request_body_bytes_total{")).unwrap();
    let labels = line.split_once('{').unwrap().1.rsplit_once('}').unwrap().0;
    assert_eq!(parse_labels(labels), [("route".to_owned(), name.to_owned())]);
}

#[test]
fn figures_of_the_process_are_plausible() {
    let mut out = String::new();
    Registry::new(1).render(None, &mut out);
    let scrape = Scrape::parse(&out);
    assert!(scrape.value("process_resident_memory_bytes").unwrap() > 100_000.0);
    assert!(scrape.value("process_open_fds").unwrap() >= 3.0);
    assert!(scrape.value("process_max_fds").unwrap() >= scrape.value("process_open_fds").unwrap());
    assert!(scrape.value("process_start_time_seconds").unwrap() > 1_600_000_000.0);
}
