//! From objects to requests, and from what the allocator says to what is served, written and announced. Pure: of the index,
//! it changes nothing but what Services are given.
//!
//! In a cluster, the record of who has which address is the status of the Service: one replica decides and writes, and an
//! address is served, by every replica alike, once it stands there. What stands there is believed only if a pool has it that
//! is for this Service.

mod closing;
mod gone;
mod problems;
mod served;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use config::compile::ServiceSettings;
use config::index::{Assignment, Change, Event, Index};
use config::report::{Kind, ObjectRef, Severity};
use config::resource::service::Service;
use config::resource::service_addresses::{AddressWish, FamilyPolicy};
use config::resource::service_exposure::Exposure;
use config::resource::{AddressPool, AddressRange, Holding, L2Advertisement, ObjectSpec};
use ipnet::IpNet;

use self::problems::Taken;
use super::outcome::{Lack, Outcome};
use super::request::{Families, Family, Nodes, Request, Sharing};
use super::{Allocator, Overlap, Usage};

/// Who decides on addresses.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// We, for ourselves: what is decided is served at once.
    Alone,
    /// We, for all replicas: what is decided is served once it is recorded.
    Leader,
    /// Another replica: what it records is served, if it may be.
    Follower,
}

/// What the status of a Service should say of its addresses.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Desired {
    /// Its addresses.
    pub addresses: Box<[IpAddr]>,
    /// Why it has less than it asks for: stable reason code, and a text for people.
    pub lack: Option<(&'static str, String)>,
}

/// What [`Assigner::give`] did.
#[derive(Debug, Default)]
pub struct Given {
    /// Something changed that may have to do with addresses.
    pub is_touched: bool,
    /// Some Service has other addresses.
    pub is_different: bool,
    /// Services that were looked at: what there is to announce of them may be something else now.
    pub services: BTreeSet<ObjectRef>,
    /// For whoever writes status, if we lead: `None` for a Service that is not ours, or no longer.
    pub desired: Vec<(ObjectRef, Option<Desired>)>,
}

/// What [`Assigner::decide`] decided.
#[derive(Debug, Default)]
struct Decisions {
    /// For the index.
    events: Vec<Event>,
    desired: Vec<(ObjectRef, Option<Desired>)>,
    /// What they are on.
    services: BTreeSet<ObjectRef>,
}

/// When a Service was made, and which one it is.
type Age = (i64, ObjectRef);

/// What is known of a Service of type LoadBalancer that is ours.
#[derive(Clone, Debug)]
struct Known {
    created: Option<i64>,
    requested: Box<[IpAddr]>,
    wish: AddressWish,
    /// Of its ClusterIPs or of what it says of families.
    families: (bool, bool),
    ports: Box<[(config::table::Transport, u16)]>,
    needs_local: bool,
    /// Pools decide on its addresses.
    is_managed: bool,
    /// Addresses that it was given and that were recorded since.
    confirmed: BTreeSet<IpAddr>,
    told: Option<Assignment>,
    desired: Option<Desired>,
}

/// Gives addresses to Services.
#[derive(Debug)]
pub struct Assigner {
    settings: ServiceSettings,
    role: Role,
    allocator: Allocator,
    pools: BTreeMap<ObjectRef, AddressPool>,
    /// pool → ranges of it that no Service gets, and where they stand among its ranges
    refused: BTreeMap<ObjectRef, Vec<(usize, AddressRange)>>,
    /// There was a pool since the start.
    had_pools: bool,
    /// The answer of [`Self::has_unexplained_records`], if no Service and no pool changed since: it is asked for at each change
    /// of endpoints.
    has_unexplained_records: Option<bool>,
    advertisements: BTreeMap<ObjectRef, L2Advertisement>,
    /// namespace → its labels
    namespaces: BTreeMap<Arc<str>, Arc<BTreeMap<String, String>>>,
    /// Services of type LoadBalancer that are ours.
    services: BTreeMap<ObjectRef, Known>,
    /// address → Services that ask for it, the oldest first
    asking: BTreeMap<IpAddr, BTreeSet<Age>>,
    /// Service → what it had last, even before the start
    remembered: BTreeMap<ObjectRef, Box<[IpAddr]>>,
    /// Of these, Services that are not there any more → when they went, in the order of that
    gone: BTreeMap<ObjectRef, u64>,
    /// Alone: everything that there is could be read. Until then, what is remembered is given to nobody else.
    is_whole: bool,
    /// Service whose last version cannot be read → the addresses that it may have
    holdings: BTreeMap<ObjectRef, Holding>,
    are_holdings_touched: bool,
    /// Services to be decided on again.
    touched: BTreeSet<ObjectRef>,
    are_pools_touched: bool,
    /// Services for which whoever writes status was told what to write.
    claimed: BTreeSet<ObjectRef>,
    /// Everything is to be told again.
    tells_all: bool,
    /// What Services had until now goes before what is recorded of others.
    keeps_confirmed: bool,
    overlaps: Vec<Overlap>,
    /// Of pools, what the cluster's own objects have.
    taken: Taken,
}

