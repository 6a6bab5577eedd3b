//! Which Ingresses are ours, and what there is to say about the classes themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::report::Owner;
use super::{ClassSettings, Classless, Compiler, Work};
use crate::index::Index;
use crate::report::{Kind, ObjectRef};
use crate::resource::{Finding, Ingress, IngressClass};

const LEGACY: &str = "metadata.annotations[\"kubernetes.io/ingress.class\"]";
const IS_DEFAULT: &str = "metadata.annotations[\"ingressclass.kubernetes.io/is-default-class\"]";

/// The IngressClass objects, judged.
#[derive(Debug)]
pub struct Classes {
    settings: ClassSettings,
    /// class name → is it ours
    known: BTreeMap<Arc<str>, bool>,
    /// Those that are marked as the default one.
    defaults: BTreeSet<Arc<str>>,
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
    /// No class at all.
    #[must_use]
    pub fn none(settings: ClassSettings) -> Self {
        Self { settings, known: BTreeMap::new(), defaults: BTreeSet::new() }
    }

    /// There is a class `name`. True if that may change whose an Ingress is.
    pub fn put(&mut self, name: &Arc<str>, class: &IngressClass) -> bool {
        let ours = class.controller == self.settings.controller;
        let was = self.known.insert(Arc::clone(name), ours);
        let is_news = if class.is_default {
            self.defaults.insert(Arc::clone(name))
        } else {
            self.defaults.remove(name)
        };
        is_news || was != Some(ours)
    }

    /// There is no class `name`. True if there was one.
    pub fn remove(&mut self, name: &str) -> bool {
        self.defaults.remove(name);
        self.known.remove(name).is_some()
    }

    /// True if there is a class `name`.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.known.contains_key(name)
    }

    /// True if an Ingress of this `spec.ingressClassName` and this annotation `kubernetes.io/ingress.class` is served.
    #[must_use]
    pub fn claims(&self, class: Option<&Arc<str>>, legacy: Option<&Arc<str>>) -> bool {
        matches!(self.judge_named(class, legacy), Verdict::Ours)
    }

    fn read(index: &Index, settings: ClassSettings) -> Self {
        let mut classes = Self::none(settings);
        for (reference, class) in index.classes() {
            classes.put(&reference.name, class);
        }
        classes
    }

    fn is_ours(&self, name: &str) -> Option<bool> {
        self.known.get(name).copied()
    }

    pub(super) fn judge(&self, ingress: &Ingress) -> Verdict {
        self.judge_named(ingress.class.as_ref(), ingress.legacy_class.as_ref())
    }

    fn judge_named(&self, class: Option<&Arc<str>>, legacy: Option<&Arc<str>>) -> Verdict {
        let ClassSettings { name: own, controller, .. } = &self.settings;
        let name = match (class, legacy) {
            (Some(name), _) => name,
            // An object of that name says whose it is, as for the field; without one, other controllers' values are
            // theirs alone.
            (None, Some(name)) => {
                return match self.is_ours(name) {
                    Some(true) => Verdict::Ours,
                    None if name == own => Verdict::Ours,
                    Some(false) | None => Verdict::Foreign,
                };
            }
            (None, None) => return self.judge_classless(),
        };
        match self.is_ours(name) {
            Some(true) => Verdict::Ours,
            Some(false) => Verdict::Foreign,
            None if name == own => Verdict::Ours,
            None => {
                let message = format!(
                    "there is no IngressClass `{name}`, so this Ingress is not served; add one with \
                     `controller: {controller}`, or write `ingressClassName: {own}`"
                );
                Verdict::Nobody(Finding::warning("spec.ingressClassName", 0, "ClassNotFound", message))
            }
        }
    }

    fn judge_classless(&self) -> Verdict {
        match self.settings.classless {
            Classless::Always => return Verdict::Ours,
            Classless::IfAlone if self.known.is_empty() => return Verdict::Ours,
            Classless::IfAlone | Classless::IfDefault => {}
        }
        if self.is_contested() {
            let message = format!(
                "there is no class here, and several are marked as the default one ({}), so this Ingress is not served; \
                 write `ingressClassName`",
                self.default_names()
            );
            return Verdict::Nobody(Finding::warning(
                "spec.ingressClassName",
                0,
                "SeveralDefaultClasses",
                message,
            ));
        }
        if self.defaults.iter().any(|name| self.is_ours(name) == Some(true)) {
            return Verdict::Ours;
        }
        if !self.known.is_empty() && !self.known.values().any(|ours| *ours) {
            return Verdict::Foreign;
        }
        let message =
            "there is no class here and ours is not the default one, so this Ingress is not served; \
                       write `ingressClassName`"
                .to_owned();
        Verdict::Nobody(Finding::warning("spec.ingressClassName", 0, "NoClass", message))
    }

    /// Several classes are marked as the default one, and ours is among them.
    fn is_contested(&self) -> bool {
        self.defaults.len() > 1 && self.defaults.iter().any(|name| self.is_ours(name) == Some(true))
    }

    fn default_names(&self) -> String {
        self.defaults.iter().map(|name| &**name).collect::<Vec<_>>().join(", ")
    }

    /// What there is to say of an Ingress that is ours.
    pub(super) fn remark(ingress: &Ingress) -> Option<Finding> {
        let (class, legacy) = (ingress.class.as_ref()?, ingress.legacy_class.as_ref()?);
        if class == legacy {
            return None;
        }
        let message = format!("`{legacy}` has no effect: `spec.ingressClassName: {class}` goes before it");
        Some(Finding::warning(LEGACY, 0, "IgnoredAnnotation", message))
    }

    /// What there is to say of the class `name`.
    fn findings(&self, name: &str, class: &IngressClass) -> Vec<Finding> {
        let ClassSettings { name: own, controller, classless } = &self.settings;
        let mut findings = Vec::new();
        let ours = class.controller == *controller;
        if !ours && *name == **own {
            let message = format!(
                "the class is called as --ingress-class says, but is of controller `{}` and therefore not ours; \
                 `--controller-class {}` takes its Ingresses over",
                class.controller, class.controller
            );
            findings.push(Finding::warning("spec.controller", 0, "ForeignController", message));
        }
        if ours && let Some(line) = class.parameters_line {
            let message = "parameters of classes are not read and have no effect; flags and annotations do what they could"
                .to_owned();
            findings.push(Finding::warning("spec.parameters", line, "Unsupported", message));
        }
        if ours && class.is_default && self.is_contested() && *classless != Classless::Always {
            let message = format!(
                "several classes are marked as the default one ({}), so Ingresses without a class are not served; \
                 leave the mark to one",
                self.default_names()
            );
            findings.push(Finding::warning(IS_DEFAULT, 0, "SeveralDefaultClasses", message));
        }
        findings
    }
}

impl Compiler {
    /// Looks at the IngressClasses again, and says what there is to say about them.
    pub(super) fn sync_classes(&mut self, index: &Index, work: &mut Work) {
        let new = Classes::read(index, self.settings.classes.clone());
        let former = std::mem::replace(&mut self.classes, new);
        let names: BTreeSet<Arc<str>> =
            former.known.into_keys().chain(self.classes.known.keys().cloned()).collect();
        for name in names {
            let reference = ObjectRef { kind: Kind::IngressClass, namespace: "".into(), name };
            let problems = match index.class(&reference) {
                Some((object, class)) => {
                    let findings = self.classes.findings(&reference.name, class).into_iter();
                    findings.map(|finding| object.problem(finding)).collect()
                }
                None => Vec::new(),
            };
            self.tell(Owner::Object(reference), problems, work);
        }
    }
}
