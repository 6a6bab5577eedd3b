//! Addresses of Services that cannot be read: nobody else gets them. Gives none to anybody.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use config::report::ObjectRef;
use config::resource::Holding;

use super::request::Request;

/// Who may have which address although nothing else is known of it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Holdings(BTreeMap<IpAddr, BTreeMap<ObjectRef, Option<Arc<str>>>>);

impl Holdings {
    pub(super) fn new(holdings: &BTreeMap<ObjectRef, Holding>) -> Self {
        let mut all: BTreeMap<IpAddr, BTreeMap<ObjectRef, Option<Arc<str>>>> = BTreeMap::new();
        for (service, holding) in holdings {
            for address in &holding.addresses {
                let key = holding.sharing_key.as_ref();
                let key = key.map(|key| format!("{}/{key}", service.namespace).into());
                all.entry(*address).or_default().insert(service.clone(), key);
            }
        }
        Self(all)
    }

    /// All of these addresses.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.0.keys().copied()
    }

    pub(super) fn has(&self, address: IpAddr) -> bool {
        self.0.contains_key(&address)
    }

    /// Another one than `service` that may have `address`.
    pub(super) fn holder(&self, service: &ObjectRef, address: IpAddr) -> Option<&ObjectRef> {
        self.0.get(&address)?.keys().find(|other| *other != service)
    }

    /// The same, if both are not known to share it: of what was recorded of `service`, that was looked at once.
    pub(super) fn rival(
        &self,
        service: &ObjectRef,
        request: &Request,
        address: IpAddr,
    ) -> Option<&ObjectRef> {
        let shares = |key: &Option<Arc<str>>| {
            key.is_some() && *key == request.sharing.as_ref().map(|sharing| Arc::clone(&sharing.key))
        };
        let mut others = self.0.get(&address)?.iter().filter(|(other, _)| *other != service);
        others.find(|(_, key)| !shares(key)).map(|(other, _)| other)
    }
}
