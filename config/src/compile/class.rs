//! Which Ingresses are ours.

use std::sync::Arc;

use crate::index::Index;
use crate::resource::{Finding, Ingress};

/// The class that is ours even where no IngressClass object says so.
const OWN_CLASS: &str = "sluicegate";

/// The IngressClass objects, judged.
#[derive(Debug, Default)]
pub(super) struct Classes {
    /// class name → is it ours
    known: Vec<(Arc<str>, bool)>,
    default_is_ours: bool,
}

/// Whether an Ingress is served.
#[derive(Debug)]
pub(super) enum Verdict {
    Ours,
    /// Another controller's, of which nothing is to be said.
    Foreign,
    /// Nobody's, which its author will want to know.
    Nobody(Finding),
}

impl Classes {
    pub(super) fn new(index: &Index, controller: &str) -> Self {
        let mut classes = Self::default();
        for (reference, class) in index.classes() {
            let ours = *class.controller == *controller;
            classes.default_is_ours |= ours && class.is_default;
            classes.known.push((Arc::clone(&reference.name), ours));
        }
        classes
    }

    fn is_ours(&self, name: &str) -> Option<bool> {
        self.known.iter().find(|(known, _)| **known == *name).map(|(_, ours)| *ours)
    }

    pub(super) fn judge(&self, ingress: &Ingress) -> Verdict {
        let named = ingress.class.as_ref().map(|name| ("spec.ingressClassName", name));
        let legacy = ingress
            .legacy_class
            .as_ref()
            .map(|name| ("metadata.annotations[\"kubernetes.io/ingress.class\"]", name));
        let Some((field, name)) = named.or(legacy) else { return self.judge_classless() };
        match self.is_ours(name) {
            Some(true) => Verdict::Ours,
            Some(false) => Verdict::Foreign,
            None if **name == *OWN_CLASS => Verdict::Ours,
            // The annotation never named an object: other controllers' values are theirs alone.
            None if field != "spec.ingressClassName" => Verdict::Foreign,
            None => {
                let message = format!(
                    "there is no IngressClass `{name}`, so this Ingress is not served; add one with \
                     `controller: sluicegate.dev/ingress-controller`, or write `ingressClassName: {OWN_CLASS}`"
                );
                Verdict::Nobody(Finding::warning(field, 0, "ClassNotFound", message))
            }
        }
    }

    fn judge_classless(&self) -> Verdict {
        if self.known.is_empty() || self.default_is_ours {
            return Verdict::Ours;
        }
        if !self.known.iter().any(|(_, ours)| *ours) {
            return Verdict::Foreign;
        }
        let message =
            "there is no class here and ours is not the default one, so this Ingress is not served; \
                       write `ingressClassName`"
                .to_owned();
        Verdict::Nobody(Finding::warning("spec.ingressClassName", 0, "NoClass", message))
    }
}
