//! Which addresses of Services the host has to make its own: those of `--service-types cluster-ip`, which nobody has.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::Context as _;
use config::table::{Chunks, L4Bind, RouteTable};
use gateway::announce::LocalRoutes;
use rustix::thread::CapabilitySet;

use super::capability;
use crate::cli::{RunArgs, ServiceType};

/// The routes, and what they are for.
#[derive(Debug)]
pub(super) struct ServiceRoutes {
    routes: LocalRoutes,
    binds: Chunks<L4Bind>,
    /// address → Binds on it
    wanted: BTreeMap<IpAddr, usize>,
    /// Something is to be done, or could not be done.
    is_due: bool,
}

impl ServiceRoutes {
    /// `None` if no address needs a route.
    ///
    /// # Errors
    /// If the process may not make routes, or the kernel does not tell them.
    pub(super) fn prepare(args: &RunArgs) -> anyhow::Result<Option<Self>> {
        if !args.ingress.services.service_types.contains(&ServiceType::ClusterIp) {
            return Ok(None);
        }
        capability::take(CapabilitySet::NET_ADMIN);
        if !capability::has(CapabilitySet::NET_ADMIN) {
            anyhow::bail!(
                "--service-types cluster-ip needs the capability NET_ADMIN (routes that make ClusterIPs local): run as \
                 root, or grant it; in a container, add it to securityContext.capabilities.add and use the host's \
                 network, or leave ClusterIPs to kube-proxy"
            );
        }
        let routes = LocalRoutes::new()
            .context("--service-types cluster-ip: the routes of this host cannot be read")?;
        Ok(Some(Self { routes, binds: Chunks::default(), wanted: BTreeMap::new(), is_due: true }))
    }

    /// Makes the addresses of `table` local. Its sockets must be open.
    pub(super) fn add(&mut self, table: &RouteTable) {
        let wanted = &mut self.wanted;
        let is_due = &mut self.is_due;
        table.l4.changes(&self.binds, |_, before, after| {
            let address = |bind: Option<&std::sync::Arc<L4Bind>>| {
                bind.filter(|bind| bind.local_route).map(|bind| bind.key.address.ip())
            };
            let (before, after) = (address(before), address(after));
            if before == after {
                return;
            }
            *is_due = true;
            if let Some(Entry::Occupied(mut count)) = before.map(|address| wanted.entry(address)) {
                *count.get_mut() -= 1;
                if *count.get() == 0 {
                    count.remove();
                }
            }
            if let Some(address) = after {
                *wanted.entry(address).or_default() += 1;
            }
        });
        self.binds = table.l4.clone();
        if self.is_due {
            let wanted: BTreeSet<IpAddr> = self.wanted.keys().copied().collect();
            let mut failed = 0;
            self.routes.add(&wanted, |address, error| {
                failed += 1;
                if failed == 1 {
                    tracing::error!(%address, %error, "cannot make the address of a Service local; it is not served");
                }
            });
            if failed > 1 {
                tracing::error!("{} more addresses of Services could not be made local", failed - 1);
            }
        }
    }

    /// Takes back the routes that the table no longer wants. Its sockets may still be open.
    pub(super) fn keep(&mut self) {
        if std::mem::take(&mut self.is_due) {
            self.routes.keep(&self.wanted.keys().copied().collect());
        }
    }
}
