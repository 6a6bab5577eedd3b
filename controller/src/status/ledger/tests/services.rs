//! Services with load balancers: each gets addresses and a condition of its own, and its finalizer before and after them.

use super::*;
use crate::status::observed::{Balancer, FINALIZER};

fn service(name: &str) -> ObjectRef {
    ObjectRef { kind: Kind::Service, namespace: "shop".into(), name: name.into() }
}

fn balancers() -> Ledger {
    let mut ledger = Ledger::new(Scope::Whole, MANAGER.into(), false, fastrand::Rng::with_seed(7));
    ledger.lead(true, moment(0));
    ledger.compiled(moment(0));
    ledger
}

fn desired(addresses: &[&str], lack: Option<&'static str>) -> Desired {
    let addresses = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
    Desired { addresses, lack: lack.map(|reason| (reason, "why".to_owned())) }
}

fn condition(is_true: bool, reason: &str, message: &str) -> Option<Condition> {
    Some(Condition { is_true, reason: reason.into(), message: message.into(), since: Some("then".into()) })
}

/// The Service in `version`, with these addresses; `others` are finalizers.
fn seen(version: u64, addresses: &[&str], finalizers: &[&str], condition: Option<Condition>) -> Observed {
    let entry = |ip: &&str| Entry::of(Address::Proxy(ip.parse().unwrap()));
    Observed {
        object: service("web"),
        uid: "u".into(),
        resource_version: version.to_string().into(),
        entries: addresses.iter().map(entry).collect(),
        writer: None,
        service: Some(Box::new(Balancer {
            is_asked: true,
            is_deleting: false,
            finalizer_by: None,
            finalizers: finalizers.iter().map(|name| Arc::from(*name)).collect(),
            condition,
            others: [r#"{"type":"other"}"#.into()].into(),
        })),
    }
}

const ASSIGNED: &str = "it has the addresses that it asks for";

fn finalizers(task: &Task) -> Vec<&str> {
    match &task.action {
        Action::Finalize { finalizers, .. } => finalizers.iter().map(|name| &**name).collect(),
        other => panic!("{other:?}"),
    }
}

/// What is written: addresses, and the reason of the condition.
fn told(task: &Task) -> (Vec<String>, Option<String>) {
    let Action::Write { conditions: Some(conditions), .. } = &task.action else { panic!("{task:?}") };
    assert_eq!(conditions.others.len(), 1, "those of others stay");
    (written(task), conditions.ours.as_ref().map(|ours| ours.reason.to_string()))
}

fn done(ledger: &mut Ledger, task: &Task, observed: Observed, ms: u64) {
    ledger.outcome(task, Outcome::Done(observed), moment(ms));
}

#[test]
fn a_service_gets_its_finalizer_then_its_address_and_loses_them_the_other_way_round() {
    let mut ledger = balancers();
    ledger.observe(seen(1, &[], &["x/y"], None), moment(0));
    assert!(is_quiet(&mut ledger, 0), "it is not ours yet");
    ledger.desire(&service("web"), Some(&desired(&["192.0.2.1"], None)), moment(0));
    let first = task(&mut ledger, 0);
    assert_eq!(finalizers(&first), ["x/y", FINALIZER]);
    done(&mut ledger, &first, seen(2, &[], &["x/y", FINALIZER], None), 5);
    let second = task(&mut ledger, 5);
    let expected = (vec![r#"{"ip":"192.0.2.1","ipMode":"Proxy"}"#.to_owned()], Some("Assigned".to_owned()));
    assert_eq!(told(&second), expected);
    let assigned = condition(true, "Assigned", ASSIGNED);
    done(&mut ledger, &second, seen(3, &["192.0.2.1"], &["x/y", FINALIZER], assigned), 10);
    assert!(is_quiet(&mut ledger, 10));
    ledger.desire(&service("web"), None, moment(20));
    let third = task(&mut ledger, 20);
    assert_eq!(told(&third), (vec![], None));
    done(&mut ledger, &third, seen(4, &[], &["x/y", FINALIZER], None), 25);
    let last = task(&mut ledger, 25);
    assert_eq!(finalizers(&last), ["x/y"]);
    done(&mut ledger, &last, seen(5, &[], &["x/y"], None), 30);
    assert!(is_quiet(&mut ledger, 30));
}

#[test]
fn a_condition_says_why_there_is_no_address_and_keeps_its_time() {
    let mut ledger = balancers();
    ledger.observe(seen(1, &[], &[], condition(false, "NoPool", "why")), moment(0));
    ledger.desire(&service("web"), Some(&desired(&[], Some("PoolExhausted"))), moment(0));
    let task = task(&mut ledger, 0);
    assert_eq!(told(&task), (vec![], Some("PoolExhausted".to_owned())));
    let Action::Write { conditions: Some(conditions), .. } = &task.action else { panic!("{task:?}") };
    assert_eq!(conditions.ours.as_ref().unwrap().since.as_deref(), Some("then"), "it was false before");
}

#[test]
fn what_somebody_else_wrote_to_a_service_of_ours_is_replaced() {
    let mut ledger = balancers();
    let mut observed = seen(1, &["192.0.2.1"], &[FINALIZER], condition(true, "Assigned", ASSIGNED));
    observed.entries =
        [Entry { address: None, text: Some(r#"{"ip":"192.0.2.1","ipMode":"VIP"}"#.into()) }].into();
    ledger.observe(observed, moment(0));
    ledger.desire(&service("web"), Some(&desired(&["192.0.2.1"], None)), moment(0));
    assert_eq!(written(&task(&mut ledger, 0)), [r#"{"ip":"192.0.2.1","ipMode":"Proxy"}"#]);
}

#[test]
fn a_service_of_another_type_gets_nothing_and_a_refusal_of_its_former_self_does_not_count() {
    let mut ledger = balancers();
    ledger.observe(seen(1, &[], &[FINALIZER], None), moment(0));
    ledger.desire(&service("web"), Some(&desired(&["192.0.2.1"], None)), moment(0));
    let write = task(&mut ledger, 0);
    let mut other = seen(2, &[], &[FINALIZER], None);
    if let Some(service) = &mut other.service {
        service.is_asked = false;
    }
    ledger.observe(other, moment(1));
    ledger.outcome(&write, Outcome::Invalid, moment(2));
    assert!(is_quiet(&mut ledger, 2), "a server takes no addresses for it");
    ledger.desire(&service("web"), None, moment(3));
    assert_eq!(finalizers(&task(&mut ledger, 3)), Vec::<&str>::new());
}

#[test]
fn whoever_leads_again_writes_nothing_before_it_has_decided_again() {
    let mut ledger = balancers();
    let stands = || {
        let assigned = condition(true, "Assigned", ASSIGNED);
        Observed { writer: Some(MANAGER.into()), ..seen(1, &["192.0.2.1"], &[FINALIZER], assigned) }
    };
    ledger.observe(stands(), moment(0));
    ledger.desire(&service("web"), Some(&desired(&["192.0.2.9"], None)), moment(0));
    ledger.lead(false, moment(1));
    ledger.lead(true, moment(20_000));
    assert!(is_quiet(&mut ledger, 60_000), "it stood there before, and may be right");
    ledger.desire(&service("web"), Some(&desired(&["192.0.2.1"], None)), moment(60_000));
    ledger.compiled(moment(60_000));
    assert!(is_quiet(&mut ledger, 120_000));
}

#[test]
fn what_a_former_leader_left_is_taken_back_and_what_is_of_others_never_is() {
    let mut ledger = balancers();
    let mut theirs = seen(1, &["192.0.2.1"], &[FINALIZER], None);
    theirs.writer = Some("cloud".into());
    ledger.observe(theirs.clone(), moment(0));
    ledger.compiled(moment(1));
    assert!(is_quiet(&mut ledger, 30_000));
    let mut ledger = balancers();
    theirs.writer = Some(MANAGER.into());
    ledger.observe(theirs, moment(0));
    assert!(is_quiet(&mut ledger, 30_000), "nobody has decided whose it is");
    ledger.compiled(moment(30_000));
    assert_eq!(told(&task(&mut ledger, 30_000)).0, Vec::<String>::new());
}

/// The same while it is being deleted; `by` put the finalizer there.
fn ending(by: &str, writer: &str, observed: Observed) -> Observed {
    let mut observed = Observed { writer: Some(writer.into()), ..observed };
    if let Some(service) = &mut observed.service {
        (service.is_deleting, service.finalizer_by) = (true, Some(by.into()));
    }
    observed
}

#[test]
fn a_finalizer_of_a_former_installation_goes_when_the_service_is_deleted() {
    let assigned = || condition(true, "Assigned", ASSIGNED);
    let cases = [
        // Under another Lease; and its status was edited since.
        ("sluicegate/old/other", "sluicegate/old/other"),
        ("sluicegate/old/other", "kubectl-edit"),
        (MANAGER, "kubectl-edit"),
    ];
    for (by, writer) in cases {
        let mut ledger = balancers();
        ledger.observe(seen(1, &["192.0.2.1"], &[FINALIZER], assigned()), moment(0));
        ledger.compiled(moment(1));
        assert!(is_quiet(&mut ledger, 30_000), "it is not being deleted");
        ledger.observe(ending(by, writer, seen(2, &["192.0.2.1"], &[FINALIZER], assigned())), moment(30_000));
        let first = task(&mut ledger, 30_000);
        assert_eq!(
            told(&first),
            (vec![], Some("Assigned".to_owned())),
            "whoever comes next knows whose it is"
        );
        done(&mut ledger, &first, ending(by, MANAGER, seen(3, &[], &[FINALIZER], assigned())), 30_005);
        assert_eq!(finalizers(&task(&mut ledger, 30_005)), Vec::<&str>::new());
    }
}

#[test]
fn a_finalizer_of_others_stays_when_the_service_is_deleted() {
    // Nobody of us put it there; and who gave it addresses since needs it now.
    for (by, condition) in [("cloud", condition(false, "NoPool", "why")), ("sluicegate/old/other", None)] {
        let mut ledger = balancers();
        let observed = ending(by, "cloud", seen(1, &["192.0.2.1"], &[FINALIZER], condition));
        ledger.observe(observed, moment(0));
        ledger.compiled(moment(1));
        assert!(is_quiet(&mut ledger, 60_000), "{by}");
    }
}

#[test]
fn a_service_whose_namespace_is_not_chosen_any_more_loses_what_we_wrote() {
    let mut ledger = Ledger::new(Scope::Whole, MANAGER.into(), true, fastrand::Rng::with_seed(7));
    ledger.lead(true, moment(0));
    let stands = |version, addresses: &[&str], condition| Observed {
        writer: Some(MANAGER.into()),
        ..seen(version, addresses, &[FINALIZER], condition)
    };
    let assigned = condition(true, "Assigned", ASSIGNED);
    ledger.observe(stands(1, &["192.0.2.1"], assigned.clone()), moment(0));
    ledger.desire(&service("web"), Some(&desired(&["192.0.2.1"], None)), moment(0));
    ledger.compiled(moment(0));
    assert!(is_quiet(&mut ledger, 1));
    ledger.gone(&service("web"), moment(2));
    ledger.desire(&service("web"), None, moment(2));
    let look = task(&mut ledger, 2);
    assert_eq!(look.action, Action::Look);
    done(&mut ledger, &look, stands(1, &["192.0.2.1"], assigned), 5);
    let write = task(&mut ledger, 5);
    assert_eq!(told(&write), (vec![], None));
    done(&mut ledger, &write, stands(2, &[], None), 10);
    assert_eq!(finalizers(&task(&mut ledger, 10)), Vec::<&str>::new());
}
