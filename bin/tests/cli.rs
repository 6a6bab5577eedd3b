//! The commands that do not serve: `check`, `explain`, `version`, `completion`, and help.

#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a panic is a failed test")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{ingress, run};
use tempfile::TempDir;

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = TempDir::new().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

fn shop() -> String {
    ingress("shop", "shop.example.com", &["10.0.0.1:80".parse().unwrap(), "10.0.0.2:80".parse().unwrap()])
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Measuring the jitter of the CPU takes longer than the rest of a start (docs/security.md says what is done instead).
#[test]
fn the_random_generator_is_seeded_without_measuring_jitter() {
    let holds = |symbol: &str| {
        let arguments = ["-qaF", symbol, common::binary()];
        std::process::Command::new("grep").args(arguments).status().unwrap().success()
    };
    assert!(holds("CRYPTO_sysrand"), "the names of functions are not in the binary");
    assert!(!holds("jent_entropy_collector_alloc"), "aws-lc was built without .cargo/config.toml");
}

#[test]
fn every_example_is_without_problems() {
    let mut paths = vec![repository().join("examples/quickstart")];
    // Native examples are alternatives, not one configuration.
    let native = fs::read_dir(repository().join("examples/native")).unwrap();
    paths.extend(native.map(|entry| entry.unwrap().path()));
    assert!(paths.len() > 4, "{paths:?}");
    for path in paths {
        let (code, out, error) = run(&["check", "--strict", path.to_str().unwrap()]);
        assert_eq!(code, 0, "{}: {out}{error}", path.display());
    }
}

#[test]
fn configuration_of_the_deployment_is_without_problems() {
    let manifest = fs::read_to_string(repository().join("deploy/kubernetes/file-mode.yaml")).unwrap();
    let (_, data) = manifest.split_once("  routes.yaml: |\n").unwrap();
    let config: String = data
        .lines()
        .map_while(|line| line.strip_prefix("    "))
        .fold(String::new(), |text, line| text + line + "\n");
    assert!(config.contains("backends:"), "{config}");
    let folder = folder(&[("routes.yaml", &config)]);
    let (code, out, error) = run(&["check", "--strict", folder.path().to_str().unwrap()]);
    assert_eq!(code, 0, "{out}{error}");
}

#[test]
fn flags_of_the_deployments_exist() {
    let (_, help, _) = run(&["run", "--help"]);
    for file in ["deploy/kubernetes/file-mode.yaml", "deploy/systemd/sluicegate.service"] {
        let text = fs::read_to_string(repository().join(file)).unwrap();
        let words =
            text.lines().filter(|line| !line.trim_start().starts_with('#')).flat_map(str::split_whitespace);
        let flags: Vec<&str> = words.filter(|word| word.len() > 3 && word.starts_with("--")).collect();
        assert!(!flags.is_empty(), "{file}");
        for flag in flags {
            let flag = flag.split('=').next().unwrap();
            assert!(help.contains(&format!("{flag} ")), "{file}: {flag}");
        }
    }
}

#[test]
fn check_counts_and_says_good() {
    let folder = folder(&[("shop.yaml", &shop())]);
    let (code, out, _) = run(&["check", folder.path().to_str().unwrap()]);
    assert_eq!((code, &*out), (0, "good: 4 objects in 1 file, no problems\n"));
}

#[test]
fn check_names_file_line_object_and_field() {
    let folder = folder(&[("shop.yaml", &shop().replace("path: /,", "path: shop,"))]);
    let (code, out, _) = run(&["check", folder.path().to_str().unwrap()]);
    assert_eq!(code, 1, "{out}");
    for part in ["shop.yaml:9: error: Ingress test/shop", "spec.rules[0].http.paths[0].path", "bad: "] {
        assert!(out.contains(part), "{part:?} in {out}");
    }
}

#[test]
fn check_prints_json() {
    let folder = folder(&[("shop.yaml", &shop().replace("path: /,", "path: shop,"))]);
    let (code, out, _) = run(&["check", "--json", folder.path().to_str().unwrap()]);
    assert_eq!(code, 1);
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(value["errors"], 1);
    assert_eq!(value["problems"][0]["location"]["line"], 9);
    assert_eq!(value["problems"][0]["severity"], "error");
}

#[test]
fn output_has_no_colour_unless_on_a_terminal() {
    let folder = folder(&[("shop.yaml", &shop().replace("path: /,", "path: shop,"))]);
    let (_, out, _) = run(&["check", folder.path().to_str().unwrap()]);
    assert!(!out.contains('\x1b'), "{out:?}");
}

#[test]
fn warnings_fail_only_a_strict_check() {
    let folder = folder(&[]);
    assert_eq!(run(&["check", folder.path().to_str().unwrap()]).0, 0);
    assert_eq!(run(&["check", "--strict", folder.path().to_str().unwrap()]).0, 1);
}

#[test]
fn explain_names_route_endpoints_and_losers() {
    let folder = folder(&[
        ("shop.yaml", &shop()),
        (
            "api.yaml",
            &ingress("api", "shop.example.com", &["10.0.0.3:80".parse().unwrap()])
                .replace("path: /,", "path: /api,"),
        ),
    ]);
    let config = folder.path().to_str().unwrap();
    let (code, out, error) = run(&["explain", "GET", "http://shop.example.com/api/x", "--config", config]);
    assert_eq!(code, 0, "{out}{error}");
    for part in ["ingress/test/api", "Prefix /api", "10.0.0.3:80", "not taken", "ingress/test/shop"] {
        assert!(out.contains(part), "{part:?} in {out}");
    }
}

#[test]
fn explain_prints_json() {
    let folder = folder(&[("shop.yaml", &shop())]);
    let config = folder.path().to_str().unwrap();
    let (code, out, _) = run(&["explain", "GET", "http://shop.example.com/", "--json", "--config", config]);
    assert_eq!(code, 0);
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(value["chosen"]["route"], "ingress/test/shop");
}

#[test]
fn one_flag_takes_the_ingresses_of_another_controller_over() {
    let class = "---\napiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {name: nginx}\nspec: {controller: \
                 k8s.io/ingress-nginx}\n";
    let named = shop().replacen("spec:\n", "spec:\n  ingressClassName: nginx\n", 1);
    assert_ne!(named, shop());
    let folder = folder(&[("shop.yaml", &(named + class))]);
    let explain = |more: &[&str]| {
        let path = folder.path().to_str().unwrap();
        let args = ["explain", "GET", "http://shop.example.com/", "--config", path];
        run(&args.iter().chain(more).copied().collect::<Vec<_>>())
    };
    assert_eq!(explain(&[]).0, 1);
    let (code, out, error) = explain(&["--controller-class", "k8s.io/ingress-nginx"]);
    assert_eq!(code, 0, "{out}{error}");
    // The name of a controller is no name of a class.
    let (code, _, error) = explain(&["--ingress-class", "k8s.io/ingress-nginx"]);
    assert_eq!(code, 2, "{error}");
    assert!(error.contains("--controller-class k8s.io/ingress-nginx"), "{error}");
}

#[test]
fn explain_of_a_request_that_nothing_takes_fails() {
    let folder = folder(&[("shop.yaml", &shop())]);
    let config = folder.path().to_str().unwrap();
    let (code, out, _) = run(&["explain", "GET", "http://other.example.com/", "--config", config]);
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("404"), "{out}");
}

