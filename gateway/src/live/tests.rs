use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use config::table::{Backend, BackendPolicy, Balance, HashKey, HealthPolicy, PassivePolicy, RouteTable};
use proptest::prelude::*;

use super::fixture::{address, backend, routes, table, weighted_backend};
use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn policy() -> BackendPolicy {
    BackendPolicy::default()
}

fn request(now: Instant) -> PickRequest<'static> {
    PickRequest { hash: 0, exclude: &[], now, worker: 0 }
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

mod swap {
    use super::*;

    #[test]
    fn nothing_is_ready_before_the_first_table() {
        let (shared, mut publisher) = Shared::new(1);
        assert!(!shared.ready());
        publisher.publish(Arc::new(RouteTable::default()));
        assert!(shared.ready());
        assert_eq!(shared.version(), 1);
    }

    #[test]
    fn endpoint_state_survives_a_swap_and_a_move_to_another_slot() {
        let (shared, mut publisher) = Shared::new(1);
        let policy = Arc::new(policy());
        let web = backend("web", &[address(1), address(2)], &policy);
        publisher.publish(table(&[Some(Arc::clone(&web)), None]));
        let old = only_backend(&shared);
        let held = old.pick(&request(Instant::now())).unwrap();
        let web = backend("web", &[address(1), address(2), address(3)], &policy);
        publisher.publish(table(&[None, Some(web)]));
        let new = Arc::clone(shared.load().backends.at(1).unwrap());
        assert!(shared.load().backends.at(0).is_none());
        assert!(old.endpoints.iter().zip(&new.endpoints).all(|(a, b)| Arc::ptr_eq(a, b)));
        assert!(Arc::ptr_eq(&old.state, &new.state));
        let held_id = held.endpoint().id;
        let in_flight = |id| new.endpoints.iter().find(|endpoint| endpoint.id == id).unwrap().in_flight();
        assert_eq!(in_flight(held_id), 1);
        drop(held);
        assert_eq!(in_flight(held_id), 0);
        assert!(new.endpoints.iter().all(|endpoint| !endpoint.is_retired()));
    }

    #[test]
    fn an_unchanged_backend_is_the_same_allocation() {
        let (shared, mut publisher) = Shared::new(1);
        let policy = Arc::new(policy());
        let (a, b) = (backend("a", &[address(1)], &policy), backend("b", &[address(2)], &policy));
        publisher.publish(table(&[Some(Arc::clone(&a)), Some(b)]));
        let before = only_backend(&shared);
        publisher.publish(table(&[Some(a), Some(backend("b", &[address(3)], &policy))]));
        assert!(Arc::ptr_eq(&before, &only_backend(&shared)));
    }

    #[test]
    fn a_removed_endpoint_is_retired_at_once_and_a_shared_one_is_not() {
        let (shared, mut publisher) = Shared::new(1);
        let policy = Arc::new(policy());
        let both = [address(1), address(2)];
        publisher
            .publish(table(&[Some(backend("a", &both, &policy)), Some(backend("b", &both[..1], &policy))]));
        let old = only_backend(&shared);
        publisher.publish(table(&[None, Some(backend("b", &both[..1], &policy))]));
        assert!(!old.endpoints[0].is_retired());
        assert!(old.endpoints[1].is_retired());
        let now = Instant::now();
        assert!((0..10).all(|_| picked(&old, now) == address(1)));
    }

    #[test]
    fn a_request_that_started_before_the_swap_may_finish_with_what_was_removed() {
        let (shared, mut publisher) = Shared::new(1);
        let policy = Arc::new(policy());
        publisher.publish(table(&[Some(backend("a", &[address(1)], &policy))]));
        let old = only_backend(&shared);
        publisher.publish(table(&[Some(backend("a", &[address(2)], &policy))]));
        assert_eq!(picked(&old, Instant::now()), address(1));
        assert_eq!(picked(&only_backend(&shared), Instant::now()), address(2));
    }