impl Assigner {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(settings: ServiceSettings, role: Role) -> Self {
        Self {
            settings,
            role,
            allocator: Allocator::default(),
            pools: BTreeMap::new(),
            refused: BTreeMap::new(),
            had_pools: false,
            has_unexplained_records: None,
            advertisements: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            services: BTreeMap::new(),
            asking: BTreeMap::new(),
            remembered: BTreeMap::new(),
            gone: BTreeMap::new(),
            is_whole: true,
            holdings: BTreeMap::new(),
            are_holdings_touched: false,
            touched: BTreeSet::new(),
            are_pools_touched: false,
            claimed: BTreeSet::new(),
            tells_all: false,
            keeps_confirmed: false,
            overlaps: Vec::new(),
            taken: Taken::default(),
        }
    }

    /// True if there are no Services whose addresses are anybody's business here.
    #[must_use]
    pub fn is_off(&self) -> bool {
        !self.settings.load_balancer
    }

    /// Who decides.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// From now on, this is who decides. What was decided and not recorded is forgotten.
    pub fn set_role(&mut self, role: Role) {
        if self.role == role {
            return;
        }
        self.role = role;
        let closed = std::mem::take(&mut self.allocator.closed);
        self.allocator = Allocator { closed, ..Allocator::default() };
        self.are_pools_touched = true;
        self.are_holdings_touched = true;
        self.tells_all = true;
        self.keeps_confirmed = true;
    }

    /// What Services had before the start, where no status says it.
    pub fn remember(&mut self, addresses: BTreeMap<ObjectRef, Box<[IpAddr]>>) {
        self.remembered = addresses;
        self.are_pools_touched = true;
    }

    /// Takes in `change`, gives Services their addresses in the `index`, and adds to `change` what that changes.
    pub fn give(&mut self, index: &mut Index, change: &mut Change) -> Given {
        let is_touched = self.look(index, change);
        let is_whole = index.source_problems().all(|problem| problem.severity != Severity::Error);
        if self.role == Role::Alone && self.is_whole != is_whole {
            self.is_whole = is_whole;
            self.are_pools_touched = true;
        }
        let are_pools_touched = self.are_pools_touched;
        let Decisions { events, desired, services } = self.decide();
        let is_different = !events.is_empty();
        for event in events {
            change.merge(index.apply(event));
        }
        let is_shared = self.role != Role::Alone;
        if self.taken.look(index, change, is_shared.then_some(&self.pools), are_pools_touched)
            || are_pools_touched
        {
            let problems = self.problems(index);
            change.merge(index.apply(Event::Problems { source: "pools of addresses".into(), problems }));
        }
        Given { is_touched, is_different, services, desired }
    }

