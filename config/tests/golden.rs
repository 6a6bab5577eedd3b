//! Golden files: `golden/NAME.in.yaml` compiles to `golden/NAME.out.yaml`. `UPDATE_GOLDEN=1` writes them anew.

mod common;

use std::path::{Path, PathBuf};

#[test]
fn every_golden_input_compiles_to_its_output() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut inputs: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().ends_with(".in.yaml"))
        .collect();
    inputs.sort();
    assert!(inputs.len() >= 6, "{inputs:?}");
    let mut wrong = Vec::new();
    for input in inputs {
        let (table, report) = common::compile(&std::fs::read_to_string(&input).unwrap());
        let rendered = common::render(&table, &report);
        let output = PathBuf::from(input.to_string_lossy().replace(".in.yaml", ".out.yaml"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&output, &rendered).unwrap();
        } else if std::fs::read_to_string(&output).unwrap_or_default() != rendered {
            wrong.push(format!("{}:\n{rendered}", output.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
