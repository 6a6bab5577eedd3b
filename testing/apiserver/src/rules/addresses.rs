//! Cluster addresses and node ports: which are taken, and which is free. Never looks at a Service.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Addresses of Services: 10.96.0.0/16, without its first and last.
const FIRST: u32 = 0x0a60_0001;
const LAST: u32 = 0x0a60_fffe;
/// Ports of nodes.
const PORTS: std::ops::RangeInclusive<u16> = 30_000..=32_767;

/// What is taken.
#[derive(Debug, Default)]
pub(crate) struct Allocated(Mutex<Taken>);

#[derive(Debug, Default)]
struct Taken {
    addresses: BTreeSet<u32>,
    ports: BTreeSet<u16>,
}

impl Allocated {
    /// A free address; none if all are taken.
    pub(crate) fn any_address(&self) -> Option<Ipv4Addr> {
        let taken = self.taken();
        let start = fastrand::u32(FIRST..=LAST);
        (start..=LAST).chain(FIRST..start).find(|each| !taken.addresses.contains(each)).map(Ipv4Addr::from)
    }

    /// What stands against an address that was asked for.
    pub(crate) fn refuses_address(&self, address: Ipv4Addr) -> Option<&'static str> {
        let number = u32::from(address);
        if !(FIRST..=LAST).contains(&number) {
            return Some("the provided network does not match the current range");
        }
        self.taken().addresses.contains(&number).then_some("provided IP is already allocated")
    }

    /// A free port but for those in `besides`.
    pub(crate) fn any_port(&self, besides: &[u16]) -> Option<u16> {
        let taken = self.taken();
        let start = fastrand::u16(PORTS);
        (start..=*PORTS.end())
            .chain(*PORTS.start()..start)
            .find(|port| !taken.ports.contains(port) && !besides.contains(port))
    }

    /// What stands against a port that was asked for.
    pub(crate) fn refuses_port(&self, port: u16) -> Option<&'static str> {
        if !PORTS.contains(&port) {
            return Some("provided port is not in the valid range. The range of valid ports is 30000-32767");
        }
        self.taken().ports.contains(&port).then_some("provided port is already allocated")
    }

    /// Takes what a Service has, after it gave back what it had.
    pub(crate) fn replace(&self, before: &(Vec<Ipv4Addr>, Vec<u16>), after: &(Vec<Ipv4Addr>, Vec<u16>)) {
        let mut taken = self.taken();
        for address in &before.0 {
            taken.addresses.remove(&u32::from(*address));
        }
        for port in &before.1 {
            taken.ports.remove(port);
        }
        taken.addresses.extend(after.0.iter().map(|address| u32::from(*address)));
        taken.ports.extend(&after.1);
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
