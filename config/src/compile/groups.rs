//! Binds, in groups that serve the same routes: each group has one map of hosts and one of certificates, which
//! its binds share.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use super::hosts::HostState;
use super::route::Route;
use super::tls::TlsState;
use crate::table::{Bind, BindConfig, HostMap, TlsMap};

/// Which binds serve the same routes.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Group {
    /// Those of Ingresses.
    Ingress,
    /// This one alone.
    Address(SocketAddr),
}

/// What the binds of a group share.
#[derive(Debug)]
pub(super) struct GroupState {
    pub(super) hosts: HostState,
    pub(super) tls: TlsState,
}

#[derive(Debug)]
struct BindState {
    config: Arc<BindConfig>,
    group: Group,
    published: Option<Arc<Bind>>,
}

/// All binds and their groups.
#[derive(Debug, Default)]
pub(super) struct Groups {
    binds: BTreeMap<SocketAddr, BindState>,
    pub(super) states: BTreeMap<Group, GroupState>,
}

/// What [`Groups::sync`] changed.
#[derive(Debug, Default)]
pub(super) struct Synced {
    /// Binds came or went.
    pub(super) changed: bool,
    /// The groups are new and empty: every route must join again.
    pub(super) regrouped: bool,
    /// Addresses whose bind is new, gone or another one.
    pub(super) touched: Vec<SocketAddr>,
}

impl Groups {
    /// Makes the binds exactly those of `configs`.
    pub(super) fn sync(
        &mut self,
        configs: BTreeMap<SocketAddr, BindConfig>,
        group_of: impl Fn(SocketAddr) -> Group,
    ) -> Synced {
        let mut synced = Synced::default();
        self.binds.retain(|address, _| {
            let stays = configs.contains_key(address);
            synced.touched.extend((!stays).then_some(*address));
            stays
        });
        for (address, config) in configs {
            let group = group_of(address);
            match self.binds.get_mut(&address) {
                Some(bind) => {
                    synced.regrouped |= bind.group != group;
                    bind.group = group;
                    if *bind.config != config {
                        synced.touched.push(address);
                        bind.config = Arc::new(config);
                        bind.published = None;
                    }
                }
                None => {
                    self.binds
                        .insert(address, BindState { config: Arc::new(config), group, published: None });
                    synced.touched.push(address);
                }
            }
        }
        synced.changed = !synced.touched.is_empty();
        if synced.regrouped {
            self.states.clear();
        }
        let wanted: BTreeSet<Group> = self.binds.values().map(|bind| bind.group).collect();
        self.states.retain(|group, _| wanted.contains(group));
        for group in wanted {
            self.states
                .entry(group)
                .or_insert_with(|| GroupState { hosts: HostState::default(), tls: TlsState::new() });
        }
        synced
    }

    /// The listener of the bind at `address`, for people.
    pub(super) fn listener(&self, address: SocketAddr) -> Option<String> {
        let bind = self.binds.get(&address)?;
        Some(format!("Listener {}", bind.config.listeners.first().map_or("http", |listener| &listener.name)))
    }

    /// The groups of the binds at these addresses.
    pub(super) fn of(&self, addresses: &[SocketAddr]) -> BTreeSet<Group> {
        addresses.iter().filter_map(|address| self.binds.get(address)).map(|bind| bind.group).collect()
    }

    /// The hosts of `route` must be built again, as far as certificates are concerned.
    pub(super) fn touch(&mut self, route: &Route) {
        for group in self.of(&route.binds) {
            let Some(state) = self.states.get_mut(&group) else { continue };
            route.claims.iter().for_each(|claim| state.tls.touch(&claim.host));
        }
    }

    /// Every bind as it is now, and whether any is new. An encrypted one is left out while it has no certificate.
    pub(super) fn publish(&mut self) -> (Vec<Arc<Bind>>, bool) {
        let mut shared: BTreeMap<Group, (Arc<HostMap>, Option<Arc<TlsMap>>)> = BTreeMap::new();
        for (group, state) in &mut self.states {
            shared.insert(*group, (state.hosts.publish(), state.tls.publish()));
        }
        let (mut binds, mut changed) = (Vec::with_capacity(self.binds.len()), false);
        for bind in self.binds.values_mut() {
            let Some((hosts, tls)) = shared.get(&bind.group) else { continue };
            let is_ready = |tls: &&Arc<TlsMap>| !tls.default_policy().certificates.is_empty();
            let tls = if bind.config.https {
                let Some(tls) = tls.as_ref().filter(is_ready) else {
                    changed |= bind.published.take().is_some();
                    continue;
                };
                Some(tls)
            } else {
                tls.as_ref().filter(|tls| tls.is_guarded())
            };
            let is_current = |old: &&Arc<Bind>| {
                Arc::ptr_eq(&old.hosts, hosts) && old.tls.as_ref().map(Arc::as_ptr) == tls.map(Arc::as_ptr)
            };
            if let Some(old) = bind.published.as_ref().filter(is_current) {
                binds.push(Arc::clone(old));
                continue;
            }
            let config = Arc::clone(&bind.config);
            let new = Arc::new(Bind { config, hosts: Arc::clone(hosts), tls: tls.cloned() });
            bind.published = Some(Arc::clone(&new));
            binds.push(new);
            changed = true;
        }
        (binds, changed)
    }
}
