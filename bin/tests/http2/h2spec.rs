//! h2spec, the conformance suite of others. Debian has no package of it, so it may be missing even where all programs of
//! tests are asked for. Over TLS, where ALPN has settled the version: in cleartext one of its cases must fail, because
//! what is no preface is an HTTP/1.1 request there, and gets an answer.

use std::process::Command;

use crate::common::{Backend, Gateway, ingress};

#[test]
fn h2spec_finds_nothing() {
    if Command::new("h2spec").arg("--version").output().is_err() {
        eprintln!("skipped: h2spec is not installed");
        return;
    }
    let backend = Backend::start("one");
    let folder = tempfile::tempdir().expect("folder");
    let manifest = ingress("a", "\"\"", &[backend.address]).replace(
        "metadata: {name: a, namespace: test}\nspec:\n  rules",
        "metadata: {name: a, namespace: test, annotations: {sluicegate.dev/ssl-redirect: \"false\"}}\nspec:\n  rules",
    );
    std::fs::write(folder.path().join("a.yaml"), manifest).expect("written");
    let gateway = Gateway::start(folder.path(), &["--https", "127.0.0.1:0"]);
    let (address, port) = (gateway.https.ip().to_string(), gateway.https.port().to_string());
    let output = Command::new("h2spec").args(["-t", "-k", "-o", "10", "-h", &address, "-p", &port]).output();
    let output = output.expect("h2spec runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains(", 0 failed"), "{text}");
}
