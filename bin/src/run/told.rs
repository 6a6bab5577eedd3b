//! Which Services it was told of that they have addresses, so that a control thread that is started anew, and knows nothing of
//! those that are gone, leaves none behind. Announces nothing.

use std::collections::BTreeSet;

use config::report::ObjectRef;
use controller::ipam::VirtualAddress;

/// Where Services are, of each the latest.
pub(super) type Whereabouts = (ObjectRef, Box<[VirtualAddress]>);

/// Services with addresses.
#[derive(Debug, Default)]
pub(super) struct Told {
    services: BTreeSet<ObjectRef>,
    /// Those of a former thread, of which its successor has said nothing yet.
    former: BTreeSet<ObjectRef>,
}

impl Told {
    /// It was told of these.
    pub(super) fn note(&mut self, services: &[Whereabouts]) {
        for (service, addresses) in services {
            self.former.remove(service);
            if addresses.is_empty() {
                self.services.remove(service);
            } else if !self.services.contains(service) {
                self.services.insert(service.clone());
            }
        }
    }

    /// Another thread begins.
    pub(super) fn begin_again(&mut self) {
        self.former = self.services.clone();
    }

    /// All that there is was told; returns what is to be told of those that are gone.
    pub(super) fn is_complete(&mut self) -> Vec<Whereabouts> {
        let gone = std::mem::take(&mut self.former);
        self.services.retain(|service| !gone.contains(service));
        gone.into_iter().map(|service| (service, Box::default())).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use config::report::Kind;

    use super::*;

    fn service(name: &str, has_address: bool) -> Whereabouts {
        let object = ObjectRef { kind: Kind::Service, namespace: Arc::from("a"), name: Arc::from(name) };
        let address = VirtualAddress {
            address: "192.0.2.1".parse().unwrap(),
            pool: None,
            announcements: Box::default(),
            needs_local: false,
            has_local: false,
        };
        (object, has_address.then_some(address).into_iter().collect())
    }

    #[test]
    fn what_a_former_thread_announced_ends_if_its_successor_does_not_know_it() {
        let mut told = Told::default();
        told.note(&[service("stays", true), service("gone", true), service("former", true)]);
        told.note(&[service("former", false)]);
        assert!(told.is_complete().is_empty(), "nobody began anew");
        told.begin_again();
        told.note(&[service("stays", true), service("new", true)]);
        let gone = told.is_complete();
        assert_eq!(gone.iter().map(|(object, _)| &*object.name).collect::<Vec<_>>(), ["gone"]);
        assert!(gone[0].1.is_empty());
        assert!(told.is_complete().is_empty(), "once");
    }
}
