//! Whether all is known that decides on addresses of Services, and everything of it looked at again for whoever begins to
//! decide: a watch may be behind what the replica has written that decided before, and a list is not. Decides on no address.

use std::collections::BTreeMap;

use config::report::Kind;

use super::feed::Order;
use super::progress::FeedId;
use super::resource::Resource;
use super::{Follower, KubeSource, Phase};
use crate::source::Knowledge;

/// How far that is.
#[derive(Debug, Default)]
pub(super) struct CatchUp {
    /// Orders are numbered.
    last: u64,
    /// What the lists of watched namespaces must be younger than, while these are looked at first: they say which Services
    /// there are.
    namespaces: Option<u64>,
    /// What all others must be younger than.
    objects: u64,
    /// list → the order that it is younger than
    done: BTreeMap<FeedId, u64>,
}

/// Its objects say who has which address, and who may have which.
fn decides(resource: Resource) -> bool {
    // What an advertisement says concerns addresses that were given.
    let is_of_pools = Resource::OF_POOLS.contains(&resource) && resource != Resource::L2Advertisements;
    resource == Resource::Services || is_of_pools
}

impl KubeSource {
    /// Whether all pools are known, and all Services, which have addresses of them. Of those that do not decode, the
    /// addresses are known as far as that goes, and nobody else waits for them; whom selectors mean is not known without the
    /// labels of a namespace. A server that does not know the kind of a pool has none.
    pub(super) fn pools_known(&self) -> Knowledge {
        let mut undecoded = self.undecoded.iter();
        if self.phase != Phase::Live
            || self.catch_up.namespaces.is_some()
            || undecoded.any(|object| object.kind == Kind::Namespace)
        {
            return Knowledge::Partial;
        }
        // Whoever may not see the cluster's networks gives addresses without that.
        let is_known = |list: &Follower| self.whole.contains(&list.id) || self.progress.is_refused(list.id);
        let mut networks = self.followers.iter().filter(|list| list.target.resource.is_of_networks());
        if !networks.all(is_known) {
            return Knowledge::Partial;
        }
        let lists = self.followers.iter().filter(|follower| decides(follower.target.resource));
        lists.map(|follower| self.list_known(follower)).min().unwrap_or(Knowledge::Whole)
    }

    fn list_known(&self, follower: &Follower) -> Knowledge {
        let has_caught_up =
            || self.catch_up.done.get(&follower.id).copied().unwrap_or_default() >= self.catch_up.objects;
        // What a list that is complete says may not have been taken in yet.
        if self.whole.contains(&follower.id) {
            let is_known = has_caught_up() || self.progress.is_missing_for_long(follower.id);
            return if is_known { Knowledge::Whole } else { Knowledge::Partial };
        }
        if !self.progress.is_missing(follower.id) {
            return Knowledge::Partial;
        }
        if self.progress.is_missing_for_long(follower.id) { Knowledge::Whole } else { Knowledge::Unconfirmed }
    }

    /// Has everything listed that decides on addresses.
    pub(super) fn begin_to_catch_up(&mut self) {
        self.catch_up.last += 1;
        if self.settings.namespace_selector.is_some() {
            self.catch_up.namespaces = Some(self.catch_up.last);
        } else {
            self.catch_up.objects = self.catch_up.last;
        }
        self.order_to_catch_up(|_| true);
    }

    /// Tells those of `which` that have to catch up to do so.
    pub(super) fn order_to_catch_up(&self, which: impl Fn(&Follower) -> bool) {
        for follower in self.followers.iter().filter(|follower| which(follower)) {
            let number = match (self.catch_up.namespaces, follower.target.resource) {
                (Some(number), Resource::Namespaces) => number,
                (None, resource) if decides(resource) => self.catch_up.objects,
                _ => 0,
            };
            if number > 0 {
                // A feed ends only when we do.
                let _ = follower.orders.send(Order::CatchUp(number));
            }
        }
    }

    /// A list is complete and younger than the order of this number.
    pub(super) fn caught_up(&mut self, feed: FeedId, as_of: u64) {
        self.catch_up.done.insert(feed, as_of);
        let resource = self.followers.iter().find(|follower| follower.id == feed);
        let is_of_namespaces =
            resource.is_some_and(|follower| follower.target.resource == Resource::Namespaces);
        if is_of_namespaces && self.catch_up.namespaces.is_some_and(|number| as_of >= number) {
            // Feeds were told before which namespaces joined, so that their lists are of these as well.
            self.catch_up.namespaces = None;
            self.catch_up.last += 1;
            self.catch_up.objects = self.catch_up.last;
            self.order_to_catch_up(|follower| decides(follower.target.resource));
        }
    }
}
