//! Which Service of type LoadBalancer has which address. Pure: no I/O, no clock, no randomness; it never reads objects
//! and never writes any.
//!
//! Rules, in this order:
//! 1. An address that a Service has is never moved while it may have it: while a pool that admits the Service has it, and
//!    the Service asks for nothing else.
//! 2. What it had before a restart, according to its status, counts as what it has. If Services of several namespaces had
//!    one address, and nobody has it, nobody gets it: one of the records is made up.
//! 3. Among Services that want the same, the oldest is served first, then by namespace and name, whatever the order in
//!    which they became known.
//! 4. Nobody gets an address of a network that is the cluster's own; who has one keeps it.
//! 5. Addresses come from the first pool that offers one (see [`Allocator::set_pools`]), the lowest first; a Service that
//!    shares goes where others with its terms already are.

mod assigner;
mod closed;
mod holdings;
pub mod memory;
mod outcome;
mod owners;
mod pool;
mod request;
mod runs;
mod space;
mod virtual_address;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use config::report::ObjectRef;
use config::resource::{AddressPool, Holding};
use ipnet::IpNet;

pub use self::assigner::{Assigner, Desired, Given, Role};
pub use self::outcome::{Assigned, Conflict, Lack, Outcome, Settled, Withdrawal};
pub use self::pool::{Overlap, Usage};
pub use self::request::{Families, Family, Nodes, Request, Sharing};
pub use self::virtual_address::{Announcement, VirtualAddress};

use self::closed::Closed;
use self::holdings::Holdings;
use self::owners::Owners;
use self::pool::Pool;

/// Pools, requests, and who has what.
#[derive(Clone, Debug, Default)]
pub struct Allocator {
    /// In the order in which they are looked at.
    pools: Vec<Pool>,
    /// Service → what it wants and has
    claims: BTreeMap<ObjectRef, Claim>,
    owners: Owners,
    /// address → Services that had it according to their hints
    hinted: BTreeMap<IpAddr, BTreeSet<ObjectRef>>,
    /// Addresses that Services of several namespaces had, and nobody knows who: nobody gets them.
    disputed: BTreeMap<IpAddr, Pair>,
    /// Networks that are the cluster's own.
    closed: Closed,
    /// Addresses that Services may have that cannot be read.
    holdings: Holdings,
    /// Services with less than they want.
    waiting: BTreeSet<Age>,
    /// Services of which something changed since the last [`Self::settle`].
    touched: BTreeSet<Age>,
    /// What was lost since then, and by whom.
    lost: BTreeMap<ObjectRef, Vec<(IpAddr, Withdrawal)>>,
    /// Somebody may get now what it could not get before.
    is_eased: bool,
}

/// A Service's turn: the oldest first.
type Age = (i64, ObjectRef);

/// Two Services of a dispute.
type Pair = [ObjectRef; 2];

/// What a Service wants, and what it has.
#[derive(Clone, Debug)]
struct Claim {
    /// `None` once it wants nothing any more, until that is settled.
    request: Option<Request>,
    created: i64,
    /// Of each family.
    held: [Option<IpAddr>; 2],
    lack: Option<Lack>,
    /// What was told of it last.
    told: Option<Outcome>,
}

impl Claim {
    fn age(&self, service: &ObjectRef) -> Age {
        (self.created, service.clone())
    }
}

impl Allocator {
    /// Puts `pools` in the place of those that were known. They are looked at in this order: those that admit only
    /// certain Services, then by priority, then by name. Who asks for no address by itself gets none that is `reserved`.
    /// Returns which have addresses in common.
    pub fn set_pools(
        &mut self,
        pools: &BTreeMap<ObjectRef, AddressPool>,
        reserved: &BTreeSet<IpAddr>,
    ) -> Vec<Overlap> {
        self.pools = pools.iter().map(|(name, pool)| Pool::new(name.clone(), pool)).collect();
        self.pools.sort_by_cached_key(Pool::order);
        self.pools.iter_mut().for_each(|pool| pool.close(&self.closed));
        self.disputed.clear();
        let taken = self.owners.addresses().chain(reserved.iter().copied());
        for address in taken.chain(self.holdings.addresses()) {
            self.pools.iter_mut().for_each(|pool| pool.take(address));
        }
        self.look_again();
        self.is_eased = true;
        pool::overlaps(pools.iter())
    }

