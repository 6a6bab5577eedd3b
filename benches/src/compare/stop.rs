//! Whether the comparison was told to end. It then ends in order: what it started is ended, settings are put back.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, ensure};

static TOLD: AtomicBool = AtomicBool::new(false);

/// Listens for SIGINT, SIGTERM and SIGHUP from now on.
///
/// # Errors
/// If no thread can be started.
pub fn listen() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (ready, listening) = std::sync::mpsc::channel();
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            let result = wait(&ready).await;
            if let Err(error) = result {
                let _ = ready.send(Err(error));
            } else {
                TOLD.store(true, Ordering::Relaxed);
            }
        });
    })?;
    listening.recv()??;
    Ok(())
}

async fn wait(ready: &std::sync::mpsc::Sender<std::io::Result<()>>) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let _ = ready.send(Ok(()));
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    Ok(())
}

/// Whether it was told to.
#[must_use]
pub fn told() -> bool {
    TOLD.load(Ordering::Relaxed)
}

/// Goes on unless it was told to end.
///
/// # Errors
/// If it was.
pub fn check() -> Result<()> {
    ensure!(!told(), "interrupted");
    Ok(())
}
