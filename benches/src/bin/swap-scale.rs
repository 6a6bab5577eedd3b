//! What one EndpointSlice change costs at 10,000 Services × 10 endpoints, from the decoded object to the stored
//! `Live`. Asserts loosely and prints exactly; also prices a pick by policy and the two ways to keep a
//! round-robin position.
//!
//! `cargo run --release -p benches --bin swap-scale`

use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use benches::process::resident_bytes;
use config::compile::{Compiler, Settings};
use config::index::{Change, Event, Index};
use config::resource::{Object, decode};
use config::table::{Backend, BackendPolicy, Balance, Endpoint, HashKey, RouteTable};
use gateway::balance::consistent_hash::key_hash;
use gateway::live::{Live, LiveBackend, Outcome, PickRequest, Publisher, Shared};

const SERVICES: u32 = 10_000;
const ENDPOINTS: u32 = 10;
const CHANGES: u32 = 5_000;
const PICKS: u32 = 1_000_000;

fn main() -> anyhow::Result<()> {
    let (shared, mut publisher) = Shared::new(2);
    let (mut index, mut compiler) = (Index::new(), Compiler::new(Settings::default()));
    for service in 0..SERVICES {
        for object in decode_all(&service_text(service))?.into_iter().chain(slice(service, None)?) {
            index.apply(Event::Apply(object));
        }
    }
    let began = Instant::now();
    let (table, report) = compiler.compile(&index, &Change::default(), 0);
    println!("first table, {SERVICES} Services × {ENDPOINTS} endpoints: compile {:?}", began.elapsed());
    ensure!(!report.has_errors(), "{:?}", report.problems.first());
    let before = resident_bytes();
    let began = Instant::now();
    publisher.publish(table);
    let per_endpoint = resident_bytes().saturating_sub(before) / (SERVICES * ENDPOINTS) as usize;
    println!(
        "first table: build and store {:?}, {per_endpoint} B of live state per endpoint",
        began.elapsed()
    );
    swap(&shared, &mut publisher, &mut index, &mut compiler)?;
    for (name, balance) in [
        ("round-robin", Balance::RoundRobin),
        ("least-connection", Balance::LeastConnection),
        ("consistent-hash", Balance::ConsistentHash(HashKey::Uri)),
    ] {
        for endpoints in [3, 10, 100] {
            pick(name, &balance, endpoints)?;
        }
    }
    positions();
    Ok(())
}

/// Changes one endpoint of one Service after the other and checks that it took effect and nothing else moved.
fn swap(
    shared: &Shared,
    publisher: &mut Publisher,
    index: &mut Index,
    compiler: &mut Compiler,
) -> anyhow::Result<()> {
    let (mut compiles, mut publishes, mut sums) = (Vec::new(), Vec::new(), Vec::new());
    for change in 0..CHANGES {
        let service = fastrand::u32(..SERVICES);
        let before = Arc::clone(&shared.load());
        let event = slice(service, Some(change))?.into_iter().map(Event::Apply).next().context("no slice")?;
        let began = Instant::now();
        let touched = index.apply(event);
        let (table, _) = compiler.compile(index, &touched, 0);
        let compiled = began.elapsed();
        publisher.publish(table);
        sums.push(began.elapsed());
        compiles.push(compiled);
        publishes.push(began.elapsed().saturating_sub(compiled));
        check(&before, &shared.load(), change)?;
    }
    print_times("one EndpointSlice change: apply + compile", &mut compiles);
    let publish = print_times("one EndpointSlice change: build + store", &mut publishes);
    let sum = print_times("one EndpointSlice change: all of it", &mut sums);
    ensure!(publish <= Duration::from_micros(100), "more than 100 µs to build and store at the median");
    ensure!(sum <= Duration::from_micros(300), "more than 300 µs at the median");
    Ok(())
}

/// Exactly one backend is another one, and it has the new address.
fn check(before: &Live, after: &Live, change: u32) -> anyhow::Result<()> {
    let mut changed = Vec::new();
    after.backends.changes(&before.backends, |_, _, backend| changed.extend(backend.cloned()));
    ensure!(changed.len() == 1, "{} backends changed", changed.len());
    let [_, a, b, c] = change.to_be_bytes();
    let address = SocketAddr::from(([172, a, b, c], 8_080));
    let is_live =
        changed.iter().flat_map(|backend| &backend.endpoints).any(|endpoint| endpoint.address == address);
    ensure!(is_live, "{address} is not live");
    Ok(())
}

/// Prints and returns the median.
fn print_times(what: &str, times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    let at = |share: f64| times.get((times.len() as f64 * share) as usize).copied().unwrap_or_default();
    println!(
        "{what}: p50 {:?}, p99 {:?}, max {:?}",
        at(0.5),
        at(0.99),
        times.last().copied().unwrap_or_default()
    );
    at(0.5)
}

