//! Which interface an address belongs to. Pure: what the kernel listed is an argument.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::netlink::{Assigned, Link, Origin};

/// On it, kube-proxy binds addresses of Services, which makes them nobody's.
const IPVS: &str = "kube-ipvs0";

/// Interfaces by name; a `*` at the end stands for any rest.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pattern(String);

impl Pattern {
    /// Names, or beginnings of names with `*`. `None` if no interface can have that name.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let name = text.strip_suffix('*').unwrap_or(text);
        let is_name = !text.is_empty() && name.len() <= 15 && !name.contains(['*', '/', ' ', '\0']);
        is_name.then(|| Self(text.to_owned()))
    }

    fn matches(&self, name: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => self.0 == name,
        }
    }
}

/// What the kernel has.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// index → interface
    links: BTreeMap<u32, Link>,
    assigned: Vec<Assigned>,
}

impl Links {
    /// Of addresses whose origin the kernel does not say, those are ours that are `taken` at that interface, or that are
    /// like ours and end within two times the `lease`.
    pub(super) fn new(
        links: Vec<Link>,
        mut assigned: Vec<Assigned>,
        lease: Duration,
        taken: impl Fn(IpAddr) -> Option<u32>,
    ) -> Self {
        let links: BTreeMap<u32, Link> = links.into_iter().map(|link| (link.index, link)).collect();
        assigned.retain(|one| links.get(&one.index).is_none_or(|link| link.name != IPVS));
        let shortly = lease.as_secs().saturating_mul(2).max(1);
        for one in &mut assigned {
            if let Origin::Unsaid { valid: Some(valid), is_alike } = one.origin
                && one.prefix == whole(one.address)
                && (taken(one.address) == Some(one.index) || is_alike && u64::from(valid) <= shortly)
            {
                one.origin = Origin::Ours;
            }
        }
        Self { links, assigned }
    }

    pub(super) fn link(&self, index: u32) -> Option<&Link> {
        self.links.get(&index)
    }

    /// Addresses that we put there, or a process of ours before.
    pub(super) fn ours(&self) -> impl Iterator<Item = &Assigned> {
        self.assigned.iter().filter(|one| one.origin == Origin::Ours)
    }

    /// The interface at which `address` is announced: of those in `allowed` and in `only` (all if that is empty) that are
    /// up, one whose network has it; else the first that is named. `None` if there is none, or if the host has the address
    /// anyway.
    pub(super) fn choose(&self, address: IpAddr, allowed: &[Pattern], only: &[Arc<str>]) -> Option<u32> {
        let is_hosts = |one: &Assigned| one.address == address && one.origin != Origin::Ours;
        if self.assigned.iter().any(is_hosts) {
            return None;
        }
        let rank = |link: &Link| allowed.iter().position(|pattern| pattern.matches(&link.name));
        let is_meant = |link: &Link| only.is_empty() || only.iter().any(|name| **name == *link.name);
        let usable = self.links.values().filter(|link| link.is_up && link.mac.is_some() && is_meant(link));
        let mut candidates: Vec<(usize, u32)> = usable
            .filter_map(|link| {
                let rank = if allowed.is_empty() { Some(0) } else { rank(link) };
                Some((rank?, link.index))
            })
            .collect();
        candidates.sort_unstable();
        let on_link = candidates.iter().find(|(_, index)| self.has_network(*index, address));
        let named = candidates.first().filter(|_| !allowed.is_empty() || !only.is_empty());
        on_link.or(named).map(|(_, index)| *index)
    }

    /// Whether the interface has an address in a network with `address`.
    fn has_network(&self, index: u32, address: IpAddr) -> bool {
        self.assigned
            .iter()
            .filter(|one| one.index == index && one.origin != Origin::Ours && one.prefix < whole(address))
            .any(|one| IpNet::new(one.address, one.prefix).is_ok_and(|net| net.contains(&address)))
    }
}

