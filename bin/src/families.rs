//! Which addresses this host has, and which families of addresses it can reach others by as far as those tell. Sends
//! nothing.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv6Addr};

use nix::ifaddrs::getifaddrs;

/// IPv4 routes of the kernel, a line each.
const ROUTES: &str = "/proc/net/route";
/// IPv6 addresses of the kernel, a line each.
const ADDRESSES: &str = "/proc/net/if_inet6";

/// On it, kube-proxy binds every Service's address: what is sent there goes to endpoints and never arrives here.
const IPVS: &str = "kube-ipvs0";

/// The addresses of this host, those of loopback included.
pub(crate) fn host_addresses() -> nix::Result<BTreeSet<IpAddr>> {
    let all = getifaddrs()?.filter(|one| one.interface_name != IPVS);
    let ips = all.filter_map(|one| {
        let address = one.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::from(v6.ip())))
    });
    Ok(ips.collect())
}

/// Families that others can be reached by.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Families {
    pub(crate) ipv4: bool,
    pub(crate) ipv6: bool,
}

impl Families {
    /// What the kernel has now. Where it cannot be read, and where there seems to be no way to anybody, both are
    /// taken to be there: to leave good endpoints out is worse than to try bad ones.
    pub(crate) fn probe() -> Self {
        let routes = fs::read_to_string(ROUTES);
        // The file does not exist in a kernel without IPv6.
        let addresses = fs::read_to_string(ADDRESSES).unwrap_or_default();
        let Ok(routes) = routes else { return Self { ipv4: true, ipv6: true } };
        match Self::of(&routes, &addresses) {
            Self { ipv4: false, ipv6: false } => Self { ipv4: true, ipv6: true },
            families => families,
        }
    }

    fn of(routes: &str, addresses: &str) -> Self {
        let has_route = |line: &str| line.split_whitespace().next().is_some_and(|name| name != "lo");
        Self {
            ipv4: routes.lines().skip(1).any(has_route),
            ipv6: addresses.lines().filter_map(address).any(is_of_others),
        }
    }
}

/// The address of a line: 32 hexadecimal digits at its start.
fn address(line: &str) -> Option<Ipv6Addr> {
    let digits = line.split_whitespace().next().filter(|digits| digits.len() == 32)?;
    u128::from_str_radix(digits, 16).ok().map(Ipv6Addr::from)
}

/// Whether whoever has this address can reach others by it, beyond its own link.
fn is_of_others(address: Ipv6Addr) -> bool {
    !(address.is_loopback() || address.is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str =
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";
    const ROUTE: &str = "eth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n";
    const LOOPBACK: &str = "00000000000000000000000000000001 01 80 10 80       lo\n";
    const LINK: &str = "fe80000000000000021132fffe6c2a0b 02 40 20 80     eth0\n";
    const GLOBAL: &str = "20010db8000000000000000000000001 02 40 00 80     eth0\n";

    #[test]
    fn family_is_there_if_it_has_an_address_for_others() {
        let cases = [
            (String::new(), String::new(), false, false),
            (HEAD.to_owned(), LOOPBACK.to_owned(), false, false),
            (format!("{HEAD}{ROUTE}"), String::new(), true, false),
            (format!("{HEAD}{ROUTE}"), format!("{LOOPBACK}{LINK}"), true, false),
            (HEAD.to_owned(), format!("{LOOPBACK}{LINK}{GLOBAL}"), false, true),
            (format!("{HEAD}{ROUTE}"), format!("{LOOPBACK}{GLOBAL}"), true, true),
            ("?".to_owned(), "no address at all\n\u{e9}".to_owned(), false, false),
        ];
        for (routes, addresses, ipv4, ipv6) in cases {
            assert_eq!(Families::of(&routes, &addresses), Families { ipv4, ipv6 }, "{routes}{addresses}");
        }
    }

    #[test]
    fn where_nothing_is_known_everything_is_tried() {
        let families = Families::probe();
        assert!(families.ipv4 || families.ipv6);
    }
}