    /// Takes in what changed. True if that may have to do with addresses. Once more is as good as once.
    pub fn look(&mut self, index: &Index, change: &Change) -> bool {
        for reference in change.objects() {
            self.hold(reference, index.undecoded(reference));
            let spec = index.object(reference).map(|object| &object.spec);
            match (reference.kind, spec) {
                (Kind::Service, Some(ObjectSpec::Service(service))) => {
                    let own = service.cluster_ips.iter().map(|address| IpNet::from(*address));
                    self.close(reference, own.collect());
                    self.service(reference, Some(service));
                }
                (Kind::Service, _) => {
                    self.close(reference, Box::default());
                    self.service(reference, None);
                }
                (_, Some(ObjectSpec::Networks(networks))) => self.close(reference, networks.clone()),
                (Kind::Node | Kind::ServiceCIDR, _) => self.close(reference, Box::default()),
                (Kind::Namespace, Some(ObjectSpec::Namespace(labels))) => {
                    self.namespaces.insert(Arc::clone(&reference.name), Arc::new(labels.clone()));
                    self.namespace_changed(&reference.name);
                }
                (Kind::Namespace, _) => {
                    self.namespaces.remove(&reference.name);
                    self.namespace_changed(&reference.name);
                }
                (Kind::AddressPool | Kind::IPAddressPool, Some(ObjectSpec::AddressPool(pool))) => {
                    self.pool(reference, pool);
                }
                (Kind::AddressPool | Kind::IPAddressPool, _) => {
                    self.pools.remove(reference);
                    self.refused.remove(reference);
                    self.are_pools_touched = true;
                }
                (Kind::L2Advertisement, Some(ObjectSpec::L2Advertisement(advertisement))) => {
                    self.advertisements.insert(reference.clone(), (**advertisement).clone());
                    self.touched.extend(self.services.keys().cloned());
                }
                (Kind::L2Advertisement, _) => {
                    self.advertisements.remove(reference);
                    self.touched.extend(self.services.keys().cloned());
                }
                _ => {}
            }
        }
        let is_touched = self.is_touched();
        if is_touched {
            self.has_unexplained_records = None;
        }
        is_touched
    }

    fn is_touched(&self) -> bool {
        self.are_pools_touched || self.are_holdings_touched || !self.touched.is_empty()
    }

    /// What can be read of a pool does not go before what it was when it could be read.
    fn pool(&mut self, reference: &ObjectRef, pool: &AddressPool) {
        match self.pools.get_mut(reference) {
            Some(former) if pool.is_partial => former.is_partial = true,
            _ => {
                let mut pool = pool.clone();
                let ranges = pool.spec.addresses.iter().copied().enumerate();
                let refused: Vec<_> = ranges.filter(|(_, range)| !self.settings.may_pool(range)).collect();
                pool.spec.addresses.retain(|range| self.settings.may_pool(range));
                self.refused.remove(reference);
                if !refused.is_empty() {
                    self.refused.insert(reference.clone(), refused);
                }
                self.pools.insert(reference.clone(), pool);
            }
        }
        self.are_pools_touched = true;
        self.had_pools = true;
    }

    fn service(&mut self, reference: &ObjectRef, service: Option<&Service>) {
        let known = service.and_then(|service| known(&self.settings, service));
        self.asks(reference, known.as_ref());
        let former = match known {
            Some(known) => self.services.insert(reference.clone(), known),
            None => self.services.remove(reference),
        };
        if let (Some(former), Some(now)) = (former.as_ref(), self.services.get_mut(reference)) {
            now.confirmed.clone_from(&former.confirmed);
            now.told.clone_from(&former.told);
            now.desired.clone_from(&former.desired);
        }
        if former.is_some() || self.services.contains_key(reference) {
            self.touched.insert(reference.clone());
        }
    }

    /// What `service` asks for now; whoever asks for the same, or did, is looked at again.
    fn asks(&mut self, service: &ObjectRef, now: Option<&Known>) {
        let former = self.services.get(service);
        let same = former.zip(now).is_some_and(|(former, now)| {
            let terms = |known: &Known| {
                (
                    known.requested.clone(),
                    known.ports.clone(),
                    known.created,
                    known.wish.pool.clone(),
                    known.wish.misread.clone(),
                )
            };
            terms(former) == terms(now)
        });
        if same {
            return;
        }
        for (known, is_now) in
            former.map(|known| (known, false)).into_iter().chain(now.map(|known| (known, true)))
        {
            for address in &known.requested {
                let all = self.asking.entry(*address).or_default();
                self.touched.extend(all.iter().map(|(_, other)| other.clone()));
                let age = (known.created.unwrap_or(i64::MAX), service.clone());
                if is_now {
                    all.insert(age);
                } else {
                    all.remove(&age);
                }
                if all.is_empty() {
                    self.asking.remove(address);
                }
            }
        }
    }

