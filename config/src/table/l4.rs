//! What is relayed without being read: one route per Bind, with its backends and its terms.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use serde::{Serialize, Serializer};

use super::bind::TrustedProxies;
use super::rule::{RouteId, Split, Unavailable};

/// What travels on a Bind.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// Streams.
    Tcp,
    /// Datagrams.
    Udp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// One socket: TCP and UDP of one address are two. A specific address beside the wildcard of the same port is
/// another socket as well, and goes first.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct L4Key {
    /// Address to listen on.
    pub address: SocketAddr,
    /// What travels there.
    pub transport: Transport,
}

/// All addresses of the host, of either family: what wildcards listen on.
pub const ALL_ADDRESSES: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];

impl L4Key {
    /// The same port on all addresses of its family.
    #[must_use]
    pub fn on_all(self) -> Self {
        let [v4, v6] = ALL_ADDRESSES;
        let all = if self.address.is_ipv4() { v4 } else { v6 };
        Self { address: SocketAddr::new(all, self.address.port()), ..self }
    }
}

impl fmt::Display for L4Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.transport, self.address)
    }
}

/// A Bind whose bytes are relayed as they are, with the one route on it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct L4Bind {
    /// Which socket.
    pub key: L4Key,
    /// The listener's name, for people.
    pub listener: Arc<str>,
    /// The address need not be the host's (yet): `IP_FREEBIND`, `IPV6_FREEBIND`.
    pub free_bind: bool,
    /// The address is nobody's: the host makes it its own by a route.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub local_route: bool,
    /// Who wants it.
    pub route: RouteId,
    /// Where connections and flows go. What cannot be served is closed: clients are refused.
    pub target: Result<Split, Unavailable>,
    /// The terms; shared between equal ones.
    pub policy: Arc<L4Policy>,
}

/// The terms of an L4 route. A Backend's own settings (balance, health, `max_requests_per_endpoint`) apply besides; a
/// connection or flow counts as one request in flight for as long as it lives.
#[derive(Clone, Debug, Eq, Hash, PartialEq, Serialize)]
pub struct L4Policy {
    /// No byte in either direction for so long ends a connection or flow; zero = off.
    pub idle_timeout: Duration,
    /// Longest life of a connection or flow; zero = off.
    pub lifetime: Duration,
    /// Deadline of one attempt to connect; the Backend's when absent.
    pub connect_timeout: Option<Duration>,
    /// Endpoints that are tried for one connection, at least 1.
    pub tries: u8,
    /// Open connections or flows of the Bind, over all workers; 0 = no cap. Beyond it, new ones are refused.
    pub max_connections: u32,
    /// Open connections or flows per endpoint; 0 = no cap. An endpoint at its cap is passed over; if all are, new
    /// connections are refused.
    pub max_connections_per_endpoint: u32,
    /// Of datagrams: bytes of answers for each byte of a client that has said nothing since the first answer, and so may be
    /// somebody else's address (RFC 9000 §8.1 has 3); 0 = any number.
    pub max_amplification: u16,
    /// What comes before the bytes of clients.
    pub proxy_protocol_in: ProxyProtocolIn,
    /// What is sent before the bytes to endpoints.
    pub proxy_protocol_out: ProxyProtocolOut,
    /// Whose address endpoints see.
    pub source_address: SourceAddress,
    /// Clients that are served; everybody when absent.
    pub source_ranges: Option<Arc<SourceRanges>>,
    /// What becomes of connections and flows to an endpoint that is no longer wanted.
    pub on_removed: OnRemoved,
    /// A client's address gets the same endpoint, as long as that may be used, until it came with nothing new for so
    /// long. It goes before the Backend's balance.
    pub affinity: Option<Duration>,
}

impl L4Policy {
    /// The defaults for datagrams: there is no end of a flow but silence, and a flow can change its endpoint.
    #[must_use]
    pub fn of_datagrams() -> Self {
        Self {
            idle_timeout: Duration::from_secs(60),
            on_removed: OnRemoved::EndAfter(Duration::ZERO),
            ..Self::default()
        }
    }
}

