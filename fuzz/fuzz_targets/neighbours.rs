//! Frames of neighbours: what claims an address names one that a host can have, and is what its own announcement would say.
#![no_main]

use std::net::IpAddr;

use gateway::announce::{arp, ndp};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|frame: &[u8]| {
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
});
