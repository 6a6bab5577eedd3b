//! What is in `deploy/` and the Dockerfile, held against the command line and the workspace: a flag that does not exist
//! would only show where it is deployed.

#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a panic is a failed test")]

use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser;

use crate::cli::{Cli, Command, RunArgs};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// Every manifest that is committed, with its path.
fn manifests() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for folder in ["deploy/manifests", "deploy/kubernetes", "deploy/chart/golden"] {
        for entry in fs::read_dir(root().join(folder)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.ends_with(".yaml") && !name.ends_with(".values.yaml") {
                let path = format!("{folder}/{name}");
                found.push((path.clone(), read(&path)));
            }
        }
    }
    found
}

/// The arguments of the containers of a manifest.
fn arguments(manifest: &str) -> Vec<Vec<String>> {
    let list = |rest: &str| {
        let items = rest.lines().map(str::trim_start).map_while(|line| line.strip_prefix("- "));
        items.map(|item| item.trim_matches('"').to_owned()).collect()
    };
    manifest.split(" args:\n").skip(1).map(list).collect()
}

/// Parses as the kubelet would start it: variables are expanded before.
fn parse(words: impl IntoIterator<Item = String>) -> Result<Box<RunArgs>, String> {
    let words = words.into_iter().map(|word| word.replace("$(POD_NAMESPACE)", "sluicegate"));
    match Cli::try_parse_from(std::iter::once("sluicegate".to_owned()).chain(words)) {
        Ok(Cli { command: Command::Run(args) }) => Ok(args),
        Ok(_) => Err("another command than run".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn arguments_of_every_manifest_are_accepted() {
    let manifests = manifests();
    assert!(manifests.len() >= 9, "{}", manifests.len());
    for (path, text) in manifests {
        let containers = arguments(&text);
        assert_eq!(containers.len(), 1, "{path}");
        for words in containers {
            assert!(words.len() > 5, "{path}: {words:?}");
            parse(words).unwrap_or_else(|error| panic!("{path}: {error}"));
        }
    }
}

#[test]
fn arguments_of_unit_and_image_are_accepted() {
    let unit = read("deploy/systemd/sluicegate.service");
    let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    parse(line.split_whitespace().skip(1).map(str::to_owned)).unwrap();

    let dockerfile = read("Dockerfile");
    let line = dockerfile.lines().find_map(|line| line.strip_prefix("CMD ")).unwrap();
    parse(serde_json::from_str::<Vec<String>>(line).unwrap()).unwrap();
}

#[test]
fn version_is_that_of_the_workspace_everywhere() {
    let version = env!("CARGO_PKG_VERSION");
    assert!(read("deploy/chart/Chart.yaml").contains(&format!("\nappVersion: {version}\n")));
    assert!(read("Dockerfile").contains(&format!("image.version=\"{version}\"")));
    for (path, text) in manifests() {
        let image =
            text.lines().find_map(|line| line.trim().strip_prefix("image: ")).unwrap().trim_matches('"');
        assert!(image.ends_with(&format!(":{version}")) || image.contains("@sha256:"), "{path}: {image}");
    }
}

#[test]
fn image_is_built_from_every_member_of_the_workspace() {
    let sent = read(".dockerignore");
    let manifest = read("Cargo.toml");
    let members = manifest.split("members = [").nth(1).unwrap().split(']').next().unwrap();
    for member in
        members.split(',').map(|member| member.trim().trim_matches('"')).filter(|member| !member.is_empty())
    {
        let top = member.split('/').next().unwrap();
        assert!(sent.lines().any(|line| line == format!("!{top}")), "{member} is not sent to the engine");
    }
}

#[test]
fn files_and_values_that_pages_name_exist() {
    let schema: serde_json::Value = serde_json::from_str(&read("deploy/chart/values.schema.json")).unwrap();
    let is_value = |name: &str| {
        name.split('.')
            .try_fold(&schema, |schema, name| {
                let open = || schema.get("additionalProperties").filter(|open| open.is_object());
                schema["properties"].get(name).or_else(open)
            })
            .is_some()
    };
    let (mut files, mut values) = (0, 0);
    for page in ["docs/kubernetes-guide.md", "deploy/chart/README.md", "README.md"] {
        let text = read(page);
        let words = text.split(|c: char| c.is_whitespace() || "()`\\".contains(c));
        for name in words.filter(|word| word.starts_with("deploy/") || word.starts_with("examples/")) {
            let name = name.trim_end_matches(['.', ',', ';', ':']);
            let is_there = ["", "deploy/chart"].iter().any(|folder| root().join(folder).join(name).exists());
            assert!(is_there, "{page}: {name}");
            files += 1;
        }
        for set in text.split("--set ").skip(1).map(|rest| rest.split([' ', '\n', '`']).next().unwrap()) {
            for (name, _) in set.split(',').filter_map(|one| one.split_once('=')) {
                assert!(is_value(name), "{page}: {name}");
                values += 1;
            }
        }
    }
    assert!(files >= 15 && values >= 4, "{files} files, {values} values");
}
