//! Signals that mean something to the process.

use std::io;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use tokio::signal::unix::{self, SignalKind, signal};

/// `timeout` and some supervisors signal the process and then its group: what follows within this time is the same
/// wish, not a second one.
const ECHO: Duration = Duration::from_millis(50);

/// A signal that came.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Signal {
    Hangup,
    Interrupt,
    Terminate,
}

impl Signal {
    /// The exit code of a process that the signal ended, as shells have it.
    pub(crate) fn exit_code(self) -> ExitCode {
        ExitCode::from(match self {
            Self::Hangup => 129,
            Self::Interrupt => 130,
            Self::Terminate => 143,
        })
    }
}

/// Takes signals instead of the system's default for them.
#[derive(Debug)]
pub(crate) struct Signals {
    hangup: unix::Signal,
    interrupt: unix::Signal,
    terminate: unix::Signal,
    /// The last signal that ends the process, and when it came.
    last: Option<(Signal, Instant)>,
}

impl Signals {
    /// Takes signals from now on. Needs a tokio runtime with I/O.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            last: None,
        })
    }

    /// The next signal. Safe to drop while waiting.
    pub(crate) async fn next(&mut self) -> Signal {
        let signal = tokio::select! {
            _ = self.hangup.recv() => Signal::Hangup,
            _ = self.interrupt.recv() => Signal::Interrupt,
            _ = self.terminate.recv() => Signal::Terminate,
        };
        if signal != Signal::Hangup {
            self.last = Some((signal, Instant::now()));
        }
        signal
    }

    /// The next signal that ends the process, echoes of the last one aside.
    pub(crate) async fn end(&mut self) -> Signal {
        loop {
            let last = self.last;
            let signal = self.next().await;
            let is_echo = last.is_some_and(|(last, came)| last == signal && came.elapsed() < ECHO);
            if signal != Signal::Hangup && !is_echo {
                return signal;
            }
        }
    }
}
