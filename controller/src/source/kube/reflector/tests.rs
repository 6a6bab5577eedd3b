use super::super::failure::Failure;
use super::failures::PAGE_ATTEMPTS;
use super::*;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn new() -> (Reflector, Instant) {
    (Reflector::new(fastrand::Rng::with_seed(7)), Instant::now())
}

fn version(number: u64) -> Version {
    Version::Number(number)
}

/// A reflector that watches from version 100.
fn watching() -> (Reflector, Instant) {
    let (mut reflector, now) = new();
    assert!(reflector.listed(now, Some(version(100)), false));
    reflector.opened(now);
    (reflector, now)
}

fn unreachable() -> Failure {
    Failure::Unreachable("refused".to_owned())
}

fn lost() -> Failure {
    Failure::Lost("reset".to_owned())
}

fn gone() -> Failure {
    Failure::Gone("too old".to_owned())
}

fn status(code: u16, retry_after: Option<Duration>) -> Failure {
    Failure::Status { code, text: String::new(), retry_after }
}

/// Lets time pass until there is something to do.
fn act(reflector: &mut Reflector, now: &mut Instant) -> Step {
    loop {
        match reflector.step(*now) {
            Step::Wait(until) => {
                assert!(until > *now);
                *now = until;
            }
            step => return step,
        }
    }
}

#[test]
fn list_comes_page_by_page_and_then_a_watch_from_where_it_ended() {
    let (mut reflector, now) = new();
    assert_eq!(reflector.step(now), Step::List(None));
    reflector.page(now, "two");
    assert_eq!(reflector.step(now), Step::List(Some("two".into())));
    assert!(reflector.listed(now, Some(version(7)), false));
    let Step::Watch(from, time) = reflector.step(now) else { panic!() };
    assert_eq!(from, version(7));
    assert!((25 * SECOND..=30 * SECOND).contains(&time), "{time:?}");
}

#[test]
fn expired_continuation_starts_the_list_again() {
    let (mut reflector, mut now) = new();
    reflector.page(now, "two");
    reflector.failed(now, &gone());
    let start = now;
    assert_eq!(act(&mut reflector, &mut now), Step::List(None));
    assert!(now - start <= 50 * MS);
}

#[test]
fn lost_page_is_asked_for_again_and_then_the_list_starts_anew() {
    let (mut reflector, mut now) = new();
    reflector.page(now, "two");
    for _ in 1..PAGE_ATTEMPTS {
        reflector.failed(now, &lost());
        assert_eq!(act(&mut reflector, &mut now), Step::List(Some("two".into())));
    }
    reflector.failed(now, &lost());
    assert_eq!(act(&mut reflector, &mut now), Step::List(None));
}

#[test]
fn watch_that_ends_in_time_goes_on_at_once() {
    let (mut reflector, now) = watching();
    assert!(reflector.heard(Some(version(120)), true));
    reflector.ended(now + 28 * SECOND);
    assert!(matches!(reflector.step(now + 28 * SECOND), Step::Watch(from, _) if from == version(120)));
}

#[test]
fn watch_that_ends_without_a_word_is_checked() {
    let (mut reflector, now) = watching();
    reflector.ended(now + 28 * SECOND);
    assert_eq!(reflector.step(now + 28 * SECOND), Step::Check);
    reflector.checked(now + 28 * SECOND, Found::Same);
    assert!(matches!(reflector.step(now + 28 * SECOND), Step::Watch(from, _) if from == version(100)));
}

#[test]
fn watches_that_end_at_once_are_no_busy_loop() {
    let (mut reflector, start) = watching();
    let mut now = start;
    let mut opened = 0;
    while now < start + 60 * SECOND {
        match act(&mut reflector, &mut now) {
            Step::Watch(..) => {
                opened += 1;
                reflector.opened(now);
                reflector.ended(now);
            }
            Step::Check => drop(reflector.checked(now, Found::Same)),
            step => panic!("{step:?}"),
        }
    }
    assert!(opened <= 130, "{opened}");
}

