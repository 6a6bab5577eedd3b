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
