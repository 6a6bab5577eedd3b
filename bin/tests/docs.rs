//! What the documentation says, held against the binary: its YAML is without problems, and its tables name what
//! there is.

#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a panic is a failed test")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use common::certificates::Authority;
use common::{ingress, run};
use gateway::record::Reason;
use gateway::tcp::L4End;
use tempfile::TempDir;

fn page(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)).unwrap()
}

/// The YAML blocks of a page.
fn yaml_blocks(text: &str) -> Vec<&str> {
    text.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

/// The cells of the table rows of the section that begins with `heading`. Code marks are kept.
fn rows<'p>(text: &'p str, heading: &str) -> Vec<Vec<&'p str>> {
    let section = text.split(&format!("\n{heading}\n")).nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let lines = section.lines().filter(|line| line.starts_with("| `"));
    lines.map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect()).collect()
}

/// The text of the first code mark in a cell.
fn code(cell: &str) -> &str {
    cell.split('`').nth(1).unwrap()
}

fn check(text: &str) -> (i32, String) {
    let folder = TempDir::new().unwrap();
    let leaf = Authority::new("docs").issue(&["example.com", "*.example.com"]);
    fs::create_dir(folder.path().join("certs")).unwrap();
    for name in text.split("certs/").skip(1).map(|rest| rest.split([',', '}', ' ', '\n']).next().unwrap()) {
        let content = if name.ends_with(".key") { leaf.key_pem() } else { leaf.chain_pem() };
        fs::write(folder.path().join("certs").join(name), content).unwrap();
    }
    let path = folder.path().join("page.yaml");
    fs::write(&path, text).unwrap();
    let (status, out, error) = run(&["check", "--strict", path.to_str().unwrap()]);
    (status, out + &error)
}

/// A block with the objects that it names and that every reader has.
fn complete(block: &str) -> String {
    if !block.contains("secretName: shop-tls") {
        return block.to_owned();
    }
    let secret = Authority::new("docs").issue(&["shop.example.com"]).secret("shop", "shop-tls");
    let rest = ingress("web", "web.example.com", &["10.0.0.1:80".parse().unwrap()]);
    let rest = rest.split_once("---").unwrap().1.replace("namespace: test", "namespace: shop");
    format!("{block}\n---\n{secret}\n---{rest}")
}

#[test]
fn every_yaml_example_is_without_problems() {
    for (name, least) in [
        ("README.md", 1),
        ("docs/native.md", 6),
        ("docs/l4.md", 1),
        ("docs/udp.md", 1),
        ("docs/ingress.md", 1),
    ] {
        let text = page(name);
        let blocks = yaml_blocks(&text);
        assert!(blocks.len() >= least, "{name} has {} blocks", blocks.len());
        for block in blocks {
            let (status, out) = check(&complete(block));
            assert_eq!(status, 0, "{name}:\n{block}\n{out}");
        }
    }
}

fn annotated(name: &str, value: &str) -> (i32, String) {
    let plain = ingress("shop", "shop.example.com", &["10.0.0.1:80".parse().unwrap()]);
    let annotation = format!("metadata: {{annotations: {{'sluicegate.dev/{name}': '{value}'}}, ");
    let manifest = plain.replacen("metadata: {", &annotation, 1);
    assert_ne!(manifest, plain);
    check(&manifest.replace("spec: {ports", "spec: {clusterIP: 10.96.0.9, ports"))
}

#[test]
fn every_annotation_of_the_table_is_one_with_its_example() {
    let text = page("docs/ingress.md");
    let rows = rows(&text, "## Annotations");
    assert!(rows.len() >= 19, "{} rows", rows.len());
    for row in &rows {
        let (name, default, example) = (code(row[0]), row[2], code(row[3]));
        let (status, out) = annotated(name, example);
        assert_eq!(status, 0, "{name}: {example}\n{out}");
        if default.starts_with('`') {
            let (status, out) = annotated(name, code(default));
            assert_eq!(status, 0, "{name}: {default}\n{out}");
        }
    }
}

#[test]
fn every_annotation_of_tls_is_one() {
    let text = page("docs/ingress.md");
    let rows = rows(&text, "## TLS");
    assert_eq!(rows.len(), 13, "{rows:?}");
    for row in &rows {
        let name = code(row[0]);
        // The last value of the cell, made concrete.
        let value = row[1].rsplit('`').nth(1).unwrap().replace("NAME", "nobody");
        let (_, out) = annotated(name, &value);
        assert!(
            !out.contains("UnknownAnnotation") && !out.contains("InvalidAnnotation"),
            "{name}: {value}\n{out}"
        );
        let (_, out) = annotated(name, "such a value is wrong everywhere");
        assert!(out.contains("(InvalidAnnotation)"), "{name}\n{out}");
    }
}

