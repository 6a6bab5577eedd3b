use std::collections::BTreeMap;

use super::super::chart::tests::assert_well_formed;
use super::super::fixture::{figures, round, run, scenario, thrown_away};
use super::super::record::{Outcome, Unit};
use super::*;

/// A win, a loss, a tie, a failure, two workers, a scenario of our own alone, and text that would be markup.
fn small() -> Run {
    // Numbers that JSON keeps to the last bit.
    let speeds = [1.0, 1.125, 0.9375, 1.25, 1.0625, 0.875];
    let rounds = |ours: f64, nginx: f64, wobble: f64| {
        let figures = |(n, speed): (usize, &f64)| {
            let wobble = if n % 2 == 0 { wobble } else { -wobble };
            figures(&[
                ("relay", 8.0 * speed),
                ("sluicegate", (ours + wobble) * speed),
                ("nginx", nginx * speed),
                ("haproxy", 30.0 * speed),
                ("nginx-lean", 9.0 * speed),
            ])
        };
        speeds.iter().enumerate().map(figures).collect::<Vec<_>>()
    };
    let mut win = scenario("small-get", rounds(12.0, 16.0, 0.25));
    win.rounds.push(round([
        ("sluicegate", thrown_away(99.0, "steal 3.1 % | <b>")),
        ("nginx", Outcome::Failed("a wrong byte at `7`".to_owned())),
    ]));
    let mut loss = scenario("idle-h2-tls-10k", rounds(47.0, 20.0, 1.0));
    loss.unit = Unit::BytesEach;
    let tie = scenario("tcp-ping-pong", rounds(16.0, 16.0, 1.0));
    let mut two = scenario("small-get", rounds(12.0, 16.0, 0.25));
    two.workers = 2;
    two.rounds.truncate(3);
    let own = (0..6).map(|_| figures(&[("sluicegate-one-route", 10.0), ("sluicegate", 10.5)]));
    let mut hosts = scenario("hosts-10k", own.collect());
    hosts.against = Some("sluicegate-one-route".to_owned());
    let failed = round([("sluicegate", Outcome::Failed("does not start".to_owned()))]);
    run(vec![win, loss, tie, two, hosts, scenario("broken", vec![failed])])
}

fn written(runs: &[Run]) -> BTreeMap<String, String> {
    let folder = tempfile::tempdir().unwrap();
    write(runs, &folder.path().join("a/b")).unwrap();
    let entries = fs::read_dir(folder.path().join("a/b")).unwrap().map(Result::unwrap);
    let read = |entry: fs::DirEntry| {
        (entry.file_name().into_string().unwrap(), fs::read_to_string(entry.path()).unwrap())
    };
    entries.map(read).collect()
}

/// `UPDATE_GOLDEN=1` writes it anew.
#[test]
fn a_small_report_is_as_it_was() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/compare/golden");
    let files = written(&[small()]);
    for name in ["README.md", "wins-and-losses.svg", "scenario-small-get.svg"] {
        let path = golden.join(name);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&path, &files[name]).unwrap();
        }
        let expected = fs::read_to_string(&path).unwrap();
        assert!(files[name] == expected, "{name} is another one; it is now:\n{}", files[name]);
    }
}

#[test]
fn charts_are_xml_and_links_lead_to_what_is_written() {
    let files = written(&[small()]);
    let charts = files.iter().filter(|(name, _)| name.ends_with(".svg"));
    // One for each of five scenarios with figures, and the first.
    assert_eq!(charts.clone().count(), 6);
    charts.for_each(|(_, svg)| assert_well_formed(svg));
    let page = &files["README.md"];
    for target in page.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
        let is_elsewhere = target.starts_with("../");
        let is_heading = target.strip_prefix('#').is_some_and(|anchor| {
            page.lines().filter_map(|line| line.strip_prefix("## ")).any(|heading| slug(heading) == anchor)
        });
        assert!(is_elsewhere || is_heading || files.contains_key(target), "{target}");
    }
}

#[test]
fn raw_data_makes_the_same_report_again() {
    let files = written(&[small()]);
    let raw: Run = serde_json::from_str(&files["run-2026-01-02t030405z.json"]).unwrap();
    assert_eq!(written(&[raw]), files);
}

#[test]
fn where_the_binary_was_is_told_to_nobody() {
    let mut other = small();
    other.command[0] = "/home/somebody/target/release/benches".to_owned();
    assert_eq!(written(&[other]), written(&[small()]));
}

#[test]
fn a_peer_that_is_not_there_changes_only_its_rows() {
    let mut other = small();
    for round in other.scenarios.iter_mut().flat_map(|scenario| &mut scenario.rounds) {
        round.outcomes.retain(|(name, _)| name != "haproxy");
    }
    let (with, without) = (written(&[small()]), written(&[other]));
    let rest: Vec<&str> = with["README.md"].lines().filter(|line| !line.contains("haproxy")).collect();
    assert_eq!(without["README.md"].lines().collect::<Vec<_>>(), rest);
    assert_eq!(without["wins-and-losses.svg"], with["wins-and-losses.svg"]);
}

#[test]
fn the_last_run_is_shown_and_agreement_is_told() {
    let mut second = small();
    second.began = "2026-01-03T00:00:00Z".to_owned();
    second.scenarios.truncate(1);
    let files = written(&[small(), second]);
    let page = &files["README.md"];
    assert_eq!(page.matches("\nRun twice: ").count(), 1);
    assert!(page.contains("\nRun twice: 5 medians of ratios agree, within 0.0 %.\n"), "{page}");
    assert!(
        page.contains("## Run of 2026-01-02T03:04:05Z") && page.contains("## Run of 2026-01-03T00:00:00Z")
    );
    assert!(files.contains_key("run-2026-01-03t000000z.json"));
}

#[test]
fn two_runs_of_one_second_have_two_files() {
    let files = written(&[small(), small()]);
    assert!(files.contains_key("run-2026-01-02t030405z.json"), "{:?}", files.keys());
    assert!(files.contains_key("run-2026-01-02t030405z-2.json"), "{:?}", files.keys());
}

#[test]
fn what_does_not_agree_is_an_error() {
    let mut second = small();
    for round in &mut second.scenarios[0].rounds {
        for (name, outcome) in &mut round.outcomes {
            if let (true, Outcome::Good(sample)) = (name == "relay", outcome) {
                sample.figure *= 1.2;
            }
        }
    }
    // The scenario that failed has nothing to compare.
    let (mut first, mut other) = (small(), small());
    first.scenarios.truncate(5);
    other.scenarios.truncate(5);
    assert!(agree(&first, &other).is_ok());
    assert!(agree(&first, &second).unwrap_err().to_string().contains("1 of 5"));
    assert!(agree(&small(), &small()).is_err());
}

#[test]
fn no_run_is_no_report() {
    assert!(write(&[], Path::new("/nonexistent")).is_err());
}
