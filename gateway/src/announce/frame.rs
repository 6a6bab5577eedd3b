//! What ARP and NDP have in common: Ethernet, and the claim of an address.

use std::fmt;
use std::net::IpAddr;

/// Bytes of an Ethernet header.
pub(super) const ETHERNET: usize = 14;
/// Everybody.
pub(super) const BROADCAST: Mac = Mac([0xff; 6]);

/// An Ethernet address.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Nobody.
    pub const NONE: Self = Self([0; 6]);

    /// True if one station can have it: neither nobody nor a group.
    pub(super) fn is_station(self) -> bool {
        self != Self::NONE && self.0.first().is_some_and(|first| first & 1 == 0)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Somebody says that an address is theirs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Claim {
    /// The address.
    pub address: IpAddr,
    /// Who says so.
    pub mac: Mac,
}

/// A header, with room for what follows.
pub(super) fn ethernet(to: Mac, from: Mac, kind: u16) -> Vec<u8> {
    let mut out = Vec::with_capacity(96);
    out.extend(to.0);
    out.extend(from.0);
    out.extend(kind.to_be_bytes());
    out
}
