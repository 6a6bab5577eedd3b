//! A client's connection as its load sees it: bytes in and out of a non-blocking socket, encrypted or not. Owns the socket
//! and the TLS session on it; knows nothing of what the bytes mean.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{self, RecvFlags, SendFlags};
use rustls::client::ClientConnection;

/// Why nothing more will come of a connection.
pub type Lost = String;

/// A connection.
#[derive(Debug)]
pub struct Link {
    socket: OwnedFd,
    tls: Option<Box<ClientConnection>>,
}

/// What a write came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sent {
    /// So many bytes were taken, and nothing is held back.
    All(usize),
    /// So many bytes were taken; the socket takes no more for now.
    Blocked(usize),
}

/// What a read came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Received {
    /// So many bytes.
    Bytes(usize),
    /// Nothing for now.
    Nothing,
    /// The other side has ended.
    End,
}

impl Link {
    /// On a connected, non-blocking socket.
    #[must_use]
    pub fn new(socket: OwnedFd, tls: Option<ClientConnection>) -> Self {
        Self { socket, tls: tls.map(Box::new) }
    }

    /// The socket, to be watched.
    #[must_use]
    pub fn socket(&self) -> impl AsFd + '_ {
        self.socket.as_fd()
    }

    /// The TLS session.
    #[must_use]
    pub fn tls(&self) -> Option<&ClientConnection> {
        self.tls.as_deref()
    }

    /// Sends from the front of `bytes`; `more`: others follow at once. Without bytes: only what is held back.
    ///
    /// # Errors
    /// If the connection is gone.
    pub fn send(&mut self, bytes: &[u8], more: bool) -> Result<Sent, Lost> {
        let Some(tls) = &mut self.tls else {
            if bytes.is_empty() {
                return Ok(Sent::All(0));
            }
            return match send(&self.socket, bytes, more)? {
                Some(count) => Ok(Sent::All(count)),
                None => Ok(Sent::Blocked(0)),
            };
        };
        // rustls buffers without limit before the handshake is over; a request is small enough for that.
        let taken =
            std::io::Write::write(&mut tls.writer(), bytes).map_err(|error| format!("tls: {error}"))?;
        Ok(if flush(tls, &self.socket)? { Sent::All(taken) } else { Sent::Blocked(taken) })
    }

    /// Reads what has arrived into `space`.
    ///
    /// # Errors
    /// If the connection is gone, or the handshake failed.
    pub fn receive(&mut self, space: &mut [u8]) -> Result<Received, Lost> {
        let Some(tls) = &mut self.tls else {
            return match net::recv(&self.socket, &mut *space, RecvFlags::empty()) {
                Ok((0, _)) => Ok(Received::End),
                Ok((count, _)) => Ok(Received::Bytes(count)),
                Err(Errno::AGAIN | Errno::INTR) => Ok(Received::Nothing),
                Err(error) => Err(format!("recv: {error}")),
            };
        };
        loop {
            match std::io::Read::read(&mut tls.reader(), space) {
                Ok(0) => return Ok(Received::End),
                Ok(count) => return Ok(Received::Bytes(count)),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(format!("tls: {error}")),
            }
            match tls.read_tls(&mut Socket(&self.socket)) {
                // An end without close_notify may be an attacker's: the reader says so.
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(Received::Nothing),
                Err(error) => return Err(format!("recv: {error}")),
            }
            tls.process_new_packets().map_err(|error| format!("tls: {error}"))?;
            // What is left of the handshake, and requests that waited for it. What does not fit now goes with the next
            // write.
            flush(tls, &self.socket)?;
        }
    }

    /// Says that this side sends no more, as far as that can be said at once.
    pub fn say_goodbye(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            // The connection is over either way.
            let _sent = flush(tls, &self.socket);
        }
    }
}

/// Sends what TLS has to send; false if the socket takes no more for now.
fn flush(tls: &mut ClientConnection, socket: &OwnedFd) -> Result<bool, Lost> {
    while tls.wants_write() {
        match tls.write_tls(&mut Socket(socket)) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(format!("send: {error}")),
        }
    }
    Ok(true)
}

/// `None` if the socket takes nothing for now.
fn send(socket: &OwnedFd, bytes: &[u8], more: bool) -> Result<Option<usize>, Lost> {
    let mut flags = SendFlags::NOSIGNAL;
    flags.set(SendFlags::MORE, more);
    loop {
        match net::send(socket, bytes, flags) {
            Ok(count) => return Ok(Some(count)),
            Err(Errno::AGAIN) => return Ok(None),
            Err(Errno::INTR) => {}
            Err(error) => return Err(format!("send: {error}")),
        }
    }
}

/// The socket as rustls reads and writes it.
struct Socket<'a>(&'a OwnedFd);

impl std::io::Read for Socket<'_> {
    fn read(&mut self, space: &mut [u8]) -> std::io::Result<usize> {
        Ok(net::recv(self.0, space, RecvFlags::empty()).map(|(count, _)| count)?)
    }
}

impl std::io::Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Ok(net::send(self.0, bytes, SendFlags::NOSIGNAL)?)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
