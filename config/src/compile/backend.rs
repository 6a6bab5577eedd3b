//! Backends: which endpoints a Service port has now, under which policy.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::endpoints::{self, RelayedPort, Scope, Vantage};
use super::policy::{self, Speech, speech};
use super::report::Owner;
use super::{Compiler, Work, native};
use crate::index::{Index, ServiceKey};
use crate::report::{Kind, ObjectRef, Problem};
use crate::table::explain::LeftOut;
use crate::table::{Backend, BackendPolicy, Endpoint, HealthPolicy, Transport};

/// Identifies a backend for as long as anything refers to it.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) enum BackendKey {
    /// A port of a Service.
    Service {
        service: ServiceKey,
        port: u16,
        /// The Ingress (of the same namespace) whose annotations override the Service's.
        via: Option<Arc<str>>,
    },
    /// A port of a Service whose bytes are relayed.
    Relayed { service: ServiceKey, port: RelayedPort },
    /// A backend of the native format.
    Native { name: Arc<str> },
}

impl BackendKey {
    /// What it must be compiled again with.
    pub(super) fn service(&self) -> ServiceKey {
        match self {
            Self::Service { service, .. } | Self::Relayed { service, .. } => service.clone(),
            Self::Native { name } => native::key(name),
        }
    }

    /// Stable display name.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Service { service: (namespace, name), port, via: None } => {
                format!("{namespace}/{name}:{port}")
            }
            Self::Service { service: (namespace, name), port, via: Some(ingress) } => {
                format!("{namespace}/{name}:{port}@{ingress}")
            }
            Self::Relayed { service: (namespace, name), port: RelayedPort { port, transport, scope } } => {
                let local = if *scope == Scope::Node { "@node" } else { "" };
                format!("{namespace}/{name}:{port}/{transport}{local}")
            }
            Self::Native { name } => name.to_string(),
        }
    }
}

/// Endpoints with what there is to say about them.
#[derive(Debug, Default)]
pub(super) struct Resolved {
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) problems: Vec<Problem>,
    /// DNS names that it depends on.
    pub(super) names: Vec<Arc<str>>,
}

