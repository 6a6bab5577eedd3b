//! Writes: create, update, patch, apply. Every one is made under the lock of the store, so that what was checked is what is
//! replaced. Never talks to a client.

mod apply;
mod delete;
mod form;

use std::sync::{Arc, MutexGuard};

use bytes::Bytes;
use serde_json::{Value, json};

pub(crate) use self::delete::{Deletion, Propagation};
pub use self::form::Strictness;
use crate::error::{Cause, Failure};
use crate::fields::{self, Managers, Set};
use crate::kinds::{Kind, What};
use crate::patch::Patch;
use crate::query::selectable_values;
use crate::rules::{self, Cluster, addresses::Allocated};
use crate::state::State;
use crate::store::{Object, Store, key};
use crate::{meta, shape};

/// How a write is to be done.
#[derive(Clone, Debug, Default)]
pub(crate) struct Writing {
    /// Everything but storing it.
    pub(crate) dry_run: bool,
    /// Who writes, for `managedFields`.
    pub(crate) manager: String,
    /// Whether an apply takes fields from other managers.
    pub(crate) force: bool,
    /// What is done with unknown fields.
    pub(crate) strictness: Strictness,
    /// `status` or `finalize`, if only that is written.
    pub(crate) subresource: Option<String>,
}

impl Writing {
    fn is_status(&self) -> bool {
        self.subresource.as_deref() == Some("status")
    }

    fn is_finalize(&self) -> bool {
        self.subresource.as_deref() == Some("finalize")
    }

    fn writer(&self, kind: &Kind) -> fields::Writer {
        fields::Writer {
            name: self.manager.clone(),
            version: kind.api_version(),
            subresource: self.subresource.clone().unwrap_or_default(),
            time: meta::now(),
        }
    }
}

/// An object that a client sent.
#[derive(Debug)]
pub(crate) struct Body {
    pub(crate) value: Value,
    /// Paths of fields that stand twice in its text.
    pub(crate) duplicates: Vec<String>,
}

impl Body {
    /// One of the server's own making.
    pub(crate) fn of(value: Value) -> Self {
        Self { value, duplicates: Vec::new() }
    }
}

/// A patch that a client sent.
#[derive(Debug)]
pub(crate) struct PatchBody {
    pub(crate) patch: Patch,
    /// For messages.
    pub(crate) text: String,
    /// Paths of fields that stand twice in its text.
    pub(crate) duplicates: Vec<String>,
}

/// A change of an object by its client.
#[derive(Debug)]
pub(crate) enum Edit {
    /// The whole object (PUT).
    Replace(Body),
    /// A patch.
    Patch(PatchBody),
}

/// The writer of one kind, in one namespace.
pub(crate) struct Writer<'a> {
    state: &'a State,
    store: MutexGuard<'a, Store>,
    kind: Arc<Kind>,
    namespace: String,
    warnings: Vec<String>,
}

/// What became of a write.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) object: Arc<Object>,
    /// True if it was not there before.
    pub(crate) created: bool,
    /// What there is to say about it nevertheless.
    pub(crate) warnings: Vec<String>,
}

/// What rules see of the rest of the cluster.
struct Surroundings<'a> {
    store: &'a Store,
    allocated: &'a Allocated,
}

impl Cluster for Surroundings<'_> {
    fn default_class(&self) -> Option<String> {
        let classes = self.store.list("ingressclasses.networking.k8s.io", None, None, self.store.version());
        let default = "/metadata/annotations/ingressclass.kubernetes.io~1is-default-class";
        let mut defaults: Vec<(String, String)> = classes
            .unwrap_or_default()
            .iter()
            .map(|class| (class.value(), class.name.to_string()))
            .filter(|(class, _)| class.pointer(default).is_some_and(|value| value == "true"))
            .map(|(class, name)| (meta::text(&class, "creationTimestamp").unwrap_or_default(), name))
            .collect();
        // The youngest; of those of the same second, the first by name.
        defaults.sort_by(|one, other| other.0.cmp(&one.0).then(one.1.cmp(&other.1)));
        defaults.into_iter().next().map(|(_, name)| name)
    }

    fn allocated(&self) -> &Allocated {
        self.allocated
    }
}

impl<'a> Writer<'a> {
    pub(crate) fn new(state: &'a State, kind: &Arc<Kind>, namespace: Option<&str>) -> Self {
        let namespace = namespace.unwrap_or_default().to_owned();
        Self { state, store: state.store(), kind: kind.clone(), namespace, warnings: Vec::new() }
    }

