//! Programs that people use, as clients. Where one is not installed, its tests say so and show nothing; with
//! `SLUICEGATE_TEST_PROGRAMS=all` in the environment, as in CI, that is a failure.

use std::io::ErrorKind;
use std::process::{Command, Output};

/// What `program` did; `None` if it is not installed.
#[track_caller]
pub fn run(program: &str, arguments: &[&str]) -> Option<Output> {
    match Command::new(program).args(arguments).output() {
        Ok(output) => Some(output),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            assert!(!is_wanted(), "{program} is not installed, and SLUICEGATE_TEST_PROGRAMS asks for it");
            eprintln!("skipped: {program} is not installed");
            None
        }
        Err(error) => panic!("{program}: {error}"),
    }
}

/// Whether `programs` are all installed; says which one is not.
#[track_caller]
#[must_use]
pub fn are_here(programs: &[&str]) -> bool {
    programs.iter().all(|program| run(program, &["--version"]).is_some())
}

/// What `program` wrote to its standard output, and that it succeeded; `None` if it is not installed.
#[track_caller]
pub fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let out = run(program, arguments)?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{program}: {text} {}", String::from_utf8_lossy(&out.stderr));
    Some(text)
}

fn is_wanted() -> bool {
    std::env::var_os("SLUICEGATE_TEST_PROGRAMS").is_some_and(|wanted| wanted == "all")
}
