//! Frames of neighbours: what claims an address names one that a host can have, and is what its own announcement would say.
#![no_main]

use std::net::IpAddr;

use gateway::announce::{arp, ndp};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|frame: &[u8]| {
    check(frame);
    if let Some(frame) = mended(frame) {
        check(&frame);
    }
});

fn check(frame: &[u8]) {
    if let Some(claim) = arp::claim(frame) {
        let IpAddr::V4(address) = claim.address else { panic!("{claim:?}") };
        assert!(!address.is_unspecified() && claim.mac.0[0] & 1 == 0);
        assert_eq!(arp::claim(&arp::announcement(claim.mac, address)), Some(claim));
        assert_eq!(frame[28..32], address.octets(), "where the filter looks");
    }
    if let Some(claim) = ndp::claim(frame) {
        let IpAddr::V6(address) = claim.address else { panic!("{claim:?}") };
        assert!(!address.is_unspecified() && !address.is_multicast() && claim.mac.0[0] & 1 == 0);
        assert_eq!(ndp::claim(&ndp::announcement(claim.mac, address)), Some(claim));
        assert_eq!((frame[20], frame[54]), (58, 136), "where the filter looks");
        assert_eq!(frame[74..78], address.octets()[12..], "where the filter looks");
    }
}

/// The same as an IPv6 packet with the length and the checksum that it should have (RFC 4443 §2.3), which no mutation finds.
/// `None` if it is too short.
fn mended(frame: &[u8]) -> Option<Vec<u8>> {
    let mut out = frame.to_vec();
    out.get_mut(12..15)?.copy_from_slice(&[0x86, 0xdd, 0x60]);
    let stated = usize::from(u16::from_be_bytes([*out.get(18)?, *out.get(19)?]));
    let rest = out.get(54..)?.len();
    let length = if stated <= rest { stated } else { rest };
    out.get_mut(18..20)?.copy_from_slice(&u16::try_from(length).ok()?.to_be_bytes());
    out.get_mut(56..58)?.fill(0);
    let message = out.get(54..54 + length)?;
    let bytes = out.get(22..54)?.chunks(2).chain(message.chunks(2));
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    let mut sum = u32::try_from(length).ok()? + 58 + bytes.map(word).sum::<u32>();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    out.get_mut(56..58)?.copy_from_slice(&(!u16::try_from(sum).ok()?).to_be_bytes());
    Some(out)
}