    /// These networks are `object`'s now, and nobody gets an address of them; takes effect with [`Self::set_pools`]. Returns
    /// those that came or went.
    pub fn close(&mut self, object: &ObjectRef, networks: Box<[IpNet]>) -> Vec<IpNet> {
        self.closed.set(object, networks)
    }

    /// Services that cannot be read may have these addresses: those of them that nobody has are given to nobody.
    pub fn set_holdings(&mut self, holdings: &BTreeMap<ObjectRef, Holding>) {
        let holdings = Holdings::new(holdings);
        if holdings == self.holdings {
            return;
        }
        let former = std::mem::replace(&mut self.holdings, holdings);
        for address in former.addresses() {
            self.give_back(address);
        }
        for address in self.holdings.addresses() {
            self.pools.iter_mut().for_each(|pool| pool.take(address));
        }
        self.look_again();
        self.is_eased = true;
    }

    /// Nobody keeps `address` from others any more, unless there is another reason to.
    fn give_back(&mut self, address: IpAddr) {
        let is_kept = self.holdings.has(address)
            || self.disputed.contains_key(&address)
            || !self.owners.of(address).is_empty();
        if !is_kept {
            self.pools.iter_mut().for_each(|pool| pool.give_back(address));
        }
    }

    /// Notes what `service` asks for now; `None` if nothing any more, because it is gone, of another type, or of another
    /// class. Takes effect with [`Self::settle`].
    pub fn request(&mut self, service: &ObjectRef, request: Option<Request>) {
        if self.claims.get(service).is_some_and(|claim| claim.request == request) {
            return;
        }
        self.hint(service, request.as_ref());
        let created = request.as_ref().and_then(|request| request.created).unwrap_or(i64::MAX);
        match self.claims.get_mut(service) {
            Some(claim) => {
                let age = claim.age(service);
                self.touched.remove(&age);
                self.waiting.remove(&age);
                claim.request = request;
                claim.created = created;
            }
            None if request.is_none() => return,
            None => {
                let claim = Claim { request, created, held: [None, None], lack: None, told: None };
                self.claims.insert(service.clone(), claim);
            }
        }
        self.touched.insert((created, service.clone()));
    }

    /// Notes which hints `service` has now. Where they were disputed, that is looked at again.
    fn hint(&mut self, service: &ObjectRef, request: Option<&Request>) {
        let former = self.claims.get(service).and_then(|claim| claim.request.as_ref());
        let former: Vec<IpAddr> = former.map(|request| request.hint.to_vec()).unwrap_or_default();
        let now = request.map(|request| request.hint.to_vec()).unwrap_or_default();
        let mut settled = Vec::new();
        for address in former.iter().chain(&now) {
            let services = self.hinted.entry(*address).or_default();
            if now.contains(address) {
                services.insert(service.clone());
            } else {
                services.remove(service);
            }
            if self.disputed.remove(address).is_some() {
                settled.push(*address);
                self.is_eased = true;
                let ages = services.iter().filter_map(|other| Some(self.claims.get(other)?.age(other)));
                self.touched.extend(ages);
            }
            if services.is_empty() {
                self.hinted.remove(address);
            }
        }
        for address in settled {
            self.give_back(address);
        }
    }

    /// What `service` has; `None` if it asks for nothing.
    #[must_use]
    pub fn outcome(&self, service: &ObjectRef) -> Option<Outcome> {
        let claim = self.claims.get(service)?;
        claim.request.as_ref()?;
        let assigned = claim.held.iter().flatten().filter_map(|address| {
            let pool = self.pool_of(service, *address)?.name.clone();
            Some(Assigned { address: *address, pool })
        });
        Some(Outcome { assigned: assigned.collect(), lack: claim.lack.clone() })
    }

    /// The pool that has `address`, whomever it admits; the first one, if several have it.
    #[must_use]
    pub fn pool_with(&self, address: IpAddr) -> Option<&ObjectRef> {
        self.pools.iter().find(|pool| pool.has(address)).map(|pool| &pool.name)
    }

    /// How much of each pool is in use, in the order in which they are looked at.
    pub fn usage(&self) -> impl Iterator<Item = (&ObjectRef, Usage)> {
        self.pools.iter().map(|pool| (&pool.name, pool.usage()))
    }

