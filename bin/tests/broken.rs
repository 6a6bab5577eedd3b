//! Broken input: `check` says clearly what is wrong with each, and `run` serves the rest.

#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;

use common::{Backend, Gateway, ingress, run};
use tempfile::TempDir;

/// File name, text, and what `check` must say about it: place and object, field, reason.
const TEXTS: &[(&str, &str, &[&str])] = &[
    ("unterminated-list.yaml", "kind: Ingress\nmetadata: {name: [\n", &[":", "error"]),
    ("unterminated-quote.yaml", "kind: \"Ingress\nmetadata:\n", &["error"]),
    ("tab.yaml", "kind: Service\nmetadata:\n\tname: a\n", &["tab.yaml:3", "error"]),
    ("bad.json", "{\"kind\": \"Service\",", &["error"]),
    (
        "duplicate-key.yaml",
        "apiVersion: v1\nkind: Service\nkind: Secret\nmetadata: {name: a}\n",
        &["duplicate-key.yaml:3"],
    ),
    ("scalar.yaml", "just words\n", &["error"]),
    ("no-kind.yaml", "apiVersion: v1\nmetadata: {name: a}\n", &["error", "kind"]),
    (
        "no-name.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {}\nspec: {ports: [{port: 80}]}\n",
        &["error", "name"],
    ),
    (
        "wrong-version.yaml",
        "apiVersion: extensions/v1beta1\nkind: Ingress\nmetadata: {name: a}\nspec: {}\n",
        &["networking.k8s.io/v1"],
    ),
    (
        "wrong-type.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: wrong-type}\nspec:\n  ports:\n  - port: eighty\n",
        &["wrong-type.yaml:6: error: Service default/wrong-type: spec.ports[0].port"],
    ),
    (
        "bad-port.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: bad-port}\nspec:\n  ports:\n  - port: 70000\n",
        &["bad-port.yaml:6: error: Service default/bad-port: spec.ports[0].port", "70000"],
    ),
    (
        "unknown-field.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: unknown-field}\nspec:\n  portz: []\n  ports: [{port: 80}]\n",
        &["unknown-field.yaml:5: warning", "spec.portz", "UnknownField"],
    ),
    (
        "no-path-type.yaml",
        "apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: no-path-type}
spec:
  rules:
  - host: a.example.com
    http:
      paths:
      - path: /
        backend: {service: {name: a, port: {number: 80}}}
",
        &["error: Ingress default/no-path-type", "pathType"],
    ),
    (
        "relative-path.yaml",
        "apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: relative-path}
spec:
  rules:
  - host: b.example.com
    http:
      paths:
      - path: shop
        pathType: Prefix
        backend: {service: {name: a, port: {number: 80}}}
",
        &["relative-path.yaml:9: error: Ingress default/relative-path: spec.rules[0].http.paths[0].path"],
    ),
    (
        "bad-wildcard.yaml",
        "apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: bad-wildcard}
spec:
  rules:
  - host: 'shop.*.example.com'
    http:
      paths:
      - {path: /, pathType: Prefix, backend: {service: {name: a, port: {number: 80}}}}
",
        &["bad-wildcard.yaml:6: error: Ingress default/bad-wildcard: spec.rules[0].host"],
    ),
    (
        "missing-service.yaml",
        "apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: missing-service}
spec:
  rules:
  - host: c.example.com
    http:
      paths:
      - {path: /, pathType: Prefix, backend: {service: {name: nosuch, port: {number: 80}}}}
",
        &["missing-service.yaml:9: error: Ingress default/missing-service", "nosuch"],
    ),
    (
        "duplicate-path.yaml",
        "apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: duplicate-path}
spec:
  rules:
  - host: d.example.com
    http:
      paths:
      - {path: /, pathType: Prefix, backend: {service: {name: nosuch, port: {number: 80}}}}
      - {path: /, pathType: Prefix, backend: {service: {name: nosuch, port: {number: 81}}}}
",
        &["duplicate-path.yaml:10: error: Ingress default/duplicate-path", "paths[1]"],
    ),
    (
        "native-unknown-field.yaml",
        "listeners: ['127.0.0.1:8999']\nroutes:\n- backnd: x\n",
        &["native-unknown-field.yaml:3: error", "backnd", "backend"],
    ),
    (
        "native-bad-regex.yaml",
        "routes:\n- {name: bad-regex, pathRegex: '/(', backend: bad-regex}\nbackends:\n- {name: bad-regex, endpoints: ['127.0.0.1:1']}\n",
        &["native-bad-regex.yaml:2: error: Route bad-regex", "pathRegex"],
    ),
    (
        "native-bad-duration.yaml",
        "backends:\n- name: bad-duration\n  endpoints: ['127.0.0.1:1']\n  connectTimeout: soon\n",
        &["native-bad-duration.yaml:4: error: Backend bad-duration", "connectTimeout"],
    ),
    (
        "native-bad-weight.yaml",
        "routes:\n- name: bad-weight\n  backends: [{name: x, weight: -1}]\n",
        &["native-bad-weight.yaml:3: error: Route bad-weight", "weight"],
    ),
    (
        "native-bad-cidr.yaml",
        "listeners:\n- name: bad-cidr\n  address: 127.0.0.1:8999\n  trustedProxies: [10.0.0.0/64]\n",
        &["native-bad-cidr.yaml:4: error: Listener bad-cidr", "trustedProxies"],
    ),
    (
        "secret-not-base64.yaml",
        "apiVersion: v1
kind: Secret
metadata: {name: secret-not-base64}
type: kubernetes.io/tls
data:
  tls.crt: '-----BEGIN CERTIFICATE-----'
  tls.key: AAAA
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: secret-not-base64}
spec:
  tls:
  - {hosts: [f.example.com], secretName: secret-not-base64}
  rules:
  - {host: f.example.com}
",
        &[
            "secret-not-base64.yaml:6: error: Secret default/secret-not-base64: data[\"tls.crt\"]",
            "stringData",
            "secret-not-base64.yaml:14: error: Ingress default/secret-not-base64: spec.tls[0].secretName",
        ],
    ),
    (
        "missing-secret.yaml",
        "apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: missing-secret}
spec:
  tls:
  - {hosts: [g.example.com], secretName: nosuch}
  rules:
  - {host: g.example.com}
",
        &[
            "missing-secret.yaml:6: error: Ingress default/missing-secret: spec.tls[0].secretName",
            "SecretNotFound",
        ],
    ),
    (
        "bad-client-ca.yaml",
        "apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: bad-client-ca
  annotations:
    sluicegate.dev/client-ca: secret/other/ca
spec:
  rules:
  - {host: h.example.com}
",
        &["bad-client-ca.yaml:6: error: Ingress default/bad-client-ca", "answered 503"],
    ),
    (
        "secret-of-wrong-shape.yaml",
        "apiVersion: v1\nkind: Secret\nmetadata: {name: wrong-shape}\ndata: hunter2\n",
        &[
            "secret-of-wrong-shape.yaml:4: error: Secret default/wrong-shape: data",
            "expected a map, found a text",
        ],
    ),
    (
        "native-missing-certificate.yaml",
        "listeners:\n- name: no-certificate\n  address: 127.0.0.1:8998\n  tls: {certificates: [{cert: nosuch.pem, key: nosuch.key}]}\n",
        &["error: Listener no-certificate: listeners[0].tls.certificates[0]", "FileUnreadable", "nosuch.pem"],
    ),
    (
        "native-tls-in-cleartext.yaml",
        "backends:\n- name: tls-in-cleartext\n  endpoints: ['127.0.0.1:1']\n  tls: {ca: ca.pem}\n",
        &["error: Backend tls-in-cleartext: backends[0].protocol", "https"],
    ),
    (
        "native-missing-backend.yaml",
        "routes:\n- {name: missing-backend, hosts: e.example.com, backend: nosuch}\n",
        &["native-missing-backend.yaml:2: error: Route missing-backend", "nosuch"],
    ),
];

