//! Connections that live on while the table changes under them. Owns the changes, the counts and the verdict; what is said
//! on the connections is the driver's.

use std::cell::Cell;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tokio::task::{JoinHandle, LocalSet};

use crate::process::{self, Proxy};

/// What all connections of a run have done.
#[derive(Debug, Default)]
pub struct Counts {
    open: Cell<usize>,
    stopped: Cell<bool>,
    /// Messages that came back.
    pub messages: Cell<u64>,
    /// Bytes that came back as they were sent.
    pub bytes: Cell<u64>,
}

impl Counts {
    /// True once the connections are to end.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.stopped.get()
    }
}

/// Counts a connection that is open until it is dropped.
#[derive(Debug)]
pub struct Open(Rc<Counts>);

impl Open {
    /// One more is open.
    #[must_use]
    pub fn new(counts: &Rc<Counts>) -> Self {
        counts.open.set(counts.open.get() + 1);
        Self(Rc::clone(counts))
    }

    /// What it counts in.
    #[must_use]
    pub const fn counts(&self) -> &Rc<Counts> {
        &self.0
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
    }
}

/// Runs the driver on this thread and prints its report, whose `good` is the verdict.
///
/// # Errors
/// If it fails, or takes longer than `limit`.
pub fn main(limit: Duration, run: impl Future<Output = Result<Value>>) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let run = async { tokio::time::timeout(limit, LocalSet::new().run_until(run)).await };
    let report = runtime.block_on(run).context("not done in time")??;
    println!("{report}");
    let good = report.get("good").and_then(Value::as_bool).unwrap_or(false);
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Changes the table by `write(number)` until the proxy has taken up `changes` of them, or a connection has ended; then
/// lets the connections end. The report is good if all were open until then and each ended well.
///
/// # Errors
/// If the proxy does not answer, or a change cannot be written.
pub async fn change(
    proxy: &Proxy,
    counts: &Counts,
    connections: Vec<JoinHandle<Result<()>>>,
    changes: u64,
    mut write: impl FnMut(usize) -> Result<()>,
) -> Result<Value> {
    let all = connections.len();
    let begin = Instant::now();
    let memory = process::pss_bytes(proxy.pid())?;
    let (first, mut seen, mut writes) = (proxy.swaps()?, 0, 0);
    while seen < changes && counts.open.get() == all {
        writes += 1;
        write(writes)?;
        // One change must be in before the next is made, or bursts would be taken in as one.
        while proxy.swaps()? == first + seen {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        seen = proxy.swaps()? - first;
    }
    let open = counts.open.get();
    counts.stopped.set(true);
    let mut errors = Vec::new();
    for connection in connections {
        if let Err(error) = connection.await? {
            errors.push(format!("{error:#}"));
        }
    }
    let failed = errors.len();
    errors.truncate(10);
    Ok(json!({
        "connections": all,
        "open_after_changes": open,
        "changes": seen,
        "seconds": begin.elapsed().as_secs_f64(),
        "messages": counts.messages.get(),
        "bytes": counts.bytes.get(),
        "failed": failed,
        "errors": errors,
        "memory": [memory, process::pss_bytes(proxy.pid())?],
        "good": failed == 0 && open == all && seen >= changes,
    }))
}
