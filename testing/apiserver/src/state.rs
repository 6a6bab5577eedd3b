//! What all requests share: the objects, the kinds, who may do what, faults and counters. Decides nothing itself.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::Options;
use crate::faults::Faults;
use crate::kinds::{self, Kind};
use crate::lifecycle::Task;
use crate::requests::Requests;
use crate::rules::addresses::Allocated;
use crate::store::{Object, Store};
use crate::write::{Body, Writer, Writing};

/// What all requests share.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) options: Options,
    store: Mutex<Store>,
    kinds: Mutex<Arc<Vec<Arc<Kind>>>>,
    pub(crate) faults: Faults,
    pub(crate) requests: Requests,
    /// `namespaces.` and the like: what is looked up often.
    pub(crate) namespaces: Arc<Kind>,
    /// Addresses and ports of Services.
    pub(crate) allocated: Allocated,
    /// Who is named as an owner of anything.
    owners: Mutex<HashSet<Box<str>>>,
    tasks: mpsc::UnboundedSender<Task>,
    address: SocketAddr,
    certificate: String,
}

impl State {
    pub(crate) fn new(
        options: Options,
        address: SocketAddr,
        certificate: String,
        tasks: mpsc::UnboundedSender<Task>,
    ) -> Self {
        let kinds = kinds::built_in();
        let store = Store::new(options.first_version, options.history);
        Self {
            store: Mutex::new(store),
            namespaces: kinds::namespaces(),
            kinds: Mutex::new(Arc::new(kinds)),
            faults: Faults::default(),
            requests: Requests::default(),
            options,
            allocated: Allocated::default(),
            owners: Mutex::default(),
            tasks,
            address,
            certificate,
        }
    }

    /// Where the server listens.
    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// The certificate that the server shows.
    pub(crate) fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Makes what is there from the beginning.
    pub(crate) fn begin(&self) {
        for name in ["default", "kube-node-lease", "kube-public", "kube-system"] {
            // Nothing is there yet that could stand in the way.
            let _ = Writer::new(self, &self.namespaces, None)
                .create(Body::of(json!({"metadata": {"name": name}})), &Writing::default());
        }
    }

    /// Calls for something that a controller does.
    pub(crate) fn tell(&self, task: Task) {
        // Nobody listens only when the server ends.
        let _ = self.tasks.send(task);
    }

    /// Remembers whom an object names as its owners.
    pub(crate) fn note_owners(&self, object: &Object) {
        // Few objects have owners, and the others need not be parsed.
        let key = b"\"ownerReferences\"";
        if !object.json.windows(key.len()).any(|window| window == key) {
            return;
        }
        let value = object.value();
        let owners =
            value.pointer("/metadata/ownerReferences").and_then(Value::as_array).into_iter().flatten();
        let owners = owners.filter_map(|owner| owner.get("uid")?.as_str()).map(Into::into);
        self.owners.lock().unwrap_or_else(PoisonError::into_inner).extend(owners);
    }

    /// Whether anything named this object as its owner.
    pub(crate) fn is_owner(&self, uid: &str) -> bool {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner).contains(uid)
    }

    /// The objects, for this thread alone.
    pub(crate) fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All kinds that are served now.
    pub(crate) fn kinds(&self) -> Arc<Vec<Arc<Kind>>> {
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the kinds.
    pub(crate) fn change_kinds(&self, change: impl FnOnce(&mut Vec<Arc<Kind>>)) {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = (**kinds).clone();
        change(&mut changed);
        *kinds = Arc::new(changed);
    }

    /// The kind at a path.
    pub(crate) fn kind(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Kind>> {
        self.kinds()
            .iter()
            .find(|kind| &*kind.group == group && &*kind.version == version && &*kind.plural == plural)
            .cloned()
    }

    /// Whether the group and version of a path are served, so that only the resource is unknown.
    pub(crate) fn knows_group(&self, segments: &[&str]) -> bool {
        let (group, version) = match segments {
            ["api", version, ..] => ("", *version),
            ["apis", group, version, ..] => (*group, *version),
            _ => return false,
        };
        self.kinds().iter().any(|kind| &*kind.group == group && &*kind.version == version)
    }

    /// group → its versions, preferred first, in the order in which groups are served.
    pub(crate) fn groups(&self) -> Vec<(Box<str>, Vec<Box<str>>)> {
        let mut at: HashMap<Box<str>, usize> = HashMap::new();
        let mut groups: Vec<(Box<str>, Vec<Box<str>>)> = Vec::new();
        for kind in self.kinds().iter().filter(|kind| !kind.group.is_empty()) {
            let index = *at.entry(kind.group.clone()).or_insert_with(|| {
                groups.push((kind.group.clone(), Vec::new()));
                groups.len() - 1
            });
            if let Some((_, versions)) = groups.get_mut(index)
                && !versions.contains(&kind.version)
            {
                versions.push(kind.version.clone());
            }
        }
        groups
    }
}
