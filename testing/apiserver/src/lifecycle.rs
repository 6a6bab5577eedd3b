//! What a control plane does on its own: empties namespaces that are to be deleted. Runs behind the requests, as a
//! controller would.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::meta;
use crate::state::State;
use crate::store::{Object, key};
use crate::write::{Deletion, Writer, build, put};

/// What has happened that calls for something.
#[derive(Debug)]
pub(crate) enum Task {
    /// A namespace is to be deleted, or something in such a namespace is gone.
    Empty(Box<str>),
}

/// Does the tasks until nobody can send any.
pub(crate) async fn run(state: std::sync::Weak<State>, mut tasks: mpsc::UnboundedReceiver<Task>) {
    while let Some(task) = tasks.recv().await {
        let Some(state) = state.upgrade() else { return };
        match task {
            Task::Empty(namespace) => empty(&state, &namespace),
        }
    }
}

/// Deletes what is in a namespace, and then the namespace itself.
fn empty(state: &State, namespace: &str) {
    let object = state.store().object("namespaces.", &key("", namespace));
    if object.is_none_or(|object| meta::text(&object.value(), "deletionTimestamp").is_none()) {
        return;
    }
    let mut left = 0;
    for kind in state.kinds().iter().filter(|kind| kind.namespaced) {
        let version = state.store().version();
        let objects = state.store().list(&kind.storage, Some(namespace), None, version).unwrap_or_default();
        for object in objects {
            let gone = Writer::new(state, kind, Some(namespace))
                .delete(&object.name, &Deletion::default())
                .map_or(true, |(_, gone)| gone);
            left += usize::from(!gone);
        }
    }
    if left == 0 {
        finish(state, namespace);
    }
}

/// Removes an empty namespace that is to be deleted, unless somebody else has a finalizer on it.
fn finish(state: &State, namespace: &str) {
    let mut store = state.store();
    let Some(object) = store.object("namespaces.", &key("", namespace)) else { return };
    let mut value = object.value();
    if meta::text(&value, "deletionTimestamp").is_none() {
        return;
    }
    let others: Vec<Value> = value
        .pointer("/spec/finalizers")
        .and_then(Value::as_array)
        .map(|list| list.iter().filter(|each| *each != "kubernetes").cloned().collect())
        .unwrap_or_default();
    let over = others.is_empty() && !meta::finalizers(&value);
    put(&mut value, "spec", Some(if others.is_empty() { json!({}) } else { json!({"finalizers": others}) }));
    let version = store.next_version();
    meta::set(&mut value, "resourceVersion", version.to_string().into());
    let kind = state.namespaces.clone();
    let object = build(&kind, "", namespace, version, &value);
    if over {
        store.remove("namespaces.", &object);
    } else {
        store.put("namespaces.", object);
    }
}

impl State {
    /// An object is gone.
    pub(crate) fn removed(&self, object: &Arc<Object>) {
        if !object.namespace.is_empty() {
            self.tell(Task::Empty(object.namespace.clone()));
        }
    }

    /// A namespace is to be deleted.
    pub(crate) fn namespace_marked(&self, name: &str) {
        self.tell(Task::Empty(name.into()));
    }
}
