//! Objects → table and report. Never fails: what cannot be served becomes a problem, and costs only itself.
//!
//! [`Compiler`] remembers what each object amounted to, so that a change costs what it touches: an
//! EndpointSlice one backend, a route the hosts that it names. It never does I/O and holds no runtime state.

mod backend;
mod class;
mod endpoints;
mod fixed;
mod groups;
mod hosts;
mod ingress;
mod l4_route;
mod members;
mod native;
mod policy;
mod report;
mod route;
mod service;
mod service_map;
mod settings;
mod slots;
mod sources;
mod tls;
mod vault;
mod workshop;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use foldhash::quality::FixedState;

pub use self::class::Classes;
pub use self::settings::{ClassSettings, Classless, EndpointSettings, ServiceSettings, Settings};

use self::backend::BackendKey;
use self::class::Verdict;
use self::groups::{Group, Groups};
use self::l4_route::L4Binds;
use self::native::Listeners;
use self::report::Owner;
use self::route::{Outcome, Route};
use self::settings::ingress_bind;
use self::slots::{Keyed, Slots};
use self::tls::{Claim, Tools, origins_of};
use self::vault::{Lack, Origin, User, Vault};
use self::workshop::{BackendSlot, Workshop};
use crate::index::{Change, Index, ServiceKey};
use crate::report::{Kind, ObjectRef, Problem, Report, Severity};
use crate::resource::ObjectSpec;
use crate::shared::Shared;
use crate::table::{
    Backend, BackendPolicy, Certificate, Chunks, Hostname, L4Policy, RouteId, RouteInfo, RouteTable,
    RulePolicy, ServiceCheck, TlsPolicy,
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
    classes: Classes,
    listeners: Listeners,
    native_namespace: Arc<str>,
    groups: Groups,
    l4: L4Binds,
    service_checks: Keyed<ServiceKey, ServiceCheck>,
    /// Native routes tell the binds of Ingresses apart.
    is_split: bool,
    vault: Vault,
    /// For names that no other certificate is for.
    default_certificate: Option<Arc<Certificate>>,
    problems: BTreeMap<Owner, Vec<Problem>>,
    backend_policies: Shared<BackendPolicy>,
    rule_policies: Shared<RulePolicy>,
    l4_policies: Shared<L4Policy>,
    tls_policies: Shared<TlsPolicy>,
    texts: RefCell<HashSet<Arc<str>, FixedState>>,
    route_table: Chunks<RouteInfo>,
    backend_table: Chunks<Backend>,
    table: Arc<RouteTable>,
    report: Arc<Report>,
    /// Whether anything was ever compiled.
    started: bool,
    /// What [`Self::take_claims`] takes.
    claims: Vec<(ObjectRef, bool)>,
    /// See [`Self::rebuilt_hosts`].
    rebuilt_hosts: usize,
}

/// What one compile has to look at.
#[derive(Debug, Default)]
struct Work {
    /// Each at most once.
    routes: Vec<ObjectRef>,
    backends: BTreeSet<u32>,
    /// Of which there may be something else to say.
    origins: BTreeSet<Origin>,
    /// Groups whose listener's certificates changed.
    listeners: BTreeSet<Group>,
    is_default_touched: bool,
    /// Services of which health checks may be told something else.
    services: BTreeSet<ServiceKey>,
    problems: bool,
    /// Binds came or went.
    changed: bool,
}

