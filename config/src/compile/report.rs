//! Problems: who told them, in which order they are reported, and what the losers of conflicts hear.

use std::sync::Arc;

use super::Compiler;
use super::backend::BackendKey;
use super::groups::Group;
use super::hosts::Loss;
use super::vault::Origin;
use crate::index::Index;
use crate::report::{ObjectRef, Problem, Report};
use crate::resource::{Finding, ObjectSpec};
use crate::table::{Hostname, L4Key};

/// Who told a problem, so that it can take it back.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Owner {
    Object(ObjectRef),
    Host(Group, Hostname),
    TlsHost(Group, Hostname),
    Listener(Group),
    /// A listener, Service or ConfigMap that wants Binds that relay, about all but who gets them.
    Relaying(ObjectRef),
    /// A Bind that relays, about who gets it.
    L4(L4Key),
    Backend(BackendKey),
    Origin(Origin),
    /// The operator's default certificate.
    Default,
}

impl Compiler {
    /// What those are told, by object, who want this socket to relay what comes there and do not have it.
    #[must_use]
    pub fn losers(&self, key: L4Key) -> Vec<Problem> {
        let mut told = self.problems.get(&Owner::L4(key)).cloned().unwrap_or_default();
        told.sort_by(|a, b| a.object.cmp(&b.object));
        told
    }
}

/// Everything that is to be said, by object and field.
pub(super) fn collect<'p>(index: &'p Index, own: impl Iterator<Item = &'p Vec<Problem>>) -> Report {
    let mut problems: Vec<Problem> = index.source_problems().chain(own.flatten()).cloned().collect();
    let place = |problem: &Problem| {
        problem.location.as_ref().map(|location| (Arc::clone(&location.file), location.line))
    };
    problems.sort_by(|a, b| {
        let by_object = a.object.cmp(&b.object).then_with(|| a.field.cmp(&b.field));
        by_object.then_with(|| place(a).cmp(&place(b))).then_with(|| a.message.cmp(&b.message))
    });
    problems.dedup();
    Report { problems }
}

/// What the loser of a conflict is told.
pub(super) fn conflict(index: &Index, host: &Hostname, loss: &Loss) -> Option<Problem> {
    let object = index.object(&loss.loser)?;
    let host = match host {
        Hostname::Exact(host) => format!("host `{host}`"),
        Hostname::Wildcard(suffix) => format!("host `*{suffix}`"),
        Hostname::Any => "requests without a more specific host".to_owned(),
    };
    let path = match (&object.spec, loss.index) {
        (ObjectSpec::Ingress(ingress), Some(index)) => Some(ingress.paths.get(index as usize)?),
        _ => None,
    };
    if let ObjectSpec::Route(route) = &object.spec {
        let field = loss
            .index
            .map_or_else(|| route.field.clone(), |index| format!("{}.matches[{index}]", route.field));
        let message = format!(
            "for {host}, {} comes first and has the same path and conditions, so this one is not served",
            loss.winner
        );
        let finding = Finding::warning(field, 0, "Conflict", message);
        return Some(object.problem(finding));
    }
    let finding = match path {
        Some(path) => {
            let field = format!("spec.rules[{}].http.paths[{}]", path.rule, path.index);
            let message = format!(
                "for {host}, {} goes first (by age, then name) and has the same path, so this one is not served",
                loss.winner
            );
            Finding::warning(field, path.line, "Conflict", message)
        }
        None => {
            let line = match &object.spec {
                ObjectSpec::Ingress(ingress) => ingress.default_backend_line,
                _ => 0,
            };
            let message = format!(
                "for {host}, {} goes first (by age, then name) and has a default backend, so this one is not used",
                loss.winner
            );
            Finding::warning("spec.defaultBackend", line, "Conflict", message)
        }
    };
    Some(object.problem(finding))
}
