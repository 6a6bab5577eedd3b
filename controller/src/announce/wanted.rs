//! Which addresses are there to be announced. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use config::report::ObjectRef;
use ipnet::IpNet;

use crate::ipam::{Announcement, VirtualAddress};

/// An address of a Service.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Wanted {
    /// Which.
    pub address: IpAddr,
    /// Only some nodes may announce it: those with an endpoint of it (`externalTrafficPolicy: Local`), or those that its
    /// advertisements select.
    pub is_restricted: bool,
    /// This node may.
    pub is_able: bool,
    /// Names of the interfaces that may be used; all if there are none.
    pub interfaces: Box<[Arc<str>]>,
    /// Whose it is; several may share it.
    pub services: Box<[ObjectRef]>,
}

/// Those of `addresses` that may be announced: from pools that say so, and those within `networks` that Services asked for.
/// What is for nodes with certain labels is not for this one if its `labels` are not known.
#[must_use]
pub fn wanted(
    addresses: &[VirtualAddress],
    networks: &[IpNet],
    labels: Option<&BTreeMap<String, String>>,
) -> Arc<[Wanted]> {
    let mut all = BTreeMap::<IpAddr, Merged>::new();
    for one in addresses {
        let address = one.address;
        let place = match one.pool {
            Some(_) => Place::of(&one.announcements, labels),
            None => networks.iter().any(|net| net.contains(&address)).then(Place::anywhere),
        };
        let Some(Place { is_for_some, interfaces }) = place else { continue };
        if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
            continue;
        }
        let is_able = interfaces.is_some() && (!one.needs_local || one.has_local);
        let entry = all.entry(address).or_default();
        // Several Services share it: one with an endpoint here is enough.
        entry.services.insert(one.service.clone());
        entry.is_able |= is_able;
        entry.is_restricted |= one.needs_local || is_for_some;
        let last = entry.interfaces.take();
        entry.interfaces = last.into_iter().chain(interfaces).reduce(united);
    }
    let wanted = |(address, Merged { is_restricted, is_able, interfaces, services })| Wanted {
        address,
        is_restricted,
        is_able,
        interfaces: interfaces.unwrap_or_default().into_iter().collect(),
        services: services.into_iter().collect(),
    };
    all.into_iter().map(wanted).collect()
}

/// Whether it matters for one of `addresses` which labels this node has.
#[must_use]
pub fn needs_labels(addresses: &[VirtualAddress]) -> bool {
    addresses.iter().flat_map(|one| &one.announcements).any(|one| !one.node_selectors.is_empty())
}

/// What all Services with an address say of it.
#[derive(Default)]
struct Merged {
    is_restricted: bool,
    is_able: bool,
    interfaces: Option<BTreeSet<Arc<str>>>,
    services: BTreeSet<ObjectRef>,
}

/// Where an address may be announced.
struct Place {
    /// Not at every node.
    is_for_some: bool,
    /// Interfaces of this node, all if it is empty; `None` if this node is not meant.
    interfaces: Option<BTreeSet<Arc<str>>>,
}

impl Place {
    fn anywhere() -> Self {
        Self { is_for_some: false, interfaces: Some(BTreeSet::new()) }
    }

    /// The union of all announcements; `None` if there are none.
    fn of(announcements: &[Announcement], labels: Option<&BTreeMap<String, String>>) -> Option<Self> {
        let is_here = |one: &&Announcement| {
            let mut selectors = one.node_selectors.iter();
            selectors.len() == 0 || labels.is_some_and(|labels| selectors.any(|one| one.selects(labels)))
        };
        let here = announcements.iter().filter(is_here);
        let interfaces = here.map(|one| one.interfaces.iter().cloned().collect()).reduce(united);
        let is_for_some = announcements.iter().all(|one| !one.node_selectors.is_empty());
        (!announcements.is_empty()).then_some(Self { is_for_some, interfaces })
    }
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
        let all = wanted(&list, &networks, None);
        let texts: Vec<(String, bool, bool)> =
            all.iter().map(|one| (one.address.to_string(), one.is_restricted, one.is_able)).collect();
        assert_eq!(texts, [("10.0.0.1".to_owned(), true, false), ("192.0.2.1".to_owned(), true, true)]);
    }

    /// An advertisement for these interfaces, at nodes with one of these values of the label `rack`; at all if there are none.
    fn announcement(interfaces: &[&str], racks: &[&str]) -> Announcement {
        let selector = |rack: &&str| -> LabelSelector {
            serde_json::from_value(serde_json::json!({"matchLabels": {"rack": rack}})).unwrap()
        };
        Announcement {
            interfaces: interfaces.iter().map(|name| Arc::from(*name)).collect(),
            node_selectors: racks.iter().map(selector).collect(),
        }
    }

    fn labels(rack: &str) -> BTreeMap<String, String> {
        [("rack".to_owned(), rack.to_owned())].into()
    }

    /// What an address with these announcements is for a node in `rack`: for some nodes only, for this one, its interfaces.
    fn place(announcements: &[Announcement], rack: Option<&str>) -> Option<(bool, bool, Vec<String>)> {
        let mut one = virtual_address("10.0.0.1", true, false, false);
        one.announcements = announcements.into();
        let all = wanted(&[one], &[], rack.map(labels).as_ref());
        let names = |one: &Wanted| one.interfaces.iter().map(ToString::to_string).collect();
        all.first().map(|one| (one.is_restricted, one.is_able, names(one)))
    }

    #[test]
    fn an_address_is_for_the_interfaces_of_all_its_advertisements() {
        let of = |all: &[&[&str]]| {
            let all: Vec<Announcement> = all.iter().map(|names| announcement(names, &[])).collect();
            place(&all, None).unwrap()
        };
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(of(&[&["eth1"], &["eth0", "eth1"]]), (false, true, names(&["eth0", "eth1"])));
        assert_eq!(of(&[&["eth1"], &[]]), (false, true, names(&[])), "one names none: all");
        assert_eq!(place(&[], None), None, "nobody announces it");
    }

    #[test]
    fn an_address_is_for_the_nodes_that_an_advertisement_selects() {
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let both = [announcement(&["eth0"], &["a", "b"]), announcement(&["eth1"], &["b"])];
        assert_eq!(place(&both, Some("a")).unwrap(), (true, true, names(&["eth0"])));
        assert_eq!(place(&both, Some("b")).unwrap(), (true, true, names(&["eth0", "eth1"])));
        assert_eq!(place(&both, Some("c")).unwrap(), (true, false, names(&[])));
        assert_eq!(place(&both, None).unwrap(), (true, false, names(&[])), "its labels are not known");
        let all = [announcement(&["eth1"], &[]), announcement(&[], &["a"])];
        assert_eq!(place(&all, Some("a")).unwrap(), (false, true, names(&[])), "this one at any interface");
        assert_eq!(place(&all, Some("b")).unwrap(), (false, true, names(&["eth1"])));
    }

    #[test]
    fn of_services_that_share_an_address_one_for_this_node_is_enough() {
        let services = [("a", true), ("b", false)].map(|(rack, has_local)| VirtualAddress {
            announcements: [announcement(&["eth0"], &[rack])].into(),
            ..virtual_address("10.0.0.1", true, true, has_local)
        });
        assert!(needs_labels(&services));
        let is_able = |rack: &str| wanted(&services, &[], Some(&labels(rack))).first().unwrap().is_able;
        assert!(is_able("a") && !is_able("b"), "that of the other has no endpoint here");
    }
}
