//! What comes from the tasks of the source → events. Never asks for anything itself.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use config::index::Event;
use config::report::{Kind, ObjectRef};
use config::resource::{IngressClass, Object, ObjectSpec};

use super::feed::{News, Order};
use super::intake::{Applied, Change};
use super::resource::Resource;
use super::wanted::Material;
use super::{KubeSource, Message, Phase};
use crate::status::Note;

impl KubeSource {
    pub(super) fn take(&mut self, message: Message, now: Instant) {
        match message {
            Message::Feed(News::Changes { feed, changes, is_whole, as_of }) => {
                changes.into_iter().for_each(|change| self.change(change, now));
                if is_whole {
                    self.is_complete(feed, now);
                    self.caught_up(feed, as_of);
                }
            }
            Message::Feed(News::Failed { feed, is_forbidden }) => self.has_failed(feed, is_forbidden, now),
            Message::Fetched { reference, fetched } => self.fetched(&reference, fetched, now),
            Message::Zone(event) => {
                self.awaits_zone = false;
                self.events.push(event);
            }
            Message::Disk(outcome) => {
                let restored = self.disk.take(outcome, &self.progress, self.is_stuck(now), now);
                if let Some(mut events) = restored.filter(|_| self.phase != Phase::Live) {
                    self.disk.are_known(&self.events, &mut events);
                    self.restore_classes(&events);
                    events.extend(self.settings.zone.clone().map(|zone| Event::Zone(Some(zone))));
                    self.from_disk = Some(events);
                }
            }
        }
    }

    /// What the disk had to say of this object is over.
    pub(super) fn retract(&mut self, reference: &ObjectRef) {
        if let Some(source) = self.disk.take_told(reference) {
            self.events.push(Event::Problems { source, problems: Vec::new() });
        }
    }

    pub(super) fn change(&mut self, change: Change, now: Instant) {
        match &change {
            Change::Apply(Applied { object: Object { reference, .. }, .. })
            | Change::Problems(reference, _)
            | Change::Gone(reference) => self.retract(reference),
            Change::Undecoded(..) | Change::Observed(_) | Change::Touched(..) | Change::Namespace(..) => {}
        }
        if let Change::Apply(Applied { object: Object { reference, .. }, .. }) | Change::Gone(reference) =
            &change
            && self.undecoded.remove(reference)
        {
            self.count_undecoded(reference.kind);
        }
        match change {
            Change::Apply(applied) => self.apply(applied, now),
            Change::Observed(observed) => self.notes.send(Note::Observed(observed)),
            Change::Problems(reference, problems) => {
                self.disk.is_known(&reference);
                self.events.push(Event::Problems { source: reference.to_string().into(), problems });
            }
            Change::Undecoded(reference, holding) => {
                if self.undecoded.insert(reference.clone()) {
                    self.count_undecoded(reference.kind);
                }
                if reference.kind == Kind::Service {
                    self.events.push(Event::Undecoded { service: reference, holding });
                }
            }
            Change::Gone(reference)
                if reference.kind == Kind::Secret || reference.kind == Kind::ConfigMap =>
            {
                self.disk.remove(&reference);
                self.events.push(Event::Delete(reference.clone()));
                self.resolve(&reference, Material::Absent);
                if self.fetching.contains_key(&reference) {
                    // What is on its way may be from before.
                    self.again.insert(reference, None);
                }
            }
            Change::Gone(reference) => {
                if reference.kind == Kind::Ingress || self.balancers.remove(&reference) {
                    self.notes.send(Note::Gone(reference.clone()));
                }
                self.disk.remove(&reference);
                let named = if reference.kind == Kind::IngressClass {
                    self.class_changed(&reference, None, now)
                } else {
                    self.claims.forget(&reference);
                    BTreeSet::new()
                };
                self.pass_on_with(Event::Delete(reference.clone()), reference, named, now);
            }
            Change::Touched(reference, version) => {
                // It may have come since that was written.
                let is_here = version.is_some()
                    && self.wants.wanted().material(&reference) == Some(Material::Loaded(version.clone()));
                if !is_here {
                    self.fetch(reference, version);
                }
            }
            Change::Namespace(namespace, is_joined) => self.namespace(namespace, is_joined),
        }
    }

    /// Tells how many objects of `kind` do not decode now.
    fn count_undecoded(&self, kind: Kind) {
        if let Some(resource) = Resource::of(kind) {
            let count = self.undecoded.iter().filter(|object| object.kind == kind).count();
            self.progress.undecoded(resource, count);
        }
    }