    /// Creates an object.
    pub(crate) fn create(&mut self, body: Body, writing: &Writing) -> Result<Written, Failure> {
        let value = self.decode_body(body, writing)?;
        self.make(value, writing, None)
    }

    /// Makes an object; `managers` is who manages it, if an apply has decided that.
    fn make(
        &mut self,
        mut value: Value,
        writing: &Writing,
        managers: Option<Managers>,
    ) -> Result<Written, Failure> {
        let name = self.take_name(&mut value)?;
        self.check_namespace(&name)?;
        if meta::text(&value, "resourceVersion").is_some_and(|version| !version.is_empty()) {
            return Err(Failure::plain("resourceVersion should not be set on objects to be created"));
        }
        meta::begin(&self.kind, &mut value);
        rules::default(&self.kind, &mut value);
        let managers = managers.unwrap_or_else(|| {
            let empty = self.empty();
            let writer = writing.writer(&self.kind);
            let managers = Managers::default();
            fields::on_update(&empty, &value, &self.kind.schema, managers, &writer, &self.ignored(writing))
        });
        set_managers(&mut value, &managers);
        let surroundings = Surroundings { store: &self.store, allocated: &self.state.allocated };
        let mut causes = rules::on_create(&self.kind, &mut value, &surroundings);
        causes.extend(rules::check(&self.kind, None, &value, false));
        if !causes.is_empty() {
            return Err(Failure::invalid(&self.kind, &name, &causes));
        }
        self.warnings.extend(rules::warnings(&self.kind, None, &value));
        if let Some(existing) = self.stored(&name) {
            return Err(Failure::already_exists(&self.kind, &name, meta::is_deleted(&existing.value())));
        }
        if writing.dry_run {
            return Ok(self.written(self.unversioned(value, &name), true));
        }
        let object = self.object(value, &name);
        self.keep(&object);
        Ok(self.written(object, true))
    }

    /// Changes an object, or makes it where the kind and the change allow.
    pub(crate) fn edit(&mut self, name: &str, edit: Edit, writing: &Writing) -> Result<Written, Failure> {
        let Some(old) = self.stored(name) else { return self.edit_nothing(name, edit, writing) };
        let before = shape::outside(&self.kind, &old);
        let replaces = matches!(edit, Edit::Replace(_));
        let (mut after, managers) = match edit {
            Edit::Replace(value) => (self.decode_body(value, writing)?, None),
            Edit::Patch(PatchBody { patch: Patch::Apply(config), .. }) => {
                let applied = self.apply(name, Some(&before), &config, writing)?;
                (applied.object, Some(applied.managers))
            }
            Edit::Patch(patch) => (self.patched(&before, patch, writing)?, None),
        };
        self.check_identity(name, &after, replaces)?;
        self.check_version(name, &before, &after, replaces)?;
        let before = untyped(before);
        let mut after = {
            meta::carry_over(&before, &mut after);
            self.part_written(&before, after, writing)
        };
        rules::default(&self.kind, &mut after);
        let managers = managers.unwrap_or_else(|| self.managers_after(&before, &after, writing));
        set_managers(&mut after, &managers);
        let mut causes = self.prepare(&before, &mut after, writing);
        causes.extend(rules::check(&self.kind, Some(&before), &after, writing.is_status()));
        if !causes.is_empty() {
            return Err(Failure::invalid(&self.kind, name, &causes));
        }
        self.warnings.extend(rules::warnings(&self.kind, Some(&before), &after));
        if before == after {
            return Ok(self.written(old, false));
        }
        if meta::is_over(&after) {
            let last = self.object(after, name);
            if !writing.dry_run {
                self.drop_object(&last);
            }
            return Ok(self.written(last, false));
        }
        if writing.dry_run {
            let object = self.object_at(old.version, after, name);
            return Ok(self.written(object, false));
        }
        let object = self.object(after, name);
        self.keep(&object);
        if writing.is_finalize() {
            self.state.tell_namespace(name);
        }
        Ok(self.written(object, false))
    }

