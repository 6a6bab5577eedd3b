//! Writes: create, update, patch, delete. Every one is made under the lock of the store, so that what was checked is what
//! is replaced. Never talks to a client.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::error::{Cause, Failure};
use crate::kinds::Kind;
use crate::query::selectable_values;
use crate::state::State;
use crate::store::{Object, Store, key};
use crate::{defaults, meta, patch, shape};

/// How a write is to be done.
#[derive(Clone, Debug, Default)]
pub(crate) struct Writing {
    /// Everything but storing it.
    pub(crate) dry_run: bool,
    /// Who writes, for `managedFields`.
    pub(crate) manager: String,
    /// Whether an apply takes fields from other managers.
    pub(crate) force: bool,
    /// `status`, if only that is written.
    pub(crate) subresource: Option<String>,
}

impl Writing {
    fn is_status(&self) -> bool {
        self.subresource.as_deref() == Some("status")
    }
}

/// A change of an object by its client.
#[derive(Debug)]
pub(crate) enum Edit {
    /// The whole object (PUT).
    Replace(Value),
    /// A patch.
    Patch(patch::Patch),
}

/// What is required of an object before it is deleted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Deletion {
    pub(crate) uid: Option<String>,
    pub(crate) version: Option<String>,
    pub(crate) foreground: bool,
    pub(crate) dry_run: bool,
}

/// The writer of one kind, in one namespace.
pub(crate) struct Writer<'a> {
    state: &'a State,
    store: std::sync::MutexGuard<'a, Store>,
    kind: Arc<Kind>,
    namespace: String,
}

