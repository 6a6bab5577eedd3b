//! From the raw data of runs to a folder that a reader opens: the page, its charts, and the raw data beside them. It
//! measures nothing.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;

use super::record::Run;
use super::text::slug;
use super::{agreement, page};
use crate::in_process::{self, growth};

/// Makes the report of comparisons, or says whether two of them agree.
#[derive(Debug, Args)]
pub struct Arguments {
    /// What `compare` wrote. Of a scenario in several of them, the last one is shown.
    #[arg(required = true, value_name = "RUN.json")]
    runs: Vec<PathBuf>,
    /// The folder to write to; what is in it under other names stays.
    #[arg(long, default_value = "docs/benchmarks")]
    out: PathBuf,
    /// Write nothing; fail unless the medians of ratios of two runs agree within 5 %.
    #[arg(long)]
    agree: bool,
}

impl Arguments {
    /// Does what was asked for, and says on standard output what came of it.
    ///
    /// # Errors
    ///
    /// A file that cannot be read or written, or is none of a comparison; with `--agree`, two runs that do not.
    pub fn run(&self) -> Result<()> {
        let runs = self.runs.iter().map(|path| read(path)).collect::<Result<Vec<Run>>>()?;
        if self.agree {
            let [a, b] = &runs[..] else { anyhow::bail!("--agree is about two runs, not {}", runs.len()) };
            return agree(a, b);
        }
        write(&runs, &self.out)?;
        if let [.., a, b] = &runs[..] {
            tell(&agreement::compare(a, b));
        }
        println!("written: {}", self.out.join("README.md").display());
        Ok(())
    }
}

fn read(path: &Path) -> Result<Run> {
    let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is not from a comparison", path.display()))
}

fn tell(agreements: &[agreement::Agreement]) {
    for agreement in agreements {
        println!("{}: {}", agreement.title(), agreement.text());
    }
}

/// Prints for each scenario of both runs whether the medians of ratios agree.
///
/// # Errors
///
/// They do not, or there is nothing to compare.
pub fn agree(a: &Run, b: &Run) -> Result<()> {
    let agreements = agreement::compare(a, b);
    tell(&agreements);
    ensure!(!agreements.is_empty(), "the runs have no scenario in common");
    let apart = agreements.iter().filter(|agreement| !agreement.holds()).count();
    ensure!(apart == 0, "{apart} of {} scenarios do not agree", agreements.len());
    Ok(())
}

/// Writes `README.md`, the charts and the raw data of `runs` to the folder `out`, which is made if it is not there. If it has
/// a `growth.json`, the page tells of that, too.
///
/// # Errors
///
/// There is no run, or a file cannot be written.
pub fn write(runs: &[Run], out: &Path) -> Result<()> {
    ensure!(!runs.is_empty(), "there is no run to report");
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let raw = names(runs);
    let in_process = growth::read(out)?.map(|growth| in_process::page::section(&growth)).unwrap_or_default();
    let mut files = page::files(runs, &raw, &in_process);
    for (run, name) in runs.iter().zip(&raw) {
        let mut run = run.clone();
        // Where the binary was is of no use to anybody else.
        for program in run.command.iter_mut().take(1) {
            *program = program.rsplit('/').next().unwrap_or_default().to_owned();
        }
        files.push((name.clone(), serde_json::to_string_pretty(&run)? + "\n"));
    }
    for (name, content) in files {
        let path = out.join(name);
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// A file name for each run, by when it began.
fn names(runs: &[Run]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for run in runs {
        let began = slug(&run.began);
        let taken = names.iter().filter(|name| name.starts_with(&format!("run-{began}"))).count();
        let again = if taken == 0 { String::new() } else { format!("-{}", taken + 1) };
        names.push(format!("run-{began}{again}.json"));
    }
    names
}

#[cfg(test)]
mod tests;