    #[test]
    fn an_address_that_comes_back_is_somebody_new() {
        let (shared, mut publisher) = Shared::new(1);
        let policy = Arc::new(policy());
        let one = || table(&[Some(backend("a", &[address(1)], &policy))]);
        publisher.publish(one());
        let before = only_backend(&shared).endpoints[0].id;
        publisher.publish(table(&[None]));
        publisher.publish(one());
        assert_ne!(before, only_backend(&shared).endpoints[0].id);
    }

    #[test]
    fn an_address_with_another_identity_inherits_nothing() {
        let (shared, mut publisher) = Shared::new(1);
        let policy = Arc::new(policy());
        let with_identity = |uid: &str| {
            let mut backend = Backend::clone(&backend("a", &[address(1)], &policy));
            let mut endpoint = backend.endpoints[0].clone();
            endpoint.identity = Some(uid.into());
            backend.endpoints = [endpoint].into();
            table(&[Some(Arc::new(backend))])
        };
        publisher.publish(with_identity("first"));
        let first = only_backend(&shared);
        fail(&first, 0, 3, Instant::now());
        publisher.publish(with_identity("second"));
        assert!(!first.endpoints[0].is_healthy() && first.endpoints[0].is_retired());
        assert!(only_backend(&shared).endpoints[0].is_healthy());
    }

    #[test]
    fn route_counters_belong_to_the_route_and_not_to_its_slot() {
        let (shared, mut publisher) = Shared::new(1);
        publisher.publish(Arc::new(RouteTable {
            routes: routes(&[Some("a"), Some("b")]),
            ..RouteTable::default()
        }));
        let state = Arc::clone(shared.load().routes.at(1).unwrap());
        publisher
            .publish(Arc::new(RouteTable { routes: routes(&[Some("b"), None]), ..RouteTable::default() }));
        assert!(Arc::ptr_eq(&state, shared.load().routes.at(0).unwrap()));
        assert!(shared.load().routes.at(1).is_none());
        publisher.publish(Arc::new(RouteTable::default()));
        publisher.publish(Arc::new(RouteTable { routes: routes(&[Some("b")]), ..RouteTable::default() }));
        assert!(!Arc::ptr_eq(&state, shared.load().routes.at(0).unwrap()));
    }

    #[test]
    fn an_old_table_is_freed_once_nobody_holds_it() {
        let (shared, mut publisher) = Shared::new(1);
        let policy = Arc::new(policy());
        publisher.publish(table(&[Some(backend("a", &[address(1)], &policy))]));
        let guard = shared.load();
        let old = Arc::downgrade(&*guard);
        publisher.publish(Arc::new(RouteTable::default()));
        assert!(old.upgrade().is_some());
        drop(guard);
        let end = Instant::now() + 10 * SECOND;
        while old.strong_count() > 0 {
            assert!(Instant::now() < end, "still held");
            std::thread::yield_now();
        }
    }

    proptest! {
        /// Whatever the order of tables, what is live is what the table says, with state for exactly that.
        #[test]
        fn live_follows_the_table(steps in prop::collection::vec(prop::collection::vec(prop::option::of((0_u8..4, prop::collection::btree_set(0_u16..6, 0..5))), 0..70), 1..12)) {
            let (shared, mut publisher) = Shared::new(1);
            let policy = Arc::new(policy());
            let mut ids: HashMap<SocketAddr, u64> = HashMap::new();
            let mut states: Vec<Arc<EndpointState>> = Vec::new();
            for step in steps {
                let backends: Vec<_> = step.iter().map(|slot| slot.as_ref().map(|(name, endpoints)| {
                    let addresses: Vec<_> = endpoints.iter().map(|n| address(*n)).collect();
                    backend(&format!("b{name}"), &addresses, &policy)
                })).collect();
                publisher.publish(table(&backends));
                let live = shared.load();
                let mut now_ids = HashMap::new();
                for (slot, expected) in (0..).zip(&backends) {
                    let found = live.backends.at(slot);
                    prop_assert_eq!(found.is_some(), expected.is_some());
                    let (Some(found), Some(expected)) = (found, expected) else { continue };
                    prop_assert!(Arc::ptr_eq(&found.config, expected));
                    for (state, endpoint) in found.endpoints.iter().zip(expected.endpoints.iter()) {
                        prop_assert_eq!(state.address, endpoint.address);
                        prop_assert!(!state.is_retired());
                        // One state per address, and the same one as in the table before.
                        prop_assert_eq!(*now_ids.entry(state.address).or_insert(state.id), state.id);
                        if let Some(before) = ids.get(&state.address) {
                            prop_assert_eq!(*before, state.id);
                        }
                        states.push(Arc::clone(state));
                    }
                }
                for state in &states {
                    prop_assert_eq!(state.is_retired(), now_ids.get(&state.address) != Some(&state.id));
                }
                ids = now_ids;
            }
        }
    }
}

