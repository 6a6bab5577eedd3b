use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use config::table::{Backend, BackendPolicy, Balance, HashKey, HealthPolicy, PassivePolicy, RouteTable};
use proptest::prelude::*;

use super::fixture::{address, backend, routes, table, weighted_backend};
use super::*;

mod failover;
mod health;
mod pick;
mod queue;
mod retries;
mod swap;

const SECOND: Duration = Duration::from_secs(1);

fn policy() -> BackendPolicy {
    BackendPolicy::default()
}

fn request(now: Instant) -> PickRequest<'static> {
    PickRequest { hash: 0, exclude: &[], now, worker: 0, cap: 0, is_sticky: false, ipv4: None }
}

fn only_backend(shared: &Shared) -> Arc<LiveBackend> {
    Arc::clone(shared.load().backends.at(0).unwrap())
}

/// One published backend with endpoints `10.0.0.0` … of weight 1.
fn published(count: u16, policy: BackendPolicy) -> (Arc<LiveBackend>, Publisher) {
    let (shared, mut publisher) = Shared::new(2);
    let addresses: Vec<_> = (0..count).map(address).collect();
    publisher.publish(table(&[Some(backend("shop/web:80", &addresses, &Arc::new(policy)))]));
    (only_backend(&shared), publisher)
}

fn picked(backend: &LiveBackend, now: Instant) -> SocketAddr {
    backend.pick(&request(now)).unwrap().endpoint().address
}

/// Picks `count` times without keeping anything in flight.
fn shares(backend: &LiveBackend, count: usize, now: Instant) -> HashMap<SocketAddr, usize> {
    let mut shares = HashMap::new();
    for _ in 0..count {
        *shares.entry(picked(backend, now)).or_default() += 1;
    }
    shares
}

fn fail(backend: &LiveBackend, index: usize, times: u32, now: Instant) {
    for _ in 0..times {
        backend.report(&backend.endpoints[index], Outcome::ConnectFailed, now);
    }
}