impl Default for L4Policy {
    fn default() -> Self {
        Self {
            idle_timeout: Duration::from_secs(3_600),
            lifetime: Duration::ZERO,
            connect_timeout: None,
            tries: 3,
            max_connections: 16_384,
            max_connections_per_endpoint: 0,
            max_amplification: 0,
            proxy_protocol_in: ProxyProtocolIn::None,
            proxy_protocol_out: ProxyProtocolOut::None,
            source_address: SourceAddress::Gateway,
            source_ranges: None,
            on_removed: OnRemoved::Finish,
            affinity: None,
        }
    }
}

/// What comes before the bytes of clients.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProxyProtocolIn {
    /// Nothing: what looks like a header is payload.
    #[default]
    None,
    /// A PROXY header, version 1 or 2, on every connection.
    Required {
        /// Peers that may send one, and nobody else may connect; everybody when empty.
        trusted: TrustedProxies,
    },
}

/// What is sent before the bytes to endpoints.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyProtocolOut {
    /// Nothing.
    #[default]
    None,
    /// A PROXY header as text.
    V1,
    /// A binary PROXY header.
    V2,
}

/// From which address endpoints are spoken to.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceAddress {
    /// That of the host.
    #[default]
    Gateway,
    /// That of the client (`IP_TRANSPARENT`), with any port. What endpoints answer must be routed back to this host.
    Client,
}

/// What becomes of connections and flows to an endpoint that is no longer wanted.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnRemoved {
    /// They finish by themselves.
    #[default]
    Finish,
    /// They are ended so long after the endpoint left.
    EndAfter(Duration),
}

/// Networks by which clients are let in; looked up in logarithmic time.
///
/// IPv4 clients are compared with IPv4 networks only (those of `::ffff:0:0/96` included), IPv6 clients with IPv6 ones.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct SourceRanges {
    /// As written, for people.
    nets: Box<[IpNet]>,
    /// Sorted, disjoint, first and last address.
    v4: Box<[(u32, u32)]>,
    v6: Box<[(u128, u128)]>,
}

impl SourceRanges {
    /// The union of `nets`; nobody if there are none.
    #[must_use]
    pub fn new(nets: impl IntoIterator<Item = IpNet>) -> Self {
        let nets: Box<[IpNet]> = nets.into_iter().collect();
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for net in nets.iter().copied().map(canonical) {
            match net {
                IpNet::V4(net) => v4.push((net.network().to_bits(), net.broadcast().to_bits())),
                IpNet::V6(net) => v6.push((net.network().to_bits(), net.broadcast().to_bits())),
            }
        }
        Self { nets, v4: merged(v4), v6: merged(v6) }
    }

    /// True if `address` may come in.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(v4) => is_within(&self.v4, v4.to_bits()),
            IpAddr::V6(v6) => is_within(&self.v6, v6.to_bits()),
        }
    }
}

impl Serialize for SourceRanges {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(&self.nets)
    }
}

/// An IPv4 network that was written in IPv6 as what it is.
fn canonical(net: IpNet) -> IpNet {
    const MAPPED: u8 = 96;
    let IpNet::V6(v6) = net else { return net };
    let mapped = v6.network().to_ipv4_mapped().filter(|_| v6.prefix_len() >= MAPPED);
    let v4: Option<(Ipv4Addr, u8)> = mapped.zip(v6.prefix_len().checked_sub(MAPPED));
    v4.and_then(|(address, length)| Ipv4Net::new(address, length).ok()).map_or(net, IpNet::V4)
}

fn merged<T: Copy + Ord>(mut ranges: Vec<(T, T)>) -> Box<[(T, T)]> {
    ranges.sort_unstable();
    let mut out: Vec<(T, T)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match out.last_mut() {
            Some((_, end)) if first <= *end => *end = last.max(*end),
            _ => out.push((first, last)),
        }
    }
    out.into()
}