    /// Decides on everything that changed, and on what others can get because of it. Returns the Services for which
    /// something is different now, in order of their names.
    pub fn settle(&mut self) -> Vec<Settled> {
        let touched = std::mem::take(&mut self.touched);
        let kept = self.let_go(&touched);
        self.keep(kept);
        self.keep_hints(&touched);
        let mut turns = touched;
        if std::mem::take(&mut self.is_eased) {
            turns.extend(self.waiting.iter().cloned());
        }
        for age in &turns {
            self.fill(age);
        }
        self.tell(turns.into_iter().map(|(_, service)| service).collect())
    }

    /// Everything is to be decided on again, and nothing given or taken for that alone.
    fn look_again(&mut self) {
        self.touched.extend(self.claims.iter().map(|(service, claim)| claim.age(service)));
    }

    /// As [`Self::settle`], for whoever does not decide: hints are from who does. They go before what a Service has, and
    /// nobody gets anything else.
    pub fn follow(&mut self) -> Vec<Settled> {
        let touched = std::mem::take(&mut self.touched);
        self.obey(&touched);
        let mut told: BTreeSet<ObjectRef> = touched.into_iter().map(|(_, service)| service).collect();
        if std::mem::take(&mut self.is_eased) && !self.waiting.is_empty() {
            let waiting = self.waiting.clone();
            self.obey(&waiting);
            told.extend(waiting.into_iter().map(|(_, service)| service));
            self.is_eased = false;
        }
        told.extend(self.lost.keys().cloned());
        self.tell(told)
    }

    /// Gives to each of `turns` what its hint says, or else leaves it what it had.
    fn obey(&mut self, turns: &BTreeSet<Age>) {
        let kept = self.let_go(turns);
        // What one has and has on record, no other record takes from it.
        let (on_record, kept): (Vec<_>, Vec<_>) =
            kept.into_iter().partition(|(service, address)| self.is_hinted(service, *address));
        self.keep(on_record);
        for (_, service) in turns {
            let Some(Claim { request: Some(request), .. }) = self.claims.get(service) else { continue };
            for address in request.hint.clone() {
                let is_free = self.is_unrivalled(service, address);
                if is_free && self.may_keep(service, address).is_ok() {
                    self.oust(service, address);
                }
            }
        }
        self.keep_hints(turns);
        for (service, address) in kept {
            let held = self.claims.get(&service).map(|claim| *Family::of(address).pick(&claim.held));
            if held != Some(None) || self.take(&service, address).is_err() {
                self.lost.entry(service).or_default().push((address, Withdrawal::RequestChanged));
            }
        }
        for age in turns {
            if self.lacks_hint(age) {
                self.waiting.insert(age.clone());
            } else {
                self.waiting.remove(age);
            }
        }
    }

    fn is_hinted(&self, service: &ObjectRef, address: IpAddr) -> bool {
        self.hinted.get(&address).is_some_and(|services| services.contains(service))
    }

    /// Notes that nobody gets `address`, if nobody has it and Services of several namespaces had it. A record can be made up
    /// by whoever may write the status of one of them, so that age decides nothing.
    fn dispute(&mut self, address: IpAddr) -> bool {
        if self.disputed.contains_key(&address) {
            return true;
        }
        if !self.owners.of(address).is_empty() {
            return false;
        }
        let sharing = |service: &ObjectRef| self.claims.get(service)?.request.as_ref()?.sharing.clone();
        let services = self.hinted.get(&address).into_iter().flatten();
        let mut services = services.filter(|service| self.may_keep(service, address).is_ok());
        let Some(first) = services.next() else { return false };
        let shares = |other: &ObjectRef| sharing(first).is_some() && sharing(first) == sharing(other);
        let is_foreign = |other: &&ObjectRef| other.namespace != first.namespace && !shares(other);
        let Some(other) = services.find(is_foreign) else { return false };
        let pair = [first.clone(), other.clone()];
        self.pools.iter_mut().for_each(|pool| pool.take(address));
        self.disputed.insert(address, pair);
        true
    }

    /// A dispute in which `service` is.
    fn disputed(&self, service: &ObjectRef, request: &Request) -> Option<Lack> {
        request.hint.iter().find_map(|address| {
            let [one, other] = self.disputed.get(address)?;
            Some(Lack::Disputed(*address, if one == service { other.clone() } else { one.clone() }))
        })
    }

