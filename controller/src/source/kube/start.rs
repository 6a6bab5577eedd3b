//! The start of the source and the tasks that follow its lists: what is followed, when everything is there. Decides on
//! nothing that comes from them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use config::index::Event;
use config::report::{Kind, ObjectRef};
use tokio::sync::{mpsc, watch};

use super::feed::{Common, Feed};
use super::intake::{Change, Extras, Intake};
use super::outage::Outage;
use super::progress::{FeedId, Origin, STUCK};
use super::resource::{Resource, Target};
use super::transport::Transport;
use super::{Follower, KubeSource, Phase, Pools, REFRESH, fetch};
use crate::source::Certainty;

/// The node's zone is waited for this long at the start.
pub(super) const ZONE_PATIENCE: Duration = Duration::from_secs(2);
/// Secrets that neither come nor are refused are waited for this long at the start, once it is known which …
const MATERIAL_PATIENCE: Duration = Duration::from_secs(60);
/// … and this long if those that were kept on disk are in use meanwhile, and go on to be.
const MATERIAL_PATIENCE_FROM_DISK: Duration = Duration::from_secs(10);

impl KubeSource {
    /// Connections must be made on the runtime that drives the source, so that it begins here.
    pub(super) fn start(&mut self, now: Instant) {
        self.started = Some(now);
        let transport = match Transport::new(&self.config, self.settings.kubeconfig.clone()) {
            Ok(transport) => transport,
            Err(error) => {
                tracing::error!("the API server cannot be asked: {error}");
                return;
            }
        };
        let common = Common {
            transport,
            progress: Arc::clone(&self.progress),
            outage: Arc::<Outage>::default(),
            histories: watch::Sender::new(0),
            news: self.news.0.clone(),
        };
        if let Some(zone) = &self.settings.zone {
            self.events.push(Event::Zone(Some(Arc::clone(zone))));
        } else if let Some(node) = &self.settings.node {
            tokio::spawn(fetch::follow_zone(common.clone(), Arc::clone(node)));
        }
        self.common = Some(common);
        self.disk.start(&self.progress);
        if self.settings.namespace_selector.is_some() {
            self.phase = Phase::Namespaces;
            self.follow(Resource::Namespaces, now);
        } else {
            self.follow_objects(now);
        }
    }

    pub(super) fn follow_objects(&mut self, now: Instant) {
        self.phase = Phase::Objects;
        for resource in
            [Resource::IngressClasses, Resource::Services, Resource::EndpointSlices, Resource::Ingresses]
        {
            self.follow(resource, now);
        }
        let pools = match self.settings.pools {
            Pools::None => Resource::OF_POOLS.get(..0),
            Pools::Ours => Some([Resource::AddressPools, Resource::NamespaceLabels].as_slice()),
            Pools::WithMetallb => Some(Resource::OF_POOLS.as_slice()),
        };
        for resource in pools.unwrap_or_default() {
            self.follow(*resource, now);
        }
        if self.settings.pools != Pools::None {
            Resource::OF_NETWORKS.iter().for_each(|resource| self.follow(*resource, now));
        }
    }

    /// Begins to follow a resource, in every namespace that is named.
    pub(super) fn follow(&mut self, resource: Resource, now: Instant) {
        let selector = match resource {
            Resource::Namespaces => self.settings.namespace_selector.clone(),
            Resource::Ingresses => self.settings.selector.clone(),
            _ => None,
        };
        let namespaces: Vec<Option<Arc<str>>> =
            if resource.is_of_namespaces() && !self.settings.namespaces.is_empty() {
                self.settings.namespaces.iter().cloned().map(Some).collect()
            } else {
                vec![None]
            };
        for namespace in namespaces {
            self.follow_one(Target { resource, namespace, selector: selector.clone() }, now);
        }
    }

    pub(super) fn follow_one(&mut self, target: Target, now: Instant) {
        let id = self.progress.add(target.clone(), now);
        self.run(id, target);
    }

    pub(super) fn run(&mut self, id: FeedId, target: Target) {
        let Some(common) = self.common.clone() else { return };
        let is_filtered = self.settings.namespace_selector.is_some() && target.resource.is_of_namespaces();
        let namespaces = is_filtered.then(|| self.joined.clone());
        let observes = self.notes.are_read();
        let extras = Extras {
            observes,
            // Without load balancers as well: what was written while there were some is taken back.
            observes_services: observes,
            keeps: self.disk.keeps(),
        };
        let intake = Intake::new(target.clone(), self.wants.wanted().clone(), extras, namespaces);
        let (orders, receiver) = mpsc::unbounded_channel();
        let whole = Arc::new(AtomicBool::new(self.are_many_unknown(target.resource)));
        tokio::spawn(Feed::new(id, common, intake, receiver, Arc::clone(&whole)).run());
        self.followers.push(Follower { id, target, orders, whole });
        self.order_to_catch_up(|follower| follower.id == id);
    }