#[test]
fn lost_watch_goes_on_at_once_after_a_check() {
    let (mut reflector, mut now) = watching();
    let start = now;
    reflector.failed(now, &lost());
    assert_eq!(act(&mut reflector, &mut now), Step::Check);
    assert!(now - start <= 50 * MS);
    reflector.checked(now, Found::Same);
    assert!(matches!(act(&mut reflector, &mut now), Step::Watch(from, _) if from == version(100)));
}

#[test]
fn server_that_is_away_is_looked_for_several_times_a_second_however_long_and_however_it_fails() {
    let (mut reflector, mut now) = watching();
    let mut gaps = Vec::new();
    let untrusted = Failure::Untrusted(String::new());
    let failures = [unreachable(), status(503, None), untrusted, Failure::Silent(SECOND)];
    reflector.suspect();
    for round in 0..1_000 {
        let last = now;
        reflector.failed(now, &failures[round % 4]);
        assert_eq!(act(&mut reflector, &mut now), Step::Check);
        gaps.push(now - last);
    }
    assert!(gaps.iter().all(|gap| (100 * MS..=200 * MS).contains(gap)));
    assert!(gaps.iter().max() > gaps.iter().min(), "there is jitter");
}

#[test]
fn version_that_is_too_old_is_a_list_at_once_if_the_server_is_not_behind() {
    let (mut reflector, mut now) = watching();
    let start = now;
    reflector.failed(now, &gone());
    assert_eq!(act(&mut reflector, &mut now), Step::Check);
    reflector.checked(now, Found::Same);
    assert_eq!(act(&mut reflector, &mut now), Step::List(None));
    assert!(now - start <= 50 * MS);
}

#[test]
fn endless_410_is_not_an_endless_list() {
    let (mut reflector, start) = watching();
    let mut now = start;
    let mut lists = 0;
    while now < start + 600 * SECOND {
        match act(&mut reflector, &mut now) {
            Step::Watch(..) => reflector.failed(now, &gone()),
            Step::Check => drop(reflector.checked(now, Found::Same)),
            Step::List(_) => {
                lists += 1;
                assert!(reflector.listed(now, Some(version(100 + lists)), false));
            }
            Step::Wait(_) => {}
        }
    }
    assert!(lists <= 2 + 20, "{lists}");
}

#[test]
fn server_that_comes_and_goes_each_second_is_listed_twice_and_then_each_half_minute() {
    let (mut reflector, start) = watching();
    let mut now = start;
    let (mut lists, mut complete) = (0_u64, 0_u64);
    while now < start + 600 * SECOND {
        let step = act(&mut reflector, &mut now);
        let is_up = (now - start).as_millis() % 1_000 < 500;
        match step {
            _ if !is_up => reflector.failed(now, &unreachable()),
            Step::Watch(..) => {
                reflector.opened(now);
                now += 100 * MS;
                reflector.failed(now, &gone());
            }
            Step::Check => drop(reflector.checked(now, Found::Missed)),
            Step::List(None) => {
                lists += 1;
                // Every other list is cut off behind its first page.
                if lists % 2 == 0 {
                    reflector.page(now, "two");
                    reflector.failed(now, &lost());
                } else {
                    complete += 1;
                    assert!(reflector.listed(now, Some(version(100 + lists)), false));
                }
            }
            Step::List(Some(_)) => reflector.failed(now, &gone()),
            Step::Wait(_) => {}
        }
    }
    assert!(lists <= 2 + 20, "{lists}");
    assert!(complete >= 5, "{complete}");
}

