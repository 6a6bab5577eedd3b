use super::*;

fn target(resource: Resource, namespace: Option<&str>) -> Target {
    Target { resource, namespace: namespace.map(Into::into), selector: None }
}

fn refused() -> Failure {
    Failure::Status { code: 403, text: "Forbidden".to_owned(), retry_after: None }
}

#[test]
fn what_is_indispensable_is_waited_for_and_the_rest_for_a_while() {
    let start = Instant::now();
    for (resource, is_waited_for) in [
        (Resource::Services, true),
        (Resource::AddressPools, true),
        (Resource::NamespaceLabels, true),
        (Resource::IngressClasses, false),
    ] {
        let progress = Progress::default();
        let id = progress.add(target(resource, None), start);
        assert!(!progress.is_settled(start));
        progress.fails(id, &refused(), start);
        assert!(!progress.is_settled(start + GRACE / 2));
        assert_eq!(progress.is_settled(start + GRACE), !is_waited_for);
        progress.is_well(id, 7, true, start);
        assert!(progress.is_settled(start));
    }
}

#[test]
fn pools_of_a_cluster_that_does_not_know_them_are_not_waited_for() {
    let start = Instant::now();
    let progress = Progress::default();
    let id = progress.add(target(Resource::AddressPools, None), start);
    let missing = Failure::Status { code: 404, text: "Not Found".to_owned(), retry_after: None };
    progress.fails(id, &missing, start);
    assert!(progress.is_settled(start));
    assert!(progress.is_missing(id));
}

#[test]
fn list_of_secrets_that_fails_is_not_waited_for() {
    let start = Instant::now();
    let progress = Progress::default();
    let id = progress.add(target(Resource::Secrets, None), start);
    assert!(!progress.is_settled(start + GRACE));
    progress.fails(id, &refused(), start);
    assert!(progress.is_settled(start));
    assert_eq!(progress.deadline(), None);
}

#[test]
fn namespace_that_may_not_be_seen_holds_others_up_only_for_a_while() {
    let start = Instant::now();
    let progress = Progress::default();
    let one = progress.add(target(Resource::Services, Some("one")), start);
    let two = progress.add(target(Resource::Services, Some("two")), start);
    progress.fails(two, &refused(), start);
    assert!(!progress.is_settled(start + GRACE));
    progress.is_well(one, 7, true, start);
    assert!(progress.is_settled(start + GRACE));
    assert_eq!(progress.lines().len(), 1);
}

#[test]
fn trouble_with_one_list_is_enough_if_nothing_is_refused() {
    let start = Instant::now();
    let progress = Progress::default();
    let services = progress.add(target(Resource::Services, None), start);
    let slices = progress.add(target(Resource::EndpointSlices, None), start);
    let busy = |code| Failure::Status { code, text: String::new(), retry_after: None };
    assert!(!progress.is_stuck(start + STUCK), "it is just slow");
    progress.is_well(services, 7, true, start);
    for code in [429, 500, 503] {
        progress.fails(slices, &busy(code), start);
        assert!(!progress.is_stuck(start + STUCK / 2));
        assert!(progress.is_stuck(start + STUCK));
    }
    progress.fails(slices, &refused(), start);
    assert!(!progress.is_stuck(start + STUCK));
    progress.is_well(slices, 7, true, start);
    assert!(!progress.is_stuck(start + STUCK));
}

#[test]
fn server_that_refuses_is_not_away() {
    let start = Instant::now();
    let progress = Progress::default();
    let id = progress.add(target(Resource::Services, None), start);
    assert!(!progress.is_away(start, start + GRACE), "nothing was heard yet");
    assert!(progress.is_away(start + GRACE, start + GRACE));
    progress.fails(id, &Failure::Unreachable("refused".to_owned()), start);
    assert!(progress.is_away(start, start + GRACE));
    progress.fails(id, &refused(), start);
    assert!(!progress.is_away(start + 2 * GRACE, start));
    progress.fails(id, &Failure::Status { code: 503, text: String::new(), retry_after: None }, start);
    assert!(progress.is_away(start + 2 * GRACE, start));
}