impl Compiler {
    /// A compiler that has seen nothing.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let mut vault = Vault::default();
        if let Some(origin) = default_origin(&settings) {
            vault.join(&Index::new(), &origin, User::Default);
        }
        Self {
            ingress_binds: settings.http.into_iter().chain(settings.https).collect(),
            classes: Classes::none(settings.classes.clone()),
            settings,
            routes: Slots::default(),
            backends: Slots::default(),
            backends_of: HashMap::default(),
            routes_of: HashMap::default(),
            backends_by_name: HashMap::default(),
            listeners: Listeners::default(),
            native_namespace: NATIVE.into(),
            groups: Groups::default(),
            l4: L4Binds::default(),
            service_checks: Keyed::default(),
            is_split: false,
            vault,
            default_certificate: None,
            problems: BTreeMap::new(),
            backend_policies: Shared::default(),
            rule_policies: Shared::default(),
            l4_policies: Shared::default(),
            tls_policies: Shared::default(),
            texts: RefCell::default(),
            route_table: Chunks::default(),
            backend_table: Chunks::default(),
            table: Arc::default(),
            report: Arc::default(),
            started: false,
            claims: Vec::new(),
            rebuilt_hosts: 0,
        }
    }

    /// The table and report of `index`, given what changed in it since the last call. The first call looks at
    /// everything. Where nothing changed, the same allocation is returned. `now` is in seconds since 1970, and
    /// decides which certificates are valid.
    pub fn compile(&mut self, index: &Index, change: &Change, now: i64) -> (Arc<RouteTable>, Arc<Report>) {
        self.vault.set_now(now);
        let mut work = self.plan(index, change);
        let mut changed = work.changed;
        for reference in std::mem::take(&mut work.routes) {
            changed |= self.compile_route(index, &reference, &mut work);
        }
        for id in std::mem::take(&mut work.backends) {
            changed |= self.compile_backend(index, id, &mut work);
        }
        for service in std::mem::take(&mut work.services) {
            let check = service::check(index, &self.settings, &service);
            changed |= self.service_checks.set(&service, check.map(Arc::new));
        }
        self.rebuild_hosts(index, &mut work);
        changed |= self.rebuild_l4(index, &mut work);
        self.tell_of_origins(index, &mut work);
        let (binds, is_new) = self.groups.publish();
        changed |= is_new;
        if changed {
            self.table = Arc::new(RouteTable {
                version: self.table.version + 1,
                binds,
                l4: self.l4.table().clone(),
                service_checks: self.service_checks.table().clone(),
                routes: self.route_table.clone(),
                backends: self.backend_table.clone(),
            });
        }
        if work.problems {
            self.report = Arc::new(report::collect(index, self.problems.values()));
        }
        (Arc::clone(&self.table), Arc::clone(&self.report))
    }

    /// The Ingresses that became ours (true) or ceased to be ours since the last call, in the order of compiles. An
    /// Ingress that is ours may say nothing that can be served.
    pub fn take_claims(&mut self) -> Vec<(ObjectRef, bool)> {
        std::mem::take(&mut self.claims)
    }

    /// How many hosts the last compile worked out anew, rules and terms of TLS counted one by one.
    #[must_use]
    pub fn rebuilt_hosts(&self) -> usize {
        self.rebuilt_hosts
    }

    /// The DNS names that backends in use have endpoints from.
    #[must_use]
    pub fn dns_names(&self) -> BTreeSet<Arc<str>> {
        self.backends_by_name.keys().cloned().collect()
    }

    /// True if a route that is served names `object`: a Service, or one that an EndpointSlice is of.
    #[must_use]
    pub fn uses(&self, index: &Index, object: &ObjectRef) -> bool {
        let service = match index.object(object).map(|object| &object.spec) {
            Some(ObjectSpec::EndpointSlice(slice)) => slice.service.clone(),
            _ if object.kind == Kind::Service => Some(Arc::clone(&object.name)),
            _ => None,
        };
        service.is_some_and(|name| self.routes_of.contains_key(&(Arc::clone(&object.namespace), name)))
    }

    /// When to compile again although nothing changes, in seconds since 1970: a certificate becomes valid or
    /// expires, or is about to.
    #[must_use]
    pub fn wake(&self) -> Option<i64> {
        self.vault.wake()
    }

    fn plan(&mut self, index: &Index, change: &Change) -> Work {
        let mut work = Work { problems: change.problems, ..Work::default() };
        let is_first = !std::mem::replace(&mut self.started, true);
        self.look_at_origins(index, change, is_first, &mut work);
        let touches = |kind| change.objects.iter().any(|reference| reference.kind == kind);
        let are_classes_touched = is_first || touches(Kind::IngressClass);
        if are_classes_touched {
            self.sync_classes(index, &mut work);
        }
        if is_first
            || touches(Kind::Listener)
            || change.listeners
            || (touches(Kind::Route) && native::splits(index) != self.is_split)
        {
            let regrouped = self.sync_binds(index, &mut work);
            let is_touched = |r: &&ObjectRef| match r.kind {
                Kind::Route => true,
                Kind::Ingress | Kind::Listener => is_first || regrouped,
                // They have binds of their own.
                Kind::Service | Kind::ConfigMap => is_first && self.is_served(r),
                _ => false,
            };
            let touched = index.objects().map(|object| &object.reference).filter(is_touched);
            work.routes.extend(touched.cloned());
        }
        if are_classes_touched && !is_first {
            let ingresses = index.objects().map(|object| &object.reference);
            work.routes.extend(ingresses.filter(|r| r.kind == Kind::Ingress).cloned());
        }
        for reference in &change.objects {
            match reference.kind {
                Kind::Service | Kind::Backend => {
                    let key = (Arc::clone(&reference.namespace), Arc::clone(&reference.name));
                    self.touch_service(&key, &mut work);
                    let users = self.routes_of.get(&key).into_iter().flatten();
                    let routes = users.filter_map(|id| self.routes.at(*id));
                    work.routes.extend(routes.map(|route| route.order.object.clone()));
                    work.routes.extend(self.is_served(reference).then(|| reference.clone()));
                }
                Kind::ConfigMap if self.is_served(reference) => work.routes.push(reference.clone()),
                _ if is_route(reference) => {
                    work.routes.push(reference.clone());
                }
                _ => {}
            }
        }
        for key in &change.endpoints {
            self.touch_service(key, &mut work);
        }
        if self.settings.services.node_port {
            let is_first = is_first.then(|| index.objects().map(|object| &object.reference));
            let touched = change.objects.iter().chain(is_first.into_iter().flatten());
            let services = touched.filter(|object| object.kind == Kind::Service);
            let keys = services.map(|object| (Arc::clone(&object.namespace), Arc::clone(&object.name)));
            work.services.extend(keys.chain(change.endpoints.iter().cloned()));
        }
        work.routes.sort_unstable();
        work.routes.dedup();
        if change.zone || change.refused {
            work.backends.extend(self.backends_of.values().flatten());
        }
        for name in &change.resolved {
            work.backends.extend(self.backends_by_name.get(name).into_iter().flatten());
        }
        work
    }

    /// Looks again at the certificates that changed, and notes who must be compiled with them.
    fn look_at_origins(&mut self, index: &Index, change: &Change, is_first: bool, work: &mut Work) {
        let mut origins: BTreeSet<Origin> = self.vault.due().into_iter().collect();
        let vault = &self.vault;
        let mut add = |reference: &ObjectRef| {
            if matches!(reference.kind, Kind::Secret | Kind::ConfigMap) {
                // Most Secrets of a cluster are no certificates.
                let is_empty = index.secret(reference).is_some_and(|(_, secret)| secret.is_empty());
                if is_empty && !vault.knows(reference) {
                    return;
                }
                origins.insert(Origin::Certificate(reference.clone()));
                origins.insert(Origin::Roots(reference.clone()));
            }
        };
        if is_first {
            index.objects().for_each(|object| add(&object.reference));
        }
        change.objects.iter().for_each(add);
        origins.extend(change.files.iter().flat_map(|file| self.vault.of_file(file)));
        origins.extend(default_origin(&self.settings).filter(|_| is_first));
        for origin in origins {
            if !self.vault.look(index, &origin) && !is_first {
                continue;
            }
            work.origins.insert(origin.clone());
            for user in self.vault.users(&origin).collect::<Vec<_>>() {
                match user {
                    User::Rules(id) => {
                        work.routes.extend(self.routes.at(id).map(|route| route.order.object.clone()));
                    }
                    User::Hosts(id) => {
                        if let Some(route) = self.routes.at(id) {
                            self.groups.touch(route);
                        }
                    }
                    User::Listener(group) => {
                        work.listeners.insert(group);
                    }
                    User::Default => work.is_default_touched = true,
                }
            }
        }
        if is_first || work.is_default_touched {
            self.choose_default(work);
        }
    }

    /// Chooses the certificate for names that no other one is for.
    fn choose_default(&mut self, work: &mut Work) {
        let mut problems = Vec::new();
        let mut chosen = self.settings.default_certificate.clone();
        if let Some(origin) = default_origin(&self.settings) {
            match (self.vault.certificate(&origin), &origin) {
                (Ok(certificate), _) => chosen = Some(Arc::clone(certificate)),
                (Err(Lack::Missing), Origin::Certificate(object)) => problems.push(Problem {
                    object: object.clone(),
                    location: None,
                    field: String::new(),
                    severity: Severity::Error,
                    reason: "SecretNotFound",
                    message: "there is no such Secret, so the default certificate is a self-signed one"
                        .to_owned(),
                }),
                // What is wrong with it is told where it stands.
                (Err(_), _) => {}
            }
        }
        self.tell(Owner::Default, problems, work);
        if self.default_certificate != chosen {
            self.default_certificate = chosen;
            self.groups.states.values_mut().for_each(|state| state.tls.touch_all());
        }
    }

    /// Says what is wrong with the certificates that were looked at, or that somebody began or ceased to use.
    fn tell_of_origins(&mut self, index: &Index, work: &mut Work) {
        for origin in std::mem::take(&mut work.origins) {
            let problem = self.vault.problem(index, &origin).filter(|_| self.vault.is_used(&origin));
            self.tell(Owner::Origin(origin), problem.into_iter().collect(), work);
        }
    }

    fn touch_service(&self, key: &ServiceKey, work: &mut Work) {
        work.backends.extend(self.backends_of.get(key).into_iter().flatten());
    }

    /// Compiles one route object, or forgets it if it is gone. Returns whether the table changed.
    fn compile_route(&mut self, index: &Index, reference: &ObjectRef, work: &mut Work) -> bool {
        let known = self.routes.id(reference);
        let outcome = self.outcome(index, reference, work);
        let owner = match reference.kind {
            Kind::Listener | Kind::Service | Kind::ConfigMap => Owner::Relaying(reference.clone()),
            _ => Owner::Object(reference.clone()),
        };
        self.tell(owner, outcome.problems, work);
        if reference.kind == Kind::Ingress && outcome.route.is_some() != known.is_some() {
            self.claims.push((reference.clone(), outcome.route.is_some()));
        }
        match outcome.route {
            Some(route) => {
                let id = self.routes.reserve(reference);
                self.attach(index, id, &route, work);
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

    fn outcome(&mut self, index: &Index, reference: &ObjectRef, work: &mut Work) -> Outcome {
        let nothing = Outcome { route: None, problems: Vec::new() };
        let Some(object) = index.object(reference) else { return nothing };
        match &object.spec {
            ObjectSpec::Ingress(ingress) => match self.classes.judge(ingress) {
                Verdict::Ours => {}
                Verdict::Foreign => return nothing,
                Verdict::Nobody(finding) => {
                    return Outcome { route: None, problems: vec![object.problem(finding)] };
                }
            },
            ObjectSpec::Route(_) => {}
            ObjectSpec::Listener(listener) if listener.forward.is_some() => {}
            ObjectSpec::Service(service) if service::is_ours(&self.settings.services, service) => {}
            ObjectSpec::ConfigMap(_) if self.is_served(reference) => {}
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
            l4_policies: &mut self.l4_policies,
            texts: &self.texts,
            vault: &mut self.vault,
            dirty_backends: &mut work.backends,
        };
        match &object.spec {
            ObjectSpec::Ingress(ingress) => ingress::compile(&mut shop, object, ingress, id),
            ObjectSpec::Route(route) => native::compile(&mut shop, object, route, id),
            ObjectSpec::Listener(listener) => match &listener.forward {
                Some(forward) => l4_route::compile(&mut shop, object, (listener, forward), id),
                None => nothing,
            },
            ObjectSpec::Service(service) => service::compile(&mut shop, object, service, id),
            ObjectSpec::ConfigMap(map) => service_map::compile(&mut shop, object, map, id),
            _ => nothing,
        }
    }

    /// Whether a Service or ConfigMap may have binds of its own.
    fn is_served(&self, reference: &ObjectRef) -> bool {
        let services = &self.settings.services;
        match reference.kind {
            Kind::Service => services.is_any(),
            _ => services.transports_of(reference).next().is_some(),
        }
    }

    /// Brings the binds in line with the listeners; true if every route must join its hosts again.
    fn sync_binds(&mut self, index: &Index, work: &mut Work) -> bool {
        let mut listeners = Listeners::new(index);
        for (owner, _) in std::mem::take(&mut self.listeners.problems) {
            self.tell(Owner::Object(owner), Vec::new(), work);
        }
        for (owner, problem) in &listeners.problems {
            self.tell(Owner::Object(owner.clone()), vec![problem.clone()], work);
        }
        let native: BTreeSet<SocketAddr> = listeners.configs.keys().copied().collect();
        for (address, https) in [(self.settings.http, false), (self.settings.https, true)] {
            let Some(address) = address else { continue };
            // The settings of a listener that the user wrote go before those of the command line.
            let ingress = ingress_bind(&self.settings, address, https);
            match listeners.configs.get_mut(&address) {
                Some(native) => native.listeners.extend(ingress.listeners),
                None => {
                    listeners.configs.insert(address, ingress);
                }
            }
        }
        self.is_split = native::splits(index);
        let is_split = self.is_split;
        let synced = self.groups.sync(std::mem::take(&mut listeners.configs), |address| {
            if is_split || native.contains(&address) { Group::Address(address) } else { Group::Ingress }
        });
        work.changed |= synced.changed;
        synced.touched.iter().for_each(|address| self.l4.touch(*address));
        let gone: Vec<Owner> =
            self.problems.keys().filter(|owner| self.is_of_lost_group(owner)).cloned().collect();
        for owner in gone {
            self.tell(owner, Vec::new(), work);
        }
        let former = std::mem::replace(&mut self.listeners, listeners);
        self.sync_fixed(index, &former, synced.regrouped, work);
        synced.regrouped
    }

    fn is_of_lost_group(&self, owner: &Owner) -> bool {
        match owner {
            Owner::Host(group, _) | Owner::TlsHost(group, _) | Owner::Listener(group) => {
                !self.groups.states.contains_key(group)
            }
            Owner::Object(_)
            | Owner::Relaying(_)
            | Owner::L4(_)
            | Owner::Backend(_)
            | Owner::Origin(_)
            | Owner::Default => false,
        }
    }

    /// Makes `route` a member of its hosts and a user of its Services and certificates.
    fn attach(&mut self, index: &Index, id: u32, route: &Route, work: &mut Work) {
        for group in self.groups.of(&route.binds) {
            let Some(state) = self.groups.states.get_mut(&group) else { continue };
            for host in distinct_hosts(route) {
                state.hosts.members.join(host, id);
            }
            for claim in &route.claims {
                state.tls.members.join(&claim.host, id);
            }
        }
        route.l4.iter().for_each(|bind| self.l4.join(bind.key, bind.free_bind, id));
        for origin in origins_of(route) {
            self.vault.join(index, origin, User::Hosts(id));
            work.origins.insert(origin.clone());
        }
        for origin in &route.materials {
            self.vault.join(index, origin, User::Rules(id));
            work.origins.insert(origin.clone());
        }
        // A Service may have thousands of routes: they are not searched.
        let old = self.routes.at(id);
        for service in &route.services {
            if old.is_some_and(|old| old.services.contains(service)) {
                continue;
            }
            self.routes_of.entry(service.clone()).or_default().push(id);
        }
    }

    /// Takes back what `old` had and its successor, if any, has not.
    fn detach(&mut self, id: u32, old: &Route, work: &mut Work) {
        let new = self.routes.at(id);
        let groups = new.map(|new| self.groups.of(&new.binds)).unwrap_or_default();
        for group in self.groups.of(&old.binds) {
            let Some(state) = self.groups.states.get_mut(&group) else { continue };
            let new = new.filter(|_| groups.contains(&group));
            for host in distinct_hosts(old) {
                if new.is_none_or(|new| hosts::entries_of(new, host).is_empty()) {
                    state.hosts.members.leave(host, id);
                }
            }
            for Claim { host, .. } in &old.claims {
                if !new.is_some_and(|new| new.claims.iter().any(|claim| claim.host == *host)) {
                    state.tls.members.leave(host, id);
                }
            }
        }
        for key in old.l4.iter().map(|bind| bind.key) {
            if !new.is_some_and(|new| new.l4.iter().any(|bind| bind.key == key)) {
                self.l4.leave(key, id);
            }
        }
        let kept = new.map(origins_of).unwrap_or_default();
        for origin in origins_of(old).difference(&kept) {
            self.vault.leave(origin, User::Hosts(id));
            work.origins.insert((*origin).clone());
        }
        for origin in
            old.materials.iter().filter(|origin| !new.is_some_and(|new| new.materials.contains(origin)))
        {
            self.vault.leave(origin, User::Rules(id));
            work.origins.insert(origin.clone());
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

    fn rebuild_hosts(&mut self, index: &Index, work: &mut Work) {
        self.refresh_fixed(index, work);
        let routes = &self.routes;
        let route = |id| routes.at(id);
        let mut told = Vec::new();
        for (group, state) in &mut self.groups.states {
            let rebuilt = state.hosts.rebuild(route);
            let hosts: Vec<Hostname> = rebuilt.iter().map(|(host, _)| host.clone()).collect();
            for (host, losses) in rebuilt {
                let problems =
                    losses.iter().filter_map(|loss| report::conflict(index, &host, loss)).collect();
                told.push((Owner::Host(*group, host), problems));
            }
            let mut tools = Tools {
                index,
                vault: &self.vault,
                default: self.default_certificate.as_ref(),
                policies: &mut self.tls_policies,
            };
            for (host, problems) in state.tls.rebuild(&mut tools, &route, &state.hosts, &hosts) {
                told.push((Owner::TlsHost(*group, host), problems));
            }
        }
        self.rebuilt_hosts = told.len();
        for (owner, problems) in told {
            self.tell(owner, problems, work);
        }
    }

    /// Gives Binds that relay to those who want them; true if the table changed.
    fn rebuild_l4(&mut self, index: &Index, work: &mut Work) -> bool {
        let (routes, groups) = (&self.routes, &self.groups);
        let rebuilt = self.l4.rebuild(|id| routes.at(id), |address| groups.listener(address));
        for (key, taken) in rebuilt.told {
            let problem =
                |one: &l4_route::Taken| Some(l4_route::conflict(index.object(&one.loser)?, key, one));
            let problems = taken.iter().filter_map(problem).collect();
            self.tell(Owner::L4(key), problems, work);
        }
        rebuilt.changed
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

/// The Secret that the operator named for the default certificate.
fn default_origin(settings: &Settings) -> Option<Origin> {
    settings.default_secret.as_ref().map(|(namespace, name)| Origin::secret(namespace, name))
}

/// Whether the object may have rules or binds of its own.
fn is_route(reference: &ObjectRef) -> bool {
    matches!(reference.kind, Kind::Ingress | Kind::Route | Kind::Listener)
}

fn route_info(reference: &ObjectRef) -> RouteInfo {
    let name = match reference.kind {
        Kind::Ingress => format!("ingress/{}/{}", reference.namespace, reference.name),
        Kind::Listener => format!("listener/{}", reference.name),
        Kind::Service => format!("service/{}/{}", reference.namespace, reference.name),
        Kind::ConfigMap => format!("configmap/{}/{}", reference.namespace, reference.name),
        _ => format!("route/{}", reference.name),
    };
    RouteInfo { object: reference.clone(), name: name.into() }
}

fn distinct_hosts(route: &Route) -> impl Iterator<Item = &Hostname> {
    let mut last = None;
    route.entries.iter().map(|entry| &entry.host).filter(move |host| last.replace(*host) != Some(*host))
}
