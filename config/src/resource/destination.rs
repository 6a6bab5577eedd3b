//! Addresses that no Service may lead to: DNS answers, and the EndpointSlices of a cluster, are written by others. Pure
//! facts about addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether a name may resolve to `address`: not to the gateway's own host or link, nor to a service of metadata
/// or keys, however the address is dressed up.
pub(crate) fn is_allowed(address: IpAddr) -> bool {
    // EC2's, Oracle's and Google's metadata services.
    const METADATA: [[u16; 2]; 3] = [[0xfd00, 0x0ec2], [0xfd00, 0x00c1], [0xfd20, 0x00ce]];
    let is_near = match address.to_canonical() {
        IpAddr::V4(_) => false,
        IpAddr::V6(v6) => {
            let [first, second, ..] = v6.segments();
            METADATA.contains(&[first, second])
        }
    };
    is_endpoint(address) && !is_near
}

/// Whether an EndpointSlice of a cluster may name `address`. As [`is_allowed`], but what is near a metadata service may
/// be a Pod's. API servers refuse the most of these when a slice is written.
pub(crate) fn is_endpoint(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => is_allowed_v4(v4),
        IpAddr::V6(v6) => is_allowed_v6(v6) && embedded(v6).into_iter().flatten().all(is_allowed_v4),
    }
}

/// The addresses that packets to `address` may arrive at by translation on their way.
pub(crate) fn translated(address: IpAddr) -> impl Iterator<Item = IpAddr> {
    let embedded = match address.to_canonical() {
        IpAddr::V4(_) => [None, None],
        IpAddr::V6(v6) => embedded(v6),
    };
    embedded.into_iter().flatten().map(IpAddr::V4)
}

fn is_allowed_v4(address: Ipv4Addr) -> bool {
    // Azure's host, Alibaba's and Oracle's metadata services; those of others are link-local.
    const METADATA: [Ipv4Addr; 3] =
        [Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(192, 0, 0, 192)];
    let [first, ..] = address.octets();
    // What is reserved (240.0.0.0/4) is in use for Pods.
    !(first == 0
        || address.is_multicast()
        || address.is_broadcast()
        || address.is_loopback()
        || address.is_link_local()
        || METADATA.contains(&address))
}

fn is_allowed_v6(address: Ipv6Addr) -> bool {
    // EC2's metadata service, its resolver, and what gives Pods their keys; Oracle's and Google's metadata services.
    const METADATA: [[u16; 8]; 5] = [
        [0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254],
        [0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0253],
        [0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0023],
        [0xfd00, 0x00c1, 0, 0, 0, 0, 0xa9fe, 0xa9fe],
        [0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x0254],
    ];
    let [first, ..] = address.segments();
    !(address.is_loopback()
        || address.is_unspecified()
        || address.is_multicast()
        || address.is_unicast_link_local()
        // Site-local (RFC 3879), which some kernels still treat as link-local.
        || first & 0xffc0 == 0xfec0
        || METADATA.contains(&address.segments()))
}

/// The IPv4 addresses that an IPv6 address may be translated to on its way.
fn embedded(address: Ipv6Addr) -> [Option<Ipv4Addr>; 2] {
    let of = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match address.segments() {
        // IPv4-compatible (RFC 4291 §2.5.5.1) and mapped to IPv6 by SIIT (RFC 2765).
        [0, 0, 0, 0, 0, 0, a, b] | [0, 0, 0, 0, 0xffff, 0, a, b] => [Some(of(a, b)), None],
        // NAT64: the well-known prefix (RFC 6052 §2.1) and the local ones (RFC 8215).
        [0x64, 0xff9b, 0, 0, 0, 0, a, b] | [0x64, 0xff9b, 1, _, _, _, a, b] => [Some(of(a, b)), None],
        // 6to4 (RFC 3056 §2).
        [0x2002, a, b, ..] => [Some(of(a, b)), None],
        // Teredo: server, and client with its bits turned over (RFC 4380 §4).
        [0x2001, 0, a, b, _, _, c, d] => [Some(of(a, b)), Some(of(!c, !d))],
        // ISATAP (RFC 5214 §6.1).
        [_, _, _, _, 0 | 0x200, 0x5efe, a, b] => [Some(of(a, b)), None],
        _ => [None, None],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l60_own_host_link_and_metadata_are_refused_in_every_form() {
        for refused in [
            "127.0.0.1",
            "127.255.255.254",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "169.254.170.2",
            "224.0.0.1",
            "255.255.255.255",
            "168.63.129.16",
            "100.100.100.200",
            "192.0.0.192",
            "::",
            "::1",
            "fe80::1",
            "fe80::a9fe:a9fe",
            "fec0::1",
            "ff02::1",
            "fd00:ec2::254",
            "fd00:c1::a9fe:a9fe",
            "fd20:ce::254",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "::ffff:0:169.254.169.254",
            "64:ff9b::169.254.169.254",
            "64:ff9b::7f00:1",
            "64:ff9b:1::a9fe:a9fe",
            "64:ff9b:1:2:3:4:7f00:1",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::1",
            "2001:0:1234:5678::5601:5601",
            "2001:0:7f00:1::",
            "2001:db8::5efe:169.254.169.254",
            "2001:db8::200:5efe:127.0.0.1",
        ] {
            assert!(!is_allowed(refused.parse().unwrap()), "{refused}");
        }
    }

    #[test]
    fn pods_may_be_near_a_metadata_service_and_no_endpoint_may_be_one() {
        for refused in
            ["fd00:ec2::254", "fd00:ec2::23", "fd00:c1::a9fe:a9fe", "fd20:ce::254", "169.254.169.254"]
        {
            assert!(!is_endpoint(refused.parse().unwrap()), "{refused}");
        }
        for allowed in ["fd00:c1::1", "fd00:ec2:1::254", "fd20:ce::1", "10.0.0.1"] {
            assert!(is_endpoint(allowed.parse().unwrap()), "{allowed}");
        }
    }

    #[test]
    fn others_are_allowed_in_every_form() {
        for allowed in [
            "10.0.0.1",
            "240.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "203.0.113.7",
            "223.255.255.255",
            "2001:db8::1",
            "fd00::1",
            "2606:4700::1111",
            "::ffff:10.0.0.1",
            "64:ff9b::203.0.113.7",
            "2002:cb00:7107::1",
        ] {
            assert!(is_allowed(allowed.parse().unwrap()), "{allowed}");
        }
    }
}