    fn edit_nothing(&mut self, name: &str, edit: Edit, writing: &Writing) -> Result<Written, Failure> {
        let not_found = || Failure::not_found(&self.kind, name);
        if writing.subresource.is_some() {
            return Err(not_found());
        }
        let (mut value, managers) = match edit {
            Edit::Replace(value) if self.kind.created_by_update() => {
                (self.decode_body(value, writing)?, None)
            }
            Edit::Patch(PatchBody { patch: Patch::Apply(config), .. }) => {
                let applied = self.apply(name, None, &config, writing)?;
                (applied.object, Some(applied.managers))
            }
            _ => return Err(not_found()),
        };
        self.check_identity(name, &value, false)?;
        if let Some(uid) = meta::text(&value, "uid").filter(|uid| !uid.is_empty()) {
            let why = format!(
                "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
            );
            return Err(Failure::conflict(&self.kind, name, &why));
        }
        meta::set(&mut value, "name", name.into());
        self.make(value, writing, managers)
    }

    /// What of the change is written: the status, or everything but that.
    fn part_written(&self, before: &Value, after: Value, writing: &Writing) -> Value {
        let mut written;
        if writing.is_status() {
            written = before.clone();
            shape::put(&mut written, "status", after.get("status").cloned());
            if self.kind.is_custom() {
                let managed = after.pointer("/metadata/managedFields").cloned();
                meta::set_or_unset(&mut written, "managedFields", managed);
            } else {
                shape::put(&mut written, "metadata", after.get("metadata").cloned());
            }
        } else if writing.is_finalize() {
            written = before.clone();
            shape::put(&mut written, "spec", after.get("spec").cloned());
        } else {
            written = after;
            if self.kind.status {
                shape::put(&mut written, "status", before.get("status").cloned());
            }
        }
        written
    }

    /// The managers after a change that is no apply. A client may set them, or have them forgotten.
    fn managers_after(&self, before: &Value, after: &Value, writing: &Writing) -> Managers {
        let list = |object: &Value| Managers::read(object.pointer("/metadata/managedFields"));
        let said = after.pointer("/metadata/managedFields");
        let managers = if fields::forgets(said) {
            Managers::default()
        } else {
            let said = list(after).filter(|managers| !managers.is_empty());
            said.or_else(|| list(before)).unwrap_or_default()
        };
        let writer = writing.writer(&self.kind);
        let (old, new) = (unmanaged(before.clone()), unmanaged(after.clone()));
        fields::on_update(&old, &new, &self.kind.schema, managers, &writer, &self.ignored(writing))
    }

    fn prepare(&self, before: &Value, after: &mut Value, writing: &Writing) -> Vec<Cause> {
        if writing.subresource.is_some() {
            return Vec::new();
        }
        let surroundings = Surroundings { store: &self.store, allocated: &self.state.allocated };
        let causes = rules::on_update(&self.kind, before, after, &surroundings);
        if self.kind.generation {
            let labels_count = matches!(self.kind.what, What::EndpointSlice);
            meta::count_generation(before, after, labels_count);
        }
        causes
    }

    /// Fields that this kind of write does not write.
    fn ignored(&self, writing: &Writing) -> Set {
        match (writing.is_status(), self.kind.status) {
            (true, _) if self.kind.is_custom() => Set::of_fields(&["spec", "metadata"]),
            (true, _) => Set::of_fields(&["spec"]),
            (false, true) => Set::of_fields(&["status"]),
            (false, false) => Set::default(),
        }
    }

    fn stored(&self, name: &str) -> Option<Arc<Object>> {
        self.store.object(&self.kind.storage, &key(&self.namespace, name))
    }

    fn written(&mut self, object: Arc<Object>, created: bool) -> Written {
        Written { object, created, warnings: std::mem::take(&mut self.warnings) }
    }

    /// The object at the version of the next write.
    fn object(&self, value: Value, name: &str) -> Arc<Object> {
        self.object_at(self.store.next_version(), value, name)
    }

    fn object_at(&self, version: u64, mut value: Value, name: &str) -> Arc<Object> {
        meta::set(&mut value, "resourceVersion", version.to_string().into());
        let value = self.inside(value);
        build(&self.kind, &self.namespace, name, version, &value)
    }

    /// An object that is not stored, and has no version.
    fn unversioned(&self, value: Value, name: &str) -> Arc<Object> {
        let value = self.inside(value);
        build(&self.kind, &self.namespace, name, 0, &value)
    }

    fn keep(&mut self, object: &Arc<Object>) {
        let before = self.stored(&object.name);
        self.store.put(&self.kind.storage, object.clone());
        self.state.changed(&self.kind, before.as_ref(), Some(object));
    }

    fn drop_object(&mut self, last: &Arc<Object>) {
        let before = self.stored(&last.name);
        self.store.remove(&self.kind.storage, last);
        self.state.changed(&self.kind, before.as_ref(), None);
    }

