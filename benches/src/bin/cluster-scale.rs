//! A big cluster's objects as an API server sends them: what decoding, compiling and publishing cost in CPU time, and
//! what stays in memory. Then the largest Service that there may be, and one change of it.
//!
//! `cargo run --release -p benches --bin cluster-scale`, and with `--features count-allocations` for what is retained: then
//! another allocator is used, and the size of the process says nothing.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use benches::process::{resident_bytes, thread_cpu_time};
use clap::Parser;
use config::compile::{Compiler, Settings};
use config::index::{Change, Event, Index};
use config::report::Kind;
use config::resource::decode_json;
use gateway::live::{Publisher, Shared};

/// As in the binary, so that the size of the process is the same.
#[cfg(not(feature = "count-allocations"))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[cfg(feature = "count-allocations")]
#[global_allocator]
static ALLOCATOR: &stats_alloc::StatsAlloc<std::alloc::System> = &stats_alloc::INSTRUMENTED_SYSTEM;

#[derive(Parser)]
struct Args {
    /// Services, with an EndpointSlice and an Ingress each.
    #[arg(long, default_value_t = 10_000)]
    services: u32,
    /// Endpoints of each Service.
    #[arg(long, default_value_t = 10)]
    endpoints: u32,
    /// EndpointSlices of the largest Service, of 1,000 endpoints each.
    #[arg(long, default_value_t = 100)]
    slices: u32,
    /// Print the figures without judging them.
    #[arg(long)]
    no_assert: bool,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let (small, before) = (resident_bytes(), live_bytes());
    println!("empty process: {} resident", mib(small));
    let (_shared, mut publisher) = Shared::new(2);
    let (mut index, mut compiler) = (Index::new(), Compiler::new(settings()));
    let slices = stage("EndpointSlices: decode and index", args.services, || {
        each(args.services, |n| receive(&mut index, Kind::EndpointSlice, &slice(n, args.endpoints)))
    })?;
    let services = stage("Services: decode and index", args.services, || {
        each(args.services, |n| receive(&mut index, Kind::Service, &service(n)))
    })?;
    let ingresses = stage("Ingresses: decode and index", args.services, || {
        each(args.services, |n| receive(&mut index, Kind::Ingress, &ingress(n)))
    })?;
    let (table, report) =
        stage("compile", args.services, || Ok(compiler.compile(&index, &Change::default(), 0)))?.1;
    ensure!(!report.has_errors(), "{:?}", report.problems.first());
    ensure!(table.backends.iter().count() == args.services as usize, "backends are missing");
    stage("publish", args.services, || {
        publisher.publish(table);
        Ok(())
    })?;
    let (retained, process) = (live_bytes().saturating_sub(before), resident_bytes());
    println!("all of it: {} retained, {} resident", mib(retained), mib(process));
    let decode = slices.0 + services.0 + ingresses.0;
    println!("decode and index: {decode:?} of CPU time");
    let change = largest(&args, &mut publisher)?;
    if !args.no_assert {
        ensure!(process <= 250 << 20, "the process takes {}", mib(process));
        ensure!(decode <= Duration::from_secs(3), "decoding takes {decode:?}");
        ensure!(change <= Duration::from_millis(50), "a change of the largest Service takes {change:?}");
    }
    Ok(())
}

fn settings() -> Settings {
    Settings { http: Some(([127, 0, 0, 1], 8_080).into()), ..Settings::default() }
}