fn pick(name: &str, balance: &Balance, endpoints: u32) -> anyhow::Result<()> {
    let policy = BackendPolicy { balance: balance.clone(), ..BackendPolicy::default() };
    let (shared, mut publisher) = Shared::new(2);
    let mut table = RouteTable::default();
    table.backends.set(0, Some(backend_of(endpoints, &Arc::new(policy))));
    publisher.publish(Arc::new(table));
    let live: Arc<LiveBackend> = Arc::clone(shared.load().backends.at(0).context("backend")?);
    let now = Instant::now();
    let hashes: Vec<u64> = (0..1_024_u32).map(|n| key_hash(&n.to_le_bytes())).collect();
    let began = Instant::now();
    for hash in hashes.iter().cycle().take(PICKS as usize) {
        let picked =
            live.pick(&PickRequest { hash: *hash, exclude: &[], now, worker: 0, cap: 0, is_sticky: false })?;
        live.report(picked.endpoint(), Outcome::Success, now);
        black_box(&picked);
    }
    println!("pick + report + drop, {name}, {endpoints} endpoints: {:.1} ns", per(began.elapsed(), PICKS));
    ensure!(live.endpoints.iter().all(|endpoint| endpoint.in_flight() == 0), "requests leaked");
    Ok(())
}

/// A shared position against one per thread, on two threads at once.
fn positions() {
    let shared = AtomicU64::new(0);
    let run = |own: bool| {
        let began = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let local = Box::new(AtomicU64::new(0));
                    for _ in 0..PICKS {
                        if own {
                            let next = local.load(Relaxed);
                            local.store(black_box(next) + 1, Relaxed);
                        } else {
                            black_box(shared.fetch_add(1, Relaxed));
                        }
                    }
                });
            }
        });
        per(began.elapsed(), PICKS)
    };
    println!(
        "round-robin position, two threads at full speed: shared {:.1} ns, per thread {:.1} ns",
        run(false),
        run(true)
    );
}

fn per(elapsed: Duration, count: u32) -> f64 {
    elapsed.as_secs_f64() * 1e9 / f64::from(count)
}

/// A Service and an Ingress with a host of its own.
fn service_text(n: u32) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"Service","metadata":{{"namespace":"shop","name":"s{n}"}},"spec":{{"ports":[{{"name":"http","port":80,"targetPort":8080}}]}}}}
---
{{"apiVersion":"networking.k8s.io/v1","kind":"Ingress","metadata":{{"namespace":"shop","name":"s{n}"}},"spec":{{"rules":[{{"host":"s{n}.example","http":{{"paths":[{{"path":"/","pathType":"Prefix","backend":{{"service":{{"name":"s{n}","port":{{"number":80}}}}}}}}]}}}}]}}}}
"#
    )
}

/// The Service's EndpointSlice; with `change`, the first address is a new one in 172/8.
fn slice(n: u32, change: Option<u32>) -> anyhow::Result<Vec<Object>> {
    let address = |index: u32| match change {
        Some(change) if index == 0 => Ipv4Addr::from(change & 0xff_ffff | 172 << 24),
        Some(_) | None => Ipv4Addr::from((n * ENDPOINTS + index) | 10 << 24),
    };
    let endpoint = |index| format!(r#"{{"addresses":["{}"],"conditions":{{"ready":true}}}}"#, address(index));
    let endpoints = (0..ENDPOINTS).map(endpoint).collect::<Vec<_>>().join(",");
    decode_all(&format!(
        r#"{{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","addressType":"IPv4","metadata":{{"namespace":"shop","name":"s{n}-x","labels":{{"kubernetes.io/service-name":"s{n}"}}}},"ports":[{{"name":"http","port":8080,"protocol":"TCP"}}],"endpoints":[{endpoints}]}}"#
    ))
}

fn decode_all(text: &str) -> anyhow::Result<Vec<Object>> {
    let decoded = decode(&"bench".into(), text.as_bytes());
    ensure!(decoded.problems.is_empty(), "{:?}", decoded.problems.first());
    Ok(decoded.objects)
}

/// A backend by hand.
fn backend_of(endpoints: u32, policy: &Arc<BackendPolicy>) -> Arc<Backend> {
    let endpoint = |index: u32| Endpoint {
        address: SocketAddr::from((Ipv4Addr::from(index | 10 << 24), 8_080)),
        weight: 1,
        identity: None,
        dns_name: None,
    };
    Arc::new(Backend {
        name: "shop/web:http".into(),
        endpoints: (0..endpoints).map(endpoint).collect(),
        policy: Arc::clone(policy),
    })
}
