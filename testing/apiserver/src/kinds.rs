//! The kinds that are served, as a table: what their names are and what is particular to them. Never looks at an object.

use std::sync::Arc;

/// One kind in one version.
#[derive(Clone, Debug)]
pub(crate) struct Kind {
    /// API group; empty for the core group.
    pub(crate) group: Box<str>,
    /// Version within the group.
    pub(crate) version: Box<str>,
    /// Name of the resource in paths.
    pub(crate) plural: Box<str>,
    /// Name of one object of it.
    pub(crate) singular: Box<str>,
    /// `kind` of an object.
    pub(crate) kind: Box<str>,
    /// `kind` of a list.
    pub(crate) list_kind: Box<str>,
    /// False for kinds of the cluster.
    pub(crate) namespaced: bool,
    /// What people type instead of the plural.
    pub(crate) short_names: Vec<Box<str>>,
    /// Groups of kinds that people type.
    pub(crate) categories: Vec<Box<str>>,
    /// Whether `/status` is a resource of its own.
    pub(crate) status: bool,
    /// Whether `metadata.generation` counts changes of what is not metadata or status.
    pub(crate) generation: bool,
    /// Whether a whole collection can be deleted at once.
    pub(crate) delete_collection: bool,
    /// Which objects these are: kinds that show the same objects share it.
    pub(crate) storage: Box<str>,
    /// True for resources of a CustomResourceDefinition.
    pub(crate) custom: bool,
}

impl Kind {
    /// `apiVersion` of an object.
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_string()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// `plural.group` as messages name it.
    pub(crate) fn qualified(&self) -> String {
        if self.group.is_empty() {
            self.plural.to_string()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    /// The verbs that discovery names.
    pub(crate) fn verbs(&self) -> Vec<&'static str> {
        let mut verbs =
            vec!["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
        if !self.delete_collection {
            verbs.retain(|verb| *verb != "deletecollection");
        }
        verbs
    }

    /// True for the Event kinds, which expire and are served in two groups.
    pub(crate) fn is_event(&self) -> bool {
        &*self.storage == "events"
    }
}

/// What is the same for a built-in kind whatever its version.
struct Row {
    group: &'static str,
    plural: &'static str,
    singular: &'static str,
    kind: &'static str,
    short_names: &'static [&'static str],
    categories: &'static [&'static str],
    flags: &'static [Flag],
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Flag {
    Cluster,
    Status,
    Generation,
    OneByOne,
}

use Flag::{Cluster, Generation, OneByOne, Status};

const fn row(
    group: &'static str,
    plural: &'static str,
    singular: &'static str,
    kind: &'static str,
    short_names: &'static [&'static str],
    flags: &'static [Flag],
) -> Row {
    Row { group, plural, singular, kind, short_names, categories: &[], flags }
}

const fn in_all(row: Row) -> Row {
    Row { categories: &["all"], ..row }
}

const ROWS: &[Row] = &[
    row("", "configmaps", "configmap", "ConfigMap", &["cm"], &[]),
    row("", "endpoints", "endpoints", "Endpoints", &["ep"], &[]),
    row("", "events", "event", "Event", &["ev"], &[]),
    row("", "namespaces", "namespace", "Namespace", &["ns"], &[Cluster, Status, OneByOne]),
    row("", "nodes", "node", "Node", &["no"], &[Cluster, Status]),
    in_all(row("", "pods", "pod", "Pod", &["po"], &[Status, Generation])),
    row("", "secrets", "secret", "Secret", &[], &[]),
    in_all(row("", "services", "service", "Service", &["svc"], &[Status])),
    Row {
        categories: &["api-extensions"],
        ..row(
            "apiextensions.k8s.io",
            "customresourcedefinitions",
            "customresourcedefinition",
            "CustomResourceDefinition",
            &["crd", "crds"],
            &[Cluster, Status, Generation],
        )
    },
    row("coordination.k8s.io", "leases", "lease", "Lease", &[], &[]),
    row("discovery.k8s.io", "endpointslices", "endpointslice", "EndpointSlice", &[], &[Generation]),
    row("events.k8s.io", "events", "event", "Event", &["ev"], &[]),
    row("networking.k8s.io", "ingressclasses", "ingressclass", "IngressClass", &[], &[Cluster, Generation]),
    row("networking.k8s.io", "ingresses", "ingress", "Ingress", &["ing"], &[Status, Generation]),
];

/// The built-in kinds, in the order of discovery.
pub(crate) fn built_in() -> Vec<Arc<Kind>> {
    ROWS.iter()
        .map(|row| {
            let storage = match (row.group, row.plural) {
                (_, "events") => "events".into(),
                (group, plural) => format!("{plural}.{group}").into(),
            };
            Arc::new(Kind {
                group: row.group.into(),
                version: "v1".into(),
                plural: row.plural.into(),
                singular: row.singular.into(),
                kind: row.kind.into(),
                list_kind: format!("{}List", row.kind).into(),
                namespaced: !row.flags.contains(&Cluster),
                short_names: row.short_names.iter().map(|name| (*name).into()).collect(),
                categories: row.categories.iter().map(|name| (*name).into()).collect(),
                status: row.flags.contains(&Status),
                generation: row.flags.contains(&Generation),
                delete_collection: !row.flags.contains(&OneByOne),
                storage,
                custom: false,
            })
        })
        .collect()
}

/// A kind with the fewest particulars.
pub(crate) fn custom(group: &str, version: &str, plural: &str, kind: &str) -> Kind {
    Kind {
        group: group.into(),
        version: version.into(),
        plural: plural.into(),
        singular: kind.to_ascii_lowercase().into(),
        kind: kind.into(),
        list_kind: format!("{kind}List").into(),
        namespaced: false,
        short_names: Vec::new(),
        categories: Vec::new(),
        status: false,
        generation: true,
        delete_collection: true,
        storage: format!("{plural}.{group}").into(),
        custom: true,
    }
}
