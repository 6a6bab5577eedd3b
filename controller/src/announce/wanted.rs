//! Which addresses are there to be announced. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::ipam::{Announcement, VirtualAddress};

/// An address of a Service.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Wanted {
    /// Which.
    pub address: IpAddr,
    /// Only some nodes may announce it: those with an endpoint of it (`externalTrafficPolicy: Local`).
    pub is_restricted: bool,
    /// This node may.
    pub is_able: bool,
    /// Names of the interfaces that may be used; all if there are none.
    pub interfaces: Box<[Arc<str>]>,
}

/// Those of `addresses` that may be announced: from pools that say so, and those within `networks` that Services asked for.
/// What is for some nodes only is announced nowhere rather than everywhere.
#[must_use]
pub fn wanted(addresses: &[VirtualAddress], networks: &[IpNet]) -> Arc<[Wanted]> {
    let mut all = BTreeMap::<IpAddr, Merged>::new();
    for one in addresses {
        let address = one.address;
        let interfaces = match one.pool {
            Some(_) => interfaces(&one.announcements),
            None => networks.iter().any(|net| net.contains(&address)).then(BTreeSet::new),
        };
        let Some(interfaces) = interfaces else { continue };
        if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
            continue;
        }
        let is_able = !one.needs_local || one.has_local;
        let new = || Merged { interfaces: interfaces.clone(), ..Merged::default() };
        let entry = all.entry(address).or_insert_with(new);
        // Several Services share it: one with an endpoint here is enough.
        entry.is_able |= is_able;
        entry.is_restricted |= one.needs_local;
        entry.interfaces = united(std::mem::take(&mut entry.interfaces), interfaces);
    }
    let wanted = |(address, Merged { is_restricted, is_able, interfaces })| Wanted {
        address,
        is_restricted,
        is_able,
        interfaces: interfaces.into_iter().collect(),
    };
    all.into_iter().map(wanted).collect()
}

/// What all Services with an address say of it.
#[derive(Default)]
struct Merged {
    is_restricted: bool,
    is_able: bool,
    interfaces: BTreeSet<Arc<str>>,
}

/// The interfaces of all announcements that are for every node, all if it is empty; `None` if there is no such announcement.
fn interfaces(announcements: &[Announcement]) -> Option<BTreeSet<Arc<str>>> {
    let everywhere = announcements.iter().filter(|one| one.node_selectors.is_empty());
    everywhere.map(|one| one.interfaces.iter().cloned().collect()).reduce(united)
}

/// Both, where none is all.
fn united(one: BTreeSet<Arc<str>>, other: BTreeSet<Arc<str>>) -> BTreeSet<Arc<str>> {
    if one.is_empty() || other.is_empty() { BTreeSet::new() } else { one.into_iter().chain(other).collect() }
}

#[cfg(test)]
mod tests {
    use config::report::{Kind, ObjectRef};
    use config::resource::LabelSelector;

    use super::*;

    fn virtual_address(text: &str, is_pooled: bool, needs_local: bool, has_local: bool) -> VirtualAddress {
        let object = |kind| ObjectRef { kind, namespace: "a".into(), name: "b".into() };
        VirtualAddress {
            address: text.parse().unwrap(),
            service: object(Kind::Service),
            pool: is_pooled.then(|| object(Kind::Service)),
            announcements: if is_pooled { vec![Announcement::default()].into() } else { Box::default() },
            needs_local,
            has_local,
        }
    }

    #[test]
    fn what_pools_announce_and_what_may_be_asked_for_is_wanted() {
        let networks = ["192.0.2.0/24".parse().unwrap()];
        let mut nowhere = virtual_address("10.0.0.2", true, false, false);
        nowhere.announcements = Box::default();
        let list = [
            virtual_address("10.0.0.1", true, true, false),
            nowhere,
            virtual_address("192.0.2.1", false, true, true),
            virtual_address("198.51.100.1", false, false, false),
        ];
        let all = wanted(&list, &networks);
        let texts: Vec<(String, bool, bool)> =
            all.iter().map(|one| (one.address.to_string(), one.is_restricted, one.is_able)).collect();
        assert_eq!(texts, [("10.0.0.1".to_owned(), true, false), ("192.0.2.1".to_owned(), true, true)]);
    }

    /// The interfaces of an address with these announcements: their interfaces, and whether they are for some nodes only.
    fn interfaces_of(announcements: &[(&[&str], bool)]) -> Option<Vec<String>> {
        let announcement = |(names, is_for_some): &(&[&str], bool)| Announcement {
            interfaces: names.iter().map(|name| Arc::from(*name)).collect(),
            node_selectors: if *is_for_some { [LabelSelector::default()].into() } else { Box::default() },
        };
        let mut one = virtual_address("10.0.0.1", true, false, false);
        one.announcements = announcements.iter().map(announcement).collect();
        let all = wanted(&[one], &[]);
        all.first().map(|one| one.interfaces.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn an_address_is_for_the_interfaces_of_all_its_advertisements() {
        let none: [String; 0] = [];
        assert_eq!(
            interfaces_of(&[(&["eth1"], false), (&["eth0", "eth1"], false)]).unwrap(),
            ["eth0", "eth1"]
        );
        assert_eq!(interfaces_of(&[(&["eth1"], false), (&[], false)]).unwrap(), none, "one names none: all");
        assert_eq!(interfaces_of(&[(&["eth1"], false), (&[], true)]).unwrap(), ["eth1"]);
        assert_eq!(interfaces_of(&[(&["eth1"], true)]), None, "which nodes these are is not known");
    }
}