#[test]
fn server_that_is_behind_has_another_history_if_it_says_so_twice() {
    for failure in [gone(), unreachable(), lost()] {
        let (mut reflector, mut now) = watching();
        reflector.failed(now, &failure);
        assert_eq!(act(&mut reflector, &mut now), Step::Check);
        let start = now;
        assert!(!reflector.checked(now, Found::Behind));
        assert_eq!(act(&mut reflector, &mut now), Step::Check);
        assert!(reflector.checked(now, Found::Behind));
        assert_eq!(act(&mut reflector, &mut now), Step::List(None));
        // It breaks off, and that changes nothing.
        reflector.page(now, "two");
        reflector.failed(now, &gone());
        assert_eq!(act(&mut reflector, &mut now), Step::Check);
        reflector.checked(now, Found::Behind);
        assert_eq!(act(&mut reflector, &mut now), Step::List(None));
        assert!(reflector.listed(now, Some(version(3)), false));
        assert!(now - start <= 500 * MS, "{failure} {:?}", now - start);
        assert!(matches!(act(&mut reflector, &mut now), Step::Watch(from, _) if from == version(3)));
    }
}

#[test]
fn list_of_a_server_that_was_behind_only_once_is_thrown_away() {
    let (mut reflector, mut now) = watching();
    reflector.failed(now, &gone());
    assert_eq!(act(&mut reflector, &mut now), Step::Check);
    reflector.checked(now, Found::Same);
    assert_eq!(act(&mut reflector, &mut now), Step::List(None));
    assert!(!reflector.listed(now, Some(version(99)), false), "another server answered this time");
    assert_eq!(act(&mut reflector, &mut now), Step::Check);
    reflector.checked(now, Found::Same);
    assert_eq!(act(&mut reflector, &mut now), Step::List(None));
    assert!(reflector.listed(now, Some(version(100)), false));
}

#[test]
fn other_history_with_hardly_anything_in_it_is_given_time_and_costs_no_ration() {
    let (mut reflector, mut now) = watching();
    let start = now;
    let mut lists = 0;
    reflector.suspect();
    loop {
        match act(&mut reflector, &mut now) {
            // Not every server says how many objects it has.
            Step::Check => drop(reflector.checked(now, Found::Behind)),
            Step::List(None) if reflector.listed(now, Some(version(3)), now - start < 9 * SECOND) => break,
            Step::List(None) => lists += 1,
            step => panic!("{step:?}"),
        }
    }
    assert!(lists > 5 && now - start < 10 * SECOND, "what comes back is taken at once: {lists}");

    let (mut reflector, mut now) = watching();
    let start = now;
    reflector.suspect();
    while act(&mut reflector, &mut now) == Step::Check {
        reflector.checked(now, Found::Shrunk);
    }
    assert!((PATIENCE..PATIENCE + SECOND).contains(&(now - start)), "{:?}", now - start);
    assert!(reflector.listed(now, Some(version(3)), true));
}

#[test]
fn everything_is_listed_after_an_outage_and_now_and_then() {
    for failure in [unreachable(), Failure::Untrusted(String::new())] {
        let (mut reflector, mut now) = watching();
        reflector.failed(now, &failure);
        assert_eq!(act(&mut reflector, &mut now), Step::Check);
        reflector.checked(now, Found::Same);
        assert_eq!(act(&mut reflector, &mut now), Step::List(None));
    }
    let (mut reflector, start) = watching();
    let mut now = start;
    while let Step::Watch(..) | Step::Check = act(&mut reflector, &mut now) {
        if !reflector.is_watching() {
            reflector.checked(now, Found::Same);
            continue;
        }
        reflector.opened(now);
        now += 28 * SECOND;
        reflector.heard(Some(version(100)), true);
        reflector.ended(now);
    }
    assert!((REVIEW / 2..=REVIEW + 30 * SECOND).contains(&(now - start)), "{:?}", now - start);
    assert!(reflector.listed(now, Some(version(100)), false));
    assert!(matches!(act(&mut reflector, &mut now), Step::Watch(..)));
}

