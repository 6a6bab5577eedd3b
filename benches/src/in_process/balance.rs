//! The pick of an endpoint, by policy: with the report of its outcome and the end of the request, as a worker does it.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use config::table::{Backend, BackendPolicy, Balance, Endpoint, HashKey, RouteTable};
use gateway::balance::consistent_hash::key_hash;
use gateway::live::{LiveBackend, Outcome, PickRequest, Shared};

use super::objects::PORT;
use super::{Subject, Work};

const SIZES: &[usize] = &[10, 100, 1_000, 10_000];
/// Different keys of a consistent hash.
const KEYS: u32 = 4_096;

/// See its description.
pub const ROUND_ROBIN: Subject = Subject {
    name: "pick-round-robin",
    about: "Picks an endpoint in turn, reports success and ends the request.",
    counts: "endpoints",
    sizes: SIZES,
    at_most: 0.5,
    prepare: |endpoints| picks(endpoints, Balance::RoundRobin),
};

/// See its description.
pub const LEAST_CONNECTION: Subject = Subject {
    name: "pick-least-connection",
    about: "Picks the endpoint with the fewest requests (of two, beyond 16), reports success and ends the request.",
    counts: "endpoints",
    sizes: SIZES,
    at_most: 0.5,
    prepare: |endpoints| picks(endpoints, Balance::LeastConnection),
};

/// See its description.
pub const CONSISTENT_HASH: Subject = Subject {
    name: "pick-consistent-hash",
    about: "Picks the endpoint of one of 4,096 keys, reports success and ends the request.",
    counts: "endpoints",
    sizes: SIZES,
    at_most: 0.5,
    prepare: |endpoints| picks(endpoints, Balance::ConsistentHash(HashKey::Uri)),
};

fn picks(endpoints: usize, balance: Balance) -> Result<Work> {
    let backend = backend(endpoints, &balance)?;
    let hashes: Vec<u64> = (0..KEYS).map(|key| key_hash(&key.to_le_bytes())).collect();
    let now = Instant::now();
    check(&backend, &balance, &hashes, now)?;
    let mut next = 0;
    Ok(Box::new(move |times| {
        for _ in 0..times {
            let Some(hash) = hashes.get(next) else { return };
            let Ok(picked) = backend.pick(&request(*hash, now)) else { return };
            backend.report(picked.endpoint(), Outcome::Success, now);
            black_box(&picked);
            next = if next + 1 == hashes.len() { 0 } else { next + 1 };
        }
    }))
}

fn request(hash: u64, now: Instant) -> PickRequest<'static> {
    PickRequest { hash, exclude: &[], now, worker: 0, cap: 0, is_sticky: false, ipv4: None }
}

/// Each policy keeps its promise: the same number for each endpoint, the one with the fewest, or the same for each key.
fn check(backend: &LiveBackend, balance: &Balance, hashes: &[u64], now: Instant) -> Result<()> {
    let pick = |hash| backend.pick(&request(hash, now));
    let mut counts: BTreeMap<SocketAddr, usize> = BTreeMap::new();
    let endpoints = backend.endpoints.len();
    match balance {
        Balance::RoundRobin => {
            for _ in 0..3 * endpoints {
                *counts.entry(pick(0)?.endpoint().address).or_default() += 1;
            }
            ensure!(counts.len() == endpoints && counts.values().all(|count| *count == 3), "not in turn");
        }
        Balance::LeastConnection => {
            let held = (0..endpoints).map(|_| pick(0)).collect::<Result<Vec<_>, _>>()?;
            let most = held.iter().map(|picked| picked.endpoint().in_flight()).max();
            ensure!(most <= Some(6), "{most:?} requests in flight to one of {endpoints} endpoints");
        }
        Balance::ConsistentHash(_) => {
            for hash in hashes.iter().take(256) {
                let first = pick(*hash)?.endpoint().address;
                ensure!(pick(*hash)?.endpoint().address == first, "another endpoint for the same key");
                *counts.entry(first).or_default() += 1;
            }
            ensure!(counts.len() > endpoints.min(100) / 2, "{} endpoints for 256 keys", counts.len());
        }
    }
    let in_flight: u32 = backend.endpoints.iter().map(|endpoint| endpoint.in_flight()).sum();
    ensure!(in_flight == 0, "{in_flight} requests never ended");
    Ok(())
}

fn backend(endpoints: usize, balance: &Balance) -> Result<Arc<LiveBackend>> {
    let endpoint = |index: u32| Endpoint {
        address: SocketAddr::from((Ipv4Addr::from(index | 10 << 24), PORT)),
        weight: 1,
        identity: None,
        dns_name: None,
    };
    let backend = Backend {
        name: "shop/web:http".into(),
        endpoints: (0..u32::try_from(endpoints)?).map(endpoint).collect(),
        policy: Arc::new(BackendPolicy { balance: balance.clone(), ..BackendPolicy::default() }),
    };
    let mut table = RouteTable::default();
    table.backends.set(0, Some(Arc::new(backend)));
    let (shared, mut publisher) = Shared::new(1);
    publisher.publish(Arc::new(table));
    let live = Arc::clone(shared.load().backends.at(0).context("no backend")?);
    Ok(live)
}