    fn namespace_changed(&mut self, namespace: &Arc<str>) {
        let first = ObjectRef { kind: Kind::Service, namespace: Arc::clone(namespace), name: Arc::from("") };
        let services = self.services.range(first..).map(|(service, _)| service);
        self.touched.extend(services.take_while(|service| service.namespace == *namespace).cloned());
    }

    /// Decides on everything that changed.
    fn decide(&mut self) -> Decisions {
        let are_pools_touched = std::mem::take(&mut self.are_pools_touched);
        if are_pools_touched {
            let unknown = self.remembered.iter().filter(|(service, _)| !self.services.contains_key(*service));
            let unknown =
                unknown.filter(|_| !self.is_whole).flat_map(|(_, addresses)| addresses.iter().copied());
            self.overlaps = self.allocator.set_pools(&self.pools, &unknown.collect());
            self.touched.extend(self.services.keys().cloned());
        }
        let mut touched = std::mem::take(&mut self.touched);
        if self.is_whole {
            // Some may have gone while not everything could be read, or before the start.
            let remembered = are_pools_touched.then(|| self.remembered.keys().cloned().collect());
            self.forget_gone(remembered.as_ref().unwrap_or(&touched));
        }
        if std::mem::take(&mut self.keeps_confirmed) {
            for service in &touched {
                let hint = self.services.get(service).map(|known| known.confirmed.iter().copied().collect());
                let request =
                    self.request(service).zip(hint).map(|(request, hint)| Request { hint, ..request });
                self.allocator.request(service, request);
            }
            self.allocator.follow();
            self.allocator.look_again();
        }
        if std::mem::take(&mut self.are_holdings_touched) {
            // After what Services had until now, which goes first.
            self.allocator.set_holdings(&self.holdings);
        }
        for service in &touched {
            let request = self.request(service);
            self.allocator.request(service, request);
        }
        let settled = match self.role {
            Role::Alone | Role::Leader => self.allocator.settle(),
            Role::Follower => self.allocator.follow(),
        };
        touched.extend(settled.into_iter().map(|settled| settled.service));
        if std::mem::take(&mut self.tells_all) {
            touched.extend(self.services.keys().cloned());
            touched.extend(self.claimed.iter().cloned());
            self.services.values_mut().for_each(|known| known.desired = None);
        }
        let mut decisions = Decisions::default();
        for service in &touched {
            self.tell(service, &mut decisions);
        }
        decisions.services = touched;
        decisions
    }

    /// What the Service asks pools for; `None` if nothing, or not pools.
    fn request(&mut self, service: &ObjectRef) -> Option<Request> {
        let has = |address: &IpAddr| self.allocator.pool_with(*address).is_some();
        let has_pools = !self.pools.is_empty();
        let known = self.services.get_mut(service)?;
        let is_shared = self.role != Role::Alone;
        let may_ask = |address: &IpAddr| self.settings.may_ask(*address, is_shared) && !has(address);
        let only_asks = !known.requested.is_empty()
            && known.wish.pool.is_none()
            && known.wish.misread.is_none()
            && known.requested.iter().all(may_ask);
        // Its pool may be in what could not be read.
        let is_lost = !self.is_whole
            && known.told.as_ref().is_none_or(|told| told.addresses.is_empty())
            && self.remembered.get(service).is_some_and(|had| !had.iter().all(has));
        known.is_managed = has_pools && !only_asks && !is_lost;
        if !known.is_managed {
            known.confirmed.clear();
            return None;
        }
        let AddressWish { misread, pool, sharing_key, selector, labels, recorded, .. } = &known.wish;
        let nodes = if known.needs_local {
            Nodes::WithPods { namespace: Arc::clone(&service.namespace), selector: selector.clone() }
        } else {
            Nodes::All
        };
        let confirmed = || known.confirmed.iter().copied().collect();
        let hint = match self.role {
            Role::Alone => self.remembered.get(service).cloned().unwrap_or_default(),
            // Somebody has emptied the status, which we will fill again.
            Role::Leader if recorded.is_empty() => confirmed(),
            Role::Leader | Role::Follower => recorded.clone(),
        };
        Some(Request {
            created: known.created,
            families: families(known),
            addresses: known.requested.clone(),
            misread: misread.clone(),
            pool: pool.clone(),
            // The data plane keeps namespaces apart, too.
            sharing: sharing_key
                .as_ref()
                .map(|key| Sharing { key: format!("{}/{key}", service.namespace).into(), nodes }),
            ports: known.ports.clone(),
            labels: Arc::clone(labels),
            namespace_labels: self.namespaces.get(&service.namespace).cloned().or_else(|| {
                // Among files there need not be any namespace; in a cluster it has not been told of yet.
                (self.role == Role::Alone).then(Arc::default)
            }),
            hint,
        })
    }