    /// Goes on with the start as far as that is possible.
    pub(super) fn advance(&mut self, now: Instant) {
        if self.phase == Phase::Namespaces && self.progress.is_settled(now) {
            self.follow_objects(now);
        }
        if self.phase == Phase::Objects && self.progress.is_settled(now) {
            self.phase = Phase::Material(now);
            if self.progress.is_resource_synced(Resource::IngressClasses) {
                self.claims.classes_listed();
            }
            self.claim(now);
            self.disclaim();
            let named = self.settings.default_certificate.clone();
            let secret = |(namespace, name)| ObjectRef { kind: Kind::Secret, namespace, name };
            self.apart = named.map(|named| (secret(named), now + REFRESH));
            for resource in [Resource::Secrets, Resource::ConfigMaps] {
                self.follow_material(resource, now);
            }
        }
        if let Phase::Material(since) = self.phase {
            let is_patient = now < since + self.material_patience();
            let awaits_material = is_patient && self.wants.wanted().is_any_unknown();
            let awaits_zone =
                self.awaits_zone && self.started.is_some_and(|started| now < started + ZONE_PATIENCE);
            if self.progress.is_settled(now) && !awaits_material && !awaits_zone {
                self.go_live(now);
            }
        }
    }

    /// Everything is there: from now on, every change is passed on as it comes.
    pub(super) fn go_live(&mut self, now: Instant) {
        self.phase = Phase::Live;
        self.progress.serve(Origin::Live);
        for resource in Resource::OF_OBJECTS {
            self.end_restored(resource, now);
        }
        self.disk.complete(now);
    }

    /// Takes away what only the disk had of a resource whose lists are complete. A Secret or ConfigMap that is named stays
    /// until it was asked for: its list, or the answer to that, says if it is gone.
    pub(super) fn end_restored(&mut self, resource: Resource, now: Instant) {
        if let Some(kind) = resource.kind()
            && self.progress.is_resource_synced(resource)
        {
            let wanted = self.wants.wanted();
            let gone = self.disk.is_listed(kind, |object| wanted.material(object).is_some());
            gone.iter().for_each(|object| self.retract(object));
            if kind == Kind::IngressClass {
                gone.into_iter().for_each(|class| self.change(Change::Gone(class), now));
            } else {
                self.events.extend(gone.into_iter().map(Event::Delete));
            }
        }
    }

    /// True if a server that may well answer does not say what must be known before anything is served.
    pub(super) fn is_stuck(&self, now: Instant) -> bool {
        match self.phase {
            Phase::Material(since) => {
                let is_late = self.has_trouble && now >= since + STUCK;
                is_late && self.wants.wanted().is_any_unknown()
            }
            Phase::Namespaces | Phase::Objects => self.progress.is_stuck(now),
            Phase::New | Phase::Live => false,
        }
    }

    pub(super) fn material_patience(&self) -> Duration {
        if self.disk.is_in_use() { MATERIAL_PATIENCE_FROM_DISK } else { MATERIAL_PATIENCE }
    }

    pub(super) fn is_complete(&mut self, feed: FeedId, now: Instant) {
        self.forbidden.remove(&feed);
        self.whole.insert(feed);
        let Some(follower) = self.followers.iter().find(|follower| follower.id == feed) else { return };
        // Later changes are few.
        follower.whole.store(false, Relaxed);
        let resource = follower.target.resource;
        if self.phase == Phase::Live {
            self.end_restored(resource, now);
        }
    }

    /// How well it is known which Ingresses are whose. Ingresses always are once we are live, except in namespaces that we may not
    /// look into, of which nobody hears anything.
    pub(super) fn certainty_now(&self) -> Certainty {
        let mut lists =
            self.followers.iter().filter(|follower| follower.target.resource == Resource::IngressClasses);
        match self.phase {
            Phase::Live if lists.all(|follower| self.whole.contains(&follower.id)) => Certainty::Whole,
            Phase::Live if self.are_classes_denied => Certainty::ByName,
            _ => Certainty::Unknown,
        }
    }

    pub(super) fn has_failed(&mut self, feed: FeedId, is_forbidden: bool, now: Instant) {
        let follower = self.followers.iter().find(|follower| follower.id == feed);
        let is_material = follower.is_some_and(|follower| follower.target.resource.is_material());
        if follower.is_some_and(|follower| follower.target.resource == Resource::IngressClasses) {
            self.are_classes_denied = is_forbidden;
        }
        if is_forbidden && is_material {
            self.forbidden.entry(feed).or_insert(now);
        } else if is_material {
            self.fetch_unknown(feed);
        }
    }
}