    /// Takes `address`, which `service` has according to a hint, from others that have it without one.
    fn oust(&mut self, service: &ObjectRef, address: IpAddr) {
        for other in self.owners.of(address) {
            let Some(claim) = self.claims.get_mut(&other).filter(|_| other != *service) else { continue };
            let is_meant = claim.request.as_ref().is_some_and(|request| request.hint.contains(&address));
            if !is_meant {
                *Family::of(address).pick_mut(&mut claim.held) = None;
                self.release(&other, address);
                self.lost.entry(other).or_default().push((address, Withdrawal::RequestChanged));
            }
        }
    }

    /// True if the Service does not have all that hints say.
    fn lacks_hint(&self, age: &Age) -> bool {
        let Some(Claim { request: Some(request), held, .. }) = self.claims.get(&age.1) else { return false };
        request.hint.iter().any(|address| *Family::of(*address).pick(held) != Some(*address))
    }

    /// What is different for `services` from what was told of them.
    fn tell(&mut self, services: BTreeSet<ObjectRef>) -> Vec<Settled> {
        let mut lost = std::mem::take(&mut self.lost);
        let mut news = Vec::new();
        for service in services {
            let outcome = self.outcome(&service);
            let withdrawn = lost.remove(&service).unwrap_or_default();
            let Some(claim) = self.claims.get_mut(&service) else { continue };
            let is_new = claim.told != outcome || !withdrawn.is_empty();
            if outcome.is_none() {
                self.claims.remove(&service);
            } else {
                claim.told.clone_from(&outcome);
            }
            if is_new {
                news.push(Settled { service, outcome, withdrawn });
            }
        }
        news
    }

    /// Takes everything from the `touched`. Returns what each may still have as far as it alone is concerned.
    fn let_go(&mut self, touched: &BTreeSet<Age>) -> Vec<(ObjectRef, IpAddr)> {
        let mut kept = Vec::new();
        for (_, service) in touched {
            let Some(claim) = self.claims.get_mut(service) else { continue };
            for address in std::mem::take(&mut claim.held).into_iter().flatten() {
                // Even if it takes it again, its terms may be others now.
                self.release(service, address);
                match self.may_keep(service, address) {
                    Ok(()) => kept.push((service.clone(), address)),
                    Err(why) => self.lost.entry(service.clone()).or_default().push((address, why)),
                }
            }
        }
        kept
    }

    /// Gives what was let go to who had it, as far as it goes together with what others have.
    fn keep(&mut self, kept: Vec<(ObjectRef, IpAddr)>) {
        for (service, address) in kept {
            if self.take(&service, address).is_err() {
                self.lost.entry(service).or_default().push((address, Withdrawal::SharingEnded));
            }
        }
    }

    /// Gives to who has nothing of a family what it had before a restart.
    fn keep_hints(&mut self, touched: &BTreeSet<Age>) {
        for (_, service) in touched {
            let Some(Claim { request: Some(request), .. }) = self.claims.get(service) else { continue };
            for address in request.hint.clone() {
                let held = self.claims.get(service).map(|claim| *Family::of(address).pick(&claim.held));
                let is_free = self.is_unrivalled(service, address);
                if held == Some(None)
                    && is_free
                    && self.may_keep(service, address).is_ok()
                    && !self.dispute(address)
                {
                    // Somebody else may have it; then another one is found.
                    let _is_taken = self.take(service, address).is_ok();
                }
            }
        }
    }

    /// Whether no Service that cannot be read may have `address`, which `service` has on record.
    fn is_unrivalled(&self, service: &ObjectRef, address: IpAddr) -> bool {
        let request = self.claims.get(service).and_then(|claim| claim.request.as_ref());
        request.is_none_or(|request| self.holdings.rival(service, request, address).is_none())
    }

    /// Whether `service` may have `address`, whoever else has it.
    fn may_keep(&self, service: &ObjectRef, address: IpAddr) -> Result<(), Withdrawal> {
        let Some(Claim { request: Some(request), .. }) = self.claims.get(service) else {
            return Err(Withdrawal::Released);
        };
        let family = Family::of(address);
        let asked = request.addresses.iter().find(|asked| Family::of(**asked) == family);
        if !request.families.wants(family)
            || request.misread.is_some()
            || asked.is_some_and(|asked| *asked != address)
            || not_its_family(request).is_some()
        {
            return Err(Withdrawal::RequestChanged);
        }
        match self.pool_of(service, address) {
            Some(_) => Ok(()),
            // The pool that it is in is not the one that is wanted now.
            None if request.pool.is_some() && self.pools.iter().any(|pool| pool.has(address)) => {
                Err(Withdrawal::RequestChanged)
            }
            None => Err(Withdrawal::PoolChanged),
        }
    }