mod pick {
    use super::*;

    #[test]
    fn round_robin_honours_weights_and_keeps_its_position_across_swaps() {
        let (shared, mut publisher) = Shared::new(1);
        let policy = Arc::new(policy());
        let now = Instant::now();
        let mut shares: HashMap<SocketAddr, usize> = HashMap::new();
        for version in 0..70_u16 {
            let other = backend("other", &[address(100 + version)], &policy);
            let web = weighted_backend("web", &[(address(1), 3), (address(2), 4)], &policy);
            publisher.publish(table(&[Some(web), Some(other)]));
            *shares.entry(picked(&only_backend(&shared), now)).or_default() += 1;
        }
        assert_eq!(shares, HashMap::from([(address(1), 30), (address(2), 40)]));
    }

    #[test]
    fn a_failed_endpoint_is_not_picked_again_while_another_exists() {
        let (backend, _publisher) = published(2, policy());
        let now = Instant::now();
        let failed = [backend.endpoints[0].id];
        for _ in 0..50 {
            let picked = backend.pick(&PickRequest { exclude: &failed, ..request(now) }).unwrap();
            assert_eq!(picked.endpoint().address, address(1));
        }
        let all = [backend.endpoints[0].id, backend.endpoints[1].id];
        assert!(backend.pick(&PickRequest { exclude: &all, ..request(now) }).is_ok());
    }

    #[test]
    fn without_endpoints_there_is_none() {
        let (backend, _publisher) = published(0, policy());
        assert_eq!(backend.pick(&request(Instant::now())).unwrap_err(), PickError::NoEndpoint);
    }

    #[test]
    fn at_the_cap_of_all_a_pick_says_so_and_a_dropped_request_makes_room() {
        let (backend, _publisher) = published(2, BackendPolicy { max_requests_per_endpoint: 2, ..policy() });
        let now = Instant::now();
        let mut held: Vec<_> = (0..4).map(|_| backend.pick(&request(now)).unwrap()).collect();
        assert_eq!(backend.pick(&request(now)).unwrap_err(), PickError::AtCapacity);
        // Waiting for the other endpoint is better than asking the one that just failed.
        let failed = [backend.endpoints[0].id];
        held.retain(|held| held.endpoint().id != failed[0]);
        let retry = PickRequest { exclude: &failed, ..request(now) };
        assert_eq!(backend.pick(&retry).unwrap_err(), PickError::AtCapacity);
        held.pop();
        assert_eq!(backend.pick(&retry).unwrap().endpoint().address, address(1));
    }