    /// The name of an object to be created, made up if it asks for that.
    fn take_name(&self, value: &mut Value) -> Result<String, Failure> {
        if self.kind.namespaced {
            self.check_place(value)?;
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
        if !name.is_empty() {
            return Ok(name);
        }
        // A name that was made up may be taken; the next one most likely is not.
        let name = std::iter::repeat_with(|| meta::generated_name(&prefix))
            .take(8)
            .find(|name| self.stored(name).is_none())
            .unwrap_or_default();
        meta::set(value, "name", name.as_str().into());
        Ok(name)
    }

    fn check_namespace(&self, name: &str) -> Result<(), Failure> {
        if !self.kind.namespaced {
            return Ok(());
        }
        let Some(namespace) = self.store.object("namespaces.", &self.namespace) else {
            return Err(Failure::not_found(&self.state.namespaces, &self.namespace));
        };
        if !meta::is_deleted(&namespace.value()) {
            return Ok(());
        }
        let why = format!(
            "unable to create new content in namespace {} because it is being terminated",
            self.namespace
        );
        let mut failure = Failure::not_allowed(&self.kind, name, &why);
        let causes = json!([{
            "reason": "NamespaceTerminating",
            "message": format!("namespace {} is being terminated", self.namespace),
            "field": "metadata.namespace",
        }]);
        shape::put(&mut failure.details, "causes", Some(causes));
        Err(failure)
    }

    fn check_place(&self, value: &Value) -> Result<(), Failure> {
        let namespace = meta::text(value, "namespace").unwrap_or_default();
        if self.kind.namespaced && !namespace.is_empty() && namespace != self.namespace {
            return Err(Failure::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        Ok(())
    }

    fn check_identity(&self, name: &str, value: &Value, must_say: bool) -> Result<(), Failure> {
        let said = meta::text(value, "name").unwrap_or_default();
        if said.is_empty() && must_say {
            return Err(Failure::bad_request(format!(
                "the name of the object ({name} based on URL) was undeterminable: name must be provided"
            )));
        }
        if !said.is_empty() && said != name {
            return Err(Failure::bad_request(format!(
                "the name of the object ({said}) does not match the name on the URL ({name})"
            )));
        }
        self.check_place(value)
    }

    fn check_version(
        &self,
        name: &str,
        before: &Value,
        after: &Value,
        replaces: bool,
    ) -> Result<(), Failure> {
        let uid = meta::text(after, "uid").unwrap_or_default();
        let actual = meta::text(before, "uid").unwrap_or_default();
        if replaces && !uid.is_empty() && uid != actual {
            let why =
                format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {actual}");
            return Err(Failure::conflict(&self.kind, name, &why));
        }
        let version = meta::text(after, "resourceVersion").unwrap_or_default();
        if version.is_empty() || version == "0" {
            if replaces && !self.kind.replaced_blindly() {
                let cause = Cause::invalid("metadata.resourceVersion", 0, "must be specified for an update");
                return Err(Failure::invalid(&self.kind, name, &[cause]));
            }
            return Ok(());
        }
        if version.parse::<u64>().is_err() {
            return Err(Failure::plain(format!("strconv.ParseUint: parsing {version:?}: invalid syntax")));
        }
        if meta::text(before, "resourceVersion").as_deref() != Some(version.as_str()) {
            return Err(Failure::stale(&self.kind, name));
        }
        Ok(())
    }
}

/// An object as it is stored.
pub(crate) fn build(kind: &Kind, namespace: &str, name: &str, version: u64, value: &Value) -> Arc<Object> {
    let labels = value.pointer("/metadata/labels").and_then(Value::as_object).into_iter().flatten();
    let labels = labels.map(|(key, value)| (key.as_str().into(), value.as_str().unwrap_or_default().into()));
    Arc::new(Object {
        key: key(namespace, name).into(),
        namespace: namespace.into(),
        name: name.into(),
        version,
        labels: labels.collect(),
        fields: selectable_values(&kind.what, value),
        json: Bytes::from(value.to_string()),
    })
}

fn set_managers(object: &mut Value, managers: &Managers) {
    let list = (!managers.is_empty()).then(|| managers.write());
    meta::set_or_unset(object, "managedFields", list);
}

fn unmanaged(mut object: Value) -> Value {
    meta::unset(&mut object, "managedFields");
    object
}

/// Without `apiVersion` and `kind`.
fn untyped(mut object: Value) -> Value {
    shape::put(&mut object, "apiVersion", None);
    shape::put(&mut object, "kind", None);
    object
}
