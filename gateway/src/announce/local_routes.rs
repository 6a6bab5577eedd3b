//! Addresses that this host answers to without having them on an interface: routes of type `local`, of which no neighbour
//! hears. Owns those that it made, also in an earlier life; never touches another.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use super::netlink::Netlink;

/// Routes that make addresses this host's. Those that are left when it is dropped are taken back.
#[derive(Debug)]
pub struct LocalRoutes {
    netlink: Netlink,
    loopback: u32,
    made: BTreeSet<IpAddr>,
}

impl LocalRoutes {
    /// Takes up what a process before this one has left. Needs `CAP_NET_ADMIN` to change anything.
    ///
    /// # Errors
    /// If the kernel does not tell its routes, or there is no loopback.
    pub fn new() -> io::Result<Self> {
        let mut netlink = Netlink::new()?;
        let links = netlink.links()?;
        let loopback = links.iter().find(|link| link.name == "lo").map(|link| link.index);
        let loopback = loopback.ok_or_else(|| io::Error::other("there is no interface called lo"))?;
        let made = netlink.local_routes()?.into_iter().collect();
        Ok(Self { netlink, loopback, made })
    }

    /// Makes all of `wanted` the host's; what is that already stays as it is. `failed` is told of those that cannot be.
    pub fn add(&mut self, wanted: &BTreeSet<IpAddr>, mut failed: impl FnMut(IpAddr, &io::Error)) {
        let new: Vec<IpAddr> = wanted.difference(&self.made).copied().collect();
        for address in new {
            match self.netlink.make_local(address, self.loopback) {
                Ok(()) => drop(self.made.insert(address)),
                // The host has it otherwise.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => failed(address, &error),
            }
        }
    }

    /// Takes back what is not `wanted`.
    pub fn keep(&mut self, wanted: &BTreeSet<IpAddr>) {
        let (kept, gone) = std::mem::take(&mut self.made).into_iter().partition(|made| wanted.contains(made));
        self.made = kept;
        for address in BTreeSet::<IpAddr>::into_iter(gone) {
            // Fails if somebody else has taken it, which is what is wanted.
            if let Err(error) = self.netlink.unmake_local(address, self.loopback) {
                tracing::debug!(%address, %error, "cannot take a local route back");
            }
        }
    }
}

impl Drop for LocalRoutes {
    fn drop(&mut self) {
        self.keep(&BTreeSet::new());
    }
}