#[test]
fn watch_goes_on_while_a_list_is_rationed_unless_its_version_is_gone() {
    let (mut reflector, mut now) = watching();
    for _ in 0..RELISTS {
        assert!(reflector.missed(now));
        assert_eq!(act(&mut reflector, &mut now), Step::Check);
        reflector.checked(now, Found::Same);
        assert_eq!(act(&mut reflector, &mut now), Step::List(None));
        assert!(reflector.listed(now, Some(version(100)), false));
        reflector.opened(now);
    }
    assert!(!reflector.missed(now), "the watch is not left");
    reflector.failed(now, &lost());
    assert_eq!(act(&mut reflector, &mut now), Step::Check);
    reflector.checked(now, Found::Same);
    assert!(matches!(act(&mut reflector, &mut now), Step::Watch(from, _) if from == version(100)));
    reflector.opened(now);
    reflector.heard(Some(version(101)), true);
    reflector.ended(now + 30 * SECOND);
    now += 30 * SECOND;
    assert_eq!(act(&mut reflector, &mut now), Step::Check);
    reflector.checked(now, Found::Same);
    assert_eq!(act(&mut reflector, &mut now), Step::List(None), "there is a ration again");
}

#[test]
fn bookmark_from_the_past_ends_the_watch_and_an_event_from_there_does_not() {
    let (mut reflector, now) = watching();
    assert!(reflector.heard(Some(version(90)), false));
    assert_eq!(reflector.position(), Some(&version(100)));
    assert!(!reflector.heard(Some(version(90)), true));
    assert_eq!(reflector.step(now), Step::Check);
}

#[test]
fn refusal_is_tried_again_ever_more_rarely_and_at_least_twice_a_minute() {
    let (mut reflector, mut now) = new();
    let mut gaps = Vec::new();
    for _ in 0..12 {
        let last = now;
        reflector.failed(now, &status(403, None));
        assert_eq!(act(&mut reflector, &mut now), Step::List(None));
        gaps.push(now - last);
    }
    assert!(gaps[0] <= 250 * MS, "{gaps:?}");
    assert!(gaps[11] >= 15 * SECOND && gaps.iter().all(|gap| *gap <= 30 * SECOND), "{gaps:?}");
}

#[test]
fn server_that_wants_to_be_left_alone_is() {
    let (mut reflector, mut now) = watching();
    let start = now;
    reflector.failed(now, &status(429, Some(4 * SECOND)));
    act(&mut reflector, &mut now);
    assert!((4 * SECOND..=5 * SECOND).contains(&(now - start)), "{:?}", now - start);
    let start = now;
    reflector.failed(now, &status(503, Some(Duration::from_secs(u64::MAX / 4))));
    act(&mut reflector, &mut now);
    assert!(now - start <= 75 * SECOND);
}

#[test]
fn event_that_cannot_be_read_leads_to_a_list() {
    let (mut reflector, mut now) = watching();
    assert!(reflector.missed(now));
    assert_eq!(act(&mut reflector, &mut now), Step::Check);
    reflector.checked(now, Found::Same);
    assert_eq!(act(&mut reflector, &mut now), Step::List(None));
}

#[test]
fn user_who_wants_a_fresh_look_gets_one_at_once() {
    let (mut reflector, mut now) = watching();
    for _ in 0..RELISTS {
        reflector.missed(now);
        act(&mut reflector, &mut now);
        reflector.checked(now, Found::Same);
        assert_eq!(act(&mut reflector, &mut now), Step::List(None));
        assert!(reflector.listed(now, Some(version(100)), false));
    }
    let start = now;
    reflector.reread();
    assert_eq!(act(&mut reflector, &mut now), Step::Check);
    reflector.checked(now, Found::Same);
    assert_eq!(act(&mut reflector, &mut now), Step::List(None));
    assert_eq!(now, start);
}

