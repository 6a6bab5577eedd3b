//! A backend on a thread that answers everything with its number. Ends when dropped, by closing what it has.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};

/// A running backend.
#[derive(Debug)]
pub struct Backend {
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    stopped: AtomicBool,
    connections: Mutex<Vec<TcpStream>>,
}

impl Backend {
    /// Starts one that says `number`, on an address that an EndpointSlice may hold.
    ///
    /// # Errors
    /// If this machine has no address but loopback, or no port is free.
    pub fn start(number: u64) -> Result<Self> {
        let listener = TcpListener::bind((host_ip()?, 0))?;
        let address = listener.local_addr()?;
        let state = Arc::<State>::default();
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if shared.stopped.load(SeqCst) {
                    return;
                }
                if let Ok(copy) = stream.try_clone() {
                    shared.connections.lock().unwrap_or_else(PoisonError::into_inner).push(copy);
                }
                std::thread::spawn(move || serve(stream, number));
            }
        });
        Ok(Self { address, state })
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.state.stopped.store(true, SeqCst);
        // Wakes the accept loop, which then ends.
        let _ = TcpStream::connect(self.address);
        for stream in self.state.connections.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn serve(stream: TcpStream, number: u64) {
    let _ = stream.set_nodelay(true);
    let mut stream = BufReader::new(stream);
    let body = number.to_string();
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let mut head = String::new();
    loop {
        head.clear();
        while !head.ends_with("\r\n\r\n") {
            if !matches!(stream.read_line(&mut head), Ok(length) if length > 0) {
                return;
            }
        }
        if stream.get_mut().write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// An address of this machine that is not loopback, which an EndpointSlice must not hold. Nothing is sent to find it.
///
/// # Errors
/// If it has none.
pub fn host_ip() -> Result<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect("198.51.100.1:9").context("this machine has no address but loopback")?;
    Ok(socket.local_addr()?.ip())
}
