//! Which addresses are there to be announced. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::ipam::VirtualAddress;

/// An address of a Service.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Wanted {
    /// Which.
    pub address: IpAddr,
    /// Only some nodes may announce it: those with an endpoint of it (`externalTrafficPolicy: Local`).
    pub is_restricted: bool,
    /// This node may.
    pub is_able: bool,
}

/// Those of `addresses` that may be announced: from pools that say so, and those within `networks` that Services asked for.
/// What is for some interfaces or nodes only is announced nowhere rather than everywhere.
#[must_use]
pub fn wanted(addresses: &[VirtualAddress], networks: &[IpNet]) -> Arc<[Wanted]> {
    let mut all = BTreeMap::<IpAddr, Wanted>::new();
    for one in addresses {
        let address = one.address;
        let is_everywhere = || {
            let mut announcements = one.announcements.iter();
            announcements.any(|from| from.interfaces.is_empty() && from.node_selectors.is_empty())
        };
        let may = match one.pool {
            Some(_) => is_everywhere(),
            None => networks.iter().any(|net| net.contains(&address)),
        };
        if !may || address.is_unspecified() || address.is_multicast() || address.is_loopback() {
            continue;
        }
        let is_able = !one.needs_local || one.has_local;
        let entry = all.entry(address).or_insert(Wanted { address, is_restricted: false, is_able: false });
        // Several Services share it: one with an endpoint here is enough.
        entry.is_able |= is_able;
        entry.is_restricted |= one.needs_local;
    }
    all.into_values().collect()
}

#[cfg(test)]
mod tests {
    use config::report::{Kind, ObjectRef};

    use super::*;
    use crate::ipam::Announcement;

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
        let mut some = virtual_address("10.0.0.2", true, false, false);
        some.announcements =
            vec![Announcement { interfaces: vec!["eth0".into()].into(), ..Default::default() }].into();
        let list = [
            virtual_address("10.0.0.1", true, true, false),
            some,
            virtual_address("192.0.2.1", false, true, true),
            virtual_address("198.51.100.1", false, false, false),
        ];
        let all = wanted(&list, &networks);
        let texts: Vec<(String, bool, bool)> =
            all.iter().map(|one| (one.address.to_string(), one.is_restricted, one.is_able)).collect();
        assert_eq!(texts, [("10.0.0.1".to_owned(), true, false), ("192.0.2.1".to_owned(), true, true)]);
    }
}
