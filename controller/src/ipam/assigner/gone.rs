//! Addresses of Services that are not there any more, for a process that decides alone. Keeps nothing from anybody.

use std::collections::BTreeSet;
use std::net::IpAddr;

use config::report::ObjectRef;

use super::Assigner;

/// Services that are gone whose addresses are remembered.
const MOST_GONE: usize = 256;

impl Assigner {
    /// A Service that goes may come back, and then has its address again if nobody else has got it meanwhile. It keeps it
    /// from nobody, and the last ones are enough.
    /// Only `touched` Services can have gone or come back.
    pub(super) fn forget_gone(&mut self, touched: &BTreeSet<ObjectRef>) {
        for service in touched {
            if self.services.contains_key(service) {
                self.gone.remove(service);
                continue;
            }
            if !self.remembered.contains_key(service) || self.gone.contains_key(service) {
                continue;
            }
            let service = service.clone();
            let last = self.gone.values().max().copied().unwrap_or_default();
            self.gone.insert(service, last + 1);
            if self.gone.len() > MOST_GONE
                && let Some((oldest, _)) = self.gone.iter().min_by_key(|(_, at)| **at)
            {
                let oldest = oldest.clone();
                self.gone.remove(&oldest);
                self.remembered.remove(&oldest);
            }
        }
    }

    /// `service` has `addresses` now, and nobody who is gone has them any more.
    pub(super) fn keep_in_mind(&mut self, service: &ObjectRef, addresses: &[IpAddr]) {
        let remembered = &mut self.remembered;
        self.gone.retain(|gone, _| {
            let had = remembered.get(gone).is_some_and(|had| had.iter().any(|one| addresses.contains(one)));
            if had {
                remembered.remove(gone);
            }
            !had
        });
        self.remembered.insert(service.clone(), addresses.into());
    }
}
