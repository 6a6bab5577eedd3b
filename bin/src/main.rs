//! The binary: arguments to settings, controller and gateway wired together, run, drained. Decides nothing
//! about traffic or objects.

mod allocations;
mod check;
mod cli;
mod demo;
#[cfg(test)]
mod deploy;
mod explain;
mod families;
mod run;
mod settings;
mod terminal;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use self::cli::{Cli, Command, Shell, VersionArgs};

fn main() -> ExitCode {
    match dispatch(Cli::parse()) {
        Ok(code) => code,
        // Whoever reads our output has seen enough (`sluicegate check … | head`).
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Run(args) => run::run(&args),
        Command::Check(args) => check::check(args),
        Command::Explain(args) => explain::explain(args),
        Command::Demo(args) => demo::demo(&args),
        Command::Schema => schema(),
        Command::Version(args) => version(&args),
        Command::Completion { shell } => completion(shell),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let kind = |cause: &(dyn std::error::Error + 'static)| {
        let json = cause.downcast_ref().and_then(serde_json::Error::io_error_kind);
        json.or_else(|| cause.downcast_ref().map(io::Error::kind))
    };
    error.chain().any(|cause| kind(cause) == Some(io::ErrorKind::BrokenPipe))
}

fn schema() -> anyhow::Result<ExitCode> {
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, &config::schema::json_schema())?;
    writeln!(out)?;
    Ok(ExitCode::SUCCESS)
}

fn version(args: &VersionArgs) -> anyhow::Result<ExitCode> {
    let mut out = io::stdout().lock();
    let version = env!("CARGO_PKG_VERSION");
    if args.json {
        let target = format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS);
        let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
        let value = serde_json::json!({ "name": "sluicegate", "version": version, "target": target, "profile": profile });
        writeln!(out, "{value}")?;
    } else {
        writeln!(out, "sluicegate {version}")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn completion(shell: Shell) -> anyhow::Result<ExitCode> {
    let shell = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "sluicegate", &mut script);
    io::stdout().lock().write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}
