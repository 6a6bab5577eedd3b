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

/// The addresses of Services, and which of them are to be announced from here: from pools that say so, and those that
/// Services asked for within certain networks. A Service costs what it has, whatever others have.
#[derive(Debug, Default)]
pub struct Board {
    /// Where Services may ask for any address.
    networks: Box<[IpNet]>,
    /// Those of this node. What is for nodes with certain labels is not for this one while they are not known.
    labels: Option<BTreeMap<String, String>>,
    /// Service → its addresses, at least one
    services: BTreeMap<ObjectRef, Box<[VirtualAddress]>>,
    /// address → Services that have it, at least one
    holders: BTreeMap<IpAddr, BTreeSet<ObjectRef>>,
    wanted: BTreeMap<IpAddr, Arc<Wanted>>,
    /// Services for which the labels of this node matter.
    selective: BTreeSet<ObjectRef>,
}

impl Board {
    /// Nothing is known yet but that Services may ask for any address within `networks`.
    #[must_use]
    pub fn new(networks: Box<[IpNet]>) -> Self {
        Self { networks, ..Self::default() }
    }

    /// `service` has `addresses` now. True if that changes what is to be announced.
    pub fn set(&mut self, service: &ObjectRef, addresses: &[VirtualAddress]) -> bool {
        let former = self.services.get(service).map(|addresses| &**addresses).unwrap_or_default();
        if former == addresses {
            return false;
        }
        let touched: BTreeSet<IpAddr> = former.iter().chain(addresses).map(|one| one.address).collect();
        let has_selectors = |one: &Announcement| !one.node_selectors.is_empty();
        if addresses.iter().flat_map(|one| &one.announcements).any(has_selectors) {
            self.selective.insert(service.clone());
        } else {
            self.selective.remove(service);
        }
        for address in former {
            if let Some(holders) = self.holders.get_mut(&address.address) {
                holders.remove(service);
                if holders.is_empty() {
                    self.holders.remove(&address.address);
                }
            }
        }
        for address in addresses {
            self.holders.entry(address.address).or_default().insert(service.clone());
        }
        if addresses.is_empty() {
            self.services.remove(service);
        } else {
            self.services.insert(service.clone(), addresses.into());
        }
        self.look_at(touched)
    }

    /// This node has these labels, as far as is known. True if that changes what is to be announced.
    pub fn set_labels(&mut self, labels: Option<BTreeMap<String, String>>) -> bool {
        self.labels = labels;
        let services = self.selective.iter().filter_map(|service| self.services.get(service));
        let touched: BTreeSet<IpAddr> =
            services.flat_map(|addresses| addresses.iter().map(|one| one.address)).collect();
        self.look_at(touched)
    }

    /// Whether it matters for anything which labels this node has.
    #[must_use]
    pub fn needs_labels(&self) -> bool {
        !self.selective.is_empty()
    }

    /// What is to be announced, in the order of addresses.
    #[must_use]
    pub fn wanted(&self) -> Arc<[Arc<Wanted>]> {
        self.wanted.values().cloned().collect()
    }

    /// Looks again at these addresses. True if something else is to be done with one of them.
    fn look_at(&mut self, addresses: BTreeSet<IpAddr>) -> bool {
        let mut is_changed = false;
        for address in addresses {
            is_changed |= self.look(address);
        }
        is_changed
    }

    /// Looks again at one address. True if something else is to be done with it.
    fn look(&mut self, address: IpAddr) -> bool {
        match self.decide(address) {
            Some(wanted) if self.wanted.get(&address).is_some_and(|last| **last == wanted) => false,
            Some(wanted) => {
                self.wanted.insert(address, Arc::new(wanted));
                true
            }
            None => self.wanted.remove(&address).is_some(),
        }
    }

    fn decide(&self, address: IpAddr) -> Option<Wanted> {
        if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
            return None;
        }
        let mut merged = Merged::default();
        for service in self.holders.get(&address)? {
            let all = self.services.get(service).into_iter().flatten();
            for one in all.filter(|one| one.address == address) {
                let place = match one.pool {
                    Some(_) => Place::of(&one.announcements, self.labels.as_ref()),
                    None => self.networks.iter().any(|net| net.contains(&address)).then(Place::anywhere),
                };
                let Some(Place { is_for_some, interfaces }) = place else { continue };
                // Several Services share it: one with an endpoint here is enough.
                merged.is_able |= interfaces.is_some() && (!one.needs_local || one.has_local);
                merged.services.insert(service.clone());
                merged.is_restricted |= one.needs_local || is_for_some;
                let last = merged.interfaces.take();
                merged.interfaces = last.into_iter().chain(interfaces).reduce(united);
            }
        }
        let Merged { is_restricted, is_able, interfaces, services } = merged;
        (!services.is_empty()).then(|| Wanted {
            address,
            is_restricted,
            is_able,
            interfaces: interfaces.unwrap_or_default().into_iter().collect(),
            services: services.into_iter().collect(),
        })
    }
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
            pool: is_pooled.then(|| object(Kind::Service)),
            announcements: if is_pooled { vec![Announcement::default()].into() } else { Box::default() },
            needs_local,
            has_local,
        }
    }

    /// Service `number`.
    fn service(number: usize) -> ObjectRef {
        ObjectRef { kind: Kind::Service, namespace: "a".into(), name: format!("{number:05}").into() }
    }

    /// Each of `addresses` is that of a Service of its own.
    fn on_board(
        addresses: &[VirtualAddress],
        networks: &[IpNet],
        labels: Option<BTreeMap<String, String>>,
    ) -> Board {
        let mut board = Board::new(networks.into());
        board.set_labels(labels);
        for (number, one) in addresses.iter().enumerate() {
            board.set(&service(number), std::slice::from_ref(one));
        }
        board
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
        let all = on_board(&list, &networks, None).wanted();
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
        let all = on_board(&[one], &[], rack.map(labels)).wanted();
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
        let mut board = on_board(&services, &[], None);
        assert!(board.needs_labels());
        let mut is_able = |rack: &str| {
            board.set_labels(Some(labels(rack)));
            board.wanted().first().unwrap().is_able
        };
        assert!(is_able("a") && !is_able("b"), "that of the other has no endpoint here");
        assert!(board.set(&service(1), &[]), "the other is gone");
        assert_eq!(*board.wanted()[0].services, [service(0)]);
        assert!(board.set(&service(0), &[]));
        assert!(board.wanted().is_empty() && !board.needs_labels());
    }

    #[test]
    fn what_one_service_says_leaves_what_others_say_as_it_is() {
        let address = |number: usize, has_local| {
            virtual_address(&format!("10.0.{}.{}", number / 256, number % 256), true, true, has_local)
        };
        let all: Vec<VirtualAddress> = (0..300).map(|number| address(number, true)).collect();
        let mut board = on_board(&all, &[], None);
        let before = board.wanted();
        assert!(!board.set(&service(7), &[address(7, true)]), "nothing is different");
        assert!(board.set(&service(7), &[address(7, false)]), "its last endpoint here went");
        let after = board.wanted();
        let others: Vec<usize> = (0..300).filter(|at| !Arc::ptr_eq(&before[*at], &after[*at])).collect();
        assert_eq!(others, [7]);
        assert!(!after[7].is_able && after[8].is_able);
    }
}
