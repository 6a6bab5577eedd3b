//! A link's socket for frames of one protocol: sends ours, hears claims. Never judges them.

use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::bind;
use socket2::{Domain, Socket, Type};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::filter::{self, Protocol};
use super::frame::Claim;
use super::netlink::watched;
use super::{arp, ndp};

/// Frames that are looked at at once, and the pause after that many: a flood of claims is noticed and not followed.
const BATCH: usize = 32;
const PAUSE: Duration = Duration::from_millis(50);
/// No ARP or advertisement is longer but for its padding.
const LONGEST: usize = 1_600;

/// One link and protocol.
#[derive(Debug)]
pub(super) struct Ear {
    socket: Arc<AsyncFd<Socket>>,
    protocol: Protocol,
    task: JoinHandle<()>,
}

impl Ear {
    /// Listens at the interface; what is heard goes to `heard`, as far as there is room. Needs a tokio runtime.
    pub(super) fn open(
        index: u32,
        protocol: Protocol,
        heard: mpsc::Sender<(u32, Claim)>,
    ) -> io::Result<Self> {
        let kind = i32::from(protocol.ether_type().to_be());
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(kind.into()))?;
        socket.attach_filter(&filter::nothing())?;
        socket.set_nonblocking(true)?;
        // Its own list of interfaces has them in the form that sockets are bound to.
        let all = getifaddrs()?;
        let link = all
            .filter_map(|one| one.address?.as_link_addr().copied())
            .find(|link| u32::try_from(link.ifindex()) == Ok(index))
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        bind(socket.as_raw_fd(), &link)?;
        // Before it had a filter and an interface, it heard everything.
        let mut frame = [0; LONGEST];
        while (&socket).read(&mut frame).is_ok() {}
        let socket = Arc::new(watched(socket)?);
        let task = tokio::spawn(listen(Arc::clone(&socket), protocol, index, heard));
        Ok(Self { socket, protocol, task })
    }

    /// Which addresses claims are heard of.
    pub(super) fn listen_for(&self, addresses: impl Iterator<Item = IpAddr>) -> io::Result<()> {
        self.socket.get_ref().attach_filter(&filter::claims(self.protocol, addresses))
    }

    /// Sends `frame`, now or never.
    pub(super) fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.socket.get_ref().write(frame).map(drop)
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn listen(
    socket: Arc<AsyncFd<Socket>>,
    protocol: Protocol,
    index: u32,
    heard: mpsc::Sender<(u32, Claim)>,
) {
    let claim = match protocol {
        Protocol::Arp => arp::claim,
        Protocol::Ndp => ndp::claim,
    };
    let mut frame = [0; LONGEST];
    loop {
        let Ok(mut ready) = socket.readable().await else { return };
        let mut count = 0;
        while count < BATCH {
            let Ok(read) = ready.try_io(|socket| socket.get_ref().read(&mut frame)) else { break };
            count += 1;
            let Ok(length) = read else { break };
            if let Some(claim) = frame.get(..length).and_then(claim) {
                // Full: the same was said often enough.
                let _ = heard.try_send((index, claim));
            }
        }
        if count > 0 {
            drop(ready);
            let pause = if count == BATCH { PAUSE } else { Duration::from_millis(1) };
            tokio::time::sleep(pause).await;
        }
    }
}