/// A server that does anything at all, and then what it should.
#[test]
fn whatever_a_server_does_it_is_followed_again_soon_after_it_stops() {
    for seed in 0..2_000 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut reflector = Reflector::new(random.fork());
        let start = Instant::now();
        let mut now = start;
        let mut known: u64 = 0;
        let mut steps = 0;
        while now < start + 120 * SECOND {
            steps += 1;
            let step = act(&mut reflector, &mut now);
            now += random.u64(0..200) as u32 * MS;
            chaos(&mut reflector, &mut random, step, now, &mut known);
        }
        assert!(steps < 3_000, "{seed}: {steps}");
        let well = now;
        let from = loop {
            match act(&mut reflector, &mut now) {
                Step::Check => drop(reflector.checked(now, Found::Same)),
                Step::List(_) => {
                    let _ = reflector.listed(now, Some(version(known + 1)), false);
                }
                Step::Watch(from, _) => break from,
                Step::Wait(_) => {}
            }
        };
        assert!(from >= version(0), "{seed}");
        assert!(now - well <= 80 * SECOND, "{seed}: {:?}", now - well);
    }
}

fn chaos(reflector: &mut Reflector, random: &mut fastrand::Rng, step: Step, now: Instant, known: &mut u64) {
    let failures = [
        unreachable(),
        lost(),
        gone(),
        Failure::Silent(10 * SECOND),
        Failure::Malformed(String::new()),
        Failure::Untrusted(String::new()),
        status(403, None),
        status(500, None),
        status(429, Some(SECOND)),
        status(400, None),
    ];
    if random.u8(0..3) == 0 {
        return reflector.failed(now, &failures[random.usize(0..failures.len())]);
    }
    let before = reflector.position().cloned();
    match step {
        Step::Check => {
            let found = [Found::Same, Found::Missed, Found::Behind, Found::Shrunk][random.usize(0..4)];
            reflector.checked(now, found);
        }
        Step::List(_) if random.bool() => reflector.page(now, "more"),
        Step::List(_) => {
            let at = (*known + random.u64(0..20)).saturating_sub(5);
            let is_believed = reflector.listed(now, Some(version(at)), random.u8(0..4) == 0);
            if is_believed {
                *known = at;
            }
            assert!(is_believed || reflector.position() == before.as_ref());
        }
        Step::Watch(from, _) => {
            assert_eq!(Some(from), before);
            reflector.opened(now);
            for _ in 0..random.u8(0..5) {
                *known += 1;
                if !reflector.heard(Some(version(*known)), random.bool()) {
                    return;
                }
            }
            match random.u8(0..3) {
                0 => drop(reflector.missed(now)),
                1 => reflector.suspect(),
                _ => reflector.ended(now + random.u64(0..30) as u32 * SECOND),
            }
        }
        Step::Wait(_) => {}
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        self.compare(other)
    }
}

#[test]
fn list_that_alone_is_in_trouble_is_asked_for_once_a_second_after_a_few_times() {
    let (mut reflector, mut now) = watching();
    reflector.suspect();
    let start = now;
    for _ in 0..20 {
        assert_eq!(act(&mut reflector, &mut now), Step::Check);
        reflector.failed(now, &status(503, None));
        reflector.calm(now);
    }
    assert_eq!(act(&mut reflector, &mut now), Step::Check);
    let took = now - start;
    assert!((15 * SECOND..25 * SECOND).contains(&took), "{took:?}");
}

#[test]
fn only_the_first_request_is_to_be_answered_soon() {
    let (mut reflector, now) = new();
    assert!(reflector.is_quick());
    reflector.page(now, "two");
    assert!(!reflector.is_quick(), "a page of a list may take its time");
    let (mut reflector, mut now) = new();
    reflector.failed(now, &Failure::Silent(SECOND));
    assert_eq!(act(&mut reflector, &mut now), Step::List(None));
    assert!(!reflector.is_quick(), "it is slow");
}