impl Compiler {
    /// One user less of a backend, which goes with the last.
    pub(super) fn release(&mut self, id: u32, work: &mut Work) {
        let Some(slot) = self.backends.at_mut(id) else { return };
        slot.users = slot.users.saturating_sub(1);
        if slot.users > 0 {
            return;
        }
        let key = slot.key.clone();
        self.set_names(id, Vec::new());
        self.backends.remove(&key);
        work.backends.remove(&id);
        let service = key.service();
        if let Some(ids) = self.backends_of.get_mut(&service) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.backends_of.remove(&service);
            }
        }
        self.backend_table.set(id, None);
        self.tell(Owner::Backend(key), Vec::new(), work);
    }

    /// Brings one backend up to date. Returns whether it changed.
    pub(super) fn compile_backend(&mut self, index: &Index, id: u32, work: &mut Work) -> bool {
        let Some(slot) = self.backends.at(id) else { return false };
        let key = slot.key.clone();
        let Some((resolved, policy)) = self.resolve(index, &key) else { return false };
        self.set_names(id, resolved.names);
        self.tell(Owner::Backend(key.clone()), resolved.problems, work);
        let old = self.backend_table.at(id);
        let same_policy = old.filter(|old| *old.policy == policy).map(|old| Arc::clone(&old.policy));
        let same_endpoints =
            old.filter(|old| *old.endpoints == *resolved.endpoints).map(|old| Arc::clone(&old.endpoints));
        if same_policy.is_some() && same_endpoints.is_some() {
            return false;
        }
        let name = old.map_or_else(|| key.name().into(), |old| Arc::clone(&old.name));
        let policy = same_policy.unwrap_or_else(|| self.backend_policies.intern(policy));
        let endpoints = same_endpoints.unwrap_or_else(|| resolved.endpoints.into());
        self.backend_table.set(id, Some(Arc::new(Backend { name, endpoints, policy })));
        true
    }

    /// The endpoints of a backend, and how they are treated; `None` if it is not known any more.
    fn resolve(&mut self, index: &Index, key: &BackendKey) -> Option<(Resolved, BackendPolicy)> {
        let (service, port, via) = match key {
            BackendKey::Service { service, port, via } => (service, *port, via),
            BackendKey::Relayed { service, port } => {
                return Some(self.resolve_relayed(index, service, *port));
            }
            BackendKey::Native { name } => {
                let (_, native) = index.native_backend(name)?;
                let mut resolved = native::endpoints(index, name);
                let speech = native::speech(index, &mut self.vault, native, &mut BTreeSet::new())
                    .unwrap_or_else(|_| {
                        resolved.endpoints.clear();
                        Speech::default()
                    });
                let policy = native::backend_policy(&native.spec, &self.settings.backend, speech);
                return Some((resolved, policy));
            }
        };
        let found = index.service(service);
        let own = via.as_ref().and_then(|name| {
            let (namespace, name) = (Arc::clone(&service.0), Arc::clone(name));
            index.ingress(&ObjectRef { kind: Kind::Ingress, namespace, name })?.1.settings.as_deref()
        });
        let levels = [own, found.and_then(|(_, service)| service.settings.as_deref())];
        let vantage = Vantage::new(&self.settings.endpoints, index);
        let mut resolved = endpoints::service(index, vantage, service, port, policy::upstream(levels));
        let vault = &mut self.vault;
        let speech = found
            .map(|(_, found)| speech(index, vault, levels, (service, found, port), &mut BTreeSet::new()));
        let speech = match speech {
            Some(Ok(speech)) => speech,
            // No rule leads here then; still, nothing must be sent in another way than was asked for.
            Some(Err(_)) | None => {
                resolved.endpoints.clear();
                Speech::default()
            }
        };
        if let Some((object, found)) = found
            && let Some(text) = policy::unknown_protocol(levels, found, port)
        {
            resolved.problems.push(endpoints::unknown_protocol(object, port, text));
        }
        Some((resolved, policy::backend(levels, &self.settings.backend, speech)))
    }

    /// How bytes for a port of a Service are treated: as the Service's own settings have it, as far as they do not concern
    /// HTTP.
    fn resolve_relayed(
        &self,
        index: &Index,
        service: &ServiceKey,
        port: RelayedPort,
    ) -> (Resolved, BackendPolicy) {
        let settings = index.service(service).and_then(|(_, service)| service.settings.as_deref());
        let vantage = Vantage::new(&self.settings.endpoints, index);
        let resolved = endpoints::relayed(index, vantage, service, port);
        let mut policy = policy::backend([None, settings], &self.settings.backend, Speech::default());
        if port.transport == Transport::Udp && policy.health.active.is_some() {
            // Probes are of TCP: they would say nothing about who answers datagrams.
            policy.health = Arc::new(HealthPolicy { active: None, ..HealthPolicy::clone(&policy.health) });
        }
        (resolved, policy)
    }

    /// The endpoints that the backend of that name has and does not use, and why. For people.
    #[must_use]
    pub fn left_out(&self, index: &Index, backend: &str) -> Vec<LeftOut> {
        let key = self.backends.keys().find(|key| key.name() == backend);
        let (service, port) = match key {
            Some(BackendKey::Service { service, port, .. }) => {
                let port = RelayedPort { port: *port, transport: Transport::Tcp, scope: Scope::Cluster };
                (service, port)
            }
            Some(BackendKey::Relayed { service, port }) => (service, *port),
            Some(BackendKey::Native { .. }) | None => return Vec::new(),
        };
        endpoints::left_out(index, Vantage::new(&self.settings.endpoints, index), service, port)
    }

    /// Files the backend under the DNS names that it depends on now.
    fn set_names(&mut self, id: u32, names: Vec<Arc<str>>) {
        let Some(slot) = self.backends.at_mut(id) else { return };
        if slot.names == names {
            return;
        }
        for name in std::mem::replace(&mut slot.names, names.clone()) {
            if let Some(ids) = self.backends_by_name.get_mut(&name) {
                ids.remove(&id);
                if ids.is_empty() {
                    self.backends_by_name.remove(&name);
                }
            }
        }
        for name in names {
            self.backends_by_name.entry(name).or_default().insert(id);
        }
    }
}
