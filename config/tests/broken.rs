//! Broken inputs: each is told with file, line, object, field and reason, and costs only itself.

mod common;

use config::report::Severity;

/// Every finding about a file as `severity line object field reason`.
fn findings(file: &str, bytes: &[u8]) -> Vec<String> {
    let decoded = config::resource::decode(&file.into(), bytes);
    let text = String::from_utf8_lossy(bytes);
    let report = if decoded.incomplete || std::str::from_utf8(bytes).is_err() {
        decoded.problems
    } else {
        common::compile(&text).1.problems.clone()
    };
    let one = |problem: &config::report::Problem| {
        let location = problem.location.as_ref().map_or(0, |location| location.line);
        let severity = if problem.severity == Severity::Error { "E" } else { "W" };
        assert!(!problem.message.is_empty() && !problem.message.ends_with('.'), "{problem}");
        let object = if problem.object.name.ends_with(".yaml") {
            "File".to_owned()
        } else {
            problem.object.to_string()
        };
        format!("{severity} {location} {object} {} {}", problem.field, problem.reason)
    };
    report.iter().map(one).collect()
}

#[test]
fn each_broken_file_is_told_with_line_object_field_and_reason() {
    let expected = [
        ("alias-bomb.yaml", vec!["E 6 File  InvalidYaml"]),
        ("bad-address.yaml", vec!["E 8 EndpointSlice default/web endpoints[1].addresses[0] InvalidAddress"]),
        ("bad-host.yaml", vec!["E 6 Ingress default/web spec.rules[0].host InvalidHost"]),
        ("bad-name.yaml", vec!["E 3 File metadata.name InvalidName"]),
        (
            "bad-path-type.yaml",
            vec!["E 8 Ingress default/web spec.rules[0].http.paths[0].pathType InvalidPathType"],
        ),
        (
            "bad-port.yaml",
            vec![
                "E 10 Ingress default/web spec.rules[0].http.paths[0].backend.service.port.number InvalidPort",
            ],
        ),
        ("bad-wildcard.yaml", vec!["E 6 Ingress default/web spec.rules[0].host InvalidHost"]),
        ("binary.yaml", vec!["E 2 File  NotText"]),
        ("duplicate-key.yaml", vec!["E 6 File  InvalidYaml"]),
        ("duplicate-path.yaml", vec!["E 13 Ingress default/web spec.rules[1].http.paths[0] DuplicatePath"]),
        ("latin1.yaml", vec!["E 2 File  NotText"]),
        ("missing-kind.yaml", vec!["E 1 File kind MissingField"]),
        ("missing-label.yaml", vec!["W 1 EndpointSlice default/web metadata.labels MissingLabel"]),
        ("missing-name.yaml", vec!["E 4 File metadata.name MissingField"]),
        (
            "missing-path-type.yaml",
            vec!["E 8 Ingress default/web spec.rules[0].http.paths[0].pathType MissingField"],
        ),
        (
            "missing-service.yaml",
            vec!["E 6 Ingress default/web spec.defaultBackend.service.name BackendNotFound"],
        ),
        ("native-bad-cidr.yaml", vec!["E 5 Listener edge listeners[0].trustedProxies[0] InvalidValue"]),
        ("native-bad-duration.yaml", vec!["E 4 Backend app backends[0].connectTimeout InvalidValue"]),
        ("native-bad-regex.yaml", vec!["E 3 Route pictures routes[0].pathRegex InvalidRegex"]),
        (
            "native-bad-status.yaml",
            vec!["E 5 Backend app backends[0].health.active.expected[0] InvalidValue"],
        ),
        ("native-duplicate.yaml", vec!["E 3 Backend app backends[1].name DuplicateObject"]),
        ("native-endpoint-without-port.yaml", vec!["E 4 Backend app backends[0].endpoints[0] InvalidValue"]),
        (
            "native-header-injection.yaml",
            vec!["E 6 Route inject routes[0].filters.requestHeaders.set.X-A InvalidHeader"],
        ),
        ("native-missing-backend.yaml", vec!["E 2 Route lost routes[0].backend BackendNotFound"]),
        ("native-negative-weight.yaml", vec!["E 5 Route split routes[0].backends[0].weight InvalidValue"]),
        ("native-unknown-field.yaml", vec!["E 4 Route all routes[0].timeout UnknownField"]),
        ("native-unknown-section.yaml", vec!["E 1 File routs UnknownField"]),
        ("native-wrong-version.yaml", vec!["E 1 File apiVersion UnsupportedVersion"]),
        ("not-a-manifest.yaml", vec!["E 1 File  WrongType"]),
        ("relative-path.yaml", vec!["E 8 Ingress default/web spec.rules[0].http.paths[0].path InvalidPath"]),
        ("tabs.yaml", vec!["E 4 File  InvalidYaml"]),
        (
            "unknown-field.yaml",
            vec!["W 10 Ingress default/web spec.rules[0].http.paths[0].pathtype UnknownField"],
        ),
        ("unterminated-quote.yaml", vec!["E 3 File  InvalidYaml"]),
        ("wrong-api-version.yaml", vec!["E 1 Ingress default/web apiVersion UnsupportedVersion"]),
        ("wrong-shape.yaml", vec!["E 5 Ingress default/web spec.rules WrongType"]),
        ("wrong-type.yaml", vec!["E 6 Ingress default/web spec.rules[0].host WrongType"]),
    ];
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/broken");
    let mut wrong = Vec::new();
    for (file, findings_of) in &expected {
        let bytes = std::fs::read(folder.join(file)).unwrap();
        let found = findings(file, &bytes);
        if found != *findings_of {
            wrong.push(format!("{file}: {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), expected.len());
}

#[test]
fn a_file_of_more_than_16_mib_is_refused() {
    let text = "#".repeat(config::resource::MAX_FILE_BYTES + 1);
    assert_eq!(findings("big.yaml", text.as_bytes()), ["E 0 File  FileTooLarge"]);
}

#[test]
fn an_empty_file_is_no_object_and_no_problem() {
    for text in ["", "\n\n", "# nothing\n", "---\n---\n", "\u{feff}"] {
        let decoded = config::resource::decode(&"empty.yaml".into(), text.as_bytes());
        assert!(decoded.objects.is_empty() && decoded.problems.is_empty() && !decoded.incomplete, "{text:?}");
    }
}

#[test]
fn a_broken_document_costs_only_itself() {
    let text = "kind: [\n---\napiVersion: v1\nkind: Service\nmetadata: {name: web}\n---\nfoo: 'x\n";
    let decoded = config::resource::decode(&"mixed.yaml".into(), text.as_bytes());
    assert_eq!(decoded.objects.len(), 1);
    assert_eq!(decoded.problems.len(), 2);
    assert!(decoded.incomplete);
}

#[test]
fn an_object_that_does_not_decode_is_named_so_that_its_last_good_version_stays() {
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {ports: 80}\n";
    let decoded = config::resource::decode(&"service.yaml".into(), text.as_bytes());
    assert_eq!(decoded.invalid.iter().map(ToString::to_string).collect::<Vec<_>>(), ["Service shop/web"]);
    assert!(!decoded.incomplete);
    let text =
        "routes: [{name: r, backend: b, nonsense: 1}]\nbackends: [{name: b, endpoints: ['10.0.0.1:80']}]\n";
    let decoded = config::resource::decode(&"native.yaml".into(), text.as_bytes());
    assert_eq!(decoded.invalid.iter().map(ToString::to_string).collect::<Vec<_>>(), ["Route r"]);
    assert_eq!(decoded.objects.len(), 1);
}

#[test]
fn kinds_of_others_are_skipped_in_silence_however_deep() {
    let deep = "{a: ".repeat(200);
    let text = format!(
        "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nspec: {deep}\n---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: x}}\n"
    );
    let decoded = config::resource::decode(&"others.yaml".into(), text.as_bytes());
    assert!(decoded.objects.is_empty() && decoded.problems.is_empty(), "{:?}", decoded.problems);
}
