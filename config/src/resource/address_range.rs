//! Ranges of addresses that can be given to Services, as text has them: networks, `FIRST-LAST`, single addresses.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error};

/// Addresses of one family from a first to a last one, all of which a host can have: no multicast, no unspecified, no
/// link-local and no IPv4-mapped address is among them.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct AddressRange {
    first: IpAddr,
    last: IpAddr,
}

impl AddressRange {
    /// The lowest address.
    #[must_use]
    pub fn first(&self) -> IpAddr {
        self.first
    }

    /// The highest address, of the same family and no less than the first.
    #[must_use]
    pub fn last(&self) -> IpAddr {
        self.last
    }

    /// True if `address` is one of them.
    #[must_use]
    pub fn has(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.first.is_ipv4() && self.first <= address && address <= self.last
    }

    /// True if some address of it only reaches the host that it is used on: `127.0.0.0/8`, `::1`.
    #[must_use]
    pub fn has_loopback(&self) -> bool {
        let (first, last) = match self.first {
            IpAddr::V4(_) => (IpAddr::from([127, 0, 0, 0]), IpAddr::from([127, 255, 255, 255])),
            IpAddr::V6(_) => (IpAddr::from(Ipv6Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)),
        };
        self.first <= last && first <= self.last
    }

    /// The range from `first` to `last`.
    ///
    /// # Errors
    /// If they are of two families, the wrong way round, or have addresses between them that no host can have.
    pub fn new(first: IpAddr, last: IpAddr) -> Result<Self, String> {
        if first.is_ipv4() != last.is_ipv4() {
            return Err(format!("{first} and {last} are of two families"));
        }
        if last < first {
            return Err(format!("{last} is before {first}; the lower address comes first"));
        }
        if let Some((from, to, what)) = unusable()
            .find(|(from, to, _)| from.is_ipv4() == first.is_ipv4() && first <= *to && last >= *from)
        {
            return Err(format!("no Service can have all of it: {from} to {to} are {what}"));
        }
        Ok(Self { first, last })
    }
}

/// What no host can have as an address of its own that others reach: first, last, what they are.
fn unusable() -> impl Iterator<Item = (IpAddr, IpAddr, &'static str)> {
    let v4 =
        |a: [u8; 4], b: [u8; 4], what| (IpAddr::V4(Ipv4Addr::from(a)), IpAddr::V4(Ipv4Addr::from(b)), what);
    let v6 = |a: u128, b: u128, what| (IpAddr::V6(Ipv6Addr::from(a)), IpAddr::V6(Ipv6Addr::from(b)), what);
    let link_local = 0xfe80_u128 << 112;
    let multicast = 0xff00_u128 << 112;
    [
        v4([0; 4], [0, 255, 255, 255], "this network's own"),
        v4([169, 254, 0, 0], [169, 254, 255, 255], "link-local addresses"),
        v4([224, 0, 0, 0], [239, 255, 255, 255], "multicast addresses"),
        v4([255; 4], [255; 4], "the broadcast address"),
        v6(0, 0, "the unspecified address"),
        v6(0xffff_0000_0000, 0xffff_ffff_ffff, "IPv4 addresses in another form"),
        v6(link_local, link_local | (u128::MAX >> 10), "link-local addresses"),
        v6(multicast, u128::MAX, "multicast addresses"),
    ]
    .into_iter()
}

impl FromStr for AddressRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let bad = || {
            format!(
                "`{text}` is not a network such as 192.0.2.0/28, or a range such as 192.0.2.10-192.0.2.20"
            )
        };
        if let Some((first, last)) = text.split_once('-') {
            let (Ok(first), Ok(last)) = (first.trim().parse(), last.trim().parse()) else {
                return Err(bad());
            };
            return Self::new(first, last);
        }
        if let Ok(net) = text.parse::<IpNet>() {
            return Self::new(net.network(), net.broadcast());
        }
        let address: IpAddr = text.parse().map_err(|_| bad())?;
        Self::new(address, address)
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

impl<'de> Deserialize<'de> for AddressRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl JsonSchema for AddressRange {
    fn schema_name() -> Cow<'static, str> {
        "AddressRange".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "A network such as `192.0.2.0/28`, a range such as `192.0.2.10-192.0.2.20`, or one address.",
            "examples": ["192.0.2.0/28", "192.0.2.10-192.0.2.20", "2001:db8::/64"],
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn networks_ranges_and_addresses_are_read() {
        let shown = |text: &str| text.parse::<AddressRange>().map(|range| range.to_string());
        assert_eq!(shown("192.0.2.0/30"), Ok("192.0.2.0-192.0.2.3".to_owned()));
        assert_eq!(shown("192.0.2.9/24"), Ok("192.0.2.0-192.0.2.255".to_owned()));
        assert_eq!(shown(" 192.0.2.10 - 192.0.2.20 "), Ok("192.0.2.10-192.0.2.20".to_owned()));
        assert_eq!(shown("192.0.2.1"), Ok("192.0.2.1".to_owned()));
        assert_eq!(shown("2001:db8::/127"), Ok("2001:db8::-2001:db8::1".to_owned()));
    }

    #[test]
    fn what_no_service_can_have_is_refused() {
        for text in [
            "",
            "x",
            "192.0.2.0/33",
            "192.0.2.9-192.0.2.1",
            "192.0.2.1-2001:db8::1",
            "0.0.0.0/0",
            "169.254.1.0/24",
            "224.0.0.0/24",
            "200.0.0.0-230.0.0.0",
            "255.255.255.255",
            "::/0",
            "fe80::/64",
            "ff02::1",
            "::ffff:192.0.2.1",
            "192.0.2.1-",
        ] {
            assert!(text.parse::<AddressRange>().is_err(), "{text}");
        }
    }
}
