//! Objects → table and report. Never fails: what cannot be served becomes a problem, and costs only itself.
//!
//! [`Compiler`] remembers what each object amounted to, so that a change costs what it touches: an
//! EndpointSlice one backend, a route the hosts that it names. It never does I/O and holds no runtime state.

mod backend;
mod class;
mod hosts;
mod ingress;
mod native;
mod policy;
mod report;
mod route;
mod settings;
mod slots;
mod workshop;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use foldhash::quality::FixedState;

pub use self::settings::Settings;

use self::backend::BackendKey;
use self::class::{Classes, Verdict};
use self::hosts::BindState;
use self::native::Listeners;
use self::policy::Shared;
use self::report::Owner;
use self::route::{Outcome, Route};
use self::settings::ingress_bind;
use self::slots::Slots;
use self::workshop::{BackendSlot, Workshop};
use crate::index::{Change, Index, ServiceKey};
use crate::report::{Kind, ObjectRef, Problem, Report};
use crate::resource::ObjectSpec;
use crate::table::{
    Backend, BackendPolicy, Bind, Chunks, Hostname, RouteId, RouteInfo, RouteTable, RulePolicy,
};

/// The namespace of native backends, as dependencies of routes.
const NATIVE: &str = "";

/// Compiles an [`Index`], again and again, at the cost of what changed.
#[derive(Debug)]
pub struct Compiler {
    settings: Settings,
    ingress_binds: Arc<[SocketAddr]>,
    routes: Slots<ObjectRef, Route>,
    backends: Slots<BackendKey, BackendSlot>,
    /// Service → ids of its backends
    backends_of: HashMap<ServiceKey, Vec<u32>, FixedState>,
    /// Service → ids of the routes that name it
    routes_of: HashMap<ServiceKey, Vec<u32>, FixedState>,
    /// DNS name → ids of the backends with endpoints from it
    backends_by_name: HashMap<Arc<str>, BTreeSet<u32>, FixedState>,
    listeners: Listeners,
    native_namespace: Arc<str>,
    binds: BTreeMap<SocketAddr, BindState>,
    problems: BTreeMap<Owner, Vec<Problem>>,
    backend_policies: Shared<BackendPolicy>,
    rule_policies: Shared<RulePolicy>,
    texts: RefCell<HashSet<Arc<str>, FixedState>>,
    route_table: Chunks<RouteInfo>,
    backend_table: Chunks<Backend>,
    table: Arc<RouteTable>,
    report: Arc<Report>,
    /// Whether anything was ever compiled.
    started: bool,
}

/// What one compile has to look at.
#[derive(Debug, Default)]
struct Work {
    /// Each at most once.
    routes: Vec<ObjectRef>,
    backends: BTreeSet<u32>,
    problems: bool,
    /// Binds came or went.
    changed: bool,
}