/// Bytes, trees and sizes that are no text.
fn write_oddities(folder: &Path) -> Vec<(&'static str, &'static str)> {
    fs::write(folder.join("binary.yaml"), [0x7f, b'E', b'L', b'F', 0, 1, 2, 0xff]).unwrap();
    fs::write(folder.join("latin-1.yaml"), b"kind: caf\xe9\n").unwrap();
    let huge = fs::File::create(folder.join("huge.yaml")).unwrap();
    huge.set_len(50 * 1024 * 1024).unwrap();
    let bomb: String = (1..12).fold("a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned(), |text, level| {
        let aliases = vec![format!("*a{}", level - 1); 9].join(", ");
        format!("{text}a{level}: &a{level} [{aliases}]\n")
    });
    fs::write(folder.join("bomb.yaml"), bomb).unwrap();
    fs::write(folder.join("deep.yaml"), "[".repeat(100_000)).unwrap();
    fs::create_dir(folder.join("cycle")).unwrap();
    symlink("..", folder.join("cycle/up")).unwrap();
    symlink("itself.yaml", folder.join("itself.yaml")).unwrap();
    symlink("nowhere.yaml", folder.join("dangling.yaml")).unwrap();
    drop(UnixListener::bind(folder.join("socket.yaml")).unwrap());
    vec![
        ("binary.yaml", "error"),
        ("latin-1.yaml", "error"),
        ("huge.yaml", "FileTooLarge"),
        ("bomb.yaml", "error"),
        ("deep.yaml", "error"),
        ("cycle/up", "CyclicSymlink"),
        ("itself.yaml", "CyclicSymlink"),
        ("dangling.yaml", "DanglingSymlink"),
        ("socket.yaml", "NotAFile"),
    ]
}

