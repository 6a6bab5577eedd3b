//! How many flows that are kept in any case belong to each client, so that no single one has them all. Pure.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

use foldhash::quality::RandomState;

/// client → flows of its that are kept
#[derive(Debug, Default)]
pub(super) struct Shares(HashMap<IpAddr, u32, RandomState>);

impl Shares {
    /// Whether `client` has less than `most`.
    pub(super) fn has_room(&self, client: IpAddr, most: u32) -> bool {
        self.0.get(&host_of(client)).is_none_or(|count| *count < most)
    }

    pub(super) fn take(&mut self, client: IpAddr) {
        *self.0.entry(host_of(client)).or_default() += 1;
    }

    pub(super) fn give(&mut self, client: IpAddr) {
        let client = host_of(client);
        let Some(count) = self.0.get_mut(&client) else { return };
        *count = count.saturating_sub(1);
        if *count == 0 {
            self.0.remove(&client);
            // What many clients have made large is given back.
            if self.0.is_empty() && self.0.capacity() > 1_024 {
                *self = Self::default();
            }
        }
    }
}

/// Who stands for the client: a host has a whole /64 of IPv6 (RFC 4291 §2.5.4).
pub(crate) fn host_of(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64)),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn all_addresses_of_one_network_of_ipv6_are_one_client() {
        let mut shares = Shares::default();
        shares.take(ip("2001:db8::1"));
        shares.take(ip("10.0.0.1"));
        assert!(!shares.has_room(ip("2001:db8::ffff:2"), 1) && shares.has_room(ip("2001:db8:0:1::1"), 1));
        assert!(!shares.has_room(ip("::ffff:10.0.0.1"), 1) && shares.has_room(ip("10.0.0.2"), 1));
        shares.give(ip("2001:db8::3"));
        shares.give(ip("2001:db8::3"));
        assert!(shares.has_room(ip("2001:db8::1"), 1));
        assert_eq!(shares.0.len(), 1);
    }
}