    /// The first pool that has `address` and admits `service`.
    fn pool_of(&self, service: &ObjectRef, address: IpAddr) -> Option<&Pool> {
        let request = self.claims.get(service)?.request.as_ref()?;
        self.pools.iter().find(|pool| pool.has(address) && pool.admits(service, request))
    }

    /// Gives `service` what it lacks, as far as possible, and notes what it still lacks.
    fn fill(&mut self, age: &Age) {
        let service = &age.1;
        let Some(Claim { request: Some(request), held, .. }) = self.claims.get(service) else { return };
        let wanted = Family::ALL.map(|family| request.families.wants(family) && family.pick(held).is_none());
        let is_strict = request.families == Families::Require && held.iter().all(Option::is_none);
        let mut lacks: Vec<Lack> = Vec::new();
        let mut taken: Vec<IpAddr> = Vec::new();
        for family in Family::ALL {
            if *family.pick(&wanted) {
                match self.find(service, family) {
                    Ok(address) => {
                        // It was found as one that can be taken.
                        if self.take(service, address).is_ok() {
                            taken.push(address);
                        }
                    }
                    Err(lack) => lacks.push(lack),
                }
            }
        }
        let Some(claim) = self.claims.get_mut(service) else { return };
        if is_strict && !lacks.is_empty() {
            claim.held = [None, None];
            let was_eased = self.is_eased;
            for address in taken {
                self.release(service, address);
            }
            // Nobody can get more than before.
            self.is_eased = was_eased;
        }
        self.conclude(age, lacks);
    }

    /// Notes what `service` lacks, and whether it waits.
    fn conclude(&mut self, age: &Age, lacks: Vec<Lack>) {
        let Some(claim) = self.claims.get_mut(&age.1) else { return };
        let Some(request) = &claim.request else { return };
        let is_settled = claim.held.iter().any(Option::is_some) && request.families == Families::Prefer;
        let is_waiting = !lacks.is_empty();
        // What is asked for by name is missed in any case; any address of a second family only if there could be one.
        let is_missed =
            |lack: &Lack| !is_settled || !matches!(lack, Lack::NoPool(_) | Lack::FamilyNotInPool(..));
        claim.lack = lacks.into_iter().find(is_missed);
        if is_waiting {
            self.waiting.insert(age.clone());
        } else {
            self.waiting.remove(age);
        }
    }

    /// An address of `family` that `service` can take now.
    fn find(&self, service: &ObjectRef, family: Family) -> Result<IpAddr, Lack> {
        let Some(Claim { request: Some(request), .. }) = self.claims.get(service) else {
            return Err(Lack::NoPool(family));
        };
        if let Some(text) = &request.misread {
            return Err(Lack::Misread(text.clone()));
        }
        if let Some(lack) = self.disputed(service, request) {
            return Err(lack);
        }
        let of_family = request.hint.iter().filter(|address| Family::of(**address) == family);
        let mut claimed = of_family.filter(|address| self.may_keep(service, **address).is_ok());
        if let Some((address, other)) =
            claimed.find_map(|address| Some((*address, self.holdings.rival(service, request, *address)?)))
        {
            return Err(Lack::Disputed(address, other.clone()));
        }
        if let Some(pool) = self.unreadable(service, request) {
            return Err(Lack::Unreadable(pool.name.clone()));
        }
        if let Some(address) = not_its_family(request) {
            return Err(Lack::NotItsFamily(address));
        }
        if let Some(name) = &request.pool
            && !self.pools.iter().any(|pool| pool.is_named(name))
        {
            return Err(Lack::NoSuchPool(name.clone()));
        }
        match request.addresses.iter().find(|address| Family::of(**address) == family) {
            Some(address) => self.find_asked(service, request, *address),
            None => self.find_any(service, request, family),
        }
    }

    /// A pool that cannot be read as a whole and that may have given `service` what it had, or has what it asks for.
    fn unreadable(&self, service: &ObjectRef, request: &Request) -> Option<&Pool> {
        let partial = self.pools.iter().find(|pool| pool.is_partial)?;
        let asked = request.addresses.iter().filter_map(|address| self.pool_of(service, *address));
        let is_lost = |address: &IpAddr| self.pool_of(service, *address).is_none();
        asked
            .into_iter()
            .chain(request.pool.iter().filter_map(|name| self.pools.iter().find(|pool| pool.is_named(name))))
            .find(|pool| pool.is_partial)
            .or_else(|| request.hint.iter().any(is_lost).then_some(partial))
    }

