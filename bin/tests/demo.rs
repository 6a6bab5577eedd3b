//! `sluicegate demo` shows what it promises and leaves nothing behind.

#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a panic is a failed test")]

mod common;

use std::path::Path;

use common::run;

#[test]
fn demo_shows_everything_and_leaves_nothing() {
    let (code, out, error) = run(&["demo", "--once"]);
    assert_eq!(code, 0, "{out}{error}");
    assert!(out.contains("Everything went as it should."), "{out}");
    assert!(out.contains("curl -H 'Host: demo.example.com'"), "{out}");
    assert!(out.contains("curl -k -H 'Host: demo.example.com' https://127.0.0.1:"), "{out}");
    let manifest = out.lines().find_map(|line| line.trim().strip_prefix("manifest")).unwrap().trim();
    assert!(!Path::new(manifest).parent().unwrap().exists(), "{manifest}");
}