    /// Tells what is different for `service`.
    fn tell(&mut self, service: &ObjectRef, decisions: &mut Decisions) {
        let leads = self.role == Role::Leader;
        let known = self.services.get(service);
        let asked = known.map(|known| self.asked(service, known)).unwrap_or_default();
        let is_barred = known.is_some_and(|known| self.is_barred(service, known));
        let Some(known) = self.services.get_mut(service) else {
            decisions.events.push(Event::Assigned { service: service.clone(), assignment: None });
            if leads {
                self.claimed.remove(service);
                decisions.desired.push((service.clone(), None));
            }
            return;
        };
        let outcome = known.is_managed.then(|| self.allocator.outcome(service)).flatten();
        let assignment = match &outcome {
            Some(outcome) => Some(assignment(self.role, known, outcome)),
            None if is_barred && !known.is_managed => {
                let Desired { addresses, lack } = asked.clone();
                Some(Assignment { addresses, lack })
            }
            None => None,
        };
        let has = match &assignment {
            Some(given) => given.addresses.clone(),
            None if known.is_managed => Box::default(),
            None => asked.addresses.clone(),
        };
        if known.told != assignment {
            known.told.clone_from(&assignment);
            decisions.events.push(Event::Assigned { service: service.clone(), assignment });
        }
        if self.role == Role::Alone && !has.is_empty() {
            self.keep_in_mind(service, &has);
            return;
        }
        if leads {
            let desired = match outcome {
                Some(Outcome { assigned, lack }) => Desired {
                    addresses: assigned.iter().map(|one| one.address).collect(),
                    lack: lack.as_ref().map(shown),
                },
                None => asked,
            };
            // What a pool gave may be in what cannot be read of it: the record stays as it is until that is known.
            let is_doubtful = matches!(&desired.lack, Some((Lack::UNREADABLE | Lack::DISPUTED, _)))
                && known.wish.recorded.iter().any(|address| !desired.addresses.contains(address));
            // Nor is it taken back before any pool was heard of: a server that has forgotten a kind says that there are none.
            let is_doubtful = is_doubtful
                || !self.had_pools && known.requested.is_empty() && !known.wish.recorded.is_empty();
            if !is_doubtful && known.desired.as_ref() != Some(&desired) {
                known.desired = Some(desired.clone());
                self.claimed.insert(service.clone());
                decisions.desired.push((service.clone(), Some(desired)));
            }
        }
    }

    /// What a Service has that no pool decides on: what it asks for, if it may and it is served there.
    fn asked(&self, service: &ObjectRef, known: &Known) -> Desired {
        let is_shared = self.role != Role::Alone;
        let (mut addresses, mut lack) = (Vec::new(), None);
        for address in &known.requested {
            if !self.settings.may_ask(*address, is_shared) {
                lack = Some((
                    "AddressNotAllowed",
                    format!("{address} is not one of the addresses that Services may ask for"),
                ));
            } else if let Some(why) = self.barred(service, known, *address) {
                lack = Some(shown(&why));
            } else if let Some(rival) = self.rival(service, known, *address) {
                lack = lack.or_else(|| Some(("Conflict", format!("{rival} goes first and has {address}"))));
            } else {
                addresses.push(*address);
            }
        }
        if known.requested.is_empty() {
            lack = Some(("NoPool", "there is no pool, and it asks for no address".to_owned()));
        }
        Desired { addresses: addresses.into(), lack }
    }

