//! Secrets and ConfigMaps that objects name: which are asked for by name, and when; what their answers mean. Never looks
//! into one.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use config::index::Event;
use config::report::ObjectRef;

use super::fetch::{self, Fetched};
use super::intake::{Change, decode_material};
use super::item;
use super::progress::FeedId;
use super::resource::Resource;
use super::version::Version;
use super::wanted::Material;
use super::{KubeSource, Phase, REFRESH};

/// If more Secrets than this are wanted at once, their list is taken instead of each of them.
const MANY: usize = 200;

impl KubeSource {
    pub(super) fn are_many_unknown(&self, resource: Resource) -> bool {
        resource.kind().filter(|_| resource.is_material()).is_some_and(|kind| {
            let wanted = self.wants.wanted().of_kind(kind);
            wanted.iter().filter(|(_, material)| *material == Material::Unknown).count() > MANY
        })
    }

    /// Begins to follow Secrets or ConfigMaps, if any are named and nobody does.
    pub(super) fn follow_material(&mut self, resource: Resource, now: Instant) {
        let Some(kind) = resource.kind() else { return };
        let wanted = self.wants.wanted().of_kind(kind);
        if wanted.is_empty() || self.followers.iter().any(|follower| follower.target.resource == resource) {
            return;
        }
        self.follow(resource, now);
        let is_whole = self.are_many_unknown(resource);
        for (reference, material) in wanted {
            if material == Material::Unknown && (!is_whole || !self.is_covered(&reference)) {
                self.fetch(reference, None);
            }
        }
    }

    /// False as long as it is not known which objects there are.
    pub(super) fn asks_for_material(&self) -> bool {
        matches!(self.phase, Phase::Material(_) | Phase::Live)
    }

    /// True if there is a list that has the object, and takes it in.
    pub(super) fn is_covered(&self, reference: &ObjectRef) -> bool {
        let namespaces = &self.settings.namespaces;
        let is_listed = namespaces.is_empty() || namespaces.contains(&reference.namespace);
        let is_filtered = self.settings.namespace_selector.is_some();
        is_listed && (!is_filtered || self.joined.contains(&reference.namespace))
    }

    /// Asks for a Secret or ConfigMap by name, because `version` of it was heard of.
    pub(super) fn fetch(&mut self, reference: ObjectRef, version: Option<Version>) {
        let Some(common) = self.common.clone() else { return };
        if self.fetching.contains_key(&reference) {
            // What is on its way may be older than what is wanted now.
            self.again.insert(reference, version);
            return;
        }
        let task = tokio::spawn(fetch::fetch(common, Arc::clone(&self.turns), reference.clone()));
        self.fetching.insert(reference, task.abort_handle());
    }

    /// What was to come with a list that fails is asked for by name.
    pub(super) fn fetch_unknown(&mut self, feed: FeedId) {
        let Some(follower) = self.followers.iter().find(|follower| follower.id == feed) else { return };
        let Some(kind) = follower.target.resource.kind().filter(|_| follower.whole.load(Relaxed)) else {
            return;
        };
        for (reference, material) in self.wants.wanted().of_kind(kind) {
            if material == Material::Unknown && !self.fetching.contains_key(&reference) {
                self.fetch(reference, None);
            }
        }
    }

    /// Asks for what is wanted of lists that may not be seen.
    pub(super) fn refresh(&mut self, now: Instant) {
        let due: Vec<FeedId> =
            self.forbidden.iter().filter(|(_, at)| **at <= now).map(|(feed, _)| *feed).collect();
        if let Some((reference, at)) = self.apart.as_mut().filter(|(_, at)| *at <= now) {
            *at = now + REFRESH;
            let reference = reference.clone();
            if !self.is_covered(&reference) && !self.fetching.contains_key(&reference) {
                self.fetch(reference, None);
            }
        }
        for feed in due {
            self.forbidden.insert(feed, now + REFRESH);
            let Some(follower) = self.followers.iter().find(|follower| follower.id == feed) else { continue };
            let namespace = follower.target.namespace.clone();
            let Some(kind) = follower.target.resource.kind() else { continue };
            for (reference, _) in self.wants.wanted().of_kind(kind) {
                let is_of_list = namespace.as_ref().is_none_or(|namespace| *namespace == reference.namespace);
                if is_of_list && !self.fetching.contains_key(&reference) {
                    self.fetch(reference, None);
                }
            }
        }
    }

    pub(super) fn fetched(&mut self, reference: &ObjectRef, fetched: Fetched, now: Instant) {
        let is_over = !matches!(fetched, Fetched::Failed(_));
        if is_over {
            self.fetching.remove(reference);
        }
        let mut came = None;
        match fetched {
            Fetched::Object(json) => match item::peek(&json) {
                Some(item) => {
                    came.clone_from(&item.version);
                    let changes = decode_material(reference.clone(), &item, &json, self.disk.keeps());
                    let is_bad = !changes.iter().any(|change| matches!(change, Change::Apply(_)));
                    changes.into_iter().for_each(|change| self.change(change, now));
                    if is_bad {
                        // It is there, and waiting for it makes it no better.
                        self.resolve(reference, Material::Loaded(item.version));
                    }
                }
                None => self.resolve(reference, Material::Absent),
            },
            Fetched::Absent => self.change(Change::Gone(reference.clone()), now),
            Fetched::Failed(failure) => {
                tracing::debug!(%reference, "cannot be read: {failure}");
                self.has_trouble |= failure.is_trouble();
                let is_unknown = self.wants.wanted().material(reference) == Some(Material::Unknown);
                if failure.is_denial() && is_unknown {
                    self.resolve(reference, Material::Absent);
                }
            }
        }
        if is_over && let Some(version) = self.again.remove(reference) {
            let is_that = version.is_some() && version == came;
            if !is_that && self.wants.wanted().material(reference).is_some() {
                self.fetch(reference.clone(), version);
            }
        }
    }

    /// A Secret or ConfigMap is named for the first time.
    pub(super) fn want(&mut self, reference: ObjectRef, now: Instant) {
        if !self.asks_for_material() {
            return;
        }
        if let Some(resource) = Resource::of(reference.kind) {
            self.follow_material(resource, now);
        }
        if !self.fetching.contains_key(&reference) {
            self.fetch(reference, None);
        }
    }

    /// Nobody names these any more.
    pub(super) fn forget(&mut self, unwanted: Vec<ObjectRef>) {
        for reference in unwanted {
            self.again.remove(&reference);
            if let Some(task) = self.fetching.remove(&reference) {
                task.abort();
            }
            self.disk.remove(&reference);
            self.events.push(Event::Problems { source: reference.to_string().into(), problems: Vec::new() });
            self.events.push(Event::Delete(reference));
        }
    }

    /// It is known what became of a Secret or ConfigMap, so that whoever waited for it need not: [`Self::release`].
    pub(super) fn resolve(&self, reference: &ObjectRef, material: Material) {
        self.wants.wanted().set(reference, material);
    }

    /// Passes on the objects that wait no longer.
    pub(super) fn release(&mut self, now: Instant) {
        let wanted = self.wants.wanted().clone();
        let is_known = |reference: &ObjectRef| {
            wanted.material(reference).is_none_or(|material| material != Material::Unknown)
        };
        for (reference, event, named) in self.held.release(now, is_known) {
            self.pass_on(event, &reference, &named);
        }
    }
}