#[test]
fn check_says_clearly_what_is_wrong_with_each() {
    for (name, text, said) in TEXTS {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join(name), text).unwrap();
        let (code, out, error) = run(&["check", "--strict", folder.path().to_str().unwrap()]);
        assert_eq!(code, 1, "{name}: {out}{error}");
        assert!(!out.contains("hunter2"), "{name}: {out}");
        for part in *said {
            assert!(out.contains(part), "{name}: {part:?} in\n{out}{error}");
        }
    }
}

#[test]
fn check_says_clearly_what_is_wrong_with_what_is_no_text() {
    let folder = TempDir::new().unwrap();
    let oddities = write_oddities(folder.path());
    let (code, out, error) = run(&["check", folder.path().to_str().unwrap()]);
    assert_eq!(code, 1, "{out}{error}");
    for (name, part) in oddities {
        let line = out.lines().find(|line| line.contains(&format!("/{name}")));
        let line = line.unwrap_or_else(|| panic!("nothing about {name} in\n{out}"));
        assert!(line.contains(part), "{line}");
        assert!(line.len() < 1_000, "{name}: {} bytes", line.len());
    }
}

#[test]
fn run_serves_the_rest() {
    let folder = TempDir::new().unwrap();
    write_oddities(folder.path());
    for (name, text, _) in TEXTS {
        fs::write(folder.path().join(name), text).unwrap();
    }
    let backend = Backend::start("backend-1");
    fs::write(folder.path().join("good.yaml"), ingress("good", "good.example.com", &[backend.address]))
        .unwrap();
    let mut gateway = Gateway::start(folder.path(), &[]);
    assert_eq!(gateway.get("good.example.com", "/").status, 200);
    assert_eq!(gateway.get("c.example.com", "/").status, 503);
    assert!(gateway.is_running());
    // Everything else is still followed.
    fs::write(folder.path().join("more.yaml"), ingress("more", "more.example.com", &[backend.address]))
        .unwrap();
    gateway.wait_for_status("more.example.com", "/", 200);
}

#[test]
fn routes_are_not_served_unguarded_while_the_listener_of_another_file_is_wrong() {
    let folder = TempDir::new().unwrap();
    let backend = Backend::start("backend-1");
    let routes = format!(
        "routes: [{{name: n, hosts: [n.example.com], backend: b}}]\nbackends: [{{name: b, endpoints: ['{}']}}]\n",
        backend.address
    );
    fs::write(folder.path().join("routes.yaml"), routes).unwrap();
    let edge = folder.path().join("edge.yaml");
    for wrong in [
        "listeners: [{name: edge, address: '127.0.0.1:1', tls: {clientVerify: require}}]\n",
        "listener: ['127.0.0.1:1']\n",
        "listeners: [\n",
    ] {
        fs::write(&edge, wrong).unwrap();
        let gateway = Gateway::start(folder.path(), &[]);
        assert_eq!(gateway.get("n.example.com", "/").status, 404, "{wrong}");
        assert!(gateway.admin("/debug/table").contains("ListenersUnknown"), "{wrong}");
        fs::remove_file(&edge).unwrap();
        gateway.wait_for_status("n.example.com", "/", 200);
    }
    // What is served already is not taken away by a file that breaks later.
    let gateway = Gateway::start(folder.path(), &[]);
    fs::write(folder.path().join("routes.yaml"), "routes: [\n").unwrap();
    gateway.wait_for_log("InvalidYaml");
    assert_eq!(gateway.get("n.example.com", "/").status, 200);
    assert_eq!(backend.requests().len(), 4);
}
