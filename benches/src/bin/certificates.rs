//! Writes an authority and a certificate for `bench.test` that it has issued: what the peers of a comparison serve and what
//! the load trusts.

use std::path::PathBuf;

use anyhow::Result;
use benches::{certificates, tls};
use clap::Parser;

/// Writes `ca.pem`, `leaf.crt`, `leaf.key` and `leaf.pem` (certificate and key), ECDSA on P-256, with new keys.
#[derive(Parser)]
struct Args {
    /// Where to; the folder exists.
    folder: PathBuf,
}

fn main() -> Result<()> {
    certificates::write(&Args::parse().folder, tls::NAME)
}
