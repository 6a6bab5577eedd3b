//! ARP over Ethernet (RFC 826) as far as announcing needs it: frames that say or ask who has an address, and what such
//! frames of others claim. Sans-I/O; never decides what follows from a claim.

use std::net::Ipv4Addr;

use super::frame::{BROADCAST, Claim, ETHERNET, Mac, ethernet};

/// EtherType.
pub(super) const ETHER_TYPE: u16 = 0x0806;
/// Offset of the sender's protocol address in a frame.
pub(super) const SENDER_IP: u32 = 28;

const REQUEST: u16 = 1;
const REPLY: u16 = 2;
/// Ethernet, IPv4, and their lengths.
const FIXED: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// `address` is at `mac`, as a request: the announcement of RFC 5227 §3.
pub fn announcement(mac: Mac, address: Ipv4Addr) -> Vec<u8> {
    frame(mac, REQUEST, address, Mac::NONE, address)
}

/// The same as a reply, for those who listen to no requests.
pub fn reply_to_all(mac: Mac, address: Ipv4Addr) -> Vec<u8> {
    frame(mac, REPLY, address, BROADCAST, address)
}

/// Asks who has `address` without claiming any: the probe of RFC 5227 §2.1.1.
pub fn probe(mac: Mac, address: Ipv4Addr) -> Vec<u8> {
    frame(mac, REQUEST, Ipv4Addr::UNSPECIFIED, Mac::NONE, address)
}

fn frame(mac: Mac, operation: u16, sender: Ipv4Addr, target_mac: Mac, target: Ipv4Addr) -> Vec<u8> {
    let mut out = ethernet(BROADCAST, mac, ETHER_TYPE);
    out.extend(FIXED);
    out.extend(operation.to_be_bytes());
    out.extend(mac.0);
    out.extend(sender.octets());
    out.extend(target_mac.0);
    out.extend(target.octets());
    out
}

/// What `frame` claims: whoever sends from an address says that it has it, in requests and replies alike (RFC 5227
/// §2.4). `None` if it is no ARP of Ethernet and IPv4, or a probe, which claims nothing.
pub fn claim(frame: &[u8]) -> Option<Claim> {
    let body = frame.get(ETHERNET..)?;
    let (fixed, rest) = body.split_first_chunk::<6>()?;
    let (operation, rest) = rest.split_first_chunk::<2>()?;
    let (mac, rest) = rest.split_first_chunk::<6>()?;
    let (sender, rest) = rest.split_first_chunk::<4>()?;
    let is_whole = rest.len() >= 10 && frame.get(12..ETHERNET)? == ETHER_TYPE.to_be_bytes();
    let is_known = matches!(u16::from_be_bytes(*operation), REQUEST | REPLY);
    let sender = Ipv4Addr::from(*sender);
    let mac = Mac(*mac);
    let is_claim = !sender.is_unspecified() && mac.is_station();
    (is_whole && is_known && is_claim && *fixed == FIXED).then_some(Claim { address: sender.into(), mac })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);

    #[test]
    fn announcements_are_as_the_standard_has_them() {
        let bytes = announcement(OWN, VIP);
        let expected = [
            &[0xff; 6][..],
            &OWN.0,
            &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
            &OWN.0,
            &[192, 0, 2, 7],
            &[0; 6],
            &[192, 0, 2, 7],
        ];
        assert_eq!(bytes, expected.concat());
        assert_eq!(reply_to_all(OWN, VIP)[20..22], [0, 2]);
        assert_eq!(bytes[SENDER_IP as usize..][..4], [192, 0, 2, 7]);
    }

    #[test]
    fn who_sends_from_an_address_claims_it_and_a_probe_does_not() {
        let claimed = Some(Claim { address: VIP.into(), mac: OWN });
        assert_eq!(claim(&announcement(OWN, VIP)), claimed);
        assert_eq!(claim(&reply_to_all(OWN, VIP)), claimed);
        assert_eq!(claim(&probe(OWN, VIP)), None);
    }

    #[test]
    fn what_is_no_whole_arp_of_ethernet_claims_nothing() {
        let good = announcement(OWN, VIP);
        for end in 0..good.len() {
            assert_eq!(claim(&good[..end]), None, "{end} bytes");
        }
        for (at, value) in [(12, 9), (14, 1), (15, 6), (16, 9), (18, 8), (19, 16), (21, 3), (22, 1)] {
            let mut bad = good.clone();
            bad[at] = value;
            assert_eq!(claim(&bad), None, "byte {at}");
        }
    }
}
