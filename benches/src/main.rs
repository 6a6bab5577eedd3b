//! What proxies cost, side by side.

use anyhow::Result;
use benches::compare::report::Arguments;
use benches::compare::run::Options;
use benches::in_process::growth;
use clap::{Parser, Subcommand};

/// What proxies cost, side by side.
#[derive(Parser)]
#[command(name = "benches")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Compare(Options),
    Report(Arguments),
    Growth(growth::Options),
}

fn main() -> Result<()> {
    match Args::parse().command {
        Command::Compare(options) => options.run(),
        Command::Report(arguments) => arguments.run(),
        Command::Growth(options) => options.run(),
    }
}