fn is_within<T: Copy + Ord>(ranges: &[(T, T)], value: T) -> bool {
    let after = ranges.partition_point(|(first, _)| *first <= value);
    after.checked_sub(1).and_then(|at| ranges.get(at)).is_some_and(|(_, last)| value <= *last)
}

/// Whether two sockets of one port would take the same packets if one of them were not more specific.
#[must_use]
pub fn overlaps(a: SocketAddr, b: SocketAddr) -> bool {
    let is_any = a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() == b.port() && a.is_ipv4() == b.is_ipv4() && (a.ip() == b.ip() || is_any)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ranges(nets: &[&str]) -> SourceRanges {
        SourceRanges::new(nets.iter().map(|net| net.parse().unwrap()))
    }

    fn lets_in(nets: &[&str], address: &str) -> bool {
        ranges(nets).contains(address.parse().unwrap())
    }

    #[test]
    fn no_network_lets_nobody_in() {
        assert!(!lets_in(&[], "10.0.0.1"));
        assert!(!lets_in(&[], "::1"));
    }

    #[test]
    fn the_first_and_the_last_address_of_a_network_are_in_it() {
        for address in ["10.1.0.0", "10.1.255.255", "10.1.7.9"] {
            assert!(lets_in(&["10.1.0.0/16", "192.168.0.0/24"], address), "{address}");
        }
        for address in ["10.0.255.255", "10.2.0.0", "0.0.0.0", "255.255.255.255"] {
            assert!(!lets_in(&["10.1.0.0/16", "192.168.0.0/24"], address), "{address}");
        }
    }

    #[test]
    fn a_network_within_another_takes_nothing_away() {
        assert!(lets_in(&["10.0.0.0/8", "10.0.0.0/24"], "10.200.0.1"));
    }

    #[test]
    fn families_do_not_answer_for_each_other() {
        assert!(!lets_in(&["::/0"], "10.0.0.1"));
        assert!(!lets_in(&["0.0.0.0/0"], "fd00::1"));
        assert!(lets_in(&["0.0.0.0/0"], "::ffff:10.0.0.1"));
        assert!(lets_in(&["::ffff:10.0.0.0/104"], "10.0.0.1"));
        assert!(!lets_in(&["::ffff:10.0.0.0/104"], "11.0.0.1"));
    }

    #[test]
    fn a_wildcard_overlaps_every_address_of_its_port_and_family() {
        let at = |text: &str| text.parse().unwrap();
        assert!(overlaps(at("0.0.0.0:80"), at("10.0.0.1:80")));
        assert!(overlaps(at("[::1]:80"), at("[::]:80")));
        assert!(!overlaps(at("0.0.0.0:80"), at("10.0.0.1:81")));
        assert!(!overlaps(at("10.0.0.2:80"), at("10.0.0.1:80")));
        assert!(!overlaps(at("[::]:80"), at("10.0.0.1:80")));
    }

    proptest! {
        #[test]
        fn the_search_agrees_with_asking_every_network(
            nets in prop::collection::vec((any::<u32>(), 0_u8..=32), 0..12),
            probes in prop::collection::vec(any::<u32>(), 1..12),
        ) {
            let nets: Vec<IpNet> = nets
                .into_iter()
                .map(|(bits, length)| IpNet::V4(Ipv4Net::new(bits.into(), length).unwrap().trunc()))
                .collect();
            let ranges = SourceRanges::new(nets.iter().copied());
            let edges = nets.iter().flat_map(|net| [net.network(), net.broadcast()]);
            for address in probes.into_iter().map(|bits| IpAddr::V4(bits.into())).chain(edges) {
                let plain = nets.iter().any(|net| net.contains(&address));
                prop_assert_eq!(ranges.contains(address), plain, "{}", address);
            }
        }
    }
}