/// The length of a prefix that is one address.
const fn whole(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

#[cfg(test)]
mod tests {
    use super::super::frame::Mac;
    use super::*;

    fn link(index: u32, name: &str, is_up: bool) -> Link {
        Link { index, name: name.to_owned(), mac: Some(Mac([2, 0, 0, 0, 0, 1])), is_up }
    }

    const LEASE: Duration = Duration::from_secs(1);

    fn from(index: u32, net: &str, origin: Origin) -> Assigned {
        let net: IpNet = net.parse().unwrap();
        Assigned { index, address: net.addr(), prefix: net.prefix_len(), origin }
    }

    fn assigned(index: u32, net: &str, is_ours: bool) -> Assigned {
        let by_hand = Origin::Unsaid { valid: None, is_alike: false };
        from(index, net, if is_ours { Origin::Ours } else { by_hand })
    }

    fn links() -> Links {
        Links::new(
            vec![link(1, "eth0", true), link(2, "eth1", true), link(3, "eth2", false), link(4, IPVS, true)],
            vec![
                assigned(1, "192.0.2.1/24", false),
                assigned(2, "198.51.100.1/24", false),
                assigned(2, "2001:db8::1/64", false),
                assigned(3, "203.0.113.1/24", false),
                assigned(4, "192.0.2.50/32", false),
                assigned(1, "192.0.2.60/32", true),
            ],
            LEASE,
            |_| None,
        )
    }

    fn choose(address: &str, allowed: &[&str]) -> Option<u32> {
        let allowed: Vec<Pattern> = allowed.iter().map(|text| Pattern::new(text).unwrap()).collect();
        links().choose(address.parse().unwrap(), &allowed, &[])
    }

    #[test]
    fn an_address_belongs_where_its_network_is() {
        assert_eq!(choose("192.0.2.7", &[]), Some(1));
        assert_eq!(choose("2001:db8::7", &[]), Some(2));
        assert_eq!(choose("10.0.0.1", &[]), None);
        assert_eq!(choose("203.0.113.7", &[]), None, "that interface is down");
    }

    #[test]
    fn what_is_named_goes_before_and_instead() {
        assert_eq!(choose("192.0.2.7", &["eth1"]), Some(2), "no network, but named");
        assert_eq!(
            choose("192.0.2.7", &["eth1", "eth0"]),
            Some(1),
            "the network decides between those named"
        );
        assert_eq!(choose("192.0.2.7", &["eth*"]), Some(1));
        assert_eq!(choose("192.0.2.7", &["wan0"]), None);
    }

    #[test]
    fn an_advertisement_names_interfaces_among_those_that_may_be_used() {
        let choose = |address: &str, allowed: &[&str], only: &[&str]| {
            let allowed: Vec<Pattern> = allowed.iter().map(|text| Pattern::new(text).unwrap()).collect();
            let only: Vec<Arc<str>> = only.iter().map(|name| Arc::from(*name)).collect();
            links().choose(address.parse().unwrap(), &allowed, &only)
        };
        assert_eq!(choose("192.0.2.7", &[], &["eth1", "eth0"]), Some(1), "the network decides");
        assert_eq!(choose("192.0.2.7", &[], &["eth1"]), Some(2), "no network, but named");
        assert_eq!(choose("192.0.2.7", &["eth0"], &["eth1"]), None);
        assert_eq!(choose("192.0.2.7", &[], &["eth*"]), None, "a name is no pattern");
        assert_eq!(choose("203.0.113.7", &[], &["eth2"]), None, "that interface is down");
    }

    #[test]
    fn an_address_of_the_host_itself_is_not_announced() {
        assert_eq!(choose("192.0.2.1", &["eth0"]), None);
        assert_eq!(choose("192.0.2.60", &[]), Some(1), "ours is not the host's");
        assert_eq!(choose("192.0.2.50", &[]), Some(1), "nor is what kube-proxy keeps");
    }

    #[test]
    fn without_origins_what_this_process_took_is_ours_at_that_interface() {
        let unsaid = |valid| Origin::Unsaid { valid, is_alike: false };
        let ours = |one: Assigned| {
            let taken = |address: IpAddr| (address.to_string() == "192.0.2.7").then_some(1);
            let links = Links::new(vec![link(1, "eth0", true)], vec![one], LEASE, taken);
            links.ours().count() == 1
        };
        assert!(ours(from(1, "192.0.2.7/32", unsaid(Some(60)))));
        assert!(!ours(from(2, "192.0.2.7/32", unsaid(Some(60)))), "another interface");
        assert!(!ours(from(1, "192.0.2.7/24", unsaid(Some(60)))), "another prefix");
        assert!(!ours(from(1, "192.0.2.7/32", unsaid(None))), "somebody made it stay");
        assert!(!ours(from(1, "192.0.2.7/32", Origin::Others)), "the kernel says whose it is");
    }

    #[test]
    fn without_origins_what_an_earlier_process_left_is_known_by_its_end() {
        let links = |origin| {
            let all = vec![assigned(1, "192.0.2.1/24", false), from(1, "192.0.2.7/32", origin)];
            Links::new(vec![link(1, "eth0", true)], all, LEASE, |_| None)
        };
        let chosen = |valid, is_alike| {
            links(Origin::Unsaid { valid, is_alike }).choose("192.0.2.7".parse().unwrap(), &[], &[])
        };
        assert_eq!(chosen(Some(2), true), Some(1));
        assert_eq!(chosen(Some(3), true), None, "longer than ours");
        assert_eq!(chosen(Some(1), false), None, "a lease of DHCP that is over soon");
        assert_eq!(chosen(None, true), None);
    }

    #[test]
    fn a_pattern_is_a_name_or_its_beginning() {
        for bad in ["", "a/b", "a*b", "interfacename-too-long"] {
            assert_eq!(Pattern::new(bad), None, "{bad}");
        }
        assert!(Pattern::new("*").unwrap().matches("eth0"));
    }
}
