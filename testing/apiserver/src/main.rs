//! The test API server as a program: serves until it is ended.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Parser;
use test_apiserver::{Options, Server, Token};

/// A small, strict Kubernetes API server for tests.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    /// Port on 127.0.0.1; 0 takes a free one.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Where the kubeconfig is written.
    #[arg(long, value_name = "PATH")]
    kubeconfig: PathBuf,
    /// Bearer token that may do everything.
    #[arg(long, default_value = "test-token")]
    token: String,
}

fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    let tokens = vec![Token::admin(&arguments.token)];
    let server = Server::start(Options { port: arguments.port, tokens, ..Options::default() })?;
    server.write_kubeconfig(&arguments.kubeconfig)?;
    let mut out = io::stdout().lock();
    writeln!(out, "ready https://{} {}", server.address(), arguments.kubeconfig.display())?;
    out.flush()?;
    loop {
        std::thread::park();
    }
}