    pub(super) fn apply(&mut self, applied: Applied, now: Instant) {
        let Applied { object, version, observed, raw } = applied;
        match observed {
            Some(observed) => {
                if observed.object.kind == Kind::Service {
                    self.balancers.insert(observed.object.clone());
                }
                self.notes.send(Note::Observed(observed));
            }
            None if self.balancers.remove(&object.reference) => {
                self.notes.send(Note::Gone(object.reference.clone()));
            }
            None => {}
        }
        let reference = object.reference.clone();
        if matches!(reference.kind, Kind::Secret | Kind::ConfigMap) {
            if self.wants.wanted().material(&reference).is_some() {
                self.disk.put(&reference, raw);
                self.events.push(Event::Apply(object));
                self.resolve(&reference, Material::Loaded(version));
            }
            return;
        }
        if !raw.is_empty() {
            self.disk.put(&reference, raw);
        }
        let named = match &object.spec {
            ObjectSpec::IngressClass(class) => self.class_changed(&reference, Some(class), now),
            _ => {
                let named = self.claims.take(&object);
                for reference in self.wants.add(&reference, named.clone()) {
                    self.want(reference, now);
                }
                named
            }
        };
        self.pass_on_with(Event::Apply(object), reference, named, now);
    }

    /// Passes on what is new of `reference`; once we are live, when it is known what became of `named`.
    fn pass_on_with(&mut self, event: Event, reference: ObjectRef, named: BTreeSet<ObjectRef>, now: Instant) {
        let wanted = self.wants.wanted();
        let is_unknown = |reference: &ObjectRef| wanted.material(reference) == Some(Material::Unknown);
        if self.phase == Phase::Live && named.iter().any(is_unknown) {
            self.held.hold(reference, event, named, now);
            return;
        }
        self.held.remove(&reference);
        self.pass_on(event, &reference, &named);
    }

    /// Passes on what is new of `reference`, which names no more than `named`.
    pub(super) fn pass_on(&mut self, event: Event, reference: &ObjectRef, named: &BTreeSet<ObjectRef>) {
        self.events.push(event);
        if reference.kind == Kind::IngressClass {
            self.disclaim();
        } else {
            let unwanted = self.wants.keep(reference, named);
            self.forget(unwanted);
        }
    }

    /// What a class is now, or that it is gone; returns what is wanted because of that.
    fn class_changed(
        &mut self,
        reference: &ObjectRef,
        class: Option<&IngressClass>,
        now: Instant,
    ) -> BTreeSet<ObjectRef> {
        if self.claims.class(&reference.name, class) { self.claim(now) } else { BTreeSet::new() }
    }

    /// Wants what our Ingresses name; returns what nobody has named before.
    pub(super) fn claim(&mut self, now: Instant) -> BTreeSet<ObjectRef> {
        let mut first = BTreeSet::new();
        if !self.asks_for_material() {
            return first;
        }
        for (ingress, named) in self.claims.ours() {
            first.extend(self.wants.add(&ingress, named));
        }
        first.iter().for_each(|reference| self.want(reference.clone(), now));
        first
    }

    /// Forgets what only Ingresses name that are not ours.
    pub(super) fn disclaim(&mut self) {
        // As long as news of a class wait, these may be served.
        if !self.asks_for_material() || self.held.has(Kind::IngressClass) {
            return;
        }
        for ingress in self.claims.foreign() {
            let unwanted = self.wants.keep(&ingress, &BTreeSet::new());
            self.forget(unwanted);
        }
    }

    fn restore_classes(&mut self, events: &[Event]) {
        for event in events {
            if let Event::Apply(Object { reference, spec: ObjectSpec::IngressClass(class), .. }) = event {
                self.claims.restore_class(&reference.name, class);
            }
        }
    }

    /// A namespace is one of those that are watched, or no longer.
    pub(super) fn namespace(&mut self, namespace: Arc<str>, is_joined: bool) {
        let order = if is_joined {
            self.joined.insert(Arc::clone(&namespace));
            Order::Join(namespace)
        } else {
            self.joined.remove(&namespace);
            Order::Leave(namespace)
        };
        for follower in &self.followers {
            if follower.target.resource.is_of_namespaces() {
                // A feed ends only when we do.
                let _ = follower.orders.send(order.clone());
            }
        }
    }
}
