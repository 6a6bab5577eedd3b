//! The kinds that are served, as a table: what their names are and what is particular to them. Never looks at an object.

use std::sync::Arc;

use serde_json::Value;

use crate::rules::Definition;
use crate::schema::{self, Type};

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
    /// Which rules its objects follow.
    pub(crate) what: What,
    /// What its objects look like.
    pub(crate) schema: Type,
}

/// Which rules objects follow.
#[derive(Clone, Debug)]
pub(crate) enum What {
    ConfigMap,
    Endpoints,
    Event,
    Namespace,
    Node,
    Pod,
    Secret,
    Service,
    Definition,
    Lease,
    EndpointSlice,
    IngressClass,
    Ingress,
    /// Those of a CustomResourceDefinition.
    Custom(Arc<Definition>),
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

    /// True for Events of the newer group, which are stored in the words of the older.
    pub(crate) fn is_new_event(&self) -> bool {
        matches!(self.what, What::Event) && !self.group.is_empty()
    }

    /// True for what a CustomResourceDefinition defines.
    pub(crate) fn is_custom(&self) -> bool {
        matches!(self.what, What::Custom(_))
    }

    /// True if an object can be replaced without saying which version of it.
    pub(crate) fn replaced_blindly(&self) -> bool {
        !matches!(self.what, What::Custom(_) | What::Lease | What::Definition)
    }

    /// True if replacing what is not there makes it.
    pub(crate) fn created_by_update(&self) -> bool {
        matches!(self.what, What::Lease | What::Event)
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
    what: What,
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
    what: What,
) -> Row {
    Row { group, plural, singular, kind, short_names, categories: &[], flags, what }
}

fn namespace_row() -> Row {
    row("", "namespaces", "namespace", "Namespace", &["ns"], &[Cluster, Status, OneByOne], What::Namespace)
}

/// The built-in kinds.
fn rows() -> Vec<Row> {
    let mut rows = vec![
        row("", "configmaps", "configmap", "ConfigMap", &["cm"], &[], What::ConfigMap),
        row("", "endpoints", "endpoints", "Endpoints", &["ep"], &[], What::Endpoints),
        row("", "events", "event", "Event", &["ev"], &[], What::Event),
        namespace_row(),
        row("", "nodes", "node", "Node", &["no"], &[Cluster, Status], What::Node),
        row("", "pods", "pod", "Pod", &["po"], &[Status, Generation], What::Pod),
        row("", "secrets", "secret", "Secret", &[], &[], What::Secret),
        row("", "services", "service", "Service", &["svc"], &[Status], What::Service),
        row(
            "apiextensions.k8s.io",
            "customresourcedefinitions",
            "customresourcedefinition",
            "CustomResourceDefinition",
            &["crd", "crds"],
            &[Cluster, Status, Generation],
            What::Definition,
        ),
        row("coordination.k8s.io", "leases", "lease", "Lease", &[], &[], What::Lease),
        row(
            "discovery.k8s.io",
            "endpointslices",
            "endpointslice",
            "EndpointSlice",
            &[],
            &[Generation],
            What::EndpointSlice,
        ),
        row("events.k8s.io", "events", "event", "Event", &["ev"], &[], What::Event),
        row(
            "networking.k8s.io",
            "ingressclasses",
            "ingressclass",
            "IngressClass",
            &[],
            &[Cluster, Generation],
            What::IngressClass,
        ),
        row(
            "networking.k8s.io",
            "ingresses",
            "ingress",
            "Ingress",
            &["ing"],
            &[Status, Generation],
            What::Ingress,
        ),
    ];
    for row in &mut rows {
        match row.what {
            What::Pod | What::Service => row.categories = &["all"],
            What::Definition => row.categories = &["api-extensions"],
            _ => {}
        }
    }
    rows
}

/// The built-in kinds, in the order of discovery.
pub(crate) fn built_in() -> Vec<Arc<Kind>> {
    rows().into_iter().map(made).collect()
}

/// The kind Namespace.
pub(crate) fn namespaces() -> Arc<Kind> {
    made(namespace_row())
}

fn made(row: Row) -> Arc<Kind> {
    let storage = match (row.group, row.plural) {
        // Both kinds of Event show the same objects.
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
        schema: schema::of_kind(row.group, row.kind),
        what: row.what,
    })
}

/// The kind of one version of a definition's objects.
pub(crate) fn custom(definition: &Value, version: &Value) -> Option<Kind> {
    let names = definition.pointer("/spec/names")?;
    let text = |value: &Value, field: &str| value.get(field).and_then(Value::as_str).map(Box::<str>::from);
    let list = |field: &str| {
        let list = names.get(field).and_then(Value::as_array).into_iter().flatten();
        list.filter_map(|name| name.as_str().map(Into::into)).collect()
    };
    let group = text(definition.get("spec")?, "group")?;
    let plural = text(names, "plural")?;
    let storage = format!("{plural}.{group}").into();
    let (rules, schema) = crate::rules::definition(version);
    Some(Kind {
        version: text(version, "name")?,
        singular: text(names, "singular")?,
        kind: text(names, "kind")?,
        list_kind: text(names, "listKind")?,
        namespaced: definition.pointer("/spec/scope")? == "Namespaced",
        short_names: list("shortNames"),
        categories: list("categories"),
        status: version.pointer("/subresources/status").is_some(),
        generation: true,
        delete_collection: true,
        group,
        plural,
        storage,
        what: What::Custom(Arc::new(rules)),
        schema,
    })
}