    /// The Service because of which the compiler does not serve `service` at an `address` that both ask for: the address
    /// is the oldest one's namespace's, and each port the oldest one's.
    fn rival(&self, service: &ObjectRef, known: &Known, address: IpAddr) -> Option<&ObjectRef> {
        let age = (known.created.unwrap_or(i64::MAX), service.clone());
        let older = self.asking.get(&address)?.range(..age).map(|(_, other)| other);
        let mut older =
            older.filter_map(|other| Some((other, self.services.get(other).filter(|one| !one.is_managed)?)));
        let (owner, first) = older.next()?;
        let shares = |other: &Known| other.ports.iter().any(|port| known.ports.contains(port));
        if owner.namespace != service.namespace || shares(first) {
            return Some(owner);
        }
        let same = older.find(|(other, one)| other.namespace == service.namespace && shares(one));
        same.map(|(other, _)| other)
    }

    /// What Services have, or had last, for a process that decides alone to remember.
    #[must_use]
    pub fn memory(&self) -> &BTreeMap<ObjectRef, Box<[IpAddr]>> {
        &self.remembered
    }

    /// True if addresses are recorded that no pool has and that no Service may ask for.
    pub fn has_unexplained_records(&mut self) -> bool {
        if let Some(answer) = self.has_unexplained_records {
            return answer;
        }
        let is_shared = self.role != Role::Alone;
        let is_of_pool = |address: &IpAddr| {
            self.pools.values().any(|pool| pool.spec.addresses.iter().any(|range| range.has(*address)))
        };
        let answer = self.services.values().any(|known| {
            let is_asked = |address: &IpAddr| {
                known.requested.contains(address) && self.settings.may_ask(*address, is_shared)
            };
            known.wish.recorded.iter().any(|address| !is_of_pool(address) && !is_asked(address))
        });
        self.has_unexplained_records = Some(answer);
        answer
    }

    /// How much of each pool is in use.
    pub fn usage(&self) -> impl Iterator<Item = (&ObjectRef, Usage)> {
        self.allocator.usage()
    }
}

/// What is served of `outcome` now.
fn assignment(role: Role, known: &mut Known, outcome: &Outcome) -> Assignment {
    let assigned: BTreeSet<IpAddr> = outcome.assigned.iter().map(|one| one.address).collect();
    let recorded = known.wish.recorded.iter().copied().collect();
    match role {
        Role::Alone => known.confirmed = assigned,
        Role::Leader => {
            known.confirmed.retain(|address| assigned.contains(address));
            known.confirmed.extend(assigned.intersection(&recorded));
        }
        // It gets nothing that was not recorded.
        Role::Follower => known.confirmed = assigned,
    }
    let lack = outcome.lack.as_ref().filter(|_| role != Role::Follower).map(shown);
    Assignment { addresses: known.confirmed.iter().copied().collect(), lack }
}

/// The reason, and a text that is not too long to be read, whatever texts of users are in it.
fn shown(lack: &Lack) -> (&'static str, String) {
    const MOST: usize = 500;
    (lack.reason(), lack.to_string().chars().take(MOST).collect())
}

/// The Service as one of type LoadBalancer that is ours, if it is one.
fn known(settings: &ServiceSettings, service: &Service) -> Option<Known> {
    let exposure: &Exposure = service.exposure.as_deref().filter(|exposure| settings.balances(exposure))?;
    Some(Known {
        created: exposure.created,
        requested: exposure.requested.clone(),
        wish: exposure.wish.as_deref()?.clone(),
        families: (exposure.ipv4, exposure.ipv6),
        ports: service.ports.iter().map(|port| (port.transport, port.port)).collect(),
        needs_local: exposure.external_local,
        is_managed: false,
        confirmed: BTreeSet::new(),
        told: None,
        desired: None,
    })
}

fn families(known: &Known) -> Families {
    match known.wish.families {
        FamilyPolicy::Prefer => Families::Prefer,
        FamilyPolicy::Require => Families::Require,
        FamilyPolicy::Single => match known.families {
            (_, true) if known.prefers_ipv6() => Families::One(Family::V6),
            _ => Families::One(Family::V4),
        },
    }
}

impl Known {
    /// Of one family only, it is IPv6.
    fn prefers_ipv6(&self) -> bool {
        let (ipv4, ipv6) = self.families;
        ipv6 && !ipv4
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is a failed test")]
mod tests;
