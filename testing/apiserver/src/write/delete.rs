//! Deletion: at once, or once whoever has a finalizer on the object is done with it.

use std::sync::Arc;

use serde_json::{Value, json};

use super::Writer;
use crate::error::Failure;
use crate::kinds::What;
use crate::store::Object;
use crate::{meta, shape};

/// What becomes of the objects that an object owns.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Propagation {
    /// They are deleted afterwards.
    #[default]
    Background,
    /// They are deleted first.
    Foreground,
    /// They stay.
    Orphan,
}

/// How an object is to be deleted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Deletion {
    /// `preconditions.uid`.
    pub(crate) uid: Option<String>,
    /// `preconditions.resourceVersion`.
    pub(crate) version: Option<String>,
    pub(crate) propagation: Propagation,
    /// Seconds that a Pod has to end.
    pub(crate) grace: Option<u64>,
    pub(crate) dry_run: bool,
}

impl Writer<'_> {
    /// Deletes an object, or marks it for deletion if something waits to finish it. The object, and whether it is gone.
    pub(crate) fn delete(&mut self, name: &str, deletion: &Deletion) -> Result<(Arc<Object>, bool), Failure> {
        let old = self.stored(name).ok_or_else(|| Failure::not_found(&self.kind, name))?;
        let mut value = old.value();
        self.check_preconditions(name, &value, deletion)?;
        let is_namespace = matches!(self.kind.what, What::Namespace);
        if is_namespace && ["default", "kube-public", "kube-system"].contains(&name) {
            return Err(Failure::not_allowed(&self.kind, name, "this namespace may not be deleted"));
        }
        match deletion.propagation {
            Propagation::Background => {}
            Propagation::Foreground => add_finalizer(&mut value, "foregroundDeletion"),
            Propagation::Orphan => add_finalizer(&mut value, "orphan"),
        }
        let waits_for = match self.kind.what {
            What::Namespace => Some("kubernetes"),
            What::Definition => {
                add_finalizer(&mut value, "customresourcecleanup.apiextensions.k8s.io");
                None
            }
            _ => None,
        };
        let grace = self.grace(&value, deletion);
        if !meta::finalizers(&value) && waits_for.is_none() && grace.is_none() {
            if matches!(self.kind.what, What::Pod) {
                // It says how it went, though nobody waited for it.
                meta::end_now(&self.kind, &mut value);
            }
            let last = self.object(value, name);
            if !deletion.dry_run {
                self.drop_object(&last);
            }
            return Ok((last, true));
        }
        if !meta::is_deleted(&value) {
            meta::mark_deleted(&self.kind, &mut value, grace.unwrap_or(0));
        }
        if is_namespace {
            meta::start_terminating(&mut value);
        }
        if value == old.value() {
            return Ok((old, false));
        }
        let object = self.object(value, name);
        if !deletion.dry_run {
            self.keep(&object);
            self.state.marked(&self.kind, &object);
        }
        Ok((object, false))
    }

    /// How long a Pod that runs has to end; none for all else.
    fn grace(&self, value: &Value, deletion: &Deletion) -> Option<u64> {
        if !matches!(self.kind.what, What::Pod) {
            return None;
        }
        let runs =
            value.pointer("/spec/nodeName").and_then(Value::as_str).is_some_and(|node| !node.is_empty());
        let said = value.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_u64);
        let grace = deletion.grace.or(said).unwrap_or(30);
        (runs && grace > 0).then_some(grace)
    }

    fn check_preconditions(&self, name: &str, value: &Value, deletion: &Deletion) -> Result<(), Failure> {
        let checks = [
            ("uid", "UID", &deletion.uid, "The object might have been deleted and then recreated"),
            ("resourceVersion", "ResourceVersion", &deletion.version, "The object might have been modified"),
        ];
        for (field, what, wanted, hint) in checks {
            let actual = meta::text(value, field).unwrap_or_default();
            if let Some(wanted) = wanted
                && *wanted != actual
            {
                let kind = &self.kind.kind;
                let message = format!(
                    "Operation cannot be fulfilled on {kind} {name:?}: the {what} in the precondition ({wanted}) does \
                     not match the {what} in record ({actual}). {hint}"
                );
                let mut failure = Failure::conflict(&self.kind, name, "");
                failure.message = message;
                shape::put(&mut failure.details, "kind", Some((&**kind).into()));
                return Err(failure);
            }
        }
        Ok(())
    }
}

fn add_finalizer(object: &mut Value, name: &str) {
    let mut list = object.pointer("/metadata/finalizers").cloned().unwrap_or_else(|| json!([]));
    if let Some(list) = list.as_array_mut()
        && !list.iter().any(|each| each == name)
    {
        list.push(name.into());
    }
    meta::set(object, "finalizers", list);
}