/// One Service of very many endpoints: a slice of it after the other changes. Returns the median.
fn largest(args: &Args, publisher: &mut Publisher) -> anyhow::Result<Duration> {
    let (mut index, mut compiler) = (Index::new(), Compiler::new(settings()));
    receive(&mut index, Kind::Service, &service(0))?;
    receive(&mut index, Kind::Ingress, &ingress(0))?;
    for part in 0..args.slices {
        receive(&mut index, Kind::EndpointSlice, &part_of_largest(part, 0))?;
    }
    let heap = live_bytes();
    let began = Instant::now();
    let (table, _) = compiler.compile(&index, &Change::default(), 0);
    let compiled = began.elapsed();
    publisher.publish(table);
    println!(
        "{} endpoints of one Service, the first time: compile {compiled:?}, publish {:?}, {} retained",
        args.slices * 1_000,
        began.elapsed().saturating_sub(compiled),
        mib(live_bytes().saturating_sub(heap)),
    );
    let mut times = Vec::new();
    for round in 1..=20 {
        let json = part_of_largest(round % args.slices.max(1), round);
        let began = thread_cpu_time();
        let change = receive(&mut index, Kind::EndpointSlice, &json)?;
        let decoded = thread_cpu_time();
        let (table, _) = compiler.compile(&index, &change, 0);
        let compiled = thread_cpu_time();
        let endpoints = table.backends.at(0).context("no backend")?.endpoints.len();
        ensure!(endpoints == args.slices as usize * 1_000, "{endpoints} endpoints");
        publisher.publish(table);
        let published = thread_cpu_time();
        let (decode, compile) = (decoded.saturating_sub(began), compiled.saturating_sub(decoded));
        times.push((published.saturating_sub(decoded), compile, decode));
    }
    times.sort_unstable();
    let (sum, compile, decode) = times.get(times.len() / 2).copied().unwrap_or_default();
    let worst = times.last().map(|times| times.0).unwrap_or_default();
    println!(
        "{} endpoints of one Service, one slice of 1,000 changes, CPU time: decode {decode:?}, compile {compile:?}, compile \
         and publish {sum:?} (longest of {}: {worst:?})",
        args.slices * 1_000,
        times.len(),
    );
    Ok(sum)
}

/// Does it for each number.
fn each(count: u32, mut one: impl FnMut(u32) -> anyhow::Result<Change>) -> anyhow::Result<()> {
    (0..count).try_for_each(|n| one(n).map(drop))
}

/// Runs `work`, and prints what it cost, the making of the text that is decoded included.
fn stage<T>(
    what: &str,
    count: u32,
    work: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<(Duration, T)> {
    let (heap, start) = (live_bytes(), thread_cpu_time());
    let value = work()?;
    let time = thread_cpu_time().saturating_sub(start);
    let heap = live_bytes().saturating_sub(heap);
    println!(
        "{what}: {time:?} of CPU time, {} retained ({} bytes each), {} resident",
        mib(heap),
        heap / count.max(1) as usize,
        mib(resident_bytes())
    );
    Ok((time, value))
}

fn receive(index: &mut Index, kind: Kind, json: &str) -> anyhow::Result<Change> {
    let received = decode_json(kind, json.as_bytes());
    ensure!(received.problems.is_empty(), "{:?}", received.problems.first());
    Ok(index.apply(Event::Apply(received.object.context("did not decode")?)))
}

/// Bytes that were allocated and not freed; 0 where nobody counts.
#[cfg(not(feature = "count-allocations"))]
fn live_bytes() -> usize {
    0
}

#[cfg(feature = "count-allocations")]
fn live_bytes() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated.saturating_sub(stats.bytes_deallocated)
}

fn mib(bytes: usize) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// What every object of a cluster drags along.
fn meta(n: u32, kind: &str, name: &str, more: &str) -> String {
    format!(
        r#""metadata":{{"name":"{name}","namespace":"team-{}","uid":"{}","resourceVersion":"{}","generation":3,"creationTimestamp":"2026-03-01T10:{:02}:{:02}Z",{more}"managedFields":[{{"manager":"{kind}-controller","operation":"Update","apiVersion":"v1","time":"2026-03-01T10:00:00Z","fieldsType":"FieldsV1","fieldsV1":{{"f:metadata":{{"f:annotations":{{".":{{}},"f:kubectl.kubernetes.io/last-applied-configuration":{{}}}},"f:labels":{{".":{{}},"f:app.kubernetes.io/name":{{}},"f:app.kubernetes.io/instance":{{}}}}}},"f:spec":{{"f:rules":{{}},"f:ports":{{".":{{}},"k:{{\"port\":80,\"protocol\":\"TCP\"}}":{{".":{{}},"f:name":{{}},"f:port":{{}},"f:protocol":{{}},"f:targetPort":{{}}}}}},"f:selector":{{}},"f:type":{{}}}}}}}}]}}"#,
        n % 100,
        uid(n, 1),
        100_000 + n,
        n / 60 % 60,
        n % 60,
    )
}

fn uid(n: u32, m: u32) -> String {
    let mixed = n.wrapping_mul(0x9e37_79b9) ^ m.wrapping_mul(0x85eb_ca6b);
    format!("{mixed:08x}-{:04x}-4{:03x}-a{:03x}-{n:06x}{m:06x}", n & 0xffff, m & 0xfff, n & 0xfff)
}

