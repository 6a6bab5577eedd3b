//! Who contributes to which host, and which hosts must be built again for it.

use std::collections::{HashMap, HashSet};

use foldhash::quality::FixedState;

use crate::table::Hostname;

/// The routes of each host.
#[derive(Debug, Default)]
pub(super) struct Members {
    /// host → ids of its routes
    routes: HashMap<Hostname, Vec<u32>, FixedState>,
    /// Hosts that were touched since they were built.
    pub(super) dirty: HashSet<Hostname, FixedState>,
}

impl Members {
    /// True if some route belongs to exactly `host`.
    pub(super) fn has(&self, host: &Hostname) -> bool {
        self.routes.contains_key(host)
    }

    /// Every host that has a route.
    pub(super) fn hosts(&self) -> impl Iterator<Item = &Hostname> {
        self.routes.keys()
    }

    /// The routes of exactly `host`.
    pub(super) fn of(&self, host: &Hostname) -> &[u32] {
        self.routes.get(host).map(Vec::as_slice).unwrap_or_default()
    }

    pub(super) fn join(&mut self, host: &Hostname, id: u32) {
        let routes = self.routes.entry(host.clone()).or_default();
        if !routes.contains(&id) {
            routes.push(id);
        }
        self.dirty.insert(host.clone());
    }

    pub(super) fn leave(&mut self, host: &Hostname, id: u32) {
        if let Some(routes) = self.routes.get_mut(host) {
            routes.retain(|route| *route != id);
            if routes.is_empty() {
                self.routes.remove(host);
            }
        }
        self.dirty.insert(host.clone());
    }
}
