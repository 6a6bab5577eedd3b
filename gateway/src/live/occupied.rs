//! Where this process listens: nothing is relayed to there, since it would come back, and again, until descriptors or
//! ports are used up. Knows sockets and addresses of the host; judges nothing.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use config::table::{L4Key, Transport};
use foldhash::fast::RandomState;
use tokio::sync::watch;

/// See the module's documentation.
#[derive(Debug)]
pub struct Occupied {
    places: ArcSwap<Places>,
    /// Held while `places` is replaced.
    writing: Mutex<()>,
    listening: watch::Sender<Vec<SocketAddr>>,
    unopened: ArcSwap<BTreeMap<L4Key, String>>,
}

#[derive(Clone, Debug, Default)]
struct Places {
    /// Sockets on one address.
    single: Arc<HashSet<L4Key, RandomState>>,
    /// Sockets on all addresses of a family (IPv4 if true).
    all: Arc<HashSet<(Transport, u16, bool), RandomState>>,
    /// Addresses of this host, besides loopback.
    hosts: Arc<HashSet<IpAddr, RandomState>>,
    /// Those that we made the host's ourselves, or are about to.
    announced: Arc<HashSet<IpAddr, RandomState>>,
}

impl Default for Occupied {
    fn default() -> Self {
        Self {
            places: ArcSwap::default(),
            writing: Mutex::new(()),
            listening: watch::Sender::default(),
            unopened: ArcSwap::default(),
        }
    }
}

impl Occupied {
    /// These are all sockets of this process that clients reach, with the ports that they got.
    pub fn listens(&self, at: impl Iterator<Item = L4Key>) {
        let (mut single, mut all) = (HashSet::default(), HashSet::default());
        let mut listening = Vec::new();
        for key in at {
            listening.push(key.address);
            if key.address.ip().is_unspecified() {
                all.insert((key.transport, key.address.port(), key.address.is_ipv4()));
            } else {
                single.insert(L4Key { address: plain(key.address), ..key });
            }
        }
        self.change(|places| (places.single, places.all) = (Arc::new(single), Arc::new(all)));
        self.listening.send_replace(listening);
    }

    /// These are the addresses of this host.
    pub fn hosts(&self, all: impl IntoIterator<Item = IpAddr>) {
        let hosts: HashSet<IpAddr, RandomState> = all.into_iter().map(|ip| ip.to_canonical()).collect();
        if *self.places.load().hosts != hosts {
            self.change(|places| places.hosts = Arc::new(hosts));
        }
    }

    /// These are the addresses that we announce, which are of this host before it is looked again.
    pub(crate) fn announces(&self, all: impl IntoIterator<Item = IpAddr>) {
        let announced: HashSet<IpAddr, RandomState> = all.into_iter().collect();
        if *self.places.load().announced != announced {
            self.change(|places| places.announced = Arc::new(announced));
        }
    }

    /// Follows what [`Self::listens`] is told.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Vec<SocketAddr>> {
        self.listening.subscribe()
    }

    /// These are all sockets that the table wants and that cannot be opened, and why.
    pub(crate) fn lacks(&self, sockets: BTreeMap<L4Key, String>) {
        if *self.unopened.load_full() != sockets {
            self.unopened.store(Arc::new(sockets));
        }
    }

    /// Sockets that the table wants and that cannot be opened, and why.
    #[must_use]
    pub fn unopened(&self) -> Arc<BTreeMap<L4Key, String>> {
        self.unopened.load_full()
    }

    /// Whether this process would receive what is sent to `address`. A few look-ups in memory.
    #[must_use]
    pub(crate) fn has(&self, transport: Transport, address: SocketAddr) -> bool {
        let address = plain(address);
        let (ip, places) = (address.ip(), self.places.load());
        places.single.contains(&L4Key { address, transport })
            || (places.all.contains(&(transport, address.port(), ip.is_ipv4()))
                && (ip.is_loopback() || places.hosts.contains(&ip) || places.announced.contains(&ip)))
    }

    fn change(&self, change: impl FnOnce(&mut Places)) {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut places = Places::clone(&self.places.load());
        change(&mut places);
        self.places.store(Arc::new(places));
    }
}

/// Where the kernel connects to, without what does not tell sockets apart: "no address" is this host.
fn plain(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip().to_canonical() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn occupied() -> Occupied {
        let occupied = Occupied::default();
        let keys = [
            ("192.0.2.1:53", Transport::Udp),
            ("127.0.0.1:81", Transport::Tcp),
            ("0.0.0.0:80", Transport::Tcp),
            ("[::]:443", Transport::Tcp),
            ("[fe80::1%2]:7", Transport::Tcp),
        ];
        occupied.listens(
            keys.into_iter().map(|(text, transport)| L4Key { address: text.parse().unwrap(), transport }),
        );
        occupied.hosts(["10.0.0.1".parse().unwrap(), "2001:db8::1".parse().unwrap()]);
        occupied
    }

    #[test]
    fn a_socket_occupies_its_address_and_one_of_all_addresses_each_of_its_family() {
        let occupied = occupied();
        let has = |transport, address: &str| occupied.has(transport, address.parse().unwrap());
        for own in [
            "10.0.0.1:80",
            "127.0.0.9:80",
            "0.0.0.0:80",
            "[::ffff:10.0.0.1]:80",
            "[2001:db8::1]:443",
            "[::1]:443",
            "[::]:443",
            "0.0.0.0:81",
            "[fe80::1%3]:7",
        ] {
            assert!(has(Transport::Tcp, own), "{own}");
        }
        for other in ["10.0.0.2:80", "10.0.0.1:443", "[2001:db8::1]:80", "127.0.0.2:81", "192.0.2.1:53"] {
            assert!(!has(Transport::Tcp, other), "{other}");
        }
        assert!(has(Transport::Udp, "192.0.2.1:53"));
        assert!(!has(Transport::Udp, "10.0.0.1:80"));
    }

    #[test]
    fn what_is_announced_is_the_hosts_at_once() {
        let occupied = occupied();
        let has = || occupied.has(Transport::Tcp, "203.0.113.7:80".parse().unwrap());
        assert!(!has());
        occupied.announces(["203.0.113.7".parse().unwrap()]);
        assert!(has());
        occupied.hosts(["10.0.0.1".parse().unwrap()]);
        assert!(has(), "whatever was seen of the host");
        occupied.announces([]);
        assert!(!has());
    }

    #[test]
    fn what_goes_is_no_longer_occupied() {
        let occupied = occupied();
        occupied.hosts([]);
        assert!(!occupied.has(Transport::Tcp, "10.0.0.1:80".parse().unwrap()));
        occupied.listens(std::iter::empty());
        assert!(!occupied.has(Transport::Udp, "192.0.2.1:53".parse().unwrap()));
        assert!(occupied.subscribe().borrow().is_empty());
    }
}
