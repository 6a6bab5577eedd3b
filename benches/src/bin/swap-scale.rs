//! What one EndpointSlice change costs in the gateway at 10,000 Services × 10 endpoints: `Live` is rebuilt and
//! stored, and endpoint state is found again. Asserts loosely and prints exactly; also prices a pick by policy
//! and the two ways to keep a round-robin position.
//!
//! `cargo run --release -p benches --bin swap-scale`

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use config::table::{Backend, BackendPolicy, Balance, Endpoint, HashKey, RouteTable};
use gateway::balance::consistent_hash::key_hash;
use gateway::live::{LiveBackend, Outcome, PickRequest, Publisher, Shared};

const SERVICES: u32 = 10_000;
const ENDPOINTS: u32 = 10;
const CHANGES: u32 = 5_000;
const PICKS: u32 = 1_000_000;

fn main() -> anyhow::Result<()> {
    let policy = Arc::new(BackendPolicy::default());
    let (shared, mut publisher) = Shared::new(2);
    let before = resident_bytes();
    let table = full_table(&policy);
    let with_table = resident_bytes();
    let began = Instant::now();
    publisher.publish(Arc::new(table.clone()));
    println!("first table: {:?} to build and store {SERVICES} × {ENDPOINTS}", began.elapsed());
    println!(
        "memory: table {} B, live state {} B per endpoint (allocator's view: resident set)",
        with_table.saturating_sub(before) / u64::from(SERVICES * ENDPOINTS),
        resident_bytes().saturating_sub(with_table) / u64::from(SERVICES * ENDPOINTS),
    );
    swap(&shared, &mut publisher, table, &policy)?;
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
    mut table: RouteTable,
    policy: &Arc<BackendPolicy>,
) -> anyhow::Result<()> {
    let mut times = Vec::new();
    for change in 0..CHANGES {
        let slot = fastrand::u32(..SERVICES);
        let neighbour = (slot + 1) % SERVICES;
        let untouched = Arc::clone(shared.load().backends.at(neighbour).context("neighbour")?);
        // The compiler's part: one slot of the table.
        let backend = backend(slot, policy, Some(change));
        let address = backend.endpoints.first().context("endpoint")?.address;
        table.backends.set(slot, Some(backend));
        let next = Arc::new(table.clone());
        let began = Instant::now();
        publisher.publish(next);
        times.push(began.elapsed());
        let live = shared.load();
        let changed = live.backends.at(slot).context("changed")?;
        ensure!(
            changed.endpoints.first().is_some_and(|endpoint| endpoint.address == address),
            "change not live"
        );
        ensure!(
            Arc::ptr_eq(&untouched, live.backends.at(neighbour).context("neighbour")?),
            "neighbour rebuilt"
        );
    }
    times.sort_unstable();
    let at = |share: f64| times.get((times.len() as f64 * share) as usize).copied().unwrap_or_default();
    println!(
        "one EndpointSlice change, build + store: p50 {:?}, p99 {:?}, max {:?}",
        at(0.5),
        at(0.99),
        at(0.9999)
    );
    ensure!(at(0.5) <= Duration::from_micros(100), "more than 100 µs at the median");
    Ok(())
}

fn pick(name: &str, balance: &Balance, endpoints: u32) -> anyhow::Result<()> {
    let policy = BackendPolicy { balance: balance.clone(), ..BackendPolicy::default() };
    let (shared, mut publisher) = Shared::new(2);
    let mut table = RouteTable::default();
    table.backends.set(0, Some(backend_of(0, endpoints, &Arc::new(policy), None)));
    publisher.publish(Arc::new(table));
    let live: Arc<LiveBackend> = Arc::clone(shared.load().backends.at(0).context("backend")?);
    let now = Instant::now();
    let hashes: Vec<u64> = (0..1_024_u32).map(|n| key_hash(&n.to_le_bytes())).collect();
    let began = Instant::now();
    for hash in hashes.iter().cycle().take(PICKS as usize) {
        let picked = live.pick(&PickRequest { hash: *hash, exclude: &[], now, worker: 0 })?;
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

fn full_table(policy: &Arc<BackendPolicy>) -> RouteTable {
    let mut table = RouteTable::default();
    for slot in 0..SERVICES {
        table.backends.set(slot, Some(backend(slot, policy, None)));
    }
    table
}

fn backend(slot: u32, policy: &Arc<BackendPolicy>, change: Option<u32>) -> Arc<Backend> {
    backend_of(slot, ENDPOINTS, policy, change)
}

/// Endpoints in 10/8; with `change`, the first one's address is a new one in 172/8.
fn backend_of(slot: u32, endpoints: u32, policy: &Arc<BackendPolicy>, change: Option<u32>) -> Arc<Backend> {
    let address = |index: u32| {
        let [_, a, b, c] = (slot * endpoints + index).to_be_bytes();
        match change {
            Some(change) if index == 0 => {
                let [_, a, b, c] = change.to_be_bytes();
                SocketAddr::from(([172, a, b, c], 8_080))
            }
            Some(_) | None => SocketAddr::from(([10, a, b, c], 8_080)),
        }
    };
    let endpoint = |index| Endpoint {
        address: address(index),
        weight: 1,
        identity: Some(format!("{slot}-{index}").into()),
        dns_name: None,
    };
    Arc::new(Backend {
        name: format!("namespace/service-{slot}:http").into(),
        endpoints: (0..endpoints).map(endpoint).collect(),
        policy: Arc::clone(policy),
    })
}

/// Resident set in bytes; 0 where `/proc` does not tell.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split_whitespace().nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * 4_096
}
