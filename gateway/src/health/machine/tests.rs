use config::table::ProbeKind;
use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn policy() -> PassivePolicy {
    PassivePolicy { base_ejection: 5 * SECOND, max_ejection: 20 * SECOND, ..PassivePolicy::default() }
}

fn probe_policy() -> ActiveProbe {
    ActiveProbe {
        kind: ProbeKind::Tcp,
        interval: SECOND,
        timeout: SECOND,
        healthy_threshold: 2,
        unhealthy_threshold: 3,
    }
}

/// Feeds `count` equal results and returns the last transition.
fn feed(
    machine: &mut Machine,
    policy: &PassivePolicy,
    outcome: Outcome,
    count: u32,
    now: Instant,
) -> Option<Transition> {
    (0..count).fold(None, |last, _| machine.result(policy, outcome, now, || true).or(last))
}

#[test]
fn failures_in_a_row_eject_and_a_success_between_them_does_not() {
    let (now, policy) = (Instant::now(), policy());
    let mut machine = Machine::new(now);
    for _ in 0..10 {
        assert_eq!(feed(&mut machine, &policy, Outcome::Reset, 2, now), None);
        assert!(machine.needs_successes());
        assert_eq!(feed(&mut machine, &policy, Outcome::Success, 1, now), None);
        assert!(!machine.needs_successes());
    }
    let ejected = feed(&mut machine, &policy, Outcome::ConnectFailed, 3, now);
    let until = now + 5 * SECOND;
    assert_eq!(ejected, Some(Transition::Ejected { cause: Cause::ConsecutiveFailures, until }));
    assert!(!machine.is_healthy());
}

#[test]
fn plain_server_errors_are_signs_of_life_unless_the_error_rate_counts() {
    let now = Instant::now();
    let mut machine = Machine::new(now);
    assert_eq!(feed(&mut machine, &policy(), Outcome::ServerError, 1_000, now), None);
    let rate = PassivePolicy { error_rate: 50, ..policy() };
    let ejected = feed(&mut machine, &rate, Outcome::ServerError, 20, now);
    assert!(matches!(ejected, Some(Transition::Ejected { cause: Cause::ErrorRate, .. })));
}

#[test]
fn status_codes_become_outcomes() {
    for (status, outcome) in [
        (200, Outcome::Success),
        (404, Outcome::Success),
        (499, Outcome::Success),
        (500, Outcome::ServerError),
        (501, Outcome::ServerError),
        (502, Outcome::GatewayError),
        (503, Outcome::GatewayError),
        (504, Outcome::GatewayError),
        (505, Outcome::ServerError),
        (508, Outcome::Success),
    ] {
        assert_eq!(Outcome::of_status(status), outcome, "{status}");
    }
}

#[test]
fn results_of_requests_sent_before_the_ejection_decide_nothing() {
    let (now, policy) = (Instant::now(), policy());
    let mut machine = Machine::new(now);
    feed(&mut machine, &policy, Outcome::Reset, 3, now);
    assert_eq!(feed(&mut machine, &policy, Outcome::Reset, 100, now + SECOND), None);
    assert_eq!(feed(&mut machine, &policy, Outcome::Success, 100, now + SECOND), None);
    assert_eq!(machine.ejected_until(), Some(now + 5 * SECOND));
}

#[test]
fn each_failed_trial_ejects_for_longer_up_to_the_maximum() {
    let (mut now, policy) = (Instant::now(), policy());
    let mut machine = Machine::new(now);
    feed(&mut machine, &policy, Outcome::Reset, 3, now);
    let mut lasted = Vec::new();
    for _ in 0..5 {
        let until = machine.ejected_until().unwrap();
        lasted.push((until - now).as_secs());
        now = until;
        let again = machine.result(&policy, Outcome::Timeout, now, || false);
        assert!(matches!(again, Some(Transition::Ejected { cause: Cause::TrialFailed, .. })));
    }
    assert_eq!(lasted, [5, 10, 15, 20, 20]);
}

#[test]
fn one_good_trial_reinstates() {
    let (now, policy) = (Instant::now(), policy());
    let mut machine = Machine::new(now);
    feed(&mut machine, &policy, Outcome::Reset, 3, now);
    let later = now + 5 * SECOND;
    assert_eq!(machine.result(&policy, Outcome::Success, later, || true), Some(Transition::Recovered));
    assert!(machine.is_healthy() && !machine.needs_successes());
    assert_eq!(feed(&mut machine, &policy, Outcome::Reset, 2, later), None);
}

#[test]
fn health_forgives_earlier_ejections() {
    let (mut now, policy) = (Instant::now(), policy());
    let mut machine = Machine::new(now);
    for _ in 0..3 {
        feed(&mut machine, &policy, Outcome::Reset, 3, now);
        now = machine.ejected_until().unwrap();
        feed(&mut machine, &policy, Outcome::Success, 1, now);
    }
    assert_eq!(machine.ejections(), 3);
    now += 10 * SECOND;
    feed(&mut machine, &policy, Outcome::Reset, 3, now);
    assert_eq!(machine.ejections(), 2);
}

#[test]
fn the_share_of_ejected_endpoints_is_respected_and_asked_again() {
    let (now, policy) = (Instant::now(), policy());
    let mut machine = Machine::new(now);
    for _ in 0..5 {
        assert_eq!(machine.result(&policy, Outcome::Reset, now, || false), None);
    }
    assert!(machine.is_healthy());
    assert!(machine.result(&policy, Outcome::Reset, now, || true).is_some());
}

