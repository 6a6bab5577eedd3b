//! Secrets and ConfigMaps as they come: which of them are named, and what is new of those. Pure.

use std::sync::Arc;

use config::report::{Kind, ObjectRef};
use config::resource::{Received, decode_json};

use super::super::item::{Happened, Item};
use super::super::journal;
use super::super::wanted::Material;
use super::{Applied, Change, Intake};

impl Intake {
    pub(super) fn material_item(&mut self, item: &Item<'_>, json: &[u8]) {
        let Some(kind) = self.target.resource.kind() else { return };
        let Some(material) = self.wanted.find(kind, item) else { return };
        let reference =
            ObjectRef { kind, namespace: Arc::from(&*item.namespace), name: Arc::from(&*item.name) };
        self.present.insert(reference.clone());
        self.material_news(reference, &material, item, json);
    }

    pub(super) fn material_event(&mut self, happened: Happened, item: &Item<'_>, json: &[u8]) {
        let Some(kind) = self.target.resource.kind() else { return };
        let Some(material) = self.wanted.find(kind, item) else { return };
        let reference =
            ObjectRef { kind, namespace: Arc::from(&*item.namespace), name: Arc::from(&*item.name) };
        match happened {
            Happened::Applied => {
                self.present.insert(reference.clone());
                self.material_news(reference, &material, item, json);
            }
            Happened::Deleted => {
                let is_stale = matches!(
                    (&material, &item.version),
                    (Material::Loaded(Some(known)), Some(version)) if version.is_before(known)
                );
                self.present.remove(&reference);
                // A version that is older may be of another history.
                self.pending.push(if is_stale {
                    Change::Touched(reference, None)
                } else {
                    Change::Gone(reference)
                });
            }
        }
    }

    /// What is named and not in the list that was read. It may have been named, or named again, after its page had passed:
    /// of what is known to be there, and of what nobody named when the list began, the server is asked.
    pub(super) fn missing_material(&mut self, kind: Kind, changes: &mut Vec<Change>) {
        let awaited = std::mem::take(&mut self.awaited);
        let missing = self.wanted.of_kind(kind).into_iter().filter(|(reference, _)| {
            // What is not of this list, or is left out of it, is not missing.
            let is_listed =
                self.target.namespace.as_ref().is_none_or(|namespace| *namespace == reference.namespace);
            is_listed && self.is_watched(&reference.namespace) && !self.present.contains(reference)
        });
        changes.extend(missing.map(|(reference, material)| match material {
            Material::Unknown | Material::Absent if awaited.contains(&reference) => Change::Gone(reference),
            Material::Unknown | Material::Absent | Material::Loaded(_) => Change::Touched(reference, None),
        }));
    }

    fn material_news(&mut self, reference: ObjectRef, material: &Material, item: &Item<'_>, json: &[u8]) {
        let (is_same, is_older) = match (material, &item.version) {
            (Material::Loaded(Some(known)), Some(version)) => (known == version, version.is_before(known)),
            _ => (false, false),
        };
        if is_same {
            return;
        }
        // An older version may be of another history; the server is asked what is there now.
        if item.is_partial || is_older {
            self.pending.push(Change::Touched(reference, item.version.clone()));
        } else {
            self.pending.extend(decode_material(reference, item, json, self.extras.keeps));
        }
    }
}

/// Decodes a Secret or ConfigMap that is named.
pub(in super::super) fn decode_material(
    reference: ObjectRef,
    item: &Item<'_>,
    json: &[u8],
    keeps: bool,
) -> Vec<Change> {
    let Received { object, problems, .. } = decode_json(reference.kind, json);
    let version = item.version.clone();
    let raw = || keeps.then(|| journal::trim_material(json)).flatten().unwrap_or_default();
    let apply = object.map(|object| Change::Apply(Applied { object, version, observed: None, raw: raw() }));
    apply.into_iter().chain([Change::Problems(reference, problems)]).collect()
}
