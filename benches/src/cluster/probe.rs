//! A client that asks one host again and again and notes who answered when.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

/// One answer: when the request was sent, when the answer was there, its status, and the number in its body.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// When the request was written.
    pub sent: Instant,
    /// When the answer had been read.
    pub read: Instant,
    /// Status; 0 if the connection failed.
    pub status: u16,
    /// The number that the backend said, if it was one.
    pub number: Option<u64>,
}

/// A running probe.
#[derive(Debug)]
pub struct Probe {
    done: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Answer>>,
}

impl Probe {
    /// Asks `host` at `target` until it is stopped, waiting `pause` between requests, on one connection that is opened
    /// again when it fails.
    #[must_use]
    pub fn start(target: SocketAddr, host: &str, pause: Duration) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let (flag, request) = (Arc::clone(&done), format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n"));
        let thread = std::thread::spawn(move || {
            let mut answers = Vec::new();
            let mut connection = None;
            while !flag.load(SeqCst) {
                let sent = Instant::now();
                let outcome = ask(&mut connection, target, &request);
                let (status, number) = outcome.unwrap_or_else(|_| {
                    connection = None;
                    (0, None)
                });
                answers.push(Answer { sent, read: Instant::now(), status, number });
                if !pause.is_zero() {
                    std::thread::sleep(pause);
                }
            }
            answers
        });
        Self { done, thread }
    }

    /// Ends it; everything it saw, in order.
    ///
    /// # Errors
    /// If it panicked.
    pub fn stop(self) -> Result<Vec<Answer>> {
        self.done.store(true, SeqCst);
        self.thread.join().map_err(|_| anyhow!("the probe panicked"))
    }
}

fn ask(
    connection: &mut Option<BufReader<TcpStream>>,
    target: SocketAddr,
    request: &str,
) -> Result<(u16, Option<u64>)> {
    if connection.is_none() {
        let stream = TcpStream::connect(target)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        *connection = Some(BufReader::new(stream));
    }
    let stream = connection.as_mut().context("connected")?;
    stream.get_mut().write_all(request.as_bytes())?;
    let (mut status, mut length) = (None, 0);
    loop {
        let mut line = String::new();
        anyhow::ensure!(stream.read_line(&mut line)? > 0, "closed");
        if line == "\r\n" {
            break;
        }
        match status {
            None => status = line.get(9..12).and_then(|code| code.parse().ok()),
            Some(_) => {
                if let Some(("content-length", value)) =
                    line.to_ascii_lowercase().split_once(':').map(|(name, value)| (name, value.trim()))
                {
                    length = value.parse()?;
                }
            }
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    let number = std::str::from_utf8(&body).ok().and_then(|text| text.parse().ok());
    Ok((status.context("no status")?, number))
}