#[test]
fn the_error_rate_needs_enough_requests_within_the_window() {
    let rate = PassivePolicy { consecutive_failures: 0, error_rate: 30, ..policy() };
    let mut now = Instant::now();
    let mut machine = Machine::new(now);
    // One failure in four, but never 20 requests within ten seconds.
    for n in 0..400 {
        let outcome = if n % 4 == 0 { Outcome::ServerError } else { Outcome::Success };
        assert_eq!(machine.result(&rate, outcome, now, || true), None);
        now += SECOND;
    }
    // Two in four at once.
    let mut ejected = false;
    for n in 0..20 {
        let outcome = if n % 2 == 0 { Outcome::ServerError } else { Outcome::Success };
        ejected |= machine.result(&rate, outcome, now, || true).is_some();
        now += SECOND / 10;
    }
    assert!(ejected);
}

#[test]
fn old_failures_leave_the_window() {
    let rate = PassivePolicy { consecutive_failures: 0, error_rate: 50, minimum_requests: 10, ..policy() };
    let now = Instant::now();
    let mut machine = Machine::new(now);
    assert_eq!(feed(&mut machine, &rate, Outcome::ServerError, 9, now), None);
    let later = now + 12 * SECOND;
    assert_eq!(feed(&mut machine, &rate, Outcome::ServerError, 9, later), None);
    assert_eq!(feed(&mut machine, &rate, Outcome::Success, 1, later + 12 * SECOND), None);
    assert!(!machine.needs_successes());
}

#[test]
fn probes_turn_an_endpoint_bad_and_good_by_their_thresholds() {
    let (now, probes) = (Instant::now(), probe_policy());
    let mut machine = Machine::new(now);
    let mut feed =
        |results: &[bool]| -> Vec<_> { results.iter().map(|r| machine.probe(&probes, *r, now)).collect() };
    assert_eq!(feed(&[false, false, true, false, false]), [None; 5]);
    assert_eq!(feed(&[false, false]), [Some(Transition::ProbesFailed), None]);
    assert_eq!(feed(&[true, false, true]), [None; 3]);
    assert_eq!(feed(&[true, true]), [Some(Transition::Recovered), None]);
    assert!(machine.is_healthy());
}

#[test]
fn good_probes_reinstate_an_endpoint_only_after_its_ejection() {
    let (now, policy, probes) = (Instant::now(), policy(), probe_policy());
    let mut machine = Machine::new(now);
    feed(&mut machine, &policy, Outcome::Reset, 3, now);
    for second in 0..5 {
        assert_eq!(machine.probe(&probes, true, now + second * SECOND), None);
    }
    assert_eq!(machine.probe(&probes, true, now + 5 * SECOND), Some(Transition::Recovered));
    assert!(machine.is_healthy());
}

#[test]
fn an_endpoint_with_failed_probes_stays_bad_when_its_ejection_ends() {
    let (now, policy, probes) = (Instant::now(), policy(), probe_policy());
    let mut machine = Machine::new(now);
    feed(&mut machine, &policy, Outcome::Reset, 3, now);
    for _ in 0..3 {
        machine.probe(&probes, false, now);
    }
    assert_eq!(
        feed(&mut machine, &policy, Outcome::Success, 1, now + 9 * SECOND),
        Some(Transition::Recovered)
    );
    assert!(!machine.is_healthy());
    assert_eq!(machine.cause(), Some(Cause::Probe));
}

/// An endpoint that is up or down by a schedule, under seeded traffic: whatever the seed, it is ejected within
/// `consecutive_failures` failed requests of going down, never while it is up, and back at the first request
/// after it is up again and its ejection is over.
fn simulate(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let policy = PassivePolicy {
        consecutive_failures: random.u32(1..6),
        base_ejection: Duration::from_millis(random.u64(100..5_000)),
        max_ejection: Duration::from_millis(random.u64(5_000..20_000)),
        ..PassivePolicy::default()
    };
    let mut now = Instant::now();
    let mut machine = Machine::new(now);
    let (mut up, mut failures) = (true, 0);
    for _ in 0..5_000 {
        now += Duration::from_micros(random.u64(1..50_000));
        if random.u32(..200) == 0 {
            (up, failures) = (!up, 0);
        }
        let due = machine.ejected_until().is_none_or(|until| now >= until);
        if !due {
            continue;
        }
        let was_healthy = machine.is_healthy();
        let outcome = if up { Outcome::Success } else { Outcome::ConnectFailed };
        let transition = machine.result(&policy, outcome, now, || true);
        if up {
            assert!(machine.is_healthy());
            assert_eq!(transition, (!was_healthy).then_some(Transition::Recovered));
        } else {
            failures += 1;
            assert_eq!(machine.is_healthy(), was_healthy && failures < policy.consecutive_failures);
        }
        if let Some(until) = machine.ejected_until() {
            let lasts = until - now;
            assert!(lasts >= policy.base_ejection && lasts <= policy.max_ejection.max(policy.base_ejection));
        }
        assert!(machine.is_healthy() || machine.needs_successes());
    }
}

proptest! {
    #[test]
    fn a_failing_endpoint_leaves_and_returns_as_the_policy_says(seed: u64) {
        simulate(seed);
    }

    #[test]
    fn the_windows_sums_are_those_of_its_steps(gaps in prop::collection::vec((0_u64..5_000, any::<bool>()), 1..200)) {
        let mut now = Instant::now();
        let mut window = Window::default();
        for (gap, failed) in gaps {
            now += Duration::from_millis(gap);
            window.record(Duration::from_secs(10), failed, now);
            let sums = window.steps.iter().fold((0, 0), |sum, step| (sum.0 + step.0, sum.1 + step.1));
            prop_assert_eq!(sums, (window.total, window.failed));
            prop_assert!(window.failed <= window.total && (window.until.is_some() || window.total == 0));
        }
    }
}
