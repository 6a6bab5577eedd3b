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
fn of_both_families_only_the_one_that_is_asked_for_is_picked() {
    let six = |n: u16| SocketAddr::from(([0xfd00, 0, 0, 0, 0, 0, 0, n], 80));
    for balance in [Balance::RoundRobin, Balance::LeastConnection, Balance::ConsistentHash(HashKey::SourceIp)]
    {
        let (shared, mut publisher) = Shared::new(2);
        let policy = Arc::new(BackendPolicy { balance, ..policy() });
        let all = [address(1), address(2), six(1), six(2)];
        publisher.publish(table(&[Some(backend("web", &all, &policy))]));
        let backend_of_both = only_backend(&shared);
        let now = Instant::now();
        for hash in 0..50 {
            for ipv4 in [true, false] {
                let request = PickRequest { hash, ipv4: Some(ipv4), ..request(now) };
                let picked = backend_of_both.pick_for([192, 0, 2, 1].into(), Some(SECOND), &request).unwrap();
                assert_eq!(picked.endpoint().address.is_ipv4(), ipv4);
                // Nor is the other family better than one that has failed.
                let failed: Vec<u64> = backend_of_both.endpoints.iter().map(|one| one.id).collect();
                let retry = PickRequest { exclude: &failed, ..request };
                assert_eq!(backend_of_both.pick(&retry).unwrap().endpoint().address.is_ipv4(), ipv4);
            }
        }
        publisher.publish(table(&[Some(backend("web", &[address(1)], &policy))]));
        let request = PickRequest { ipv4: Some(false), ..request(now) };
        assert_eq!(only_backend(&shared).pick(&request).unwrap_err(), PickError::OtherFamily);
    }
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
    let (backend, _publisher) = published(3, BackendPolicy { balance: Balance::LeastConnection, ..policy() });
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
    let (backend, _publisher) = published(2, BackendPolicy { max_requests_per_endpoint: cap, ..policy() });
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

#[test]
fn first_connections_of_a_client_that_come_at_once_go_to_one_endpoint() {
    const THREADS: usize = 4;
    let (backend, _publisher) = published(8, policy());
    let start = std::sync::Barrier::new(THREADS);
    for round in 0..500_u32 {
        let client = std::net::IpAddr::from(std::net::Ipv4Addr::from_bits(round));
        let affinity = Some(Duration::from_secs(60));
        let chosen: Vec<u64> = std::thread::scope(|scope| {
            let pick = |worker| {
                let (backend, start) = (&backend, &start);
                scope.spawn(move || {
                    start.wait();
                    let request = PickRequest { worker, ..request(Instant::now()) };
                    backend.pick_for(client, affinity, &request).unwrap().endpoint().id
                })
            };
            let threads: Vec<_> = (0..THREADS).map(pick).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(chosen.iter().all(|id| *id == chosen[0]), "{chosen:?}");
    }
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
            let request = PickRequest { hash, exclude: &exclude, now, worker: 0, cap: 0, is_sticky: false, ipv4: None };
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
