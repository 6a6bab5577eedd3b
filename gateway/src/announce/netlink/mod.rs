//! The conversation with the kernel about interfaces and addresses. Owns the sockets; never decides what is changed.

mod message;

use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::sys::socket::{NetlinkAddr, bind};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

pub(super) use self::message::{Assigned, Link, Origin};
use self::message::{
    Message, assign, list_addresses, list_links, list_routes, make_local, messages, remove, unmake_local,
};

/// `AF_NETLINK`.
const NETLINK: i32 = 16;
/// `RTMGRP_LINK`: changes of interfaces.
const LINKS: u32 = 1;
/// The kernel answers while it is asked; this is for a kernel that is out of its mind.
const PATIENCE: Duration = Duration::from_secs(1);
/// More than the kernel sends at once.
const BUFFER: usize = 64 * 1024;
/// A list that changes while it is read is read again, at most so often.
const ATTEMPTS: u32 = 8;

/// Asks the kernel, one thing at a time.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Netlink {
    pub(super) fn new() -> io::Result<Self> {
        let socket = open(0)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { socket, buffer: vec![0; BUFFER] })
    }

    /// All interfaces.
    pub(super) fn links(&mut self) -> io::Result<Vec<Link>> {
        self.list(&list_links(), |message| match message {
            Message::Link(link) => Some(link),
            _ => None,
        })
    }

    /// All addresses of all interfaces.
    pub(super) fn addresses(&mut self) -> io::Result<Vec<Assigned>> {
        self.list(&list_addresses(), |message| match message {
            Message::Address(address) => Some(address),
            _ => None,
        })
    }

    /// Gives the interface `address` for `lifetime`, or sets its lifetime anew.
    pub(super) fn assign(&mut self, address: IpAddr, index: u32, lifetime: Duration) -> io::Result<()> {
        self.change(&assign(address, index, lifetime))
    }

    /// Takes `address` from the interface.
    pub(super) fn remove(&mut self, address: IpAddr, index: u32) -> io::Result<()> {
        self.change(&remove(address, index))
    }

    /// Addresses that are the host's by a route of ours.
    pub(super) fn local_routes(&mut self) -> io::Result<Vec<IpAddr>> {
        self.list(&list_routes(), |message| match message {
            Message::LocalRoute(address) => Some(address),
            _ => None,
        })
    }

    /// Makes `address` the host's by a route.
    pub(super) fn make_local(&mut self, address: IpAddr, loopback: u32) -> io::Result<()> {
        self.change(&make_local(address, loopback))
    }

    /// Takes the route back.
    pub(super) fn unmake_local(&mut self, address: IpAddr, loopback: u32) -> io::Result<()> {
        self.change(&unmake_local(address, loopback))
    }

    fn change(&mut self, request: &[u8]) -> io::Result<()> {
        self.ask(request)?;
        loop {
            for message in self.receive()? {
                match message {
                    Message::Outcome(0) => return Ok(()),
                    Message::Outcome(error) => return Err(io::Error::from_raw_os_error(-error)),
                    _ => {}
                }
            }
        }
    }

    fn list<T>(&mut self, request: &[u8], wanted: impl Fn(Message) -> Option<T>) -> io::Result<Vec<T>> {
        for _ in 0..ATTEMPTS {
            if let Some(all) = self.try_list(request, &wanted)? {
                return Ok(all);
            }
        }
        Err(io::Error::other("the list changes faster than it can be read"))
    }

    /// `None` if it changed meanwhile.
    fn try_list<T>(
        &mut self,
        request: &[u8],
        wanted: &impl Fn(Message) -> Option<T>,
    ) -> io::Result<Option<Vec<T>>> {
        self.ask(request)?;
        let mut all = Vec::new();
        loop {
            for message in self.receive()? {
                match message {
                    Message::Done(is_torn) => return Ok((!is_torn).then_some(all)),
                    Message::Outcome(error) => return Err(io::Error::from_raw_os_error(-error)),
                    other => all.extend(wanted(other)),
                }
            }
        }
    }

    /// Sends; what is left of an earlier answer that was given up is not taken for this one's.
    fn ask(&mut self, request: &[u8]) -> io::Result<()> {
        self.socket.set_nonblocking(true)?;
        while (&self.socket).read(&mut self.buffer).is_ok() {}
        self.socket.set_nonblocking(false)?;
        (&self.socket).write_all(request)
    }

    fn receive(&mut self) -> io::Result<Vec<Message>> {
        let length = (&self.socket).read(&mut self.buffer)?;
        Ok(messages(self.buffer.get(..length).unwrap_or_default()).collect())
    }
}

/// Hears of changes of interfaces.
#[derive(Debug)]
pub(super) struct LinkEvents(AsyncFd<Socket>);

impl LinkEvents {
    /// Needs a tokio runtime.
    pub(super) fn new() -> io::Result<Self> {
        let socket = open(LINKS)?;
        socket.set_nonblocking(true)?;
        Ok(Self(watched(socket)?))
    }

    /// Returns when something changed; what, is to be read anew. Safe to drop while waiting.
    pub(super) async fn changed(&self) {
        let mut buffer = vec![0; BUFFER];
        loop {
            let Ok(mut ready) = self.0.readable().await else { return std::future::pending().await };
            let mut is_changed = false;
            while let Ok(read) = ready.try_io(|socket| socket.get_ref().read(&mut buffer)) {
                let Ok(length) = read else {
                    // An overflow: something changed, and what is not known.
                    is_changed = true;
                    break;
                };
                let mut told = messages(buffer.get(..length).unwrap_or_default());
                is_changed |= told.any(|one| matches!(one, Message::Link(_) | Message::LinkGone(_)));
            }
            if is_changed {
                return;
            }
        }
    }
}

/// `socket`, whose descriptor it owns, for the runtime to watch.
#[expect(
    deprecated,
    reason = "its replacement is unsafe for descriptors that others could close; these are our own"
)]
pub(super) fn watched(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    AsyncFd::with_interest(socket, Interest::READABLE)
}

fn open(groups: u32) -> io::Result<Socket> {
    // Protocol 0 is NETLINK_ROUTE.
    let socket = Socket::new(Domain::from(NETLINK), Type::RAW, Some(Protocol::from(0)))?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_lists_loopback() {
        let mut netlink = Netlink::new().unwrap();
        let links = netlink.links().unwrap();
        let lo = links.iter().find(|link| link.name == "lo").unwrap();
        assert_eq!(lo.mac, None, "nothing is announced there");
        let all = netlink.addresses().unwrap();
        assert!(all.iter().any(|one| one.index == lo.index && one.address.is_loopback()), "{all:?}");
    }

    #[test]
    fn a_change_that_is_refused_says_why() {
        let mut netlink = Netlink::new().unwrap();
        let error = netlink.remove([192, 0, 2, 7].into(), 1).unwrap_err();
        let kind = error.raw_os_error();
        assert!(matches!(kind, Some(99 | 1)), "not there, or not allowed: {error}");
    }
}
