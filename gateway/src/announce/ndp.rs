//! Neighbour discovery (RFC 4861, 4862) as far as announcing needs it: advertisements that nobody asked for, probes, and
//! what advertisements of others claim. Sans-I/O; never decides what follows from a claim.

use std::net::Ipv6Addr;

use super::frame::{Claim, ETHERNET, Mac, ethernet};

/// EtherType of IPv6.
pub(super) const ETHER_TYPE: u16 = 0x86dd;
/// Next header.
pub(super) const ICMP: u8 = 58;
/// ICMPv6 type.
pub(super) const ADVERTISEMENT: u8 = 136;
/// Offsets in a frame without extension headers, which neighbour discovery never has a use for.
pub(super) const NEXT_HEADER: u32 = 20;
pub(super) const TYPE: u32 = 54;
/// Last four bytes of the target.
pub(super) const TARGET_END: u32 = 74;

const SOLICITATION: u8 = 135;
/// Bytes of an IPv6 header.
const IPV6: usize = 40;
/// Nothing from behind a router has it on arrival (RFC 4861 §7.1.2).
const HOP_LIMIT: u8 = 255;
/// Take this address instead of what is known (RFC 4861 §4.4).
const OVERRIDE: u8 = 0x20;
/// Option: link-layer address of the target.
const TARGET_MAC: u8 = 2;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// `address` is at `mac`, for everybody on the link (RFC 4861 §7.2.6).
pub fn announcement(mac: Mac, address: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![ADVERTISEMENT, 0, 0, 0, OVERRIDE, 0, 0, 0];
    message.extend(address.octets());
    message.extend([TARGET_MAC, 1]);
    message.extend(mac.0);
    packet(mac, address, ALL_NODES, message)
}

/// Asks who has `address` without claiming any (RFC 4862 §5.4.2).
pub fn probe(mac: Mac, address: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    message.extend(address.octets());
    let [.., a, b, c] = address.octets();
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]));
    packet(mac, Ipv6Addr::UNSPECIFIED, group, message)
}

fn packet(mac: Mac, from: Ipv6Addr, to: Ipv6Addr, mut message: Vec<u8>) -> Vec<u8> {
    let sum = checksum(from, to, &message);
    if let Some(field) = message.get_mut(2..4) {
        field.copy_from_slice(&sum.to_be_bytes());
    }
    let [.., a, b, c, d] = to.octets();
    let mut out = ethernet(Mac([0x33, 0x33, a, b, c, d]), mac, ETHER_TYPE);
    out.extend([0x60, 0, 0, 0]);
    out.extend(u16::try_from(message.len()).unwrap_or(0).to_be_bytes());
    out.extend([ICMP, HOP_LIMIT]);
    out.extend(from.octets());
    out.extend(to.octets());
    out.extend(message);
    out
}

/// That of `message` (RFC 4443 §2.3); zero over a message that carries it.
fn checksum(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> u16 {
    let length = u32::try_from(message.len()).unwrap_or(0);
    let words = |bytes: &[u8]| {
        bytes
            .chunks(2)
            .map(|pair| match *pair {
                [high, low] => u32::from(u16::from_be_bytes([high, low])),
                [high] => u32::from(high) << 8,
                _ => 0,
            })
            .sum::<u32>()
    };
    let mut sum = words(&from.octets()) + words(&to.octets()) + length + u32::from(ICMP) + words(message);
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

/// What `frame` claims. `None` if it is no valid advertisement (RFC 4861 §7.1.2) of a unicast address.
pub fn claim(frame: &[u8]) -> Option<Claim> {
    let (header, packet) = frame.split_at_checked(ETHERNET)?;
    let (header_mac, kind) = (header.get(6..12)?, header.get(12..)?);
    let (ip, rest) = packet.split_at_checked(IPV6)?;
    let length = usize::from(u16::from_be_bytes([*ip.get(4)?, *ip.get(5)?]));
    let message = rest.get(..length)?;
    let is_ip = kind == ETHER_TYPE.to_be_bytes() && ip.first()? >> 4 == 6;
    if !is_ip || ip.get(6..8)? != [ICMP, HOP_LIMIT] || message.get(..2)? != [ADVERTISEMENT, 0] {
        return None;
    }
    let address = |bytes: &[u8]| bytes.first_chunk::<16>().map(|octets| Ipv6Addr::from(*octets));
    let (from, to) = (address(ip.get(8..)?)?, address(ip.get(24..)?)?);
    if checksum(from, to, message) != 0 {
        return None;
    }
    let target = address(message.get(8..)?)?;
    let option = options(message.get(24..)?)?;
    let mac = option.or_else(|| header_mac.first_chunk().map(|mac| Mac(*mac)))?;
    (!target.is_multicast() && !target.is_unspecified() && mac.is_station())
        .then_some(Claim { address: target.into(), mac })
}

/// The target's link-layer address among options; the outer `None` if they are malformed.
fn options(mut rest: &[u8]) -> Option<Option<Mac>> {
    let mut found = None;
    while !rest.is_empty() {
        let length = usize::from(*rest.get(1)?) * 8;
        if length == 0 {
            return None;
        }
        let (option, after) = rest.split_at_checked(length)?;
        if option.first() == Some(&TARGET_MAC) && length == 8 {
            found = option.get(2..)?.first_chunk().map(|mac| Mac(*mac));
        }
        rest = after;
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const VIP: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0x12, 0x3456);

    #[test]
    fn an_announcement_is_a_valid_advertisement_to_all_nodes() {
        let bytes = announcement(OWN, VIP);
        assert_eq!(bytes[..6], [0x33, 0x33, 0, 0, 0, 1]);
        assert_eq!(bytes[21], 255);
        assert_eq!((bytes[TYPE as usize], bytes[NEXT_HEADER as usize]), (136, 58));
        assert_eq!(bytes[TARGET_END as usize..][..4], VIP.octets()[12..]);
        assert_eq!(claim(&bytes), Some(Claim { address: VIP.into(), mac: OWN }));
    }

    #[test]
    fn a_probe_goes_to_the_group_of_the_address_and_claims_nothing() {
        let bytes = probe(OWN, VIP);
        assert_eq!(bytes[..6], [0x33, 0x33, 0xff, 0x12, 0x34, 0x56]);
        assert_eq!(bytes[38..54], "ff02::1:ff12:3456".parse::<Ipv6Addr>().unwrap().octets());
        assert_eq!(claim(&bytes), None);
        let message = &bytes[54..];
        let to = "ff02::1:ff12:3456".parse().unwrap();
        assert_eq!(checksum(Ipv6Addr::UNSPECIFIED, to, message), 0);
    }

    #[test]
    fn what_was_cut_changed_or_came_through_a_router_claims_nothing() {
        let good = announcement(OWN, VIP);
        for end in 0..good.len() {
            assert_eq!(claim(&good[..end]), None, "{end} bytes");
        }
        // Neither traffic class nor flow label matter.
        for at in (12..15).chain(18..22).chain(54..good.len()) {
            let mut bad = good.clone();
            bad[at] ^= 0x11;
            assert_eq!(claim(&bad), None, "byte {at}");
        }
    }

    #[test]
    fn options_that_do_not_end_are_refused() {
        assert_eq!(options(&[1, 0, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(options(&[1, 2, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(options(&[14, 1, 0, 0, 0, 0, 0, 0]), Some(None));
        assert_eq!(options(&[14, 1, 0, 0, 0, 0, 0, 0, 2, 1, 2, 0, 0, 0, 0, 1]), Some(Some(OWN)));
    }
}