    fn find_asked(&self, service: &ObjectRef, request: &Request, address: IpAddr) -> Result<IpAddr, Lack> {
        if self.pool_of(service, address).is_none() {
            let is_meant = |pool: &&Pool| request.pool.as_ref().is_none_or(|name| pool.is_named(name));
            let closed = self.pools.iter().filter(is_meant).find(|pool| pool.has(address));
            return Err(match closed {
                Some(pool) => Lack::NotAdmitted(pool.name.clone()),
                None => Lack::OutsidePools(address),
            });
        }
        if let Some([holder, _]) = self.disputed.get(&address) {
            return Err(Lack::Disputed(address, holder.clone()));
        }
        if let Some((network, object)) = self.closed.by(address) {
            return Err(Lack::Closed(address, network, object.clone()));
        }
        if let Some(other) = self.holdings.holder(service, address) {
            return Err(Lack::InUse(address, Conflict::Unreadable(other.clone())));
        }
        match self.owners.conflict(service, request, address) {
            None => Ok(address),
            Some(conflict) => Err(Lack::InUse(address, conflict)),
        }
    }

    fn find_any(&self, service: &ObjectRef, request: &Request, family: Family) -> Result<IpAddr, Lack> {
        let mut offers = self.pools.iter().filter(|pool| pool.offers(service, request)).peekable();
        if offers.peek().is_none()
            && let Some(name) = &request.pool
            && let Some(closed) = self.pools.iter().find(|pool| pool.is_named(name))
        {
            return Err(Lack::NotAdmitted(closed.name.clone()));
        }
        let mut used_up = Vec::new();
        let mut without = None;
        for pool in offers {
            if !pool.has_family(family) {
                without = without.or(Some(pool));
                continue;
            }
            let shared = self.owners.shared(request, family);
            let can_join = |address: &IpAddr| {
                pool.has(*address)
                    && self.closed.by(*address).is_none()
                    && self.holdings.holder(service, *address).is_none()
                    && self.owners.conflict(service, request, *address).is_none()
            };
            if let Some(address) = shared.into_iter().flatten().copied().find(can_join) {
                return Ok(address);
            }
            match pool.lowest_free(family) {
                Some(address) => return Ok(address),
                None => used_up.push(pool.name.clone()),
            }
        }
        let partial = self
            .pools
            .iter()
            .find(|pool| pool.is_partial && pool.has_family(family) && pool.admits(service, request));
        if let Some(pool) = partial.filter(|_| used_up.is_empty()) {
            return Err(Lack::Unreadable(pool.name.clone()));
        }
        Err(match (used_up.is_empty(), without) {
            (false, _) => Lack::Exhausted(family, used_up),
            (true, Some(pool)) if request.pool.is_some() => Lack::FamilyNotInPool(pool.name.clone(), family),
            (true, _) => Lack::NoPool(family),
        })
    }

    /// Gives `address` to `service`, which has none of its family.
    fn take(&mut self, service: &ObjectRef, address: IpAddr) -> Result<(), Conflict> {
        let Some(Claim { request: Some(request), held, .. }) = self.claims.get_mut(service) else {
            return Ok(());
        };
        if let Some(conflict) = self.owners.conflict(service, request, address) {
            return Err(conflict);
        }
        if self.owners.add(service, request, address) {
            self.pools.iter_mut().for_each(|pool| pool.take(address));
        }
        *Family::of(address).pick_mut(held) = Some(address);
        Ok(())
    }

    /// Takes `address` from `service`; whoever waits may get it.
    fn release(&mut self, service: &ObjectRef, address: IpAddr) {
        if self.owners.remove(service, address) {
            self.give_back(address);
        }
        self.is_eased = true;
    }
}

/// An address that is asked for although none of its family is wanted, or although another one of it is.
fn not_its_family(request: &Request) -> Option<IpAddr> {
    let mut seen = [false, false];
    request.addresses.iter().copied().find(|address| {
        let family = Family::of(*address);
        let is_second = std::mem::replace(family.pick_mut(&mut seen), true);
        is_second || !request.families.wants(family)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is a failed test")]
mod tests;