/// What became of a write.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) object: Arc<Object>,
    /// True if it was not there before.
    pub(crate) created: bool,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(state: &'a State, kind: &Arc<Kind>, namespace: Option<&str>) -> Self {
        let namespace = namespace.unwrap_or_default().to_owned();
        Self { state, store: state.store(), kind: kind.clone(), namespace }
    }

    /// Creates an object.
    pub(crate) fn create(&mut self, mut value: Value, writing: &Writing) -> Result<Written, Failure> {
        self.check_type(&mut value)?;
        let name = self.take_name(&mut value)?;
        self.check_namespace(&name)?;
        if self.store.object(&self.kind.storage, &key(&self.namespace, &name)).is_some() {
            return Err(Failure::already_exists(&self.kind, &name));
        }
        if meta::text(&value, "resourceVersion").is_some_and(|version| !version.is_empty()) {
            return Err(Failure::bad_request("resourceVersion should not be set on objects to be created"));
        }
        if &*self.kind.group == "events.k8s.io" {
            value = shape::to_core_event(value);
        }
        meta::begin(&self.kind, &mut value);
        defaults::on_create(&self.kind, &mut value);
        let object = self.object(value, &name);
        self.keep(object, writing.dry_run).map(|object| Written { object, created: true })
    }

    /// Changes an object, or makes it where the kind and the change allow.
    pub(crate) fn edit(&mut self, name: &str, edit: Edit, writing: &Writing) -> Result<Written, Failure> {
        let Some(old) = self.store.object(&self.kind.storage, &key(&self.namespace, name)) else {
            return self.edit_nothing(name, edit, writing);
        };
        let before = old.value();
        let mut after = match edit {
            Edit::Replace(mut value) => {
                self.check_type(&mut value)?;
                if &*self.kind.group == "events.k8s.io" {
                    value = shape::to_core_event(value);
                }
                value
            }
            Edit::Patch(patch) => patch.apply(&self.kind, name, self.outside(before.clone()))?,
        };
        self.check_type(&mut after)?;
        self.check_identity(name, &after)?;
        self.check_versions(name, &before, &after)?;
        meta::carry_over(&before, &mut after);
        if writing.is_status() {
            let status = after.get("status").cloned();
            let metadata = after.get("metadata").cloned();
            after = before.clone();
            put(&mut after, "status", status);
            put(&mut after, "metadata", metadata);
        } else if self.kind.status {
            put(&mut after, "status", before.get("status").cloned());
        }
        defaults::on_update(&self.kind, &before, &mut after);
        if self.kind.generation {
            meta::count_generation(&before, &mut after);
        }
        if before == after {
            return Ok(Written { object: old, created: false });
        }
        if meta::is_over(&after) {
            let last = self.object(after, name);
            if !writing.dry_run {
                self.store.remove(&self.kind.storage, &last);
                self.state.removed(&last);
            }
            return Ok(Written { object: last, created: false });
        }
        let object = self.object(after, name);
        self.keep(object, writing.dry_run).map(|object| Written { object, created: false })
    }

    fn edit_nothing(&mut self, name: &str, edit: Edit, writing: &Writing) -> Result<Written, Failure> {
        let create_on_update = ["leases.coordination.k8s.io", "events"].contains(&&*self.kind.storage);
        let mut value = match edit {
            Edit::Replace(value) if create_on_update => value,
            Edit::Patch(patch) if patch.creates() => patch.apply(&self.kind, name, json!({}))?,
            _ => return Err(Failure::not_found(&self.kind, name)),
        };
        if writing.subresource.is_some() {
            return Err(Failure::not_found(&self.kind, name));
        }
        self.check_identity(name, &value)?;
        if meta::text(&value, "uid").is_some_and(|uid| !uid.is_empty()) {
            return Err(Failure::conflict(
                &self.kind,
                name,
                "uid mismatch: the provided object specified a uid, and no existing object was found",
            ));
        }
        meta::set(&mut value, "name", name.into());
        self.create(value, writing)
    }

    /// Deletes an object, or marks it for deletion if something waits to finish it. The object, and whether it is gone.
    pub(crate) fn delete(&mut self, name: &str, deletion: &Deletion) -> Result<(Arc<Object>, bool), Failure> {
        let old = self
            .store
            .object(&self.kind.storage, &key(&self.namespace, name))
            .ok_or_else(|| Failure::not_found(&self.kind, name))?;
        let mut value = old.value();
        for (field, what, wanted) in
            [("uid", "UID", &deletion.uid), ("resourceVersion", "ResourceVersion", &deletion.version)]
        {
            let actual = meta::text(&value, field).unwrap_or_default();
            if let Some(wanted) = wanted
                && *wanted != actual
            {
                let why = format!(
                    "Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {actual}"
                );
                return Err(Failure::conflict(&self.kind, name, &why));
            }
        }
        let is_namespace = &*self.kind.storage == "namespaces.";
        if is_namespace {
            meta::start_terminating(&mut value);
        }
        if meta::finalizers(&value) || is_namespace {
            if meta::text(&value, "deletionTimestamp").is_none() {
                meta::mark_deleted(&self.kind, &mut value);
            }
            if value == old.value() {
                return Ok((old, false));
            }
            let object = self.object(value, name);
            let object = self.keep(object, deletion.dry_run)?;
            if is_namespace && !deletion.dry_run {
                self.state.namespace_marked(name);
            }
            return Ok((object, false));
        }
        let last = self.object(value, name);
        if !deletion.dry_run {
            self.store.remove(&self.kind.storage, &last);
            self.state.removed(&last);
        }
        Ok((last, true))
    }

    /// The object with its version in it.
    fn object(&self, mut value: Value, name: &str) -> Arc<Object> {
        if let Some(map) = value.as_object_mut() {
            map.remove("apiVersion");
            map.remove("kind");
        }
        let version = self.store.next_version();
        meta::set(&mut value, "resourceVersion", version.to_string().into());
        build(&self.kind, &self.namespace, name, version, &value)
    }

    fn keep(&mut self, object: Arc<Object>, dry_run: bool) -> Result<Arc<Object>, Failure> {
        if !dry_run {
            self.store.put(&self.kind.storage, object.clone());
        }
        Ok(object)
    }

    /// What the client sees of a stored object, before a patch.
    fn outside(&self, value: Value) -> Value {
        let mut value = if &*self.kind.group == "events.k8s.io" { shape::to_new_event(value) } else { value };
        put(&mut value, "kind", Some((&*self.kind.kind).into()));
        put(&mut value, "apiVersion", Some(self.kind.api_version().into()));
        value
    }

    /// That the object is of the kind of this path; takes that off it.
    fn check_type(&self, value: &mut Value) -> Result<(), Failure> {
        let Some(map) = value.as_object_mut() else {
            return Err(Failure::bad_request("the object provided is not an object"));
        };
        let wanted = self.kind.api_version();
        let version = map.remove("apiVersion").unwrap_or_default();
        let kind = map.remove("kind").unwrap_or_default();
        let is = |value: &Value, wanted: &str| value.is_null() || value.as_str() == Some(wanted);
        if !is(&kind, &self.kind.kind) || !is(&version, &wanted) {
            return Err(Failure::bad_request(format!(
                "{} in version {:?} cannot be handled as a {}: the object is of another kind ({kind}, {version})",
                self.kind.kind, wanted, self.kind.kind
            )));
        }
        if !map.get("metadata").is_some_and(Value::is_object) {
            map.insert("metadata".into(), Value::Object(Map::new()));
        }
        Ok(())
    }

    /// The name of an object to be created, made up if it asks for that.
    fn take_name(&self, value: &mut Value) -> Result<String, Failure> {
        if self.kind.namespaced {
            let namespace = meta::text(value, "namespace").unwrap_or_default();
            if !namespace.is_empty() && namespace != self.namespace {
                return Err(Failure::bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request",
                ));
            }
            meta::set(value, "namespace", self.namespace.as_str().into());
        } else {
            meta::unset(value, "namespace");
        }
        let name = meta::text(value, "name").unwrap_or_default();
        let prefix = meta::text(value, "generateName").unwrap_or_default();
        if name.is_empty() && prefix.is_empty() {
            let cause = Cause::required("metadata.name", "name or generateName is required");
            return Err(Failure::invalid(&self.kind, "", &[cause]));
        }
        if name.is_empty() {
            let name = meta::generated_name(&prefix);
            meta::set(value, "name", name.as_str().into());
            return Ok(name);
        }
        Ok(name)
    }

    fn check_namespace(&self, name: &str) -> Result<(), Failure> {
        if !self.kind.namespaced {
            return Ok(());
        }
        let Some(namespace) = self.store.object("namespaces.", &self.namespace) else {
            return Err(Failure::not_found(&self.state.namespaces, &self.namespace));
        };
        if meta::text(&namespace.value(), "deletionTimestamp").is_some() {
            let why = format!(
                "unable to create new content in namespace {} because it is being terminated",
                self.namespace
            );
            let mut failure = Failure::not_allowed(&self.kind, name, &why);
            put(
                &mut failure.details,
                "causes",
                Some(json!([{
                    "reason": "NamespaceTerminating",
                    "message": format!("namespace {} is being terminated", self.namespace),
                    "field": "metadata.namespace",
                }])),
            );
            return Err(failure);
        }
        Ok(())
    }

    fn check_identity(&self, name: &str, value: &Value) -> Result<(), Failure> {
        let said = meta::text(value, "name").unwrap_or_default();
        if !said.is_empty() && said != name {
            return Err(Failure::bad_request(format!(
                "the name of the object ({said}) does not match the name on the URL ({name})"
            )));
        }
        let namespace = meta::text(value, "namespace").unwrap_or_default();
        if self.kind.namespaced && !namespace.is_empty() && namespace != self.namespace {
            return Err(Failure::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        Ok(())
    }

    fn check_versions(&self, name: &str, before: &Value, after: &Value) -> Result<(), Failure> {
        let uid = meta::text(after, "uid").unwrap_or_default();
        let actual = meta::text(before, "uid").unwrap_or_default();
        if !uid.is_empty() && uid != actual {
            let why =
                format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {actual}");
            return Err(Failure::conflict(&self.kind, name, &why));
        }
        let version = meta::text(after, "resourceVersion").unwrap_or_default();
        if version.is_empty() || version == "0" {
            let strict = self.kind.custom
                || ["leases.coordination.k8s.io", "customresourcedefinitions.apiextensions.k8s.io"]
                    .contains(&&*self.kind.storage);
            if strict {
                let cause = Cause::invalid("metadata.resourceVersion", 0, "must be specified for an update");
                return Err(Failure::invalid(&self.kind, name, &[cause]));
            }
            return Ok(());
        }
        if meta::text(before, "resourceVersion").as_deref() != Some(version.as_str()) {
            return Err(Failure::stale(&self.kind, name));
        }
        Ok(())
    }
}

/// An object as it is stored.
pub(crate) fn build(kind: &Kind, namespace: &str, name: &str, version: u64, value: &Value) -> Arc<Object> {
    let labels = value
        .pointer("/metadata/labels")
        .and_then(Value::as_object)
        .map(|labels| {
            labels.iter().map(|(key, value)| (key.as_str().into(), value.as_str().unwrap_or_default().into()))
        })
        .map(Iterator::collect)
        .unwrap_or_default();
    Arc::new(Object {
        key: key(namespace, name).into(),
        namespace: namespace.into(),
        name: name.into(),
        version,
        labels,
        fields: selectable_values(&kind.storage, value),
        json: Bytes::from(value.to_string()),
    })
}

/// Sets or removes a field at the top.
pub(crate) fn put(value: &mut Value, field: &str, to: Option<Value>) {
    if let Some(map) = value.as_object_mut() {
        match to {
            Some(to) => map.insert(field.to_owned(), to),
            None => map.remove(field),
        };
    }
}
