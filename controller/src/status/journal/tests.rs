use super::*;

fn at(seconds: u64) -> Moment {
    Moment::START + Duration::from_secs(10_000 + seconds)
}

fn object(name: &str) -> ObjectRef {
    ObjectRef { kind: Kind::Ingress, namespace: "shop".into(), name: name.into() }
}

fn matter(name: &str, note: &str) -> Matter {
    Matter { object: object(name), reason: "BadPort", note: note.to_owned() }
}

fn journal() -> Journal {
    let mut journal = Journal::new(fastrand::Rng::with_seed(7));
    journal.lead(true);
    journal
}

/// What is told until `end`, if the server does everything; and when.
fn run(journal: &mut Journal, mut now: Moment, end: Moment) -> Vec<(u64, Telling)> {
    let mut told = Vec::new();
    while now <= end {
        match journal.next(now) {
            Next::Tell(telling) => {
                let (name, count) = match &telling.action {
                    Action::Create { .. } => (format!("{}.{:x}", telling.object.name, telling.key).into(), 1),
                    Action::Repeat { name, count } => (Arc::clone(name), *count),
                };
                journal.outcome(&telling, Outcome::Done { name, count }, now);
                told.push((now.since(at(0)).as_secs(), telling));
            }
            Next::Wait(Some(until)) => now = until,
            Next::Wait(None) => break,
        }
    }
    told
}

#[test]
fn problem_is_told_once_and_again_before_the_server_forgets_it() {
    let mut journal = journal();
    journal.report([matter("a", "x")].into_iter(), at(0));
    journal.report([matter("a", "x")].into_iter(), at(1));
    let told = run(&mut journal, at(1), at(3_600));
    let times: Vec<u64> = told.iter().map(|(at, _)| *at).collect();
    assert_eq!(times.len(), 3, "{times:?}");
    assert_eq!(times[0], 2);
    assert!((1_440..=1_802).contains(&times[1]), "{times:?}");
    assert!(matches!(&told[2].1.action, Action::Repeat { count: 3, .. }));
}

#[test]
fn what_goes_away_at_once_is_not_told() {
    let mut journal = journal();
    journal.report([matter("a", "x")].into_iter(), at(0));
    journal.report(std::iter::empty(), at(1));
    assert!(run(&mut journal, at(1), at(100)).is_empty());
    assert!(journal.lines.is_empty());
}

#[test]
fn end_of_all_problems_is_told_once() {
    let mut journal = journal();
    journal.report([matter("a", "x"), matter("a", "y"), matter("b", "z")].into_iter(), at(0));
    assert_eq!(run(&mut journal, at(0), at(10)).len(), 3);
    journal.report([matter("a", "y")].into_iter(), at(20));
    journal.report(std::iter::empty(), at(30));
    let told = run(&mut journal, at(30), at(100));
    let words: Vec<(u64, &str)> = told
        .iter()
        .map(|(at, telling)| {
            assert!(matches!(telling.action, Action::Create { is_warning: false, reason: RESOLVED, .. }));
            (*at, &*telling.object.name)
        })
        .collect();
    assert_eq!(words, [(30, "b"), (35, "a")]);
}

#[test]
fn what_comes_and_goes_is_told_rarely() {
    let mut journal = journal();
    let mut told = 0;
    for second in 0..600 {
        let matters = (second % 4 != 3).then(|| matter("a", "x"));
        journal.report(matters.into_iter(), at(second));
        told += run(&mut journal, at(second), at(second)).len();
    }
    assert!((2..=4).contains(&told), "{told}");
}

#[test]
fn object_with_very_many_problems_has_few_events() {
    let mut journal = journal();
    let matters = || (0..500).map(|index| matter("a", &index.to_string()));
    journal.report(matters(), at(0));
    assert_eq!(run(&mut journal, at(0), at(1_000)).len(), 10);
    // Which of them are told does not depend on how many there are.
    journal.report(matters().take(400), at(1_001));
    assert_eq!(run(&mut journal, at(1_001), at(1_100)).len(), 0);
}

#[test]
fn very_many_objects_have_a_bounded_rate_and_number() {
    let mut journal = journal();
    let many = |index: u32| {
        let matter = matter(&index.to_string(), "x");
        Matter {
            object: ObjectRef { namespace: format!("n{}", index % 10).into(), ..matter.object },
            ..matter
        }
    };
    journal.report((0..20_000).map(many), at(0));
    assert_eq!(journal.lines.len(), MAX_LINES);
    let told = run(&mut journal, at(0), at(62));
    assert!((300..=360).contains(&told.len()), "{}", told.len());
}

