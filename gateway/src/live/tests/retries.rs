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