    #[test]
    fn a_request_in_flight_counts_until_dropped_even_by_a_panic() {
        let (backend, _publisher) = published(1, policy());
        let now = Instant::now();
        let held = backend.pick(&request(now)).unwrap();
        assert_eq!(backend.endpoints[0].in_flight(), 1);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _second = backend.pick(&request(now)).unwrap();
            panic!("a bug in one connection");
        }));
        assert!(result.is_err());
        drop(held);
        assert_eq!(backend.endpoints[0].in_flight(), 0);
    }

    #[test]
    fn least_connection_picks_the_idle_one() {
        let (backend, _publisher) =
            published(3, BackendPolicy { balance: Balance::LeastConnection, ..policy() });
        let now = Instant::now();
        let held: Vec<_> = (0..9).map(|_| backend.pick(&request(now)).unwrap()).collect();
        assert!(backend.endpoints.iter().all(|endpoint| endpoint.in_flight() == 3));
        drop(held);
    }

    #[test]
    fn consistent_hash_asks_for_a_key_and_sticks_to_it() {
        let policy = BackendPolicy { balance: Balance::ConsistentHash(HashKey::Uri), ..policy() };
        let (backend, _publisher) = published(5, policy);
        assert_eq!(backend.needs_hash(), Some(&HashKey::Uri));
        let now = Instant::now();
        let hash = crate::balance::consistent_hash::key_hash(b"/cart");
        let of_key = || backend.pick(&PickRequest { hash, ..request(now) }).unwrap().endpoint().address;
        let home = of_key();
        assert!((0..20).all(|_| of_key() == home));
    }

    #[test]
    fn capped_picks_from_many_threads_never_exceed_the_cap() {
        let cap = 3;
        let (backend, _publisher) =
            published(2, BackendPolicy { max_requests_per_endpoint: cap, ..policy() });
        std::thread::scope(|scope| {
            for worker in 0..2 {
                let backend = &backend;
                scope.spawn(move || {
                    let now = Instant::now();
                    let mut held = std::collections::VecDeque::new();
                    for _ in 0..20_000 {
                        match backend.pick(&PickRequest { worker, ..request(now) }) {
                            Ok(picked) => held.push_back(picked),
                            Err(_) => drop(held.pop_front()),
                        }
                        assert!(backend.endpoints.iter().all(|endpoint| endpoint.in_flight() <= cap));
                    }
                });
            }
        });
        assert!(backend.endpoints.iter().all(|endpoint| endpoint.in_flight() == 0));
    }

    fn balance() -> impl Strategy<Value = Balance> {
        prop_oneof![
            Just(Balance::RoundRobin),
            Just(Balance::LeastConnection),
            Just(Balance::ConsistentHash(HashKey::SourceIp))
        ]
    }

    proptest! {
        /// Never an unhealthy or excluded endpoint while one that is neither exists; always some endpoint.
        #[test]
        fn unhealthy_and_excluded_endpoints_are_left_alone_while_others_exist(
            balance in balance(),
            count in 1_u16..40,
            unhealthy: u64,
            excluded: u64,
            hashes in prop::collection::vec(0_u64..1 << 32, 1..20),
        ) {
            let (backend, _publisher) = published(count, BackendPolicy { balance, panic_threshold: 0, ..policy() });
            let now = Instant::now();
            let set = |mask: u64, index: usize| mask >> index & 1 == 1;
            let all = 0..usize::from(count);
            all.clone().filter(|index| set(unhealthy, *index)).for_each(|index| fail(&backend, index, 3, now));
            let exclude: Vec<u64> =
                all.clone().filter(|index| set(excluded, *index)).map(|index| backend.endpoints[index].id).collect();
            let healthy_left = all.clone().any(|index| !set(unhealthy, index));
            let mut all = all;
            let best_left = all.any(|index| !set(unhealthy, index) && !set(excluded, index));
            for hash in hashes {
                let request = PickRequest { hash, exclude: &exclude, now, worker: 0 };
                match backend.pick(&request) {
                    Err(error) => prop_assert!(!healthy_left && error == PickError::NoEndpoint),
                    Ok(picked) => {
                        let endpoint = picked.endpoint();
                        prop_assert!(endpoint.is_healthy());
                        prop_assert!(!best_left || !exclude.contains(&endpoint.id));
                    }
                }
            }
        }
    }
}

mod health {
    use super::*;

