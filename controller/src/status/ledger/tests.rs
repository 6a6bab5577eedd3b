use config::report::Kind;

use super::*;

mod services;
mod simulation;

const MANAGER: &str = "sluicegate/test";

fn moment(ms: u64) -> Moment {
    Moment::at(Duration::from_millis(ms))
}

fn object(name: &str) -> ObjectRef {
    ObjectRef { kind: Kind::Ingress, namespace: "shop".into(), name: name.into() }
}

fn address(text: &str) -> Address {
    Address::ip(text).or_else(|| Address::hostname(text)).unwrap()
}

fn addresses(texts: &[&str]) -> BTreeSet<Address> {
    texts.iter().map(|text| address(text)).collect()
}

fn entries(texts: &[&str]) -> Box<[Entry]> {
    texts.iter().map(|text| Entry::of(address(text))).collect()
}

fn seen(name: &str, version: u64, texts: &[&str]) -> Observed {
    Observed {
        object: object(name),
        uid: name.into(),
        resource_version: version.to_string().into(),
        entries: entries(texts),
        writer: None,
        service: None,
    }
}

/// A ledger that leads, publishes 192.0.2.1 and 2001:db8::1, and has seen a compile.
fn ledger() -> Ledger {
    let mut ledger = Ledger::new(Scope::Shared, MANAGER.into(), false, fastrand::Rng::with_seed(7));
    ledger.publish(addresses(&["192.0.2.1", "2001:db8::1"]), moment(0));
    ledger.record(addresses(&["192.0.2.1", "2001:db8::1"]), moment(0));
    ledger.compiled(moment(0));
    ledger.lead(true, moment(0));
    ledger
}

fn task(ledger: &mut Ledger, ms: u64) -> Task {
    match ledger.next(moment(ms)) {
        Next::Task(task) => task,
        other @ Next::Wait(_) => panic!("{other:?}"),
    }
}

fn written(task: &Task) -> Vec<String> {
    match &task.action {
        Action::Write { entries, .. } => entries.iter().map(Entry::to_json).collect(),
        Action::Look | Action::Finalize { .. } => panic!("{task:?}"),
    }
}

fn is_quiet(ledger: &mut Ledger, ms: u64) -> bool {
    matches!(ledger.next(moment(ms)), Next::Wait(_))
}