#[test]
fn bounds_of_annotations_are_those_of_the_table() {
    let text = page("docs/ingress.md");
    for row in rows(&text, "## Annotations") {
        let name = code(row[0]);
        let numbers: Vec<u64> =
            row[1].split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect();
        match (row[1].starts_with("time"), numbers.as_slice()) {
            (true, [0]) if row[1].contains("more than 0") => assert_eq!(annotated(name, "0").0, 1, "{name}"),
            (true, [0]) => assert_eq!(annotated(name, "0").0, 0, "{name}"),
            (false, [0, most]) => {
                assert_eq!(annotated(name, &most.to_string()).0, 0, "{name}");
                assert_eq!(annotated(name, &(most + 1).to_string()).0, 1, "{name}");
            }
            _ => {}
        }
    }
}

#[test]
fn every_reason_is_explained_with_its_status() {
    let text = page("docs/operations.md");
    let rows = rows(&text, "## Reason codes");
    let named: BTreeSet<&str> = rows.iter().map(|row| code(row[0])).collect();
    let known: BTreeSet<&str> = Reason::ALL.into_iter().map(Reason::code).collect();
    assert_eq!(named, known);
    for reason in Reason::ALL.into_iter().filter(|reason| reason.status() >= 400) {
        let row = rows.iter().find(|row| code(row[0]) == reason.code()).unwrap();
        assert_eq!(row[1], reason.status().to_string(), "{}", reason.code());
    }
}

#[test]
fn every_way_in_which_a_connection_ends_is_explained() {
    let text = page("docs/l4.md");
    let rows = rows(&text, "## How connections end");
    let named: BTreeSet<&str> = rows.iter().map(|row| code(row[0])).collect();
    let known: BTreeSet<&str> = L4End::ALL.into_iter().map(L4End::code).collect();
    assert_eq!(named, known);
}

#[test]
fn every_limit_is_in_the_table_with_its_flag_and_default() {
    let text = page("docs/operations.md");
    let (_, help, _) = run(&["run", "--help"]);
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    let limits = help.split("Limits of the Ingress addresses:").nth(1).unwrap();
    let limits = limits.split("Examples:").next().unwrap();
    let flags: BTreeSet<&str> = limits.split_whitespace().filter(|word| word.starts_with("--")).collect();
    let rows = rows(&text, "## Limits");
    assert_eq!(rows.iter().map(|row| code(row[0])).collect::<BTreeSet<_>>(), flags);
    for row in rows {
        let own = limits.split(&format!("{} ", code(row[0]))).nth(1).unwrap();
        let default = own.split("[default: ").nth(1).unwrap().split(']').next().unwrap();
        assert_eq!(row[2].split([' ', ';']).next().unwrap(), default, "{}", row[0]);
    }
}

#[test]
fn every_flag_of_status_is_explained() {
    let text = page("docs/kubernetes.md");
    let (_, help, _) = run(&["run", "--help"]);
    let flags = help.split("\nKubernetes status:\n").nth(1).unwrap().split("\n\n\n").next().unwrap();
    let lines = flags.lines().take_while(|line| line.is_empty() || line.starts_with(' '));
    let named = lines.filter_map(|line| line.trim_start().strip_prefix("--"));
    let names: Vec<&str> = named.map(|line| line.split([' ', '[']).next().unwrap()).collect();
    assert!(names.len() >= 10, "{names:?}");
    for name in names {
        let variable = name.to_uppercase().replace('-', "_");
        assert!(text.contains(&format!("--{name}")) || text.contains(&variable), "--{name}");
    }
}

#[test]
fn links_between_pages_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut pages = vec!["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"]
        .into_iter()
        .map(|name| root.join(name))
        .collect::<Vec<_>>();
    // The folder of results is there once there are results.
    let folders = ["docs", "docs/benchmarks"].map(|name| root.join(name));
    for folder in folders.iter().filter(|folder| folder.is_dir()) {
        pages.extend(fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()));
    }
    for path in pages.iter().filter(|path| path.extension().is_some_and(|ext| ext == "md")) {
        let text = fs::read_to_string(path).unwrap();
        for target in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            if target.contains("://") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let file = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            assert!(file.exists(), "{}: {target}", path.display());
            if !anchor.is_empty() {
                let anchors = anchors(&fs::read_to_string(&file).unwrap());
                assert!(anchors.contains(anchor), "{}: {target}", path.display());
            }
        }
    }
}

/// The anchors that a Markdown renderer makes of a page's headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let anchor = |line: &str| {
        let kept = line.trim_start_matches('#').trim().chars().filter_map(|c| match c {
            ' ' => Some('-'),
            c if c.is_alphanumeric() || matches!(c, '-' | '_') => Some(c.to_ascii_lowercase()),
            _ => None,
        });
        kept.collect()
    };
    headings.map(anchor).collect()
}
