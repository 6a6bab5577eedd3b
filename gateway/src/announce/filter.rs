//! What the kernel passes on of the frames of a link: only those in which somebody may claim one of our addresses, so that
//! a flood of others costs nothing here. Sans-I/O: programs of the classic packet filter, and never their use.

use std::net::IpAddr;

use socket2::SockFilter;

use super::{arp, ndp};

/// Beyond this many addresses everything passes, and we look ourselves; a program has at most 4,096 instructions.
const MOST: usize = 1_500;

const LOAD_WORD: u16 = 0x20;
const LOAD_BYTE: u16 = 0x30;
const JUMP_IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;
const WHOLE: u32 = u32::MAX;

/// What is listened to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Protocol {
    Arp,
    Ndp,
}

impl Protocol {
    pub(super) fn ether_type(self) -> u16 {
        match self {
            Self::Arp => arp::ETHER_TYPE,
            Self::Ndp => ndp::ETHER_TYPE,
        }
    }
}

/// Lets nothing through.
pub(super) fn nothing() -> Vec<SockFilter> {
    vec![SockFilter::new(RETURN, 0, 0, 0)]
}

/// Lets frames through that name one of `addresses` where a claim has it.
pub(super) fn claims(protocol: Protocol, addresses: impl Iterator<Item = IpAddr>) -> Vec<SockFilter> {
    program(protocol, addresses)
        .into_iter()
        .map(|(code, jt, jf, k)| SockFilter::new(code, jt, jf, k))
        .collect()
}

fn program(protocol: Protocol, addresses: impl Iterator<Item = IpAddr>) -> Vec<(u16, u8, u8, u32)> {
    let ends: Vec<u32> = addresses.filter_map(|address| end(protocol, address)).take(MOST + 1).collect();
    let (pass, drop) = ((RETURN, 0, 0, WHOLE), (RETURN, 0, 0, 0));
    let mut out = Vec::new();
    if protocol == Protocol::Ndp {
        for (at, value) in [(ndp::NEXT_HEADER, ndp::ICMP), (ndp::TYPE, ndp::ADVERTISEMENT)] {
            out.extend([(LOAD_BYTE, 0, 0, at), (JUMP_IF_EQUAL, 1, 0, u32::from(value)), drop]);
        }
    }
    if ends.len() > MOST {
        out.push(pass);
        return out;
    }
    let at = match protocol {
        Protocol::Arp => arp::SENDER_IP,
        Protocol::Ndp => ndp::TARGET_END,
    };
    out.push((LOAD_WORD, 0, 0, at));
    for end in ends {
        out.extend([(JUMP_IF_EQUAL, 0, 1, end), pass]);
    }
    out.push(drop);
    out
}

/// The last four bytes of an address of the protocol's family.
fn end(protocol: Protocol, address: IpAddr) -> Option<u32> {
    match (protocol, address) {
        (Protocol::Arp, IpAddr::V4(address)) => Some(u32::from(address)),
        (Protocol::Ndp, IpAddr::V6(address)) => {
            let [.., a, b, c, d] = address.octets();
            Some(u32::from_be_bytes([a, b, c, d]))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::Mac;
    use super::*;

    /// What the kernel does with a program, as far as ours go.
    fn passes(program: &[(u16, u8, u8, u32)], frame: &[u8]) -> bool {
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let (code, jt, jf, k) = program[at];
            at += 1;
            let offset = k as usize;
            match code {
                LOAD_BYTE => accumulator = u32::from(frame[offset]),
                LOAD_WORD => {
                    accumulator = u32::from_be_bytes(frame[offset..offset + 4].try_into().unwrap());
                }
                JUMP_IF_EQUAL => at += usize::from(if accumulator == k { jt } else { jf }),
                _ => return k != 0,
            }
        }
    }

    #[test]
    fn claims_of_our_addresses_pass_and_nothing_else() {
        let ours: [IpAddr; 3] =
            ["192.0.2.7".parse().unwrap(), "192.0.2.8".parse().unwrap(), "2001:db8::7".parse().unwrap()];
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        let arp_filter = program(Protocol::Arp, ours.into_iter());
        for (address, is_ours) in [("192.0.2.7", true), ("192.0.2.8", true), ("192.0.2.9", false)] {
            let address = address.parse().unwrap();
            assert_eq!(passes(&arp_filter, &arp::announcement(mac, address)), is_ours, "{address}");
            assert!(!passes(&arp_filter, &arp::probe(mac, address)), "who asks claims nothing");
        }
        let ndp_filter = program(Protocol::Ndp, ours.into_iter());
        for (address, is_ours) in [("2001:db8::7", true), ("2001:db8::8", false)] {
            let address = address.parse().unwrap();
            assert_eq!(passes(&ndp_filter, &ndp::announcement(mac, address)), is_ours, "{address}");
            assert!(!passes(&ndp_filter, &ndp::probe(mac, address)));
        }
    }

    #[test]
    fn no_number_of_addresses_makes_a_program_too_long() {
        let many = |count: u32| (0..count).map(|low| IpAddr::from(low.to_be_bytes()));
        assert!(program(Protocol::Arp, many(1_500)).len() < 4_096);
        assert_eq!(program(Protocol::Arp, many(1_501)).len(), 1);
    }
}
