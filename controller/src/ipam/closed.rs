//! Networks that are the cluster's own: no pool gives an address of them. Decides on nothing else, and says nothing about
//! what Services have already.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use config::report::ObjectRef;
use ipnet::IpNet;

/// Networks, and whose they are.
#[derive(Clone, Debug, Default)]
pub(super) struct Closed {
    /// network → the objects that have it, at least one
    networks: BTreeMap<IpNet, BTreeSet<ObjectRef>>,
    /// object → its networks
    of: BTreeMap<ObjectRef, Box<[IpNet]>>,
    /// length of a prefix → how many networks have it
    lengths: BTreeMap<u8, usize>,
}

impl Closed {
    /// These are the networks of `object` now. Returns those that came or went.
    pub(super) fn set(&mut self, object: &ObjectRef, networks: Box<[IpNet]>) -> Vec<IpNet> {
        let former = match networks.is_empty() {
            true => self.of.remove(object),
            false => self.of.insert(object.clone(), networks.clone()),
        };
        let former = former.unwrap_or_default();
        let gone = former.iter().filter(|one| !networks.contains(one));
        let come = networks.iter().filter(|one| !former.contains(one));
        let mut differ = Vec::new();
        for network in gone {
            self.remove(object, network);
            differ.push(*network);
        }
        for network in come {
            let objects = self.networks.entry(*network).or_insert_with(|| {
                *self.lengths.entry(network.prefix_len()).or_default() += 1;
                BTreeSet::new()
            });
            objects.insert(object.clone());
            differ.push(*network);
        }
        differ
    }

    fn remove(&mut self, object: &ObjectRef, network: &IpNet) {
        let Some(objects) = self.networks.get_mut(network) else { return };
        objects.remove(object);
        if objects.is_empty() {
            self.networks.remove(network);
            let count = self.lengths.entry(network.prefix_len()).or_default();
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.lengths.remove(&network.prefix_len());
            }
        }
    }

    /// The widest network that has `address`, and whose it is.
    pub(super) fn by(&self, address: IpAddr) -> Option<(IpNet, &ObjectRef)> {
        self.lengths.keys().find_map(|length| {
            let network = IpNet::new(address, *length).ok()?.trunc();
            Some((network, self.networks.get(&network)?.first()?))
        })
    }

    /// All networks, each with one of the objects that have it.
    pub(super) fn iter(&self) -> impl Iterator<Item = (IpNet, &ObjectRef)> {
        self.networks.iter().filter_map(|(network, objects)| Some((*network, objects.first()?)))
    }
}

#[cfg(test)]
mod tests {
    use config::report::Kind;

    use super::*;

    #[test]
    fn an_address_is_of_the_widest_network_that_has_it_as_long_as_somebody_has_that() {
        let node = |name: &str| ObjectRef { kind: Kind::Node, namespace: "".into(), name: name.into() };
        let nets = |text: &str| -> Box<[IpNet]> {
            text.split(' ').filter(|one| !one.is_empty()).map(|one| one.parse().unwrap()).collect()
        };
        let mut closed = Closed::default();
        assert_eq!(closed.set(&node("a"), nets("10.0.0.0/24 192.0.2.1/32 fd00::/64")).len(), 3);
        assert_eq!(closed.set(&node("b"), nets("10.0.0.0/24 10.0.0.0/8")).len(), 2);
        let by = |closed: &Closed, ip: &str| {
            closed.by(ip.parse().unwrap()).map(|(network, object)| format!("{network} {}", object.name))
        };
        assert_eq!(by(&closed, "10.0.0.7").as_deref(), Some("10.0.0.0/8 b"));
        assert_eq!(by(&closed, "fd00::9").as_deref(), Some("fd00::/64 a"));
        assert_eq!(by(&closed, "192.0.2.2"), None);
        assert!(closed.set(&node("a"), nets("10.0.0.0/24 192.0.2.1/32 fd00::/64")).is_empty());
        assert_eq!(closed.set(&node("b"), nets("")).len(), 2);
        assert_eq!(by(&closed, "10.0.0.7").as_deref(), Some("10.0.0.0/24 a"));
        closed.set(&node("a"), nets(""));
        assert!(by(&closed, "10.0.0.7").is_none() && closed.iter().count() == 0 && closed.lengths.is_empty());
    }
}