#[test]
fn one_namespace_with_ever_new_texts_neither_delays_nor_pushes_out_others() {
    let mut journal = journal();
    let quiet = |text: &str| {
        let matter = matter("q", text);
        Matter { object: ObjectRef { namespace: "quiet".into(), ..matter.object }, ..matter }
    };
    let (mut of_quiet, mut flood, mut of_one) = (Vec::new(), 0, 0);
    for second in 0..300 {
        // Each text stands long enough to be told.
        let texts = (0..1_500).map(|index| matter(&format!("{index:04}"), &format!("{}", second / 4)));
        let own = [quiet("always"), quiet(&format!("{}", second / 100))];
        journal.report(texts.chain(own), at(second));
        for (at, telling) in run(&mut journal, at(second), at(second)) {
            match &*telling.object.namespace {
                "quiet" if matches!(telling.action, Action::Create { is_warning: true, .. }) => {
                    of_quiet.push(at)
                }
                "quiet" => {}
                _ => {
                    flood += 1;
                    of_one += u32::from(*telling.object.name == *"0000");
                }
            }
        }
        assert!(journal.lines.len() <= MAX_PER_NAMESPACE + 20, "{}", journal.lines.len());
    }
    assert_eq!(of_quiet.len(), 4);
    assert!(of_quiet.iter().all(|at| at % 100 <= 4), "{of_quiet:?}");
    assert!((200..=700).contains(&flood), "{flood}");
    assert!(of_one <= 16, "{of_one}");
}

#[test]
fn follower_tells_nothing_and_knows_everything() {
    let mut journal = journal();
    journal.lead(false);
    journal.report([matter("a", "x")].into_iter(), at(0));
    assert_eq!(journal.next(at(100)), Next::Wait(None));
    journal.lead(true);
    assert_eq!(run(&mut journal, at(100), at(100)).len(), 1);
}

#[test]
fn event_that_expired_is_made_anew() {
    let mut journal = journal();
    journal.report([matter("a", "x")].into_iter(), at(0));
    run(&mut journal, at(0), at(10));
    let Next::Tell(telling) = journal.next(at(2_000)) else { panic!() };
    assert!(matches!(telling.action, Action::Repeat { .. }));
    journal.outcome(&telling, Outcome::Gone, at(2_000));
    let Next::Tell(telling) = journal.next(at(2_000)) else { panic!() };
    assert!(matches!(telling.action, Action::Create { .. }));
}

#[test]
fn object_that_was_made_anew_hears_of_its_problems_again() {
    let mut journal = journal();
    journal.report([matter("a", "x")].into_iter(), at(0));
    run(&mut journal, at(0), at(10));
    journal.forget(&object("a"));
    assert!(matches!(journal.next(at(20)), Next::Tell(Telling { action: Action::Create { .. }, .. })));
}

#[test]
fn where_events_are_forbidden_it_is_tried_rarely() {
    let mut journal = journal();
    journal.report((0..50).map(|index| matter(&index.to_string(), "x")), at(0));
    let (mut now, mut tries) = (at(0), 0);
    while now < at(3_000) {
        match journal.next(now) {
            Next::Tell(telling) => {
                tries += 1;
                journal.outcome(&telling, Outcome::Denied, now);
            }
            Next::Wait(until) => now = until.unwrap(),
        }
    }
    assert_eq!(tries, 10);
}

#[test]
fn event_that_cannot_be_written_does_not_hold_up_others() {
    for outcome in [Outcome::Denied, Outcome::Failed] {
        let mut journal = journal();
        let class = ObjectRef { kind: Kind::IngressClass, namespace: "".into(), name: "a".into() };
        journal.report([Matter { object: class.clone(), ..matter("a", "x") }].into_iter(), at(0));
        let Next::Tell(first) = journal.next(at(5)) else { panic!() };
        assert_eq!(first.object, class);
        journal.report([Matter { object: class, ..matter("a", "x") }, matter("b", "x")].into_iter(), at(5));
        journal.outcome(&first, outcome, at(5));
        let Next::Tell(second) = journal.next(at(10)) else { panic!() };
        assert_eq!(second.object, object("b"));
    }
}

#[test]
fn one_object_that_cannot_be_named_does_not_hold_up_others() {
    let mut journal = journal();
    journal.report([matter("a", "x"), matter("b", "x")].into_iter(), at(0));
    let Next::Tell(first) = journal.next(at(5)) else { panic!() };
    journal.outcome(&first, Outcome::NoObject, at(5));
    let Next::Tell(second) = journal.next(at(5)) else { panic!() };
    assert_ne!(first.object, second.object);
}

#[test]
fn long_text_is_cut_at_a_character() {
    let mut journal = journal();
    journal.report([matter("a", &"ä".repeat(2_000))].into_iter(), at(0));
    let Next::Tell(telling) = journal.next(at(5)) else { panic!() };
    let Action::Create { note, .. } = telling.action else { panic!() };
    assert_eq!(note.len(), MAX_NOTE);
}
