//! The few messages of rtnetlink that are needed, as bytes. Sans-I/O: written and read, never sent.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::announce::frame::Mac;

/// The originator of our addresses (`IFA_PROTO`), by which we know them again; kernels before 5.18 forget it, and leave
/// [`Origin::Unsaid`].
pub(super) const ORIGIN: u8 = 0x53;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_DUMP_INTR: u16 = 0x10;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_CACHEINFO: u16 = 6;
const IFA_FLAGS: u16 = 8;
const IFA_PROTO: u16 = 11;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;

/// No duplicate address detection, which would hold the address back for a second.
const IFA_F_NODAD: u32 = 0x02;
/// No route for its prefix, which is the address itself.
const IFA_F_NOPREFIXROUTE: u32 = 0x200;
const IFF_UP: u32 = 1;
const IFF_LOOPBACK: u32 = 8;
const IFF_NOARP: u32 = 0x80;
const IFF_LOWER_UP: u32 = 0x1_0000;
const ARPHRD_ETHER: u16 = 1;
/// The table of what is the host's own, and what its routes are.
const RT_TABLE_LOCAL: u8 = 255;
const RTN_LOCAL: u8 = 2;
const RT_SCOPE_HOST: u8 = 254;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// An interface.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in crate::announce) struct Link {
    pub(in crate::announce) index: u32,
    pub(in crate::announce) name: String,
    /// `None` if it speaks no Ethernet, or no ARP.
    pub(in crate::announce) mac: Option<Mac>,
    /// It is up and has a carrier.
    pub(in crate::announce) is_up: bool,
}

/// An address of an interface.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::announce) struct Assigned {
    pub(in crate::announce) index: u32,
    pub(in crate::announce) address: IpAddr,
    pub(in crate::announce) prefix: u8,
    pub(in crate::announce) origin: Origin,
}

/// Who put an address on its interface, as far as the kernel says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::announce) enum Origin {
    /// We, or a process of ours before.
    Ours,
    Others,
    /// By hand, or the kernel keeps no origins.
    Unsaid {
        /// Seconds for which it stays; `None` is for ever.
        valid: Option<u32>,
        /// As ours are: never preferred as a source, and without a route for its prefix.
        is_alike: bool,
    },
}

/// What the kernel says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Message {
    Link(Link),
    LinkGone(u32),
    Address(Assigned),
    /// A route of ours that makes an address the host's.
    LocalRoute(IpAddr),
    /// The end of a list; true if it changed meanwhile and has to be read again.
    Done(bool),
    /// What came of a request: zero, or an error number.
    Outcome(i32),
    Other,
}

/// Asks for all interfaces.
pub(super) fn list_links() -> Vec<u8> {
    request(RTM_GETLINK, NLM_F_DUMP, &[0; 16])
}

/// Asks for all addresses of both families.
pub(super) fn list_addresses() -> Vec<u8> {
    request(RTM_GETADDR, NLM_F_DUMP, &[0; 8])
}

/// Gives `address` to the interface for `lifetime`, rounded up to seconds; or sets its lifetime anew. It is never
/// preferred as a source of the host's own connections.
pub(super) fn assign(address: IpAddr, index: u32, lifetime: Duration) -> Vec<u8> {
    let mut body = address_body(address, index);
    let seconds = u32::try_from(lifetime.as_nanos().div_ceil(1_000_000_000)).unwrap_or(u32::MAX - 1).max(1);
    let cache = [[0; 4], seconds.to_ne_bytes(), [0; 4], [0; 4]].concat();
    attribute(&mut body, IFA_CACHEINFO, &cache);
    let flags = match address {
        IpAddr::V4(_) => IFA_F_NOPREFIXROUTE,
        IpAddr::V6(_) => IFA_F_NOPREFIXROUTE | IFA_F_NODAD,
    };
    attribute(&mut body, IFA_FLAGS, &flags.to_ne_bytes());
    attribute(&mut body, IFA_PROTO, &[ORIGIN]);
    request(RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, &body)
}