fn slice(n: u32, endpoints: u32) -> String {
    let labels = format!(
        r#""generateName":"web-{n}-","labels":{{"app.kubernetes.io/name":"web-{n}","endpointslice.kubernetes.io/managed-by":"endpointslice-controller.k8s.io","kubernetes.io/service-name":"web-{n}"}},"annotations":{{"endpoints.kubernetes.io/last-change-trigger-time":"2026-03-01T10:00:00Z"}},"ownerReferences":[{{"apiVersion":"v1","kind":"Service","name":"web-{n}","uid":"{}","controller":true,"blockOwnerDeletion":true}}],"#,
        uid(n, 2)
    );
    let first = n * endpoints;
    slice_text(&meta(n, "endpointslice", &format!("web-{n}-x7k2p"), &labels), first, endpoints, 0)
}

fn part_of_largest(part: u32, round: u32) -> String {
    let labels = r#""labels":{"kubernetes.io/service-name":"web-0"},"#;
    let meta = meta(0, "endpointslice", &format!("web-0-{part}"), labels);
    slice_text(&meta, part * 1_000, 1_000, round)
}

/// A slice of `count` endpoints from number `first` on; the Pod of the first one is another one in each `round`.
fn slice_text(meta: &str, first: u32, count: u32, round: u32) -> String {
    let mut endpoints = String::new();
    for n in first..first + count {
        let (zone, node) = (n % 3, n % 500);
        let address = Ipv4Addr::from(10 << 24 | n);
        let uid = uid(n, if n == first { 3 + round } else { 3 });
        let comma = if n == first { "" } else { "," };
        // Writing to a String cannot fail.
        let _ = write!(
            endpoints,
            r#"{comma}{{"addresses":["{address}"],"conditions":{{"ready":true,"serving":true,"terminating":false}},"targetRef":{{"kind":"Pod","namespace":"team","name":"web-7c9d8b6f5-{n:05}","uid":"{uid}"}},"nodeName":"node-{node}.eu.compute.internal","zone":"eu-central-1{zone}","hints":{{"forZones":[{{"name":"eu-central-1{zone}"}}]}}}}"#
        );
    }
    format!(
        r#"{{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice",{meta},"addressType":"IPv4","endpoints":[{endpoints}],"ports":[{{"name":"http","port":8080,"protocol":"TCP"}}]}}"#
    )
}

fn service(n: u32) -> String {
    let labels = format!(
        r#""labels":{{"app.kubernetes.io/name":"web-{n}","app.kubernetes.io/instance":"web-{n}"}},"annotations":{{"kubectl.kubernetes.io/last-applied-configuration":"{{\"apiVersion\":\"v1\",\"kind\":\"Service\",\"spec\":{{\"ports\":[{{\"port\":80}}]}}}}"}},"#
    );
    let address = Ipv4Addr::from(172 << 24 | 16 << 16 | n);
    format!(
        r#"{{"apiVersion":"v1","kind":"Service",{},"spec":{{"ports":[{{"name":"http","protocol":"TCP","port":80,"targetPort":"http"}}],"selector":{{"app.kubernetes.io/name":"web-{n}"}},"clusterIP":"{address}","clusterIPs":["{address}"],"type":"ClusterIP","sessionAffinity":"None","ipFamilies":["IPv4"],"ipFamilyPolicy":"SingleStack","internalTrafficPolicy":"Cluster"}},"status":{{"loadBalancer":{{}}}}}}"#,
        meta(n, "service", &format!("web-{n}"), &labels)
    )
}

fn ingress(n: u32) -> String {
    let labels = format!(
        r#""labels":{{"app.kubernetes.io/name":"web-{n}"}},"annotations":{{"cert-manager.io/cluster-issuer":"letsencrypt","kubectl.kubernetes.io/last-applied-configuration":"{{\"apiVersion\":\"networking.k8s.io/v1\",\"kind\":\"Ingress\",\"spec\":{{\"rules\":[{{\"host\":\"web-{n}.example.com\"}}]}}}}"}},"#
    );
    format!(
        r#"{{"apiVersion":"networking.k8s.io/v1","kind":"Ingress",{},"spec":{{"ingressClassName":"sluicegate","rules":[{{"host":"web-{n}.apps.example.com","http":{{"paths":[{{"path":"/","pathType":"Prefix","backend":{{"service":{{"name":"web-{n}","port":{{"number":80}}}}}}}},{{"path":"/api/v1","pathType":"Prefix","backend":{{"service":{{"name":"web-{n}","port":{{"name":"http"}}}}}}}}]}}}}]}},"status":{{"loadBalancer":{{"ingress":[{{"ip":"203.0.113.10"}}]}}}}}}"#,
        meta(n, "ingress", &format!("web-{n}"), &labels)
    )
}
