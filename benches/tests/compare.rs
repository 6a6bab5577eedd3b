//! A comparison from its command line to its record, with everything real but its length.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::fs;
use std::path::Path;
use std::process::Command;

use benches::compare::cpu;
use benches::compare::record::{Outcome, Run, Unit};

/// Where the binaries of this workspace are.
fn binaries() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_benches")).parent().unwrap()
}

fn compare(more: &[&str]) -> (Run, String) {
    let out = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_benches"));
    command.args(["compare", "--seconds", "0.02", "--rounds", "2"]).args(more);
    command
        .arg("--binaries")
        .arg(binaries())
        .arg("--out")
        .arg(out.path())
        .arg("--peers-folder")
        .arg(out.path());
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(out.path().join("report/README.md").exists(), "{said}");
    let mut records = fs::read_dir(out.path()).unwrap().map(|entry| entry.unwrap().path());
    let path = records.find(|path| path.extension().is_some_and(|extension| extension == "json")).unwrap();
    (serde_json::from_slice(&fs::read(path).unwrap()).unwrap(), said)
}

#[test]
fn rounds_of_those_that_are_there_are_recorded() {
    if cpu::usable().unwrap().len() < 2 {
        eprintln!("a comparison needs two CPUs: skipped");
        return;
    }
    let (run, said) = compare(&["--scenario", "small-get", "--peer", "caddy,envoy"]);
    let [scenario] = run.scenarios.as_slice() else { panic!("{said}") };
    assert_eq!((scenario.name.as_str(), scenario.workers), ("small-get", 1));
    assert_eq!(scenario.unit, Unit::CpuMicrosPerRequest);
    assert!(scenario.rounds.len() >= 2, "{said}");
    for (number, round) in scenario.rounds.iter().enumerate() {
        let peers: Vec<_> = round.outcomes.iter().map(|(peer, _)| peer.as_str()).collect();
        // Whether Caddy or Envoy is there depends on the machine.
        assert!(peers.contains(&"relay"), "{said}");
        assert_ne!(round.proxy_cpus, round.load_cpus, "round {number}");
        for (peer, outcome) in &round.outcomes {
            match outcome {
                Outcome::Good(sample) | Outcome::ThrownAway(sample, _) => {
                    assert!(
                        sample.figure > 0.0 && sample.requests > 0 && sample.proxy_cpu > 0.0,
                        "{peer}: {said}"
                    );
                }
                Outcome::Failed(reason) => panic!("{peer}: {reason}"),
            }
        }
    }
    assert!(run.machine.cpus >= 2 && run.seconds > 0.0);
}

/// Only where the proxy has been built, as it is when all tests of the workspace run.
#[test]
fn our_own_proxy_is_measured_over_tcp_and_http() {
    if !binaries().join("sluicegate").exists() || cpu::usable().unwrap().len() < 2 {
        eprintln!("no sluicegate has been built, or there is one CPU: skipped");
        return;
    }
    let (run, said) = compare(&["--scenario", "small-get,tcp-ping-pong", "--peer", "sluicegate"]);
    assert_eq!(run.scenarios.len(), 2, "{said}");
    assert!(said.contains("sluicegate"), "{said}");
    let outcomes =
        run.scenarios.iter().flat_map(|scenario| &scenario.rounds).flat_map(|round| &round.outcomes);
    let failed: Vec<_> = outcomes.filter(|(_, outcome)| matches!(outcome, Outcome::Failed(_))).collect();
    assert!(failed.is_empty(), "{failed:?}");
}