/// Takes `address` from the interface.
pub(super) fn remove(address: IpAddr, index: u32) -> Vec<u8> {
    request(RTM_DELADDR, NLM_F_ACK, &address_body(address, index))
}

/// Asks for all routes of both families.
pub(super) fn list_routes() -> Vec<u8> {
    request(RTM_GETROUTE, NLM_F_DUMP, &[0; 12])
}

/// Makes `address` the host's without giving it to an interface; refused if it is that already.
pub(super) fn make_local(address: IpAddr, loopback: u32) -> Vec<u8> {
    request(RTM_NEWROUTE, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, &local_route(address, loopback))
}

/// Takes back [`make_local`].
pub(super) fn unmake_local(address: IpAddr, loopback: u32) -> Vec<u8> {
    request(RTM_DELROUTE, NLM_F_ACK, &local_route(address, loopback))
}

fn local_route(address: IpAddr, loopback: u32) -> Vec<u8> {
    let (family, prefix) = family(address);
    let mut body = vec![family, prefix, 0, 0, RT_TABLE_LOCAL, ORIGIN, RT_SCOPE_HOST, RTN_LOCAL, 0, 0, 0, 0];
    match address {
        IpAddr::V4(address) => attribute(&mut body, RTA_DST, &address.octets()),
        IpAddr::V6(address) => attribute(&mut body, RTA_DST, &address.octets()),
    }
    attribute(&mut body, RTA_OIF, &loopback.to_ne_bytes());
    body
}

const fn family(address: IpAddr) -> (u8, u8) {
    match address {
        IpAddr::V4(_) => (AF_INET, 32),
        IpAddr::V6(_) => (AF_INET6, 128),
    }
}

fn address_body(address: IpAddr, index: u32) -> Vec<u8> {
    let (family, prefix) = family(address);
    let mut body = vec![family, prefix, 0, 0];
    body.extend(index.to_ne_bytes());
    let mut both = |octets: &[u8]| {
        attribute(&mut body, IFA_LOCAL, octets);
        attribute(&mut body, IFA_ADDRESS, octets);
    };
    match address {
        IpAddr::V4(address) => both(&address.octets()),
        IpAddr::V6(address) => both(&address.octets()),
    }
    body
}

fn request(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(16 + body.len()).unwrap_or(u32::MAX);
    let mut out = Vec::with_capacity(16 + body.len());
    out.extend(length.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    // Sequence and sender: one request at a time on a socket of its own.
    out.extend([0; 8]);
    out.extend(body);
    out
}

fn attribute(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    out.extend(length.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// The messages in what was received at once. Ends at what cannot be understood.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32_at(bytes, 0)?).ok()?;
        let kind = u16_at(bytes, 4)?;
        let flags = u16_at(bytes, 6)?;
        let body = bytes.get(16..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message(kind, flags, body).unwrap_or(Message::Other))
    })
}

fn message(kind: u16, flags: u16, body: &[u8]) -> Option<Message> {
    Some(match kind {
        NLMSG_ERROR => Message::Outcome(i32::from_ne_bytes(*body.first_chunk()?)),
        NLMSG_DONE => Message::Done(flags & NLM_F_DUMP_INTR != 0),
        RTM_NEWLINK => Message::Link(link(body)?),
        RTM_DELLINK => Message::LinkGone(u32_at(body, 4)?),
        RTM_NEWADDR => Message::Address(assigned(body)?),
        RTM_NEWROUTE => Message::LocalRoute(of_ours(body)?),
        _ => Message::Other,
    })
}

