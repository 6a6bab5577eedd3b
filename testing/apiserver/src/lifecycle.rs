//! What a control plane does on its own: empties namespaces that are to be deleted, deletes what deleted objects owned, and
//! serves what CustomResourceDefinitions define. Runs behind the requests, as controllers would.

use std::sync::{Arc, Weak};

use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::kinds::{self, Kind, What};
use crate::rules;
use crate::state::State;
use crate::store::{Object, key};
use crate::write::{Body, Deletion, Writer, Writing, build};

/// The ConfigMap that every namespace has.
const ROOT: &str = "kube-root-ca.crt";
use crate::{meta, shape};

/// What has happened that calls for something.
#[derive(Debug)]
pub(crate) enum Task {
    /// A namespace is to be deleted, or something in such a namespace is gone.
    Empty(Box<str>),
    /// An object that others name as their owner is gone.
    Orphans(Box<str>),
    /// An object waits until what it owns is dealt with.
    Owner { kind: Arc<Kind>, namespace: Box<str>, name: Box<str> },
    /// A definition has changed.
    Define(Box<str>),
    /// A namespace may lack what every namespace has.
    Furnish(Box<str>),
}

/// Does the tasks until nobody can send any.
pub(crate) async fn run(state: Weak<State>, mut tasks: mpsc::UnboundedReceiver<Task>) {
    while let Some(task) = tasks.recv().await {
        let Some(state) = state.upgrade() else { return };
        match task {
            Task::Empty(namespace) => empty(&state, &namespace),
            Task::Orphans(uid) => {
                dependents(&state, &uid)
                    .into_iter()
                    .for_each(|(kind, object)| delete(&state, &kind, &object));
            }
            Task::Owner { kind, namespace, name } => owner(&state, &kind, &namespace, &name),
            Task::Define(name) => define(&state, &name),
            Task::Furnish(namespace) => furnish(&state, &namespace),
        }
    }
}

/// Deletes what is in a namespace, and then the namespace itself.
fn empty(state: &State, namespace: &str) {
    let object = state.store().object("namespaces.", &key("", namespace));
    if object.is_none_or(|object| !meta::is_deleted(&object.value())) {
        return;
    }
    let mut left = 0;
    for kind in state.kinds().iter().filter(|kind| kind.namespaced) {
        let objects = {
            let store = state.store();
            store.list(&kind.storage, Some(namespace), None, store.version()).unwrap_or_default()
        };
        for object in objects {
            let deletion = Deletion { grace: Some(0), ..Deletion::default() };
            let gone = Writer::new(state, kind, Some(namespace)).delete(&object.name, &deletion);
            left += usize::from(!gone.map_or(true, |(_, gone)| gone));
        }
    }
    if left == 0 {
        finish(state, namespace);
    }
}

/// Removes an empty namespace that is to be deleted, unless somebody else has a finalizer on it.
fn finish(state: &State, namespace: &str) {
    let kind = state.namespaces.clone();
    change(state, &kind, "", namespace, |value| {
        if meta::is_deleted(value) {
            let others = value.pointer("/spec/finalizers").and_then(Value::as_array).into_iter().flatten();
            let others: Vec<_> = others.filter(|each| *each != "kubernetes").cloned().collect();
            let spec = if others.is_empty() { json!({}) } else { json!({"finalizers": others}) };
            shape::put(value, "spec", Some(spec));
        }
    });
}

/// Changes a stored object as a controller does; removes it if it is over then.
fn change(state: &State, kind: &Arc<Kind>, namespace: &str, name: &str, change: impl FnOnce(&mut Value)) {
    let mut store = state.store();
    let Some(before) = store.object(&kind.storage, &key(namespace, name)) else { return };
    let mut value = before.value();
    change(&mut value);
    if value == before.value() {
        return;
    }
    let version = store.next_version();
    meta::set(&mut value, "resourceVersion", version.to_string().into());
    let object = build(kind, namespace, name, version, &value);
    let over = meta::is_over(&value);
    if over {
        store.remove(&kind.storage, &object);
    } else {
        store.put(&kind.storage, object.clone());
    }
    state.changed(kind, Some(&before), (!over).then_some(&object));
}

/// The objects that name `uid` as an owner, and no owner that is still there.
fn dependents(state: &State, uid: &str) -> Vec<(Arc<Kind>, Arc<Object>)> {
    let everything = state.store().everything();
    let kinds = state.kinds();
    let mut dependents = Vec::new();
    for (storage, objects) in everything {
        let Some(kind) = kinds.iter().find(|kind| kind.storage == storage) else { continue };
        for object in objects {
            // Most objects name nobody, and need not be parsed.
            if !contains(&object.json, uid.as_bytes()) {
                continue;
            }
            let value = object.value();
            let owners = value.pointer("/metadata/ownerReferences").and_then(Value::as_array);
            let owners = owners.map_or(&[][..], Vec::as_slice);
            let names =
                |wanted: &str| owners.iter().any(|owner| owner.get("uid").is_some_and(|uid| uid == wanted));
            if names(uid) && owners.len() == 1 {
                dependents.push((kind.clone(), object));
            }
        }
    }
    dependents
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    !word.is_empty() && text.windows(word.len()).any(|window| window == word)
}

fn delete(state: &State, kind: &Arc<Kind>, object: &Object) {
    let namespace = Some(&*object.namespace).filter(|namespace| !namespace.is_empty());
    // Somebody else may have deleted it meanwhile.
    let _ = Writer::new(state, kind, namespace).delete(&object.name, &Deletion::default());
}

