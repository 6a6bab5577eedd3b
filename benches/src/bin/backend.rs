//! The backend of [`benches::backend`] in a process of its own, for loads that others make (`h2load`).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use benches::backend::{Backend, Reuse};
use benches::engine::Engine;
use clap::Parser;

/// Answers every HTTP/1.1 request until it is killed. A request or upload that is not as it must be ends it with an error.
#[derive(Parser)]
struct Args {
    /// Addresses to listen on.
    #[arg(required = true)]
    addresses: Vec<SocketAddr>,
    /// Bytes in each answer's body.
    #[arg(long, default_value_t = 13)]
    body: usize,
    /// Seconds until it ends by itself.
    #[arg(long, default_value_t = 300)]
    limit_seconds: u64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let mut engine = Engine::new(Backend::new(args.body, Reuse::Serve))?;
    for address in args.addresses {
        let listening = engine.backend.listen(&engine.poller, address);
        listening.with_context(|| format!("cannot listen on {address}"))?;
    }
    let end = Instant::now() + Duration::from_secs(args.limit_seconds);
    while Instant::now() < end {
        engine.run_for(Duration::from_millis(200))?;
        ensure!(engine.backend.seen.faults.is_empty(), "wrong requests: {:?}", engine.backend.seen.faults);
    }
    Ok(())
}