impl Compiler {
    /// A compiler that has seen nothing.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let mut binds = BTreeMap::new();
        if let Some(address) = settings.http {
            binds.insert(address, BindState::new(Arc::new(ingress_bind(&settings, address))));
        }
        Self {
            ingress_binds: settings.http.into_iter().collect(),
            settings,
            routes: Slots::default(),
            backends: Slots::default(),
            backends_of: HashMap::default(),
            routes_of: HashMap::default(),
            backends_by_name: HashMap::default(),
            listeners: Listeners::default(),
            native_namespace: NATIVE.into(),
            binds,
            problems: BTreeMap::new(),
            backend_policies: Shared::default(),
            rule_policies: Shared::default(),
            texts: RefCell::default(),
            route_table: Chunks::default(),
            backend_table: Chunks::default(),
            table: Arc::default(),
            report: Arc::default(),
            started: false,
        }
    }

    /// The table and report of `index`, given what changed in it since the last call. The first call looks at
    /// everything. Where nothing changed, the same allocation is returned.
    pub fn compile(&mut self, index: &Index, change: &Change) -> (Arc<RouteTable>, Arc<Report>) {
        let mut work = self.plan(index, change);
        let mut changed = work.changed;
        let classes = Classes::new(index, &self.settings.ingress_class);
        for reference in std::mem::take(&mut work.routes) {
            changed |= self.compile_route(index, &classes, &reference, &mut work);
        }
        for id in std::mem::take(&mut work.backends) {
            changed |= self.compile_backend(index, id, &mut work);
        }
        changed |= self.rebuild_hosts(index, &mut work);
        let binds: Vec<(Arc<Bind>, bool)> = self.binds.values_mut().map(BindState::publish).collect();
        changed |= binds.iter().any(|(_, new)| *new) || binds.len() != self.table.binds.len();
        if changed {
            self.table = Arc::new(RouteTable {
                version: self.table.version + 1,
                binds: binds.into_iter().map(|(bind, _)| bind).collect(),
                routes: self.route_table.clone(),
                backends: self.backend_table.clone(),
            });
        }
        if work.problems {
            self.report = Arc::new(report::collect(index, self.problems.values()));
        }
        (Arc::clone(&self.table), Arc::clone(&self.report))
    }

    fn plan(&mut self, index: &Index, change: &Change) -> Work {
        let mut work = Work { problems: change.problems, ..Work::default() };
        if !std::mem::replace(&mut self.started, true) {
            work.problems = true;
            self.sync_binds(index, &mut work);
            work.routes.extend(index.objects().map(|object| object.reference.clone()).filter(is_route));
            return work;
        }
        if change.objects.iter().any(|reference| reference.kind == Kind::Listener) {
            self.sync_binds(index, &mut work);
            let objects = index.objects().map(|object| &object.reference);
            work.routes.extend(objects.filter(|r| r.kind == Kind::Route).cloned());
        }
        for reference in &change.objects {
            match reference.kind {
                Kind::IngressClass => {
                    let ingresses = index.objects().map(|object| &object.reference);
                    work.routes.extend(ingresses.filter(|r| r.kind == Kind::Ingress).cloned());
                }
                Kind::Service | Kind::Backend => {
                    let key = (Arc::clone(&reference.namespace), Arc::clone(&reference.name));
                    self.touch_service(&key, &mut work);
                    let users = self.routes_of.get(&key).into_iter().flatten();
                    let routes = users.filter_map(|id| self.routes.at(*id));
                    work.routes.extend(routes.map(|route| route.order.object.clone()));
                }
                _ if is_route(reference) => {
                    work.routes.push(reference.clone());
                }
                _ => {}
            }
        }
        for key in &change.endpoints {
            self.touch_service(key, &mut work);
        }
        work.routes.sort_unstable();
        work.routes.dedup();
        for name in &change.resolved {
            work.backends.extend(self.backends_by_name.get(name).into_iter().flatten());
        }
        work
    }

    fn touch_service(&self, key: &ServiceKey, work: &mut Work) {
        work.backends.extend(self.backends_of.get(key).into_iter().flatten());
    }

    /// Compiles one route object, or forgets it if it is gone. Returns whether the table changed.
    fn compile_route(
        &mut self,
        index: &Index,
        classes: &Classes,
        reference: &ObjectRef,
        work: &mut Work,
    ) -> bool {
        let known = self.routes.id(reference);
        let outcome = self.outcome(index, classes, reference, work);
        self.tell(Owner::Object(reference.clone()), outcome.problems, work);
        match outcome.route {
            Some(route) => {
                let id = self.routes.reserve(reference);
                self.attach(id, &route);
                if known.is_none() {
                    self.route_table.set(id, Some(Arc::new(route_info(reference))));
                }
                if let Some(old) = self.routes.put(id, route) {
                    self.detach(id, &old, work);
                }
                true
            }
            None => {
                let Some(id) = known else { return false };
                if let Some(old) = self.routes.remove(reference) {
                    self.detach(id, &old, work);
                }
                self.route_table.set(id, None);
                true
            }
        }
    }

    fn outcome(
        &mut self,
        index: &Index,
        classes: &Classes,
        reference: &ObjectRef,
        work: &mut Work,
    ) -> Outcome {
        let nothing = Outcome { route: None, problems: Vec::new() };
        let Some(object) = index.object(reference) else { return nothing };
        match &object.spec {
            ObjectSpec::Ingress(ingress) => match classes.judge(ingress) {
                Verdict::Ours => {}
                Verdict::Foreign => return nothing,
                Verdict::Nobody(finding) => {
                    let problem = finding.into_problem(&object.reference, object.location.as_ref());
                    return Outcome { route: None, problems: vec![problem] };
                }
            },
            ObjectSpec::Route(_) => {}
            _ => return nothing,
        }
        let id = RouteId(self.routes.reserve(reference));
        let mut shop = Workshop {
            index,
            settings: &self.settings,
            ingress_binds: Arc::clone(&self.ingress_binds),
            listeners: &self.listeners,
            native_namespace: Arc::clone(&self.native_namespace),
            backends: &mut self.backends,
            backends_of: &mut self.backends_of,
            rule_policies: &mut self.rule_policies,
            texts: &self.texts,
            dirty_backends: &mut work.backends,
        };
        match &object.spec {
            ObjectSpec::Ingress(ingress) => ingress::compile(&mut shop, object, ingress, id),
            ObjectSpec::Route(route) => native::compile(&mut shop, object, route, id),
            _ => nothing,
        }
    }

    /// Brings the binds in line with the listeners.
    fn sync_binds(&mut self, index: &Index, work: &mut Work) {
        let mut listeners = Listeners::new(index);
        for (owner, _) in std::mem::take(&mut self.listeners.problems) {
            self.tell(Owner::Object(owner), Vec::new(), work);
        }
        for (owner, problem) in &listeners.problems {
            self.tell(Owner::Object(owner.clone()), vec![problem.clone()], work);
        }
        if let Some(address) = self.settings.http {
            // The settings of a listener that the user wrote go before those of the command line.
            let ingress = ingress_bind(&self.settings, address);
            match listeners.configs.get_mut(&address) {
                Some(native) => native.listeners.extend(ingress.listeners),
                None => {
                    listeners.configs.insert(address, ingress);
                }
            }
        }
        let before = self.binds.len();
        self.binds.retain(|address, _| listeners.configs.contains_key(address));
        work.changed |= self.binds.len() != before;
        for (address, config) in std::mem::take(&mut listeners.configs) {
            match self.binds.get_mut(&address) {
                Some(bind) => bind.set_config(config),
                None => {
                    self.binds.insert(address, BindState::new(Arc::new(config)));
                }
            }
        }
        let gone: Vec<Owner> =
            self.problems.keys().filter(|owner| self.is_of_lost_bind(owner)).cloned().collect();
        for owner in gone {
            self.tell(owner, Vec::new(), work);
        }
        self.listeners = listeners;
    }

    fn is_of_lost_bind(&self, owner: &Owner) -> bool {
        matches!(owner, Owner::Host(address, _) if !self.binds.contains_key(address))
    }

    /// Makes `route` a member of its hosts and a user of its Services.
    fn attach(&mut self, id: u32, route: &Route) {
        for address in route.binds.iter() {
            let Some(bind) = self.binds.get_mut(address) else { continue };
            for host in distinct_hosts(route) {
                bind.join(host, id);
            }
        }
        for service in &route.services {
            let users = self.routes_of.entry(service.clone()).or_default();
            if !users.contains(&id) {
                users.push(id);
            }
        }
    }

    /// Takes back what `old` had and its successor, if any, has not.
    fn detach(&mut self, id: u32, old: &Route, work: &mut Work) {
        let new = self.routes.at(id);
        for address in old.binds.iter() {
            let Some(bind) = self.binds.get_mut(address) else { continue };
            for host in distinct_hosts(old) {
                let kept = new.is_some_and(|new| {
                    new.binds.contains(address) && !hosts::entries_of(new, host).is_empty()
                });
                if !kept {
                    bind.leave(host, id);
                }
            }
        }
        for service in &old.services {
            if new.is_some_and(|new| new.services.contains(service)) {
                continue;
            }
            if let Some(users) = self.routes_of.get_mut(service) {
                users.retain(|user| *user != id);
                if users.is_empty() {
                    self.routes_of.remove(service);
                }
            }
        }
        for backend in &old.backends {
            self.release(backend.0, work);
        }
    }

    fn release(&mut self, id: u32, work: &mut Work) {
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
    fn compile_backend(&mut self, index: &Index, id: u32, work: &mut Work) -> bool {
        let Some(slot) = self.backends.at(id) else { return false };
        let key = slot.key.clone();
        let (resolved, policy) = match &key {
            BackendKey::Service { service, port, via } => {
                let found = index.service(service).map(|(_, service)| service);
                let own = via.as_ref().and_then(|name| {
                    let (namespace, name) = (Arc::clone(&service.0), Arc::clone(name));
                    index.ingress(&ObjectRef { kind: Kind::Ingress, namespace, name })?.1.settings.as_deref()
                });
                let levels = [own, found.and_then(|service| service.settings.as_deref())];
                let policy = policy::backend(levels, &self.settings.backend);
                (backend::service_endpoints(index, service, *port), policy)
            }
            BackendKey::Native { name } => {
                let Some((_, native)) = index.native_backend(name) else { return false };
                let policy = native::backend_policy(&native.spec, &self.settings.backend);
                (native::endpoints(index, name), policy)
            }
        };
        self.set_names(id, resolved.names);
        self.tell(Owner::Backend(key.clone()), resolved.problem.into_iter().collect(), work);
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

    fn rebuild_hosts(&mut self, index: &Index, work: &mut Work) -> bool {
        let mut told = Vec::new();
        let mut changed = false;
        for bind in self.binds.values_mut() {
            let address = bind.address();
            for (host, losses) in bind.rebuild(|id| self.routes.at(id)) {
                changed = true;
                let problems =
                    losses.iter().filter_map(|loss| report::conflict(index, &host, loss)).collect();
                told.push((Owner::Host(address, host), problems));
            }
        }
        for (owner, problems) in told {
            self.tell(owner, problems, work);
        }
        changed
    }

    /// Replaces what `owner` said before.
    fn tell(&mut self, owner: Owner, problems: Vec<Problem>, work: &mut Work) {
        if problems.is_empty() {
            work.problems |= self.problems.remove(&owner).is_some();
        } else if self.problems.get(&owner) != Some(&problems) {
            self.problems.insert(owner, problems);
            work.problems = true;
        }
    }
}

fn is_route(reference: &ObjectRef) -> bool {
    matches!(reference.kind, Kind::Ingress | Kind::Route)
}

fn route_info(reference: &ObjectRef) -> RouteInfo {
    let name = match reference.kind {
        Kind::Ingress => format!("ingress/{}/{}", reference.namespace, reference.name),
        _ => format!("route/{}", reference.name),
    };
    RouteInfo { object: reference.clone(), name: name.into() }
}

fn distinct_hosts(route: &Route) -> impl Iterator<Item = &Hostname> {
    let mut last = None;
    route.entries.iter().map(|entry| &entry.host).filter(move |host| last.replace(*host) != Some(*host))
}