    #[test]
    fn an_ejected_endpoint_gets_nothing_until_one_trial_succeeds() {
        let (backend, _publisher) = published(3, policy());
        let now = Instant::now();
        fail(&backend, 1, 3, now);
        assert!(!shares(&backend, 300, now + SECOND).contains_key(&address(1)));
        let later = now + 5 * SECOND;
        let held: Vec<_> = (0..30).map(|_| backend.pick(&request(later)).unwrap()).collect();
        let trials = held.iter().filter(|held| held.endpoint().address == address(1)).count();
        assert_eq!(trials, 1);
        backend.report(&backend.endpoints[1], Outcome::Success, later);
        drop(held);
        assert_eq!(shares(&backend, 300, later)[&address(1)], 100);
    }

    #[test]
    fn a_trial_that_is_abandoned_is_given_to_the_next_request() {
        let (backend, _publisher) = published(2, policy());
        let now = Instant::now();
        fail(&backend, 0, 3, now);
        let later = now + 6 * SECOND;
        for _ in 0..3 {
            let picks: Vec<_> = (0..4).map(|_| backend.pick(&request(later)).unwrap()).collect();
            assert_eq!(picks.iter().filter(|pick| pick.endpoint().address == address(0)).count(), 1);
        }
    }

    #[test]
    fn when_most_endpoints_look_bad_health_is_ignored() {
        let (backend, _publisher) = published(4, policy());
        let now = Instant::now();
        fail(&backend, 0, 3, now);
        fail(&backend, 1, 3, now);
        assert_eq!(shares(&backend, 400, now), HashMap::from([(address(2), 200), (address(3), 200)]));
        fail(&backend, 2, 3, now);
        assert!(backend.status().ignores_health);
        assert_eq!(shares(&backend, 400, now).len(), 4);
    }

    #[test]
    fn a_retry_goes_to_a_healthy_endpoint_even_when_health_is_ignored() {
        let (backend, _publisher) = published(4, policy());
        let now = Instant::now();
        (0..3).for_each(|index| fail(&backend, index, 3, now));
        let failed = [backend.endpoints[0].id];
        for _ in 0..20 {
            let retry = backend.pick(&PickRequest { exclude: &failed, ..request(now) }).unwrap();
            assert_eq!(retry.endpoint().address, address(3));
        }
    }

    #[test]
    fn a_single_endpoint_keeps_its_traffic_however_it_fails() {
        let (backend, _publisher) = published(1, policy());
        let now = Instant::now();
        fail(&backend, 0, 100, now);
        assert!(!backend.endpoints[0].is_healthy());
        assert_eq!(picked(&backend, now), address(0));
    }

    #[test]
    fn no_more_than_the_configured_share_is_ejected() {
        let passive = PassivePolicy { max_ejected: 34, ..PassivePolicy::default() };
        let health = Arc::new(HealthPolicy { active: None, passive: Some(passive) });
        let (backend, _publisher) = published(6, BackendPolicy { health, ..policy() });
        let now = Instant::now();
        (0..6).for_each(|index| fail(&backend, index, 5, now));
        assert_eq!(backend.endpoints.iter().filter(|endpoint| !endpoint.is_healthy()).count(), 2);
    }

    #[test]
    fn health_is_shared_by_every_backend_with_the_same_policy() {
        let (shared, mut publisher) = Shared::new(1);
        let policy = Arc::new(policy());
        let addresses = [address(1), address(2)];
        publisher.publish(table(&[
            Some(backend("a", &addresses, &policy)),
            Some(backend("b", &addresses, &Arc::new(BackendPolicy::default()))),
        ]));
        let now = Instant::now();
        fail(&only_backend(&shared), 0, 3, now);
        let other = Arc::clone(shared.load().backends.at(1).unwrap());
        assert!((0..10).all(|_| picked(&other, now) == address(2)));
    }

    #[test]
    fn without_a_passive_policy_nothing_is_ejected() {
        let health = Arc::new(HealthPolicy { active: None, passive: None });
        let (backend, _publisher) = published(2, BackendPolicy { health, ..policy() });
        fail(&backend, 0, 100, Instant::now());
        assert!(backend.endpoints[0].is_healthy());
    }

