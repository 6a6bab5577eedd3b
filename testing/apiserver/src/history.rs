//! What a server forgets and is given: its history, lost as by compaction or by a restored backup, and objects planted as
//! they are. These are faults of the store; the rest is in `faults`.

use std::sync::Arc;

use serde_json::Value;

use crate::error::Failure;
use crate::faults::{Effect, Fault, FaultId};
use crate::state::State;
use crate::write::build;
use crate::{meta, shape};

impl State {
    /// Adds a fault; a cache that stands still does so at the version of now if none was said.
    pub(crate) fn add_fault(&self, mut fault: Fault) -> FaultId {
        if let Effect::Stale { version: version @ 0 } = &mut fault.effect {
            *version = self.store().version();
        }
        self.faults.add(fault)
    }

    /// Forgets all changes so far: open watches go on, older versions and pages get 410.
    pub(crate) fn compact(&self) {
        let mut store = self.store();
        store.skip_version();
        store.forget();
    }

    /// As after a restored backup: every object has a new version, counted from `first` (or from far ahead), nothing older
    /// is known, and all connections are reset. The version of now.
    pub(crate) fn forget_history(&self, first: Option<u64>) -> u64 {
        let mut store = self.store();
        let mut version = first.unwrap_or_else(|| store.version().saturating_add(1_000_000));
        let everything = store.everything();
        let restored = everything
            .into_iter()
            .map(|(storage, objects)| {
                let objects = objects
                    .into_iter()
                    .map(|object| {
                        version += 1;
                        crate::answer::at_version(&object, version)
                    })
                    .collect();
                (storage, objects)
            })
            .collect();
        store.restore(version, restored);
        drop(store);
        self.faults.reset_connections();
        version
    }

    /// Stores an object that was never looked at: whatever it says, clients get it.
    pub(crate) fn plant(&self, mut value: Value) -> Result<(), Failure> {
        let text = |value: &Value, field: &str| value.get(field).and_then(Value::as_str).map(str::to_owned);
        let version = text(&value, "apiVersion").unwrap_or_default();
        let kind = text(&value, "kind").unwrap_or_default();
        let kinds = self.kinds();
        let kind = kinds
            .iter()
            .find(|each| each.api_version() == version && *each.kind == *kind)
            .ok_or_else(|| Failure::bad_request(format!("no such kind: {kind} in {version}")))?;
        let name = meta::text(&value, "name").ok_or_else(|| Failure::bad_request("metadata.name: which?"))?;
        let namespace = meta::text(&value, "namespace").unwrap_or_default();
        if kind.namespaced == namespace.is_empty() {
            return Err(Failure::bad_request(
                "metadata.namespace: wanted for kinds of namespaces, and only there",
            ));
        }
        if let Some(map) = value.as_object_mut() {
            map.remove("apiVersion");
            map.remove("kind");
        }
        if kind.is_new_event() {
            value = shape::to_core_event(value);
        }
        let mut store = self.store();
        let next = store.next_version();
        let stamps = [
            ("uid", Value::from(meta::uid())),
            ("creationTimestamp", meta::now().into()),
            ("resourceVersion", next.to_string().into()),
        ];
        for (field, stamp) in stamps {
            if meta::text(&value, field).is_none() || field == "resourceVersion" {
                meta::set(&mut value, field, stamp);
            }
        }
        let object: Arc<_> = build(kind, &namespace, &name, next, &value);
        store.put(&kind.storage, object);
        Ok(())
    }
}