/// Deals with what an object owns that is deleted in the foreground, or leaves orphans.
fn owner(state: &State, kind: &Arc<Kind>, namespace: &str, name: &str) {
    let Some(object) = state.store().object(&kind.storage, &key(namespace, name)) else { return };
    let value = object.value();
    let uid = meta::text(&value, "uid").unwrap_or_default();
    let waits = |finalizer: &str| {
        let finalizers =
            value.pointer("/metadata/finalizers").and_then(Value::as_array).into_iter().flatten();
        finalizers.filter(|each| *each == finalizer).count() > 0
    };
    let finalizer = if waits("foregroundDeletion") {
        dependents(state, &uid).into_iter().for_each(|(kind, object)| delete(state, &kind, &object));
        "foregroundDeletion"
    } else if waits("orphan") {
        for (kind, object) in dependents(state, &uid) {
            change(state, &kind, &object.namespace, &object.name, |value| {
                meta::unset(value, "ownerReferences")
            });
        }
        "orphan"
    } else {
        return;
    };
    change(state, kind, namespace, name, |value| remove_finalizer(value, finalizer));
}

fn remove_finalizer(value: &mut Value, finalizer: &str) {
    let finalizers = value.pointer("/metadata/finalizers").and_then(Value::as_array).into_iter().flatten();
    let others: Vec<_> = finalizers.filter(|each| *each != finalizer).cloned().collect();
    meta::set_or_unset(value, "finalizers", (!others.is_empty()).then(|| others.into()));
}

/// Every namespace has the authority of the API server, for its Pods.
fn furnish(state: &State, namespace: &str) {
    let Some(kind) = state.kind("", "v1", "configmaps") else { return };
    let object = json!({"metadata": {"name": ROOT}, "data": {"ca.crt": state.certificate()}});
    let writing = Writing { manager: "kube-controller-manager".to_owned(), ..Writing::default() };
    // It may be there, or the namespace be gone.
    let _ = Writer::new(state, &kind, Some(namespace)).create(Body::of(object), &writing);
}

/// Serves what a definition defines, or no longer.
fn define(state: &State, name: &str) {
    const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";
    let definitions = "customresourcedefinitions.apiextensions.k8s.io";
    let Some(kind) = state.kind("apiextensions.k8s.io", "v1", "customresourcedefinitions") else { return };
    let object = state.store().object(definitions, name);
    let Some(value) = object.map(|object| object.value()) else {
        state.change_kinds(|kinds| kinds.retain(|kind| !kind.is_custom() || *kind.storage != *name));
        return;
    };
    if meta::is_deleted(&value) {
        let served: Vec<_> =
            state.kinds().iter().filter(|kind| kind.is_custom() && *kind.storage == *name).cloned().collect();
        if let Some(custom) = served.first() {
            let objects = state.store().everything().into_iter().find(|(storage, _)| **storage == *name);
            for object in objects.map(|(_, objects)| objects).unwrap_or_default() {
                delete(state, custom, &object);
            }
        }
        change(state, &kind, "", name, |value| remove_finalizer(value, CLEANUP));
        return;
    }
    let versions = value.pointer("/spec/versions").and_then(Value::as_array).into_iter().flatten();
    let served = versions.filter(|version| version.get("served") == Some(&Value::Bool(true)));
    let new: Vec<_> = served.filter_map(|version| kinds::custom(&value, version)).map(Arc::new).collect();
    state.change_kinds(|kinds| {
        kinds.retain(|kind| !kind.is_custom() || *kind.storage != *name);
        kinds.extend(new);
    });
    let is_established = value.pointer("/status/conditions").is_some_and(|conditions| !conditions.is_null());
    if !is_established {
        let now = meta::now();
        change(state, &kind, "", name, |value| {
            let status = rules::established(value, &now);
            shape::put(value, "status", Some(status));
        });
    }
}

impl State {
    /// An object was written, or is gone: what it had taken is free, and who waits for it is told.
    pub(crate) fn changed(
        &self,
        kind: &Arc<Kind>,
        before: Option<&Arc<Object>>,
        after: Option<&Arc<Object>>,
    ) {
        if matches!(kind.what, What::Service) {
            let taken = |object: Option<&Arc<Object>>| {
                rules::taken(&object.map(|object| object.value()).unwrap_or_default())
            };
            self.allocated.replace(&taken(before), &taken(after));
        }
        if matches!(kind.what, What::Definition)
            && let Some(object) = after.or(before)
        {
            self.tell(Task::Define(object.name.clone()));
        }
        if let Some(after) = after {
            self.note_owners(after);
            if matches!(kind.what, What::Namespace) && before.is_none() {
                self.tell(Task::Furnish(after.name.clone()));
            }
            return;
        }
        let Some(gone) = before else { return };
        if !gone.namespace.is_empty() {
            self.tell(Task::Empty(gone.namespace.clone()));
            if &*gone.name == ROOT && matches!(kind.what, What::ConfigMap) {
                self.tell(Task::Furnish(gone.namespace.clone()));
            }
        }
        if let Some(uid) = meta::text(&gone.value(), "uid")
            && self.is_owner(&uid)
        {
            self.tell(Task::Orphans(uid.into()));
        }
    }

    /// An object is to be deleted, and something waits to finish it.
    pub(crate) fn marked(&self, kind: &Arc<Kind>, object: &Object) {
        if matches!(kind.what, What::Namespace) {
            self.tell_namespace(&object.name);
        }
        let (namespace, name) = (object.namespace.clone(), object.name.clone());
        self.tell(Task::Owner { kind: kind.clone(), namespace, name });
    }

    /// A namespace may be finished now.
    pub(crate) fn tell_namespace(&self, name: &str) {
        self.tell(Task::Empty(name.into()));
    }
}