    #[test]
    fn a_new_endpoint_starts_slowly_and_those_of_the_first_table_do_not() {
        let (shared, mut publisher) = Shared::new(1);
        let policy = Arc::new(BackendPolicy { slow_start: 10 * SECOND, ..policy() });
        publisher.publish(table(&[Some(backend("a", &[address(1), address(2)], &policy))]));
        assert_eq!(shares(&only_backend(&shared), 100, Instant::now())[&address(1)], 50);
        let before = Instant::now();
        publisher.publish(table(&[Some(backend("a", &[address(1), address(2), address(3)], &policy))]));
        let backend = only_backend(&shared);
        // A quarter of its share: 1 of 9 requests instead of 1 of 3.
        let quarter = before + SECOND * 10 / 4;
        let new = shares(&backend, 9_000, quarter)[&address(3)];
        assert!((900..=1_100).contains(&new), "{new}");
        assert_eq!(shares(&backend, 300, before + 11 * SECOND)[&address(3)], 100);
    }

    #[test]
    fn a_recovered_endpoint_starts_slowly() {
        let (backend, _publisher) = published(3, BackendPolicy { slow_start: 10 * SECOND, ..policy() });
        let now = Instant::now();
        fail(&backend, 0, 3, now);
        let back = now + 5 * SECOND;
        backend.report(&backend.endpoints[0], Outcome::Success, back);
        let half = shares(&backend, 5_000, back + 5 * SECOND)[&address(0)];
        assert!((950..=1_050).contains(&half), "{half} of 5,000, expected 1/5");
    }

    #[test]
    fn a_success_without_recent_failures_touches_nothing() {
        let (backend, _publisher) = published(1, policy());
        let endpoint = &backend.endpoints[0];
        let now = Instant::now();
        assert!(!endpoint.wants_successes());
        backend.report(endpoint, Outcome::Reset, now);
        assert!(endpoint.wants_successes());
        backend.report(endpoint, Outcome::Success, now);
        assert!(!endpoint.wants_successes());
    }

