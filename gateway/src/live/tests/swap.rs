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
    publisher.publish(table(&[Some(backend("a", &both, &policy)), Some(backend("b", &both[..1], &policy))]));
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
    publisher
        .publish(Arc::new(RouteTable { routes: routes(&[Some("a"), Some("b")]), ..RouteTable::default() }));
    let count = |id: u32, times: u64| {
        let live = shared.load();
        let counters = live.route_counters(RouteId(id), 0).unwrap();
        (0..times).for_each(|_| counters.duration.observe(Duration::ZERO));
    };
    let counted = |id: u32| shared.load().routes.at(id).unwrap().sums().map(|sums| sums.requests());
    count(0, 5);
    count(1, 7);
    assert_eq!((counted(0), counted(1)), (Some(5), Some(7)));

    publisher.publish(Arc::new(RouteTable { routes: routes(&[Some("b"), None]), ..RouteTable::default() }));
    assert_eq!(counted(0), Some(7), "b keeps what it had when it moves to where a was");
    assert!(shared.load().routes.at(1).is_none());
    count(0, 1);
    assert_eq!(counted(0), Some(8));

    publisher.publish(Arc::new(RouteTable::default()));
    publisher.publish(Arc::new(RouteTable { routes: routes(&[Some("b")]), ..RouteTable::default() }));
    assert_eq!(counted(0), None, "a route that comes back begins anew");
    count(0, 2);
    assert_eq!(counted(0), Some(2));
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