#[test]
fn ingress_of_ours_gets_our_addresses_once() {
    let mut ledger = ledger();
    ledger.observe(seen("a", 1, &[]), moment(0));
    assert!(is_quiet(&mut ledger, 0), "it is not ours yet");
    ledger.claim(&object("a"), true, moment(0));
    let task = task(&mut ledger, 0);
    assert_eq!(written(&task), [r#"{"ip":"192.0.2.1"}"#, r#"{"ip":"2001:db8::1"}"#]);
    assert!(is_quiet(&mut ledger, 0), "one request at a time");
    let done = seen("a", 2, &["192.0.2.1", "2001:db8::1"]);
    ledger.outcome(&task, Outcome::Done(done.clone()), moment(5));
    ledger.observe(done, moment(6));
    ledger.observe(seen("a", 1, &[]), moment(7));
    assert!(is_quiet(&mut ledger, 7), "an older version came late");
}

#[test]
fn order_and_form_of_addresses_do_not_matter() {
    let mut ledger = ledger();
    ledger.claim(&object("a"), true, moment(0));
    let mut observed = seen("a", 1, &["2001:db8::1", "192.0.2.1"]);
    observed.entries[0].text = Some(r#"{"ip":"2001:DB8:0::1"}"#.into());
    ledger.observe(observed, moment(0));
    assert!(is_quiet(&mut ledger, 0));
}

#[test]
fn entries_of_others_stay_as_they_are() {
    let mut ledger = ledger();
    ledger.claim(&object("a"), true, moment(0));
    let mut observed = seen("a", 1, &["203.0.113.9", "192.0.2.1"]);
    let text = r#"{"hostname":"x.example","ports":[]}"#;
    observed.entries =
        observed.entries.iter().cloned().chain([Entry { address: None, text: Some(text.into()) }]).collect();
    ledger.observe(observed, moment(0));
    let task = task(&mut ledger, 0);
    assert_eq!(
        written(&task),
        [r#"{"ip":"203.0.113.9"}"#, text, r#"{"ip":"192.0.2.1"}"#, r#"{"ip":"2001:db8::1"}"#]
    );
    assert_eq!(ledger.figures(moment(0)).foreign, 1);
}

#[test]
fn entries_are_taken_back_when_the_class_changes() {
    let mut ledger = ledger();
    ledger.claim(&object("a"), true, moment(0));
    ledger.observe(seen("a", 1, &["203.0.113.9", "192.0.2.1", "2001:db8::1"]), moment(0));
    assert!(is_quiet(&mut ledger, 0));
    ledger.claim(&object("a"), false, moment(1));
    let task = task(&mut ledger, 1);
    assert_eq!(written(&task), [r#"{"ip":"203.0.113.9"}"#]);
    // Whose class it is now publishes the same address: that is not ours to take back.
    ledger.outcome(&task, Outcome::Done(seen("a", 2, &["203.0.113.9"])), moment(2));
    let mut theirs = seen("a", 3, &["192.0.2.1"]);
    theirs.writer = Some("other".into());
    ledger.observe(theirs, moment(3));
    assert!(is_quiet(&mut ledger, 60_000));
}

#[test]
fn what_another_confirms_while_it_is_being_taken_back_stays() {
    let by = |writer: &str, version, texts: &[&str]| Observed {
        writer: Some(writer.into()),
        ..seen("a", version, texts)
    };
    for is_told_first in [true, false] {
        let mut ledger = ledger();
        ledger.claim(&object("a"), true, moment(0));
        ledger.observe(by(MANAGER, 1, &["192.0.2.1", "2001:db8::1"]), moment(0));
        ledger.claim(&object("a"), false, moment(1));
        let taking = task(&mut ledger, 1);
        // Whose it is now publishes the same address, and was faster.
        let theirs = by("other", 2, &["192.0.2.1"]);
        if is_told_first {
            ledger.observe(theirs.clone(), moment(2));
            ledger.outcome(&taking, Outcome::Conflict, moment(3));
        } else {
            ledger.outcome(&taking, Outcome::Conflict, moment(2));
            let look = task(&mut ledger, 2_000);
            assert_eq!(look.action, Action::Look);
            ledger.outcome(&look, Outcome::Done(theirs.clone()), moment(2_001));
        }
        assert!(is_quiet(&mut ledger, 60_000), "{is_told_first}");
    }
}

#[test]
fn what_another_only_adds_to_is_taken_back_all_the_same() {
    let mut ledger = ledger();
    ledger.claim(&object("a"), true, moment(0));
    let ours = Observed { writer: Some(MANAGER.into()), ..seen("a", 1, &["192.0.2.1", "2001:db8::1"]) };
    ledger.observe(ours, moment(0));
    ledger.claim(&object("a"), false, moment(1));
    let taking = task(&mut ledger, 1);
    let merged = seen("a", 2, &["192.0.2.1", "2001:db8::1", "203.0.113.9"]);
    ledger.observe(Observed { writer: Some("other".into()), ..merged }, moment(2));
    ledger.outcome(&taking, Outcome::Conflict, moment(3));
    assert_eq!(written(&task(&mut ledger, 2_000)), [r#"{"ip":"203.0.113.9"}"#]);
}

#[test]
fn what_a_former_process_wrote_is_taken_back_when_it_is_certain_whose_it_is() {
    let mut ledger = Ledger::new(Scope::Shared, MANAGER.into(), false, fastrand::Rng::with_seed(7));
    ledger.lead(true, moment(0));
    ledger.record(addresses(&["192.0.2.1", "192.0.2.7"]), moment(0));
    ledger.publish(addresses(&["192.0.2.1"]), moment(0));
    for (name, writer) in [("mine", MANAGER), ("theirs", "other")] {
        let mut observed = seen(name, 1, &["192.0.2.7", "192.0.2.1"]);
        observed.writer = Some(writer.into());
        ledger.observe(observed, moment(0));
    }
    assert!(is_quiet(&mut ledger, 60_000), "nothing was compiled yet");
    ledger.compiled(moment(60_000));
    let task = task(&mut ledger, 60_000);
    assert_eq!(task.object, object("mine"));
    assert!(written(&task).is_empty());
    assert!(is_quiet(&mut ledger, 60_000));
}

#[test]
fn nothing_is_written_nor_taken_back_before_claims_are_certain() {
    let mut ledger = Ledger::new(Scope::Shared, MANAGER.into(), false, fastrand::Rng::with_seed(7));
    ledger.lead(true, moment(0));
    ledger.record(addresses(&["192.0.2.1"]), moment(0));
    ledger.publish(addresses(&["192.0.2.1"]), moment(0));
    let written_by =
        |name, texts, writer: &str| Observed { writer: Some(writer.into()), ..seen(name, 1, texts) };
    ledger.observe(written_by("ours", &[], "other"), moment(0));
    ledger.observe(written_by("unclassed", &["192.0.2.1"], MANAGER), moment(0));
    ledger.observe(written_by("lost", &["192.0.2.1"], "other"), moment(0));
    for name in ["ours", "lost"] {
        ledger.claim(&object(name), true, moment(0));
    }
    assert!(is_quiet(&mut ledger, 60_000));
    ledger.claim(&object("lost"), false, moment(60_000));
    ledger.claim(&object("unclassed"), true, moment(60_000));
    ledger.compiled(moment(60_000));
    assert_eq!(task(&mut ledger, 60_000).object, object("ours"));
    assert!(is_quiet(&mut ledger, 90_000), "what was never ours for certain is not taken back");
}

#[test]
fn without_classes_names_are_enough_to_write_and_not_to_take_back_from_strangers() {
    let mut ledger = Ledger::new(Scope::Shared, MANAGER.into(), false, fastrand::Rng::with_seed(7));
    ledger.lead(true, moment(0));
    ledger.record(addresses(&["192.0.2.1"]), moment(0));
    ledger.publish(addresses(&["192.0.2.1"]), moment(0));
    let written_by =
        |name, texts, writer: &str| Observed { writer: Some(writer.into()), ..seen(name, 1, texts) };
    ledger.observe(written_by("named", &[], "other"), moment(0));
    ledger.observe(written_by("classed", &["192.0.2.1"], MANAGER), moment(0));
    ledger.claim(&object("named"), true, moment(0));
    assert!(is_quiet(&mut ledger, 0));
    ledger.compiled_by_name(moment(1));
    let first = task(&mut ledger, 1);
    assert_eq!(first.object, object("named"));
    let done = Observed { writer: Some(MANAGER.into()), ..seen("named", 2, &["192.0.2.1"]) };
    ledger.outcome(&first, Outcome::Done(done), moment(2));
    ledger.compiled_by_name(moment(3));
    assert!(is_quiet(&mut ledger, 600_000), "its class may be ours");
    ledger.claim(&object("named"), false, moment(600_000));
    assert!(written(&task(&mut ledger, 600_000)).is_empty());
}

#[test]
fn stranger_is_left_alone_for_a_moment_after_it_appears() {
    let mut ledger = ledger();
    let mut observed = seen("a", 1, &["192.0.2.1"]);
    observed.writer = Some(MANAGER.into());
    ledger.observe(observed, moment(0));
    ledger.compiled(moment(1));
    assert_eq!(ledger.next(moment(1)), Next::Wait(Some(moment(10_000))));
    assert!(matches!(ledger.next(moment(10_000)), Next::Task(_)));
}

#[test]
fn other_addresses_replace_the_former_ones() {
    let mut ledger = ledger();
    ledger.claim(&object("a"), true, moment(0));
    ledger.observe(seen("a", 1, &["192.0.2.1", "2001:db8::1"]), moment(0));
    ledger.publish(addresses(&["lb.example"]), moment(1));
    assert!(is_quiet(&mut ledger, 1), "nobody would know them for ours");
    ledger.record(addresses(&["192.0.2.1", "2001:db8::1", "lb.example"]), moment(2));
    let task = task(&mut ledger, 2);
    assert_eq!(written(&task), [r#"{"hostname":"lb.example"}"#]);
    ledger.outcome(&task, Outcome::Done(seen("a", 2, &["lb.example"])), moment(3));
    let all = addresses(&["192.0.2.1", "2001:db8::1", "lb.example"]);
    assert_eq!(ledger.known_addresses(moment(100_000)), Some(all), "a change may come late");
    assert_eq!(ledger.known_addresses(moment(3_800_000)), Some(addresses(&["lb.example"])));
}

#[test]
fn former_addresses_are_remembered_for_as_long_as_they_stand_somewhere() {
    let mut ledger = ledger();
    ledger.claim(&object("a"), true, moment(0));
    ledger.observe(seen("a", 1, &["192.0.2.1", "2001:db8::1"]), moment(0));
    ledger.publish(addresses(&["lb.example"]), moment(1));
    for now in [0, 3_600_000, 7_200_000] {
        let all = addresses(&["192.0.2.1", "2001:db8::1", "lb.example"]);
        assert_eq!(ledger.known_addresses(moment(now)), Some(all));
    }
}

#[test]
fn no_address_is_no_entry() {
    let mut ledger = ledger();
    ledger.claim(&object("a"), true, moment(0));
    ledger.observe(seen("a", 1, &["192.0.2.1", "2001:db8::1"]), moment(0));
    ledger.publish(addresses(&[]), moment(1));
    assert!(written(&task(&mut ledger, 1)).is_empty());
}

#[test]
fn nothing_is_written_by_those_who_do_not_lead() {
    let mut ledger = ledger();
    ledger.lead(false, moment(0));
    ledger.observe(seen("a", 1, &[]), moment(0));
    ledger.claim(&object("a"), true, moment(0));
    assert_eq!(ledger.next(moment(0)), Next::Wait(None));
    ledger.lead(true, moment(1));
    assert!(matches!(ledger.next(moment(1)), Next::Task(_)), "what is to be done was known all the time");
}

#[test]
fn conflict_is_looked_at_and_tried_again_at_most_five_times() {
    let mut ledger = ledger();
    ledger.claim(&object("a"), true, moment(0));
    ledger.observe(seen("a", 1, &[]), moment(0));
    let (mut now, mut version, mut writes) = (0, 1, 0);
    while now < 29_000 {
        match ledger.next(moment(now)) {
            Next::Task(task @ Task { action: Action::Look, .. }) => {
                version += 1;
                ledger.outcome(&task, Outcome::Done(seen("a", version, &[])), moment(now));
            }
            Next::Task(task) => {
                writes += 1;
                ledger.outcome(&task, Outcome::Conflict, moment(now));
            }
            Next::Wait(Some(until)) => now = u64::try_from(until.since(moment(0)).as_millis()).unwrap() + 1,
            Next::Wait(None) => break,
        }
    }
    assert_eq!(writes, 5);
}

#[test]
fn conflict_after_which_news_came_needs_no_look() {
    let mut ledger = ledger();
    ledger.claim(&object("a"), true, moment(0));
    ledger.observe(seen("a", 1, &[]), moment(0));
    let first = task(&mut ledger, 0);
    ledger.observe(seen("a", 2, &[]), moment(1));
    ledger.outcome(&first, Outcome::Conflict, moment(2));
    let again = task(&mut ledger, 50);
    assert!(matches!(&again.action, Action::Write { version, .. } if &**version == "2"));
}

#[test]
fn status_that_somebody_else_undoes_is_given_up_for_a_time() {
    let mut ledger = ledger();
    ledger.claim(&object("a"), true, moment(0));
    ledger.observe(seen("a", 1, &[]), moment(0));
    let (mut version, mut told) = (1, 0);
    for round in 0..20 {
        let now = round * 20_000;
        if let Next::Task(task) = ledger.next(moment(now)) {
            let done = seen("a", version + 1, &["192.0.2.1", "2001:db8::1"]);
            ledger.outcome(&task, Outcome::Done(done), moment(now));
            version += 2;
            told +=
                u32::from(ledger.observe(seen("a", version, &["203.0.113.9"]), moment(now + 1)).contended);
        }
    }
    assert_eq!((version, told), (11, 1), "five writes, and it was told once");
    assert_eq!(ledger.figures(moment(100_000)).contended, 1);
    // Another try after the time; if it is undone again, it is given up at once.
    let again = task(&mut ledger, 700_000);
    ledger.outcome(&again, Outcome::Done(seen("a", 12, &["192.0.2.1", "2001:db8::1"])), moment(700_000));
    assert!(ledger.observe(seen("a", 13, &["203.0.113.9"]), moment(700_001)).contended);
}

#[test]
fn failing_server_is_asked_less_and_less_and_one_thing_at_a_time() {
    let mut ledger = ledger();
    for name in 0..50 {
        ledger.claim(&object(&name.to_string()), true, moment(0));
        ledger.observe(seen(&name.to_string(), 1, &[]), moment(0));
    }
    let (mut now, mut requests) = (0, 0);
    while now < 120_000 {
        match ledger.next(moment(now)) {
            Next::Task(task) => {
                requests += 1;
                ledger.outcome(&task, Outcome::Failed, moment(now));
            }
            Next::Wait(Some(until)) => now = u64::try_from(until.since(moment(0)).as_millis()).unwrap() + 1,
            Next::Wait(None) => panic!("nothing waits"),
        }
    }
    assert!((8..=16).contains(&requests), "{requests}");
}

#[test]
fn server_that_says_how_long_is_left_alone_that_long() {
    let mut ledger = ledger();
    ledger.claim(&object("a"), true, moment(0));
    ledger.observe(seen("a", 1, &[]), moment(0));
    let first = task(&mut ledger, 0);
    ledger.outcome(&first, Outcome::Busy(Some(Duration::from_secs(20))), moment(0));
    assert_eq!(ledger.next(moment(1)), Next::Wait(Some(moment(20_000))));
    let second = task(&mut ledger, 20_000);
    ledger.outcome(&second, Outcome::Busy(Some(Duration::from_secs(86_400))), moment(20_000));
    assert_eq!(ledger.next(moment(20_001)), Next::Wait(Some(moment(80_000))), "but not for a day");
}

#[test]
fn one_forbidden_namespace_does_not_hold_up_others() {
    let mut ledger = ledger();
    for name in 0..20 {
        ledger.claim(&object(&name.to_string()), true, moment(0));
        ledger.observe(seen(&name.to_string(), 1, &[]), moment(0));
    }
    let denied = task(&mut ledger, 0);
    ledger.outcome(&denied, Outcome::Denied, moment(0));
    assert!(is_quiet(&mut ledger, 1), "no more of this namespace");
    let other = ObjectRef { namespace: "other".into(), ..object("a") };
    ledger.claim(&other, true, moment(2));
    ledger.observe(Observed { object: other.clone(), ..seen("a", 1, &[]) }, moment(2));
    assert_eq!(task(&mut ledger, 2).object, other);
    assert!(matches!(ledger.next(moment(31_000)), Next::Task(_)), "it is tried again");
}

#[test]
fn what_changed_goes_first_and_the_rest_does_not_starve() {
    let mut ledger = ledger();
    for name in 0..100 {
        let name = format!("old-{name}");
        ledger.claim(&object(&name), true, moment(0));
        ledger.observe(seen(&name, 1, &["192.0.2.1", "2001:db8::1"]), moment(0));
    }
    ledger.record(addresses(&["192.0.2.1", "2001:db8::1", "192.0.2.2"]), moment(0));
    ledger.publish(addresses(&["192.0.2.2"]), moment(0));
    for name in 0..30 {
        let name = format!("new-{name}");
        ledger.claim(&object(&name), true, moment(1));
        ledger.observe(seen(&name, 1, &[]), moment(1));
    }
    let mut order = String::new();
    for _ in 0..32 {
        let task = task(&mut ledger, 1);
        order.push(task.object.name.chars().next().unwrap());
        let mut done = seen(&task.object.name, 2, &["192.0.2.2"]);
        done.object = task.object.clone();
        ledger.outcome(&task, Outcome::Done(done), moment(1));
    }
    assert_eq!(order, "nnnnnnno".repeat(4));
}

#[test]
fn thousand_new_ingresses_take_a_thousand_writes_at_a_bounded_rate() {
    let mut ledger = ledger();
    for name in 0..1_000 {
        ledger.observe(seen(&name.to_string(), 1, &[]), moment(0));
        ledger.claim(&object(&name.to_string()), true, moment(0));
    }
    let (mut now, mut version) = (0, 1);
    let (mut writes, mut in_flight) = (0, Vec::new());
    loop {
        match ledger.next(moment(now)) {
            Next::Task(task) => {
                writes += 1;
                in_flight.push(task);
                assert!(in_flight.len() <= 10);
            }
            Next::Wait(until) => {
                let is_waiting = until.is_some() || !in_flight.is_empty();
                for task in in_flight.drain(..) {
                    version += 1;
                    let done = Observed {
                        object: task.object.clone(),
                        ..seen(&task.object.name, version, &["192.0.2.1", "2001:db8::1"])
                    };
                    ledger.outcome(&task, Outcome::Done(done.clone()), moment(now));
                    ledger.observe(done, moment(now));
                }
                if !is_waiting {
                    break;
                }
                now += 1;
            }
        }
    }
    assert_eq!(writes, 1_000);
    assert!((2_900..4_000).contains(&now), "{now} ms");
}

#[test]
fn object_that_was_made_anew_is_another_object() {
    let mut ledger = ledger();
    ledger.claim(&object("a"), true, moment(0));
    ledger.observe(seen("a", 1, &[]), moment(0));
    let old = task(&mut ledger, 0);
    let new = Observed { uid: "another".into(), ..seen("a", 5, &[]) };
    ledger.observe(new, moment(1));
    let again = task(&mut ledger, 1);
    ledger.outcome(&old, Outcome::Gone, moment(2));
    assert!(is_quiet(&mut ledger, 2));
    let done = Observed { uid: "another".into(), ..seen("a", 6, &["192.0.2.1", "2001:db8::1"]) };
    ledger.outcome(&again, Outcome::Done(done), moment(3));
    assert!(ledger.is_idle());
}

#[test]
fn nothing_is_kept_of_objects_that_are_gone() {
    let mut ledger = ledger();
    for name in 0..100 {
        let name = name.to_string();
        ledger.observe(seen(&name, 1, &[]), moment(0));
        ledger.claim(&object(&name), true, moment(0));
        ledger.gone(&object(&name), moment(0));
        ledger.claim(&object(&name), false, moment(1));
    }
    assert!(is_quiet(&mut ledger, 1));
    assert!(ledger.items.is_empty() && ledger.hot.is_empty() && ledger.is_idle());
}

#[test]
fn nothing_is_kept_of_strangers_that_are_gone_where_claims_are_never_certain() {
    let mut ledger = Ledger::new(Scope::Shared, MANAGER.into(), false, fastrand::Rng::with_seed(7));
    ledger.compiled_by_name(moment(0));
    for name in ["a", "b"] {
        ledger.observe(seen(name, 1, &["203.0.113.9"]), moment(0));
        ledger.claim(&object(name), true, moment(0));
        ledger.claim(&object(name), false, moment(0));
    }
    assert_eq!(ledger.unsettled.len(), 2, "each of them once");
    ledger.gone(&object("a"), moment(1));
    assert_eq!(ledger.unsettled.len(), 1, "what is there is looked at when claims are certain");
    ledger.claim(&object("b"), true, moment(1));
    ledger.gone(&object("b"), moment(2));
    ledger.claim(&object("b"), false, moment(3));
    assert!(ledger.unsettled.is_empty());
}

#[test]
fn message_that_came_late_is_believed_if_nothing_follows_it() {
    let mut ledger = ledger();
    ledger.claim(&object("a"), true, moment(0));
    ledger.observe(seen("a", 8, &[]), moment(0));
    let first = task(&mut ledger, 0);
    ledger.outcome(&first, Outcome::Done(seen("a", 9, &["192.0.2.1", "2001:db8::1"])), moment(0));
    // The server was restored from a backup, and its versions began again.
    ledger.observe(seen("a", 3, &[]), moment(1_000));
    assert_eq!(ledger.next(moment(1_000)), Next::Wait(Some(moment(10_000))));
    let look = task(&mut ledger, 10_000);
    assert_eq!(look.action, Action::Look);
    ledger.outcome(&look, Outcome::Done(seen("a", 3, &[])), moment(10_001));
    assert!(matches!(task(&mut ledger, 10_001).action, Action::Write { .. }));
}

#[test]
fn claim_that_is_lost_twice_is_taken_back_once() {
    let mut ledger = ledger();
    ledger.claim(&object("a"), true, moment(0));
    ledger.observe(seen("a", 1, &["192.0.2.1", "2001:db8::1"]), moment(0));
    ledger.claim(&object("a"), false, moment(1));
    ledger.claim(&object("a"), false, moment(1));
    assert!(written(&task(&mut ledger, 1)).is_empty());
}

#[test]
fn object_that_is_not_chosen_any_more_is_looked_for_and_left_without_our_entries() {
    let mut ledger = ledger();
    ledger.verifies_gone = true;
    for name in ["deleted", "relabelled"] {
        ledger.claim(&object(name), true, moment(0));
        ledger.observe(seen(name, 1, &["192.0.2.1", "2001:db8::1"]), moment(0));
        ledger.gone(&object(name), moment(1));
        ledger.claim(&object(name), false, moment(1));
    }
    let (first, second) = (task(&mut ledger, 1), task(&mut ledger, 1));
    assert_eq!((&first.action, &second.action), (&Action::Look, &Action::Look));
    ledger.outcome(&first, Outcome::Gone, moment(2));
    ledger.outcome(&second, Outcome::Done(seen("relabelled", 2, &["192.0.2.1"])), moment(2));
    let third = task(&mut ledger, 2);
    assert!(written(&third).is_empty());
    ledger.outcome(&third, Outcome::Done(seen("relabelled", 3, &[])), moment(3));
    assert!(is_quiet(&mut ledger, 3));
    assert_eq!(ledger.figures(moment(3)).pending, 0);
}

#[test]
fn object_that_ceased_to_be_chosen_while_nobody_led_is_left_without_our_entries() {
    let mut ledger = ledger();
    let by_us =
        |name| Observed { writer: Some(MANAGER.into()), ..seen(name, 1, &["192.0.2.1", "203.0.113.9"]) };
    ledger.claim(&object("known"), true, moment(0));
    ledger.observe(Observed { entries: entries(&["192.0.2.1", "2001:db8::1"]), ..by_us("known") }, moment(0));
    for name in ["known", "stray", "late"] {
        ledger.stray(by_us(name), moment(1));
    }
    ledger.stray(Observed { entries: entries(&["203.0.113.9"]), ..by_us("emptied") }, moment(1));
    // It was new, and is told of only now.
    ledger.observe(Observed { entries: entries(&["192.0.2.1", "2001:db8::1"]), ..by_us("late") }, moment(50));
    ledger.claim(&object("late"), true, moment(60));
    assert!(is_quiet(&mut ledger, 9_000));
    let look = task(&mut ledger, 10_002);
    assert_eq!((&look.object, &look.action), (&object("stray"), &Action::Look));
    ledger.outcome(&look, Outcome::Done(by_us("stray")), moment(10_003));
    let write = task(&mut ledger, 10_003);
    assert_eq!(written(&write), [r#"{"ip":"203.0.113.9"}"#]);
    assert!(is_quiet(&mut ledger, 60_000));
    assert_eq!(ledger.items.len(), 3);
}

#[test]
fn queues_do_not_grow_while_nothing_is_written() {
    let mut ledger = ledger();
    ledger.lead(false, moment(0));
    ledger.claim(&object("a"), true, moment(0));
    for version in 0..1_000 {
        ledger.observe(seen("a", version, &[]), moment(version));
        ledger
            .publish(addresses(&[if version % 2 == 0 { "192.0.2.1" } else { "192.0.2.2" }]), moment(version));
    }
    assert!(ledger.hot.len() + ledger.cold.len() <= 2, "{} {}", ledger.hot.len(), ledger.cold.len());
}

#[test]
fn write_that_is_changed_on_its_way_is_not_repeated_at_once() {
    let mut ledger = ledger();
    ledger.claim(&object("a"), true, moment(0));
    ledger.observe(seen("a", 1, &[]), moment(0));
    let (mut now, mut writes, mut version) = (0, 0, 1);
    while now < 590_000 {
        match ledger.next(moment(now)) {
            Next::Task(task) => {
                (writes, version) = (writes + 1, version + 1);
                ledger.outcome(&task, Outcome::Done(seen("a", version, &["203.0.113.9"])), moment(now));
            }
            Next::Wait(Some(until)) => now = u64::try_from(until.since(moment(0)).as_millis()).unwrap(),
            Next::Wait(None) => panic!("nothing waits"),
        }
    }
    assert_eq!(writes, 5);
}

#[test]
fn address_with_more_than_we_write_is_there() {
    let mut ledger = ledger();
    ledger.claim(&object("a"), true, moment(0));
    let mut observed = seen("a", 1, &["2001:db8::1"]);
    let text = r#"{"ip":"192.0.2.1","ports":[{"port":80,"protocol":"TCP"}]}"#;
    observed.entries =
        observed.entries.iter().cloned().chain([Entry { address: None, text: Some(text.into()) }]).collect();
    ledger.observe(observed, moment(0));
    assert!(is_quiet(&mut ledger, 0));
}

#[test]
fn entry_that_something_on_the_way_added_to_is_taken_back_if_it_is_ours() {
    let more = |address: &str| Entry {
        address: None,
        text: Some(format!(r#"{{"ip":"{address}","ipMode":"Proxy"}}"#).into()),
    };
    for (writer, expected) in [(Some(MANAGER), 1), (Some("other"), 2), (None, 2)] {
        let mut ledger = ledger();
        let with = |version| Observed {
            entries: [more("192.0.2.1"), more("203.0.113.9"), Entry::of(address("2001:db8::1"))].into(),
            writer: writer.map(Into::into),
            ..seen("a", version, &[])
        };
        ledger.claim(&object("a"), true, moment(0));
        ledger.observe(with(1), moment(0));
        assert!(is_quiet(&mut ledger, 0), "all is there");
        ledger.claim(&object("a"), false, moment(1));
        assert_eq!(written(&task(&mut ledger, 1)).len(), expected, "{writer:?}");
    }
}

#[test]
fn namespace_in_which_writes_fail_does_not_hold_up_others() {
    let mut ledger = ledger();
    let other = |name: &str| ObjectRef { namespace: "other".into(), ..object(name) };
    for name in 0..100 {
        let name = name.to_string();
        for object in [object(&name), other(&name)] {
            ledger.claim(&object, true, moment(0));
            ledger.observe(Observed { object, ..seen(&name, 1, &[]) }, moment(0));
        }
    }
    let (mut now, mut failed, mut done) = (0, 0, 0);
    while now < 10_000 {
        match ledger.next(moment(now)) {
            Next::Task(task) if *task.object.namespace == *"shop" => {
                failed += 1;
                ledger.outcome(&task, Outcome::Failed, moment(now));
            }
            Next::Task(task) => {
                done += 1;
                let observed = seen(&task.object.name, 2, &["192.0.2.1", "2001:db8::1"]);
                let observed = Observed { object: task.object.clone(), ..observed };
                ledger.outcome(&task, Outcome::Done(observed), moment(now));
            }
            Next::Wait(Some(until)) => now = u64::try_from(until.since(moment(0)).as_millis()).unwrap() + 1,
            Next::Wait(None) => break,
        }
        assert!(done == 100 || now < 1_000, "{done} after {now} ms");
    }
    assert!(failed <= 6, "{failed}");
}

/// Makes requests from 0 until `end`, in milliseconds. `fails` says of a name and a time whether a write fails. Returns when
/// each write was tried, in order.
fn run(ledger: &mut Ledger, end: u64, fails: impl Fn(&str, u64) -> bool) -> Vec<(String, u64)> {
    let (mut now, mut tried) = (0, Vec::new());
    while now < end {
        match ledger.next(moment(now)) {
            Next::Task(task) => {
                let name = task.object.name.to_string();
                tried.push((name.clone(), now));
                let outcome = match fails(&name, now) {
                    true => Outcome::Failed,
                    false => Outcome::Done(seen(&name, 2, &["192.0.2.1", "2001:db8::1"])),
                };
                ledger.outcome(&task, outcome, moment(now));
            }
            Next::Wait(Some(until)) => now = u64::try_from(until.since(moment(0)).as_millis()).unwrap() + 1,
            Next::Wait(None) => break,
        }
    }
    tried
}

#[test]
fn server_that_failed_for_seconds_is_made_up_for_in_seconds() {
    for many in [1, 2, 50] {
        let mut ledger = ledger();
        for name in 0..many {
            ledger.claim(&object(&name.to_string()), true, moment(0));
            ledger.observe(seen(&name.to_string(), 1, &[]), moment(0));
        }
        let tried = run(&mut ledger, 60_000, |_, now| now < 4_000);
        let done: Vec<u64> = tried.iter().map(|(_, at)| *at).filter(|at| *at >= 4_000).collect();
        assert_eq!(done.len(), many, "{tried:?}");
        assert!(done.iter().all(|at| *at < 10_000), "{tried:?}");
    }
}

#[test]
fn object_on_which_the_server_fails_holds_up_no_other() {
    for bad in ["00", "25", "49"] {
        let mut ledger = ledger();
        for name in 0..50 {
            let name = format!("{name:02}");
            ledger.claim(&object(&name), true, moment(0));
            ledger.observe(seen(&name, 1, &[]), moment(0));
        }
        let tried = run(&mut ledger, 600_000, |name, _| name == bad);
        let (failed, done): (Vec<_>, Vec<_>) = tried.into_iter().partition(|(name, _)| name == bad);
        assert_eq!(done.len(), 49);
        assert!(done.iter().all(|(_, at)| *at < 5_000), "{bad}: {done:?}");
        assert!((5..=60).contains(&failed.len()), "{bad}: {failed:?}");
    }
}

#[test]
fn new_claim_or_address_ends_every_pause() {
    let mut ledger = ledger();
    ledger.record(addresses(&["192.0.2.1", "2001:db8::1", "192.0.2.2"]), moment(0));
    ledger.claim(&object("a"), true, moment(0));
    ledger.observe(seen("a", 1, &[]), moment(0));
    let first = task(&mut ledger, 0);
    ledger.outcome(&first, Outcome::Invalid, moment(0));
    assert!(is_quiet(&mut ledger, 1_000));
    ledger.publish(addresses(&["192.0.2.2"]), moment(1_000));
    task(&mut ledger, 1_000);
}

#[test]
fn replica_that_does_not_lead_keeps_no_queues() {
    let mut ledger = ledger();
    ledger.verifies_gone = true;
    ledger.lead(false, moment(0));
    for version in 1..1_000 {
        let name = version.to_string();
        ledger.claim(&object(&name), true, moment(0));
        ledger.observe(seen(&name, version, &["192.0.2.1"]), moment(0));
        ledger.gone(&object(&name), moment(0));
        ledger.claim(&object(&name), false, moment(0));
    }
    assert_eq!((ledger.items.len(), ledger.hot.len(), ledger.timers.len()), (0, 0, 0));
}

#[test]
fn object_that_was_made_anew_within_one_table_is_still_ours() {
    let mut ledger = ledger();
    ledger.verifies_gone = true;
    ledger.claim(&object("a"), true, moment(0));
    ledger.observe(seen("a", 1, &["192.0.2.1", "2001:db8::1"]), moment(0));
    ledger.gone(&object("a"), moment(1));
    ledger.observe(Observed { uid: "another".into(), ..seen("a", 3, &[]) }, moment(1));
    assert_eq!(written(&task(&mut ledger, 1)).len(), 2);
}