    #[test]
    fn status_tells_why_and_for_how_long() {
        let (backend, _publisher) = published(2, policy());
        let now = Instant::now();
        fail(&backend, 0, 3, now);
        let status = backend.status();
        assert_eq!(status.healthy, 1);
        let bad = &status.endpoints[0];
        assert_eq!(bad.health, HealthStatus::Ejected);
        assert!((4_000..=5_000).contains(&bad.ejected_for_ms), "{bad:?}");
        let text = serde_json::to_string(&status).unwrap();
        assert!(text.contains(r#""cause":"consecutive-failures""#), "{text}");
    }

    #[test]
    fn an_endpoint_costs_at_most_400_bytes() {
        assert!(size_of::<EndpointState>() <= 400, "{}", size_of::<EndpointState>());
    }
}

mod queue {
    use super::*;

    fn capped(queue_size: u32, queue_timeout: Duration) -> (Arc<LiveBackend>, Publisher) {
        published(1, BackendPolicy { max_requests_per_endpoint: 1, queue_size, queue_timeout, ..policy() })
    }

    fn run<F: Future>(future: F) -> F::Output {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(future)
    }

    #[test]
    fn a_waiting_request_gets_the_slot_that_becomes_free() {
        run(async {
            let (backend, _publisher) = capped(1, 60 * SECOND);
            let held = backend.pick(&request(Instant::now())).unwrap();
            let waiter = {
                let backend = Arc::clone(&backend);
                tokio::spawn(async move { backend.wait_for_slot(&request(Instant::now())).await.map(drop) })
            };
            tokio::task::yield_now().await;
            assert_eq!(backend.state.queued(), 1);
            drop(held);
            assert_eq!(waiter.await.unwrap(), Ok(()));
            assert_eq!(backend.state.queued(), 0);
        });
    }

    #[test]
    fn a_full_or_absent_queue_refuses_at_once() {
        run(async {
            let (backend, _publisher) = capped(0, SECOND);
            let _held = backend.pick(&request(Instant::now())).unwrap();
            let refused = backend.wait_for_slot(&request(Instant::now())).await;
            assert_eq!(refused.unwrap_err(), PickError::AtCapacity);
            let counters = backend.state.counters.of(0).unwrap();
            assert_eq!((counters.queued.value(), counters.queue_rejected.value()), (0, 1));
        });
    }

    #[test]
    fn who_waited_first_is_served_first_and_nobody_overtakes() {
        run(async {
            let (backend, _publisher) = capped(10, 60 * SECOND);
            let mut held = Some(backend.pick(&request(Instant::now())).unwrap());
            let (sender, mut served) = tokio::sync::mpsc::unbounded_channel();
            for number in 0..5 {
                let (backend, sender) = (Arc::clone(&backend), sender.clone());
                tokio::spawn(async move {
                    let slot = backend.wait_for_slot(&request(Instant::now())).await.unwrap();
                    sender.send((number, slot)).ok();
                });
                tokio::task::yield_now().await;
            }
            for expected in 0..5 {
                drop(held.take());
                // The slot is free for this instant, but it belongs to those who wait.
                assert_eq!(backend.pick(&request(Instant::now())).unwrap_err(), PickError::AtCapacity);
                let (number, slot) = served.recv().await.unwrap();
                assert_eq!(number, expected);
                held = Some(slot);
            }
        });
    }

    #[test]
    fn a_waiter_that_gives_up_passes_its_turn_on() {
        run(async {
            let (backend, _publisher) = capped(10, 60 * SECOND);
            let held = backend.pick(&request(Instant::now())).unwrap();
            let wait = |backend: Arc<LiveBackend>| async move {
                backend.wait_for_slot(&request(Instant::now())).await.map(drop)
            };
            let first = tokio::spawn(wait(Arc::clone(&backend)));
            tokio::task::yield_now().await;
            let second = tokio::spawn(wait(Arc::clone(&backend)));
            tokio::task::yield_now().await;
            drop(held);
            first.abort();
            assert_eq!(second.await.unwrap(), Ok(()));
            assert_eq!(backend.state.queued(), 0);
        });
    }

    #[test]
    fn waiting_ends_with_the_queue_timeout() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let (backend, _publisher) = capped(10, Duration::from_millis(30));
            let _held = backend.pick(&request(Instant::now())).unwrap();
            let began = Instant::now();
            let refused = backend.wait_for_slot(&request(began)).await;
            assert_eq!(refused.unwrap_err(), PickError::AtCapacity);
            assert!(began.elapsed() >= Duration::from_millis(30));
        });
    }

    #[test]
    fn slots_freed_on_one_thread_wake_waiters_on_another() {
        let (backend, _publisher) = capped(100, 60 * SECOND);
        let served = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            for worker in 0..2 {
                let (backend, served) = (&backend, &served);
                scope.spawn(move || {
                    let runtime =
                        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
                    runtime.block_on(async {
                        for _ in 0..2_000 {
                            let request = PickRequest { worker, ..request(Instant::now()) };
                            let slot = match backend.pick(&request) {
                                Ok(slot) => slot,
                                Err(_) => backend.wait_for_slot(&request).await.unwrap(),
                            };
                            tokio::task::yield_now().await;
                            drop(slot);
                            served.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        }
                    });
                });
            }
        });
        assert_eq!(served.into_inner(), 4_000);
        assert_eq!(backend.endpoints[0].in_flight(), 0);
    }
}

mod retries {
    use super::*;

    #[test]
    fn first_attempts_earn_retries_and_further_attempts_do_not() {
        let (backend, _publisher) = published(2, policy());
        while backend.retry_allowed() {}
        let now = Instant::now();
        let failed = [backend.endpoints[0].id];
        (0..1_000).for_each(|_| drop(backend.pick(&PickRequest { exclude: &failed, ..request(now) })));
        assert!((0..20).filter(|_| backend.retry_allowed()).count() <= 3);
        (0..1_000).for_each(|_| drop(backend.pick(&request(now))));
        let earned = (0..1_000).filter(|_| backend.retry_allowed()).count();
        assert!((95..=110).contains(&earned), "{earned}");
    }
}