fn link(body: &[u8]) -> Option<Link> {
    let (hardware, index, flags) = (u16_at(body, 2)?, u32_at(body, 4)?, u32_at(body, 8)?);
    let (mut name, mut mac) = (String::new(), None);
    for (kind, value) in attributes(body.get(16..)?) {
        match kind {
            IFLA_IFNAME => {
                name = String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned();
            }
            IFLA_ADDRESS => mac = value.try_into().ok().map(Mac),
            _ => {}
        }
    }
    let is_suitable = hardware == ARPHRD_ETHER && flags & (IFF_LOOPBACK | IFF_NOARP) == 0;
    let is_up = flags & IFF_UP != 0 && flags & IFF_LOWER_UP != 0;
    Some(Link { index, name, mac: mac.filter(|mac| is_suitable && mac.is_station()), is_up })
}

fn assigned(body: &[u8]) -> Option<Assigned> {
    let (prefix, index) = (*body.get(1)?, u32_at(body, 4)?);
    let (mut local, mut other, mut proto) = (None, None, None);
    let (mut valid, mut preferred, mut flags) = (None, None, 0);
    for (kind, value) in attributes(body.get(8..)?) {
        match kind {
            IFA_LOCAL => local = ip(value),
            IFA_ADDRESS => other = ip(value),
            IFA_PROTO => proto = value.first(),
            IFA_CACHEINFO => (preferred, valid) = (u32_at(value, 0), u32_at(value, 4)),
            IFA_FLAGS => flags = u32_at(value, 0).unwrap_or(0),
            _ => {}
        }
    }
    let origin = match proto {
        Some(&ORIGIN) => Origin::Ours,
        Some(1..) => Origin::Others,
        Some(0) | None => Origin::Unsaid {
            valid: valid.filter(|seconds| *seconds != u32::MAX),
            is_alike: preferred == Some(0) && flags & IFA_F_NOPREFIXROUTE != 0,
        },
    };
    Some(Assigned { index, address: local.or(other)?, prefix, origin })
}

/// The address of a route that [`make_local`] made.
fn of_ours(body: &[u8]) -> Option<IpAddr> {
    let is_ours = body.get(4..8)? == [RT_TABLE_LOCAL, ORIGIN, RT_SCOPE_HOST, RTN_LOCAL]
        // IPv6 knows no scopes.
        || (body.first() == Some(&AF_INET6) && (body.get(5), body.get(7)) == (Some(&ORIGIN), Some(&RTN_LOCAL)));
    attributes(body.get(12..)?).find(|(kind, _)| is_ours && *kind == RTA_DST).and_then(|(_, value)| ip(value))
}

fn ip(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => value.first_chunk::<4>().map(|octets| Ipv4Addr::from(*octets).into()),
        16 => value.first_chunk::<16>().map(|octets| Ipv6Addr::from(*octets).into()),
        _ => None,
    }
}

fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        // The two highest bits say how the value is to be read.
        let kind = u16_at(bytes, 2)? & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|two| u16::from_ne_bytes(*two))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|four| u32::from_ne_bytes(*four))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assignment_reads_as_an_address_of_ours() {
        for (address, prefix) in [("192.0.2.7", 32), ("2001:db8::7", 128)] {
            let address: IpAddr = address.parse().unwrap();
            let bytes = assign(address, 3, Duration::from_millis(900));
            assert_eq!(bytes.len() as u32, u32_at(&bytes, 0).unwrap());
            let read: Vec<Message> = messages(&bytes).collect();
            let origin = Origin::Ours;
            assert_eq!(read, [Message::Address(Assigned { index: 3, address, prefix, origin })]);
        }
    }

    #[test]
    fn a_kernel_that_keeps_no_origins_tells_lifetimes_and_what_addresses_are_for() {
        let address: IpAddr = "192.0.2.7".parse().unwrap();
        let read = |cache: [u32; 2], flags: u32| {
            let mut body = address_body(address, 3);
            let cache = [cache[0].to_ne_bytes(), cache[1].to_ne_bytes(), [0; 4], [0; 4]].concat();
            attribute(&mut body, IFA_FLAGS, &flags.to_ne_bytes());
            attribute(&mut body, IFA_CACHEINFO, &cache);
            match messages(&request(RTM_NEWADDR, 0, &body)).next() {
                Some(Message::Address(Assigned { index: 3, prefix: 32, origin, .. })) => origin,
                other => panic!("{other:?}"),
            }
        };
        let unsaid = |valid, is_alike| Origin::Unsaid { valid, is_alike };
        assert_eq!(read([0, 1], 0x200), unsaid(Some(1), true));
        assert_eq!(read([0, 1], 0), unsaid(Some(1), false), "a route for its prefix");
        assert_eq!(read([9, 9], 0x200), unsaid(Some(9), false), "the host's connections use it");
        assert_eq!(read([u32::MAX, u32::MAX], 0x80), unsaid(None, false), "for ever");
    }

    #[test]
    fn a_local_route_reads_as_one_of_ours() {
        for address in ["192.0.2.7", "2001:db8::7"] {
            let address: IpAddr = address.parse().unwrap();
            let mut bytes = make_local(address, 1);
            assert_eq!(messages(&bytes).collect::<Vec<_>>(), [Message::LocalRoute(address)]);
            // The kernel's own.
            bytes[16 + 5] = 2;
            assert_eq!(messages(&bytes).collect::<Vec<_>>(), [Message::Other]);
        }
    }

    #[test]
    fn lifetimes_are_whole_seconds_and_never_for_ever() {
        let seconds = |lifetime| {
            let bytes = assign(Ipv4Addr::LOCALHOST.into(), 1, lifetime);
            let (_, value) = attributes(&bytes[24..]).find(|(kind, _)| *kind == IFA_CACHEINFO).unwrap();
            (u32_at(value, 0).unwrap(), u32_at(value, 4).unwrap())
        };
        assert_eq!(seconds(Duration::ZERO), (0, 1));
        assert_eq!(seconds(Duration::from_millis(1_001)), (0, 2));
        assert_eq!(seconds(Duration::MAX), (0, u32::MAX - 1));
    }

    #[test]
    fn what_is_cut_or_malformed_ends_the_reading() {
        let good = [assign(Ipv4Addr::LOCALHOST.into(), 1, Duration::ZERO), list_links()].concat();
        for end in 0..good.len() {
            assert!(messages(&good[..end]).count() <= 1, "{end} bytes");
        }
        assert_eq!(messages(&[0; 64]).count(), 0);
        let mut looped = good;
        looped[16 + 8] = 0;
        assert!(messages(&looped).count() <= 2);
    }

    #[test]
    fn a_link_is_usable_if_it_is_ethernet_with_a_carrier() {
        let bytes = |hardware: u16, flags: u32| {
            let mut body = vec![0, 0];
            body.extend(hardware.to_ne_bytes());
            body.extend(7_u32.to_ne_bytes());
            body.extend(flags.to_ne_bytes());
            body.extend([0; 4]);
            attribute(&mut body, IFLA_IFNAME, b"eth0\0");
            attribute(&mut body, IFLA_ADDRESS, &[2, 0, 0, 0, 0, 1]);
            request(RTM_NEWLINK, 0, &body)
        };
        let read = |hardware, flags| match messages(&bytes(hardware, flags)).next() {
            Some(Message::Link(link)) => (link.index, link.name, link.mac.is_some(), link.is_up),
            other => panic!("{other:?}"),
        };
        let name = || "eth0".to_owned();
        assert_eq!(read(1, IFF_UP | IFF_LOWER_UP), (7, name(), true, true));
        assert_eq!(read(1, IFF_UP), (7, name(), true, false));
        assert_eq!(read(1, IFF_UP | IFF_LOWER_UP | IFF_LOOPBACK), (7, name(), false, true));
        assert_eq!(read(772, IFF_UP | IFF_LOWER_UP), (7, name(), false, true));
    }
}