#[test]
fn explain_of_a_request_that_the_gateway_refuses_says_why() {
    let folder = folder(&[("shop.yaml", &shop())]);
    let config = folder.path().to_str().unwrap();
    let (code, _, error) = run(&["explain", "GET", "http://shop.example.com/%zz", "--config", config]);
    assert_eq!(code, 1);
    assert!(error.contains("400"), "{error}");
}

#[test]
fn version_is_text_or_json() {
    let (code, out, _) = run(&["version"]);
    assert_eq!((code, out), (0, format!("sluicegate {}\n", env!("CARGO_PKG_VERSION"))));
    let (_, out, _) = run(&["version", "--json"]);
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(value["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn schema_is_a_json_schema_of_the_native_format() {
    let (code, out, _) = run(&["schema"]);
    assert_eq!(code, 0);
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert!(value["$schema"].as_str().unwrap().starts_with("https://json-schema.org/"), "{value}");
    for section in ["listeners", "routes", "backends"] {
        assert!(value["properties"][section].is_object(), "{section}");
    }
}

#[test]
fn completion_is_made_for_each_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let (code, out, _) = run(&["completion", shell]);
        assert_eq!(code, 0);
        assert!(out.contains("explain"), "{shell}");
    }
}

#[test]
fn every_command_explains_itself() {
    for command in ["run", "check", "explain", "demo", "schema", "version", "completion"] {
        let (code, out, _) = run(&[command, "--help"]);
        assert_eq!(code, 0);
        assert!(out.contains("Examples:"), "{command}: {out}");
    }
}

#[test]
fn wrong_flag_is_a_usage_error() {
    let (code, _, error) = run(&["run", "--config", "/tmp", "--http", "8080"]);
    assert_eq!(code, 2);
    assert!(error.contains("127.0.0.1:8080"), "{error}");
}
